"""For tests and demos: data sets of the project's own making, and what every converter has to keep to.

`write_rlbench_dataset`, `write_action_images_tree` and `write_recordings` write small, true data sets;
`ConverterContract` is a class of tests for converters, third parties' too. All are imported on first use; pytest only
for the contract.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "ConverterContract": ".contract",
    "write_action_images_tree": "..demo.rlbench",
    "write_recordings": "..demo.recordings",
    "write_rlbench_dataset": "..demo.rlbench",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])

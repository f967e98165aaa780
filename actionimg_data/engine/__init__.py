"""Whole data sets: plan and convert them, here or on other machines, verify and repair them.

Imported on first use: a worker process needs none of this.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .choice import make_executor
    from .conversion import Observer, Result, Totals, convert, finalize, plan
    from .derivation import Derived, derive, specification
    from .estimation import Estimate, estimate
    from .executor import Executor, Job
    from .restoration import Repaired, repair
    from .verification import Report, Tolerance, record, verify

_MODULES = {
    **dict.fromkeys(("Observer", "Result", "Totals", "convert", "finalize", "plan"), "conversion"),
    **dict.fromkeys(("Derived", "derive", "specification"), "derivation"),
    **dict.fromkeys(("Estimate", "estimate"), "estimation"),
    **dict.fromkeys(("Executor", "Job"), "executor"),
    "make_executor": "choice",
    **dict.fromkeys(("Repaired", "repair"), "restoration"),
    **dict.fromkeys(("Report", "Tolerance", "record", "verify"), "verification"),
}

__all__ = [
    "Derived",
    "Estimate",
    "Executor",
    "Job",
    "Observer",
    "Repaired",
    "Report",
    "Result",
    "Tolerance",
    "Totals",
    "convert",
    "derive",
    "estimate",
    "finalize",
    "make_executor",
    "plan",
    "record",
    "repair",
    "specification",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)

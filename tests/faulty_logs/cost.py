"""CPU time that the checks take of a conversion: ``python tests/faulty_logs/cost.py FORMAT SOURCE [MAPPING]``."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actionimg_data.converters.base import converter_class
from actionimg_data.engine import convert
from actionimg_data.plausibility import PictureWatch
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import prepare

SPENT = {"poses and stamps": 0.0, "pictures": 0.0}


def timed(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    def outer(*given: Any, **named: Any) -> Any:
        before = time.thread_time()
        try:
            return inner(*given, **named)
        finally:
            SPENT[name] += time.thread_time() - before

    return outer


def main(kind: str, source: str, mapping: str | None = None) -> None:
    """Convert a source twice, and print what the second time took."""
    PictureWatch.see = timed("pictures", PictureWatch.see)  # type: ignore[method-assign]
    PictureWatch.findings = timed("pictures", PictureWatch.findings)  # type: ignore[method-assign]
    prepare.examine = timed("poses and stamps", prepare.examine)
    cls = converter_class(kind)
    options = {} if mapping is None else {"mapping": mapping}
    for _ in range(2):
        SPENT.update(dict.fromkeys(SPENT, 0.0))
        with tempfile.TemporaryDirectory() as folder:
            before = time.process_time()
            convert(cls(cls.Options(**options)), source, Path(folder) / "out", ConvertOptions.parse(), num_workers=1)
            whole = time.process_time() - before
    parts = ", ".join(f"{name} {1e3 * spent:.0f} ms" for name, spent in SPENT.items())
    print(f"{100 * sum(SPENT.values()) / whole:.1f} % of {whole:.1f} s of CPU: {parts}")


if __name__ == "__main__":
    main(*sys.argv[1:])

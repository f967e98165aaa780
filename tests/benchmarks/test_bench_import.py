"""``import actionimg_data`` in a fresh interpreter, against an interpreter that imports nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any


def _seconds(code: str, repeat: int = 7) -> float:
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
        times.append(time.perf_counter() - started)
    return min(times)


def test_import_costs_under_300_ms(benchmark: Any) -> None:
    _seconds("import actionimg_data", 1)
    bare = _seconds("pass")
    package = _seconds("import actionimg_data")
    renderer = _seconds("import actionimg_data as aid; aid.render, aid.decode, aid.Camera")
    benchmark.extra_info.update(bare=bare, package=package, with_renderer=renderer)
    benchmark.pedantic(lambda: _seconds("import actionimg_data", 1), rounds=3)
    assert package - bare < 0.3
    print(f"bare {bare:.3f} s, import {package:.3f} s, with renderer and decoder {renderer:.3f} s")

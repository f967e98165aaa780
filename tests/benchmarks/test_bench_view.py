"""How long ``actionimg view`` takes to show the first screen of a million samples, and to filter and sort them.

pytest tests/benchmarks/test_bench_view.py -n 0 -o addopts= -q -s

By the clock, and in processor time of the server and of the browser together, which other programs do not change.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from pathlib import Path

import psutil
from browser import open_browser
from large_index import write_large_index
from synthetic_converter import SyntheticConverter, write_source

from actionimg_data import engine
from actionimg_data.schemas import ConvertOptions
from actionimg_data.viewer.serve import Server

ROWS = 1_000_000
FIRST_SCREEN_S = 1.0
CORES = 2
PICTURES = 12


def browsers() -> float:
    """Processor seconds of the browser's processes so far."""
    return sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children(recursive=True))


def test_first_screen_of_a_million_samples(tmp_path: Path) -> None:
    """From opening the data set to pictures in a browser; the limit is what two cores have in a second."""
    source = write_source(tmp_path / "src", episodes=4, frames=24)
    engine.convert(SyntheticConverter(), source, tmp_path / "small", ConvertOptions.parse(height=256, width=256))
    large = write_large_index(tmp_path / "small", tmp_path / "large", ROWS)
    print(f"\nindex.parquet: {(large / 'index.parquet').stat().st_size / 1e6:.0f} MB, {ROWS} rows")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    clock, processor = time.perf_counter(), time.process_time()
    server = Server(large, port=0)
    opened, opened_cpu = time.perf_counter() - clock, time.process_time() - processor
    with server.running(), open_browser(tmp_path, space=False) as page:
        page.look(1300, 900)
        page.wait("true")
        processor, others = time.process_time(), browsers()
        page.call("Page.navigate", url=server.url)
        page.wait(f"document.querySelectorAll('.pic.here').length >= {PICTURES}")
        own, theirs = time.process_time() - processor, browsers() - others
        # As the page's own clock has it.
        drawn = page.ask(
            "performance.getEntriesByType('resource').filter(e => e.name.includes('/thumb/'))"
            f".map(e => e.responseEnd).sort((a, b) => a - b)[{PICTURES - 1}] / 1000"
        )
        print(f"opened in {opened:.2f} s by the clock, {opened_cpu:.2f} s of a core")
        print(f"then {PICTURES} pictures after {drawn:.2f} s by the clock; server {own:.2f} s, browser {theirs:.2f} s")
        used = opened_cpu + own + theirs
        print(f"first screen: {opened + drawn:.2f} s by the clock, {used:.2f} s of processors")
        for name, path in (
            ("counts for the form", "api/facets"),
            ("again", "api/facets"),
            ("search of one word", "api/rows?q=kettle"),
            ("of another", "api/rows?q=drawer"),
            ("task and length", "api/rows?task=task_001&frames_min=100"),
            ("sorted by decode error", "api/rows?sort=decode_position_p95_mm&desc=1"),
            ("rows far down", "api/rows?start=900000&count=120"),
        ):
            clock, processor = time.perf_counter(), time.process_time()
            with urllib.request.urlopen(server.url + path) as answer:
                total = json.load(answer).get("total", "")
            seconds, cpu = time.perf_counter() - clock, time.process_time() - processor
            print(f"{name}: {seconds:.2f} s by the clock, {cpu:.2f} s of a core {total}")
    assert used < CORES * FIRST_SCREEN_S

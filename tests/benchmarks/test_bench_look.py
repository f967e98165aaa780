"""Processor time of looking: reports, inspect, overlay videos, recordings for rerun.

pytest tests/benchmarks/test_bench_look.py -n 0 --benchmark-enable -o addopts= -o timeout=0 -q -s

Times are processor time of one core (other programs may use the machine), the smallest of the runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from training_data import make_dataset

from actionimg_data import engine
from actionimg_data.cli import main
from actionimg_data.converters.base import converter_class
from actionimg_data.export import export
from actionimg_data.report.html import write_report
from actionimg_data.schemas import ConvertOptions
from actionimg_data.testing import write_rlbench_dataset

SIZE, FRAMES, EPISODES = 256, 60, 2


def least(run: Callable[[], Any], times: int = 2) -> float:
    """The smallest processor time of some runs, in seconds."""
    best = float("inf")
    for _ in range(times):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return best


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rlbench_dataset(tmp_path_factory.mktemp("look") / "demos", EPISODES, FRAMES, SIZE)


@pytest.fixture(scope="module")
def dataset(demos: Path) -> Path:
    out = demos.parent / "shards"
    options = ConvertOptions.parse(height=SIZE, width=SIZE)
    engine.convert(converter_class("rlbench")(), str(demos), out, options, num_workers=1)
    return out


def test_a_report(dataset: Path, tmp_path: Path) -> None:
    seconds = least(lambda: write_report(dataset, tmp_path / "r.html"))
    size = (tmp_path / "r.html").stat().st_size
    print(f"\nreport, {EPISODES} samples of {FRAMES} x 5 views x {SIZE}²: {seconds:.1f} s, {size / 1e6:.2f} MB")


def test_a_report_of_many_samples(tmp_path: Path) -> None:
    """Short samples: what grows with their number, and with the number that is shown."""
    out, _ = make_dataset(tmp_path, [8] * 400, views=("front", "side"), size=128)
    for shown in (6, 40):
        seconds = least(lambda shown=shown: write_report(out, tmp_path / "r.html", samples=shown))
        size = (tmp_path / "r.html").stat().st_size
        print(f"\nreport, 400 samples of 8 x 2 views x 128², {shown} shown: {seconds:.1f} s, {size / 1e6:.2f} MB")
        assert size < 15e6


def test_inspect(demos: Path, dataset: Path) -> None:
    for name, path in (("source", demos), ("data set", dataset), ("shard", next(dataset.glob("train/*.tar")))):
        seconds = least(lambda path=path: CliRunner().invoke(main, ["inspect", str(path)]), 4)
        print(f"\ninspect, {name}: {1000 * seconds:.0f} ms")


def test_overlay_videos(dataset: Path, tmp_path: Path) -> None:
    for name, flags in (("RGB | action | both", []), ("overlay alone", ["--overlay"]), ("compare", ["--compare"])):
        words = ["render", str(dataset), "--views", "front", "--size", str(SIZE), "--out", str(tmp_path), *flags]
        seconds = least(lambda words=words: CliRunner().invoke(main, words))
        print(f"\nrender, one view of {FRAMES} x {SIZE}², {name}: {seconds:.2f} s")


def test_a_rerun_recording(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    for pictures in ("video", "jpeg"):
        target = tmp_path / f"{pictures}.rrd"

        def run(target: Path = target, pictures: str = pictures) -> None:
            target.unlink(missing_ok=True)
            export("rerun", dataset, target, pictures=pictures)

        seconds = least(run)
        print(f"\nexport rerun, {EPISODES} samples, {pictures}: {seconds:.2f} s, {target.stat().st_size / 1e6:.2f} MB")

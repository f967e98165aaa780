"""Speed of reading RLBench demos: the pickle reader against pickle's own Python machine, and pictures against cv2.

Run: pytest tests/benchmarks/test_bench_rlbench_read.py -n 0 --benchmark-enable -o addopts= -s
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.converters.rlbench_tree import DEMO_CLASSES
from actionimg_data.testing import write_rlbench_dataset
from actionimg_data.untrusted import pickles as _safe_pickle


def interleaved(*calls: Callable[[], object], repeats: int = 9) -> list[float]:
    """Seconds of the fastest of some runs of each call, taken in turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, seconds in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return [min(seconds) for seconds in times]


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_rlbench_dataset(tmp_path_factory.mktemp("bench"), 1, 120, 128)
    return root / "place_cube/all_variations/episodes/episode0"


def test_the_pickle_reader_is_no_slower_than_pickles_python_machine(benchmark, episode: Path) -> None:  # type: ignore[no-untyped-def]
    class Anything:
        pass

    class Trusting(pickle._Unpickler):  # type: ignore[misc, name-defined]
        def find_class(self, module: str, name: str) -> Any:
            return Anything if module.startswith("rlbench") else super().find_class(module, name)

    file = episode / "low_dim_obs.pkl"

    def trusting() -> object:
        with open(file, "rb") as stream:
            return Trusting(stream).load()

    ours, theirs = interleaved(lambda: _safe_pickle.load(file, records=DEMO_CLASSES), trusting)
    benchmark.extra_info.update(file_kb=file.stat().st_size / 1e3, ours_ms=ours * 1e3, python_pickle_ms=theirs * 1e3)
    benchmark(lambda: _safe_pickle.load(file, records=DEMO_CLASSES))
    print(f"\n{file.stat().st_size / 1e3:.0f} kB: {ours * 1e3:.1f} ms, pickle._Unpickler {theirs * 1e3:.1f} ms")
    assert ours < theirs


def test_pictures_cost_little_more_than_opencv_alone(benchmark, episode: Path) -> None:  # type: ignore[no-untyped-def]
    converter = RLBenchConverter()
    frames = converter.read(next(converter.discover(str(episode)))).views["front"].frames
    paths = [str(episode / f"front_rgb/{i}.png") for i in range(len(frames))]

    def plain() -> None:
        for path in paths:
            with open(path, "rb") as stream:
                picture = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_COLOR)
            cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)

    def ours() -> None:
        for _ in frames.frames(range(len(frames))):
            pass

    us, base = interleaved(ours, plain)
    benchmark.extra_info.update(ours_ms=us * 1e3, plain_ms=base * 1e3, ratio=us / base)
    benchmark(ours)
    print(f"\n{len(frames)} pictures: {us * 1e3:.1f} ms, cv2 alone {base * 1e3:.1f} ms, ratio {us / base:.2f}")
    assert us < 1.4 * base

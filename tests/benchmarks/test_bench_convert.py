"""Conversion of real RLBench demos against a plain loop, two workers against one, and memory against episodes.

pytest tests/benchmarks/test_bench_convert.py -n 0 --benchmark-enable --benchmark-only -o addopts="" -s
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

import actionimg_data as aid
from actionimg_data import engine
from actionimg_data.converters.base import converter_class
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import open_dataset

SIZE = 512
TESTS = Path(__file__).resolve().parents[1]


def encode(path: Path, frames: Any, options: dict[str, str], pixel_format: str) -> None:
    """What anyone would write with PyAV, with the encoder settings of the converter."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = 250
        stream.codec_context.options = {"crf": "18", **options}
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format=pixel_format)))
        container.mux(stream.encode(None))


def plain_loop(episodes: list[tuple[Path, list[str]]], drawn: dict[tuple[int, str], np.ndarray], out: Path) -> None:
    """Read the PNGs, resize them with cv2, encode them; encode action images that were drawn before."""
    for number, (folder, views) in enumerate(episodes):
        for view in views:
            names = sorted((folder / f"{view}_rgb").glob("*.png"), key=lambda p: int(p.stem))
            pictures = (cv2.resize(cv2.imread(str(p)), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) for p in names)
            encode(out / f"{number}.{view}.rgb.mp4", pictures, {"preset": "veryfast"}, "bgr24")
            action = drawn[number, view]
            encode(out / f"{number}.{view}.action.mp4", action, {"preset": "fast", "bf": "0"}, "rgb24")


def convert(source: str, out: Path, workers: int) -> None:
    shutil.rmtree(out, ignore_errors=True)
    options = ConvertOptions.parse(height=SIZE, width=SIZE)
    engine.convert(converter_class("rlbench")(), source, out, options, num_workers=workers)


def timed(function: Any) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


@pytest.mark.realdata
def test_converting_real_demos(benchmark: Any, tmp_path: Path, sample_data: Path) -> None:
    source = str(sample_data / "rlbench")
    convert(source, tmp_path / "one", 1)
    dataset = open_dataset(tmp_path / "one")
    drawn, episodes = {}, []
    for number, sample in enumerate(dataset):
        task, *rest = sample.meta.episode.split("/")
        folder = next(p for p in (sample_data / "rlbench" / task).rglob(rest[-1]) if p.is_dir())
        episodes.append((folder, list(sample.views)))
        for view in sample.views:
            drawn[number, view] = np.asarray(aid.render(sample.trajectory, [sample.cameras[view]], dataset.spec)[0])
    plain = tmp_path / "plain"
    plain.mkdir()
    rounds = [
        {
            "plain": timed(lambda: plain_loop(episodes, drawn, plain)),
            "one": timed(lambda: convert(source, tmp_path / "one", 1)),
            "two": timed(lambda: convert(source, tmp_path / "two", 2)),
        }
        for _ in range(2)
    ]
    benchmark.pedantic(lambda: convert(source, tmp_path / "one", 1), rounds=1)
    best = {name: min(r[name][0] for r in rounds) for name in rounds[0]}
    cpu = {name: min(r[name][1] for r in rounds) for name in ("plain", "one")}
    size = {name: sum(p.stat().st_size for p in (tmp_path / name).rglob("*.*")) for name in ("plain", "one")}
    print(f"\nplain loop {best['plain']:.2f} s, one worker {best['one']:.2f} s, two workers {best['two']:.2f} s")
    print(f"one worker / plain loop: {best['one'] / best['plain']:.2f} (CPU {cpu['one'] / cpu['plain']:.2f})")
    print(f"one worker / two workers: {best['one'] / best['two']:.2f}; bytes {size}")
    for a, b in zip(sorted((tmp_path / "one").rglob("*.tar")), sorted((tmp_path / "two").rglob("*.tar")), strict=True):
        assert a.read_bytes() == b.read_bytes()
    assert cpu["one"] / cpu["plain"] <= 1.25


@pytest.mark.realdata
def test_two_workers_over_half_a_minute(benchmark: Any, tmp_path: Path, sample_data: Path) -> None:
    """The same demos, six times over as further episodes."""
    for variation in sorted((sample_data / "rlbench").glob("*/*/episodes")):
        for episode in variation.iterdir():
            for copy in range(6):
                name = f"episode{int(episode.name.removeprefix('episode')) + 100 * copy}"
                shutil.copytree(episode, tmp_path / "demos" / variation.relative_to(sample_data / "rlbench") / name)
    source = str(tmp_path / "demos")
    rounds = [
        {n: timed(lambda n=n: convert(source, tmp_path / str(n), n))[0] for n in order} for order in ((1, 2), (2, 1))
    ]
    benchmark.pedantic(lambda: None, rounds=1)
    one, two = (min(r[n] for r in rounds) for n in (1, 2))
    print(f"\none worker {one:.1f} s, two workers {two:.1f} s: {one / two:.2f}; ", [str(r) for r in rounds])
    for a, b in zip(sorted((tmp_path / "1").rglob("*.tar")), sorted((tmp_path / "2").rglob("*.tar")), strict=True):
        assert a.read_bytes() == b.read_bytes()
    assert one / two >= 1.7


SCRIPT = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from synthetic_converter import SyntheticConverter, write_source
from pathlib import Path
from actionimg_data import engine
from actionimg_data.schemas import ConvertOptions
src = write_source(Path(sys.argv[2]) / "src", episodes=int(sys.argv[3]), frames=int(sys.argv[4]))
options = ConvertOptions.parse(height=256, width=256, episodes_per_shard=4)
engine.convert(SyntheticConverter(), src, Path(sys.argv[2]) / "out", options)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(folder: Path, episodes: int, frames: int) -> float:
    """Peak resident memory in MB of a process that converts generated episodes."""
    folder.mkdir()
    command = [sys.executable, "-c", SCRIPT, str(TESTS), str(folder), str(episodes), str(frames)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


def test_peak_memory_does_not_grow_with_the_number_or_the_length_of_episodes(benchmark: Any, tmp_path: Path) -> None:
    few = benchmark.pedantic(lambda: peak(tmp_path / "few", 4, 40), rounds=1)
    many, long = peak(tmp_path / "many", 48, 40), peak(tmp_path / "long", 4, 480)
    print(
        f"\npeak memory: 4 episodes of 40 frames {few:.0f} MB, 48 of them {many:.0f} MB, 4 of 480 frames {long:.0f} MB"
    )
    assert many < few * 1.1
    assert long < few * 1.3

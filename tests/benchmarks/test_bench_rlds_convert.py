"""RLDS into shards: planning many records, converting against a plain loop, memory against the length of episodes.

pytest tests/benchmarks/test_bench_rlds_convert.py -n 0 --benchmark-enable --benchmark-only -o addopts="" -s
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

from actionimg_data import engine
from actionimg_data.converters.rlds import RLDSConverter, RLDSOptions, open_rlds, wire
from actionimg_data.demo import rlds as w
from actionimg_data.model import Camera
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import open_dataset

pytestmark = pytest.mark.timeout(1200)
VIEWS = ("exterior_image_1_left", "exterior_image_2_left")
SIZE, EPISODES, STEPS, SIDE = 512, 6, 60, 256
RECORDS, FILES = 61_440, 60


def episode(seed: int, steps: int, side: int, views: tuple[str, ...]) -> dict[str, Any]:
    """A DROID-shaped episode with pictures that compress about as camera pictures do."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    base = np.stack([120 + 70 * np.sin(x / 23 + c) * np.cos(y / 17 - c) for c in range(3)], -1)
    pictures: list[NDArray[np.uint8]] = []
    for t in range(min(steps, STEPS)):
        picture = np.clip(base + rng.normal(0, 0.7, base.shape), 0, 255).astype(np.uint8)
        left = (20 + 3 * t) % (side // 2)
        cv2.rectangle(picture, (left, side // 4), (left + side // 4, side // 2), (200, 60, 30), -1)
        pictures.append(picture)
    turn = np.arange(steps) / 40
    position = np.stack([0.45 + 0.05 * np.sin(turn), 0.1 * np.cos(turn), np.full(steps, 0.3)], axis=1)
    observation = {
        "cartesian_position": np.concatenate([position, np.tile([3.0, 0.1, 0.2], (steps, 1))], axis=1),
        "gripper_position": (np.arange(steps) % 60 / 60)[:, None],
        **{view: [pictures[t % len(pictures)] for t in range(steps)] for view in views},
    }
    values = {"observation": observation, "language_instruction": ["do it"] * steps, **w.flags(steps)}
    return {"steps": values, "episode_metadata": {"file_path": f"x/{seed}"}}


def write(root: Path, episodes: list[dict[str, Any]], side: int, views: tuple[str, ...]) -> Path:
    numbers = {"cartesian_position": w.tensor((6,), "float64"), "gripper_position": w.tensor((1,), "float64")}
    images = {view: w.image((side, side, 3)) for view in views}
    step = {"observation": {**numbers, **images}, "language_instruction": w.text()}
    node = w.episode_features(step, episode_metadata={"file_path": w.text()})
    return w.write_rlds(root, "droid", node, {"train": episodes})


def converter(root: Path, side: int, views: tuple[str, ...]) -> RLDSConverter:
    cameras = {}
    for view, eye in zip(views, ((1.2, 0.6, 0.7), (1.1, -0.7, 0.6)), strict=False):
        camera = Camera.looking_at(eye, (0.45, 0.0, 0.2), side, side, vertical_fov_deg=60)
        pose = camera.world_from_camera.tolist()
        cameras[view] = {"K": camera.K.tolist(), "width": side, "height": side, "world_from_camera": pose}
    file = root / "cameras.json"
    file.write_text(json.dumps({"cameras": cameras}))
    return RLDSConverter(RLDSOptions(camera_file=file, only_views=views))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIONIMG_CACHE_DIR", str(tmp_path / "cache"))


def encode(path: Path, frames: Iterable[NDArray[np.uint8]], options: dict[str, str]) -> None:
    """What anyone would write with PyAV, with the encoder settings of the converter."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=15)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = 250
        stream.codec_context.options = {"crf": "18", **options}
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def stored_pictures(folder: Path) -> list[dict[str, list[bytes]]]:
    data, found = open_rlds(folder), []
    for place in data.places():
        (example,) = data.record(place).examples
        spans = {v: wire.bytes_spans(example.data, example.columns[f"steps/observation/{v}"]) for v in VIEWS}
        found.append({v: [example.data[a:b] for a, b in own] for v, own in spans.items()})
    return found


def plain_loop(
    episodes: list[dict[str, list[bytes]]], drawn: dict[tuple[int, str], NDArray[np.uint8]] | None, out: Path
) -> None:
    """Decode, resize and encode the pictures; encode action images that were drawn before."""
    for number, views in enumerate(episodes):
        for view, bodies in views.items():
            decoded = (simplejpeg.decode_jpeg(body, "RGB", fastdct=True) for body in bodies)
            pictures = (cv2.resize(p, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) for p in decoded)
            encode(out / f"{number}.{view}.rgb.mp4", pictures, {"preset": "veryfast"})
            if drawn is not None:
                encode(out / f"{number}.{view}.action.mp4", drawn[number, view], {"preset": "fast", "bf": "0"})


def cpu(function: Any) -> float:
    begun = time.process_time()
    function()
    return time.process_time() - begun


def test_converting_against_a_plain_loop(benchmark: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [episode(n, STEPS, SIDE, VIEWS) for n in range(EPISODES)], SIDE, VIEWS)
    reader, out = converter(tmp_path, SIDE, VIEWS), tmp_path / "out"

    def convert(codec: str) -> None:
        shutil.rmtree(out, ignore_errors=True)
        options = ConvertOptions.parse(height=SIZE, width=SIZE, views=VIEWS, action_codec=codec)
        engine.convert(reader, str(folder), out, options)

    benchmark.pedantic(lambda: convert("h264"), rounds=1)
    drawn = {(n, view): sample.action(view) for n, sample in enumerate(open_dataset(out)) for view in VIEWS}
    bodies, plain = stored_pictures(folder), tmp_path / "plain"
    plain.mkdir()
    # In turns, and in processor time: a busy machine slows the clock on the wall at random.
    rounds = [
        {
            "plain": cpu(lambda: plain_loop(bodies, drawn, plain)),
            "ours": cpu(lambda: convert("h264")),
            "plain rgb": cpu(lambda: plain_loop(bodies, None, plain)),
            "ours rgb": cpu(lambda: convert("none")),
        }
        for _ in range(3)
    ]
    best = {name: min(r[name] for r in rounds) for name in rounds[0]}
    both, rgb = best["ours"] / best["plain"], best["ours rgb"] / best["plain rgb"]
    frames = EPISODES * STEPS * len(VIEWS)
    print(
        f"\n{frames} pictures at {SIZE}: plain {best['plain']:.2f} s CPU, converted {best['ours']:.2f} s: {both:.2f} ×"
    )
    print(f"without action videos {best['plain rgb']:.2f} s and {best['ours rgb']:.2f} s: {rgb:.2f} ×")
    print(f"load {os.getloadavg()[0]:.1f}")
    assert both <= 1.25
    assert rgb <= 1.25


def test_planning_many_records(benchmark: Any, tmp_path: Path) -> None:
    one = VIEWS[:1]
    folder = write(tmp_path / "data", [episode(0, 3, 16, one)], 16, one)
    (file,) = folder.glob("*.tfrecord*")
    body = file.read_bytes()
    file.unlink()
    for number in range(FILES):
        (folder / f"droid-train.tfrecord-{number:05d}-of-{FILES:05d}").write_bytes(body * (RECORDS // FILES))
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = [str(RECORDS // FILES)] * FILES
    (folder / "dataset_info.json").write_text(json.dumps(info))
    options = ConvertOptions.parse(height=64, width=64, views=one)

    def plan() -> None:
        assert engine.plan(converter(tmp_path, 16, one), str(folder), options).episodes == RECORDS

    first = cpu(plan)
    again = min(cpu(plan) for _ in range(2))
    benchmark.pedantic(plan, rounds=1)
    print(f"\n{RECORDS} records in {FILES} files: {first:.2f} s CPU, {again:.2f} s with the index")
    print(f"load {os.getloadavg()[0]:.1f}")
    assert first <= 2.0


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_bench_rlds_convert import VIEWS, converter, engine, ConvertOptions
def status(key):
    return next(int(l.split()[1]) / 1024 for l in open("/proc/self/status") if l.startswith(key))
begun, root = status("VmRSS"), Path(sys.argv[2])
options = ConvertOptions.parse(height=96, width=96, views=VIEWS[:1])
engine.convert(converter(root, 96, VIEWS[:1]), str(root / "data"), root / "out", options)
print(status("VmHWM") - begun)
"""


def peak(root: Path, steps: int) -> tuple[float, float]:
    """MB of a record, and of what converting two of them takes beyond imports."""
    folder = write(root / "data", [episode(n, steps, 96, VIEWS[:1]) for n in range(2)], 96, VIEWS[:1])
    record = sum(p.stat().st_size for p in folder.glob("*.tfrecord*")) / 2e6
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(root)]
    return record, float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_peak_memory_is_that_of_one_record(benchmark: Any, tmp_path: Path) -> None:
    short, few = benchmark.pedantic(lambda: peak(tmp_path / "short", 500), rounds=1)
    long, many = peak(tmp_path / "long", 5000)
    print(f"\nepisodes of 500 steps ({short:.1f} MB a record) {few:.0f} MB, of 5000 ({long:.1f} MB) {many:.0f} MB")
    assert many - few <= (long - short) + 30

"""Conversion of labs' formats against a plain loop over the same pictures: read as others do, resize, encode.

pytest tests/benchmarks/test_bench_labs.py -n 0 --benchmark-enable --benchmark-only -o addopts="" -s
"""

from __future__ import annotations

import json
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import h5py
import numpy as np
import pytest
from lab_logs import renamed_cameras, write_bridge_raw, write_calvin, write_gello, write_isaaclab

import actionimg_data as aid
from actionimg_data import engine
from actionimg_data.converters.base import Converter, converter_class
from actionimg_data.demo.recordings import TeleopLog, make_log
from actionimg_data.demo.rlbench import write_action_images_tree
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import open_dataset

SIZE, FRAMES, EPISODES = 512, 40, 2
VIEWS = ("front", "overhead")
Pictures = Callable[[int, str], Iterator[np.ndarray]]


def write(kind: str, place: Path) -> tuple[Path, Converter, Pictures]:
    """A source, its converter, and what anyone would write to get a view's RGB pictures of its n-th episode."""
    sizes = {"bridge-raw": 480, "gello": 480, "calvin": 200, "isaaclab": 200, "action-images": 256}
    source = place / "src"
    if kind == "action-images":
        write_action_images_tree(source, EPISODES, 4 * FRAMES, 256, views=VIEWS)
        folders = sorted(source.rglob("episode0"))
        return source, converter_class(kind)(), lambda n, view: decoded(folders[n] / view / "rgb" / "video.mp4")
    logs = [make_log(FRAMES, sizes[kind], seed, VIEWS) for seed in range(EPISODES)]
    options, names, pictures = KINDS[kind](logs, source)
    if names:
        (place / "cameras.json").write_text(json.dumps(renamed_cameras(logs[0], names)))
        options["camera_file"] = str(place / "cameras.json")
    cls = converter_class(kind)
    return source, cls(cls.Options(**options)), pictures


Written = tuple[dict[str, Any], dict[str, str], Pictures]


def bridge_raw(logs: list[TeleopLog], source: Path) -> Written:
    folders = [write_bridge_raw(log, source, n) for n, log in enumerate(logs)]

    def pictures(n: int, view: str) -> Iterator[np.ndarray]:
        for i in range(FRAMES):
            path = folders[n] / view.replace("image_", "images") / f"im_{i}.jpg"
            yield cv2.imread(str(path))[..., ::-1]

    return {}, {"front": "image_0", "overhead": "image_1"}, pictures


def calvin(logs: list[TeleopLog], source: Path) -> Written:
    write_calvin(logs, source, {"front": "static", "overhead": "overhead"}, start=0)
    starts = sorted(np.load(source / "ep_start_end_ids.npy")[:, 0])

    def pictures(n: int, view: str) -> Iterator[np.ndarray]:
        for i in range(1, FRAMES):
            with np.load(source / f"episode_{starts[n] + i:07d}.npz") as step:
                yield step[f"rgb_{view}"]

    return {}, {}, pictures


def gello(logs: list[TeleopLog], source: Path) -> Written:
    folders = [write_gello(log, source / f"0131_12000{n}") for n, log in enumerate(logs)]

    def pictures(n: int, view: str) -> Iterator[np.ndarray]:
        for path in sorted(folders[n].iterdir(), key=lambda p: p.stem):
            yield pickle.loads(path.read_bytes())[f"{view}_rgb"]

    given = {"gripper": "1 0", "quaternion": "xyzw", "instruction": "x", "fps": 20}
    given["tool_from_gripper"] = json.dumps(logs[0].tool_from_gripper)
    return given, {name: name for name in VIEWS}, pictures


def isaaclab(logs: list[TeleopLog], source: Path) -> Written:
    names = {"front": "table_cam", "overhead": "high_cam"}
    path = write_isaaclab(logs, source / "a.hdf5", names)

    def pictures(n: int, view: str) -> Iterator[np.ndarray]:
        with h5py.File(path) as file:
            yield from file[f"data/demo_{n}/obs/{view}"]

    return {"instruction": "x"}, names, pictures


def decoded(path: Path) -> Iterator[np.ndarray]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


KINDS = {"bridge-raw": bridge_raw, "calvin": calvin, "gello": gello, "isaaclab": isaaclab}


def encode(path: Path, pictures: Any, options: dict[str, str]) -> None:
    """What anyone would write with PyAV, with the encoder settings of the converter."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = 250
        stream.codec_context.options = {"crf": "18", "x264-params": "cpu-independent=1", **options}
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def resize(picture: np.ndarray) -> np.ndarray:
    """Without aliasing."""
    method = cv2.INTER_AREA if len(picture) > SIZE else cv2.INTER_LINEAR
    return picture if len(picture) == SIZE else cv2.resize(picture, (SIZE, SIZE), interpolation=method)


def cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


@pytest.mark.parametrize("kind", [*KINDS, "action-images"])
def test_converting_against_a_plain_loop(benchmark: Any, kind: str, tmp_path: Path) -> None:
    source, converter, pictures = write(kind, tmp_path)
    options = ConvertOptions.parse(height=SIZE, width=SIZE)

    def convert() -> None:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        engine.convert(converter, str(source), tmp_path / "out", options, num_workers=1, check_space=False)

    convert()
    dataset = open_dataset(tmp_path / "out")
    drawn = {
        (n, view): np.asarray(aid.render(sample.trajectory, [sample.cameras[view]], dataset.spec)[0])
        for n, sample in enumerate(dataset)
        for view in sample.views
    }
    (tmp_path / "plain").mkdir()

    def plain() -> None:
        for (n, view), action in drawn.items():
            resized = (resize(picture) for picture in pictures(n, view))
            encode(tmp_path / "plain" / f"{n}.{view}.rgb.mp4", resized, {"preset": "veryfast"})
            encode(tmp_path / "plain" / f"{n}.{view}.action.mp4", action, {"preset": "fast", "bf": "0"})

    rounds = [(cpu_seconds(plain), cpu_seconds(convert)) for _ in range(3)]
    benchmark.pedantic(lambda: None, rounds=1)
    bare, ours = (min(column) for column in zip(*rounds, strict=True))
    print(f"\n{kind}: plain loop {bare:.2f} s, convert {ours:.2f} s of CPU time: {ours / bare:.2f}")
    assert ours / bare <= 1.25

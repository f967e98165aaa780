"""A small recording whose pictures carry their own number, and what a fault changes in it.

The gripper moves along a known path, so that the number in a picture says where the gripper was when it was taken: a
wrong pairing of pictures and poses, a wrong unit or a wrong clock is measured in millimetres, whatever its cause.
"""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import h5py
import numpy as np
import yaml
from numbered import number, picture

FPS, COUNT, SIZE, EPOCH = 20, 40, 64, 1_700_000_000
K = [[75.0, 0, 31.5], [0, 75.0, 31.5], [0, 0, 1]]
# A metre above the table, looking down: x right is the world's x, y down its -y.
CAMERA = np.array([[1, 0, 0, 0.40], [0, -1, 0, 0.0], [0, 0, -1, 1.2], [0, 0, 0, 1.0]])
SIDE = np.array([[1, 0, 0, 0.35], [0, 0, -1, 0.9], [0, 1, 0, 0.25], [0, 0, 0, 1.0]]) @ np.diag([1, -1, 1, 1.0])
SIDE[:3, :3] = np.array([[1, 0, 0], [0, 0, -1], [0, -1, 0]])[:, [0, 1, 2]] @ np.diag([1, 1, 1])
DOWN = (1.0, 0.0, 0.0, 0.0)


def place(t: Any) -> np.ndarray:
    """Where the gripper is at ``t`` seconds: ``(..., 3)`` metres."""
    t = np.asarray(t, float)
    return np.stack([0.3 + 0.1 * t, 0.06 * np.sin(2.0 * t), 0.2 + 0.02 * np.sin(3.0 * t)], -1)


@dataclass
class Log:
    """A recording that is sound until something is changed in it."""

    frame_times: np.ndarray = field(default_factory=lambda: np.arange(COUNT) / FPS)
    numbers: Sequence[int] = field(default_factory=lambda: list(range(COUNT)))
    draw: Callable[[int], np.ndarray] = lambda n: picture(n, SIZE)
    times: np.ndarray = field(default_factory=lambda: np.arange(-5, 205) / 100)
    position: np.ndarray = field(default_factory=lambda: place(np.arange(-5, 205) / 100))
    rotation: np.ndarray = field(default_factory=lambda: np.tile(DOWN, (210, 1)))
    camera: np.ndarray = field(default_factory=lambda: CAMERA)
    stamp: Callable[[float], object] = repr
    frame_stamp: Callable[[float], object] = repr

    def pictures(self) -> list[np.ndarray]:
        return [self.draw(n) for n in self.numbers]


@cache
def _encoded(numbers: tuple[int, ...], rate: float, stamps_ms: tuple[int, ...] | None, turn: int) -> bytes:
    """A video of numbered pictures; made once for all the logs that need it."""
    import io

    body = io.BytesIO()
    _write(body, [np.rot90(picture(n, SIZE), turn) for n in numbers], rate, stamps_ms)
    return body.getvalue()


def _write(target: Any, pictures: Sequence[np.ndarray], rate: float, stamps_ms: Sequence[int] | None) -> None:
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001), options={"crf": "10"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        if stamps_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, drawn in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(drawn), format="rgb24")
            if stamps_ms is not None:
                frame.pts, frame.time_base = int(stamps_ms[i]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_video(
    path: Path, log: Log, rate: float = FPS, stamps_ms: Sequence[int] | None = None, stored: int = 0, shown: int = 0
) -> None:
    """The log's pictures as a video.

    Args:
        path: Where to.
        log: The log.
        rate: That the container states.
        stamps_ms: Stamps in place of a constant rate.
        stored: Degrees counter-clockwise by which pictures are turned before they are stored.
        shown: Degrees clockwise by which the file says that they are to be shown.
    """
    if log.draw is Log.draw or log.draw.__code__ is Log().draw.__code__:
        stamps = None if stamps_ms is None else tuple(map(int, stamps_ms))
        data = bytearray(_encoded(tuple(log.numbers), rate, stamps, stored // 90))
    else:
        import io

        body = io.BytesIO()
        _write(body, log.pictures(), rate, stamps_ms)
        data = bytearray(body.getvalue())
    if shown:
        one = 1 << 16
        matrix = {90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0)}[shown]
        at = data.find(b"tkhd") + 8 + 20 + 16
        data[at : at + 36] = struct.pack(">9i", matrix[0], matrix[1], 0, matrix[2], matrix[3], 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))


def write_pictures(folder: Path, log: Log, name: Callable[[int], str], suffix: str = ".png") -> None:
    """The log's pictures as files; ``name`` gives a file's name by its number."""
    folder.mkdir(parents=True)
    for i, drawn in enumerate(log.pictures()):
        cv2.imwrite(str(folder / f"{name(i)}{suffix}"), drawn[..., ::-1])


def write_hdf5(path: Path, pictures: Sequence[np.ndarray] | None) -> None:
    """Pictures in a data set ``img``; None: one that was made and never written."""
    with h5py.File(path, "w") as file:
        if pictures is None:
            file.create_dataset("img", shape=(COUNT, SIZE, SIZE, 3), dtype="u1", chunks=(1, SIZE, SIZE, 3))
        else:
            file.create_dataset("img", data=np.stack(pictures))


def write_tables(folder: Path, log: Log) -> None:
    """``poses.csv``, ``frames.csv`` and ``cameras.json``."""
    with open(folder / "poses.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["t", "x", "y", "z", *(["qx", "qy", "qz", "qw"][: log.rotation.shape[1]]), "w"])
        for t, p, q in zip(log.times, log.position, log.rotation, strict=True):
            rows.writerow([log.stamp(float(t)), *map(repr, map(float, p)), *map(repr, map(float, q)), "0.04"])
    lines = ["t", *(str(log.frame_stamp(float(t))) for t in log.frame_times)]
    (folder / "frames.csv").write_text("\n".join(lines) + "\n")
    camera = {"K": K, "width": SIZE, "height": SIZE, "world_from_camera": log.camera.tolist()}
    (folder / "cameras.json").write_text(json.dumps({"cameras": {"front": camera}}))


def mapping(**changes: Any) -> dict[str, Any]:
    """The mapping of a sound log; ``changes`` are put in by path, e.g. ``views__front__flip="both"``."""
    value: dict[str, Any] = {
        "version": 1,
        "format": "folder",
        "instruction": {"text": "push the block"},
        "pose": {
            "file": "poses.csv",
            "time": {"column": "t", "unit": "s"},
            "position": {"columns": ["x", "y", "z"], "unit": "m"},
            "rotation": {"columns": ["qx", "qy", "qz", "qw"], "form": "quaternion", "order": "xyzw"},
            "tool_from_gripper": {},
        },
        "gripper": {"columns": ["w"], "closed": 0.0, "open": 0.08, "kind": "measured"},
        "views": {
            "front": {
                "frames": "front.mp4",
                "time": {"file": "frames.csv", "column": "t", "unit": "s"},
                "camera": {"file": "cameras.json"},
            }
        },
    }
    for path, new in changes.items():
        *above, last = path.split("__")
        inner = value
        for key in above:
            inner = inner[key]
        if new is None:
            inner.pop(last)
        else:
            inner[last] = new
    return value


def write_log(folder: Path, log: Log | None = None, video: bool = True) -> Log:
    """A whole recording in ``folder``."""
    log = log or Log()
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(folder, log)
    if video:
        write_video(folder / "front.mp4", log)
    return log


def write_yaml(path: Path, value: Any) -> Path:
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


def pairing_mm(sample: Any, view: str = "front") -> np.ndarray:
    """By how many millimetres each stored pose is from where the number in the picture beside it says."""
    numbers = np.array([number(p) for p in sample.rgb(view)])
    return np.linalg.norm(sample.trajectory.position - place(numbers / FPS), axis=1) * 1e3


__all__ = ["Log", "mapping", "pairing_mm", "place", "replace", "write_log"]

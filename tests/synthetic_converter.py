"""A converter of tiny generated episodes, for tests of everything behind a converter.

A source is a folder with ``synthetic.json``: ``{"episodes": 3, "frames": 5, "bad": {"ep_001": "raise-image"}}``.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actionimg_data.converters.base import Converter, ConverterOptions, Detection
from actionimg_data.errors import BadImageError, MissingFrameError, SourceNotFoundError, WrongFormatError
from actionimg_data.geometry import exact, rotations
from actionimg_data.model import Camera, Episode, EpisodeRef, GripperTrajectory, View

SIZE = 64


class SyntheticOptions(ConverterOptions):
    """Options of the synthetic converter."""

    brightness: int = 100
    """Grey level of the pictures."""
    tags: tuple[str, ...] = ()


class _Frames:
    def __init__(self, seed: int, frames: int, bad: str | None, slow: float, brightness: int) -> None:
        self.seed, self.count, self.bad, self.slow, self.brightness = seed, frames, bad, slow, brightness

    width = height = SIZE

    def __len__(self) -> int:
        return self.count

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for i in indices:
            time.sleep(self.slow)
            if i == self.count // 2:
                misbehave(self.bad)
            y, x = np.mgrid[:SIZE, :SIZE]
            value = (self.brightness + 3 * x + 2 * y + 5 * i + 17 * self.seed) % 256
            yield np.repeat(value[..., None], 3, -1).astype(np.uint8)


def misbehave(bad: str | None) -> None:
    if bad == "bad-image":
        raise BadImageError("is no PNG", field="frame")
    if bad == "missing-frame":
        raise MissingFrameError("is missing", field="frame")
    if bad and bad.startswith("unless:") and not Path(bad.partition(":")[2]).exists():
        raise MissingFrameError("is missing", field="frame")
    if bad == "bug":
        raise RuntimeError("a bug in a converter")
    if bad == "io":
        raise OSError(5, "Input/output error", "/dev/broken")
    if bad and bad.startswith("leave-a-child:"):
        # It holds everything that this process has open, and lives on.
        if os.fork() == 0:
            Path(bad.partition(":")[2]).write_text(str(os.getpid()))
            time.sleep(60)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    if bad and bad.startswith("while:"):
        while Path(bad.partition(":")[2]).exists():
            time.sleep(0.01)
    if bad == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if bad and bad.startswith("kill-once:"):
        mark = Path(bad.partition(":")[2])
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def look_at(eye: Sequence[float], target: Sequence[float]) -> np.ndarray:
    """world_from_camera (4, 4), OpenCV axes; as all here the same on every CPU, since bytes are compared."""
    forward = np.asarray(target, float) - np.asarray(eye, float)
    forward /= exact.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= exact.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    pose[:3, 3] = eye
    return pose


def camera(name: str) -> Camera:
    K = [[1.1 * SIZE, 0, SIZE / 2], [0, 1.1 * SIZE, SIZE / 2], [0, 0, 1]]
    eye = {"front": (1.0, 0.1, 0.5), "side": (0.1, 1.0, 0.6), "top": (0.05, 0.02, 1.2)}[name]
    return Camera(K, look_at(eye, (0.0, 0.0, 0.2)), SIZE, SIZE)


def trajectory(seed: int, frames: int) -> GripperTrajectory:
    t = np.arange(frames) / 10
    position = np.stack([0.1 * exact.sin(t + seed), 0.1 * exact.cos(1.3 * t), 0.2 + 0.05 * exact.sin(2 * t)], -1)
    euler = np.stack([0.3 * exact.sin(t), 0.4 * exact.cos(t + seed), 0.5 * t], -1)
    q = rotations.quaternion_from_matrix(rotations.matrix_from_euler(euler))
    return GripperTrajectory(position, q, (np.arange(frames) % 4 < 2).astype(float), t)


class SyntheticConverter(Converter):
    """Tiny episodes made up from a JSON file."""

    name = "synthetic"
    summary = "generated episodes for tests"
    Options = SyntheticOptions

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        found = (Path(source) / "synthetic.json").is_file()
        return Detection("synthetic.json") if found else None

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        if not Path(source).exists():
            raise SourceNotFoundError("does not exist", where=source)
        path = Path(source) / "synthetic.json"
        if not path.is_file():
            raise WrongFormatError("has no synthetic.json", where=source)
        config: dict[str, Any] = json.loads(path.read_text())
        for i in range(config["episodes"]):
            location = {
                "seed": i,
                "frames": config.get("frames", 6) + i % 3,
                "bad": config.get("bad", {}).get(f"ep_{i:03d}"),
                "slow": config.get("slow", 0.0),
                "views": config.get("views", {}).get(f"ep_{i:03d}", ["front", "side"]),
                "uncalibrated": config.get("uncalibrated", []),
            }
            yield EpisodeRef(f"task/ep_{i:03d}", location, location["frames"], f"v{config.get('version', 1)}")

    def read(self, ref: EpisodeRef) -> Episode:
        at = ref.location
        if at["bad"] == "read":
            raise WrongFormatError("bad episode", where=ref.id)
        if at["bad"] == "kill-read":
            misbehave("kill")
        n = at["frames"]
        frames = _Frames(at["seed"], n, at["bad"], at["slow"], self.options.brightness)
        views = {name: View(None if name in at["uncalibrated"] else camera(name), frames) for name in at["views"]}
        path = trajectory(at["seed"], n)
        return Episode(
            ref.id,
            views,
            path,
            fps=10.0,
            instructions=(f"do task {at['seed']}", "the same in other words"),
            task="task",
            provenance={"seed": at["seed"]},
        )


def write_source(folder: Path, **config: Any) -> str:
    """A source folder for the converter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "synthetic.json").write_text(json.dumps(config))
    return str(folder)


def environment_with_converter(folder: Path) -> dict[str, str]:
    """The environment of a process in which the converter is installed, by way of ``folder``."""
    info = folder / "synthetic-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: synthetic\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[actionimg.converters]\nsynthetic = synthetic_converter:SyntheticConverter\n"
    )
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(Path(__file__).parent)))}


def deaf_worker(pipe: Any) -> None:
    """A worker process that is told to end and does not; here, because a spawned process finds this module."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.send("deaf")
    time.sleep(60)


def window_size(window: Any) -> np.ndarray:
    """A function to derive a member with: the shape of the pictures, and their mean."""
    return np.array([*window.pictures.shape, window.pictures.mean()])


window_size.version = "1"  # type: ignore[attr-defined]

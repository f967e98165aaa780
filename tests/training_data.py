"""Small data sets with known content for the tests of training and export."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actionimg_data.converters.base import Converter, Detection
from actionimg_data.engine import convert
from actionimg_data.geometry import rotations
from actionimg_data.model import Camera, CameraTrack, Episode, EpisodeRef, GripperTrajectory, View
from actionimg_data.schemas import ConvertOptions, DatasetManifest

SIZE = 64
VIEWS = ("front", "side", "wrist")


class BarFrames:
    """Pictures in which bars of black and white spell the episode, the view and the frame in binary."""

    def __init__(self, episode: int, view: int, frames: int, size: int = SIZE) -> None:
        self.episode, self.view, self.count = episode, view, frames
        self.width = self.height = size

    def __len__(self) -> int:
        return self.count

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for i in indices:
            yield bar_picture(self.episode, self.view, i, self.width)


def bar_picture(episode: int, view: int, frame: int, size: int = SIZE) -> np.ndarray:
    code = (episode << 10) | (view << 8) | frame
    picture = np.empty((size, size, 3), np.uint8)
    for bit in range(16):
        picture[:, bit * size // 16 : (bit + 1) * size // 16] = 220 if code >> bit & 1 else 30
    return picture


def read_bars(picture: np.ndarray) -> tuple[int, int, int]:
    """Episode, view and frame of a picture ``(H, W)`` in [-1, 1]."""
    columns = picture.mean(0).reshape(16, -1).mean(1)
    code = int(sum(1 << bit for bit in range(16) if columns[bit] > 0))
    return code >> 10, code >> 8 & 3, code & 255


def look_at(eye: Sequence[float], target: Sequence[float]) -> np.ndarray:
    forward = np.asarray(target, float) - np.asarray(eye, float)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    pose[:3, 3] = eye
    return pose


def make_camera(view: str, frames: int, size: int) -> Camera | CameraTrack:
    """Two cameras that stand still and one that moves."""
    K = np.array([[1.1 * size, 0, size / 2], [0, 1.1 * size, size / 2], [0, 0, 1]])
    if view == "front":
        return Camera(K, look_at((1.0, 0.1, 0.5), (0.0, 0.0, 0.2)), size, size)
    if view == "side":
        return Camera(K, look_at((0.1, 1.0, 0.6), (0.0, 0.0, 0.2)), size, size)
    poses = np.stack([look_at((0.9 - 0.002 * t, -0.6 + 0.003 * t, 0.7), (0.0, 0.0, 0.2)) for t in range(frames)])
    return CameraTrack(np.broadcast_to(K, (frames, 3, 3)), poses, size, size)


def make_trajectory(seed: int, frames: int, fps: float) -> GripperTrajectory:
    t = np.arange(frames) / fps
    position = np.stack([0.1 * np.sin(t + seed), 0.1 * np.cos(1.3 * t), 0.2 + 0.05 * np.sin(2 * t)], -1)
    euler = np.stack([0.3 * np.sin(t), 0.4 * np.cos(t + seed), 0.5 * t], -1)
    q = rotations.quaternion_from_matrix(rotations.matrix_from_euler(euler))
    return GripperTrajectory(position, q, (np.arange(frames) % 4 < 2).astype(float), t)


class BarConverter(Converter):
    """Episodes made up from ``{"frames": [..], "fps": .., "views": [..]}``."""

    name = "bars"
    summary = "generated episodes for tests"

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        return None

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        config = json.loads((Path(source) / "bars.json").read_text())
        for i, frames in enumerate(config["frames"]):
            yield EpisodeRef(f"task_{i % 2}/ep_{i:03d}", {**config, "number": i, "frames": frames}, frames)

    def read(self, ref: EpisodeRef) -> Episode:
        at: dict[str, Any] = dict(ref.location)
        number, n, fps, size = at["number"], at["frames"], at["fps"], at["size"]
        views = {
            name: View(make_camera(name, n, size), BarFrames(number, VIEWS.index(name), n, size))
            for name in at["views"]
        }
        texts = (f"open drawer {number}", f"pull out drawer {number}")
        path = make_trajectory(number, n, fps)
        return Episode(ref.id, views, path, fps=fps, instructions=texts, task=f"task_{number % 2}")


def make_dataset(
    folder: Path,
    frames: Sequence[int],
    fps: float = 20.0,
    views: Sequence[str] = VIEWS,
    size: int = SIZE,
    **options: Any,
) -> tuple[Path, DatasetManifest]:
    """Convert generated episodes; returns the data set's folder and its manifest."""
    source = folder / "source"
    source.mkdir(parents=True)
    config = {"frames": list(frames), "fps": fps, "views": list(views), "size": size}
    (source / "bars.json").write_text(json.dumps(config))
    settings = {"height": size, "width": size, "episodes_per_shard": 2, **options}
    out = folder / "dataset"
    result = convert(BarConverter(), str(source), out, ConvertOptions.parse(**settings))
    return out, result.manifest

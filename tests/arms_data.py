"""A converter of generated episodes with two grippers, depth and masks, for tests of everything behind a converter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_converter import look_at

from actionimg_data.converters.base import Converter, ConverterOptions, Detection
from actionimg_data.engine.conversion import convert
from actionimg_data.geometry import rotations
from actionimg_data.model import (
    ArrayFrames,
    Camera,
    Episode,
    EpisodeRef,
    GripperTrajectory,
    View,
    millimetres,
)
from actionimg_data.schemas import ConvertOptions, DatasetManifest

SOURCE = (96, 128)
"""Height and width of the pictures in the source."""

EYES = {"front": (1.1, 0.1, 0.7), "side": (0.2, 1.1, 0.8), "top": (0.05, 0.02, 1.5)}
RANGE = (0.1, 4.0)


def camera(name: str) -> Camera:
    height, width = SOURCE
    K = [[1.1 * width, 0, width / 2], [0, 1.1 * width, height / 2], [0, 0, 1]]
    return Camera(K, look_at(EYES[name], (0.0, 0.0, 0.2)), width, height)


def arm(side: float, frames: int, seed: int = 0, closest: float = 0.16) -> GripperTrajectory:
    """A gripper on one side (+1, -1) that comes to within ``closest`` metres of the middle and goes back."""
    t = np.arange(frames) / 10
    s = np.linspace(0, 1, frames)
    y = side * (closest + (0.24 - closest) * np.cos(np.pi * s) ** 2)
    position = np.stack([0.05 * np.sin(t + seed), y, 0.2 + 0.02 * np.sin(2 * t + side)], -1)
    euler = np.stack([0.3 * np.sin(t), 0.2 * np.cos(t + seed), side * 0.4 + 0.2 * t], -1)
    q = rotations.quaternion_from_matrix(rotations.matrix_from_euler(euler))
    opens = (np.arange(frames) % 4 < 2) if side > 0 else (np.arange(frames) % 6 < 3)
    return GripperTrajectory(position, q, opens.astype(float), t)


def planes(number: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth ``(T, H, W)`` uint16 with unknown pixels, and masks ``(T, H, W)`` uint32 with large ids."""
    height, width = SOURCE
    t, y, x = np.mgrid[:frames, :height, :width]
    depth = millimetres(0.2 + 0.01 * x + 0.02 * y + 0.005 * t + 0.1 * number)
    depth[:, :4, :4] = 0
    mask = ((x + t) // 16 * 70000 + y // 16 + 3 * number).astype(np.uint32)
    mask[:, -1, -1] = 2**24 - 1
    return depth, mask


class ArmsOptions(ConverterOptions):
    """Options of the converter of two arms."""


class ArmsConverter(Converter):
    """Episodes made up from a JSON file: ``{"frames": [5, 6], "closest": 0.16, "bad": {"0": "no-poses"}}``."""

    name = "arms"
    summary = "generated episodes of two arms, for tests"
    Options = ArmsOptions

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        return None

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        config = json.loads((Path(source) / "arms.json").read_text())
        for i, frames in enumerate(config["frames"]):
            bad = config.get("bad", {}).get(str(i))
            location = {"number": i, "frames": frames, "bad": bad, "closest": config.get("closest", 0.16)}
            yield EpisodeRef(f"two/ep_{i:03d}", {**location, "views": config.get("views", ["front", "side"])}, frames)

    def read(self, ref: EpisodeRef) -> Episode:
        at: dict[str, Any] = dict(ref.location)
        number, n, bad = at["number"], at["frames"], at["bad"]
        height, width = SOURCE
        views = {}
        for i, name in enumerate(at["views"]):
            t, y, x = np.mgrid[:n, :height, :width]
            pictures = np.repeat((40 * i + 20 + (x + y + 3 * t) % 16)[..., None], 3, axis=-1).astype(np.uint8)
            depth, mask = planes(number + i, n)
            if bad == "depth-size" and i == 0:
                depth = depth[:, ::2, ::2]
            if bad == "mask-ids":
                mask[n // 2, 3, 3] = 2**24
            streams = {} if bad == "no-depth" else {"depth": ArrayFrames(depth), "mask": ArrayFrames(mask)}
            views[name] = View(camera(name), ArrayFrames(pictures), depth_range_m=RANGE, **streams)
        grippers = {"right": arm(-1, n, number, at["closest"]), "left": arm(1, n, number, at["closest"])}
        if bad == "one-arm":
            del grippers["right"]
        if bad == "no-poses":
            nothing = np.full(n, np.nan)
            times = grippers["left"].times
            grippers["left"] = GripperTrajectory(
                np.full((n, 3), np.nan), np.full((n, 4), np.nan), nothing, times, allow_missing=True
            )
        return Episode(ref.id, views, grippers=grippers, fps=10.0, instructions=("lift the tray",), task="two")


def make_dataset(
    folder: Path, frames: list[int], config: dict[str, Any] | None = None, **options: Any
) -> tuple[Path, DatasetManifest]:
    """Convert generated episodes; returns the data set's folder and its manifest."""
    source = folder / "source"
    source.mkdir(parents=True)
    (source / "arms.json").write_text(json.dumps({"frames": frames, **(config or {})}))
    settings = {"height": 128, "width": 128, "action_codec": "ffv1", **options}
    out = folder / "dataset"
    result = convert(ArmsConverter(), str(source), out, ConvertOptions.parse(**settings), max_bad_fraction=0.9)
    return out, result.manifest

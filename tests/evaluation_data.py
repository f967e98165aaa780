"""Predictions with known errors, for the tests of evaluation and their pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actionimg_data.geometry import rotations
from actionimg_data.model import GripperTrajectory
from actionimg_data.raster import render_view
from actionimg_data.shards import Dataset, Window
from actionimg_data.video import action_encoding, encode_bytes


def disturbed(
    truth: GripperTrajectory, rng: np.random.Generator, mm: float = 5.0, degrees: float = 3.0, flipped: float = 0.2
) -> GripperTrajectory:
    """Moved by ``mm`` and turned by ``degrees`` in a direction that is another in each frame; some openness flipped."""
    count = len(truth)
    away = rng.standard_normal((count, 3))
    away *= mm / 1000 / np.linalg.norm(away, axis=1, keepdims=True)
    axis = rng.standard_normal((count, 3))
    axis *= np.deg2rad(degrees) / np.linalg.norm(axis, axis=1, keepdims=True)
    turn = np.asarray(rotations.matrix_from_rotation_vector(axis))
    quaternion = np.asarray(rotations.quaternion_from_matrix(turn @ truth.rotation))
    wrong = rng.permutation(count) < round(flipped * count)
    return GripperTrajectory(
        truth.position + away, quaternion, np.where(wrong, 1 - truth.openness, truth.openness), truth.times
    )


Change = Callable[[GripperTrajectory, np.random.Generator], GripperTrajectory]


def action_videos(window: Window, change: Change | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Action pictures ``(T, H, W, 3)`` of each view of a window, of a changed trajectory."""
    truth = window.grippers[""]
    shown = truth if change is None else change(truth, np.random.default_rng(seed))
    return {view: render_view(shown, window.cameras[view], window.spec) for view in window.views}


def write_predictions(
    folder: Path,
    dataset: Dataset,
    windows: Sequence[dict[str, Any]],
    change: Change | None = None,
    codec: str = "ffv1",
) -> Path:
    """A folder with ``predictions.jsonl`` of the true action videos, changed, of windows (`Window.cut`'s arguments)."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, given in enumerate(windows):
        given = dict(given)
        window = Window.cut(dataset[given.pop("key")], **given)
        files = {}
        for view, video in action_videos(window, change, number).items():
            encoding = action_encoding(codec)
            name = f"{number:04d}.{view}.{encoding.ending}"
            (folder / name).write_bytes(encode_bytes(video, encoding, window.fps, window.height, window.width))
            files[view] = name
        lines.append(
            {"key": window.sample.key, "start": int(window.indices[0]), "stride": window.stride, "views": files}
        )
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder

"""A prediction over the pictures that it is of, beside the truth and with the axes of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..decode import BlobMeasurements, measure_blobs, solve
from ..geometry.crop import CropResize
from ..model import CameraTrack, GripperTrajectory
from ..raster import project_keypoints
from ..report.pictures import blend, evenly, label, mark, over_camera
from ..schemas import ActionImageSpec
from ..schemas.evaluation import PredictionRow
from ..shards import Dataset, Window
from ..video.resize import apply
from .prediction import Options, opened_parts, sample_of, window_of

Image = NDArray[np.uint8]

FRAMES: Final = 13
"""Frames of a prediction that are drawn where nothing else is said, spread over it."""
TILE: Final = 232
_VIEWS: Final = 2
_GAP: Final = 4
_NOISE: Final = 20


@dataclass(frozen=True)
class Shown:
    """A prediction to be drawn: some frames of it."""

    window: Window
    numbers: list[int]
    """Which of the window's frames."""
    actions: dict[str, Image]
    """The prediction's pictures ``(n, H, W, 3)`` by view."""
    found: GripperTrajectory
    """What they decode to."""


def open_shown(row: PredictionRow, root: str, dataset: Dataset, options: Options, most: int = FRAMES) -> Shown:
    """Read and decode some frames of a prediction.

    Args:
        row: What it says of itself.
        root: Folder or URL that its files are relative to.
        dataset: What it is held against.
        options: How it is judged.
        most: Frames, spread over it; all where it has no more.

    Raises:
        ActionImgError: It is not what it says it is, or does not fit the data set.
    """
    sample = sample_of(dataset, row)
    with opened_parts(row, sample, root, options) as (action, _):
        window = window_of(row, sample, action, options)
        numbers = evenly(len(window), most)
        pictures = {
            view: np.stack(list(part.reader.frames([part.frames[i] for i in numbers])))
            for view, part in list(action.items())
        }
    spec = window.spec
    measured: list[BlobMeasurements] = [measure_blobs(video, spec) for video in pictures.values()]
    at = np.array(numbers)
    cameras = {view: track[at] for view, track in window.action_cameras.items()}
    found = solve(measured, cameras, spec, times=window.grippers[row.gripper].times[at]).trajectory
    levels = {
        view: video if video.dtype == np.uint8 else np.rint(255 * np.clip(video, 0, 1)).astype(np.uint8)
        for view, video in list(pictures.items())[:_VIEWS]
    }
    return Shown(window, numbers, levels, found)


def drawn(shown: Shown, gripper: str, tile: int = TILE) -> Iterator[Image]:
    """For each frame a picture ``(H, W, 4)`` with a row a view: the prediction over the picture, the truth over it, and
    the axes of both; what is between them is transparent.
    """
    window, at = shown.window, np.array(shown.numbers)
    height, width = window.height, window.width
    scale = min(1.0, tile / height)
    small = window.spec.resized(max(1, round(height * scale)), max(1, round(width * scale)))
    truth = window.grippers[gripper][at]
    rgb = {view: _stored(window, view, shown.numbers) for view in shown.actions}
    truths = {view: window.action(view, gripper)[at] for view in shown.actions}
    axes = {
        view: [
            _keypoints(trajectory, window.cameras[view][at], window.spec.over_camera(), small)
            for trajectory in (shown.found, truth)
        ]
        for view in shown.actions
    }
    for i in range(len(at)):
        rows = []
        for view in shown.actions:
            below, made, true = (_small(p[i], small) for p in (rgb[view], shown.actions[view], truths[view]))
            both = below.copy()
            for uv, valid in (axes[view][1], axes[view][0]):
                mark(both, uv[i], valid[i])
            # What a held camera sees is in no picture.
            under = np.zeros_like(below) if view in window.held else below
            panels = [_over(under, made, window.spec), _over(under, true, window.spec), both]
            for panel, text in zip(panels, (f"{view}: predicted", "true", "both"), strict=True):
                label(panel, text)
            rows.append(_beside(panels, 1))
        yield _beside(rows, 0)


def _over(below: Image, action: Image, spec: ActionImageSpec) -> Image:
    """The blobs of an action picture over a camera picture; what compression adds to the pedestal is left out."""
    quiet = over_camera(action, spec).copy()
    quiet[..., 2][quiet[..., 2] <= 255 * spec.pedestal + _NOISE] = 0
    return blend(below, quiet, spec)


def _stored(window: Window, view: str, numbers: Sequence[int]) -> list[Image]:
    chosen = Window(window.sample, window.indices[np.array(numbers)], window.height, window.width, window.views)
    return list(chosen.rgb(view))


def _keypoints(
    trajectory: GripperTrajectory, camera: CameraTrack, spec: ActionImageSpec, small: ActionImageSpec
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Pixels ``(n, 3, 2)`` of the small picture, and which are in front of the camera ``(n, 3)``."""
    uv, valid = project_keypoints(trajectory, [camera], spec)
    factor = np.array([small.width / spec.width, small.height / spec.height])
    return (uv[0] + 0.5) * factor - 0.5, valid[0]


def _small(picture: Image, spec: ActionImageSpec) -> Image:
    height, width = picture.shape[:2]
    return apply(picture, CropResize(0, 0, width, height, spec.width, spec.height))


def _beside(parts: Sequence[Image], axis: int) -> Image:
    """Pictures side by side (1) or below each other (0), RGBA with transparent gaps."""
    whole = [cv2.cvtColor(p, cv2.COLOR_RGB2RGBA) if p.shape[-1] == 3 else p for p in parts]
    shape = list(whole[0].shape)
    shape[axis] = _GAP
    gap = np.zeros(shape, np.uint8)
    joined = [piece for part in whole for piece in (part, gap)][:-1]
    return np.asarray(np.concatenate(joined, axis=axis), np.uint8)

"""Videos for people: an episode with its action images drawn over, and two trajectories of it side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..model import Episode, GripperTrajectory
from ..schemas import ActionImageSpec
from . import hud
from .pictures import Image, fit, keypoints_of, mark, trail, triptychs

_TRAIL_S: Final = 1.5
_RECORDED, _OTHER = (240, 240, 238), (255, 160, 40)
_GAP: Final = 4


def overlaid(episode: Episode, view: str, spec: ActionImageSpec, *, alone: bool = False) -> Iterator[Image]:
    """All frames of a view with a strip below them: RGB | action image | blend, or the blend ``alone``.

    Raises:
        MissingCalibrationError: The view has no camera.
    """
    seen = keypoints_of(episode, view, spec)
    strip = hud.Strip(
        (1 if alone else 3) * spec.width,
        min(spec.height, spec.width),
        view,
        episode.times,
        hud.lanes(episode.grippers, seen, spec.height, spec.width),
    )
    for frame, drawn in enumerate(triptychs(episode, view, spec, range(len(episode)), text=False)):
        yield np.concatenate([drawn.overlay if alone else drawn.wide(), strip.draw(frame)], axis=0)


def compared(
    episode: Episode, other: Mapping[str, GripperTrajectory], view: str, spec: ActionImageSpec
) -> Iterator[Image]:
    """All frames of a view twice, side by side: with the recorded gripper, and with that of ``other``.

    Lines lead back over the last one and a half seconds of both. Below: openness, what the view shows of the recorded
    gripper, and the distance between the two.

    Raises:
        MissingCalibrationError: The view has no camera.
    """
    sides = (
        (keypoints_of(episode, view, spec), _RECORDED),
        (keypoints_of(replace(episode, grippers=dict(other)), view, spec), _OTHER),
    )
    strip = hud.Strip(
        2 * spec.width + _GAP,
        min(spec.height, spec.width),
        f"{view}: recorded | decoded",
        episode.times,
        hud.lanes(episode.grippers, sides[0][0], spec.height, spec.width),
        distance_mm(episode, other),
    )
    back = max(1, round(_TRAIL_S * episode.fps))
    gap = np.full((spec.height, _GAP, 3), 20, np.uint8)
    pictures = episode.views[view].frames.frames(range(len(episode)))
    for frame, picture in enumerate(pictures):
        rgb = fit(picture, spec.height, spec.width)
        panels = []
        for seen, colour in sides:
            panel = rgb.copy()
            for uv, valid in seen.values():
                window = slice(max(0, frame - back), frame + 1)
                trail(panel, uv[window, 0], valid[window, 0], colour)
                mark(panel, uv[frame], valid[frame])
            panels.append(panel)
        yield np.concatenate([np.concatenate([panels[0], gap, panels[1]], axis=1), strip.draw(frame)], axis=0)


def distance_mm(episode: Episode, other: Mapping[str, GripperTrajectory]) -> NDArray[np.float64]:
    """``(T,)`` largest distance of any gripper between the two trajectories, NaN where one is not known."""
    every = [
        1000 * np.linalg.norm(episode.grippers[name].position - trajectory.position, axis=-1)
        for name, trajectory in other.items()
    ]
    return np.asarray(np.max(every, axis=0))


def differences(episode: Episode, other: Mapping[str, GripperTrajectory]) -> dict[str, Any]:
    """Median, 95th percentile and largest of `distance_mm`, and in how many frames there is one."""
    found = distance_mm(episode, other)
    found = found[np.isfinite(found)]
    if not len(found):
        return {"frames": 0, "median": None, "p95": None, "max": None}
    median, p95 = np.quantile(found, [0.5, 0.95])
    return {"frames": len(found), "median": float(median), "p95": float(p95), "max": float(found.max())}

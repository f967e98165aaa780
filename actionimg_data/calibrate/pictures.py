"""Pictures of a check: the gripper model's outline over frames, as recorded and where it fits."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ..geometry import transforms
from .evidence import Evidence, Sight
from .outline import Outline

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]

_BEFORE = (255, 60, 40)
_AFTER = (40, 220, 90)
_TILE = 224
_BITS = 4


def sheet(
    evidence: Evidence,
    before: FloatArray,
    after: FloatArray | None = None,
    shift: FloatArray | None = None,
    columns: int = 5,
) -> Image | None:
    """Two rows of frames: the outline as recorded (red) above, and where it fits (green) below.

    Args:
        evidence: Gathered with ``keep=True``.
        before: ``world_from_camera (4, 4)`` as recorded.
        after: The refined pose; None to draw ``before`` moved by ``shift``.
        shift: ``(2,)`` working pixels.
        columns: Frames shown.

    Returns:
        ``(H, W, 3)`` uint8, or None where there is nothing to show.
    """
    sights = [s for s in evidence.sights if s.index in evidence.pictures]
    if not sights:
        return None
    shown = [sights[i] for i in np.unique(np.linspace(0, len(sights) - 1, columns).round().astype(int))]
    below = before if after is None else after
    move = np.zeros(2) if shift is None or after is not None else shift
    rows = [
        np.concatenate([_tile(evidence, s, pose, offset, colour) for s in shown], axis=1)
        for pose, offset, colour in ((before, np.zeros(2), _BEFORE), (below, move, _AFTER))
    ]
    return np.concatenate(rows)


def _tile(evidence: Evidence, sight: Sight, pose: FloatArray, shift: FloatArray, colour: tuple[int, int, int]) -> Image:
    picture = evidence.pictures[sight.index]
    outline = _outline(evidence, sight, pose)
    height, width = picture.shape[:2]
    _, h, w = sight.edges.shape
    centre = sight.corner + np.array([w, h]) / 2
    side = int(np.clip(max(w, h), 16, min(height, width)))
    x = int(np.clip(centre[0] - side / 2, 0, width - side))
    y = int(np.clip(centre[1] - side / 2, 0, height - side))
    tile = cv2.resize(picture[y : y + side, x : x + side], (_TILE, _TILE), interpolation=cv2.INTER_CUBIC)
    if outline is not None:
        zoom = _TILE / side
        # cv2 puts pixel (0, 0) at its centre.
        points = np.rint(((outline.uv + shift - [x, y]) * zoom - 0.5) * (1 << _BITS)).astype(int)
        for px, py in points.tolist():
            cv2.circle(tile, (px, py), int(1.2 * (1 << _BITS)), colour, -1, cv2.LINE_AA, _BITS)
    tile[:, -2:] = 24
    tile[-2:] = 24
    return np.ascontiguousarray(tile)


def _outline(evidence: Evidence, sight: Sight, pose: FloatArray) -> Outline | None:
    camera_from_world = np.asarray(transforms.invert(pose))
    return evidence.hand.outline(camera_from_world @ sight.world_from_gripper, evidence.K, sight.openness, 400)

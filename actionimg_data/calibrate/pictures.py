"""Pictures of a check: outlines of the gripper and of links over frames, as recorded and where they fit."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ..geometry import transforms
from ..model import FrameSource
from ..raster import caption
from .evidence import Evidence, Sight

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]

_BEFORE = (255, 60, 40)
_AFTER = (40, 220, 90)
_INK, _PAPER = (0, 0, 0), (255, 255, 255)
_TILE = 224
_BAND = 24
_BITS = 4
_SHEET_WIDTH = 720


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
        _captioned([_tile(evidence, s, pose, offset, colour) for s in shown], shown, what)
        for pose, offset, colour, what in (
            (before, np.zeros(2), _BEFORE, "before: the camera as given (red outline)"),
            (below, move, _AFTER, "after: where the outline fits (green)"),
        )
    ]
    return np.concatenate(rows)


def _captioned(tiles: list[Image], sights: list[Sight], what: str) -> Image:
    """Tiles in a row under a band that says what they show, each with the number of its frame."""
    for tile, sight in zip(tiles, sights, strict=True):
        caption.write(tile, f"frame {sight.index}", (5, _TILE - 9), 0.42, _PAPER, halo=_INK)
    row = np.concatenate(tiles, axis=1)
    band = np.full((_BAND, row.shape[1], 3), 24, np.uint8)
    caption.write(band, what, (6, _BAND - 7), 0.45, _PAPER)
    return np.concatenate([band, row])


def mark_sheet(frames: FrameSource, count: int = 6, columns: int = 2) -> Image:
    """Numbered frames with a grid, enlarged, to read the coordinates of marks from.

    Args:
        frames: Of one view.
        count: Frames shown, spread over all.
        columns: In a row.

    Returns:
        ``(H, W, 3)`` uint8. The numbers along the grid are pixels of the source.
    """
    order = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int)).tolist()
    zoom = max(1, round(_SHEET_WIDTH / frames.width))
    width, height = frames.width * zoom, frames.height * zoom
    step = max(10, round(frames.width / 8 / 10) * 10)
    tiles = []
    for index, picture in zip(order, frames.frames(order), strict=True):
        tile = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
        lines = tile.copy()
        for x in range(step, frames.width, step):
            lines[:, x * zoom] = 255
        for y in range(step, frames.height, step):
            lines[y * zoom] = 255
        tile = cv2.addWeighted(tile, 0.65, lines, 0.35, 0)
        for x in range(step, frames.width, step):
            _label(tile, str(x), (x * zoom + 2, height - 4))
        for y in range(step, frames.height, step):
            _label(tile, str(y), (2, y * zoom - 3))
        _label(tile, f"frame {index}", (4, 18), 0.6)
        tile[:, -2:] = tile[-2:] = 24
        tiles.append(tile)
    tiles += [np.full_like(tiles[0], 24)] * (-len(tiles) % columns)
    return np.concatenate([np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)])


def _label(tile: Image, text: str, at: tuple[int, int], size: float = 0.4) -> None:
    caption.write(tile, text, at, size, _PAPER, halo=_INK)


def _tile(evidence: Evidence, sight: Sight, pose: FloatArray, shift: FloatArray, colour: tuple[int, int, int]) -> Image:
    picture = evidence.pictures[sight.index]
    seen = evidence.seen(sight, np.asarray(transforms.invert(pose)), max_points=400)
    height, width = picture.shape[:2]
    _, h, w = sight.edges.shape
    centre = sight.corner + np.array([w, h]) / 2
    side = int(np.clip(max(w, h), 16, min(height, width)))
    x = int(np.clip(centre[0] - side / 2, 0, width - side))
    y = int(np.clip(centre[1] - side / 2, 0, height - side))
    tile = cv2.resize(picture[y : y + side, x : x + side], (_TILE, _TILE), interpolation=cv2.INTER_CUBIC)
    zoom = _TILE / side
    for uv in (s.outline.uv for s in seen):
        # cv2 puts pixel (0, 0) at its centre.
        points = np.rint(((uv + shift - [x, y]) * zoom - 0.5) * (1 << _BITS)).astype(int)
        for px, py in points.tolist():
            cv2.circle(tile, (px, py), int(1.2 * (1 << _BITS)), colour, -1, cv2.LINE_AA, _BITS)
    tile[:, -2:] = 24
    tile[-2:] = 24
    return np.ascontiguousarray(tile)

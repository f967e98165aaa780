"""Which episodes share a camera, as their backgrounds tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..model import FrameSource
from .refine import Recorded

Floats = NDArray[np.float32]

SIDE: Final = 160
FRAMES: Final = 9
MIN_ALIKE: Final = 0.5
"""Correlation of the edges of two backgrounds from which on they are of one scene."""

SHIFTS_PX: Final = (-3, 0, 3)
_BLUR: Final = 1.0


def background_edges(frames: FrameSource) -> Floats:
    """Edge strength ``(h, w)`` of what stands still in a view's pictures, blurred a little."""
    scale = SIDE / max(frames.width, frames.height)
    size = (max(8, round(frames.width * scale)), max(8, round(frames.height * scale)))
    order = np.unique(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)).tolist()
    small = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in frames.frames(order)]
    grey = cv2.cvtColor(np.median(np.stack(small), 0).astype(np.uint8), cv2.COLOR_RGB2GRAY).astype(np.float32)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    # The root keeps one strong edge from outweighing the rest.
    return np.asarray(cv2.GaussianBlur(np.sqrt(np.hypot(dx, dy)), (0, 0), _BLUR), np.float32)


def alike(a: Floats, b: Floats) -> bool:
    """Whether two backgrounds are of one camera: their edges lie on each other, and better so than moved a little."""
    if a.shape != b.shape:
        return False
    margin = max(SHIFTS_PX)
    inner = a[margin:-margin, margin:-margin]

    def correlation(dx: int, dy: int) -> float:
        moved = b[margin + dy : b.shape[0] - margin + dy, margin + dx : b.shape[1] - margin + dx]
        return float(np.corrcoef(inner.ravel(), moved.ravel())[0, 1])

    here = correlation(0, 0)
    others = [correlation(x, y) for x in SHIFTS_PX for y in SHIFTS_PX if (x, y) != (0, 0)]
    return bool(here >= MIN_ALIKE and here > max(others))


def same_camera(recorded: Sequence[Recorded]) -> list[list[Recorded]]:
    """The episodes in groups that share a camera, in their order; each is held against the first of a group."""
    heads: list[Floats] = []
    groups: list[list[Recorded]] = []
    for one in recorded:
        edges = background_edges(one.view.frames)
        where = next((i for i, head in enumerate(heads) if alike(head, edges)), None)
        if where is None:
            heads.append(edges)
            groups.append([one])
        else:
            groups[where].append(one)
    return groups

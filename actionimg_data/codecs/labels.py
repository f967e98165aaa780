"""Segmentation as RGB: up to sixteen labels, each a colour with a luma of its own.

Chroma is blurred over two pixels by a video codec and luma is not: a border between two labels is where luma says.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from ..errors import InvalidSpecError
from .ycc import grey_levels, in_gamut, rgb_from_ycc, ycc_from_rgb

Array = Any

MOST_LABELS: Final = 16
DARKEST: Final = 14
BRIGHTEST: Final = 239
"""Luma of the first and the last: a blurred chroma would take luma along where a colour has to be cut at 0 or 255."""
REACH: Final = 30
"""Largest chroma, for the same reason."""
CHROMA_WEIGHT: Final = 0.02
"""Of the squared distance in chroma, when the nearest label is looked for."""

SUPPORT: Final = 3.5
"""Pixels of the nine about one, itself included, that are to have its label;"""
PENALTY: Final = 100.0
"""what is added to the squared distance for each that lacks, squared."""
SURE: Final = 2.0
"""Squared distance to a colour under which a pixel has its label whatever is around: what rounding makes."""
_SWEEPS: Final = 2


@cache
def label_colours(count: int) -> NDArray[np.uint8]:
    """``(count, 3)`` uint8: the colours of so many labels, of rising luma, the farther apart the fewer they are; each
    as far around the circle of hues from its neighbours as there is room for.
    """
    luma = DARKEST + (BRIGHTEST - DARKEST) * np.arange(count) / max(1, count - 1)
    # Five of sixteen steps around the circle each time; cosines of those steps.
    unit = np.array([1.0, 0.92387953, 0.70710678, 0.38268343, 0.0])
    cosine = np.concatenate([unit, -unit[-2::-1], -unit[1:], unit[-2:0:-1]])
    turn = 5 * np.arange(count) % 16
    out = np.empty((count, 3), np.uint8)
    for into, y, blue, red in zip(out, luma, cosine[turn], cosine[(turn - 4) % 16], strict=True):
        reach = next(r for r in range(REACH, -1, -2) if in_gamut(y, r * blue, r * red))
        into[:] = np.rint(rgb_from_ycc(*(np.float64(v) for v in (y, reach * blue, reach * red))))
    out.flags.writeable = False
    return out


def largest_labels(ids: NDArray[Any]) -> tuple[int, ...]:
    """The ids of a clip's masks ``(...)`` in rising order: 0 first, and of others the fifteen with the most pixels.

    0 is what belongs to no object, and stands for all ids that have no colour of their own.
    """
    found, count = np.unique(np.asarray(ids), return_counts=True)
    others = found != 0
    order = np.lexsort((found[others], -count[others]))[: MOST_LABELS - 1]
    return (0, *sorted(found[others][order].tolist()))


def encode_labels(ids: NDArray[Any], labels: Sequence[int]) -> NDArray[np.uint8]:
    """RGB ``(..., 3)`` uint8 of ids ``(...)``: the colour of each one's place in ``labels``, as `label_colours` has
    them; others have the first's.

    Raises:
        InvalidSpecError: No label, over sixteen, or one twice.
    """
    names = np.asarray(labels, np.int64)
    if not 1 <= len(names) <= MOST_LABELS or len(set(names.tolist())) != len(names):
        raise InvalidSpecError(
            "cannot have a colour each",
            field="labels",
            expected=f"1 … {MOST_LABELS} different ids",
            found=tuple(labels),
        )
    order = np.argsort(names)
    values = np.asarray(ids, np.int64)
    place = np.minimum(np.searchsorted(names[order], values), len(names) - 1)
    index = np.where(names[order][place] == values, order[place], 0)
    return np.asarray(label_colours(len(names))[index])


def decode_labels(pictures: Array, count: int = MOST_LABELS) -> Array:
    """Place in ``labels`` ``(..., H, W)``, int64, of each pixel of RGB ``(..., H, W, 3)``, uint8 or floats in [0, 1].

    Of a border between two labels a codec makes colours between theirs, which may be a third one's. So a label has to
    have support: a pixel takes one that few of its neighbours have only where its colour is much nearer.

    Args:
        pictures: The pictures.
        count: How many labels there are.
    """
    xp = array_namespace(pictures)
    luma, blue, red = ycc_from_rgb(grey_levels(pictures))
    away = []
    for y, b, r in zip(*(c.tolist() for c in ycc_from_rgb(label_colours(count).astype(np.float64))), strict=True):
        away.append((luma - y) ** 2 + CHROMA_WEIGHT * ((blue - b) ** 2 + (red - r) ** 2))
    index, best = _nearest(xp, away)
    sure = best < SURE
    first = index
    for _ in range(_SWEEPS):
        lacking = (SUPPORT - _around(xp, xp.astype(index == i, luma.dtype)) for i in range(count))
        # One by one: sixteen planes of penalties would not fit into the cache.
        index, _ = _nearest(
            xp,
            [
                a + PENALTY * xp.where(few > 0, few, xp.zeros_like(few)) ** 2
                for a, few in zip(away, lacking, strict=True)
            ],
        )
    return xp.where(sure, first, index)


def _nearest(xp: Any, distances: list[Array]) -> tuple[Array, Array]:
    best, index = distances[0], xp.zeros(distances[0].shape, dtype=xp.int64, device=distances[0].device)
    for i, away in enumerate(distances[1:], 1):
        nearer = away < best
        best, index = xp.where(nearer, away, best), xp.where(nearer, xp.full_like(index, i), index)
    return index, best


def _around(xp: Any, plane: Array) -> Array:
    """Sums over 3x3 pixels of planes ``(..., H, W)``."""
    for axis in (-2, -1):
        plane = xp.moveaxis(plane, axis, -1)
        none = xp.zeros_like(plane[..., :1])
        plane = plane + xp.concat([plane[..., 1:], none], axis=-1) + xp.concat([none, plane[..., :-1]], axis=-1)
        plane = xp.moveaxis(plane, -1, axis)
    return plane

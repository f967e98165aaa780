"""Depth as RGB: a line through the colours along which equal steps are equal factors of depth.

The logarithm of depth runs up and down in luma, over and over, and every run has a colour of its own: luma, which a
video codec keeps best, says where on a run a pixel is, and chroma which run it is on. In a range of 1 : 200 a level of
a hue circle (1,530 levels) is 0.35 % of depth, one of these runs 0.04 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from ..errors import InvalidArrayError, InvalidSpecError
from ..geometry import exact
from .ycc import grey_levels, in_gamut, rgb_from_ycc, ycc_from_rgb

Array = Any

LOW: Final = 64
HIGH: Final = 191
"""Luma at the two ends of a run."""
SPACING: Final = 8
"""Grey levels between the chroma of neighbouring runs: several times what H.264 at crf 18 moves it."""
TURN: Final = 2.5
"""Length of the way from a run to the next, in levels of luma: there only chroma changes."""
UNKNOWN: Final = 24
"""Luma under this is black: depth that is not known."""

AGREE: Final = 1.0
"""Runs by which neighbours may differ to agree with each other: 5 % of depth;"""
MOST: Final = 6
"""of eight, how many have to agree with a pixel for it to be trusted."""
STIFFNESS: Final = 30.0
"""Weight of the squared distance in runs from a neighbour, to that of chroma in grid steps, where a run is chosen."""
_FAR_OFF: Final = 1000.0
_AROUND: Final = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
_NEAR: Final = [(y, x) for y in (-2, -1, 0, 1, 2) for x in (-2, -1, 0, 1, 2) if y or x]


@dataclass(frozen=True)
class DepthCodec:
    """Depth between two limits as RGB.

    Args:
        near: Least depth, metres.
        far: Largest depth, metres; what is outside counts as not known. The narrower, the more precise.

    Raises:
        InvalidSpecError: Not 0 < near < far <= 65.535.
    """

    near: float = 0.05
    far: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.near < self.far <= 65.535:
            raise InvalidSpecError(
                "is no range of depth",
                field="near, far",
                expected="0 < near < far <= 65.535",
                found=(self.near, self.far),
            )

    def encode(self, millimetres: Array) -> Array:
        """RGB ``(..., 3)`` uint8 of depth ``(...)`` in whole millimetres (uint16, or another integer of torch's); black
        where it is not known or outside the limits.

        Raises:
            InvalidArrayError: Not integers.
        """
        xp = array_namespace(millimetres)
        if not xp.isdtype(millimetres.dtype, "integral"):
            raise InvalidArrayError(
                "is not in millimetres", field="depth", expected="an integer dtype", found=millimetres.dtype
            )
        table = xp.asarray(self._table, device=millimetres.device)
        return table[xp.astype(millimetres, xp.int64)]

    def decode(self, pictures: Array) -> Array:
        """Depth in metres ``(..., H, W)``, float32, of RGB ``(..., H, W, 3)``, uint8 or floats in [0, 1]; 0: not known.

        Chroma is blurred where depth steps, and names a wrong run there: a pixel that differs from most of its
        neighbours takes the run that fits to one that does not.
        """
        xp = array_namespace(pictures)
        shape = pictures.shape[:-1]
        luma, blue, red = ycc_from_rgb(xp.reshape(grey_levels(pictures), (-1, *pictures.shape[-3:])))
        tables = _nearest_run(), _runs()
        nearest, runs = (xp.asarray(table, device=pictures.device) for table in tables)
        place = [xp.astype(xp.clip(xp.round(c), -128, 127), xp.int64) + 128 for c in (blue, red)]
        along = (xp.clip(luma, LOW, HIGH) - LOW) / (HIGH - LOW)
        at = _on_run(xp, nearest[place[0], place[1]], along)
        black = luma < UNKNOWN
        at = _mended(xp, xp.where(black, xp.full_like(at, -_FAR_OFF), at), along, (blue, red), runs)
        # Of a run and its turn to the share of the line's length.
        whole = xp.floor(at)
        t = (whole * (HIGH - LOW + TURN) + (at - whole) * (HIGH - LOW)) / _length()
        depth = self.near * exact.exp(t * float(exact.log(np.float64(self.far / self.near))))
        depth = xp.where(black | (at < 0), xp.zeros_like(depth), depth)
        return xp.reshape(xp.astype(depth, xp.float32), shape)

    @cached_property
    def _table(self) -> NDArray[np.uint8]:
        """``(65536, 3)`` colours by millimetre."""
        metres = np.arange(65536) / 1000
        known = (metres >= self.near) & (metres <= self.far)
        ratio = np.where(known, metres, self.near) / self.near
        t = exact.log(ratio) / exact.log(np.float64(self.far / self.near))
        colours = np.clip(np.rint(_colour(t)), 0, 255).astype(np.uint8)
        return np.where(known[:, None], colours, np.uint8(0))


def _colour(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """RGB ``(..., 3)`` at the share ``t (...)`` of the line's length."""
    runs = _runs().astype(np.float64)
    span = HIGH - LOW
    at = np.clip(t, 0, 1) * _length()
    run = np.minimum(np.floor(at / (span + TURN)), len(runs) - 1).astype(np.intp)
    within = at - run * (span + TURN)
    along = np.minimum(within, span)
    luma = np.where(run % 2 == 0, LOW + along, HIGH - along)
    turned = np.clip((within - span) / TURN, 0, 1)[..., None]
    chroma = runs[run] * (1 - turned) + runs[np.minimum(run + 1, len(runs) - 1)] * turned
    return np.asarray(rgb_from_ycc(luma, chroma[..., 0], chroma[..., 1]))


def _on_run(xp: Any, run: Array, along: Array) -> Array:
    """Number of the run plus the share of it that lies behind, of the share of luma; runs go up and down in turn."""
    share = xp.where(run % 2 == 0, along, 1 - along)
    # A whole run is not yet the next one.
    return xp.astype(run, share.dtype) + xp.clip(share, 0.0, 0.999)


def _mended(xp: Any, at: Array, along: Array, chroma: tuple[Array, Array], runs: Array) -> Array:
    """Places ``(N, H, W)`` in runs, those of pixels that few neighbours agree with chosen anew."""
    _, height, width = at.shape
    agree = xp.zeros(at.shape, dtype=xp.int64, device=at.device)
    rows, columns = xp.arange(height, device=at.device), xp.arange(width, device=at.device)
    for dy, dx in _AROUND:
        y, x = xp.clip(rows + dy, 0, height - 1), xp.clip(columns + dx, 0, width - 1)
        agree = agree + xp.astype(xp.abs(at[:, y, :][:, :, x] - at) < AGREE, xp.int64)
    own_run = xp.clip(xp.astype(xp.floor(at), xp.int64), 0, runs.shape[0] - 1)
    exact_colour = (chroma[0] - runs[own_run, 0]) ** 2 + (chroma[1] - runs[own_run, 1]) ** 2 < 1
    trusted = (agree >= MOST) | exact_colour
    odd = xp.nonzero(~trusted & (at >= 0))
    if odd[0].shape[0] == 0:
        return at
    i, y, x = odd
    own, blue, red = along[odd], chroma[0][odd], chroma[1][odd]
    best, best_cost = at[odd], xp.full_like(own, xp.inf)
    for dy, dx in _NEAR:
        near = (i, xp.clip(y + dy, 0, height - 1), xp.clip(x + dx, 0, width - 1))
        beside, good = at[near], trusted[near] & (at[near] >= 0)
        for step in (-1, 0, 1):
            run = xp.clip(xp.astype(xp.floor(beside), xp.int64) + step, 0, runs.shape[0] - 1)
            candidate = _on_run(xp, run, own)
            away = (blue - runs[run, 0]) ** 2 + (red - runs[run, 1]) ** 2
            cost = STIFFNESS * (candidate - beside) ** 2 + away / SPACING**2
            better = good & (cost < best_cost)
            best, best_cost = xp.where(better, candidate, best), xp.where(better, cost, best_cost)
    out = xp.asarray(at, copy=True)
    out[odd] = best
    return out


def _length() -> float:
    return len(_runs()) * (HIGH - LOW + TURN) - TURN


def _make_runs() -> NDArray[np.int64]:
    """Chroma ``(N, 2)`` of the runs in order: a grid, to and fro, of what is a colour at both ends of a run."""
    steps = np.arange(-128, 129, SPACING)
    out: list[tuple[int, int]] = []
    for blue in steps.tolist():
        row = [(blue, red) for red in steps.tolist() if all(in_gamut(luma, blue, red) for luma in (LOW, HIGH))]
        # From the end of a row to the nearer end of the next.
        out += row if not out or not row or abs(row[0][1] - out[-1][1]) <= abs(row[-1][1] - out[-1][1]) else row[::-1]
    return np.array(out, np.int64)


_cache: dict[str, NDArray[np.int64]] = {}


def _runs() -> NDArray[np.int64]:
    if "runs" not in _cache:
        _cache["runs"] = _make_runs()
    return _cache["runs"]


def _nearest_run() -> NDArray[np.int64]:
    """``(256, 256)`` number of the run nearest to a chroma, by blue + 128 and red + 128."""
    if "nearest" not in _cache:
        chroma = np.arange(-128, 128)
        away = (chroma[:, None, None] - _runs()[:, 0]) ** 2 + (chroma[None, :, None] - _runs()[:, 1]) ** 2
        _cache["nearest"] = np.argmin(away, axis=-1)
    return _cache["nearest"]

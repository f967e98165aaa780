"""The probability that a decoded pose is right, from its covariance."""

from __future__ import annotations

import math
from typing import Any

from ..geometry.arrays import array_namespace

Array = Any

RIGHT_POSITION = 0.1
"""A position counts as right within this share of the axis length (10 mm by default)."""
RIGHT_ROTATION = math.radians(5.0)
"""A rotation counts as right within this."""


def probability_right(covariance: Array, axis_length: float) -> Array:
    """Probability ``(...)`` that a pose is within `RIGHT_POSITION` and `RIGHT_ROTATION` of the truth.

    Of a Gaussian error with the given covariances ``(..., 6, 6)``. The squared length of each half is taken for a
    scaled chi-square of equal mean and variance (Satterthwaite 1946).
    """
    position = _within(covariance[..., :3, :3], RIGHT_POSITION * axis_length)
    return position * _within(covariance[..., 3:, 3:], RIGHT_ROTATION)


def _within(covariance: Array, limit: float) -> Array:
    xp = array_namespace(covariance)
    identity = xp.eye(3, dtype=covariance.dtype, device=covariance.device)
    trace = xp.sum(covariance * identity, axis=(-2, -1))
    square = xp.sum(covariance * covariance, axis=(-2, -1))
    known = square > 0
    one = xp.ones_like(trace)
    scale = xp.where(known, square / xp.where(known, trace, one), one)
    freedom = xp.where(known, trace * trace / xp.where(known, square, one), one)
    return xp.where(known, _chi_square_cdf(xp, freedom, limit**2 / scale), one)


def _chi_square_cdf(xp: Any, freedom: Array, value: Array) -> Array:
    """Wilson and Hilferty (1931), with the normal's distribution function to 3e-4 (Page 1977)."""
    spread = 2 / (9 * freedom)
    z = ((value / freedom) ** (1 / 3) - (1 - spread)) / xp.sqrt(spread)
    return 0.5 + 0.5 * xp.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))

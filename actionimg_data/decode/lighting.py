"""Pictures that are brighter in one place than in another: what that moves blobs by, taken off; numpy and torch.

Where brightness changes by a factor ``exp(g x)`` over a Gaussian of covariance S, the product is the same Gaussian,
moved by ``S g``: towards the middle under a vignette, in all views alike, so that no view contradicts another. The
heights of the blobs show it: of one frame, those in brighter places are higher. That, and not how bright a frame is as
a whole, is fitted over a clip by a polynomial of the second order in place.
"""

from __future__ import annotations

from typing import Any

from ..geometry.arrays import array_namespace
from .blobs import at_least

Array = Any

EXPLAINED = 0.4
"""Least share of the heights' differences within frames that place must explain,"""
SIGNIFICANT = 10.0
"""least F statistic of that,"""
NOTICED = 0.002
"""and what it explains at least, root mean square."""
CORRELATED = 3.0
"""Factor on the variance of what is fitted: heights of successive frames are alike."""
LEAST_HEIGHTS = 24


def moved(
    uv: Array, height: Array, pedestal: Array, ellipse: Array, shown: Array, size: tuple[int, int]
) -> tuple[Array, Array]:
    """How far light that is not even has moved the blobs of a view; without gradients.

    Args:
        uv: ``(T, 3, 2)`` pixels.
        height: ``(T, 3)`` of the blobs.
        pedestal: ``(T,)`` intensity of blue away from its blob.
        ellipse: ``(3, 2, 2)`` covariance of the blobs, square pixels.
        shown: ``(T, 3)`` bool.
        size: Height and width of the pictures.

    Returns:
        Pixels ``(T, 3, 2)``, 0 where light is even or cannot be told, and their covariance ``(T, 3, 2, 2)``.
    """
    xp = array_namespace(uv)
    t = uv.shape[0]
    nothing = xp.zeros_like(uv), xp.zeros_like(uv[..., None] * uv[..., None, :])
    known = shown & (height > 0)
    several = xp.sum(xp.astype(known, xp.int64), axis=1) > 1
    known = known & several[:, None]
    number = int(xp.sum(xp.astype(known, xp.int64)))
    frames = int(xp.sum(xp.astype(several, xp.int64)))
    if number - frames < LEAST_HEIGHTS:
        return nothing
    weight = xp.astype(known, uv.dtype)[..., None]
    half = max(size) / 2
    middle = xp.asarray([size[1] / 2, size[0] / 2], dtype=uv.dtype, device=uv.device)
    place = (xp.where(shown[..., None], uv, xp.zeros_like(uv)) - middle) / half
    x, y = place[..., 0], place[..., 1]
    terms = xp.stack([x, y, x * x, x * y, y * y], axis=-1)
    channel = xp.zeros_like(terms[..., :3]) + xp.eye(3, dtype=uv.dtype, device=uv.device)[None, ...]
    # Whatever sharpens or blurs makes blue's height depend on whether its pedestal is lit.
    design = xp.concat([terms, channel[..., 1:], channel[..., 2:] * pedestal[:, None, None]], axis=-1)
    value = xp.log(xp.where(known, height, xp.ones_like(height)))[..., None]

    def within_frames(values: Array) -> Array:
        """Less their mean over the frame: how bright a frame is says nothing about places."""
        mean = xp.sum(values * weight, axis=1, keepdims=True) / at_least(xp, xp.sum(weight, axis=1, keepdims=True), 1.0)
        return xp.reshape((values - mean) * weight, (t * 3, -1))

    rows, target = within_frames(design), within_frames(value)
    normal = xp.matrix_transpose(rows) @ rows
    ridge = 1e-6 * number * xp.eye(8, dtype=uv.dtype, device=uv.device)
    solution = xp.linalg.solve(normal + ridge, xp.matrix_transpose(rows) @ target)
    # What the channels' own heights explain is no matter of place.
    alone = rows[:, 5:]
    least = xp.linalg.solve(xp.matrix_transpose(alone) @ alone + ridge[5:, 5:], xp.matrix_transpose(alone) @ target)
    without, left = target - alone @ least, target - rows @ solution
    before, rest = float(xp.sum(without**2)), float(xp.sum(left**2))
    degrees = number - frames - 8
    gained, per = before - rest, rest / max(degrees, 1)
    if gained < max(EXPLAINED * before, SIGNIFICANT * 5 * per, NOTICED**2 * number):
        return nothing
    # Light is everywhere: what a few blobs at the border do, which squares follow, is something else.
    typical = [float(xp.sort(xp.abs(v[:, 0])[xp.reshape(known, (-1,))])[number // 2]) for v in (without, left)]
    if typical[1] ** 2 > (1 - EXPLAINED) * typical[0] ** 2:
        return nothing
    a = solution[:5, 0]
    spread = xp.linalg.inv(normal + ridge)[:5, :5] * (CORRELATED * per)
    one, zero = xp.ones_like(x), xp.zeros_like(x)
    by_x = xp.stack([one, zero, 2 * x, y, zero], axis=-1) / half
    by_y = xp.stack([zero, one, zero, x, 2 * y], axis=-1) / half
    by = ellipse[None, ...] @ xp.stack([by_x, by_y], axis=-2)
    shift = (by @ a[:, None])[..., 0]
    covariance = by @ spread @ xp.matrix_transpose(by)
    return (
        xp.where(shown[..., None], shift, xp.zeros_like(shift)),
        xp.where(shown[..., None, None], covariance, xp.zeros_like(covariance)),
    )

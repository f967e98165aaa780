"""The rigid pose of a known set of points from their pixels in any number of views, refined on SE(3)."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import rotations, triangulation
from .arrays import array_namespace

Array = Any

HUBER = 3.0
"""Whitened residuals (standard deviations) beyond which a measurement's weight falls as 1/residual."""


class PoseEquations(NamedTuple):
    """The Gauss-Newton equations of a rigid pose; see `pose_equations`."""

    normal: Array
    """``(..., 6, 6)`` information matrix, order: world translation (m), world rotation vector (rad)."""
    gradient: Array
    """``(..., 6)`` so that the step is ``solve(normal, gradient)``."""
    cost: Array
    """``(...)`` sum of Huber losses, in squared standard deviations."""
    mahalanobis: Array
    """``(..., V, N)`` whitened residual length of each measurement; 0 where masked out."""
    residual: Array
    """``(..., V, N, 2)`` measured minus predicted pixels; 0 where masked out."""
    in_front: Array
    """``(...)`` whether every measured point lies in front of the view that measured it."""


def pose_equations(
    rotation: Array,
    translation: Array,
    points: Array,
    uv: Array,
    whiten: Array,
    K: Array,
    camera_from_world: Array,
) -> PoseEquations:
    """Linearise the whitened reprojection error of ``world_from_body`` about a pose.

    A step ``(dp, w)`` moves the body's origin by ``dp`` and turns it by ``exp(w) R`` about its origin, both in world
    axes, so that ``d(R x + p) = dp + w × R x``.

    Args:
        rotation: ``(..., 3, 3)``.
        translation: ``(..., 3)``.
        points: ``(N, 3)`` in the body's frame.
        uv: ``(..., V, N, 2)`` measured pixels, finite everywhere.
        whiten: ``(..., V, N, 2, 2)`` from `triangulation.whitening`; zero leaves a measurement out.
        K: ``(..., V, 3, 3)``.
        camera_from_world: ``(..., V, 4, 4)``.
    """
    xp = array_namespace(rotation, uv)
    arms = points @ xp.matrix_transpose(rotation)
    world = (arms + translation[..., None, :])[..., None, :, :]
    predicted, depth, by_point = triangulation.projection_and_jacobian(
        world, K[..., None, :, :], camera_from_world[..., None, :, :]
    )
    used = whiten[..., 0, 0] > 0
    residual = xp.where(used[..., None], uv - predicted, xp.zeros_like(uv))
    error = (whiten @ residual[..., None])[..., 0]
    squared = xp.sum(error * error, axis=-1)
    outer = squared > HUBER**2
    length = xp.sqrt(xp.where(outer, squared, xp.full_like(squared, HUBER**2)))
    weight = xp.where(outer, HUBER / length, xp.ones_like(length))
    loss = xp.where(outer, 2 * HUBER * length - HUBER**2, squared)
    by_step = xp.concat([by_point, -by_point @ rotations.skew(arms)[..., None, :, :, :]], axis=-1)
    rows = whiten @ by_step
    stacked = (*rows.shape[:-4], rows.shape[-4] * rows.shape[-3] * 2)
    rows_weighted = xp.reshape(rows * weight[..., None, None], (*stacked, 6))
    rows = xp.reshape(rows, (*stacked, 6))
    flat = xp.reshape(error, (*stacked, 1))
    transposed = xp.matrix_transpose(rows_weighted)
    one_length = xp.where(squared > 0, squared, xp.ones_like(squared))
    return PoseEquations(
        normal=transposed @ rows,
        gradient=(transposed @ flat)[..., 0],
        cost=xp.sum(loss, axis=(-2, -1)),
        mahalanobis=xp.where(squared > 0, xp.sqrt(one_length), xp.zeros_like(squared)),
        residual=residual,
        in_front=xp.all((depth > triangulation.MIN_DEPTH) | ~used, axis=(-2, -1)),
    )


def _step(xp: Any, normal: Array, gradient: Array, damping: Array) -> Array:
    identity = xp.eye(6, dtype=normal.dtype, device=normal.device)
    diagonal = xp.sum(normal * identity, axis=-1)
    # Metres and radians differ in scale, so each is damped by its own diagonal (Marquardt).
    floor = 1e-12 * xp.max(diagonal, axis=-1, keepdims=True) + 1e-30
    damped = normal + (damping[..., None] * diagonal + floor)[..., None] * identity
    return xp.linalg.solve(damped, gradient[..., None])[..., 0]


def _apply(xp: Any, rotation: Array, translation: Array, step: Array) -> tuple[Array, Array]:
    turned = rotations.matrix_from_rotation_vector(step[..., 3:]) @ rotation
    return turned, translation + step[..., :3]


def refine_pose(
    rotation: Array,
    translation: Array,
    points: Array,
    uv: Array,
    whiten: Array,
    K: Array,
    camera_from_world: Array,
    iterations: int = 20,
    tolerance: float = 1e-7,
) -> tuple[Array, Array, PoseEquations]:
    """Levenberg-Marquardt with a Huber loss from a starting pose, each batch element with its own damping.

    Arguments as for `pose_equations`. Stops when no element's step still matters.

    Returns:
        Rotation ``(..., 3, 3)``, translation ``(..., 3)`` and the equations at that pose.
    """
    xp = array_namespace(rotation, uv)
    at = pose_equations(rotation, translation, points, uv, whiten, K, camera_from_world)
    damping = xp.full_like(at.cost, 1e-9)
    for _ in range(iterations):
        step = _step(xp, at.normal, at.gradient, damping)
        # A step of more than half a radian or 0.2 m is outside what the linearisation can promise.
        size = xp.max(xp.abs(step / xp.asarray([0.2] * 3 + [0.5] * 3, dtype=step.dtype, device=step.device)), axis=-1)
        step = step / xp.where(size > 1, size, xp.ones_like(size))[..., None]
        new_rotation, new_translation = _apply(xp, rotation, translation, step)
        new = pose_equations(new_rotation, new_translation, points, uv, whiten, K, camera_from_world)
        # Rounding must not keep an element that has converged from being told so.
        better = (new.cost <= at.cost * (1 + 1e-12) + 1e-18) & (new.in_front | ~at.in_front)
        if bool(xp.all(better)):
            rotation, translation, at = new_rotation, new_translation, new
        else:
            rotation = xp.where(better[..., None, None], new_rotation, rotation)
            translation = xp.where(better[..., None], new_translation, translation)
            at = PoseEquations(
                *(
                    xp.where(xp.reshape(better, (*better.shape, *([1] * (b.ndim - better.ndim)))), b, a)
                    for a, b in zip(at, new, strict=True)
                )
            )
        damping = xp.where(better, damping * 0.1 + 1e-10, damping * 30 + 1e-4)
        moved = xp.max(xp.abs(step), axis=-1)
        if bool(xp.all((moved < tolerance) | (damping > 1e6))):
            break
    return rotation, translation, at


def gauss_newton_steps(
    rotation: Array,
    translation: Array,
    points: Array,
    uv: Array,
    whiten: Array,
    K: Array,
    camera_from_world: Array,
    iterations: int,
) -> tuple[Array, Array, PoseEquations]:
    """Plain Gauss-Newton steps from a pose that has converged: the same pose, with gradients to ``uv`` and cameras.

    At the solution the map of a step contracts, so the derivative of a few unrolled steps is that of the solution.
    """
    xp = array_namespace(rotation, uv)
    for _ in range(iterations):
        at = pose_equations(rotation, translation, points, uv, whiten, K, camera_from_world)
        step = _step(xp, at.normal, at.gradient, xp.zeros_like(at.cost))
        rotation, translation = _apply(xp, rotation, translation, step)
    at = pose_equations(rotation, translation, points, uv, whiten, K, camera_from_world)
    return rotation, translation, at

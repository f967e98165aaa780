"""Camera poses and the gripper's mounting that fit what the pictures show: robust Gauss-Newton on outlines.

Unknown are, for each camera, a motion of it in its own frame; for the gripper, one change of ``tool_from_gripper``; and
how much larger the real gripper's outline is than the model's. All have a Gaussian prior, so that what the pictures
cannot tell stays where it was, and its uncertainty with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..geometry import pinhole, rotations, transforms
from .evidence import Evidence, Sight, look_up
from .outline import Outline

FloatArray = NDArray[np.float64]

SEARCH_PX: Final = (10.0, 8.0, 6.0, 4.0, 3.0, 2.0, 2.0, 2.0)
_STEP: Final = 0.5
_MIN_EDGE: Final = 0.2
_CENTRED: Final = 0.6
_TUKEY: Final = 4.0
_MIN_SIGMA: Final = 0.35
_SHARED_POINTS: Final = 6.0
"""Neighbouring points of an outline err alike: so many count as one."""


@dataclass(frozen=True)
class Priors:
    """Standard deviations of what is unknown, for each axis.

    Args:
        camera_m: Of a camera's position.
        camera_rad: Of a camera's rotation.
        tool_m: Of the gripper's position in the hand.
        tool_rad: Of the gripper's rotation in the hand.
        size_m: Of the distance from the model's surface to the real one's.
    """

    camera_m: float = 0.03
    camera_rad: float = float(np.radians(3.0))
    tool_m: float = 0.002
    tool_rad: float = float(np.radians(0.6))
    size_m: float = 0.0024

    def with_model_error(self, error_m: float) -> Priors:
        """The same for a gripper model whose outline is off by ``error_m``; the defaults are those of a millimetre."""
        times = max(error_m, 1e-5) / 1e-3
        return replace(self, tool_m=self.tool_m * times, tool_rad=self.tool_rad * times, size_m=self.size_m * times)


@dataclass(frozen=True, eq=False)
class Solution:
    """What fits.

    Args:
        poses: ``world_from_camera (4, 4)`` of each camera.
        motions: ``(C, 6)`` rotation vector and shift (radians, metres) of each camera from the given pose, in the
            frame of the given camera.
        tool: ``(4, 4)`` change: the gripper is at ``world_from_gripper @ tool``.
        tool_vector: ``(6,)`` rotation vector and shift of ``tool``.
        size_m: Metres by which the real gripper is larger.
        covariance: ``(6 C + 7, 6 C + 7)`` of motions, tool vector and size.
        sigma_px: Of a point's distance from the edge found, robustly, in working pixels.
        used: Share of the outline's points that have an edge that fits.
    """

    poses: tuple[FloatArray, ...]
    motions: FloatArray
    tool: FloatArray
    tool_vector: FloatArray
    size_m: float
    covariance: FloatArray
    sigma_px: float
    used: float


@dataclass(frozen=True, eq=False)
class _Rows:
    """Linear equations of one sight: ``residual ≈ camera @ d_camera + tool @ d_tool + size * d_size``."""

    residual: FloatArray
    camera: FloatArray
    tool: FloatArray
    size: FloatArray
    strength: FloatArray
    points: int


def motion(vector: FloatArray) -> FloatArray:
    """The transform ``(4, 4)`` of a rotation vector and a shift ``(6,)``."""
    return np.asarray(transforms.make_transform(rotations.matrix_from_rotation_vector(vector[:3]), vector[3:]))


def vector_of(transform: FloatArray) -> FloatArray:
    """The rotation vector and shift ``(6,)`` of a transform."""
    turn = np.asarray(rotations.rotation_vector_from_matrix(transform[:3, :3]))
    return np.concatenate([turn, transform[:3, 3]])


def score(
    groups: Sequence[Sequence[Evidence]], poses: Sequence[FloatArray], tool: FloatArray | None = None
) -> FloatArray:
    """Mean edge strength under the outlines: one number for each sight of all cameras."""
    return np.concatenate(
        [np.concatenate([_scores(e, pose, tool) for e in group]) for group, pose in zip(groups, poses, strict=True)]
    )


def _scores(evidence: Evidence, pose: FloatArray, tool: FloatArray | None) -> FloatArray:
    camera_from_world = np.asarray(transforms.invert(pose))
    values = []
    for sight in evidence.sights:
        outline = _outline(evidence, sight, camera_from_world, tool)
        if outline is None or len(outline) == 0:
            values.append(0.0)
        else:
            values.append(_fit(sight, outline))
    return np.array(values)


def _fit(sight: Sight, outline: Outline) -> float:
    if sight.distance is None:
        return float(look_up(sight, outline.uv[:, None], outline.normal)[0].mean())
    # With a mask: one where the edge is met, nothing from some pixels on.
    away, own = distance_at(sight, outline.uv, np.inf)
    good = own > 0
    return float(np.exp(-np.abs(away[good]) / 2).mean()) if good.any() else 0.0


def _outline(
    evidence: Evidence, sight: Sight, camera_from_world: FloatArray, tool: FloatArray | None
) -> Outline | None:
    pose = sight.world_from_gripper if tool is None else sight.world_from_gripper @ tool
    return evidence.hand.outline(camera_from_world @ pose, evidence.K, sight.openness, 100)


def solve(
    groups: Sequence[Sequence[Evidence]],
    given: Sequence[FloatArray],
    priors: Priors,
    start: Sequence[FloatArray] | None = None,
    search: Sequence[float] = SEARCH_PX,
    fit_tool: bool = False,
) -> Solution:
    """Fit all cameras and the tool to the pictures.

    Args:
        groups: For each camera its evidence, of one or several episodes.
        given: For each camera the pose that the prior is about.
        priors: How far things may be off.
        start: Poses to start from; ``given`` where None.
        search: Pixels to both sides in which edges are looked for, step by step.
        fit_tool: Fit the gripper's mounting too. Otherwise it stays, and its prior adds to the uncertainty, as that of
            the gripper's size always does (Schmidt's "consider" covariance: Bierman, *Factorization Methods*, VIII).
    """
    count = len(groups)
    size = 6 * count + 7
    free = np.arange(6 * count + (6 if fit_tool else 0))
    state = np.zeros(size)
    inverse = [np.asarray(transforms.invert(p)) for p in given]
    for k, pose in enumerate(start or given):
        state[6 * k : 6 * k + 6] = vector_of(np.asarray(transforms.invert(pose)) @ given[k])
    cameras = np.tile(np.repeat([priors.camera_rad, priors.camera_m], 3), count)
    deviations = np.concatenate([cameras, np.repeat([priors.tool_rad, priors.tool_m], 3), [priors.size_m]])
    precision = deviations**-2.0
    normal, sigma, used = np.diag(precision), 1.0, 0.0
    for reach in search:
        tool = motion(state[6 * count : 6 * count + 6])
        rows: list[tuple[int, _Rows]] = []
        for k, group in enumerate(groups):
            here = motion(state[6 * k : 6 * k + 6]) @ inverse[k]
            rows += [
                (k, r) for e in group for s in e.sights if (r := _rows(e, s, here, tool, state[-1], reach)) is not None
            ]
        if not rows:
            break
        residual = np.concatenate([r.residual for _, r in rows])
        sigma = max(_MIN_SIGMA, 1.4826 * float(np.median(np.abs(residual))) if len(residual) else _MIN_SIGMA)
        used = len(residual) / max(1, sum(r.points for _, r in rows))
        step = np.zeros(size)
        for _ in range(3):
            normal, gradient = np.diag(precision), -precision * state
            for k, r in rows:
                at = np.r_[6 * k : 6 * k + 6, 6 * count : size]
                jacobian = np.concatenate([r.camera, r.tool, r.size[:, None]], 1)
                left = r.residual - jacobian @ step[at]
                weight = r.strength * np.clip(1 - (left / (_TUKEY * sigma)) ** 2, 0, None) ** 2
                weight = weight / (sigma**2 * _SHARED_POINTS)
                normal[np.ix_(at, at)] += jacobian.T @ (weight[:, None] * jacobian)
                gradient[at] += jacobian.T @ (weight * r.residual)
            step = np.zeros(size)
            step[free] = np.linalg.solve(normal[np.ix_(free, free)], gradient[free])
        state = _moved(state, step, count)
    tool_vector = state[6 * count : 6 * count + 6]
    poses = tuple(given[k] @ np.asarray(transforms.invert(motion(state[6 * k : 6 * k + 6]))) for k in range(count))
    return Solution(
        poses=poses,
        motions=np.stack([vector_of(np.asarray(transforms.invert(given[k])) @ poses[k]) for k in range(count)]),
        tool=motion(tool_vector),
        tool_vector=tool_vector,
        size_m=float(state[-1]),
        covariance=_covariance(normal, precision, free),
        sigma_px=sigma,
        used=used,
    )


def _covariance(normal: FloatArray, precision: FloatArray, free: NDArray[np.intp]) -> FloatArray:
    """Covariance of all unknowns, of which only ``free`` ones were fitted and the others kept at their prior."""
    held = np.setdiff1d(np.arange(len(normal)), free)
    out = np.diag(1 / precision)
    inverse = np.linalg.inv(normal[np.ix_(free, free)])
    effect = inverse @ normal[np.ix_(free, held)]
    out[np.ix_(free, free)] = inverse + effect @ np.diag(1 / precision[held]) @ effect.T
    out[np.ix_(free, held)] = -effect @ np.diag(1 / precision[held])
    out[np.ix_(held, free)] = out[np.ix_(free, held)].T
    return out


def _moved(state: FloatArray, step: FloatArray, count: int) -> FloatArray:
    """The state after a step: cameras move on the left of their motion, the tool on the right of its."""
    out = state + step
    for k in range(count):
        at = slice(6 * k, 6 * k + 6)
        out[at] = vector_of(motion(step[at]) @ motion(state[at]))
    at = slice(6 * count, 6 * count + 6)
    out[at] = vector_of(motion(state[at]) @ motion(step[at]))
    return out


def _rows(
    evidence: Evidence, sight: Sight, camera_from_world: FloatArray, tool: FloatArray, size: float, reach: float
) -> _Rows | None:
    outline = _outline(evidence, sight, camera_from_world, tool)
    if outline is None or len(outline) < 12:
        return None
    camera_from_gripper = camera_from_world @ sight.world_from_gripper @ tool
    points = np.asarray(transforms.apply(camera_from_gripper, outline.local))
    per_metre = evidence.K[0, 0] / points[:, 2]
    at = outline.uv + (size * per_metre)[:, None] * outline.normal
    if sight.distance is None:
        found, strength = edges_along(sight, at, outline.normal, reach)
    else:
        found, strength = distance_at(sight, at, reach)
    good = strength > _MIN_EDGE
    if not good.any():
        return _Rows(np.empty(0), np.empty((0, 6)), np.empty((0, 6)), np.empty(0), np.empty(0), len(outline))
    points, normal, local, per_metre = points[good], outline.normal[good], outline.local[good], per_metre[good]
    x, y, z = points.T
    fx, fy = evidence.K[0, 0], evidence.K[1, 1]
    # d(uv)/d(point) along the normal: the pinhole's derivative.
    along = np.stack(
        [normal[:, 0] * fx / z, normal[:, 1] * fy / z, -(normal[:, 0] * fx * x + normal[:, 1] * fy * y) / z**2], 1
    )
    camera = np.concatenate([np.cross(points, along), along], 1)
    turned = along @ camera_from_gripper[:3, :3]
    tool_rows = np.concatenate([np.cross(local, turned), turned], 1)
    return _Rows(found[good], camera, tool_rows, per_metre, strength[good], len(outline))


def edges_along(sight: Sight, uv: FloatArray, normal: FloatArray, reach: float) -> tuple[FloatArray, FloatArray]:
    """Where along its normal each point's best edge is: signed pixels ``(P,)`` and edge strength ``(P,)``."""
    offsets = np.arange(-reach, reach + _STEP / 2, _STEP)
    value, _ = look_up(sight, uv[:, None] + offsets[:, None] * normal[:, None], normal)
    judged = value * (1 - _CENTRED * (offsets / reach) ** 2)
    best = judged.argmax(1)
    inner = np.clip(best, 1, len(offsets) - 2)
    rows = np.arange(len(uv))
    a, b, c = (value[rows, inner + d].astype(np.float64) for d in (-1, 0, 1))
    bend = a - 2 * b + c
    with np.errstate(divide="ignore", invalid="ignore"):
        delta = np.where((bend < 0) & (best == inner), np.clip(0.5 * (a - c) / bend, -0.5, 0.5), 0.0)
    return offsets[best] + delta * _STEP, value[rows, best].astype(np.float64)


def distance_at(sight: Sight, uv: FloatArray, reach: float) -> tuple[FloatArray, FloatArray]:
    """Signed pixels ``(P,)`` from points inwards to the mask's edge, and 1 where that edge is the gripper's own."""
    if sight.distance is None or sight.own is None:
        raise ValueError("the sight has no mask")
    at = uv - sight.corner - 0.5
    h, w = sight.distance.shape
    inside = (at >= 0).all(1) & (at[:, 0] <= w - 1) & (at[:, 1] <= h - 1)
    x, y = np.clip(at[:, 0], 0, w - 1).astype(np.float32), np.clip(at[:, 1], 0, h - 1).astype(np.float32)
    value = cv2.remap(sight.distance, x[None], y[None], cv2.INTER_LINEAR)[0].astype(np.float64)
    own = sight.own[np.rint(y).astype(int), np.rint(x).astype(int)]
    return -value, (inside & own & (np.abs(value) <= reach)).astype(np.float64)


def with_tool(evidence: Evidence, tool: FloatArray) -> Evidence:
    """The evidence with the gripper moved in the hand."""
    return replace(
        evidence,
        sights=tuple(replace(s, world_from_gripper=s.world_from_gripper @ tool) for s in evidence.sights),
    )


def overlay(evidence: Sequence[Evidence], pose: FloatArray, other: FloatArray, points: int = 8) -> float:
    """Mean distance in working pixels of the gripper drawn through two camera poses, over all sights.

    Measured at the corners of the gripper's box, which bound every point of it.
    """
    values = []
    for e in evidence:
        for s in e.sights:
            corners = transforms.apply(s.world_from_gripper, e.hand.corners[:points])
            a, b = (np.asarray(pinhole.project(corners, e.K, p)[0]) for p in (pose, other))
            values.append(np.linalg.norm(a - b, axis=-1).mean())
    return float(np.mean(values)) if values else float("nan")

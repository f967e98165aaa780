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

from ..geometry import rotations, transforms
from .evidence import Evidence, Seen, Sight, look_up
from .outline import Outline

FloatArray = NDArray[np.float64]

SEARCH_PX: Final = (10.0, 8.0, 6.0, 4.0, 3.0, 2.0, 2.0, 2.0)
_STEP: Final = 0.5
_BESIDE_PX: Final = 6
_FEW: Final = 12
"""Outlines of fewer points tell nothing."""

_MIN_EDGE: Final = 0.2
_CENTRED: Final = 0.6
_TUKEY: Final = 4.0
_MIN_SIGMA: Final = 0.35
_SIZES_FREE_AT: Final = 3.0
"""Millimetres of a model's error from which on its sizes are as free as those of any gripper."""

_SHARED_POINTS: Final = 6.0
"""Neighbouring points of an outline err alike: so many count as one."""

_SHARED_LINK_POINTS: Final = 18.0
"""A link's errors are its mesh's and its place's, and the same in all frames."""


@dataclass(frozen=True)
class Priors:
    """Standard deviations of what is unknown, for each axis.

    Args:
        camera_m: Of a camera's position.
        camera_rad: Of a camera's rotation.
        tool_m: Of the gripper's position in the hand.
        tool_rad: Of the gripper's rotation in the hand.
        reach_m: Of the gripper's position in the hand along the approach: of how far the fingertips reach.
        size_m: Of the distance from the model's surface to the real one's.
        link_m: The same of the arm's links.
        log_focal: Of the logarithm of the focal length.
        sizes: Times the deviations of the gripper's own sizes (`outline.Size`).
    """

    camera_m: float = 0.03
    camera_rad: float = float(np.radians(3.0))
    tool_m: float = 0.002
    tool_rad: float = float(np.radians(0.6))
    reach_m: float = 0.002
    size_m: float = 0.0024
    link_m: float = 0.001
    log_focal: float = 0.1
    sizes: float = 1.0

    def with_model_error(self, error_m: float) -> Priors:
        """The same for a gripper model whose outline is off by ``error_m``; the defaults are those of a millimetre."""
        times = max(error_m, 1e-5) / 1e-3
        scaled = {n: getattr(self, n) * times for n in ("tool_m", "tool_rad", "reach_m", "size_m")}
        return replace(self, **scaled, sizes=min(1.0, times / _SIZES_FREE_AT))


@dataclass(frozen=True, eq=False)
class Known:
    """What something else than edges tells of one camera.

    Args:
        information: Inverse covariance ``(6, 6)``, or ``(7, 7)`` with the log focal length where that is fitted.
        motion: ``(6,)`` or ``(7,)`` where it puts the camera, from the given pose: it
            takes points in the given frame of the camera to where they are in the true one.
    """

    information: FloatArray
    motion: FloatArray


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
        link_m: Metres by which the real links are larger.
        sizes: ``(M,)`` changes of the gripper's sizes, in their units; empty where they were not fitted.
        log_focal: ``(C,)`` logarithms by which the focal lengths differ from those of the evidence.
        covariance: ``(6 C + 8 + …)²`` of motions, tool vector, ``size_m``, ``link_m`` and, where fitted, sizes and
            focal lengths.
        sigma_px: Of a point's distance from the edge found, robustly, in working pixels.
        used: Share of the outline's points that have an edge that fits.
    """

    poses: tuple[FloatArray, ...]
    motions: FloatArray
    tool: FloatArray
    tool_vector: FloatArray
    size_m: float
    link_m: float
    sizes: FloatArray
    log_focal: FloatArray
    covariance: FloatArray
    sigma_px: float
    used: float


@dataclass(frozen=True, eq=False)
class _Rows:
    """Linear equations of one outline: its residual in pixels, and how it changes with each unknown."""

    residual: FloatArray
    camera: FloatArray
    tool: FloatArray
    surface: FloatArray
    sizes: FloatArray
    focal: FloatArray
    weight: FloatArray
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
    """Mean edge strength under the gripper's outlines: one number for each sight of all cameras."""
    return np.concatenate(
        [np.concatenate([_scores(e, pose, tool) for e in group]) for group, pose in zip(groups, poses, strict=True)]
    )


def _scores(evidence: Evidence, pose: FloatArray, tool: FloatArray | None) -> FloatArray:
    camera_from_world = np.asarray(transforms.invert(pose))
    values = []
    for sight in evidence.sights:
        seen = [s.outline for s in evidence.seen(sight, camera_from_world, tool) if s.hand]
        values.append(_fit(sight, seen[0]) if seen and len(seen[0]) else 0.0)
    return np.array(values)


def links_met(evidence: Sequence[Evidence], pose: FloatArray) -> float | None:
    """Share, in [0, 1], of the edges beside the links' outlines that lies on them; None where no link is seen.

    Of each point it is asked how strong the best edge along its normal is, within a pixel and within `_BESIDE_PX`:
    where a link has no contrast, or is where it always was, there is none either way, and nothing is said.
    """
    camera_from_world = np.asarray(transforms.invert(pose))
    offsets = np.arange(-_BESIDE_PX, _BESIDE_PX + 1)
    near, best = 0.0, 0.0
    for e in evidence:
        for sight in e.sights:
            for outline in (s.outline for s in e.seen(sight, camera_from_world) if not s.hand):
                along = outline.uv[:, None] + offsets[:, None] * outline.normal[:, None]
                value, inside = look_up(sight, along, outline.normal)
                value = value[inside.all(1)]
                near += float(value[:, np.abs(offsets) <= 1].max(1, initial=0).sum())
                best += float(value.max(1, initial=0).sum())
    return near / best if best > 0 else None


def _fit(sight: Sight, outline: Outline) -> float:
    if sight.distance is None:
        return float(look_up(sight, outline.uv[:, None], outline.normal)[0].mean())
    # With a mask: one where the edge is met, nothing from some pixels on.
    away, own = distance_at(sight, outline.uv, np.inf)
    good = own > 0
    return float(np.exp(-np.abs(away[good]) / 2).mean()) if good.any() else 0.0


def solve(
    groups: Sequence[Sequence[Evidence]],
    given: Sequence[FloatArray],
    priors: Priors,
    start: Sequence[FloatArray] | None = None,
    search: Sequence[float] = SEARCH_PX,
    fit_tool: bool = False,
    fit_sizes: bool = False,
    fit_focal: bool = False,
    begin: Solution | None = None,
    known: Known | None = None,
) -> Solution:
    """Fit all cameras, and what else is unknown, to the pictures.

    Args:
        groups: For each camera its evidence, of one or several episodes.
        given: For each camera the pose that the prior is about.
        priors: How far things may be off.
        start: Poses to start from; ``given`` where None.
        search: Pixels to both sides in which edges are looked for, step by step.
        fit_tool: Fit the gripper's mounting too. Otherwise it stays, and its prior adds to the uncertainty, as that of
            the gripper's size always does (Schmidt's "consider" covariance: Bierman, *Factorization Methods*, VIII).
        fit_sizes: Fit the mounting, the surface's distance and the sizes of the gripper too.
        fit_focal: Fit each camera's focal length too.
        begin: Where the mounting, the sizes and the focal lengths begin.
        known: What else is known of the one camera there is, besides its priors.
    """
    count, sizes = len(groups), len(groups[0][0].hand.sizes) if fit_sizes else 0
    at = _Layout(count, sizes, fit_focal)
    free = np.arange(6 * count + (6 if fit_tool or fit_sizes else 0))
    if fit_sizes:
        free = np.concatenate([free, np.arange(at.surface.start, at.sizes.stop)])
    if fit_focal:
        free = np.concatenate([free, np.arange(at.focal, at.length)])
    state = np.zeros(at.length)
    inverse = [np.asarray(transforms.invert(p)) for p in given]
    for k, pose in enumerate(start or given):
        state[at.camera(k)] = vector_of(np.asarray(transforms.invert(pose)) @ given[k])
    if begin is not None:
        state[at.tool] = begin.tool_vector
        state[at.surface] = begin.size_m, begin.link_m
        state[at.sizes] = begin.sizes if sizes else 0
        state[at.focal :] = begin.log_focal if fit_focal else 0
    precision = np.diag(at.deviations(priors, groups[0][0]) ** -2.0)
    pulled = np.zeros(at.length)
    if known is not None:
        own = at.own(0)
        precision[np.ix_(own, own)] += known.information
        pulled[own] = known.information @ known.motion
    normal, sigma, used = precision, 1.0, 0.0
    for reach in search:
        tool = motion(state[at.tool])
        shaped = [[_as_found(e, state[at.sizes], at.zoom(state, k)) for e in group] for k, group in enumerate(groups)]
        rows: list[tuple[int, _Rows]] = []
        for k, group in enumerate(shaped):
            here = motion(state[at.camera(k)]) @ inverse[k]
            rows += [
                (k, _rows(e, s, seen, state[at.surface], reach))
                for e in group
                for s in e.sights
                for seen in e.seen(s, here, tool)
                if len(seen.outline) >= _FEW
            ]
        if not rows:
            break
        residual = np.concatenate([r.residual for _, r in rows])
        sigma = max(_MIN_SIGMA, 1.4826 * float(np.median(np.abs(residual))) if len(residual) else _MIN_SIGMA)
        used = len(residual) / max(1, sum(r.points for _, r in rows))
        step = np.zeros(at.length)
        for _ in range(3):
            normal, gradient = precision.copy(), pulled - precision @ state
            for k, r in rows:
                columns = at.columns(k)
                jacobian = np.concatenate(
                    [r.camera, r.tool, r.surface, r.sizes[:, :sizes], *([r.focal[:, None]] if fit_focal else [])],
                    axis=1,
                )
                left = r.residual - jacobian @ step[columns]
                weight = r.weight * np.clip(1 - (left / (_TUKEY * sigma)) ** 2, 0, None) ** 2
                weight = weight / sigma**2
                normal[np.ix_(columns, columns)] += jacobian.T @ (weight[:, None] * jacobian)
                gradient[columns] += jacobian.T @ (weight * r.residual)
            step = np.zeros(at.length)
            step[free] = np.linalg.solve(normal[np.ix_(free, free)], gradient[free])
        state = _moved(state, step, count)
    tool_vector = state[at.tool]
    poses = tuple(given[k] @ np.asarray(transforms.invert(motion(state[at.camera(k)]))) for k in range(count))
    return Solution(
        poses=poses,
        motions=np.stack([vector_of(np.asarray(transforms.invert(given[k])) @ poses[k]) for k in range(count)]),
        tool=motion(tool_vector),
        tool_vector=tool_vector,
        size_m=float(state[at.surface][0]),
        link_m=float(state[at.surface][1]),
        sizes=state[at.sizes],
        log_focal=np.array([np.log(at.zoom(state, k)) for k in range(count)]),
        covariance=_covariance(normal, precision, free),
        sigma_px=sigma,
        used=used,
    )


@dataclass(frozen=True)
class _Layout:
    """Where each unknown stands in the state: cameras, mounting, the surfaces' distances, sizes, focal lengths."""

    count: int
    number_of_sizes: int
    with_focal: bool

    @property
    def tool(self) -> slice:
        return slice(6 * self.count, 6 * self.count + 6)

    @property
    def surface(self) -> slice:
        return slice(6 * self.count + 6, 6 * self.count + 8)

    @property
    def sizes(self) -> slice:
        return slice(self.surface.stop, self.surface.stop + self.number_of_sizes)

    @property
    def focal(self) -> int:
        return int(self.sizes.stop)

    @property
    def length(self) -> int:
        return self.focal + (self.count if self.with_focal else 0)

    def camera(self, k: int) -> slice:
        return slice(6 * k, 6 * k + 6)

    def own(self, k: int) -> NDArray[np.intp]:
        """The unknowns of camera ``k`` alone."""
        return np.array([*range(6 * k, 6 * k + 6), *([self.focal + k] if self.with_focal else [])], np.intp)

    def columns(self, k: int) -> NDArray[np.intp]:
        """The unknowns that the pictures of camera ``k`` depend on."""
        own = [self.focal + k] if self.with_focal else []
        return np.array([*range(6 * k, 6 * k + 6), *range(6 * self.count, self.focal), *own], np.intp)

    def zoom(self, state: FloatArray, k: int) -> float:
        return float(np.exp(state[self.focal + k])) if self.with_focal else 1.0

    def deviations(self, priors: Priors, evidence: Evidence) -> FloatArray:
        cameras = np.tile(np.repeat([priors.camera_rad, priors.camera_m], 3), self.count)
        tool = [priors.tool_rad] * 3 + [priors.tool_m, priors.tool_m, priors.reach_m]
        sizes = [s.deviation * priors.sizes for s in evidence.hand.sizes[: self.number_of_sizes]]
        focal = [priors.log_focal] * (self.count if self.with_focal else 0)
        return np.concatenate([cameras, tool, [priors.size_m, priors.link_m], sizes, focal])


def _as_found(evidence: Evidence, sizes: FloatArray, zoom: float) -> Evidence:
    """The evidence with the gripper's sizes and the focal length as they are taken to be."""
    if len(sizes):
        evidence = replace(evidence, hand=evidence.hand.resized(sizes))
    return evidence if zoom == 1 else replace(evidence, K=evidence.K @ np.diag([zoom, zoom, 1.0]))


def as_found(evidence: Evidence, found: Solution, camera: int = 0) -> Evidence:
    """The evidence with the mounting, the sizes and the focal length that a solution found."""
    shaped = _as_found(evidence, found.sizes, float(np.exp(found.log_focal[camera])))
    return with_tool(shaped, found.tool)


def _covariance(normal: FloatArray, precision: FloatArray, free: NDArray[np.intp]) -> FloatArray:
    """Covariance of all unknowns, of which only ``free`` ones were fitted and the others kept at their prior."""
    held = np.setdiff1d(np.arange(len(normal)), free)
    out, spread = np.zeros_like(normal), np.diag(1 / np.diag(precision)[held])
    out[np.ix_(held, held)] = spread
    inverse = np.linalg.inv(normal[np.ix_(free, free)])
    effect = inverse @ normal[np.ix_(free, held)]
    out[np.ix_(free, free)] = inverse + effect @ spread @ effect.T
    out[np.ix_(free, held)] = -effect @ spread
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


def _rows(evidence: Evidence, sight: Sight, seen: Seen, surface: FloatArray, reach: float) -> _Rows:
    outline = seen.outline
    points = np.asarray(transforms.apply(seen.camera_from_body, outline.local))
    per_metre = evidence.K[0, 0] / points[:, 2]
    at = outline.uv + (surface[0 if seen.hand else 1] * per_metre)[:, None] * outline.normal
    if sight.distance is None:
        found, strength = edges_along(sight, at, outline.normal, reach)
    else:
        found, strength = distance_at(sight, at, reach)
    good = strength > _MIN_EDGE
    points, normal, local, per_metre = points[good], outline.normal[good], outline.local[good], per_metre[good]
    x, y, z = points.T
    fx, fy = evidence.K[0, 0], evidence.K[1, 1]
    # d(uv)/d(point) along the normal: the pinhole's derivative.
    along = np.stack(
        [normal[:, 0] * fx / z, normal[:, 1] * fy / z, -(normal[:, 0] * fx * x + normal[:, 1] * fy * y) / z**2], 1
    )
    camera = np.concatenate([np.cross(points, along), along], 1)
    # A link is where its joints put it: besides its surface, only the camera can be elsewhere.
    tool, sizes, surfaces = (np.zeros((len(local), n)) for n in (6, len(evidence.hand.sizes), 2))
    surfaces[:, 0 if seen.hand else 1] = per_metre
    if seen.hand:
        turned = along @ seen.camera_from_body[:3, :3]
        tool = np.concatenate([np.cross(local, turned), turned], 1)
        sizes = np.einsum("pmi,pi->pm", outline.grown[good], turned)
    weight = strength[good] / (_SHARED_POINTS if seen.hand else _SHARED_LINK_POINTS)
    focal = normal[:, 0] * fx * x / z + normal[:, 1] * fy * y / z
    return _Rows(found[good], camera, tool, surfaces, sizes, focal, weight, len(outline))


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

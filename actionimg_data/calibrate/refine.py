"""Mend a camera's pose so that the gripper is seen where the poses put it, and say how well it is known then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingCalibrationError
from ..geometry import pinhole, rotations, transforms
from ..model import GripperTrajectory, View
from . import hand_points
from .adjust import Adjusted, adjust
from .arm import Body
from .check import MIN_FRAMES, MIN_MOVED, MIN_SCORE
from .evidence import Evidence, Masks, gather, intrinsics, split_sights, static_pose
from .shape import GripperShape
from .shift import best_shift
from .solve import SEARCH_PX, Known, Priors, Solution, as_found, motion, score, solve, vector_of
from .uncertainty import doubt_points, radii, widened

FloatArray = NDArray[np.float64]

REFINE_FRAMES: Final = 24
MAX_FRAMES: Final = 72
"""Of all episodes that are pooled, so that time and memory stay flat."""

MAX_LEFT_PX: Final = 3.0
UNSEEN_SHARE: Final = 0.5
"""A direction of which more of the prior's standard deviation is left was not seen by the data."""

POINT_PICTURES: Final = 120
_GAIN: Final = 2.0


@dataclass(frozen=True, eq=False)
class Recorded:
    """One episode as one camera saw it.

    Args:
        episode: Its id.
        view: Camera and pictures.
        arms: Trajectory of each gripper.
        mask_ids: Ids of the gripper in the view's mask; empty to go without masks.
        bodies: What else of the arm moves, where joints and a robot file tell (`arm.arms`); the first is the hand's.
        still: What stands still of the arm and may hide what moves.
        arm: What ``bodies`` are, in words.
    """

    episode: str
    view: View
    arms: Mapping[str, GripperTrajectory]
    mask_ids: tuple[int, ...] = ()
    bodies: tuple[Body, ...] = ()
    still: tuple[Body, ...] = ()
    arm: str = ""


@dataclass(frozen=True, eq=False)
class CameraFit:
    """A camera before and after refinement.

    Args:
        view: Name of the camera.
        episodes: Whose pictures were used.
        accepted: Whether the refined pose is better than the recorded one, as far as the pictures can tell.
        reason: Why, in words.
        model: Which gripper model was looked for.
        masks: Whether masks were used.
        K: ``(3, 3)``.
        width: Of the pictures.
        height: Of the pictures.
        recorded: ``world_from_camera (4, 4)`` as given.
        refined: The refined pose; the recorded one where it was refused.
        score_before: Fit of the outline through the recorded pose, in frames that were not fitted.
        score_after: Through the refined pose, in the same frames.
        moved_px: Mean pixels by which the drawn gripper moved.
        overlay_px: 90 of 100 times the drawn gripper is off by less, in the mean over the frames used.
        position_mm: 90 of 100 times the camera's position is off by less.
        rotation_deg: 90 of 100 times the camera's rotation is off by less.
        covariance: ``(6, 6)`` of rotation vector (rad) and shift (m), in the recorded camera's frame.
        unseen: Directions that the pictures do not show, in words.
    """

    view: str
    episodes: tuple[str, ...]
    accepted: bool
    reason: str
    model: str
    masks: bool
    K: FloatArray
    width: int
    height: int
    recorded: FloatArray
    refined: FloatArray
    score_before: float | None = None
    score_after: float | None = None
    moved_px: float | None = None
    overlay_px: float | None = None
    position_mm: float | None = None
    rotation_deg: float | None = None
    covariance: FloatArray | None = None
    unseen: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = field(default=(), repr=False)
    pixel_centre: float = 0.5
    """Where K has the centre of the first pixel."""

    def to_json(self) -> dict[str, Any]:
        """JSON values; the covariance is left out."""

        def number(value: float | None, digits: int) -> float | None:
            return None if value is None else round(float(value), digits)

        turned = transforms.invert(self.recorded) @ self.refined
        return {
            "view": self.view,
            "episodes": list(self.episodes),
            "accepted": self.accepted,
            "reason": self.reason,
            "model": self.model,
            "masks": self.masks,
            "score_before": number(self.score_before, 3),
            "score_after": number(self.score_after, 3),
            "gripper_moved_px": number(self.moved_px, 2),
            "camera_moved_mm": number(1e3 * float(np.linalg.norm(turned[:3, 3])), 1) if self.accepted else None,
            "camera_turned_deg": number(_degrees(turned), 2) if self.accepted else None,
            "overlay_error_px": number(self.overlay_px, 2),
            "pose_error_mm": number(self.position_mm, 1),
            "pose_error_deg": number(self.rotation_deg, 2),
            "unseen": list(self.unseen),
        }

    def entry(self) -> dict[str, Any]:
        """The camera as an entry of a camera file."""
        return {
            "K": self.K.tolist(),
            "width": self.width,
            "height": self.height,
            "world_from_camera": self.refined.tolist(),
            "pixel_centre": self.pixel_centre,
            "origin": {"kind": "refined", "overlay_px": self.overlay_px, "position_mm": self.position_mm},
        }


def refine_camera(
    name: str,
    recorded: Sequence[Recorded],
    shape: GripperShape,
    *,
    priors: Priors | None = None,
    frames: int = REFINE_FRAMES,
    keep: bool = False,
) -> CameraFit:
    """Refine one camera on one or several episodes that share it.

    Args:
        name: Of the view.
        recorded: The episodes; all with the same camera.
        shape: The gripper to look for.
        priors: How far the recorded pose may be off, one standard deviation an axis.
        frames: How many frames of each episode to use (fewer of each where there are many episodes).
        keep: Keep pictures in the result, for `pictures.sheet`.

    Raises:
        MissingCalibrationError: A view has no camera.
    """
    first = recorded[0].view.camera
    if first is None:
        raise MissingCalibrationError("the view has no camera to refine", where=recorded[0].episode, field=name)
    priors = (priors or Priors()).with_model_error(shape.error_m)
    given = static_pose(first)
    with_masks = all(r.mask_ids and r.view.mask is not None for r in recorded)

    def refused(reason: str, pose: FloatArray, **found: Any) -> CameraFit:
        return CameraFit(
            name,
            tuple(r.episode for r in recorded),
            False,
            reason,
            shape.name,
            with_masks,
            intrinsics(first),
            first.width,
            first.height,
            pose,
            pose,
            pixel_centre=first.pixel_centre,
            **found,
        )

    if given is None:
        pose = first.world_from_camera if first.world_from_camera.ndim == 2 else first.world_from_camera[0]
        return refused("the camera moves: only cameras that stand still can be refined", pose)
    gathered = _gather(
        recorded, given, shape, max(MIN_FRAMES, min(frames, MAX_FRAMES // len(recorded))), keep, with_masks
    )
    kept = tuple(gathered) if keep else ()
    if sum(len(e.sights) for e in gathered) < MIN_FRAMES:
        return refused("the gripper is in the picture, in different places, in too few frames", given, evidence=kept)
    if max(float(np.mean([s.moved for s in e.sights])) for e in gathered) < MIN_MOVED:
        return refused("nothing moves where the gripper should be", given, evidence=kept)
    fitted, judged = split_sights(gathered)
    best = _search(fitted, given, priors, not with_masks)
    if best is None:
        return refused("the gripper is too small in the picture", given, evidence=kept)
    # Once more with the frames that the gripper is in according to the pose that was found.
    pose = best.poses[0]
    gathered = _gather(
        recorded, pose, shape, max(MIN_FRAMES, min(frames, MAX_FRAMES // len(recorded))), keep, with_masks
    )
    kept = tuple(gathered) if keep else ()
    if sum(len(e.sights) for e in gathered) < MIN_FRAMES:
        return refused("through the pose that fits best the gripper is in too few frames", given, evidence=kept)
    fitted, judged = split_sights(gathered)
    K = intrinsics(first)
    told = None if with_masks else _by_points(recorded, K, [pose, given])
    known = None
    if told is not None:
        away = np.asarray(transforms.invert(motion(told[1].state[:6]))) @ given
        known = Known(told[1].information, vector_of(away))
    best = solve([fitted], [given], priors, [pose], SEARCH_PX[3:], fit_sizes=not with_masks, begin=best, known=known)
    # Judged with the gripper as it was found, so that only the pose makes the difference.
    judged = [as_found(e, best) for e in judged] if not with_masks else judged
    before, after = score([judged], [given]), score([judged], best.poses)
    pose, covariance, model = best.poses[0], best.covariance[:6, :6], shape.name
    reason = f"the gripper fits better by {float(after.mean() - before.mean()):.2f} in frames not fitted"
    unclear = float(after.mean()) < MIN_SCORE
    alone = told[0] if told is not None and unclear else None
    if told is not None and alone is not None:
        precision = np.diag(np.repeat([priors.camera_rad, priors.camera_m], 3) ** -2.0)
        pose, covariance = motion(told[1].state[:6]), np.asarray(np.linalg.inv(told[1].information + precision))
        reason = f"{alone.bundle.count} points of the hand keep their place; its outline is not seen clearly"
        after, model = score([judged], [pose]), f"points of the hand, without edges of: {shape.name}"
    if not with_masks:
        covariance = widened(covariance, K, first.width)
    points, _ = _workspace(gathered)
    errors = radii(covariance, K, pose, points)
    figures: dict[str, Any] = {
        "score_before": float(before.mean()),
        "score_after": float(after.mean()),
        "moved_px": overlay_px(gathered, given, pose),
        "evidence": kept,
    }
    if unclear and alone is None:
        text = f"no pose near the recorded one shows the gripper model (fit {after.mean():.2f} < {MIN_SCORE})"
        return refused(text, given, **figures)
    doubt = _doubt(pose, given, priors, figures["moved_px"], errors[0])
    if not doubt and alone is not None:
        doubt = doubt_points(alone, False, K, points, first.width)
    elif not doubt:
        doubt = _doubt_edges(pose, before, after, judged)
    if doubt:
        return refused(doubt, given, **figures)
    return CameraFit(
        view=name,
        episodes=tuple(r.episode for r in recorded),
        accepted=True,
        reason=reason,
        model=model,
        masks=with_masks,
        K=K,
        pixel_centre=first.pixel_centre,
        width=first.width,
        height=first.height,
        recorded=given,
        refined=pose,
        overlay_px=errors[0],
        position_mm=errors[1],
        rotation_deg=errors[2],
        covariance=covariance,
        unseen=unseen_directions(covariance, priors),
        **figures,
    )


def _gather(
    recorded: Sequence[Recorded], pose: FloatArray, shape: GripperShape, count: int, keep: bool, with_masks: bool
) -> list[Evidence]:
    found = []
    for r in recorded:
        if r.view.camera is None:
            raise MissingCalibrationError("the view has no camera to refine", where=r.episode)
        masks = Masks(r.view.mask, r.mask_ids) if with_masks and r.view.mask is not None else None
        evidence = gather(r.view.frames, r.arms, r.view.camera, pose, shape.hand, count, keep, masks)
        if evidence.sights:
            found.append(evidence)
    return found


def _by_points(
    recorded: Sequence[Recorded], K: FloatArray, starts: Sequence[FloatArray]
) -> tuple[hand_points.PointFit, Adjusted] | None:
    """What points of the hand tell of the camera near given poses; None where too few keep their place in the hand."""
    each = max(25, POINT_PICTURES // len(recorded))
    tracks = [hand_points.follow(r.view.frames, arm, each) for r in recorded for arm in r.arms.values()]
    tracks = [t for t in tracks if len(t.uv)]
    tried = [hand_points.fit(tracks, K, pose, False, final=True) for pose in starts] if tracks else []
    found = max((f for f in tried if f is not None), key=lambda f: f.support, default=None)
    if found is None or found.fitting < hand_points.MIN_FITTING:
        return None
    return found, adjust(found.bundle, found.state, False, free_offset=True)


def _search(fitted: Sequence[Evidence], given: FloatArray, priors: Priors, fit_sizes: bool) -> Solution | None:
    """The best of the fits that start at the shifts at which the outline fits well."""
    first = max(fitted, key=lambda e: len(e.sights))
    shift = best_shift(first, given)
    if shift is None:
        return None
    best: tuple[float, Solution] | None = None
    for u, v in shift.peaks:
        turn = np.array([-v / first.K[1, 1], u / first.K[0, 0], 0, 0, 0, 0])
        start = given @ np.asarray(transforms.invert(motion(turn)))
        found = solve([fitted], [given], priors, [start], SEARCH_PX[:5], fit_sizes=fit_sizes)
        value = float(score([[as_found(e, found) for e in fitted] if fit_sizes else fitted], found.poses).mean())
        if best is None or value > best[0]:
            best = (value, found)
    return None if best is None else best[1]


def _doubt(pose: FloatArray, given: FloatArray, priors: Priors, moved: float, error: float) -> str:
    """Why the refined pose must not be used, by how far it is from the recorded one; empty where it may be."""
    limits = np.repeat([priors.camera_rad, priors.camera_m], 3) * 5
    if (np.abs(vector_of(np.asarray(transforms.invert(given)) @ pose)) > limits).any():
        return "the pose that fits best is too far from the recorded one to be believed"
    if moved <= _GAIN * error:
        return f"the recorded pose is as good as can be told: within {moved:.1f} pixels, known to ± {error:.1f}"
    return ""


def _doubt_edges(pose: FloatArray, before: FloatArray, after: FloatArray, judged: Sequence[Evidence]) -> str:
    """Why the gripper's outline does not confirm the refined pose; empty where it does."""
    gain = after - before
    if float(gain.mean()) <= 2 * float(gain.std(ddof=1)) / np.sqrt(len(gain)):
        return "frames that were not fitted do not fit better through the refined pose"
    shift = best_shift(judged[0], pose)
    if shift is None or np.linalg.norm(shift.best) > MAX_LEFT_PX:
        return "through the refined pose the gripper would be seen elsewhere still"
    return ""


def _workspace(evidence: Sequence[Evidence]) -> tuple[FloatArray, FloatArray]:
    """World points ``(N, 3)`` of the gripper in the frames used, and the working camera matrix."""
    points = [
        transforms.apply(s.world_from_gripper, e.hand.posed(s.openness)[:: max(1, len(e.hand.vertices) // 24)])
        for e in evidence
        for s in e.sights
    ]
    return np.concatenate(points), evidence[0].K


def overlay_px(evidence: Sequence[Evidence], a: FloatArray, b: FloatArray) -> float:
    """Mean distance in pixels of the source of the gripper drawn through two camera poses."""
    points, K = _workspace(evidence)
    first, second = (np.asarray(pinhole.project(points, K, pose)[0]) for pose in (a, b))
    return float(np.linalg.norm(first - second, axis=-1).mean()) / evidence[0].scale


def unseen_directions(covariance: FloatArray, priors: Priors) -> tuple[str, ...]:
    """Directions of the camera's motion of which the pictures say little, in words."""
    scale = np.repeat([priors.camera_rad, priors.camera_m], 3)
    values, vectors = np.linalg.eigh(covariance / scale[:, None] / scale)
    out = []
    names = (
        "turning about x",
        "turning about y",
        "rolling about z",
        "moving along x",
        "moving along y",
        "moving along z",
    )
    for value, vector in zip(values[::-1], vectors.T[::-1], strict=True):
        if value < UNSEEN_SHARE**2:
            break
        step = np.sqrt(value) * vector * scale
        order = np.argsort(-np.abs(vector))
        parts = [
            f"{names[i]} ({np.degrees(step[i]):+.1f}°)" if i < 3 else f"{names[i]} ({1e3 * step[i]:+.0f} mm)"
            for i in order
            if abs(vector[i]) > 0.3
        ]
        out.append(" with ".join(parts))
    return tuple(out)


def _degrees(transform: FloatArray) -> float:
    return float(np.degrees(np.linalg.norm(np.asarray(rotations.rotation_vector_from_matrix(transform[:3, :3])))))

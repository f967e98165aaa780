"""Is a camera's calibration true: is the gripper seen where the recorded pose and camera put it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..model import Episode, GripperTrajectory, View
from .evidence import Evidence, gather, static_pose
from .shape import GripperShape
from .shift import Shift, best_shift

FloatArray = NDArray[np.float64]
Verdict = Literal["ok", "off", "cannot tell"]

CHECK_FRAMES: Final = 16
MIN_FRAMES: Final = 6
PICTURE_ERROR_PX: Final = 0.2
"""How far edges are found off as a whole, one standard deviation in working pixels."""

OFF_SIGMA: Final = 2.55
"""Shifts of this many standard deviations were exceeded by true cameras in 5 of 100 cases of the setting half, see
docs/calibration.md; for Gaussian errors it would be 2.45."""

INTERVAL_SIGMA: Final = 2.146
"""Radius in standard deviations that holds 90 of 100 two-dimensional Gaussian errors."""

MIN_SCORE: Final = 0.42
MAX_RIVAL: Final = 0.97
MIN_MOVED: Final = 0.01
MAX_SPREAD_PX: Final = 2.5


@dataclass(frozen=True, eq=False)
class CameraCheck:
    """What was found out about one camera in one episode.

    Args:
        episode: Its id.
        view: Name of the camera.
        verdict: ``ok``, ``off`` or ``cannot tell``.
        reason: Why, in words.
        model: Which gripper model was looked for.
        frames: The frames that were looked at.
        shift_px: ``(2,)`` pixels of the source, right and down, by which the gripper is seen away from where it
            should be; None where nothing can be said.
        interval_px: Radius around ``shift_px`` that holds the true shift in 90 of 100 cases.
        sigmas: The shift in standard deviations.
        score: Fit of the outline at that shift, in [0, 1].
        score_here: Fit without it.
    """

    episode: str
    view: str
    verdict: Verdict
    reason: str
    model: str
    frames: tuple[int, ...] = ()
    shift_px: FloatArray | None = None
    interval_px: float | None = None
    sigmas: float | None = None
    score: float | None = None
    score_here: float | None = None
    evidence: Evidence | None = field(default=None, repr=False)
    shift: Shift | None = field(default=None, repr=False)

    @property
    def displacement_px(self) -> float | None:
        """Length of ``shift_px``."""
        return None if self.shift_px is None else float(np.linalg.norm(self.shift_px))

    def to_json(self) -> dict[str, Any]:
        """JSON values."""

        def number(value: float | None, digits: int) -> float | None:
            return None if value is None else round(float(value), digits)

        return {
            "episode": self.episode,
            "view": self.view,
            "verdict": self.verdict,
            "reason": self.reason,
            "displacement_px": number(self.displacement_px, 2),
            "interval_px": number(self.interval_px, 2),
            "shift_px": None if self.shift_px is None else [number(v, 2) for v in self.shift_px],
            "sigmas": number(self.sigmas, 2),
            "score": number(self.score, 3),
            "score_here": number(self.score_here, 3),
            "frames": list(self.frames),
            "model": self.model,
        }


def check_view(
    view: View,
    arms: Mapping[str, GripperTrajectory],
    shape: GripperShape,
    *,
    episode: str = "",
    name: str = "",
    frames: int = CHECK_FRAMES,
    keep: bool = False,
) -> CameraCheck:
    """Check one camera against its pictures of one episode.

    Args:
        view: Pictures and camera.
        arms: Trajectory of each gripper, by name.
        shape: The gripper to look for.
        episode: Its id, for the result.
        name: Of the camera, for the result.
        frames: How many frames to look at.
        keep: Keep pictures in the result, for `pictures.sheet`.
    """

    def cannot(reason: str, **found: Any) -> CameraCheck:
        return CameraCheck(episode, name, "cannot tell", reason, shape.name, **found)

    if view.camera is None:
        return cannot("the view has no camera")
    pose = static_pose(view.camera)
    if pose is None:
        return cannot("the camera moves: only cameras that stand still can be checked")
    evidence = gather(view.frames, arms, view.camera, pose, shape.hand, frames, keep)
    used = tuple(sorted({s.index for s in evidence.sights}))
    if not evidence.sights:
        return cannot("through this camera the gripper is never in the picture")
    if len(used) < MIN_FRAMES:
        return cannot(f"the gripper is in the picture, in different places, in {len(used)} frames only", frames=used)
    if float(np.mean([s.moved for s in evidence.sights])) < MIN_MOVED:
        return cannot("nothing moves where the gripper should be", frames=used, evidence=evidence if keep else None)
    shift = best_shift(evidence, pose)
    if shift is None:
        return cannot("the gripper is too small in the picture", frames=used)
    per_metre = evidence.K[0, 0] / evidence.distance
    covariance = shift.spread + (PICTURE_ERROR_PX**2 + (shape.error_m * per_metre) ** 2) * np.eye(2)
    sigmas = float(np.sqrt(shift.best @ np.linalg.solve(covariance, shift.best)))
    largest = float(np.sqrt(np.linalg.eigvalsh(covariance)[-1]))
    found: dict[str, Any] = {
        "frames": used,
        "score": shift.score,
        "score_here": shift.score_here,
        "evidence": evidence if keep else None,
        "shift": shift,
    }
    reason = _unsure(shift, evidence)
    if reason:
        return cannot(reason, **found)
    # Other places that fit about as well: where all of them are away from where the gripper should be, it is off.
    others = shift.peaks[1:][shift.peak_scores[1:] > MAX_RIVAL * shift.score]
    reach = INTERVAL_SIGMA * largest + max((float(np.linalg.norm(p - shift.best)) for p in others), default=0.0)
    found |= {
        "shift_px": shift.best / evidence.scale,
        "interval_px": reach / evidence.scale,
        "sigmas": sigmas,
    }
    least = min((float(np.linalg.norm(p)) for p in others), default=np.inf)
    if len(others) and (sigmas <= OFF_SIGMA or least <= 2 * OFF_SIGMA * largest):
        return cannot(f"another place fits about as well ({shift.rival:.2f} and {shift.score:.2f})", **found)
    if sigmas <= OFF_SIGMA:
        if largest > MAX_SPREAD_PX:
            return cannot(f"the gripper's place is known to ± {INTERVAL_SIGMA * largest:.1f} pixels only", **found)
        return CameraCheck(episode, name, "ok", "the gripper is seen where it should be", shape.name, **found)
    told = (
        f"the gripper is seen {np.linalg.norm(found['shift_px']):.1f} ± {found['interval_px']:.1f} pixels from where it"
    )
    told += " should be" + (", in one of several places" if len(others) else "")
    return CameraCheck(episode, name, "off", told, shape.name, **found)


def _unsure(shift: Shift, evidence: Evidence) -> str:
    """Why the best shift must not be believed; empty where it may be."""
    if shift.score < MIN_SCORE:
        return (
            f"nothing like the gripper model is seen within {evidence.radius / evidence.scale:.0f} pixels of where it"
            f" should be (fit {shift.score:.2f} < {MIN_SCORE})"
        )
    if shift.at_edge:
        return f"the best place is at the end of the {evidence.radius / evidence.scale:.0f} pixels searched"
    return ""


def check_episode(
    episode: Episode,
    shape: GripperShape | None = None,
    *,
    views: Sequence[str] | None = None,
    frames: int = CHECK_FRAMES,
    keep: bool = False,
) -> dict[str, CameraCheck]:
    """Check the cameras of an episode; the result for each view.

    Args:
        episode: Its pictures are read, some 40 of each view.
        shape: The gripper to look for; by default the parametric one.
        views: Which; by default all.
        frames: How many frames to look at in each view.
        keep: Keep pictures in the results.

    Raises:
        ActionImgError: A picture cannot be read, or a view does not exist.
    """
    shape = shape or GripperShape.parametric()
    chosen = episode.with_views(views) if views is not None else episode
    return {
        name: check_view(view, chosen.grippers, shape, episode=episode.id, name=name, frames=frames, keep=keep)
        for name, view in chosen.views.items()
    }

"""What decoding gives: a trajectory, how sure it is, and why where there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from ..model import GripperTrajectory
from .diagnosis import Diagnosis

FloatArray = NDArray[np.float64]


class Reason(str, Enum):
    """Why a frame has no pose; `DecodedTrajectory.reason` holds the values."""

    OK = "ok"
    NO_KEYPOINTS = "no-keypoints"
    """No view shows a blob."""
    TOO_FEW_KEYPOINTS = "too-few-keypoints"
    """What is visible does not determine a pose."""
    VIEWS_DISAGREE = "views-disagree"
    """The views contradict each other so far that the pose may be off by a tenth of the axis length or 5 degrees."""
    VIEW_LATE = "view-late"
    """The same, and a lag of one view explains it."""
    FLIPS = "flips"
    """The pose rests on few blobs and is turned away from all its neighbours."""
    TOO_UNCERTAIN = "too-uncertain"
    """The pose is less certain than was asked for."""
    SEVERAL_GRIPPERS = "several-grippers"
    """More than one choice of blobs makes a gripper: which of them belong together is not known."""
    OVERLAP = "overlap"
    """Of several grippers in one picture: blobs lie on each other, and what is left does not determine a pose."""
    WHICH_GRIPPER = "which-gripper"
    """Of several grippers in one picture: after an overlap or a leap it is not known which one this is."""


@dataclass(frozen=True, eq=False)
class DecodedTrajectory:
    """What action videos say, and how surely.

    The state of ``covariance`` is (x, y, z, rx, ry, rz): translation of the gripper's origin in metres, then a
    rotation vector in radians, both in world axes: the true pose is ``exp([r]) R``, ``p + (x, y, z)``. A pose from
    one view is the one, of up to four that look the same, that moves most smoothly over time; its covariance is that
    of the single view (far larger along the ray) and contains the distance to the alternatives.
    """

    trajectory: GripperTrajectory
    """Poses and openness; NaN where not ``valid``, and openness also where no picture tells it."""
    valid: NDArray[np.bool_]
    """``(T,)``."""
    reason: NDArray[np.str_]
    """``(T,)`` values of `Reason`; `cause` says it in words."""
    covariance: FloatArray
    """``(T, 6, 6)``; NaN where not ``valid``."""
    keypoints: FloatArray
    """``(V, T, 3, 2)`` measured pixels (origin, normal, up); NaN where a channel shows no blob."""
    keypoint_covariance: FloatArray
    """``(V, T, 3, 2, 2)`` square pixels; NaN where a channel shows no blob."""
    keypoint_valid: NDArray[np.bool_]
    """``(V, T, 3)`` whether the channel shows a blob."""
    keypoint_used: NDArray[np.bool_]
    """``(V, T, 3)`` whether the pose rests on it: it was measured, and not found to be wrong."""
    residual: FloatArray
    """``(V, T, 3, 2)`` measured minus reprojected pixels, also of blobs found to be wrong; NaN where unknown."""
    openness_level: FloatArray
    """``(T,)`` pedestal over its height when open, before any threshold; NaN where no picture tells it."""
    trust: FloatArray
    """``(T,)`` in [0, 1]: probability that the pose is right, within a tenth of the axis length (10 mm by default) and
    5 degrees, by its covariance; 0 where not ``valid``. docs/decoding.md has what was stated against what was found."""
    openness_probability: FloatArray
    """``(T,)`` of being open; NaN where no picture tells it."""
    keypoint_free: NDArray[np.bool_]
    """``(V, T, 3)`` whether the keypoint was measured without the spec's width and height (see `FreeBlobs`)."""
    diagnosis: Diagnosis
    """How the clip's pictures differ from the spec, and its views from each other."""

    def __len__(self) -> int:
        return len(self.valid)

    def restricted(self, keep: NDArray[np.bool_]) -> DecodedTrajectory:
        """Without the poses that are not in ``keep`` ``(T,)``; their reason is `Reason.TOO_UNCERTAIN`."""
        drop = self.valid & ~np.asarray(keep)
        t = self.trajectory
        return replace(
            self,
            trajectory=GripperTrajectory(
                np.where(drop[:, None], np.nan, t.position),
                np.where(drop[:, None], np.nan, t.quaternion_xyzw),
                t.openness,
                t.times,
                allow_missing=True,
            ),
            valid=self.valid & ~drop,
            reason=np.where(drop, Reason.TOO_UNCERTAIN.value, self.reason),
            covariance=np.where(drop[:, None, None], np.nan, self.covariance),
            keypoint_used=self.keypoint_used & ~drop[None, :, None],
            residual=np.where(drop[None, :, None, None], np.nan, self.residual),
            trust=np.where(drop, 0.0, self.trust),
        )

    def cause(self, frame: int) -> str:
        """Why a frame has no pose, in a sentence with what the clip shows; empty where it has one."""
        if self.valid[frame]:
            return ""
        text = _CAUSES[Reason(self.reason[frame])]
        shown = [f.text for f in self.diagnosis.findings if f.fatal]
        return f"{text}: {'; '.join(shown)}" if shown else text

    @property
    def views_used(self) -> NDArray[np.int64]:
        """``(T,)`` number of views that the pose rests on; 1 means that continuity chose among solutions."""
        return np.asarray(self.keypoint_used.any(axis=-1).sum(axis=0))

    @property
    def reprojection_rms(self) -> FloatArray:
        """``(T,)`` root mean square length in pixels of the residuals of the keypoints used; NaN where invalid."""
        squared = np.where(self.keypoint_used[..., None], self.residual, 0.0) ** 2
        count = self.keypoint_used.sum(axis=(0, 2))
        with np.errstate(invalid="ignore"):
            rms = np.sqrt(squared.sum(axis=(0, 2, 3)) / np.maximum(count, 1))
        return np.where(self.valid, rms, np.nan)


_CAUSES = {
    Reason.OK: "",
    Reason.NO_KEYPOINTS: "no view shows a blob",
    Reason.TOO_FEW_KEYPOINTS: "what is visible does not determine a pose",
    Reason.VIEWS_DISAGREE: "the views contradict each other too far",
    Reason.VIEW_LATE: "one view is late",
    Reason.FLIPS: "the pose would leap away from its neighbours",
    Reason.TOO_UNCERTAIN: "the pose is less certain than was asked for",
    Reason.SEVERAL_GRIPPERS: "more than one choice of blobs makes a gripper",
    Reason.OVERLAP: "its blobs and another gripper's lie on each other",
    Reason.WHICH_GRIPPER: "which gripper this is, is not known",
}

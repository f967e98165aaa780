"""How far the clock of the poses is from that of the pictures, estimated from what is seen to move.

Around the projected gripper the pictures' optical flow is measured; for each candidate offset the gripper's own
projected displacement between the same two pictures is computed; the offset at which the two agree best (normalised
correlation of the displacement vectors, over all fixed cameras) is the estimate. It is reported, and applied only
where the user asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ...cameras import flow
from ...errors import AmbiguousSourceError
from ...geometry import exact, pinhole, rotations, transforms
from . import sync
from .recording import Recording, ViewInput

FloatArray = NDArray[np.float64]

MAX_OFFSET_S: Final = 0.5
_STEP_S = 0.01
_ROUNDS = 2
_MAX_PAIRS = 400
_MIN_CORRELATION = 0.7
_MAX_DISAGREEMENT_S = 0.025
_MIN_LEAD = 0.03
_RIVAL_DISTANCE_S = 0.15


@dataclass(frozen=True)
class OffsetEstimate:
    """A constant offset between two clocks.

    Args:
        offset_s: Seconds to add to the stamps of the poses (and the gripper).
        correlation: Of seen and projected displacements at that offset, in [-1, 1].
        at_zero: The same without an offset.
        views: Offset of each view alone.
        sure: Whether the peak is high, clear of others, within the range searched, and the same in all views.
        why: What makes it unsure.
    """

    offset_s: float
    correlation: float
    at_zero: float
    views: dict[str, float]
    sure: bool
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "offset_s": round(self.offset_s, 5),
            "correlation": round(self.correlation, 4),
            "correlation_at_zero": round(self.at_zero, 4),
            "views": {name: round(value, 5) for name, value in self.views.items()},
            "sure": self.sure,
            "why": self.why,
        }

    def require(self) -> float:
        """The offset; `AmbiguousSourceError` where the estimate is not sure enough to be applied."""
        if not self.sure:
            raise AmbiguousSourceError(
                f"the time offset cannot be estimated: {self.why}",
                field="time_offset",
                found=f"{self.offset_s * 1e3:.1f} ms at correlation {self.correlation:.2f}",
                hint="Give it in seconds, or none.",
            )
        return self.offset_s


def estimate_offset(recording: Recording, max_offset_s: float = MAX_OFFSET_S) -> OffsetEstimate:
    """Estimate the offset of a recording's poses against its pictures; reads the pictures of the fixed cameras.

    Args:
        recording: With stamps; its fixed cameras are used.
        max_offset_s: Range searched, to both sides.

    Raises:
        AmbiguousSourceError: No fixed, calibrated camera with stamps, or nothing moves.
    """
    poses = recording.first.poses.cleaned("pose")
    views = {
        name: view
        for name, view in recording.views.items()
        if view.times is not None and view.poses is None and _fixed_pose(view, recording) is not None
    }
    if not views:
        raise AmbiguousSourceError(
            "needs a fixed, calibrated camera with stamps", where=recording.id, field="time_offset"
        )
    candidates = np.arange(-max_offset_s, max_offset_s + _STEP_S / 2, _STEP_S)
    offset = 0.0
    products: dict[str, FloatArray] = {}
    for _ in range(_ROUNDS):
        # The window follows the gripper, so it is placed again once the offset is known roughly.
        products = {
            name: _correlations(view, recording, poses, candidates, offset, max_offset_s)
            for name, view in views.items()
        }
        products = {name: value for name, value in products.items() if np.isfinite(value).all()}
        if not products:
            raise AmbiguousSourceError("nothing moves in the pictures", where=recording.id, field="time_offset")
        total = np.mean(list(products.values()), axis=0)
        offset = flow.peak_between(candidates, total)
    best = int(total.argmax())
    far = np.abs(candidates - candidates[best]) > _RIVAL_DISTANCE_S
    rival = float(total[far].max()) if far.any() else -1.0
    peak = float(total[best])
    why = ""
    if best in (0, len(candidates) - 1):
        why = f"the best offset is at the end of the range of {max_offset_s:g} s"
    elif peak < _MIN_CORRELATION:
        why = f"seen and projected motion agree too little ({peak:.2f} < {_MIN_CORRELATION})"
    elif peak - rival < _MIN_LEAD:
        why = f"another offset fits as well ({rival:.2f} against {peak:.2f})"
    own = {name: flow.peak_between(candidates, value) for name, value in products.items()}
    apart = max(abs(value - offset) for value in own.values())
    if not why and apart > _MAX_DISAGREEMENT_S:
        why = f"views disagree by up to {apart * 1e3:.0f} ms"
    return OffsetEstimate(
        # Far below what can be known, far above what CPUs differ by: the poses of a data set are shifted by it.
        offset_s=round(offset, 5),
        correlation=peak,
        at_zero=float(np.interp(0.0, candidates, total)),
        views=own,
        sure=not why,
        why=why,
    )


def _fixed_pose(view: ViewInput, recording: Recording) -> FloatArray | None:
    pose = None if view.camera is None else view.camera.world_from_camera
    if pose is None or (pose.ndim == 3 and np.ptp(pose, axis=0).max() > 1e-9):
        return None
    pose = pose if pose.ndim == 2 else pose[0]
    return np.asarray(exact.matmul(recording.first.world_from_frame, pose)) if view.frame == "pose" else pose


def _correlations(
    view: ViewInput,
    recording: Recording,
    poses: sync.PoseSamples,
    candidates: FloatArray,
    offset: float,
    margin: float,
) -> FloatArray:
    """Normalised correlation of seen and projected displacements for each candidate offset; NaN where nothing moves."""
    times = np.asarray(view.times)
    kept = sync.ordered_pictures(times, "pictures")
    # Only pictures at which every candidate has poses, so that each is judged on the same ones.
    inside = (times[kept] - margin >= poses.times[0]) & (times[kept] + margin <= poses.times[-1])
    kept = kept[inside][:_MAX_PAIRS]
    if len(kept) < 10:
        raise AmbiguousSourceError(
            "is too short to estimate an offset",
            where=recording.id,
            field="time_offset",
            expected=f"10 pictures more than {margin:g} s inside the poses",
            found=len(kept),
        )
    stamps = times[kept]
    spots, scale = _projected(view, recording, poses, stamps - offset)
    seen = flow.along(_greys(view, kept), spots, scale)
    every = (stamps[None, :] - candidates[:, None]).ravel()
    paths = _projected(view, recording, poses, every)[0].reshape(len(candidates), len(stamps), -1, 2)
    projected: FloatArray = np.diff(paths, axis=1)
    # Neighbours in the list that are not neighbours in time would compare long with short displacements.
    neighbours = np.diff(kept) == 1
    seen, projected = seen[neighbours].reshape(-1, 2), projected[:, neighbours].reshape(len(candidates), -1, 2)
    good = np.isfinite(seen).all(-1) & np.isfinite(projected).all((0, 2))
    seen, projected = seen[good], projected[:, good]
    moved = [float(np.linalg.norm(d, axis=-1).mean()) if len(seen) else 0.0 for d in (seen, projected)]
    if len(seen) < 8 or moved[0] < flow.MIN_SEEN_PX or moved[1] < flow.MIN_MOTION_PX:
        return np.full(len(candidates), np.nan)
    first = flow.correlation_of(seen, projected)
    if not np.isfinite(first).all():
        return first
    good = flow.agreeing(seen, projected[first.argmax()])
    return flow.correlation_of(seen[good], projected[:, good])


def _projected(
    view: ViewInput, recording: Recording, poses: sync.PoseSamples, at: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Pixels ``(T, P, 2)`` of points along the hand at times ``(T,)``, and pixels for a metre there ``(T,)``.

    Points of the hand, not only its tip: where it turns they move differently, and the tip itself is often the
    empty space between the fingers.
    """
    position, q = poses.at(at, "pose", max_gap_s=np.inf)
    tool = np.asarray(transforms.make_transform(rotations.matrix_from_quaternion(q), position))
    arm = recording.first
    points = transforms.apply(exact.product(arm.world_from_frame, tool, arm.tool_from_gripper), flow.BODY_POINTS)
    uv, depth, valid = (np.asarray(a) for a in pinhole.project(points, view.known.K, _fixed_pose(view, recording)))
    distortion = view.known.distortion
    if distortion is not None and not distortion.is_zero:
        uv = _distorted(uv.reshape(-1, 2), view).reshape(uv.shape)
    uv = np.where(valid[..., None], uv, np.nan)
    return uv, view.known.K[0, 0] / np.where(valid, depth, np.nan).mean(1)


def _distorted(uv: FloatArray, view: ViewInput) -> FloatArray:
    """Where the lens draws what a pinhole would have drawn at ``uv``."""
    K, distortion = view.known.K, view.known.distortion
    rays = exact.matmul(np.concatenate([uv, np.ones((len(uv), 1))], 1), exact.inv3(K).T)
    coefficients = np.asarray(distortion.coefficients if distortion is not None else (0.0,) * 4)
    zero = np.zeros(3)
    if distortion is not None and distortion.model == "fisheye":
        out = cv2.fisheye.projectPoints(rays[:, None], zero, zero, K, coefficients)[0]
    else:
        out = cv2.projectPoints(rays, zero, zero, K, coefficients)[0]
    return np.asarray(out).reshape(-1, 2)


def _greys(view: ViewInput, kept: NDArray[np.intp]) -> Iterator[NDArray[np.uint8]]:
    """The pictures as greys, the right way round."""
    for picture in view.frames.frames([int(k) for k in kept]):
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        if view.flip in ("vertical", "both"):
            grey = grey[::-1]
        if view.flip in ("horizontal", "both"):
            grey = grey[:, ::-1]
        yield np.ascontiguousarray(grey)

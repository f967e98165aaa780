"""How far the clock of the poses is from that of the pictures, estimated from what is seen to move.

Around the projected gripper the pictures' optical flow is measured; for each candidate offset the gripper's own
projected displacement between the same two pictures is computed; the offset at which the two agree best (normalised
correlation of the displacement vectors, over all fixed cameras) is the estimate. It is reported, and applied only
where the user asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...errors import AmbiguousSourceError
from ...geometry import exact, pinhole, rotations, transforms
from . import sync
from .episode import MAX_OFFSET_S, Recording, ViewInput

FloatArray = NDArray[np.float64]

_BODY_M = (-0.03, -0.06, -0.09, -0.12)
_WINDOW_M = 0.2
_SPOT_M = 0.025
_PATCH = 128
_OUTLIER = 2.5
_STEP_S = 0.01
_ROUNDS = 2
_MAX_PAIRS = 400
_MIN_CORRELATION = 0.7
_MAX_DISAGREEMENT_S = 0.025
_MIN_LEAD = 0.03
_RIVAL_DISTANCE_S = 0.15
_MIN_MOTION_PX = 0.2
_MIN_SEEN_PX = 0.02


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
    poses = recording.poses.cleaned("pose")
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
        offset = peak_between(candidates, total)
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
    own = {name: peak_between(candidates, value) for name, value in products.items()}
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


def peak_between(candidates: FloatArray, values: FloatArray) -> float:
    """Where the parabola through the highest value and its neighbours has its top."""
    i = int(values.argmax())
    if i in (0, len(values) - 1):
        return float(candidates[i])
    a, b, c = values[i - 1 : i + 2]
    bend = a - 2 * b + c
    return float(candidates[i] + (0.5 * (a - c) / bend if bend < 0 else 0.0) * _STEP_S)


def _fixed_pose(view: ViewInput, recording: Recording) -> FloatArray | None:
    pose = None if view.camera is None else view.camera.world_from_camera
    if pose is None or (pose.ndim == 3 and np.ptp(pose, axis=0).max() > 1e-9):
        return None
    pose = pose if pose.ndim == 2 else pose[0]
    return np.asarray(exact.matmul(recording.world_from_frame, pose)) if view.frame == "pose" else pose


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
    seen: FloatArray = np.array(list(_flows(view, kept, spots, scale)))
    every = (stamps[None, :] - candidates[:, None]).ravel()
    paths = _projected(view, recording, poses, every)[0].reshape(len(candidates), len(stamps), -1, 2)
    projected: FloatArray = np.diff(paths, axis=1)
    # Neighbours in the list that are not neighbours in time would compare long with short displacements.
    neighbours = np.diff(kept) == 1
    seen, projected = seen[neighbours].reshape(-1, 2), projected[:, neighbours].reshape(len(candidates), -1, 2)
    good = np.isfinite(seen).all(-1) & np.isfinite(projected).all((0, 2))
    seen, projected = seen[good], projected[:, good]
    moved = [float(np.linalg.norm(d, axis=-1).mean()) if len(seen) else 0.0 for d in (seen, projected)]
    if len(seen) < 8 or moved[0] < _MIN_SEEN_PX or moved[1] < _MIN_MOTION_PX:
        return np.full(len(candidates), np.nan)
    first = correlation_of(seen, projected)
    if not np.isfinite(first).all():
        return first
    # Flow fails at some spots (occlusion, plain surfaces): those far off the best fit are left out, then it is redone.
    best = projected[first.argmax()]
    gain = (seen * best).sum() / (best**2).sum()
    error = np.linalg.norm(seen - gain * best, axis=1)
    kept_spots = error <= _OUTLIER * np.median(error)
    return correlation_of(seen[kept_spots], projected[:, kept_spots])


def correlation_of(seen: FloatArray, projected: FloatArray) -> FloatArray:
    """Normalised correlation of ``(N, 2)`` with each of ``(C, N, 2)``, means removed."""
    seen = seen - seen.mean(0)
    projected = projected - projected.mean(1, keepdims=True)
    norms = np.sqrt((seen**2).sum() * (projected**2).sum((1, 2)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((projected * seen).sum((1, 2)) / norms)


def _projected(
    view: ViewInput, recording: Recording, poses: sync.PoseSamples, at: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Pixels ``(T, P, 2)`` of points along the hand at times ``(T,)``, and pixels for a metre there ``(T,)``.

    Points of the hand, not only its tip: where it turns they move differently, and the tip itself is often the
    empty space between the fingers.
    """
    position, q = poses.at(at, "pose", max_gap_s=np.inf)
    tool = np.asarray(transforms.make_transform(rotations.matrix_from_quaternion(q), position))
    body = np.array([[0.0, 0.0, z] for z in _BODY_M])
    points = transforms.apply(exact.product(recording.world_from_frame, tool, recording.tool_from_gripper), body)
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


def _flows(view: ViewInput, kept: NDArray[np.intp], spots: FloatArray, scale: FloatArray) -> Iterator[FloatArray]:
    """Optical flow ``(P, 2)`` in pixels at the hand's points, for each pair of neighbouring pictures."""
    previous = None
    for i, picture in enumerate(view.frames.frames([int(k) for k in kept])):
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        if view.flip in ("vertical", "both"):
            grey = grey[::-1]
        if view.flip in ("horizontal", "both"):
            grey = grey[:, ::-1]
        if previous is not None:
            yield flow_at(previous, grey, spots[i - 1], float(scale[i - 1]))
        previous = np.ascontiguousarray(grey)


def flow_at(a: NDArray[np.uint8], b: NDArray[np.uint8], spots: FloatArray, scale: float) -> FloatArray:
    """Flow ``(P, 2)`` averaged about each spot; NaN where that is outside the picture."""
    out = np.full((len(spots), 2), np.nan)
    if not np.isfinite(scale) or not np.isfinite(spots).any():
        return out
    height, width = a.shape
    half = _WINDOW_M / 2 * scale
    centre = np.nanmean(spots, axis=0)
    x0, x1 = int(max(0, centre[0] - half)), int(min(width, centre[0] + half))
    y0, y1 = int(max(0, centre[1] - half)), int(min(height, centre[1] + half))
    if x1 - x0 < 16 or y1 - y0 < 16:
        return out
    # Small windows are enlarged: the flow's own smoothing would mix hand and background.
    zoom = _PATCH / max(x1 - x0, y1 - y0)
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    patches = [cv2.resize(p[y0:y1, x0:x1], None, fx=zoom, fy=zoom, interpolation=how) for p in (a, b)]
    flow = cv2.calcOpticalFlowFarneback(patches[0], patches[1], None, 0.5, 3, 15, 3, 7, 1.5, 0)
    size = max(1, round(_SPOT_M * scale * zoom))
    flow = cv2.blur(flow, (size, size)) / zoom
    for k, (x, y) in enumerate((spots - [x0, y0]) * zoom):
        if 0 <= x < flow.shape[1] - 1 and 0 <= y < flow.shape[0] - 1:
            out[k] = flow[int(y), int(x)]
    return out

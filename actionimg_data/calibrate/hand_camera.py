"""A camera fixed to the hand, from the scene's own texture.

Points of the scene are followed through pictures, and the transform is the one with which they stand still
(`point_tracks`). What does not move in the picture while the hand does is the hand itself, or what it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ..geometry import rotations, transforms
from ..model import FrameSource, GripperTrajectory
from .flow_search import choose_pairs
from .point_tracks import GROUPS, Bundle, Tracks, follow_points, goes_by
from .solve import motion, vector_of

FloatArray = NDArray[np.float64]

STEP_M: Final = 0.012
POINTS: Final = 120
MIN_SEEN: Final = 4
MIN_POINTS: Final = 300
MIN_TURN_RAD: Final = 0.1
MAX_RESIDUAL_PX: Final = 1.0
MIN_INLIERS: Final = 0.5
SPARSE: Final = 20.0
"""Fewer points a picture than this are said to be why parts of a recording disagree."""

MAX_RIVAL: Final = 1.25
"""Another camera whose residual is less than this times the best one's fits as well."""

WORKING_SIDE: Final = 384
"""Pixels of the longer side of the pictures that points are followed in, at most."""

MAX_OBSERVED: Final = 3000
"""Sights of points that are fitted; more tell no more."""

_OUTLINE_PICTURES: Final = 40
_STAYS: Final = 0.5
_EDGE_LEVELS: Final = 2.5
_MOVED_OPENNESS: Final = 0.05
_LAG_S: Final = 0.6
_MOVES_PX: Final = 4.0
_TREMBLE_PX: Final = 0.5
_STARTS: Final = 48
_TRIED: Final = 14
_KEPT: Final = 4
_FEW: Final = 70
_REACH_M: Final = 0.3
MAX_TURN_SD: Final = float(np.radians(2))
MAX_SHIFT_SD_M: Final = 0.02


@dataclass(frozen=True, eq=False)
class HandCamera:
    """A camera fixed to the hand, as far as the scene tells.

    Args:
        gripper_from_camera: ``(4, 4)``.
        focal: Pixels along x.
        covariance: ``(6, 6)``, or ``(7, 7)`` with the logarithm of the focal length: rotation vector (rad) and shift
            (m) of the camera in its own frame.
        residual_px: Median distance of points from their epipolar lines.
        inliers: Share of the points within 2 pixels.
        fewest: Points a picture, in the median, in that fifth of the time in which fewest can be followed.
        rival: Residual of the best camera elsewhere over the best one's; infinite where there is none.
        reason: Why it must not be believed; empty where it may be.
    """

    gripper_from_camera: FloatArray
    focal: float
    covariance: FloatArray
    residual_px: float
    inliers: float
    fewest: float
    rival: float
    reason: str


def follow(frames: FrameSource, trajectory: GripperTrajectory, pictures: int) -> Tracks:
    """Follow points of the scene through one episode, whose pictures are read once and in order.

    Not followed are points on the hand and beside its outline, which stays where it is in the picture; and no point is
    followed on while the fingers move, for what they take along afterwards stands still no more.
    """
    chosen = np.unique(choose_pairs(trajectory, pictures, STEP_M)[:, 0]).tolist()
    if not chosen:
        return Tracks(np.empty((0, 2)), np.empty(0, np.intp), np.empty(0, np.intp), np.empty((0, 4, 4)))
    scale = min(1.0, WORKING_SIDE / max(frames.width, frames.height))
    size = (max(1, round(frames.width * scale)), max(1, round(frames.height * scale)))
    greys = [
        cv2.resize(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        for p in frames.frames(chosen)
    ]
    allowed = np.where(hand_outline(greys), 0, 255).astype(np.uint8)
    cut = fingers_move(trajectory, np.array(chosen))
    uv, track, picture = follow_points(greys, [allowed] * len(greys), cut, POINTS, max(3, min(size) // 40))
    # What is held in the hand trembles in the picture, while the scene goes by.
    keep = goes_by(uv, track, MIN_SEEN, _MOVES_PX * scale, _TREMBLE_PX)
    _, track = np.unique(track[keep], return_inverse=True)
    return Tracks(uv[keep] / scale, track, picture[keep], trajectory.world_from_gripper[chosen])


def hand_outline(greys: Sequence[NDArray[np.uint8]]) -> NDArray[np.bool_]:
    """Pixels ``(H, W)`` at and about edges that stay in the picture while the hand moves: those of the hand itself."""

    def gradient(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.0)
        both = (cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=0.125))
        return np.stack(both, -1)

    every = greys[:: max(1, len(greys) // _OUTLINE_PICTURES)]
    usual = gradient(np.median(np.stack(every), 0).astype(np.uint8))
    strength = (usual**2).sum(-1)
    alike = np.zeros(strength.shape, np.float32)
    for grey in every:
        here = gradient(grey)
        alike += (here * usual).sum(-1) / (np.maximum((here**2).sum(-1), strength) + 1.0)
    stays = (alike > _STAYS * len(every)) & (strength > _EDGE_LEVELS**2)
    reach = max(3, min(strength.shape) // 24)
    return np.asarray(cv2.dilate(stays.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1))) > 0)


def fingers_move(trajectory: GripperTrajectory, chosen: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which of the chosen frames ``(P,)`` the fingers have moved before, since the frame chosen before it.

    Openness of 0 and 1 alone is a command, which fingers follow within `_LAG_S`.
    """
    openness = np.nan_to_num(trajectory.openness, nan=0.0)
    lag = 0
    if np.isin(openness, (0.0, 1.0)).all():
        step = float(np.median(np.diff(trajectory.times))) if len(trajectory.times) > 1 else 1.0
        lag = int(np.ceil(_LAG_S / max(step, 1e-3)))
    out = np.zeros(len(chosen), np.bool_)
    for k in range(1, len(chosen)):
        since = openness[max(0, chosen[k - 1] - lag) : chosen[k] + 1]
        out[k] = np.ptp(since) > _MOVED_OPENNESS
    return out


def find(
    parts: Sequence[Tracks], middle: FloatArray, focal: float | None, width: int, aspect: float = 1.0, seed: int = 0
) -> HandCamera | str:
    """The camera in the hand that explains the points of some episodes; or why there is none.

    Args:
        parts: Episodes of one camera.
        middle: ``(2,)`` principal point, pixels.
        focal: Along x, pixels; None to find it.
        width: Of the pictures.
        aspect: Focal length along y over that along x.
        seed: Of the starts and of the points taken for the first look.
    """
    world = Bundle(parts, middle, aspect)
    if len(world) < MIN_POINTS:
        return f"too few points of the scene can be followed ({len(world)})"
    turned = max(
        float(np.asarray(rotations.angle_between(p.poses[:, :3, :3], p.poses[:1, :3, :3])).max())
        for p in parts
        if len(p.poses)
    )
    rng = np.random.default_rng(seed)
    world = world.at_most(rng, MAX_OBSERVED)
    few = world.some(rng, _FEW)
    starts = []
    for turn in _turns(rng):
        start = np.concatenate([turn, [0.0, 0.0, -0.08], [np.log(focal or width)]])
        starts.append((float(np.median(np.abs(few.residuals(start)))), start))
    starts.sort(key=lambda s: s[0])
    ends = [few.fitted(start, focal is None, 10, _REACH_M) for _, start in starts[:_TRIED]]
    ends.sort(key=lambda e: e[0])
    distinct: list[FloatArray] = []
    for _, end in ends:
        if len(distinct) < _KEPT and all(_elsewhere(end, other) for other in distinct):
            distinct.append(end)
    final = [world.fitted(state, focal is None, 25, _REACH_M) for state in distinct]
    final.sort(key=lambda e: e[0])
    cost, state = final[0]
    rivals = [c / max(cost, 1e-12) for c, other in final[1:] if _elsewhere(state, other)]
    residual = np.linalg.norm(world.residuals(state).reshape(-1, 2), axis=1)
    # Points that moved, or were lost to something else, are left out; whether they are few is judged with them.
    kept = world.close(state)
    if len(kept) >= MIN_POINTS:
        _, state = kept.fitted(state, focal is None, 25, _REACH_M)
    else:
        kept = world
    found = HandCamera(
        gripper_from_camera=motion(state[:6]),
        focal=float(np.exp(state[6])),
        covariance=kept.spread(state, focal is None),
        residual_px=float(np.median(residual)),
        inliers=float((residual < 2).mean()),
        fewest=_fewest(parts),
        rival=min(rivals, default=float("inf")),
        reason="",
    )
    return HandCamera(**{**vars(found), "reason": _doubt(found, turned)})


def _fewest(parts: Sequence[Tracks]) -> float:
    """Points a picture in the emptiest of `GROUPS` stretches of time, of the episode that has fewest."""
    counts = [np.bincount(p.picture, minlength=len(p.poses)) for p in parts if len(p.poses) >= GROUPS]
    return min((float(np.median(part)) for c in counts for part in np.array_split(c, GROUPS)), default=0.0)


def _doubt(found: HandCamera, turned: float) -> str:
    if turned < MIN_TURN_RAD:
        return "the hand hardly turns, so where in the hand the camera sits cannot be told"
    if found.residual_px > MAX_RESIDUAL_PX or found.inliers < MIN_INLIERS:
        return (
            f"the scene does not move as through a camera fixed to the hand ({found.residual_px:.1f} px, "
            f"{100 * found.inliers:.0f} % of the points fit)"
        )
    sd = np.sqrt(np.diag(found.covariance))
    sparse = ""
    if found.fewest < SPARSE:
        sparse = f"; a fifth of the time has so little texture that {found.fewest:.0f} points a picture are followed"
    if sd[:3].max() > MAX_TURN_SD or sd[3:6].max() > MAX_SHIFT_SD_M:
        return (
            f"parts of the recording disagree by {np.degrees(sd[:3].max()):.1f}° and {1e3 * sd[3:6].max():.0f} mm "
            "(one standard deviation)" + sparse
        )
    if found.rival < MAX_RIVAL:
        return "a camera mounted elsewhere fits as well"
    return ""


def _turns(rng: np.random.Generator) -> Iterator[FloatArray]:
    """Rotation vectors of cameras that look along the fingers, more or less, in any roll; and of any other."""
    for k in range(_STARTS):
        roll = Rotation.from_rotvec([0, 0, 2 * np.pi * k / 12])
        tilt = Rotation.from_rotvec(np.append(rng.normal(size=2) * np.radians((0, 20, 35, 60)[k // 12]), 0))
        yield (roll * tilt).as_rotvec()


def _elsewhere(a: FloatArray, b: FloatArray) -> bool:
    apart = vector_of(np.asarray(transforms.invert(motion(a[:6]))) @ motion(b[:6]))
    return bool(np.linalg.norm(apart[:3]) > np.radians(5) or np.linalg.norm(apart[3:]) > 0.05)

"""A camera fixed to the hand, from the scene's own texture: structure from motion whose motion is known but for one
constant transform.

Points of the scene are followed through pictures. Given ``gripper_from_camera``, the gripper's poses say where the
camera was at each; a point that stands still is then where its rays meet (Hartley and Zisserman, *Multiple View
Geometry*, 12.2), and is seen again where it was followed to, or the transform is wrong. Scale comes from the poses.
What does not move in the picture while the hand does is the hand itself. Other things that move, and points that slide
along edges, err alike for many pictures, so that uncertainty is found by leaving parts of the time out (the
delete-a-group jackknife: Wolter, *Introduction to Variance Estimation*, 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from ..geometry import rotations, transforms
from ..model import FrameSource, GripperTrajectory
from .flow_search import choose_pairs
from .solve import motion, vector_of

FloatArray = NDArray[np.float64]

STEP_M: Final = 0.012
POINTS: Final = 120
MIN_SEEN: Final = 4
MIN_POINTS: Final = 300
MIN_TURN_RAD: Final = 0.1
MAX_RESIDUAL_PX: Final = 1.0
MIN_INLIERS: Final = 0.5
MAX_RIVAL: Final = 1.25
"""Another camera whose residual is less than this times the best one's fits as well."""

_MOVES_PX: Final = 4.0
_BACK_PX: Final = 0.5
_LOSS_PX: Final = 0.5
_STARTS: Final = 48
_KEPT: Final = 6
_REACH_M: Final = 0.3
GROUPS: Final = 5
MAX_TURN_SD: Final = float(np.radians(2))
MAX_SHIFT_SD_M: Final = 0.02


@dataclass(frozen=True, eq=False)
class Tracks:
    """Points of the scene, followed through pictures.

    Args:
        uv: ``(N, 2)`` pixels.
        track: ``(N,)`` which point.
        picture: ``(N,)`` which picture.
        poses: ``(P, 4, 4)`` world_from_gripper of the pictures.
    """

    uv: FloatArray
    track: NDArray[np.intp]
    picture: NDArray[np.intp]
    poses: FloatArray


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
        rival: Residual of the best camera elsewhere over the best one's; infinite where there is none.
        reason: Why it must not be believed; empty where it may be.
    """

    gripper_from_camera: FloatArray
    focal: float
    covariance: FloatArray
    residual_px: float
    inliers: float
    rival: float
    reason: str


def follow(frames: FrameSource, trajectory: GripperTrajectory, pictures: int) -> Tracks:
    """Follow points of the scene through one episode, whose pictures are read once and in order."""
    chosen = np.unique(choose_pairs(trajectory, pictures, STEP_M)[:, 0]).tolist()
    live = np.empty((0, 2), np.float32)
    names = np.empty(0, np.intp)
    seen: list[tuple[NDArray[np.float32], NDArray[np.intp], int]] = []
    count, before = 0, None
    for k, picture in enumerate(frames.frames(chosen)):
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        if before is not None and len(live):
            there, ok, _ = cv2.calcOpticalFlowPyrLK(before, grey, live[:, None], None)
            back, ok_back, _ = cv2.calcOpticalFlowPyrLK(grey, before, there, None)
            good = (ok.ravel() == 1) & (ok_back.ravel() == 1)
            good &= np.linalg.norm(back[:, 0] - live, axis=1) < _BACK_PX
            live, names = there[good, 0], names[good]
        free = np.full(grey.shape, 255, np.uint8)
        apart = max(3, min(grey.shape) // 40)
        for x, y in live.tolist():
            cv2.circle(free, (round(x), round(y)), apart, 0, -1)
        if len(live) < POINTS:
            found = cv2.goodFeaturesToTrack(grey, POINTS - len(live), 0.01, apart, mask=free)
            if found is not None:
                live = np.concatenate([live, found[:, 0]])
                names = np.concatenate([names, count + np.arange(len(found))])
                count += len(found)
        seen.append((live.copy(), names.copy(), k))
        before = grey
    if not seen:
        return Tracks(np.empty((0, 2)), np.empty(0, np.intp), np.empty(0, np.intp), np.empty((0, 4, 4)))
    # Pixel (0, 0) spans [0, 1].
    uv = np.concatenate([s[0] for s in seen]).astype(np.float64) + 0.5
    track = np.concatenate([s[1] for s in seen])
    picture_of = np.concatenate([np.full(len(s[0]), s[2]) for s in seen])
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, track, uv)
    np.maximum.at(high, track, uv)
    good = (np.bincount(track, minlength=count) >= MIN_SEEN) & (np.linalg.norm(high - low, axis=1) > _MOVES_PX)
    keep = good[track]
    _, track = np.unique(track[keep], return_inverse=True)
    return Tracks(uv[keep], track, picture_of[keep], trajectory.world_from_gripper[chosen])


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
    world = _Bundle(parts, middle, aspect)
    if len(world) < MIN_POINTS:
        return f"too few points of the scene can be followed ({len(world)})"
    turned = max(
        float(np.asarray(rotations.angle_between(p.poses[:, :3, :3], p.poses[:1, :3, :3])).max())
        for p in parts
        if len(p.poses)
    )
    rng = np.random.default_rng(seed)
    few = world.some(rng, 120)
    starts = []
    for turn in _turns(rng):
        start = np.concatenate([turn, [0.0, 0.0, -0.08], [np.log(focal or width)]])
        starts.append((float(np.median(np.abs(few.residuals(start)))), start))
    starts.sort(key=lambda s: s[0])
    ends = []
    for _, start in starts[: 3 * _KEPT]:
        ends.append(few.fitted(start, focal is None, 15))
    ends.sort(key=lambda e: e[0])
    final = [world.fitted(state, focal is None, 40) for _, state in ends[:_KEPT]]
    final.sort(key=lambda e: e[0])
    cost, state = final[0]
    rivals = [c / max(cost, 1e-12) for c, other in final[1:] if _elsewhere(state, other)]
    residual = np.linalg.norm(world.residuals(state).reshape(-1, 2), axis=1)
    found = HandCamera(
        gripper_from_camera=motion(state[:6]),
        focal=float(np.exp(state[6])),
        covariance=world.spread(state, focal is None),
        residual_px=float(np.median(residual)),
        inliers=float((residual < 2).mean()),
        rival=min(rivals, default=float("inf")),
        reason="",
    )
    return HandCamera(**{**vars(found), "reason": _doubt(found, turned)})


def _doubt(found: HandCamera, turned: float) -> str:
    if turned < MIN_TURN_RAD:
        return "the hand hardly turns, so where in the hand the camera sits cannot be told"
    if found.residual_px > MAX_RESIDUAL_PX or found.inliers < MIN_INLIERS:
        return (
            f"the scene does not move as through a camera fixed to the hand ({found.residual_px:.1f} px, "
            f"{100 * found.inliers:.0f} % of the points fit)"
        )
    sd = np.sqrt(np.diag(found.covariance))
    if sd[:3].max() > MAX_TURN_SD or sd[3:6].max() > MAX_SHIFT_SD_M:
        return (
            f"parts of the recording disagree by {np.degrees(sd[:3].max()):.1f}° and {1e3 * sd[3:6].max():.0f} mm "
            "(one standard deviation)"
        )
    if found.rival < MAX_RIVAL:
        return "a camera mounted elsewhere fits as well"
    return ""


class _Bundle:
    """All points of some episodes; unknowns are a rotation vector, a shift and the log focal length."""

    def __init__(self, parts: Sequence[Tracks], middle: FloatArray, aspect: float) -> None:
        self.uv = np.concatenate([p.uv for p in parts]) - middle
        self.uv[:, 1] /= aspect
        tracks = np.cumsum([0, *(int(p.track.max(initial=-1)) + 1 for p in parts)])
        pictures = np.cumsum([0, *(len(p.poses) for p in parts)])
        self.track = np.concatenate([p.track + o for p, o in zip(parts, tracks, strict=False)])
        self.picture = np.concatenate([p.picture + o for p, o in zip(parts, pictures, strict=False)])
        self.poses = np.concatenate([p.poses for p in parts])
        self.count = int(tracks[-1])

    def __len__(self) -> int:
        return len(self.track)

    def some(self, rng: np.random.Generator, count: int) -> _Bundle:
        """The same with at most so many points."""
        out = object.__new__(_Bundle)
        number = np.full(self.count, -1)
        picked = rng.permutation(self.count)[:count]
        number[picked] = np.arange(len(picked))
        keep = number[self.track] >= 0
        out.uv, out.picture, out.poses = self.uv[keep], self.picture[keep], self.poses
        out.track, out.count = number[self.track[keep]], len(picked)
        return out

    def residuals(self, state: FloatArray) -> FloatArray:
        """Distances ``(2 N,)`` in pixels of where points were followed to from where they then are."""
        focal = np.exp(state[6])
        cameras = self.poses @ motion(state[:6])
        R, c = cameras[self.picture, :3, :3], cameras[self.picture, :3, 3]
        ray = np.concatenate([self.uv / focal, np.ones((len(self), 1))], 1)
        ray = np.einsum("nij,nj->ni", R, ray / np.linalg.norm(ray, axis=1, keepdims=True))
        across = np.eye(3) - ray[:, :, None] * ray[:, None, :]
        normal, right = np.zeros((self.count, 3, 3)), np.zeros((self.count, 3))
        np.add.at(normal, self.track, across)
        np.add.at(right, self.track, np.einsum("nij,nj->ni", across, c))
        # Rays that are nearly parallel meet far away, and say nothing of where.
        points = np.linalg.solve(normal + 1e-6 * np.eye(3), right[..., None])[..., 0]
        local = np.einsum("nij,ni->nj", R, points[self.track] - c)
        ahead = local[:, 2] > 0.01
        uv = focal * local[:, :2] / np.where(ahead, local[:, 2], 0.01)[:, None]
        return np.asarray(np.where(ahead[:, None], np.clip(uv - self.uv, -50, 50), 50.0).ravel())

    def fitted(self, start: FloatArray, free_focal: bool, evaluations: int) -> tuple[float, FloatArray]:
        """Mean robust loss and state after a fit from ``start``."""
        free = np.arange(7 if free_focal else 6)
        # A camera on the hand is within a hand's reach of the fingertips.
        reach = np.array([np.inf] * 3 + [_REACH_M] * 3 + [1.0])[free]
        begin = np.array([0, 0, 0, 0, 0, 0, start[6]])[free]

        def equations(values: FloatArray) -> FloatArray:
            state = start.copy()
            state[free] = values
            return self.residuals(state)

        found = least_squares(
            equations,
            np.clip(start[free], begin - 0.99 * reach, begin + 0.99 * reach),
            bounds=(begin - reach, begin + reach),
            loss="cauchy",
            f_scale=_LOSS_PX,
            max_nfev=evaluations,
        )
        state = start.copy()
        state[free] = found.x
        return float(found.cost) / len(self), state

    def spread(self, state: FloatArray, free_focal: bool) -> FloatArray:
        """Covariance of the camera's motion in its own frame (and of the log focal length), from parts left out."""
        count = 7 if free_focal else 6
        inverse = np.asarray(transforms.invert(motion(state[:6])))
        away = []
        for part in range(GROUPS):
            left = self._without(part)
            _, other = left.fitted(state, free_focal, 15)
            moved = np.append(vector_of(inverse @ motion(other[:6])), other[6] - state[6])
            away.append(moved[:count])
        apart = np.stack(away) - np.mean(away, axis=0)
        return np.asarray((GROUPS - 1) / GROUPS * apart.T @ apart + 1e-8 * np.eye(count))

    def _without(self, part: int) -> _Bundle:
        """The same without the pictures of one of `GROUPS` stretches of time."""
        group = np.arange(len(self.poses)) * GROUPS // len(self.poses)
        keep = group[self.picture] != part
        out = object.__new__(_Bundle)
        out.uv, out.picture, out.poses = self.uv[keep], self.picture[keep], self.poses
        names, out.track = np.unique(self.track[keep], return_inverse=True)
        out.count = len(names)
        return out


def _turns(rng: np.random.Generator) -> Iterator[FloatArray]:
    """Rotation vectors of cameras that look along the fingers, more or less, in any roll; and of any other."""
    for k in range(_STARTS):
        roll = Rotation.from_rotvec([0, 0, 2 * np.pi * k / 12])
        tilt = Rotation.from_rotvec(np.append(rng.normal(size=2) * np.radians((0, 20, 35, 60)[k // 12]), 0))
        yield (roll * tilt).as_rotvec()


def _elsewhere(a: FloatArray, b: FloatArray) -> bool:
    apart = vector_of(np.asarray(transforms.invert(motion(a[:6]))) @ motion(b[:6]))
    return bool(np.linalg.norm(apart[:3]) > np.radians(5) or np.linalg.norm(apart[3:]) > 0.05)

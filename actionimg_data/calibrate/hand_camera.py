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

WORKING_SIDE: Final = 384
"""Pixels of the longer side of the pictures that points are followed in, at most."""

MAX_OBSERVED: Final = 4000
"""Sights of points that are fitted; more tell no more."""

_OUTLINE_PICTURES: Final = 40
_STAYS: Final = 0.5
_EDGE_LEVELS: Final = 2.5
_MOVED_OPENNESS: Final = 0.05
_LAG_S: Final = 0.6
_MOVES_PX: Final = 4.0
_TREMBLE_PX: Final = 0.5
_BACK_PX: Final = 0.5
_LOSS_PX: Final = 0.5
_OUT_PX: Final = 1.0
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
    open_to_points = np.where(hand_outline(greys), 0, 255).astype(np.uint8)
    cut = fingers_move(trajectory, np.array(chosen))
    live = np.empty((0, 2), np.float32)
    names = np.empty(0, np.intp)
    seen: list[tuple[NDArray[np.float32], NDArray[np.intp], int]] = []
    count = 0
    apart = max(3, min(size) // 40)
    for k, grey in enumerate(greys):
        if cut[k]:
            live, names = live[:0], names[:0]
        if k and len(live):
            there, ok, _ = cv2.calcOpticalFlowPyrLK(greys[k - 1], grey, live[:, None], None)
            back, ok_back, _ = cv2.calcOpticalFlowPyrLK(grey, greys[k - 1], there, None)
            good = (ok.ravel() == 1) & (ok_back.ravel() == 1)
            good &= np.linalg.norm(back[:, 0] - live, axis=1) < _BACK_PX
            at = np.clip(np.floor(there[:, 0] + 0.5).astype(int), 0, np.array(size) - 1)
            good &= open_to_points[at[:, 1], at[:, 0]] > 0
            live, names = there[good, 0], names[good]
        if len(live) < POINTS:
            free = open_to_points.copy()
            for x, y in live.tolist():
                cv2.circle(free, (round(x), round(y)), apart, 0, -1)
            found = cv2.goodFeaturesToTrack(grey, POINTS - len(live), 0.01, apart, mask=free)
            if found is not None:
                live = np.concatenate([live, found[:, 0]])
                names = np.concatenate([names, count + np.arange(len(found))])
                count += len(found)
        seen.append((live.copy(), names.copy(), k))
    # Pixel (0, 0) spans [0, 1].
    uv = (np.concatenate([s[0] for s in seen]).astype(np.float64) + 0.5) / scale
    track = np.concatenate([s[1] for s in seen])
    picture_of = np.concatenate([np.full(len(s[0]), s[2]) for s in seen])
    order = np.lexsort((picture_of, track))
    uv, track, picture_of = uv[order], track[order], picture_of[order]
    lengths = np.bincount(track, minlength=count)
    first = np.searchsorted(track, np.arange(count))
    low, high = np.minimum.reduceat(uv, first), np.maximum.reduceat(uv, first)
    # What is held in the hand trembles in the picture, while the scene goes by.
    steps = np.linalg.norm(np.diff(uv, axis=0), axis=1)[track[1:] == track[:-1]] * scale
    of_step = track[1:][track[1:] == track[:-1]]
    goes_by = np.bincount(of_step, steps > _TREMBLE_PX, count) > 0.5 * (lengths - 1)
    good = (lengths >= MIN_SEEN) & (np.linalg.norm(high - low, axis=1) > _MOVES_PX) & goes_by
    keep = good[track]
    _, track = np.unique(track[keep], return_inverse=True)
    return Tracks(uv[keep], track, picture_of[keep], trajectory.world_from_gripper[chosen])


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
    world = _Bundle(parts, middle, aspect)
    if len(world) < MIN_POINTS:
        return f"too few points of the scene can be followed ({len(world)})"
    turned = max(
        float(np.asarray(rotations.angle_between(p.poses[:, :3, :3], p.poses[:1, :3, :3])).max())
        for p in parts
        if len(p.poses)
    )
    rng = np.random.default_rng(seed)
    world = world.at_most(rng, MAX_OBSERVED)
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
    # Points that moved, or were lost to something else, are left out; whether they are few is judged with them.
    kept = world.close(state)
    if len(kept) >= MIN_POINTS:
        _, state = kept.fitted(state, focal is None, 40)
    else:
        kept = world
    found = HandCamera(
        gripper_from_camera=motion(state[:6]),
        focal=float(np.exp(state[6])),
        covariance=kept.spread(state, focal is None),
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
        uv = np.concatenate([p.uv for p in parts]) - middle
        uv[:, 1] /= aspect
        tracks = np.cumsum([0, *(int(p.track.max(initial=-1)) + 1 for p in parts)])
        pictures = np.cumsum([0, *(len(p.poses) for p in parts)])
        track = np.concatenate([p.track + o for p, o in zip(parts, tracks, strict=False)])
        picture = np.concatenate([p.picture + o for p, o in zip(parts, pictures, strict=False)])
        self.poses = np.concatenate([p.poses for p in parts])
        self._take(uv, track, picture)

    def _take(self, uv: FloatArray, track: NDArray[np.intp], picture: NDArray[np.intp]) -> None:
        """Keep observations, those of a point side by side."""
        names, track = np.unique(track, return_inverse=True)
        order = np.argsort(track, kind="stable")
        self.uv, self.track, self.picture, self.count = uv[order], track[order], picture[order], len(names)
        self.first = np.searchsorted(self.track, np.arange(self.count))

    def _only(self, keep: NDArray[np.bool_]) -> _Bundle:
        out = object.__new__(_Bundle)
        out.poses = self.poses
        out._take(self.uv[keep], self.track[keep], self.picture[keep])
        return out

    def __len__(self) -> int:
        return len(self.track)

    def some(self, rng: np.random.Generator, count: int) -> _Bundle:
        """The same with at most so many points."""
        return self._only(np.isin(self.track, rng.permutation(self.count)[:count]))

    def close(self, state: FloatArray) -> _Bundle:
        """The same without points that are seen far from where they are, in the median over their sights."""
        residual = np.linalg.norm(self.residuals(state).reshape(-1, 2), axis=1)
        of_point = np.array([np.median(r) for r in np.split(residual, self.first[1:])])
        return self._only((of_point < max(_OUT_PX, 3 * float(np.median(of_point))))[self.track])

    def at_most(self, rng: np.random.Generator, observed: int) -> _Bundle:
        """The same with about so many sights at most."""
        if len(self) <= observed:
            return self
        return self.some(rng, max(20, self.count * observed // len(self)))

    def residuals(self, state: FloatArray) -> FloatArray:
        """Distances ``(2 N,)`` in pixels of where points were followed to from where they then are."""
        focal = np.exp(state[6])
        cameras = self.poses @ motion(state[:6])
        R, c = cameras[self.picture, :3, :3], cameras[self.picture, :3, 3]
        ray = np.concatenate([self.uv / focal, np.ones((len(self), 1))], 1)
        ray = (R @ (ray / np.linalg.norm(ray, axis=1, keepdims=True))[..., None])[..., 0]
        across = np.eye(3) - ray[:, :, None] * ray[:, None, :]
        normal = np.add.reduceat(across, self.first)
        right = np.add.reduceat((across @ c[..., None])[..., 0], self.first)
        # Rays that are nearly parallel meet far away, and say nothing of where.
        points = np.linalg.solve(normal + 1e-6 * np.eye(3), right[..., None])[..., 0]
        local = ((points[self.track] - c)[:, None] @ R)[:, 0]
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
        return self._only(group[self.picture] != part)


def _turns(rng: np.random.Generator) -> Iterator[FloatArray]:
    """Rotation vectors of cameras that look along the fingers, more or less, in any roll; and of any other."""
    for k in range(_STARTS):
        roll = Rotation.from_rotvec([0, 0, 2 * np.pi * k / 12])
        tilt = Rotation.from_rotvec(np.append(rng.normal(size=2) * np.radians((0, 20, 35, 60)[k // 12]), 0))
        yield (roll * tilt).as_rotvec()


def _elsewhere(a: FloatArray, b: FloatArray) -> bool:
    apart = vector_of(np.asarray(transforms.invert(motion(a[:6]))) @ motion(b[:6]))
    return bool(np.linalg.norm(apart[:3]) > np.radians(5) or np.linalg.norm(apart[3:]) > 0.05)

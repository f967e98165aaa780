"""A camera that stands still, from points of the hand alone: no model of the gripper is needed.

Points are followed where pictures differ from their background. Those near where a candidate camera sees the hand are
taken to be rigid with it, and the camera is the one with which they keep their place in the hand (`point_tracks`);
those of the arm behind the wrist, and of things that move by themselves, do not, and are left out. A candidate need
only see the hand's track within a fifth of the picture of where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..geometry import pinhole, transforms
from ..model import FrameSource, GripperTrajectory
from .flow_search import choose_pairs
from .hand_camera import WORKING_SIDE, fingers_move
from .point_tracks import Bundle, Home, Tracks, follow_points, goes_by
from .solve import motion, vector_of

FloatArray = NDArray[np.float64]

STEP_M: Final = 0.01
MIN_SIDE: Final = 256
"""Smaller pictures are enlarged to so many pixels before points are followed."""

POINTS: Final = 200
MIN_SEEN: Final = 5
MIN_OBSERVED: Final = 250
MIN_POINTS: Final = 25
MAX_OBSERVED: Final = 4000
MIN_FITTING: Final = 0.6
"""Share of the points near the hand that must keep their place in it, for a camera to be believed."""

HOME: Final = Home(np.array([0.0, 0.0, -0.1]), np.array([0.03, 0.05, 0.06]))
"""Of the points that are seen of a hand, in its canonical frame, on the setting scenes."""

BACKGROUND_FRAMES: Final = 25

_MOVES_PX: Final = 5.0
_TREMBLE_PX: Final = 0.2
_DIFFERS: Final = 18.0
_WINDOW: Final = 11
_FITS_PX: Final = 1.5
_QUICK: Final = 1000
LAST: Final = 30
"""Evaluations of the fits at the end."""

# How far from the middle of the hand points may be seen (metres), and evaluations of the fit, round by round.
_ROUNDS: Final = ((0.15, 10), (0.12, 10))
_RADIUS_M: Final = 0.11
_BEHIND_M: Final = 0.06
_INSIDE: Final = 0.8


@dataclass(frozen=True, eq=False)
class PointFit:
    """A camera, and how well points of the hand keep their place through it.

    Args:
        state: ``(7,)`` rotation vector and shift of ``world_from_camera``, logarithm of the focal length along x.
        support: Sights of the points that fit, times the share that they are of those near the hand.
        fitting: That share, in [0, 1].
        residual_px: Median over the sights near the hand.
        bundle: The points that were used.
    """

    state: FloatArray
    support: float
    fitting: float
    residual_px: float
    bundle: Bundle

    @property
    def world_from_camera(self) -> FloatArray:
        """``(4, 4)``."""
        return motion(self.state[:6])


def follow(frames: FrameSource, trajectory: GripperTrajectory, pictures: int) -> Tracks:
    """Follow what moves through one episode, whose pictures are read once and in order."""
    chosen = np.unique(choose_pairs(trajectory, pictures, STEP_M)[:, 0]).tolist()
    if not chosen:
        return Tracks(np.empty((0, 2)), np.empty(0, np.intp), np.empty(0, np.intp), np.empty((0, 4, 4)))
    uv, track, picture = follow_moving(frames, trajectory, chosen, POINTS, _MOVES_PX)
    world_from_gripper = trajectory.world_from_gripper
    rates = np.nan_to_num(np.gradient(world_from_gripper[:, :3], trajectory.times, axis=0)[chosen])
    return Tracks(uv, track, picture, np.asarray(transforms.invert(world_from_gripper[chosen])), rates)


def follow_moving(
    frames: FrameSource,
    trajectory: GripperTrajectory,
    chosen: list[int],
    points: int,
    moves_px: float,
) -> tuple[FloatArray, NDArray[np.intp], NDArray[np.intp]]:
    """Points on what differs from the pictures' background, followed through one episode.

    Args:
        frames: Read once and in order.
        trajectory: Of the hand: points are not followed over where its fingers move.
        chosen: Pictures to follow through, in order.
        points: At most so many in a picture.
        moves_px: Points that never move so far, in pixels as followed, are left out.

    Returns:
        Pixels ``(N, 2)`` of the pictures, and of which point and which of the chosen pictures ``(N,)`` they are.
    """
    if not chosen:
        return np.empty((0, 2)), np.empty(0, np.intp), np.empty(0, np.intp)
    evenly = np.unique(np.linspace(0, len(frames) - 1, BACKGROUND_FRAMES).round().astype(int)).tolist()
    longer = max(frames.width, frames.height)
    scale = min(WORKING_SIDE / longer, 1.0) if longer >= MIN_SIDE else MIN_SIDE / longer
    size = (max(1, round(frames.width * scale)), max(1, round(frames.height * scale)))
    order = sorted({*chosen, *evenly})
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    seen = {
        i: p if scale == 1 else cv2.resize(p, size, interpolation=way)
        for i, p in zip(order, frames.frames(order), strict=True)
    }
    background = np.median(np.stack([seen[i] for i in evenly]), 0).astype(np.float32)
    greys, allowed = [], []
    for i in chosen:
        differs = (np.abs(seen[i] - background).max(-1) > _DIFFERS).astype(np.uint8)
        differs = cv2.morphologyEx(differs, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        allowed.append(255 * cv2.dilate(differs, np.ones((3, 3), np.uint8)))
        greys.append(cv2.cvtColor(seen[i], cv2.COLOR_RGB2GRAY))
    cut = fingers_move(trajectory, np.array(chosen))
    uv, track, picture = follow_points(greys, allowed, cut, points, max(3, min(size) // 64), _WINDOW)
    keep = goes_by(uv, track, MIN_SEEN, moves_px * max(scale, 1.0), _TREMBLE_PX)
    _, track = np.unique(track[keep], return_inverse=True)
    return uv[keep] / scale, track, picture[keep]


def near_the_hand(part: Tracks, K: FloatArray, world_from_camera: FloatArray, radius_m: float) -> Tracks:
    """The points that a camera sees within a radius of the middle of the hand, in most of their sights."""
    world_from_gripper = np.asarray(transforms.invert(part.poses))
    middle = world_from_gripper[:, :3, 3] - _BEHIND_M * world_from_gripper[:, :3, 2]
    uv, depth, _ = (np.asarray(a) for a in pinhole.project(middle, K, world_from_camera))
    radius = radius_m * K[0, 0] / np.maximum(depth, 0.05)
    inside = np.linalg.norm(part.uv - uv[part.picture], axis=1) < radius[part.picture]
    count = np.maximum(np.bincount(part.track), 1)
    keep = (np.bincount(part.track, inside) > _INSIDE * count)[part.track]
    _, track = np.unique(part.track[keep], return_inverse=True)
    return Tracks(part.uv[keep], track, part.picture[keep], part.poses, part.rates)


def fit(
    parts: Sequence[Tracks],
    K: FloatArray,
    world_from_camera: FloatArray,
    free_focal: bool,
    final: bool = False,
) -> PointFit | None:
    """The camera near a candidate with which points of the hand keep their place; None where too few are seen.

    Args:
        parts: Episodes of one camera.
        K: ``(3, 3)`` of the candidate.
        world_from_camera: ``(4, 4)`` of the candidate.
        free_focal: Find the focal length too.
        final: Fit all points that are near, and then those again that fit.
    """

    def near(K_now: FloatArray, state: FloatArray, radius_m: float) -> list[Tracks]:
        return [near_the_hand(p, K_now, motion(state[:6]), radius_m) for p in parts]

    observed = (_QUICK, MAX_OBSERVED)
    settled = settle(near, K, world_from_camera, free_focal, _ROUNDS, _RADIUS_M, observed, final, HOME)
    if settled is None:
        return None
    state, bundle = settled
    kept = bundle
    if final:
        kept = bundle.close(state)
        if enough(kept):
            _, state = kept.fitted(state, free_focal, LAST)
    return judged(state, bundle, kept, _FITS_PX)


def enough(bundle: Bundle) -> bool:
    """Whether so many points tell of a camera at all."""
    return len(bundle) >= MIN_OBSERVED and bundle.count >= MIN_POINTS


def settle(
    near: Callable[[FloatArray, FloatArray, float], list[Tracks]],
    K: FloatArray,
    world_from_camera: FloatArray,
    free_focal: bool,
    rounds: Sequence[tuple[float, int]],
    radius_m: float,
    observed: tuple[int, int],
    final: bool,
    home: Home | None = None,
) -> tuple[FloatArray, Bundle] | None:
    """Take the points that a candidate sees near what moves, fit the camera to them, and so on.

    Args:
        near: The points of each episode, for the K and the state of now, and a radius in metres.
        K: ``(3, 3)`` of the candidate.
        world_from_camera: ``(4, 4)`` of the candidate.
        free_focal: Find the focal length too.
        rounds: Radius and evaluations of the fit, round by round.
        radius_m: Radius at the end.
        observed: Sights to fit at most, in rounds and at the end.
        final: Do the last round alone, and fit at the end too.
        home: Where the points are on average, if that is known.

    Returns:
        The state ``(7,)`` and the points at the end; None where too few are seen.
    """
    rng = np.random.default_rng(0)
    middle, aspect = K[:2, 2], float(K[1, 1] / K[0, 0])
    state = np.append(vector_of(world_from_camera), np.log(K[0, 0]))

    def seen(radius: float) -> Bundle | None:
        focal = np.exp(state[6])
        now = np.array([[focal, 0, middle[0]], [0, focal * aspect, middle[1]], [0, 0, 1.0]])
        bundle = Bundle(near(now, state, radius), middle, aspect, home)
        return bundle if enough(bundle) else None

    for radius, evaluations in rounds[-1:] if final else rounds:
        bundle = seen(radius)
        if bundle is None:
            return None
        _, state = bundle.at_most(rng, observed[0]).fitted(state, free_focal, evaluations)
    bundle = seen(radius_m)
    if bundle is None:
        return None
    if final:
        bundle = bundle.at_most(rng, observed[1])
        _, state = bundle.fitted(state, free_focal, LAST)
    return state, bundle


def judged(state: FloatArray, bundle: Bundle, kept: Bundle, fits_px: float) -> PointFit:
    """How well the points of ``bundle`` keep their place, of which ``kept`` were used."""
    off = bundle.off(state)
    good = (off < fits_px)[bundle.track]
    return PointFit(state, float(good.sum() * good.mean()), float(good.mean()), float(np.median(off)), kept)

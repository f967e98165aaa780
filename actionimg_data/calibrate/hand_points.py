"""A camera that stands still, from points of the hand alone: no model of the gripper is needed.

Points are followed where pictures differ from their background. Those near where a candidate camera sees the hand are
taken to be rigid with it, and the camera is the one with which they keep their place in the hand (`point_tracks`);
those of the arm behind the wrist, and of things that move by themselves, do not, and are left out. A candidate need
only see the hand's track within a fifth of the picture of where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..geometry import pinhole, transforms
from ..model import FrameSource, GripperTrajectory
from .flow_search import choose_pairs
from .hand_camera import WORKING_SIDE, fingers_move
from .point_tracks import Bundle, Tracks, follow_points, goes_by
from .solve import motion, vector_of

FloatArray = NDArray[np.float64]

STEP_M: Final = 0.01
POINTS: Final = 200
MIN_SEEN: Final = 5
MIN_OBSERVED: Final = 250
MIN_POINTS: Final = 25
MAX_OBSERVED: Final = 4000
MIN_FITTING: Final = 0.6
"""Share of the points near the hand that must keep their place in it, for a camera to be believed."""

BACKGROUND_FRAMES: Final = 25

_MOVES_PX: Final = 5.0
_TREMBLE_PX: Final = 0.2
_DIFFERS: Final = 18.0
_WINDOW: Final = 11
_FITS_PX: Final = 1.5
_QUICK: Final = 1000

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
    evenly = np.unique(np.linspace(0, len(frames) - 1, BACKGROUND_FRAMES).round().astype(int)).tolist()
    scale = min(1.0, WORKING_SIDE / max(frames.width, frames.height))
    size = (max(1, round(frames.width * scale)), max(1, round(frames.height * scale)))
    order = sorted({*chosen, *evenly})
    pictures_of = {
        i: p if scale == 1 else cv2.resize(p, size, interpolation=cv2.INTER_AREA)
        for i, p in zip(order, frames.frames(order), strict=True)
    }
    background = np.median(np.stack([pictures_of[i] for i in evenly]), 0).astype(np.float32)
    greys, allowed = [], []
    for i in chosen:
        differs = (np.abs(pictures_of[i] - background).max(-1) > _DIFFERS).astype(np.uint8)
        differs = cv2.morphologyEx(differs, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        allowed.append(255 * cv2.dilate(differs, np.ones((3, 3), np.uint8)))
        greys.append(cv2.cvtColor(pictures_of[i], cv2.COLOR_RGB2GRAY))
    cut = fingers_move(trajectory, np.array(chosen))
    uv, track, picture = follow_points(greys, allowed, cut, POINTS, max(3, min(size) // 64), _WINDOW)
    keep = goes_by(uv, track, MIN_SEEN, _MOVES_PX, _TREMBLE_PX)
    _, track = np.unique(track[keep], return_inverse=True)
    world_from_gripper = trajectory.world_from_gripper
    rates = np.nan_to_num(np.gradient(world_from_gripper[:, :3], trajectory.times, axis=0)[chosen])
    poses = np.asarray(transforms.invert(world_from_gripper[chosen]))
    return Tracks(uv[keep] / scale, track, picture[keep], poses, rates)


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
    rng = np.random.default_rng(0)
    middle, aspect = K[:2, 2], float(K[1, 1] / K[0, 0])
    state = np.append(vector_of(world_from_camera), np.log(K[0, 0]))

    def seen(radius: float) -> Bundle | None:
        focal = np.exp(state[6])
        now = np.array([[focal, 0, middle[0]], [0, focal * aspect, middle[1]], [0, 0, 1.0]])
        bundle = Bundle([near_the_hand(p, now, motion(state[:6]), radius) for p in parts], middle, aspect)
        return bundle if len(bundle) >= MIN_OBSERVED and bundle.count >= MIN_POINTS else None

    for radius, evaluations in _ROUNDS[-1:] if final else _ROUNDS:
        bundle = seen(radius)
        if bundle is None:
            return None
        _, state = bundle.at_most(rng, _QUICK).fitted(state, free_focal, evaluations)
    bundle = seen(_RADIUS_M)
    if bundle is None:
        return None
    if final:
        bundle = bundle.at_most(rng, MAX_OBSERVED)
        _, state = bundle.fitted(state, free_focal, 30)
        kept = bundle.close(state)
        if len(kept) >= MIN_OBSERVED and kept.count >= MIN_POINTS:
            _, state = kept.fitted(state, free_focal, 30)
    else:
        kept = bundle
    off = bundle.off(state)
    good = (off < _FITS_PX)[bundle.track]
    return PointFit(state, float(good.sum() * good.mean()), float(good.mean()), float(np.median(off)), kept)

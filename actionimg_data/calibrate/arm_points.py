"""A camera that stands still, from points of the whole arm: those of each link keep their place in that link.

As `hand_points`, but each point that is followed may belong to any link that is seen near it; it is taken to be of the
one in which it keeps its place best. The links' poses are known (`arm`), so that all of them tell of one camera.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..geometry import pinhole, transforms
from ..model import FrameSource, GripperTrajectory, JointTrack
from .arm import Body, Kinematics, arms
from .flow_search import choose_pairs
from .hand_camera import WORKING_SIDE, fingers_move
from .hand_points import BACKGROUND_FRAMES, MIN_OBSERVED, MIN_POINTS, MIN_SEEN, PointFit
from .point_tracks import Bundle, Tracks, follow_points, goes_by
from .refine import Recorded
from .solve import motion, vector_of

FloatArray = NDArray[np.float64]

STEP_M: Final = 0.01
POINTS: Final = 400
MIN_SIDE: Final = 256
"""Smaller pictures are enlarged to so many pixels before points are followed."""

MAX_OBSERVED: Final = 6000
_QUICK: Final = 2000
_MOVES_PX: Final = 2.5
_TREMBLE_PX: Final = 0.2
_DIFFERS: Final = 18.0
_WINDOW: Final = 11
_FITS_SHARE: Final = 1.5 / 256
_INSIDE: Final = 0.8

# How far from a link's bones its points may be seen (metres), and evaluations of the fit, round by round.
_ROUNDS: Final = ((0.16, 8), (0.13, 8), (0.11, 8))
_RADIUS_M: Final = 0.11
_HAND_M: Final = 0.09
"""The hand is wider than what it reaches along."""


@dataclass(frozen=True, eq=False)
class ArmTracks:
    """Points followed through one episode, and where the arm's bodies are.

    Args:
        uv: ``(N, 2)`` pixels.
        track: ``(N,)`` which point.
        picture: ``(N,)`` which picture.
        body_from_world: ``(P, B, 4, 4)``.
        rates: ``(P, B, 3, 4)`` how fast ``world_from_body`` changes, a second.
        bones: For each body ``(P, S, 2, 3)`` metres, world.
    """

    uv: FloatArray
    track: NDArray[np.intp]
    picture: NDArray[np.intp]
    body_from_world: FloatArray
    rates: FloatArray
    bones: tuple[FloatArray, ...]

    @property
    def count(self) -> int:
        """How many points."""
        return int(self.track.max(initial=-1)) + 1

    def of(self, body: NDArray[np.intp], keep: NDArray[np.bool_]) -> Tracks:
        """The points to keep ``(count,)``, each rigid with its body ``(count,)``."""
        chosen = keep[self.track]
        _, track = np.unique(self.track[chosen], return_inverse=True)
        bodies = self.body_from_world.shape[1]
        # A pose for each picture and body, picture by picture, so that stretches of time stay stretches.
        picture = self.picture[chosen] * bodies + body[self.track[chosen]]
        poses, rates = self.body_from_world.reshape(-1, 4, 4), self.rates.reshape(-1, 3, 4)
        return Tracks(self.uv[chosen], track, picture, poses, rates)


def with_arm(recorded: Sequence[Recorded], robot: Kinematics, joints: Mapping[str, JointTrack]) -> list[Recorded]:
    """Episodes with what else of the arm moves, for `guess_camera`.

    Args:
        recorded: Episodes in which the robot stands in one place.
        robot: The robot file, e.g. a `converters.kit.robot.Robot`.
        joints: Of the episodes that have them, by id.

    Returns:
        The same episodes; ``arm`` says what is used, or why nothing is.
    """
    usable = [r for r in recorded if len(r.arms) == 1 and r.episode in joints]
    found = dict(
        zip(
            (r.episode for r in usable),
            arms(robot, [(joints[r.episode], next(iter(r.arms.values()))) for r in usable]) if usable else (),
            strict=True,
        )
    )
    out = []
    for r in recorded:
        moves = found.get(r.episode, "no joints are recorded")
        if isinstance(moves, str):
            out.append(replace(r, arm=f"not used: {moves}"))
        else:
            out.append(replace(r, bodies=moves.bodies, arm=moves.text))
    return out


def follow(frames: FrameSource, trajectory: GripperTrajectory, bodies: Sequence[Body], pictures: int) -> ArmTracks:
    """Follow what moves through one episode, whose pictures are read once and in order."""
    chosen = np.unique(choose_pairs(trajectory, pictures, STEP_M)[:, 0]).tolist()
    poses = np.stack([np.asarray(transforms.invert(b.world_from_body[chosen])) for b in bodies], 1)
    changes = [np.gradient(b.world_from_body[:, :3], trajectory.times, axis=0)[chosen] for b in bodies]
    rates = np.nan_to_num(np.stack(changes, 1))
    bones = tuple(b.bones[chosen] for b in bodies)
    if not chosen:
        return ArmTracks(np.empty((0, 2)), np.empty(0, np.intp), np.empty(0, np.intp), poses, rates, bones)
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
    uv, track, picture = follow_points(greys, allowed, cut, POINTS, max(3, min(size) // 64), _WINDOW)
    keep = goes_by(uv, track, MIN_SEEN, _MOVES_PX * max(scale, 1.0), _TREMBLE_PX)
    _, track = np.unique(track[keep], return_inverse=True)
    return ArmTracks(uv[keep] / scale, track, picture[keep], poses, rates, bones)


def joints(bodies: Sequence[Body]) -> FloatArray | None:
    """World points ``(T, A, 3)`` halfway along each bone of an arm; None where there is none."""
    return np.concatenate([b.bones.mean(2) for b in bodies], 1) if len(bodies) > 1 else None


def near(part: ArmTracks, K: FloatArray, world_from_camera: FloatArray, radius_m: float) -> NDArray[np.bool_]:
    """Which bodies ``(B, count)`` each point is seen near, in most of its sights."""
    count = np.maximum(np.bincount(part.track, minlength=part.count), 1)
    found = []
    for number, bones in enumerate(part.bones):
        uv, depth, ahead = (np.asarray(a) for a in pinhole.project(bones, K, world_from_camera))
        here, z, good = uv[part.picture], depth[part.picture], ahead[part.picture].all(-1)
        start, along = here[:, :, 0], here[:, :, 1] - here[:, :, 0]
        at = ((part.uv[:, None] - start) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-9)
        at = np.clip(at, 0, 1)[..., None]
        away = np.linalg.norm(part.uv[:, None] - start - at * along, axis=-1)
        radius = (radius_m + (_HAND_M - _RADIUS_M if number == 0 else 0)) * K[0, 0] / np.maximum(z.mean(-1), 0.05)
        inside = (good & (away < radius)).any(1)
        found.append(np.bincount(part.track, inside, part.count) > _INSIDE * count)
    return np.stack(found)


def owned(
    part: ArmTracks, K: FloatArray, state: FloatArray, radius_m: float
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The body ``(count,)`` of each point, and which points ``(count,)`` are near any.

    Of the bodies that a point is seen near it is the one in which it keeps its place best.
    """
    close = near(part, K, motion(state[:6]), radius_m)
    middle, aspect = K[:2, 2], float(K[1, 1] / K[0, 0])
    off = np.full(close.shape, np.inf)
    for b, which in enumerate(close):
        if which.any():
            body = np.full(part.count, b)
            off[b, which] = Bundle([part.of(body, which)], middle, aspect).off(state)
    return np.asarray(off.argmin(0), np.intp), np.asarray(close.any(0))


def fit(
    parts: Sequence[ArmTracks],
    K: FloatArray,
    world_from_camera: FloatArray,
    free_focal: bool,
    final: bool = False,
) -> PointFit | None:
    """The camera near a candidate with which points of the arm keep their place; None where too few are seen.

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
    fits_px = _FITS_SHARE * 2 * float(max(middle))

    def seen(radius: float) -> Bundle | None:
        focal = np.exp(state[6])
        now = np.array([[focal, 0, middle[0]], [0, focal * aspect, middle[1]], [0, 0, 1.0]])
        bundle = Bundle([p.of(*owned(p, now, state, radius)) for p in parts if p.count], middle, aspect)
        return bundle if len(bundle) >= MIN_OBSERVED and bundle.count >= MIN_POINTS else None

    for radius, evaluations in _ROUNDS[-1:] if final else _ROUNDS:
        bundle = seen(radius)
        if bundle is None:
            return None
        _, state = bundle.at_most(rng, _QUICK).fitted(state, free_focal, evaluations)
    bundle = seen(_RADIUS_M)
    if bundle is None:
        return None
    kept = bundle
    if final:
        bundle = bundle.at_most(rng, MAX_OBSERVED)
        _, state = bundle.fitted(state, free_focal, 30)
        again = bundle.close(state)
        if len(again) >= MIN_OBSERVED and again.count >= MIN_POINTS:
            kept = again
            _, state = kept.fitted(state, free_focal, 30)
    off = bundle.off(state)
    good = (off < fits_px)[bundle.track]
    return PointFit(state, float(good.sum() * good.mean()), float(good.mean()), float(np.median(off)), kept)

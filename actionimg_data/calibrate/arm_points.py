"""A camera that stands still, from points of the whole arm: those of each link keep their place in that link.

As `hand_points`, but each point that is followed may belong to any link that is seen near it; it is taken to be of the
one in which it keeps its place best. The links' poses are known (`arm`), so that all of them tell of one camera.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import ActionImgError
from ..geometry import pinhole, transforms
from ..model import FrameSource, GripperTrajectory, JointTrack
from ..raster.gripper import link_meshes
from .arm import Body, Kinematics, arms
from .flow_search import choose_pairs
from .hand_points import LAST, PointFit, enough, follow_moving, judged, settle
from .outline import Solid
from .point_tracks import Bundle, Tracks
from .refine import Recorded
from .solve import motion

FloatArray = NDArray[np.float64]

STEP_M: Final = 0.01
POINTS: Final = 400
MAX_OBSERVED: Final = 6000
_QUICK: Final = 2000
_MOVES_PX: Final = 2.5
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
    solids, without = link_solids(robot)
    usable = [r for r in recorded if len(r.arms) == 1 and r.episode in joints]
    found = dict(
        zip(
            (r.episode for r in usable),
            arms(robot, [(joints[r.episode], next(iter(r.arms.values()))) for r in usable], solids) if usable else (),
            strict=True,
        )
    )
    out = []
    for r in recorded:
        moves = found.get(r.episode, "no joints are recorded")
        if isinstance(moves, str):
            out.append(replace(r, arm=f"not used: {moves}"))
        else:
            text = "; ".join(t for t in (moves.text, _outlined(moves.bodies, without)) if t)
            out.append(replace(r, bodies=moves.bodies, still=moves.still, arm=text))
    return out


def link_solids(robot: Kinematics) -> tuple[dict[str, Solid], dict[str, str]]:
    """Shapes of a robot's links that have meshes, and of those whose meshes cannot be read, why."""
    path = Path(robot.where)
    return _solids_at(path, path.stat().st_mtime_ns if path.is_file() else 0, robot.links)


@lru_cache(maxsize=4)
def _solids_at(path: Path, changed: int, names: tuple[str, ...]) -> tuple[dict[str, Solid], dict[str, str]]:
    """As `link_solids`; kept, since each episode asks for the same."""
    found = link_meshes(path, names)
    solids = {n: Solid(m.vertices, m.faces) for n, m in found.items() if not isinstance(m, ActionImgError)}
    return solids, {n: _why(error) for n, error in found.items() if isinstance(error, ActionImgError)}


def _why(error: ActionImgError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _outlined(bodies: Sequence[Body], without: Mapping[str, str]) -> str:
    """Which links' outlines are looked for, in words."""
    count = sum(len(b.solids) for b in bodies)
    moving = [name for b in bodies for name in b.links if name in without]
    told = [f"outlines of {count} links"] if count else []
    for why in dict.fromkeys(without[name] for name in moving):
        told.append(f"no outline of {' '.join(n for n in moving if without[n] == why)}: {why}")
    return "; ".join(told) or "no outlines: the robot file names no meshes"


def follow(frames: FrameSource, trajectory: GripperTrajectory, bodies: Sequence[Body], pictures: int) -> ArmTracks:
    """Follow what moves through one episode, whose pictures are read once and in order."""
    chosen = np.unique(choose_pairs(trajectory, pictures, STEP_M)[:, 0]).tolist()
    poses = np.stack([np.asarray(transforms.invert(b.world_from_body[chosen])) for b in bodies], 1)
    changes = [np.gradient(b.world_from_body[:, :3], trajectory.times, axis=0)[chosen] for b in bodies]
    rates = np.nan_to_num(np.stack(changes, 1))
    bones = tuple(b.bones[chosen] for b in bodies)
    uv, track, picture = follow_moving(frames, trajectory, chosen, POINTS, _MOVES_PX)
    return ArmTracks(uv, track, picture, poses, rates, bones)


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

    def near_any(K_now: FloatArray, state: FloatArray, radius_m: float) -> list[Tracks]:
        return [p.of(*owned(p, K_now, state, radius_m)) for p in parts if p.count]

    settled = settle(near_any, K, world_from_camera, free_focal, _ROUNDS, _RADIUS_M, (_QUICK, MAX_OBSERVED), final)
    if settled is None:
        return None
    state, bundle = settled
    kept = bundle
    if final and enough(again := bundle.close(state)):
        kept = again
        _, state = kept.fitted(state, free_focal, LAST)
    return judged(state, bundle, kept, _FITS_SHARE * 2 * float(max(K[:2, 2])))

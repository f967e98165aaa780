"""Cameras from nothing: where must a camera stand so that the gripper, as it is known to move, moves as is seen?

The optical flow between pictures some travel of the gripper apart is looked up where points of the hand would be seen.
A camera is good where those points move as the picture does there, where the picture differs from its background, and
where points beside the hand do not move along. Cameras drawn about the workspace are scored, those that put the
gripper's track into different places of the picture are kept apart, and each such family is improved by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..geometry import rotations
from ..model import FrameSource, GripperTrajectory

FloatArray = NDArray[np.float64]
Floats = NDArray[np.float32]

WORKING_SIDE: Final = 192
"""Pixels of the longer side of the pictures that flow is computed in."""

TRAVEL_M: Final = 0.02
"""The gripper travels about so far between two pictures that are compared."""

MARK_SHARE: Final = 0.06
"""A gripper this share of the picture's width from where it was marked is hardly believed."""

MAX_GAP: Final = 12
MIN_PAIRS: Final = 8
BACKGROUND_FRAMES: Final = 25

# Points of any parallel-jaw gripper, and points that are free of it, in its canonical frame (metres).
_HAND: Final = np.array(
    [[0, 0, 0], [0, 0, -0.06], [0, 0.035, -0.03], [0, -0.035, -0.03], [0.03, 0, -0.06], [-0.03, 0, -0.06]], np.float32
)
_FREE: Final = np.array(
    [[0, 0, 0.07], [0, 0.17, -0.04], [0, -0.17, -0.04], [0.13, 0, -0.02], [-0.13, 0, -0.02]], np.float32
)
_ARM_M: Final = 0.06
_DIFFERS: Final = 18.0
_DRAWN: Final = 40_000
_FIRST: Final = 500
_BASINS: Final = 8
_APART: Final = 0.12
"""Tracks that lie this share of the picture's width apart, in the mean, belong to different families."""

# Spread of the trials (radians; shares of the distance), trials for each camera, and cameras kept, round by round.
_ROUNDS: Final = ((0.12, 8, 40), (0.08, 8, 28), (0.05, 10, 20), (0.03, 10, 12), (0.02, 12, 8), (0.012, 15, 6))
_STARTS_FROM: Final = 0.05
"""The round after which members of a family are still different enough to begin from."""
_MEMBERS: Final = 3
_DISTINCT: Final = 0.1
_DISTANCE_M: Final = (0.3, 2.5)
_FOCAL_WIDTHS: Final = (0.6, 1.8)
_FREE_WEIGHT: Final = 0.25
_BLOCK: Final = 1000


@dataclass(frozen=True, eq=False)
class Moves:
    """What one episode's pictures show of the gripper's motion, at the working size.

    Args:
        hand: ``(2, M, K, 3)`` world points of the hand (and the arm) at the beginning and the end of each of M pairs of
            frames.
        free: ``(2, M, F, 3)`` world points beside it.
        flow: ``(M, h, w, 2)`` pixels.
        moved: ``(M, h, w)`` in [0, 1]: the first picture differs from the background.
        scale: Working pixels a pixel of the source.
        pairs: ``(M, 2)`` the frames.
        drift: ``(2,)`` flow in the middle and at the end against the beginning: its first tenth, that of what
            stands still.
    """

    hand: Floats
    free: Floats
    flow: Floats
    moved: Floats
    scale: float
    pairs: NDArray[np.intp]
    drift: tuple[float, float] = (0.0, 0.0)

    def __len__(self) -> int:
        return len(self.pairs)


@dataclass(frozen=True, eq=False)
class Cameras:
    """Many cameras at once.

    Args:
        turn: ``(N, 3, 3)`` camera_from_world rotations.
        centre: ``(N, 3)`` metres, world.
        focal: ``(N,)`` working pixels.
        score: ``(N,)``.
    """

    turn: Floats
    centre: Floats
    focal: Floats
    score: Floats

    def __len__(self) -> int:
        return len(self.focal)

    def __getitem__(self, index: NDArray[np.intp] | slice) -> Cameras:
        return Cameras(self.turn[index], self.centre[index], self.focal[index], self.score[index])


def choose_pairs(trajectory: GripperTrajectory, count: int, travel_m: float = TRAVEL_M) -> NDArray[np.intp]:
    """Pairs of frames ``(M, 2)`` between which the gripper travels about so far, spread over all that it does."""
    pose = trajectory.world_from_gripper
    known = np.flatnonzero(trajectory.known)
    if len(known) < 2:
        return np.empty((0, 2), np.intp)
    pose = pose[known]
    point = pose[:, :3, 3] - 0.05 * pose[:, :3, 2]
    turned = np.asarray(rotations.angle_between(pose[1:, :3, :3], pose[:-1, :3, :3]))
    steps = np.linalg.norm(np.diff(point, axis=0), axis=1) + _ARM_M * turned
    way = np.concatenate([[0.0], np.cumsum(steps)])
    found = set()
    for start in np.linspace(0, max(way[-1] - travel_m, 0), count):
        i = min(int(np.searchsorted(way, start)), len(way) - 2)
        j = min(max(int(np.searchsorted(way, way[i] + travel_m)), i + 1), len(way) - 1)
        if known[j] - known[i] > MAX_GAP:
            j = max(int(np.searchsorted(known, known[i] + MAX_GAP, "right")) - 1, i + 1)
        if way[j] - way[i] > 0.3 * travel_m and known[j] - known[i] <= MAX_GAP:
            found.add((int(known[i]), int(known[j])))
    return np.array(sorted(found), np.intp).reshape(-1, 2)


def moves(frames: FrameSource, trajectory: GripperTrajectory, count: int, arm: FloatArray | None = None) -> Moves:
    """Read one episode's pictures, once and in order, and keep what they say of motion.

    Args:
        frames: Pictures of a camera that stands still.
        trajectory: Of the gripper, a pose a picture.
        count: Pairs of pictures to use, at most.
        arm: ``(T, A, 3)`` world points of the rest of the arm, where they are known.
    """
    pairs = choose_pairs(trajectory, count)
    scale = min(1.0, WORKING_SIDE / max(frames.width, frames.height))
    width, height = max(1, round(frames.width * scale)), max(1, round(frames.height * scale))
    evenly = np.unique(np.linspace(0, len(frames) - 1, BACKGROUND_FRAMES).round().astype(int)).tolist()
    order = sorted({*pairs.ravel().tolist(), *evenly})
    small = {
        i: cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        for i, picture in zip(order, frames.frames(order), strict=True)
    }
    background = np.median(np.stack([small[i] for i in evenly]), 0).astype(np.float32)
    grey = {i: cv2.cvtColor(small[i], cv2.COLOR_RGB2GRAY) for i in {*pairs.ravel().tolist()}}
    dense: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dense.setFinestScale(0)
    begin, *later = (cv2.cvtColor(small[evenly[k]], cv2.COLOR_RGB2GRAY) for k in (0, len(evenly) // 2, -1))
    gone = [float(np.percentile(np.linalg.norm(dense.calc(begin, g, None), axis=-1), 10)) for g in later]
    flow = np.zeros((len(pairs), height, width, 2), np.float32)
    moved = np.zeros((len(pairs), height, width), np.float32)
    for k, (i, j) in enumerate(pairs.tolist()):
        flow[k] = dense.calc(grey[i], grey[j], None)
        differs = (np.abs(small[i] - background).max(-1) > _DIFFERS).astype(np.float32)
        moved[k] = cv2.GaussianBlur(differs, (0, 0), max(height, width) / 128)
    pose = trajectory.world_from_gripper

    def points(local: Floats) -> Floats:
        both = pose[pairs.T]
        moved = np.einsum("etij,kj->etki", both[..., :3, :3], local) + both[..., None, :3, 3]
        return np.asarray(moved, np.float32)

    hand = points(_HAND)
    if arm is not None:
        hand = np.concatenate([hand, np.asarray(arm[pairs.T], np.float32)], axis=2)
    return Moves(hand, points(_FREE), flow, moved, scale, pairs, (gone[0], gone[1]))


def search(
    parts: Sequence[Moves],
    centre: FloatArray,
    focal: float | None,
    aspect: float = 1.0,
    seed: int = 0,
    marks: tuple[FloatArray, FloatArray] | None = None,
) -> Cameras:
    """The best cameras of each family, the best family's first.

    Args:
        parts: Episodes of one camera.
        centre: ``(2,)`` principal point, working pixels.
        focal: Along x, working pixels; None to find it between 0.6 and 1.8 picture widths.
        aspect: Focal length along y over that along x.
        seed: Of the draws.
        marks: World points ``(N, 3)`` and the working pixels ``(N, 2)`` that somebody saw them at.
    """
    rng = np.random.default_rng(seed)
    every = sum(len(p) for p in parts)
    sparse = slice(None, None, max(1, every // 16))
    middle = np.concatenate([p.hand[0, :, 0] for p in parts]).mean(0)
    height, width = parts[0].moved.shape[1:]
    view = _View(np.asarray(centre, np.float32), np.float32(aspect), width, height, marks)

    drawn = _drawn(rng, _DRAWN, middle, view.width, focal)
    first = _scored(drawn, parts, view, sparse, slice(1, 2), False)
    best = _scored(first[np.argsort(-first.score)[:_FIRST]], parts, view, slice(None, None, 2))
    best = best[np.argsort(-best.score)]
    tracks = _tracks(best, parts, view)
    family = np.full(len(best), -1)
    heads: list[int] = []
    for i in range(len(best)):
        near = [np.abs(tracks[i] - tracks[h]).mean() for h in heads]
        if near and min(near) < _APART * view.width:
            family[i] = int(np.argmin(near))
        elif len(heads) < _BASINS:
            family[i] = len(heads)
            heads.append(i)
    ends = [
        _improved(rng, best[np.flatnonzero(family == k)], parts, view, middle, focal is None) for k in range(len(heads))
    ]
    out = Cameras(*(np.concatenate([getattr(e, name) for e in ends]) for name in ("turn", "centre", "focal", "score")))
    return out[np.argsort(-out.score)]


@dataclass(frozen=True)
class _View:
    centre: Floats
    aspect: np.float32
    width: int
    height: int
    marks: tuple[FloatArray, FloatArray] | None = None

    def preferred(self, cameras: Cameras) -> Floats:
        """Factor ``(N,)`` in [0, 1] that falls where cameras do not see marked points where they were marked."""
        if self.marks is None:
            return np.ones(len(cameras), np.float32)
        points, pixels = (np.asarray(m, np.float32) for m in self.marks)
        uv, ahead = _project(cameras, points, self)
        away = np.where(ahead, np.linalg.norm(uv - pixels, axis=-1) / self.width, 1).mean(1)
        return np.asarray(np.exp(-((away / MARK_SHARE) ** 2)), np.float32)


def _improved(
    rng: np.random.Generator, cameras: Cameras, parts: Sequence[Moves], view: _View, middle: Floats, free: bool
) -> Cameras:
    """The best camera of a family after trials in ever smaller steps."""
    for spread, trials, keep in _ROUNDS:
        tried = _scored(_jittered(rng, cameras[:keep], trials, spread, middle, free), parts, view, slice(None, None, 2))
        both = _joined(cameras, tried)
        both = both[np.argsort(-both.score)][: 4 * keep]
        tracks = _tracks(both, parts, view)
        kept: list[int] = []
        for i in range(len(both)):
            if len(kept) < keep and all(np.abs(tracks[i] - tracks[j]).mean() > 0.1 * spread * view.width for j in kept):
                kept.append(i)
        cameras = both[np.array(kept)]
        if spread == _STARTS_FROM:
            others = cameras
    # The best of the family, and others that see the same track from elsewhere.
    everyone = _joined(cameras[:1], others)
    place = (everyone.centre - middle) / np.linalg.norm(everyone.centre - middle, axis=1, keepdims=True).min()
    kept = [0]
    for i in range(1, len(everyone)):
        turned = [float(rotations.angle_between(everyone.turn[i], everyone.turn[j])) for j in kept]
        away = [float(np.linalg.norm(place[i] - place[j])) for j in kept]
        if len(kept) < _MEMBERS and min(np.maximum(turned, away)) > _DISTINCT:
            kept.append(i)
    return _scored(everyone[np.array(kept)], parts, view)


def score(camera: Cameras, parts: Sequence[Moves], centre: FloatArray, aspect: float = 1.0) -> Floats:
    """How well the hand's points move as the pictures do through each of some cameras; at most 1."""
    height, width = parts[0].moved.shape[1:]
    view = _View(np.asarray(centre, np.float32), np.float32(aspect), width, height)
    return _scored(camera, parts, view).score


def _joined(*cameras: Cameras) -> Cameras:
    return Cameras(
        *(np.concatenate([getattr(c, name) for c in cameras]) for name in ("turn", "centre", "focal", "score"))
    )


def _project(cameras: Cameras, points: Floats, view: _View) -> tuple[Floats, NDArray[np.bool_]]:
    """Pixels ``(N, M, 2)`` of world points ``(M, 3)``, and which lie in front."""
    at = np.einsum("nij,mj->nmi", cameras.turn, points) - np.einsum("nij,nj->ni", cameras.turn, cameras.centre)[:, None]
    front = at[..., 2] > 0.05
    scale = cameras.focal[:, None] / np.where(front, at[..., 2], np.float32(0.05))
    uv = at[..., :2] * scale[..., None]
    uv[..., 1] *= view.aspect
    return uv + view.centre, front


def _tracks(cameras: Cameras, parts: Sequence[Moves], view: _View) -> Floats:
    """Where the gripper is seen over time, as one vector a camera."""
    points = np.concatenate([p.hand[0, ::4, 0] for p in parts])
    uv = _project(cameras, points, view)[0]
    return np.clip(uv, -view.width, 2 * view.width).reshape(len(cameras), -1)


def _scored(
    cameras: Cameras,
    parts: Sequence[Moves],
    view: _View,
    pairs: slice = slice(None),
    points: slice = slice(None),
    free: bool = True,
) -> Cameras:
    total = np.zeros(len(cameras), np.float32)
    for part in parts:
        for at in range(0, len(cameras), _BLOCK):
            block = slice(at, at + _BLOCK)
            total[block] += len(part) * _score(cameras[block], part, view, pairs, points, free)
    total *= view.preferred(cameras) / sum(len(p) for p in parts)
    return Cameras(cameras.turn, cameras.centre, cameras.focal, total)


def _score(cameras: Cameras, part: Moves, view: _View, pairs: slice, points: slice, free: bool) -> Floats:
    """How well the hand's points move as the picture does; at most 1."""
    agree, moved, weight, far = _agreement(cameras, part, part.hand[:, pairs, points], view, pairs)
    found = (agree * weight * (0.15 + 0.85 * moved)).sum(1) / (weight.sum(1) + 1e-9)
    if free:
        agree, moved, _, beside = _agreement(cameras, part, part.free[:, pairs], view, pairs)
        weight = np.minimum(beside, 6)
        found -= _FREE_WEIGHT * (agree * weight * moved).sum(1) / (weight.sum(1) + 1e-9)
    # A camera so far away that nothing moves agrees with anything.
    return np.asarray(found * np.clip(2 * np.median(far, 1), 0, 1), np.float32)


def _agreement(
    cameras: Cameras, part: Moves, points: Floats, view: _View, pairs: slice
) -> tuple[Floats, Floats, Floats, Floats]:
    each = points.shape[2]
    (start, ahead), (end, still) = (_project(cameras, p.reshape(-1, 3), view) for p in points)
    step = end - start
    # Pixel (0, 0) spans [0, 1].
    pixel = np.floor(np.clip(start, -1e4, 1e4)).astype(np.int32)
    inside = ahead & still & (pixel >= 0).all(-1) & (pixel[..., 0] < view.width) & (pixel[..., 1] < view.height)
    x, y = np.clip(pixel[..., 0], 0, view.width - 1), np.clip(pixel[..., 1], 0, view.height - 1)
    which = np.repeat(np.arange(len(part))[pairs], each)
    flat = (which * view.height + y) * view.width + x
    seen = part.flow.reshape(-1, 2)[flat]
    moved = part.moved.reshape(-1)[flat]
    predicted, shown = np.hypot(step[..., 0], step[..., 1]), np.hypot(seen[..., 0], seen[..., 1])
    larger = np.maximum(predicted, shown)
    apart = ((seen - step) ** 2).sum(-1)
    agree = np.exp(-apart / (0.3 * larger + 0.35) ** 2) * inside
    return agree, moved, np.minimum(larger, 6), predicted


def _drawn(rng: np.random.Generator, count: int, middle: Floats, width: int, focal: float | None) -> Cameras:
    """Cameras about the workspace that look at it, mostly upright, seldom from below."""
    azimuth, height = rng.uniform(0, 2 * np.pi, count), rng.uniform(-0.1, 1, count)
    distance = np.exp(rng.uniform(np.log(_DISTANCE_M[0]), np.log(_DISTANCE_M[1]), count))
    flat = np.sqrt(1 - height**2)
    direction = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), height], 1)
    centre = middle + direction * distance[:, None]
    target = middle + rng.normal(size=(count, 3)) * 0.22 * np.maximum(0.6, distance)[:, None]
    roll = np.where(rng.random(count) < 0.75, rng.normal(0, 0.12, count), rng.uniform(-np.pi, np.pi, count))
    forward = target - centre
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    straight = np.linalg.norm(right, axis=1, keepdims=True) < 1e-3
    right = np.where(straight, np.cross(forward, [0.0, 1.0, 0.0]), right)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    down = np.cross(forward, right)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    turn = np.stack([c * right + s * down, -s * right + c * down, forward], 1)
    widths = (
        np.exp(rng.uniform(np.log(_FOCAL_WIDTHS[0]), np.log(_FOCAL_WIDTHS[1]), count))
        if focal is None
        else np.full(count, focal / width)
    )
    return Cameras(*(a.astype(np.float32) for a in (turn, centre, width * widths, np.zeros(count))))


def _jittered(
    rng: np.random.Generator, cameras: Cameras, trials: int, spread: float, middle: Floats, free: bool
) -> Cameras:
    """Each camera turned and moved or carried about the workspace with it in view; its focal length too."""
    count = len(cameras) * trials
    turn, centre = np.repeat(cameras.turn, trials, 0), np.repeat(cameras.centre, trials, 0)
    focal = np.repeat(cameras.focal, trials).astype(np.float64)
    change = np.asarray(rotations.matrix_from_rotation_vector(rng.normal(size=(count, 3)) * spread * 0.5))
    kind = rng.random(count)
    factor = np.exp(rng.normal(size=count) * spread * 0.6) if free else np.ones(count)
    arm = centre - middle
    orbit = np.einsum("nij,nj->ni", change, arm) * np.exp(rng.normal(size=count) * spread)[:, None]
    distance = np.linalg.norm(arm, axis=1, keepdims=True)
    place = np.where(kind[:, None] < 0.5, orbit, arm + rng.normal(size=(count, 3)) * spread * 0.5 * distance)
    turned = np.where(kind[:, None, None] < 0.5, turn @ change.transpose(0, 2, 1), change @ turn)
    # A longer lens from further away shows nearly the same.
    dolly = free & (kind > 0.8)
    place = np.where(dolly[:, None], arm * factor[:, None], place)
    turned = np.where(dolly[:, None, None], turn, turned)
    return Cameras(*(a.astype(np.float32) for a in (turned, middle + place, focal * factor, np.zeros(count))))

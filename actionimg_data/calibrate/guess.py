"""A camera from nothing: from the gripper's known motion and its seen one.

Candidates come from optical flow (`flow_search`). Points of the hand that keep their place in it decide between them
(`hand_points`), and tell the camera and the poses' clock (`adjust`), together with edges of the gripper model
(`sharpen`); where too few can be followed, edges alone do. The gripper's sizes and its mounting are unknowns of stated
deviations. Several distinct candidates are carried to the end, and a camera is only given where
none of them comes near the best. See docs/calibration.md for the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ..errors import InvalidSpecError, WrongFormatError
from ..geometry import pinhole, transforms
from ..model import Camera, GripperTrajectory
from . import arm_points, flow_search, hand_camera, hand_points, speeds
from .adjust import adjust
from .arm import links_of
from .check import MIN_FRAMES
from .evidence import Evidence, gather, split_sights
from .guessed import CameraGuess, Mark
from .outline import Hand
from .refine import Recorded
from .shape import GripperShape
from .sharpen import sharpen
from .shift import best_shift
from .solve import SEARCH_PX, Priors, Solution, as_found, motion, score, solve
from .uncertainty import DRAWS, doubt_points, radii, widened

FloatArray = NDArray[np.float64]

PRIORS: Final = Priors(
    camera_m=0.15,
    camera_rad=float(np.radians(10)),
    tool_m=0.006,
    tool_rad=float(np.radians(2)),
    reach_m=0.015,
    size_m=0.003,
    log_focal=0.2,
)
"""How far a candidate may be off, and the gripper from its model, one standard deviation."""

MAX_EPISODES: Final = 8
MAX_PICTURES: Final = 800
"""Of those that share a camera so many are used, or more short ones, so that time and memory stay flat."""

PAIRS: Final = 60
HAND_PICTURES: Final = 120
FRAMES: Final = 36
"""Of all episodes together."""

QUICK_FRAMES: Final = 14
POINT_PICTURES: Final = 240
STARTS: Final = 10
"""After so many beginnings no more are tried where three of them end at the best camera."""

MAX_POINT_RIVAL: Final = 0.85
MAX_DRIFT_SHARE: Final = 0.004
"""Of the picture's width: what stands still may be seen so far from where it was."""

CLEARLY_OFF: Final = 3.0
MIN_OFF_S: Final = 0.01
"""Offsets in time of so many deviations, and of so many seconds, are said."""

CLOCK_S: Final = 0.003
"""Deviation of an offset in time that points tell, besides what the equations say: poses are told at pictures alone."""

BEGUN: Final = 12
CARRIED: Final = 3
MIN_EDGES: Final = 0.5
MIN_EDGES_ALONE: Final = 0.6
"""Where edges alone decide. In single episodes of the setting half with points left out, 12 of 20 ends that fitted 0.5
to 0.6 were wrong, and none of 20 that fitted better."""

MAX_SCATTER_PX: Final = 1.0
"""Of edges about the outline, where edges alone decide; those of anything, looked for within 2 px, have 1.1. True
cameras of the setting half had up to 0.9, and the one that was wrong 1.1."""

MIN_FLOW: Final = 0.25
MIN_FLOW_SHARE: Final = 0.6
"""Where another camera explains the motion so much better, an outline that fits is chance; true cameras of the setting
half kept 0.7 or more of the best."""

MIN_LINKS: Final = 0.83
"""Share of the edges beside the outlines of an arm's links that must lie on them: in the setting scenes it was 0.90 to
0.96 through true cameras, and 0.59 to 0.76 where wrong ones had been fitted to edges."""

MAX_RIVAL: Final = 0.9
MAX_STRAIN: Final = 2.4
"""A size or mounting this many of its standard deviations from the model is not believed: edges then are others'."""

HOPELESS: Final = 0.6
"""Beginnings that fit less than this share of the best one's fit are not carried on: they would be no rivals."""

SAME_SHARE: Final = 0.02
"""Beginnings whose gripper lies within this share of the picture's width are one."""

NEAR_SHARE: Final = 0.05
"""Ends that lie within this share are one solution, known no better than they lie apart."""

MAX_OVERLAY_SHARE: Final = 0.03
_UNTOLD: Final = "; focal length and distance cannot be told apart: trust the overlay, not the pose"
_WORTH: Final = 0.004
"""Edge score that one squared standard deviation of a size or of the mounting costs."""

_MOVING_PX: Final = 0.5
_MOVING_SHARE: Final = 0.6
_CLEARLY: Final = 1.15
_MARK_WEIGHT: Final = 0.5
_NUDGES: Final = 6
_QUICK_SEARCH: Final = (8.0, 5.0, 3.0)


@dataclass(frozen=True, eq=False)
class _Candidate:
    K: FloatArray
    start: FloatArray
    pose: FloatArray
    found: Solution
    edges: float
    worth: float


def guess_camera(
    name: str,
    recorded: Sequence[Recorded],
    shape: GripperShape,
    *,
    K: FloatArray | None = None,
    marks: Sequence[Mark] = (),
    keep: bool = False,
    seed: int = 0,
) -> CameraGuess:
    """Find one camera that stands still, from pictures and poses alone.

    Args:
        name: Of the view.
        recorded: Episodes that share the camera; cameras that their views have are not looked at.
        shape: The gripper to look for.
        K: ``(3, 3)`` of the pictures, pinhole, for pixels whose centres are at + 0.5; None to estimate the focal
            length, with the principal point in the middle and square pixels.
        marks: Where the point between the fingertips was seen.
        keep: Keep pictures in the result, for `pictures.sheet`.
        seed: Of the draws; the same gives the same camera.

    Raises:
        InvalidSpecError: A mark of a frame or an episode that there is not.
        WrongFormatError: The episodes' pictures differ in size.
    """
    frames = recorded[0].view.frames
    width, height = frames.width, frames.height
    for r in recorded:
        if (r.view.frames.width, r.view.frames.height) != (width, height):
            raise WrongFormatError(
                "pictures differ in size, so it is not one camera",
                where=r.episode,
                field=name,
                expected=f"{width}x{height}",
                found=f"{r.view.frames.width}x{r.view.frames.height}",
            )
    length = max(1, int(np.median([len(r.view.frames) for r in recorded])))
    most = max(MAX_EPISODES, MAX_PICTURES // length)
    used = [recorded[i] for i in np.unique(np.linspace(0, len(recorded) - 1, most).round().astype(int))]
    task = _Task(
        name,
        tuple(r.episode for r in recorded),
        used,
        shape,
        K,
        _marked(recorded, marks),
        keep,
        seed,
        {
            "focal_known": K is not None,
            "model": shape.name,
            "arm": recorded[0].arm,
            "width": width,
            "height": height,
        },
    )
    if any(len(r.arms) != 1 for r in recorded):
        return task.cannot("several grippers are recorded: which one is seen where cannot be told")
    parts = _moves_of(used)
    if sum(len(p) for p in parts) < flow_search.MIN_PAIRS:
        return task.cannot("the gripper hardly moves, as its poses have it")
    on_hand = _moves_as_a_whole(parts)
    measured = [speeds.speeds(r.view.frames, arm, on_hand) for r in used for arm in _arms(r)]
    told = [m for m in measured if m is not None]
    still = speeds.frozen(told)
    if still is not None:
        return task.cannot(
            f"poses stand still from {still[0]:.1f} to {still[1]:.1f} s while the pictures go on moving: frozen there?"
        )
    off = speeds.offset_of(told)
    if on_hand:
        if off is not None and off.clear:
            return task.cannot(_late(off.seconds, off.interval_s), time_offset_s=off.seconds)
        return _in_the_hand(task)
    if max(float(p.moved.max()) for p in parts) < 0.1:
        return task.cannot("nothing moves in the pictures")
    gone = max(max(p.drift) / p.scale for p in parts)
    if gone > MAX_DRIFT_SHARE * width:
        return task.cannot(f"the camera moves: what stands still is seen {gone:.1f} px elsewhere later")
    if off is not None:
        return _off_in_time(task, parts, off)
    if task.marked or speeds.distinct_motions(told) >= speeds.MIN_DISTINCT:
        return _standing(task, parts)[0]
    return _by_points_alone(_standing(task, parts, points_only=True)[0], "too few distinct motions are seen in one go")


def _off_in_time(task: _Task, parts: Sequence[flow_search.Moves], off: speeds.Offset) -> CameraGuess:
    """Tried as if poses were off in time, and as they are: more points tell which; edges alone fit at any time."""
    there = [
        replace(
            r,
            arms={n: speeds.moved(t, off.seconds) for n, t in r.arms.items()},
            bodies=tuple(b.moved(next(_arms(r)).times, off.seconds) for b in r.bodies),
            still=tuple(b.moved(next(_arms(r)).times, off.seconds) for b in r.still),
        )
        for r in task.used
    ]
    least = speeds.MIN_OFF_FRAMES * _frame_s(task.used)
    moved = _moves_of(there)
    late, clock = None, None
    if sum(len(p) for p in moved) >= flow_search.MIN_PAIRS:
        tried, clock = _standing(replace(task, used=there), moved, points_only=True)
        if clock is not None and _told(tried) and abs(off.seconds + clock.seconds) > least:
            total = off.seconds + clock.seconds
            late = replace(tried, verdict="cannot tell", reason=_late(total, clock.interval_s), time_offset_s=total)
            if off.clear and abs(clock.seconds) < off.interval_s:
                return late
    found, here = _standing(task, parts, points_only=True)
    if late is not None and clock is not None and late.time_offset_s is not None:
        if here is None or not _told(found) or here.support < MAX_POINT_RIVAL * clock.support:
            return late
        if clock.support > MAX_POINT_RIVAL * here.support and abs(late.time_offset_s - here.seconds) > least:
            return task.cannot("points keep their place with the poses as they are, and at another time")
    if _told(found) or not off.clear:
        return _by_points_alone(found, "poses may be off in time")
    return replace(found, reason=_late(off.seconds, off.interval_s), time_offset_s=off.seconds)


def _by_points_alone(found: CameraGuess, why: str) -> CameraGuess:
    """The answer, and why edges were not asked where points did not tell."""
    return found if _told(found) else replace(found, reason=f"{found.reason}; {why}: edges alone are not believed then")


def _told(found: CameraGuess) -> bool:
    """Whether points decided: a camera, or how much poses are off in time."""
    return found.found or found.time_offset_s is not None


def _late(seconds: float, interval_s: float) -> str:
    return (
        f"poses come {abs(seconds):.3f} s too {'early' if seconds > 0 else 'late'} (± {interval_s:.3f} s):"
        f" add {seconds:+.3f} s to the poses' stamps (raw logs: -O time_offset={seconds:.3f})"
    )


def _frame_s(recorded: Sequence[Recorded]) -> float:
    return float(np.median(np.concatenate([np.diff(arm.times) for r in recorded for arm in _arms(r)])))


def _moves_of(used: Sequence[Recorded]) -> list[flow_search.Moves]:
    each = max(MIN_FRAMES, PAIRS // len(used))
    return [
        p
        for r in used
        for arm in _arms(r)
        if len(p := flow_search.moves(r.view.frames, arm, each, arm_points.joints(r.bodies)))
    ]


@dataclass(frozen=True, eq=False)
class _Task:
    """What is asked for."""

    name: str
    episodes: tuple[str, ...]
    used: Sequence[Recorded]
    shape: GripperShape
    K: FloatArray | None
    marked: list[tuple[FloatArray, FloatArray]]
    keep: bool
    seed: int
    base: dict[str, Any]

    def cannot(self, reason: str, **found: Any) -> CameraGuess:
        return CameraGuess(self.name, self.episodes, "cannot tell", reason, **{**self.base, **found})


def _standing(
    task: _Task, parts: Sequence[flow_search.Moves], points_only: bool = False
) -> tuple[CameraGuess, _Clock | None]:
    """The camera as one that stands still; and, where points tell, the poses' offset in time and its deviation."""
    used, shape, K, marked, keep, seed = task.used, task.shape, task.K, task.marked, task.keep, task.seed
    cannot, width, height = task.cannot, task.base["width"], task.base["height"]
    scale = parts[0].scale
    middle = np.array([width / 2, height / 2]) if K is None else np.asarray(K[:2, 2])
    aspect = 1.0 if K is None else float(K[1, 1] / K[0, 0])
    drawn = flow_search.search(
        parts,
        middle * scale,
        None if K is None else float(K[0, 0]) * scale,
        aspect,
        seed,
        (np.stack([p for p, _ in marked]), np.stack([at for _, at in marked]) * scale) if marked else None,
    )
    world = _World(used, shape, width, height, K is None, marked, [{} for _ in used])
    points, reason, clock = _by_points(world, drawn, parts, middle, aspect, keep)
    if points and not reason:
        return replace(cannot(points.pop("where"), **points), verdict="found"), clock
    if points and points["time_offset_s"] is not None:
        points.pop("where")
        return cannot(reason, **points), clock
    if points_only:
        return cannot(reason), None
    beginnings = [_camera(drawn, i, scale, middle, aspect) for i in range(min(len(drawn), BEGUN))]
    if points:
        # Edges may tell exactly what points tell roughly.
        beginnings.insert(0, (points["K"], points["world_from_camera"]))
    tried = [_begin(world, K_begun, pose) for K_begun, pose in beginnings]
    begun = sorted((c for c in tried if c is not None), key=lambda c: -c.worth)
    if not begun:
        return cannot("no camera that fits the motion shows the gripper in enough frames"), None
    carried: list[_Candidate] = []
    for candidate in _distinct([c for c in begun if c.worth > HOPELESS * begun[0].worth], world):
        refined = _refine(world, _nudged(world, candidate, seed))
        if refined is not None:
            carried.append(refined)
        if len(carried) == CARRIED:
            break
    if not carried:
        return cannot("no camera that fits the motion shows the gripper in enough frames"), None
    carried.sort(key=lambda c: -c.worth)
    best = carried[0]
    flow = float(flow_search.score(_as_cameras(best.K, best.pose, scale), parts, middle * scale, aspect)[0])
    away = [world.apart(best, other) for other in carried[1:]]
    rivals = tuple((other.edges, a) for other, a in zip(carried[1:], away, strict=True) if a > NEAR_SHARE * width)
    errors = _errors(best, world)
    # Another optimum close by, which fits as well, is how well the camera is known.
    near = [
        a
        for c, a in zip(carried[1:], away, strict=True)
        if a <= NEAR_SHARE * width and c.edges > MAX_RIVAL * best.edges
    ]
    errors = (max([errors[0], *near]), *errors[1:])
    figures: dict[str, Any] = {
        "K": best.K,
        "world_from_camera": best.pose,
        "edges": best.edges,
        "flow": flow,
        "rivals": rivals,
        "overlay_px": errors[0],
        "position_mm": errors[1],
        "rotation_deg": errors[2],
        "focal_px": float(best.K[0, 0]),
        "focal_interval_px": errors[3],
        "gripper": _differences(best.found, shape.hand),
        "evidence": tuple(world.gather(best.K, best.pose, FRAMES, keep=True)) if keep else (),
        "start": best.start,
    }
    refused, reason = reason, _doubt(best, flow, float(drawn.score.max()), rivals, errors[0], world)
    if reason:
        reason += f"; of points alone: {refused}"
        return cannot(reason, **figures), None
    where = f"the outline fits {100 * best.edges:.0f} %, the motion {100 * flow:.0f} %"
    if K is None and errors[3] > 0.1 * best.K[0, 0]:
        where += _UNTOLD
    return replace(cannot(where, **figures), verdict="found"), None


def _by_points(
    world: _World,
    drawn: flow_search.Cameras,
    parts: Sequence[flow_search.Moves],
    middle: FloatArray,
    aspect: float,
    keep: bool,
) -> tuple[dict[str, Any], str, _Clock | None]:
    """The camera through which points of the hand keep their place, and why it must not be believed (empty if it may).

    The figures are empty where too few points can be followed. The last is the poses' offset in time and its deviation.
    """
    scale, free = parts[0].scale, world.free_focal
    fit = _point_fit(world)
    if fit is None:
        return {}, "no points can be followed", None
    tried: list[tuple[float, FloatArray, hand_points.PointFit, FloatArray]] = []
    for i in range(len(drawn)):
        K, pose = _camera(drawn, i, scale, middle, aspect)
        found = fit(K, pose, False)
        if found is None:
            continue
        tried.append((found.support * world.agreement(_zoomed(K, found), found.world_from_camera), K, found, pose))
        if len(tried) >= STARTS:
            first, *others = ((_zoomed(k, f), f.world_from_camera) for _, k, f, _ in sorted(tried, key=lambda t: -t[0]))
            if sum(world.distance(first, other) < SAME_SHARE * world.width for other in others) >= 2:
                break
    if not tried:
        return {}, f"too few points of the {world.what} can be followed", None
    tried.sort(key=lambda t: -t[0])
    ends: list[tuple[float, FloatArray, hand_points.PointFit, FloatArray]] = []
    kept: list[tuple[FloatArray, FloatArray]] = []
    for value, K, found, pose in tried:
        K = _zoomed(K, found)
        new = all(world.distance((K, found.world_from_camera), k) > SAME_SHARE * world.width for k in kept)
        if value < HOPELESS * tried[0][0] or len(ends) == CARRIED or not new:
            continue
        kept.append((K, found.world_from_camera))
        final = fit(K, found.world_from_camera, True)
        if final is not None:
            K = _zoomed(K, final)
            ends.append((final.support * world.agreement(K, final.world_from_camera), K, final, pose))
    if not ends:
        return {}, f"too few points of the {world.what} can be followed", None
    ends.sort(key=lambda t: -t[0])
    value, K, best, start = ends[0]
    here = (K, best.world_from_camera)
    away = [world.distance(here, (k, f.world_from_camera)) for _, k, f, _ in ends[1:]]
    rivals = tuple(
        (f.fitting, a, v) for (v, _, f, _), a in zip(ends[1:], away, strict=True) if a > NEAR_SHARE * world.width
    )
    told = adjust(best.bundle, best.state, free, free_offset=True)
    K = _at_focal(K, told.state[6])
    gathered = world.gather(K, motion(told.state[:6]), FRAMES, keep, links=True)
    sharp = sharpen(gathered, K, told, PRIORS, free, world.width)
    K, pose = sharp.K, sharp.pose
    errors = radii(sharp.covariance, K, pose, world.places())
    near = [a for (v, *_), a in zip(ends[1:], away, strict=True) if a <= NEAR_SHARE * world.width and v > 0.95 * value]
    # Other optima of the points are how well points tell; links' outlines reach further than they lie apart.
    decided = sharp.found is not None and (sharp.links or 0) >= MIN_LINKS
    errors = (max([errors[0], *([] if decided else near)]), *errors[1:])
    flow = float(flow_search.score(_as_cameras(K, pose, scale), parts, middle * scale, aspect)[0])
    outlined = sharp.found is not None and (sharp.edges or 0) > MIN_EDGES
    late = abs(told.offset_s) > CLEARLY_OFF * told.offset_sd_s and abs(told.offset_s) > MIN_OFF_S
    figures: dict[str, Any] = {
        "K": K,
        "world_from_camera": pose,
        "edges": sharp.edges,
        "links": sharp.links,
        "flow": flow,
        "rivals": tuple((e, a) for e, a, _ in rivals),
        "overlay_px": errors[0],
        "position_mm": errors[1],
        "rotation_deg": errors[2],
        "focal_px": float(K[0, 0]),
        "focal_interval_px": errors[3],
        # Where meshes of the hand's own body hide the model, little tells of its sizes.
        "gripper": _differences(sharp.found, world.shape.hand)
        if sharp.found and outlined and not any(b.solids for r in world.recorded for b in r.bodies[:1])
        else (),
        "evidence": tuple(gathered) if keep else (),
        "start": start,
        "model": f"points of the {world.what}, {'with' if sharp.found else 'without'} edges of: "
        + ("the arm's links, " if sharp.links is not None else "")
        + world.shape.name,
        "where": f"{best.bundle.count} points of the {world.what} keep their place, "
        f"{100 * best.fitting:.0f} % of all there",
        "time_offset_s": told.offset_s if late else None,
    }
    if sharp.links is not None:
        figures["where"] += f"; outlines of links fit {100 * sharp.links:.0f} %"
    if late:
        figures["where"] += f"; poses seem {1e3 * told.offset_s:+.0f} ms off in time"
    if free and errors[3] > 0.1 * K[0, 0]:
        figures["where"] += _UNTOLD
    reason = ""
    if best.fitting < hand_points.MIN_FITTING:
        reason = f"points seen near the {world.what} do not move with it ({100 * best.fitting:.0f} % do)"
    elif flow < MIN_FLOW:
        reason = f"the hand's motion does not agree with the pictures' (fit {flow:.2f} < {MIN_FLOW})"
    elif any(v > MAX_POINT_RIVAL * value for *_, v in rivals):
        reason = (
            f"another camera, which sees the gripper {max(rivals, key=lambda r: r[2])[1]:.0f} px away, fits as well"
        )
    elif errors[0] > MAX_OVERLAY_SHARE * world.width:
        reason = f"the gripper could be up to {errors[0]:.1f} px away"
    elif sharp.links is not None and sharp.links < MIN_LINKS:
        reason = f"the arm's links are not seen where the camera puts them (fit {sharp.links:.2f} < {MIN_LINKS})"
    elif not world.whole_arm and not outlined:
        reason = doubt_points(best, free, K, world.places(), world.width)
    clock = _Clock(told.offset_s, told.offset_sd_s, value)
    if reason:
        figures["time_offset_s"] = None
    elif late and abs(told.offset_s) > speeds.MIN_OFF_FRAMES * _frame_s(world.recorded):
        reason = _late(told.offset_s, clock.interval_s)
    return figures, reason, clock


def _point_fit(world: _World) -> Callable[[FloatArray, FloatArray, bool], hand_points.PointFit | None] | None:
    """What fits a camera, given its matrix and its pose, to points: of the whole arm where it is known, or the hand."""
    each = max(25, POINT_PICTURES // len(world.recorded))
    if world.whole_arm:
        found = [
            arm_points.follow(r.view.frames, arm, r.bodies, each)
            for r in world.recorded
            if r.bodies
            for arm in _arms(r)
        ]
        found = [t for t in found if len(t.uv)]
        return (lambda K, pose, final: arm_points.fit(found, K, pose, world.free_focal, final)) if found else None
    tracks = [hand_points.follow(r.view.frames, arm, each) for r in world.recorded for arm in _arms(r)]
    tracks = [t for t in tracks if len(t.uv)]
    return (lambda K, pose, final: hand_points.fit(tracks, K, pose, world.free_focal, final)) if tracks else None


def _zoomed(K: FloatArray, found: hand_points.PointFit) -> FloatArray:
    return _at_focal(K, found.state[6])


def _at_focal(K: FloatArray, log_focal: float) -> FloatArray:
    zoom = float(np.exp(log_focal)) / K[0, 0]
    return K @ np.diag([zoom, zoom, 1.0])


def _in_the_hand(task: _Task) -> CameraGuess:
    """The camera as one that is fixed to the hand: the whole picture moves."""
    used, K, cannot, width, height = task.used, task.K, task.cannot, task.base["width"], task.base["height"]
    middle = np.array([width / 2, height / 2]) if K is None else np.asarray(K[:2, 2])
    aspect = 1.0 if K is None else float(K[1, 1] / K[0, 0])
    pictures = max(20, HAND_PICTURES // len(used))
    tracks = [hand_camera.follow(r.view.frames, arm, pictures) for r in used for arm in _arms(r)]
    found = hand_camera.find(tracks, middle, None if K is None else float(K[0, 0]), width, aspect)
    if isinstance(found, str):
        return cannot(f"the whole picture moves, and {found}")
    whole = np.array([[found.focal, 0, middle[0]], [0, found.focal * aspect, middle[1]], [0, 0, 1.0]])
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(np.zeros(len(found.covariance)), found.covariance, DRAWS, method="eigh")
    zoom = np.exp(draws[:, 6]) if K is None else np.ones(DRAWS)
    points = np.array([[0, 0, 0.02], [0, 0.04, 0], [0, -0.04, 0], [0, 0, -0.02]])
    inverse = np.asarray(transforms.invert(found.gripper_from_camera))
    here = np.asarray(pinhole.project_camera_points(transforms.apply(inverse, points), whole)[0])
    away = []
    for z, draw in zip(zoom, draws, strict=True):
        moved = np.asarray(transforms.invert(motion(draw[:6]))) @ inverse
        there = np.asarray(
            pinhole.project_camera_points(transforms.apply(moved, points), whole @ np.diag([z, z, 1]))[0]
        )
        away.append(float(np.linalg.norm(there - here, axis=-1).mean()))
    figures: dict[str, Any] = {
        "K": whole,
        "gripper_from_camera": found.gripper_from_camera,
        "overlay_px": float(np.quantile(away, 0.9)),
        "position_mm": 1e3 * float(np.quantile(np.linalg.norm(draws[:, 3:6], axis=1), 0.9)),
        "rotation_deg": float(np.degrees(np.quantile(np.linalg.norm(draws[:, :3], axis=1), 0.9))),
        "focal_px": found.focal,
        "focal_interval_px": float(np.quantile(np.abs(zoom - 1) * found.focal, 0.9)),
        "model": "none: the scene's texture",
    }
    if found.reason:
        return cannot(f"the whole picture moves, and {found.reason}", **figures)
    text = f"fixed to the hand: {100 * found.inliers:.0f} % of the scene's points fit, {found.residual_px:.1f} px"
    return replace(cannot(text, **figures), verdict="found")


@dataclass(frozen=True)
class _Clock:
    """By how much poses are off in time as points tell, its deviation, and how many points stand for it."""

    seconds: float
    deviation_s: float
    support: float

    @property
    def interval_s(self) -> float:
        """Half width of its 90 % interval; poses between pictures are known no better than `CLOCK_S`."""
        return 1.645 * float(np.hypot(self.deviation_s, CLOCK_S))


@dataclass(frozen=True, eq=False)
class _World:
    """The episodes of one camera, and what is looked for in them."""

    recorded: Sequence[Recorded]
    shape: GripperShape
    width: int
    height: int
    free_focal: bool
    marked: Sequence[tuple[FloatArray, FloatArray]]
    backgrounds: Sequence[dict[object, NDArray[np.float32]]]

    @property
    def whole_arm(self) -> bool:
        """Whether more of the arm than the hand is known to move."""
        return any(len(r.bodies) > 1 for r in self.recorded)

    @property
    def what(self) -> str:
        """What points are followed on."""
        return "arm" if self.whole_arm else "hand"

    def gather(
        self, K: FloatArray, pose: FloatArray, frames: int, keep: bool = False, links: bool = False
    ) -> list[Evidence]:
        camera = Camera(K, pose, self.width, self.height)
        each = max(3, -(-frames // len(self.recorded)))
        found = (
            gather(
                r.view.frames,
                r.arms,
                camera,
                pose,
                self.shape.hand,
                each,
                keep,
                cache=cache,
                links=links_of((*r.bodies, *r.still)) if links else (),
            )
            for r, cache in zip(self.recorded, self.backgrounds, strict=True)
        )
        return [e for e in found if e.sights]

    def points(self) -> FloatArray:
        """Where the gripper goes ``(N, 3)``, metres, world."""
        poses = np.concatenate([arm.world_from_gripper[arm.known][::5] for r in self.recorded for arm in _arms(r)])
        return np.concatenate([poses[:, :3, 3], poses[:, :3, 3] - 0.1 * poses[:, :3, 2]])

    def places(self) -> FloatArray:
        """Fewer of them ``(N, 3)``."""
        return self.points()[::3]

    def agreement(self, K: FloatArray, pose: FloatArray) -> float:
        """Whether marked points are seen where they were marked: 1 for yes or where none are, down to 0."""
        left = 1.0
        for point, at in self.marked:
            uv, _, ahead = (np.asarray(a) for a in pinhole.project(point[None], K, pose))
            away = float(np.linalg.norm(uv[0] - at)) / self.width if ahead[0] else 1.0
            left -= min(1.0, away / flow_search.MARK_SHARE) / len(self.marked)
        return max(left, 0.0)

    def apart(self, a: _Candidate, b: _Candidate) -> float:
        """Mean distance in pixels of the gripper seen through two candidates."""
        return self.distance((a.K, a.pose), (b.K, b.pose))

    def distance(self, a: tuple[FloatArray, FloatArray], b: tuple[FloatArray, FloatArray]) -> float:
        """Mean distance in pixels of the gripper seen through two cameras, each its matrix and its pose."""
        points = self.points()
        first, second = (np.asarray(pinhole.project(points, K, pose)[0]) for K, pose in (a, b))
        return float(np.median(np.linalg.norm(first - second, axis=-1)))


def _arms(recorded: Recorded) -> Iterator[GripperTrajectory]:
    yield from recorded.arms.values()


def _moves_as_a_whole(parts: Sequence[flow_search.Moves]) -> bool:
    """Whether most of the picture moves between most pairs: what stands still is the larger part of a workspace."""
    still = [np.percentile(np.linalg.norm(f, axis=-1), 25) for p in parts for f in p.flow]
    return float(np.mean(np.array(still) > _MOVING_PX)) > _MOVING_SHARE


def _camera(
    drawn: flow_search.Cameras, i: int, scale: float, middle: FloatArray, aspect: float
) -> tuple[FloatArray, FloatArray]:
    turn = Rotation.from_matrix(drawn.turn[i].astype(np.float64)).as_matrix()
    focal = float(drawn.focal[i]) / scale
    K = np.array([[focal, 0, middle[0]], [0, focal * aspect, middle[1]], [0, 0, 1.0]])
    return K, np.asarray(transforms.make_transform(turn.T, drawn.centre[i].astype(np.float64)))


def _as_cameras(K: FloatArray, pose: FloatArray, scale: float) -> flow_search.Cameras:
    return flow_search.Cameras(
        pose[None, :3, :3].transpose(0, 2, 1).astype(np.float32),
        pose[None, :3, 3].astype(np.float32),
        np.array([K[0, 0] * scale], np.float32),
        np.zeros(1, np.float32),
    )


def _begin(world: _World, K: FloatArray, pose: FloatArray) -> _Candidate | None:
    """A quick fit that starts where the outline fits best near a camera that the flow gave."""
    gathered = world.gather(K, pose, QUICK_FRAMES)
    if sum(len(e.sights) for e in gathered) < MIN_FRAMES:
        return None
    shift = best_shift(max(gathered, key=lambda e: len(e.sights)), pose)
    start = pose
    if shift is not None and shift.score > _CLEARLY * shift.score_here:
        u, v = shift.peaks[0]
        turn = np.array([-v / gathered[0].K[1, 1], u / gathered[0].K[0, 0], 0, 0, 0, 0])
        start = pose @ np.asarray(transforms.invert(motion(turn)))
    return _fit(world, gathered, K, pose, start, _QUICK_SEARCH)


def _fit(
    world: _World,
    gathered: Sequence[Evidence],
    K: FloatArray,
    given: FloatArray,
    start: FloatArray,
    search: Sequence[float],
    begin: Solution | None = None,
    judged: Sequence[Evidence] | None = None,
    priors: Priors = PRIORS,
) -> _Candidate:
    """A candidate after one fit of everything that is unknown."""
    found = solve([gathered], [given], priors, [start], search, fit_sizes=True, fit_focal=world.free_focal, begin=begin)
    edges = float(score([[as_found(e, found) for e in judged or gathered]], found.poses).mean())
    zoom = float(np.exp(found.log_focal[0]))
    K = K @ np.diag([zoom, zoom, 1.0])
    worth = edges - _WORTH * float((_strain(found, world.shape.hand) ** 2).sum())
    worth -= _MARK_WEIGHT * (1 - world.agreement(K, found.poses[0]))
    return _Candidate(K, given, found.poses[0], replace(found, log_focal=np.zeros(1)), edges, worth)


def _nudged(world: _World, candidate: _Candidate, seed: int) -> _Candidate:
    """The best of some fits that begin near a candidate: carried about the gripper, nearer and further."""
    rng = np.random.default_rng(seed)
    gathered = world.gather(candidate.K, candidate.pose, QUICK_FRAMES)
    if sum(len(e.sights) for e in gathered) < MIN_FRAMES:
        return candidate
    middle = world.points().mean(0)
    best = candidate
    for _ in range(_NUDGES):
        turn = Rotation.from_rotvec(rng.normal(size=3) * np.radians(6)).as_matrix()
        arm = (candidate.pose[:3, 3] - middle) * np.exp(rng.normal() * 0.06)
        start = np.asarray(transforms.make_transform(turn @ candidate.pose[:3, :3], middle + turn @ arm))
        tried = _fit(world, gathered, candidate.K, candidate.pose, start, _QUICK_SEARCH)
        if tried.worth > best.worth:
            best = tried
    return replace(best, start=candidate.start)


def _distinct(candidates: Sequence[_Candidate], world: _World) -> Iterator[_Candidate]:
    kept: list[_Candidate] = []
    for candidate in candidates:
        if all(world.apart(candidate, other) > SAME_SHARE * world.width for other in kept):
            kept.append(candidate)
            yield candidate


def _refine(world: _World, candidate: _Candidate) -> _Candidate | None:
    """The candidate after fits to more frames, each looked for where the last one puts the gripper."""
    for search in (SEARCH_PX[1:], SEARCH_PX[3:]):
        gathered = world.gather(candidate.K, candidate.pose, FRAMES)
        if sum(len(e.sights) for e in gathered) < MIN_FRAMES:
            return None
        fitted, judged = split_sights(gathered)
        fitted = [e for e in fitted if e.sights]
        tried = _fit(world, fitted, candidate.K, candidate.pose, candidate.pose, search, candidate.found, judged)
        candidate = replace(tried, start=candidate.start)
    return candidate


def _strain(found: Solution, hand: Hand) -> FloatArray:
    """Mounting and sizes in standard deviations of what they may be."""
    tool = np.array([PRIORS.tool_rad] * 3 + [PRIORS.tool_m, PRIORS.tool_m, PRIORS.reach_m])
    sizes = np.array([s.deviation for s in hand.sizes])
    return np.concatenate([found.tool_vector / tool, found.sizes / sizes, [found.size_m / PRIORS.size_m]])


def _doubt(
    best: _Candidate,
    flow: float,
    most: float,
    rivals: Sequence[tuple[float, float]],
    overlay: float,
    world: _World,
) -> str:
    """Why the camera must not be used; empty where it may be."""
    if best.edges < MIN_EDGES_ALONE:
        return f"the gripper model's outline is not seen clearly (fit {best.edges:.2f} < {MIN_EDGES_ALONE})"
    if best.found.sigma_px > MAX_SCATTER_PX:
        return f"edges near the gripper model's outline scatter as by chance (± {best.found.sigma_px:.1f} px)"
    if flow < MIN_FLOW:
        return f"the hand's motion does not agree with the pictures' (fit {flow:.2f} < {MIN_FLOW})"
    if flow < MIN_FLOW_SHARE * most:
        return f"a camera elsewhere explains the motion far better ({most:.2f} instead of {flow:.2f})"
    near = [(e, a) for e, a in rivals if e > MAX_RIVAL * best.edges]
    if near:
        return f"another camera, which sees the gripper {near[0][1]:.0f} px away, fits as well ({near[0][0]:.2f})"
    strain = np.abs(_strain(best.found, world.shape.hand))
    if strain.max() > MAX_STRAIN:
        return "it only fits a gripper that is very unlike the model: " + _differences(best.found, world.shape.hand)[0]
    if overlay > MAX_OVERLAY_SHARE * world.width:
        return f"the gripper could be up to {overlay:.1f} px away"
    return ""


def _errors(best: _Candidate, world: _World) -> tuple[float, float, float, float]:
    picked = np.r_[0:6, -1] if world.free_focal else np.r_[0:6]
    covariance = widened(best.found.covariance[np.ix_(picked, picked)], best.K, world.width)
    return radii(covariance, best.K, best.pose, world.places())


def _differences(found: Solution, hand: Hand) -> tuple[str, ...]:
    """Where the gripper seems to be unlike its model, the largest first."""
    strain = _strain(found, hand)[3:-1]
    names = ["mounted along x", "mounted along y", "reach along the approach", *(s.name for s in hand.sizes)]
    values = [*found.tool_vector[3:], *found.sizes]
    units = ["m", "m", "m", *(s.unit for s in hand.sizes)]
    out = []
    for i in np.argsort(-np.abs(strain)):
        if abs(strain[i]) > 0.5:
            amount = f"{1e3 * values[i]:+.0f} mm" if units[i] == "m" else f"{100 * values[i]:+.1f} %"
            out.append(f"{names[i]} {amount}")
    return tuple(out)


def _marked(recorded: Sequence[Recorded], marks: Sequence[Mark]) -> list[tuple[FloatArray, FloatArray]]:
    """World point and pixel of each mark."""
    by_id = {r.episode: r for r in recorded}
    out = []
    for mark in marks:
        episode = by_id.get(mark.episode) if mark.episode else recorded[0]
        if episode is None:
            raise InvalidSpecError("no such episode", field="--mark", expected=" ".join(by_id), found=mark.episode)
        view = episode.view
        if not 0 <= mark.frame < len(view.frames):
            raise InvalidSpecError(
                "no such frame",
                where=episode.episode,
                field="--mark",
                expected=f"0 … {len(view.frames) - 1}",
                found=mark.frame,
            )
        if not (0 <= mark.u <= view.frames.width and 0 <= mark.v <= view.frames.height):
            raise InvalidSpecError(
                "lies outside the picture",
                where=episode.episode,
                field="--mark",
                expected=f"up to {view.frames.width},{view.frames.height}",
                found=f"{mark.u:g},{mark.v:g}",
            )
        trajectory = next(_arms(episode))
        out.append((trajectory.world_from_gripper[mark.frame, :3, 3], np.array([mark.u, mark.v])))
    return out

"""The whole arm where joints are recorded: its links' poses in the poses' own world, whatever the robot file's root is.

Recorded poses are of some frame of the hand in some world; a robot file gives the pose of a link in its root, for joint
values that may be counted from another zero than the file's. What lies between them does not change over time:
``world_from_gripper = X · base_from_tip(q + o) · Y`` (robot-world and hand-eye calibration; Shah 2013 for the first
estimate). ``X``, ``Y`` and ``o`` are found from the poses alone, and a link is used only where that tells its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import interp1d
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation, Slerp

from ..geometry import transforms
from ..model import GripperTrajectory, JointTrack
from .evidence import Link
from .outline import Solid
from .solve import motion, vector_of

FloatArray = NDArray[np.float64]

MAX_OFF_M: Final = 0.005
"""Joints and poses that disagree by more, in the median over time, are not of one arm, or not of one clock."""

SIMPLER_M: Final = 0.001
"""Unknowns are only added where they explain more than so much."""

MAX_LINK_SD_M: Final = 0.01
"""A link whose place the poses tell worse, one standard deviation, is not used."""

ZERO_SD_RAD: Final = float(np.radians(3))
"""How far the zero of a joint may be from the robot file's, one standard deviation."""

MIN_FRAMES: Final = 10
MIN_MOVED_M: Final = 0.03
"""Bodies whose parts travel less are as good as still."""

_LEVER_M: Final = 0.1
_FRAMES: Final = 40
_LOSS_M: Final = 0.002
_NOISE_M: Final = 0.001
_SAME: Final = 1e-6


class Kinematics(Protocol):
    """A robot's links as functions of its joints."""

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the joints, in the order of the values."""
        ...

    @property
    def links(self) -> tuple[str, ...]:
        """Names of the links, each after its parent."""
        ...

    @property
    def where(self) -> str:
        """The robot file, a URDF."""
        ...

    @property
    def parents(self) -> tuple[int, ...]:
        """Number of the link that each hangs from; -1 for the root."""
        ...

    @property
    def tip(self) -> int:
        """Number of the link that the hand is on."""
        ...

    def poses_of(self, link: int, values: FloatArray) -> FloatArray:
        """Poses ``(T, 4, 4)`` of a link in the root, for joint values ``(T, J)``."""
        ...

    def poses(self, values: FloatArray) -> FloatArray:
        """Poses ``(L, T, 4, 4)`` of all links in the root."""
        ...


@dataclass(frozen=True, eq=False)
class Body:
    """Links that are rigid with each other.

    Args:
        name: Of the first of them.
        world_from_body: ``(T, 4, 4)``.
        bones: ``(T, S, 2, 3)`` metres, world: what the body reaches along, from joint to joint.
        links: Names of all of them.
        solids: Shapes of those that have one, in the body's frame.
        moves: Whether it travels.
    """

    name: str
    world_from_body: FloatArray
    bones: FloatArray
    links: tuple[str, ...]
    solids: tuple[Solid, ...] = ()
    moves: bool = True

    def moved(self, times: FloatArray, seconds: float) -> Body:
        """The body with ``seconds`` added to its stamps, at the same times; at the ends it stands still."""
        if seconds == 0 or len(times) < 2:
            return self
        at = np.clip(times - seconds, times[0], times[-1])
        known = np.isfinite(self.world_from_body).all((1, 2))
        turn = Slerp(times[known], Rotation.from_matrix(self.world_from_body[known, :3, :3]))
        inside = np.clip(at, times[known][0], times[known][-1])
        place = interp1d(times[known], self.world_from_body[known, :3, 3], axis=0)(inside)
        pose = np.asarray(transforms.make_transform(turn(inside).as_matrix(), place))
        return replace(self, world_from_body=pose, bones=interp1d(times, self.bones, axis=0)(at))


@dataclass(frozen=True, eq=False)
class ArmMotion:
    """What moves of an arm in one episode, from the hand inwards.

    Args:
        bodies: The first is rigid with the gripper.
        still: What stands still of the arm, and may hide what moves.
        off_m: Median distance of the recorded poses from those of the joints.
        zeros: Radians by which each joint is counted from another zero than the robot file's.
        text: All that in words.
    """

    bodies: tuple[Body, ...]
    still: tuple[Body, ...]
    off_m: float
    zeros: FloatArray
    text: str


@dataclass(frozen=True, eq=False)
class Placement:
    """How a robot file's root and tip lie to the poses' world and gripper.

    Args:
        world_from_base: ``(4, 4)``.
        tip_from_gripper: ``(4, 4)``.
        zeros: ``(J,)`` radians to add to joint values.
        off_m: Median distance of poses, a radian of turn counted as 0.1 m.
        covariance: Of the unknowns that were free, in the order ``world_from_base``, ``tip_from_gripper``, ``zeros``.
        free: Which of the ``12 + J`` unknowns those are.
    """

    world_from_base: FloatArray
    tip_from_gripper: FloatArray
    zeros: FloatArray
    off_m: float
    covariance: FloatArray
    free: NDArray[np.bool_]

    @property
    def state(self) -> FloatArray:
        """``(12 + J,)``."""
        return np.concatenate([vector_of(self.world_from_base), vector_of(self.tip_from_gripper), self.zeros])


def place(robot: Kinematics, parts: Sequence[tuple[FloatArray, FloatArray]]) -> Placement:
    """Where the robot stands, from episodes of joint values ``(T, J)`` and poses ``(T, 4, 4)`` of its hand.

    The simplest that explains the poses is taken: the root is the world; the root is anywhere; joints are counted from
    other zeros besides.
    """
    q, poses = (np.concatenate([p[k] for p in parts]) for k in range(2))
    pick = np.unique(np.linspace(0, len(q) - 1, _FRAMES).round().astype(int))
    q, poses = q[pick], poses[pick]
    tip = robot.poses_of(robot.tip, q)
    count = q.shape[1]
    here = np.asarray(transforms.invert(tip)) @ poses
    identity = (np.eye(4), _middle(here))

    def fitted(starts: Sequence[tuple[FloatArray, FloatArray]], base: bool, zeros: bool) -> Placement:
        free = np.r_[np.full(6, base), np.full(6, True), np.full(count, zeros)]
        return min((_fitted(robot, q, poses, X, Y, free) for X, Y in starts), key=lambda f: f.off_m)

    best = fitted([identity], False, False)
    for zeros in (False, True):
        if best.off_m < SIMPLER_M:
            break
        starts = [_between(tip, poses), (best.world_from_base, best.tip_from_gripper)]
        found = fitted(starts[zeros:], True, zeros)
        if best.off_m - found.off_m > SIMPLER_M:
            best = found
    return best


def _middle(transforms_: FloatArray) -> FloatArray:
    """The mean of some rigid transforms that are nearly one."""
    turn = Rotation.from_matrix(transforms_[:, :3, :3]).mean().as_matrix()
    return np.asarray(transforms.make_transform(turn, np.median(transforms_[:, :3, 3], axis=0)))


def _between(tip: FloatArray, poses: FloatArray) -> tuple[FloatArray, FloatArray]:
    """``X`` and ``Y`` with ``poses = X · tip · Y`` in closed form (Shah 2013), where turns tell them."""
    # X^T G = F Y, linear in the entries of both.
    rows = []
    for F, G in zip(tip[:, :3, :3], poses[:, :3, :3], strict=True):
        rows.append(np.concatenate([np.kron(np.eye(3), G.T), -np.kron(F, np.eye(3))], axis=1))
    last = np.linalg.svd(np.concatenate(rows))[2][-1]
    inward, outward = last[:9].reshape(3, 3), last[9:].reshape(3, 3)
    sign = np.sign(np.linalg.det(inward)) or 1.0
    R_X, R_Y = _rotation(sign * inward).T, _rotation(sign * outward)
    # p_G = R_X (R_F t_Y + p_F) + t_X.
    A = np.concatenate([np.concatenate([R_X @ F[:3, :3], np.eye(3)], axis=1) for F in tip])
    right = (poses[:, :3, 3] - tip[:, :3, 3] @ R_X.T).ravel()
    # A little weight against shifts that turns do not tell.
    A = np.concatenate([A, 1e-3 * np.eye(6)])
    t = np.linalg.lstsq(A, np.concatenate([right, np.zeros(6)]), rcond=None)[0]
    return np.asarray(transforms.make_transform(R_X, t[3:])), np.asarray(transforms.make_transform(R_Y, t[:3]))


def _rotation(matrix: FloatArray) -> FloatArray:
    u, _, v = np.linalg.svd(matrix)
    return np.asarray(u @ np.diag([1, 1, np.sign(np.linalg.det(u @ v))]) @ v)


def _fitted(
    robot: Kinematics, q: FloatArray, poses: FloatArray, X: FloatArray, Y: FloatArray, free: NDArray[np.bool_]
) -> Placement:
    count = q.shape[1]
    start = np.concatenate([vector_of(X), vector_of(Y), np.zeros(count)])
    fixed = robot.poses_of(robot.tip, q)
    turning = bool(free[12:].any())

    def away(state: FloatArray) -> FloatArray:
        tip = robot.poses_of(robot.tip, q + state[12:]) if turning else fixed
        told = motion(state[:6]) @ tip @ motion(state[6:12])
        turn = Rotation.from_matrix(told[:, :3, :3].transpose(0, 2, 1) @ poses[:, :3, :3]).as_rotvec()
        return np.concatenate([told[:, :3, 3] - poses[:, :3, 3], _LEVER_M * turn], axis=1)

    def equations(values: FloatArray) -> FloatArray:
        state = start.copy()
        state[free] = values
        return np.concatenate([away(state).ravel() / _NOISE_M, state[12:] / ZERO_SD_RAD])

    found = least_squares(equations, start[free], x_scale=0.05, loss="soft_l1", f_scale=_LOSS_M / _NOISE_M, max_nfev=25)
    state = start.copy()
    state[free] = found.x
    off = float(np.median(np.linalg.norm(away(state), axis=1)))
    # Poses one after another err alike: one in six is counted, with the distance that is left.
    scale = max(off / _NOISE_M, 0.3) ** 2 * 6
    normal = found.jac.T @ found.jac
    covariance = np.linalg.pinv(normal + 1e-9 * np.eye(len(normal))) * scale
    return Placement(motion(state[:6]), motion(state[6:12]), state[12:], off, covariance, free)


def arm_motion(
    robot: Kinematics,
    found: Placement,
    joints: FloatArray,
    trajectory: GripperTrajectory,
    solids: Mapping[str, Solid] | None = None,
) -> ArmMotion | str:
    """The moving bodies of one episode, or why the arm cannot be used.

    Args:
        robot: The robot file.
        found: Where the robot stands.
        joints: ``(T, J)`` values.
        trajectory: The hand's poses.
        solids: Shapes of the links, each in its own frame, by name.
    """
    if found.off_m > MAX_OFF_M:
        return f"joints and poses do not agree ({1e3 * found.off_m:.0f} mm, in the median): another robot or clock"
    world = found.world_from_base @ robot.poses(joints + found.zeros)
    told = _told(robot, found, joints) < MAX_LINK_SD_M
    every = rigid_bodies(world, robot.parents, robot.tip, trajectory.world_from_gripper, robot.links, told, solids)
    bodies, still = tuple(b for b in every if b.moves), tuple(b for b in every if not b.moves)
    zeros = [
        f"{name} counts from {np.degrees(z):+.1f}° of the file's"
        for name, z in zip(robot.joints, found.zeros, strict=True)
        if abs(z) > np.radians(0.5)
    ]
    text = f"{len(bodies)} moving links ({1e3 * found.off_m:.1f} mm between joints and poses)"
    return ArmMotion(bodies, still, found.off_m, found.zeros, "; ".join([text, *zeros]))


def rigid_bodies(
    world_from_link: FloatArray,
    parents: Sequence[int],
    tip: int,
    world_from_gripper: FloatArray,
    names: Sequence[str],
    told: NDArray[np.bool_] | None = None,
    solids: Mapping[str, Solid] | None = None,
) -> tuple[Body, ...]:
    """Some links, those that are rigid with each other taken together; the first is the hand.

    Args:
        world_from_link: ``(L, T, 4, 4)``.
        parents: ``(L,)`` number of the link that each hangs from; -1 for none.
        tip: Number of the link that the hand is on.
        world_from_gripper: ``(T, 4, 4)``, which is what the hand's body has.
        names: Of the links.
        told: ``(L,)`` which links' places are known well enough; all where None. Others are left out.
        solids: Shapes of the links, each in its own frame, by name.
    """
    origins, above = world_from_link[:, :, :3, 3], np.array(parents)
    groups = np.array(_rigid_groups(world_from_link))
    bodies = []
    for first in dict.fromkeys([int(groups[tip]), *groups[::-1].tolist()]):
        members = np.flatnonzero(groups == first)
        hand = tip in members
        ends = [
            np.stack([origins[k], origins[j]], 1)
            for k in members
            for j in (above[k], *np.flatnonzero(above == k))
            if j >= 0
        ]
        if hand:
            ends.append(np.stack([origins[tip], world_from_gripper[:, :3, 3]], 1))
        if not ends:
            continue
        bones = _distinct(np.stack(ends, 1))
        pose = world_from_gripper if hand else world_from_link[first]
        local = transforms.apply(transforms.invert(pose[0]), bones[0].reshape(-1, 3))
        moves = bool(np.ptp(np.asarray(transforms.apply(pose, local)), axis=0).max() > MIN_MOVED_M)
        if hand or told is None or told[members].all():
            inside = [(names[k], world_from_link[k]) for k in members.tolist()]
            shapes = tuple(
                solids[name].moved(_middle(np.asarray(transforms.invert(pose)) @ there))
                for name, there in inside
                if solids and name in solids
            )
            bodies.append(Body(names[first], pose, bones, tuple(n for n, _ in inside), shapes, hand or moves))
    return tuple(bodies)


def links_of(bodies: Sequence[Body]) -> tuple[Link, ...]:
    """Each shape of some bodies, to be outlined."""
    return tuple(Link(solid, b.world_from_body, b.moves) for b in bodies for solid in b.solids)


def _rigid_groups(world: FloatArray) -> list[int]:
    """Of each link, the first link that it keeps its place to at all times."""
    groups: list[int] = []
    for k in range(len(world)):
        for j in dict.fromkeys(groups):
            between = np.asarray(transforms.invert(world[j])) @ world[k]
            if np.ptp(between, axis=0).max() < _SAME:
                groups.append(j)
                break
        else:
            groups.append(k)
    return groups


def _distinct(bones: FloatArray) -> FloatArray:
    """Bones that have a length, each once."""
    kept: list[int] = []
    for k in range(bones.shape[1]):
        ends = bones[:, k]
        length = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1).max()
        again = any(
            min(np.abs(bones[:, j] - ends).max(), np.abs(bones[:, j] - ends[:, ::-1]).max()) < 1e-3 for j in kept
        )
        if length > 1e-3 and not again:
            kept.append(k)
    return bones[:, kept or [0]]


def _told(robot: Kinematics, found: Placement, joints: FloatArray) -> FloatArray:
    """Standard deviation ``(L,)`` in metres of where each link is in the world, its own part against the hand's."""
    q = joints[:: max(1, len(joints) // 5)]
    state, free = found.state, found.free

    def origins(values: FloatArray) -> FloatArray:
        full = state.copy()
        full[free] = values
        return np.asarray((motion(full[:6]) @ robot.poses(q + full[12:]))[:, :, :3, 3])

    centre = state[free]
    base, step = origins(centre), 1e-4
    grown = np.stack([(origins(centre + step * unit) - base) / step for unit in np.eye(len(centre))], -1)
    variance = np.einsum("ltim,mn,ltin->lt", grown, found.covariance, grown)
    return np.asarray(np.sqrt(np.maximum(variance, 0)).max(1))


def arms(
    robot: Kinematics,
    episodes: Sequence[tuple[JointTrack, GripperTrajectory]],
    solids: Mapping[str, Solid] | None = None,
) -> list[ArmMotion | str]:
    """The moving bodies of each of some episodes of one robot that stands in one place, or why there are none.

    Args:
        robot: The robot file.
        episodes: Joint values and poses of the hand; frames without either are left out of finding the place.
        solids: Shapes of the links, each in its own frame, by name.
    """
    known = [np.isfinite(q.values).all(1) & poses.known for q, poses in episodes]
    used = [
        (q.values[k], poses.world_from_gripper[k]) for k, (q, poses) in zip(known, episodes, strict=True) if k.any()
    ]
    if sum(int(k.sum()) for k in known) < MIN_FRAMES:
        return ["joints and poses are known in too few frames"] * len(episodes)
    found = place(robot, used)
    return [
        arm_motion(robot, found, q.values, poses, solids) if k.all() else "joints or poses are not known in all frames"
        for k, (q, poses) in zip(known, episodes, strict=True)
    ]

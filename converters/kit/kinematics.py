"""Poses from joint values: the chain of joints between two frames of a robot file, URDF or MJCF.

Every log that has joints and no poses comes through here, whatever its format. A URDF file is read as it is
(http://wiki.ros.org/urdf/XML); an MJCF file is compiled by MuJoCo (`mjcf.Scene`), and only what it then says of bodies
and joints is used. Both become the same `Chain`, evaluated for all rows at once. Meshes are never looked at.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import UnsupportedSourceError, WrongFormatError
from ...geometry import exact, rotations, transforms
from ...untrusted.files import read_bytes
from . import mjcf

FloatArray = NDArray[np.float64]
_MOVING = ("revolute", "continuous", "prismatic")


@dataclass(frozen=True, eq=False)
class Motion:
    """A joint of a chain that moves.

    Args:
        name: As the log calls it; of a URDF joint that mimics another, that one's.
        kind: ``turn`` or ``slide``.
        before: ``(4, 4)`` from the joint before (or the base) to this one, at its zero.
        axis: ``(3,)`` unit.
        zero: Value at which the joint does not move anything (MJCF's ``ref``).
        multiplier: Of a joint that mimics another: its value is this times the other's, plus `offset`.
        offset: In radians or metres.
        low: Least value that the robot file allows, in radians or metres.
        high: Largest value.
    """

    name: str
    kind: Literal["turn", "slide"]
    before: FloatArray
    axis: FloatArray
    zero: float = 0.0
    multiplier: float = 1.0
    offset: float = 0.0
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True, eq=False)
class Chain:
    """The moving joints from ``base`` to ``tip``, in order.

    Args:
        motions: The joints.
        end: ``(4, 4)`` from the last of them to the tip.
        where: For errors.
    """

    motions: tuple[Motion, ...]
    end: FloatArray
    where: str

    @classmethod
    def load(cls, path: Path, base: str | None, tip: str) -> Chain:
        """The chain between two frames of a robot file.

        Args:
            path: URDF or MJCF; meshes need not be there.
            base: Link, body or site above the tip; None: the URDF's root link, or MJCF's world.
            tip: Link of a URDF; site or body of an MJCF file (``site:NAME``, ``body:NAME`` where both have the name).

        Raises:
            SourceNotFoundError: No such file.
            BadFileError: Not XML, or MuJoCo cannot compile it.
            UnsafeFileError: XML that declares entities.
            WrongFormatError: Neither URDF nor MJCF, frames that do not exist (those that do are named) or are not
                connected.
            AmbiguousSourceError: A site and a body of one name.
            UnsupportedSourceError: A joint with several degrees of freedom.
            MissingExtraError: An MJCF file, and MuJoCo is not installed.
        """
        root = mjcf.parse_xml(read_bytes(path, mjcf.MAX_BYTES), path)
        if root.tag == "robot":
            return _urdf_chain(root, path, base, tip)
        if root.tag in ("mujoco", "mujocoinclude"):
            return scene_chain(mjcf.Scene.from_file(path), base, tip)
        raise WrongFormatError(
            "is not a robot file", where=path, expected="<robot> (URDF) or <mujoco> (MJCF)", found=f"<{root.tag}>"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the joints that have values of their own, in order."""
        return tuple(dict.fromkeys(m.name for m in self.motions))

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Least and largest value of each joint that moves by a value of its own; infinite where none is stated."""
        return {m.name: (m.low, m.high) for m in self.motions if (m.multiplier, m.offset) == (1.0, 0.0)}

    @property
    def turning(self) -> frozenset[str]:
        """Names of the joints whose values are angles."""
        return frozenset(m.name for m in self.motions if m.kind == "turn")

    def poses(self, names: Sequence[str], values: FloatArray, angle_unit: float = 1.0) -> FloatArray:
        """Poses ``(N, 4, 4)`` of the tip in the base.

        Args:
            names: Of the joints that ``values`` gives.
            values: ``(N, len(names))``.
            angle_unit: Radians in the unit of the revolute joints; prismatic ones are metres.

        Raises:
            WrongFormatError: A moving joint of the chain is not given, or a name is not in the chain.
        """
        unknown = [n for n in names if n not in self.names]
        missing = [n for n in self.names if n not in names]
        if unknown or missing or len(set(names)) != len(names):
            what = (
                f"has no joint {', '.join(unknown)} between base and tip"
                if unknown
                else f"needs the joint {', '.join(missing)}"
                if missing
                else "a joint is given twice"
            )
            raise WrongFormatError(
                what, where=self.where, field="joints", expected=", ".join(self.names), found=", ".join(names)
            )
        rotation = np.tile(np.eye(3), (len(values), 1, 1))
        position = np.zeros((len(values), 3))
        # Each joint moves about or along z of a frame of its own: a turn then mixes two columns, for all rows at once.
        turned = np.eye(4)
        for motion in self.motions:
            axis_from_z = np.eye(4)
            axis_from_z[:3, :3] = _z_to(motion.axis)
            rotation, position = _moved(rotation, position, exact.product(turned.T, motion.before, axis_from_z))
            turned = axis_from_z
            value = values[:, list(names).index(motion.name)]
            value = value * angle_unit if motion.kind == "turn" else value
            value = (motion.multiplier * value + motion.offset - motion.zero)[:, None]
            if motion.kind == "turn":
                x, y = rotation[:, :, 0], rotation[:, :, 1]
                cosine, sine = exact.cos(value), exact.sin(value)
                rotation = np.stack([cosine * x + sine * y, cosine * y - sine * x, rotation[:, :, 2]], axis=-1)
            else:
                position = position + value * rotation[:, :, 2]
        rotation, position = _moved(rotation, position, exact.matmul(turned.T, self.end))
        return np.asarray(transforms.make_transform(rotation, position))


def _moved(rotation: FloatArray, position: FloatArray, step: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Poses ``(N, 3, 3)``, ``(N, 3)`` times one rigid transform ``(4, 4)``."""
    rows = rotation.reshape(-1, 3)
    return (
        exact.matmul(rows, step[:3, :3]).reshape(-1, 3, 3),
        position + exact.matvec(rows, step[:3, 3]).reshape(-1, 3),
    )


def _z_to(axis: FloatArray) -> FloatArray:
    """A rotation ``(3, 3)`` that takes z to a unit vector."""
    turn = np.cross([0.0, 0.0, 1.0], axis)
    size = exact.norm(turn)
    if size == 0:
        return np.eye(3) if axis[2] > 0 else np.diag([1.0, -1.0, -1.0])
    return np.asarray(rotations.matrix_from_rotation_vector(turn / size * exact.atan2(size, axis[2])))


@dataclass(frozen=True, eq=False)
class _Joint:
    """A joint as a URDF file writes it."""

    name: str
    kind: str
    parent: str
    child: str
    parent_from_joint: FloatArray
    axis: FloatArray
    mimic: tuple[str, float, float] | None
    low: float
    high: float


def _urdf_chain(root: ElementTree.Element, path: Path, base: str | None, tip: str) -> Chain:
    elements = {e.find("child").get("link"): e for e in root.findall("joint") if e.find("child") is not None}  # type: ignore[union-attr]
    links = [str(e.get("name")) for e in root.findall("link")]
    if base is None:
        roots = [name for name in links if name not in elements]
        if len(roots) != 1:
            raise WrongFormatError("has no single root link", where=path, field="base", expected="one", found=roots)
        base = roots[0]
    for field, link in (("base", base), ("tip", tip)):
        if link not in links:
            raise WrongFormatError(
                "has no such link", where=path, field=field, expected=" | ".join(sorted(links)), found=link
            )
    chain: list[_Joint] = []
    link = tip
    while link != base:
        if link not in elements or len(chain) > len(elements):
            raise WrongFormatError("links are not connected", where=path, expected=f"{base} above {tip}", found=link)
        chain.append(_joint(elements[link], path))
        link = chain[-1].parent
    motions: list[Motion] = []
    before = np.eye(4)
    for joint in reversed(chain):
        before = exact.matmul(before, joint.parent_from_joint)
        if joint.kind in _MOVING:
            name, multiplier, offset = joint.mimic or (joint.name, 1.0, 0.0)
            kind: Literal["turn", "slide"] = "slide" if joint.kind == "prismatic" else "turn"
            motions.append(Motion(name, kind, before, joint.axis, 0.0, multiplier, offset, joint.low, joint.high))
            before = np.eye(4)
    return Chain(tuple(motions), before, str(path))


def _joint(element: ElementTree.Element, path: Path) -> _Joint:
    name = element.get("name", "")
    kind = element.get("type", "")
    parent, child = element.find("parent"), element.find("child")
    if kind not in (*_MOVING, "fixed", "floating", "planar") or parent is None or child is None:
        raise WrongFormatError("is not a URDF joint", where=path, field=name, found=kind)
    if kind in ("floating", "planar"):
        raise UnsupportedSourceError("a joint of this kind is not supported", where=path, field=name, found=kind)
    origin, axis_element, mimic = element.find("origin"), element.find("axis"), element.find("mimic")

    def numbers(text: str | None, default: str, count: int = 3) -> FloatArray:
        try:
            values = np.array([float(v) for v in (text or default).split()])
        except ValueError:
            values = np.empty(0)
        if values.shape != (count,) or not np.isfinite(values).all():
            words = "three numbers" if count == 3 else "a number"
            raise WrongFormatError(f"is not {words}", where=path, field=name, found=text)
        return values

    xyz = numbers(None if origin is None else origin.get("xyz"), "0 0 0")
    rpy = numbers(None if origin is None else origin.get("rpy"), "0 0 0")
    axis = numbers(None if axis_element is None else axis_element.get("xyz"), "1 0 0")
    if kind == "fixed":
        # Its axis means nothing, and published files of Panda arms have zeros there.
        axis = np.array([1.0, 0, 0])
    elif np.linalg.norm(axis) == 0:
        raise WrongFormatError("axis is zero", where=path, field=name)
    limit = element.find("limit")
    bounds = (-np.inf, np.inf)
    # A limit of 0 to 0 is what tools write who know of none.
    if limit is not None and kind != "continuous":
        low, high = (float(numbers(limit.get(k), "0", 1)[0]) for k in ("lower", "upper"))
        bounds = (low, high) if low < high else bounds
    follows = None
    if mimic is not None:
        multiplier, offset = (float(numbers(mimic.get(k), d, 1)[0]) for k, d in (("multiplier", "1"), ("offset", "0")))
        follows = (mimic.get("joint", ""), multiplier, offset)
    return _Joint(
        name,
        kind,
        parent.get("link", ""),
        child.get("link", ""),
        np.asarray(transforms.make_transform(rotations.matrix_from_euler(rpy), xyz)),
        np.asarray(rotations.normalize(axis)),
        follows,
        *bounds,
    )


def scene_chain(scene: mjcf.Scene, base: str | None, tip: str) -> Chain:
    """The chain between two frames of a compiled MJCF model; see `Chain.load`.

    As MuJoCo computes it (mj_kinematics): a body's joints turn and move it one after the other, each about its own
    anchor, from the pose that the body has at ``qpos0``.
    """
    kind, index = scene.find(tip)
    body = scene.body_of(kind, index)
    base_kind, base_index = ("body", 0) if base in (None, "world") else scene.find(str(base), field="base")
    base_body = scene.body_of(base_kind, base_index)
    above = scene.ancestors(body)
    if base_body not in above:
        raise WrongFormatError(
            "frames are not connected",
            where=scene.where,
            field="base",
            expected=f"a frame above {tip}",
            found=base,
        )
    model, types = scene.model, scene.mujoco.mjtJoint
    motions: list[Motion] = []
    before = np.asarray(transforms.invert(scene.in_body(base_kind, base_index)))
    for b in reversed(above[: above.index(base_body)]):
        before = exact.matmul(before, mjcf.pose_of(model.body_pos[b], model.body_quat[b]))
        first = int(model.body_jntadr[b])
        names = scene.joint_names_of(b)
        for name, j in zip(names, range(first, first + len(names)), strict=True):
            joint_kind = int(model.jnt_type[j])
            if joint_kind not in (int(types.mjJNT_HINGE), int(types.mjJNT_SLIDE)):
                raise UnsupportedSourceError(
                    "a joint of this kind is not supported",
                    where=scene.where,
                    field=name,
                    expected="hinge or slide; or a base below the joint",
                    found="free or ball",
                )
            anchor = np.array(transforms.make_transform(np.eye(3), np.array(model.jnt_pos[j], np.float64)))
            turn = joint_kind == int(types.mjJNT_HINGE)
            axis = np.array(model.jnt_axis[j], dtype=np.float64)
            zero = float(model.qpos0[int(model.jnt_qposadr[j])])
            low, high = map(float, model.jnt_range[j]) if model.jnt_limited[j] else (-np.inf, np.inf)
            way: Literal["turn", "slide"] = "turn" if turn else "slide"
            motions.append(Motion(name, way, exact.matmul(before, anchor), axis, zero, low=low, high=high))
            before = np.asarray(transforms.invert(anchor))
    return Chain(tuple(motions), exact.matmul(before, scene.in_body(kind, index)), scene.where)

"""Poses from joint angles: the chain of joints between two links of a URDF file."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import BadFileError, UnsafeFileError, WrongFormatError
from ...geometry import rotations, transforms
from .. import _text

FloatArray = NDArray[np.float64]
_MAX_BYTES = 32 << 20
_MOVING = ("revolute", "continuous", "prismatic")


@dataclass(frozen=True, eq=False)
class _Joint:
    name: str
    kind: str
    parent: str
    child: str
    parent_from_joint: FloatArray
    axis: FloatArray


@dataclass(frozen=True, eq=False)
class Chain:
    """The joints from ``base`` to ``tip``, in order (http://wiki.ros.org/urdf/XML/joint)."""

    joints: tuple[_Joint, ...]
    where: str

    @classmethod
    def load(cls, path: Path, base: str, tip: str) -> Chain:
        """The chain between two links of a URDF file.

        Raises:
            SourceNotFoundError: No such file.
            BadFileError: Not XML.
            UnsafeFileError: XML that declares entities.
            WrongFormatError: Not a URDF, links that are not connected, or a joint that is not supported.
        """
        raw = _text.read_bytes(path, _MAX_BYTES)
        if b"<!DOCTYPE" in raw or b"<!ENTITY" in raw:
            raise UnsafeFileError("XML with declarations is refused", where=path, found="<!DOCTYPE or <!ENTITY")
        try:
            root = ElementTree.fromstring(raw)
        except ElementTree.ParseError as error:
            raise BadFileError(f"is not XML: {error}", where=path) from None
        if root.tag != "robot":
            raise WrongFormatError("is not a URDF file", where=path, expected="<robot>", found=f"<{root.tag}>")
        by_child = {j.child: j for j in (_joint(e, path) for e in root.findall("joint"))}
        links = {e.get("name") for e in root.findall("link")}
        for link in (base, tip):
            if link not in links:
                raise WrongFormatError(
                    "has no such link", where=path, field=link, expected=" | ".join(sorted(map(str, links)))
                )
        chain: list[_Joint] = []
        link = tip
        while link != base:
            if link not in by_child or len(chain) > len(by_child):
                raise WrongFormatError(
                    "links are not connected", where=path, expected=f"{base} above {tip}", found=link
                )
            chain.append(by_child[link])
            link = by_child[link].parent
        return cls(tuple(reversed(chain)), str(path))

    def poses(self, names: Sequence[str], values: FloatArray, angle_unit: float = 1.0) -> FloatArray:
        """Poses ``(N, 4, 4)`` of the tip in the base.

        Args:
            names: Of the joints that ``values`` gives.
            values: ``(N, len(names))``.
            angle_unit: Radians in the unit of the revolute joints; prismatic ones are metres.

        Raises:
            WrongFormatError: A moving joint of the chain is not given, or a name is not in the chain.
        """
        moving = [j.name for j in self.joints if j.kind in _MOVING]
        if sorted(moving) != sorted(names):
            raise WrongFormatError(
                "joints and the robot's chain differ",
                where=self.where,
                expected=", ".join(moving),
                found=", ".join(names),
            )
        pose = np.broadcast_to(np.eye(4), (len(values), 4, 4))
        for joint in self.joints:
            pose = pose @ joint.parent_from_joint
            if joint.kind not in _MOVING:
                continue
            value = values[:, list(names).index(joint.name)]
            zero = np.zeros((len(values), 3))
            if joint.kind == "prismatic":
                step = transforms.make_transform(
                    np.broadcast_to(np.eye(3), (len(values), 3, 3)), value[:, None] * joint.axis
                )
            else:
                turn = rotations.matrix_from_rotation_vector(value[:, None] * angle_unit * joint.axis)
                step = transforms.make_transform(turn, zero)
            pose = pose @ step
        return np.asarray(pose)


def _joint(element: ElementTree.Element, path: Path) -> _Joint:
    name = element.get("name", "")
    kind = element.get("type", "")
    parent, child = element.find("parent"), element.find("child")
    if kind not in (*_MOVING, "fixed", "floating", "planar") or parent is None or child is None:
        raise WrongFormatError("is not a URDF joint", where=path, field=name, found=kind)
    if kind in ("floating", "planar"):
        raise WrongFormatError("a joint of this kind is not supported", where=path, field=name, found=kind)
    origin, axis_element = element.find("origin"), element.find("axis")

    def numbers(text: str | None, default: str) -> FloatArray:
        try:
            values = np.array([float(v) for v in (text or default).split()])
        except ValueError:
            values = np.empty(0)
        if values.shape != (3,):
            raise WrongFormatError("is not three numbers", where=path, field=name, found=text)
        return values

    xyz = numbers(None if origin is None else origin.get("xyz"), "0 0 0")
    rpy = numbers(None if origin is None else origin.get("rpy"), "0 0 0")
    axis = numbers(None if axis_element is None else axis_element.get("xyz"), "1 0 0")
    if np.linalg.norm(axis) == 0:
        raise WrongFormatError("axis is zero", where=path, field=name)
    return _Joint(
        name,
        kind,
        parent.get("link", ""),
        child.get("link", ""),
        np.asarray(transforms.make_transform(rotations.matrix_from_euler(rpy), xyz)),
        np.asarray(rotations.normalize(axis)),
    )

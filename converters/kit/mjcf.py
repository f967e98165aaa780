"""Robots and scenes as MuJoCo describes them (MJCF), reduced to what says where things are, and compiled by MuJoCo.

A log names the meshes and textures of the machine it was made on, and those of another version of MuJoCo name
attributes that this one refuses. Neither says where a joint, a site or a camera is. So everything is left out of the
XML but bodies, joints, sites and cameras (https://mujoco.readthedocs.io/en/stable/XMLreference.html), and every body
is given a mass, which poses do not depend on: no file is missed, and nothing of the log's XML is trusted.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cameras.files import OPENCV_FROM_OPENGL
from ...errors import (
    AmbiguousSourceError,
    BadFileError,
    MissingExtraError,
    SourceNotFoundError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
    install_hint,
)
from ...geometry import exact, rotations, transforms
from ...untrusted.files import read_bytes

FloatArray = NDArray[np.float64]
MAX_BYTES = 32 << 20
MAX_INCLUDES = 200
MAX_DEPTH = 200
MAX_COPIES = 10_000
_MAX_LISTED = 60
_PLACE = ("pos", "quat", "axisangle", "xyaxes", "zaxis", "euler")
_KEPT = {
    "body": ("name", "childclass", "mocap", *_PLACE),
    "frame": ("name", "childclass", *_PLACE),
    "replicate": ("childclass", "count", "sep", "offset", "euler"),
    "joint": ("name", "class", "type", "pos", "axis", "ref"),
    "freejoint": ("name",),
    "site": ("name", "class", "type", "size", "fromto", *_PLACE),
    "camera": ("name", "class", "mode", "target", "fovy", "sensorsize", *_PLACE),
}
_NESTED = ("body", "frame", "replicate")
_CENTRE_OF_MASS_MODES = ("track", "trackcom", "targetbodycom")


def parse_xml(raw: bytes, where: object) -> ElementTree.Element:
    """The root of an XML text that declares nothing.

    Raises:
        BadFileError: Not XML.
        UnsafeFileError: XML that declares entities.
    """
    if b"<!DOCTYPE" in raw or b"<!ENTITY" in raw:
        raise UnsafeFileError("XML with declarations is refused", where=where, found="<!DOCTYPE or <!ENTITY")
    try:
        return ElementTree.fromstring(raw)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise BadFileError(f"is not XML: {error}", where=where) from None


def _raw(text: str) -> bytes:
    """The bytes of a text from HDF5, in which those that are no UTF-8 are escaped; XML then refuses them."""
    return text.encode("utf-8", "surrogateescape")


def robot_files(path: Path) -> list[Path]:
    """A robot file and the files that it includes, for fingerprints; those that do not exist are left out."""
    files: list[Path] = []
    pending = [path]
    while pending and len(files) < MAX_INCLUDES:
        file = pending.pop()
        if file in files or not file.is_file():
            continue
        files.append(file)
        root = parse_xml(read_bytes(file, MAX_BYTES), file)
        pending += [_beside(str(e.get("file")), file, path) for e in root.iter("include")]
    return files


def _beside(name: str, file: Path, main: Path) -> Path:
    own = file.parent / name
    return own if own.is_file() else main.parent / name


def _included(root: ElementTree.Element, file: Path | None, main: Path | None, where: object, read: list[Path]) -> None:
    """Put the contents of included files in the place of the elements that include them."""
    for parent in list(root.iter()):
        for place, element in reversed(list(enumerate(parent))):
            if element.tag != "include":
                continue
            if file is None or main is None:
                raise UnsafeFileError("includes another file", where=where, field="include", found=element.get("file"))
            other = _beside(str(element.get("file")), file, main)
            if not other.is_file():
                raise SourceNotFoundError("no such file", where=other, field=f"include of {file.name}")
            read.append(other)
            if len(read) > MAX_INCLUDES:
                raise BadFileError("files include each other", where=where, expected=f"≤ {MAX_INCLUDES} includes")
            inner = parse_xml(read_bytes(other, MAX_BYTES), other)
            _included(inner, other, main, other, read)
            parent[place : place + 1] = list(inner)


def _place_only(element: ElementTree.Element) -> ElementTree.Element:
    kept = _KEPT[element.tag]
    return ElementTree.Element(element.tag, {k: v for k, v in element.attrib.items() if k in kept})


def _reduced_body(element: ElementTree.Element, where: object, depth: int = 0, copies: int = 1) -> ElementTree.Element:
    count = element.get("count", "1") if element.tag == "replicate" else "1"
    copies *= int(count) if count.isascii() and count.isdecimal() else MAX_COPIES + 1
    if depth > MAX_DEPTH or copies > MAX_COPIES:
        raise UnsafeFileError(
            "nests too deeply or copies too often",
            where=where,
            field=element.tag,
            expected=f"≤ {MAX_DEPTH} bodies in each other, ≤ {MAX_COPIES} copies",
        )
    if element.tag == "worldbody":
        out = ElementTree.Element("worldbody")
    else:
        out = _place_only(element)
        if element.tag == "body":
            ElementTree.SubElement(out, "inertial", {"pos": "0 0 0", "mass": "1", "diaginertia": "1 1 1"})
    for child in element:
        if child.tag == "attach":
            raise UnsupportedSourceError(
                "attaches other models, which are not read",
                where=where,
                field="attach",
                hint="Compile it to one file first: mujoco.mj_saveLastXML.",
            )
        if child.tag in _NESTED:
            out.append(_reduced_body(child, where, depth + 1, copies))
        elif child.tag in _KEPT:
            out.append(_place_only(child))
    return out


def _reduced_defaults(element: ElementTree.Element, where: object, depth: int = 0) -> ElementTree.Element:
    if depth > MAX_DEPTH:
        raise UnsafeFileError("nests too deeply", where=where, field="default", expected=f"≤ {MAX_DEPTH} levels")
    out = ElementTree.Element("default", {k: v for k, v in element.attrib.items() if k == "class"})
    for child in element:
        if child.tag == "default":
            out.append(_reduced_defaults(child, where, depth + 1))
        elif child.tag in ("joint", "site", "camera"):
            out.append(_place_only(child))
    return out


def reduced(root: ElementTree.Element, where: object) -> str:
    """The XML text of bodies, joints, sites and cameras alone.

    Raises:
        WrongFormatError: Not MJCF.
        UnsupportedSourceError: Global coordinates, which MuJoCo dropped, or attached models.
    """
    if root.tag != "mujoco":
        raise WrongFormatError("is not an MJCF file", where=where, expected="<mujoco>", found=f"<{root.tag}>")
    out = ElementTree.Element("mujoco")
    for compiler in root.findall("compiler"):
        if compiler.get("coordinate", "local") != "local":
            raise UnsupportedSourceError(
                "global coordinates are not supported", where=where, field="compiler", found=compiler.get("coordinate")
            )
        ElementTree.SubElement(
            out, "compiler", {k: v for k, v in compiler.attrib.items() if k in ("angle", "eulerseq")}
        )
    out.extend([_reduced_defaults(d, where) for d in root.findall("default")])
    worlds = root.findall("worldbody")
    if not worlds:
        raise WrongFormatError("has no bodies", where=where, expected="<worldbody>")
    out.extend([_reduced_body(w, where) for w in worlds])
    return ElementTree.tostring(out, encoding="unicode")


def _mujoco(where: object) -> Any:
    try:
        import mujoco
    except ImportError:
        raise MissingExtraError(
            "MuJoCo is not installed", where=where, hint=f"Install it: {install_hint('joints')}"
        ) from None
    return mujoco


@dataclass(frozen=True, eq=False)
class Scene:
    """A compiled model: where its bodies, sites and cameras are, for any values of its joints.

    Args:
        model: ``mujoco.MjModel``.
        mujoco: The module.
        where: For errors.
        flat: Cameras without perspective; ``*`` where a default says so.
    """

    model: Any
    mujoco: Any
    where: str
    flat: frozenset[str] = frozenset()

    @classmethod
    def from_file(cls, path: Path) -> Scene:
        """The model in a file; meshes, textures and everything else that says nothing of places need not be there.

        Raises:
            SourceNotFoundError: The file, or one that it includes, does not exist.
            BadFileError: MuJoCo cannot compile it.
            MissingExtraError: MuJoCo is not installed.
            WrongFormatError: Not MJCF.
        """
        root = parse_xml(read_bytes(path, MAX_BYTES), path)
        _included(root, path, path, path, [])
        return cls._compiled(root, path)

    @classmethod
    def from_text(cls, text: str, where: object) -> Scene:
        """The model in a text, e.g. robosuite's ``model_file``; errors as `from_file`."""
        raw = _raw(text)
        if len(raw) > MAX_BYTES:
            raise UnsafeFileError("is too large to read", where=where, expected=f"≤ {MAX_BYTES} bytes", found=len(raw))
        root = parse_xml(raw, where)
        _included(root, None, None, where, [])
        return cls._compiled(root, where)

    @classmethod
    def _compiled(cls, root: ElementTree.Element, where: object) -> Scene:
        text = reduced(root, where)
        mujoco = _mujoco(where)
        # MuJoCo 3 says it with orthographic, MuJoCo 4 with projection; neither knows the other's word.
        flat = frozenset(
            "*" if e.get("name") is None else str(e.get("name"))
            for e in root.iter("camera")
            if e.get("orthographic") == "true" or e.get("projection") == "orthographic"
        )
        try:
            return cls(mujoco.MjModel.from_xml_string(text), mujoco, str(where), flat)
        except ValueError as error:
            raise BadFileError(f"MuJoCo cannot compile it: {error}", where=where) from None

    def names(self, kind: str) -> list[str]:
        """Names of all ``body``, ``site``, ``joint`` or ``camera`` elements that have one."""
        count = {"body": "nbody", "site": "nsite", "joint": "njnt", "camera": "ncam"}[kind]
        found = (self._name(kind, i) for i in range(int(getattr(self.model, count))))
        return [n for n in found if n]

    def _name(self, kind: str, index: int) -> str | None:
        name = self.mujoco.mj_id2name(self.model, getattr(self.mujoco.mjtObj, f"mjOBJ_{kind.upper()}"), index)
        return None if name is None else str(name)

    def find(self, name: str, kinds: Sequence[str] = ("site", "body"), field: str = "tip") -> tuple[str, int]:
        """Kind and number of the element called ``name``; ``KIND:NAME`` where two kinds share a name.

        Raises:
            WrongFormatError: There is none; those that there are are named.
            AmbiguousSourceError: A site and a body of this name.
        """
        prefix, _, rest = name.partition(":")
        wanted, plain = ((prefix,), rest) if rest and prefix in kinds else (tuple(kinds), name)
        found = {}
        for kind in wanted:
            index = self.mujoco.mj_name2id(self.model, getattr(self.mujoco.mjtObj, f"mjOBJ_{kind.upper()}"), plain)
            if index >= 0:
                found[kind] = int(index)
        if len(found) > 1:
            raise AmbiguousSourceError(
                f"names a {' and a '.join(found)}",
                where=self.where,
                field=field,
                expected=" | ".join(f"{kind}:{plain}" for kind in found),
                found=name,
            )
        if not found:
            raise WrongFormatError(
                f"has no such {' or '.join(kinds)}",
                where=self.where,
                field=field,
                expected="; ".join(f"{k}: {_listed(self.names(k))}" for k in kinds),
                found=name,
            )
        return next(iter(found.items()))

    def body_of(self, kind: str, index: int) -> int:
        """Number of the body that a site or camera is fixed to, or of the body itself."""
        if kind == "body":
            return index
        return int((self.model.site_bodyid if kind == "site" else self.model.cam_bodyid)[index])

    def in_body(self, kind: str, index: int) -> FloatArray:
        """``(4, 4)`` pose of a site or camera (MuJoCo's axes) in its body; the identity for a body itself."""
        if kind == "body":
            return np.eye(4)
        prefix = "site" if kind == "site" else "cam"
        position, quaternion = getattr(self.model, f"{prefix}_pos")[index], getattr(self.model, f"{prefix}_quat")[index]
        return pose_of(position, quaternion)

    def ancestors(self, body: int) -> list[int]:
        """A body and those above it, up to the world (0)."""
        chain = [body]
        while chain[-1] != 0:
            chain.append(int(self.model.body_parentid[chain[-1]]))
        return chain

    def moving_parts(self, body: int) -> list[int]:
        """The bodies from the world down to ``body`` that have joints of their own, or are moved from outside."""
        return [
            b
            for b in reversed(self.ancestors(body))
            if self.model.body_jntnum[b] > 0 or (b != 0 and self.model.body_mocapid[b] >= 0)
        ]

    def carriers(self, kind: str, index: int) -> list[int]:
        """What moves a body, site or camera: the bodies with joints above it, and those above a camera's target."""
        own = self.moving_parts(self.body_of(kind, index))
        target = int(self.model.cam_targetbodyid[index]) if kind == "camera" else -1
        aimed = [] if target < 0 else self.moving_parts(target)
        return own if target < 0 or aimed == own else [*own, -1, *aimed]

    def slides_beside(self, kind: str, index: int) -> list[FloatArray]:
        """Axes ``(3,)`` in the world, at rest, of the slide joints on the same moving body as a site: fingers."""
        parts = self.moving_parts(self.body_of(kind, index))
        data = self.mujoco.MjData(self.model)
        data.qpos[:] = self.model.qpos0
        self.mujoco.mj_kinematics(self.model, data)
        out = []
        for joint in range(int(self.model.njnt)):
            above = self.moving_parts(int(self.model.jnt_bodyid[joint]))
            slide = int(self.model.jnt_type[joint]) == int(self.mujoco.mjtJoint.mjJNT_SLIDE)
            if slide and parts and above[:-1] == parts:
                out.append(np.array(data.xaxis[joint], dtype=np.float64))
        return out

    def joint_names_of(self, body: int) -> list[str]:
        """Names of a body's own joints, in order; one without a name is called after its body.

        MuJoCo applies them in this order.
        """
        first, count = int(self.model.body_jntadr[body]), int(self.model.body_jntnum[body])
        unnamed = f"unnamed joint of {self._name('body', body)}"
        return [self._name("joint", j) or unnamed for j in range(first, first + count)]

    def poses(
        self, wanted: Sequence[tuple[str, int]], qpos: FloatArray | None = None
    ) -> dict[tuple[str, int], FloatArray]:
        """Poses ``(T, 4, 4)`` in the world of bodies, sites and cameras (OpenCV axes), computed by MuJoCo.

        Args:
            wanted: Kind and number of each, as `find` gives them.
            qpos: ``(T, nq)``; None: one row, the model's own pose.
        """
        data = self.mujoco.MjData(self.model)
        rows = self.model.qpos0[None] if qpos is None else qpos
        out = {key: np.tile(np.eye(4), (len(rows), 1, 1)) for key in wanted}
        sources = {"body": ("xpos", "xmat"), "site": ("site_xpos", "site_xmat"), "camera": ("cam_xpos", "cam_xmat")}
        for t, row in enumerate(rows):
            data.qpos[:] = row
            self.mujoco.mj_kinematics(self.model, data)
            self.mujoco.mj_camlight(self.model, data)
            for (kind, index), poses in out.items():
                position, rotation = sources[kind]
                poses[t, :3, 3] = getattr(data, position)[index]
                poses[t, :3, :3] = getattr(data, rotation)[index].reshape(3, 3)
        return {k: np.asarray(exact.matmul(v, OPENCV_FROM_OPENGL)) if k[0] == "camera" else v for k, v in out.items()}

    def check_camera(self, index: int) -> None:
        """Refuse cameras whose place depends on masses, or whose lens is not given by ``fovy`` alone.

        Raises:
            UnsupportedSourceError: Such a camera.
        """
        name = self._name("camera", index)
        modes = [getattr(self.mujoco.mjtCamLight, f"mjCAMLIGHT_{m.upper()}") for m in _CENTRE_OF_MASS_MODES]
        if int(self.model.cam_mode[index]) in map(int, modes):
            raise UnsupportedSourceError(
                "the camera follows a centre of mass, which a model without geometry does not have",
                where=self.where,
                field=name,
                expected="mode fixed or targetbody",
            )
        if float(self.model.cam_sensorsize[index].max()) > 0 or self.flat & {"*", name}:
            raise UnsupportedSourceError(
                "cameras with sensorsize or without perspective are not supported",
                where=self.where,
                field=name,
                expected="fovy",
            )

    def camera_K(self, index: int, width: int, height: int) -> FloatArray:
        """``(3, 3)`` intrinsics of a camera's pictures: f = H / 2 / tan(fovy / 2), square pixels, centred."""
        self.check_camera(index)
        f = 0.5 * height / float(exact.tan(0.5 * np.radians(float(self.model.cam_fovy[index]))))
        return np.array([[f, 0.0, width / 2], [0.0, f, height / 2], [0.0, 0.0, 1.0]])


def _listed(names: Sequence[str]) -> str:
    more = f" … ({len(names)} in all)" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more if names else "none"


def cameras_in(text: str, where: object) -> dict[str, bool]:
    """The cameras in an MJCF text, and whether they are fixed to something that moves; MuJoCo is not needed."""
    found: dict[str, bool] = {}

    def walk(element: ElementTree.Element, moves: bool, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UnsafeFileError("nests too deeply", where=where, expected=f"≤ {MAX_DEPTH} bodies in each other")
        moves = moves or element.get("mocap") == "true" or any(c.tag in ("joint", "freejoint") for c in element)
        for child in element:
            if child.tag == "camera":
                found[str(child.get("name"))] = moves or child.get("mode", "fixed") != "fixed"
            elif child.tag in _NESTED:
                walk(child, moves, depth + 1)

    for world in parse_xml(_raw(text), where).findall("worldbody"):
        walk(world, False, 0)
    return found


def pose_of(position: Any, quaternion_wxyz: Any) -> FloatArray:
    """``(4, 4)`` of a position and MuJoCo's quaternion."""
    q = np.asarray(quaternion_wxyz, dtype=np.float64)[[1, 2, 3, 0]]
    return np.asarray(transforms.make_transform(rotations.matrix_from_quaternion(q), np.asarray(position, np.float64)))

"""Gripper meshes in the canonical gripper frame: a parametric parallel-jaw gripper, any mesh, any URDF link.

No torch here; trimesh is imported when a mesh is made. In the canonical frame the origin lies between the
fingertips, +z is the approach and the fingers open along +-y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..conventions import ROTATION_TOLERANCE
from ..errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadFileError,
    InvalidArrayError,
    InvalidSpecError,
    MissingExtraError,
    SourceNotFoundError,
    UnsafeFileError,
    WrongFormatError,
)
from ..geometry import rotations, transforms
from ..untrusted.files import check_plain, read_bytes

if TYPE_CHECKING:
    import trimesh

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Color = tuple[float, float, float]

DEFAULT_COLOR: Color = (0.72, 0.74, 0.78)
MAX_URDF_BYTES = 16 * 2**20
MAX_PARTS = 65535
_NEEDS = {"dae": "pycollada", "zae": "pycollada", "3mf": "networkx lxml", "3dxml": "networkx lxml"}
_KINDS = ("visual", "collision")
_NOT_MESHES = {"dxf", "svg", "xyz", "zip", "bz2", "tar.bz2", "tar.gz"}


@dataclass(frozen=True, eq=False)
class GripperModel:
    """A gripper mesh whose parts slide as it opens, so that a trajectory is posed without rebuilding it.

    A vertex lies at ``vertices + openness * opening`` in the canonical gripper frame. Part ids count from 1
    in the order of ``part_names``; 0 is the background of a rendered picture.

    Args:
        vertices: ``(N, 3)`` metres, of the closed gripper.
        faces: ``(F, 3)`` vertex indices, counter-clockwise seen from outside.
        face_parts: ``(F,)`` part id of each face, from 1.
        opening: ``(N, 3)`` metres that each vertex moves from closed to open.
        part_names: Name of each part.
        face_colors: ``(F, 3)`` RGB in [0, 1].

    Raises:
        InvalidArrayError: No faces, vertices that are not finite, or arrays that do not fit each other.
    """

    vertices: FloatArray
    faces: IntArray
    face_parts: IntArray
    opening: FloatArray
    part_names: tuple[str, ...]
    face_colors: FloatArray

    def __post_init__(self) -> None:
        check_mesh(self.vertices, self.faces, "GripperModel")
        n, f = len(self.vertices), len(self.faces)
        wanted = {"opening": (n, 3), "face_parts": (f,), "face_colors": (f, 3)}
        for name, shape in wanted.items():
            array = getattr(self, name)
            if array.shape != shape or not np.isfinite(array).all():
                raise InvalidArrayError(
                    "does not fit the mesh",
                    where="GripperModel",
                    field=name,
                    expected=shape,
                    found=array.shape,
                )
        if len(self.part_names) > MAX_PARTS:
            raise InvalidArrayError(
                "too many parts", where="GripperModel", expected=MAX_PARTS, found=len(self.part_names)
            )
        low, high = int(self.face_parts.min()), int(self.face_parts.max())
        if low < 1 or high > len(self.part_names):
            raise InvalidArrayError(
                "names a part that does not exist",
                where="GripperModel",
                field="face_parts",
                expected=f"1 … {len(self.part_names)}",
                found=f"{low} … {high}",
            )

    @classmethod
    def from_parts(
        cls, parts: Sequence[tuple[str, trimesh.Trimesh, ArrayLike, Color | None]], where: str = "parts"
    ) -> GripperModel:
        """A model of several meshes.

        Args:
            parts: For each part its name, its mesh when the gripper is closed, the metres ``(3,)`` that it
                moves from closed to open, and its colour (None: the mesh's own).
            where: What an error calls them.

        Raises:
            InvalidArrayError: A mesh has no faces or vertices that are not finite.
        """
        if not parts:
            raise InvalidArrayError("has no parts", where=where)
        vertices, faces, face_parts, opening, colors = [], [], [], [], []
        start = 0
        for i, (name, mesh, motion, color) in enumerate(parts):
            v, f = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
            check_mesh(v, f, f"{where}: {name}")
            vertices.append(v)
            faces.append(f + start)
            face_parts.append(np.full(len(f), i + 1, np.int64))
            opening.append(np.broadcast_to(np.asarray(motion, np.float64), v.shape))
            colors.append(_face_colors(mesh) if color is None else np.broadcast_to(np.array(color), (len(f), 3)))
            start += len(v)
        return cls(
            np.concatenate(vertices),
            np.concatenate(faces),
            np.concatenate(face_parts),
            np.concatenate(opening),
            tuple(name for name, *_ in parts),
            np.concatenate(colors).astype(np.float64),
        )

    @classmethod
    def from_trimesh(cls, mesh: trimesh.Trimesh) -> GripperModel:
        """A rigid model of one mesh, with the parts that `load_mesh` and `parallel_jaw_gripper` note in it.

        Raises:
            InvalidArrayError: No faces, or vertices that are not finite.
        """
        vertices = np.array(mesh.vertices, np.float64)
        faces = np.array(mesh.faces, np.int64)
        check_mesh(vertices, faces, "mesh")
        face_parts = np.asarray(mesh.face_attributes.get("part_id", np.ones(len(faces))), np.int64)
        names = tuple(mesh.metadata.get("part_names", ()))
        if not names:
            names = tuple(f"part{i + 1}" for i in range(int(face_parts.max())))
        return cls(vertices, faces, face_parts, np.zeros_like(vertices), names, _face_colors(mesh))

    def posed(self, openness: ArrayLike) -> FloatArray:
        """Vertices ``(..., N, 3)`` in the gripper frame for openness ``(...)`` in [0, 1]."""
        amount = _openness(openness)
        return np.asarray(self.vertices + amount[..., None, None] * self.opening)

    def part_id(self, name: str) -> int:
        """The id of a part in a rendered picture; `InvalidSpecError` where there is no such part."""
        if name not in self.part_names:
            raise InvalidSpecError("no such part", field="part", expected=" ".join(self.part_names), found=name)
        return self.part_names.index(name) + 1

    def mesh(self, openness: float = 1.0) -> trimesh.Trimesh:
        """The gripper at one openness, with ``face_attributes["part_id"]`` and ``metadata["part_names"]``."""
        trimesh = _trimesh()
        colors = np.concatenate([self.face_colors, np.ones((len(self.faces), 1))], axis=1)
        return trimesh.Trimesh(
            self.posed(float(openness)),
            self.faces,
            face_colors=np.rint(colors * 255).astype(np.uint8),
            face_attributes={"part_id": self.face_parts.copy()},
            metadata={"part_names": list(self.part_names)},
            process=False,
        )


def gripper_model(
    *,
    max_width: float = 0.08,
    finger_length: float = 0.0545,
    finger_width: float = 0.0175,
    hand_size: tuple[float, float, float] = (0.05, 0.204, 0.066),
    flange_radius: float = 0.0315,
    fingertip_reach: float = 0.0,
) -> GripperModel:
    """The parametric parallel-jaw gripper: flange, hand, two fingers and their pads, 216 faces, watertight.

    The defaults are of the size of the Franka hand (Franka Robotics, ``franka_description``: finger boxes of
    22 and 17.5 mm, fingers of 54.5 mm that start 58.4 mm in front of the hand's frame and open 80 mm). The tips
    end 0.1129 m in front of that frame, which is where RLBench puts ``gripper_pose``; the shape is the same when
    turned by 180 degrees about z, so RLBench's half turn does not matter here.

    Args:
        max_width: Metres between the pads when open.
        finger_length: Metres of each finger along the approach.
        finger_width: Metres of the fingertips along x.
        hand_size: Metres of the hand along x, y (widened where the fingers need it) and z.
        flange_radius: Metres of the round flange at the wrist.
        fingertip_reach: Metres that the fingers reach beyond the gripper's origin.

    Raises:
        InvalidSpecError: A size that is not positive and finite, or a reach outside ``[0, finger_length)``.
    """
    sizes = {
        "max_width": max_width,
        "finger_length": finger_length,
        "finger_width": finger_width,
        "flange_radius": flange_radius,
        **{f"hand_size[{i}]": s for i, s in enumerate(hand_size)},
    }
    for name, value in sizes.items():
        if not (np.isfinite(value) and 0 < value <= 10):
            raise InvalidSpecError("must be a length in metres", field=name, expected="0 < … ≤ 10", found=value)
    if not 0 <= fingertip_reach < finger_length:
        raise InvalidSpecError(
            "is outside the finger",
            field="fingertip_reach",
            expected=f"0 … {finger_length:g}",
            found=fingertip_reach,
        )
    trimesh = _trimesh()

    # One finger when closed, on the +y side; the fractions are those of the Franka finger's collision boxes.
    tip = fingertip_reach
    base = tip - finger_length
    pad, half_tip, half_base = 0.002, finger_width / 2, finger_width * 0.63
    depth, offset = 0.87 * finger_width, 0.63 * finger_width
    thick = offset + 0.86 * finger_width
    finger = _loft(
        trimesh,
        [
            _box_ring(half_base, offset, thick, base - 0.002),
            _box_ring(half_base, offset, thick, base + 0.37 * finger_length),
            _box_ring(half_tip, pad, depth, base + 0.65 * finger_length),
            _box_ring(half_tip, pad, depth, tip - 0.07 * finger_length),
            _box_ring(half_tip, pad, 0.7 * depth, tip),
        ],
    )
    inset = 0.001
    pad_mesh = _loft(
        trimesh,
        [
            _box_ring(half_tip - inset, 0.0, pad + inset, base + 0.67 * finger_length),
            _box_ring(half_tip - inset, 0.0, pad + inset, tip - inset),
        ],
    )

    half_x, half_y = hand_size[0] / 2, max(hand_size[1] / 2, max_width / 2 + thick + 0.01)
    bottom, top = base - hand_size[2], base
    chamfer = 0.3 * half_x
    hand = _loft(
        trimesh,
        [
            _octagon(half_x * 0.9, half_y * 0.45, chamfer, bottom),
            _octagon(half_x, half_y * 0.92, chamfer, bottom + 0.35 * hand_size[2]),
            _octagon(half_x, half_y, chamfer, bottom + 0.6 * hand_size[2]),
            _octagon(half_x * 0.8, half_y, chamfer, top),
        ],
    )
    angle = np.arange(16) * (2 * np.pi / 16)
    circle = flange_radius * np.stack([np.cos(angle), np.sin(angle)], -1)
    flange = _loft(
        trimesh,
        [np.concatenate([circle, np.full((16, 1), z)], -1) for z in (bottom - 0.02, bottom + 0.001)],
    )

    mirror = np.diag([1.0, -1.0, 1.0, 1.0])
    half = max_width / 2
    grey, dark, light = (0.45, 0.47, 0.50), (0.12, 0.12, 0.13), (0.90, 0.91, 0.92)
    return GripperModel.from_parts(
        [
            ("flange", flange, (0, 0, 0), grey),
            ("hand", hand, (0, 0, 0), light),
            ("finger_left", finger, (0, half, 0), grey),
            ("finger_right", finger.copy().apply_transform(mirror), (0, -half, 0), grey),
            ("pad_left", pad_mesh, (0, half, 0), dark),
            ("pad_right", pad_mesh.copy().apply_transform(mirror), (0, -half, 0), dark),
        ]
    )


def parallel_jaw_gripper(openness: float = 1.0, *, max_width: float = 0.08, **sizes: Any) -> trimesh.Trimesh:
    """The parametric gripper as one mesh in the canonical frame, at one openness.

    Args:
        openness: 0 (pads touch) to 1 (pads ``max_width`` apart).
        max_width: Metres between the pads when open.
        **sizes: The other sizes of `gripper_model`.

    Raises:
        InvalidSpecError: Openness outside [0, 1], or a size that cannot be.
    """
    return gripper_model(max_width=max_width, **sizes).mesh(openness)


def load_mesh(
    source: str | Path | trimesh.Trimesh,
    link: str | None = None,
    *,
    gripper_from_mesh: ArrayLike | None = None,
    scale: float = 1.0,
) -> trimesh.Trimesh:
    """Any mesh to be drawn as the gripper.

    Args:
        source: A mesh, a mesh file of any format that trimesh reads, or a URDF file.
        link: The link of a URDF whose visual meshes (collision meshes where it has none) are taken. Needed
            where more than one link has any.
        gripper_from_mesh: ``(4, 4)`` canonical gripper frame from the mesh's (for a URDF: the link's) own
            frame; None where they are the same.
        scale: Metres for one unit of the mesh, e.g. 0.001 for millimetres.

    Returns:
        The mesh in metres in the canonical frame; ``face_attributes["part_id"]`` (from 1) and
        ``metadata["part_names"]`` tell its geometries apart.

    Raises:
        SourceNotFoundError: The file, or a mesh file that the URDF names, does not exist.
        WrongFormatError: Not a mesh or URDF, or the URDF has no such link.
        AmbiguousSourceError: A URDF of several links with geometry and no ``link``.
        InvalidArrayError: No faces, or vertices that are not finite.
        BadFileError: The file is damaged.
        UnsafeFileError: The URDF declares a DTD or entities, or names meshes on the network.
        MissingExtraError: Reading this format needs a package that is not installed; the message names it.
    """
    trimesh = _trimesh()
    if not (np.isfinite(scale) and scale > 0):
        raise InvalidSpecError("must be positive", field="scale", found=scale)
    if isinstance(source, trimesh.Trimesh):
        _no_link(link, "mesh")
        model = GripperModel.from_trimesh(source)
    else:
        path = Path(source)
        if not path.is_file():
            raise SourceNotFoundError("mesh file does not exist", where=path)
        if path.suffix.lower() == ".urdf":
            pieces = _urdf_link(path, link)
        else:
            _no_link(link, str(path))
            pieces = _load_file(path)
        model = GripperModel.from_parts([(name, mesh, (0, 0, 0), None) for name, mesh in pieces], str(path))
    mesh = model.mesh()
    mesh.vertices = transforms.apply(_rigid_change(gripper_from_mesh), np.asarray(mesh.vertices) * scale)
    return mesh


def link_meshes(path: str | Path, links: Sequence[str]) -> dict[str, trimesh.Trimesh | ActionImgError]:
    """The meshes of a URDF's links, each in its link's frame and in metres.

    Args:
        path: URDF; meshes are looked for beside it and in package folders at or above it.
        links: Names of those that are wanted.

    Returns:
        For each link that has geometry its visual meshes; where they cannot be read its collision meshes; where those
        cannot either, why.

    Raises:
        SourceNotFoundError: The file does not exist.
        BadFileError: Not XML.
        WrongFormatError: Not a URDF.
        UnsafeFileError: It declares a DTD or entities.
    """
    path = Path(path)
    found: dict[str, trimesh.Trimesh | ActionImgError] = {}
    if not path.is_file():
        raise SourceNotFoundError("robot file does not exist", where=path)
    for element in _urdf_root(path).findall("link"):
        name = element.get("name", "")
        for kind in _KINDS if name in links else ():
            try:
                pieces = _link_pieces(path, name, _geometries(element, (kind,)))
                if pieces:
                    parts = [(label, mesh, (0, 0, 0), None) for label, mesh in pieces]
                    found[name] = GripperModel.from_parts(parts, f"{path}: link {name}").mesh()
                    break
            except ActionImgError as error:
                found.setdefault(name, error)
    return found


def check_mesh(vertices: NDArray[Any], faces: NDArray[Any], where: str) -> None:
    """Refuse a mesh without faces, with vertices that are not finite, or with faces of missing vertices."""
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1:] != (3,):
        raise InvalidArrayError(
            "is not a triangle mesh",
            where=where,
            expected="vertices (N, 3), faces (F, 3)",
            found=f"{vertices.shape}, {faces.shape}",
        )
    if len(faces) == 0:
        raise InvalidArrayError("mesh has no faces", where=where, field="faces", expected="≥ 1", found=0)
    bad = ~np.isfinite(vertices).all(-1)
    if bad.any():
        first = int(np.argmax(bad))
        raise InvalidArrayError(
            "mesh has vertices that are not finite",
            where=where,
            field=f"vertices[{first}]",
            found=f"{vertices[first].tolist()}, {int(bad.sum())} such",
        )
    if int(faces.min()) < 0 or int(faces.max()) >= len(vertices):
        raise InvalidArrayError(
            "mesh has a face of a vertex that does not exist",
            where=where,
            field="faces",
            expected=f"0 … {len(vertices) - 1}",
            found=f"{int(faces.min())} … {int(faces.max())}",
        )


def _trimesh() -> Any:
    import trimesh

    return trimesh


def _openness(value: ArrayLike) -> FloatArray:
    openness = np.asarray(value, np.float64)
    if not ((openness >= 0) & (openness <= 1)).all():
        bad = openness[~((openness >= 0) & (openness <= 1))]
        raise InvalidSpecError("is outside [0, 1]", field="openness", expected="0 … 1", found=float(bad.ravel()[0]))
    return openness


def _box_ring(half_x: float, y0: float, y1: float, z: float) -> FloatArray:
    return np.array([[half_x, y0, z], [half_x, y1, z], [-half_x, y1, z], [-half_x, y0, z]])


def _octagon(half_x: float, half_y: float, chamfer: float, z: float) -> FloatArray:
    x, y, c = half_x, half_y, chamfer
    ring = [
        (x, c - y),
        (x, y - c),
        (x - c, y),
        (c - x, y),
        (-x, y - c),
        (-x, c - y),
        (c - x, -y),
        (x - c, -y),
    ]
    return np.array([(*p, z) for p in ring])


def _loft(trimesh: Any, rings: Sequence[FloatArray]) -> Any:
    """A closed mesh through convex rings ``(P, 3)`` (counter-clockwise seen from +z) stacked along +z."""
    count, size = len(rings), len(rings[0])
    i = np.arange(size)
    j = (i + 1) % size
    sides = [
        np.concatenate([np.stack([i, j, j + size], -1), np.stack([i, j + size, i + size], -1)]) + size * k
        for k in range(count - 1)
    ]
    fan = np.stack([np.zeros(size - 2, int), i[1:-1], i[2:]], -1)
    faces = np.concatenate([*sides, fan[:, ::-1], fan + size * (count - 1)])
    return trimesh.Trimesh(np.concatenate(rings), faces, process=False)


def _face_colors(mesh: Any) -> FloatArray:
    """RGB ``(F, 3)`` in [0, 1] of each face, one light grey where the mesh has no colours of its own."""
    visual = mesh.visual
    if visual is None or not visual.defined:
        return np.broadcast_to(np.array(DEFAULT_COLOR), (len(mesh.faces), 3)).copy()
    if hasattr(visual, "face_colors"):
        colors = visual.face_colors
    elif visual.uv is None:
        colors = visual.material.main_color
    else:
        visual = visual.to_color()
        visual.mesh = mesh
        colors = visual.face_colors
    colors = np.asarray(colors, np.float64).reshape(-1, 4)
    return np.broadcast_to(colors[:, :3] / 255, (len(mesh.faces), 3)).copy()


def _no_link(link: str | None, where: str) -> None:
    if link is not None:
        raise InvalidSpecError("only a URDF has links", where=where, field="link", found=link)


def _rigid_change(gripper_from_mesh: ArrayLike | None) -> FloatArray:
    change = np.eye(4) if gripper_from_mesh is None else np.array(gripper_from_mesh, np.float64)
    name = "gripper_from_mesh"
    if change.shape != (4, 4) or not np.isfinite(change).all():
        raise InvalidArrayError("is not a transform", field=name, expected=(4, 4), found=change.tolist())
    off = float(rotations.orthonormality_error(change[:3, :3]))
    if off > ROTATION_TOLERANCE or (change[3] != [0, 0, 0, 1]).any():
        raise InvalidArrayError("is not rigid", field=name, expected="RᵀR = I, last row 0 0 0 1", found=change.tolist())
    return change


def _load_file(path: Path) -> list[tuple[str, Any]]:
    """Named meshes of a file, each in the file's own frame."""
    trimesh = _trimesh()
    kind = path.suffix.lower().lstrip(".")
    readable = set(trimesh.available_formats()) - _NOT_MESHES
    if kind not in readable:
        if kind in _NEEDS:
            raise MissingExtraError(
                "reading this format needs another package", where=path, hint=f"pip install {_NEEDS[kind]}"
            )
        raise WrongFormatError("is not a mesh file", where=path, expected=" ".join(sorted(readable)), found=path.suffix)
    check_plain(path)
    try:
        # Unprocessed: processing would drop vertices that are not finite without a word.
        loaded = trimesh.load_scene(str(path), process=False, resolver=_resolver(trimesh, path))
        pieces = [
            (str(name), loaded.geometry[geometry].copy().apply_transform(pose))
            for name in loaded.graph.nodes_geometry
            for pose, geometry in [loaded.graph[name]]
            if isinstance(loaded.geometry[geometry], trimesh.Trimesh)
        ]
    except ImportError as error:
        raise MissingExtraError("reading this format needs another package", where=path, found=str(error)) from error
    except Exception as error:
        # Each of trimesh's format readers fails in its own way on damaged bytes.
        raise BadFileError("cannot be read as a mesh", where=path, found=f"{type(error).__name__}: {error}") from error
    if not pieces:
        raise InvalidArrayError("mesh has no faces", where=path, field="faces", expected="≥ 1", found=0)
    return pieces


def _resolver(trimesh: Any, path: Path) -> Any:
    """What gives a mesh the materials and textures beside it, which are files of unknown origin as well."""

    class Plain(trimesh.resolvers.FilePathResolver):  # type: ignore[misc]
        def get(self, name: str) -> Any:
            beside = Path(self.parent) / name.strip()
            if beside.exists():
                check_plain(beside)
            return super().get(name)

    return Plain(str(path))


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type declaration before any entity in it could be expanded or fetched."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise UnsafeFileError("a URDF must not declare a document type or entities", found=f"<!DOCTYPE {name}>")


def _urdf_root(path: Path) -> ElementTree.Element:
    try:
        root = ElementTree.fromstring(read_bytes(path, MAX_URDF_BYTES), ElementTree.XMLParser(target=_NoDoctype()))
    except UnsafeFileError as error:
        raise error.at(path) from None
    except ElementTree.ParseError as error:
        raise BadFileError("is not XML", where=path, found=str(error)) from error
    if root.tag != "robot":
        raise WrongFormatError("is not a URDF", where=path, expected="<robot>", found=f"<{root.tag}>")
    return root


def _urdf_link(path: Path, link: str | None) -> list[tuple[str, Any]]:
    """Named meshes of one link, in the link's frame (http://wiki.ros.org/urdf/XML/link)."""
    links = {e.get("name", ""): e for e in _urdf_root(path).findall("link")}
    shaped = {n: _geometries(e) for n, e in links.items() if _geometries(e)}
    if link is None:
        if len(shaped) != 1:
            raise AmbiguousSourceError(
                "name the link to draw",
                where=path,
                field="link",
                expected=" | ".join(shaped),
                found=f"{len(shaped)} links",
            )
        link = next(iter(shaped))
    if link not in links:
        raise WrongFormatError("has no such link", where=path, field="link", expected=" | ".join(shaped), found=link)
    if link not in shaped:
        raise InvalidArrayError(
            "link has no geometry, so no faces",
            where=path,
            field=link,
            expected=" | ".join(shaped),
            found=link,
        )
    return _link_pieces(path, link, shaped[link])


def _link_pieces(path: Path, link: str, elements: Sequence[ElementTree.Element]) -> list[tuple[str, Any]]:
    """Named meshes of some geometries of a link, in the link's frame."""
    pieces = []
    for i, element in enumerate(elements):
        place = f"{path}: link {link}"
        for name, mesh in _geometry_meshes(element, path, place):
            label = element.get("name") or f"{link}{i}"
            pieces.append((f"{label}/{name}" if name else label, mesh.apply_transform(_origin(element, place))))
    return pieces


def _geometries(link: ElementTree.Element, kinds: Sequence[str] = _KINDS) -> list[ElementTree.Element]:
    for kind in kinds:
        found = [e for e in link.findall(kind) if len(e.find("geometry") or ())]
        if found:
            return found
    return []


def _numbers(element: ElementTree.Element | None, name: str, default: str, count: int, where: str) -> FloatArray:
    text = default if element is None else element.get(name, default)
    try:
        values = np.array([float(t) for t in text.split()])
    except ValueError:
        values = np.empty(0)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise BadFileError("bad numbers", where=where, field=name, expected=f"{count} finite numbers", found=text)
    return values


def _lengths(element: ElementTree.Element, name: str, count: int, where: str) -> FloatArray:
    values = _numbers(element, name, "", count, where)
    if not (values > 0).all():
        raise BadFileError("must be positive", where=where, field=name, found=element.get(name))
    return values


def _origin(element: ElementTree.Element, where: str) -> FloatArray:
    origin = element.find("origin")
    # URDF's rpy is about the fixed axes x, y, z: the package's own Euler convention.
    rotation = rotations.matrix_from_euler(_numbers(origin, "rpy", "0 0 0", 3, where))
    return np.asarray(transforms.make_transform(rotation, _numbers(origin, "xyz", "0 0 0", 3, where)))


def _geometry_meshes(element: ElementTree.Element, urdf: Path, where: str) -> list[tuple[str, Any]]:
    trimesh = _trimesh()
    geometry = element.find("geometry")
    shape = next(iter(geometry if geometry is not None else ()))
    if shape.tag == "mesh":
        scale = _numbers(shape, "scale", "1 1 1", 3, where)
        pieces = _load_file(_mesh_path(shape.get("filename", ""), urdf, where))
        for _, mesh in pieces:
            mesh.apply_transform(np.diag([*scale, 1.0]))
        return [(name if len(pieces) > 1 else "", mesh) for name, mesh in pieces]
    if shape.tag == "box":
        return [("", trimesh.creation.box(_lengths(shape, "size", 3, where)))]
    if shape.tag == "sphere":
        return [("", trimesh.creation.icosphere(2, float(_lengths(shape, "radius", 1, where)[0])))]
    if shape.tag == "cylinder":
        radius, length = (float(_lengths(shape, k, 1, where)[0]) for k in ("radius", "length"))
        return [("", trimesh.creation.cylinder(radius, length, sections=24))]
    raise WrongFormatError(
        "unknown geometry",
        where=where,
        field="geometry",
        expected="mesh | box | cylinder | sphere",
        found=shape.tag,
    )


def _mesh_path(name: str, urdf: Path, where: str) -> Path:
    """The file that a URDF means: relative to it, or in a package folder at or above it."""
    scheme, _, rest = name.partition("://")
    if not rest:
        candidates = [urdf.parent / name]
    elif scheme == "file":
        candidates = [Path(rest)]
    elif scheme in ("package", "model"):
        package, _, inner = rest.partition("/")
        folders = list(urdf.resolve().parents)
        candidates = [f / inner for f in folders if f.name == package] + [f / package / inner for f in folders]
    else:
        raise UnsafeFileError("meshes are read from files only", where=where, field="mesh filename", found=name)
    found = next((c for c in candidates if name and c.is_file()), None)
    if found is None:
        raise SourceNotFoundError(
            "mesh file of the URDF does not exist",
            where=where,
            field="mesh filename",
            expected=" or ".join(str(c) for c in candidates[:2]),
            found=name,
        )
    return found

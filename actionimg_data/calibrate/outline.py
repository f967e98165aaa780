"""Outlines of the gripper and of an arm's links in a picture: where a silhouette ends, which way is out, and which 3-D
point that is.

A small painter's rasteriser on OpenCV's polygon filling, so that nothing but the core packages is needed. It draws each
body alone, in a window around it, with several samples a pixel: a few milliseconds a frame. Bodies that are seen
together are then held against each other's depth (`unhidden`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d

from ..conventions import DEFAULT_NEAR
from ..geometry import pinhole, transforms
from ..raster.gripper import GripperModel

FloatArray = NDArray[np.float64]

MAX_FACES: Final = 4000
"""Finer meshes are clustered until they have no more faces; an outline does not show the difference."""

MAX_LINK_FACES: Final = 1200
"""An arm has many links."""

GAP_M: Final = 0.03
"""Where one body's outline ends before another that is less far behind, no edge is looked for."""

BESIDE_PX: Final = 1.5
"""So far from an outline, to both sides, it is looked what other bodies are there."""

SCALE_DEVIATION: Final = 0.04
"""Standard deviation of a mesh's scale against the real gripper's."""

WRIST_SHARE: Final = 0.2
"""Share of the gripper's length, from the wrist, whose outline is not used: there the arm goes on."""

_FRACTION_BITS: Final = 6
_SAMPLES: Final = 240
_MAX_ZOOM: Final = 8.0
_CLUSTER_M: Final = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)


@dataclass(frozen=True, eq=False)
class Outline:
    """Points on a body's outline in one picture.

    Args:
        uv: ``(P, 2)`` pixels.
        normal: ``(P, 2)`` unit, pointing out of the body.
        local: ``(P, 3)`` metres, the points in the body's frame.
        spacing: Pixels of outline for each point.
        grown: ``(P, M, 3)`` metres that each point moves in the body's frame for a unit of each of its sizes.
    """

    uv: FloatArray
    normal: FloatArray
    local: FloatArray
    spacing: float
    grown: FloatArray

    def __len__(self) -> int:
        return len(self.uv)

    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Outline:
        return Outline(self.uv[index], self.normal[index], self.local[index], self.spacing, self.grown[index])


@dataclass(frozen=True, eq=False)
class Size:
    """A size of the gripper that may be another than the model's.

    Args:
        name: What it is called.
        deviation: Standard deviation that a real gripper's has from the model's, in the size's own unit.
        vertices: ``(N, 3)`` metres that the closed gripper's vertices move for a unit of it.
        opening: ``(N, 3)`` the same of their way from closed to open.
        unit: ``m``, or empty for a factor.
    """

    name: str
    deviation: float
    vertices: FloatArray
    opening: FloatArray
    unit: str = "m"


@dataclass(frozen=True, eq=False)
class Drawn:
    """A body as a camera sees it, drawn alone in a window of its own.

    Args:
        pose: ``camera_from_body (4, 4)``.
        K: ``(3, 3)`` pixels.
        openness: In [0, 1], of a gripper.
        points: ``(N, 3)`` the body's vertices in the camera's frame.
        faces: ``(F, 3)``.
        ids: ``(H, W)`` one plus the number of the face that is seen at each sample; 0 where none is.
        low: ``(2,)`` pixel of the first sample's corner.
        zoom: Samples a pixel.
    """

    pose: FloatArray
    K: FloatArray
    openness: float
    points: FloatArray
    faces: NDArray[np.int64]
    ids: NDArray[np.int32]
    low: FloatArray
    zoom: float

    def seen(self, uv: FloatArray, faces: NDArray[np.int64]) -> FloatArray:
        """Points ``(P, 3)`` in the camera's frame that faces ``(P,)`` show at pixels ``(P, 2)``."""
        rays = np.concatenate([uv, np.ones((len(uv), 1))], 1) @ np.linalg.inv(self.K).T
        corners = self.points[self.faces[faces]]
        plane = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = (plane * corners[:, 0]).sum(1) / (plane * rays).sum(1)
        # A face seen edge-on says little about depth; its own corners bound it.
        depth = np.clip(np.nan_to_num(depth, nan=0.0), corners[..., 2].min(1), corners[..., 2].max(1))
        return np.asarray(rays * depth[:, None])

    def depth(self, uv: FloatArray) -> FloatArray:
        """Metres ``(P,)`` along the optical axis to what is seen of the body at pixels ``(P, 2)``; else infinite."""
        at = np.floor((uv - self.low) * self.zoom).astype(int)
        height, width = self.ids.shape
        inside = np.flatnonzero((at >= 0).all(1) & (at[:, 0] < width) & (at[:, 1] < height))
        face = self.ids[at[inside, 1], at[inside, 0]].astype(np.int64) - 1
        inside, face = inside[face >= 0], face[face >= 0]
        out = np.full(len(uv), np.inf)
        if len(inside):
            out[inside] = self.seen(uv[inside], face)[:, 2]
        return out


class Solid:
    """A rigid body made ready to be outlined many times.

    Args:
        vertices: ``(N, 3)`` metres in the body's frame.
        faces: ``(F, 3)`` vertex numbers; more than `MAX_LINK_FACES` are clustered.
    """

    sizes: tuple[Size, ...] = ()

    def __init__(self, vertices: ArrayLike, faces: ArrayLike) -> None:
        points, parts = np.asarray(vertices, np.float64), np.zeros(len(np.asarray(faces)), np.int64)
        self.vertices, self.faces, _ = _clustered(
            points, np.asarray(faces, np.int64), parts, np.zeros_like(points), MAX_LINK_FACES
        )
        self.closed_surface = _closed(self.faces)
        self.corners = _box(self.vertices)

    def moved(self, transform: FloatArray) -> Solid:
        """The body in another frame, that ``transform`` ``(4, 4)`` leads to."""
        out = copy.copy(self)
        out.vertices = np.asarray(transforms.apply(transform, self.vertices))
        out.corners = _box(out.vertices)
        return out

    def posed(self, openness: float) -> FloatArray:
        """Vertices ``(N, 3)`` in the body's frame."""
        return self.vertices

    def drawn(self, camera_from_body: ArrayLike, K: ArrayLike, openness: float = 0.0) -> Drawn | None:
        """The body as a camera sees it; None where it is not wholly in front of it.

        Args:
            camera_from_body: ``(4, 4)``.
            K: ``(3, 3)`` pixels.
            openness: In [0, 1], of a gripper.
        """
        pose, K = np.asarray(camera_from_body, np.float64), np.asarray(K, np.float64)
        points = np.asarray(transforms.apply(pose, self.posed(openness)))
        if points[:, 2].min() <= DEFAULT_NEAR:
            return None
        uv = np.asarray(pinhole.project_camera_points(points, K)[0])
        low, high = uv.min(0) - 2, uv.max(0) + 2
        zoom = float(np.clip(_SAMPLES / (high - low).max(), 0.05, _MAX_ZOOM))
        size = np.ceil((high - low) * zoom).astype(int)
        return Drawn(
            pose, K, openness, points, self.faces, self._faces_seen((uv - low) * zoom, points, size), low, zoom
        )

    def outlined(self, drawn: Drawn, max_points: int) -> Outline | None:
        """The outline of the body as it was drawn; None where it is too small."""
        found = _chains(drawn.ids > 0, drawn.zoom, max_points)
        if found is None:
            return None
        at, pixel, normal, spacing = found
        uv = at / drawn.zoom + drawn.low
        which = drawn.ids[pixel[:, 1], pixel[:, 0]].astype(np.int64) - 1
        seen = drawn.seen(uv, which)
        local = np.asarray(transforms.apply(transforms.invert(drawn.pose), seen))
        grown = np.zeros((len(uv), len(self.sizes), 3))
        if self.sizes:
            faces = self.faces[which]
            weights = _barycentric(drawn.points[faces], seen)
            moved = np.stack([s.vertices + drawn.openness * s.opening for s in self.sizes])[:, faces]
            grown = np.einsum("mpvi,pv->pmi", moved, weights)
        return Outline(uv, normal, local, spacing, grown)

    def outline(
        self, camera_from_body: ArrayLike, K: ArrayLike, openness: float = 0.0, max_points: int = 160
    ) -> Outline | None:
        """The outline through one camera; None where the body is not wholly in front of it.

        Args:
            camera_from_body: ``(4, 4)``.
            K: ``(3, 3)`` pixels.
            openness: In [0, 1], of a gripper.
            max_points: About so many points at most, at least a pixel apart.
        """
        drawn = self.drawn(camera_from_body, K, openness)
        return None if drawn is None else self.outlined(drawn, max_points)

    def mask(
        self, camera_from_body: ArrayLike, K: ArrayLike, openness: float, height: int, width: int
    ) -> NDArray[np.bool_]:
        """The silhouette ``(H, W)``: pixels whose centre the body covers, to a sixteenth of a pixel."""
        points = np.asarray(transforms.apply(np.asarray(camera_from_body), self.posed(openness)))
        if points[:, 2].min() <= DEFAULT_NEAR:
            return np.zeros((height, width), np.bool_)
        uv = np.asarray(pinhole.project_camera_points(points, np.asarray(K, np.float64))[0])
        zoom = 8
        low = np.clip(np.floor(uv.min(0)) - 1, 0, [width, height]).astype(int)
        high = np.clip(np.ceil(uv.max(0)) + 1, 0, [width, height]).astype(int)
        out = np.zeros((height, width), np.bool_)
        if (high <= low).any():
            return out
        ids = self._faces_seen((uv - low) * zoom, points, (high - low) * zoom)
        out[low[1] : high[1], low[0] : high[0]] = ids[zoom // 2 :: zoom, zoom // 2 :: zoom] > 0
        return out

    def _faces_seen(self, uv: FloatArray, points: FloatArray, size: NDArray[np.int_]) -> NDArray[np.int32]:
        """``(H, W)`` one plus the number of the face that is seen at each sample; 0 where none is."""
        ids = np.zeros((int(size[1]), int(size[0])), np.int32)
        order = np.argsort(-points[self.faces, 2].mean(1))
        flat = uv[self.faces]
        if self.closed_surface:
            a, b = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
            # Counter-clockwise from outside is clockwise on a screen whose y points down.
            order = order[(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])[order] < 0]
        fixed = np.rint((flat - 0.5) * (1 << _FRACTION_BITS)).astype(np.int32)
        for face in order.tolist():
            cv2.fillConvexPoly(ids, fixed[face], face + 1, cv2.LINE_8, _FRACTION_BITS)
        return ids


class Hand(Solid):
    """A gripper model made ready to be outlined many times.

    Args:
        model: The gripper in its canonical frame.
        sizes: What may be another than the model says; of a mesh, its scale, where none are given.
    """

    def __init__(self, model: GripperModel, sizes: Sequence[Size] = ()) -> None:
        self.vertices, self.faces, self.opening = _clustered(
            model.vertices, model.faces, model.face_parts, model.opening, MAX_FACES
        )
        self.closed_surface = _closed(self.faces)
        self.sizes = tuple(sizes) or (Size("scale", SCALE_DEVIATION, self.vertices, self.opening, ""),)
        self._measure()

    def resized(self, values: ArrayLike) -> Hand:
        """The hand with its sizes changed by ``values`` ``(M,)``, in their units."""
        out = copy.copy(self)
        for size, value in zip(self.sizes, np.asarray(values, np.float64).tolist(), strict=True):
            out.vertices = out.vertices + value * size.vertices
            out.opening = out.opening + value * size.opening
        out._measure()
        return out

    def _measure(self) -> None:
        both = np.concatenate([self.vertices, self.vertices + self.opening])
        low, high = float(both[:, 2].min()), float(both[:, 2].max())
        self.wrist_z = low + WRIST_SHARE * (high - low)
        self.corners = _box(both)
        used = both[both[:, 2] >= self.wrist_z]
        self.centre = (used.min(0) + used.max(0)) / 2

    def posed(self, openness: float) -> FloatArray:
        """Vertices ``(N, 3)`` in the gripper's frame."""
        return np.asarray(self.vertices + openness * self.opening)

    def outlined(self, drawn: Drawn, max_points: int) -> Outline | None:
        """The outline of the gripper as it was drawn, without its wrist, where the arm goes on."""
        found = super().outlined(drawn, max_points)
        return None if found is None else found[found.local[:, 2] > self.wrist_z]


def unhidden(outline: Outline, drawn: Drawn, others: Sequence[Drawn]) -> NDArray[np.bool_]:
    """Which points ``(P,)`` of a body's outline are an edge to look for, with other bodies about.

    None is where another body is before it, and none where another goes on beside it at nearly the same depth.
    """
    depth = np.asarray(transforms.apply(drawn.pose, outline.local))[:, 2]
    sides = np.array([-BESIDE_PX, 0.0, BESIDE_PX])
    least = depth + np.array([-GAP_M, -GAP_M, GAP_M])[:, None]
    about = (outline.uv + sides[:, None, None] * outline.normal).reshape(-1, 2)
    good = np.ones(len(outline), np.bool_)
    for other in others:
        good &= (other.depth(about).reshape(3, -1) > least).all(0)
    return good


def _box(points: FloatArray) -> FloatArray:
    """Corners ``(8, 3)`` of the box about some points."""
    (x0, y0, z0), (x1, y1, z1) = points.min(0), points.max(0)
    return np.array([[x, y, z] for x in (x0, x1) for y in (y0, y1) for z in (z0, z1)])


def _barycentric(corners: FloatArray, points: FloatArray) -> FloatArray:
    """Weights ``(P, 3)``, each at least 0, of triangles' corners ``(P, 3, 3)`` at points ``(P, 3)`` in their planes."""
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = points - corners[:, 0]
    aa, ab, bb, pa, pb = ((u * v).sum(1) for u, v in ((a, a), (a, b), (b, b), (p, a), (p, b)))
    with np.errstate(divide="ignore", invalid="ignore"):
        v, w = (bb * pa - ab * pb) / (aa * bb - ab**2), (aa * pb - ab * pa) / (aa * bb - ab**2)
    weights = np.clip(np.nan_to_num(np.stack([1 - v - w, v, w], 1), nan=1 / 3), 0, 1)
    return np.asarray(weights / np.maximum(weights.sum(1, keepdims=True), 1e-9))


def _chains(
    mask: NDArray[np.bool_], zoom: float, max_points: int
) -> tuple[FloatArray, NDArray[np.intp], FloatArray, float] | None:
    """Points on a mask's outline, their pixels, outward normals, and the pixels of the picture for each point."""
    chains, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    chains = [c[:, 0, :] for c in chains if len(c) >= 4 * zoom]
    if not chains:
        return None
    total = sum(len(c) for c in chains) / zoom
    spacing = max(1.0, total / max_points)
    at, pixel, normal = [], [], []
    for chain in chains:
        smooth = gaussian_filter1d(chain.astype(np.float64), 1.0, axis=0, mode="wrap")
        along = gaussian_filter1d(chain.astype(np.float64), max(1.0, 0.75 * zoom), axis=0, mode="wrap")
        tangent = np.roll(along, -1, 0) - np.roll(along, 1, 0)
        tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
        out = np.stack([tangent[:, 1], -tangent[:, 0]], 1)
        probe = np.rint(smooth + 2 * out).astype(int)
        x, y = np.clip(probe[:, 0], 0, mask.shape[1] - 1), np.clip(probe[:, 1], 0, mask.shape[0] - 1)
        # One chain goes one way round: its points vote which side is out.
        if mask[y, x].mean() > 0.5:
            out = -out
        pick = np.arange(0, len(chain), max(1, round(spacing * zoom)))
        at.append(smooth[pick] + 0.5)
        pixel.append(chain[pick])
        normal.append(out[pick])
    return np.concatenate(at), np.concatenate(pixel).astype(np.intp), np.concatenate(normal), spacing


def _clustered(
    vertices: FloatArray, faces: NDArray[np.int64], face_parts: NDArray[np.int64], opening: FloatArray, most: int
) -> tuple[FloatArray, NDArray[np.int64], FloatArray]:
    """Vertices, faces and opening of a mesh with at most ``most`` faces, where cells of centimetres can do it."""
    given, given_faces, given_opening = vertices, faces, opening
    for cell in _CLUSTER_M:
        if len(faces) <= most:
            break
        part = np.zeros(len(given), np.int64)
        part[given_faces] = face_parts[:, None]
        key = np.concatenate([np.rint(given / cell).astype(np.int64), part[:, None]], 1)
        _, first, which = np.unique(_as_one(key), return_index=True, return_inverse=True)
        faces = which[given_faces]
        distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
        faces = faces[distinct]
        faces = faces[np.unique(_as_one(faces), return_index=True)[1]]
        vertices, opening = given[first], given_opening[first]
    return vertices, faces, opening


def _as_one(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number ``(N,)`` for each of some rows ``(N, K)``, in their order; sorting rows themselves is far slower."""
    rows = rows - rows.min(0, initial=0)
    counts = (rows.max(0, initial=0) + 1).tolist()
    if math.prod(counts) > np.iinfo(np.int64).max:
        return np.asarray(np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1), np.int64)
    return np.asarray(np.ravel_multi_index(tuple(rows.T), tuple(counts)), np.int64)


def _closed(faces: NDArray[np.int64]) -> bool:
    """Whether each edge is used once each way: a closed surface with all faces turned alike."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    n = int(faces.max()) + 1
    forward, backward = edges[:, 0] * n + edges[:, 1], edges[:, 1] * n + edges[:, 0]
    return len(np.unique(forward)) == len(forward) and bool(np.array_equal(np.sort(forward), np.sort(backward)))

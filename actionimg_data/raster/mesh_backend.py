"""Gripper meshes drawn through PyTorch3D's mesh rasteriser, hard or soft, with gradients.

torch and PyTorch3D are imported when something is drawn. A soft silhouette follows Liu et al., "Soft Rasterizer"
(ICCV 2019): each face covers a pixel with probability ``sigmoid(-d|d| / s^2)``, d being the signed distance in pixels
from the pixel's centre to the face in the picture (negative inside), and the silhouette is ``1 - prod(1 - p)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from actionimg_data.schemas import ActionImageSpec

from ..conventions import DEFAULT_NEAR, ROTATION_TOLERANCE
from ..errors import InvalidArrayError, InvalidCameraError, InvalidSpecError, InvalidTrajectoryError
from ..geometry import crop, pinhole, rotations, transforms
from ..model import Camera, CameraTrack, GripperTrajectory, checks
from .gaussian import checked_cameras
from .gripper import GripperModel, gripper_model, load_mesh
from .pytorch3d_cameras import cameras_from_opencv, pixel_in_ndc, require_pytorch3d

if TYPE_CHECKING:
    import torch
    import trimesh

    Cameras: TypeAlias = Sequence[Camera | CameraTrack] | Mapping[str, Camera | CameraTrack]
    Mesh: TypeAlias = GripperModel | trimesh.Trimesh | str | Path

DEFAULT_FACES_PER_PIXEL = 64
"""Faces blended at a pixel of a soft picture. Those further behind are left out, and the picture jumps where that
choice changes: the gripper's 216 faces need this many at 128 pixels. Fewer make the backward pass faster."""

MAX_SAMPLES = 2**22
"""Pixels times faces a pixel that are rasterised at a time: about 120 MB."""

_TILE = 64
"""Side in pixels of the tiles that pictures are drawn in; PyTorch3D tries every face at every pixel on a CPU."""

_CUT = 1e-4
"""Coverage under which a soft edge ends."""

_REACH = math.sqrt(math.log(1 / _CUT - 1))
"""Where it ends, in units of the softness."""

_DEPTH_BLEND = 1e-3
"""Share of the depth range over which the colours of two faces of a soft picture blend."""

_LIGHT = (-0.35, -0.55, -0.76)
"""Direction towards the light in the camera's axes: from behind the camera, above and to the left."""

_AMBIENT = 0.4


class MeshPictures(NamedTuple):
    """What `render` draws.

    Attributes:
        silhouette: ``(V, T, H, W)`` float32 in [0, 1].
        depth: ``(V, T, H, W)`` float32 metres along the optical axis of the nearest surface at the pixel's centre;
            infinite where there is none.
        rgb: ``(V, T, H, W, 3)`` uint8, shaded, over black.
        part_ids: ``(V, T, H, W)`` uint16, 0 where there is no surface, else 1 + the index into the model's
            ``part_names``.
    """

    silhouette: NDArray[np.float32]
    depth: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    part_ids: NDArray[np.uint16]


class Overlay(NamedTuple):
    """A picture to be laid over another one.

    Attributes:
        rgb: ``(H, W, 3)`` uint8, not premultiplied.
        alpha: ``(H, W)`` uint8, 255 where the gripper covers the whole pixel.
    """

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8]


@dataclass(frozen=True)
class MeshDrawing:
    """`MeshPictures` as tensors with gradients (all but the part ids), ``(..., H, W[, 3])``, rgb in [0, 1]."""

    silhouette: torch.Tensor
    depth: torch.Tensor
    rgb: torch.Tensor
    part_ids: torch.Tensor


def render(
    trajectory: GripperTrajectory,
    cameras: Cameras,
    spec: ActionImageSpec | None = None,
    mesh: Mesh | None = None,
    *,
    soft: float = 0.0,
    faces_per_pixel: int = DEFAULT_FACES_PER_PIXEL,
    device: str | None = None,
    max_samples: int = MAX_SAMPLES,
) -> MeshPictures:
    """Draw a gripper mesh along a trajectory into every camera.

    Pictures are drawn in tiles, each with the faces that reach into it, and as many tiles at a time as
    ``max_samples`` allows: time goes with what is seen of the gripper, and memory beyond the result is bounded.

    Args:
        trajectory: T poses; nothing is drawn in a frame with a missing pose.
        cameras: V cameras of the spec's picture size, fixed or moving, in order (of the mapping).
        spec: Picture size and near plane (faces are cut at it); the published ones by default.
        mesh: A `GripperModel`, or a rigid mesh or mesh file in the canonical gripper frame; the parametric gripper
            by default.
        soft: Softness of the silhouette's edge in pixels; 0 for a hard one.
        faces_per_pixel: Faces blended at a pixel of a soft picture.
        device: torch device to draw on, e.g. ``cuda``; the CPU by default.
        max_samples: Pixels (times faces a pixel, if soft) that are rasterised at a time.

    Raises:
        MissingExtraError: PyTorch3D is not installed; the message says what to install.
        InvalidArrayError: The mesh has no faces, or vertices that are not finite.
        InvalidCameraError: No camera, or one of another picture size than the spec's.
        FrameCountError: A camera track of another length than the trajectory.
        InvalidTrajectoryError: A frame's pose is known and its openness is not.
        InvalidSpecError: An option outside its range, or a device that does not exist.
    """
    spec = spec or ActionImageSpec()
    tracks = _tracks(cameras, spec, len(trajectory))
    job = _Job(trajectory, as_model(mesh), spec.near, soft, faces_per_pixel, _device(device), max_samples)
    shape = (len(tracks), len(trajectory), spec.height, spec.width)
    result = MeshPictures(
        np.zeros(shape, np.float32),
        np.full(shape, np.inf, np.float32),
        np.zeros((*shape, 3), np.uint8),
        np.zeros(shape, np.uint16),
    )
    for v, track in enumerate(tracks):
        for tiles, drawing in job.draw(track):
            silhouette = drawing.silhouette.cpu().numpy()
            depth = drawing.depth.cpu().numpy()
            rgb = np.rint(drawing.rgb.clamp(0, 1).cpu().numpy() * 255).astype(np.uint8)
            part_ids = drawing.part_ids.cpu().numpy()
            for i, tile in enumerate(tiles):
                window = (v, tile.frame, tile.rows, tile.columns)
                result.silhouette[window] = silhouette[i]
                result.depth[window] = depth[i]
                result.rgb[window] = rgb[i]
                result.part_ids[window] = part_ids[i]
    return result


def render_overlay_frames(
    trajectory: GripperTrajectory,
    camera: Camera | CameraTrack,
    spec: ActionImageSpec | None = None,
    mesh: Mesh | None = None,
    *,
    supersample: int = 2,
    device: str | None = None,
    max_samples: int = MAX_SAMPLES,
) -> Iterator[Overlay]:
    """The gripper of each frame, to be laid over the view's own picture.

    Frames come in order and few at a time, so that a long episode needs no more memory than a short one.

    Args:
        trajectory: T poses.
        camera: One camera of the spec's picture size.
        spec: Picture size and near plane.
        mesh: As for `render`.
        supersample: Samples along each side of a pixel; edges are smoothed by their mean.
        device: As for `render`.
        max_samples: As for `render`.

    Raises:
        As `render`.
    """
    spec = spec or ActionImageSpec()
    if isinstance(supersample, bool) or not isinstance(supersample, int) or not 1 <= supersample <= 8:
        raise InvalidSpecError("bad option", field="supersample", expected="1 … 8", found=supersample)
    (track,) = _tracks([camera], spec, len(trajectory))
    track = track.resized(spec.height * supersample, spec.width * supersample)
    job = _Job(trajectory, as_model(mesh), spec.near, 0.0, 1, _device(device), max_samples)
    return _overlays(job, track, supersample, len(trajectory))


def _overlays(job: _Job, track: CameraTrack, supersample: int, total: int) -> Iterator[Overlay]:
    s, height, width = supersample, track.height // supersample, track.width // supersample

    def blank() -> Overlay:
        return Overlay(np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8))

    now, overlay = 0, blank()
    for tiles, drawing in job.draw(track, align=supersample):
        cells = (len(tiles), drawing.silhouette.shape[1] // s, s, drawing.silhouette.shape[2] // s, s)
        alpha = drawing.silhouette.cpu().numpy().reshape(cells).mean((2, 4))
        rgb = drawing.rgb.cpu().numpy().reshape(*cells, 3).mean((2, 4)) / np.maximum(alpha, 1e-6)[..., None]
        for i, tile in enumerate(tiles):
            while now < tile.frame:
                yield overlay
                now, overlay = now + 1, blank()
            rows, columns = (slice(a.start // s, a.stop // s) for a in (tile.rows, tile.columns))
            overlay.rgb[rows, columns] = np.rint(np.clip(rgb[i], 0, 1) * 255)
            overlay.alpha[rows, columns] = np.rint(alpha[i] * 255)
    while now < total:
        yield overlay
        now, overlay = now + 1, blank()


def blend_overlay(picture: NDArray[np.uint8], overlay: Overlay, opacity: float = 1.0) -> NDArray[np.uint8]:
    """An RGB picture ``(H, W, 3)`` with the gripper laid over it.

    Raises:
        InvalidArrayError: The picture is not RGB of the overlay's size.
        InvalidSpecError: ``opacity`` is outside [0, 1].
    """
    if picture.shape != overlay.rgb.shape or picture.dtype != np.uint8:
        raise InvalidArrayError(
            "picture and overlay do not fit",
            field="picture",
            expected=f"uint8 {overlay.rgb.shape}",
            found=f"{picture.dtype} {picture.shape}",
        )
    if not 0 <= opacity <= 1:
        raise InvalidSpecError("is outside [0, 1]", field="opacity", expected="0 … 1", found=opacity)
    alpha = overlay.alpha[..., None].astype(np.float32) * (opacity / 255)
    return np.rint(picture + alpha * (overlay.rgb.astype(np.float32) - picture)).astype(np.uint8)


def as_model(mesh: Mesh | None) -> GripperModel:
    """The model that `render` draws for its argument ``mesh``."""
    if mesh is None:
        return gripper_model()
    if isinstance(mesh, GripperModel):
        return mesh
    return GripperModel.from_trimesh(load_mesh(mesh) if isinstance(mesh, (str, Path)) else mesh)


def pose_vertices(
    model: GripperModel, position: torch.Tensor, quaternion_xyzw: torch.Tensor, openness: torch.Tensor
) -> torch.Tensor:
    """World vertices ``(..., N, 3)`` of a model at poses ``(..., 3)``, ``(..., 4)`` and openness ``(...)``.

    Gradients flow to all three.
    """
    closed = position.new_tensor(model.vertices)
    opening = position.new_tensor(model.opening)
    local = closed + openness[..., None, None] * opening
    pose = transforms.make_transform(rotations.matrix_from_quaternion(quaternion_xyzw), position)
    return transforms.apply(pose, local)


def silhouette(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    K: torch.Tensor,
    world_from_camera: torch.Tensor,
    height: int,
    width: int,
    *,
    soft: float = 1.0,
    faces_per_pixel: int = DEFAULT_FACES_PER_PIXEL,
    cull_backfaces: bool = False,
    near: float = DEFAULT_NEAR,
) -> torch.Tensor:
    """Soft silhouettes ``(..., H, W)`` float32 of meshes, with gradients to the vertices, K and the camera's pose.

    Vertices behind the near plane get finite gradients (PyTorch3D leaves out part of those of faces that are cut).

    Args:
        vertices: ``(..., N, 3)`` world, metres, float32 or float64.
        faces: ``(F, 3)`` int64.
        K: ``(..., 3, 3)`` pixels.
        world_from_camera: ``(..., 4, 4)``, rigid.
        height: Picture height in pixels.
        width: Picture width in pixels.
        soft: Softness of the edge in pixels; 0 for a hard silhouette, which has no gradients.
        faces_per_pixel: Faces blended at a pixel.
        cull_backfaces: Leave out faces that are seen from behind. A closed mesh has the same silhouette without them,
            in half the time, and its soft edge then passes 0.5 where its hard edge lies; with them, two faces meet
            there and the 0.5 lies 0.94 ``soft`` further out.
        near: Metres; faces are cut at this distance along the optical axis.

    Raises:
        MissingExtraError: PyTorch3D is not installed.
        InvalidArrayError: Shapes, dtypes or devices that do not fit, or values that are not finite.
        InvalidCameraError: ``world_from_camera`` is not rigid, or the size is not positive.
        InvalidSpecError: An option outside its range.
    """
    _check_edge(soft, faces_per_pixel)
    scene, batch = _scene(vertices, faces, K, world_from_camera, height, width, near)
    cover = scene.coverage(scene.rasterize(soft, faces_per_pixel, cull_backfaces), soft)
    return cover.reshape(*batch, height, width)


def draw(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    K: torch.Tensor,
    world_from_camera: torch.Tensor,
    height: int,
    width: int,
    *,
    face_colors: torch.Tensor,
    face_parts: torch.Tensor,
    soft: float = 0.0,
    faces_per_pixel: int = DEFAULT_FACES_PER_PIXEL,
    near: float = DEFAULT_NEAR,
) -> MeshDrawing:
    """Silhouette, depth, shaded colours and part ids of meshes, each ``(..., H, W[, 3])``.

    Depth and part ids are those of the nearest surface at the pixel's centre, soft or not.

    Args:
        vertices: As for `silhouette`, like all that is not named here.
        faces: See `silhouette`.
        K: See `silhouette`.
        world_from_camera: See `silhouette`.
        height: See `silhouette`.
        width: See `silhouette`.
        face_colors: ``(F, 3)`` RGB in [0, 1].
        face_parts: ``(F,)`` part ids, from 1.
        soft: See `silhouette`; colours of a soft picture blend over faces and depth.
        faces_per_pixel: See `silhouette`.
        near: See `silhouette`.

    Raises:
        As `silhouette`.
    """
    _check_edge(soft, faces_per_pixel)
    scene, batch = _scene(vertices, faces, K, world_from_camera, height, width, near)
    drawing = scene.draw(face_colors, face_parts, soft, faces_per_pixel)
    pictures = (drawing.silhouette, drawing.depth, drawing.rgb, drawing.part_ids)
    return MeshDrawing(*(x.reshape(*batch, *x.shape[1:]) for x in pictures))


def _check_edge(soft: float, faces_per_pixel: int) -> None:
    if not (math.isfinite(soft) and 0 <= soft <= 1000):
        raise InvalidSpecError("bad option", field="soft", expected="0 … 1000 pixels", found=soft)
    if isinstance(faces_per_pixel, bool) or not isinstance(faces_per_pixel, int) or not 1 <= faces_per_pixel <= 150:
        raise InvalidSpecError("bad option", field="faces_per_pixel", expected="1 … 150", found=faces_per_pixel)


@dataclass(frozen=True)
class _Scene:
    """Meshes and cameras as PyTorch3D takes them, with each camera's centre at its origin, and the size of pictures.

    Args:
        meshes: B meshes in float32, axes of the world. The rasteriser has no more digits than that; a world far from
            its origin loses none of its own to it, because the cameras' centres were taken off before.
        cameras: B cameras.
        world_from_camera: ``(B, 3, 3)`` rotations.
        which: Index into the model's faces of each face of all meshes, one mesh after the other.
        height: Picture height in pixels.
        width: Picture width in pixels.
        near: Metres.
    """

    meshes: Any
    cameras: Any
    world_from_camera: torch.Tensor
    which: torch.Tensor
    height: int
    width: int
    near: float

    def sigma(self, soft: float) -> float:
        """PyTorch3D's ``sigma``, a squared distance in NDC, of an edge ``soft`` pixels wide."""
        return (soft * pixel_in_ndc(self.height, self.width)) ** 2

    def rasterize(self, soft: float, faces_per_pixel: int, cull_backfaces: bool = False) -> Any:
        renderer = require_pytorch3d()
        settings = renderer.RasterizationSettings(
            image_size=(self.height, self.width),
            blur_radius=_REACH**2 * self.sigma(soft),
            faces_per_pixel=faces_per_pixel if soft > 0 else 1,
            perspective_correct=True,
            cull_backfaces=cull_backfaces,
            z_clip_value=self.near,
        )
        # eps keeps the division by a depth of 0 finite; such faces are cut at the near plane.
        return renderer.MeshRasterizer(self.cameras, settings)(self.meshes, eps=1e-8)

    def coverage(self, fragments: Any, soft: float) -> torch.Tensor:
        import torch

        if soft == 0:
            return (fragments.pix_to_face[..., 0] >= 0).to(torch.float32)
        blending = require_pytorch3d().blending
        blank = fragments.dists.new_zeros((*fragments.dists.shape, 3))
        return blending.sigmoid_alpha_blend(blank, fragments, blending.BlendParams(sigma=self.sigma(soft)))[..., 3]

    def draw(
        self, face_colors: torch.Tensor, face_parts: torch.Tensor, soft: float, faces_per_pixel: int
    ) -> MeshDrawing:
        import torch

        colors = self.shade(face_colors)
        hard = self.rasterize(0.0, 1)
        face = hard.pix_to_face[..., 0]
        hit = face >= 0
        depth = torch.where(hit, hard.zbuf[..., 0], math.inf)
        part_ids = torch.where(hit, face_parts[self.which][face.clamp(min=0)], 0)
        if soft > 0:
            fragments = self.rasterize(soft, faces_per_pixel)
            cover = self.coverage(fragments, soft)
            rgb = self.blend(colors[fragments.pix_to_face.clamp(min=0)], fragments, soft) * cover[..., None]
        else:
            cover = hit.to(torch.float32)
            rgb = colors[face.clamp(min=0)] * cover[..., None]
        return MeshDrawing(cover, depth, rgb, part_ids)

    def shade(self, face_colors: torch.Tensor) -> torch.Tensor:
        """Flat shading with one distant light: the colour of each face of all meshes, on the side that is seen."""
        import torch

        corners = self.meshes.verts_packed()[self.meshes.faces_packed()]
        normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal = rotations.normalize(normal)
        away = (normal * corners[:, 0]).sum(-1, keepdim=True) > 0
        light = self.world_from_camera @ rotations.normalize(normal.new_tensor(_LIGHT))
        light = light[self.meshes.faces_packed_to_mesh_idx()]
        diffuse = (torch.where(away, -normal, normal) * light).sum(-1, keepdim=True).clamp(min=0)
        return face_colors[self.which].to(normal) * (_AMBIENT + (1 - _AMBIENT) * diffuse)

    def blend(self, colors: torch.Tensor, fragments: Any, soft: float) -> torch.Tensor:
        blending = require_pytorch3d().blending
        params = blending.BlendParams(sigma=self.sigma(soft), gamma=_DEPTH_BLEND, background_color=(0, 0, 0))
        far = 2 * self.meshes.verts_padded().detach().norm(dim=-1).amax(-1) + self.near
        near = far.new_full(far.shape, self.near)
        return blending.softmax_rgb_blend(colors, fragments, params, znear=near, zfar=far)[..., :3]


def _scene(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    K: torch.Tensor,
    world_from_camera: torch.Tensor,
    height: int,
    width: int,
    near: float,
) -> tuple[_Scene, torch.Size]:
    """The checked arguments of `silhouette` and `draw` as a scene with one batch dimension, and the batch's shape."""
    require_pytorch3d()
    import torch
    from pytorch3d.structures import Meshes

    height = checks.size(height, "height", InvalidCameraError)
    width = checks.size(width, "width", InvalidCameraError)
    if not (math.isfinite(near) and near > 0):
        raise InvalidSpecError("must be positive", field="near", found=near)
    given = {"vertices": (vertices, (None, 3)), "K": (K, (3, 3)), "world_from_camera": (world_from_camera, (4, 4))}
    for name, (tensor, shape) in given.items():
        _check_tensor(tensor, shape, name, vertices)
    _check_faces(faces, vertices)
    off = float(rotations.orthonormality_error(world_from_camera[..., :3, :3].detach()).max())
    if off > ROTATION_TOLERANCE:
        raise InvalidCameraError(
            "is not a rotation",
            field="world_from_camera",
            expected=f"≤ {ROTATION_TOLERANCE:g}",
            found=f"max |RᵀR − I| = {off:.2g}",
        )
    try:
        batch = torch.broadcast_shapes(vertices.shape[:-2], K.shape[:-2], world_from_camera.shape[:-2])
    except RuntimeError:
        raise InvalidArrayError(
            "batch shapes do not fit",
            field="vertices, K, world_from_camera",
            found=f"{list(vertices.shape)}, {list(K.shape)}, {list(world_from_camera.shape)}",
        ) from None

    def flat(tensor: torch.Tensor) -> torch.Tensor:
        tail = tensor.shape[-2:]
        return tensor.expand(*batch, *tail).reshape(-1, *tail).to(torch.float32)

    centre = world_from_camera[..., None, :3, 3]
    turned = transforms.make_transform(world_from_camera[..., :3, :3], torch.zeros_like(centre[..., 0, :]))
    points, pose = flat(vertices - centre), flat(turned)
    scene = _Scene(
        Meshes(points, faces.expand(len(points), -1, -1)),
        cameras_from_opencv(flat(K), pose, height, width),
        pose[:, :3, :3],
        torch.arange(len(faces), device=faces.device).repeat(len(points)),
        height,
        width,
        near,
    )
    return scene, batch


def _check_tensor(tensor: Any, shape: tuple[int | None, ...], name: str, like: Any) -> None:
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.dtype not in (torch.float32, torch.float64):
        found = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise InvalidArrayError("is not a float tensor", field=name, expected="float32 or float64", found=found)
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise InvalidArrayError(
            "differs in dtype or device from the vertices",
            field=name,
            expected=f"{like.dtype} on {like.device}",
            found=f"{tensor.dtype} on {tensor.device}",
        )
    fits = tensor.ndim >= 2 and all(want in (None, have) for want, have in zip(shape, tensor.shape[-2:], strict=True))
    if not fits:
        raise InvalidArrayError(
            "has the wrong shape",
            field=name,
            expected="(..., N, 3)" if shape[0] is None else f"(..., {shape[0]}, {shape[1]})",
            found=tuple(tensor.shape),
        )
    if not bool(torch.isfinite(tensor.detach()).all()):
        raise InvalidArrayError("has a value that is not finite", field=name)


def _check_faces(faces: Any, vertices: torch.Tensor) -> None:
    import torch

    if not isinstance(faces, torch.Tensor) or faces.dtype != torch.int64 or faces.ndim != 2 or faces.shape[1] != 3:
        raise InvalidArrayError("is not a tensor of triangles", field="faces", expected="int64 (F, 3)")
    if faces.device != vertices.device:
        raise InvalidArrayError(
            "differs in device from the vertices", field="faces", expected=vertices.device, found=faces.device
        )
    if len(faces) == 0:
        raise InvalidArrayError("mesh has no faces", field="faces", expected="≥ 1", found=0)
    low, high = int(faces.min()), int(faces.max())
    if low < 0 or high >= vertices.shape[-2]:
        raise InvalidArrayError(
            "mesh has a face of a vertex that does not exist",
            field="faces",
            expected=f"0 … {vertices.shape[-2] - 1}",
            found=f"{low} … {high}",
        )


def _tracks(cameras: Cameras, spec: ActionImageSpec, frames: int) -> list[CameraTrack]:
    """The cameras in order, over the trajectory's frames."""
    return [camera.track(frames) for camera in checked_cameras(cameras, frames, spec)]


def _device(name: str | None) -> torch.device:
    require_pytorch3d()
    import torch

    try:
        device = torch.device(name or "cpu")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidSpecError("no such device", field="device", expected="cpu | cuda[:N]", found=name) from error
    return device


@dataclass(frozen=True)
class _Tile:
    """A box of a frame's picture with what reaches into it."""

    frame: int
    left: int
    top: int
    height: int
    width: int
    vertices: NDArray[np.float64]  # (N, 3) axes of the world, origin at the camera's centre
    faces: NDArray[np.int64]  # (F, 3)
    which: NDArray[np.int64]  # (F,) index into the model's faces

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class _Job:
    """A trajectory and a model to be drawn, a chunk of frames at a time."""

    trajectory: GripperTrajectory
    model: GripperModel
    near: float
    soft: float
    faces_per_pixel: int
    device: torch.device
    max_samples: int

    def __post_init__(self) -> None:
        _check_edge(self.soft, self.faces_per_pixel)
        if self.max_samples < 1:
            raise InvalidSpecError("must be positive", field="max_samples", found=self.max_samples)
        unknown = self.trajectory.known & np.isnan(self.trajectory.openness)
        if unknown.any():
            raise InvalidTrajectoryError(
                "openness is unknown where the pose is known", field=f"openness[{int(np.argmax(unknown))}]", found="nan"
            )

    def _tiles(self, frame: int, track: CameraTrack, align: int) -> Iterator[_Tile]:
        """The tiles of a frame in which something is seen; sides and places are multiples of ``align``."""
        model = self.model
        local = model.posed(self.trajectory.openness[frame])
        pose = self.trajectory[np.array([frame])].world_from_gripper[0]
        world_from_camera = track.world_from_camera[frame]
        vertices = transforms.apply(pose, local) - world_from_camera[:3, 3]
        low, high = _face_boxes(vertices @ world_from_camera[:3, :3], model.faces, track.K[frame], self.near)
        margin = _REACH * self.soft + 0.5
        side = _TILE // align * align
        width, height = min(side, track.width), min(side, track.height)
        first, last = (low - margin).min(0), (high + margin).max(0)
        for top in _starts(first[1], last[1], height, track.height):
            for left in _starts(first[0], last[0], width, track.width):
                corner = np.array([left, top])
                reaches = (high + margin > corner).all(1) & (low - margin < corner + np.array([width, height])).all(1)
                which = np.flatnonzero(reaches)
                if len(which):
                    used, faces = np.unique(model.faces[which], return_inverse=True)
                    yield _Tile(frame, left, top, height, width, vertices[used], faces.reshape(-1, 3), which)

    def _batches(self, track: CameraTrack, align: int) -> Iterator[list[_Tile]]:
        batch: list[_Tile] = []
        depth = self.faces_per_pixel if self.soft > 0 else 1
        for frame in np.flatnonzero(self.trajectory.known).tolist():
            for tile in self._tiles(frame, track, align):
                if batch and (len(batch) + 1) * tile.height * tile.width * depth > self.max_samples:
                    yield batch
                    batch = []
                batch.append(tile)
        if batch:
            yield batch

    def draw(self, track: CameraTrack, align: int = 1) -> Iterator[tuple[list[_Tile], MeshDrawing]]:
        """Tiles in the order of their frames, as many as are drawn at a time, and what is seen in them."""
        import torch
        from pytorch3d.structures import Meshes

        def tensor(array: NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(array, dtype=dtype, device=self.device)

        colors = tensor(self.model.face_colors, torch.float32)
        parts = tensor(self.model.face_parts, torch.int64)
        for tiles in self._batches(track, align):
            height, width = tiles[0].height, tiles[0].width
            K = [
                crop.apply_to_K(track.K[t.frame], crop.CropResize(t.left, t.top, width, height, width, height))
                for t in tiles
            ]
            rotation = track.world_from_camera[[t.frame for t in tiles], :3, :3]
            pose = tensor(transforms.make_transform(rotation, np.zeros((len(tiles), 3))), torch.float32)
            scene = _Scene(
                Meshes(
                    [tensor(t.vertices, torch.float32) for t in tiles], [tensor(t.faces, torch.int64) for t in tiles]
                ),
                cameras_from_opencv(tensor(np.stack(K), torch.float32), pose, height, width),
                pose[:, :3, :3],
                tensor(np.concatenate([t.which for t in tiles]), torch.int64),
                height,
                width,
                self.near,
            )
            with torch.no_grad():
                yield tiles, scene.draw(colors, parts, self.soft, self.faces_per_pixel)


def _starts(first: float, last: float, side: int, size: int) -> list[int]:
    """Where tiles begin that cover the pixels from ``first`` to ``last``; the last one is moved into the picture."""
    if not (last > 0 and first < size):
        return []
    begin, end = max(int(first), 0) // side, min(math.ceil(last), size)
    return sorted({min(start, size - side) for start in range(begin * side, end, side)})


def _face_boxes(
    corners: NDArray[np.float64], faces: NDArray[np.int64], K: NDArray[np.float64], near: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and greatest pixel ``(F, 2)`` of what of each face lies beyond the near plane; inf, -inf where nothing.

    ``corners (N, 3)`` are in the camera's frame.
    """
    a = corners[faces]
    b = np.roll(a, -1, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (near - a[..., 2]) / (b[..., 2] - a[..., 2])
        cuts = a + share[..., None] * (b - a)
    # Rounding must not leave a cut a little before the plane.
    cuts[..., 2] = near
    points = np.concatenate([a, cuts], axis=1)
    counts = np.concatenate([a[..., 2] >= near, (a[..., 2] < near) != (b[..., 2] < near)], axis=1)
    uv, _, _ = pinhole.project_camera_points(np.where(counts[..., None], points, 1.0), K, 0.0)
    low = np.where(counts[..., None], uv, np.inf).min(1)
    high = np.where(counts[..., None], uv, -np.inf).max(1)
    return low, high

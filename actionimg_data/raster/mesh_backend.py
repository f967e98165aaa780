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
from ..model import Camera, CameraTrack, GripperTrajectory, _check
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

    Each frame is rasterised within the box that the gripper falls in, and as many frames at a time as
    ``max_samples`` allows, so that memory beyond the result is bounded.

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
        for frames, boxes, drawing in job.draw(track):
            silhouette = drawing.silhouette.cpu().numpy()
            depth = drawing.depth.cpu().numpy()
            rgb = np.rint(drawing.rgb.clamp(0, 1).cpu().numpy() * 255).astype(np.uint8)
            part_ids = drawing.part_ids.cpu().numpy()
            for i, (t, box) in enumerate(zip(frames, boxes, strict=True)):
                rows, columns = _slices(box)
                result.silhouette[v, t, rows, columns] = silhouette[i]
                result.depth[v, t, rows, columns] = depth[i]
                result.rgb[v, t, rows, columns] = rgb[i]
                result.part_ids[v, t, rows, columns] = part_ids[i]
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

    done = 0
    for frames, boxes, drawing in job.draw(track, align=supersample):
        for i, (t, box) in enumerate(zip(frames, boxes, strict=True)):
            for _ in range(done, t):
                yield blank()
            rows, columns = (slice(a.start // s, a.stop // s) for a in _slices(box))
            cells = (rows.stop - rows.start, s, columns.stop - columns.start, s)
            alpha = drawing.silhouette[i].cpu().numpy().reshape(cells).mean((1, 3))
            rgb = drawing.rgb[i].cpu().numpy().reshape(*cells, 3).mean((1, 3)) / np.maximum(alpha, 1e-6)[..., None]
            overlay = blank()
            overlay.rgb[rows, columns] = np.rint(np.clip(rgb, 0, 1) * 255)
            overlay.alpha[rows, columns] = np.rint(alpha * 255)
            yield overlay
            done = t + 1
    for _ in range(done, total):
        yield blank()


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
    scene = _Scene(vertices, faces, K, world_from_camera, height, width, near)
    fragments = scene.rasterize(*_edge(soft, faces_per_pixel, height, width), cull_backfaces)
    return scene.unflatten(_coverage(fragments, soft, height, width))


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
    import torch

    scene = _Scene(vertices, faces, K, world_from_camera, height, width, near)
    shaded = scene.shade(face_colors)
    hard = scene.rasterize(0.0, 1)
    face = hard.pix_to_face[..., 0]
    hit = face >= 0
    depth = torch.where(hit, hard.zbuf[..., 0], math.inf)
    part_ids = torch.where(hit, face_parts[face.clamp(min=0) % len(faces)], 0)
    if soft > 0:
        fragments = scene.rasterize(*_edge(soft, faces_per_pixel, height, width))
        cover = _coverage(fragments, soft, height, width)
        colors = shaded.reshape(-1, 3)[fragments.pix_to_face.clamp(min=0)]
        rgb = scene.blend(colors, fragments, soft) * cover[..., None]
    else:
        _edge(soft, faces_per_pixel, height, width)
        cover = hit.to(torch.float32)
        rgb = shaded.reshape(-1, 3)[face.clamp(min=0)] * cover[..., None]
    return MeshDrawing(*(scene.unflatten(x) for x in (cover, depth, rgb, part_ids)))


def _edge(soft: float, faces_per_pixel: int, height: int, width: int) -> tuple[float, int]:
    """PyTorch3D's blur radius (a squared distance in NDC) and number of faces of an edge ``soft`` pixels wide."""
    if not (math.isfinite(soft) and 0 <= soft <= 1000):
        raise InvalidSpecError("bad option", field="soft", expected="0 … 1000 pixels", found=soft)
    if isinstance(faces_per_pixel, bool) or not isinstance(faces_per_pixel, int) or not 1 <= faces_per_pixel <= 150:
        raise InvalidSpecError("bad option", field="faces_per_pixel", expected="1 … 150", found=faces_per_pixel)
    return (_REACH * soft * pixel_in_ndc(height, width)) ** 2, faces_per_pixel if soft > 0 else 1


def _coverage(fragments: Any, soft: float, height: int, width: int) -> torch.Tensor:
    import torch

    if soft == 0:
        return (fragments.pix_to_face[..., 0] >= 0).to(torch.float32)
    blending = require_pytorch3d().blending
    params = blending.BlendParams(sigma=(soft * pixel_in_ndc(height, width)) ** 2)
    blank = fragments.dists.new_zeros((*fragments.dists.shape, 3))
    return blending.sigmoid_alpha_blend(blank, fragments, params)[..., 3]


class _Scene:
    """Checked, flattened inputs of the drawing functions, with the camera's centre moved to the origin."""

    def __init__(
        self,
        vertices: torch.Tensor,
        faces: torch.Tensor,
        K: torch.Tensor,
        world_from_camera: torch.Tensor,
        height: int,
        width: int,
        near: float,
    ) -> None:
        require_pytorch3d()
        import torch

        self.height = _check.size(height, "height", InvalidCameraError)
        self.width = _check.size(width, "width", InvalidCameraError)
        if not (math.isfinite(near) and near > 0):
            raise InvalidSpecError("must be positive", field="near", found=near)
        self.near = near
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
            self.batch = torch.broadcast_shapes(vertices.shape[:-2], K.shape[:-2], world_from_camera.shape[:-2])
        except RuntimeError:
            raise InvalidArrayError(
                "batch shapes do not fit",
                field="vertices, K, world_from_camera",
                found=f"{list(vertices.shape)}, {list(K.shape)}, {list(world_from_camera.shape)}",
            ) from None
        self.faces = faces
        # The rasteriser has float32 only: a world far from its origin would lose what it has not lost yet.
        centre = world_from_camera[..., None, :3, 3]
        turned = transforms.make_transform(world_from_camera[..., :3, :3], torch.zeros_like(centre[..., 0, :]))
        self.vertices = self._flatten(vertices - centre, 2)
        self.cameras = cameras_from_opencv(self._flatten(K, 2), self._flatten(turned, 2), height, width)
        self.turned = self._flatten(turned, 2)

    def _flatten(self, tensor: torch.Tensor, keep: int) -> torch.Tensor:
        import torch

        tail = tensor.shape[-keep:]
        return tensor.expand(*self.batch, *tail).reshape(-1, *tail).to(torch.float32)

    def unflatten(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(*self.batch, *tensor.shape[1:])

    def rasterize(self, blur_radius: float, faces_per_pixel: int, cull_backfaces: bool = False) -> Any:
        renderer = require_pytorch3d()
        from pytorch3d.structures import Meshes

        settings = renderer.RasterizationSettings(
            image_size=(self.height, self.width),
            blur_radius=blur_radius,
            faces_per_pixel=faces_per_pixel,
            perspective_correct=True,
            cull_backfaces=cull_backfaces,
            z_clip_value=self.near,
        )
        meshes = Meshes(self.vertices, self.faces.expand(len(self.vertices), -1, -1))
        # eps keeps the division by a depth of 0 finite; such faces are cut at the near plane.
        return renderer.MeshRasterizer(self.cameras, settings)(meshes, eps=1e-8)

    def shade(self, face_colors: torch.Tensor) -> torch.Tensor:
        """Flat shading with one distant light: colours ``(B, F, 3)`` of the side of each face that is seen."""
        import torch

        corners = self.vertices[:, self.faces]
        normal = torch.linalg.cross(corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :])
        normal = rotations.normalize(normal)
        away = (normal * corners[..., 0, :]).sum(-1, keepdim=True) > 0
        light = self.turned[:, :3, :3] @ rotations.normalize(normal.new_tensor(_LIGHT))
        diffuse = (torch.where(away, -normal, normal) * light[:, None]).sum(-1, keepdim=True).clamp(min=0)
        return face_colors.to(normal) * (_AMBIENT + (1 - _AMBIENT) * diffuse)

    def blend(self, colors: torch.Tensor, fragments: Any, soft: float) -> torch.Tensor:
        blending = require_pytorch3d().blending
        params = blending.BlendParams(
            sigma=(soft * pixel_in_ndc(self.height, self.width)) ** 2, gamma=_DEPTH_BLEND, background_color=(0, 0, 0)
        )
        far = 2 * self.vertices.detach().norm(dim=-1).amax(-1) + self.near
        return blending.softmax_rgb_blend(
            colors, fragments, params, znear=far.new_full(far.shape, self.near), zfar=far
        )[..., :3]


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
    """The cameras in order, each of the spec's size and the trajectory's length."""
    named = cameras.items() if isinstance(cameras, Mapping) else enumerate(cameras)
    tracks = []
    for name, camera in named:
        field = f"cameras[{name}]"
        if not isinstance(camera, (Camera, CameraTrack)):
            raise InvalidCameraError("is not a Camera or CameraTrack", field=field, found=type(camera).__name__)
        if (camera.height, camera.width) != (spec.height, spec.width):
            raise InvalidCameraError(
                "camera and spec differ in picture size",
                field=field,
                expected=f"{spec.height}x{spec.width} (height x width)",
                found=f"{camera.height}x{camera.width}",
                hint=f"Use camera.resized({spec.height}, {spec.width}), or spec.resized(...).",
            )
        tracks.append(camera.track(frames))
    if not tracks:
        raise InvalidCameraError("there is no camera to draw into", field="cameras")
    return tracks


def _device(name: str | None) -> torch.device:
    require_pytorch3d()
    import torch

    try:
        device = torch.device(name or "cpu")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidSpecError("no such device", field="device", expected="cpu | cuda[:N]", found=name) from error
    return device


def _slices(box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    left, top, width, height = box
    return slice(top, top + height), slice(left, left + width)


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
        _edge(self.soft, self.faces_per_pixel, 1, 1)
        if self.max_samples < 1:
            raise InvalidSpecError("must be positive", field="max_samples", found=self.max_samples)
        unknown = self.trajectory.known & np.isnan(self.trajectory.openness)
        if unknown.any():
            raise InvalidTrajectoryError(
                "openness is unknown where the pose is known", field=f"openness[{int(np.argmax(unknown))}]", found="nan"
            )

    def _vertices(self, frames: list[int]) -> NDArray[np.float64]:
        local = self.model.posed(self.trajectory.openness[frames])
        pose = transforms.make_transform(
            rotations.matrix_from_quaternion(self.trajectory.quaternion_xyzw[frames]), self.trajectory.position[frames]
        )
        return np.asarray(transforms.apply(pose, local))

    def _box(self, frame: int, track: CameraTrack, align: int) -> tuple[int, int, int, int] | None:
        """``(left, top, width, height)`` of the pixels that the gripper can touch, in steps of ``align``."""
        uv, _, valid = pinhole.project(
            self._vertices([frame])[0], track.K[frame], track.world_from_camera[frame], self.near
        )
        if not valid.any():
            return None
        size = np.array([track.width, track.height])
        if not valid.all():
            return (0, 0, track.width, track.height)
        margin = _REACH * self.soft + 1
        low = np.clip(np.floor((uv.min(0) - margin) / align), 0, size // align).astype(int) * align
        high = np.clip(np.ceil((uv.max(0) + margin) / align), 0, size // align).astype(int) * align
        if (high <= low).any():
            return None
        return (int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))

    def _chunks(self, track: CameraTrack, align: int) -> Iterator[tuple[list[int], list[tuple[int, int, int, int]]]]:
        """Frames in which something is seen, with boxes of one size, few enough to be drawn at once."""
        frames: list[int] = []
        boxes: list[tuple[int, int, int, int]] = []
        depth = self.faces_per_pixel if self.soft > 0 else 1
        for t in np.flatnonzero(self.trajectory.known).tolist():
            box = self._box(t, track, align)
            if box is None:
                continue
            width, height = (max([b[i] for b in boxes] + [box[i]]) for i in (2, 3))
            if frames and (len(frames) + 1) * width * height * depth > self.max_samples:
                yield frames, _same_size(boxes, track)
                frames, boxes = [], []
            frames.append(t)
            boxes.append(box)
        if frames:
            yield frames, _same_size(boxes, track)

    def draw(
        self, track: CameraTrack, align: int = 1
    ) -> Iterator[tuple[list[int], list[tuple[int, int, int, int]], MeshDrawing]]:
        """For each chunk its frames, their boxes and what is seen in them."""
        import torch

        def tensor(array: NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

        faces, colors, parts = (tensor(a) for a in (self.model.faces, self.model.face_colors, self.model.face_parts))
        for frames, boxes in self._chunks(track, align):
            K = [
                crop.apply_to_K(track.K[t], crop.CropResize(left, top, width, height, width, height))
                for t, (left, top, width, height) in zip(frames, boxes, strict=True)
            ]
            with torch.no_grad():
                drawing = draw(
                    tensor(self._vertices(frames)),
                    faces,
                    tensor(np.stack(K)),
                    tensor(track.world_from_camera[frames]),
                    boxes[0][3],
                    boxes[0][2],
                    face_colors=colors,
                    face_parts=parts,
                    soft=self.soft,
                    faces_per_pixel=self.faces_per_pixel,
                    near=self.near,
                )
            yield frames, boxes, drawing


def _same_size(boxes: list[tuple[int, int, int, int]], track: CameraTrack) -> list[tuple[int, int, int, int]]:
    """Boxes grown to the largest of them, moved so that they stay in the picture."""
    width, height = max(b[2] for b in boxes), max(b[3] for b in boxes)
    return [
        (min(left, track.width - width), min(top, track.height - height), width, height) for left, top, _, _ in boxes
    ]

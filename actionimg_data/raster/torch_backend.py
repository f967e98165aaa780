"""Action images as torch tensors that gradients flow through; batched, on any device.

A blob is an outer product of two profiles, so that forward is one product a pixel, and the backward pass is one
matrix product with the incoming gradient: ``sum_xy g_xy P_xy (x - u)^k (y - v)^l`` for k + l <= 2, in closed form from
``dP/du = P (x - u) / sigma^2`` and ``dP/dsigma = P r^2 / sigma^3``. Nothing of the size of the picture is kept between
the two; backward draws what it needs again.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from actionimg_data.schemas import ActionImageSpec

from ..conventions import ROTATION_TOLERANCE
from ..errors import ActionImgError, InvalidArrayError, InvalidCameraError, InvalidTrajectoryError
from ..geometry import pinhole, rotations
from ..geometry.drawing import action_K, in_picture
from .keypoints import gripper_keypoints

_PUBLISHED = ActionImageSpec()

SMOOTHNESS = 1 / 8
"""Width of the blend at the pedestal in `render`'s smooth mode, as a fraction of the pedestal."""


_PER_VIEW = {"sigma", "axis_length"}
"""What broadcasts to views and frames."""


def render(
    position: Tensor,
    rotation: Tensor,
    openness: Tensor,
    K: Tensor,
    world_from_camera: Tensor,
    spec: ActionImageSpec | None = None,
    mode: Literal["published", "smooth"] = "published",
    dtype: torch.dtype | None = None,
    *,
    sigma: Tensor | None = None,
    axis_length: Tensor | None = None,
    pixel_centre: float = 0.5,
    check_values: bool = True,
) -> Tensor:
    """Draw trajectories into cameras, differentiably.

    The picture is that of `actionimg_data.render` before rounding. Gradients reach every tensor argument, to second
    order. They are zero, never NaN, for keypoints that are off the picture or not in front of the near plane.
    Geometry is computed in float64 (where the device has it), whatever the input and `torch.autocast`.

    Args:
        position: ``(..., T, 3)`` metres, float32 or float64.
        rotation: World from gripper: quaternions xyzw ``(..., T, 4)`` of any length but 0, 6-D ``(..., T, 6)``
            (arXiv 1812.07035), or matrices ``(..., T, 3, 3)``.
        openness: ``(..., T)`` in [0, 1].
        K: ``(..., V, 3, 3)``, or ``(..., V, T, 3, 3)``, for pictures of the spec's size.
        world_from_camera: ``(..., V, 4, 4)``, or ``(..., V, T, 4, 4)``; rigid.
        spec: What to draw; the published picture by default.
        mode: "published" draws as arXiv 2604.06168: a hard edge at the pedestal (which gets no gradient) and, unless
            the spec's openness is continuous, thresholded openness. "smooth" blends from pedestal to blob with a
            sigmoid and draws openness as it is, so that openness and the blob's far field have their true gradients.
        dtype: Of the result: float32, float64 or bfloat16; the inputs' by default.
        sigma: Standard deviation over min(H, W), instead of the spec's; broadcasts to ``(..., V, T, 3)``.
        axis_length: Metres from the origin to the other two keypoints, instead of the spec's; broadcasts to
            ``(..., V, T)``.
        pixel_centre: Where K has the centre of the first pixel, 0.5 or 0 (`Camera.pixel_centre`); it matters where the
            spec has another field of view than the camera, or draws pixels where the picture shows them.
        check_values: Look for NaN, bad rotations and values outside their range; costs one synchronisation with the
            device. Inside `torch.compile` values are never checked.

    Returns:
        ``(..., V, T, 3, H, W)`` in [0, 1], RGB. Leading shapes broadcast.

    Raises:
        InvalidArrayError: Shapes, dtypes or devices that do not fit, an empty result, or an unknown mode.
        InvalidTrajectoryError: Poses or openness that are not finite, not rotations, or outside their range.
        InvalidCameraError: Cameras that are not finite, not rigid, or have focal lengths that are not positive.
    """
    spec = _PUBLISHED if spec is None else spec
    tensors = {
        "position": position,
        "rotation": rotation,
        "openness": openness,
        "K": K,
        "world_from_camera": world_from_camera,
    }
    if sigma is not None:
        tensors["sigma"] = sigma
    if axis_length is not None:
        tensors["axis_length"] = axis_length
    dtype = _check_kinds(tensors, mode, dtype)
    _check_shapes(tensors)
    if check_values and not torch.compiler.is_compiling():
        _check_values(tensors)

    with torch.autocast(position.device.type, enabled=False):
        wide = position.dtype if position.device.type == "mps" else torch.float64
        time = position.ndim + 2  # dimensions of a camera matrix that has a time axis
        matrix = _rotation_matrix(rotation.to(wide), position.ndim)
        origin, matrix = position.to(wide).unsqueeze(-3), matrix.unsqueeze(-4)
        length = spec.axis_length if axis_length is None else axis_length.to(wide)[..., None, None]
        points = gripper_keypoints(origin, matrix, length)
        cameras = [m if m.ndim == time else m.unsqueeze(-3) for m in (K.to(wide), world_from_camera.to(wide))]
        K = action_K(cameras[0], spec, pixel_centre)
        centre, _, valid = pinhole.project(points, K, cameras[1], spec.near)
        inside = in_picture(centre, spec) if spec.outside == "drop" or spec.ground == "in_view" else None
        pixels = min(spec.height, spec.width)
        deviation = centre.new_tensor(spec.sigma_px) if sigma is None else sigma.to(wide) * pixels
        smooth = mode == "smooth"
        if not smooth and spec.openness == "binary":
            openness = (openness > spec.openness_threshold).to(position.dtype)
        level = (spec.pedestal * openness).unsqueeze(-2).expand(valid.shape[:-1])
        if inside is not None and spec.ground == "in_view":
            level = torch.where((valid & inside)[..., 0], level, 0.0)
        if inside is not None and spec.outside == "drop":
            valid = valid & inside
        drawing = (spec.height, spec.width, spec.pedestal, smooth, position.dtype, dtype)
        flat = [t.flatten(0, valid.ndim - 2) for t in (centre, deviation.expand(valid.shape), level, valid)]
        picture: Tensor = _Splat.apply(*flat, drawing)
    return picture.unflatten(0, valid.shape[:-1])


_Drawing = tuple[int, int, float, bool, torch.dtype, torch.dtype]


class _Splat(torch.autograd.Function):  # type: ignore[misc]
    """Blobs at ``centre (N, 3, 2)`` with ``sigma (N, 3)`` over pedestals ``level (N,)`` -> ``(N, 3, H, W)``."""

    @staticmethod
    def forward(centre: Tensor, sigma: Tensor, level: Tensor, valid: Tensor, drawing: _Drawing) -> Tensor:
        height, width, pedestal, smooth, compute, dtype = drawing
        _, columns, _, rows = _profiles(centre, sigma, valid, height, width, compute)
        if torch.compiler.is_compiling():
            blobs = rows.unsqueeze(-1) * columns.unsqueeze(-2)
            blue = _over_pedestal(blobs[:, 2], level, pedestal, smooth)
            return torch.cat([blobs[:, :2], blue.unsqueeze(1)], dim=1).to(dtype)
        picture = torch.empty((len(valid), 3, height, width), dtype=dtype, device=centre.device)
        for n in _parts(picture):
            torch.mul(rows[n, :2].unsqueeze(-1), columns[n, :2].unsqueeze(-2), out=picture[n, :2])
            blob = rows[n, 2].unsqueeze(-1) * columns[n, 2].unsqueeze(-2)
            if smooth or dtype != compute:
                picture[n, 2] = _over_pedestal(blob, level[n], pedestal, smooth)
            else:
                # In place: each pass over the pictures is a barrier for the threads that make it.
                torch.where(blob > pedestal, blob, level[n][:, None, None], out=picture[n, 2])
        return picture

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.drawing = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        with torch.autocast(gradient.device.type, enabled=False):
            return _backward(gradient, ctx.saved_tensors, ctx.drawing, ctx.needs_input_grad[2])


def _backward(
    gradient: Tensor, saved: tuple[Tensor, Tensor, Tensor, Tensor], drawing: _Drawing, level_counts: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of `_Splat`; plain differentiable torch, so that second order works."""
    centre, sigma, level, valid = saved
    height, width, pedestal, smooth, compute, _ = drawing
    dx, columns, dy, rows = _profiles(centre, sigma, valid, height, width, compute)
    moments = torch.stack([columns, columns * dx, columns * dx * dx], dim=-1)
    weights = torch.stack([rows, rows * dy, rows * dy * dy], dim=-2)
    strips, of_level = [], []
    for n in _parts(gradient):
        part = gradient[n].to(compute)
        blob = rows[n, 2].unsqueeze(-1) * columns[n, 2].unsqueeze(-2)
        of_blob, of_pedestal = _through_pedestal(part[:, 2], blob, level[n], pedestal, smooth, level_counts)
        # The blue third of this product is not used: taking it along is cheaper than a contiguous copy.
        strip = part @ moments[n]
        strips.append(torch.cat([strip[:, :2], (of_blob @ moments[n, 2]).unsqueeze(1)], dim=1))
        of_level.append(of_pedestal)
    # (N, 3, k, l): sums over the picture of gradient times blob times dy^k dx^l.
    sums = weights @ torch.cat(strips)
    of_centre = torch.stack([sums[..., 0, 1], sums[..., 1, 0]], dim=-1).to(centre.dtype) / sigma.unsqueeze(-1)
    of_sigma = (sums[..., 0, 2] + sums[..., 2, 0]).to(sigma.dtype) / sigma
    return of_centre, of_sigma, torch.cat(of_level) if level_counts else None, None, None


def _over_pedestal(blob: Tensor, level: Tensor, pedestal: float, smooth: bool) -> Tensor:
    """The blue channel ``(n, H, W)`` of blobs over pedestals ``(n,)``."""
    below = level[:, None, None]
    if smooth:
        return below + torch.sigmoid((blob - pedestal) / (SMOOTHNESS * pedestal)) * (blob - below)
    return torch.where(blob > pedestal, blob, below)


def _through_pedestal(
    gradient: Tensor, blob: Tensor, level: Tensor, pedestal: float, smooth: bool, level_counts: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of `_over_pedestal`: by the blob ``(n, H, W)``, and by the level ``(n,)`` where that counts."""
    if not smooth:
        of_blob = gradient * (blob > pedestal)
        return of_blob, (gradient.sum((-2, -1)) - of_blob.sum((-2, -1)) if level_counts else level)
    blend = SMOOTHNESS * pedestal
    weight = torch.sigmoid((blob - pedestal) / blend)
    through = 1 - weight
    slope = weight * (1 + through * (blob - level[:, None, None]) / blend)
    return gradient * slope, ((gradient * through).sum((-2, -1)) if level_counts else level)


def _parts(pictures: Tensor) -> list[slice]:
    """Runs of pictures ``(N, 3, H, W)`` to work on at a time: what is computed on the way stays small.

    Not too small: each operation ends with a barrier of the threads that share it, and on a busy machine the time goes
    there (docs/performance.md). The compiler fuses, and gets all of them at once.
    """
    count = len(pictures)
    if torch.compiler.is_compiling():
        return [slice(0, count)]
    pixels = 2**22 if pictures.device.type == "cpu" else 2**24
    step = max(1, pixels // (pictures.shape[-2] * pictures.shape[-1]))
    return [slice(start, start + step) for start in range(0, count, step)]


def _profiles(
    centre: Tensor, sigma: Tensor, valid: Tensor, height: int, width: int, compute: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distances over sigma and Gaussians along x ``(..., 3, W)`` and y ``(..., 3, H)``; Gaussians 0 where not valid."""
    out = []
    for axis, size in enumerate((width, height)):
        pixels = torch.arange(size, dtype=centre.dtype, device=centre.device)
        distance = ((pixels - centre[..., axis, None]) / sigma[..., None]).to(compute)
        # Beyond 40 sigma the Gaussian is 0 in any dtype; the bound keeps products with it finite.
        distance = distance.clamp(-40, 40)
        out += [distance, torch.exp(-0.5 * distance * distance) * valid[..., None]]
    return out[0], out[1], out[2], out[3]


def _rotation_matrix(rotation: Tensor, position_dims: int) -> Tensor:
    if rotation.ndim == position_dims + 1:
        return rotation
    if rotation.shape[-1] == 4:
        return rotations.matrix_from_quaternion(rotation)
    return rotations.matrix_from_6d(rotation)


def _check_kinds(tensors: dict[str, Tensor], mode: str, dtype: torch.dtype | None) -> torch.dtype:
    """Refuse what is no tensor, mixed devices and dtypes; the result's dtype."""
    if mode not in ("published", "smooth"):
        raise InvalidArrayError("no such mode", field="mode", expected="published or smooth", found=mode)
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise InvalidArrayError("is not a torch tensor", field=name, found=type(value).__name__)
    position = tensors["position"]
    if position.dtype not in (torch.float32, torch.float64):
        raise InvalidArrayError(
            "has the wrong dtype", field="position", expected="float32 or float64", found=position.dtype
        )
    for name, value in tensors.items():
        if value.dtype != position.dtype:
            raise InvalidArrayError(
                "mixed dtypes", field=name, expected=f"{position.dtype}, as position", found=value.dtype
            )
        if value.device != position.device:
            raise InvalidArrayError(
                "mixed devices", field=name, expected=f"{position.device}, as position", found=value.device
            )
    if dtype is None:
        return position.dtype
    if dtype not in (torch.float32, torch.float64, torch.bfloat16):
        raise InvalidArrayError("no such result", field="dtype", expected="float32, float64 or bfloat16", found=dtype)
    return dtype


def _check_shapes(tensors: dict[str, Tensor]) -> None:
    """Refuse shapes that do not fit together, and empty ones."""
    position = tensors["position"]
    if position.ndim < 2 or position.shape[-1] != 3:
        raise InvalidArrayError(
            "has the wrong shape", field="position", expected="(..., T, 3)", found=tuple(position.shape)
        )
    batch = position.ndim - 2
    frames = position.shape[-2]
    rotation = tensors["rotation"]
    flat = rotation.ndim == batch + 2 and rotation.shape[-1] in (4, 6)
    matrices = rotation.ndim == batch + 3 and tuple(rotation.shape[-2:]) == (3, 3)
    if not (flat or matrices) or rotation.shape[batch] != frames:
        raise InvalidArrayError(
            "has the wrong shape",
            field="rotation",
            expected=f"(..., {frames}, 4 or 6) or (..., {frames}, 3, 3) with {batch} leading dimensions, as position",
            found=tuple(rotation.shape),
        )
    openness = tensors["openness"]
    if openness.ndim != batch + 1 or openness.shape[-1] != frames:
        raise InvalidArrayError(
            "has the wrong shape",
            field="openness",
            expected=f"(..., {frames}) with {batch} leading dimensions, as position",
            found=tuple(openness.shape),
        )
    views = tensors["K"].shape[batch] if tensors["K"].ndim > batch else 0
    for name, size in (("K", 3), ("world_from_camera", 4)):
        shape = tuple(tensors[name].shape)
        if (
            len(shape) not in (batch + 3, batch + 4)
            or shape[-2:] != (size, size)
            or shape[batch] != views
            or (len(shape) == batch + 4 and shape[-3] != frames)
        ):
            raise InvalidArrayError(
                "has the wrong shape",
                field=name,
                expected=f"(..., V, {size}, {size}) or (..., V, {frames}, {size}, {size}) with {batch} leading "
                "dimensions, as position, and one V",
                found=shape,
            )
    leading = {name: tuple(tensors[name].shape[:batch]) for name in tensors if name not in _PER_VIEW}
    for axis in range(batch):
        if len({shape[axis] for shape in leading.values()} - {1}) > 1:
            raise InvalidArrayError("leading shapes do not broadcast", found=leading)
    if frames == 0 or views == 0 or any(0 in shape for shape in leading.values()):
        raise InvalidArrayError("there is nothing to draw", found={n: tuple(t.shape) for n, t in tensors.items()})
    for name in _PER_VIEW & tensors.keys():
        whole = (*torch.broadcast_shapes(*leading.values()), views, frames, 3)[: None if name == "sigma" else -1]
        shape = tuple(tensors[name].shape)
        if len(shape) > len(whole) or any(n not in (1, m) for n, m in zip(shape[::-1], whole[::-1], strict=False)):
            raise InvalidArrayError("does not broadcast", field=name, expected=f"to {whole}", found=shape)


def _check_values(tensors: dict[str, Tensor]) -> None:
    """Refuse values that cannot be drawn; all of them are looked at in one transfer from the device."""
    tensors = {name: value.detach() for name, value in tensors.items()}
    wrong = [*_wrong_poses(tensors), *_wrong_cameras(tensors)]
    if "sigma" in tensors:
        sigma = tensors["sigma"]
        wrong.append((~((sigma > 0) & (sigma <= 1)), InvalidArrayError("is outside (0, 1]", field="sigma")))
    if "axis_length" in tensors:
        axis = tensors["axis_length"]
        wrong.append((~((axis > 0) & (axis <= 10)), InvalidArrayError("is outside (0, 10]", field="axis_length")))
    found = torch.stack([mask.any() for mask, _ in wrong]).tolist()
    for is_wrong, (mask, error) in zip(found, wrong, strict=True):
        if is_wrong:
            place = torch.nonzero(mask)[0].tolist()
            raise type(error)(error.message, field=error.field, expected=error.expected, found=f"at {place}")


def _wrong_poses(tensors: dict[str, Tensor]) -> list[tuple[Tensor, ActionImgError]]:
    rotation, openness = tensors["rotation"], tensors["openness"]
    error = InvalidTrajectoryError
    wrong = [_not_finite(tensors[name], name, error) for name in ("position", "rotation", "openness")]
    if rotation.shape[-1] == 3:
        wrong.append((_not_orthonormal(rotation), error("is not a rotation", field="rotation", expected=_ROTATION)))
    elif rotation.shape[-1] == 4:
        short = rotation.norm(dim=-1) < 1e-6
        wrong.append((short, error("is a quaternion of length 0", field="rotation")))
    else:
        normal = torch.linalg.cross(rotation[..., :3], rotation[..., 3:])
        wrong.append((normal.norm(dim=-1) < 1e-9, error("its two columns are parallel or 0", field="rotation")))
    outside = (openness < 0) | (openness > 1)
    return [*wrong, (outside, error("is outside [0, 1]", field="openness", expected="0 … 1"))]


def _wrong_cameras(tensors: dict[str, Tensor]) -> list[tuple[Tensor, ActionImgError]]:
    K, pose = tensors["K"], tensors["world_from_camera"]
    error = InvalidCameraError
    last = (pose[..., 3, :] - pose.new_tensor([0.0, 0.0, 0.0, 1.0])).abs().amax(-1) > ROTATION_TOLERANCE
    focal = torch.minimum(K[..., 0, 0], K[..., 1, 1])
    return [
        _not_finite(K, "K", error),
        _not_finite(pose, "world_from_camera", error),
        (focal <= 0, error("focal lengths must be positive", field="K", expected="fx, fy > 0")),
        (last, error("last row of a transform must be 0 0 0 1", field="world_from_camera")),
        (
            _not_orthonormal(pose[..., :3, :3]),
            error("is not a rotation", field="world_from_camera", expected=_ROTATION),
        ),
    ]


_ROTATION = f"max |RᵀR − I| ≤ {ROTATION_TOLERANCE:g}"


def _not_finite(value: Tensor, name: str, error: type[ActionImgError]) -> tuple[Tensor, ActionImgError]:
    return ~torch.isfinite(value), error("has a value that is not finite", field=name)


def _not_orthonormal(matrix: Tensor) -> Tensor:
    wide: Tensor = rotations.orthonormality_error(matrix if matrix.device.type == "mps" else matrix.double())
    return ~(wide <= ROTATION_TOLERANCE)

"""Cameras as PyTorch3D has them; nothing else in the package knows its axes, row vectors or NDC.

PyTorch3D (https://pytorch3d.org/docs/cameras): the camera looks along +z with +x to the left and +y up; points are
rows, so that ``x_view = x_world @ R + T``; a picture's shorter side spans ``[-1, 1]`` and the longer one its aspect,
+x to the left and +y up again. Pixel ``i`` of ``S`` is sampled at its centre, ``(i + 0.5) / S`` of the way across: the
pixel coordinate ``i + 0.5`` of a K that spans ``[0, W] x [0, H]``, so that no half pixel is added or lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError
from ..geometry import transforms

if TYPE_CHECKING:
    import torch

INSTALL = "pip install torch==2.12.0 easypytorch3d==0.7.9.post1"


def require_pytorch3d() -> Any:
    """The module ``pytorch3d.renderer``; `MissingExtraError` says what to install where it cannot be imported."""
    try:
        from pytorch3d import renderer
    except (ImportError, OSError) as error:
        # OSError: a torch without CUDA lacks the libraries that PyTorch3D's wheel is linked to.
        raise MissingExtraError(
            "rendering gripper meshes needs PyTorch3D",
            expected="torch 2.12.0 with PyTorch3D 0.7.9, no GPU needed",
            found=f"{type(error).__name__}: {error}",
            hint=f"Install it with: {INSTALL}",
        ) from error
    return renderer


def pixel_in_ndc(height: int, width: int) -> float:
    """Width of one pixel in NDC."""
    return 2.0 / min(height, width)


def cameras_from_opencv(K: torch.Tensor, world_from_camera: torch.Tensor, height: int, width: int) -> Any:
    """``PerspectiveCameras`` of our cameras; gradients flow through both inputs.

    ``x_ndc = (W/2 - u) * 2 / min(H, W)`` and ``y_ndc = (H/2 - v) * 2 / min(H, W)`` of the pixel ``(u, v)``.

    Args:
        K: ``(N, 3, 3)`` pixels, any skew.
        world_from_camera: ``(N, 4, 4)``, rigid.
        height: Picture height in pixels.
        width: Picture width in pixels.

    Raises:
        MissingExtraError: PyTorch3D is not installed.
    """
    renderer = require_pytorch3d()
    import torch

    scale = pixel_in_ndc(height, width)
    centre = K.new_tensor([width / 2, height / 2])
    projection = torch.zeros(len(K), 4, 4, dtype=K.dtype, device=K.device)
    projection[:, :2, :2] = K[:, :2, :2] * scale
    projection[:, :2, 2] = (centre - K[:, :2, 2]) * scale
    projection[:, 2, 3] = 1
    projection[:, 3, 2] = 1

    axes = K.new_tensor([-1.0, -1.0, 1.0])
    camera_from_world = transforms.invert(world_from_camera)
    return renderer.PerspectiveCameras(
        R=camera_from_world[:, :3, :3].transpose(1, 2) * axes,
        T=camera_from_world[:, :3, 3] * axes,
        K=projection,
        device=K.device,
    )

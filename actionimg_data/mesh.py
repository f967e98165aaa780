"""``actionimg_data.mesh``: gripper meshes, rendered through PyTorch3D."""

from __future__ import annotations

from .raster.gripper import GripperModel, gripper_model, load_mesh, parallel_jaw_gripper
from .raster.mesh_backend import (
    MeshDrawing,
    MeshPictures,
    Overlay,
    blend_overlay,
    draw,
    pose_vertices,
    render,
    render_overlay_frames,
    silhouette,
)

__all__ = [
    "GripperModel",
    "MeshDrawing",
    "MeshPictures",
    "Overlay",
    "blend_overlay",
    "draw",
    "gripper_model",
    "load_mesh",
    "parallel_jaw_gripper",
    "pose_vertices",
    "render",
    "render_overlay_frames",
    "silhouette",
]

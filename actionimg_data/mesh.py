"""``actionimg_data.mesh``: gripper meshes, rendered through PyTorch3D."""

from __future__ import annotations

from .raster.gripper import load_mesh, parallel_jaw_gripper
from .raster.mesh_backend import render

__all__ = ["load_mesh", "parallel_jaw_gripper", "render"]

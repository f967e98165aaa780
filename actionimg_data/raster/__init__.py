"""Keypoints of a pose, and action images drawn from them."""

from __future__ import annotations

from .gaussian import project_keypoints, render, render_frames, render_planes, render_view
from .keypoints import gripper_keypoints

__all__ = ["gripper_keypoints", "project_keypoints", "render", "render_frames", "render_planes", "render_view"]

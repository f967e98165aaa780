"""Keypoints of a pose, and action images drawn from them."""

from __future__ import annotations

from .arms import merge, overlapping, render_merged, separate_blobs
from .gaussian import project_keypoints, render, render_frames, render_planes, render_view
from .keypoints import gripper_keypoints

__all__ = [
    "gripper_keypoints",
    "merge",
    "overlapping",
    "project_keypoints",
    "render",
    "render_frames",
    "render_merged",
    "render_planes",
    "render_view",
    "separate_blobs",
]

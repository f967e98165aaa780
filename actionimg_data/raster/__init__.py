"""Keypoints of a pose, and action images drawn from them."""

from __future__ import annotations

from .arms import merge, overlapping, render_merged, separate_blobs
from .gaussian import project_keypoints, render, render_frames, render_planes, render_view
from .keypoints import gripper_keypoints
from .wrist import WRIST_AXIS, WRIST_DISTANCE, held_camera, wrist_spec

__all__ = [
    "WRIST_AXIS",
    "WRIST_DISTANCE",
    "gripper_keypoints",
    "held_camera",
    "merge",
    "overlapping",
    "project_keypoints",
    "render",
    "render_frames",
    "render_merged",
    "render_planes",
    "render_view",
    "separate_blobs",
    "wrist_spec",
]

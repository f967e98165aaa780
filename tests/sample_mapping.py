"""Mappings: of the sample recordings of a Panda, which tests and proofs read, and of a small log of one view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

VIEWS = ("agentview", "frontview", "sideview", "robot0_eye_in_hand")


def panda_mapping(views: Sequence[str] = VIEWS, **more: Any) -> dict[str, Any]:
    """As the recordings' README describes their files, with the views asked for; ``more`` are further fields."""
    return {
        "version": 1,
        "format": "folder",
        **more,
        "instruction": {"file": "calibration.json", "key": "instruction"},
        "pose": {
            "file": "poses.csv",
            "time": {"column": "time_s", "unit": "s"},
            "position": {"columns": ["x_m", "y_m", "z_m"], "unit": "m"},
            "rotation": {"columns": ["qx", "qy", "qz", "qw"], "form": "quaternion", "order": "xyzw"},
            "tool_from_gripper": {"euler_xyz_deg": [0, 0, 90]},
        },
        "gripper": {"columns": ["gripper_width_m"], "closed": 0.0, "open": 0.08, "kind": "measured"},
        "views": {
            name: {
                "frames": f"{name}.mp4",
                "time": {"file": "frame_times.csv", "column": "time_s", "unit": "s"},
                "camera": {"file": "calibration.json"},
            }
            for name in views
        },
    }


def log_mapping(**pose: Any) -> dict[str, Any]:
    """Of ``poses.csv`` with columns t x y z qx qy qz qw open, and ``front.mp4`` without a camera.

    Args:
        pose: More fields of the pose.
    """
    return {
        "version": 1,
        "format": "folder",
        "instruction": {"text": "move the cube"},
        "pose": {
            "file": "poses.csv",
            "time": {"column": "t", "unit": "s"},
            "position": {"columns": ["x", "y", "z"], "unit": "m"},
            "rotation": {"columns": ["qx", "qy", "qz", "qw"], "form": "quaternion", "order": "xyzw"},
            "tool_from_gripper": {"euler_xyz_deg": [0, 0, 0]},
            **pose,
        },
        "gripper": {"columns": ["open"], "closed": 0, "open": 1, "kind": "measured"},
        "views": {"front": {"frames": "front.mp4", "time": {"fps": 20}, "camera": "uncalibrated"}},
    }

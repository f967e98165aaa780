"""Is the recorded camera true: check it, refine it, find the offset between clocks, or a camera from nothing.

All of it works from pictures and recorded poses alone: the outline of a gripper model, drawn where pose and camera put
it, is held against the edges of the pictures. See docs/calibration.md for the method, its figures and its limits.
"""

from __future__ import annotations

from .arm_points import with_arm
from .check import CameraCheck, check_episode, check_view
from .guess import guess_camera
from .guessed import CameraGuess, Mark
from .mixups import Polarity, polarity, swapped_cameras
from .refine import CameraFit, Recorded, refine_camera
from .shape import GripperShape
from .solve import Priors
from .time_offset import TimeOffset, time_offset
from .tool import ToolCheck, tool_or_camera

__all__ = [
    "CameraCheck",
    "CameraFit",
    "CameraGuess",
    "GripperShape",
    "Mark",
    "Polarity",
    "Priors",
    "Recorded",
    "TimeOffset",
    "ToolCheck",
    "check_episode",
    "check_view",
    "guess_camera",
    "polarity",
    "refine_camera",
    "swapped_cameras",
    "time_offset",
    "tool_or_camera",
    "with_arm",
]

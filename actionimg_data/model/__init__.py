"""What everything is about: cameras, gripper trajectories, and episodes with lazy frames."""

from __future__ import annotations

from .camera import Camera, CameraTrack
from .episode import (
    MAX_MASK_ID,
    ArrayFrames,
    DerivedFrames,
    Episode,
    EpisodeRef,
    FrameSource,
    InstructionSpan,
    SelectedFrames,
    View,
    instruction_spans,
    millimetres,
    view_planes,
)
from .joints import JointTrack
from .recorded import Recorded, StreamSamples
from .trajectory import GripperTrajectory

__all__ = [
    "MAX_MASK_ID",
    "ArrayFrames",
    "Camera",
    "CameraTrack",
    "DerivedFrames",
    "Episode",
    "EpisodeRef",
    "FrameSource",
    "GripperTrajectory",
    "InstructionSpan",
    "JointTrack",
    "Recorded",
    "SelectedFrames",
    "StreamSamples",
    "View",
    "instruction_spans",
    "millimetres",
    "view_planes",
]

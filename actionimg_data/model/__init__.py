"""What everything is about: cameras, gripper trajectories, and episodes with lazy frames."""

from __future__ import annotations

from .camera import Camera, CameraTrack
from .episode import (
    MAX_MASK_ID,
    ArrayFrames,
    ArrayPlanes,
    DerivedFrames,
    Episode,
    EpisodeRef,
    FrameSource,
    PlaneSource,
    SelectedFrames,
    SelectedPlanes,
    View,
    millimetres,
    view_planes,
)
from .recorded import Recorded, StreamSamples
from .trajectory import GripperTrajectory

__all__ = [
    "MAX_MASK_ID",
    "ArrayFrames",
    "ArrayPlanes",
    "Camera",
    "CameraTrack",
    "DerivedFrames",
    "Episode",
    "EpisodeRef",
    "FrameSource",
    "GripperTrajectory",
    "PlaneSource",
    "Recorded",
    "SelectedFrames",
    "SelectedPlanes",
    "StreamSamples",
    "View",
    "millimetres",
    "view_planes",
]

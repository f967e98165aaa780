"""What everything is about: cameras, gripper trajectories, and episodes with lazy frames."""

from __future__ import annotations

from .camera import Camera, CameraTrack
from .episode import ArrayFrames, DerivedFrames, Episode, EpisodeRef, FrameSource, SelectedFrames, View
from .trajectory import GripperTrajectory

__all__ = [
    "ArrayFrames",
    "Camera",
    "CameraTrack",
    "DerivedFrames",
    "Episode",
    "EpisodeRef",
    "FrameSource",
    "GripperTrajectory",
    "SelectedFrames",
    "View",
]

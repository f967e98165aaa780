"""What everything is about: cameras, gripper trajectories, and episodes with lazy frames."""

from __future__ import annotations

from .camera import Camera, CameraTrack
from .episode import ArrayFrames, Episode, EpisodeRef, FrameSource, View
from .trajectory import GripperTrajectory

__all__ = [
    "ArrayFrames",
    "Camera",
    "CameraTrack",
    "Episode",
    "EpisodeRef",
    "FrameSource",
    "GripperTrajectory",
    "View",
]

"""Episodes without the steps in which nothing happens."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...cameras.files import DroidKeepRanges
from ...errors import EmptyEpisodeError
from ...model import CameraTrack, Episode, GripperTrajectory
from ...model.episode import SelectedFrames


@lru_cache(maxsize=1)
def ranges(path: str, stamp: str) -> DroidKeepRanges:
    """The file that a user gave, read once a process; ``stamp`` changes when it does."""
    return DroidKeepRanges(Path(path))


def without_idle(episode: Episode, steps: NDArray[np.intp] | None, path: str) -> Episode:
    """The episode's ``steps`` joined, at its own rate: what lies between two of them is the robot at rest.

    Args:
        episode: With one gripper.
        steps: Which of its steps are kept, in order; None where the file does not name the episode.
        path: The episode's, for errors.

    Raises:
        EmptyEpisodeError: None are kept, or the file does not name the episode.
    """
    if steps is None or len(steps) == 0:
        raise EmptyEpisodeError(
            "the keep ranges name no part of this episode", where=episode.id, field="droid_keep_ranges", found=path
        )
    if len(steps) == len(episode):
        return episode
    views = {
        name: replace(
            view,
            frames=SelectedFrames(view.frames, steps),
            depth=None if view.depth is None else SelectedFrames(view.depth, steps),
            camera=view.camera[steps] if isinstance(view.camera, CameraTrack) else view.camera,
        )
        for name, view in episode.views.items()
    }
    t = episode.trajectory
    times = np.arange(len(steps)) / episode.fps
    trajectory = GripperTrajectory(t.position[steps], t.quaternion_xyzw[steps], t.openness[steps], times)
    provenance = {**episode.provenance, "kept_steps": _as_ranges(steps)}
    return replace(episode, views=views, grippers={"": trajectory}, provenance=provenance)


def _as_ranges(steps: NDArray[np.intp]) -> list[list[int]]:
    parts = np.split(steps, np.flatnonzero(np.diff(steps) != 1) + 1)
    return [[int(part[0]), int(part[-1]) + 1] for part in parts]

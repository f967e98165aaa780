"""What a function that derives a member is given: a window, of which nothing is read until it is asked for."""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..geometry.crop import center_crop
from ..model import CameraTrack, GripperTrajectory
from ..raster import render_merged
from ..schemas.derived import Reads
from ..video import ENDINGS, open_video
from ..video.resize import apply
from . import layout
from .read import Sample
from .window import Window
from .windows import WindowId

Image = NDArray[np.uint8]

KINDS: Final[tuple[Reads, ...]] = ("pictures", "actions", "text", "poses", "cameras")


class WindowInput:
    """A window, or a whole sample, of some views.

    Args:
        sample: The sample.
        indices: ``(T,)`` its frames, not decreasing; the last is repeated where the sample ends before the window.
        views: V names.
        size: Height and width of the pictures.
        window: What names it.
        fps: Frames per second.

    Attributes:
        id: What names it: key, start, stride, views.
        frames: ``(T,)`` frames of the sample.
        fps: Frames per second.
        sample: The sample itself; what is read of it directly is not noticed (`asked_for`).
    """

    def __init__(
        self,
        sample: Sample,
        indices: NDArray[np.int64],
        views: tuple[str, ...],
        size: tuple[int, int],
        window: WindowId,
        fps: float,
    ) -> None:
        self.id, self.frames, self.fps, self.sample = window, indices, fps, sample
        self.asked_for: set[Reads] = set()
        """What the function has asked for; training need not decode what a member was made of."""
        self._kept = np.unique(indices)
        self._window = Window(sample, self._kept, *size, views)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def key(self) -> str:
        """The sample's key."""
        return self.sample.key

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views."""
        return self._window.views

    @property
    def height(self) -> int:
        """Height of the pictures."""
        return self._window.height

    @property
    def width(self) -> int:
        """Width of the pictures."""
        return self._window.width

    @cached_property
    def pictures(self) -> Image:
        """Camera pictures ``(V, T, H, W, 3)`` uint8 RGB."""
        self.asked_for.add("pictures")
        sample, meta = self.sample, self.sample.meta
        change = center_crop(meta.height, meta.width, self.height, self.width)
        out = np.empty((len(self.views), len(self), self.height, self.width, 3), np.uint8)
        for planes, view in zip(out, self.views, strict=True):
            name = layout.rgb_member(view, ENDINGS[meta.rgb_codec])
            with open_video(sample.read(name), f"{sample.key}.{name}") as video:
                for i, frame in enumerate(video.frames(self._kept.tolist())):
                    planes[i] = apply(frame, change)
            planes[len(self._kept) :] = planes[len(self._kept) - 1]
        return out

    @cached_property
    def action_images(self) -> Image:
        """Action images ``(V, T, H, W, 3)`` uint8 RGB, drawn at this size; of all grippers in one picture.

        Raises:
            MissingCalibrationError: The data set has no cameras.
        """
        self.asked_for.add("actions")
        window = self._window
        drawn = [render_merged(window.grippers, window.cameras[view], window.spec) for view in self.views]
        return np.stack(drawn)[:, self._held]

    @property
    def text(self) -> str:
        """What the frames show, in words."""
        self.asked_for.add("text")
        return self.sample.meta.instruction_at(self.frames)

    @property
    def texts(self) -> tuple[str, ...]:
        """All wordings of the sample, the first being its instruction."""
        self.asked_for.add("text")
        return self.sample.meta.instructions

    @property
    def grippers(self) -> dict[str, GripperTrajectory]:
        """The grippers at the frames that are there, by name; of one under the name ""."""
        self.asked_for.add("poses")
        return self._window.grippers

    @property
    def trajectory(self) -> GripperTrajectory:
        """The gripper of a sample with one, at the frames that are there.

        Raises:
            WrongFormatError: It has several: see ``grippers``.
        """
        self.asked_for.add("poses")
        return self.sample.trajectory[self._kept]

    @property
    def cameras(self) -> dict[str, CameraTrack]:
        """The cameras of the pictures, by view, at the frames that are there.

        Raises:
            MissingCalibrationError: The data set has no cameras.
        """
        self.asked_for.add("cameras")
        return self._window.cameras

    @property
    def _held(self) -> NDArray[np.intp]:
        return np.searchsorted(self._kept, self.frames)

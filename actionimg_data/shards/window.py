"""Some frames of a sample, at a size: what a training loader cuts, with cameras that follow the pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptDatasetError, FrameCountError, InvalidSpecError, WrongFormatError, suggestion
from ..geometry.crop import center_crop
from ..model import Camera, CameraTrack, GripperTrajectory
from ..raster import held_camera, merge, render_view, wrist_spec
from ..schemas import ActionImageSpec
from ..video.resize import apply
from .read import Sample

Image = NDArray[np.uint8]


def window_frames(total: int, start: int, stride: int, num_frames: int | None, where: object) -> NDArray[np.int64]:
    """``(T,)`` frames ``start, start + stride, …`` of ``total``; all there are where ``num_frames`` is None.

    Raises:
        InvalidSpecError: A number is out of range.
        FrameCountError: The window ends after the last frame.
    """
    if start < 0 or start >= total:
        raise InvalidSpecError("no such frame", where=where, field="start", expected=f"0 … {total - 1}", found=start)
    if stride < 1:
        raise InvalidSpecError("must be a positive integer", where=where, field="stride", expected=">= 1", found=stride)
    most = 1 + (total - 1 - start) // stride
    count = most if num_frames is None else num_frames
    if count < 1:
        raise InvalidSpecError("must be a positive integer", where=where, field="num_frames", found=count)
    if count > most:
        raise FrameCountError(
            "the window ends after the last frame",
            where=where,
            field=f"start {start}, stride {stride}",
            expected=f"<= {most} of {total} frames",
            found=count,
        )
    return np.asarray(start + stride * np.arange(count), np.int64)


def window_cameras(
    cameras: Mapping[str, Camera | CameraTrack], start: int | None, stride: int, num_frames: int, where: object
) -> dict[str, Camera | CameraTrack]:
    """The cameras of a window's frames; one that stands still is the same in all.

    Args:
        cameras: By name.
        start: Frame of the cameras that the window begins with; None: not known, so that a camera that moves has to
            have as many frames as the window.
        stride: From one frame of the window to the next, in frames of the cameras.
        num_frames: Frames of the window.
        where: What to call the cameras' file in an error.

    Raises:
        InvalidSpecError, FrameCountError: As `window_frames`; or it is not known which frames of a moving camera.
    """
    out: dict[str, Camera | CameraTrack] = {}
    for name, camera in cameras.items():
        if isinstance(camera, Camera):
            out[name] = camera
        elif start is None and camera.is_static:
            out[name] = camera[0]
        elif start is None and len(camera) != 1 + (num_frames - 1) * stride:
            raise FrameCountError(
                "the camera moves, and which of its frames the video shows is not said",
                where=where,
                field=name,
                expected=f"{num_frames} frames at stride {stride}",
                found=f"{len(camera)} frames",
                hint="--start gives the first.",
            )
        else:
            out[name] = camera[window_frames(len(camera), start or 0, stride, num_frames, f"{where}: {name}")]
    return out


@dataclass(frozen=True)
class Window:
    """Frames of a sample, its pictures centre-cropped to the aspect of a size and scaled to it; see `Window.cut`."""

    sample: Sample
    indices: NDArray[np.int64]
    """``(T,)`` frames of the sample."""
    height: int
    width: int
    views: tuple[str, ...]
    held: Mapping[str, float] = field(default_factory=dict)
    """Views whose action images are drawn from a camera held at the first frame, and its distance (`held_camera`)."""

    @classmethod
    def cut(
        cls,
        sample: Sample,
        start: int = 0,
        num_frames: int | None = None,
        stride: int = 1,
        size: tuple[int, int] | None = None,
        views: Sequence[str] | None = None,
        held: Mapping[str, float] | None = None,
    ) -> Window:
        """A window of a sample.

        Args:
            sample: The sample.
            start: Its first frame.
            num_frames: T; as many as there are by default.
            stride: From one frame to the next.
            size: Height and width; the data set's own by default.
            views: Which views; all by default.
            held: Views whose action images are drawn from a camera that is held where the window begins, and its
                distance to the gripper there in metres.

        Raises:
            InvalidSpecError: A number is out of range.
            FrameCountError: The window ends after the last frame.
            WrongFormatError: There is no such view.
        """
        chosen = tuple(sample.views if views is None else views)
        for view in chosen:
            if view not in sample.views:
                raise WrongFormatError(
                    "has no such view",
                    where=sample.key,
                    expected=" ".join(sample.views),
                    found=view,
                    hint=suggestion(view, sample.views),
                )
        height, width = size or (sample.meta.height, sample.meta.width)
        frames = window_frames(len(sample), start, stride, num_frames, sample.key)
        return cls(sample, frames, height, width, chosen, dict(held or {}))

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def stride(self) -> int:
        """Frames of the sample from one to the next."""
        return int(self.indices[1] - self.indices[0]) if len(self.indices) > 1 else 1

    @property
    def fps(self) -> float:
        """Frames a second of the window."""
        return self.sample.fps / self.stride

    @cached_property
    def cameras(self) -> dict[str, CameraTrack]:
        """The cameras of its pictures, by view.

        Raises:
            MissingCalibrationError: The data set was made without cameras.
        """
        tracks = self.sample.cameras
        return {view: tracks[view][self.indices].resized(self.height, self.width) for view in self.views}

    @cached_property
    def action_cameras(self) -> dict[str, CameraTrack]:
        """The cameras of its action images, by view: those of the pictures, or held ones."""
        return {
            view: held_camera(camera, self.grippers, self.held[view]).track(len(self)) if view in self.held else camera
            for view, camera in self.cameras.items()
        }

    @cached_property
    def grippers(self) -> dict[str, GripperTrajectory]:
        """The grippers at its frames, by name."""
        return {name: trajectory[self.indices] for name, trajectory in self.sample.grippers.items()}

    @property
    def trajectory(self) -> GripperTrajectory:
        """The gripper of a sample with one, at its frames.

        Raises:
            WrongFormatError: It has several: see ``grippers``.
        """
        return self.sample.trajectory[self.indices]

    @property
    def spec(self) -> ActionImageSpec:
        """How its action images are drawn."""
        if self.sample.spec is None:
            raise CorruptDatasetError("how its action images are drawn is in its dataset.json", where=self.sample.key)
        return self.sample.spec.resized(self.height, self.width)

    def rgb(self, view: str) -> Iterator[Image]:
        """Camera pictures ``(H, W, 3)`` uint8 of a view."""
        meta = self.sample.meta
        change = center_crop(meta.height, meta.width, self.height, self.width)
        for frame in self.sample.rgb(view, self.indices.tolist()):
            yield apply(frame, change)

    def action(self, view: str, gripper: str = "") -> Image:
        """Action images ``(T, H, W, 3)`` uint8, drawn at this size: of one gripper, or of all in one picture."""
        merged = self.sample.meta.merged_arms and not gripper
        names = list(self.grippers) if merged else [gripper]
        if names[0] not in self.grippers:
            raise WrongFormatError(
                "has no such gripper", where=self.sample.key, expected=" ".join(self.grippers), found=gripper or "none"
            )
        spec = wrist_spec(self.spec, self.held[view]) if view in self.held else self.spec
        drawn = [render_view(self.grippers[name], self.action_cameras[view], spec) for name in names]
        return drawn[0] if len(drawn) == 1 else merge(drawn)

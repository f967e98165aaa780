"""One demonstration: views with lazy frames, the gripper's trajectory, and what was asked for in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    EmptyEpisodeError,
    FrameCountError,
    InvalidArrayError,
    InvalidTextError,
    InvalidTrajectoryError,
    WrongFormatError,
)
from .camera import Camera, CameraTrack
from .trajectory import GripperTrajectory

Image = NDArray[np.uint8]
MAX_INSTRUCTION = 4096


@runtime_checkable
class FrameSource(Protocol):
    """Pictures of one view that are read when they are asked for, so that memory stays flat."""

    @property
    def width(self) -> int:
        """Picture width in pixels."""
        ...

    @property
    def height(self) -> int:
        """Picture height in pixels."""
        ...

    def __len__(self) -> int: ...

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """RGB pictures ``(H, W, 3)`` uint8 at ``indices`` (increasing), one at a time."""
        ...


@dataclass(frozen=True)
class ArrayFrames:
    """A `FrameSource` over pictures ``(T, H, W, 3)`` uint8 that are in memory already."""

    array: Image

    @property
    def width(self) -> int:
        """Picture width in pixels."""
        return int(self.array.shape[2])

    @property
    def height(self) -> int:
        """Picture height in pixels."""
        return int(self.array.shape[1])

    def __len__(self) -> int:
        return len(self.array)

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """The pictures at ``indices``."""
        for i in indices:
            yield self.array[i]


@dataclass(frozen=True, eq=False)
class DerivedFrames:
    """Base of a `FrameSource` made from another one: as many pictures, of the same size, unless it says otherwise."""

    source: FrameSource

    @property
    def width(self) -> int:
        """Picture width in pixels."""
        return self.source.width

    @property
    def height(self) -> int:
        """Picture height in pixels."""
        return self.source.height

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True, eq=False)
class SelectedFrames(DerivedFrames):
    """The pictures of ``source`` at ``indices``, which increase."""

    indices: range | NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.indices)

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """The pictures at ``indices`` of the selection."""
        return self.source.frames([int(self.indices[i]) for i in indices])


@dataclass(frozen=True)
class View:
    """One camera of an episode: its calibration (None where the source has none) and its pictures."""

    camera: Camera | CameraTrack | None
    frames: FrameSource


@dataclass(frozen=True)
class EpisodeRef:
    """Where an episode is; small, picklable, JSON-able, and the same on every machine.

    Args:
        id: Unique and stable within the source, e.g. ``open_drawer/variation0/episode3``; ``[A-Za-z0-9._/-]+``.
        location: What the converter needs to find it again (JSON values only).
        num_frames: Frames in the source where that is cheap to know, else None.
        fingerprint: What changes when the episode's source changes, e.g. names and sizes of its files.
    """

    id: str
    location: Mapping[str, Any] = field(default_factory=dict)
    num_frames: int | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Episode:
    """One demonstration.

    Args:
        id: As in its `EpisodeRef`.
        views: View name (``[a-z0-9_-]+``) to `View`; all with as many frames as the trajectory.
        trajectory: The gripper at each frame's time.
        fps: Frames per second of the views and the trajectory.
        instructions: What the demonstration does, in words; the first is the instruction. Never empty.
        task: Name of the task, where the source has one.
        sync: "measured" where each stream had its own stamps, "assumed" where the rate is only stated.
        sync_residual_s: ``(T,)`` distance in seconds of each frame to the nearest measured pose, or None.
        provenance: Where this comes from, for the record (JSON values only).

    Raises:
        FrameCountError: A view, a camera or a residual has another length than the trajectory.
        InvalidTextError: No instruction, or one that is too long or has control characters.
        WrongFormatError: A view's name could not name a shard member.
    """

    id: str
    views: Mapping[str, View]
    trajectory: GripperTrajectory
    fps: float
    instructions: tuple[str, ...]
    task: str | None = None
    sync: str = "assumed"
    sync_residual_s: NDArray[np.float64] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.trajectory)
        if not self.views:
            raise EmptyEpisodeError("has no views", where=self.id)
        for name, view in self.views.items():
            if not name or set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789_-"):
                raise WrongFormatError("bad view name", where=self.id, expected="[a-z0-9_-]+", found=name)
            if len(view.frames) != n:
                raise FrameCountError(
                    "pictures and poses differ in number",
                    where=self.id,
                    field=name,
                    expected=f"{n} pictures, one a pose",
                    found=f"{len(view.frames)}",
                )
            if isinstance(view.camera, CameraTrack) and len(view.camera) != n:
                raise FrameCountError(
                    "cameras and poses differ in number",
                    where=self.id,
                    field=name,
                    expected=n,
                    found=len(view.camera),
                )
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise InvalidTrajectoryError("must be positive", where=self.id, field="fps", found=self.fps)
        if self.sync not in ("measured", "assumed"):
            raise InvalidTextError(
                "bad value", where=self.id, field="sync", expected="measured or assumed", found=self.sync
            )
        if self.sync_residual_s is not None and self.sync_residual_s.shape != (n,):
            raise FrameCountError("sync residuals and poses differ in number", where=self.id, expected=n)
        if not self.instructions:
            raise InvalidTextError("has no instruction", where=self.id, field="instructions")
        for text in self.instructions:
            check_instruction(text, self.id)

    def __len__(self) -> int:
        return len(self.trajectory)

    @property
    def instruction(self) -> str:
        """The first of the instructions."""
        return self.instructions[0]

    def with_views(self, names: Sequence[str]) -> Episode:
        """Only the named views, in that order; `WrongFormatError` names those that do not exist."""
        missing = [n for n in names if n not in self.views]
        if missing:
            raise WrongFormatError(
                "has no such view",
                where=self.id,
                field="views",
                expected=" ".join(self.views),
                found=" ".join(missing),
            )
        return replace(self, views={n: self.views[n] for n in names})

    def select(self, frames: range) -> Episode:
        """The frames of a range, e.g. ``range(0, len(e), 4)``; the rate is divided by the range's step."""
        if len(frames) == 0:
            raise EmptyEpisodeError("no frames selected", where=self.id, found=str(frames))
        if frames.step < 0 or frames[0] < 0 or frames[-1] >= len(self):
            raise InvalidArrayError(
                "selection leaves the episode, or runs backwards",
                where=self.id,
                field="frames",
                expected=f"within 0 … {len(self) - 1}",
                found=str(frames),
            )
        window = slice(frames.start, frames.stop, frames.step)
        views = {
            name: View(
                view.camera[window] if isinstance(view.camera, CameraTrack) else view.camera,
                SelectedFrames(view.frames, frames),
            )
            for name, view in self.views.items()
        }
        residual = None if self.sync_residual_s is None else self.sync_residual_s[window]
        return replace(
            self,
            views=views,
            trajectory=self.trajectory[window],
            fps=self.fps / frames.step,
            sync_residual_s=residual,
        )


def check_instruction(text: object, where: str) -> None:
    """Refuse an instruction that is empty, over 4096 characters, or holds control characters."""
    if not isinstance(text, str) or not text.strip():
        raise InvalidTextError("is empty or not text", where=where, field="instruction", found=text)
    if len(text) > MAX_INSTRUCTION:
        raise InvalidTextError(
            "is too long",
            where=where,
            field="instruction",
            expected=f"≤ {MAX_INSTRUCTION} characters",
            found=f"{len(text)}",
        )
    bad = next((c for c in text if not c.isprintable()), None)
    if bad is not None:
        raise InvalidTextError(
            "holds a control character",
            where=where,
            field="instruction",
            found=f"U+{ord(bad):04X} in {text[:60]!r}",
        )

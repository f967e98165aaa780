"""One demonstration: views with lazy frames, the gripper's trajectory, and what was asked for in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    EmptyEpisodeError,
    FrameCountError,
    InvalidArrayError,
    InvalidTextError,
    InvalidTrajectoryError,
    WrongFormatError,
    suggestion,
)
from ..schemas.camera_file import CameraOrigin
from .camera import Camera, CameraTrack
from .joints import JointTrack
from .recorded import Recorded
from .trajectory import GripperTrajectory

Image = NDArray[np.uint8]
Plane = NDArray[np.uint16] | NDArray[np.uint32]
Frame = NDArray[Any]
MAX_INSTRUCTION = 4096
MAX_MASK_ID: Final = 2**24 - 1
"""Largest id in a mask: ids are stored in the three bytes of an RGB picture."""

_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")


@runtime_checkable
class FrameSource(Protocol):
    """Pictures of one view, its depth or its masks, read when they are asked for, so that memory stays flat."""

    @property
    def width(self) -> int:
        """Picture width in pixels."""
        ...

    @property
    def height(self) -> int:
        """Picture height in pixels."""
        ...

    def __len__(self) -> int: ...

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """What is seen at ``indices`` (increasing), one at a time.

        Pictures are RGB ``(H, W, 3)`` uint8. Depth is ``(H, W)`` uint16, millimetres along the camera's axis, 0 where
        it is not known (or beyond 65.535 m). A mask is ``(H, W)`` uint32 (or uint16), ids up to `MAX_MASK_ID`.
        """
        ...


@dataclass(frozen=True)
class ArrayFrames:
    """A `FrameSource` over pictures ``(T, H, W, 3)``, or depth or masks ``(T, H, W)``, that are in memory already."""

    array: Frame

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

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """The pictures at ``indices``."""
        for i in indices:
            yield self.array[i]


def millimetres(depth_m: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Depth in metres as whole millimetres ``(...)`` uint16; what is not finite, not positive or over 65.535 m is 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = np.rint(depth_m * 1000)
        return np.where((rounded > 0) & (rounded <= 65535), rounded, 0).astype(np.uint16)


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

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """The pictures at ``indices`` of the selection."""
        return self.source.frames([int(self.indices[i]) for i in indices])


@dataclass(frozen=True)
class View:
    """One camera of an episode: its calibration, its pictures, and what the source has beside them.

    Args:
        camera: None where the source has no calibration.
        frames: The camera's pictures.
        depth: Depth seen through the same camera, in millimetres (see `FrameSource`), or None.
        mask: Ids of what each pixel shows (see `FrameSource`), or None.
        depth_range_m: The least and the largest depth that the source can tell, in metres, where it says so: the near
            and far plane of a simulator. At the far end there may be nothing at all.
        origin: Where the camera comes from, if not from the source's own calibration.
        conditioning: A camera in a frame and a scale of its own, as programs estimate it from pictures alone: a model
            may be conditioned on it, and nothing is drawn with it.

    Depth and mask have as many pictures as ``frames``, of the same size: the same pixels of the same camera.
    """

    camera: Camera | CameraTrack | None
    frames: FrameSource
    depth: FrameSource | None = None
    mask: FrameSource | None = None
    depth_range_m: tuple[float, float] | None = None
    origin: CameraOrigin | None = None
    conditioning: Camera | CameraTrack | None = None


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
class InstructionSpan:
    """What an episode's frames ``start`` … ``end - 1`` do, in words."""

    start: int
    end: int
    text: str


def instruction_spans(texts: Sequence[str]) -> tuple[InstructionSpan, ...]:
    """Spans of the texts of frames, one each; none where all frames have one text."""
    if len(set(texts)) <= 1:
        return ()
    starts = [0, *(i for i in range(1, len(texts)) if texts[i] != texts[i - 1])]
    ends = [*starts[1:], len(texts)]
    return tuple(InstructionSpan(start, end, texts[start]) for start, end in zip(starts, ends, strict=True))


@dataclass(frozen=True, init=False)
class Episode:
    """One demonstration.

    Args:
        id: As in its `EpisodeRef`.
        views: View name (``[a-z0-9_-]+``) to `View`; all with as many frames as the trajectory.
        trajectory: The gripper at each frame's time. Not with ``grippers``.
        fps: Frames per second of the views and the trajectory.
        instructions: What the demonstration does, in words; the first is the instruction. Never empty.
        task: Name of the task, where the source has one.
        sync: "measured" where each stream had its own stamps, "assumed" where the rate is only stated.
        sync_residual_s: ``(T,)`` distance in seconds of each frame to the nearest measured pose, or None.
        provenance: Where this comes from, for the record (JSON values only).
        grippers: Several grippers instead of one ``trajectory``: name (``[a-z0-9_-]+``) to the gripper at each frame's
            time, in the order in which they are drawn and stored; all with the same times.
        recorded: The log's own streams, where there are any: they are looked at for what cannot be true.
        spans: Where the instruction changes within the episode, the frames of each one, from the first frame to the
            last without a gap; ``instructions`` are then their texts. Else empty.
        joints: The arm's joint values, where the source has them: for calibration, and not stored in samples.

    Attributes:
        grippers: The grippers by name, in order; of an episode with one ``trajectory``, that one under the name "".

    Raises:
        FrameCountError: A view, its depth, mask or camera, a gripper or a residual has another length than the
            (first) trajectory.
        InvalidTextError: No instruction, or one that is too long or has control characters.
        InvalidTrajectoryError: Not one trajectory or several grippers, or grippers whose times differ.
        WrongFormatError: A name could not name a shard member, or depth or mask has another size than the pictures.
    """

    id: str
    views: Mapping[str, View]
    fps: float
    instructions: tuple[str, ...]
    task: str | None
    sync: str
    sync_residual_s: NDArray[np.float64] | None
    provenance: Mapping[str, Any]
    grippers: Mapping[str, GripperTrajectory]
    recorded: Recorded
    spans: tuple[InstructionSpan, ...]
    joints: JointTrack | None

    def __init__(
        self,
        id: str,
        views: Mapping[str, View],
        trajectory: GripperTrajectory | None = None,
        *,
        fps: float,
        instructions: tuple[str, ...],
        task: str | None = None,
        sync: str = "assumed",
        sync_residual_s: NDArray[np.float64] | None = None,
        provenance: Mapping[str, Any] | None = None,
        grippers: Mapping[str, GripperTrajectory] | None = None,
        recorded: Recorded | None = None,
        spans: tuple[InstructionSpan, ...] = (),
        joints: JointTrack | None = None,
    ) -> None:
        # dataclasses.replace(episode, trajectory=...) passes the one gripper there was along.
        if trajectory is not None and (grippers is None or tuple(grippers) == ("",)):
            grippers = {"": trajectory}
        elif trajectory is not None or not grippers:
            raise InvalidTrajectoryError(
                "must be given as one trajectory or as several grippers",
                where=id,
                field="grippers",
                expected="trajectory= or grippers=",
                found="both" if grippers else "neither",
            )
        values: dict[str, Any] = {
            "id": id,
            "views": views,
            "fps": fps,
            "instructions": instructions,
            "task": task,
            "sync": sync,
            "sync_residual_s": sync_residual_s,
            "provenance": {} if provenance is None else provenance,
            "grippers": dict(grippers),
            "recorded": recorded or Recorded(),
            "spans": spans,
            "joints": joints,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check_grippers()
        self._check_views()
        if not (np.isfinite(fps) and fps > 0):
            raise InvalidTrajectoryError("must be positive", where=id, field="fps", found=fps)
        if sync not in ("measured", "assumed"):
            raise InvalidTextError("bad value", where=id, field="sync", expected="measured or assumed", found=sync)
        if sync_residual_s is not None and sync_residual_s.shape != (len(self),):
            raise FrameCountError("sync residuals and poses differ in number", where=id, expected=len(self))
        if joints is not None and len(joints) != len(self):
            raise FrameCountError(
                "joints and poses differ in number", where=id, field="joints", expected=len(self), found=len(joints)
            )
        if not instructions:
            raise InvalidTextError("has no instruction", where=id, field="instructions")
        for text in instructions:
            check_instruction(text, id)
        self._check_spans()

    def _check_spans(self) -> None:
        if not self.spans:
            return
        ends = [0, *(span.end for span in self.spans)]
        whole = [span.start for span in self.spans] == ends[:-1] and ends[-1] == len(self)
        if not whole or any(span.start >= span.end for span in self.spans):
            raise InvalidTextError(
                "spans of instructions do not cover the frames one after another",
                where=self.id,
                field="spans",
                expected=f"0 … {len(self)}",
                found=" ".join(f"{span.start}…{span.end}" for span in self.spans),
            )
        if {span.text for span in self.spans} != set(self.instructions):
            raise InvalidTextError("spans have other texts than the instructions", where=self.id, field="spans")

    def _check_grippers(self) -> None:
        names = tuple(self.grippers)
        for name in names:
            if names != ("",) and (not name or set(name) - _NAME):
                raise WrongFormatError("bad gripper name", where=self.id, expected="[a-z0-9_-]+", found=name)
            if len(self.grippers[name]) != len(self):
                raise FrameCountError(
                    "grippers differ in their number of poses",
                    where=self.id,
                    field=name,
                    expected=f"{len(self)}, as of {names[0]}",
                    found=len(self.grippers[name]),
                )
            if not np.array_equal(self.grippers[name].times, self.times):
                raise InvalidTrajectoryError(
                    "has other times than the first gripper; all are given at the frames' times",
                    where=self.id,
                    field=f"grippers.{name}.times",
                )

    def _check_views(self) -> None:
        n = len(self)
        if not self.views:
            raise EmptyEpisodeError("has no views", where=self.id)
        for name, view in self.views.items():
            if not name or set(name) - _NAME:
                raise WrongFormatError("bad view name", where=self.id, expected="[a-z0-9_-]+", found=name)
            if len(view.frames) != n:
                raise FrameCountError(
                    "pictures and poses differ in number",
                    where=self.id,
                    field=name,
                    expected=f"{n} pictures, one a pose",
                    found=f"{len(view.frames)}",
                )
            for camera in (view.camera, view.conditioning):
                if isinstance(camera, CameraTrack) and len(camera) != n:
                    raise FrameCountError(
                        "cameras and poses differ in number",
                        where=self.id,
                        field=name,
                        expected=n,
                        found=len(camera),
                    )
            for kind, planes in view_planes(view).items():
                if len(planes) != n:
                    raise FrameCountError(
                        f"{kind} and poses differ in number",
                        where=self.id,
                        field=name,
                        expected=f"{n} pictures, one a pose",
                        found=f"{len(planes)}",
                    )
                if (planes.height, planes.width) != (view.frames.height, view.frames.width):
                    raise WrongFormatError(
                        f"{kind} has another size than the pictures",
                        where=self.id,
                        field=name,
                        expected=f"{view.frames.width}x{view.frames.height}",
                        found=f"{planes.width}x{planes.height}",
                    )

    def __len__(self) -> int:
        return len(next(iter(self.grippers.values())))

    @property
    def trajectory(self) -> GripperTrajectory:
        """The gripper of an episode with one.

        Raises:
            InvalidTrajectoryError: It has several.
        """
        if len(self.grippers) != 1:
            raise InvalidTrajectoryError(
                "has several grippers, and one was asked for",
                where=self.id,
                field="trajectory",
                expected="one gripper",
                found=" ".join(self.grippers),
                hint="Use its grippers, by name.",
            )
        return next(iter(self.grippers.values()))

    @property
    def gripper_names(self) -> tuple[str, ...]:
        """Names of the grippers in order; empty for an episode with one ``trajectory``."""
        return tuple(name for name in self.grippers if name)

    @property
    def times(self) -> NDArray[np.float64]:
        """``(T,)`` seconds: the frames' times."""
        return next(iter(self.grippers.values())).times

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
                hint=suggestion(missing[0], self.views),
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
            name: replace(
                view,
                camera=view.camera[window] if isinstance(view.camera, CameraTrack) else view.camera,
                conditioning=view.conditioning[window]
                if isinstance(view.conditioning, CameraTrack)
                else view.conditioning,
                frames=SelectedFrames(view.frames, frames),
                depth=None if view.depth is None else SelectedFrames(view.depth, frames),
                mask=None if view.mask is None else SelectedFrames(view.mask, frames),
            )
            for name, view in self.views.items()
        }
        residual = None if self.sync_residual_s is None else self.sync_residual_s[window]
        every = [span.text for span in self.spans for _ in range(span.start, span.end)]
        texts = [every[i] for i in frames] if every else []
        return replace(
            self,
            spans=instruction_spans(texts),
            instructions=tuple(dict.fromkeys(texts)) or self.instructions,
            views=views,
            grippers={name: trajectory[window] for name, trajectory in self.grippers.items()},
            fps=self.fps / frames.step,
            sync_residual_s=residual,
            joints=None if self.joints is None else self.joints[window],
        )


def view_planes(view: View) -> dict[str, FrameSource]:
    """What a view has beside its pictures, by the name of the field: ``depth``, ``mask``."""
    return {kind: planes for kind, planes in (("depth", view.depth), ("mask", view.mask)) if planes is not None}


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

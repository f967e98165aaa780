"""Which windows a sample is cut into: a function of its length and rate alone, so that every program cuts the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidSpecError

Short = Literal["skip", "repeat"]

LATENT_STRIDE: Final = 4
"""Frames to a latent frame of the video models' VAEs; the first frame is one by itself."""

SIZE_STEP: Final = 16
"""Height and width of a video model's pictures are multiples of this: 8 of its VAE, 2 of its patches."""

RATE_TOLERANCE: Final = 1e-3


def unusual_window(num_frames: int, height: int, width: int, latent_stride: int = LATENT_STRIDE) -> str:
    """What of a window video models do not take as it is, with what they take; empty where they do."""
    parts = []
    if (num_frames - 1) % latent_stride:
        below = 1 + (num_frames - 1) // latent_stride * latent_stride
        parts.append(
            f"num_frames={num_frames} is not {latent_stride}n + 1: the last {num_frames - below} frames belong to no "
            f"latent frame (take {below} or {below + latent_stride})"
        )
    if height % SIZE_STEP or width % SIZE_STEP:
        near = [max(SIZE_STEP, round(n / SIZE_STEP) * SIZE_STEP) for n in (height, width)]
        parts.append(f"size {height}x{width} is no multiple of {SIZE_STEP} (take {near[0]}x{near[1]})")
    return "; ".join(parts)


def whole_stride(stored: float, wanted: float, where: object, hint: str = "") -> int:
    """Stored frames from one frame to the next at a rate.

    Args:
        stored: The data set's frames per second.
        wanted: Those of the window.
        where: What to call the data set in an error.
        hint: What else can be done.

    Raises:
        InvalidSpecError: The rate is not a whole fraction of the data set's.
    """
    stride = max(1, round(stored / wanted))
    if abs(stored / stride / wanted - 1) > RATE_TOLERANCE:
        whole = ", ".join(f"{stored / n:g}" for n in range(1, 6))
        raise InvalidSpecError(
            "the source's rate is no whole multiple of the declared one",
            where=where,
            field="fps",
            expected=f"one of {whole}, …",
            found=wanted,
            hint=f"Frames are never repeated or interpolated to meet a rate.{hint}",
        )
    return stride


@dataclass(frozen=True, order=True)
class WindowId:
    """What names a window in every program and run.

    Args:
        key: The sample's key.
        start: First frame, counted in the sample.
        stride: Stored frames from one frame to the next.
        views: The views it shows, in order.
    """

    key: str
    start: int
    stride: int
    views: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.key}.{self.start:06d}.{self.stride}.{'+'.join(self.views)}"


@dataclass(frozen=True)
class Cut:
    """How samples are cut into windows.

    Args:
        num_frames: Frames of a window.
        fps: Its rate, a whole fraction of the data set's; the data set's own by default.
        hop: Frames of the window from the start of one to that of the next; those of a window by default.
        short: Of a sample shorter than a window, make none (``skip``), or one that ends with its last frame repeated
            (``repeat``).
        nearest: Take the stored frame that is nearest in time where the rate is no whole fraction: steps then differ.
    """

    num_frames: int
    fps: float | None = None
    hop: int | None = None
    short: Short = "skip"
    nearest: bool = False

    def __post_init__(self) -> None:
        for name, value in (("num_frames", self.num_frames), ("hop", self.hop)):
            if value is not None and value < 1:
                raise InvalidSpecError("must be a positive integer", field=name, expected=">= 1", found=value)
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise InvalidSpecError("must be positive", field="fps", expected="> 0", found=self.fps)

    def rate(self, stored: float) -> float:
        """Frames per second of the windows of a data set of a rate."""
        return stored if self.fps is None else self.fps

    def stride(self, stored: float, where: object) -> int:
        """Stored frames from one frame to the next; 0 where they differ (``nearest``).

        Raises:
            InvalidSpecError: The rate is no whole fraction of the stored one, or above it.
        """
        if self.fps is None:
            return 1
        if not self.nearest or self.fps > stored * (1 + RATE_TOLERANCE):
            below = " --nearest takes the nearest frame in time, at uneven steps." if self.fps < stored else ""
            return whole_stride(stored, self.fps, where, below)
        exact = stored / self.fps
        return round(exact) if abs(exact / round(exact) - 1) <= RATE_TOLERANCE else 0

    def offsets(self, stored: float, where: object) -> NDArray[np.int64]:
        """``(num_frames,)`` stored frames of a window, counted from its first."""
        stride = self.stride(stored, where)
        if stride:
            return np.asarray(stride * np.arange(self.num_frames), np.int64)
        # Exactly between two frames it is the earlier one.
        return np.asarray(np.ceil(np.arange(self.num_frames) * stored / self.rate(stored) - 0.5), np.int64)

    def starts(self, total: int, stored: float, where: object) -> list[int]:
        """First frames of the windows of a sample, counted in it: every ``hop`` frames, and one that ends with it.

        Args:
            total: Its frames.
            stored: Their rate.
            where: What to call it in an error.

        Raises:
            InvalidSpecError: The rate does not fit.
        """
        offsets = self.offsets(stored, where)
        last = total - 1 - int(offsets[-1])
        if last < 0:
            return [0] if self.short == "repeat" and total > 0 else []
        step = max(1, round((self.hop or self.num_frames) * stored / self.rate(stored)))
        starts = list(range(0, last + 1, step))
        return starts if starts[-1] == last else [*starts, last]

    def indices(self, start: int, total: int, stored: float, where: object) -> NDArray[np.int64]:
        """``(num_frames,)`` frames of a sample; the last one is repeated past its end."""
        return np.minimum(start + self.offsets(stored, where), total - 1)


def view_groups(views: Iterable[str], together: bool) -> Iterator[tuple[str, ...]]:
    """The views of each of a window's parts: all together, or each by itself."""
    chosen = tuple(views)
    if together:
        yield chosen
    else:
        yield from ((view,) for view in chosen)

"""Pictures in a recorded video file, decoded in order when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from ...errors import ActionImgError, BadVideoError, MissingFrameError, SourceNotFoundError
from ...untrusted.pictures import sensible_size
from ...untrusted.videos import DECODER_OPTIONS, MAX_VIDEO_FRAMES, VIDEO_OPTIONS, check_mp4

_LIMITED, _FULL = 1, 2


@dataclass(frozen=True)
class VideoFile:
    """A `FrameSource` over a video file; picklable, and open only while its frames are read.

    Args:
        path: The file.
        count: Number of frames, counted.
        width: Picture width in pixels.
        height: Picture height in pixels.
        fps: Frames per second that the container states, or None where it states none.
    """

    path: str
    count: int
    width: int
    height: int
    fps: float | None

    @classmethod
    def probe(cls, path: str) -> VideoFile:
        """Count the frames of a video without decoding them.

        Raises:
            SourceNotFoundError: The file does not exist.
            BadVideoError: It is no video, has no frames, or cannot be read.
        """
        with _opened(path) as container:
            stream = container.streams.video[0]
            count = len(_time_stamps(container, stream, path))
            width, height = stream.codec_context.width, stream.codec_context.height
            if not sensible_size(width, height):
                raise BadVideoError("states an impossible picture size", where=path, found=f"{width}x{height}")
            rate = stream.average_rate
            return cls(path, count, width, height, float(rate) if rate else None)

    def __len__(self) -> int:
        return self.count

    def frames(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """RGB pictures ``(H, W, 3)`` uint8 at ``indices`` (increasing), decoding from the keyframe before the first.

        Raises:
            MissingFrameError: An index past the end.
            BadVideoError: The video is damaged, or ends before the frames it announces.
        """
        wanted = list(indices)
        if not wanted:
            return
        outside = next((i for i in wanted if not 0 <= i < self.count), None)
        if outside is not None:
            raise MissingFrameError("no such frame", where=self.path, expected=f"0 … {self.count - 1}", found=outside)
        with _opened(self.path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            stamps = _time_stamps(container, stream, self.path)
            if len(stamps) != self.count:
                raise BadVideoError("has changed", where=self.path, expected=self.count, found=len(stamps))
            container.seek(stamps[wanted[0]], stream=stream, backward=True)
            decoded = container.decode(stream)
            for index in wanted:
                frame = next((f for f in decoded if f.pts is not None and f.pts >= stamps[index]), None)
                if frame is None or frame.pts != stamps[index]:
                    raise BadVideoError(
                        "ends early or is damaged",
                        where=self.path,
                        expected=f"{self.count} frames",
                        field=f"frame {index}",
                    )
                yield self._rgb(frame)

    def _rgb(self, frame: Any) -> NDArray[np.uint8]:
        if (frame.width, frame.height) != (self.width, self.height):
            raise BadVideoError(
                "picture size changes",
                where=self.path,
                expected=f"{self.width}x{self.height}",
                found=f"{frame.width}x{frame.height}",
            )
        rgb = frame.reformat(
            format="rgb24",
            src_colorspace=frame.colorspace,
            src_color_range=_FULL if frame.color_range == _FULL else _LIMITED,
            interpolation="BICUBIC",
        )
        return np.asarray(rgb.to_ndarray(), np.uint8)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """The open container; ffmpeg's errors within come out as `BadVideoError`."""
    try:
        check_mp4(path, path)
        with av.open(path, options=VIDEO_OPTIONS) as container:
            if not container.streams.video:
                raise BadVideoError("has no video stream", where=path)
            context = container.streams.video[0].codec_context
            if context is None:
                raise BadVideoError("has no video stream that can be decoded", where=path)
            context.options = DECODER_OPTIONS
            yield container
    except FileNotFoundError:
        raise SourceNotFoundError("no such file", where=path) from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, ActionImgError):
            raise
        raise BadVideoError(f"cannot be read as a video: {error}", where=path) from None


def _time_stamps(container: Any, stream: Any, path: str) -> list[int]:
    """Time stamps of all frames in display order; nothing is decoded."""
    stamps: set[int] = set()
    for packet in container.demux(stream):
        if packet.size and packet.pts is not None and not packet.is_discard:
            stamps.add(packet.pts)
            if len(stamps) > MAX_VIDEO_FRAMES:
                raise BadVideoError("has too many frames", where=path, expected=f"≤ {MAX_VIDEO_FRAMES}")
    if not stamps:
        raise BadVideoError("has no frames", where=path)
    return sorted(stamps)

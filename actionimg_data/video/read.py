"""Read videos: whole, in chunks, or a window, with memory for no more frames than are asked for."""

from __future__ import annotations

import io
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import av.video.reformatter
import numpy as np
from numpy.typing import NDArray

from ..errors import (
    BadFileError,
    BadImageError,
    BadVideoError,
    MissingFrameError,
    SourceNotFoundError,
    UnsafeFileError,
)
from ..untrusted import pictures
from ..untrusted.files import open_plain, plain
from ..untrusted.pictures import SIZES, sensible_size
from ..untrusted.unpack import unzip
from ..untrusted.videos import DECODER_OPTIONS, MAX_VIDEO_FRAMES, VIDEO_OPTIONS, check_mp4
from .encode import INTERPOLATION, mask_ids

Image = NDArray[np.uint8]
Source = bytes | str | Path

_LIMITED, _FULL = 1, 2
_SOUGHT = ("mov", "matroska", "avi")
"""Containers with a table of keyframes; in others a search by time may end between two of them."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds: frames are counted, not taken from a header."""

    width: int
    height: int
    frames: int
    fps: float
    codec: str


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Where the frames of a video are, found without decoding one.

    Args:
        count: Number of frames.
        stamps: ``(count,)`` their time stamps in the order in which they are shown, in the stream's time base. None
            where the file has none that say which frame is which: frames are then counted as they are decoded.
        keys: Numbers of the frames at which decoding can begin.
        fps: Frames per second, 0 where the file does not say.
        second: Units of the time base in a second.
        turn: Degrees clockwise, a multiple of 90, by which frames are turned: as the file says they are to be shown.
    """

    count: int
    stamps: NDArray[np.int64] | None
    keys: NDArray[np.int64]
    fps: float
    second: Fraction = Fraction(1)
    turn: int = 0

    @property
    def times(self) -> NDArray[np.float64] | None:
        """``(count,)`` seconds at which the file says that each frame is shown, or None where it does not."""
        if self.stamps is None:
            return None
        return np.array([float(Fraction(int(stamp)) / self.second) for stamp in self.stamps])


class VideoReader(ABC):
    """Frames of one open video, RGB uint8 ``(H, W, 3)``."""

    info: VideoInfo
    index: FrameIndex | None = None

    @abstractmethod
    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """Pictures at ``indices``, which must increase; decoding starts at the keyframe before the first."""

    @abstractmethod
    def planes(self, kind: str, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Depth ``(H, W)`` uint16, or a mask ``(H, W)`` uint32, at ``indices``, which must increase."""

    @abstractmethod
    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_video(
    source: Source,
    name: object = None,
    *,
    counted: bool = False,
    index: FrameIndex | None = None,
    oriented: bool = False,
) -> VideoReader:
    """Open a video, or a zip of PNG pictures.

    Args:
        source: The bytes of a video, or a path.
        name: What to call it in an error, where ``source`` is bytes.
        counted: Take frames whose time stamps repeat in the order in which they are decoded.
        index: What was found when the same video was open before; it is not counted again.
        oriented: Turn frames as the file says that they are to be shown (its display matrix), as OpenCV and browsers
            do.

    Raises:
        SourceNotFoundError: The path does not exist.
        BadVideoError: Not a video, or none that can be read, or one whose time stamps repeat.
    """
    where = str(source) if not isinstance(source, bytes) else name
    if isinstance(source, bytes):
        file: Any = io.BytesIO(source)
        head = source[:4]
    else:
        try:
            with open_plain(source) as probe:
                head = probe.read(4)
        except FileNotFoundError:
            raise SourceNotFoundError("no such file", where=where) from None
        except OSError as error:
            raise BadVideoError(f"cannot be opened: {error.strerror or error}", where=where) from None
        file = str(source)
    return _ZipReader(file, where) if head == b"PK\x03\x04" else _AvReader(file, where, counted, index, oriented)


def read_frames(source: Source, indices: Sequence[int] | None = None, name: object = None) -> Image:
    """Pictures ``(n, H, W, 3)`` uint8 RGB at ``indices`` (any order, may repeat), or all of them.

    Raises:
        MissingFrameError: An index is past the end.
        BadVideoError: The video is damaged or truncated.
    """
    with open_video(source, name) as video:
        wanted = range(video.info.frames) if indices is None else indices
        order = sorted(set(wanted))
        place = {index: i for i, index in enumerate(order)}
        try:
            out = np.empty((len(order), video.info.height, video.info.width, 3), np.uint8)
        except MemoryError:
            raise BadVideoError(
                "does not fit into memory", where=name or source, found=f"{len(order)} frames"
            ) from None
        for i, picture in enumerate(video.frames(order)):
            out[i] = picture
    if indices is None or list(wanted) == order:
        return out
    return np.ascontiguousarray(out[[place[i] for i in wanted]])


def read_planes(source: Source, kind: str, indices: Sequence[int] | None = None, name: object = None) -> NDArray[Any]:
    """``depth`` ``(n, H, W)`` uint16 or ``mask`` ``(n, H, W)`` uint32 at ``indices`` (any order, may repeat), or all.

    Raises:
        MissingFrameError: An index is past the end.
        BadVideoError: The video is damaged or truncated, or holds something else.
    """
    with open_video(source, name) as video:
        wanted = list(range(video.info.frames) if indices is None else indices)
        order = sorted(set(wanted))
        out = np.empty((len(order), video.info.height, video.info.width), np.uint16 if kind == "depth" else np.uint32)
        for i, plane in enumerate(video.planes(kind, order)):
            out[i] = plane
    return out if wanted == order else out[np.searchsorted(order, wanted)]


def iter_chunks(source: Source, size: int, name: object = None) -> Iterator[Image]:
    """All pictures in order, ``(≤ size, H, W, 3)`` uint8 RGB at a time.

    Each chunk is an array of its own.
    """
    with open_video(source, name) as video:
        count, height, width = video.info.frames, video.info.height, video.info.width
        pictures = video.frames(range(count))
        for start in range(0, count, size):
            chunk = np.empty((min(size, count - start), height, width, 3), np.uint8)
            for i in range(len(chunk)):
                chunk[i] = next(pictures)
            yield chunk


class VideoFrames:
    """A `FrameSource` over a video file; picklable, counted once, and open only while its frames are read.

    Args:
        path: The file.
        counted: Take the pictures in the order in which they are decoded where the file's own time stamps repeat,
            instead of refusing it: for recordings whose pictures have their times elsewhere.
        oriented: Turn pictures as the file says that they are to be shown; else they are as they are stored.

    Attributes:
        turn: Degrees clockwise by which the file says that pictures are to be turned, whether they are or not.
        times: ``(N,)`` seconds of the file's own time stamps, or None where it has none.

    Raises:
        SourceNotFoundError: The file does not exist.
        BadVideoError: It is no video, has no frames, cannot be read, or its time stamps repeat.
    """

    def __init__(self, path: str | Path, counted: bool = False, oriented: bool = True) -> None:
        self.path = str(path)
        with open_video(self.path, counted=counted, oriented=True) as video:
            self.info = video.info
            self._index = video.index
        self.turn = 0 if self._index is None else self._index.turn
        self.times = None if self._index is None else self._index.times
        if self._index is not None and self.turn and not oriented:
            self._index = replace(self._index, turn=0)
            if self.turn % 180:
                self.info = replace(self.info, width=self.info.height, height=self.info.width)
        self._size = os.path.getsize(self.path)

    @property
    def width(self) -> int:
        """Picture width in pixels."""
        return self.info.width

    @property
    def height(self) -> int:
        """Picture height in pixels."""
        return self.info.height

    @property
    def fps(self) -> float | None:
        """Frames per second, or None where the file does not say."""
        return self.info.fps or None

    def __len__(self) -> int:
        return self.info.frames

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """RGB pictures ``(H, W, 3)`` at ``indices`` (increasing), one at a time, from the keyframe before the first.

        Raises:
            MissingFrameError: An index past the end.
            BadVideoError: The video is damaged, ends before the frames it announces, or is no longer the one counted.
        """
        if len(indices) == 0:
            return
        with open_video(self.path, index=self._index) as video:
            if os.path.getsize(self.path) != self._size:
                raise BadVideoError("has changed", where=self.path, expected=f"{self._size} bytes")
            yield from video.frames(indices)


def rgb_picture(reformatter: av.video.reformatter.VideoReformatter, frame: av.VideoFrame) -> Image:
    """RGB uint8 ``(H, W, 3)`` of a decoded frame, by the colours that it states."""
    rgb = reformatter.reformat(
        frame,
        format="rgb24",
        src_colorspace=frame.colorspace,
        src_color_range=_FULL if frame.color_range == _FULL else _LIMITED,
        interpolation=INTERPOLATION,
    )
    return np.asarray(rgb.to_ndarray(), np.uint8)


def _check_indices(indices: Sequence[int], count: int, where: object) -> None:
    previous = -1
    for index in indices:
        if not 0 <= index < count:
            raise MissingFrameError("no such frame", where=where, expected=f"0 … {count - 1}", found=index)
        if index <= previous:
            raise BadVideoError("frame indices must increase", where=where, found=f"{previous}, {index}")
        previous = index


def _check_size(width: int, height: int, where: object) -> None:
    if not sensible_size(width, height):
        raise BadVideoError("bad picture size", where=where, expected=SIZES, found=f"{width}x{height}")


class _AvReader(VideoReader):
    index: FrameIndex

    def __init__(self, file: Any, where: object, counted: bool, index: FrameIndex | None, oriented: bool) -> None:
        self._file, self._where = file, where
        self._convert = av.video.reformatter.VideoReformatter()
        try:
            check_mp4(file.getvalue() if isinstance(file, io.BytesIO) else file, where)
        except OSError as error:
            raise BadVideoError(f"cannot be opened as a video: {error}", where=where) from None
        self._open()
        try:
            context = self._stream.codec_context
            self.index = self._find(counted) if index is None else index
            if index is None and oriented:
                self.index = replace(self.index, turn=self._turn())
                context = self._stream.codec_context
            self._stored = (context.width, context.height)
            _check_size(*self._stored, where)
        except (av.error.FFmpegError, BadVideoError) as error:
            self.close()
            if isinstance(error, BadVideoError):
                raise
            raise BadVideoError(f"cannot be read: {error}", where=where) from None
        width, height = self._stored[::-1] if self.index.turn % 180 else self._stored
        self.info = VideoInfo(width, height, self.index.count, self.index.fps, context.codec.name)

    def _open(self) -> None:
        """Open the container at its beginning."""
        where = self._where
        try:
            if isinstance(self._file, io.BytesIO):
                self._file.seek(0)
            else:
                plain(self._file)
            self._container = av.open(self._file, options=VIDEO_OPTIONS)
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise BadVideoError(f"cannot be opened as a video: {error}", where=where) from None
        if not self._container.streams.video or self._container.streams.video[0].codec_context is None:
            self.close()
            raise BadVideoError("has no video stream that can be decoded", where=where)
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.options = DECODER_OPTIONS

    def _find(self, counted: bool) -> FrameIndex:
        stamps: list[int | None] = []
        keys: list[int] = []
        for packet in self._container.demux(self._stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if len(stamps) >= MAX_VIDEO_FRAMES:
                raise BadVideoError("too many frames", where=self._where, expected=f"≤ {MAX_VIDEO_FRAMES}")
            if packet.is_keyframe:
                keys.append(len(stamps))
            stamps.append(packet.pts)
        if not stamps:
            raise BadVideoError("has no frames", where=self._where)
        # For a stream without a container ffmpeg makes a rate up.
        stated = any(stamp is not None for stamp in stamps)
        rate = (self._stream.average_rate or self._stream.guessed_rate) if stated else None
        second = 1 / Fraction(self._stream.time_base) if self._stream.time_base else Fraction(1)
        found = FrameIndex(len(stamps), None, np.zeros(1, np.int64), float(rate) if rate else 0.0, second)
        known = [stamp for stamp in stamps if stamp is not None]
        # AVI states no time at which a frame is shown; with frames that are decoded before others they are guessed.
        guessed = self._container.format.name == "avi" and self._stream.codec_context.has_b_frames
        if guessed or len(known) < len(stamps):
            return found
        decoded = np.array(known, np.int64)
        shown = np.unique(decoded)
        if len(shown) == len(stamps):
            return replace(found, stamps=shown, keys=np.searchsorted(shown, np.unique(decoded[keys])))
        if counted:
            return found
        seen: set[int] = set()
        again = next(i for i, stamp in enumerate(known) if stamp in seen or seen.add(stamp))  # type: ignore[func-returns-value]
        raise BadVideoError(
            "frames have equal time stamps, so it cannot be told which is shown when",
            where=self._where,
            field=f"frame {again}",
            found=f"{float(known[again] * self._stream.time_base):g} s again",
            hint="A mapping file that takes the pictures' times from a column, or pairs rows and pictures, reads it.",
        )

    def _turn(self) -> int:
        """Degrees clockwise by which frames are to be turned; each carries the display matrix of the file."""
        self._restart()
        first = next(self._container.decode(self._stream), None)
        # ffmpeg counts counter-clockwise.
        degrees = 0 if first is None else -int(first.rotation) % 360
        if degrees % 90:
            raise BadVideoError(
                "is to be shown at an angle", where=self._where, expected="0 | 90 | 180 | 270", found=degrees
            )
        return degrees

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        return self._decoded(indices, self._rgb)

    def planes(self, kind: str, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
        wanted = "gray16le" if kind == "depth" else "bgr0"
        if self._stream.codec_context.pix_fmt != wanted:
            raise BadVideoError(
                f"holds no {kind}", where=self._where, expected=wanted, found=self._stream.codec_context.pix_fmt
            )
        if kind == "mask":
            return (mask_ids(picture) for picture in self.frames(indices))
        return self._decoded(indices, lambda frame: self._sized(frame).to_ndarray())

    def _decoded(self, indices: Sequence[int], picture: Callable[[av.VideoFrame], Any]) -> Iterator[Any]:
        _check_indices(indices, self.info.frames, self._where)
        numbered: Iterator[tuple[int, av.VideoFrame]] | None = None
        position = -1  # the frame decoded last
        try:
            for index in indices:
                before = self.index.keys[self.index.keys <= index]
                key = int(before[-1]) if len(before) else 0
                if numbered is None or key > position + 1:
                    numbered = self._numbered(key)
                for position, frame in numbered:
                    if position == index:
                        yield picture(frame)
                        break
                else:
                    raise BadVideoError(
                        "ends early", where=self._where, expected=f"{self.info.frames} frames", found=f"{index}"
                    )
            if numbered is not None and position == self.info.frames - 1 and self.index.stamps is None:
                self._check_end(numbered)
        except av.error.FFmpegError as error:
            raise BadVideoError(f"cannot be decoded: {error}", where=self._where) from None

    def _check_end(self, numbered: Iterator[tuple[int, av.VideoFrame]]) -> None:
        """Frames that are only counted have to be as many as the file has parts."""
        if next(numbered, None) is not None:
            raise BadVideoError("holds more frames than it states", where=self._where, expected=self.info.frames)

    def _numbered(self, key: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decoded frames with their numbers, from the keyframe ``key`` on; each has the stamp that comes next."""
        stamps = self.index.stamps
        if stamps is None:
            self._restart()
            yield from enumerate(self._container.decode(self._stream))
            return
        number = key
        begun = False
        for frame in self._from(int(stamps[key])):
            if not begun and (frame.pts is None or frame.pts < stamps[key]):
                continue
            begun = True
            if number >= len(stamps) or frame.pts != stamps[number]:
                raise BadVideoError("cannot be decoded", where=self._where, field=f"frame {number}")
            yield number, frame
            number += 1

    def _from(self, stamp: int) -> Iterator[av.VideoFrame]:
        """Decoded frames from one at or before ``stamp`` on."""
        if self._container.format.name.split(",")[0] in _SOUGHT:
            try:
                self._container.seek(stamp, stream=self._stream, backward=True)
                decoded = self._container.decode(self._stream)
                first = next(decoded, None)
            except av.error.FFmpegError:
                first = None
            # Containers look for the time of decoding, which may lead to a later keyframe.
            if first is not None and first.pts is not None and first.pts <= stamp:
                yield first
                yield from decoded
                return
        self._restart()
        yield from self._container.decode(self._stream)

    def _restart(self) -> None:
        self._container.close()
        self._open()

    def _sized(self, frame: av.VideoFrame) -> av.VideoFrame:
        if (frame.width, frame.height) != self._stored:
            raise BadVideoError(
                "picture size changes",
                where=self._where,
                expected=f"{self._stored[0]}x{self._stored[1]}",
                found=f"{frame.width}x{frame.height}",
            )
        return frame

    def _rgb(self, frame: av.VideoFrame) -> Image:
        picture = rgb_picture(self._convert, self._sized(frame))
        return np.ascontiguousarray(np.rot90(picture, -self.index.turn // 90)) if self.index.turn else picture

    def close(self) -> None:
        self._container.close()


class _ZipReader(VideoReader):
    def __init__(self, file: Any, where: object) -> None:
        self._where = where
        try:
            self._archive = zipfile.ZipFile(file if isinstance(file, io.BytesIO) else plain(file))
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise BadVideoError(f"cannot be opened as a zip of pictures: {error}", where=where) from None
        entries = self._archive.infolist()
        names = [entry.filename for entry in entries]
        if not names or names != [f"{i:06d}.png" for i in range(len(names))]:
            self.close()
            raise BadVideoError("is not a zip of pictures", where=where, expected="000000.png, 000001.png, …")
        # A stored zip cannot be a bomb; the pictures' own sizes are in their headers.
        bad = next((e for e in entries if e.compress_type != zipfile.ZIP_STORED), None)
        if bad is not None:
            self.close()
            raise BadVideoError("pictures must be stored, not compressed again", where=where, field=bad.filename)
        first = _png_header(self._read("000000.png"), where)
        self._size = (first.width, first.height)
        self.info = VideoInfo(*self._size, len(names), 0.0, "png")

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        _check_indices(indices, self.info.frames, self._where)
        for index in indices:
            name = f"{index:06d}.png"
            data = self._read(name)
            head = _png_header(data, self._where)
            if (head.width, head.height) != self._size:
                raise BadVideoError("picture size changes", where=self._where, field=name)
            try:
                yield pictures.decode(data, self._where, head=head)
            except BadImageError as error:
                raise BadVideoError(error.message, where=self._where, field=name) from None

    def planes(self, kind: str, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
        raise BadVideoError(f"holds no {kind}", where=self._where, expected="a video", found="a zip of pictures")

    def _read(self, name: str) -> bytes:
        try:
            return unzip(self._archive, self._archive.getinfo(name), self._where)
        except (BadFileError, UnsafeFileError) as error:
            raise BadVideoError(error.message, where=self._where, field=name) from None

    def close(self) -> None:
        self._archive.close()


def _png_header(data: bytes, where: object) -> pictures.PictureHeader:
    """What a PNG states, before anything is allocated for it."""
    try:
        head = pictures.picture_header(data, where)
    except BadImageError as error:
        raise BadVideoError(error.message, where=where, expected=error.expected, found=error.found) from None
    if head.kind != "png":
        raise BadVideoError("holds a picture that is no PNG", where=where, found=head.kind)
    return head

"""Videos as models leave them: MP4, MKV, WebM, GIF, a folder of pictures, or an array file; a path or a URL."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..converters.kit.frames import ImageFiles
from ..errors import BadVideoError, EmptyEpisodeError, InvalidArrayError, SourceNotFoundError
from ..shards import layout
from ..untrusted.arrays import load_npy
from ..video import VideoInfo, open_video
from ..video.read import VideoReader

PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp")
CHUNK_BYTES: Final = 48 << 20
_TOLERANCE: Final = 1e-3


class FolderReader(VideoReader):
    """Pictures of a folder, in the order of the numbers in their names."""

    def __init__(self, folder: Path) -> None:
        files = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file()]
        if not files:
            raise EmptyEpisodeError(
                "the folder holds no picture", where=folder, expected=" ".join(PICTURES), found="none"
            )
        self._frames = ImageFiles([str(path) for path in sorted(files, key=_number)], folder)
        self.info = VideoInfo(self._frames.width, self._frames.height, len(files), 0.0, "pictures")

    def frames(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Pictures at ``indices``."""
        return self._frames.frames(indices)

    def planes(self, kind: str, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Refused: pictures hold no depth or mask."""
        raise BadVideoError(f"holds no {kind}", found="a folder of pictures")

    def close(self) -> None:
        """Nothing is open."""


def chunks(reader: VideoReader, frames: range) -> Iterator[NDArray[Any]]:
    """Some pictures ``(n, H, W, 3)`` of a video at a time, so that memory stays flat; of an array, views of it."""
    info = reader.info
    size = max(1, min(200, math.ceil(CHUNK_BYTES / (3 * info.height * info.width))))
    if isinstance(reader, ArrayReader):
        for start in range(frames.start, frames.stop, size):
            yield reader.array[start : min(start + size, frames.stop)]
        return
    pictures = reader.frames(frames)
    while part := list(itertools.islice(pictures, size)):
        yield np.stack(part)


def _number(path: Path) -> tuple[int, str]:
    numbers = re.findall(r"\d+", path.stem)
    return (int(numbers[-1]) if numbers else -1, path.name)


class ArrayReader(VideoReader):
    """The pictures of an array ``(T, H, W, 3)``, uint8 or float in [0, 1]."""

    def __init__(self, array: Any, where: object) -> None:
        self.array = checked_pictures(array, where)
        count, height, width, _ = self.array.shape
        self.info = VideoInfo(width, height, count, 0.0, "array")

    def frames(self, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Pictures at ``indices``."""
        return (self.array[index] for index in indices)

    def planes(self, kind: str, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Refused: an array of pictures holds no depth or mask."""
        raise BadVideoError(f"holds no {kind}", found="an array of pictures")

    def close(self) -> None:
        """Nothing is open."""


def checked_pictures(array: Any, where: object) -> NDArray[Any]:
    """Pictures ``(T, H, W, 3)`` as numpy: uint8, or float in [0, 1]; a torch tensor is brought to the CPU.

    Raises:
        InvalidArrayError: Another shape or dtype, values that are not finite or outside [0, 1].
    """
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = array.float().numpy() if array.dtype.is_floating_point else array.numpy()
    pictures = np.asarray(array)
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or not all(pictures.shape):
        raise InvalidArrayError(
            "is no video", where=where, field="shape", expected="(T, H, W, 3)", found=pictures.shape
        )
    if pictures.dtype == np.uint8:
        return pictures
    if not np.issubdtype(pictures.dtype, np.floating):
        raise InvalidArrayError(
            "has the wrong dtype", where=where, field="dtype", expected="uint8, or float in [0, 1]",
            found=pictures.dtype,
        )  # fmt: skip
    low, high = float(pictures.min()), float(pictures.max())
    if not np.isfinite([low, high]).all():
        frame = int(np.argmax(~np.isfinite(pictures).all(axis=(1, 2, 3))))
        raise InvalidArrayError(
            "holds values that are not finite",
            where=where,
            field=f"frame {frame}",
            expected="0 … 1",
            found="NaN or inf",
        )
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise InvalidArrayError(
            "floats are outside [0, 1]",
            where=where,
            field="values",
            expected="0 … 1",
            found=f"{low:.3g} … {high:.3g}",
            hint="(x + 1) / 2 takes a model's [-1, 1] there." if low > -1.01 and high < 1.01 else None,
        )
    return pictures


def open_frames(source: str) -> VideoReader:
    """Open a video file, a folder of pictures or an ``.npy``.

    Args:
        source: A path, or a URL of a file.

    Raises:
        SourceNotFoundError: Nothing is there.
        EmptyEpisodeError: A folder holds no picture.
        BadVideoError, BadImageError, InvalidArrayError, BadFileError, UnsafeFileError: It is no video.
    """
    place = layout.place(source)
    if isinstance(place, Path):
        if place.is_dir():
            return FolderReader(place)
        if place.suffix.lower() != ".npy":
            return open_video(place)
    try:
        data = layout.read_place(place)
    except FileNotFoundError:
        raise SourceNotFoundError("no such file", where=source) from None
    if source.lower().endswith(".npy"):
        return ArrayReader(load_npy(data, source), source)
    return open_video(data, source)

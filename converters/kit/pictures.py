"""Pictures in numbered files, decoded only when they are asked for."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import BadImageError, FrameCountError, MissingFrameError
from ...untrusted import pictures
from ...untrusted.files import open_plain
from .frames import ImageFiles
from .tree import files_with_sizes


def png_size(path: str) -> tuple[int, int]:
    """Width and height that a PNG file's header states; nothing is decoded.

    Raises:
        MissingFrameError: The file does not exist.
        BadImageError: The file is no PNG, or states a size no camera has.
    """
    head = pictures.png_header(_read(path, 33), path)
    return head.width, head.height


def _read(path: str, count: int = -1) -> bytes:
    try:
        with open_plain(path) as file:
            return file.read(count)
    except FileNotFoundError:
        raise MissingFrameError("picture is missing", where=path) from None
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror}", where=path) from None


@dataclass(frozen=True)
class PngFrames:
    """A `FrameSource` over ``FOLDER/0.png``, ``1.png``, …; picklable, and holds no picture.

    Args:
        folder: The folder.
        count: Number of pictures.
        width: Picture width in pixels.
        height: Picture height in pixels.
        pattern: Name of a picture, with its number for ``{}``.
    """

    folder: str
    count: int
    width: int
    height: int
    pattern: str = "{}.png"

    def __len__(self) -> int:
        return self.count

    def frames(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """RGB pictures ``(H, W, 3)`` uint8 at ``indices``, one at a time.

        Raises:
            MissingFrameError: A file does not exist.
            BadImageError: A file is no PNG, is damaged, or has another size than the first.
        """
        for index in indices:
            path = os.path.join(self.folder, self.pattern.format(index))
            data = _read(path)
            head = pictures.png_header(data, path)
            size = (head.width, head.height)
            if size != (self.width, self.height):
                raise BadImageError(
                    "picture has another size than the first of its camera",
                    where=path,
                    expected=f"{self.width}x{self.height}",
                    found=f"{size[0]}x{size[1]}",
                )
            yield pictures.decode(data, path, head=head)


def numbered_pictures(folder: Path, pattern: str, count: int | None = None) -> ImageFiles:
    """The pictures of a folder, one a file, in the order of the numbers in their names.

    Args:
        folder: Where they lie.
        pattern: Of their names, e.g. ``rgb_*.png``; any kind of picture that OpenCV reads.
        count: How many there have to be, e.g. one for each pose; None for any number.

    Raises:
        MissingFrameError: No file matches, one in the middle is not there, or is gone when it is read.
        FrameCountError: There are more, or fewer.
        BadImageError: A file is no picture, is damaged, or has another size than the first.

    Example:
        ``numbered_pictures(episode / "front", "*.jpg", count=len(poses))``
    """
    names = [name for name, _ in files_with_sizes(folder) if fnmatch.fnmatchcase(name, pattern)]
    found = ImageFiles([str(folder / name) for name in names], f"{folder}/{pattern}")
    if count is not None and len(found) + found.names.count_missing == count and found.names.missing:
        raise MissingFrameError(
            "pictures are missing",
            where=f"{folder}/{pattern}",
            field="number " + ", ".join(map(str, found.names.missing[:5])),
            expected=f"{count} pictures",
            found=len(found),
        )
    if count is not None and len(found) != count:
        raise FrameCountError(
            "pictures and poses differ in number", where=f"{folder}/{pattern}", expected=count, found=len(found)
        )
    return found

"""Pictures as logs hold them: image files, arrays in HDF5; and what is done to them: cropping, flipping."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ActionImgError, BadImageError, MissingFrameError, WrongFormatError
from ...model import DerivedFrames, FrameSource, millimetres
from ...untrusted import hdf5, pictures
from ...untrusted.files import open_plain, read_bytes
from ...untrusted.pictures import sensible_size
from . import tables
from .names import ordered_names

Image = NDArray[np.uint8]
_MAX_PICTURE_BYTES = 1 << 28


@dataclass(frozen=True)
class CroppedFrames:
    """The box ``(left, top, width, height)`` of every picture of ``source``, e.g. one eye of a stereo picture."""

    source: FrameSource
    left: int
    top: int
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.source)

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """The pictures at ``indices``."""
        rows = slice(self.top, self.top + self.height)
        columns = slice(self.left, self.left + self.width)
        for picture in self.source.frames(indices):
            yield np.ascontiguousarray(picture[rows, columns])


def flipped(picture: NDArray[Any], flip: str) -> NDArray[Any]:
    """A picture ``(H, W, ...)`` turned over: ``none``, ``vertical``, ``horizontal`` or ``both``."""
    rows = slice(None, None, -1 if flip in ("vertical", "both") else 1)
    columns = slice(None, None, -1 if flip in ("horizontal", "both") else 1)
    return np.ascontiguousarray(picture[rows, columns])


@dataclass(frozen=True, eq=False)
class FlippedFrames(DerivedFrames):
    """Pictures that are stored flipped, the right way round: ``vertical``, ``horizontal`` or ``both``."""

    flip: str

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """The pictures at ``indices``."""
        for picture in self.source.frames(indices):
            yield flipped(picture, self.flip)


@dataclass(frozen=True, eq=False)
class SwappedFrames(DerivedFrames):
    """Pictures whose red and blue are swapped, swapped back: what OpenCV encodes of RGB that it takes for BGR."""

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """The pictures at ``indices``."""
        for picture in self.source.frames(indices):
            yield np.ascontiguousarray(picture[..., ::-1])


def turned(picture: NDArray[Any], degrees: int) -> NDArray[Any]:
    """A picture ``(H, W, ...)`` turned clockwise by 0, 90, 180 or 270 degrees."""
    return np.ascontiguousarray(np.rot90(picture, -degrees // 90))


@dataclass(frozen=True, eq=False)
class TurnedFrames(DerivedFrames):
    """Pictures turned clockwise by 90, 180 or 270 degrees, for a camera that was mounted so."""

    degrees: int

    @property
    def width(self) -> int:
        """Picture width in pixels, after the turn."""
        return self.source.height if self.degrees % 180 else self.source.width

    @property
    def height(self) -> int:
        """Picture height in pixels, after the turn."""
        return self.source.width if self.degrees % 180 else self.source.height

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """The pictures at ``indices``."""
        for picture in self.source.frames(indices):
            yield turned(picture, self.degrees)


class ImageFiles:
    """Pictures in files, one a frame, in the order that their names say (`names.ordered_names`).

    Args:
        paths: The files.
        where: For errors.
        oriented: Turn pictures as their EXIF orientation says, as OpenCV and browsers do.

    Raises:
        MissingFrameError: No file, or one that is gone when it is read.
        BadImageError: A file that is no picture, or has another size than the first.
        AmbiguousSourceError: The names do not say in which order the pictures are.
    """

    def __init__(self, paths: Sequence[str], where: object, oriented: bool = True) -> None:
        if not paths:
            raise MissingFrameError("no picture matches", where=where)
        self.names = ordered_names(paths, where)
        self.paths, self.oriented = self.names.paths, oriented
        first = self._read(self.paths[0])
        self.height, self.width = first.shape[:2]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def turned(self) -> bool:
        """Whether the first picture's EXIF orientation turns it, applied or not."""
        return pictures.orientation(read_bytes(self.paths[0], _MAX_PICTURE_BYTES)) != 1

    def _read(self, path: str) -> Image:
        try:
            with open_plain(path) as file:
                data = file.read(min(os.fstat(file.fileno()).st_size, _MAX_PICTURE_BYTES) + 1)
            if len(data) > _MAX_PICTURE_BYTES:
                raise BadImageError("is too large for a picture", where=path, expected=f"≤ {_MAX_PICTURE_BYTES} bytes")
        except FileNotFoundError:
            raise MissingFrameError("picture is missing", where=path) from None
        except OSError as error:
            raise BadImageError(f"cannot be read: {error.strerror}", where=path) from None
        return pictures.decode(data, path, oriented=self.oriented)

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """The pictures at ``indices``."""
        for i in indices:
            picture = self._read(self.paths[i])
            if picture.shape[:2] != (self.height, self.width):
                raise BadImageError(
                    "has another size than the first picture of its view",
                    where=self.paths[i],
                    expected=f"{self.width}x{self.height}",
                    found=f"{picture.shape[1]}x{picture.shape[0]}",
                )
            yield picture


class HDF5Frames:
    """Pictures in one data set of an HDF5 file: ``(T, H, W, 3)`` uint8 RGB, or encoded, one a row.

    Raises:
        WrongFormatError: The data set holds neither.
        BadImageError: A row cannot be decoded.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        with hdf5.open_hdf5(path) as file:
            found = hdf5.dataset(file, name)
            self.encoded = found.dtype.kind in "SO" or found.ndim in (1, 2)
            rgb = found.ndim == 4 and found.shape[3] == 3 and found.dtype == np.uint8
            if rgb and not sensible_size(int(found.shape[2]), int(found.shape[1])):
                raise BadImageError("states an impossible size", where=f"{path}#{name}", found=found.shape)
            if not (rgb or self.encoded) or found.shape in (None, ()) or len(found) == 0:
                raise WrongFormatError(
                    "does not hold pictures",
                    where=f"{path}#{name}",
                    expected="(T, H, W, 3) uint8, or encoded pictures",
                    found=f"{found.shape} {found.dtype}",
                )
            self.count = len(found)
            if rgb:
                self.height, self.width = int(found.shape[1]), int(found.shape[2])
            else:
                self.height, self.width = self._decode(self._row(found, 0), 0).shape[:2]

    def _row(self, found: Any, index: int) -> Any:
        try:
            return found[index]
        except hdf5.DAMAGED as error:
            raise BadImageError(f"is damaged: {error}", where=f"{self.path}#{self.name}[{index}]") from None

    def __len__(self) -> int:
        return self.count

    def _decode(self, row: object, index: int) -> Image:
        # Fixed-length rows are padded with zeros behind the picture.
        data = row if isinstance(row, bytes) else np.asarray(row).tobytes().rstrip(b"\0")
        return pictures.decode(data, f"{self.path}#{self.name}[{index}]", oriented=True)

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """The pictures at ``indices``."""
        with hdf5.open_hdf5(self.path) as file:
            found = hdf5.dataset(file, self.name)
            for i in indices:
                row = self._row(found, i)
                picture = self._decode(row, i) if self.encoded else np.asarray(row)
                if picture.shape[:2] != (self.height, self.width):
                    raise BadImageError("has another size than the first", where=f"{self.path}#{self.name}[{i}]")
                yield picture


class HDF5Depth:
    """Depth in one data set ``(T, H, W)`` or ``(T, H, W, 1)``, as `actionimg_data.model.FrameSource`.

    Args:
        path: The HDF5 file.
        name: Of the data set.
        flipped: It is stored upside down.
        unit_m: Metres that a value of one means: 1, or 0.001 of millimetres, which may be whole numbers.

    Raises:
        WrongFormatError: The data set holds no such numbers.
    """

    def __init__(self, path: Path, name: str, flipped: bool = False, unit_m: float = 1.0) -> None:
        self.path, self.name, self.flipped, self.unit_m = path, name, flipped, unit_m
        kinds = "f" if unit_m == 1.0 else "fiu"
        with hdf5.open_hdf5(path) as file:
            found = hdf5.dataset(file, name)
            shape = tuple(map(int, found.shape))
            if found.dtype.kind not in kinds or len(shape) not in (3, 4) or shape[3:] not in ((), (1,)):
                raise WrongFormatError(
                    f"does not hold depth in {'metres' if unit_m == 1.0 else 'millimetres'}",
                    where=f"{path}#{name}",
                    expected=f"(T, H, W) or (T, H, W, 1) of a {'float' if unit_m == 1.0 else 'numeric'} type",
                    found=f"{shape} {found.dtype}",
                )
            self.count, self.height, self.width = shape[:3]

    def __len__(self) -> int:
        return self.count

    def frames(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint16]]:
        """Depth ``(H, W)`` in millimetres at ``indices``."""
        with hdf5.open_hdf5(self.path) as file:
            found = hdf5.dataset(file, self.name)
            for i in indices:
                try:
                    stored = np.asarray(found[i]).reshape(self.height, self.width)
                except (OSError, RuntimeError) as error:
                    raise BadImageError(f"is damaged: {error}", where=f"{self.path}#{self.name}[{i}]") from None
                metres = stored if self.unit_m == 1.0 else stored * self.unit_m
                yield np.ascontiguousarray(millimetres(metres[::-1] if self.flipped else metres))


class ZarrFrames:
    """Pictures in one zarr array, ``(T, H, W, 3)`` uint8 RGB.

    Raises:
        WrongFormatError: There is no such array, or it holds no pictures.
        BadImageError: A chunk cannot be decoded, e.g. for lack of its codec.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        array = self._array()
        shape = tuple(map(int, array.shape))
        if len(shape) != 4 or shape[3] != 3 or array.dtype != np.uint8 or shape[0] == 0:
            raise WrongFormatError(
                "does not hold pictures",
                where=f"{path}#{name}",
                expected="(T, H, W, 3) uint8",
                found=f"{shape} {array.dtype}",
            )
        self.count, self.height, self.width = shape[:3]
        if not sensible_size(self.width, self.height):
            raise BadImageError("states an impossible size", where=f"{path}#{name}", found=shape)
        tables.check_zarr_array(array, f"{path}#{name}")

    def __len__(self) -> int:
        return self.count

    def _array(self) -> Any:
        arrays = tables.zarr_arrays(tables.open_zarr(self.path))
        if self.name not in arrays:
            raise WrongFormatError("has no such array", where=self.path, expected=" | ".join(arrays), found=self.name)
        return arrays[self.name]

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """The pictures at ``indices``."""
        array = self._array()
        for i in indices:
            try:
                picture = np.asarray(array[i])
            except ActionImgError:
                raise
            except tables.ZARR_DAMAGED as error:
                raise BadImageError(f"cannot be read: {error}", where=f"{self.path}#{self.name}[{i}]") from None
            yield picture

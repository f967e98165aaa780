"""COLMAP's models, as text and as binary: ``cameras`` and the ``images`` that were taken with them.

Both are described in COLMAP's documentation ("Output Format"), the numbers of camera models in its
``src/colmap/sensor/models.h``. Everything binary is little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from ..errors import InvalidCameraError, WrongFormatError
from ..geometry import rotations, transforms
from ..untrusted.files import read_bytes
from .calibrated import CalibratedCamera, Distortion

CAMERAS: Final = ("cameras.txt", "cameras.bin")
IMAGES: Final = ("images.txt", "images.bin")
MAX_BYTES: Final = 1 << 30
"""``images`` lists every point that every picture shows."""
_MAX_NAME: Final = 4096


class _Model(NamedTuple):
    """A camera model: where fx fy cx cy are among its parameters, and which of OpenCV's lenses it is, if any."""

    name: str
    parameters: int
    K: tuple[int, int, int, int] | None = None
    lens: str = ""
    coefficients: tuple[int, ...] = ()


_MODELS: Final = (
    _Model("SIMPLE_PINHOLE", 3, (0, 0, 1, 2)),
    _Model("PINHOLE", 4, (0, 1, 2, 3)),
    _Model("SIMPLE_RADIAL", 4, (0, 0, 1, 2), "pinhole", (3, -1, -1, -1)),
    _Model("RADIAL", 5, (0, 0, 1, 2), "pinhole", (3, 4, -1, -1)),
    _Model("OPENCV", 8, (0, 1, 2, 3), "pinhole", (4, 5, 6, 7)),
    _Model("OPENCV_FISHEYE", 8, (0, 1, 2, 3), "fisheye", (4, 5, 6, 7)),
    _Model("FULL_OPENCV", 12, (0, 1, 2, 3), "pinhole", (4, 5, 6, 7, 8, 9, 10, 11)),
    _Model("FOV", 5),
    _Model("SIMPLE_RADIAL_FISHEYE", 4),
    _Model("RADIAL_FISHEYE", 5),
    _Model("THIN_PRISM_FISHEYE", 12),
)
"""By their number in binary files."""


class _Image(NamedTuple):
    name: str
    camera: str
    pose: tuple[float, ...]
    """qw qx qy qz tx ty tz, world to camera."""


def colmap(path: Path, keyed: Callable[[Path], str] = lambda name: name.stem) -> dict[str, CalibratedCamera]:
    """The cameras of a model's file.

    COLMAP has the centre of the first pixel at 0.5; its poses are world-to-camera in a world, and a scale, of its own.

    Args:
        path: ``cameras.txt`` or ``.bin``: cameras by their number, without poses. ``images.txt`` or ``.bin`` beside
            one: cameras by ``keyed`` of a picture's name, with its pose.
        keyed: What a picture's camera is called; its name without folders and ending.

    Raises:
        SourceNotFoundError: Beside ``images`` are no ``cameras``.
        WrongFormatError: A line, or a byte, that is none of COLMAP's.
        InvalidCameraError: A camera model that is not one of OpenCV's.
    """
    binary = path.suffix == ".bin"
    intrinsics = path.with_name(CAMERAS[binary])
    cameras = dict(_cameras_binary(intrinsics) if binary else _cameras_text(intrinsics))
    if path.name not in IMAGES:
        return cameras
    found = {}
    for image in _images_binary(path) if binary else _images_text(path):
        if image.camera not in cameras:
            raise WrongFormatError(
                "names a camera that is not beside it", where=path, field=image.name, found=image.camera
            )
        qw, qx, qy, qz, *origin = image.pose
        rotation = rotations.matrix_from_quaternion(rotations.normalize(np.array([qx, qy, qz, qw])))
        world = np.asarray(transforms.invert(transforms.make_transform(rotation, np.array(origin))))
        found[keyed(Path(image.name))] = replace(cameras[image.camera], world_from_camera=world)
    return found


def _camera(model: str, width: int, height: int, p: list[float], path: Path) -> CalibratedCamera:
    known = {one.name: one for one in _MODELS if one.K is not None}
    if model not in known:
        raise InvalidCameraError(
            "this camera model is not supported",
            where=path,
            expected=" | ".join(known),
            found=model,
            hint="colmap image_undistorter writes pictures and cameras without distortion.",
        )
    one = known[model]
    if one.K is None or len(p) < one.parameters:
        raise WrongFormatError("has too few parameters", where=path, expected=one.parameters, found=len(p))
    fx, fy, cx, cy = (p[i] for i in one.K)
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    lens = Distortion(one.lens, tuple(p[i] if i >= 0 else 0.0 for i in one.coefficients)) if one.lens else None
    return CalibratedCamera(K, width, height, distortion=lens, pixel_centre=0.5)


# ---- text ----------------------------------------------------------------------------------------------------------


def _cameras_text(path: Path) -> Iterator[tuple[str, CalibratedCamera]]:
    for line in _lines(path):
        try:
            number, model, width, height, *numbers = line.split()
            size, parameters = (int(width), int(height)), [float(n) for n in numbers]
        except ValueError:
            raise WrongFormatError("is not COLMAP's cameras.txt", where=path, found=line) from None
        yield number, _camera(model, *size, parameters, path)


def _images_text(path: Path) -> Iterator[_Image]:
    # Every second line lists points, or is empty.
    for line in _lines(path)[::2]:
        # A name may hold blanks.
        parts = line.split(maxsplit=9)
        try:
            yield _Image(parts[9].rstrip(), parts[8], tuple(float(n) for n in parts[1:8]))
        except (IndexError, ValueError):
            raise WrongFormatError("is not COLMAP's images.txt", where=path, found=line) from None


def _lines(path: Path) -> list[str]:
    lines = read_bytes(path, MAX_BYTES).decode("utf-8", "replace").splitlines()
    return [line for line in lines if not line.startswith("#")]


# ---- binary --------------------------------------------------------------------------------------------------------


class _Bytes:
    """A binary file, read from its front."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.place = path, read_bytes(path, MAX_BYTES), 0

    def take(self, layout: str) -> tuple[float, ...]:
        size = struct.calcsize(f"<{layout}")
        if self.place + size > len(self.data):
            raise self.bad("ends too early")
        values = struct.unpack_from(f"<{layout}", self.data, self.place)
        self.place += size
        return values

    def name(self) -> str:
        end = self.data.find(b"\0", self.place, self.place + _MAX_NAME)
        if end < 0:
            raise self.bad("holds a name without an end")
        text = self.data[self.place : end].decode("utf-8", "replace")
        self.place = end + 1
        return text

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.place:
            raise self.bad("ends too early")
        self.place += size

    def records(self) -> Iterator[int]:
        """Count the records that the file says it has; there must be nothing behind them."""
        (count,) = self.take("Q")
        yield from range(int(count))
        if self.place != len(self.data):
            raise self.bad("has bytes behind its last record")

    def bad(self, what: str) -> WrongFormatError:
        found = f"{self.place} of {len(self.data)} bytes"
        return WrongFormatError(f"{what}: is not COLMAP's {self.path.name}", where=self.path, found=found)


def _cameras_binary(path: Path) -> Iterator[tuple[str, CalibratedCamera]]:
    file = _Bytes(path)
    for _ in file.records():
        number, model, width, height = map(int, file.take("iiQQ"))
        if not 0 <= model < len(_MODELS):
            raise file.bad(f"has a camera model {model}")
        parameters = file.take(f"{_MODELS[model].parameters}d")
        yield str(number), _camera(_MODELS[model].name, width, height, list(parameters), path)


def _images_binary(path: Path) -> Iterator[_Image]:
    file = _Bytes(path)
    for _ in file.records():
        _, *pose, camera = file.take("I7dI")
        name = file.name()
        (points,) = file.take("Q")
        # x, y and the point's number.
        file.skip(24 * int(points))
        yield _Image(name, str(int(camera)), tuple(pose))

"""Converters of HDF5 files with an episode for each file, or several, in which rows belong together."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from ...cameras.files import OPENCV_FROM_OPENGL, CalibratedCamera
from ...errors import ActionImgError, InvalidCameraError, WrongFormatError
from ...geometry import exact, transforms
from ...model import Episode, EpisodeRef
from ...untrusted import hdf5
from ..base import Detection
from ..kit.detection import HDF5_ENDINGS, detect_hdf5
from ..kit.tree import file_stamp, plain_id
from .episode import assemble
from .recording import Recording
from .rows import RowConverter, log_files, numbers_nd

FloatArray = NDArray[np.float64]


class HDF5FileConverter(RowConverter):
    """Base of converters of HDF5 files: each of them is listed once, and is again when it was touched."""

    place: ClassVar[str] = "episode"
    """What an episode's name within its file goes by in references."""
    unreadable: ClassVar[str] = ""
    """The name that stands for the episodes of a file that cannot be read, until it is refused."""

    _listed: tuple[tuple[Any, ...], dict[str, int | None]] | None = None
    """The file that was listed last, as it was then, and its episodes."""

    @abstractmethod
    def recording(self, ref: EpisodeRef) -> Recording:
        """Everything that the file says of an episode."""

    @abstractmethod
    def _rows(self, path: Path) -> dict[str, int | None]:
        """The episodes of a file with their lengths; empty where it is of another format."""

    @abstractmethod
    def _nothing(self, source: str, paths: list[Path]) -> WrongFormatError:
        """The error where no file holds an episode."""

    def _state(self, stamp: str, path: Path, rows: Mapping[str, int | None]) -> str:
        """What changes when the file does, or the options' files (``stamp``)."""
        return hashlib.sha256(f"{stamp} {file_stamp(path)} {rows}".encode()).hexdigest()[:16]

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """One reference for each episode of each file, in natural order."""
        root, paths = log_files(source, HDF5_ENDINGS, "HDF5 file")
        stamp = self.stamp()
        count = 0
        for path in paths:
            try:
                rows = self._rows(path)
            except ActionImgError:
                if len(paths) == 1:
                    raise
                # It is refused when its turn comes; the other files are not to suffer.
                rows = {self.unreadable: None}
            relative = path.relative_to(root).as_posix()
            state = self._state(stamp, path, rows)
            for name, length in rows.items():
                count += 1
                stem = relative.rsplit(".", 1)[0]
                yield EpisodeRef(
                    plain_id(f"{stem}/{name}" if name else stem),
                    {"source": str(root), "path": relative, self.place: name},
                    num_frames=length,
                    fingerprint=state,
                )
        if count == 0:
            raise self._nothing(source, paths)

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """The episode's fingerprint as its files are now."""
        path = Path(ref.location["source"]) / ref.location["path"]
        found = path.stat()
        key = (str(path), found.st_size, found.st_mtime_ns, found.st_ino)
        if self._listed is None or self._listed[0] != key:
            # The file may hold many: it is listed again only where it was touched.
            self._listed = key, self._rows(path)
        return self._state(self.stamp(), path, self._listed[1])

    def read(self, ref: EpisodeRef) -> Episode:
        """One episode; its pictures are read when asked for."""
        return assemble(self.recording(ref))


class HDF5RowConverter(HDF5FileConverter):
    """Base of converters of such files: finding them, telling them apart, and their fingerprints.

    A subclass says what it recognises (`layout`), which episodes a file holds (`episodes`), and reads one
    (`recording`).
    """

    expected: ClassVar[str]
    """What a file of the format holds, for the error where none is found."""

    @classmethod
    @abstractmethod
    def layout(cls, file: h5py.File) -> str | None:
        """A word on the layout where the file is of this format."""

    @classmethod
    @abstractmethod
    def episodes(cls, file: h5py.File) -> dict[str, int | None]:
        """The episodes of a file of this format, in order, with their pictures; ``""`` names the only one."""

    @classmethod
    def sibling(cls, file: h5py.File) -> str | None:
        """What a file is that looks much like this format and is not, for the error."""
        return None

    def beside(self, path: Path) -> list[Path]:
        """Further files that say something of a file's episodes; they need not exist."""
        return []

    def remote_headers(self) -> tuple[str, ...]:
        """None: HDF5 files are opened in ranges, or fetched, one by one."""
        return ()

    def remote_files(self, location: Mapping[str, Any]) -> list[Path]:
        """The episode's file, and what is beside it."""
        path = Path(location["source"]) / location["path"]
        return [path, *self.beside(path)]

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether the first HDF5 file at or below ``source`` is of this format."""

        def look(file: h5py.File, path: Path) -> Detection | None:
            found = cls.layout(file)
            count = 0 if found is None else len(cls.episodes(file))
            return None if found is None else Detection(found, f"{path.name}: {count} episode{'s' * (count != 1)}")

        return detect_hdf5(source, look)

    def _nothing(self, source: str, paths: list[Path]) -> WrongFormatError:
        seen = self._seen(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        return WrongFormatError(f"no {self.name} episode found", where=source, expected=self.expected, found=seen)

    def _seen(self, path: Path) -> str:
        """A file of another format, in words."""
        with hdf5.open_hdf5(path) as file:
            known = self.sibling(file)
        return path.name if known is None else f"{path.name}, {known}"

    def _rows(self, path: Path) -> dict[str, int | None]:
        """The episodes of a file with their lengths; empty where it is of another format."""
        with hdf5.open_hdf5(path) as file:
            return {} if self.layout(file) is None else self.episodes(file)

    def _state(self, stamp: str, path: Path, rows: Mapping[str, int | None]) -> str:
        others = [file_stamp(other) if other.is_file() else "" for other in self.beside(path)]
        return hashlib.sha256(f"{stamp} {file_stamp(path)} {others} {rows}".encode()).hexdigest()[:16]


def sapien_camera(
    group: h5py.Group, intrinsics: str, pose: str, form: str, size: tuple[int, int], rows: int, where: str
) -> CalibratedCamera:
    """The camera of a SAPIEN recording (ManiSkill, RoboTwin), which states it for each row.

    Args:
        group: The camera's group.
        intrinsics: Data set of K ``(T, 3, 3)``, pixel centres at + 0.5.
        pose: Data set of its pose ``(T, 3 or 4, 4)``.
        form: ``extrinsic_cv``, world to camera with OpenCV's axes, or ``cam2world_gl``, camera to world with OpenGL's.
        size: Width and height of the pictures.
        rows: T.
        where: For errors.

    Raises:
        WrongFormatError: A data set is missing, or of another shape.
        InvalidCameraError: K changes, or is of pictures of another size.
    """
    K = numbers_nd(group, intrinsics, where, (rows, 3, 3))
    matrix = numbers_nd(group, pose, where, (rows, None, 4))
    if matrix.shape[1] not in (3, 4):
        raise WrongFormatError(
            "has the wrong shape", where=where, field=pose, expected=f"({rows}, 3 or 4, 4)", found=matrix.shape
        )
    if np.abs(K - K[0]).max() > 1e-6 * np.abs(K[0]).max():
        raise InvalidCameraError("changes its focal length, which is not supported", where=where, field=intrinsics)
    if abs(2 * K[0, 0, 2] - size[0]) > 1 or abs(2 * K[0, 1, 2] - size[1]) > 1:
        raise InvalidCameraError(
            "the camera is for pictures of another size",
            where=where,
            field=intrinsics,
            expected=f"{2 * K[0, 0, 2]:g}x{2 * K[0, 1, 2]:g}",
            found=f"{size[0]}x{size[1]}",
        )
    if form == "cam2world_gl":
        world_from_camera = np.asarray(exact.matmul(matrix, OPENCV_FROM_OPENGL))
    else:
        camera_from_world = np.tile(np.eye(4), (rows, 1, 1))
        camera_from_world[:, :3] = matrix[:, :3]
        world_from_camera = np.asarray(transforms.invert(camera_from_world))
    return CalibratedCamera(K[0], *size, world_from_camera, pixel_centre=0.5)

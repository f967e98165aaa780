"""What logs without stamps have in common: row i of every stream belongs to picture i, and the user states the rest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...cameras import files as calibration
from ...cameras.files import CalibratedCamera
from ...cameras.transforms import TRANSFORM_FORMS, parse_transform, transform_file
from ...errors import (
    AmbiguousSourceError,
    FrameCountError,
    InvalidSpecError,
    InvalidTextError,
    SourceNotFoundError,
    WrongFormatError,
    suggestion,
)
from ...schemas.mapping import Gripper, Rotation
from ...untrusted import hdf5
from ...untrusted.files import read_bytes
from ..base import Converter, ConverterOptions
from ..kit.tree import natural_key, some_files
from . import streams
from .sync import PoseSamples

FloatArray = NDArray[np.float64]


class RowOptions(ConverterOptions):
    """Options that all converters of logs without stamps share."""

    fps: float | None = Field(None, gt=0, le=1000, description="rows per second, where the log does not say")
    instruction: str | None = Field(
        None, description="what the demonstrations do, in words, where the log does not say"
    )
    tool_from_gripper: str | None = Field(
        None,
        description="the gripper (origin between the fingertips, +z approach, fingers open along +-y) in the frame "
        f"that the poses are of, where it is not known: {TRANSFORM_FORMS}",
    )
    camera_file: str | None = Field(
        None, description="camera file by view (docs/mapping.md), used before all other calibration"
    )
    only_views: tuple[str, ...] = Field((), description="views to read (default: all)")
    poses_only: bool = Field(False, description="no calibration: pictures and trajectory, but no action images")


class QuaternionOptions(RowOptions):
    """Options of such logs that hold quaternions in an order which their makers are known to confuse."""

    quaternion_order: Literal["wxyz", "xyzw"] | None = Field(
        None, description="order of the quaternions, where it was looked at; it is not asked about then"
    )


class RowConverter(Converter):
    """Base of the converters of such logs."""

    views_field = "only_views"

    def __init__(self, options: ConverterOptions | None = None) -> None:
        super().__init__(options)
        self._cameras: dict[str, CalibratedCamera] | None = None

    def remote_headers(self) -> tuple[str, ...]:
        """What stands beside the logs; HDF5 and zarr files are fetched, or read in ranges, as they are opened."""
        return ("*.json", "*.yaml", "*.yml", "*.txt")

    def given_cameras(self) -> Mapping[str, CalibratedCamera]:
        """The cameras of the user's camera file, read once; empty without one."""
        if self._cameras is None:
            path = self.options.camera_file
            self._cameras = {} if path is None else calibration.load_cameras(Path(path))
        return self._cameras

    def option_files(self) -> list[Path]:
        """Files that options name, whose contents are part of an episode's fingerprint."""
        named = [self.options.camera_file, transform_file(self.options.tool_from_gripper)]
        return [Path(name) for name in named if name is not None]

    def stamp(self) -> str:
        """What changes when a file that an option names does."""
        digest = hashlib.sha256()
        for path in self.option_files():
            digest.update(read_bytes(path) if path.is_file() else b"\0")
        return digest.hexdigest()

    def tool(self, known: FloatArray | None, where: object, why: str) -> FloatArray:
        """``tool_from_gripper``: the user's, else the known one.

        Raises:
            AmbiguousSourceError: Neither; ``why`` says what would have had to be known.
        """
        if self.options.tool_from_gripper is not None:
            return parse_transform(self.options.tool_from_gripper, "tool_from_gripper")
        if known is None:
            raise AmbiguousSourceError(
                why,
                where=where,
                field="tool_from_gripper",
                expected="--tool-from-gripper FILE.yaml or '{translation: [...], euler_xyz_deg: [...]}'",
                hint="Check it by looking: actionimg render SOURCE.",
            )
        return known

    def quaternion_poses(
        self, times: FloatArray, values: FloatArray, known: str, where: object
    ) -> tuple[PoseSamples, Rotation]:
        """Poses of rows ``(T, 7)`` of position and quaternion, and what is to be asked about their order.

        Args:
            times: ``(T,)`` seconds.
            values: ``(T, 7)``.
            known: The order in which the format has the quaternion, ``xyzw`` or ``wxyz``.
            where: For errors.
        """
        given = getattr(self.options, "quaternion_order", None)
        rotation = Rotation(columns=("quaternion",), form="quaternion", order=given or known, checked=given is not None)
        q = streams.quaternions(values[:, 3:], "quaternion", rotation.order, None, where)
        return PoseSamples(times, values[:, :3], q), rotation

    def fps(self, known: object, where: object, hint: str) -> float:
        """Rows per second: the user's, else what the log says.

        Raises:
            AmbiguousSourceError: Neither.
        """
        if self.options.fps is not None:
            return float(self.options.fps)
        if isinstance(known, (int, float)) and not isinstance(known, bool) and np.isfinite(known) and known > 0:
            return float(known)
        raise AmbiguousSourceError(
            "does not say how many rows a second has", where=where, field="fps", expected="--fps RATE", hint=hint
        )

    def instructions(self, known: Sequence[str], where: object) -> tuple[str, ...]:
        """The user's instruction, else those of the log.

        Raises:
            InvalidTextError: Neither.
        """
        texts = [self.options.instruction] if self.options.instruction is not None else list(known)
        texts = [" ".join(t.split()) for t in texts if t and t.strip()]
        if not texts:
            raise InvalidTextError(
                "has no instruction", where=where, field="instruction", expected="--instruction TEXT"
            )
        return tuple(dict.fromkeys(texts))

    def open_questions(self, **known: bool) -> list[str]:
        """The options that have still to be given: those of ``known`` that the log does not answer, nor the user."""
        asked = [name for name, answered in known.items() if not answered and not getattr(self.options, name)]
        asked = [name for name in asked if name != "camera_file" or not self.options.poses_only]
        return ["--" + name.replace("_", "-") for name in asked]

    def chosen_views(self, found: Sequence[str], where: object) -> list[str]:
        """The views asked for; all that were found where none are.

        Raises:
            WrongFormatError: One that does not exist, or no view at all.
        """
        wanted = list(self.options.only_views) or list(found)
        missing = [name for name in wanted if name not in found]
        if missing or not wanted:
            raise WrongFormatError(
                "has no such view" if missing else "has no pictures",
                where=where,
                field="views",
                expected=" | ".join(found) or "pictures",
                found=", ".join(missing) or None,
                hint=suggestion(missing[0], list(found)) if missing else None,
            )
        return wanted


def parse_gripper(text: str) -> Gripper:
    """What ``--gripper`` says: ``COLUMN CLOSED OPEN``, or two columns as ``A-B``, a difference, or ``A+B``, a sum.

    Raises:
        InvalidSpecError: It is not of that form.
    """
    parts = text.split()
    columns = re.split("[-+]", parts[0]) if parts else []
    combine = ("sum" if "+" in parts[0] else "difference") if len(columns) == 2 else None
    try:
        closed, opened = (float(p) for p in parts[1:])
        if not 1 <= len(columns) <= 2 or any(int(c) < 0 for c in columns) or closed == opened:
            raise ValueError
        return Gripper(
            columns=tuple(columns),
            combine=combine,
            closed=closed,
            open=opened,
            kind="measured",
            tolerance=0.1,
        )
    except ValueError:
        raise InvalidSpecError(
            "is not a gripper",
            field="gripper",
            expected="COLUMN CLOSED OPEN, or COLUMN-COLUMN or COLUMN+COLUMN CLOSED OPEN, e.g. '0-1 0 0.08'",
            found=text,
        ) from None


def gripper_values(values: FloatArray, gripper: Gripper, where: object, field: str) -> FloatArray:
    """``(T, 1 or 2)`` the columns of ``values`` ``(T, k)`` that a gripper names by number."""
    numbers = [int(c) for c in gripper.columns]
    if max(numbers) >= values.shape[1]:
        raise WrongFormatError(
            "has no such column", where=where, field=field, expected=f"0 … {values.shape[1] - 1}", found=max(numbers)
        )
    return values[:, numbers]


def log_files(source: str, endings: Sequence[str], found_by: str) -> tuple[Path, list[Path]]:
    """The folder of a source and the files with one of the endings at or below it, in natural order.

    Raises:
        SourceNotFoundError: Nothing there.
        WrongFormatError: No such file.
    """
    root = Path(source).absolute()
    if not root.exists():
        raise SourceNotFoundError("no such file or folder", where=source)
    if root.is_file() or root.name.endswith(tuple(endings)):
        if not root.name.lower().endswith(tuple(endings)):
            raise WrongFormatError(f"is not {found_by}", where=root, expected=" ".join(endings), found=root.name)
        return root.parent, [root]
    paths = list(some_files(root, tuple(endings), 100_000))
    if not paths:
        raise WrongFormatError(f"holds no {found_by}", where=root, expected=" ".join(f"*{e}" for e in endings))
    return root, sorted(paths, key=lambda p: natural_key(p.relative_to(root).as_posix()))


def numbers(group: h5py.Group, name: str, where: object, width: int | None = None) -> FloatArray:
    """``(T, k)`` float64 of a data set; ``width`` is the k that it must have.

    Raises:
        WrongFormatError: It does not exist, or has another shape.
    """
    if name not in group:
        raise WrongFormatError("has no such data set", where=where, field=name, expected=" | ".join(sorted(group)))
    values = hdf5.read_numbers(group.file, f"{group.name}/{name}".lstrip("/")).astype(np.float64)
    values = values[:, None] if values.ndim == 1 and width == 1 else values
    if values.ndim != 2 or (width is not None and values.shape[1] != width):
        raise WrongFormatError(
            "has the wrong shape",
            where=where,
            field=name,
            expected=f"(T, {width or 'k'})",
            found=str(values.shape),
        )
    return values


def numbers_nd(group: h5py.Group, name: str, where: object, shape: Sequence[int | None]) -> FloatArray:
    """``float64`` of a data set of a stated shape, None for any length.

    Raises:
        WrongFormatError: It does not exist, or has another shape.
        FrameCountError: It has another number of rows.
    """
    if name not in group:
        raise WrongFormatError("has no such data set", where=where, field=name, expected=" | ".join(sorted(group)))
    values = hdf5.read_numbers(group.file, f"{group.name}/{name}".lstrip("/")).astype(np.float64)
    fits = [n is None or n == m for n, m in zip(shape, values.shape, strict=False)]
    if values.ndim != len(shape) or not all(fits[1:]):
        expected = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise WrongFormatError(
            "has the wrong shape", where=where, field=name, expected=expected, found=str(values.shape)
        )
    if not fits[0]:
        raise FrameCountError("rows differ in number", where=where, field=name, expected=shape[0], found=len(values))
    return values


def row_count(group: h5py.Group, name: str, where: object) -> int:
    """Rows of a data set.

    Raises:
        WrongFormatError: It does not exist, or is a single value.
    """
    found = group.get(name)
    if not isinstance(found, h5py.Dataset) or found.ndim == 0:
        raise WrongFormatError(
            "has no such data set",
            where=where,
            field=name,
            expected=" | ".join(sorted(group)),
            found=type(found).__name__,
        )
    return len(found)


def check_rows(counts: Mapping[str, int], expected: int, of: str, where: object) -> None:
    """Refuse streams that differ in length.

    Raises:
        FrameCountError: The first that does.
    """
    for name, count in counts.items():
        if count != expected:
            raise FrameCountError(
                "rows differ in number", where=where, field=name, expected=f"{expected}, as {of}", found=count
            )


def plain_view(name: str) -> str:
    """A camera's name as a view's: ``[a-z0-9_-]+``."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in name.lower())

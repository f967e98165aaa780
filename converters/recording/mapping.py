"""Mapping files: read, checked, and applied to the parts that all kinds of logs have in common."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cameras import files as calibration
from ...cameras.files import CalibratedCamera
from ...cameras.kinds import pose_in_file
from ...cameras.transforms import transform_matrix
from ...errors import (
    AmbiguousSourceError,
    InvalidSpecError,
    InvalidTextError,
    MissingCalibrationError,
    SourceNotFoundError,
    UnsafeFileError,
    WrongFormatError,
)
from ...geometry import exact, transforms
from ...schemas import mapping as schema
from ...schemas.camera_file import Transform
from ...schemas.mapping import (
    ANGLE_UNITS,
    UNKNOWN,
    Gripper,
    KFile,
    Mapping,
    PoseColumns,
    PoseFile,
    TimeSource,
    ToolPose,
    ViewCamera,
    ViewSource,
)
from ...schemas.plausibility import FindingKind, Limits
from ...untrusted.arrays import load_npy
from ...untrusted.files import read_bytes
from ...untrusted.text import load_json, load_yaml, parse
from ..base import Converter, ConverterOptions
from ..kit.mjcf import robot_files
from ..kit.tables import Table
from . import streams
from .recording import Arm
from .sync import JointSamples, PoseSamples, ScalarSamples

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class LoadedMapping:
    """A mapping and where it was read."""

    mapping: Mapping
    path: Path
    fingerprint: str

    @property
    def folder(self) -> Path:
        """Folder of the mapping file; camera and robot files may lie beside it."""
        return self.path.parent


def format_of(path: str | Path) -> str | None:
    """What a mapping file says under ``format``, read before anything else of it is checked.

    Raises:
        SourceNotFoundError: No such file.
        UnsafeFileError: Tags, anchors or aliases.
    """
    value = load_yaml(Path(path))
    found = value.get("format") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def load_mapping(path: str | Path | None, expected_format: str) -> LoadedMapping:
    """The mapping in a YAML file.

    Raises:
        AmbiguousSourceError: No file is given, or fields are still to be filled in.
        SourceNotFoundError: No such file.
        UnsafeFileError: Tags, anchors or aliases.
        WrongFormatError: A field that cannot be; its name, and what was expected.
    """
    if path is None:
        raise AmbiguousSourceError(
            "needs a mapping file: units, frames and polarities cannot be known from the log",
            field="mapping",
            expected="--mapping FILE.yaml",
            hint="Draft one with: actionimg inspect SOURCE --propose mapping.yaml",
        )
    path = Path(path).absolute()
    value = load_yaml(path)
    if not isinstance(value, dict):
        raise WrongFormatError(
            "is not a mapping file", where=path, expected="keys and values", found=type(value).__name__
        )
    open_fields = list(_unknown(value, ""))
    if open_fields:
        raise AmbiguousSourceError(
            f"{len(open_fields)} fields are still to be filled in",
            where=path,
            field=", ".join(open_fields),
            expected="what only you can know",
            found=UNKNOWN,
        )
    mapping = parse(Mapping, value, path)
    if mapping.format != expected_format:
        raise WrongFormatError(
            "is for another format", where=path, field="format", expected=expected_format, found=mapping.format
        )
    return LoadedMapping(mapping, path, hashlib.sha256(read_bytes(path)).hexdigest()[:16])


class MappedConverter(Converter):
    """Base of the converters that a mapping file explains; their options name it ``mapping``."""

    def __init__(self, options: ConverterOptions | None = None) -> None:
        super().__init__(options)
        self._loaded: LoadedMapping | None = None

    def remote_headers(self) -> tuple[str, ...]:
        """Calibrations, instructions, and what describes bags, LeRobot data sets and zarr groups."""
        small = ("*.json", "*.jsonl", "*.yaml", "*.yml", "*.txt")
        return (*small, "meta/*", "*/meta/*", "*.zgroup", "*.zarray", "*.zattrs", "*.zmetadata", "*.zarr.zip")

    def mapping(self) -> LoadedMapping:
        """The mapping of the options, read once."""
        if self._loaded is None:
            self._loaded = load_mapping(self.options.mapping, self.name)
        return self._loaded

    def chosen_views(self) -> dict[str, ViewSource]:
        """The mapping's views that will be used, and the one whose pictures set the times; the others stay closed."""
        mapping = self.mapping().mapping
        wanted = {*self.wanted_views, *([mapping.sync.master] if mapping.sync.master else [])}
        if not self.wanted_views or not set(self.wanted_views) <= set(mapping.views):
            return dict(mapping.views)
        return {name: view for name, view in mapping.views.items() if name in wanted}

    @property
    def allow(self) -> tuple[FindingKind, ...]:
        """What the mapping says is meant."""
        return self.mapping().mapping.allow

    @property
    def limits(self) -> Limits:
        """Where the mapping says that plausible ends."""
        return self.mapping().mapping.limits


def state_of(loaded: LoadedMapping, folders: tuple[Path, ...]) -> str:
    """What changes when the mapping, or a calibration, robot or instruction file that it names, changes.

    Args:
        loaded: The mapping.
        folders: Where the files are looked for, in this order.
    """
    mapping = loaded.mapping
    cameras = [view.camera for view in mapping.views.values()]
    names = [camera.file for camera in cameras]
    given = [part for c in cameras for part in (c.world_from_camera, c.tool_from_camera, c.K)]
    names += [part.file for part in given if isinstance(part, (PoseFile, KFile))]
    names.append(mapping.instruction.file if mapping.instruction is not None else None)
    digest = hashlib.sha256(loaded.fingerprint.encode())
    for name in dict.fromkeys(n for n in names if n is not None):
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        digest.update(b"\0" if path is None else read_bytes(path))
    robots = [arm.pose.joints.robot for arm in mapping.arms.values() if arm.pose.joints is not None]
    for name in dict.fromkeys(robots):
        for path in robot_files(loaded.folder / name):
            digest.update(read_bytes(path))
    return digest.hexdigest()[:16]


def recorded_arms(
    mapping: Mapping,
    streams_of: Callable[[schema.Arm, str], tuple[PoseSamples, ScalarSamples]],
    joints_of: Callable[[schema.ArmJoints, str], tuple[Table, FloatArray]],
) -> dict[str, Arm]:
    """The grippers of a `Recording`, by name.

    Args:
        mapping: What says which there are.
        streams_of: Reads the poses and the openness of one; its second argument is the field's prefix for errors.
        joints_of: The table of its joint values, where the mapping names any, and their stamps.
    """
    arms: dict[str, Arm] = {}
    for name, arm in mapping.arms.items():
        poses, openness = streams_of(arm, f"grippers.{name}." if name else "")
        tool_from_gripper, world_from_frame = tool_transforms(arm.pose)
        arms[name] = Arm(poses, openness, tool_from_gripper, world_from_frame, arm.pose.rotation)
        if arm.joints is not None:
            table, times = joints_of(arm.joints, f"grippers.{name}.pose.arm_joints" if name else "pose.arm_joints")
            values = table.numbers(arm.joints.columns, len(arm.joints.names) or None)
            samples = JointSamples(times, values * ANGLE_UNITS[arm.joints.unit], arm.joints.names)
            arms[name] = replace(arms[name], joints=samples)
    return arms


def _unknown(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _unknown(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _unknown(inner, f"{place}[{i}]")
    elif isinstance(value, str) and UNKNOWN in value:
        yield place


def inside(folder: Path, relative: str, field: str) -> Path:
    """The file ``relative`` to ``folder``; `UnsafeFileError` where that leaves the folder."""
    path = folder / relative
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise UnsafeFileError("a file outside the recording is refused", where=folder, field=field, found=relative)
    return path


def find_beside(relative: str, folders: tuple[Path, ...], field: str) -> Path:
    """The file ``relative`` to the first of ``folders`` that has it.

    Raises:
        SourceNotFoundError: None has it.
        UnsafeFileError: It would lie outside of them.
    """
    for folder in folders:
        path = inside(folder, relative, field)
        if path.is_file():
            return path
    raise SourceNotFoundError("no such file", where=folders[0] / relative, field=field)


def load_calibration(
    camera: ViewCamera, folders: tuple[Path, ...], name: str, size: tuple[int, int] | None = None
) -> CalibratedCamera | None:
    """A view's calibration from its file or the mapping itself, with the poses that the mapping adds.

    None where the mapping says that nobody knows the camera.

    Args:
        camera: What the mapping says.
        folders: Where files are looked for, in this order.
        name: Of the view.
        size: Width and height of its pictures, for a K that is of them.

    Raises:
        MissingCalibrationError: The file has no such camera.
        SourceNotFoundError: No such file.
    """
    if camera.uncalibrated:
        return None
    if camera.file is not None:
        path = find_beside(camera.file, folders, f"views.{name}.camera.file")
        cameras = calibration.load_cameras(path)
        chosen = camera.name if camera.name is not None else (name if name in cameras else None)
        found = calibration.pick(cameras, chosen, path)
    elif camera.entry is not None:
        found = calibration.from_entry(camera.entry)
    elif camera.K is not None and size is not None:
        found = CalibratedCamera(_given_K(camera.K, folders, name), *size)
    else:
        raise MissingCalibrationError("has no calibration file", field=f"views.{name}.camera")
    return with_pose(found, camera, folders, name)


def _given_K(given: Any, folders: tuple[Path, ...], name: str) -> FloatArray:
    if not isinstance(given, KFile):
        return np.asarray(given, dtype=np.float64)
    path = find_beside(given.file, folders, f"views.{name}.camera.K.file")
    data = read_bytes(path, 1 << 20)
    if path.suffix.lower() == ".npy":
        values = np.asarray(load_npy(data, path, "K"), dtype=np.float64)
    else:
        words = re.split(r"[\s,;\[\]]+", data.decode("utf-8", "replace"))
        try:
            values = np.array([float(w) for w in words if w])
        except ValueError:
            values = np.empty(0)
    if values.size != 9:
        raise WrongFormatError("is not a camera matrix", where=path, expected="nine numbers", found=values.size)
    return values.reshape(3, 3)


def K_of_columns(values: FloatArray, where: object, name: str) -> FloatArray:
    """The one camera matrix in columns: nine numbers in every row, all the same, or three rows of three.

    Raises:
        MissingCalibrationError: They change.
        WrongFormatError: Another count of numbers.
    """
    rows = values.reshape(1, 9) if values.shape == (3, 3) else values
    if rows.ndim != 2 or rows.shape[1] != 9 or len(rows) == 0:
        raise WrongFormatError("does not hold K", where=where, field=name, expected="9 numbers a row", found=rows.shape)
    if np.ptp(rows, axis=0).max() > 1e-6:
        raise MissingCalibrationError("intrinsics that change with time are not supported", where=where, field=name)
    return np.asarray(rows[0].reshape(3, 3))


def with_pose_columns(
    found: CalibratedCamera, columns: PoseColumns, values: FloatArray, where: object
) -> CalibratedCamera:
    """The camera with its pose, or poses, from a table's columns ``(N, 16 or 12)``, or from one matrix.

    Raises:
        WrongFormatError: Another count of numbers.
    """
    flat = values.reshape(1, -1) if values.shape in ((4, 4), (3, 4)) else values
    if flat.shape[1] == 12:
        flat = np.concatenate([flat, np.broadcast_to([0.0, 0, 0, 1], (len(flat), 4))], axis=1)
    if flat.shape[1] != 16:
        raise WrongFormatError(
            "does not hold poses", where=where, field=", ".join(columns.columns), expected="16 or 12", found=flat.shape
        )
    poses = flat.reshape(-1, 4, 4)
    poses = poses if columns.order == "row" else poses.swapaxes(1, 2)
    if columns.holds == "camera_from_world":
        poses = np.asarray(transforms.invert(poses))
    if columns.axes == "opengl":
        poses = np.asarray(exact.matmul(poses, calibration.OPENCV_FROM_OPENGL))
    pose = poses[0] if len(poses) == 1 or not np.ptp(poses, axis=0).any() else poses
    if columns.holds == "tool_from_camera":
        return replace(found, world_from_camera=None, tool_from_camera=poses[0])
    return replace(found, world_from_camera=pose, tool_from_camera=None)


def with_pose(
    found: CalibratedCamera, camera: ViewCamera, folders: tuple[Path, ...] = (), name: str = ""
) -> CalibratedCamera:
    """The camera with the pose that a mapping gives to it, if it does; of a chain the pose is its first camera's."""
    if camera.pixel_centre is not None:
        found = replace(found, pixel_centre=camera.pixel_centre)
    in_world = camera.world_from_camera is not None
    given = camera.world_from_camera if in_world else camera.tool_from_camera
    if given is None:
        return found
    field = "world_from_camera" if in_world else "tool_from_camera"
    if isinstance(given, PoseFile):
        path = find_beside(given.file, folders, f"views.{name}.camera.{field}.file")
        pose, frame = pose_in_file(path, given.name, given.axes)
        if frame and (frame == "base") != in_world:
            raise WrongFormatError(
                "says that the camera is elsewhere",
                where=path,
                field=f"views.{name}.camera",
                expected="tool_from_camera: it is in the hand" if in_world else "world_from_camera: it stands",
                found=field,
            )
    else:
        pose = _rigid(given, "camera")
    if found.reference_from_camera is not None:
        pose = np.asarray(exact.matmul(pose, found.reference_from_camera))
    if in_world:
        return replace(found, world_from_camera=pose, tool_from_camera=None)
    return replace(found, world_from_camera=None, tool_from_camera=pose)


def stamps(table: Table, source: TimeSource | None, count: int, where: object) -> tuple[FloatArray, bool]:
    """Stamps ``(count,)`` in seconds, all that the mapping says of their clock applied; whether a rate made them up.

    Raises:
        AmbiguousSourceError: The mapping does not say whose stamps the stream has, or in what unit.
        WrongFormatError: The column does not hold stamps.
    """
    if source is not None and source.fps is not None:
        return clocked(source.start_s + np.arange(count) / source.fps, source), True
    if source is None or source.column is None:
        raise AmbiguousSourceError("has no stamps", where=where, field="time", expected="column and unit, or fps")
    values = table.column(source.column)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind in "OSU":
        values, zoned = streams.parsed_times(values, table.where, source.column)
    else:
        zoned = source.column in table.zoned
    if values.ndim != 1 or values.dtype.kind not in "iufM":
        raise WrongFormatError("is not a column of stamps", where=table.where, field=source.column, found=values.dtype)
    if values.dtype.kind == "M":
        # Dates and times say their own unit, and some of them their zone.
        if zoned and source.zone is not None:
            raise AmbiguousSourceError(
                "the stamps have a zone of their own", where=table.where, field="time.zone", found=source.zone
            )
        if len(values) and np.isnat(values).any():
            raise WrongFormatError(
                "has rows without a time", where=table.where, field=f"{source.column}[{int(np.isnat(values).argmax())}]"
            )
        times = streams.seconds(values.astype("M8[ns]").astype(np.int64), "ns")
    elif source.unit is None:
        raise AmbiguousSourceError(
            "has no unit",
            where=where,
            field="time.unit",
            expected="s | ms | us | ns",
            found=f"{source.column}, numbers",
        )
    else:
        times = streams.seconds(values, source.unit)
    return clocked(times, source), False


def clocked(times: FloatArray, source: TimeSource | None) -> FloatArray:
    """Stamps ``(N,)`` as the stream's clock gave them, on the common clock: zone, start, drift and offset applied."""
    if source is None or len(times) == 0:
        return times
    if source.zone is not None and source.start is None:
        times = times - streams.zone_offset(times, source.zone)
    finite = times[np.isfinite(times)]
    first = float(finite[0]) if len(finite) else 0.0
    drift = (times - first) * source.drift_ppm * 1e-6 if source.drift_ppm else 0.0
    return np.asarray(times + source.start_epoch_s + drift + source.offset_s)


def tool_transforms(pose: ToolPose) -> tuple[FloatArray, FloatArray]:
    """``tool_from_gripper`` and ``world_from_frame`` ``(4, 4)`` of a mapping."""
    world = np.eye(4)
    if pose.world_from_frame is not None:
        world = _rigid(pose.world_from_frame, "pose.world_from_frame")
    return _rigid(pose.tool_from_gripper, "pose.tool_from_gripper"), world


def _rigid(value: Transform, field: str) -> FloatArray:
    try:
        return transform_matrix(value)
    except InvalidSpecError as error:
        raise error.at(f"mapping: {field}") from None


def gripper_samples(table: Table, gripper: Gripper, times: FloatArray) -> ScalarSamples:
    """Openness over time from a table's columns."""
    values = table.numbers(gripper.columns, len(gripper.columns))
    if len(values) != len(times):
        raise WrongFormatError(
            "gripper and its stamps differ in number", where=table.where, expected=len(times), found=len(values)
        )
    openness = streams.openness_from_columns(values, gripper, table.where)
    return ScalarSamples(times, openness, hold=gripper.kind == "command")


def instruction_from_file(path: Path, key: str | None) -> str:
    """Instruction in a text file, or under ``key`` (dots go deeper) in a JSON file.

    Raises:
        InvalidTextError: No text there.
    """
    if key is None:
        return read_bytes(path, 1 << 20).decode("utf-8", "replace").strip()
    value = load_json(path)
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if not isinstance(value, str):
        raise InvalidTextError("has no text", where=path, field=key, found=type(value).__name__)
    return value.strip()


__all__ = [
    "K_of_columns",
    "LoadedMapping",
    "PoseSamples",
    "clocked",
    "find_beside",
    "gripper_samples",
    "inside",
    "instruction_from_file",
    "load_calibration",
    "load_mapping",
    "recorded_arms",
    "stamps",
    "state_of",
    "tool_transforms",
    "with_pose",
    "with_pose_columns",
]

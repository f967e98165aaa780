"""What is in a log that nobody explained: streams with shapes, ranges and rates, and no meaning given to them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cameras import files as calibration
from ...cameras.kinds import pose_in_file
from ...errors import ActionImgError, AmbiguousSourceError, SourceNotFoundError, WrongFormatError
from ...untrusted import hdf5
from ...video import VideoFrames
from .. import lerobot
from ..kit import tables
from ..kit.bags import messages as _messages
from ..kit.bags.pictures import BagFrames
from ..kit.bags.reader import SUFFIXES, Access, bag_suffix, is_bag_folder, open_bag
from ..kit.bags.tf import transforms_of
from ..kit.lerobot_files import data_sets
from ..kit.tree import files_with_sizes, natural_key, subfolders
from ..kit.videos import VIDEO_SUFFIXES
from ..recording.sync import statistics

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
CALIBRATION_SUFFIXES = (".json", ".yaml", ".yml", ".xml", ".conf")
_MAX_VALUES = 4_000_000
_UNIT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Column:
    """Numbers of one stream.

    Args:
        name: As a mapping file refers to it.
        shape: ``(N, ...)``.
        dtype: As stored.
        low: Smallest finite value, or None.
        high: Largest finite value, or None.
        increasing: Whether a single column never decreases and is not constant.
        unit_norm: Whether every row of four (or of its first four) numbers has length 1.
        not_finite: Rows that hold NaN or infinity.
        labels: Names of the parts, where the log has them.
        median_step: Of an increasing column.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    low: float | None = None
    high: float | None = None
    increasing: bool = False
    unit_norm: bool = False
    not_finite: int = 0
    labels: tuple[str, ...] = ()
    median_step: float | None = None

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return int(np.prod(self.shape[1:], dtype=int)) if len(self.shape) > 1 else 1


@dataclass(frozen=True)
class Pictures:
    """Pictures of one stream."""

    name: str
    source: str
    count: int
    width: int
    height: int
    fps: float | None = None
    own_stamps: bool = False


@dataclass(frozen=True)
class TableFound:
    """A table: a file, a group of one, or a topic."""

    name: str
    rows: int
    columns: tuple[Column, ...]
    kind: str = ""
    rate_hz: float | None = None


@dataclass
class Survey:
    """Everything found in a source.

    Args:
        root: Of the episode that was looked at.
        format: Converter that could read it.
        tables: By name.
        pictures: By name.
        cameras: Calibration files, with the names in them and whether each has a pose.
        poses: Files that hold nothing but a camera's pose, and what it is in: ``base``, ``tool`` or nothing said.
        frames: Of a bag, the frame that each topic's messages are in.
        transforms: Of a bag, parent and child of each transform.
        groups: Pattern of groups that are each an episode, and how many.
        notes: What else is worth knowing.
    """

    root: Path
    format: str
    tables: list[TableFound] = field(default_factory=list)
    pictures: list[Pictures] = field(default_factory=list)
    cameras: dict[str, dict[str, bool]] = field(default_factory=dict)
    poses: dict[str, str] = field(default_factory=dict)
    frames: dict[str, str] = field(default_factory=dict)
    transforms: set[tuple[str, str]] = field(default_factory=set)
    groups: tuple[str, int] | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """JSON values, for ``actionimg inspect``."""
        return {
            "format": self.format,
            "looked_at": str(self.root),
            "groups": None if self.groups is None else {"pattern": self.groups[0], "count": self.groups[1]},
            "tables": {t.name: {c.name: describe(c) for c in t.columns} for t in self.tables},
            "pictures": {
                p.name: f"{p.count} × {p.width}x{p.height}" + (f", {p.fps:g} Hz" if p.fps else "")
                for p in self.pictures
            },
            "cameras": {f: sorted(names) for f, names in self.cameras.items()},
            "notes": self.notes,
        }


def describe(column: Column) -> str:
    """One line about a column: shape, type, range, and what its numbers show."""
    shape = "×".join(map(str, column.shape)) or "scalar"
    parts = [f"{shape} {column.dtype}"]
    if column.low is not None and column.high is not None:
        parts.append(f"{column.low:.6g} … {column.high:.6g}")
    if column.increasing and column.median_step:
        parts.append(f"increasing by {column.median_step:.6g}")
    if column.unit_norm:
        parts.append("rows of length 1")
    if column.not_finite:
        parts.append(f"{column.not_finite} rows not finite")
    if column.labels:
        parts.append(f"({', '.join(column.labels)})")
    return ", ".join(parts)


def _column(name: str, values: NDArray[Any], labels: Sequence[str] = ()) -> Column:
    shape = tuple(int(n) for n in values.shape)
    if values.dtype.kind == "M" and values.ndim == 1 and len(values) > 1:
        seconds = np.diff(values.astype("M8[ns]").astype(np.int64)) * 1e-9
        grows = bool((seconds >= 0).all()) and bool(seconds.any())
        return Column(name, shape, "time", increasing=grows, median_step=float(np.median(seconds)))
    if values.dtype.kind not in "biuf" or values.size == 0:
        return Column(name, shape, "text" if values.dtype.kind in "OSU" else str(values.dtype))
    flat = values.reshape(len(values), -1)
    flat = flat[: max(1, _MAX_VALUES // flat.shape[1])].astype(np.float64)
    finite = np.isfinite(flat)
    rows = finite.all(-1)
    steps = np.diff(flat[rows, 0]) if flat.shape[1] == 1 else np.zeros(0)
    increasing = len(steps) > 0 and bool((steps >= 0).all()) and bool(steps.any())
    unit = flat.shape[1] == 4 and bool(rows.any())
    unit = unit and bool((np.abs(np.linalg.norm(flat[rows], axis=1) - 1) < _UNIT_TOLERANCE).all())
    return Column(
        name,
        shape,
        str(values.dtype),
        float(flat[finite].min()) if finite.any() else None,
        float(flat[finite].max()) if finite.any() else None,
        increasing,
        unit,
        int((~rows).sum()),
        tuple(labels),
        float(np.median(steps)) if increasing else None,
    )


def _table(name: str, table: tables.Table, labels: dict[str, list[str]] | None = None) -> TableFound:
    columns = []
    for column in table.names:
        try:
            columns.append(_column(column, table.column(column), (labels or {}).get(column, ())))
        except ActionImgError as error:
            columns.append(Column(column, (), f"not readable: {error.message}"))
    rows = max((c.shape[0] for c in columns if c.shape), default=0)
    return TableFound(name, rows, tuple(columns))


def survey(source: str) -> Survey:
    """Look at an HDF5, zarr, bag, Parquet or LeRobot source, or a folder; nothing is converted.

    Raises:
        SourceNotFoundError: Nothing there.
        WrongFormatError: Nothing in it that could be a recording.
    """
    root = Path(source).absolute()
    if not root.exists():
        raise SourceNotFoundError("no such file or folder", where=source)
    suffix = tables.table_suffix(root.name)
    if suffix in (".h5", ".hdf5"):
        return _survey_hdf5(root)
    if suffix in (".zarr", ".zarr.zip"):
        return _survey_zarr(root)
    sets = data_sets(root) if root.is_dir() else []
    if sets:
        return _survey_lerobot(sets[0])
    if root.is_file() and suffix in tables.TABLE_SUFFIXES:
        return Survey(root.parent, "folder", [_table(root.name, tables.open_table(root))])
    if bag_suffix(root) in SUFFIXES or is_bag_folder(root):
        return _survey_bag(root)
    if root.is_dir():
        return _survey_folder(root)
    raise WrongFormatError(
        "is not a log that can be looked at",
        where=root,
        expected=" | ".join([*tables.TABLE_SUFFIXES, *SUFFIXES, "a folder"]),
    )


def _survey_folder(root: Path) -> Survey:
    """The first folder at or below ``root`` that holds a table beside pictures, or else a table or a bag alone."""
    first: Path | None = None
    pending, looked = [root], 0
    while pending and looked < 200:
        folder = pending.pop()
        looked += 1
        names = [n for n, _ in files_with_sizes(folder)]
        kinds = {tables.table_suffix(n) for n in names}
        if kinds & set(tables.TABLE_SUFFIXES):
            first = first or folder
            if any(n.lower().endswith(VIDEO_SUFFIXES) for n in names) or kinds & {".h5", ".hdf5"}:
                first = folder
                break
        bags = [n for n in names if n.lower().endswith(SUFFIXES)]
        if bags and first is None:
            return _survey_bag(folder if is_bag_folder(folder) else folder / bags[0])
        pending.extend(reversed([p for p in subfolders(folder) if not p.name.endswith(".zarr")]))
    if first is None and (stores := _zarr_stores(root)):
        return _survey_zarr(stores[0])
    if first is None:
        raise WrongFormatError("holds no table, bag or data set", where=root, expected=" ".join(tables.TABLE_SUFFIXES))
    found = Survey(first, "folder")
    names = [n for n, _ in files_with_sizes(first)]
    whole = [n for n in names if tables.table_suffix(n) in (".h5", ".hdf5")]
    if len(whole) == 1 and not any(n.lower().endswith(VIDEO_SUFFIXES) for n in names):
        return _survey_hdf5(first / whole[0])
    for name in names:
        path = first / name
        try:
            if tables.table_suffix(name) in tables.TABLE_SUFFIXES:
                found.tables.append(_table(name, tables.open_table(path)))
            elif name.lower().endswith(VIDEO_SUFFIXES):
                video = VideoFrames(path)
                own = video.times is not None
                size = (video.width, video.height)
                found.pictures.append(Pictures(path.stem, name, len(video), *size, video.fps, own))
            elif name.lower().endswith(CALIBRATION_SUFFIXES) and (frame := _pose_alone(path)) is not None:
                found.poses[name] = frame
            elif name.lower().endswith(CALIBRATION_SUFFIXES):
                cameras = calibration.load_cameras(path)
                found.cameras[name] = {
                    n: c.world_from_camera is not None or c.tool_from_camera is not None for n, c in cameras.items()
                }
        except ActionImgError as error:
            found.notes.append(f"{name}: {error.message}")
    for folder in subfolders(first):
        pictures = [n for n, _ in files_with_sizes(folder) if n.lower().endswith(PICTURE_SUFFIXES)]
        if pictures:
            from ..kit.frames import ImageFiles

            suffix = Path(pictures[0]).suffix
            try:
                files = ImageFiles([str(folder / n) for n in pictures], folder)
                source = f"{folder.name}/*{suffix}"
                found.pictures.append(Pictures(folder.name, source, len(files), files.width, files.height))
            except ActionImgError as error:
                found.notes.append(f"{folder.name}: {error.message}")
    return found


def _zarr_stores(root: Path) -> list[Path]:
    """The zarr folders right at or below ``root``."""
    inside = [p for p in subfolders(root) if p.name.endswith(".zarr")]
    return inside or [z for p in subfolders(root)[:50] for z in subfolders(p) if z.name.endswith(".zarr")]


def _pose_alone(path: Path) -> str | None:
    """What the pose is in that is all a file holds: ``base``, ``tool``, "" where it does not say; else None."""
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        return None
    try:
        return pose_in_file(path, None, None)[1]
    except AmbiguousSourceError:
        return ""
    except ActionImgError:
        return None


def _looks_like_pictures(shape: Sequence[int], dtype: str) -> bool:
    return len(shape) == 4 and shape[-1] == 3 and dtype == "uint8" and min(shape[1:3]) >= 16


def _survey_hdf5(path: Path) -> Survey:
    import h5py

    found = Survey(path.parent, "folder")
    items: dict[str, tuple[tuple[int, ...], Any]] = {}
    with hdf5.open_hdf5(path) as file:
        file.visititems(
            lambda name, item: (
                items.update({name: (item.shape, item.dtype)}) if isinstance(item, h5py.Dataset) else None
            )
        )
        found.groups = _repeated(list(items))
        first = "" if found.groups is None else _first_group(list(items), found.groups[0])
        found.notes.extend(f"attribute {k}" for k in file.attrs)
        columns = []
        for name, (shape, dtype) in items.items():
            if first and not name.startswith(f"{first}/"):
                continue
            own = name[len(first) + 1 :] if first else name
            single = len(shape) == 1 and (h5py.check_vlen_dtype(dtype) == np.uint8 or dtype.kind in "SO")
            encoded = single or (len(shape) == 2 and dtype == np.uint8)
            if _looks_like_pictures(shape, str(dtype)) or (encoded and "image" in name.lower()):
                height, width = (shape[1], shape[2]) if len(shape) == 4 else (0, 0)
                label = re.sub(r"[^a-z0-9_-]+", "_", own.split("/")[-1].lower())
                found.pictures.append(Pictures(label, f"{path.name}#{own}", int(shape[0]), int(width), int(height)))
                continue
            try:
                values = hdf5.read_numbers(file, name) if len(shape) and dtype.kind in "biuf" else None
            except ActionImgError as error:
                found.notes.append(f"{name}: {error.message}")
                continue
            columns.append(Column(own, tuple(map(int, shape)), str(dtype)) if values is None else _column(own, values))
    rows = max((c.shape[0] for c in columns if c.shape), default=0)
    found.tables.append(TableFound(path.name, rows, tuple(columns), kind=first))
    return found


def _survey_zarr(path: Path) -> Survey:
    found = Survey(path.parent, "folder")
    columns = []
    for name, array in tables.zarr_arrays(tables.open_zarr(path)).items():
        shape = tuple(map(int, array.shape))
        if _looks_like_pictures(shape, str(array.dtype)):
            label = re.sub(r"[^a-z0-9_-]+", "_", name.split("/")[-1].lower())
            found.pictures.append(Pictures(label, f"{path.name}#{name}", shape[0], shape[2], shape[1]))
        elif len(shape) and array.size <= _MAX_VALUES:
            columns.append(_column(name, np.asarray(array[:])))
        else:
            columns.append(Column(name, shape, str(array.dtype)))
        if name.endswith("episode_ends"):
            found.notes.append(f"{name}: many episodes in one array: only the converter umi reads such")
    rows = max((c.shape[0] for c in columns if c.shape), default=0)
    found.tables.append(TableFound(path.name, rows, tuple(columns)))
    return found


def _repeated(names: list[str]) -> tuple[str, int] | None:
    """Pattern of numbered groups that hold the same data sets, e.g. ``data/demo_*``, and how many there are."""
    groups: dict[str, set[str]] = {}
    for name in names:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if re.search(r"\d+$", parts[depth - 1]):
                pattern = "/".join([*parts[: depth - 1], re.sub(r"\d+$", "*", parts[depth - 1])])
                groups.setdefault(pattern, set()).add("/".join(parts[:depth]))
                break
    best = max(groups.items(), key=lambda item: len(item[1]), default=None)
    return None if best is None else (best[0], len(best[1]))


def _first_group(names: list[str], pattern: str) -> str:
    depth = pattern.count("/") + 1
    matching = {"/".join(n.split("/")[:depth]) for n in names if n.count("/") >= depth}
    expression = re.compile(re.escape(pattern).replace(r"\*", r"\d+"))
    return min((n for n in matching if expression.fullmatch(n)), key=natural_key)


def _survey_lerobot(root: Path) -> Survey:
    dataset = lerobot.Dataset.load(root)
    rows = dataset.episodes()
    found = Survey(root, "lerobot")
    table = dataset.table(rows[0])
    wanted = [n for n in table.names if dataset.features.get(n, {}).get("dtype") not in ("video", "image")]
    columns = [_column(n, table.column(n), dataset.labels().get(n, ())) for n in wanted]
    found.tables.append(TableFound(f"episode {rows[0]['episode_index']}", int(rows[0]["length"]), tuple(columns)))
    for key, feature in sorted(dataset.features.items()):
        if feature.get("dtype") in ("video", "image"):
            shape = feature.get("shape") or [0, 0, 0]
            name = re.sub(r"[^a-z0-9_-]+", "_", key.split(".")[-1].lower())
            found.pictures.append(
                Pictures(name, key, int(rows[0]["length"]), int(shape[1]), int(shape[0]), dataset.fps)
            )
    found.notes.append(f"{dataset.version}, {len(rows)} episodes, {dataset.fps:g} Hz stated")
    return found


def _frames(transforms: Sequence[Any]) -> str:
    """Which frames transforms are between, in words."""
    try:
        return "; ".join(sorted({f"{above} -> {below}" for m in transforms for above, below, *_ in transforms_of(m)}))
    except ActionImgError as error:
        return error.message


def _frame_of(message: Any) -> str:
    """The frame that a message says it is in; empty where it does not."""
    return str(getattr(getattr(message, "header", message), "frame_id", "") or "")


def _survey_bag(path: Path) -> Survey:
    found = Survey(path.parent if path.is_file() else path, "rosbag")
    access = Access(cut=True)
    with open_bag(path, access) as bag:
        if bag.cut:
            found.notes.append(f"was cut off: {bag.cut}; to convert what is whole of it: --allow cut-recording")
        topics = [t for t in bag.topics().values() if t.count]
    read, wrong = _messages.read_readable(path, [t.name for t in topics], access)
    found.notes.extend(f"{name}: {why}" for name, why in wrong.items())
    for topic in (t for t in topics if t.name in read):
        messages = read[topic.name]
        times = np.asarray(messages.header if messages.has_header else messages.log, dtype=np.int64) * 1e-9
        rate = statistics(times).rate_hz
        if topic.type in _messages.IMAGE_TYPES:
            name = re.sub(r"[^a-z0-9_-]+", "_", topic.name.lower()).strip("_")
            try:
                frames = BagFrames.open(path, topic.name, messages, access)
                found.pictures.append(Pictures(name, topic.name, len(frames), frames.width, frames.height, rate))
            except ActionImgError as error:
                found.notes.append(f"{topic.name} ({topic.type}): {error.message}")
            continue
        if topic.type in _messages.TF_TYPES:
            found.notes.append(f"{topic.name}: {_frames(messages.values)}")
            with contextlib.suppress(ActionImgError):
                pairs = {(a.lstrip("/"), b.lstrip("/")) for m in messages.values for a, b, *_ in transforms_of(m)}
                found.transforms |= pairs
        elif messages.values and (frame := _frame_of(messages.values[0])):
            found.frames[topic.name] = frame
        table = _messages.table_of(messages, topic.name)
        columns = []
        for name in table.names:
            if name.startswith(("header.stamp", "timestamp.")):
                continue
            try:
                columns.append(_column(name, table.column(name)))
            except ActionImgError as error:
                columns.append(Column(name, (), f"not readable: {error.message}"))
        found.tables.append(TableFound(topic.name, len(messages), tuple(columns), topic.type, rate))
    return found

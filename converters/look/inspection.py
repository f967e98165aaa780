"""What `actionimg inspect` shows of raw logs: rates, jitter, gaps and drops of every stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ActionImgError, UnsupportedSourceError, WrongFormatError
from ..base import Converter, ConverterOptions
from ..droid import TRAJECTORY, DroidConverter, DroidOptions, _episodes, droid_streams
from ..folder import FolderConverter, FolderOptions
from ..kit import tree as _tree
from ..kit.bags.messages import read_readable
from ..kit.bags.reader import Access, find_bags, open_bag
from ..lerobot import Dataset, LeRobotConverter, LeRobotOptions
from ..recording.episode import Recording
from ..recording.offset import estimate_offset
from ..recording.sync import statistics
from ..rosbag import RosbagConverter, RosbagOptions
from .survey import survey

MAX_STAMPS = 20_000
_CLASSES: dict[type[ConverterOptions], type[Converter]] = {
    FolderOptions: FolderConverter,
    DroidOptions: DroidConverter,
    LeRobotOptions: LeRobotConverter,
    RosbagOptions: RosbagConverter,
}
_NAMES = tuple(c.name for c in _CLASSES.values())


def stream_statistics(source: str, options: ConverterOptions | None = None) -> dict[str, Any]:
    """Rates, jitter, gaps and drops of the streams of a source's first episode, and their stamps for a plot.

    Args:
        source: A recording, or a folder of them.
        options: Of one of this package's converters, with its mapping if there is one; None: the converter that
            recognises the source, without a mapping.

    Returns:
        ``episode``; ``streams``: by name what `sync.StreamStatistics.to_json` gives; ``stamps``: by name the stamps in
        seconds (at most 20 000 of each), for `actionimg_data.report.streams.plot_streams`.

    Raises:
        WrongFormatError: No converter of raw logs recognises the source.
        ActionImgError: The first episode cannot be read.
    """
    if options is None:
        kind = next((c for c in _CLASSES.values() if c.detect(source) is not None), None)
        if kind is None:
            raise WrongFormatError("is not a raw log", where=source, expected=" | ".join(_NAMES))
    elif type(options) not in _CLASSES:
        raise UnsupportedSourceError(
            "has no stamps to draw: its rows are a constant rate apart", where=source, expected=" | ".join(_NAMES)
        )
    else:
        kind = _CLASSES[type(options)]
    if kind is DroidConverter:
        root = _tree.source_folder(source)
        folder = next(_episodes(root), None)
        if folder is None:
            raise WrongFormatError("no DROID episode found", where=root, expected=f"folders that hold {TRAJECTORY}")
        return _named(folder.relative_to(root).as_posix(), droid_streams(folder))
    if kind is LeRobotConverter:
        dataset = Dataset.load(_tree.source_folder(source))
        row = dataset.episodes()[0]
        table = dataset.table(row)
        if "timestamp" not in table.names:
            return {"episode": str(row["episode_index"]), "streams": {}, "stamps": {}}
        times = table.column("timestamp").reshape(-1).astype(np.float64)
        return _named(str(row["episode_index"]), {"rows": {**statistics(times).to_json(), "times": times}})
    mapped = getattr(options, "mapping", None) is not None
    if mapped and issubclass(kind, (FolderConverter, RosbagConverter)):
        converter = kind(options)
        ref = next(iter(converter.discover(source)))
        return _named(ref.id, _recorded_streams(converter.recording(ref)))
    if kind is RosbagConverter:
        path = next(iter(find_bags(Path(source).absolute())))
        return bag_streams(path, kind(options).access() if options is not None else None)
    return _unmapped_streams(source)


def _named(episode: str, streams: dict[str, dict[str, Any]]) -> dict[str, Any]:
    stamps = {name: thinned(values.pop("times")) for name, values in streams.items()}
    return {"episode": episode, "streams": streams, "stamps": stamps}


def thinned(times: Any) -> list[float]:
    """At most `MAX_STAMPS` of the finite stamps, in the order in which they were logged."""
    finite = np.asarray(times, dtype=np.float64)
    finite = finite[np.isfinite(finite)][:MAX_STAMPS]
    return [round(float(t), 6) for t in finite]


def _recorded_streams(recording: Recording) -> dict[str, dict[str, Any]]:
    streams = {}
    for arm, found in recording.arms.items():
        poses, openness = found.poses, found.openness
        of = f" of {arm}" if arm else ""
        streams[f"pose{of}"] = {**statistics(poses.times, int((~poses.finite).sum())).to_json(), "times": poses.times}
        streams[f"gripper{of}"] = {
            **statistics(openness.times, int((~np.isfinite(openness.values)).sum())).to_json(),
            "times": openness.times,
        }
    for name, view in recording.views.items():
        if view.times is not None:
            streams[name] = {
                **statistics(view.times).to_json(),
                "pictures": len(view.frames),
                "size": f"{view.frames.width}x{view.frames.height}",
                "times": view.times,
            }
        if view.poses is not None:
            bad = int((~view.poses.finite).sum())
            streams[f"{name} (pose)"] = {**statistics(view.poses.times, bad).to_json(), "times": view.poses.times}
    return streams


def bag_streams(path: Path, access: Access | None = None) -> dict[str, Any]:
    """`stream_statistics` of a bag's topics, by their own stamps where they have them, else by the log's."""
    with open_bag(path, access) as bag:
        names = [t.name for t in bag.topics().values() if t.count]
    streams: dict[str, dict[str, Any]] = {}
    read, wrong = read_readable(path, names, access)
    streams.update({name: {"error": why, "times": []} for name, why in wrong.items()})
    for name, messages in read.items():
        own = messages.has_header
        times = np.asarray(messages.header if own else messages.log, dtype=np.int64) * 1e-9
        streams[name] = {
            **statistics(times).to_json(),
            "type": messages.type,
            "stamp": "header" if own else "log",
            "times": times,
        }
    return _named(path.name, streams)


def _unmapped_streams(source: str) -> dict[str, Any]:
    """Every column that could be stamps, in its own unit: whether it is seconds is not known without a mapping."""
    found = survey(source)
    streams: dict[str, dict[str, Any]] = {}
    for table in found.tables:
        for column in table.columns:
            if column.increasing and ("time" in column.name.lower() or "stamp" in column.name.lower()):
                streams[f"{table.name}: {column.name}"] = {
                    "samples": column.shape[0],
                    "start": column.low,
                    "end": column.high,
                    "median_step": column.median_step,
                    "times": [],
                }
    for pictures in found.pictures:
        streams[pictures.name] = {
            "samples": pictures.count,
            "rate_hz": pictures.fps,
            "size": f"{pictures.width}x{pictures.height}",
            "times": [],
        }
    return _named(found.root.name, streams)


def inspect_unmapped(source: str, name: str) -> dict[str, Any]:
    """What is there, where no mapping says what it means."""
    return {**survey(source).to_json(), "format": name, "hint": "write a mapping: actionimg inspect SRC --propose FILE"}


def inspect_converter(converter: FolderConverter | RosbagConverter, source: str) -> dict[str, Any]:
    """Episodes of a mapped source, streams of the first, and its estimated time offset, which is only reported."""
    refs = list(converter.discover(source))
    recording = converter.recording(refs[0])
    streams = _named(refs[0].id, _recorded_streams(recording))["streams"]
    found: dict[str, Any] = {
        "format": converter.name,
        "episodes": len(refs),
        "first": refs[0].id,
        "instruction": recording.instructions[0],
        "streams": streams,
    }
    if recording.rows_fps is None and not recording.assumed:
        try:
            found["time_offset"] = estimate_offset(recording).to_json()
        except ActionImgError as error:
            found["time_offset"] = {"sure": False, "why": error.message}
    return found

"""LeRobot's data set format v3.0, with the action images as further video features.

Read from the sources of lerobot 0.4.4. ``observation.state`` and ``action`` are both the frame's own ``action_8d``: an
action image shows the gripper at that frame's time; ``delta_timestamps`` gives later ones. Cameras are features too.
Several grippers follow each other in ``action``, and each has its own action video (``action_images.VIEW.GRIPPER``).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..errors import EmptyEpisodeError, UnsupportedSourceError
from ..shards import Sample, layout
from ..video import ENDINGS, open_video
from .common import Result, common_rate, h264_action, new_folder, opened

VERSION: Final = "v3.0"
CHUNK: Final = 1000
"""Files in a folder."""

ROWS: Final = 200_000
"""Frames in a table of frames."""

ACTION_NAMES: Final = ("x", "y", "z", "qx", "qy", "qz", "qw", "openness")
STATISTICS: Final = ("min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99")
_QUANTILES: Final = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_STATISTICS_FRAMES: Final = 8
_DATA: Final = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO: Final = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

Stats = dict[str, NDArray[Any]]


def export(path: str | Path, dest: str | Path, *, robot_type: str | None = None) -> Result:
    """Write the folder: one video file a sample and view, copied as it is stored where that is H.264.

    Statistics of pictures come from at most eight frames of each video, as LeRobot samples them.

    Args:
        path: A complete data set.
        dest: A new folder.
        robot_type: Name of the robot, for the record; None for what the source says, else ``unknown``.

    Raises:
        CorruptDatasetError: The data set is damaged, or its samples differ in frame rate.
        EmptyEpisodeError: No sample has a pose in every frame.
        UnsupportedSourceError: Samples differ in their views, and have none in common.
        OutputExistsError, OutputError: ``dest`` cannot be made.
    """
    dataset, manifest = opened(path)
    result = Result("lerobot", str(dest))
    usable: list[Sample] = []
    for sample in dataset:
        if all((t.known & np.isfinite(t.openness)).all() for t in sample.grippers.values()):
            usable.append(dataset[sample.key])
        else:
            result.left_out.append((sample.key, "has frames without a pose"))
    if not usable:
        raise EmptyEpisodeError("no sample has a pose in every frame", where=path)
    fps = common_rate([sample.fps for sample in usable], path)
    rate: int | float = int(fps) if float(fps).is_integer() else fps
    views = tuple(name for name in manifest.views if all(name in sample.views for sample in usable))
    if not views:
        raise UnsupportedSourceError(
            "no view is in every sample, and LeRobot's episodes have the same cameras",
            where=path,
            field="views",
            found=" ".join(manifest.views),
            hint="actionimg convert --views NAME makes a data set of one view; other exports keep samples apart.",
        )
    options = manifest.options
    shown = ("",) if options.merge_arms else manifest.grippers or ("",)
    features = _features(views, options.height, options.width, rate, manifest.grippers, shown)
    tasks: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    every: list[dict[str, Stats]] = []
    with new_folder(dest) as root:
        writer = _FrameTables(root, features)
        index = 0
        for number, sample in enumerate(usable):
            count = len(sample)
            texts = [sample.meta.instruction_at([frame]) for frame in range(count)]
            task = np.asarray([tasks.setdefault(text, len(tasks)) for text in texts], dtype=np.int64)
            columns = _columns(sample, views, fps, number, index, task)
            stats = {name: _statistics(values) for name, values in columns.items()}
            place = divmod(number, CHUNK)
            row: dict[str, Any] = {
                "episode_index": number,
                "tasks": list(dict.fromkeys(texts)),
                "length": count,
                "dataset_from_index": index,
                "dataset_to_index": index + count,
            }
            row["data/chunk_index"], row["data/file_index"] = writer.add(columns)
            for key, video in _videos(sample, views):
                target = root / _VIDEO.format(video_key=key, chunk_index=place[0], file_index=place[1])
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(video)
                row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"] = place
                row[f"videos/{key}/from_timestamp"], row[f"videos/{key}/to_timestamp"] = 0.0, count / fps
                stats[key] = _picture_statistics(video, target)
            for name, values in stats.items():
                row |= {f"stats/{name}/{kind}": values[kind].tolist() for kind in STATISTICS}
            row["meta/episodes/chunk_index"] = row["meta/episodes/file_index"] = 0
            rows.append(row)
            every.append(stats)
            index += count
        writer.close()
        named = robot_type or _robot(usable)
        _write_meta(root, rows, tasks, every, features, rate, index, named or "unknown")
    result.samples = len(usable)
    some = [name for name in manifest.views if name not in views]
    if some:
        result.notes.append(f"Views that not every sample has are left out: {' '.join(some)}.")
    result.notes.append("observation.state and action are the frame's own pose; take later ones by delta_timestamps.")
    if named is None:
        result.notes.append("robot_type is written as unknown: the source does not say it. Name it with --robot-type.")
    if options.planes:
        result.notes.append(f"{' and '.join(options.planes)} are left out: LeRobot's videos are lossy.")
    return result


def _robot(samples: Sequence[Sample]) -> str | None:
    """The robot that the provenance of all samples names; None where one names none, or they differ."""
    named = {tuple(sample.meta.provenance.get("robots") or ()) for sample in samples}
    return "_".join(str(robot) for robot in named.pop()) or None if len(named) == 1 else None


def _features(
    views: tuple[str, ...], height: int, width: int, fps: float, grippers: tuple[str, ...], shown: tuple[str, ...]
) -> dict[str, Any]:
    video = {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
        },
    }
    features: dict[str, Any] = {f"observation.images.{view}": video for view in views}
    features |= {_action_key(view, gripper): video for view in views for gripper in shown}
    names = [f"{gripper}_{name}" if gripper else name for gripper in grippers or ("",) for name in ACTION_NAMES]
    for name in ("observation.state", "action"):
        features[name] = {"dtype": "float32", "shape": [len(names)], "names": names}
    for view in views:
        for name, length in (("intrinsics", 9), ("world_from_camera", 16)):
            features[f"observation.camera.{view}.{name}"] = {"dtype": "float32", "shape": [length], "names": None}
    for name, dtype in (
        ("timestamp", "float32"),
        ("frame_index", "int64"),
        ("episode_index", "int64"),
        ("index", "int64"),
        ("task_index", "int64"),
    ):
        features[name] = {"dtype": dtype, "shape": [1], "names": None}
    return features


def _columns(
    sample: Sample, views: tuple[str, ...], fps: float, number: int, index: int, task: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Arrays ``(T, …)`` of a sample's frames, in the order of the features."""
    count = len(sample)
    actions = [trajectory.to_action8() for trajectory in sample.grippers.values()]
    action = np.concatenate(actions, axis=1).astype(np.float32)
    columns: dict[str, NDArray[Any]] = {"observation.state": action, "action": action}
    for view in views:
        camera = sample.cameras[view]
        columns[f"observation.camera.{view}.intrinsics"] = camera.K.reshape(count, 9).astype(np.float32)
        pose = camera.world_from_camera.reshape(count, 16).astype(np.float32)
        columns[f"observation.camera.{view}.world_from_camera"] = pose
    frames = np.arange(count, dtype=np.int64)
    columns["timestamp"] = (frames / fps).astype(np.float32)
    columns["frame_index"] = frames
    columns["episode_index"] = np.full(count, number, np.int64)
    columns["index"] = frames + index
    columns["task_index"] = task
    return columns


def _videos(sample: Sample, views: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    meta = sample.meta
    for view in views:
        yield f"observation.images.{view}", sample.read(layout.rgb_member(view, ENDINGS[meta.rgb_codec]))
    for view in views:
        for gripper in sample.action_names:
            yield _action_key(view, gripper), h264_action(sample, view, gripper)


def _action_key(view: str, gripper: str) -> str:
    return f"action_images.{view}.{gripper}" if gripper else f"action_images.{view}"


class _FrameTables:
    """Parquet files of frames, each begun when the one before is full."""

    def __init__(self, root: Path, features: dict[str, Any]) -> None:
        self._root = root
        fields, hints = [], {}
        for name, feature in features.items():
            if feature["dtype"] == "video":
                continue
            scalar = pa.type_for_alias(feature["dtype"])
            length = feature["shape"][0]
            value = {"dtype": feature["dtype"], "_type": "Value"}
            fields.append((name, scalar if length == 1 else pa.list_(scalar, length)))
            hints[name] = value if length == 1 else {"feature": value, "length": length, "_type": "List"}
        info = json.dumps({"info": {"features": hints}})
        self._schema = pa.schema(fields, metadata={"huggingface": info})
        self._file = -1
        self._rows = ROWS
        self._writer: pq.ParquetWriter | None = None

    def add(self, columns: dict[str, NDArray[Any]]) -> tuple[int, int]:
        """Append an episode; returns the chunk and the file it went to."""
        if self._rows >= ROWS:
            self.close()
            self._file += 1
            self._rows = 0
            chunk, number = divmod(self._file, CHUNK)
            path = self._root / _DATA.format(chunk_index=chunk, file_index=number)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, self._schema)
        arrays = []
        for field in self._schema:
            values = columns[field.name]
            flat = pa.array(np.ascontiguousarray(values).ravel())
            arrays.append(flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1]))
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        assert self._writer is not None
        self._writer.write_table(table)
        self._rows += len(table)
        return divmod(self._file, CHUNK)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _statistics(values: NDArray[Any]) -> Stats:
    table = values.reshape(len(values), -1)
    stats: Stats = {
        "min": table.min(0),
        "max": table.max(0),
        "mean": table.mean(0, dtype=np.float64),
        "std": table.std(0, dtype=np.float64),
        "count": np.array([len(table)]),
    }
    return stats | {name: np.quantile(table.astype(np.float64), q, axis=0) for name, q in _QUANTILES.items()}


def _picture_statistics(video: bytes, name: Path) -> Stats:
    """Statistics ``(3, 1, 1)`` in [0, 1] of some frames of a video, from their histograms."""
    with open_video(io.BytesIO(video).getvalue(), name) as opened_video:
        total = opened_video.info.frames
        wanted = np.unique(np.linspace(0, total - 1, min(total, _STATISTICS_FRAMES)).astype(int)).tolist()
        histogram = np.zeros((3, 256), np.int64)
        for frame in opened_video.frames(wanted):
            for channel in range(3):
                histogram[channel] += np.bincount(frame[..., channel].ravel(), minlength=256)
    level = np.arange(256) / 255
    share = histogram / histogram.sum(1, keepdims=True)
    mean = share @ level
    below = share.cumsum(1)

    def column(values: Any) -> NDArray[np.float64]:
        return np.asarray(values, np.float64).reshape(3, 1, 1)

    stats: Stats = {
        "min": column([level[row.argmax()] for row in histogram > 0]),
        "max": column([level[255 - row[::-1].argmax()] for row in histogram > 0]),
        "mean": column(mean),
        "std": column(np.sqrt(np.maximum(share @ level**2 - mean**2, 0))),
        "count": np.array([len(wanted)]),
    }
    return stats | {
        name: column([level[min(int(np.searchsorted(row, q)), 255)] for row in below]) for name, q in _QUANTILES.items()
    }


def _aggregate(every: list[Stats]) -> Stats:
    """Statistics of all episodes; quantiles are means weighted by frames, as LeRobot has them."""
    count = np.array([stats["count"][0] for stats in every], np.float64)

    def mean(values: list[NDArray[Any]]) -> NDArray[np.float64]:
        return np.average(np.stack(values), axis=0, weights=count)

    centre = mean([stats["mean"] for stats in every])
    variance = mean([stats["std"] ** 2 + (stats["mean"] - centre) ** 2 for stats in every])
    total: Stats = {
        "min": np.min([stats["min"] for stats in every], axis=0),
        "max": np.max([stats["max"] for stats in every], axis=0),
        "mean": centre,
        "std": np.sqrt(variance),
        "count": np.array([int(count.sum())]),
    }
    return total | {name: mean([stats[name] for stats in every]) for name in _QUANTILES}


def _write_meta(
    root: Path,
    rows: list[dict[str, Any]],
    tasks: dict[str, int],
    every: list[dict[str, Stats]],
    features: dict[str, Any],
    fps: float,
    frames: int,
    robot_type: str,
) -> None:
    meta = root / "meta"
    episodes = meta / "episodes" / "chunk-000"
    episodes.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), episodes / "file-000.parquet")
    pandas = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [
            {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
        ],
        "columns": [
            {
                "name": "task_index",
                "field_name": "task_index",
                "pandas_type": "int64",
                "numpy_type": "int64",
                "metadata": None,
            },
            {
                "name": None,
                "field_name": "__index_level_0__",
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": None,
            },
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array(list(tasks.values()), pa.int64()), "__index_level_0__": list(tasks)})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), meta / "tasks.parquet")
    totals = {name: _aggregate([stats[name] for stats in every]) for name in every[0]}
    plain = {name: {kind: values.tolist() for kind, values in stats.items()} for name, stats in totals.items()}
    (meta / "stats.json").write_text(json.dumps(plain, indent=1) + "\n")
    info = {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": len(rows),
        "total_frames": frames,
        "total_tasks": len(tasks),
        "chunks_size": CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{len(rows)}"},
        "data_path": _DATA,
        "video_path": _VIDEO,
        "features": features,
    }
    (meta / "info.json").write_text(json.dumps(info, indent=1) + "\n")

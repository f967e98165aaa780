"""LeRobot data sets, versions 2.0, 2.1 and 3.0, read with pyarrow and PyAV.

The layout is stated by ``meta/info.json``: path templates, features with the names of their parts, and the rate. In
version 3 many episodes share a file, and ``meta/episodes`` says which part of each is an episode's.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..cameras.files import CalibratedCamera
from ..errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadFileError,
    BadImageError,
    BadVideoError,
    FrameCountError,
    InvalidTextError,
    InvalidTrajectoryError,
    MissingCalibrationError,
    SourceNotFoundError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
)
from ..model import Episode, EpisodeRef, FrameSource, SelectedFrames
from ..schemas.mapping import Arm
from ..untrusted import pictures, text
from .base import ConverterOptions, Detection, Streams
from .kit import tree as _tree
from .kit.tables import Table, arrow_values, parquet_names
from .recording import streams
from .recording.episode import assemble
from .recording.mapping import MappedConverter, gripper_samples, load_calibration, recorded_arms, state_of
from .recording.recording import Recording, ViewInput
from .recording.sync import PoseSamples, ScalarSamples, statistics

Image = NDArray[np.uint8]
INFO = "meta/info.json"
VERSIONS = ("v2.0", "v2.1", "v3.0")
_WIDTH = re.compile(r"0?\d{0,2}d?\Z")
_MAX_TEMPLATE = 1000
_MAX_FRAMES = 10_000_000
_KEYS = {"episode_chunk", "episode_index", "video_key", "chunk_index", "file_index"}


class LeRobotOptions(ConverterOptions):
    """Options of the LeRobot converter."""

    mapping: str | None = Field(None, description="mapping file (docs/mapping.md)")
    episodes: tuple[int, ...] = Field((), description="only these episode indices (default: all)")


@dataclass(frozen=True, eq=False)
class Dataset:
    """What ``meta/`` says of a data set."""

    root: Path
    version: str
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    data_path: str
    video_path: str
    chunk_size: int
    total: int

    @classmethod
    def load(cls, root: Path) -> Dataset:
        """Read ``meta/info.json``.

        Raises:
            SourceNotFoundError: There is none.
            UnsupportedSourceError: Another version.
            WrongFormatError: A field is missing or cannot be.
        """
        path = root / INFO
        info = text.load_json(path, limit=1 << 26)
        if not isinstance(info, dict):
            raise WrongFormatError("is not LeRobot's info.json", where=path, found=type(info).__name__)
        version = str(info.get("codebase_version", ""))
        if version not in VERSIONS:
            raise UnsupportedSourceError(
                "this version of LeRobot data sets is not supported",
                where=path,
                field="codebase_version",
                expected=" | ".join(VERSIONS),
                found=version or "none",
                hint="LeRobot's own scripts convert older data sets.",
            )
        try:
            features = {str(k): dict(v) for k, v in info["features"].items()}
            fps = float(info["fps"])
            chunk_size = int(info.get("chunks_size", 1000))
            if not (0 < fps < 1e6 and chunk_size > 0):
                raise ValueError(f"fps {fps}, chunks_size {chunk_size}")
            return cls(
                root,
                version,
                fps,
                features,
                str(info["data_path"]),
                str(info.get("video_path") or ""),
                chunk_size,
                int(info["total_episodes"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise WrongFormatError("is not LeRobot's info.json", where=path, found=repr(error)) from None

    @property
    def packed(self) -> bool:
        """Whether many episodes share a file."""
        return self.version == "v3.0"

    def labels(self) -> dict[str, list[str]]:
        """Names of the parts of each feature that has them."""
        found = {}
        for key, feature in self.features.items():
            names = feature.get("names")
            if isinstance(names, Mapping):
                names = [n for part in names.values() if isinstance(part, list) for n in part]
            if isinstance(names, list) and all(isinstance(n, str) for n in names):
                found[key] = names
        return found

    def path(self, template: str, **values: Any) -> Path:
        """A file by its template; `UnsafeFileError` for a template that leaves the data set."""
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
            if set(fields) - _KEYS:
                raise KeyError(sorted(set(fields) - _KEYS)[0])
            wide = next((w for _, _, w, _ in string.Formatter().parse(template) if w and not _WIDTH.match(w)), None)
            if wide is not None or len(template) > _MAX_TEMPLATE:
                raise ValueError(f"a width of {wide!r}")
            relative = template.format(**values)
        except (KeyError, ValueError, IndexError) as error:
            raise WrongFormatError(
                "is not a path template",
                where=self.root / INFO,
                expected=" ".join(sorted(_KEYS)),
                found=f"{template}: {error}",
            ) from None
        if Path(relative).is_absolute() or ".." in Path(relative).parts:
            raise UnsafeFileError("a file outside the data set is refused", where=self.root / INFO, found=relative)
        return self.root / relative

    def episodes(self) -> list[dict[str, Any]]:
        """What ``meta/`` says of each episode, in order of their indices."""
        rows = _packed_episodes(self.root) if self.packed else _listed_episodes(self.root)
        if not rows:
            raise WrongFormatError("lists no episodes", where=self.root / "meta")
        for row in rows:
            index, length = row.get("episode_index"), row.get("length")
            if not isinstance(index, int) or not isinstance(length, int) or not 0 <= length <= _MAX_FRAMES:
                raise WrongFormatError(
                    "an episode has no index or no sensible length",
                    where=self.root / "meta",
                    found=json.dumps(row, default=str),
                )
        return sorted(rows, key=lambda row: int(row["episode_index"]))

    def data_file(self, row: Mapping[str, Any]) -> Path:
        """The Parquet file that holds an episode's rows."""
        index = int(row["episode_index"])
        return self.path(
            self.data_path,
            episode_index=index,
            episode_chunk=index // self.chunk_size,
            chunk_index=int(row.get("data/chunk_index") or 0),
            file_index=int(row.get("data/file_index") or 0),
        )

    def table(self, row: Mapping[str, Any]) -> Table:
        """An episode's rows."""
        import pyarrow as pa

        path, index = self.data_file(row), int(row["episode_index"])
        if not path.is_file():
            raise SourceNotFoundError("no such file", where=path)
        try:
            names = parquet_names(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, ActionImgError):
                raise
            raise BadFileError(f"is not Parquet: {error}", where=path) from None

        def load(name: str) -> NDArray[Any]:
            return arrow_values(_column(path, name, index, names), path, name)

        return Table(names, load, path, self.labels())


def _column(path: Path, name: str, episode: int, names: Sequence[str]) -> Any:
    """One column of one episode's rows."""
    import pyarrow as pa
    from pyarrow import parquet

    filters = [("episode_index", "=", episode)] if "episode_index" in names else None
    try:
        return parquet.read_table(path, columns=[name], filters=filters, partitioning=None).column(0)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadFileError(f"is damaged: {error}", where=path, field=name) from None


def _json_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.read_bytes(path, text.MAX_JSON_BYTES).splitlines(), 1):
        if not line.strip():
            continue
        value = text.parse_json(line, path, f"line {number}")
        if not isinstance(value, dict):
            raise WrongFormatError("is not an object", where=path, field=f"line {number}")
        rows.append(value)
    return rows


def _listed_episodes(root: Path) -> list[dict[str, Any]]:
    return _json_lines(root / "meta" / "episodes.jsonl")


def _packed_episodes(root: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    folder = root / "meta" / "episodes"
    files = sorted(folder.rglob("*.parquet"), key=lambda p: _tree.natural_key(p.as_posix()))
    if not files:
        raise SourceNotFoundError("no episodes are listed", where=folder, expected="*.parquet")
    rows: list[dict[str, Any]] = []
    for path in files:
        try:
            # Statistics of every feature lie beside what is needed here, and are large.
            names = [n for n in parquet_names(path) if not n.startswith("stats/")]
            rows.extend(parquet.read_table(path, columns=names, partitioning=None).to_pylist())
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, ActionImgError):
                raise
            raise BadFileError(f"is not Parquet: {error}", where=path) from None
    return rows


@dataclass(frozen=True)
class ParquetImages:
    """Encoded pictures in a Parquet column of ``{bytes, path}``, one a row of one episode."""

    path: Path
    column: str
    episode: int
    count: int
    width: int
    height: int

    @classmethod
    def open(cls, path: Path, column: str, episode: int) -> ParquetImages:
        """Count the pictures and decode the first for its size."""
        first = cls(path, column, episode, 0, 0, 0)
        data = first._encoded()
        if not data:
            raise BadFileError("has no pictures", where=path, field=column)
        picture = pictures.decode(data[0], f"{path}: {column}[0]")
        return replace(first, count=len(data), width=picture.shape[1], height=picture.shape[0])

    def _encoded(self) -> list[bytes]:
        from pyarrow import parquet

        values = _column(self.path, self.column, self.episode, parquet.read_schema(self.path).names).to_pylist()
        data = [v.get("bytes") if isinstance(v, dict) else v for v in values]
        encoded = [d for d in data if isinstance(d, bytes)]
        if len(encoded) != len(data):
            raise WrongFormatError("does not hold encoded pictures", where=self.path, field=self.column)
        return encoded

    def __len__(self) -> int:
        return self.count

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """The pictures at ``indices``."""
        data = self._encoded()
        for i in indices:
            where = f"{self.path}: {self.column}[{i}]"
            picture = pictures.decode(data[i], where)
            if picture.shape[:2] != (self.height, self.width):
                raise BadImageError(
                    "has another size than the first",
                    where=where,
                    expected=f"{self.width}x{self.height}",
                    found=f"{picture.shape[1]}x{picture.shape[0]}",
                )
            yield picture


class LeRobotConverter(MappedConverter):
    """LeRobot data sets, with a mapping file for what their features mean."""

    name: ClassVar[str] = "lerobot"
    summary: ClassVar[str] = "LeRobot data sets 2.0, 2.1 and 3.0, explained by a mapping file"
    Options: ClassVar[type[ConverterOptions]] = LeRobotOptions

    def __init__(self, options: ConverterOptions | None = None) -> None:
        super().__init__(options)
        self._dataset: Dataset | None = None
        self._rows: dict[int, dict[str, Any]] = {}

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether ``source`` holds LeRobot's ``meta/info.json``."""
        path = Path(source) / INFO
        try:
            info = json.loads(path.read_bytes()) if path.is_file() and path.stat().st_size < 1 << 26 else None
        except (OSError, ValueError):
            return None
        if not isinstance(info, dict) or "codebase_version" not in info:
            return None
        return Detection("LeRobot", f"{info['codebase_version']}, {info.get('total_episodes', '?')} episodes")

    def _open(self, root: Path) -> tuple[Dataset, dict[int, dict[str, Any]]]:
        if self._dataset is None or self._dataset.root != root:
            self._dataset = Dataset.load(root)
            self._rows = {int(row["episode_index"]): row for row in self._dataset.episodes()}
        return self._dataset, self._rows

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """One reference for each episode that ``meta/`` lists, in order of their indices."""
        loaded = self.mapping()
        root = _tree.source_folder(source)
        dataset, rows = self._open(root)
        wanted = self.options.episodes or tuple(rows)
        missing = [i for i in wanted if i not in rows]
        if missing:
            raise WrongFormatError(
                "has no such episode", where=root, field="episodes", expected=f"0 … {max(rows)}", found=missing[0]
            )
        content = state_of(loaded, (root, loaded.folder))
        stamps: dict[Path, str] = {}
        for index in wanted:
            path = dataset.data_file(rows[index])
            if path not in stamps:
                stamps[path] = _tree.file_stamp(path) if path.is_file() else "-1"
            state = f"{content} {stamps[path]} {json.dumps(rows[index], sort_keys=True, default=str)}"
            yield EpisodeRef(
                f"episode_{index:06d}",
                {"source": str(root), "index": index},
                num_frames=int(rows[index]["length"]),
                fingerprint=hashlib.sha256(state.encode()).hexdigest()[:16],
            )

    def read(self, ref: EpisodeRef) -> Episode:
        """One episode; its videos are counted, not decoded."""
        return assemble(self.recording(ref))

    def recording(self, ref: EpisodeRef) -> Recording:
        """Everything that the episode's rows and the mapping say."""
        loaded = self.mapping()
        mapping = loaded.mapping
        dataset, rows = self._open(Path(ref.location["source"]))
        row = rows[int(ref.location["index"])]
        table = dataset.table(row)
        count = int(row["length"])
        if mapping.sync.mode == "rows" and abs((mapping.sync.fps or 0) / dataset.fps - 1) > 1e-3:
            raise WrongFormatError(
                "is not the data set's rate",
                where=loaded.path,
                field="sync.fps",
                expected=dataset.fps,
                found=mapping.sync.fps,
            )
        times = np.arange(count) / dataset.fps
        _check_stamps(table, times, count, dataset.fps)

        def arm(arm: Arm, prefix: str) -> tuple[PoseSamples, ScalarSamples]:
            poses = streams.poses_from_table(table, arm.pose, times, loaded.folder)
            return poses, gripper_samples(table, arm.gripper, times)

        beside = (dataset.root, loaded.folder)
        views = {}
        for name, view in mapping.views.items():
            frames = self._frames(dataset, row, str(view.feature))
            camera_poses = None
            if view.camera.poses is not None:
                camera_poses = streams.poses_from_table(table, view.camera.poses, times, loaded.folder)
            if view.camera.K_columns is not None:
                K = _constant_K(table.numbers(view.camera.K_columns, 9), table.where, name)
                camera = CalibratedCamera(K, frames.width, frames.height)
            else:
                camera = load_calibration(view.camera, beside, name)
            views[name] = ViewInput(frames, None, camera, camera_poses, view.flip, view.camera.scaled)
            views[name] = replace(views[name], arm=view.camera.gripper or "")
        return Recording(
            id=ref.id,
            arms=recorded_arms(mapping, arm),
            views=views,
            instructions=self._instructions(dataset, row, table),
            rows_fps=dataset.fps,
            task=mapping.task,
            provenance={
                "format": "lerobot",
                "version": dataset.version,
                "episode": int(row["episode_index"]),
                "mapping": loaded.fingerprint,
            },
        )

    def _frames(self, dataset: Dataset, row: Mapping[str, Any], key: str) -> FrameSource:
        from ..video import VideoFrames

        index, count = int(row["episode_index"]), int(row["length"])
        feature = dataset.features.get(key)
        keys = sorted(k for k, f in dataset.features.items() if f.get("dtype") in ("video", "image"))
        if feature is None or key not in keys:
            raise WrongFormatError(
                "has no such pictures", where=dataset.root, field=key, expected=" | ".join(keys), found=key
            )
        if feature["dtype"] == "image":
            return ParquetImages.open(dataset.data_file(row), key, index)
        path = dataset.path(
            dataset.video_path,
            episode_index=index,
            episode_chunk=index // dataset.chunk_size,
            video_key=key,
            chunk_index=int(row.get(f"videos/{key}/chunk_index") or 0),
            file_index=int(row.get(f"videos/{key}/file_index") or 0),
        )
        video = VideoFrames(path)
        if video.fps is not None and abs(video.fps / dataset.fps - 1) > 0.01:
            raise BadVideoError(
                "runs at another rate than the data set",
                where=path,
                expected=f"{dataset.fps:g}",
                found=f"{video.fps:g}",
            )
        if not dataset.packed:
            if len(video) != count:
                raise FrameCountError(
                    "video and rows differ in number", where=path, expected=f"{count} pictures", found=len(video)
                )
            return video
        start_s = row.get(f"videos/{key}/from_timestamp")
        if not isinstance(start_s, (int, float)):
            raise WrongFormatError(
                "does not say where the episode begins in its video", where=dataset.root / "meta/episodes", field=key
            )
        start = round(float(start_s) * dataset.fps)
        if start + count > len(video):
            raise FrameCountError(
                "video ends before the episode",
                where=path,
                field=f"episode {index}",
                expected=f"{start + count} pictures",
                found=len(video),
            )
        return SelectedFrames(video, np.arange(start, start + count))

    def _instructions(self, dataset: Dataset, row: Mapping[str, Any], table: Table) -> tuple[str, ...]:
        instruction = self.mapping().mapping.instruction
        if instruction is not None and instruction.text is not None:
            return (instruction.text,)
        if instruction is not None and instruction.column is not None:
            return (str(table.column(instruction.column)[0]),)
        if instruction is not None:
            raise AmbiguousSourceError(
                "LeRobot has instructions of its own",
                where=self.mapping().path,
                field="instruction",
                expected="text | column",
            )
        tasks = row.get("tasks")
        texts = [str(t).strip() for t in ([tasks] if isinstance(tasks, str) else tasks or [])]
        texts = [t for t in texts if t]
        if not texts:
            raise InvalidTextError("has no task", where=dataset.root / "meta", field=f"episode {row['episode_index']}")
        return tuple(dict.fromkeys(texts))

    def streams(self, source: str) -> Streams:
        """Stamps of the first episode's rows."""
        dataset, rows = self._open(_tree.source_folder(source))
        first = min(rows)
        table = dataset.table(rows[first])
        if "timestamp" not in table.names:
            return Streams(str(first))
        times = table.column("timestamp").reshape(-1).astype(np.float64)
        return Streams(str(first), {"rows": statistics(times).to_json()}, {"rows": times})

    def inspect(self, source: str) -> dict[str, Any]:
        """Features with shapes and names, episodes, and the first one's stamps."""
        root = _tree.source_folder(source)
        dataset, rows = self._open(root)
        first = rows[min(rows)]
        table = dataset.table(first)
        found: dict[str, Any] = {
            "format": self.name,
            "version": dataset.version,
            "episodes": len(rows),
            "frames": sum(int(row["length"]) for row in rows.values()),
            "fps": dataset.fps,
            "features": {
                key: {"dtype": f.get("dtype"), "shape": f.get("shape"), "names": dataset.labels().get(key)}
                for key, f in dataset.features.items()
            },
        }
        if "timestamp" in table.names:
            found["streams"] = {"rows": statistics(table.column("timestamp").reshape(-1)).to_json()}
        return found


def _check_stamps(table: Table, times: NDArray[np.float64], count: int, fps: float) -> None:
    """Rows and pictures belong together one by one only while no row is missing."""
    if "timestamp" not in table.names:
        return
    stamps = table.column("timestamp").reshape(-1).astype(np.float64)
    if len(stamps) != count:
        raise FrameCountError("rows and the stated length differ", where=table.where, expected=count, found=len(stamps))
    drift = np.abs(stamps - stamps[0] - times)
    if not (drift.max(initial=0) <= 0.5 / fps):
        worst = int(np.nanargmax(drift)) if np.isfinite(drift).any() else 0
        raise InvalidTrajectoryError(
            "stamps do not follow the stated rate",
            where=table.where,
            field=f"timestamp[{worst}]",
            expected=f"{times[worst]:.4f} s at {fps:g} Hz",
            found=f"{stamps[worst] - stamps[0]:.4f} s",
        )


def _constant_K(values: NDArray[np.float64], where: object, name: str) -> NDArray[np.float64]:
    if np.ptp(values, axis=0).max() > 1e-6:
        raise MissingCalibrationError("intrinsics that change with time are not supported", where=where, field=name)
    return np.asarray(values[0].reshape(3, 3))

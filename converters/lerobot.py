"""LeRobot data sets, versions 2.0, 2.1 and 3.0, read with pyarrow and PyAV.

The layout is stated by ``meta/info.json``: path templates, features with the names of their parts, and the rate. In
version 3 many episodes share a file, and ``meta/episodes`` says which part of each is an episode's.
"""

from __future__ import annotations

import hashlib
import itertools
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
    InvalidTrajectoryError,
    SourceNotFoundError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
)
from ..model import Episode, EpisodeRef, FrameSource, SelectedFrames, instruction_spans
from ..schemas.mapping import Arm
from ..untrusted import pictures, text
from ..untrusted.files import plain, read_bytes
from .base import ConverterOptions, Detection, Streams
from .kit.frame_times import frames_at
from .kit.frames import TurnedFrames
from .kit.lerobot_files import INFO, data_sets, rows_file, task_names, texts_of_rows
from .kit.tables import Table, arrow_values, parquet_names
from .kit.tree import file_stamp, natural_key, plain_id, some_files, source_folder
from .recording import streams
from .recording.episode import assemble
from .recording.mapping import (
    K_of_columns,
    MappedConverter,
    gripper_samples,
    load_calibration,
    recorded_arms,
    state_of,
)
from .recording.recording import Recording, ViewInput
from .recording.sync import PoseSamples, ScalarSamples, statistics

Image = NDArray[np.uint8]
VERSIONS = ("v2.0", "v2.1", "v3.0")
_WIDTH = re.compile(r"0?\d{0,2}d?\Z")
_MAX_TEMPLATE = 1000
_MAX_FRAMES = 10_000_000
_KEYS = {"episode_chunk", "episode_index", "video_key", "chunk_index", "file_index"}


class LeRobotOptions(ConverterOptions):
    """Options of the LeRobot converter."""

    mapping: str | None = Field(None, description="mapping file (docs/mapping.md)")
    split_by_task: bool = Field(
        False, description="make an episode of each part in which the task stays the same, where an episode has several"
    )
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
    total_frames: int | None = None

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
                None if info.get("total_frames") is None else int(info["total_frames"]),
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
        rows = sorted(rows, key=lambda row: int(row["episode_index"]))
        self._check_totals(rows)
        return rows

    def _check_totals(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Hold what ``meta/`` says more than once against itself.

        Raises:
            WrongFormatError: An episode is listed twice, or the totals are others.
        """
        where = self.root / "meta"
        indices = [int(row["episode_index"]) for row in rows]
        twice = next((a for a, b in itertools.pairwise(indices) if a == b), None)
        if twice is not None:
            raise WrongFormatError("lists an episode twice", where=where, field="episode_index", found=twice)
        frames = sum(int(row["length"]) for row in rows)
        for name, stated, found in (
            ("total_episodes", self.total, len(rows)),
            ("total_frames", self.total_frames, frames),
        ):
            if stated is not None and stated != found:
                raise WrongFormatError(
                    "is not what the episodes add up to",
                    where=self.root / INFO,
                    field=name,
                    expected=f"{found}, as meta/episodes has it",
                    found=stated,
                    hint="Was the data set cut, joined or interrupted? LeRobot's own tools mend its metadata.",
                )

    def conflicts(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, WrongFormatError]:
        """Episodes whose places, in rows and in videos, are not as long as they are, or overlap; with what is wrong."""
        wrong: dict[int, WrongFormatError] = {}
        kinds: list[tuple[str, str, float, tuple[str, ...]]] = [("dataset_from_index", "dataset_to_index", 1.0, ())]
        for key in (k for k, f in self.features.items() if f.get("dtype") == "video"):
            prefix = f"videos/{key}"
            own = (f"{prefix}/chunk_index", f"{prefix}/file_index")
            kinds.append((f"{prefix}/from_timestamp", f"{prefix}/to_timestamp", 1 / self.fps, own))
        for first, last, unit, files in kinds:
            places: dict[tuple[Any, ...], list[tuple[float, float, int]]] = {}
            for row in rows:
                start, end, index = row.get(first), row.get(last), int(row["episode_index"])
                if not isinstance(start, (int, float)) or not isinstance(end, (int, float)):
                    continue
                length = int(row["length"]) * unit
                if abs(end - start - length) > 0.5 * unit:
                    wrong[index] = self._conflict("is not as long as the episode", index, first, length, end - start)
                places.setdefault(tuple(row.get(name) for name in files), []).append((start, end, index))
            for found_places in places.values():
                for (a, b, one), (c, d, other) in itertools.pairwise(sorted(found_places)):
                    if min(b, d) - c > 0.5 * unit:
                        for index, theirs in ((one, other), (other, one)):
                            found = f"{a:g} … {b:g} and {c:g} … {d:g}"
                            text = f"overlaps episode {theirs}"
                            wrong[index] = self._conflict(text, index, first, "places of their own", found)
        return wrong

    def _conflict(self, what: str, index: int, name: str, expected: object, found: object) -> WrongFormatError:
        place = f"episode {index}: {name}"
        return WrongFormatError(what, where=self.root / "meta/episodes", field=place, expected=expected, found=found)

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

    def rows_file(self, row: Mapping[str, Any]) -> Path:
        """The Parquet file in which an episode's rows are found: the stated one, or one beside it."""
        path = self.data_file(row)
        if not self.packed:
            if not path.is_file():
                raise SourceNotFoundError("no such file", where=path)
            return path
        chunk, number = int(row.get("data/chunk_index") or 0), int(row.get("data/file_index") or 0)
        # A chunk holds ``chunk_size`` files; then the next begins.
        beside = [(chunk, number + 1), (chunk + 1, 0), (chunk, number - 1), (chunk - 1, self.chunk_size - 1)]
        places = [
            {"data/chunk_index": c, "data/file_index": n, "episode_index": row["episode_index"]}
            for c, n in beside
            if c >= 0 and n >= 0
        ]
        return rows_file(path, [self.data_file(place) for place in places], int(row["episode_index"]))

    def texts(self, row: Mapping[str, Any], table: Table) -> tuple[str, ...]:
        """The instruction of each row of an episode, or one for all of them; see `lerobot_files.texts_of_rows`."""
        indices = table.column("task_index").reshape(-1) if "task_index" in table.names else None
        return texts_of_rows(row, indices, task_names(self.root), self.root / "meta")

    def table(self, row: Mapping[str, Any]) -> Table:
        """An episode's rows."""
        import pyarrow as pa

        path, index = self.rows_file(row), int(row["episode_index"])
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
        return parquet.read_table(plain(path), columns=[name], filters=filters, partitioning=None).column(0)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadFileError(f"is damaged: {error}", where=path, field=name) from None


def _json_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(read_bytes(path, text.MAX_JSON_BYTES).splitlines(), 1):
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
    found = some_files(folder, ".parquet", 100_000) if folder.is_dir() else ()
    files = sorted(found, key=lambda p: natural_key(p.as_posix()))
    if not files:
        raise SourceNotFoundError("no episodes are listed", where=folder, expected="*.parquet")
    rows: list[dict[str, Any]] = []
    for path in files:
        try:
            # Statistics of every feature lie beside what is needed here, and are large.
            names = [n for n in parquet_names(path) if not n.startswith("stats/")]
            rows.extend(parquet.read_table(plain(path), columns=names, partitioning=None).to_pylist())
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
        picture = pictures.decode(data[0], f"{path}: {column}[0]", oriented=True)
        return replace(first, count=len(data), width=picture.shape[1], height=picture.shape[0])

    def _encoded(self) -> list[bytes]:
        from pyarrow import parquet

        values = _column(self.path, self.column, self.episode, parquet.read_schema(plain(self.path)).names).to_pylist()
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
            picture = pictures.decode(data[i], where, oriented=True)
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
        self._conflicts: dict[int, WrongFormatError] = {}

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether ``source`` holds LeRobot's ``meta/info.json``, or folders right below it do."""
        try:
            root = Path(source)
            sets = data_sets(root) if root.is_dir() else []
            path = sets[0] / INFO if sets else root / INFO
            info = text.load_json(path, limit=1 << 26) if path.is_file() else None
        except (ActionImgError, OSError):
            return None
        if not isinstance(info, dict) or "codebase_version" not in info:
            return None
        several = f"{len(sets)} data sets, the first of " if len(sets) > 1 else ""
        return Detection("LeRobot", f"{several}{info['codebase_version']}, {info.get('total_episodes', '?')} episodes")

    def _open(self, root: Path) -> tuple[Dataset, dict[int, dict[str, Any]]]:
        if self._dataset is None or self._dataset.root != root:
            self._dataset = Dataset.load(root)
            self._rows = {int(row["episode_index"]): row for row in self._dataset.episodes()}
            self._conflicts = self._dataset.conflicts(list(self._rows.values()))
        return self._dataset, self._rows

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """One reference for each episode that ``meta/`` lists, in order of their indices, set by set."""
        top = source_folder(source)
        for root in _sets(top):
            name = root.relative_to(top).as_posix()
            for ref in self._discover(root):
                yield ref if name == "." else replace(ref, id=f"{plain_id(name)}/{ref.id}")

    def _discover(self, root: Path) -> Iterator[EpisodeRef]:
        loaded = self.mapping()
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
                stamps[path] = _stamp(path)
            whole = EpisodeRef(
                f"episode_{index:06d}",
                {"source": str(root), "index": index},
                num_frames=int(rows[index]["length"]),
                fingerprint=_fingerprint(content, stamps[path], rows[index]),
            )
            yield from self._parts(dataset, rows[index], whole) if self.options.split_by_task else [whole]

    def _parts(self, dataset: Dataset, row: Mapping[str, Any], whole: EpisodeRef) -> Iterator[EpisodeRef]:
        """An episode's reference, or one for each part in which its task stays the same."""
        try:
            spans = instruction_spans(self._texts(dataset, row, dataset.table(row)))
        except ActionImgError:
            # Its own reason is found again, and told, when it is read.
            spans = ()
        if not spans:
            yield whole
        for number, span in enumerate(spans):
            place = {**whole.location, "start": span.start, "end": span.end}
            yield replace(whole, id=f"{whole.id}_part_{number}", location=place, num_frames=span.end - span.start)

    def remote_headers(self) -> tuple[str, ...]:
        """What is read to list the episodes; split by task, they are listed by their rows."""
        return (*super().remote_headers(), *(("data/*", "*/data/*") if self.options.split_by_task else ()))

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """The episode's fingerprint as its files are now."""
        loaded = self.mapping()
        root = Path(ref.location["source"])
        dataset, rows = self._open(root)
        row = rows[ref.location["index"]]
        return _fingerprint(state_of(loaded, (root, loaded.folder)), _stamp(dataset.data_file(row)), row)

    def read(self, ref: EpisodeRef) -> Episode:
        """One episode; its videos are counted, not decoded."""
        episode = assemble(self.recording(ref))
        if "start" not in ref.location:
            return episode
        start, end = int(ref.location["start"]), int(ref.location["end"])
        if not 0 <= start < end <= len(episode):
            raise WrongFormatError("has changed", where=ref.id, expected=f"{start} … {end}", found=len(episode))
        part = episode.select(range(start, end))
        first = float(part.times[0])
        grippers = {name: replace(g, times=g.times - first) for name, g in part.grippers.items()}
        about = {**part.provenance, "frames": [start, end]}
        return replace(part, grippers=grippers, provenance=about)

    def recording(self, ref: EpisodeRef) -> Recording:
        """Everything that the episode's rows and the mapping say."""
        loaded = self.mapping()
        mapping = loaded.mapping
        dataset, rows = self._open(Path(ref.location["source"]))
        row = rows[int(ref.location["index"])]
        if (conflict := self._conflicts.get(int(row["episode_index"]))) is not None:
            raise conflict
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
        texts = self._texts(dataset, row, table)

        def arm(arm: Arm, prefix: str) -> tuple[PoseSamples, ScalarSamples]:
            poses = streams.poses_from_table(table, arm.pose, times, loaded.folder, mapping.limits)
            return poses, gripper_samples(table, arm.gripper, times)

        beside = (dataset.root, loaded.folder)
        views = {}
        for name, view in self.chosen_views().items():
            frames = self._frames(dataset, row, str(view.feature), view.rotation == "applied")
            frames = TurnedFrames(frames, view.rotate) if view.rotate else frames
            camera_poses = None
            if view.camera.poses is not None:
                camera_poses = streams.poses_from_table(table, view.camera.poses, times, loaded.folder, mapping.limits)
            camera: CalibratedCamera | None
            if view.camera.K_columns is not None:
                K = K_of_columns(table.numbers(view.camera.K_columns, 9), table.where, name)
                camera = CalibratedCamera(K, frames.width, frames.height)
            else:
                camera = load_calibration(view.camera, beside, name, (frames.width, frames.height))
            views[name] = ViewInput(frames, None, camera, camera_poses, view.flip, view.camera.scaled)
            views[name] = replace(views[name], arm=view.camera.gripper or "")
        return Recording(
            id=ref.id,
            arms=recorded_arms(mapping, arm, lambda wanted, field: (table, times)),
            views=views,
            instructions=tuple(dict.fromkeys(texts)),
            texts=texts if len(texts) > 1 else (),
            rows_fps=dataset.fps,
            task=mapping.task,
            provenance={
                "format": "lerobot",
                "version": dataset.version,
                "episode": int(row["episode_index"]),
                "mapping": loaded.fingerprint,
            },
        )

    def _frames(self, dataset: Dataset, row: Mapping[str, Any], key: str, oriented: bool = True) -> FrameSource:
        from ..video import VideoFrames

        index, count = int(row["episode_index"]), int(row["length"])
        feature = dataset.features.get(key)
        keys = sorted(k for k, f in dataset.features.items() if f.get("dtype") in ("video", "image"))
        if feature is None or key not in keys:
            raise WrongFormatError(
                "has no such pictures", where=dataset.root, field=key, expected=" | ".join(keys), found=key
            )
        if feature["dtype"] == "image":
            return ParquetImages.open(dataset.rows_file(row), key, index)
        path = dataset.path(
            dataset.video_path,
            episode_index=index,
            episode_chunk=index // dataset.chunk_size,
            video_key=key,
            chunk_index=int(row.get(f"videos/{key}/chunk_index") or 0),
            file_index=int(row.get(f"videos/{key}/file_index") or 0),
        )
        video = VideoFrames(path, oriented=oriented)
        # Pictures that were lost lower the mean of the rate, and leave most periods as they are.
        rate = video.fps if video.times is None or len(video) < 3 else 1 / float(np.median(np.diff(video.times)))
        if rate is not None and abs(rate / dataset.fps - 1) > 0.01:
            raise BadVideoError(
                "runs at another rate than the data set",
                where=path,
                expected=f"{dataset.fps:g}",
                found=f"{rate:.4g}",
            )
        if not dataset.packed and len(video) != count:
            raise FrameCountError(
                "video and rows differ in number", where=path, expected=f"{count} pictures", found=len(video)
            )
        start_s: object = 0.0
        if dataset.packed:
            start_s = row.get(f"videos/{key}/from_timestamp")
            if not isinstance(start_s, (int, float)):
                raise WrongFormatError(
                    "does not say where the episode begins in its video",
                    where=dataset.root / "meta/episodes",
                    field=key,
                )
        if video.times is None:
            raise BadVideoError("has no time stamps, by which an episode's pictures are found", where=path)
        # A file of one episode begins with it, whatever its first stamp; in one of many, places are times.
        stamps = video.times if dataset.packed else video.times - video.times[0]
        wanted = float(start_s) + np.arange(count) / dataset.fps  # type: ignore[arg-type]
        if count and wanted[-1] > stamps[-1] + 0.5 / dataset.fps:
            raise FrameCountError(
                "video ends before the episode",
                where=path,
                field=f"episode {index}",
                expected=f"pictures up to {wanted[-1]:.3f} s",
                found=f"{stamps[-1]:.3f} s",
            )
        chosen = frames_at(stamps, wanted, 1 / dataset.fps, f"{path}: episode {index}")
        return SelectedFrames(video, chosen) if dataset.packed else video

    def _texts(self, dataset: Dataset, row: Mapping[str, Any], table: Table) -> tuple[str, ...]:
        """The instruction of each row, or one for all of them."""
        instruction = self.mapping().mapping.instruction
        if instruction is None:
            return dataset.texts(row, table)
        if instruction.text is not None:
            return (instruction.text,)
        if instruction.column is not None:
            return tuple(str(text).strip() for text in table.column(instruction.column).reshape(-1))
        raise AmbiguousSourceError(
            "LeRobot has instructions of its own",
            where=self.mapping().path,
            field="instruction",
            expected="text | column",
        )

    def streams(self, source: str) -> Streams:
        """Stamps of the first episode's rows."""
        dataset, rows = self._open(_sets(source_folder(source))[0])
        first = min(rows)
        table = dataset.table(rows[first])
        if "timestamp" not in table.names:
            return Streams(str(first))
        times = table.column("timestamp").reshape(-1).astype(np.float64)
        return Streams(str(first), {"rows": statistics(times).to_json()}, {"rows": times})

    def inspect(self, source: str) -> dict[str, Any]:
        """Features with shapes and names, episodes, and the first one's stamps."""
        top = source_folder(source)
        sets = _sets(top)
        dataset, rows = self._open(sets[0])
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
        if len(sets) > 1:
            found["data_sets"] = [path.relative_to(top).as_posix() for path in sets]
        if "timestamp" in table.names:
            found["streams"] = {"rows": statistics(table.column("timestamp").reshape(-1)).to_json()}
        return found


def _sets(root: Path) -> list[Path]:
    """The data sets at a source.

    Raises:
        SourceNotFoundError: None.
    """
    found = data_sets(root)
    if not found:
        raise SourceNotFoundError("no such file", where=root / INFO)
    return found


def _check_stamps(table: Table, times: NDArray[np.float64], count: int, fps: float) -> None:
    """Rows and pictures belong together one by one only while no row is missing."""
    if "timestamp" not in table.names:
        return
    if "frame_index" in table.names:
        numbers = table.column("frame_index").reshape(-1)
        if len(numbers) == count and not np.array_equal(numbers, np.arange(count)):
            wrong = int(np.flatnonzero(numbers != np.arange(count))[0])
            raise InvalidTrajectoryError(
                "rows are not those of the episode in order",
                where=table.where,
                field=f"frame_index[{wrong}]",
                expected=wrong,
                found=numbers[wrong],
            )
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


def _stamp(path: Path) -> str:
    return file_stamp(path) if path.is_file() else "-1"


def _fingerprint(content: str, stamp: str, row: dict[str, Any]) -> str:
    state = f"{content} {stamp} {json.dumps(row, sort_keys=True, default=str)}"
    return hashlib.sha256(state.encode()).hexdigest()[:16]

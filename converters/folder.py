"""Plain folders: a table of poses, videos or pictures, a calibration file, and a mapping file that explains them."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..cameras.calibrated import CalibratedCamera
from ..errors import InvalidSpecError, SourceNotFoundError, WrongFormatError
from ..model import Episode, EpisodeRef, FrameSource, GripperTrajectory, View
from ..schemas.mapping import Arm, ArmJoints, PoseStream, ViewCamera, ViewSource
from ..schemas.plausibility import Finding, FindingKind, Limits
from ..video import VideoFrames
from .base import ConverterOptions, Detection, Streams
from .kit.frames import HDF5Frames, ImageFiles, TurnedFrames, ZarrFrames
from .kit.tables import TABLE_SUFFIXES, Table, open_table, table_suffix
from .kit.tree import file_names, file_stamp, files_with_sizes, natural_key, plain_id, source_folder, subfolders
from .kit.videos import (
    VIDEO_SUFFIXES,
    common_rate,
    instructions_beside,
    no_videos,
    open_videos,
    video_files,
    video_folders,
)
from .recording import streams
from .recording.episode import assemble
from .recording.inspection import inspect_recordings, recorded_streams
from .recording.mapping import (
    K_of_columns,
    LoadedMapping,
    MappedConverter,
    clocked,
    find_beside,
    gripper_samples,
    inside,
    instruction_from_file,
    load_calibration,
    recorded_arms,
    stamps,
    state_of,
    with_pose,
    with_pose_columns,
)
from .recording.options import StampedOptions
from .recording.plausibility import video_findings
from .recording.recording import Recording, ViewInput
from .recording.sync import PoseSamples, ScalarSamples, SyncLimits

FloatArray = NDArray[np.float64]


class FolderOptions(StampedOptions):
    """Options of the folder converter."""

    mapping: str | None = Field(None, description="mapping file (docs/mapping.md)")
    videos_only: bool = Field(
        False,
        description="no poses, and no mapping: each folder with videos is an episode, its videos are its views, and "
        "its instruction.txt says what it does",
    )
    each_video: bool = Field(False, description="with --videos-only: each video is an episode of its own, of one view")
    instruction: str | None = Field(None, description="with --videos-only: of episodes without an instruction.txt")
    fps: float | None = Field(
        None, gt=0, le=1000, description="with --videos-only: frames per second, in place of what the videos state"
    )


class FolderConverter(MappedConverter):
    """Folders of CSV, JSONL, NPZ, Parquet, HDF5 or zarr tables beside videos or pictures."""

    name: ClassVar[str] = "folder"
    summary: ClassVar[str] = "plain recordings: pose tables + videos + calibration, explained by a mapping file"
    Options: ClassVar[type[ConverterOptions]] = FolderOptions

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether ``source``, or a folder right below it, holds a table beside videos or pictures."""
        root = Path(source)
        if _is_whole(root):
            return Detection("folder", f"{root.name} as a table", general=True)
        try:
            folders = [root, *subfolders(root)[:8]] if root.is_dir() else []
            for folder in folders:
                videos = file_names(folder, VIDEO_SUFFIXES)
                tables = file_names(folder, (".csv", ".jsonl", ".npz", ".parquet")) if videos else []
                if tables:
                    return Detection("folder", f"{', '.join(tables[:3])} beside {len(videos)} videos")
        except (OSError, ValueError, WrongFormatError):
            return None
        return None

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """One reference for each folder that holds the mapping's pose table, or for each group within one.

        Of videos alone one for each folder that holds some, or for each video.
        """
        if self.videos_only:
            yield from self._discover_videos(source_folder(source))
            return
        loaded = self.mapping()
        mapping = loaded.mapping
        pose_file = _pose_file(loaded)
        whole = Path(source).absolute()
        if _is_whole(whole) and fnmatch(whole.name, pose_file):
            root, places = whole.parent, iter([(whole.parent, whole)])
        else:
            root = source_folder(source)
            places = _episode_folders(root, pose_file, mapping.episodes)
        found = False
        for folder, file in places:
            for group in _groups(file, mapping.group):
                found = True
                relative = folder.relative_to(root).as_posix()
                stem = root.name if relative == "." else relative
                if mapping.group is not None:
                    stem = f"{stem}/{file.name}/{group}"
                elif any(c in pose_file for c in "*?["):
                    stem = f"{stem}/{file.stem}"
                yield EpisodeRef(
                    id=plain_id(stem),
                    location={
                        "source": str(root),
                        "path": relative,
                        "file": file.relative_to(folder).as_posix(),
                        "group": group,
                    },
                    fingerprint=_fingerprint(loaded, root, folder, file, group),
                )
        if not found:
            raise WrongFormatError(
                "no episode found",
                where=root,
                expected=f"folders that hold {pose_file}"
                + (f" and match {mapping.episodes}" if mapping.episodes else "")
                + (f", with groups {mapping.group}" if mapping.group else ""),
            )

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """The episode's fingerprint as its files are now."""
        at = ref.location
        if self.videos_only:
            return _video_fingerprint(Path(at["source"]) / at["path"], at["file"])
        folder = Path(at["source"]) / at["path"]
        return _fingerprint(self.mapping(), Path(at["source"]), folder, folder / at["file"], at["group"])

    def read(self, ref: EpisodeRef) -> Episode:
        """One episode; videos are counted, not decoded, until their pictures are asked for."""
        if self.videos_only:
            return self._read_videos(ref)
        return assemble(self.recording(ref), self.options.time_offset)

    def _discover_videos(self, root: Path) -> Iterator[EpisodeRef]:
        if self.options.mapping is not None:
            raise InvalidSpecError(
                "explains poses, and videos alone have none", field="mapping", found=self.options.mapping
            )
        found = False
        for folder in video_folders(root):
            place = folder.relative_to(root).as_posix()
            for file in video_files(folder) if self.options.each_video else (None,):
                found = True
                stem = "/".join(part for part in (root.name if place == "." else place, file and file.stem) if part)
                name = "" if file is None else file.relative_to(folder).as_posix()
                location = {"source": str(root), "path": place, "file": name, "group": None}
                yield EpisodeRef(plain_id(stem), location, fingerprint=_video_fingerprint(folder, name))
        if not found:
            raise no_videos(root)

    def _read_videos(self, ref: EpisodeRef) -> Episode:
        folder = Path(ref.location["source"]) / ref.location["path"]
        name = str(ref.location["file"])
        files = [folder / name] if name else video_files(folder)
        videos = open_videos(files, folder)
        if name:
            videos = {"video": next(iter(videos.values()))}
        fps = common_rate(videos, self.options.fps)
        count = len(next(iter(videos.values())))
        stem = files[0].stem if name else None
        return Episode(
            id=ref.id,
            views={view: View(None, frames) for view, frames in videos.items()},
            trajectory=GripperTrajectory.unknown(np.arange(count) / fps),
            fps=fps,
            instructions=instructions_beside((files[0].parent, folder), self.options.instruction, stem),
            provenance={"format": "folder", "path": ref.location["path"], "videos": [f.name for f in files]},
        )

    @property
    def allow(self) -> tuple[FindingKind, ...]:
        """What the mapping says is meant, where there is one."""
        return () if self.videos_only else super().allow

    @property
    def limits(self) -> Limits:
        """Where the mapping says that plausible ends, where there is one."""
        return Limits() if self.videos_only else super().limits

    def recording(self, ref: EpisodeRef) -> Recording:
        """Everything that the episode's files and the mapping say, before streams are brought together."""
        loaded = self.mapping()
        mapping = loaded.mapping
        root = Path(ref.location["source"])
        folder = root / ref.location["path"]
        group = str(ref.location.get("group") or "")
        beside = (folder, root, loaded.folder)
        tables: dict[Path, Table] = {}
        pose_file = _pose_file(loaded)

        def table(name: str | None, field: str) -> Table:
            path = folder / ref.location["file"] if name is None or name == pose_file else inside(folder, name, field)
            if path not in tables:
                tables[path] = open_table(
                    path, group if table_suffix(path.name) in (".h5", ".hdf5", ".zarr", ".zarr.zip") else ""
                )
            return tables[path]

        rows_fps = mapping.sync.fps if mapping.sync.mode == "rows" else None
        assumed = False

        def times(own: Table, stream_time: Any, count: int, field: str) -> FloatArray:
            nonlocal assumed
            if rows_fps is not None:
                return np.arange(count) / rows_fps
            stamp_table = own if stream_time is None or stream_time.file is None else table(stream_time.file, field)
            values, made_up = stamps(stamp_table, stream_time, count, f"{loaded.path}: {field}")
            assumed |= made_up
            return values

        def poses(stream: PoseStream, field: str) -> PoseSamples:
            own = table(stream.file, f"{field}.file")
            count = _rows(own, stream)
            return streams.poses_from_table(
                own, stream, times(own, stream.time, count, f"{field}.time"), loaded.folder, mapping.limits
            )

        def arm(arm: Arm, prefix: str) -> tuple[PoseSamples, ScalarSamples]:
            own = table(arm.gripper.file, f"{prefix}gripper.file")
            rows = len(own.column(arm.gripper.columns[0]))
            stamped = times(own, arm.gripper.time or arm.pose.time, rows, f"{prefix}gripper.time")
            return poses(arm.pose, f"{prefix}pose"), gripper_samples(own, arm.gripper, stamped)

        def joints(wanted: ArmJoints, field: str) -> tuple[Table, FloatArray]:
            own = table(wanted.file, f"{field}.file")
            return own, times(own, wanted.time, len(own.column(wanted.columns[0])), f"{field}.time")

        arms = recorded_arms(mapping, arm, joints)
        views = {}
        findings: list[Finding] = []
        shown: dict[str, Any] = {}
        for name, view in self.chosen_views().items():
            # A column, or rows, say when each picture was taken; a stated rate does not say that none is missing.
            counted = rows_fps is not None or (view.time is not None and view.time.column is not None)
            frames = open_frames(view, folder, name, group, str(ref.location["file"]), counted)
            view_times = None
            made_up = rows_fps is not None or (view.time is not None and view.time.fps is not None)
            if rows_fps is None:
                if view.time is not None and view.time.video:
                    view_times = clocked(_video_times(frames, folder, name), view.time)
                else:
                    beside_it = view.time is not None and view.time.file is not None
                    own = table(view.time.file, name) if view.time is not None and beside_it else table(None, "")
                    view_times = times(own, view.time, len(frames), f"views.{name}.time")
            if isinstance(frames, VideoFrames):
                stated = np.arange(len(frames)) / rows_fps if view_times is None and rows_fps else view_times
                if stated is not None:
                    findings += video_findings(name, frames, stated, made_up, mapping.limits)
                if frames.turn:
                    shown[name] = {"rotation": view.rotation, "degrees": frames.turn}
            elif isinstance(frames, ImageFiles):
                findings += missing_numbers(name, frames)
                if frames.turned:
                    shown[name] = {"rotation": view.rotation}
            source: FrameSource = TurnedFrames(frames, view.rotate) if view.rotate else frames
            camera_poses = None if view.camera.poses is None else poses(view.camera.poses, f"views.{name}.camera.poses")
            views[name] = ViewInput(
                source,
                view_times,
                self._camera(view.camera, source, table, beside, name),
                camera_poses,
                view.flip,
                view.camera.scaled,
                arm=view.camera.gripper or "",
                assumed=made_up,
            )
        provenance: dict[str, Any] = {
            "format": "folder",
            "path": ref.location["path"],
            "mapping": loaded.fingerprint,
        }
        return Recording(
            id=ref.id,
            arms=arms,
            views=views,
            instructions=(self._instruction(folder, beside, table(None, "")),),
            rows_fps=rows_fps,
            master=mapping.sync.master,
            limits=SyncLimits(mapping.sync.max_pose_gap_s, mapping.sync.max_frame_gap_s),
            assumed=assumed,
            task=mapping.task,
            provenance={**provenance, "shown": shown} if shown else provenance,
            findings=tuple(findings),
        )

    def _camera(
        self,
        camera: ViewCamera,
        frames: FrameSource,
        table: Callable[[str | None, str], Table],
        beside: tuple[Path, ...],
        name: str,
    ) -> CalibratedCamera | None:
        """A view's calibration: from files, or from columns of the recording's tables; None where nobody knows it."""
        columns = camera.pose_columns
        found: CalibratedCamera | None
        if camera.K_columns is not None:
            own = table(None if columns is None else columns.file, f"views.{name}.camera")
            K = K_of_columns(own.numbers(camera.K_columns), own.where, name)
            found = with_pose(CalibratedCamera(K, frames.width, frames.height), camera, beside, name)
        else:
            found = load_calibration(camera, beside, name, (frames.width, frames.height))
        if columns is None or found is None:
            return found
        own = table(columns.file, f"views.{name}.camera.pose_columns")
        return with_pose_columns(found, columns, own.numbers(columns.columns), own.where)

    def _instruction(self, folder: Path, beside: tuple[Path, ...], table: Table) -> str:
        instruction = self.mapping().mapping.instruction
        if instruction is None:
            raise WrongFormatError("is required", where=self.mapping().path, field="instruction")
        if instruction.text is not None:
            return instruction.text
        if instruction.file is not None:
            path = find_beside(instruction.file, beside, "instruction.file")
            return instruction_from_file(path, instruction.key)
        if instruction.column is None:
            raise WrongFormatError("a folder has no topics", where=self.mapping().path, field="instruction.topic")
        values = [str(v) for v in table.column(instruction.column) if v]
        return values[0] if values else ""

    @property
    def blind(self) -> bool:
        """Whether there is no mapping: files of a folder mean nothing of themselves."""
        return self.options.mapping is None and not self.videos_only

    def streams(self, source: str) -> Streams:
        """Stamps of the first episode's poses, gripper and pictures."""
        return recorded_streams(self.recording(next(self.discover(source))))

    def inspect(self, source: str) -> dict[str, Any]:
        """Streams of the first episode, with their rates, jitter, gaps and drops; of videos alone what they show."""
        if self.videos_only:
            return super(MappedConverter, self).inspect(source)
        refs = list(self.discover(source))
        return inspect_recordings(self.name, refs, self.recording(refs[0]))


def _is_whole(path: Path) -> bool:
    """Whether a source is itself a file of many data sets, that can hold whole episodes."""
    return path.exists() and table_suffix(path.name) in (".h5", ".hdf5", ".zarr", ".zarr.zip")


def _pose_file(loaded: LoadedMapping) -> str:
    """The table that marks an episode: that of the (first) gripper's poses."""
    file = next(iter(loaded.mapping.arms.values())).pose.file
    if file is None:
        raise WrongFormatError("does not say where the poses are", where=loaded.path, field="pose.file")
    return file


def _rows(table: Table, stream: PoseStream) -> int:
    columns = next(part.columns for part in (stream.position, stream.matrix, stream.joints) if part is not None)
    return len(table.column(columns[0]))


def _episode_folders(root: Path, pose_file: str, pattern: str | None) -> Iterator[tuple[Path, Path]]:
    """Folders at or below ``root`` that hold the pose file (a pattern of names, too), in natural order."""
    relative = Path(pose_file)
    if relative.is_absolute() or ".." in relative.parts:
        raise WrongFormatError("must lie in the episode's folder", field="pose.file", found=pose_file)
    pending = [root]
    while pending:
        folder = pending.pop()
        parent, name = folder / relative.parent, relative.name
        names = sorted((n for n in _names(parent) if fnmatch(n, name)), key=natural_key)
        place = folder.relative_to(root).as_posix()
        if names and (pattern is None or fnmatch(place, pattern)):
            for found in names:
                yield folder, parent / found
            continue
        if not folder.name.endswith(".zarr"):
            pending.extend(reversed(subfolders(folder)))


def _names(folder: Path) -> list[str]:
    return [n for n in os.listdir(folder) if not n.startswith(".")] if folder.is_dir() else []


def _groups(file: Path, pattern: str | None) -> list[str]:
    """Groups of an HDF5 or zarr file that match ``pattern``, in natural order; one empty name without a pattern."""
    if pattern is None:
        return [""]
    depth = len(pattern.strip("/").split("/"))
    names = {"/".join(n.split("/")[:depth]) for n in open_table(file).names if n.count("/") >= depth}
    return sorted((n for n in names if fnmatch(n, pattern.strip("/"))), key=natural_key)


def _video_times(frames: FrameSource, folder: Path, name: str) -> FloatArray:
    """The stamps that a view's video itself has."""
    times = frames.times if isinstance(frames, VideoFrames) else None
    if times is None:
        raise WrongFormatError(
            "has no stamps of its own",
            where=folder,
            field=f"views.{name}.time.video",
            expected="a video whose container says when each picture is shown",
        )
    return times


def missing_numbers(name: str, frames: ImageFiles) -> list[Finding]:
    """Numbers that the names of a view's pictures leave out."""
    names = frames.names
    if not names.count_missing:
        return []
    shown = ", ".join(map(str, names.missing[:5])) + (", …" if names.count_missing > 5 else "")
    found = f"{names.count_missing} numbers are missing: {shown}"
    return [Finding(kind="picture-names", episode="", stream=name, found=found, expected="every number between")]


def open_frames(
    view: ViewSource, folder: Path, name: str, group: str, pose_file: str, counted: bool = False
) -> FrameSource:
    """The pictures that a view's ``frames`` name; ``#DATASET`` alone is in the file of the poses.

    Args:
        view: The mapping's words on it.
        folder: The episode's folder.
        name: Name of the view.
        group: Group of the episode in a file of many, or "".
        pose_file: The file of the poses.
        counted: The pictures' times are not the video's own, whose stamps may repeat then (see `VideoFrames`).

    Raises:
        SourceNotFoundError: Nothing there.
        BadVideoError: A video that cannot be read.
    """
    text = view.frames or ""
    if "#" in text:
        file, _, dataset = text.partition("#")
        path = inside(folder, file or pose_file, f"views.{name}.frames")
        kind = ZarrFrames if table_suffix(path.name) in (".zarr", ".zarr.zip") else HDF5Frames
        return kind(path, f"{group}/{dataset}" if group else dataset)
    path = inside(folder, text, f"views.{name}.frames")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        if not path.is_file():
            raise SourceNotFoundError("no such video", where=path, field=f"views.{name}.frames")
        return VideoFrames(path, counted, oriented=view.rotation == "applied")
    matches = [p for p in glob.glob(glob.escape(str(folder)) + "/" + text) if os.path.isfile(p)]
    return ImageFiles(matches, path, oriented=view.rotation == "applied")


__all__ = ["TABLE_SUFFIXES", "FolderConverter", "FolderOptions", "open_frames"]


def _video_fingerprint(folder: Path, name: str) -> str:
    """Of the videos and the words of a folder, or of one video in it and its words."""
    files = [folder / name] if name else video_files(folder)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file_stamp(file)}".encode())
    for place in dict.fromkeys((folder, files[0].parent)):
        digest.update(repr([f for f in files_with_sizes(place) if f[0].endswith(".txt")]).encode())
    return digest.hexdigest()[:16]


def _fingerprint(loaded: LoadedMapping, root: Path, folder: Path, file: Path, group: str | None) -> str:
    sizes = [] if group else files_with_sizes(folder)
    state = f"{state_of(loaded, (folder, root, loaded.folder))} {file_stamp(file)} {sizes}"
    return hashlib.sha256(state.encode()).hexdigest()[:16]

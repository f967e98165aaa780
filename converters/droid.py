"""DROID's raw tree: ``LAB/success|failure/DATE/TIME/{metadata_*.json, trajectory.h5, recordings/MP4/SERIAL.mp4}``.

Facts of the format are in the data set's own code (https://github.com/droid-dataset/droid): poses are x y z and
extrinsic "xyz" Euler angles of the arm's wrist in its base; ``gripper_position`` is 0 open, 1 closed; recorded
``camera_extrinsics`` are camera-to-base, the hand camera's already composed with the pose of that moment; picture i of
a video belongs to row i.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..cameras import files as calibration
from ..cameras.files import CalibratedCamera, DroidSideFiles
from ..cameras.transforms import (
    TRANSFORM_FORMS,
    parse_transform,
    transform_file,
    transform_from_xyz_euler,
    transform_matrix,
)
from ..errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadFileError,
    BadVideoError,
    FrameCountError,
    InvalidTextError,
    MissingCalibrationError,
    SourceNotFoundError,
    WrongFormatError,
)
from ..geometry import rotations
from ..model import Episode, EpisodeRef, FrameSource
from ..schemas.plausibility import Finding
from ..untrusted import hdf5
from ..untrusted.files import read_bytes
from ..untrusted.text import load_json
from .base import Converter, ConverterOptions, Detection, Streams
from .kit.entries import shipped
from .kit.frames import CroppedFrames
from .kit.tree import file_stamp, files_with_sizes, folders_with, plain_id, source_folder
from .recording.episode import assemble
from .recording.options import StampedOptions
from .recording.plausibility import video_findings
from .recording.recording import Arm, Recording, ViewInput
from .recording.sync import JointSamples, PoseSamples, ScalarSamples, statistics

FloatArray = NDArray[np.float64]
TRAJECTORY = "trajectory.h5"
ANNOTATIONS = "droid_language_annotations.json"
PUBLISHED = "published"
"""Stands for the gripper's place that the registry's entry of DROID as RLDS has, with its sources."""
RATE_HZ = 15.0
ROLES = {"exterior_1": "ext1_cam_serial", "exterior_2": "ext2_cam_serial", "wrist": "wrist_cam_serial"}
_STATE = "observation/robot_state"
_ASPECT_TOLERANCE = 0.01
_FIXED_M = 1e-6


class DroidOptions(StampedOptions):
    """Options of the DROID converter."""

    tool_from_gripper: str | None = Field(
        None,
        description="required: the gripper (origin between the fingertips, +z approach, fingers open along +-y) in "
        f"the wrist frame that DROID reports, which its log does not say: {TRANSFORM_FORMS}; published: as others draw "
        "a Robotiq 2F-85 onto DROID's pictures, off by up to some centimetres",
    )
    droid_calibration: str | None = Field(
        None,
        description="folder with DROID's published intrinsics.json, cam2base_extrinsic_superset.json, … and "
        f"{ANNOTATIONS}",
    )
    camera_file: str | None = Field(
        None, description="camera file by serial or by view, used before all other calibration"
    )
    extrinsics: Literal["best", "published", "recorded"] = Field(
        "best", description="best: published where there are, else the recorded ones, which are often wrong"
    )
    trajectory: Literal["state", "command"] = Field("state", description="where the arm was, or was told to go")
    outcome: Literal["success", "failure", "all"] = Field("success", description="which demonstrations")
    only_views: tuple[str, ...] = Field(("exterior_1", "exterior_2", "wrist"), description="views to read")
    skipped: Literal["drop", "keep"] = Field(
        "drop", description="rows in which the operator did not move the arm (skip_action)"
    )


@dataclass(frozen=True, eq=False)
class _Log:
    """What ``trajectory.h5`` says, in metres, radians and seconds."""

    pose: FloatArray
    command: FloatArray | None
    gripper: FloatArray
    gripper_command: FloatArray | None
    robot_times: FloatArray | None
    joints: FloatArray | None
    skip: NDArray[np.bool_]
    camera_pose: Mapping[str, FloatArray]
    camera_times: Mapping[str, FloatArray]
    camera_type: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.pose)


def _read_log(path: Path) -> _Log:
    with hdf5.open_hdf5(path) as file:

        def optional(name: str, width: int | None = None) -> NDArray[Any] | None:
            if name not in file:
                return None
            values = hdf5.read_numbers(file, name)
            good = values.ndim == (1 if width is None else 2) and (width is None or values.shape[1] == width)
            if not good:
                expected = "(T,)" if width is None else f"(T, {width})"
                raise BadFileError("has the wrong shape", where=path, field=name, expected=expected, found=values.shape)
            return values

        def required(name: str, width: int | None = None) -> FloatArray:
            values = optional(name, width)
            if values is None:
                raise WrongFormatError("is not DROID's trajectory.h5", where=path, field=name, expected="a data set")
            return values.astype(np.float64)

        def children(name: str) -> list[str]:
            group = file.get(name)
            return sorted(group) if isinstance(group, h5py.Group) else []

        pose = required(f"{_STATE}/cartesian_position", 6)
        start = optional("observation/timestamp/robot_state/read_start")
        end = optional("observation/timestamp/robot_state/read_end")
        skip = optional("observation/timestamp/skip_action")
        joints = optional(f"{_STATE}/joint_positions", 7)
        command = optional("action/cartesian_position", 6)
        gripper_command = optional("action/gripper_position")
        camera_pose, camera_times, camera_type = {}, {}, {}
        for name in children("observation/camera_extrinsics"):
            if name.endswith("_left"):
                camera_pose[name.removesuffix("_left")] = required(f"observation/camera_extrinsics/{name}", 6)
        stamps = children("observation/timestamp/cameras")
        for ending in ("_frame_received", "_estimated_capture"):
            for name in (n for n in stamps if n.endswith(ending)):
                camera_times[name.removesuffix(ending)] = required(f"observation/timestamp/cameras/{name}") * 1e-3
        for name in children("observation/camera_type"):
            values = required(f"observation/camera_type/{name}")
            if len(values):
                camera_type[name] = int(values[0])
        log = _Log(
            pose=pose,
            command=None if command is None else command.astype(np.float64),
            gripper=required(f"{_STATE}/gripper_position"),
            gripper_command=None if gripper_command is None else gripper_command.astype(np.float64),
            robot_times=None if start is None or end is None else (start + end) * 0.5e-3,
            joints=None if joints is None else joints.astype(np.float64),
            skip=np.zeros(len(pose), dtype=bool) if skip is None else skip.astype(bool),
            camera_pose=camera_pose,
            camera_times=camera_times,
            camera_type=camera_type,
        )
    counts = {
        "gripper_position": len(log.gripper),
        "skip_action": len(log.skip),
        **{f"camera_extrinsics/{k}": len(v) for k, v in log.camera_pose.items()},
        **{f"timestamp/cameras/{k}": len(v) for k, v in log.camera_times.items()},
        **({} if log.joints is None else {"joint_positions": len(log.joints)}),
        **({} if log.robot_times is None else {"timestamp/robot_state": len(log.robot_times)}),
    }
    for name, count in counts.items():
        if count != len(log):
            raise FrameCountError("rows differ in number", where=path, field=name, expected=len(log), found=count)
    return log


def _poses(values: FloatArray, times: FloatArray) -> PoseSamples:
    finite = np.asarray(np.isfinite(values).all(axis=-1))
    matrix = rotations.matrix_from_euler(np.where(finite[:, None], values[:, 3:], 0.0))
    q = np.where(finite[:, None], np.asarray(rotations.quaternion_from_matrix(matrix)), np.nan)
    return PoseSamples(times, values[:, :3], q)


class DroidConverter(Converter):
    """DROID's raw recordings."""

    name: ClassVar[str] = "droid"
    views_field = "only_views"
    summary: ClassVar[str] = "DROID raw: trajectory.h5 + MP4s, with the published calibration"
    Options: ClassVar[type[ConverterOptions]] = DroidOptions

    def __init__(self, options: ConverterOptions | None = None) -> None:
        super().__init__(options)
        self._side: DroidSideFiles | None = None
        self._own: dict[str, CalibratedCamera] | None = None
        self._annotations: Mapping[str, Any] | None = None

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether DROID's ``trajectory.h5`` lies in ``source`` or a few folders below it; others use that name too."""
        try:
            root = Path(source)
            found = next(_episodes(root, max_folders=200), None) if root.is_dir() else None
            if found is not None:
                with hdf5.open_hdf5(found / TRAJECTORY) as file:
                    found = found if "observation" in file else None
        except (OSError, ActionImgError):
            return None
        return None if found is None else Detection("DROID raw", found.relative_to(root).as_posix())

    def remote_headers(self) -> tuple[str, ...]:
        """None: names and sizes are enough."""
        return ()

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """One reference for each folder that holds ``trajectory.h5``, of the outcome asked for."""
        self._tool()
        unknown = sorted(set(self.options.only_views) - set(ROLES))
        if unknown:
            raise WrongFormatError(
                "has no such view", field="views", expected=" | ".join(ROLES), found=", ".join(unknown)
            )
        root = source_folder(source)
        stamp = self._stamp()
        count = others = 0
        for folder in _episodes(root):
            outcome = next((p for p in reversed(folder.parts) if p in ("success", "failure")), None)
            if self.options.outcome != "all" and outcome not in (None, self.options.outcome):
                others += 1
                continue
            count += 1
            relative = folder.relative_to(root).as_posix()
            yield EpisodeRef(
                plain_id(root.name if relative == "." else relative),
                {"source": str(root), "path": relative},
                fingerprint=_fingerprint(stamp, folder),
            )
        if count == 0:
            raise WrongFormatError(
                "no DROID episode found",
                where=root,
                expected=f"folders that hold {TRAJECTORY}",
                found=f"{others} of another outcome than {self.options.outcome}" if others else "none",
            )

    def _stamp(self) -> str:
        """What changes when a file that an option names does."""
        digest = hashlib.sha256()
        side = Path(self.options.droid_calibration) if self.options.droid_calibration is not None else None
        paths = [
            Path(p) for p in (self.options.camera_file, transform_file(self.options.tool_from_gripper)) if p is not None
        ]
        paths += [side / n for n, _ in files_with_sizes(side) if n.endswith(".json")] if side is not None else []
        for path in paths:
            digest.update(read_bytes(path) if path.is_file() else b"")
        return digest.hexdigest()

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """The episode's fingerprint as its files are now."""
        folder = Path(ref.location["source"]) / ref.location["path"]
        return _fingerprint(self._stamp(), folder)

    def read(self, ref: EpisodeRef) -> Episode:
        """One episode; its videos are counted, not decoded."""
        return assemble(self.recording(ref, self._tool()), self.options.time_offset)

    def _tool(self) -> FloatArray:
        if self.options.tool_from_gripper is None:
            raise AmbiguousSourceError(
                "DROID reports the pose of the arm's wrist and does not say where the gripper is on it",
                field="tool_from_gripper",
                expected="--tool-from-gripper published (an estimate), FILE.yaml or '{translation: [...], "
                "euler_xyz_deg: [...]}'",
                hint="Check it by looking: actionimg render SOURCE --format droid -O tool_from_gripper=published",
            )
        if self.options.tool_from_gripper == PUBLISHED:
            known = shipped()["droid"].tool_from_gripper
            if known is not None:
                return transform_matrix(known)
        return parse_transform(self.options.tool_from_gripper, "tool_from_gripper")

    def recording(self, ref: EpisodeRef, tool_from_gripper: FloatArray) -> Recording:
        """Everything that the episode's files say, before streams are brought together."""
        folder = Path(ref.location["source"]) / ref.location["path"]
        log = _read_log(folder / TRAJECTORY)
        metadata = _metadata(folder)
        episode = self._episode_id(folder, metadata)
        serials = self._serials(folder, log, metadata, episode)
        measured = log.robot_times is not None and all(s in log.camera_times for s in serials.values())
        rows = np.arange(len(log)) / RATE_HZ
        times = log.robot_times if measured and log.robot_times is not None else rows
        notes: dict[str, Any] = {}
        findings: list[Finding] = []
        views = {}
        refused: MissingCalibrationError | None = None
        for name in self.options.only_views:
            serial = serials[name]
            notes[name] = {"serial": serial}
            try:
                camera, poses = self._camera(folder, name, serial, log, times, episode, notes[name])
            except MissingCalibrationError as error:
                if not self.calibrated_views:
                    raise
                refused = error
                notes[name]["calibration"] = "none"
                continue
            frames = _open_video(folder, serial, camera, notes[name])
            if len(frames) != len(log):
                raise FrameCountError(
                    "video and trajectory differ in length",
                    where=folder,
                    field=f"{serial}.mp4",
                    expected=f"{len(log)} pictures, one for each row",
                    found=len(frames),
                )
            stated = log.camera_times[serial] if measured else rows
            video = frames.source if isinstance(frames, CroppedFrames) else frames
            # The container's rate is the exporter's own; a gap in it is a picture that was lost.
            findings += video_findings(name, video, stated, False, self.limits)
            views[name] = ViewInput(
                frames,
                stated,
                camera,
                poses,
                scaled=True,
                wanted=~log.skip if self.options.skipped == "drop" else None,
            )
        if refused is not None and not views:
            raise refused
        chosen, gripper = log.pose, log.gripper
        if self.options.trajectory == "command":
            if log.command is None or log.gripper_command is None:
                raise WrongFormatError("has no commands", where=folder / TRAJECTORY, field="action/cartesian_position")
            chosen, gripper = log.command, log.gripper_command
        openness = 1.0 - gripper
        # The Robotiq's reading wanders a little beyond its ends.
        bad = np.isfinite(openness) & ((openness < -0.02) | (openness > 1.02))
        if bad.any():
            row = int(bad.argmax())
            raise WrongFormatError(
                "gripper_position is outside its range",
                where=folder / TRAJECTORY,
                field=f"gripper_position: row {row}",
                expected="0 (open) … 1 (closed)",
                found=f"{gripper[row]:g}",
            )
        opened = ScalarSamples(times, np.clip(openness, 0, 1), hold=self.options.trajectory == "command")
        joints = None if log.joints is None or chosen is not log.pose else JointSamples(times, log.joints)
        return Recording(
            id=ref.id,
            arms={"": Arm(_poses(chosen, times), opened, tool_from_gripper, joints=joints)},
            views=views,
            instructions=self._instructions(folder, metadata, episode),
            assumed=not measured,
            findings=tuple(findings),
            provenance={
                "format": "droid",
                "path": ref.location["path"],
                "tool_from_gripper": tool_from_gripper.tolist(),
                **({"tool": "an estimate"} if self.options.tool_from_gripper == PUBLISHED else {}),
                "episode_id": episode,
                "trajectory": self.options.trajectory,
                "views": notes,
            },
        )

    def _episode_id(self, folder: Path, metadata: Mapping[str, Any]) -> str | None:
        if isinstance(metadata.get("uuid"), str):
            return str(metadata["uuid"])
        side = self._side_files()
        return None if side is None else side.episode_id(folder.absolute().as_posix())

    def _side_files(self) -> DroidSideFiles | None:
        if self._side is None and self.options.droid_calibration is not None:
            self._side = DroidSideFiles(Path(self.options.droid_calibration))
        return self._side

    def _serials(self, folder: Path, log: _Log, metadata: Mapping[str, Any], episode: str | None) -> dict[str, str]:
        """Serial of each view: from the metadata, else the side files, else by type of the cameras that were filmed.

        The log may list cameras of an earlier set-up ("stale serials"); one without a video is never used.
        """
        filmed = {p.stem.removesuffix("-stereo") for p in _videos(folder)}
        named = {k: str(v) for k, v in metadata.items() if k in ROLES.values() and v not in (None, "")}
        side = self._side_files()
        if side is not None and episode is not None:
            named = {**side.serials(episode), **named}
        by_type = sorted(s for s, kind in log.camera_type.items() if kind == 1 and s in filmed)
        hand = sorted(s for s, kind in log.camera_type.items() if kind == 0 and s in filmed)
        guesses = dict(zip(("exterior_1", "exterior_2"), by_type, strict=False))
        if len(hand) == 1:
            guesses["wrist"] = hand[0]
        found = {}
        for name in self.options.only_views:
            serial = named.get(ROLES[name], guesses.get(name))
            if serial is None or serial not in filmed:
                raise SourceNotFoundError(
                    "has no video of this camera",
                    where=_video_folder(folder),
                    field=name,
                    expected=f"{serial or 'SERIAL'}.mp4",
                    found=", ".join(sorted(filmed)) or "no videos",
                    hint="Choose views with --views.",
                )
            found[name] = serial
        return found

    def _camera(
        self,
        folder: Path,
        name: str,
        serial: str,
        log: _Log,
        times: FloatArray,
        episode: str | None,
        notes: dict[str, Any],
    ) -> tuple[CalibratedCamera, PoseSamples | None]:
        """A view's intrinsics and pose, from the first of: camera file, published side files, the log itself."""
        if self.options.camera_file is not None:
            if self._own is None:
                self._own = calibration.load_cameras(Path(self.options.camera_file))
            own = self._own.get(serial, self._own.get(name))
            if own is not None:
                notes["calibration"] = "camera file"
                if own.world_from_camera is not None or own.tool_from_camera is not None:
                    return own, None
                return own, self._recorded(folder, name, serial, log, times, notes)
        side = self._side_files()
        known = None if side is None or episode is None else side.camera(episode, serial)
        if known is None or known.K is None:
            raise MissingCalibrationError(
                "no intrinsics for this camera",
                where=folder,
                field=f"{name} ({serial})",
                expected="--droid-calibration with intrinsics.json, or --camera-file",
            )
        camera = CalibratedCamera(known.K, known.width, known.height)
        if name != "wrist" and self.options.extrinsics != "recorded":
            if known.base_from_camera is not None:
                notes.update(calibration="published", quality=dict(known.quality))
                return replace(camera, world_from_camera=known.base_from_camera), None
            if self.options.extrinsics == "published":
                raise MissingCalibrationError(
                    "no published extrinsics for this camera", where=folder, field=f"{name} ({serial})"
                )
        recorded = self._recorded(folder, name, serial, log, times, notes)
        notes["calibration"] = "recorded"
        if np.ptp(log.camera_pose[serial], axis=0).max() < _FIXED_M:
            pose = transform_from_xyz_euler(log.camera_pose[serial][0])
            return replace(camera, world_from_camera=pose), None
        return camera, recorded

    def _recorded(
        self, folder: Path, name: str, serial: str, log: _Log, times: FloatArray, notes: dict[str, Any]
    ) -> PoseSamples:
        if serial not in log.camera_pose:
            raise MissingCalibrationError(
                "the log holds no pose of this camera",
                where=folder / TRAJECTORY,
                field=f"camera_extrinsics/{serial}_left ({name})",
                found=", ".join(sorted(log.camera_pose)) or "none",
            )
        return _poses(log.camera_pose[serial], times)

    def _instructions(self, folder: Path, metadata: Mapping[str, Any], episode: str | None) -> tuple[str, ...]:
        if self._annotations is None:
            path = (
                None if self.options.droid_calibration is None else Path(self.options.droid_calibration) / ANNOTATIONS
            )
            self._annotations = load_json(path) if path is not None and path.is_file() else {}
        entry = self._annotations.get(episode or "")
        texts = [str(entry[k]).strip() for k in sorted(entry)] if isinstance(entry, dict) else []
        texts = list(dict.fromkeys(t for t in texts if t))
        if not texts and isinstance(metadata.get("current_task"), str):
            texts = [metadata["current_task"].strip()]
        if not texts or not texts[0]:
            raise InvalidTextError(
                "has no instruction",
                where=folder,
                expected=f"current_task in its metadata, or {ANNOTATIONS} in --droid-calibration",
            )
        return tuple(texts)

    def inspect(self, source: str) -> dict[str, Any]:
        """Episodes, and the streams of the first: rates, jitter, gaps and drops."""
        root = source_folder(source)
        folders = list(_episodes(root))
        if not folders:
            raise WrongFormatError("no DROID episode found", where=root, expected=f"folders that hold {TRAJECTORY}")
        folder = folders[0]
        log = _read_log(folder / TRAJECTORY)
        metadata = _metadata(folder)
        return {
            "format": self.name,
            "episodes": len(folders),
            "first": folder.relative_to(root).as_posix(),
            "instruction": metadata.get("current_task"),
            "rows": len(log),
            "skipped_rows": int(log.skip.sum()),
            "cameras": {
                serial: {
                    "role": next((n for n, k in ROLES.items() if str(metadata.get(k)) == serial), None),
                    "type": {0: "hand", 1: "varied"}.get(log.camera_type.get(serial, -1), "unknown"),
                    "video": any(p.stem.removesuffix("-stereo") == serial for p in _videos(folder)),
                    "recorded_pose": serial in log.camera_pose,
                }
                for serial in sorted({*log.camera_pose, *log.camera_type, *log.camera_times})
            },
            "streams": {name: dict(found) for name, found in _streams(log, "").statistics.items()},
        }

    def streams(self, source: str) -> Streams:
        """Stamps of the first episode's robot and cameras."""
        root = source_folder(source)
        folder = next(_episodes(root), None)
        if folder is None:
            raise WrongFormatError("no DROID episode found", where=root, expected=f"folders that hold {TRAJECTORY}")
        return _streams(_read_log(folder / TRAJECTORY), folder.relative_to(root).as_posix())


def _streams(log: _Log, episode: str) -> Streams:
    """Rates, jitter, gaps and drops of the streams of one episode's ``trajectory.h5``, by name."""
    found = {}
    times = dict(log.camera_times)
    if log.robot_times is not None:
        found["robot_state"] = statistics(log.robot_times, int((~np.isfinite(log.pose).all(-1)).sum())).to_json()
        times["robot_state"] = log.robot_times
    found.update({serial: statistics(stamps).to_json() for serial, stamps in log.camera_times.items()})
    return Streams(episode, found, times)


def _episodes(root: Path, max_folders: int | None = None) -> Iterator[Path]:
    """Folders at or below ``root`` that hold ``trajectory.h5``, in natural order."""
    return folders_with(root, lambda folder: (folder / TRAJECTORY).is_file(), max_folders)


def _video_folder(folder: Path) -> Path:
    return folder / "recordings" / "MP4"


def _videos(folder: Path) -> list[Path]:
    if not _video_folder(folder).is_dir():
        return []
    return [_video_folder(folder) / n for n, _ in files_with_sizes(_video_folder(folder)) if n.endswith(".mp4")]


def _open_video(folder: Path, serial: str, camera: CalibratedCamera, notes: dict[str, Any]) -> FrameSource:
    """A camera's left pictures: stereo is told by the width of the video, not by its name."""
    from ..video import VideoFrames

    paths = {p.name: p for p in _videos(folder)}
    path = paths.get(f"{serial}.mp4") or paths[f"{serial}-stereo.mp4"]
    video = VideoFrames(path)
    notes["file"] = path.name
    aspect = (video.width / video.height) / (camera.width / camera.height)
    if abs(aspect - 1) < _ASPECT_TOLERANCE:
        if path.stem.endswith("-stereo"):
            notes["stereo"] = "named stereo, but holds one picture"
        return video
    if abs(aspect / 2 - 1) < _ASPECT_TOLERANCE and video.width % 2 == 0:
        notes["stereo"] = "left half"
        return CroppedFrames(video, 0, 0, video.width // 2, video.height)
    raise BadVideoError(
        "is neither one picture nor two side by side",
        where=path,
        expected=f"the aspect of {camera.width}x{camera.height}, or twice as wide",
        found=f"{video.width}x{video.height}",
    )


def _metadata(folder: Path) -> Mapping[str, Any]:
    paths = [folder / n for n, _ in files_with_sizes(folder) if n.startswith("metadata") and n.endswith(".json")]
    if not paths:
        return {}
    value = load_json(paths[0], limit=1 << 24)
    if not isinstance(value, dict):
        raise BadFileError("is not an object", where=paths[0], found=type(value).__name__)
    return value


def _fingerprint(stamp: str, folder: Path) -> str:
    size = file_stamp(folder / TRAJECTORY)
    videos = files_with_sizes(_video_folder(folder)) if _video_folder(folder).is_dir() else []
    return hashlib.sha256(f"{stamp} {size} {videos}".encode()).hexdigest()[:16]

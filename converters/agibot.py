"""AgiBot World's recordings (Alpha, Beta): two arms, real cameras that move, one folder tree a stream.

The layout and the units are those of the data set's card (https://huggingface.co/datasets/agibot-world/AgiBotWorld-Alpha).
What it leaves open is from its authors' answers and their own drawing of the hands (EnerVerse-AC,
``traj_vis_statistics.py``): the aligned extrinsics are camera to base, the hand is turned by 30 degrees about the
flange's z, and ends 0.23 m along it; the gripper's values are about 35 when it is open and 120 when it is closed, which
is not the card's "open range in mm" (issues 45, 122 and 133 of OpenDriveLab/AgiBot-World).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..cameras.calibrated import CalibratedCamera, Distortion
from ..errors import (
    BadFileError,
    FrameCountError,
    InvalidCameraError,
    MissingCalibrationError,
    SourceNotFoundError,
    UnsupportedSourceError,
    WrongFormatError,
)
from ..geometry import transforms
from ..model import Episode, EpisodeRef, instruction_spans
from ..schemas.mapping import Gripper
from ..untrusted import hdf5
from ..untrusted.text import load_json
from ..video import VideoFrames
from .base import ConverterOptions, Detection
from .kit.tree import file_stamp, files_with_sizes, plain_id, source_folder, subfolders
from .recording import streams
from .recording.episode import assemble
from .recording.plausibility import video_findings
from .recording.recording import Arm, Recording, ViewInput
from .recording.rows import QuaternionOptions, RowConverter, numbers_nd, plain_view
from .recording.sync import ScalarSamples

FloatArray = NDArray[np.float64]
LOG = "proprio_stats.h5"
ARMS = ("left", "right")
REACH_M = 0.23
GRIPPER = Gripper(columns=("gripper",), closed=120.0, open=35.0, kind="measured", tolerance=0.1)
_TURN = {"left": -0.5, "right": 0.5}
"""Sine of the angle about the flange's z by which the hand is turned: 30 degrees."""


class AgiBotOptions(QuaternionOptions):
    """Options of the AgiBot World converter."""

    opening: Literal["x", "y"] | None = Field(
        None, description="along which axis of the hand (the flange turned by 30 degrees about z) the fingers open"
    )
    reach_m: float = Field(
        REACH_M, gt=0, le=0.4, description="metres along +z from the flange to the point between the fingertips"
    )
    text: Literal["task", "actions"] = Field(
        "task",
        description="task: the task's name, for the whole episode; actions: what annotators wrote of each part of it",
    )


class AgiBotConverter(RowConverter):
    """AgiBot World: ``observations``, ``parameters``, ``proprio_stats`` and ``task_info`` by task and episode.

    * **Poses** are of the flanges in the robot's base, quaternions xyzw, left arm first. The hand is turned by 30
      degrees about z and its tips are 0.23 m along +z, as the data set's authors draw it. No source says along which
      axis its fingers open: ``--opening x`` or ``y``, found by looking, or ``--tool-from-gripper`` for both arms.
    * **Gripper**: ``state/effector/position`` with two columns, about 35 when open and 120 when closed. Dexterous
      hands (twelve columns) are refused.
    * **Cameras**: every view with ``NAME_intrinsic_params.json`` and ``NAME_extrinsic_params_aligned.json``, which has
      the camera's pose in the base for each frame; lenses are undistorted.
    * **Time**: the stamps of the log, in nanoseconds; picture i belongs to row i.
    * **Instruction**: ``task_name`` of ``task_info``; with ``--text actions`` the texts of ``action_config``, each for
      its frames, and the task's name where none is said.
    """

    name: ClassVar[str] = "agibot"
    summary: ClassVar[str] = "AgiBot World: two arms, moving calibrated cameras, videos"
    examples: ClassVar[tuple[str, ...]] = (
        "actionimg convert agibot AgiBotWorld-Alpha/ shards --opening y",
        "actionimg convert agibot AgiBotWorld-Beta/ shards --opening y --views head,hand_left --stride 3",
    )
    Options: ClassVar[type[ConverterOptions]] = AgiBotOptions

    def __init__(self, options: ConverterOptions | None = None) -> None:
        super().__init__(options)
        self._tasks: dict[Path, Mapping[str, Any]] = {}

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether ``proprio_stats/TASK/EPISODE`` and ``observations`` lie in ``source``."""
        try:
            root = Path(source)
            found = next(_episodes(root), None) if (root / "observations").is_dir() else None
        except (OSError, BadFileError):
            return None
        return None if found is None else Detection("AgiBot World", "/".join(found))

    def remote_headers(self) -> tuple[str, ...]:
        """None: names and sizes are enough."""
        return ()

    def remote_files(self, location: Mapping[str, Any]) -> list[Path]:
        """The episode's three folders, and the file of its task."""
        root, place = Path(location["source"]), f"{location['task']}/{location['episode']}"
        folders = [root / part / place for part in ("proprio_stats", "observations", "parameters")]
        return [*folders, _task_file(root, location["task"])]

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """One reference for each folder ``proprio_stats/TASK/EPISODE``, in natural order."""
        root = source_folder(source)
        stamp = self.stamp()
        empty = True
        for task, episode in _episodes(root):
            empty = False
            yield EpisodeRef(
                plain_id(f"{task}/{episode}"),
                {"source": str(root), "task": task, "episode": episode},
                fingerprint=_fingerprint(stamp, root, task, episode),
            )
        if empty:
            raise WrongFormatError(
                "holds no AgiBot World episode",
                where=root,
                expected=f"proprio_stats/TASK/EPISODE/{LOG} beside observations and parameters",
                found=", ".join(folder.name for folder in subfolders(root)) or "no folders",
            )

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """The episode's fingerprint as its files are now."""
        at = ref.location
        return _fingerprint(self.stamp(), Path(at["source"]), at["task"], at["episode"])

    def read(self, ref: EpisodeRef) -> Episode:
        """One episode; its pictures are read when asked for."""
        recording, texts = self._recording(ref)
        episode = assemble(recording)
        if self.options.text == "task" or self.options.instruction is not None:
            return episode
        if len(episode) != len(texts):
            raise FrameCountError(
                "frames were left out, which would move the texts of its parts",
                where=ref.id,
                expected=len(texts),
                found=len(episode),
                hint="Take the task's name: --text task.",
            )
        return replace(episode, instructions=tuple(dict.fromkeys(texts)), spans=instruction_spans(texts))

    def _recording(self, ref: EpisodeRef) -> tuple[Recording, list[str]]:
        root, task, number = Path(ref.location["source"]), ref.location["task"], ref.location["episode"]
        path = root / "proprio_stats" / task / number / LOG
        if not path.is_file():
            raise SourceNotFoundError("the episode has no log", where=path)
        told = self._told(root, task, number)
        with hdf5.open_hdf5(path) as file:
            _check_kind(file, path)
            count = len(hdf5.dataset(file, "state/end/position"))
            times = self._times(file, path, count)
            position = numbers_nd(file, "state/end/position", path, (count, 2, 3))
            orientation = numbers_nd(file, "state/end/orientation", path, (count, 2, 4))
            fingers = numbers_nd(file, "state/effector/position", path, (count, 2))
        arms = {}
        for i, arm in enumerate(ARMS):
            values = np.concatenate([position[:, i], orientation[:, i]], axis=1)
            poses, rotation = self.quaternion_poses(times, values, "xyzw", f"{path}: state/end/orientation, {arm}")
            openness = streams.openness_from_columns(
                fingers[:, i : i + 1], GRIPPER, f"{path}: state/effector/position, {arm}"
            )
            tool = self._tool(arm, path)
            arms[arm] = Arm(poses, ScalarSamples(times, openness), tool, rotation=rotation)
        views = {view: self._view(root, task, number, view, times) for view in self._views(root, task, number)}
        name = str(told.get("task_name") or "")
        texts = [name] * count
        for span in _spans(told):
            texts[span[0] : span[1]] = [span[2]] * (min(span[1], count) - min(span[0], count))
        recording = Recording(
            id=ref.id,
            arms=arms,
            views=views,
            instructions=self.instructions([name], _task_file(root, task)),
            task=task,
            assumed=self.options.fps is not None,
            provenance={"format": self.name, "task": task, "episode": number, "scene": told.get("init_scene_text")},
            findings=tuple(
                finding
                for view, shown in views.items()
                for finding in video_findings(view, shown.frames, times, self.options.fps is not None, self.limits)
            ),
        )
        return recording, texts

    def _times(self, file: h5py.File, path: Path, count: int) -> FloatArray:
        """``(T,)`` seconds since the first row; whole nanoseconds do not fit into a float64."""
        if self.options.fps is not None:
            return np.asarray(np.arange(count) / self.options.fps)
        if "timestamp" not in file:
            self.fps(None, path, "AgiBot World records at 30 Hz: --fps 30.")
        stamps = hdf5.read_numbers(file, "timestamp").reshape(-1)
        if len(stamps) != count:
            raise FrameCountError(
                "rows differ in number", where=path, field="timestamp", expected=count, found=len(stamps)
            )
        return np.asarray((stamps - stamps[0]) * 1e-9)

    def _tool(self, arm: str, path: Path) -> FloatArray:
        if self.options.opening is None:
            return self.tool(
                None, path, "no source says along which axis of the hand the fingers open: --opening x or y"
            )
        sine, cosine = _TURN[arm], np.sqrt(0.75)
        turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        if self.options.opening == "x":
            turn = np.stack([-turn[:, 1], turn[:, 0], turn[:, 2]], axis=1)
        return np.asarray(transforms.make_transform(turn, np.array([0, 0, self.options.reach_m])))

    # -- views ---------------------------------------------------------------------------------------------------

    def _views(self, root: Path, task: str, number: str) -> list[str]:
        """The views asked for, else all that are filmed and calibrated."""
        folder = _part(root, "observations", task, number) / "videos"
        filmed = [n.removesuffix("_color.mp4") for n, _ in _files(folder) if n.endswith("_color.mp4")]
        cameras = _cameras(root, task, number)
        known = [n for n in filmed if (cameras / f"{n}_extrinsic_params_aligned.json").is_file()]
        if self.options.poses_only or self.options.only_views:
            known = filmed
        known += [n for n in self.given_cameras() if n in filmed and n not in known]
        return self.chosen_views([plain_view(n) for n in known], folder)

    def _view(self, root: Path, task: str, number: str, name: str, times: FloatArray) -> ViewInput:
        path = _part(root, "observations", task, number) / "videos" / f"{name}_color.mp4"
        frames = VideoFrames(path)
        if len(frames) != len(times):
            raise FrameCountError(
                "video and log differ in length",
                where=path,
                expected=f"{len(times)} pictures, one for each row of {LOG}",
                found=len(frames),
            )
        arm = next((arm for arm in ARMS if arm in name), "")
        if self.options.poses_only:
            return ViewInput(frames, times, None)
        known = self.given_cameras().get(name)
        if known is None:
            known = _camera(_cameras(root, task, number), name, frames, len(times))
        return ViewInput(frames, times, known, arm=arm)

    def inspect(self, source: str) -> dict[str, Any]:
        """Episodes, what the first says, and what has still to be given."""
        refs = list(self.discover(source))
        root, task, number = Path(refs[0].location["source"]), refs[0].location["task"], refs[0].location["episode"]
        told = self._told(root, task, number)
        cameras = _cameras(root, task, number)
        filmed = [n for n, _ in _files(_part(root, "observations", task, number) / "videos") if n.endswith(".mp4")]
        with hdf5.open_hdf5(_part(root, "proprio_stats", task, number) / LOG) as file:
            rows = {name: len(file[name]) for name in ("state/end/position", "timestamp") if name in file}
        return {
            "format": self.name,
            "episodes": len(refs),
            "first": refs[0].id,
            "tasks": len({ref.location["task"] for ref in refs}),
            "rows": rows,
            "instruction": told.get("task_name"),
            "actions": [text for _, _, text in _spans(told)],
            "arms": list(ARMS),
            "views": {
                name.removesuffix("_color.mp4"): {
                    "calibrated": (cameras / name.replace("_color.mp4", "_extrinsic_params_aligned.json")).is_file()
                }
                for name in filmed
            },
            "to be given": self.open_questions(
                fps="timestamp" in rows,
                instruction=bool(told.get("task_name")),
                opening=self.options.tool_from_gripper is not None,
            ),
        }

    def _told(self, root: Path, task: str, number: str) -> Mapping[str, Any]:
        """What ``task_info`` says of an episode; empty where it says nothing."""
        path = _task_file(root, task)
        if path not in self._tasks:
            listed = load_json(path, limit=1 << 28) if path.is_file() else []
            if not isinstance(listed, list):
                raise WrongFormatError("is not a list of episodes", where=path, found=type(listed).__name__)
            # One at a time: episodes come task by task.
            self._tasks = {path: {str(e.get("episode_id")): e for e in listed if isinstance(e, dict)}}
        return dict(self._tasks[path].get(number, {}))


def _part(root: Path, part: str, task: str, number: str) -> Path:
    return root / part / task / number


def _task_file(root: Path, task: str) -> Path:
    return root / "task_info" / f"task_{task}.json"


def _cameras(root: Path, task: str, number: str) -> Path:
    """The folder of an episode's camera parameters; archives differ by a folder."""
    folder = _part(root, "parameters", task, number)
    inner = folder / "parameters" / "camera"
    return inner if inner.is_dir() else folder / "camera"


def _files(folder: Path) -> list[tuple[str, int]]:
    return files_with_sizes(folder) if folder.is_dir() else []


def _episodes(root: Path) -> Iterator[tuple[str, str]]:
    """Task and episode of each folder, in natural order."""
    log = root / "proprio_stats"
    for task in subfolders(log) if log.is_dir() else []:
        for episode in subfolders(task):
            if (episode / LOG).is_file():
                yield task.name, episode.name


def _check_kind(file: h5py.File, path: Path) -> None:
    """Refuse AgiBot's other recordings, whose files have the same names."""
    joints = file.get("state/joint/position")
    if isinstance(joints, h5py.Dataset) and joints.ndim == 2 and joints.shape[1] > 20:
        raise UnsupportedSourceError(
            "is of AgiBot Digital World, the simulated data set, whose quaternions and cameras differ",
            where=path,
            field="state/joint/position",
            expected="14 joints of two arms",
            found=joints.shape[1],
        )
    fingers = file.get("state/effector/position")
    if isinstance(fingers, h5py.Dataset) and fingers.ndim == 2 and fingers.shape[1] != 2:
        raise UnsupportedSourceError(
            "is of dexterous hands, which an action image cannot draw",
            where=path,
            field="state/effector/position",
            expected="two grippers",
            found=f"{fingers.shape[1]} columns",
        )


def _camera(folder: Path, name: str, frames: VideoFrames, count: int) -> CalibratedCamera:
    """A camera as its two files state it."""
    inner, outer = (folder / f"{name}_{kind}.json" for kind in ("intrinsic_params", "extrinsic_params_aligned"))
    for path in (inner, outer):
        if not path.is_file():
            raise MissingCalibrationError("the view has no such file", where=path, field=name)
    told, stored = load_json(inner), load_json(outer, limit=1 << 28)
    try:
        lens = told["intrinsic"]
        K = np.array([[lens["fx"], 0, lens["ppx"]], [0, lens["fy"], lens["ppy"]], [0, 0, 1]], dtype=np.float64)
        bent = tuple(float(lens.get(key) or 0.0) for key in ("k1", "k2", "p1", "p2", "k3"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFileError("is not a camera", where=inner, field="intrinsic", found=repr(error)) from None
    try:
        listed = [entry["extrinsic"] for entry in stored]
        pose = transforms.make_transform(
            np.array([e["rotation_matrix"] for e in listed], dtype=np.float64).reshape(-1, 3, 3),
            np.array([e["translation_vector"] for e in listed], dtype=np.float64).reshape(-1, 3),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadFileError("is not a list of poses", where=outer, field="extrinsic", found=repr(error)) from None
    if len(pose) != count:
        raise FrameCountError("has another number of poses than the log", where=outer, expected=count, found=len(pose))
    if not (0.3 < K[0, 2] / frames.width < 0.7 and 0.3 < K[1, 2] / frames.height < 0.7):
        raise InvalidCameraError(
            "the camera is for pictures of another size",
            where=inner,
            field="ppx, ppy",
            expected=f"near the middle of {frames.width}x{frames.height}",
            found=f"{K[0, 2]:g}, {K[1, 2]:g}",
        )
    distortion = Distortion("pinhole", bent) if any(bent) else None
    return CalibratedCamera(K, frames.width, frames.height, np.asarray(pose), distortion=distortion)


def _spans(told: Mapping[str, Any]) -> list[tuple[int, int, str]]:
    """Start, end and text of the actions that annotators named; the card spells the key so."""
    label = told.get("lable_info", told.get("label_info"))
    listed = label.get("action_config") if isinstance(label, dict) else None
    found = []
    for entry in listed if isinstance(listed, list) else []:
        try:
            start, end, text = int(entry["start_frame"]), int(entry["end_frame"]), str(entry["action_text"]).strip()
        except (KeyError, TypeError, ValueError):
            raise BadFileError("is not an action", where="task_info", field="action_config", found=entry) from None
        if text and 0 <= start < end:
            found.append((start, end, text))
    return found


def _fingerprint(stamp: str, root: Path, task: str, number: str) -> str:
    videos = _files(_part(root, "observations", task, number) / "videos")
    cameras = _cameras(root, task, number)
    told = _task_file(root, task)
    small = [file_stamp(cameras / name) for name, _ in _files(cameras)] + ([file_stamp(told)] if told.is_file() else [])
    log = file_stamp(_part(root, "proprio_stats", task, number) / LOG)
    return hashlib.sha256(f"{stamp} {log} {videos} {small}".encode()).hexdigest()[:16]

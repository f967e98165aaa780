"""GELLO's recordings: a folder a demonstration, a pickle a step, named by the local time at which it was taken.

As ``gello/data_utils/format_obs.py`` and ``gello/env.py`` of https://github.com/wuphilipp/gello_software write them:
``NAME_rgb`` (H, W, 3) RGB and ``NAME_depth`` of each camera, ``joint_positions`` (the arm's joints, then the gripper),
``ee_pos_quat``, ``gripper_position``, and the command as ``control``. What the numbers mean is each robot driver's own
(``gello/robots``): ``ee_pos_quat`` is zeros of a UR and a Panda, xyzw of an xArm, wxyz of the simulated robot;
``gripper_position`` is 0 open of a UR and an xArm, 1 open of a Panda. So it has to be said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..errors import (
    AmbiguousSourceError,
    BadFileError,
    BadImageError,
    InvalidTrajectoryError,
    MissingCalibrationError,
    UnsupportedSourceError,
    WrongFormatError,
)
from ..model import Episode, EpisodeRef
from ..schemas.mapping import Gripper, Rotation
from ..untrusted.pickles import load as load_pickle
from .base import ConverterOptions, Streams
from .kit.kinematics import Chain
from .kit.mjcf import robot_files
from .kit.tree import file_names, file_stamp, files_with_sizes
from .recording import streams
from .recording.folder_rows import FolderRowConverter
from .recording.recording import Arm, Recording, ViewInput
from .recording.rows import RowOptions, parse_gripper, plain_view
from .recording.sync import JointSamples, PoseSamples, ScalarSamples, statistics

FloatArray = NDArray[np.float64]
ENDING = ".pkl"
_KEYS = {"joint_positions", "ee_pos_quat", "gripper_position"}


class GelloOptions(RowOptions):
    """Options of the GELLO converter."""

    gripper: str | None = Field(
        None,
        description="required: gripper_position when closed and when open: '1 0' (UR, xArm) or '0 1' (Panda)",
    )
    quaternion: Literal["xyzw", "wxyz"] | None = Field(
        None, description="order of ee_pos_quat, where poses are taken from it: xyzw (xArm) or wxyz (simulated)"
    )
    quaternion_checked: bool = Field(False, description="do not ask whether the order is the other one")
    robot: str | None = Field(
        None, description="robot file, URDF or MJCF: poses from the joints, not from ee_pos_quat (with --tip)"
    )
    tip: str | None = Field(None, description="with --robot: the link, body or site whose pose is the end-effector's")
    base: str | None = Field(None, description="with --robot: the frame that poses are in (default: the root)")


@dataclass(frozen=True)
class _Pictures:
    """One camera's pictures: a frame source that opens a step's pickle when its picture is asked for."""

    folder: str
    names: tuple[str, ...]
    key: str
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.names)

    def frames(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """RGB pictures ``(H, W, 3)`` uint8 at ``indices``; `BadImageError` names a step with another one."""
        expected = (self.height, self.width, 3)
        for index in indices:
            path = Path(self.folder) / self.names[index]
            picture = _step(path).get(self.key)
            if not isinstance(picture, np.ndarray) or picture.shape != expected or picture.dtype != np.uint8:
                found = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else repr(picture)
                raise BadImageError(
                    "is no picture like the first", where=path, field=self.key, expected=expected, found=found
                )
            yield picture


class GelloConverter(FolderRowConverter):
    """GELLO: folders of ``2024-01-31T12:34:56.789012.pkl``, a step each, of one arm.

    * **Poses**: ``ee_pos_quat`` with ``--quaternion``, or the joints with ``--robot FILE --tip NAME`` (URDF or MJCF).
      Drivers that do not know the hand's pose write zeros: these are refused.
    * **Tool**: ``--tool-from-gripper``, the canonical gripper in that frame.
    * **Gripper**: ``--gripper 'CLOSED OPEN'``, the two values of ``gripper_position``.
    * **Times**: those in the files' names; ``--fps`` takes steps at a constant rate instead.
    * **Cameras** (``--camera-file``) and **words** (``--instruction``) are not in the recording.

    Depth is left out: its unit is the camera's own. Recordings of two arms are refused by name.
    """

    name: ClassVar[str] = "gello"
    summary: ClassVar[str] = "GELLO: a pickle a step, named by its time"
    examples: ClassVar[tuple[str, ...]] = (
        "actionimg convert gello bc_data/gello shards --gripper '1 0' --quaternion xyzw --camera-file cameras.yaml \\",
        '    --tool-from-gripper hand.yaml --instruction "stack the cups"',
        "actionimg convert gello bc_data/gello shards --gripper '1 0' --robot ur5.urdf --tip tool0 "
        "--camera-file cameras.yaml",
    )
    Options: ClassVar[type[ConverterOptions]] = GelloOptions

    layout: ClassVar[str] = "GELLO"
    episodes_are: ClassVar[str] = "folders with 2024-01-31T12:34:56.789012.pkl, …"
    nothing: ClassVar[str] = "holds no GELLO recording"

    @classmethod
    def is_episode(cls, folder: Path) -> bool:
        """Whether its pickles are named by times."""
        return any(_time(name) is not None for name in file_names(folder, ENDING)[:1])

    @classmethod
    def is_really(cls, folder: Path) -> bool:
        """Whether a step holds an arm's joints."""
        return set(_step(folder / _named(folder)[0][1])) >= _KEYS

    def pictures(self, folder: Path) -> int | None:
        """One a step."""
        return len(_named(folder))

    def state(self, stamp: str, folder: Path) -> str:
        """Of names and sizes of the steps, and what is in the first and the last."""
        files = [f for f in files_with_sizes(folder) if f[0].endswith(ENDING)]
        ends = [file_stamp(folder / name) for name, _ in (files[0], files[-1])] if files else []
        return hashlib.sha256(f"{stamp} {files} {ends}".encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def option_files(self) -> list[Path]:
        """The robot file with all that it includes, besides the shared ones."""
        return super().option_files() + ([] if self.options.robot is None else robot_files(Path(self.options.robot)))

    def read(self, ref: EpisodeRef) -> Episode:
        """One demonstration; its pictures are read when asked for."""
        try:
            return super().read(ref)
        except AmbiguousSourceError as error:
            if error.field != "pose.rotation.order":
                raise
            other = "wxyz" if self.options.quaternion == "xyzw" else "xyzw"
            raise AmbiguousSourceError(
                error.message,
                where=error.where,
                field="quaternion",
                expected=error.expected,
                found=error.found,
                hint=f"If they are {other}, say --quaternion {other}; if not, --quaternion-checked.",
            ) from None

    def recording(self, ref: EpisodeRef) -> Recording:
        """Everything that the steps say: of each the numbers, of the first what pictures there are."""
        folder = self.folder(ref)
        gripper = self._gripper()
        named = _named(folder)
        measured = self.options.fps is None
        times = np.array([t for t, _ in named]) if measured else np.arange(len(named)) / float(self.options.fps or 1)
        names = tuple(name for _, name in named)
        first = _step(folder / names[0])
        pictures = {
            plain_view(key.removesuffix("_rgb")): key
            for key, value in first.items()
            if key.endswith("_rgb") and isinstance(value, np.ndarray) and value.ndim == 3
        }
        chosen = self.chosen_views(list(pictures), folder / names[0])
        rows = [_numbers(folder / name) for name in names]
        joints, pose, opened = (np.array([row[key] for row in rows]) for key in ("joints", "pose", "gripper"))
        openness = streams.openness_from_columns(opened[:, None], gripper, f"{folder}: gripper_position")
        arm = self._arm(joints, pose, times, ScalarSamples(times, openness), folder)
        views = {}
        for name in chosen:
            height, width = first[pictures[name]].shape[:2]
            frames = _Pictures(str(folder), names, pictures[name], height, width)
            views[name] = ViewInput(frames, times if measured else None, self._camera(name, folder))
        return Recording(
            id=ref.id,
            arms={"": arm},
            views=views,
            instructions=self.instructions((), folder),
            rows_fps=None if measured else self.options.fps,
            provenance={"format": self.name, "folder": ref.location["path"], "first": names[0]},
        )

    def _gripper(self) -> Gripper:
        if self.options.gripper is None:
            raise AmbiguousSourceError(
                "GELLO's drivers disagree on what gripper_position is when open",
                field="gripper",
                expected="--gripper 'CLOSED OPEN': '1 0' (UR, xArm) or '0 1' (Panda)",
            )
        return parse_gripper(f"0 {self.options.gripper}")

    def _arm(self, joints: FloatArray, pose: FloatArray, times: FloatArray, opened: ScalarSamples, where: Path) -> Arm:
        tool = self.tool(None, where, "where the gripper is in the frame that the driver reports is not in the log")
        if self.options.robot is not None:
            if self.options.tip is None:
                raise AmbiguousSourceError("which frame is the hand", field="tip", expected="--tip NAME, with --robot")
            chain = Chain.load(Path(self.options.robot), self.options.base, self.options.tip)
            if len(chain.names) > joints.shape[1]:
                raise WrongFormatError(
                    "has fewer joints than the robot",
                    where=where,
                    field="joint_positions",
                    expected=", ".join(chain.names),
                    found=joints.shape[1],
                )
            reached = chain.poses(chain.names, joints[:, : len(chain.names)])
            q = streams.quaternions(reached[:, :3, :3].reshape(-1, 9), "matrix", "row", None, str(where))
            used = JointSamples(times, joints[:, : len(chain.names)], chain.names)
            return Arm(PoseSamples(times, reached[:, :3, 3], q), opened, tool, joints=used)
        if not pose.any():
            raise InvalidTrajectoryError(
                "the driver did not know where the hand is: all poses are zeros, as of a UR and a Panda",
                where=where,
                field="ee_pos_quat",
                expected="--robot FILE --tip NAME, for poses from the joints",
            )
        order = self.options.quaternion
        if order is None:
            raise AmbiguousSourceError(
                "the order of its quaternions is the driver's own",
                where=where,
                field="quaternion",
                expected="--quaternion xyzw (xArm) or wxyz (simulated)",
            )
        q = streams.quaternions(pose[:, 3:], "quaternion", order, None, f"{where}: ee_pos_quat")
        checked = self.options.quaternion_checked
        rotation = Rotation(columns=("ee_pos_quat[3:7]",), form="quaternion", order=order, checked=checked)
        # The last of them is the gripper's.
        own = JointSamples(times, joints[:, :-1]) if joints.shape[1] > 1 else None
        return Arm(PoseSamples(times, pose[:, :3], q), opened, tool, rotation=rotation, joints=own)

    def _camera(self, name: str, where: Path) -> Any:
        if self.options.poses_only:
            return None
        if name not in self.given_cameras():
            raise MissingCalibrationError(
                "GELLO records no calibration",
                where=where,
                field=name,
                expected="--camera-file, with the camera under this name",
                hint="Or leave the view out (--views), or go without action images (--poses-only).",
            )
        return self.given_cameras()[name]

    def streams(self, source: str) -> Streams:
        """Stamps of the first demonstration's steps."""
        ref = next(self.discover(source))
        stamps = np.array([t for t, _ in _named(self.folder(ref))])
        return Streams(ref.id, {"steps": statistics(stamps).to_json()}, {"steps": stamps})


def _time(name: str) -> float | None:
    """Seconds of a local time that a file is named after; None of another name."""
    try:
        return datetime.fromisoformat(name.removesuffix(ENDING)).replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def _named(folder: Path) -> list[tuple[float, str]]:
    """Times and names of the steps, in order of time."""
    return sorted((t, name) for name in file_names(folder, ENDING) if (t := _time(name)) is not None)


def _step(path: Path) -> Mapping[str, Any]:
    value = load_pickle(path)
    if not isinstance(value, Mapping):
        raise BadFileError("is no step", where=path, expected="a dict of observations", found=type(value).__name__)
    return value


def _numbers(path: Path) -> dict[str, Any]:
    """Joints, pose ``(7,)`` and the gripper's number of a step; nothing of its pictures is kept.

    Raises:
        WrongFormatError: One is not there, or has another shape.
        UnsupportedSourceError: They are of two arms.
    """
    step = _step(path)
    found = {}
    for key, name in (("joint_positions", "joints"), ("ee_pos_quat", "pose"), ("gripper_position", "gripper")):
        value = step.get(key)
        array = np.asarray(value if isinstance(value, (np.ndarray, np.generic, float, int)) else np.nan)
        if name == "pose" and array.shape == (14,):
            raise UnsupportedSourceError("is of two arms; only one is read", where=path, field=key, found=array.shape)
        shape = {"joints": (array.size,), "pose": (7,), "gripper": (1,) if array.ndim else ()}[name]
        if value is None or array.dtype.kind not in "iuf" or array.shape != shape:
            found_text = "none" if value is None else f"{array.dtype} {array.shape}"
            raise WrongFormatError(
                "is no number of an arm", where=path, field=key, expected=str(shape), found=found_text
            )
        found[name] = array.astype(np.float64) if name != "gripper" else float(array.reshape(-1)[0])
    return found

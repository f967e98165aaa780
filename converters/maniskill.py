"""ManiSkill 3's trajectory files, as its ``RecordEpisode`` and ``replay_trajectory`` write them.

``traj_N/obs`` has one row more than ``actions``: row 0 is the reset, row i + 1 what action i led to; picture, depth,
pose and camera of one row belong together. Facts were measured on recordings by the program itself (mani_skill 3.0.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..errors import AmbiguousSourceError, InvalidTextError, UnsupportedSourceError, WrongFormatError
from ..model import EpisodeRef
from ..schemas.mapping import Gripper
from ..untrusted import hdf5
from ..untrusted.text import load_json, load_yaml
from .base import ConverterOptions
from .kit.frames import HDF5Depth, HDF5Frames
from .kit.tree import natural_key
from .recording import streams
from .recording.hdf5_rows import HDF5RowConverter, sapien_camera
from .recording.recording import Arm, Recording, ViewInput
from .recording.rows import (
    QuaternionOptions,
    check_rows,
    gripper_values,
    numbers,
    parse_gripper,
    plain_view,
    row_count,
)
from .recording.sync import ScalarSamples

FloatArray = NDArray[np.float64]
PANDAS = ("panda", "panda_wristcam")
PANDA_GRIPPER = "7+8 0 0.08"
_TCP = re.compile(r"tcp_pose|(left|right)_arm_tcp")
_REPLAY = (
    "Replay them with pictures: python -m mani_skill.trajectory.replay_trajectory --traj-path {} "
    "--use-env-states -o rgb+depth --save-traj"
)


class ManiSkillOptions(QuaternionOptions):
    """Options of the ManiSkill converter."""

    gripper: str | None = Field(
        None,
        description="which numbers of qpos say how open the gripper is, and their values when closed and when open: "
        f"COLUMN CLOSED OPEN, or A+B or A-B for a sum or difference; a Panda's is known: '{PANDA_GRIPPER}'",
    )
    env_instructions: str | None = Field(
        None,
        description="YAML file of instructions by env_id, e.g. 'PickCube-v1: pick up the red cube', for a folder of "
        "several tasks",
    )
    outcome: Literal["all", "success"] = Field(
        "all", description="success: only episodes that ended in success, as the file says"
    )


class ManiSkillConverter(HDF5RowConverter):
    """ManiSkill 3: ``NAME.h5`` with groups ``traj_N``, and ``NAME.json`` beside it.

    * **Poses** are ``obs/extra/tcp_pose`` (or ``left_arm_tcp`` and ``right_arm_tcp``): in the world, quaternions wxyz,
      between the fingertips, +z approaches, and the fingers of a Panda open along ±y. Any other robot needs
      ``--tool-from-gripper`` and ``--gripper``.
    * **Gripper**: a Panda's openness is (qpos[7] + qpos[8]) / 0.08 m, measured.
    * **Cameras** are stated for every row, so that a moving camera is followed. Pixel centres lie at + 0.5.
    * **Depth** is in whole millimetres along the camera's axis.
    * **Rate** and **instruction** are not in the files: ``--fps`` (ManiSkill's default is 20), ``--instruction``.

    Episodes go on where ``truncated`` or ``terminated`` says true, as the recorder does. Files without pictures are
    refused with the command that replays them.
    """

    name: ClassVar[str] = "maniskill"
    summary: ClassVar[str] = "ManiSkill 3: HDF5 and JSON, cameras for every row"
    examples: ClassVar[tuple[str, ...]] = (
        'actionimg convert maniskill demos/PickCube-v1 shards --fps 20 --instruction "pick up the red cube" --depth',
        "actionimg convert maniskill xarm.h5 shards --fps 20 --instruction lift --tool-from-gripper hand.yaml "
        "--gripper '6 0.85 0'",
    )
    Options: ClassVar[type[ConverterOptions]] = ManiSkillOptions
    expected: ClassVar[str] = "HDF5 files with groups traj_N of obs, actions and env_states"

    @classmethod
    def layout(cls, file: h5py.File) -> str | None:
        """ManiSkill 3's, whatever was observed; ManiSkill 2 has ``env_states`` as one table."""
        first = next(iter(_names(file)), None)
        group = None if first is None else file[first]
        if group is None or "actions" not in group or "obs" not in group:
            return None
        return "ManiSkill 3" if isinstance(group.get("env_states"), h5py.Group) else None

    @classmethod
    def sibling(cls, file: h5py.File) -> str | None:
        """ManiSkill 2's files have groups of the same names."""
        first = next(iter(_names(file)), None)
        older = first is not None and isinstance(file[first].get("env_states"), h5py.Dataset)
        return "which is of ManiSkill 2, whose observations are laid out in another way" if older else None

    @classmethod
    def episodes(cls, file: h5py.File) -> dict[str, int | None]:
        """The groups ``traj_N``, with one picture more than actions."""
        return {
            name: len(a) + 1 if isinstance(a := file[name].get("actions"), h5py.Dataset) else None
            for name in _names(file)
        }

    def _rows(self, path: Path) -> dict[str, int | None]:
        found = super()._rows(path)
        if self.options.outcome == "all":
            return found
        with hdf5.open_hdf5(path) as file:
            return {name: rows for name, rows in found.items() if _success(file[name])}

    def beside(self, path: Path) -> list[Path]:
        """What the recorder says of the environment."""
        return [path.with_suffix(".json")]

    def option_files(self) -> list[Path]:
        """The instructions by task, besides the shared ones."""
        named = self.options.env_instructions
        return super().option_files() + ([] if named is None else [Path(named)])

    def _texts(self, env_id: object, where: str) -> list[str]:
        """The instruction of a task in the user's file."""
        if self.options.env_instructions is None:
            return []
        told = load_yaml(Path(self.options.env_instructions))
        if not isinstance(told, dict) or not isinstance(told.get(env_id), str):
            raise InvalidTextError(
                "has no instruction of this task",
                where=self.options.env_instructions,
                field=str(env_id),
                found=", ".join(map(str, told)) if isinstance(told, dict) else type(told).__name__,
            )
        return [told[env_id]]

    def recording(self, ref: EpisodeRef) -> Recording:
        """Everything that the episode's group, the JSON file and the options say."""
        path = Path(ref.location["source"]) / ref.location["path"]
        name = str(ref.location["episode"])
        where = f"{path}#{name}"
        fps = self.fps(None, where, "ManiSkill's default is 20: --fps 20.")
        with hdf5.open_hdf5(path) as file:
            group = file.get(name)
            if not isinstance(group, h5py.Group):
                raise WrongFormatError("has no such episode", where=path, field=name)
            obs = _observations(group, path, where)
            count = row_count(group, "actions", where) + 1
            arms = {arm: self._arm(group, obs, arm, key, count, fps, where) for arm, key in _arms(obs, where).items()}
            cameras = {plain_view(n): n for n, g in obs["sensor_data"].items() if "rgb" in g}
            chosen = self.chosen_views(list(cameras), where)
            views = {view: self._view(obs, path, view, cameras[view], count, where) for view in chosen}
            info = _info(path)
            success = _success(group)
            robots = _robots(group)
        return Recording(
            id=ref.id,
            arms=arms,
            views=views,
            instructions=self.instructions(self._texts(info.get("env_id"), where), where),
            rows_fps=fps,
            task=str(info["env_id"]) if isinstance(info.get("env_id"), str) else None,
            provenance={
                "format": self.name,
                "file": ref.location["path"],
                "episode": name,
                "robots": robots,
                "success": success,
                "obs_mode": str((info.get("env_kwargs") or {}).get("obs_mode")),
            },
        )

    def _arm(self, group: h5py.Group, obs: h5py.Group, arm: str, key: str, count: int, fps: float, where: str) -> Arm:
        agent = _agent(obs, arm, where)
        check_rows(
            {f"extra/{key}": row_count(obs["extra"], key, where), "agent/qpos": row_count(agent, "qpos", where)},
            count,
            "actions and the reset",
            where,
        )
        robots = _robots(group)
        panda = bool(robots) and all(robot.partition("-")[0] in PANDAS for robot in robots)
        shown = ", ".join(robots) or "a robot that is not named"
        tool = self.tool(
            np.eye(4) if panda else None, where, f"how its gripper lies in tcp_pose is known of a Panda, not of {shown}"
        )
        values = numbers(obs["extra"], key, where, 7)
        poses, rotation = self.quaternion_poses(np.arange(count) / fps, values, "wxyz", f"{where}: {key}")
        gripper = self._gripper(panda, where, shown)
        qpos = numbers(agent, "qpos", where)
        openness = streams.openness_from_columns(
            gripper_values(qpos, gripper, where, "agent/qpos"), gripper, f"{where}: agent/qpos"
        )
        return Arm(poses, ScalarSamples(poses.times, openness), tool, rotation=rotation)

    def _gripper(self, panda: bool, where: str, robots: str) -> Gripper:
        if self.options.gripper is None and not panda:
            raise AmbiguousSourceError(
                f"which numbers of qpos say how open the gripper is, is known of a Panda, not of {robots}",
                where=where,
                field="gripper",
                expected="--gripper 'COLUMN CLOSED OPEN' or 'COLUMN+COLUMN CLOSED OPEN'",
            )
        return parse_gripper(self.options.gripper or PANDA_GRIPPER)

    def _view(self, obs: h5py.Group, path: Path, view: str, camera: str, count: int, where: str) -> ViewInput:
        place = f"{obs.name}/sensor_data/{camera}".lstrip("/")
        check_rows(
            {f"{camera}/{kind}": len(data) for kind, data in obs["sensor_data"][camera].items()},
            count,
            "actions and the reset",
            where,
        )
        frames = HDF5Frames(path, f"{place}/rgb")
        depth = HDF5Depth(path, f"{place}/depth", unit_m=0.001) if f"{place}/depth" in obs.file else None
        if self.options.poses_only:
            return ViewInput(frames, None, None, depth=depth)
        known = self.given_cameras().get(view, self.given_cameras().get(camera))
        if known is None:
            parameters = obs.get(f"sensor_param/{camera}")
            if not isinstance(parameters, h5py.Group):
                raise WrongFormatError("has no parameters of this camera", where=where, field=f"sensor_param/{camera}")
            size = (frames.width, frames.height)
            known = sapien_camera(
                parameters, "intrinsic_cv", "extrinsic_cv", "extrinsic_cv", size, count, f"{where}: {camera}"
            )
        return ViewInput(frames, None, known, depth=depth)

    def inspect(self, source: str) -> dict[str, Any]:
        """Episodes, what the first says, and what has still to be given."""
        refs = list(self.discover(source))
        path = Path(refs[0].location["source"]) / refs[0].location["path"]
        with hdf5.open_hdf5(path) as file:
            group = file[str(refs[0].location["episode"])]
            obs = group["obs"]
            cameras = obs.get("sensor_data") if isinstance(obs, h5py.Group) else None
            robots = _robots(group)
            panda = bool(robots) and all(robot.partition("-")[0] in PANDAS for robot in robots)
            return {
                "format": self.name,
                "episodes": len(refs),
                "frames": None if any(r.num_frames is None for r in refs) else sum(r.num_frames or 0 for r in refs),
                "first": refs[0].id,
                "env_id": _info(path).get("env_id"),
                "robots": robots,
                "success": _success(group),
                "observed": sorted(obs) if isinstance(obs, h5py.Group) else "state",
                "replay": None if cameras else _REPLAY.format(path.name),
                "views": {
                    plain_view(name): {kind: "×".join(map(str, data.shape)) for kind, data in camera.items()}
                    for name, camera in (cameras or {}).items()
                },
                "to be given": self.open_questions(
                    fps=False,
                    instruction=self.options.env_instructions is not None,
                    tool_from_gripper=panda,
                    gripper=panda,
                ),
            }


def _names(file: h5py.File) -> list[str]:
    """The groups ``traj_N`` by their number: by their letters 10 would come before 2."""
    return sorted((n for n in file if re.fullmatch(r"traj_\d+", n)), key=natural_key)


def _observations(group: h5py.Group, path: Path, where: str) -> h5py.Group:
    """What was observed, with pictures; `UnsupportedSourceError` says how to make them."""
    obs = group.get("obs")
    sensors = obs.get("sensor_data") if isinstance(obs, h5py.Group) else None
    if (
        not isinstance(obs, h5py.Group)
        or not isinstance(sensors, h5py.Group)
        or not any("rgb" in s for s in sensors.values())
    ):
        found = "a table of the state" if isinstance(obs, h5py.Dataset) else ", ".join(obs or ()) or "nothing"
        raise UnsupportedSourceError(
            "was recorded without pictures",
            where=where,
            field="obs",
            expected="obs/sensor_data/CAMERA/rgb",
            found=found,
            hint=_REPLAY.format(path.name) + ".",
        )
    return obs


def _arms(obs: h5py.Group, where: str) -> dict[str, str]:
    """The data set of each arm's pose; the only arm is called ""."""
    found = {m[1] or "": key for key in obs.get("extra", {}) if (m := _TCP.fullmatch(key)) is not None}
    if not found:
        raise WrongFormatError(
            "holds no pose of a gripper: the task does not observe it",
            where=where,
            field="obs/extra",
            expected="tcp_pose, or left_arm_tcp and right_arm_tcp",
            found=", ".join(obs.get("extra", {})) or "nothing",
        )
    return found if len(found) > 1 else {"": next(iter(found.values()))}


def _agent(obs: h5py.Group, arm: str, where: str) -> h5py.Group:
    """The group with an arm's ``qpos``: of two robots those of uids that end in -0 (left) and -1 (right)."""
    agent = obs.get("agent")
    if isinstance(agent, h5py.Group) and arm:
        number = "-0" if arm == "left" else "-1"
        agent = next((agent[name] for name in agent if name.endswith(number)), agent)
    if not isinstance(agent, h5py.Group) or "qpos" not in agent:
        raise WrongFormatError("has no joints", where=where, field="obs/agent", expected="qpos")
    return agent


def _robots(group: h5py.Group) -> list[str]:
    """The uids of what has joints, robots before furniture that has them too."""
    found = group.get("env_states/articulations")
    names = list(found) if isinstance(found, h5py.Group) else []
    agent = group.get("obs/agent") if isinstance(group.get("obs"), h5py.Group) else None
    several = [name for name, part in (agent or {}).items() if isinstance(part, h5py.Group)]
    if several:
        return several
    width = None if agent is None or "qpos" not in agent else agent["qpos"].shape[-1]
    # A row is root pose and velocity (13), positions and velocities: that tells the robot from a cabinet.
    return [name for name in names if width is None or found[name].shape[-1] == 13 + 2 * width]


def _success(group: h5py.Group) -> bool | None:
    """Whether the last step was a success; None where that is not said."""
    found = group.get("success")
    return bool(found[-1]) if isinstance(found, h5py.Dataset) and found.ndim == 1 and len(found) else None


def _info(path: Path) -> Mapping[str, Any]:
    """``env_info`` of the JSON file beside; empty where there is none."""
    beside = path.with_suffix(".json")
    told = load_json(beside, limit=1 << 28) if beside.is_file() else {}
    found = told.get("env_info") if isinstance(told, dict) else None
    return found if isinstance(found, dict) else {}

"""Recordings of robosuite's simulator in HDF5: what robomimic's, MimicGen's and LIBERO's files have in common.

An episode is a group ``data/demo_N`` with observations in ``obs``, the simulator's flattened ``states`` (time, qpos,
qvel), ``actions``, and the attribute ``model_file``, the scene as MJCF. The end-effector's position is that of the site
``gripperN_grip_site`` between the fingers, its quaternion (``eef_quat``, xyzw) that of the body ``robotN_right_hand``;
``eef_quat_site`` is the site's own. A Panda's fingers open along the hand's y, the site is turned by -90 degrees about
z in the hand (robosuite/models/assets/grippers/panda_gripper.xml).

Cameras: the attribute ``camera_info`` of newer files holds intrinsics and camera-to-world poses with OpenCV axes; its
entry of an eye-in-hand camera is composed in the wrong order, and is never used. Else, and for cameras that move, the
model is compiled (`mjcf.Scene`): a camera that is fixed to the hand is placed in it, so that no state is needed; others
are placed by the states. ``f = H / 2 / tan(fovy / 2)`` (robosuite/utils/camera_utils.py).
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..cameras.files import CalibratedCamera
from ..errors import (
    AmbiguousSourceError,
    BadFileError,
    InvalidCameraError,
    InvalidTrajectoryError,
    MissingCalibrationError,
    UnsupportedSourceError,
    WrongFormatError,
)
from ..geometry import exact, transforms
from ..model import EpisodeRef
from ..schemas.mapping import Gripper
from ..untrusted import hdf5
from .base import ConverterOptions
from .kit.frames import HDF5Depth, HDF5Frames
from .kit.mjcf import Scene, cameras_in
from .recording import streams
from .recording.demos import Demo, DemoConverter, DemoOptions, open_demo
from .recording.recording import Arm, Recording, ViewInput
from .recording.rows import (
    check_rows,
    gripper_values,
    numbers,
    parse_gripper,
    row_count,
)
from .recording.sync import JointSamples, PoseSamples, ScalarSamples

FloatArray = NDArray[np.float64]
PANDAS = ("Panda", "MountedPanda", "OnTheGroundPanda")
PANDA_GRIPPER = "0-1 0 0.08"
SITE_FROM_GRIPPER = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""robosuite's ``grip_site`` has x along the finger opening: the canonical frame is turned by 90 degrees about z."""
_AGREEMENT_M = 0.02
_FINGER_COSINE = 0.99


class RobosuiteOptions(DemoOptions):
    """Options of the converters of robosuite's recordings."""

    gripper: str | None = Field(
        None,
        description="which numbers of gripper_qpos say how open the gripper is, and their values when closed and when "
        f"open: COLUMN CLOSED OPEN, or COLUMN-COLUMN CLOSED OPEN; a Panda's is known: '{PANDA_GRIPPER}'",
    )
    model_file: str | None = Field(
        None, description="the scene as MJCF, for episodes that do not hold their own; its meshes are not needed"
    )


@dataclass(frozen=True)
class ArmNames:
    """How a file calls what belongs to one arm.

    Args:
        position: Data set of the grip site's position.
        rotation: Data set of the rotation.
        of_site: Whether that is the site's own rotation, not the hand's.
        gripper: Data set of the finger joints.
        robot: Number of the robot.
        side: ``right`` or ``left``.
    """

    position: str
    rotation: str
    of_site: bool
    gripper: str
    robot: int = 0
    side: str = "right"


class RobosuiteConverter(DemoConverter):
    """Base of both converters."""

    Options: ClassVar[type[ConverterOptions]] = RobosuiteOptions
    state_shift: ClassVar[int]
    """Observation t shows the state of row t + this."""
    flip: ClassVar[str]
    """How pictures are stored."""

    @abstractmethod
    def _arms(self, demo: Demo) -> dict[str, ArmNames]:
        """The arms by name; the only one is called ""."""

    @abstractmethod
    def _pictures(self, demo: Demo) -> dict[str, tuple[str, str]]:
        """By view: the data set of its pictures, and the camera's name in the simulator."""

    @abstractmethod
    def _texts(self, demo: Demo) -> list[str]:
        """Instructions in the file."""

    @property
    def scene_file(self) -> str | None:
        """What ``--model-file`` names."""
        found: str | None = self.options.model_file
        return found

    def option_files(self) -> list[Path]:
        """The user's scene, besides the shared ones."""
        return super().option_files() + ([] if self.options.model_file is None else [Path(self.options.model_file)])

    def _rotation(self, values: FloatArray, where: str) -> FloatArray:
        """Quaternions xyzw of the rotations as stored."""
        return streams.quaternions(values, "quaternion", "xyzw", None, where)

    def _flip(self, demo: Demo) -> str:
        return self.flip

    def _depth_name(self, pictures: str) -> str | None:
        """The data set of a view's depth in metres, beside its pictures."""
        return None

    def _recording(self, ref: EpisodeRef, demo: Demo, path: Path) -> Recording:
        names = self._arms(demo)
        if not names:
            raise WrongFormatError(
                "has no end-effector pose", where=demo.where, field="obs", found=", ".join(sorted(demo.obs))
            )
        fps = self.fps(
            demo.kwargs.get("control_freq"), demo.where, "env_args names no control_freq; robosuite's default is 20."
        )
        rows = self._check_lengths(demo, names)
        times = np.arange(rows) / fps
        arms = {name: self._arm(demo, arm, times) for name, arm in names.items()}
        views = {
            name: self._view(demo, path, name, *pictures, names, arms) for name, pictures in self._views(demo).items()
        }
        return Recording(
            id=ref.id,
            arms=arms,
            views=views,
            instructions=self.instructions(self._texts(demo), demo.where),
            rows_fps=fps,
            task=str(demo.env["env_name"]) if demo.env.get("env_name") else None,
            provenance={
                "format": self.name,
                "file": ref.location["path"],
                "demo": ref.location["demo"],
                "env_version": str(demo.env.get("env_version") or ""),
                "robots": [str(r) for r in self._robots(demo)],
                "flipped": self._flip(demo),
                **demo.checks,
            },
        )

    def _views(self, demo: Demo) -> dict[str, tuple[str, str]]:
        found = self._pictures(demo)
        return {name: found[name] for name in self.chosen_views(list(found), demo.where)}

    def _check_lengths(self, demo: Demo, names: Mapping[str, ArmNames]) -> int:
        """Rows of the episode; refuse streams that differ in length."""
        rows = row_count(demo.group, "actions", demo.where)
        of_arms = [key for arm in names.values() for key in (arm.position, arm.rotation, arm.gripper)]
        keys = dict.fromkeys([*of_arms, *(pictures for pictures, _ in self._views(demo).values())])
        counts = {f"obs/{key}": row_count(demo.obs, key, demo.where) for key in keys}
        stated = demo.group.attrs.get("num_samples")
        if isinstance(stated, (int, np.integer)):
            counts["num_samples"] = int(stated)
        check_rows(counts, rows, "actions", demo.where)
        return rows

    # -- arms ----------------------------------------------------------------------------------------------------

    def _robots(self, demo: Demo) -> list[Any]:
        found = demo.kwargs.get("robots")
        return [found] if isinstance(found, str) else found if isinstance(found, list) else []

    def _is_panda(self, demo: Demo, robot: int) -> bool:
        robots = self._robots(demo)
        grippers = demo.kwargs.get("gripper_types", "default")
        if not isinstance(grippers, list):
            grippers = [grippers or "default"] * len(robots)
        known = robot < len(robots) and robots[robot] in PANDAS
        return known and (robot >= len(grippers) or grippers[robot] in ("default", "PandaGripper"))

    def _arm(self, demo: Demo, names: ArmNames, times: FloatArray) -> Arm:
        where = demo.where
        position = numbers(demo.obs, names.position, where, 3)
        q = self._rotation(numbers(demo.obs, names.rotation, where), f"{where}: obs/{names.rotation}")
        panda = self._is_panda(demo, names.robot)
        robots = ", ".join(map(str, self._robots(demo))) or "unknown"
        known = (SITE_FROM_GRIPPER if names.of_site else np.eye(4)) if panda else None
        tool = self.tool(known, where, f"the hand's frame is known of a Panda with its own gripper, not of {robots}")
        gripper = self._gripper(panda, where, robots)
        fingers = numbers(demo.obs, names.gripper, where)
        openness = streams.openness_from_columns(
            gripper_values(fingers, gripper, where, names.gripper), gripper, f"{where}: obs/{names.gripper}"
        )
        arm = Arm(PoseSamples(times, position, q), ScalarSamples(times, openness), tool)
        joints = demo.obs.get(f"robot{names.robot}_joint_pos", demo.obs.get("joint_states"))
        if names.robot == 0 and isinstance(joints, h5py.Dataset) and joints.ndim == 2 and len(joints) == len(times):
            return replace(arm, joints=JointSamples(times, np.asarray(joints, np.float64)))
        return arm

    def _gripper(self, panda: bool, where: str, robots: str) -> Gripper:
        if self.options.gripper is not None:
            return parse_gripper(self.options.gripper)
        if not panda:
            raise AmbiguousSourceError(
                f"which of the finger joints says how open the gripper is, is known of a Panda, not of {robots}",
                where=where,
                field="gripper",
                expected="--gripper 'COLUMN CLOSED OPEN' or 'COLUMN-COLUMN CLOSED OPEN'",
            )
        return parse_gripper(PANDA_GRIPPER)

    # -- cameras -------------------------------------------------------------------------------------------------

    def _view(
        self,
        demo: Demo,
        path: Path,
        name: str,
        pictures: str,
        camera: str,
        names: Mapping[str, ArmNames],
        arms: Mapping[str, Arm],
    ) -> ViewInput:
        group = f"{demo.group.name}/obs".lstrip("/")
        flip = self._flip(demo)
        frames = HDF5Frames(path, f"{group}/{pictures}")
        depth_name = self._depth_name(pictures)
        depth = None
        if depth_name is not None and depth_name in demo.obs:
            depth = HDF5Depth(path, f"{group}/{depth_name}", flipped=flip == "vertical")
        if self.options.poses_only:
            return ViewInput(frames, None, None, flip=flip, depth=depth)
        given = self.given_cameras().get(name, self.given_cameras().get(camera))
        if given is not None:
            arm = next(iter(arms)) if len(arms) == 1 else self._arm_of(camera, names)
            return ViewInput(frames, None, given, flip=flip, arm=arm, depth=depth)
        known, arm = self._camera(demo, camera, frames.width, frames.height, names, arms)
        return ViewInput(frames, None, known, flip=flip, arm=arm, depth=depth)

    @staticmethod
    def _arm_of(camera: str, names: Mapping[str, ArmNames]) -> str:
        """The arm whose robot (and side) a camera's name names."""
        for name, arm in names.items():
            side = any(a.robot == arm.robot and a.side != arm.side for a in names.values())
            if camera.startswith(f"robot{arm.robot}_" + (f"{arm.side}_" if side else "")):
                return name
        return ""

    def _camera(
        self,
        demo: Demo,
        camera: str,
        width: int,
        height: int,
        names: Mapping[str, ArmNames],
        arms: Mapping[str, Arm],
    ) -> tuple[CalibratedCamera, str]:
        """A camera from ``camera_info`` where it stands still, else from the model; and the arm it is fixed to."""
        info = demo.json("camera_info")
        entry = info.get(camera) if isinstance(info, dict) else None
        model = demo.model
        moves = "eye_in_hand" in camera
        if model is not None:
            known = cameras_in(model, f"{demo.where}: model_file")
            if camera not in known:
                raise WrongFormatError(
                    "has no such camera",
                    where=f"{demo.where}: model_file",
                    field=camera,
                    expected=" | ".join(known) or "cameras; or the camera in --camera-file",
                )
            moves = moves or known[camera]
        if entry is not None and not moves:
            return _from_info(entry, camera, width, height, demo.where), ""
        if model is None:
            raise MissingCalibrationError(
                "camera_info of a camera in the hand is composed in the wrong order by robomimic, and cannot be used"
                if entry is not None
                else "has no model_file and no camera_info",
                where=demo.where,
                field=camera,
                expected="attribute model_file, or --model-file, or the camera in --camera-file (tool_from_camera)",
            )
        return self._from_model(demo, camera, width, height, names, arms)

    def _from_model(
        self,
        demo: Demo,
        camera: str,
        width: int,
        height: int,
        names: Mapping[str, ArmNames],
        arms: Mapping[str, Arm],
    ) -> tuple[CalibratedCamera, str]:
        scene = demo.scene
        key = scene.find(camera, ("camera",), "camera")
        K = scene.camera_K(key[1], width, height)
        self._check_model(demo, names, arms)
        carriers = scene.carriers(*key)
        if not carriers:
            return CalibratedCamera(K, width, height, scene.poses([key])[key][0], pixel_centre=0.5), ""
        for name, arm in names.items():
            site, hand = _hand(scene, arm)
            if carriers == scene.carriers(*site):
                still = scene.poses([key, site, hand])
                tool = still[site if arm.of_site else hand][0].copy()
                tool[:3, 3] = still[site][0, :3, 3]
                return CalibratedCamera(
                    K,
                    width,
                    height,
                    tool_from_camera=np.asarray(exact.matmul(transforms.invert(tool), still[key][0])),
                    pixel_centre=0.5,
                ), name
        if self.state_shift != 0:
            raise UnsupportedSourceError(
                "the camera moves apart from the hands, and the file lacks the state of the last picture",
                where=demo.where,
                field=camera,
            )
        qpos = self._qpos(demo)
        return CalibratedCamera(K, width, height, scene.poses([key], qpos)[key], pixel_centre=0.5), ""

    def _qpos(self, demo: Demo) -> FloatArray:
        """``(T, nq)`` of the flattened states: time, qpos, qvel (robosuite/utils/binding_utils.py)."""
        states = numbers(demo.group, "states", demo.where)
        model = demo.scene.model
        expected = 1 + int(model.nq) + int(model.nv)
        if states.shape[1] != expected:
            raise WrongFormatError(
                "is not of this model_file",
                where=demo.where,
                field="states",
                expected=f"{expected} numbers a row: time, {model.nq} of qpos, {model.nv} of qvel",
                found=states.shape[1],
            )
        return states[:, 1 : 1 + int(model.nq)]

    def _check_model(self, demo: Demo, names: Mapping[str, ArmNames], arms: Mapping[str, Arm]) -> None:
        """Hold the model against the observations: where the states put the hand, and how its fingers open.

        Raises:
            InvalidTrajectoryError: States and observations lie apart.
            AmbiguousSourceError: Fingers that do not open along the gripper's y.
        """
        if "model_agrees_mm" in demo.checks:
            return
        scene = demo.scene
        worst = 0.0
        for name, arm in names.items():
            site, hand = _hand(scene, arm)
            if "states" in demo.group:
                seen = arms[name].poses.position
                made = scene.poses([site], self._qpos(demo))[site][:, :3, 3]
                check_rows({"states": len(made)}, len(seen), "observations", demo.where)
                last = len(seen) - self.state_shift
                distance = np.linalg.norm(made[self.state_shift :] - seen[:last], axis=1)
                apart = float(np.median(distance)) if len(distance) else 0.0
                worst = max(worst, apart)
                if apart > _AGREEMENT_M:
                    raise InvalidTrajectoryError(
                        "states and observations lie apart",
                        where=demo.where,
                        field=arm.position,
                        expected=f"≤ {_AGREEMENT_M * 1000:g} mm (median) at row t + {self.state_shift} of states",
                        found=f"{apart * 1000:.1f} mm",
                    )
            if self.options.tool_from_gripper is None:
                still = scene.poses([site, hand])
                rotation = still[site if arm.of_site else hand][0, :3, :3] @ arms[name].tool_from_gripper[:3, :3]
                for axis in scene.slides_beside(*site):
                    along = float(abs(rotation[:, 1] @ axis))
                    if along < _FINGER_COSINE:
                        raise AmbiguousSourceError(
                            "the model's fingers do not open along the y axis of a Panda's gripper",
                            where=demo.where,
                            field="tool_from_gripper",
                            expected="--tool-from-gripper",
                            found=f"{np.degrees(np.arccos(min(along, 1.0))):.0f} degrees off",
                        )
        demo.checks["model_agrees_mm"] = round(worst * 1000, 3)

    # -- looking -------------------------------------------------------------------------------------------------

    def inspect(self, source: str) -> dict[str, Any]:
        """Episodes, and what the first says: robot, rate, data sets, cameras, and what has still to be given."""
        refs = list(self.discover(source))
        path = Path(refs[0].location["source"]) / refs[0].location["path"]
        with hdf5.open_hdf5(path) as file:
            demo = open_demo(file, path, refs[0].location["demo"], self.options.model_file)
            info = demo.json("camera_info")
            found: dict[str, Any] = {
                "format": self.name,
                "episodes": len(refs),
                "frames": sum(r.num_frames or 0 for r in refs),
                "first": refs[0].id,
                "robots": [str(r) for r in self._robots(demo)],
                "fps": demo.kwargs.get("control_freq"),
                "instructions": self._texts(demo),
                "arms": [name or "(one)" for name in self._arms(demo)],
                "views": {
                    name: {"pictures": "×".join(map(str, demo.obs[pictures].shape)), "camera": camera}
                    for name, (pictures, camera) in self._pictures(demo).items()
                },
                "obs": {k: "×".join(map(str, d.shape)) for k, d in demo.obs.items() if isinstance(d, h5py.Dataset)},
                "camera_info": sorted(info) if isinstance(info, dict) else None,
                "model_file": demo.model is not None,
                "flipped": self._flip(demo),
                "masks": sorted(file["mask"]) if isinstance(file.get("mask"), h5py.Group) else [],
            }
            panda = all(self._is_panda(demo, arm.robot) for arm in self._arms(demo).values())
            found["to be given"] = self.open_questions(
                fps=demo.kwargs.get("control_freq") is not None,
                instruction=bool(self._texts(demo)),
                tool_from_gripper=panda,
                gripper=panda,
                camera_file=demo.model is not None or isinstance(info, dict),
            )
        return found


def _hand(scene: Scene, arm: ArmNames) -> tuple[tuple[str, int], tuple[str, int]]:
    """The grip site and the hand's body of an arm, as robosuite names them from 1.0 to 1.5."""
    sites = scene.names("site")
    options = [f"gripper{arm.robot}_{arm.side}_grip_site"]
    options += [f"gripper{arm.robot}_grip_site"] if arm.side == "right" else []
    site = next((name for name in options if name in sites), options[0])
    return scene.find(site, ("site",), "grip_site"), scene.find(f"robot{arm.robot}_{arm.side}_hand", ("body",), "hand")


def _from_info(entry: Any, camera: str, width: int, height: int, where: str) -> CalibratedCamera:
    """A fixed camera of ``camera_info``: intrinsics, and ``extrinsics``, which are camera-to-world, OpenCV axes."""
    try:
        K = np.array(entry["intrinsics"], dtype=np.float64).reshape(3, 3)
        pose = np.array(entry["extrinsics"], dtype=np.float64).reshape(4, 4)
    except (KeyError, TypeError, ValueError) as error:
        raise BadFileError("is not a camera", where=where, field=f"camera_info.{camera}", found=repr(error)) from None
    if abs(2 * K[0, 2] - width) > 1 or abs(2 * K[1, 2] - height) > 1:
        raise InvalidCameraError(
            "camera_info is for pictures of another size",
            where=where,
            field=camera,
            expected=f"{2 * K[0, 2]:g}x{2 * K[1, 2]:g}",
            found=f"{width}x{height}",
        )
    return CalibratedCamera(K, width, height, pose, pixel_centre=0.5)


def standard_arms(obs: Sequence[str]) -> dict[str, ArmNames]:
    """The arms of robosuite's own names, e.g. ``robot0_eef_pos``, ``robot0_left_eef_pos``."""
    found = {}
    for key in sorted(obs):
        match = re.fullmatch(r"robot(\d+)_(?:(right|left)_)?eef_pos", key)
        if match is None:
            continue
        prefix = key.removesuffix("eef_pos")
        body = f"{prefix}eef_quat" in obs
        names = ArmNames(
            key,
            f"{prefix}eef_quat" if body else f"{prefix}eef_quat_site",
            not body,
            f"{prefix}gripper_qpos",
            int(match[1]),
            match[2] or "right",
        )
        found[match[2] or f"robot{match[1]}"] = names
    if len({n.robot for n in found.values()}) > 1 and any(n.side == "left" for n in found.values()):
        raise UnsupportedSourceError("several robots with two arms each are not supported", found=", ".join(found))
    return {"": next(iter(found.values()))} if len(found) == 1 else found

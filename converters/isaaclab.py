"""Isaac Lab's recordings (``record_demos.py``, Isaac Lab Mimic): HDF5 with a group ``data/demo_N`` an episode.

Facts of the format are in https://github.com/isaac-sim/IsaacLab: ``hdf5_dataset_file_handler.py`` writes the file,
``stack/mdp/observations.py`` the observations. ``eef_pos`` and ``eef_quat`` are of the sensor frame ``ee_frame``,
0.1034 m in front of a Panda's hand and with its axes (z along the approach, fingers opening along y), in the frame of
the environment; ``gripper_pos`` is one finger's place and the other's, negated. Observation t was made before action t,
its pictures with it. Quaternions are wxyz up to Isaac Lab 2, xyzw since 3: what stands upright on the table tells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..cameras.calibrated import CalibratedCamera
from ..errors import AmbiguousSourceError, InvalidTrajectoryError, MissingCalibrationError, UnsupportedSourceError
from ..geometry import exact, rotations, transforms
from ..model import EpisodeRef
from ..schemas.camera_file import CameraOrigin
from ..schemas.mapping import Gripper
from ..untrusted import hdf5
from ..untrusted.text import parse_json
from .base import ConverterOptions
from .kit.frames import HDF5Frames
from .recording import streams
from .recording.demos import Demo, DemoConverter, DemoOptions
from .recording.recording import Arm, Recording, ViewInput
from .recording.rows import check_rows, gripper_values, numbers, parse_gripper, plain_view, row_count
from .recording.sync import PoseSamples, ScalarSamples

FloatArray = NDArray[np.float64]
FRANKA_STACK = re.compile(r"Isaac-Stack-Cube-(Instance-Randomize-)?Franka-")
"""Environments of stack/config/franka: 0.01 s a step of physics, five of them an action."""
VISUOMOTOR = re.compile(r"Isaac-Stack-Cube-Franka-IK-Rel-Visuomotor-")
PANDA_GRIPPER = "0-1 0 0.08"
_FOCAL_MM, _APERTURE_MM, _TIP_M = 24.0, 20.955, 0.1034
_SOURCE = (
    "https://github.com/isaac-sim/IsaacLab/blob/main/source/isaaclab_tasks/isaaclab_tasks/manager_based/manipulation/"
    "stack/config/franka/stack_ik_rel_visuomotor_env_cfg.py"
)
# Place and quaternion wxyz of cameras with OpenCV axes ("ros"), as that file has them: in the environment, in the hand.
_TABLE_CAM = ((1.0, 0.0, 0.4), (0.35355, -0.61237, -0.61237, 0.35355))
_WRIST_CAM = ((0.13, 0.0, -0.15), (-0.70614, 0.03701, 0.03701, -0.70614))
_UPRIGHT = 0.05


class IsaacLabOptions(DemoOptions):
    """Options of the Isaac Lab converter."""

    gripper: str | None = Field(
        None,
        description="which numbers of gripper_pos say how open the gripper is, and their values when closed and when "
        f"open: COLUMN CLOSED OPEN, or COLUMN-COLUMN CLOSED OPEN; a Panda's is known: '{PANDA_GRIPPER}'",
    )
    quaternion: Literal["auto", "wxyz", "xyzw"] = Field(
        "auto",
        description="order of quaternions: wxyz up to Isaac Lab 2, xyzw since 3; auto: the one by which the robot and "
        "the objects stand upright at the beginning",
    )
    cameras: Literal["published"] | None = Field(
        None,
        description="published: table_cam and wrist_cam as Isaac Lab's own Franka visuomotor environments place them",
    )


class IsaacLabConverter(DemoConverter):
    """Isaac Lab, Isaac Lab Mimic: HDF5 with ``obs/eef_pos``, ``obs/eef_quat``, ``obs/gripper_pos`` and cameras.

    * **Pictures** are the data sets (T, H, W, 3) uint8 in ``obs``, e.g. ``table_cam``. Depth, normals and segmentation
      are stored normalized, and are left out.
    * **Cameras** are not in the file: ``--camera-file``, or ``--cameras published`` for the Franka visuomotor
      environments, from Isaac Lab's own configuration.
    * **Hand, gripper, rate** are known of ``Isaac-Stack-Cube-Franka-…``; of others give ``--tool-from-gripper``,
      ``--gripper`` and, where ``env_args`` has no ``sim_args``, ``--fps``.
    * **Quaternions**: the order is found out, or said with ``--quaternion``.
    * **Instruction**: ``--instruction``; the file has none.
    """

    name: ClassVar[str] = "isaaclab"
    summary: ClassVar[str] = "Isaac Lab, Isaac Lab Mimic: HDF5 of its recorder"
    examples: ClassVar[tuple[str, ...]] = (
        'actionimg convert isaaclab generated.hdf5 shards --cameras published --instruction "stack the cubes"',
    )
    Options: ClassVar[type[ConverterOptions]] = IsaacLabOptions

    @classmethod
    def _recognises(cls, file: h5py.File, demo: h5py.Group) -> str | None:
        obs = demo.get("obs")
        if not isinstance(obs, h5py.Group) or not {"eef_pos", "eef_quat"} <= set(obs):
            return None
        return "Isaac Lab" if "gripper_pos" in obs or _env_name(file).startswith("Isaac-") else None

    def _recording(self, ref: EpisodeRef, demo: Demo, path: Path) -> Recording:
        where = demo.where
        env = str(demo.env.get("env_name") or "")
        franka = FRANKA_STACK.match(env) is not None
        rows = row_count(demo.group, "actions", where)
        fps = self.fps(_rate(demo, franka), where, "It is 1 / (sim.dt · decimation) of the environment.")
        pictures = {plain_view(name): name for name in _pictures(demo.obs)}
        if not pictures:
            raise UnsupportedSourceError(
                "holds no pictures",
                where=where,
                field="obs",
                expected="(T, H, W, 3) uint8, e.g. table_cam",
                found=", ".join(sorted(demo.obs)),
                hint="Record with a visuomotor environment, e.g. Isaac-Stack-Cube-Franka-IK-Rel-Visuomotor-v0.",
            )
        chosen = self.chosen_views(list(pictures), where)
        keys = ["eef_pos", "eef_quat", "gripper_pos", *(pictures[name] for name in chosen)]
        counts = {f"obs/{key}": row_count(demo.obs, key, where) for key in keys}
        stated = demo.group.attrs.get("num_samples")
        if isinstance(stated, (int, np.integer)):
            counts["num_samples"] = int(stated)
        check_rows(counts, rows, "actions", where)
        order = self._order(demo)
        success = demo.group.attrs.get("success")
        return Recording(
            id=ref.id,
            arms={"": self._arm(demo, franka, np.arange(rows) / fps, order, env)},
            views={name: self._view(path, demo, name, pictures[name], env) for name in chosen},
            instructions=self.instructions((), where),
            rows_fps=fps,
            task=env or None,
            provenance={
                "format": self.name,
                "file": ref.location["path"],
                "demo": ref.location["demo"],
                "quaternion_order": order,
                "success": None if success is None else bool(success),
            },
        )

    def _arm(self, demo: Demo, franka: bool, times: FloatArray, order: str, env: str) -> Arm:
        where = demo.where
        position = numbers(demo.obs, "eef_pos", where, 3)
        q = streams.quaternions(
            numbers(demo.obs, "eef_quat", where, 4), "quaternion", order, None, f"{where}: obs/eef_quat"
        )
        why = f"the frame of eef_pos is known of Isaac-Stack-Cube-Franka-…, not of {env or 'an unnamed environment'}"
        tool = self.tool(np.eye(4) if franka else None, where, why)
        gripper = self._gripper(franka, where, env)
        fingers = gripper_values(numbers(demo.obs, "gripper_pos", where), gripper, where, "gripper_pos")
        openness = streams.openness_from_columns(fingers, gripper, f"{where}: obs/gripper_pos")
        return Arm(PoseSamples(times, position, q), ScalarSamples(times, openness), tool)

    def _gripper(self, franka: bool, where: str, env: str) -> Gripper:
        if self.options.gripper is None and not franka:
            raise AmbiguousSourceError(
                f"which numbers of gripper_pos say how open the gripper is, is known of a Panda, not of {env or 'it'}",
                where=where,
                field="gripper",
                expected="--gripper 'COLUMN CLOSED OPEN' or 'COLUMN-COLUMN CLOSED OPEN'",
            )
        return parse_gripper(self.options.gripper or PANDA_GRIPPER)

    def _order(self, demo: Demo) -> str:
        """The order of quaternions: stated, and not contradicted; else the only one by which all stands upright."""
        poses = dict(_root_poses(demo.group))
        upright = [order for order in ("wxyz", "xyzw") if poses and all(_stands(q, order) for q in poses.values())]
        stated = self.options.quaternion
        if stated == "auto" and len(upright) == 1:
            return upright[0]
        if stated == "auto":
            raise AmbiguousSourceError(
                "the order of its quaternions cannot be told from how robot and objects stand at the beginning",
                where=demo.where,
                field="quaternion",
                expected="--quaternion wxyz (Isaac Lab 1 and 2) or xyzw (3)",
                found=f"{len(poses)} poses; upright by {' and '.join(upright) or 'neither order'}",
            )
        if upright and stated not in upright:
            raise InvalidTrajectoryError(
                f"quaternions are {upright[0]}: by {stated} robot and objects would lie on their sides",
                where=demo.where,
                field="quaternion",
                expected=upright[0],
                found=stated,
            )
        return str(stated)

    def _view(self, path: Path, demo: Demo, name: str, stored: str, env: str) -> ViewInput:
        frames = HDF5Frames(path, f"{demo.group.name}/obs/{stored}".lstrip("/"))
        if self.options.poses_only:
            return ViewInput(frames, None, None)
        given = self.given_cameras().get(name, self.given_cameras().get(stored))
        known = published_camera(stored, frames.width, frames.height) if VISUOMOTOR.match(env) else None
        camera = given or (known if self.options.cameras else None)
        if camera is None:
            raise MissingCalibrationError(
                "cameras are not in the file",
                where=demo.where,
                field=name,
                expected="--camera-file FILE" + ("" if known is None else ", or --cameras published"),
                hint="Or go without action images (--poses-only).",
            )
        return ViewInput(frames, None, camera)

    def inspect(self, source: str) -> dict[str, Any]:
        """Episodes, and what the first says: environment, rate, pictures, and what has still to be given."""
        refs = list(self.discover(source))
        path = Path(str(refs[0].location["source"])) / str(refs[0].location["path"])
        with hdf5.open_hdf5(path) as file:
            demo = self.opened(file, path, str(refs[0].location["demo"]))
            env = str(demo.env.get("env_name") or "")
            franka = FRANKA_STACK.match(env) is not None
            rate = _rate(demo, franka)
            return {
                "format": self.name,
                "episodes": len(refs),
                "frames": sum(r.num_frames or 0 for r in refs),
                "first": refs[0].id,
                "environment": env,
                "fps": rate,
                "views": {plain_view(n): "×".join(map(str, demo.obs[n].shape)) for n in _pictures(demo.obs)},
                "to be given": self.open_questions(
                    fps=rate is not None,
                    instruction=False,
                    tool_from_gripper=franka,
                    gripper=franka,
                    camera_file=self.options.cameras is not None,
                ),
            }


def published_camera(name: str, width: int, height: int) -> CalibratedCamera | None:
    """A camera of the Franka visuomotor environments, from their configuration; None of any other name.

    The focal length and the aperture are in millimetres, the aperture that of the picture's width; pixels are square.
    """
    f = _FOCAL_MM / _APERTURE_MM * width
    K = np.array([[f, 0.0, width / 2], [0.0, f, height / 2], [0.0, 0.0, 1.0]])
    origin = CameraOrigin(kind="published", source=_SOURCE)
    if name == "table_cam":
        return CalibratedCamera(K, width, height, world_from_camera=_pose(*_TABLE_CAM), pixel_centre=0.5, origin=origin)
    if name == "wrist_cam":
        tip_from_hand = transforms.make_transform(np.eye(3), np.array([0.0, 0.0, -_TIP_M]))
        tool = np.asarray(exact.matmul(np.asarray(tip_from_hand), _pose(*_WRIST_CAM)))
        return CalibratedCamera(K, width, height, tool_from_camera=tool, pixel_centre=0.5, origin=origin)
    return None


def _pose(place: tuple[float, ...], wxyz: tuple[float, ...]) -> FloatArray:
    q = np.asarray(wxyz)[[1, 2, 3, 0]]
    rotation = np.asarray(rotations.matrix_from_quaternion(np.asarray(rotations.normalize(q))))
    return np.asarray(transforms.make_transform(rotation, np.asarray(place)))


def _env_name(file: h5py.File) -> str:
    text = hdf5.text(file["data"].attrs.get("env_args"))
    env = {} if text is None else parse_json(text, file.filename, "env_args")
    return str(env.get("env_name") or "") if isinstance(env, dict) else ""


def _rate(demo: Demo, franka: bool) -> float | None:
    """Actions per second: ``sim_args`` of newer files, else the known environments'."""
    sim = demo.env.get("sim_args")
    if isinstance(sim, dict):
        dt, decimation = sim.get("dt"), sim.get("decimation")
        if isinstance(dt, (int, float)) and isinstance(decimation, int) and dt > 0 and decimation > 0:
            return round(1 / (dt * decimation), 6)
    return 20.0 if franka else None


def _pictures(obs: h5py.Group) -> list[str]:
    """Data sets of colour pictures; segmentation and normals in colours are none."""
    found = []
    for name in sorted(obs):
        data = obs.get(name)
        colours = isinstance(data, h5py.Dataset) and data.ndim == 4 and data.shape[3] == 3 and data.dtype == np.uint8
        if colours and not name.endswith(("_segmentation", "_normals", "_depth")):
            found.append(name)
    return found


def _root_poses(demo: h5py.Group) -> Iterator[tuple[str, FloatArray]]:
    """Quaternions ``(4,)`` of robots and objects at the beginning, as stored."""
    for kind in ("articulation", "rigid_object"):
        group = demo.get(f"initial_state/{kind}")
        for name in sorted(group) if isinstance(group, h5py.Group) else ():
            found = group.get(f"{name}/root_pose")
            if isinstance(found, h5py.Dataset) and found.shape[-1:] == (7,) and found.size:
                yield name, hdf5.read_numbers(demo.file, found.name.lstrip("/")).reshape(-1, 7)[0, 3:].astype(float)


def _stands(quaternion: FloatArray, order: str) -> bool:
    """Whether it is a turn about the vertical."""
    x, y = quaternion[[1, 2]] if order == "wxyz" else quaternion[[0, 1]]
    return bool(np.hypot(x, y) < _UPRIGHT)

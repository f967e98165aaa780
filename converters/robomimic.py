"""robomimic's HDF5 files, which robosuite's and MimicGen's tools write too."""

from __future__ import annotations

import re
from typing import ClassVar

import h5py

from .recording.demos import Demo
from .recording.rows import plain_view
from .robosuite import ArmNames, RobosuiteConverter, standard_arms


class RobomimicConverter(RobosuiteConverter):
    """robomimic, robosuite and MimicGen: HDF5 files with groups ``data/demo_N``.

    Read are ``obs/robotN_eef_pos``, ``obs/robotN_eef_quat`` (or ``_quat_site``), ``obs/robotN_gripper_qpos`` and every
    ``obs/CAMERA_image`` that stands upright, as robomimic's own tools write it (``CAMERA_depth``, in metres, beside
    it). Observation t is of row t of ``states``, before action t.

    * **Hand.** The pose is that of the point between the fingers with the hand's rotation (``eef_quat``), or the
      site's, 90 degrees about z from it (``eef_quat_site``). Both are known of a Panda with its own gripper; any other
      robot needs ``--tool-from-gripper``.
    * **Gripper.** A Panda's openness is (q0 - q1) / 0.08 m; any other gripper needs ``--gripper``.
    * **Rate.** ``control_freq`` of ``env_args``, else ``--fps``.
    * **Cameras.** The attribute ``camera_info`` of an episode, for cameras that stand still. Its entry of an
      eye-in-hand camera is composed in the wrong order by robomimic and is not used. Else the attribute
      ``model_file`` (MJCF) through MuJoCo (``pip install '.[joints]'``): a camera on the hand is placed
      in it, any other by the simulator's ``states``. Meshes that the model names need not be there.
    * **Instruction.** ``lang`` of the attribute ``ep_meta`` (RoboCasa), else ``--instruction``.
    * **Two arms** (``robot0`` and ``robot1``, or ``right`` and ``left`` of one robot) become two grippers.

    Where the model is used it is held against the observations: states that put the hand elsewhere, and fingers that
    do not open along the stated axis, are refused.
    """

    name: ClassVar[str] = "robomimic"
    summary: ClassVar[str] = "robomimic, robosuite, MimicGen: HDF5, cameras from camera_info or through MuJoCo"
    examples: ClassVar[tuple[str, ...]] = (
        'actionimg convert robomimic lift.hdf5 shards --instruction "lift the cube"',
        "actionimg convert robomimic lift.hdf5 shards --instruction lift --filter-key valid --depth",
        "actionimg convert robomimic sawyer.hdf5 shards --instruction lift --tool-from-gripper hand.yaml "
        "--gripper '0 0 0.02'",
    )
    state_shift: ClassVar[int] = 0
    flip: ClassVar[str] = "none"

    @classmethod
    def _recognises(cls, file: h5py.File, demo: h5py.Group) -> str | None:
        obs = demo.get("obs")
        if "problem_info" in file["data"].attrs or (isinstance(obs, h5py.Group) and "ee_pos" in obs):
            return None
        if isinstance(obs, h5py.Group):
            # Isaac Lab's has no robot's number before it.
            return "robomimic" if any(re.match(r"robot\d+_.*eef_pos\Z", k) for k in obs) else None
        flat = isinstance(demo.get("states"), h5py.Dataset) and "actions" in demo
        return "robosuite without observations" if flat else None

    def _arms(self, demo: Demo) -> dict[str, ArmNames]:
        return standard_arms(list(demo.obs))

    def _pictures(self, demo: Demo) -> dict[str, tuple[str, str]]:
        cameras = [key.removesuffix("_image") for key in demo.obs if key.endswith("_image")]
        return {plain_view(camera): (f"{camera}_image", camera) for camera in cameras}

    def _texts(self, demo: Demo) -> list[str]:
        meta = demo.json("ep_meta")
        text = meta.get("lang") if isinstance(meta, dict) else None
        return [text] if isinstance(text, str) else []

    def _depth_name(self, pictures: str) -> str | None:
        return f"{pictures.removesuffix('_image')}_depth"

"""The same recording as four labs' programs write it: RoboTwin, ManiSkill, AgiBot World, RH20T.

RoboTwin's and ManiSkill's layouts are those of files that their own writers made (types and names are held against such
samples in test_labs.py); AgiBot World's and RH20T's are written after the formats' public readers.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from actionimg_data.demo.recordings import MAX_WIDTH_M, TeleopLog, make_log
from actionimg_data.geometry import transforms

FloatArray = NDArray[np.float64]
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
# In the frame that RoboTwin records +x approaches, and the fingers are 0.12 m in front of it.
ROBOTWIN_FROM_GRIPPER = np.array([[0, 0, 1, 0.12], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1.0]])


def small_log(frames: int = 6, size: int = 48, seed: int = 0, views: tuple[str, ...] = ("front", "wrist")) -> TeleopLog:
    """A recording that is quickly made."""
    return make_log(frames, size, seed, views)


def beside(log: TeleopLog, metres: float = 0.15) -> TeleopLog:
    """What a second arm does, which holds its hand to the side of the first; it is in no picture."""
    moved = log.world_from_tool.copy()
    moved[:, 1, 3] += metres
    return replace(log, world_from_tool=moved, width_m=MAX_WIDTH_M - log.width_m)


def gripper_poses(log: TeleopLog) -> FloatArray:
    """``(T, 4, 4)`` of the canonical gripper at the pictures."""
    return np.asarray(log.truth().world_from_gripper)


def pose7(poses: FloatArray, order: str = "wxyz") -> FloatArray:
    """``(T, 7)`` of poses ``(T, 4, 4)``: xyz and a quaternion."""
    q = Rotation.from_matrix(poses[:, :3, :3]).as_quat()
    return np.concatenate([poses[:, :3, 3], q[:, [3, 0, 1, 2]] if order == "wxyz" else q], axis=1)


def sapien_cameras(log: TeleopLog, name: str) -> dict[str, FloatArray]:
    """What SAPIEN states of a camera for each row."""
    view = log.views[name]
    count = len(log.frame_times)
    pose = np.broadcast_to(view.world_from_camera, (count, 4, 4))
    return {
        "intrinsic_cv": np.tile(view.K, (count, 1, 1)).astype(np.float32),
        "extrinsic_cv": np.asarray(transforms.invert(pose))[:, :3].astype(np.float32),
        "cam2world_gl": (pose @ OPENGL).astype(np.float32),
    }


def swapped_jpegs(pictures: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """As RoboTwin encodes them: RGB for BGR, padded with zeros to one length."""
    coded = [cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes() for picture in pictures]
    return np.array(coded, dtype=f"S{max(map(len, coded)) + 7}")


def write_robotwin(
    log: TeleopLog,
    path: Path,
    layout: Literal["legacy", "v1.0"] = "legacy",
    depth: dict[str, FloatArray] | None = None,
    order: str = "wxyz",
) -> Path:
    """An episode of two arms; ``front`` becomes the head's camera, ``wrist`` the left wrist's. Gives its path.

    Args:
        log: What the left arm does, and the pictures.
        path: Of the HDF5 file, in a folder ``data``, beside which the instructions of the older layout are written.
        layout: Which.
        depth: By view ``(T, H, W)`` millimetres.
        order: Of the quaternions, to write a faulty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arms = {"left": log, "right": beside(log)}
    names = {"front": "head_camera", "overhead": "front_camera", "wrist": "left_camera"}
    new = {"head_camera": "cam_head", "front_camera": "cam_third_view", "left_camera": "cam_left_wrist"}
    end = -1 if layout == "v1.0" else None
    with h5py.File(path, "w") as file:
        for arm, motion in arms.items():
            pose = pose7(gripper_poses(motion) @ np.linalg.inv(ROBOTWIN_FROM_GRIPPER), order)
            opened = motion.truth().openness
            if layout == "legacy":
                file[f"endpose/{arm}_endpose"], file[f"endpose/{arm}_gripper"] = pose, opened
                file[f"joint_action/{arm}_arm"] = np.zeros((len(pose), 6))
            else:
                for group, rows in (("state", slice(None, -1)), ("action", slice(1, None))):
                    file[f"{group}/{arm}_ee_poses"] = pose[rows].astype(np.float32)
                    file[f"{group}/{arm}_ee_joint_states"] = opened[rows, None].astype(np.float32)
        for name, view in log.views.items():
            camera = sapien_cameras(log, name)
            if layout == "legacy":
                place = f"observation/{names[name]}"
                file[f"{place}/rgb"] = swapped_jpegs(view.pictures)
                file.update({f"{place}/{key}": value for key, value in camera.items()})
            else:
                place = f"vision/{new[names[name]]}"
                file[f"{place}/colors"] = swapped_jpegs(view.pictures)[:end]
                file[f"{place}/intrinsic_matrix"] = camera["intrinsic_cv"][:end]
                file[f"{place}/extrinsics_matrix"] = camera["cam2world_gl"][:end]
            if depth is not None:
                file[f"{place}/{'depth' if layout == 'legacy' else 'depths'}"] = depth[name][:end]
        if layout == "v1.0":
            file.attrs["source_format"] = "RoboTwin"
            file["data_format_version"] = "v1.0"
            file["instructions"] = json.dumps([log.instruction])
            file["additional_info/frequency"] = np.int32(20)
    if layout == "legacy":
        told = path.parent.parent / "instructions" / f"{path.stem}.json"
        told.parent.mkdir(exist_ok=True)
        told.write_text(json.dumps({"seen": [log.instruction, "raise it"], "unseen": ["up with the red thing"]}))
    return path


def write_maniskill(
    logs: list[TeleopLog],
    path: Path,
    robot: str = "panda",
    depth: dict[str, NDArray[np.int16]] | None = None,
    order: str = "wxyz",
    two_arms: bool = False,
) -> Path:
    """A file of ManiSkill 3 with its JSON beside it; gives its path.

    Args:
        logs: The episodes.
        path: Of the ``.h5`` file.
        robot: Its uid.
        depth: By view ``(T, H, W, 1)`` millimetres.
        order: Of the quaternions, to write a faulty file.
        two_arms: A second robot stands beside the first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for i, log in enumerate(logs):
            count = len(log.frame_times)
            group = file.create_group(f"traj_{i}")
            group["actions"] = np.zeros((count - 1, 7), np.float32)
            # The recorder goes on where the environment says that time is up.
            group["truncated"] = np.arange(count - 1) >= 2
            group["terminated"] = group["success"] = np.arange(count - 1) >= count - 2
            arms = {"left": log, "right": beside(log)} if two_arms else {"": log}
            for number, (arm, motion) in enumerate(arms.items()):
                half = motion.width_at(motion.frame_times)[:, None] / 2
                qpos = np.concatenate([np.zeros((count, 7)), half, half], axis=1).astype(np.float32)
                uid = f"{robot}-{number}" if arm else robot
                group[f"env_states/articulations/{uid}"] = np.zeros((count, 13 + 18), np.float32)
                group[f"obs/agent/{uid}/qpos" if arm else "obs/agent/qpos"] = qpos
                key = f"obs/extra/{arm}_arm_tcp" if arm else "obs/extra/tcp_pose"
                group[key] = pose7(gripper_poses(motion), order).astype(np.float32)
            group["env_states/articulations/cabinet"] = np.zeros((count, 13 + 2), np.float32)
            group["obs/extra/goal_pos"] = np.zeros((count, 3), np.float32)
            for name, view in log.views.items():
                camera = "hand_camera" if name == "wrist" else f"{name}_camera"
                group.create_dataset(
                    f"obs/sensor_data/{camera}/rgb", data=view.pictures, chunks=(1, *view.pictures.shape[1:])
                )
                if depth is not None:
                    group[f"obs/sensor_data/{camera}/depth"] = depth[name]
                group.update({f"obs/sensor_param/{camera}/{k}": v for k, v in sapien_cameras(log, name).items()})
    info: dict[str, Any] = {"env_id": "PickCube-v1", "env_kwargs": {"obs_mode": "rgb"}, "max_episode_steps": 50}
    episodes = [{"episode_id": i, "elapsed_steps": len(log.frame_times) - 1} for i, log in enumerate(logs)]
    path.with_suffix(".json").write_text(json.dumps({"env_info": info, "episodes": episodes}))
    return path

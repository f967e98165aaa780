"""The same recording as four labs' programs write it: RoboTwin, ManiSkill, AgiBot World, RH20T.

RoboTwin's and ManiSkill's layouts are those of files that their own writers made (types and names are held against such
samples in test_labs.py); AgiBot World's and RH20T's are written after the formats' public readers.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from actionimg_data.demo.recordings import MAX_WIDTH_M, TeleopLog, make_log, write_video
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


def agibot_tool(arm: str, opening: str = "y") -> FloatArray:
    """``(4, 4)`` of the canonical gripper in AgiBot's flange."""
    turn = Rotation.from_euler("z", -30 if arm == "left" else 30, degrees=True)
    turn = turn * Rotation.from_euler("z", -90, degrees=True) if opening == "x" else turn
    return np.asarray(transforms.make_transform(turn.as_matrix(), np.array([0.0, 0.0, 0.23])))


def _opencv_K(log: TeleopLog, name: str) -> FloatArray:
    """K with the centre of the first pixel at 0, as real cameras' calibrations have it."""
    return np.asarray(log.views[name].K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]))


def write_agibot(
    logs: list[TeleopLog],
    root: Path,
    order: str = "xyzw",
    opening: str = "y",
    codec: str = "libx264",
    task: str = "327",
) -> Path:
    """A tree of AgiBot World, written after its card and EnerVerse-AC's reader; gives its root.

    Args:
        logs: What the left arm does; ``front`` becomes the head's camera, ``wrist`` the left hand's.
        root: Of the tree.
        order: Of the quaternions, to write a faulty log.
        opening: Axis of the hand along which the fingers open.
        codec: Of the videos, e.g. ``libx265``.
        task: Its number.
    """
    told = []
    for i, log in enumerate(logs):
        number, count = str(648642 + 7 * i), len(log.frame_times)
        arms = {"left": log, "right": beside(log)}
        poses = [
            pose7(gripper_poses(motion) @ np.linalg.inv(agibot_tool(arm, opening)), order)
            for arm, motion in arms.items()
        ]
        path = root / "proprio_stats" / task / number / "proprio_stats.h5"
        path.parent.mkdir(parents=True)
        with h5py.File(path, "w") as file:
            file["timestamp"] = 1_735_000_000_123_456_789 + np.rint(log.frame_times * 1e9).astype(np.int64)
            file["state/end/position"] = np.stack([p[:, :3] for p in poses], axis=1)
            file["state/end/orientation"] = np.stack([p[:, 3:] for p in poses], axis=1)
            opened = np.stack([motion.truth().openness for motion in arms.values()], axis=1)
            file["state/effector/position"] = 120 - 85 * opened
            file["state/joint/position"] = np.zeros((count, 14))
        cameras = root / "parameters" / task / number / "parameters" / "camera"
        cameras.mkdir(parents=True)
        for name, view in log.views.items():
            place = {"front": "head", "overhead": "head_right_fisheye", "wrist": "hand_left"}[name]
            write_video(
                root / "observations" / task / number / "videos" / f"{place}_color.mp4", view.pictures, 30, codec
            )
            K = _opencv_K(log, name)
            lens = {"fx": K[0, 0], "fy": K[1, 1], "ppx": K[0, 2], "ppy": K[1, 2], "k1": 0.0, "k2": 0.0, "p1": 0.0}
            (cameras / f"{place}_intrinsic_params.json").write_text(json.dumps({"intrinsic": lens}))
            pose = np.broadcast_to(view.world_from_camera, (count, 4, 4))
            listed = [
                {"extrinsic": {"rotation_matrix": p[:3, :3].tolist(), "translation_vector": p[:3, 3].tolist()}}
                for p in pose
            ]
            (cameras / f"{place}_extrinsic_params_aligned.json").write_text(json.dumps(listed))
        actions = [
            {"start_frame": 0, "end_frame": 3, "action_text": "reach for the cube", "skill": "Reach"},
            {"start_frame": 3, "end_frame": count, "action_text": "lift it", "skill": "Lift"},
        ]
        told.append(
            {
                "episode_id": int(number),
                "task_name": log.instruction,
                "init_scene_text": "a table",
                "lable_info": {"action_config": actions},
            }
        )
    (root / "task_info").mkdir(parents=True, exist_ok=True)
    (root / "task_info" / f"task_{task}.json").write_text(json.dumps(told))
    return root


RH20T_TOOL = "{translation: [0, 0, 0.02], euler_xyz_deg: [0, 0, 30]}"
RH20T_TCP_FROM_GRIPPER = transforms.make_transform(
    Rotation.from_euler("z", 30, degrees=True).as_matrix(), np.array([0.0, 0.0, 0.02])
)
# Of RH20T's configs.json: the camera in the hand, tc_mat, align_mat_tcp and align_mat_base.
RH20T_SETUPS = {
    1: ("043322070878", [[0, -1, 0, 0], [1, 0, 0, 0.077], [0, 0, 1, 0.2665]], [1, 0, 0, 1], [1, 1]),
    4: ("045322071843", [[1, 0, 0, 0.027], [0, 1, 0, 0.0775], [0, 0, 1, 0.21]], [0, -1, 1, 0], [-1, -1]),
    5: ("104422070042", [[0, 1, 0, 0.033], [-1, 0, 0, -0.05], [0, 0, 1, 0.09]], [-1, 0, 0, -1], [1, 1]),
    6: ("135122075425", [[0, -1, 0, 0.035], [1, 0, 0, 0.055], [0, 0, 1, 0.2]], [1, 0, 0, 1], [1, 1]),
}


def rh20t_setup(number: int) -> tuple[str, FloatArray, FloatArray, FloatArray]:
    """Serial of the hand's camera, camera_from_tcp, and the alignment of hand and base, ``(4, 4)``."""
    serial, camera, tcp, base = RH20T_SETUPS[number]
    align_tcp, align_base = np.eye(4), np.diag([*base, 1.0, 1.0])
    align_tcp[:2, :2] = np.reshape(tcp, (2, 2))
    return serial, np.array([*camera, [0, 0, 0, 1]], dtype=float), align_tcp, align_base


def _rh20t_calibration_pose(pose: FloatArray, number: int) -> FloatArray:
    """``tcp.npy`` as each robot writes it: quaternion, rotation vector about a turned frame, millimetres and Euler."""
    if number == 5:
        turned = pose[:3, :3] @ np.diag([1.0, -1.0, -1.0])
        return np.concatenate([pose[:3, 3], Rotation.from_matrix(turned).as_rotvec()])
    if number == 6:
        return np.concatenate([pose[:3, 3] * 1000, Rotation.from_matrix(pose[:3, :3]).as_euler("xyz")])
    return pose7(pose[None])[0]


def write_rh20t(
    logs: list[TeleopLog],
    root: Path,
    order: str = "wxyz",
    turned: float = 0.0,
    setup: int = 1,
    hand: bool = False,
) -> Path:
    """Scenes with their calibration, written after RH20T's reader; gives the folder.

    Every camera has a clock of its own, a few milliseconds beside the others, and the file of poses has entries at the
    stamps of each. Pictures are half as large as the calibration has them.

    Args:
        logs: One a scene; of their views only those that stand still are filmed.
        root: Of the data set.
        order: Of the quaternions, to write a faulty log.
        turned: Degrees by which the calibration's marker is turned, for nothing may depend on it.
        setup: 1, 4, 5 or 6.
        hand: Film with the camera in the hand too; its pictures are those of the first.
    """
    start = 1_631_270_645_000
    hand_serial, camera_from_tcp, align_tcp, align_base = rh20t_setup(setup)
    for i, log in enumerate(logs):
        folder = root / f"task_0001_user_0001_scene_{i + 1:04d}_cfg_{setup:04d}"
        (folder / "transformed").mkdir(parents=True)
        serials = {name: f"{38022061000 + k:012d}" for k, name in enumerate(n for n in log.views if n != "wrist")}
        poses, widths = {}, {}
        for k, (name, serial) in enumerate(serials.items()):
            times = log.frame_times + 0.004 * k
            stamps = start + np.rint(times * 1000).astype(np.int64)
            tcp = pose7(log.tool_at(times) @ _tool_from_gripper(log) @ np.linalg.inv(RH20T_TCP_FROM_GRIPPER), order)
            poses[serial] = [{"timestamp": int(t), "tcp": p} for t, p in zip(stamps, tcp, strict=True)]
            opened = np.clip(log.width_at(times) / MAX_WIDTH_M, 0, 1) * 95
            widths[serial] = {
                int(t): {"gripper_command": np.array([w, 0, 0]), "gripper_info": np.array([84.0, 0, 0])}
                for t, w in zip(stamps, opened, strict=True)
            }
            place = folder / f"cam_{serial}"
            write_video(place / "color.mp4", _widened(log.views[name].pictures), 10)
            _save(place / "timestamps.npy", {"color": stamps.tolist(), "depth": []})
            if hand and k == 0:
                shutil.copytree(place, folder / f"cam_{hand_serial}")
        _save(folder / "transformed" / "tcp_base.npy", poses)
        _save(folder / "transformed" / "gripper.npy", widths)
        (folder / "metadata.json").write_text(json.dumps({"calib": 1631, "rating": 9, "calib_quality": 4}))
        human = root / f"task_0001_user_0001_scene_{i + 1:04d}_cfg_{setup:04d}_human"
        human.mkdir()
        # The calibration: the hand stood somewhere, and every camera saw a marker.
        aligned = gripper_poses(log)[0] @ np.linalg.inv(RH20T_TCP_FROM_GRIPPER)
        base_from_tcp = align_base @ aligned @ np.linalg.inv(align_tcp)
        marker = transforms.make_transform(
            Rotation.from_euler("xyz", [0.1, 0.2, turned], degrees=True).as_matrix(), np.array([0.3, -0.1, 0.02])
        )
        base_from_camera = {hand_serial: np.linalg.inv(align_base) @ base_from_tcp @ np.linalg.inv(camera_from_tcp)}
        base_from_camera |= {serials[name]: log.views[name].world_from_camera for name in serials}
        K = {serials[name]: _calibrated_K(log, name) for name in serials}
        K[hand_serial] = next(iter(K.values()))
        calib = root / "calib" / "1631"
        calib.mkdir(parents=True, exist_ok=True)
        _save(calib / "intrinsics.npy", {s: np.hstack([k, np.zeros((3, 1))]) for s, k in K.items()})
        _save(calib / "extrinsics.npy", {s: [transforms.invert(p) @ marker] for s, p in base_from_camera.items()})
        np.save(calib / "tcp.npy", _rh20t_calibration_pose(base_from_tcp, setup))
    told = {"task_0001": {"task_description_english": logs[0].instruction, "task_description_chinese": ""}}
    (root / "task_description.json").write_text(json.dumps(told))
    return root


def _save(path: Path, value: Any) -> None:
    np.save(path, value, allow_pickle=True)


def _tool_from_gripper(log: TeleopLog) -> FloatArray:
    """``(4, 4)`` of the canonical gripper in the log's own tool frame."""
    return np.asarray(transforms.invert(log.tool_at(log.frame_times[:1])[0]) @ gripper_poses(log)[0])


def _widened(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Square pictures with margins at both sides, of the aspect of RH20T's."""
    height = pictures.shape[1]
    margin = (height * 16 // 9 - height) // 2
    return np.pad(pictures, ((0, 0), (0, 0), (margin, margin), (0, 0)))


def _calibrated_K(log: TeleopLog, name: str) -> FloatArray:
    """K of the widened pictures as large as 1280x720, with the centre of the first pixel at 0."""
    pictures = log.views[name].pictures
    height, width = _widened(pictures).shape[1:3]
    K = log.views[name].K + np.array([[0, 0, (width - pictures.shape[2]) / 2], [0, 0, 0], [0, 0, 0]])
    return np.asarray(K * [[1280 / width], [720 / height], [1]] - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])

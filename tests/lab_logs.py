"""Recordings as labs' own programs write them: Bridge raw, CALVIN, GELLO, Isaac Lab Mimic; and the "selfgen" tree.

Each is written after the format's public reader or writer (named at each), from the same made-up `TeleopLog` as those
of `actionimg_data.demo.recordings`, so that every converter has to give the same trajectory.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from actionimg_data.converters.bridge_raw import TOOL_FROM_GRIPPER as BRIDGE_TOOL
from actionimg_data.demo.recordings import MAX_WIDTH_M, LoggedView, TeleopLog, camera_file, write_yaml
from actionimg_data.geometry import transforms

FloatArray = NDArray[np.float64]
BRIDGE_HZ = 5.0


def renamed_cameras(log: TeleopLog, names: Mapping[str, str]) -> dict[str, Any]:
    """The log's camera file with other names of views."""
    cameras = camera_file(log)["cameras"]
    return {"cameras": {new: cameras[old] for old, new in names.items()}}


def _write_pickle(path: Path, value: Any) -> None:
    with open(path, "wb") as file:
        pickle.dump(value, file, protocol=4)


def write_bridge_raw(
    log: TeleopLog,
    root: Path,
    trajectory: int = 0,
    date: str = "2023-03-15_13-35-30",
    text: str | None = "put the cube on the table\nconfidence: 0.9\n",
    delay: int = 0,
) -> Path:
    """One ``trajN`` after ``raw_saver.py`` and ``current_obs`` of bridge_data_robot.

    Args:
        log: Its views become images0, images1, …
        root: Of the data set.
        trajectory: Number of the trajectory.
        date: The folder above, named after it.
        text: Of ``lang.txt``; None: no such file.
        delay: Steps by which pictures are late.
    """
    folder = root / "toykitchen1" / "put_cube" / "00" / date / "raw" / "traj_group0" / f"traj{trajectory}"
    folder.mkdir(parents=True)
    truth = log.truth()
    rows = len(truth.openness)
    eef = np.asarray(truth.world_from_gripper @ transforms.invert(BRIDGE_TOOL))
    angles = np.zeros((rows, 3))  # relative to a rotation that the file does not say: no reader may use them
    state = np.concatenate([eef[:, :3, 3], angles, truth.openness[:, None]], axis=1)
    observations = {
        "joint_effort": np.zeros((rows, 7)),
        "qpos": np.zeros((rows, 6)),
        "qvel": np.zeros((rows, 6)),
        "full_state": state,
        "state": state,
        "desired_state": state,
        "time_stamp": 1_678_900_000.0 + np.arange(rows) / BRIDGE_HZ,
        "eef_transform": eef,
        "env_done": np.zeros(rows, dtype=bool),
        "t_get_obs": np.full(rows, 0.08),
    }
    _write_pickle(folder / "obs_dict.pkl", observations)
    _write_pickle(folder / "policy_out.pkl", [{"actions": np.zeros(7)} for _ in range(rows - 1)])
    _write_pickle(folder / "agent_data.pkl", {"traj_ok": True, "camera_info": [{}]})
    if text is not None:
        (folder / "lang.txt").write_text(text)
    for number, view in enumerate(log.views.values()):
        (folder / f"images{number}").mkdir()
        for i in range(rows):
            picture = view.pictures[max(i - delay, 0)]
            cv2.imwrite(
                str(folder / f"images{number}" / f"im_{i}.jpg"), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]
            )
    return folder


def write_isaaclab(
    logs: Sequence[TeleopLog],
    path: Path,
    names: Mapping[str, str],
    env: str = "Isaac-Stack-Cube-Franka-IK-Rel-Visuomotor-Mimic-v0",
    order: str = "wxyz",
    sim: Mapping[str, Any] | None = None,
) -> Path:
    """Demonstrations after ``hdf5_dataset_file_handler.py`` and ``observations.py`` of Isaac Lab.

    Args:
        logs: One a demonstration.
        path: Of the file.
        names: View of the log to its name in the file.
        env: Name of the environment.
        order: Of all quaternions.
        sim: ``sim_args`` of ``env_args``, which newer files have.
    """
    turn = [3, 0, 1, 2] if order == "wxyz" else [0, 1, 2, 3]
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        arguments: dict[str, Any] = {"env_name": env, "type": 2}
        data.attrs["env_args"] = json.dumps(arguments if sim is None else {**arguments, "sim_args": dict(sim)})
        for number, log in enumerate(logs):
            demo = data.create_group(f"demo_{number}")
            truth = log.truth()
            rows = len(truth.openness)
            demo.attrs["num_samples"], demo.attrs["success"] = rows, True
            demo.create_dataset("actions", data=np.zeros((rows, 7), np.float32), compression="gzip")
            finger = (truth.openness * MAX_WIDTH_M / 2)[:, None]
            obs = {
                "actions": np.zeros((rows, 7)),
                "eef_pos": truth.position,
                "eef_quat": truth.quaternion_xyzw[:, turn],
                "gripper_pos": np.concatenate([finger, -finger], axis=1),
                "joint_pos": np.zeros((rows, 9)),
            }
            for name, values in obs.items():
                demo.create_dataset(f"obs/{name}", data=values.astype(np.float32), compression="gzip")
            for view, name in names.items():
                demo.create_dataset(f"obs/{name}", data=log.views[view].pictures, compression="gzip")
            # The robot stands as it is; cubes are turned about the vertical.
            for where, yaw in (
                ("articulation/robot", 0.0),
                ("rigid_object/cube_1", 0.7),
                ("rigid_object/cube_2", -0.4),
            ):
                q = np.array([0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)])[turn]
                pose = np.concatenate([[0.4, 0.0, 0.02], q])[None]
                demo.create_dataset(f"initial_state/{where}/root_pose", data=pose.astype(np.float32))
                demo.create_dataset(f"states/{where}/root_pose", data=np.repeat(pose, rows, 0).astype(np.float32))
    return path


def calvin_camera(view: LoggedView) -> dict[str, Any]:
    """A fixed camera as calvin_env's configuration states it."""
    width, height = view.size
    pose = view.world_from_camera
    return {
        "_target_": "calvin_env.camera.static_camera.StaticCamera",
        "fov": float(np.degrees(2 * np.arctan(height / 2 / view.K[1, 1]))),
        "aspect": 1,
        "nearval": 0.01,
        "farval": 10,
        "width": width,
        "height": height,
        "look_from": pose[:3, 3].tolist(),
        "look_at": (pose[:3, 3] + 0.7 * pose[:3, 2]).tolist(),
        "up_vector": (-pose[:3, 1]).tolist(),
    }


def write_calvin(
    logs: Sequence[TeleopLog], folder: Path, names: Mapping[str, str], config: bool = True, start: int = 53818
) -> Path:
    """A split after ``datarenderer.py`` of calvin_env and CALVIN's README; each log is a recording of play.

    The annotated spans leave the first step of each recording out.
    """
    (folder / "lang_annotations").mkdir(parents=True)
    spans, table, texts = [], [], []
    number = start
    for log in logs:
        truth = log.truth()
        euler = Rotation.from_quat(truth.quaternion_xyzw).as_euler("xyz")
        table.append((number, number + len(euler) - 1))
        spans.append((number + 1, number + len(euler) - 1))
        texts.append(log.instruction)
        for i in range(len(euler)):
            command = 1.0 if truth.openness[i] > 0.5 else -1.0
            width = truth.openness[i] * MAX_WIDTH_M
            state = np.array([*truth.position[i], *euler[i], width, *np.zeros(7), command])
            pictures = {f"rgb_{name}": log.views[view].pictures[i] for view, name in names.items()}
            size = next(iter(pictures.values())).shape[:2]
            np.savez_compressed(
                folder / f"episode_{number:07d}.npz",
                actions=np.zeros(7),
                rel_actions=np.zeros(7),
                robot_obs=state,
                scene_obs=np.zeros(24),
                rgb_tactile=np.zeros((16, 12, 6), np.uint8),
                depth_static=np.full(size, 1.25, np.float32),
                **pictures,
            )
            number += 1
        number += 1000
    np.save(folder / "ep_start_end_ids.npy", np.array(table[::-1]))
    told = {"language": {"ann": texts, "task": ["lift"] * len(texts), "emb": np.zeros((len(texts), 1, 4), np.float32)}}
    np.save(folder / "lang_annotations" / "auto_lang_ann.npy", {**told, "info": {"episodes": [], "indx": spans}})
    if config:
        cameras = {name: calvin_camera(logs[0].views[view]) for view, name in names.items()}
        robot = {"filename": "franka_panda/panda_longer_finger.urdf", "base_position": "${scene.robot_base_position}"}
        write_yaml(
            folder / ".hydra" / "merged_config.yaml",
            {"cameras": cameras, "robot": robot, "env": {"control_freq": 30, "cameras": "${cameras}"}},
        )
    return folder


def write_gello(
    log: TeleopLog,
    folder: Path,
    order: str = "xyzw",
    joints: FloatArray | None = None,
    start: str = "2024-01-31T12:34:56",
    open_value: float = 0.0,
) -> Path:
    """One demonstration after ``format_obs.py`` and ``env.py`` of gello_software; the views keep their names.

    Args:
        log: What was recorded.
        folder: Of the demonstration.
        order: Of the quaternion in ``ee_pos_quat``.
        joints: ``(T, n)`` of the arm, where the driver does not know the hand's pose; it then writes zeros.
        start: Time of the first step.
        open_value: What the gripper's number is when open; 1 less that when closed.
    """
    folder.mkdir(parents=True)
    poses = log.tool_at(log.frame_times)
    turn = [3, 0, 1, 2] if order == "wxyz" else [0, 1, 2, 3]
    closed = 1 - np.clip(log.width_at(log.frame_times) / MAX_WIDTH_M, 0, 1)
    for i, t in enumerate(log.frame_times - log.frame_times[0]):
        opened = abs(open_value - closed[i])
        arm = np.zeros(6) if joints is None else joints[i]
        q = Rotation.from_matrix(poses[i, :3, :3]).as_quat()[turn]
        step: dict[str, Any] = {f"{name}_rgb": view.pictures[i] for name, view in log.views.items()}
        step.update({f"{name}_depth": view.pictures[i, ..., :1].astype(np.uint16) for name, view in log.views.items()})
        step["joint_positions"] = step["joint_velocities"] = np.append(arm, opened)
        step["ee_pos_quat"] = np.concatenate([poses[i, :3, 3], q]) if joints is None else np.zeros(7)
        step["gripper_position"] = np.array(opened)
        step["control"] = np.append(arm, opened)
        stamp = datetime.fromisoformat(start) + timedelta(seconds=round(float(t), 6))
        _write_pickle(folder / f"{stamp.isoformat()}.pkl", step)
    return folder

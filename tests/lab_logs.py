"""Recordings as labs' own programs write them: Bridge raw, CALVIN, GELLO, Isaac Lab Mimic; and the "selfgen" tree.

Each is written after the format's public reader or writer (named at each), from the same made-up `TeleopLog` as those
of `actionimg_data.demo.recordings`, so that every converter has to give the same trajectory.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from actionimg_data.converters.bridge_raw import TOOL_FROM_GRIPPER as BRIDGE_TOOL
from actionimg_data.demo.recordings import MAX_WIDTH_M, TeleopLog, camera_file
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

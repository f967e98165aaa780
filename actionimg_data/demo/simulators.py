"""Recordings as simulators and joint-space loggers write them: robomimic, LIBERO, UMI, ALOHA.

Each writer takes the same `TeleopLog` as those of `demo.recordings`, so that every converter has to give the same
`Episode`. The robot is an arm of seven joints with a Panda's dimensions (Franka Emika's published Denavit-Hartenberg
table), written as URDF or as MJCF with robosuite's names; `solve_joints` finds the joints of a trajectory in MuJoCo.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ..geometry import transforms
from .recordings import FRAME_HZ, MAX_WIDTH_M, TeleopLog, camera_file, make_log

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]

PANDA_JOINTS = tuple(f"joint{i}" for i in range(1, 8))
# x and z of the next joint in the one before, and the angle about x between their axes.
_PANDA_LINKS = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -90.0),
    (0.0, 0.316, 90.0),
    (0.0825, 0.0, 90.0),
    (-0.0825, 0.384, -90.0),
    (0.0, 0.0, 90.0),
    (0.088, 0.0, 90.0),
)
_FLANGE_M, _FINGERTIP_M = 0.107, 0.097
_REST = np.array([0.0, 0.2, 0.0, -2.4, 0.0, 2.6, 0.785])
_MESHES = "/home/somebody/assets"


def _frames() -> list[tuple[FloatArray, FloatArray]]:
    """Translation and xyzw quaternion of each joint in the one before."""
    out = []
    for x, z, degrees in _PANDA_LINKS:
        turn = Rotation.from_euler("x", degrees, degrees=True)
        out.append((np.array([x, 0.0, 0.0]) + turn.apply([0.0, 0.0, z]), turn.as_quat()))
    return out


def _text(values: Any) -> str:
    return " ".join(repr(float(v)) for v in np.ravel(values))


def _wxyz(rotation: FloatArray) -> str:
    return _text(Rotation.from_matrix(rotation).as_quat()[[3, 0, 1, 2]])


def panda_urdf(meshes: bool = True) -> str:
    """The arm as URDF: links ``base`` to ``hand`` and ``grip_site``; its mesh files do not exist."""
    parts = ['<robot name="arm">', '<link name="base"/>']
    parent = "base"
    for name, (place, quaternion) in zip(PANDA_JOINTS, _frames(), strict=True):
        link = name.replace("joint", "link")
        mesh = f'<visual><geometry><mesh filename="{_MESHES}/{link}.dae"/></geometry></visual>' if meshes else ""
        rpy = Rotation.from_quat(quaternion).as_euler("xyz")
        parts += [
            f'<link name="{link}">{mesh}</link>',
            f'<joint name="{name}" type="revolute"><parent link="{parent}"/><child link="{link}"/>'
            f'<origin xyz="{_text(place)}" rpy="{_text(rpy)}"/><axis xyz="0 0 1"/>'
            '<limit lower="-3" upper="3" effort="1" velocity="1"/></joint>',
        ]
        parent = link
    for name, height, yaw in (("hand", _FLANGE_M, -np.pi / 4), ("grip_site", _FINGERTIP_M, -np.pi / 2)):
        parts += [
            f'<link name="{name}"/>',
            f'<joint name="{name}_fixed" type="fixed"><parent link="{parent}"/><child link="{name}"/>'
            f'<origin xyz="0 0 {height}" rpy="0 0 {yaw!r}"/></joint>',
        ]
        parent = name
    return "\n".join([*parts, "</robot>"])


def panda_scene(
    base: FloatArray,
    cameras: Mapping[str, tuple[FloatArray, float]] | None = None,
    hand_cameras: Mapping[str, tuple[FloatArray, float]] | None = None,
    robot: int = 0,
    meshes: bool = True,
) -> str:
    """The arm as an MJCF scene with robosuite's names, beside a cube that is free to move.

    Args:
        base: ``(4, 4)`` of the arm in the world.
        cameras: By name ``(4, 4)`` world_from_camera (OpenCV axes) and ``fovy`` in degrees.
        hand_cameras: The same in the frame of the grip site.
        robot: Number in the names.
        meshes: Name mesh files that do not exist, as logs made elsewhere do.
    """
    return _scene([_arm_body(base, hand_cameras or {}, robot, meshes)], cameras or {}, meshes)


def _scene(bodies: Sequence[str], cameras: Mapping[str, tuple[FloatArray, float]], meshes: bool) -> str:
    asset = f'<asset><mesh name="link" file="{_MESHES}/link.stl"/></asset>' if meshes else ""
    placed = "".join(_camera_text(name, pose, fovy) for name, (pose, fovy) in cameras.items())
    return (
        f'<mujoco model="scene"><compiler angle="radian" meshdir="{_MESHES}"/>{asset}'
        '<default><joint damping="1"/>'
        '<default class="cube"><geom size="0.02 0.02 0.02" type="box"/></default></default>'
        f"<worldbody>{placed}"
        '<body name="cube" pos="0.1 0 0.83"><freejoint name="cube_joint"/><geom class="cube" mass="0.1"/></body>'
        f"{''.join(bodies)}</worldbody></mujoco>"
    )


def _camera_text(name: str, pose: FloatArray, fovy: float) -> str:
    # MuJoCo's cameras look along -z with y up.
    place = f'pos="{_text(pose[:3, 3])}" quat="{_wxyz(pose[:3, :3] @ np.diag([1.0, -1.0, -1.0]))}"'
    return f'<camera name="{name}" mode="fixed" fovy="{fovy!r}" {place}/>'


def _arm_body(base: FloatArray, hand_cameras: Mapping[str, tuple[FloatArray, float]], robot: int, meshes: bool) -> str:
    hand_from_site = transforms.make_transform(
        Rotation.from_euler("z", -90, degrees=True).as_matrix(), np.array([0.0, 0.0, _FINGERTIP_M])
    )
    cameras = "".join(
        _camera_text(name, np.asarray(hand_from_site @ pose), fovy) for name, (pose, fovy) in hand_cameras.items()
    )
    geom = '<geom type="mesh" mesh="link"/>' if meshes else ""
    inertial = '<inertial pos="0 0 0" mass="1" diaginertia="0.1 0.1 0.1"/>'
    fingers = "".join(
        f'<body name="gripper{robot}_{side}finger" pos="0 0 0.0524" quat="0.7071067811865476 0 0 0.7071067811865476">'
        f'{inertial}<joint name="gripper{robot}_finger_joint{i}" type="slide" axis="0 1 0" range="{limits}"/></body>'
        for i, side, limits in ((1, "left", "0 0.04"), (2, "right", "-0.04 0"))
    )
    inner = (
        f'<body name="robot{robot}_right_hand" pos="0 0 {_FLANGE_M}" quat="{_wxyz(_yaw(-45))}">{cameras}'
        f'<body name="gripper{robot}_right_gripper" quat="{_wxyz(_yaw(-90))}">{fingers}'
        f'<body name="gripper{robot}_eef" pos="0 0 {_FINGERTIP_M}"><site name="gripper{robot}_grip_site"/></body>'
        "</body></body>"
    )
    for name, (place, quaternion) in reversed(list(zip(PANDA_JOINTS, _frames(), strict=True))):
        link = name.replace("joint", "link")
        inner = (
            f'<body name="robot{robot}_{link}" pos="{_text(place)}" quat="{_text(quaternion[[3, 0, 1, 2]])}">{inertial}'
            f'<joint name="robot{robot}_{name}" axis="0 0 1" limited="true" range="-3 3"/>{geom}{inner}</body>'
        )
    return f'<body name="robot{robot}_base" pos="{_text(base[:3, 3])}" quat="{_wxyz(base[:3, :3])}">{inner}</body>'


def _yaw(degrees: float) -> FloatArray:
    return np.asarray(Rotation.from_euler("z", degrees, degrees=True).as_matrix())


def base_near(world_from_site: FloatArray) -> FloatArray:
    """``(4, 4)`` of an arm's base from which the poses ``(T, 4, 4)`` of its fingertips are in reach."""
    base = np.eye(4)
    base[:3, 3] = world_from_site[:, :3, 3].mean(axis=0) + np.array([-0.55, 0.0, -0.15])
    return base


def solve_joints(scene: str, site: str, joints: Sequence[str], wanted: FloatArray) -> FloatArray:
    """Joint values ``(T, n)`` that put a site at poses ``(T, 4, 4)``: damped least squares in MuJoCo.

    Args:
        scene: MJCF without meshes.
        site: Name of the site.
        joints: Names of the joints that may move; those of the arm above start near its rest pose.
        wanted: In the world.

    Raises:
        ValueError: A pose that is not reached to 1e-8 m and radians.
    """
    import mujoco

    model = mujoco.MjModel.from_xml_string(scene)
    data = mujoco.MjData(model)
    index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, site)
    numbers = [mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, name) for name in joints]
    place, columns = model.jnt_qposadr[numbers], model.jnt_dofadr[numbers]
    jacobian = np.zeros((6, model.nv))
    q = _REST[: len(joints)].copy()
    out = np.empty((len(wanted), len(joints)))
    for t, pose in enumerate(wanted):
        for _ in range(200):
            data.qpos[place] = q
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            rotation = data.site_xmat[index].reshape(3, 3)
            turn = Rotation.from_matrix(pose[:3, :3] @ rotation.T).as_rotvec()
            error = np.concatenate([pose[:3, 3] - data.site_xpos[index], turn])
            size = float(np.abs(error).max())
            if size < 1e-12:
                break
            mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], index)
            J = jacobian[:, columns]
            damping = 1e-12 if size < 0.05 else 1e-3
            q = q + np.clip(J.T @ np.linalg.solve(J @ J.T + damping * np.eye(6), error), -0.3, 0.3)
        if size > 1e-8:
            raise ValueError(f"pose {t} is out of reach: {size:.3g} off")
        out[t] = q
    return out


def fovy_of(K: FloatArray, height: int) -> float:
    """A camera's vertical field of view in degrees, as MJCF states it."""
    return float(np.degrees(2 * np.arctan2(0.5 * height, K[1, 1])))


def _site_poses(log: TeleopLog) -> FloatArray:
    """``(T, 4, 4)`` of robosuite's grip site: x along the finger opening, at the times of the pictures."""
    truth = log.truth()
    gripper_from_site = np.eye(4)
    gripper_from_site[:3, :3] = _yaw(-90)
    return np.asarray(truth.world_from_gripper @ gripper_from_site)


def _split_cameras(
    log: TeleopLog, site: FloatArray, names: Mapping[str, str]
) -> tuple[dict[str, tuple[FloatArray, float]], dict[str, tuple[FloatArray, float]]]:
    """The log's fixed cameras in the world, and its moving ones in the grip site's frame, by the simulator's names."""
    fixed, moving = {}, {}
    for name, view in log.views.items():
        fovy = fovy_of(view.K, view.size[1])
        if view.world_from_camera.ndim == 2:
            fixed[names[name]] = (view.world_from_camera, fovy)
        else:
            moving[names[name]] = (np.asarray(transforms.invert(site[0])) @ view.world_from_camera[0], fovy)
    return fixed, moving


def _robosuite_states(log: TeleopLog, site: FloatArray, base: FloatArray) -> FloatArray:
    """Flattened states ``(T, 1 + nq + nv)`` in which the arm of `panda_scene` holds the log's poses."""
    joints = [f"robot0_{name}" for name in PANDA_JOINTS]
    q = solve_joints(panda_scene(base, meshes=False), "gripper0_grip_site", joints, site)
    half = log.width_at(log.frame_times)[:, None] / 2
    # Joints in the order of the bodies: cube, arm, fingers.
    cube = np.tile([0.1, 0, 0.83, 1, 0, 0, 0], (len(q), 1))
    qpos = np.concatenate([cube, q, half, -half], axis=1)
    return np.concatenate([log.frame_times[:, None], qpos, np.zeros((len(q), 6 + 9))], axis=1)


def write_robomimic(
    logs: Sequence[TeleopLog],
    path: Path,
    cameras: Literal["info", "model", "both", "none"] = "both",
    depth: Mapping[str, FloatArray] | None = None,
    site_rotation: bool = False,
    env_args: Mapping[str, Any] | None = None,
) -> Path:
    """A robomimic file with a demo for each log, its rows at the times of the pictures; gives its path.

    Args:
        logs: The demonstrations.
        path: Of the ``.hdf5`` file.
        cameras: ``info``: attribute ``camera_info``, its entry of a moving camera composed as robomimic does, in the
            wrong order; ``model``: attribute ``model_file`` and matching states.
        depth: By view ``(T, H, W)`` metres, written as ``VIEW_depth``.
        site_rotation: Write ``robot0_eef_quat_site`` alone, the site's own rotation.
        env_args: In place of a Panda's.
    """
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        env = {
            "env_name": "Lift",
            "env_version": "1.4.1",
            "type": 1,
            "env_kwargs": {"robots": ["Panda"], "control_freq": FRAME_HZ},
        }
        data.attrs["env_args"] = json.dumps(env if env_args is None else dict(env_args))
        data.attrs["total"] = sum(len(log.frame_times) for log in logs)
        for i, log in enumerate(logs):
            site = _site_poses(log)
            demo = data.create_group(f"demo_{i}")
            n = len(site)
            demo.attrs["num_samples"] = n
            demo["actions"] = np.zeros((n, 7))
            obs = demo.create_group("obs")
            obs["robot0_eef_pos"] = site[:, :3, 3]
            hand = site[:, :3, :3] @ _yaw(90)
            if site_rotation:
                obs["robot0_eef_quat_site"] = Rotation.from_matrix(site[:, :3, :3]).as_quat()
            else:
                obs["robot0_eef_quat"] = Rotation.from_matrix(hand).as_quat()
            half = log.width_at(log.frame_times)[:, None] / 2
            obs["robot0_gripper_qpos"] = np.concatenate([half, -half], axis=1)
            for name, view in log.views.items():
                obs[f"{name}_image"] = view.pictures
            for name, metres in (depth or {}).items():
                obs[f"{name}_depth"] = np.asarray(metres, np.float32)[..., None]
            base = base_near(site)
            fixed, moving = _split_cameras(log, site, {name: name for name in log.views})
            if cameras in ("model", "both"):
                demo.attrs["model_file"] = panda_scene(base, fixed, moving)
                demo["states"] = _robosuite_states(log, site, base)
            if cameras in ("info", "both"):
                info = {}
                for name, view in log.views.items():
                    pose = view.world_from_camera
                    if pose.ndim == 3:
                        pose = pose[0] @ np.asarray(transforms.invert(site[0]))
                    info[name] = {"intrinsics": view.K.tolist(), "extrinsics": pose.tolist()}
                demo.attrs["camera_info"] = json.dumps(info)
    return path


def write_libero(logs: Sequence[TeleopLog], path: Path, hand_view: str | None = None) -> Path:
    """A LIBERO file: pictures upside down, row j of the states before observation j; gives its path.

    Args:
        logs: The demonstrations; of their views ``hand_view`` becomes ``eye_in_hand_rgb``.
        path: Of the ``.hdf5`` file.
        hand_view: The moving view; found where there is one.
    """
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        env = {"env_name": "Libero_Floor_Manipulation", "env_kwargs": {"robots": ["Panda"], "control_freq": FRAME_HZ}}
        data.attrs["env_args"] = json.dumps(env)
        data.attrs["problem_info"] = json.dumps({"language_instruction": logs[0].instruction})
        data.attrs["macros_image_convention"] = "opengl"
        for i, log in enumerate(logs):
            site = _site_poses(log)
            demo = data.create_group(f"demo_{i}")
            n = len(site)
            demo.attrs["num_samples"] = n
            demo["actions"] = np.zeros((n, 7))
            names = {}
            obs = demo.create_group("obs")
            for name, view in log.views.items():
                hand = name == hand_view or (hand_view is None and view.world_from_camera.ndim == 3)
                names[name] = "robot0_eye_in_hand" if hand else name
                obs["eye_in_hand_rgb" if hand else f"{name}_rgb"] = view.pictures[:, ::-1]
            obs["ee_pos"] = site[:, :3, 3]
            obs["ee_ori"] = Rotation.from_matrix(site[:, :3, :3] @ _yaw(90)).as_rotvec()
            half = log.width_at(log.frame_times)[:, None] / 2
            obs["gripper_states"] = np.concatenate([half, -half], axis=1)
            base = base_near(site)
            demo.attrs["model_file"] = panda_scene(base, *_split_cameras(log, site, names))
            after = _robosuite_states(log, site, base)
            demo["states"] = np.concatenate([after[:1], after[:-1]])
    return path


UMI_TOOL_FROM_GRIPPER = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""UMI's tool has its fingers along x, and the camera on the side of -y."""


def write_umi(logs: Sequence[TeleopLog], path: Path, view: str, lossless: bool = True) -> dict[str, Any]:
    """A UMI data set with an episode for each log, seen by its moving ``view``; gives its camera file.

    Poses are float32, pictures JPEG-XL, one a chunk, as UMI's pipeline writes them.
    """
    import zarr
    from imagecodecs.numcodecs import Jpegxl

    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, list[NDArray[Any]]] = {"eef_pos": [], "eef_rot_axis_angle": [], "gripper_width": []}
    for log in logs:
        tool = log.truth().world_from_gripper @ np.asarray(transforms.invert(UMI_TOOL_FROM_GRIPPER))
        columns["eef_pos"].append(tool[:, :3, 3])
        columns["eef_rot_axis_angle"].append(Rotation.from_matrix(tool[:, :3, :3]).as_rotvec())
        columns["gripper_width"].append(log.width_at(log.frame_times)[:, None])
    pictures = np.concatenate([log.views[view].pictures for log in logs])
    opened = zarr.storage.ZipStore(path, mode="w") if path.name.endswith(".zip") else zarr.storage.LocalStore(path)
    root = zarr.create_group(opened, zarr_format=2)
    data, meta = root.create_group("data"), root.create_group("meta")
    for name, parts in columns.items():
        values = np.concatenate(parts).astype(np.float32)
        data.create_array(f"robot0_{name}", data=values, chunks=values.shape, compressors=None)
    ends = np.cumsum([len(log.frame_times) for log in logs])
    meta.create_array("episode_ends", data=ends, chunks=ends.shape, compressors=None)
    codec = Jpegxl(lossless=True) if lossless else Jpegxl(level=99)
    stored = data.create_array(
        "camera0_rgb", shape=pictures.shape, chunks=(1, *pictures.shape[1:]), dtype="u1", compressors=codec
    )
    for i, picture in enumerate(pictures):
        stored[i] = picture
    opened.close()
    seen = logs[0].views[view]
    tool = logs[0].truth().world_from_gripper[0] @ np.asarray(transforms.invert(UMI_TOOL_FROM_GRIPPER))
    width, height = seen.size
    pose = np.asarray(transforms.invert(tool)) @ seen.world_from_camera[0]
    camera = {"K": seen.K.tolist(), "width": width, "height": height, "pixel_centre": 0.5}
    camera["tool_from_camera"] = _rigid(pose).tolist()
    return {"cameras": {"camera0": camera}}


def _rigid(pose: FloatArray) -> FloatArray:
    """The pose with a last row of whole numbers, as a camera file writes it."""
    return np.vstack([pose[:3], [0.0, 0.0, 0.0, 1.0]])


def joint_log(log: TeleopLog, base: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
    """Joints ``(T, 7)`` of the arm at the times of the pictures, found in MuJoCo, and its base ``(4, 4)``."""
    site = _site_poses(log)
    base = base_near(site) if base is None else base
    joints = [f"robot0_{name}" for name in PANDA_JOINTS]
    return solve_joints(panda_scene(base, meshes=False), "gripper0_grip_site", joints, site), base


def two_arm_scene(left: FloatArray, right: FloatArray, meshes: bool = True) -> str:
    """Two of the arms as one MJCF scene: ``robot0`` (left) and ``robot1`` (right)."""
    return _scene([_arm_body(left, {}, 0, meshes), _arm_body(right, {}, 1, meshes)], {}, meshes)


def write_aloha(
    log: TeleopLog,
    path: Path,
    arms: Sequence[FloatArray],
    widths: Sequence[FloatArray] | None = None,
    jpeg: bool = False,
    simulated: bool = False,
) -> Path:
    """An ALOHA episode with the log's pictures; gives its path.

    Args:
        log: Whose pictures and widths are taken.
        path: Of the ``.hdf5`` file.
        arms: Joints ``(T, n)`` of each arm, in the order of the columns.
        widths: Openness ``(T,)`` of each arm; the log's for all where None.
        jpeg: Encode pictures as ALOHA's recorder does, red and blue swapped, padded to one length.
        simulated: The attribute ``sim``.
    """
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    opened = np.clip(log.width_at(log.frame_times) / MAX_WIDTH_M, 0, 1)
    qpos = np.concatenate(
        [np.concatenate([q, (opened if widths is None else widths[i])[:, None]], axis=1) for i, q in enumerate(arms)],
        axis=1,
    )
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = simulated
        observations = file.create_group("observations")
        observations["qpos"] = qpos
        observations["qvel"] = np.zeros_like(qpos)
        # What is sent after picture t is where the arms are at picture t + 1.
        file["action"] = np.concatenate([qpos[1:], qpos[-1:]])
        images = observations.create_group("images")
        lengths = []
        for name, view in log.views.items():
            if not jpeg:
                images[name] = view.pictures
                continue
            quality = [int(cv2.IMWRITE_JPEG_QUALITY), 95]
            encoded = [cv2.imencode(".jpg", picture, quality)[1].ravel() for picture in view.pictures]
            padded = np.zeros((len(encoded), max(map(len, encoded))), np.uint8)
            for row, data in zip(padded, encoded, strict=True):
                row[: len(data)] = data
            images[name] = padded
            lengths.append([len(data) for data in encoded])
        if jpeg:
            file["compress_len"] = np.array(lengths, np.float64)
    return path


def write_simulator_logs(folder: Path, frames: int = 12, size: int = 96, episodes: int = 2) -> dict[str, Path]:
    """A small source of each kind, with the robot and camera files that its commands name; gives their folders.

    ``robomimic/lift.hdf5``; ``libero/KITCHEN_lift_demo.hdf5``; ``umi/dataset.zarr.zip`` with ``camera.json``;
    ``aloha/episode_N.hdf5`` of two arms (sites ``gripper0_grip_site`` and ``gripper1_grip_site``) with
    ``two_arms.xml`` and ``cameras.json``. LIBERO's instruction is in its file.
    """
    logs = [make_log(frames, size, seed, ("front", "overhead", "wrist")) for seed in range(episodes)]
    out = {name: folder / name for name in ("robomimic", "libero", "umi", "aloha")}
    write_robomimic(logs, out["robomimic"] / "lift.hdf5")
    write_libero(logs, out["libero"] / "KITCHEN_lift_demo.hdf5")
    out["umi"].mkdir(parents=True, exist_ok=True)
    (out["umi"] / "camera.json").write_text(json.dumps(write_umi(logs, out["umi"] / "dataset.zarr.zip", "wrist")))
    left = base_near(_site_poses(logs[0]))
    right = left.copy()
    right[1, 3] -= 0.3
    for i, log in enumerate(logs):
        fixed = {name: view for name, view in log.views.items() if view.world_from_camera.ndim == 2}
        joints, _ = joint_log(log, left)
        write_aloha(replace(log, views=fixed), out["aloha"] / f"episode_{i}.hdf5", [joints, joints[::-1]], jpeg=True)
    (out["aloha"] / "two_arms.xml").write_text(two_arm_scene(left, right))
    (out["aloha"] / "cameras.json").write_text(json.dumps(camera_file(logs[0], moving=False)))
    return out

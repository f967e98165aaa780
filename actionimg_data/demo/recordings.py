"""Recordings of teleoperation, made or read from a sample, and written out in the formats that labs log in.

`make_log` draws a small scene along a smooth motion; `read_panda_log` reads a real recording of the sample data. The
writers put either into a plain folder, DROID's raw tree, LeRobot's three versions, or a ROS bag, each with the mapping
or options that its converter needs, so that all of them have to give the same `Episode`.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from ..geometry import transforms
from ..model import Camera, GripperTrajectory
from ..untrusted import text
from ..untrusted.files import open_plain, plain
from .scene import SceneRenderer, make_cameras, make_motion

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]

MAX_WIDTH_M = 0.08
POSE_HZ = 100
FRAME_HZ = 20
GRIP_SITE = {"euler_xyz_deg": [0, 0, 90]}
"""robosuite's ``grip_site`` has x along the finger opening: the canonical frame is turned by 90 degrees about z."""


@dataclass(frozen=True, eq=False)
class LoggedView:
    """One camera of a log.

    Args:
        pictures: ``(T, H, W, 3)`` RGB.
        K: ``(3, 3)``.
        world_from_camera: ``(4, 4)``, or ``(T, 4, 4)`` where it moves.
    """

    pictures: Image
    K: FloatArray
    world_from_camera: FloatArray

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return int(self.pictures.shape[2]), int(self.pictures.shape[1])


@dataclass(frozen=True, eq=False)
class TeleopLog:
    """A recording before it is written out.

    Args:
        times: ``(N,)`` seconds of the poses.
        world_from_tool: ``(N, 4, 4)`` as the robot reports it.
        width_m: ``(N,)`` between the fingers.
        frame_times: ``(T,)`` seconds of the pictures, the same of all cameras.
        views: By name.
        tool_from_gripper: As a mapping file writes it.
        instruction: In words.
    """

    times: FloatArray
    world_from_tool: FloatArray
    width_m: FloatArray
    frame_times: FloatArray
    views: Mapping[str, LoggedView]
    tool_from_gripper: Mapping[str, Any] = field(default_factory=lambda: dict(GRIP_SITE))
    instruction: str = "lift the red cube"

    @property
    def quaternion_xyzw(self) -> FloatArray:
        """``(N, 4)``."""
        return np.asarray(Rotation.from_matrix(self.world_from_tool[:, :3, :3]).as_quat())

    def tool_at(self, times: FloatArray) -> FloatArray:
        """Poses ``(T, 4, 4)`` at other times, by scipy: independent of the synchroniser under test."""
        turn = Slerp(self.times, Rotation.from_matrix(self.world_from_tool[:, :3, :3]))(times)
        place = np.stack([np.interp(times, self.times, self.world_from_tool[:, i, 3]) for i in range(3)], axis=1)
        return np.asarray(transforms.make_transform(turn.as_matrix(), place))

    def width_at(self, times: FloatArray) -> FloatArray:
        """Widths ``(T,)`` at other times."""
        return np.interp(times, self.times, self.width_m)

    def truth(self) -> GripperTrajectory:
        """The trajectory that a converter has to give: the canonical gripper at the times of the pictures."""
        turn = Rotation.from_euler("xyz", self.tool_from_gripper.get("euler_xyz_deg", [0, 0, 0]), degrees=True)
        move = np.asarray(self.tool_from_gripper.get("translation", [0.0, 0.0, 0.0]), dtype=np.float64)
        tool_from_gripper = np.asarray(transforms.make_transform(turn.as_matrix(), move))
        return GripperTrajectory.from_transforms(
            self.tool_at(self.frame_times) @ tool_from_gripper,
            np.clip(self.width_at(self.frame_times) / MAX_WIDTH_M, 0, 1),
            self.frame_times - self.frame_times[0],
        )


def make_log(
    frames: int = 24, size: int = 96, seed: int = 0, views: Sequence[str] = ("front", "overhead", "wrist")
) -> TeleopLog:
    """A recording of a made-up pick and place: poses at 100 Hz, pictures at 20 Hz.

    Args:
        frames: Pictures of each view.
        size: Width and height in pixels.
        seed: Of the scene.
        views: Cameras of `actionimg_data.demo.scene`; ``wrist`` moves.
    """
    step = POSE_HZ // FRAME_HZ
    motion = make_motion(frames * step + step, seed, seconds=(frames + 1) / FRAME_HZ)
    times = np.arange(len(motion)) / POSE_HZ
    at = np.arange(frames) * step + 2
    cameras = make_cameras(motion, size, views)
    renderer = SceneRenderer(motion, size)
    pictures: dict[str, list[Image]] = {name: [] for name in views}
    for frame in at:
        for name in views:
            camera = cameras[name]
            still = camera if isinstance(camera, Camera) else camera[int(frame)]
            pictures[name].append(renderer.draw(still, int(frame)).rgb)
    logged = {}
    for name in views:
        camera = cameras[name]
        fixed = isinstance(camera, Camera)
        K = camera.K if fixed else camera.K[0]
        logged[name] = LoggedView(
            np.stack(pictures[name]), K, camera.world_from_camera if fixed else camera.world_from_camera[at]
        )
    parts = {"translation": [0.0, 0.0, 0.1], "euler_xyz_deg": [0, 0, 90]}
    gripper_from_tool = transforms.invert(
        transforms.make_transform(Rotation.from_euler("z", 90, degrees=True).as_matrix(), np.array([0.0, 0.0, 0.1]))
    )
    return TeleopLog(
        times=times,
        world_from_tool=motion.world_from_gripper @ gripper_from_tool,
        width_m=motion.jaw * MAX_WIDTH_M,
        frame_times=times[at],
        views=logged,
        tool_from_gripper=parts,
    )


def read_panda_log(folder: Path, views: Sequence[str] | None = None) -> TeleopLog:
    """A recording of the sample data (``teleop/episode_N``): a Panda in a physics simulator."""
    with io.TextIOWrapper(open_plain(folder / "poses.csv"), newline="") as file:
        rows = [[float(v) for v in row.values()] for row in csv.DictReader(file)]
    poses = np.array(rows)
    with io.TextIOWrapper(open_plain(folder / "frame_times.csv"), newline="") as file:
        frame_times = np.array([float(row["time_s"]) for row in csv.DictReader(file)])
    calibration = text.load_json(folder / "calibration.json")
    logged = {}
    for name in views or calibration["cameras"]:
        camera = calibration["cameras"][name]
        with av.open(plain(str(folder / f"{name}.mp4"))) as container:
            pictures = np.stack([np.asarray(f.to_ndarray(format="rgb24"), np.uint8) for f in container.decode(video=0)])
        logged[name] = LoggedView(pictures, np.array(camera["intrinsics"]), np.array(camera["camera_to_world"]))
    pose = transforms.make_transform(Rotation.from_quat(poses[:, 4:8]).as_matrix(), poses[:, 1:4])
    return TeleopLog(
        poses[:, 0], np.asarray(pose), poses[:, 8], frame_times, logged, instruction=calibration["instruction"]
    )


def select_frames(log: TeleopLog, index: NDArray[np.intp]) -> TeleopLog:
    """The log with only the pictures at ``index``."""
    views = {
        name: LoggedView(
            view.pictures[index],
            view.K,
            view.world_from_camera if view.world_from_camera.ndim == 2 else view.world_from_camera[index],
        )
        for name, view in log.views.items()
    }
    return replace(log, frame_times=log.frame_times[index], views=views)


def select_poses(log: TeleopLog, index: NDArray[np.intp]) -> TeleopLog:
    """The log with only the poses at ``index``."""
    return replace(log, times=log.times[index], world_from_tool=log.world_from_tool[index], width_m=log.width_m[index])


def write_video(path: Path, pictures: Image, fps: float = FRAME_HZ, codec: str = "libx264") -> None:
    """An MP4 of RGB pictures; H.264 or H.265 (``libx265``) at crf 8, or AV1 (``libsvtav1``)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Otherwise the AV1 encoder reports its whole configuration on stderr.
    os.environ.setdefault("SVT_LOG", "1")
    options = {"crf": "12", "preset": "10"} if codec == "libsvtav1" else {"crf": "8", "preset": "veryfast"}
    if codec == "libx265":
        options["x265-params"] = "log-level=none"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def camera_file(log: TeleopLog, moving: bool = True) -> dict[str, Any]:
    """The log's cameras as a camera file; without ``moving`` the poses of moving cameras are left out."""
    cameras = {}
    for name, view in log.views.items():
        entry: dict[str, Any] = {
            "K": view.K.tolist(),
            "width": view.size[0],
            "height": view.size[1],
            "pixel_centre": 0.5,
        }
        if view.world_from_camera.ndim == 2 or moving:
            entry["world_from_camera"] = view.world_from_camera.tolist()
        cameras[name] = entry
    return {"cameras": cameras}


def write_yaml(path: Path, value: Any) -> Path:
    """A YAML file of plain values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=110))
    return path


def gripper_mapping(column: str) -> dict[str, Any]:
    """The gripper part of a mapping for a column of widths in metres."""
    return {"columns": [column], "closed": 0.0, "open": MAX_WIDTH_M, "kind": "measured"}


def write_folder(
    log: TeleopLog,
    folder: Path,
    table: Literal["csv", "jsonl", "npz", "parquet", "h5"] = "csv",
    pictures: Literal["mp4", "png"] = "mp4",
) -> dict[str, Any]:
    """A plain folder; gives the mapping that explains it (see `write_yaml`)."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "time_s": log.times,
        **{f"{n}_m": log.world_from_tool[:, i, 3] for i, n in enumerate("xyz")},
        **{n: log.quaternion_xyzw[:, i] for i, n in enumerate(("qx", "qy", "qz", "qw"))},
        "gripper_width_m": log.width_m,
    }
    name = f"poses.{table}"
    if table == "csv":
        with open(folder / name, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*[[repr(float(v)) for v in c] for c in columns.values()], strict=True))
    elif table == "jsonl":
        rows = [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif table == "npz":
        np.savez(folder / name, allow_pickle=False, **columns)
    elif table == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table(columns), folder / name)
    else:
        import h5py

        with h5py.File(folder / name, "w") as file5:
            for key, values in columns.items():
                file5[key] = values
    with open(folder / "frame_times.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "time_s"])
        writer.writerows([i, repr(float(t))] for i, t in enumerate(log.frame_times))
    (folder / "calibration.json").write_text(json.dumps(camera_file(log)))
    for view_name, view in log.views.items():
        if pictures == "mp4":
            write_video(folder / f"{view_name}.mp4", view.pictures)
        else:
            (folder / view_name).mkdir()
            for i, picture in enumerate(view.pictures):
                cv2.imwrite(str(folder / view_name / f"{i}.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return {
        "version": 1,
        "format": "folder",
        "instruction": {"text": log.instruction},
        "pose": {
            "file": name,
            "time": {"column": "time_s", "unit": "s"},
            "position": {"columns": ["x_m", "y_m", "z_m"], "unit": "m"},
            "rotation": {"columns": ["qx", "qy", "qz", "qw"], "form": "quaternion", "order": "xyzw"},
            "tool_from_gripper": dict(log.tool_from_gripper),
        },
        "gripper": gripper_mapping("gripper_width_m"),
        "views": {
            view_name: {
                "frames": f"{view_name}.mp4" if pictures == "mp4" else f"{view_name}/*.png",
                "time": {"file": "frame_times.csv", "column": "time_s", "unit": "s"},
                "camera": {"file": "calibration.json"},
            }
            for view_name in log.views
        },
    }


def write_recordings(
    dest: str | os.PathLike[str],
    episodes: int = 2,
    frames: int = 60,
    size: int = 128,
    views: Sequence[str] = ("front", "left_shoulder"),
    seed: int = 0,
) -> Path:
    """A lab's own recordings: ``DEST/run_N`` with poses, videos and a calibration, and ``DEST/mapping.yaml``.

    Args:
        dest: Folder that is made.
        episodes: Number of recordings.
        frames: Pictures of each view in each recording, at 20 Hz; poses are at 100 Hz.
        size: Width and height of the pictures in pixels.
        views: Cameras of `actionimg_data.demo.scene`.
        seed: Of the first recording; the next has the next.

    Returns:
        ``dest``.

    Example:
        >>> import tempfile
        >>> source = write_recordings(tempfile.mkdtemp() + "/lab", episodes=1, frames=4, size=32, views=("front",))
        >>> sorted(path.name for path in source.iterdir())
        ['mapping.yaml', 'run_0']
    """
    root = Path(dest)
    mapping: dict[str, Any] = {}
    for k in range(episodes):
        log = replace(make_log(frames, size, seed + k, views), instruction="put the red cube on the green mat")
        mapping = write_folder(log, root / f"run_{k}")
    write_yaml(root / "mapping.yaml", mapping)
    return root


def pose6(transform: FloatArray) -> FloatArray:
    """``(..., 6)``: x y z and extrinsic "xyz" Euler angles, as DROID writes poses."""
    euler = Rotation.from_matrix(transform[..., :3, :3]).as_euler("xyz")
    return np.concatenate([transform[..., :3, 3], euler], axis=-1)


def write_droid(
    log: TeleopLog,
    root: Path,
    stereo: bool = False,
    roles: Sequence[str] = ("exterior_1", "exterior_2", "wrist"),
    outcome: str = "success",
) -> Path:
    """One episode in DROID's raw tree, its rows at the times of the pictures; gives the episode's folder.

    The views take the roles in order; a stale serial without a video is listed besides, as real logs do.
    """
    import h5py

    folder = root / "LAB" / outcome / "2023-07-07" / "Fri_Jul__7_09:42:23_2023"
    folder.mkdir(parents=True)
    tool = log.tool_at(log.frame_times)
    n = len(tool)
    serials = {role: str(20000000 + 1111 * i) for i, role in enumerate(roles)}
    ms = log.frame_times * 1e3
    with h5py.File(folder / "trajectory.h5", "w") as file:
        state = "observation/robot_state"
        file[f"{state}/cartesian_position"] = pose6(tool)
        file[f"{state}/gripper_position"] = 1 - log.width_at(log.frame_times) / MAX_WIDTH_M
        file["observation/timestamp/robot_state/read_start"] = ms - 1
        file["observation/timestamp/robot_state/read_end"] = ms + 1
        file["observation/timestamp/skip_action"] = np.zeros(n, dtype=bool)
        file["action/cartesian_position"] = pose6(log.tool_at(np.minimum(log.frame_times + 0.1, log.times[-1])))
        file["action/gripper_position"] = 1 - log.width_at(log.frame_times) / MAX_WIDTH_M
        for role, view in zip(roles, log.views.values(), strict=True):
            pose = np.broadcast_to(view.world_from_camera, (n, 4, 4))
            serial = serials[role]
            file[f"observation/camera_extrinsics/{serial}_left"] = pose6(pose)
            file[f"observation/camera_type/{serial}"] = np.full(n, 0 if role == "wrist" else 1)
            file[f"observation/timestamp/cameras/{serial}_estimated_capture"] = ms
            file[f"observation/timestamp/cameras/{serial}_frame_received"] = ms + 21
        file["observation/camera_extrinsics/19999999_left"] = np.zeros((n, 6))
        file["observation/camera_type/19999999"] = np.ones(n, dtype=int)
    for role, view in zip(roles, log.views.values(), strict=True):
        name = f"{serials[role]}-stereo.mp4" if stereo else f"{serials[role]}.mp4"
        pictures = np.concatenate([view.pictures, view.pictures[:, :, ::-1]], axis=2) if stereo else view.pictures
        write_video(folder / "recordings" / "MP4" / name, pictures, 15)
    keys = {"exterior_1": "ext1_cam_serial", "exterior_2": "ext2_cam_serial", "wrist": "wrist_cam_serial"}
    metadata = {
        "uuid": "LAB+0123abcd+2023-07-07-09h-42m-23s",
        "current_task": log.instruction,
        **{keys[role]: serial for role, serial in serials.items()},
    }
    (folder / f"metadata_{metadata['uuid']}.json").write_text(json.dumps(metadata))
    return folder


def droid_camera_file(log: TeleopLog, roles: Sequence[str] = ("exterior_1", "exterior_2", "wrist")) -> dict[str, Any]:
    """A camera file by role, for pictures that do not have DROID's own size; poses are left to the log."""
    return {
        "cameras": {
            role: {"K": view.K.tolist(), "width": view.size[0], "height": view.size[1], "pixel_centre": 0.5}
            for role, view in zip(roles, log.views.values(), strict=True)
        }
    }


def write_lerobot(
    logs: Sequence[TeleopLog],
    root: Path,
    version: Literal["v2.0", "v2.1", "v3.0"] = "v2.1",
    codec: str = "libsvtav1",
    images: bool = False,
    episodes_per_file: int = 1000,
) -> dict[str, Any]:
    """A LeRobot data set with an episode for each log; gives the mapping that explains it.

    The state is position, quaternion and width at the times of the pictures, float32 as LeRobot stores it. Version 3
    packs ``episodes_per_file`` episodes into a file of rows and a video a view. ``images`` stores pictures in the rows
    instead. Instructions are LeRobot's tasks: each row has the index of its own.
    """
    import pyarrow as pa
    from pyarrow import parquet

    root.mkdir(parents=True, exist_ok=True)
    (root / "meta").mkdir()
    names = ["x", "y", "z", "qx", "qy", "qz", "qw", "gripper_width"]
    keys = {name: f"observation.images.{name}" for name in logs[0].views}
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [8], "names": {"axes": names}},
        **{k: {"dtype": d, "shape": [1], "names": None} for k, d in _LEROBOT_INDEX.items()},
    }
    for name, key in keys.items():
        width, height = logs[0].views[name].size
        kind = "image" if images else "video"
        features[key] = {"dtype": kind, "shape": [height, width, 3], "names": ["height", "width", "channels"]}
    packed = version == "v3.0"
    info = {
        "codebase_version": version,
        "robot_type": "panda",
        "total_episodes": len(logs),
        "total_frames": sum(len(log.frame_times) for log in logs),
        "chunks_size": 1000,
        "fps": FRAME_HZ,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if packed
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if packed
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    (root / "meta" / "info.json").write_text(json.dumps(info))
    tables, listed, start = [], [], 0
    tasks = {text: number for number, text in enumerate(dict.fromkeys(log.instruction for log in logs))}
    for index, log in enumerate(logs):
        n = len(log.frame_times)
        tables.append(_lerobot_rows(log, index, start, tasks[log.instruction], keys if images else {}))
        row: dict[str, Any] = {"episode_index": index, "tasks": [log.instruction], "length": n}
        if packed:
            file = index // episodes_per_file
            before = sum(len(other.frame_times) for other in logs[file * episodes_per_file : index])
            row.update({"data/chunk_index": 0, "data/file_index": file})
            row.update({"dataset_from_index": start, "dataset_to_index": start + n})
            for key in keys.values() if not images else ():
                row.update({f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": file})
                row[f"videos/{key}/from_timestamp"] = before / FRAME_HZ
                row[f"videos/{key}/to_timestamp"] = (before + n) / FRAME_HZ
            row.update({"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        listed.append(row)
        start += n
    if packed:
        data = root / "data" / "chunk-000"
        data.mkdir(parents=True)
        for first in range(0, len(logs), episodes_per_file):
            together = pa.concat_tables(tables[first : first + episodes_per_file])
            parquet.write_table(together, data / f"file-{first // episodes_per_file:03d}.parquet")
        episodes = root / "meta" / "episodes" / "chunk-000"
        episodes.mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist(listed), episodes / "file-000.parquet")
        # A pandas table whose index is the text.
        named = pa.table({"task_index": list(tasks.values()), "__index_level_0__": list(tasks)})
        parquet.write_table(named, root / "meta" / "tasks.parquet")
    else:
        data = root / "data" / "chunk-000"
        data.mkdir(parents=True)
        for index, table in enumerate(tables):
            parquet.write_table(table, data / f"episode_{index:06d}.parquet")
        (root / "meta" / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
        lines = [json.dumps({"task_index": number, "task": text}) + "\n" for text, number in tasks.items()]
        (root / "meta" / "tasks.jsonl").write_text("".join(lines))
    for name, key in keys.items() if not images else ():
        if packed:
            for first in range(0, len(logs), episodes_per_file):
                whole = np.concatenate([log.views[name].pictures for log in logs[first : first + episodes_per_file]])
                path = root / "videos" / key / "chunk-000" / f"file-{first // episodes_per_file:03d}.mp4"
                write_video(path, whole, FRAME_HZ, codec)
        else:
            for index, log in enumerate(logs):
                path = root / "videos" / "chunk-000" / key / f"episode_{index:06d}.mp4"
                write_video(path, log.views[name].pictures, FRAME_HZ, codec)
    return {
        "version": 1,
        "format": "lerobot",
        "pose": {
            "position": {"columns": [f"observation.state.{n}" for n in "xyz"], "unit": "m"},
            "rotation": {"columns": ["observation.state[3:7]"], "form": "quaternion", "order": "xyzw"},
            "tool_from_gripper": dict(logs[0].tool_from_gripper),
        },
        "gripper": gripper_mapping("observation.state.gripper_width"),
        "views": {name: {"feature": key, "camera": {"file": "cameras.json"}} for name, key in keys.items()},
    }


_LEROBOT_INDEX = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def _lerobot_rows(log: TeleopLog, index: int, start: int, task: int, images: Mapping[str, str]) -> Any:
    import pyarrow as pa

    n = len(log.frame_times)
    tool = log.tool_at(log.frame_times)
    quaternion = Rotation.from_matrix(tool[:, :3, :3]).as_quat()
    state = np.concatenate([tool[:, :3, 3], quaternion, log.width_at(log.frame_times)[:, None]], axis=1)
    columns: dict[str, Any] = {
        "observation.state": pa.array(state.astype(np.float32).tolist(), pa.list_(pa.float32())),
        "timestamp": (np.arange(n) / FRAME_HZ).astype(np.float32),
        "frame_index": np.arange(n),
        "episode_index": np.full(n, index),
        "index": np.arange(start, start + n),
        "task_index": np.full(n, task, dtype=np.int64),
    }
    for name, key in images.items():
        encoded = [cv2.imencode(".png", p[..., ::-1])[1].tobytes() for p in log.views[name].pictures]
        columns[key] = [{"bytes": data, "path": f"frame_{i:06d}.png"} for i, data in enumerate(encoded)]
    return pa.table(columns)


def write_rosbag(
    log: TeleopLog,
    path: Path,
    storage: Literal["mcap", "sqlite3", "ros1"] = "mcap",
    compressed: bool = False,
    log_delay_s: float = 0.031,
) -> dict[str, Any]:
    """A bag, written by ``rosbags``; gives the mapping that explains it.

    Poses are PoseStamped, the gripper a JointState, cameras Image (or CompressedImage, PNG) with CameraInfo; fixed
    cameras stand in ``/tf_static``, moving ones in ``/tf``. Messages are logged a while after their own stamps.
    """
    from rosbags.rosbag1 import Writer as Writer1
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    ros1 = storage == "ros1"
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    if ros1:
        # ROS 1's standard messages, as rosbags ships them, leave tf2 out.
        store.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage"))
    types = store.types
    epoch = 1_700_000_000

    def make(name: str, *values: Any) -> Any:
        return types[name](*values)

    def header(seconds: float, frame: str) -> Any:
        ns = epoch * 10**9 + round(seconds * 1e9)
        stamp = make("builtin_interfaces/msg/Time", ns // 10**9, ns % 10**9)
        return make("std_msgs/msg/Header", 0, stamp, frame) if ros1 else make("std_msgs/msg/Header", stamp, frame)

    def pose(transform: FloatArray, kinds: tuple[str, str, str]) -> Any:
        q = Rotation.from_matrix(transform[:3, :3]).as_quat()
        place = make(f"geometry_msgs/msg/{kinds[1]}", *map(float, transform[:3, 3]))
        return make(f"geometry_msgs/msg/{kinds[0]}", place, make("geometry_msgs/msg/Quaternion", *map(float, q)))

    def tf(seconds: float, child: str, transform: FloatArray) -> Any:
        return make(
            "geometry_msgs/msg/TransformStamped",
            header(seconds, "base"),
            child,
            pose(transform, ("Transform", "Vector3", "")),
        )

    empty = np.zeros(0)
    events: list[tuple[float, str, str, Any]] = []
    for t, transform, width in zip(log.times, log.world_from_tool, log.width_m, strict=True):
        message = make("geometry_msgs/msg/PoseStamped", header(t, "base"), pose(transform, ("Pose", "Point", "")))
        events.append((t, "/ee_pose", "geometry_msgs/msg/PoseStamped", message))
        state = make(
            "sensor_msgs/msg/JointState", header(t, ""), ["other", "width"], np.array([0.5, width]), empty, empty
        )
        events.append((t, "/gripper", "sensor_msgs/msg/JointState", state))
    first = float(log.frame_times[0])
    fixed = [
        tf(first, f"{n}_optical", v.world_from_camera) for n, v in log.views.items() if v.world_from_camera.ndim == 2
    ]
    events.append((first, "/tf_static", "tf2_msgs/msg/TFMessage", make("tf2_msgs/msg/TFMessage", fixed)))
    for name, view in log.views.items():
        width, height = view.size
        for i, t in enumerate(log.frame_times):
            stamp = header(t, f"{name}_optical")
            if compressed:
                data = cv2.imencode(".png", view.pictures[i][..., ::-1])[1].ravel()
                kind = "sensor_msgs/msg/CompressedImage"
                picture = make(kind, stamp, "rgb8; png compressed bgr8", data)
            else:
                kind = "sensor_msgs/msg/Image"
                picture = make(kind, stamp, height, width, "rgb8", 0, width * 3, view.pictures[i].ravel())
            events.append((t, f"/{name}/image", kind, picture))
            projection = np.concatenate([view.K, np.zeros((3, 1))], axis=1)
            roi = make("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False)
            info = make(
                "sensor_msgs/msg/CameraInfo",
                *(stamp, height, width, "plumb_bob", np.zeros(5), view.K.ravel(), np.eye(3).ravel()),
                *(projection.ravel(), 0, 0, roi),
            )
            events.append((t, f"/{name}/info", "sensor_msgs/msg/CameraInfo", info))
            if view.world_from_camera.ndim == 3:
                moved = make("tf2_msgs/msg/TFMessage", [tf(t, f"{name}_optical", view.world_from_camera[i])])
                events.append((t, "/tf", "tf2_msgs/msg/TFMessage", moved))
    events.sort(key=lambda event: event[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    with Writer1(path) if ros1 else Writer(path, version=9, storage_plugin=plugin) as writer:
        connections: dict[str, Any] = {}
        for seconds, topic, kind, message in events:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            raw = store.serialize_ros1(message, kind) if ros1 else store.serialize_cdr(message, kind)
            writer.write(connections[topic], epoch * 10**9 + round((seconds + log_delay_s) * 1e9), raw)
    return {
        "version": 1,
        "format": "rosbag",
        "instruction": {"text": log.instruction},
        "pose": {"topic": "/ee_pose", "tool_from_gripper": dict(log.tool_from_gripper)},
        "gripper": {"topic": "/gripper", **gripper_mapping("position.width")},
        "views": {
            name: {
                "topic": f"/{name}/image",
                "camera": {"camera_info": f"/{name}/info", "tf": {"parent": "base", "child": f"{name}_optical"}},
            }
            for name in log.views
        },
    }

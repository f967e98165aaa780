"""The same recording through every converter of simulators' and joint logs: how far each is from what was recorded.

``python tests/simulator_logs.py ../shared/data/teleop/episode_1 [STEP]`` prints a table; the test suite does the same
with fewer pictures.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from actionimg_data.converters.base import Converter, converter_class
from actionimg_data.demo.recordings import (
    MAX_WIDTH_M,
    TeleopLog,
    camera_file,
    read_panda_log,
    select_frames,
    write_video,
    write_yaml,
)
from actionimg_data.demo.simulators import (
    PANDA_JOINTS,
    joint_log,
    panda_scene,
    panda_urdf,
    write_aloha,
    write_libero,
    write_robomimic,
    write_umi,
)
from actionimg_data.model import Episode

GRIP_SITE = "{euler_xyz_deg: [0, 0, 90]}"


def converter(name: str, **options: Any) -> Converter:
    kind = converter_class(name)
    return kind(kind.Options(**options))


def read_first(made: Converter, source: Path) -> Episode:
    return made.read(next(iter(made.discover(str(source)))))


def write_joint_folder(log: TeleopLog, folder: Path, robot: str) -> Path:
    """A plain folder of joint angles, with the mapping that sends them through a URDF or MJCF file."""
    q, base = joint_log(log)
    prefix, tip = ("robot0_", "gripper0_grip_site") if robot.endswith(".xml") else ("", "grip_site")
    (folder / "src").mkdir(parents=True)
    (folder / robot).write_text(panda_scene(base) if prefix else panda_urdf())
    np.savez(
        folder / "src" / "joints.npz",
        allow_pickle=False,
        time=log.frame_times,
        q=np.degrees(q),
        width=log.width_at(log.frame_times),
    )
    (folder / "cameras.json").write_text(json.dumps(camera_file(log)))
    time = {"column": "time", "unit": "s"}
    for name, view in log.views.items():
        write_video(folder / "src" / f"{name}.mp4", view.pictures)
    joints = {"columns": ["q"], "names": [prefix + n for n in PANDA_JOINTS], "unit": "deg", "robot": robot, "tip": tip}
    pose: dict[str, Any] = {"file": "joints.npz", "time": time, "joints": joints}
    if not prefix:
        pose["world_from_frame"] = base.tolist()
    mapping = {
        "version": 1,
        "format": "folder",
        "instruction": {"text": log.instruction},
        "pose": {**pose, "tool_from_gripper": {"euler_xyz_deg": [0, 0, 90]}},
        "gripper": {"columns": ["width"], "closed": 0.0, "open": MAX_WIDTH_M, "kind": "measured"},
        "views": {
            name: {
                "frames": f"{name}.mp4",
                "time": {**time, "file": "joints.npz"},
                "camera": {"file": "cameras.json"},
            }
            for name in log.views
        },
        "sync": {"max_pose_gap_s": 10.0, "max_frame_gap_s": 10.0},
    }
    return write_yaml(folder / "mapping.yaml", mapping)


def episodes(log: TeleopLog, folder: Path) -> dict[str, tuple[Episode, dict[str, str]]]:
    """The recording through each converter, and how the views are called there where that differs."""
    fps = float(1 / np.median(np.diff(log.frame_times)))
    given = {"instruction": log.instruction, "fps": fps}
    wrist = next(name for name, view in log.views.items() if view.world_from_camera.ndim == 3)
    fixed = tuple(name for name in log.views if name != wrist)
    out: dict[str, tuple[Episode, dict[str, str]]] = {}
    path = write_robomimic([log], folder / "both.hdf5", "both")
    out["robomimic, camera_info"] = read_first(converter("robomimic", **given), path), {}
    path = write_robomimic([log], folder / "model.hdf5", "model", site_rotation=True)
    out["robomimic, model_file"] = read_first(converter("robomimic", **given), path), {}
    path = write_robomimic([log], folder / "info.hdf5", "info")
    out["robomimic, without MuJoCo"] = read_first(converter("robomimic", **given, only_views=fixed), path), {}
    path = write_libero([log], folder / "libero.hdf5")
    out["libero"] = read_first(converter("libero", **given), path), {"eye_in_hand": wrist}
    cameras = write_umi([log], folder / "umi.zarr.zip", wrist)
    (folder / "umi.json").write_text(json.dumps(cameras))
    umi = converter("umi", **given, gripper=f"0 {MAX_WIDTH_M}", camera_file=str(folder / "umi.json"))
    out["umi"] = read_first(umi, folder / "umi.zarr.zip"), {"camera0": wrist}
    q, base = joint_log(log)
    (folder / "arm.xml").write_text(panda_scene(base))
    (folder / "cameras.json").write_text(json.dumps(camera_file(log)))
    aloha = converter(
        "aloha",
        **given,
        arms=("arm",),
        robot=(str(folder / "arm.xml"),),
        tip=("gripper0_grip_site",),
        tool_from_gripper=GRIP_SITE,
        camera_file=str(folder / "cameras.json"),
    )
    path = write_aloha(log, folder / "aloha" / "episode_0.hdf5", [q])
    out["joint log, aloha"] = read_first(aloha, path), {}
    for robot in ("arm.urdf", "arm.xml"):
        place = folder / f"joints {robot}"
        mapping = write_joint_folder(log, place, robot)
        out[f"joint log, mapping, {robot}"] = read_first(converter("folder", mapping=str(mapping)), place / "src"), {}
    return out


def differences(episode: Episode, log: TeleopLog, names: Mapping[str, str], lossless: bool) -> dict[str, float]:
    """How far an episode is from what was recorded: metres, degrees, openness, seconds, pixels, grey levels."""
    truth = log.truth()
    (found,) = episode.grippers.values()
    turn = np.swapaxes(truth.rotation, 1, 2) @ found.rotation
    cosine = np.clip((np.trace(turn, axis1=1, axis2=2) - 1) / 2, -1, 1)
    out = {
        "position_m": float(np.abs(found.position - truth.position).max()),
        "rotation_deg": float(np.degrees(np.arccos(cosine)).max()),
        "openness": float(np.abs(found.openness - truth.openness).max()),
        "times_s": float(np.abs(found.times - truth.times).max()),
        "camera_m": 0.0,
        "camera_K": 0.0,
        "grey_levels": 0.0,
    }
    for name, view in episode.views.items():
        seen = log.views[names.get(name, name)]
        assert view.camera is not None
        camera = view.camera.track(len(episode))
        out["camera_m"] = max(out["camera_m"], float(np.abs(camera.world_from_camera - seen.world_from_camera).max()))
        out["camera_K"] = max(out["camera_K"], float(np.abs(camera.K - seen.K).max()))
        if lossless:
            frames = np.stack(list(view.frames.frames(range(len(episode))))).astype(int)
            out["grey_levels"] = max(out["grey_levels"], float(np.abs(frames - seen.pictures).max()))
    return out


def main(folder: Path, step: int) -> None:
    """Print the table."""
    log = read_panda_log(folder)
    log = select_frames(log, np.arange(0, len(log.frame_times), step))
    with tempfile.TemporaryDirectory() as place:
        for name, (episode, names) in episodes(log, Path(place)).items():
            found = differences(episode, log, names, lossless="mapping" not in name)
            print(f"{name:28}", "  ".join(f"{k} {v:.2g}" for k, v in found.items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)

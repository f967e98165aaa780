"""The hardest folder: millimetres and degrees in a base frame, three clocks, a phone video that lies on its side.

It is written from a real recording, so that the true pose at every picture is known, and goes from ``inspect`` to
shards with what ``docs/mapping.md`` says, in five steps.
"""

from __future__ import annotations

import csv
import io
import json
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from faulty_logs.logs import write_yaml
from scipy.spatial.transform import Rotation

import actionimg_data as aid
from actionimg_data.cli import main
from actionimg_data.video import VideoFrames

pytestmark = pytest.mark.realdata

# 14:30:00 in Berlin's summer.
BEGUN = 1_714_566_600.0
SIDE_START, SIDE_PPM = BEGUN + 0.137, 180.0
PHONE_START, PHONE_PPM = BEGUN + 0.25, -320.0
DROPPED = (10, 11, 37, 38, 39, 71)


def pose(q_xyzw: np.ndarray, position: np.ndarray) -> np.ndarray:
    matrix = np.tile(np.eye(4), (len(position), 1, 1))
    matrix[:, :3, :3], matrix[:, :3, 3] = Rotation.from_quat(q_xyzw).as_matrix(), position
    return matrix


BASE_FROM_WORLD = np.linalg.inv(
    pose(Rotation.from_euler("z", [35], degrees=True).as_quat(), np.array([[-0.56, 0.1, 0.91]]))[0]
)


def phone_video(source: Path, stamps_ms: list[int], kept: list[int]) -> bytes:
    """The pictures ``kept`` at the phone's own stamps, stored on their side, with the flag that phones write."""
    body = io.BytesIO()
    with av.open(body, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(20), options={"crf": "12"})
        stream.width = stream.height = 256
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, 1000)
        for picture, stamp in zip(VideoFrames(source).frames(kept), stamps_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(picture)), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data, one = bytearray(body.getvalue()), 1 << 16
    at = data.find(b"tkhd") + 8 + 20 + 16
    data[at : at + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    return bytes(data)


def handeye(base_from_camera: np.ndarray, two: bool) -> dict[str, Any]:
    x, y, z = map(float, base_from_camera[:3, 3])
    qx, qy, qz, qw = map(float, Rotation.from_matrix(base_from_camera[:3, :3]).as_quat())
    if two:
        parameters = {"name": "phone", "calibration_type": "eye_on_base", "tracking_base_frame": "phone_optical"}
        turn = {"x": qx, "y": qy, "z": qz, "w": qw}
        return {"parameters": parameters, "transform": {"translation": {"x": x, "y": y, "z": z}, "rotation": turn}}
    parameters = {"eye_on_hand": False, "robot_base_frame": "base", "tracking_base_frame": "side_color_optical_frame"}
    flat = {"x": x, "y": y, "z": z, "qx": qx, "qy": qy, "qz": qz, "qw": qw}
    return {"parameters": parameters, "transformation": flat}


@pytest.fixture
def folder(sample_data: Path, tmp_path: Path) -> Path:
    """The recording as a lab might have it, from the sample ``teleop/episode_1``."""
    source = sample_data / "teleop" / "episode_1"
    cameras = json.loads((source / "calibration.json").read_text())["cameras"]
    run = tmp_path / "lab" / "2024-05-01_lift"
    run.mkdir(parents=True)
    table = np.genfromtxt(source / "poses.csv", delimiter=",", names=True)
    world = pose(
        np.stack([table[k] for k in ("qx", "qy", "qz", "qw")], -1), np.stack([table[f"{k}_m"] for k in "xyz"], -1)
    )
    base = BASE_FROM_WORLD @ world
    angles = Rotation.from_matrix(base[:, :3, :3]).as_euler("xyz", degrees=True)
    head = ["robot_time [ns]", "TCP_X (mm)", "TCP_Y (mm)", "TCP_Z (mm)", "A_roll (deg)", "B_pitch (deg)", "C_yaw (deg)"]
    with open(run / "robot.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*head, "gripper_width (mm)"])
        for t, m, a, w in zip(table["time_s"], base, angles, table["gripper_width_m"], strict=True):
            place = [f"{1e3 * v:.5f}" for v in m[:3, 3]]
            stamp = round((BEGUN + t) * 1e9)
            rows.writerow([stamp, *place, *(f"{v:.6f}" for v in a), f"{1e3 * w:.4f}"])
    times = np.genfromtxt(source / "frame_times.csv", delimiter=",", names=True)["time_s"]
    # The side camera counts milliseconds from its own beginning.
    (run / "side.mp4").write_bytes((source / "sideview.mp4").read_bytes())
    first = times[0] - (SIDE_START - BEGUN)
    local = first + (times - times[0]) / (1 + SIDE_PPM * 1e-6)
    (run / "side_stamps.csv").write_text("\n".join(["stamp_ms", *(f"{1e3 * t:.4f}" for t in local)]) + "\n")
    # The phone drops pictures, and its clock begins, too, when it was switched on.
    kept = [i for i in range(len(times)) if i not in DROPPED]
    own = times[kept] - (PHONE_START - BEGUN)
    own = own[0] + (own - own[0]) / (1 + PHONE_PPM * 1e-6)
    begin = [i for i, t in enumerate(own) if t >= 0]
    stamps = [round(1e3 * own[i]) for i in begin]
    (run / "phone.mp4").write_bytes(phone_video(source / "agentview.mp4", stamps, [kept[i] for i in begin]))
    for name, view in (("side", "sideview"), ("phone", "agentview")):
        base_from_camera = BASE_FROM_WORLD @ np.array(cameras[view]["camera_to_world"])
        write_yaml(run / f"handeye_{name}.yaml", handeye(base_from_camera, name == "phone"))
    K = np.array(cameras["sideview"]["intrinsics"])
    half = {"fx": K[0, 0], "fy": K[1, 1], "ppx": K[0, 2] - 0.5, "ppy": K[1, 2] - 0.5, "coeffs": [0.0] * 5}
    (run / "realsense.json").write_text(json.dumps({"color": {"width": 256, "height": 256, **half, "model": "none"}}))
    K = np.array(cameras["agentview"]["intrinsics"]) - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    text = ", ".join(f"{v:.10g}" for v in K.ravel())
    (run / "phone.yml").write_text(
        "%YAML:1.0\n---\nimage_width: 256\nimage_height: 256\ncamera_matrix: !!opencv-matrix\n"
        f"   rows: 3\n   cols: 3\n   dt: d\n   data: [ {text} ]\n"
    )
    return tmp_path / "lab"


MAPPING: dict[str, Any] = {
    "version": 1,
    "format": "folder",
    "instruction": {"text": "lift the red cube"},
    "pose": {
        "file": "robot.csv",
        "time": {"column": "robot_time [ns]", "unit": "ns"},
        "position": {"columns": ["TCP_X (mm)", "TCP_Y (mm)", "TCP_Z (mm)"], "unit": "mm"},
        "rotation": {
            "columns": ["A_roll (deg)", "B_pitch (deg)", "C_yaw (deg)"],
            "form": "euler",
            "order": "xyz",
            "unit": "deg",
        },
        "tool_from_gripper": {"euler_xyz_deg": [0, 0, 90]},
    },
    "gripper": {"columns": ["gripper_width (mm)"], "closed": 0, "open": 80, "kind": "measured"},
    "views": {
        "side": {
            "frames": "side.mp4",
            "time": {
                "file": "side_stamps.csv",
                "column": "stamp_ms",
                "unit": "ms",
                "start": SIDE_START,
                "drift_ppm": SIDE_PPM,
            },
            "camera": {"file": "realsense.json", "name": "color", "world_from_camera": {"file": "handeye_side.yaml"}},
        },
        "phone": {
            "frames": "phone.mp4",
            "time": {
                "video": True,
                "start": "2024-05-01T14:30:00.250",
                "zone": "Europe/Berlin",
                "drift_ppm": PHONE_PPM,
            },
            "camera": {"file": "phone.yml", "world_from_camera": {"file": "handeye_phone.yaml"}},
        },
    },
}


def run(*words: object) -> Any:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


def test_the_hardest_folder_becomes_shards_in_five_steps(folder: Path, sample_data: Path, tmp_path: Path) -> None:
    draft = tmp_path / "draft.yaml"
    run("inspect", folder, "--propose", draft)
    proposed = yaml.safe_load(draft.read_text())
    for part in ("position", "rotation", "time"):
        assert proposed["pose"][part] == MAPPING["pose"][part], part
    assert proposed["gripper"]["columns"] == MAPPING["gripper"]["columns"]
    assert set(proposed["views"]) == {"side", "phone"}
    mapping = write_yaml(tmp_path / "mapping.yaml", MAPPING)
    found = json.loads(run("inspect", folder, "--mapping", mapping, "--json").stdout)
    assert found["convertible"], found["missing"]
    assert found["findings"] == []
    run("render", folder, "--mapping", mapping, "--out", tmp_path / "look", "--no-video")
    run("convert", "folder", folder, tmp_path / "out", "--mapping", mapping, "--size", 256, "--num-workers", 1)
    verified = json.loads(run("verify", tmp_path / "out", "--json", "-j", 1).stdout)
    assert verified["ok"]
    assert verified["proven"]

    (sample,) = aid.open_dataset(tmp_path / "out")
    assert len(sample) >= 80
    truth = np.load(sample_data / "teleop" / "episode_1" / "truth.npz")
    at = sample.meta.provenance["start_time_s"] + sample.times - BEGUN
    number = np.array([int(np.abs(truth["frame_times"] - t).argmin()) for t in at])
    # Master is the slower camera, the phone, whose stamps are whole milliseconds.
    assert np.abs(truth["frame_times"][number] - at).max() < 2e-3
    assert not set(number) & set(DROPPED)
    right = truth["world_from_gripper"][number]
    there = right[:, :3] @ BASE_FROM_WORLD[:3, :3].T + BASE_FROM_WORLD[:3, 3]
    error = np.linalg.norm(sample.trajectory.position - there, axis=1) * 1e3
    assert np.median(error) <= 0.5
    assert error.max() <= 2.0
    for view, name in (("phone", "agentview"), ("side", "sideview")):
        source = np.stack(
            list(VideoFrames(sample_data / "teleop" / "episode_1" / f"{name}.mp4").frames(sorted(set(number))))
        )
        assert np.abs(sample.rgb(view).astype(int) - source).mean() < 4, view


def test_the_offset_of_each_clock_is_written_into_a_mapping(sample_data: Path, tmp_path: Path) -> None:
    source = sample_data / "teleop" / "episode_1"
    rec = tmp_path / "rec"
    rec.mkdir()
    for name in ("calibration.json", "poses.csv", "agentview.mp4", "sideview.mp4"):
        (rec / name).symlink_to(source / name) if name.endswith(".mp4") else (rec / name).write_bytes(
            (source / name).read_bytes()
        )
    late = {"agentview": 0.12, "sideview": -0.07}
    times = np.genfromtxt(source / "frame_times.csv", delimiter=",", names=True)["time_s"]
    views = {}
    for name, by in late.items():
        (rec / f"{name}.csv").write_text("\n".join(["t", *(repr(float(t + by)) for t in times)]) + "\n")
        views[name] = {
            "frames": f"{name}.mp4",
            "time": {"file": f"{name}.csv", "column": "t", "unit": "s"},
            "camera": {"file": "calibration.json"},
        }
    pose_of = {
        "file": "poses.csv",
        "time": {"column": "time_s", "unit": "s"},
        "position": {"columns": ["x_m", "y_m", "z_m"], "unit": "m"},
        "rotation": {"columns": ["qx", "qy", "qz", "qw"], "form": "quaternion", "order": "xyzw"},
        "tool_from_gripper": {"euler_xyz_deg": [0, 0, 90]},
    }
    grip = {"columns": ["gripper_width_m"], "closed": 0.0, "open": 0.08, "kind": "measured"}
    value = {"version": 1, "format": "folder", "instruction": {"text": "lift"}, "pose": pose_of, "gripper": grip}
    given = write_yaml(tmp_path / "mapping.yaml", {**value, "views": views})
    out = tmp_path / "synchronised.yaml"
    run("calibrate", "time", rec, "--mapping", given, "--format", "folder", "--write", out, "--max-offset", "0.3")
    found = {name: view["time"].get("offset_s") for name, view in yaml.safe_load(out.read_text())["views"].items()}
    for name, by in late.items():
        assert found[name] == pytest.approx(-by, abs=0.02), found
    again = CliRunner().invoke(main, ["calibrate", "time", str(rec), "--mapping", str(given), "--write", str(out)])
    assert again.exit_code == 1
    assert "its comments would be lost" in again.output

"""Calibration files as RealSense, ZED, UMI, COLMAP, Kalibr, easy_handeye and DROID write them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from faulty_logs.logs import CAMERA, COUNT, SIZE, K, Log, mapping, write_log, write_yaml
from scipy.spatial.transform import Rotation

from actionimg_data.cameras.files import load_cameras
from actionimg_data.cameras.kinds import pose_in_file
from actionimg_data.converters.folder import FolderConverter, FolderOptions
from actionimg_data.errors import (
    ActionImgError,
    AmbiguousSourceError,
    InvalidCameraError,
    MissingCalibrationError,
    WrongFormatError,
)
from actionimg_data.model import CameraTrack, Episode

STREAM: dict[str, Any] = {"width": 640, "height": 480, "fx": 615.1, "fy": 615.3, "ppx": 321.4, "ppy": 240.8}


def wrote(path: Path, content: str | dict[str, Any]) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_realsense_of_one_stream_and_by_stream(tmp_path: Path) -> None:
    flat = load_cameras(wrote(tmp_path / "wrist.json", {**STREAM, "coeffs": [0.0] * 5, "model": "none"}))["wrist"]
    np.testing.assert_array_equal(flat.K, [[615.1, 0, 321.4], [0, 615.3, 240.8], [0, 0, 1]])
    assert (flat.width, flat.height, flat.distortion, flat.pixel_centre) == (640, 480, None, 0.0)
    bent = {**STREAM, "coeffs": [0.1, -0.2, 0.001, 0.002, 0.03], "model": "distortion.brown_conrady"}
    nested = load_cameras(wrote(tmp_path / "all.json", {"color": {"intrinsics": bent}, "depth": STREAM}))
    assert set(nested) == {"color", "depth"}
    assert nested["color"].distortion is not None
    assert nested["color"].distortion.coefficients == (0.1, -0.2, 0.001, 0.002, 0.03)


def test_realsense_distortion_that_opencv_does_not_have_is_refused(tmp_path: Path) -> None:
    value = {**STREAM, "coeffs": [0.1, 0, 0, 0, 0], "model": "inverse_brown_conrady"}
    with pytest.raises(InvalidCameraError, match=r"rs\.json: rs\.model: .*inverse_brown_conrady"):
        load_cameras(wrote(tmp_path / "rs.json", value))
    with pytest.raises(WrongFormatError, match="RealSense"):
        load_cameras(wrote(tmp_path / "rs.json", {**STREAM, "width": "wide"}))


def test_zed(tmp_path: Path) -> None:
    text = "[LEFT_CAM_HD]\nfx=700.5\nfy=700.1\ncx=640.2\ncy=360.4\nk1=-0.17\nk2=0.02\np1=0.001\np2=0.002\nk3=0\n"
    text += "[RIGHT_CAM_2K]\nfx=1400\nfy=1400\ncx=1104\ncy=621\n[STEREO]\nBaseline=120\n"
    cameras = load_cameras(wrote(tmp_path / "SN123.conf", text))
    assert set(cameras) == {"left_hd", "right_2k"}
    left = cameras["left_hd"]
    assert (left.width, left.height, left.K[0, 2]) == (1280, 720, 640.2)
    assert left.distortion is not None
    assert left.distortion.coefficients == (-0.17, 0.02, 0.001, 0.002, 0.0)
    with pytest.raises(WrongFormatError, match="is not a ZED's calibration"):
        load_cameras(wrote(tmp_path / "SN4.conf", "[A]\nb=1\n"))


def test_a_gopro_as_umi_calibrates_it(tmp_path: Path) -> None:
    inner = {"aspect_ratio": 1.0, "focal_length": 796.8, "principal_pt_x": 1352.9, "principal_pt_y": 1012.6}
    inner |= {f"radial_distortion_{i}": v for i, v in zip((1, 2, 3, 4), (-0.04, -0.003, 0.002, -0.001), strict=True)}
    value = {"intrinsic_type": "FISHEYE", "image_width": 2704, "image_height": 2028, "intrinsics": inner}
    (camera,) = load_cameras(wrote(tmp_path / "gopro.json", value)).values()
    assert camera.distortion is not None
    assert (camera.distortion.model, camera.K[1, 1], camera.width) == ("fisheye", 796.8, 2704)


MODELS = {"SIMPLE_PINHOLE": 0, "OPENCV": 4, "FOV": 7}


def colmap_model(folder: Path, ending: str, cameras: list[Any], images: list[Any]) -> Path:
    """As ``colmap model_converter`` writes one: (number, model, width, height, *parameters), (pose, camera, name)."""
    folder.mkdir(exist_ok=True)
    if ending == ".txt":
        wrote(folder / "cameras.txt", "# one\n" + "".join(" ".join(map(str, c)) + "\n" for c in cameras))
        # The points of the second picture are none, which is an empty line.
        lines = [f"{i + 1} {' '.join(map(str, p))} {c} {n}\n{'' if i else '0 0 -1'}\n" for i, (p, c, n) in images]
        wrote(folder / "images.txt", "# two\n" + "".join(lines))
    else:
        data = struct.pack("<Q", len(cameras))
        for number, model, width, height, *parameters in cameras:
            data += struct.pack(f"<iiQQ{len(parameters)}d", number, MODELS[model], width, height, *parameters)
        (folder / "cameras.bin").write_bytes(data)
        data = struct.pack("<Q", len(images))
        for i, (pose, camera, name) in images:
            data += struct.pack("<I7dI", i + 1, *pose, camera) + name.encode() + b"\0"
            data += struct.pack("<QddQ", 1, 0, 0, 2**64 - 1) if i == 0 else struct.pack("<Q", 0)
        (folder / "images.bin").write_bytes(data)
    return folder / f"images{ending}"


@pytest.mark.parametrize("ending", [".txt", ".bin"])
def test_colmap(tmp_path: Path, ending: str) -> None:
    pose = Rotation.from_euler("xyz", [0.3, -0.2, 0.1])
    x, y, z, w = map(float, pose.as_quat())
    cameras = [[1, "OPENCV", 640, 480, 600, 601, 320, 240, 0.1, 0.2, 0, 0], [2, "SIMPLE_PINHOLE", 64, 48, 50, 32, 24]]
    images = [((w, x, y, z, 0.1, 0.2, 0.3), 1, "front.png"), ((1, 0, 0, 0, 0, 0, 0), 2, "a b/side.png")]
    path = colmap_model(tmp_path / "model", ending, cameras, list(enumerate(images)))
    found = load_cameras(path)
    assert set(found) == {"front", "side"}
    front = found["front"]
    assert front.world_from_camera is not None
    assert front.distortion is not None
    np.testing.assert_allclose(front.world_from_camera[:3, :3], pose.as_matrix().T, atol=1e-12)
    np.testing.assert_allclose(front.world_from_camera[:3, 3], -pose.as_matrix().T @ [0.1, 0.2, 0.3], atol=1e-12)
    assert (front.pixel_centre, front.K[1, 1], front.distortion.coefficients) == (0.5, 601, (0.1, 0.2, 0, 0))
    assert (found["side"].pixel_centre, found["side"].K[0, 0], found["side"].width) == (0.5, 50, 64)
    assert set(load_cameras(path.with_name(f"cameras{ending}"))) == {"1", "2"}
    colmap_model(tmp_path / "fov", ending, [[1, "FOV", 64, 48, 1, 2, 3, 4, 5]], [])
    with pytest.raises(InvalidCameraError, match=r"FOV.*image_undistorter"):
        load_cameras(tmp_path / "fov" / f"cameras{ending}")
    with pytest.raises(WrongFormatError, match="a camera that is not beside it"):
        load_cameras(colmap_model(tmp_path / "other", ending, cameras[:1], list(enumerate(images))))


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
def test_a_binary_model_that_was_cut_or_went_on_is_refused(tmp_path: Path, name: str) -> None:
    images = [(0, ((1, 0, 0, 0, 0, 0, 0), 1, "front.png"))]
    colmap_model(tmp_path / "model", ".bin", [[1, "SIMPLE_PINHOLE", 64, 48, 50, 32, 24]], images)
    path = tmp_path / "model" / name
    whole = path.read_bytes()
    for data in (*(whole[:end] for end in range(len(whole))), whole + b"\0", struct.pack("<Q", 2**63) + whole[8:]):
        path.write_bytes(data)
        with pytest.raises(WrongFormatError, match=f"is not COLMAP's {name}"):
            load_cameras(path)


def test_kalibr_behind_opencvs_first_line(tmp_path: Path) -> None:
    chain = {"camera_model": "pinhole", "intrinsics": [458.6, 457.3, 367.2, 248.4], "resolution": [752, 480]}
    chain |= {"distortion_model": "radtan", "distortion_coeffs": [-0.28, 0.07, 0.0002, 0.00002]}
    path = wrote(tmp_path / "kalibr.yaml", "%YAML:1.0\n---\n" + yaml.safe_dump({"cam0": chain}))
    camera = load_cameras(path)["cam0"]
    assert (camera.K[0, 0], camera.width) == (458.6, 752)


HAND_1 = {
    "parameters": {"eye_on_hand": True, "tracking_base_frame": "camera_color_optical_frame"},
    "transformation": {"x": 0.05, "y": -0.03, "z": 0.04, "qx": 0.0, "qy": 0.0, "qz": 0.7071068, "qw": 0.7071068},
}
BASE_2 = {
    "parameters": {"calibration_type": "eye_on_base", "tracking_base_frame": "camera_link"},
    "transform": {
        "translation": {"x": 1.0, "y": 0.2, "z": 0.6},
        "rotation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0},
    },
}


def test_easy_handeye(tmp_path: Path) -> None:
    hand, where = pose_in_file(wrote(tmp_path / "hand.yaml", HAND_1), None, None)
    assert where == "tool"
    np.testing.assert_allclose(hand[:3, :3], Rotation.from_euler("z", 90, degrees=True).as_matrix(), atol=1e-6)
    path = wrote(tmp_path / "base.yaml", BASE_2)
    with pytest.raises(AmbiguousSourceError, match="tracking_base_frame: camera_link"):
        pose_in_file(path, None, None)
    base, where = pose_in_file(path, None, "body")
    assert where == "base"
    # The body looks along x; so does the camera's z.
    np.testing.assert_allclose(base[:3, :3] @ [0, 0, 1], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(base[:3, :3] @ [0, 1, 0], [0, 0, -1], atol=1e-12)


def test_droids_poses(tmp_path: Path) -> None:
    value = {"123_left": {"pose": [0.3, 0.1, 0.5, -1.9, 0.0, 0.4], "timestamp": 1.0}, "456_left": {"pose": [0] * 6}}
    path = wrote(tmp_path / "calibration_info.json", value)
    pose, _ = pose_in_file(path, "123_left", None)
    np.testing.assert_allclose(pose[:3, :3], Rotation.from_euler("xyz", [-1.9, 0, 0.4]).as_matrix(), atol=1e-12)
    with pytest.raises(MissingCalibrationError, match=r"123_left \| 456_left"):
        pose_in_file(path, None, None)


def read(folder: Path, way: dict[str, Any]) -> Episode:
    path = write_yaml(folder.parent / "mapping.yaml", way)
    converter = FolderConverter(FolderOptions(mapping=str(path)))
    (ref,) = converter.discover(str(folder))
    return converter.read(ref)


def test_a_pose_file_that_says_the_camera_is_elsewhere_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path / "log")
    wrote(tmp_path / "log" / "hand.yaml", HAND_1)
    wrote(tmp_path / "log" / "rs.json", {**STREAM, "width": SIZE, "height": SIZE})
    with pytest.raises(WrongFormatError, match="tool_from_camera: it is in the hand"):
        read(
            tmp_path / "log",
            mapping(views__front__camera={"file": "rs.json", "world_from_camera": {"file": "hand.yaml"}}),
        )
    way = {"file": "rs.json", "camera_in_tool": {"file": "hand.yaml"}}
    episode = read(tmp_path / "log", mapping(views__front__camera=way))
    assert isinstance(episode.views["front"].camera, CameraTrack)


@pytest.mark.parametrize("kind", ["txt", "npy", "here"])
def test_a_camera_matrix_alone(tmp_path: Path, kind: str) -> None:
    write_log(tmp_path / "log")
    given: Any = {"file": f"K.{kind}"}
    if kind == "txt":
        np.savetxt(tmp_path / "log" / "K.txt", K)
    elif kind == "npy":
        np.save(tmp_path / "log" / "K.npy", np.array(K))
    else:
        given = K
    way = {"K": given, "world_from_camera": CAMERA.tolist()}
    camera = read(tmp_path / "log", mapping(views__front__camera=way)).views["front"].camera
    assert camera is not None
    np.testing.assert_allclose(camera.K, K)
    assert camera.pixel_centre == 0


@pytest.mark.parametrize("moving", [False, True])
def test_a_camera_in_data_sets_of_an_hdf5_file(tmp_path: Path, moving: bool) -> None:
    log = write_log(tmp_path / "log")
    inverse = np.linalg.inv(CAMERA)
    poses = np.tile(inverse, (COUNT, 1, 1)) if moving else inverse
    if moving:
        poses[:, 0, 3] += np.linspace(0, 0.1, COUNT)
    with h5py.File(tmp_path / "log" / "log.h5", "w") as file:
        file["cam/K"], file["cam/pose"] = np.array(K), poses
        file["t"], file["p"], file["q"] = log.times, log.position, log.rotation
        file["w"] = np.full(len(log.times), 0.04)
    columns = {"columns": ["cam/pose"], "holds": "camera_from_world"}
    way = mapping(
        pose__file="log.h5",
        pose__position={"columns": ["p"], "unit": "m"},
        pose__rotation={"columns": ["q"], "form": "quaternion", "order": "xyzw"},
        views__front__camera={"K_columns": ["cam/K"], "pose_columns": columns},
    )
    camera = read(tmp_path / "log", way).views["front"].camera
    assert camera is not None
    assert isinstance(camera, CameraTrack) == moving
    first = camera.world_from_camera[0] if moving else camera.world_from_camera
    np.testing.assert_allclose(first, CAMERA, atol=1e-9)


@pytest.mark.parametrize(
    ("camera", "error", "message"),
    [
        ({"K": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}, MissingCalibrationError, "pose is not known"),
        ({"K": {"file": "K.txt"}, "world_from_camera": CAMERA.tolist()}, WrongFormatError, "nine numbers"),
        ({"K_columns": ["x"], "world_from_camera": CAMERA.tolist()}, WrongFormatError, "9 numbers a row"),
    ],
)
def test_what_a_camera_lacks_is_named(
    tmp_path: Path, camera: dict[str, Any], error: type[ActionImgError], message: str
) -> None:
    write_log(tmp_path / "log", Log())
    wrote(tmp_path / "log" / "K.txt", "1 2 3")
    with pytest.raises(error, match=message):
        read(tmp_path / "log", mapping(views__front__camera=camera))

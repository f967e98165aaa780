from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actionimg_data.cameras import files as calibration
from actionimg_data.cameras.files import Distortion, load_cameras
from actionimg_data.cameras.undistort import UndistortedFrames, undistorted_K
from actionimg_data.demo.recordings import write_yaml
from actionimg_data.errors import (
    BadFileError,
    InvalidCameraError,
    InvalidSpecError,
    MissingCalibrationError,
    SourceNotFoundError,
    UnsafeFileError,
    WrongFormatError,
)
from actionimg_data.model import ArrayFrames, Camera, CameraTrack

K = [[300.0, 0, 160], [0, 310, 120], [0, 0, 1]]
POSE = [[0.0, 0, 1, 0.5], [-1, 0, 0, 0], [0, -1, 0, 0.4], [0, 0, 0, 1]]
ENTRY: dict[str, Any] = {"K": K, "width": 320, "height": 240, "world_from_camera": POSE}


def test_a_camera_file_in_json_and_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"cameras": {"front": ENTRY}, "remark": "kept out of the way"}))
    write_yaml(tmp_path / "b.yaml", {"front": ENTRY})
    for name in ("a.json", "b.yaml"):
        camera = load_cameras(tmp_path / name)["front"].camera("test")
        assert isinstance(camera, Camera)
        np.testing.assert_allclose(camera.world_from_camera, POSE)
        np.testing.assert_allclose(camera.K, K)


def test_inverses_parts_moving_cameras_and_opengl(tmp_path: Path) -> None:
    base = {k: v for k, v in ENTRY.items() if k != "world_from_camera"}
    gl = (np.array(POSE) @ np.diag([1, -1, -1, 1])).tolist()
    cameras = {
        "inverse": {**base, "world_to_camera": np.linalg.inv(POSE).tolist()},
        "parts": {
            **base,
            "world_from_camera": {"translation": [0.5, 0, 0.4], "rotation": [r[:3] for r in POSE[:3]]},
        },
        "opengl": {**base, "camera_to_world": gl, "axes": "OpenGL: y up, z back"},
        "moving": {**base, "cam2world": [POSE, POSE]},
    }
    (tmp_path / "c.json").write_text(json.dumps({"cameras": cameras}))
    found = load_cameras(tmp_path / "c.json")
    for name in ("inverse", "parts", "opengl"):
        np.testing.assert_allclose(found[name].camera("x").world_from_camera, POSE, atol=1e-12)
    assert isinstance(found["moving"].camera("x"), CameraTrack)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extrinsics": POSE}, "does not say which way it goes"),
        ({"distorsion": {}}, "Extra inputs"),
        ({"camera_from_world": POSE}, "give one pose"),
        ({"axes": "ros"}, "'opencv' or 'opengl'"),
        ({"K": [[1, 2], [3, 4]]}, "Field required|tuple"),
        ({"width": 0}, "greater than or equal to 1"),
        ({"K": [[float("nan"), 0, 1], [0, 1, 1], [0, 0, 1]]}, "finite"),
        ({"distortion": {"model": "fisheye", "coefficients": [0.1, 0.2]}}, "fisheye has 4 coefficients"),
        ({"distortion": {"model": "omni", "coefficients": [0.1]}}, "'pinhole' or 'fisheye'"),
    ],
)
def test_a_camera_that_cannot_be_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"cameras": {"front": {**ENTRY, **changes}}}))
    with pytest.raises(WrongFormatError, match=message) as caught:
        load_cameras(tmp_path / "c.json")
    assert "cameras.front" in str(caught.value)


def test_a_pose_that_is_not_rigid_is_named_and_a_few_digits_are_enough(tmp_path: Path) -> None:
    scaled = (np.diag([2.0, 2, 2, 1]) @ np.array(POSE)).tolist()
    (tmp_path / "c.json").write_text(json.dumps({"cameras": {"front": {**ENTRY, "world_from_camera": scaled}}}))
    with pytest.raises(InvalidSpecError, match=r"cameras\.front: is not a rigid transform"):
        load_cameras(tmp_path / "c.json")
    rounded = [[0.707, -0.707, 0, 0], [0.707, 0.707, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    (tmp_path / "c.json").write_text(json.dumps({"cameras": {"front": {**ENTRY, "world_from_camera": rounded}}}))
    camera = load_cameras(tmp_path / "c.json")["front"].camera("x")
    np.testing.assert_allclose(camera.world_from_camera[0, 0], np.sqrt(0.5))


def test_missing_files_cameras_and_poses(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        load_cameras(tmp_path / "none.json")
    (tmp_path / "c.json").write_text(json.dumps({"a": ENTRY, "b": {**ENTRY, "world_from_camera": None}}))
    cameras = load_cameras(tmp_path / "c.json")
    with pytest.raises(MissingCalibrationError, match=r"expected a \| b, found c"):
        calibration.pick(cameras, "c", "file")
    with pytest.raises(MissingCalibrationError, match="holds several cameras"):
        calibration.pick(cameras, None, "file")
    with pytest.raises(MissingCalibrationError, match="pose is not known"):
        cameras["b"].camera("file")
    (tmp_path / "d.json").write_text("{")
    with pytest.raises(BadFileError, match="line 1"):
        load_cameras(tmp_path / "d.json")
    (tmp_path / "e.yaml").write_text("cameras: !!python/name:os.system\n")
    with pytest.raises(UnsafeFileError):
        load_cameras(tmp_path / "e.yaml")
    (tmp_path / "f.json").write_text("[1]")
    with pytest.raises(WrongFormatError, match="is not a camera file"):
        load_cameras(tmp_path / "f.json")


def test_opencv_files_that_other_yaml_readers_refuse(tmp_path: Path) -> None:
    path = tmp_path / "left.yml"
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.write("image_width", 320)
    storage.write("image_height", 240)
    storage.write("camera_matrix", np.array(K))
    storage.write("distortion_coefficients", np.array([[0.1, -0.2, 0.001, 0.002, 0.05]]))
    storage.release()
    camera = load_cameras(path)["left"]
    assert (camera.width, camera.height) == (320, 240)
    assert camera.distortion == Distortion("pinhole", (0.1, -0.2, 0.001, 0.002, 0.05))
    np.testing.assert_allclose(camera.K, K)
    path.write_text(path.read_text().replace("camera_matrix", "other"))
    with pytest.raises(WrongFormatError, match="has no camera matrix"):
        load_cameras(path)
    path.write_text(path.read_text()[:60])
    with pytest.raises((BadFileError, WrongFormatError)):
        load_cameras(path)


def test_ros_camera_info_files(tmp_path: Path) -> None:
    value = {
        "image_width": 320,
        "image_height": 240,
        "camera_name": "head",
        "camera_matrix": {"rows": 3, "cols": 3, "data": [v for row in K for v in row]},
        "distortion_model": "rational_polynomial",
        "distortion_coefficients": {"rows": 1, "cols": 8, "data": [0.1] * 8},
    }
    camera = load_cameras(write_yaml(tmp_path / "c.yaml", value))["head"]
    assert camera.distortion is not None
    assert (camera.distortion.model, len(camera.distortion.coefficients)) == ("pinhole", 8)
    value["distortion_model"] = "thin_prism_fisheye"
    with pytest.raises(InvalidCameraError, match="not supported"):
        load_cameras(write_yaml(tmp_path / "c.yaml", value))
    del value["camera_matrix"]["data"]
    with pytest.raises(WrongFormatError, match="is not a ROS camera_info file"):
        load_cameras(write_yaml(tmp_path / "c.yaml", value))


def test_kalibr_chains_are_composed_from_their_first_camera(tmp_path: Path) -> None:
    def cam(previous_shift: float | None) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "camera_model": "pinhole",
            "intrinsics": [300.0, 310.0, 160.0, 120.0],
            "resolution": [320, 240],
            "distortion_model": "equi",
            "distortion_coeffs": [0.1, 0.0, 0.0, 0.0],
            "rostopic": "/cam",
        }
        if previous_shift is not None:
            chain = np.eye(4)
            chain[0, 3] = previous_shift
            entry["T_cn_cnm1"] = chain.tolist()
        return entry

    value = {"cam0": cam(None), "cam1": cam(-0.1), "cam2": cam(-0.2)}
    cameras = load_cameras(write_yaml(tmp_path / "chain.yaml", value))
    # A point at the first camera lies 0.1 to the left of the second: the second stands 0.1 to the right.
    for name, x in (("cam0", 0.0), ("cam1", 0.1), ("cam2", 0.3)):
        pose = cameras[name].reference_from_camera
        assert pose is not None
        assert pose[0, 3] == pytest.approx(x)
    assert cameras["cam0"].distortion == Distortion("fisheye", (0.1, 0.0, 0.0, 0.0))
    value["cam1"]["camera_model"] = "omni"
    with pytest.raises(InvalidCameraError, match="expected pinhole, found omni"):
        load_cameras(write_yaml(tmp_path / "chain.yaml", value))


def test_scaling_keeps_rays_and_refuses_another_aspect() -> None:
    camera = calibration.CalibratedCamera(np.array(K), 320, 240)
    half = calibration.scaled_to(camera, 160, 120, "x")
    # OpenCV's K has the centre of the first pixel at 0, a quarter of a pixel from the border in the smaller picture.
    np.testing.assert_allclose(half.K, [[150, 0, 79.75], [0, 155, 59.75], [0, 0, 1]])
    spanning = dataclasses.replace(camera, pixel_centre=0.5)
    np.testing.assert_allclose(
        calibration.scaled_to(spanning, 160, 120, "x").K, [[150, 0, 80], [0, 155, 60], [0, 0, 1]]
    )
    with pytest.raises(InvalidCameraError, match=r"differ in aspect.*resized: squeeze.*resized: crop"):
        calibration.scaled_to(camera, 240, 240, "x")


@pytest.mark.parametrize("how", ["squeeze", "crop"])
@pytest.mark.parametrize("pixel_centre", [0.0, 0.5])
@given(u=st.floats(0, 319), v=st.floats(0, 239))
def test_squeezed_and_cropped_pictures_show_a_ray_where_the_picture_was_moved(
    how: Any, pixel_centre: float, u: float, v: float
) -> None:
    """Against the pixel itself: where a point of the whole picture lies in the smaller one."""
    camera = calibration.CalibratedCamera(np.array(K), 320, 240, pixel_centre=pixel_centre, resized=how)
    small = calibration.scaled_to(camera, 60, 60, "x")
    ray = np.linalg.inv(camera.K) @ [u, v, 1]
    found = (small.K @ ray)[:2] + (0.5 - pixel_centre)
    at = np.array([u, v]) + (0.5 - pixel_centre)
    expected = at * [60 / 320, 60 / 240] if how == "squeeze" else (at - [40, 0]) / 4
    assert np.allclose(found, expected, atol=1e-9)
    assert calibration.scaled_to(camera, 320, 240, "x") is camera
    # What the camera says comes before what the registry says of the pictures.
    assert np.array_equal(calibration.scaled_to(camera, 60, 60, "x", "scale").K, small.K)


# Distortion.

LENSES = [
    Distortion("pinhole", (-0.3, 0.1, 0.001, -0.002, 0.01)),
    Distortion("pinhole", (0.15, -0.05, 0.0, 0.0)),
    Distortion("pinhole", (0.2, 0.1, 0.001, 0.001, 0.02, 0.35, 0.15, 0.03)),
    Distortion("fisheye", (0.05, -0.01, 0.002, 0.0)),
]


def through_lens(points: np.ndarray, lens: Distortion) -> np.ndarray:
    zero, coefficients = np.zeros(3), np.array(lens.coefficients)
    if lens.model == "fisheye":
        return cv2.fisheye.projectPoints(points[:, None], zero, zero, np.array(K), coefficients)[0].reshape(-1, 2)
    return cv2.projectPoints(points, zero, zero, np.array(K), coefficients)[0].reshape(-1, 2)


@pytest.mark.parametrize("lens", LENSES, ids=lambda d: f"{d.model}{len(d.coefficients)}")
def test_after_undistortion_the_pinhole_holds_to_a_twentieth_of_a_pixel(lens: Distortion) -> None:
    grid = np.stack(np.meshgrid(np.linspace(-0.35, 0.35, 6), np.linspace(-0.25, 0.25, 5)), -1).reshape(-1, 2)
    points = np.concatenate([grid, np.ones((len(grid), 1))], axis=1)
    seen = through_lens(points, lens)
    y, x = np.mgrid[0:240, 0:320]
    picture = np.zeros((240, 320), np.float64)
    for u, v in seen:
        picture += np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 2.5**2))
    image = np.repeat((np.clip(picture, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
    new_K = undistorted_K(np.array(K), lens, 320, 240, "test")
    source = ArrayFrames(image[None])
    out = next(UndistortedFrames(source, np.array(K), lens, new_K).frames([0]))[..., 0].astype(np.float64)
    expected = (points @ new_K.T)[:, :2]
    inside = ((expected > 12) & (expected < [307, 227])).all(1)
    assert inside.sum() >= 12
    for u, v in expected[inside]:
        window = np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 5.0**2)) * out
        centre = np.array([(window * x).sum(), (window * y).sum()]) / window.sum()
        assert np.linalg.norm(centre - [u, v]) < 0.05 + 0.12 * (lens.model == "fisheye")


@pytest.mark.parametrize("lens", LENSES, ids=lambda d: f"{d.model}{len(d.coefficients)}")
def test_undistorted_pictures_have_no_empty_corners(lens: Distortion) -> None:
    white = ArrayFrames(np.full((1, 240, 320, 3), 255, np.uint8))
    new_K = undistorted_K(np.array(K), lens, 320, 240, "test")
    out = next(UndistortedFrames(white, np.array(K), lens, new_K).frames([0]))
    assert (out[2:-2, 2:-2] > 200).mean() > 0.999


def test_a_polynomial_that_folds_over_is_refused() -> None:
    with pytest.raises(InvalidCameraError, match="does not hold over the whole picture"):
        undistorted_K(np.array(K), Distortion("pinhole", (-0.9, 0.0, 0.0, 0.0)), 640, 480, "test")


def test_a_fisheye_is_bent_even_without_coefficients() -> None:
    assert Distortion("pinhole", (0.0,) * 5).is_zero
    assert not Distortion("fisheye", (0.0,) * 4).is_zero

"""Camera files of other programs: RealSense, ZED, GoPro (UMI); hand-eye calibrations and DROID's poses.

Each reader gives cameras (`CalibratedCamera`) by name, or the pose of one. Facts of each format are cited where they
are used.
"""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import AmbiguousSourceError, InvalidCameraError, MissingCalibrationError, WrongFormatError
from ..geometry import exact, rotations, transforms
from ..untrusted.files import read_bytes
from ..untrusted.text import load_any
from .calibrated import CalibratedCamera, Distortion
from .transforms import transform_from_xyz_euler

FloatArray = NDArray[np.float64]
_MAX_TEXT = 1 << 26
OPENCV_FROM_BODY = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""ROS' axes of a body (x forward, y left, z up; REP 103) in those of an optical frame (x right, y down, z forward)."""

# librealsense's rs2_distortion. The Brown-Conrady models take OpenCV's five; inverse ones distort the other way.
_REALSENSE_NONE = ("none", "")
_REALSENSE_PINHOLE = ("brown_conrady", "modified_brown_conrady")
_REALSENSE_FISHEYE = ("kannala_brandt4",)


def is_realsense(value: Any) -> bool:
    """Whether a JSON value is a RealSense stream's intrinsics, or holds some by stream."""
    return isinstance(value, Mapping) and (_has_ppx(value) or any(_has_ppx(v) for v in value.values()))


def _has_ppx(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    inner = value.get("intrinsics", value)
    return isinstance(inner, Mapping) and {"ppx", "ppy", "fx", "fy"} <= set(inner)


def realsense(value: Mapping[str, Any], path: Path) -> dict[str, CalibratedCamera]:
    """RealSense intrinsics (librealsense's rs2_intrinsics as JSON), of one stream or by stream; pixel centres at 0.

    Raises:
        WrongFormatError: A field is missing or no number.
        InvalidCameraError: A distortion model that OpenCV has no match for.
    """
    streams = {path.stem: value} if _has_ppx(value) else {str(k): v for k, v in value.items() if _has_ppx(v)}
    return {name: _realsense(entry.get("intrinsics", entry), path, name) for name, entry in streams.items()}


def _realsense(entry: Mapping[str, Any], path: Path, name: str) -> CalibratedCamera:
    try:
        fx, fy, cx, cy = (float(entry[k]) for k in ("fx", "fy", "ppx", "ppy"))
        width, height = int(entry["width"]), int(entry["height"])
        coefficients = tuple(float(c) for c in entry.get("coeffs", entry.get("distortion_coeffs", ())))
        model = str(entry.get("model", entry.get("distortion_model", ""))).lower().rpartition(".")[2]
    except (KeyError, TypeError, ValueError) as error:
        raise WrongFormatError("is not RealSense's intrinsics", where=path, field=name, found=repr(error)) from None
    K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    plain = model.replace("distortion_", "").replace("distortion", "").replace(" ", "_").strip("_")
    distortion = None
    if any(coefficients):
        if plain in _REALSENSE_PINHOLE:
            distortion = Distortion("pinhole", coefficients[:5])
        elif plain in _REALSENSE_FISHEYE:
            distortion = Distortion("fisheye", coefficients[:4])
        elif plain not in _REALSENSE_NONE or plain == "":
            raise InvalidCameraError(
                "this distortion model is not supported",
                where=path,
                field=f"{name}.model",
                expected=" | ".join((*_REALSENSE_PINHOLE, *_REALSENSE_FISHEYE)),
                found=model or "none is named",
                hint="RealSense's colour pictures are usually rectified: if yours are, set the coefficients to 0.",
            )
    return CalibratedCamera(K, width, height, distortion=distortion, reference_from_camera=np.eye(4))


_ZED_SIZES = {"2K": (2208, 1242), "FHD": (1920, 1080), "HD": (1280, 720), "VGA": (672, 376)}


def zed(path: Path) -> dict[str, CalibratedCamera]:
    """A ZED's ``SN*.conf`` (INI): sections ``LEFT_CAM_HD`` and so on, distortion k1 k2 p1 p2 k3 as OpenCV's.

    Raises:
        WrongFormatError: It has no such section.
    """
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        parser.read_string(read_bytes(path, _MAX_TEXT).decode("utf-8", "replace"))
    except configparser.Error as error:
        raise WrongFormatError("is not a ZED's calibration", where=path, found=str(error)) from None
    found = {}
    for section in parser.sections():
        side, _, mode = section.partition("_CAM_")
        if side not in ("LEFT", "RIGHT") or mode not in _ZED_SIZES:
            continue
        try:
            fx, fy, cx, cy = (float(parser[section][k]) for k in ("fx", "fy", "cx", "cy"))
            coefficients = tuple(float(parser[section].get(k, "0")) for k in ("k1", "k2", "p1", "p2", "k3"))
        except (KeyError, ValueError) as error:
            raise WrongFormatError("is not a ZED's calibration", where=path, field=section, found=repr(error)) from None
        K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
        width, height = _ZED_SIZES[mode]
        found[f"{side.lower()}_{mode.lower()}"] = CalibratedCamera(
            K, width, height, distortion=Distortion("pinhole", coefficients), reference_from_camera=np.eye(4)
        )
    if not found:
        raise WrongFormatError("is not a ZED's calibration", where=path, expected="[LEFT_CAM_HD], [RIGHT_CAM_2K], …")
    return found


def gopro(value: Mapping[str, Any], path: Path) -> CalibratedCamera:
    """UMI's intrinsics file of a GoPro, as OpenCameraImuCalibration writes it: OpenCV's fisheye model.

    The aspect ratio is fy / fx (Theia's camera models); UMI's own loader (umi/common/cv_util.py) takes it for 1.

    Raises:
        WrongFormatError: A field is missing, or another model.
    """
    try:
        kind = value["intrinsic_type"]
        if kind != "FISHEYE":
            raise WrongFormatError(
                "is not a fisheye", where=path, field="intrinsic_type", expected="FISHEYE", found=kind
            )
        inner = value["intrinsics"]
        f, cx, cy = (float(inner[k]) for k in ("focal_length", "principal_pt_x", "principal_pt_y"))
        coefficients = tuple(float(inner[f"radial_distortion_{i}"]) for i in (1, 2, 3, 4))
        width, height = int(value["image_width"]), int(value["image_height"])
        aspect, skew = float(inner.get("aspect_ratio", 1.0)), float(inner.get("skew", 0.0))
        K = np.array([[f, skew, cx], [0, f * aspect, cy], [0, 0, 1]])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, WrongFormatError):
            raise
        raise WrongFormatError("is not UMI's intrinsics file", where=path, found=repr(error)) from None
    return CalibratedCamera(K, width, height, distortion=Distortion("fisheye", coefficients))


def pose_in_file(path: Path, name: str | None, axes: str | None) -> tuple[FloatArray, str]:
    """The pose ``(4, 4)`` of a camera in a calibration's file, OpenCV axes, and what it is in: ``base`` or ``tool``.

    easy_handeye (1 and 2) writes the tracking frame's pose in the robot's base, or in its end-effector where the camera
    is in the hand; DROID's ``calibration_info.json`` the pose of each camera, as ``x y z`` and "xyz" Euler angles.

    Args:
        path: The file.
        name: Of the camera, where there are several.
        axes: ``optical`` or ``body``, of the frame that was tracked; None: as its name says.

    Raises:
        WrongFormatError: It is neither.
        AmbiguousSourceError: The name of the tracked frame does not say what axes it has.
        MissingCalibrationError: There is no such camera.
    """
    value = load_any(path)
    if not isinstance(value, Mapping):
        raise WrongFormatError("holds no pose", where=path, found=type(value).__name__)
    inner = value.get("transformation", value.get("transform"))
    if isinstance(inner, Mapping) and isinstance(value.get("parameters", {}), Mapping):
        return _handeye(inner, value.get("parameters", {}), path, axes)
    posed = {str(k): v for k, v in value.items() if isinstance(v, Mapping) and "pose" in v}
    if posed:
        if name is None and len(posed) > 1:
            raise MissingCalibrationError("holds several cameras", where=path, expected=" | ".join(posed))
        chosen = next(iter(posed)) if name is None else name
        if chosen not in posed:
            raise MissingCalibrationError("has no such camera", where=path, expected=" | ".join(posed), found=chosen)
        numbers = np.asarray(posed[chosen]["pose"], dtype=np.float64)
        if numbers.shape != (6,) or not np.isfinite(numbers).all():
            raise WrongFormatError("is not six numbers", where=path, field=f"{chosen}.pose", found=str(numbers))
        return transform_from_xyz_euler(numbers), ""
    raise WrongFormatError(
        "holds no pose", where=path, expected="easy_handeye's YAML, or DROID's calibration_info.json", found=list(value)
    )


def _handeye(
    inner: Mapping[str, Any], parameters: Mapping[str, Any], path: Path, axes: str | None
) -> tuple[FloatArray, str]:
    place, turn = inner.get("translation", inner), inner.get("rotation", inner)
    try:
        position = np.array([float(place[k]) for k in "xyz"])
        prefix = "" if turn is not inner else "q"
        q = np.array([float(turn[f"{prefix}{k}"]) for k in "xyzw"])
    except (KeyError, TypeError, ValueError) as error:
        raise WrongFormatError("is not easy_handeye's YAML", where=path, found=repr(error)) from None
    if abs(float(np.linalg.norm(q)) - 1) > 0.02:
        raise WrongFormatError("is not a unit quaternion", where=path, field="rotation", found=q.tolist())
    pose = np.asarray(transforms.make_transform(rotations.matrix_from_quaternion(rotations.normalize(q)), position))
    frame = str(parameters.get("tracking_base_frame", ""))
    if axes is None and frame and "optical" not in frame:
        raise AmbiguousSourceError(
            "are the axes of the tracked frame a camera's, or a body's (x forward)?",
            where=path,
            field="axes",
            expected="axes: optical | body",
            found=f"tracking_base_frame: {frame}",
        )
    if axes == "body":
        pose = np.asarray(exact.matmul(pose, np.linalg.inv(OPENCV_FROM_BODY)))
    kind = str(parameters.get("calibration_type", ""))
    in_hand = parameters.get("eye_on_hand", True if kind == "eye_in_hand" else False if kind else None)
    return pose, "" if in_hand is None else "tool" if in_hand else "base"

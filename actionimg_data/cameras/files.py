"""Camera calibration from files: the project's camera file, OpenCV, ROS and Kalibr YAML, and DROID's side files."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    BadFileError,
    InvalidCameraError,
    InvalidSpecError,
    MissingCalibrationError,
    SourceNotFoundError,
    WrongFormatError,
)
from ..geometry import crop, exact, transforms
from ..model import CameraTrack
from ..schemas.camera_file import CameraEntry, CameraFile, Resized
from ..schemas.rlds_registry import RldsCameraFile
from ..untrusted.files import plain, read_bytes, read_head
from ..untrusted.text import load_any, load_json, parse, parse_yaml
from . import kinds
from .calibrated import CalibratedCamera, Distortion
from .colmap import CAMERAS, IMAGES, colmap
from .tracks import is_cameras_npz, read_cameras_npz
from .transforms import transform_from_xyz_euler, transform_matrix

FloatArray = NDArray[np.float64]
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
_MAX_MATRIX = 1000


def from_entry(entry: CameraEntry, axes: str = "opencv") -> CalibratedCamera:
    """A `CalibratedCamera` of a camera file's entry, in OpenCV axes."""
    to_opencv = OPENCV_FROM_OPENGL if (entry.axes or axes) == "opengl" else np.eye(4)

    def poses(value: Any) -> FloatArray | None:
        if value is None:
            return None
        moving = isinstance(value, tuple) and len(value) > 0 and np.ndim(value[0]) == 2
        return np.asarray(value, dtype=np.float64) if moving else transform_matrix(value)

    pose = poses(entry.world_from_camera)
    inverse = poses(entry.camera_from_world)
    if inverse is not None:
        pose = np.asarray(transforms.invert(inverse))
    tool = poses(entry.tool_from_camera)
    distortion = entry.distortion
    return CalibratedCamera(
        K=np.asarray(entry.K, dtype=np.float64),
        width=entry.width,
        height=entry.height,
        world_from_camera=None if pose is None else np.asarray(exact.matmul(pose, to_opencv)),
        tool_from_camera=None if tool is None else np.asarray(exact.matmul(tool, to_opencv)),
        distortion=None if distortion is None else Distortion(distortion.model, distortion.coefficients),
        pixel_centre=entry.pixel_centre,
        origin=entry.origin,
        resized=entry.resized,
    )


def load_cameras(path: Path) -> dict[str, CalibratedCamera]:
    """The cameras of a calibration file, by name.

    Kinds are told apart by what is in them: the project's camera file (JSON or YAML), a sample's ``.cameras.npz``, an
    OpenCV ``FileStorage`` file, a ROS ``camera_info`` file, a Kalibr camera chain, RealSense's and a GoPro's (UMI's)
    intrinsics, a ZED's ``.conf``, and COLMAP's ``cameras`` or ``images``, ``.txt`` or ``.bin``. Only the first two and
    the last have the camera's pose.

    Raises:
        SourceNotFoundError: No such file.
        WrongFormatError: None of them, or a field that cannot be.
        UnsafeFileError: YAML with tags.
        InvalidCameraError: A distortion model that is not supported.
        InvalidSpecError: A pose that is not rigid.
    """
    if is_cameras_npz(path):
        return {name: _of_track(track, f"{path}: {name}") for name, track in read_cameras_npz(path).items()}
    if path.suffix.lower() == ".conf":
        return kinds.zed(path)
    if path.name in (*CAMERAS, *IMAGES):
        return colmap(path)
    head = read_head(path, 64).lstrip()
    if head.startswith((b"<?xml", b"<opencv_storage")):
        return {path.stem: _opencv(path)}
    if head.startswith(b"%YAML"):
        chain = _kalibr_text(path)
        return {path.stem: _opencv(path)} if chain is None else _kalibr(chain, path)
    value = load_any(path)
    if not isinstance(value, Mapping):
        raise WrongFormatError(
            "is not a camera file", where=path, expected="cameras by name", found=type(value).__name__
        )
    if "intrinsic_type" in value:
        return {path.stem: kinds.gopro(value, path)}
    if kinds.is_realsense(value):
        return kinds.realsense(value, path)
    if "camera_matrix" in value and "image_width" in value:
        name = str(value.get("camera_name") or path.stem)
        return {name: _ros(value, path)}
    if value and all(isinstance(v, Mapping) and "camera_model" in v for v in value.values()):
        return _kalibr(value, path)
    if "cameras" not in value:
        value = {"cameras": value}
    parsed = parse(CameraFile, value, path)
    found = {}
    for name, entry in parsed.cameras.items():
        try:
            found[name] = from_entry(entry, parsed.axes)
        except InvalidSpecError as error:
            raise error.at(f"{path}: cameras.{name}") from None
    return found


@dataclass(frozen=True)
class UserCameras:
    """A user's camera file: for the data set, by scene, or by episode.

    Args:
        path: The file.
        everywhere: Cameras by view, for all episodes.
        scene_key: What of an episode names its scene, or None.
        scenes: Cameras by view, by a pattern of scenes.
        episodes: Cameras by view, by an episode's id or a pattern of ids.
    """

    path: Path
    everywhere: Mapping[str, CalibratedCamera]
    scene_key: str | None = None
    scenes: Mapping[str, Mapping[str, CalibratedCamera]] = field(default_factory=dict)
    episodes: Mapping[str, Mapping[str, CalibratedCamera]] = field(default_factory=dict)

    def camera(self, view: str, episode: str, scene: Callable[[str], str] | None = None) -> CalibratedCamera | None:
        """The camera of a view in an episode: the episode's own, its scene's, or the one for all; None for none.

        Args:
            view: Of the episode.
            episode: Its id; cameras under the id itself come before those under a pattern.
            scene: Gives the episode's scene by `scene_key`; without it sections by scene are passed over.
        """
        tables = [self.episodes.get(episode, {}), *_matching(self.episodes, episode)]
        if self.scene_key is not None and scene is not None and self.scenes:
            tables += _matching(self.scenes, scene(self.scene_key))
        return next((t[view] for t in (*tables, self.everywhere) if view in t), None)


def _matching(tables: Mapping[str, Mapping[str, CalibratedCamera]], name: str) -> list[Mapping[str, CalibratedCamera]]:
    return [table for pattern, table in tables.items() if fnmatch.fnmatchcase(name, pattern)]


def load_user_cameras(path: Path) -> UserCameras:
    """A camera file, with or without sections by scene and by episode.

    Raises:
        SourceNotFoundError: No such file.
        WrongFormatError: Not a camera file; the field is named.
        UnsafeFileError: YAML with tags.
    """
    if path.suffix.lower() in (".json", ".yaml", ".yml"):
        head = read_head(path, 16).lstrip()
        value = None if head.startswith(b"%YAML") else load_any(path)
        if isinstance(value, Mapping) and ("scenes" in value or "episodes" in value):
            parsed = parse(RldsCameraFile, value, path)

            def table(entries: Mapping[str, CameraEntry]) -> dict[str, CalibratedCamera]:
                return {name: from_entry(entry, parsed.axes) for name, entry in entries.items()}

            return UserCameras(
                path,
                table(parsed.cameras),
                parsed.scene_key,
                {pattern: table(t) for pattern, t in parsed.scenes.items()},
                {pattern: table(t) for pattern, t in parsed.episodes.items()},
            )
    return UserCameras(path, load_cameras(path))


def _of_track(track: CameraTrack, where: object) -> CalibratedCamera:
    if (track.K[0] != track.K).any():
        raise InvalidCameraError("zooms, which a calibration cannot say", where=where, field="K")
    pose = track.world_from_camera[0] if track.is_static else track.world_from_camera
    return CalibratedCamera(
        track.K[0], track.width, track.height, world_from_camera=pose, pixel_centre=track.pixel_centre
    )


def pick(cameras: Mapping[str, CalibratedCamera], name: str | None, where: object) -> CalibratedCamera:
    """The camera called ``name``, or the only one."""
    if name is None:
        if len(cameras) == 1:
            return next(iter(cameras.values()))
        raise MissingCalibrationError("holds several cameras", where=where, expected=" | ".join(cameras))
    if name not in cameras:
        raise MissingCalibrationError("has no such camera", where=where, expected=" | ".join(cameras), found=name)
    return cameras[name]


def _opencv(path: Path) -> CalibratedCamera:
    import cv2

    try:
        storage = cv2.FileStorage(plain(str(path)), cv2.FILE_STORAGE_READ)
    except (cv2.error, SystemError) as error:
        raise BadFileError(f"OpenCV cannot read it: {error.__cause__ or error}", where=path) from None
    try:
        if not storage.isOpened():
            raise BadFileError("OpenCV cannot read it", where=path)

        def matrix(*names: str) -> FloatArray | None:
            for name in names:
                node = storage.getNode(name)
                if not node.empty() and node.isMap():
                    # OpenCV makes room for what is stated before it looks at what is there.
                    rows, columns = (node.getNode(n).real() for n in ("rows", "cols"))
                    if not (0 <= rows * columns <= _MAX_MATRIX):
                        raise BadFileError(
                            "states an impossible size", where=path, field=name, found=f"{rows}x{columns}"
                        )
                    value = node.mat()
                    return None if value is None else np.asarray(value, dtype=np.float64)
            return None

        def number(*names: str) -> float | None:
            nodes = (storage.getNode(n) for n in names)
            return next((float(n.real()) for n in nodes if not n.empty() and (n.isInt() or n.isReal())), None)

        K = matrix("camera_matrix", "cameraMatrix", "Camera_Matrix", "K", "M1")
        coefficients = matrix("distortion_coefficients", "dist_coeffs", "distCoeffs", "Distortion_Coefficients", "D")
        width = number("image_width", "image_Width", "width", "imageWidth")
        height = number("image_height", "image_Height", "height", "imageHeight")
        fisheye = bool(number("fisheye_model", "calibrate_useFisheye", "fisheye") or 0)
    except (cv2.error, SystemError) as error:
        raise BadFileError(f"OpenCV cannot read it: {error.__cause__ or error}", where=path) from None
    finally:
        storage.release()
    if K is None or K.shape != (3, 3):
        raise WrongFormatError("has no camera matrix", where=path, field="camera_matrix", expected="3x3")
    if width is None or height is None:
        raise WrongFormatError("does not say its picture size", where=path, field="image_width, image_height")
    model = "fisheye" if fisheye else "pinhole"
    return CalibratedCamera(
        K, int(width), int(height), distortion=_distortion(model, coefficients, path), reference_from_camera=np.eye(4)
    )


_ROS_MODELS = {"plumb_bob": "pinhole", "rational_polynomial": "pinhole", "equidistant": "fisheye", "fisheye": "fisheye"}
_KALIBR_MODELS = {"radtan": "pinhole", "equi": "fisheye"}


def _distortion(model: str, coefficients: Any, where: object) -> Distortion | None:
    values = tuple(float(c) for c in np.ravel([] if coefficients is None else coefficients))
    if not values:
        return None
    counts = (4,) if model == "fisheye" else (4, 5, 8, 12, 14)
    if len(values) not in counts or not np.isfinite(values).all():
        raise InvalidCameraError(
            f"a {model} lens has {' or '.join(map(str, counts))} coefficients",
            where=where,
            field="distortion",
            found=str(list(values)),
        )
    return Distortion(model, values)


def named_distortion(name: str, coefficients: Any, where: object) -> Distortion | None:
    """Distortion under ROS' or Kalibr's name for its model; `InvalidCameraError` for one that is not supported."""
    if name in ("", "none") and not np.any(coefficients):
        return None
    known = {**_ROS_MODELS, **_KALIBR_MODELS}
    if name not in known:
        raise InvalidCameraError(
            "this distortion model is not supported",
            where=where,
            field="distortion_model",
            expected=" | ".join(known),
            found=name,
            hint="Undistort the pictures first and give the new camera matrix.",
        )
    return _distortion(known[name], coefficients, where)


def _ros(value: Mapping[str, Any], path: Path) -> CalibratedCamera:
    try:
        K = np.asarray(value["camera_matrix"]["data"], dtype=np.float64).reshape(3, 3)
        coefficients = value.get("distortion_coefficients", {}).get("data", [])
        width, height = int(value["image_width"]), int(value["image_height"])
        model = str(value.get("distortion_model", ""))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WrongFormatError("is not a ROS camera_info file", where=path, found=repr(error)) from None
    return CalibratedCamera(
        K, width, height, distortion=named_distortion(model, coefficients, path), reference_from_camera=np.eye(4)
    )


def _kalibr_text(path: Path) -> Mapping[str, Any] | None:
    """A Kalibr chain behind a line ``%YAML:1.0`` that OpenCV wants and YAML does not know (open_vins); else None."""
    text = read_bytes(path, 1 << 24).decode("utf-8", "replace")
    if "!!opencv-matrix" in text or "camera_model" not in text:
        return None
    lines = [line for line in text.splitlines() if not line.startswith(("%YAML", "---"))]
    value = parse_yaml("\n".join(lines), path)
    chain = isinstance(value, Mapping) and all(isinstance(v, Mapping) and "camera_model" in v for v in value.values())
    return value if chain else None


def _kalibr(value: Mapping[str, Any], path: Path) -> dict[str, CalibratedCamera]:
    cameras: dict[str, CalibratedCamera] = {}
    reference_from_previous = np.eye(4)
    for name in sorted(value, key=lambda n: int("".join(filter(str.isdigit, n)) or 0)):
        entry = value[name]
        if entry["camera_model"] != "pinhole":
            raise InvalidCameraError(
                "this camera model is not supported",
                where=path,
                field=f"{name}.camera_model",
                expected="pinhole",
                found=entry["camera_model"],
            )
        try:
            fx, fy, cx, cy = (float(v) for v in entry["intrinsics"])
            width, height = (int(v) for v in entry["resolution"])
            chain = entry.get("T_cn_cnm1")
            if chain is not None:
                # Kalibr: T_cn_cnm1 takes points of the previous camera to this one.
                previous_from_camera = transforms.invert(np.asarray(chain, dtype=np.float64).reshape(4, 4))
                reference_from_previous = exact.matmul(reference_from_previous, previous_from_camera)
            model, coefficients = str(entry.get("distortion_model", "none")), entry.get("distortion_coeffs", [])
        except (KeyError, TypeError, ValueError) as error:
            raise WrongFormatError("is not a Kalibr camera", where=path, field=name, found=repr(error)) from None
        cameras[name] = CalibratedCamera(
            np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
            width,
            height,
            reference_from_camera=reference_from_previous,
            distortion=named_distortion(model, coefficients, f"{path}: {name}"),
        )
    return cameras


@dataclass(frozen=True)
class DroidCamera:
    """What DROID's published side files know of one camera in one episode.

    Args:
        base_from_camera: ``(4, 4)``, or None where the episode has no better calibration of this camera.
        K: ``(3, 3)`` for pictures of ``width x height``, or None.
        width: 1280 as published.
        height: 720 as published.
        quality: The calibration's own figures (metric, source), as written.
    """

    base_from_camera: FloatArray | None
    K: FloatArray | None
    width: int = 1280
    height: int = 720
    quality: Mapping[str, Any] = field(default_factory=dict)


_DROID_EXTRINSICS = ("cam2base_extrinsic_superset.json", "cam2base_extrinsics.json")


class DroidSideFiles:
    """DROID's side files in one folder: better extrinsics, intrinsics, serials, paths.

    ``cam2base_extrinsic_superset.json`` is asked before ``cam2base_extrinsics.json``; each maps an episode's id to
    ``{SERIAL: [x, y, z, rx, ry, rz] camera-to-base, ...quality}``, and ``intrinsics.json`` to
    ``{SERIAL: [fx, cx, fy, cy]}`` at 1280x720 (https://huggingface.co/KarlP/droid). Any of the files may be absent.

    Raises:
        SourceNotFoundError: The folder holds none of them.
        BadFileError: A file is not JSON of that form.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._extrinsics = {n: self._load(n) for n in _DROID_EXTRINSICS if (folder / n).is_file()}
        self._intrinsics = self._load("intrinsics.json")
        self._serials = self._load("camera_serials.json")
        self._annotations = self._load("droid_language_annotations.json")
        paths = self._load("episode_id_to_path.json")
        self._id_of_path = {str(v).strip("/"): k for k, v in paths.items()}
        if not (self._extrinsics or self._intrinsics):
            raise SourceNotFoundError(
                "holds none of DROID's calibration files",
                where=folder,
                expected=" | ".join((*_DROID_EXTRINSICS, "intrinsics.json")),
            )

    def _load(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            return {}
        value = load_json(path)
        if not isinstance(value, dict):
            raise BadFileError("is not an object by episode", where=path, found=type(value).__name__)
        return value

    def episode_id(self, path: str) -> str | None:
        """The id of the episode whose folder is the end of ``path`` (``LAB/success/DATE/TIME``), or None.

        A path of the published RLDS files ends in ``.../trajectory.h5`` and begins with a place of its own.
        """
        parts = [p for p in path.replace("\\", "/").split("/") if p and p != "trajectory.h5"]
        for start in range(len(parts)):
            found = self._id_of_path.get("/".join(parts[start:]))
            if found is not None:
                return found
        return None

    def instructions(self, episode: str) -> tuple[str, ...]:
        """What ``droid_language_annotations.json`` says that the episode does; empty where it does not."""
        value = self._annotations.get(episode)
        said = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        return tuple(dict.fromkeys(text.strip() for text in said if isinstance(text, str) and text.strip()))

    def serials(self, episode: str) -> dict[str, str]:
        """Camera serials by role (``ext1_cam_serial``, ``ext2_cam_serial``, ``wrist_cam_serial``)."""
        value = self._serials.get(episode)
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}

    def knows(self, role: str) -> bool:
        """Whether there is an episode of which they have the pose of this camera (of no episode the wrist's)."""
        return any(
            self.serials(str(episode)).get(role) in entry
            for table in self._extrinsics.values()
            for episode, entry in table.items()
            if isinstance(entry, dict)
        )

    def camera(self, episode: str, serial: str) -> DroidCamera:
        """What is known of the camera ``serial`` in ``episode``; its fields are None where nothing is."""
        pose, quality = None, {}
        for name, table in self._extrinsics.items():
            entry = table.get(episode)
            if not isinstance(entry, dict) or serial not in entry:
                continue
            values = self._numbers(entry[serial], 6, name, episode, serial)
            pose = transform_from_xyz_euler(values)
            own = {k: v for k, v in entry.items() if not str(k).isdigit() and isinstance(v, (str, int, float, bool))}
            # Figures are per camera (SERIAL_...) in the superset and per episode in the smaller file.
            quality = {k: v for k, v in own.items() if not str(k).split("_")[0].isdigit() or k.startswith(serial)}
            quality["file"] = name
            break
        K = None
        entry = self._intrinsics.get(episode)
        if isinstance(entry, dict) and serial in entry:
            fx, cx, fy, cy = self._numbers(entry[serial], 4, "intrinsics.json", episode, serial)
            K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
        return DroidCamera(pose, K, quality=quality)

    def _numbers(self, value: Any, count: int, name: str, episode: str, serial: str) -> FloatArray:
        try:
            numbers = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            numbers = np.empty(0)
        if numbers.shape != (count,) or not np.isfinite(numbers).all():
            raise BadFileError(
                f"is not {count} numbers", where=self.folder / name, field=f"{episode}.{serial}", found=value
            )
        return numbers


class DroidKeepRanges:
    """Which steps of DROID's episodes are not idle (``keep_ranges_1_0_1.json`` of https://huggingface.co/KarlP/droid).

    Each key ends in an episode's path, ``.../LAB/success/DATE/TIME/trajectory.h5``; each value is a list of
    ``[start, stop)``.

    Args:
        path: The file.

    Raises:
        SourceNotFoundError: No such file.
        BadFileError: It is not JSON of that form.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        value = load_json(path)
        if not isinstance(value, dict):
            raise BadFileError("is not an object by episode", where=path, found=type(value).__name__)
        self._ranges = {self._key(key): ranges for key, ranges in value.items()}

    @staticmethod
    def _key(path: str) -> str:
        parts = [p for p in path.rpartition("--")[2].replace("\\", "/").split("/") if p and p != "trajectory.h5"]
        return "/".join(parts[-4:])

    def steps(self, path: str, count: int) -> NDArray[np.intp] | None:
        """The steps of an episode of ``count`` steps that are kept, in order; None where the file does not name it."""
        ranges = self._ranges.get(self._key(path))
        if ranges is None:
            return None
        kept = []
        for bounds in ranges if isinstance(ranges, list) else [ranges]:
            pair = bounds if isinstance(bounds, list) and all(type(b) is int for b in bounds) else []
            if len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
                raise BadFileError("is no range [start, stop)", where=self.path, field=path, found=bounds)
            kept.append(np.arange(pair[0], min(pair[1], count)))
        return np.unique(np.concatenate([np.empty(0, np.intp), *kept])).astype(np.intp)


def scaled_to(
    camera: CalibratedCamera, width: int, height: int, where: object, resized: Resized | None = None
) -> CalibratedCamera:
    """The camera for its pictures made smaller, or larger, to ``width x height``.

    Args:
        camera: What is known of it.
        width: Of the pictures.
        height: Of the pictures.
        where: For errors.
        resized: How that was done, where the camera does not say: ``scale`` by one factor, ``squeeze`` by a factor for
            each side, or ``crop`` about the centre to the aspect, then scaled. By one factor where nothing is said.

    Raises:
        InvalidCameraError: The pictures have another aspect than the calibration, and how they got it is not said.
    """
    if (camera.width, camera.height) == (width, height):
        return camera
    how = camera.resized or resized
    sx, sy = width / camera.width, height / camera.height
    if how in (None, "scale") and abs(sx / sy - 1) > 0.01:
        raise InvalidCameraError(
            "pictures and calibration differ in aspect",
            where=where,
            field="resized",
            expected=f"{camera.width}x{camera.height} or a multiple of it",
            found=f"{width}x{height}",
            hint="Say how the pictures were made smaller, in the camera file (resized: squeeze, where all of a picture "
            "is there, narrower than it was; resized: crop, where its sides were cut off) or give a calibration of "
            "these pictures.",
        )
    if how == "crop":
        part = crop.center_crop(camera.height, camera.width, height, width)
    else:
        part = crop.CropResize(0, 0, camera.width, camera.height, width, height)
    K = np.asarray(crop.apply_to_K(camera.K, part, camera.pixel_centre))
    return replace(camera, K=K, width=width, height=height)


__all__ = [
    "OPENCV_FROM_OPENGL",
    "CalibratedCamera",
    "Distortion",
    "DroidCamera",
    "DroidKeepRanges",
    "DroidSideFiles",
    "UserCameras",
    "from_entry",
    "load_cameras",
    "load_user_cameras",
    "named_distortion",
    "pick",
    "scaled_to",
]

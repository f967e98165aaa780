"""CALVIN's cameras: as the configuration beside its steps places them, or calvin_env's own.

``static_camera.py`` and ``gripper_camera.py`` of https://github.com/mees/calvin_env place them by the configuration
that is saved as ``.hydra/merged_config.yaml``; fields of view are vertical ones (PyBullet). The camera in the hand
looks along the y axis of the link ``gripper_cam``, with -z up; that link and ``tcp`` are fixed to the Panda's hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..cameras.calibrated import CalibratedCamera
from ..errors import BadFileError
from ..geometry import exact, rotations, transforms
from ..model import Camera
from ..schemas.camera_file import CameraOrigin, Vec3
from ..untrusted.text import load_yaml, parse
from .kit.tree import file_stamp

CONFIG = ".hydra/merged_config.yaml"
RATE_HZ = 30.0
_SOURCE = "https://github.com/mees/calvin_env/blob/main/conf/cameras/cameras"
# static.yaml and gripper.yaml of calvin_env, which the published data sets were rendered with.
STATIC: Mapping[str, Any] = {
    "fov": 10,
    "width": 400,
    "height": 400,
    "look_at": [-0.026242351159453392, -0.0302329882979393, 0.3920000493526459],
    "look_from": [2.871459009488717, -2.166602199425597, 2.555159848480571],
    "up_vector": [0.4041403970338857, 0.22629790978217404, 0.8862616969685161],
}
IN_HAND: Mapping[str, Any] = {"fov": 75, "width": 200, "height": 200}
# camera_joint of the URDFs: place and roll-pitch-yaw of the camera's link in the hand; how far before it tcp_joint is.
_CAMERA_IN_HAND = ((-0.1, 0.0, 0.0), (1.3, 0.0, -1.57))
_TCP_M = {"panda_longer_finger.urdf": 0.14, "panda_digit.urdf": 0.1}


class CameraConfig(BaseModel):
    """A camera of calvin_env's configuration; one in the hand has no place of its own."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    fov: float = Field(gt=0, lt=180)
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    aspect: float = 1.0
    look_from: Vec3 | None = None
    look_at: Vec3 | None = None
    up_vector: Vec3 | None = None


def configuration(folder: Path) -> Mapping[str, Any] | None:
    """``.hydra/merged_config.yaml`` beside the steps, or None where it was not kept."""
    path = folder / CONFIG
    return _loaded(path, file_stamp(path)) if path.is_file() else None


@lru_cache(maxsize=4)
def _loaded(path: Path, stamp: str) -> Mapping[str, Any]:
    value = load_yaml(path)
    if not isinstance(value, Mapping):
        raise BadFileError("is no configuration", where=path, found=type(value).__name__)
    return value


def rate(config: Mapping[str, Any] | None) -> float:
    """Steps per second: the configuration's, else CALVIN's own."""
    env = None if config is None else config.get("env")
    stated = env.get("control_freq") if isinstance(env, Mapping) else None
    return float(stated) if isinstance(stated, (int, float)) and not isinstance(stated, bool) else RATE_HZ


def configured(config: Mapping[str, Any], name: str, folder: Path) -> CalibratedCamera | None:
    """The camera of a configuration; None where it has none, or does not say what robot carries it."""
    named, robot = config.get("cameras"), config.get("robot")
    if not isinstance(named, Mapping) or name not in named:
        return None
    robot_file = str(robot.get("filename") or "") if isinstance(robot, Mapping) else ""
    return _placed(parse(CameraConfig, named[name], f"{folder / CONFIG}: cameras.{name}"), robot_file, None)


def published(name: str) -> CalibratedCamera | None:
    """The camera of calvin_env's own configuration."""
    values = {"static": STATIC, "gripper": IN_HAND}.get(name)
    if values is None:
        return None
    origin = CameraOrigin(kind="published", source=f"{_SOURCE}/{name}.yaml")
    return _placed(CameraConfig(**values), "panda_longer_finger.urdf", origin)


def _placed(camera: CameraConfig, robot_file: str, origin: CameraOrigin | None) -> CalibratedCamera | None:
    """A camera where its configuration puts it; None of one in the hand of a robot that is not known."""
    size = (camera.width, camera.height)
    if camera.look_from is not None and camera.look_at is not None and camera.up_vector is not None:
        seen = Camera.looking_at(
            camera.look_from, camera.look_at, *size, vertical_fov_deg=camera.fov, up=camera.up_vector
        )
        K = _squeezed(seen.K, camera)
        return CalibratedCamera(K, *size, world_from_camera=seen.world_from_camera, pixel_centre=0.5, origin=origin)
    tip = _TCP_M.get(Path(robot_file).name)
    if tip is None:
        return None
    place, turn = _CAMERA_IN_HAND
    axes = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    rotation = exact.matmul(np.asarray(rotations.matrix_from_euler(np.array(turn))), axes)
    tool = np.asarray(transforms.make_transform(rotation, np.array(place) - np.array([0.0, 0.0, tip])))
    ahead = Camera.looking_at((0, 0, 0), (0, 0, 1), *size, vertical_fov_deg=camera.fov, up=(0, -1, 0))
    K = _squeezed(ahead.K, camera)
    return CalibratedCamera(K, *size, tool_from_camera=tool, pixel_centre=0.5, origin=origin)


def _squeezed(K: Any, camera: CameraConfig) -> Any:
    """Intrinsics of square pixels, for a picture whose aspect is not the stated one, as OpenGL draws it."""
    wide = np.array(K, dtype=np.float64)
    wide[0, 0] *= camera.width / (camera.height * camera.aspect)
    return wide

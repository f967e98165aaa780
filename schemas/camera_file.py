"""The camera file: what users write down about cameras whose calibration a source does not carry.

JSON or YAML: ``{"cameras": {NAME: CameraEntry, ...}}``, or the mapping of names alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

UNIT_TOLERANCE = 1e-3
Vec3 = tuple[float, float, float]
Vec4 = tuple[float, float, float, float]
Matrix3 = tuple[Vec3, Vec3, Vec3]
Matrix4 = tuple[Vec4, Vec4, Vec4, Vec4]


class PoseParts(BaseModel):
    """A rigid transform given in parts: a translation in metres and one form of rotation (none: no rotation)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    translation: Vec3 = Field((0.0, 0.0, 0.0), description="metres")
    quaternion_xyzw: Vec4 | None = None
    euler_xyz_deg: Vec3 | None = Field(None, description="degrees about the fixed axes x, then y, then z")
    rotation: Matrix3 | None = Field(None, description="rotation matrix, row by row")

    @model_validator(mode="after")
    def _one_rotation(self) -> PoseParts:
        given = [n for n in ("quaternion_xyzw", "euler_xyz_deg", "rotation") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"give one form of rotation, not {' and '.join(given)}")
        return self


def written_out(value: Any) -> Any:
    """``identity``, 7 numbers (x y z qx qy qz qw) or 16, as text or a list, as what a `Transform` is made of."""
    if isinstance(value, str):
        if value.strip() == "identity":
            return {}
        try:
            value = [float(part) for part in re.split(r"[\s,\[\]]+", value.strip()) if part]
        except ValueError:
            return value
    if isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value):
        if len(value) == 16:
            return [list(value[i : i + 4]) for i in range(0, 16, 4)]
        if len(value) == 7 and abs(math.sqrt(sum(v * v for v in value[3:])) - 1) < UNIT_TOLERANCE:
            return {"translation": list(value[:3]), "quaternion_xyzw": list(value[3:])}
    return value


Transform = Annotated[Matrix4 | PoseParts, BeforeValidator(written_out)]
"""A rigid transform: a 4x4 matrix, row by row, or its parts; also ``identity``, and 7 or 16 numbers in a row."""

Axes = Literal["opencv", "opengl"]


Resized = Literal["squeeze", "crop", "scale"]
"""How pictures were made smaller: each side by a factor of its own, cut about the centre first, or by one factor."""


def _axes(value: Any) -> Any:
    """Accept text that begins with the name of the axes, e.g. ``OpenCV: x right, y down, z forward``."""
    return value.strip().lower().split(":")[0].split(" ")[0] if isinstance(value, str) else value


AxesField = Annotated[Axes, BeforeValidator(_axes)]


class DistortionEntry(BaseModel):
    """Lens distortion in one of OpenCV's two models."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: Literal["pinhole", "fisheye"] = Field(
        description="pinhole: k1 k2 p1 p2 [k3 [k4 k5 k6 ...]] (ROS plumb_bob, rational_polynomial; Kalibr radtan); "
        "fisheye: k1 k2 k3 k4 (ROS equidistant; Kalibr equi)"
    )
    coefficients: tuple[float, ...] = Field(description="OpenCV's order")

    @model_validator(mode="after")
    def _count(self) -> DistortionEntry:
        counts = (4,) if self.model == "fisheye" else (4, 5, 8, 12, 14)
        if len(self.coefficients) not in counts:
            allowed = ", ".join(map(str, counts))
            raise ValueError(f"{self.model} has {allowed} coefficients, found {len(self.coefficients)}")
        return self


class CameraOrigin(BaseModel):
    """Where a camera comes from, if not from a calibration of the recording itself, and how far it may be trusted."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["refined", "guessed", "published", "estimate"] = Field(
        description="refined or guessed from the pictures; published with the data set; published as an estimate"
    )
    overlay_px: float | None = Field(None, ge=0, description="90 of 100 times the drawn gripper is off by less")
    position_mm: float | None = Field(None, ge=0, description="90 of 100 times the camera's position is off by less")
    source: str = Field("", description="where it is published")


_CERTAINTY: Final = ("", "published", "refined", "estimate", "guessed")


def least_certain(origins: Iterable[CameraOrigin]) -> str:
    """The kind of the least certain of some cameras; empty where there are none of these."""
    return max((o.kind for o in origins), key=_CERTAINTY.index, default="")


class CameraEntry(BaseModel):
    """One camera.

    Exactly one of the poses is given, or none where the mapping or the source gives it. The bare word
    "extrinsics" is refused: it does not say which way the transform goes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    K: Matrix3 = Field(
        validation_alias=AliasChoices("K", "intrinsics", "camera_matrix"),
        description="3x3 pixels, positive focal lengths",
    )
    width: int = Field(ge=1, le=65536, description="of the pictures that K is for")
    height: int = Field(ge=1, le=65536)
    world_from_camera: Transform | tuple[Matrix4, ...] | None = Field(
        None,
        validation_alias=AliasChoices("world_from_camera", "camera_to_world", "cam2world"),
        description="pose of the camera in the world; a list of 4x4 for a moving camera, one for each picture",
    )
    camera_from_world: Transform | tuple[Matrix4, ...] | None = Field(
        None,
        validation_alias=AliasChoices("camera_from_world", "world_to_camera", "world2cam"),
        description="the inverse, for calibrations that store it",
    )
    tool_from_camera: Transform | None = Field(
        None, description="a camera fixed to the end-effector: its pose in the frame that the pose stream reports"
    )
    axes: AxesField | None = Field(None, description="axes of the camera's frame; opencv if not said")
    distortion: DistortionEntry | None = None
    pixel_centre: float = Field(
        0.0,
        description="where K has the centre of the first pixel: 0 (OpenCV, ROS, RealSense), or 0.5 for a picture that "
        "spans [0, width] x [0, height] (CoppeliaSim, MuJoCo, most renderers)",
    )
    resized: Resized | None = Field(
        None,
        description="how the pictures were made smaller since the calibration: squeeze (width and height each by a "
        "factor of its own), crop (cut about the centre to the aspect, then scaled) or scale (both by one factor, the "
        "only way where nothing is said)",
    )
    moving: bool | None = Field(None, description="only a remark; the poses decide")
    origin: CameraOrigin | None = Field(None, description="where the camera comes from, if not from a calibration")

    @model_validator(mode="before")
    @classmethod
    def _no_bare_extrinsics(cls, value: Any) -> Any:
        if isinstance(value, dict) and "extrinsics" in value:
            raise ValueError(
                "'extrinsics' does not say which way it goes: write world_from_camera or camera_from_world"
            )
        return value

    @field_validator("pixel_centre")
    @classmethod
    def _centre(cls, value: float) -> float:
        if value not in (0, 0.5):
            raise ValueError("pixel_centre must be 0 or 0.5")
        return value

    @model_validator(mode="after")
    def _one_pose(self) -> CameraEntry:
        names = ("world_from_camera", "camera_from_world", "tool_from_camera")
        given = [n for n in names if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"give one pose, not {' and '.join(given)}")
        return self


class CameraFile(BaseModel):
    """A camera file; other keys beside ``cameras`` and ``axes`` are remarks and are not read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    cameras: dict[str, CameraEntry] = Field(min_length=1)
    axes: AxesField = "opencv"

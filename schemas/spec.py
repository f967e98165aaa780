"""How an action image is drawn."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from ..conventions import (
    DEFAULT_AXIS_LENGTH,
    DEFAULT_NEAR,
    DEFAULT_OPENNESS_THRESHOLD,
    DEFAULT_PEDESTAL,
    DEFAULT_SIGMA,
)
from ..errors import InvalidSpecError

_LATER: Final = ("fov_scale", "outside", "ground", "pixel_centre")
"""Fields that are written only where they differ from the default: what was written before them stays what it is."""


class ActionImageSpec(BaseModel):
    """What an action image looks like; the defaults are those of the published code (arXiv 2604.06168).

    Raises:
        InvalidSpecError: An unknown field, or a value outside its range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    height: int = Field(512, ge=1, le=65536, description="picture height in pixels")
    width: int = Field(512, ge=1, le=65536, description="picture width in pixels")
    sigma: float = Field(DEFAULT_SIGMA, gt=0, le=1, description="standard deviation of a blob over min(H, W)")
    axis_length: float = Field(
        DEFAULT_AXIS_LENGTH, gt=0, le=10, description="metres from the origin to the other two keypoints"
    )
    pedestal: float = Field(
        DEFAULT_PEDESTAL, gt=0, lt=1, description="blue pixels at or under this become pedestal * openness"
    )
    openness: Literal["binary", "continuous"] = Field(
        "binary", description="draw openness thresholded, as published, or as it is"
    )
    openness_threshold: float = Field(
        DEFAULT_OPENNESS_THRESHOLD, ge=0, lt=1, description="openness above this is open (binary)"
    )
    near: float = Field(DEFAULT_NEAR, gt=0, description="metres; nearer points and those behind are culled")
    fov_scale: float = Field(
        1.0,
        ge=0.1,
        le=10,
        description="how much of the camera's image plane the action picture shows, over what its picture shows: the "
        "tangent of half the field of view times this, about the middle of the picture",
    )
    outside: Literal["keep", "drop"] = Field(
        "keep", description="draw the part of a blob that reaches into the picture, or drop one whose centre is outside"
    )
    ground: Literal["always", "in_view"] = Field(
        "always", description="draw the pedestal in every picture, or only while the red point is in the picture"
    )
    pixel_centre: Literal["published", "true"] = Field(
        "published",
        description="where a point that K projects to (u, v) is drawn: at pixel (u, v) counted from the middle of the "
        "first pixel, as published, or at the pixel that shows it",
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidSpecError(
                first["msg"],
                where="ActionImageSpec",
                field=".".join(str(p) for p in first["loc"]),
                found=first.get("input"),
            ) from None

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        for name in _LATER:
            if values.get(name) == type(self).model_fields[name].default:
                del values[name]
        return values

    @property
    def sigma_px(self) -> float:
        """Standard deviation of a blob in pixels."""
        return self.sigma * min(self.height, self.width)

    @property
    def id(self) -> str:
        """Twelve hex digits that name this specification: SHA-256 of its sorted JSON."""
        text = json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def resized(self, height: int, width: int) -> ActionImageSpec:
        """The same drawing at another size."""
        return self.changed(height=height, width=width)

    def changed(self, **values: Any) -> ActionImageSpec:
        """The same drawing with other ``values``.

        Raises:
            InvalidSpecError: An unknown field, or a value outside its range.
        """
        return ActionImageSpec(**{**self.model_dump(), **values})

    def over_camera(self) -> ActionImageSpec:
        """The same points in the camera's own picture, those outside of it included: to be marked there."""
        return self.changed(fov_scale=1.0, outside="keep")

"""How an action image is drawn."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..conventions import (
    DEFAULT_AXIS_LENGTH,
    DEFAULT_NEAR,
    DEFAULT_OPENNESS_THRESHOLD,
    DEFAULT_PEDESTAL,
    DEFAULT_SIGMA,
)
from ..errors import InvalidSpecError


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
        return ActionImageSpec(**{**self.model_dump(), "height": height, "width": width})

"""Options that all converters of logs with stamps of their own share."""

from __future__ import annotations

import math

from pydantic import Field, field_validator

from ..base import ConverterOptions


class StampedOptions(ConverterOptions):
    """Options that all converters of logs with stamps share."""

    time_offset: str = Field(
        "none",
        description="none | auto | seconds to add to the stamps of poses and gripper; auto estimates it from the "
        "pictures and refuses where the estimate is not sure",
    )

    @field_validator("time_offset")
    @classmethod
    def _offset(cls, value: str) -> str:
        if value not in ("none", "auto"):
            try:
                finite = math.isfinite(float(value))
            except ValueError:
                finite = False
            if not finite:
                raise ValueError("must be none, auto or seconds")
        return value

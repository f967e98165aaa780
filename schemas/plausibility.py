"""What is asked of every episode before it is converted: kinds of findings, and the limits that decide them.

The checks themselves are in `actionimg_data.plausibility`; ``docs/plausibility.md`` lists the kinds and the limits.
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

FindingKind = Literal[
    "speed",
    "turn",
    "zero-poses",
    "far-poses",
    "angle-unit",
    "joint-limits",
    "length-unit",
    "frozen-pictures",
    "blank-pictures",
    "frozen-poses",
    "staircase",
    "coarse-stamps",
    "equal-stamps",
    "zero-stamps",
    "clock-offset",
    "video-times",
    "picture-names",
    "out-of-view",
    "cut-recording",
]

KINDS: Final[dict[str, str]] = {
    "speed": "the gripper moves faster than a robot does",
    "turn": "the gripper turns faster than a robot does",
    "zero-poses": "poses that are all zeros beside others that are not: a tracker that was not ready, or lost it",
    "far-poses": "poses far from all the others",
    "angle-unit": "angles that do not fit their unit: degrees called radians, or the reverse",
    "joint-limits": "joints outside the limits of the robot file",
    "length-unit": "distances that do not fit their unit: millimetres called metres, or the reverse",
    "frozen-pictures": "the picture stays the same while the gripper moves in it",
    "blank-pictures": "pictures of one colour: a dark camera, or a data set that was never written",
    "frozen-poses": "the pose stays exactly the same while the pictures show motion",
    "staircase": "poses that change only now and then: a slow state, published fast",
    "coarse-stamps": "stamps that are rounded to more than a part of the stream's period",
    "equal-stamps": "one stamp for poses that differ",
    "zero-stamps": "stamps of 0 beside others that are not",
    "clock-offset": "streams that lie whole hours apart: clocks of two time zones",
    "video-times": "a video's own stamps contradict those that are stated for its pictures",
    "picture-names": "numbers in the names of pictures leave some out",
    "out-of-view": "a view that never shows the gripper",
    "cut-recording": "a recorder that was killed: what is whole is read",
}
"""What each kind of finding means; each can be taken with ``--allow KIND``."""

assert tuple(KINDS) == get_args(FindingKind)


class Finding(BaseModel):
    """Something about an episode that cannot be true of a robot's recording.

    Raises:
        ValidationError: An unknown kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: FindingKind
    episode: str
    stream: str = Field(description="the stream, view or gripper in which it was found")
    rows: tuple[int, int] | None = Field(None, description="first and last row (or picture) that it is about")
    found: str
    expected: str

    def text(self) -> str:
        """One line for people."""
        rows = "" if self.rows is None else f" rows {self.rows[0]}–{self.rows[1]}"
        return f"{self.kind}: {self.stream}{rows}: {self.found} (expected {self.expected})"


class Limits(BaseModel):
    """Where plausible ends. Each can be set: ``--limit NAME=VALUE``, or ``limits:`` in a mapping file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_speed_m_s: float = Field(5.0, gt=0, description="`speed`: of the gripper; no arm for people is faster")
    max_turn_rad_s: float = Field(20.0, gt=0, description="`turn`: of the gripper")
    max_distance_m: float = Field(10.0, gt=0, description="`far-poses`: from the median of the episode's positions")
    zero_step_m: float = Field(0.05, gt=0, description="`zero-poses`: from a pose of zeros to its neighbour")
    max_angle_rad: float = Field(6.2832, gt=0, description="`angle-unit`: of what is called radians: one turn")
    joint_margin_rad: float = Field(0.1, ge=0, description="`joint-limits`: beyond the robot file's limits")
    max_camera_distance_m: float = Field(10.0, gt=0, description="`length-unit`: between a camera and the gripper")
    min_reach_m: float = Field(
        0.01, ge=0, description="`length-unit`: the farthest that a gripper gets from the origin of its frame"
    )
    max_tool_offset_m: float = Field(1.0, gt=0, description="`length-unit`: of `tool_from_gripper`")
    frozen_width: float = Field(
        0.05, gt=0, le=1, description="`frozen-pictures`: part of the picture's width that the gripper has moved"
    )
    frozen_m: float = Field(
        0.05,
        gt=0,
        description="`frozen-pictures`, `blank-pictures`: metres moved, where no camera is known or it moves",
    )
    repeated_share: float = Field(
        0.3, gt=0, le=1, description="`frozen-pictures`: share of pictures that repeat the one before, while it moves"
    )
    frozen_pose_s: float = Field(0.5, gt=0, description="`frozen-poses`: how long the very same pose may last")
    staircase_s: float = Field(0.04, gt=0, description="`staircase`: how old a pose may be")
    staircase_m: float = Field(0.002, gt=0, description="`staircase`: a step of the stairs")
    stamp_resolution: float = Field(
        0.25, gt=0, le=1, description="`coarse-stamps`: resolution of the stamps, as a part of the stream's period"
    )
    equal_stamp_m: float = Field(0.005, gt=0, description="`equal-stamps`: between poses of one stamp")
    video_rate: float = Field(0.02, gt=0, description="`video-times`: a video's own rate against the stated one")
    out_of_view: float = Field(
        0.0, ge=0, le=1, description="`out-of-view`: share of the frames in which a view shows the gripper, at most"
    )

    @classmethod
    def of(cls, values: dict[str, Any] | None) -> Limits:
        """The limits with some of them set."""
        return cls(**(values or {}))

"""What a log held before its streams were brought together: what can be asked of it later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..schemas.plausibility import Finding

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StreamSamples:
    """A stream as it was logged.

    Args:
        kind: ``pose``, ``gripper`` or ``pictures``.
        times: ``(N,)`` seconds in the order in which they were logged; they may be anything.
        position: ``(N, 3)`` metres, of poses.
        quaternion_xyzw: ``(N, 4)``, of poses.
        values: ``(N,)`` openness, of a gripper.
        made_up: The stamps were made from a stated rate.
    """

    kind: Literal["pose", "gripper", "pictures"]
    times: FloatArray
    position: FloatArray | None = None
    quaternion_xyzw: FloatArray | None = None
    values: FloatArray | None = None
    made_up: bool = False


@dataclass(frozen=True, eq=False)
class Recorded:
    """The streams of an episode's log, and what its converter found out about them.

    Args:
        streams: By name.
        findings: What cannot be true, as far as only the converter can tell.
        tool_offset_m: Distance of the gripper from the frame that the log reports, by gripper.
    """

    streams: Mapping[str, StreamSamples] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    tool_offset_m: Mapping[str, float] = field(default_factory=dict)

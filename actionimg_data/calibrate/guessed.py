"""What is guessed of a camera that nobody calibrated, and what somebody marked to help."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidSpecError
from ..geometry import exact
from ..model import GripperTrajectory
from .evidence import Evidence

FloatArray = NDArray[np.float64]
Verdict = Literal["found", "cannot tell"]


@dataclass(frozen=True)
class Mark:
    """A place that somebody pointed at: the point between the fingertips in one frame.

    Args:
        frame: Number of the frame.
        u: Pixels from the left.
        v: Pixels from the top.
        episode: Of the frame; of the first one where empty.
    """

    frame: int
    u: float
    v: float
    episode: str = ""

    @classmethod
    def parse(cls, text: str) -> Mark:
        """``FRAME:X,Y`` or ``EPISODE@FRAME:X,Y``.

        Raises:
            InvalidSpecError: Not of that form.
        """
        episode, _, rest = text.rpartition("@")
        frame, _, place = rest.partition(":")
        try:
            u, v = (float(n) for n in place.split(","))
            return cls(int(frame), u, v, episode)
        except ValueError:
            raise InvalidSpecError(
                "is not a mark", field="--mark", expected="FRAME:X,Y or EPISODE@FRAME:X,Y", found=text
            ) from None


@dataclass(frozen=True, eq=False)
class CameraGuess:
    """What was found out about a camera that nobody calibrated.

    Args:
        view: Name of the camera.
        episodes: Whose pictures were used.
        verdict: ``found`` or ``cannot tell``.
        reason: Why, in words.
        model: Which gripper model was looked for.
        width: Of the pictures.
        height: Of the pictures.
        K: ``(3, 3)``; None where nothing fits at all.
        world_from_camera: ``(4, 4)``; of the best candidate, also where the verdict is ``cannot tell``.
        focal_known: Whether the focal length was given.
        overlay_px: 90 of 100 times the drawn gripper is off by less, in the mean over the frames used.
        focal_px: Focal length along x.
        focal_interval_px: Half width of its 90 % interval; 0 where it was given.
        position_mm: 90 of 100 times the camera's position is off by less.
        rotation_deg: 90 of 100 times its rotation is off by less.
        edges: Fit of the gripper's outline in frames that were not fitted, in [0, 1].
        links: Share of the edges beside the outlines of the arm's links that lies on them, in [0, 1], in the same
            frames; None without a robot file that has their shapes.
        flow: Agreement of the hand's motion with the pictures', at most 1.
        rivals: The other candidates: their fit, and how many pixels away they see the gripper.
        gripper: How the gripper seems to differ from the model, in words.
        gripper_from_camera: ``(4, 4)`` of a camera that is fixed to the hand; ``world_from_camera`` is None then.
        time_offset_s: Seconds to add to the poses' stamps, where they are clearly off.
        arm: What of the arm was used besides the hand, or why nothing was, in words; empty without a robot file.
        evidence: Pictures, where they were asked for.
        start: The camera that the flow gave, before the edges.
    """

    view: str
    episodes: tuple[str, ...]
    verdict: Verdict
    reason: str
    model: str
    width: int
    height: int
    K: FloatArray | None = None
    world_from_camera: FloatArray | None = None
    focal_known: bool = False
    overlay_px: float | None = None
    focal_px: float | None = None
    focal_interval_px: float | None = None
    position_mm: float | None = None
    rotation_deg: float | None = None
    edges: float | None = None
    links: float | None = None
    flow: float | None = None
    rivals: tuple[tuple[float, float], ...] = ()
    gripper: tuple[str, ...] = ()
    gripper_from_camera: FloatArray | None = None
    time_offset_s: float | None = None
    arm: str = ""
    evidence: tuple[Evidence, ...] = field(default=(), repr=False)
    start: FloatArray | None = field(default=None, repr=False)

    @property
    def found(self) -> bool:
        """Whether the camera may be used."""
        return self.verdict == "found"

    def to_json(self) -> dict[str, Any]:
        """JSON values."""

        def number(value: float | None, digits: int) -> float | None:
            return None if value is None else round(float(value), digits)

        return {
            "view": self.view,
            "episodes": list(self.episodes),
            "verdict": self.verdict,
            "reason": self.reason,
            "model": self.model,
            "overlay_px": number(self.overlay_px, 2),
            "focal_px": number(self.focal_px, 2),
            "focal_known": self.focal_known,
            "focal_interval_px": number(self.focal_interval_px, 2),
            "position_interval_mm": number(self.position_mm, 1),
            "rotation_interval_deg": number(self.rotation_deg, 2),
            "edges": number(self.edges, 3),
            "links": number(self.links, 3),
            "flow": number(self.flow, 3),
            "rivals": [{"edges": round(e, 3), "away_px": round(a, 1)} for e, a in self.rivals],
            "gripper": list(self.gripper),
            "time_offset_s": number(self.time_offset_s, 3),
            "arm": self.arm,
            "gripper_from_camera": None if self.gripper_from_camera is None else self.gripper_from_camera.tolist(),
        }

    def entry(self, trajectory: GripperTrajectory | None = None) -> dict[str, Any]:
        """The camera as an entry of a camera file.

        Args:
            trajectory: Of the episode, for a camera fixed to the hand: it has a pose a picture.

        Raises:
            ValueError: There is no camera, or it is fixed to the hand and there is no trajectory.
        """
        pose = self.world_from_camera
        if pose is None and self.gripper_from_camera is not None and trajectory is not None:
            pose = exact.matmul(trajectory.world_from_gripper, self.gripper_from_camera)
        if self.K is None or pose is None:
            raise ValueError("no camera was found")
        return {
            "K": self.K.tolist(),
            "width": self.width,
            "height": self.height,
            "world_from_camera": pose.tolist(),
            "pixel_centre": 0.5,
            "origin": {"kind": "guessed", "overlay_px": self.overlay_px, "position_mm": self.position_mm},
        }

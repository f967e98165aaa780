"""Tool or camera: what is wrong where the gripper is not seen where it should be?

A wrong ``tool_from_gripper`` moves the gripper in every picture; a wrong camera moves it in its own. In one view both
look alike unless the gripper turns; over several views one change of the tool either explains all of them or does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..geometry import rotations
from ..model import Episode
from .check import CHECK_FRAMES, MIN_FRAMES, MIN_SCORE, OFF_SIGMA, PICTURE_ERROR_PX, CameraCheck, check_episode
from .evidence import Evidence, static_pose
from .shape import GripperShape
from .shift import best_shift
from .solve import Priors, Solution, score, solve, with_tool

FloatArray = NDArray[np.float64]
Blame = Literal["none", "tool", "camera", "cannot tell"]

_SEARCH: Final = (10.0, 8.0, 6.0, 4.0, 3.0, 2.0, 2.0)
_STEADY: Final = {"camera_m": 5e-4, "camera_rad": float(np.radians(0.05))}
_LOOSE: Final = {"tool_m": 0.02, "reach_m": 0.02, "tool_rad": float(np.radians(4.0))}
_MIN_ANGLE: Final = 5.0
_EXPLAINED: Final = 1.25
_BETTER: Final = 3.0


@dataclass(frozen=True, eq=False)
class ToolCheck:
    """Whether the tool or a camera is off.

    Args:
        blame: ``none``, ``tool``, ``camera`` or ``cannot tell``.
        reason: Why, in words.
        cameras: The cameras that are off, where it is cameras.
        gripper_from_true: ``(4, 4)`` the change that explains the pictures where it is the tool:
            ``tool_from_gripper @ gripper_from_true`` is the true one.
        interval_mm: Half widths ``(3,)`` of 90 % intervals of its shift along the gripper's axes.
        interval_deg: The same of its rotation vector.
        checks: Of each camera alone.
    """

    blame: Blame
    reason: str
    cameras: tuple[str, ...]
    gripper_from_true: FloatArray | None
    interval_mm: FloatArray | None
    interval_deg: FloatArray | None
    checks: Mapping[str, CameraCheck]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        change = self.gripper_from_true
        out: dict[str, Any] = {"blame": self.blame, "reason": self.reason, "cameras": list(self.cameras)}
        if change is not None and self.interval_mm is not None and self.interval_deg is not None:
            turn = np.degrees(np.asarray(rotations.rotation_vector_from_matrix(change[:3, :3])))
            out["gripper_from_true"] = change.tolist()
            out["shift_mm"] = np.round(1e3 * change[:3, 3], 1).tolist()
            out["shift_interval_mm"] = np.round(self.interval_mm, 1).tolist()
            out["turn_deg"] = np.round(turn, 2).tolist()
            out["turn_interval_deg"] = np.round(self.interval_deg, 2).tolist()
        return out


def tool_or_camera(
    episode: Episode,
    shape: GripperShape | None = None,
    *,
    frames: int = CHECK_FRAMES,
    checks: Mapping[str, CameraCheck] | None = None,
) -> ToolCheck:
    """Say whether ``tool_from_gripper`` or a camera is off, from all fixed cameras of an episode.

    Args:
        episode: Of one gripper (two are judged together, as if mounted alike).
        shape: The gripper to look for; by default the parametric one.
        frames: How many frames to look at in each view.
        checks: Results of `check_episode` with ``keep=True`` for this episode, where they are there already.
    """
    shape = shape or GripperShape.parametric()
    checks = checks or check_episode(episode, shape, frames=frames, keep=True)
    usable = {n: c for n, c in checks.items() if c.evidence is not None and c.shift is not None and c.score is not None}
    usable = {n: c for n, c in usable.items() if c.score is not None and c.score >= MIN_SCORE}
    off = tuple(n for n, c in usable.items() if c.verdict == "off")

    def answer(blame: Blame, reason: str, cameras: tuple[str, ...] = (), found: Solution | None = None) -> ToolCheck:
        told = found is not None and blame == "tool"
        if found is None or not told:
            return ToolCheck(blame, reason, cameras, None, None, None, checks)
        # The model's own error looks like a change of the tool, too.
        own = Priors().with_model_error(shape.error_m)
        floor = np.array([own.tool_rad] * 3 + [own.tool_m, own.tool_m, own.reach_m])
        sd = np.sqrt(np.diag(found.covariance)[6 * len(found.poses) :][:6] + floor**2)
        return ToolCheck(blame, reason, cameras, found.tool, 1645 * sd[3:], 1.645 * np.degrees(sd[:3]), checks)

    if not usable:
        return answer("cannot tell", "no camera shows the gripper well enough")
    if not off:
        return answer("none", "every camera that can be judged shows the gripper where it should be")
    evidence = {
        n: c.evidence for n, c in usable.items() if c.evidence is not None and len(c.evidence.sights) >= MIN_FRAMES
    }
    poses = {
        n: pose
        for n in evidence
        if (camera := episode.views[n].camera) is not None and (pose := static_pose(camera)) is not None
    }
    groups = [[evidence[n]] for n in poses]
    given = list(poses.values())
    priors = Priors().with_model_error(shape.error_m)
    by_tool = solve(groups, given, replace(priors, **_STEADY, **_LOOSE), search=_SEARCH, fit_tool=True)
    left = [_left(evidence[n], poses[n], by_tool.tool, shape) for n in poses]
    explained = all(sigmas <= _EXPLAINED * OFF_SIGMA for sigmas in left)
    if len(poses) >= 2 and _spread_deg(given, groups) >= _MIN_ANGLE:
        if explained:
            return answer("tool", f"one change of tool_from_gripper explains all {len(poses)} cameras", found=by_tool)
        return answer("camera", "no change of tool_from_gripper explains all cameras", off)
    # One direction of view: only a gripper that turns tells the two apart.
    by_camera = solve(groups, given, priors, search=_SEARCH)
    gain = score(groups, given, by_tool.tool) - score(groups, by_camera.poses)
    lead = float(gain.mean()) / max(float(gain.std(ddof=1)) / np.sqrt(len(gain)), 1e-6)
    if explained and lead > _BETTER:
        return answer(
            "tool",
            "as the gripper turns, a change of tool_from_gripper fits better than one of the camera",
            found=by_tool,
        )
    if lead < -_BETTER:
        return answer(
            "camera", "as the gripper turns, a change of the camera fits better than one of tool_from_gripper", off
        )
    return answer("cannot tell", "from one direction a wrong tool_from_gripper and a wrong camera look alike", off)


def _left(evidence: Evidence, pose: FloatArray, tool: FloatArray, shape: GripperShape) -> float:
    """Standard deviations by which the gripper is still seen elsewhere after a change of the tool."""
    shift = best_shift(with_tool(evidence, tool), pose)
    if shift is None:
        return float("inf")
    per_metre = evidence.K[0, 0] / evidence.distance
    covariance = shift.spread + (PICTURE_ERROR_PX**2 + (shape.error_m * per_metre) ** 2) * np.eye(2)
    return float(np.sqrt(shift.best @ np.linalg.solve(covariance, shift.best)))


def _spread_deg(poses: list[FloatArray], groups: list[list[Evidence]]) -> float:
    """Largest angle between two cameras as seen from the gripper."""
    points = [s.world_from_gripper[:3, 3] for group in groups for e in group for s in e.sights]
    centre = np.mean(points, axis=0)
    rays = np.stack([p[:3, 3] - centre for p in poses])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    # A camera on the other side of the gripper sees the same directions.
    cosine = np.abs(rays @ rays.T)
    return float(np.degrees(np.arccos(np.clip(cosine.min(), 0, 1))))

"""Bundle adjustment whose errors are those of points that were followed: they drift.

A point that is followed from picture to picture slips a little each time, so that its errors add up and steps, not
places, err by themselves: the differences of neighbouring residuals are what is made small. Unknown are the camera,
every point, and by how much the poses' clock is off; the points are eliminated from the normal equations (Triggs et
al., *Bundle Adjustment: A Modern Synthesis*, 6.1), which are damped (Levenberg and Marquardt) and weighed anew in each
step (Cauchy's weights).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..geometry import transforms
from .point_tracks import Bundle
from .solve import motion, vector_of

FloatArray = NDArray[np.float64]

MIN_DEPTH_M: Final = 0.01
_LOSS_PX: Final = 0.3
_ENOUGH: Final = 1e-5
_TRIES: Final = 6
SHARED_STEPS: Final = 11.0
"""Steps of neighbouring points, and of a point that slides, err alike: so many count as one. On the setting scenes
cameras were off by 3.3 times, the root of this, what the equations say of steps that err by themselves."""

OFFSET_PRIOR_S: Final = 0.1


@dataclass(frozen=True, eq=False)
class Adjusted:
    """A camera and a clock, as points tell.

    Args:
        state: ``(7,)`` as of `Bundle`.
        offset_s: Seconds to add to the poses' stamps.
        offset_sd_s: Its standard deviation.
        information: Inverse covariance ``(6, 6)`` of the motion that takes points in the camera's frame to where they
            truly are there: rotation vector (rad) and shift (m); or ``(7, 7)`` with the log focal length.
        sigma_px: Of a step, robustly.
    """

    state: FloatArray
    offset_s: float
    offset_sd_s: float
    information: FloatArray
    sigma_px: float


@dataclass(frozen=True, eq=False)
class _Now:
    """Where camera, clock and points are, and what is left."""

    state: FloatArray
    offset: float
    points: FloatArray
    local: FloatArray
    turn: FloatArray
    inner: FloatArray
    left: FloatArray

    @cached_property
    def sigma(self) -> float:
        """Of a step, robustly, pixels."""
        return max(1.4826 * float(np.median(np.abs(self.left))), 1e-3)

    def cost(self, middle: FloatArray, strength: FloatArray) -> float:
        """What is made small; points are held to ``middle`` with ``strength (3,)``."""
        held = float((strength * (self.points - middle) ** 2).sum()) / _LOSS_PX**2
        return float(np.log1p((self.left**2).sum(1) / _LOSS_PX**2).sum()) + held


def adjust(bundle: Bundle, state: FloatArray, free_focal: bool, free_offset: bool, steps: int = 30) -> Adjusted:
    """The camera near ``state`` through which points that drift keep their place.

    Args:
        bundle: The points; with the rates of their body where the clock is free.
        state: ``(7,)`` to begin from.
        free_focal: Find the focal length too.
        free_offset: Find the poses' offset in time too.
        steps: At most so many.
    """
    columns = [*range(6), *([6] if free_focal else []), *([7] if free_offset else [])]
    now, damping = _at(bundle, state, 0.0, bundle.meeting(state)), 1e-3
    hold = np.zeros(8)
    for _ in range(steps):
        home = _home(bundle, now)
        block, before = _Blocks.of(bundle, now, columns), now.cost(*home)
        hold[7] = (now.sigma / OFFSET_PRIOR_S) ** 2
        for _ in range(_TRIES):
            move, points = block.step(damping, hold[columns], hold[columns] * now.offset)
            whole = np.zeros(8)
            whole[columns] = move
            turned = vector_of(motion(now.state[:6]) @ np.asarray(transforms.invert(motion(whole[:6]))))
            there = np.append(turned, now.state[6] + whole[6])
            new = _at(bundle, there, now.offset + whole[7], now.points + points)
            if (after := new.cost(*home)) < before:
                break
            damping *= 10
        else:
            break
        now, damping = new, max(damping / 5, 1e-7)
        if before - after < _ENOUGH * after:
            break
    information = _Blocks.of(bundle, now, columns).reduced(0.0)[0] / (now.sigma**2 * SHARED_STEPS)
    if free_offset:
        information[-1, -1] += OFFSET_PRIOR_S**-2
        spread = float(np.linalg.inv(information)[-1, -1]) ** 0.5
        across = information[:-1, -1]
        information = information[:-1, :-1] - np.outer(across, across) / information[-1, -1]
    else:
        spread = 0.0
    return Adjusted(now.state, now.offset, spread, information, now.sigma)


def _home(bundle: Bundle, now: _Now) -> tuple[FloatArray, FloatArray]:
    """Where points are held to, and how strongly ``(3,)``, in units of the squared steps."""
    if bundle.home is None:
        return np.zeros(3), np.zeros(3)
    return bundle.home.middle, now.sigma**2 * SHARED_STEPS * bundle.home.precision(bundle.count)


def _at(bundle: Bundle, state: FloatArray, offset: float, points: FloatArray) -> _Now:
    pose = motion(state[:6])
    cameras = bundle.poses @ pose
    turn, centre = cameras[bundle.picture, :3, :3], cameras[bundle.picture, :3, 3]
    here = points[bundle.track]
    local = ((here - centre)[:, None] @ turn)[:, 0]
    # Poses whose stamps come early by the offset are those of an offset before.
    rate = bundle.rates[bundle.picture]
    inner = -((rate[:, :, :3] @ here[..., None])[..., 0] + rate[:, :, 3]) @ pose[:3, :3]
    local = local + offset * inner
    depth = np.maximum(local[:, 2], MIN_DEPTH_M)
    residual = np.clip(np.exp(state[6]) * local[:, :2] / depth[:, None] - bundle.uv, -50, 50)
    return _Now(state, offset, points, local, turn, inner, bundle.steps(residual))


@dataclass(frozen=True, eq=False)
class _Blocks:
    """The normal equations by blocks: of what all share, of each point, and between them."""

    shared: FloatArray
    own: FloatArray
    between: FloatArray
    shared_right: FloatArray
    own_right: FloatArray

    @classmethod
    def of(cls, bundle: Bundle, now: _Now, columns: list[int]) -> _Blocks:
        depth = np.maximum(now.local[:, 2], MIN_DEPTH_M)
        focal = np.exp(now.state[6])
        uv = focal * now.local[:, :2] / depth[:, None]
        project = np.zeros((len(bundle), 2, 3))
        project[:, 0, 0] = project[:, 1, 1] = focal / depth
        project[:, :, 2] = -uv / depth[:, None]
        x, y, z = now.local.T
        none = np.zeros_like(x)
        across = np.stack([np.stack(r, -1) for r in ((none, -z, y), (z, none, -x), (-y, x, none))], 1)
        every = [-project @ across, project, uv[..., None], project @ now.inner[..., None]]
        shared = bundle.steps(np.concatenate(every, 2)[:, :, columns])
        own = bundle.steps(project @ now.turn.transpose(0, 2, 1))
        weight = 1 / (1 + (now.left**2).sum(1) / _LOSS_PX**2)
        heavy, heavy_own = shared * weight[:, None, None], own * weight[:, None, None]
        middle, strength = _home(bundle, now)
        return cls(
            np.einsum("nia,nib->ab", heavy, shared),
            np.add.reduceat(heavy_own.transpose(0, 2, 1) @ own, bundle.first) + np.diag(strength),
            np.add.reduceat(heavy.transpose(0, 2, 1) @ own, bundle.first),
            np.einsum("nia,ni->a", heavy, now.left),
            np.add.reduceat((heavy_own.transpose(0, 2, 1) @ now.left[..., None])[..., 0], bundle.first)
            + strength * (now.points - middle),
        )

    def reduced(self, damping: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Matrix and right side without the points, and the points' own matrices."""
        size = np.trace(self.own, axis1=1, axis2=2) / 3
        own = self.own + (damping * size + 1e-6)[:, None, None] * np.eye(3)
        gained = np.linalg.solve(own, self.between.transpose(0, 2, 1))
        matrix = self.shared + damping * np.diag(np.diag(self.shared))
        matrix = matrix - np.einsum("pai,pib->ab", self.between, gained)
        right = self.shared_right - np.einsum("pib,pi->b", gained, self.own_right)
        return np.asarray(matrix), np.asarray(right), np.asarray(own)

    def step(self, damping: float, hold: FloatArray, held: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Moves of what is shared and of the points ``(P, 3)``."""
        matrix, right, own = self.reduced(damping)
        move = -np.linalg.solve(matrix + np.diag(hold), right + held)
        back = self.own_right + np.einsum("pai,a->pi", self.between, move)
        return np.asarray(move, np.float64), np.asarray(-np.linalg.solve(own, back[..., None])[..., 0])

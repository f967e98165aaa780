"""A camera from points of the hand, or of the arm, and edges of the gripper and of the arm's links together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..geometry import transforms
from .adjust import Adjusted
from .check import MIN_FRAMES
from .evidence import Evidence, split_sights
from .solve import SEARCH_PX, Known, Priors, Solution, as_found, links_met, motion, score, solve, vector_of
from .uncertainty import widened

FloatArray = NDArray[np.float64]

MAX_PULL: Final = 2.5
"""Standard deviations by which edges may take a camera from where points put it."""

_SEARCH_PX: Final = SEARCH_PX[2:]


@dataclass(frozen=True, eq=False)
class Sharp:
    """A camera from points and edges.

    Args:
        K: ``(3, 3)`` pixels.
        pose: ``world_from_camera (4, 4)``.
        covariance: ``(6, 6)`` of the camera's motion in its own frame (rad, m); ``(7, 7)`` with the log focal length.
        edges: Fit of the outline in frames that were not fitted, in [0, 1]; None where the gripper is in too few.
        links: Share of the edges beside the links' outlines that lies on them, in the same frames; None where their
            shapes are not known.
        found: The gripper's sizes and mounting with it; None where points alone were used.
    """

    K: FloatArray
    pose: FloatArray
    covariance: FloatArray
    edges: float | None
    links: float | None
    found: Solution | None


def sharpen(
    gathered: Sequence[Evidence], K: FloatArray, told: Adjusted, priors: Priors, free_focal: bool, width: int
) -> Sharp:
    """The camera that fits points and edges, each weighed by how well it fits, the gripper's sizes being unknown.

    Points are eliminated already: near where they put the camera their equations are those of their information, so
    that this is one least-squares solve of both. Edges that would take it further than points allow are something
    else's, and left out.

    Args:
        gathered: Evidence of edges, through the camera that points tell.
        K: ``(3, 3)`` with the focal length that points tell.
        told: By points.
        priors: Of the gripper's sizes and mounting.
        free_focal: Whether the focal length is unknown.
        width: Of the pictures.
    """
    pose = motion(told.state[:6])
    alone = Sharp(K, pose, widened(np.asarray(np.linalg.inv(told.information)), K, width), None, None, None)
    if sum(len(e.sights) for e in gathered) < MIN_FRAMES:
        return alone
    fitted, judged = split_sights(gathered)
    fitted = [e for e in fitted if e.sights]
    known = Known(told.information, np.zeros(len(told.information)))
    found = solve([fitted], [pose], priors, [pose], _SEARCH_PX, fit_sizes=True, fit_focal=free_focal, known=known)
    judged = [as_found(e, found) for e in judged]
    edges = float(score([judged], found.poses).mean())
    links = links_met(judged, found.poses[0])
    picked, away = np.r_[0:6], vector_of(np.asarray(transforms.invert(found.poses[0])) @ pose)
    if free_focal:
        picked, away = np.r_[0:6, -1], np.append(away, found.log_focal[0])
    if away @ told.information @ away > len(away) * MAX_PULL**2:
        return replace(alone, edges=edges, links=links_met(judged, pose))
    zoom = float(np.exp(found.log_focal[0]))
    covariance = widened(found.covariance[np.ix_(picked, picked)], K, width, links is not None)
    return Sharp(K @ np.diag([zoom, zoom, 1.0]), found.poses[0], covariance, edges, links, found)

"""What a model is given and what it has to predict: the tasks of the published code as boolean masks.

A sample's frames are counted over the segments [video₁ | action₁ | video₂ | action₂ | …], each of T frames; where
several grippers have action images of their own, they follow each other in the place of ``action``; depth, masks and
normals, where they are asked for, follow the video: [video₁ | depth₁ | … | action₁ | video₂ | …]. The masks
have the same length in every mode, so that samples of different modes go into one batch; `Task.used` says which frames
take part at all. In latent frames the first stands for frame 0 and every later one for ``LATENT_STRIDE`` frames, as a
causal video VAE encodes them (41 frames: 11).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidSpecError
from ..shards.windows import LATENT_STRIDE

Mask = NDArray[np.bool_]

MODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "joint": "predict all videos and all action images",
        "first_video": "given the first view's video, predict the rest",
        "action_conditioned": "given all action images, predict the videos",
        "labelling": "given all videos, predict the action images",
        "one_frame": "given the first frames, predict the action images; later video frames take no part",
        "video_only": "predict all videos; action images take no part",
    }
)
"""The tasks; in each, the first frame of every segment that takes part is given."""

PUBLISHED_ODDS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "joint": 0.9 * 0.9 * 0.9,
        "first_video": 0.9 * 0.9 * 0.05,
        "labelling": 0.9 * 0.9 * 0.05,
        "one_frame": 0.9 * 0.1,
        "video_only": 0.1,
    }
)
"""How often the published training code draws each task from RLBench. It never draws ``action_conditioned``."""

PUBLISHED_ODDS_OTHERS: Final[Mapping[str, float]] = MappingProxyType(
    {"joint": 0.9 * 0.9, "first_video": 0.9 * 0.05, "labelling": 0.9 * 0.05, "video_only": 0.1}
)
"""How often it draws each task from any other data: ``one_frame`` is for RLBench only."""


@dataclass(frozen=True, eq=False)
class Task:
    """Which frames of [video₁ | action₁ | video₂ | action₂] take part, and which of them are given.

    Args:
        mode: Name of the task.
        used: ``(2 V T,)`` whether the frame takes part; with A action and O other segments a view
            ``((1 + O + A) V T,)``.
        given: ``(2 V T,)`` whether it is a condition; only frames that take part are.
        used_latent: ``(2 V L,)``, L latent frames a segment: whether all frames of the latent frame take part.
        given_latent: ``(2 V L,)`` whether all of them are given.
    """

    mode: str
    used: Mask
    given: Mask
    used_latent: Mask
    given_latent: Mask


def latent_frames(frames: int, stride: int = LATENT_STRIDE) -> int:
    """Latent frames of a video: 41 frames give 11."""
    return 1 + (frames - 1) // stride


def task(
    mode: str, frames: int, views: int = 2, stride: int = LATENT_STRIDE, actions: int = 1, others: int = 0
) -> Task:
    """The masks of a mode for segments of ``frames`` frames.

    Frames beyond the last full group of ``stride`` belong to no latent frame (Wan's VAE drops them). With several
    action segments a view (``actions``), all are given or predicted together. Segments between video and actions
    (``others``: depth, masks, normals) take part where the video does, and are never given beyond their first frame.

    Raises:
        InvalidSpecError: There is no such mode, or a count is not positive.
    """
    if mode not in MODES:
        raise InvalidSpecError("no such mode", field="mode", expected=" | ".join(MODES), found=mode)
    if others < 0:
        raise InvalidSpecError("must not be negative", field="others", expected=">= 0", found=others)
    for name, value in (("frames", frames), ("views", views), ("stride", stride), ("actions", actions)):
        if value < 1:
            raise InvalidSpecError("must be positive", field=name, expected=">= 1", found=value)
    # (view; video, others, actions; frame)
    first = 1 + others
    used = np.ones((views, first + actions, frames), np.bool_)
    given = np.zeros((views, first + actions, frames), np.bool_)
    given[:, :, 0] = True
    if mode == "first_video":
        given[0, 0] = True
    elif mode == "action_conditioned":
        given[:, first:] = True
    elif mode == "labelling":
        given[:, 0] = True
    elif mode == "one_frame":
        used[:, :first, 1:] = False
    elif mode == "video_only":
        used[:, first:] = False
    given &= used
    latent = [latent_mask(mask, stride).ravel() for mask in (used, given)]
    return Task(mode, used.ravel(), given.ravel(), *latent)


def latent_mask(mask: Mask, stride: int = LATENT_STRIDE) -> Mask:
    """A mask ``(…, T)`` of frames in latent frames ``(…, L)``: whether all frames of a latent frame are in it."""
    length = latent_frames(mask.shape[-1], stride)
    groups = mask[..., 1 : 1 + (length - 1) * stride].reshape(*mask.shape[:-1], length - 1, stride)
    return np.concatenate([mask[..., :1], groups.all(-1)], axis=-1)


def check_odds(odds: Mapping[str, float]) -> dict[str, float]:
    """Odds by mode, made to sum to 1.

    Raises:
        InvalidSpecError: An unknown mode, an odd that is negative or not finite, or none that is positive.
    """
    for mode, value in odds.items():
        if mode not in MODES:
            raise InvalidSpecError("no such mode", field="modes", expected=" | ".join(MODES), found=mode)
        if not (np.isfinite(value) and value >= 0):
            raise InvalidSpecError("odds must be finite and not negative", field=f"modes[{mode}]", found=value)
    total = float(sum(odds.values()))
    if total <= 0:
        raise InvalidSpecError("no mode has odds above 0", field="modes", found=dict(odds))
    return {mode: value / total for mode, value in odds.items() if value > 0}


def without_actions(odds: Mapping[str, float], where: object) -> dict[str, float]:
    """The odds that are left where there are no cameras and no action images: those of ``video_only``.

    Raises:
        InvalidSpecError: ``video_only`` has no odds.
    """
    left = {mode: value for mode, value in odds.items() if mode == "video_only"}
    if not left:
        raise InvalidSpecError(
            "has no cameras, and so no action images: it can be drawn as video only",
            where=where,
            field="modes",
            expected="odds above 0 for video_only",
            found=", ".join(odds),
        )
    return check_odds(left)


def draw(odds: Mapping[str, float], uniform: float) -> str:
    """The mode that a number drawn uniformly from [0, 1) falls to."""
    modes = list(odds)
    edges = np.cumsum([odds[mode] for mode in modes])
    return modes[min(int(np.searchsorted(edges, uniform * edges[-1], side="right")), len(modes) - 1)]

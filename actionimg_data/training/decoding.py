"""Which library decodes the stored videos: torchcodec where it can be loaded, else PyAV; the same pixels.

Both are FFmpeg's decoder and its colour conversion; torchcodec keeps frames out of Python until all are there. It hides
damage that FFmpeg can conceal, so it is only given bytes whose checksum was right, and what it cannot read goes to the
reader that says what is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingExtraError, install_hint
from ..video import open_video
from .options import Decoder

log = logging.getLogger(__name__)


@cache
def torchcodec() -> Any | None:
    """torchcodec's decoder; None where it is not installed, or finds no FFmpeg that it can use."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:
        log.debug("torchcodec cannot be used: %s", error)
        return None
    return VideoDecoder


def check_decoder(decoder: Decoder) -> None:
    """Refuse torchcodec where it was asked for by name and cannot be used.

    Raises:
        MissingExtraError: As said.
    """
    if decoder == "torchcodec" and torchcodec() is None:
        raise MissingExtraError(
            "torchcodec cannot be loaded: it needs its package, a torch that it was built for, and FFmpeg's libraries",
            field="decoder",
            hint=install_hint("torchcodec"),
        )


@dataclass(frozen=True)
class Pictures:
    """Chosen frames of one video.

    Attributes:
        height: Of the stored pictures.
        width: Of the stored pictures.
        pictures: ``(H, W, 3)`` uint8 RGB, one at a time.
    """

    height: int
    width: int
    pictures: Iterator[NDArray[np.uint8]]


@contextmanager
def open_pictures(
    data: bytes, name: str, wanted: Sequence[int], decoder: Decoder, *, checked: bool
) -> Iterator[Pictures]:
    """Frames of a stored video.

    Args:
        data: The video.
        name: What to call it in an error.
        wanted: Numbers of the frames, increasing.
        decoder: ``auto``, ``pyav`` or ``torchcodec``.
        checked: The checksum of the bytes was looked at, and right.

    Raises:
        BadVideoError: The video is damaged.
        MissingFrameError: It has no such frame.
    """
    found = None
    if decoder != "pyav" and checked and data[4:8] == b"ftyp":
        found = _by_torchcodec(data, wanted)
    if found is not None:
        yield Pictures(found.shape[1], found.shape[2], iter(found))
        return
    with open_video(data, name) as video:
        yield Pictures(video.info.height, video.info.width, video.frames(wanted))


def _by_torchcodec(data: bytes, wanted: Sequence[int]) -> NDArray[np.uint8] | None:
    """``(n, H, W, 3)``, or None where it is not there or cannot read them."""
    made = torchcodec()
    if made is None:
        return None
    try:
        frames = made(data, dimension_order="NHWC", num_ffmpeg_threads=1).get_frames_at(list(wanted)).data
    except (RuntimeError, ValueError, IndexError) as error:
        log.debug("torchcodec cannot read a video: %s", error)
        return None
    return np.asarray(frames.numpy())

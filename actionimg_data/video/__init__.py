"""Pictures to videos and back (PyAV), with bytes that repeat and counts that are checked."""

from __future__ import annotations

from .encode import ENDINGS, GOP, Codec, Encoding, action_encoding, encode, encode_bytes, rgb_encoding
from .read import VideoFrames, VideoInfo, iter_chunks, open_video, read_frames

__all__ = [
    "ENDINGS",
    "GOP",
    "Codec",
    "Encoding",
    "VideoFrames",
    "VideoInfo",
    "action_encoding",
    "encode",
    "encode_bytes",
    "iter_chunks",
    "open_video",
    "read_frames",
    "rgb_encoding",
]

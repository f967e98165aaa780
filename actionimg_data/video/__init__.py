"""Pictures to videos and back (PyAV), with bytes that repeat and counts that are checked."""

from __future__ import annotations

from .encode import (
    ENDINGS,
    GOP,
    Codec,
    Encoding,
    action_encoding,
    encode,
    encode_bytes,
    mask_ids,
    mask_pictures,
    plane_encoding,
    rgb_encoding,
    x264_build,
)
from .packets import PacketIndex, PacketScan, codec_named, decode_packets
from .read import FrameIndex, VideoFrames, VideoInfo, iter_chunks, open_video, read_frames, read_planes

__all__ = [
    "ENDINGS",
    "GOP",
    "Codec",
    "Encoding",
    "FrameIndex",
    "PacketIndex",
    "PacketScan",
    "VideoFrames",
    "VideoInfo",
    "action_encoding",
    "codec_named",
    "decode_packets",
    "encode",
    "encode_bytes",
    "iter_chunks",
    "mask_ids",
    "mask_pictures",
    "open_video",
    "plane_encoding",
    "read_frames",
    "read_planes",
    "rgb_encoding",
    "x264_build",
]

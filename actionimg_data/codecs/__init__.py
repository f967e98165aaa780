"""Depth, segmentation and normals as RGB pictures that survive a video codec, and back; in numpy and torch."""

from __future__ import annotations

from .depth import DepthCodec
from .labels import MOST_LABELS, decode_labels, encode_labels, label_colours, largest_labels
from .normals import decode_normals, encode_normals, normals_from_depth

__all__ = [
    "MOST_LABELS",
    "DepthCodec",
    "decode_labels",
    "decode_normals",
    "encode_labels",
    "encode_normals",
    "label_colours",
    "largest_labels",
    "normals_from_depth",
]

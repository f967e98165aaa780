"""Pictures and videos for the page: thumbnails, members as they are, and videos that a browser could not play."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import BadImageError, CorruptDatasetError, WrongFormatError
from ..report.pictures import trail as draw_trail
from ..shards import layout
from ..shards.layout import Place
from ..shards.read import Sample
from ..video import Encoding, encode_bytes
from .document import trail

Image = NDArray[np.uint8]

THUMBNAIL: Final = 288
"""Longer side of a thumbnail, in pixels."""
CHUNK: Final = 1 << 20
"""Bytes of a member that are read at once."""
_TRAILS: Final = ((255, 214, 64), (64, 214, 255), (255, 120, 220), (140, 255, 140))
_QUALITY: Final = 78
_CRF: Final = 12


def thumbnail(sample: Sample, view: str) -> bytes:
    """The first picture of a view as WebP, with the way that each gripper goes in it.

    Raises:
        WrongFormatError: There is no such view.
        BadVideoError, CorruptDatasetError: It is damaged.
    """
    picture = sample.rgb(view, [0])[0]
    height, width = picture.shape[:2]
    scale = min(1.0, THUMBNAIL / max(height, width))
    small = np.ascontiguousarray(
        cv2.resize(picture, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
    )
    for i, (uv, seen) in enumerate(trail(sample, view, *small.shape[:2])):
        draw_trail(small, uv, seen, _TRAILS[i % len(_TRAILS)])
    done, data = cv2.imencode(".webp", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    if not done:
        raise BadImageError("cannot be encoded", where=sample.key, field=view)
    return data.tobytes()


def member_bytes(tar: Place, offset: int, size: int, start: int, stop: int) -> Iterator[bytes]:
    """Bytes ``start`` to ``stop`` of a member of a shard, some at a time.

    Raises:
        CorruptDatasetError: The shard ends before.
    """
    assert 0 <= start <= stop <= size
    while start < stop:
        length = min(CHUNK, stop - start)
        (part,) = layout.read_ranges(tar, [(offset + start, length)])
        if len(part) != length:
            raise CorruptDatasetError("is truncated", where=tar, expected=f"{length} B", found=f"{len(part)} B")
        yield part
        start += length


def transcoded(sample: Sample, kind: str, view: str, gripper: str = "") -> bytes:
    """A video of a sample as H.264 in MP4: action images of any codec (or drawn here), depth or masks in colour.

    Raises:
        WrongFormatError: There is no such video.
        BadVideoError, CorruptDatasetError: It is damaged.
    """
    if kind == "rgb":
        frames: Iterator[Image] = (picture for chunk in sample.iter_rgb(view) for picture in chunk)
    elif kind == "action":
        frames = (picture for chunk in sample.iter_action(view, gripper=gripper) for picture in chunk)
    elif kind == "depth":
        frames = _depth(sample, view)
    elif kind == "mask":
        frames = (_ids(mask) for part in _parts(sample) for mask in sample.mask(view, part))
    else:
        raise WrongFormatError("has no such videos", where=sample.key, expected="rgb action depth mask", found=kind)
    meta = sample.meta
    encoding = Encoding("h264", _CRF, gop=12, options={"preset": "veryfast", "bf": "0"})
    return encode_bytes(frames, encoding, meta.fps, meta.height, meta.width)


def _depth(sample: Sample, view: str) -> Iterator[Image]:
    """Near is bright; the scale is that of the first picture, so that it holds still."""
    first = sample.depth(view, [0])[0]
    known = first[first > 0]
    near, far = np.percentile(known, [1, 99]) if len(known) else (0.0, 1.0)
    for part in _parts(sample):
        for depth in sample.depth(view, part):
            level = np.clip((far - depth.astype(np.float32)) / max(far - near, 1.0), 0, 1)
            coloured = cv2.applyColorMap(np.rint(255 * level).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
            coloured[depth == 0] = 0
            yield np.ascontiguousarray(coloured[..., ::-1])


def _parts(sample: Sample, length: int = 48) -> list[slice]:
    return [slice(start, start + length) for start in range(0, len(sample), length)]


def _ids(mask: NDArray[np.uint32]) -> Image:
    """A colour for each id that differs much from those of its neighbours; 0 stays black."""
    mixed = (mask * np.uint32(2654435761)).astype(np.uint32)
    colours = np.stack([mixed >> 24, mixed >> 16, mixed >> 8], axis=-1).astype(np.uint8) | 64
    colours[mask == 0] = 0
    return np.ascontiguousarray(colours)

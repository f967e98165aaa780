"""Many samples as tiles of a report: a short looping video of each, within a budget."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ActionImgError
from ..raster import project_keypoints
from ..schemas import ActionImageSpec
from ..shards import Dataset, Sample
from ..video import Encoding, encode_bytes
from .page import Album
from .pictures import Image, evenly, mark, trail

MOST_TILES: Final = 500
VIDEO_BYTES: Final = 6_000_000
"""All videos together end here, before base64."""
POSTER_BYTES: Final = 1_500_000
"""And the first pictures, which are shown before a video runs."""
FRAMES: Final = 20
"""Frames of a video, spread over the sample."""
SECONDS: Final = 2.5
_SIDE: Final = 144
_CRF: Final = 29
_TRAIL: Final = (255, 214, 64)


class Reel:
    """Makes data URLs of videos until their budget is used up."""

    def __init__(self, room: int = VIDEO_BYTES) -> None:
        self.count = 0
        self.left_out = 0
        self._room = room

    def add(self, frames: Sequence[Image]) -> str | None:
        """The pictures ``(H, W, 3)`` as a looping video of `SECONDS`; None when there is no room left."""
        encoding = Encoding("h264", _CRF, options={"preset": "medium"})
        data = encode_bytes(frames, encoding, max(1.0, len(frames) / SECONDS), *frames[0].shape[:2])
        if len(data) > self._room:
            self.left_out += 1
            return None
        self._room -= len(data)
        self.count += 1
        return f"data:video/mp4;base64,{base64.b64encode(data).decode('ascii')}"


def tiles(
    dataset: Dataset, spec: ActionImageSpec, numbers: Sequence[int], reel: Reel, unreadable: list[tuple[str, str]]
) -> list[dict[str, Any]]:
    """What the grid shows of some samples; those that cannot be read are added to ``unreadable``.

    Args:
        dataset: The data set.
        spec: How its action images are drawn.
        numbers: Which samples.
        reel: Makes the videos.
        unreadable: Key and reason of what could not be read.
    """
    found = []
    album = Album(POSTER_BYTES)
    known = {key for key, _ in unreadable}
    rows = dataset.table.take(list(numbers)).drop_columns(["members"]).to_pylist() if numbers else []
    for number, row in zip(numbers, rows, strict=True):
        if row["key"] in known:
            continue
        try:
            frames = _frames(dataset[number], spec)
        except ActionImgError as error:
            unreadable.append((row["key"], str(error)))
            continue
        poster = album.add(cv2.cvtColor(frames[-1], cv2.COLOR_RGB2RGBA), 70)
        found.append({**row, "number": number, "poster": poster, "video": reel.add(frames)})
    return found


def _frames(sample: Sample, spec: ActionImageSpec) -> list[Image]:
    """Small pictures of the first view, with the grippers' axes and the way up to each frame."""
    view = sample.views[0]
    numbers = evenly(len(sample), FRAMES)
    scale = _SIDE / min(spec.height, spec.width)
    height, width = (max(16, 2 * round(side * scale / 2)) for side in (spec.height, spec.width))
    pictures = [
        np.ascontiguousarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))
        for picture in sample.rgb(view, numbers)
    ]
    if not sample.meta.calibrated:
        return pictures
    factor = np.array([width / spec.width, height / spec.height])
    for path in sample.grippers.values():
        uv, valid = project_keypoints(path, [sample.cameras[view]], spec.over_camera())
        points: NDArray[np.float64] = (uv[0] + 0.5) * factor - 0.5
        for picture, frame in zip(pictures, numbers, strict=True):
            trail(picture, points[: frame + 1, 0], valid[0, : frame + 1, 0], _TRAIL)
            mark(picture, points[frame], valid[0, frame])
    return pictures

"""Pictures in messages, one a message: raw, compressed, or packets of a video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ....errors import BadFileError, BadImageError, UnsupportedSourceError, WrongFormatError
from ....untrusted import pictures
from ....video.packets import PacketIndex, decode_packets
from .messages import IMAGE_TYPES, Messages
from .reader import WHOLE, Access, open_bag
from .record import payload

Image = NDArray[np.uint8]
_CONVERSIONS = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
    "8uc1": cv2.COLOR_GRAY2RGB,
    "8uc3": cv2.COLOR_BGR2RGB,
    # OpenCV names a Bayer pattern by its second row, ROS by its first.
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}
_CHANNELS = {
    "rgb8": 3,
    "bgr8": 3,
    "8uc3": 3,
    "rgba8": 4,
    "bgra8": 4,
    "yuv422": 2,
    "uyvy": 2,
    "yuv422_yuy2": 2,
    "yuyv": 2,
}


def decode_message(message: Any, where: object) -> Image:
    """RGB picture of an Image or CompressedImage message.

    Raises:
        UnsupportedSourceError: An encoding that is not a colour or grey picture of 8 bits.
        BadImageError: It cannot be decoded.
    """
    lacking = [n for n in ("encoding", "height", "width", "step") if not hasattr(message, n)]
    if not hasattr(message, "format") and lacking:
        raise WrongFormatError("is not a picture: it lacks a field", where=where, field=lacking[0])
    if hasattr(message, "format"):
        if "compressedDepth" in str(message.format):
            raise UnsupportedSourceError("holds depth, not colours", where=where, found=message.format)
        return pictures.decode(payload(message, where), where, oriented=True)
    encoding = str(message.encoding).lower()
    if encoding != "rgb8" and encoding not in _CONVERSIONS:
        raise UnsupportedSourceError(
            "this picture encoding is not supported",
            where=where,
            expected=" | ".join(["rgb8", *_CONVERSIONS]),
            found=message.encoding,
        )
    channels = _CHANNELS.get(encoding, 1)
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.frombuffer(payload(message, where), np.uint8)
    if height < 1 or width < 1 or step < width * channels or len(data) < height * step:
        raise BadImageError(
            "holds fewer bytes than its size", where=where, expected=f"{height} rows of {step}", found=len(data)
        )
    rows = data[: height * step].reshape(height, step)[:, : width * channels]
    picture = np.ascontiguousarray(rows.reshape(height, width, channels) if channels > 1 else rows)
    return picture if encoding == "rgb8" else np.asarray(cv2.cvtColor(picture, _CONVERSIONS[encoding]))


@dataclass(frozen=True, eq=False)
class BagFrames:
    """Pictures of one topic, decoded when they are asked for; picklable.

    Args:
        path: The bag.
        topic: The topic.
        log: ``(N,)`` nanoseconds at which each message was logged, in the bag's order.
        rows: ``(M,)`` the messages that hold pictures, in the order in which these were taken.
        width: Picture width in pixels.
        height: Picture height in pixels.
        packets: Of a video: where decoding can begin.
        access: With what the bag is opened.
    """

    path: str
    topic: str
    log: NDArray[np.int64]
    rows: NDArray[np.int64]
    width: int
    height: int
    packets: PacketIndex | None = None
    access: Access = WHOLE

    @classmethod
    def open(cls, path: Path, topic: str, messages: Messages, access: Access | None = None) -> BagFrames:
        """Pictures of a topic whose stamps were read; the first is decoded for its size.

        Raises:
            WrongFormatError: A topic of something else.
            BadVideoError: A video without a key frame.
        """
        if messages.type not in IMAGE_TYPES:
            raise WrongFormatError(
                "is not a topic of pictures",
                where=path,
                field=topic,
                expected=" | ".join(IMAGE_TYPES),
                found=messages.type,
            )
        log = np.asarray(messages.log, dtype=np.int64)
        packets = None if messages.packets is None else messages.packets.index(f"{path}: {topic}")
        rows = np.arange(len(log))
        if packets is not None:
            # Packets come in the order of decoding, which is not that of the pictures where some look ahead.
            header = np.asarray(messages.header, dtype=np.int64)[packets.pictures]
            rows = packets.pictures[np.argsort(header, kind="stable")]
        found = cls(str(path), topic, log, rows, 0, 0, packets, access or WHOLE)
        first = next(found._decoded([0]))
        return cls(str(path), topic, log, rows, first.shape[1], first.shape[0], packets, access or WHOLE)

    @property
    def before_first_key(self) -> int:
        """Pictures of a video that were left out, since what they build upon was not recorded."""
        return 0 if self.packets is None else self.packets.before_first_key

    @property
    def behind_gaps(self) -> int:
        """Pictures of a video that were left out, since one that they build upon was lost."""
        return 0 if self.packets is None else self.packets.behind_gaps

    def __len__(self) -> int:
        return len(self.rows)

    def _messages(self, rows: Sequence[int]) -> Iterator[Any]:
        """The messages with the numbers ``rows`` (increasing)."""
        # The bag is read from the earliest of them on, and gives what was logged since then in its own order.
        start = int(self.log[rows[0] :].min())
        numbers = np.flatnonzero(self.log >= start)
        places = np.searchsorted(numbers, np.asarray(rows))
        with open_bag(Path(self.path), self.access) as bag:
            following = bag.messages(bag.of([self.topic]), start)
            position = 0
            for row, place in zip(rows, places.tolist(), strict=True):
                item = next(islice(following, place - position, None), None)
                position = place + 1
                if item is None:
                    raise BadFileError("ends early", where=self.path, field=f"{self.topic}[{row}]")
                channel, _, data = item
                yield bag.decode(channel, data)

    def _decoded(self, indices: Sequence[int]) -> Iterator[Image]:
        rows = [int(self.rows[i]) for i in indices]
        if not rows:
            return
        if self.packets is not None:

            def read(start: int) -> Iterator[bytes]:
                for message in self._messages(range(start, len(self.log))):
                    yield payload(message, f"{self.path}: {self.topic}")

            yield from decode_packets(self.packets, read, rows, f"{self.path}: {self.topic}")
            return
        for row, message in zip(rows, self._messages(rows), strict=True):
            yield decode_message(message, f"{self.path}: {self.topic}[{row}]")

    def frames(self, indices: Sequence[int]) -> Iterator[Image]:
        """RGB pictures at ``indices`` (increasing)."""
        for index, picture in zip(indices, self._decoded(indices), strict=True):
            if picture.shape[:2] != (self.height, self.width):
                raise BadImageError(
                    "has another size than the first",
                    where=f"{self.path}: {self.topic}[{index}]",
                    expected=f"{self.width}x{self.height}",
                    found=f"{picture.shape[1]}x{picture.shape[0]}",
                )
            yield picture

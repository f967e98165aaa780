"""Pictures that carry their own number in black and white blocks, so that a lost or shifted one is seen."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 20
MS = Fraction(1, 1000)


def picture(number: int, size: int = 64) -> np.ndarray:
    """RGB ``(size, size, 3)``: bit k of ``number`` is block k of 4x4, row by row."""
    bits = np.array([230 if number >> k & 1 else 25 for k in range(16)], np.uint8).reshape(4, 4)
    return np.repeat(np.kron(bits, np.ones((size // 4, size // 4), np.uint8))[..., None], 3, axis=2)


def number(seen: np.ndarray) -> int:
    """The number of a picture that was made by `picture`, perhaps compressed since."""
    height, width = seen.shape[0] // 4, seen.shape[1] // 4
    blocks = seen.reshape(4, height, 4, width, -1).mean((1, 3, 4)).reshape(-1)
    return sum(1 << k for k, level in enumerate(blocks) if level > 128)


def write_numbered(
    path: Path,
    count: int,
    codec: str = "libx264",
    format: str | None = None,
    stamps_ms: Sequence[int] | None = None,
    **options: str,
) -> None:
    """A video of pictures 0 … ``count - 1``; ``stamps_ms`` in place of an even 20 Hz."""
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        if stamps_ms is not None:
            stream.codec_context.time_base = MS
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
            if stamps_ms is not None:
                frame.pts, frame.time_base = stamps_ms[i], MS
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def damage_in_the_middle(path: Path) -> None:
    """Put other bytes into an H.264 video, behind what is probed on opening.

    It has no checksums, but a frame's length among them is always noticed.
    """
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.rindex(b"moov") - 4
    middle = start + 5 * (end - start) // 8
    data[middle : middle + 1000] = np.random.default_rng(5).bytes(1000)
    path.write_bytes(bytes(data))

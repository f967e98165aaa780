"""Encode pictures one at a time, to bytes that are the same in every run.

H.264 is written as yuv420p, BT.601, limited range, and tagged so: readers that follow the tags and readers that assume
ffmpeg's defaults give the same colours. swscale's bicubic filter, without its FULL_CHR_H flags, is used in both
directions; with them chroma lands 0.36 px beside luma at 512 px (measured on blobs with known centres).
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import IO, Any, Final, Literal

import av
import av.error
import av.video.reformatter
import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import BadVideoError

Image = NDArray[np.uint8]
Codec = Literal["h264", "ffv1", "png"]

ENDINGS: Final[Mapping[str, str]] = {"h264": "mp4", "ffv1": "mkv", "png": "zip"}
"""File ending of each codec. FFV1 goes into Matroska, the only container that is standardised for it (RFC 9043);
PNG into a stored zip of ``000000.png`` …, which needs no video library to read and gives every frame by itself."""

SAME_ON_EVERY_CPU: Final = "cpu-independent=1"
"""x264's own switch. Without it AVX-512 reads what was never written where w/16 is no multiple of 8 (224, 320), and
SSE2 gives other bytes than AVX2; it costs 0.93 to 1.05 of the time and under 1 % of the size."""

GOP: Final = 250
"""Frames from keyframe to keyframe: GOP 8 takes 2.9 times the bytes (docs/performance.md)."""

MAX_RATE_DENOMINATOR: Final = 1001
INTERPOLATION: Final = "BICUBIC"
_ITU601: Final = 5
_SMPTE170M: Final = 6
_LIMITED: Final = 1


@dataclass(frozen=True)
class Encoding:
    """How a video is encoded.

    Args:
        codec: ``h264`` (mp4), ``ffv1`` (mkv, lossless) or ``png`` (zip, lossless).
        crf: x264's constant rate factor; lossless codecs do not look at it.
        gop: Frames from keyframe to keyframe (h264, ffv1).
        options: Further options of the encoder.
        pixels: ``rgb24``, or ``gray16le`` (ffv1 only): pictures ``(H, W)`` uint16.
    """

    codec: Codec
    crf: int = 18
    gop: int = GOP
    options: Mapping[str, str] = field(default_factory=dict)
    pixels: Literal["rgb24", "gray16le"] = "rgb24"

    @property
    def ending(self) -> str:
        """File ending without the dot."""
        return ENDINGS[self.codec]


def rgb_encoding(crf: int = 18, preset: str = "veryfast") -> Encoding:
    """How camera pictures are encoded: x264 "veryfast", half the time of "medium" for equal bytes and −0.7 dB.

    Faster presets and what they cost are in docs/performance.md.
    """
    return Encoding("h264", crf, options={"preset": preset})


def action_encoding(codec: Codec, crf: int = 18) -> Encoding:
    """How action images are encoded: x264 "fast" without B-frames.

    Over 125 frames of blobs with known centres, crf 18: 50 kB and 0.040 / 0.082 px (median / p95), against 47 kB and
    0.045 / 0.105 px of "medium" with B-frames and 51 kB and 0.060 / 0.198 px of "veryfast".
    """
    return Encoding(codec, crf, options={"preset": "fast", "bf": "0"} if codec == "h264" else {})


def plane_encoding(kind: str) -> Encoding:
    """How depth (``gray16le``) and masks (ids as RGB, see `mask_pictures`) are encoded: FFV1, each frame by itself.

    41 depth pictures of a real demo at 512x512: 208 kB, against 229 kB as PNG at level 6 (twice the time) and 355 kB
    at level 3; masks 95 kB, against 115 kB and 264 kB. Frames that build on each other would save 5 % and cost every
    reader of a window in the middle the frames before it.
    """
    return Encoding("ffv1", gop=1, pixels="gray16le" if kind == "depth" else "rgb24")


def mask_pictures(masks: Iterable[NDArray[np.uint16] | NDArray[np.uint32]]) -> Iterator[Image]:
    """Ids ``(H, W)`` as RGB ``(H, W, 3)`` uint8: id = R + 256 G + 65536 B, as RLBench writes its masks."""
    for ids in masks:
        parts = np.ascontiguousarray(ids, "<u4").view(np.uint8).reshape(*ids.shape, 4)
        yield np.ascontiguousarray(parts[..., :3])


def mask_ids(picture: Image) -> NDArray[np.uint32]:
    """The ids ``(..., H, W)`` uint32 of a mask's RGB picture ``(..., H, W, 3)``; the inverse of `mask_pictures`."""
    wide = picture.astype(np.uint32)
    return np.asarray(wide[..., 0] | wide[..., 1] << 8 | wide[..., 2] << 16, np.uint32)


@cache
def x264_build() -> str:
    """Which x264 encodes here, as it writes into its streams: ``core 165 r3222``; empty where there is none."""
    try:
        stream = encode_bytes([np.zeros((16, 16, 3), np.uint8)], Encoding("h264"), 1, 16, 16)
    except BadVideoError:
        return ""
    found = re.search(rb"x264 - (core \d+(?: r\d+)?)", stream)
    return "" if found is None else found.group(1).decode()


def frame_rate(fps: float | Fraction) -> Fraction:
    """``fps`` as a fraction a container can hold: 20/3 for 6.666…, 30000/1001 for 29.97…."""
    rate = Fraction(fps).limit_denominator(MAX_RATE_DENOMINATOR)
    if rate <= 0:
        raise BadVideoError("must be positive", field="fps", found=fps)
    return rate


def encode(
    frames: Iterable[NDArray[Any]],
    file: IO[bytes],
    encoding: Encoding,
    fps: float | Fraction,
    height: int,
    width: int,
) -> int:
    """Encode pictures into a seekable binary file.

    Args:
        frames: RGB ``(height, width, 3)`` uint8, or as ``encoding.pixels`` says, taken one at a time.
        file: Written from its current start; has to be empty.
        encoding: Codec and settings.
        fps: Frames per second.
        height: Picture height in pixels.
        width: Picture width in pixels.

    Returns:
        The number of frames.

    Raises:
        BadVideoError: No frames, a frame of another shape, an odd size with h264, or the encoder failed.
    """
    if encoding.codec == "h264" and (height % 2 or width % 2):
        raise BadVideoError(
            "h264 with yuv420p needs an even width and height",
            expected=f"{width + width % 2}x{height + height % 2}",
            found=f"{width}x{height}",
            hint="ffv1 and png take any size.",
        )
    checked = _checked(frames, height, width, encoding.pixels)
    count = _write_zip(checked, file) if encoding.codec == "png" else _mux(checked, file, encoding, fps, height, width)
    if count == 0:
        raise BadVideoError("has no frames", expected="at least 1")
    return count


def encode_bytes(
    frames: Iterable[NDArray[Any]], encoding: Encoding, fps: float | Fraction, height: int, width: int
) -> bytes:
    """`encode` into memory."""
    buffer = io.BytesIO()
    encode(frames, buffer, encoding, fps, height, width)
    return buffer.getvalue()


def _checked(frames: Iterable[NDArray[Any]], height: int, width: int, pixels: str) -> Iterator[NDArray[Any]]:
    kind, shape = ("uint8", (height, width, 3)) if pixels == "rgb24" else ("uint16", (height, width))
    for i, frame in enumerate(frames):
        if frame.dtype != kind or frame.shape != shape:
            raise BadVideoError(
                "picture has the wrong shape",
                field=f"frame {i}",
                expected=f"{kind} {shape}",
                found=f"{frame.dtype} {frame.shape}",
            )
        yield frame


def _mux(
    frames: Iterator[NDArray[Any]],
    file: IO[bytes],
    encoding: Encoding,
    fps: float | Fraction,
    height: int,
    width: int,
) -> int:
    lossy = encoding.codec == "h264"
    rate = frame_rate(fps)
    count = 0
    try:
        # Without +bitexact Matroska gets a random segment id and both get a version string.
        with av.open(file, "w", format="mp4" if lossy else "matroska", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream("libx264" if lossy else "ffv1", rate=rate)
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuv420p" if lossy else {"rgb24": "bgr0"}.get(encoding.pixels, encoding.pixels)
            context = stream.codec_context
            context.time_base = 1 / rate
            context.gop_size = encoding.gop
            # x264's bytes depend on the number of threads: parallelism is over shards, not within one video.
            context.thread_count = 1
            context.bit_rate = 0
            if lossy:
                context.colorspace = context.color_primaries = context.color_trc = _SMPTE170M
                context.color_range = _LIMITED
                context.options = {"crf": str(encoding.crf), "x264-params": SAME_ON_EVERY_CPU, **encoding.options}
            else:
                context.options = {
                    "level": "3",
                    "slices": "4",
                    "slicecrc": "1",
                    "flags": "+bitexact",
                    **encoding.options,
                }
            convert = av.video.reformatter.VideoReformatter()
            for count, picture in enumerate(frames, 1):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=encoding.pixels)
                if lossy:
                    frame = convert.reformat(
                        frame,
                        format="yuv420p",
                        dst_colorspace=_ITU601,
                        dst_color_range=_LIMITED,
                        interpolation=INTERPOLATION,
                        threads=1,
                    )
                elif encoding.pixels == "rgb24":
                    frame = convert.reformat(frame, format="bgr0", threads=1)
                frame.pts = count - 1
                frame.time_base = 1 / rate
                container.mux(stream.encode(frame))
            if count:
                container.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        raise BadVideoError(f"cannot encode: {error}", field=encoding.codec) from error
    return count


def _write_zip(frames: Iterator[NDArray[Any]], file: IO[bytes]) -> int:
    count = 0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for count, frame in enumerate(frames, 1):
            good, data = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            if not good:
                raise BadVideoError("cannot encode", field=f"png frame {count - 1}")
            entry = zipfile.ZipInfo(f"{count - 1:06d}.png")
            entry.create_system = 3
            archive.writestr(entry, data.tobytes())
    return count

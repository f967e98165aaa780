"""Video files: which containers are opened, and whether their tables can be true."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from typing import IO, Final

from ..errors import BadVideoError
from .files import open_plain
from .sizes import MAX_PIXELS

MAX_VIDEO_FRAMES: Final = 4_000_000
"""Most frames of one video file: 37 hours at 30 Hz."""

VIDEO_OPTIONS: Final = {
    # Playlists and lists of files (hls, dash, concat, …) would open other files, or the network.
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,nut,ivf,h264,hevc,obu,gif",
    "protocol_whitelist": "file",
    # Holds for the probing of the file as well, in which ffmpeg decodes a few frames.
    "max_pixels": str(MAX_PIXELS),
}
"""What a video is opened with: containers that hold their own pictures, and pictures of a size that a camera makes."""

DECODER_OPTIONS: Final = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
"""What its decoder is opened with: damaged data is an error, not a picture to be guessed."""

_NESTED = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex", b"edts"}
_MAX_BOXES = 1_000_000


def check_mp4(source: bytes | str | os.PathLike[str], where: object) -> None:
    """Refuse an MP4 (or MOV) whose tables claim more pictures than its bytes can hold; ffmpeg makes room for them.

    Only the headers of its boxes are read. Other files pass.

    Raises:
        BadVideoError: Samples without bytes, more than `MAX_VIDEO_FRAMES`, or a compressed header.
    """
    if isinstance(source, bytes):
        file: IO[bytes] = io.BytesIO(source)
        size = len(source)
    else:
        file = open_plain(source)
        size = os.fstat(file.fileno()).st_size
    with file:
        if file.read(8)[4:] not in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"):
            return
        audio, total = False, 0
        for kind, body in _boxes(file, size, where):
            if kind == b"hdlr" and len(body) >= 12:
                audio = body[8:12] == b"soun"
            elif kind == b"cmov":
                raise BadVideoError("has a compressed header, which is not read", where=where, field="cmov")
            elif kind == b"stsz" and len(body) >= 12:
                each, count = struct.unpack_from(">II", body, 4)
                # Sound has a sample for each of its thousands of values a second, which all have bytes too.
                if each * count > size or (not audio and count > MAX_VIDEO_FRAMES):
                    raise _too_many(count, size, where)
            elif kind in (b"stz2", b"trun") and len(body) >= 12:
                count = int.from_bytes(body[8:12] if kind == b"stz2" else body[4:8], "big")
                total += count
                if total > min(size, MAX_VIDEO_FRAMES if not audio else size):
                    raise _too_many(total, size, where)


def _too_many(count: int, size: int, where: object) -> BadVideoError:
    return BadVideoError(
        "claims more frames than it can hold",
        where=where,
        expected=f"≤ {MAX_VIDEO_FRAMES} in {size} bytes",
        found=f"{count} frames",
    )


def _boxes(file: IO[bytes], size: int, where: object) -> Iterator[tuple[bytes, bytes]]:
    """Kind and first bytes of every box outside the media data (ISO/IEC 14496-12, 4.2)."""
    ends = [size]
    position = 0
    for _ in range(_MAX_BOXES):
        while ends and position + 8 > ends[-1]:
            position = ends.pop()
        if not ends:
            return
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            return
        length, kind, start = int.from_bytes(head[:4], "big"), head[4:8], 8
        if length == 1:
            length, start = int.from_bytes(head[8:16], "big"), 16
        end = ends[-1] if length == 0 else min(position + length, ends[-1])
        if length != 0 and length < start:
            return
        if kind in _NESTED and len(ends) < 16:
            ends.append(end)
            position += start
            continue
        file.seek(position + start)
        yield kind, file.read(min(16, max(0, end - position - start)))
        position = end
    raise BadVideoError("has too many boxes", where=where, expected=f"≤ {_MAX_BOXES}")

"""Videos without a container: packets one by one, a picture in each, as robots' recorders log them.

Where decoding can begin is seen from the bytes: the kinds of the NAL units of H.264 (ITU-T H.264, table 7-1) and H.265
(H.265, table 7-1), the units of AV1 (AV1 specification, 5.3) and the frame header of VP9 (VP9 specification, 6.2).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar, Final

import av
import av.error
import av.video.reformatter
import numpy as np
from numpy.typing import NDArray

from ..errors import BadVideoError
from ..untrusted.sizes import SIZES, sensible_size
from ..untrusted.videos import DECODER_OPTIONS, VIDEO_OPTIONS, check_mp4
from .read import rgb_picture

_NAMES: Final = (
    (re.compile(r"h264|x264|avc"), "h264"),
    (re.compile(r"h265|x265|hevc"), "hevc"),
    (re.compile(r"av1"), "av1"),
    (re.compile(r"vp9"), "vp9"),
)
_DECODERS: Final = {"av1": "libdav1d"}
_MAX_DELAY: Final = 32
"""Packets after a picture's own until it must have come out of the decoder: H.264 and H.265 keep at most 16 back."""


def codec_named(text: str) -> str | None:
    """The codec that a recorder names, e.g. ``h264``, ``h.265``, ``libx264``, ``hevc_nvenc``; None for pictures.

    Of ``ENCODER;FORMAT;…`` only the encoder counts.
    """
    name = re.split(r"[;,\s]", text.strip().lower().replace(".", ""))[0]
    return next((codec for pattern, codec in _NAMES if pattern.search(name)), None)


def h264_packets(video: bytes, where: object) -> list[bytes] | None:
    """The pictures of an MP4 of H.264 as packets with start codes (Annex B), one a picture, parameter sets included.

    Returns:
        The packets, in order; None where pictures are stored in another order than they are shown.

    Raises:
        BadVideoError: It is damaged, or no H.264.
    """
    check_mp4(video, where)
    try:
        with av.open(io.BytesIO(video), "r", options=VIDEO_OPTIONS) as container:
            stream = container.streams.video[0]
            if stream.codec_context.name != "h264":
                raise BadVideoError("is no H.264", where=where, found=stream.codec_context.name)
            packets = [packet for packet in container.demux(stream) if packet.size]
            if any(packet.pts != packet.dts for packet in packets):
                return None
            convert = av.BitStreamFilterContext("h264_mp4toannexb", stream)
            return [bytes(made) for packet in packets for made in convert.filter(packet)]
    except (av.error.FFmpegError, IndexError) as error:
        raise BadVideoError("cannot be read", where=where, found=error) from None


@dataclass(frozen=True)
class PacketIndex:
    """Which packets of a stream hold pictures, and where decoding can begin.

    Args:
        codec: As ffmpeg names it.
        pictures: ``(N,)`` numbers of the packets whose pictures can be decoded, in the order of the packets.
        keys: ``(K,)`` numbers of the packets at which decoding can begin.
        setup: For each key the parameter sets that came before it, where its own packet has none.
        before_first_key: Pictures that came before decoding could begin, or need ones that did.
        behind_gaps: Pictures of H.264 that build upon one that was lost, up to the next key frame.
    """

    codec: str
    pictures: NDArray[np.int64]
    keys: NDArray[np.int64]
    setup: tuple[bytes, ...]
    before_first_key: int
    behind_gaps: int = 0


@dataclass(frozen=True)
class _Packet:
    """What a packet is.

    Args:
        picture: It holds one.
        key: Decoding can begin at it.
        setup: The parameter sets in it.
        begins: They are whole: with those of the sequence.
        leading: It is shown before the key frame that it comes behind.
        gap: A picture that others build upon was lost before it.
    """

    picture: bool
    key: bool = False
    setup: bytes = b""
    begins: bool = False
    leading: bool = False
    gap: bool = False

    @property
    def refresh(self) -> bool:
        """Whether it has all that a decoder has to be told, beside a picture."""
        return self.picture and self.begins


class PacketScan:
    """Takes the packets of a stream in order, and makes its `PacketIndex`.

    Args:
        codec: As `codec_named` gives it.
    """

    def __init__(self, codec: str) -> None:
        self.codec = codec
        self._packets: list[_Packet] = []
        self._setup: dict[int, bytes] = {}
        self._last = b""
        self._numbers = _FrameNumbers()

    def add(self, data: bytes) -> None:
        """The next packet."""
        packet = _LOOK[self.codec](data)
        if self.codec == "h264":
            packet = replace(packet, gap=self._numbers.gap(data))
        if packet.key or packet.refresh:
            self._setup[len(self._packets)] = b"" if packet.refresh else self._last
        if packet.setup:
            self._last = packet.setup if packet.begins else self._last + packet.setup
        self._packets.append(replace(packet, setup=b""))

    def index(self, where: object) -> PacketIndex:
        """What was found.

        Raises:
            BadVideoError: No packet at which decoding could begin.
        """
        keys = [i for i, p in enumerate(self._packets) if p.key]
        # An encoder that refreshes its picture bit by bit sends no key frames; its parameter sets mark a beginning.
        keys = keys or [i for i, p in enumerate(self._packets) if p.refresh]
        if not keys:
            raise BadVideoError("has no key frame, at which decoding could begin", where=where, found=self.codec)
        pictures, lost, behind = [], 0, 0
        starts, broken = set(keys), False
        # What is shown before the first key frame but sent behind it needs pictures that were not recorded.
        leading = True
        for i, packet in enumerate(self._packets):
            if not packet.picture:
                continue
            if i > keys[0] and not packet.leading:
                leading = False
            broken = (broken or packet.gap) and i not in starts
            if i < keys[0] or (packet.leading and leading):
                lost += 1
            elif broken:
                behind += 1
            else:
                pictures.append(i)
        return PacketIndex(
            self.codec,
            np.asarray(pictures, np.int64),
            np.asarray(keys, np.int64),
            tuple(self._setup[k] for k in keys),
            lost,
            behind,
        )


def decode_packets(
    index: PacketIndex, read: Callable[[int], Iterator[bytes]], wanted: Sequence[int], where: object
) -> Iterator[NDArray[np.uint8]]:
    """RGB pictures ``(H, W, 3)`` of the packets with the numbers ``wanted``, in the order in which they are shown.

    Decoding begins at the key frame before the first of them, and again at a later one where that is nearer.

    Args:
        index: Of the stream.
        read: Gives the packets from a number on.
        wanted: Numbers of packets that hold pictures.
        where: For errors.

    Raises:
        BadVideoError: A packet is damaged, or missing.
    """
    run: _Run | None = None
    left = set(wanted)
    for number in wanted:
        at = int(np.searchsorted(index.keys, number, side="right")) - 1
        if run is None or index.keys[at] > run.fed:
            run = _Run(index, at, read, left, where)
        picture = run.until(number)
        # A picture that is shown before its key frame may need ones of the key frame before that.
        while picture is None and run.at > 0:
            run = _Run(index, min(at, run.at) - 1, read, left, where)
            picture = run.until(number)
        if picture is None:
            raise BadVideoError("has no picture for a packet", where=where, field=f"packet {number}")
        left.discard(number)
        yield picture


class _Run:
    """Decoding from one key frame on."""

    def __init__(
        self,
        index: PacketIndex,
        at: int,
        read: Callable[[int], Iterator[bytes]],
        left: set[int],
        where: object,
    ) -> None:
        self.at, self.where, self._left = at, where, left
        self.fed = int(index.keys[at])
        self._context: Any = av.CodecContext.create(_DECODERS.get(index.codec, index.codec), "r")
        self._context.thread_count = 1
        self._context.options = DECODER_OPTIONS
        self._packets = read(self.fed)
        self._setup = index.setup[at]
        self._ready: dict[int, Any] = {}
        self._ended = False
        self._convert = av.video.reformatter.VideoReformatter()

    def until(self, number: int) -> NDArray[np.uint8] | None:
        """The picture of a packet, or None where the decoder does not give it."""
        while number not in self._ready:
            if self._ended or self.fed > number + _MAX_DELAY:
                return None
            try:
                frames = self._decode(next(self._packets, None))
            except (av.error.FFmpegError, ValueError) as error:
                raise BadVideoError(
                    f"cannot be decoded: {error}", where=self.where, field=f"packet {self.fed - 1}"
                ) from None
            self._ready.update({f.pts: f for f in frames if f.pts in self._left})
        frame = self._ready.pop(number)
        if not sensible_size(frame.width, frame.height):
            raise BadVideoError(
                "bad picture size", where=self.where, expected=SIZES, found=f"{frame.width}x{frame.height}"
            )
        return rgb_picture(self._convert, frame)

    def _decode(self, data: bytes | None) -> list[Any]:
        if data is None:
            self._ended = True
            return list(self._context.decode(None))
        packet = av.Packet(self._setup + data)
        self._setup = b""
        packet.pts = packet.dts = self.fed
        packet.time_base = Fraction(1, 1000)
        self.fed += 1
        return list(self._context.decode(packet))


def _units(data: bytes) -> Iterator[tuple[int, int]]:
    """First byte and end of each NAL unit behind a start code (H.264 and H.265, annex B)."""
    at = data.find(b"\0\0\1")
    while at >= 0:
        following = data.find(b"\0\0\1", at + 3)
        if at + 3 < len(data):
            yield at + 3, len(data) if following < 0 else following
        at = following


def _h264(data: bytes) -> _Packet:
    kinds = [(data[start] & 0x1F, start, end) for start, end in _units(data)]
    found = {kind for kind, _, _ in kinds}
    setup = b"".join(b"\0\0\0\1" + data[a:b] for kind, a, b in kinds if kind in (7, 8))
    return _Packet(any(1 <= kind <= 5 for kind in found), 5 in found, setup, 7 in found)


class _Bits:
    """Bits of a NAL unit (H.264, 7.2 and 9.1)."""

    def __init__(self, unit: bytes) -> None:
        # A byte 3 behind two zeros keeps start codes out of a unit (7.4.1).
        raw = unit.replace(b"\0\0\3", b"\0\0")
        self._value, self._left = int.from_bytes(raw, "big"), 8 * len(raw)

    def u(self, count: int) -> int:
        """The next bits as a number."""
        self._left -= count
        if self._left < 0:
            raise ValueError("ends early")
        return self._value >> self._left & ((1 << count) - 1)

    def ue(self) -> int:
        """The next Exp-Golomb code."""
        zeros = 0
        while not self.u(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("is no Exp-Golomb code")
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        """The next signed Exp-Golomb code."""
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)


class _FrameNumbers:
    """Follows the numbers of H.264's reference pictures, of which none may be missing (7.4.3, ``frame_num``)."""

    _HIGH: ClassVar = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))

    def __init__(self) -> None:
        self._width = 0
        self._planes = self._may_miss = False
        self._previous: int | None = None

    def gap(self, data: bytes) -> bool:
        """Whether a reference picture is missing before the picture in a packet."""
        found = False
        for start, end in _units(data):
            kind = data[start] & 0x1F
            try:
                if kind == 7:
                    self._take_sequence(_Bits(data[start + 1 : end]))
                elif kind in (1, 5) and self._width:
                    # The header of a slice begins with what is asked for here.
                    found |= self._follow(
                        _Bits(data[start + 1 : min(end, start + 33)]), kind == 5, data[start] >> 5 & 3
                    )
            except ValueError:
                return found  # what is damaged is told by the decoder
        return found

    def _follow(self, bits: _Bits, fresh: bool, used: int) -> bool:
        bits.ue(), bits.ue(), bits.ue()
        if self._planes:
            bits.u(2)
        number, before = bits.u(self._width), self._previous
        if fresh:
            self._previous = number
            return False
        following = before is not None and number in (before, (before + 1) % (1 << self._width))
        if used:
            self._previous = number
        return before is not None and not following and not self._may_miss

    def _take_sequence(self, bits: _Bits) -> None:
        """From a sequence parameter set (7.3.2.1.1) what is needed to read the numbers."""
        profile = bits.u(8)
        bits.u(16)
        bits.ue()
        planes = False
        if profile in self._HIGH:
            chroma = bits.ue()
            planes = chroma == 3 and bool(bits.u(1))
            bits.ue(), bits.ue(), bits.u(1)
            if bits.u(1):
                for i in range(12 if chroma == 3 else 8):
                    if bits.u(1):
                        self._skip_list(bits, 16 if i < 6 else 64)
        width = bits.ue() + 4
        order = bits.ue()
        if order == 0:
            bits.ue()
        elif order == 1:
            bits.u(1), bits.se(), bits.se()
            for _ in range(min(bits.ue(), 255)):
                bits.se()
        bits.ue()
        self._width, self._planes, self._may_miss = min(width, 16), planes, bool(bits.u(1))

    @staticmethod
    def _skip_list(bits: _Bits, size: int) -> None:
        last = following = 8
        for _ in range(size):
            if following:
                following = (last + bits.se() + 256) % 256
            last = following or last


def _hevc(data: bytes) -> _Packet:
    kinds = [(data[start] >> 1 & 0x3F, start, end) for start, end in _units(data)]
    found = {kind for kind, _, _ in kinds}
    setup = b"".join(b"\0\0\0\1" + data[a:b] for kind, a, b in kinds if kind in (32, 33, 34))
    key = any(16 <= kind <= 23 for kind in found)
    return _Packet(any(kind < 32 for kind in found), key, setup, 33 in found, bool(found & {8, 9}))


def _av1(data: bytes) -> _Packet:
    kinds, at = [], 0
    while at < len(data):
        kind, extended, sized = data[at] >> 3 & 15, data[at] >> 2 & 1, data[at] >> 1 & 1
        at += 1 + extended
        kinds.append(kind)
        if not sized:
            break
        length = shift = 0
        while at < len(data):
            byte = data[at]
            length |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if not byte & 0x80 or shift > 56:
                break
        at += length
    # A sequence header comes with every key frame; frames are whole (6) or begin with their header (3).
    picture = 6 in kinds or 3 in kinds
    return _Packet(picture, 1 in kinds and picture)


def _vp9(data: bytes) -> _Packet:
    if not data or data[0] >> 6 != 2:
        return _Packet(False)
    profile = (data[0] >> 5 & 1) | (data[0] >> 4 & 1) << 1
    rest = data[0] << (1 if profile == 3 else 0)
    existing, inter = rest >> 3 & 1, rest >> 2 & 1
    return _Packet(True, not existing and not inter)


_LOOK: Final[dict[str, Callable[[bytes], _Packet]]] = {"h264": _h264, "hevc": _hevc, "av1": _av1, "vp9": _vp9}

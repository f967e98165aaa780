"""CRC-32C (Castagnoli, RFC 3720 appendix B.4) and TFRecord's masked form of it.

google-crc32c (extra ``rlds``) uses the processor's instruction; without it the checksum is computed with numpy and
still checked, at roughly a hundredth of the speed.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

try:
    from google_crc32c import value as _hardware_crc32c
except ImportError:
    _hardware_crc32c = None

_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8
_WORDS = NDArray[np.uint32]


@cache
def _table(bits: int) -> _WORDS:
    """The register's change for each value of the next ``bits`` bits."""
    table = np.arange(1 << bits, dtype=np.uint32)
    for _ in range(bits):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


@cache
def _table_list() -> list[int]:
    return [int(v) for v in _table(8)]


def _times(columns: _WORDS, vectors: _WORDS) -> _WORDS:
    """Product of a 32x32 matrix over GF(2), given by its columns ``(32,)``, with vectors ``(N,)``."""
    bits = (vectors[:, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    return np.asarray(np.bitwise_xor.reduce(bits * columns, axis=1))


def _zeros_matrix(count: int) -> _WORDS:
    """The matrix that ``count`` zero bytes multiply the register by, as columns ``(32,)``."""
    columns = np.uint32(1) << np.arange(32, dtype=np.uint32)
    power = (columns >> np.uint32(8)) ^ _table(8)[columns & 0xFF]
    while count:
        if count & 1:
            columns = _times(power, columns)
        power = _times(power, power)
        count >>= 1
    return columns


def _bytewise(state: int, data: bytes) -> int:
    table = _table_list()
    for byte in data:
        state = (state >> 8) ^ table[(state ^ byte) & 0xFF]
    return state


def crc32c_numpy(data: NDArray[np.uint8]) -> int:
    """CRC-32C of bytes ``(N,)``: of many stretches at a time, which are joined as if by appending zeros.

    The CRC is linear, so the register after A and B is the one after A and as many zeros as B has bytes, xor the one
    of B begun at 0.
    """
    if len(data) < 1024:
        return _bytewise(0xFFFFFFFF, data.tobytes()) ^ 0xFFFFFFFF
    lanes = 1 << ((len(data).bit_length() - 1) // 2)
    length = len(data) // lanes & ~1
    words = np.ascontiguousarray(data[: lanes * length]).view("<u2").reshape(lanes, -1).T.astype(np.uint32)
    table = _table(16)
    crc = np.zeros(lanes, np.uint32)
    crc[0] = 0xFFFFFFFF
    for row in words:
        crc = (crc >> np.uint32(16)) ^ table[(crc ^ row) & np.uint32(0xFFFF)]
    zeros = _zeros_matrix(length)
    while len(crc) > 1:
        crc = _times(zeros, crc[0::2]) ^ crc[1::2]
        zeros = _times(zeros, zeros)
    return _bytewise(int(crc[0]), data[lanes * length :].tobytes()) ^ 0xFFFFFFFF


def crc32c(data: NDArray[np.uint8]) -> int:
    """CRC-32C of bytes ``(N,)``."""
    return crc32c_numpy(data) if _hardware_crc32c is None else int(_hardware_crc32c(data))


def masked_crc32c(data: NDArray[np.uint8]) -> int:
    """The form that TFRecord stores: rotated right by 15 bits, plus a constant (tensorflow/core/lib/hash/crc32c.h)."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF

"""Luma and chroma of RGB (ITU-R BT.601, full range, as JFIF has them), in grey levels; chroma about 0.

A video codec keeps luma at full resolution and chroma at half, so what has to be told apart pixel by pixel is luma.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace

Array = Any


def rgb_from_ycc(luma: Array, blue: Array, red: Array) -> Array:
    """RGB ``(..., 3)`` as floats, in grey levels, of luma and the two differences of colour ``(...)``."""
    xp = array_namespace(luma, blue, red)
    return xp.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1)


def ycc_from_rgb(rgb: Array) -> tuple[Array, Array, Array]:
    """Luma, blue and red difference ``(...)`` of RGB ``(..., 3)`` in grey levels."""
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    return luma, (b - luma) / 1.772, (r - luma) / 1.402


def in_gamut(luma: float, blue: float, red: float) -> bool:
    """Whether a colour is one of RGB."""
    rgb = rgb_from_ycc(*(np.float64(value) for value in (luma, blue, red)))
    return bool(((rgb >= 0) & (rgb <= 255)).all())


def grey_levels(pictures: Array) -> Array:
    """Pictures of uint8, or of floats in [0, 1], as floats in grey levels."""
    xp = array_namespace(pictures)
    if xp.isdtype(pictures.dtype, "real floating"):
        return pictures * 255
    return xp.astype(pictures, xp.float32)

"""``actionimg_data.torch``: the renderer and the decoder as functions that gradients flow through."""

from __future__ import annotations

from .decode.torch_arms import decode_arms
from .decode.torch_backend import decode
from .raster.torch_backend import render

__all__ = ["decode", "decode_arms", "render"]

"""Converters: demonstrations of any lab in, `actionimg_data.model.Episode` out."""

from __future__ import annotations

from .base import Converter, ConverterOptions, Detection, Streams, converter_class, detect, names
from .remote import SourceReader

__all__ = [
    "Converter",
    "ConverterOptions",
    "Detection",
    "SourceReader",
    "Streams",
    "converter_class",
    "detect",
    "names",
]

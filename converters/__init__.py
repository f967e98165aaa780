"""Converters: demonstrations of any lab in, `actionimg_data.model.Episode` out."""

from __future__ import annotations

from .base import Converter, ConverterOptions, Detection, converter_class, detect, names

__all__ = ["Converter", "ConverterOptions", "Detection", "converter_class", "detect", "names"]

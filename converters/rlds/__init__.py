"""RLDS data sets as TensorFlow Datasets writes them, read without TensorFlow."""

from __future__ import annotations

from .converter import RLDSConverter

__all__ = ["RLDSConverter"]

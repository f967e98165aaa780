"""RLDS data sets as TensorFlow Datasets writes them, read without TensorFlow."""

from __future__ import annotations

from .converter import RLDSConverter, RLDSOptions
from .reader import RLDSDataset, open_rlds

__all__ = ["RLDSConverter", "RLDSDataset", "RLDSOptions", "open_rlds"]

"""Torch data sets over action-image shards, and what a training step does with their samples on the device."""

from __future__ import annotations

from . import modes
from .batch import DeviceTransform, collate
from .datasets import ActionImageDataset, ConcatActionImageDataset, IndexedActionImageDataset, SkippedSampleWarning
from .options import SampleOptions, StreamOptions, UnusualWindowWarning

__all__ = [
    "ActionImageDataset",
    "ConcatActionImageDataset",
    "DeviceTransform",
    "IndexedActionImageDataset",
    "SampleOptions",
    "SkippedSampleWarning",
    "StreamOptions",
    "UnusualWindowWarning",
    "collate",
    "modes",
]

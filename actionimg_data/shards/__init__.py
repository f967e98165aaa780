"""Shards: plan them, write them, read them, and hold them against what was promised."""

from __future__ import annotations

from ..cameras.tracks import read_cameras_npz
from .manifest import assemble, read_manifest
from .plan import Plan, make_plan
from .prepare import Recipe
from .read import Dataset, Sample, open_dataset
from .window import Window
from .write import write_shard

__all__ = [
    "Dataset",
    "Plan",
    "Recipe",
    "Sample",
    "Window",
    "assemble",
    "make_plan",
    "open_dataset",
    "read_cameras_npz",
    "read_manifest",
    "write_shard",
]

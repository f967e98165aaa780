"""The converter of RLDS data sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from ...errors import UnsupportedSourceError
from ...model import Episode, EpisodeRef
from ..base import Converter, Detection
from . import layout


class RLDSConverter(Converter):
    """Any RLDS data set that TensorFlow Datasets wrote, read without TensorFlow."""

    name: ClassVar[str] = "rlds"
    summary: ClassVar[str] = "RLDS / Open X-Embodiment data sets as TensorFlow Datasets writes them"

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether ``source`` is, or holds, a folder with TFDS' features.json and dataset_info.json."""
        found = layout.find_all(Path(source))
        if not found:
            return None
        names = sorted({f.name for f in found})
        return Detection("TFDS", f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}")

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """References to the episodes of the chosen split, in file order."""
        raise UnsupportedSourceError("the RLDS reader is being built", where=source)

    def read(self, ref: EpisodeRef) -> Episode:
        """One episode."""
        raise UnsupportedSourceError("the RLDS reader is being built", where=ref.id)

"""Training samples in Megatron-Energon: a cooker for its ``CrudeWebdataset``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import CorruptDatasetError
from .datasets import Sample
from .options import SampleOptions
from .sample import SampleReader
from .source import open_sources


class Cook:
    """Makes the samples of `ActionImageDataset` out of raw ones: ``cookers = [Cooker(Cook(path, num_frames=41))]``.

    The task encoder must leave members as they are (``decoder = None``). Windows, views and modes are drawn from
    torch's generator, which Energon seeds for every sample and restores after a restart.

    Args:
        path: The data set (what ``actionimg export energon`` wrote is one).
        options: All that `IndexedActionImageDataset` says about one sample: ``num_frames``, ``size``, ``action``, …
    """

    __stateless__ = True
    """Tells Energon that a sample depends on nothing but the raw sample and torch's generator."""

    def __init__(self, path: str | os.PathLike[str], **options: Any) -> None:
        self._source = open_sources(path)
        self._reader = SampleReader(self._source, SampleOptions(**options))

    def __call__(self, sample: Mapping[str, Any]) -> Sample:
        """One training sample.

        Raises:
            CorruptDatasetError: The raw sample is not of this data set, or is damaged.
        """
        key = str(sample["__key__"]).rpartition("/")[2]
        try:
            row = self._source.row_of(key)
        except KeyError:
            raise CorruptDatasetError("is not a sample of this data set", where=self._source.path, found=key) from None
        members = {name: value for name, value in sample.items() if not name.startswith("__")}
        own = {name: value for name, value in sample.items() if name.startswith("__")}
        turn = int(torch.randint(0, 2**31 - 1, ()).item())
        cooked = self._reader.draw(row, turn, members=members)
        return {**own, **cooked, "source": self._source.path}

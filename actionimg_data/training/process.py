"""Which process of how many this is, and whether something else deals out its samples once more."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import torch.distributed
from torch.utils.data import IterableDataset

from ..errors import InvalidSpecError

_PAIRS: Final = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))
"""Variables of torchrun, and of srun."""


def this_process() -> tuple[int, int]:
    """Number of this process and how many there are, as it is now.

    Of torch.distributed where it is set up, else of the variables that torchrun or srun set, else 0 of 1.

    Raises:
        InvalidSpecError: Only one of two variables is set, or they do not fit each other.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    for pair in _PAIRS:
        found = {name: os.environ.get(name) or None for name in pair}
        rank, size = found.values()
        if rank is None and size in (None, "1"):
            continue
        text = ", ".join(f"{name}={value}" for name, value in found.items() if value is not None)
        if rank is None or size is None:
            raise InvalidSpecError(
                "which process this is cannot be told",
                where="environment",
                expected=f"{pair[0]} and {pair[1]}",
                found=text,
                hint="Start it with torchrun or srun, set both, or give rank= and world_size=.",
            )
        if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
            raise InvalidSpecError(
                "names no process", where="environment", expected=f"{pair[0]} < {pair[1]}", found=text
            )
        return int(rank), int(size)
    return 0, 1


def refuse_second_dealing(data: Any, ranks: int) -> None:
    """Refuse to be iterated by something that deals samples out to processes, when this data set does so itself.

    accelerate's ``prepare``, and the Trainer of transformers, wrap loaders of iterable data sets: each process would
    get its part of its part.

    Raises:
        InvalidSpecError: One of the callers does that.
    """
    if ranks == 1:
        return
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if caller is not None and caller is not data:
            processes = _deals_to(caller)
            if processes > 1:
                raise InvalidSpecError(
                    f"{type(caller).__module__.partition('.')[0]} deals out samples to processes once more, so that "
                    "most of an epoch would be lost",
                    where=type(data).__name__,
                    expected=f"one that deals: this data set knows of {ranks} processes",
                    found=f"{type(caller).__name__} for {processes} processes",
                    hint="Leave the loader out of accelerator.prepare() and move batches to accelerator.device; or "
                    "give the data set rank=0, world_size=1, and leave the dealing to it.",
                )
        frame = frame.f_back  # type: ignore[assignment]


def _deals_to(caller: object) -> int:
    """To how many processes an object on the way to a data set deals out its samples; 0 where it is none of those."""
    if any(kind.__name__ == "DataLoaderDispatcher" for kind in type(caller).__mro__):
        return int(getattr(getattr(caller, "state", None), "num_processes", 0))
    if isinstance(caller, IterableDataset):
        return int(getattr(caller, "num_processes", 0) or 0)
    return 0

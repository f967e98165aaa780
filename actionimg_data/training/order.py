"""In which order the samples of an epoch come.

An order is a function of seed, epoch and position alone: nothing is drawn one after the other. That makes it the same
for any number of workers, and a restart in the middle of an epoch needs one number, the position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidSpecError

Rows = NDArray[np.int64]


class Place(NamedTuple):
    """One turn of a sample: its source, its row in that source, and the how-manieth pass over the source this is."""

    source: int
    row: int
    turn: int


class Order(ABC):
    """A sequence of places for every epoch."""

    @abstractmethod
    def __len__(self) -> int:
        """Positions in an epoch."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the order beside the seed, as JSON values by name."""

    @abstractmethod
    def at(self, epoch: int, position: int) -> Place:
        """What comes at a position of an epoch."""


class ShardOrder(Order):
    """Rows of one source: shards permuted, then rows permuted among neighbours.

    Every ``window`` consecutive rows are permuted, so that at most the shards of two windows are read at a time: the
    locality of a shuffle buffer of that size, without holding anything in memory.

    Args:
        rows: ``(N,)`` rows of the index, those of one shard next to each other.
        shards: ``(N,)`` the shard of each of them.
        window: Rows that are permuted together.
        shuffle: Permute at all; else rows come in the order given.
        seed: Of the permutations.
    """

    def __init__(self, rows: Rows, shards: Rows, window: int, shuffle: bool, seed: int) -> None:
        if window < 1:
            raise InvalidSpecError("must be positive", field="shuffle_buffer", expected=">= 1", found=window)
        self._rows = rows
        self._starts = np.flatnonzero(np.r_[True, shards[1:] != shards[:-1]]) if len(rows) else np.zeros(0, np.int64)
        self._sizes = np.diff(np.r_[self._starts, len(rows)])
        self._window, self._shuffle, self._seed = window, shuffle, seed
        self._epoch = -1
        self._block: tuple[int, int] = (-1, -1)
        self._block_rows: Rows = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def identity(self) -> dict[str, Any]:
        """Shuffled or not, and among how many."""
        return {"shuffle": self._shuffle, **({"shuffle_buffer": self._window} if self._shuffle else {})}

    def at(self, epoch: int, position: int) -> Place:
        """The row at a position; each epoch is a pass of its own."""
        if not self._shuffle:
            return Place(0, int(self._rows[position]), epoch)
        block, inside = divmod(position, self._window)
        if self._block != (epoch, block):
            self._block_rows = self._permuted(epoch, block)
            self._block = (epoch, block)
        return Place(0, int(self._block_rows[inside]), epoch)

    def _permuted(self, epoch: int, block: int) -> Rows:
        if self._epoch != epoch:
            permutation = np.random.default_rng([self._seed, epoch]).permutation(len(self._starts))
            self._first = self._starts[permutation]
            self._ends = np.cumsum(self._sizes[permutation])
            self._epoch = epoch
        positions = np.arange(block * self._window, min((block + 1) * self._window, len(self._rows)))
        shard = np.searchsorted(self._ends, positions, side="right")
        begin = np.where(shard > 0, self._ends[shard - 1], 0)
        rows = self._rows[self._first[shard] + positions - begin]
        return np.random.default_rng([self._seed, epoch, block]).permutation(rows)


class MixedOrder(Order):
    """Several sources in fixed proportions.

    Each epoch draws from every source exactly its share of the positions (largest remainders), in a random
    arrangement; where one epoch stops in a source the next one goes on, so no sample of it is preferred.

    Args:
        orders: The order of each source.
        ratios: Their shares, positive; made to sum to 1.
        length: Positions in an epoch.
        seed: Of the arrangement.
    """

    def __init__(self, orders: Sequence[Order], ratios: Sequence[float], length: int, seed: int) -> None:
        self._orders = orders
        self._seed = seed
        share = np.asarray(ratios, float) / sum(ratios) * length
        counts = np.floor(share).astype(np.int64)
        counts[np.argsort(-(share - counts), kind="stable")[: length - int(counts.sum())]] += 1
        self.counts = counts
        self._epoch = -1

    def __len__(self) -> int:
        return int(self.counts.sum())

    def identity(self) -> dict[str, Any]:
        """How many of each source, and as the orders of the sources."""
        return {"ratios": self.counts.tolist(), **self._orders[0].identity()}

    def at(self, epoch: int, position: int) -> Place:
        """The source at a position, and what comes next in it."""
        if self._epoch != epoch:
            labels = np.repeat(np.arange(len(self._orders), dtype=np.int16), self.counts)
            self._label = np.random.default_rng([self._seed, epoch]).permutation(labels)
            self._nth = np.empty(len(labels), np.int64)
            for source in range(len(self._orders)):
                mine = self._label == source
                self._nth[mine] = np.arange(int(mine.sum()))
            self._epoch = epoch
        source = int(self._label[position])
        order = self._orders[source]
        turn, inside = divmod(int(self.counts[source]) * epoch + int(self._nth[position]), len(order))
        return Place(source, order.at(turn, inside).row, turn)

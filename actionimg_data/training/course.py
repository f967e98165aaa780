"""What an iteration has ahead of it, who takes which part, and where it is when it stops.

The epochs of an iteration lie one after the other: a *course* of places (epoch, position), of which some may have been
taken before. They are dealt by number, in batches, to the processes and their workers; so what has been taken, whoever
took it, is a mark on the course, and any number of processes and workers can go on from a mark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidSpecError

STATE: Final = "actionimg_stream"
"""Key by which a state of ours is found within a loader's; its value is the version."""

VERSION: Final = 2
_HINT: Final = "Give load_state_dict the states of all loaders of one process, or of all processes."


@dataclass(frozen=True)
class Mark:
    """How far samples have been taken: all before a position of an epoch, and a few beyond it.

    Args:
        epoch: The epoch.
        position: All before it have been taken.
        ahead: Places (epoch, position) at or beyond it that have been taken too.
        begun: The epoch with which the iteration began.
    """

    epoch: int
    position: int = 0
    ahead: frozenset[tuple[int, int]] = frozenset()
    begun: int | None = None

    @property
    def first_epoch(self) -> int:
        """The epoch with which the iteration began."""
        return self.epoch if self.begun is None else self.begun


class Course:
    """The places that are still to be taken, by number.

    Args:
        size: Positions in an epoch.
        mark: What has been taken.
        until: The epoch before which it ends; None: never.
        turn: In each epoch, places at the end that do not fill a turn of so many are left out; 1 leaves out none.
    """

    def __init__(self, size: int, mark: Mark, until: int | None, turn: int = 1) -> None:
        self._size, self._mark, self._until, self._turn = size, mark, until, turn
        self._first = self._left(mark.epoch)
        self._gaps: dict[int, NDArray[np.int64]] = {}
        # Epochs that no place beyond the mark is in are all alike.
        self._odd = 1 + max((epoch for epoch, _ in mark.ahead), default=mark.epoch) - mark.epoch
        self._starts = np.cumsum([0, *(self._left(mark.epoch + i) for i in range(self._odd))])
        self._whole = size - size % turn

    def _left(self, epoch: int) -> int:
        if self._until is not None and epoch >= self._until:
            return 0
        begin = self._mark.position if epoch == self._mark.epoch else 0
        left = self._size - begin - sum(e == epoch for e, _ in self._mark.ahead)
        return left - left % self._turn

    def __len__(self) -> int:
        """Places of a course that ends."""
        assert self._until is not None
        more = max(0, self._until - self._mark.epoch - self._odd)
        return int(self._starts[-1]) + more * self._whole

    @property
    def total(self) -> int | None:
        """Places; None where it does not end."""
        return None if self._until is None else len(self)

    @property
    def is_empty(self) -> bool:
        """Whether there is no place at all, however far it goes."""
        return not (self._starts[-1] or (self._whole and (self._until is None or len(self))))

    def at(self, number: int) -> tuple[int, int]:
        """Epoch and position of a place; of the end, the first position after it."""
        if number >= self._starts[-1]:
            if not self._whole:
                return self._mark.epoch + self._odd, 0
            more, position = divmod(number - int(self._starts[-1]), self._whole)
            return self._mark.epoch + self._odd + more, position
        i = int(np.searchsorted(self._starts, number, side="right")) - 1
        epoch = self._mark.epoch + i
        inside = number - int(self._starts[i])
        begin = self._mark.position if i == 0 else 0
        if epoch not in self._gaps:
            taken = np.sort(np.array([p for e, p in self._mark.ahead if e == epoch], np.int64))
            self._gaps[epoch] = taken - begin - np.arange(len(taken))
        return epoch, begin + inside + int(np.searchsorted(self._gaps[epoch], inside, side="right"))


@dataclass(frozen=True)
class Split:
    """Which places of a course one worker of one process takes.

    They are dealt in batches of ``batch`` to the ``ranks`` processes, and within a process to its ``workers`` in the
    order in which a DataLoader asks them. So every place has one taker, and with the loader's own batch size the
    batches are the same for any number of workers.

    Args:
        rank: Number of this process among ``ranks``.
        ranks: Number of processes.
        worker: Number of this worker among ``workers``.
        workers: Number of workers of this process.
        batch: Batch size of the loader.
    """

    rank: int
    ranks: int
    worker: int
    workers: int
    batch: int

    def number(self, taken: int) -> int:
        """Number on the course of this worker's place after it has taken so many."""
        batches, inside = divmod(taken, self.batch)
        return ((self.worker + batches * self.workers) * self.ranks + self.rank) * self.batch + inside

    def numbers(self, total: int | None, skip: int = 0) -> Iterator[int]:
        """Numbers of this worker's places among ``total``, without the first ``skip``."""
        # Only the last of a worker's batches can be short, so whole ones are skipped by counting.
        while (start := self.number(skip)) < (total if total is not None else start + 1):
            inside = skip % self.batch
            stop = start - inside + self.batch
            stop = stop if total is None else min(stop, total)
            yield from range(start, stop)
            skip += self.batch - inside

    def count(self, total: int) -> int:
        """How many places among ``total`` this process takes, all workers together."""
        turns, rest = divmod(total, self.ranks * self.batch)
        return turns * self.batch + min(max(rest - self.rank * self.batch, 0), self.batch)


@dataclass(frozen=True)
class Progress:
    """How far one worker of a process has come.

    Args:
        split: Which worker.
        mark: Where the iteration began on the course.
        turn: As `Course` has it.
        until: As `Course` has it.
        taken: Places that it has taken since.
        skipped: Damaged samples among them.
        identity: What decides the samples, by name.
    """

    split: Split
    mark: Mark
    turn: int
    until: int | None
    taken: int
    skipped: int = 0
    identity: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            STATE: VERSION,
            "epoch": self.mark.epoch,
            "position": self.mark.position,
            "ahead": sorted(map(list, self.mark.ahead)),
            "begun": self.mark.first_epoch,
            "until": self.until,
            "turn": self.turn,
            **vars(self.split),
            "taken": self.taken,
            "skipped": self.skipped,
            "identity": dict(self.identity),
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Progress:
        """From `to_json`.

        Raises:
            InvalidSpecError: It is no such state.
        """
        try:
            if state[STATE] != VERSION:
                raise InvalidSpecError("is of another version", field="state", expected=VERSION, found=state[STATE])
            names = ("epoch", "position", "begun", "rank", "ranks", "worker", "workers", "batch", "taken", "turn")
            n = {name: int(state[name]) for name in names}
            ahead = frozenset((int(e), int(p)) for e, p in state["ahead"])
            until = None if state["until"] is None else int(state["until"])
            skipped, identity = int(state["skipped"]), dict(state["identity"])
        except (KeyError, TypeError) as error:
            raise InvalidSpecError("is no state of a training data set", field="state", found=error) from None
        split = Split(n["rank"], n["ranks"], n["worker"], n["workers"], n["batch"])
        mark = Mark(n["epoch"], n["position"], ahead, n["begun"])
        return cls(split, mark, n["turn"], until, n["taken"], skipped, identity)


def states_in(found: Any) -> list[Mapping[str, Any]]:
    """The states of ours within a loader's state, or within several."""
    if isinstance(found, Mapping):
        if STATE in found:
            return [found]
        return [state for value in found.values() for state in states_in(value)]
    if isinstance(found, (list, tuple)):
        return [state for value in found for state in states_in(value)]
    return []


def merged(parts: Sequence[Progress], size: int) -> Mark:
    """How far a run has come, from what its workers say.

    Of one process alone it is taken that the others have come as far: processes that train together do.

    Args:
        parts: All workers of one process, or of all processes.
        size: Positions in an epoch.

    Raises:
        InvalidSpecError: They are of different runs, or some are missing.
    """
    first = parts[0]
    for part in parts:
        same = (part.mark, part.turn, part.until, part.split.ranks, part.split.workers, part.split.batch)
        if same != (first.mark, first.turn, first.until, first.split.ranks, first.split.workers, first.split.batch):
            raise InvalidSpecError("states are of different runs", field="state", hint=_HINT)
    ranks, workers, batch = first.split.ranks, first.split.workers, first.split.batch
    taken = {(p.split.rank, p.split.worker): p.taken for p in parts}
    here = sorted({rank for rank, _ in taken})
    missing = [f"worker {w} of process {r}" for r in here for w in range(workers) if (r, w) not in taken]
    if len(here) not in (1, ranks):
        missing += [f"process {r}" for r in range(ranks) if r not in here]
    if missing:
        raise InvalidSpecError("states are missing", field="state", found=f"no {', no '.join(missing)}", hint=_HINT)
    course = Course(size, first.mark, first.until, first.turn)
    total = course.total
    if len(here) == 1 and ranks > 1:
        whole = {w: -(-taken[here[0], w] // batch) * batch for w in range(workers)}
        taken = {(r, w): whole[w] for r in range(ranks) for w in range(workers)}
    splits = {place: Split(place[0], ranks, place[1], workers, batch) for place in taken}
    nexts = [splits[place].number(count) for place, count in taken.items()]
    frontier = min(nexts) if total is None else min(*nexts, total)
    beyond: set[int] = set()
    for place, count in taken.items():
        beyond.update(_taken_beyond(splits[place], count, frontier, total))
    epoch, position = course.at(frontier)
    ahead = {course.at(number) for number in beyond}
    ahead |= {place for place in first.mark.ahead if place >= (epoch, position)}
    if first.until is not None and epoch >= first.until:
        # All of it was taken: what comes next is another iteration.
        return Mark(epoch, 0)
    return Mark(epoch, position, frozenset(ahead), first.mark.first_epoch)


def _taken_beyond(split: Split, taken: int, frontier: int, total: int | None) -> Iterable[int]:
    """Numbers from ``frontier`` on that a worker has taken; those of its last batches."""
    turn = split.ranks * split.batch
    batches = max(0, frontier // turn // split.workers - 1)
    for number in split.numbers(total, batches * split.batch):
        if number >= split.number(taken):
            return
        if number >= frontier:
            yield number

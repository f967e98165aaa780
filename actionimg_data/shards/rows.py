"""The rows of a plan, of whatever length, in bounded memory."""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import IO, Final, overload

from ..schemas import PlanRow
from ..schemas.dataset import parse

SPOOL: Final = 64 << 20
"""Bytes of a plan that are kept in memory; the rest of a longer one is in a temporary file."""


class PlanRows(Sequence[PlanRow]):
    """The rows of a plan, kept as the lines of ``plan.jsonl`` and parsed when asked for.

    A plan of a million episodes takes some hundred MB as text and several GB as objects, so only `SPOOL` bytes of the
    text, and the place of each line, are in memory. For one thread at a time.

    Args:
        lines: The lines, each with its newline.
        where: What to call the file in an error.
    """

    def __init__(self, lines: Iterable[bytes], where: object = "plan") -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL)  # noqa: SIM115 (closed with this object)
        weakref.finalize(self, self._file.close)
        self._where = where
        self._starts = array("Q", [0])
        digest = hashlib.sha256()
        for line in lines:
            if line.strip():
                self._file.write(line)
                digest.update(line)
                self._starts.append(self._starts[-1] + len(line))
        self.sha256 = digest.hexdigest()
        """Of all lines: of the file."""

    def __eq__(self, other: object) -> bool:
        return self.sha256 == other.sha256 if isinstance(other, PlanRows) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> PlanRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[PlanRow]: ...

    def __getitem__(self, index: int | slice) -> PlanRow | list[PlanRow]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(index)
        self._file.seek(self._starts[number])
        line = self._file.read(self._starts[number + 1] - self._starts[number])
        return parse(PlanRow, line, f"{self._where}:{number + 1}")

    def __iter__(self) -> Iterator[PlanRow]:
        return (self[i] for i in range(len(self)))

    def lines(self, stop: int | None = None) -> Iterator[bytes]:
        """The lines as they are in the file, of the first ``stop`` rows or of all."""
        for start, end in islice(pairwise(self._starts), stop):
            self._file.seek(start)
            yield self._file.read(end - start)

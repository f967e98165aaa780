"""TFDS' slicing of splits: ``train``, ``train[10:20]``, ``train[:5%]``, ``train[3]``, ``train[:2shard]``, ``a+b``.

Semantics: https://www.tensorflow.org/datasets/splits. Percentages are rounded to the closest episode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import InvalidSpecError

_BOUND = r"(?:(-?[\d_]+)(%|shard)?)?"
_PART = re.compile(rf"([\w.-]+)(?:\[{_BOUND}(:)?{_BOUND}\])?\Z")


@dataclass(frozen=True)
class Part:
    """Episodes ``start`` up to ``stop`` of one split."""

    split: str
    start: int
    stop: int


def resolve(text: str, shards: Mapping[str, Sequence[int]]) -> list[Part]:
    """The episodes that a split instruction means.

    Args:
        text: The instruction.
        shards: Number of episodes in each shard of each split.

    Raises:
        InvalidSpecError: It does not parse, or asks for what is not there.
    """
    parts = []
    for piece in text.split("+"):
        match = _PART.match(piece.strip())
        if match is None:
            raise InvalidSpecError(
                "is not a split", field="split", expected="e.g. train, train[10:20], train[:5%], train+val", found=text
            )
        name, start, start_unit, colon, stop, stop_unit = match.groups()
        if name == "all" and "all" not in shards:
            names = list(shards)
        elif name in shards:
            names = [name]
        else:
            raise InvalidSpecError("no such split", field="split", expected=" | ".join(shards), found=name)
        for split in names:
            sizes = list(shards[split])
            if "[" not in piece:
                parts.append(Part(split, 0, sum(sizes)))
            elif colon:
                first = 0 if start is None else _bound(start, start_unit, sizes, text)
                last = sum(sizes) if stop is None else _bound(stop, stop_unit, sizes, text)
                parts.append(Part(split, first, max(first, last)))
            elif start is not None:
                # A single one: train[3] is train[3:4], train[3shard] is train[3shard:4shard].
                number = int(start)
                first = _bound(start, start_unit, sizes, text)
                last = sum(sizes) if number == -1 else _bound(str(number + 1), start_unit, sizes, text)
                parts.append(Part(split, first, last))
            else:
                raise InvalidSpecError("is an empty slice", field="split", expected="e.g. train[10:20]", found=text)
    return parts


def _bound(text: str, unit: str | None, sizes: Sequence[int], whole: str) -> int:
    number, total = int(text), sum(sizes)
    limit = {"%": 100, "shard": len(sizes)}.get(unit or "", total)
    if abs(number) > limit:
        what = {"%": "100 %", "shard": f"{limit} shards"}.get(unit or "", f"{limit} episodes")
        raise InvalidSpecError("is out of range", field="split", expected=f"at most {what}", found=whole)
    if unit == "shard":
        return sum(sizes[: number if number >= 0 else limit + number])
    if unit == "%":
        number = round(number * total / 100)
    return number if number >= 0 else total + number

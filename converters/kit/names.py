"""The order of pictures, as their names say it: by value where names are numbers, and a question where they are not."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import AmbiguousSourceError
from .tree import natural_key

_DECIMAL = re.compile(r"[-+]?\d+(\.\d+)?\Z")
_NUMBER = re.compile(r"\d+")
_HEX = re.compile(r"[0-9a-fA-F]+\Z")
_DATE = re.compile(r"(19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d[-_T. ]?[0-2]\d[-_.h]?[0-5]\d[-_.m]?[0-5]\d([-_.,]?\d+)?Z?\Z")
_COUNTED = 10_000_000
_SHOWN = 4


@dataclass(frozen=True)
class OrderedNames:
    """Files in the order of the numbers in their names.

    Args:
        paths: In order.
        missing: Numbers that are left out between the first and the last, where names are counted; at most 20.
        count_missing: How many are.
    """

    paths: tuple[str, ...]
    missing: tuple[int, ...] = ()
    count_missing: int = 0


def ordered_names(paths: Sequence[str], where: object) -> OrderedNames:
    """Files in the order that the one number that varies in their names says, decimal or negative.

    Args:
        paths: At least one.
        where: For the question.

    Raises:
        AmbiguousSourceError: The order cannot be known: two numbers that vary, hexadecimal digits, a name that is not
            like the others, two names of one number.
    """
    stems = [os.path.splitext(os.path.basename(p))[0] for p in paths]
    if len(paths) < 2:
        return OrderedNames(tuple(paths))
    start, end = _common(stems)
    middles = [stem[start : len(stem) - end] for stem in stems]
    if all(_DECIMAL.match(m) for m in middles):
        return _by_value(paths, middles, where)
    if all(_DATE.match(m) for m in middles) and len({len(m) for m in middles}) == 1:
        return OrderedNames(tuple(sorted(paths, key=natural_key)))
    skeletons = [_NUMBER.sub("#", stem) for stem in stems]
    common, count = Counter(skeletons).most_common(1)[0]
    if count < len(stems):
        odd = [os.path.basename(p) for p, s in zip(paths, skeletons, strict=True) if s != common]
        if all(_HEX.match(m) for m in middles):
            raise _question("are their numbers hexadecimal?", where, sorted(map(os.path.basename, paths)))
        if count > len(stems) / 2:
            raise _question("a name is not like the others: is it a copy, or another picture?", where, odd)
        raise _question("they have no number that says it", where, sorted(map(os.path.basename, paths)))
    columns = list(zip(*([int(n) for n in _NUMBER.findall(stem)] for stem in stems), strict=True))
    varying = [c for c in columns if len(set(c)) > 1]
    orders = {tuple(sorted(range(len(paths)), key=c.__getitem__)) for c in varying}
    if len(orders) == 1 and any(len(set(c)) == len(c) for c in varying):
        return OrderedNames(tuple(paths[i] for i in orders.pop()))
    raise _question(
        f"{len(varying)} numbers vary: of two cameras, or of two recordings?",
        where,
        sorted(map(os.path.basename, paths), key=natural_key),
    )


def _common(stems: Sequence[str]) -> tuple[int, int]:
    """Lengths of what all stems begin and end with, numbers kept whole."""
    first, last = min(stems), max(stems)
    start = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    while start and (first[start - 1].isdigit() or (first[start - 1] == "." and first[: start - 1][-1:].isdigit())):
        start -= 1
    if first[:start] in ("-", "+"):
        start = 0
    backwards = [stem[start:][::-1] for stem in stems]
    first, last = min(backwards), max(backwards)
    end = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    while end and first[end - 1].isdigit():
        end -= 1
    # A dot before digits that all names end with is the number's own.
    return start, 0 if end and re.fullmatch(r"\.\d*", first[:end][::-1]) else end


def _by_value(paths: Sequence[str], texts: Sequence[str], where: object) -> OrderedNames:
    values = [float(t) for t in texts]
    order = sorted(range(len(paths)), key=values.__getitem__)
    same = next((i for i, j in itertools.pairwise(order) if values[i] == values[j]), None)
    if same is not None:
        twins = [os.path.basename(p) for p, v in zip(paths, values, strict=True) if v == values[same]]
        raise _question("two names have one number", where, twins)
    in_order = tuple(paths[i] for i in order)
    if any("." in t for t in texts):
        return OrderedNames(in_order)
    numbers = [int(texts[i]) for i in order]
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    step = min(steps)
    # Stamps are numbers too, and have no step of their own.
    if numbers[-1] > _COUNTED or all(s == step for s in steps) or any(s % step for s in steps):
        return OrderedNames(in_order)
    missing = [n for a, b in itertools.pairwise(numbers) for n in range(a + step, b, step)]
    return OrderedNames(in_order, tuple(missing[:20]), len(missing))


def _question(what: str, where: object, names: Sequence[str]) -> AmbiguousSourceError:
    shown = ", ".join(names[:_SHOWN]) + (f", … ({len(names)})" if len(names) > _SHOWN else "")
    return AmbiguousSourceError(
        f"the order of the pictures cannot be known from their names: {what}",
        where=where,
        expected="one number that varies, decimal",
        found=shown,
        hint="Take those that belong together with a pattern (rgb/cam0_*.png), or give them other names.",
    )

"""In what a shard that was made again differs from the one that was there: which member, and by how much."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np

from ..errors import ActionImgError
from ..schemas import MemberRow, ShardSidecar
from ..shards import layout, npz
from ..shards.layout import Place
from ..video import read_frames

_MOST_NAMED: Final = 4
_VIDEOS: Final = (".mp4", ".mkv", ".zip")


def difference(before: ShardSidecar | None, old: Place, now: ShardSidecar, new: Place) -> str:
    """One sentence on what differs between two makings of a shard.

    Args:
        before: What the shard was, by its sidecar; None where that is lost.
        old: Its tar as it lies there; members that are damaged in it are compared by their sizes alone.
        now: What it is when it is made again.
        new: That one's tar.
    """
    if before is None:
        return "its sidecar is lost, so that its members cannot be compared one by one"
    found = list(_differences(before, old, now, new))
    if not found:
        return "every member is the same, and their order or the episodes left out are not"
    more = "" if len(found) <= _MOST_NAMED else f"; and {len(found) - _MOST_NAMED} more"
    total = sum(len(sample.members) for sample in before.samples)
    return f"{len(found)} of {total} members differ: {'; '.join(found[:_MOST_NAMED])}{more}"


def _differences(before: ShardSidecar, old: Place, now: ShardSidecar, new: Place) -> Iterator[str]:
    earlier = {f"{s.key}.{m.name}": m for s in before.samples for m in s.members}
    later = {f"{s.key}.{m.name}": m for s in now.samples for m in s.members}
    for name in [*earlier, *(n for n in later if n not in earlier)]:
        a, b = earlier.get(name), later.get(name)
        if a is None or b is None:
            yield f"{name} is {'new' if a is None else 'no longer made'}"
        elif a.sha256 != b.sha256:
            yield f"{name} ({_how_much(name, a, old, b, new)})"


def _how_much(name: str, a: MemberRow, old: Place, b: MemberRow, new: Place) -> str:
    sizes = f"{a.size} B, now {b.size} B"
    try:
        one, other = _member(old, a), _member(new, b)
    except OSError:
        one = other = None
    if one is None or other is None:
        return f"{sizes}; the old one is damaged"
    try:
        return f"{sizes}; {_content(name, one, other)}"
    except (ActionImgError, ValueError, KeyError) as error:
        return f"{sizes}; {error}"


def _member(tar: Place, row: MemberRow) -> bytes | None:
    (data,) = layout.read_ranges(tar, [(row.offset, row.size)])
    return data if hashlib.sha256(data).hexdigest() == row.sha256 else None


def _content(name: str, one: bytes, other: bytes) -> str:
    ending = PurePosixPath(name).suffix
    if ending == ".npz":
        return _arrays(npz.load(one, name), npz.load(other, name))
    if ending in _VIDEOS:
        a, b = read_frames(one, name=name), read_frames(other, name=name)
        if a.shape != b.shape:
            return f"{len(a)} pictures of {a.shape[2]}x{a.shape[1]}, now {len(b)} of {b.shape[2]}x{b.shape[1]}"
        apart = np.abs(a.astype(np.int16) - b)
        return f"pictures by up to {int(apart.max())} of 255, {float(apart.mean()):.3g} on average"
    a, b = json.loads(one), json.loads(other)
    fields = sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))
    return f"fields {', '.join(fields)}" if fields else "the same values, written otherwise"


def _arrays(a: dict[str, Any], b: dict[str, Any]) -> str:
    parts = []
    for name in sorted(a.keys() | b.keys()):
        if name not in a or name not in b or a[name].shape != b[name].shape:
            parts.append(f"{name} of another shape")
        elif a[name].dtype.kind == "f":
            apart = np.nanmax(np.abs(a[name] - b[name]), initial=0.0)
            if apart > 0:
                parts.append(f"{name} by up to {apart:.2g}")
        elif (a[name] != b[name]).any():
            parts.append(f"{name} otherwise")
    return ", ".join(parts) or "the same values, packed otherwise"

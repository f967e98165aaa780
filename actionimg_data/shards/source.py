"""Whether a source is still what it was: a share that was unmounted is no bad episode, a changed one no good one."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from ..errors import SourceChangedError, SourceGoneError
from ..model import EpisodeRef
from ..objectstore import is_url
from .prepare import WatchedReader

_HINT = "Mount it again, or put it back, and give the same command again: what is published stays, the rest is made."


class _Seen(NamedTuple):
    device: int
    inode: int
    folder: bool


def check_source(source: str) -> None:
    """Refuse to go on where a local source is not there any more, or is another folder than when it was first seen.

    Called whenever an episode fails: an unmounted share leaves an empty folder in its place, or none, and would put
    every episode that is left into quarantine. A store says itself when it is away.

    Raises:
        SourceGoneError: As said.
    """
    if not source or is_url(source):
        return
    before = _seen.get(source)
    try:
        now = _look(source)
        empty = now.folder and _is_empty(source)
    except OSError as error:
        raise SourceGoneError(
            "is no longer there", where=source, found=error.strerror or str(error), hint=_HINT
        ) from None
    if empty:
        raise SourceGoneError("is no longer there", where=source, found="an empty folder", hint=_HINT)
    if now.folder and before is not None and now != before:
        raise SourceGoneError("is another folder than it was", where=source, hint=_HINT)


def check_episode(reader: WatchedReader, ref: EpisodeRef) -> None:
    """Refuse an episode whose files are not those any more that the plan was made of.

    Raises:
        SourceChangedError: Its fingerprint is another one.
        ActionImgError: Its files are not there any more.
    """
    found = reader.fingerprint(ref)
    if found is not None and found != ref.fingerprint:
        raise SourceChangedError(
            "changed while the data set was made",
            where=ref.id,
            field="fingerprint",
            expected=ref.fingerprint,
            found=found,
            hint="Let nobody write to the source; then --retry-quarantined makes this episode from what is there.",
        )


def remember(source: str, again: bool = False) -> str:
    """Look at a source before its first episode is read, so that `check_source` knows it again.

    Args:
        source: A path; what is none (a URL, or a name that only its converter understands) is nothing to look at.
        again: A run begins: what the source was in an earlier one does not count.

    Returns:
        The source, or "" where there is nothing to look at.
    """
    if not source or is_url(source):
        return ""
    if again or source not in _seen:
        try:
            _seen[source] = _look(source)
        except OSError:
            _seen.pop(source, None)
            return ""
    return source


_seen: dict[str, _Seen] = {}


def _is_empty(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def _look(source: str) -> _Seen:
    found = os.stat(source)
    return _Seen(found.st_dev, found.st_ino, stat.S_ISDIR(found.st_mode))

"""Where converters keep what they fetched or found out, and how much of it: it decides no byte of a data set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import InvalidSpecError

CACHE_VARIABLE: Final = "ACTIONIMG_CACHE_DIR"
SIZE_VARIABLE: Final = "ACTIONIMG_CACHE_SIZE"
DEFAULT_CACHE_BYTES: Final = 20 << 30

_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True)
class CacheSettings:
    """Where the cache is and how much it holds; what is None is as the environment says.

    A value: a job takes it along to the processes and machines that work for it.

    Args:
        folder: Its folder.
        size: Bytes of objects.
    """

    folder: Path | None = None
    size: int | None = None

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let all converters of this process use it meanwhile."""
        global _current
        before, _current = _current, self
        try:
            yield
        finally:
            _current = before


_current = CacheSettings()


def cache_settings() -> CacheSettings:
    """What converters of this process use now."""
    return _current


def cache_folder() -> Path:
    """Where things are kept: as set, else ``ACTIONIMG_CACHE_DIR``, else ``XDG_CACHE_HOME`` or ``~/.cache`` with
    ``actionimg``."""
    if _current.folder is not None:
        return _current.folder
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "actionimg"


def index_folder() -> Path | None:
    """Where indexes of large files are kept; None where there is no such place, or ``ACTIONIMG_CACHE_DIR`` is empty."""
    if _current.folder is None and os.environ.get(CACHE_VARIABLE) == "":
        return None
    try:
        return cache_folder() / "rlds-index"
    except RuntimeError:
        return None


def cache_bytes() -> int:
    """How much the cache may hold: as set, else ``ACTIONIMG_CACHE_SIZE``, by default 20 GiB."""
    if _current.size is not None:
        return _current.size
    text = os.environ.get(SIZE_VARIABLE)
    return parse_size(text, SIZE_VARIABLE) if text else DEFAULT_CACHE_BYTES


def parse_size(text: str, where: str) -> int:
    """Bytes from ``20GB``, ``500MB``, ``1000000``.

    Raises:
        InvalidSpecError: It is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise InvalidSpecError("is no size", where=where, expected="e.g. 20GB", found=text)
    return int(float(match[1]) * _UNITS[match[2]])

"""Bytes that are costly to make, kept within a bound; asked for by several at once, they are made once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable


class BoundedCache:
    """A cache of bytes, the least used of which go when there are too many.

    Args:
        limit: Bytes that are kept at most; what is larger by itself is made, and not kept.
        at_once: Values that are made at the same time.
    """

    def __init__(self, limit: int, at_once: int = 1) -> None:
        self.limit = limit
        self.size = 0
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._making: dict[Hashable, threading.Event] = {}
        self._lock = threading.Lock()
        self._turns = threading.Semaphore(at_once)

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """The bytes of ``key``; ``make``'s errors are raised to whoever asked first, the others try again."""
        while True:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
                other = self._making.get(key)
                if other is None:
                    self._making[key] = threading.Event()
                    break
            other.wait()
        try:
            with self._turns:
                data = make()
            self._keep(key, data)
            return data
        finally:
            with self._lock:
                self._making.pop(key).set()

    def _keep(self, key: Hashable, data: bytes) -> None:
        if len(data) > self.limit:
            return
        with self._lock:
            self._kept[key] = data
            self.size += len(data)
            while self.size > self.limit:
                self.size -= len(self._kept.popitem(last=False)[1])

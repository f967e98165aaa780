"""Threads that encode the streams of one sample side by side, in a number that may grow while they work.

Encoders, filters and resizes do their work outside Python's lock. The streams are independent and are collected in
order, so that neither the bytes nor which error is met first depends on the number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Stopped(Exception):
    """Raised in a stream whose sample has failed already."""


class _Task(Generic[Result]):
    def __init__(self, work: Callable[[], Result]) -> None:
        self.work = work
        self.place = 0
        self.taken = False
        self.done = threading.Event()
        self.result: Result | None = None
        self.error: BaseException | None = None


class Crew:
    """The calling thread and up to ``threads - 1`` others.

    Args:
        threads: How many, with the calling one.
        notice: Called at every `checkpoint`; what it raises ends the sample that is being made.
    """

    def __init__(self, threads: int = 1, notice: Callable[[], None] = lambda: None) -> None:
        self._threads = threads
        self._notice = notice
        self._lock = threading.Lock()
        self._tasks: Sequence[_Task[Any]] = ()
        self._helpers: list[threading.Thread] = []
        self._stop = threading.Event()
        self._failed: int | None = None
        """Place in the order of the first task that is known to have failed."""
        self._local = threading.local()

    def grow(self, threads: int) -> None:
        """From now on, also within a sample that is being made, work with ``threads`` threads."""
        with self._lock:
            self._threads = max(self._threads, threads)
            self._hire()

    def checkpoint(self) -> None:
        """Called by a task from time to time; raises `Stopped` where one begun before it has failed."""
        self._notice()
        failed = self._failed
        if self._stop.is_set() or (failed is not None and self._local.place > failed):
            raise Stopped

    def run(
        self,
        works: Sequence[Callable[[], Result]],
        start_order: Sequence[int] | None = None,
        discard: Callable[[Result], None] = lambda _: None,
    ) -> Generator[Result, None, None]:
        """Do ``works`` and yield their results in order.

        Args:
            works: What to do.
            start_order: Their indices in the order in which they are begun (the longest first leaves no thread with a
                long one at the end); as listed by default.
            discard: Called with each result that nobody gets, because another work failed.

        Raises:
            Exception: What the first of them (in the order in which they are begun) that fails raises; those begun
                later are stopped then, and no other is begun.
        """
        tasks = [_Task(work) for work in works]
        begun = tasks if start_order is None else [tasks[i] for i in start_order]
        for place, task in enumerate(begun):
            task.place = place
        with self._lock:
            self._failed = None
            self._tasks = begun
            self._hire()
        try:
            for task in tasks:
                while not task.done.is_set() and (mine := self._take()) is not None:
                    self._do(mine)
                # After an error a task may never be begun, so it must not be waited for.
                self._raise_first_error()
                task.done.wait()
                self._raise_first_error()
                result, task.result = task.result, None
                yield result  # type: ignore[misc]
        finally:
            self._stop.set()
            with self._lock:
                self._tasks = ()
            for helper in self._helpers:
                helper.join()
            self._helpers.clear()
            self._stop.clear()
            for task in tasks:
                if task.result is not None:
                    discard(task.result)

    def _raise_first_error(self) -> None:
        if self._failed is None:
            return
        # Tasks are begun in order, so all before one that failed have been begun, and have the right to fail first.
        for task in self._tasks:
            task.done.wait()
            if task.error is not None:
                raise task.error

    def _hire(self) -> None:
        self._helpers = [h for h in self._helpers if h.is_alive()]
        left = sum(not task.taken for task in self._tasks)
        for _ in range(min(self._threads - 1 - len(self._helpers), left)):
            helper = threading.Thread(target=self._help, daemon=True)
            self._helpers.append(helper)
            helper.start()

    def _help(self) -> None:
        while not self._stop.is_set() and (task := self._take()) is not None:
            self._do(task)
            if task.error is not None:
                return

    def _take(self) -> _Task[Any] | None:
        """The next task that nobody has begun; none once one has failed."""
        with self._lock:
            if self._failed is not None:
                return None
            task = next((t for t in self._tasks if not t.taken), None)
            if task is not None:
                task.taken = True
            return task

    def _do(self, task: _Task[Any]) -> None:
        self._local.place = task.place
        try:
            task.result = task.work()
        except BaseException as error:  # noqa: BLE001
            # It is raised where the results are collected.
            task.error = error
            with self._lock:
                self._failed = task.place if self._failed is None else min(self._failed, task.place)
        finally:
            task.done.set()

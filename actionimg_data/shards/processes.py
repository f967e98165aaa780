"""Work over many items in processes of one machine, the results as they are done."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Final, TypeVar

from ..errors import ActionImgError, WorkerError

Item = TypeVar("Item")
Made = TypeVar("Made")

_AHEAD: Final = 3
"""Items that wait for each process."""

_worker: Callable[[Any], Any] | None = None


def _start(make: Callable[..., Callable[[Any], Any]], setup: tuple[Any, ...]) -> None:
    global _worker
    import cv2

    # Ctrl-C is the caller's, who ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(1)
    _worker = make(*setup)


def _work(item: Any) -> Any:
    assert _worker is not None
    return _worker(item)


def spread(
    make: Callable[..., Callable[[Item], Made]],
    setup: tuple[Any, ...],
    items: Sequence[Item],
    num_workers: int,
    *,
    where: str,
    kept: str,
) -> Iterator[tuple[Item, Made]]:
    """Each item and what came of it, as they are done.

    Args:
        make: Called with ``setup`` once in each process, gives what is called with an item; picklable.
        setup: What ``make`` is called with.
        items: To be worked on; in this process where there is one, or one worker.
        num_workers: Processes.
        where: What the error names as its place.
        kept: What becomes of what was done, for the error's hint.

    Raises:
        WorkerError: A process died.
    """
    if num_workers <= 1 or len(items) <= 1:
        if items:
            worker = make(*setup)
            for item in items:
                yield item, worker(item)
        return
    workers = min(num_workers, len(items))
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start, initargs=(make, setup))
    waiting: dict[Future[Made], Item] = {}
    remaining = iter(items)
    try:
        while True:
            for item in itertools.islice(remaining, _AHEAD * workers - len(waiting)):
                waiting[pool.submit(_work, item)] = item
            if not waiting:
                break
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool:
        raise WorkerError(
            "a worker process died",
            where=where,
            hint=f"Memory? Give fewer --num-workers; {kept}, and the same command goes on.",
        ) from None
    finally:
        with contextlib.suppress(ActionImgError):
            pool.shutdown(wait=True, cancel_futures=True)

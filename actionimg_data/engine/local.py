"""Run shards in this process, or in processes of this machine.

Workers are spawned, get one shard at a time, and say what they do through a pipe, so that when one dies it is known
which shard and which episode it was at: the shard is tried again in a fresh process, and an episode that kills a second
one is quarantined. A worker with nothing left to do hands its core to the others, which then encode several views at
once: a long last episode does not leave the machine idle.

No wait is without an end. A worker's death is seen by its pipe's end or, where something it started still holds the
pipe, by its exit status; a worker that is told to end and does not is killed; and a worker whose parent is gone ends at
once, in the middle of whatever it does: what a shard leaves then is not published, and goes with the next run.

An interrupt is not raised just anywhere either: within a callback of a video library it would be swallowed, and the
bytes that were to be written with it. It waits for the next frame (`interrupts_between_frames`).

A worker that works says so every few seconds. One that is silent for `SILENT_SECONDS` is named; whether it is frozen or
at something long, nobody can know from outside, so it is ended only where the user has said how long an episode may
take.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final

from ..errors import ActionImgError, WorkerError
from ..schemas import ShardSidecar
from ..schemas.derived import DerivedSidecar
from ..shards import storage
from ..shards.crew import Crew
from ..shards.source import check_source
from ..shards.write import EPISODE_TIMEOUT, WORKER_CRASHED, Progress
from .executor import MAX_CRASHES, AnyJob, OnProgress, OnShard, Row

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

EARLY: Final = 4
"""Processes started before it is known how many shards there are to make."""

POLL_SECONDS: Final = 1.0
"""How often the exit status of workers is looked at while none of them says anything."""

STOP_SECONDS: Final = 3.0
"""What workers get to end by themselves, all together, before they are killed."""

BEAT_SECONDS: Final = 5.0
"""How often a worker says that it works, between what else it says."""

SILENT_SECONDS: Final = 60.0
"""After how long a silence a worker is named."""

START_SECONDS: Final = 300.0
"""What a worker gets until it first says that it is there."""

_ALIVE: Final = 0
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Workers:
    """This process, or several others, that convert shards; an `Executor`.

    Processes begin to start on entering the context, so that they are ready when the plan is.

    Args:
        count: Cores to use: 1 for this process alone, else that many others, fewer where there are fewer shards.
        episode_timeout: Seconds an episode may take; a worker that takes longer is ended, and its shard given to
            another, which leaves the episode out if it takes as long. No worker is ended by default. With it, even one
            core is another process.
        warn: Called with a line about a worker that says nothing.
    """

    def __init__(
        self, count: int, episode_timeout: float | None = None, warn: Callable[[str], None] = lambda _: None
    ) -> None:
        self.count = count
        alone = count == 1 and episode_timeout is None
        self._pool = None if alone else _Pool(count, episode_timeout, warn)

    def __enter__(self) -> Workers:
        if self._pool is not None:
            try:
                self._pool.start(min(self.count, EARLY))
            except BaseException:
                self._pool.stop()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.stop()

    def run(self, job: AnyJob, rows: Iterable[Row], on_progress: OnProgress, on_shard: OnShard) -> None:
        """Convert and publish shards (see `Executor.run`)."""
        with interrupts_between_frames() as check:
            if self._pool is not None:
                self._pool.run(job, rows, on_progress, on_shard, check)
                return
            crew = Crew(notice=check)
            with _one_opencv_thread():
                for row in rows:
                    check()
                    on_shard(job.run_shard(row, on_progress, crew=crew))


@contextlib.contextmanager
def interrupts_between_frames() -> Iterator[Callable[[], None]]:
    """Keep SIGINT and SIGTERM back until the value is called; a second one of them does not wait.

    Signals that are ignored, or that end the process by themselves, stay as they are; so do all of them where this is
    not the main thread, which alone gets them.
    """
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    waiting: list[int] = []

    def check() -> None:
        if waiting:
            first = waiting.pop(0)
            handlers[first](first, None)

    def keep(number: int, frame: FrameType | None) -> None:
        if waiting:
            handlers[number](number, frame)
        waiting.append(number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler
                signal.signal(number, keep)
    try:
        yield check
    finally:
        for kept, handler in handlers.items():
            signal.signal(kept, handler)
    check()


@contextlib.contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """One worker is one core, for OpenCV too.

    In a forked process this is left as it is: OpenCV would wait there for threads that only its parent has.
    """
    if _forked:
        yield
        return
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    number: int
    heard: float
    """When it last said something, or was given something to do."""
    begun: float | None = None
    """When it began with its episode."""
    ready: bool = False
    """Whether it has said anything at all: a busy machine may take long to start a process."""
    named: bool = False
    row: Row | None = None
    episode: str | None = None
    threads: int = 1
    job: AnyJob | None = None


class _Pool:
    def __init__(self, size: int, timeout: float | None, warn: Callable[[str], None]) -> None:
        self.size, self.timeout, self.warn = size, timeout, warn
        self.numbers = itertools.count(1)
        self.context = multiprocessing.get_context("spawn")
        self.workers: list[_Worker] = []
        self.crashes: Counter[tuple[str, str | None]] = Counter()
        self.skip: dict[str, tuple[str, str]] = {}
        self.again: deque[Row] = deque()

    def start(self, count: int) -> None:
        while len(self.workers) < count:
            self._start_one()

    def _start_one(self) -> _Worker:
        here, there = self.context.Pipe()
        process = self.context.Process(target=_work, args=(there,), daemon=True)
        with _born_deaf():
            process.start()
            there.close()
            self.workers.append(_Worker(process, here, next(self.numbers), time.monotonic()))
        return self.workers[-1]

    def run(
        self,
        job: AnyJob,
        rows: Iterable[Row],
        on_progress: OnProgress,
        on_shard: OnShard,
        check: Callable[[], None],
    ) -> None:
        self.job, self.on_progress, self.on_shard = job, on_progress, on_shard
        ahead = iter(rows)
        while True:
            check()
            # A row is taken when a worker is free for it: the plan may be of any length.
            while sum(w.row is not None for w in self.workers) < self.size:
                row = self.again.popleft() if self.again else next(ahead, None)
                if row is None:
                    break
                self._give(next((w for w in self.workers if w.row is None), None) or self._start_one(), row)
            busy = [w for w in self.workers if w.row is not None]
            if not busy:
                return
            self._share(busy)
            # The index at the end needs it; it loads now, while the workers work.
            importlib.import_module("pyarrow.parquet")
            ready = wait([w.pipe for w in self.workers], POLL_SECONDS)
            for worker in list(self.workers):
                if worker.pipe in ready:
                    self._hear(worker)
                elif worker.process.exitcode is not None and not worker.pipe.poll():
                    self._crashed(worker)
                elif worker.row is not None:
                    self._look_after(worker)

    def _give(self, worker: _Worker, row: Row) -> None:
        worker.row, worker.episode, worker.begun = row, None, None
        worker.heard, worker.named = time.monotonic(), False
        # A worker that has died already is noticed when it is heard next.
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            if worker.job is not self.job:
                worker.pipe.send(self.job)
                worker.job = self.job
            worker.pipe.send((row, {e.id: self.skip[e.id] for e in row.episodes if e.id in self.skip}))

    def _share(self, busy: list[_Worker]) -> None:
        """Tell the workers that are busy how many threads each may use: all cores, in even parts."""
        for i, worker in enumerate(busy):
            threads = self.size // len(busy) + (i < self.size % len(busy))
            if threads > worker.threads:
                worker.threads = threads
                with contextlib.suppress(BrokenPipeError, ConnectionError):
                    worker.pipe.send(threads)

    def _hear(self, worker: _Worker) -> None:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            # Also in the middle of a message.
            self._crashed(worker)
            return
        worker.heard, worker.named, worker.ready = time.monotonic(), False, True
        if isinstance(message, Progress):
            if message.begun or message.ended:
                worker.episode = message.episode if message.begun else None
                worker.begun = worker.heard if message.begun else None
            self.on_progress(message)
        elif message == _ALIVE:
            # It works; how long its episode takes is looked at besides.
            self._look_after(worker)
        elif isinstance(message, (ShardSidecar, DerivedSidecar)):
            worker.row = None
            self.on_shard(message)
        elif isinstance(message, ActionImgError):
            raise message
        else:
            raise WorkerError(
                "failed for a reason that is not about the data",
                where=None if worker.row is None else worker.row.shard,
                found=message.strip().splitlines()[-1],
                hint=f"Please report this:\n{message}",
            )

    def _look_after(self, worker: _Worker) -> None:
        """Name a worker that is silent, and end one that takes longer than it may."""
        now = time.monotonic()
        silent = now - worker.heard
        if silent > SILENT_SECONDS and not worker.named:
            worker.named = True
            at = f"shard {worker.row.shard}" if worker.row is not None else "nothing to do"
            at = at if worker.episode is None else f"episode {worker.episode}"
            self.warn(f"worker {worker.number} has said nothing for {silent:.0f} s ({at})")
        if self.timeout is None:
            return
        late = worker.begun is not None and now - worker.begun > self.timeout
        # Between episodes there is nothing that could take long: it stands still.
        limit = max(self.timeout, SILENT_SECONDS if worker.ready else START_SECONDS)
        if late or (worker.begun is None and silent > limit):
            # SIGTERM would wait until a process that was stopped goes on.
            worker.process.kill()
            self._crashed(worker, EPISODE_TIMEOUT)

    def _crashed(self, worker: _Worker, code: str = WORKER_CRASHED) -> None:
        self.workers.remove(worker)
        self._end([worker])
        row = worker.row
        if row is None:
            return
        # A file that is mapped into memory kills its reader when its share goes away.
        check_source(self.job.source)
        how = exit_text(worker.process.exitcode)
        self.crashes[row.shard, worker.episode] += 1
        count = self.crashes[row.shard, worker.episode]
        if count >= MAX_CRASHES:
            if worker.episode is None:
                raise WorkerError(
                    "workers die while they convert no episode",
                    where=row.shard,
                    found=how,
                    hint="A script that converts with several workers needs `if __name__ == '__main__':`.",
                )
            message = f"the worker died {count} times while it converted this episode: {how}"
            if code == EPISODE_TIMEOUT:
                message = f"takes longer than the {self.timeout:g} s that an episode may take; {count} workers tried"
            self.skip[worker.episode] = code, message
        self.again.append(row)

    def stop(self) -> None:
        workers, self.workers = self.workers, []
        self.again.clear()
        try:
            for worker in workers:
                worker.process.terminate()
        finally:
            self._end(workers)

    def _end(self, workers: list[_Worker]) -> None:
        """Wait until workers have ended, kill those that do not, and remove what they leave behind."""
        try:
            deadline = time.monotonic() + STOP_SECONDS
            for worker in workers:
                worker.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            # Also when a second Ctrl-C does not want to wait.
            for worker in workers:
                if worker.process.exitcode is None:
                    worker.process.kill()
                    worker.process.join(STOP_SECONDS)
                worker.pipe.close()
                if worker.row is not None and worker.process.pid is not None:
                    storage.remove_parts(self.job.out, worker.row.shard, worker.process.pid)


@contextlib.contextmanager
def _born_deaf() -> Iterator[None]:
    """Start a child in here. Ctrl-C goes to the whole group: the child inherits a mask, and is spared it until it
    ignores it itself; and this process does not stop in the middle of a birth, which the child would complain of.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # multiprocessing starts it with the first child, and unblocks SIGINT when it has.
    resource_tracker.ensure_running()
    # The mask is one of this thread; libraries' threads still take the signal, and Python hands it on to this one.
    with interrupts_between_frames():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_text(code: int | None) -> str:
    """How a process ended, for people: ``signal 9 (SIGKILL), perhaps for lack of memory``."""
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:
        name = ""
    return f"signal {-code}{name}" + (", perhaps for lack of memory" if code == -signal.SIGKILL else "")


def _work(pipe: Connection) -> None:
    """What a worker process does: a job and its rows in, progress and sidecars out, until the pipe closes."""
    # Ctrl-C goes to the whole group; the parent ends its workers itself. SIGTERM may be ignored where we come from.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    import cv2

    cv2.setNumThreads(1)

    lock = threading.Lock()

    def send(message: Any) -> None:
        try:
            with lock:
                pipe.send(message)
        except OSError:
            # The parent is gone; SystemExit passes through the handling of bad episodes.
            raise SystemExit(1) from None

    spoken = time.monotonic()

    def beat() -> None:
        nonlocal spoken
        now = time.monotonic()
        if now - spoken > BEAT_SECONDS:
            spoken = now
            send(_ALIVE)

    send(_ALIVE)
    crew = Crew(notice=beat)
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        """Take what the parent says also while a shard is being made."""
        while True:
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                # The parent is gone: end now, and not when the shard is done.
                os._exit(1)
            except Exception:  # noqa: BLE001
                # A converter that cannot be unpickled here, say: the parent has to hear why.
                with contextlib.suppress(SystemExit):
                    send(traceback.format_exc())
                message = None
            if isinstance(message, int):
                crew.grow(message)
                continue
            tasks.put(message)
            if message is None:
                return

    threading.Thread(target=listen, daemon=True).start()
    job: AnyJob | None = None
    while (task := tasks.get()) is not None:
        if not isinstance(task, tuple):
            job = task
            continue
        assert job is not None
        try:
            result: Any = job.run_shard(task[0], send, task[1], crew)
        except ActionImgError as error:
            result = error
        except Exception:  # noqa: BLE001
            result = traceback.format_exc()
        send(result)

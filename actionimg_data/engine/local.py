"""Run shards in this process, or in processes of this machine.

Workers are spawned, get one shard at a time, and say what they do through a pipe, so that when one dies it is known
which shard and which episode it was at: the shard is tried again in a fresh process, and an episode that kills a second
one is quarantined. A worker with nothing left to do hands its core to the others, which then encode several views at
once: a long last episode does not leave the machine idle.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..converters.base import Converter, ConverterOptions
from ..errors import ActionImgError, WorkerError
from ..schemas import ConvertOptions, PlanRow, ShardSidecar
from ..shards.crew import Crew
from ..shards.write import Progress, write_shard

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

MAX_CRASHES: Final = 2
"""Processes an episode may kill before it is quarantined."""

OnProgress = Callable[[Progress], None]
OnShard = Callable[[ShardSidecar], None]


@dataclass(frozen=True)
class Job:
    """All that a process needs to convert any shard of a plan; picklable."""

    out: Path
    plan: str
    converter: type[Converter]
    converter_options: ConverterOptions
    views: tuple[str, ...]
    options: ConvertOptions

    def run(
        self, row: PlanRow, report: OnProgress, skip: dict[str, str] | None = None, crew: Crew | None = None
    ) -> ShardSidecar:
        """Convert and publish one shard."""
        reader = self.converter(self.converter_options)
        return write_shard(self.out, row, self.plan, reader, self.views, self.options, report, skip, crew)


def run(job: Job, rows: Sequence[PlanRow], workers: int, on_progress: OnProgress, on_shard: OnShard) -> None:
    """Convert and publish shards.

    Args:
        job: What to do with a row.
        rows: The shards to make.
        workers: Cores to use: 1 for this process alone, else that many others, fewer where there are fewer shards.
        on_progress: Called in this process with what was done; what it raises stops the run.
        on_shard: Called in this process with every shard that was published.

    Raises:
        OutputError: The output cannot be written.
        WorkerError: Workers die before they begin an episode, or fail for a reason that is not about the data.
        KeyboardInterrupt: Passed on, when the workers have ended and their temporary files are gone.
    """
    if workers == 1:
        for row in rows:
            on_shard(job.run(row, on_progress))
        return
    _Pool(job, rows, workers, on_progress, on_shard).run()


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    row: PlanRow | None = None
    episode: str | None = None
    threads: int = 1


@dataclass
class _Pool:
    job: Job
    rows: Sequence[PlanRow]
    size: int
    on_progress: OnProgress
    on_shard: OnShard
    workers: list[_Worker] = field(default_factory=list)
    crashes: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    skip: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        todo = deque(self.rows)
        self.context = multiprocessing.get_context("spawn")
        try:
            while todo or any(w.row is not None for w in self.workers):
                while todo and len(self.workers) < self.size:
                    self._start(todo.popleft())
                self._share()
                ready = wait([w.pipe for w in self.workers])
                for worker in [w for w in self.workers if w.pipe in ready]:
                    self._hear(worker, todo)
        finally:
            self._stop()

    def _start(self, row: PlanRow) -> None:
        here, there = self.context.Pipe()
        process = self.context.Process(target=_work, args=(self.job, there), daemon=True)
        process.start()
        there.close()
        worker = _Worker(process, here)
        self.workers.append(worker)
        self._give(worker, row)

    def _give(self, worker: _Worker, row: PlanRow) -> None:
        worker.row, worker.episode = row, None
        # A worker that has died already is noticed when it is heard next.
        with contextlib.suppress(BrokenPipeError):
            worker.pipe.send((row, {e.id: self.skip[e.id] for e in row.episodes if e.id in self.skip}))

    def _share(self) -> None:
        """Tell the workers that are busy how many threads each may use: all cores, in even parts."""
        busy = [w for w in self.workers if w.row is not None]
        for i, worker in enumerate(busy):
            threads = self.size // len(busy) + (i < self.size % len(busy))
            if threads > worker.threads:
                worker.threads = threads
                with contextlib.suppress(BrokenPipeError):
                    worker.pipe.send(threads)

    def _hear(self, worker: _Worker, todo: deque[PlanRow]) -> None:
        try:
            message = worker.pipe.recv()
        except (EOFError, ConnectionError):
            self._crashed(worker, todo)
            return
        if isinstance(message, Progress):
            if message.begun:
                worker.episode = message.episode
            self.on_progress(message)
        elif isinstance(message, ShardSidecar):
            worker.row = None
            self.on_shard(message)
            if todo:
                self._give(worker, todo.popleft())
        elif isinstance(message, ActionImgError):
            raise message
        else:
            raise WorkerError(
                "failed for a reason that is not about the data",
                where=None if worker.row is None else worker.row.shard,
                found=message.strip().splitlines()[-1],
                hint=f"Please report this:\n{message}",
            )

    def _crashed(self, worker: _Worker, todo: deque[PlanRow]) -> None:
        self._end(worker)
        self.workers.remove(worker)
        row = worker.row
        if row is None:
            return
        code = worker.process.exitcode or 0
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        memory = ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
        self.crashes[row.shard, worker.episode] += 1
        count = self.crashes[row.shard, worker.episode]
        if count >= MAX_CRASHES:
            if worker.episode is None:
                raise WorkerError(
                    "workers die before they begin an episode",
                    where=row.shard,
                    found=how,
                    hint="A script that converts with several workers needs `if __name__ == '__main__':`.",
                )
            self.skip[worker.episode] = f"the worker died {count} times while it converted this episode: {how}{memory}"
        todo.appendleft(row)

    def _stop(self) -> None:
        for worker in self.workers:
            if worker.row is None:
                with contextlib.suppress(BrokenPipeError):
                    worker.pipe.send(None)
            else:
                worker.process.terminate()
        for worker in self.workers:
            self._end(worker)
        self.workers.clear()

    def _end(self, worker: _Worker) -> None:
        worker.process.join(5)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.pipe.close()
        if worker.row is not None:
            shard = self.job.out / f"{worker.row.shard}.tar"
            for path in shard.parent.glob(f"{shard.stem}.*-{worker.process.pid}.tmp"):
                path.unlink(missing_ok=True)


def _work(job: Job, pipe: Connection) -> None:
    """What a worker process does: rows in, progress and sidecars out, until the pipe closes."""
    # Ctrl-C goes to the whole group; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import cv2

    cv2.setNumThreads(1)

    def send(message: Any) -> None:
        try:
            pipe.send(message)
        except (BrokenPipeError, ConnectionError):
            # The parent is gone; SystemExit passes through the handling of bad episodes.
            raise SystemExit(1) from None

    crew = Crew()
    tasks: queue.SimpleQueue[tuple[PlanRow, dict[str, str]] | None] = queue.SimpleQueue()

    def listen() -> None:
        """Take what the parent says also while a shard is being made."""
        while True:
            try:
                message = pipe.recv()
            except (EOFError, ConnectionError):
                message = None
            if isinstance(message, int):
                crew.grow(message)
                continue
            tasks.put(message)
            if message is None:
                return

    threading.Thread(target=listen, daemon=True).start()
    while (task := tasks.get()) is not None:
        try:
            result: Any = job.run(task[0], send, task[1], crew)
        except ActionImgError as error:
            result = error
        except Exception:  # noqa: BLE001
            result = traceback.format_exc()
        send(result)

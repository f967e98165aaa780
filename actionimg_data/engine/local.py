"""Run shards in this process, or in processes of this machine.

Workers are spawned, get one shard at a time, and say what they do through a pipe, so that when one dies it is known
which shard and which episode it was at: the shard is tried again in a fresh process, and an episode that kills a second
one is quarantined. A worker with nothing left to do hands its core to the others, which then encode several views at
once: a long last episode does not leave the machine idle.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import queue
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

EARLY: Final = 4
"""Processes started before it is known how many shards there are to make."""

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


class Workers:
    """This process, or several others, that convert shards.

    Processes begin to start on construction, so that they are ready when the plan is.

    Args:
        count: Cores to use: 1 for this process alone, else that many others, fewer where there are fewer shards.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = _Pool(count) if count > 1 else None

    def __enter__(self) -> Workers:
        if self._pool is not None:
            self._pool.start(min(self.count, EARLY))
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.stop()

    def run(self, job: Job, rows: Sequence[PlanRow], on_progress: OnProgress, on_shard: OnShard) -> None:
        """Convert and publish shards.

        Args:
            job: What to do with a row.
            rows: The shards to make.
            on_progress: Called in this process with what was done; what it raises stops the run.
            on_shard: Called in this process with every shard that was published.

        Raises:
            OutputError: The output cannot be written.
            WorkerError: Workers die before they begin an episode, or fail for a reason that is not about the data.
            KeyboardInterrupt: Passed on; on leaving the context the workers end and their temporary files go.
        """
        if self._pool is not None:
            self._pool.run(job, rows, on_progress, on_shard)
            return
        import cv2

        # One worker is one core, for OpenCV too.
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            for row in rows:
                on_shard(job.run(row, on_progress))
        finally:
            cv2.setNumThreads(threads)


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    row: PlanRow | None = None
    episode: str | None = None
    threads: int = 1
    briefed: bool = False


class _Pool:
    def __init__(self, size: int) -> None:
        self.size = size
        self.context = multiprocessing.get_context("spawn")
        self.workers: list[_Worker] = []
        self.crashes: Counter[tuple[str, str | None]] = Counter()
        self.skip: dict[str, str] = {}

    def start(self, count: int) -> None:
        while len(self.workers) < count:
            here, there = self.context.Pipe()
            process = self.context.Process(target=_work, args=(there,), daemon=True)
            process.start()
            there.close()
            self.workers.append(_Worker(process, here))

    def run(self, job: Job, rows: Sequence[PlanRow], on_progress: OnProgress, on_shard: OnShard) -> None:
        self.job, self.on_progress, self.on_shard = job, on_progress, on_shard
        todo = deque(rows)
        while todo or any(w.row is not None for w in self.workers):
            self.start(min(self.size, len(todo) + sum(w.row is not None for w in self.workers)))
            for worker in self.workers:
                if todo and worker.row is None:
                    self._give(worker, todo.popleft())
            self._share()
            # The index at the end needs it; it loads now, while the workers work.
            importlib.import_module("pyarrow.parquet")
            ready = wait([w.pipe for w in self.workers])
            for worker in [w for w in self.workers if w.pipe in ready]:
                self._hear(worker, todo)

    def _give(self, worker: _Worker, row: PlanRow) -> None:
        worker.row, worker.episode = row, None
        # A worker that has died already is noticed when it is heard next.
        with contextlib.suppress(BrokenPipeError):
            if not worker.briefed:
                worker.pipe.send(self.job)
                worker.briefed = True
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

    def stop(self) -> None:
        for worker in self.workers:
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


def _work(pipe: Connection) -> None:
    """What a worker process does: a job and its rows in, progress and sidecars out, until the pipe closes."""
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
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        """Take what the parent says also while a shard is being made."""
        while True:
            try:
                message = pipe.recv()
            except (EOFError, ConnectionError):
                message = None
            except Exception:  # noqa: BLE001
                # A converter that cannot be unpickled here, say: the parent has to hear why.
                send(traceback.format_exc())
                message = None
            if isinstance(message, int):
                crew.grow(message)
                continue
            tasks.put(message)
            if message is None:
                return

    threading.Thread(target=listen, daemon=True).start()
    job: Job | None = tasks.get()
    while job is not None and (task := tasks.get()) is not None:
        try:
            result: Any = job.run(task[0], send, task[1], crew)
        except ActionImgError as error:
            result = error
        except Exception:  # noqa: BLE001
            result = traceback.format_exc()
        send(result)

"""Run shards as tasks of a Ray cluster, one task a shard.

Ray runs a task at least once, and so may we: the same row gives the same bytes under the same names. Ray itself retries
nothing here; the driver does, because it has to know what was lost. A task whose machine is gone runs again elsewhere,
also one that had published its shard and could not say so any more. A task whose process died runs again too, and an
episode at which two processes died is quarantined. What `Job.run_shard` raises ends the run.

Tasks tell what they do to a small actor on the driver's machine, which the driver asks once a second.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from ..errors import ActionImgError, InvalidSpecError, MissingExtraError, OutputError, WorkerError, install_hint
from ..schemas import ShardSidecar
from ..schemas.derived import DerivedSidecar
from ..shards import layout
from ..shards.crew import Crew
from ..shards.plan import tool_versions
from ..shards.write import WORKER_CRASHED, Progress, Skip
from .executor import MAX_CRASHES, AnyJob, OnProgress, OnShard, Row, Sidecar

MAX_LOST: Final = 20
"""Machines that a shard may lose before the run ends: by then it is not the machines."""

POLL_SECONDS: Final = 1.0
REPORT_SECONDS: Final = 1.0
CALL_SECONDS: Final = 60.0
"""What one call to the cluster may take."""

STOP_SECONDS: Final = 5.0
"""What tasks get to end by themselves before they are killed."""

STALL_SECONDS: Final = 60.0
"""After this, tasks that found no room are spoken of."""

QUEUED: Final = 2
"""Tasks submitted for each that has room, so that none waits for the driver and an autoscaler sees what is needed."""

_ENVIRONMENT: Final = "ACTIONIMG_"
_UNITS: Final = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskResources:
    """What one shard needs of a machine, as Ray counts it.

    Args:
        cpus: Cores; views of an episode are encoded side by side on them.
        memory: Bytes; None does not ask for any.
        gpus: GPUs, or a part of one.
        custom: Resources of the cluster's own, by name.
    """

    cpus: float = 1.0
    memory: int | None = None
    gpus: float = 0.0
    custom: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> TaskResources:
        """From ``cpus=2,memory=4GiB,highmem=1``.

        Raises:
            InvalidSpecError: A part is not NAME=NUMBER.
        """
        values: dict[str, float] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            match = re.fullmatch(r"([A-Za-z_][\w:.-]*)=(\d+(?:\.\d+)?)\s*([A-Za-z]*)", part)
            unit = _UNITS.get(match[3].lower()) if match else None
            if match is None or unit is None or (unit != 1 and match[1] != "memory") or match[1] in values:
                raise InvalidSpecError(
                    "is not what a task needs",
                    where="convert",
                    field="ray_task",
                    expected="e.g. cpus=2,memory=4GiB,gpus=1,NAME=1",
                    found=part,
                )
            values[match[1]] = float(match[2]) * unit
        cpus = values.pop("cpus", 1.0)
        if cpus <= 0:
            raise InvalidSpecError("must be positive", where="convert", field="ray_task cpus", found=cpus)
        memory = values.pop("memory", None)
        gpus = values.pop("gpus", 0.0)
        return cls(cpus, None if memory is None else int(memory), gpus, values)

    def options(self) -> dict[str, Any]:
        """As options of a Ray task."""
        options: dict[str, Any] = {"num_cpus": self.cpus, "max_retries": 0}
        if self.memory is not None:
            options["memory"] = self.memory
        if self.gpus:
            options["num_gpus"] = self.gpus
        if self.custom:
            options["resources"] = dict(self.custom)
        return options


@dataclass
class _Task:
    row: Row
    number: int
    episode: str | None = None


@dataclass(frozen=True)
class _Brief:
    """All that a task needs beside its row; the job is pickled, and read where the path to its converter is known."""

    job: bytes
    path: tuple[str, ...]
    versions: Mapping[str, str]
    environment: Mapping[str, str]
    threads: int


class RayExecutor:
    """Tasks of a Ray cluster that convert shards; an `Executor`.

    Args:
        num_workers: Shards under way at once; None for as many as the cluster has room for, now or when it grows.
        ray_address: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; by default the cluster of ``RAY_ADDRESS``, which a
            Ray job has set, else a cluster of this machine alone that ends with the run. A Ray that the process has
            already connected to is used as it is.
        task: What each shard needs of a machine.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(
        self, num_workers: int | None = None, ray_address: str | None = None, task: TaskResources | None = None
    ) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise MissingExtraError(
                "Ray is not installed", where="--executor ray", found=error, hint=install_hint("ray")
            ) from None
        self.num_workers = num_workers
        self.address = ray_address or os.environ.get("RAY_ADDRESS") or "local"
        self.task = task or TaskResources()
        self._own = False
        self._reporter: Any = None
        self._running: dict[Any, _Task] = {}
        self._numbers = itertools.count()
        self._by_number: dict[int, _Task] = {}
        self._told: dict[str, set[str]] = {}
        self._crashes: Counter[tuple[str, str | None]] = Counter()
        self._lost: Counter[str] = Counter()
        self._skip: dict[str, tuple[str, str]] = {}
        self._again: deque[Row] = deque()

    def __enter__(self) -> RayExecutor:
        if not self._ray.is_initialized():
            self._connect()
            self._own = True
        return self

    def _connect(self) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if self.address == "local":
            cpus = self.num_workers * max(1, round(self.task.cpus)) if self.num_workers else os.cpu_count()
            options |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": 100 << 20}
            if self.task.custom:
                options["resources"] = dict.fromkeys(self.task.custom, 1000000.0)
        with _keeping_signals():
            try:
                self._ray.init(self.address, **options)
            except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as error:
                self._ray.shutdown()
                raise WorkerError(
                    "cannot reach the Ray cluster",
                    where=self.address,
                    found=error,
                    hint="Is it running (ray status), and of the same Ray and Python version?",
                ) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._cancel()
        finally:
            if self._own:
                with _keeping_signals():
                    self._ray.shutdown()

    def _cancel(self) -> None:
        """End what is still running: first so that tasks can clean up, then for good."""
        ray = self._ray
        if not ray.is_initialized():
            return
        refs = list(self._running)
        self._running.clear()
        with contextlib.suppress(ray.exceptions.RayError):
            for ref in refs:
                ray.cancel(ref, force=False)
            if refs:
                _, left = ray.wait(refs, num_returns=len(refs), timeout=STOP_SECONDS)
                for ref in left:
                    ray.cancel(ref, force=True)
        if self._reporter is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(self._reporter)
            self._reporter = None

    # -- a run ---------------------------------------------------------------------------------------------------

    def run(self, job: AnyJob, rows: Iterable[Row], on_progress: OnProgress, on_shard: OnShard) -> None:
        """Convert and publish shards (see `Executor.run`)."""
        ray = self._ray
        job = job.placed(job.out.absolute())
        threads = max(1, int(self.task.cpus))
        environment = {k: v for k, v in os.environ.items() if k.startswith(_ENVIRONMENT)}
        brief = ray.put(_Brief(pickle.dumps(job), tuple(sys.path), tool_versions(), environment, threads))
        if self._reporter is None:
            self._reporter = ray.remote(_Reporter).options(num_cpus=0, max_restarts=-1, **self._here()).remote()
        remote = ray.remote(_run).options(**self.task.options())
        ahead = iter(rows)
        heard = time.monotonic()
        while True:
            limit = self._limit()
            while len(self._running) < limit:
                row = self._again.popleft() if self._again else next(ahead, None)
                if row is None:
                    break
                task = _Task(row, next(self._numbers))
                skip = {e.id: self._skip[e.id] for e in row.episodes if e.id in self._skip}
                self._by_number[task.number] = task
                self._running[remote.remote(brief, row, skip, self._reporter, task.number)] = task
            if not self._running:
                break
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=POLL_SECONDS)
            if self._drain(on_progress) or ready:
                heard = time.monotonic()
            elif time.monotonic() - heard > STALL_SECONDS:
                heard = time.monotonic()
                log.warning("no task has said anything for a minute; each needs %s of %s", self.task, self._room())
            for ref in ready:
                self._finish(ref, on_progress, on_shard)

    def _here(self) -> dict[str, Any]:
        """Options that keep the reporter on the driver's machine, where nothing of it is lost with another one."""
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        node = self._ray.get_runtime_context().get_node_id()
        return {"scheduling_strategy": strategies.NodeAffinitySchedulingStrategy(node, soft=True)}

    def _room(self) -> dict[str, float]:
        found: dict[str, float] = self._ray.cluster_resources()
        return {k: v for k, v in found.items() if k in ("CPU", "memory", *self.task.custom)}

    def _limit(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        return max(16, QUEUED * int(self._ray.cluster_resources().get("CPU", 1) / self.task.cpus))

    def _drain(self, on_progress: OnProgress) -> bool:
        """Pass on what the tasks have said; whether there was anything."""
        ray = self._ray
        try:
            found = ray.get(self._reporter.drain.remote(), timeout=CALL_SECONDS)
        except ray.exceptions.RayError:
            # What it held is lost with it: progress, not data. It starts again by itself.
            return False
        for number, event in found:
            self._hear(number, event, on_progress)
        return bool(found)

    def _hear(self, number: int, event: Progress, on_progress: OnProgress) -> None:
        task = self._by_number.get(number)
        if task is None:
            return
        if event.begun or event.ended:
            task.episode = event.episode if event.begun else None
        told = self._told.setdefault(task.row.shard, set())
        if event.episode in told:
            # Of an earlier try that died later.
            return
        if event.ended:
            told.add(event.episode)
        on_progress(event)

    def _finish(self, ref: Any, on_progress: OnProgress, on_shard: OnShard) -> None:
        exceptions = self._ray.exceptions
        task = self._running.pop(ref)
        try:
            result, rest = self._ray.get(ref, timeout=CALL_SECONDS)
        except (exceptions.NodeDiedError, exceptions.LocalRayletDiedError, exceptions.ObjectLostError) as error:
            self._lost_machine(task, error)
            return
        except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError) as error:
            self._crashed(task, error)
            return
        except exceptions.RayError as error:
            raise WorkerError(
                "failed for a reason that is not about the data", where=task.row.shard, found=_last_line(error)
            ) from error
        finally:
            self._by_number.pop(task.number, None)
        if isinstance(result, ActionImgError):
            raise result
        if not isinstance(result, (ShardSidecar, DerivedSidecar)):
            raise WorkerError(
                "failed for a reason that is not about the data",
                where=task.row.shard,
                found=str(result).strip().splitlines()[-1],
                hint=f"Please report this:\n{result}",
            )
        self._by_number[task.number] = task
        for event in rest:
            self._hear(task.number, event, on_progress)
        del self._by_number[task.number]
        self._told.pop(task.row.shard, None)
        on_shard(result)

    def _lost_machine(self, task: _Task, error: Exception) -> None:
        self._lost[task.row.shard] += 1
        if self._lost[task.row.shard] >= MAX_LOST:
            raise WorkerError(
                f"lost the machine it was made on {MAX_LOST} times", where=task.row.shard, found=_last_line(error)
            )
        self._again.append(task.row)

    def _crashed(self, task: _Task, error: Exception) -> None:
        shard, episode = task.row.shard, task.episode
        self._crashes[shard, episode] += 1
        count = self._crashes[shard, episode]
        if count >= MAX_CRASHES:
            if episode is None:
                # Between two episodes, or before it could say which: it may have been the machine.
                self._lost_machine(task, error)
                return
            how = type(error).__name__
            message = f"the Ray worker died {count} times while it converted this episode: {how}"
            self._skip[episode] = WORKER_CRASHED, message
        self._again.append(task.row)


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


@contextlib.contextmanager
def _keeping_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; what it was for before, stopping cleanly, has to stay."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


class _Reporter:
    """An actor that keeps what tasks say until the driver asks for it."""

    def __init__(self) -> None:
        self._events: list[tuple[int, Progress]] = []

    def report(self, number: int, events: list[Progress]) -> None:
        self._events += [(number, event) for event in events]

    def drain(self) -> list[tuple[int, Progress]]:
        events, self._events = self._events, []
        return events


class _Telling:
    """Tells the reporter what a task does: at once where an episode begins, else about once a second."""

    def __init__(self, reporter: Any, number: int) -> None:
        self._ray: Any = importlib.import_module("ray")
        self._reporter, self._number = reporter, number
        self._last = time.monotonic()
        self.rest: list[Progress] = []

    def __call__(self, event: Progress) -> None:
        self.rest.append(event)
        if event.begun or time.monotonic() - self._last > REPORT_SECONDS:
            self._last = time.monotonic()
            # Where the reporter is gone, what is left to say comes with the result.
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.get(self._reporter.report.remote(self._number, self.rest), timeout=CALL_SECONDS)
                self.rest = []


def _run(
    brief: _Brief, row: Row, skip: Skip, reporter: Any, number: int
) -> tuple[Sidecar | ActionImgError | str, list[Progress]]:
    """What a task does. Errors are returned, not raised, so that they arrive as what they are."""
    import cv2

    cv2.setNumThreads(1)
    os.environ.update(brief.environment)
    # A converter may be in a folder that only the driver knows; on other machines nothing is found there.
    sys.path += [place for place in brief.path if place not in sys.path]
    tell = _Telling(reporter, number)
    try:
        job: AnyJob = pickle.loads(brief.job)  # noqa: S301 (of our own driver)
        _check_machine(job, brief.versions)
        result: Sidecar | ActionImgError | str = job.run_shard(row, tell, skip, Crew(brief.threads))
    except ActionImgError as error:
        result = error
    except Exception:  # noqa: BLE001
        result = traceback.format_exc()
    return result, tell.rest


def _check_machine(job: AnyJob, versions: Mapping[str, str]) -> None:
    """Refuse a machine on which other bytes would be made, or from which the output is not seen."""
    here = tool_versions()
    other = sorted(name for name in here.keys() | versions.keys() if here.get(name) != versions.get(name))
    if other:
        raise WorkerError(
            "has other versions than the machine that made the plan, and would make other bytes",
            where=socket.gethostname(),
            expected=", ".join(f"{name} {versions.get(name)}" for name in other),
            found=", ".join(f"{name} {here.get(name)}" for name in other),
            hint="Run the same container image on every node.",
        )
    out = job.out
    if isinstance(out, Path) and not (out / layout.MANIFEST).is_file():
        raise OutputError(
            "is not the same folder on this machine",
            where=out,
            found=f"no {layout.MANIFEST} on {socket.gethostname()}",
            hint="With several machines OUT is on a shared file system, or a URL of an object store.",
        )

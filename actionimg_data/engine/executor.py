"""What every engine is: ``plan → run_shard(row) → commit``, wherever the middle step runs.

* **plan** (`conversion.plan`) fixes which episode goes to which shard, before anything is converted.
* **run_shard** (`Job.run_shard`) converts one row and publishes the shard, its sidecar last. It runs in any process on
  any machine, any number of times: the same row gives the same bytes under the same names.
* **commit** (`shards.manifest.finalize`) assembles index, quarantine and manifest from the sidecars, whoever wrote
  them.

An `Executor` is the middle step for many rows. What it must hold to:

* *Rows are lazy.* ``rows`` may have a million episodes: take a row when there is somewhere to run it, keep a bounded
  number under way, and let that be the back-pressure.
* *Data errors are results.* An episode that cannot be converted is in ``sidecar.quarantined``; it is never tried again
  here. What `Job.run_shard` raises is not about the data (the output cannot be written, a bug): it ends the run.
* *Lost processes are retried.* When a worker or its machine dies, its row runs again elsewhere. A row that kills
  `MAX_CRASHES` processes *at one episode* goes on without it: the episode is passed in ``skip`` and quarantined as
  ``worker-crashed``. Rows that die before any episode begins are an error (`WorkerError`), not a loop.
* *Callbacks run in the caller's process and thread.* What they raise (`TooManyBadEpisodesError`, `KeyboardInterrupt`)
  stops the run; on leaving the context nothing of it is left running, and no temporary file of its workers.
* *Nothing waits for ever.* Every wait on another process has a limit or notices that process's end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Protocol

from ..converters.base import Converter, ConverterOptions
from ..converters.remote import SourceReader
from ..schemas import ConvertOptions, PlanRow, ShardSidecar
from ..shards.crew import Crew
from ..shards.layout import Place
from ..shards.write import Progress, write_shard

MAX_CRASHES: Final = 2
"""Processes an episode may kill before it is quarantined."""

ExecutorName = Literal["local", "ray"]
OnProgress = Callable[[Progress], None]
OnShard = Callable[[ShardSidecar], None]


@dataclass(frozen=True)
class Job:
    """All that a process needs to convert any shard of a plan; picklable."""

    out: Place
    plan: str
    converter: type[Converter]
    converter_options: ConverterOptions
    views: tuple[str, ...]
    options: ConvertOptions
    grippers: tuple[str, ...] = ()

    def run_shard(
        self, row: PlanRow, report: OnProgress, skip: dict[str, str] | None = None, crew: Crew | None = None
    ) -> ShardSidecar:
        """Convert and publish one shard.

        Args:
            row: The shard.
            report: Called with what was done, in the process and thread that does it.
            skip: Episodes to quarantine unread, id to message: those that killed the process that read them.
            crew: Threads to encode with; the calling one alone by default.

        Raises:
            OutputError: The shard cannot be written.
            CorruptDatasetError: What was read back is not what was written.
        """
        reader = SourceReader(self.converter(self.converter_options))
        return write_shard(
            self.out, row, self.plan, reader, self.views, self.options, report, skip, crew, self.grippers
        )


class Executor(Protocol):
    """Runs the shards of a plan; a context manager that leaves nothing running behind."""

    def __enter__(self) -> Executor:
        """Begin to start workers, so that they are ready when the plan is."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every worker and remove its temporary files."""
        ...

    def run(self, job: Job, rows: Iterable[PlanRow], on_progress: OnProgress, on_shard: OnShard) -> None:
        """Convert and publish shards.

        Args:
            job: What to do with a row.
            rows: The shards to make, taken as there is room for them.
            on_progress: Called here with what was done; what it raises stops the run. An executor whose workers are on
                other machines may report an episode's begin, frames and end together when its shard is done.
            on_shard: Called here with every shard that was published.

        Raises:
            OutputError: The output cannot be written.
            WorkerError: Workers die before they begin an episode, or fail for a reason that is not about the data.
            KeyboardInterrupt: Passed on.
        """
        ...


def make_executor(
    name: ExecutorName, num_workers: int | None = None, ray_address: str | None = None, ray_task: str | None = None
) -> Executor:
    """The executor of a name.

    Args:
        name: ``local``: processes of this machine; ``ray``: tasks of a Ray cluster.
        num_workers: Cores to use, by default 1; for Ray the number of shards under way at once, by default as many as
            there is room for.
        ray_address: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; by default a cluster of this machine alone.
        ray_task: What a shard needs of a machine, e.g. ``cpus=2,memory=4GiB``.

    Raises:
        MissingExtraError: Ray is not installed.
        InvalidSpecError: ``ray_task`` is something else.
    """
    if name == "ray":
        from .ray import RayExecutor, TaskResources

        return RayExecutor(num_workers, ray_address, TaskResources.parse(ray_task or ""))
    from .local import Workers

    return Workers(num_workers or 1)

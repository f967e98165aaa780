"""What every engine is: ``plan → run_shard(row) → commit``, wherever the middle step runs.

* **plan** (`conversion.plan`) fixes which episode goes to which shard, before anything is converted.
* **run_shard** (`Job.run_shard`) converts one row and publishes the shard, its sidecar last. It runs in any process on
  any machine, any number of times: the same row gives the same bytes under the same names.
* **commit** (`shards.manifest.assemble`) assembles index, quarantine and manifest from the sidecars, whoever wrote
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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Final, Protocol

from ..converters.cache import CacheSettings, cache_settings
from ..schemas import PlanRow, ShardSidecar
from ..schemas.derived import DerivedSidecar
from ..shards.crew import Crew
from ..shards.layout import Place
from ..shards.prepare import Recipe, WatchedReader
from ..shards.write import Progress, Skip, write_shard

MAX_CRASHES: Final = 2
"""Processes an episode may kill before it is quarantined."""

OnProgress = Callable[[Progress], None]
Sidecar = ShardSidecar | DerivedSidecar
OnShard = Callable[[Any], None]
"""Called with the sidecar of a shard, of the kind that its job makes."""


class Unit(Protocol):
    """What a shard is made of, one after the other: an episode, or a sample to derive from."""

    @property
    def id(self) -> str:
        """What progress is told by, and what is left out where it kills processes."""
        ...


class Row(Protocol):
    """A shard to make."""

    @property
    def shard(self) -> str:
        """Its name below the job's ``out``."""
        ...

    @property
    def episodes(self) -> Sequence[Unit]:
        """What it is made of."""
        ...


class AnyJob(Protocol):
    """What a process needs to make any shard of a plan; a picklable dataclass."""

    @property
    def out(self) -> Place:
        """Folder of the data set."""
        ...

    @property
    def source(self) -> str:
        """Where episodes come from, to see whether that is still there; empty where nobody can know."""
        ...

    def placed(self, out: Place) -> AnyJob:
        """The same job for an ``out`` that is named in another way."""
        ...

    def run_shard(self, row: Any, report: OnProgress, skip: Skip | None = None, crew: Crew | None = None) -> Sidecar:
        """Make and publish one shard; see `Job.run_shard`."""
        ...


@dataclass(frozen=True)
class Job:
    """All that a process needs to convert any shard of a plan; picklable."""

    out: Place
    plan: str
    reader: WatchedReader
    recipe: Recipe
    source: str = ""
    cache: CacheSettings = field(default_factory=cache_settings)

    def placed(self, out: Place) -> Job:
        """The same job for an ``out`` that is named in another way."""
        return replace(self, out=out)

    def run_shard(
        self, row: PlanRow, report: OnProgress, skip: Skip | None = None, crew: Crew | None = None
    ) -> ShardSidecar:
        """Convert and publish one shard.

        Args:
            row: The shard.
            report: Called with what was done, in the process and thread that does it.
            skip: Episodes to quarantine unread: those that killed the process that read them, or took too long.
            crew: Threads to encode with; the calling one alone by default.

        Raises:
            OutputError: The shard cannot be written.
            CorruptDatasetError: What was read back is not what was written.
            SourceGoneError: The source is not there any more.
        """
        with self.cache.used():
            return write_shard(
                self.out,
                row,
                self.plan,
                self.reader,
                self.recipe,
                report=report,
                skip=skip,
                crew=crew,
                source=self.source,
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

    def run(self, job: AnyJob, rows: Iterable[Row], on_progress: OnProgress, on_shard: OnShard) -> None:
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

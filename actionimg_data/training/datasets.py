"""Torch data sets over action-image shards: a stream for training, a table for evaluation, and a mix of several."""

from __future__ import annotations

import os
import secrets
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.distributed
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ..errors import ActionImgError, InvalidSpecError
from ..schemas import ActionImageSpec
from .course import Course, Mark, Progress, Split, merged, states_in
from .options import SampleOptions, StreamOptions, refuse_unknown, told
from .order import MixedOrder, Order, ShardOrder
from .process import refuse_second_dealing, this_process
from .sample import SampleReader
from .source import open_sources

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Sample = dict[str, Any]

MIXED_SEED = 0x6D6978
_RATE_TOLERANCE = 1e-3
_WORKERS: Final = 1024
"""Workers of a process that can tell whether they have begun since a restart."""


class SkippedSampleWarning(UserWarning):
    """A damaged sample was left out, because the data set was told to."""


class _Stream(IterableDataset[Sample]):  # type: ignore[misc]
    """Samples of one or more readers in an order: distributed, resumable, deterministic."""

    def __init__(
        self, readers: Sequence[SampleReader], names: Sequence[str], order: Order, stream: StreamOptions, seed: int
    ) -> None:
        super().__init__()
        self._readers, self._names, self._order, self._options = list(readers), list(names), order, stream
        self._process: tuple[int, int] | None = None
        # Shared, so that what is said here reaches workers that live on (persistent_workers).
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._dry = torch.zeros((), dtype=torch.int64).share_memory_()
        self._begun = torch.zeros(_WORKERS, dtype=torch.int64).share_memory_()
        self._at: Progress | None = None
        self._resume: tuple[Progress | None, Mark | None] = (None, None)
        self._ticket = secrets.randbits(62)
        self._identity = self._told(seed)

    def __getstate__(self) -> dict[str, Any]:
        # A worker process that is spawned knows of no process group; here it is known when its loader begins.
        rank, ranks = self._rank_of(self._options)
        refuse_second_dealing(self, ranks)
        return {**self.__dict__, "_process": (rank, ranks)}

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration starts with, or goes on in."""
        return int(self._epoch)

    @property
    def skipped(self) -> int:
        """Damaged samples that the latest iteration in this process has left out."""
        return 0 if self._at is None else self._at.skipped

    @property
    def epoch_samples(self) -> int:
        """Samples in an epoch, over all processes."""
        return len(self._order) - len(self._order) % self._turn(self._split())

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next: another order, other windows, views and modes."""
        if epoch < 0:
            raise InvalidSpecError("must not be negative", field="epoch", found=epoch)
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Samples that this process gets in all epochs.

        Raises:
            TypeError: It goes on without end (``epochs=None``).
        """
        if self._options.epochs is None:
            raise TypeError("a stream with epochs=None has no length")
        split = self._split()
        return split.count(len(Course(len(self._order), Mark(0), self._options.epochs, self._turn(split))))

    def __iter__(self) -> Iterator[Sample]:
        split = self._split()
        refuse_second_dealing(self, split.ranks)
        if int(self._dry):
            begin = Progress(split, Mark(self.epoch), self._turn(split), self.epoch + 1, 0)
            return self._places(begin)
        self._at = self._beginning(split)
        self._begun[min(split.worker, _WORKERS - 1)] = self._ticket
        return self._samples()

    def _samples(self) -> Iterator[Sample]:
        """This worker's samples; ``_at`` is kept up to date while it runs."""
        at = self._at
        assert at is not None
        course = Course(len(self._order), at.mark, at.until, at.turn)
        if course.is_empty:
            return
        split, taken, skipped = at.split, at.taken, at.skipped
        for number in split.numbers(course.total, taken):
            sample = None
            try:
                sample = self._sample(*course.at(number))
            except (ActionImgError, OSError) as error:
                skipped += 1
                self._skip(error, self._where(*course.at(number)), skipped)
            taken += 1
            self._at = Progress(split, at.mark, at.turn, at.until, taken, skipped, self._identity)
            if sample is not None:
                yield sample

    def _sample(self, epoch: int, position: int) -> Sample:
        place = self._order.at(epoch, position)
        sample = self._readers[place.source].draw(place.row, place.turn)
        sample["source"] = self._names[place.source]
        return sample

    def _where(self, epoch: int, position: int) -> str:
        place = self._order.at(epoch, position)
        return self._readers[place.source].source.where(place.row)

    def _skip(self, error: ActionImgError | OSError, where: str, skipped: int) -> None:
        if self._options.on_error == "raise" or skipped > self._options.max_errors:
            raise (error.at(where) if isinstance(error, ActionImgError) else error) from None
        warnings.warn(f"left out {where}: {error}", SkippedSampleWarning, stacklevel=3)

    # -- who takes what ------------------------------------------------------------------------------------------

    def _rank_of(self, options: StreamOptions) -> tuple[int, int]:
        if options.rank is not None and options.world_size is not None:
            return options.rank, options.world_size
        if self._process is not None and get_worker_info() is not None:
            return self._process
        return this_process()

    def _split(self) -> Split:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        return Split(*self._rank_of(self._options), worker, workers, self._options.batch_size)

    def _turn(self, split: Split) -> int:
        return split.ranks * split.batch if self._options.drop_last else 1

    def _beginning(self, split: Split) -> Progress:
        """Where this worker begins: where it was told to go on, once, and only in that epoch."""
        (own, marked), turn, epochs = self._resume, self._turn(split), self._options.epochs
        used = int(self._begun[min(split.worker, _WORKERS - 1)]) == self._ticket
        mark = Mark(self.epoch)
        if not used:
            if own is not None and own.split == split and (marked is None or marked.epoch == self.epoch):
                return replace(own, turn=turn, identity=self._identity)
            if marked is not None and marked.epoch == self.epoch:
                mark = marked
        until = None if epochs is None else mark.first_epoch + epochs
        return Progress(split, mark, turn, until, 0, 0, self._identity)

    @property
    def task_odds(self) -> dict[str, dict[str, float]]:
        """How often each task is drawn, by data set: a data set without cameras is drawn as ``video_only`` alone."""
        return {name: dict(reader.modes) for name, reader in zip(self._names, self._readers, strict=True)}

    def describe(self, epoch: int | None = None) -> dict[str, Any]:
        """What an epoch holds, over all processes: how often each data set, task and view is drawn.

        What is drawn is a function of the seed, the epoch and the sample, so these are that epoch's very draws, and no
        odds. Nothing is read.

        Args:
            epoch: Which one; the one that comes next by default.

        Returns:
            ``samples`` and ``sources``, by name: ``samples`` of the epoch and their ``share``; ``stored`` and
            ``usable`` samples; ``cameras`` (robot, own or none) and ``actions`` (whether there are action images);
            ``odds`` of the tasks and how often each was ``drawn``; ``views`` and how often each was.
        """
        number = self.epoch if epoch is None else epoch
        tasks = [Counter[str]() for _ in self._readers]
        views = [Counter[str]() for _ in self._readers]
        total = self.epoch_samples
        for position in range(total):
            place = self._order.at(number, position)
            drawn = self._readers[place.source].drawn(place.row, place.turn)
            tasks[place.source][drawn.mode] += 1
            views[place.source].update(drawn.views)
        sources = {}
        for name, reader, modes, shown in zip(self._names, self._readers, tasks, views, strict=True):
            count = modes.total()
            sources[name] = {
                "samples": count,
                "share": count / total if total else 0.0,
                "stored": len(reader.source),
                "usable": len(reader.usable()),
                "cameras": reader.source.camera_frame,
                "actions": reader.source.calibrated,
                "odds": dict(reader.modes),
                "drawn": dict(sorted(modes.items())),
                "views": dict(sorted(shown.items())),
            }
        return {"epoch": number, "samples": total, "sources": sources}

    # -- restarts ------------------------------------------------------------------------------------------------

    def _told(self, seed: int) -> dict[str, Any]:
        """What decides the samples and their order, by name."""
        sources = {}
        for name, reader in zip(self._names, self._readers, strict=True):
            facts = {"data set": reader.source.manifest.plan, "samples": len(reader.source)}
            facts |= {f"member {member.name}": member.fingerprint for member in reader.members}
            sources[name if len(self._names) > 1 else ""] = {**facts, **reader.options.identity()}
        facts = {f"{name}: {field}" if name else field: v for name, s in sources.items() for field, v in s.items()}
        return {**facts, **self._order.identity(), "seed": seed, "samples of an epoch": len(self._order)}

    def state_dict(self) -> dict[str, Any]:
        """Where this worker is: give it to `load_state_dict` of a data set of the same samples to go on from there.

        torchdata's ``StatefulDataLoader`` collects and restores the states of its workers. Beside another loader see
        `state_after`.
        """
        if self._at is None and get_worker_info() is None and bool((self._begun == self._ticket).any()):
            raise InvalidSpecError(
                "is in the loader's workers",
                field="state_dict",
                hint="Use torchdata's StatefulDataLoader, or state_after(batches).",
            )
        return (self._at or self._beginning(self._split())).to_json()

    def state_after(self, batches: int) -> dict[str, Any]:
        """The state after this process was given so many batches since the epoch began, or was resumed.

        For loaders that keep no state, whatever their workers have fetched ahead. It is taken that all processes have
        been given as many.

        Raises:
            InvalidSpecError: With ``on_error="skip"``: how many places batches take is then not known.
        """
        if self._options.on_error == "skip":
            raise InvalidSpecError("is not known where samples are skipped", field="on_error", expected="raise")
        rank, ranks = self._rank_of(self._options)
        split = Split(rank, ranks, 0, 1, self._options.batch_size)
        begin = self._beginning(split)
        taken = begin.taken + batches * split.batch
        return Progress(split, begin.mark, begin.turn, begin.until, taken, 0, self._identity).to_json()

    def load_state_dict(self, state: Any) -> None:
        """Go on from a state, with any number of processes and workers: each sample comes once an epoch.

        With the numbers that it was taken with, batches are exactly those that would have come.

        Args:
            state: Of `state_dict` or `state_after`; of a loader that has it from there (``StatefulDataLoader``), whose
                processes have all come as far; or a list of those of all processes.

        Raises:
            InvalidSpecError: It is of other data or other options, which are named; or some are missing.
        """
        parts = [Progress.from_json(found) for found in states_in(state)]
        if not parts:
            raise InvalidSpecError("is no state of a training data set", field="state", found=type(state).__name__)
        for part in parts:
            self._check_identity(part.identity)
        split = self._split()
        own = next((part for part in parts if part.split == split and part.turn == self._turn(split)), None)
        if own is not None and get_worker_info() is not None:
            # A loader tells each worker its own state, and none those of the others.
            self._resume = (own, None)
            self._epoch.fill_(own.mark.first_epoch)
        else:
            mark = merged(parts, len(self._order))
            # Of one process alone it is not known whether samples were left out, and with that how far others are.
            self._resume = (own if len(parts) == 1 else None, mark)
            self._epoch.fill_(mark.epoch)
        self._at = None
        # By it each worker knows whether it has begun since, so that the next epoch is a whole one.
        self._ticket = secrets.randbits(62)

    def _check_identity(self, found: Mapping[str, Any]) -> None:
        mine = self._identity
        for name in [*mine, *(name for name in found if name not in mine)]:
            if mine.get(name) != found.get(name):
                raise InvalidSpecError(
                    "the state is of another run",
                    field=name,
                    expected=mine.get(name),
                    found=found.get(name),
                    hint="Data and options that decide the samples have to be those of the run that stopped.",
                )

    # -- nothing lost --------------------------------------------------------------------------------------------

    def check(self, loader: Iterable[Any]) -> int:
        """Go through an epoch of a loader without reading a sample, and refuse one that loses or doubles any.

        All processes call it. It takes whatever stands between this data set and the training step: wrappers that deal
        samples out once more, or that drop batches.

        Args:
            loader: What the training step will iterate over; its batches are those of `collate`, or torch's own.

        Returns:
            Samples that this process was given.

        Raises:
            InvalidSpecError: Some samples of the epoch came to no process, or to several.
        """
        self._dry.fill_(1)
        try:
            mine = [int(place) for batch in loader for place in _positions(batch, loader)]
        finally:
            self._dry.fill_(0)
        rank, ranks = self._rank_of(self._options)
        expected: Iterable[int] = range(self.epoch_samples)
        seen = [mine]
        if ranks > 1 and torch.distributed.is_available() and torch.distributed.is_initialized():
            seen = [[] for _ in range(ranks)]
            torch.distributed.all_gather_object(seen, mine)
        elif ranks > 1:
            expected = Split(rank, ranks, 0, 1, self._options.batch_size).numbers(self.epoch_samples)
        counts = Counter(place for places in seen for place in places)
        wanted = list(expected)
        lost = sum(place not in counts for place in wanted)
        twice = sum(number > 1 for number in counts.values())
        if lost or twice:
            raise InvalidSpecError(
                "the loader does not give each sample of an epoch once",
                where=type(loader).__name__,
                expected=f"{len(wanted)} samples",
                found=f"{lost} lost, {twice} more than once",
                hint="Does anything shard, dispatch or skip batches behind this data set, which deals them out itself?",
            )
        return len(mine)

    def _places(self, begin: Progress) -> Iterator[Sample]:
        course = Course(len(self._order), begin.mark, begin.until, begin.turn)
        for number in begin.split.numbers(course.total):
            yield {"position": torch.tensor(course.at(number)[1])}


def _positions(batch: Any, loader: object) -> torch.Tensor:
    if not isinstance(batch, Mapping) or "position" not in batch:
        raise InvalidSpecError(
            "its batches do not say which samples they are of",
            where=type(loader).__name__,
            expected="batches as collate makes them, of a loader that has not begun",
            found=type(batch).__name__,
        )
    return torch.as_tensor(batch["position"]).flatten()


class ActionImageDataset(_Stream):
    """A stream of windows over the samples of a data set, as the published training code reads them.

    ``ActionImageDataset("out", sample=SampleOptions(num_frames=41), stream=StreamOptions(batch_size=2))``, or with the
    options as keywords. Each epoch takes every stored sample once and cuts one window of it, from views drawn without
    repetition. What is drawn (order, window, views, instruction, mode) is a function of the seed, the epoch and the
    sample; the number of workers does not change it. The sample's keys and every option are in docs/training.md.

    Args:
        paths: A data set's folder or fsspec URL, or shards (``.tar``) of one data set.
        sample: How samples are cut.
        stream: In which order they come, and to whom.
        filter: Only samples for which this pyarrow expression over the columns of ``index.parquet`` holds, or this text
            of one (``'task == "stack" and frames > 100'``, as ``actionimg inspect --list --where`` takes it).
        verify: Hold every member that is read against its checksum.
        storage_options: What fsspec needs for a URL.
        options: Fields of `SampleOptions` and `StreamOptions`, in place of theirs.

    Raises:
        InvalidSpecError: An option is out of its range or does not fit the data set.
        SourceNotFoundError, WrongFormatError, CorruptDatasetError, EmptyEpisodeError: The data set is not there, not
            one, damaged, or empty.
        UnsafeFileError: A path that begins with ``pipe:``.
    """

    def __init__(
        self,
        paths: Paths,
        sample: SampleOptions | None = None,
        stream: StreamOptions | None = None,
        *,
        filter: pc.Expression | str | None = None,
        verify: bool = True,
        storage_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        sample, stream = told(SampleOptions, sample, options), told(StreamOptions, stream, options)
        refuse_unknown(options)
        source = open_sources(paths, filter=filter, verify=verify, storage_options=storage_options)
        reader = SampleReader(source, sample)
        rows = reader.usable()
        order = ShardOrder(rows, source.shards[rows], stream.shuffle_buffer, stream.shuffle, sample.seed)
        super().__init__([reader], [source.path], order, stream, sample.seed)

    @property
    def spec(self) -> ActionImageSpec:
        """How action images are drawn, at this size."""
        return self._readers[0].spec


class ConcatActionImageDataset(_Stream):
    """Several data sets, mixed by ratio, at one frame rate.

    ``ConcatActionImageDataset({"rlbench": 0.5, "bridge": 0.3, "droid": 0.2}, root="data", fps=5)``

    An epoch has as many samples as its sources together, or ``epoch_samples``; each source contributes its share of
    them exactly. A source whose share is larger than itself starts over with another order and other windows, one whose
    share is smaller goes on in the next epoch. Each sample names its ``source``.

    Args:
        ratios: Share of each data set, by its path, or by a name that ``paths`` resolves.
        paths: Paths (as `ActionImageDataset` takes them) by name; by default the names are the paths.
        root: Folder or URL that relative paths are in.
        frame_stride: Instead of ``fps``, the one rate: stored frames to a frame, for all or by name.
        allow_different_rates: Declare that the windows of the sources may span different times.
        epoch_samples: Samples in an epoch.
        sample: As `ActionImageDataset`, for all sources.
        stream: As `ActionImageDataset`.
        view_names: As of `SampleOptions`, for all or by name.
        filter: As `ActionImageDataset`, for all sources.
        verify: As `ActionImageDataset`.
        storage_options: As `ActionImageDataset`.
        options: Fields of `SampleOptions` and `StreamOptions`, in place of theirs.

    Raises:
        InvalidSpecError: As `ActionImageDataset`; a ratio is not positive; windows would span different times and that
            was not declared; or the sources are drawn in different ways.
    """

    def __init__(
        self,
        ratios: Mapping[str, float],
        sample: SampleOptions | None = None,
        stream: StreamOptions | None = None,
        *,
        paths: Mapping[str, Paths] | None = None,
        root: str | os.PathLike[str] | None = None,
        frame_stride: int | Mapping[str, int] | None = None,
        view_names: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
        allow_different_rates: bool = False,
        epoch_samples: int | None = None,
        filter: pc.Expression | str | None = None,
        verify: bool = True,
        storage_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if not ratios:
            raise InvalidSpecError("no data set named", field="ratios")
        bad = next((name for name, ratio in ratios.items() if not (np.isfinite(ratio) and ratio > 0)), None)
        if bad is not None:
            raise InvalidSpecError("must be positive", field=f"ratios[{bad}]", found=ratios[bad])
        sample, stream = told(SampleOptions, sample, options), told(StreamOptions, stream, options)
        refuse_unknown(options)
        names = list(ratios)
        readers, orders = [], []
        for number, name in enumerate(names):
            place = name if paths is None else paths.get(name)
            if place is None:
                raise InvalidSpecError("has no path", field=f"paths[{name}]", expected="a path", found="nothing")
            own = {"frame_stride": _of(frame_stride, name), "view_names": _of(view_names, name)}
            settings = told(SampleOptions, sample, {field: value for field, value in own.items() if value is not None})
            source = open_sources(_below(root, place), filter=filter, verify=verify, storage_options=storage_options)
            reader = SampleReader(source, settings)
            rows = reader.usable()
            readers.append(reader)
            shards = source.shards[rows]
            orders.append(ShardOrder(rows, shards, stream.shuffle_buffer, stream.shuffle, sample.seed + number))
        _check_rates(names, readers, allow_different_rates)
        _check_specs(names, readers)
        total = sum(map(len, orders)) if epoch_samples is None else epoch_samples
        if total < 1:
            raise InvalidSpecError("must be positive", field="epoch_samples", expected=">= 1", found=total)
        order = MixedOrder(orders, list(ratios.values()), total, sample.seed + MIXED_SEED)
        super().__init__(readers, names, order, stream, sample.seed)

    @property
    def spec(self) -> ActionImageSpec:
        """How action images are drawn, at this size."""
        return self._readers[0].spec


class IndexedActionImageDataset(Dataset[Sample]):  # type: ignore[misc]
    """The same samples by number or key, for evaluation: each read by its place in the shard.

    Everything drawn is the same in every run, and as the stream's first epoch for an equal seed.

    Args:
        paths: As `ActionImageDataset`.
        sample: As `ActionImageDataset`.
        filter: Only samples for which this pyarrow expression over the columns of ``index.parquet`` holds, e.g.
            ``(pc.field("frames") >= 41) & (pc.field("decode_position_p95_mm") < 0.5)`` or
            ``pc.match_substring(pc.field("instruction"), "drawer")``; or the text of one, as
            ``actionimg inspect --list --where`` takes it: ``'frames >= 41 and "drawer" in instruction'``.
        verify: Hold every member that is read against its checksum.
        storage_options: What fsspec needs for a URL.
        options: Fields of `SampleOptions`, in place of those of ``sample``.

    Raises:
        As `ActionImageDataset`.
    """

    def __init__(
        self,
        paths: Paths,
        sample: SampleOptions | None = None,
        *,
        filter: pc.Expression | str | None = None,
        verify: bool = True,
        storage_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        sample = told(SampleOptions, sample, options)
        refuse_unknown(options)
        self._source = open_sources(paths, filter=filter, verify=verify, storage_options=storage_options)
        self._reader = SampleReader(self._source, sample)
        self._rows = self._reader.usable()

    @property
    def spec(self) -> ActionImageSpec:
        """How action images are drawn, at this size."""
        return self._reader.spec

    @property
    def table(self) -> pa.Table:
        """The index of these samples: ``shard, frames, fps, instruction, task``, decode errors, and more."""
        return self._source.table.take(pa.array(self._rows))

    @property
    def keys(self) -> list[str]:
        """Keys of these samples."""
        return [self._source.key(row) for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | str) -> Sample:
        return self.sample(index)

    def sample(
        self,
        index: int | str,
        *,
        start: int | None = None,
        views: Sequence[str] | None = None,
        mode: str | None = None,
    ) -> Sample:
        """A sample by number or key, with the window, views or mode that are given, the others drawn.

        Raises:
            IndexError, KeyError: There is no such sample.
        """
        if isinstance(index, str):
            row = self._source.row_of(index)
            if row not in self._rows:
                raise KeyError(index)
        else:
            row = int(self._rows[index])
        sample = self._reader.draw(row, 0, start=start, views=views, mode=mode)
        sample["source"] = self._source.path
        return sample


def _below(root: str | os.PathLike[str] | None, place: Paths) -> Paths:
    if root is None:
        return place
    if not isinstance(place, (str, os.PathLike)):
        return [str(_below(root, one)) for one in place]
    text = os.fspath(place)
    return text if os.path.isabs(text) or ":" in text else f"{os.fspath(root).rstrip('/')}/{text}"


def _of(value: Any, name: str) -> Any:
    """What is said for one source: for all, or by its name."""
    return value.get(name) if isinstance(value, Mapping) else value


def _check_rates(names: Sequence[str], readers: Sequence[SampleReader], allowed: bool) -> None:
    """Refuse sources whose windows span different times, unless that is declared."""
    rates = [float(r.source.fps[0]) / r.options.stride(float(r.source.fps[0]), r.source.path) for r in readers]
    if allowed or max(rates) <= min(rates) * (1 + _RATE_TOLERANCE):
        return
    frames = readers[0].options.num_frames
    raise InvalidSpecError(
        "windows would span different times",
        field="fps",
        expected="one rate",
        found=", ".join(
            f"{n}: {frames} frames at {r:g} Hz = {frames / r:.3g} s" for n, r in zip(names, rates, strict=True)
        ),
        hint="Give fps=, or frame_stride= by name, or allow_different_rates=True.",
    )


def _check_specs(names: Sequence[str], readers: Sequence[SampleReader]) -> None:
    """Refuse sources whose action images are drawn in different ways."""
    arms = [reader.grippers for reader in readers]
    mixed = next((i for i, found in enumerate(arms) if found != arms[0]), None)
    if mixed is not None:
        raise InvalidSpecError(
            "has other grippers, so that samples do not fit into one batch",
            where=names[mixed],
            field="grippers",
            expected=f"{' '.join(arms[0]) or 'one'}, as {names[0]}",
            found=" ".join(arms[mixed]) or "one",
        )
    ids = [reader.spec.id for reader in readers]
    other = next((i for i, found in enumerate(ids) if found != ids[0]), None)
    if other is not None:
        raise InvalidSpecError(
            "action images are drawn in different ways",
            where=names[other],
            field="spec",
            expected=f"{readers[0].spec!r}, as {names[0]}",
            found=f"{readers[other].spec!r}",
        )

"""Torch data sets over action-image shards: a stream for training, a table for evaluation, and a mix of several."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.distributed
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ..errors import ActionImgError, InvalidSpecError
from ..schemas import ActionImageSpec
from .modes import LATENT_STRIDE, PUBLISHED_ODDS
from .order import MixedOrder, Order, ShardOrder, Split
from .sample import Action, Arms, Axes, Pixels, SampleOptions, SampleReader, Short
from .source import open_sources

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Sample = dict[str, Any]

MIXED_SEED = 0x6D6978
_RATE_TOLERANCE = 1e-3


class SkippedSampleWarning(UserWarning):
    """A damaged sample was left out, because the data set was told to."""


def _size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, (int, np.integer)) else size


def sample_options(
    size: int | tuple[int, int] = 512, view_names: Sequence[str] | None = None, **options: Any
) -> SampleOptions:
    """Options of a sample from keyword arguments.

    Raises:
        InvalidSpecError: One is unknown or outside its range.
    """
    height, width = _size(size)
    try:
        return SampleOptions(
            height=height, width=width, view_names=None if view_names is None else tuple(view_names), **options
        )
    except TypeError as error:
        raise InvalidSpecError(str(error).partition("__init__() ")[2], field="options") from None


def _process() -> tuple[int, int]:
    """Rank and number of processes, of torch.distributed or, before it is set up, of torchrun's variables."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class _Stream(IterableDataset[Sample]):  # type: ignore[misc]
    """Samples of one or more readers in an order: distributed, resumable, deterministic."""

    def __init__(
        self,
        readers: Sequence[SampleReader],
        names: Sequence[str],
        order: Order,
        *,
        seed: int,
        batch_size: int,
        drop_last: bool,
        epochs: int | None,
        rank: int | None,
        world_size: int | None,
        on_error: Literal["raise", "skip"],
        max_errors: int,
    ) -> None:
        super().__init__()
        if on_error not in ("raise", "skip"):
            raise InvalidSpecError("no such choice", field="on_error", expected="raise | skip", found=on_error)
        for name, value in (("batch_size", batch_size), ("epochs", 1 if epochs is None else epochs)):
            if value < 1:
                raise InvalidSpecError("must be positive", field=name, expected=">= 1", found=value)
        if (rank is None) != (world_size is None):
            raise InvalidSpecError("rank and world_size go together", field="rank", found=rank)
        rank, world_size = _process() if rank is None or world_size is None else (rank, world_size)
        if not 0 <= rank < world_size:
            raise InvalidSpecError("no such process", field="rank", expected=f"0 … {world_size - 1}", found=rank)
        self._readers, self._names, self._order = list(readers), list(names), order
        self._batch, self._drop_last, self._epochs = batch_size, drop_last, epochs
        self._rank, self._ranks = rank, world_size
        self._on_error, self._max_errors = on_error, max_errors
        # Shared, so that set_epoch reaches workers that live on (persistent_workers).
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._state = {"epoch": 0, "done": 0, "taken": 0, "skipped": 0}
        self._resume: dict[str, int] | None = None
        self._identity = self._fingerprint(seed)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration starts with."""
        return int(self._epoch)

    @property
    def skipped(self) -> int:
        """Damaged samples that the latest iteration in this process has left out."""
        return self._state["skipped"]

    @property
    def epoch_samples(self) -> int:
        """Samples in an epoch, over all processes."""
        total = len(self._order)
        return total - total % (self._ranks * self._batch) if self._drop_last else total

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
        if self._epochs is None:
            raise TypeError("a stream with epochs=None has no length")
        turn, share = self._ranks * self._batch, self.epoch_samples
        whole, rest = divmod(share, turn)
        mine = whole * self._batch + min(max(rest - self._rank * self._batch, 0), self._batch)
        return mine * self._epochs

    def __iter__(self) -> Iterator[Sample]:
        self._state = self._resume or {"epoch": self.epoch, "done": 0, "taken": 0, "skipped": 0}
        self._resume = None
        return self._samples(self._state)

    def _samples(self, state: dict[str, int]) -> Iterator[Sample]:
        """This worker's samples; ``state`` is kept up to date while it runs."""
        split = self._split()
        while self._epochs is None or state["done"] < self._epochs:
            epoch = state["epoch"] + state["done"]
            for position in split.positions(len(self._order), self._drop_last, state["taken"]):
                sample = self._at(epoch, position, state)
                state["taken"] += 1
                if sample is not None:
                    yield sample
            if state["taken"] == 0:
                # This worker's share is empty, and would be in every epoch.
                return
            state["done"] += 1
            state["taken"] = 0

    def _split(self) -> Split:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        return Split(self._rank, self._ranks, worker, workers, self._batch)

    def _at(self, epoch: int, position: int, state: dict[str, int]) -> Sample | None:
        place = self._order.at(epoch, position)
        reader = self._readers[place.source]
        try:
            sample = reader.draw(place.row, place.turn)
        except (ActionImgError, OSError) as error:
            where = reader.source.where(place.row)
            state["skipped"] += 1
            if self._on_error == "raise" or state["skipped"] > self._max_errors:
                raise (error.at(where) if isinstance(error, ActionImgError) else error) from None
            warnings.warn(f"left out {where}: {error}", SkippedSampleWarning, stacklevel=2)
            return None
        sample["source"] = self._names[place.source]
        return sample

    def _fingerprint(self, seed: int) -> str:
        digest = hashlib.sha256()
        for reader in self._readers:
            digest.update(repr((reader.source.manifest.plan, len(reader.source), reader.options)).encode())
        digest.update(repr((seed, len(self._order), self._batch, self._drop_last, self._ranks, self._epochs)).encode())
        return digest.hexdigest()[:16]

    def state_dict(self) -> dict[str, Any]:
        """Where this worker is: give it to `load_state_dict` of an equal data set to go on with the next sample.

        torchdata's ``StatefulDataLoader`` collects and restores the states of its workers.
        """
        split = self._split()
        return {
            "identity": self._identity,
            "rank": split.rank,
            "worker": split.worker,
            "workers": split.workers,
            **(self._resume or self._state),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            InvalidSpecError: The state is of another data set, other options, or another number of processes or
                workers.
        """
        split = self._split()
        for name, expected in (
            ("identity", self._identity),
            ("rank", split.rank),
            ("worker", split.worker),
            ("workers", split.workers),
        ):
            if state.get(name) != expected:
                raise InvalidSpecError(
                    "the state is of another run",
                    field=name,
                    expected=expected,
                    found=state.get(name),
                    hint="Data, options, seed, processes and workers have to be those of the run that stopped.",
                )
        self._resume = {name: int(state[name]) for name in self._state}


class ActionImageDataset(_Stream):
    """A stream of windows over the samples of a data set, as the published training code reads them.

    Each epoch takes every stored sample once and cuts one window of it, from views drawn without repetition. A sample
    is a dictionary (T ``num_frames``, V ``views``):

    * ``text`` str: one of the sample's instructions
    * ``video`` (3, V T, H, W) float32 in [-1, 1], one view after the other in time
    * ``action_video`` (3, V T, H, W) in the same range: stored, or drawn at this size; with ``action="both"`` the
      stored one, and ``action_video_rendered``
    * ``camera`` (V T, 12) float32: 3x4 poses relative to frame 0 of the first view
    * ``extrinsics`` (V T, 4, 4) camera-to-world and ``intrinsics`` (V T, 3, 3), float32, in the axes of ``axes``
    * ``action_7d`` (T, 7), ``action_8d`` (T, 8) float32; 0 where the pose is not known
    * ``plucker`` (6, V T, H, W) float32: directions, moments / 3, from ``camera`` and ``intrinsics``
    * ``path`` str, ``key`` str, ``source`` str, ``view_names`` tuple of str
    * ``frame_indices`` (T,) int64 in the stored sample, -1 where padded; ``fps`` float of the window
    * ``valid`` (T,) bool: the frame is there and its pose is known, of all grippers
    * ``mode`` str, ``condition_mask`` and ``used_mask`` (2 V T,) bool over [video₁ | action₁ | video₂ | action₂],
      ``condition_mask_latent`` and ``used_mask_latent`` (2 V L,) in latent frames

    With ``streams``, ``depth`` (V T, H, W) float32 in metres and ``mask`` (V T, H, W) int32 ids; 0 where not known or
    padded. Of G grippers with names, ``action_7d`` and ``action_8d`` are (G, T, …), ``gripper_valid`` is (G, T) and
    ``grippers`` are the names; with ``arms`` separate the action video is (3, V G T, H, W), and the masks are over
    [video₁ | action₁ of each gripper | video₂ | …], (1 + G) V T.

    What is drawn (order, window, views, instruction, mode) is a function of the seed, the epoch and the sample; the
    number of workers does not change it.

    Args:
        paths: A data set's folder or fsspec URL, or shards (``.tar``) of one data set.
        num_frames: Frames of a window.
        frame_stride: Stored frames from one frame of the window to the next.
        fps: Instead of ``frame_stride``: the rate of the window, a whole fraction of the data set's.
        views: Number of views of a sample.
        view_names: Draw from these views only; all by default.
        size: Height and width, or both as one number: centre-cropped to the aspect and scaled, K kept true.
        action: Where the action images come from: "stored", "rendered", "both" or "none".
        plucker: Give the rays; they are 24 B a pixel, and `DeviceTransform` makes them on the device instead.
        modes: Odds of each task by name (`modes.MODES`); those of the published code for RLBench by default.
        latent_stride: Frames to a latent frame.
        short: What becomes of samples that are shorter than a window: "pad" with black frames, zero actions and the
            last camera, ``valid`` false; "skip" them; or "error".
        pixels: "float32" in [-1, 1], or "uint8" (a quarter of the bytes; `DeviceTransform` makes floats of them).
        axes: "rlbench" (x left, y up, negative focal lengths), which the published code stores, or "opencv".
            Both give the same pixels; ``camera`` and ``plucker`` differ in the signs of x and y.
        filter: Only samples for which this pyarrow expression over the columns of ``index.parquet`` holds.
        shuffle: Shuffle shards, and samples among neighbours.
        shuffle_buffer: How many neighbouring samples are shuffled.
        seed: Of everything that is drawn.
        arms: Of several grippers, give each its own action segment ("separate"), or the clipped sum of all in one
            ("merged"); "auto" takes them as they are stored.
        streams: Which of ``depth`` and ``mask`` to give beside the video.
        batch_size: That of the loader. With it, batches are the same for any number of workers.
        drop_last: Leave out the samples at the end of an epoch that do not fill a batch on every process, so that all
            have as many.
        epochs: Epochs of one iteration; None goes on without end.
        rank: Number of this process; of torch.distributed or torchrun by default.
        world_size: Number of processes.
        on_error: "raise", with shard and key, or "skip" the sample with a `SkippedSampleWarning`.
        max_errors: Samples that a worker skips before it raises.
        verify: Hold every member that is read against its checksum.
        storage_options: What fsspec needs for a URL.

    Raises:
        InvalidSpecError: An option is out of its range or does not fit the data set.
        SourceNotFoundError, WrongFormatError, CorruptDatasetError, EmptyEpisodeError: The data set is not there, not
            one, damaged, or empty.
        UnsafeFileError: A path that begins with ``pipe:``.
    """

    def __init__(
        self,
        paths: Paths,
        num_frames: int = 41,
        frame_stride: int = 1,
        views: int = 2,
        size: int | tuple[int, int] = 512,
        action: Action = "stored",
        modes: Mapping[str, float] = PUBLISHED_ODDS,
        *,
        fps: float | None = None,
        view_names: Sequence[str] | None = None,
        plucker: bool = True,
        latent_stride: int = LATENT_STRIDE,
        short: Short = "pad",
        pixels: Pixels = "float32",
        axes: Axes = "rlbench",
        filter: pc.Expression | None = None,
        shuffle: bool = True,
        shuffle_buffer: int = 1000,
        seed: int = 0,
        arms: Arms = "auto",
        streams: Sequence[str] = (),
        batch_size: int = 1,
        drop_last: bool = False,
        epochs: int | None = 1,
        rank: int | None = None,
        world_size: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        max_errors: int = 10,
        verify: bool = True,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        options = sample_options(
            size,
            view_names,
            num_frames=num_frames,
            frame_stride=frame_stride,
            fps=fps,
            views=views,
            action=action,
            plucker=plucker,
            modes=modes,
            latent_stride=latent_stride,
            short=short,
            pixels=pixels,
            axes=axes,
            seed=seed,
            arms=arms,
            streams=streams,
        )
        source = open_sources(paths, filter=filter, verify=verify, storage_options=storage_options)
        reader = SampleReader(source, options)
        rows = reader.usable()
        super().__init__(
            [reader],
            [source.path],
            ShardOrder(rows, source.shards[rows], shuffle_buffer, shuffle, seed),
            seed=seed,
            batch_size=batch_size,
            drop_last=drop_last,
            epochs=epochs,
            rank=rank,
            world_size=world_size,
            on_error=on_error,
            max_errors=max_errors,
        )

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
        fps: The one rate; each source's has to be a whole multiple of it.
        frame_stride: Instead of ``fps``: stored frames to a frame, for all or by name.
        allow_different_rates: Declare that the windows of the sources may span different times.
        epoch_samples: Samples in an epoch.
        options: All else as `ActionImageDataset` takes it, for all sources.

    Raises:
        InvalidSpecError: As `ActionImageDataset`; a ratio is not positive; windows would span different times and that
            was not declared; or the sources are drawn in different ways.
    """

    def __init__(
        self,
        ratios: Mapping[str, float],
        *,
        paths: Mapping[str, Paths] | None = None,
        root: str | os.PathLike[str] | None = None,
        fps: float | None = None,
        frame_stride: int | Mapping[str, int] = 1,
        allow_different_rates: bool = False,
        epoch_samples: int | None = None,
        size: int | tuple[int, int] = 512,
        view_names: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
        filter: pc.Expression | None = None,
        shuffle: bool = True,
        shuffle_buffer: int = 1000,
        seed: int = 0,
        batch_size: int = 1,
        drop_last: bool = False,
        epochs: int | None = 1,
        rank: int | None = None,
        world_size: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        max_errors: int = 10,
        verify: bool = True,
        storage_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if not ratios:
            raise InvalidSpecError("no data set named", field="ratios")
        bad = next((name for name, ratio in ratios.items() if not (np.isfinite(ratio) and ratio > 0)), None)
        if bad is not None:
            raise InvalidSpecError("must be positive", field=f"ratios[{bad}]", found=ratios[bad])
        names = list(ratios)
        readers, orders = [], []
        for number, name in enumerate(names):
            place = name if paths is None else paths.get(name)
            if place is None:
                raise InvalidSpecError("has no path", field=f"paths[{name}]", expected="a path", found="nothing")
            stride = frame_stride.get(name, 1) if isinstance(frame_stride, Mapping) else frame_stride
            chosen = view_names.get(name) if isinstance(view_names, Mapping) else view_names
            settings = sample_options(size, chosen, fps=fps, frame_stride=stride, seed=seed, **options)
            source = open_sources(_below(root, place), filter=filter, verify=verify, storage_options=storage_options)
            reader = SampleReader(source, settings)
            rows = reader.usable()
            readers.append(reader)
            orders.append(ShardOrder(rows, source.shards[rows], shuffle_buffer, shuffle, seed + number))
        _check_rates(names, readers, allow_different_rates)
        _check_specs(names, readers)
        total = sum(map(len, orders)) if epoch_samples is None else epoch_samples
        if total < 1:
            raise InvalidSpecError("must be positive", field="epoch_samples", expected=">= 1", found=total)
        super().__init__(
            readers,
            names,
            MixedOrder(orders, list(ratios.values()), total, seed + MIXED_SEED),
            seed=seed,
            batch_size=batch_size,
            drop_last=drop_last,
            epochs=epochs,
            rank=rank,
            world_size=world_size,
            on_error=on_error,
            max_errors=max_errors,
        )

    @property
    def spec(self) -> ActionImageSpec:
        """How action images are drawn, at this size."""
        return self._readers[0].spec


class IndexedActionImageDataset(Dataset[Sample]):  # type: ignore[misc]
    """The same samples by number or key, for evaluation: each read by its place in the shard.

    Everything drawn is the same in every run, and as the stream's first epoch for an equal seed.

    Args:
        paths: As `ActionImageDataset`.
        filter: Only samples for which this pyarrow expression over the columns of ``index.parquet`` holds, e.g.
            ``(pc.field("frames") >= 41) & (pc.field("decode_position_p95_mm") < 0.5)`` or
            ``pc.match_substring(pc.field("instruction"), "drawer")``.
        size: Height and width, or both as one number.
        verify: Hold every member that is read against its checksum.
        storage_options: What fsspec needs for a URL.
        options: All that `ActionImageDataset` says about one sample: ``num_frames``, ``views``, ``action``, …

    Raises:
        As `ActionImageDataset`.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        filter: pc.Expression | None = None,
        size: int | tuple[int, int] = 512,
        verify: bool = True,
        storage_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        settings = sample_options(size, **options)
        self._source = open_sources(paths, filter=filter, verify=verify, storage_options=storage_options)
        self._reader = SampleReader(self._source, settings)
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

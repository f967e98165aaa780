"""What a plan will cost, measured on some of its episodes; and whether it will fit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..converters.base import Converter
from ..converters.remote import SourceReader
from ..errors import OutputError, StorageError, human_bytes
from ..schemas import ConvertOptions, PlanEpisode
from ..shards import layout, storage
from ..shards.layout import Place
from ..shards.plan import Plan
from ..shards.prepare import Recipe, reference
from ..shards.rows import PlanRows
from ..shards.write import measure

ESTIMATE_EPISODES: Final = 8
ESTIMATE_FRAMES: Final = 64
ESTIMATE_SECONDS: Final = 30.0
"""After this no further episode is measured, if two are."""

_BYTES_PER_PIXEL: Final = 1.0
"""More than any codec here needs for a pixel of any view, so that a run that surely fits is not measured first."""

_STUDENT_95: Final = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36)
"""Two-sided 95 % quantiles of Student's t for 1 … 7 degrees of freedom."""


@dataclass(frozen=True)
class Estimate:
    """What a plan will cost, from the first frames of several of its episodes.

    ``bytes_error`` and ``seconds_error`` are half the width of a 95 % interval over the value: by how much the measured
    episodes differ among themselves, for as many as were measured. They are None where fewer than two were, and know
    nothing of what a run may meet later (other load, another file system).
    """

    episodes: int
    frames: int | None
    """Frames that will be written, where the source knows them before it is read; else as estimated."""
    frames_estimated: bool
    bytes: int | None
    bytes_error: float | None
    seconds_one_worker: float | None
    seconds_error: float | None
    free_bytes: int | None
    """None where the output has no end: in an object store."""
    measured_episodes: int
    measured_frames: int
    failed_episodes: int
    """Of the measured ones, those that will be quarantined."""


def estimate(
    converter: Converter, made: Plan, out: str | Path | Place, numbers: Sequence[int] | None = None
) -> Estimate:
    """What a plan will cost, from converting the first frames of several episodes that are spread over it.

    Args:
        converter: Reads the source.
        made: The plan.
        out: Where the data set will be.
        numbers: Numbers of the shards to count; by default all.
    """
    options = made.manifest.options
    numbers = range(len(made.rows)) if numbers is None else numbers
    episodes = 0
    frames: int | None = 0
    for number in numbers:
        for episode in made.rows[number].episodes:
            episodes += 1
            frames = None if frames is None or episode.num_frames is None else frames + _strided(episode, options)
    sampled = _sample(made.rows, numbers, episodes)
    reader = SourceReader(converter)
    sizes: list[float] = []
    times: list[float] = []
    lengths: list[int] = []
    measured = failed = 0
    begun = time.monotonic()
    for episode in sampled:
        if len(sizes) >= 2 and time.monotonic() - begun > ESTIMATE_SECONDS:
            break
        started = time.perf_counter()
        try:
            found = measure(episode, reader, Recipe.of(made.manifest), ESTIMATE_FRAMES)
        except StorageError:
            raise
        except Exception:  # noqa: BLE001
            # It will be in the quarantine, with its reason: nothing is written of it, and its frames are not known.
            failed += 1
            sizes.append(0.0)
            times.append(time.perf_counter() - started)
            lengths.append(0 if episode.num_frames is None else _strided(episode, options))
            continue
        measured += found.frames
        sizes.append(found.total_bytes)
        times.append(found.total_seconds)
        lengths.append(found.total_frames)
    good = failed < len(sizes)
    size, size_error = _total(sizes, lengths, episodes, frames) if good else (None, None)
    seconds, seconds_error = _total(times, lengths, episodes, frames) if good else (None, None)
    length, _ = _total([float(n) for n in lengths], lengths, episodes, None) if good else (None, None)
    return Estimate(
        episodes=episodes,
        frames=frames if frames is not None else None if length is None else round(length),
        frames_estimated=frames is None,
        bytes=None if size is None else round(size),
        bytes_error=size_error,
        seconds_one_worker=seconds,
        seconds_error=seconds_error,
        free_bytes=storage.free_bytes(layout.place(out)),
        measured_episodes=len(sizes),
        measured_frames=measured,
        failed_episodes=failed,
    )


def _most_frames(converter: Converter, made: Plan, numbers: Sequence[int]) -> int | None:
    """About the most frames that shards may have whose episodes say their length only when they are read.

    Some are, and no picture of them: all are taken to be as long as the longest, and that to be half as long as others.
    None where none of them can be read.
    """
    rows = made.rows
    reader = SourceReader(converter)
    lengths = []
    for episode in _sample(rows, numbers, sum(len(rows[number].episodes) for number in numbers)):
        try:
            lengths.append(len(reader.read(reference(episode))))
        except StorageError:
            raise
        except Exception:  # noqa: BLE001
            # Its turn will come, and then it is told why.
            continue
    if not lengths:
        return None
    return 2 * max(lengths) * sum(len(rows[number].episodes) for number in numbers) // made.manifest.options.stride


def _strided(episode: PlanEpisode, options: ConvertOptions) -> int:
    return -(-(episode.num_frames or 0) // options.stride)


def _sample(rows: PlanRows, numbers: Sequence[int], episodes: int) -> list[PlanEpisode]:
    """Episodes spread evenly over shards, and over the places within them."""
    count = min(ESTIMATE_EPISODES, len(numbers))
    if episodes <= ESTIMATE_EPISODES:
        return [episode for number in numbers for episode in rows[number].episodes]
    chosen = []
    for i in range(ESTIMATE_EPISODES):
        part = rows[numbers[(2 * (i % count) + 1) * len(numbers) // (2 * count)]].episodes
        chosen.append(part[(2 * i + 1) * len(part) // (2 * ESTIMATE_EPISODES)])
    return list({episode.id: episode for episode in chosen}.values())


def _total(
    values: Sequence[float], lengths: Sequence[int], episodes: int, frames: int | None
) -> tuple[float, float | None]:
    """A sum over all episodes from some of them, and half the width of its 95 % interval over it.

    Where the number of all frames is known it is a ratio estimate (per frame), else a mean (per episode); the interval
    is Student's, with the correction for a finite population (Cochran, Sampling Techniques, 2.6 and 6.4).
    """
    count = len(values)
    length = sum(lengths)
    if frames is not None and length:
        ratio = sum(values) / length
        total = ratio * frames
        rest = [v - ratio * n for v, n in zip(values, lengths, strict=True)]
    else:
        mean = statistics.fmean(values)
        total = mean * episodes
        rest = [v - mean for v in values]
    if count < 2 or total <= 0:
        return total, None
    spread = (sum(r * r for r in rest) / (count - 1)) ** 0.5
    finite = max(0.0, 1 - count / episodes) ** 0.5
    quantile = _STUDENT_95[min(count - 1, len(_STUDENT_95)) - 1]
    return total, quantile * spread / count**0.5 * finite * episodes / total


def refuse_what_does_not_fit(
    converter: Converter,
    made: Plan,
    numbers: Sequence[int],
    frames: int | None,
    out: Place,
    warn: Callable[[str], None],
) -> None:
    """Refuse a run for which there is surely not enough space; it is measured only where that is not plain.

    Args:
        converter: Reads the source.
        made: The plan.
        numbers: Numbers of the shards that will be made.
        frames: Their frames, where they are known.
        out: The data set.
        warn: Called with a sentence where it may not fit.

    Raises:
        OutputError: It does not fit, even if the estimate is too high by all of its error.
    """
    free = storage.free_bytes(out)
    options = made.manifest.options
    if free is None:
        return
    if frames is None:
        frames = _most_frames(converter, made, numbers)
    if frames is not None:
        actions = 0 if options.action_codec == "none" else max(1, len(made.manifest.grippers))
        streams = len(made.manifest.views) * (1 + actions + 2 * len(options.planes))
        if frames * streams * options.height * options.width * _BYTES_PER_PIXEL < free:
            return
    guess = estimate(converter, made, out, numbers)
    if guess.bytes is None or guess.bytes <= free:
        return
    error = guess.bytes_error or 0.0
    size = f"about {human_bytes(guess.bytes)}" + (f" (± {error:.0%})" if error else "")
    if guess.bytes * (1 - error) <= free:
        warn(f"{size} will be written, {human_bytes(free)} are free: it may not fit")
        return
    raise OutputError(
        "there is not enough free space",
        where=out,
        expected=size,
        found=human_bytes(free),
        hint="Free some space, or convert a part with --num-shards; --no-check-space begins all the same.",
    )

"""What `actionimg inspect` shows of any source: what its converter says, or a survey where nothing explains it yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..base import Converter, Streams
from ..remote import SourceReader
from .survey import survey

MAX_STAMPS = 20_000


def inspect_source(converter: Converter, source: str) -> dict[str, Any]:
    """What is in a source, as JSON values; nothing is converted.

    Args:
        converter: Of the source's format, with its mapping where there is one.
        source: A folder, a file or a URL.

    Raises:
        ActionImgError: It is not of the format, or its first episode cannot be read.
    """
    if converter.blind:
        hint = "write a mapping: actionimg inspect SRC --propose FILE"
        return {**survey(source).to_json(), "format": converter.name, "hint": hint}
    return SourceReader(converter).inspect(source)


def stream_statistics(converter: Converter, source: str) -> dict[str, Any]:
    """Rates, jitter, gaps and drops of the streams of a source's first episode, and their stamps for a plot.

    Args:
        converter: Of the source's format, with its mapping where there is one.
        source: A recording, or a folder of them.

    Returns:
        ``episode``; ``streams``: by name what `sync.StreamStatistics.to_json` gives; ``stamps``: by name the stamps in
        seconds (at most 20 000 of each), for `actionimg_data.report.streams.plot_streams`.

    Raises:
        UnsupportedSourceError: The format has no stamps.
        ActionImgError: The first episode cannot be read.
    """
    found = _surveyed(source) if converter.blind else converter.streams(source)
    return {
        "episode": found.episode,
        "streams": {name: dict(values) for name, values in found.statistics.items()},
        "stamps": {name: _thinned(found.times.get(name, ())) for name in found.statistics},
    }


def _thinned(times: Iterable[float]) -> list[float]:
    """At most `MAX_STAMPS` of the finite stamps, in the order in which they were logged."""
    finite = np.asarray(times, dtype=np.float64)
    finite = finite[np.isfinite(finite)][:MAX_STAMPS]
    return [round(float(t), 6) for t in finite]


def _surveyed(source: str) -> Streams:
    """Every column that could be stamps, in its own unit: whether it is seconds is not known without a mapping."""
    found = survey(source)
    streams: dict[str, dict[str, Any]] = {}
    for table in found.tables:
        for column in table.columns:
            if column.increasing and ("time" in column.name.lower() or "stamp" in column.name.lower()):
                streams[f"{table.name}: {column.name}"] = {
                    "samples": column.shape[0],
                    "start": column.low,
                    "end": column.high,
                    "median_step": column.median_step,
                }
    for pictures in found.pictures:
        streams[pictures.name] = {
            "samples": pictures.count,
            "rate_hz": pictures.fps,
            "size": f"{pictures.width}x{pictures.height}",
        }
    return Streams(found.root.name, streams)

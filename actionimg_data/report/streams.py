"""A picture of the streams of a raw log: when samples came, and where they did not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import OutputError, WrongFormatError
from ..raster import caption

Image = NDArray[np.uint8]

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP, _BOTTOM = 1400, 300, 40, 84, 56, 64
_INK, _GREY, _FAINT = (40, 40, 40), (130, 130, 130), (225, 225, 225)
_TICK, _LONG = (178, 114, 0), (40, 40, 214)
_TROUBLE = {"missing": "missing", "duplicates": "twice", "out_of_order": "late", "not_finite": "NaN"}


def plot_streams(stats: Mapping[str, Any], path: str | Path) -> None:
    """Draw what `actionimg_data.converters.look.inspection.stream_statistics` gives, as a PNG.

    Each stream is a row: a tick for every sample, above it the distance to the sample before, in median periods (the
    line is one period); distances over 1.5 periods are red, and so are samples stamped earlier than one before them.

    Args:
        stats: ``{"episode": ..., "streams": {name: {...}}, "stamps": {name: [seconds, ...]}}``.
        path: PNG to write.

    Raises:
        WrongFormatError: There are no stamps to draw.
        OutputError: The file cannot be written.
    """
    stamps = {n: np.asarray(t, dtype=np.float64) for n, t in stats["stamps"].items() if len(t)}
    if not stamps:
        raise WrongFormatError("has no stamps to draw", where=stats.get("episode"))
    start = min(float(t.min()) for t in stamps.values())
    end = max(float(t.max()) for t in stamps.values())
    span = max(end - start, 1e-9)
    height = _TOP + _ROW * len(stamps) + _BOTTOM
    canvas: Image = np.full((height, _WIDTH, 3), 255, np.uint8)

    def column(seconds: NDArray[np.float64]) -> NDArray[np.intp]:
        scaled = _LEFT + (seconds - start) / span * (_WIDTH - _LEFT - _RIGHT - 1)
        return np.asarray(np.rint(scaled), dtype=np.intp)

    _text(canvas, f"{stats.get('episode', '')}: {len(stamps)} streams, {span:.3f} s", (16, 30), 0.62, _INK)
    for at in _axis(span):
        x = int(column(np.array([start + at]))[0])
        cv2.line(canvas, (x, _TOP), (x, height - _BOTTOM), _FAINT, 1)
        _text(canvas, f"{at:g} s", (x - 14, height - _BOTTOM + 22), 0.45, _GREY)
    _legend(canvas, height - 14)
    for row, (name, times) in enumerate(stamps.items()):
        values = stats["streams"].get(name, {})
        _draw_row(canvas, _TOP + row * _ROW, name, times, values, column(times))
    if not cv2.imwrite(str(path), canvas):
        raise OutputError("cannot be written", where=path)


def _legend(canvas: Image, y: int) -> None:
    """What the marks of a row mean."""
    x = _LEFT
    for height, colour, text in (
        (14, _TICK, "bar: time since the sample before (the grey line is one period)"),
        (6, _TICK, "tick below: a sample"),
        (14, _LONG, "red: a gap, or stamped earlier than one before"),
    ):
        cv2.rectangle(canvas, (x, y - height), (x + 1, y), colour, -1)
        _text(canvas, text, (x + 8, y), 0.42, _GREY)
        x += caption.width_of(text, 0.42) + 36


def _draw_row(
    canvas: Image,
    top: int,
    name: str,
    times: NDArray[np.float64],
    values: Mapping[str, Any],
    x: NDArray[np.intp],
) -> None:
    base, ticks = top + 52, top + 58
    rate = values.get("rate_hz")
    _text(canvas, name, (16, top + 22), 0.5, _INK, _LEFT - 24)
    line = f"{len(times)} samples" + (f", {rate:.4g} Hz" if rate else "")
    _text(canvas, line, (16, top + 42), 0.45, _GREY)
    trouble = [
        f"{values[key]} {word}"
        for key, word in (
            ("missing", "missing"),
            ("duplicates", "twice"),
            ("out_of_order", "late"),
            ("not_finite", "NaN"),
        )
        if values.get(key)
    ]
    jitter = values.get("jitter_ms")
    notes = [f"jitter {jitter:.3g} ms"] if jitter is not None else []
    _text(canvas, ", ".join(notes + trouble), (16, top + 60), 0.45, _LONG if trouble else _GREY)
    if len(times) < 2:
        return
    steps = np.diff(times)
    positive = steps[steps > 0]
    period = float(np.median(positive)) if len(positive) else 1.0
    full = 40
    heights = np.clip(steps / period, 0, 4) / 4 * full
    cv2.line(canvas, (_LEFT, base - full // 4), (_WIDTH - _RIGHT, base - full // 4), _FAINT, 1)
    odd = (steps > 1.5 * period) | (steps < 0)
    # Long distances last, so that thousands of usual ones do not hide them.
    for i in [*np.flatnonzero(~odd), *np.flatnonzero(odd)]:
        colour = _LONG if odd[i] else _TICK
        to = int(x[i + 1])
        cv2.line(canvas, (to, base), (to, base - max(1, round(float(heights[i])))), colour, 1)
        cv2.line(canvas, (to, ticks), (to, ticks + 8), colour, 1)
    for i in np.flatnonzero(steps > 1.5 * period):
        cv2.rectangle(canvas, (int(x[i]) + 1, ticks), (int(x[i + 1]) - 1, ticks + 8), (235, 225, 255), -1)


def _axis(span: float) -> list[float]:
    """Round numbers of seconds, six to twelve of them."""
    step = 10.0 ** np.floor(np.log10(span))
    step = next((s for s in (step, step / 2, step / 5, step / 10) if span / s >= 6), step / 10)
    return [round(float(i * step), 9) for i in range(int(span / step) + 1)]


def _text(
    canvas: Image,
    text: str,
    at: tuple[int, int],
    size: float,
    colour: tuple[int, int, int],
    room: int | None = None,
) -> None:
    caption.write(canvas, text, at, size, colour, room)

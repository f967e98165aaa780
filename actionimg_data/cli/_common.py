"""What all commands share: where text goes, how errors end a command, and how JSON is printed."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from ..errors import ActionImgError

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_VERIFICATION_FAILED = 3
EXIT_QUARANTINE = 4
EXIT_INTERRUPTED = 130
_WIDE = 140
# Narrowest and widest bar, in letters.
_BAR = (6, 40)
# Control characters but newline and tab, marks that reverse the order of text, and halves of pairs (of file names that
# are not UTF-8).
_UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def cores() -> int:
    """Cores that this process may use; fewer, where ``PYTHON_CPU_COUNT`` says so, as for Python's own from 3.13 on."""
    named = os.environ.get("PYTHON_CPU_COUNT", "")
    if named.isdecimal() and int(named) > 0:
        return int(named)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible(text: str) -> str:
    """``text`` without what a terminal would act on, or could not show: such characters are escaped."""
    return _UNSHOWN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


@cache
def _console() -> type[Console]:
    from rich.console import Console

    class Plain(Console):
        """A console that shows control characters of file names and instructions, and never obeys them."""

        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(visible(text), **options)

    return Plain


@cache
def console() -> Console:
    """The console for progress and messages: stderr."""
    return _console()(stderr=True, highlight=False)


@cache
def output() -> Console:
    """The console for results that people read: stdout. What is no terminal gets lines wide enough for any table."""
    return _console()(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE)


def emit_json(value: Any) -> None:
    """Print one JSON object to stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    # Such characters are in strings only, and within the 16 bits that JSON's own escape takes.
    click.echo(_UNSHOWN.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def say(text: str) -> None:
    """A line on stderr about how the work goes on; silent with ``--quiet``."""
    if not console().quiet:
        click.echo(visible(text), err=True)


def emit_error(error: ActionImgError) -> None:
    """One line on stderr: the error's code and its text."""
    log.error("%s: %s", error.code, error, exc_info=error)
    click.echo(click.style(f"error[{error.code}]", fg="red", bold=True) + f": {visible(str(error))}", err=True)


def progress_columns(description: str, unit: str, more: str = "", room: int = 0) -> tuple[Any, ...]:
    """What a progress bar shows, chosen so that the count and the time left fit into the terminal.

    Args:
        description: What is done, in a word.
        unit: What is counted.
        more: Further text, with rich's fields of the task; left out where the terminal is narrow.
        room: Columns that ``more`` takes at most.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    # The count, the time and the spaces between columns; each takes what it needs and the bar what is left.
    spare = console().width - len(description) - len(unit) - 28
    shown = bool(more) and spare - room >= _BAR[0]
    width = max(_BAR[0], min(_BAR[1], spare - (room if shown else 0)))
    bar = (BarColumn(bar_width=width),) if spare >= _BAR[0] else ()
    text = TextColumn(f"{unit} · {more} ·" if shown else unit)
    rest = (text, TimeRemainingColumn(compact=True)) if spare >= 0 else ()
    return (TextColumn("{task.description}"), *bar, MofNCompleteColumn(), *rest)


@contextmanager
def progress(description: str, total: int | None, unit: str) -> Iterator[Any]:
    """A progress bar on stderr; the value is called with the number of steps done since the last call.

    Off a terminal nothing is drawn.
    """
    from rich.progress import Progress

    columns = progress_columns(description, unit)
    with Progress(
        *columns, console=console(), transient=True, disable=console().quiet or not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(description, total=total)

        def advance(steps: float = 1) -> None:
            bar.advance(task, steps)

        # Where the number of steps is not known when the bar is made.
        advance.total = lambda steps: bar.update(task, total=steps)  # type: ignore[attr-defined]
        yield advance

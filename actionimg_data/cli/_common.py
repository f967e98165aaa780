"""What all commands share: where text goes, how errors end a command, and how JSON is printed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from ..errors import ActionImgError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_VERIFICATION_FAILED = 3
EXIT_QUARANTINE = 4
EXIT_INTERRUPTED = 130
_WIDE = 140


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def console() -> Console:
    """The console for progress and messages: stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@cache
def output() -> Console:
    """The console for results that people read: stdout. What is no terminal gets lines wide enough for any table."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE)


def emit_json(value: Any) -> None:
    """Print one JSON object to stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str))


def emit_error(error: ActionImgError) -> None:
    """One line on stderr: the error's code and its text."""
    click.echo(click.style(f"error[{error.code}]", fg="red", bold=True) + f": {error}", err=True)


@contextmanager
def progress(description: str, total: int | None, unit: str) -> Iterator[Any]:
    """A progress bar on stderr; the value is called with the number of steps done since the last call.

    Off a terminal nothing is drawn.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(description, total=total)
        yield lambda steps=1: bar.advance(task, steps)

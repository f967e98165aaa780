"""What is said beside the results: ``-v``, ``-q`` and ``--log-file``, of every command.

All loggers are below ``actionimg_data``. A program that uses the package sets them up as it likes; here they go to
stderr, in the words of a command line, and to a file, with time and process.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from ..errors import OutputError
from ._common import console, visible

NAMESPACE: Final = "actionimg_data"
_LEVELS: Final = (logging.WARNING, logging.INFO, logging.DEBUG)
_FILE: Final = "%(asctime)s %(levelname)s %(name)s [%(process)d]: %(message)s"

log = logging.getLogger(__name__)


class _Stderr(logging.Handler):
    """Messages on stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        # What ended the command is said by whoever ends it.
        if record.levelno >= logging.ERROR:
            return
        try:
            text = visible(record.getMessage())
            if record.levelno >= logging.WARNING:
                text = f"warning: {text}"
            if sys.stderr.isatty():
                console().print(text, style="yellow" if record.levelno >= logging.WARNING else "dim", markup=False)
            else:
                click.echo(text, err=True)
        except Exception:  # noqa: BLE001 - as every handler: what cannot be logged must not end the work
            self.handleError(record)


class _Escaped(logging.Formatter):
    """One line a record: names of files and instructions must not break or colour a log."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record)).replace("\n", "\n  ")


@contextmanager
def logged() -> Iterator[None]:
    """Warnings and worse go to stderr, within one command; its options say otherwise."""
    logger = logging.getLogger(NAMESPACE)
    before, level = list(logger.handlers), logger.level
    handler = _Stderr()
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for added in [h for h in logger.handlers if h not in before]:
            logger.removeHandler(added)
            added.close()
        logger.setLevel(level)
        console().quiet = False


def _level(level: int) -> None:
    logger = logging.getLogger(NAMESPACE)
    for handler in logger.handlers:
        if isinstance(handler, _Stderr):
            handler.setLevel(level)
    logger.setLevel(min(logger.level, level))


def _verbose(ctx: click.Context, _: click.Parameter, count: int) -> None:
    if count:
        _level(_LEVELS[min(count, 2)])


def _quiet(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    if given:
        _level(logging.CRITICAL + 1)
        console().quiet = True


def _log_file(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError("cannot be written", where=path, field="--log-file", found=error.strerror) from None
    handler.setFormatter(_Escaped(_FILE))
    handler.setLevel(logging.DEBUG)
    logger = logging.getLogger(NAMESPACE)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    log.debug("actionimg %s", " ".join(sys.argv[1:]))


def _options() -> tuple[click.Option, ...]:
    def option(*names: str, callback: Callable[..., None], **given: Any) -> click.Option:
        return click.Option(names, expose_value=False, is_eager=True, callback=callback, **given)

    return (
        option("-v", "--verbose", count=True, callback=_verbose, help="Say more on stderr; -vv still more."),
        option("-q", "--quiet", is_flag=True, callback=_quiet, help="Only results and errors on the terminal."),
        option("--log-file", metavar="FILE", callback=_log_file, help="Append all that is said, and more, to FILE."),
    )


def with_logging(command: click.Command) -> click.Command:
    """``command`` with the options, once; of a group, its commands."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            with_logging(inner)
    elif not any(p.name == "log_file" for p in command.params):
        command.params += _options()
    return command

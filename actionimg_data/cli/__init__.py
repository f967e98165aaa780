"""The command ``actionimg``; each subcommand is a file that is imported when it is called."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from typing import Any

import click

from .. import __version__
from ..errors import ActionImgError, InvalidSpecError
from ._common import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, emit_error
from ._logging import logged, with_logging

log = logging.getLogger(__name__)

_COMMANDS = {
    "convert": "Convert demonstrations into action-image shards.",
    "render": "Draw action images over a source's pictures, before any conversion.",
    "decode": "Decode action videos back into a 7-DoF trajectory.",
    "evaluate": "Score videos that a model generated against a data set.",
    "verify": "Check a data set: checksums, schemas, and the decoded round trip.",
    "repair": "Make again what is broken in a data set, and only that.",
    "finalize": "Assemble a data set's manifest from its shards, whoever made them.",
    "view": "Look through a data set in the browser: a grid to filter, each sample in step.",
    "report": "Write one HTML file to look at: pictures, motion, decode errors, data card.",
    "inspect": "Show what is in a source, a data set, a shard or a sample.",
    "calibrate": "Check cameras against the pictures, refine them, find the offset between clocks.",
    "derive": "Make members of a data set with a function: latents, text embeddings.",
    "export": "Write a data set in another program's layout.",
    "converters": "List the source formats, or explain one.",
    "demo": "Make, convert and verify a small data set of our own.",
    "doctor": "Check this machine: versions, codecs, extras.",
}


def _say(message: Warning | str, *about: Any, **more: Any) -> None:
    """A warning without the place in the code, which is of no use to whoever typed the command."""
    log.warning("%s", message)


class _LazyGroup(click.Group):
    """Lists commands without importing them, and suggests a name for a typo."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return with_logging(importlib.import_module(f"{__name__}.{cmd_name}").command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            if close and "Did you mean" not in error.message:
                raise click.UsageError(f"{error.message} Did you mean {close[0]!r}?", ctx) from None
            raise

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings(), logged():
            warnings.showwarning = _say
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ActionImgError as error:
            emit_error(error)
            # An option that cannot be is a mistake of usage, whoever finds it out.
            ctx.exit(EXIT_USAGE if isinstance(error, InvalidSpecError) else EXIT_FAILED)
        except BrokenPipeError:
            # The reader of our output has gone (| head): not an error of ours.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(EXIT_FAILED)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "--version", prog_name="actionimg")
def main() -> None:
    """Robot demonstrations in, Action-Image data sets out, and back again.

    \b
    actionimg demo                                make a small data set and look at it
    actionimg inspect ~/rlbench_demos             what is in there?
    actionimg render ~/rlbench_demos              is the calibration right? look
    actionimg convert rlbench ~/rlbench_demos out --size 512
    actionimg verify out
    actionimg report out
    """


if __name__ == "__main__":
    main()

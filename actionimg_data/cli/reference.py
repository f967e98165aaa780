"""The command-line reference, made from the commands themselves: ``python -m actionimg_data.cli.reference FILE``."""

from __future__ import annotations

import html
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from . import main

_HEAD: Final = """\
# Command line

<!-- Made by `python -m actionimg_data.cli.reference docs/cli.md`; a test holds it against the commands. -->

Results go to stdout, progress and messages to stderr. `--json` prints one JSON object instead of text for people.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed: one line `error[code]: …` on stderr, explained in [errors.md](errors.md) |
| 2 | the command line is wrong; typos get a suggestion |
| 3 | verification failed |
| 4 | done, with episodes in quarantine |
| 130 | interrupted; the same command goes on from there |

## Completion

Commands, formats, options and file names complete with the tabulator key once the shell knows how. For **bash**
(4.4 or newer), in `~/.bashrc`:

```sh
eval "$(_ACTIONIMG_COMPLETE=bash_source actionimg)"
```

For **zsh**, in `~/.zshrc`, after `compinit`:

```sh
eval "$(_ACTIONIMG_COMPLETE=zsh_source actionimg)"
```

For **fish**, in `~/.config/fish/completions/actionimg.fish`:

```sh
_ACTIONIMG_COMPLETE=fish_source actionimg | source
```
"""


def reference() -> str:
    """The whole reference as Markdown."""
    context = click.Context(main, info_name="actionimg")
    parts = [_HEAD, *_section(main, context, 2)]
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        if command is None:
            continue
        inner = click.Context(command, context, info_name=name)
        parts += _section(command, inner, 2)
        if isinstance(command, click.Group):
            parts += _subcommands(command, inner)
    return "\n".join(parts)


def _subcommands(group: click.Group, context: click.Context) -> Iterator[str]:
    """The subcommands of a group; options that all of them have are listed once."""
    commands = {
        name: command
        for name in group.list_commands(context)
        if (command := group.get_command(context, name)) is not None and not _foreign(group, name)
    }
    contexts = {name: click.Context(command, context, info_name=name) for name, command in commands.items()}
    rows = {name: _options(command, contexts[name]) for name, command in commands.items()}
    shared = [row for row in next(iter(rows.values()), []) if all(row in other for other in rows.values())]
    if len(rows) < 2:
        shared = []
    if shared:
        yield f"### Options of every `{context.command_path}`\n"
        yield from _table(shared)
    for name, command in commands.items():
        yield from _section(command, contexts[name], 3, [row for row in rows[name] if row not in shared])


def _foreign(group: click.Group, name: str) -> bool:
    """Whether a format of ``convert`` is another package's, so that it is not part of this reference."""
    if group.name != "convert":
        return False
    from ..converters import base

    return not base.entry_points()[name].value.startswith("actionimg_data.")


def _section(
    command: click.Command, context: click.Context, level: int, options: list[tuple[str, str]] | None = None
) -> Iterator[str]:
    yield f"{'#' * level} {context.command_path}\n"
    pieces = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{context.command_path} {pieces}\n```\n"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            lines = paragraph.removeprefix("\b").strip("\n")
            language = "console" if lines.lstrip().startswith("actionimg ") else "text"
            yield f"```{language}\n{lines}\n```\n"
        elif paragraph.strip():
            yield paragraph.strip() + "\n"
    rows = _options(command, context) if options is None else options
    if rows:
        yield from _table(rows)


def _options(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    return [
        (_plain(names), text)
        for names, text in (record for record in records if record is not None)
        if "--help" not in names and (text or names.startswith("-"))
    ]


def _plain(names: str) -> str:
    """Click's names of types in words of one letter: N for whole numbers, X for others."""
    for long, short in ((" INTEGER RANGE", " N"), (" FLOAT RANGE", " X"), (" INTEGER", " N"), (" FLOAT", " X")):
        names = names.replace(long, short)
    return names


def _table(rows: list[tuple[str, str]]) -> Iterator[str]:
    lines = ["| option | |", "|---|---|"]
    for names, text in rows:
        # Markdown does not agree with itself about a bar in a code span of a table; HTML does.
        if "|" in names:
            option = f"<code>{html.escape(names, quote=False).replace('|', '&#124;')}</code>"
        else:
            option = f"`{names}`"
        about = " ".join(text.split()).replace("|", "&#124;").replace("<", "&lt;").replace("] [", "]; [")
        lines.append(f"| {option} | {about} |")
    yield "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) == 2:
        Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
    else:
        click.echo(reference(), nl=False)

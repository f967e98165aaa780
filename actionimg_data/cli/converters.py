"""``actionimg converters``: which formats there are, and what one of them needs."""

from __future__ import annotations

import click

from ._common import emit_json, output


@click.command("converters")
@click.argument("name", required=False, metavar="[NAME]")
@click.option("--explain", metavar="NAME", help="Explain one format: the same as NAME alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(name: str | None, explain: str | None, as_json: bool) -> None:
    """List the source formats, or explain one: what it reads, its options and conventions.

    \b
    actionimg converters
    actionimg converters rlbench
    """
    from ..converters import base

    if name is not None and explain not in (None, name):
        raise click.UsageError(f"{name} and --explain {explain} name two formats")
    explain = name or explain
    classes = base.installed() if explain is None else {explain: base.converter_class(explain)}
    if as_json:
        emit_json(
            {
                name: {
                    "summary": cls.summary,
                    "class": f"{cls.__module__}:{cls.__qualname__}",
                    "options": cls.Options.model_json_schema().get("properties", {}),
                }
                for name, cls in classes.items()
            }
        )
        return
    if explain is None:
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        table.add_column("format", style="bold")
        table.add_column("reads")
        for name, cls in classes.items():
            table.add_row(name, cls.summary)
        output().print(table)
        output().print("\nactionimg converters NAME says more about one of them.", style="dim")
        return
    cls = classes[explain]
    output().print(f"[bold]{explain}[/bold]: {cls.summary}\n")
    documentation = cls.explain()
    if documentation:
        from rich.markdown import Markdown

        output().print(Markdown(documentation))
    fields = cls.Options.model_fields
    if fields:
        output().print("\nOptions of [bold]actionimg convert " + explain + "[/bold]:")
        for name, field in fields.items():
            output().print(f"  --{name.replace('_', '-')}", style="bold", end="  ")
            output().print(field.description or "", markup=False)

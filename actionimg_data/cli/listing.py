"""``actionimg inspect OUT --list``: the samples of a data set in a table, filtered and sorted."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InvalidSpecError, WrongFormatError, suggestion
from ._common import console, emit_json, output, visible

if TYPE_CHECKING:
    import pyarrow as pa

    from ..shards.layout import Place

# The number of a sample in the index: what `--sample` takes.
NUMBER = "sample"
_SHOWN = ("key", "frames", "views", "instruction", "decode_position_p95_mm")
# Where a member's bytes lie: nothing that people list.
_UNLISTED = ("members",)
_LIMIT = 50
_CELL = 60


def list_samples(
    where: Place,
    condition: str | None,
    sort: Sequence[str],
    columns: str | None,
    limit: int | None,
    *,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Print the samples of a data set.

    Args:
        where: The data set's folder, or one shard of it.
        condition: See `actionimg_data.shards.where`; None for all samples.
        sort: Columns to sort by, the most important first; ``-NAME`` for the largest first. Equal ones stay in the
            order of the index, and what has no value comes last.
        columns: Names separated by commas, ``all`` for all; None for those people want mostly.
        limit: At most so many; None for all, in a terminal's table for 50.
        as_json: One JSON object.
        as_csv: Comma-separated values with a header.

    Raises:
        InvalidSpecError: A column is not there, or the condition is none.
    """
    import pyarrow as pa

    from ..shards import open_dataset
    from ..shards.where import parse_where

    table = open_dataset(where).table
    table = table.drop_columns([name for name in _UNLISTED if name in table.column_names])
    table = table.add_column(0, NUMBER, pa.array(range(table.num_rows), pa.int64()))
    wanted = _columns(columns, table)
    total = table.num_rows
    if condition is not None:
        table = table.filter(parse_where(condition, table.schema))
    table = _sorted(table, sort)
    found = table.num_rows
    most = limit if limit is not None else None if as_json or as_csv else _LIMIT
    rows = (table if most is None else table.slice(0, most)).select(wanted).to_pylist()
    if as_json:
        emit_json({"kind": "list", "samples": total, "found": found, "columns": wanted, "rows": rows})
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(wanted)
        writer.writerows([_flat(row[name]) for name in wanted] for row in rows)
    else:
        output().print(_drawn(wanted, rows))
        left = found - len(rows)
        more = f"; {left} more: --limit {found} shows all" if left else ""
        console().print(f"{found} of {total} samples{more}", style="dim", markup=False)


def _known(name: str, table: pa.Table, option: str) -> str:
    if name not in table.column_names:
        raise InvalidSpecError(
            "no such column",
            where=option,
            expected=", ".join(table.column_names),
            found=name,
            hint=suggestion(name, table.column_names),
        )
    return name


def _columns(text: str | None, table: pa.Table) -> list[str]:
    if text is None:
        there = [name for name in (NUMBER, *_SHOWN) if name in table.column_names]
        return [name for name in there if table[name].null_count < max(1, table.num_rows)]
    if text.strip() == "all":
        return list(table.column_names)
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InvalidSpecError("names no column", where="--columns", expected=", ".join(table.column_names), found=text)
    return list(dict.fromkeys(_known(name, table, "--columns") for name in names))


def _sorted(table: pa.Table, sort: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    keys = []
    for text in sort:
        name = _known(text.lstrip("-+"), table, "--sort")
        if pa.types.is_nested(table.schema.field(name).type):
            raise InvalidSpecError("is a column of lists, which have no order", where="--sort", found=name)
        keys.append((name, "descending" if text.startswith("-") else "ascending"))
    if not keys:
        return table
    # pyarrow's sort is not stable: the number of the sample settles what is equal.
    return table.sort_by([*keys, *([] if any(name == NUMBER for name, _ in keys) else [(NUMBER, "ascending")])])


def _flat(value: Any) -> Any:
    """A value of a cell: lists as words."""
    if isinstance(value, list):
        return " ".join(str(item) for item in value)
    return visible(value) if isinstance(value, str) else value


def _drawn(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in columns:
        numbers = all(isinstance(row[name], (int, float, type(None))) for row in rows)
        table.add_column(Text(name, style="bold"), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in columns))
    return table


def _cell(value: Any) -> Any:
    from rich.text import Text

    if value is None:
        return Text("–", style="dim")
    flat = _flat(value)
    text = f"{flat:.4g}" if isinstance(flat, float) else str(flat).replace("\n", " ")
    return Text(text if len(text) <= _CELL else text[: _CELL - 1] + "…")


def refuse_options(path: str, given: dict[str, bool]) -> None:
    """Options of a list are refused where none was asked for.

    Raises:
        InvalidSpecError: One of them was given.
    """
    for option, there in given.items():
        if there:
            raise InvalidSpecError(
                "is an option of a list of samples",
                where=path,
                field=option,
                hint=f"Add --list, or leave {option} out.",
            )


def refuse_source(path: str, kind: str) -> None:
    """Only data sets and shards have a list.

    Raises:
        WrongFormatError: ``path`` is a source.
    """
    if kind == "source":
        raise WrongFormatError(
            "--list and --sample are for data sets and shards", where=path, hint="Convert it first, or leave them out."
        )

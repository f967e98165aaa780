"""What LeRobot's tools leave on disk: where an episode's rows are, what its tasks are called, sets side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...errors import ActionImgError, BadFileError, InvalidTextError, SourceNotFoundError, WrongFormatError
from ...untrusted.files import plain, read_bytes
from ...untrusted.text import MAX_JSON_BYTES, parse_json
from .tables import parquet_names
from .tree import natural_key, subfolders

INFO: Final = "meta/info.json"
_MAX_DEPTH: Final = 3
_MAX_FOLDERS: Final = 1000


def data_sets(root: Path) -> list[Path]:
    """The data sets at ``root``: itself, or those in folders below, e.g. ``train`` and ``val``, in natural order."""
    if (root / INFO).is_file():
        return [root]
    found: list[Path] = []
    level = [root]
    for _ in range(_MAX_DEPTH):
        inside = [folder for above in level for folder in subfolders(above)][:_MAX_FOLDERS]
        found.extend(folder for folder in inside if (folder / INFO).is_file())
        level = [folder for folder in inside if not (folder / INFO).is_file()]
    return sorted(found, key=lambda path: natural_key(path.as_posix()))


def rows_file(stated: Path, neighbours: Sequence[Path], episode: int) -> Path:
    """Which of the file that ``meta/`` states and its neighbours holds an episode's rows.

    LeRobot itself asks the rows, not ``meta/``: its script that turns version 2.1 into 3.0 states the file before, for
    the first episode of each file after the first.

    Raises:
        SourceNotFoundError: The stated file does not exist, and no neighbour holds the episode.
        WrongFormatError: No row of the episode in any of them.
    """
    there = [path for path in (stated, *neighbours) if path.is_file()]
    for path in there:
        found = path.stat()
        if episode in _episodes_in(path, found.st_size, found.st_mtime_ns):
            return path
    if stated not in there:
        raise SourceNotFoundError("no such file", where=stated)
    raise WrongFormatError(
        "holds no rows of the episode, and neither do the files beside it",
        where=stated,
        field="episode_index",
        expected=episode,
        found=_text_of(stated),
    )


def _text_of(path: Path) -> str:
    found = path.stat()
    held = sorted(_episodes_in(path, found.st_size, found.st_mtime_ns))
    return f"{held[0]} … {held[-1]}" if held else "no rows"


@lru_cache(maxsize=4096)
def _episodes_in(path: Path, size: int, changed: int) -> frozenset[int]:
    """Indices of the episodes that have rows in a file, as long as it is the same."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if "episode_index" not in parquet_names(path):
            raise WrongFormatError("has no such column", where=path, field="episode_index")
        column = parquet.read_table(plain(path), columns=["episode_index"], partitioning=None).column(0)
        return frozenset(int(i) for i in np.unique(column.to_numpy()).tolist())
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, ActionImgError):
            raise
        raise BadFileError(f"is not Parquet: {error}", where=path) from None


def task_names(root: Path) -> dict[int, str] | None:
    """What each ``task_index`` means, by ``meta/tasks.parquet`` or ``meta/tasks.jsonl``; None where there is neither.

    Raises:
        WrongFormatError: A row without an index or a text.
        BadFileError: The file is damaged.
    """
    packed, listed = root / "meta/tasks.parquet", root / "meta/tasks.jsonl"
    if packed.is_file():
        rows, where = list(_packed_tasks(packed)), packed
    elif listed.is_file():
        rows, where = list(_listed_tasks(listed)), listed
    else:
        return None
    found: dict[int, str] = {}
    for index, task in rows:
        if not isinstance(index, int) or not isinstance(task, str):
            raise WrongFormatError(
                "has a task without an index or a text", where=where, found=json.dumps([index, task])
            )
        found[index] = task.strip()
    return found


def _packed_tasks(path: Path) -> Iterator[tuple[Any, Any]]:
    """Index and text; LeRobot keeps the texts as the index of a pandas table, under whatever name that has."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        names = parquet_names(path)
        usual = ("task", "__index_level_0__")
        texts = sorted((n for n in names if n != "task_index"), key=lambda n: usual.index(n) if n in usual else 2)
        if "task_index" not in names or not texts:
            raise WrongFormatError("has no such column", where=path, field="task_index, task", found=" ".join(names))
        table = parquet.read_table(plain(path), columns=["task_index", texts[0]], partitioning=None)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, ActionImgError):
            raise
        raise BadFileError(f"is not Parquet: {error}", where=path) from None
    yield from zip(table.column("task_index").to_pylist(), table.column(texts[0]).to_pylist(), strict=True)


def _listed_tasks(path: Path) -> Iterator[tuple[Any, Any]]:
    for number, line in enumerate(read_bytes(path, MAX_JSON_BYTES).splitlines(), 1):
        if line.strip():
            value = parse_json(line, path, f"line {number}")
            if not isinstance(value, dict):
                raise WrongFormatError("is not an object", where=path, field=f"line {number}")
            yield value.get("task_index"), value.get("task")


def texts_of_rows(
    row: Mapping[str, Any], indices: NDArray[Any] | None, names: Mapping[int, str] | None, where: object
) -> tuple[str, ...]:
    """The instruction of each row of an episode, or one for all of them.

    Args:
        row: What ``meta/`` says of the episode.
        indices: ``(N,)`` the rows' ``task_index``, or None where they have none.
        names: What they mean, or None where the data set does not say.
        where: For errors.

    Raises:
        InvalidTextError: The episode has no task; several, and no row says which; or an index without a name.
    """
    field = f"episode {row.get('episode_index')}"
    if indices is not None and names is not None and len(indices):
        unknown = sorted({int(i) for i in indices.tolist()} - set(names))
        if unknown:
            raise InvalidTextError(
                "has rows of a task that is not in the table of tasks", where=where, field=field, found=unknown[0]
            )
        texts = tuple(names[int(i)] for i in indices.tolist())
        if not all(texts):
            raise InvalidTextError("has a task without a text", where=where, field=field)
        return texts
    tasks = row.get("tasks")
    stated = [str(t).strip() for t in ([tasks] if isinstance(tasks, str) else tasks or [])]
    stated = list(dict.fromkeys(t for t in stated if t))
    if not stated:
        raise InvalidTextError("has no task", where=where, field=field)
    if len(stated) > 1:
        raise InvalidTextError(
            "names several tasks, and no row says which of them it belongs to",
            where=where,
            field=field,
            expected="task_index in the rows, and a table of tasks",
            found=" | ".join(stated),
            hint="Or say it in the mapping: instruction: {text: …}.",
        )
    return (stated[0],)

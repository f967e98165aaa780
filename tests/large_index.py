"""A data set with an index of any length over the shards of a small one: as large ones look to whoever lists them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actionimg_data.schemas.dataset import to_bytes
from actionimg_data.shards import open_dataset, read_manifest
from actionimg_data.shards.manifest import INDEX_ROWS

VERBS = ("open", "close", "push", "stack", "pour")
THINGS = ("the drawer", "the red cup", "a blue block", "the kettle")


def write_large_index(small: Path, out: Path, rows: int, group: int = INDEX_ROWS, tasks: int = 60) -> Path:
    """A copy of ``small`` whose index has ``rows`` samples, each with the members of one that is there.

    Tasks, instructions, lengths and decode errors differ; each key says its number.
    """
    shutil.copytree(small, out)
    table = open_dataset(small).table
    rng = np.random.default_rng(0)
    number = np.arange(rows)
    columns = {name: table[name].take(pa.array(number % table.num_rows)) for name in table.column_names}
    task = pa.DictionaryArray.from_arrays(
        pa.array(rng.integers(0, tasks, rows, dtype=np.int32)), pa.array([f"task_{i:03d}" for i in range(tasks)])
    ).cast(pa.string())
    words = [f"{verb} {thing} of table {i}" for i in range(100) for verb in VERBS for thing in THINGS]
    texts = pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, len(words), rows, dtype=np.int32)), pa.array(words))
    columns["key"] = pa.array([f"episode-{i:07d}" for i in range(rows)])
    columns["episode"] = pa.array([f"variation0/episodes/episode{i}" for i in range(rows)])
    columns["task"], columns["instruction"] = task, texts.cast(pa.string())
    columns["frames"] = pa.array(rng.integers(20, 400, rows))
    columns["decode_position_p95_mm"] = pa.array(rng.gamma(2.0, 0.1, rows))
    index = out / "index.parquet"
    pq.write_table(pa.table(columns, schema=table.schema), index, compression="zstd", row_group_size=group)
    manifest = read_manifest(small)
    assert manifest.counts is not None
    files = {**manifest.files, index.name: hashlib.sha256(index.read_bytes()).hexdigest()}
    counts = manifest.counts.model_copy(update={"samples": rows})
    (out / "dataset.json").write_bytes(
        to_bytes(manifest.model_copy(update={"files": files, "counts": counts}).sealed())
    )
    return out

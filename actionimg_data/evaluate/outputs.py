"""What a run leaves: JSON, and tables of predictions and of frames as CSV and Parquet."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ..schemas.evaluation import Evaluation
from ..shards import layout
from .run import Run
from .score import FRAME_COLUMNS, Scored

_CONCERNING = ("prediction", "key", "task", "start", "stride", "gripper_name")


def write_outputs(run: Run, folder: Path) -> list[Path]:
    """Write ``evaluation.json``, ``predictions.csv``, ``frames.csv`` and both as ``.parquet``; returns the paths.

    Raises:
        OutputError: The folder cannot be written.
    """
    written = []

    def publish(name: str, data: bytes) -> None:
        layout.publish(folder / name, data)
        written.append(folder / name)

    publish("evaluation.json", (run.evaluation.model_dump_json(indent=1) + "\n").encode())
    for name, table in (("predictions", predictions_table(run.evaluation)), ("frames", frames_table(run.scored))):
        text, binary = io.BytesIO(), io.BytesIO()
        pa_csv.write_csv(table, text)
        pq.write_table(table, binary, compression="zstd")
        publish(f"{name}.csv", text.getvalue())
        publish(f"{name}.parquet", binary.getvalue())
    return written


def predictions_table(evaluation: Evaluation) -> pa.Table:
    """A row a prediction: its figures by names such as ``position_error_mm.median``."""
    rows = [_flat(one.model_dump()) for one in evaluation.by_sample]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            out.update(_flat(item, f"{prefix}{name}."))
        elif isinstance(item, (list, tuple)):
            out[prefix + name] = " ".join(map(str, item)) if name != "size" else "x".join(map(str, item))
        else:
            out[prefix + name] = item
    return out


def frames_table(scored: Sequence[Scored]) -> pa.Table:
    """A row a frame of a prediction, with what names the prediction; NaN becomes null."""
    counts = [len(one.reasons) for one in scored]
    columns: dict[str, Any] = {}
    for name in _CONCERNING:
        values = pa.array([one.about[name] for one in scored])
        columns[name] = values.take(pa.array(np.repeat(np.arange(len(scored)), counts)))
    columns["reason"] = np.concatenate([one.reasons for one in scored]) if scored else np.empty(0, np.str_)
    for name in FRAME_COLUMNS:
        values = np.concatenate([one.frames[name] for one in scored]) if scored else np.empty(0)
        if name == "frame":
            columns[name] = values.astype(np.int64)
        elif name == "valid":
            columns[name] = values.astype(bool)
        else:
            columns[name] = pa.array(values.astype(np.float32), from_pandas=True)
    return pa.table(columns)

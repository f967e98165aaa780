"""Parquet files that are in memory already."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def load_parquet(data: bytes) -> pa.Table:
    """The table in the bytes of a Parquet file, read on this thread.

    The threads of pyarrow's own reader drop what they read from when they come to it. Where that belongs to Python
    (a file object, or the bytes below a buffer) and Python is shutting down by then, the process is aborted.

    Raises:
        pyarrow.ArrowException, OSError, ValueError: It is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(data), pre_buffer=False) as file:
        table: pa.Table = file.read(use_threads=False)
    return table

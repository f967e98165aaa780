"""An index for ``wids``: random access to webdataset shards by number."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..errors import InvalidSpecError, OutputExistsError
from ..objectstore import RemotePath
from ..shards import layout
from .common import Result, opened


def export(path: str | Path, dest: str | Path) -> Result:
    """Write the index (``wids_version`` 1) with paths relative to it, or URLs; the shards stay where they are.

    Args:
        path: A complete data set.
        dest: A new ``.json`` file, e.g. beside the data set.

    Raises:
        InvalidSpecError: ``dest`` is not a ``.json`` file.
        OutputExistsError, OutputError: It exists, or cannot be written.
        CorruptDatasetError: The data set is damaged or incomplete.
    """
    dest = Path(dest)
    if dest.suffix != ".json":
        raise InvalidSpecError("a wids index is one file", field="dest", expected="*.json", found=dest.name)
    if dest.exists():
        raise OutputExistsError("exists already", where=dest)
    dataset, manifest = opened(path)
    place = layout.place(path)
    remote = isinstance(place, RemotePath)
    base = str(place) if isinstance(place, RemotePath) else os.path.relpath(place.resolve(), dest.parent.resolve())
    shards = [
        {
            "url": f"{base}/{record.path}" if remote else Path(base, record.path).as_posix(),
            "nsamples": record.samples,
            "filesize": record.bytes,
            "sha256": record.sha256,
        }
        for record in manifest.shards
        if record.samples
    ]
    index = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": place.name if remote else Path(path).resolve().name,
        "description": f"action images, {manifest.converter.name}",
        "shardlist": shards,
    }
    layout.publish(dest, (json.dumps(index, indent=2) + "\n").encode())
    return Result("wids", str(dest), samples=len(dataset))

"""A folder that Megatron-Energon reads as a ``CrudeWebdataset``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from ..shards import layout
from .common import Link, Result, new_folder, opened, place, shard_paths

META: Final = ".nv-meta"


def export(path: str | Path, dest: str | Path, *, link: Link = "hard") -> Result:
    """Write the folder: the shards, their data set's own files, and Energon's metadata.

    ``energon prepare --tar-index-only DEST`` then writes Energon's index beside the shards.
    `actionimg_data.training.energon.Cook` makes training samples of what Energon yields; DEST stays a data set.

    Args:
        path: A complete data set.
        dest: A new folder.
        link: How shards get there.

    Raises:
        OutputExistsError, OutputError: ``dest`` cannot be made.
        CorruptDatasetError: The data set is damaged or incomplete.
    """
    dataset, manifest = opened(path)
    source = layout.place(path)
    shards = shard_paths(manifest)
    with new_folder(dest) as root:
        for name in shards:
            place(source / name, root / name, link)
            place(source / f"{name.removesuffix('.tar')}.json", root / f"{name.removesuffix('.tar')}.json", "copy")
        for name in (layout.MANIFEST, layout.INDEX, layout.PLAN, layout.QUARANTINE):
            place(source / name, root / name, "copy")
        meta = root / META
        meta.mkdir()
        (meta / "dataset.yaml").write_text("__module__: megatron.energon\n__class__: CrudeWebdataset\n")
        lines = ["split_parts:", f"  {manifest.options.split}:", *(f"  - {name}" for name in shards), "exclude: []"]
        (meta / "split.yaml").write_text("\n".join(lines) + "\n")
        counts = {record.path: record.samples for record in manifest.shards if record.samples}
        (meta / ".info.json").write_text(json.dumps({"shard_counts": counts}, indent=2) + "\n")
    result = Result("energon", str(dest), samples=len(dataset))
    result.notes.append(f"Then: energon prepare --tar-index-only {dest}")
    return result

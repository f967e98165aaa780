"""``metadata.csv`` with the columns ``video,control_video,prompt`` of DiffSynth-Studio.

Its ``UnifiedDataset`` joins the columns named by ``--data_file_keys`` to ``--dataset_base_path``, takes frames 0 … N−1
at the stored rate, trims them to 4n + 1, and crops pictures to multiples of 16: both are refused here if they are not.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ..shards import layout
from .clips import Made, export_clips
from .common import Result

METADATA: Final = "metadata.csv"


def export(path: str | Path, dest: str | Path, **options: Any) -> Result:
    """Write the clips and ``metadata.csv``.

    Args:
        path: A complete data set.
        dest: A new folder, or one whose export was interrupted: ``--dataset_base_path``.
        options: As of `clips.export_clips`.

    Raises:
        As `clips.write_clips`.
    """
    result = export_clips("diffsynth", path, dest, _finish, **options)
    size = options.get("size")
    shown = f" --height {size[0]} --width {size[1]}" if size is not None and "canvas" not in options else ""
    keys = "video,control_video" if _has_control(options) else "video"
    result.notes.append(
        f"Then: --dataset_base_path {dest} --dataset_metadata_path {Path(dest) / METADATA} --data_file_keys "
        f'"{keys}" --num_frames {options.get("num_frames", 81)}{shown}'
    )
    return result


def _has_control(options: dict[str, Any]) -> bool:
    return bool(options.get("actions", True)) and options.get("canvas", "none") != "joint"


def _finish(root: Path, windows: Sequence[Made]) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    control = any(clip.control for made in windows for clip in made.clips)
    writer.writerow(["video", *(["control_video"] if control else []), "prompt"])
    for made in windows:
        for clip in made.clips:
            writer.writerow([clip.video, *([clip.control] if control else []), made.caption])
    layout.publish(root / METADATA, table.getvalue().encode())

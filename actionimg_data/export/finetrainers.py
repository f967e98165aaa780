"""``metadata.jsonl`` of finetrainers: a ``videofolder`` of Hugging Face ``datasets``, and ``dataset_config.json``.

``file_name`` becomes the column ``video`` and ``control_video_file_name`` the column ``control_video``, which the
control trainer takes with ``--control_type custom``; the plain one drops it (``drop_columns``). Its buckets are
(frames, height, width): with the one of the clips nothing is resized.

``datasets`` guesses splits from words in names (`train`, `val`, `test`, …) and then takes nothing else, so a name that
holds one is replaced by a hash of it; ``windows.jsonl`` says whose it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ..shards import layout
from ..shards.windows import WindowId
from .clips import Made, export_clips, flat_names
from .common import Result

METADATA: Final = "metadata.jsonl"
CONFIG: Final = "dataset_config.json"
_SPLIT: Final = re.compile(
    r"(^|[-._ 0-9/])(train|training|validation|valid|dev|val|test|testing|eval|evaluation)([-._ 0-9/]|$)"
)


def export(path: str | Path, dest: str | Path, **options: Any) -> Result:
    """Write the clips, ``metadata.jsonl`` and ``dataset_config.json``.

    Args:
        path: A complete data set.
        dest: A new folder, or one whose export was interrupted: ``data_root`` of the trainer's configuration.
        options: As of `clips.export_clips`.

    Raises:
        As `clips.write_clips`.
    """
    result = export_clips("finetrainers", path, dest, _finish, naming=names, **options)
    result.notes.append(f"Then: --dataset_config {Path(dest) / CONFIG}, with data_root where the folder is.")
    return result


def names(window: WindowId) -> tuple[str, str]:
    """As `clips.flat_names`, but for names that would be taken for a split."""
    video, control = flat_names(window)
    if not _SPLIT.search(video):
        return video, control
    name = hashlib.blake2b(str(window).encode(), digest_size=16).hexdigest()
    return f"videos/{name}.mp4", f"actions/{name}.mp4"


def _finish(root: Path, windows: Sequence[Made]) -> None:
    lines = []
    for made in windows:
        for clip in made.clips:
            control = {"control_video_file_name": clip.control} if clip.control else {}
            lines.append({"file_name": clip.video, **control, "caption": made.caption})
    layout.publish(root / METADATA, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines).encode())
    config = {
        "datasets": [
            {
                "data_root": str(root.absolute()),
                "dataset_type": "video",
                "video_resolution_buckets": [[len(windows[0].frames), *windows[0].size]],
                "reshape_mode": "bicubic",
            }
        ]
    }
    layout.publish(root / CONFIG, (json.dumps(config, indent=2) + "\n").encode())

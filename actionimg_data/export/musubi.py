"""``metadata.jsonl`` and ``dataset.toml`` of musubi-tuner.

A line has ``video_path``, ``caption`` and ``control_path``; relative paths hold from the folder that the trainer is
started in, so it is started in the export's. Without ``source_fps`` every frame is taken, whatever the rate, and
``target_frames`` is trimmed to 4n + 1; with it frames are dropped to reach the model's rate (16 for Wan), so it is not
written. Names of cached latents are those of the videos, which are therefore all different.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ..shards import layout
from .clips import Made, export_clips
from .common import Result

METADATA: Final = "metadata.jsonl"
CONFIG: Final = "dataset.toml"


def export(path: str | Path, dest: str | Path, **options: Any) -> Result:
    """Write the clips, ``metadata.jsonl`` and ``dataset.toml``.

    Args:
        path: A complete data set.
        dest: A new folder, or one whose export was interrupted; the trainer is started in it.
        options: As of `clips.export_clips`.

    Raises:
        As `clips.write_clips`.
    """
    result = export_clips("musubi", path, dest, _finish, **options)
    result.notes.append(f"Then, in {dest}: wan_cache_latents.py --dataset_config {CONFIG} …")
    return result


def _finish(root: Path, windows: Sequence[Made]) -> None:
    lines = []
    for made in windows:
        for clip in made.clips:
            control = {"control_path": clip.control} if clip.control else {}
            lines.append({"video_path": clip.video, **control, "caption": made.caption})
    layout.publish(root / METADATA, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines).encode())
    height, width = windows[0].size
    config = f"""# Paths hold from this folder: start the trainer here.
[general]
resolution = [{width}, {height}]
batch_size = 1
enable_bucket = false

[[datasets]]
video_jsonl_file = "{METADATA}"
cache_directory = "cache"
target_frames = [{len(windows[0].frames)}]
frame_extraction = "head"
"""
    layout.publish(root / CONFIG, config.encode())

"""A window of one sample as files: what a training loader cuts, for a model's prompt or to look at."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import WrongFormatError, suggestion
from ..model.files import write_trajectory
from ..shards import Sample, Window
from ..shards.sample import cameras_bytes
from ..video import action_encoding, encode_bytes, rgb_encoding
from .common import Result, new_folder, opened

Image = NDArray[np.uint8]


def export(
    path: str | Path,
    dest: str | Path,
    *,
    key: str,
    start: int = 0,
    num_frames: int | None = None,
    stride: int = 1,
    size: tuple[int, int] | None = None,
    views: tuple[str, ...] | None = None,
) -> Result:
    """Write a window: ``VIEW.rgb.mp4``, ``VIEW.action.mp4``, ``cameras.npz``, ``trajectory.csv``, ``caption.txt``.

    ``canvas.mp4`` is ``[video₁ | action₁ | video₂ | action₂]`` in time. ``predictions.jsonl`` names the action videos
    as if a model had made them: what ``actionimg evaluate`` reads.

    Args:
        path: A data set.
        dest: A new folder.
        key: The sample's key.
        start: First frame of the window.
        num_frames: Its frames; as many as there are by default.
        stride: From one frame to the next.
        size: Height and width; pictures are centre-cropped to its aspect and scaled. The data set's own by default.
        views: Which views, in order; all by default.

    Raises:
        WrongFormatError: There is no such sample or view.
        InvalidSpecError, FrameCountError: There is no such window.
        OutputExistsError, OutputError: ``dest`` cannot be made.
        CorruptDatasetError, BadVideoError: The data set is damaged.
    """
    dataset, _ = opened(path)
    if key not in dataset:
        raise WrongFormatError("no such sample", where=path, found=key, hint=suggestion(key, dataset.keys()))
    window = Window.cut(dataset[key], start, num_frames, stride, size, views)
    result = Result("window", str(dest), 1)
    with new_folder(dest) as root:
        _write(window, root)
    result.notes.append(f"{len(window)} frames of {key} at {window.fps:g} fps, {window.height}x{window.width}")
    return result


def _write(window: Window, root: Path) -> None:
    sample: Sample = window.sample
    shape = (window.fps, window.height, window.width)
    names = sample.action_names
    calibrated = sample.meta.calibrated
    actions: dict[str, list[Image]] = {}
    for view in window.views:
        (root / f"{view}.rgb.mp4").write_bytes(encode_bytes(window.rgb(view), rgb_encoding(), *shape))
        actions[view] = [window.action(view, name) for name in names] if calibrated else []
        for name, pictures in zip(names, actions[view], strict=False):
            ending = f".{name}.mp4" if name else ".mp4"
            (root / f"{view}.action{ending}").write_bytes(encode_bytes(pictures, action_encoding("h264"), *shape))
    for name, trajectory in window.grippers.items():
        write_trajectory(root / (f"trajectory.{name}.csv" if name else "trajectory.csv"), trajectory)
    (root / "caption.txt").write_text(sample.meta.instruction_at(window.indices) + "\n", encoding="utf-8")
    if not calibrated:
        return
    (root / "cameras.npz").write_bytes(cameras_bytes(window.cameras, window.spec))
    canvas = _canvas(window, actions)
    (root / "canvas.mp4").write_bytes(encode_bytes(canvas, action_encoding("h264"), *shape))
    line = {
        "key": sample.key,
        "start": int(window.indices[0]),
        "stride": window.stride,
        "frames": len(window),
        "views": {view: f"{view}.action.mp4" for view in window.views},
    }
    if names == ("",):
        (root / "predictions.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")


def _canvas(window: Window, actions: dict[str, list[Image]]) -> Iterator[Image]:
    for view in window.views:
        yield from itertools.chain(window.rgb(view), *actions[view])

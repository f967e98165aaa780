"""``annotation/SPLIT/*.json`` and ``videos/SPLIT/…`` of Cosmos-Predict's action-conditioned training.

An annotation has ``state`` (T, 6): x y z and extrinsic "xyz" Euler angles, ``continuous_gripper_state`` (T,) with 0 for
*open*, ``videos`` by camera number, and ``texts``. Its ``Dataset_3D`` cuts windows of ``num_action_per_chunk`` + 1
frames at every frame of an annotation by itself and makes the actions of the states, so whole samples are written
unless a length is asked for. ``action`` (T − 1, 7) holds what it makes of them, before its scaling: in the frame of the
pose before (R the rotation of the Euler angles), ``Rᵀ (x' − x)``, the Euler angles of ``Rᵀ R'``, and the gripper after.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidSpecError, UnsupportedSourceError
from ..geometry import rotations
from ..shards import layout
from ..shards.windows import Cut, Short, WindowId
from .clips import Made, Options, write_clips
from .common import Result, opened

TRAIN: Final = "train"
VALIDATION: Final = "val"
SPLITS: Final = (TRAIN, VALIDATION, "test")
"""Its loader lists the folders of all three."""


def export(
    path: str | Path,
    dest: str | Path,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    hop: int | None = None,
    short: Short = "skip",
    nearest: bool = False,
    size: tuple[int, int] | None = None,
    views: tuple[str, ...] | None = None,
    actions: bool = True,
    crf: int | None = None,
    val_fraction: float = 0.0,
    **run: Any,
) -> Result:
    """Write the annotations and their videos.

    Args:
        path: A complete data set of one gripper.
        dest: A new folder, or one whose export was interrupted: ``datasets/bridge`` in its configuration.
        num_frames: Frames of a window; whole samples by default.
        fps: As of `clips.export_clips`.
        hop: As there.
        short: As there.
        nearest: As there.
        size: As there.
        views: As there; their order is that of ``cam_ids``.
        actions: Write action videos too, under ``action_videos``: its loader does not read them.
        crf: As there.
        val_fraction: Share of the samples that go to ``val``, by their keys.
        run: ``reuse``, ``num_workers``, ``on_start``, ``on_done`` of `clips.write_clips`.

    Raises:
        UnsupportedSourceError: The data set has several grippers.
        As `clips.write_clips`.
    """
    if not 0 <= val_fraction < 1:
        raise InvalidSpecError("is no share", field="val_fraction", expected="0 … 1", found=val_fraction)
    if num_frames is None and (hop is not None or short != "skip" or nearest):
        raise InvalidSpecError("whole samples are not cut", field="hop, short, nearest", expected="with num_frames")
    _, manifest = opened(path)
    if manifest.grippers:
        raise UnsupportedSourceError(
            "an annotation holds the state of one gripper",
            where=path,
            field="grippers",
            found=" ".join(manifest.grippers),
        )
    cut = None if num_frames is None else Cut(num_frames, fps, hop, short, nearest)
    options = Options(cut, fps, size, views, "none", actions, crf, poses=True)
    names = _Names(val_fraction)
    finish = functools.partial(_finish, names)
    result = write_clips("cosmos", path, dest, options, finish, naming=names, strict=False, **run)
    result.notes.append(f"Then: train_annotation_path {dest}/annotation/train, video_path {dest}, normalize False.")
    return result


@dataclass(frozen=True)
class _Names:
    """Where an annotation and its clips are; all windows of a sample are in one split."""

    val_fraction: float

    def split(self, key: str) -> str:
        number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
        return VALIDATION if number < math.floor(self.val_fraction * 2**64) else TRAIN

    def annotation(self, window: WindowId) -> str:
        return f"annotation/{self.split(window.key)}/{window.key}.{window.start:06d}.json"

    def __call__(self, window: WindowId) -> tuple[str, str]:
        folder = f"{self.split(window.key)}/{window.key}.{window.start:06d}"
        name = "+".join(window.views)
        return f"videos/{folder}/{name}.mp4", f"action_videos/{folder}/{name}.mp4"


def _finish(names: _Names, root: Path, windows: Sequence[Made]) -> None:
    for split in SPLITS:
        (root / "annotation" / split).mkdir(parents=True, exist_ok=True)
    for made in windows:
        assert made.poses is not None
        state, closed = made.poses[:, :6], 1.0 - made.poses[:, 6]
        split = names.split(made.window.key)
        document = {
            "task": "robot_trajectory_prediction",
            "texts": [made.caption],
            "videos": [{"video_path": clip.video} for clip in made.clips],
            **({"action_videos": [{"video_path": c.control} for c in made.clips]} if made.clips[0].control else {}),
            "state": state.tolist(),
            "continuous_gripper_state": closed.tolist(),
            "action": relative_actions(state, closed).tolist(),
            "episode_id": f"{made.window.key}.{made.window.start:06d}",
            "episode_metadata": {
                "episode_id": f"{made.window.key}.{made.window.start:06d}",
                "is_eval": split != TRAIN,
                "views": list(made.window.views),
                "fps": made.fps,
                "gripper": "0 open, 1 closed",
                "state": "canonical gripper frame in the world: metres, extrinsic xyz Euler angles",
            },
        }
        layout.publish(root / names.annotation(made.window), (json.dumps(document) + "\n").encode())


def relative_actions(state: NDArray[np.float64], gripper: NDArray[np.float64]) -> NDArray[np.float64]:
    """Actions ``(T − 1, 7)`` from one state to the next, as ``Dataset_3D`` makes them, unscaled.

    Args:
        state: ``(T, 6)`` x y z, Euler xyz.
        gripper: ``(T,)`` 0 open, 1 closed.
    """
    rotation = np.asarray(rotations.matrix_from_euler(state[:, 3:]))
    back = rotation[:-1].swapaxes(-1, -2)
    moved = (back @ (state[1:, :3] - state[:-1, :3])[..., None])[..., 0]
    turned = np.asarray(rotations.euler_from_matrix(back @ rotation[1:]))
    return np.concatenate([moved, turned, gripper[1:, None]], axis=1)

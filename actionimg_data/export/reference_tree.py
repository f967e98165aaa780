"""The folder tree that the published training code of Action Images (arXiv 2604.06168) reads.

``DEST/rlbench/TASK/variationN/{variation_descriptions.pkl, episodes/episodeK/{actions.npy, viewM/rgb/video.mp4,
viewM/camera_params.json}}``. Its loader takes every fourth row of ``actions.npy`` for a frame of video, so the tree
satisfies ``len(video) == ceil(len(actions) / 4)`` and ``video[j]`` shows ``actions[4 j]``. Cameras are camera-to-world
with RLBench's axes and negative focal lengths.
"""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import EmptyEpisodeError, InvalidSpecError, UnsupportedSourceError
from ..geometry import rotations
from ..geometry.axes import rotate_half_turn
from ..model import CameraTrack, GripperTrajectory
from ..shards import Sample, layout
from ..video import ENDINGS, encode_bytes, rgb_encoding
from .common import Result, new_folder, opened

ACTIONS_PER_FRAME: Final = 4
_CRF: Final = 18


def export(path: str | Path, dest: str | Path, *, every: int = ACTIONS_PER_FRAME) -> Result:
    """Write the tree.

    Args:
        path: A complete data set.
        dest: A new folder; pass it as ``--dataset_path`` to the published code.
        every: The video takes every n-th stored frame (1, 2 or 4). With 4, ``actions.npy`` holds the stored poses
            themselves. With less, poses between frames are interpolated (the loader never reads them); with 1 the
            stored videos are copied as they are.

    Raises:
        InvalidSpecError: Another value of ``every``.
        UnsupportedSourceError: The data set has several grippers; the tree has one.
        EmptyEpisodeError: No sample has a pose in every frame.
        OutputExistsError, OutputError: ``dest`` cannot be made.
        CorruptDatasetError, BadVideoError: The data set is damaged.
    """
    if every not in (1, 2, ACTIONS_PER_FRAME):
        raise InvalidSpecError("must be 1, 2 or 4", field="every", found=every)
    dataset, manifest = opened(path)
    if manifest.grippers:
        raise UnsupportedSourceError(
            "the published tree holds one gripper an episode, and its code draws one",
            where=path,
            field="grippers",
            found=" ".join(manifest.grippers),
            hint="Train with actionimg_data.training, or export lerobot, energon, huggingface or wids.",
        )
    result = Result("reference-tree", str(dest))
    variations: dict[str, dict[tuple[str, ...], int]] = {}
    episodes: dict[str, int] = {}
    rates = set()
    with new_folder(dest) as root:
        listing = []
        for sample in dataset:
            trajectory = sample.trajectory
            if not (trajectory.known & np.isfinite(trajectory.openness)).all():
                result.left_out.append((sample.key, "has frames without a pose"))
                continue
            meta = sample.meta
            task = re.sub(r"[^A-Za-z0-9_.-]+", "_", meta.task) or "task"
            known = variations.setdefault(task, {})
            number = known.setdefault(meta.instructions, len(known))
            variation = root / "rlbench" / task / f"variation{number}"
            variation.mkdir(parents=True, exist_ok=True)
            described = variation / "variation_descriptions.pkl"
            if not described.exists():
                described.write_bytes(pickle.dumps(list(meta.instructions), protocol=4))
            episode = episodes.get(str(variation), 0)
            episodes[str(variation)] = episode + 1
            folder = variation / "episodes" / f"episode{episode}"
            folder.mkdir(parents=True)
            _write(sample, trajectory, folder, every)
            rates.add(meta.fps / every)
            result.samples += 1
            listing.append({"key": meta.key, "episode": str(folder.relative_to(root)), "views": list(meta.views)})
        if not result.samples:
            raise EmptyEpisodeError("no sample has a pose in every frame", where=path)
        record = {"source": manifest.sources, "every": every, "fps": sorted(rates), "episodes": listing}
        (root / "export.json").write_text(json.dumps(record, indent=1) + "\n")
    rate = sorted(rates)
    seconds = ", ".join(f"41 frames at {r:g} Hz span {41 / r:.3g} s" for r in rate)
    result.notes.append(seconds + "; the published RLBench tree has 5 Hz (8.2 s).")
    return result


def _write(sample: Sample, trajectory: GripperTrajectory, folder: Path, every: int) -> None:
    frames = np.arange(0, len(trajectory), every)
    np.save(folder / "actions.npy", _actions(trajectory, frames, every))
    meta = sample.meta
    for number, view in enumerate(meta.views):
        target = folder / f"view{number}"
        (target / "rgb").mkdir(parents=True)
        if every == 1 and meta.rgb_codec == "h264":
            video = sample.read(layout.rgb_member(view, ENDINGS[meta.rgb_codec]))
        else:
            pictures = sample.rgb(view, frames.tolist())
            video = encode_bytes(pictures, rgb_encoding(_CRF), meta.fps / every, meta.height, meta.width)
        (target / "rgb" / "video.mp4").write_bytes(video)
        (target / "camera_params.json").write_text(json.dumps(_cameras(sample.cameras[view], frames)))


def _actions(trajectory: GripperTrajectory, frames: NDArray[np.intp], every: int) -> NDArray[np.float64]:
    """``(4 (len(frames) - 1) + 1 … , 8)``: four rows a frame; row ``4 j`` is the pose of ``frames[j]``."""
    stored = trajectory.to_action8()
    if every == ACTIONS_PER_FRAME:
        return stored
    at = np.arange(ACTIONS_PER_FRAME * (len(frames) - 1) + 1) * every / ACTIONS_PER_FRAME
    before = np.floor(at).astype(np.intp)
    after = np.minimum(before + 1, len(stored) - 1)
    part = at - before
    position = stored[before, :3] * (1 - part[:, None]) + stored[after, :3] * part[:, None]
    quaternion = np.asarray(rotations.slerp(stored[before, 3:7], stored[after, 3:7], part))
    out = np.concatenate([position, quaternion, stored[before, 7:]], axis=1)
    out[part == 0] = stored[before[part == 0]]
    return out


def _cameras(track: CameraTrack, frames: NDArray[np.intp]) -> dict[str, Any]:
    K, pose = rotate_half_turn(track.K[frames], track.world_from_camera[frames])
    return {f"{j:04d}": {"intrinsics": K[j].tolist(), "extrinsics": pose[j].tolist()} for j in range(len(frames))}

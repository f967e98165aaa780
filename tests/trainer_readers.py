"""What trainers' own loaders make of an export, written after their code: strict where that code would go wrong.

DiffSynth-Studio 2.1.12 (``core/data``), musubi-tuner (``dataset/datasources.py``, ``media_utils.py``), finetrainers
0.2.0 (``data/dataset.py``) and Cosmos-Predict 2.5 (``action/datasets/dataset_local.py``).
"""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
from scipy.spatial.transform import Rotation

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import pip._vendor.tomli as tomllib  # type: ignore[no-redef]

Video = np.ndarray


def frames_of(path: str | Path) -> Video:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def diffsynth(base: Path, keys: tuple[str, ...], num_frames: int) -> list[dict[str, Any]]:
    """``UnifiedDataset``: columns joined to the base path, frames 0 … N−1, trimmed to 4n + 1, sizes cut to 16."""
    with open(base / "metadata.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    out = []
    for row in rows:
        sample: dict[str, Any] = dict(row)
        for key in keys:
            path = os.path.join(str(base), row[key])
            assert path.split(".")[-1].lower() in ("mp4", "avi", "mov", "wmv", "mkv", "flv", "webm")
            video = frames_of(path)
            count = num_frames
            if len(video) < count:
                count = len(video)
                while count > 1 and count % 4 != 1:
                    count -= 1
            height, width = (n // 16 * 16 for n in video.shape[1:3])
            assert (count, height, width) == video.shape[:3], "it would cut this down"
            sample[key] = video
        out.append(sample)
    return out


def musubi(folder: Path, started_in: Path) -> list[dict[str, Any]]:
    """``VideoJsonlDatasource`` and the cache's names, for a trainer that is started in a folder."""
    config = tomllib.loads((folder / "dataset.toml").read_text(encoding="utf-8"))
    general, (dataset,) = config["general"], config["datasets"]
    (count,) = dataset["target_frames"]
    assert (count - 1) % 4 == 0
    assert dataset["frame_extraction"] == "head"
    assert "source_fps" not in dataset, "it would drop frames"
    lines = (started_in / dataset["video_jsonl_file"]).read_text(encoding="utf-8").splitlines()
    out, cached = [], set()
    for line in lines:
        data = json.loads(line)
        video, control = (frames_of(started_in / data[key]) for key in ("video_path", "control_path"))
        assert video.shape == control.shape
        assert general["resolution"] == [video.shape[2], video.shape[1]]
        assert len(video) >= count
        cached.add(os.path.splitext(os.path.basename(data["video_path"]))[0])
        out.append({"caption": data["caption"], "video": video[:count], "control": control[:count]})
    assert len(cached) == len(lines), "latents of different videos would have one name"
    return out


def cosmos(base: Path, split: str, frames: int, stride: int, cam_id: int) -> list[dict[str, Any]]:
    """``Dataset_3D``: windows of ``frames`` at every frame of each annotation, and the actions of their states."""
    out = []
    for name in sorted(os.listdir(base / "annotation" / split)):
        label = json.loads((base / "annotation" / split / name).read_text())
        state, gripper = np.array(label["state"]), np.array(label["continuous_gripper_state"])
        video = frames_of(os.path.join(str(base), label["videos"][cam_id]["video_path"]))
        assert len(video) == len(state) == len(gripper)
        for start in range(len(state)):
            ids = [start + stride * i for i in range(frames)]
            if ids[-1] > len(state) - 1:
                break
            out.append({"annotation": name, "video": video[ids], "action": _actions(state[ids][:, :6], gripper[ids])})
    return out


def _actions(state: Video, gripper: Video) -> Video:
    # Its own Euler angles: Rz Ry Rx, which is extrinsic "xyz".
    rotation = Rotation.from_euler("xyz", state[:, 3:6]).as_matrix()
    rows = []
    for k in range(1, len(state)):
        moved = np.dot(rotation[k - 1].T, state[k, :3] - state[k - 1, :3])
        turned = Rotation.from_matrix(rotation[k - 1].T @ rotation[k]).as_euler("xyz")
        rows.append([*moved, *turned, gripper[k]])
    return np.array(rows)


def safe_names(folder: Path) -> bool:
    """Whether every file's name is one that every loader takes."""
    return all(re.fullmatch(r"[a-z0-9_+.-]+", path.name) for path in folder.rglob("*.mp4"))

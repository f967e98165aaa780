"""The folder trees that the published training code of Action Images (arXiv 2604.06168) reads.

``rlbench``: ``DEST/rlbench/TASK/variationN/{variation_descriptions.pkl, episodes/episodeK/{actions.npy,
viewM/rgb/video.mp4, viewM/camera_params.json}}``. Its loader takes every fourth row of ``actions.npy`` for a frame of
video, so the tree satisfies ``len(video) == ceil(len(actions) / 4)`` and ``video[j]`` shows ``actions[4 j]``. Cameras
are camera-to-world with RLBench's axes and negative focal lengths.

``selfgen``: a public fork's: as ``rlbench``, but ``actions.npy`` has a row a frame of the video, cameras are keyed "0",
"1", …, and there are ``meta.json`` (instruction), ``handles.json`` and, where depth and masks are stored,
``viewM/depth.npz`` (metres, 16-bit floats) and ``viewM/mask.npz``.

``droid``: ``DEST/droid/{cam2base_extrinsic_superset.json, camera_serials.json}`` and
``DEST/droid/processed/KEY/{video/extN.mp4, camera.json, action.npz, instruction.txt}``; cameras stand still, axes are
OpenCV's, ``action`` (T, 6) has a row a frame.

``bridge``: ``DEST/bridge/processed/KEY/{video/N.mp4, vggt/0/extrinsic.npy, vggt/0/intrinsic.npy, instruction.txt}``;
poses are world-to-camera, and there are no actions.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import EmptyEpisodeError, InvalidSpecError, UnsupportedSourceError
from ..geometry import rotations, transforms
from ..geometry.axes import rotate_half_turn
from ..model import CameraTrack, GripperTrajectory
from ..shards import Sample, npz
from ..shards import layout as layout_names
from ..video import ENDINGS, encode_bytes, rgb_encoding
from .common import Result, new_folder, opened

ACTIONS_PER_FRAME: Final = 4
_CRF: Final = 18
_MOST_VIEWS: Final = 9


def export(path: str | Path, dest: str | Path, *, every: int | None = None, layout: str = "rlbench") -> Result:
    """Write the tree.

    Args:
        path: A complete data set.
        dest: A new folder; pass it as ``--dataset_path`` to the published code.
        every: The video takes every n-th stored frame (1, 2 or 4). Of ``rlbench`` 4 by default: ``actions.npy`` then
            holds the stored poses themselves; with less, poses between frames are interpolated (the loader never reads
            them), and with 1 the stored videos are copied as they are. Of the others 1 by default.
        layout: Which tree: ``rlbench``, ``selfgen``, ``droid`` or ``bridge``.

    Raises:
        InvalidSpecError: Another value of ``every`` or ``layout``.
        UnsupportedSourceError: The data set has several grippers, and the tree has one; or no cameras.
        EmptyEpisodeError: No sample can be written; the last reason is named.
        OutputExistsError, OutputError: ``dest`` cannot be made.
        CorruptDatasetError, BadVideoError: The data set is damaged.
    """
    if layout not in LAYOUTS:
        raise InvalidSpecError("no such layout", field="layout", expected=" | ".join(LAYOUTS), found=layout)
    every = (ACTIONS_PER_FRAME if layout == "rlbench" else 1) if every is None else every
    if every not in (1, 2, ACTIONS_PER_FRAME):
        raise InvalidSpecError("must be 1, 2 or 4", field="every", found=every)
    dataset, manifest = opened(path)
    if manifest.grippers and layout != "bridge":
        raise UnsupportedSourceError(
            "the published tree holds one gripper an episode, and its code draws one",
            where=path,
            field="grippers",
            found=" ".join(manifest.grippers),
            hint="Train with actionimg_data.training, or export lerobot, energon, huggingface or wids.",
        )
    if manifest.options.poses_only and not (layout == "bridge" and manifest.options.conditioning):
        raise UnsupportedSourceError(
            "has no cameras, which the published loader reads",
            where=path,
            field="cameras",
            hint="Cameras in a frame of their own will do for --layout bridge: convert --conditioning-cameras.",
        )
    result = Result("reference-tree", str(dest))
    rates = set()
    with new_folder(dest) as root:
        tree = LAYOUTS[layout](root, every)
        listing = []
        for sample in dataset:
            try:
                folder, views = tree.add(sample)
            except _LeftOut as reason:
                result.left_out.append((sample.key, str(reason)))
                continue
            rates.add(sample.fps / every)
            result.samples += 1
            listing.append({"key": sample.key, "episode": str(folder.relative_to(root)), "views": list(views)})
        if not result.samples:
            raise EmptyEpisodeError(f"no sample can be written: {result.left_out[-1][1]}", where=path)
        tree.close()
        record = {"source": manifest.sources, "every": every, "fps": sorted(rates), "episodes": listing}
        (root / "export.json").write_text(json.dumps({"layout": layout, **record}, indent=1) + "\n")
    result.notes += tree.notes(sorted(rates))
    return result


class _LeftOut(Exception):
    """Why a sample is not in the tree."""


class _Tree:
    """One of the trees, while it is written.

    Args:
        root: The new folder.
        every: The video takes every n-th frame.
    """

    def __init__(self, root: Path, every: int) -> None:
        self.root, self.every = root, every

    def add(self, sample: Sample) -> tuple[Path, Sequence[str]]:
        """Write an episode; its folder, and which views it has, in the order of their files."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what is about all episodes."""

    def notes(self, rates: Sequence[float]) -> list[str]:
        """What the user should know, at these rates of the videos."""
        return []

    def _video(self, sample: Sample, view: str, target: Path) -> None:
        meta = sample.meta
        if self.every == 1 and meta.rgb_codec == "h264":
            video = sample.read(layout_names.rgb_member(view, ENDINGS[meta.rgb_codec]))
        else:
            pictures = sample.rgb(view, list(range(0, len(sample), self.every)))
            video = encode_bytes(pictures, rgb_encoding(_CRF), meta.fps / self.every, meta.height, meta.width)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(video)


def _known(sample: Sample) -> GripperTrajectory:
    trajectory = sample.trajectory
    if not (trajectory.known & np.isfinite(trajectory.openness)).all():
        raise _LeftOut("has frames without a pose")
    return trajectory


class _RLBench(_Tree):
    KEY: ClassVar[str] = "{:04d}"
    """Of a frame's camera."""

    def __init__(self, root: Path, every: int) -> None:
        super().__init__(root, every)
        self._variations: dict[str, dict[tuple[str, ...], int]] = {}
        self._episodes: dict[Path, int] = {}

    def add(self, sample: Sample) -> tuple[Path, Sequence[str]]:
        trajectory, meta = _known(sample), sample.meta
        task = re.sub(r"[^A-Za-z0-9_.-]+", "_", meta.task) or "task"
        known = self._variations.setdefault(task, {})
        number = known.setdefault(meta.instructions, len(known))
        variation = self.root / "rlbench" / task / f"variation{number}"
        variation.mkdir(parents=True, exist_ok=True)
        described = variation / "variation_descriptions.pkl"
        if not described.exists():
            described.write_bytes(pickle.dumps(list(meta.instructions), protocol=4))
        episode = self._episodes.get(variation, 0)
        self._episodes[variation] = episode + 1
        folder = variation / "episodes" / f"episode{episode}"
        folder.mkdir(parents=True)
        frames = np.arange(0, len(trajectory), self.every)
        np.save(folder / "actions.npy", self._rows(trajectory, frames))
        for place, view in enumerate(meta.views):
            target = folder / f"view{place}"
            self._video(sample, view, target / "rgb" / "video.mp4")
            (target / "camera_params.json").write_text(json.dumps(_cameras(sample.cameras[view], frames, self.KEY)))
        self._beside(sample, folder, frames)
        return folder, meta.views

    def _rows(self, trajectory: GripperTrajectory, frames: NDArray[np.intp]) -> NDArray[np.float64]:
        return _actions(trajectory, frames, self.every)

    def _beside(self, sample: Sample, folder: Path, frames: NDArray[np.intp]) -> None:
        """Write what an episode has besides."""

    def notes(self, rates: Sequence[float]) -> list[str]:
        seconds = ", ".join(f"41 frames at {r:g} Hz span {41 / r:.3g} s" for r in rates)
        return [seconds + "; the published RLBench tree has 5 Hz (8.2 s)."]


class _SelfGen(_RLBench):
    KEY = "{}"

    def _rows(self, trajectory: GripperTrajectory, frames: NDArray[np.intp]) -> NDArray[np.float64]:
        return trajectory.to_action8()[frames]

    def _beside(self, sample: Sample, folder: Path, frames: NDArray[np.intp]) -> None:
        texts = sample.meta.instructions
        (folder / "meta.json").write_text(json.dumps({"instruction": texts[0], "instructions": list(texts)}))
        ids: set[int] = set()
        for place, view in enumerate(sample.meta.views):
            target = folder / f"view{place}"
            if "depth" in sample.meta.planes:
                depth = sample.depth(view, list(frames))
                metres = np.empty(depth.shape, np.float16)
                for row, millimetres in zip(metres, depth, strict=True):
                    row[...] = millimetres * 1e-3
                (target / "depth.npz").write_bytes(npz.dump({"depth": metres}))
            if "mask" in sample.meta.planes:
                mask = sample.mask(view, list(frames)).astype(np.int32)
                ids.update(np.unique(mask).tolist())
                (target / "mask.npz").write_bytes(npz.dump({"mask": mask}))
        # Ids alone: what each is called is not in the data set.
        (folder / "handles.json").write_text(json.dumps({str(i): i for i in sorted(ids)}))

    def notes(self, rates: Sequence[float]) -> list[str]:
        return ["actions.npy has a row a frame: the published loader takes every fourth, and does not read this tree."]


class _Droid(_Tree):
    STRIDE: Final = 4
    """Frames of the video from one frame of the loader to the next."""

    def __init__(self, root: Path, every: int) -> None:
        super().__init__(root, every)
        self._superset: dict[str, dict[str, list[float]]] = {}
        self._serials: dict[str, dict[str, str]] = {}

    def add(self, sample: Sample) -> tuple[Path, Sequence[str]]:
        trajectory = _known(sample)
        views = _still(sample.cameras)
        folder = self.root / "droid" / "processed" / sample.key
        own, poses, serials = {}, {}, {}
        for place, view in enumerate(views, start=1):
            # The loader looks for the entry whose key contains the video's name: no name may be part of another.
            name, camera = f"ext{place}", sample.cameras[view]
            self._video(sample, view, folder / "video" / f"{name}.mp4")
            pose = camera.world_from_camera[0]
            own[name] = {"intrinsics": camera.K[0].tolist(), "extrinsics": pose.tolist()}
            euler = np.asarray(rotations.euler_from_matrix(pose[:3, :3]))
            poses[name] = [*pose[:3, 3].tolist(), *euler.tolist()]
            serials[f"{name}_cam_serial"] = name
        (folder / "camera.json").write_text(json.dumps(own))
        action = trajectory.to_action7()[:: self.every]
        with open(folder / "action.npz", "wb") as file:
            file.write(npz.dump({"action": action[:, :6], "gripper": 1.0 - action[:, 6]}))
        _words(sample, folder)
        self._superset[sample.key], self._serials[sample.key] = poses, serials
        return folder, views

    def close(self) -> None:
        for name, table in (("cam2base_extrinsic_superset", self._superset), ("camera_serials", self._serials)):
            (self.root / "droid" / f"{name}.json").write_text(json.dumps(table, indent=1) + "\n")

    def notes(self, rates: Sequence[float]) -> list[str]:
        seconds = ", ".join(f"41 frames of it at {r:g} Hz span {41 * self.STRIDE / r:.3g} s" for r in rates)
        return [
            f"The published loader takes every {self.STRIDE}th frame: {seconds}.",
            "It takes the gripper for open throughout; forks read `gripper` (0 open) of action.npz.",
        ]


class _Bridge(_Tree):
    def add(self, sample: Sample) -> tuple[Path, Sequence[str]]:
        meta = sample.meta
        cameras = sample.conditioning if layout_names.CONDITIONING in sample.members else sample.cameras
        views = _still(cameras)
        folder = self.root / "bridge" / "processed" / sample.key
        for place, view in enumerate(views):
            self._video(sample, view, folder / "video" / f"{place}.mp4")
        (folder / "vggt" / "0").mkdir(parents=True)
        pose = np.stack([cameras[view].world_from_camera[0] for view in views])
        np.save(folder / "vggt" / "0" / "extrinsic.npy", np.asarray(transforms.invert(pose))[:, :3])
        np.save(folder / "vggt" / "0" / "intrinsic.npy", np.stack([cameras[view].K[0] for view in views]))
        _words(sample, folder)
        return folder, [view for view in views if view in meta.views]

    def notes(self, rates: Sequence[float]) -> list[str]:
        return ["The published bridge tree has no actions: its samples train as video only."]


LAYOUTS: Final[Mapping[str, type[_Tree]]] = {
    "rlbench": _RLBench,
    "selfgen": _SelfGen,
    "droid": _Droid,
    "bridge": _Bridge,
}
"""The trees, by the name that the published code has for their data set."""


def _still(cameras: Mapping[str, CameraTrack]) -> list[str]:
    """The views whose camera stands still, of which there is one pose in these trees; 9 at most, as names allow."""
    views = [name for name, camera in cameras.items() if camera.is_static]
    if not views:
        raise _LeftOut("has no camera that stands still, and the tree holds one pose a view")
    return views[:_MOST_VIEWS]


def _words(sample: Sample, folder: Path) -> None:
    """One instruction a line: the droid loader takes the first, the bridge loader any."""
    (folder / "instruction.txt").write_text("\n".join(sample.meta.instructions))


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


def _cameras(track: CameraTrack, frames: NDArray[np.intp], key: str) -> dict[str, Any]:
    K, pose = rotate_half_turn(track.K[frames], track.world_from_camera[frames])
    return {key.format(j): {"intrinsics": K[j].tolist(), "extrinsics": pose[j].tolist()} for j in range(len(frames))}

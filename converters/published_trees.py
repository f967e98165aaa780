"""The trees of DROID and Bridge that the published Action Images training code reads (arXiv 2604.06168).

``droid``: ``cam2base_extrinsic_superset.json`` and ``camera_serials.json`` at the root, and for each episode, also
below ``processed``: ``video/VIEW.mp4``, ``camera.json`` = ``{VIEW: {"intrinsics": 3x3, "extrinsics": 4x4}}``,
``action.npz`` with ``action`` (T, 6) = x y z and "xyz" Euler angles, one a frame, and ``instruction.txt``. The camera
of a view is that of the superset, by the serial of the episode's entry whose key contains the view's name; where the
superset does not know the episode, the extrinsics of ``camera.json`` are in a frame of their own.

``bridge``: for each episode ``video/N.mp4``, ``vggt/0/extrinsic.npy`` (V, 3, 4) world-to-camera and ``intrinsic.npy``
(V, 3, 3), views in the order of the videos' names, and ``instruction.txt``. It has no actions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..cameras.conditioning import with_conditioning
from ..cameras.transforms import transform_from_xyz_euler
from ..errors import (
    AmbiguousSourceError,
    BadFileError,
    FrameCountError,
    InvalidCameraError,
    InvalidSpecError,
    MissingCalibrationError,
    SourceNotFoundError,
)
from ..geometry import exact
from ..model import Camera, Episode, EpisodeRef, GripperTrajectory, View
from ..untrusted.arrays import load_npz
from ..untrusted.text import load_json
from ..video import VideoFrames
from .kit.tree import file_stamp, files_with_sizes, plain_id, subfolders
from .kit.videos import common_rate, instructions_beside, open_videos, video_files

FloatArray = NDArray[np.float64]
SUPERSET: Final = "cam2base_extrinsic_superset.json"
SERIALS: Final = "camera_serials.json"
VGGT: Final = "vggt/0"
_ROOTS: Final = ("", "processed", "droid", "droid/processed", "bridge", "bridge/processed")
_LOOKED_AT: Final = 50


def layout_of(root: Path) -> str | None:
    """``droid`` or ``bridge`` by what the first folders hold; None where it is neither."""
    for folder in _episode_roots(root):
        for episode in subfolders(folder)[:_LOOKED_AT]:
            kind = _kind(episode)
            if kind is not None:
                return kind
    return None


def _episode_roots(root: Path) -> list[Path]:
    return [root / name for name in _ROOTS if (root / name).is_dir()]


def _kind(episode: Path) -> str | None:
    if not (episode / "video").is_dir():
        return None
    if (episode / "camera.json").is_file():
        return "droid"
    return "bridge" if (episode / VGGT).is_dir() else None


def discover(root: Path) -> Iterator[EpisodeRef]:
    """References to the episodes, in natural order; no video is opened."""
    for folder in _episode_roots(root):
        for episode in subfolders(folder):
            kind = _kind(episode)
            if kind is not None:
                place = episode.relative_to(root).as_posix()
                location = {"source": str(root), "path": place, "layout": kind}
                ref = EpisodeRef(plain_id(episode.name), location)
                yield EpisodeRef(ref.id, location, None, fingerprint(ref))


def fingerprint(ref: EpisodeRef) -> str:
    """Names and sizes of an episode's files, digests of the small ones, and what the root says of its cameras."""
    root, episode = Path(ref.location["source"]), Path(ref.location["source"]) / ref.location["path"]
    digest = hashlib.sha256()
    for folder in (episode, episode / "video", episode / VGGT):
        files = files_with_sizes(folder) if folder.is_dir() else []
        digest.update(repr((folder.name, files)).encode())
        for name, _ in files:
            if not name.endswith(".mp4"):
                digest.update(file_stamp(folder / name).encode())
    if ref.location["layout"] == "droid":
        tables = _tables(root, episode)
        digest.update(repr([table.get(episode.name) for table in tables]).encode())
    return digest.hexdigest()[:16]


def read(
    ref: EpisodeRef, fps: float | None, openness: float | None, tool_from_gripper: FloatArray, videos_only: bool
) -> Episode:
    """One episode; its videos are counted, and decoded when asked for.

    Args:
        ref: Of `discover`.
        fps: Of the videos, where their containers do not say.
        openness: Of a droid episode whose ``action.npz`` does not say.
        tool_from_gripper: ``(4, 4)`` the canonical gripper frame in that of a droid tree's actions.
        videos_only: Take pictures, words and estimated cameras alone.

    Raises:
        InvalidSpecError: A bridge tree, which has no actions, and not ``videos_only``.
        AmbiguousSourceError: Nobody says how open the gripper is, or at which rate the videos are.
        FrameCountError: Actions and frames differ in number.
        BadFileError, BadVideoError, SourceNotFoundError: A file is damaged, something else, or not there.
    """
    root, folder = Path(ref.location["source"]), Path(ref.location["source"]) / ref.location["path"]
    kind = str(ref.location["layout"])
    videos = open_videos(sorted(video_files(folder)), folder)
    rate = common_rate(videos, fps)
    times = np.arange(len(next(iter(videos.values())))) / rate
    provenance: dict[str, Any] = {"path": ref.location["path"], "layout": f"action-images {kind}"}
    if videos_only:
        trajectory = GripperTrajectory.unknown(times)
    elif kind == "bridge":
        raise InvalidSpecError(
            "the published bridge tree holds no actions",
            where=folder,
            field="videos_only",
            hint="Convert pictures, words and estimated cameras: --videos-only.",
        )
    else:
        trajectory = _trajectory(folder / "action.npz", times, openness, tool_from_gripper)
    views = {name: View(None, frames) for name, frames in videos.items()}
    if kind == "droid":
        views = _droid_views(root, folder, videos, None if videos_only else provenance)
    episode = Episode(
        id=ref.id,
        views=views,
        trajectory=trajectory,
        fps=rate,
        instructions=instructions_beside((folder,), None),
        provenance=provenance,
    )
    return episode if kind == "droid" else with_conditioning(episode, str(folder / VGGT))


def _trajectory(path: Path, times: FloatArray, openness: float | None, tool: FloatArray) -> GripperTrajectory:
    if not path.is_file():
        raise SourceNotFoundError("no such file", where=path, hint="Without actions: --videos-only.")
    arrays = load_npz(path, path)
    action = arrays.get("action")
    if action is None or action.ndim != 2 or action.shape[1] not in (6, 7) or action.dtype.kind not in "fiu":
        found = " ".join(arrays) if action is None else f"{action.dtype} {action.shape}"
        raise BadFileError("holds no actions", where=path, field="action", expected="numbers (T, 6)", found=found)
    if len(action) != len(times):
        raise FrameCountError(
            "actions and video frames differ in number", where=path, expected=len(times), found=len(action)
        )
    action = action.astype(np.float64)
    closed = arrays.get("gripper")
    if action.shape[1] == 7:
        opened = action[:, 6]
    elif closed is not None and closed.size == len(times):
        # Forks of the code add DROID's own signal, 0 open and 1 closed.
        opened = 1.0 - np.clip(closed.reshape(-1).astype(np.float64), 0.0, 1.0)
    elif openness is not None:
        opened = np.full(len(times), openness)
    else:
        raise AmbiguousSourceError(
            "does not say how open the gripper is",
            where=path,
            field="gripper",
            expected="action (T, 7), or gripper (T,) 0 open, 1 closed",
            found=" ".join(arrays),
            hint="Say how open it is throughout: --openness 1 is what the published loader takes.",
        )
    pose = transform_from_xyz_euler(action[:, :6])
    return GripperTrajectory.from_transforms(np.asarray(exact.matmul(pose, tool)), np.clip(opened, 0.0, 1.0), times)


@lru_cache(maxsize=4)
def _table(path: Path, _: str) -> Mapping[str, Any]:
    value = load_json(path)
    if not isinstance(value, dict):
        raise BadFileError("is not an object by episode", where=path, found=type(value).__name__)
    return value


def _tables(root: Path, episode: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The superset and the serials, of the nearest folder above the episode that has them."""
    above = [folder for folder in episode.parents if folder == root or root in folder.parents]
    for folder in above:
        if (folder / SUPERSET).is_file() or (folder / SERIALS).is_file():
            paths = (folder / SUPERSET, folder / SERIALS)
            return tuple(_table(p, file_stamp(p)) if p.is_file() else {} for p in paths)  # type: ignore[return-value]
    return {}, {}


def _droid_views(
    root: Path, folder: Path, videos: Mapping[str, VideoFrames], provenance: dict[str, Any] | None
) -> dict[str, View]:
    """Views with the camera that the superset knows, and the one of ``camera.json`` for conditioning.

    Args:
        root: The source.
        folder: The episode's.
        videos: By view.
        provenance: Where the serial of each camera is written; None: no camera is wanted that can draw.
    """
    path = folder / "camera.json"
    own = load_json(path)
    superset, serials = (table.get(folder.name) for table in _tables(root, folder))
    views, used = {}, {}
    for name, video in videos.items():
        stem = Path(video.path).stem
        entry = own.get(stem) if isinstance(own, dict) else None
        K = _matrix(entry, "intrinsics", (3, 3), path, stem)
        pose = _matrix(entry, "extrinsics", (4, 4), path, stem)
        try:
            conditioning = Camera(K, pose, video.width, video.height)
            camera, serial = None, _serial(serials, stem)
            if provenance is not None and isinstance(superset, dict) and serial in superset:
                camera = Camera(K, _six(superset[serial], root, folder.name, serial), video.width, video.height)
                used[name] = serial
        except InvalidCameraError as error:
            raise error.at(f"{path}: {stem}") from None
        views[name] = View(camera, video, conditioning=conditioning)
    if provenance is not None:
        if not used:
            raise MissingCalibrationError(
                "no camera of it is known in the robot's frame",
                where=folder,
                field=SUPERSET,
                hint="Take such episodes without actions: --videos-only.",
            )
        provenance["calibration"] = used
    return views


def _serial(serials: Any, stem: str) -> str:
    """The serial whose key contains the view's name, as the published loader finds it."""
    found = [v for k, v in serials.items() if stem in str(k)] if isinstance(serials, dict) else []
    return str(found[0]) if found else ""


def _matrix(entry: Any, field: str, shape: tuple[int, int], path: Path, view: str) -> FloatArray:
    try:
        value = np.array(entry[field], dtype=np.float64)
    except (KeyError, TypeError, ValueError):
        raise BadFileError("is absent or not numbers", where=path, field=f"{view}.{field}") from None
    if value.shape != shape:
        raise BadFileError("wrong shape", where=path, field=f"{view}.{field}", expected=shape, found=value.shape)
    return value


def _six(value: Any, root: Path, episode: str, serial: str) -> FloatArray:
    try:
        numbers = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (6,) or not np.isfinite(numbers).all():
        raise BadFileError("is not 6 numbers", where=root / SUPERSET, field=f"{episode}.{serial}", found=value)
    return transform_from_xyz_euler(numbers)

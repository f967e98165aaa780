"""The processed trees that the published Action Images training code reads (arXiv 2604.06168).

Those of DROID and Bridge are in `published_trees`; that of RLBench is
``ROOT/rlbench/TASK/variationN/variation_descriptions.pkl`` and, in ``episodes/episodeN``: ``actions.npy`` ``(T, 8)`` =
x y z, qx qy qz qw, openness; and, a view, ``viewN/rgb/video.mp4`` and ``viewN/camera_params.json`` = ``{"0000":
{"intrinsics": 3x3, "extrinsics": 4x4 camera-to-world}, …}`` by frame of the video. Frame j of a video shows pose 4 j.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..cameras.transforms import TRANSFORM_FORMS, parse_transform
from ..errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadFileError,
    EmptyEpisodeError,
    FrameCountError,
    InvalidCameraError,
    InvalidTrajectoryError,
    MissingCalibrationError,
    MissingFrameError,
    SourceNotFoundError,
    WrongFormatError,
)
from ..model import CameraTrack, Episode, EpisodeRef, GripperTrajectory, View
from ..untrusted.files import plain, read_bytes
from ..video import VideoFrames
from . import published_trees as _published
from . import selfgen_tree
from .base import Converter, ConverterOptions, Detection
from .kit.tree import file_stamp, files_with_sizes, source_folder, subfolders
from .kit.videos import common_rate
from .rlbench_tree import EpisodeFolder, find_episodes, instructions_of, opencv_camera

MAX_CAMERA_FILE: Final = 64 << 20
MAX_RATIO: Final = 64
_VIEW = re.compile(r"view[a-z0-9_-]*\Z")


class ActionImagesOptions(ConverterOptions):
    """What cannot be read from the tree, where it cannot."""

    fps: float | None = Field(
        None, gt=0, le=1000, description="frames per second of the videos (default: what their containers state)"
    )
    actions_per_frame: int | None = Field(
        None, ge=1, le=MAX_RATIO, description="poses for each video frame (default: from the two lengths)"
    )
    tasks: tuple[str, ...] = Field((), description="only these tasks (default: all)")
    videos_only: bool = Field(
        False,
        description="pictures and words alone; the published bridge tree holds no more, but for estimated cameras",
    )
    openness: float | None = Field(
        None,
        ge=0,
        le=1,
        description="how open the gripper is throughout a published droid tree without it (its loader takes 1)",
    )
    tool_from_gripper: str | None = Field(
        None,
        description="the canonical gripper frame in that of a droid tree's actions; by default the published code's, "
        f"which draws them as they are: {TRANSFORM_FORMS}",
    )


class ActionImagesConverter(Converter):
    """The processed trees of the published training code: rlbench, droid and bridge."""

    name: ClassVar[str] = "action-images"
    summary: ClassVar[str] = "the processed trees of the published Action Images training code"
    Options: ClassVar[type[ConverterOptions]] = ActionImagesOptions
    options: ActionImagesOptions

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether one of the first episodes has ``actions.npy`` beside ``view*``."""
        root = Path(os.path.abspath(source))
        if not root.is_dir():
            return None
        try:
            for folder in find_episodes(root, max_folders=500):
                if (folder.path / "actions.npy").is_file() and _views(folder.path):
                    return Detection("action-images", f"first episode {folder.id}")
            layout = _published.layout_of(root)
            if layout is not None:
                return Detection("action-images", f"the published {layout} tree")
        except ActionImgError:
            return None
        return None

    def remote_headers(self) -> tuple[str, ...]:
        """None: names and sizes are enough."""
        return ()

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """References to the episodes, by task, variation and episode in natural order; no video is opened.

        Raises:
            SourceNotFoundError: ``source`` does not exist.
            WrongFormatError: ``source`` holds no episode of this tree, or none of the tasks asked for.
        """
        root = source_folder(source)
        if _published.layout_of(root) is not None:
            yield from _published.discover(root)
            return
        tasks = set()
        for folder in find_episodes(root):
            views = _views(folder.path)
            if not views and not (folder.path / "actions.npy").is_file():
                continue
            tasks.add(folder.task or "")
            if self.options.tasks and folder.task not in self.options.tasks:
                continue
            yield EpisodeRef(folder.id, folder.location(), None, _fingerprint(folder.path))
        if not tasks:
            raise WrongFormatError(
                "holds no processed episode",
                where=source,
                expected="TASK/variationN/episodes/episodeN with actions.npy and view*/rgb/video.mp4",
            )
        if self.options.tasks and not tasks & set(self.options.tasks):
            raise WrongFormatError(
                "holds none of these tasks",
                where=source,
                field="tasks",
                expected=" | ".join(sorted(tasks)),
                found=" ".join(self.options.tasks),
            )

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """The episode's fingerprint as its files are now."""
        if "layout" in ref.location:
            return _published.fingerprint(ref)
        folder = EpisodeFolder.from_location(ref.id, ref.location)
        return _fingerprint(folder.path)

    def read(self, ref: EpisodeRef) -> Episode:
        """One episode at the rate of its videos; pictures are decoded when asked for.

        Raises:
            SourceNotFoundError: A file of the episode does not exist.
            BadFileError: A file is damaged or holds something else.
            BadVideoError: A video cannot be read.
            FrameCountError: Videos differ in length, or fit no whole number of poses a frame.
            AmbiguousSourceError: Several numbers of poses a frame fit, or the rate is not known.
            MissingFrameError: A frame has no camera.
            InvalidCameraError: A camera's matrices cannot be true.
            InvalidTrajectoryError: A pose is not finite, or its quaternion is not unit.
        """
        if "layout" in ref.location:
            return self._read_published(ref)
        folder = EpisodeFolder.from_location(ref.id, ref.location)
        views = _views(folder.path)
        if not views:
            raise EmptyEpisodeError("has no views", where=folder.path, expected="view*/rgb/video.mp4")
        videos = {view.name: VideoFrames(view / "rgb" / "video.mp4") for view in views}
        first = next(iter(videos.values()))
        for name, video in videos.items():
            if len(video) != len(first):
                raise FrameCountError(
                    "the views' videos differ in length",
                    where=video.path,
                    field=name,
                    expected=f"{len(first)} frames as in {first.path}",
                    found=f"{len(video)}",
                )
        fps = common_rate(videos, self.options.fps)
        actions_file = folder.path / "actions.npy"
        actions = _load_actions(actions_file)
        ratio = self._ratio(len(actions), len(first), actions_file)
        try:
            trajectory = GripperTrajectory.from_action8(actions[::ratio], np.arange(len(first)) / fps)
        except InvalidTrajectoryError as error:
            raise error.at(actions_file) from None
        instructions, instruction_source = selfgen_tree.instructions(folder.path), selfgen_tree.META
        if not instructions:
            instructions, instruction_source = instructions_of(folder, folder.task)
        return Episode(
            id=ref.id,
            views={view.name: _view(view, videos[view.name]) for view in views},
            trajectory=trajectory,
            fps=fps,
            instructions=instructions,
            task=folder.task,
            sync="assumed",
            provenance={
                "path": folder.relative,
                "layout": "action-images",
                "variation": _variation(folder.group),
                "actions_per_frame": ratio,
                "fps_source": "option" if self.options.fps else "video container",
                "instruction_source": instruction_source,
            },
        )

    @property
    def left_out(self) -> frozenset[str]:
        """Episodes of a droid tree of which no camera is known in the robot's frame: about half of them."""
        return frozenset({MissingCalibrationError.code})

    def _read_published(self, ref: EpisodeRef) -> Episode:
        given = self.options.tool_from_gripper
        tool = np.eye(4) if given is None else parse_transform(given, "tool_from_gripper")
        return _published.read(ref, self.options.fps, self.options.openness, tool, self.options.videos_only)

    def _ratio(self, poses: int, frames: int, where: Path) -> int:
        """The number r of poses a frame for which frame j shows pose r j: ``frames == ceil(poses / r)``."""
        given = self.options.actions_per_frame
        fitting = [r for r in range(1, MAX_RATIO + 1) if -(-poses // r) == frames]
        if given is not None:
            if given in fitting:
                return given
            raise FrameCountError(
                "poses and video frames do not fit",
                where=where,
                expected=f"{-(-poses // given)} frames for {poses} poses, {given} a frame",
                found=f"{frames} frames",
            )
        if not fitting:
            raise FrameCountError(
                "poses and video frames do not fit",
                where=where,
                expected=f"ceil({poses} / r) frames for a whole number r",
                found=f"{frames} frames",
            )
        if len(fitting) > 1:
            raise AmbiguousSourceError(
                "several numbers of poses a frame fit",
                where=where,
                field="actions_per_frame",
                expected="one",
                found=f"{poses} poses and {frames} frames: {', '.join(map(str, fitting))}",
                hint="Choose one with --actions-per-frame; the published tree has 4.",
            )
        return fitting[0]


def _views(folder: Path) -> list[Path]:
    return [path for path in subfolders(folder) if _VIEW.match(path.name)]


def _variation(group: str | None) -> int | None:
    return int(group.removeprefix("variation")) if group and group.startswith("variation") else None


def _load_actions(path: Path) -> NDArray[np.float64]:
    try:
        # Mapped, so that a header which claims terabytes is held against the file's size before anything is read.
        array = np.load(plain(path), mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise SourceNotFoundError("no such file", where=path) from None
    except (ValueError, OSError, EOFError) as error:
        raise BadFileError(f"cannot be read as an array: {error}", where=path) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] != 8:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise BadFileError("holds no actions", where=path, expected="numbers (T, 8)", found=found)
    if len(array) == 0:
        raise EmptyEpisodeError("has no poses", where=path)
    return np.array(array, dtype=np.float64)


def _view(folder: Path, video: VideoFrames) -> View:
    """A view with what lies beside its video."""
    track = _camera_track(folder / "camera_params.json", video)
    depth, mask = (selfgen_tree.planes(folder, kind, video) for kind in ("depth", "mask"))
    return View(track, video, depth, mask)


def _camera_track(path: Path, video: VideoFrames) -> CameraTrack:
    try:
        params: Any = json.loads(read_bytes(path, MAX_CAMERA_FILE))
    except ActionImgError:
        raise
    except (ValueError, RecursionError) as error:
        raise BadFileError(f"cannot be read as JSON: {error}", where=path) from None
    if not isinstance(params, dict):
        raise BadFileError("bad contents", where=path, expected="a camera a frame", found=type(params).__name__)
    n = len(video)
    # A fork counts without zeros in front.
    pattern = "{}" if "0" in params else "{:04d}"
    keys = [pattern.format(i) for i in range(n)]
    absent = next((key for key in keys if key not in params), None)
    if absent is not None:
        raise MissingFrameError(
            "a video frame has no camera", where=path, field=absent, expected=f"{n} cameras", found=f"{len(params)}"
        )
    if len(params) != n:
        raise FrameCountError("cameras and video frames differ in number", where=path, expected=n, found=len(params))
    K, pose = np.empty((n, 3, 3)), np.empty((n, 4, 4))
    for i, key in enumerate(keys):
        entry = params[key]
        for name, target in (("intrinsics", K[i]), ("extrinsics", pose[i])):
            try:
                value = np.array(entry[name], dtype=np.float64)
            except (KeyError, TypeError, ValueError, OverflowError):
                raise BadFileError("is absent or not numbers", where=path, field=f"{key}.{name}") from None
            if value.shape != target.shape:
                raise BadFileError(
                    "wrong shape", where=path, field=f"{key}.{name}", expected=target.shape, found=value.shape
                )
            target[:] = value
    try:
        return CameraTrack(*opencv_camera(K, pose), video.width, video.height)
    except InvalidCameraError as error:
        raise error.at(path) from None


def _fingerprint(episode: Path) -> str:
    """Names and sizes of an episode's files, and digests of its actions and cameras."""
    views = _views(episode)
    digest = hashlib.sha256()
    for path in (episode, *views, *(view / "rgb" for view in views)):
        files = files_with_sizes(path) if path.is_dir() else None
        digest.update(repr((path.relative_to(episode).as_posix(), files)).encode())
    for file in (episode / "actions.npy", episode / selfgen_tree.META, *(v / "camera_params.json" for v in views)):
        digest.update(file_stamp(file).encode() if file.is_file() else b"-")
    return digest.hexdigest()[:16]

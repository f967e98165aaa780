"""RLBench demos as RLBench, PerAct and Colosseum save them; RLBench, PyRep and CoppeliaSim are not needed.

Layouts (``N`` is not zero-padded):

* stepjam: ``TASK/variationN/episodes/episodeN``, descriptions beside ``episodes``
* PerAct: ``TASK/all_variations/episodes/episodeN``, descriptions and ``variation_number.pkl`` in the episode
* Colosseum: as stepjam, TASK ends in ``_INDEX``; or ``TASK_INDEX/episodes/episodeN``

An episode holds ``low_dim_obs.pkl`` and, a camera, ``CAMERA_rgb/N.png``, perhaps ``CAMERA_depth`` and ``CAMERA_mask``.
Bimanual demos (PerAct2's fork) have two grippers, and pictures that are called ``rgb_0000.png`` and so on.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadFileError,
    BadImageError,
    EmptyEpisodeError,
    FrameCountError,
    InvalidCameraError,
    InvalidTrajectoryError,
    MissingFrameError,
    UnsupportedSourceError,
    WrongFormatError,
    suggestion,
)
from ..model import CameraTrack, Episode, EpisodeRef, GripperTrajectory, JointTrack, View, millimetres
from ..untrusted import pickles
from .base import Converter, ConverterOptions, Detection
from .kit.pictures import PngFrames, png_size
from .kit.tree import file_stamp, files_with_sizes, some_files, source_folder, subfolders
from .rlbench_tree import DEMO_CLASSES, EpisodeFolder, find_episodes, instructions_of, opencv_camera

FPS: Final = 20.0
"""RLBench steps the simulation by 0.05 s an observation (CoppeliaSim's default time step)."""

TOOL_FROM_GRIPPER: Final = np.eye(4)
"""RLBench reports the pose of the Panda's tip dummy, which is the canonical frame already: between the fingertips,
z along the approach, the fingers opening along y (seen in the wrist pictures of real demos: the fingers lie left and
right of the centre, and the camera's horizontal axis is the pose's y axis)."""

_PICTURE = re.compile(r"(0|[1-9]\d*)\.png\Z")
_BIMANUAL_PICTURE = re.compile(r"(?:rgb|depth|mask)_(\d{4,})\.png\Z")
GRIPPERS: Final = ("right", "left")
"""Of a bimanual demo, in the order of PerAct2's actions."""

_COLOSSEUM_TASK = re.compile(r"(?P<task>.+)_(?P<index>\d+)\Z")
_BEFORE_1_1 = "recorded by RLBench before 1.1, which saved no camera calibration: it cannot be known from the demo"


class RLBenchOptions(ConverterOptions):
    """What to take from an RLBench data set."""

    tasks: tuple[str, ...] = Field((), description="only these tasks (default: all)")
    variations: tuple[int, ...] = Field((), description="only these variation numbers (default: all)")
    cameras: tuple[str, ...] = Field((), description="only these cameras; others are not even looked at (default: all)")


class RLBenchConverter(Converter):
    """RLBench demos in the layouts of stepjam/RLBench, PerAct and Colosseum."""

    name: ClassVar[str] = "rlbench"
    views_field = "cameras"
    summary: ClassVar[str] = "RLBench demos (stepjam, PerAct and Colosseum layouts)"
    Options: ClassVar[type[ConverterOptions]] = RLBenchOptions
    options: RLBenchOptions

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """The layout of the first episode found in a few hundred folders."""
        root = Path(os.path.abspath(source))
        if not root.is_dir():
            return None
        try:
            for folder in find_episodes(root, max_folders=500):
                if (folder.path / "low_dim_obs.pkl").is_file():
                    return Detection(_layout(folder), f"first episode {folder.id}")
        except ActionImgError:
            return None
        return None

    def remote_headers(self) -> tuple[str, ...]:
        """Names and sizes are enough, but for the variation of PerAct's episodes."""
        return ("*variation_number.pkl",) if self.options.variations else ()

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """References to the episodes, by task, variation and episode in natural order; nothing is unpickled.

        With ``variations`` given, PerAct's ``variation_number.pkl`` of each episode is read. An episode that is
        damaged is yielded too: `read` says what is wrong with it.

        Raises:
            SourceNotFoundError: ``source`` does not exist.
            WrongFormatError: ``source`` holds no RLBench episode, or none of the tasks or variations asked for.
            UnsupportedSourceError: ``source`` holds 3D Diffuser Actor's packed ``.dat`` demos.
        """
        root = source_folder(source)
        seen_tasks: Counter[str] = Counter()
        seen_variations: set[int] = set()
        found = processed = 0
        for folder in find_episodes(root):
            cameras = _camera_folders(folder.path)
            if not cameras and (folder.path / "actions.npy").is_file():
                processed += 1
                continue
            found += 1
            seen_tasks[folder.task or ""] += 1
            if self.options.tasks and not {folder.task, _split_task(folder)[0]} & set(self.options.tasks):
                continue
            if self.options.variations:
                variation = _variation_if_readable(folder)
                if variation is not None:
                    seen_variations.add(variation)
                    if variation not in self.options.variations:
                        continue
            yield _reference(folder, cameras)
        if found == 0:
            raise _nothing_found(root, source, processed)
        if self.options.tasks and not any(
            {task, _without_index(task)} & set(self.options.tasks) for task in seen_tasks
        ):
            raise WrongFormatError(
                "holds none of these tasks",
                where=source,
                field="tasks",
                expected=" | ".join(sorted(seen_tasks)),
                found=" ".join(self.options.tasks),
            )
        if self.options.variations and seen_variations and not seen_variations & set(self.options.variations):
            raise WrongFormatError(
                "holds none of these variations",
                where=source,
                field="variations",
                expected=" | ".join(map(str, sorted(seen_variations))),
                found=" ".join(map(str, self.options.variations)),
            )

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """The episode's fingerprint as its files are now."""
        folder = EpisodeFolder.from_location(ref.id, ref.location)
        return _reference(folder, _camera_folders(folder.path)).fingerprint

    def read(self, ref: EpisodeRef) -> Episode:
        """One demo; its pictures are read when asked for.

        Raises:
            UnsupportedSourceError: Recorded before RLBench 1.1 without calibration.
            UnsafeFileError: A pickle asks for more than data needs.
            BadFileError: A pickle is truncated, damaged, or lacks something every demo has.
            FrameCountError: A camera has another number of pictures than there are observations.
            MissingFrameError: A picture is missing in the middle.
            BadImageError: The first picture of a camera is no PNG.
            InvalidCameraError: A camera's matrices cannot be true, or are for another picture size.
            InvalidTrajectoryError: A gripper pose is not finite, or its quaternion is not unit.
        """
        folder = EpisodeFolder.from_location(ref.id, ref.location)
        demo_file = os.fspath(folder.path / "low_dim_obs.pkl")
        cameras = self._cameras(folder.path)
        demo = pickles.load(demo_file, records=DEMO_CLASSES)
        observations = _observations(demo, demo_file)
        n = len(observations)
        views, no_calibration = {}, []
        for name, pictures in cameras.items():
            frames = _frames(folder.path / f"{name}_rgb", name, pictures, n)
            track = _camera_track(observations, name, frames, demo_file)
            if track is None:
                no_calibration.append(name)
            views[name] = _view(folder.path, name, frames, track, observations)
        if len(no_calibration) == len(views):
            raise UnsupportedSourceError(_BEFORE_1_1, where=demo_file, field="misc")
        variation, variation_source = _variation(folder, demo)
        instructions, instruction_source = instructions_of(folder, _split_task(folder)[0])
        layout = _layout(folder)
        provenance: dict[str, Any] = {
            "path": folder.relative,
            "layout": layout,
            "variation": variation,
            "variation_source": variation_source,
            "random_state": _random_state(demo),
            "instruction_source": instruction_source,
            "tool_from_gripper": TOOL_FROM_GRIPPER.tolist(),
        }
        if observations[0].kind == "BimanualObservation":
            provenance["robot"] = "bimanual"
        task, index = _split_task(folder)
        if index is not None:
            provenance["colosseum_index"] = index
        if no_calibration:
            provenance["cameras_without_calibration"] = no_calibration
        return Episode(
            id=ref.id,
            views=views,
            grippers=_grippers(observations, demo_file),
            fps=FPS,
            instructions=instructions,
            task=task,
            sync="assumed",
            provenance=provenance,
            joints=_joints(observations),
        )

    def inspect(self, source: str) -> dict[str, Any]:
        """As the base class, with the number of episodes of each task."""
        tasks = Counter(ref.location["task"] or "" for ref in self.discover(source))
        return {**super().inspect(source), "tasks": dict(tasks)}

    def _cameras(self, path: Path) -> dict[str, list[str]]:
        """Camera name to the names of its files, for the cameras that have any."""
        found = _camera_folders(path)
        wanted: tuple[str, ...] = self.options.cameras
        missing = [name for name in wanted if name not in found]
        if missing:
            raise WrongFormatError(
                "has no pictures of this camera",
                where=path,
                field="views",
                expected=" | ".join(found) or "a folder CAMERA_rgb",
                found=" ".join(missing),
                hint=suggestion(missing[0], list(found)),
            )
        names = wanted or tuple(found)
        if not names:
            raise EmptyEpisodeError("has no pictures", where=path, expected="CAMERA_rgb/0.png")
        return {name: [file for file, _ in found[name]] for name in names}


def _camera_folders(path: Path) -> dict[str, list[tuple[str, int]]]:
    """Camera name to the names and sizes of its files. RLBench makes a folder for a camera that is off, too."""
    found = {
        folder.name.removesuffix("_rgb"): files_with_sizes(folder)
        for folder in subfolders(path)
        if folder.name.endswith("_rgb") and len(folder.name) > 4
    }
    return {name: files for name, files in found.items() if files}


def _reference(folder: EpisodeFolder, cameras: dict[str, list[tuple[str, int]]]) -> EpisodeRef:
    digest = hashlib.sha256()
    planes = [
        (part.name, files_with_sizes(part))
        for part in subfolders(folder.path)
        if part.name.endswith(("_depth", "_mask"))
    ]
    for group, listing in (("", files_with_sizes(folder.path)), *cameras.items(), *planes):
        digest.update(repr((group, listing)).encode("utf-8", "surrogatepass"))
    for name in ("low_dim_obs.pkl", "variation_number.pkl"):
        if (folder.path / name).is_file():
            digest.update(file_stamp(folder.path / name).encode())
    files = next(iter(cameras.values()), [])
    num_frames = sum(bool(_PICTURE.match(name) or _BIMANUAL_PICTURE.match(name)) for name, _ in files) or None
    return EpisodeRef(folder.id, folder.location(), num_frames, digest.hexdigest()[:16])


def _nothing_found(root: Path, source: str, processed: int) -> ActionImgError:
    if processed:
        return WrongFormatError(
            "is the published processed tree, not RLBench's own",
            where=source,
            expected="episodes with low_dim_obs.pkl",
            found=f"{processed} episodes with actions.npy",
            hint="Use the format action-images.",
        )
    packed = next((str(file) for file in some_files(root, ".dat")), None)
    if packed is not None:
        return UnsupportedSourceError(
            "3D Diffuser Actor's packed demos hold keyframes without cameras or a frame rate",
            where=packed,
            hint="Convert the RLBench demos they were made from.",
        )
    return WrongFormatError("holds no RLBench episode", where=source, expected="TASK/variationN/episodes/episodeN")


# What the place in the tree says.


def _without_index(task: str) -> str:
    match = _COLOSSEUM_TASK.match(task)
    return match["task"] if match else task


def _split_task(folder: EpisodeFolder) -> tuple[str | None, int | None]:
    """The task's name, and Colosseum's index where the folder's name ends in one."""
    match = _COLOSSEUM_TASK.match(folder.task or "")
    return (match["task"], int(match["index"])) if match else (folder.task, None)


def _layout(folder: EpisodeFolder) -> str:
    if _split_task(folder)[1] is not None:
        return "colosseum"
    return {"all_variations": "peract", None: "plain"}.get(folder.group, "stepjam")


# What the pickles say.


def _observations(demo: Any, where: str) -> list[pickles.Record]:
    observations = demo.get("_observations") if isinstance(demo, pickles.Record) else demo
    if not isinstance(observations, list):
        raise BadFileError("holds no demo", where=where, expected="a list of observations", found=type(demo).__name__)
    if not observations:
        raise EmptyEpisodeError("has no observations", where=where)
    for i, o in enumerate(observations):
        if not (isinstance(o, pickles.Record) and o.kind in ("Observation", "BimanualObservation")):
            raise BadFileError(
                "holds something else than observations", where=where, field=f"[{i}]", found=type(o).__name__
            )
        if o.kind != observations[0].kind:
            raise BadFileError(
                "mixes one arm and two", where=where, field=f"[{i}]", expected=observations[0].kind, found=o.kind
            )
    return observations


def _stack(values: list[Any], shape: tuple[int, ...], where: str, field: str) -> NDArray[np.float64]:
    """Values of all observations as ``(T, *shape)``; the first that is absent or misshapen is named."""
    for i, value in enumerate(values):
        if not (isinstance(value, (np.ndarray, np.generic, float, int)) and np.shape(value) == shape):
            raise BadFileError(
                "is absent or has the wrong shape",
                where=where,
                field=f"observation {i}: {field}",
                expected=str(shape) if shape else "a number",
                found=str(np.shape(value)) if isinstance(value, np.ndarray) else type(value).__name__,
            )
    return np.asarray(values, dtype=np.float64)


def _grippers(observations: list[pickles.Record], where: str) -> dict[str, GripperTrajectory]:
    if observations[0].kind == "Observation":
        return {"": _trajectory(observations, where)}
    grippers = {}
    for name in GRIPPERS:
        arms = [o.get(name) for o in observations]
        absent = next((i for i, arm in enumerate(arms) if not isinstance(arm, pickles.Record)), None)
        if absent is not None:
            raise BadFileError(
                "lacks an arm",
                where=where,
                field=f"observation {absent}: {name}",
                expected="UnimodalObservationData",
                found=type(arms[absent]).__name__,
            )
        grippers[name] = _trajectory(arms, where, f"{name}.")
    return grippers


def _trajectory(observations: list[pickles.Record], where: str, arm: str = "") -> GripperTrajectory:
    pose = _stack([o.get("gripper_pose") for o in observations], (7,), where, f"{arm}gripper_pose")
    openness = _stack([o.get("gripper_open") for o in observations], (), where, f"{arm}gripper_open")
    try:
        return GripperTrajectory(pose[:, :3], pose[:, 3:], openness, np.arange(len(pose)) / FPS)
    except InvalidTrajectoryError as error:
        raise type(error)(
            error.message,
            where=where,
            field=f"{arm}{error.field}",
            expected=error.expected,
            found=error.found,
            hint=error.hint,
        ) from None


def _joints(observations: list[pickles.Record]) -> JointTrack | None:
    """The arm's joints, where every observation has them: they are only looked at by `calibrate guess --urdf`."""
    values = [o.get("joint_positions") for o in observations] if observations[0].kind == "Observation" else []
    shapes = {np.shape(v) for v in values}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 1 or shape[0] == 0:
        return None
    table = np.array(values)
    return JointTrack(table.astype(np.float64)) if table.dtype.kind in "fiu" else None


def _misc(observations: list[pickles.Record]) -> list[dict[str, Any]]:
    found = [o.get("misc") for o in observations]
    return [m if isinstance(m, dict) else {} for m in found]


def _camera_track(observations: list[pickles.Record], name: str, frames: PngFrames, where: str) -> CameraTrack | None:
    """The camera over time, or None where the demo carries no calibration of it."""
    misc = _misc(observations)
    keys = (f"{name}_camera_intrinsics", f"{name}_camera_extrinsics")
    if not any(key in m for m in misc for key in keys):
        return None
    K = _stack([m.get(keys[0]) for m in misc], (3, 3), where, f"misc[{keys[0]}]")
    pose = _stack([m.get(keys[1]) for m in misc], (4, 4), where, f"misc[{keys[1]}]")
    if (K[:, 0, 0] > 0).any() or (K[:, 1, 1] > 0).any():
        raise AmbiguousSourceError(
            "focal lengths are not negative, so the axes of the camera's pose cannot be known",
            where=where,
            field=f"misc[{keys[0]}]",
            expected="fx, fy < 0 as RLBench stores them",
            found=f"fx={K[0, 0, 0]:g}, fy={K[0, 1, 1]:g}",
        )
    centre = np.array([frames.width, frames.height]) / 2
    if not (np.abs(K[:, :2, 2] - centre) <= 0.5).all():
        raise InvalidCameraError(
            "calibration is for pictures of another size",
            where=where,
            field=f"misc[{keys[0]}]",
            expected=f"principal point {centre[0]:g}, {centre[1]:g} for {frames.width}x{frames.height} pictures",
            found=f"{K[0, 0, 2]:g}, {K[0, 1, 2]:g}",
        )
    try:
        return CameraTrack(*opencv_camera(K, pose), frames.width, frames.height)
    except InvalidCameraError as error:
        raise type(error)(
            error.message, where=where, field=f"{name} {error.field}", expected=error.expected, found=error.found
        ) from None


def _random_state(demo: Any) -> str | None:
    """A short name for numpy's random state before the demo: its first words, hashed."""
    state = demo.get("random_seed") if isinstance(demo, pickles.Record) else None
    if isinstance(state, tuple) and len(state) > 1 and isinstance(state[1], np.ndarray):
        return hashlib.sha256(state[1].tobytes()).hexdigest()[:12]
    return None


def _variation(folder: EpisodeFolder, demo: Any) -> tuple[int | None, str]:
    """The variation's number and where it was found; the pickled demo's own is often a leftover 0, so it is last."""
    file = folder.path / "variation_number.pkl"
    if file.is_file():
        value = pickles.load(file)
        if type(value) is not int and not isinstance(value, np.integer):
            raise BadFileError("bad contents", where=file, expected="a whole number", found=type(value).__name__)
        return int(value), file.name
    if folder.group is not None and folder.group.startswith("variation"):
        return int(folder.group.removeprefix("variation")), "folder name"
    value = demo.get("variation_number") if isinstance(demo, pickles.Record) else None
    return (value, "low_dim_obs.pkl") if type(value) is int else (None, "unknown")


def _variation_if_readable(folder: EpisodeFolder) -> int | None:
    try:
        return _variation(folder, None)[0]
    except ActionImgError:
        return None


# What the picture folders say.


@dataclass(frozen=True)
class _Beside:
    """Depth or masks beside a camera's pictures; like these they are looked at when they are asked for.

    Args:
        folder: ``CAMERA_depth`` or ``CAMERA_mask``.
        camera: Name of the camera.
        kind: ``depth`` or ``mask``.
        rgb: The camera's pictures: as many, of the same size, named alike.
        clip: Depth's near and far plane in metres of each frame; those that are not known are NaN.
    """

    folder: str
    camera: str
    kind: str
    rgb: PngFrames
    clip: tuple[tuple[float, float], ...] = ()

    @property
    def width(self) -> int:
        return self.rgb.width

    @property
    def height(self) -> int:
        return self.rgb.height

    def __len__(self) -> int:
        return len(self.rgb)

    def frames(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint16] | NDArray[np.uint32]]:
        """Depth in millimetres, or ids.

        Raises:
            MissingFrameError, BadImageError: As the camera's pictures; another size than theirs.
            FrameCountError: There are more or fewer pictures than the camera has.
            BadFileError: The demo does not say what range its depth is of.
        """
        names = [name for name, _ in files_with_sizes(Path(self.folder))]
        pictures = _frames(Path(self.folder), self.camera, names, len(self.rgb))
        if (pictures.width, pictures.height) != (self.width, self.height):
            raise BadImageError(
                f"{self.kind} has another size than the pictures",
                where=self.folder,
                expected=f"{self.width}x{self.height}",
                found=f"{pictures.width}x{pictures.height}",
            )
        for index, picture in zip(indices, pictures.frames(indices), strict=True):
            wide = picture.astype(np.uint32)
            if self.kind == "mask":
                # Red holds the lowest byte of a handle, and the highest of a depth.
                yield np.asarray(wide[..., 0] | wide[..., 1] << 8 | wide[..., 2] << 16, np.uint32)
                continue
            near, far = self.clip[index]
            if not 0 <= near < far:
                raise BadFileError(
                    "does not say what range its depth is of",
                    where=self.folder,
                    field=f"observation {index}: misc[{self.camera}_camera_near, …_far]",
                    expected="0 <= near < far, in metres",
                    found=f"{near:g}, {far:g}",
                )
            whole = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
            yield millimetres(near + whole / (2**24 - 1) * (far - near))


def _view(
    episode: Path,
    name: str,
    frames: PngFrames,
    track: CameraTrack | None,
    observations: list[pickles.Record],
) -> View:
    """A camera with what the demo has beside its pictures."""
    there = {kind: episode / f"{name}_{kind}" for kind in ("depth", "mask")}
    found = {kind: os.fspath(path) for kind, path in there.items() if path.is_dir() and files_with_sizes(path)}
    limits = [[m.get(f"{name}_camera_{end}") for end in ("near", "far")] for m in _misc(observations)]
    clip = tuple((_number(near), _number(far)) for near, far in limits)
    least, most = min(near for near, _ in clip), max(far for _, far in clip)
    depth = _Beside(found["depth"], name, "depth", frames, clip) if "depth" in found else None
    mask = _Beside(found["mask"], name, "mask", frames) if "mask" in found else None
    return View(track, frames, depth, mask, (least, most) if depth is not None and 0 <= least < most else None)


def _number(value: Any) -> float:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return float(value) if number and np.isfinite(value) else math.nan


def _frames(folder: Path, camera: str, files: list[str], n: int) -> PngFrames:
    numbers = set()
    pattern = "{}.png"
    for file in files:
        match = _PICTURE.match(file)
        bimanual = _BIMANUAL_PICTURE.match(file)
        if match:
            numbers.add(int(match[1]))
        elif bimanual:
            numbers.add(int(bimanual[1]))
            pattern = file[: bimanual.start(1)] + "{:04d}.png"
        elif file.endswith(".png"):
            raise WrongFormatError("picture has no number", where=folder, expected="0.png, 1.png, …", found=file)
    absent = next((i for i in range(n) if i not in numbers), None)
    if absent is not None and max(numbers, default=-1) >= n - 1:
        raise MissingFrameError(
            "picture is missing",
            where=folder / pattern.format(absent),
            field=camera,
            expected=f"{n} pictures, one an observation",
            found=f"{len(numbers)}",
        )
    if len(numbers) != n:
        raise FrameCountError(
            "pictures and observations differ in number",
            where=folder,
            field=camera,
            expected=f"{n} pictures, one an observation",
            found=f"{len(numbers)} pictures",
        )
    width, height = png_size(os.fspath(folder / pattern.format(0)))
    return PngFrames(os.fspath(folder), n, width, height, pattern)

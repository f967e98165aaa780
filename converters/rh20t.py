"""RH20T's scenes: seven robots, several calibrated cameras with clocks of their own, poses in pickled dictionaries.

After its own reader, https://github.com/rh20t/rh20t_api: ``scene.py`` (files; cameras in the base through the camera in
the hand), ``online.py`` (the aligned frames), ``transforms.py`` (quaternions are wxyz), ``configurations.py`` and
``configs.json`` (what is known of each set-up).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..cameras.calibrated import CalibratedCamera
from ..errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadFileError,
    FrameCountError,
    InvalidCameraError,
    InvalidSpecError,
    MissingCalibrationError,
    MissingFrameError,
    SourceNotFoundError,
    WrongFormatError,
)
from ..geometry import exact, rotations, transforms
from ..model import Episode, EpisodeRef, FrameSource
from ..schemas.mapping import Gripper
from ..untrusted.arrays import load_npy, load_objects
from ..untrusted.files import read_bytes
from ..untrusted.text import load_json
from ..video import VideoFrames
from .base import ConverterOptions, Detection
from .kit.pictures import numbered_pictures
from .kit.tree import file_stamp, files_with_sizes, folders_with, plain_id, source_folder, subfolders
from .recording import streams
from .recording.episode import assemble
from .recording.recording import Arm, Recording, ViewInput
from .recording.rows import QuaternionOptions, RowConverter
from .recording.sync import ScalarSamples

FloatArray = NDArray[np.float64]
SCENE = re.compile(r"(task_\d{4})_user_\d{4}_scene_\d{4}_cfg_(\d{4})")
TASKS = "task_description.json"
CALIBRATED = (1280, 720)
"""Size of the pictures that intrinsics are for; the published ones are smaller."""


@dataclass(frozen=True)
class Setup:
    """What ``configs.json`` knows of a set-up.

    Args:
        robot: Decides how ``calib/TIME/tcp.npy`` is written.
        gripper: Its name.
        hands: Serials of the cameras in the hand; the first is the one that was calibrated.
        camera_from_tcp: First three rows of the first hand camera's pose.
        turn_tcp: Degrees about z from the aligned to the robot's own frame of the hand.
        turn_base: The same of the base.
    """

    robot: str
    gripper: str
    hands: tuple[str, ...]
    camera_from_tcp: tuple[tuple[float, float, float, float], ...]
    turn_tcp: int = 0
    turn_base: int = 0


_UR5_HAND = ("045322071843",)
_KUKA = ((0, -1, 0, 0.035), (1, 0, 0, 0.055), (0, 0, 1, 0.20))
_KUKA_HANDS = ("135122075425", "135122070361")
SETUPS: Mapping[int, Setup] = {
    1: Setup("flexiv", "Dahuan AG-95", ("043322070878",), ((0, -1, 0, 0), (1, 0, 0, 0.077), (0, 0, 1, 0.2665))),
    2: Setup("flexiv", "Dahuan AG-95", ("104422070042",), ((0, -1, 0, 0), (1, 0, 0, 0.077), (0, 0, 1, 0.2915))),
    3: Setup("ur5", "WSG-50", ("045322071843",), ((1, 0, 0, 0.027), (0, 1, 0, 0.0775), (0, 0, 1, 0.240)), 90, 180),
    4: Setup(
        "ur5", "Robotiq 2F-85", ("045322071843",), ((1, 0, 0, 0.027), (0, 1, 0, 0.0775), (0, 0, 1, 0.21)), 90, 180
    ),
    5: Setup(
        "franka",
        "franka",
        ("104422070042", "135122079702"),
        ((0, 1, 0, 0.033), (-1, 0, 0, -0.05), (0, 0, 1, 0.09)),
        180,
    ),
    6: Setup("kuka", "Robotiq 2F-85", _KUKA_HANDS, _KUKA),
    7: Setup("kuka", "Robotiq 2F-85", _KUKA_HANDS, _KUKA),
}
WIDTHS_MM = {"Dahuan AG-95": 95.0, "Robotiq 2F-85": 85.0}
"""Widths of open grippers, as ``configurations.py`` scales their commands to millimetres."""


class RH20TOptions(QuaternionOptions):
    """Options of the RH20T converter."""

    gripper: str | None = Field(
        None,
        description="CLOSED OPEN: gripper_command when closed and when open, for set-ups with a WSG-50 (cfg 3) or a "
        "Franka's hand (cfg 5); others are known",
    )
    task_descriptions: str | None = Field(
        None, description="RH20T's task_description.json, where it does not lie beside the scenes"
    )


class RH20TConverter(RowConverter):
    """RH20T: scenes ``task_…_cfg_000N`` with ``cam_SERIAL`` folders, and ``calib`` beside them.

    * **Poses** are ``transformed/tcp_base.npy``: in the aligned base, quaternions wxyz, +z approaches. Those of all
      cameras' files are taken together. How the gripper lies in that frame is not stated: ``--tool-from-gripper``.
    * **Gripper**: the width that was last commanded, in millimetres (``gripper.npy``); ``gripper_info`` is often
      constant, and not used.
    * **Cameras**: intrinsics are of 1280x720 and scaled to the pictures; poses go through the camera in the hand, as
      RH20T's own reader has it. Cameras in the hand move with it.
    * **Time**: milliseconds, each camera with stamps of its own; pictures and poses are synchronised.
    * **Instruction**: ``task_description.json``, beside the scenes or ``--task-descriptions``; else ``--instruction``.

    Demonstrations by hand (``…_human``) hold no robot and are passed over. Depth is coded in videos of its own kind,
    and not read.
    """

    name: ClassVar[str] = "rh20t"
    summary: ClassVar[str] = "RH20T: calibrated cameras with own clocks, poses in pickled dictionaries"
    examples: ClassVar[tuple[str, ...]] = (
        "actionimg convert rh20t RH20T_cfg1/ shards --tool-from-gripper hand.yaml",
        "actionimg convert rh20t RH20T_cfg5/ shards --tool-from-gripper hand.yaml --gripper '0 80'",
    )
    Options: ClassVar[type[ConverterOptions]] = RH20TOptions

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether a scene lies in ``source`` or a few folders below it."""
        root = Path(source)
        try:
            found = next(folders_with(root, _is_scene, 200), None) if root.is_dir() else None
        except (OSError, BadFileError):
            return None
        return None if found is None else Detection("RH20T", found.name)

    def option_files(self) -> list[Path]:
        """The tasks' descriptions, besides the shared ones."""
        named = self.options.task_descriptions
        return super().option_files() + ([] if named is None else [Path(named)])

    def remote_headers(self) -> tuple[str, ...]:
        """What says which calibration a scene has."""
        return ("*/metadata.json",)

    def remote_files(self, location: Mapping[str, Any]) -> list[Path]:
        """The scene, the calibrations beside it, and the tasks' descriptions."""
        folder = Path(location["source"]) / location["path"]
        above = list(folder.parents)[:2]
        return [folder, *(place / name for place in above for name in ("calib", TASKS))]

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """One reference for each scene of a robot, in natural order."""
        root = source_folder(source)
        stamp = self.stamp()
        empty = True
        for folder in folders_with(root, _is_scene):
            empty = False
            relative = folder.relative_to(root).as_posix()
            yield EpisodeRef(
                plain_id(root.name if relative == "." else relative),
                {"source": str(root), "path": relative},
                fingerprint=_fingerprint(stamp, folder),
            )
        if empty:
            raise WrongFormatError(
                "holds no RH20T scene", where=root, expected="folders task_…_user_…_scene_…_cfg_… with cam_SERIAL"
            )

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """The scene's fingerprint as its files are now."""
        return _fingerprint(self.stamp(), Path(ref.location["source"]) / ref.location["path"])

    def read(self, ref: EpisodeRef) -> Episode:
        """One scene; its pictures are read when asked for."""
        return assemble(self.recording(ref))

    def recording(self, ref: EpisodeRef) -> Recording:
        """Everything that the scene's files say."""
        folder = Path(ref.location["source"]) / ref.location["path"]
        task, number = _named(folder)
        setup = SETUPS.get(number)
        if setup is None:
            raise WrongFormatError("has a set-up that is not known", where=folder, expected="cfg 1 … 7", found=number)
        path = folder / "transformed" / "tcp_base.npy"
        times, values = _poses(path)
        start = times[0]
        why = "RH20T does not state how the gripper lies in the frame of tcp_base (+z approaches)"
        tool = self.tool(None, path, why)
        poses, rotation = self.quaternion_poses((times - start) * 1e-3, values, "wxyz", path)
        at, widths = _widths(folder / "transformed" / "gripper.npy")
        openness = streams.openness_from_columns(widths[:, None], self._gripper(setup, folder), folder)
        opened = ScalarSamples((at - start) * 1e-3, openness, hold=True)
        calibration = None if self.options.poses_only else _Calibration(folder, setup)
        views = {}
        serials = {f"cam_{f.name.removeprefix('cam_')}": f for f in subfolders(folder) if f.name.startswith("cam_")}
        filmed = [
            name for name, place in serials.items() if (place / "color.mp4").exists() or (place / "color").is_dir()
        ]
        for name in self.chosen_views(filmed, folder):
            frames, stamps = _pictures(serials[name])
            camera = self.given_cameras().get(name, self.given_cameras().get(name.removeprefix("cam_")))
            if camera is None and calibration is not None:
                camera = calibration.camera(name.removeprefix("cam_"))
            views[name] = ViewInput(frames, (stamps - start) * 1e-3, camera, scaled=True)
        metadata = _metadata(folder)
        return Recording(
            id=ref.id,
            arms={"": Arm(poses, opened, tool, rotation=rotation)},
            views=views,
            instructions=self.instructions(self._texts(folder, task), folder),
            task=task,
            provenance={
                "format": self.name,
                "path": ref.location["path"],
                "setup": number,
                "robot": setup.robot,
                **{key: metadata.get(key) for key in ("rating", "calib", "calib_quality")},
            },
        )

    def inspect(self, source: str) -> dict[str, Any]:
        """Scenes, what the first says, and what has still to be given."""
        refs = list(self.discover(source))
        folder = Path(refs[0].location["source"]) / refs[0].location["path"]
        task, number = _named(folder)
        setup = SETUPS.get(number)
        texts = self._texts(folder, task)
        hands = () if setup is None else setup.hands
        return {
            "format": self.name,
            "episodes": len(refs),
            "first": refs[0].id,
            "set-up": number,
            "robot": None if setup is None else setup.robot,
            "gripper": None if setup is None else setup.gripper,
            "instruction": texts[0] if texts else None,
            **{key: _metadata(folder).get(key) for key in ("rating", "calib", "calib_quality")},
            "views": {
                f.name: {"in the hand": f.name.removeprefix("cam_") in hands}
                for f in subfolders(folder)
                if f.name.startswith("cam_")
            },
            "to be given": self.open_questions(
                tool_from_gripper=False, instruction=bool(texts), gripper=setup is None or setup.gripper in WIDTHS_MM
            ),
        }

    def _gripper(self, setup: Setup, folder: Path) -> Gripper:
        text = self.options.gripper or (f"0 {WIDTHS_MM[setup.gripper]}" if setup.gripper in WIDTHS_MM else None)
        if text is None:
            raise AmbiguousSourceError(
                f"in which unit a {setup.gripper} is commanded is not stated",
                where=folder,
                field="gripper",
                expected="--gripper 'CLOSED OPEN'",
            )
        try:
            closed, opened = (float(part) for part in text.split())
        except ValueError:
            raise InvalidSpecError("is no range", field="gripper", expected="CLOSED OPEN", found=text) from None
        return Gripper(columns=("gripper_command",), closed=closed, open=opened, kind="command", tolerance=0.1)

    def _texts(self, folder: Path, task: str) -> list[str]:
        """The task's English description in RH20T's own file, given or found above the scene."""
        named = self.options.task_descriptions
        places = [Path(named)] if named else [above / TASKS for above in list(folder.parents)[:2]]
        found = next((path for path in places if named or path.is_file()), None)
        told = load_json(found) if found is not None else {}
        entry = told.get(task) if isinstance(told, dict) else None
        text = entry.get("task_description_english") if isinstance(entry, dict) else None
        return [text] if isinstance(text, str) else []


class _Calibration:
    """The cameras of a scene, in the aligned base, or in the hand."""

    def __init__(self, folder: Path, setup: Setup) -> None:
        metadata = _metadata(folder)
        self.place = _calibration_folder(folder, metadata)
        if not self.place.is_dir():
            number = metadata.get("calib")
            raise MissingCalibrationError("the scene's calibration is missing", where=self.place, found=number)
        self.intrinsics = _dictionary(self.place / "intrinsics.npy")
        self.extrinsics = {k: np.asarray(v, float).reshape(-1, 4, 4)[0] for k, v in _extrinsics(self.place).items()}
        self.hands = setup.hands
        if self.hands[0] not in self.extrinsics:
            raise MissingCalibrationError(
                "does not see the camera in the hand, through which the others are placed",
                where=self.place / "extrinsics.npy",
                field=self.hands[0],
                found=", ".join(self.extrinsics),
            )
        path = self.place / "tcp.npy"
        self.base_from_tcp = _calibration_pose(load_npy(read_bytes(path), path).astype(np.float64), setup.robot, path)
        self.camera_from_tcp = np.array([*setup.camera_from_tcp, (0, 0, 0, 1)], dtype=np.float64)
        self.turn_tcp, self.turn_base = _about_z(setup.turn_tcp), _about_z(setup.turn_base)

    def camera(self, serial: str) -> CalibratedCamera:
        """A camera: its K is of `CALIBRATED` pictures."""
        if serial not in self.intrinsics or serial not in self.extrinsics:
            raise MissingCalibrationError(
                "the camera is not in the calibration",
                where=self.place,
                field=f"cam_{serial}",
                found=", ".join(sorted(set(self.intrinsics) & set(self.extrinsics))),
                hint="Choose views with --views.",
            )
        K = np.asarray(self.intrinsics[serial], dtype=np.float64)
        if K.shape not in ((3, 3), (3, 4)) or not 0.3 < K[0, 2] / CALIBRATED[0] < 0.7:
            raise InvalidCameraError(
                "are not of pictures of 1280x720", where=self.place / "intrinsics.npy", field=serial, found=K.tolist()
            )
        # Extrinsics are camera from marker.
        from_hand = exact.matmul(self.extrinsics[serial], transforms.invert(self.extrinsics[self.hands[0]]))
        from_tcp = exact.matmul(from_hand, self.camera_from_tcp)
        if serial in self.hands:
            pose = transforms.invert(exact.matmul(from_tcp, self.turn_tcp))
            return CalibratedCamera(K[:, :3], *CALIBRATED, tool_from_camera=np.asarray(pose))
        from_base = exact.product(from_tcp, transforms.invert(self.base_from_tcp), self.turn_base)
        return CalibratedCamera(K[:, :3], *CALIBRATED, np.asarray(transforms.invert(from_base)))


def _calibration_pose(values: FloatArray, robot: str, path: Path) -> FloatArray:
    """``(4, 4)`` of the hand in the robot's own base when it was calibrated, which each robot writes in its way."""
    if values.shape == (7,):
        rotation = rotations.matrix_from_quaternion(rotations.normalize(values[[4, 5, 6, 3]]))
        return np.asarray(transforms.make_transform(rotation, values[:3]))
    if values.shape != (6,):
        raise BadFileError("is no pose", where=path, expected="6 or 7 numbers", found=values.shape)
    if robot == "franka":
        rotation = rotations.matrix_from_rotation_vector(values[3:]) * np.array([1.0, -1.0, -1.0])
        return np.asarray(transforms.make_transform(rotation, values[:3]))
    metres = values[:3] / (1000 if robot == "kuka" else 1)
    return np.asarray(transforms.make_transform(rotations.matrix_from_euler(values[3:]), metres))


def _about_z(degrees: int) -> FloatArray:
    turned = np.eye(4)
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0)}[degrees]
    turned[:2, :2] = [[cosine, -sine], [sine, cosine]]
    return turned


def _dictionary(path: Path) -> dict[Any, Any]:
    if not path.is_file():
        raise SourceNotFoundError("no such file", where=path)
    found = load_objects(path)
    if not isinstance(found, dict):
        raise WrongFormatError("is not a dictionary", where=path, found=type(found).__name__)
    return found


def _extrinsics(place: Path) -> dict[Any, Any]:
    path = place / "extrinsics.npy"
    found = _dictionary(path)
    for serial, value in found.items():
        shape = np.shape(value)
        if shape[-2:] != (4, 4):
            raise BadFileError("is no pose", where=path, field=str(serial), expected="(1, 4, 4)", found=shape)
    return found


def _poses(path: Path) -> tuple[FloatArray, FloatArray]:
    """Stamps ``(N,)`` in ms and poses ``(N, 7)`` of all cameras' files together; poses of zeros are none."""
    found: dict[float, Any] = {}
    stored = _dictionary(path)
    try:
        for entries in stored.values():
            found.update({float(e["timestamp"]): np.asarray(e["tcp"], dtype=np.float64) for e in entries})
        times = np.array(sorted(found))
        values = np.stack([found[t] for t in times]) if len(times) else np.empty((0, 7))
    except (KeyError, TypeError, ValueError) as error:
        raise BadFileError("is not a list of poses", where=path, found=repr(error)) from None
    if values.ndim != 2 or values.shape[1] != 7 or len(values) == 0:
        raise WrongFormatError("holds no poses", where=path, expected="(7,) an entry", found=str(values.shape))
    values[~np.any(values, axis=1)] = np.nan
    return times, values


def _widths(path: Path) -> tuple[FloatArray, FloatArray]:
    """Stamps ``(N,)`` in ms, and the commanded width ``(N,)`` in mm."""
    found: dict[float, float] = {}
    stored = _dictionary(path)
    try:
        for entries in stored.values():
            found.update({float(t): float(e["gripper_command"][0]) for t, e in entries.items()})
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise BadFileError("is not a list of widths", where=path, found=repr(error)) from None
    times = np.array(sorted(found), dtype=np.float64)
    return times, np.array([found[t] for t in times], dtype=np.float64)


def _pictures(place: Path) -> tuple[FrameSource, FloatArray]:
    """A camera's pictures, of the video or taken out of it, with their stamps in ms."""
    video = place / "color.mp4"
    if not video.is_file():
        frames = numbered_pictures(place / "color", "*.jpg")
        return frames, np.array([float(Path(p).stem[:13]) for p in frames.paths])
    path = place / "timestamps.npy"
    if not path.is_file():
        raise MissingFrameError("the pictures' stamps are missing", where=path)
    stamps = np.asarray(_dictionary(path).get("color", ()), dtype=np.float64)
    found = VideoFrames(video)
    if len(found) != len(stamps):
        raise FrameCountError(
            "video and stamps differ in length",
            where=video,
            expected=f"{len(stamps)}, as {path.name}",
            found=len(found),
        )
    return found, stamps


def _metadata(folder: Path) -> dict[str, Any]:
    found = load_json(folder / "metadata.json")
    return found if isinstance(found, dict) else {}


def _calibration_folder(folder: Path, metadata: Mapping[str, Any]) -> Path:
    """Where a scene's calibration lies, if it does; scenes may lie a folder deeper than it."""
    found = [above / "calib" / str(metadata.get("calib")) for above in (folder.parent, folder.parent.parent)]
    return next((place for place in found if place.is_dir()), found[0])


def _named(folder: Path) -> tuple[str, int]:
    match = SCENE.fullmatch(folder.name)
    return (match[1], int(match[2])) if match else ("", 0)


def _is_scene(folder: Path) -> bool:
    """By its name alone: a data set has thousands, in folders with many files."""
    return SCENE.fullmatch(folder.name) is not None


def _fingerprint(stamp: str, folder: Path) -> str:
    small = [folder / "metadata.json", *(folder / "transformed" / f"{n}.npy" for n in ("tcp_base", "gripper"))]
    small += [above / TASKS for above in list(folder.parents)[:2]]
    state = [file_stamp(path) if path.is_file() else "" for path in small]
    filmed = [(f.name, files_with_sizes(f)) for f in subfolders(folder) if f.name.startswith("cam_")]
    try:
        place = _calibration_folder(folder, _metadata(folder))
    except ActionImgError:
        # It is refused when its turn comes.
        place = folder
    cameras = [file_stamp(place / name) for name, _ in files_with_sizes(place)] if place.is_dir() else []
    return hashlib.sha256(f"{stamp} {state} {filmed} {cameras}".encode()).hexdigest()[:16]

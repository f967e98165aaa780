"""ALOHA's recordings: joint angles of two arms and pictures in one HDF5 file an episode.

As ``record_episodes.py`` of https://github.com/tonyzhaozh/aloha writes them, and ACT and Mobile ALOHA read them:
``observations/qpos[t]`` and the pictures of step t are made before ``action[t]`` is sent to the arms; columns are the
left arm's joints and gripper, then the right arm's; a gripper is 0 closed and 1 open. JPEG-compressed pictures are
OpenCV's encoding of RGB pictures as if they were BGR, so that red and blue have to be swapped back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..cameras.files import CalibratedCamera
from ..cameras.transforms import parse_transform, transform_file
from ..errors import (
    ActionImgError,
    AmbiguousSourceError,
    EmptyEpisodeError,
    InvalidSpecError,
    MissingCalibrationError,
    WrongFormatError,
)
from ..geometry import exact, transforms
from ..model import Episode, EpisodeRef, FrameSource
from ..schemas.mapping import Gripper
from ..untrusted import hdf5
from ..untrusted.files import read_bytes
from .base import ConverterOptions, Detection
from .kit.detection import HDF5_ENDINGS, detect_hdf5
from .kit.frames import HDF5Frames, SwappedFrames
from .kit.kinematics import Chain
from .kit.mjcf import Scene, parse_xml, robot_files
from .kit.tree import file_stamp, plain_id
from .recording import streams
from .recording.episode import assemble
from .recording.recording import Arm, Recording, ViewInput
from .recording.rows import RowConverter, RowOptions, check_rows, log_files, numbers, plain_view, row_count
from .recording.sync import PoseSamples, ScalarSamples

FloatArray = NDArray[np.float64]
_IMAGES = "observations/images"
_TOLERANCE = 0.1


class AlohaOptions(RowOptions):
    """Options of the ALOHA converter."""

    robot: tuple[str, ...] = Field(
        (), description="robot file, URDF or MJCF, of all arms, or ARM=FILE for each; its meshes are not needed"
    )
    tip: tuple[str, ...] = Field(
        (), description="ARM=NAME: the link, or body or site, whose pose is the arm's; NAME alone for a single arm"
    )
    base: tuple[str, ...] = Field(
        (), description="ARM=NAME: the frame that poses are in (default: the root link, or MJCF's world)"
    )
    world_from_base: tuple[str, ...] = Field(
        (),
        description="ARM=TRANSFORM: where the base stands in the cameras' world, where the robot file does not say: a "
        "YAML file, identity, 'x y z qx qy qz qw', or 16 numbers",
    )
    arms: tuple[str, ...] = Field(
        ("left", "right"), description="the arms in the order of the columns; one name for a robot with a single arm"
    )
    trajectory: Literal["state", "command"] = Field(
        "state",
        description="state: where the arms were (qpos); command: where they were last told to go, which at picture t "
        "is action t - 1, so that the first picture is left out",
    )
    gripper: str = Field("0 1", description="values of the gripper's columns when closed and when open")
    jpeg: Literal["swapped", "standard"] = Field(
        "swapped",
        description="colours of JPEG-compressed pictures: swapped, as ALOHA's own recorder encodes them, or standard",
    )


class AlohaConverter(RowConverter):
    """ALOHA, ACT, Mobile ALOHA: ``episode_N.hdf5`` with ``observations/qpos``, ``observations/images`` and ``action``.

    The log holds joint angles and neither poses, nor a rate, nor cameras. To be given are:

    * ``--robot FILE --tip left=NAME --tip right=NAME``: the robot, URDF or MJCF (through MuJoCo, ``pip install
      '.[joints]'``), and the frame whose pose is an arm's. The joints between base and tip are the
      log's columns, in order. One file with both arms, or ``--robot left=FILE --robot right=FILE`` with
      ``--world-from-base``.
    * ``--tool-from-gripper``: the canonical gripper in the tip's frame.
    * ``--fps``: ALOHA records at 50 Hz; the file does not say so.
    * ``--instruction``.
    * ``--camera-file``: cameras by view. One with ``tool_from_camera`` belongs to the arm whose name is in the view's
      name (``cam_left_wrist``). Simulated recordings (attribute ``sim``) with an MJCF robot file may take cameras of
      the same names from it.

    **State or command.** ``qpos`` is where the arms were when picture t was taken. ``action`` t is sent after picture
    t; with ``--trajectory command`` picture t shows action t - 1, the last one sent before it, and the first picture
    is left out.

    **Pictures** are plain (T, H, W, 3), or JPEG-compressed and padded. ALOHA's recorder encodes RGB pictures as if
    they were BGR: red and blue are swapped back, unless ``--jpeg standard``.
    """

    name: ClassVar[str] = "aloha"
    summary: ClassVar[str] = "ALOHA, ACT: joint angles of one or two arms in HDF5, through a URDF or MJCF file"
    examples: ClassVar[tuple[str, ...]] = (
        "actionimg convert aloha data/ shards --robot bimanual.xml --tip left=left_site --tip right=right_site \\",
        '    --tool-from-gripper hand.yaml --camera-file cameras.yaml --fps 50 --instruction "open the jar"',
    )
    Options: ClassVar[type[ConverterOptions]] = AlohaOptions

    def __init__(self, options: ConverterOptions | None = None) -> None:
        super().__init__(options)
        self._chains: dict[str, Chain] | None = None
        self._scenes: dict[Path, Scene] = {}

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether the first HDF5 file at or below ``source`` holds ``observations/qpos``."""

        def look(file: h5py.File, path: Path) -> Detection | None:
            if not _is_aloha(file):
                return None
            return Detection("ALOHA", f"{path.name}: {file['observations/qpos'].shape[-1]} joints")

        return detect_hdf5(source, look)

    def option_files(self) -> list[Path]:
        """Robot files with all that they include, and transforms, besides the shared ones."""
        files = super().option_files()
        for name in self._by_arm("robot", required=False).values():
            files += robot_files(Path(name))
        files += [Path(f) for t in self._by_arm("world_from_base", required=False).values() if (f := transform_file(t))]
        return files

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """One reference for each such HDF5 file, in natural order."""
        self.chains()
        root, paths = log_files(source, HDF5_ENDINGS, "HDF5 file")
        stamp = self.stamp()
        count = 0
        for path in paths:
            rows, damaged = None, False
            try:
                rows = _rows(path)
            except ActionImgError:
                # It is refused when its turn comes; the other files are not to suffer.
                damaged = len(paths) > 1
                if not damaged:
                    raise
            if rows is None and not damaged:
                continue
            count += 1
            relative = path.relative_to(root).as_posix()
            yield EpisodeRef(
                plain_id(relative.rsplit(".", 1)[0]),
                {"source": str(root), "path": relative},
                num_frames=None if rows is None else max(rows - self._shift, 0),
                fingerprint=_fingerprint(stamp, path, rows),
            )
        if count == 0:
            raise WrongFormatError(
                "no ALOHA episode found", where=root, expected="HDF5 files with observations/qpos", found="none"
            )

    @property
    def _shift(self) -> int:
        return 1 if self.options.trajectory == "command" else 0

    # -- arms ----------------------------------------------------------------------------------------------------

    def _by_arm(self, field: str, required: bool = True) -> dict[str, str]:
        """Values of an option by arm: ``ARM=VALUE``, or one value for all."""
        names = tuple(self.options.arms)
        found: dict[str, str] = {}
        for text in getattr(self.options, field):
            arm, equals, value = text.partition("=")
            if equals and arm in names:
                found[arm] = value
            elif field == "robot" or len(names) == 1:
                found.update({name: text for name in names if name not in found})
            else:
                raise InvalidSpecError(
                    "does not say which arm", field=field, expected=" | ".join(f"{n}=..." for n in names), found=text
                )
        missing = [name for name in names if name not in found]
        if required and missing:
            raise AmbiguousSourceError(
                "ALOHA logs joint angles; the robot and the frame that is its hand have to be given",
                field=field,
                expected="--robot FILE " + " ".join(f"--tip {n}=NAME" for n in names),
                found=f"nothing for {', '.join(missing)}",
            )
        return found

    def chains(self) -> dict[str, Chain]:
        """The kinematics of each arm, read once."""
        if self._chains is None:
            robots, tips = self._by_arm("robot"), self._by_arm("tip")
            bases = self._by_arm("base", required=False)
            self._chains = {n: Chain.load(Path(robots[n]), bases.get(n), tips[n]) for n in self.options.arms}
        return self._chains

    def _arms(self, qpos: FloatArray, times: FloatArray, where: str, field: str) -> dict[str, Arm]:
        chains = self.chains()
        widths = {name: len(chain.names) + 1 for name, chain in chains.items()}
        if qpos.shape[1] != sum(widths.values()):
            raise WrongFormatError(
                "does not hold the joints of the robot and a gripper an arm",
                where=where,
                field=field,
                expected="; ".join(f"{n}: {', '.join(c.names)}, gripper" for n, c in chains.items()),
                found=f"{qpos.shape[1]} columns",
            )
        tool = self.tool(None, where, "which way the hand points in the tip's frame is not in the log")
        worlds = {n: parse_transform(t, "world_from_base") for n, t in self._by_arm("world_from_base", False).items()}
        gripper = _gripper(self.options.gripper)
        arms, start = {}, 0
        for name, chain in chains.items():
            stop = start + widths[name]
            pose = chain.poses(chain.names, qpos[:, start : stop - 1])
            q = streams.quaternions(pose[:, :3, :3].reshape(-1, 9), "matrix", "row", None, where)
            openness = streams.openness_from_columns(qpos[:, stop - 1 : stop], gripper, f"{where}: {field}")
            arms[name] = Arm(
                PoseSamples(times, pose[:, :3, 3], q),
                ScalarSamples(times, openness),
                tool,
                worlds.get(name, np.eye(4)),
            )
            start = stop
        return arms if len(arms) > 1 else {"": next(iter(arms.values()))}

    # -- episodes ------------------------------------------------------------------------------------------------

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """The episode's fingerprint as its files are now."""
        path = Path(ref.location["source"]) / ref.location["path"]
        return _fingerprint(self.stamp(), path, _rows(path))

    def read(self, ref: EpisodeRef) -> Episode:
        """One episode; its pictures are read when asked for."""
        episode = assemble(self.recording(ref))
        return episode.select(range(self._shift, len(episode))) if self._shift else episode

    def recording(self, ref: EpisodeRef) -> Recording:
        """Everything that the file and the options say; with commands, row 0 repeats row 1 and is left out later."""
        path = Path(ref.location["source"]) / ref.location["path"]
        where = str(path)
        fps = self.fps(None, where, "ALOHA records at 50 Hz: --fps 50.")
        with hdf5.open_hdf5(path) as file:
            qpos = numbers(file, "observations/qpos", where)
            field = "observations/qpos"
            counts = {f"{_IMAGES}/{name}": row_count(file, f"{_IMAGES}/{name}", where) for name in file[_IMAGES]}
            if "action" in file:
                counts["action"] = row_count(file, "action", where)
            check_rows(counts, len(qpos), "observations/qpos", where)
            names = {plain_view(name): name for name in file[_IMAGES]}
            simulated = bool(np.any(file.attrs.get("sim", False)))
            if self._shift:
                field = "action"
                action = numbers(file, "action", where)
                if len(action) < 2:
                    raise EmptyEpisodeError("has no command before its last picture", where=where)
                qpos = np.concatenate([action[:1], action[:-1]])
        arms = self._arms(qpos, np.arange(len(qpos)) / fps, where, field)
        views = {
            name: self._view(path, name, names[name], arms, simulated) for name in self.chosen_views(list(names), where)
        }
        return Recording(
            id=ref.id,
            arms=arms,
            views=views,
            instructions=self.instructions((), where),
            rows_fps=fps,
            provenance={
                "format": self.name,
                "file": ref.location["path"],
                "simulated": simulated,
                "trajectory": self.options.trajectory,
                "command_shift_rows": self._shift,
                "tips": self._by_arm("tip"),
            },
        )

    def _view(self, path: Path, name: str, stored: str, arms: Mapping[str, Arm], simulated: bool) -> ViewInput:
        plain = HDF5Frames(path, f"{_IMAGES}/{stored}")
        frames: FrameSource = plain
        if plain.encoded and self.options.jpeg == "swapped":
            frames = SwappedFrames(plain)
        if self.options.poses_only:
            return ViewInput(frames, None, None)
        given = self.given_cameras().get(name, self.given_cameras().get(stored))
        arm = self._arm_in(name, arms)
        if given is None:
            given, arm = self._from_robot(stored, plain.width, plain.height, simulated, path)
        return ViewInput(frames, None, given, arm=arm)

    def _arm_in(self, view: str, arms: Mapping[str, Arm]) -> str:
        """The arm whose name is in the view's name; "" where that is none or not one."""
        found = [name for name in arms if name and name in view]
        return found[0] if len(found) == 1 else ""

    def _from_robot(
        self, camera: str, width: int, height: int, simulated: bool, path: Path
    ) -> tuple[CalibratedCamera, str]:
        """A simulated camera, as the robot's MJCF file places it."""
        why = "is in no camera file"
        # The file's world is the poses' world only where no other frame was asked for.
        if simulated and not self.options.world_from_base and not self.options.base:
            robots, tips = self._by_arm("robot"), self._by_arm("tip")
            for name in self.options.arms:
                scene = self._scene(Path(robots[name]))
                if scene is None or camera not in scene.names("camera"):
                    continue
                key = scene.find(camera, ("camera",), "camera")
                K = scene.camera_K(key[1], width, height)
                if not scene.carriers(*key):
                    return CalibratedCamera(K, width, height, scene.poses([key])[key][0], pixel_centre=0.5), ""
                tip = scene.find(tips[name])
                if scene.carriers(*key) == scene.carriers(*tip):
                    still = scene.poses([key, tip])
                    pose = np.asarray(exact.matmul(transforms.invert(still[tip][0]), still[key][0]))
                    arm = name if len(self.options.arms) > 1 else ""
                    return CalibratedCamera(K, width, height, tool_from_camera=pose, pixel_centre=0.5), arm
            why = "is in no camera file, and not fixed to the world or a hand in the robot file"
        raise MissingCalibrationError(
            f"the camera {why}", where=path, field=camera, expected="--camera-file, with the camera under this name"
        )

    def _scene(self, path: Path) -> Scene | None:
        if path not in self._scenes:
            if parse_xml(read_bytes(path), path).tag == "robot":
                return None
            self._scenes[path] = Scene.from_file(path)
        return self._scenes[path]

    def inspect(self, source: str) -> dict[str, Any]:
        """Episodes, columns and pictures of the first, and what has still to be given."""
        root, paths = log_files(source, HDF5_ENDINGS, "HDF5 file")
        found: dict[str, Any] = {"format": self.name, "episodes": 0}
        for path in paths:
            with hdf5.open_hdf5(path) as file:
                if not _is_aloha(file):
                    continue
                found["episodes"] += 1
                if found["episodes"] == 1:
                    found["first"] = path.relative_to(root).as_posix()
                    found["simulated"] = bool(np.any(file.attrs.get("sim", False)))
                    found["columns"] = {
                        name: "×".join(map(str, file[name].shape))
                        for name in ("observations/qpos", "action")
                        if name in file
                    }
                    found["views"] = {
                        plain_view(n): "×".join(map(str, d.shape)) + (" JPEG" if d.ndim < 4 else "")
                        for n, d in file[_IMAGES].items()
                    }
        if found["episodes"] == 0:
            raise WrongFormatError(
                "no ALOHA episode found", where=root, expected="HDF5 files with observations/qpos", found="none"
            )
        found["to be given"] = self.open_questions(
            robot=False,
            tip=False,
            tool_from_gripper=False,
            fps=False,
            instruction=False,
            camera_file=bool(found["simulated"]),
        )
        return found


def _is_aloha(file: h5py.File) -> bool:
    qpos = file.get("observations/qpos")
    return isinstance(qpos, h5py.Dataset) and qpos.ndim == 2 and isinstance(file.get(_IMAGES), h5py.Group)


def _gripper(text: str) -> Gripper:
    try:
        closed, opened = (float(p) for p in text.split())
        return Gripper(columns=("gripper",), closed=closed, open=opened, kind="measured", tolerance=_TOLERANCE)
    except ValueError:
        raise InvalidSpecError(
            "is not a gripper's range", field="gripper", expected="CLOSED OPEN", found=text
        ) from None


def _rows(path: Path) -> int | None:
    """Rows of a file; None where it is none of ALOHA's."""
    with hdf5.open_hdf5(path) as file:
        return len(file["observations/qpos"]) if _is_aloha(file) else None


def _fingerprint(stamp: str, path: Path, rows: int | None) -> str:
    return hashlib.sha256(f"{stamp} {file_stamp(path)} {rows}".encode()).hexdigest()[:16]

"""RoboTwin 2.0's recordings: two arms in SAPIEN, one HDF5 file an episode, in either of its two layouts.

As ``envs/utils/pkl2hdf5.py`` of https://github.com/RoboTwin-Platform/RoboTwin writes them, and ``_trans_endpose`` of
``envs/robot/robot.py`` makes the poses: the frame is turned so that +x approaches on every embodiment, and lies 0.12 m
behind the point that the program calls the gripper's centre.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..errors import AmbiguousSourceError, WrongFormatError
from ..model import EpisodeRef, FrameSource
from ..schemas.mapping import Gripper
from ..untrusted import hdf5
from ..untrusted.text import load_json, parse_json
from .base import ConverterOptions
from .kit.frames import HDF5Depth, HDF5Frames, SwappedFrames
from .recording import streams
from .recording.hdf5_rows import HDF5RowConverter, sapien_camera
from .recording.recording import Arm, Recording, ViewInput
from .recording.rows import QuaternionOptions, check_rows, numbers, plain_view, row_count
from .recording.sync import ScalarSamples

FloatArray = NDArray[np.float64]
ARMS = ("left", "right")
CENTRE_M = 0.12
EMBODIMENTS = ("aloha-agilex", "ARX-X5", "franka-panda", "piper", "ur5-wsg")
"""Those whose fingers open along +-y of the recorded frame. ``delta_matrix`` of their ``config.yml`` turns the end
link's frame into the recorded one (``global_trans_matrix`` undoes SAPIEN's frame of the joint), and their URDF's finger
joints then slide along y."""
NAMES = {
    "cam_head": "head_camera",
    "cam_left_wrist": "left_camera",
    "cam_right_wrist": "right_camera",
    "cam_third_view": "front_camera",
}
"""Cameras of the v1.0 layout, by the names that they had before (``CAMERA_MAP`` of its writer)."""
GRIPPER = Gripper(columns=("gripper",), closed=0.0, open=1.0, kind="command", tolerance=0.02)


@dataclass(frozen=True)
class Layout:
    """Where a layout keeps what; ``{}`` stands for an arm or a camera."""

    word: str
    pose: str
    gripper: str
    cameras: str
    pictures: str
    depth: str
    intrinsics: str
    extrinsics: str
    extrinsics_form: str


LEGACY = Layout(
    "RoboTwin 2.0",
    "endpose/{}_endpose",
    "endpose/{}_gripper",
    "observation",
    "rgb",
    "depth",
    "intrinsic_cv",
    "extrinsic_cv",
    "extrinsic_cv",
)
V1 = Layout(
    "RoboTwin 2.0, v1.0",
    "state/{}_ee_poses",
    "state/{}_ee_joint_states",
    "vision",
    "colors",
    "depths",
    "intrinsic_matrix",
    "extrinsics_matrix",
    "cam2world_gl",
)


class RoboTwinOptions(QuaternionOptions):
    """Options of the RoboTwin converter."""

    embodiment: Literal["aloha-agilex", "ARX-X5", "franka-panda", "piper", "ur5-wsg"] | None = Field(
        None, description="the robot, where no folder is named after it (as aloha-agilex_clean_50 is)"
    )
    centre_m: float = Field(
        CENTRE_M,
        gt=0,
        le=0.3,
        description="metres along +x from the recorded pose to the point between the fingertips; 0.12 is RoboTwin's "
        "own centre of the gripper, a little behind the tips",
    )
    instruction_set: Literal["seen", "unseen", "all"] = Field(
        "seen", description="which of the instructions beside an episode are taken"
    )
    extrinsics: Literal["cam2world_gl", "extrinsic_cv"] = Field(
        "cam2world_gl",
        description="what extrinsics_matrix of the v1.0 layout is: its writer falls back to extrinsic_cv where the "
        "recording lacks cam2world_gl",
    )
    jpeg: Literal["swapped", "standard"] = Field(
        "swapped", description="colours of the JPEGs: swapped, as RoboTwin's own writer encodes them, or standard"
    )


class RoboTwinConverter(HDF5RowConverter):
    """RoboTwin 2.0: two arms and three cameras, one HDF5 file an episode.

    Both layouts are read: that of the published sets (``endpose``, ``observation``), and "v1.0", which its program
    writes since August 2026 (``state``, ``action``, ``vision``; a picture less than were taken).

    * **Poses** are in the world, quaternions wxyz, +x approaches, 0.12 m behind what RoboTwin calls the gripper's
      centre (``--centre-m``). The fingers of its five robots open along ±y (from their configurations and URDFs); the
      robot is known by a folder's name, else ``--embodiment``; any other needs ``--tool-from-gripper``.
    * **Gripper**: 1 is open; the commanded value.
    * **Pictures** are JPEGs, padded with zeros, of RGB that was encoded as if it were BGR: red and blue are swapped
      back. Depth is in millimetres along the camera's axis.
    * **Cameras** are stated for every row; those on the wrists move. Pixel centres lie at + 0.5. Views are called
      head_camera, left_camera, right_camera and front_camera in both layouts.
    * **Instructions**: ``instructions/episodeN.json`` beside ``data`` (``--instruction-set seen | unseen | all``); the
      list in a v1.0 file; else ``--instruction``.
    * **Rate**: ``additional_info/frequency`` of v1.0. It is the program's ``save_freq``, the simulator's steps between
      two pictures: at its 250 steps a second, 15 of them are 16.7 Hz. The published sets do not say a rate: ``--fps``.
    """

    name: ClassVar[str] = "robotwin"
    summary: ClassVar[str] = "RoboTwin 2.0: two arms, HDF5, cameras for every row; both layouts"
    examples: ClassVar[tuple[str, ...]] = (
        "actionimg convert robotwin beat_block_hammer/aloha-agilex_clean_50 shards --fps 16.667",
        "actionimg convert robotwin data/demo_clean shards --views head_camera,left_camera --depth",
    )
    Options: ClassVar[type[ConverterOptions]] = RoboTwinOptions
    expected: ClassVar[str] = "HDF5 files with endpose and observation, or state/left_ee_poses and vision"

    @classmethod
    def layout(cls, file: h5py.File) -> str | None:
        """Which of the two it is."""
        found = _layout(file)
        return None if found is None else found.word

    @classmethod
    def sibling(cls, file: h5py.File) -> str | None:
        """The layout of v1.0 is XPolicyLab's, and others write it; its next version may mean something else."""
        maker, version = hdf5.text(file.attrs.get("source_format")), _version(file)
        if version is None:
            return None
        return f"which is of XPolicyLab's layout {version}, by {maker or 'an unknown program'}"

    @classmethod
    def episodes(cls, file: h5py.File) -> dict[str, int | None]:
        """The one of the file, by its poses."""
        poses = file.get(_known(file).pose.format(ARMS[0]))
        return {"": len(poses) if isinstance(poses, h5py.Dataset) and poses.ndim else None}

    def beside(self, path: Path) -> list[Path]:
        """The instructions of the published layout."""
        return [path.parent.parent / "instructions" / f"{path.stem}.json"]

    def recording(self, ref: EpisodeRef) -> Recording:
        """Everything that the file, what is beside it, and the options say."""
        path = Path(ref.location["source"]) / ref.location["path"]
        where = str(path)
        with hdf5.open_hdf5(path) as file:
            kind = _known(file)
            fps = self.fps(
                _frequency(file), where, "RoboTwin takes a picture every 15 of 250 steps a second: --fps 16.667."
            )
            cameras = _cameras(file, kind)
            chosen = {name: cameras[name] for name in self.chosen_views(list(cameras), where)}
            count = row_count(file, kind.pose.format(ARMS[0]), where)
            columns = [text.format(arm) for arm in ARMS for text in (kind.pose, kind.gripper)]
            pictures = [f"{kind.cameras}/{camera}/{kind.pictures}" for camera in chosen.values()]
            check_rows({name: row_count(file, name, where) for name in [*columns, *pictures]}, count, "poses", where)
            arms = {arm: self._arm(file, kind, arm, np.arange(count) / fps, path) for arm in ARMS}
            views = {name: self._view(file, kind, path, name, camera, count) for name, camera in chosen.items()}
            texts = self._texts(file, path)
        return Recording(
            id=ref.id,
            arms=arms,
            views=views,
            instructions=self.instructions(texts, where),
            rows_fps=fps,
            task=path.parents[2].name if path.parent.name == "data" and len(path.parents) > 2 else None,
            provenance={
                "format": self.name,
                "file": ref.location["path"],
                "layout": kind.word,
                "embodiment": self._embodiment(path),
                "jpeg": self.options.jpeg,
            },
        )

    def _embodiment(self, path: Path) -> str | None:
        if self.options.embodiment is not None:
            return str(self.options.embodiment)
        parts = reversed(path.absolute().parts[:-1])
        return next(
            (e for part in parts for e in EMBODIMENTS if part == e or part.startswith((f"{e}_", f"{e}+"))), None
        )

    def _arm(self, file: h5py.File, kind: Layout, arm: str, times: FloatArray, path: Path) -> Arm:
        where = f"{path}: {kind.pose.format(arm)}"
        tool = None
        if self._embodiment(path) is not None:
            # +x of the recorded frame is the gripper's +z, and y is y.
            tool = np.array([[0, 0, 1, self.options.centre_m], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], float)
        if tool is None and self.options.tool_from_gripper is None:
            raise AmbiguousSourceError(
                "along which axis the fingers open depends on the robot, which the file does not name",
                where=path,
                field="embodiment",
                expected=f"--embodiment {' | '.join(EMBODIMENTS)}, or --tool-from-gripper for another robot",
            )
        poses, rotation = self.quaternion_poses(times, numbers(file, kind.pose.format(arm), path, 7), "wxyz", where)
        gripper = streams.openness_from_columns(numbers(file, kind.gripper.format(arm), path, 1), GRIPPER, where)
        opened = ScalarSamples(times, gripper, hold=True)
        return Arm(poses, opened, self.tool(tool, path, ""), rotation=rotation)

    def _view(self, file: h5py.File, kind: Layout, path: Path, name: str, camera: str, rows: int) -> ViewInput:
        place = f"{kind.cameras}/{camera}"
        plain = HDF5Frames(path, f"{place}/{kind.pictures}")
        frames: FrameSource = SwappedFrames(plain) if plain.encoded and self.options.jpeg == "swapped" else plain
        stored = f"{place}/{kind.depth}"
        depth = HDF5Depth(path, stored, unit_m=0.001) if stored in file else None
        arm = next((arm for arm in ARMS if arm in camera), "")
        if self.options.poses_only:
            return ViewInput(frames, None, None, depth=depth)
        known = self.given_cameras().get(name, self.given_cameras().get(camera))
        if known is None:
            form = self.options.extrinsics if kind is V1 else kind.extrinsics_form
            size = (frames.width, frames.height)
            where = f"{path}: {place}"
            known = sapien_camera(file[place], kind.intrinsics, kind.extrinsics, form, size, rows, where)
        return ViewInput(frames, None, known, arm=arm, depth=depth)

    def _texts(self, file: h5py.File, path: Path) -> list[str]:
        """Instructions in the file, else of the file beside it."""
        if "instructions" in file:
            found = parse_json(hdf5.text(hdf5.dataset(file, "instructions")[()]) or "[]", path, "instructions")
            return [str(text) for text in found] if isinstance(found, list) else []
        beside = self.beside(path)[0]
        if not beside.is_file():
            return []
        told = load_json(beside)
        sets = ("seen", "unseen") if self.options.instruction_set == "all" else (self.options.instruction_set,)
        if not isinstance(told, dict) or not all(isinstance(told.get(name), list) for name in sets):
            raise WrongFormatError(
                "holds no such instructions", where=beside, field="instruction_set", expected=", ".join(sets)
            )
        return [str(text) for name in sets for text in told[name]]

    def inspect(self, source: str) -> dict[str, Any]:
        """Episodes, what the first says, and what has still to be given."""
        refs = list(self.discover(source))
        path = Path(refs[0].location["source"]) / refs[0].location["path"]
        with hdf5.open_hdf5(path) as file:
            kind = _known(file)
            texts = self._texts(file, path)
            cameras = {name: file[f"{kind.cameras}/{camera}"] for name, camera in _cameras(file, kind).items()}
            return {
                "format": self.name,
                "episodes": len(refs),
                "frames": None if any(r.num_frames is None for r in refs) else sum(r.num_frames or 0 for r in refs),
                "first": refs[0].id,
                "layout": kind.word,
                "embodiment": self._embodiment(path),
                "fps": _frequency(file),
                "instructions": len(texts),
                "instruction": texts[0] if texts else None,
                "arms": list(ARMS),
                "views": {
                    name: {"depth": kind.depth in camera, "calibrated": kind.extrinsics in camera}
                    for name, camera in cameras.items()
                },
                "to be given": self.open_questions(
                    fps=_frequency(file) is not None,
                    instruction=any(t.strip() for t in texts),
                    embodiment=self._embodiment(path) is not None or self.options.tool_from_gripper is not None,
                ),
            }


def _layout(file: h5py.File) -> Layout | None:
    if isinstance(file.get("endpose"), h5py.Group) and isinstance(file.get("observation"), h5py.Group):
        return LEGACY
    maker = hdf5.text(file.attrs.get("source_format"))
    new = all(name in file for name in (V1.pose.format(ARMS[0]), V1.cameras))
    return V1 if new and _version(file) == "v1.0" and maker in (None, "RoboTwin") else None


def _version(file: h5py.File) -> str | None:
    found = file.get("data_format_version")
    return hdf5.text(found[()]) if isinstance(found, h5py.Dataset) and found.shape == () else None


def _known(file: h5py.File) -> Layout:
    found = _layout(file)
    if found is None:
        raise WrongFormatError(
            "is none of RoboTwin's", where=file.filename, expected=RoboTwinConverter.expected, found=", ".join(file)
        )
    return found


def _cameras(file: h5py.File, kind: Layout) -> Mapping[str, str]:
    """The cameras with pictures, as the file calls them, by view, which both layouts call alike."""
    return {NAMES.get(n, plain_view(n)): n for n, group in file[kind.cameras].items() if kind.pictures in group}


def _frequency(file: h5py.File) -> float | None:
    found = file.get("additional_info/frequency")
    return (
        float(found[()])
        if isinstance(found, h5py.Dataset) and found.shape == () and found.dtype.kind in "iuf"
        else None
    )

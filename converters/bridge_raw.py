"""BridgeData V2 as it was recorded: ``…/DATE/raw/traj_groupG/trajN/{obs_dict.pkl, imagesC/im_T.jpg, lang.txt}``.

Facts of the format are in the data set's own code: what is in ``obs_dict.pkl`` in
https://github.com/rail-berkeley/bridge_data_robot (``widowx_envs/base/robot_base_env.py``: ``current_obs``;
``utils/raw_saver.py``), the delay of the cameras before 2021-07-23 and the lines of ``lang.txt`` in
https://github.com/rail-berkeley/bridge_data_v2 (``data_processing``). ``full_state`` and ``state`` hold Euler angles
relative to a gripper that points straight down; ``eef_transform`` is the pose itself, in the arm's base.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..cameras.calibrated import CalibratedCamera
from ..cameras.files import scaled_to
from ..cameras.published import published
from ..errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadFileError,
    EmptyEpisodeError,
    MissingCalibrationError,
    UnsupportedSourceError,
    WrongFormatError,
)
from ..model import EpisodeRef, SelectedFrames
from ..schemas.mapping import Gripper
from ..untrusted.files import read_bytes
from ..untrusted.pickles import load as load_pickle
from .base import ConverterOptions, Streams
from .kit.pictures import numbered_pictures
from .kit.tree import (
    file_names,
    file_stamp,
    files_with_sizes,
    natural_key,
    subfolders,
)
from .recording import streams
from .recording.folder_rows import FolderRowConverter
from .recording.recording import Arm, Recording, ViewInput
from .recording.rows import RowOptions, check_rows
from .recording.sync import PoseSamples, ScalarSamples, statistics

FloatArray = NDArray[np.float64]
OBSERVATIONS = "obs_dict.pkl"
TOOL_FROM_GRIPPER = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
"""Interbotix' ``ee_gripper_link``: x forward along the hand, the fingers slide along y, the origin lies between them
(wx250s.urdf.xacro: joints ee_gripper, left_finger, right_finger)."""
UNDELAYED = datetime(2021, 7, 23)
"""Since then pictures are of their own step (bridgedata_raw_to_numpy.py: ``latency_shift``)."""
_GRIPPER = Gripper(columns=("6",), closed=0.0, open=1.0, kind="measured", tolerance=0.1)
_IMAGES = re.compile(r"images(\d+)\Z")
_DATE = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\Z")
_MAX_TEXT = 1 << 20


class BridgeRawOptions(RowOptions):
    """Options of the converter of Bridge's raw recordings."""

    cameras: Literal["published"] | None = Field(
        None,
        description="published: SimplerEnv's estimate of the fixed camera over the shoulder, image_0; "
        "of other views none is known",
    )
    camera_lag: Literal["auto", "0", "1"] = Field(
        "auto",
        description="steps by which pictures are late; auto: 1 before 2021-07-23, as Bridge's own converter has it, by "
        "the folder named after the date",
    )


class BridgeRawConverter(FolderRowConverter):
    """BridgeData V2, raw: folders ``trajN`` with ``obs_dict.pkl`` and JPEGs of one to four cameras.

    * **Poses** are ``eef_transform`` (the arm's base; x forward along the hand), not ``full_state``, whose angles are
      relative to a gripper that points down. The canonical gripper in that frame is known.
    * **Gripper**: the last number of ``full_state``, 1 is open.
    * **Times**: ``time_stamp``, of rows and pictures alike; without it ``--fps`` (the robot is driven at 5 Hz).
    * **Views** are called ``image_0`` … as in the RLDS copies. Not all episodes have the same: choose with ``--views``.
    * **Cameras** were not calibrated: ``--camera-file``, or ``--cameras published`` for ``image_0``, or
      ``--poses-only``.
    * **Instructions**: the lines of ``lang.txt``, else ``--instruction``.
    """

    name: ClassVar[str] = "bridge-raw"
    summary: ClassVar[str] = "BridgeData V2 raw: obs_dict.pkl + JPEGs of one to four cameras"
    examples: ClassVar[tuple[str, ...]] = (
        "actionimg convert bridge-raw bridge_data_v2/ shards --cameras published --views image_0",
        "actionimg convert bridge-raw bridge_data_v2/ shards --camera-file cameras.yaml",
    )
    Options: ClassVar[type[ConverterOptions]] = BridgeRawOptions
    layout: ClassVar[str] = "Bridge raw"
    episodes_are: ClassVar[str] = f"folders with {OBSERVATIONS} and images0"
    nothing: ClassVar[str] = "holds no raw Bridge episode"

    @classmethod
    def is_episode(cls, folder: Path) -> bool:
        """Whether ``obs_dict.pkl`` lies beside ``images0``."""
        return (folder / OBSERVATIONS).is_file() and (folder / "images0").is_dir()

    def state(self, stamp: str, folder: Path) -> str:
        """Of what an episode is made of: the observations' content, names and sizes of the pictures and texts."""
        listed = [(p.name, files_with_sizes(p)) for p in subfolders(folder) if _IMAGES.match(p.name)]
        text = file_stamp(folder / "lang.txt") if (folder / "lang.txt").is_file() else ""
        state = f"{stamp} {file_stamp(folder / OBSERVATIONS)} {text} {listed}"
        return hashlib.sha256(state.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def recording(self, ref: EpisodeRef) -> Recording:
        """Everything that the episode's files say."""
        folder = self.folder(ref)
        where = folder / OBSERVATIONS
        log = _observations(where)
        pose, state, stamps = log["eef_transform"], log["full_state"], log.get("time_stamp")
        if self.options.fps is None and stamps is None:
            self.fps(None, where, "Bridge's robot is driven at 5 Hz: --fps 5.")
        measured = self.options.fps is None
        times = stamps if measured and stamps is not None else np.arange(len(pose)) / (self.options.fps or 1.0)
        lag = self._lag(folder)
        kept = len(pose) - lag
        if kept < 1:
            raise EmptyEpisodeError("has no picture that belongs to a pose", where=folder, found=f"{len(pose)} rows")
        q = streams.quaternions(pose[:kept, :3, :3].reshape(-1, 9), "matrix", "row", None, f"{where}: eef_transform")
        openness = streams.openness_from_columns(state[:kept, 6:7], _GRIPPER, f"{where}: full_state")
        arm = Arm(
            PoseSamples(times[:kept], pose[:kept, :3, 3], q),
            ScalarSamples(times[:kept], openness),
            self.tool(TOOL_FROM_GRIPPER, where, ""),
        )
        views = {
            name: self._view(folder, name, len(pose), lag, times[:kept] if measured else None, ref.id)
            for name in self._views(folder)
        }
        return Recording(
            id=ref.id,
            arms={"": arm},
            views=views,
            instructions=self.instructions(_texts(folder / "lang.txt"), folder),
            rows_fps=None if measured else self.options.fps,
            task=None,
            provenance={"format": self.name, "folder": ref.location["path"], "camera_lag_steps": lag},
        )

    def pictures(self, folder: Path) -> int | None:
        """Pictures that belong to a pose; None where it is not known how late they are."""
        try:
            lag = self._lag(folder)
        except ActionImgError:
            return None  # it is refused when its turn comes
        return max(len(file_names(folder / "images0", ".jpg")) - lag, 0) or None

    def _lag(self, folder: Path) -> int:
        """Steps by which pictures are late."""
        if self.options.camera_lag != "auto":
            return int(self.options.camera_lag)
        date = next((p for p in reversed(folder.parts) if _DATE.match(p)), None)
        if date is None:
            raise AmbiguousSourceError(
                "lies in no folder named after its date: whether its pictures are a step late cannot be known",
                where=folder,
                field="camera_lag",
                expected="YYYY-MM-DD_hh-mm-ss among the folders above, or --camera-lag 0 | 1",
                hint="Pictures recorded before 2021-07-23 are a step late.",
            )
        try:
            return int(datetime.strptime(date, "%Y-%m-%d_%H-%M-%S") < UNDELAYED)
        except ValueError as error:
            raise BadFileError("is no date", where=folder, found=error) from None

    def _views(self, folder: Path) -> list[str]:
        """The views to read: where none are named, with published cameras those that are published."""
        found = [f"image_{m[1]}" for path in subfolders(folder) if (m := _IMAGES.match(path.name))]
        if self.options.cameras and not self.options.only_views:
            found = [name for name in found if published()["bridge_dataset"].rows(name, self.name)] or found
        return self.chosen_views(sorted(found, key=natural_key), folder)

    def _view(self, folder: Path, name: str, rows: int, lag: int, times: FloatArray | None, episode: str) -> ViewInput:
        pictures = numbered_pictures(folder / name.replace("image_", "images"), "im_*.jpg", count=rows)
        frames = SelectedFrames(pictures, np.arange(lag, rows)) if lag else pictures
        if self.options.poses_only:
            return ViewInput(frames, times, None)
        return ViewInput(frames, times, self._camera(name, pictures.width, pictures.height, episode), scaled=True)

    def _camera(self, name: str, width: int, height: int, episode: str) -> CalibratedCamera:
        given = self.given_cameras().get(name)
        if given is None and self.options.cameras:
            known = published()["bridge_dataset"].camera(name, self.name, lambda _: "")
            given = None if known is None else scaled_to(known, width, height, f"{episode}: {name}")
        if given is None:
            option = "--camera-file FILE"
            has_one = bool(published()["bridge_dataset"].rows(name, self.name)) and not self.options.cameras
            raise MissingCalibrationError(
                "Bridge's cameras were not calibrated",
                where=episode,
                field=name,
                expected=f"{option}, or --cameras published (an estimate)" if has_one else option,
                hint="Or leave the view out (--views), or go without action images (--poses-only).",
            )
        return given

    def streams(self, source: str) -> Streams:
        """Stamps of the first episode's rows."""
        ref = next(self.discover(source))
        stamps = _observations(self.folder(ref) / OBSERVATIONS).get("time_stamp")
        if stamps is None:
            return super().streams(source)
        return Streams(ref.id, {"rows": statistics(stamps).to_json()}, {"rows": stamps})


def _observations(path: Path) -> dict[str, FloatArray]:
    """``eef_transform`` (T, 4, 4), ``full_state`` (T, 7) and, where there is one, ``time_stamp`` (T,).

    Raises:
        WrongFormatError: Not such a file, or an array of another shape.
        UnsupportedSourceError: Without ``eef_transform``.
        FrameCountError: Arrays of different lengths.
    """
    value: Any = load_pickle(path)
    if not isinstance(value, Mapping) or "full_state" not in value:
        found = ", ".join(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
        raise WrongFormatError("holds no observations of Bridge", where=path, expected="full_state, …", found=found)
    if "eef_transform" not in value:
        raise UnsupportedSourceError(
            "holds no pose of the hand: full_state's angles are relative to a rotation that it does not say",
            where=path,
            field="eef_transform",
            found=", ".join(map(str, value)),
        )
    arrays = {}
    for name, shape in (("eef_transform", (4, 4)), ("full_state", (7,)), ("time_stamp", ())):
        if name not in value:
            continue
        array = np.asarray(value[name])
        if array.dtype.kind not in "iuf" or array.ndim == 0 or array.shape[1:] != shape:
            expected = f"numbers (T{''.join(f', {n}' for n in shape)})"
            raise WrongFormatError(
                "has the wrong shape", where=path, field=name, expected=expected, found=f"{array.dtype} {array.shape}"
            )
        arrays[name] = array.astype(np.float64)
    rows = len(arrays["eef_transform"])
    check_rows({name: len(a) for name, a in arrays.items()}, rows, "eef_transform", path)
    if rows == 0:
        raise EmptyEpisodeError("has no rows", where=path)
    return arrays


def _texts(path: Path) -> list[str]:
    """The lines of ``lang.txt``, but for the annotators' confidence; none without the file."""
    if not path.is_file():
        return []
    try:
        lines = read_bytes(path, _MAX_TEXT).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadFileError("is not text", where=path, found=error) from None
    return [line.strip() for line in lines if line.strip() and "confidence" not in line]

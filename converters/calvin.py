"""CALVIN's data sets: one ``.npz`` a step, a table of where play begins and ends, and annotated spans of it.

Facts of the format are in https://github.com/mees/calvin (``dataset/README.md``) and in its simulator,
https://github.com/mees/calvin_env: ``datarenderer.py`` writes the steps, picture and ``robot_obs`` of one state
together; ``robot.py`` says what ``robot_obs`` is: place and extrinsic xyz Euler angles of the link ``tcp`` in the
world, the width between the fingers in metres (0 … 0.08), the joints, the last command. ``tcp`` has the axes of the
Panda's hand (``panda_longer_finger.urdf``): z along the approach, fingers opening along y. Cameras: `calvin_cameras`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..cameras.calibrated import CalibratedCamera
from ..cameras.files import scaled_to
from ..errors import (
    BadFileError,
    BadImageError,
    MissingCalibrationError,
    MissingFrameError,
    UnsupportedSourceError,
    WrongFormatError,
)
from ..model import Episode, EpisodeRef, millimetres
from ..schemas.mapping import Gripper
from ..untrusted.arrays import load_npy, load_npz, load_objects
from ..untrusted.files import read_bytes
from . import calvin_cameras as cameras
from .base import ConverterOptions, Detection
from .kit.tree import file_stamp, plain_id, source_folder
from .recording import streams
from .recording.episode import assemble
from .recording.recording import Arm, Recording, ViewInput
from .recording.rows import RowConverter, RowOptions
from .recording.sync import PoseSamples, ScalarSamples

FloatArray = NDArray[np.float64]
TABLE = "ep_start_end_ids.npy"
TEXTS = "lang_annotations/auto_lang_ann.npy"
SPLITS = ("training", "validation")
_GRIPPER = Gripper(columns=("6",), closed=0.0, open=0.08, kind="measured", tolerance=0.1)


class CalvinOptions(RowOptions):
    """Options of the CALVIN converter."""

    spans: Literal["annotated", "play"] = Field(
        "annotated",
        description="annotated: the spans that lang_annotations describes; play: whole recordings, with --instruction",
    )
    cameras: Literal["published"] | None = Field(
        None,
        description="published: the cameras of calvin_env's own configuration, where the one of the data set "
        f"({cameras.CONFIG}) was not kept",
    )


@dataclass(frozen=True)
class _Steps:
    """Files of consecutive steps: a frame source of one of their arrays, opened when a picture is asked for."""

    folder: str
    first: int
    count: int
    name: str
    height: int
    width: int

    def __len__(self) -> int:
        return self.count

    def frames(self, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
        """RGB pictures ``(H, W, 3)`` uint8, or depth ``(H, W)`` in millimetres.

        Raises:
            MissingFrameError: A step is missing.
            BadImageError: Another size or type than the first's.
        """
        depth = self.name.startswith("depth_")
        expected = (self.height, self.width) if depth else (self.height, self.width, 3)
        for index in indices:
            path = _step(Path(self.folder), self.first + index)
            picture = _arrays(path, (self.name,)).get(self.name)
            if (
                picture is None
                or picture.shape != expected
                or (picture.dtype.kind != "f" if depth else picture.dtype != np.uint8)
            ):
                found = "none" if picture is None else f"{picture.dtype} {picture.shape}"
                raise BadImageError(
                    "is no picture like the first", where=path, field=self.name, expected=expected, found=found
                )
            yield millimetres(picture) if depth else picture


class CalvinConverter(RowConverter):
    """CALVIN: folders with ``ep_start_end_ids.npy`` and ``episode_0000000.npz``, …, a step each.

    * **Episodes** are the spans of ``lang_annotations`` (``--spans annotated``), or whole recordings of play
      (``--spans play --instruction TEXT``). Tables say where they are; a folder of a million steps is never listed.
    * **Pose**: ``robot_obs[0:6]``, the link ``tcp`` in the world; the canonical gripper has its axes. **Gripper**: the
      measured width, ``robot_obs[6]``. **Rate**: 30 Hz.
    * **Cameras** come from ``.hydra/merged_config.yaml`` beside the steps; where it was not kept, from calvin_env's own
      configuration (``--cameras published``) or from ``--camera-file``.
    * **Depth** is in metres; ``rgb_tactile`` is no picture of the scene, and left out.
    """

    name: ClassVar[str] = "calvin"
    summary: ClassVar[str] = "CALVIN: one .npz a step, annotated spans, cameras of its configuration"
    examples: ClassVar[tuple[str, ...]] = (
        "actionimg convert calvin task_D_D/ shards",
        "actionimg convert calvin task_D_D/training shards --views static --depth",
    )
    Options: ClassVar[type[ConverterOptions]] = CalvinOptions

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """By the names of the tables."""
        found = _splits(Path(source))
        return Detection("CALVIN", ", ".join(p.name for p in found)) if found else None

    def remote_headers(self) -> tuple[str, ...]:
        """The tables and the configuration."""
        return ("*.npy", "*.yaml")

    def remote_files(self, location: Mapping[str, Any]) -> list[Path]:
        """The steps of the span, and the folder of the configuration."""
        folder = Path(str(location["source"])) / str(location["path"])
        return [(folder / cameras.CONFIG).parent] + [
            _step(folder, i) for i in range(int(location["first"]), int(location["last"]) + 1)
        ]

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """One reference for each span, in the order of the tables; no step is opened but a span's first and last."""
        root = source_folder(source)
        splits = _splits(root)
        if not splits:
            raise WrongFormatError(
                "holds no CALVIN data", where=root, expected=f"{TABLE}, here or in {' and '.join(SPLITS)}"
            )
        for folder in splits:
            play = _table(folder)
            spans = _annotated(folder, play) if self.options.spans == "annotated" else _whole(play)
            tables = [folder / name for name in (TABLE, TEXTS, cameras.CONFIG) if (folder / name).is_file()]
            stamp = self.stamp() + "".join(map(file_stamp, tables))
            path = folder.relative_to(root).as_posix()
            for name, first, last, text, task in spans:
                yield EpisodeRef(
                    plain_id(f"{folder.name}/{name}"),
                    {"source": str(root), "path": path, "first": first, "last": last, "text": text, "task": task},
                    num_frames=last - first + 1,
                    fingerprint=_fingerprint(stamp, folder, first, last),
                )

    def read(self, ref: EpisodeRef) -> Episode:
        """One span: of each step the robot's state now, its pictures when they are asked for."""
        return assemble(self.recording(ref))

    def recording(self, ref: EpisodeRef) -> Recording:
        """Everything that the steps of a span and the configuration say."""
        at = ref.location
        folder, first = Path(str(at["source"])) / str(at["path"]), int(at["first"])
        count = int(at["last"]) - first + 1
        state = np.stack([_state(_step(folder, first + i)) for i in range(count)])
        config = cameras.configuration(folder)
        fps = self.fps(cameras.rate(config), folder, "CALVIN's own data sets have 30.")
        times = np.arange(count) / fps
        q = streams.quaternions(state[:, 3:6], "euler", "xyz", "rad", f"{_step(folder, first)}: robot_obs")
        openness = streams.openness_from_columns(state[:, 6:7], _GRIPPER, f"{_step(folder, first)}: robot_obs")
        arm = Arm(PoseSamples(times, state[:, :3], q), ScalarSamples(times, openness), self.tool(np.eye(4), folder, ""))
        arrays = _arrays(_step(folder, first))
        pictures = [n.removeprefix("rgb_") for n, a in arrays.items() if n.startswith("rgb_") and a.shape[2:] == (3,)]
        views = {}
        for name in self.chosen_views(sorted(pictures, reverse=True), folder):
            height, width = arrays[f"rgb_{name}"].shape[:2]
            frames = _Steps(str(folder), first, count, f"rgb_{name}", height, width)
            depth = None
            if arrays.get(f"depth_{name}", np.empty(0)).shape == (height, width):
                depth = _Steps(str(folder), first, count, f"depth_{name}", height, width)
            camera = None if self.options.poses_only else self._camera(name, config, width, height, folder)
            views[name] = ViewInput(frames, None, camera, depth=depth)
        return Recording(
            id=ref.id,
            arms={"": arm},
            views=views,
            instructions=self.instructions([str(at["text"])], folder),
            rows_fps=fps,
            task=str(at["task"]) or None,
            provenance={
                "format": self.name,
                "folder": at["path"],
                "steps": [first, first + count - 1],
            },
        )

    def _camera(
        self, name: str, config: Mapping[str, Any] | None, width: int, height: int, folder: Path
    ) -> CalibratedCamera:
        camera = self.given_cameras().get(name)
        if camera is None and config is not None:
            camera = cameras.configured(config, name, folder)
        elif camera is None and self.options.cameras:
            camera = cameras.published(name)
        if camera is None:
            raise MissingCalibrationError(
                "the camera is in no configuration",
                where=folder,
                field=name,
                expected=f"{cameras.CONFIG}, or --cameras published, or --camera-file FILE",
                hint="Or leave the view out (--views), or go without action images (--poses-only).",
            )
        return scaled_to(camera, width, height, f"{folder}: {name}")


def _splits(root: Path) -> list[Path]:
    """The folders with a table: the source itself, or its training and validation data; nothing is listed."""
    return [p for p in (root, *(root / name for name in SPLITS)) if (p / TABLE).is_file()]


def _step(folder: Path, number: int) -> Path:
    return folder / f"episode_{number:07d}.npz"


def _arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise MissingFrameError("a step is missing", where=path)
    return load_npz(path, path, names=names)


def _state(path: Path) -> FloatArray:
    """``robot_obs`` ``(15,)`` of a step."""
    state = _arrays(path, ("robot_obs",)).get("robot_obs")
    if state is not None and state.shape == (16,):
        raise UnsupportedSourceError("holds the hand's rotation as a quaternion, not Euler angles", where=path)
    if state is None or state.shape != (15,) or state.dtype.kind != "f":
        found = "none" if state is None else f"{state.dtype} {state.shape}"
        raise WrongFormatError("is no state of the robot", where=path, field="robot_obs", expected="(15,)", found=found)
    return state.astype(np.float64)


def _table(folder: Path) -> NDArray[np.int64]:
    """Rows ``(N, 2)``: first and last step of each recording of play, in order."""
    path = folder / TABLE
    table = load_npy(read_bytes(path), path)
    if table.ndim != 2 or table.shape[1] != 2 or table.dtype.kind not in "iu" or not len(table):
        raise BadFileError("is no table of spans", where=path, expected="whole numbers (N, 2)", found=table.shape)
    ordered = table[np.argsort(table[:, 0], kind="stable")].astype(np.int64)
    bad = np.flatnonzero((ordered[:, 1] < ordered[:, 0]) | (ordered[:, 0] < 0))
    if len(bad):
        raise BadFileError("a span ends before it begins", where=path, found=ordered[bad[0]].tolist())
    return ordered


Span = tuple[str, int, int, str, str]


def _whole(play: NDArray[np.int64]) -> Iterator[Span]:
    for first, last in play.tolist():
        yield f"play{first}", first, last, "", ""


def _annotated(folder: Path, play: NDArray[np.int64]) -> Iterator[Span]:
    """The spans of ``auto_lang_ann.npy``: name, first and last step, text, task.

    Raises:
        UnsupportedSourceError: There are no annotations.
        BadFileError: They are something else, or a span leaves the recording that it lies in.
    """
    path = folder / TEXTS
    if not path.is_file():
        raise UnsupportedSourceError(
            "has no annotations",
            where=folder,
            field=TEXTS,
            expected="--spans play --instruction TEXT",
            hint="Or download them: they are part of CALVIN's archives.",
        )
    told = load_objects(path)
    try:
        texts, tasks, spans = told["language"]["ann"], told["language"]["task"], told["info"]["indx"]
        rows = [(int(a), int(b), str(t), str(k)) for (a, b), t, k in zip(spans, texts, tasks, strict=True)]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BadFileError("is no list of annotated spans", where=path, found=repr(error)) from None
    for number, (first, last, text, task) in enumerate(rows):
        within = int(np.searchsorted(play[:, 0], first, side="right")) - 1
        if last < first or within < 0 or last > play[within, 1]:
            raise BadFileError(
                "a span leaves the recording of play that it lies in",
                where=path,
                field=f"info.indx[{number}]",
                expected=f"within a row of {TABLE}",
                found=f"{first} … {last}",
            )
        yield f"span{number}", first, last, text, task


def _fingerprint(stamp: str, folder: Path, first: int, last: int) -> str:
    """Of the tables, and of a span's first and last step: all of a million steps are not looked at."""
    ends = [file_stamp(p) if (p := _step(folder, i)).is_file() else "" for i in (first, last)]
    return hashlib.sha256(f"{stamp} {first} {last} {ends}".encode()).hexdigest()[:16]

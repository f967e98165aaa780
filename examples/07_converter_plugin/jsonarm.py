"""A converter for a format of one lab: a folder for each episode, with a log and pictures.

``log.json``: {"task": "pour the water", "hz": 10,
               "cameras": {"top": {"K": 3x3, "camera_to_base": 4x4}},        OpenCV axes
               "steps": [{"tcp_mm": [x, y, z], "rpy_deg": [r, p, y], "grip": 0.0 open … 1.0 closed}]}
``top/0.jpg``, ``top/1.jpg``, …: one picture a step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydantic import Field

from actionimg_data import Camera, Episode, EpisodeRef, GripperTrajectory, View
from actionimg_data.converters.base import Converter, ConverterOptions, Detection
from actionimg_data.errors import BadFileError, MissingFrameError, SourceNotFoundError, WrongFormatError
from actionimg_data.geometry import rotations, transforms

# The canonical gripper frame (origin between the fingertips, +z along the approach, fingers
# opening along ±y) in the frame that this arm reports: the tips are 12 cm in front of its flange.
TOOL_FROM_GRIPPER = transforms.make_transform(np.eye(3), np.array([0.0, 0.0, 0.12]))


class JsonArmOptions(ConverterOptions):
    """Each field is an option of ``actionimg convert jsonarm``; its description is the help text."""

    only_cameras: tuple[str, ...] = Field((), description="cameras to read (default: all)")


class Pictures:
    """The pictures of one camera, read when they are asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        first = cv2.imread(str(paths[0]))
        if first is None:
            raise BadFileError("is no picture", where=paths[0])
        self.height, self.width = first.shape[:2]

    def __len__(self) -> int:
        return len(self._paths)

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The chosen pictures, (H, W, 3) uint8 RGB, one at a time."""
        for i in indices:
            picture = cv2.imread(str(self._paths[i]))
            if picture is None or picture.shape != (self.height, self.width, 3):
                raise BadFileError("is no picture of the others' size", where=self._paths[i])
            yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


class JsonArmConverter(Converter):
    """Reads the JSON logs of our arm: one folder an episode. (`actionimg converters --explain` shows this.)"""

    name = "jsonarm"
    summary = "JSON logs of our arm, with a folder of JPEGs for each camera"
    Options = JsonArmOptions

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Cheap, and no error for any other format."""
        count = len(list(Path(source).glob("*/log.json")))
        return Detection("jsonarm", f"{count} episodes") if count else None

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """References in natural order; they name what `read` needs, and a fingerprint that changes with the data."""
        if not Path(source).exists():
            raise SourceNotFoundError("does not exist", where=source)
        logs = sorted(Path(source).glob("*/log.json"), key=lambda p: (len(p.parent.name), p.parent.name))
        if not logs:
            raise WrongFormatError("holds no episode", where=source, expected="FOLDER/log.json")
        for log in logs:
            data = log.read_bytes()
            yield EpisodeRef(log.parent.name, {"folder": str(log.parent)}, fingerprint=hashlib.sha256(data).hexdigest())

    def read(self, ref: EpisodeRef) -> Episode:
        """One episode. Units, polarity and frames are translated here, and nowhere later."""
        folder = Path(str(ref.location["folder"]))
        log = folder / "log.json"
        try:
            record: dict[str, Any] = json.loads(log.read_bytes())
            steps = record["steps"]
            position = np.array([step["tcp_mm"] for step in steps], float) / 1000
            euler = np.radians([step["rpy_deg"] for step in steps])
            openness = 1 - np.array([step["grip"] for step in steps], float)
            cameras, hz, task = record["cameras"], float(record["hz"]), str(record["task"])
        except (ValueError, KeyError, TypeError) as error:
            # An error of errors.py puts the episode into quarantine with its reason; the others go on.
            raise BadFileError("is not such a log", where=log, found=error) from None
        base_from_tool = transforms.make_transform(rotations.matrix_from_euler(euler), position)
        trajectory = GripperTrajectory.from_transforms(
            base_from_tool @ TOOL_FROM_GRIPPER, openness, np.arange(len(steps)) / hz
        )
        views = {}
        for name in self.options.only_cameras or sorted(cameras):
            paths = [folder / name / f"{i}.jpg" for i in range(len(steps))]
            missing = next((path for path in paths if not path.is_file()), None)
            if missing is not None:
                raise MissingFrameError("is missing", where=missing)
            pictures = Pictures(paths)
            calibration = cameras[name]
            camera = Camera(calibration["K"], calibration["camera_to_base"], pictures.width, pictures.height)
            views[name] = View(camera, pictures)
        return Episode(ref.id, views, trajectory, fps=hz, instructions=(task,), task=task, provenance={"log": log.name})

"""HDF5 files with a group ``data/demo_N`` an episode, as robomimic laid them down: robosuite, LIBERO, Isaac Lab."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import h5py
from pydantic import Field

from ...errors import MissingCalibrationError, UnsupportedSourceError, WrongFormatError
from ...model import EpisodeRef
from ...untrusted import hdf5
from ...untrusted.files import read_bytes
from ...untrusted.text import parse_json
from ..base import ConverterOptions, Detection
from ..kit.detection import detect_hdf5
from ..kit.mjcf import MAX_BYTES, Scene
from ..kit.tree import natural_key
from .hdf5_rows import HDF5FileConverter
from .recording import Recording
from .rows import RowOptions


class DemoOptions(RowOptions):
    """Options of the converters of such files."""

    filter_key: str | None = Field(None, description="only the episodes that the file's mask/NAME lists, e.g. valid")


@dataclass
class Demo:
    """One episode's group, opened.

    Args:
        file: The HDF5 file.
        group: ``data/demo_N``.
        where: For errors.
        env: ``env_args``, as far as there are any.
        attributes: Of the group ``data``, texts only.
        model: The scene as MJCF: the attribute ``model_file``, else the user's.
        checks: What the model was found to agree with, for the record.
    """

    file: h5py.File
    group: h5py.Group
    where: str
    env: Mapping[str, Any]
    attributes: Mapping[str, str]
    model: str | None = None
    checks: dict[str, Any] = field(default_factory=dict)
    _scene: Scene | None = None

    @property
    def obs(self) -> h5py.Group:
        """The observations."""
        found = self.group.get("obs")
        if not isinstance(found, h5py.Group):
            raise UnsupportedSourceError(
                "holds states and actions, but no observations",
                where=self.where,
                field="obs",
                found=", ".join(sorted(self.group)),
                hint="Make them with robomimic's dataset_states_to_obs.py (or LIBERO's create_dataset.py).",
            )
        return found

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """``env_kwargs`` of ``env_args``."""
        found = self.env.get("env_kwargs")
        return found if isinstance(found, dict) else {}

    def text(self, name: str) -> str | None:
        """A text attribute of the episode, or None."""
        return hdf5.text(self.group.attrs.get(name))

    def json(self, name: str) -> Any:
        """A JSON attribute of the episode, or None; `BadFileError` where it is not JSON."""
        text = self.text(name)
        return None if text is None else parse_json(text, self.where, name)

    @property
    def scene(self) -> Scene:
        """The compiled ``model_file``."""
        if self._scene is None:
            if self.model is None:
                raise MissingCalibrationError(
                    "has no model_file and no cameras",
                    where=self.where,
                    field="model_file",
                    expected="attribute camera_info or model_file, or --model-file, or --camera-file",
                )
            self._scene = Scene.from_text(self.model, f"{self.where}: model_file")
        return self._scene


def open_demo(file: h5py.File, path: Path, name: str, model_file: str | None = None) -> Demo:
    """An episode's group with what the file says about all of them, and the user's scene where it has none."""
    data = file.get("data")
    group = None if data is None else data.get(name)
    if not isinstance(group, h5py.Group):
        raise WrongFormatError("has no such episode", where=path, field=f"data/{name}")
    texts = {key: text for key in data.attrs if (text := hdf5.text(data.attrs[key])) is not None}
    env = parse_json(texts["env_args"], path, "env_args") if "env_args" in texts else {}
    model = hdf5.text(group.attrs.get("model_file"))
    if model is None and model_file is not None:
        model = read_bytes(Path(model_file), MAX_BYTES).decode("utf-8", "replace")
    return Demo(file, group, f"{path}#data/{name}", env if isinstance(env, dict) else {}, texts, model)


class DemoConverter(HDF5FileConverter):
    """Base of the converters of such files."""

    Options: ClassVar[type[ConverterOptions]] = DemoOptions
    place: ClassVar[str] = "demo"
    unreadable: ClassVar[str] = "unreadable"

    @classmethod
    @abstractmethod
    def _recognises(cls, file: h5py.File, demo: h5py.Group) -> str | None:
        """A word on the layout where the file is of this format."""

    @abstractmethod
    def _recording(self, ref: EpisodeRef, demo: Demo, path: Path) -> Recording:
        """Everything that the episode's group says."""

    @property
    def scene_file(self) -> str | None:
        """The user's scene as MJCF, for episodes that do not hold their own; None: there is none."""
        return None

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether the first HDF5 file at or below ``source`` is of this format."""

        def look(file: h5py.File, path: Path) -> Detection | None:
            names = _demos(file)
            layout = cls._recognises(file, file[f"data/{names[0]}"]) if names else None
            return None if layout is None else Detection(layout, f"{path.name}: {len(names)} episodes")

        return detect_hdf5(source, look)

    def _nothing(self, source: str, paths: list[Path]) -> WrongFormatError:
        expected = "HDF5 files with groups data/demo_N"
        return WrongFormatError(f"no {self.name} episode found", where=source, expected=expected, found="none")

    def _rows(self, path: Path) -> dict[str, int | None]:
        """The demonstrations of a file with their lengths; empty where it is of another format."""
        with hdf5.open_hdf5(path) as file:
            names = _demos(file)
            if not names or self._recognises(file, file[f"data/{names[0]}"]) is None:
                return {}
            names = _masked(file, names, self.options.filter_key, path)
            actions = {name: file.get(f"data/{name}/actions") for name in names}
            return {
                name: len(found) if isinstance(found, h5py.Dataset) and found.ndim else None
                for name, found in actions.items()
            }

    def recording(self, ref: EpisodeRef) -> Recording:
        """Everything that the episode's group says."""
        path = Path(ref.location["source"]) / ref.location["path"]
        with hdf5.open_hdf5(path) as file:
            return self._recording(ref, self.opened(file, path, str(ref.location["demo"])), path)

    def opened(self, file: h5py.File, path: Path, name: str) -> Demo:
        """The episode ``data/NAME`` of an open file."""
        return open_demo(file, path, name, self.scene_file)


def _demos(file: h5py.File) -> list[str]:
    data = file.get("data")
    if not isinstance(data, h5py.Group):
        return []
    names = [n for n in data if re.fullmatch(r"demo_?\d+", n) and isinstance(data.get(n), h5py.Group)]
    return sorted(names, key=natural_key)


def _masked(file: h5py.File, names: list[str], key: str | None, path: Path) -> list[str]:
    """The episodes that ``mask/KEY`` lists, in order; all without a key.

    Raises:
        WrongFormatError: There is no such list.
    """
    if key is None:
        return names
    masks = file.get("mask")
    found = sorted(masks) if isinstance(masks, h5py.Group) else []
    if key not in found:
        raise WrongFormatError(
            "has no such mask", where=path, field="filter_key", expected=" | ".join(found) or "masks", found=key
        )
    listed = {hdf5.text(value) for value in hdf5.dataset(file, f"mask/{key}")[()]}
    return [name for name in names if name in listed]

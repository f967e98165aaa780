"""The contract of converters fails what is wrong, each by its own test, and passes what is right."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from actionimg_data import Camera, Episode, EpisodeRef, GripperTrajectory
from actionimg_data.converters import Converter
from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.geometry import transforms
from actionimg_data.model import ArrayFrames
from actionimg_data.model import Camera as ModelCamera
from actionimg_data.testing import ConverterContract, write_rlbench_dataset

pytestmark = pytest.mark.usefixtures("settled_heap")

EXAMPLE = Path(__file__).parent.parent / "examples" / "14_npz_steps"
NAMES = [name for name in vars(ConverterContract) if name.startswith("test_") and "another_process" not in name]


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


npzsteps = loaded("npzsteps")
write_steps = loaded("test_npzsteps").write_steps
Right: type[Converter] = npzsteps.NpzStepsConverter


class Inverted(Right):  # type: ignore[misc, valid-type]
    """camera_from_world called world_from_camera."""

    def read(self, ref: EpisodeRef) -> Episode:
        return with_poses(super().read(ref), transforms.invert)


class OpenGL(Right):  # type: ignore[misc, valid-type]
    """y up and z backwards."""

    def read(self, ref: EpisodeRef) -> Episode:
        return with_poses(super().read(ref), lambda pose: pose @ np.diag([1.0, -1.0, -1.0, 1.0]))


class Millimetres(Right):  # type: ignore[misc, valid-type]
    """Poses in millimetres; the camera is right."""

    def read(self, ref: EpisodeRef) -> Episode:
        episode = super().read(ref)
        t = episode.trajectory
        moved = GripperTrajectory(t.position * 1000, t.quaternion_xyzw, t.openness, t.times)
        return replaced(episode, trajectory=moved)


class AllMillimetres(Millimetres):
    """Poses and camera in millimetres: the pictures fit."""

    def read(self, ref: EpisodeRef) -> Episode:
        def scaled(pose: np.ndarray) -> np.ndarray:
            return transforms.make_transform(pose[:3, :3], pose[:3, 3] * 1000)

        return with_poses(super().read(ref), scaled)


class Loading(Right):  # type: ignore[misc, valid-type]
    """All pictures are loaded in `read`."""

    def read(self, ref: EpisodeRef) -> Episode:
        episode = super().read(ref)
        view = episode.views["static"]
        pictures = np.stack(list(view.frames.frames(range(len(episode)))))
        return replaced(episode, views={"static": replace(view, frames=ArrayFrames(pictures))})


class _Held:
    """Pictures as bytes, which are no arrays of numpy."""

    def __init__(self, pictures: Sequence[np.ndarray]) -> None:
        self.data = [picture.tobytes() for picture in pictures]
        self.height, self.width = pictures[0].shape[:2]

    def __len__(self) -> int:
        return len(self.data)

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for i in indices:
            yield np.frombuffer(self.data[i], np.uint8).reshape(self.height, self.width, 3)


class LoadingBytes(Right):  # type: ignore[misc, valid-type]
    """The same, and not in arrays."""

    def read(self, ref: EpisodeRef) -> Episode:
        episode = super().read(ref)
        view = episode.views["static"]
        held = _Held(list(view.frames.frames(range(len(episode)))))
        return replaced(episode, views={"static": replace(view, frames=held)})


class Eager(Right):  # type: ignore[misc, valid-type]
    """An iterator of a list is not lazy."""

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        return iter(list(super().discover(source)))


class Constant(Right):  # type: ignore[misc, valid-type]
    """The fingerprint says nothing of the data."""

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        for ref in super().discover(source):
            yield replace(ref, fingerprint="1")


class Milliseconds(Right):  # type: ignore[misc, valid-type]
    """Times in milliseconds, called seconds."""

    def read(self, ref: EpisodeRef) -> Episode:
        episode = super().read(ref)
        t = episode.trajectory
        return replaced(
            episode,
            fps=10_000.0,
            trajectory=GripperTrajectory(t.position, t.quaternion_xyzw, t.openness, t.times / 1000),
        )


def replaced(episode: Episode, **changes: Any) -> Episode:
    values: dict[str, Any] = {
        "views": episode.views,
        "trajectory": episode.trajectory,
        "fps": episode.fps,
        "instructions": episode.instructions,
    } | changes
    return Episode(episode.id, values.pop("views"), values.pop("trajectory"), **values)


def with_poses(episode: Episode, change: Callable[[np.ndarray], np.ndarray]) -> Episode:
    views = {}
    for name, view in episode.views.items():
        camera = view.camera
        assert isinstance(camera, ModelCamera)
        pose = np.asarray(change(camera.world_from_camera))
        views[name] = replace(view, camera=Camera(camera.K, pose, camera.width, camera.height))
    return replaced(episode, views=views)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("steps") / "data"
    write_steps(place, episodes=3, frames=12, size=144)
    return place


def failures(kind: type[Converter], source: Path, tmp_path: Path) -> dict[str, str]:
    """Tests of the contract that a converter fails, and why."""
    contract, found = ConverterContract(), {}
    for number, name in enumerate(NAMES):
        test = getattr(contract, name)
        converter = kind()
        place = tmp_path / str(number)
        place.mkdir()
        fixtures = {
            "converter": converter,
            "source": source,
            "large_source": None,
            "refs": list(islice(converter.discover(str(source)), 50)),
            "tmp_path": place,
        }
        try:
            test(**{wanted: fixtures[wanted] for wanted in inspect.signature(test).parameters})
        except (AssertionError, pytest.fail.Exception) as error:
            found[name] = str(error)
    return found


def test_the_right_converter_fails_nothing(made: Path, tmp_path: Path) -> None:
    assert len(NAMES) >= 16
    assert failures(Right, made, tmp_path) == {}


@pytest.mark.parametrize(
    ("kind", "test", "message"),
    [
        (Inverted, "test_the_gripper_is_in_some_picture", "its pose is the inverse"),
        (OpenGL, "test_the_gripper_is_in_some_picture", "its axes are OpenGL's"),
        (Millimetres, "test_episodes_are_plausible", "length-unit"),
        (AllMillimetres, "test_episodes_are_plausible", "length-unit"),
        (Milliseconds, "test_episodes_are_plausible", "speed"),
        (Loading, "test_reading_an_episode_holds_none_of_its_pictures", "read holds the pictures"),
        (LoadingBytes, "test_reading_an_episode_holds_none_of_its_pictures", "read holds the pictures"),
        (Eager, "test_discover_is_lazy", "made 3 references before the first"),
        (Constant, "test_fingerprints_follow_the_data", "is the same after every file of the source has changed"),
    ],
)
def test_a_wrong_converter_is_caught_with_what_to_do(
    kind: type[Converter], test: str, message: str, made: Path, tmp_path: Path
) -> None:
    found = failures(kind, made, tmp_path)
    assert message in found.pop(test)
    # Nothing else is wrong with it, but what follows from the same fault.
    follows = {"test_the_gripper_is_in_some_picture", "test_episodes_are_plausible"}
    assert set(found) <= (follows if test in follows else set())


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten thousand episodes that are found and never read."""
    place = tmp_path_factory.mktemp("large") / "data"
    place.mkdir()
    told = {"text": [f"do {i}" for i in range(10_000)], "span": [(i, i) for i in range(10_000)]}
    np.save(place / "annotations.npy", told, allow_pickle=True)
    return place


def test_ten_thousand_episodes_are_found_one_by_one(made: Path, large: Path) -> None:
    ConverterContract().test_discover_is_lazy(Right(), made, large)


def test_a_list_of_ten_thousand_is_caught(made: Path, large: Path) -> None:
    with pytest.raises(AssertionError, match=r"made 10000 references before the first"):
        ConverterContract().test_discover_is_lazy(Eager(), large, None)
    few = large.parent / "few"
    few.mkdir()
    np.save(few / "annotations.npy", {"text": ["x"] * 5, "span": [(0, 0)] * 5}, allow_pickle=True)
    with pytest.raises(AssertionError, match="5 episodes only"):
        ConverterContract().test_discover_is_lazy(Right(), made, few)


def test_rlbench_finds_many_one_by_one(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / "lift" / "all_variations" / "episodes" / f"episode{number}").mkdir(parents=True)
    two = write_rlbench_dataset(tmp_path / "two", 2, 4, 48, ("front",), "stepjam")
    ConverterContract().test_discover_is_lazy(RLBenchConverter(), two, tmp_path / "lift")

"""Isaac Lab's recordings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from lab_logs import renamed_cameras, write_isaaclab

from actionimg_data.cli import main
from actionimg_data.converters import base
from actionimg_data.converters.isaaclab import IsaacLabConverter, IsaacLabOptions, published_camera
from actionimg_data.demo.recordings import TeleopLog, make_log
from actionimg_data.errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadImageError,
    FrameCountError,
    InvalidTrajectoryError,
    MissingCalibrationError,
    UnsupportedSourceError,
    WrongFormatError,
)
from actionimg_data.geometry import transforms
from actionimg_data.model import Camera, Episode
from actionimg_data.testing import ConverterContract

VIEWS = {"front": "table_cam", "overhead": "high_cam"}


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return make_log(frames=4, size=48, views=tuple(VIEWS))


@pytest.fixture(scope="module")
def place(log: TeleopLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("isaaclab")
    write_isaaclab([log] * 2, place / "src" / "generated.hdf5", VIEWS)
    (place / "cameras.json").write_text(json.dumps(renamed_cameras(log, VIEWS)))
    return place


@pytest.fixture
def copy(place: Path, tmp_path: Path) -> Path:
    shutil.copytree(place / "src", tmp_path / "src")
    return tmp_path / "src"


def converter(place: Path, **options: Any) -> IsaacLabConverter:
    given = {"camera_file": str(place / "cameras.json"), "instruction": "stack the cubes", **options}
    return IsaacLabConverter(IsaacLabOptions(**given))


def first(found: IsaacLabConverter, source: Path) -> Episode:
    return found.read(next(found.discover(str(source))))


class TestIsaacLabKeepsTheContract(ConverterContract):
    @pytest.fixture
    def converter(self, place: Path) -> IsaacLabConverter:
        return converter(place)

    @pytest.fixture
    def source(self, place: Path) -> Path:
        return place / "src"


@pytest.mark.parametrize("order", ["wxyz", "xyzw"])
def test_the_order_of_quaternions_is_found_out(order: str, log: TeleopLog, place: Path, tmp_path: Path) -> None:
    write_isaaclab([log], tmp_path / "a.hdf5", VIEWS, order=order)
    episode = first(converter(place), tmp_path)
    truth = log.truth()
    np.testing.assert_allclose(episode.trajectory.world_from_gripper, truth.world_from_gripper, atol=1e-6)
    np.testing.assert_allclose(episode.trajectory.openness, truth.openness, atol=1e-6)
    assert (episode.fps, episode.sync) == (20, "assumed")
    assert episode.provenance["quaternion_order"] == order
    other = "xyzw" if order == "wxyz" else "wxyz"
    with pytest.raises(InvalidTrajectoryError, match=f"quaternions are {order}"):
        first(converter(place, quaternion=other), tmp_path)


def test_where_nothing_tells_the_order_it_is_asked_for(place: Path, copy: Path) -> None:
    with h5py.File(copy / "generated.hdf5", "a") as file:
        del file["data/demo_0/initial_state"]
    with pytest.raises(AmbiguousSourceError, match="--quaternion wxyz"):
        first(converter(place), copy)
    assert len(first(converter(place, quaternion="wxyz"), copy)) == 4


def test_it_is_not_taken_for_robomimics_and_said_so(place: Path, tmp_path: Path) -> None:
    assert list(base.detect(str(place / "src"))) == ["isaaclab"]
    words = ["convert", "robomimic", str(place / "src"), str(tmp_path / "out"), "--instruction", "x"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code != 0
    assert "actionimg convert isaaclab" in result.output


def test_the_published_cameras_see_the_hand_over_the_table() -> None:
    table, wrist = (published_camera(name, 84, 84) for name in ("table_cam", "wrist_cam"))
    assert table is not None
    assert table.world_from_camera is not None
    assert wrist is not None
    assert wrist.tool_from_camera is not None
    assert table.K[0, 0] == pytest.approx(96.2, abs=0.1)
    over = transforms.make_transform(np.diag([1.0, -1.0, -1.0]), np.array([0.5, 0.0, 0.15]))
    for pose in (table.world_from_camera, over @ wrist.tool_from_camera):
        uv = Camera(table.K, np.asarray(pose), 84, 84).project(over[None, :3, 3])[0]
        assert (uv > 0).all()
        assert (uv < 84).all()
    assert published_camera("high_cam", 84, 84) is None


def test_published_cameras_are_taken_when_asked_for(log: TeleopLog, tmp_path: Path) -> None:
    names = {"front": "table_cam", "overhead": "wrist_cam"}
    write_isaaclab([log], tmp_path / "a.hdf5", names)
    plain = IsaacLabConverter(IsaacLabOptions(instruction="x"))
    with pytest.raises(MissingCalibrationError, match="--cameras published"):
        first(plain, tmp_path)
    episode = first(IsaacLabConverter(IsaacLabOptions(instruction="x", cameras="published")), tmp_path)
    assert isinstance(episode.views["table_cam"].camera, Camera)
    origin = episode.views["table_cam"].origin
    assert origin is not None
    assert origin.kind == "published"
    assert not isinstance(episode.views["wrist_cam"].camera, Camera)  # it moves with the hand


def test_what_is_known_of_one_robot_is_asked_of_others(log: TeleopLog, place: Path, tmp_path: Path) -> None:
    sim = {"dt": 0.005, "decimation": 8}
    write_isaaclab([log], tmp_path / "a.hdf5", VIEWS, env="Isaac-Lift-Cube-UR10-v0", sim=sim)
    with pytest.raises(AmbiguousSourceError, match="tool_from_gripper"):
        first(converter(place), tmp_path)
    with pytest.raises(AmbiguousSourceError, match="--gripper"):
        first(converter(place, tool_from_gripper="identity"), tmp_path)
    episode = first(converter(place, tool_from_gripper="identity", gripper="0-1 0 0.08"), tmp_path)
    assert episode.fps == pytest.approx(25)
    found = converter(place).inspect(str(tmp_path))
    assert found["to be given"] == ["--tool-from-gripper", "--gripper"]


def fewer_rows(file: h5py.File) -> None:
    values = file["data/demo_0/obs/eef_pos"][1:]
    del file["data/demo_0/obs/eef_pos"]
    file["data/demo_0/obs/eef_pos"] = values


def fewer_pictures(file: h5py.File) -> None:
    values = file["data/demo_0/obs/table_cam"][1:]
    del file["data/demo_0/obs/table_cam"]
    file["data/demo_0/obs/table_cam"] = values


def no_pictures(file: h5py.File) -> None:
    for name in VIEWS.values():
        del file[f"data/demo_0/obs/{name}"]


def one_camera_gone(file: h5py.File) -> None:
    del file["data/demo_0/obs/high_cam"]


def no_gripper(file: h5py.File) -> None:
    del file["data/demo_0/obs/gripper_pos"]


def no_unit(file: h5py.File) -> None:
    file["data/demo_0/obs/eef_quat"][2] = 0.0


@pytest.mark.parametrize(
    ("damage", "kind", "named"),
    [
        (fewer_rows, FrameCountError, "obs/eef_pos"),
        (fewer_pictures, FrameCountError, "obs/table_cam"),
        (no_pictures, UnsupportedSourceError, "holds no pictures"),
        (one_camera_gone, WrongFormatError, "high_cam"),
        (no_gripper, WrongFormatError, "gripper_pos"),
        (no_unit, InvalidTrajectoryError, "eef_quat.*row 2"),
    ],
)
def test_what_is_wrong_is_named_and_the_others_are_read(
    damage: Callable[[h5py.File], None], kind: type[ActionImgError], named: str, place: Path, copy: Path
) -> None:
    with h5py.File(copy / "generated.hdf5", "a") as file:
        damage(file)
    found = converter(place, only_views=tuple(VIEWS.values()))
    wrong, right = found.discover(str(copy))
    with pytest.raises(kind, match=named):
        found.read(wrong)
    assert len(found.read(right)) == 4


def test_damaged_pictures_are_named(place: Path, copy: Path) -> None:
    path = copy / "generated.hdf5"
    with h5py.File(path) as file:
        chunk = file["data/demo_0/obs/table_cam"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + 10 : chunk.byte_offset + 60] = bytes(50)
    path.write_bytes(data)
    episode = first(converter(place), copy)
    with pytest.raises(BadImageError, match="table_cam"):
        list(episode.views["table_cam"].frames.frames([0]))

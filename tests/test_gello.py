"""GELLO's recordings."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_logs import write_gello

from actionimg_data.converters import base
from actionimg_data.converters.gello import GelloConverter, GelloOptions
from actionimg_data.demo.recordings import TeleopLog, camera_file, make_log
from actionimg_data.demo.simulators import joint_log, panda_scene
from actionimg_data.errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadFileError,
    BadImageError,
    InvalidTrajectoryError,
    MissingCalibrationError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
)
from actionimg_data.model import Episode
from actionimg_data.testing import ConverterContract

VIEWS = ("front", "overhead")


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return make_log(frames=5, size=48, views=VIEWS)


@pytest.fixture(scope="module")
def place(log: TeleopLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("gello")
    for name in ("0131_123456", "0131_130000"):
        write_gello(log, place / "src" / "gello" / name)
    (place / "cameras.json").write_text(json.dumps(camera_file(log)))
    return place


@pytest.fixture
def copy(place: Path, tmp_path: Path) -> Path:
    shutil.copytree(place / "src", tmp_path / "src")
    return tmp_path / "src"


def converter(place: Path, log: TeleopLog, **options: Any) -> GelloConverter:
    given = {
        "camera_file": str(place / "cameras.json"),
        "instruction": "stack the cups",
        "gripper": "1 0",
        "quaternion": "xyzw",
        "tool_from_gripper": json.dumps(log.tool_from_gripper),
        **options,
    }
    return GelloConverter(GelloOptions(**given))


def first(found: GelloConverter, source: Path) -> Episode:
    return found.read(next(found.discover(str(source))))


class TestGelloKeepsTheContract(ConverterContract):
    @pytest.fixture
    def converter(self, place: Path, log: TeleopLog) -> GelloConverter:
        return converter(place, log)

    @pytest.fixture
    def source(self, place: Path) -> Path:
        return place / "src"


def test_poses_polarity_and_times_are_those_of_the_steps(log: TeleopLog, place: Path, tmp_path: Path) -> None:
    episode = first(converter(place, log), place / "src")
    truth = log.truth()
    np.testing.assert_allclose(episode.trajectory.world_from_gripper, truth.world_from_gripper, atol=1e-9)
    np.testing.assert_allclose(episode.trajectory.openness, truth.openness, atol=1e-9)
    np.testing.assert_allclose(episode.trajectory.times, truth.times, atol=1e-5)
    assert episode.fps == pytest.approx(20, rel=1e-4)
    assert episode.sync == "measured"
    shown = next(iter(episode.views["overhead"].frames.frames([3])))
    np.testing.assert_array_equal(shown, log.views["overhead"].pictures[3])
    assert list(base.detect(str(place / "src"))) == ["gello"]
    assert (place / "src" / "gello" / "0131_123456" / "2024-01-31T12:34:56.pkl").is_file()  # not the first by its text
    # A Panda's driver: 1 is open. A step on the full second has no fraction in its name.
    write_gello(log, tmp_path / "a", open_value=1.0, start="2024-01-31T12:00:00")
    assert (tmp_path / "a" / "2024-01-31T12:00:00.pkl").is_file()
    panda = first(converter(place, log, gripper="0 1"), tmp_path)
    np.testing.assert_allclose(panda.trajectory.openness, truth.openness, atol=1e-9)
    assert first(converter(place, log, gripper="0 1", fps=10), tmp_path).fps == 10


def test_poses_of_drivers_that_know_none_come_from_the_joints(log: TeleopLog, place: Path, tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    joints, under = joint_log(log)
    (tmp_path / "arm.xml").write_text(panda_scene(under))
    write_gello(log, tmp_path / "src" / "a", joints=joints)
    with pytest.raises(InvalidTrajectoryError, match="--robot FILE --tip NAME"):
        first(converter(place, log), tmp_path / "src")
    given = {"robot": str(tmp_path / "arm.xml"), "tip": "gripper0_grip_site"}
    site = {"tool_from_gripper": "{euler_xyz_deg: [0, 0, 90]}", "quaternion": None}
    episode = first(converter(place, log, **given, **site), tmp_path / "src")
    found, truth = episode.trajectory.world_from_gripper, log.truth().world_from_gripper
    np.testing.assert_allclose(found, truth, atol=1e-5)
    with pytest.raises(AmbiguousSourceError, match="--tip"):
        first(converter(place, log, robot=given["robot"]), tmp_path / "src")


def test_what_the_drivers_disagree_on_is_asked_for(log: TeleopLog, place: Path) -> None:
    for name, flag in (("gripper", "--gripper"), ("quaternion", "--quaternion xyzw"), ("tool_from_gripper", "tool")):
        with pytest.raises(AmbiguousSourceError, match=flag):
            first(converter(place, log, **{name: None}), place / "src")
    with pytest.raises(MissingCalibrationError, match="--camera-file"):
        first(converter(place, log, camera_file=None), place / "src")


def test_quaternions_of_the_other_order_are_noticed(log: TeleopLog, place: Path, tmp_path: Path) -> None:
    write_gello(log, tmp_path / "a", order="wxyz")
    with pytest.raises(AmbiguousSourceError, match="say --quaternion wxyz"):
        first(converter(place, log), tmp_path)
    assert len(first(converter(place, log, quaternion="wxyz"), tmp_path)) == 5
    assert len(first(converter(place, log, quaternion_checked=True), tmp_path)) == 5


def step(source: Path, index: int) -> Path:
    return sorted((source / "gello" / "0131_123456").iterdir(), key=lambda path: path.stem)[index]


def changed(source: Path, index: int, **values: Any) -> None:
    """Write a step again with other values; None takes one out."""
    path = step(source, index)
    told = {**pickle.loads(path.read_bytes()), **values}
    path.write_bytes(pickle.dumps({k: v for k, v in told.items() if v is not None}))


def no_pose(source: Path) -> None:
    changed(source, 2, ee_pos_quat=None)


def two_arms(source: Path) -> None:
    changed(source, 0, ee_pos_quat=np.zeros(14))


def cut(source: Path) -> None:
    step(source, 3).write_bytes(step(source, 3).read_bytes()[:900])


def evil(source: Path) -> None:
    step(source, 3).write_bytes(b"\x80\x02cos\nsystem\n(S'true'\ntR.")


def no_dict(source: Path) -> None:
    step(source, 1).write_bytes(pickle.dumps([1]))


def far_gripper(source: Path) -> None:
    changed(source, 1, gripper_position=np.array(85.0))


def no_camera(source: Path) -> None:
    for i in range(5):
        changed(source, i, overhead_rgb=None)


@pytest.mark.parametrize(
    ("damage", "kind", "named"),
    [
        (no_pose, WrongFormatError, "ee_pos_quat"),
        (two_arms, UnsupportedSourceError, "two arms"),
        (cut, BadFileError, r"\.pkl"),
        (evil, UnsafeFileError, r"\.pkl"),
        (no_dict, BadFileError, "dict of observations"),
        (far_gripper, InvalidTrajectoryError, "gripper_position"),
        (no_camera, WrongFormatError, "overhead"),
    ],
)
def test_what_is_wrong_is_named_and_the_others_are_read(
    damage: Callable[[Path], None], kind: type[ActionImgError], named: str, log: TeleopLog, place: Path, copy: Path
) -> None:
    damage(copy)
    found = converter(place, log, only_views=VIEWS)
    wrong, right = found.discover(str(copy))
    with pytest.raises(kind, match=named):
        found.read(wrong)
    assert len(found.read(right)) == 5


def test_a_step_without_its_picture_is_named(log: TeleopLog, place: Path, copy: Path) -> None:
    changed(copy, 2, front_rgb=None)
    changed(copy, 3, front_rgb=np.zeros((48, 40, 3), np.uint8))
    frames = first(converter(place, log), copy).views["front"].frames
    for index in (2, 3):
        with pytest.raises(BadImageError, match="front_rgb"):
            list(frames.frames([index]))


def test_a_gap_between_steps_is_refused(log: TeleopLog, place: Path, copy: Path) -> None:
    step(copy, 3).rename(step(copy, 3).with_name("2024-01-31T12:35:10.pkl"))
    step(copy, 3).rename(step(copy, 3).with_name("2024-01-31T12:35:11.pkl"))
    with pytest.raises(ActionImgError):
        first(converter(place, log), copy)

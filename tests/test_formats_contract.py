from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actionimg_data.converters.base import Converter, converter_class
from actionimg_data.converters.droid import DroidConverter, DroidOptions
from actionimg_data.converters.folder import FolderConverter, FolderOptions
from actionimg_data.converters.lerobot import LeRobotConverter, LeRobotOptions
from actionimg_data.converters.rosbag import RosbagConverter, RosbagOptions
from actionimg_data.demo.recordings import (
    TeleopLog,
    camera_file,
    droid_camera_file,
    make_log,
    write_droid,
    write_folder,
    write_lerobot,
    write_yaml,
)
from actionimg_data.testing import ConverterContract

pytestmark = pytest.mark.usefixtures("settled_heap")


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return make_log(frames=4, size=48, views=("front", "overhead"))


@pytest.fixture(scope="module")
def folder_place(log: TeleopLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("folder")
    for name in ("run2", "run10"):
        write_yaml(place / "m.yaml", write_folder(log, place / "src" / name))
    return place


@pytest.fixture(scope="module")
def droid_place(log: TeleopLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("droid")
    for outcome in ("success", "failure"):
        write_droid(log, place / "src", roles=("exterior_1", "wrist"), outcome=outcome)
    (place / "cameras.json").write_text(json.dumps(droid_camera_file(log, ("exterior_1", "wrist"))))
    return place


@pytest.fixture(scope="module")
def lerobot_place(log: TeleopLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("lerobot")
    write_yaml(place / "m.yaml", write_lerobot([log, log], place / "src", "v3.0", codec="libx264"))
    (place / "cameras.json").write_text(json.dumps(camera_file(log)))
    return place


@pytest.fixture(scope="module")
def rosbag_place(log: TeleopLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("rosbags")
    from actionimg_data.demo.recordings import write_rosbag

    place = tmp_path_factory.mktemp("rosbag")
    for name in ("run2", "run10"):
        write_yaml(place / "m.yaml", write_rosbag(log, place / "src" / name))
    return place


class TestFolderKeepsTheContract(ConverterContract):
    @pytest.fixture
    def converter(self, folder_place: Path) -> Converter:
        return FolderConverter(FolderOptions(mapping=str(folder_place / "m.yaml")))

    @pytest.fixture
    def source(self, folder_place: Path) -> Path:
        return folder_place / "src"


class TestDroidKeepsTheContract(ConverterContract):
    @pytest.fixture
    def converter(self, log: TeleopLog, droid_place: Path) -> Converter:
        options: dict[str, Any] = {
            "tool_from_gripper": json.dumps(log.tool_from_gripper),
            "camera_file": str(droid_place / "cameras.json"),
            "only_views": ("exterior_1", "wrist"),
            "outcome": "all",
        }
        return DroidConverter(DroidOptions(**options))

    @pytest.fixture
    def source(self, droid_place: Path) -> Path:
        return droid_place / "src"


class TestLeRobotKeepsTheContract(ConverterContract):
    @pytest.fixture
    def converter(self, lerobot_place: Path) -> Converter:
        return LeRobotConverter(LeRobotOptions(mapping=str(lerobot_place / "m.yaml")))

    @pytest.fixture
    def source(self, lerobot_place: Path) -> Path:
        return lerobot_place / "src"


class TestRosbagKeepsTheContract(ConverterContract):
    @pytest.fixture
    def converter(self, rosbag_place: Path) -> Converter:
        return RosbagConverter(RosbagOptions(mapping=str(rosbag_place / "m.yaml")))

    @pytest.fixture
    def source(self, rosbag_place: Path) -> Path:
        return rosbag_place / "src"


@pytest.fixture(scope="module")
def simulator_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One source of each kind of simulators' and joint logs, with what their options name."""
    for package in ("mujoco", "zarr", "imagecodecs"):
        pytest.importorskip(package)
    from actionimg_data.demo import simulators

    seen = make_log(frames=4, size=48, views=("front", "wrist"))
    place = tmp_path_factory.mktemp("simulators")
    simulators.write_robomimic([seen, seen], place / "robomimic" / "a.hdf5")
    simulators.write_libero([seen, seen], place / "libero" / "a_demo.hdf5")
    (place / "umi.json").write_text(
        json.dumps(simulators.write_umi([seen, seen], place / "umi" / "a.zarr.zip", "wrist"))
    )
    joints, base = simulators.joint_log(seen)
    (place / "arm.xml").write_text(simulators.panda_scene(base))
    (place / "cameras.json").write_text(json.dumps(camera_file(seen)))
    for i in (2, 10):
        simulators.write_aloha(seen, place / "aloha" / f"episode_{i}.hdf5", [joints], jpeg=i == 2)
    return place


class _SimulatorContract(ConverterContract):
    name: str

    def options(self, place: Path) -> dict[str, Any]:
        return {}

    @pytest.fixture
    def converter(self, simulator_place: Path) -> Converter:
        kind = converter_class(self.name)
        return kind(kind.Options(instruction="lift it", fps=20, **self.options(simulator_place)))

    @pytest.fixture
    def source(self, simulator_place: Path) -> Path:
        return simulator_place / self.name


class TestRobomimicKeepsTheContract(_SimulatorContract):
    name = "robomimic"


class TestLiberoKeepsTheContract(_SimulatorContract):
    name = "libero"


class TestUmiKeepsTheContract(_SimulatorContract):
    name = "umi"

    def options(self, place: Path) -> dict[str, Any]:
        return {"gripper": "0 0.08", "camera_file": str(place / "umi.json")}


class TestAlohaKeepsTheContract(_SimulatorContract):
    name = "aloha"

    def options(self, place: Path) -> dict[str, Any]:
        return {
            "arms": ("arm",),
            "robot": (str(place / "arm.xml"),),
            "tip": ("gripper0_grip_site",),
            "tool_from_gripper": "{euler_xyz_deg: [0, 0, 90]}",
            "camera_file": str(place / "cameras.json"),
        }

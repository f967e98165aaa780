"""RoboTwin, ManiSkill, AgiBot World, RH20T: what was recorded comes back, what is damaged is named."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arm_lab_logs
import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from actionimg_data import engine
from actionimg_data.converters import SourceReader, base
from actionimg_data.converters.base import Converter, converter_class
from actionimg_data.demo import recordings
from actionimg_data.demo.recordings import TeleopLog, select_frames
from actionimg_data.errors import AmbiguousSourceError, InvalidTextError, WrongFormatError
from actionimg_data.model import CameraTrack, Episode, GripperTrajectory
from actionimg_data.schemas import ConvertOptions
from actionimg_data.testing import ConverterContract

pytestmark = pytest.mark.usefixtures("settled_heap")


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return arm_lab_logs.small_log()


GIVEN: dict[str, dict[str, Any]] = {
    "robotwin": {"fps": 20, "embodiment": "piper"},
    "maniskill": {"fps": 20, "instruction": "lift it"},
    "agibot": {"opening": "y"},
    "rh20t": {"tool_from_gripper": arm_lab_logs.RH20T_TOOL},
}


@pytest.fixture(scope="module")
def two_views() -> TeleopLog:
    """Cameras that stand still; with margins the pictures are 16:9."""
    return arm_lab_logs.small_log(6, 54, views=("front", "overhead"))


def make(name: str, **options: Any) -> Converter:
    kind = converter_class(name)
    return kind(kind.Options(**{**GIVEN[name], **options}))


def read_all(made: Converter, source: Path) -> list[Episode]:
    return [made.read(ref) for ref in made.discover(str(source))]


def apart(found: GripperTrajectory, truth: GripperTrajectory) -> tuple[float, float, float]:
    """Largest difference in millimetres, degrees, and openness."""
    turn = np.swapaxes(truth.rotation, 1, 2) @ found.rotation
    degrees = np.degrees(np.linalg.norm(Rotation.from_matrix(turn).as_rotvec(), axis=1))
    return (
        float(np.abs(found.position - truth.position).max()) * 1e3,
        float(degrees.max()),
        float(np.abs(found.openness - truth.openness).max()),
    )


def shortened(log: TeleopLog, count: int) -> TeleopLog:
    return select_frames(log, np.arange(count))


def quarantined(made: Converter, source: Path, dest: Path) -> dict[str, tuple[str, str]]:
    """Convert, and give of each episode that was refused its code and message; the others have to be there."""
    options = ConvertOptions.parse(height=48, width=48, action_codec="none")
    engine.convert(made, str(source), dest, options, max_bad_fraction=1.0)
    lines = [json.loads(line) for line in (dest / "quarantine.jsonl").read_text().splitlines()]
    return {line["id"]: (line["code"], line["message"]) for line in lines}


# Everything of one kind: recognised by its own converter alone, refused by the others by name.


@pytest.fixture(scope="module")
def sources(log: TeleopLog, two_views: TeleopLog, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A source of two episodes of each format."""
    place = tmp_path_factory.mktemp("labs")
    robotwin = place / "lift" / "piper_clean_50"
    for i in (2, 10):
        arm_lab_logs.write_robotwin(log, robotwin / "data" / f"episode{i}.hdf5")
    arm_lab_logs.write_maniskill([log, log], place / "maniskill" / "trajectory.h5")
    arm_lab_logs.write_agibot([log, log], place / "agibot")
    arm_lab_logs.write_rh20t([two_views, two_views], place / "rh20t")
    return {name: place / name for name in ("maniskill", "agibot", "rh20t")} | {"robotwin": robotwin}


def test_every_format_is_recognised_by_its_own_converter_and_refused_by_name_elsewhere(sources: Any) -> None:
    for name, source in sources.items():
        special = {n for n, found in base.detect(str(source)).items() if not found.general}
        assert special == {name}
        for other in sources:
            if other != name:
                with pytest.raises(WrongFormatError, match=rf"looks like.*actionimg convert {name}"):
                    next(SourceReader(make(other)).discover(str(source)))


def test_older_and_newer_relatives_are_refused_by_name(log: TeleopLog, tmp_path: Path) -> None:
    older = arm_lab_logs.write_maniskill([log], tmp_path / "ms2.h5")
    edit_hdf5(older, put("traj_0/env_states", np.zeros((6, 30))))
    newer = arm_lab_logs.write_robotwin(log, tmp_path / "data" / "episode0.hdf5", "v1.0")
    edit_hdf5(newer, put("data_format_version", "v2.0"))
    other = arm_lab_logs.write_robotwin(log, tmp_path / "data" / "episode1.hdf5", "v1.0")
    edit_hdf5(other, lambda file: file.attrs.update(source_format="RealArm"))
    for name, path, why in (
        ("maniskill", older, "which is of ManiSkill 2"),
        ("robotwin", newer, "layout v2.0, by RoboTwin"),
        ("robotwin", other, "layout v1.0, by RealArm"),
    ):
        assert name not in base.detect(str(path))
        with pytest.raises(WrongFormatError, match=why):
            list(make(name).discover(str(path)))


class _Contract(ConverterContract):
    name: str

    @pytest.fixture
    def converter(self) -> Converter:
        return make(self.name)

    @pytest.fixture
    def source(self, sources: dict[str, Path]) -> Path:
        return sources[self.name]


class TestRoboTwinKeepsTheContract(_Contract):
    name = "robotwin"


class TestManiSkillKeepsTheContract(_Contract):
    name = "maniskill"


class TestAgiBotKeepsTheContract(_Contract):
    name = "agibot"


class TestRH20TKeepsTheContract(_Contract):
    name = "rh20t"


# RoboTwin.


@pytest.mark.parametrize("layout", ["legacy", "v1.0"])
def test_both_layouts_of_robotwin_come_back(log: TeleopLog, tmp_path: Path, layout: Any) -> None:
    shape = log.views["front"].pictures.shape[:3]
    depth = {name: np.full(shape, 1234.4) for name in log.views}
    path = arm_lab_logs.write_robotwin(log, tmp_path / "lift" / "clean" / "data" / "episode0.hdf5", layout, depth)
    (episode,) = read_all(make("robotwin", fps=None if layout == "v1.0" else 20), path)
    seen = shortened(log, len(episode))
    assert len(episode) == (6 if layout == "legacy" else 5)
    for arm, motion in (("left", seen), ("right", arm_lab_logs.beside(seen))):
        position, degrees, opened = apart(episode.grippers[arm], motion.truth())
        assert position < 1e-3
        assert degrees < 1e-3
        assert opened < 1e-6
    assert set(episode.views) == {"head_camera", "left_camera"}
    assert isinstance(episode.views["left_camera"].camera, CameraTrack)
    for name, stored in (("head_camera", "front"), ("left_camera", "wrist")):
        view = episode.views[name]
        assert view.camera is not None
        assert np.allclose(view.camera.world_from_camera, seen.views[stored].world_from_camera, atol=1e-5)
        shown = np.stack(list(view.frames.frames(range(len(episode)))))
        assert np.abs(shown.astype(int) - seen.views[stored].pictures).mean() < 5
        assert view.depth is not None
        assert (next(iter(view.depth.frames([0]))) == 1234).all()
    assert episode.task == "lift"
    assert episode.instructions[0] == log.instruction


def test_what_robotwin_does_not_say_is_asked(log: TeleopLog, tmp_path: Path) -> None:
    path = arm_lab_logs.write_robotwin(log, tmp_path / "x" / "y" / "data" / "episode0.hdf5")
    assert make("robotwin", fps=None, embodiment=None).inspect(str(path))["to be given"] == ["--fps", "--embodiment"]
    with pytest.raises(AmbiguousSourceError, match=r"embodiment: along which axis.*aloha-agilex \| ARX-X5"):
        read_all(make("robotwin", embodiment=None), path)
    told = "0 0 1 0.12  0 1 0 0  -1 0 0 0  0 0 0 1"
    (own,) = read_all(make("robotwin", embodiment=None, tool_from_gripper=told), path)
    assert apart(own.grippers["left"], log.truth())[0] < 1e-3
    (near,) = read_all(make("robotwin", centre_m=0.14), path)
    assert np.allclose(np.linalg.norm(near.grippers["left"].position - log.truth().position, axis=1), 0.02)
    for chosen, first in (("unseen", "up with the red thing"), ("all", log.instruction)):
        assert read_all(make("robotwin", instruction_set=chosen), path)[0].instruction == first
    (path.parents[1] / "instructions" / "episode0.json").write_text('{"seen": "lift"}')
    with pytest.raises(WrongFormatError, match="holds no such instructions"):
        read_all(make("robotwin"), path)
    (path.parents[1] / "instructions" / "episode0.json").unlink()
    with pytest.raises(InvalidTextError, match="--instruction"):
        read_all(make("robotwin"), path)


def edit_hdf5(path: Path, change: Callable[[h5py.File], Any]) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def cut_rows(name: str, row: int = 2) -> Callable[[h5py.File], None]:
    """Leave out a row in the middle."""

    def change(file: h5py.File) -> None:
        values = np.delete(file[name][()], row, axis=0)
        del file[name]
        file[name] = values

    return change


def put(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = value

    return change


def damage_jpeg(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        rows = file[name][()]
        rows[3] = rows[3][: len(rows[3]) // 2]
        del file[name]
        file[name] = rows

    return change


def check_damage(made: Converter, source: Path, dest: Path, expected: dict[str, tuple[str, str]], others: int) -> None:
    """Each damaged episode is refused under its code, by a message that names what is wrong; the others are made."""
    found = quarantined(made, source, dest)
    assert set(found) == set(expected)
    for episode, (code, pattern) in expected.items():
        assert found[episode][0] == code, (episode, found[episode])
        assert re.search(pattern, found[episode][1]), (episode, found[episode][1])
    manifest = json.loads((dest / "dataset.json").read_text())
    assert manifest["counts"]["samples"] == others


def test_damaged_episodes_of_robotwin_are_named_and_the_others_converted(log: TeleopLog, tmp_path: Path) -> None:
    data = tmp_path / "src" / "piper_clean" / "data"
    small = (log.views["front"].world_from_camera @ arm_lab_logs.OPENGL)[None]
    damages: dict[str, tuple[Callable[[h5py.File], Any], str, str]] = {
        "cut": (
            cut_rows("observation/head_camera/rgb"),
            "frame-count-mismatch",
            r"head_camera/rgb.*expected 6, as poses, found 5",
        ),
        "camera": (lambda f: f.pop("observation/head_camera"), "wrong-format", "no such view.*found head_camera"),
        "jpeg": (damage_jpeg("observation/head_camera/rgb"), "bad-image", r"head_camera/rgb\[3\].*truncated"),
        "pose": (put("endpose/left_endpose", np.zeros((6, 7))), "invalid-trajectory", "not a unit quaternion"),
        "grip": (put("endpose/right_gripper", np.full(6, 255.0)), "invalid-trajectory", "0 .closed. … 1 .open."),
        "fewcams": (put("observation/head_camera/extrinsic_cv", small[:, :3]), "frame-count-mismatch", "extrinsic_cv"),
        "zoom": (
            put("observation/head_camera/intrinsic_cv", log.views["front"].K * (1 + np.arange(6)[:, None, None] / 9)),
            "invalid-camera",
            "intrinsic_cv: changes its focal length",
        ),
    }
    names = {name: f"episode{i}" for i, name in enumerate(damages)}
    for name, (change, _, _) in damages.items():
        edit_hdf5(arm_lab_logs.write_robotwin(log, data / f"{names[name]}.hdf5"), change)
    arm_lab_logs.write_robotwin(log, data / "episode20.hdf5")
    arm_lab_logs.write_robotwin(log, data / "episode21.hdf5", order="xyzw")
    (data / "episode22.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    expected = {f"piper_clean/data/{names[n]}": (code, pattern) for n, (_, code, pattern) in damages.items()}
    expected["piper_clean/data/episode21"] = ("ambiguous-source", r"quaternions really wxyz.*--quaternion-order xyzw")
    expected["piper_clean/data/episode22"] = ("bad-file", "not a readable HDF5 file")
    check_damage(
        make("robotwin", only_views=("head_camera", "left_camera")), tmp_path / "src", tmp_path / "out", expected, 1
    )
    (swapped,) = read_all(make("robotwin", quaternion_order="xyzw"), data / "episode21.hdf5")
    assert apart(swapped.grippers["left"], log.truth())[1] < 1e-3


# ManiSkill.


def test_maniskill_comes_back_with_depth_and_a_moving_camera(log: TeleopLog, tmp_path: Path) -> None:
    shape = log.views["front"].pictures.shape[:3]
    depth = {name: np.full((*shape, 1), 777, np.int16) for name in log.views}
    path = arm_lab_logs.write_maniskill([log] * 11, tmp_path / "t.h5", "panda_wristcam", depth)
    made = make("maniskill")
    refs = list(made.discover(str(path)))
    assert [ref.id for ref in refs] == [f"t/traj_{i}" for i in range(11)]
    episode = made.read(refs[-1])
    position, degrees, opened = apart(episode.trajectory, log.truth())
    assert position < 1e-4
    assert degrees < 1e-4
    assert opened < 1e-6
    assert len(episode) == 6
    for name, stored in (("front_camera", "front"), ("hand_camera", "wrist")):
        view = episode.views[name]
        assert view.camera is not None
        assert np.allclose(view.camera.world_from_camera, log.views[stored].world_from_camera, atol=1e-5)
        assert np.array_equal(next(iter(view.frames.frames([4]))), log.views[stored].pictures[4])
        assert view.depth is not None
        assert (next(iter(view.depth.frames([5]))) == 777).all()
    assert (episode.task, episode.provenance["success"]) == ("PickCube-v1", True)


def test_two_robots_and_other_robots_of_maniskill(log: TeleopLog, tmp_path: Path) -> None:
    (both,) = read_all(make("maniskill"), arm_lab_logs.write_maniskill([log], tmp_path / "a" / "t.h5", two_arms=True))
    for arm, motion in (("left", log), ("right", arm_lab_logs.beside(log))):
        found = apart(both.grippers[arm], motion.truth())
        assert found[0] < 1e-4
        assert found[2] < 1e-6
    path = arm_lab_logs.write_maniskill([log], tmp_path / "b" / "t.h5", "xarm6_robotiq")
    asked = make("maniskill", fps=None, instruction=None).inspect(str(path))
    assert asked["robots"] == ["xarm6_robotiq"]
    assert asked["to be given"] == ["--fps", "--instruction", "--tool-from-gripper", "--gripper"]
    with pytest.raises(AmbiguousSourceError, match="known of a Panda, not of xarm6_robotiq"):
        read_all(make("maniskill"), path)
    (own,) = read_all(make("maniskill", tool_from_gripper="identity", gripper="7 0 0.04"), path)
    assert apart(own.trajectory, log.truth())[2] < 1e-6
    texts = tmp_path / "texts.yaml"
    texts.write_text("PickCube-v1: pick it up\n")
    told = make(
        "maniskill", instruction=None, env_instructions=str(texts), tool_from_gripper="identity", gripper="7 0 0.04"
    )
    assert read_all(told, path)[0].instruction == "pick it up"
    texts.write_text("StackCube-v1: stack it\n")
    with pytest.raises(InvalidTextError, match=r"texts.yaml: PickCube-v1: has no instruction of this task"):
        read_all(told, path)


def test_damaged_episodes_of_maniskill_are_named_and_the_others_converted(log: TeleopLog, tmp_path: Path) -> None:
    damages: list[tuple[Callable[[h5py.File], Any], str, str]] = [
        (
            cut_rows("traj_0/obs/sensor_data/front_camera/rgb"),
            "frame-count-mismatch",
            "front_camera/rgb.*expected 6, as actions",
        ),
        (cut_rows("traj_0/obs/extra/tcp_pose"), "frame-count-mismatch", "extra/tcp_pose"),
        (lambda f: f.pop("traj_0/obs/extra/tcp_pose"), "wrong-format", "tcp_pose.*found goal_pos"),
        (lambda f: f.pop("traj_0/obs/sensor_param/front_camera"), "wrong-format", "no parameters of this camera"),
        (lambda f: f.pop("traj_0/obs/sensor_data"), "unsupported-source", "replay_trajectory --traj-path e4.h5"),
        (put("traj_0/obs", np.zeros((6, 42))), "unsupported-source", "found a table of the state"),
        (lambda f: f["traj_0/obs/agent/qpos"].write_direct(np.full((6, 9), 0.3, "f4")), "invalid-trajectory", "qpos"),
    ]
    expected = {}
    for i, (change, code, pattern) in enumerate(damages):
        edit_hdf5(arm_lab_logs.write_maniskill([log], tmp_path / "src" / f"e{i}.h5"), change)
        expected[f"e{i}/traj_0"] = code, pattern
    arm_lab_logs.write_maniskill([log, log], tmp_path / "src" / "good.h5")
    arm_lab_logs.write_maniskill([log], tmp_path / "src" / "order.h5", order="xyzw")
    expected["order/traj_0"] = "ambiguous-source", "quaternions really wxyz"
    check_damage(make("maniskill"), tmp_path / "src", tmp_path / "out", expected, 2)


def test_only_successes_of_maniskill_on_request(log: TeleopLog, tmp_path: Path) -> None:
    path = arm_lab_logs.write_maniskill([log, log], tmp_path / "t.h5")
    edit_hdf5(path, put("traj_0/success", np.zeros(5, bool)))
    made = make("maniskill", outcome="success")
    assert [ref.id for ref in made.discover(str(path))] == ["t/traj_1"]
    assert base.detect(str(path))["maniskill"].details == "t.h5: 2 episodes"


# AgiBot World.


def test_agibot_comes_back_with_both_arms_and_the_texts_of_its_parts(tmp_path: Path) -> None:
    log = arm_lab_logs.small_log(6, 64)  # the AV1 encoder makes no smaller pictures
    for opening, codec in (("y", "libx265"), ("x", "libsvtav1")):
        root = arm_lab_logs.write_agibot([log], tmp_path / opening, opening=opening, codec=codec)
        (episode,) = read_all(make("agibot", opening=opening, text="actions"), root)
        for arm, motion in (("left", log), ("right", arm_lab_logs.beside(log))):
            position, degrees, opened = apart(episode.grippers[arm], motion.truth())
            assert position < 1e-6
            assert degrees < 1e-6
            assert opened < 1e-6
        assert [(s.start, s.end, s.text) for s in episode.spans] == [(0, 3, "reach for the cube"), (3, 6, "lift it")]
        assert (episode.fps, episode.sync) == (20, "measured")
    for name, stored in (("head", "front"), ("hand_left", "wrist")):
        camera = episode.views[name].camera
        assert camera is not None
        assert camera.pixel_centre == 0
        assert np.allclose(camera.world_from_camera, log.views[stored].world_from_camera)
        assert np.allclose(camera.K, log.views[stored].K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]))
    (plain,) = read_all(make("agibot", opening="x"), root)
    assert (plain.instruction, plain.spans) == (log.instruction, ())
    assert make("agibot", opening=None).inspect(str(root))["to be given"] == ["--opening"]
    with pytest.raises(AmbiguousSourceError, match="--opening x or y"):
        read_all(make("agibot", opening=None), root)


def test_a_lens_of_agibot_is_undistorted(log: TeleopLog, tmp_path: Path) -> None:
    root = arm_lab_logs.write_agibot([log], tmp_path / "src")
    path = next(root.rglob("head_intrinsic_params.json"))
    told = json.loads(path.read_text())
    told["intrinsic"] |= {"k1": -0.1, "k3": 0.01}
    path.write_text(json.dumps(told))
    (episode,) = read_all(make("agibot"), root)
    (straight,) = read_all(make("agibot", only_views=("hand_left",)), root)
    head, hand = episode.views["head"].camera, straight.views["hand_left"].camera
    assert head is not None
    assert hand is not None
    assert head.K.reshape(-1, 9)[0][0] != pytest.approx(told["intrinsic"]["fx"])
    assert hand.K.reshape(-1, 9)[0][0] == pytest.approx(log.views["wrist"].K[0, 0])


def test_damaged_episodes_of_agibot_are_named_and_the_others_converted(log: TeleopLog, tmp_path: Path) -> None:
    def shorter(path: Path) -> None:
        recordings.write_video(path, log.views["front"].pictures[:5], 30)

    def fewer(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text())[:2] + json.loads(path.read_text())[3:]))

    def smaller(path: Path) -> None:
        told = json.loads(path.read_text())
        told["intrinsic"]["ppx"] = 320.0
        path.write_text(json.dumps(told))

    def fingers(path: Path) -> None:
        edit_hdf5(path, put("state/effector/position", np.zeros((6, 12))))

    def simulated(path: Path) -> None:
        edit_hdf5(path, put("state/joint/position", np.zeros((6, 34))))

    damages: list[tuple[str, Callable[[Path], Any], str, str]] = [
        ("head_color.mp4", Path.unlink, "wrong-format", "no such view.*found head"),
        ("head_color.mp4", shorter, "frame-count-mismatch", r"head_color.mp4.*expected 6 pictures, .*found 5"),
        ("head_color.mp4", lambda p: p.write_bytes(p.read_bytes()[:300]), "bad-video", "head_color.mp4"),
        ("head_extrinsic_params_aligned.json", Path.unlink, "missing-calibration", "head_extrinsic_params_aligned"),
        ("hand_left_extrinsic_params_aligned.json", fewer, "frame-count-mismatch", "another number of poses"),
        ("head_intrinsic_params.json", smaller, "invalid-camera", "pictures of another size"),
        ("head_intrinsic_params.json", lambda p: p.write_text('{"intrinsic": []}'), "bad-file", "is not a camera"),
        ("proprio_stats.h5", lambda p: edit_hdf5(p, cut_rows("state/end/orientation")), "frame-count-mismatch", "5"),
        ("proprio_stats.h5", fingers, "unsupported-source", "dexterous hands"),
        ("proprio_stats.h5", simulated, "unsupported-source", "AgiBot Digital World"),
    ]
    root = tmp_path / "src"
    expected = {}
    for i, (name, change, code, pattern) in enumerate(damages):
        change(next(arm_lab_logs.write_agibot([log], tmp_path / str(i), task=str(300 + i)).rglob(name)))
        for part in (tmp_path / str(i)).iterdir():
            shutil.copytree(part, root / part.name, dirs_exist_ok=True)
        expected[f"{300 + i}/648642"] = code, pattern
    arm_lab_logs.write_agibot([log], root, task="400")
    arm_lab_logs.write_agibot([log], root, task="401", order="wxyz")
    expected["401/648642"] = "ambiguous-source", "quaternions really xyzw.*hand_left.*--quaternion-order wxyz"
    made = make("agibot", only_views=("head", "hand_left"))
    check_damage(made, root, tmp_path / "out", expected, 1)


# RH20T.


@pytest.mark.parametrize("setup", [1, 4, 5, 6])
def test_rh20t_comes_back_whatever_the_robot(two_views: TeleopLog, tmp_path: Path, setup: int) -> None:
    root = arm_lab_logs.write_rh20t([two_views], tmp_path / "src", turned=40, setup=setup, hand=True)
    (episode,) = read_all(make("rh20t", gripper="0 95"), root)
    position, degrees, opened = apart(episode.trajectory, two_views.truth())
    assert position < 1e-6
    assert degrees < 1e-6
    assert opened < 1e-6
    serial, camera_from_tcp, align_tcp, align_base = arm_lab_logs.rh20t_setup(setup)
    aligned = episode.trajectory.world_from_gripper @ np.linalg.inv(arm_lab_logs.RH20T_TCP_FROM_GRIPPER)
    raw = align_base @ aligned @ np.linalg.inv(align_tcp)
    wanted = {
        "cam_038022061000": two_views.views["front"].world_from_camera,
        "cam_038022061001": two_views.views["overhead"].world_from_camera,
        f"cam_{serial}": np.linalg.inv(align_base) @ raw @ np.linalg.inv(camera_from_tcp),
    }
    assert set(episode.views) == set(wanted)
    for name, pose in wanted.items():
        camera = episode.views[name].camera
        assert camera is not None
        assert np.allclose(camera.world_from_camera, pose, atol=1e-9), name
    first = episode.views["cam_038022061000"]
    assert first.camera is not None
    assert (first.frames.width, first.frames.height) == (96, 54)
    assert np.allclose(first.camera.K[0, 0], two_views.views["front"].K[0, 0])
    assert episode.sync == "measured"
    assert episode.provenance["sync"]["view_residual_ms"]["cam_038022061001"]["max"] == 4


def test_what_rh20t_does_not_say_is_asked(two_views: TeleopLog, tmp_path: Path) -> None:
    root = arm_lab_logs.write_rh20t([two_views], tmp_path / "src", setup=5)
    asked = make("rh20t", tool_from_gripper=None).inspect(str(root))
    assert asked["to be given"] == ["--tool-from-gripper", "--gripper"]
    assert (asked["robot"], asked["calib_quality"]) == ("franka", 4)
    with pytest.raises(AmbiguousSourceError, match="--gripper 'CLOSED OPEN'"):
        read_all(make("rh20t"), root)
    with pytest.raises(AmbiguousSourceError, match="--tool-from-gripper"):
        read_all(make("rh20t", tool_from_gripper=None), root)
    (root / "task_description.json").rename(tmp_path / "told.json")
    with pytest.raises(InvalidTextError, match="--instruction"):
        read_all(make("rh20t", gripper="0 95"), root)
    (told,) = read_all(make("rh20t", gripper="0 95", task_descriptions=str(tmp_path / "told.json")), root)
    assert told.instruction == two_views.instruction


def test_damaged_scenes_of_rh20t_are_named_and_the_others_converted(two_views: TeleopLog, tmp_path: Path) -> None:
    def shorter(path: Path) -> None:
        stamps = np.load(path, allow_pickle=True).item()
        np.save(path, {"color": stamps["color"][:-1]}, allow_pickle=True)

    def backwards(path: Path) -> None:
        stamps = np.load(path, allow_pickle=True).item()
        np.save(path, {"color": stamps["color"][::-1]}, allow_pickle=True)

    class Runs:
        def __reduce__(self) -> Any:
            return (os.system, ("true",))

    def code(path: Path) -> None:
        np.save(path, {"1": Runs()}, allow_pickle=True)

    def lost(path: Path) -> None:
        path.write_text('{"calib": -1}')

    def stolen(path: Path) -> None:
        path.write_text('{"calib": 1632}')

    damages: list[tuple[str, Callable[[Path], Any], str, str]] = [
        ("color.mp4", Path.unlink, "wrong-format", "no such view"),
        ("timestamps.npy", Path.unlink, "missing-frame", "timestamps.npy"),
        ("timestamps.npy", shorter, "frame-count-mismatch", r"color.mp4.*expected 5, as timestamps.npy, found 6"),
        ("timestamps.npy", backwards, "invalid-trajectory", "stamps go backwards"),
        ("tcp_base.npy", code, "unsafe-file", "tcp_base.npy"),
        ("tcp_base.npy", lambda p: np.save(p, np.zeros(3)), "wrong-format", "is not a dictionary"),
        ("gripper.npy", Path.unlink, "source-not-found", "gripper.npy"),
        ("metadata.json", lost, "missing-calibration", "calibration is missing.*found -1"),
        ("metadata.json", stolen, "missing-calibration", "calib/1632"),
    ]
    root = arm_lab_logs.write_rh20t([two_views] * (len(damages) + 1), tmp_path / "src")
    expected = {}
    for i, (name, change, code_, pattern) in enumerate(damages):
        scene = root / f"task_0001_user_0001_scene_{i + 1:04d}_cfg_0001"
        change(sorted(scene.rglob(name))[0])
        expected[scene.name] = code_, pattern
    made = make("rh20t", only_views=("cam_038022061000", "cam_038022061001"))
    check_damage(made, root, tmp_path / "out", expected, 1)
    other = arm_lab_logs.write_rh20t([two_views], tmp_path / "other", order="xyzw")
    with pytest.raises(AmbiguousSourceError, match="quaternions really wxyz"):
        read_all(make("rh20t"), other)


# Real files, with truth.


@pytest.mark.realdata
def test_robotwins_own_files_agree_with_their_truth(sample_data: Path) -> None:
    folder = sample_data / "robotwin-shaped"
    truth = np.load(folder / "robotwin.truth.npz", allow_pickle=False)
    found = read_all(make("robotwin", fps=16, instruction="move", embodiment="franka-panda"), folder)
    assert [len(episode) for episode in found] == [24, 23]
    for episode in found:
        for arm in ("left", "right"):
            own, true = episode.grippers[arm], truth[f"{arm}_tcp_xyz_wxyz"][: len(episode)]
            turn = Rotation.from_quat(own.quaternion_xyzw).inv() * Rotation.from_quat(true[:, [4, 5, 6, 3]])
            assert np.abs(own.position - true[:, :3]).max() < 1e-7
            assert turn.magnitude().max() < 1e-6
        first = next(iter(episode.views["head_camera"].frames.frames([0])))
        assert np.abs(first.astype(int) - truth["first_frame_rgb"]).mean() < 2.5


@pytest.mark.realdata
def test_maniskills_own_files_agree_with_their_truth(sample_data: Path) -> None:
    names = ("PickCube-v1.trajectory.rgb+depth.pd_ee_delta_pose", "StackCube-v1.trajectory.rgb+depth.pd_joint_pos")
    for name in names:
        path = sample_data / "maniskill" / f"{name}.physx_cpu.h5"
        truth = np.load(path.with_suffix(".truth.npz"), allow_pickle=False)
        for i, episode in enumerate(read_all(make("maniskill"), path)):
            tcp = truth[f"traj_{i}/link/panda_hand_tcp"]
            fingers = [truth[f"traj_{i}/link/panda_{side}finger"][:, :3] for side in ("left", "right")]
            own = episode.trajectory
            turn = Rotation.from_quat(own.quaternion_xyzw).inv() * Rotation.from_quat(tcp[:, [4, 5, 6, 3]])
            width = np.linalg.norm(fingers[0] - fingers[1], axis=1)
            assert np.abs(own.position - tcp[:, :3]).max() < 1e-6
            assert turn.magnitude().max() < 1e-6
            assert np.abs(own.openness - width / 0.08).max() < 1e-5
            # The fingers lie along the canonical y.
            along = ((fingers[0] - fingers[1]) * own.rotation[:, :, 1]).sum(-1)
            assert np.abs(np.abs(along) - width).max() < 1e-6
            assert episode.views["base_camera"].depth is not None

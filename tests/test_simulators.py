"""robomimic, LIBERO, ALOHA and UMI: what was recorded comes back, and what cannot be known is asked for."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from simulator_logs import GRIP_SITE, converter, differences, episodes, read_first

from actionimg_data.converters import base
from actionimg_data.demo.recordings import TeleopLog, camera_file, make_log, read_panda_log, select_frames, write_yaml
from actionimg_data.demo.simulators import (
    base_near,
    joint_log,
    panda_scene,
    two_arm_scene,
    write_aloha,
    write_libero,
    write_robomimic,
    write_umi,
)
from actionimg_data.errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadFileError,
    BadImageError,
    EmptyEpisodeError,
    FrameCountError,
    InvalidCameraError,
    InvalidSpecError,
    InvalidTextError,
    InvalidTrajectoryError,
    MissingCalibrationError,
    MissingExtraError,
    UnsupportedSourceError,
    WrongFormatError,
)
from actionimg_data.model import CameraTrack, Episode

pytest.importorskip("mujoco")


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return make_log(frames=6, size=48)


@pytest.fixture(scope="module")
def written(log: TeleopLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind, to be copied."""
    place = tmp_path_factory.mktemp("written")
    write_robomimic([log, log], place / "robomimic.hdf5", "both")
    write_libero([log, log], place / "libero.hdf5")
    return place


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        return Path(shutil.copy(written / name, tmp_path / name))

    return make


def edit(path: Path, change: Callable[[h5py.Group, h5py.Group], None]) -> Path:
    """Change the group ``data`` and its first demo."""
    with h5py.File(path, "r+") as file:
        change(file["data"], file["data/demo_0"])
    return path


def robomimic(path: Path, **options: Any) -> Episode:
    return read_first(converter("robomimic", **{"instruction": "lift it", **options}), path)


def position_error(episode: Episode, log: TeleopLog) -> float:
    return float(np.abs(episode.trajectory.position - log.truth().position).max())


# What was recorded comes back.


@pytest.mark.realdata
def test_a_real_recording_comes_back_through_every_converter(sample_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    pytest.importorskip("zarr")
    log = select_frames(read_panda_log(sample_data / "teleop" / "episode_1"), np.arange(0, 100, 12))
    for name, (episode, views) in episodes(log, tmp_path).items():
        found = differences(episode, log, views, lossless="mapping" not in name)
        assert found["position_m"] <= (1e-4 if "joint" in name else 1e-6), name
        assert found["camera_m"] <= 1e-6, name
        assert found["camera_K"] <= 1e-9, name
        assert found["rotation_deg"] <= 1e-4, name
        assert found["openness"] <= 1e-6, name
        assert found["times_s"] <= 1e-9, name
        assert found["grey_levels"] == 0, name
        assert episode.instruction == log.instruction
        assert {views.get(v, v) for v in episode.views} <= set(log.views)


@pytest.mark.parametrize("name", ["robomimic", "libero"])
def test_a_folder_of_files_is_found_with_its_demos(written: Path, tmp_path: Path, name: str, log: TeleopLog) -> None:
    (tmp_path / "lift" / "ph").mkdir(parents=True)
    for i in (2, 10):
        shutil.copy(written / f"{name}.hdf5", tmp_path / "lift" / "ph" / f"part{i}.hdf5")
    detected = base.detect(str(tmp_path))
    assert list(detected) == [name]
    made = converter(name, instruction="lift it")
    refs = list(made.discover(str(tmp_path)))
    assert [r.id for r in refs] == [f"lift/ph/part{i}/demo_{j}" for i in (2, 10) for j in (0, 1)]
    assert {r.num_frames for r in refs} == {6}
    assert position_error(made.read(refs[3]), log) < 1e-6
    shown = made.inspect(str(tmp_path))
    assert json.loads(json.dumps(shown)) == shown
    assert (shown["episodes"], shown["frames"], shown["to be given"]) == (4, 24, [])


def test_a_special_converter_goes_before_the_one_for_plain_files(written: Path) -> None:
    from actionimg_data.cli._inputs import make_converter

    path = str(written / "robomimic.hdf5")
    assert set(base.detect(path)) == {"folder", "robomimic"}
    assert make_converter(path, None, ()).name == "robomimic"


# robomimic.


def test_the_eye_in_hand_entry_of_camera_info_is_never_used(copy: Any, log: TeleopLog) -> None:
    """It is composed in the wrong order: the model's camera is used, and without a model nothing is."""

    def call_it_so(_: Any, demo: Any) -> None:
        demo["obs"].move("wrist_image", "robot0_eye_in_hand_image")
        info = json.loads(demo.attrs["camera_info"])
        demo.attrs["camera_info"] = json.dumps({**info, "robot0_eye_in_hand": info["wrist"]})
        demo.attrs["model_file"] = demo.attrs["model_file"].replace('"wrist"', '"robot0_eye_in_hand"')

    path = edit(copy("robomimic.hdf5"), call_it_so)
    camera = robomimic(path).views["robot0_eye_in_hand"].camera
    assert isinstance(camera, CameraTrack)
    assert np.abs(camera.world_from_camera - log.views["wrist"].world_from_camera).max() < 1e-6
    with h5py.File(path) as file:
        wrong = json.loads(file["data/demo_0"].attrs["camera_info"])["robot0_eye_in_hand"]["extrinsics"]
    assert np.abs(camera.world_from_camera[0] - wrong).max() > 0.05
    edit(path, lambda _, demo: demo.attrs.pop("model_file"))
    with pytest.raises(MissingCalibrationError, match="wrong order"):
        robomimic(path)
    assert set(robomimic(path, only_views=("front", "overhead")).views) == {"front", "overhead"}


def test_a_users_camera_file_comes_first(copy: Any, log: TeleopLog, tmp_path: Path) -> None:
    cameras = camera_file(log)
    cameras["cameras"]["front"]["K"][0][0] = 77.0
    (tmp_path / "c.json").write_text(json.dumps(cameras))
    path = edit(copy("robomimic.hdf5"), lambda _, demo: demo.attrs.pop("model_file"))
    episode = robomimic(path, camera_file=str(tmp_path / "c.json"))
    camera = episode.views["front"].camera
    assert camera is not None
    assert camera.track(6).K[0, 0, 0] == 77.0


def test_depth_beside_the_pictures(log: TeleopLog, tmp_path: Path) -> None:
    metres = np.random.default_rng(0).uniform(0.3, 2.0, (6, 48, 48)).astype(np.float32)
    metres[0, 0, :3] = [np.nan, np.inf, 100.0]
    path = write_robomimic([log], tmp_path / "d.hdf5", depth={"front": metres})
    views = robomimic(path).views
    assert views["overhead"].depth is None
    depth = views["front"].depth
    assert depth is not None
    planes = np.stack(list(depth.frames(range(6))))
    assert planes.dtype == np.uint16
    assert planes[0, 0, :3].tolist() == [0, 0, 0]
    metres[0, 0, :3] = 0
    assert np.abs(planes / 1000 - metres).max() <= 0.0005 + 1e-6
    assert np.array_equal(next(depth.frames([4])), planes[4])

    def shrink(_: Any, demo: Any) -> None:
        del demo["obs/front_depth"]
        demo["obs/front_depth"] = metres[:, :24, :24, None]

    with pytest.raises(BadImageError, match=r"depth has another size.*expected 48x48, found 24x24"):
        robomimic(edit(path, shrink))


def test_a_camera_that_moves_apart_from_the_hand_is_placed_by_the_states(copy: Any, log: TeleopLog) -> None:
    """robomimic's states are of the observations; LIBERO's file lacks the state of its last picture."""
    link, on_link = '<body name="robot0_link3"', '<camera name="elbow" fovy="60"/>'

    def add(_: Any, demo: Any) -> None:
        demo["obs/elbow_image"] = demo["obs/front_image"][:]
        text = demo.attrs["model_file"]
        end = text.index(">", text.index(link)) + 1
        demo.attrs["model_file"] = text[:end] + on_link + text[end:]

    camera = robomimic(edit(copy("robomimic.hdf5"), add)).views["elbow"].camera
    assert isinstance(camera, CameraTrack)
    assert np.ptp(camera.world_from_camera[:, :3, 3], axis=0).max() > 1e-3

    def add_rgb(data: Any, demo: Any) -> None:
        demo["obs/front_image"] = demo["obs/front_rgb"][:]
        add(data, demo)
        demo["obs"].move("elbow_image", "elbow_rgb")

    with pytest.raises(UnsupportedSourceError, match="lacks the state of the last picture"):
        read_first(converter("libero"), edit(copy("libero.hdf5"), add_rgb))


def test_two_robots_become_two_grippers(copy: Any, log: TeleopLog) -> None:
    def add(data: Any, demo: Any) -> None:
        for name in ("eef_pos", "eef_quat", "gripper_qpos"):
            demo[f"obs/robot1_{name}"] = demo[f"obs/robot0_{name}"][:]
        demo["obs/robot1_eef_pos"][:, 1] += 0.4
        env = json.loads(data.attrs["env_args"])
        env["env_kwargs"]["robots"] = ["Panda", "Panda"]
        data.attrs["env_args"] = json.dumps(env)
        demo.attrs.pop("model_file")

    episode = robomimic(edit(copy("robomimic.hdf5"), add), only_views=("front",))
    assert list(episode.grippers) == ["robot0", "robot1"]
    apart = episode.grippers["robot1"].position - episode.grippers["robot0"].position
    assert np.allclose(apart, [0, 0.4, 0], atol=1e-12)


def set_env(**changes: Any) -> Callable[[Any, Any], None]:
    def change(data: Any, _: Any) -> None:
        env = json.loads(data.attrs["env_args"])
        env["env_kwargs"].update(changes)
        data.attrs["env_args"] = json.dumps(env)

    return change


def cut(name: str) -> Callable[[Any, Any], None]:
    def change(_: Any, demo: Any) -> None:
        values = demo[name][:-1]
        del demo[name]
        demo[name] = values

    return change


def drop(*names: str) -> Callable[[Any, Any], None]:
    def change(_: Any, demo: Any) -> None:
        for name in names:
            if name in demo.attrs:
                del demo.attrs[name]
            else:
                del demo[name]

    return change


def roll_states(_: Any, demo: Any) -> None:
    demo["states"][:] = np.roll(demo["states"][:], 3, axis=0)


def turn_fingers(_: Any, demo: Any) -> None:
    text = demo.attrs["model_file"]
    demo.attrs["model_file"] = text.replace('type="slide" axis="0 1 0"', 'type="slide" axis="1 0 0"')


def shrink_info(_: Any, demo: Any) -> None:
    info = json.loads(demo.attrs["camera_info"])
    info["front"]["intrinsics"][0][2] = 10.0
    demo.attrs["camera_info"] = json.dumps(info)


def damage_info(_: Any, demo: Any) -> None:
    demo.attrs["camera_info"] = '{"front": {"intrinsics": [1, 2]}}'


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (cut("obs/robot0_eef_pos"), {}, FrameCountError, "obs/robot0_eef_pos.*expected 6, as actions, found 5"),
        (cut("obs/front_image"), {}, FrameCountError, "obs/front_image.*expected 6, as actions, found 5"),
        (cut("actions"), {}, FrameCountError, "expected 5, as actions, found 6"),
        (cut("states"), {}, FrameCountError, "states.*expected 6, as observations, found 5"),
        (lambda _, d: d.attrs.update(num_samples=9), {}, FrameCountError, "num_samples.*found 9"),
        (drop("model_file", "camera_info"), {}, MissingCalibrationError, "no model_file and no camera_info"),
        (drop("obs"), {}, UnsupportedSourceError, "no observations.*dataset_states_to_obs"),
        (drop("obs/robot0_eef_pos"), {}, WrongFormatError, "no robomimic episode found"),
        (drop("obs/robot0_gripper_qpos"), {}, WrongFormatError, "robot0_gripper_qpos: has no such data set"),
        (drop("obs/robot0_eef_quat"), {}, WrongFormatError, "robot0_eef_quat_site: has no such data set"),
        (set_env(robots=7), {}, AmbiguousSourceError, "not of unknown"),
        (set_env(robots=["Sawyer"]), {}, AmbiguousSourceError, "known of a Panda.*not of Sawyer.*--tool-from-gripper"),
        (set_env(robots=["Sawyer"]), {"tool_from_gripper": "identity"}, AmbiguousSourceError, "--gripper 'COLUMN"),
        (set_env(gripper_types="Robotiq85Gripper"), {}, AmbiguousSourceError, "--tool-from-gripper"),
        (set_env(control_freq=None), {}, AmbiguousSourceError, "--fps RATE"),
        (lambda d, _: None, {"instruction": None}, InvalidTextError, "--instruction TEXT"),
        (lambda d, _: None, {"only_views": ("rear",)}, WrongFormatError, r"front \| overhead \| wrist, found rear"),
        (lambda d, _: None, {"gripper": "0"}, InvalidSpecError, "is not a gripper"),
        (lambda d, _: None, {"gripper": "5 0 1"}, WrongFormatError, "has no such column"),
        (lambda d, _: None, {"gripper": "0-1 0 0.01"}, InvalidTrajectoryError, "leaves the range"),
        (roll_states, {}, InvalidTrajectoryError, "states and observations lie apart"),
        (turn_fingers, {}, AmbiguousSourceError, "do not open along the y axis.*90 degrees off"),
        (shrink_info, {}, InvalidCameraError, "camera_info is for pictures of another size"),
        (damage_info, {}, BadFileError, "camera_info.front: is not a camera"),
        (lambda _, d: d.attrs.update(camera_info="{"), {}, BadFileError, "is not JSON"),
        (lambda _, d: d.attrs.update(camera_info="[" * 9000), {}, BadFileError, "is not JSON"),
        (lambda d, _: d.attrs.update(env_args="{"), {}, BadFileError, "env_args: is not JSON"),
        (lambda _, d: d.attrs.update(model_file="<mujoco>"), {}, BadFileError, "is not XML"),
        (lambda _, d: d.attrs.update(model_file=panda_scene(np.eye(4))), {}, WrongFormatError,
         "model_file: front: has no such camera"),
    ],
)  # fmt: skip
def test_bad_robomimic_files_are_refused(
    copy: Any, change: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    path = edit(copy("robomimic.hdf5"), change)
    with pytest.raises(error, match=message):
        robomimic(path, **options)


def test_another_robot_is_read_with_what_the_user_states(copy: Any, log: TeleopLog) -> None:
    path = edit(copy("robomimic.hdf5"), set_env(robots=["Sawyer"]))
    episode = robomimic(path, tool_from_gripper="identity", gripper="0-1 0 0.08")
    assert position_error(episode, log) < 1e-9
    assert np.allclose(episode.trajectory.openness, log.truth().openness)
    half = robomimic(path, tool_from_gripper="identity", gripper="0 0 0.04")
    assert np.allclose(half.trajectory.openness, log.truth().openness)


def test_poses_and_pictures_alone_need_no_camera(copy: Any) -> None:
    path = edit(copy("robomimic.hdf5"), drop("model_file", "camera_info"))
    episode = robomimic(path, poses_only=True)
    assert all(view.camera is None for view in episode.views.values())


def test_the_instruction_of_robocasas_episodes_is_read(copy: Any) -> None:
    path = edit(copy("robomimic.hdf5"), lambda _, d: d.attrs.update(ep_meta=json.dumps({"lang": "open the door"})))
    assert robomimic(path, instruction=None).instruction == "open the door"
    assert robomimic(path).instruction == "lift it"


def test_only_the_episodes_of_a_mask_are_read(copy: Any) -> None:
    path = copy("robomimic.hdf5")
    with h5py.File(path, "r+") as file:
        file["mask/valid"] = np.array([b"demo_1"])
    made = converter("robomimic", instruction="lift it", filter_key="valid")
    assert [ref.id for ref in made.discover(str(path))] == ["robomimic/demo_1"]
    assert made.inspect(str(path))["masks"] == ["valid"]
    with pytest.raises(WrongFormatError, match=r"filter_key: has no such mask.*expected valid, found train"):
        list(converter("robomimic", filter_key="train").discover(str(path)))


def test_a_scene_of_the_users_stands_in_for_one_that_the_file_lacks(copy: Any, tmp_path: Path, log: TeleopLog) -> None:
    """Files that were made again, without attributes, as those of LIBERO without pauses."""
    path = copy("libero.hdf5")
    with h5py.File(path, "r+") as file:
        (tmp_path / "scene.xml").write_text(file["data/demo_0"].attrs["model_file"])
        for name in list(file["data"].attrs):
            del file["data"].attrs[name]
        del file["data/demo_0"].attrs["model_file"]
    asked = converter("libero").inspect(str(path))["to be given"]
    assert asked == ["--fps", "--instruction", "--tool-from-gripper", "--gripper", "--camera-file"]
    options = {"fps": 20, "instruction": "x", "tool_from_gripper": "identity", "gripper": "0-1 0 0.08"}
    with pytest.raises(MissingCalibrationError, match="--model-file"):
        read_first(converter("libero", **options), path)
    episode = read_first(converter("libero", **options, model_file=str(tmp_path / "scene.xml")), path)
    assert differences(episode, log, {"eye_in_hand": "wrist"}, lossless=True)["camera_m"] < 1e-6


# LIBERO.


def test_libero_comes_back_upright_with_its_own_instruction(written: Path, log: TeleopLog) -> None:
    episode = read_first(converter("libero"), written / "libero.hdf5")
    found = differences(episode, log, {"eye_in_hand": "wrist"}, lossless=True)
    assert found["position_m"] < 1e-9
    assert found["camera_m"] < 1e-6
    assert found["grey_levels"] == 0
    assert episode.instruction == log.instruction
    assert episode.fps == 20
    assert episode.provenance["model_agrees_mm"] < 1e-3


def test_liberos_pictures_are_flipped_as_the_file_says(copy: Any, log: TeleopLog) -> None:
    path = edit(copy("libero.hdf5"), lambda data, _: data.attrs.update(macros_image_convention="opencv"))

    def first(**options: Any) -> Any:
        return next(iter(read_first(converter("libero", **options), path).views["front"].frames.frames([0])))

    stored = log.views["front"].pictures[0][::-1]
    assert np.array_equal(first(), stored)
    assert np.array_equal(first(flip="vertical"), stored[::-1])
    edit(path, lambda data, _: data.attrs.update(macros_image_convention="sideways"))
    with pytest.raises(WrongFormatError, match=r"opengl \| opencv, or --flip, found sideways"):
        first()
    assert np.array_equal(first(flip="none"), stored)


@pytest.mark.parametrize("text", ['"put it away"', list("put it away")])
def test_liberos_instructions_in_letters_or_quotes_are_plain_text(copy: Any, text: Any) -> None:
    info = json.dumps({"language_instruction": text})
    path = edit(copy("libero.hdf5"), lambda data, _: data.attrs.update(problem_info=info))
    assert read_first(converter("libero"), path).instruction == "put it away"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (cut("obs/ee_pos"), FrameCountError, "obs/ee_pos.*expected 6, as actions, found 5"),
        (drop("model_file"), MissingCalibrationError, "no model_file and no camera_info"),
        (lambda d, _: d.attrs.pop("problem_info"), InvalidTextError, "--instruction"),
        (lambda d, _: d.attrs.update(problem_info="["), BadFileError, "problem_info: is not JSON"),
        (roll_states, InvalidTrajectoryError, r"row t \+ 1 of states"),
    ],
)
def test_bad_libero_files_are_refused(copy: Any, change: Any, error: type[Exception], message: str) -> None:
    path = edit(copy("libero.hdf5"), change)
    with pytest.raises(error, match=message):
        read_first(converter("libero"), path)


# ALOHA.


@pytest.fixture(scope="module")
def arms(log: TeleopLog, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any], list[Any]]:
    """A robot of two arms, 40 cm apart, that move alike; their bases and joints."""
    q, left = joint_log(log)
    right = left.copy()
    right[1, 3] -= 0.4
    folder = tmp_path_factory.mktemp("robot")
    (folder / "two.xml").write_text(two_arm_scene(left, right))
    (folder / "one.xml").write_text(panda_scene(left))
    (folder / "c.json").write_text(json.dumps(camera_file(log)))
    return folder, [left, right], [q, q]


def aloha_options(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "robot": (str(folder / "two.xml"),),
        "tip": ("left=gripper0_grip_site", "right=gripper1_grip_site"),
        "tool_from_gripper": GRIP_SITE,
        "instruction": "hand it over",
        "fps": 20,
        "camera_file": str(folder / "c.json"),
        **changes,
    }


def aloha(folder: Path, path: Path, **changes: Any) -> Episode:
    return read_first(converter("aloha", **aloha_options(folder, **changes)), path)


def test_two_arms_of_one_robot_file(log: TeleopLog, arms: Any, tmp_path: Path) -> None:
    folder, _, joints = arms
    openness = log.truth().openness
    path = write_aloha(log, tmp_path / "episode_0.hdf5", joints, [openness, 1 - openness])
    episode = aloha(folder, path)
    assert list(episode.grippers) == ["left", "right"]
    left, right = episode.grippers.values()
    assert np.abs(left.position - log.truth().position).max() < 1e-9
    assert np.allclose(right.position - left.position, [0, -0.4, 0], atol=1e-9)
    assert np.allclose(right.openness, 1 - openness, atol=1e-12)
    assert base.detect(str(tmp_path))["aloha"].layout == "ALOHA"


def test_two_robot_files_and_where_they_stand(log: TeleopLog, arms: Any, tmp_path: Path) -> None:
    folder, _, joints = arms
    path = write_aloha(log, tmp_path / "episode_0.hdf5", joints)
    episode = aloha(
        folder,
        path,
        robot=(f"left={folder / 'one.xml'}", f"right={folder / 'one.xml'}"),
        tip=("left=gripper0_grip_site", "right=gripper0_grip_site"),
        world_from_base=("right=0 -0.4 0 0 0 0 1",),
    )
    left, right = episode.grippers.values()
    assert np.allclose(right.position - left.position, [0, -0.4, 0], atol=1e-9)


def test_commands_are_shown_one_picture_later(log: TeleopLog, arms: Any, tmp_path: Path) -> None:
    """Action t is sent after picture t: picture t shows action t - 1, and the first picture has none."""
    folder, _, joints = arms
    path = write_aloha(log, tmp_path / "episode_0.hdf5", joints)
    state, command = aloha(folder, path), aloha(folder, path, trajectory="command")
    made = converter("aloha", **aloha_options(folder, trajectory="command"))
    assert [r.num_frames for r in made.discover(str(path))] == [5]
    assert len(command) == 5
    # The writer sends what the arms then do.
    assert np.allclose(command.grippers["left"].position, state.grippers["left"].position[1:], atol=1e-12)
    pictures = list(command.views["front"].frames.frames(range(5)))
    assert np.array_equal(pictures, log.views["front"].pictures[1:])
    assert command.provenance["command_shift_rows"] == 1


def test_jpegs_of_alohas_recorder_have_red_and_blue_swapped_back(log: TeleopLog, arms: Any, tmp_path: Path) -> None:
    folder, _, joints = arms
    path = write_aloha(log, tmp_path / "episode_0.hdf5", joints, jpeg=True)
    frames = np.stack(list(aloha(folder, path).views["front"].frames.frames(range(6)))).astype(int)
    assert np.abs(frames - log.views["front"].pictures).mean() < 4
    plain = np.stack(list(aloha(folder, path, jpeg="standard").views["front"].frames.frames(range(6)))).astype(int)
    assert np.array_equal(plain[..., ::-1], frames)
    assert np.abs(plain - log.views["front"].pictures).mean() > 8


def test_a_camera_on_a_hand_belongs_to_the_arm_in_its_name(log: TeleopLog, arms: Any, tmp_path: Path) -> None:
    folder, _, joints = arms
    path = write_aloha(log, tmp_path / "episode_0.hdf5", joints)
    with h5py.File(path, "r+") as file:
        file.move("observations/images/wrist", "observations/images/cam_right_wrist")
    cameras = camera_file(log, moving=False)["cameras"]
    mount = {"translation": [0.05, 0, -0.1], "euler_xyz_deg": [0, 0, 90]}
    cameras["cam_right_wrist"] = {**cameras.pop("wrist"), "tool_from_camera": mount}
    (tmp_path / "c.json").write_text(json.dumps({"cameras": cameras}))
    episode = aloha(folder, path, camera_file=str(tmp_path / "c.json"))
    camera = episode.views["cam_right_wrist"].camera
    assert isinstance(camera, CameraTrack)
    places = camera.world_from_camera[:, :3, 3]
    distance = {n: np.linalg.norm(places - g.position, axis=1) for n, g in episode.grippers.items()}
    assert np.allclose(distance["right"], np.hypot(0.05, 0.1), atol=1e-9)
    assert distance["left"].min() > 0.2
    with h5py.File(path, "r+") as file:
        file.move("observations/images/cam_right_wrist", "observations/images/wrist")
    cameras["wrist"] = cameras.pop("cam_right_wrist")
    (tmp_path / "c.json").write_text(json.dumps({"cameras": cameras}))
    with pytest.raises(AmbiguousSourceError, match=r"which of the arms.*left \| right"):
        aloha(folder, path, camera_file=str(tmp_path / "c.json"))


def test_simulated_cameras_come_from_the_robot_file(log: TeleopLog, arms: Any, tmp_path: Path) -> None:
    folder, bases, joints = arms
    front = log.views["front"]
    fovy = float(np.degrees(2 * np.arctan(24 / front.K[1, 1])))
    hand = np.eye(4)
    hand[:3, 3] = [0.05, 0, -0.1]
    text = panda_scene(bases[0], {"front": (front.world_from_camera, fovy)}, {"wrist": (hand, 60.0)})
    (tmp_path / "sim.xml").write_text(text)
    only = {"only_views": ("front", "wrist"), "camera_file": None, "robot": (str(tmp_path / "sim.xml"),)}
    single = {**only, "arms": ("arm",), "tip": ("gripper0_grip_site",)}
    path = write_aloha(log, tmp_path / "episode_0.hdf5", joints[:1], simulated=True)
    episode = aloha(folder, path, **single)
    fixed, moving = episode.views["front"].camera, episode.views["wrist"].camera
    assert fixed is not None
    assert np.allclose(fixed.track(6).world_from_camera, front.world_from_camera, atol=1e-9)
    assert np.allclose(fixed.track(6).K, front.K, atol=1e-9)
    assert isinstance(moving, CameraTrack)
    with pytest.raises(MissingCalibrationError, match=r"front.*--camera-file"):
        aloha(folder, path, **single, base=("robot0_base",))
    with h5py.File(path, "r+") as file:
        file.attrs["sim"] = False
    with pytest.raises(MissingCalibrationError, match=r"front.*--camera-file"):
        aloha(folder, path, **single)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"robot": ()}, AmbiguousSourceError, "--robot FILE --tip left=NAME --tip right=NAME"),
        ({"tip": ("left=gripper0_grip_site",)}, AmbiguousSourceError, "nothing for right"),
        ({"tip": ("gripper0_grip_site",)}, InvalidSpecError, r"which arm.*left=\.\.\. \| right="),
        ({"tip": ("left=gripper0_grip_site", "right=hand")}, WrongFormatError, "tip: has no such site or body.*hand"),
        ({"tool_from_gripper": None}, AmbiguousSourceError, "--tool-from-gripper"),
        ({"fps": None}, AmbiguousSourceError, "50 Hz: --fps 50"),
        ({"instruction": None}, InvalidTextError, "--instruction"),
        ({"camera_file": None}, MissingCalibrationError, "front: the camera is in no camera file"),
        ({"gripper": "0"}, InvalidSpecError, "CLOSED OPEN"),
        ({"gripper": "0 0.2"}, InvalidTrajectoryError, "leaves the range"),
        ({"arms": ("arm",), "tip": ("gripper0_grip_site",)}, WrongFormatError,
         "expected arm: robot0_joint1.*gripper, found 16 columns"),
    ],
)  # fmt: skip
def test_what_an_aloha_log_does_not_say_is_asked_for(
    log: TeleopLog, arms: Any, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    folder, _, joints = arms
    path = write_aloha(log, tmp_path / "episode_0.hdf5", joints)
    with pytest.raises(error, match=message):
        aloha(folder, path, **options)


def test_an_episode_in_which_one_arm_has_no_poses_names_the_arm(log: TeleopLog, arms: Any, tmp_path: Path) -> None:
    folder, _, (left, right) = arms
    path = write_aloha(log, tmp_path / "episode_0.hdf5", [left, np.full_like(right, np.nan)])
    with pytest.raises(InvalidTrajectoryError, match=r"pose of right: row 0: is not finite.*all rows"):
        aloha(folder, path)


@pytest.mark.parametrize("name", ["action", "observations/images/front"])
def test_streams_of_another_length_are_refused(log: TeleopLog, arms: Any, tmp_path: Path, name: str) -> None:
    folder, _, joints = arms
    path = write_aloha(log, tmp_path / "episode_0.hdf5", joints)
    with h5py.File(path, "r+") as file:
        values = file[name][:-1]
        del file[name]
        file[name] = values
    with pytest.raises(FrameCountError, match=f"{name}.*expected 6, as observations/qpos, found 5"):
        aloha(folder, path)


def test_a_single_picture_has_no_command_before_it(log: TeleopLog, arms: Any, tmp_path: Path) -> None:
    folder, _, joints = arms
    one = select_frames(log, np.array([0]))
    path = write_aloha(one, tmp_path / "episode_0.hdf5", [q[:1] for q in joints])
    with pytest.raises(EmptyEpisodeError, match="no command before"):
        aloha(folder, path, trajectory="command")


# UMI.


def umi(place: Path, name: str = "d.zarr.zip", **changes: Any) -> Episode:
    options = {
        "instruction": "pick it up",
        "fps": 20,
        "gripper": "0 0.08",
        "camera_file": str(place / "c.json"),
        **changes,
    }
    return read_first(converter("umi", **options), place / name)


@pytest.fixture(scope="module")
def umi_place(log: TeleopLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("imagecodecs")
    pytest.importorskip("zarr")
    place = tmp_path_factory.mktemp("umi")
    (place / "c.json").write_text(json.dumps(write_umi([log, log], place / "d.zarr.zip", "wrist")))
    return place


def test_umis_episodes_follow_each_other_in_one_zip(umi_place: Path, log: TeleopLog) -> None:
    assert base.detect(str(umi_place))["umi"].details == "d.zarr.zip: 2 episodes"
    made = converter("umi", instruction="x", fps=20, gripper="0 0.08", camera_file=str(umi_place / "c.json"))
    refs = list(made.discover(str(umi_place)))
    assert [(r.id, r.num_frames) for r in refs] == [("d/episode_0", 6), ("d/episode_1", 6)]
    for ref in refs:
        found = differences(made.read(ref), log, {"camera0": "wrist"}, lossless=True)
        assert found["position_m"] < 1e-6
        assert found["camera_m"] < 1e-6
        assert found["grey_levels"] == 0
    shown = made.inspect(str(umi_place / "d.zarr.zip"))
    assert json.loads(json.dumps(shown)) == shown
    assert shown["to be given"] == []
    assert converter("umi").inspect(str(umi_place))["to be given"] == [
        "--fps", "--instruction", "--gripper", "--camera-file",
    ]  # fmt: skip


def test_a_zarr_folder_is_read_as_its_zip_is(log: TeleopLog, umi_place: Path, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(write_umi([log], tmp_path / "d.zarr", "wrist", lossless=False)))
    episode = umi(tmp_path, "d.zarr")
    assert position_error(episode, log) < 1e-6
    frames = np.stack(list(episode.views["camera0"].frames.frames(range(6)))).astype(int)
    assert np.abs(frames - log.views["wrist"].pictures).mean() < 4


def test_the_gopros_own_calibration_and_place(umi_place: Path, tmp_path: Path, log: TeleopLog) -> None:
    """Intrinsics of the whole picture are cropped to its middle and scaled; the camera sits above the fingers."""
    intrinsics = {
        "image_width": 128, "image_height": 96, "intrinsic_type": "FISHEYE",
        "intrinsics": {
            "focal_length": 40.0, "aspect_ratio": 1.0, "principal_pt_x": 64.0, "principal_pt_y": 48.0, "skew": 0.0,
            "radial_distortion_1": 0.01, "radial_distortion_2": 0.0, "radial_distortion_3": 0.0,
            "radial_distortion_4": 0.0,
        },
    }  # fmt: skip
    (tmp_path / "gopro.json").write_text(json.dumps(intrinsics))
    gopro = {"camera_file": str(tmp_path / "gopro.json"), "tcp_offset": 0.205, "fov": 90}
    episode = umi(umi_place, **gopro)
    camera = episode.views["camera0"].camera
    assert isinstance(camera, CameraTrack)
    assert np.allclose(camera.K, [[24, 0, 24], [0, 24, 24], [0, 0, 1]])
    # In the middle a fisheye is straight: 24 pixels a tangent there, 20 in the stored pictures.
    straight = next(iter(episode.views["camera0"].frames.frames([0])))
    middle = cv2.resize(log.views["wrist"].pictures[0][14:34, 14:34], (24, 24), interpolation=cv2.INTER_LINEAR)
    assert np.abs(straight[12:36, 12:36].astype(int) - middle).mean() < 8
    gripper = episode.trajectory
    place = np.linalg.inv(gripper.world_from_gripper) @ camera.world_from_camera
    assert np.allclose(place[:, :3, 3], [0.086, 0, -(0.01465 + 0.205)], atol=1e-6)
    assert np.allclose(place[:, :3, 2], [0, 0, 1], atol=1e-6)
    with pytest.raises(MissingCalibrationError, match="tool_from_camera in the camera file, or --tcp-offset"):
        umi(umi_place, **{**gopro, "tcp_offset": None})
    with pytest.raises(AmbiguousSourceError, match="--fov DEGREES"):
        umi(umi_place, **{**gopro, "fov": None})
    (tmp_path / "gopro.json").write_text(json.dumps({**intrinsics, "intrinsic_type": "PINHOLE"}))
    with pytest.raises(WrongFormatError, match="is not a fisheye"):
        umi(umi_place, **gopro)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gripper": None}, AmbiguousSourceError, "--gripper 'CLOSED OPEN' in metres"),
        ({"gripper": "0 0.01"}, InvalidTrajectoryError, "leaves the range"),
        ({"fps": None}, AmbiguousSourceError, "59.94"),
        ({"instruction": None}, InvalidTextError, "--instruction"),
        ({"camera_file": None}, MissingCalibrationError, "camera0: UMI's files hold no intrinsics"),
        ({"only_views": ("camera1",)}, WrongFormatError, "expected camera0, found camera1"),
    ],
)
def test_what_umis_file_does_not_say_is_asked_for(
    umi_place: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        umi(umi_place, **options)


@pytest.mark.parametrize(
    ("ends", "message"),
    [([6, 13], "episodes end after the data"), ([6, 6], "ends that increase"), ([0, 6], "ends that increase")],
)
def test_ends_of_episodes_that_cannot_be_are_refused(log: TeleopLog, tmp_path: Path, ends: Any, message: str) -> None:
    zarr = pytest.importorskip("zarr")
    pytest.importorskip("imagecodecs")
    (tmp_path / "c.json").write_text(json.dumps(write_umi([log, log], tmp_path / "d.zarr", "wrist")))
    zarr.open_group(tmp_path / "d.zarr", mode="r+")["meta/episode_ends"][:] = ends
    with pytest.raises(BadFileError, match=message):
        umi(tmp_path, "d.zarr")


def test_without_the_codec_of_jpeg_xl_the_error_says_what_to_install(
    umi_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numcodecs = pytest.importorskip("numcodecs")
    umi(umi_place)
    monkeypatch.setitem(sys.modules, "imagecodecs.numcodecs", None)
    registered = dict(numcodecs.registry.codec_registry)
    registered.pop("imagecodecs_jpegxl", None)
    monkeypatch.setattr(numcodecs.registry, "codec_registry", registered)
    with pytest.raises(MissingExtraError, match=r"imagecodecs_jpegxl.*JPEG-XL.*imagecodecs>="):
        umi(umi_place)


# Mapping files.


def test_two_grippers_of_a_mapping_file(log: TeleopLog, arms: Any, tmp_path: Path) -> None:
    """A bimanual log of joints as a plain HDF5 file: what LeRobot's bimanual data sets need, too."""
    folder, _, (q, _) = arms
    write_aloha(log, tmp_path / "src" / "episode_0.hdf5", [q, q])
    shutil.copy(folder / "two.xml", tmp_path / "two.xml")
    (tmp_path / "cameras.json").write_text(json.dumps(camera_file(log)))

    def arm(i: int) -> dict[str, Any]:
        start = 8 * i
        joints = {
            "columns": [f"observations/qpos[{start}:{start + 7}]"],
            "names": [f"robot{i}_joint{j}" for j in range(1, 8)],
            "unit": "rad", "robot": "two.xml", "tip": f"gripper{i}_grip_site",
        }  # fmt: skip
        return {
            "pose": {"file": "*.hdf5", "joints": joints, "tool_from_gripper": {"euler_xyz_deg": [0, 0, 90]}},
            "gripper": {"columns": [f"observations/qpos[{start + 7}]"], "closed": 0, "open": 1, "kind": "measured"},
        }

    mapping = {
        "version": 1,
        "format": "folder",
        "instruction": {"text": "hand it over"},
        "grippers": {"left": arm(0), "right": arm(1)},
        "views": {"front": {"frames": "#observations/images/front", "camera": {"file": "cameras.json"}}},
        "sync": {"mode": "rows", "fps": 20},
    }
    path = write_yaml(tmp_path / "m.yaml", mapping)
    episode = read_first(converter("folder", mapping=str(path)), tmp_path / "src")
    assert list(episode.grippers) == ["left", "right"]
    left, right = episode.grippers.values()
    assert np.abs(left.position - log.truth().position).max() < 1e-9
    assert np.allclose(right.position - left.position, [0, -0.4, 0], atol=1e-9)
    shown = converter("folder", mapping=str(path)).inspect(str(tmp_path / "src"))
    assert {"pose of left", "gripper of right"} <= set(shown["streams"])
    for change, message in [
        ({"grippers": {"left": arm(0)}}, "grippers are for several"),
        ({"grippers": {}}, "give pose and gripper, or grippers"),
        ({"pose": arm(0)["pose"]}, "pose and gripper go together"),
    ]:
        write_yaml(path, {**mapping, **change})
        with pytest.raises(WrongFormatError, match=message):
            read_first(converter("folder", mapping=str(path)), tmp_path / "src")
    view = {**mapping["views"]["front"], "camera": {"file": "cameras.json", "gripper": "middle"}}  # type: ignore[index]
    write_yaml(path, {**mapping, "views": {"front": view}})
    with pytest.raises(WrongFormatError, match=r"camera\.gripper is not one of the grippers left, right"):
        read_first(converter("folder", mapping=str(path)), tmp_path / "src")


def test_a_base_from_which_the_poses_are_in_reach(log: TeleopLog) -> None:
    q, base = joint_log(log)
    assert np.allclose(base, base_near(log.truth().world_from_gripper), atol=1e-12)
    assert np.isfinite(q).all()
    far = np.eye(4)
    far[:3, 3] = [5, 0, 0]
    with pytest.raises(ValueError, match="out of reach"):
        joint_log(log, far)


# Damage.


@pytest.mark.parametrize("name", ["robomimic", "libero"])
def test_damage_is_an_error_of_ours_or_does_no_harm(copy: Any, name: str) -> None:
    """Bytes flipped in the file's structure, its attributes and its values, and files cut short."""
    path = copy(f"{name}.hdf5")
    whole = path.read_bytes()
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(25):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), int(rng.choice([6000, len(data)]))), 8):
            data[place] = int(rng.integers(256))
        path.write_bytes(data[: int(rng.choice([len(data), rng.integers(1, len(data))], p=[0.8, 0.2]))])
        made = converter(name, instruction="lift it")
        try:
            for ref in made.discover(str(path)):
                episode = made.read(ref)
                for view in episode.views.values():
                    list(view.frames.frames(range(len(episode))))
        except ActionImgError:
            refused += 1
    assert refused > 5


# One bad file among others.


def test_one_damaged_file_of_several_is_refused_alone(written: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copy(written / "robomimic.hdf5", tmp_path / f"{name}.hdf5")
    data = (tmp_path / "b.hdf5").read_bytes()
    (tmp_path / "b.hdf5").write_bytes(data[: len(data) // 3])
    reader = converter("robomimic", instruction="lift it")
    refs = list(reader.discover(str(tmp_path)))
    assert [ref.id for ref in refs] == ["a/demo_0", "a/demo_1", "b/unreadable"]
    assert len(reader.read(refs[0])) == 6
    assert reader.fingerprint(refs[0]) == refs[0].fingerprint
    with pytest.raises(BadFileError, match=r"b\.hdf5"):
        reader.read(refs[2])
    # Of a source that is nothing else there is nothing to go on with.
    with pytest.raises(BadFileError):
        list(reader.discover(str(tmp_path / "b.hdf5")))


def test_one_damaged_file_of_alohas_or_umis_is_refused_alone(log: TeleopLog, arms: Any, tmp_path: Path) -> None:
    from actionimg_data.converters.umi import UmiConverter

    write_umi([log], tmp_path / "umi" / "a.zarr.zip", "wrist")
    (tmp_path / "umi" / "b.zarr.zip").write_bytes(b"PK\x03\x04 and nothing")
    umi = UmiConverter(UmiConverter.Options.parse({"instruction": "lift it"}, "umi"))
    refs = list(umi.discover(str(tmp_path / "umi")))
    assert [ref.id for ref in refs] == ["a/episode_0", "b/unreadable"]
    assert umi.fingerprint(refs[0]) == refs[0].fingerprint
    with pytest.raises(ActionImgError, match=r"b\.zarr\.zip"):
        umi.read(refs[1])
    folder, _, joints = arms
    write_aloha(log, tmp_path / "aloha" / "a.hdf5", joints)
    (tmp_path / "aloha" / "b.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n and nothing")
    reader = converter("aloha", **aloha_options(folder))
    refs = list(reader.discover(str(tmp_path / "aloha")))
    assert [(ref.id, ref.num_frames) for ref in refs] == [("a", 6), ("b", None)]
    assert reader.fingerprint(refs[0]) == refs[0].fingerprint
    with pytest.raises(BadFileError, match=r"b\.hdf5"):
        reader.read(refs[1])

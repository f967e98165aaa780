"""RLDS data sets become episodes with true poses and cameras, and shards that verify."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from scipy.spatial.transform import Rotation

import actionimg_data as aid
from actionimg_data import engine
from actionimg_data.cli import main
from actionimg_data.converters.base import Converter
from actionimg_data.converters.rlds import RLDSConverter, RLDSOptions, open_rlds
from actionimg_data.demo import rlds as w
from actionimg_data.demo import scene
from actionimg_data.errors import (
    AmbiguousSourceError,
    BadFileError,
    FrameCountError,
    InvalidCameraError,
    InvalidTextError,
    MissingCalibrationError,
    MissingFrameError,
    SourceNotFoundError,
    WrongFormatError,
)
from actionimg_data.geometry import rotations
from actionimg_data.model import Camera, CameraTrack, Episode
from actionimg_data.schemas import ConvertOptions
from actionimg_data.testing import ConverterContract

FRAMES, SIZE = 24, 96


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIONIMG_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder, name, options = w.write_rlds_demo(tmp_path_factory.mktemp("demo"), episodes=3, frames=FRAMES, size=SIZE)
    assert name == "rlds"
    return folder, options


class TestContract(ConverterContract):
    @pytest.fixture
    def converter(self, demo: tuple[Path, dict[str, Any]]) -> Converter:
        return RLDSConverter(RLDSOptions(**demo[1]))

    @pytest.fixture
    def source(self, demo: tuple[Path, dict[str, Any]]) -> Path:
        return demo[0]


def episodes(folder: Path, **options: Any) -> Iterator[Episode]:
    converter = RLDSConverter(RLDSOptions(**options))
    for ref in converter.discover(str(folder)):
        yield converter.read(ref)


def without_calibration(options: dict[str, Any], tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """The demo's options with an entry that says the data set has no cameras."""
    entry = yaml.safe_load(Path(options["config"]).read_text())
    entry |= {"calibration": {"kind": "none"}, **changes}
    path = tmp_path / "entry.yaml"
    path.write_text(yaml.safe_dump(entry))
    return {**options, "config": path}


# -- the whole way ---------------------------------------------------------------------------------------------------


def test_episodes_are_those_of_the_scene(demo: tuple[Path, dict[str, Any]]) -> None:
    for number, episode in enumerate(episodes(demo[0], **demo[1])):
        motion = scene.make_motion(FRAMES, number, tuple(scene.COLOURS)[number])
        assert np.allclose(episode.trajectory.world_from_gripper, motion.world_from_gripper, atol=1e-5)
        assert np.array_equal(episode.trajectory.openness, motion.gripper_open)
        assert episode.instruction == f"put the {motion.colour} cube on the green mat"
        assert (episode.fps, episode.sync, len(episode)) == (20.0, "assumed", FRAMES)
        for name, camera in scene.make_cameras(motion, SIZE, w.DEMO_CAMERAS).items():
            found = episode.views[name].camera
            assert found is not None
            assert type(found) is type(camera)
            assert np.allclose(found.K, camera.K, atol=1e-4)
            assert np.allclose(found.world_from_camera, camera.world_from_camera, atol=1e-5)
            drawn = scene.SceneRenderer(motion, SIZE).draw(camera.track(FRAMES)[5], 5).rgb
            (picture,) = episode.views[name].frames.frames([5])
            assert np.abs(picture.astype(int) - drawn).mean() < 3


def test_a_calibrated_data_set_converts_and_verifies(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    converter = RLDSConverter(RLDSOptions(**demo[1]))
    options = ConvertOptions.parse(height=256, width=256)
    result = engine.convert(converter, str(demo[0]), tmp_path / "out", options, num_workers=1)
    assert result.frames == 3 * FRAMES
    assert not result.quarantined
    report = engine.verify(tmp_path / "out").summary()
    assert report["ok"], report["failures"]
    assert report["samples"] == 3
    assert report["undecodable_frames"] == 0
    assert report["openness_accuracy"] == 1
    assert report["position_error_mm"]["p95"] <= 2
    assert report["rotation_error_deg"]["p95"] <= 2


def test_one_damaged_episode_is_quarantined_and_the_rest_converted(
    demo: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    import shutil

    folder = Path(shutil.copytree(demo[0], tmp_path / "copy" / "1.0.0"))
    (file,) = folder.glob("*.tfrecord-*")
    content = bytearray(file.read_bytes())
    content[-2000] ^= 0xFF
    file.write_bytes(content)
    converter = RLDSConverter(RLDSOptions(**demo[1]))
    out = tmp_path / "out"
    result = engine.convert(converter, str(folder), out, ConvertOptions.parse(height=64, width=64), num_workers=1)
    (row,) = result.quarantined
    assert (row.id, row.code) == ("train/00000/000002", BadFileError.code)
    assert result.frames == 2 * FRAMES
    assert engine.verify(out).summary()["samples"] == 2


# -- calibration -----------------------------------------------------------------------------------------------------


def entry_of(camera: Camera, scale: float = 1.0) -> dict[str, Any]:
    """A camera file's entry, for pictures ``scale`` times as large."""
    return {
        "K": (np.diag([scale, scale, 1.0]) @ camera.K).tolist(),
        "width": round(camera.width * scale),
        "height": round(camera.height * scale),
        "pixel_centre": camera.pixel_centre,
        "world_from_camera": camera.world_from_camera.tolist(),
    }


def front_camera() -> Camera:
    camera = scene.make_cameras(scene.make_motion(2, 0), SIZE, ["front"])["front"]
    assert isinstance(camera, Camera)
    return camera


def shifted(camera: Camera, x: float) -> Camera:
    pose = np.array(camera.world_from_camera)
    pose[0, 3] += x
    return Camera(camera.K, pose, camera.width, camera.height)


def test_without_calibration_the_next_step_is_named(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    options = without_calibration(demo[1], tmp_path)
    with pytest.raises(MissingCalibrationError, match=r"'front'.*--camera-file FILE.*--poses-only"):
        next(episodes(demo[0], **options))
    camera_file = tmp_path / "cameras.json"
    camera_file.write_text(json.dumps({"cameras": {"front": entry_of(front_camera())}}))
    with pytest.raises(MissingCalibrationError, match=r"right_shoulder to .*--views front,wrist"):
        next(episodes(demo[0], **options, camera_file=camera_file))


def test_poses_only_gives_episodes_without_cameras(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    calibrated = next(episodes(demo[0], **demo[1]))
    for options in (demo[1], without_calibration(demo[1], tmp_path)):
        episode = next(episodes(demo[0], **options, poses_only=True))
        assert all(v.camera is None for v in episode.views.values())
        assert np.array_equal(episode.trajectory.position, calibrated.trajectory.position)


def test_a_users_camera_file_serves_the_whole_data_set_and_is_scaled(
    demo: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    camera = front_camera()
    path = tmp_path / "cameras.yaml"
    path.write_text(yaml.safe_dump({"cameras": {"front": entry_of(camera, 4.0)}}))
    options = without_calibration(demo[1], tmp_path)
    for episode in episodes(demo[0], **options, camera_file=path, only_views=("front",)):
        found = episode.views["front"].camera
        assert isinstance(found, Camera)
        assert np.allclose(found.K, camera.K)
        assert (found.width, found.height) == (SIZE, SIZE)
        assert episode.provenance["calibration"] == {"front": {"file": "cameras.yaml"}}
    path.write_text(yaml.safe_dump({"cameras": {"front": {**entry_of(camera), "height": SIZE // 2}}}))
    with pytest.raises(InvalidCameraError, match="aspect"):
        next(episodes(demo[0], **options, camera_file=path, only_views=("front",)))


def test_a_users_camera_file_may_differ_by_scene_and_by_episode(
    demo: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    camera = front_camera()
    path = tmp_path / "cameras.json"
    cameras = {
        "cameras": {"front": entry_of(camera)},
        "scene_key": "/episode_metadata/file_path",
        "scenes": {"*/episode_1": {"front": entry_of(shifted(camera, 1))}, "*": {"side": entry_of(camera)}},
        "episodes": {"train/00000/000002": {"front": entry_of(shifted(camera, 2))}},
    }
    path.write_text(json.dumps(cameras))
    options = without_calibration(demo[1], tmp_path)
    found = [e.views["front"].camera for e in episodes(demo[0], **options, camera_file=path, only_views=("front",))]
    moved = [c.world_from_camera[0, 3] - camera.world_from_camera[0, 3] for c in found if isinstance(c, Camera)]
    assert np.allclose(moved, [0, 1, 2])


def test_a_users_file_comes_before_the_data_sets_own_cameras(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps({"cameras": {"front": entry_of(shifted(front_camera(), 1))}}))
    given, own = (next(episodes(demo[0], **demo[1], **o)).views for o in ({"camera_file": path}, {}))
    assert given["front"].camera is not None
    assert own["front"].camera is not None
    difference = given["front"].camera.world_from_camera - own["front"].camera.world_from_camera
    assert np.isclose(difference[0, 3], 1)
    assert isinstance(given["wrist"].camera, CameraTrack)


def test_a_camera_on_the_hand_moves_with_the_reported_pose(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    motion = scene.make_motion(FRAMES, 0)
    track = scene.make_cameras(motion, SIZE, ["wrist"])["wrist"]
    gripper_from_camera = np.linalg.inv(motion.world_from_gripper[0]) @ track.world_from_camera[0]
    mounted = {
        "K": track.K[0].tolist(), "width": SIZE, "height": SIZE,
        "tool_from_camera": (w.DEMO_TOOL_FROM_GRIPPER @ gripper_from_camera).tolist(),
    }  # fmt: skip
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps({"cameras": {"wrist": mounted}}))
    options = without_calibration(demo[1], tmp_path)
    found = next(episodes(demo[0], **options, camera_file=path, only_views=("wrist",))).views["wrist"].camera
    assert isinstance(found, CameraTrack)
    assert np.allclose(found.world_from_camera, track.world_from_camera, atol=1e-5)


def test_a_moving_camera_of_another_length_is_refused(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    camera = entry_of(front_camera())
    camera["world_from_camera"] = [camera["world_from_camera"]] * (FRAMES - 1)
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps({"cameras": {"front": camera}}))
    with pytest.raises(FrameCountError, match="another number of poses"):
        next(episodes(demo[0], **demo[1], camera_file=path))


def test_a_lens_that_distorts_is_taken_out_of_the_pictures(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    plain = next(episodes(demo[0], **demo[1])).views["front"]
    camera = entry_of(front_camera())
    camera["distortion"] = {"model": "pinhole", "coefficients": [0.1, 0, 0, 0]}
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps({"cameras": {"front": camera}}))
    bent = next(episodes(demo[0], **demo[1], camera_file=path)).views["front"]
    assert isinstance(bent.camera, Camera)
    assert not np.allclose(bent.camera.K, front_camera().K)
    a, b = (next(v.frames.frames([0])).astype(int) for v in (plain, bent))
    assert np.abs(a - b).mean() > 1


# -- DROID's side files ----------------------------------------------------------------------------------------------


DROID_VIEWS = ("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left")


@pytest.fixture
def droid(tmp_path: Path) -> tuple[Path, Path, np.ndarray[Any, Any]]:
    """A DROID-like data set of two episodes, side files that know the first one, and its camera's 6-D pose."""
    rng = np.random.default_rng(0)
    height, width, steps = 18, 32, 4
    step = {
        "observation": {
            "cartesian_position": w.tensor((6,), "float64"),
            "gripper_position": w.tensor((1,), "float64"),
            **{
                f"{n}_left": w.image((height, width, 3))
                for n in ("exterior_image_1", "exterior_image_2", "wrist_image")
            },
        },
        "language_instruction": w.text(),
    }
    node = w.episode_features(step, episode_metadata={"file_path": w.text(), "recording_folderpath": w.text()})
    made = []
    for number in range(2):
        black = np.zeros((steps, height, width, 3), np.uint8)
        observation = {
            "cartesian_position": rng.uniform(-1, 1, (steps, 6)),
            "gripper_position": np.zeros((steps, 1)),
            **dict.fromkeys(DROID_VIEWS, black),
        }
        path = f"/nfs/kun2/data/r2d2/r2d2-data-full/LAB/success/2023-07-0{number + 1}/Fri_Jul/trajectory.h5"
        steps_ = {"observation": observation, "language_instruction": ["move it"] * steps, **w.flags(steps)}
        made.append({"steps": steps_, "episode_metadata": {"file_path": path, "recording_folderpath": "x"}})
    folder = w.write_rlds(tmp_path / "data", "droid", node, {"train": made})
    side = tmp_path / "side"
    side.mkdir()
    pose = rng.uniform(-1, 1, 6)
    files = {
        "cam2base_extrinsics.json": {"ID1": {"11": pose.tolist(), "quality_metric": 0.9}},
        "intrinsics.json": {"ID1": {"11": [520.0, 640.0, 521.0, 360.0]}, "ID2": {"12": [1, 1, 1, 1]}},
        "camera_serials.json": {
            "ID1": {"ext1_cam_serial": "11", "ext2_cam_serial": "22"},
            "ID2": {"ext1_cam_serial": "12"},
        },
        "episode_id_to_path.json": {"ID1": "LAB/success/2023-07-01/Fri_Jul", "ID2": "LAB/success/2023-07-02/Fri_Jul"},
    }  # fmt: skip
    for name, content in files.items():
        (side / name).write_text(json.dumps(content))
    return folder, side, pose


def test_droid_cameras_come_from_side_files_scaled_to_the_pictures(
    droid: tuple[Path, Path, np.ndarray[Any, Any]],
) -> None:
    folder, side, pose = droid
    options = RLDSOptions(droid_calibration=side, only_views=("exterior_image_1_left",), tool_from_gripper="identity")
    converter = RLDSConverter(options)
    first, second = converter.discover(str(folder))
    episode = converter.read(first)
    camera = episode.views["exterior_image_1_left"].camera
    assert isinstance(camera, Camera)
    # [fx, cx, fy, cy] at 1280x720, for pictures of a fortieth of that; the pose is camera-to-base, Euler "xyz".
    # OpenCV's K: the centre of the first pixel is at 0, in the smaller picture as well.
    half = 0.5 - 0.5 / 40
    assert np.allclose(camera.K, [[13.0, 0, 16.0 - half], [0, 13.025, 9.0 - half], [0, 0, 1]])
    assert np.allclose(camera.world_from_camera[:3, 3], pose[:3])
    assert np.allclose(camera.world_from_camera[:3, :3], Rotation.from_euler("xyz", pose[3:]).as_matrix())
    assert episode.provenance["calibration"]["exterior_image_1_left"]["droid"]["serial"] == "11"
    with pytest.raises(MissingCalibrationError, match=r"ID2.*serial 12.*--poses-only"):
        converter.read(second)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "--droid-calibration FOLDER"),
        ({"only_views": ("exterior_image_2_left",)}, "serial 22"),
        ({"only_views": ("wrist_image_left",)}, "no serial"),
    ],
)
def test_droid_views_that_the_side_files_do_not_know_are_refused(
    droid: tuple[Path, Path, np.ndarray[Any, Any]], options: dict[str, Any], says: str
) -> None:
    folder, side, _ = droid
    given = {**options, "tool_from_gripper": "identity"}
    if options:
        given["droid_calibration"] = side
    with pytest.raises(MissingCalibrationError, match=says):
        next(episodes(folder, **given))


def test_an_episode_that_the_side_files_do_not_list_is_refused(droid: tuple[Path, Path, np.ndarray[Any, Any]]) -> None:
    folder, side, _ = droid
    (side / "episode_id_to_path.json").write_text("{}")
    options = {"droid_calibration": side, "only_views": ("exterior_image_1_left",), "tool_from_gripper": "identity"}
    with pytest.raises(MissingCalibrationError, match="do not know this episode"):
        next(episodes(folder, **options))


# -- references ------------------------------------------------------------------------------------------------------


def test_references_change_with_the_record_and_with_the_files_that_the_user_gives(
    demo: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    def prints(**options: Any) -> list[str]:
        return [r.fingerprint for r in RLDSConverter(RLDSOptions(**options)).discover(str(demo[0]))]

    path = tmp_path / "cameras.json"
    path.write_text(json.dumps({"cameras": {"front": entry_of(front_camera())}}))
    plain, given = prints(**demo[1]), prints(**demo[1], camera_file=path)
    assert len(set(plain)) == 3
    assert prints(**demo[1]) == plain
    assert not set(plain) & set(given)
    path.write_text(json.dumps({"cameras": {"front": entry_of(shifted(front_camera(), 1))}}))
    assert not set(given) & set(prints(**demo[1], camera_file=path))


def test_a_reference_to_a_record_that_has_changed_is_refused(tmp_path: Path) -> None:
    def write(seed: int) -> tuple[Path, dict[str, Any]]:
        folder, _, options = w.write_rlds_demo(
            tmp_path / str(seed), episodes=1, frames=2, size=32, seed=seed, cameras=("front",)
        )
        return folder, options

    (folder, options), (other, _) = write(0), write(5)
    converter = RLDSConverter(RLDSOptions(**options))
    (ref,) = converter.discover(str(folder))
    (file,), (others,) = folder.glob("*.tfrecord-*"), other.glob("*.tfrecord-*")
    file.write_bytes(others.read_bytes())
    with pytest.raises(BadFileError, match="the file has changed"):
        converter.read(ref)


def test_splits_and_slices_choose_the_episodes(demo: tuple[Path, dict[str, Any]]) -> None:
    def ids(split: str) -> list[str]:
        return [r.id for r in RLDSConverter(RLDSOptions(**demo[1], from_split=split)).discover(str(demo[0]))]

    assert ids("train[1:]") == ["train/00000/000001", "train/00000/000002"]
    assert ids("train[:34%]") == ["train/00000/000000"]
    with pytest.raises(WrongFormatError, match="no episodes"):
        ids("train[0:0]")


def test_inspect_prints_features_and_the_first_episodes_values(demo: tuple[Path, dict[str, Any]]) -> None:
    found = RLDSConverter(RLDSOptions(**demo[1])).inspect(str(demo[0]))
    json.dumps(found)
    assert found["splits"] == {"train": {"episodes": 3, "files": 1, "absent": 0}}
    assert found["first episode"] == {"id": "train/00000/000000", "steps": FRAMES}
    observation = found["features"]["steps"]["observation"]
    assert observation["front_rgb"].startswith(f"uint8 ({SIZE}, {SIZE}, 3) jpeg: ({FRAMES}, {SIZE}, {SIZE}, 3)")
    assert observation["ee_pose"].startswith(f"float32 (7): ({FRAMES}, 7) first: ")
    assert found["features"]["episode_metadata"]["file_path"] == "text: 'demo/episode_0'"
    unknown = RLDSConverter().inspect(str(demo[0]))
    assert "--config" in unknown["registry"]


def test_an_instruction_is_never_made_up(tmp_path: Path) -> None:
    node = w.demo_features(32, ("front",))
    one = w._DemoEpisodes(1, 2, 32, ("front",), 0)[0]
    one["steps"]["language_instruction"] = ["", "  "]
    folder = w.write_rlds(tmp_path, w.DEMO_NAME, node, {"train": [one]})
    config = tmp_path / "entry.yaml"
    config.write_text(yaml.safe_dump(w.demo_entry(("front",))))
    with pytest.raises(InvalidTextError, match="--instruction"):
        next(episodes(folder, config=config))
    assert next(episodes(folder, config=config, instruction="tidy up")).instruction == "tidy up"


# -- BridgeData V2 ---------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_bridge_poses_move_as_the_stored_actions_say(sample_data: Path) -> None:
    """Deltas of consecutive states correlate with the actions on every axis; openness follows the gripper's action."""
    source = sample_data / "rlds" / "bridge_dataset"
    read = list(episodes(source, poses_only=True))
    actions = [e["steps"]["action"] for e in open_rlds(source).episodes("train", only=["steps/action"])]
    assert len(read) == len(actions) == 25
    moved, turned, opened = [], [], []
    for episode in read:
        t = episode.trajectory
        moved.append(np.diff(t.position, axis=0))
        # In the frame that actions are in: the change of the pose about the base's axes.
        turn = t.rotation[1:] @ t.rotation[:-1].swapaxes(1, 2)
        turned.append(np.asarray(rotations.rotation_vector_from_matrix(turn)))
        opened.append(t.openness)
    action = np.concatenate([a[:-1] for a in actions])
    deltas = np.concatenate([np.concatenate(moved), np.concatenate(turned)], axis=1)
    correlation = [np.corrcoef(deltas[:, i], action[:, i])[0, 1] for i in range(6)]
    assert min(correlation) > 0.7, correlation
    openness, command = np.concatenate(opened), np.concatenate(actions)[:, 6]
    assert np.corrcoef(openness, command)[0, 1] > 0.7
    assert openness[command > 0.5].mean() > openness[command <= 0.5].mean() + 0.2
    # Grippers in these kitchens point down.
    assert np.mean([e.trajectory.rotation[:, 2, 2].mean() for e in read]) < -0.7


@pytest.mark.realdata
def test_bridge_without_cameras_is_refused_and_poses_only_reads_it(sample_data: Path) -> None:
    source = sample_data / "rlds" / "bridge_dataset"
    with pytest.raises(MissingCalibrationError, match="--camera-file"):
        next(episodes(source))
    with pytest.raises(MissingFrameError, match="no such camera"):
        next(episodes(source, poses_only=True, only_views=("image_3",)))
    episode = next(episodes(source, poses_only=True))
    assert list(episode.views) == ["image_0", "image_1", "image_2"]
    with pytest.raises(SourceNotFoundError, match="val"):
        next(episodes(source, poses_only=True, from_split="val"))
    with pytest.raises(AmbiguousSourceError, match="--dataset"):
        next(episodes(source.parent, poses_only=True))


def test_poses_only_shards_say_that_they_have_no_action_images(
    demo: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    converter = RLDSConverter(RLDSOptions(**without_calibration(demo[1], tmp_path), poses_only=True))
    out = tmp_path / "out"
    result = engine.convert(converter, str(demo[0]), out, ConvertOptions.parse(height=64, width=64), num_workers=1)
    assert result.frames == 3 * FRAMES
    assert result.manifest.options.poses_only
    assert engine.verify(out).summary()["ok"]
    for sample in aid.open_dataset(out):
        assert not sample.meta.calibrated
        assert len(sample.trajectory) == FRAMES


@pytest.mark.realdata
def test_the_command_converts_bridge_and_inspects_it(sample_data: Path, tmp_path: Path) -> None:
    source = str(sample_data / "rlds")

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(main, arguments)

    arguments = ["--dataset", "bridge_dataset", "--from-split", "train[:4]", "--views", "image_0", "--size", "64"]
    refused = run("convert", "rlds", source, str(tmp_path / "no"), *arguments)
    assert refused.exit_code == 1
    assert "missing-calibration" in refused.output
    done = run("convert", "rlds", source, str(tmp_path / "out"), *arguments, "--poses-only", "-j", "1", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["frames"] == 40
    shown = run("inspect", str(sample_data / "rlds" / "bridge_dataset"), "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["features"]["steps"]["observation"]["state"].startswith("float32 (7)")
    explained = run("converters", "--explain", "rlds")
    assert explained.exit_code == 0
    assert "rotation_offset" in explained.output

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered import damage_in_the_middle
from sample_mapping import VIEWS, panda_mapping

from actionimg_data.converters.folder import FolderConverter, FolderOptions
from actionimg_data.converters.look.inspection import inspect_source
from actionimg_data.demo.recordings import (
    TeleopLog,
    camera_file,
    make_log,
    read_panda_log,
    select_frames,
    select_poses,
    write_folder,
    write_yaml,
)
from actionimg_data.errors import (
    AmbiguousSourceError,
    BadVideoError,
    FrameCountError,
    InvalidCameraError,
    InvalidSpecError,
    InvalidTrajectoryError,
    MissingCalibrationError,
    SourceNotFoundError,
    UnsafeFileError,
    WrongFormatError,
)
from actionimg_data.geometry import rotations
from actionimg_data.model import CameraTrack, Episode

PANDA = panda_mapping(task="lift")


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return make_log(frames=10, size=64, views=("front", "wrist"))


def read(folder: Path, mapping: dict[str, Any], **options: Any) -> Episode:
    path = write_yaml(folder.parent / "mapping.yaml", mapping)
    converter = FolderConverter(FolderOptions(mapping=str(path), **options))
    (ref,) = converter.discover(str(folder))
    return converter.read(ref)


def check_against(episode: Episode, log: TeleopLog, metres: float = 1e-9) -> None:
    truth = log.truth()
    np.testing.assert_allclose(episode.trajectory.position, truth.position, atol=metres)
    turned = rotations.angle_between(episode.trajectory.rotation, truth.rotation)
    assert np.max(np.asarray(turned)) < 1e-6
    np.testing.assert_allclose(episode.trajectory.openness, truth.openness, atol=1e-9)
    np.testing.assert_allclose(episode.trajectory.times, truth.times, atol=1e-6)


# The real recording.


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["episode_1", "episode_2"])
def test_the_real_recording_gives_the_true_pose_at_every_frame(sample_data: Path, tmp_path: Path, name: str) -> None:
    folder = sample_data / "teleop" / name
    path = write_yaml(tmp_path / "m.yaml", PANDA)
    converter = FolderConverter(FolderOptions(mapping=str(path)))
    refs = [r for r in converter.discover(str(sample_data / "teleop")) if r.id == name]
    episode = converter.read(refs[0])
    with np.load(folder / "truth.npz") as archive:
        truth = archive["world_from_gripper"]
    rotation = np.asarray(rotations.matrix_from_quaternion(truth[:, 3:7])) @ np.array(
        [[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]
    )
    assert np.linalg.norm(episode.trajectory.position - truth[:, :3], axis=1).max() * 1e3 <= 0.01
    assert np.degrees(np.asarray(rotations.angle_between(episode.trajectory.rotation, rotation))).max() <= 0.01
    np.testing.assert_allclose(episode.trajectory.openness, truth[:, 7] / 0.08, atol=1e-6)
    assert (len(episode), episode.fps, episode.sync, episode.instruction) == (
        100,
        20.0,
        "measured",
        "lift the red cube",
    )
    assert isinstance(episode.views["robot0_eye_in_hand"].camera, CameraTrack)
    calibration = json.loads((folder / "calibration.json").read_text())["cameras"]
    for view in VIEWS:
        camera = episode.views[view].camera
        assert camera is not None
        np.testing.assert_allclose(camera.world_from_camera, calibration[view]["camera_to_world"], atol=1e-9)
        np.testing.assert_array_equal(np.broadcast_to(calibration[view]["intrinsics"], camera.K.shape), camera.K)


@pytest.mark.realdata
def test_dropped_frames_and_poses_of_the_real_recording_stay_under_half_a_millimetre(
    sample_data: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    log = read_panda_log(sample_data / "teleop" / "episode_1", ["agentview"])
    keep = np.flatnonzero(rng.random(len(log.frame_times)) > 0.1)
    poses = np.flatnonzero(rng.random(len(log.times)) > 0.1)
    poses = np.union1d(poses, [0, len(log.times) - 1])
    truth = select_frames(log, keep).truth()
    # The robot's samples come up to 5 ms off their grid, each with the true stamp of its moment.
    moved = select_poses(log, poses)
    at = np.clip(moved.times + rng.uniform(-0.005, 0.005, len(poses)), log.times[0], log.times[-1])
    at = np.sort(at)
    moved = TeleopLog(at, log.tool_at(at), log.width_at(at), log.frame_times, log.views)
    written = select_frames(moved, keep)
    mapping = write_folder(written, tmp_path / "rec")
    mapping["pose"]["rotation"]["checked"] = True
    episode = read(tmp_path / "rec", mapping)
    assert len(episode) == len(keep)
    assert np.linalg.norm(episode.trajectory.position - truth.position, axis=1).max() * 1e3 < 0.5
    assert episode.sync_residual_s is not None
    assert episode.sync_residual_s.max() < 0.02


@pytest.mark.realdata
def test_quaternions_of_the_real_recording_written_wxyz_raise_a_question(sample_data: Path, tmp_path: Path) -> None:
    folder = sample_data / "teleop" / "episode_1"
    mapping = json.loads(json.dumps(PANDA))
    mapping["pose"]["rotation"]["order"] = "wxyz"
    path = write_yaml(tmp_path / "m.yaml", mapping)
    converter = FolderConverter(FolderOptions(mapping=str(path)))
    (ref,) = converter.discover(str(folder))
    with pytest.raises(AmbiguousSourceError, match=r"are the quaternions really wxyz\?.*robot0_eye_in_hand"):
        converter.read(ref)
    for name in VIEWS[1:]:
        del mapping["views"][name]
    converter = FolderConverter(FolderOptions(mapping=str(write_yaml(tmp_path / "m2.yaml", mapping))))
    with pytest.raises(AmbiguousSourceError, match=r"are the quaternions really wxyz\?.*away from down"):
        converter.read(ref)


# Every kind of table and of pictures.


@pytest.mark.parametrize("table", ["csv", "jsonl", "npz", "parquet", "h5"])
def test_every_kind_of_table_gives_the_same_episode(log: TeleopLog, tmp_path: Path, table: Any) -> None:
    mapping = write_folder(log, tmp_path / "rec", table, "png")
    episode = read(tmp_path / "rec", mapping)
    check_against(episode, log)
    for name, view in episode.views.items():
        pictures = np.stack(list(view.frames.frames(range(len(episode)))))
        np.testing.assert_array_equal(pictures, log.views[name].pictures)


def test_videos_give_the_pictures_up_to_the_codec(log: TeleopLog, tmp_path: Path) -> None:
    episode = read(tmp_path / "rec", write_folder(log, tmp_path / "rec"))
    for name, view in episode.views.items():
        pictures = np.stack(list(view.frames.frames(range(len(episode)))))
        assert np.abs(pictures.astype(int) - log.views[name].pictures).mean() < 4


def test_millimetres_and_degrees_and_offsets(log: TeleopLog, tmp_path: Path) -> None:
    mapping = write_folder(log, tmp_path / "rec", "npz", "png")
    from scipy.spatial.transform import Rotation

    late = 0.0125
    np.savez(
        tmp_path / "rec" / "poses.npz",
        ms=np.round((log.times - late) * 1e6).astype(np.int64),
        place=log.world_from_tool[:, :3, 3] * 1e3,
        rpy=Rotation.from_quat(log.quaternion_xyzw).as_euler("ZYX", degrees=True),
        width=log.width_m * 1e3,
    )
    mapping["pose"].update(
        time={"column": "ms", "unit": "us", "offset_s": late},
        position={"columns": ["place"], "unit": "mm"},
        rotation={"columns": ["rpy"], "form": "euler", "order": "ZYX", "unit": "deg"},
    )
    mapping["gripper"] = {"columns": ["width"], "closed": 0, "open": 80, "kind": "measured"}
    check_against(read(tmp_path / "rec", mapping), log, metres=1e-6)


def test_many_demonstrations_in_one_hdf5_are_an_episode_each(log: TeleopLog, tmp_path: Path) -> None:
    import h5py

    tool = log.tool_at(log.frame_times)
    from scipy.spatial.transform import Rotation

    (tmp_path / "d").mkdir()
    with h5py.File(tmp_path / "d" / "demos.hdf5", "w") as file:
        for demo in (0, 1, 10):
            group = file.create_group(f"data/demo_{demo}")
            group["obs/pos"] = tool[:, :3, 3] + demo
            group["obs/quat"] = Rotation.from_matrix(tool[:, :3, :3]).as_quat()
            group["obs/width"] = log.width_at(log.frame_times)
            group["obs/front_image"] = log.views["front"].pictures[:, ::-1]
    cameras = camera_file(log)["cameras"]
    mapping = {
        "version": 1,
        "format": "folder",
        "group": "data/demo_*",
        "instruction": {"text": "lift the red cube"},
        "pose": {
            "file": "*.hdf5",
            "position": {"columns": ["obs/pos"], "unit": "m"},
            "rotation": {"columns": ["obs/quat"], "form": "quaternion", "order": "xyzw"},
            "tool_from_gripper": dict(log.tool_from_gripper),
        },
        "gripper": {"columns": ["obs/width"], "closed": 0, "open": 0.08, "kind": "measured"},
        "views": {"front": {"frames": "#obs/front_image", "camera": {"entry": cameras["front"]}, "flip": "vertical"}},
        "sync": {"mode": "rows", "fps": 20},
    }
    path = write_yaml(tmp_path / "m.yaml", mapping)
    converter = FolderConverter(FolderOptions(mapping=str(path)))
    refs = list(converter.discover(str(tmp_path / "d")))
    assert list(converter.discover(str(tmp_path / "d" / "demos.hdf5"))) == refs
    assert FolderConverter.detect(str(tmp_path / "d" / "demos.hdf5")) is not None
    assert [r.location["group"] for r in refs] == ["data/demo_0", "data/demo_1", "data/demo_10"]
    assert len({r.id for r in refs}) == 3
    first, second = converter.read(refs[0]), converter.read(refs[1])
    check_against(first, log, metres=1e-9)
    assert first.sync == "assumed"
    np.testing.assert_allclose(second.trajectory.position - first.trajectory.position, 1, atol=1e-12)
    np.testing.assert_array_equal(next(first.views["front"].frames.frames([3])), log.views["front"].pictures[3])


def test_pictures_in_a_zarr_array_and_a_table_in_a_subfolder(log: TeleopLog, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    mapping = write_folder(log, tmp_path / "rec", "csv", "png")
    group = zarr.create_group(store=tmp_path / "rec" / "images.zarr")
    group.create_array("cam/front", data=log.views["front"].pictures)
    (tmp_path / "rec" / "low_dim").mkdir()
    (tmp_path / "rec" / "poses.csv").rename(tmp_path / "rec" / "low_dim" / "poses.csv")
    mapping["pose"]["file"] = "low_dim/poses.csv"
    mapping["views"]["front"]["frames"] = "images.zarr#cam/front"
    episode = read(tmp_path / "rec", mapping)
    check_against(episode, log)
    np.testing.assert_array_equal(next(episode.views["front"].frames.frames([4])), log.views["front"].pictures[4])
    mapping["views"]["front"]["frames"] = "images.zarr#cam/side"
    with pytest.raises(WrongFormatError, match=r"has no such array.*cam/front"):
        read(tmp_path / "rec", mapping)


def test_a_camera_on_the_hand_and_a_tracked_camera_move_with_their_poses(log: TeleopLog, tmp_path: Path) -> None:
    wrist = log.views["wrist"].world_from_camera
    tool = log.tool_at(log.frame_times)
    mapping = write_folder(log, tmp_path / "rec", "csv", "png")
    entry = {k: v for k, v in camera_file(log)["cameras"]["wrist"].items() if k != "world_from_camera"}
    mount = np.linalg.inv(tool[0]) @ wrist[0]
    mapping["views"]["wrist"]["camera"] = {"entry": {**entry, "tool_from_camera": mount.tolist()}}
    episode = read(tmp_path / "rec", mapping)
    camera = episode.views["wrist"].camera
    assert isinstance(camera, CameraTrack)
    np.testing.assert_allclose(camera.world_from_camera, wrist, atol=1e-9)

    np.savez(tmp_path / "rec" / "tracker.npz", t=log.frame_times, pose=wrist.reshape(-1, 16))
    stream = {
        "file": "tracker.npz",
        "time": {"column": "t", "unit": "s"},
        "matrix": {"columns": ["pose"], "order": "row", "unit": "m"},
    }
    mapping["views"]["wrist"]["camera"] = {"entry": entry, "poses": stream}
    camera = read(tmp_path / "rec", mapping).views["wrist"].camera
    assert isinstance(camera, CameraTrack)
    np.testing.assert_allclose(camera.world_from_camera, wrist, atol=1e-9)


def test_poses_in_another_frame_than_the_cameras_are_carried_over(log: TeleopLog, tmp_path: Path) -> None:
    world_from_base = np.eye(4)
    world_from_base[:3, 3] = [1, 2, 3]
    in_base = np.linalg.inv(world_from_base) @ log.world_from_tool
    shifted = TeleopLog(log.times, in_base, log.width_m, log.frame_times, log.views, log.tool_from_gripper)
    mapping = write_folder(shifted, tmp_path / "rec", "csv", "png")
    mapping["pose"]["world_from_frame"] = world_from_base.tolist()
    check_against(read(tmp_path / "rec", mapping), log)


# Discovery.


def test_folders_are_found_recognised_and_told_apart(log: TeleopLog, tmp_path: Path) -> None:
    for name in ("run10", "run2", "skip1"):
        mapping = write_folder(log, tmp_path / "src" / name, "csv", "mp4" if name == "run2" else "png")
    found = FolderConverter.detect(str(tmp_path / "src"))
    assert found is not None
    assert "poses.csv" in found.details
    mapping["episodes"] = "run*"
    path = write_yaml(tmp_path / "m.yaml", mapping)
    converter = FolderConverter(FolderOptions(mapping=str(path)))
    refs = list(converter.discover(str(tmp_path / "src")))
    assert [r.id for r in refs] == ["run2", "run10"]
    before = refs[1].fingerprint
    (tmp_path / "src" / "run10" / "poses.csv").write_text("time_s\n")
    assert [r.fingerprint for r in converter.discover(str(tmp_path / "src"))][1] != before


def test_nothing_is_recognised_in_an_empty_folder(tmp_path: Path) -> None:
    assert FolderConverter.detect(str(tmp_path)) is None
    assert FolderConverter.detect(str(tmp_path / "none")) is None


def test_no_episode_says_what_was_looked_for(log: TeleopLog, tmp_path: Path) -> None:
    mapping = write_folder(log, tmp_path / "rec", "csv", "png")
    mapping["pose"]["file"] = "ee.csv"
    path = write_yaml(tmp_path / "m.yaml", mapping)
    with pytest.raises(WrongFormatError, match=r"no episode found.*folders that hold ee\.csv"):
        list(FolderConverter(FolderOptions(mapping=str(path))).discover(str(tmp_path)))


# Bad input.


def spoil_shorter_video(folder: Path, mapping: dict[str, Any]) -> None:
    times = (folder / "frame_times.csv").read_text().splitlines()
    (folder / "frame_times.csv").write_text("\n".join([*times, "10,0.6", "11,0.65"]) + "\n")


def spoil_no_calibration(folder: Path, mapping: dict[str, Any]) -> None:
    (folder / "calibration.json").unlink()


def spoil_camera_name(folder: Path, mapping: dict[str, Any]) -> None:
    mapping["views"]["front"]["camera"]["name"] = "side"


def spoil_no_pose(folder: Path, mapping: dict[str, Any]) -> None:
    value = json.loads((folder / "calibration.json").read_text())
    del value["cameras"]["front"]["world_from_camera"]
    (folder / "calibration.json").write_text(json.dumps(value))


def spoil_size(folder: Path, mapping: dict[str, Any]) -> None:
    value = json.loads((folder / "calibration.json").read_text())
    value["cameras"]["front"]["width"] = 128
    (folder / "calibration.json").write_text(json.dumps(value))


def spoil_extrinsics(folder: Path, mapping: dict[str, Any]) -> None:
    value = json.loads((folder / "calibration.json").read_text())
    value["cameras"]["front"]["extrinsics"] = value["cameras"]["front"].pop("world_from_camera")
    (folder / "calibration.json").write_text(json.dumps(value))


def spoil_backwards(folder: Path, mapping: dict[str, Any]) -> None:
    lines = (folder / "poses.csv").read_text().splitlines()
    (folder / "poses.csv").write_text("\n".join([lines[0], *lines[30:], *lines[1:30]]) + "\n")


def spoil_gap(folder: Path, mapping: dict[str, Any]) -> None:
    lines = (folder / "poses.csv").read_text().splitlines()
    (folder / "poses.csv").write_text("\n".join([*lines[:11], *lines[31:]]) + "\n")


def spoil_gripper(folder: Path, mapping: dict[str, Any]) -> None:
    mapping["gripper"]["open"] = 0.04


def spoil_missing_video(folder: Path, mapping: dict[str, Any]) -> None:
    (folder / "front.mp4").unlink()


def spoil_no_video(folder: Path, mapping: dict[str, Any]) -> None:
    (folder / "front.mp4").write_bytes(b"\0" * 4000)


def spoil_outside(folder: Path, mapping: dict[str, Any]) -> None:
    mapping["views"]["front"]["frames"] = "../elsewhere.mp4"


def spoil_column(folder: Path, mapping: dict[str, Any]) -> None:
    mapping["pose"]["position"]["columns"] = ["x", "y", "z"]


def spoil_tool(folder: Path, mapping: dict[str, Any]) -> None:
    mapping["pose"]["tool_from_gripper"] = {"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, -1]]}


def spoil_stamps(folder: Path, mapping: dict[str, Any]) -> None:
    mapping["views"]["front"]["time"] = None


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (spoil_shorter_video, FrameCountError, r"front.*expected 12 pictures, one for each stamp, found 10"),
        (spoil_no_calibration, SourceNotFoundError, r"calibration\.json"),
        (spoil_camera_name, MissingCalibrationError, r"has no such camera.*front \| wrist.*found side"),
        (spoil_no_pose, MissingCalibrationError, r"front.*pose is not known"),
        (spoil_size, InvalidCameraError, r"front.*expected 128x64, found 64x64.*camera\.scaled"),
        (spoil_extrinsics, WrongFormatError, r"cameras\.front.*which way it goes"),
        (spoil_backwards, InvalidTrajectoryError, "stamps go backwards"),
        (spoil_gap, InvalidTrajectoryError, r"pose.*gap"),
        (spoil_gripper, InvalidTrajectoryError, r"gripper_width_m.*0\.04 \(open\)"),
        (spoil_missing_video, SourceNotFoundError, r"front\.mp4"),
        (spoil_no_video, BadVideoError, "cannot be opened as a video"),
        (spoil_outside, UnsafeFileError, "outside the recording"),
        (spoil_column, WrongFormatError, r"has no such column.*time_s \| x_m"),
        (spoil_tool, InvalidSpecError, r"pose\.tool_from_gripper.*a reflection"),
        (spoil_stamps, AmbiguousSourceError, "has no stamps"),
    ],
)
def test_a_bad_recording_is_refused_with_its_place(
    log: TeleopLog,
    tmp_path: Path,
    spoil: Callable[[Path, dict[str, Any]], None],
    error: type[Exception],
    message: str,
) -> None:
    mapping = write_folder(log, tmp_path / "rec")
    spoil(tmp_path / "rec", mapping)
    with pytest.raises(error, match=message) as caught:
        read(tmp_path / "rec", mapping)
    assert "rec" in str(caught.value) or "mapping.yaml" in str(caught.value) or "mapping: " in str(caught.value)


def test_a_video_that_is_damaged_in_the_middle_fails_when_its_pictures_are_read(log: TeleopLog, tmp_path: Path) -> None:
    mapping = write_folder(log, tmp_path / "rec")
    damage_in_the_middle(tmp_path / "rec" / "front.mp4")
    episode = read(tmp_path / "rec", mapping)
    with pytest.raises(BadVideoError, match=r"front\.mp4"):
        list(episode.views["front"].frames.frames(range(len(episode))))


def test_rows_with_nan_are_left_out_and_counted(log: TeleopLog, tmp_path: Path) -> None:
    mapping = write_folder(log, tmp_path / "rec", "csv", "png")
    lines = (tmp_path / "rec" / "poses.csv").read_text().splitlines()
    fields = lines[20].split(",")
    lines[20] = ",".join([fields[0], "nan", *fields[2:]])
    (tmp_path / "rec" / "poses.csv").write_text("\n".join(lines) + "\n")
    episode = read(tmp_path / "rec", mapping)
    assert episode.provenance["sync"]["left_out"]["poses"] == 1
    assert np.isfinite(episode.trajectory.position).all()


def test_synthetic_times_are_said_to_be_assumed(log: TeleopLog, tmp_path: Path) -> None:
    mapping = write_folder(log, tmp_path / "rec", "csv", "png")
    for view in mapping["views"].values():
        view["time"] = {"fps": 20, "start_s": float(log.frame_times[0])}
    episode = read(tmp_path / "rec", mapping)
    assert episode.sync == "assumed"
    check_against(episode, log)


def test_a_stated_offset_moves_the_poses(log: TeleopLog, tmp_path: Path) -> None:
    mapping = write_folder(log, tmp_path / "rec", "csv", "png")
    early = TeleopLog(
        log.times - 0.03, log.world_from_tool, log.width_m, log.frame_times, log.views, log.tool_from_gripper
    )
    shutil.rmtree(tmp_path / "rec")
    write_folder(early, tmp_path / "rec", "csv", "png")
    episode = read(tmp_path / "rec", mapping, time_offset="0.03")
    check_against(episode, log, metres=1e-9)
    assert episode.provenance["time_offset_s"] == 0.03
    for wrong in ("soon", "nan"):
        with pytest.raises(InvalidSpecError, match="none, auto or seconds"):
            FolderOptions.parse({"time_offset": wrong}, "folder")


def test_inspection_lists_streams_with_rates_and_without_a_mapping_what_is_there(
    log: TeleopLog, tmp_path: Path
) -> None:
    mapping = write_folder(log, tmp_path / "rec")
    path = write_yaml(tmp_path / "m.yaml", mapping)
    shown = FolderConverter(FolderOptions(mapping=str(path))).inspect(str(tmp_path / "rec"))
    assert json.loads(json.dumps(shown)) == shown
    assert shown["streams"]["pose"]["rate_hz"] == 100.0
    assert shown["streams"]["front"]["rate_hz"] == 20.0
    assert shown["time_offset"]["sure"] is False
    plain = inspect_source(FolderConverter(), str(tmp_path / "rec"))
    assert "100" not in plain["tables"]["poses.csv"]["time_s"].split(",")[0] or plain["tables"]["poses.csv"]
    assert set(plain["pictures"]) == {"front", "wrist"}
    assert plain["cameras"] == {"calibration.json": ["front", "wrist"]}

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pytest

from actionimg_data.converters.droid import DroidConverter, DroidOptions
from actionimg_data.demo.recordings import (
    LoggedView,
    TeleopLog,
    droid_camera_file,
    make_log,
    pose6,
    write_droid,
    write_video,
)
from actionimg_data.errors import (
    AmbiguousSourceError,
    BadFileError,
    BadVideoError,
    FrameCountError,
    InvalidTextError,
    MissingCalibrationError,
    SourceNotFoundError,
    UnsafeFileError,
    WrongFormatError,
)
from actionimg_data.geometry import rotations
from actionimg_data.model import Camera, CameraTrack, Episode
from actionimg_data.plausibility.examine import examine

ROLES = ("exterior_1", "exterior_2", "wrist")
SERIALS = {"exterior_1": "20000000", "exterior_2": "20001111", "wrist": "20002222"}
EPISODE = "LAB+0123abcd+2023-07-07-09h-42m-23s"


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return make_log(frames=10, size=64, views=("front", "overhead", "wrist"))


@pytest.fixture
def folder(log: TeleopLog, tmp_path: Path) -> Path:
    (tmp_path / "cameras.json").write_text(json.dumps(droid_camera_file(log)))
    return write_droid(log, tmp_path / "droid")


def converter(tmp_path: Path, log: TeleopLog, **options: Any) -> DroidConverter:
    values = {"tool_from_gripper": json.dumps(log.tool_from_gripper), "camera_file": str(tmp_path / "cameras.json")}
    return DroidConverter(DroidOptions(**{**values, **options}))


def read(tmp_path: Path, log: TeleopLog, *, calibrated: bool = False, **options: Any) -> Episode:
    chosen = converter(tmp_path, log, **options)
    chosen.tell((), (), calibrated)
    (ref,) = chosen.discover(str(tmp_path / "droid"))
    return chosen.read(ref)


@pytest.mark.parametrize("stereo", [False, True])
def test_droid_gives_the_same_episode_in_mono_and_stereo(log: TeleopLog, tmp_path: Path, stereo: bool) -> None:
    (tmp_path / "cameras.json").write_text(json.dumps(droid_camera_file(log)))
    write_droid(log, tmp_path / "droid", stereo)
    episode = read(tmp_path, log)
    truth = log.truth()
    np.testing.assert_allclose(episode.trajectory.position, truth.position, atol=1e-6)
    assert np.asarray(rotations.angle_between(episode.trajectory.rotation, truth.rotation)).max() < 1e-6
    np.testing.assert_allclose(episode.trajectory.openness, truth.openness, atol=1e-9)
    assert (episode.sync, episode.fps, episode.instruction) == ("measured", 20.0, log.instruction)
    for role, logged in zip(ROLES, log.views.values(), strict=True):
        view = episode.views[role]
        assert isinstance(view.camera, CameraTrack if role == "wrist" else Camera)
        expected = np.broadcast_to(logged.world_from_camera, (10, 4, 4))
        np.testing.assert_allclose(view.camera.track(10).world_from_camera, expected, atol=1e-6)
        pictures = np.stack(list(view.frames.frames(range(10))))
        assert np.abs(pictures.astype(int) - logged.pictures).mean() < 4


def test_rows_with_skip_action_are_dropped_or_kept(log: TeleopLog, tmp_path: Path, folder: Path) -> None:
    with h5py.File(folder / "trajectory.h5", "a") as file:
        file["observation/timestamp/skip_action"][:4] = True
    truth = log.truth()
    dropped = read(tmp_path, log)
    np.testing.assert_allclose(dropped.trajectory.position, truth.position[4:], atol=1e-9)
    assert len(read(tmp_path, log, skipped="keep")) == 10


def test_commands_are_where_the_arm_was_told_to_go_and_the_hand_camera_stays_true(
    log: TeleopLog, tmp_path: Path, folder: Path
) -> None:
    state, command = read(tmp_path, log), read(tmp_path, log, trajectory="command")
    assert np.abs(state.trajectory.position - command.trajectory.position).max() > 1e-3
    wrist = command.views["wrist"].camera
    assert isinstance(wrist, CameraTrack)
    np.testing.assert_allclose(wrist.world_from_camera, log.views["wrist"].world_from_camera, atol=1e-6)


def test_the_tools_frame_has_to_be_stated(log: TeleopLog, tmp_path: Path, folder: Path) -> None:
    with pytest.raises(AmbiguousSourceError, match="does not say where the gripper is"):
        list(converter(tmp_path, log, tool_from_gripper=None).discover(str(tmp_path / "droid")))
    # The RLDS copy of the same data has it from the same place.
    own, published = (read(tmp_path, log, tool_from_gripper=tool) for tool in ("identity", "published"))
    ahead = np.linalg.norm(published.trajectory.position - own.trajectory.position, axis=1)
    np.testing.assert_allclose(ahead, 0.1488, atol=1e-9)
    assert (published.provenance["tool"], own.provenance.get("tool")) == ("an estimate", None)


# Side files.


def wide(log: TeleopLog) -> TeleopLog:
    """The log with pictures cut to 16:9, as DROID's are."""
    views = {}
    for name, view in log.views.items():
        K = view.K.copy()
        K[1, 2] -= 14
        views[name] = LoggedView(view.pictures[:, 14:50], K, view.world_from_camera)
    return TeleopLog(log.times, log.world_from_tool, log.width_m, log.frame_times, views, log.tool_from_gripper)


def side_files(log: TeleopLog, folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    K = {}
    for role, view in zip(ROLES, log.views.values(), strict=True):
        scale = 1280 / view.size[0]
        K[SERIALS[role]] = [view.K[0, 0] * scale, view.K[0, 2] * scale, view.K[1, 1] * scale, view.K[1, 2] * scale]
    better = log.views["front"].world_from_camera.copy()
    better[:3, 3] += [0.01, 0.02, 0.03]
    files: dict[str, Any] = {
        "intrinsics.json": {EPISODE: K},
        "cam2base_extrinsic_superset.json": {
            EPISODE: {
                SERIALS["exterior_1"]: pose6(better).tolist(),
                f"{SERIALS['exterior_1']}_quality_metric": 0.93,
                f"{SERIALS['exterior_2']}_quality_metric": 0.11,
            }
        },
        "camera_serials.json": {EPISODE: {"ext1_cam_serial": SERIALS["exterior_1"]}},
        "episode_id_to_path.json": {EPISODE: "LAB/success/2023-07-07/Fri_Jul__7_09:42:23_2023"},
        "droid_language_annotations.json": {
            EPISODE: {"language_instruction1": "lift it", "language_instruction2": "", "language_instruction3": "up"}
        },
        **changes,
    }
    for name, value in files.items():
        if value is not None:
            (folder / name).write_text(json.dumps(value))
    return folder


def test_published_calibration_is_preferred_and_its_quality_kept(log: TeleopLog, tmp_path: Path) -> None:
    cut = wide(log)
    write_droid(cut, tmp_path / "droid")
    side = side_files(cut, tmp_path / "side")
    episode = read(tmp_path, cut, camera_file=None, droid_calibration=str(side))
    first, second = episode.views["exterior_1"].camera, episode.views["exterior_2"].camera
    assert isinstance(first, Camera)
    assert isinstance(second, Camera)
    moved = first.world_from_camera[:3, 3] - cut.views["front"].world_from_camera[:3, 3]
    np.testing.assert_allclose(moved, [0.01, 0.02, 0.03], atol=1e-9)
    np.testing.assert_allclose(second.world_from_camera, cut.views["overhead"].world_from_camera, atol=1e-6)
    # The published file is OpenCV's: the centre of the first of its 1280 x 720 pixels is at 0.
    scale = 1280 / first.width
    centre = (cut.views["front"].K[:2, 2] * scale + 0.5) / scale - 0.5
    np.testing.assert_allclose(first.K[:2, 2], centre, atol=1e-9)
    np.testing.assert_allclose(first.K[:, :2], cut.views["front"].K[:, :2], atol=1e-9)
    notes = episode.provenance["views"]
    assert notes["exterior_1"]["calibration"] == "published"
    assert notes["exterior_1"]["quality"] == {
        "20000000_quality_metric": 0.93,
        "file": "cam2base_extrinsic_superset.json",
    }
    assert notes["exterior_2"]["calibration"] == "recorded"
    assert episode.instructions == ("lift it", "up")
    recorded = read(tmp_path, cut, camera_file=None, droid_calibration=str(side), extrinsics="recorded")
    camera = recorded.views["exterior_1"].camera
    assert isinstance(camera, Camera)
    np.testing.assert_allclose(camera.world_from_camera, cut.views["front"].world_from_camera, atol=1e-6)
    with pytest.raises(MissingCalibrationError, match="no published extrinsics"):
        read(tmp_path, cut, camera_file=None, droid_calibration=str(side), extrinsics="published")
    # --views calibrated: of each episode those that have one.
    known = read(tmp_path, cut, calibrated=True, camera_file=None, droid_calibration=str(side), extrinsics="published")
    assert "exterior_1" in known.views
    assert "exterior_2" not in known.views
    assert known.provenance["views"]["exterior_2"]["calibration"] == "none"


def test_without_metadata_the_episode_is_found_by_its_path(log: TeleopLog, tmp_path: Path) -> None:
    cut = wide(log)
    folder = write_droid(cut, tmp_path / "droid")
    next(folder.glob("metadata_*.json")).unlink()
    side = side_files(cut, tmp_path / "side")
    episode = read(tmp_path, cut, camera_file=None, droid_calibration=str(side), only_views=("exterior_1",))
    assert episode.provenance["episode_id"] == EPISODE


def test_missing_intrinsics_are_refused(log: TeleopLog, tmp_path: Path, folder: Path) -> None:
    with pytest.raises(MissingCalibrationError, match=r"exterior_1 \(20000000\).*--droid-calibration"):
        read(tmp_path, log, camera_file=None)
    side = side_files(wide(log), tmp_path / "side", **{"intrinsics.json": {EPISODE: {}}})
    with pytest.raises(MissingCalibrationError, match="no intrinsics"):
        read(tmp_path, log, camera_file=None, droid_calibration=str(side))


def test_a_damaged_side_file_is_named(log: TeleopLog, tmp_path: Path, folder: Path) -> None:
    side = side_files(wide(log), tmp_path / "side", **{"intrinsics.json": {EPISODE: {SERIALS["exterior_1"]: [1, 2]}}})
    with pytest.raises(BadFileError, match=r"intrinsics\.json.*is not 4 numbers"):
        read(tmp_path, log, camera_file=None, droid_calibration=str(side))


# Discovery and serials.


def test_outcomes_are_told_apart(log: TeleopLog, tmp_path: Path) -> None:
    (tmp_path / "cameras.json").write_text(json.dumps(droid_camera_file(log)))
    write_droid(log, tmp_path / "droid")
    write_droid(log, tmp_path / "droid", outcome="failure")
    source = str(tmp_path / "droid")
    assert len(list(converter(tmp_path, log).discover(source))) == 1
    everything = [r.id for r in converter(tmp_path, log, outcome="all").discover(source)]
    assert [i.split("/")[1] for i in everything] == ["failure", "success"]
    assert len(set(everything)) == 2
    found = DroidConverter.detect(source)
    assert found is not None
    assert found.layout == "DROID raw"
    assert DroidConverter.detect(str(tmp_path / "none")) is None
    with pytest.raises(WrongFormatError, match="no DROID episode found"):
        list(converter(tmp_path, log).discover(str(tmp_path / "droid" / "LAB" / "failure")))


def test_cameras_are_known_by_type_where_the_metadata_does_not_name_them(
    log: TeleopLog, tmp_path: Path, folder: Path
) -> None:
    path = next(folder.glob("metadata_*.json"))
    path.write_text(json.dumps({"current_task": "lift"}))
    episode = read(tmp_path, log)
    assert {n: v["serial"] for n, v in episode.provenance["views"].items()} == SERIALS


def test_inspection_shows_stale_serials_and_streams(log: TeleopLog, tmp_path: Path, folder: Path) -> None:
    shown = DroidConverter().inspect(str(tmp_path / "droid"))
    assert json.loads(json.dumps(shown)) == shown
    assert shown["cameras"]["19999999"] == {"role": None, "type": "varied", "video": False, "recorded_pose": True}
    assert shown["streams"]["robot_state"]["rate_hz"] == 20.0


# Bad input.


def test_a_video_shorter_than_its_trajectory_is_refused(log: TeleopLog, tmp_path: Path, folder: Path) -> None:
    write_video(folder / "recordings/MP4/20000000.mp4", log.views["front"].pictures[:7], 15)
    with pytest.raises(FrameCountError, match=r"20000000\.mp4.*expected 10 pictures.*found 7"):
        read(tmp_path, log)


def test_pictures_that_the_video_itself_says_are_missing_are_found(
    log: TeleopLog, tmp_path: Path, folder: Path
) -> None:
    """The container goes on as if two pictures were lost, where the log's stamps go on evenly."""
    path = folder / "recordings/MP4/20000000.mp4"
    sound = converter(tmp_path, log)
    (ref,) = sound.discover(str(tmp_path / "droid"))
    assert "video-times" not in {f.kind for f in examine(sound.read(ref), sound.limits)}
    gapped = tmp_path / "gapped.mp4"
    with av.open(str(path)) as old, av.open(str(gapped), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [p for p in old.demux(video=0) if p.dts is not None]
        period = packets[1].dts - packets[0].dts
        for k, packet in enumerate(packets):
            if k >= 5:
                packet.pts += 2 * period
                packet.dts += 2 * period
            packet.stream = stream
            new.mux(packet)
    gapped.replace(path)
    (ref,) = sound.discover(str(tmp_path / "droid"))
    found = [f for f in examine(sound.read(ref), sound.limits) if f.kind == "video-times"]
    assert found
    assert "missing" in found[0].found


def test_mono_where_stereo_was_promised_is_read_as_mono_and_recorded(
    log: TeleopLog, tmp_path: Path, folder: Path
) -> None:
    videos = folder / "recordings" / "MP4"
    (videos / "20000000.mp4").rename(videos / "20000000-stereo.mp4")
    episode = read(tmp_path, log)
    assert episode.views["exterior_1"].frames.width == 64
    assert "holds one picture" in episode.provenance["views"]["exterior_1"]["stereo"]


def test_a_video_of_another_aspect_is_refused(log: TeleopLog, tmp_path: Path, folder: Path) -> None:
    write_video(folder / "recordings/MP4/20000000.mp4", log.views["front"].pictures[:, :40], 15)
    with pytest.raises(BadVideoError, match="neither one picture nor two side by side"):
        read(tmp_path, log)


def test_a_missing_video_is_named(log: TeleopLog, tmp_path: Path, folder: Path) -> None:
    (folder / "recordings/MP4/20001111.mp4").unlink()
    with pytest.raises(SourceNotFoundError, match=r"exterior_2.*20001111\.mp4"):
        read(tmp_path, log)
    assert set(read(tmp_path, log, only_views=("exterior_1", "wrist")).views) == {"exterior_1", "wrist"}


def test_external_links_are_refused(log: TeleopLog, tmp_path: Path, folder: Path) -> None:
    with h5py.File(folder / "trajectory.h5", "a") as file:
        file["observation/elsewhere"] = h5py.ExternalLink("/etc/passwd", "/x")
    with pytest.raises(UnsafeFileError, match=r"links to another file.*/etc/passwd"):
        read(tmp_path, log)


def test_external_storage_and_references_are_refused(log: TeleopLog, tmp_path: Path, folder: Path) -> None:
    name = "observation/robot_state/gripper_position"
    (tmp_path / "raw").write_bytes(b"\0" * 80)
    with h5py.File(folder / "trajectory.h5", "a") as file:
        del file[name]
        file.create_dataset(name, (10,), "f8", external=[(str(tmp_path / "raw"), 0, 80)])
    with pytest.raises(UnsafeFileError, match="keeps its values in another file"):
        read(tmp_path, log)
    with h5py.File(folder / "trajectory.h5", "a") as file:
        del file[name]
        references = file.create_dataset(name, (10,), h5py.ref_dtype)
        references[:] = [file.ref] * 10
    with pytest.raises(UnsafeFileError, match="holds references"):
        read(tmp_path, log)


def test_a_truncated_trajectory_is_refused(log: TeleopLog, tmp_path: Path, folder: Path) -> None:
    data = (folder / "trajectory.h5").read_bytes()
    (folder / "trajectory.h5").write_bytes(data[: len(data) // 3])
    with pytest.raises(BadFileError, match="is not a readable HDF5 file"):
        read(tmp_path, log)


def test_a_missing_data_set_and_a_gripper_out_of_range_are_named(log: TeleopLog, tmp_path: Path, folder: Path) -> None:
    name = "observation/robot_state/gripper_position"
    with h5py.File(folder / "trajectory.h5", "a") as file:
        file[name][3] = 85.0
    with pytest.raises(WrongFormatError, match=r"gripper_position: row 3.*found 85"):
        read(tmp_path, log)
    with h5py.File(folder / "trajectory.h5", "a") as file:
        del file[name]
    with pytest.raises(WrongFormatError, match=name):
        read(tmp_path, log)


def test_no_instruction_is_refused(log: TeleopLog, tmp_path: Path, folder: Path) -> None:
    path = next(folder.glob("metadata_*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "current_task": " "}))
    with pytest.raises(InvalidTextError, match="has no instruction"):
        read(tmp_path, log)

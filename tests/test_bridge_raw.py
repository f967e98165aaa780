"""BridgeData V2, raw."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from lab_logs import renamed_cameras, write_bridge_raw

from actionimg_data.cameras.published import published
from actionimg_data.cli import main
from actionimg_data.converters import base
from actionimg_data.converters.bridge_raw import TOOL_FROM_GRIPPER, BridgeRawConverter, BridgeRawOptions
from actionimg_data.demo.recordings import TeleopLog, make_log
from actionimg_data.errors import (
    ActionImgError,
    AmbiguousSourceError,
    FrameCountError,
    InvalidTextError,
    MissingCalibrationError,
    MissingFrameError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
)
from actionimg_data.model import Camera, Episode
from actionimg_data.shards import open_dataset
from actionimg_data.testing import ConverterContract

VIEWS = {"front": "image_0", "overhead": "image_1"}


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return make_log(frames=5, size=48, views=tuple(VIEWS))


@pytest.fixture(scope="module")
def place(log: TeleopLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bridge")
    for number in (2, 10):
        write_bridge_raw(log, place / "src", number)
    (place / "cameras.json").write_text(json.dumps(renamed_cameras(log, VIEWS)))
    return place


def converter(place: Path, **options: Any) -> BridgeRawConverter:
    given = {"camera_file": str(place / "cameras.json"), **options}
    return BridgeRawConverter(BridgeRawOptions(**given))


def first(found: BridgeRawConverter, source: Path) -> Episode:
    return found.read(next(found.discover(str(source))))


def changed(folder: Path, **arrays: Any) -> None:
    """Write other arrays into a trajectory's observations; None takes one out."""
    path = folder / "obs_dict.pkl"
    value = {**pickle.loads(path.read_bytes()), **arrays}
    path.write_bytes(pickle.dumps({k: v for k, v in value.items() if v is not None}))


class TestBridgeRawKeepsTheContract(ConverterContract):
    @pytest.fixture
    def converter(self, place: Path) -> BridgeRawConverter:
        return converter(place)

    @pytest.fixture
    def source(self, place: Path) -> Path:
        return place / "src"


def test_the_pose_is_eef_transform_and_one_is_open(log: TeleopLog, place: Path) -> None:
    episode = first(converter(place), place / "src")
    truth = log.truth()
    np.testing.assert_allclose(episode.trajectory.world_from_gripper, truth.world_from_gripper, atol=1e-9)
    np.testing.assert_allclose(episode.trajectory.openness, truth.openness, atol=1e-9)
    assert episode.fps == pytest.approx(5)
    assert episode.sync == "measured"
    assert episode.instructions == ("put the cube on the table",)
    assert list(episode.views) == ["image_0", "image_1"]
    shown = next(iter(episode.views["image_1"].frames.frames([2])))
    assert np.abs(shown.astype(int) - log.views["overhead"].pictures[2]).mean() < 6  # JPEG
    assert list(base.detect(str(place / "src"))) == ["bridge-raw"]


def test_pictures_of_old_recordings_are_a_step_late(log: TeleopLog, place: Path, tmp_path: Path) -> None:
    write_bridge_raw(log, tmp_path / "src", date="2021-07-22_10-00-00", delay=1)
    episode = first(converter(place), tmp_path / "src")
    assert len(episode) == 4
    assert episode.provenance["camera_lag_steps"] == 1
    np.testing.assert_allclose(episode.trajectory.position, log.truth().position[:4], atol=1e-9)
    shown = np.stack(list(episode.views["image_0"].frames.frames(range(4)))).astype(int)
    assert np.abs(shown - log.views["front"].pictures[:4]).mean() < 6
    assert len(first(converter(place, camera_lag="0"), tmp_path / "src")) == 5
    loose = tmp_path / "loose"
    next((tmp_path / "src").rglob("traj0")).rename(loose)
    with pytest.raises(AmbiguousSourceError, match="--camera-lag 0"):
        first(converter(place), loose)


def test_the_published_camera_is_of_the_first_view_alone(log: TeleopLog, place: Path) -> None:
    found = BridgeRawConverter(BridgeRawOptions(cameras="published"))
    pictures = log.views["front"].pictures[:, :36]  # 4:3, as Bridge's are
    wide = {k: v.__class__(pictures, v.K, v.world_from_camera) for k, v in log.views.items()}
    source = place / "wide"
    write_bridge_raw(TeleopLog(**{**log.__dict__, "views": wide}), source)
    episode = first(found, source)
    camera = episode.views["image_0"].camera
    said = published()["bridge_dataset"].cameras["over_shoulder"].calibrated("estimate")
    assert list(episode.views) == ["image_0"]
    assert isinstance(camera, Camera)
    np.testing.assert_allclose(camera.K[:2], said.K[:2] * 48 / 640, atol=0.5)
    np.testing.assert_allclose(camera.world_from_camera, said.world_from_camera)
    assert episode.views["image_0"].origin is not None
    with pytest.raises(MissingCalibrationError, match="image_1"):
        first(BridgeRawConverter(BridgeRawOptions(cameras="published", only_views=("image_1",))), source)
    with pytest.raises(MissingCalibrationError, match="--cameras published"):
        first(BridgeRawConverter(), source)
    assert first(BridgeRawConverter(BridgeRawOptions(poses_only=True)), source).views["image_1"].camera is None


def test_the_hands_frame_is_that_of_the_widowx() -> None:
    """x forward: a hand in Bridge's default rotation points straight down."""
    top_down = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    gripper = top_down @ TOOL_FROM_GRIPPER[:3, :3]
    np.testing.assert_allclose(gripper[:, 2], [0, 0, -1])
    assert np.linalg.det(gripper) == pytest.approx(1)


def lost_picture(folder: Path) -> None:
    (folder / "images0" / "im_2.jpg").unlink()


def lost_last_picture(folder: Path) -> None:
    (folder / "images1" / "im_4.jpg").unlink()


def lost_camera(folder: Path) -> None:
    for path in (folder / "images1").iterdir():
        path.unlink()


def no_transform(folder: Path) -> None:
    changed(folder, eef_transform=None)


def other_rows(folder: Path) -> None:
    changed(folder, full_state=np.zeros((4, 7)))


def no_numbers(folder: Path) -> None:
    changed(folder, full_state=np.zeros((5, 6)))


def other_pickle(folder: Path) -> None:
    (folder / "obs_dict.pkl").write_bytes(pickle.dumps([1, 2]))


def evil_pickle(folder: Path) -> None:
    (folder / "obs_dict.pkl").write_bytes(b"\x80\x02cos\nsystem\n(S'true'\ntR.")


def no_text(folder: Path) -> None:
    (folder / "lang.txt").write_text("confidence: 0.5\n")


@pytest.mark.parametrize(
    ("damage", "kind", "named"),
    [
        (lost_picture, MissingFrameError, "images0.*number 2"),
        (lost_last_picture, FrameCountError, "images1"),
        (lost_camera, MissingFrameError, "images1"),
        (no_transform, UnsupportedSourceError, "eef_transform"),
        (other_rows, FrameCountError, "full_state"),
        (no_numbers, WrongFormatError, r"\(T, 7\)"),
        (other_pickle, WrongFormatError, "obs_dict.pkl"),
        (evil_pickle, UnsafeFileError, "obs_dict.pkl"),
        (no_text, InvalidTextError, "instruction"),
    ],
)
def test_what_is_wrong_is_named_and_the_others_are_read(
    damage: Any, kind: type[ActionImgError], named: str, log: TeleopLog, place: Path, tmp_path: Path
) -> None:
    bad = write_bridge_raw(log, tmp_path / "src", 0)
    write_bridge_raw(log, tmp_path / "src", 1)
    damage(bad)
    found = converter(place)
    wrong, right = found.discover(str(tmp_path / "src"))
    with pytest.raises(kind, match=named):
        found.read(wrong)
    assert len(found.read(right)) == 5


def test_bytes_behind_a_jpeg_do_no_harm(log: TeleopLog, place: Path, tmp_path: Path) -> None:
    folder = write_bridge_raw(log, tmp_path / "src")
    for path in (folder / "images0").iterdir():
        path.write_bytes(path.read_bytes() + bytes(100))
    shown = next(iter(first(converter(place), tmp_path / "src").views["image_0"].frames.frames([3])))
    assert np.abs(shown.astype(int) - log.views["front"].pictures[3]).mean() < 6


def test_a_damaged_episode_goes_to_quarantine_and_the_others_are_converted(
    log: TeleopLog, place: Path, tmp_path: Path
) -> None:
    for number in range(3):
        write_bridge_raw(log, tmp_path / "src", number)
    lost_picture(next((tmp_path / "src").rglob("traj1")))
    words = ["convert", "bridge-raw", str(tmp_path / "src"), str(tmp_path / "out"), "--size", "48", "-j", "1"]
    result = CliRunner().invoke(main, [*words, "--camera-file", str(place / "cameras.json")])
    assert result.exit_code == 4, result.output
    (row,) = map(json.loads, (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines())
    assert "traj1" in json.dumps(row)
    assert "images0" in json.dumps(row)
    assert len(open_dataset(tmp_path / "out")) == 2


def test_without_stamps_the_rate_is_asked_for(log: TeleopLog, place: Path, tmp_path: Path) -> None:
    changed(write_bridge_raw(log, tmp_path / "src"), time_stamp=None)
    with pytest.raises(AmbiguousSourceError, match="--fps"):
        first(converter(place), tmp_path / "src")
    episode = first(converter(place, fps=5), tmp_path / "src")
    assert (episode.fps, episode.sync) == (5, "assumed")

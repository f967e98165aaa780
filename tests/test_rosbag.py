from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags")

from actionimg_data.converters.kit.bags import messages
from actionimg_data.converters.kit.bags.pictures import decode_message
from actionimg_data.converters.kit.bags.tf import TfTree
from actionimg_data.converters.rosbag import RosbagConverter, RosbagOptions
from actionimg_data.demo.recordings import TeleopLog, make_log, write_rosbag, write_yaml
from actionimg_data.errors import (
    AmbiguousSourceError,
    BadFileError,
    BadImageError,
    InvalidCameraError,
    UnsupportedSourceError,
    WrongFormatError,
)
from actionimg_data.geometry import rotations
from actionimg_data.model import Camera, CameraTrack, Episode

STORAGES = ("mcap", "sqlite3", "ros1")


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return make_log(frames=8, size=48, views=("front", "wrist"))


def write(log: TeleopLog, tmp_path: Path, storage: Any = "mcap", **options: Any) -> dict[str, Any]:
    mapping = write_rosbag(log, tmp_path / "bags" / ("run.bag" if storage == "ros1" else "run"), storage, **options)
    write_yaml(tmp_path / "m.yaml", mapping)
    return mapping


def read(tmp_path: Path, mapping: dict[str, Any] | None = None, **options: Any) -> Episode:
    if mapping is not None:
        write_yaml(tmp_path / "m.yaml", mapping)
    converter = RosbagConverter(RosbagOptions(mapping=str(tmp_path / "m.yaml"), **options))
    (ref,) = converter.discover(str(tmp_path / "bags"))
    return converter.read(ref)


def check(episode: Episode, log: TeleopLog, names: tuple[str, ...] = ("front", "wrist")) -> None:
    truth = log.truth()
    np.testing.assert_allclose(episode.trajectory.position, truth.position, atol=1e-6)
    assert np.asarray(rotations.angle_between(episode.trajectory.rotation, truth.rotation)).max() < 1e-6
    np.testing.assert_allclose(episode.trajectory.openness, truth.openness, atol=1e-6)
    np.testing.assert_allclose(episode.trajectory.times, truth.times, atol=1e-6)
    assert (episode.instruction, episode.sync) == (log.instruction, "measured")
    assert episode.fps == pytest.approx(20.0, abs=1e-3)
    for name in names:
        view = episode.views[name]
        pictures = np.stack(list(view.frames.frames(range(len(episode)))))
        np.testing.assert_array_equal(pictures, log.views[name].pictures)
        assert isinstance(view.camera, CameraTrack if name == "wrist" else Camera)
        expected = np.broadcast_to(log.views[name].world_from_camera, (len(episode), 4, 4))
        np.testing.assert_allclose(view.camera.track(len(episode)).world_from_camera, expected, atol=1e-6)
        np.testing.assert_allclose(view.camera.track(len(episode)).K[0], log.views[name].K)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("compressed", [False, True])
def test_every_kind_of_bag_gives_the_same_episode(
    log: TeleopLog, tmp_path: Path, storage: str, compressed: bool
) -> None:
    write(log, tmp_path, storage, compressed=compressed)
    check(read(tmp_path), log)


def test_a_single_file_without_its_folder_is_a_bag(log: TeleopLog, tmp_path: Path) -> None:
    write(log, tmp_path)
    (tmp_path / "bags" / "run" / "metadata.yaml").unlink()
    check(read(tmp_path), log)


def test_pictures_are_read_in_any_window(log: TeleopLog, tmp_path: Path) -> None:
    write(log, tmp_path)
    frames = read(tmp_path).views["front"].frames
    for indices in ([5], [0, 7], [3, 4, 6], []):
        got = list(frames.frames(indices))
        assert len(got) == len(indices)
        for picture, i in zip(got, indices, strict=True):
            np.testing.assert_array_equal(picture, log.views["front"].pictures[i])


def test_poses_from_a_tf_chain(log: TeleopLog, tmp_path: Path) -> None:
    mapping = write(log, tmp_path)
    # The wrist camera's frame moves in tf at the times of the pictures: take it as the tool.
    mapping["pose"] = {
        "tf": {"parent": "base", "child": "wrist_optical"},
        "tool_from_gripper": np.linalg.inv(
            np.linalg.inv(log.tool_at(log.frame_times)[0] @ np.eye(4)) @ log.views["wrist"].world_from_camera[0]
        ).tolist(),
    }
    episode = read(tmp_path, mapping)
    np.testing.assert_allclose(episode.trajectory.position, log.tool_at(log.frame_times)[:, :3, 3], atol=1e-6)


def test_numbers_of_a_topic_by_their_fields(log: TeleopLog, tmp_path: Path) -> None:
    mapping = write(log, tmp_path)
    at = "pose.position"
    mapping["pose"].update(
        position={"columns": [f"{at}.{a}" for a in "xyz"], "unit": "m"},
        rotation={
            "columns": [f"pose.orientation.{a}" for a in "xyzw"],
            "form": "quaternion",
            "order": "xyzw",
        },
    )
    check(read(tmp_path, mapping), log)


def test_own_stamps_and_the_times_of_logging_are_told_apart(log: TeleopLog, tmp_path: Path) -> None:
    mapping = write(log, tmp_path, log_delay_s=0.031)
    episode = read(tmp_path)
    assert episode.provenance["stamps"]["/ee_pose"] == "header"
    assert episode.provenance["header_to_log_ms"]["/front/image"] == pytest.approx(31.0, abs=0.01)
    for view in mapping["views"].values():
        view["time"] = {"stamp": "log", "offset_s": -0.031}
    later = read(tmp_path, mapping)
    assert later.provenance["stamps"]["/front/image"] == "log"
    # Seconds since 1970 resolve 0.24 µs, in which this hand moves 2 µm.
    np.testing.assert_allclose(later.trajectory.position, episode.trajectory.position, atol=5e-6)


def test_stamps_that_were_never_set_are_asked_about() -> None:
    found = messages.Messages("sensor_msgs/msg/Image", log=[10**18, 10**18 + 1], header=[0, 0])
    with pytest.raises(AmbiguousSourceError, match="stamp: log"):
        messages.stamps(found, None, 0.0, "bag")
    times, whose = messages.stamps(found, "log", 0.0, "bag")
    assert whose == "log"
    assert times[0] == 1e9


@pytest.mark.realdata
def test_the_sample_bags_open_and_list(sample_data: Path) -> None:
    source = str(sample_data / "teleop" / "rosbag2_tests")
    assert RosbagConverter.detect(source) is not None
    shown = RosbagConverter().inspect(source)
    assert json.loads(json.dumps(shown)) == shown
    assert list(shown["bags"]) == ["cdr_test_0.db3", "wbag_0.db3", "wbag_0.mcap"]
    assert shown["bags"]["wbag_0.mcap"]["topics"] == shown["bags"]["wbag_0.db3"]["topics"]
    assert shown["bags"]["cdr_test_0.db3"]["topics"]["/array_topic"] == "test_msgs/msg/Arrays × 4"
    assert sum(int(t.split()[-1]) for t in shown["bags"]["wbag_0.mcap"]["topics"].values()) == 1246


def test_inspection_of_a_mapped_bag(log: TeleopLog, tmp_path: Path) -> None:
    write(log, tmp_path)
    shown = RosbagConverter(RosbagOptions(mapping=str(tmp_path / "m.yaml"))).inspect(str(tmp_path / "bags"))
    assert shown["streams"]["pose"]["rate_hz"] == pytest.approx(100, abs=0.01)
    assert shown["streams"]["front"]["samples"] == 8


# tf.


def tree(*edges: tuple[str, str, list[float]], stamp: int = 10**9) -> TfTree:
    def transform(parent: str, child: str, at: list[float]) -> Any:
        q = SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
        header = SimpleNamespace(frame_id=parent, stamp=SimpleNamespace(sec=stamp // 10**9, nanosec=0))
        place = SimpleNamespace(x=at[0], y=at[1], z=at[2])
        return SimpleNamespace(
            header=header, child_frame_id=child, transform=SimpleNamespace(translation=place, rotation=q)
        )

    message = SimpleNamespace(transforms=[transform(*e) for e in edges])
    return TfTree({"/tf": messages.Messages("tf2_msgs/msg/TFMessage", [1], [-1], [message])}, "bag")


def test_a_chain_goes_up_and_down_the_tree() -> None:
    found = tree(("world", "/base", [1, 0, 0]), ("base", "tool", [0, 1, 0]), ("world", "camera", [0, 0, 5]))
    np.testing.assert_allclose(found.chain("base", "camera"), [[1, 0, 0, -1], [0, 1, 0, 0], [0, 0, 1, 5], [0, 0, 0, 1]])
    chain = found.chain("world", "tool")
    assert isinstance(chain, np.ndarray)
    np.testing.assert_allclose(chain[:3, 3], [1, 1, 0])
    np.testing.assert_allclose(found.chain("tool", "tool"), np.eye(4))


def test_frames_that_are_not_connected_or_known_or_have_two_parents_are_refused() -> None:
    found = tree(("a", "b", [0, 0, 0]), ("c", "d", [0, 0, 0]))
    with pytest.raises(WrongFormatError, match="are not connected"):
        found.chain("a", "d")
    with pytest.raises(WrongFormatError, match=r"no such frame.*a \| b \| c \| d"):
        found.chain("a", "e")
    with pytest.raises(WrongFormatError, match="two parents"):
        tree(("a", "b", [0, 0, 0]), ("c", "b", [0, 0, 0]))
    with pytest.raises(WrongFormatError, match="circle"):
        tree(("a", "b", [0, 0, 0]), ("b", "a", [0, 0, 0])).chain("a", "b")


# Pictures.


def image(encoding: str, data: np.ndarray, channels: int) -> Any:
    height, width = data.shape[0], data.shape[1] // channels
    padded = np.concatenate([data, np.zeros((height, 5), np.uint8)], axis=1)
    return SimpleNamespace(encoding=encoding, height=height, width=width, step=padded.shape[1], data=padded.ravel())


def test_picture_encodings_become_rgb_and_padding_is_left_out() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    flat = rgb.reshape(6, 24)
    np.testing.assert_array_equal(decode_message(image("rgb8", flat, 3), "x"), rgb)
    bgr = rgb[..., ::-1].reshape(6, 24)
    np.testing.assert_array_equal(decode_message(image("bgr8", bgr, 3), "x"), rgb)
    bgra = np.concatenate([rgb[..., ::-1], rgb[..., :1]], axis=2).reshape(6, 32)
    np.testing.assert_array_equal(decode_message(image("bgra8", bgra, 4), "x"), rgb)
    grey = decode_message(image("mono8", rgb[..., 0], 1), "x")
    np.testing.assert_array_equal(grey, np.repeat(rgb[..., :1], 3, axis=2))


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_are_named_by_their_first_row(pattern: str) -> None:
    colour = np.array([200, 120, 40], np.uint8)
    mosaic = np.zeros((16, 16), np.uint8)
    for i, letter in enumerate(pattern):
        mosaic[i // 2 :: 2, i % 2 :: 2] = colour["rgb".index(letter)]
    out = decode_message(image(f"bayer_{pattern}8", mosaic, 1), "x")
    np.testing.assert_array_equal(out[8, 8], colour)


def test_compressed_pictures_may_be_padded_but_not_cut_off() -> None:
    import cv2

    rgb = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for ending, exact in ((".jpg", False), (".png", True)):
        data = cv2.imencode(ending, rgb[..., ::-1])[1].ravel()
        padded = np.concatenate([data, np.zeros(500, np.uint8)])
        out = decode_message(SimpleNamespace(format="bgr8; compressed", data=padded), "x")
        assert out.shape == rgb.shape
        assert not exact or (out == rgb).all()
        with pytest.raises(BadImageError, match="is truncated"):
            decode_message(SimpleNamespace(format="bgr8; compressed", data=data[: len(data) // 2]), "x")


def test_depth_and_short_pictures_are_refused() -> None:
    with pytest.raises(UnsupportedSourceError, match="16UC1"):
        decode_message(SimpleNamespace(encoding="16UC1", height=1, width=1, step=2, data=np.zeros(2)), "x")
    with pytest.raises(UnsupportedSourceError, match="depth"):
        decode_message(SimpleNamespace(format="16UC1; compressedDepth png", data=np.zeros(2, np.uint8)), "x")
    short = SimpleNamespace(encoding="rgb8", height=4, width=4, step=12, data=np.zeros(40, np.uint8))
    with pytest.raises(BadImageError, match="fewer bytes"):
        decode_message(short, "x")


# CameraInfo.


def info(**changes: Any) -> Any:
    fields = {
        "k": np.array([50.0, 0, 24, 0, 50, 24, 0, 0, 1]),
        "d": np.zeros(5),
        "p": np.array([40.0, 0, 20, 0, 0, 40, 20, 0, 0, 0, 1, 0]),
        "width": 48,
        "height": 48,
        "distortion_model": "plumb_bob",
        "binning_x": 0,
        "binning_y": 0,
        "roi": SimpleNamespace(x_offset=0, y_offset=0),
        **changes,
    }
    return SimpleNamespace(**fields)


def camera_messages(*infos: Any) -> messages.Messages:
    return messages.Messages("sensor_msgs/msg/CameraInfo", [0] * len(infos), [1] * len(infos), list(infos))


def test_camera_info_of_either_ros_rectified_or_not() -> None:
    assert messages.camera_of(camera_messages(info()), False, "x").K[0, 0] == 50
    assert messages.camera_of(camera_messages(info()), True, "x").K[0, 2] == 20
    upper = info()
    for name in "kdp":
        setattr(upper, name.upper(), getattr(upper, name))
        delattr(upper, name)
    assert messages.camera_of(camera_messages(upper), False, "x").K[1, 2] == 24
    bent = messages.camera_of(
        camera_messages(info(d=np.array([0.1, 0, 0, 0]), distortion_model="equidistant")), False, "x"
    )
    assert bent.distortion is not None
    assert bent.distortion.model == "fisheye"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": np.zeros(9)}, "not calibrated"),
        ({"binning_x": 2}, "binned or cropped"),
        ({"roi": SimpleNamespace(x_offset=4, y_offset=0)}, "binned or cropped"),
        ({"distortion_model": "fov", "d": np.ones(1)}, "not supported"),
        ({"d": np.ones(3)}, "coefficients"),
    ],
)
def test_camera_infos_that_no_pinhole_explains(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidCameraError, match=message):
        messages.camera_of(camera_messages(info(**changes)), False, "x")


def test_intrinsics_that_change_are_refused() -> None:
    with pytest.raises(InvalidCameraError, match="changes within the bag"):
        messages.camera_of(camera_messages(info(), info(k=np.array([51.0, 0, 24, 0, 50, 24, 0, 0, 1]))), False, "x")


# Bad input.


@pytest.mark.parametrize("storage", STORAGES)
def test_a_truncated_bag_is_refused(log: TeleopLog, tmp_path: Path, storage: str) -> None:
    write(log, tmp_path, storage)
    path = max((p for p in (tmp_path / "bags").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])

    def read_all() -> None:
        episode = read(tmp_path)
        for view in episode.views.values():
            list(view.frames.frames(range(len(episode))))

    with pytest.raises(BadFileError, match=r"was cut off|is damaged, or no bag"):
        read_all()


def test_missing_topics_and_wrong_types_are_named(log: TeleopLog, tmp_path: Path) -> None:
    mapping = write(log, tmp_path)
    mapping["views"]["front"]["topic"] = "/side/image"
    with pytest.raises(WrongFormatError, match=r"/side/image: has no such topic.*/ee_pose \(geometry_msgs"):
        read(tmp_path, mapping)
    mapping["views"]["front"]["topic"] = "/gripper"
    with pytest.raises(WrongFormatError, match="is not a topic of pictures"):
        read(tmp_path, mapping)
    mapping["views"]["front"]["topic"] = "/front/image"
    mapping["pose"]["topic"] = "/gripper"
    with pytest.raises(WrongFormatError, match="is not a topic of poses"):
        read(tmp_path, mapping)


def test_what_is_no_bag_is_refused(log: TeleopLog, tmp_path: Path) -> None:
    write(log, tmp_path)
    (tmp_path / "other").mkdir()
    for name in ("a.bag", "b.mcap", "c.db3"):
        (tmp_path / "other" / name).write_bytes(b"\0" * 500)
    shown = RosbagConverter().inspect(str(tmp_path / "other"))
    assert all("error" in entry for entry in shown["bags"].values())
    assert RosbagConverter.detect(str(tmp_path / "none")) is None

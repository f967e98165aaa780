"""Whatever is wrong with RLBench demos is told in one line: the file, the field, what was expected, what was found."""

from __future__ import annotations

import contextlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actionimg_data.converters import converter_class
from actionimg_data.converters.rlbench import RLBenchConverter, RLBenchOptions
from actionimg_data.demo.rlbench import pickle_demo
from actionimg_data.errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadFileError,
    BadImageError,
    EmptyEpisodeError,
    FrameCountError,
    InvalidCameraError,
    InvalidTextError,
    InvalidTrajectoryError,
    MissingFrameError,
    SourceNotFoundError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
)
from actionimg_data.model import EpisodeRef
from actionimg_data.testing import write_action_images_tree, write_rlbench_dataset

FRAMES = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rlbench_dataset(tmp_path_factory.mktemp("made") / "data", 2, FRAMES, 32, cameras=("front", "wrist"))


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


@pytest.fixture
def episode(source: Path) -> Path:
    return source / "place_cube/all_variations/episodes/episode0"


def read_all(converter: RLBenchConverter, ref: EpisodeRef) -> None:
    for view in converter.read(ref).views.values():
        for _ in view.frames.frames(range(len(view.frames))):
            pass


def fails(source: Path, error: type[ActionImgError], *parts: str) -> ActionImgError:
    """The first episode fails so, in one line that has all these parts; the second is read."""
    converter = RLBenchConverter()
    refs = list(converter.discover(str(source)))
    assert len(refs) == 2
    with pytest.raises(error) as caught:
        read_all(converter, refs[0])
    assert type(caught.value) is error
    text = str(caught.value)
    for part in parts:
        assert part in text
    assert "\n" not in text
    assert len(converter.read(refs[1])) == FRAMES
    return caught.value


def change_observations(episode: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Rewrite the demo with its observations' attributes changed in place."""
    from actionimg_data.converters.rlbench_tree import DEMO_CLASSES
    from actionimg_data.untrusted import pickles as _safe_pickle

    file = episode / "low_dim_obs.pkl"
    demo = _safe_pickle.load(file, records=DEMO_CLASSES)
    observations = [
        {**o.attributes, "gripper_pose": o.get("gripper_pose").copy(), "misc": dict(o.get("misc"))}
        for o in demo.get("_observations")
    ]
    change(observations)
    file.write_bytes(pickle_demo(observations, None, 0))


def at(frame: int, name: str, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(observations: list[dict[str, Any]]) -> None:
        target = observations[frame]["misc"] if name in observations[frame]["misc"] else observations[frame]
        target[name] = value

    return change


# Sources that are none.


def test_a_missing_source_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="nowhere"):
        list(RLBenchConverter().discover(str(tmp_path / "nowhere")))
    (tmp_path / "file").write_text("")
    with pytest.raises(WrongFormatError, match="not a folder"):
        list(RLBenchConverter().discover(str(tmp_path / "file")))
    assert RLBenchConverter.detect(str(tmp_path / "file")) is None


def test_the_processed_tree_is_refused_with_the_name_of_its_format(tmp_path: Path) -> None:
    write_action_images_tree(tmp_path, 1, 8, 32)
    with pytest.raises(WrongFormatError, match="Use the format action-images"):
        list(RLBenchConverter().discover(str(tmp_path)))
    assert RLBenchConverter.detect(str(tmp_path)) is None


def test_packed_diffuser_actor_demos_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "open_drawer+0").mkdir()
    (tmp_path / "open_drawer+0" / "ep0.dat").write_bytes(b"\x02\x01\x21\x08")
    with pytest.raises(UnsupportedSourceError, match=r"ep0\.dat: 3D Diffuser Actor"):
        list(RLBenchConverter().discover(str(tmp_path)))


def test_demos_without_calibration_are_refused_with_the_reason(source: Path, episode: Path) -> None:
    def without(observations: list[dict[str, Any]]) -> None:
        for o in observations:
            del o["misc"]

    change_observations(episode, without)
    fails(source, UnsupportedSourceError, "low_dim_obs.pkl: misc", "before 1.1")


def test_one_damaged_folder_does_not_hide_the_others(source: Path, episode: Path) -> None:
    shutil.rmtree(episode)
    episode.mkdir()
    fails(source, EmptyEpisodeError, "episode0", "no pictures")


# Pickles.


@pytest.mark.parametrize("keep", [0, 1, 30, -1])
def test_a_truncated_pickle_is_told(source: Path, episode: Path, keep: int) -> None:
    file = episode / "low_dim_obs.pkl"
    file.write_bytes(file.read_bytes()[:keep])
    fails(source, BadFileError, "low_dim_obs.pkl")


def test_a_missing_pickle_is_told(source: Path, episode: Path) -> None:
    (episode / "low_dim_obs.pkl").unlink()
    fails(source, SourceNotFoundError, "low_dim_obs.pkl")


class _Attack:
    def __reduce__(self) -> Any:
        return eval, ("open('pwned', 'w')",)


@pytest.mark.parametrize("name", ["low_dim_obs.pkl", "variation_descriptions.pkl", "variation_number.pkl"])
def test_a_malicious_pickle_is_refused_and_not_run(
    source: Path, episode: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source)
    (episode / name).write_bytes(pickle.dumps(_Attack()))
    fails(source, UnsafeFileError, name, "builtins.eval")
    assert not (source / "pwned").exists()
    refs = RLBenchConverter(RLBenchOptions(variations=(0,))).discover(str(source))
    assert next(refs).id.endswith("episode0")
    assert not (source / "pwned").exists()


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (["open", 3], "[1]"),
        ({"a": 1}, "found dict"),
        (None, "found NoneType"),
    ],
)
def test_descriptions_of_another_kind_are_told(source: Path, episode: Path, value: Any, part: str) -> None:
    (episode / "variation_descriptions.pkl").write_bytes(pickle.dumps(value))
    fails(source, BadFileError, "variation_descriptions.pkl", part)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a" * 10_000, "≤ 4096 characters, found 10000"),
        ("open\x00the drawer", "U+0000"),
        ("open \x1b[31mthe drawer", "U+001B"),
        ("two\nlines", "U+000A"),
        ("   ", "empty"),
        ("bad \ud800 half", "U+D800"),
    ],
)
def test_texts_that_are_no_instruction_are_told(source: Path, episode: Path, text: str, part: str) -> None:
    (episode / "variation_descriptions.pkl").write_bytes(pickle.dumps(["fine", text]))
    fails(source, InvalidTextError, "variation_descriptions.pkl", part)


def test_a_variation_that_is_no_number_is_told(source: Path, episode: Path) -> None:
    (episode / "variation_number.pkl").write_bytes(pickle.dumps("two"))
    fails(source, BadFileError, "variation_number.pkl", "whole number", "found str")


@pytest.mark.parametrize("value", [3, "text", {"_observations": []}, [1, 2]])
def test_a_pickle_that_is_no_demo_is_told(source: Path, episode: Path, value: Any) -> None:
    (episode / "low_dim_obs.pkl").write_bytes(pickle.dumps(value))
    fails(source, BadFileError, "low_dim_obs.pkl")


def test_a_demo_without_observations_is_told(source: Path, episode: Path) -> None:
    change_observations(episode, lambda o: o.clear())
    fails(source, EmptyEpisodeError, "low_dim_obs.pkl", "no observations")


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.binary(max_size=9), st.integers(0, 9)), min_size=1, max_size=4))
def test_a_mutated_demo_is_read_or_refused_by_name(
    fuzzed: tuple[EpisodeRef, Path, bytes], changes: list[tuple[int, bytes, int]]
) -> None:
    ref, file, original = fuzzed
    data = bytearray(original)
    for place, inserted, removed in changes:
        at = place % (len(data) + 1)
        data[at : at + removed] = inserted
    file.write_bytes(data)
    with contextlib.suppress(ActionImgError):
        assert len(RLBenchConverter().read(ref)) == FRAMES


@pytest.fixture(scope="module")
def fuzzed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EpisodeRef, Path, bytes]:
    source = shutil.copytree(made, tmp_path_factory.mktemp("fuzz") / "data")
    ref = next(RLBenchConverter().discover(str(source)))
    file = Path(source) / "place_cube/all_variations/episodes/episode0/low_dim_obs.pkl"
    return ref, file, file.read_bytes()


# Pictures.


def test_more_observations_than_pictures_are_told_with_both_counts(source: Path, episode: Path) -> None:
    change_observations(episode, lambda o: o.extend([o[-1]] * 424))
    fails(source, FrameCountError, "front_rgb: front", "429 pictures, one an observation", "found 5 pictures")


def test_more_pictures_than_observations_are_told(source: Path, episode: Path) -> None:
    shutil.copy(episode / "wrist_rgb/4.png", episode / "wrist_rgb/5.png")
    fails(source, FrameCountError, "wrist_rgb: wrist", "5 pictures, one an observation", "found 6 pictures")


def test_a_missing_frame_in_the_middle_is_named(source: Path, episode: Path) -> None:
    (episode / "front_rgb/2.png").unlink()
    fails(source, MissingFrameError, "front_rgb/2.png: front", "5 pictures", "found 4")


def test_pictures_numbered_from_one_are_told(source: Path, episode: Path) -> None:
    (episode / "front_rgb/0.png").rename(episode / "front_rgb/5.png")
    fails(source, MissingFrameError, "front_rgb/0.png")


def test_a_picture_without_a_number_is_told(source: Path, episode: Path) -> None:
    (episode / "front_rgb/2.png").rename(episode / "front_rgb/002.png")
    fails(source, WrongFormatError, "front_rgb", "found 002.png")


@pytest.mark.parametrize("frame", [0, 3])
@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda data: b"", "an empty file"),
        (lambda data: b"<html>not found</html>", "is not a PNG"),
        (lambda data: data[:20], "truncated in its header"),
        (lambda data: data[:-20], "truncated"),
        (lambda data: data[:60] + bytes([data[60] ^ 4]) + data[61:], "checksum"),
        (lambda data: data[:16] + b"\x7f\xff\xff\xff" * 2 + data[24:], "impossible size"),
        (lambda data: cv2.imencode(".png", np.zeros((16, 32, 3), np.uint8))[1].tobytes(), "picture has another size"),
    ],
)
def test_a_picture_that_cannot_be_read_is_told(
    source: Path, episode: Path, frame: int, damage: Callable[[bytes], bytes], part: str, capfd: Any
) -> None:
    file = episode / f"front_rgb/{frame}.png"
    file.write_bytes(damage(file.read_bytes()))
    if part == "picture has another size" and frame == 0:
        fails(source, InvalidCameraError, "misc[front_camera_intrinsics]", "another size", "32x16")
    else:
        fails(source, BadImageError, f"front_rgb/{frame}.png", part)
    assert capfd.readouterr() == ("", "")


def test_a_picture_deleted_after_the_plan_is_told(source: Path, episode: Path) -> None:
    converter = RLBenchConverter()
    frames = converter.read(next(converter.discover(str(source)))).views["front"].frames
    (episode / "front_rgb/2.png").unlink()
    with pytest.raises(MissingFrameError, match=r"front_rgb/2\.png"):
        list(frames.frames([0, 2]))


# Poses and cameras.


@pytest.mark.parametrize(
    ("name", "value", "error", "parts"),
    [
        ("gripper_pose", np.full(7, np.nan), InvalidTrajectoryError, ("not finite", "position")),
        ("gripper_pose", np.array([0, 0, 1, 0, 0, 0, 0.9]), InvalidTrajectoryError, ("quaternion_xyzw[3]", "0.9")),
        ("gripper_pose", np.array([0, 0, 1, 0, 0, 0, np.inf]), InvalidTrajectoryError, ("not finite",)),
        ("gripper_pose", np.full(7, 1e200), InvalidTrajectoryError, ("quaternion_xyzw[3]",)),
        ("front_camera_extrinsics", np.full((4, 4), 1e200), InvalidCameraError, ("front world_from_camera",)),
        ("front_camera_extrinsics", np.diag([1e200, 1, 1, 1]), InvalidCameraError, ("rotation", "frame 3")),
        ("gripper_pose", np.zeros(6), BadFileError, ("observation 3: gripper_pose", "(7,)", "(6,)")),
        ("gripper_pose", None, BadFileError, ("observation 3: gripper_pose", "NoneType")),
        ("gripper_pose", "x", BadFileError, ("observation 3: gripper_pose", "str")),
        ("gripper_open", None, BadFileError, ("observation 3: gripper_open", "a number")),
        ("gripper_open", 1.5, InvalidTrajectoryError, ("openness[3]", "0 … 1", "1.5")),
        ("gripper_open", np.nan, InvalidTrajectoryError, ("openness",)),
        (
            "front_camera_extrinsics",
            np.diag([1.0, 1, -1, 1]),
            InvalidCameraError,
            ("front world_from_camera", "reflection"),
        ),
        ("front_camera_extrinsics", np.diag([2.0, 1, 1, 1]), InvalidCameraError, ("front", "rotation", "frame 3")),
        ("front_camera_extrinsics", np.full((4, 4), np.nan), InvalidCameraError, ("front", "not finite")),
        ("front_camera_extrinsics", np.eye(3), BadFileError, ("misc[front_camera_extrinsics]", "(4, 4)", "(3, 3)")),
        ("front_camera_intrinsics", np.zeros((3, 3)), InvalidCameraError, ("front_camera_intrinsics", "another size")),
        (
            "front_camera_intrinsics",
            np.array([[40.0, 0, 16], [0, 40, 16], [0, 0, 1]]),
            AmbiguousSourceError,
            ("front_camera_intrinsics", "fx, fy < 0"),
        ),
        (
            "front_camera_intrinsics",
            np.array([[-40.0, 0, 64], [0, -40, 64], [0, 0, 1]]),
            InvalidCameraError,
            ("another size", "principal point 16, 16"),
        ),
    ],
)
def test_poses_and_cameras_that_cannot_be_true_are_told(
    source: Path, episode: Path, name: str, value: Any, error: type[ActionImgError], parts: tuple[str, ...]
) -> None:
    change_observations(episode, at(3, name, value))
    fails(source, error, "low_dim_obs.pkl", *parts)


def test_calibration_that_lacks_a_frame_is_told(source: Path, episode: Path) -> None:
    def without(observations: list[dict[str, Any]]) -> None:
        del observations[2]["misc"]["wrist_camera_extrinsics"]

    change_observations(episode, without)
    fails(source, BadFileError, "observation 2: misc[wrist_camera_extrinsics]", "NoneType")


def test_the_error_of_every_bad_episode_has_a_reason_code(source: Path, episode: Path) -> None:
    (episode / "front_rgb/2.png").unlink()
    assert fails(source, MissingFrameError, "2.png").code == "missing-frame"
    assert converter_class("rlbench") is RLBenchConverter

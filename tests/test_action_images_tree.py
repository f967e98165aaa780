"""The processed tree of the published training code is read as that code reads it, without its silent fallbacks."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actionimg_data.converters import detect
from actionimg_data.converters.action_images import ActionImagesConverter, ActionImagesOptions
from actionimg_data.demo import scene
from actionimg_data.errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadFileError,
    BadVideoError,
    EmptyEpisodeError,
    FrameCountError,
    InvalidCameraError,
    InvalidTrajectoryError,
    MissingFrameError,
    SourceNotFoundError,
    UnsafeFileError,
    WrongFormatError,
)
from actionimg_data.model import CameraTrack, Episode, EpisodeRef
from actionimg_data.testing import ConverterContract, write_action_images_tree, write_rlbench_dataset
from actionimg_data.video import VideoFrames
from actionimg_data.video.encode import encode_bytes, rgb_encoding

POSES, SIZE = 45, 48
FRAMES = 12  # ceil(45 / 4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_action_images_tree(tmp_path_factory.mktemp("made") / "data", 3, POSES, SIZE, views=("front", "wrist"))


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


@pytest.fixture
def episode(source: Path) -> Path:
    return source / "rlbench/place_cube/variation0/episodes/episode0"


class TestActionImagesKeepsTheContract(ConverterContract):
    @pytest.fixture
    def converter(self) -> ActionImagesConverter:
        return ActionImagesConverter()

    @pytest.fixture
    def source(self, made: Path) -> Path:
        return made


def refs(source: Path, **options: Any) -> list[EpisodeRef]:
    return list(ActionImagesConverter(ActionImagesOptions(**options)).discover(str(source)))


def read_all(source: Path, **options: Any) -> Episode:
    converter = ActionImagesConverter(ActionImagesOptions(**options))
    episode = converter.read(next(converter.discover(str(source))))
    for view in episode.views.values():
        for _ in view.frames.frames(range(len(view.frames))):
            pass
    return episode


def fails(source: Path, error: type[ActionImgError], *parts: str, **options: Any) -> None:
    with pytest.raises(error) as caught:
        read_all(source, **options)
    assert type(caught.value) is error
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_tree_is_detected_and_told_from_rlbenchs_own(made: Path, tmp_path: Path) -> None:
    assert list(detect(str(made))) == ["action-images"]
    write_rlbench_dataset(tmp_path, 1, 2, 16, cameras=("front",))
    assert ActionImagesConverter.detect(str(tmp_path)) is None
    with pytest.raises(WrongFormatError, match="no processed episode"):
        refs(tmp_path)


def test_episodes_are_found_at_every_depth(made: Path) -> None:
    expected = [
        "place_cube/variation0/episode0",
        "place_cube/variation0/episode1",
        "place_cube/variation1/episode0",
    ]
    assert [r.id for r in refs(made)] == [f"rlbench/{i}" for i in expected]
    assert [r.id for r in refs(made / "rlbench")] == expected
    assert [r.id for r in refs(made / "rlbench/place_cube/variation1")] == expected[2:]
    assert len(refs(made, tasks=("place_cube",))) == 3
    with pytest.raises(WrongFormatError, match="expected place_cube, found other"):
        refs(made, tasks=("other",))


def test_frame_j_of_a_video_shows_pose_4_j(made: Path) -> None:
    episode = read_all(made)
    motion = scene.make_motion(POSES, 0, "red")
    assert len(episode) == FRAMES
    assert episode.fps == 5
    assert episode.provenance["actions_per_frame"] == 4
    assert episode.provenance["fps_source"] == "video container"
    assert episode.provenance["variation"] == 0
    assert episode.instruction == "put the red cube on the green mat"
    assert np.allclose(episode.trajectory.world_from_gripper, motion.world_from_gripper[::4], atol=1e-12)
    assert np.array_equal(episode.trajectory.openness, motion.gripper_open[::4])
    assert np.allclose(np.diff(episode.trajectory.times), 0.2)
    renderer = scene.SceneRenderer(motion, SIZE)
    names = {"view0": "front", "view1": "wrist"}
    truths = scene.make_cameras(motion, SIZE)
    for view_name, view in episode.views.items():
        track = truths[names[view_name]].track(POSES)
        assert isinstance(view.camera, CameraTrack)
        assert np.allclose(view.camera.world_from_camera, track.world_from_camera[::4], atol=1e-12)
        assert np.allclose(view.camera.K, track.K[::4])
        truth = np.stack([renderer.draw(track[i], i).rgb for i in range(0, POSES, 4)]).astype(float)
        for j, picture in enumerate(view.frames.frames(range(FRAMES))):
            distance = np.abs(picture - truth).mean((1, 2, 3))
            assert distance[j] < 8  # compressed, and small for the codec
            assert distance[j] == distance.min()


def test_cameras_with_positive_focal_lengths_are_taken_as_opencv(source: Path, episode: Path) -> None:
    before = read_all(source).views["view0"].camera
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    change_cameras(
        episode,
        lambda p: [
            entry.update(
                intrinsics=(np.array(entry["intrinsics"]) @ flip[:3, :3]).tolist(),
                extrinsics=(np.array(entry["extrinsics"]) @ flip).tolist(),
            )
            for entry in p.values()
        ],
    )
    after = read_all(source).views["view0"].camera
    assert np.allclose(before.K, after.K)
    assert np.allclose(before.world_from_camera, after.world_from_camera)


def change_cameras(episode: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = episode / "view0/camera_params.json"
    params = json.loads(file.read_text())
    change(params)
    file.write_text(json.dumps(params))


@pytest.mark.parametrize(("frames", "poses", "expected"), [(12, 12, 1), (12, 24, 2), (12, 45, 4), (12, 48, 4)])
def test_the_number_of_poses_a_frame_comes_from_the_lengths(
    source: Path, episode: Path, frames: int, poses: int, expected: int
) -> None:
    assert frames == FRAMES
    actions = np.tile([0, 0, 1, 0, 0, 0, 1, 1.0], (poses, 1))
    np.save(episode / "actions.npy", actions)
    assert read_all(source).provenance["actions_per_frame"] == expected


def test_a_number_of_poses_that_is_not_certain_is_asked_for(source: Path, episode: Path) -> None:
    for view in ("view0", "view1"):
        pictures = [np.zeros((SIZE, SIZE, 3), np.uint8)] * 2
        data = encode_bytes(pictures, rgb_encoding(), 5, SIZE, SIZE)
        (episode / view / "rgb/video.mp4").write_bytes(data)
        params = json.loads((episode / view / "camera_params.json").read_text())
        kept = {key: params[key] for key in ("0000", "0001")}
        (episode / view / "camera_params.json").write_text(json.dumps(kept))
    np.save(episode / "actions.npy", np.load(episode / "actions.npy")[:7])
    fails(source, AmbiguousSourceError, "actions.npy", "actions_per_frame", "4, 5, 6", "--actions-per-frame")
    assert read_all(source, actions_per_frame=4).provenance["actions_per_frame"] == 4
    fails(source, FrameCountError, "3 frames for 7 poses, 3 a frame", "found 2", actions_per_frame=3)


def test_lengths_that_fit_no_whole_number_are_told(source: Path, episode: Path) -> None:
    np.save(episode / "actions.npy", np.load(episode / "actions.npy")[:11])
    fails(source, FrameCountError, "actions.npy", "ceil(11 / r)", "12 frames")


def test_the_rate_is_the_containers_or_the_one_given(source: Path, episode: Path) -> None:
    assert read_all(source, fps=10).fps == 10
    pictures = [np.zeros((SIZE, SIZE, 3), np.uint8)] * FRAMES
    (episode / "view1/rgb/video.mp4").write_bytes(encode_bytes(pictures, rgb_encoding(), 24, SIZE, SIZE))
    fails(source, AmbiguousSourceError, "view1/rgb/video.mp4", "fps", "--fps", "found 24")
    assert read_all(source, fps=5).provenance["fps_source"] == "option"


def test_a_rate_that_the_container_does_not_state_is_asked_for(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoFrames, "fps", property(lambda self: None))
    fails(source, AmbiguousSourceError, "a rate in the container", "--fps")


# Bad input.


def test_videos_of_different_lengths_are_told(source: Path, episode: Path) -> None:
    pictures = [np.zeros((SIZE, SIZE, 3), np.uint8)] * 11
    (episode / "view1/rgb/video.mp4").write_bytes(encode_bytes(pictures, rgb_encoding(), 5, SIZE, SIZE))
    fails(source, FrameCountError, "view1", "12 frames", "found 11")


@pytest.mark.parametrize("contents", [b"", b"no video", None])
def test_a_video_that_is_none_is_told(source: Path, episode: Path, contents: bytes | None) -> None:
    file = episode / "view0/rgb/video.mp4"
    file.unlink() if contents is None else file.write_bytes(contents)
    fails(source, SourceNotFoundError if contents is None else BadVideoError, "view0/rgb/video.mp4")


def test_a_truncated_video_is_told(source: Path, episode: Path) -> None:
    file = episode / "view0/rgb/video.mp4"
    data = file.read_bytes()
    for keep in (len(data) // 4, len(data) // 2, 40):
        file.write_bytes(data[:keep])
        fails(source, BadVideoError, "view0/rgb/video.mp4")


@pytest.mark.parametrize(
    ("change", "error", "parts"),
    [
        (lambda p: p.pop("0007"), MissingFrameError, ("0007", "12 cameras", "found 11")),
        (lambda p: p.update({"0012": p["0000"]}), FrameCountError, ("found 13",)),
        (lambda p: p["0003"].pop("extrinsics"), BadFileError, ("0003.extrinsics",)),
        (lambda p: p["0003"].update(intrinsics="x"), BadFileError, ("0003.intrinsics",)),
        (lambda p: p["0003"].update(intrinsics=[[10**400] * 3] * 3), BadFileError, ("0003.intrinsics",)),
        (lambda p: p["0003"].update(extrinsics=np.eye(3).tolist()), BadFileError, ("0003.extrinsics", "(4, 4)")),
        (lambda p: p["0003"].update(extrinsics=(2 * np.eye(4)).tolist()), InvalidCameraError, ("world_from_camera",)),
        (lambda p: p["0003"].update(extrinsics=np.full((4, 4), np.nan).tolist()), InvalidCameraError, ("finite",)),
        (lambda p: p["0003"].update(intrinsics=np.diag([-9.0, 9, 1]).tolist()), InvalidCameraError, ("reflection",)),
    ],
)
def test_cameras_that_cannot_be_true_are_told(
    source: Path,
    episode: Path,
    change: Callable[[dict[str, Any]], Any],
    error: type[ActionImgError],
    parts: tuple[str, ...],
) -> None:
    change_cameras(episode, change)
    fails(source, error, "view0/camera_params.json", *parts)


@pytest.mark.parametrize("text", ["{", "[1, 2]", "[" * 100_000, "\xff"])
def test_a_camera_file_that_is_no_json_is_told(source: Path, episode: Path, text: str) -> None:
    (episode / "view0/camera_params.json").write_bytes(text.encode("latin1"))
    fails(source, BadFileError, "view0/camera_params.json")


def test_a_missing_camera_file_is_told(source: Path, episode: Path) -> None:
    (episode / "view0/camera_params.json").unlink()
    fails(source, SourceNotFoundError, "view0/camera_params.json")


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"no array",
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 8)}", bytes(64)),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (45, 8)}", pickle.dumps([1])),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (45, 7)}", bytes(45 * 7 * 8)),
        npy("{'descr': '<U4', 'fortran_order': False, 'shape': (45, 8)}", bytes(45 * 8 * 16)),
        npy("__import__('os').system('touch pwned')"),
    ],
)
def test_actions_that_are_no_array_are_told(
    source: Path, episode: Path, contents: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source)
    (episode / "actions.npy").write_bytes(contents)
    fails(source, BadFileError, "actions.npy")
    assert not (source / "pwned").exists()


@pytest.mark.parametrize(
    ("column", "value", "part"), [(0, np.nan, "not finite"), (6, 3.0, "unit quaternion"), (7, 1.5, "openness")]
)
def test_poses_that_cannot_be_true_are_told(source: Path, episode: Path, column: int, value: float, part: str) -> None:
    actions = np.load(episode / "actions.npy")
    actions[8, column] = value
    np.save(episode / "actions.npy", actions)
    fails(source, InvalidTrajectoryError, "actions.npy", part)


def test_missing_and_empty_actions_and_missing_views_are_told(source: Path, episode: Path) -> None:
    np.save(episode / "actions.npy", np.zeros((0, 8)))
    fails(source, EmptyEpisodeError, "actions.npy")
    (episode / "actions.npy").unlink()
    fails(source, SourceNotFoundError, "actions.npy")
    np.save(episode / "actions.npy", np.zeros((4, 8)))
    shutil.rmtree(episode / "view0")
    shutil.rmtree(episode / "view1")
    fails(source, EmptyEpisodeError, "episode0", "no views")


def test_malicious_descriptions_are_refused(source: Path) -> None:
    file = source / "rlbench/place_cube/variation0/variation_descriptions.pkl"
    file.write_bytes(b"\x80\x02cposix\nsystem\nX\x05\x00\x00\x00touch\x85R.")
    fails(source, UnsafeFileError, "variation_descriptions.pkl", "posix.system")


def test_a_video_that_changed_after_the_plan_is_told(source: Path, episode: Path) -> None:
    converter = ActionImagesConverter()
    frames = converter.read(next(converter.discover(str(source)))).views["view0"].frames
    with pytest.raises(MissingFrameError, match="found 12"):
        list(frames.frames([FRAMES]))
    pictures = [np.zeros((SIZE, SIZE, 3), np.uint8)] * 5
    (episode / "view0/rgb/video.mp4").write_bytes(encode_bytes(pictures, rgb_encoding(), 5, SIZE, SIZE))
    with pytest.raises(BadVideoError, match="has changed"):
        list(frames.frames([0]))
    other = [np.zeros((32, 32, 3), np.uint8)] * FRAMES
    (episode / "view0/rgb/video.mp4").write_bytes(encode_bytes(other, rgb_encoding(), 5, 32, 32))
    with pytest.raises(BadVideoError, match="has changed"):
        list(frames.frames([0]))

"""CALVIN's data sets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_logs import write_calvin

from actionimg_data.converters import base, calvin_cameras
from actionimg_data.converters.calvin import CalvinConverter, CalvinOptions
from actionimg_data.demo.recordings import TeleopLog, make_log
from actionimg_data.errors import (
    ActionImgError,
    BadFileError,
    BadImageError,
    InvalidTextError,
    MissingCalibrationError,
    MissingFrameError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
)
from actionimg_data.model import Camera, Episode
from actionimg_data.testing import ConverterContract

VIEWS = {"front": "static", "overhead": "overhead"}


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return make_log(frames=5, size=48, views=tuple(VIEWS))


@pytest.fixture(scope="module")
def place(log: TeleopLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("calvin") / "task_D_D"
    write_calvin([log, log], place / "training", VIEWS)
    write_calvin([log], place / "validation", VIEWS)
    return place


@pytest.fixture
def split(place: Path, tmp_path: Path) -> Path:
    """A split of two spans, to be damaged."""
    shutil.copytree(place / "training", tmp_path / "training")
    return tmp_path / "training"


def first(source: Path, **options: Any) -> Episode:
    found = CalvinConverter(CalvinOptions(**options))
    return found.read(next(found.discover(str(source))))


class TestCalvinKeepsTheContract(ConverterContract):
    @pytest.fixture
    def converter(self) -> CalvinConverter:
        return CalvinConverter()

    @pytest.fixture
    def source(self, place: Path) -> Path:
        return place

    @pytest.fixture
    def large_source(self, tmp_path: Path) -> Path:
        (tmp_path / "lang_annotations").mkdir()
        spans = [(i * 64, i * 64 + 63) for i in range(1_500)]
        np.save(tmp_path / "ep_start_end_ids.npy", np.array([[0, 96_000]]))
        told = {"ann": ["push"] * len(spans), "task": ["push"] * len(spans)}
        np.save(tmp_path / "lang_annotations" / "auto_lang_ann.npy", {"language": told, "info": {"indx": spans}})
        return tmp_path


def test_spans_poses_and_cameras_are_those_of_the_tables(log: TeleopLog, place: Path) -> None:
    episode = first(place)
    truth = log.truth()
    np.testing.assert_allclose(episode.trajectory.world_from_gripper, truth.world_from_gripper[1:], atol=1e-6)
    np.testing.assert_allclose(episode.trajectory.openness, truth.openness[1:], atol=1e-6)
    assert (episode.fps, episode.instructions, episode.task) == (30, (log.instruction,), "lift")
    assert list(episode.views) == ["static", "overhead"]
    for view, name in VIEWS.items():
        camera = episode.views[name].camera
        assert isinstance(camera, Camera)
        np.testing.assert_allclose(camera.K, log.views[view].K, atol=1e-6)
        np.testing.assert_allclose(camera.world_from_camera, log.views[view].world_from_camera, atol=1e-6)
        shown = np.stack(list(episode.views[name].frames.frames([0, 3])))
        np.testing.assert_array_equal(shown, log.views[view].pictures[[1, 4]])
    assert episode.views["overhead"].depth is None
    depth = episode.views["static"].depth
    assert depth is not None
    assert (next(iter(depth.frames([2]))) == 1250).all()
    assert list(base.detect(str(place))) == ["calvin"]
    assert list(base.detect(str(place / "training"))) == ["calvin"]


def test_whole_recordings_of_play_need_words(place: Path) -> None:
    with pytest.raises(InvalidTextError, match="--instruction"):
        first(place, spans="play")
    found = CalvinConverter(CalvinOptions(spans="play", instruction="play"))
    refs = list(found.discover(str(place)))
    assert [r.id for r in refs] == ["training/play53818", "training/play54823", "validation/play53818"]
    assert len(found.read(refs[0])) == 5


def gl_view(eye: Any, target: Any, up: Any) -> np.ndarray:
    """``computeViewMatrix``: OpenGL's gluLookAt, camera from world with y up and looking along -z."""
    forward = np.subtract(target, eye) / np.linalg.norm(np.subtract(target, eye))
    right = np.cross(forward, up) / np.linalg.norm(np.cross(forward, up))
    rotation = np.stack([right, np.cross(right, forward), -forward])
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, -rotation @ np.asarray(eye)
    return out


def gl_pixels(points: np.ndarray, view: np.ndarray, fov: float, aspect: float, width: int, height: int) -> np.ndarray:
    """Places ``(N, 2)`` in a picture by ``computeProjectionMatrixFOV``, with (0, 0) its upper left corner."""
    x, y, z = (points @ view[:3, :3].T + view[:3, 3]).T
    scale = 1 / np.tan(np.radians(fov) / 2)
    ndc = np.stack([scale / aspect * x / -z, scale * y / -z], axis=1)
    return np.stack([(ndc[:, 0] + 1) / 2 * width, (1 - ndc[:, 1]) / 2 * height], axis=1)


@pytest.mark.parametrize("aspect", [1.0, 1.5])
def test_static_cameras_stand_where_the_simulator_puts_them(aspect: float) -> None:
    values = {**calvin_cameras.STATIC, "aspect": aspect}
    config = {"cameras": {"static": values}}
    camera = calvin_cameras.configured(config, "static", Path("x"))
    assert camera is not None
    assert camera.world_from_camera is not None
    points = np.array([[0.0, 0.0, 0.5], [0.2, -0.1, 0.6], [-0.3, 0.1, 0.46]])
    view = gl_view(values["look_from"], values["look_at"], values["up_vector"])
    expected = gl_pixels(points, view, values["fov"], aspect, 400, 400)
    found = Camera(camera.K, camera.world_from_camera, 400, 400).project(points)
    # K spans [0, W] x [0, H]: the corner is the origin in both.
    np.testing.assert_allclose(np.asarray(found[0]), expected, atol=1e-6)


def test_the_camera_in_the_hand_is_the_simulators_and_sees_the_fingertips() -> None:
    camera = calvin_cameras.published("gripper")
    assert camera is not None
    assert camera.tool_from_camera is not None
    from scipy.spatial.transform import Rotation

    # The URDF's joint: the link in the hand; the tcp is 0.14 m in front of the hand, with its axes.
    link, place = Rotation.from_euler("xyz", [1.3, 0, -1.57]).as_matrix(), np.array([-0.1, 0.0, 0.0])
    view = gl_view(place, place + link[:, 1], -link[:, 2])
    points = np.array([[0.0, 0.0, 0.14], [0.01, 0.02, 0.12], [-0.02, 0.01, 0.2]])
    expected = gl_pixels(points, view, 75, 1.0, 200, 200)
    found = Camera(camera.K, camera.tool_from_camera, 200, 200).project(points - [0, 0, 0.14])
    np.testing.assert_allclose(np.asarray(found[0]), expected, atol=1e-6)
    assert (expected[0] > 0).all()
    assert (expected[0] < 200).all()


def test_without_its_configuration_a_camera_is_asked_for(log: TeleopLog, tmp_path: Path) -> None:
    write_calvin([log], tmp_path / "training", {"front": "static", "overhead": "gripper"}, config=False)
    with pytest.raises(MissingCalibrationError, match="--cameras published"):
        first(tmp_path)
    episode = first(tmp_path, cameras="published")
    assert isinstance(episode.views["static"].camera, Camera)
    assert episode.views["static"].camera.K[0, 0] == pytest.approx(24 / np.tan(np.radians(5)))
    origin = episode.views["static"].origin
    assert origin is not None
    assert origin.kind == "published"
    assert not isinstance(episode.views["gripper"].camera, Camera)  # it moves with the hand
    assert first(tmp_path, poses_only=True).views["static"].camera is None


def changed(split: Path, number: int, **arrays: Any) -> None:
    """Write a step again with other arrays; None takes one out."""
    path = split / f"episode_{number:07d}.npz"
    with np.load(path) as file:
        values = {**dict(file), **arrays}
    np.savez_compressed(path, **{k: v for k, v in values.items() if v is not None})


def no_step(split: Path) -> None:
    (split / "episode_0053820.npz").unlink()


def no_state(split: Path) -> None:
    changed(split, 53821, robot_obs=None)


def quaternions(split: Path) -> None:
    changed(split, 53821, robot_obs=np.zeros(16))


def cut_step(split: Path) -> None:
    path = split / "episode_0053820.npz"
    path.write_bytes(path.read_bytes()[:-200])


def objects(split: Path) -> None:
    changed(split, 53820, robot_obs=np.array([{}], dtype=object))


@pytest.mark.parametrize(
    ("damage", "kind", "named"),
    [
        (no_step, MissingFrameError, "episode_0053820.npz"),
        (no_state, WrongFormatError, "episode_0053821.npz.*robot_obs"),
        (quaternions, UnsupportedSourceError, "quaternion"),
        (cut_step, BadFileError, "episode_0053820.npz"),
        (objects, UnsafeFileError, "episode_0053820.npz"),
    ],
)
def test_what_is_wrong_is_named_and_the_others_are_read(
    damage: Callable[[Path], None], kind: type[ActionImgError], named: str, split: Path
) -> None:
    damage(split)
    found = CalvinConverter()
    wrong, right = found.discover(str(split))
    with pytest.raises(kind, match=named):
        found.read(wrong)
    assert len(found.read(right)) == 4


def test_a_step_with_another_picture_is_named(split: Path) -> None:
    changed(split, 53821, rgb_static=np.zeros((40, 48, 3), np.uint8))
    changed(split, 53822, rgb_static=None)
    frames = first(split).views["static"].frames
    assert len(list(frames.frames([0, 1]))) == 2
    for index, number in ((2, 53821), (3, 53822)):
        with pytest.raises(BadImageError, match=f"episode_{number:07d}.*rgb_static"):
            list(frames.frames([index]))


@pytest.mark.parametrize("spans", [[(53818, 53823)], [(1, 3)], [(54000, 54001)], [(1, 2, 3)], [("a", "b")]])
def test_a_span_that_leaves_its_recording_is_named(spans: list[Any], split: Path) -> None:
    told = {"language": {"ann": ["x"], "task": ["x"]}, "info": {"indx": spans}}
    np.save(split / "lang_annotations" / "auto_lang_ann.npy", told, allow_pickle=True)
    with pytest.raises(BadFileError, match=r"auto_lang_ann\.npy"):
        list(CalvinConverter().discover(str(split)))


def test_tables_that_are_none_are_named(split: Path) -> None:
    np.save(split / "ep_start_end_ids.npy", np.array([[9, 3]]))
    with pytest.raises(BadFileError, match="ends before it begins"):
        list(CalvinConverter().discover(str(split)))
    np.save(split / "ep_start_end_ids.npy", np.zeros(4))
    with pytest.raises(BadFileError, match="no table"):
        list(CalvinConverter().discover(str(split)))
    shutil.rmtree(split / "lang_annotations")
    np.save(split / "ep_start_end_ids.npy", np.array([[0, 9]]))
    with pytest.raises(UnsupportedSourceError, match="--spans play"):
        list(CalvinConverter().discover(str(split)))


def test_no_folder_of_steps_is_listed(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        raise AssertionError("a folder is listed")

    monkeypatch.setattr(os, "scandir", refused)
    monkeypatch.setattr(os, "listdir", refused)
    assert CalvinConverter.detect(str(split)) is not None
    assert len(first(split)) == 4

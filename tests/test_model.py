from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from actionimg_data.errors import (
    ActionImgError,
    EmptyEpisodeError,
    FrameCountError,
    InvalidArrayError,
    InvalidCameraError,
    InvalidTextError,
    InvalidTrajectoryError,
    WrongFormatError,
)
from actionimg_data.geometry import crop, pinhole, rotations
from actionimg_data.model import (
    ArrayFrames,
    Camera,
    CameraTrack,
    Episode,
    EpisodeRef,
    FrameSource,
    GripperTrajectory,
    View,
    millimetres,
)
from actionimg_data.model.episode import check_instruction

relaxed = settings(deadline=None, max_examples=60)
NAN = float("nan")
K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])


def pose(*batch: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = np.zeros((*batch, 4, 4))
    n = int(np.prod(batch))
    out[..., :3, :3] = Rotation.random(n, rng=rng).as_matrix().reshape(*batch, 3, 3)
    out[..., :3, 3] = rng.normal(size=(*batch, 3))
    out[..., 3, 3] = 1
    return out


def put(array: np.ndarray, value: float, *index: Any) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


def trajectory(n: int = 5, **changes: Any) -> GripperTrajectory:
    rng = np.random.default_rng(1)
    values: dict[str, Any] = {
        "position": rng.normal(size=(n, 3)),
        "quaternion_xyzw": Rotation.random(n, rng=rng).as_quat(),
        "openness": rng.random(n),
        "times": np.arange(n) / 20,
    }
    options = {k: changes.pop(k) for k in ("allow_missing",) if k in changes}
    for name, change in changes.items():
        values[name] = change(values[name]) if callable(change) else change
    return GripperTrajectory(**values, **options)


def assert_refused(call: Callable[[], object], error: type[ActionImgError], words: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    for word in words:
        assert word in str(caught.value), str(caught.value)


# Cameras


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Camera(K[:2], pose(), 640, 480), ("K", "(3, 3)", "(2, 3)")),
        (lambda: Camera("no", pose(), 640, 480), ("K", "numbers", "str")),
        (lambda: Camera(None, pose(), 640, 480), ("K", "(3, 3)")),
        (lambda: Camera([[1, 2], [3]], pose(), 640, 480), ("K", "numbers")),
        (lambda: Camera(put(K, NAN, 0, 2), pose(), 640, 480), ("K", "not finite", "nan at [0, 2]")),
        (lambda: Camera(put(K, -500, 0, 0), pose(), 640, 480), ("K", "fx=-500", "CoppeliaSim")),
        (lambda: Camera(put(K, 0, 1, 1), pose(), 640, 480), ("K", "fy=0")),
        (lambda: Camera(K.T, pose(), 640, 480), ("K", "upper triangular")),
        (lambda: Camera(2 * K, pose(), 640, 480), ("K", "0 0 1")),
        (lambda: Camera(K, pose()[:3], 640, 480), ("world_from_camera", "(4, 4)", "(3, 4)")),
        (lambda: Camera(K, put(pose(), np.inf, 1, 3), 640, 480), ("world_from_camera", "inf at [1, 3]")),
        (lambda: Camera(K, 1.001 * pose(), 640, 480), ("world_from_camera", "0 0 0 1")),
        (
            lambda: Camera(K, pose() @ np.diag([1.01, 1, 1, 1]), 640, 480),
            ("world_from_camera", "not a rotation", "RᵀR"),
        ),
        (lambda: Camera(K, pose() @ np.diag([-1.0, 1, 1, 1]), 640, 480), ("world_from_camera", "reflection")),
        (lambda: Camera(K, pose().T, 640, 480), ("world_from_camera", "0 0 0 1")),
        (lambda: Camera(K, pose(), 0, 480), ("width", "whole number", "found 0")),
        (lambda: Camera(K, pose(), 640, -1), ("height", "found -1")),
        (lambda: Camera(K, pose(), 640.0, 480), ("width", "found 640.0")),
        (lambda: Camera(K, pose(), 640, True), ("height", "found True")),
        (lambda: Camera(K, pose(), 70000, 480), ("width", "65536")),
        (lambda: CameraTrack(K, pose(3), 640, 480), ("K", "(N, 3, 3)")),
        (lambda: CameraTrack(np.stack([K] * 2), pose(3), 640, 480), ("same", "2 and 3")),
        (
            lambda: CameraTrack(np.zeros((0, 3, 3)), np.zeros((0, 4, 4)), 640, 480),
            ("positive number of frames", "0 and 0"),
        ),
        (lambda: CameraTrack(np.stack([K, put(K, -1, 1, 1)]), pose(2), 640, 480), ("K", "fy=-1")),
        (
            lambda: CameraTrack(np.stack([K] * 3), put(pose(3), 9.0, 1, 0, 0), 640, 480),
            ("not a rotation", "at frame 1"),
        ),
        (lambda: Camera(K, pose(), 640, 480).project([[1.0, 2.0]]), ("points_world", "(N, 3)")),
    ],
)
def test_what_no_camera_can_be_is_refused_by_name(call: Callable[[], object], words: tuple[str, ...]) -> None:
    assert_refused(call, InvalidCameraError, words)


def test_a_camera_removes_rounding_and_cannot_be_changed() -> None:
    true = pose()
    rounded = true.copy()
    rounded[:3, :3] = np.round(true[:3, :3], 5)
    camera = Camera(K.astype(np.float32), rounded, np.int64(640), 480)
    assert rotations.orthonormality_error(camera.world_from_camera[:3, :3]) < 1e-14
    np.testing.assert_allclose(camera.world_from_camera, true, atol=2e-5)
    assert type(camera.width) is int
    for array in (camera.K, camera.world_from_camera):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
    rounded[0, 3] += 1
    assert camera.world_from_camera[0, 3] == true[0, 3]


def test_tracks_slice_index_stand_still_and_know_it() -> None:
    camera = Camera(K, pose(), 640, 480)
    track = camera.track(4)
    assert len(track) == 4
    assert track.is_static
    assert track.track(4) is track
    assert_refused(lambda: track.track(5), FrameCountError, ("expected 5", "found 4"))
    moving = CameraTrack(np.stack([K] * 4), pose(4), 640, 480)
    assert not moving.is_static
    assert isinstance(moving[2], Camera)
    np.testing.assert_allclose(moving[2].world_from_camera, moving.world_from_camera[2], atol=1e-15)
    assert isinstance(moving[1::2], CameraTrack)
    np.testing.assert_allclose(moving[1::2].world_from_camera, moving.world_from_camera[[1, 3]], atol=1e-15)
    assert len(moving[np.array([3, 0])]) == 2


@relaxed
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 99))
def test_a_resized_camera_sees_the_same_ray_at_the_scaled_pixel(height: int, width: int, seed: int) -> None:
    camera = Camera(K, pose(seed=seed), 640, 480)
    small = camera.resized(height, width)
    assert (small.height, small.width) == (height, width)
    points = pinhole.unproject(np.array([[320.0, 240.0]]), np.array([1.0]), camera.K, camera.world_from_camera)
    (seen,), valid = small.project(points)
    assert valid.all()
    # The middle of the picture stays there, to the half pixel that an odd crop is off.
    scale = crop.center_crop(480, 640, height, width).scale
    assert (np.abs(seen - [width / 2, height / 2]) <= 0.5 * np.array(scale) + 1e-9).all()
    track = camera.track(2).resized(height, width)
    np.testing.assert_array_equal(track.K[1], small.K)


# Trajectories


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: trajectory(0), ("position", "no frames")),
        (lambda: trajectory(position=lambda a: a[:, :2]), ("position", "(N, 3)", "(5, 2)")),
        (lambda: trajectory(position="x"), ("position", "numbers")),
        (lambda: trajectory(position=lambda a: put(a, NAN, 2, 1)), ("position", "not finite", "nan at [2, 1]")),
        (lambda: trajectory(quaternion_xyzw=lambda a: a[:4]), ("quaternion_xyzw", "(5, 4)", "(4, 4)")),
        (lambda: trajectory(quaternion_xyzw=lambda a: put(a, 0, 3)), ("quaternion_xyzw[3]", "unit", "found 0")),
        (lambda: trajectory(quaternion_xyzw=lambda a: 1.002 * a), ("quaternion_xyzw[0]", "1.002")),
        (lambda: trajectory(openness=lambda a: a[:, None]), ("openness", "(5,)", "(5, 1)")),
        (lambda: trajectory(openness=lambda a: put(a, 1.01, 4)), ("openness[4]", "[0, 1]", "1.01")),
        (lambda: trajectory(openness=lambda a: put(a, -0.5, 1)), ("openness[1]", "-0.5")),
        (lambda: trajectory(openness=lambda a: put(a, NAN, 1)), ("openness", "not finite")),
        (lambda: trajectory(times=lambda a: put(a, 0.1, 3)), ("times[3]", "increase", "> 0.1")),
        (lambda: trajectory(times=lambda a: a[::-1]), ("times", "increase")),
        (lambda: trajectory(times=lambda a: put(a, NAN, 3)), ("times", "not finite")),
        (lambda: trajectory(times=lambda a: a[:3]), ("times", "(5,)", "(3,)")),
        (lambda: trajectory(allow_missing=True, position=lambda a: put(a, NAN, 2, 1)), ("NaN", "frame 2")),
        (
            lambda: trajectory(allow_missing=True, quaternion_xyzw=lambda a: put(a, NAN, 2)),
            ("NaN", "frame 2"),
        ),
        (lambda: trajectory(allow_missing=True, openness=lambda a: put(a, np.inf, 1)), ("openness", "frame 1")),
        (lambda: trajectory()[5:], ("no frames",)),
        (
            lambda: GripperTrajectory.from_transforms(put(pose(3), 9.0, 1, 0, 0), [1] * 3, [0, 1, 2]),
            ("world_from_gripper", "frame 1"),
        ),
        (lambda: GripperTrajectory.from_action7(np.zeros((3, 8)), [0, 1, 2]), ("action_7d", "(N, 7)", "(3, 8)")),
        (lambda: GripperTrajectory.from_action8(np.zeros((3, 8)), [0, 1, 2]), ("quaternion_xyzw[0]", "unit")),
        (
            lambda: GripperTrajectory.from_action8(put(np.zeros((3, 8)), NAN, 1, 1), [0, 1, 2]),
            ("action_8d", "nan at [1, 1]"),
        ),
    ],
)
def test_what_no_trajectory_can_be_is_refused_by_name(call: Callable[[], object], words: tuple[str, ...]) -> None:
    assert_refused(call, InvalidTrajectoryError, words)


@relaxed
@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_actions_and_transforms_go_round(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    quaternion = Rotation.random(n, rng=rng).as_quat() * rng.choice([-1, 1], (n, 1))
    times = np.cumsum(rng.uniform(0.01, 1, n))
    one = GripperTrajectory(rng.normal(size=(n, 3)), quaternion, rng.random(n), times)
    assert len(one) == n
    assert (np.sum(one.quaternion_xyzw[1:] * one.quaternion_xyzw[:-1], axis=-1) >= 0).all()
    for other in (
        GripperTrajectory.from_action7(one.to_action7(), times),
        GripperTrajectory.from_action8(one.to_action8(), times),
        GripperTrajectory.from_transforms(one.world_from_gripper, one.openness, times),
    ):
        np.testing.assert_array_equal(other.position, one.position)
        np.testing.assert_array_equal(other.openness, one.openness)
        np.testing.assert_allclose(other.rotation, one.rotation, atol=3e-7)  # Euler angles near gimbal lock
    np.testing.assert_allclose(one.rotation, Rotation.from_quat(quaternion).as_matrix(), atol=1e-14)


def test_quaternions_are_normalised_and_missing_frames_do_not_break_their_signs() -> None:
    q = np.array([[0, 0, 0, 1.0], [0, 0, 0, -1.0005], [NAN] * 4, [0, 0, 0, -1.0]])
    position = np.array([[0.0] * 3, [0.0] * 3, [NAN] * 3, [0.0] * 3])
    one = GripperTrajectory(position, q, [1, NAN, NAN, 0], [0, 1, 2, 3], allow_missing=True)
    assert one.known.tolist() == [True, True, False, True]
    np.testing.assert_array_equal(one.quaternion_xyzw[[0, 1, 3]], [[0, 0, 0, 1]] * 3)
    assert np.isnan(one.quaternion_xyzw[2]).all()
    assert one[1:3].known.tolist() == [True, False]
    with pytest.raises(ValueError, match="read-only"):
        one.quaternion_xyzw[0] = 1


# Episodes


def episode(n: int = 6, **changes: Any) -> Episode:
    pictures = np.arange(n, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 4, 5, 3), np.uint8)
    camera = Camera(K, pose(), 640, 480)
    values: dict[str, Any] = {
        "id": "task/episode0",
        "views": {"front": View(camera, ArrayFrames(pictures)), "wrist": View(camera.track(n), ArrayFrames(pictures))},
        "trajectory": trajectory(n),
        "fps": 20.0,
        "instructions": ("open the drawer", "pull it"),
    }
    return Episode(**{**values, **changes})


def view(pictures: int, camera: Any = None) -> View:
    return View(camera, ArrayFrames(np.zeros((pictures, 4, 5, 3), np.uint8)))


def with_planes(**planes: Any) -> View:
    return replace(view(6), **{kind: ArrayFrames(array) for kind, array in planes.items()})


def later(path: GripperTrajectory) -> GripperTrajectory:
    return GripperTrajectory(path.position, path.quaternion_xyzw, path.openness, path.times + 0.01)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"views": {}}, EmptyEpisodeError, ("no views",)),
        ({"views": {"a.b": view(6)}}, WrongFormatError, ("view name", "a.b")),
        ({"views": {"": view(6)}}, WrongFormatError, ("view name",)),
        ({"views": {"Front": view(6)}}, WrongFormatError, ("Front",)),
        ({"views": {"front": view(4)}}, FrameCountError, ("front", "6 pictures", "found 4")),
        (
            {"views": {"front": view(6, Camera(K, pose(), 5, 4).track(7))}},
            FrameCountError,
            ("front", "cameras", "found 7"),
        ),
        ({"fps": 0.0}, InvalidTrajectoryError, ("fps", "positive")),
        ({"fps": NAN}, InvalidTrajectoryError, ("fps", "nan")),
        ({"sync": "guessed"}, InvalidTextError, ("sync", "measured or assumed", "guessed")),
        ({"sync_residual_s": np.zeros(5)}, FrameCountError, ("residuals",)),
        ({"instructions": ()}, InvalidTextError, ("no instruction",)),
        ({"instructions": ("ok", "bad\x1b[31m")}, InvalidTextError, ("control character", "U+001B")),
        ({"instructions": ("x" * 4097,)}, InvalidTextError, ("too long", "4097")),
        ({"instructions": ("  ",)}, InvalidTextError, ("empty",)),
        ({"trajectory": None}, InvalidTrajectoryError, ("grippers", "neither")),
        ({"grippers": {"left": trajectory(6)}}, InvalidTrajectoryError, ("grippers", "both")),
        ({"trajectory": None, "grippers": {}}, InvalidTrajectoryError, ("grippers", "neither")),
        (
            {"trajectory": None, "grippers": {"": trajectory(6), "b": trajectory(6)}},
            WrongFormatError,
            ("gripper name",),
        ),
        ({"trajectory": None, "grippers": {"a.b": trajectory(6)}}, WrongFormatError, ("gripper name", "a.b")),
        (
            {"trajectory": None, "grippers": {"left": trajectory(6), "right": trajectory(5)}},
            FrameCountError,
            ("right", "6, as of left", "found 5"),
        ),
        (
            {"trajectory": None, "grippers": {"left": trajectory(6), "right": later(trajectory(6))}},
            InvalidTrajectoryError,
            ("grippers.right.times",),
        ),
        (
            {"views": {"front": with_planes(depth=np.zeros((5, 4, 5), np.uint16))}},
            FrameCountError,
            ("depth", "found 5"),
        ),
        (
            {"views": {"front": with_planes(mask=np.zeros((6, 8, 10), np.uint32))}},
            WrongFormatError,
            ("front", "mask has another size", "5x4", "10x8"),
        ),
    ],
)
def test_what_no_episode_can_be_is_refused_by_name(
    changes: dict[str, Any], error: type[ActionImgError], words: tuple[str, ...]
) -> None:
    assert_refused(lambda: episode(**changes), error, ("task/episode0", *words))


@pytest.mark.parametrize("text", [None, 3, b"bytes", "", "\n", "a\x00b", "line\nbreak", "\u202e", "x" * 5000])
def test_instructions_that_are_not_one_printable_line_are_refused(text: object) -> None:
    with pytest.raises(InvalidTextError, match="instruction"):
        check_instruction(text, "here")


@pytest.mark.parametrize("text", ["open the drawer", "öffne die Schublade", "引き出しを開ける", "x" * 4096, "🙂"])
def test_instructions_in_any_language_are_kept(text: str) -> None:
    assert episode(instructions=(text,)).instruction == text


def test_an_episode_selects_frames_and_views_lazily() -> None:
    whole = episode(6, sync_residual_s=np.arange(6) / 100)
    assert len(whole) == 6
    assert whole.instruction == "open the drawer"
    part = whole.select(range(1, 6, 2))
    assert part.fps == 10
    np.testing.assert_array_equal(part.trajectory.position, whole.trajectory.position[1::2])
    np.testing.assert_array_equal(part.sync_residual_s, [0.01, 0.03, 0.05])
    frames = part.views["wrist"].frames
    assert isinstance(frames, FrameSource)
    assert (frames.width, frames.height, len(frames)) == (5, 4, 3)
    assert [int(f[0, 0, 0]) for f in frames.frames([0, 2])] == [1, 5]
    again = part.select(range(0, 3, 2))
    assert [int(f[0, 0, 0]) for f in again.views["front"].frames.frames([0, 1])] == [1, 5]
    assert again.fps == 5
    camera = again.views["wrist"].camera
    assert isinstance(camera, CameraTrack)
    assert len(camera) == 2
    assert list(whole.with_views(["wrist"]).views) == ["wrist"]
    assert_refused(lambda: whole.with_views(["side"]), WrongFormatError, ("no such view", "front wrist", "side"))
    assert_refused(lambda: whole.select(range(3, 3)), EmptyEpisodeError, ("no frames selected",))


@pytest.mark.parametrize("frames", [range(7), range(5, -1, -1), range(-2, 3), range(4, 9, 2)])
def test_a_selection_that_leaves_the_episode_or_runs_backwards_is_refused(frames: range) -> None:
    assert_refused(lambda: episode(6).select(frames), InvalidArrayError, ("task/episode0", "frames"))


def test_an_episode_has_one_trajectory_or_several_grippers_by_name() -> None:
    one = episode(6)
    assert list(one.grippers) == [""]
    assert one.gripper_names == ()
    assert one.trajectory is one.grippers[""]
    moved = replace(one, trajectory=later(one.trajectory))
    assert moved.times[0] == pytest.approx(one.times[0] + 0.01)
    two = episode(6, trajectory=None, grippers={"right": trajectory(6), "left": trajectory(6)})
    assert two.gripper_names == ("right", "left")
    assert len(two) == 6
    assert_refused(lambda: two.trajectory, InvalidTrajectoryError, ("several grippers", "right left"))
    part = replace(two, fps=10.0).select(range(0, 6, 2))
    assert part.fps == 5
    np.testing.assert_array_equal(part.times, two.times[::2])
    np.testing.assert_array_equal(part.grippers["left"].position, two.grippers["left"].position[::2])


def test_depth_and_masks_are_selected_with_their_view() -> None:
    depth = np.arange(6, dtype=np.uint16)[:, None, None] + np.zeros((1, 4, 5), np.uint16)
    whole = episode(6, views={"front": replace(with_planes(depth=depth), depth_range_m=(0.01, 4.5))})
    front = whole.select(range(1, 6, 2)).views["front"]
    assert front.mask is None
    assert isinstance(front.depth, FrameSource)
    assert (front.depth.width, front.depth.height, len(front.depth)) == (5, 4, 3)
    assert [int(plane[0, 0]) for plane in front.depth.frames([0, 2])] == [1, 5]
    assert front.depth_range_m == (0.01, 4.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_depth_is_rounded_to_millimetres_and_what_is_not_depth_is_nothing(dtype: Any) -> None:
    depth = np.array([[0.0005001, 0.0004, 1.2346, 65.535, 65.536], [0, -1, np.nan, np.inf, 1e30]], dtype)
    assert millimetres(depth).tolist() == [[1, 0, 1235, 65535, 0], [0, 0, 0, 0, 0]]
    assert millimetres(depth).dtype == np.uint16


def test_references_are_small_and_equal_by_value() -> None:
    assert EpisodeRef("a/b", {"path": "x"}, 3, "f") == EpisodeRef("a/b", {"path": "x"}, 3, "f")
    assert EpisodeRef("a").num_frames is None

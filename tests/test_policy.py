"""Observation in, poses out: the tensors of a training sample, canvases, and a robot that follows with care."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_data import make_camera, make_dataset, make_trajectory

from actionimg_data.errors import (
    BadImageError,
    DecodeError,
    FrameCountError,
    InvalidCameraError,
    InvalidSpecError,
    InvalidTrajectoryError,
    MissingViewError,
)
from actionimg_data.geometry import rotations
from actionimg_data.model import GripperTrajectory
from actionimg_data.policy import ActionChunk, Conditioning, Follower, Limits
from actionimg_data.raster import render_view
from actionimg_data.schemas import ActionImageSpec
from actionimg_data.shards import open_dataset

VIEWS = ("side", "front")
COUNT = 9


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("policy"), (20,), size=96)[0]


# ---- what a model is given -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "axes", "mode"), [((96, 96), "rlbench", "joint"), ((64, 112), "opencv", "one_frame")])
def test_an_observation_gives_the_tensors_of_a_training_sample(
    out: Path, size: tuple[int, int], axes: str, mode: str
) -> None:
    torch = pytest.importorskip("torch")
    from actionimg_data.training import IndexedActionImageDataset

    trained = IndexedActionImageDataset(out, num_frames=COUNT, views=2, size=size, axes=axes, action="rendered")
    expected = trained.sample(0, start=3, views=VIEWS, mode=mode)
    sample = open_dataset(out)[0]
    given = Conditioning.from_observation(
        {view: sample.rgb(view, [3])[0] for view in VIEWS},
        {view: sample.cameras[view][3:4] for view in VIEWS},
        sample.trajectory.to_action8()[3],
        sample.instruction,
        sample.spec,
        size,
        COUNT,
        mode=mode,
        axes=axes,
    )
    for name in ("camera", "extrinsics", "intrinsics", "plucker", "condition_mask", "used_mask",
                 "condition_mask_latent", "used_mask_latent"):  # fmt: skip
        assert torch.equal(getattr(given, name), expected[name]), name
    firsts = [0, COUNT]
    for name in ("video", "action_video"):
        assert getattr(given, name).shape == expected[name].shape
        assert torch.equal(getattr(given, name)[:, firsts], expected[name][:, firsts]), name
        assert (getattr(given, name)[:, [1, COUNT - 1, COUNT + 1]] == -1).all()


def test_the_published_inference_gets_its_seven_numbers() -> None:
    pytest.importorskip("torch")
    cameras = {view: make_camera(view, 1, 96) for view in VIEWS}
    pose = make_trajectory(0, 1, 20.0).to_action8()[0]
    pictures = {view: np.zeros((96, 96, 3), np.uint8) for view in VIEWS}
    given = Conditioning.from_observation(pictures, cameras, pose, "go", size=192, num_frames=5, arrays="numpy")
    assert isinstance(given.video, np.ndarray)
    action = given.action_video.reshape(3, 2, 5, 192, 192)[:, :, 0]
    for i, view in enumerate(VIEWS):
        numbers = given.pixels[view]
        for channel in range(3):
            row, column = np.unravel_index(np.argmax(action[channel, i]), (192, 192))
            np.testing.assert_allclose(numbers[2 * channel : 2 * channel + 2], [column, row], atol=0.6)
        assert numbers[6] == 1
    words = given.published_arguments()
    assert (words[0], words[8], len(words)) == ("--view1_action", "--view2_action", 16)
    assert float(words[1]) == pytest.approx(given.pixels["side"][0], abs=1e-3)


def test_observations_that_do_not_fit_are_refused() -> None:
    pytest.importorskip("torch")
    cameras = {view: make_camera(view, 1, 96) for view in VIEWS}
    pictures = {view: np.zeros((96, 96, 3), np.uint8) for view in VIEWS}
    pose = make_trajectory(0, 1, 20.0).to_action8()[0]

    def give(**changed: Any) -> None:
        values = {"pictures": pictures, "cameras": cameras, "pose": pose, "instruction": "go", "size": 64} | changed
        Conditioning.from_observation(**values)

    with pytest.raises(MissingViewError, match=r"expected side front, found front"):
        give(cameras={"front": cameras["front"]})
    with pytest.raises(BadImageError, match=r"side: is not a picture of its camera.*found float64"):
        give(pictures={**pictures, "side": np.zeros((96, 96, 3))})
    with pytest.raises(InvalidTrajectoryError):
        give(pose=np.full(8, np.nan))
    with pytest.raises(InvalidSpecError, match="axes"):
        give(axes="opengl")
    with pytest.raises(InvalidCameraError, match=r"expected 1 or 41, found 7"):
        give(cameras={**cameras, "side": make_camera("wrist", 7, 96)})
    behind = make_camera("side", 1, 96)
    with pytest.raises(InvalidCameraError, match="behind the camera"):
        give(pose=[*(behind.world_from_camera @ [0, 0, -1, 1])[:3], 0, 0, 0, 1, 1])


# ---- what it makes ---------------------------------------------------------------------------------------------------


def test_a_canvas_is_taken_apart_and_decoded() -> None:
    truth = make_trajectory(1, COUNT, 10.0)
    cameras = {view: make_camera(view, COUNT, 96) for view in ("front", "wrist")}
    spec = ActionImageSpec(height=96, width=96)
    actions = {view: render_view(truth, camera, spec) for view, camera in cameras.items()}
    canvas = np.concatenate([part for action in actions.values() for part in (np.full_like(action, 90), action)])
    chunk = ActionChunk.from_canvas(canvas, cameras, fps=10)
    np.testing.assert_allclose(chunk.poses[:, :3], truth.position, atol=1e-3)
    np.testing.assert_array_equal(chunk.poses[:, 7], truth.openness)
    np.testing.assert_allclose(chunk.times, np.arange(COUNT) / 10)
    assert (chunk.trust > 0.9).all()
    assert set(chunk.reason) == {"ok"}
    as_made = np.moveaxis(canvas.astype(np.float32), -1, 0) / 127.5 - 1
    np.testing.assert_allclose(ActionChunk.from_canvas(as_made, cameras, fps=10).poses, chunk.poses, atol=1e-9)
    torch = pytest.importorskip("torch")
    from_torch = ActionChunk.from_canvas(torch.from_numpy(as_made).bfloat16(), cameras, fps=10)
    np.testing.assert_allclose(from_torch.poses[:, :3], truth.position, atol=2e-3)
    broken = as_made.copy()
    broken[:, COUNT:] = np.nan
    assert not np.isfinite(ActionChunk.from_canvas(broken, cameras, fps=10).poses[:, :3]).any()
    with pytest.raises(FrameCountError, match="a multiple of 4"):
        ActionChunk.from_canvas(canvas[1:], cameras, fps=10)
    with pytest.raises(DecodeError, match="is no canvas"):
        ActionChunk.from_canvas(canvas[..., 0], cameras, fps=10)


# ---- what a robot does with it ---------------------------------------------------------------------------------------

START = np.array([0.0, 0, 0, 0, 0, 0, 1, 1])


def line(count: int = 21, speed: float = 0.1, turn: float = 0.0, fps: float = 10.0, **changed: Any) -> ActionChunk:
    """Along x, turning about z."""
    t = np.arange(count) / fps
    poses = np.tile(START, (count, 1))
    poses[:, 0] = speed * t
    poses[:, 3:7] = rotations.quaternion_from_matrix(
        rotations.matrix_from_rotation_vector(np.stack([0 * t, 0 * t, turn * t], 1))
    )
    values = {"action_8d": poses, "trust": np.ones(count), "reason": np.full(count, "ok"), "times": t} | changed
    return ActionChunk(**values)


def follow(follower: Follower, until: float, hz: float = 50, since: float = 0.0) -> list[Any]:
    return [follower.command(t) for t in since + np.arange(1, round((until - since) * hz) + 1) / hz]


def test_a_trusted_chunk_is_followed_in_time() -> None:
    follower = Follower(START, 0.0)
    assert follower.accept(line(turn=0.5), 0.0)
    for i, command in enumerate(follow(follower, 2.0), 1):
        assert command.state == "following"
        np.testing.assert_allclose(command.position, [0.1 * i / 50, 0, 0], atol=1e-9)
        angle = 2 * np.arctan2(command.quaternion_xyzw[2], command.quaternion_xyzw[3])
        assert angle == pytest.approx(0.5 * i / 50, abs=1e-9)
    assert follower.command(5.0).state == "holding"
    np.testing.assert_allclose(follower.command(6.0).position, [0.2, 0, 0], atol=1e-9)


def test_frames_that_are_not_trusted_are_bridged_or_held() -> None:
    wrong = line()
    wrong.action_8d[8:10, 0] = 9.0  # two frames: bridged
    wrong.action_8d[13:18, :7] = np.nan  # five: held
    trust = np.ones(21)
    trust[[8, 9, *range(13, 18)]] = 0.1
    follower = Follower(START, 0.0)
    assert follower.accept(ActionChunk(wrong.action_8d, trust, wrong.reason, wrong.times), 0.0)
    commands = follow(follower, 2.0)
    x = np.array([command.position[0] for command in commands])
    t = np.arange(1, 101) / 50
    np.testing.assert_allclose(x[t <= 1.2], 0.1 * t[t <= 1.2], atol=1e-9)
    held = (t > 1.21) & (t < 1.79)
    assert {command.state for command, there in zip(commands, held, strict=True) if there} == {"holding"}
    np.testing.assert_allclose(x[held], 0.12, atol=1e-3)
    assert np.isfinite(x).all()


def test_a_chunk_of_nonsense_is_refused_and_the_one_before_goes_on() -> None:
    follower = Follower(START, 0.0)
    assert follower.accept(line(), 0.0)
    follow(follower, 1.0)
    far = line(trust=np.full(21, 0.2))
    far.action_8d[:, :3] += 5
    assert not follower.accept(far, 1.0)
    assert follower.refused == 1
    commands = follow(follower, 3.0, since=1.0)
    np.testing.assert_allclose(commands[-1].position, [0.2, 0, 0], atol=1e-9)
    assert commands[-1].state == "holding"
    alone = Follower(START, 0.0)
    assert not alone.accept(far, 0.0)
    np.testing.assert_array_equal(alone.command(1.0).action_8d, START)


def test_chunks_are_blended_and_limits_hold_whatever_comes() -> None:
    limits = Limits(speed=0.3, turn=1.0, blend_s=0.4)
    follower = Follower(START, 0.0, limits)
    follower.accept(line(), 0.0)
    follow(follower, 1.0)
    beside = line()
    beside.action_8d[:, :3] += [0.1, 0.004, 0]
    follower.accept(beside, 1.0)
    commands = follow(follower, 2.0, since=1.0)
    y = np.array([command.position[1] for command in commands])
    assert (np.diff(y) >= -1e-12).all()
    assert y[0] < 4e-4
    np.testing.assert_allclose(y[20:], 0.004, atol=1e-6)
    jump = line(turn=8.0, speed=3.0)
    jump.action_8d[:, :3] += [0, 1.0, 0]
    follower.accept(jump, 2.0)
    last = commands[-1]
    for command in follow(follower, 3.5, since=2.0):
        assert np.linalg.norm(command.position - last.position) <= 0.3 / 50 + 1e-9
        cosine = min(1.0, abs(float(command.quaternion_xyzw @ last.quaternion_xyzw)))
        assert 2 * np.arccos(cosine) <= 1.0 / 50 + 1e-6
        last = command


def test_the_gripper_does_not_flutter() -> None:
    openness = np.array(
        [1, 1, 0.5, 0.45, 0.55, 0.4, 0.2, 0.5, 0.6, 0.5, 0.3, 0.9, 0.9, np.nan, 0.9, 0.9, 0.9] + 4 * [0.9]
    )
    chunk = line()
    chunk.action_8d[:, 7] = openness
    follower = Follower(START, 0.0)
    follower.accept(chunk, 0.0)
    opened = [follower.command(t + 0.01).open for t in chunk.times[:-1]]
    assert opened == [True] * 6 + [False] * 5 + [True] * 9
    slow = Follower(START, 0.0, Limits(dwell_s=0.25))
    slow.accept(chunk, 0.0)
    opened = [slow.command(t + 0.01).open for t in chunk.times[:-1]]
    assert opened == [True] * 20


def test_what_cannot_be_followed_is_refused() -> None:
    with pytest.raises(InvalidTrajectoryError, match="is no pose"):
        Follower(START[:7], 0.0)
    with pytest.raises(InvalidTrajectoryError, match="is no pose"):
        Follower(2 * START, 0.0)
    with pytest.raises(InvalidSpecError, match="would flutter"):
        Limits(close_under=0.7)
    with pytest.raises(InvalidSpecError, match=r"speed: must be positive"):
        Limits(speed=0)
    follower = Follower(START, 1.0)
    with pytest.raises(InvalidSpecError, match="time goes back"):
        follower.command(0.5)


def test_a_decoded_trajectory_becomes_a_chunk() -> None:
    truth: GripperTrajectory = make_trajectory(0, 4, 10.0)
    cameras = {view: make_camera(view, 4, 96) for view in VIEWS}
    spec = ActionImageSpec(height=96, width=96)
    videos = {view: render_view(truth, camera, spec) for view, camera in cameras.items()}
    chunk = ActionChunk.from_videos(videos, cameras, times=[3.0, 3.5, 4.0, 5.0])
    np.testing.assert_allclose(chunk.times, [0, 0.5, 1, 2])
    assert len(chunk) == 4

"""The videos of ``actionimg render``: what is below the pictures, overlays alone, recorded beside decoded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from training_data import VIEWS, make_dataset

import actionimg_data as aid
from actionimg_data.cli import main
from actionimg_data.cli._inputs import episode_of
from actionimg_data.errors import FrameCountError, InvalidSpecError
from actionimg_data.model import GripperTrajectory
from actionimg_data.model.files import write_trajectory
from actionimg_data.report import clips, hud
from actionimg_data.video import read_frames

FRAMES = 12
DISC, RING, CROSS = hud.INSIDE, hud.OUTSIDE, hud.HIDDEN


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("clips"), (FRAMES,))[0]


def strip(state: int = DISC, openness: float = 1.0, error: Any = None) -> hud.Strip:
    lane = hud.Lane("", np.full(10, openness), np.full((10, 3), state, np.uint8))
    return hud.Strip(256, 256, "front", np.arange(10) * 0.1, [lane], error)


def playhead(picture: np.ndarray) -> int:
    """Column of the line that shows the time: the one that is white over the whole lower half."""
    return int(np.argmax(picture[len(picture) // 2 :].astype(int).sum(axis=(0, 2))))


def test_the_line_moves_with_the_time() -> None:
    drawn = [playhead(strip(openness=0.0).draw(frame)) for frame in range(10)]
    # Right of the lanes' names.
    assert drawn[0] < 60
    assert drawn[-1] > 220
    assert np.ptp(np.diff(drawn)) <= 2


def test_uneven_times_are_uneven_in_the_strip() -> None:
    lane = hud.Lane("", np.zeros(3), np.full((3, 3), DISC, np.uint8))
    made = hud.Strip(256, 256, "front", np.array([5.0, 5.1, 6.0]), [lane])
    first, second, third = (playhead(made.draw(i)) for i in range(3))
    assert second - first == pytest.approx(0.1 * (third - first), abs=1)


def test_each_state_of_a_keypoint_looks_different() -> None:
    """A disc is filled, a ring is hollow, a cross has no colour."""
    head = {state: strip(state).draw(0)[:19, 200:].astype(int) for state in (DISC, RING, CROSS)}
    colourful = {state: int((np.ptp(p, axis=2) > 60).sum()) for state, p in head.items()}
    assert colourful[DISC] > 1.3 * colourful[RING] > 0
    assert colourful[CROSS] == 0
    assert (head[CROSS].max(axis=2) > 80).any()


def test_the_bar_is_as_high_as_the_gripper_is_open() -> None:
    def blue(value: float) -> int:
        right = strip(openness=value).draw(3)[19:, 240:].astype(int)
        return int((right[..., 2] > right[..., 0] + 60).sum())

    assert blue(0.5) == pytest.approx(blue(1.0) / 2, rel=0.15)
    assert blue(float("nan")) == 0


def test_an_error_has_a_curve_and_a_figure() -> None:
    error = np.array([0.0, 1, 2, 3, np.nan, 5, 4, 3, 2, 1])
    with_error, without = strip(error=error), strip()
    assert with_error.height > without.height + 20
    picture = with_error.draw(9).astype(int)
    orange = (picture[..., 0] > picture[..., 2] + 60).any(axis=0)
    assert orange[60:230].sum() > 100
    # Where there is no value the curve has a gap.
    assert not orange[60:230].all()


def test_states_of_keypoints() -> None:
    uv = np.array([[[0.0, 0], [63, 63], [63.01, 5]]])
    valid = np.array([[True, True, True]])
    assert hud.states(uv, valid, 64, 64).tolist() == [[DISC, DISC, RING]]
    assert hud.states(uv, ~valid, 64, 64).tolist() == [[CROSS] * 3]


@pytest.mark.parametrize(("flags", "panels"), [([], 3), (["--overlay"], 1)])
def test_overlay_videos_have_a_strip_below_their_panels(
    dataset: Path, tmp_path: Path, flags: list[str], panels: int
) -> None:
    result = run("render", dataset, "--out", tmp_path, "--size", 96, "--views", VIEWS[0], *flags)
    assert result.exit_code == 0, result.output
    video = read_frames(str(tmp_path / f"{VIEWS[0]}.overlay.mp4"))
    assert video.shape[0] == FRAMES
    assert video.shape[2] == panels * 96
    assert 96 + 30 < video.shape[1] < 96 + 70


def test_recorded_and_decoded_lie_side_by_side(dataset: Path, tmp_path: Path) -> None:
    result = run("render", dataset, "--out", tmp_path, "--size", 96, "--compare", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["difference_mm"]["frames"] > 0
    assert found["difference_mm"]["max"] < 10
    video = read_frames(str(tmp_path / f"{VIEWS[0]}.compare.mp4")).astype(int)
    assert video.shape[0] == FRAMES
    left, right = video[:, :96, :96], video[:, :96, -96:]
    # The same pictures, and marks within some millimetres of each other; only the trails differ in colour.
    assert np.median(np.abs(left - right)) <= 2


def test_a_trajectory_file_is_compared_with_what_was_recorded(dataset: Path, tmp_path: Path) -> None:
    truth = aid.open_dataset(dataset)[0].trajectory
    moved = GripperTrajectory(
        np.add(truth.position, [0.003, 0, 0.004]), truth.quaternion_xyzw, truth.openness, truth.times
    )
    write_trajectory(tmp_path / "moved.csv", moved)
    result = run("render", dataset, "--out", tmp_path, "--size", 64, "--compare", tmp_path / "moved.csv", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["difference_mm"] == pytest.approx(
        {"frames": FRAMES, "median": 5, "p95": 5, "max": 5}, abs=1e-6
    )
    write_trajectory(tmp_path / "short.csv", moved[: FRAMES - 1])
    refused = run("render", dataset, "--out", tmp_path, "--compare", tmp_path / "short.csv")
    assert refused.exit_code == 1
    assert f"error[{FrameCountError.code}]" in refused.stderr


def test_a_stride_thins_both_trajectories(dataset: Path, tmp_path: Path) -> None:
    result = run("render", dataset, "--out", tmp_path, "--size", 64, "--compare", "--stride", 4, "--json")
    assert json.loads(result.stdout)["frames"] == 3
    assert len(read_frames(str(tmp_path / f"{VIEWS[0]}.compare.mp4"))) == 3


def test_what_cannot_be_compared_is_refused(dataset: Path, tmp_path: Path) -> None:
    write_trajectory(tmp_path / "t.csv", aid.open_dataset(dataset)[0].trajectory)
    alone = run("render", tmp_path / "t.csv", "--cameras", dataset, "--out", tmp_path / "x", "--compare")
    assert f"error[{InvalidSpecError.code}]" in alone.stderr


def test_two_grippers_are_drawn_and_each_has_a_lane(dataset: Path) -> None:
    episode = episode_of(aid.open_dataset(dataset)[0])
    path = episode.trajectory
    far = GripperTrajectory(np.add(path.position, [0.05, 0, 0]), path.quaternion_xyzw, 1 - path.openness, path.times)
    both = replace(episode, grippers={"left": path, "right": far})
    spec = aid.ActionImageSpec(height=128, width=128)
    one = next(clips.overlaid(episode, VIEWS[0], spec))
    two = next(clips.overlaid(both, VIEWS[0], spec))
    assert two.shape[0] > one.shape[0] + 20
    assert (two[:128, 128:256] >= one[:128, 128:256]).all()
    assert (two[:128, 128:256].astype(int).sum()) > one[:128, 128:256].astype(int).sum()
    beside = next(clips.compared(both, {"left": path, "right": path}, VIEWS[0], spec))
    assert beside.shape[1] == 2 * 128 + 4
    assert np.nanmax(clips.distance_mm(both, {"left": path, "right": path})) == pytest.approx(50, abs=1e-6)

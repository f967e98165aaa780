from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from actionimg_data.converters.recording import sync
from actionimg_data.converters.recording.sync import PoseSamples, ScalarSamples, SyncLimits
from actionimg_data.errors import EmptyEpisodeError, FrameCountError, InvalidTrajectoryError

POSE_HZ = 100.0


def motion(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A smooth hand motion: up to 0.35 m/s, up to about 1 rad/s."""
    position = np.stack([0.2 * np.sin(1.7 * times), 0.1 * np.cos(2.3 * times), 0.9 + 0.05 * np.sin(3 * times)], axis=1)
    vector = np.stack([np.pi * 0.9 + 0.1 * times, 0.3 * np.sin(times), 0.4 * np.cos(1.3 * times)], axis=1)
    return position, Rotation.from_rotvec(vector).as_quat()


def poses(times: np.ndarray) -> PoseSamples:
    return PoseSamples(times, *motion(times))


def widths(times: np.ndarray) -> ScalarSamples:
    return ScalarSamples(times, 0.5 + 0.4 * np.sin(times))


def grid(seconds: float = 4.0, hz: float = POSE_HZ) -> np.ndarray:
    return np.arange(round(seconds * hz)) / hz


# Interpolation.


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_poses_between_samples_are_scipys_lerp_and_slerp(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.005, 0.02, 60))
    samples = poses(times)
    signs = rng.choice([-1.0, 1.0], 60)
    mixed = replace(samples, quaternion_xyzw=samples.quaternion_xyzw * signs[:, None])
    at = np.sort(rng.uniform(times[0], times[-1], 30))
    position, q = mixed.cleaned("pose").at(at, "pose", None)
    expected = Slerp(times, Rotation.from_quat(samples.quaternion_xyzw))(at)
    assert (Rotation.from_quat(q).inv() * expected).magnitude().max() < 1e-9
    for axis in range(3):
        np.testing.assert_allclose(position[:, axis], np.interp(at, times, samples.position[:, axis]), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_in_which_samples_arrive_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = grid(1.0)
    samples = poses(times)
    # Packets overtake each other by a few samples, and some arrive twice.
    arrival = np.argsort(np.arange(100) + rng.uniform(0, 3, 100))
    arrival = np.sort(np.concatenate([arrival, rng.choice(100, 5)]), kind="stable") if seed % 2 else arrival
    shuffled = PoseSamples(times[arrival], samples.position[arrival], samples.quaternion_xyzw[arrival])
    a, b = shuffled.cleaned("pose"), samples.cleaned("pose")
    np.testing.assert_array_equal(a.times, b.times)
    np.testing.assert_array_equal(a.position, b.position)


def test_a_command_holds_until_the_next_one() -> None:
    command = ScalarSamples(np.array([0.0, 1.0, 2.0]), np.array([1.0, 0.0, 1.0]), hold=True).cleaned("gripper")
    at = np.array([0.0, 0.5, 0.999, 1.0, 1.5, 2.0, 3.0])
    np.testing.assert_array_equal(command.at(at, "gripper", None), [1, 1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(command.covers(np.array([-0.1, 0.0, 9.0])), [False, True, True])


def test_measured_widths_are_interpolated() -> None:
    width = ScalarSamples(np.array([0.0, 0.04, 0.08]), np.array([0.0, 1.0, 0.0])).cleaned("gripper")
    np.testing.assert_allclose(width.at(np.array([0.02, 0.07]), "gripper", None), [0.5, 0.25])


# What is refused.


def test_nothing_is_extrapolated() -> None:
    times = grid(2.0)
    camera = np.arange(-10, 60) / 20
    synced = sync.synchronize({"front": camera}, poses(times), widths(times))
    assert synced.times[0] == 0.0
    assert synced.times[-1] <= times[-1]
    assert synced.report["left_out"]["not_covered"] == 70 - len(synced.times)


def test_a_gap_of_a_second_between_poses_is_refused_with_its_place() -> None:
    times = grid(4.0)
    times = times[(times < 1.0) | (times > 2.0)]
    with pytest.raises(InvalidTrajectoryError, match=r"pose: 0\.990 s.*gap.*expected ≤ 0\.05.*found 1\.02 s"):
        sync.synchronize({"front": np.arange(70) / 20}, poses(times), widths(grid(4.0)))


def test_a_gap_between_frames_is_refused_and_may_be_allowed() -> None:
    camera = np.concatenate([np.arange(20), np.arange(40, 60)]) / 20
    times = grid(4.0)
    with pytest.raises(InvalidTrajectoryError, match=r"front: 0\.950 s.*gap between pictures"):
        sync.synchronize({"front": camera}, poses(times), widths(times))
    synced = sync.synchronize({"front": camera}, poses(times), widths(times), limits=SyncLimits(max_frame_gap_s=2))
    assert len(synced.times) == 40


@pytest.mark.parametrize(("hz", "allowed"), [(100.0, 0.05), (10.0, 0.2)])
def test_the_default_gap_is_the_longer_of_two_periods_and_50_ms(hz: float, allowed: float) -> None:
    assert sync.pose_gap_limit(grid(2.0, hz)) == pytest.approx(allowed, abs=1e-5)


def test_a_clock_that_was_set_back_is_refused() -> None:
    times = grid(2.0)
    jumped = np.concatenate([times[:100], times[100:] - 0.7])
    with pytest.raises(InvalidTrajectoryError, match=r"pose: sample 100.*found 0\.69 s back"):
        poses(jumped).cleaned("pose")
    with pytest.raises(InvalidTrajectoryError, match="stamps go backwards"):
        sync.ordered_pictures(np.concatenate([np.arange(20), np.arange(20)]) / 20, "front")


def test_small_steps_back_in_a_cameras_stamps_lose_only_those_pictures() -> None:
    times = np.arange(10) / 20
    times[4] = times[3] - 0.01
    times[7] = times[6]
    assert sync.ordered_pictures(times, "front").tolist() == [0, 1, 2, 3, 5, 6, 8, 9]


def test_rows_that_are_not_finite_are_left_out_and_counted() -> None:
    times = grid(2.0)
    samples = poses(times)
    position = samples.position.copy()
    position[50] = np.nan
    synced = sync.synchronize({"front": np.arange(2, 30) / 20}, replace(samples, position=position), widths(times))
    assert synced.report["left_out"]["poses"] == 1
    assert np.isfinite(synced.position).all()
    assert synced.residual_s.max() == pytest.approx(0.01)


def test_a_stream_of_nothing_but_nan_is_refused() -> None:
    times = grid(1.0)
    samples = replace(poses(times), position=np.full((100, 3), np.nan))
    with pytest.raises(InvalidTrajectoryError, match="has no finite sample"):
        sync.synchronize({"front": np.arange(10) / 20}, samples, widths(times))


def test_streams_that_do_not_overlap_are_refused_with_their_times() -> None:
    times = grid(1.0)
    with pytest.raises(EmptyEpisodeError, match=r"Pictures from 5\.000.*poses from 0\.000 to 0\.990"):
        sync.synchronize({"front": 5 + np.arange(10) / 20}, poses(times), widths(times))


# Several cameras.


def test_the_slowest_camera_is_master_and_no_picture_is_used_twice() -> None:
    times = grid(4.0)
    cameras = {"fast": np.arange(120) / 30, "slow": np.arange(40) / 10 + 0.013, "other": np.arange(40) / 10}
    synced = sync.synchronize(cameras, poses(times), widths(times))
    assert synced.report["master"] == "slow"
    for index in synced.frames.values():
        assert (np.diff(index) > 0).all()
    fast = cameras["fast"][synced.frames["fast"]]
    assert np.abs(fast - synced.times).max() <= 0.5 / 30 + 1e-6


def test_a_slower_camera_than_the_master_thins_it_out_instead_of_repeating() -> None:
    times = grid(4.0)
    cameras = {"fast": np.arange(80) / 20, "slow": np.arange(40) / 10}
    synced = sync.synchronize(cameras, poses(times), widths(times), master="fast")
    assert len(np.unique(synced.frames["slow"])) == len(synced.frames["slow"]) == len(synced.times)
    assert synced.fps == pytest.approx(10.0)


def test_a_moment_without_a_picture_of_some_camera_is_left_out() -> None:
    times = grid(4.0)
    other = np.delete(np.arange(70) / 20, [10, 33])
    synced = sync.synchronize({"a": np.arange(70) / 20, "b": other}, poses(times), widths(times), master="a")
    assert synced.report["left_out"]["no_picture_of"] == {"b": 2}
    assert set(range(70)) - set(synced.frames["a"].tolist()) == {10, 33}
    np.testing.assert_allclose(other[synced.frames["b"]], synced.times, atol=1e-9)


def test_ten_percent_dropped_and_five_ms_of_jitter_stay_under_half_a_millimetre() -> None:
    rng = np.random.default_rng(5)
    clean = grid(20.0)
    times = clean[rng.random(len(clean)) > 0.1] + 0
    times = np.sort(times + rng.normal(0, 0.005, len(times)))
    cameras = {}
    for name in ("a", "b", "c"):
        camera = np.arange(390) / 20 + rng.normal(0, 0.005, 390) + 0.1
        cameras[name] = camera[rng.random(390) > 0.1]
    synced = sync.synchronize(cameras, poses(times), widths(times), limits=SyncLimits(max_pose_gap_s=0.1))
    position, q = motion(synced.times)
    assert np.linalg.norm(synced.position - position, axis=1).max() < 0.5e-3
    assert (
        np.degrees((Rotation.from_quat(q).inv() * Rotation.from_quat(synced.quaternion_xyzw)).magnitude()).max() < 0.1
    )
    assert len(synced.times) > 200


def test_pictures_that_the_log_does_not_mean_leave_no_gap() -> None:
    times = grid(4.0)
    camera = np.arange(60) / 20
    meant = np.ones(60, dtype=bool)
    meant[10:40] = False
    synced = sync.synchronize({"a": camera}, poses(times), widths(times), wanted={"a": meant})
    assert synced.frames["a"].tolist() == [*range(10), *range(40, 60)]
    assert synced.fps == pytest.approx(20.0)


# Rows.


def test_rows_have_to_be_equally_many() -> None:
    times = grid(1.0)
    with pytest.raises(FrameCountError, match=r"front.*expected 100, one for each pose, found 99"):
        sync.by_rows({"front": 99}, poses(times), widths(times), 20.0)


def test_a_row_that_is_not_finite_is_refused_by_its_number() -> None:
    times = grid(1.0)
    bad = widths(times)
    bad.values[31] = np.nan
    with pytest.raises(InvalidTrajectoryError, match="row 31"):
        sync.by_rows({"front": 100}, poses(times), bad, 20.0)


# Statistics.


def test_statistics_of_a_regular_stream() -> None:
    found = sync.statistics(grid(2.0, 50.0))
    assert found.rate_hz == pytest.approx(50.0)
    assert (found.samples, found.missing, found.gaps, found.duplicates, found.out_of_order) == (100, 0, (), 0, 0)


def test_statistics_count_drops_gaps_duplicates_and_disorder() -> None:
    times = np.arange(100) / 20
    times = np.delete(times, [10, 40, 41, 42])
    times = np.concatenate([times[:60], times[59:60], times[60:]])
    times[[20, 21]] = times[[21, 20]]
    found = sync.statistics(times)
    assert found.missing == 4
    assert [round(length, 3) for _, length in found.gaps] == [0.2, 0.1]
    assert found.gaps[0][0] == pytest.approx(39 / 20)
    assert (found.duplicates, found.out_of_order) == (1, 1)


def test_jitter_is_measured_apart_from_gaps() -> None:
    rng = np.random.default_rng(0)
    times = np.arange(2000) / 20 + rng.uniform(-0.004, 0.004, 2000)
    times = np.delete(times, slice(500, 600))
    found = sync.statistics(times)
    assert 4.0 < (found.jitter_ms or 0) < 8.0
    assert found.rate_hz == pytest.approx(20.0, rel=0.02)


@pytest.mark.parametrize("times", [[], [1.5], [np.nan]])
def test_statistics_of_almost_nothing(times: list[float]) -> None:
    found = sync.statistics(times)
    assert found.rate_hz is None
    assert found.to_json()["missing"] == 0

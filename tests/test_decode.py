from __future__ import annotations

import decoder_scenes as scenes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import inside_dense, project_dense, render_dense

from actionimg_data.decode import BlobMeasurements, DecodedTrajectory, Reason, decode, measure_blobs, solve
from actionimg_data.errors import DecodeError, FrameCountError, InvalidTrajectoryError
from actionimg_data.geometry import rotations
from actionimg_data.model import Camera, CameraTrack, GripperTrajectory
from actionimg_data.schemas import ActionImageSpec

SEEDS = (0, 1, 3)


@pytest.fixture(scope="module")
def clips():
    """Three random clips of the targets' kind: cameras, truth, and the clean uint8 video (2, 41, 512, 512, 3)."""
    found = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        cameras, truth = scenes.ring_cameras(rng), scenes.random_trajectory(rng)
        found.append((cameras, truth, scenes.dense_render(truth, cameras)))
    return found


@pytest.fixture(scope="module")
def small():
    """One clip of three views at 128x128, 12 frames."""
    rng = np.random.default_rng(5)
    cameras, truth = scenes.ring_cameras(rng, views=3, size=128), scenes.random_trajectory(rng, frames=12)
    return cameras, truth, scenes.dense_render(truth, cameras)


def spread(decoded: DecodedTrajectory) -> np.ndarray:
    return np.sqrt(np.diagonal(decoded.covariance, axis1=-2, axis2=-1))


def error_in_sigmas(decoded, truth):
    """Mean squared error over its predicted covariance, per degree of freedom: 1 if the covariance is true."""
    ok = decoded.valid
    turn = truth.rotation[ok] @ np.swapaxes(decoded.trajectory.rotation[ok], -1, -2)
    error = np.concatenate(
        [truth.position[ok] - decoded.trajectory.position[ok], rotations.rotation_vector_from_matrix(turn)], axis=-1
    )
    return np.mean(np.einsum("ti,tij,tj->t", error, np.linalg.inv(decoded.covariance[ok]), error)) / 6


TARGETS = {
    "uint8": (0.012, 0.025, 0.01, 0.02),
    "gaussian noise of 5 levels": (0.2, 0.4, 0.15, 0.35),
    "JPEG quality 90": (0.08, 0.16, 0.06, 0.16),
    "H.264 crf 18": (0.25, 0.5, 0.18, 0.4),
    "H.264 crf 28": (0.75, 2.3, 0.55, 1.5),
}


@pytest.mark.parametrize("damage", TARGETS)
def test_two_views_meet_the_accuracy_targets(clips, damage):
    spoil = scenes.DAMAGES[damage]
    mm_median, mm_p95, deg_median, deg_p95 = TARGETS[damage]
    position, rotation, sigmas = [], [], []
    for seed, (cameras, truth, video) in zip(SEEDS, clips, strict=True):
        decoded = decode(spoil(video, np.random.default_rng(100 + seed)), cameras, ActionImageSpec())
        assert decoded.valid.all()
        np.testing.assert_array_equal(decoded.trajectory.openness, truth.openness)
        p, r = scenes.pose_errors(decoded, truth)
        position.append(p)
        rotation.append(r)
        sigmas.append(error_in_sigmas(decoded, truth))
    p, r = np.concatenate(position), np.concatenate(rotation)
    assert np.median(p) <= mm_median
    assert np.percentile(p, 95) <= mm_p95
    assert np.median(r) <= deg_median
    assert np.percentile(r, 95) <= deg_p95
    # The covariance is honest: neither three times too small nor three times too large in standard deviation.
    assert 1 / 9 < np.mean(sigmas) < 9


def test_covariance_is_calibrated_for_white_noise(clips):
    cameras, truth, video = clips[0]
    rng = np.random.default_rng(3)
    found = []
    for sigma, frames in ((3.0, slice(0, 14)), (8.0, slice(14, 28)), (20.0, slice(28, 41))):
        noisy = scenes.add_noise(video[:, frames], rng, sigma)
        found.append(error_in_sigmas(decode(noisy, cameras), truth[frames]))
    assert 0.6 < np.mean(found) < 1.5


@pytest.mark.parametrize(
    "lost", [[(0, 1)], [(0, 0), (0, 1)], [(0, 0), (1, 1)], [(0, 2), (1, 2)][:1], [(1, 0), (1, 2)]], ids=str
)
def test_lost_channels_still_decode(clips, lost):
    cameras, truth, video = clips[1]
    video = video.copy()
    for view, channel in lost:
        video[view, ..., channel] = 0
    decoded = decode(video, cameras)
    assert decoded.valid.all()
    position, rotation = scenes.pose_errors(decoded, truth)
    assert np.percentile(position, 95) < 0.05
    assert np.percentile(rotation, 95) < 0.05
    for view, channel in lost:
        assert not decoded.keypoint_valid[view, :, channel].any()
        assert np.isnan(decoded.keypoints[view, :, channel]).all()


@pytest.mark.parametrize(("view", "channel", "pixels"), [(0, 0, 4), (1, 1, 20), (0, 2, 60), (1, 0, 120)])
def test_a_wrong_blob_is_found_and_left_out(clips, view, channel, pixels):
    cameras, truth, video = clips[2]
    video = video.copy()
    video[view, 5:30, ..., channel] = np.roll(video[view, 5:30, ..., channel], pixels, axis=-2)
    decoded = decode(video, cameras)
    assert decoded.valid.all()
    position, rotation = scenes.pose_errors(decoded, truth)
    assert position.max() < 0.05
    assert rotation.max() < 0.05
    used = np.ones((2, 41, 3), bool)
    used[view, 5:30, channel] = False
    np.testing.assert_array_equal(decoded.keypoint_used, used)
    distance = np.linalg.norm(decoded.residual[view, 5:30, channel], axis=-1)
    # Rolled round the border the blob may come back in parts; elsewhere the residual says how far it was moved.
    assert np.median(np.abs(distance - pixels)) < 0.1


def test_two_wrong_blobs_in_different_views_are_found(clips):
    cameras, truth, video = clips[0]
    video = video.copy()
    video[0, ..., 0] = np.roll(video[0, ..., 0], 60, axis=-2)
    video[1, ..., 2] = np.roll(video[1, ..., 2], -45, axis=-3)
    decoded = decode(video, cameras)
    position, rotation = scenes.pose_errors(decoded, truth)
    assert decoded.valid.all()
    assert position.max() < 0.1
    assert rotation.max() < 0.1
    assert not decoded.keypoint_used[0, :, 0].any()
    assert not decoded.keypoint_used[1, :, 2].any()


def test_a_channel_of_pure_noise_is_no_measurement(clips):
    cameras, truth, video = clips[0]
    video = video[:, :10].copy()
    video[0, ..., 1] = np.random.default_rng(0).integers(0, 256, video[0, ..., 1].shape)
    decoded = decode(video, cameras)
    assert not decoded.keypoint_valid[0, :, 1].any()
    assert decoded.keypoint_valid.sum() == 10 * 5
    assert scenes.pose_errors(decoded, truth[:10])[0].max() < 0.05


def test_one_view_gives_the_smooth_solution_and_says_that_it_is_less_certain():
    spec, right = ActionImageSpec(), []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        cameras, truth = scenes.ring_cameras(rng), scenes.random_trajectory(rng, frames=21)
        views = scenes.perfect_measurements(truth, cameras, spec, rng, noise=0.003)
        both, one = solve(views, cameras, spec, fps=20), solve(views[:1], cameras[:1], spec, fps=20)
        assert one.valid.all()
        position, rotation = scenes.pose_errors(one, truth)
        right.append(np.median(rotation) < 0.2 and np.median(position) < 0.5)
        assert (one.views_used == 1).all()
        assert (both.views_used == 2).all()
        assert (spread(one).max(axis=-1) > 2 * spread(both).max(axis=-1)).all()
        # Whatever was chosen, the picture is explained.
        assert np.nanmax(np.abs(one.residual)) < 0.05
        # A choice that was wrong is still within what the covariance calls possible.
        assert error_in_sigmas(one, truth) < 15
    assert np.mean(right) >= 0.88


def test_frames_without_a_pose_among_frames_of_one_view_raise_nothing(clips):
    cameras, _, video = clips[0]
    one = video[:1, :12].copy()
    one[0, 4:6] = 0
    one[0, 8, ..., 1] = 0
    decoded = decode(one, cameras[:1])
    np.testing.assert_array_equal(decoded.valid, ~np.isin(np.arange(12), [4, 5, 8]))
    assert np.isfinite(decoded.covariance[decoded.valid]).all()


def test_a_view_that_fails_for_a_while_is_bridged_by_the_other(clips):
    cameras, truth, video = clips[2]
    video = video.copy()
    video[0, 12:25] = 0
    decoded = decode(video, cameras, fps=20)
    assert decoded.valid.all()
    position, rotation = scenes.pose_errors(decoded, truth)
    assert position.max() < 0.3
    assert rotation.max() < 0.1
    np.testing.assert_array_equal(decoded.views_used == 1, (np.arange(41) >= 12) & (np.arange(41) < 25))


@pytest.mark.parametrize("blue", [0, 64])
@pytest.mark.parametrize("noise", [0, 5, 20])
def test_pictures_without_blobs_give_no_pose(blue, noise):
    rng = np.random.default_rng(0)
    cameras = scenes.ring_cameras(rng, size=256)
    video = np.zeros((2, 3, 256, 256, 3), np.uint8)
    video[..., 2] = blue
    decoded = decode(scenes.add_noise(video, rng, noise) if noise else video, cameras)
    assert not decoded.valid.any()
    assert set(decoded.reason) == {Reason.NO_KEYPOINTS.value}
    assert np.isnan(decoded.trajectory.position).all()
    assert np.isnan(decoded.covariance).all()
    assert np.isnan(decoded.keypoints).all()
    # A blue pedestal tells that the gripper is open; black could be a closed gripper or no picture at all.
    np.testing.assert_array_equal(decoded.trajectory.openness, np.full(3, 1.0 if blue else np.nan))


def test_pictures_that_are_no_action_images_give_no_pose():
    rng = np.random.default_rng(0)
    cameras = scenes.ring_cameras(rng, size=256)
    y, x = np.mgrid[:256, :256]
    ramp = np.repeat(np.clip(x + y, 0, 255).astype(np.uint8)[None, ..., None], 3, axis=-1)
    checks = np.repeat((((x // 16) + (y // 16)) % 2 * 255).astype(np.uint8)[None, ..., None], 3, axis=-1)
    white = np.full((1, 256, 256, 3), 255, np.uint8)
    noise = rng.integers(0, 256, (1, 256, 256, 3)).astype(np.uint8)
    disc = np.repeat((((x - 90) ** 2 + (y - 99) ** 2 < 900) * 255).astype(np.uint8)[None, ..., None], 3, axis=-1)
    one = np.concatenate([ramp, checks, white, noise, disc])
    decoded = decode(np.stack([one, one]), cameras)
    assert not decoded.valid.any()


def test_views_that_contradict_each_other_are_refused(clips):
    cameras, _, video = clips[0]
    turned = Camera(cameras[1].K, scenes.look_at((0.4, 0.2, 1.4), (0.4, 0.0, 0.3)), 512, 512)
    decoded = decode(video[:, :8], [cameras[0], turned])
    assert not decoded.valid.any()
    assert set(decoded.reason) <= {Reason.VIEWS_DISAGREE.value, Reason.TOO_FEW_KEYPOINTS.value}


def test_two_keypoints_do_not_determine_a_pose(small):
    cameras, _, video = small
    video = video.copy()
    video[..., 1] = 0
    decoded = decode(video, cameras)
    assert set(decoded.reason) == {Reason.TOO_FEW_KEYPOINTS.value}
    assert np.isfinite(decoded.keypoints[..., [0, 2], :]).all()


@pytest.mark.parametrize("noise", [0.0, 5.0])
@pytest.mark.parametrize(("u", "v"), [(0.3, 200.2), (-20.4, 250.0), (511.0, 511.3), (300.7, 530.1), (-38.2, 100.0)])
def test_blobs_cut_by_the_border_are_measured_to_their_stated_precision(u, v, noise):
    spec = ActionImageSpec()
    y, x = np.arange(512)[:, None], np.arange(512)[None]
    blob = np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * spec.sigma_px**2))
    picture = np.repeat(blob[..., None], 3, axis=-1)
    picture[..., 2] = np.where(blob <= 0.25, 0.25, blob)
    frames = np.repeat(np.round(255 * picture).astype(np.uint8)[None], 12, axis=0)
    if noise:
        frames = scenes.add_noise(frames, np.random.default_rng(0), noise)
    found = measure_blobs(frames, spec)
    assert found.valid[:, 0].all()
    error = found.uv - (u, v)
    sigmas = np.einsum("tci,tcij,tcj->tc", error, np.linalg.inv(found.covariance), error) / 2
    assert np.nanmean(sigmas[:, 0]) < 3
    if found.valid[:, 2].any():
        assert np.nanmean(sigmas[:, 2]) < 3
    np.testing.assert_allclose(found.amplitude[:, 0], 1, atol=0.2)
    np.testing.assert_allclose(found.pedestal, 64 / 255, atol=0.02)


def test_clean_blobs_are_measured_near_the_cramer_rao_bound():
    spec = ActionImageSpec()
    rng = np.random.default_rng(0)
    centers = rng.uniform(100, 412, (60, 3, 2))
    y, x = np.arange(512)[:, None], np.arange(512)[None]
    for noise, bound in ((0.0, 0.2887), (5.0, 5.0)):
        errors = []
        for some in np.split(centers, 6):
            frames = np.empty((10, 512, 512, 3), np.uint8)
            for t, c in np.ndindex(10, 3):
                u, v = some[t, c]
                frames[t, ..., c] = np.round(255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * spec.sigma_px**2)))
            frames = scenes.add_noise(frames, rng, noise) if noise else frames
            errors.append(measure_blobs(frames, spec).uv - some)
        # Fisher information of a whole blob is (255 / noise)^2 pi / 2 per axis, whatever its width.
        limit = bound / (255 * np.sqrt(np.pi / 2))
        rms = np.sqrt(np.mean(np.concatenate(errors)[:, :2] ** 2))
        assert rms < 1.25 * limit


def test_continuous_openness_is_read_from_the_pedestal():
    rng = np.random.default_rng(1)
    spec = ActionImageSpec(height=256, width=256, openness="continuous")
    cameras, truth = scenes.ring_cameras(rng, size=256), scenes.random_trajectory(rng, frames=15)
    truth = GripperTrajectory(truth.position, truth.quaternion_xyzw, np.linspace(0, 1, 15), truth.times)
    video = scenes.dense_render(truth, cameras, spec)
    np.testing.assert_allclose(decode(video, cameras, spec).trajectory.openness, truth.openness, atol=0.01)
    damaged = scenes.through_h264(video, 23)
    np.testing.assert_allclose(decode(damaged, cameras, spec).trajectory.openness, truth.openness, atol=0.04)


def test_the_binary_threshold_of_the_spec_is_the_renderers_affair(small):
    cameras, truth, _ = small
    graded = GripperTrajectory(truth.position, truth.quaternion_xyzw, np.linspace(0, 1, 12), truth.times)
    spec = ActionImageSpec(height=128, width=128, openness_threshold=0.2)
    decoded = decode(scenes.dense_render(graded, cameras, spec), cameras, spec)
    np.testing.assert_array_equal(decoded.trajectory.openness, (graded.openness > 0.2).astype(float))


def test_moving_cameras_and_other_specs_decode():
    rng = np.random.default_rng(2)
    spec = ActionImageSpec(height=240, width=320, sigma=0.08, axis_length=0.06, pedestal=0.15)
    truth = scenes.random_trajectory(rng, frames=9, cube=0.3)
    K = np.array([[250.0, 0, 150], [0, 260.0, 130], [0, 0, 1]])
    tracks = []
    for side in (-1, 1):
        poses = np.stack([scenes.look_at((1.2, side * (0.5 + 0.02 * t), 0.8), (0.4, 0, 0.3)) for t in range(9)])
        tracks.append(CameraTrack(np.repeat(K[None], 9, 0), poses, 320, 240))
    video = np.concatenate(
        [
            np.concatenate(
                [scenes.dense_render(truth[t : t + 1], [track[t]], spec) for t in range(9)],
                axis=1,
            )
            for track in tracks
        ]
    )
    decoded = decode(video, tracks, spec, times=truth.times)
    position, rotation = scenes.pose_errors(decoded, truth)
    assert decoded.valid.all()
    assert position.max() < 0.05
    assert rotation.max() < 0.05
    np.testing.assert_array_equal(decoded.trajectory.times, truth.times)


def test_chunks_give_the_same_measurements_as_the_whole(small):
    cameras, _, video = small
    spec = ActionImageSpec(height=128, width=128)
    whole = decode(video, cameras, spec, fps=20)
    chunked = []
    for view in video:
        parts = [measure_blobs(view[i : i + 5], spec) for i in range(0, 12, 5)]
        chunked.append(BlobMeasurements.concatenate(parts))
    joined = solve(chunked, cameras, spec, fps=20)
    np.testing.assert_allclose(joined.trajectory.position, whole.trajectory.position, atol=1e-9)
    np.testing.assert_allclose(joined.covariance, whole.covariance, rtol=1e-4)
    np.testing.assert_array_equal(joined.trajectory.openness, whole.trajectory.openness)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_videos_decode_as_well_as_uint8(small, dtype):
    cameras, truth, _ = small
    video = scenes.dense_render(truth, cameras, as_float=True).astype(dtype)
    decoded = decode(video, cameras)
    position, _ = scenes.pose_errors(decoded, truth)
    assert decoded.valid.all()
    assert position.max() < (0.02 if dtype == np.float16 else 1e-3)


def test_views_may_be_named_or_listed(small):
    cameras, _, video = small
    array = decode(video, cameras)
    listed = decode(list(video), tuple(cameras))
    named = decode(
        dict(zip("abc", video, strict=True)),
        dict(zip("cba", cameras[::-1], strict=True)),
    )
    for other in (listed, named):
        np.testing.assert_array_equal(other.trajectory.position, array.trajectory.position)


def test_the_decoder_never_writes_to_its_input(small):
    cameras, _, video = small
    for kind in (video.copy(), video.astype(np.float32) / 255):
        kind.flags.writeable = False
        decode(kind, cameras)


def test_what_does_not_fit_is_refused_by_name(small):
    cameras, truth, video = small
    spec = ActionImageSpec(height=128, width=128)
    for bad, words in [
        (video[..., :2], "RGB video"),
        (video[0], "RGB video"),
        (video.astype(np.int32), "dtype"),
        (video[:, :, :100], "size"),
        (video[:0], "no video"),
        ([video[0], video[1][:, :64], video[2]], "size"),
        (5, "videos"),
    ]:
        with pytest.raises(DecodeError, match=words):
            decode(bad, cameras, spec)
    with pytest.raises(DecodeError, match="one camera a view"):
        decode(video, cameras[:2], spec)
    with pytest.raises(DecodeError, match=r"expected 128x128, found 64x64.*resized"):
        decode(video, [*cameras[:2], cameras[2].resized(64, 64)], spec)
    with pytest.raises(DecodeError, match="is not a camera"):
        decode(video, [*cameras[:2], "left"], spec)
    with pytest.raises(DecodeError, match="names"):
        decode({"a": video[0]}, {"b": cameras[0]}, spec)
    with pytest.raises(FrameCountError):
        decode([video[0], video[1][:5], video[2]], cameras, spec)
    with pytest.raises(FrameCountError):
        decode(video, [*cameras[:2], cameras[2].track(5)], spec)
    with pytest.raises(FrameCountError):
        decode(video, cameras, spec, times=np.arange(5))
    with pytest.raises(InvalidTrajectoryError):
        decode(video, cameras, spec, times=np.zeros(12))
    with pytest.raises(InvalidTrajectoryError):
        decode(video, cameras, spec, fps=0)
    with pytest.raises(DecodeError, match="exclude"):
        decode(video, cameras, spec, fps=1, times=truth.times)
    with pytest.raises(DecodeError, match="too small"):
        decode(video[:, :, :4, :4], [c.resized(4, 4) for c in cameras])
    with pytest.raises(DecodeError, match="no measurements"):
        solve([], [], spec)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    views=st.integers(2, 4),
    size=st.sampled_from([(96, 96), (128, 96), (90, 161)]),
    openness=st.sampled_from(["binary", "continuous"]),
)
def test_decoding_inverts_rendering(seed, views, size, openness):
    rng = np.random.default_rng(seed)
    spec = ActionImageSpec(height=size[0], width=size[1], openness=openness)
    focal = 0.9 * min(size)
    K = np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]])
    cameras = [
        Camera(K, c.world_from_camera, size[1], size[0])
        for c in scenes.ring_cameras(rng, views=views, baseline_deg=rng.uniform(40, 80), distance=rng.uniform(0.8, 1.2))
    ]
    position = np.array([0.4, 0.0, 0.3]) + rng.uniform(-0.15, 0.15, (3, 3))
    q = rotations.normalize(rng.standard_normal((3, 4)))
    level = rng.integers(0, 2, 3).astype(float) if openness == "binary" else rng.uniform(0, 1, 3)
    truth = GripperTrajectory(position, q, level, np.arange(3.0))
    decoded = decode(scenes.dense_render(truth, cameras, spec), cameras, spec)
    assert decoded.valid.all()
    p, r = scenes.pose_errors(decoded, truth)
    assert p.max() < 0.3
    assert r.max() < 0.3
    np.testing.assert_allclose(decoded.trajectory.openness, truth.openness, atol=0.011)
    assert (error_in_sigmas(decoded, truth)) < 6


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), view=st.integers(0, 1), channel=st.integers(0, 2), how=st.integers(0, 3))
def test_one_corrupted_channel_never_spoils_the_pose(seed, view, channel, how):
    rng = np.random.default_rng(seed)
    cameras, truth = scenes.ring_cameras(rng, size=128), scenes.random_trajectory(rng, frames=3, cube=0.3)
    video = scenes.dense_render(truth, cameras)
    plane = video[view, ..., channel]
    if how == 0:
        plane[:] = 0
    elif how == 1:
        plane[:] = rng.integers(0, 256, plane.shape)
    elif how == 2:
        plane[:] = 255
    else:
        plane[:] = np.roll(plane, 40, axis=(-2, -1)[channel % 2])
    decoded = decode(video, cameras)
    position, rotation = scenes.pose_errors(decoded, truth)
    # Where the rest leaves two poses that look almost the same, the covariance has to say so.
    spread_mm, spread_deg = 1e3 * spread(decoded)[:, :3].max(-1), np.rad2deg(spread(decoded)[:, 3:].max(-1))
    assert (position < np.maximum(2, 6 * spread_mm[decoded.valid])).all()
    assert (rotation < np.maximum(2, 6 * spread_deg[decoded.valid])).all()


@settings(deadline=None, max_examples=30)
@given(
    frames=hnp.arrays(
        np.float32,
        (2, 2, 16, 20, 3),
        elements=st.one_of(st.floats(-0.25, 1.25, width=32), st.sampled_from([np.nan, np.inf, -np.inf])),
        fill=st.just(0),
    )
)
def test_any_float_video_gives_a_finite_pose_or_none(frames):
    cameras = scenes.ring_cameras(np.random.default_rng(0), size=20)
    cameras = [Camera(c.K, c.world_from_camera, 20, 16) for c in cameras]
    decoded = decode(frames, cameras)
    ok = decoded.valid
    assert np.isfinite(decoded.trajectory.position[ok]).all()
    assert np.isfinite(decoded.covariance[ok]).all()
    assert np.isnan(decoded.trajectory.position[~ok]).all()
    assert ((decoded.reason == Reason.OK.value) == ok).all()


def test_frames_with_values_that_are_not_finite_cost_only_themselves(small):
    cameras, truth, _ = small
    video = scenes.dense_render(truth, cameras, as_float=True)
    video[:, 4] = np.nan
    video[0, 7, 30:40, 30:40] = np.inf
    decoded = decode(video, cameras)
    assert not decoded.valid[4]
    assert np.delete(decoded.valid, 4).all()
    assert np.delete(np.linalg.norm(decoded.trajectory.position - truth.position, axis=-1), [4, 7]).max() < 1e-6


VARIANTS = {
    "wide": {"fov_scale": 1.5, "pixel_centre": "true"},
    "narrow": {"fov_scale": 0.6, "outside": "drop", "ground": "in_view"},
    "true": {"pixel_centre": "true", "ground": "in_view"},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pixel_centre", [0.0, 0.5])
def test_variants_decode_to_the_pose_that_was_drawn(variant: str, pixel_centre: float) -> None:
    spec = ActionImageSpec(height=128, width=128, **VARIANTS[variant])
    rng = np.random.default_rng(5)
    cameras = [
        Camera(c.K, c.world_from_camera, 128, 128, pixel_centre) for c in scenes.ring_cameras(rng, views=3, size=128)
    ]
    truth = scenes.random_trajectory(rng, frames=12)
    video = np.round(255 * render_dense(truth, cameras, spec)).astype(np.uint8)
    decoded = decode(video, cameras, spec)
    position, rotation = scenes.pose_errors(decoded, truth)
    # (V, T, 3)
    seen = np.array(
        [[[inside_dense(p, spec) for p in project_dense(truth, c, spec, t)] for t in range(12)] for c in cameras]
    )
    count = np.sort(seen.sum(-1), axis=0)
    enough = (count[-1] == 3) & (count[-2] >= 1)
    assert enough.sum() >= 8
    assert decoded.valid[enough].all()
    assert np.median(position) < 0.1
    assert np.median(rotation) < 0.1
    lit = seen[..., 0].any(axis=0) | (spec.ground == "always")
    # Where the red point is in no picture, nothing is drawn of the openness, and nothing is claimed.
    np.testing.assert_array_equal(decoded.trajectory.openness[lit], truth.openness[lit])
    assert np.isnan(decoded.trajectory.openness[~lit]).all()
    # Decoded as if drawn otherwise, the poses are off.
    if spec.fov_scale != 1 or pixel_centre:
        wrong = decode(video, cameras, ActionImageSpec(height=128, width=128))
        assert not wrong.valid.any() or np.median(scenes.pose_errors(wrong, truth)[0]) > 5 * np.median(position)

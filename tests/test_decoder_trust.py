"""What the decoder says of pictures that are not drawn as the spec says: widths, mixing, lags, and how sure it is."""

from __future__ import annotations

import decoder_degradations as bench
import decoder_scenes as scenes
import numpy as np
import pytest
from decoder_bench import judge
from hypothesis import given, settings
from hypothesis import strategies as st

from actionimg_data.decode import (
    DecodedTrajectory,
    Reason,
    appearance,
    background,
    blobs,
    decode,
    evidence,
    lighting,
    measure_blobs,
    solve,
    trust,
)
from actionimg_data.decode.openness import openness_of_clip
from actionimg_data.errors import DecodeError
from actionimg_data.schemas import ActionImageSpec

SIZE = 192


def decode_kind(kind: bench.Kind, seed: int = 0, frames: int = 21, **options) -> tuple[bench.Scene, DecodedTrajectory]:
    scene = bench.make_scene(seed, SIZE, frames)
    return scene, decode(kind.make(scene), scene.cameras, scene.spec, fps=20, **options)


def errors_of(scene: bench.Scene, decoded: DecodedTrajectory) -> tuple[np.ndarray, np.ndarray]:
    return scenes.pose_errors(decoded, scene.truth)


SHORT = [
    "random mixing .1", "saturation .7", "smooth grey noise .05", "width 1.45", "width .7", "ellipse 1.4:1",
    "peak .6, ground .15", "haze .15", "scene .08, JPEG 60", "two ghosts .8", "dropped 20 %", "wobble 1 px", "lag 3",
    "turned 15 px, bleed .05", "frozen middle", "drift 12 px", "scene, JPEG 50", "smooth noise 80 px",
    "mirrored first view",
]  # fmt: skip


def test_the_bench_in_short_is_honest_and_no_worse_than_the_yardstick() -> None:
    """Held-out kinds, one scene each: wrong among valid, coverage, and the baseline of twenty lines."""
    found = {name: judge(bench.HELD_OUT[name], [201], SIZE, 21) for name in SHORT}
    by_group = {
        group: [r for r in found.values() if r.group == group] for group in (bench.SHOWN, bench.BETWEEN, bench.NOTHING)
    }
    right = np.concatenate([r.right for r in by_group[bench.SHOWN]])
    assert 1 - right.mean() <= 0.02
    between = np.concatenate([r.right for r in by_group[bench.BETWEEN]])
    # Of so few frames one may be wrong by chance.
    assert (between == 0).sum() <= max(1, 0.1 * len(between))
    assert all(r.valid == 0 for r in by_group[bench.NOTHING])
    inside = np.concatenate([r.inside for r in by_group[bench.SHOWN]])
    # The aim is 80 to 97 %; some kinds hold more (docs/decoding.md).
    assert 0.8 <= inside.mean() <= 0.985
    for name, r in found.items():
        if r.group == bench.SHOWN and r.mm:
            assert np.median(r.mm) <= 1.1 * np.median(r.base_mm), name
    assert sum(r.valid >= 0.98 for r in by_group[bench.SHOWN]) >= 8


@pytest.mark.parametrize(("width", "peak"), [(0.6, 1.0), (1.3, 0.5), (1.6, 0.8), ((1.3, 0.765, 0.6), 1.0)])
def test_blobs_of_other_widths_shapes_and_heights_are_decoded_and_named(width, peak) -> None:
    scene, decoded = decode_kind(bench.Kind(bench.SHOWN, (), (bench.shape(width), bench.peak(peak))))
    assert decoded.valid.all()
    position, rotation = errors_of(scene, decoded)
    assert np.median(position) < 0.1
    assert rotation.max() < 0.5
    assert decoded.keypoint_free.all()
    np.testing.assert_array_equal(decoded.trajectory.openness, scene.truth.openness)
    a, b = width[:2] if isinstance(width, tuple) else (width, width)
    for channel in decoded.diagnosis.channels:
        assert channel.width == pytest.approx(np.sqrt(a * b), rel=0.03)
        assert channel.elongation == pytest.approx(a / b, rel=0.04)
        assert channel.peak == pytest.approx(peak, rel=0.04)
    codes = {f.code for f in decoded.diagnosis.findings}
    assert ("width" in codes) == (abs(np.sqrt(a * b) - 1) > 0.05)
    assert ("shape" in codes) == (a != b)
    assert ("peak" in codes) == (peak < 0.85)


def test_mixed_channels_are_measured_and_undone() -> None:
    matrix = np.array([[1, 0.08, 0.0], [0.12, 1, 0.05], [0.0, 0.1, 1]], np.float32)
    scene, decoded = decode_kind(bench.Kind(bench.SHOWN, (lambda video, scene: 0.8 * video @ matrix.T,)))
    assert decoded.valid.all()
    assert np.median(errors_of(scene, decoded)[0]) < 0.05
    for channel in decoded.diagnosis.channels:
        row = bench_channel(channel.channel)
        for name, share in channel.bleed.items():
            assert share == pytest.approx(matrix[row, bench_channel(name)], abs=0.004)
    assert "red: shows 8 % of green" in decoded.diagnosis.table()


def test_a_scene_that_shines_through_is_taken_off_where_blobs_do_not_always_hide_it() -> None:
    scene = bench.make_scene(1, SIZE, 41)
    video = bench.scene_through(0.15)(scene.draw(), scene)
    decoded = decode(bench.to_uint8(video), scene.cameras, scene.spec, fps=20)
    assert decoded.valid.all()
    # Twenty times less than the scene moves blobs by (the yardstick's 3 to 6 mm).
    assert np.median(errors_of(scene, decoded)[0]) < 0.15


def test_channels_drawn_aside_by_the_same_are_moved_back_and_named() -> None:
    scene, decoded = decode_kind(bench.Kind(bench.SHOWN, (), (bench.channel_shift(3.0),)), 1, frames=41)
    assert decoded.valid.all()
    # Not of the size of the offsets, 4 to 9 mm, and the ellipsoids say so.
    assert errors_of(scene, decoded)[0].max() < 0.5
    assert np.sqrt(np.einsum("tii->ti", decoded.covariance[:, :3, :3]).sum(axis=1)).max() < 5e-4
    assert sum(f.code == "aside" for f in decoded.diagnosis.findings) >= 4


@pytest.mark.parametrize(("length", "gain"), [(1.0, 1.3), (2.0, 3.0)])
def test_blobs_on_a_smooth_background_are_weighed_by_how_that_looks(length: float, gain: float) -> None:
    """Generalised least squares beats least squares, and states about the error that it makes."""
    rng = np.random.default_rng(0)
    layout = blobs.Layout.of(ActionImageSpec(height=256, width=256))
    n, side = 72, 2 * int(2 * layout.sigma / layout.bin) + 1
    place = layout.bin * np.arange(side) + 0.5 * (layout.bin - 1)
    truth = place[side // 2] + rng.uniform(-1, 1, (n, 2))
    d2 = ((place[:, None] - place) / layout.sigma) ** 2
    root = np.linalg.cholesky(np.exp(-d2 / (4 * length**2)) + 1e-9 * np.eye(side))
    g = np.exp(-0.5 * ((place - truth[..., None]) / layout.sigma) ** 2)
    window = g[:, 1, :, None] * g[:, 0, None, :] + 1e-3 * rng.standard_normal((n, side, side))
    ones = np.ones(n)
    priors = (ones, 0.05 * ones, 0 * ones, 0.05 * ones)
    lines = (np.broadcast_to(place, (n, side)),) * 2
    shape = np.broadcast_to(np.eye(2), (n, 2, 2))
    every = np.ones((n, side, side), bool)
    for amount in (0.03, 0.0):
        noisy = window + amount * root @ rng.standard_normal((n, side, side)) @ root.T
        state, mask, _ = appearance.center_fit(noisy, every, *lines, truth, shape, priors, layout)
        uv, covariance = background.refine(
            noisy, mask, *lines, state, shape, priors, np.repeat([0, 1, 2], n // 3), ones > 0, layout
        )
        before, after = ((v - truth).std() for v in (state[0], uv))
        if amount:
            assert after * gain < before
        else:
            assert after < 1.05 * before
        chi_square = np.einsum("ni,nij,nj->n", uv - truth, np.linalg.inv(covariance), uv - truth)
        # What is left to the views' contradictions to correct.
        assert 1.0 < chi_square.mean() < 3.5


def bench_channel(name: str) -> int:
    return ("red", "green", "blue").index(name)


def test_faithful_pictures_are_measured_as_the_spec_says() -> None:
    for kind in ("clean", "noise 5", "JPEG 90", "H.264 18"):
        _, decoded = decode_kind(bench.TUNING[kind])
        assert decoded.valid.all()
        assert not decoded.keypoint_free.any()
        assert not [f for f in decoded.diagnosis.findings if f.code in ("width", "shape", "bleed", "lag")], kind


@pytest.mark.parametrize("frames", [-3, 1.5])
def test_a_late_view_is_found_and_can_be_shown_earlier(frames: float) -> None:
    view = 1 if frames > 0 else 0
    change = bench.fraction_lag(abs(frames), view)
    scene, decoded = decode_kind(bench.Kind(bench.BETWEEN, (), (change,)), frames=41)
    assert decoded.valid.mean() < 0.3
    assert Reason.VIEW_LATE.value in decoded.reason
    late = [f for f in decoded.diagnosis.findings if f.code == "lag"]
    assert late[0].fatal
    assert ("late" if frames > 0 else "early") in late[0].text
    assert decoded.diagnosis.views[1].lag_frames == pytest.approx(frames, abs=0.15)
    refused = int(np.flatnonzero(~decoded.valid)[0])
    assert late[0].text in decoded.cause(refused)
    _, fixed = decode_kind(bench.Kind(bench.BETWEEN, (), (change,)), frames=41, fix_lag=True)
    # View 0 is the clock; where it is the late one, the whole trajectory is late with it.
    clock = slice(0, None) if frames > 0 else slice(0, -3)
    truth = scene.truth.position[clock]
    found = fixed.trajectory.position[3:] if frames < 0 else fixed.trajectory.position
    distance = np.linalg.norm(found - truth, axis=-1)
    assert fixed.valid.mean() > 0.7
    assert np.nanmedian(distance) < 2e-3


@pytest.mark.parametrize("kind", ["turned 20 px"])
def test_a_view_that_has_moved_is_refused_and_named(kind: str) -> None:
    found = {**bench.TUNING, **bench.HELD_OUT}[kind]
    _, decoded = decode_kind(found)
    assert decoded.valid.mean() < 0.1
    assert any(f.code == "disagreement" and f.fatal for f in decoded.diagnosis.findings)
    assert set(decoded.reason[~decoded.valid]) == {Reason.VIEWS_DISAGREE.value}


def test_random_errors_of_the_keypoints_show_in_the_covariance() -> None:
    inside, stated = [], []
    for seed in range(4):
        scene, decoded = decode_kind(bench.Kind(bench.SHOWN, (), (bench.jitter(0.7),)), seed)
        result = judge(bench.Kind(bench.SHOWN, (), (bench.jitter(0.7),)), [seed], SIZE, 21, with_baseline=False)
        inside += result.inside
        stated.append(decoded.diagnosis.keypoint_std_px / scene.px)
    # 84 frames: two standard deviations of counting below 80 %.
    assert 0.72 < np.mean(inside) < 0.99
    assert np.mean(stated) == pytest.approx(0.7, rel=0.2)


def test_pictures_without_an_action_give_no_pose() -> None:
    for name in ("scene moving", "smooth noise", "mirrored both", "random blobs", "swapped views"):
        _, decoded = decode_kind(bench.TUNING[name])
        assert not decoded.valid.any(), name
        assert (decoded.trust == 0).all()


def test_one_frame_is_decoded_by_itself() -> None:
    for kind in (bench.TUNING["clean"], bench.TUNING["width 1.3"], bench.TUNING["peak .5"]):
        scene, decoded = decode_kind(kind, frames=1)
        assert decoded.valid.all()
        assert errors_of(scene, decoded)[0].max() < 0.5
        assert np.isfinite(decoded.covariance).all()


def test_floats_of_another_scale_are_refused_by_name_and_what_is_not_finite_is_said() -> None:
    scene = bench.make_scene(0, 96, 4)
    video = scene.draw()
    for wrong, found in ((video * 255, "0 to 25"), (video * 2 - 1, "-1 to 0.99")):
        with pytest.raises(DecodeError, match=rf"view 0: is not scaled to \[0, 1\].*{found}"):
            decode(wrong, scene.cameras, scene.spec)
    video[1, 2, 5:9] = np.nan
    decoded = decode(video, scene.cameras, scene.spec)
    assert decoded.diagnosis.findings[-1].text.startswith("view 1: 1 frames hold values that are not finite")


def test_memory_hardly_grows_with_the_length_of_a_video() -> None:
    import tracemalloc

    rng = np.random.default_rng(0)
    spec = ActionImageSpec()
    cameras, truth = scenes.ring_cameras(rng), scenes.random_trajectory(rng, frames=3000)
    measured = scenes.perfect_measurements(truth, cameras, spec, rng, 0.05)
    tracemalloc.start()
    try:
        assert solve(measured, cameras, spec, fps=20).valid.all()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Keypoints, covariances and residuals are 3 kB a frame; a picture of 512 x 512 is 786.
    assert peak < 3000 * 12e3


@given(seed=st.integers(0, 1000), position=st.floats(1e-4, 2e-2), rotation=st.floats(1e-3, 0.2))
@settings(deadline=None, max_examples=20)
def test_the_probability_of_being_right_is_that_of_draws(seed: int, position: float, rotation: float) -> None:
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((6, 6)) * np.repeat([position, rotation], 3)[:, None]
    covariance = np.zeros((6, 6))
    for half in (slice(0, 3), slice(3, 6)):
        covariance[half, half] = root[half, half] @ root[half, half].T
    draws = rng.multivariate_normal(np.zeros(6), covariance, 20000)
    right = (np.linalg.norm(draws[:, :3], axis=1) < 0.01) & (np.linalg.norm(draws[:, 3:], axis=1) < np.deg2rad(5))
    # The approximation is made for poses that are mostly right.
    close = 0.03 if right.mean() > 0.7 else 0.1
    assert float(trust.probability_right(covariance, 0.1)) == pytest.approx(right.mean(), abs=close)


def test_variance_components_are_those_that_were_drawn() -> None:
    """Keypoints with errors of their own and errors of a view, of which the residuals show half."""
    from actionimg_data.decode import pose

    rng = np.random.default_rng(0)
    cameras, truth = scenes.ring_cameras(rng), scenes.random_trajectory(rng, frames=300)
    spec = ActionImageSpec()
    uv, _ = scenes.project_all(truth, cameras, spec)
    single, common = 0.8, 1.5
    uv = uv + single * rng.standard_normal(uv.shape) + common * rng.standard_normal((2, 300, 1, 2))
    K, poses = scenes.camera_transforms(cameras)
    measured = pose.Measured(
        np.moveaxis(uv, 1, 0),
        np.broadcast_to(1e-6 * np.eye(2), (300, 2, 3, 2, 2)),
        np.ones((300, 2, 3), bool),
        np.broadcast_to(K, (300, 2, 3, 3)),
        np.broadcast_to(poses, (300, 2, 4, 4)),
    )
    weights = np.broadcast_to(np.eye(2), (300, 2, 3, 2, 2))
    found = pose.estimate(measured._replace(covariance=weights), spec.axis_length)
    at = evidence.linearise(measured, weights, found.rotation[:, 0], found.translation[:, 0], spec.axis_length)
    spread = evidence.uncertainty(at, np.ones(300, bool))
    assert spread.single == pytest.approx(single**2, rel=0.25)
    assert spread.common == pytest.approx(common**2, rel=0.35)


@pytest.mark.parametrize(("ground", "height"), [(0.0, 1.0), (0.3, 0.7), (0.15, 0.8)])
def test_openness_is_read_on_any_ground(ground: float, height: float) -> None:
    rng = np.random.default_rng(0)
    spec = ActionImageSpec()
    for truth in (rng.random(40) < 0.4, np.zeros(40, bool), np.ones(40, bool)):
        level = ground + 0.25 * height * truth + 0.01 * rng.standard_normal((2, 40))
        ones, uv = np.ones((2, 40, 3), bool), np.zeros((2, 40, 3, 2))
        opened = openness_of_clip(
            level,
            np.full((2, 40), 100),
            np.full((2, 40), ground),
            np.full(2, 0.25 * height),
            uv,
            ones,
            ones[..., 0],
            spec,
        )
        np.testing.assert_array_equal(opened.openness, truth)
        assert (np.abs(opened.probability - truth) < 0.05).all()
        assert np.isfinite(opened.levels).tolist() == [bool((~truth).any()), bool(truth.any())]
    # Half a pedestal all along: neither open nor closed, and it says so.
    half = openness_of_clip(
        np.full((1, 9), 0.125), np.full((1, 9), 100), np.zeros((1, 9)), np.full(1, 0.25), uv[:1, :9], ones[:1, :9],
        ones[:1, :9, 0], spec,
    )  # fmt: skip
    assert (np.abs(half.probability - 0.5) < 0.1).all()
    # Where all of blue is lost although its blob should be there, black is not closed; elsewhere it is.
    shown = np.array([[[True, True, False]]])
    for expected in (True, False):
        black = openness_of_clip(
            np.zeros((1, 1)), np.full((1, 1), 100), np.zeros((1, 1)), np.full(1, 0.25), uv[:1, :1], shown,
            np.array([[expected]]), spec,
        )  # fmt: skip
        assert np.isnan(black.openness[0]) == expected


@pytest.mark.parametrize("gamma", [0.5, 2.2])
@pytest.mark.parametrize("ground", [0.0, 0.15])
def test_openness_is_read_through_any_curve_of_grey_levels(gamma: float, ground: float) -> None:
    """A step at the blob's edge tells a closed gripper from one whose pedestal the curve has made low."""
    for opened in (0.0, 1.0):
        scene = bench.make_scene(0, 128, 9)
        scene.openness[:] = opened
        kind = bench.Kind(bench.SHOWN, (bench.gamma(gamma), bench.ground(ground)))
        decoded = decode(kind.make(scene), scene.cameras, scene.spec, fps=20)
        np.testing.assert_array_equal(decoded.trajectory.openness, np.full(9, opened))
        assert (np.abs(decoded.openness_probability - opened) < 0.05).all()


@given(seed=st.integers(0, 1000), depth=st.floats(0.1, 0.5))
@settings(deadline=None, max_examples=20)
def test_light_that_is_not_even_is_found_by_the_blobs_heights(seed: int, depth: float) -> None:
    """A factor ``exp(quadratic)`` moves a Gaussian by its covariance times the exponent's gradient."""
    rng = np.random.default_rng(seed)
    uv = rng.uniform(30, 226, (41, 3, 2))
    slope, bend = depth * rng.uniform(-1, 1, 2), -depth * rng.uniform(0, 1, 2)
    shape = 100.0 * np.array([[[1.3, 0.2], [0.2, 0.8]]] * 3)
    place = (uv - 128) / 128
    exponent = (place * slope + place**2 * bend).sum(axis=-1)
    brightness = np.array([0.0, 0.05, -0.1]) + rng.normal(0, 0.2, (41, 1))
    lit = 0.25 * (rng.random(41) < 0.5)
    brightness[:, 2] += 0.2 * lit
    height = np.exp(exponent + brightness + 1e-4 * rng.standard_normal((41, 3)))
    shown = rng.random((41, 3)) < 0.9
    shift, spread = lighting.moved(uv, height, lit, shape, shown, (256, 256))
    expected = np.einsum("ij,tcj->tci", shape[0], (slope + 2 * place * bend) / 128)
    np.testing.assert_allclose(shift[shown], expected[shown], atol=0.03)
    assert (shift[~shown] == 0).all()
    assert np.isfinite(spread).all()
    # How bright a whole frame is moves nothing.
    even, _ = lighting.moved(uv, np.exp(brightness + 0 * uv[..., 0]), lit, shape, shown, (256, 256))
    assert (even == 0).all()
    # Nor do a few blobs that are higher at the border.
    border = np.where(uv[..., 0] > 210, 0.3, 0.0) + 1e-3 * rng.standard_normal((41, 3))
    odd, _ = lighting.moved(uv, np.exp(border), lit, shape, shown, (256, 256))
    assert (odd == 0).all()


def test_residuals_that_repeat_count_once_and_widen_the_ellipsoid() -> None:
    from scipy import stats

    for freedom in (6, 12, 30, 200):
        ratio = stats.f.ppf(0.9, 6, freedom) / (stats.chi2.ppf(0.9, 6) / 6)
        assert evidence.wider(float(freedom)) == pytest.approx(ratio, rel=0.01)
    rng = np.random.default_rng(0)
    ones = np.ones(200)
    fresh, same = rng.standard_normal((200, 12)), np.repeat(rng.standard_normal((1, 12)), 200, 0)
    assert evidence._independent(np, fresh, ones, 6 * ones) > 1000
    assert evidence._independent(np, same, ones, 6 * ones) == pytest.approx(6)


def test_poses_less_certain_than_wanted_can_be_refused() -> None:
    _, decoded = decode_kind(bench.TUNING["jitter .5 px"])
    keep = np.arange(len(decoded)) % 2 == 0
    fewer = decoded.restricted(keep)
    np.testing.assert_array_equal(fewer.valid, decoded.valid & keep)
    assert set(fewer.reason[~keep & decoded.valid]) == {Reason.TOO_UNCERTAIN.value}
    assert np.isnan(fewer.trajectory.position[~keep]).all()
    np.testing.assert_array_equal(fewer.trajectory.openness, decoded.trajectory.openness)


def test_a_diagnosis_is_plain_values_for_json() -> None:
    import json

    _, decoded = decode_kind(bench.TUNING["bleed .1"])
    text = json.dumps(decoded.diagnosis.to_dict(), allow_nan=False)
    again = json.loads(text)
    assert len(again["channels"]) == 6
    assert {f["code"] for f in again["findings"]} >= {"bleed"}
    _, clean = decode_kind(bench.TUNING["clean"])
    assert "as the spec" in clean.diagnosis.table()


def test_measurements_know_whether_pictures_are_drawn_as_the_spec_says() -> None:
    scene = bench.make_scene(0, SIZE, 8)
    clean = measure_blobs(bench.TUNING["clean"].make(scene)[0], scene.spec)
    assert not clean.odd.any()
    assert np.isnan(clean.free.uv).all()
    wide = measure_blobs(bench.TUNING["width 1.3"].make(bench.make_scene(0, SIZE, 8))[0], scene.spec)
    assert wide.odd.all()
    assert wide.free.valid[..., 0].all()

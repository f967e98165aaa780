"""Cameras from nothing, on our own drawn scene whose cameras are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from click.testing import CliRunner
from sample_mapping import log_mapping
from scipy.spatial.transform import Rotation

from actionimg_data.calibrate import (
    GripperShape,
    Mark,
    Recorded,
    flow_search,
    guess_camera,
    hand_camera,
    hand_points,
    point_tracks,
    refine_camera,
    speeds,
    uncertainty,
)
from actionimg_data.calibrate import adjust as adjust_module
from actionimg_data.calibrate.adjust import Adjusted, adjust
from actionimg_data.calibrate.evidence import gather
from actionimg_data.calibrate.files import guess_file
from actionimg_data.calibrate.pictures import mark_sheet
from actionimg_data.calibrate.pool import alike, background_edges, same_camera
from actionimg_data.calibrate.refine import overlay_px
from actionimg_data.calibrate.sharpen import sharpen
from actionimg_data.calibrate.solve import Priors, as_found, motion, solve, vector_of
from actionimg_data.cameras.calibrated import CalibratedCamera, Distortion
from actionimg_data.cameras.files import load_cameras
from actionimg_data.cli import main
from actionimg_data.demo.scene import SceneRenderer, make_cameras, make_motion
from actionimg_data.errors import InvalidSpecError, WrongFormatError
from actionimg_data.geometry import transforms
from actionimg_data.model import Camera, GripperTrajectory, View
from actionimg_data.model.episode import ArrayFrames
from actionimg_data.raster.gripper import gripper_model
from actionimg_data.shards import open_dataset
from actionimg_data.video import encode_bytes, rgb_encoding

SIZE, FRAMES = 144, 60
SHAPE = GripperShape.parametric(0.003)
TRUTH = Camera.looking_at(np.array([1.05, 0.75, 1.45]), np.array([0.3, 0.0, 0.9]), SIZE, SIZE, horizontal_fov_deg=45)
OTHER = Camera.looking_at(np.array([0.4, -1.1, 1.3]), np.array([0.3, 0.0, 0.9]), SIZE, SIZE, horizontal_fov_deg=45)


def record(seed: int, camera: Camera, frames: int = FRAMES, name: str = "") -> Recorded:
    moved = make_motion(frames, seed)
    renderer = SceneRenderer(moved, SIZE)
    pictures = np.stack([renderer.draw(camera, f).rgb for f in range(frames)])
    poses = GripperTrajectory.from_transforms(moved.world_from_gripper, moved.jaw, np.arange(frames) / 20)
    return Recorded(name or f"demo{seed}", View(None, ArrayFrames(pictures)), {"": poses})


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return record(3, TRUTH)


def with_poses(one: Recorded, poses: GripperTrajectory) -> Recorded:
    return Recorded(one.episode, one.view, {"": poses})


def away_px(K: Any, pose: Any, one: Recorded, truth: Camera = TRUTH) -> float:
    points = one.arms[""].position
    there = Camera(K, pose, truth.width, truth.height).project(points)[0]
    return float(np.linalg.norm(there - truth.project(points)[0], axis=1).mean())


def test_a_camera_is_found_from_motion_alone_and_says_how_far_it_may_be_off(recorded: Recorded) -> None:
    found = guess_camera("front", [recorded], SHAPE, K=TRUTH.K, keep=True)
    assert found.found, found.reason
    # Its hand turns about one axis only, so that points alone leave open how high it is.
    assert found.overlay_px is not None
    assert away_px(found.K, found.world_from_camera, recorded) < min(2.0, found.overlay_px)
    assert found.overlay_px < 4
    assert found.focal_interval_px == 0
    assert found.evidence
    content = guess_file([found], {recorded.episode: recorded})
    assert content["cameras"]["front"]["origin"]["kind"] == "guessed"
    assert content["guesses"][0]["verdict"] == "found"
    lens = CalibratedCamera(TRUTH.K, SIZE, SIZE, distortion=Distortion("pinhole", (0.1, 0, 0, 0)), pixel_centre=0.5)
    bent = guess_file([found], {recorded.episode: recorded}, {"front": lens})["cameras"]["front"]
    assert bent["distortion"] == {"model": "pinhole", "coefficients": [0.1, 0, 0, 0]}
    assert bent["K"] == TRUTH.K.tolist()


def test_marks_of_another_place_lead_away_and_wrong_marks_are_refused(recorded: Recorded) -> None:
    with pytest.raises(InvalidSpecError, match="FRAME:X,Y"):
        Mark.parse("12-30,40")
    assert Mark.parse("a/b@7:3.5,4") == Mark(7, 3.5, 4.0, "a/b")
    for mark, what in (
        (Mark(FRAMES, 5, 5), "no such frame"),
        (Mark(0, SIZE + 1, 5), "outside"),
        (Mark(0, 5, 5, "x"), "no such ep"),
    ):
        with pytest.raises(InvalidSpecError, match=what):
            guess_camera("front", [recorded], SHAPE, K=TRUTH.K, marks=[mark])
    parts = [flow_search.moves(recorded.view.frames, recorded.arms[""], 30)]
    scale = parts[0].scale
    points = recorded.arms[""].position[[10, 40]]
    pixels = TRUTH.project(points)[0] * scale
    drawn = flow_search.search(parts, TRUTH.K[:2, 2] * scale, TRUTH.K[0, 0] * scale, marks=(points, pixels))
    best = np.asarray(transforms.make_transform(drawn.turn[0].T.astype(float), drawn.centre[0].astype(float)))
    uv = Camera(TRUTH.K, best, SIZE, SIZE).project(points)[0]
    assert np.linalg.norm(uv - pixels / scale, axis=1).mean() < 0.08 * SIZE


def test_a_true_camera_agrees_with_the_motion_better_than_others(recorded: Recorded) -> None:
    parts = [flow_search.moves(recorded.view.frames, recorded.arms[""], 30)]
    scale = parts[0].scale
    turned = TRUTH.world_from_camera.copy()
    turned[:3, :3] = turned[:3, :3] @ Rotation.from_euler("y", 15, degrees=True).as_matrix()
    poses = np.stack([TRUTH.world_from_camera, turned, OTHER.world_from_camera])
    cameras = flow_search.Cameras(
        poses[:, :3, :3].transpose(0, 2, 1).astype(np.float32),
        poses[:, :3, 3].astype(np.float32),
        np.full(3, TRUTH.K[0, 0] * scale, np.float32),
        np.zeros(3, np.float32),
    )
    scores = flow_search.score(cameras, parts, TRUTH.K[:2, 2] * scale)
    assert scores[0] > 0.4
    assert scores[0] > 1.5 * scores[1:].max()


def test_what_cannot_be_told_is_said_with_the_reason(recorded: Recorded) -> None:
    t = recorded.arms[""]
    still = GripperTrajectory(
        np.repeat(t.position[:1], len(t), 0), np.repeat(t.quaternion_xyzw[:1], len(t), 0), t.openness, t.times
    )
    assert "hardly moves" in guess_camera("v", [with_poses(recorded, still)], SHAPE).reason
    frozen = Recorded("x", View(None, ArrayFrames(np.repeat(recorded.view.frames.array[:1], FRAMES, 0))), recorded.arms)  # type: ignore[attr-defined]
    assert "nothing moves" in guess_camera("v", [frozen], SHAPE).reason
    pictures = recorded.view.frames.array  # type: ignore[attr-defined]
    drifting = np.stack([np.roll(p, k // 8, 1) for k, p in enumerate(pictures)])
    gone = guess_camera("v", [Recorded("x", View(None, ArrayFrames(drifting)), recorded.arms)], SHAPE, K=TRUTH.K)
    assert "the camera moves" in gone.reason
    two = Recorded("x", recorded.view, {"left": t, "right": t})
    assert "several grippers" in guess_camera("v", [two], SHAPE).reason
    reverse = GripperTrajectory(t.position[::-1], t.quaternion_xyzw[::-1], t.openness[::-1], t.times)
    wrong = guess_camera("v", [with_poses(recorded, reverse)], SHAPE, K=TRUTH.K)
    assert wrong.verdict == "cannot tell", wrong.reason
    short = Recorded("x", View(None, ArrayFrames(recorded.view.frames.array[:6])), {"": t[:6]})  # type: ignore[attr-defined]
    assert guess_camera("v", [short], SHAPE, K=TRUTH.K).verdict == "cannot tell"
    # A hand that something else moves in front of: noise where the gripper is.
    rng = np.random.default_rng(0)
    noise = ArrayFrames(rng.integers(0, 255, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8))
    hidden = guess_camera("v", [Recorded("x", View(None, noise), recorded.arms)], SHAPE, K=TRUTH.K)
    assert hidden.verdict == "cannot tell"
    assert hidden.reason
    small = Recorded("y", View(None, ArrayFrames(recorded.view.frames.array[:, ::2, ::2])), recorded.arms)  # type: ignore[attr-defined]
    with pytest.raises(WrongFormatError, match="not one camera"):
        guess_camera("v", [recorded, small], SHAPE)


def test_points_of_the_hand_tell_the_camera_without_a_model_of_the_gripper(recorded: Recorded) -> None:
    tracks = [hand_points.follow(recorded.view.frames, recorded.arms[""], 60)]
    turned = TRUTH.world_from_camera @ motion(np.array([0.04, -0.05, 0.03, 0.04, -0.03, 0.05]))
    assert away_px(TRUTH.K, turned, recorded) > 8
    found = hand_points.fit(tracks, TRUTH.K, turned, False)
    assert found is not None
    best = hand_points.fit(tracks, TRUTH.K, found.world_from_camera, False, final=True)
    assert best is not None
    # The fit alone is 1.1 to 3.2 px off, over six demos; with errors that drift it is 1.1 px in this one.
    told = adjust(best.bundle, best.state, free_focal=False, free_offset=True)
    assert away_px(TRUTH.K, motion(told.state[:6]), recorded) < 2.0
    assert best.fitting > 0.6
    spread = best.bundle.spread(best.state, False)
    assert spread.shape == (6, 6)
    # A camera that sees the hand elsewhere finds hardly a point there.
    elsewhere = hand_points.fit(tracks, TRUTH.K, OTHER.world_from_camera, False)
    assert elsewhere is None or elsewhere.support < 0.5 * best.support


def test_rays_that_meet_are_those_of_a_slow_readable_bundle() -> None:
    """Each point is the least-squares meeting of its rays, one point after the other."""
    rng = np.random.default_rng(5)
    count, pictures = 12, 7
    poses = np.stack([motion(np.r_[rng.normal(size=3) * 0.3, rng.normal(size=3) * 0.2]) for _ in range(pictures)])
    state = np.r_[0.02, -0.01, 0.03, 0.01, 0.02, -0.02, np.log(200.0)]
    track, picture = (a.ravel() for a in np.meshgrid(np.arange(count), np.arange(pictures), indexing="ij"))
    order = rng.permutation(len(track))
    uv = rng.uniform(-40, 40, (len(track), 2))
    bundle = point_tracks.Bundle(
        [point_tracks.Tracks(uv[order], track[order], picture[order], poses)], np.zeros(2), 1.0
    )
    cameras = poses @ motion(state[:6])
    expected = []
    for k in range(count):
        normal, right = 1e-6 * np.eye(3), np.zeros(3)
        for p in range(pictures):
            ray = cameras[p, :3, :3] @ np.append(uv[k * pictures + p] / 200, 1)
            across = np.eye(3) - np.outer(ray, ray) / (ray @ ray)
            normal, right = normal + across, right + across @ cameras[p, :3, 3]
        point = np.linalg.solve(normal, right)
        for p in range(pictures):
            x, y, z = cameras[p, :3, :3].T @ (point - cameras[p, :3, 3])
            at = np.array([50.0, 50.0])
            if z > 0.01:
                at = np.clip(200 * np.array([x, y]) / z - uv[k * pictures + p], -50, 50)
            expected.append(at)
    at = np.array(expected)[bundle.track * pictures + bundle.picture]
    np.testing.assert_allclose(bundle.residuals(state).reshape(-1, 2), at, atol=1e-6)


def test_poses_off_in_time_are_told_from_the_pictures_motion(recorded: Recorded) -> None:
    """The mean flow is linear in the hand's velocity, at the true offset best."""
    rng = np.random.default_rng(1)
    times = np.arange(140) / 20
    velocity = np.stack([np.convolve(rng.normal(size=140), np.hanning(9), "same") for _ in range(3)], 1)
    seen = velocity @ rng.normal(size=(3, 2)) + 0.1 * rng.normal(size=(140, 2))
    for late in (0.0, 0.2, -0.25):
        told = np.stack([np.interp(times - late, times, column) for column in velocity.T], 1)
        found = speeds.offset_of([speeds.Speeds(times, seen, told)])
        if late == 0:
            assert found is None
        else:
            assert found is not None
            assert found.clear
            assert found.seconds == pytest.approx(-late, abs=0.03)
    noise = speeds.Speeds(times, rng.normal(size=(140, 2)), velocity)
    assert speeds.offset_of([noise]) is None
    assert speeds.speeds(recorded.view.frames, recorded.arms[""][: speeds.MIN_FRAMES - 1]) is None
    poses = recorded.arms[""]
    moved = speeds.moved(poses, 0.1)
    assert moved.known.tolist() == [False] * 2 + [True] * (len(poses) - 2)
    np.testing.assert_allclose(moved.position[5:], poses.position[3:-2], atol=1e-9)
    np.testing.assert_allclose(moved.rotation[5:], poses.rotation[3:-2], atol=1e-9)


def test_poses_off_in_time_are_said_with_what_cures_it(recorded: Recorded) -> None:
    late = speeds.moved(recorded.arms[""], 0.2)
    known = Recorded(
        "late",
        View(None, ArrayFrames(recorded.view.frames.array[late.known])),  # type: ignore[attr-defined]
        {"": late[np.flatnonzero(late.known)]},
    )
    said = guess_camera("v", [known], SHAPE, K=TRUTH.K)
    assert said.verdict == "cannot tell"
    assert said.time_offset_s == pytest.approx(-0.2, abs=0.02)
    assert "too late" in said.reason
    assert "time_offset=-0.2" in said.reason


def test_few_distinct_motions_say_no_offset(recorded: Recorded) -> None:
    rng = np.random.default_rng(1)
    times = np.arange(120) / 20
    wave = np.stack([np.sin(w * times) for w in (1.0, 1.7, 2.3)], 1)
    slow = np.stack([times, 0.3 * times, -times], 1) / 10 + 1e-3 * rng.normal(size=(120, 3))
    mixing = rng.normal(size=(3, 2))

    def seen(velocity: np.ndarray, late: float) -> speeds.Speeds:
        at = np.stack([np.interp(times - late, times, v) for v in velocity.T], 1)
        return speeds.Speeds(times, velocity @ mixing + 0.02 * rng.normal(size=(120, 2)), at)

    assert speeds.distinct_motions([seen(wave, 0.0)]) > 2 * speeds.distinct_motions([seen(slow, 0.0)])
    told = speeds.offset_of([seen(np.concatenate([wave[:, :2], rng.normal(size=(120, 1))], 1), 0.2)])
    assert told is not None
    assert told.clear
    assert told.seconds == pytest.approx(-0.2, abs=told.interval_s)
    for late in (0.0, 0.2):
        said = speeds.offset_of([seen(slow, late)])
        assert said is None or not said.clear
    assert speeds.distinct_motions([]) == 0
    short = Recorded("short", View(None, ArrayFrames(recorded.view.frames.array[:40])), {"": recorded.arms[""][:40]})  # type: ignore[attr-defined]
    answer = guess_camera("v", [short], SHAPE, K=TRUTH.K)
    assert answer.time_offset_s is None
    assert answer.found or "edges alone are not believed" in answer.reason


def drifting_points(offset: float) -> tuple[point_tracks.Bundle, np.ndarray, np.ndarray]:
    """Points of a hand that turns and goes about, followed with slips that add up; and the true camera's state."""
    rng = np.random.default_rng(4)
    times = np.arange(60) / 20
    waves = [np.sin(rng.uniform(0.5, 2.5) * times + rng.uniform(0, 6)) for _ in range(6)]
    vectors = np.stack(waves, 1) * np.array([0.25, 0.25, 0.25, 0.08, 0.08, 0.08])
    truth = np.r_[0.3, -0.2, 0.1, 0.05, 0.02, -1.0, np.log(260.0)]
    world_from_gripper = np.stack([motion(v) for v in vectors])
    told = np.stack([motion(np.array([np.interp(t - offset, times, c) for c in vectors.T])) for t in times])
    rates = np.gradient(told[:, :3], times, axis=0)
    camera_from_world = transforms.invert(motion(truth[:6]))
    points = rng.uniform(-0.05, 0.05, (40, 3))
    uv, track, picture = [], [], []
    for k, point in enumerate(points):
        first = int(rng.integers(3, 40))
        seen = np.arange(first, first + 14)
        local = transforms.apply(camera_from_world @ world_from_gripper[seen], point[None])[:, 0]
        slips = np.cumsum(np.r_[[[0, 0]], 0.1 * rng.normal(size=(13, 2))], 0)
        uv.append(260 * local[:, :2] / local[:, 2:] + slips)
        track.append(np.full(14, k))
        picture.append(seen)
    tracks = point_tracks.Tracks(
        np.concatenate(uv),
        np.concatenate(track),
        np.concatenate(picture),
        np.asarray(transforms.invert(told)),
        rates,
    )
    return point_tracks.Bundle([tracks], np.zeros(2), 1.0), truth, points


def test_points_that_drift_tell_camera_and_clock_together() -> None:
    bundle, truth, _ = drifting_points(0.03)
    start = truth + np.r_[0.02, -0.02, 0.01, 0.02, 0.01, -0.03, 0]
    found = adjust(bundle, start, False, True)
    assert found.offset_s == pytest.approx(-0.03, abs=0.015)
    assert found.offset_sd_s < 0.02
    off = vector_of(np.asarray(transforms.invert(motion(found.state[:6]))) @ motion(truth[:6]))
    assert off @ found.information @ off < 6 * 3**2
    assert np.linalg.norm(off[3:]) < 0.05
    fixed = adjust(bundle, start, False, False)
    assert np.linalg.norm(bundle.steps(bundle.residuals(fixed.state).reshape(-1, 2))) > 0
    assert fixed.offset_s == 0
    free = adjust(bundle, start, True, True)
    assert free.information.shape == (7, 7)
    assert abs(free.state[6] - truth[6]) < 3 * np.linalg.inv(free.information)[6, 6] ** 0.5 + 0.02


def test_a_hand_that_never_turns_tells_its_camera_by_where_hands_are() -> None:
    turning, truth, points = drifting_points(0.0)
    home = point_tracks.Home(np.array([0.01, 0.0, 0.02]), np.full(3, 0.03))
    poses = turning.poses.copy()
    poses[:, :3, :3] = np.eye(3)
    local = transforms.apply(
        transforms.invert(poses[turning.picture] @ motion(truth[:6])), points[turning.track][:, None]
    )[:, 0]
    uv = 260 * local[:, :2] / local[:, 2:]
    tracks = point_tracks.Tracks(uv, turning.track, turning.picture, poses)
    start = truth + np.r_[0.02, -0.02, 0.01, 0.15, 0.1, -0.1, 0]
    shift, told = [], []
    for bundle in (point_tracks.Bundle([tracks], np.zeros(2), 1.0, h) for h in (None, home)):
        _, near = bundle.fitted(start, False, 30)
        found = adjust(bundle, near, False, False)
        # Where the camera is seen from the hand is what cannot be told: both move along together.
        assert np.abs(bundle.residuals(found.state)).max() < 0.1
        shift.append(np.linalg.norm(found.state[3:6] - truth[3:6]))
        told.append(np.sqrt(np.linalg.eigvalsh(np.linalg.inv(found.information)).max()))
    assert shift[0] > 0.1
    assert shift[1] < 3 * 0.03
    assert told[1] < 0.06 < told[0]


def test_points_are_eliminated_as_from_the_whole_equations() -> None:
    """Reduced normal equations against those of camera, clock and all points at once, differenced numerically."""
    bundle, truth, points = drifting_points(0.0)
    columns, damping = list(range(8)), 0.0
    here = adjust_module._at(bundle, truth, 0.0, points)
    reduced, right, _ = adjust_module._Blocks.of(bundle, here, columns).reduced(damping)

    def left(x: np.ndarray) -> np.ndarray:
        pose = vector_of(motion(truth[:6]) @ np.asarray(transforms.invert(motion(x[:6]))))
        at = adjust_module._at(bundle, np.append(pose, truth[6] + x[6]), x[7], points + x[8:].reshape(-1, 3))
        return at.left.ravel()

    count, step = 8 + points.size, 1e-6
    jacobian = np.stack([(left(step * e) - left(-step * e)) / (2 * step) for e in np.eye(count)], 1)
    weight = np.repeat(1 / (1 + (here.left**2).sum(1) / adjust_module._LOSS_PX**2), 2)
    normal = jacobian.T @ (weight[:, None] * jacobian) + np.diag(np.r_[np.zeros(8), np.full(points.size, 1e-6)])
    gradient = jacobian.T @ (weight * here.left.ravel())
    inner = np.linalg.solve(normal[8:, 8:], np.c_[normal[8:, :8], gradient[8:]])
    np.testing.assert_allclose(reduced, normal[:8, :8] - normal[:8, 8:] @ inner[:, :8], rtol=1e-4, atol=1)
    np.testing.assert_allclose(right, gradient[:8] - normal[:8, 8:] @ inner[:, 8], rtol=1e-3, atol=1)


def test_edges_sharpen_what_points_tell_and_are_left_out_where_they_disagree(recorded: Recorded) -> None:
    turned = TRUTH.world_from_camera @ motion(np.array([0.004, -0.012, 0, 0, 0, 0]))
    before = away_px(TRUTH.K, turned, recorded)
    assert before > 1.5
    gathered = [gather(recorded.view.frames, recorded.arms, TRUTH, turned, SHAPE.hand, 20)]
    state = np.append(vector_of(turned), np.log(TRUTH.K[0, 0]))
    rough = Adjusted(state, 0.0, 0.0, np.diag(np.repeat([0.01, 0.02], 3) ** -2.0), 0.2)
    both = sharpen(gathered, TRUTH.K, rough, Priors(tool_m=0.006, reach_m=0.015), False, SIZE)
    assert both.found is not None
    assert away_px(both.K, both.pose, recorded) < 0.6 * before
    alone = sharpen([], TRUTH.K, rough, Priors(), False, SIZE)
    assert (np.linalg.eigvalsh(alone.covariance - both.covariance) > 0).all()
    # What edges ask for is one deviation of these points or so: more than is allowed here.
    with mock.patch("actionimg_data.calibrate.sharpen.MAX_PULL", 0.05):
        refused = sharpen(gathered, TRUTH.K, rough, Priors(tool_m=0.006, reach_m=0.015), False, SIZE)
    assert refused.edges is not None
    assert refused.found is None
    np.testing.assert_array_equal(refused.pose, motion(state[:6]))


def test_a_camera_is_refined_by_points_of_a_hand_that_is_unlike_the_model(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = Rotation.from_euler("xyz", (3, -3, 1), degrees=True).as_matrix()
    change = np.asarray(transforms.make_transform(turn, np.array([0.02, -0.02, 0.01])))
    wrong = Camera(TRUTH.K, TRUTH.world_from_camera @ change, SIZE, SIZE)
    given = [Recorded(r.episode, View(wrong, r.view.frames), r.arms) for r in (recorded, record(4, TRUTH))]
    unlike = GripperShape.parametric(0.003, hand_size=(0.3, 0.3, 0.01), finger_length=0.2, finger_width=0.1)
    fit = refine_camera("front", given, unlike, keep=True)
    # The pictures are small; in such the outline has to fit too.
    assert not fit.accepted
    assert "small pictures" in fit.reason
    monkeypatch.setattr(uncertainty, "SMALL_PX", SIZE)
    fit = refine_camera("front", given, unlike, keep=True)
    assert fit.accepted, fit.reason
    assert "points of the hand" in fit.model
    assert fit.overlay_px is not None
    after = overlay_px(fit.evidence, fit.refined, TRUTH.world_from_camera)
    assert after < min(1.5, fit.overlay_px)
    assert after < 0.3 * overlay_px(fit.evidence, fit.recorded, TRUTH.world_from_camera)
    monkeypatch.setattr(uncertainty, "MAX_APART_SHARE", 1e-4)
    assert "elsewhere" in refine_camera("front", given, unlike).reason


def test_poses_that_freeze_while_the_pictures_go_on_are_said(recorded: Recorded) -> None:
    arm, t = recorded.arms[""], np.arange(FRAMES)
    for held in (np.minimum(t, FRAMES // 2), np.maximum(t, FRAMES // 2)):
        poses = GripperTrajectory(arm.position[held], arm.quaternion_xyzw[held], arm.openness, arm.times)
        said = guess_camera("front", [recorded, with_poses(recorded, poses)], SHAPE, K=TRUTH.K)
        assert said.verdict == "cannot tell"
        assert "poses stand still from" in said.reason
    # Pictures that stand still with the poses are nobody's fault.
    still = np.minimum(t, FRAMES // 2)
    frames = ArrayFrames(np.stack(list(recorded.view.frames.frames(still.tolist()))))
    poses = GripperTrajectory(arm.position[still], arm.quaternion_xyzw[still], arm.openness, arm.times)
    seen = speeds.speeds(frames, poses)
    assert seen is not None
    assert speeds.frozen([seen]) is None


def test_points_on_the_hand_and_what_it_holds_are_not_the_scene() -> None:
    """A striped bar that stays at the picture's lower edge while the scene passes by."""
    rng = np.random.default_rng(2)
    scene = rng.integers(0, 255, (96, 300), dtype=np.uint8)
    bar = np.where(np.arange(96) // 8 % 2, 250, 5).astype(np.uint8)
    greys = []
    for k in range(20):
        picture = scene[:, 5 * k : 5 * k + 96].copy()
        picture[80:] = bar
        greys.append(picture)
    outline = hand_camera.hand_outline(greys)
    assert outline[82:].mean() > 0.95
    assert outline[:60].mean() < 0.1
    times = np.arange(40) / 20
    openness = np.r_[np.ones(20), np.linspace(1, 0.3, 6), np.full(14, 0.3)]
    poses = GripperTrajectory(np.zeros((40, 3)), np.tile([0, 0, 0, 1.0], (40, 1)), openness, times)
    cut = hand_camera.fingers_move(poses, np.arange(0, 40, 2))
    assert not cut[:10].any()
    assert cut[11:13].all()
    assert not cut[14:].any()
    command = GripperTrajectory(poses.position, poses.quaternion_xyzw, np.r_[np.ones(20), np.zeros(20)], times)
    # The fingers follow a command late.
    assert hand_camera.fingers_move(command, np.arange(0, 40, 2))[10:16].all()
    uv = np.concatenate([np.stack([np.arange(6.0) * 3, np.zeros(6)], 1), 10 + 0.1 * rng.random((6, 2))])
    assert point_tracks.goes_by(uv, np.repeat([0, 1], 6), 4, 4.0, 0.5).tolist() == [True] * 6 + [False] * 6


def test_sizes_of_the_gripper_are_fitted_with_the_camera(recorded: Recorded) -> None:
    """The hand of the model is 3 cm too narrow: that is found, and the camera with it."""
    wrong = GripperShape.parametric(0.003, hand_size=(0.05, 0.174, 0.066))
    gathered = [gather(recorded.view.frames, recorded.arms, TRUTH, TRUTH.world_from_camera, wrong.hand, 20)]
    priors = Priors(tool_m=0.006, reach_m=0.015, tool_rad=0.03, size_m=0.003)
    found = solve([gathered], [TRUTH.world_from_camera], priors, fit_sizes=True)
    sizes = {s.name: v for s, v in zip(wrong.hand.sizes, found.sizes, strict=True)}
    assert 0.015 < sizes["hand_size.y"] < 0.045
    assert away_px(TRUTH.K, found.poses[0], recorded) < 1.5
    assert as_found(gathered[0], found).hand.corners[:, 1].max() > wrong.hand.corners[:, 1].max() + 0.005


def test_resized_hands_are_those_of_the_sizes() -> None:
    hand = SHAPE.hand
    values = np.zeros(len(hand.sizes))
    names = [s.name for s in hand.sizes]
    values[names.index("max_width")], values[names.index("hand_size.z")] = 0.01, -0.006
    expected = gripper_model(max_width=0.09, hand_size=(0.05, 0.204, 0.06))
    resized = hand.resized(values)
    for openness in (0.0, 0.4, 1.0):
        np.testing.assert_allclose(resized.posed(openness), expected.vertices + openness * expected.opening, atol=1e-9)
    outline = hand.outline(
        transforms.invert(TRUTH.world_from_camera) @ make_motion(4, 1).world_from_gripper[0], TRUTH.K, 0.5
    )
    assert outline is not None
    assert outline.grown.shape == (len(outline), len(hand.sizes), 3)
    # A wider hand moves no point by more than half of its widening.
    assert np.abs(outline.grown[:, names.index("max_width")]).max() <= 0.5 + 1e-6


def test_pairs_of_frames_lie_about_the_same_travel_apart() -> None:
    t = np.arange(200) / 20
    position = np.stack([0.3 * np.sin(t), 0.2 * np.cos(t), 0.1 * t], 1)
    still = np.concatenate([position, np.repeat(position[-1:], 100, 0)])
    poses = GripperTrajectory(still, np.tile([0, 0, 0, 1.0], (300, 1)), np.ones(300), np.arange(300) / 20)
    pairs = flow_search.choose_pairs(poses, 40)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert (np.diff(pairs, axis=1) <= flow_search.MAX_GAP).all()
    assert pairs[:, 0].max() < 200
    travel = np.linalg.norm(np.diff(still[pairs], axis=1)[:, 0], axis=1)
    assert (travel > 0.3 * flow_search.TRAVEL_M).all()
    assert (travel < 3 * flow_search.TRAVEL_M).all()


def test_a_camera_on_the_hand_is_found_from_points_that_stand_still() -> None:
    rng = np.random.default_rng(0)
    hand = np.asarray(
        transforms.make_transform(
            Rotation.from_euler("zx", [80, 20], degrees=True).as_matrix(), np.array([0.05, -0.02, -0.09])
        )
    )
    turns = Rotation.from_rotvec(np.cumsum(rng.normal(size=(24, 3)) * 0.06, axis=0)) * Rotation.from_euler(
        "x", 180, degrees=True
    )
    place = np.cumsum(rng.normal(size=(24, 3)) * 0.02, axis=0) + np.array([0, 0, 0.5])
    poses = np.asarray(transforms.make_transform(turns.as_matrix(), place))
    points = np.concatenate([rng.uniform(-0.6, 0.6, (60, 2)), rng.uniform(-0.05, 0.2, (60, 1))], 1)
    focal, middle = 110.0, np.array([64.0, 64.0])
    uv, track, picture = [], [], []
    for k, pose in enumerate(poses @ hand):
        seen = np.asarray(transforms.apply(transforms.invert(pose), points))
        at = focal * seen[:, :2] / seen[:, 2:] + middle
        good = (seen[:, 2] > 0.1) & (at > 0).all(1) & (at < 128).all(1)
        uv.append(at[good] + rng.normal(size=(good.sum(), 2)) * 0.2)
        track.append(np.flatnonzero(good))
        picture.append(np.full(good.sum(), k))
    tracks = hand_camera.Tracks(np.concatenate(uv), np.concatenate(track), np.concatenate(picture), poses)
    found = hand_camera.find([tracks], middle, None, 128)
    assert not isinstance(found, str)
    assert found.reason == ""
    left = np.asarray(transforms.invert(hand)) @ found.gripper_from_camera
    assert np.linalg.norm(left[:3, 3]) < 0.015
    assert np.degrees(np.arccos(np.clip((np.trace(left[:3, :3]) - 1) / 2, -1, 1))) < 1.0
    assert found.focal == pytest.approx(focal, rel=0.03)
    straight = hand_camera.Tracks(
        tracks.uv,
        tracks.track,
        tracks.picture,
        np.asarray(transforms.make_transform(np.tile(np.eye(3), (24, 1, 1)), place)),
    )
    none = hand_camera.find([straight], middle, focal, 128)
    assert isinstance(none, str) or none.reason
    # Where parts disagree, and a stretch of time has next to no points, that is said.
    counts = np.bincount(tracks.picture, minlength=24)
    assert found.fewest == min(np.median(c) for c in np.array_split(counts, point_tracks.GROUPS))
    kept = (tracks.picture < 15) | (tracks.track < 4)
    sparse = hand_camera.Tracks(tracks.uv[kept], tracks.track[kept], tracks.picture[kept], poses)
    with mock.patch.object(hand_camera, "MAX_TURN_SD", 0.0):
        told = hand_camera.find([sparse], middle, focal, 128)
    assert not isinstance(told, str)
    assert told.fewest < hand_camera.SPARSE
    assert "disagree" in told.reason
    assert f"so little texture that {told.fewest:.0f} points a picture" in told.reason


def test_a_drawn_wrist_camera_is_not_taken_for_one_that_stands_still() -> None:
    moved = make_motion(24, 5)
    camera = make_cameras(moved, 96, ("wrist",))["wrist"]
    renderer = SceneRenderer(moved, 96)
    pictures = np.stack([renderer.draw(camera[f], f).rgb for f in range(24)])  # type: ignore[index]
    poses = GripperTrajectory.from_transforms(moved.world_from_gripper, moved.jaw, np.arange(24) / 20)
    found = guess_camera("wrist", [Recorded("a", View(None, ArrayFrames(pictures)), {"": poses})], SHAPE)
    assert "whole picture moves" in found.reason or found.gripper_from_camera is not None


def test_backgrounds_tell_which_episodes_share_a_camera(recorded: Recorded) -> None:
    second, elsewhere = record(4, TRUTH, 24, "second"), record(3, OTHER, 24, "elsewhere")
    groups = same_camera([recorded, elsewhere, second])
    assert [[r.episode for r in g] for g in groups] == [["demo3", "second"], ["elsewhere"]]
    edges = background_edges(recorded.view.frames)
    assert alike(edges, edges)
    assert not alike(edges, np.roll(edges, 3, axis=1))


def test_the_sheet_to_read_marks_from_names_frames_and_pixels(recorded: Recorded) -> None:
    sheet = mark_sheet(recorded.view.frames, count=5)
    assert sheet.ndim == 3
    assert sheet.shape[1] == 2 * SIZE * 5
    assert sheet.shape[0] == 3 * SIZE * 5


def test_the_command_writes_a_file_that_convert_takes(recorded: Recorded, tmp_path: Path) -> None:
    episode = tmp_path / "logs" / "demo"
    episode.mkdir(parents=True)
    poses = recorded.arms[""]
    rows = np.concatenate([poses.times[:, None], poses.position, poses.quaternion_xyzw, poses.openness[:, None]], 1)
    header = "t,x,y,z,qx,qy,qz,qw,open"
    np.savetxt(episode / "poses.csv", rows, delimiter=",", header=header, comments="")
    pictures = recorded.view.frames.frames(range(FRAMES))
    (episode / "front.mp4").write_bytes(encode_bytes(pictures, rgb_encoding(12), 20.0, SIZE, SIZE))
    mapping = tmp_path / "map.json"
    mapping.write_text(json.dumps(log_mapping()))
    source, out = str(tmp_path / "logs"), tmp_path / "cameras.json"
    common = [source, "--mapping", str(mapping)]
    run = CliRunner().invoke
    assert run(main, ["calibrate", "guess", *common]).exit_code == 2
    for words, message in (
        (["--joints", "a"], "needs the robot file"),
        (["--urdf", "arm.urdf"], "pose.arm_joints in the mapping"),
    ):
        result = run(main, ["calibrate", "guess", *common, "--out", str(out), *words])
        assert result.exit_code in (1, 2)
        assert message in result.stderr
    result = run(main, ["calibrate", "guess", *common, "--sheet", str(tmp_path / "marks")])
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "marks").glob("*.png"))
    words = ["--out", str(out), "--pictures", str(tmp_path / "look"), "--fov", "45", "--model-error", "3", "--json"]
    result = run(main, ["calibrate", "guess", *common, *words])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["cameras"][0]
    assert {"verdict", "reason", "overlay_px", "focal_px", "focal_interval_px"} <= set(found)
    camera = load_cameras(out)["front"].camera(out)
    assert isinstance(camera, Camera)
    assert away_px(camera.K, camera.world_from_camera, recorded) < 1.5
    look = ["--refined-cameras", str(out), "--out", str(tmp_path / "drawn"), "--no-video", "--size", "64"]
    assert run(main, ["render", *common]).exit_code == 1
    assert run(main, ["render", *common, *look]).exit_code == 0
    options = ["--mapping", str(mapping), "--refined-cameras", str(out), "--size", "64", "-j", "1"]
    result = run(main, ["convert", "folder", source, str(tmp_path / "OUT"), *options])
    assert result.exit_code == 0, result.output
    sample = open_dataset(tmp_path / "OUT")[0]
    assert sample.meta.camera_origins["front"].kind == "guessed"
    assert open_dataset(tmp_path / "OUT").table["camera_origin"].to_pylist() == ["guessed"]

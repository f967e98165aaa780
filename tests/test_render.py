from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import draw_dense, project_dense, render_dense

import actionimg_data as aid
from actionimg_data.errors import (
    ActionImgError,
    FrameCountError,
    InvalidArrayError,
    InvalidCameraError,
    InvalidTrajectoryError,
)
from actionimg_data.raster import project_keypoints, render, render_frames, render_planes, render_view

NAN = float("nan")


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, allow_infinity=False)


def flat_camera(height: int, width: int, focal: float = 100.0) -> aid.Camera:
    """A camera at the world's origin whose pixel (0, 0) is its optical axis: (x, y, 1) is seen at focal * (x, y)."""
    return aid.Camera(np.diag([focal, focal, 1.0]), np.eye(4), width, height)


def still(position: object, openness: object = 1.0, **options: bool) -> aid.GripperTrajectory:
    position = np.atleast_2d(np.asarray(position, float))
    n = len(position)
    quaternion = np.where(np.isfinite(position[:, :1]), [[0.0, 0.0, 0.0, 1.0]], NAN)
    return aid.GripperTrajectory(position, quaternion, np.broadcast_to(openness, (n,)), np.arange(n) / 20, **options)


def looking_at_origin(eye: tuple[float, float, float], height: int, width: int) -> aid.Camera:
    z = -np.array(eye) / np.linalg.norm(eye)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3] = np.stack([x, np.cross(z, x), z, np.array(eye)], axis=1)
    focal = 1.2 * max(height, width)
    return aid.Camera([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], pose, width, height)


def wandering(frames: int, seed: int = 0) -> aid.GripperTrajectory:
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 0.02, (frames, 3)), axis=0)
    quaternion = np.array([0, 1, 0, 0]) + np.cumsum(rng.normal(0, 0.1, (frames, 4)), axis=0)
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    return aid.GripperTrajectory(walk, quaternion, rng.random(frames), np.arange(frames) / 20)


def drawn_by_oracle(
    trajectory: aid.GripperTrajectory, cameras: list[aid.Camera | aid.CameraTrack], spec: aid.ActionImageSpec
) -> np.ndarray:
    """The dense oracle, at the renderer's own keypoints, so that a tie at the pedestal is the same tie."""
    uv, valid = project_keypoints(trajectory, cameras, spec)
    out = np.zeros((*uv.shape[:2], spec.height, spec.width, 3))
    for v in range(len(cameras)):
        for t in np.flatnonzero(trajectory.known):
            pixels = [tuple(uv[v, t, c]) if valid[v, t, c] else None for c in range(3)]
            out[v, t] = draw_dense(pixels, trajectory.openness[t], spec)
    return out


def assert_same_picture(video: np.ndarray, dense: np.ndarray) -> None:
    error = np.abs(video - 255 * dense)
    assert error.max() <= 0.501, f"{error.max()} grey levels at {np.unravel_index(error.argmax(), error.shape)}"


specs = st.builds(
    aid.ActionImageSpec,
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    sigma=floats(1e-3, 1.0) | st.just(0.05),
    axis_length=floats(0.001, 0.5),
    pedestal=floats(1e-4, 0.999) | st.just(0.25),
    openness=st.sampled_from(["binary", "continuous"]),
    fov_scale=st.just(1.0) | floats(0.2, 4.0),
    outside=st.sampled_from(["keep", "drop"]),
    ground=st.sampled_from(["always", "in_view"]),
    pixel_centre=st.sampled_from(["published", "true"]),
)
poses = st.lists(
    st.tuples(floats(-2, 2), floats(-2, 2), floats(-1, 4), *[floats(-1, 1)] * 4, floats(0, 1), st.booleans()),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=300)
@given(spec=specs, rows=poses, focal=floats(0.1, 200.0))
def test_every_pixel_is_the_dense_oracle_s(
    spec: aid.ActionImageSpec, rows: list[tuple[float, ...]], focal: float
) -> None:
    array = np.array(rows)
    norms = np.linalg.norm(array[:, 3:7], axis=1)
    assume((norms > 0.1).all())
    array[:, 3:7] /= norms[:, None]
    array[array[:, 8] == 1, :7] = NAN
    trajectory = aid.GripperTrajectory(
        array[:, :3], array[:, 3:7], array[:, 7], np.arange(len(rows)), allow_missing=True
    )
    K = [[focal, 0, spec.width / 2], [0, 1.1 * focal, spec.height / 2], [0, 0, 1]]
    cameras: list[aid.Camera | aid.CameraTrack] = [
        aid.Camera(K, np.eye(4), spec.width, spec.height, pixel_centre=0),
        looking_at_origin((1.0, -0.5, 0.7), spec.height, spec.width).track(len(rows)),
    ]
    assert_same_picture(render(trajectory, cameras, spec), drawn_by_oracle(trajectory, cameras, spec))
    uv, valid = project_keypoints(trajectory, cameras, spec)
    for v, t in itertools.product(range(2), np.flatnonzero(trajectory.known)):
        for pixel, there, at in zip(project_dense(trajectory, cameras[v], spec, t), valid[v, t], uv[v, t], strict=True):
            if pixel is not None:
                np.testing.assert_allclose(at, pixel, rtol=1e-9, atol=1e-7)
            if spec.outside == "keep":
                assert there == (pixel is not None)


@settings(deadline=None)
@given(
    u=floats(-100, 140) | floats(-1e12, 1e12) | st.integers(-3, 43).map(float),
    v=floats(-100, 140) | floats(-1e300, 1e300) | st.integers(-3, 43).map(float),
    sigma=floats(1e-9, 1.0) | st.just(1.0),
    openness=st.sampled_from([0.0, 1.0]),
)
def test_blobs_partly_and_far_outside_and_of_any_size(u: float, v: float, sigma: float, openness: float) -> None:
    spec = aid.ActionImageSpec(height=31, width=40, sigma=sigma)
    trajectory = still([u, v, 1.0], openness)
    cameras = [flat_camera(31, 40, focal=1.0)]
    assert_same_picture(render(trajectory, cameras, spec), drawn_by_oracle(trajectory, cameras, spec))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 513), (513, 7), (128, 128), (511, 255)])
@pytest.mark.parametrize("openness", ["binary", "continuous"])
def test_sizes_odd_tiny_and_not_square(height: int, width: int, openness: str) -> None:
    spec = aid.ActionImageSpec(height=height, width=width, openness=openness)
    trajectory = wandering(5)
    cameras = [looking_at_origin((1.0, 0.2, 0.5), height, width), looking_at_origin((0.1, -1, 0.3), height, width)]
    assert_same_picture(render(trajectory, cameras, spec), render_dense(trajectory, cameras, spec))


def test_published_picture_at_512() -> None:
    trajectory = wandering(3)
    cameras = [looking_at_origin((1.0, 0.2, 0.5), 512, 512)]
    video = aid.render(trajectory, cameras)
    assert video.shape == (1, 3, 512, 512, 3)
    assert video.dtype == np.uint8
    assert_same_picture(video, render_dense(trajectory, cameras, aid.ActionImageSpec()))


def test_a_blob_narrower_than_any_distance_is_one_pixel() -> None:
    spec = aid.ActionImageSpec(height=9, width=9, sigma=1e-300)
    video = render(still([3.0, 4.0, 1.0]), [flat_camera(9, 9, focal=1.0)], spec)
    expected = np.zeros((9, 9))
    expected[4, 3] = 255
    np.testing.assert_array_equal(video[0, 0, ..., 0], expected)


def sigma_with_edge_at_a_pixel() -> float:
    """A sigma for which a blob in float64 is exactly 0.25 at the pixel (3, 4) from its centre."""
    sigma = 5 / np.sqrt(-2 * np.log(0.25))
    candidates = (sigma + np.arange(-2000, 2000) * np.spacing(sigma)).tolist()
    return next(s for s in candidates if math.exp(-0.5 * ((3 / s) ** 2 + (4 / s) ** 2)) == 0.25)


@pytest.mark.parametrize("openness", [0.0, 0.4, 1.0])
def test_a_pixel_exactly_at_the_pedestal_is_replaced(openness: float) -> None:
    sigma = sigma_with_edge_at_a_pixel()
    spec = aid.ActionImageSpec(height=64, width=64, sigma=sigma / 64, axis_length=0.25, openness="continuous")
    assert spec.sigma_px == sigma
    # The blue keypoint is 0.25 m nearer than the gripper: at depth 1 and pixel (20, 30).
    trajectory = still([0.2, 0.3, 1.25], openness)
    cameras = [flat_camera(64, 64)]
    uv, _ = project_keypoints(trajectory, cameras, spec)
    np.testing.assert_array_equal(uv[0, 0, 2], [20.0, 30.0])
    video = render(trajectory, cameras, spec)
    pedestal = round(255 * 0.25 * openness)
    assert [video[0, 0, y, x, 2] for y, x in ((26, 17), (26, 23), (34, 17), (34, 23))] == [pedestal] * 4
    assert video[0, 0, 30, 24, 2] == round(255 * np.exp(-0.5 * (4 / sigma) ** 2))
    tie = (slice(26, 35, 8), slice(17, 24, 6))
    dense = drawn_by_oracle(trajectory, cameras, spec)
    dense[0, 0][tie] = video[0, 0][tie] / 255  # checked above; numpy's exp may round them to either side
    assert_same_picture(video, dense)


@settings(deadline=None)
@given(
    sigma=floats(0.02, 0.5),
    dx=st.integers(0, 8),
    dy=st.integers(0, 8),
    openness=floats(0, 1),
    ulps=st.sampled_from([-100, -8, -3, 0, 3, 8, 100]),
)
def test_pixels_within_a_rounding_of_the_pedestal_are_decided_as_in_float64(
    sigma: float, dx: int, dy: int, openness: float, ulps: int
) -> None:
    pixels = sigma * 32
    pedestal = np.exp(-0.5 * ((dx / pixels) ** 2 + (dy / pixels) ** 2))
    pedestal = float(pedestal + ulps * np.spacing(pedestal))
    assume(0.01 < pedestal < 1)
    spec = aid.ActionImageSpec(
        height=32, width=32, sigma=sigma, pedestal=pedestal, axis_length=0.25, openness="continuous"
    )
    # The blue keypoint is at pixel (12, 17).
    trajectory, cameras = still([0.12, 0.17, 1.25], openness), [flat_camera(32, 32)]
    video = render(trajectory, cameras, spec)
    y, x = np.mgrid[:32, :32]
    blob = np.exp(-0.5 * (((x - 12) / pixels) ** 2 + ((y - 17) / pixels) ** 2))
    # Under two units in the last place, exp itself may say either; but the same all around.
    clear = np.abs(blob - pedestal) > 2 * np.spacing(pedestal)
    dense = drawn_by_oracle(trajectory, cameras, spec)
    assert_same_picture(video[0, 0][clear], dense[0, 0][clear])
    assert len({int(video[0, 0, 17 + b, 12 + a, 2]) for a in (dx, -dx) for b in (dy, -dy)}) == 1


def test_keypoints_are_where_a_plain_projection_puts_them() -> None:
    trajectory = wandering(7)
    spec = aid.ActionImageSpec(height=480, width=640)
    cameras = [looking_at_origin((1.0, 0.2, 0.5), 480, 640), looking_at_origin((0.1, -1, 0.3), 480, 640).track(7)]
    uv, valid = project_keypoints(trajectory, cameras, spec)
    assert uv.shape == (2, 7, 3, 2)
    assert valid.all()
    for v, camera in enumerate(cameras):
        for t in range(7):
            np.testing.assert_allclose(uv[v, t], project_dense(trajectory, camera, spec, t), atol=1e-9)


def test_a_keypoint_at_or_behind_the_near_plane_is_not_drawn() -> None:
    spec = aid.ActionImageSpec(height=32, width=32, near=0.5)
    # Depths of the gripper; its blue keypoint is 0.1 m nearer to this camera.
    trajectory = still([[0.1, 0.1, z] for z in (-1.0, 0.5, 0.55, 0.7)], 1.0)
    _, valid = project_keypoints(trajectory, [flat_camera(32, 32)], spec)
    assert valid[0].tolist() == [[False] * 3, [False] * 3, [True, True, False], [True] * 3]
    video = render(trajectory, [flat_camera(32, 32)], spec)
    for frame in (0, 1):
        assert (video[0, frame] == [0, 0, 64]).all()
    assert video[0, 2, ..., 0].max() > 200
    assert (video[0, 2, ..., 2] == 64).all()
    assert video[0, 3, ..., 2].max() > 200


def test_a_frame_without_a_pose_is_black_and_has_no_keypoint() -> None:
    spec = aid.ActionImageSpec(height=32, width=32)
    trajectory = still([[0.1, 0.1, 1], [NAN] * 3, [0.1, 0.1, 1]], [1.0, 1.0, 1.0], allow_missing=True)
    video = render(trajectory, [flat_camera(32, 32)], spec)
    assert not video[0, 1].any()
    assert video[0, 0].any()
    np.testing.assert_array_equal(video[0, 0], video[0, 2])
    uv, valid = project_keypoints(trajectory, [flat_camera(32, 32)], spec)
    assert not valid[0, 1].any()
    assert not uv[0, 1].any()


def test_openness_is_thresholded_as_published_unless_continuous() -> None:
    trajectory = still([[5.0, 5.0, 1.0]] * 4, [0.0, 0.5, 0.51, 1.0])
    published = render(trajectory, [flat_camera(8, 8)], aid.ActionImageSpec(height=8, width=8))
    assert published[0, :, 0, 0, 2].tolist() == [0, 0, 64, 64]
    continuous = render(trajectory, [flat_camera(8, 8)], aid.ActionImageSpec(height=8, width=8, openness="continuous"))
    assert continuous[0, :, 0, 0, 2].tolist() == [0, 32, 33, 64]


def test_threads_parts_and_buffers_give_the_same_bytes() -> None:
    trajectory = wandering(70, seed=3)
    spec = aid.ActionImageSpec(height=40, width=56)
    fixed = looking_at_origin((1.0, 0.2, 0.5), 40, 56)
    cameras = {"front": fixed, "wrist": fixed.track(70)}
    video = render(trajectory, cameras, spec, threads=1)
    np.testing.assert_array_equal(video[0], video[1])
    for threads in (2, 3, 500):
        np.testing.assert_array_equal(render(trajectory, list(cameras.values()), spec, threads=threads), video)
    buffer = np.full((70, 2, 40, 56, 3), 7, np.uint8).swapaxes(0, 1)
    assert render(trajectory, cameras, spec, out=buffer) is buffer
    np.testing.assert_array_equal(buffer, video)
    for frames in (
        slice(None),
        slice(3, 40),
        slice(60, 200),
        slice(None, None, 4),
        slice(None, None, -3),
        slice(-1, None),
    ):
        for camera in cameras.values():
            np.testing.assert_array_equal(render_view(trajectory, camera, spec, frames), video[0][frames])
    assert render_view(trajectory, fixed, spec, slice(5, 5)).shape == (0, 40, 56, 3)
    np.testing.assert_array_equal(list(render_frames(trajectory, cameras["wrist"], spec)), video[1])


@pytest.mark.parametrize("openness", ["binary", "continuous"])
def test_planes_are_the_same_picture_with_the_channels_first(openness: str) -> None:
    trajectory = wandering(40, seed=4)
    spec = aid.ActionImageSpec(height=33, width=47, openness=openness)
    camera = looking_at_origin((1.0, 0.2, 0.5), 33, 47)
    expected = render_view(trajectory, camera, spec).transpose(3, 0, 1, 2)
    np.testing.assert_array_equal(render_planes(trajectory, camera, spec), expected)
    buffer = np.zeros((40, 3, 33, 47), np.uint8).swapaxes(0, 1)
    assert render_planes(trajectory, camera, spec, out=buffer) is buffer
    np.testing.assert_array_equal(buffer, expected)
    with pytest.raises(InvalidArrayError, match="does not fit"):
        render_planes(trajectory, camera, spec, out=buffer[:2])


def test_pictures_one_by_one_need_no_more_memory_for_a_longer_episode() -> None:
    spec = aid.ActionImageSpec(height=64, width=64)
    camera = looking_at_origin((1.0, 0.2, 0.5), 64, 64)
    peaks = []
    for frames in (100, 2000):
        trajectory = wandering(frames)
        tracemalloc.start()
        for _ in render_frames(trajectory, camera, spec):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda t, c, s: render(t, [c.resized(64, 64)], s),
            InvalidCameraError,
            ("cameras[0]", "32x48", "64x64", "resized(32, 48)"),
        ),
        (lambda t, c, s: render(t, {"front": c.resized(9, 9)}, s), InvalidCameraError, ("cameras[front]", "9x9")),
        (lambda t, c, s: render_view(t, c.resized(9, 9), s), InvalidCameraError, ("camera:", "9x9")),
        (lambda t, c, s: render(t, [], s), InvalidCameraError, ("no camera",)),
        (lambda t, c, s: render(t, c, s), InvalidCameraError, ("Camera", "[camera]")),
        (lambda t, c, s: render(t, [c.K], s), InvalidCameraError, ("cameras[0]", "ndarray")),
        (lambda t, c, s: render(t, [c, c.track(4)], s), FrameCountError, ("expected 3", "found 4")),
        (lambda t, c, s: project_keypoints(t, [c.track(4)], s), FrameCountError, ("expected 3", "found 4")),
        (lambda t, c, s: render_view(t, c.track(4), s), FrameCountError, ("expected 3", "found 4")),
        (lambda t, c, s: render(t, [c], s, threads=0), InvalidArrayError, ("threads", "found 0")),
        (
            lambda t, c, s: render(t, [c], s, out=np.zeros((1, 2, 32, 48, 3), np.uint8)),
            InvalidArrayError,
            ("out", "(1, 3, 32, 48, 3)"),
        ),
        (lambda t, c, s: render(t, [c], s, out=np.zeros((1, 3, 32, 48, 3))), InvalidArrayError, ("out", "float64")),
        (
            lambda t, c, s: render(t, [c], s, out=np.zeros((1, 3, 48, 32, 3), np.uint8).swapaxes(2, 3)),
            InvalidArrayError,
            ("out", "contiguous"),
        ),
        (
            lambda t, c, s: render(still([[0, 0, 1]] * 3, [0, NAN, 1], allow_missing=True), [c], s),
            InvalidTrajectoryError,
            ("openness[1]", "nan"),
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(call, error: type[ActionImgError], words: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error) as caught:
        call(still([[0, 0, 1]] * 3), flat_camera(32, 48), aid.ActionImageSpec(height=32, width=48))
    for word in words:
        assert word in str(caught.value)

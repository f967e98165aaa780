from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from actionimg_data.errors import InvalidArrayError
from actionimg_data.geometry import crop, pinhole, transforms

relaxed = settings(deadline=None, max_examples=80)
seeds = st.integers(0, 2**32 - 1)
batches = st.sampled_from([(), (2,), (1, 3)])


def random_camera(rng: np.random.Generator, batch: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    n = int(np.prod(batch))
    K = np.zeros((n, 3, 3))
    K[:, 0, 0], K[:, 1, 1] = rng.uniform(50, 900, (2, n))
    K[:, 0, 1] = rng.uniform(-5, 5, n)
    K[:, :2, 2] = rng.uniform(0, 600, (n, 2))
    K[:, 2, 2] = 1
    pose = transforms.make_transform(Rotation.random(n, rng=rng).as_matrix(), rng.normal(0, 2, (n, 3)))
    return K.reshape(*batch, 3, 3), pose.reshape(*batch, 4, 4)


@relaxed
@given(seeds, batches)
def test_unprojecting_a_projected_point_gives_the_point(seed: int, batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    K, pose = random_camera(rng, batch)
    in_camera = rng.uniform([-3, -3, 0.02], [3, 3, 9], (*batch, 7, 3))
    points = transforms.apply(pose, in_camera)
    uv, depth, valid = pinhole.project(points, K, pose)
    assert valid.all()
    np.testing.assert_allclose(depth, in_camera[..., 2], atol=1e-12)
    np.testing.assert_allclose(pinhole.unproject(uv, depth, K, pose), points, atol=1e-10)


@relaxed
@given(seeds, batches)
def test_projection_is_opencv_s_and_the_projection_matrix_s(seed: int, batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    K, pose = random_camera(rng, batch)
    K[..., 0, 1] = 0  # OpenCV has no skew
    points = transforms.apply(pose, rng.uniform([-1, -1, 0.5], [1, 1, 3], (*batch, 4, 3)))
    uv, _, _ = pinhole.project(points, K, pose)
    P = pinhole.projection_matrix(K, pose)
    homogeneous = np.concatenate([points, np.ones_like(points[..., :1])], axis=-1) @ np.swapaxes(P, -1, -2)
    np.testing.assert_allclose(uv, homogeneous[..., :2] / homogeneous[..., 2:], rtol=1e-9)
    for index in np.ndindex(*batch):
        camera_from_world = np.linalg.inv(pose[index])
        rvec = cv2.Rodrigues(camera_from_world[:3, :3])[0]
        expected, _ = cv2.projectPoints(points[index], rvec, camera_from_world[:3, 3], K[index], None)
        np.testing.assert_allclose(uv[index], expected[:, 0], atol=1e-6)


def test_points_at_behind_or_not_finite_are_invalid_and_nothing_warns() -> None:
    K = np.array([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
    points = np.array([
        [0.1, 0.1, 1.0], [0.1, 0.1, 0.01], [0.1, 0.1, 0.010001], [0.1, 0.1, -1.0], [0.0, 0.0, 0.0],
        [np.nan, 0.0, 1.0], [0.0, np.inf, 1.0], [0.0, 0.0, np.nan],
    ])  # fmt: skip
    uv, _, valid = pinhole.project(points, K, np.eye(4))
    assert valid.tolist() == [True, False, True, False, False, False, False, False]
    assert (uv[~valid] == 0).all()
    np.testing.assert_allclose(uv[0], [60, 50])
    _, _, nearer = pinhole.project(points, K, np.eye(4), near=1e-3)
    assert nearer[1]


@relaxed
@given(seeds, batches)
def test_torch_and_numpy_project_alike(seed: int, batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    K, pose = random_camera(rng, batch)
    points = rng.normal(0, 3, (*batch, 6, 3))
    ours = pinhole.project(points, K, pose)
    theirs = pinhole.project(torch.tensor(points), torch.tensor(K), torch.tensor(pose))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-9, atol=1e-9)


def test_gradients_of_projection_are_true_in_front_and_zero_behind() -> None:
    rng = np.random.default_rng(0)
    K, pose = (torch.tensor(a, requires_grad=True) for a in random_camera(rng))
    in_camera = torch.tensor([[0.2, -0.1, 1.5], [0.3, 0.2, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    points = transforms.apply(pose.detach(), in_camera).requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: pinhole.project(*a)[0], (points, K, pose))
    (gradient,) = torch.autograd.grad(pinhole.project(points, K, pose)[0].sum(), points)
    assert gradient[0].any()
    assert not gradient[1:].any()


sizes = st.integers(1, 400)


@relaxed
@given(sizes, sizes, sizes, sizes)
def test_a_centre_crop_lies_inside_is_centred_and_is_the_largest(h: int, w: int, height: int, width: int) -> None:
    box = crop.center_crop(h, w, height, width)
    assert (box.width, box.height) == (width, height)
    assert box.left >= 0
    assert box.left + box.crop_width <= w
    assert box.top >= 0
    assert box.top + box.crop_height <= h
    assert box.crop_width == w or box.crop_height == h
    assert abs((w - box.crop_width) - 2 * box.left) <= 1
    assert abs((h - box.crop_height) - 2 * box.top) <= 1
    # The aspect is met to half a pixel of the box, where the box is not held at one pixel.
    if min(box.crop_width, box.crop_height) > 1:
        assert abs(box.crop_width * height - box.crop_height * width) <= 0.5 * max(height, width) + 1e-9


@relaxed
@given(sizes, sizes, sizes, sizes, seeds)
def test_intrinsics_follow_the_crop_s_corners(h: int, w: int, height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    K, _ = random_camera(rng)
    box = crop.center_crop(h, w, height, width)
    changed = crop.apply_to_K(K, box)
    rays = rng.uniform([-1, -1, 1], [1, 1, 1], (5, 3))
    before, after = (rays @ M.T for M in (K, changed))
    sx, sy = box.scale
    np.testing.assert_allclose(after[:, 0], (before[:, 0] - box.left) * sx, atol=1e-6)
    np.testing.assert_allclose(after[:, 1], (before[:, 1] - box.top) * sy, atol=1e-6)
    np.testing.assert_allclose(crop.apply_to_K(torch.tensor(K), box).numpy(), changed, atol=1e-9)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((128, 128), (512, 512)),
        ((480, 640), (256, 256)),
        ((480, 640), (224, 400)),
        ((360, 640), (512, 512)),
        ((200, 120), (97, 131)),
    ],
)
@pytest.mark.parametrize("interpolation", [cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA])
def test_intrinsics_say_where_opencv_puts_the_pixels(
    source: tuple[int, int], target: tuple[int, int], interpolation: int
) -> None:
    (h, w), (height, width) = source, target
    K = np.array([[300.0, 0, w / 2 + 3], [0, 310.0, h / 2 - 2], [0, 0, 1]])
    ray = np.array([0.02, -0.03, 1.0])
    u, v = (K @ ray)[:2]
    # A blob about (u, v) in a picture that spans [0, W] x [0, H]: pixel i has its centre at i + 0.5.
    y, x = np.mgrid[:h, :w] + 0.5
    picture = np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 6.0**2))
    box = crop.center_crop(h, w, height, width)
    cut = picture[box.top : box.top + box.crop_height, box.left : box.left + box.crop_width]
    resized = cv2.resize(cut, (width, height), interpolation=interpolation)
    rows, columns = np.mgrid[:height, :width] + 0.5
    seen = np.array([(resized * columns).sum(), (resized * rows).sum()]) / resized.sum()
    np.testing.assert_allclose(seen, (crop.apply_to_K(K, box) @ ray)[:2], atol=0.03)


def test_identity_and_empty_crops() -> None:
    assert crop.center_crop(48, 64, 48, 64).is_identity
    assert not crop.center_crop(48, 64, 48, 60).is_identity
    assert not crop.CropResize(1, 0, 64, 48, 64, 48).is_identity
    for size in ((0, 5), (5, 0)):
        with pytest.raises(InvalidArrayError, match="must be positive"):
            crop.center_crop(*size, 4, 4)
        with pytest.raises(InvalidArrayError, match="must be positive"):
            crop.center_crop(4, 4, *size)

from __future__ import annotations

import decoder_scenes as scenes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actionimg_data.errors import InvalidArrayError
from actionimg_data.geometry import p3p, pinhole, rigid_pose, rotations, transforms, triangulation

torch = pytest.importorskip("torch")

TRIANGLE = np.array([[0.0, 0, 0], [0.1, 0, 0], [0, 0, -0.1]])


def look(rng, views):
    """Cameras (V, 3, 3), (V, 4, 4), points (N, 3) near what they look at, and their pixels (N, V, 2)."""
    center = rng.uniform(-30, 30, 3)
    K, poses = scenes.camera_transforms(scenes.ring_cameras(rng, views=views, center=center))
    points = center + rng.uniform(-0.25, 0.25, (6, 3))
    uv, _, valid = pinhole.project(points, K, poses)
    assert valid.all()
    return K, poses, points, np.moveaxis(uv, 0, 1)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), views=st.integers(2, 5))
def test_triangulation_inverts_projection_wherever_the_world_origin_is(seed, views):
    K, poses, points, uv = look(np.random.default_rng(seed), views)
    covariance = np.broadcast_to(np.eye(2), (6, views, 2, 2))
    found = triangulation.triangulate(uv, covariance, np.ones((6, views), bool), K, poses)
    assert found.valid.all()
    np.testing.assert_allclose(found.points, points, atol=1e-9)
    np.testing.assert_allclose(found.chi_square, 0, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_views_that_are_masked_out_do_not_count(seed):
    rng = np.random.default_rng(seed)
    K, poses, points, uv = look(rng, 4)
    mask = np.ones((6, 4), bool)
    mask[np.arange(6), rng.integers(0, 4, 6)] = False
    spoiled = np.where(mask[..., None], uv, np.nan)
    covariance = np.where(mask[..., None, None], np.eye(2), np.nan)
    found = triangulation.triangulate(spoiled, covariance, mask, K, poses)
    assert found.valid.all()
    np.testing.assert_allclose(found.points, points, atol=1e-9)
    mask[0] = [True, False, False, False]
    alone = triangulation.triangulate(spoiled, covariance, mask, K, poses)
    assert not alone.valid[0]
    assert alone.valid[1:].all()


def test_covariance_and_chi_square_are_those_of_the_errors():
    rng = np.random.default_rng(0)
    K, poses, points, uv = look(rng, 3)
    root = np.array([[[0.4, 0.0], [0.3, 0.2]], [[1.0, 0.0], [0.0, 0.5]], [[0.2, 0.0], [-0.1, 0.3]]])
    covariance = root @ np.swapaxes(root, -1, -2)
    noise = np.einsum("vij,tnvj->tnvi", root, rng.standard_normal((600, 6, 3, 2)))
    found = triangulation.triangulate(
        uv + noise, covariance + np.zeros((600, 6, 1, 1, 1)), np.ones((600, 6, 3), bool), K, poses
    )
    error = found.points - points
    sigmas = np.einsum("tni,tnij,tnj->tn", error, np.linalg.inv(found.covariance), error)
    assert abs(sigmas.mean() - 3) < 0.15
    assert abs(found.chi_square.mean() - 3) < 0.15
    # Weights matter: with all views alike the error is larger.
    alike = triangulation.triangulate(
        uv + noise, np.eye(2) + np.zeros((600, 6, 3, 1, 1)), np.ones((600, 6, 3), bool), K, poses
    )
    assert (error**2).mean() < 0.9 * ((alike.points - points) ** 2).mean()


def test_points_behind_a_camera_or_on_parallel_rays_are_not_valid():
    rng = np.random.default_rng(1)
    K, poses, _, uv = look(rng, 2)
    twice = np.repeat(poses[:1], 2, axis=0)
    found = triangulation.triangulate(
        uv[:, [0, 0]], np.zeros((6, 2, 2, 2)) + np.eye(2), np.ones((6, 2), bool), K, twice
    )
    assert not found.valid.any()
    turned = poses @ np.diag([-1.0, 1, -1, 1])
    mirrored = 2 * K[:, :2, 2] - uv
    mirrored[..., 1] = uv[..., 1]
    behind = triangulation.triangulate(mirrored, np.zeros((6, 2, 2, 2)) + np.eye(2), np.ones((6, 2), bool), K, turned)
    assert not behind.valid.any()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InvalidArrayError, match="expected"):
        triangulation.triangulate(np.zeros((4, 3)), np.zeros((4, 2, 2)), np.ones(4, bool), np.eye(3), np.eye(4))


def test_numpy_and_torch_agree():
    rng = np.random.default_rng(2)
    K, poses, _, uv = look(rng, 3)
    uv = uv + rng.standard_normal(uv.shape)
    arguments = (uv, np.zeros((6, 3, 2, 2)) + np.eye(2), np.ones((6, 3), bool), K, poses)
    ours = triangulation.triangulate(*arguments)
    theirs = triangulation.triangulate(*(torch.as_tensor(a) for a in arguments))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-9)


def test_the_projection_jacobian_is_that_of_finite_differences():
    rng = np.random.default_rng(3)
    K, poses, points, _ = look(rng, 3)
    K[:, 0, 1] = 7.0
    from_world = transforms.invert(poses)
    uv, depth, jacobian = triangulation.projection_and_jacobian(points[:, None], K, from_world)
    expected, expected_depth, _ = pinhole.project(points, K, poses)
    np.testing.assert_allclose(np.moveaxis(uv, 1, 0), expected, atol=1e-9)
    np.testing.assert_allclose(np.moveaxis(depth, 1, 0), expected_depth, atol=1e-9)
    for i in range(3):
        step = np.eye(3)[i] * 1e-6
        plus = triangulation.projection_and_jacobian((points + step)[:, None], K, from_world)[0]
        minus = triangulation.projection_and_jacobian((points - step)[:, None], K, from_world)[0]
        np.testing.assert_allclose(jacobian[..., i], (plus - minus) / 2e-6, rtol=1e-5, atol=1e-4)


def triangle_pose(rng):
    R = rotations.matrix_from_quaternion(rotations.normalize(rng.standard_normal(4)))
    return R, np.array([*rng.uniform(-0.25, 0.25, 2), rng.uniform(0.6, 1.5)])


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**31))
def test_the_true_triangle_is_among_the_p3p_solutions(seed):
    rng = np.random.default_rng(seed)
    R, p = triangle_pose(rng)
    points = TRIANGLE @ R.T + p
    rays = points / np.linalg.norm(points, axis=-1, keepdims=True)
    found, valid = p3p.p3p_points(rays, TRIANGLE)
    distance = np.abs(found - points).max(axis=(-2, -1))[valid]
    # Near a double root digits are lost by halves; the caller's refinement brings them back.
    assert distance.min() < 2e-4


def test_p3p_takes_any_triangle_and_batch_in_both_libraries():
    rng = np.random.default_rng(5)
    triangle = np.array([[0.0, 0.1, 0], [0.3, -0.1, 0.1], [0.05, 0.2, -0.4]])
    poses = [triangle_pose(rng) for _ in range(12)]
    points = np.stack([triangle @ R.T + p for R, p in poses]).reshape(3, 4, 3, 3)
    rays = points / np.linalg.norm(points, axis=-1, keepdims=True)
    found, valid = p3p.p3p_points(rays, triangle)
    error = np.where(valid, np.abs(found - points[..., None, :, :]).max(axis=(-2, -1)), np.inf)
    assert error.min(axis=-1).max() < 1e-6
    theirs, theirs_valid = p3p.p3p_points(torch.as_tensor(rays), torch.as_tensor(triangle))
    error = np.where(theirs_valid, np.abs(theirs.numpy() - points[..., None, :, :]).max(axis=(-2, -1)), np.inf)
    assert error.min(axis=-1).max() < 1e-6


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_the_pose_of_a_triangle_is_exact_for_rigid_copies(seed):
    rng = np.random.default_rng(seed)
    R, p = triangle_pose(rng)
    rotation, translation = p3p.pose_of_triangle(TRIANGLE @ R.T + p, TRIANGLE)
    np.testing.assert_allclose(rotation, R, atol=1e-12)
    np.testing.assert_allclose(translation, p, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), views=st.integers(1, 3))
def test_pose_refinement_converges_from_ten_centimetres_and_thirty_degrees(seed, views):
    rng = np.random.default_rng(seed)
    cameras = scenes.ring_cameras(rng, views=views + 1)
    K, poses = scenes.camera_transforms(cameras)
    R = rotations.matrix_from_quaternion(rotations.normalize(rng.standard_normal(4)))
    p = np.array([0.4, 0.0, 0.3]) + rng.uniform(-0.15, 0.15, 3)
    uv, _, _ = pinhole.project(TRIANGLE @ R.T + p, K, poses)
    whiten = triangulation.whitening(
        np.zeros((views + 1, 3, 2, 2)) + 0.01**2 * np.eye(2), np.ones((views + 1, 3), bool)
    )
    turn = rotations.normalize(rng.standard_normal(3)) * np.deg2rad(30)
    start = rotations.matrix_from_rotation_vector(turn) @ R, p + 0.1 * rotations.normalize(rng.standard_normal(3))
    rotation, translation, at = rigid_pose.refine_pose(
        *start, TRIANGLE, uv, whiten, K, transforms.invert(poses), iterations=60
    )
    np.testing.assert_allclose(translation, p, atol=1e-6)
    np.testing.assert_allclose(rotation, R, atol=1e-5)
    assert at.cost < 1e-6
    assert at.in_front


def test_the_pose_equations_are_those_of_finite_differences():
    rng = np.random.default_rng(7)
    K, poses = scenes.camera_transforms(scenes.ring_cameras(rng))
    R = rotations.matrix_from_quaternion(rotations.normalize(rng.standard_normal(4)))
    p = np.array([0.4, 0.0, 0.3])
    uv, _, _ = pinhole.project(TRIANGLE @ R.T + p, K, poses)
    uv = uv + rng.standard_normal(uv.shape) * [[[1.0], [2.0], [40.0]]]
    root = rng.standard_normal((2, 3, 2, 2)) * 0.2 + np.eye(2)
    whiten = triangulation.whitening(root @ np.swapaxes(root, -1, -2), np.ones((2, 3), bool))

    def cost(step):
        turned = rotations.matrix_from_rotation_vector(step[3:]) @ R
        return rigid_pose.pose_equations(turned, p + step[:3], TRIANGLE, uv, whiten, K, transforms.invert(poses)).cost

    at = rigid_pose.pose_equations(R, p, TRIANGLE, uv, whiten, K, transforms.invert(poses))
    assert at.mahalanobis.max() > rigid_pose.HUBER
    slope = [(cost(1e-6 * e) - cost(-1e-6 * e)) / 2e-6 for e in np.eye(6)]
    np.testing.assert_allclose(-2 * at.gradient, slope, rtol=1e-4)


def test_whitening_is_the_root_of_the_inverse_covariance_and_zero_where_masked():
    rng = np.random.default_rng(8)
    root = rng.standard_normal((5, 2, 2)) + 2 * np.eye(2)
    covariance = root @ np.swapaxes(root, -1, -2)
    mask = np.array([True, True, True, False, True])
    W = triangulation.whitening(np.where(mask[:, None, None], covariance, np.nan), mask)
    np.testing.assert_allclose((np.swapaxes(W, -1, -2) @ W)[mask], np.linalg.inv(covariance)[mask])
    np.testing.assert_array_equal(W[3], 0)

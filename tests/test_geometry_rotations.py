from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.spatial.transform import Rotation, Slerp

from actionimg_data.geometry import rotations, transforms

relaxed = settings(deadline=None, max_examples=60)

finite = st.floats(-1e3, 1e3, allow_nan=False, width=64)
angles = st.floats(-np.pi, np.pi) | st.sampled_from(
    [0.0, 1e-9, 1e-5, -1e-4, np.pi / 2, -np.pi / 2, np.pi, np.pi - 1e-9]
)


def vectors(n: int, elements: st.SearchStrategy[float] = finite) -> st.SearchStrategy[np.ndarray]:
    return array_shapes(min_dims=0, max_dims=2, max_side=3).flatmap(lambda s: arrays(float, (*s, n), elements=elements))


quaternions = (
    vectors(4, st.floats(-1, 1))
    .filter(lambda q: bool((np.linalg.norm(q, axis=-1) > 1e-2).all()))
    .map(lambda q: q / np.linalg.norm(q, axis=-1, keepdims=True))
)


def scipy_matrix(quaternion: np.ndarray) -> np.ndarray:
    return Rotation.from_quat(quaternion.reshape(-1, 4)).as_matrix().reshape(*quaternion.shape[:-1], 3, 3)


@relaxed
@given(quaternions)
def test_matrices_of_quaternions_are_scipy_s(q: np.ndarray) -> None:
    matrix = rotations.matrix_from_quaternion(q)
    np.testing.assert_allclose(matrix, scipy_matrix(q), atol=1e-14)
    np.testing.assert_allclose(rotations.matrix_from_quaternion(-3 * q), matrix, atol=1e-14)


@relaxed
@given(quaternions)
def test_quaternion_and_matrix_go_round_up_to_sign(q: np.ndarray) -> None:
    back = rotations.quaternion_from_matrix(scipy_matrix(q))
    np.testing.assert_allclose(np.linalg.norm(back, axis=-1), 1, atol=1e-14)
    np.testing.assert_allclose(np.abs(np.sum(back * q, axis=-1)), 1, atol=1e-13)


@pytest.mark.parametrize("axis", np.vstack([np.eye(3), -np.eye(3), [[1, 1, 0], [1, -1, 1e-9]]]).tolist())
@pytest.mark.parametrize("short", [0.0, 1e-12, 1e-8, 1e-4])
def test_half_turns_go_round_through_every_form(axis: list[float], short: float) -> None:
    vector = (np.pi - short) * np.array(axis) / np.linalg.norm(axis)
    matrix = Rotation.from_rotvec(vector).as_matrix()
    np.testing.assert_allclose(
        rotations.matrix_from_quaternion(rotations.quaternion_from_matrix(matrix)), matrix, atol=1e-14
    )
    back = rotations.rotation_vector_from_matrix(matrix)
    np.testing.assert_allclose(np.linalg.norm(back), np.pi - short, atol=1e-13)
    np.testing.assert_allclose(rotations.matrix_from_rotation_vector(back), matrix, atol=1e-13)
    np.testing.assert_allclose(rotations.angle_between(np.eye(3), matrix), np.pi - short, atol=1e-13)


@relaxed
@given(vectors(3, angles))
def test_euler_angles_are_scipy_s_lowercase_xyz(euler: np.ndarray) -> None:
    expected = Rotation.from_euler("xyz", euler.reshape(-1, 3)).as_matrix().reshape(*euler.shape, 3)
    np.testing.assert_allclose(rotations.matrix_from_euler(euler), expected, atol=1e-14)
    back = rotations.euler_from_matrix(expected)
    assert np.isfinite(back).all()
    assert (np.abs(back[..., 1]) <= np.pi / 2 + 1e-12).all()
    np.testing.assert_allclose(rotations.matrix_from_euler(back), expected, atol=3e-7)


@pytest.mark.parametrize("pitch", [np.pi / 2, -np.pi / 2])
@pytest.mark.parametrize("off", [0.0, 1e-12, 1e-9, 1e-8, 1e-7, 1e-6, 1e-3])
def test_euler_angles_keep_the_rotation_at_and_near_gimbal_lock(pitch: float, off: float) -> None:
    matrix = rotations.matrix_from_euler(np.array([0.7, pitch - np.sign(pitch) * off, -1.1]))
    back = rotations.euler_from_matrix(matrix)
    if off == 0:
        assert back[2] == 0
    np.testing.assert_allclose(rotations.matrix_from_euler(back), matrix, atol=3e-7)


@relaxed
@given(vectors(3, angles | st.floats(-1e-6, 1e-6)))
def test_rotation_vectors_are_scipy_s(vector: np.ndarray) -> None:
    expected = Rotation.from_rotvec(vector.reshape(-1, 3)).as_matrix().reshape(*vector.shape, 3)
    np.testing.assert_allclose(rotations.matrix_from_rotation_vector(vector), expected, atol=1e-14)
    back = rotations.rotation_vector_from_matrix(expected)
    assert (np.linalg.norm(back, axis=-1) <= np.pi + 1e-12).all()
    np.testing.assert_allclose(rotations.matrix_from_rotation_vector(back), expected, atol=1e-13)


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 9.9e-5, 1.1e-4, 1e-3])
def test_small_rotations_keep_their_digits(size: float) -> None:
    vector = size * np.array([0.6, -0.48, 0.64])
    matrix = rotations.matrix_from_rotation_vector(vector)
    np.testing.assert_allclose(rotations.rotation_vector_from_matrix(matrix), vector, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(rotations.angle_between(np.eye(3), matrix), size, rtol=1e-9, atol=1e-300)


@relaxed
@given(quaternions, st.floats(0.1, 10), st.floats(0.1, 10), st.floats(-5, 5))
def test_6d_is_gram_schmidt_of_two_columns(q: np.ndarray, a: float, b: float, mix: float) -> None:
    matrix = scipy_matrix(q)
    six = np.concatenate([a * matrix[..., 0], b * matrix[..., 1] + mix * matrix[..., 0]], axis=-1)
    np.testing.assert_allclose(rotations.matrix_from_6d(six), matrix, atol=1e-12)


@relaxed
@given(quaternions, st.integers(0, 2**32 - 1))
def test_quaternion_products_are_matrix_products(a: np.ndarray, seed: int) -> None:
    b = Rotation.random(a[..., 0].size, rng=np.random.default_rng(seed)).as_quat().reshape(a.shape)
    product = rotations.quaternion_multiply(a, b)
    np.testing.assert_allclose(scipy_matrix(product), scipy_matrix(a) @ scipy_matrix(b), atol=1e-14)


@relaxed
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(1e-9, np.pi))
def test_slerp_is_scipy_s(seed: int, fraction: float, angle: float) -> None:
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    a = Rotation.random(rng=rng)
    b = a * Rotation.from_rotvec(angle * axis / np.linalg.norm(axis))
    ours = rotations.slerp(a.as_quat(), rng.choice([-1, 1]) * b.as_quat(), np.array(fraction))
    assert abs(np.linalg.norm(ours) - 1) < 1e-14
    expected = Slerp([0, 1], Rotation.concatenate([a, b]))(fraction)
    if angle < np.pi - 1e-6:  # the two arcs of a half turn are equally short
        np.testing.assert_allclose(Rotation.from_quat(ours).as_matrix(), expected.as_matrix(), atol=1e-8)


@relaxed
@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_sign_continuous_quaternions_stay_the_same_rotations(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q = Rotation.random(n, rng=rng).as_quat() * rng.choice([-1, 1], (n, 1))
    continuous = rotations.make_sign_continuous(q)
    assert (np.sum(continuous[1:] * continuous[:-1], axis=-1) >= 0).all()
    np.testing.assert_array_equal(np.abs(continuous), np.abs(q))
    np.testing.assert_array_equal(continuous[0], q[0])
    np.testing.assert_allclose(scipy_matrix(continuous), scipy_matrix(q), atol=1e-15)


@relaxed
@given(quaternions)
def test_orthonormality_error_is_small_for_rotations_and_large_for_reflections(q: np.ndarray) -> None:
    matrix = scipy_matrix(q)
    assert (rotations.orthonormality_error(matrix) < 1e-14).all()
    assert (rotations.orthonormality_error(-matrix) >= 2).all()
    np.testing.assert_allclose(rotations.orthonormality_error(1.01 * matrix), 1.01**2 - 1, rtol=1e-9)


@relaxed
@given(quaternions, st.integers(0, 2**32 - 1))
def test_the_nearest_rotation_is_a_rotation_and_none_is_nearer(q: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = scipy_matrix(q) + rng.normal(0, 0.2, (*q.shape[:-1], 3, 3))
    nearest = rotations.nearest_rotation(matrix)
    assert (rotations.orthonormality_error(nearest) < 1e-13).all()
    near = nearest @ Rotation.from_rotvec(rng.normal(0, 0.05, 3)).as_matrix()
    distance, other = (np.linalg.norm(m - matrix, axis=(-2, -1)) for m in (nearest, near))
    assert (distance <= other + 1e-12).all()
    np.testing.assert_allclose(rotations.nearest_rotation(scipy_matrix(q)), scipy_matrix(q), atol=1e-14)


@relaxed
@given(quaternions, st.integers(0, 2**32 - 1))
def test_transforms_invert_and_apply(q: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = q.shape[:-1]
    transform = transforms.make_transform(scipy_matrix(q), rng.normal(size=(*batch, 3)))
    np.testing.assert_allclose(
        transforms.invert(transform) @ transform, np.broadcast_to(np.eye(4), transform.shape), atol=1e-13
    )
    points = rng.normal(size=(*batch, 5, 3))
    moved = transforms.apply(transform, points)
    homogeneous = np.concatenate([points, np.ones((*batch, 5, 1))], axis=-1)
    np.testing.assert_allclose(moved, (homogeneous @ np.swapaxes(transform, -1, -2))[..., :3], atol=1e-13)
    np.testing.assert_allclose(transforms.apply(transforms.invert(transform), moved), points, atol=1e-13)


def sample(name: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    return {
        "quaternion": Rotation.random(6, rng=rng).as_quat().reshape(2, 3, 4),
        "matrix": Rotation.random(6, rng=rng).as_matrix().reshape(2, 3, 3, 3),
        "vector": rng.normal(size=(2, 3, 3)),
        "six": rng.normal(size=(2, 3, 6)),
        "fraction": rng.random((2, 3)),
        "time": Rotation.random(6, rng=rng).as_quat(),
    }[name]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("function", "names"),
    [
        (rotations.normalize, ["vector"]),
        (rotations.skew, ["vector"]),
        (rotations.matrix_from_quaternion, ["quaternion"]),
        (rotations.quaternion_from_matrix, ["matrix"]),
        (rotations.quaternion_multiply, ["quaternion", "quaternion"]),
        (rotations.make_sign_continuous, ["time"]),
        (rotations.slerp, ["quaternion", "quaternion", "fraction"]),
        (rotations.matrix_from_euler, ["vector"]),
        (rotations.euler_from_matrix, ["matrix"]),
        (rotations.matrix_from_rotation_vector, ["vector"]),
        (rotations.rotation_vector_from_matrix, ["matrix"]),
        (rotations.matrix_from_6d, ["six"]),
        (rotations.angle_between, ["matrix", "matrix"]),
        (rotations.orthonormality_error, ["matrix"]),
        (rotations.nearest_rotation, ["matrix"]),
        (transforms.make_transform, ["matrix", "vector"]),
        (transforms.invert, ["transform"]),
        (transforms.apply, ["transform", "points"]),
    ],
)  # fmt: skip
def test_torch_and_numpy_give_the_same_and_keep_the_dtype(
    function: Callable[..., Any], names: list[str], dtype: Any
) -> None:
    def array(name: str) -> np.ndarray:
        if name == "transform":
            return transforms.make_transform(sample("matrix"), sample("vector"))
        return sample("vector")[..., None, :] if name == "points" else sample(name)

    inputs = [np.roll(array(n), i, axis=0).astype(dtype) for i, n in enumerate(names)]
    ours = function(*inputs)
    theirs = function(*(torch.tensor(a) for a in inputs))
    assert ours.dtype == dtype
    assert theirs.numpy().dtype == dtype
    np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-12 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize(
    "vector", [[0.0, 0.0, 0.0], [1e-9, 0.0, 0.0], [1e-4, 0.0, 0.0], [0.5, -0.2, 0.1], [3.1, 0.0, 0.2]]
)
def test_gradients_through_rotation_vectors_are_finite_and_true(vector: list[float]) -> None:
    at = torch.tensor(vector, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotations.matrix_from_rotation_vector, at)
    there_and_back = lambda v: rotations.rotation_vector_from_matrix(rotations.matrix_from_rotation_vector(v))  # noqa: E731
    (jacobian,) = (torch.autograd.functional.jacobian(there_and_back, at.detach()),)
    torch.testing.assert_close(jacobian, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)


def test_gradients_of_degenerate_inputs_are_finite() -> None:
    for function, at in (
        (rotations.normalize, torch.zeros(3)),
        (rotations.matrix_from_quaternion, torch.zeros(4)),
        (rotations.matrix_from_6d, torch.zeros(6)),
        (rotations.quaternion_from_matrix, torch.eye(3)),
        (rotations.euler_from_matrix, torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])),
        (rotations.euler_from_matrix, torch.eye(3)),
        (lambda m: rotations.angle_between(m, torch.eye(3)), torch.eye(3)),
        (lambda m: rotations.angle_between(m, torch.eye(3)), torch.diag(torch.tensor([1.0, -1, -1]))),
    ):
        at = at.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(at).sum(), at)
        assert gradient.isfinite().all(), function

"""The same bytes on every CPU; the long proof is tests/reliability/bytes.py."""

from __future__ import annotations

import math
import platform

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_reliability import script

from actionimg_data.geometry import exact, rotations
from actionimg_data.shards.plan import tool_versions

angles = hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e4, 1e4))


def off(found: object, wanted: list[float]) -> float:
    """Largest distance in units in the last place."""
    return float(np.max(np.abs(np.asarray(found) - wanted) / np.spacing(np.maximum(np.abs(wanted), 1e-300))))


@given(angles)
def test_elementary_functions_are_true_to_the_last_places(x: np.ndarray) -> None:
    for ours, theirs in ((exact.sin, math.sin), (exact.cos, math.cos)):
        assert off(ours(x), [theirs(v) for v in x]) <= 2
    assert off(exact.exp(x / 20), [math.exp(v / 20) for v in x]) <= 2
    positive = np.abs(x) + 1e-12
    assert off(exact.log(positive), [math.log(v) for v in positive]) <= 2
    y = np.roll(x, 1)
    assert off(exact.atan2(y, x), [math.atan2(b, a) if a or b else 0.0 for a, b in zip(x, y, strict=True)]) <= 2
    assert off(exact.acos(x / 1e4), [math.acos(v / 1e4) for v in x]) <= 4


def test_elementary_functions_at_their_ends() -> None:
    np.testing.assert_array_equal(exact.exp(np.array([-1e9, 0.0, 1e9])), [0, 1, np.inf])
    np.testing.assert_array_equal(exact.atan2(np.array([0.0, 1, -1, 0]), np.array([1.0, 0, 0, -1])),
                                  [0, np.pi / 2, -np.pi / 2, np.pi])  # fmt: skip
    assert exact.sin(np.float32(0.5)).dtype == np.float32
    assert np.isnan(exact.sin(np.array([np.nan, np.inf]))).all()
    assert np.isnan(exact.acos(np.array([1.5]))).all()
    assert np.isnan(exact.log(np.array([-1.0, 0.0, np.inf, np.nan]))).all()
    x = np.linspace(-80, 0, 4001).astype(np.float32)
    np.testing.assert_allclose(exact.exp_float32(x.copy()), np.exp(x.astype(np.float64)), rtol=2e-7)
    assert exact.exp_float32(np.array([-np.inf, 0], np.float32)).tolist()[1] == 1
    tensor = torch.tensor([[0.3, 0.2], [0.1, 0.5]])
    assert torch.equal(exact.matmul(tensor, tensor), tensor @ tensor)
    assert torch.equal(exact.sin(tensor), torch.sin(tensor))


@pytest.mark.parametrize("shapes", [((4, 4), (4, 4)), ((5, 4, 4), (4, 4)), ((3, 1, 2, 3), (7, 3, 5)), ((9, 3), (3, 1))])
def test_products_and_inverses_are_those_of_numpy(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape) for shape in shapes)
    np.testing.assert_allclose(exact.matmul(a, b), a @ b, atol=1e-14)
    m = rng.normal(size=(20, 3, 3))
    np.testing.assert_allclose(exact.inv3(m) @ m, np.broadcast_to(np.eye(3), m.shape), atol=1e-10)
    np.testing.assert_allclose(exact.det3(m), np.linalg.det(m), atol=1e-12)


@given(hnp.arrays(np.float64, (4, 3), elements=st.floats(-3, 3)), st.floats(0, 1e-4))
def test_rounding_is_taken_out_of_rotations_as_an_svd_does(vectors: np.ndarray, noise: float) -> None:
    rough = np.asarray(rotations.matrix_from_rotation_vector(vectors))
    rough = rough + noise * np.random.default_rng(0).uniform(-1, 1, rough.shape)
    found = rotations.nearest_rotation(rough)
    u, _, vt = np.linalg.svd(rough)
    np.testing.assert_allclose(found, u @ vt, atol=1e-14)
    assert rotations.orthonormality_error(found).max() < 1e-15
    # Each by itself: the others in an array change nothing.
    np.testing.assert_array_equal(rotations.nearest_rotation(rough[1:2]), found[1:2])


@pytest.mark.parametrize("order", ["xyz", "ZYX", "zyx", "XYZ", "zxz", "YZ", "x"])
def test_euler_angles_of_any_order_are_scipys(order: str) -> None:
    from scipy.spatial.transform import Rotation

    angles = np.random.default_rng(1).uniform(-4, 4, (50, len(order)))
    ours = np.asarray(rotations.quaternion_from_euler(angles, order))
    theirs = Rotation.from_euler(order, angles).as_quat()
    np.testing.assert_allclose(np.abs((ours * theirs).sum(-1)), 1, atol=1e-14)


on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instruction sets of x86-64")


@on_x86
@pytest.mark.parametrize(("height", "width"), [(224, 224), (96, 320)])
def test_x264_makes_the_same_of_a_video_with_every_instruction_set(height: int, width: int) -> None:
    proof = script("bytes")
    assert len(set(proof.x264_alone(height, width).values())) == 1
    # What the test is for: without the switch SSE2 differs from AVX2.
    assert len(set(proof.x264_alone(height, width, switch=False).values())) > 1


@on_x86
@pytest.mark.parametrize("circumstance", ["numpy without AVX-512", "an older machine, two workers"])
def test_what_is_stored_and_drawn_does_not_depend_on_the_cpu(circumstance: str) -> None:
    proof = script("bytes")
    environment = {k: v for k, v in proof.usable(proof.CIRCUMSTANCES[circumstance]).items() if k != "WORKERS"}
    assert proof.elsewhere(environment) == proof.digests()


def test_versions_that_decide_bytes_name_x264s_build() -> None:
    assert tool_versions()["x264"].startswith("core ")

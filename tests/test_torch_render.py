from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import render_dense
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import actionimg_data as aid
from actionimg_data.errors import ActionImgError, InvalidArrayError, InvalidCameraError, InvalidTrajectoryError
from actionimg_data.raster.torch_backend import render

SMALL = aid.ActionImageSpec(height=11, width=14, sigma=0.2)
MODES = ("published", "smooth")
Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def look_at(eye: np.ndarray) -> np.ndarray:
    z = -eye / np.linalg.norm(eye)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3] = np.stack([x, np.cross(z, x), z, eye], axis=1)
    return pose


def scene(
    spec: aid.ActionImageSpec,
    batch: tuple[int, ...] = (),
    views: int = 2,
    frames: int = 3,
    moving: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Arguments:
    """Random poses near the origin, and cameras around it."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(-0.1, 0.1, (*batch, frames, 3))
    quaternion = rng.normal(size=(*batch, frames, 4))
    quaternion /= np.linalg.norm(quaternion, axis=-1, keepdims=True)
    openness = rng.choice([0.2, 0.3, 0.7, 0.8], (*batch, frames))
    shape = (*batch, views, frames) if moving else (*batch, views)
    eyes = rng.normal([1.0, 0.3, 0.5], 0.2, (*shape, 3))
    poses = np.array([look_at(eye) for eye in eyes.reshape(-1, 3)]).reshape(*shape, 4, 4)
    focal = 1.1 * max(spec.height, spec.width)
    K = np.array([[focal, 0.3, spec.width / 2], [0, 1.05 * focal, spec.height / 2], [0, 0, 1.0]])
    arrays = (position, quaternion, openness, np.broadcast_to(K, (*shape, 3, 3)).copy(), poses)
    return tuple(torch.tensor(a, dtype=dtype) for a in arrays)  # type: ignore[return-value]


VARIANT: dict[str, Any] = {"fov_scale": 0.15, "outside": "drop", "ground": "in_view", "pixel_centre": "true"}
"""So narrow that some blobs are outside, and some grippers."""


def as_models(arguments: Arguments, spec: aid.ActionImageSpec) -> tuple[aid.GripperTrajectory, list[Any]]:
    """One unbatched scene as the numpy renderer takes it."""
    position, quaternion, openness, K, pose = (a.detach().double().numpy() for a in arguments)
    quaternion = quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)
    trajectory = aid.GripperTrajectory(position, quaternion, openness, np.arange(len(position)))
    kind: Any = aid.CameraTrack if K.ndim == 4 else aid.Camera
    return trajectory, [kind(k, p, spec.width, spec.height) for k, p in zip(K, pose, strict=True)]


def away_from_the_edge(picture: np.ndarray, dense: np.ndarray, spec: aid.ActionImageSpec, margin: float) -> np.ndarray:
    """Pixels whose blob is not within rounding of the pedestal, where float32 may decide either way."""
    jump = np.abs(picture - dense) > 0.1 * spec.pedestal
    near = np.minimum(np.abs(picture - spec.pedestal), np.abs(dense - spec.pedestal)) < margin
    return ~(jump & near)


@pytest.mark.parametrize("moving", [False, True], ids=["fixed", "moving"])
@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
@pytest.mark.parametrize(
    "drawing",
    [{}, {"openness": "continuous"}, {**VARIANT, "fov_scale": 1.4}, VARIANT],
    ids=["published", "continuous", "wide", "narrow"],
)
def test_published_mode_is_the_dense_oracle(batch: tuple[int, ...], moving: bool, drawing: dict[str, Any]) -> None:
    spec = aid.ActionImageSpec(height=37, width=52, **drawing)
    arguments = scene(spec, batch, moving=moving)
    video = render(*arguments, spec)
    assert video.shape == (*batch, 2, 3, 3, 37, 52)
    for index in np.ndindex(*batch):
        one: Any = tuple(a[index] for a in arguments)
        dense = render_dense(*as_models(one, spec), spec).transpose(0, 1, 4, 2, 3)
        np.testing.assert_allclose(video[index].numpy(), dense, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 70), width=st.integers(1, 70), frames=st.integers(1, 4))
def test_float32_is_the_uint8_renderer_s_picture_before_rounding(
    seed: int, height: int, width: int, frames: int
) -> None:
    spec = aid.ActionImageSpec(height=height, width=width)
    arguments = scene(spec, frames=frames, seed=seed, dtype=torch.float32)
    picture = render(*arguments, spec)
    assert picture.dtype == torch.float32
    trajectory, cameras = as_models(arguments, spec)
    dense = render_dense(trajectory, cameras, spec).transpose(0, 1, 4, 2, 3)
    clear = away_from_the_edge(picture.numpy(), dense, spec, 1e-5)
    np.testing.assert_allclose(picture.numpy()[clear], dense[clear], atol=1e-5)
    video = aid.render(trajectory, cameras, spec).transpose(0, 1, 4, 2, 3)
    assert np.abs(video - 255 * picture.numpy())[clear].max(initial=0) <= 0.51


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_result_has_the_dtype_asked_for(mode: Any, dtype: torch.dtype) -> None:
    arguments = scene(SMALL)
    exact = render(*arguments, SMALL, mode)
    other = render(*arguments, SMALL, mode, dtype)
    assert other.dtype == dtype
    tolerance = {torch.float64: 0.0, torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
    assert (other.double() - exact).abs().max() <= tolerance


def test_rotations_as_quaternion_matrix_and_6d_draw_the_same() -> None:
    position, quaternion, *rest = scene(SMALL, (2,))
    matrix = torch.tensor(Rotation.from_quat(quaternion.reshape(-1, 4).numpy()).as_matrix()).reshape(2, 3, 3, 3)
    six = torch.cat([2 * matrix[..., 0], matrix[..., 1] + matrix[..., 0]], dim=-1)
    expected = render(position, quaternion, *rest, SMALL)
    for rotation in (3 * quaternion, -quaternion, matrix, six):
        torch.testing.assert_close(render(position, rotation, *rest, SMALL), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_leading_shapes_broadcast(mode: Any) -> None:
    one, three = scene(SMALL, (1,)), scene(SMALL, (3,), seed=1)
    mixed = render(three[0], one[1], three[2], one[3], one[4], SMALL, mode)
    assert mixed.shape == (3, 2, 3, 3, 11, 14)
    each = render(three[0][1], one[1][0], three[2][1], one[3][0], one[4][0], SMALL, mode)
    torch.testing.assert_close(mixed[1], each, atol=0, rtol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("batch", "moving"), [((), False), ((2,), True), ((1, 2), False)])
def test_first_derivatives_of_every_input(mode: Any, batch: tuple[int, ...], moving: bool) -> None:
    drawing = VARIANT if moving else {}
    spec = aid.ActionImageSpec(height=5, width=6, sigma=0.3, openness="continuous", **drawing)
    arguments = tuple(a.requires_grad_() for a in scene(spec, batch, frames=2, moving=moving, seed=2))
    sigma = torch.tensor(0.31, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda *a: render(*a[:5], spec, mode, sigma=a[5]), (*arguments, sigma), fast_mode=bool(batch))


@pytest.mark.parametrize("form", ["matrix", "6d"])
def test_first_derivatives_of_rotations_given_otherwise(form: str) -> None:
    spec = aid.ActionImageSpec(height=5, width=6, sigma=0.3)
    position, quaternion, *rest = scene(spec, frames=2)
    matrix = torch.tensor(Rotation.from_quat(quaternion.numpy()).as_matrix())
    rotation = matrix if form == "matrix" else torch.cat([1.5 * matrix[..., 0], matrix[..., 1]], dim=-1)
    assert gradcheck(lambda r: render(position, r, *rest, spec), rotation.requires_grad_())


@pytest.mark.parametrize("mode", MODES)
def test_second_derivatives(mode: Any) -> None:
    spec = aid.ActionImageSpec(height=4, width=5, sigma=0.4, openness="continuous")
    arguments = tuple(a.requires_grad_() for a in scene(spec, views=1, frames=1, seed=5))
    sigma = torch.tensor(0.41, dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(
        lambda *a: render(*a[:5], spec, mode, sigma=a[5]), (*arguments, sigma), fast_mode=True, atol=1e-4
    )


def closed_blue(x: Tensor, mode: Any) -> Tensor:
    """The blue channel of one closed frame, with the gripper at x, seen from 1 m."""
    camera = torch.eye(4, dtype=torch.float64)
    K = torch.tensor([[100.0, 0, 64], [0, 100, 64], [0, 0, 1]], dtype=torch.float64)
    position = torch.stack([x, torch.zeros_like(x), torch.full_like(x, 1.1)])[None]
    rotation = torch.tensor([[0.0, 0, 0, 1]], dtype=torch.float64)
    spec = aid.ActionImageSpec(height=128, width=128)
    return render(position, rotation, torch.zeros_like(x)[None], K[None], camera[None], spec, mode)[0, 0, 2]


@pytest.mark.parametrize("offset", [0.03, 0.06, 0.1])
def test_smooth_gradients_are_finite_differences_where_the_published_form_s_are_a_third_too_small(
    offset: float,
) -> None:
    ratios = {}
    for mode in MODES:
        target = closed_blue(torch.tensor(offset, dtype=torch.float64), mode)

        def loss(x: float, mode: str = mode, target: Tensor = target) -> tuple[float, float]:
            where = torch.tensor(x, dtype=torch.float64, requires_grad=True)
            value = (closed_blue(where, mode) - target).square().sum()
            return value.item(), torch.autograd.grad(value, where)[0].item()

        # Differences over one pixel, averaged: the published form's edge moves across whole pixels.
        places = np.linspace(-0.01, 0.01, 21)
        differences = sum(loss(x + 0.005)[0] - loss(x - 0.005)[0] for x in places) / 0.01
        ratios[mode] = sum(loss(x)[1] for x in places) / differences
    assert 0.62 < ratios["published"] < 0.68
    assert ratios["smooth"] == pytest.approx(1, abs=0.003)


def test_smooth_mode_is_near_the_published_picture_and_feels_openness() -> None:
    arguments = scene(aid.ActionImageSpec(), frames=1)
    openness = torch.ones(1, dtype=torch.float64, requires_grad=True)
    spec = aid.ActionImageSpec(height=64, width=64)
    arguments = scene(spec, frames=1)
    inputs = (*arguments[:2], openness, *arguments[3:])
    smooth, published = (render(*inputs, spec, mode) for mode in ("smooth", "published"))
    assert (smooth - published).abs().max() < 0.01
    smooth.sum().backward()
    assert openness.grad is not None
    # Nearly every pixel is pedestal, and there are two views of 64 x 64.
    assert 0.9 * 0.25 * 2 * 64 * 64 < openness.grad.item() <= 0.25 * 2 * 64 * 64


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "position", [[50.0, 0.0, 1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.105], [1e30, 0.0, 1e-3]]
)
def test_gradients_off_screen_and_behind_are_finite(mode: Any, position: list[float]) -> None:
    spec = aid.ActionImageSpec(height=9, width=9, openness="continuous")
    where = torch.tensor([position], dtype=torch.float64)
    quaternion = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    K = torch.tensor([[[9.0, 0, 4.5], [0, 9, 4.5], [0, 0, 1]]], dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64)[None]
    openness = torch.tensor([0.5], dtype=torch.float64)
    inputs = [a.requires_grad_() for a in (where, quaternion, openness, K, pose)]
    picture = render(*inputs, spec, mode)  # type: ignore[arg-type]
    assert picture.isfinite().all()
    gradients = torch.autograd.grad(picture.square().sum(), inputs)
    assert all(g.isfinite().all() for g in gradients)
    if position[2] <= 0 or position[0] > 1:
        assert not any(gradients[i].any() for i in (0, 1, 3, 4))
        assert gradients[2].item() > 0


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
@pytest.mark.filterwarnings("ignore:.*Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("mode", MODES)
def test_compiles_without_graph_breaks_and_gives_the_same(mode: Any) -> None:
    arguments = tuple(a.requires_grad_() for a in scene(SMALL, (2,), moving=True))

    def loss(*a: Tensor) -> Tensor:
        return render(*a, SMALL, mode).pow(2).sum()  # type: ignore[arg-type]

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    wanted = [i for i in range(5) if mode == "smooth" or i != 2]
    inputs = [arguments[i] for i in wanted]
    torch.testing.assert_close(compiled(*arguments), loss(*arguments))
    ours = torch.autograd.grad(compiled(*arguments), inputs)
    torch.testing.assert_close(ours, torch.autograd.grad(loss(*arguments), inputs))


def test_autocast_does_not_touch_the_geometry() -> None:
    arguments = tuple(a.requires_grad_() for a in scene(SMALL, dtype=torch.float32))
    expected = torch.autograd.grad(render(*arguments, SMALL).square().sum(), arguments[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = torch.autograd.grad(render(*arguments, SMALL).square().sum(), arguments[:2])
    torch.testing.assert_close(ours, expected, atol=0, rtol=0)


def test_nothing_of_the_picture_s_size_is_kept_for_backward() -> None:
    spec = aid.ActionImageSpec(height=256, width=256)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        render(*(a.requires_grad_() for a in scene(spec)), spec, "smooth")
    assert kept
    assert max(kept) < 1000


def broken(**changes: Any) -> tuple[list[Any], dict[str, Any]]:
    names = ("position", "rotation", "openness", "K", "world_from_camera")
    values = dict(zip(names, scene(SMALL), strict=True))
    options: dict[str, Any] = {"spec": SMALL}
    for name, change in changes.items():
        if name in values:
            values[name] = change(values[name])
        else:
            options[name] = change
    return [values[n] for n in names], options


def put(value: float, *index: int) -> Any:
    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[index] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"K": lambda t: t.float()}, InvalidArrayError, ("K", "mixed dtypes", "float64", "float32")),
        ({"openness": lambda t: t.to("meta")}, InvalidArrayError, ("openness", "mixed devices", "meta")),
        ({"position": lambda t: t.numpy()}, InvalidArrayError, ("position", "tensor", "ndarray")),
        ({"position": lambda t: t.half()}, InvalidArrayError, ("position", "float16")),
        ({"dtype": torch.int32}, InvalidArrayError, ("dtype", "int32")),
        ({"mode": "sharp"}, InvalidArrayError, ("mode", "published or smooth", "sharp")),
        ({"position": lambda t: t[0]}, InvalidArrayError, ("position", "(..., T, 3)")),
        ({"rotation": lambda t: t[..., :3]}, InvalidArrayError, ("rotation", "4 or 6", "(3, 3)")),
        ({"rotation": lambda t: t[:2]}, InvalidArrayError, ("rotation", "(2, 4)")),
        ({"openness": lambda t: t[:2]}, InvalidArrayError, ("openness", "(2,)")),
        ({"K": lambda t: t[:1]}, InvalidArrayError, ("world_from_camera", "one V")),
        ({"K": lambda t: t[:, None].expand(2, 5, 3, 3)}, InvalidArrayError, ("K", "(2, 5, 3, 3)")),
        ({"world_from_camera": lambda t: t[..., :3, :]}, InvalidArrayError, ("world_from_camera", "(2, 3, 4)")),
        ({"sigma": torch.ones(7).double()}, InvalidArrayError, ("sigma", "(2, 3, 3)", "(7,)")),
        ({"sigma": torch.zeros(()).double()}, InvalidArrayError, ("sigma", "(0, 1]")),
        ({"position": put(float("nan"), 1, 2)}, InvalidTrajectoryError, ("position", "not finite", "[1, 2]")),
        ({"rotation": put(float("inf"), 2, 0)}, InvalidTrajectoryError, ("rotation", "not finite")),
        ({"rotation": lambda t: 0 * t}, InvalidTrajectoryError, ("rotation", "length 0")),
        ({"rotation": lambda t: torch.ones(3, 6).double()}, InvalidTrajectoryError, ("rotation", "parallel")),
        (
            {"rotation": lambda t: 2 * torch.eye(3).double().expand(3, 3, 3)},
            InvalidTrajectoryError,
            ("rotation", "RᵀR"),
        ),
        ({"openness": put(1.5, 0)}, InvalidTrajectoryError, ("openness", "[0, 1]", "at [0]")),
        ({"openness": put(float("nan"), 0)}, InvalidTrajectoryError, ("openness", "not finite")),
        ({"K": put(-5.0, 0, 0, 0)}, InvalidCameraError, ("K", "focal", "at [0]")),
        ({"K": put(float("nan"), 1, 2, 2)}, InvalidCameraError, ("K", "not finite")),
        (
            {"world_from_camera": put(0.5, 0, 0, 0)},
            InvalidCameraError,
            ("world_from_camera", "not a rotation", "at [0]"),
        ),
        ({"world_from_camera": put(0.5, 1, 3, 0)}, InvalidCameraError, ("world_from_camera", "0 0 0 1", "at [1]")),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(
    changes: dict[str, Any], error: type[ActionImgError], words: tuple[str, ...]
) -> None:
    arguments, options = broken(**changes)
    with pytest.raises(error) as caught:
        render(*arguments, **options)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("empty", ["frames", "views", "batch"])
def test_an_empty_result_is_refused(empty: str) -> None:
    arguments = scene(SMALL, (2,))
    if empty == "frames":
        arguments = (*(a[:, :0] for a in arguments[:3]), *arguments[3:])  # type: ignore[assignment]
    elif empty == "views":
        arguments = (*arguments[:3], *(a[:, :0] for a in arguments[3:]))  # type: ignore[assignment]
    else:
        arguments = tuple(a[:0] for a in arguments)  # type: ignore[assignment]
    with pytest.raises(InvalidArrayError, match="nothing to draw"):
        render(*arguments, SMALL)


def test_leading_shapes_that_do_not_broadcast_are_refused() -> None:
    three, two = scene(SMALL, (3,)), scene(SMALL, (2,))
    with pytest.raises(InvalidArrayError, match="do not broadcast"):
        render(*three[:3], *two[3:], SMALL)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mode", MODES)
def test_the_gpu_draws_and_differentiates_as_the_cpu(mode: Any) -> None:
    spec = aid.ActionImageSpec(height=64, width=80)
    cpu = tuple(a.requires_grad_() for a in scene(spec, (2,)))
    gpu = tuple(a.detach().cuda().requires_grad_() for a in cpu)
    on_cpu, on_gpu = render(*cpu, spec, mode), render(*gpu, spec, mode)
    assert on_gpu.device.type == "cuda"
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-12, rtol=0)
    wanted = [i for i in range(5) if mode == "smooth" or i != 2]
    ours = torch.autograd.grad(on_gpu.square().sum(), [gpu[i] for i in wanted])
    expected = torch.autograd.grad(on_cpu.square().sum(), [cpu[i] for i in wanted])
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-9, atol=1e-9)

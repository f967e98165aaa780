from __future__ import annotations

import decoder_degradations as bench
import decoder_scenes as scenes
import numpy as np
import pytest

from actionimg_data.decode import Reason, decode
from actionimg_data.errors import DecodeError, FrameCountError, InvalidArrayError, InvalidCameraError
from actionimg_data.geometry import rotations
from actionimg_data.raster import render
from actionimg_data.schemas import ActionImageSpec

torch = pytest.importorskip("torch")

from actionimg_data.decode import torch_backend  # noqa: E402


def to_tensor(video, dtype=torch.float64):
    """(V, T, H, W, 3) as (V, T, 3, H, W) in [0, 1]."""
    scaled = video / 255.0 if video.dtype == np.uint8 else video
    return torch.as_tensor(np.ascontiguousarray(np.moveaxis(scaled, -1, 2)), dtype=dtype)


def make_clip(seed, size=96, frames=6, views=2):
    rng = np.random.default_rng(seed)
    cameras = scenes.ring_cameras(rng, views=views, size=size)
    truth = scenes.random_trajectory(rng, frames=frames, cube=0.35)
    K, poses = (torch.as_tensor(m) for m in scenes.camera_transforms(cameras))
    return cameras, truth, K, poses, rng


VARIANT = {"fov_scale": 1.4, "outside": "drop", "ground": "in_view", "pixel_centre": "true"}


@pytest.mark.parametrize("damage", ["clean", "uint8", "variant", "noise", "lost channel", "wrong blob", "one view"])
def test_it_is_the_numpy_decoder(damage):
    cameras, truth, K, poses, rng = make_clip(3, size=160, frames=8)
    spec = ActionImageSpec(height=160, width=160, **(VARIANT if damage == "variant" else {}))
    video = scenes.dense_render(truth, cameras, as_float=damage == "clean")
    if damage == "variant":
        video = render(truth, cameras, spec)
    if damage == "noise":
        video = scenes.add_noise(video, rng, 6)
    elif damage == "lost channel":
        video[0, 2:6, ..., 0] = 0
    elif damage == "wrong blob":
        video[1, 3:, ..., 2] = np.roll(video[1, 3:, ..., 2], 25, axis=-1)
    elif damage == "one view":
        video, cameras, K, poses = video[:1], cameras[:1], K[:1], poses[:1]
    ours = decode(video, cameras, spec)
    theirs = torch_backend.decode(to_tensor(video), K, poses, spec)
    np.testing.assert_array_equal(theirs.valid.numpy(), ours.valid)
    assert ours.valid.all()
    # 1e-7 m is 1e-4 mm.
    np.testing.assert_allclose(theirs.position.numpy(), ours.trajectory.position, atol=1e-7)
    np.testing.assert_allclose(theirs.rotation.numpy(), ours.trajectory.rotation, atol=1e-6)
    np.testing.assert_allclose(theirs.openness.numpy(), ours.trajectory.openness)
    np.testing.assert_allclose(theirs.keypoints.numpy(), ours.keypoints, atol=1e-4)
    np.testing.assert_array_equal(theirs.keypoint_used.numpy(), ours.keypoint_used)
    np.testing.assert_allclose(theirs.residual.numpy(), ours.residual, atol=1e-4)
    np.testing.assert_allclose(theirs.covariance.numpy(), ours.covariance, rtol=1e-2, atol=1e-16)
    same = np.abs(np.sum(theirs.quaternion_xyzw.numpy() * ours.trajectory.quaternion_xyzw, axis=-1))
    np.testing.assert_allclose(same, 1, atol=1e-9)


@pytest.mark.parametrize(
    "kind",
    [
        "bleed .1",
        "width 1.3",
        "ellipse 1.7:1",
        "peak .5",
        "ground .3",
        "jitter 1 px",
        "lag 2",
        "channels off .6 px",
        "scene .1",
        "hue 15",
    ],
)
def test_it_is_the_numpy_decoder_on_pictures_that_are_not_drawn_as_the_spec_says(kind):
    scene = bench.make_scene(2, 128, 9)
    video = bench.TUNING[kind].make(scene)
    ours = decode(video, scene.cameras, scene.spec)
    K, poses = (torch.as_tensor(m) for m in scenes.camera_transforms(scene.cameras))
    theirs = torch_backend.decode(to_tensor(video), K, poses)
    np.testing.assert_array_equal(theirs.valid.numpy(), ours.valid)
    # 1e-9 m is 1e-6 mm. Where the spec's blobs are kept on a bright ground, numpy stops two steps earlier: 1e-5 mm.
    close = 5e-8 if kind == "ground .3" else 1e-9
    np.testing.assert_allclose(theirs.position.numpy(), ours.trajectory.position, atol=close)
    np.testing.assert_allclose(theirs.rotation.numpy(), ours.trajectory.rotation, atol=20 * close)
    np.testing.assert_allclose(theirs.trust.numpy(), ours.trust, atol=1e-6)
    np.testing.assert_allclose(theirs.openness.numpy(), ours.trajectory.openness)
    np.testing.assert_allclose(theirs.keypoints.numpy(), ours.keypoints, atol=1000 * close)
    # Against the deviations, so that a covariance of nearly nothing is not held to a share of itself.
    deviation = np.sqrt(np.diagonal(ours.covariance, axis1=1, axis2=2))
    scale = deviation[:, :, None] * deviation[:, None, :]
    np.testing.assert_allclose(theirs.covariance.numpy() / scale, ours.covariance / scale, atol=1e-2)


def test_gradients_reach_the_video_through_blobs_of_free_width():
    scene = bench.make_scene(2, 96, 3)
    bench.shape(1.3)(scene)
    video = to_tensor(scene.draw().astype(np.float64)).requires_grad_(True)
    K, poses = (torch.as_tensor(m) for m in scenes.camera_transforms(scene.cameras))
    decoded = torch_backend.decode(video, K, poses)
    assert decoded.valid.all()
    (gradient,) = torch.autograd.grad(decoded.position[..., 0].sum(), video)
    # A picture that is moved by a little moves the pose as its keypoints do: along x of view 0.
    moved = (video.detach()[:, :, :, :, 2:] - video.detach()[:, :, :, :, :-2])[0] / 2
    slope = float((gradient[0, ..., 1:-1] * moved).sum())
    with torch.no_grad():
        step = 0.02
        shifted = video.detach().clone()
        shifted[0, ..., 1:-1] += step * moved
        ahead = torch_backend.decode(shifted, K, poses).position[..., 0].sum()
        found = float(ahead - decoded.position.detach()[..., 0].sum()) / step
    assert slope == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_any_float_dtype_is_decoded_with_geometry_in_float64(dtype):
    cameras, truth, K, poses, _ = make_clip(4)
    video = to_tensor(scenes.dense_render(truth, cameras, as_float=True), dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoded = torch_backend.decode(video, K.float(), poses.float())
    assert decoded.position.dtype == torch.float64
    assert decoded.valid.all()
    limit = {torch.float64: 1e-6, torch.float32: 1e-6, torch.float16: 1e-4, torch.bfloat16: 1e-3}[dtype]
    assert np.abs(decoded.position.numpy() - truth.position).max() < limit


@pytest.mark.parametrize("shape", [(), (2,), (1, 2)])
def test_batches_decode_as_their_clips(shape):
    cameras, truth, K, poses, _ = make_clip(5, size=64, frames=3, views=3)
    video = to_tensor(scenes.dense_render(truth, cameras))
    batch = video.expand(*shape, *video.shape).clone()
    moved = batch.numel() > video.numel()
    if moved:
        batch.view(-1, *video.shape)[1] = video.flip(1)
    one = torch_backend.decode(video, K, poses)
    for cameras_k, cameras_pose in (
        (K, poses),
        (K.expand(*shape, 3, 3, 3), poses.expand(*shape, 3, 4, 4)),
        (K[:, None].expand(*shape, 3, 3, 3, 3), poses[:, None].expand(*shape, 3, 3, 4, 4)),
    ):
        many = torch_backend.decode(batch, cameras_k, cameras_pose)
        assert many.position.shape == (*shape, 3, 3)
        assert many.covariance.shape == (*shape, 3, 6, 6)
        assert many.keypoints.shape == (*shape, 3, 3, 3, 2)
        assert many.valid.all()
        positions = many.position.reshape(-1, 3, 3)
        torch.testing.assert_close(positions[0], one.position, atol=1e-9, rtol=0)
        keypoints = many.keypoints.reshape(-1, 3, 3, 3, 2)
        torch.testing.assert_close(keypoints[0], one.keypoints, atol=1e-9, rtol=0)
        if moved:
            torch.testing.assert_close(positions[1], one.position.flip(0), atol=1e-9, rtol=0)
            torch.testing.assert_close(keypoints[1], one.keypoints.flip(1), atol=1e-9, rtol=0)


def test_moving_cameras_have_a_time_axis():
    rng = np.random.default_rng(8)
    truth = scenes.random_trajectory(rng, frames=4, cube=0.2)
    eyes = [[(1.2, side * (0.5 + 0.05 * t), 0.8) for t in range(4)] for side in (-1, 1)]
    poses = np.array([[scenes.look_at(e, (0.4, 0, 0.3)) for e in view] for view in eyes])
    K = np.array([[90.0, 0, 48], [0, 90.0, 48], [0, 0, 1]])
    video = np.empty((2, 4, 96, 96, 3))
    for v, t in np.ndindex(2, 4):
        camera = scenes.Camera(K, poses[v, t], 96, 96)
        video[v, t] = scenes.dense_render(truth[t : t + 1], [camera], as_float=True)[0, 0]
    decoded = torch_backend.decode(to_tensor(video), torch.as_tensor(K).expand(2, 3, 3), torch.as_tensor(poses))
    assert decoded.valid.all()
    np.testing.assert_allclose(decoded.position.numpy(), truth.position, atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("what", ["position", "rotation", "keypoints"])
def test_gradients_to_the_video_agree_with_finite_differences(what, noise):
    cameras, truth, K, poses, _ = make_clip(6, size=64, frames=2)
    generator = torch.Generator().manual_seed(0)
    video = to_tensor(scenes.dense_render(truth, cameras, as_float=True)) * 0.98 + 0.005
    video = (video + noise * torch.rand(video.shape, generator=generator, dtype=torch.float64)).clamp(0.001, 0.999)
    weights = None

    def loss(pictures):
        nonlocal weights
        decoded = torch_backend.decode(pictures, K, poses)
        assert decoded.valid.all()
        value = getattr(decoded, what)
        if weights is None:
            weights = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        return (value * weights).sum() + value.square().sum()

    video.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(video), video)
    assert torch.isfinite(gradient).all()
    step = 1e-6
    for _ in range(4):
        direction = torch.randn(video.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            slope = (loss(video + step * direction) - loss(video - step * direction)) / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=2e-3, atol=1e-7)


def test_gradients_to_the_cameras_agree_with_finite_differences():
    cameras, truth, K, poses, _ = make_clip(7, size=64, frames=2)
    video = to_tensor(scenes.dense_render(truth, cameras, as_float=True))
    K = K.clone().requires_grad_(True)
    poses = poses.clone().requires_grad_(True)

    def loss(K, poses):
        return torch_backend.decode(video, K, poses).position.square().sum()

    by_k, by_pose = torch.autograd.grad(loss(K, poses), (K, poses))
    for index in ((0, 0, 0), (1, 1, 1), (0, 1, 2)):
        step = torch.zeros_like(K)
        step[index] = 1e-4
        slope = (loss(K + step, poses) - loss(K - step, poses)) / 2e-4
        torch.testing.assert_close(by_k[index], slope.detach(), rtol=1e-3, atol=1e-9)
    for index in ((0, 0, 3), (1, 2, 3)):
        step = torch.zeros_like(poses)
        step[index] = 1e-6
        slope = (loss(K, poses + step) - loss(K, poses - step)) / 2e-6
        torch.testing.assert_close(by_pose[index], slope.detach(), rtol=1e-3, atol=1e-9)


def test_decoding_undoes_the_differentiable_renderer_also_in_its_derivative():
    render = pytest.importorskip("actionimg_data.raster.torch_backend").render
    _, truth, K, poses, _ = make_clip(9, size=96, frames=2)
    spec = ActionImageSpec(height=96, width=96)
    openness = torch.ones(2, dtype=torch.float64)
    quaternion = torch.as_tensor(truth.quaternion_xyzw.copy())

    def there_and_back(position):
        return torch_backend.decode(render(position, quaternion, openness, K, poses, spec), K, poses, spec).position

    position = torch.as_tensor(truth.position.copy())
    jacobian = torch.autograd.functional.jacobian(there_and_back, position).reshape(6, 6)
    torch.testing.assert_close(there_and_back(position), position, atol=1e-7, rtol=0)
    torch.testing.assert_close(jacobian, torch.eye(6, dtype=torch.float64), atol=1e-4, rtol=0)


def test_descending_the_decoded_error_moves_a_generated_video_to_the_target():
    cameras, truth, K, poses, _ = make_clip(10, size=64, frames=2)
    video = to_tensor(scenes.dense_render(truth, cameras, as_float=True)).requires_grad_(True)
    target = torch.as_tensor(truth.position + 0.001)
    errors = []
    for _ in range(6):
        decoded = torch_backend.decode(video, K, poses)
        error = (decoded.position - target)[decoded.valid]
        (gradient,) = torch.autograd.grad(error.square().sum(), video)
        errors.append(float(error.detach().norm()))
        with torch.no_grad():
            # The step that would reach the target if decoding were linear, damped.
            video -= 0.5 * error.square().sum() * gradient / gradient.square().sum()
    assert errors[-1] < 0.3 * errors[0]


def test_frames_that_cannot_be_decoded_pass_no_gradient_and_no_nan():
    cameras, truth, K, poses, _ = make_clip(11, size=96, frames=6)
    video = to_tensor(scenes.dense_render(truth, cameras, as_float=True))
    video[:, 1] = 0
    video[:, 2] = torch.nan
    video[:, 3] = torch.rand(video[:, 3].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    video[0, 4] = torch.inf
    video.requires_grad_(True)
    decoded = torch_backend.decode(video, K, poses)
    np.testing.assert_array_equal(decoded.valid.numpy(), [True, False, False, False, True, True])
    assert torch.isnan(decoded.position[1:4]).all()
    assert torch.isnan(decoded.quaternion_xyzw[1:4]).all()
    assert torch.isnan(decoded.keypoints[:, 1:3]).all()
    loss = decoded.position[decoded.valid].sum() + decoded.quaternion_xyzw[decoded.valid].sum()
    (gradient,) = torch.autograd.grad(loss, video)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, 1:4] == 0).all()
    assert (gradient[:, [0, 5]] != 0).any()


def test_a_video_without_any_blob_decodes_to_nothing():
    _, _, K, poses, _ = make_clip(12)
    decoded = torch_backend.decode(torch.zeros(2, 3, 3, 96, 96), K, poses)
    assert not decoded.valid.any()
    assert torch.isnan(decoded.position).all()
    assert torch.isnan(decoded.openness).all()


def test_continuous_openness_carries_its_gradient():
    cameras, truth, K, poses, _ = make_clip(13, frames=3)
    spec = ActionImageSpec(height=96, width=96, openness="continuous")
    graded = scenes.GripperTrajectory(truth.position, truth.quaternion_xyzw, [0.2, 0.5, 0.9], truth.times)
    video = to_tensor(scenes.dense_render(graded, cameras, spec, as_float=True)).requires_grad_(True)
    decoded = torch_backend.decode(video, K, poses, spec)
    np.testing.assert_allclose(decoded.openness.detach().numpy(), [0.2, 0.5, 0.9], atol=1e-6)
    (gradient,) = torch.autograd.grad(decoded.openness.sum(), video)
    # All of the pedestal brighter by d makes the openness of each frame higher by d / 0.25.
    torch.testing.assert_close(gradient[:, :, 2].sum((0, 2, 3)), torch.full((3,), 4.0, dtype=torch.float64))


def test_a_single_view_uses_the_times_it_is_given():
    cameras, truth, K, poses, _ = make_clip(15, size=160, frames=10)
    video = scenes.dense_render(truth, cameras)[:1]
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.3, 10))
    ours = decode(video, cameras[:1], times=times)
    theirs = torch_backend.decode(to_tensor(video), K[:1], poses[:1], times=torch.as_tensor(times))
    np.testing.assert_allclose(theirs.position.numpy(), ours.trajectory.position, atol=1e-6)
    assert set(ours.reason) == {Reason.OK.value}


def test_what_does_not_fit_is_refused_by_name():
    _, _, K, poses, _ = make_clip(14, frames=2)
    video = torch.zeros(2, 2, 3, 96, 96)
    cases = [
        (InvalidArrayError, "tensor", (video.numpy(), K, poses)),
        (InvalidArrayError, "floats", (video.to(torch.uint8), K, poses)),
        (DecodeError, "RGB video", (video[:, :, :2], K, poses)),
        (DecodeError, "RGB video", (video[0], K, poses)),
        (DecodeError, "RGB video", (video[:, :0], K, poses)),
        (DecodeError, "too small", (video[..., :4, :4], K, poses)),
        (DecodeError, "K: does not fit", (video, K[:1].expand(3, 3, 3), poses)),
        (DecodeError, "K: does not fit", (video, poses, poses)),
        (DecodeError, "world_from_camera: does not fit", (video, K, poses[:, :3])),
        (FrameCountError, "length", (video, K[:, None].expand(2, 3, 3, 3), poses)),
        (InvalidCameraError, "focal", (video, -K, poses)),
        (InvalidCameraError, "finite", (video, K * torch.nan, poses)),
        (InvalidCameraError, "rotation", (video, K, poses * 2)),
    ]
    for error, words, arguments in cases:
        with pytest.raises(error, match=words):
            torch_backend.decode(*arguments)
    with pytest.raises(DecodeError, match="size"):
        torch_backend.decode(video, K, poses, ActionImageSpec(height=96, width=100))
    with pytest.raises(FrameCountError):
        torch_backend.decode(video, K, poses, times=torch.arange(3.0))
    with pytest.raises(DecodeError, match="increase"):
        torch_backend.decode(video, K, poses, times=torch.zeros(2))
    with pytest.raises(InvalidArrayError, match="device"):
        torch_backend.decode(video, K.to("meta"), poses)


def test_the_decoder_never_writes_to_its_input():
    cameras, truth, K, poses, _ = make_clip(16, frames=2)
    video = to_tensor(scenes.dense_render(truth, cameras), torch.float32)
    before = video.clone()
    torch_backend.decode(video, K, poses)
    assert torch.equal(video, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_it_gives_the_cpu_result_and_gradient():
    cameras, truth, K, poses, rng = make_clip(17, size=256, frames=8)
    video = to_tensor(scenes.add_noise(scenes.dense_render(truth, cameras), rng), torch.float32)
    found = []
    for device in ("cpu", "cuda"):
        x = video.to(device).requires_grad_(True)
        decoded = torch_backend.decode(x, K.to(device), poses.to(device))
        (gradient,) = torch.autograd.grad(decoded.position.square().sum(), x)
        assert decoded.position.device.type == device
        found.append((decoded.position.detach().cpu(), decoded.rotation.detach().cpu(), gradient.cpu()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-4)
    angle = rotations.angle_between(found[0][1].numpy(), truth.rotation)
    assert np.rad2deg(angle).max() < 1

"""Speed of the torch renderer: 41 frames, 2 views, 512 x 512, forward and backward, against dense autograd.

Run: pytest tests/benchmarks/test_bench_render_torch.py -n 0 --benchmark-enable -o addopts= -s
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import actionimg_data as aid
from actionimg_data.geometry import pinhole, rotations
from actionimg_data.raster import gripper_keypoints
from actionimg_data.raster.torch_backend import render

FRAMES, SIZE = 41, 512
SPEC = aid.ActionImageSpec(height=SIZE, width=SIZE)


def scene(batch: tuple[int, ...] = (), device: str = "cpu") -> list[Tensor]:
    """A trajectory half of which is open, seen from 1 m by two cameras; float32, with gradients."""
    t = np.linspace(0, 1, FRAMES)
    position = 0.2 * np.stack([np.cos(5 * t), np.sin(5 * t), t - 0.5], axis=1)
    quaternion = np.stack([t, 0.5 * t, np.zeros(FRAMES), np.ones(FRAMES)], axis=1)
    poses = []
    for eye in (np.array([1.0, 0.0, 0.5]), np.array([0.5, 0.9, 0.4])):
        z = -eye / np.linalg.norm(eye)
        x = np.cross(z, [0.0, 0.0, 1.0])
        x /= np.linalg.norm(x)
        pose = np.eye(4)
        pose[:3] = np.stack([x, np.cross(z, x), z, eye], axis=1)
        poses.append(pose)
    K = np.broadcast_to(np.array([[600.0, 0, 256], [0, 600, 256], [0, 0, 1]]), (2, 3, 3))
    arrays = (position, quaternion, (t > 0.5).astype(float), K, np.stack(poses))
    return [
        torch.tensor(np.broadcast_to(a, (*batch, *a.shape)).copy(), dtype=torch.float32, device=device).requires_grad_()
        for a in arrays
    ]


def dense(position: Tensor, quaternion: Tensor, openness: Tensor, K: Tensor, pose: Tensor) -> Tensor:
    """The published way, in plain autograd: the distance of every pixel to every keypoint, exp, threshold."""
    points = gripper_keypoints(position, rotations.matrix_from_quaternion(quaternion))
    uv, _, valid = pinhole.project(points[None], K[:, None], pose[:, None])
    y, x = torch.meshgrid(torch.arange(float(SIZE)), torch.arange(float(SIZE)), indexing="ij")
    squared = (x - uv[..., 0, None, None]) ** 2 + (y - uv[..., 1, None, None]) ** 2
    blobs = torch.exp(-squared / (2 * SPEC.sigma_px**2)) * valid[..., None, None]
    level = SPEC.pedestal * (openness > SPEC.openness_threshold).float()[:, None, None]
    blue = torch.where(blobs[..., 2, :, :] <= SPEC.pedestal, level, blobs[..., 2, :, :])
    return torch.stack([blobs[..., 0, :, :], blobs[..., 1, :, :], blue], dim=-3)


def forward_and_backward(draw: Callable[..., Tensor], inputs: list[Tensor], incoming: Tensor) -> tuple[float, float]:
    """Seconds of the forward and of the backward pass."""
    start = time.perf_counter()
    picture = draw(*inputs)
    middle = time.perf_counter()
    torch.autograd.grad(picture, [inputs[i] for i in (0, 1, 3, 4)], incoming)
    return middle - start, time.perf_counter() - middle


def test_cpu_forward_and_backward_against_dense_autograd(benchmark: Any) -> None:
    inputs = scene()
    incoming = torch.rand(2, FRAMES, 3, SIZE, SIZE)
    with torch.no_grad():
        apart = (dense(*inputs) - render(*inputs, SPEC)).abs()
    assert float((apart > 1e-4).float().mean()) < 1e-5  # all but pixels at the pedestal's edge in float32

    def draw(mode: Any) -> Callable[..., Tensor]:
        return lambda *a: render(*a, SPEC, mode)

    times: dict[str, list[tuple[float, float]]] = {"dense": [], "published": [], "smooth": []}
    for _ in range(3):  # interleaved, so that a busy machine slows all of them alike
        times["dense"].append(forward_and_backward(dense, inputs, incoming))
        for mode in ("published", "smooth"):
            times[mode] += [forward_and_backward(draw(mode), inputs, incoming) for _ in range(3)]
    best = {name: (min(f for f, _ in t), min(b for _, b in t), min(f + b for f, b in t)) for name, t in times.items()}
    for name, (forward, backward, both) in best.items():
        ratio = best["dense"][2] / both
        print(
            f"\n{name}: forward {forward:.3f} s, backward {backward:.3f} s, both {both:.3f} s, dense / it {ratio:.1f}"
        )
        benchmark.extra_info[name] = {"forward_s": forward, "backward_s": backward, "times_dense": ratio}
    benchmark.pedantic(lambda: forward_and_backward(draw("published"), inputs, incoming), rounds=3)
    # Every operation ends with a barrier of its threads, which wait for each other on a busy machine.
    busy = os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
    assert best["dense"][2] / best["published"][2] >= (6 if busy else 9)


def gpu_time(call: Callable[[], object]) -> float:
    """Milliseconds of a call on the GPU: the median of 20."""
    times = []
    for _ in range(23):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return float(np.median(times[3:]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_gpu_forward_and_backward_against_filling_the_output(benchmark: Any, compiled: bool) -> None:
    inputs = scene((8,), "cuda")
    shape = (8, 2, FRAMES, 3, SIZE, SIZE)
    draw: Any = lambda *a: render(*a, SPEC, check_values=False)  # noqa: E731
    if compiled:
        draw = torch.compile(draw, fullgraph=True)
    wanted = [inputs[i] for i in (0, 1, 3, 4)]
    size = 4 * int(np.prod(shape))

    incoming = torch.rand(shape, device="cuda")
    draw(*inputs)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() - incoming.nbytes
    torch.autograd.grad(draw(*inputs), wanted, incoming)
    peak = (torch.cuda.max_memory_allocated() - before) / size

    buffer = torch.empty(shape, device="cuda")
    fill = gpu_time(lambda: buffer.fill_(0.5))
    with torch.no_grad():
        forward = gpu_time(lambda: draw(*inputs))
    both = gpu_time(lambda: torch.autograd.grad(draw(*inputs), wanted, incoming))
    figures = {"fill_ms": fill, "forward": forward / fill, "forward_backward": both / fill, "peak_memory": peak}
    print(f"\n{torch.cuda.get_device_name()}, times filling the output, peak over the output: {figures}")
    benchmark.extra_info.update(figures, device=torch.cuda.get_device_name())
    benchmark.pedantic(lambda: draw(*inputs), rounds=3)
    assert peak <= 2.5
    assert forward / fill <= 2
    assert both / fill <= 5

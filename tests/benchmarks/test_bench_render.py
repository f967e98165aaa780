"""Speed of the uint8 renderer: 41 frames, 2 views, 512 x 512, against the dense oracle and against memset.

Run: pytest tests/benchmarks/test_bench_render.py -n 0 --benchmark-enable -o addopts= -s
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import pytest
from oracles import render_dense

import actionimg_data as aid

FRAMES, SIZE = 41, 512


def best(call: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.fixture(scope="module")
def scene() -> tuple[aid.GripperTrajectory, list[aid.Camera]]:
    """A 41-frame trajectory half of which is open, seen from 1 m by two cameras."""
    t = np.linspace(0, 1, FRAMES)
    position = 0.2 * np.stack([np.cos(5 * t), np.sin(5 * t), t - 0.5], axis=1)
    angle = np.stack([t, 0.5 * t, np.zeros(FRAMES), np.ones(FRAMES)], axis=1)
    quaternion = angle / np.linalg.norm(angle, axis=1, keepdims=True)
    trajectory = aid.GripperTrajectory(position, quaternion, (t > 0.5).astype(float), t)
    cameras = []
    for eye in (np.array([1.0, 0.0, 0.5]), np.array([0.5, 0.9, 0.4])):
        z = -eye / np.linalg.norm(eye)
        x = np.cross(z, [0.0, 0.0, 1.0])
        x /= np.linalg.norm(x)
        pose = np.eye(4)
        pose[:3] = np.stack([x, np.cross(z, x), z, eye], axis=1)
        cameras.append(aid.Camera([[600, 0, 256], [0, 600, 256], [0, 0, 1]], pose, SIZE, SIZE))
    return trajectory, cameras


def test_render_against_dense_oracle_and_memset(benchmark, scene) -> None:  # type: ignore[no-untyped-def]
    trajectory, cameras = scene
    spec = aid.ActionImageSpec()
    out = np.empty((2, FRAMES, SIZE, SIZE, 3), np.uint8)
    aid.render(trajectory, cameras, out=out)

    dense = best(lambda: np.rint(255 * render_dense(trajectory, cameras, spec)).astype(np.uint8), 2)
    calls: dict[str, Callable[[], object]] = {
        "memset, same buffer": lambda: out.fill(64),
        "memset, new buffer": lambda: np.empty_like(out).fill(64),
        "np.full, new buffer": lambda: np.full_like(out, 64),
        "render, same buffer": lambda: aid.render(trajectory, cameras, out=out),
        "render, new buffer": lambda: aid.render(trajectory, cameras),
        "render, same buffer, two threads": lambda: aid.render(trajectory, cameras, out=out, threads=2),
        "render, new buffer, two threads": lambda: aid.render(trajectory, cameras, threads=2),
    }
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(25):  # in turns, so that a busy machine slows all of them alike
        for name, call in calls.items():
            start, busy = time.perf_counter(), time.process_time()
            call()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - busy)
    print(f"\nload {os.getloadavg()[0]:.1f}; dense oracle: {1e3 * dense:.0f} ms")
    for name in calls:
        memset = "memset, new buffer" if "new" in name else "memset, same buffer"
        print(
            f"{name}: median {1e3 * median(wall[name]):.1f} ms, best {1e3 * min(wall[name]):.1f} ms, "
            f"{1e3 * median(cpu[name]):.1f} ms of CPU; times memset {median(wall[name]) / median(wall[memset]):.2f}, "
            f"{median(cpu[name]) / median(cpu[memset]):.2f} by CPU; faster than dense {dense / min(wall[name]):.0f}"
        )
        benchmark.extra_info[name] = {"wall_ms": 1e3 * median(wall[name]), "cpu_ms": 1e3 * median(cpu[name])}
    benchmark(calls["render, same buffer"])
    assert dense / min(wall["render, new buffer"]) >= 40
    assert min(cpu["render, new buffer"]) / min(cpu["memset, new buffer"]) <= 3

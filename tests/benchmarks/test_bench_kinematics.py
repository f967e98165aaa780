"""Forward kinematics of all rows at once, against a loop over MuJoCo's own.

``pytest tests/benchmarks/test_bench_kinematics.py -n 0 --benchmark-enable -o addopts= -q -s``
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actionimg_data.converters.kit.kinematics import Chain
from actionimg_data.demo.simulators import panda_scene, panda_urdf

mujoco = pytest.importorskip("mujoco")
ROWS = 10_000


def fastest(call: Callable[[], Any], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def test_all_rows_at_once_are_faster_than_a_loop_over_mujoco(tmp_path: Path) -> None:
    (tmp_path / "arm.urdf").write_text(panda_urdf())
    chain = Chain.load(tmp_path / "arm.urdf", None, "grip_site")
    q = np.random.default_rng(0).uniform(-3, 3, (ROWS, 7))
    model = mujoco.MjModel.from_xml_string(panda_scene(np.eye(4), meshes=False))
    data = mujoco.MjData(model)
    site = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, "gripper0_grip_site")
    out = np.empty((ROWS, 3))

    def loop() -> None:
        for i, row in enumerate(q):
            data.qpos[7:14] = row
            mujoco.mj_kinematics(model, data)
            out[i] = data.site_xpos[site]

    ours, theirs = fastest(lambda: chain.poses(chain.names, q), 9), fastest(loop, 5)
    assert np.allclose(chain.poses(chain.names, q)[:, :3, 3], out, atol=1e-9)
    print(f"\n{ROWS} poses of 7 joints: {ours * 1e3:.0f} ms; a loop over mj_kinematics {theirs * 1e3:.0f} ms")
    assert ours < theirs

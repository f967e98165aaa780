"""Gripper meshes on the CPU: tiles with their own faces against one rasteriser call on the whole picture.

Run: pytest tests/benchmarks/test_bench_mesh.py -n 0 --benchmark-enable -o addopts= -s
"""

from __future__ import annotations

import time

import numpy as np
import pytest

import actionimg_data as aid
from actionimg_data.demo import scene

SIZE = 512


def whole_pictures(model, trajectory, track, soft):
    """The same pictures by `draw`: every face is tried at every pixel."""
    import torch

    vertices = aid.mesh.pose_vertices(
        model, *(torch.tensor(x) for x in (trajectory.position, trajectory.quaternion_xyzw, trajectory.openness))
    )
    for t in range(len(trajectory)):
        with torch.no_grad():
            yield aid.mesh.draw(
                vertices[t],
                torch.from_numpy(model.faces),
                torch.tensor(track.K[t]),
                torch.tensor(track.world_from_camera[t]),
                SIZE,
                SIZE,
                face_colors=torch.from_numpy(model.face_colors),
                face_parts=torch.from_numpy(model.face_parts),
                soft=soft,
            )


@pytest.mark.parametrize("soft", [0.0, 1.0])
@pytest.mark.parametrize("view", ["front", "wrist"])
def test_tiles_are_at_least_twice_as_fast_as_whole_pictures(benchmark, view, soft):
    motion = scene.make_motion(4, 0)
    camera = scene.make_cameras(motion, SIZE, (view,))[view]
    trajectory = aid.GripperTrajectory.from_transforms(motion.world_from_gripper, motion.jaw, np.arange(4) / 20)
    model, spec = aid.mesh.gripper_model(), aid.ActionImageSpec(height=SIZE, width=SIZE)

    def ours():
        return aid.mesh.render(trajectory, [camera], spec, model, soft=soft)

    begin = time.process_time()
    whole = list(whole_pictures(model, trajectory, camera.track(4), soft))
    baseline = time.process_time() - begin
    begin = time.process_time()
    pictures = benchmark.pedantic(ours, rounds=3)
    seconds = (time.process_time() - begin) / 3
    benchmark.extra_info |= {"ms_a_frame": 250 * seconds, "baseline_ms_a_frame": 250 * baseline}
    print(f"\n{view}, soft {soft}: {250 * seconds:.0f} ms a frame, whole pictures {250 * baseline:.0f} ms")
    for t, other in enumerate(whole):
        assert (pictures.part_ids[0, t] == other.part_ids.numpy()).mean() > 0.9999
    assert baseline > 2 * seconds


def test_backward_pass_costs_at_least_three_forward_passes(benchmark):
    import torch

    motion = scene.make_motion(1, 0)
    camera = scene.make_cameras(motion, 128, ("front",))["front"]
    model = aid.mesh.gripper_model()
    world = motion.world_from_gripper[:1, :3, :3] @ model.posed(1.0).T + motion.world_from_gripper[:1, :3, 3:]
    vertices = torch.tensor(world.transpose(0, 2, 1), requires_grad=True)
    fixed = [torch.tensor(x) for x in (model.faces, camera.K, camera.world_from_camera)]

    def forward():
        return aid.mesh.silhouette(vertices, *fixed, 128, 128, soft=1.0)

    forward()
    begin = time.process_time()
    forward().sum().backward()
    both = time.process_time() - begin
    begin = time.process_time()
    benchmark.pedantic(forward, rounds=5)
    seconds = (time.process_time() - begin) / 5
    print(f"\n128x128, 216 faces: forward {1e3 * seconds:.0f} ms, backward {1e3 * (both - seconds):.0f} ms")
    assert both - seconds > 3 * seconds

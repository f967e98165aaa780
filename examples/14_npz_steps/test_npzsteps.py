"""The converter keeps the contract, and what it reads is what was written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from npzsteps import MAX_WIDTH_M, TOOL_FROM_GRIPPER, NpzStepsConverter

from actionimg_data import Camera
from actionimg_data.demo import scene
from actionimg_data.geometry import rotations, transforms
from actionimg_data.testing import ConverterContract

EYE, TARGET, FOV_DEG = (1.34, 0.0, 1.42), (0.26, 0.0, 0.9), 40.0


def write_steps(folder: Path, episodes: int = 2, frames: int = 6, size: int = 64) -> list[scene.DemoMotion]:
    """Episodes of the demo's scene, one after the other; returns their true motions."""
    folder.mkdir(parents=True)
    motions = [scene.make_motion(frames, seed) for seed in range(episodes)]
    camera = Camera.looking_at(EYE, TARGET, size, size, vertical_fov_deg=FOV_DEG)
    spans, number = [], 0
    for motion in motions:
        renderer = scene.SceneRenderer(motion, size)
        tool = motion.world_from_gripper @ transforms.invert(TOOL_FROM_GRIPPER)
        euler = rotations.euler_from_matrix(tool[:, :3, :3])
        spans.append((number, number + frames - 1))
        for i in range(frames):
            tcp = np.concatenate([tool[i, :3, 3], euler[i]])
            width = MAX_WIDTH_M * motion.jaw[i]
            np.savez(folder / f"step_{number:07d}.npz", rgb=renderer.draw(camera, i).rgb, tcp=tcp, width=width)
            number += 1
    told = {"text": [f"put the cube on mat {n}" for n in range(episodes)], "span": spans}
    np.save(folder / "annotations.npy", told, allow_pickle=True)
    seen = {"eye": EYE, "target": TARGET, "fov_deg": FOV_DEG}
    (folder / "scene.json").write_text(json.dumps({"hz": 10, "camera": seen}))
    return motions


class TestNpzSteps(ConverterContract):
    @pytest.fixture
    def converter(self) -> NpzStepsConverter:
        return NpzStepsConverter()

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        write_steps(tmp_path / "data")
        return tmp_path / "data"


def test_motion_gripper_and_text_are_those_that_were_written(tmp_path: Path) -> None:
    motions = write_steps(tmp_path / "data", frames=4)
    converter = NpzStepsConverter()
    for ref, motion in zip(converter.discover(str(tmp_path / "data")), motions, strict=True):
        episode = converter.read(ref)
        np.testing.assert_allclose(episode.trajectory.world_from_gripper, motion.world_from_gripper, atol=1e-9)
        np.testing.assert_allclose(episode.trajectory.openness, motion.jaw, atol=1e-9)
        assert episode.instruction.startswith("put the cube")

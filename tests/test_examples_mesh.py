from __future__ import annotations

import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name, *arguments):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]([str(a) for a in arguments])


def has_colour(picture, rgb, tolerance=40):
    return int((np.abs(picture[..., ::-1].astype(int) - rgb).max(-1) < tolerance).sum())


def test_refine_camera_brings_the_gripper_back_onto_its_masks(tmp_path):
    figures = run("refine_camera", "--out", tmp_path, "--frames", 6)
    assert figures["pose_mm_before"] == pytest.approx(20)
    assert figures["pose_deg_before"] == pytest.approx(2)
    assert figures["overlay_px_before"] > 3
    assert figures["overlay_px_after"] < 0.5
    assert figures["overlay_px_after"] < figures["overlay_px_before"] / 5
    assert figures["seconds"] < 120
    picture = cv2.imread(str(tmp_path / "refine_camera.png"))
    before, after = np.split(picture, 2)
    # The mask's green outline shows beside the mesh's red one before, and lies under it after.
    assert has_colour(before, (60, 255, 60)) > 3 * has_colour(after, (60, 255, 60))


def test_overlay_gripper_draws_over_every_view_of_the_demo(tmp_path):
    path = run("overlay_gripper", "--out", tmp_path, "--columns", 2, "--size", 96)
    picture = cv2.imread(str(path))
    assert picture.shape == (5 * 96, 2 * 96, 3)
    for view in np.split(picture, 5):
        assert has_colour(view, (255, 255, 0), 90) > 20


@pytest.mark.realdata
def test_overlay_gripper_draws_over_a_real_demo(tmp_path, sample_data):
    path = run("overlay_gripper", sample_data / "rlbench", "--out", tmp_path, "--columns", 3, "--size", 96)
    picture = cv2.imread(str(path))
    assert picture.shape == (5 * 96, 3 * 96, 3)
    assert has_colour(picture, (255, 255, 0), 90) > 100

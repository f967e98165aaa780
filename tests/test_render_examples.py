from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2


def test_a_trajectory_is_recovered_from_its_action_videos_by_gradient_descent(tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "examples" / "optimize_trajectory.py"
    spec = importlib.util.spec_from_file_location("optimize_trajectory", path)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    errors = example.main(tmp_path / "out" / "picture.png")
    assert errors["position_mm"] < 0.1
    assert errors["rotation_deg"] < 0.1
    assert errors["wrong_openness"] == 0
    picture = cv2.imread(str(tmp_path / "out" / "picture.png"))
    assert picture is not None
    assert picture.shape == (3 * 128, 5 * 128, 3)
    assert picture.max() > 200

"""The training example in its short form."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import cv2


def test_a_few_seconds_of_training_make_the_labels_of_a_new_episode_better(tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "examples" / "train_tiny.py"
    spec = importlib.util.spec_from_file_location("train_tiny", path)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    results = example.train(tmp_path / "tiny", seconds=6, episodes=2, frames=12, size=32)
    assert len(results) == 5
    assert results[-1]["step"] > 0
    assert results[-1]["loss"] < 0.7 * results[0]["loss"]
    assert json.loads((tmp_path / "tiny" / "results.json").read_text())[-1] == results[-1]
    for number in (results[0]["step"], results[-1]["step"]):
        sheet = cv2.imread(str(tmp_path / "tiny" / f"step{number:05d}.png"))
        assert sheet is not None
        assert sheet.shape == (2 * 3 * 32, 2 * 2 * 5 * 32, 3)

"""The demo goes the whole way, and leaves pictures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
from click.testing import CliRunner

from actionimg_data.cli import main


def test_demo_converts_verifies_and_leaves_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = ["demo", str(folder), "--episodes", "1", "--frames", "10", "--size", "96", "--json"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["ok"]
    for name in ("rlbench", "rlds", "recordings"):
        verified = report[name]["verify"]
        assert (verified["samples"], verified["decoded_frames"], verified["openness_accuracy"]) == (1, 10, 1.0)
        assert (folder / f"{name}-shards" / "dataset.json").is_file()
    assert len(report["pictures"]) == 3
    picture = cv2.imread(str(folder / "demo.png"))
    # Three rows of six pictures below a line of names.
    assert picture.shape == (22 + 3 * 256 + 2 * 4, 6 * 256 + 5 * 4, 3)
    assert cv2.imread(str(folder / "contact_sheet.png")).std() > 20

    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1
    assert "folder is not empty" in again.stderr
    assert CliRunner().invoke(main, [*command, "--overwrite"]).exit_code == 0


def test_overwrite_spares_a_folder_that_is_no_demo(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    result = CliRunner().invoke(main, ["demo", str(tmp_path), "--overwrite"])
    assert result.exit_code == 1
    assert (tmp_path / "thesis.txt").read_text() == "mine"

"""One case of each kind of tests/calibration/prove.py, on a real recording."""

from __future__ import annotations

from pathlib import Path

import pytest
from calibration import prove

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def recordings(sample_data: Path) -> list[prove.Recording]:
    return prove.load(sample_data, only=("episode_2",))


def test_two_centimetres_are_found_and_true_cameras_are_not_off(recordings: list[prove.Recording]) -> None:
    cases = dict(prove.detection(recordings, 1))
    assert cases["detect|episode_2|frontview|2 cm|0"]()["verdict"] == "off"
    assert cases["detect|episode_2|frontview|0|0"]()["verdict"] == "ok"


def test_a_camera_three_centimetres_and_three_degrees_off_is_refined_to_a_pixel(
    recordings: list[prove.Recording],
) -> None:
    row = dict(prove.refinement(recordings, 1))["refine|episode_2|frontview|edges|0"]()
    assert row["accepted"]
    assert row["after_px"] < min(1.5, row["before_px"])


def test_clocks_are_set_to_ten_milliseconds(recordings: list[prove.Recording]) -> None:
    row = dict(prove.timing(recordings, 1))["time|episode_2|all|true cameras|0"]()
    assert row["error_ms"] < 10


def test_a_tool_ten_millimetres_off_is_told_from_a_camera(recordings: list[prove.Recording]) -> None:
    cases = dict(prove.blaming(recordings, 1))
    assert cases["blame|episode_2|frontview+sideview|tool|0"]()["blame"] == "tool"
    assert cases["blame|episode_2|frontview+sideview|camera|0"]()["blame"] == "camera"


def test_the_summary_says_what_the_rows_say() -> None:
    row = {"verdict": "off", "reason": "", "seconds": 0.1, "error_px": 0.1, "interval_px": 0.5}
    lines = prove.summary(
        {"detect|episode_2|front|2 cm|0": row, "detect|episode_2|front|0|2": {**row, "verdict": "ok"}}
    )
    assert any(line.startswith("detect 2 cm: off 100.0 % of 1 told") for line in lines)
    assert any(line.startswith("detect 0: off 0.0 % of 1 told") for line in lines)

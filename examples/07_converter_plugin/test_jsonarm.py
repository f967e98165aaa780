"""The plug-in's own tests: what every converter has to keep to, on a small source of its format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from jsonarm import TOOL_FROM_GRIPPER, JsonArmConverter
from make_logs import write_logs

from actionimg_data.testing import ConverterContract


class TestJsonArm(ConverterContract):
    @pytest.fixture
    def converter(self) -> JsonArmConverter:
        return JsonArmConverter()

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        write_logs(tmp_path / "logs", episodes=2, frames=4, size=48)
        return tmp_path / "logs"


def test_units_polarity_and_frame_are_translated(tmp_path: Path) -> None:
    motions = write_logs(tmp_path / "logs", episodes=1, frames=6, size=48)
    converter = JsonArmConverter()
    trajectory = converter.read(next(converter.discover(str(tmp_path / "logs")))).trajectory
    np.testing.assert_allclose(trajectory.world_from_gripper, motions[0].world_from_gripper, atol=1e-9)
    np.testing.assert_allclose(trajectory.openness, motions[0].jaw, atol=1e-9)
    assert TOOL_FROM_GRIPPER[2, 3] == 0.12

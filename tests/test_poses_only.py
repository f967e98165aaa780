"""Sources without calibration: pictures and trajectory are converted, and the sample says that it has no more."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from actionimg_data import errors, open_dataset
from actionimg_data.cli import main
from actionimg_data.demo.rlds import write_rlds_demo
from actionimg_data.schemas import ConvertOptions


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("poses")
    source, name, options = write_rlds_demo(folder / "rlds", episodes=1, frames=6, size=48)
    out = folder / "out"
    result = run("convert", name, source, out, "--config", options["config"], "--poses-only", "--size", 64, "-j", 1)
    assert result.exit_code == 0, result.output
    return out


def test_samples_hold_pictures_and_trajectory_and_say_that_this_is_all(converted: Path) -> None:
    data = open_dataset(converted)
    sample = data[0]
    assert not sample.meta.calibrated
    assert sample.rgb(sample.views[0]).shape == (6, 64, 64, 3)
    assert np.isfinite(sample.trajectory.position).all()
    for part in (lambda: sample.cameras, lambda: sample.action(sample.views[0])):
        with pytest.raises(errors.MissingCalibrationError, match="no camera is known"):
            part()
    with tarfile.open(next((converted / "train").glob("*.tar"))) as tar:
        endings = {name.split(".", 1)[1] for name in tar.getnames()}
    assert endings == {"json", "trajectory.npz", *(f"{view}.rgb.mp4" for view in sample.views)}


def test_verify_passes_and_says_why_nothing_was_decoded(converted: Path) -> None:
    summary = json.loads(run("verify", converted, "--json", "-j", 1).stdout)
    assert (summary["ok"], summary["samples"], summary["decoded_frames"]) == (True, 1, 0)
    assert "--poses-only" in run("verify", converted, "-j", 1).stdout


def test_inspect_shows_the_sample(converted: Path) -> None:
    key = open_dataset(converted).keys()[0]
    shown = json.loads(run("inspect", converted, "--key", key, "--json").stdout)
    assert shown["cameras"] == {}


def test_render_refuses(converted: Path, tmp_path: Path) -> None:
    result = run("render", converted, "--out", tmp_path)
    assert result.exit_code == 1
    assert "error[missing-calibration]" in result.stderr


def test_action_images_without_cameras_are_refused() -> None:
    with pytest.raises(errors.InvalidSpecError, match="without cameras there are no action images"):
        ConvertOptions.parse(poses_only=True)
    assert ConvertOptions().without_cameras().action_codec == "none"


def test_training_refuses(converted: Path) -> None:
    pytest.importorskip("torch")
    from actionimg_data.training import ActionImageDataset

    with pytest.raises(errors.MissingCalibrationError, match="--poses-only"):
        next(iter(ActionImageDataset(str(converted), num_frames=4, size=32, views=1)))

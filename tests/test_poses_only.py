"""Sources without calibration: pictures and trajectory are converted, and the sample says that it has no more."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

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


def training_options(**more: Any) -> dict[str, Any]:
    return {"num_frames": 5, "size": 32, "views": 1, **more}


@pytest.mark.parametrize("action", ["stored", "rendered", "both"])
@pytest.mark.parametrize("pixels", ["float32", "uint8"])
def test_training_draws_it_as_video_only(converted: Path, action: str, pixels: str) -> None:
    torch = pytest.importorskip("torch")
    from actionimg_data.training import ActionImageDataset

    data = ActionImageDataset(str(converted), action=action, pixels=pixels, **training_options())
    assert list(data.task_odds.values()) == [{"video_only": 1.0}]
    (sample,) = data
    assert sample["mode"] == "video_only"
    assert (sample["has_cameras"], sample["has_actions"]) == (False, False)
    black = 0 if pixels == "uint8" else -1
    pictures = ["action_video", *(["action_video_rendered"] if action == "both" else [])]
    for name in pictures:
        assert sample[name].shape == sample["video"].shape
        assert sample[name].dtype == sample["video"].dtype
        assert (sample[name] == black).all()
    assert (sample["video"] != black).any()
    assert not sample["action_7d"].any()
    assert not sample["plucker"].any()
    assert not sample["valid"].any()
    # [video, action]: all of the video but its first frame is to be predicted, and nothing of the action.
    assert sample["loss_mask"].tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert sample["used_mask"].tolist() == [True] * 5 + [False] * 5
    assert torch.isfinite(sample["camera"]).all()


def test_training_mixes_it_with_data_that_has_cameras(converted: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from actionimg_data.training import ConcatActionImageDataset, DeviceTransform, collate

    source, name, options = write_rlds_demo(tmp_path / "rlds", episodes=2, frames=6, size=48)
    result = run("convert", name, source, tmp_path / "full", "--config", options["config"], "--size", 64, "-j", 1)
    assert result.exit_code == 0, result.output
    paths = {"plain": str(converted), "full": str(tmp_path / "full")}
    mixed = ConcatActionImageDataset(
        {"plain": 0.5, "full": 0.5}, paths=paths, epoch_samples=8, allow_different_rates=True, **training_options()
    )
    samples = list(mixed)
    assert {s["source"]: s["has_cameras"] for s in samples} == {"plain": False, "full": True}
    assert all(s["mode"] == "video_only" for s in samples if not s["has_cameras"])
    assert mixed.task_odds["plain"] == {"video_only": 1.0}
    assert len(mixed.task_odds["full"]) > 1
    batch = collate(samples)
    assert batch["has_cameras"].dtype == torch.bool
    moved = DeviceTransform(spec=mixed.spec)(batch)
    plain = ~batch["has_cameras"]
    assert not moved["plucker"][plain].any()
    assert (moved["action_video"][plain] == -1).all()
    assert moved["plucker"][~plain].abs().amax(dim=(1, 2, 3, 4)).min() > 0
    assert torch.isfinite(moved["plucker"]).all()


def test_training_refuses_tasks_that_need_actions(converted: Path) -> None:
    pytest.importorskip("torch")
    from actionimg_data.training import ActionImageDataset, IndexedActionImageDataset

    with pytest.raises(errors.InvalidSpecError, match=r"drawn as video only.*odds above 0 for video_only"):
        ActionImageDataset(str(converted), modes={"joint": 1.0}, **training_options())
    data = IndexedActionImageDataset(str(converted), **training_options())
    assert data[0]["mode"] == "video_only"

"""Every example runs, keeps what it promises, and leaves something to look at; in a short form."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from processes import run_program

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PLUGIN = EXAMPLES / "07_converter_plugin"


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def run(name: str, *arguments: object) -> Any:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]([str(a) for a in arguments])


def picture(path: Path) -> np.ndarray:
    """The picture (H, W, 3) RGB that an example left, which is not blank."""
    shown = cv2.imread(str(path))
    assert shown is not None, path
    assert shown.std() > 15
    return shown[..., ::-1]


def has_colour(shown: np.ndarray, rgb: tuple[int, int, int], tolerance: int = 40) -> int:
    return int((np.abs(shown.astype(int) - rgb).max(-1) < tolerance).sum())


def test_15_members_are_derived_with_a_tiny_vae_and_by_hashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner
    from training_data import make_dataset

    from actionimg_data.cli import main
    from actionimg_data.training import IndexedActionImageDataset

    out = make_dataset(tmp_path, (14,))[0]
    monkeypatch.chdir(EXAMPLES / "15_derived_members")
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("encoders", None)
    commands = re.findall(r"^ +actionimg (derive .*)$", Path("encoders.py").read_text(encoding="utf-8"), re.M)
    assert len(commands) == 2
    for command in commands:
        result = CliRunner().invoke(main, [str(out) if word == "out" else word for word in command.split()])
        assert result.exit_code == 0, result.output
    data = IndexedActionImageDataset(out, members=("latent", "words"), num_frames=9, size=64, views=2)
    sample = data[0]
    assert sample["latent"]["video"].shape == sample["latent"]["action"].shape == (2, 16, 3, 8, 8)
    assert sample["words"].shape == (16, 64)
    assert (sample["words"].abs().sum(-1) > 0).tolist() == [True] * 3 + [False] * 13
    assert "video" not in sample
    del sys.modules["encoders"]


def test_every_example_is_listed_with_its_picture_and_has_a_test() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    tests = Path(__file__).read_text(encoding="utf-8")
    names = sorted(p.stem for p in EXAMPLES.iterdir() if re.match(r"\d\d_", p.name))
    assert [name[:2] for name in names] == [f"{i:02d}" for i in range(1, len(names) + 1)]
    for path in EXAMPLES.iterdir():
        if re.match(r"\d\d_", path.name):
            assert f"({path.name}" in listed, path
            assert f"../docs/images/examples/{path.stem}.webp" in listed or path.suffix != ".py"
            assert f'"{path.stem}"' in tests or path.suffix != ".py"


def test_01_rlbench_demos_become_verified_shards_and_arrays_again(tmp_path: Path) -> None:
    found = run("01_rlbench_to_shards", "--out", tmp_path, "--size", 96, "--frames", 12)
    assert found["verify"]["ok"]
    assert found["decoded"] == 1
    assert found["position_mm"] < 1
    assert picture(tmp_path / "01_rlbench_to_shards.png").shape == (6 * 96, 6 * 96, 3)


def test_02_a_mapping_file_explains_a_log_and_wrong_ones_show(tmp_path: Path) -> None:
    report = run("02_own_log_with_a_mapping_file", "--out", tmp_path, "--size", 96, "--frames", 12)
    assert report["ok"]
    assert report["samples"] == 2
    rows = np.split(picture(tmp_path / "02_own_log_with_a_mapping_file.png"), 4)
    for row in rows[1:]:
        assert (np.abs(row.astype(int) - rows[0]).max(-1) > 100).sum() > 100


def test_03_rlds_is_converted_with_an_entry_and_a_camera_file(tmp_path: Path) -> None:
    report = run("03_rlds_with_a_camera_file", "--out", tmp_path, "--size", 96, "--frames", 8)
    assert report["ok"]
    assert report["samples"] == 2
    picture(tmp_path / "03_rlds_with_a_camera_file.png")


@needs("matplotlib")
def test_04_wrong_frames_of_a_generated_video_get_no_pose(tmp_path: Path) -> None:
    found = run("04_decode_a_generated_video", "--out", tmp_path, "--size", 192)
    assert found["valid"][~found["wrong"]].mean() > 0.9
    assert np.median(found["position_mm"][found["valid"]]) < 4
    # None of the frames that have a pose is far off, whatever was done to them.
    assert found["position_mm"][found["valid"]].max() < 15
    assert (~found["valid"][found["wrong"]]).sum() >= 7
    assert found["openness"] == 1
    picture(tmp_path / "04_decode_a_generated_video.png")


@needs("torch")
def test_05_a_few_seconds_of_training_make_the_labels_of_a_new_episode_better(tmp_path: Path) -> None:
    small = ("--seconds", 3, "--episodes", 2, "--frames", 12, "--size", 32)
    results = run("05_train_tiny", "--out", tmp_path, *small)
    assert len(results) == 5
    assert results[-1]["step"] > 0
    assert results[-1]["loss"] < 0.8 * results[0]["loss"]
    assert json.loads((tmp_path / "results.json").read_text())[-1] == results[-1]
    for number in (results[0]["step"], results[-1]["step"]):
        assert picture(tmp_path / f"step{number:05d}.png").shape == (2 * 3 * 32, 2 * 2 * 5 * 32, 3)


@needs("pytorch3d")
def test_06_a_refined_camera_brings_the_gripper_back_onto_its_masks(tmp_path: Path) -> None:
    figures = run("06_refine_camera", "--out", tmp_path, "--frames", 4)
    assert figures["pose_mm_before"] == pytest.approx(20)
    assert figures["pose_deg_before"] == pytest.approx(2)
    assert figures["overlay_px_before"] > 3
    assert figures["overlay_px_after"] < figures["overlay_px_before"] / 5
    before, after = np.split(picture(tmp_path / "06_refine_camera.png"), 2)
    # The mask's green outline shows beside the mesh's red one before, and lies under it after.
    assert has_colour(before, (60, 255, 60)) > 3 * has_colour(after, (60, 255, 60))


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the plug-in is installed, by pip."""
    folder = tmp_path_factory.mktemp("plugin")
    source, site = folder / "source", folder / "site"
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("__pycache__"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # Without a build environment of its own pip needs no network, but a setuptools that makes wheels.
    if tuple(map(int, importlib.metadata.version("setuptools").split(".")[:1])) >= (77,):
        install.append("--no-build-isolation")
    run_program([*install, "--target", str(site), str(source)])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(source)]), "OMP_NUM_THREADS": "1"}


def test_07_an_installed_plug_in_is_a_format_like_any_other(plugin: dict[str, str], tmp_path: Path) -> None:
    # One process: each start of the program costs a second.
    code = """
import json, sys
from pathlib import Path
from click.testing import CliRunner
from actionimg_data.cli import main
from make_logs import write_logs

write_logs(Path("logs"), 2, 6, 64)
found = []
for words in (
    "inspect logs --json",
    "convert jsonarm logs shards --size 64 --only-cameras front,left_shoulder -j 1",
    "verify shards -j 1 --json",
):
    result = CliRunner().invoke(main, words.split())
    if result.exit_code:
        sys.exit(result.output)
    found.append(result.stdout)
print(json.dumps([json.loads(found[0]), json.loads(found[2])]))
"""
    done = run_program([sys.executable, "-c", code], env=plugin, cwd=tmp_path)
    inspected, report = json.loads(done.stdout)
    assert inspected["format"] == "jsonarm"
    assert report["ok"]
    assert report["samples"] == 2


def test_07_and_14_the_readers_keep_the_contract_of_converters(plugin: dict[str, str], tmp_path: Path) -> None:
    steps = EXAMPLES / "14_npz_steps"
    env = {**plugin, "PYTHONPATH": os.pathsep.join([plugin["PYTHONPATH"], str(steps)])}
    # Plug-ins of pytest import all they can, and none of them is needed.
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    words = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path)]
    files = [str(PLUGIN / "test_jsonarm.py"), str(steps / "test_npzsteps.py")]
    done = run_program([sys.executable, "-m", "pytest", *words, *files], env=env, cwd=tmp_path)
    assert re.search(r"\b38 passed", done.stdout)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@needs("torch", "torchdata")
def test_08_data_sets_are_mixed_in_exact_shares_and_resume(tmp_path: Path) -> None:
    found = run("08_mix_data_sets", "--out", tmp_path, "--frames", 28, "--size", 32, "--samples", 8)
    assert found == {"drawn": {"rlbench": 4, "rlbench-10hz": 2, "recordings": 2}, "resumed": True}
    picture(tmp_path / "08_mix_data_sets.png")


@needs("torch")
def test_09_a_trajectory_is_recovered_from_its_action_videos_by_gradient_descent(tmp_path: Path) -> None:
    errors = run("09_optimize_trajectory", "--out", tmp_path)
    assert errors["position_mm"] < 0.1
    assert errors["rotation_deg"] < 0.1
    assert errors["wrong_openness"] == 0
    assert picture(tmp_path / "09_optimize_trajectory.png").shape == (3 * 128, 5 * 128, 3)


@needs("pytorch3d")
def test_10_the_gripper_mesh_lies_over_every_view_of_the_demo(tmp_path: Path) -> None:
    run("10_overlay_gripper", "--out", tmp_path, "--columns", 2, "--size", 96)
    shown = picture(tmp_path / "10_overlay_gripper.png")
    assert shown.shape == (5 * 96, 2 * 96, 3)
    for view in np.split(shown, 5):
        assert has_colour(view, (255, 255, 0), 90) > 20


@needs("torch", "mujoco")
def test_12_a_simulated_robot_does_what_the_action_videos_say_and_no_nonsense(tmp_path: Path) -> None:
    found = run("12_closed_loop", "--out", tmp_path, "--tasks", 2, "--spoil", "crf28", "--size", 128, "--no-pictures")
    assert [task["done"] for task in found["crf28"]] == [True, True]
    # The second task is shown one nonsense chunk; at so small a size a sound one may be held as well, in either task.
    assert found["crf28"][0]["refused"] <= 1
    assert found["crf28"][1]["refused"] >= 1
    assert not any(task["nonsense_carried_out"] for task in found["crf28"])


@needs("matplotlib")
def test_13_two_runs_are_scored_and_the_later_one_is_better(tmp_path: Path) -> None:
    found = run("13_score_generated_videos", "--out", tmp_path, "--size", 96, "--frames", 14)
    first, second = found["epoch_10"], found["epoch_20"]
    assert (first.samples, second.samples) == (3, 3)
    assert 4 < second.position_error_mm.median + 2 < first.position_error_mm.median < 15
    assert first.baselines[0].position_error_mm.median < 1
    picture(tmp_path / "13_score_generated_videos.png")


@pytest.mark.realdata
@needs("pytorch3d")
def test_10_the_gripper_mesh_lies_over_a_real_demo(tmp_path: Path, sample_data: Path) -> None:
    run("10_overlay_gripper", sample_data / "rlbench", "--out", tmp_path, "--columns", 3, "--size", 96)
    shown = picture(tmp_path / "10_overlay_gripper.png")
    assert shown.shape == (5 * 96, 3 * 96, 3)
    assert has_colour(shown, (255, 255, 0), 90) > 100

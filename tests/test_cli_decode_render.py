"""The commands decode, render, converters and doctor, as a user calls them."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy.spatial.transform import Rotation, Slerp

from actionimg_data import ActionImageSpec, Camera, GripperTrajectory, render
from actionimg_data.cli import doctor, main
from actionimg_data.errors import install_hint
from actionimg_data.model.files import read_trajectory, write_trajectory
from actionimg_data.video import action_encoding, encode_bytes, read_frames

SIZE, FRAMES, FPS = 160, 12, 10


ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def look_at(eye: Sequence[float]) -> np.ndarray:
    z = -np.asarray(eye, float) / np.linalg.norm(eye)
    x = np.cross([0.0, 0.0, -1.0], z)
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3] = np.stack([x, np.cross(z, x), z, eye], axis=1)
    return pose


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trajectory, its camera file, one action video a view, and all of them in one video."""
    folder = tmp_path_factory.mktemp("clip")
    K = [[180.0, 0, SIZE / 2], [0, 180.0, SIZE / 2], [0, 0, 1]]
    cameras = {
        "left": Camera(K, look_at([0.8, -0.6, 0.4]), SIZE, SIZE),
        "right": Camera(K, look_at([0.8, 0.6, 0.4]), SIZE, SIZE),
    }
    s = np.linspace(0, 1, FRAMES)
    position = np.stack([0.1 * s - 0.05, 0.08 * np.sin(3 * s), 0.05 * s], axis=1)
    turn = Slerp([0, 1], Rotation.from_euler("xyz", [[3.0, 0.1, 0], [2.6, -0.2, 0.5]]))(s).as_quat()
    truth = GripperTrajectory(position, turn, (s < 0.6).astype(float), s * (FRAMES - 1) / FPS)
    spec = ActionImageSpec(height=SIZE, width=SIZE)
    videos = render(truth, cameras, spec)
    write_trajectory(folder / "truth.csv", truth)
    entries = {
        name: {"K": c.K.tolist(), "width": SIZE, "height": SIZE, "world_from_camera": c.world_from_camera.tolist()}
        for name, c in cameras.items()
    }
    (folder / "cameras.json").write_text(json.dumps({"cameras": entries}))
    encoding = action_encoding("ffv1")
    for name, video in zip(cameras, videos, strict=True):
        (folder / f"{name}.action.mkv").write_bytes(encode_bytes(video, encoding, FPS, SIZE, SIZE))
    grey = np.full_like(videos[0], 90)
    joined = np.concatenate([grey, videos[0], grey, videos[1]])
    (folder / "joined.mkv").write_bytes(encode_bytes(joined, encoding, FPS, SIZE, SIZE))
    return folder


@pytest.mark.parametrize("suffix", [".csv", ".npz", ".json"])
def test_decode_gives_back_what_was_drawn(clip: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"decoded{suffix}"
    videos = [clip / "left.action.mkv", clip / "right.action.mkv"]
    result = run("decode", *videos, "--cameras", clip / "cameras.json", "--out", out)
    assert result.exit_code == 0, result.output
    assert f"{FRAMES} of {FRAMES} frames decoded from left, right" in result.stdout
    truth, decoded = read_trajectory(clip / "truth.csv"), read_trajectory(out)
    np.testing.assert_allclose(decoded.position, truth.position, atol=2e-4)
    np.testing.assert_allclose(decoded.times, truth.times, atol=1e-6)
    np.testing.assert_array_equal(decoded.openness, truth.openness)
    angle = Rotation.from_quat(decoded.quaternion_xyzw) * Rotation.from_quat(truth.quaternion_xyzw).inv()
    assert np.rad2deg(angle.magnitude()).max() < 0.3


def test_decode_prints_a_diagnosis_and_refuses_what_is_less_certain_than_wanted(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.csv"
    common = [clip / "left.action.mkv", clip / "right.action.mkv", "--cameras", clip / "cameras.json", "--out", out]
    plain = run("decode", *common)
    assert "as the spec says" in plain.stdout
    assert "openness levels: closed 0.00, open 1.00" in plain.stdout
    assert "trust,position_std_mm" in out.read_text().splitlines()[0]
    summary = json.loads(run("decode", *common, "--json").stdout)
    assert summary["trust"] > 0.99
    assert [c["view"] for c in summary["diagnosis"]["channels"]] == ["left"] * 3 + ["right"] * 3
    assert summary["diagnosis"]["findings"] == []
    strict = run("decode", *common, "--max-std-mm", "1e-6", "--json")
    assert strict.exit_code == 1
    assert json.loads(strict.stdout)["reasons"] == {"too-uncertain": FRAMES}
    assert run("decode", *common, "--max-std-deg", "5", "--json").exit_code == 0


def test_decode_finds_a_late_view_and_fixes_it(clip: Path, tmp_path: Path) -> None:
    frames = read_frames(clip / "right.action.mkv")
    late = np.concatenate([np.repeat(frames[:1], 2, axis=0), frames[:-2]])
    (tmp_path / "right.action.mkv").write_bytes(encode_bytes(late, action_encoding("ffv1"), FPS, SIZE, SIZE))
    common = [clip / "left.action.mkv", tmp_path / "right.action.mkv", "--cameras", clip / "cameras.json"]
    found = run("decode", *common, "--out", tmp_path / "t.csv")
    assert "right is 2 frames late against left" in found.stdout
    assert "view-late" in found.stdout
    fixed = run("decode", *common, "--out", tmp_path / "fixed.csv", "--fix-lag", "--json")
    assert json.loads(fixed.stdout)["valid"] >= FRAMES - 3
    truth, decoded = read_trajectory(clip / "truth.csv"), read_trajectory(tmp_path / "fixed.csv")
    assert np.nanmedian(np.linalg.norm(decoded.position - truth.position, axis=1)) < 1e-3


def test_decode_takes_apart_one_video_with_all_segments(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.csv"
    result = run(
        "decode", clip / "joined.mkv", "--concatenated", "--views", "left,right",
        "--cameras", clip / "cameras.json", "--out", out, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["frames"], summary["valid"], summary["views"]) == (FRAMES, FRAMES, ["left", "right"])
    np.testing.assert_allclose(read_trajectory(out).position, read_trajectory(clip / "truth.csv").position, atol=2e-4)


def test_views_are_named_by_option_or_by_assignment(clip: Path, tmp_path: Path) -> None:
    for name, view in (("left", "a"), ("right", "b")):
        (tmp_path / f"{view}.mkv").write_bytes((clip / f"{name}.action.mkv").read_bytes())
    common = ["--cameras", clip / "cameras.json", "--out", tmp_path / "t.csv", "--json"]
    by_option = run("decode", tmp_path / "a.mkv", tmp_path / "b.mkv", "--views", "left,right", *common)
    assigned = run("decode", f"left={tmp_path / 'a.mkv'}", f"right={tmp_path / 'b.mkv'}", *common)
    assert json.loads(by_option.stdout) == json.loads(assigned.stdout)
    unnamed = run("decode", tmp_path / "a.mkv", tmp_path / "b.mkv", *common)
    assert unnamed.exit_code == 1
    assert "has no camera of this name (expected left right, found a b)" in unnamed.stderr


def test_a_camera_of_another_size_is_scaled_but_not_cropped(clip: Path, tmp_path: Path) -> None:
    content = json.loads((clip / "cameras.json").read_text())
    for camera in content["cameras"].values():
        camera["width"] = camera["height"] = SIZE // 2
        camera["K"] = [[v / 2 if row < 2 else v for v in values] for row, values in enumerate(camera["K"])]
        camera["pixel_centre"] = 0.5
    (tmp_path / "half.json").write_text(json.dumps(content))
    out = tmp_path / "t.csv"
    videos = [clip / "left.action.mkv", clip / "right.action.mkv"]
    assert run("decode", *videos, "--cameras", tmp_path / "half.json", "--out", out).exit_code == 0
    np.testing.assert_allclose(read_trajectory(out).position, read_trajectory(clip / "truth.csv").position, atol=2e-4)
    content["cameras"]["left"]["width"] += 10
    (tmp_path / "wide.json").write_text(json.dumps(content))
    refused = run("decode", *videos, "--cameras", tmp_path / "wide.json", "--out", out)
    assert refused.exit_code == 1
    assert "differ in aspect" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "match"),
    [
        (["left=missing.mkv"], 1, "error[source-not-found]"),
        (["cameras.json"], 1, "error["),
        (["left.action.mkv", "left.action.mkv"], 1, "two videos of one view"),
        (["joined.mkv", "--concatenated"], 2, "takes one video and the names of its views"),
        (["joined.mkv", "--concatenated", "--views", "left,right,top,wrist,a,b,c"], 1, "has no camera of this name"),
        (["left.action.mkv", "joined.mkv", "--views", "left,right"], 1, "differ in their number of frames"),
    ],
)
def test_decode_refuses(
    clip: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, match: str
) -> None:
    monkeypatch.chdir(clip)
    result = run("decode", *arguments, "--cameras", "cameras.json", "--out", "never.csv")
    assert result.exit_code == code
    assert match in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (clip / "never.csv").exists()


def test_segments_that_do_not_divide_are_refused(clip: Path, tmp_path: Path) -> None:
    frames = read_frames(str(clip / "joined.mkv"))[:-1]
    (tmp_path / "odd.mkv").write_bytes(encode_bytes(frames, action_encoding("ffv1"), FPS, SIZE, SIZE))
    result = run(
        "decode", tmp_path / "odd.mkv", "--concatenated", "--views", "left,right",
        "--cameras", clip / "cameras.json", "--out", tmp_path / "t.csv",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "do not divide into equal segments (expected a multiple of 4" in result.stderr


def test_black_videos_decode_to_nothing_and_say_so(clip: Path, tmp_path: Path) -> None:
    black = np.zeros((5, SIZE, SIZE, 3), np.uint8)
    (tmp_path / "left.mkv").write_bytes(encode_bytes(black, action_encoding("ffv1"), FPS, SIZE, SIZE))
    out = tmp_path / "t.csv"
    result = run("decode", tmp_path / "left.mkv", "--cameras", clip / "cameras.json", "--out", out)
    assert result.exit_code == 1
    assert "0 of 5 frames decoded" in result.stdout
    assert "5 no-keypoints" in result.stdout
    assert not read_trajectory(out).known.any()


def test_render_draws_a_trajectory_file(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "look"
    result = run(
        "render", clip / "truth.csv", "--cameras", clip / "cameras.json", "--out", out, "--size", SIZE, "--json"
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert [Path(f).name for f in summary["files"]] == ["contact_sheet.png", "left.action.mp4", "right.action.mp4"]
    assert summary["fps"] == pytest.approx(FPS)
    stored = read_frames(str(clip / "left.action.mkv"))
    drawn = read_frames(str(out / "left.action.mp4"))
    assert drawn.shape == stored.shape
    assert np.abs(drawn.astype(int) - stored).mean() < 3


def test_render_needs_cameras_for_a_trajectory(clip: Path, tmp_path: Path) -> None:
    result = run("render", clip / "truth.csv", "--out", tmp_path / "look")
    assert result.exit_code == 1
    assert "error[missing-calibration]" in result.stderr
    assert "--cameras" in result.stderr


@pytest.mark.realdata
def test_render_draws_an_episode_of_real_demos(sample_data: Path, tmp_path: Path) -> None:
    result = run(
        "render", sample_data / "rlbench", "--episode", 1, "--views", "front,wrist", "--size", "96x128",
        "--stride", 24, "--out", tmp_path, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["episode"], summary["views"]) == ("open_drawer/all_variations/episode5", ["front", "wrist"])
    video = read_frames(str(tmp_path / "front.overlay.mp4"))
    assert video.shape == (4, 142, 3 * 128, 3)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("extra", "match"),
    [
        (["--episode", "none"], "no such episode (expected open_drawer/all_variations/episode0"),
        (["--views", "front,left"], "no such view"),
        (["-O", "colour=red"], "no such option"),
        (["--format", "rlbnch"], "Did you mean 'rlbench'"),
    ],
)
def test_render_refuses(sample_data: Path, tmp_path: Path, extra: list[str], match: str) -> None:
    result = run("render", sample_data / "rlbench", "--out", tmp_path, *extra)
    assert result.exit_code == (2 if extra[0] in ("-O", "--format") else 1)
    assert match in result.stderr


def test_a_folder_of_nothing_is_not_recognised(tmp_path: Path) -> None:
    result = run("render", tmp_path, "--out", tmp_path / "look")
    assert result.exit_code == 1
    assert "no converter recognises this source" in result.stderr


def test_converters_lists_and_explains() -> None:
    listing = run("converters")
    assert listing.exit_code == 0
    assert "rlbench" in listing.stdout
    explained = run("converters", "--explain", "rlbench")
    assert "--variations" in explained.stdout
    assert set(json.loads(run("converters", "--json").stdout)) >= {"rlbench", "action-images", "rlds"}
    assert run("converters", "--explain", "nothing").exit_code == 2


def test_doctor_finds_this_machine_fit() -> None:
    result = run("doctor", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["ok"]
    assert {"python", "codec libx264", "render and decode", "extra torch"} <= {c["check"] for c in report["checks"]}
    shown = run("doctor").stdout
    assert "render and decode" in shown


def test_doctor_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rosbags", None)
    monkeypatch.setattr(doctor, "_version", lambda name: "5.0" if name.startswith("opencv-python") else "1.0")
    result = run("doctor", "--json")
    checks = {check["check"]: check for check in json.loads(result.stdout)["checks"]}
    assert "pip install 'rosbags>=" in checks["extra teleop"]["found"]
    assert "they overwrite each other" in checks["opencv"]["found"]
    assert result.exit_code == 1


@pytest.mark.parametrize("extra", sorted(doctor._EXTRAS))
def test_what_to_install_are_the_extras_own_packages(extra: str) -> None:
    import tomllib

    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    names = {re.match(r"[\w-]+", package)[0] for package in wanted}  # type: ignore[index]
    assert {re.match(r"[\w-]+", word)[0] for word in shlex.split(install_hint(extra))[2:]} == names  # type: ignore[index]


def test_help_of_every_command_has_an_example() -> None:
    listing = run("--help").stdout
    for name in main.list_commands(None):  # type: ignore[arg-type]
        assert name in listing
        text = run(name, "--help")
        assert text.exit_code == 0, text.output
        assert f"actionimg {name}" in text.stdout


def test_a_typo_in_a_command_gets_a_suggestion() -> None:
    result = run("convrt")
    assert result.exit_code == 2
    assert "Did you mean 'convert'?" in result.stderr


@pytest.mark.realdata
def test_render_lays_the_gripper_mesh_over_real_demos(sample_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("pytorch3d")
    result = run(
        "render", sample_data / "rlbench", "--style", "mesh", "--views", "front", "--size", 128, "--stride", 40,
        "--out", tmp_path, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    video = read_frames(str(tmp_path / "front.mesh.mp4")).astype(int)
    before, after = video[:, :, :128], video[:, :, 128:]
    orange = (after[..., 0] - after[..., 2] > 60) & (np.abs(after - before).max(axis=-1) > 30)
    assert orange.sum(axis=(1, 2)).max() > 80

"""Cameras that follow their pictures: crops, windows of samples, and the commands that take them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from training_data import make_camera, make_dataset, make_trajectory

from actionimg_data.cli import main
from actionimg_data.errors import FrameCountError, InvalidArrayError, InvalidSpecError, WrongFormatError
from actionimg_data.model.files import read_trajectory
from actionimg_data.raster import render_view
from actionimg_data.shards import Window, open_dataset, read_cameras_npz
from actionimg_data.shards.window import window_cameras, window_frames
from actionimg_data.video import action_encoding, encode_bytes

FRAMES = 30


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, _ = make_dataset(tmp_path_factory.mktemp("windows"), (FRAMES, FRAMES + 2), size=96)
    return out


def test_a_point_stays_where_it_was_in_the_part_that_is_cut_out() -> None:
    points = np.random.default_rng(0).uniform(-0.1, 0.3, (20, 3))
    for camera in (make_camera("front", 5, 96), make_camera("wrist", 5, 96)):
        first = camera if not hasattr(camera, "is_static") else camera[0]
        uv, _ = first.project(points)
        for cut, left, top in (
            (camera.cropped((7, 11, 40, 30)), 7, 11),
            (camera.center_cropped(30, 41), (96 - 41) // 2, (96 - 30) // 2),
        ):
            one = cut if not hasattr(cut, "is_static") else cut[0]
            moved, _ = one.project(points)
            np.testing.assert_allclose(moved, uv - [left, top], atol=1e-9)
            assert (cut.width, cut.height) == ((40, 30) if left == 7 else (41, 30))


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 97, 5), (3, 3, 0, 4), (0.5, 0, 4, 4)])
def test_a_box_outside_is_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(InvalidArrayError, match="not inside the picture"):
        make_camera("front", 1, 96).cropped(box)


def test_windows_that_are_not_there_are_refused_with_what_there_is() -> None:
    np.testing.assert_array_equal(window_frames(30, 3, 4, 6, "x"), [3, 7, 11, 15, 19, 23])
    assert len(window_frames(30, 3, 4, None, "x")) == 7
    with pytest.raises(FrameCountError, match=r"ends after the last frame.*<= 7 of 30 frames.*found 8"):
        window_frames(30, 3, 4, 8, "x")
    with pytest.raises(InvalidSpecError, match=r"start: no such frame.*0 … 29|no such frame.*start.*0 … 29"):
        window_frames(30, 30, 1, 1, "x")


def test_a_moving_camera_needs_to_know_the_frames() -> None:
    moving, still = make_camera("wrist", 12, 96), make_camera("front", 1, 96).track(12)
    chosen = window_cameras({"wrist": moving, "front": still}, 2, 3, 4, "x")
    np.testing.assert_allclose(chosen["wrist"].world_from_camera, moving.world_from_camera[[2, 5, 8, 11]], atol=1e-12)
    assert window_cameras({"front": still}, None, 1, 5, "x")["front"].track(5)
    with pytest.raises(FrameCountError, match=r"camera moves.*--start"):
        window_cameras({"wrist": moving}, None, 1, 5, "x")


@pytest.mark.parametrize(("size", "start", "stride"), [((64, 112), 4, 2), ((80, 48), 0, 1)])
def test_what_a_window_draws_is_decoded_with_the_samples_cameras(
    dataset: Path, tmp_path: Path, size: tuple[int, int], start: int, stride: int
) -> None:
    sample = open_dataset(dataset)[0]
    window = Window.cut(sample, start, 9, stride, size, ("wrist", "side"))
    for view in window.views:
        data = encode_bytes(window.action(view), action_encoding("ffv1"), window.fps, *size)
        (tmp_path / f"{view}.action.mkv").write_bytes(data)
    videos = [tmp_path / f"{view}.action.mkv" for view in window.views]
    out = tmp_path / "t.csv"
    result = run(
        "decode", *videos, "--cameras", dataset, "--sample", sample.key,
        "--start", start, "--stride", stride, "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    decoded = read_trajectory(out)
    truth = make_trajectory(0, FRAMES, 20.0)[window.indices]
    assert decoded.known.sum() > 5
    error = np.linalg.norm(decoded.position - truth.position, axis=1)[decoded.known]
    assert np.median(error) < 1e-3
    refused = run("decode", *videos, "--cameras", dataset, "--crop", "none", "--start", start, "--out", out)
    assert refused.exit_code == 1
    assert "differ in aspect" in refused.stderr


def test_a_window_is_written_and_every_command_takes_its_cameras(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = open_dataset(dataset).keys()[0]
    result = run("export", "window", dataset, key, "--start", 3, "--num-frames", 8, "--stride", 2, "--size", "64x112",
                 "--views", "side,wrist")  # fmt: skip
    assert result.exit_code == 0, result.output
    folder = tmp_path / f"{key}-3"
    assert {path.name for path in folder.iterdir()} == {
        "side.rgb.mp4", "wrist.rgb.mp4", "side.action.mp4", "wrist.action.mp4", "canvas.mp4", "cameras.npz",
        "trajectory.csv", "caption.txt", "predictions.jsonl",
    }  # fmt: skip
    assert (folder / "caption.txt").read_text().strip() == open_dataset(dataset)[0].instruction
    line = json.loads((folder / "predictions.jsonl").read_text())
    assert (line["key"], line["start"], line["stride"], line["frames"]) == (key, 3, 2, 8)
    cameras = read_cameras_npz(folder / "cameras.npz")
    assert [(c.height, c.width, len(c)) for c in cameras.values()] == [(64, 112, 8)] * 2
    truth = read_trajectory(folder / "trajectory.csv")
    for videos in (["canvas.mp4", "--canvas"], ["side.action.mp4", "wrist.action.mp4"], ["side.action.mp4"]):
        decoded = run("decode", *(folder / v if v.endswith("mp4") else v for v in videos),
                      "--cameras", folder / "cameras.npz", "--out", "t.csv")  # fmt: skip
        assert decoded.exit_code == 0, decoded.output
        error = np.linalg.norm(read_trajectory("t.csv").position - truth.position, axis=1)
        assert np.nanmedian(error) < (3e-3 if len(videos) > 1 else 0.05)
    drawn = run(
        "render", folder / "trajectory.csv", "--cameras", folder / "cameras.npz", "--out", "look", "--columns", 2
    )
    assert drawn.exit_code == 0, drawn.output
    compared = run("render", dataset, "--episode", key, "--start", 3, "--stride", 2, "--compare",
                   folder / "trajectory.csv", "--out", "look", "--json", "--no-video")  # fmt: skip
    assert json.loads(compared.stdout)["difference_mm"]["max"] == pytest.approx(0, abs=1e-6)
    report = run("report", dataset, "--start", 3, "--num-frames", 4, "--stride", 2, "--samples", 1, "--html", "r.html")
    assert report.exit_code == 0, report.output
    assert "4 frames at 10 fps" in Path("r.html").read_text()


def test_what_a_window_shows_is_the_stored_picture_cut_about_its_centre(dataset: Path) -> None:
    sample = open_dataset(dataset)[1]
    window = Window.cut(sample, 2, 3, 5, (96, 48), ("front",))
    stored = sample.rgb("front", [2, 7, 12])
    np.testing.assert_array_equal(np.stack(list(window.rgb("front"))), stored[:, :, 24:72])
    np.testing.assert_array_equal(
        window.action("front"),
        render_view(window.grippers[""], sample.cameras["front"][window.indices].center_cropped(96, 48), window.spec),
    )
    with pytest.raises(WrongFormatError, match=r"no such view.*front"):
        Window.cut(sample, views=("frnt",))


def test_export_window_says_what_is_not_there(dataset: Path, tmp_path: Path) -> None:
    key = open_dataset(dataset).keys()[0]
    unknown = run("export", "window", dataset, key + "x", tmp_path / "a")
    assert unknown.exit_code == 1
    assert "no such sample" in unknown.stderr
    assert key in unknown.stderr
    taken = run("export", "window", dataset, key, dataset)
    assert "exists already" in taken.stderr
    long = run("export", "window", dataset, key, tmp_path / "a", "--num-frames", 99)
    assert "the window ends after the last frame" in long.stderr
    assert run("export", "wids", dataset, tmp_path / "a", tmp_path / "b").exit_code == 2

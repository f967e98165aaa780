"""Exports for trainers, each read back as its trainer reads it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trainer_readers as readers
from arms_data import make_dataset as make_arms
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from training_data import SIZE, make_dataset, read_bars

import actionimg_data as aid
from actionimg_data.cli import main
from actionimg_data.errors import (
    EmptyEpisodeError,
    InvalidSpecError,
    MissingCalibrationError,
    OutputExistsError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
)
from actionimg_data.export import clips, export, finetrainers
from actionimg_data.shards.windows import Cut, WindowId

FRAMES = (22, 25, 7)
VIEWS = ("front", "wrist")
NINE: dict[str, Any] = {"num_frames": 9, "views": VIEWS}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("trainers"), FRAMES)[0]


@pytest.fixture(scope="module")
def exported(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("exported") / "diffsynth"
    result = export("diffsynth", dataset, dest, **NINE)
    assert result.samples == 2
    assert result.left_out == [("task_0-ep_002", "has 7 frames; a window takes 9 at its 20 fps")]
    return dest


def shown(video: np.ndarray) -> list[tuple[int, int, int]]:
    return [read_bars(picture.mean(-1) / 127.5 - 1) for picture in video]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "windows.jsonl").read_text().splitlines()]


# ---- windows -------------------------------------------------------------------------------------------------------


@given(
    total=st.integers(1, 200),
    num_frames=st.integers(1, 60),
    stored=st.sampled_from([5.0, 10.0, 15.0, 20.0, 50.0]),
    fps=st.sampled_from([None, 5.0, 7.0, 16.0]),
    hop=st.one_of(st.none(), st.integers(1, 70)),
    short=st.sampled_from(["skip", "repeat"]),
)
def test_windows_lie_within_their_sample_and_reach_its_end(
    total: int, num_frames: int, stored: float, fps: float | None, hop: int | None, short: Any
) -> None:
    cut = Cut(num_frames, fps, hop, short, nearest=True)
    if fps is not None and fps > stored:
        with pytest.raises(InvalidSpecError, match="no whole multiple"):
            cut.starts(total, stored, "here")
        return
    starts = cut.starts(total, stored, "here")
    assert starts == sorted(set(starts))
    windows = [cut.indices(start, total, stored, "here") for start in starts]
    for frames in windows:
        assert len(frames) == num_frames
        assert frames[0] >= 0
        assert frames[-1] < total
        # In time each frame is the stored one that is nearest.
        times = np.arange(num_frames) / cut.rate(stored)
        inside = frames[0] + times * stored <= total - 1
        assert (np.abs((frames - frames[0]) / stored - times)[inside] <= 0.5 / stored + 1e-9).all()
    if windows:
        assert windows[-1][-1] == total - 1
    else:
        assert short == "skip"
        assert cut.offsets(stored, "here")[-1] >= total
    if hop is None and len(windows) > 1 and cut.stride(stored, "here") == 1:
        assert set(np.concatenate(windows).tolist()) == set(range(total))


def test_a_windows_name_says_what_it_shows() -> None:
    assert str(WindowId("a-b_1", 12, 4, ("front", "wrist"))) == "a-b_1.000012.4.front+wrist"
    assert Cut(5, 16.0, nearest=True).offsets(20.0, "").tolist() == [0, 1, 2, 4, 5]
    for bad in ({"num_frames": 0}, {"num_frames": 5, "hop": 0}, {"num_frames": 5, "fps": float("nan")}):
        with pytest.raises(InvalidSpecError):
            Cut(**bad)  # type: ignore[arg-type]


# ---- read back -----------------------------------------------------------------------------------------------------


def test_diffsynth_reads_videos_action_videos_and_prompts(dataset: Path, exported: Path) -> None:
    samples = readers.diffsynth(exported, ("video", "control_video"), 9)
    windows = [(row, clip) for row in lines(exported) for clip in row["clips"]]
    assert len(samples) == len(windows) == 2 * (3 + 3)
    assert readers.safe_names(exported)
    stored = aid.open_dataset(dataset)
    for sample, (row, clip) in zip(samples, windows, strict=True):
        key, (view,) = row["key"], clip["views"]
        number = int(key.rpartition("_")[2])
        assert sample["video"].shape == (9, SIZE, SIZE, 3)
        assert shown(sample["video"]) == [(number, ("front", "side", "wrist").index(view), f) for f in row["frames"]]
        assert sample["prompt"] == row["caption"] == f"open drawer {number}"
        drawn = stored[key].action(view, row["frames"])
        assert np.abs(sample["control_video"].astype(int) - drawn).mean() < 1.5
    assert [row["start"] for row in lines(exported)] == [0, 9, 13, 0, 9, 16]


def test_musubi_reads_the_same_clips_by_hard_links(dataset: Path, exported: Path, tmp_path: Path) -> None:
    dest = tmp_path / "musubi"
    export("musubi", dataset, dest, **NINE, reuse=exported)
    samples = readers.musubi(dest, started_in=dest)
    expected = readers.diffsynth(exported, ("video", "control_video"), 9)
    for found, wanted in zip(samples, expected, strict=True):
        assert found["caption"] == wanted["prompt"]
        assert np.array_equal(found["video"], wanted["video"])
        assert np.array_equal(found["control"], wanted["control_video"])
    for path in dest.rglob("*.mp4"):
        assert os.path.samefile(path, exported / path.relative_to(dest))


def test_finetrainers_reads_a_videofolder_with_its_own_library(
    dataset: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    dest = tmp_path / "finetrainers"
    export("finetrainers", dataset, dest, **NINE, reuse=exported)
    # Its loader takes a folder with one metadata file, no tar or parquet, for a videofolder.
    assert [p.name for p in dest.iterdir() if p.name.startswith("metadata")] == ["metadata.jsonl"]
    assert not [p for p in dest.rglob("*") if p.suffix in (".tar", ".parquet")]
    found = datasets.load_dataset("videofolder", data_dir=str(dest), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(found.column_names) == {"video", "control_video", "caption"}
    found = found.cast_column("video", datasets.Video(decode=False))
    found = found.cast_column("control_video", datasets.Video(decode=False))
    expected = readers.diffsynth(exported, ("video", "control_video"), 9)
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        assert row["caption"] == wanted["prompt"]
        assert np.array_equal(readers.frames_of(row["video"]["path"]), wanted["video"])
        assert np.array_equal(readers.frames_of(row["control_video"]["path"]), wanted["control_video"])
    # A name that would be taken for a split, so that the rest were left out.
    assert finetrainers.names(WindowId("pick-test_1", 0, 1, ("front",)))[0].rpartition("/")[2].count(".") == 1
    assert finetrainers.names(WindowId("pick-tests", 0, 1, ("front",)))[0] == "videos/pick-tests.000000.front.mp4"
    (config,) = json.loads((dest / "dataset_config.json").read_text())["datasets"]
    assert config["video_resolution_buckets"] == [[9, SIZE, SIZE]]


def test_cosmos_makes_the_actions_that_the_trajectory_took(dataset: Path, tmp_path: Path) -> None:
    result = export("cosmos", dataset, tmp_path / "out", views=VIEWS)
    assert (result.samples, result.left_out) == (3, [])
    stored = aid.open_dataset(dataset)
    samples = readers.cosmos(tmp_path / "out", "train", 5, 2, cam_id=1)
    assert len(samples) == sum(n - 8 for n in FRAMES if n > 8)
    for sample in samples:
        key, start = sample["annotation"].split(".")[0], sample["video"]
        where = shown(start)
        frames = [frame for _, _, frame in where]
        assert {view for _, view, _ in where} == {2}
        pose = stored[key].trajectory[frames]
        R = pose.rotation
        for k, action in enumerate(sample["action"]):
            assert np.allclose(R[k] @ action[:3] + pose.position[k], pose.position[k + 1], atol=1e-12)
            assert action[6] == 1 - pose.openness[k + 1]
    # The stored videos themselves: nothing changes in them.
    label = json.loads(next((tmp_path / "out" / "annotation" / "train").iterdir()).read_text())
    sample = stored[label["episode_id"].split(".")[0]]
    for listed, member in (("videos", "front.rgb.mp4"), ("action_videos", "front.action.mp4")):
        assert (tmp_path / "out" / label[listed][0]["video_path"]).read_bytes() == sample.read(member)
    state, gripper = np.array(label["state"]), np.array(label["continuous_gripper_state"])
    assert np.allclose(label["action"], readers._actions(state, gripper), atol=1e-9)
    assert {p.name for p in (tmp_path / "out" / "annotation").iterdir()} == {"train", "val", "test"}


def test_cosmos_keeps_the_windows_of_a_sample_in_one_split(dataset: Path, tmp_path: Path) -> None:
    options = {"num_frames": 9, "hop": 4, "views": ("front",), "actions": False, "val_fraction": 0.5}
    export("cosmos", dataset, tmp_path / "out", **options)
    by_split = {
        s: {p.name.split(".")[0] for p in (tmp_path / "out" / "annotation" / s).iterdir()} for s in ("train", "val")
    }
    assert not by_split["train"] & by_split["val"]
    assert len(by_split["train"] | by_split["val"]) == 2


@pytest.mark.parametrize(("canvas", "size"), [("views", (SIZE, 2 * SIZE)), ("joint", (2 * SIZE, 2 * SIZE))])
def test_a_canvas_shows_all_views(dataset: Path, tmp_path: Path, canvas: str, size: tuple[int, int]) -> None:
    export("diffsynth", dataset, tmp_path / "out", **NINE, canvas=canvas, num_workers=1 + (canvas == "joint"))
    keys = ("video",) if canvas == "joint" else ("video", "control_video")
    samples, windows = readers.diffsynth(tmp_path / "out", keys, 9), lines(tmp_path / "out")
    assert len(samples) == len(windows) == 6
    stored = aid.open_dataset(dataset)
    for sample, row in zip(samples, windows, strict=True):
        number = int(row["key"].rpartition("_")[2])
        assert sample["video"].shape[1:3] == size
        for place, view in enumerate(VIEWS):
            columns = slice(place * SIZE, (place + 1) * SIZE)
            own = sample["video"][:, :SIZE, columns]
            assert shown(own) == [(number, 2 * place, frame) for frame in row["frames"]]
            actions = sample["video"][:, SIZE:] if canvas == "joint" else sample["control_video"]
            drawn = stored[row["key"]].action(view, row["frames"]).astype(int)
            assert np.abs(actions[:, :, columns] - drawn).mean() < 1.5


def test_a_short_sample_repeats_its_last_frame_where_it_may(dataset: Path, tmp_path: Path) -> None:
    options = {"num_frames": 5, "fps": 5.0, "short": "repeat", "views": ("side",), "size": (32, 48)}
    result = export("diffsynth", dataset, tmp_path / "out", **options)
    assert result.left_out == []
    row = next(row for row in lines(tmp_path / "out") if row["key"].endswith("002"))
    assert (row["frames"], row["fps"], row["stride"]) == ([0, 4, 6, 6, 6], 5.0, 4)
    video = readers.frames_of(tmp_path / "out" / row["clips"][0]["video"])
    assert video.shape == (5, 32, 48, 3)


def test_all_grippers_are_in_one_action_video(tmp_path: Path) -> None:
    arms = make_arms(tmp_path, [9])[0]
    export("musubi", arms, tmp_path / "out", num_frames=9)
    sample, row = aid.open_dataset(arms)[0], lines(tmp_path / "out")[0]
    view = row["clips"][0]["views"][0]
    one, other = (sample.action(view, gripper=name).astype(int) for name in sample.action_names)
    found = readers.frames_of(tmp_path / "out" / row["clips"][0]["control"])
    assert np.abs(found - np.minimum(one + other, 255)).mean() < 2
    with pytest.raises(UnsupportedSourceError, match="one gripper"):
        export("cosmos", arms, tmp_path / "cosmos")


# ---- going on, and refusals ----------------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_interrupted_export_goes_on_to_the_same_bytes(
    dataset: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    publish = clips.layout.publish

    def interrupted(target: Path, data: bytes) -> None:
        if len(written) == 8:
            raise KeyboardInterrupt
        written.append(target)
        publish(target, data)

    monkeypatch.setattr(clips.layout, "publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export("diffsynth", dataset, tmp_path / "out", **NINE)
    assert not (tmp_path / "out" / "metadata.csv").exists()
    monkeypatch.setattr(clips.layout, "publish", publish)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.mp4")}
    assert before
    export("diffsynth", dataset, tmp_path / "out", **NINE)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert tree(tmp_path / "out") == tree(exported)
    again = export("diffsynth", dataset, tmp_path / "out", **NINE)
    assert (again.samples, again.notes[0]) == (2, "was complete already")
    with pytest.raises(OutputExistsError, match=r"num_frames: holds another export \(expected 5, found 9\)"):
        export("diffsynth", dataset, tmp_path / "out", num_frames=5, views=VIEWS)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_frames": 8}, InvalidSpecError, r"num_frames=8 is not 4n \+ 1.*take 5 or 9"),
        ({"num_frames": 9, "size": (60, 64)}, InvalidSpecError, "60x64 is no multiple of 16.*64x64"),
        ({"num_frames": 9, "fps": 16.0}, InvalidSpecError, "expected one of 20, 10, .*found 16.*--nearest"),
        ({"num_frames": 9, "fps": 40.0}, InvalidSpecError, r"found 40\.0"),
        ({"num_frames": 9, "views": ("frnt",)}, WrongFormatError, "front"),
        ({"num_frames": 9, "views": ("front", "front")}, InvalidSpecError, "twice"),
        ({"num_frames": 81}, EmptyEpisodeError, "expected >= 81 at 20 fps, found at most 25"),
        ({"num_frames": 9, "canvas": "joint", "actions": False}, InvalidSpecError, "canvas"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_written(
    dataset: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        export("finetrainers", dataset, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_only_clips_of_the_same_windows_are_linked(dataset: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecError, match=r"reuse: views: holds other windows"):
        export("musubi", dataset, tmp_path / "a", num_frames=9, reuse=exported)
    hostile = shutil.copytree(exported, tmp_path / "hostile")
    text = (hostile / "windows.jsonl").read_text().replace('"video": "videos/', '"video": "../videos/')
    (hostile / "windows.jsonl").write_text(text)
    with pytest.raises(UnsafeFileError, match="outside"):
        export("musubi", dataset, tmp_path / "b", **NINE, reuse=hostile)


def test_data_without_cameras_gives_videos_alone(tmp_path: Path) -> None:
    poses_only = make_dataset(tmp_path, (9,), poses_only=True, action_codec="none")[0]
    with pytest.raises(MissingCalibrationError, match="--no-actions"):
        export("diffsynth", poses_only, tmp_path / "out", num_frames=5)
    command = ["export", "diffsynth", str(poses_only), str(tmp_path / "out"), "--num-frames", "5", "--no-actions"]
    result = CliRunner().invoke(main, [*command, "-j", "1", "--json"])
    assert result.exit_code == 0, result.output
    assert {"video", "prompt"} == set(readers.diffsynth(tmp_path / "out", ("video",), 5)[0])


def test_the_command_says_what_comes_next(dataset: Path, tmp_path: Path) -> None:
    command = ["export", "diffsynth", str(dataset), str(tmp_path / "out"), "--num-frames", "9", "--views", "front,side"]
    result = CliRunner().invoke(main, [*command, "--size", "64x32", "-j", "1", "--json"])
    assert result.exit_code == 4, result.output
    found = json.loads(result.stdout)
    assert (found["samples"], [one["key"] for one in found["left_out"]]) == (2, ["task_0-ep_002"])
    assert '--data_file_keys "video,control_video" --num_frames 9 --height 64 --width 32' in found["notes"][1]
    for wrong in (["musubi", "--val-fraction", "0.5"], ["cosmos", "--canvas", "joint"], ["wids", "--no-actions"]):
        kind, *options = wrong
        result = CliRunner().invoke(main, ["export", kind, str(dataset), str(tmp_path / "x"), *options])
        assert (result.exit_code, "is not an option of" in result.output) == (2, True)

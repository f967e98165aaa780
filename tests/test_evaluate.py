"""Generated videos against a data set: known errors come out, and what cannot be scored is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from evaluation_data import action_videos, disturbed, write_predictions
from training_data import make_dataset

import actionimg_data as aid
from actionimg_data.cli import main
from actionimg_data.errors import FrameCountError, InvalidArrayError, MissingViewError
from actionimg_data.evaluate import Options, evaluate_run
from actionimg_data.evaluate.compare import compare
from actionimg_data.evaluate.frames import open_frames
from actionimg_data.evaluate.score import Estimate, angles, score
from actionimg_data.model import GripperTrajectory
from actionimg_data.schemas import ActionImageSpec
from actionimg_data.schemas.evaluation import Evaluation
from actionimg_data.shards import Dataset, Window, open_dataset

VIEWS = ("front", "side")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("evaluate"), (50, 52, 54, 56), size=128)[0]


@pytest.fixture(scope="module")
def dataset(out: Path) -> Dataset:
    return open_dataset(out)


def windows(dataset: Dataset, **more: Any) -> list[dict[str, Any]]:
    """Two strides, two sizes of two aspects."""
    shapes = [(1, (128, 128)), (2, (120, 208)), (2, (128, 128)), (1, (120, 208))]
    return [
        {"key": key, "start": 2 * i, "num_frames": 20, "stride": stride, "size": size, "views": VIEWS, **more}
        for i, (key, (stride, size)) in enumerate(zip(dataset.keys(), shapes, strict=True))
    ]


@pytest.fixture(scope="module")
def predictions(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Moved by 5 mm and turned by 3°, a fifth of the openness flipped."""
    return write_predictions(tmp_path_factory.mktemp("runs") / "moved", dataset, windows(dataset), disturbed)


def test_known_errors_come_out(out: Path, predictions: Path) -> None:
    found = evaluate_run(str(predictions), str(out)).evaluation
    assert found.samples == 4
    assert {one.size for one in found.by_sample} == {(128, 128), (120, 208)}
    assert {one.stride for one in found.by_sample} == {1, 2}
    for one in (found, *found.by_sample):
        assert one.valid_fraction == 1
        assert one.position_error_mm.median == pytest.approx(5, abs=0.3)
        assert one.rotation_error_deg.median == pytest.approx(3, abs=0.2)
        assert one.gripper.accuracy == pytest.approx(0.8, abs=0.01)
        assert one.success["10mm_5deg"] == 1
        assert one.strong.position_error_mm.median == pytest.approx(5, abs=0.3)
    beside = {one.name: one for one in found.baselines}
    assert set(beside) == {"floor", "frozen", "task mean", "another episode"}
    assert beside["floor"].position_error_mm.median < 0.3 < 20 < beside["frozen"].position_error_mm.median
    assert found.by_task.keys() == {"task_0", "task_1"}
    assert [row.right for row in found.trust if row.fraction] == [1.0] * sum(row.fraction > 0 for row in found.trust)


def test_the_truth_scores_as_the_floor_and_every_column_is_filled(out: Path, dataset: Dataset, tmp_path: Path) -> None:
    folder = write_predictions(tmp_path / "true", dataset, windows(dataset))
    found = evaluate_run(str(folder), str(out), Options(protocol="published"))
    assert found.evaluation.position_error_mm.max < 0.3
    assert found.evaluation.gripper.accuracy == found.evaluation.gripper.f1 == 1
    assert found.evaluation.gripper.events_found == found.evaluation.gripper.events > 0
    assert found.evaluation.gripper.event_error_s.max == 0
    assert found.evaluation.clip.roughness_ratio == pytest.approx(1, abs=0.3)
    assert found.evaluation.published.mean_3d_error_mm < 0.3 < found.evaluation.published.centroid_3d_error_mm
    for one in found.scored:
        assert all(np.isfinite(values).all() for values in one.frames.values())


def test_figures_in_memory_are_those_of_the_files(out: Path, dataset: Dataset, predictions: Path) -> None:
    found = evaluate_run(str(predictions), str(out)).evaluation.by_sample
    for number, given in enumerate(windows(dataset)[:2]):
        window = Window.cut(dataset[given.pop("key")], **given)
        videos = action_videos(window, disturbed, number)
        one = aid.evaluate(videos, window.sample, given["start"], given["stride"])
        assert one.model_dump(exclude={"prediction"}) == found[number].model_dump(exclude={"prediction"})
        as_floats = {view: video.astype(np.float32) / 255 for view, video in videos.items()}
        close = aid.evaluate(as_floats, window.sample, given["start"], given["stride"])
        assert close.position_error_mm.median == pytest.approx(one.position_error_mm.median, abs=1e-3)
    stacked = np.stack(list(videos.values()))
    with pytest.raises(FrameCountError, match="ends after the last frame"):
        aid.evaluate(stacked, window.sample, 40)
    with pytest.raises(MissingViewError, match="no such view"):
        aid.evaluate({"frnt": stacked[0]}, window.sample)
    bad = as_floats["front"].copy()
    bad[3, 4, 5] = np.nan
    with pytest.raises(InvalidArrayError, match="frame 3: holds values that are not finite"):
        aid.evaluate({"front": bad}, window.sample)
    with pytest.raises(InvalidArrayError, match=r"outside \[0, 1\].*\(x \+ 1\) / 2"):
        aid.evaluate({"front": 2 * as_floats["front"] - 1}, window.sample)


def test_torch_tensors_are_taken(dataset: Dataset) -> None:
    torch = pytest.importorskip("torch")
    window = Window.cut(dataset[0], 0, 5, 1, views=VIEWS)
    videos = action_videos(window)
    tensors = {view: torch.from_numpy(video) for view, video in videos.items()}
    assert aid.evaluate(tensors, dataset[0]) == aid.evaluate(videos, dataset[0])


# ---- figures on trajectories, held against plain formulas ------------------------------------------------------------


def _estimate(truth: GripperTrajectory, **changed: Any) -> Estimate:
    values = {**vars(Estimate.of(truth)), **changed}
    return Estimate(**values)


@pytest.fixture
def truth() -> GripperTrajectory:
    t = np.arange(12) / 10
    return GripperTrajectory(np.stack([t, 0 * t, 0 * t], 1), np.tile([0, 0, 0, 1.0], (12, 1)), t < 0.5, t)


def test_frames_without_a_pose_are_no_success_and_hold_the_last_one(truth: GripperTrajectory) -> None:
    valid = np.ones(12, bool)
    valid[[0, 1, 5, 6]] = False
    position = np.where(valid[:, None], truth.position, np.nan)
    found = score(_estimate(truth, valid=valid, position=position), truth, np.arange(12), ActionImageSpec())
    np.testing.assert_array_equal(np.isnan(found.frames["position_mm"]), ~valid)
    # Before the first pose the condition is held, later the last pose.
    np.testing.assert_allclose(found.frames["held_position_mm"][[0, 1, 4, 5, 6]], [0, 100, 0, 100, 200], atol=1e-9)
    from actionimg_data.evaluate.figures import scores_of

    figures = scores_of([found])
    assert figures.success["10mm_5deg"] == pytest.approx(8 / 12)
    assert figures.valid_fraction == pytest.approx(8 / 12)
    assert figures.position_error_mm.max == pytest.approx(0, abs=1e-9)


def test_openings_and_closings_are_matched_and_timed(truth: GripperTrajectory) -> None:
    late = np.concatenate([truth.openness[:1], truth.openness[:1], truth.openness[:-2]])
    late[10] = 1 - late[10]
    found = score(_estimate(truth, openness=late), truth, np.arange(12), ActionImageSpec())
    assert (found.events, found.invented) == (1, 2)
    assert found.event_errors_s == pytest.approx([0.2])
    unknown = np.where(np.arange(12) % 2, np.nan, truth.openness)
    from actionimg_data.evaluate.figures import scores_of

    figures = scores_of([score(_estimate(truth, openness=unknown), truth, np.arange(12), ActionImageSpec())]).gripper
    assert (figures.accuracy, figures.accuracy_known, figures.known_fraction) == (0.5, 1.0, 0.5)


def test_drift_and_roughness(truth: GripperTrajectory) -> None:
    drifting = truth.position + np.arange(12)[:, None] * [0, 0.001, 0]
    found = score(_estimate(truth, position=drifting), truth, np.arange(12), ActionImageSpec())
    assert found.clip["drift_mm_per_s"] == pytest.approx(10, rel=1e-6)
    curved = GripperTrajectory(truth.position**3, truth.quaternion_xyzw, truth.openness, truth.times)
    twice = score(_estimate(curved, position=2 * curved.position), curved, np.arange(12), ActionImageSpec())
    assert twice.clip["roughness_ratio"] == pytest.approx(2)


def test_angles_are_those_of_scipy() -> None:
    from scipy.spatial.transform import Rotation

    a, b = Rotation.random(50, random_state=1), Rotation.random(50, random_state=2)
    whole, axes = angles(a.as_matrix(), b.as_matrix())
    np.testing.assert_allclose(whole, np.rad2deg((a.inv() * b).magnitude()), atol=1e-9)
    cosine = np.einsum("nij,nij->nj", a.as_matrix(), b.as_matrix())
    np.testing.assert_allclose(axes, np.rad2deg(np.arccos(np.clip(cosine, -1, 1))), atol=1e-6)


# ---- files of every kind, and of none --------------------------------------------------------------------------------


def test_every_kind_of_file_is_read(dataset: Dataset, tmp_path: Path) -> None:
    from PIL import Image

    from actionimg_data.video import Encoding, encode_bytes

    window = Window.cut(dataset[0], 0, 12, 1, (128, 128), VIEWS)
    video = action_videos(window)["front"]
    (tmp_path / "v.mp4").write_bytes(encode_bytes(video, Encoding("h264"), 20, 128, 128))
    (tmp_path / "v.mkv").write_bytes(encode_bytes(video, Encoding("ffv1"), 20, 128, 128))
    np.save(tmp_path / "v.npy", video)
    pictures = [Image.fromarray(frame) for frame in video]
    pictures[0].save(tmp_path / "v.gif", save_all=True, append_images=pictures[1:], duration=50, loop=0)
    (tmp_path / "v").mkdir()
    for i, frame in enumerate(video):
        cv2.imwrite(str(tmp_path / "v" / f"f{i}.png"), frame[..., ::-1])
    for name in ("v.mp4", "v.mkv", "v.npy", "v.gif", "v"):
        with open_frames(str(tmp_path / name)) as reader:
            assert (reader.info.frames, reader.info.height, reader.info.width) == (12, 128, 128), name
            read = np.stack(list(reader.frames(range(12))))
        assert np.abs(read.astype(int) - video).mean() < 6, name
        # The order of the pictures is that of their numbers: f10 comes after f9.
        assert np.abs(read[10].astype(int) - video[10]).mean() <= np.abs(read[10].astype(int) - video[2]).mean()


@pytest.fixture(scope="module")
def bad(dataset: Dataset, predictions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one good prediction and one of each kind that is not."""
    folder = tmp_path_factory.mktemp("bad") / "run"
    shutil.copytree(predictions, folder)
    good = json.loads((folder / "predictions.jsonl").read_text().splitlines()[0])
    views, key = good["views"], good["key"]
    (folder / "empty").mkdir()
    np.save(folder / "nan.npy", np.full((5, 128, 128, 3), np.nan, np.float32))
    (folder / "text.mp4").write_text("no video")
    lines: list[Any] = [
        good,
        {**good, "key": key + "x"},
        {**good, "start": 40},
        {**good, "views": {"front": views["front"], "top": views["side"]}},
        {**good, "frames": 81},
        {**good, "stride": 2},
        {**good, "views": {"front": "nan.npy"}},
        {**good, "views": {"front": "empty"}},
        {**good, "views": {"front": "absent.mp4"}},
        {**good, "views": {"front": "text.mp4"}},
        {**good, "views": {"front": views["front"], "side": "0001.side.mkv"}},
        {**good, "gripper": "left"},
        {"key": key},
        {"key": key, "canvas": views["front"]},
        "no object",
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_what_cannot_be_scored_is_named_and_the_others_are_scored(out: Path, bad: Path) -> None:
    result = run("evaluate", bad, "--against", out, "--json", "--no-html", "-j", 1, "--no-baselines")
    assert result.exit_code == 4, result.output
    found = json.loads(result.stdout)
    assert found["samples"] == 1
    told = {row["prediction"]: row for row in found["failures"]}
    assert sorted(told) == list(range(1, 15))
    for number, field, text in (
        (1, "key", "no such sample"),
        (2, "start 40, stride 1", "the window ends after the last frame"),
        (3, "views", "no such view"),
        (4, "front: frames", "another number of frames than promised"),
        (5, "front: rate", "another frame rate"),
        (6, "frame 0", "not finite"),
        (7, None, "holds no picture"),
        (8, None, "no such file"),
        (9, None, "cannot be opened"),
        (10, "side: size", "views differ"),
        (11, "gripper", "does not name a gripper"),
        (13, "views", "does not say which views"),
    ):
        assert text in told[number]["message"], told[number]
        if field is not None:
            assert told[number]["field"] == field
            assert told[number]["expected"]
            assert told[number]["found"]
    shown = run("evaluate", bad, "--against", out, "--no-html", "-j", 1, "--no-baselines")
    assert "line 2: key: the data set has no such sample" in shown.stderr


def test_a_data_set_without_cameras_is_refused_by_prediction(tmp_path: Path, predictions: Path) -> None:
    out, _ = make_dataset(tmp_path, (30, 30, 30, 30), poses_only=True, action_codec="none", size=64)
    found = run("evaluate", predictions, "--against", out, "--no-html", "-j", 1, "--json", "--out", tmp_path / "e")
    assert found.exit_code == 1
    assert "no camera is known of this sample" in json.loads(found.stdout)["failures"][0]["message"]


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_everything_goes_on_and_holds_limits(out: Path, predictions: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "e"
    command = ("evaluate", predictions, "--against", out, "--out", folder, "-j", 1)
    first = run(*command)
    assert first.exit_code == 0, first.output
    assert "4 predictions" in first.stdout
    names = {"evaluation.json", "evaluation.html", "predictions.csv", "predictions.parquet", "frames.csv",
             "frames.parquet", "scored.jsonl"}  # fmt: skip
    assert {path.name for path in folder.iterdir()} == names
    frames = pq.read_table(folder / "frames.parquet")
    assert frames.num_rows == 80
    assert np.median(frames["position_mm"].to_numpy()) == pytest.approx(5, abs=0.3)
    assert len((folder / "predictions.csv").read_text().splitlines()) == 5
    written = Evaluation.model_validate_json((folder / "evaluation.json").read_bytes())
    page = (folder / "evaluation.html").read_text()
    assert page.count('class="player"') == 4
    assert "<script>" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    # What was scored is not scored again, and what has changed is.
    journal = (folder / "scored.jsonl").read_text()
    again = run(*command, "--json")
    assert (folder / "scored.jsonl").read_text() == journal
    assert Evaluation.model_validate_json(again.stdout) == written
    (folder / "scored.jsonl").write_text(journal[: len(journal) // 2])
    assert Evaluation.model_validate_json(run(*command, "--json").stdout) == written
    limits = run(*command, "--fail-under", "success.10mm_5deg=0.9", "--fail-over", "position_error_mm.median=4")
    assert limits.exit_code == 3
    assert "position_error_mm.median is 5" in limits.stderr
    assert "success" not in limits.stderr
    unknown = run(*command, "--fail-under", "sucess.10mm_5deg=0.9")
    assert "no such figure" in unknown.stderr
    assert "success.10mm_5deg" in unknown.stderr


def test_one_prediction_of_the_command_line_and_a_canvas(out: Path, dataset: Dataset, tmp_path: Path) -> None:
    key = dataset.keys()[0]
    made = run("export", "window", out, key, tmp_path / "w", "--start", 3, "--num-frames", 9, "--size", "96x128",
               "--views", "side,front")  # fmt: skip
    assert made.exit_code == 0, made.output
    videos = [f"{view}={tmp_path / 'w' / f'{view}.action.mp4'}" for view in VIEWS]
    common = ["--against", out, "--key", key, "--start", 3, "--out", tmp_path / "e", "--json", "--no-html", "-j", 1]
    separate = json.loads(run("evaluate", *videos, *common).stdout)
    canvas = run("evaluate", tmp_path / "w" / "canvas.mp4", "--canvas", "--views", "side,front", *common)
    assert canvas.exit_code == 0, canvas.output
    together = json.loads(canvas.stdout)
    for found in (separate, together):
        assert found["position_error_mm"]["median"] < 1
        assert found["frames"] == 9
    assert separate["rgb"] is None
    assert together["rgb"]["psnr_db"] > 30
    assert together["rgb"]["ssim"] > 0.9
    whole = run("evaluate", tmp_path / "w", "--against", out, "--json", "--no-html", "-j", 1)
    assert json.loads(whole.stdout)["position_error_mm"] == separate["position_error_mm"]
    assert run("evaluate", tmp_path / "w", "--against", out, "--start", 3).exit_code == 2


def test_runs_are_compared_in_pairs(out: Path, dataset: Dataset, predictions: Path, tmp_path: Path) -> None:
    better = write_predictions(
        tmp_path / "better", dataset, windows(dataset)[:3], lambda truth, rng: disturbed(truth, rng, mm=2, flipped=0)
    )
    result = run("evaluate", predictions, better, "--against", out, "--out", tmp_path / "e", "-j", 1, "--json")
    assert result.exit_code == 0, result.output
    rows = {row["figure"]: row for row in json.loads(result.stdout)["differences"][str(better)]}
    assert rows["position_error_mm.median"]["predictions"] == 3
    assert rows["position_error_mm.median"]["difference"] == pytest.approx(-3, abs=0.3)
    assert rows["position_error_mm.median"]["high"] < 0 < rows["gripper.accuracy"]["low"]
    assert {path.name for path in (tmp_path / "e").iterdir()} == {"moved", "better"}
    one = evaluate_run(str(predictions), str(out), with_baselines=False).evaluation
    same = compare([one, one])
    assert all(row.difference == row.low == row.high == 0 for row in same.differences[one.run])


def test_labels_are_scored_with_the_coverage_of_tasks(out: Path, dataset: Dataset, tmp_path: Path) -> None:
    folder = write_predictions(tmp_path / "labels", dataset, windows(dataset)[:1])
    found = evaluate_run(str(folder), str(out), Options(task="labelling")).evaluation
    assert found.coverage["task_0"].model_dump() == {
        "samples": 2, "samples_labelled": 1, "frames": 104, "frames_labelled": 20, "frames_usable": 20,
    }  # fmt: skip
    assert found.coverage["task_1"].samples_labelled == found.coverage["task_1"].frames_labelled == 0


def test_processes_give_what_one_gives(out: Path, predictions: Path) -> None:
    alone = evaluate_run(str(predictions), str(out)).evaluation
    assert evaluate_run(str(predictions), str(out), num_workers=2).evaluation == alone

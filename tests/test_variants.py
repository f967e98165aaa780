"""Action images that are drawn otherwise than published: a data set of them, from its options to training."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from oracles import render_dense
from training_data import SIZE, make_camera, make_dataset, make_trajectory

import actionimg_data as aid
from actionimg_data.cli import main
from actionimg_data.errors import CorruptDatasetError, InvalidSpecError, MissingViewError
from actionimg_data.policy import ActionChunk, Conditioning
from actionimg_data.raster import held_camera, wrist_spec
from actionimg_data.report.pictures import over_camera
from actionimg_data.schemas import ActionImageSpec
from actionimg_data.shards import Window
from actionimg_data.shards.sample import cameras_bytes, check_drawn_K
from actionimg_data.training import ActionImageDataset, DeviceTransform, collate

DRAWING: dict[str, Any] = {"fov_scale": 1.5, "outside": "drop", "ground": "in_view", "pixel_centre": "true"}
FRAMES = (12, 14)
PUBLISHED_ID = "aabda85cc0a9"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("variants"), FRAMES, spec=DRAWING, action_codec="ffv1")[0]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("published"), FRAMES)[0]


def test_what_is_not_changed_is_not_written() -> None:
    """Data sets made before these fields existed keep their ids, and their files their bytes."""
    spec = ActionImageSpec()
    assert spec.id == PUBLISHED_ID
    assert set(spec.model_dump()) == set(json.loads(spec.model_dump_json())) == {
        "height", "width", "sigma", "axis_length", "pedestal", "openness", "openness_threshold", "near",
    }  # fmt: skip
    ids = {spec.id} | {ActionImageSpec(**{name: value}).id for name, value in DRAWING.items()}
    assert len(ids) == 5
    drawn = ActionImageSpec(height=64, width=64, **DRAWING)
    assert ActionImageSpec(**json.loads(drawn.model_dump_json())) == drawn == drawn.resized(9, 9).resized(64, 64)
    for name, value in (("fov_scale", 0), ("outside", "clip"), ("ground", 1), ("pixel_centre", "half")):
        with pytest.raises(InvalidSpecError, match=name):
            ActionImageSpec(**{name: value})


def test_a_data_set_of_them_is_read_decoded_and_verified_by_its_own_spec(dataset: Path) -> None:
    found = aid.open_dataset(dataset)
    sample = found[0]
    assert sample.spec is not None
    assert {name: getattr(sample.spec, name) for name in DRAWING} == DRAWING
    cameras = [make_camera(view, FRAMES[0], SIZE).track(FRAMES[0]) for view in sample.views]
    dense = render_dense(make_trajectory(0, FRAMES[0], 20.0), cameras, sample.spec)
    for view, expected in zip(sample.views, dense, strict=True):
        stored = np.stack(list(sample.action(view, range(FRAMES[0]))))
        assert np.abs(stored - 255 * expected).max() <= 0.51
    with np.load(io.BytesIO(sample.read("cameras.npz"))) as arrays:
        np.testing.assert_allclose(arrays["action_K"][..., :2, :2] * 1.5, arrays["K"][..., :2, :2])
    with pytest.raises(CorruptDatasetError, match="action_K"):
        check_drawn_K(cameras_bytes(sample.cameras, sample.spec.over_camera()), sample.cameras, sample.spec, "here")
    done = CliRunner().invoke(main, ["verify", str(dataset), "--json"])
    report = json.loads(done.stdout)
    assert report["ok"], done.stderr
    assert report["position_error_mm"]["max"] < 1
    assert report["openness_accuracy"] == 1


def test_the_loader_the_device_and_the_oracle_draw_the_same(dataset: Path) -> None:
    common: dict[str, Any] = {"num_frames": 9, "size": SIZE, "views": 3, "view_names": ("front", "side", "wrist")}
    both = collate(list(ActionImageDataset(dataset, action="both", **common)))
    assert (both["action_video"] - both["action_video_rendered"]).abs().max() <= 2.01 / 255
    lean = ActionImageDataset(dataset, action="none", plucker=False, pixels="uint8", **common)
    batch = DeviceTransform(spec=lean.spec)(collate(list(lean)))
    assert (batch["action_video"] - both["action_video_rendered"]).abs().max() <= 1.01 / 255
    # Both cameras are in the sample: the action's sees 1.5 times as much about the same middle.
    K, own = both["intrinsics"], both["action_intrinsics"]
    torch.testing.assert_close(own[..., 0, 0] * 1.5, K[..., 0, 0])
    middle = (K[..., 0, 2] - SIZE / 2) / 1.5 + (SIZE - 1) / 2
    torch.testing.assert_close(own[..., 0, 2], middle)
    torch.testing.assert_close(both["action_extrinsics"], both["extrinsics"])


def test_a_policy_is_given_and_understands_them(dataset: Path) -> None:
    window = aid.open_dataset(dataset)[0]
    spec, views = window.spec, window.views
    assert spec is not None
    pose = window.trajectory.to_action8()[0]
    still = {view: window.cameras[view][0] for view in views}
    black = {view: np.zeros((SIZE, SIZE, 3), np.uint8) for view in views}
    given = Conditioning.from_observation(black, still, pose, "", spec, size=SIZE, num_frames=5)
    stored = np.stack([next(iter(window.action(view, [0]))) for view in views])
    first = given.action_video[:, ::5].movedim(0, -1).numpy()
    assert np.abs(first - (stored / 127.5 - 1)).max() <= 1.01 / 127.5
    videos = {view: np.stack(list(window.action(view, range(FRAMES[0])))) for view in views}
    chunk = ActionChunk.from_videos(videos, window.cameras, spec, fps=20)
    assert np.abs(chunk.poses[:, :3] - window.trajectory.position).max() < 1e-3


def test_an_action_picture_lies_over_the_camera_s() -> None:
    spec = ActionImageSpec(height=96, width=96)
    path, camera = make_trajectory(0, 3, 20.0), make_camera("front", 3, 96)
    plain = aid.render(path, [camera], spec)[0]
    for scale in (0.7, 1.6):
        wide = spec.changed(fov_scale=scale, sigma=spec.sigma / scale)
        for flat, drawn in zip(plain, aid.render(path, [camera], wide)[0], strict=True):
            assert np.abs(over_camera(drawn, wide)[..., :2].astype(int) - flat[..., :2]).mean() < 0.5


# ---- wrist cameras --------------------------------------------------------------------------------------------------


def test_a_wrist_view_is_drawn_into_a_camera_held_where_the_window_begins(published: Path) -> None:
    options: dict[str, Any] = {"num_frames": 6, "size": SIZE, "views": 3, "view_names": ("front", "side", "wrist")}
    data = ActionImageDataset(published, action="rendered", wrist_views="wrist", axes="opencv", **options)
    for sample in data:
        number = int(sample["key"].rpartition("_")[2])
        frames = sample["frame_indices"].numpy()
        path = make_trajectory(number, FRAMES[number], 20.0)[frames]
        place = sample["view_names"].index("wrist")
        moving = make_camera("wrist", FRAMES[number], SIZE).track(FRAMES[number])[frames]
        # By hand: 0.25 m before the gripper, looking as the wrist camera looks at the window's start.
        pose = moving.world_from_camera[0].copy()
        pose[:3, 3] = path.position[0] - 0.25 * pose[:3, 2]
        spec = ActionImageSpec(height=SIZE, width=SIZE, axis_length=0.35 * 0.25)
        dense = render_dense(path, [aid.Camera(moving.K[0], pose, SIZE, SIZE)], spec)[0]
        drawn = sample["action_video"].unflatten(1, (3, 6))[:, place].movedim(0, -1).numpy()
        assert np.abs(drawn - (2 * dense - 1)).max() <= 1.01 / 127.5
        extrinsics = sample["action_extrinsics"].unflatten(0, (3, 6))[place]
        np.testing.assert_allclose(extrinsics.numpy(), np.broadcast_to(pose, (6, 4, 4)), atol=1e-6)
        others = [i for i in range(3) if i != place]
        moved = sample["action_extrinsics"].unflatten(0, (3, 6)) - sample["extrinsics"].unflatten(0, (3, 6))
        assert not moved[others].any()
        assert sample["action_axis_length"].tolist() == pytest.approx([0.0875 if i == place else 0.1 for i in range(3)])
    lean = ActionImageDataset(published, action="none", plucker=False, wrist_views="wrist", axes="opencv", **options)
    device = DeviceTransform(spec=lean.spec, axes="opencv")(collate(list(lean)))
    whole = collate(list(data))
    assert (device["action_video"] - whole["action_video"]).abs().max() <= 1.01 / 255


def test_a_held_camera_far_enough_for_whole_axes_is_decoded_with_the_other_views() -> None:
    path, spec = make_trajectory(1, 12, 20.0), ActionImageSpec(height=128, width=128)
    held = held_camera(make_camera("wrist", 12, 128), {"": path}, 0.3)
    assert wrist_spec(spec, 0.3) == spec
    cameras = [make_camera("front", 12, 128), held]
    found = aid.decode(aid.render(path, cameras, spec), cameras, spec, times=path.times)
    assert found.valid.all()
    assert np.linalg.norm(found.trajectory.position - path.position, axis=-1).max() < 5e-4


def test_of_several_grippers_the_nearest_is_held_and_an_unknown_start_is_passed_over() -> None:
    path = make_trajectory(0, 4, 20.0)
    unknown = np.arange(4) < 2
    late = aid.GripperTrajectory(
        np.where(unknown[:, None], np.nan, path.position),
        np.where(unknown[:, None], np.nan, path.quaternion_xyzw),
        path.openness,
        path.times,
        allow_missing=True,
    )
    away = aid.GripperTrajectory(path.position - [5, 0, 0], path.quaternion_xyzw, path.openness, path.times)
    wrist = make_camera("wrist", 4, SIZE).track(4)
    held = held_camera(wrist, {"left": away, "right": path}, 0.3)
    np.testing.assert_allclose(held.project(path.position[:1])[0][0], [SIZE / 2, SIZE / 2])
    assert np.linalg.norm(held.world_from_camera[:3, 3] - path.position[0]) == pytest.approx(0.3)
    held = held_camera(wrist, {"": late})
    np.testing.assert_array_equal(held.world_from_camera[:3, :3], wrist.world_from_camera[2, :3, :3])
    nothing = late[:2]
    np.testing.assert_array_equal(held_camera(wrist[:2], {"": nothing}).world_from_camera, wrist.world_from_camera[0])
    assert wrist_spec(ActionImageSpec(), 1.0).axis_length == 0.1
    assert wrist_spec(ActionImageSpec(), 0.1).axis_length == pytest.approx(0.035)


def test_a_policy_is_given_the_wrist_view_as_training_draws_it(published: Path) -> None:
    names = ("front", "wrist")
    data = ActionImageDataset(
        published, action="rendered", wrist_views="wrist", num_frames=5, size=SIZE, views=2, view_names=names,
        wrist_distance=0.3,
    )  # fmt: skip
    sample = next(iter(data))
    views, number = sample["view_names"], int(sample["key"].rpartition("_")[2])
    at = int(sample["frame_indices"][0])
    cameras = {view: make_camera(view, FRAMES[number], SIZE).track(FRAMES[number])[at] for view in views}
    black = {view: np.zeros((SIZE, SIZE, 3), np.uint8) for view in views}
    pose = make_trajectory(number, FRAMES[number], 20.0).to_action8()[at]
    given = Conditioning.from_observation(
        black, cameras, pose, "", size=SIZE, num_frames=5, wrist_views=("wrist",), wrist_distance=0.3, others=1
    )
    torch.testing.assert_close(given.action_video[:, ::5], sample["action_video"][:, ::5], atol=1.01 / 127.5, rtol=0)
    assert given.used_mask.shape == (2 * 3 * 5,)
    # What the model makes of it is decoded with the cameras that it was given for.
    videos = {
        view: np.rint((sample["action_video"].unflatten(1, (2, 5))[:, i].movedim(0, -1).numpy() + 1) * 127.5)
        for i, view in enumerate(views)
    }
    chunk = ActionChunk.from_videos({v: p.astype(np.uint8) for v, p in videos.items()}, given.cameras, fps=20)
    truth = make_trajectory(number, FRAMES[number], 20.0).position[at : at + 5]
    assert np.linalg.norm(chunk.poses[:, :3] - truth, axis=-1).max() < 2e-3
    with pytest.raises(MissingViewError, match="hand"):
        Conditioning.from_observation(black, cameras, pose, "", size=SIZE, wrist_views=("hand",))


def test_predictions_of_held_views_and_longer_canvases_are_scored(published: Path, tmp_path: Path) -> None:
    sample = aid.open_dataset(published)[0]
    window = Window.cut(sample, 2, 6, views=("front", "wrist"), held={"wrist": 0.3})
    for view in window.views:
        np.save(tmp_path / f"{view}.npy", window.action(view))
    black = np.zeros((6, SIZE, SIZE, 3), np.uint8)
    canvas = [part for view in window.views for part in (black, black, window.action(view))]
    np.save(tmp_path / "canvas.npy", np.concatenate(canvas))
    row = {"key": sample.key, "start": 2}
    lines: list[dict[str, Any]] = [
        {**row, "views": {view: f"{view}.npy" for view in window.views}, "held": {"wrist": 0.3}},
        {**row, "canvas": "canvas.npy", "views": list(window.views), "others": 1, "held": {"wrist": 0.3}},
        {**row, "views": {view: f"{view}.npy" for view in window.views}, "held": {"wrist": 0.25}},
        {**row, "views": {view: f"{view}.npy" for view in window.views}},
    ]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["evaluate", str(tmp_path), "--against", str(published), "--json", "-j", "1", "--no-baselines"]
    done = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "out"), "--any-rate"])
    assert done.exit_code == 4, done.stderr
    found = json.loads(done.stdout)
    right, through_canvas, plain = found["by_sample"]
    assert right["position_error_mm"]["max"] < 2
    assert right["valid_fraction"] == through_canvas["valid_fraction"] == 1
    assert through_canvas["position_error_mm"] == right["position_error_mm"]
    # Taken for the wrist camera's own, the held camera's picture contradicts the other view.
    assert plain["valid_fraction"] < 1 or plain["position_error_mm"]["median"] > 20
    (failed,) = found["failures"]
    assert "shorter axes" in json.dumps(failed)
    assert (tmp_path / "out" / "evaluation.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"wrist_views": "hand", "action": "rendered"}, "hand"),
        ({"wrist_views": "wrist"}, "rendered"),
        ({"wrist_views": "wrist", "action": "rendered", "wrist_distance": 0}, "wrist_distance"),
    ],
)
def test_bad_wrist_options_are_refused(published: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidSpecError, match=match):
        ActionImageDataset(published, num_frames=5, size=SIZE, **options)

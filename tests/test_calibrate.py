"""Cameras held against pictures: on a drawn demo whose cameras are true, moved by known amounts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from actionimg_data.calibrate import (
    GripperShape,
    Recorded,
    check_episode,
    check_view,
    refine_camera,
    time_offset,
    tool_or_camera,
)
from actionimg_data.calibrate.files import camera_file, with_cameras, write_camera_file
from actionimg_data.calibrate.outline import Hand
from actionimg_data.calibrate.refine import overlay_px
from actionimg_data.cameras.files import load_cameras, load_user_cameras
from actionimg_data.cli import main
from actionimg_data.converters.base import converter_class
from actionimg_data.errors import InvalidCameraError, InvalidSpecError
from actionimg_data.geometry import transforms
from actionimg_data.model import Camera, CameraTrack, Episode, GripperTrajectory, View
from actionimg_data.model.episode import ArrayFrames
from actionimg_data.raster.gripper import GripperModel, gripper_model
from actionimg_data.shards import open_dataset
from actionimg_data.testing import write_rlbench_dataset

SQUARE = np.array([[300.0, 0, 64], [0, 300, 64], [0, 0, 1]])
SHAPE = GripperShape.parametric()
FIXED = ("front", "overhead", "left_shoulder")
CONVERT_WORDS = ["--calibration-gripper", "max_width=0.08"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demos")
    write_rlbench_dataset(folder, 1, 40, 128, (*FIXED, "wrist"))
    return folder


@pytest.fixture(scope="module")
def episode(source: Path) -> Episode:
    """The demo with its pictures in memory."""
    converter = converter_class("rlbench")()
    read = converter.read(next(iter(converter.discover(str(source)))))
    views = {
        n: View(v.camera, ArrayFrames(np.stack(list(v.frames.frames(range(len(read))))))) for n, v in read.views.items()
    }
    return replace(read, views=views)


def truth(episode: Episode, view: str) -> Camera:
    camera = episode.views[view].camera
    assert isinstance(camera, CameraTrack)
    return camera[0]


def moved(
    camera: Camera, metres: tuple[float, float, float] = (0, 0, 0), degrees: tuple[float, float, float] = (0, 0, 0)
) -> Camera:
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    change = np.asarray(transforms.make_transform(turn, np.array(metres)))
    return Camera(camera.K, camera.world_from_camera @ change, camera.width, camera.height)


def with_camera(episode: Episode, view: str, camera: Camera | CameraTrack | None) -> Episode:
    return replace(episode, views={**episode.views, view: replace(episode.views[view], camera=camera)})


# The outline.


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.4, 1.5), st.floats(0, 1))
def test_outline_points_are_points_of_the_gripper_and_lie_on_the_edge_of_its_mask(
    seed: int, distance: float, openness: float
) -> None:
    rng = np.random.default_rng(seed)
    pose = np.asarray(
        transforms.make_transform(Rotation.random(random_state=rng).as_matrix(), np.array([0.02, -0.03, distance]))
    )
    K = np.array([[220.0, 0, 100], [0, 220, 90], [0, 0, 1]])
    outline = SHAPE.hand.outline(pose, K, openness)
    assert outline is not None
    points = transforms.apply(pose, outline.local)
    again = (points @ K.T)[:, :2] / points[:, 2:]
    assert np.abs(again - outline.uv).max() < 0.5
    assert np.abs(np.linalg.norm(outline.normal, axis=1) - 1).max() < 1e-9
    mask = SHAPE.hand.mask(pose, K, openness, 180, 200)
    inside = np.clip((outline.uv - 1.5 * outline.normal).astype(int), 0, [199, 179])
    outside = np.clip((outline.uv + 1.5 * outline.normal).astype(int), 0, [199, 179])
    assert mask[inside[:, 1], inside[:, 0]].mean() > 0.9
    # A step out of one finger may be one into the other: of 750 poses the most was 0.23, the median 0.
    assert mask[outside[:, 1], outside[:, 0]].mean() < 0.35


def test_the_outline_of_a_box_is_its_projection_to_a_tenth_of_a_pixel() -> None:
    box = GripperModel.from_trimesh(trimesh.creation.box((0.1, 0.06, 0.02)))
    turned = np.diag([1.0, -1.0, -1.0])
    outline = Hand(box).outline(transforms.make_transform(turned, np.array([0, 0, 1.0])), SQUARE, 0)
    assert outline is not None
    half = np.array([0.05, 0.03]) * 300 / 0.99
    # Distance to the rectangle of the near face, away from its corners.
    local = np.abs(outline.uv - 64)
    middle = (np.abs(local - half) > 3).any(1)
    away = np.abs(local - half).min(1)[middle]
    assert away.max() < 0.15
    assert away.mean() < 0.08


def test_fine_meshes_are_clustered_and_keep_their_outline() -> None:
    fine = GripperModel.from_trimesh(trimesh.creation.icosphere(5, 0.05))
    hand = Hand(fine)
    assert len(fine.faces) > 20000 > 4000 >= len(hand.faces)
    outline = hand.outline(transforms.make_transform(np.eye(3), np.array([0, 0, 1.0])), SQUARE, 0)
    assert outline is not None
    assert np.abs(np.linalg.norm(outline.uv - 64, axis=1) - 15.02).max() < 0.4


# Check.


def test_true_cameras_are_ok_and_a_moving_one_cannot_be_told(episode: Episode) -> None:
    found = check_episode(episode, SHAPE)
    assert {n: c.verdict for n, c in found.items()} == {**dict.fromkeys(FIXED, "ok"), "wrist": "cannot tell"}
    assert "moves" in found["wrist"].reason
    assert found["front"].model == "parametric"
    said = check_view(episode.views["front"], episode.grippers, GripperShape.parametric(finger_length=0.055))
    assert (said.verdict, said.model) == ("ok", "parametric (finger_length=0.055)")
    json.dumps([c.to_json() for c in found.values()], allow_nan=False)


@pytest.mark.parametrize("view", FIXED)
@pytest.mark.parametrize("change", [{"metres": (0.02, 0.01, 0)}, {"degrees": (0, 1.0, 0)}, {"degrees": (-2.0, 0, 1.0)}])
def test_a_camera_that_is_off_is_found_and_by_how_much(episode: Episode, view: str, change: dict[str, Any]) -> None:
    camera = moved(truth(episode, view), **change)
    found = check_view(replace(episode.views[view], camera=camera), episode.grippers, SHAPE)
    assert found.verdict == "off"
    frames = list(found.frames)
    points = transforms.apply(episode.trajectory.world_from_gripper[frames], SHAPE.hand.centre[None])[:, 0]
    true = (truth(episode, view).project(points)[0] - camera.project(points)[0]).mean(0)
    assert found.shift_px is not None
    assert found.interval_px is not None
    assert np.linalg.norm(found.shift_px - true) < found.interval_px + 0.3


def test_an_empty_room_a_gripper_out_of_view_and_a_wrong_model_cannot_be_told(episode: Episode) -> None:
    view = episode.views["front"]
    still = np.repeat(next(iter(view.frames.frames([0])))[None], len(episode), axis=0)
    empty = check_view(View(view.camera, ArrayFrames(still)), episode.grippers, SHAPE)
    assert (empty.verdict, "nothing moves" in empty.reason) == ("cannot tell", True)
    away = check_view(
        replace(view, camera=moved(truth(episode, "front"), degrees=(0, 170, 0))), episode.grippers, SHAPE
    )
    assert (away.verdict, "never in the picture" in away.reason) == ("cannot tell", True)
    plank = GripperModel.from_trimesh(trimesh.creation.box((0.02, 0.5, 0.02)))
    wrong = check_view(view, episode.grippers, GripperShape.from_model(plank, "a plank"))
    assert wrong.verdict == "cannot tell"
    none = check_view(replace(view, camera=None), episode.grippers, SHAPE)
    assert (none.verdict, none.reason) == ("cannot tell", "the view has no camera")
    short = check_view(View(view.camera, ArrayFrames(still[:3])), {"": episode.trajectory[slice(0, 3)]}, SHAPE)
    assert (short.verdict, "3 frames" in short.reason) == ("cannot tell", True)


def test_noise_alone_is_never_called_ok_or_off(episode: Episode) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (len(episode), 128, 128, 3), dtype=np.uint8)
    found = check_view(View(truth(episode, "front"), ArrayFrames(noise)), episode.grippers, SHAPE)
    assert found.verdict == "cannot tell"


def test_motion_blur_widens_or_keeps_the_answer(episode: Episode) -> None:
    frames = episode.views["front"].frames
    pictures = np.stack(list(frames.frames(range(len(episode))))).astype(np.float32)
    blurred = ((np.roll(pictures, 1, 0) + pictures + np.roll(pictures, -1, 0)) / 3).astype(np.uint8)
    found = check_view(View(truth(episode, "front"), ArrayFrames(blurred)), episode.grippers, SHAPE)
    assert found.verdict != "off"


def test_two_grippers_are_looked_for_together(episode: Episode) -> None:
    pair = replace(episode, trajectory=None, grippers={"left": episode.trajectory, "right": episode.trajectory})  # type: ignore[call-arg]
    assert check_episode(pair, SHAPE, views=["front"])["front"].verdict == "ok"


@pytest.mark.realdata
def test_real_demos_have_true_cameras_and_a_moved_one_is_found(sample_data: Path) -> None:
    converter = converter_class("rlbench")()
    refs = {ref.id: ref for ref in converter.discover(str(sample_data / "rlbench"))}
    real = converter.read(refs["open_drawer/all_variations/episode5"])
    found = check_episode(real, views=["front", "overhead"])
    assert {c.verdict for c in found.values()} == {"ok"}
    wrong = with_camera(real, "front", moved(truth(real, "front"), metres=(0.02, 0, 0)))
    assert check_episode(wrong, views=["front"])["front"].verdict == "off"


# Refine.


def test_a_camera_three_centimetres_and_three_degrees_off_is_refined_and_a_true_one_left_alone(
    episode: Episode,
) -> None:
    true = truth(episode, "front")
    wrong = moved(true, (0.02, -0.02, 0.01), (2.0, -2.0, 1.0))
    recorded = [Recorded(episode.id, replace(episode.views["front"], camera=wrong), episode.grippers)]
    fit = refine_camera("front", recorded, SHAPE, keep=True)
    assert fit.accepted
    before, after = (overlay_px(fit.evidence, p, true.world_from_camera) for p in (fit.recorded, fit.refined))
    assert before > 5
    assert after < 1
    assert fit.overlay_px is not None
    assert after < 2 * fit.overlay_px
    assert fit.position_mm is not None
    assert np.linalg.norm(fit.refined[:3, 3] - true.world_from_camera[:3, 3]) * 1e3 < 2 * fit.position_mm
    kept = refine_camera("front", [Recorded(episode.id, episode.views["front"], episode.grippers)], SHAPE)
    assert not kept.accepted
    assert np.array_equal(kept.refined, true.world_from_camera)
    assert kept.position_mm is None


def test_masks_of_the_true_mesh_give_a_tenth_of_a_pixel(episode: Episode) -> None:
    true = truth(episode, "front")
    inverse = np.asarray(transforms.invert(true.world_from_camera))
    t = episode.trajectory
    masks = np.stack(
        [
            SHAPE.hand.mask(inverse @ w, true.K, float(o), 128, 128)
            for w, o in zip(t.world_from_gripper, t.openness, strict=True)
        ]
    ).astype(np.uint32)
    wrong = moved(true, (0.02, -0.02, 0.01), (2.0, -2.0, 1.0))
    view = replace(episode.views["front"], camera=wrong, mask=ArrayFrames(7 * masks))
    exact = replace(SHAPE, error_m=1e-4)
    fit = refine_camera("front", [Recorded(episode.id, view, episode.grippers, (7,))], exact, keep=True)
    assert fit.accepted
    assert fit.masks
    assert overlay_px(fit.evidence, fit.refined, true.world_from_camera) < 0.2


def test_what_cannot_be_refined_is_refused_with_the_reason(episode: Episode) -> None:
    wrist = refine_camera("wrist", [Recorded(episode.id, episode.views["wrist"], episode.grippers)], SHAPE)
    assert (wrist.accepted, "moves" in wrist.reason) == (False, True)
    rng = np.random.default_rng(0)
    noise = ArrayFrames(rng.integers(0, 256, (len(episode), 128, 128, 3), dtype=np.uint8))
    wrong = moved(truth(episode, "front"), (0.02, 0, 0), (2, 0, 0))
    blind = refine_camera("front", [Recorded(episode.id, View(wrong, noise), episode.grippers)], SHAPE)
    assert not blind.accepted
    assert "cameras" not in camera_file([blind, wrist])


def test_refined_cameras_are_read_by_every_reader_of_camera_files(episode: Episode, tmp_path: Path) -> None:
    wrong = moved(truth(episode, "front"), (0.02, -0.02, 0.01), (2.0, -2.0, 1.0))
    fit = refine_camera(
        "front", [Recorded("a/b0", replace(episode.views["front"], camera=wrong), episode.grippers)], SHAPE
    )
    write_camera_file(tmp_path / "cameras.json", [fit])
    written = json.loads((tmp_path / "cameras.json").read_text())
    assert written["refinement"][0]["overlay_error_px"] > 0
    (camera,) = load_cameras(tmp_path / "cameras.json").values()
    np.testing.assert_allclose(camera.world_from_camera, fit.refined)
    other = replace(fit, episodes=("a/b1",))
    write_camera_file(tmp_path / "two.json", [fit, other])
    assert set(json.loads((tmp_path / "two.json").read_text())["episodes"]) == {"a/b0", "a/b1"}
    again = with_cameras(replace(episode, id="a/b1"), load_user_cameras(tmp_path / "two.json"))
    laid = again.views["front"].camera
    assert isinstance(laid, Camera)
    np.testing.assert_allclose(laid.world_from_camera, fit.refined)


def test_a_camera_file_for_other_pictures_is_refused(episode: Episode, tmp_path: Path) -> None:
    entry = {
        "K": [[300, 0, 320], [0, 300, 180], [0, 0, 1]],
        "width": 640,
        "height": 360,
        "world_from_camera": np.eye(4).tolist(),
    }
    (tmp_path / "other.json").write_text(json.dumps({"cameras": {"front": entry}}))
    with pytest.raises(InvalidCameraError, match="aspect"):
        with_cameras(episode, load_user_cameras(tmp_path / "other.json"))


# Tool or camera.


def test_a_wrong_tool_is_told_from_a_wrong_camera(episode: Episode) -> None:
    two = episode.with_views(["front", "overhead"])
    change = np.eye(4)
    change[:3, 3] = [0.004, 0.008, -0.006]
    t = episode.trajectory
    poses = GripperTrajectory.from_transforms(t.world_from_gripper @ change, t.openness, t.times)
    tool = tool_or_camera(replace(two, grippers={"": poses}), SHAPE)
    assert tool.blame == "tool"
    assert tool.gripper_from_true is not None
    assert tool.interval_mm is not None
    assert (1e3 * np.abs(tool.gripper_from_true[:3, 3] + change[:3, 3]) < 1.5 * tool.interval_mm).all()
    camera = tool_or_camera(with_camera(two, "front", moved(truth(episode, "front"), degrees=(0, 2, 0))), SHAPE)
    assert (camera.blame, camera.cameras) == ("camera", ("front",))
    assert tool_or_camera(two, SHAPE).blame == "none"


# Time.


def test_without_motion_or_a_fixed_camera_no_offset_is_told(episode: Episode) -> None:
    wrist = time_offset([episode.with_views(["wrist"])], SHAPE)
    assert (wrist.offset_s, wrist.reason) == (None, "no camera stands still")
    short = time_offset([episode], SHAPE, max_offset_s=5.0)
    assert (short.offset_s, "inside the episode" in short.reason) == (None, True)


# The gripper to look for.


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["fingers=0.1"], "gripper"),
        (["max_width"], "gripper"),
        (["max_width=wide"], "gripper"),
        (["hand_size=1"], "gripper"),
        (["model_error=much"], "model_error"),
        (["link=hand"], "link"),
    ],
)
def test_words_that_are_no_gripper_are_refused(words: list[str], field: str) -> None:
    with pytest.raises(InvalidSpecError) as caught:
        GripperShape.from_words(words)
    assert caught.value.field == field


def test_a_mesh_file_is_a_gripper(tmp_path: Path) -> None:
    gripper_model().mesh(1.0).export(tmp_path / "hand.stl")
    shape = GripperShape.from_words([f"mesh={tmp_path / 'hand.stl'}", "model_error=2"])
    assert (shape.name, shape.error_m) == ("mesh hand.stl", 0.002)


# The commands.


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(w) for w in words])
    return result.exit_code, result.stdout, result.stderr


def test_check_prints_verdicts_and_writes_pictures(source: Path, tmp_path: Path) -> None:
    code, text, _ = run("calibrate", "check", source, "--out", tmp_path / "look", "--json", "--views", "front,wrist")
    found = json.loads(text)
    assert code == 0
    assert {c["view"]: c["verdict"] for c in found["checks"]} == {"front": "ok", "wrist": "cannot tell"}
    assert [Path(p).is_file() for p in found["pictures"]] == [True]


def test_refine_and_check_again_and_nothing_is_written_where_nothing_is_refined(
    source: Path, episode: Episode, tmp_path: Path
) -> None:
    wrong = moved(truth(episode, "front"), (0.02, -0.02, 0.01), (2.0, -2.0, 1.0))
    entry = {"K": wrong.K.tolist(), "width": 128, "height": 128, "world_from_camera": wrong.world_from_camera.tolist()}
    (tmp_path / "wrong.json").write_text(json.dumps({"cameras": {"front": entry}}))
    given = (source, "--views", "front", "--cameras")
    code, text, _ = run("calibrate", "check", *given, tmp_path / "wrong.json")
    assert (code, "off" in text) == (3, True)
    code, text, _ = run(
        "calibrate", "refine", *given, tmp_path / "wrong.json", "--out", tmp_path / "mended.json", "--pool"
    )
    assert (code, "refined" in text) == (0, True)
    assert run("calibrate", "check", *given, tmp_path / "mended.json")[0] == 0
    out = ("--size", 64, "-j", 1, "--views", "front", "--action-codec", "none")
    assert (
        run("convert", "rlbench", source, tmp_path / "out", *out, "--refined-cameras", tmp_path / "mended.json")[0] == 0
    )
    stored = open_dataset(tmp_path / "out")[0].cameras["front"].world_from_camera[0]
    mended = json.loads((tmp_path / "mended.json").read_text())["cameras"]["front"]["world_from_camera"]
    np.testing.assert_allclose(stored, mended, atol=1e-6)
    code, _, error = run("calibrate", "refine", source, "--views", "wrist", "--out", tmp_path / "none.json")
    assert (code, (tmp_path / "none.json").exists()) == (3, False)
    assert "no camera was refined" in error


def test_time_says_why_it_cannot_tell(source: Path) -> None:
    code, text, _ = run("calibrate", "time", source, "--views", "wrist")
    assert (code, text.strip()) == (0, "cannot tell: no camera stands still")


def test_convert_stores_verdicts_quarantines_and_is_unchanged_without(source: Path, tmp_path: Path) -> None:
    base = ("convert", "rlbench", source)
    options = ("--size", 64, "-j", 1, "--views", "front", "--action-codec", "none")
    assert run(*base, tmp_path / "plain", *options)[0] == 0
    assert "check_calibration" not in (tmp_path / "plain" / "dataset.json").read_text()
    assert "calibration" not in open_dataset(tmp_path / "plain").table.column_names
    assert run(*base, tmp_path / "warn", *options, "--check-calibration", "warn", *CONVERT_WORDS)[0] == 0
    data = open_dataset(tmp_path / "warn")
    (row,) = data[0].meta.calibration
    assert (row.view, row.verdict) == ("front", "ok")
    assert data.table["calibration"].to_pylist()[0][0]["verdict"] == "ok"
    assert run("verify", tmp_path / "warn")[0] == 0
    # A gripper whose fingers end elsewhere makes every camera look wrong.
    strict = (
        "--check-calibration",
        "quarantine",
        "--calibration-gripper",
        "fingertip_reach=0.03",
        "--max-bad-fraction",
        1,
    )
    run(*base, tmp_path / "strict", *options, *strict)
    rows = [json.loads(line) for line in (tmp_path / "strict" / "quarantine.jsonl").read_text().splitlines()]
    assert [r["code"] for r in rows] == ["calibration-off"]
    code, _, error = run(*base, tmp_path / "bad", *options, *CONVERT_WORDS)
    assert (code, "check_calibration" in error) == (2, True)


def test_exchanged_cameras_and_an_inverted_gripper_are_named(episode: Episode, source: Path, tmp_path: Path) -> None:
    from actionimg_data.calibrate import polarity, swapped_cameras

    poses = {name: truth(episode, name).world_from_camera for name in FIXED}
    still = episode.with_views(FIXED)
    sound = check_episode(still, SHAPE, keep=True)
    assert swapped_cameras(still, SHAPE, sound) == []
    assert polarity(sound, poses).verdict == "as said"
    front, overhead = still.views["front"], still.views["overhead"]
    views = {
        **still.views,
        "front": replace(front, camera=overhead.camera),
        "overhead": replace(overhead, camera=front.camera),
    }
    mixed = replace(still, views=views)
    assert swapped_cameras(mixed, SHAPE, check_episode(mixed, SHAPE)) == [("front", "overhead")]
    t = still.trajectory
    shut = GripperTrajectory(t.position, t.quaternion_xyzw, 1 - t.openness, t.times)
    found = polarity(check_episode(replace(still, grippers={"": shut}), SHAPE, keep=True), poses)
    assert found.verdict == "inverted", found
    assert found.to_json()["sights"] >= 6
    few = polarity({}, poses)
    assert few.verdict == "cannot tell"

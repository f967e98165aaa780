"""Several grippers: from an episode through shards, verify and training; separate and merged pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import decoder_scenes as scenes
import numpy as np
import prove_arms
import pytest
import torch
from arms_data import arm, camera, make_dataset
from click.testing import CliRunner

import actionimg_data as aid
from actionimg_data import open_dataset
from actionimg_data.cli import main
from actionimg_data.decode.torch_arms import decode_arms
from actionimg_data.engine.verification import record, verify
from actionimg_data.errors import DecodeError, InvalidSpecError, UnsupportedSourceError, WrongFormatError
from actionimg_data.model.files import read_trajectory
from actionimg_data.raster import merge, overlapping, project_keypoints, render_merged, render_view, separate_blobs
from actionimg_data.schemas import ActionImageSpec
from actionimg_data.training import DeviceTransform, IndexedActionImageDataset, collate, modes
from actionimg_data.video import action_encoding, encode_bytes

SPEC = ActionImageSpec(height=128, width=128)


@pytest.fixture(scope="module")
def separate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("separate"), [9, 11])[0]


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("merged"), [9, 11], merge_arms=True)[0]


# Shards.


def test_each_gripper_has_its_trajectory_and_its_action_video(separate: Path) -> None:
    data = open_dataset(separate)
    assert data.manifest is not None
    assert data.manifest.grippers == ("right", "left")
    assert data.table["grippers"].to_pylist() == [["right", "left"]] * 2
    sample = data[0]
    assert sample.members == (
        "json",
        "trajectory.right.npz",
        "trajectory.left.npz",
        "cameras.npz",
        "front.rgb.mp4",
        "front.action.right.mkv",
        "front.action.left.mkv",
        "side.rgb.mp4",
        "side.action.right.mkv",
        "side.action.left.mkv",
    )
    assert sample.gripper_names == sample.action_names == ("right", "left")
    for name, side in (("right", -1), ("left", 1)):
        truth = arm(side, 9)
        np.testing.assert_array_equal(sample.grippers[name].position, truth.position)
        shown = camera("front").resized(128, 128)
        np.testing.assert_array_equal(sample.action("front", gripper=name), render_view(truth, shown, SPEC))
    with pytest.raises(WrongFormatError, match="several grippers"):
        _ = sample.trajectory
    with pytest.raises(WrongFormatError, match=r"name one.*right left"):
        sample.action("front")
    with pytest.raises(WrongFormatError, match=r"no such gripper.*right left.*middle"):
        sample.action("front", gripper="middle")


def test_a_data_set_of_several_grippers_verifies_and_its_errors_are_recorded(separate: Path) -> None:
    report = verify(separate)
    summary = report.summary()
    assert summary["ok"], summary["failures"]
    assert summary["frames"] == 20
    assert summary["decoded_frames"] == 40
    assert summary["merged_arms"] is False
    assert set(summary["grippers"]) == {"right", "left"}
    for found in summary["grippers"].values():
        assert found["decoded_frames"] == 20
        assert found["openness_accuracy"] == 1
        assert found["position_error_mm"]["max"] < 0.05
    record(separate, report)
    table = open_dataset(separate).table
    assert max(table["decode_position_p95_mm"].to_pylist()) < 0.05
    assert verify(separate, quick=True).ok


def test_samples_that_are_drawn_on_load_show_the_named_gripper(tmp_path: Path) -> None:
    out, _ = make_dataset(tmp_path, [5], action_codec="none")
    sample = open_dataset(out)[0]
    shown = camera("side").resized(128, 128)
    np.testing.assert_array_equal(sample.action("side", [4, 1], "left"), render_view(arm(1, 5), shown, SPEC)[[4, 1]])
    assert verify(out).ok


@pytest.mark.parametrize(
    ("bad", "code", "words"),
    [
        ("one-arm", "invalid-trajectory", ("grippers", "expected right left", "found left")),
        ("no-poses", "invalid-trajectory", ("grippers.left", "has no poses")),
    ],
)
def test_an_episode_that_lacks_an_arm_is_quarantined_by_name(
    tmp_path: Path, bad: str, code: str, words: tuple[str, ...]
) -> None:
    out, manifest = make_dataset(tmp_path, [5, 5, 5], {"bad": {"1": bad}})
    assert manifest.counts is not None
    assert manifest.counts.quarantine_codes == {code: 1}
    text = (out / "quarantine.jsonl").read_text()
    assert all(word in text for word in words), text
    assert verify(out).ok


# One picture.


def test_a_merged_picture_is_the_clipped_sum() -> None:
    arms = {"right": arm(-1, 7), "left": arm(1, 7)}
    shown = camera("side").resized(128, 128)
    drawn = [render_view(a, shown, SPEC).astype(int) for a in arms.values()]
    both = render_merged(arms, shown, SPEC)
    np.testing.assert_array_equal(both, np.minimum(drawn[0] + drawn[1], 255))
    np.testing.assert_array_equal(render_merged(arms, shown, SPEC, slice(2, 5)), both[2:5])
    three = merge([both, both, both])
    np.testing.assert_array_equal(three, np.minimum(3 * both.astype(int), 255))


def test_blobs_of_one_channel_overlap_where_their_centres_are_near() -> None:
    """Against a plain loop over pairs of keypoints."""
    arms = {"right": arm(-1, 12, closest=0.03), "left": arm(1, 12, closest=0.03)}
    cameras = {name: camera(name).resized(128, 128) for name in ("front", "side")}
    apart = separate_blobs(arms, cameras, SPEC)
    assert apart.shape == (2, 2, 12, 3)
    (right, _), (left, _) = (project_keypoints(a, cameras, SPEC) for a in arms.values())
    for v in range(2):
        for t in range(12):
            for k in range(3):
                far = np.linalg.norm(right[v, t, k] - left[v, t, k]) >= 4 * SPEC.sigma_px
                assert apart[0, v, t, k] == apart[1, v, t, k] == far
    np.testing.assert_array_equal(overlapping(arms, cameras, SPEC), ~apart.all(axis=(0, -1)))
    assert 0 < (~apart).sum() < apart.size


def test_a_merged_data_set_is_decoded_where_blobs_are_apart(merged: Path) -> None:
    sample = open_dataset(merged)[0]
    assert sample.action_names == ("",)
    assert "front.action.mkv" in sample.members
    assert sample.meta.merged_arms
    both = {name: sample.grippers[name] for name in ("right", "left")}
    np.testing.assert_array_equal(sample.action("front"), render_merged(both, sample.cameras["front"], SPEC))
    with pytest.raises(WrongFormatError, match="all grippers together"):
        sample.action("front", gripper="left")
    summary = verify(merged).summary()
    assert summary["ok"], summary["failures"]
    assert summary["merged_arms"] is True
    assert summary["openness_accuracy"] == 1
    for found in summary["grippers"].values():
        assert found["decoded_frames"] + found["undecodable_frames"] == 20
        assert found["decoded_frames"] >= 15
        assert found["position_error_mm"]["p95"] < 0.05


@pytest.mark.parametrize(("size", "closest"), [(64, 0.16), (64, 0.0), (256, 0.05)])
def test_a_decoder_that_knows_no_arm_says_so_and_is_never_silently_wrong(closest: float, size: int) -> None:
    spec = ActionImageSpec(height=size, width=size)
    arms = {"right": arm(-1, 15, closest=closest), "left": arm(1, 15, closest=closest)}
    cameras = [camera(name).resized(size, size) for name in ("front", "side", "top")]
    decoded = aid.decode(np.stack([render_merged(arms, one, spec) for one in cameras]), cameras, spec)
    assert not decoded.valid.any()
    assert (decoded.reason == "several-grippers").sum() > 10
    alone = aid.decode(aid.render(arms["left"], cameras, spec), cameras, spec)
    assert alone.valid.all()


def test_one_stray_blob_is_not_a_second_gripper() -> None:
    path = arm(1, 6)
    cameras = [camera(name).resized(128, 128) for name in ("front", "side")]
    videos = aid.render(path, cameras, SPEC).copy()
    y, x = np.mgrid[:128, :128]
    stray = 255 * np.exp(-((x - 20) ** 2 + (y - 100) ** 2) / (2 * SPEC.sigma_px**2))
    videos[0, ..., 1] = np.maximum(videos[0, ..., 1], (0.9 * stray).astype(np.uint8))
    decoded = aid.decode(videos, cameras, SPEC)
    assert decoded.valid.all()
    assert np.abs(decoded.trajectory.position - path.position).max() < 1e-3


@pytest.mark.parametrize("codec", ["ffv1", "h264"])
def test_overlapping_blobs_are_reported_and_not_silently_wrong(tmp_path: Path, codec: str) -> None:
    out, _ = make_dataset(tmp_path, [24], {"closest": 0.0}, merge_arms=True, action_codec=codec)
    sample = open_dataset(out)[0]
    cameras = sample.cameras
    expected = [tuple(np.flatnonzero(view)) for view in overlapping(sample.grippers, cameras, SPEC)]
    assert [tuple(view) for view in sample.meta.overlapping_frames] == expected
    assert all(0 < len(view) < 24 for view in expected)
    summary = verify(out).summary()
    assert summary["ok"], summary["failures"]
    for found in summary["grippers"].values():
        assert found["overlapping_frames"] > 0
        assert found["undecodable_frames"] >= found["overlapping_frames"]
        # What is left is as good as ever.
        assert found["position_error_mm"]["max"] < (0.1 if codec == "ffv1" else 4)
        assert found["openness_accuracy"] == 1
    table = open_dataset(out).table
    record(out, verify(out))
    table = open_dataset(out).table
    assert table["undecodable_frames"].to_pylist()[0] == summary["undecodable_frames"]


def test_overlaps_that_a_sample_does_not_own_up_to_are_found(tmp_path: Path) -> None:
    from actionimg_data.schemas import SampleMeta
    from actionimg_data.shards.read import Sample
    from actionimg_data.shards.verify import check_sample

    out, manifest = make_dataset(tmp_path, [12], {"closest": 0.0}, merge_arms=True)
    from actionimg_data.shards.manifest import read_sidecar

    sidecar = read_sidecar(out, "train/000000")
    assert sidecar is not None
    sample = open_dataset(out)[0]
    check_sample(sample, sidecar.samples[0], manifest)
    fields = sample.meta.model_dump()
    lying = SampleMeta.model_validate({**fields, "overlapping_frames": ((), ())})

    class Lying(Sample):
        meta = lying

    other = Lying(sample.key, sample._tar, sample._members, sample.spec)
    with pytest.raises(Exception, match="overlapping_frames"):
        check_sample(other, sidecar.samples[0], manifest)


def test_one_gripper_cannot_be_merged(tmp_path: Path) -> None:
    from synthetic_converter import SyntheticConverter, write_source

    from actionimg_data.engine.conversion import convert
    from actionimg_data.schemas import ConvertOptions

    source = write_source(tmp_path / "source", episodes=1)
    options = ConvertOptions.parse(height=64, width=64, merge_arms=True)
    with pytest.raises(InvalidSpecError, match="nothing to merge"):
        convert(SyntheticConverter(), source, tmp_path / "out", options)
    with pytest.raises(InvalidSpecError, match="merge"):
        ConvertOptions.parse(height=64, width=64, merge_arms=True, action_codec="none")


# Training.


def table(path: Path, **options: Any) -> IndexedActionImageDataset:
    return IndexedActionImageDataset(path, **{"num_frames": 7, "size": 128, "pixels": "uint8", **options})


def sample_of(data: IndexedActionImageDataset) -> dict[str, Any]:
    return data.sample(0, start=1, views=("side", "front"), mode="labelling")


def test_separate_grippers_are_segments_of_the_action_video(separate: Path) -> None:
    found = sample_of(table(separate, action="both", plucker=False))
    stored = open_dataset(separate)[0]
    assert found["grippers"] == ("right", "left")
    assert found["action_7d"].shape == (2, 7, 7)
    assert found["action_8d"].shape == (2, 7, 8)
    assert found["gripper_valid"].shape == (2, 7)
    assert found["valid"].all()
    np.testing.assert_allclose(found["action_8d"][1, :, :3], stored.grippers["left"].position[1:8], atol=1e-6)
    assert found["video"].shape == (3, 14, 128, 128)
    assert found["action_video"].shape == (3, 28, 128, 128)
    segments = [stored.action(view, slice(1, 8), name) for view in ("side", "front") for name in ("right", "left")]
    expected = np.moveaxis(np.concatenate(segments), -1, 0)
    np.testing.assert_array_equal(found["action_video"].numpy(), expected)
    np.testing.assert_array_equal(found["action_video_rendered"].numpy(), expected)
    # [video | right | left] of each view.
    masks = found["condition_mask"].reshape(2, 3, 7)
    assert masks[:, 0].all()
    assert masks[:, 1:, 0].all()
    assert not masks[:, 1:, 1:].any()
    assert found["used_mask_latent"].shape == (2 * 3 * 2,)


def test_merged_grippers_are_one_segment_as_of_one_arm(separate: Path, merged: Path) -> None:
    stored = open_dataset(merged)[0]
    expected = np.moveaxis(np.concatenate([stored.action(view, slice(1, 8)) for view in ("side", "front")]), -1, 0)
    for path, options in ((merged, {}), (separate, {"arms": "merged"})):
        found = sample_of(table(path, action="both", plucker=False, **options))
        assert found["action_7d"].shape == (2, 7, 7)
        np.testing.assert_array_equal(found["action_video"].numpy(), expected)
        np.testing.assert_array_equal(found["action_video_rendered"].numpy(), expected)
        assert found["condition_mask"].shape == (2 * 2 * 7,)
    apart = sample_of(table(merged, arms="separate", action="rendered", plucker=False))
    assert apart["action_video"].shape == (3, 28, 128, 128)
    with pytest.raises(InvalidSpecError, match="all grippers together"):
        table(merged, arms="separate")


@pytest.mark.parametrize("arms", ["separate", "merged"])
def test_the_device_draws_what_the_loader_would(separate: Path, arms: str) -> None:
    data = table(separate, arms=arms, action="rendered", plucker=False, pixels="float32")
    batch = collate([data.sample(0, start=0), data.sample(1, start=2)])
    drawn = DeviceTransform(spec=data.spec, plucker=False)(dict(batch))["action_video"]
    assert drawn.shape == batch["action_video"].shape
    assert float((drawn - batch["action_video"]).abs().max()) < 3 / 255
    assert batch["action_8d"].shape == (2, 2, 7, 8)
    assert isinstance(drawn, torch.Tensor)


def test_one_arm_and_two_are_not_mixed_into_one_batch(separate: Path, tmp_path: Path) -> None:
    from training_data import make_dataset as make_one

    from actionimg_data.training import ConcatActionImageDataset

    one, _ = make_one(tmp_path, [9, 9])
    with pytest.raises(InvalidSpecError, match="other grippers"):
        ConcatActionImageDataset({str(one): 0.5, str(separate): 0.5}, num_frames=5, size=64, allow_different_rates=True)


def test_masks_of_tasks_hold_every_action_segment() -> None:
    for mode in modes.MODES:
        one, two = modes.task(mode, 9, 2), modes.task(mode, 9, 2, actions=3)
        for name, length in (("used", 9), ("given", 9), ("used_latent", 3), ("given_latent", 3)):
            a = getattr(one, name).reshape(2, 2, length)
            b = getattr(two, name).reshape(2, 4, length)
            np.testing.assert_array_equal(b[:, 0], a[:, 0])
            for segment in (1, 2, 3):
                np.testing.assert_array_equal(b[:, segment], a[:, 1])
    with pytest.raises(InvalidSpecError, match="actions"):
        modes.task("joint", 9, 2, actions=0)


# Decoding videos by hand.


def extracted(path: Path, folder: Path) -> list[Path]:
    sample = open_dataset(path)[0]
    folder.mkdir()
    files = []
    for member in sample.members:
        if ".action." in member:
            files.append(folder / f"{sample.key}.{member}")
            files[-1].write_bytes(sample.read(member))
    return files


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(word) for word in words])
    return result.exit_code, result.output


def test_videos_of_several_grippers_decode_to_one_file_each(separate: Path, tmp_path: Path) -> None:
    files = extracted(separate, tmp_path / "videos")
    code, output = run("decode", *files, "--cameras", separate, "--out", tmp_path / "t.csv", "--json")
    assert code == 0, output
    summary = json.loads(output)
    assert set(summary) == {"right", "left"}
    stored = open_dataset(separate)[0]
    for name in ("right", "left"):
        assert summary[name]["valid"] == 9
        found = read_trajectory(tmp_path / f"t.{name}.csv")
        assert np.abs(found.position - stored.grippers[name].position).max() < 1e-4
    one = [file for file in files if ".left." in file.name]
    code, output = run("decode", *one, "--cameras", separate, "--out", tmp_path / "one.csv")
    assert code == 0, output
    assert (tmp_path / "one.csv").is_file()
    named = [f"{file.name.split('.')[1]}.{file.name.split('.')[3]}={file}" for file in files]
    code, output = run("decode", *named, "--cameras", separate, "--out", tmp_path / "named.npz")
    assert code == 0, output
    assert (tmp_path / "named.right.npz").is_file()
    mixed = [files[0], f"side={files[3]}"]
    code, output = run("decode", *mixed, "--cameras", separate, "--out", tmp_path / "mixed.csv")
    assert code == 1
    assert "some videos name their gripper" in output


def test_one_video_may_hold_the_segments_of_several_grippers(separate: Path, tmp_path: Path) -> None:
    stored = open_dataset(separate)[0]
    segments = [
        pictures
        for view in stored.views
        for pictures in (stored.rgb(view), *(stored.action(view, gripper=g) for g in stored.action_names))
    ]
    video = tmp_path / "generated.mkv"
    video.write_bytes(encode_bytes(np.concatenate(segments), action_encoding("ffv1"), 10, 128, 128))
    words = ("decode", video, "--concatenated", "--views", "front,side", "--cameras", separate)
    code, output = run(*words, "--grippers", "right,left", "--out", tmp_path / "t.json")
    assert code == 0, output
    found = read_trajectory(tmp_path / "t.left.json")
    assert np.abs(found.position - stored.grippers["left"].position).max() < 1e-4
    code, output = run("decode", video, "--cameras", separate, "--grippers", "a,b", "--out", tmp_path / "t.csv")
    assert code == 2
    assert "--concatenated" in output


def test_merged_pictures_are_taken_apart_by_decode(merged: Path, tmp_path: Path) -> None:
    files = extracted(merged, tmp_path / "videos")
    stored = open_dataset(merged)[0]
    code, output = run("decode", *files, "--cameras", merged, "--out", tmp_path / "t.csv", "--json")
    assert code == 0, output
    summary = json.loads(output)
    assert set(summary) == {"right", "left"}
    # Without the data set the names go from left to right in the first view.
    shown = stored.cameras["front"]
    pixels = {name: project_keypoints(t, [shown], SPEC)[0][0, 0, 0, 0] for name, t in stored.grippers.items()}
    names = ",".join(sorted(pixels, key=pixels.__getitem__))
    cameras = tmp_path / "sample.cameras.npz"
    cameras.write_bytes(stored.read("cameras.npz"))
    code, output = run("decode", *files, "--cameras", cameras, "--merged", names, "--out", tmp_path / "named.csv")
    assert code == 0, output
    for name, truth in stored.grippers.items():
        assert summary[name]["valid"] >= 7
        for file in ("t", "named"):
            found = read_trajectory(tmp_path / f"{file}.{name}.csv")
            assert np.nanmax(np.abs(found.position - truth.position)) < 1e-4
            known = np.isfinite(found.openness)
            np.testing.assert_array_equal(found.openness[known], truth.openness[known])
    code, output = run("decode", *files, "--cameras", cameras, "--merged", "a,b,c", "--out", tmp_path / "x.csv")
    assert code == 1
    assert "expected 2 grippers" in output


def test_a_prediction_of_merged_pictures_is_scored(merged: Path) -> None:
    sample = open_dataset(merged)[0]
    videos = {view: sample.action(view) for view in sample.views}
    for gripper in ("right", "left"):
        scores = aid.evaluate(videos, sample, gripper=gripper)
        assert scores.position_error_mm.median < 0.05
    with pytest.raises(DecodeError, match="published protocol"):
        aid.evaluate(videos, sample, gripper="left", protocol="published")


# Several grippers in one picture, without a word from the sample.


def merged_clip(seed: int, size: int, views: int = 2, frames: int = 21) -> tuple[Any, dict[str, Any], np.ndarray]:
    """Cameras, two arms 30 cm apart that move and turn at random, and what is drawn of both."""
    rng = np.random.default_rng(seed)
    cameras = scenes.ring_cameras(rng, size=size, views=views)
    arms = {
        name: scenes.random_trajectory(rng, frames, cube=0.35, center=np.array([0.4, side, 0.3]))
        for name, side in (("left", 0.15), ("right", -0.15))
    }
    spec = ActionImageSpec(height=size, width=size)
    return cameras, arms, np.stack([render_merged(arms, one, spec) for one in cameras])


def test_two_arms_far_apart_are_decoded_after_h264(tmp_path: Path) -> None:
    arms = {"right": arm(-1, 9, closest=0.2), "left": arm(1, 9, closest=0.2)}
    spec = ActionImageSpec()
    cameras = [camera(name).resized(512, 512) for name in ("front", "side")]
    video = scenes.through_h264(np.stack([render_merged(arms, one, spec) for one in cameras]), 18)
    found = aid.decode(video, cameras, spec, arms={name: a.position[0] for name, a in arms.items()}, fps=10)
    for name, decoded in found.items():
        position, rotation = scenes.pose_errors(decoded, arms[name])
        assert decoded.valid.all()
        assert np.median(position) <= 0.2
        assert rotation.max() < 1
        np.testing.assert_array_equal(decoded.trajectory.openness, arms[name].openness)


@pytest.mark.parametrize("views", [2, 3])
def test_arms_that_cross_are_decoded_or_refused_and_never_exchanged(views: int) -> None:
    decoded_frames = 0
    for seed in range(6):
        cameras, arms, video = merged_clip(seed, 128, views)
        spec = ActionImageSpec(height=128, width=128)
        found = aid.decode(video, cameras, spec, arms={name: a.position[0] for name, a in arms.items()}, fps=20)
        for name, decoded in found.items():
            position, rotation = scenes.pose_errors(decoded, arms[name])
            decoded_frames += len(position)
            assert (position < 2).all(), (seed, name)
            assert (rotation < 2).all(), (seed, name)
            ok = decoded.valid
            np.testing.assert_array_equal(decoded.trajectory.openness[ok], arms[name].openness[ok])
            assert set(decoded.reason[~ok]) <= {"overlap", "several-grippers", "which-gripper"}
            assert all(decoded.cause(int(t)) for t in np.flatnonzero(~ok))
            # The blobs of every keypoint that counts are where the gripper's own are.
            for v, one in enumerate(cameras):
                uv = project_keypoints(arms[name], [one], spec)[0][0]
                used = decoded.keypoint_used[v]
                assert np.linalg.norm(decoded.keypoints[v][used] - uv[used], axis=-1).max(initial=0) < 1
    assert decoded_frames > 0.6 * 6 * 2 * 21


def test_arms_of_one_view_or_at_one_place_are_refused_by_name() -> None:
    cameras, arms, video = merged_clip(7, 128)
    spec = ActionImageSpec(height=128, width=128)
    one = aid.decode(video[:1], cameras[:1], spec, arms=2, fps=20)
    assert list(one) == ["0", "1"]
    assert not any(decoded.valid.any() for decoded in one.values())
    same = np.stack([render_merged({"a": arms["left"], "b": arms["left"]}, c, spec) for c in cameras])
    for decoded in aid.decode(same, cameras, spec, arms=("a", "b"), fps=20).values():
        assert not decoded.valid.any()
        assert set(decoded.reason) <= {"overlap", "no-keypoints"}
    for wrong in (1, 3, ("a", "a"), {"a": [0, 0, 0], "b": [0, 0]}):
        with pytest.raises(DecodeError, match=r"arms"):
            aid.decode(video, cameras, spec, arms=wrong)


# Merged pictures that are not drawn as the spec says, and on tensors.


def degraded(kind: str, frames: int = 12, size: int = 128) -> tuple[dict[str, Any], np.ndarray, dict[str, np.ndarray]]:
    """Two arms, what a degradation makes of their pictures, and where they are at first."""
    arms_ = prove_arms.merged_scene(501, size, frames)
    video = prove_arms.merged_video(arms_, prove_arms.KINDS[kind])
    return arms_, video, {name: scene.truth.position[0] for name, scene in arms_.items()}


@pytest.mark.parametrize("kind", ["clean", "width .6", "peak .5", "bleed .05, width 1.3"])
def test_merged_pictures_are_measured_as_they_are_drawn(kind: str) -> None:
    arms_, video, starts = degraded(kind, frames=21)
    first = arms_["left"]
    found = aid.decode(video, first.cameras, first.spec, arms=starts, fps=20)
    for name, decoded in found.items():
        truth = arms_[name].truth
        position, rotation = scenes.pose_errors(decoded, truth)
        assert decoded.valid.mean() > 0.6
        assert np.median(position) < 0.05
        assert np.median(rotation) < 0.05
        assert position.max() < 1
        known = np.isfinite(decoded.trajectory.openness)
        np.testing.assert_array_equal(decoded.trajectory.openness[known], truth.openness[known])
        says = decoded.diagnosis.channels[0].width if kind != "clean" else 1.0
        assert says == pytest.approx({"width .6": 0.6}.get(kind, 1.3 if "1.3" in kind else 1.0), abs=0.02)


@pytest.mark.parametrize("kind", ["noise 5", "bleed .05, width 1.3"])
def test_tensors_of_merged_pictures_decode_as_arrays(kind: str) -> None:
    arms_, video, starts = degraded(kind)
    first = arms_["left"]
    ours = aid.decode(video, first.cameras, first.spec, arms=starts)
    K, poses = (torch.as_tensor(m) for m in scenes.camera_transforms(first.cameras))
    tensor = torch.as_tensor(np.ascontiguousarray(np.moveaxis(video / 255.0, -1, 2)))
    theirs = decode_arms(tensor[None], K, poses, first.spec, arms=starts)
    assert list(theirs) == list(ours)
    for name, a in ours.items():
        b = theirs[name]
        assert a.valid.any()
        np.testing.assert_array_equal(b.valid[0].numpy(), a.valid)
        # 1e-9 m is 1e-6 mm.
        np.testing.assert_allclose(b.position[0].numpy(), a.trajectory.position, atol=1e-9)
        np.testing.assert_allclose(b.rotation[0].numpy(), a.trajectory.rotation, atol=1e-8)
        np.testing.assert_allclose(b.keypoints[0].numpy(), a.keypoints, atol=1e-9)
        np.testing.assert_array_equal(b.keypoint_used[0].numpy(), a.keypoint_used)
        np.testing.assert_allclose(b.trust[0].numpy(), a.trust, atol=1e-9)
        np.testing.assert_array_equal(b.openness[0].numpy(), a.trajectory.openness)
        np.testing.assert_allclose(b.openness_level[0].numpy(), a.openness_level, atol=1e-6)


def test_gradients_reach_the_picture_through_each_arm() -> None:
    arms_, shown, starts = degraded("clean", frames=1, size=96)
    first = arms_["left"]
    K, poses = (torch.as_tensor(m) for m in scenes.camera_transforms(first.cameras))
    generator = torch.Generator().manual_seed(0)
    video = torch.as_tensor(np.ascontiguousarray(np.moveaxis(shown / 255.0, -1, 2))) * 0.9 + 0.004
    video = video + 0.002 * torch.rand(video.shape, generator=generator, dtype=torch.float64)

    def loss(pictures: torch.Tensor) -> torch.Tensor:
        found = decode_arms(pictures, K, poses, first.spec, arms=starts)
        assert all(one.valid.all() for one in found.values())
        return sum((i + 1) * one.position.sum() + one.rotation[..., 0, 1].sum() for i, one in enumerate(found.values()))

    video.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(video), video)
    step = 1e-5
    direction = torch.randn(video.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        slope = (loss(video + step * direction) - loss(video - step * direction)) / (2 * step)
    # Against its length, which is what it is along a random direction.
    assert float(((gradient * direction).sum() - slope).abs()) < 0.02 * float(gradient.norm())


# Exports.


def test_exports_take_several_grippers_or_refuse_them_by_name(separate: Path, tmp_path: Path) -> None:
    from actionimg_data.export import huggingface, lerobot, reference_tree, wids

    with pytest.raises(UnsupportedSourceError, match=r"one gripper.*right left"):
        reference_tree.export(separate, tmp_path / "tree")
    assert wids.export(separate, tmp_path / "index.json").samples == 2
    lerobot.export(separate, tmp_path / "lerobot")
    info = json.loads((tmp_path / "lerobot/meta/info.json").read_text())
    action = info["features"]["action"]
    assert action["shape"] == [16]
    assert action["names"][:2] + action["names"][8:10] == ["right_x", "right_y", "left_x", "left_y"]
    assert "action_images.front.left" in info["features"]
    assert (tmp_path / "lerobot/videos/action_images.front.left/chunk-000/file-000.mp4").is_file()
    huggingface.export(separate, tmp_path / "hub")
    card = (tmp_path / "hub/README.md").read_text()
    assert "| `trajectory.left.npz` | position (T, 3)" in card
    assert "| `front.action.left.mkv` | action images of view front of gripper left |" in card

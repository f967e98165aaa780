"""Several grippers: from an episode through shards, verify and training; separate and merged pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arms_data import arm, camera, make_dataset

from actionimg_data import open_dataset
from actionimg_data.engine.verification import record, verify
from actionimg_data.errors import InvalidSpecError, WrongFormatError
from actionimg_data.raster import merge, overlapping, render_merged, render_view, separate_blobs
from actionimg_data.schemas import ActionImageSpec
from actionimg_data.shards.verify import decode_sample
from actionimg_data.training import DeviceTransform, IndexedActionImageDataset, collate, modes

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
    from actionimg_data.raster import project_keypoints

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
    with pytest.raises(WrongFormatError, match=r"no such gripper.*right left"):
        decode_sample(sample, SPEC)
    summary = verify(merged).summary()
    assert summary["ok"], summary["failures"]
    assert summary["merged_arms"] is True
    assert summary["openness_accuracy"] == 1
    for found in summary["grippers"].values():
        assert found["decoded_frames"] + found["undecodable_frames"] == 20
        assert found["position_error_mm"]["p95"] < 0.05


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

"""Depth and masks beside a view's pictures: stored bit for bit, checked, and given to training."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from arms_data import RANGE, SOURCE, ArmsConverter, make_dataset, planes
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from actionimg_data import open_dataset
from actionimg_data.cameras.files import Distortion
from actionimg_data.cameras.undistort import UndistortedFrames, UndistortedPlanes, undistorted_K
from actionimg_data.cli import main
from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.demo.rlbench import write_rlbench_bimanual, write_rlbench_dataset
from actionimg_data.engine.conversion import convert
from actionimg_data.engine.verification import verify
from actionimg_data.errors import (
    BadImageError,
    BadVideoError,
    CorruptDatasetError,
    InvalidSpecError,
    MissingViewError,
    WrongFormatError,
)
from actionimg_data.geometry.crop import center_crop
from actionimg_data.model import ArrayFrames, CameraTrack
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards.read import Sample
from actionimg_data.training import IndexedActionImageDataset
from actionimg_data.video import (
    encode,
    mask_ids,
    mask_pictures,
    open_video,
    plane_encoding,
    read_planes,
    rgb_encoding,
)
from actionimg_data.video.resize import resized, resized_planes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms, two views with depth and masks, 96x128 in the source, 128x128 here."""
    return make_dataset(tmp_path_factory.mktemp("streams"), [7, 9], depth=True, masks=True)[0]


def nearest(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """The slow way: the source pixel under the centre of each pixel of the crop."""
    change = center_crop(*plane.shape, height, width)
    out = np.empty((height, width), plane.dtype)
    for y in range(height):
        for x in range(width):
            row = change.top + int((y + 0.5) * change.crop_height / height)
            column = change.left + int((x + 0.5) * change.crop_width / width)
            out[y, x] = plane[row, column]
    return out


# Encoding.


@settings(deadline=None, max_examples=8)
@given(st.integers(16, 40), st.integers(16, 40), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_depth_and_masks_come_back_bit_for_bit(height: int, width: int, frames: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth = rng.integers(0, 2**16, (frames, height, width), dtype=np.uint16)
    ids = rng.integers(0, 2**24, (frames, height, width), dtype=np.uint32)
    for kind, array, pictures in (("depth", depth, iter(depth)), ("mask", ids, mask_pictures(iter(ids)))):
        encodings = []
        for _ in range(2):
            file = io.BytesIO()
            encode(pictures if not encodings else again(kind, array), file, plane_encoding(kind), 10, height, width)
            encodings.append(file.getvalue())
        assert encodings[0] == encodings[1]
        np.testing.assert_array_equal(read_planes(encodings[0], kind), array)
        np.testing.assert_array_equal(read_planes(encodings[0], kind, [frames - 1, 0]), array[[frames - 1, 0]])


def again(kind: str, array: np.ndarray) -> Iterator[np.ndarray]:
    return iter(array) if kind == "depth" else mask_pictures(iter(array))


def test_ids_are_red_plus_256_green_plus_65536_blue() -> None:
    picture = next(mask_pictures([np.array([[1, 256, 65536, 2**24 - 1]], np.uint32)]))
    assert picture.tolist() == [[[1, 0, 0], [0, 1, 0], [0, 0, 1], [255, 255, 255]]]
    assert mask_ids(picture).tolist() == [[1, 256, 65536, 2**24 - 1]]


def test_a_stream_that_holds_something_else_is_refused() -> None:
    file = io.BytesIO()
    encode([np.zeros((16, 16, 3), np.uint8)], file, rgb_encoding(), 10, 16, 16)
    with open_video(file.getvalue(), "here") as video, pytest.raises(BadVideoError, match="holds no depth"):
        next(video.planes("depth", [0]))
    mask = io.BytesIO()
    encode(mask_pictures([np.zeros((16, 16), np.uint32)]), mask, plane_encoding("mask"), 10, 16, 16)
    with pytest.raises(BadVideoError, match="holds no depth"):
        read_planes(mask.getvalue(), "depth")
    with pytest.raises(BadVideoError, match="wrong shape"):
        encode([np.zeros((16, 16), np.uint8)], io.BytesIO(), plane_encoding("depth"), 10, 16, 16)


@pytest.mark.parametrize("size", [(128, 128), (32, 48), (96, 128), (50, 200), (192, 256)])
def test_resizing_takes_the_nearest_pixel_of_the_same_crop(size: tuple[int, int]) -> None:
    depth, mask = planes(0, 1)
    for kind, plane in (("depth", depth[0]), ("mask", mask[0])):
        found = next(resized_planes([plane], kind, *SOURCE, *size))
        np.testing.assert_array_equal(found, nearest(plane, *size))
        assert set(np.unique(found)) <= set(np.unique(plane))
    assert found.dtype == np.uint32


def test_an_edge_is_where_it_is_in_the_picture() -> None:
    """Half bright, half dark: the mask's edge falls on the edge of the scaled picture, for any scale."""
    for edge in (13, 40, 77):
        mask = np.zeros(SOURCE, np.uint32)
        mask[:, edge:] = 9
        picture = np.repeat((mask[..., None] * 28).astype(np.uint8), 3, -1)
        for size in ((96, 128), (48, 64), (288, 384), (128, 128)):
            small = next(resized_planes([mask], "mask", *SOURCE, *size))
            drawn = next(iter(resized([picture], *SOURCE, *size)))
            differing = (drawn[..., 0] > 126) != (small == 9)
            assert differing[:, :].sum(axis=1).max() <= 1


@pytest.mark.parametrize(
    ("model", "coefficients"), [("pinhole", (-0.28, 0.07, 1e-3, -5e-4)), ("fisheye", (0.03, -0.01, 0.002, 0.0))]
)
def test_planes_are_undistorted_with_their_pictures(model: str, coefficients: tuple[float, ...]) -> None:
    K = np.array([[90.0, 0, 63.5], [0, 92.0, 47.5], [0, 0, 1]])
    lens = Distortion(model, coefficients)
    new_K = undistorted_K(K, lens, 128, 96, "here")
    y, x = np.mgrid[:96, :128]
    ids = (((x // 24 + y // 20) % 2) * (2**24 - 1)).astype(np.uint32)[None]
    pictures = np.repeat((ids > 0).astype(np.uint8)[..., None] * 255, 3, -1)
    drawn = next(UndistortedFrames(ArrayFrames(pictures), K, lens, new_K).frames([0]))[..., 0]
    source = UndistortedPlanes(ArrayFrames(ids), K, lens, new_K)
    assert (len(source), source.height, source.width) == (1, 96, 128)
    plane = next(source.frames([0]))
    assert plane.dtype == np.uint32
    assert set(np.unique(plane)) == {0, 2**24 - 1}
    # Where the picture is plainly one or the other, so is the mask.
    plain = (drawn < 64) | (drawn > 191)
    assert plain.mean() > 0.8
    assert ((plane > 0) == (drawn > 127))[plain].all()
    assert (plane[0] != ids[0, 0]).any()


# Data sets.


def test_stored_planes_are_the_sources_at_the_size_of_the_data_set(dataset: Path) -> None:
    data = open_dataset(dataset)
    for number, sample in enumerate(data):
        assert sample.meta.planes == ("depth", "mask")
        assert sample.meta.depth_range_m == (RANGE, RANGE)
        for i, view in enumerate(sample.views):
            depth, mask = planes(number + i, len(sample))
            np.testing.assert_array_equal(sample.depth(view), [nearest(d, 128, 128) for d in depth])
            np.testing.assert_array_equal(sample.mask(view, [3, 1]), [nearest(m, 128, 128) for m in mask[[3, 1]]])
            assert sample.depth(view, slice(1, 3)).dtype == np.uint16
            assert sample.mask(view, []).dtype == np.uint32
    summary = verify(dataset).summary()
    assert summary["ok"], summary["failures"]


def test_what_is_not_stored_is_said(tmp_path: Path) -> None:
    out, _ = make_dataset(tmp_path, [3], depth=True)
    sample = open_dataset(out)[0]
    assert "front.depth.mkv" in sample.members
    assert not any("mask" in member for member in sample.members)
    with pytest.raises(WrongFormatError, match="stores no mask"):
        sample.mask("front")
    with pytest.raises(InvalidSpecError, match=r"streams.*depth.*mask"):
        IndexedActionImageDataset(out, num_frames=3, streams=("mask",))
    with pytest.raises(InvalidSpecError, match="streams"):
        IndexedActionImageDataset(out, num_frames=3, streams=("flow",))


def test_clips_and_strides_hold_the_same_frames_of_every_stream(tmp_path: Path) -> None:
    out, _ = make_dataset(tmp_path, [9], depth=True, masks=True, stride=2, clip_frames=3, height=96, width=128)
    depth, mask = planes(0, 9)
    samples = list(open_dataset(out))
    assert [len(s) for s in samples] == [3, 2]
    np.testing.assert_array_equal(np.concatenate([s.depth("front") for s in samples]), depth[::2])
    np.testing.assert_array_equal(np.concatenate([s.mask("front") for s in samples]), mask[::2])
    assert verify(out).ok


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("depth-size", ("wrong-format", "depth has another size", "expected 128x96", "found 64x48")),
        ("mask-ids", ("bad-image", "beyond 24 bits", "16777216", "front.mask")),
        ("no-depth", ("missing-view", "has no depth and no mask", "front")),
    ],
)
def test_bad_streams_quarantine_their_episode_by_name(tmp_path: Path, bad: str, words: tuple[str, ...]) -> None:
    out, manifest = make_dataset(tmp_path, [3, 3, 3], {"bad": {"1": bad}}, depth=True, masks=True)
    assert manifest.counts is not None
    assert manifest.counts.quarantined == 1
    text = (out / "quarantine.jsonl").read_text()
    assert all(word in text for word in words), text


def test_a_source_without_depth_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "arms.json").write_text('{"frames": [3, 3], "bad": {"0": "no-depth", "1": "no-depth"}}')
    with pytest.raises(MissingViewError, match=r"has no depth\b.*--views"):
        convert(ArmsConverter(), str(source), tmp_path / "out", ConvertOptions.parse(depth=True))
    assert not (tmp_path / "out").exists()


def test_depth_outside_the_stated_range_is_found(dataset: Path) -> None:
    from actionimg_data.schemas import SampleMeta
    from actionimg_data.shards.verify import check_planes

    sample = open_dataset(dataset)[0]
    check_planes(sample)
    narrow = SampleMeta.model_validate({**sample.meta.model_dump(), "depth_range_m": ((0.1, 1.0), RANGE)})

    class Other(Sample):
        meta = narrow

    with pytest.raises(Exception, match=r"front\.depth.*outside the range.*0\.1 … 1 m"):
        check_planes(Other(sample.key, sample._tar, sample._members, sample.spec))


def test_a_damaged_stream_is_found_by_verify_and_by_training(tmp_path: Path) -> None:
    out, _ = make_dataset(tmp_path, [5], depth=True)
    sample = open_dataset(out)[0]
    offset, size = sample._members["side.depth.mkv"]
    tar = out / "train" / "000000.tar"
    data = bytearray(tar.read_bytes())
    data[offset + size // 2] ^= 0xFF
    tar.write_bytes(data)
    assert any("side.depth.mkv is damaged" in failure.reason for failure in verify(out).failures)
    table = IndexedActionImageDataset(out, num_frames=3, size=128, streams=("depth",), plucker=False)
    with pytest.raises(CorruptDatasetError, match=r"side\.depth\.mkv"):
        table.sample(0, views=("side", "front"))


def test_training_samples_carry_depth_in_metres_and_ids(dataset: Path) -> None:
    data = IndexedActionImageDataset(
        dataset, num_frames=8, size=64, streams=("depth", "mask"), action="none", plucker=False
    )
    found: dict[str, Any] = data.sample(0, start=0, views=("side", "front"))
    stored = open_dataset(dataset)[0]
    assert found["depth"].shape == found["mask"].shape == (16, 64, 64)
    assert found["depth"].dtype == torch.float32
    assert found["mask"].dtype == torch.int32
    depth = found["depth"].numpy().reshape(2, 8, 64, 64)
    mask = found["mask"].numpy().reshape(2, 8, 64, 64)
    for i, view in enumerate(("side", "front")):
        expected = np.stack([nearest(d, 64, 64) for d in stored.depth(view)])
        np.testing.assert_allclose(depth[i, :7], expected / 1000, rtol=1e-6)
        np.testing.assert_array_equal(mask[i, :7], [nearest(m, 64, 64) for m in stored.mask(view)])
    # The eighth frame is padding.
    assert not depth[:, 7].any()
    assert not mask[:, 7].any()


# RLBench.


def png(path: Path) -> np.ndarray:
    picture = cv2.imread(os.fspath(path), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture[..., ::-1].astype(np.uint32)


def rlbench_depth(path: Path, near: float, far: float) -> np.ndarray:
    wide = png(path)
    unit = (wide[..., 0] * 65536 + wide[..., 1] * 256 + wide[..., 2]) / (2**24 - 1)
    return np.rint((near + unit * (far - near)) * 1000).astype(np.uint16)


def rlbench_mask(path: Path) -> np.ndarray:
    wide = png(path)
    return wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rlbench_dataset(
        tmp_path_factory.mktemp("demos"), 1, 6, 64, ("front", "wrist"), depth_and_masks=True, layout="peract"
    )


def test_rlbench_depth_and_masks_are_those_of_the_pngs(demos: Path, tmp_path: Path) -> None:
    options = ConvertOptions.parse(height=64, width=64, depth=True, masks=True)
    convert(RLBenchConverter(), str(demos), tmp_path / "out", options)
    sample = open_dataset(tmp_path / "out")[0]
    episode = next(demos.glob("*/all_variations/episodes/episode0"))
    assert sample.meta.depth_range_m == ((0.01, 3.5), (0.01, 3.5))
    for view in sample.views:
        for i in range(6):
            expected = rlbench_depth(episode / f"{view}_depth" / f"{i}.png", 0.01, 3.5)
            np.testing.assert_array_equal(sample.depth(view, [i])[0], expected)
            np.testing.assert_array_equal(
                sample.mask(view, [i])[0], rlbench_mask(episode / f"{view}_mask" / f"{i}.png")
            )
    assert verify(tmp_path / "out").ok


def test_rlbench_pictures_beside_are_not_looked_at_unless_asked_for(tmp_path: Path) -> None:
    source = write_rlbench_dataset(tmp_path / "src", 1, 4, 32, ("front", "overhead"), depth_and_masks=True)
    episode = next(source.glob("*/all_variations/episodes/episode0"))
    (episode / "front_depth" / "2.png").unlink()
    (episode / "front_mask" / "1.png").write_bytes(b"no picture")
    small = np.zeros((16, 16, 3), np.uint8)
    (episode / "overhead_depth" / "0.png").write_bytes(cv2.imencode(".png", small)[1].tobytes())
    plain = ConvertOptions.parse(height=32, width=32)
    assert convert(RLBenchConverter(), str(source), tmp_path / "plain", plain).manifest.counts is not None
    views = RLBenchConverter().read(next(iter(RLBenchConverter().discover(str(source))))).views
    front, overhead = views["front"], views["overhead"]
    assert front.depth is not None
    assert front.mask is not None
    assert overhead.depth is not None
    with pytest.raises(FileNotFoundError, match=r"front_depth/2\.png"):
        list(front.depth.frames(range(4)))
    with pytest.raises(BadImageError, match=r"front_mask/1\.png"):
        list(front.mask.frames(range(4)))
    with pytest.raises(BadImageError, match=r"overhead_depth: depth has another size.*32x32.*16x16"):
        list(overhead.depth.frames(range(4)))


def test_bimanual_demos_are_converted_with_both_arms(tmp_path: Path) -> None:
    cameras = ("front", "over_shoulder_left", "wrist_right")
    source = write_rlbench_bimanual(tmp_path / "src", 1, 8, 64, cameras, depth_and_masks=True)
    ref = next(iter(RLBenchConverter().discover(str(source))))
    assert ref.num_frames == 8
    episode = RLBenchConverter().read(ref)
    assert episode.gripper_names == ("right", "left")
    assert tuple(episode.views) == cameras
    assert episode.instruction == "lift both cubes"
    assert (episode.grippers["right"].position[:, 1] < 0).all()
    assert (episode.grippers["left"].position[:, 1] > 0).all()
    # Each hand is at the origin of its own wrist camera's mount.
    wrist = episode.views["wrist_right"].camera
    assert isinstance(wrist, CameraTrack)
    distance = np.linalg.norm(wrist.world_from_camera[:, :3, 3] - episode.grippers["right"].position, axis=-1)
    assert np.ptp(distance) < 1e-9
    options = ConvertOptions.parse(height=64, width=64, depth=True, masks=True, action_codec="ffv1")
    out = tmp_path / "out"
    assert convert(RLBenchConverter(), str(source), out, options).manifest.grippers == ("right", "left")
    assert verify(out).ok
    sample = open_dataset(out)[0]
    folder = source / "bimanual_lift_cubes/all_variations/episodes/episode0"
    np.testing.assert_array_equal(sample.mask("front", [5])[0], rlbench_mask(folder / "front_mask/mask_0005.png"))


@pytest.mark.parametrize("change", ["no-left", "no-pose"])
def test_a_bimanual_demo_without_an_arm_is_refused_by_name(tmp_path: Path, change: str) -> None:
    from actionimg_data.converters.rlbench_tree import DEMO_CLASSES
    from actionimg_data.demo.rlbench import pickle_demo
    from actionimg_data.errors import BadFileError
    from actionimg_data.untrusted import pickles as _safe_pickle

    source = write_rlbench_bimanual(tmp_path / "src", 1, 4, 32, ("front",))
    file = source / "bimanual_lift_cubes/all_variations/episodes/episode0/low_dim_obs.pkl"
    demo: Any = _safe_pickle.load(file, records=DEMO_CLASSES)
    observations = []
    for i, record in enumerate(demo.get("_observations")):
        arms = {name: record.get(name).attributes for name in ("right", "left")}
        if i == 2:
            arms["left"] = None if change == "no-left" else {**arms["left"], "gripper_pose": None}
        observations.append({**record.attributes, **arms})
    file.write_bytes(pickle_demo(observations, None, 0))
    ref = next(iter(RLBenchConverter().discover(str(source))))
    with pytest.raises(BadFileError, match=r"observation 2: left" if change == "no-left" else r"left\.gripper_pose"):
        RLBenchConverter().read(ref)


# The real demos.

GRIPPER_IDS = (31, 34, 35)
"""Handles of the Panda's hand and fingers in the sample's masks (seen: what lies under the projected gripper)."""


def back_projected(camera: Any, depth: np.ndarray, shown: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(shown)
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], -1)
    points = pixels @ np.linalg.inv(camera.K).T * (depth[rows, columns] / 1000)[:, None]
    return np.asarray(points @ camera.world_from_camera[:3, :3].T + camera.world_from_camera[:3, 3])


@pytest.mark.realdata
def test_depth_and_masks_of_the_real_demos_agree_between_views(sample_data: Path, tmp_path: Path) -> None:
    """The hand's surface as one view measures it is where another one measures it, to 5 mm (median).

    Between views from the same side of the hand; what the front camera sees of it, the others do not.
    """
    source = sample_data / "rlbench"
    if not source.is_dir():
        pytest.skip("no rlbench sample")
    views = ("left_shoulder", "right_shoulder", "overhead")
    options = ConvertOptions.parse(height=128, width=128, views=views, stride=12, depth=True, masks=True)
    convert(RLBenchConverter(), str(source), tmp_path / "out", options)
    assert verify(tmp_path / "out").ok
    distances: dict[tuple[str, str], list[np.ndarray]] = {}
    for sample in open_dataset(tmp_path / "out"):
        episode = source / "open_drawer/all_variations/episodes" / sample.meta.episode.rsplit("/", 1)[-1]
        depth = {view: sample.depth(view) for view in views}
        ids = {view: sample.mask(view) for view in views}
        for view in views:
            for i in range(len(sample)):
                expected = rlbench_mask(episode / f"{view}_mask" / f"{12 * i}.png")
                np.testing.assert_array_equal(ids[view][i], expected)
        for a in views:
            for b in views:
                if a == b:
                    continue
                for i in range(len(sample)):
                    camera = sample.cameras[b][i]
                    shown = np.isin(ids[a][i], GRIPPER_IDS)
                    points = back_projected(sample.cameras[a][i], depth[a][i], shown)
                    uv, valid = camera.project(points)
                    inside = valid & (uv >= 0).all(-1) & (uv < 128).all(-1)
                    column, row = np.floor(uv[inside]).astype(int).T
                    on = np.isin(ids[b][i][row, column], GRIPPER_IDS)
                    z = (points[inside] - camera.world_from_camera[:3, 3]) @ camera.world_from_camera[:3, 2]
                    there = depth[b][i][row, column][on] / 1000
                    distances.setdefault((a, b), []).append(np.abs(z[on] - there))
    assert len(distances) == 6
    for pair, found in distances.items():
        apart = np.concatenate(found)
        assert len(apart) > 50, pair
        assert np.median(apart) < 0.005, (pair, np.median(apart))


def test_the_commands_take_two_arms_with_depth_and_masks(tmp_path: Path) -> None:
    source = write_rlbench_bimanual(tmp_path / "src", 1, 6, 64, ("front", "over_shoulder_left"), depth_and_masks=True)
    out = tmp_path / "out"

    def run(*words: object) -> str:
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.stdout

    size = ("--size", "128", "-j", "1", "--no-check-space")
    run("convert", "rlbench", source, out, *size, "--merge-arms", "--depth", "--masks")
    summary = json.loads(run("verify", out, "--json"))
    assert summary["merged_arms"] is True
    assert set(summary["grippers"]) == {"right", "left"}
    assert "right" in run("verify", out)
    about = json.loads(run("inspect", out, "--json"))
    assert about["samples"] == 1
    run("report", out)
    page = (tmp_path / "out.report.html").read_text()
    assert "right" in page
    assert "left" in page


def test_depth_without_its_range_is_refused_when_it_is_asked_for(tmp_path: Path) -> None:
    from actionimg_data.converters.rlbench_tree import DEMO_CLASSES
    from actionimg_data.demo.rlbench import pickle_demo
    from actionimg_data.errors import BadFileError
    from actionimg_data.untrusted import pickles as _safe_pickle

    source = write_rlbench_dataset(tmp_path / "src", 1, 3, 32, ("front",), depth_and_masks=True)
    file = next(source.glob("*/all_variations/episodes/episode0/low_dim_obs.pkl"))
    demo: Any = _safe_pickle.load(file, records=DEMO_CLASSES)
    observations = [record.attributes for record in demo.get("_observations")]
    del observations[1]["misc"]["front_camera_far"]
    file.write_bytes(pickle_demo(observations, None, 0))
    episode = RLBenchConverter().read(next(iter(RLBenchConverter().discover(str(source)))))
    front = episode.views["front"]
    assert front.depth is not None
    assert next(front.depth.frames([0])).dtype == np.uint16
    with pytest.raises(BadFileError, match=r"front_depth: observation 1: misc\[front_camera_near.*range"):
        list(front.depth.frames([0, 1, 2]))

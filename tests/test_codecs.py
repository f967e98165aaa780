"""Depth, segmentation and normals as RGB: against slow forms, through H.264, and as segments of training samples."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arms_data import make_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import depth_colour_dense

from actionimg_data import open_dataset
from actionimg_data.codecs import (
    DepthCodec,
    decode_labels,
    decode_normals,
    encode_labels,
    encode_normals,
    label_colours,
    largest_labels,
    normals_from_depth,
)
from actionimg_data.errors import InvalidArrayError, InvalidSpecError
from actionimg_data.policy import ActionChunk
from actionimg_data.training import DeviceTransform, IndexedActionImageDataset, collate
from actionimg_data.training.modes import MODES, task
from actionimg_data.video import encode, open_video, rgb_encoding

K = np.array([[170.0, 0, 80], [0, 160.0, 80], [0, 0, 1]])


def through_h264(pictures: np.ndarray) -> np.ndarray:
    """Pictures ``(T, H, W, 3)`` as a data set's camera pictures are stored: x264 at crf 18."""
    file = io.BytesIO()
    encode(iter(pictures), file, rgb_encoding(18), 20, *pictures.shape[1:3])
    with open_video(file.getvalue(), "here") as video:
        return np.stack(list(video.frames(range(len(pictures)))))


def plane_depth(normal: np.ndarray, distance: float, size: int = 160) -> np.ndarray:
    """Depth ``(H, W)`` in whole millimetres of the plane ``n . p = -distance``."""
    y, x = np.mgrid[:size, :size] + 0.5
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T
    return np.rint(-1000 * distance / (rays @ normal)).astype(np.uint16)


# ---- depth ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(near=st.floats(0.01, 1), ratio=st.floats(1.5, 300), share=st.floats(-0.02, 1.02))
def test_a_depth_has_the_colour_of_the_slow_walk(near: float, ratio: float, share: float) -> None:
    far = min(near * ratio, 65.535)
    millimetre = min(max(round(1000 * near * (far / near) ** share), 0), 65535)
    found = DepthCodec(near, far).encode(np.array([[millimetre]], np.uint16))[0, 0]
    # One level where a half is rounded.
    assert np.abs(found.astype(int) - depth_colour_dense(millimetre / 1000, near, far)).max() <= 1


def test_every_depth_comes_back_within_a_thousandth() -> None:
    codec = DepthCodec()
    depth = np.arange(65536).astype(np.uint16).reshape(256, 256)
    pictures = codec.encode(depth)
    found = codec.decode(pictures)
    known = (depth >= 50) & (depth <= 10000)
    assert (np.abs(found - depth / 1000) / np.maximum(depth / 1000, 1e-3))[known].max() < 7e-4
    assert not found[~known].any()
    narrow = DepthCodec(0.3, 3.0)
    inside = (depth >= 300) & (depth <= 3000)
    assert (np.abs(narrow.decode(narrow.encode(depth)) * 1000 - depth)[inside] / depth[inside]).max() < 3.5e-4
    # The same in torch, of floats too.
    tensor = torch.from_numpy(depth.astype(np.int32))
    assert torch.equal(codec.encode(tensor), torch.from_numpy(pictures))
    np.testing.assert_allclose(codec.decode(torch.from_numpy(pictures)), found, rtol=1e-5)
    np.testing.assert_allclose(codec.decode(torch.from_numpy(pictures) / 255), found, rtol=1e-5)
    # Also of single pixels among others.
    scattered = np.random.default_rng(0).choice(depth[known], (40, 40))
    found = codec.decode(codec.encode(scattered))
    assert (np.abs(found - scattered / 1000) / (scattered / 1000) < 7e-4).mean() > 0.95
    for near, far in ((0, 1), (2, 1), (1, 66)):
        with pytest.raises(InvalidSpecError, match="range"):
            DepthCodec(near, far)
    with pytest.raises(InvalidArrayError, match="millimetres"):
        codec.encode(depth / 1000)


def test_depth_survives_h264_within_a_thousandth() -> None:
    codec = DepthCodec()
    normals = [np.array([0.1 * t, -0.6, -1.0]) for t in range(4)]
    depth = np.stack([plane_depth(n / np.linalg.norm(n), 0.9) for n in normals])
    # A box before it.
    depth[:, 40:90, 50:100] = 600
    found = codec.decode(through_h264(codec.encode(depth)))
    error = np.abs(found - depth / 1000) / (depth / 1000)
    assert np.median(error) < 1e-3
    assert (error < 0.01).mean() > 0.97
    depth[:, 100:130, 100:130] = 0
    found = codec.decode(through_h264(codec.encode(depth)))
    assert not found[:, 104:126, 104:126].any()


@pytest.mark.realdata
def test_real_depth_survives_h264_within_a_thousandth(sample_data: Path) -> None:
    import cv2

    folder = sample_data / "rlbench/open_drawer/all_variations/episodes/episode5/overhead_depth"
    levels = np.stack([cv2.imread(str(folder / f"{i}.png")) for i in range(6)]).astype(float) @ [1, 256, 65536]
    depth = np.rint(1000 * (0.01 + levels / (2**24 - 1) * 4.49)).astype(np.uint16)
    codec = DepthCodec()
    error = np.abs(codec.decode(through_h264(codec.encode(depth))) - depth / 1000) / (depth / 1000)
    assert np.median(error) < 1e-3


# ---- segmentation ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 16))
def test_labels_come_back_exactly(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(50)[:count]
    ids = rng.integers(0, 60, (2, 9, 11))
    pictures = encode_labels(ids, labels.tolist())
    by_hand = [[[list(labels).index(i) if i in labels else 0 for i in row] for row in frame] for frame in ids]
    colours = label_colours(count)
    np.testing.assert_array_equal(pictures, colours[by_hand])
    assert len(np.unique(colours, axis=0)) == len(colours) == count
    np.testing.assert_array_equal(decode_labels(pictures, count), by_hand)
    np.testing.assert_array_equal(decode_labels(torch.from_numpy(pictures) / 255, count), by_hand)


def test_sixteen_labels_survive_h264() -> None:
    y, x = np.mgrid[:192, :192]
    cells = np.stack([(x + 3 * t) // 48 % 4 + 4 * ((y + x // 3) // 64 % 4) for t in range(4)])
    # Neighbours of all kinds.
    ids = 7 * np.random.default_rng(1).permutation(16)[cells]
    labels = largest_labels(ids)
    assert labels == tuple(range(0, 112, 7))
    found = decode_labels(through_h264(encode_labels(ids, labels)), 16)
    for i in range(16):
        union = (found == i) | (ids == 7 * i)
        assert ((found == i) & (ids == 7 * i)).sum() / union.sum() > 0.99
    assert largest_labels(np.array([3, 3, 9, 9, 9, 2])) == (0, 2, 3, 9)
    assert len(largest_labels(np.arange(40))) == 16
    for labels in ((), (1, 1), tuple(range(17))):
        with pytest.raises(InvalidSpecError, match="colour"):
            encode_labels(ids, labels)


# ---- normals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", [(0.0, 0.0, -1.0), (0.3, -0.6, -1.0), (-0.8, 0.1, -0.7)])
def test_a_plane_has_its_normal(direction: tuple[float, float, float]) -> None:
    normal = np.array(direction) / np.linalg.norm(direction)
    depth = plane_depth(normal, 0.8)
    found = normals_from_depth(depth, K)
    known = np.isfinite(found[..., 0])
    assert known[3:-3, 3:-3].mean() > 0.95
    angle = np.degrees(np.arccos(np.clip(found[known] @ normal, -1, 1)))
    assert np.median(angle) < 1.0
    pictures = encode_normals(found)
    back = decode_normals(pictures)
    np.testing.assert_array_equal(np.isfinite(back[..., 0]), known)
    assert np.degrees(np.arccos(np.clip((back * found).sum(-1)[known], -1, 1))).max() < 0.5
    np.testing.assert_allclose(decode_normals(torch.from_numpy(pictures)), back, atol=1e-6)
    # K in the other way of counting is the same camera.
    other = K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    np.testing.assert_allclose(normals_from_depth(depth, other, 0.0)[known], found[known], atol=1e-6)


def test_at_a_step_and_where_nothing_is_known_there_is_no_normal() -> None:
    depth = plane_depth(np.array([0.0, 0.0, -1.0]), 1.0)
    depth[:, 80:] = 1200
    depth[20:30, 20:30] = 0
    known = np.isfinite(normals_from_depth(depth, K, radius=2)[..., 0])
    assert not known[:, 79:81].any()
    assert not known[20:30, 20:30].any()
    assert known[50:100, 10:70].all()
    assert not np.isfinite(normals_from_depth(depth[:2, :2], K)).any()
    found = decode_normals(through_h264(encode_normals(normals_from_depth(depth, K)[None])))[0]
    clear = np.s_[50:100, 10:70]
    assert np.degrees(np.arccos(np.clip(-found[clear][..., 2], -1, 1))).max() < 2


# ---- segments of training samples -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms, two views with depth and masks, 7 frames."""
    return make_dataset(tmp_path_factory.mktemp("segments"), [7, 9], depth=True, masks=True)[0]


@pytest.mark.parametrize("pixels", ["uint8", "float32"])
def test_samples_carry_them_between_video_and_action(dataset: Path, pixels: Any) -> None:
    options: dict[str, Any] = {"num_frames": 8, "size": 128, "plucker": False, "streams": ("depth", "mask")}
    data = IndexedActionImageDataset(
        dataset, action="rendered", segments=("depth", "mask", "normals"), pixels=pixels, axes="opencv", **options
    )
    sample = data.sample(0, start=0, views=("side", "front"), mode="labelling")
    codec = DepthCodec()

    def frames(name: str) -> np.ndarray:
        """``(V, T, H, W, 3)`` uint8."""
        video = sample[name] if pixels == "uint8" else torch.round((sample[name] + 1) * 127.5).to(torch.uint8)
        return video.unflatten(1, (2, 8)).movedim(0, -1).numpy()

    stored = open_dataset(dataset)[0]
    labels = [i for i in sample["mask_labels"].tolist() if i >= 0]
    for i, view in enumerate(("side", "front")):
        depth, mask = stored.depth(view), stored.mask(view)
        np.testing.assert_array_equal(frames("depth_video")[i, :7], codec.encode(depth))
        np.testing.assert_array_equal(frames("mask_video")[i, :7], encode_labels(mask, labels))
        track = stored.cameras[view]
        normals = [encode_normals(normals_from_depth(d, k)) for d, k in zip(depth, track.K, strict=True)]
        np.testing.assert_array_equal(frames("normals_video")[i, :7], normals)
    for name in ("depth_video", "mask_video", "normals_video"):
        assert not frames(name)[:, 7].any()
    assert len(labels) == 16
    # [video | depth | mask | normals | action of right | action of left] twice.
    assert sample["used_mask"].shape == sample["loss_mask"].shape == (2 * 6 * 8,)
    given = sample["condition_mask"].reshape(2, 6, 8).numpy()
    assert given[:, 0].all()
    assert given[:, 1:, 0].all()
    assert not given[:, 1:, 1:].any()
    loss = sample["loss_mask"].reshape(2, 6, 8).numpy()
    assert (loss[:, 1:4, 1:7] == 1).all()
    assert not loss[:, 1:4, 7].any()


def test_the_device_draws_action_images_beside_them(dataset: Path) -> None:
    options: dict[str, Any] = {"num_frames": 3, "size": 64, "plucker": False, "segments": ("normals", "depth")}
    for arms in ("separate", "merged"):
        whole = IndexedActionImageDataset(dataset, action="rendered", arms=arms, **options)
        lean = IndexedActionImageDataset(dataset, action="none", arms=arms, pixels="uint8", **options)
        expected = collate([whole.sample(i, start=0) for i in range(2)])
        batch = DeviceTransform(spec=lean.spec, plucker=False)(collate([lean.sample(i, start=0) for i in range(2)]))
        assert (batch["action_video"] - expected["action_video"]).abs().max() <= 2.1 / 255
        torch.testing.assert_close(batch["depth_video"], expected["depth_video"])


def test_masks_of_every_mode_over_further_segments() -> None:
    for mode in MODES:
        plain, more = task(mode, 9, actions=2), task(mode, 9, actions=2, others=3)
        for name, length in (("used", 9), ("given", 9), ("used_latent", 3), ("given_latent", 3)):
            without = getattr(plain, name).reshape(2, 3, length)
            masks = getattr(more, name).reshape(2, 6, length)
            np.testing.assert_array_equal(masks[:, [0, 4, 5]], without)
            between = masks[:, 1:4]
            if name.startswith("used"):
                np.testing.assert_array_equal(between, np.broadcast_to(without[:, :1], between.shape))
            else:
                assert between[..., 0].all()
                assert not between[..., 1:].any()
    with pytest.raises(InvalidSpecError, match="others"):
        task("joint", 5, others=-1)


def test_a_canvas_with_further_segments_is_cut_at_the_action() -> None:
    path = make_trajectory_and_cameras()
    video, cameras, spec, truth = path
    blank = np.zeros_like(video[0])
    canvas = np.concatenate([part for view in video for part in (blank, blank, blank, view)])
    chunk = ActionChunk.from_canvas(canvas, cameras, spec, fps=20, others=2)
    assert np.linalg.norm(chunk.poses[:, :3] - truth.position, axis=-1).max() < 1e-3


def make_trajectory_and_cameras() -> tuple[Any, ...]:
    import decoder_scenes as scenes

    from actionimg_data.raster import render
    from actionimg_data.schemas import ActionImageSpec

    rng = np.random.default_rng(3)
    cameras = dict(zip("ab", scenes.ring_cameras(rng, size=96), strict=True))
    truth, spec = scenes.random_trajectory(rng, frames=5, cube=0.3), ActionImageSpec(height=96, width=96)
    return render(truth, cameras, spec), cameras, spec, truth


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"segments": ("flow",)}, "segments"),
        ({"segments": ("depth", "depth")}, "twice"),
        ({"segments": ("depth",), "depth_range": (1, 0.5)}, "depth_range"),
        ({"segments": ("mask",), "mask_labels": tuple(range(17))}, "mask_labels"),
    ],
)
def test_bad_segments_are_refused(dataset: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidSpecError, match=match):
        IndexedActionImageDataset(dataset, num_frames=5, size=128, **options)


def test_what_is_not_stored_cannot_be_a_segment(tmp_path: Path) -> None:
    out, _ = make_dataset(tmp_path, [5], depth=True)
    for segments, found in ((("mask",), "mask"), (("depth", "mask"), "mask")):
        with pytest.raises(InvalidSpecError, match=f"segments.*{found}"):
            IndexedActionImageDataset(out, num_frames=3, size=128, segments=segments)

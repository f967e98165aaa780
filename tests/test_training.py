"""Training data sets on real shards: the published sample, its distribution over workers, resume, and bad input."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.spatial.transform import Rotation
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from training_data import SIZE, VIEWS, make_camera, make_dataset, make_trajectory, read_bars

import actionimg_data as aid
from actionimg_data.errors import (
    ActionImgError,
    CorruptDatasetError,
    EmptyEpisodeError,
    InvalidSpecError,
    SourceNotFoundError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
)
from actionimg_data.geometry.crop import center_crop
from actionimg_data.training import (
    ActionImageDataset,
    ConcatActionImageDataset,
    DeviceTransform,
    IndexedActionImageDataset,
    SkippedSampleWarning,
    collate,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]

FRAMES = (23, 24, 9, 25, 26, 27, 28)
SMALL: dict[str, Any] = {"num_frames": 5, "size": SIZE, "plucker": False, "action": "none"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("training"), FRAMES)[0]


@pytest.fixture(scope="module")
def slow_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("slow"), (12, 13, 14), fps=5.0)[0]


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dataset, tmp_path / "copy"))


def number(sample: dict[str, Any]) -> int:
    return int(sample["key"].rpartition("_")[2])


def keys(samples: Any) -> list[str]:
    return [sample["key"] for sample in samples]


# ---- the sample ----------------------------------------------------------------------------------------------------


def published_sample(key: str, names: tuple[str, ...], frames: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Cameras and actions of a sample by the published formulas, from what was put into the data set."""
    n = int(key.rpartition("_")[2])
    path = make_trajectory(n, FRAMES[n], 20.0)
    E, K = [], []
    for view in names:
        track = make_camera(view, FRAMES[n], SIZE).track(FRAMES[n])
        # As RLBench stores them: x left, y up, negative focal lengths.
        E.append(track.world_from_camera[frames] @ np.diag([-1.0, -1.0, 1.0, 1.0]))
        K.append(track.K[frames] @ np.diag([-1.0, -1.0, 1.0]))
        K[-1][:, :2] *= size / SIZE
    relative = np.linalg.inv(E[0][0]) @ np.concatenate(E)
    euler = Rotation.from_quat(path.quaternion_xyzw).as_euler("xyz")
    action7 = np.concatenate([path.position, euler, path.openness[:, None]], 1)[frames]
    action8 = np.concatenate([path.position, path.quaternion_xyzw, path.openness[:, None]], 1)[frames]
    return {
        "camera": relative[:, :3].reshape(-1, 12),
        "extrinsics": np.concatenate(E),
        "intrinsics": np.concatenate(K),
        "action_7d": action7,
        "action_8d": action8,
    }


def published_action_video(sample: dict[str, Any], size: int) -> np.ndarray:
    """``(3, 2T, H, W)`` in [-1, 1] from action_7d, extrinsics and intrinsics, by the published renderer's formulas."""
    E, K = sample["extrinsics"].double().numpy(), sample["intrinsics"].double().numpy()
    action = np.tile(sample["action_7d"].double().numpy(), (len(E) // len(sample["action_7d"]), 1))
    rotation = Rotation.from_euler("xyz", action[:, 3:6])
    y, x = np.mgrid[:size, :size]
    out = np.empty((3, len(E), size, size))
    for channel, axis in enumerate(([0, 0, 0], [1, 0, 0], [0, 0, -1])):
        point = action[:, :3] + 0.1 * rotation.apply(np.array(axis, float))
        seen = np.einsum("tij,tj->ti", np.linalg.inv(E), np.c_[point, np.ones(len(point))])[:, :3]
        uvw = np.einsum("tij,tj->ti", K, seen)
        u, v = (uvw[:, i, None, None] / uvw[:, 2, None, None] for i in (0, 1))
        out[channel] = np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * (0.05 * size) ** 2))
    opened = (action[:, 6] > 0.5)[:, None, None] * np.ones((1, size, size))
    out[2] = np.where(out[2] <= 0.25, 0.25 * opened, out[2])
    return out * 2 - 1


@pytest.mark.parametrize("size", [SIZE, 40])
def test_a_sample_is_the_published_one(dataset: Path, size: int) -> None:
    data = ActionImageDataset(dataset, num_frames=5, frame_stride=2, size=size, action="both", seed=3)
    for sample in data:
        expected = published_sample(sample["key"], sample["view_names"], sample["frame_indices"].numpy(), size)
        for name, value in expected.items():
            assert sample[name].dtype == torch.float32
            np.testing.assert_allclose(sample[name].numpy(), value, atol=1e-5, err_msg=name)
        assert sample["video"].shape == sample["action_video"].shape == (3, 10, size, size)
        assert sample["video"].dtype == torch.float32
        assert sample["plucker"].shape == (6, 10, size, size)
        assert sample["valid"].all()
        assert sample["fps"] == 10.0
        assert sample["text"] in (f"open drawer {number(sample)}", f"pull out drawer {number(sample)}")
        assert str(dataset) in sample["path"]
        drawn = published_action_video(sample, size)
        assert np.abs(sample["action_video_rendered"].numpy() - drawn).max() <= 1.01 * 2 / 255
    assert len(data) == 7


def test_pictures_are_those_of_the_frames_named_and_scaled_as_pillow_does(dataset: Path) -> None:
    stored = aid.open_dataset(dataset)
    differing = []
    for sample in ActionImageDataset(dataset, num_frames=5, frame_stride=3, size=(40, 60), action="stored"):
        change = center_crop(SIZE, SIZE, 40, 60)
        for i, view in enumerate(sample["view_names"]):
            for j, frame in enumerate(f for f in sample["frame_indices"].tolist() if f >= 0):
                for kind, name in (("video", "rgb"), ("action_video", "action")):
                    picture = getattr(stored[sample["key"]], name)(view, [frame])[0]
                    box = picture[change.top : change.top + change.crop_height, :]
                    scaled = np.asarray(Image.fromarray(box).resize((60, 40), Image.Resampling.BILINEAR))
                    found = sample[kind][:, i * 5 + j].permute(1, 2, 0).numpy()
                    # Rounding of one in a few hundred values goes the other way.
                    off = np.abs(found - (scaled / 255 - 0.5) / 0.5) > 1e-5
                    assert np.abs(found - (scaled / 255 - 0.5) / 0.5).max() <= 1e-5 + 2 / 255
                    differing.append(off.mean())
        K = sample["intrinsics"][0].numpy()
        # The crop of 64 x 43 pixels begins at row 10; the optical axis is at row 32.
        np.testing.assert_allclose(np.abs(K[[0, 1], [0, 1]]), 1.1 * 64 * np.array([60 / 64, 40 / 43]), rtol=1e-6)
        np.testing.assert_allclose(K[:2, 2], [30, (32 - 10) * 40 / 43], rtol=1e-6)
    assert np.mean(differing) < 0.005


def test_pictures_keep_their_view_and_time(dataset: Path) -> None:
    for sample in ActionImageDataset(dataset, num_frames=6, frame_stride=2, size=SIZE, action="none", views=3):
        assert sorted(sample["view_names"]) == sorted(VIEWS)
        for i, view in enumerate(sample["view_names"]):
            for j, frame in enumerate(sample["frame_indices"].tolist()):
                if frame >= 0:
                    seen = read_bars(sample["video"][0, i * 6 + j].numpy())
                    assert seen == (number(sample), VIEWS.index(view), frame)


def test_rays_fit_the_cameras_of_the_sample(dataset: Path) -> None:
    for sample in ActionImageDataset(dataset, num_frames=3, size=16, action="none", seed=1):
        pose, K = sample["camera"].reshape(6, 3, 4).double(), sample["intrinsics"].double()
        v, u = torch.meshgrid(torch.arange(16) + 0.5, torch.arange(16) + 0.5, indexing="ij")
        pixels = torch.stack([u, v, torch.ones_like(u)], -1).double()
        direction = torch.einsum("tij,tjk,hwk->thwi", pose[:, :, :3], torch.linalg.inv(K), pixels)
        direction = F.normalize(direction, dim=-1)
        moment = torch.linalg.cross(pose[:, None, None, :, 3].expand_as(direction), direction) / 3
        expected = torch.cat([direction, moment], -1).permute(3, 0, 1, 2)
        torch.testing.assert_close(sample["plucker"].double(), expected, atol=1e-5, rtol=0)


def test_opencv_axes_see_the_same_pixels(dataset: Path) -> None:
    ours = list(ActionImageDataset(dataset, axes="opencv", **{**SMALL, "action": "rendered"}))
    published = list(ActionImageDataset(dataset, **{**SMALL, "action": "rendered"}))
    turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]))
    for a, b in zip(ours, published, strict=True):
        assert (a["intrinsics"][:, [0, 1], [0, 1]] > 0).all()
        torch.testing.assert_close(a["extrinsics"] @ turn, b["extrinsics"])
        relative = F.pad(a["camera"].reshape(-1, 3, 4), (0, 0, 0, 1))
        relative[:, 3, 3] = 1
        torch.testing.assert_close((turn @ relative @ turn)[:, :3].reshape(-1, 12), b["camera"])
        assert torch.equal(a["action_video"], b["action_video"])
        assert torch.equal(a["video"], b["video"])


def test_bytes_are_the_floats_before_scaling(dataset: Path) -> None:
    small = {**SMALL, "action": "stored", "num_frames": 30}
    for a, b in zip(
        ActionImageDataset(dataset, pixels="uint8", **small), ActionImageDataset(dataset, **small), strict=True
    ):
        for name in ("video", "action_video"):
            assert a[name].dtype == torch.uint8
            assert torch.equal(a[name].float().div(255).sub(0.5).div(0.5), b[name])


def test_no_action_pictures_when_none_are_asked_for(dataset: Path) -> None:
    assert "action_video" not in next(iter(ActionImageDataset(dataset, **SMALL)))
    assert "plucker" not in next(iter(ActionImageDataset(dataset, **SMALL)))


# ---- short episodes ------------------------------------------------------------------------------------------------


def test_short_episodes_are_padded_with_black_and_a_mask(dataset: Path) -> None:
    data = ActionImageDataset(dataset, num_frames=12, size=SIZE, action="both", plucker=True)
    sample = next(s for s in data if number(s) == 2)
    real = torch.arange(12) < 9
    assert sample["valid"].tolist() == real.tolist()
    assert sample["frame_indices"].tolist() == [*range(9), -1, -1, -1]
    for name in ("video", "action_video", "action_video_rendered"):
        by_view = sample[name].reshape(3, 2, 12, SIZE, SIZE)
        assert (by_view[:, :, ~real] == -1).all()
        assert (by_view[:, :, real] > -1).any(dim=(0, 3, 4)).all()
    assert (sample["action_7d"][~real] == 0).all()
    assert (sample["action_8d"][~real] == 0).all()
    poses = sample["extrinsics"].reshape(2, 12, 4, 4)
    assert (poses[:, 8:] == poses[:, 8:9]).all()
    assert torch.isfinite(sample["plucker"]).all()


def test_short_episodes_are_left_out_or_refused_by_choice(dataset: Path) -> None:
    data = ActionImageDataset(dataset, short="skip", **{**SMALL, "num_frames": 12})
    assert len(data) == 6
    assert {number(s) for s in data} == {0, 1, 3, 4, 5, 6}
    with pytest.raises(EmptyEpisodeError, match=r"ep_002.*expected >= 12 frames, found 9"):
        ActionImageDataset(dataset, short="error", **{**SMALL, "num_frames": 12})
    with pytest.raises(EmptyEpisodeError, match="no sample is as long"):
        ActionImageDataset(dataset, short="skip", **{**SMALL, "num_frames": 99})


def test_windows_lie_anywhere_in_the_episode(dataset: Path) -> None:
    starts = Counter()
    first = pc.field("episode") == "task_0/ep_000"
    for sample in ActionImageDataset(dataset, filter=first, epochs=30, **{**SMALL, "num_frames": 20}):
        starts[int(sample["frame_indices"][0])] += 1
    assert set(starts) == {0, 1, 2, 3}


# ---- modes ---------------------------------------------------------------------------------------------------------


def test_modes_follow_their_odds_and_carry_masks_of_one_length(dataset: Path) -> None:
    data = ActionImageDataset(dataset, modes={"labelling": 3, "one_frame": 1}, epochs=20, **SMALL)
    samples = list(data)
    drawn = Counter(sample["mode"] for sample in samples)
    assert set(drawn) == {"labelling", "one_frame"}
    assert 0.6 < drawn["labelling"] / len(samples) < 0.9
    batch = collate(samples[:8])
    assert batch["condition_mask"].shape == batch["used_mask"].shape == (8, 20)
    assert batch["condition_mask_latent"].shape == (8, 8)
    for sample in samples:
        videos = sample["condition_mask"].reshape(4, 5)[[0, 2]]
        assert videos.all() == (sample["mode"] == "labelling")


# ---- order, workers, processes, resume -----------------------------------------------------------------------------


def fingerprints(samples: Any) -> list[tuple[Any, ...]]:
    return [(s["key"], s["view_names"], tuple(s["frame_indices"].tolist()), s["mode"], s["text"]) for s in samples]


@pytest.mark.parametrize("workers", [0, 1, 3, 9])
def test_an_epoch_takes_every_sample_once_in_the_same_batches_for_any_workers(dataset: Path, workers: int) -> None:
    expected = fingerprints(ActionImageDataset(dataset, seed=7, batch_size=2, **SMALL))
    assert len({f[0] for f in expected}) == len(expected) == 7
    data = ActionImageDataset(dataset, seed=7, batch_size=2, **SMALL)
    loader = DataLoader(data, batch_size=2, num_workers=workers, collate_fn=fingerprints)
    batches = list(loader)
    assert [f for batch in batches for f in batch] == expected
    assert [len(batch) for batch in batches] == [2, 2, 2, 1]
    assert len(loader) == 4


def test_draws_do_not_depend_on_workers_even_without_the_batch_size(dataset: Path) -> None:
    expected = set(fingerprints(ActionImageDataset(dataset, seed=7, **SMALL)))
    loader = DataLoader(
        ActionImageDataset(dataset, seed=7, **SMALL), batch_size=3, num_workers=2, collate_fn=fingerprints
    )
    assert {f for batch in loader for f in batch} == expected


def test_epochs_and_seeds_differ(dataset: Path) -> None:
    data = ActionImageDataset(dataset, seed=1, **SMALL)
    first = fingerprints(data)
    assert fingerprints(data) == first
    data.set_epoch(1)
    second = fingerprints(data)
    assert second != first
    assert {f[0] for f in second} == {f[0] for f in first}
    assert fingerprints(ActionImageDataset(dataset, seed=2, **SMALL)) != first
    both = fingerprints(ActionImageDataset(dataset, seed=1, epochs=2, **SMALL))
    assert both == first + second
    endless = iter(ActionImageDataset(dataset, seed=1, epochs=None, **SMALL))
    assert fingerprints(next(endless) for _ in range(14)) == both


def test_set_epoch_reaches_workers_that_live_on(dataset: Path) -> None:
    data = ActionImageDataset(dataset, seed=1, batch_size=2, **SMALL)
    loader = DataLoader(data, batch_size=2, num_workers=2, persistent_workers=True, collate_fn=fingerprints)
    for epoch in range(2):
        data.set_epoch(epoch)
        alone = ActionImageDataset(dataset, seed=1, batch_size=2, **SMALL)
        alone.set_epoch(epoch)
        assert [f for batch in loader for f in batch] == fingerprints(alone)


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_share_an_epoch_without_loss_or_doubles(dataset: Path, ranks: int) -> None:
    seen: Counter[str] = Counter()
    for rank in range(ranks):
        data = ActionImageDataset(dataset, rank=rank, world_size=ranks, **SMALL)
        mine = keys(data)
        assert len(mine) == len(data)
        seen.update(mine)
    assert set(seen.values()) == {1}
    assert len(seen) == 7
    even = [keys(ActionImageDataset(dataset, rank=r, world_size=ranks, drop_last=True, **SMALL)) for r in range(ranks)]
    assert len({len(share) for share in even}) == 1


def test_the_process_is_that_of_torchrun(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    named = keys(ActionImageDataset(dataset, rank=1, world_size=2, **SMALL))
    assert keys(ActionImageDataset(dataset, **SMALL)) == named


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [0, 1, 3, 6, 7])
def test_a_restart_in_the_middle_goes_on_with_the_same_batches(dataset: Path, workers: int, taken: int) -> None:
    def loader() -> StatefulDataLoader:
        data = ActionImageDataset(dataset, seed=5, batch_size=2, epochs=2, **SMALL)
        return StatefulDataLoader(data, batch_size=2, num_workers=workers, collate_fn=fingerprints)

    whole = list(loader())
    assert len(whole) >= 7
    stopped = loader()
    batches = iter(stopped)
    head = [next(batches) for _ in range(taken)]
    state = pickle.loads(pickle.dumps(stopped.state_dict()))
    del batches
    again = loader()
    again.load_state_dict(state)
    assert head + list(again) == whole


def test_a_restart_of_a_bare_stream(dataset: Path) -> None:
    whole = fingerprints(ActionImageDataset(dataset, **SMALL))
    data = ActionImageDataset(dataset, **SMALL)
    running = iter(data)
    head = fingerprints(next(running) for _ in range(3))
    state = json.loads(json.dumps(data.state_dict()))
    again = ActionImageDataset(dataset, **SMALL)
    again.load_state_dict(state)
    assert again.state_dict() == state
    assert head + fingerprints(again) == whole
    assert fingerprints(again) == whole


def test_a_state_of_another_run_is_refused(dataset: Path) -> None:
    state = ActionImageDataset(dataset, **SMALL).state_dict()
    with pytest.raises(InvalidSpecError, match="another run"):
        ActionImageDataset(dataset, seed=1, **SMALL).load_state_dict(state)
    same = ActionImageDataset(dataset, **SMALL)
    with pytest.raises(InvalidSpecError, match=r"states are missing.*no worker 1 of process 0"):
        same.load_state_dict({**state, "workers": 2})
    with pytest.raises(InvalidSpecError, match="no state"):
        same.load_state_dict({"epoch": 3})


def test_data_sets_survive_pickling_half_way(dataset: Path) -> None:
    data = ActionImageDataset(dataset, **SMALL)
    expected = fingerprints(data)
    assert fingerprints(pickle.loads(pickle.dumps(data))) == expected


# ---- where data is -------------------------------------------------------------------------------------------------


def test_single_shards_and_urls_give_the_same_samples(dataset: Path) -> None:
    import fsspec

    whole = {f[0]: f for f in fingerprints(ActionImageDataset(dataset, **SMALL))}
    shards = sorted((dataset / "train").glob("*.tar"))
    some = fingerprints(ActionImageDataset(shards[:2], **SMALL))
    assert len(some) == 4
    assert all(whole[f[0]] == f for f in some)
    assert len(list(ActionImageDataset(str(shards[3]), **SMALL))) == 1
    memory = fsspec.filesystem("memory")
    for path in dataset.rglob("*"):
        if path.is_file():
            memory.pipe(f"/bucket/data/{path.relative_to(dataset)}", path.read_bytes())
    assert {f[0]: f for f in fingerprints(ActionImageDataset("memory://bucket/data", **SMALL))} == whole
    found = fingerprints(ActionImageDataset("memory://bucket/data/train/000001.tar", **SMALL))
    assert {f[0]: f for f in found} == {f[0]: whole[f[0]] for f in found}
    assert len(found) == 2
    assert len(list(ActionImageDataset(f"file://{dataset}", **SMALL))) == 7
    memory.rm("/bucket", recursive=True)


def test_an_unfinished_data_set_is_refused_as_a_whole_and_its_shards_are_not(copy: Path) -> None:
    (copy / "index.parquet").unlink()
    with pytest.raises(SourceNotFoundError, match=r"index\.parquet"):
        ActionImageDataset(copy, **SMALL)
    assert len(list(ActionImageDataset(copy / "train" / "000000.tar", **SMALL))) == 2


def test_filters_select_by_the_index(dataset: Path) -> None:
    longer = ActionImageDataset(dataset, filter=pc.field("frames") > 24, **SMALL)
    assert {number(s) for s in longer} == {3, 4, 5, 6}
    by_text = IndexedActionImageDataset(
        dataset, filter=pc.match_substring(pc.field("instruction"), "drawer 4"), **SMALL
    )
    assert [number(by_text[0])] == [4]
    by_task = IndexedActionImageDataset(dataset, filter=pc.field("task") == "task_1", **SMALL)
    assert {number(s) for s in (by_task[i] for i in range(len(by_task)))} == {1, 3, 5}
    with pytest.raises(EmptyEpisodeError, match="filter"):
        ActionImageDataset(dataset, filter=pc.field("frames") > 999, **SMALL)
    with pytest.raises(InvalidSpecError, match="filter"):
        ActionImageDataset(dataset, filter=pc.field("no_such_column") > 1, **SMALL)


def test_the_table_gives_samples_by_number_and_key(dataset: Path) -> None:
    data = IndexedActionImageDataset(dataset, **SMALL)
    assert len(data) == 7
    assert data.table["frames"].to_pylist() == [int(FRAMES[int(k.rpartition("_")[2])]) for k in data.keys]
    streamed = {f[0]: f for f in fingerprints(ActionImageDataset(dataset, **SMALL))}
    assert {f[0]: f for f in fingerprints(data[i] for i in range(7))} == streamed
    assert fingerprints([data[data.keys[4]]]) == fingerprints([data[4]])
    exact = data.sample(0, start=3, views=("wrist", "front"), mode="labelling")
    assert exact["frame_indices"].tolist() == [3, 4, 5, 6, 7]
    assert (exact["view_names"], exact["mode"]) == (("wrist", "front"), "labelling")
    loader = DataLoader(data, batch_size=3, num_workers=2, shuffle=True, collate_fn=fingerprints)
    assert sorted(f[0] for batch in loader for f in batch) == sorted(data.keys)
    with pytest.raises(KeyError):
        data["nothing"]
    with pytest.raises(IndexError):
        data[7]
    with pytest.raises(InvalidSpecError, match="start"):
        data.sample(0, start=99)
    with pytest.raises(InvalidSpecError, match="views"):
        data.sample(0, views=("front", "back"))
    with pytest.raises(InvalidSpecError, match="mode"):
        data.sample(0, mode="all")


# ---- mixing --------------------------------------------------------------------------------------------------------


def test_a_mix_keeps_its_ratio_and_brings_rates_together(dataset: Path, slow_dataset: Path) -> None:
    names = {"fast": dataset, "slow": slow_dataset}
    data = ConcatActionImageDataset(
        {"fast": 0.75, "slow": 0.25}, paths=names, fps=5, epoch_samples=16, **{**SMALL, "num_frames": 2}
    )
    samples = list(data)
    assert Counter(s["source"] for s in samples) == {"fast": 12, "slow": 4}
    assert {s["fps"] for s in samples} == {5.0}
    steps = {s["source"]: int(s["frame_indices"][1] - s["frame_indices"][0]) for s in samples}
    assert steps == {"fast": 4, "slow": 1}
    # The second pass over a source of 7 draws other windows.
    assert len(set(fingerprints(s for s in samples if s["source"] == "fast"))) > 7


def test_a_mix_is_deterministic_distributed_and_resumable(dataset: Path, slow_dataset: Path) -> None:
    def loader(workers: int) -> StatefulDataLoader:
        data = ConcatActionImageDataset(
            {str(dataset): 0.5, str(slow_dataset): 0.5}, fps=5, batch_size=2, **{**SMALL, "num_frames": 2}
        )
        return StatefulDataLoader(data, batch_size=2, num_workers=workers, collate_fn=fingerprints)

    whole = list(loader(0))
    assert sum(map(len, whole)) == 10
    assert list(loader(2)) == whole
    stopped = loader(2)
    running = iter(stopped)
    head = [next(running) for _ in range(2)]
    again = loader(2)
    again.load_state_dict(stopped.state_dict())
    assert head + list(again) == whole


def test_sources_whose_windows_span_different_times_are_refused_unless_declared(
    dataset: Path, slow_dataset: Path
) -> None:
    ratios = {dataset.parent.name: 0.5, slow_dataset.parent.name: 0.5}
    paths = {dataset.parent.name: dataset, slow_dataset.parent.name: slow_dataset}
    with pytest.raises(InvalidSpecError, match=r"5 frames at 20 Hz = 0\.25 s.*5 frames at 5 Hz = 1 s"):
        ConcatActionImageDataset(ratios, paths=paths, **SMALL)
    ConcatActionImageDataset(ratios, paths=paths, allow_different_rates=True, **SMALL)
    ConcatActionImageDataset(ratios, paths=paths, frame_stride={dataset.parent.name: 4}, **SMALL)
    with pytest.raises(InvalidSpecError, match="no whole multiple"):
        ConcatActionImageDataset(ratios, paths=paths, fps=3, **SMALL)


def test_bad_mixes_are_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpecError, match="ratios"):
        ConcatActionImageDataset({}, **SMALL)
    with pytest.raises(InvalidSpecError, match="must be positive"):
        ConcatActionImageDataset({str(dataset): 0.0}, **SMALL)
    with pytest.raises(InvalidSpecError, match="has no path"):
        ConcatActionImageDataset({"a": 1.0}, paths={"b": dataset}, **SMALL)
    with pytest.raises(InvalidSpecError, match="nonsense"):
        ConcatActionImageDataset({str(dataset): 1.0}, nonsense=1, **SMALL)
    other = make_dataset(tmp_path, (8,), spec={"sigma": 0.02})[0]
    with pytest.raises(InvalidSpecError, match="drawn in different ways"):
        ConcatActionImageDataset({str(dataset): 0.5, str(other): 0.5}, **SMALL)
    relative = ConcatActionImageDataset({dataset.name: 1.0}, root=dataset.parent, **SMALL)
    assert len(relative) == 7


# ---- bad input -----------------------------------------------------------------------------------------------------


def members(dataset: Path, shard: str = "000000") -> Iterator[tuple[str, dict[str, Any]]]:
    sidecar = json.loads((dataset / "train" / f"{shard}.json").read_text())
    for sample in sidecar["samples"]:
        for member in sample["members"]:
            yield sample["key"], member


def test_a_truncated_shard_is_named(copy: Path) -> None:
    shard = copy / "train" / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:-2000])
    with pytest.raises(CorruptDatasetError, match=r"000001\.tar"):
        list(ActionImageDataset(copy, **SMALL))


def test_one_flipped_byte_is_found_in_every_member_that_is_read(copy: Path) -> None:
    shard = copy / "train" / "000000.tar"
    good = shard.read_bytes()
    data = IndexedActionImageDataset(copy, num_frames=3, size=SIZE, views=3)
    for key, member in members(copy):
        bad = bytearray(good)
        bad[member["offset"] + member["size"] // 2] ^= 1
        shard.write_bytes(bytes(bad))
        with pytest.raises(CorruptDatasetError, match=re.escape(f"{key}.{member['name']}")):
            data[key]
    shard.write_bytes(good)
    assert data[0]["key"] == data.keys[0]


def test_errors_name_shard_and_key_in_a_worker(copy: Path) -> None:
    shard = copy / "train" / "000000.tar"
    key, member = next((k, m) for k, m in members(copy) if m["name"] == "front.rgb.mp4")
    bad = bytearray(shard.read_bytes())
    bad[member["offset"] + 500] ^= 1
    shard.write_bytes(bytes(bad))
    loader = DataLoader(ActionImageDataset(copy, view_names=("front", "side"), **SMALL), num_workers=1, collate_fn=keys)
    with pytest.raises(CorruptDatasetError, match=rf"000000\.tar: {key}"):
        list(loader)


def test_damaged_samples_can_be_skipped_up_to_a_limit_and_nothing_takes_their_place(copy: Path) -> None:
    shard = copy / "train" / "000000.tar"
    bad = bytearray(shard.read_bytes())
    spoiled = set()
    for key, member in members(copy):
        if member["name"] == "trajectory.npz":
            bad[member["offset"] + 40] ^= 1
            spoiled.add(key)
    shard.write_bytes(bytes(bad))
    data = ActionImageDataset(copy, on_error="skip", max_errors=2, **SMALL)
    with pytest.warns(SkippedSampleWarning, match="000000") as caught:
        left = keys(data)
    assert len(left) == 5
    assert not spoiled & set(left)
    assert len(caught) == data.skipped == 2
    with (
        pytest.warns(SkippedSampleWarning),
        pytest.raises(CorruptDatasetError, match="was changed"),
    ):
        list(ActionImageDataset(copy, on_error="skip", max_errors=1, **SMALL))


def reindexed(folder: Path, change: Any) -> None:
    """Rewrite the index with changed rows, and the manifest to match, as a careless tool might."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from actionimg_data.schemas import DatasetManifest, index_schema
    from actionimg_data.schemas.dataset import to_bytes

    rows = pq.read_table(folder / "index.parquet").to_pylist()
    change(rows)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=index_schema()), sink)
    (folder / "index.parquet").write_bytes(sink.getvalue())
    manifest = DatasetManifest.model_validate_json((folder / "dataset.json").read_bytes())
    files = {**manifest.files, "index.parquet": hashlib.sha256(sink.getvalue()).hexdigest()}
    (folder / "dataset.json").write_bytes(to_bytes(manifest.model_copy(update={"files": files}).sealed()))


def test_a_sample_short_of_a_member_is_named(copy: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[1]["members"] = [m for m in rows[1]["members"] if m["name"] != "side.rgb.mp4"]

    reindexed(copy, change)
    data = IndexedActionImageDataset(copy, view_names=("front", "side"), **SMALL)
    with pytest.raises(CorruptDatasetError, match=rf"{data.keys[1]}: side\.rgb\.mp4: has no such member"):
        data[1]


def test_an_index_that_promises_other_samples_is_found(copy: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[0]["frames"] += 1

    reindexed(copy, change)
    with pytest.raises(CorruptDatasetError, match="frames: is not a sample of this data set"):
        IndexedActionImageDataset(copy, **SMALL)[0]


def test_a_changed_manifest_or_index_is_found(copy: Path) -> None:
    index = copy / "index.parquet"
    good = index.read_bytes()
    index.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(CorruptDatasetError, match=r"index\.parquet"):
        ActionImageDataset(copy, **SMALL)
    manifest = copy / "dataset.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"planned_shards": 4', b'"planned_shards": 5'))
    with pytest.raises(CorruptDatasetError, match="checksum"):
        ActionImageDataset(copy, **SMALL)


def test_a_shard_of_another_data_set_is_refused(copy: Path, slow_dataset: Path) -> None:
    for name in ("000000.tar", "000000.json"):
        shutil.copy(slow_dataset / "train" / name, copy / "train" / name)
    with pytest.raises(CorruptDatasetError, match=r"000000"):
        list(ActionImageDataset(copy, **SMALL))
    with pytest.raises(CorruptDatasetError, match="what the manifest says"):
        ActionImageDataset([copy / "train" / "000000.tar"], **SMALL)
    with pytest.raises(WrongFormatError, match="ConcatActionImageDataset"):
        ActionImageDataset([copy / "train" / "000001.tar", slow_dataset / "train" / "000000.tar"], **SMALL)


def test_a_shard_of_another_version_is_refused(copy: Path) -> None:
    sidecar = copy / "train" / "000000.json"
    text = sidecar.read_text()
    changed = text.replace('"version":1', '"version":2')
    assert changed != text
    sidecar.write_text(changed)
    with pytest.raises(ActionImgError, match=r"000000\.json"):
        list(ActionImageDataset(copy, **SMALL))


def test_pickle_members_are_never_read(copy: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        for member in rows[0]["members"]:
            if member["name"] == "trajectory.npz":
                member["name"] = "trajectory.pkl"

    reindexed(copy, change)
    with pytest.raises(CorruptDatasetError, match=r"trajectory\.pkl|trajectory\.npz"):
        IndexedActionImageDataset(copy, **SMALL)[0]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("pipe:cat /etc/passwd", UnsafeFileError),
        ("  PIPE:curl evil", UnsafeFileError),
        ("pipe:cat x.tar", UnsafeFileError),
        ("nosuch://bucket/data", UnsupportedSourceError),
        ("/nowhere/at/all", SourceNotFoundError),
        ([], WrongFormatError),
        (["/a", "/b"], WrongFormatError),
        (["/a/train/1.tar", "/a/train/1.tar"], WrongFormatError),
    ],
)
def test_bad_paths_are_refused(path: Any, error: type[ActionImgError]) -> None:
    with pytest.raises(error):
        ActionImageDataset(path, **SMALL)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"views": 4}, "too few views.*4 different ones.*3: front side wrist"),
        ({"view_names": ("front",)}, "too few views"),
        ({"view_names": ("front", "front")}, "too few views"),
        ({"view_names": ("front", "back")}, "no such view.*back"),
        ({"num_frames": 0}, "num_frames"),
        ({"num_frames": 2.5}, "num_frames"),
        ({"size": 0}, "size"),
        ({"seed": -1}, "seed"),
        ({"fps": 7.0}, "no whole multiple"),
        ({"fps": -1.0}, "fps"),
        ({"fps": 5.0, "frame_stride": 2}, "not both"),
        ({"action": "drawn"}, "action"),
        ({"short": "stretch"}, "short"),
        ({"text_dropout": 1.5}, "text_dropout"),
        ({"framerate": 5}, "framerate.*one of num_frames"),
        ({"num_frames": 6, "strict": True}, r"not 4n \+ 1.*take 5 or 9"),
        ({"size": 60, "strict": True}, "multiple of 16.*take 64x64"),
        ({"pixels": "float16"}, "pixels"),
        ({"axes": "opengl"}, "axes"),
        ({"modes": {"dream": 1.0}}, "dream"),
        ({"batch_size": 0}, "batch_size"),
        ({"epochs": 0}, "epochs"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"rank": 0}, "go together"),
        ({"on_error": "ignore"}, "on_error"),
    ],
)
def test_bad_options_are_refused(dataset: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidSpecError, match=match):
        ActionImageDataset(dataset, **{**SMALL, **options})


def test_data_sets_without_action_pictures_draw_them_or_say_so(tmp_path: Path) -> None:
    out = make_dataset(tmp_path, (8, 9), views=("front",), action_codec="none")[0]
    with pytest.raises(InvalidSpecError, match="stores no action images"):
        ActionImageDataset(out, views=1, size=SIZE, num_frames=4)
    with pytest.raises(InvalidSpecError, match="too few views"):
        ActionImageDataset(out, size=SIZE, num_frames=4, action="rendered")
    for sample in ActionImageDataset(out, views=1, size=SIZE, num_frames=4, action="rendered"):
        assert np.abs(sample["action_video"].numpy() - published_action_video(sample, SIZE)).max() <= 1.01 * 2 / 255
        assert sample["condition_mask"].shape == (8,)


# ---- on the device -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["rlbench", "opencv"])
def test_the_device_makes_the_same_of_bytes_as_the_loader(dataset: Path, axes: Any) -> None:
    common: dict[str, Any] = {"num_frames": 12, "size": 48, "axes": axes}
    whole = collate(list(ActionImageDataset(dataset, action="rendered", **common)))
    lean = ActionImageDataset(dataset, action="none", plucker=False, pixels="uint8", **common)
    batch = DeviceTransform(spec=lean.spec, axes=axes)(collate(list(lean)))
    assert batch["action_video"].shape == (7, 3, 24, 48, 48)
    for name in ("video", "camera", "valid", "action_7d"):
        assert torch.equal(batch[name], whole[name])
    torch.testing.assert_close(batch["plucker"], whole["plucker"], atol=1e-6, rtol=0)
    assert (batch["action_video"] - whole["action_video"]).abs().max() <= 1.01 / 255
    assert batch["fps"].tolist() == [20.0] * 7
    assert isinstance(batch["text"], list)


def test_the_device_refuses_a_spec_of_another_size(dataset: Path) -> None:
    data = ActionImageDataset(dataset, **SMALL)
    with pytest.raises(InvalidSpecError, match="differ in size"):
        DeviceTransform(spec=data.spec.resized(32, 32), plucker=False)(collate(list(data)))
    with pytest.raises(InvalidSpecError, match="axes"):
        DeviceTransform(axes="opengl")
    half = DeviceTransform(plucker=False, dtype=torch.bfloat16)(collate(list(data)))
    assert half["video"].dtype == torch.bfloat16
    assert "plucker" not in half


def test_torchs_own_collate_takes_the_samples(dataset: Path) -> None:
    batch = next(iter(DataLoader(ActionImageDataset(dataset, **SMALL), batch_size=3)))
    assert batch["video"].shape == (3, 3, 10, SIZE, SIZE)
    assert len(batch["text"]) == len(batch["mode"]) == 3

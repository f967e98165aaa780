"""What decodes videos for training: torchcodec, or PyAV, with the same pixels and the same errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_data import make_dataset

from actionimg_data.errors import CorruptDatasetError, MissingExtraError
from actionimg_data.training import ActionImageDataset, decoding
from actionimg_data.video import read_frames

ROOT = Path(__file__).resolve().parents[1]


class Stand:
    """torchcodec's calls, by PyAV; those of videos that it is told to refuse fail as torchcodec's do."""

    asked: list[list[int]]
    refuses = False

    def __init__(self, data: bytes, dimension_order: str, num_ffmpeg_threads: int) -> None:
        assert (dimension_order, num_ffmpeg_threads) == ("NHWC", 1)
        self.data = data

    def get_frames_at(self, indices: list[int]) -> Any:
        Stand.asked.append(indices)
        if Stand.refuses:
            raise RuntimeError("Requested next frame while there are no more frames left to decode.")
        return SimpleNamespace(data=torch.from_numpy(read_frames(self.data, indices)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("decoder"), [9, 6], size=32)[0]


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> type[Stand]:
    Stand.asked, Stand.refuses = [], False
    monkeypatch.setattr(decoding, "torchcodec", lambda: Stand)
    return Stand


def videos(dataset: Path, **options: Any) -> Sequence[torch.Tensor]:
    loader = ActionImageDataset(dataset, num_frames=5, size=32, pixels="uint8", shuffle=False, **options)
    return [sample["video"] for sample in loader]


def test_both_decoders_give_the_same_pixels(dataset: Path, stand: type[Stand]) -> None:
    plain = videos(dataset, decoder="pyav")
    assert not stand.asked
    for other in (videos(dataset), videos(dataset, decoder="torchcodec")):
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
    # Of two samples two views and their action videos, twice.
    assert len(stand.asked) == 16
    assert all(indices == sorted(indices) for indices in stand.asked)


def test_the_real_one_gives_the_same_pixels(dataset: Path) -> None:
    if decoding.torchcodec() is None:
        pytest.skip("torchcodec cannot be loaded here")
    pairs = zip(videos(dataset, decoder="pyav"), videos(dataset, decoder="torchcodec"), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_what_it_cannot_read_is_read_by_the_other(dataset: Path, stand: type[Stand]) -> None:
    stand.refuses = True
    pairs = zip(videos(dataset, decoder="pyav"), videos(dataset), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert stand.asked


def test_bytes_that_nobody_checked_are_not_given_to_it(dataset: Path, stand: type[Stand]) -> None:
    videos(dataset, verify=False)
    assert not stand.asked


def test_a_damaged_video_is_named_whoever_decodes(dataset: Path, stand: type[Stand], tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    shard = copy / "train" / "000000.tar"
    data = bytearray(shard.read_bytes())
    for found in re.finditer(b"mdat", bytes(data)):
        data[found.end() + 20] ^= 0xFF
    shard.write_bytes(data)
    for decoder in ("pyav", "torchcodec"):
        with pytest.raises(CorruptDatasetError, match=r"SHA-256|checksum|changed"):
            videos(copy, decoder=decoder)


def test_without_it_the_extra_is_named(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "torchcodec", lambda: None)
    assert videos(dataset)
    with pytest.raises(MissingExtraError, match=re.escape("torchcodec cannot be loaded")):
        videos(dataset, decoder="torchcodec")

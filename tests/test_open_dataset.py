from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_converter import SyntheticConverter, write_source

import actionimg_data as aid
from actionimg_data import engine
from actionimg_data.errors import (
    BadFileError,
    CorruptDatasetError,
    MissingFrameError,
    SourceNotFoundError,
    UnsafeFileError,
    WrongFormatError,
)
from actionimg_data.schemas import ConvertOptions, index_schema
from actionimg_data.shards import layout, read_cameras_npz


def make(folder: Path, **options: Any) -> Path:
    src = write_source(folder / "src", episodes=4, frames=6)
    values = {"height": 64, "width": 64, "episodes_per_shard": 3, **options}
    engine.convert(SyntheticConverter(), src, folder / "out", ConvertOptions.parse(**values))
    return folder / "out"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("data"), action_codec="ffv1")


def test_samples_come_in_order_and_by_key_and_say_what_was_converted(out: Path) -> None:
    dataset = aid.open_dataset(out)
    converter = SyntheticConverter()
    refs = list(converter.discover(str(out.parent / "src")))
    assert len(dataset) == 4
    assert dataset.keys() == [f"task-ep_{i:03d}" for i in range(4)]
    for sample, ref in zip(dataset, refs, strict=True):
        episode = converter.read(ref)
        assert dataset[sample.key].meta == sample.meta
        assert sample.instruction == episode.instruction
        assert len(sample) == len(episode)
        assert (sample.views, sample.fps) == (("front", "side"), 10.0)
        np.testing.assert_array_equal(sample.trajectory.position, episode.trajectory.position)
        np.testing.assert_array_equal(sample.trajectory.quaternion_xyzw, episode.trajectory.quaternion_xyzw)
        for view in sample.views:
            np.testing.assert_allclose(sample.cameras[view].K[0], episode.views[view].camera.K)
        truth = np.stack(list(episode.views["side"].frames.frames(range(len(episode)))))
        assert np.abs(sample.rgb("side").astype(int) - truth).mean() < 4
    assert [s.key for s in dataset[1:3]] == dataset.keys()[1:3]
    assert dataset[-1].key == dataset.keys()[-1]
    assert "task-ep_002" in dataset
    assert "task-ep_009" not in dataset
    for absent in ("task-ep_009", 4):
        with pytest.raises(LookupError):
            dataset[absent]
    assert dataset.table.schema == index_schema()


def test_stored_action_images_are_the_renderer_s_own(out: Path) -> None:
    dataset = aid.open_dataset(out)
    sample = dataset["task-ep_001"]
    drawn = aid.render(sample.trajectory, sample.cameras, dataset.spec)
    for i, view in enumerate(sample.views):
        np.testing.assert_array_equal(sample.action(view), drawn[i])


def test_action_images_that_are_not_stored_are_drawn_to_the_same_pictures(out: Path, tmp_path: Path) -> None:
    stored = aid.open_dataset(out)["task-ep_002"]
    drawn = aid.open_dataset(make(tmp_path, action_codec="none"))["task-ep_002"]
    assert "front.action.mkv" not in drawn.members
    np.testing.assert_array_equal(drawn.action("front"), stored.action("front"))
    np.testing.assert_array_equal(drawn.action("front", [4, 1]), stored.action("front")[[4, 1]])
    np.testing.assert_array_equal(np.concatenate(list(drawn.iter_action("side", 3))), stored.action("side"))
    with pytest.raises(WrongFormatError, match="stores no action images"):
        drawn.video_info("front", "action")


@pytest.mark.parametrize("frames", [slice(2, 5), slice(None, None, 3), slice(-2, None), [5, 0, -1], []])
def test_a_window_of_frames_is_that_part_of_the_whole(out: Path, frames: Any) -> None:
    sample = aid.open_dataset(out)["task-ep_000"]
    for kind in (sample.rgb, sample.action):
        np.testing.assert_array_equal(kind("front", frames), kind("front")[frames])


def test_frames_come_in_chunks(out: Path) -> None:
    sample = aid.open_dataset(out)["task-ep_001"]
    chunks = list(sample.iter_rgb("front", 3))
    assert [len(c) for c in chunks] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(chunks), sample.rgb("front"))


def test_wrong_names_and_frames_are_refused_with_those_there_are(out: Path) -> None:
    sample = aid.open_dataset(out)["task-ep_000"]
    with pytest.raises(WrongFormatError, match="front side"):
        sample.rgb("wrist")
    with pytest.raises(MissingFrameError, match="0 … 5"):
        sample.rgb("front", [6])
    with pytest.raises(CorruptDatasetError, match="no such member"):
        sample.read("secrets.pkl")


def test_a_data_set_can_be_pickled_to_workers_and_holds_no_open_file(out: Path) -> None:
    dataset = aid.open_dataset(out)
    assert dataset["task-ep_003"].fps == 10.0
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again["task-ep_003"].rgb("front"), dataset["task-ep_003"].rgb("front"))


def test_one_shard_can_be_read_by_itself(out: Path) -> None:
    dataset = aid.open_dataset(out / "train/000000.tar")
    assert dataset.keys() == ["task-ep_000", "task-ep_001", "task-ep_002"]
    assert dataset.manifest is None
    whole = aid.open_dataset(out)
    np.testing.assert_array_equal(dataset[1].action("side"), whole[1].action("side"))


def test_cameras_taken_out_of_a_shard_can_be_read(out: Path, tmp_path: Path) -> None:
    with tarfile.open(out / "train/000000.tar") as archive:
        (tmp_path / "x.cameras.npz").write_bytes(archive.extractfile("task-ep_000.cameras.npz").read())
    cameras = read_cameras_npz(tmp_path / "x.cameras.npz")
    assert list(cameras) == ["front", "side"]
    assert (len(cameras["side"]), cameras["side"].width) == (6, 64)
    with pytest.raises(SourceNotFoundError):
        read_cameras_npz(tmp_path / "absent.npz")


def test_what_is_no_data_set_is_refused(tmp_path: Path, out: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="does not exist"):
        aid.open_dataset(tmp_path / "absent")
    with pytest.raises(SourceNotFoundError, match=r"has no dataset\.json"):
        aid.open_dataset(tmp_path)
    (tmp_path / "x.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(CorruptDatasetError, match="not a readable tar"):
        aid.open_dataset(tmp_path / "x.tar")
    src = write_source(tmp_path / "src", episodes=2)
    engine.convert(
        SyntheticConverter(), src, tmp_path / "half", ConvertOptions.parse(height=64, width=64), num_shards=2
    )
    with pytest.raises(CorruptDatasetError, match="not complete"):
        aid.open_dataset(tmp_path / "half")


@pytest.mark.parametrize("name", ["../evil.json", "/etc/passwd", "nokey", ".json", "dir/key.json"])
def test_a_tar_with_paths_or_nameless_members_is_refused(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        info = tarfile.TarInfo(name)
        info.size = 2
        archive.addfile(info, io.BytesIO(b"{}"))
    with pytest.raises(CorruptDatasetError, match="unexpected member"):
        aid.open_dataset(tmp_path / "x.tar")


def test_a_tar_with_links_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        info = tarfile.TarInfo("key.json")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(CorruptDatasetError, match="unexpected member"):
        aid.open_dataset(tmp_path / "x.tar")


def test_objects_in_a_sample_s_arrays_are_refused_without_being_unpickled(out: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "exploded").touch, ())

    body = io.BytesIO()
    np.savez(body, position=np.array([Bomb()], dtype=object))
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for member, data in (("json", aid.open_dataset(out)[0].read("json")), ("trajectory.npz", body.getvalue())):
            info = tarfile.TarInfo(f"key.{member}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    sample = aid.open_dataset(tmp_path / "x.tar")["key"]
    with pytest.raises((UnsafeFileError, BadFileError)):
        _ = sample.trajectory
    assert not (tmp_path / "exploded").exists()


def test_a_place_in_a_folder_and_one_in_a_store_have_the_same_methods(tmp_path: Path) -> None:
    """Whatever is done to a data set's files is done in one way, wherever they are."""
    import fsspec

    for root in (layout.place(tmp_path / "out"), layout.place("memory://places/out")):
        file = root / "train" / "000000.json"
        assert layout.place(file).create(b"0123456789") is True
        assert layout.place(file).create(b"other") is False
        assert file.read_bytes() == b"0123456789"
        assert layout.place(file).read_ranges([(0, 2), (8, 2), (4, 0)]) == [b"01", b"89", b""]
        assert b"".join(layout.place(file).chunks()) == b"0123456789"
        with layout.place(file).open_read() as opened:
            opened.seek(3)
            assert opened.read(2) == b"34"
        layout.place(file).put(b"new")
        assert layout.place(root / "train").sizes() == layout.listing(root / "train") == {"000000.json": 3}
        assert layout.place(root / "nothing").sizes() == {}
        assert layout.place(root).free_bytes() is None or layout.place(root).free_bytes()
        layout.place(root).check_protocol()
        assert pickle.loads(pickle.dumps(root)) == root
    with pytest.raises(CorruptDatasetError, match=r"wrong size.*expected 4 B, found 3 B"):
        layout.read_ranges(tmp_path / "out" / "train" / "000000.json", [(0, 1)], 4)
    fsspec.filesystem("memory").rm("/places", recursive=True)

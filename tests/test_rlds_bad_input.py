"""RLDS data sets that are damaged, incomplete or not what they say: named errors, and nothing worse."""

from __future__ import annotations

import json
import logging
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rlds_data as data

from actionimg_data.converters.rlds import RLDSConverter, RLDSOptions, crc32c, open_rlds
from actionimg_data.converters.rlds import features as F
from actionimg_data.demo import rlds as w
from actionimg_data.errors import (
    ActionImgError,
    BadFileError,
    BadImageError,
    EmptyEpisodeError,
    FrameCountError,
    InvalidTextError,
    MissingExtraError,
    SourceNotFoundError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIONIMG_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    episodes = [data.all_kinds_episode(3, i) for i in range(5)]
    root = tmp_path_factory.mktemp("rlds")
    return w.write_rlds(root, "kinds", data.all_kinds_features(), {"train": episodes}, episodes_per_shard=2)


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "kinds" / "1.0.0"))


def shard(folder: Path, number: int = 0) -> Path:
    (path,) = folder.glob(f"*-train.tfrecord-{number:05d}-of-*")
    return path


def read_all(folder: Path, **options: Any) -> list[dict[str, Any]]:
    return list(open_rlds(folder, **options).episodes())


def write_one(tmp_path: Path, node: F.Group, *records: bytes) -> Path:
    """A data set of given records."""
    folder = w.write_rlds(tmp_path, "d", node, {"train": []})
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = [str(len(records))]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    w.write_records(folder / "d-train.tfrecord-00000-of-00001", records, "tfrecord")
    return folder


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_flipped_byte_in_a_record_names_file_and_byte(folder: Path) -> None:
    path = shard(folder, 1)
    content = bytearray(path.read_bytes())
    second = 12 + struct.unpack("<Q", content[:8])[0] + 4
    content[second + 500] ^= 0x10
    path.write_bytes(content)
    episodes = open_rlds(folder).episodes()
    assert len([next(episodes), next(episodes), next(episodes)]) == 3
    with pytest.raises(BadFileError, match=rf"{path.name}.*record at byte {second} does not match its CRC"):
        next(episodes)


def test_a_flipped_byte_in_a_length_is_found_when_the_file_is_indexed(folder: Path) -> None:
    path = shard(folder)
    content = bytearray(path.read_bytes())
    content[2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadFileError, match="length of the record at byte 0 does not match its CRC"):
        read_all(folder)


def test_a_damaged_first_record_costs_only_its_own_episode(folder: Path) -> None:
    path = shard(folder)
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    dataset = open_rlds(folder)
    places = list(dataset.places("train"))
    assert len(places) == 5
    with pytest.raises(BadFileError, match="byte 0 does not match"):
        dataset.record(places[0])
    assert dataset.record(places[1]).read("episode_metadata/file_path") == "/raw/1"


@pytest.mark.parametrize("kept", [5, 11, 12, 700, -3])
def test_a_truncated_file_is_refused(folder: Path, kept: int) -> None:
    path = shard(folder)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BadFileError, match=r"ends within the (header of the )?record at byte"):
        read_all(folder)


def test_a_file_cut_between_records_is_refused_by_its_count(folder: Path) -> None:
    path = shard(folder)
    content = path.read_bytes()
    path.write_bytes(content[: 16 + struct.unpack("<Q", content[:8])[0]])
    with pytest.raises(FrameCountError, match="allow-count-mismatch"):
        read_all(folder)
    assert len(read_all(folder, allow_count_mismatch=True)) == 4


def test_a_claim_of_two_gigabytes_in_a_small_file_is_refused_without_allocating(folder: Path) -> None:
    length = struct.pack("<Q", (1 << 31) - 1)
    checksum = struct.pack("<I", crc32c.masked_crc32c(np.frombuffer(length, np.uint8)))
    shard(folder).write_bytes(length + checksum + bytes(1 << 20))
    with pytest.raises(BadFileError, match="2147483647 bytes of data"):
        read_all(folder)


def test_a_compressed_file_is_refused_by_name(folder: Path) -> None:
    import gzip

    path = shard(folder)
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UnsupportedSourceError, match="gzip"):
        read_all(folder)


def test_a_shard_that_is_listed_but_absent_is_refused_or_left_out(folder: Path, caplog: Any) -> None:
    shard(folder, 1).unlink()
    with pytest.raises(SourceNotFoundError, match=r"00001-of-00003.*--allow-missing-shards"):
        read_all(folder)
    with caplog.at_level(logging.WARNING):
        episodes = read_all(folder, allow_missing_shards=True)
    assert [e["episode_metadata"]["file_path"] for e in episodes] == ["/raw/0", "/raw/1", "/raw/4"]
    assert "1 of 3 files are absent" in caplog.text
    # Numbers in slices and ids keep meaning what they mean with all files there.
    dataset = open_rlds(folder, allow_missing_shards=True)
    assert [p.id for p in dataset.places("train[3:]")] == ["train/00002/000000"]


def test_a_split_without_any_of_its_files_is_refused(folder: Path) -> None:
    for number in range(3):
        shard(folder, number).unlink()
    with pytest.raises(SourceNotFoundError, match="choose another split"):
        read_all(folder, allow_missing_shards=True)


@pytest.mark.parametrize(("counts", "found"), [(["3", "2", "1"], 2), (["1", "2", "1"], 2)])
def test_counts_that_disagree_are_refused_or_ignored(folder: Path, counts: list[str], found: int) -> None:
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["shardLengths"] = counts
    path.write_text(json.dumps(info))
    with pytest.raises(FrameCountError, match=f"found {found}"):
        read_all(folder)
    assert len(read_all(folder, allow_count_mismatch=True)) == 5


@pytest.mark.parametrize("name", ["riegeli", "bagz", "sstable"])
def test_file_formats_without_a_reader_are_refused_by_name(folder: Path, name: str) -> None:
    path = folder / "dataset_info.json"
    path.write_text(path.read_text().replace("tfrecord", name))
    with pytest.raises(UnsupportedSourceError, match=name):
        open_rlds(folder)


def test_array_record_without_its_package_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    path = folder / "dataset_info.json"
    path.write_text(path.read_text().replace("tfrecord", "array_record"))
    for number in range(3):
        shard(folder, number).rename(folder / f"kinds-train.array_record-{number:05d}-of-00003")
    monkeypatch.setitem(sys.modules, "array_record.python.array_record_module", None)
    with pytest.raises(MissingExtraError, match=r"pip install .array_record>="):
        read_all(folder)


@pytest.mark.parametrize("file_format", ["array_record", "parquet"])
def test_a_file_of_another_format_is_refused(folder: Path, file_format: str) -> None:
    if file_format == "array_record":
        pytest.importorskip("array_record")
    path = folder / "dataset_info.json"
    path.write_text(path.read_text().replace("tfrecord", file_format))
    for number in range(3):
        shard(folder, number).rename(folder / f"kinds-train.{file_format}-{number:05d}-of-00003")
    with pytest.raises(BadFileError):
        read_all(folder)


# -- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"splits": []}',
        '{"splits": [{"name": "a/b"}]}',
        '{"splits": [{"shardLengths": ["1"]}]}',
        '{"splits": [{"name": "train", "shardLengths": ["x"]}]}',
        '{"splits": [{"name": "train", "shardLengths": ["-1"]}]}',
        '{"splits": [{"name": "train", "numShards": 99999999999}]}',
    ],
)
def test_a_broken_dataset_info_is_refused(folder: Path, text: str) -> None:
    (folder / "dataset_info.json").write_text(text)
    with pytest.raises(ActionImgError, match="dataset_info"):
        read_all(folder)


@pytest.mark.parametrize("template", ["../{SPLIT}", "/etc/passwd", "a/{SPLIT}", "..", "{SPLIT}\\x"])
def test_file_names_outside_of_the_folder_are_refused(folder: Path, template: str) -> None:
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["filepathTemplate"] = template
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UnsafeFileError, match="outside"):
        open_rlds(folder)


def _nested(depth: int) -> str:
    return '{"pythonClassName": "a.Sequence", "sequence": {"feature": ' * depth + "{}" + "}}" * depth


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{}",
        '{"featuresDict": {"features": 3}}',
        '{"featuresDict": {"features": {"steps": {"sequence": {}}}}}',
        '{"featuresDict": {"features": {"a": {"tensor": {"dtype": "complex64"}}}}}',
        '{"featuresDict": {"features": {"a": {"tensor": {"dtype": "float32", "shape": {"dimensions": ["x"]}}}}}}',
        '{"featuresDict": {"features": {"a": {"image": {"shape": {"dimensions": ["3"]}}}}}}',
        _nested(50),
        _nested(100_000),
    ],
    ids=range(10),
)
def test_a_broken_features_file_is_refused(folder: Path, text: str) -> None:
    (folder / "features.json").write_text(text)
    with pytest.raises(ActionImgError, match=r"features\.json"):
        read_all(folder)


def test_a_feature_of_an_unknown_class_costs_only_itself(folder: Path) -> None:
    path = folder / "features.json"
    tree = json.loads(path.read_text())
    tree["featuresDict"]["features"]["graph"] = {"pythonClassName": "my.Graph", "json": {}}
    path.write_text(json.dumps(tree))
    dataset = open_rlds(folder)
    keys = [k for k in dataset.leaves if k != "graph"]
    assert len(list(dataset.episodes(only=keys))) == 5
    with pytest.raises(UnsupportedSourceError, match=r"graph.*my\.Graph"):
        read_all(folder)


def test_records_with_other_features_are_refused(folder: Path) -> None:
    other = w.episode_features({"something": w.tensor()})
    record = w.encode_episode(other, {"steps": {"something": [1.0], **w.flags(1)}})
    renamed = record.replace(b"steps/", b"stops/")
    shard(folder).write_bytes(w.tfrecord([renamed, renamed]))
    with pytest.raises(BadFileError, match=r"features of features\.json"):
        read_all(folder)


def test_a_tfds_data_set_that_is_not_rlds_is_refused(folder: Path) -> None:
    node = w.group({"picture": w.image((4, 4, 3))})
    (folder / "features.json").write_text(json.dumps(w.features_json(node)))
    with pytest.raises(WrongFormatError, match="is not RLDS"):
        open_rlds(folder)


# -- values ----------------------------------------------------------------------------------------------------------


def steps_of(**step: F.Node) -> F.Group:
    return w.episode_features(step)


def flagged(**columns: bytes) -> bytes:
    """A record of three steps with the usual flags and other columns of its steps."""
    flags = {f"steps/{k}": w.int64_list(v) for k, v in w.flags(3).items()}
    return w.example({**flags, **{f"steps/{k}": v for k, v in columns.items()}})


ZIPPED = zlib.compress(bytes(8))
BOMB = zlib.compress(bytes(1 << 26))


@pytest.mark.parametrize(
    ("leaf", "column", "error", "says"),
    [
        (w.tensor(), w.float_list([1.0, 2.0]), FrameCountError, "expected 3, found 2"),
        (w.tensor((2,)), w.float_list([1.0] * 5), BadFileError, "multiple of 2"),
        (w.tensor(), w.int64_list([1, 2, 3]), BadFileError, "expected FLOAT, found INT64"),
        (w.tensor((2,), "float32", "bytes"), w.bytes_list([b"12345678", b"1", b""]), BadFileError, "another length"),
        (w.tensor((2,), "float32", "zlib"), w.bytes_list([b"rubbish"] * 3), BadFileError, "zlib"),
        (w.tensor((2,), "float32", "zlib"), w.bytes_list([ZIPPED[:-6]] * 3), BadFileError, "ends within"),
        (w.tensor((2,), "float32", "zlib"), w.bytes_list([BOMB] * 3), UnsafeFileError, "inflates"),
        (w.text(), w.bytes_list([b"ok", b"\xff\xfe", b"ok"]), InvalidTextError, "UTF-8"),
        (w.image((4, 4, 3)), w.bytes_list([b"not a picture"] * 3), BadImageError, "not a JPEG or PNG"),
        (w.image((4, 4, 3)), w.bytes_list([b"GIF89a..."] * 3), BadImageError, "GIF"),
        (w.image((4, 4, 3)), w.bytes_list([b""] * 3), BadImageError, "picture 0"),
        (w.tensor((None, None), "float32", "none"), w.float_list([1.0]), UnsupportedSourceError, "unknown dimensions"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_name_file_feature_and_what_was_expected(
    tmp_path: Path, leaf: F.Leaf, column: bytes, error: type[ActionImgError], says: str
) -> None:
    folder = write_one(tmp_path, steps_of(x=leaf), flagged(x=column))
    with pytest.raises(error, match=rf"record at byte 0.*steps/x.*{says}"):
        read_all(folder)


@pytest.mark.parametrize("lengths", [[1, 5, 1], [3, -2, 1], [1, 1]])
def test_ragged_lengths_that_do_not_add_up_are_refused(tmp_path: Path, lengths: list[int]) -> None:
    columns = {"x/ragged_flat_values": w.float_list([1.0, 2.0]), "x/ragged_row_lengths_0": w.int64_list(lengths)}
    folder = write_one(tmp_path, steps_of(x=w.sequence(w.tensor())), flagged(**columns))
    with pytest.raises((BadFileError, FrameCountError), match=r"add up|than there are steps"):
        read_all(folder)


def test_pictures_of_varying_size_are_a_list_where_allowed_and_refused_where_not(tmp_path: Path) -> None:
    pictures = [np.zeros((n, 5, 3), np.uint8) for n in (4, 4, 6)]
    leaf = w.image((None, None, 3), encoding="png")
    column = w.bytes_list([w.encode_picture(p, leaf) for p in pictures])
    (episode,) = read_all(write_one(tmp_path / "any", steps_of(x=leaf), flagged(x=column)))
    assert [p.shape for p in episode["steps"]["x"]] == [(4, 5, 3), (4, 5, 3), (6, 5, 3)]
    with pytest.raises(BadImageError, match=r"picture 2.*6x5"):
        read_all(write_one(tmp_path / "fixed", steps_of(x=w.image((4, 5, 3), encoding="png")), flagged(x=column)))


@pytest.mark.parametrize("kept", [0.3, 0.9])
@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_a_truncated_picture_is_refused_by_number(tmp_path: Path, encoding: str, kept: float) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    leaf = w.image((40, 40, 3), encoding=encoding)
    blob = w.encode_picture(picture, leaf)
    column = w.bytes_list([blob, blob, blob[: int(kept * len(blob))]])
    with pytest.raises(BadImageError, match=r"steps/x.*picture 2"):
        read_all(write_one(tmp_path, steps_of(x=leaf), flagged(x=column)))


def test_a_picture_that_claims_more_than_its_bytes_can_hold_is_refused(tmp_path: Path) -> None:
    leaf = w.image((None, None, 3), encoding="png")
    blob = bytearray(w.encode_picture(np.zeros((4, 4, 3), np.uint8), leaf))
    blob[16:24] = struct.pack(">II", 8000, 8000)
    folder = write_one(tmp_path, steps_of(x=leaf), flagged(x=w.bytes_list([bytes(blob)] * 3)))
    with pytest.raises(BadImageError, match="8000x8000"):
        read_all(folder)


def test_an_optional_tensor_may_be_missing_and_others_may_not(tmp_path: Path) -> None:
    node = w.episode_features({"y": w.tensor()}, a=F.Leaf("tensor", (), "float32", optional=True), b=w.tensor())
    record = w.encode_episode(node, {"steps": {"y": [1.0], **w.flags(1)}, "a": 1.0, "b": 2.0})
    without = record.replace(b"\x0a\x01a", b"\x0a\x01q")
    folder = write_one(tmp_path, node, record)
    tree = json.loads((folder / "features.json").read_text())
    tree["featuresDict"]["features"]["a"]["tensor"]["optional"] = True
    (folder / "features.json").write_text(json.dumps(tree))
    w.write_records(folder / "d-train.tfrecord-00000-of-00001", [without], "tfrecord")
    (episode,) = read_all(folder)
    assert episode["a"] is None
    assert episode["b"] == 2.0
    w.write_records(
        folder / "d-train.tfrecord-00000-of-00001", [record.replace(b"\x0a\x01b", b"\x0a\x01q")], "tfrecord"
    )
    with pytest.raises(BadFileError, match="b: has a number of values"):
        read_all(folder)


def test_steps_out_of_order_one_record_each_are_refused_by_name(tmp_path: Path) -> None:
    node = steps_of(x=w.tensor())
    records = []
    for first, last in ((True, False), (False, True), (False, False)):
        flags = {"is_first": [first], "is_last": [last], "is_terminal": [last]}
        records.append(w.encode_episode(node, {"steps": {"x": [1.0], **flags}}))
    with pytest.raises(UnsupportedSourceError, match="one record a step, and not in the order"):
        read_all(write_one(tmp_path, node, *records))


# -- short episodes --------------------------------------------------------------------------------------------------


def test_an_episode_without_steps_is_read_as_empty_and_not_converted(tmp_path: Path) -> None:
    _, _, options = w.write_rlds_demo(tmp_path, episodes=1, frames=1, size=32, cameras=("front",))
    node = w.demo_features(32, ("front",))
    one = w._DemoEpisodes(1, 1, 32, ("front",), 0)[0]
    none = {"steps": _emptied(one["steps"]), "episode_metadata": one["episode_metadata"]}
    folder = w.write_rlds(tmp_path / "d", w.DEMO_NAME, node, {"train": [one, none]})
    empty = list(open_rlds(folder).episodes())[1]
    assert empty["steps"]["observation"]["ee_pose"].shape == (0, 7)
    assert empty["steps"]["observation"]["front_rgb"].shape == (0, 32, 32, 3)
    converter = RLDSConverter(RLDSOptions(**options))
    first, second = converter.discover(str(folder))
    assert len(converter.read(first)) == 1
    with pytest.raises(EmptyEpisodeError, match="has no steps"):
        converter.read(second)


def _emptied(value: Any) -> Any:
    return {k: _emptied(v) for k, v in value.items()} if isinstance(value, dict) else value[:0]


def test_a_png_chunk_that_claims_gigabytes_is_refused_without_allocating(tmp_path: Path) -> None:
    leaf = w.image((4, 4, 3), encoding="png")
    blob = bytearray(w.encode_picture(np.zeros((4, 4, 3), np.uint8), leaf))
    blob[33:37] = struct.pack(">I", 0x7FFFFF00)
    folder = write_one(tmp_path, steps_of(x=leaf), flagged(x=w.bytes_list([bytes(blob)] * 3)))
    with pytest.raises(BadImageError, match="PNG is truncated"):
        read_all(folder)


def test_a_view_with_another_number_of_pictures_than_steps_is_refused(tmp_path: Path) -> None:
    _, _, options = w.write_rlds_demo(tmp_path, episodes=1, frames=3, size=32, cameras=("front",))
    node = w.demo_features(32, ("front",))
    one = w._DemoEpisodes(1, 3, 32, ("front",), 0)[0]
    one["steps"]["observation"]["front_rgb"] = one["steps"]["observation"]["front_rgb"][:2]
    folder = w.write_rlds(tmp_path / "d", w.DEMO_NAME, node, {"train": [one]})
    converter = RLDSConverter(RLDSOptions(**options))
    (ref,) = converter.discover(str(folder))
    with pytest.raises(FrameCountError, match=r"front_rgb.*expected 3, found 2"):
        converter.read(ref)


def test_pictures_of_a_view_that_change_size_are_refused_by_number(tmp_path: Path) -> None:
    _, _, options = w.write_rlds_demo(tmp_path, episodes=1, frames=3, size=32, cameras=("front",))
    node = w.demo_features(32, ("front",))
    observation = node.children["steps"].child.children["observation"]  # type: ignore[union-attr]
    observation.children["front_rgb"] = w.image((None, None, 3))  # type: ignore[index, union-attr]
    one = w._DemoEpisodes(1, 3, 32, ("front",), 0)[0]
    one["steps"]["observation"]["front_rgb"][2] = np.zeros((16, 32, 3), np.uint8)
    folder = w.write_rlds(tmp_path / "d", w.DEMO_NAME, node, {"train": [one]})
    converter = RLDSConverter(RLDSOptions(**options))
    (ref,) = converter.discover(str(folder))
    frames = converter.read(ref).views["front"].frames
    assert len(list(frames.frames([0, 1]))) == 2
    with pytest.raises(BadImageError, match=r"picture 2.*expected 32x32, found 16x32"):
        list(frames.frames([2]))

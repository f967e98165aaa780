"""RLDS data sets read without TensorFlow give what TFDS gives."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rlds_data as data
from processes import run_program

from actionimg_data.converters.rlds import features as F
from actionimg_data.converters.rlds import images, index, open_rlds, slicing, tfrecord, wire
from actionimg_data.converters.rlds.containers import TFRecordFile
from actionimg_data.converters.rlds.example import Example
from actionimg_data.demo import rlds as w
from actionimg_data.errors import (
    AmbiguousSourceError,
    BadImageError,
    InvalidSpecError,
    SourceNotFoundError,
    WrongFormatError,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIONIMG_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One data set in each file format: five episodes of 3 … 7 steps in shards of two, and one of validation."""
    root = tmp_path_factory.mktemp("rlds")
    splits = {"train": [data.all_kinds_episode(3 + i, i) for i in range(5)], "val": [data.all_kinds_episode(2, 9)]}
    node = data.all_kinds_features()
    formats = ("tfrecord", "array_record", "parquet")
    return {
        f: w.write_rlds(root / f, "kinds", node, splits, file_format=f, episodes_per_shard=2)
        for f in formats
        if f != "array_record" or _has_array_record()
    }


def _has_array_record() -> bool:
    try:
        import array_record  # noqa: F401
    except ImportError:
        return False
    return True


# -- TFDS' own answers -----------------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize(("folder", "answers"), data.SAMPLES)
def test_every_leaf_of_the_samples_equals_what_tfds_read(sample_data: Path, folder: str, answers: str) -> None:
    if folder.endswith("array_record"):
        pytest.importorskip("array_record")
    dataset = open_rlds(sample_data / "rlds", folder)
    episodes = [e for e, _ in zip(dataset.episodes("train"), range(3), strict=False)]
    compared = set()
    for number, place, kind, values in data.expected_leaves(sample_data / "rlds" / "expected", answers):
        found: Any = episodes[number]
        for name in place:
            found = found[name]
        compared.add((number, place))
        if isinstance(found, list):
            values = values if kind == "ragged" else list(values[0])
            assert len(found) == len(values)
        else:
            found = [np.asarray(found, dtype=object if isinstance(found, str) else None)]
        for f, e in zip(found, values, strict=True):
            assert f.shape == e.shape, place
            assert f.dtype == e.dtype, place
            assert np.array_equal(f, e), place
    every = {(n, p) for n, e in enumerate(episodes) for p, _ in data.leaves(e)}
    assert compared == every


@pytest.mark.realdata
@pytest.mark.parametrize("folder", [s[0] for s in data.SAMPLES])
def test_the_writer_lays_values_out_as_tfds_does(sample_data: Path, folder: str) -> None:
    """The samples' own records, read and written again: the same features.json, keys, kinds and values."""
    if folder.endswith("array_record"):
        pytest.importorskip("array_record")
    dataset = open_rlds(sample_data / "rlds", folder)
    theirs = json.loads((dataset.path / "features.json").read_text())
    assert w.features_json(_without_labels(dataset.features)) == _plain(theirs)
    for place in list(dataset.places("train"))[:3]:
        record = dataset.record(place)
        original = record.examples[0]
        episode: dict[str, Any] = {}
        for stored in dataset.leaves.values():
            inner = episode
            for name in stored.place[:-1]:
                inner = inner.setdefault(name, {})
            inner[stored.place[-1]] = (
                _encoded(original, stored) if stored.leaf.kind == "image" else record.read(stored.key)
            )
        again = Example(w.encode_episode(dataset.features, episode), "written again")
        # A column without values may be left out.
        for key in original.columns.keys() | again.columns.keys():
            assert _values(again, key) == _values(original, key), key


def _plain(node: Any) -> Any:
    """features.json without class labels, videos and descriptions of our own: as tensors and sequences."""
    if not isinstance(node, dict):
        return node
    if "classLabel" in node:
        return w.features_json(F.Leaf("tensor", (), "int64", python_class=node["pythonClassName"]))
    if "video" in node:
        image = F.Leaf("image", (16, 16, 3), "uint8", image_format="png")
        return w.features_json(F.Sequence(image))
    return {k: _plain(v) for k, v in node.items()}


def _without_labels(node: F.Node) -> F.Node:
    if isinstance(node, F.Group):
        return F.Group({k: _without_labels(v) for k, v in node.children.items()}, node.description)
    return node


def _encoded(example: Example, stored: F.Stored) -> Any:
    """Pictures as they are encoded, nested as their values."""
    ragged = len(stored.sequences) > 1
    key = f"{stored.key}/ragged_flat_values" if ragged else stored.key
    column = example.columns.get(key)
    blobs = [] if column is None else [example.data[a:b] for a, b in wire.bytes_spans(example.data, column)]
    if not ragged:
        return blobs
    lengths = wire.ints(example.data, example.columns[f"{stored.key}/ragged_row_lengths_0"]).tolist()
    return [[blobs.pop(0) for _ in range(n)] for n in lengths]


def _values(example: Example, key: str) -> Any:
    column = example.columns.get(key)
    if column is None:
        return ()
    if column.kind == wire.Kind.BYTES:
        values = [example.data[a:b] for a, b in wire.bytes_spans(example.data, column)]
        # zlib streams of another library version may differ in bytes.
        return tuple(_inflated(v) for v in values)
    if column.kind == wire.Kind.FLOAT:
        return tuple(wire.floats(example.data, column).view(np.uint32).tolist())
    return tuple(wire.ints(example.data, column).tolist()) if column.kind == wire.Kind.INT64 else ()


def _inflated(value: bytes) -> bytes:
    import zlib

    try:
        return zlib.decompress(value)
    except zlib.error:
        return value


# -- every kind of leaf ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record", "parquet"])
def test_every_kind_of_leaf_comes_back_from_every_container(made: dict[str, Path], file_format: str) -> None:
    if file_format not in made:
        pytest.skip("array_record is not installed")
    episodes = list(open_rlds(made[file_format]).episodes("train"))
    assert len(episodes) == 5
    for i, episode in enumerate(episodes):
        expected = dict(data.leaves(data.all_kinds_episode(3 + i, i)))
        found = dict(data.leaves(episode))
        assert found.keys() == expected.keys()
        for place, value in found.items():
            if place[-1] == "image":
                continue  # JPEG, see the next test
            data.same(value, expected[place], place)
        assert episode["steps"]["observation"]["image"].shape == (3 + i, 12, 16, 3)
        assert episode["steps"]["observation"]["float64"].dtype == np.float64
        assert episode["steps"]["observation"]["flag"].dtype == np.bool_
        assert episode["episode_metadata"]["file_path"] == f"/raw/{i}"


def test_smooth_jpegs_come_back_close(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(48), np.arange(64))[..., None] + [0, 40, 80]
    episode = {"steps": {"image": ramp[None].astype(np.uint8), **w.flags(1)}}
    node = w.episode_features({"image": w.image((48, 64, 3))})
    folder = w.write_rlds(tmp_path, "ramp", node, {"train": [episode]})
    (found,) = open_rlds(folder).episodes()
    assert np.abs(found["steps"]["image"][0].astype(int) - ramp).max() <= 6


def test_a_legacy_features_file_means_the_same(made: dict[str, Path], tmp_path: Path) -> None:
    """``{type, content}`` with and without ``proto_cls``, as TFDS wrote it before it used protobuf's JSON."""
    node = F.load(made["tfrecord"] / "features.json")
    for as_proto in (False, True):
        path = tmp_path / f"features-{as_proto}.json"
        path.write_text(json.dumps(_legacy(node, as_proto)))
        assert _shapes(F.load(path)) == _shapes(node)


def _shapes(node: F.Group) -> dict[str, Any]:
    return {
        s.key: (
            s.leaf.kind,
            s.leaf.shape,
            s.leaf.dtype,
            s.leaf.encoding,
            s.leaf.image_format,
            len(s.sequences),
            s.in_steps,
        )
        for s in F.flatten(node)
    }


def _legacy(node: F.Node, as_proto: bool) -> dict[str, Any]:
    modern = w.features_json(node)
    name = modern["pythonClassName"]
    if isinstance(node, F.Group):
        children = {k: _legacy(v, as_proto) for k, v in node.children.items()}
        return {"type": name, "content": children}
    if isinstance(node, F.Sequence):
        return {"type": name, "content": {"feature": _legacy(node.child, as_proto), "length": node.length}}
    if node.kind == "text":
        return {"type": name, "content": {}}
    body = modern.get("tensor", modern.get("image"))
    if as_proto:
        return {"type": name, "content": json.dumps(body), "proto_cls": "tensorflow_datasets.TensorFeature"}
    content: dict[str, Any] = {"shape": list(node.shape), "dtype": f"<dtype: '{body['dtype']}'>"}
    if node.kind == "image":
        content["encoding_format"] = node.image_format
    else:
        content["encoding"] = f"Encoding.{node.encoding.upper()}"
    return {"type": name, "content": content}


def test_pictures_can_be_left_out_and_leaves_chosen(made: dict[str, Path]) -> None:
    dataset = open_rlds(made["tfrecord"])
    (without,) = dataset.episodes("train[0]", images=False)
    assert "image" not in without["steps"]["observation"]
    assert "state" in without["steps"]["observation"]
    (only,) = dataset.episodes("train[0]", only=["steps/observation/slashed/name"])
    assert [p for p, _ in data.leaves(only)] == [("steps", "observation", "slashed/name")]
    with pytest.raises(WrongFormatError, match="steps/observation/sate"):
        next(dataset.episodes(only=["steps/observation/sate"]))


def test_single_pictures_of_a_view_are_decoded_alone(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_rlds(made["tfrecord"])
    record = dataset.record(next(dataset.places("train[4]")))
    whole = record.read("steps/observation/any_size")
    decoded = []
    original = images.decode
    monkeypatch.setattr(images, "decode", lambda *a: decoded.append(1) or original(*a))
    (last,) = record.read("steps/observation/any_size", frames=[6])
    assert np.array_equal(last, whole[6])
    assert len(decoded) == 1


# -- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("train", range(10)),
        ("train[2:4]", [2, 3]),
        ("train[:3]", [0, 1, 2]),
        ("train[-3:]", [7, 8, 9]),
        ("train[:25%]", [0, 1]),  # 2.5 is rounded to even, as Python's round does in TFDS
        ("train[75%:]", [8, 9]),
        ("train[-30%:]", [7, 8, 9]),
        ("train[3]", [3]),
        ("train[-1]", [9]),
        ("train[:1shard]", [0, 1, 2, 3]),
        ("train[1shard]", [4, 5, 6]),
        ("train[-1shard:]", [7, 8, 9]),
        ("train[1_0:]", []),
        ("train[5:2]", []),
        ("train[:2]+train[8:]", [0, 1, 8, 9]),
        ("train[:1] + val", [0, 10, 11]),
        ("all", range(12)),
    ],
)
def test_slices_mean_what_they_mean_to_tfds(text: str, numbers: Any) -> None:
    parts = slicing.resolve(text, {"train": [4, 3, 3], "val": [2]})
    offset = {"train": 0, "val": 10}
    assert [offset[p.split] + i for p in parts for i in range(p.start, p.stop)] == list(numbers)


@pytest.mark.parametrize(
    "text", ["", "train[", "train[]", "tain", "train[11:]", "train[:101%]", "train[a:b]", "train[:9shard]"]
)
def test_slices_that_do_not_parse_or_reach_too_far_are_refused(text: str) -> None:
    with pytest.raises(InvalidSpecError):
        slicing.resolve(text, {"train": [4, 3, 3], "val": [2]})


def test_a_slice_reads_only_its_shards(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_rlds(made["tfrecord"])
    walked = []
    original = TFRecordFile.locations
    monkeypatch.setattr(TFRecordFile, "locations", lambda self: walked.append(self.path.name) or original(self))
    (episode,) = dataset.episodes("train[4:]", images=False)
    assert episode["episode_metadata"]["file_path"] == "/raw/4"
    assert {n[-14:-9] for n in walked} <= {"00000", "00002"}  # the first, to see how records hold episodes


# -- places ----------------------------------------------------------------------------------------------------------


def test_the_data_set_is_found_from_any_folder_above(made: dict[str, Path], tmp_path: Path) -> None:
    folder = made["tfrecord"]
    for path in (folder, folder.parent, folder.parent.parent):
        assert open_rlds(path).path == folder
    assert open_rlds(folder.parent.parent, "kinds").path == folder
    assert open_rlds(folder.parent.parent, "kinds/1.0.0").path == folder
    with pytest.raises(SourceNotFoundError, match="no data set of that name"):
        open_rlds(folder.parent.parent.parent, "other")
    with pytest.raises(WrongFormatError, match=r"features\.json"):
        open_rlds(tmp_path)
    with pytest.raises(SourceNotFoundError):
        open_rlds(tmp_path / "nothing")


def test_of_several_data_sets_one_has_to_be_named_and_of_versions_the_newest_is_taken(tmp_path: Path) -> None:
    node = w.episode_features({"x": w.tensor()})
    for name, version in (("a", "1.2.0"), ("a", "1.10.0"), ("b", "0.1.0")):
        w.write_rlds(tmp_path, name, node, {"train": [{"steps": {"x": [1.0], **w.flags(1)}}]}, version=version)
    assert open_rlds(tmp_path / "a").version == "1.10.0"
    assert open_rlds(tmp_path, "a/1.2.0").version == "1.2.0"
    with pytest.raises(AmbiguousSourceError, match="--dataset"):
        open_rlds(tmp_path)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", "d-train.tfrecord-00000-of-00001"),
        ("{SPLIT}_{SHARD_INDEX}_{NUM_SHARDS}.rec", "train_00000_00001.rec"),
        (None, "d-train.tfrecord-00000-of-00001"),
    ],
)
def test_file_names_follow_the_template(tmp_path: Path, template: str | None, name: str) -> None:
    node = w.episode_features({"x": w.tensor()})
    folder = w.write_rlds(tmp_path, "d", node, {"train": [{"steps": {"x": [1.0, 2.0], **w.flags(2)}}]})
    info = json.loads((folder / "dataset_info.json").read_text())
    if template is None:
        del info["splits"][0]["filepathTemplate"]
        del info["fileFormat"]
    else:
        info["splits"][0]["filepathTemplate"] = template
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "d-train.tfrecord-00000-of-00001").rename(folder / name)
    (episode,) = open_rlds(folder).episodes()
    assert episode["steps"]["x"].tolist() == [1.0, 2.0]


def test_shard_counts_may_be_unstated_as_in_old_files(made: dict[str, Path], tmp_path: Path) -> None:
    folder = _linked(made["tfrecord"], tmp_path)
    info = json.loads((folder / "dataset_info.json").read_text())
    for split in info["splits"]:
        split["numShards"] = len(split.pop("shardLengths"))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    assert open_rlds(folder).num_episodes("train[1:]") == 4


def _linked(folder: Path, tmp_path: Path) -> Path:
    """A copy of a data set's folder whose record files are links and whose JSON files are its own."""
    copy = tmp_path / "copy" / folder.name
    copy.mkdir(parents=True)
    for path in folder.iterdir():
        if path.suffix == ".json":
            (copy / path.name).write_bytes(path.read_bytes())
        else:
            os.link(path, copy / path.name)
    return copy


# -- random access ---------------------------------------------------------------------------------------------------


def test_any_episode_is_read_by_its_place_in_another_process(made: dict[str, Path]) -> None:
    for folder in made.values():
        dataset = open_rlds(folder)
        places = list(dataset.places("train"))
        assert [p.id for p in places][:3] == ["train/00000/000000", "train/00000/000001", "train/00001/000000"]
        paths = [dataset.record(p).read("episode_metadata/file_path") for p in reversed(places)]
        assert paths == [f"/raw/{i}" for i in (4, 3, 2, 1, 0)]
        read = "print(dataset.record(place).read('episode_metadata/file_path'))"
        code = f"import pickle, sys; dataset, place = pickle.load(sys.stdin.buffer); {read}"
        sent = pickle.dumps((dataset, places[3]))
        there = run_program([sys.executable, "-c", code], stdin=sent)
        assert there.stdout.strip() == "/raw/3"


def test_the_index_is_cached_and_used(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(made["tfrecord"].glob("*train*-00000-*"))
    first = index.load(path)
    monkeypatch.setattr(tfrecord, "scan", lambda _: pytest.fail("walked again"))
    again = index.load(path)
    assert np.array_equal(first.offsets, again.offsets)
    assert np.array_equal(first.crcs, again.crcs)


def test_the_cached_index_is_dropped_when_the_content_changes(tmp_path: Path) -> None:
    """Another size; the same size and time with other records; the same size, time, edges and lengths."""
    path = tmp_path / "file"
    blocks = [bytes([i]) * 3000 for i in range(12)]
    path.write_bytes(w.tfrecord(blocks))
    stamp = path.stat()
    assert index.load(path).lengths.tolist() == [3000] * 12
    path.write_bytes(w.tfrecord(blocks[:11]))
    assert len(index.load(path)) == 11

    def replaced(records: list[bytes]) -> list[int]:
        path.write_bytes(w.tfrecord(blocks))
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        index.load(path)
        path.write_bytes(w.tfrecord(records))
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        return index.load(path).crcs.tolist()

    longer = [*blocks[:5], blocks[5] + b"x", blocks[6][:-1], *blocks[7:]]
    assert replaced(longer) == tfrecord.scan(path).crcs.tolist()
    swapped = [*blocks[:6], b"?" * 3000, *blocks[7:]]
    assert replaced(swapped) == tfrecord.scan(path).crcs.tolist()


def test_an_unwritable_or_broken_cache_does_no_harm(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = next(made["tfrecord"].glob("*train*-00000-*"))
    expected = tfrecord.scan(path).offsets.tolist()
    index.load(path)
    (entry,) = (tmp_path / "cache" / "rlds-index").iterdir()
    for rubbish in (b"", b"PK\x03\x04 not a zip", entry.read_bytes()[:100]):
        entry.write_bytes(rubbish)
        assert index.load(path).offsets.tolist() == expected
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACTIONIMG_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert index.load(path).offsets.tolist() == expected
    monkeypatch.setenv("ACTIONIMG_CACHE_DIR", "")
    assert index.load(path).offsets.tolist() == expected


# -- one record a step -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefixed", [True, False])
def test_one_record_a_step_is_detected_and_grouped(tmp_path: Path, prefixed: bool) -> None:
    lengths = [3, 1, 4]
    node = data.all_kinds_features()
    folder = w.write_rlds(tmp_path, "d", node, {"train": [data.all_kinds_episode(n, i) for i, n in enumerate(lengths)]})
    whole = list(open_rlds(folder).episodes())
    records = []
    for i, n in enumerate(lengths):
        episode = data.all_kinds_episode(n, i)
        for t in range(n):
            records.append(_step_record(node, episode, t, prefixed))
    w.write_records(folder / "d-train.tfrecord-00000-of-00001", records, "tfrecord")
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = [str(len(records))]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    grouped = list(open_rlds(folder).episodes())
    assert len(grouped) == 3
    for one, other in zip(whole, grouped, strict=True):
        a, b = dict(data.leaves(one)), dict(data.leaves(other))
        assert a.keys() == b.keys()
        for place, value in a.items():
            if place[0] != "video":
                data.same(b[place], value, place)


def _step_record(node: F.Group, episode: dict[str, Any], t: int, prefixed: bool) -> bytes:
    steps = _sliced(episode["steps"], t)
    if prefixed:
        return w.encode_episode(node, {**episode, "steps": steps})
    inner = node.children["steps"]
    assert isinstance(inner, F.Sequence)
    assert isinstance(inner.child, F.Group)
    flat = F.Group({**inner.child.children, **{k: v for k, v in node.children.items() if k != "steps"}})
    alone = {k: _first(v) for k, v in steps.items()}
    return w.encode_episode(flat, {**alone, **{k: v for k, v in episode.items() if k != "steps"}})


def _sliced(value: Any, t: int) -> Any:
    return {k: _sliced(v, t) for k, v in value.items()} if isinstance(value, dict) else value[t : t + 1]


def _first(value: Any) -> Any:
    return {k: _first(v) for k, v in value.items()} if isinstance(value, dict) else value[0]


@pytest.mark.parametrize("adobe", [True, False])
def test_a_jpeg_of_four_inks_becomes_rgb_as_tensorflow_has_it(adobe: bool) -> None:
    """r = k c / 255 of Adobe's inverted inks, (255 - k) (255 - c) / 255 of plain ones (TensorFlow's jpeg_mem.cc)."""
    import simplejpeg

    inks = np.zeros((16, 24, 4), np.uint8)
    inks[:, :12], inks[:, 12:] = (30, 120, 200, 180), (250, 90, 10, 60)
    data = simplejpeg.encode_jpeg(inks, 100, "CMYK", "444")
    if not adobe:
        # Without Adobe's segment four channels are inks as they are, so the transform to YCCK has to go with it.
        start = data.index(b"\xff\xee")
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    stored = simplejpeg.decode_jpeg(data, "CMYK", fastdct=True).astype(int)
    if not adobe:
        stored = 255 - stored
    wanted = [[[p[c] * p[3] // 255 for c in range(3)] for p in row] for row in stored]
    leaf = w.image((16, 24, 3))
    out = np.zeros((16, 24, 3), np.uint8)
    head = images.header(data)
    assert np.array_equal(images.decode(data, leaf, out, head), wanted)
    assert np.array_equal(images.decode(data, leaf), out)
    assert not images.decode_alike(data, leaf, out, data, head)
    if adobe:
        assert np.abs(out[0, [3, 20]].astype(int) - [[21, 84, 141], [58, 21, 2]]).max() <= 3
    with pytest.raises(BadImageError, match="channels"):
        images.decode(data, w.image((16, 24, 1)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_of_16_bits_in_a_feature_of_8_keeps_its_upper_byte(channels: int) -> None:
    """As TensorFlow has libpng do it (png_set_strip_16)."""
    stored = np.random.default_rng(0).integers(0, 2**16, (7, 5, channels)).astype(np.uint16)
    data = cv2.imencode(".png", stored[..., ::-1])[1].tobytes()
    found = images.decode(data, w.image((7, 5, channels), "uint8", "png"))
    assert found.dtype == np.uint8
    assert np.array_equal(found, stored >> 8)
    # TensorFlow's decode_png(channels=3) repeats grey, and leaves opacity out.
    colour = images.decode(data, w.image((7, 5, 3), "uint8", "png"))
    assert np.array_equal(colour, np.repeat(stored >> 8, 3, axis=2) if channels == 1 else stored >> 8)
    clear = cv2.imencode(".png", np.concatenate([stored[..., [-1, -1, -1]], stored[..., :1]], axis=2))[1].tobytes()
    assert images.decode(clear, w.image((7, 5, 3), "uint8", "png")).shape == (7, 5, 3)
    shallow = cv2.imencode(".png", stored.astype(np.uint8))[1].tobytes()
    with pytest.raises(BadImageError, match="another depth"):
        images.decode(shallow, w.image((7, 5, channels), "uint16", "png"))

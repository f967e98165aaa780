from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_converter import SyntheticConverter, write_source

from actionimg_data import engine
from actionimg_data.errors import (
    BadFileError,
    CorruptDatasetError,
    InvalidSpecError,
    MissingCalibrationError,
    OutputError,
    UnsafeFileError,
)
from actionimg_data.schemas import ConverterRecord, ConvertOptions, DatasetManifest, SampleMeta, ShardSidecar
from actionimg_data.schemas.dataset import EXPORTED, parse, to_bytes, to_line
from actionimg_data.schemas.documents import json_schemas
from actionimg_data.shards import npz
from actionimg_data.shards.manifest import read_manifest, read_sidecar
from actionimg_data.shards.plan import default_episodes_per_shard, episode_key, make_plan
from actionimg_data.shards.prepare import Recipe
from actionimg_data.shards.tar import TarWriter
from actionimg_data.shards.write import write_shard

OPTIONS = {"height": 64, "width": 64}


def convert(tmp_path: Path, name: str = "out", source: dict[str, Any] | None = None, **options: Any) -> Path:
    src = write_source(tmp_path / f"src-{name}", **{"episodes": 3, "frames": 5, **(source or {})})
    engine.convert(SyntheticConverter(), src, tmp_path / name, ConvertOptions.parse(**{**OPTIONS, **options}))
    return tmp_path / name


# --- keys and plans


@given(st.lists(st.text(st.sampled_from("abAB09._-/ é"), min_size=1, max_size=12), unique=True, max_size=20))
@settings(deadline=None)
def test_keys_are_safe_and_different_ids_have_different_keys(ids: list[str]) -> None:
    keys = [episode_key(i) for i in ids]
    assert len(set(keys)) == len(ids)
    for key in keys:
        assert set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
        assert 0 < len(key) <= 72


def test_a_plain_id_gives_a_key_people_can_read() -> None:
    assert episode_key("open_drawer/all_variations/episode0") == "open_drawer-all_variations-episode0"
    assert episode_key("Open/ep.1").startswith("open-ep-1-")
    assert len(episode_key("x" * 5000)) <= 72


@pytest.mark.parametrize(("episodes", "size"), [(1, 1), (2, 1), (63, 1), (64, 2), (1000, 31), (1024, 32), (76_000, 32)])
def test_small_sets_get_a_shard_an_episode_and_large_ones_thirty_two(episodes: int, size: int) -> None:
    assert default_episodes_per_shard(episodes) == size


def test_the_plan_depends_on_everything_that_decides_the_bytes(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=3)
    base = engine.plan(SyntheticConverter(), src, ConvertOptions.parse(**OPTIONS))
    assert base == engine.plan(SyntheticConverter(), src, ConvertOptions.parse(**OPTIONS))
    plans = {base.manifest.plan}
    for change in (
        {"crf": 20},
        {"stride": 2},
        {"clip_frames": 4},
        {"spec": {"sigma": 0.04}},
        {"action_codec": "ffv1"},
        {"views": ("side",)},
        {"width": 32},
        {"split": "val"},
    ):
        plans.add(engine.plan(SyntheticConverter(), src, ConvertOptions.parse(**{**OPTIONS, **change})).manifest.plan)
    brighter = SyntheticConverter(SyntheticConverter.Options.parse({"brightness": 9}, "test"))
    plans.add(engine.plan(brighter, src, ConvertOptions.parse(**OPTIONS)).manifest.plan)
    write_source(tmp_path / "src", episodes=3, version=2)
    plans.add(engine.plan(SyntheticConverter(), src, ConvertOptions.parse(**OPTIONS)).manifest.plan)
    assert len(plans) == 11


def test_which_episode_goes_where_does_not_depend_on_what_fails(tmp_path: Path) -> None:
    good = convert(tmp_path, "good", {"episodes": 6}, episodes_per_shard=2)
    bad = convert(
        tmp_path, "bad", {"episodes": 6, "bad": {"ep_002": "bad-image", "ep_003": "read"}}, episodes_per_shard=2
    )
    for shard in ("train/000000", "train/000002"):
        assert (good / f"{shard}.tar").read_bytes() == (bad / f"{shard}.tar").read_bytes()
    assert not (bad / "train/000001.tar").exists()
    sidecar = read_sidecar(bad, "train/000001")
    assert sidecar is not None
    assert [(q.id, q.code) for q in sidecar.quarantined] == [
        ("task/ep_002", "bad-image"),
        ("task/ep_003", "wrong-format"),
    ]


def test_a_bad_episode_leaves_no_trace_in_its_shard(tmp_path: Path) -> None:
    """Also when its first clips were written before the bad picture was met."""
    good = convert(tmp_path, "good", {"episodes": 1, "frames": 8}, clip_frames=2)
    both = convert(
        tmp_path,
        "both",
        {"episodes": 2, "frames": 8, "bad": {"ep_001": "bad-image"}},
        clip_frames=2,
        episodes_per_shard=2,
    )
    assert (good / "train/000000.tar").read_bytes() == (both / "train/000000.tar").read_bytes()


def test_views_are_the_calibrated_ones_of_the_first_readable_episode(tmp_path: Path) -> None:
    views = {f"ep_{i:03d}": ["top", "side", "front"] for i in (1, 3)}
    source = {"episodes": 4, "bad": {"ep_000": "read"}, "uncalibrated": ["side"], "views": views}
    out = convert(tmp_path, "out", source)
    assert read_manifest(out).views == ("top", "front")
    codes = read_manifest(out).counts.quarantine_codes
    # The third episode has no view "top", and the second clip set is never padded with another view.
    assert codes == {"missing-view": 1, "wrong-format": 1}


def test_a_view_without_calibration_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(MissingCalibrationError):
        convert(tmp_path, "out", {"uncalibrated": ["front", "side"]})


def test_two_episodes_with_one_id_are_refused(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=2)
    refs = list(SyntheticConverter().discover(src))
    with pytest.raises(ValueError, match="one key"):
        make_plan(ConverterRecord(name="x"), src, [refs[0], refs[0]], ("front",), ConvertOptions.parse(**OPTIONS))


# --- what is in a shard


def test_members_are_the_same_in_every_sample_and_hold_no_pickle(tmp_path: Path) -> None:
    out = convert(tmp_path, clip_frames=3)
    names = set()
    with tarfile.open(out / "train/000000.tar") as archive:
        infos = archive.getmembers()
        assert {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in infos} == {(0, 0, 0, "", "", 0o444)}
        for info in infos:
            key, _, member = info.name.partition(".")
            names.add(key)
            data = archive.extractfile(info).read()
            assert member.rpartition(".")[2] in ("json", "npz", "mp4")
            if member.endswith("npz"):
                with zipfile.ZipFile(io.BytesIO(data)) as arrays:
                    assert {e.date_time for e in arrays.infolist()} == {(1980, 1, 1, 0, 0, 0)}
                np.load(io.BytesIO(data), allow_pickle=False)
    assert names == {"task-ep_000-c0000", "task-ep_000-c0001"}
    members = [i.name.partition(".")[2] for i in infos]
    assert members == members[:7] * 2
    assert members[:7] == [
        "json",
        "trajectory.npz",
        "cameras.npz",
        "front.rgb.mp4",
        "front.action.mp4",
        "side.rgb.mp4",
        "side.action.mp4",
    ]


def test_arrays_and_json_say_what_the_episode_said(tmp_path: Path) -> None:
    out = convert(tmp_path, stride=2, clip_frames=2, height=32, width=48)
    episode = SyntheticConverter().read(next(iter(SyntheticConverter().discover(str(tmp_path / "src-out")))))
    with tarfile.open(out / "train/000000.tar") as archive:
        files = {i.name: archive.extractfile(i).read() for i in archive.getmembers()}
    meta = parse(SampleMeta, files["task-ep_000-c0001.json"], "json")
    assert (meta.frames, meta.start_frame, meta.stride, meta.fps, meta.clip) == (1, 4, 2, 5.0, 1)
    assert meta.instructions == episode.instructions
    assert meta.provenance == {"seed": 0}
    assert (meta.height, meta.width, meta.source_sizes) == (32, 48, ((64, 64), (64, 64)))
    trajectory = np.load(io.BytesIO(files["task-ep_000-c0000.trajectory.npz"]))
    np.testing.assert_array_equal(trajectory["position"], episode.trajectory.position[[0, 2]])
    np.testing.assert_array_equal(trajectory["times"], episode.trajectory.times[[0, 2]])
    cameras = np.load(io.BytesIO(files["task-ep_000-c0000.cameras.npz"]))
    expected = episode.views["side"].camera.resized(32, 48)
    assert cameras["views"].tolist() == ["front", "side"]
    assert cameras["size"].tolist() == [[32, 48], [32, 48]]
    assert cameras["K"].shape == (2, 2, 3, 3)
    np.testing.assert_allclose(cameras["K"][1, 0], expected.K)
    np.testing.assert_allclose(cameras["world_from_camera"][1, 1], expected.world_from_camera)


def test_clips_cover_every_frame_once(tmp_path: Path) -> None:
    out = convert(tmp_path, "out", {"episodes": 4, "frames": 5}, clip_frames=3)
    rows = [s for i in range(4) for s in read_sidecar(out, f"train/{i:06d}").samples]
    frames: dict[str, list[int]] = {}
    for row in rows:
        frames.setdefault(row.episode, []).extend(range(row.start_frame, row.start_frame + row.frames))
    assert frames == {f"task/ep_{i:03d}": list(range(5 + i % 3)) for i in range(4)}


def test_plain_webdataset_reads_the_shards(tmp_path: Path) -> None:
    out = convert(tmp_path, "out", {"episodes": 4}, episodes_per_shard=2)
    urls = sorted(str(p) for p in (out / "train").glob("*.tar"))
    dataset = wds.WebDataset(urls, shardshuffle=False, empty_check=False).decode()
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=1)
    samples = list(loader)
    assert [s["__key__"] for s in samples] == [f"task-ep_{i:03d}" for i in range(4)]
    for sample in samples:
        assert sample["json"]["instruction"].startswith("do task")
        assert sample["trajectory.npz"]["position"].shape == (sample["json"]["frames"], 3)
        assert sample["front.rgb.mp4"][4:8] == b"ftyp"


def test_a_long_name_still_makes_a_plain_tar(tmp_path: Path) -> None:
    file = io.BytesIO()
    tar = TarWriter(file)
    name = "k" * 72 + ".left_shoulder_camera.action.mp4"
    offset, digest = tar.add(name, io.BytesIO(b"abc"), 3)
    mark = tar.mark()
    tar.add("dropped", io.BytesIO(b"x" * 5000), 5000)
    tar.rewind(mark)
    sha256 = tar.close()
    assert hashlib.sha256(file.getvalue()).hexdigest() == sha256
    assert digest == hashlib.sha256(b"abc").hexdigest()
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as archive:
        assert archive.getnames() == [name]
        assert archive.getmembers()[0].offset_data == offset
    assert len(file.getvalue()) % 10240 == 0


# --- npz


@given(st.integers(0, 4), st.sampled_from(["<f8", "<i8", "|b1", "<U5"]))
@settings(deadline=None, max_examples=25)
def test_npz_repeats_its_bytes_and_its_arrays(n: int, dtype: str) -> None:
    array = np.arange(n * 3).reshape(n, 3).astype(dtype)
    data = npz.dump({"a": array, "b": array.T})
    assert data == npz.dump({"a": array, "b": array.T})
    found = npz.load(data, "x")
    np.testing.assert_array_equal(found["a"], array)
    np.testing.assert_array_equal(found["b"], array.T)
    np.testing.assert_array_equal(np.load(io.BytesIO(data))["b"], array.T)


def test_npz_with_objects_or_bombs_is_refused() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([{}], dtype=object))
    with pytest.raises(UnsafeFileError, match="objects"):
        npz.load(buffer.getvalue(), "x")
    with pytest.raises(UnsafeFileError, match="too much"):
        npz.load(npz.dump({"a": np.zeros(1 << 20)}), "x", max_bytes=1 << 20)
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    lie = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.npy", header + lie)
    with pytest.raises(BadFileError, match="truncated"):
        npz.load(buffer.getvalue(), "x")


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_damaged_npz_is_an_error_or_equal(data: st.DataObject) -> None:
    whole = npz.dump({"a": np.arange(20.0), "b": np.eye(3)})
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = npz.load(bytes(damaged), "x")
    except (BadFileError, UnsafeFileError):
        return
    # Bits that nothing rests on (time stamps, attributes) may change.
    assert all(np.array_equal(found[k], v) for k, v in {"a": np.arange(20.0), "b": np.eye(3)}.items() if k in found)


# --- publishing


def test_no_temporary_file_is_left_and_the_sidecar_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    real, real_link = os.replace, os.link
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), real(a, b))[1])
    monkeypatch.setattr(os, "link", lambda a, b: (order.append(Path(b).name), real_link(a, b))[1])
    out = convert(tmp_path, "out", {"episodes": 1})
    # The manifest is there from the beginning, and complete at the end.
    last = {name: i for i, name in enumerate(order)}
    assert last["000000.tar"] < last["000000.json"] < last["index.parquet"] < last["dataset.json"]
    assert not list(out.rglob("*.tmp"))


def test_what_is_read_back_wrong_is_never_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actionimg_data.shards.storage.file_sha256", lambda path: ("0" * 64, 1))
    with pytest.raises(CorruptDatasetError, match="read back"):
        convert(tmp_path, "out", {"episodes": 1})
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["dataset.json", "plan.jsonl", "train"]


def test_a_full_disk_is_one_clear_line_and_nothing_published_changes(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root for a small tmpfs")
    small = tmp_path / "small"
    small.mkdir()
    if os.system(f"mount -t tmpfs -o size=100k tmpfs {small} 2>/dev/null") != 0:
        pytest.skip("mounting is not allowed here")
    try:
        src = write_source(tmp_path / "src", episodes=8, frames=12)
        options = ConvertOptions.parse(**OPTIONS)
        with pytest.raises(OutputError, match="not enough free space"):
            engine.convert(SyntheticConverter(), src, small / "out", options)
        assert not list((small / "out").glob("train/*"))
        with pytest.raises(OutputError, match=r"No space left.*free some space"):
            engine.convert(SyntheticConverter(), src, small / "out", options, check_space=False)
        published = sorted((small / "out" / "train").glob("*.tar"))
        committed = len(list((small / "out" / "train").glob("*.json")))
        assert published
        assert committed
        before = {p: p.read_bytes() for p in published}
        assert not list((small / "out").rglob("*.tmp"))
        os.system(f"mount -o remount,size=10m {small}")
        result = engine.convert(SyntheticConverter(), src, small / "out", options)
        assert result.manifest.counts.converted == 8
        # A tar whose sidecar found no room is made again, to the same bytes.
        assert result.resumed_shards == committed
        assert {p: p.read_bytes() for p in published} == before
    finally:
        os.system(f"umount {small}")


@pytest.mark.parametrize("number", [28, 122])
def test_a_full_disk_is_not_taken_for_a_bad_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(TarWriter, "add", full)
    with pytest.raises(OutputError, match="cannot write"):
        convert(tmp_path, "out", {"episodes": 1})


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        convert(tmp_path, "file/out", {"episodes": 1})


def test_a_bug_in_a_converter_is_quarantined_with_its_traceback(tmp_path: Path) -> None:
    out = convert(tmp_path, "out", {"episodes": 4, "bad": {"ep_001": "bug", "ep_002": "io"}}, episodes_per_shard=4)
    rows = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [r["code"] for r in rows] == ["internal-error", "read-failed"]
    assert "a bug in a converter" in rows[0]["message"]
    assert "in misbehave" in rows[0]["traceback"]
    assert read_manifest(out).counts.quarantine_codes == {"internal-error": 1, "read-failed": 1}


# --- options, schemas


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 511, "width": 512},
        {"height": 0, "width": 64},
        {"stride": 0},
        {"crf": 60},
        {"clip_frames": 0},
        {"views": ()},
        {"views": ("a", "a")},
        {"views": ("../a",)},
        {"split": "../x"},
        {"action_codec": "av1"},
        {"spec": {"sigma": -1}},
        {"unknown": 1},
    ],
    ids=str,
)
def test_wrong_options_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpecError):
        ConvertOptions.parse(**{**OPTIONS, **wrong})


def test_exported_schemas_are_those_of_the_models() -> None:
    folder = Path(__file__).resolve().parents[1] / "schemas"
    texts = json_schemas(EXPORTED)
    assert {name: (folder / name).read_text() for name in texts} == texts, "run python -m actionimg_data.schemas"


def test_writing_what_was_read_gives_the_same_bytes(tmp_path: Path) -> None:
    out = convert(tmp_path)
    data = (out / "dataset.json").read_bytes()
    assert to_bytes(parse(DatasetManifest, data, "x")) == data
    data = (out / "train/000001.json").read_bytes()
    assert to_line(parse(ShardSidecar, data, "x")) == data


def test_a_changed_manifest_is_noticed_whatever_was_changed(tmp_path: Path) -> None:
    out = convert(tmp_path, "out", {"episodes": 1})
    path = out / "dataset.json"
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(CorruptDatasetError):
            read_manifest(out)


def test_write_shard_reports_every_frame_of_every_view(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=2, frames=6, bad={"ep_001": "read"})
    made = engine.plan(SyntheticConverter(), src, ConvertOptions.parse(**OPTIONS, episodes_per_shard=2))
    events = []
    sidecar = write_shard(
        tmp_path / "out",
        made.rows[0],
        made.manifest.plan,
        SyntheticConverter(),
        Recipe.of(made.manifest),
        report=events.append,
    )
    assert sum(e.frames for e in events) == 12
    assert [(e.episode, e.code) for e in events if e.ended] == [("task/ep_000", None), ("task/ep_001", "wrong-format")]
    videos = [m.size for s in sidecar.samples for m in s.members if m.name.endswith("mp4")]
    assert sum(e.bytes for e in events) == sum(videos)

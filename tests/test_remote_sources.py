"""Sources in object stores: the same shards as from a local folder, through a bounded cache or in ranges."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arm_lab_logs
import lab_logs
import numpy as np
import pytest
from click.testing import CliRunner
from faulty_store import BUCKET, FaultyStore, point_at, running_store, storage_options
from synthetic_converter import SyntheticConverter, write_source

from actionimg_data import engine
from actionimg_data.cli import main
from actionimg_data.converters import Converter, SourceReader, converter_class, remote
from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.demo.recordings import (
    MAX_WIDTH_M,
    TeleopLog,
    camera_file,
    droid_camera_file,
    make_log,
    write_droid,
    write_folder,
    write_lerobot,
    write_yaml,
)
from actionimg_data.demo.rlbench import write_action_images_tree
from actionimg_data.demo.rlds import write_rlds_demo
from actionimg_data.demo.simulators import write_robomimic, write_umi
from actionimg_data.errors import (
    BadFileError,
    InvalidSpecError,
    SourceNotFoundError,
    StorageAccessError,
    StorageError,
    WrongFormatError,
)
from actionimg_data.objectstore import RemotePath
from actionimg_data.schemas import ConvertOptions
from actionimg_data.testing import write_rlbench_dataset

pytest.importorskip("s3fs")
pytest.importorskip("moto")

OPTIONS = ConvertOptions.parse(height=64, width=64, episodes_per_shard=1)
VIEWS = ("front", "overhead")


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyStore]:
    with running_store() as store:
        yield store


@pytest.fixture
def store(server: FaultyStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultyStore]:
    point_at(server, monkeypatch)
    monkeypatch.setenv("ACTIONIMG_CACHE_DIR", str(tmp_path / "cache"))
    yield server
    server.reset()


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return make_log(frames=6, size=64, views=("front", "overhead", "wrist"))


Made = tuple[Converter, Path]


def made(name: str, source: Path, **options: Any) -> Made:
    kind = converter_class(name)
    return kind(kind.Options.parse(options, "test")), source


def rlbench(folder: Path, log: TeleopLog) -> Made:
    return made("rlbench", write_rlbench_dataset(folder / "demos", 2, 4, 64, ("front", "wrist"), "stepjam"))


def processed_tree(folder: Path, log: TeleopLog) -> Made:
    return made("action-images", write_action_images_tree(folder / "tree", 2, 45, 64))


def rlds(folder: Path, log: TeleopLog, file_format: str = "tfrecord") -> Made:
    source, name, options = write_rlds_demo(folder / "rlds", episodes=2, frames=4, size=64, file_format=file_format)
    config = folder / "entry.yaml"
    Path(options["config"]).rename(config)
    return made(name, source, config=str(config))


def rlds_in_array_records(folder: Path, log: TeleopLog) -> Made:
    pytest.importorskip("array_record")
    return rlds(folder, log, "array_record")


def plain_folder(folder: Path, log: TeleopLog) -> Made:
    for number in range(2):
        mapping = write_folder(log, folder / "recordings" / f"run_{number}", "csv", "png")
    return made("folder", folder / "recordings", mapping=str(write_yaml(folder / "mapping.yaml", mapping)))


def droid(folder: Path, log: TeleopLog) -> Made:
    (folder / "cameras.json").write_text(json.dumps(droid_camera_file(log)))
    write_droid(log, folder / "droid")
    tool = json.dumps(log.tool_from_gripper)
    return made("droid", folder / "droid", tool_from_gripper=tool, camera_file=str(folder / "cameras.json"))


def robomimic(folder: Path, log: TeleopLog) -> Made:
    path = write_robomimic([log, log], folder / "hdf5" / "demo.hdf5", "info")
    return made("robomimic", path, instruction="stack the cubes", fps=log_rate(log), only_views=VIEWS)


def umi(folder: Path, log: TeleopLog) -> Made:
    pytest.importorskip("zarr")
    pytest.importorskip("imagecodecs")
    cameras = write_umi([log, log], folder / "umi" / "cups.zarr.zip", "wrist")
    (folder / "umi.json").write_text(json.dumps(cameras))
    options = {"instruction": "put the cup down", "fps": log_rate(log), "gripper": f"0 {MAX_WIDTH_M}"}
    return made("umi", folder / "umi" / "cups.zarr.zip", **options, camera_file=str(folder / "umi.json"))


def log_rate(log: TeleopLog) -> float:
    return float(np.round(1 / np.median(np.diff(log.frame_times)), 6))


def lerobot(folder: Path, log: TeleopLog) -> Made:
    mapping = write_lerobot([log, log], folder / "lerobot", "v3.0", codec="libx264")
    (folder / "cameras.json").write_text(json.dumps(camera_file(log)))
    return made("lerobot", folder / "lerobot", mapping=str(write_yaml(folder / "mapping.yaml", mapping)))


def robotwin(folder: Path, log: TeleopLog) -> Made:
    for i in range(2):
        arm_lab_logs.write_robotwin(log, folder / "lift" / "piper_clean" / "data" / f"episode{i}.hdf5")
    return made("robotwin", folder / "lift", fps=20)


def agibot(folder: Path, log: TeleopLog) -> Made:
    return made("agibot", arm_lab_logs.write_agibot([log, log], folder / "agibot"), opening="y")


def rh20t(folder: Path, log: TeleopLog) -> Made:
    seen = make_log(frames=6, size=72, views=("front", "overhead"))
    source = arm_lab_logs.write_rh20t([seen, seen], folder / "rh20t")
    return made("rh20t", source, tool_from_gripper=arm_lab_logs.RH20T_TOOL)


def bridge_raw(folder: Path, log: TeleopLog) -> Made:
    for number in range(2):
        lab_logs.write_bridge_raw(log, folder / "bridge", number)
    names = {name: f"image_{i}" for i, name in enumerate(log.views)}
    cameras = folder / "bridge.json"
    cameras.write_text(json.dumps(lab_logs.renamed_cameras(log, names)))
    return made("bridge-raw", folder / "bridge", camera_file=str(cameras), only_views=("image_0", "image_1"))


def calvin(folder: Path, log: TeleopLog) -> Made:
    names = {"front": "static", "overhead": "overhead"}
    return made("calvin", lab_logs.write_calvin([log, log], folder / "task" / "training", names).parent)


def gello(folder: Path, log: TeleopLog) -> Made:
    for number in range(2):
        lab_logs.write_gello(log, folder / "gello" / f"0131_12000{number}")
    (folder / "gello.json").write_text(json.dumps(camera_file(log)))
    options = {"gripper": "1 0", "quaternion": "xyzw", "instruction": "x", "only_views": ("front", "overhead")}
    tool = json.dumps(log.tool_from_gripper)
    given = {"tool_from_gripper": tool, "camera_file": str(folder / "gello.json")}
    return made("gello", folder / "gello", **options, **given)


SOURCES: dict[str, Callable[[Path, TeleopLog], Made]] = {
    f.__name__: f
    for f in (
        rlbench,
        processed_tree,
        rlds,
        rlds_in_array_records,
        plain_folder,
        droid,
        robomimic,
        umi,
        lerobot,
        robotwin,
        agibot,
        rh20t,
        bridge_raw,
        calvin,
        gello,
    )
}


WHOLE = ("rlbench", "lerobot", "rlds")
"""Those that are converted a third time, as another machine would."""


def upload(path: Path, top: Path, name: str) -> str:
    """A file or a folder below ``top``, to the bucket; returns its URL."""
    for file in sorted(p for p in top.rglob("*") if p.is_file()):
        (RemotePath(f"s3://{BUCKET}/{name}") / file.relative_to(top).as_posix()).put(file.read_bytes())
    return f"s3://{BUCKET}/{name}/{path.relative_to(top).as_posix()}"


def tree(out: Path, ending: str = "") -> dict[str, bytes]:
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for p in sorted(out.rglob("*"))
        if p.is_file() and p.name.endswith(ending)
    }


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_in_a_store_gives_the_shards_of_the_local_one(
    store: FaultyStore, log: TeleopLog, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LARGE_BYTES", 1)
    (tmp_path / "src").mkdir()
    converter, source = SOURCES[kind](tmp_path / "src", log)
    url = upload(source, tmp_path / "src", kind)
    engine.convert(converter, str(source), tmp_path / "local", OPTIONS)
    result = engine.convert(converter, url, tmp_path / "out", OPTIONS)
    assert result.manifest.sources == (url,)
    assert result.quarantined == ()
    assert tree(tmp_path / "out", ".tar") == tree(tmp_path / "local", ".tar")
    plan = (tmp_path / "out" / "plan.jsonl").read_text()
    assert str(tmp_path) not in plan
    assert url in plan or url.rpartition("/")[0] in plan
    # Another machine has its cache elsewhere, and plans the same; nothing of the cache is in what is written.
    monkeypatch.setenv("ACTIONIMG_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert engine.plan(converter, url, OPTIONS).to_bytes().decode() == plan
    assert [name for name, data in tree(tmp_path / "out").items() if str(tmp_path / "cache").encode() in data] == []
    if kind in WHOLE:
        engine.convert(converter, url, tmp_path / "again", OPTIONS)
        assert tree(tmp_path / "again") == tree(tmp_path / "out")


def test_the_command_takes_urls_for_source_and_output_and_its_workers_share_a_cache(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSSPEC_S3", json.dumps(storage_options(store)))
    source = write_rlbench_dataset(tmp_path / "src" / "demos", 2, 3, 64, ("front", "wrist"), "stepjam")
    url = upload(source, tmp_path / "src", "command")
    words = ["--size", "64", "--episodes-per-shard", "1", "-j", "2", "--json", "--cache-dir", str(tmp_path / "kept")]
    out = f"s3://{BUCKET}/command-out"
    result = CliRunner().invoke(main, ["convert", "rlbench", url, out, *words, "--cache-size", "50MB"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["converted"] == 2
    assert os.environ["ACTIONIMG_CACHE_DIR"] == str(tmp_path / "cache")
    assert list((tmp_path / "kept" / "objects").glob("*/*"))
    engine.convert(RLBenchConverter(), str(source), tmp_path / "local", OPTIONS)
    for name, data in tree(tmp_path / "local", ".tar").items():
        assert (RemotePath(out) / name).read_bytes() == data
    shown = CliRunner().invoke(main, ["inspect", url, "--format", "rlbench", "--json"])
    assert json.loads(shown.stdout)["episodes"] == 2


def test_records_are_read_in_ranges_and_their_files_are_never_fetched(
    store: FaultyStore, log: TeleopLog, tmp_path: Path
) -> None:
    (tmp_path / "src").mkdir()
    converter, source = rlds(tmp_path / "src", log)
    url = upload(source, tmp_path / "src", "ranges")
    refs = list(SourceReader(converter).discover(url))
    episode = SourceReader(converter).read(refs[1])
    next(iter(episode.views.values())).frames.frames([0])
    objects = list((tmp_path / "cache" / "objects").glob("*/*"))
    records = next(source.glob("*.tfrecord*"))
    assert objects
    assert max(p.stat().st_size for p in objects) < records.stat().st_size
    assert refs[0].location["folder"] == url
    # Where its records are is remembered, by the object's name and version.
    before = store.requests
    assert list(SourceReader(converter).discover(url)) == refs
    again = store.requests - before
    assert len(list((tmp_path / "cache" / "rlds-index").iterdir())) == 1
    assert again < 40


def test_a_large_hdf5_file_is_read_in_ranges(
    store: FaultyStore, log: TeleopLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LARGE_BYTES", 1)
    converter, source = robomimic(tmp_path / "src", log)
    url = upload(source, tmp_path / "src", "large")
    reader = SourceReader(converter)
    episode = reader.read(next(iter(reader.discover(url))))
    assert len(list(episode.views["front"].frames.frames(range(3)))) == 3
    assert not [p for p in (tmp_path / "cache" / "objects").glob("*/*") if p.stat().st_size > 1000]


def test_the_cache_stays_within_its_size_and_serves_the_next_run(
    store: FaultyStore, log: TeleopLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rlbench_dataset(tmp_path / "src" / "demos", 4, 4, 64, ("front",), "stepjam")
    converter, _ = made("rlbench", source)
    url = upload(source, tmp_path / "src", "cache")
    total = sum(p.stat().st_size for p in source.rglob("*") if p.is_file())
    monkeypatch.setenv("ACTIONIMG_CACHE_SIZE", str(total // 2))
    engine.convert(converter, url, tmp_path / "out", OPTIONS)
    held = sum(p.stat().st_size for p in (tmp_path / "cache" / "objects").glob("*/*"))
    assert 0 < held <= total * 0.55
    assert not list((tmp_path / "cache" / "objects").glob("*/*.part"))
    monkeypatch.setenv("ACTIONIMG_CACHE_SIZE", "1GB")
    engine.convert(converter, url, tmp_path / "again", OPTIONS)
    fetched: list[str] = []
    store.fault = lambda method, path, number: fetched.append(path) if method == "GET" and ".png" in path else None
    engine.convert(converter, url, tmp_path / "third", OPTIONS)
    assert fetched == []
    assert tree(tmp_path / "third") == tree(tmp_path / "out")
    monkeypatch.setenv("ACTIONIMG_CACHE_SIZE", "1kB")
    with pytest.raises(StorageError, match=r"ACTIONIMG_CACHE_SIZE.*smaller than what one episode needs"):
        engine.convert(converter, url, tmp_path / "fourth", OPTIONS)
    monkeypatch.setenv("ACTIONIMG_CACHE_SIZE", "much")
    with pytest.raises(InvalidSpecError, match="is no size"):
        engine.convert(converter, url, tmp_path / "fourth", OPTIONS)


def test_bad_episodes_are_quarantined_by_their_urls_and_the_same_on_every_machine(
    store: FaultyStore, log: TeleopLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rlbench_dataset(tmp_path / "src" / "demos", 3, 4, 64, ("front",), "stepjam")
    first, second, _ = sorted(p for p in source.rglob("episode[0-9]") if p.is_dir())
    (first / "low_dim_obs.pkl").write_bytes(b"\x80\x04K")
    (second / "front_rgb" / "2.png").write_bytes(b"no picture")
    converter, _ = made("rlbench", source)
    url = upload(source, tmp_path / "src", "bad")
    result = engine.convert(converter, url, tmp_path / "out", OPTIONS, max_bad_fraction=1.0)
    assert [q.code for q in result.quarantined] == ["bad-file", "bad-image"]
    for row in result.quarantined:
        assert url in row.message
        assert str(tmp_path) not in row.message
    monkeypatch.setenv("ACTIONIMG_CACHE_DIR", str(tmp_path / "elsewhere"))
    engine.convert(converter, url, tmp_path / "again", OPTIONS, max_bad_fraction=1.0)
    assert tree(tmp_path / "again") == tree(tmp_path / "out")


def test_a_store_that_is_away_quarantines_nobody(
    store: FaultyStore, log: TeleopLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rlbench_dataset(tmp_path / "src" / "demos", 2, 4, 64, ("front",), "stepjam")
    converter, _ = made("rlbench", source)
    url = upload(source, tmp_path / "src", "away")
    monkeypatch.setenv("ACTIONIMG_STORE_PATIENCE", "0")
    last = max(p for p in source.rglob("episode[0-9]")).relative_to(source).as_posix()
    asked: set[str] = set()

    def fault(method: str, path: str, number: int) -> int | None:
        if method != "GET" or f"{last}/front_rgb/" not in path:
            return None
        asked.add(path)
        return 503

    store.fault = fault
    monkeypatch.setattr(remote, "_THREADS", 1)
    with pytest.raises(StorageError, match="does not answer"):
        engine.convert(converter, url, tmp_path / "out", OPTIONS, check_space=False)
    # One that fails is enough: most of the four pictures are not asked for.
    assert len(asked) <= 3
    assert len(list((tmp_path / "out" / "train").glob("*.json"))) == 1
    store.reset()
    result = engine.convert(converter, url, tmp_path / "out", OPTIONS)
    assert (result.shards, result.resumed_shards, result.quarantined) == (1, 1, ())


def test_errors_of_a_source_are_named(store: FaultyStore, log: TeleopLog, tmp_path: Path) -> None:
    converter, _ = made("rlbench", tmp_path)
    with pytest.raises(SourceNotFoundError, match="s3://bucket/nothing"):
        list(SourceReader(converter).discover(f"s3://{BUCKET}/nothing"))
    (RemotePath(f"s3://{BUCKET}/other") / "readme.txt").put(b"hello")
    with pytest.raises(WrongFormatError, match="s3://bucket/other: holds no RLBench episode"):
        list(SourceReader(converter).discover(f"s3://{BUCKET}/other"))
    store.fault = lambda method, path, number: 403
    with pytest.raises(StorageAccessError):
        list(SourceReader(converter).discover(f"s3://{BUCKET}/other"))


def test_what_was_not_fetched_is_never_taken_for_data(store: FaultyStore, log: TeleopLog, tmp_path: Path) -> None:
    source = write_rlbench_dataset(tmp_path / "src" / "demos", 1, 4, 64, ("front",), "stepjam")
    converter, _ = made("rlbench", source)
    url = upload(source, tmp_path / "src", "stub")
    reader = SourceReader(converter)
    (ref,) = reader.discover(url)
    found = reader._tree()
    local = {k: found.local(v) if str(v).startswith("s3:") else v for k, v in ref.location.items() if k != "remote"}
    stub = Path(local["source"]) / local["path"] / "low_dim_obs.pkl"
    assert stub.stat().st_size == next(source.rglob("low_dim_obs.pkl")).stat().st_size
    assert stub.stat().st_mode & 0o777 == 0
    with pytest.raises((BadFileError, OSError)):
        type(converter).read(converter, type(ref)(ref.id, local))


def test_third_party_converters_take_urls_without_a_line_of_theirs(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(write_source(tmp_path / "src" / "made", episodes=2, frames=3))
    url = upload(source, tmp_path / "src", "third")
    engine.convert(SyntheticConverter(), str(source), tmp_path / "local", OPTIONS)
    engine.convert(SyntheticConverter(), url, tmp_path / "out", OPTIONS, num_workers=1)
    assert tree(tmp_path / "out", ".tar") == tree(tmp_path / "local", ".tar")
    monkeypatch.setattr(SyntheticConverter, "reads_urls", True)
    with pytest.raises(SourceNotFoundError):
        list(SourceReader(SyntheticConverter()).discover(url))

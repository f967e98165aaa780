"""Data sets in object stores: byte for byte the local ones, whatever the network, the store and other runners do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner
from faulty_store import BUCKET, FaultyStore, point_at, revived, running_store, storage_options
from processes import PATIENCE
from synthetic_converter import SyntheticConverter, SyntheticOptions, write_source

import actionimg_data as aid
from actionimg_data import engine
from actionimg_data.cli import main
from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.errors import (
    InvalidSpecError,
    OutputExistsError,
    SourceNotFoundError,
    StorageAccessError,
    StorageError,
    UnsafeFileError,
    UnsupportedSourceError,
)
from actionimg_data.objectstore import RemotePath
from actionimg_data.schemas import ConvertOptions, PlanRow
from actionimg_data.shards import storage
from actionimg_data.shards.layout import place
from actionimg_data.shards.prepare import Recipe
from actionimg_data.shards.write import write_shard
from actionimg_data.testing import write_rlbench_dataset

pytest.importorskip("s3fs")
pytest.importorskip("moto")

OPTIONS = ConvertOptions.parse(height=64, width=64)
EPISODES = 3


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyStore]:
    with running_store() as store:
        yield store


@pytest.fixture
def store(server: FaultyStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultyStore]:
    point_at(server, monkeypatch)
    monkeypatch.setenv("ACTIONIMG_SCRATCH_DIR", str(tmp_path / "scratch"))
    yield server
    server.reset()


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{request.node.name[5:60].replace('[', '-').replace(']', '')}"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("source")
    return write_source(folder / "src", episodes=EPISODES, frames=3, bad={"ep_002": "bad-image"})


@pytest.fixture(scope="module")
def local(source: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same data set, converted into a folder."""
    out = tmp_path_factory.mktemp("local") / "out"
    convert(source, out)
    return tree(out)


def convert(source: str, out: str | Path, **how: Any) -> engine.Result:
    return engine.convert(SyntheticConverter(), source, out, OPTIONS, **how)


def tree(out: Path | RemotePath) -> dict[str, bytes]:
    if isinstance(out, Path):
        return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    return {name: (out / name).read_bytes() for name, _ in out.walk()}


def test_a_data_set_in_a_store_is_the_local_one_byte_for_byte_and_resumes(
    store: FaultyStore, url: str, source: str, local: dict[str, bytes], tmp_path: Path
) -> None:
    made = convert(source, url)
    assert tree(RemotePath(url)) == local
    assert store.broken == []
    assert not list((tmp_path / "scratch").glob("*/*"))
    again = convert(source, url)
    assert (made.shards, again.shards, again.resumed_shards) == (EPISODES, 0, EPISODES)
    (RemotePath(url) / "train/000001.json").unlink()
    assert convert(source, url).shards == 1
    assert tree(RemotePath(url)) == local


def test_a_store_of_memory_works_the_same(
    source: str, local: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTIONIMG_SCRATCH_DIR", str(tmp_path / "scratch"))
    convert(source, "memory://here/shards")
    assert tree(RemotePath("memory://here/shards")) == local
    assert engine.verify("memory://here/shards").ok


def test_commands_take_the_url_of_a_data_set(
    store: FaultyStore, url: str, source: str, local: dict[str, bytes], tmp_path: Path
) -> None:
    convert(source, url)

    def run(*words: str) -> Any:
        result = CliRunner().invoke(main, list(words))
        assert result.exit_code == 0, result.output
        return result.stdout

    found = json.loads(run("verify", url, "--json"))
    assert (found["ok"], found["samples"], found["shards"]) == (True, 2, {"checked": 3, "corrupt": []})
    assert json.loads(run("verify", url, "--quick", "--json", "--num-workers", "1"))["ok"]
    shown = json.loads(run("inspect", url, "--json"))
    assert (shown["kind"], shown["samples"], len(shown["shards"])) == ("dataset", 2, 3)
    page = tmp_path / "page.html"
    run("report", url, "--samples", "1", "--html", str(page))
    assert b"<html" in page.read_bytes()[:200]
    run("export", "reference-tree", url, str(tmp_path / "tree"))
    assert list((tmp_path / "tree").rglob("actions.npy"))
    run("export", "huggingface", url, str(tmp_path / "hub"))
    copied = tree(tmp_path / "hub")
    assert {name: copied[name] for name in local if not name.endswith("2.json")}.items() <= local.items()
    run("export", "wids", url, str(tmp_path / "index.json"))
    assert json.loads((tmp_path / "index.json").read_text())["shardlist"][0]["url"] == f"{url}/train/000000.tar"


def test_samples_are_read_in_ranges(store: FaultyStore, url: str, source: str) -> None:
    convert(source, url)
    data = aid.open_dataset(url)
    assert len(data) == 2
    before = store.requests
    assert data["task-ep_000"].rgb("front", [1]).shape == (1, 64, 64, 3)
    assert store.requests - before <= 4
    np.testing.assert_allclose(data[0].trajectory.position[:, 2], data[0].trajectory.position[:, 2])
    shard = aid.open_dataset(f"{url}/train/000000.tar")
    assert shard[0].members == data[0].members


def test_a_damaged_object_is_found(store: FaultyStore, url: str, source: str) -> None:
    convert(source, url)
    tar = RemotePath(url) / "train/000001.tar"
    data = bytearray(tar.read_bytes())
    data[5000] ^= 1
    tar.put(bytes(data))
    report = engine.verify(url)
    assert [s.path for s in report.shards if s.corrupt] == ["train/000001.tar"]
    assert url in report.failures[0].reason
    tar.unlink()
    assert not engine.verify(url, quick=True).ok


def test_a_damaged_data_set_in_a_store_is_repaired_from_its_source_there(
    store: FaultyStore, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTIONIMG_CACHE_DIR", str(tmp_path / "cache"))
    source = write_rlbench_dataset(tmp_path / "demos", 2, 3, 64, ("front", "wrist"), "stepjam")
    for file in (p for p in source.rglob("*") if p.is_file()):
        (RemotePath(url) / "src" / file.relative_to(source).as_posix()).put(file.read_bytes())
    out = RemotePath(url) / "out"
    engine.convert(RLBenchConverter(), f"{url}/src", str(out), OPTIONS)
    whole = tree(out)
    (out / "train/000000.tar").put(b"damaged")
    (out / "train/000001.tar").unlink()
    (out / "train/000001.json").put(b"{}")
    (out / "index.parquet").unlink()
    assert engine.repair(str(out)).ok
    assert tree(out) == whole


def test_parts_of_a_run_in_a_store_are_brought_together(
    store: FaultyStore, url: str, source: str, local: dict[str, bytes]
) -> None:
    for part in range(2):
        convert(source, url, shard_index=part, num_shards=2)
    assert tree(RemotePath(url)) == local
    manifest = json.loads(local["dataset.json"])
    (RemotePath(url) / "index.parquet").unlink()
    result = CliRunner().invoke(main, ["finalize", url, "--json"])
    assert (result.exit_code, manifest["complete"]) == (4, True), result.output
    assert tree(RemotePath(url)) == local


def test_bursts_of_errors_cut_uploads_and_lost_answers_change_nothing(
    store: FaultyStore, url: str, source: str, local: dict[str, bytes]
) -> None:
    kinds = [503, "lose", 500, "cut", 0.05]

    def fault(method: str, path: str, number: int) -> Any:
        # Every third request, one kind after the other.
        return kinds[number // 3 % len(kinds)] if number % 3 == 0 else None

    store.fault = fault
    convert(source, url)
    store.fault = lambda method, path, number: None
    assert tree(RemotePath(url)) == local
    assert store.broken == []
    assert {"503", "cut", "lose"} <= set(store.faults)


def test_a_server_that_dies_in_an_upload_and_comes_back_loses_nothing(
    store: FaultyStore, url: str, source: str, local: dict[str, bytes]
) -> None:
    kills = iter(["000000.tar", "000000.json", "000001.tar"])
    target = next(kills)

    def fault(method: str, path: str, number: int) -> Any:
        nonlocal target
        if method == "PUT" and path.endswith(target):
            target = next(kills, "none")
            return "kill"
        return None

    store.fault = fault
    with revived(store, 0.3):
        convert(source, url)
    assert store.faults["kill"] == 3
    assert tree(RemotePath(url)) == local
    assert store.broken == []


def test_a_server_that_stays_away_is_a_named_error_and_the_run_goes_on_later(
    store: FaultyStore, url: str, source: str, local: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTIONIMG_STORE_PATIENCE", "0.5")
    store.fault = lambda method, path, number: "kill" if method == "PUT" and path.endswith("000001.tar") else None
    with pytest.raises(StorageError, match=r"000001\.tar: cannot write: .*run the same command again") as caught:
        convert(source, url)
    assert not isinstance(caught.value, StorageAccessError)
    store.reset()
    there = tree(RemotePath(url))
    # Nothing of the second shard but what its runner needs to go on; no episode was given up for it.
    assert "train/000001.json" not in there
    assert "train/000000.json" in there
    assert convert(source, url).shards == EPISODES - 1
    assert tree(RemotePath(url)) == local


def test_slow_answers_are_waited_for_or_asked_for_again(
    store: FaultyStore, url: str, source: str, local: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsspec.config, "conf", {"s3": storage_options(store, read_timeout=0.5)})
    seen: set[str] = set()

    def fault(method: str, path: str, number: int) -> Any:
        if path.endswith(("000000.tar", "000001.json")) and method == "PUT" and path not in seen:
            seen.add(path)
            return 1.5
        return 0.02

    store.fault = fault
    convert(source, url)
    store.fault = lambda method, path, number: None
    assert len(seen) == 2
    assert tree(RemotePath(url)) == local
    assert store.broken == []


def test_of_two_runners_of_every_shard_one_wins_each(
    store: FaultyStore, url: str, source: str, local: dict[str, bytes]
) -> None:
    start = threading.Barrier(2, timeout=PATIENCE)
    results: list[engine.Result | BaseException] = []

    def runner() -> None:
        start.wait()
        try:
            results.append(convert(source, url))
        except BaseException as error:  # noqa: BLE001 (said in the other thread)
            results.append(error)

    threads = [threading.Thread(target=runner, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert [type(r) for r in results] == [engine.Result] * 2, results
    assert tree(RemotePath(url)) == local
    assert store.broken == []
    for number in range(EPISODES):
        assert store.writes[f"{url.partition(BUCKET)[2].lstrip('/')}/train/{number:06d}.json"] == 1


# The commit of one shard, with runners whose bytes differ: the worst that can be.


def row_of(source: str) -> tuple[PlanRow, engine.Result]:
    made = engine.plan(SyntheticConverter(), source, OPTIONS)
    return made.rows[0], made


def shard(out: str, source: str, brightness: int) -> Any:
    row, made = row_of(source)
    converter = SyntheticConverter(SyntheticOptions(brightness=brightness))
    return write_shard(place(out), row, made.manifest.plan, converter, Recipe(("front", "side"), (), OPTIONS))


def test_a_runner_that_finds_anothers_tar_finishes_its_work(
    store: FaultyStore, url: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shard(str(tmp_path / "out"), source, 10)
    with monkeypatch.context() as patch:
        # Killed after its tar was there and before its sidecar was.
        patch.setenv("ACTIONIMG_STORE_PATIENCE", "0")
        store.fault = lambda method, path, number: 500 if path.endswith("000000.json") and method == "PUT" else None
        with pytest.raises(StorageError):
            shard(url, source, 10)
    store.reset()
    assert sorted(p.suffix for p in (RemotePath(url) / "train").iterdir()) == [".tar", ".tmp"]
    assert shard(url, source, 200) == whole
    assert sorted(p.name for p in (RemotePath(url) / "train").iterdir()) == ["000000.json", "000000.tar"]
    assert storage.place_sha256(RemotePath(url) / "train/000000.tar") == (whole.sha256, whole.bytes)
    # Also one that comes when everything is done, and one with nothing to show for it.
    assert shard(url, source, 77) == whole


def test_a_tar_that_belongs_to_nobody_is_written_over(store: FaultyStore, url: str, source: str) -> None:
    tar = RemotePath(url) / "train/000000.tar"
    tar.put(b"of a data set that was removed while it was written")
    made = shard(url, source, 10)
    assert storage.place_sha256(tar) == (made.sha256, made.bytes)


def test_a_tar_that_arrives_damaged_is_sent_again(store: FaultyStore, url: str, source: str) -> None:
    real = store.forward
    damaged: list[str] = []

    def forward(method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
        if method == "PUT" and path.endswith("000000.tar") and not damaged:
            damaged.append(path)
            body = body[:3000] + b"\0\1\2" + body[3003:]
            headers = {k: v for k, v in headers.items() if "checksum" not in k.lower() and k.lower() != "content-md5"}
        return real(method, path, headers, body)

    store.forward = forward  # type: ignore[method-assign]
    try:
        made = shard(url, source, 10)
    finally:
        del store.forward  # type: ignore[method-assign]
    assert damaged
    assert storage.place_sha256(RemotePath(url) / "train/000000.tar") == (made.sha256, made.bytes)
    assert store.broken == []


def test_runners_whose_bytes_differ_leave_one_shard_that_is_whole(store: FaultyStore, url: str, source: str) -> None:
    results: list[Any] = []
    start = threading.Barrier(3, timeout=PATIENCE)

    def runner(brightness: int) -> None:
        start.wait()
        results.append(shard(url, source, brightness))

    threads = [threading.Thread(target=runner, args=(b,), daemon=True) for b in (10, 90, 170)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(results) == 3
    assert results[0] == results[1] == results[2]
    assert storage.place_sha256(RemotePath(url) / "train/000000.tar") == (results[0].sha256, results[0].bytes)
    assert store.broken == []


def test_a_shard_that_is_taken_back_can_be_made_again(store: FaultyStore, url: str, source: str) -> None:
    first = shard(url, source, 10)
    storage.retract(place(url), "train/000000")
    assert list((RemotePath(url) / "train").iterdir()) == []
    second = shard(url, source, 90)
    assert second.sha256 != first.sha256
    assert storage.place_sha256(RemotePath(url) / "train/000000.tar") == (second.sha256, second.bytes)


def test_a_store_that_overwrites_what_is_there_is_refused_before_anything_is_written(
    store: FaultyStore, url: str, source: str
) -> None:
    store.keep_conditions = False
    with pytest.raises(UnsupportedSourceError, match="only where there is none"):
        convert(source, url)
    assert not RemotePath(url).exists()


def test_what_cannot_be_a_destination_is_refused_by_name(source: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSourceError, match="only where there is none"):
        convert(source, "ftp://127.0.0.1/shards")
    with pytest.raises(UnsupportedSourceError):
        convert(source, "nosuch://bucket/shards")
    with pytest.raises(UnsafeFileError):
        place("simplecache::s3://bucket/shards")


def test_missing_and_refused_credentials_are_named(
    store: FaultyStore, url: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.fault = lambda method, path, number: 403
    with pytest.raises(StorageAccessError, match="credentials") as caught:
        convert(source, url)
    assert isinstance(caught.value, PermissionError)
    store.reset()
    options = {k: v for k, v in storage_options(store).items() if k not in ("key", "secret")}
    monkeypatch.setattr(fsspec.config, "conf", {"s3": options})
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageAccessError, match="AWS_PROFILE"):
        aid.open_dataset(url)


def test_what_is_not_there_is_said(store: FaultyStore, url: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceNotFoundError, match="does not exist"):
        aid.open_dataset(url)
    (RemotePath(url) / "notes.txt").put(b"mine")
    with pytest.raises(OutputExistsError, match=r"not a data set.*notes\.txt"):
        convert(source, url)
    monkeypatch.setenv("ACTIONIMG_STORE_PATIENCE", "soon")
    with pytest.raises(InvalidSpecError, match="must be seconds"):
        aid.open_dataset(url)


def test_scratch_of_a_killed_process_is_removed_by_the_next(store: FaultyStore, url: str, tmp_path: Path) -> None:
    code = """if True:
        import os, signal
        from actionimg_data.objectstore import RemotePath
        from actionimg_data.shards.storage import workspace
        with workspace(RemotePath("memory://x"), "train/000000") as part:
            part.write_bytes(b"0" * 1000)
            print("there", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    result = subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, check=False, capture_output=True)
    assert (result.returncode, result.stdout) == (-9, b"there\n")
    assert list((tmp_path / "scratch").glob("*/*.tar"))
    with storage.workspace(RemotePath("memory://x"), "train/000000") as part:
        assert [p for p in (tmp_path / "scratch").iterdir() if p.is_dir()] == [part.parent]
    assert not [p for p in (tmp_path / "scratch").iterdir() if p.is_dir()]


def test_paths_of_a_store_have_the_names_that_local_paths_have() -> None:
    path = RemotePath("memory://bucket/a/../b/x.tar")
    assert str(path) == "memory://bucket/b/x.tar"
    assert (path.name, path.stem, path.suffix, str(path.parent)) == ("x.tar", "x", ".tar", "memory://bucket/b")
    assert path.with_name("y") == path.parent / "y"
    assert path.relative_to(path.parent.parent) == "b/x.tar"
    path.put(b"0123456789")
    with path.open() as file:
        assert (file.seek(4), file.read(3), file.read(), file.read()) == (4, b"456", b"789", b"")
    assert path.read_range(8, 10) == b"89"
    assert path.read_range(20, 10) == b""
    assert [str(p) for p in path.parent.glob("*.tar")] == [str(path)]
    with pytest.raises(FileNotFoundError):
        (path.parent / "none").stat()
    with pytest.raises(FileNotFoundError):
        (path.parent / "none").read_bytes()

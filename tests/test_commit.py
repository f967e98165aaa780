"""The first published sidecar of a shard wins, whatever bytes its twins make and wherever they are stopped."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_converter import SyntheticConverter, SyntheticOptions, write_source

from actionimg_data import engine
from actionimg_data.errors import OutputError
from actionimg_data.schemas import ConvertOptions, PlanRow, ShardSidecar
from actionimg_data.shards import Recipe, layout, storage, write_shard
from actionimg_data.shards.manifest import read_sidecar

OPTIONS = ConvertOptions.parse(height=64, width=64, episodes_per_shard=2)
SHARD = "train/000000"


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_source(tmp_path / "src", episodes=2, frames=2)


def planned(source: str) -> tuple[PlanRow, str]:
    made = engine.plan(SyntheticConverter(), source, OPTIONS)
    return made.rows[0], made.manifest.plan


def shard(out: Path, source: str, brightness: int, plan: str | None = None) -> ShardSidecar:
    """One runner of the shard; another brightness gives other bytes, as another library would."""
    row, of = planned(source)
    reader = SyntheticConverter(SyntheticOptions(brightness=brightness))
    with pytest.MonkeyPatch.context() as patch:
        # Temporary names are those of a process: each runner is one.
        patch.setattr(os, "getpid", lambda: 4_000_000 + brightness)
        return write_shard(out, row, plan or of, reader, Recipe(("front", "side"), (), OPTIONS))


def whole(out: Path) -> bool:
    """Whether the shard is published and its tar is the one that the sidecar names, with nothing beside them."""
    sidecar = read_sidecar(out, SHARD)
    assert sidecar is not None
    assert sorted(p.name for p in (out / "train").iterdir()) == ["000000.json", "000000.tar"]
    return storage.place_sha256(out / f"{SHARD}.tar") == (sidecar.sha256, sidecar.bytes)


def at(monkeypatch: pytest.MonkeyPatch, name: str, ending: str, act: Callable[[], Any], after: bool = False) -> None:
    """Do something else right before, or right after, this process gives a file its place, the first time."""
    real, done = getattr(os, name), []

    def stopped(part: Any, target: Any) -> None:
        mine = str(target).endswith(ending) and not done
        if mine:
            done.append(True)
        if mine and not after:
            act()
        real(part, target)
        if mine and after:
            act()

    monkeypatch.setattr(os, name, stopped)


def test_a_late_twin_takes_what_is_published_and_changes_nothing(tmp_path: Path, source: str) -> None:
    out = tmp_path / "out"
    first = shard(out, source, 10)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (out / "train").iterdir()}
    assert shard(out, source, 200) == first
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (out / "train").iterdir()} == before
    assert whole(out)


@pytest.mark.parametrize("ending", [".tar", ".json"])
@pytest.mark.parametrize("after", [False, True])
def test_a_runner_that_stands_still_at_any_step_meets_its_twins_shard(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch, ending: str, after: bool
) -> None:
    out = tmp_path / "out"
    twin: list[ShardSidecar] = []
    at(monkeypatch, "link", f"000000{ending}", lambda: twin.append(shard(out, source, 200)), after)
    mine = shard(out, source, 10)
    assert mine == twin[0]
    assert whole(out)
    # Whoever had its tar there first has made the shard, also where the other one finished it.
    first = 10 if (ending, after) != (".tar", False) else 200
    assert mine == shard(tmp_path / "alone", source, first)


def test_a_twin_whose_files_were_taken_away_sees_that_its_shard_is_published(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    real = storage.file_sha256
    twin: list[ShardSidecar] = []

    def slept(path: Path) -> tuple[str, int]:
        if not twin:
            # Stopped here while another run made the data set and cleared it of what killed runs leave.
            monkeypatch.setattr(storage, "file_sha256", real)
            twin.append(shard(out, source, 200))
            path.unlink()
        return real(path)

    monkeypatch.setattr(storage, "file_sha256", slept)
    assert shard(out, source, 10) == twin[0]
    assert whole(out)


def test_files_that_vanish_without_a_twin_are_an_error(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = storage.file_sha256
    monkeypatch.setattr(storage, "file_sha256", lambda path: (path.unlink(), real(path))[1])
    with pytest.raises(OutputError, match="No such file"):
        shard(tmp_path / "out", source, 10)


@pytest.mark.parametrize("ending", [".tar", ".json"])
@pytest.mark.parametrize("after", [False, True])
def test_a_worker_that_is_told_to_end_within_a_commit_ends_with_a_whole_shard(
    tmp_path: Path, source: str, ending: str, after: bool
) -> None:
    out = tmp_path / "out"
    with warnings.catch_warnings():
        # Python 3.12 and later warn of forking a process that has threads; the child only writes files.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            patch = pytest.MonkeyPatch()
            at(patch, "link", f"000000{ending}", lambda: signal.raise_signal(signal.SIGTERM), after)
            shard(out, source, 10)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM
    # As the run does whose worker it was.
    storage.remove_parts(out, SHARD, 4_000_010)
    assert whole(out)


def test_a_temporary_file_that_other_runs_take_away_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, taken = os.replace, []

    def late(part: Path, target: Path) -> None:
        if len(taken) < 5:
            # A run that has just ended clears the folder of what killed ones leave.
            taken.append(part)
            part.unlink()
        real(part, target)

    monkeypatch.setattr(os, "replace", late)
    layout.publish(tmp_path / "index.parquet", b"whole")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"whole"]
    names: list[Path] = []
    threads = [threading.Thread(target=lambda: names.append(layout.temporary(tmp_path / "a"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert layout.temporary(tmp_path / "a") not in names


def killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_killed_runners_tar_is_finished_by_the_next(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        at(patch, "link", "000000.json", killed)
        with pytest.raises(KeyboardInterrupt):
            shard(out, source, 10)
    (staged,) = (out / "train").glob("*.json.*.tmp")
    assert hashlib.sha256((out / f"{SHARD}.tar").read_bytes()).hexdigest().startswith(staged.name.split(".")[2])
    assert shard(out, source, 200) == shard(tmp_path / "alone", source, 10)
    storage.retract(tmp_path / "alone", SHARD)
    for path in (out / "train").glob("*.tmp"):
        path.unlink()
    assert whole(out)


def test_a_tar_of_nobody_and_one_of_another_plan_make_room(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (out / "train").mkdir(parents=True)
    (out / f"{SHARD}.tar").write_bytes(b"of a data set that was removed while it was written")
    made = shard(out, source, 10)
    assert whole(out)
    storage.retract(out, SHARD)
    with monkeypatch.context() as patch:
        at(patch, "link", "000000.json", killed)
        with pytest.raises(KeyboardInterrupt):
            shard(out, source, 200, plan="0" * 64)
    assert shard(out, source, 10) == made
    for path in (out / "train").glob("*.tmp"):
        path.unlink()
    assert whole(out)


def test_a_tar_that_is_published_while_anothers_is_cleared_away_is_put_back(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (out / "train").mkdir(parents=True)
    (out / f"{SHARD}.tar").write_bytes(b"of nobody")
    real, twin = os.rename, []

    def stopped(old: Any, new: Any) -> None:
        if not twin:
            twin.append(None)
            twin[0] = shard(out, source, 200)
        real(old, new)

    monkeypatch.setattr(os, "rename", stopped)
    assert shard(out, source, 10) == twin[0]
    assert whole(out)


def test_file_systems_without_hard_links_are_written_to_all_the_same(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(part: Any, target: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    out = tmp_path / "out"
    first = shard(out, source, 10)
    assert shard(out, source, 200) == first
    assert whole(out)
    assert layout.publish_if_absent(out / "x", b"1")
    assert not layout.publish_if_absent(out / "x", b"2")
    assert (out / "x").read_bytes() == b"1"

"""What can go wrong around a conversion: sources that go away or change, workers that stand still, bugs, repairs."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from processes import PATIENCE, hear_interrupts
from standing_converter import Standing
from synthetic_converter import SyntheticConverter, environment_with_converter, write_source
from test_engine import run, tree
from test_repair import TWO, _registered, flip  # noqa: F401 (a fixture that registers the converter)

from actionimg_data import engine
from actionimg_data.cli import main
from actionimg_data.engine import local
from actionimg_data.errors import ActionImgError, BadFileError, SourceGoneError
from actionimg_data.model import Episode, EpisodeRef
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import storage
from actionimg_data.shards.manifest import read_manifest

SMALL = ConvertOptions.parse(height=64, width=64, episodes_per_shard=1)


class Observer(engine.Observer):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def convert(source: str, out: Path, converter: Any = None, **how: Any) -> engine.Result:
    return engine.convert(converter or SyntheticConverter(), source, out, SMALL, **{"max_bad_fraction": 0.9, **how})


class Unmounted(SyntheticConverter):
    """At its third episode the share is gone."""

    how = "missing"

    def read(self, ref: EpisodeRef) -> Episode:
        root = Path(os.environ["SHARE"])
        if ref.id.endswith("2") and not (root.parent / "away").exists():
            root.rename(root.parent / "away")
            if self.how != "missing":
                root.mkdir()
            if self.how == "other":
                (root / "lost+found").mkdir()
        if not (root / "synthetic.json").exists():
            raise FileNotFoundError(2, "No such file or directory", str(root / ref.id))
        return super().read(ref)


class UnmountedToEmpty(Unmounted):
    how = "empty"


class UnmountedToOther(Unmounted):
    how = "other"


@pytest.mark.parametrize("kind", [Unmounted, UnmountedToEmpty, UnmountedToOther])
def test_a_source_that_goes_away_stops_the_run_and_the_same_command_heals_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Unmounted]
) -> None:
    src = write_source(tmp_path / "share", episodes=5, frames=2)
    monkeypatch.setenv("SHARE", src)
    with pytest.raises(SourceGoneError, match="Mount it again") as caught:
        convert(src, tmp_path / "out", kind())
    assert src in str(caught.value)
    assert not read_manifest(tmp_path / "out").complete
    shutil.rmtree(src, ignore_errors=True)
    (tmp_path / "away").rename(src)
    (tmp_path / "away").mkdir()
    result = convert(src, tmp_path / "out", kind())
    assert (result.resumed_shards, result.quarantined) == (2, ())
    convert(src, tmp_path / "whole")
    # Fingerprints of the plans differ by the converter alone; all bytes of the samples are the same.
    for tar in (tmp_path / "whole/train").glob("*.tar"):
        assert tar.read_bytes() == (tmp_path / "out/train" / tar.name).read_bytes()


def test_an_episode_that_fails_while_its_source_is_there_goes_into_quarantine(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=3, frames=2, bad={"ep_001": "io"})
    result = convert(src, tmp_path / "out")
    assert [row.code for row in result.quarantined] == ["read-failed"]


class Changing(SyntheticConverter):
    """Somebody writes to an episode while it is read."""

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        return "v2" if ref.id.endswith("1") else ref.fingerprint


def test_an_episode_that_changes_while_it_is_read_is_refused_by_name(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=3, frames=2)
    result = convert(src, tmp_path / "out", Changing())
    (row,) = result.quarantined
    assert (row.id, row.code) == ("task/ep_001", "source-changed")
    assert result.manifest.counts is not None
    assert result.manifest.counts.converted == 2


class Bug(SyntheticConverter):
    """A bug that the first episodes bring to light, before anything is planned."""

    def read(self, ref: EpisodeRef) -> Episode:
        if ref.id.endswith(("0", "1")):
            raise RuntimeError("generator raised StopIteration")
        return super().read(ref)


def test_a_bug_that_one_episode_brings_to_light_ends_no_run(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=4, frames=2)
    made = engine.plan(Bug(), src, SMALL)
    estimate = engine.estimate(Bug(), made, tmp_path / "out")
    assert estimate.failed_episodes == 2
    result = convert(src, tmp_path / "out", Bug())
    assert [row.code for row in result.quarantined] == ["internal-error"] * 2
    assert "StopIteration" in (result.quarantined[0].traceback or "")
    with pytest.raises(ActionImgError, match="RuntimeError: generator raised StopIteration"):
        engine.plan(Bug(), write_source(tmp_path / "two", episodes=2, frames=2), SMALL)


def test_a_bug_takes_one_line_of_the_screen_and_the_log_has_the_rest(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=3, frames=2, bad={"ep_001": "bug"})
    words = ["convert", "synthetic", src, str(tmp_path / "out"), "--size", "64", "-j", "1"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 4
    assert "Traceback" not in result.output
    (line,) = [line for line in result.stderr.splitlines() if "ep_001" in line]
    assert "[internal-error] RuntimeError: a bug in a converter" in line
    assert "quarantine.jsonl" in line
    assert "--retry-quarantined" in result.stdout
    (row,) = map(json.loads, (tmp_path / "out/quarantine.jsonl").read_text().splitlines())
    assert "Traceback (most recent call last)" in row["traceback"]


# --- workers that stand still


@contextlib.contextmanager
def stopped_once(mark: Path) -> Iterator[list[int]]:
    """Stop the process that writes its number into ``mark``, as a debugger or a frozen machine would."""
    done: list[int] = []

    def watch() -> None:
        deadline = time.monotonic() + PATIENCE
        while not done and time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                pid = int(mark.read_text())
                os.kill(pid, signal.SIGSTOP)
                done.append(pid)
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        thread.join(1)
        for pid in done:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Clock:
    """A clock that runs fast while a process lives: nobody waits for it, and no other one is late on a slow machine."""

    def __init__(self, process: Callable[[], int]) -> None:
        self.process, self.ahead = process, 0

    def monotonic(self) -> float:
        with contextlib.suppress(OSError, ValueError, IndexError):
            os.kill(self.process(), 0)
            self.ahead += 100
        return time.monotonic() + self.ahead


def test_a_frozen_worker_is_named_ended_and_its_shard_given_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    src = write_source(tmp_path / "src", episodes=3, frames=2)
    observer = Observer()
    with stopped_once(tmp_path / "mark") as stopped:
        monkeypatch.setattr(local, "time", Clock(lambda: stopped[0]))
        workers = local.Workers(1, episode_timeout=600, warn=observer.warning)
        result = convert(src, tmp_path / "out", Standing(), executor=workers)
    assert stopped
    assert result.quarantined == ()
    assert any("has said nothing for" in line and "episode task/ep_001" in line for line in observer.warnings)
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_an_episode_that_takes_too_long_twice_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    monkeypatch.setenv("EVERY", "1")
    monkeypatch.setattr(local, "time", Clock(lambda: int((tmp_path / "mark").read_text())))
    src = write_source(tmp_path / "src", episodes=2, frames=2)
    result = convert(src, tmp_path / "out", Standing(), executor=local.Workers(1, episode_timeout=600))
    (row,) = result.quarantined
    assert (row.id, row.code) == ("task/ep_001", "episode-timeout")
    assert "takes longer than the 600 s" in row.message


def test_ctrl_c_in_the_first_seconds_of_two_workers_is_one_line(tmp_path: Path) -> None:
    stand = tmp_path / "stand"
    stand.touch()
    src = write_source(tmp_path / "src", episodes=2, frames=2, bad={"ep_001": f"while:{stand}"})
    words = [sys.executable, "-m", "actionimg_data", "convert", "synthetic", src, str(tmp_path / "out")]
    words += ["--size", "64", "-j", "2"]
    env = environment_with_converter(tmp_path / "plugin")
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, start_new_session=True, env=env, preexec_fn=hear_interrupts
    )
    try:
        deadline = time.monotonic() + PATIENCE
        # As soon as the first worker is being born: its interpreter is not ours yet.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(children.read_text().split()) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == 130, said
    assert len(said.strip().splitlines()) == 1, said


def test_a_folder_that_cannot_be_cleaned_up_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = write_source(tmp_path / "src", episodes=1, frames=2)
    real = Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if ".tar." in self.name:
            raise PermissionError(13, "Permission denied", str(self))
        real(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    result = CliRunner().invoke(main, ["convert", "synthetic", src, str(tmp_path / "out"), "--size", "64", "-j", "1"])
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error[output-failed]")
    assert "Permission denied" in line


# --- usage


@pytest.mark.parametrize(
    "words",
    [
        ["--size", "abc"],
        ["--size", "511"],
        ["--size", "0"],
        ["--split", "a/b"],
        ["--brightness", "x"],
        ["--cache-size", "much"],
        ["--calibration-gripper", "width=wide"],
        ["--executor", "local", "--ray-task", "cpus=1"],
        ["--episode-timeout", "0"],
    ],
)
def test_a_mistake_of_usage_is_exit_code_2(tmp_path: Path, words: list[str]) -> None:
    src = write_source(tmp_path / "src", episodes=1, frames=2)
    result = CliRunner().invoke(main, ["convert", "synthetic", src, str(tmp_path / "out"), *words])
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "out").exists()


# --- RLDS


@pytest.fixture
def rlds(tmp_path: Path) -> Path:
    from actionimg_data.demo.rlds import write_rlds_demo

    folder, _, _ = write_rlds_demo(tmp_path / "rlds", episodes=4, frames=3, size=64)
    return Path(folder)


def rlds_damages(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    second = 16 + struct.unpack("<Q", data[:8])[0]
    broken = bytearray(data)
    broken[second + 8] ^= 1
    return {"truncated": data[: second + 40], "bad length CRC": bytes(broken), "cut between records": data[:second]}


@pytest.mark.parametrize("how", ["truncated", "bad length CRC", "cut between records"])
def test_a_damaged_rlds_shard_costs_what_comes_after_the_damage(rlds: Path, tmp_path: Path, how: str) -> None:
    from actionimg_data.converters.rlds.reader import open_rlds

    (path,) = rlds.rglob("*.tfrecord-*")
    path.write_bytes(rlds_damages(path)[how])
    with pytest.raises(ActionImgError, match=r"--skip-bad-shards|--allow-count-mismatch"):
        list(open_rlds(rlds).episodes("train", images=False))
    dataset = open_rlds(rlds, skip_bad_shards=True)
    places = list(dataset.places("train"))
    assert [len(p.records) for p in places] == [1, 0, 0, 0]
    assert dataset.record(places[0]).num_steps == 3
    for number in (1, 2, 3):
        with pytest.raises(BadFileError, match=f"record {number} comes after a damaged place"):
            dataset.record(places[number])


# --- repair


def test_repair_says_what_differs_and_by_how_much_and_takes_it_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = write_source(tmp_path / "src", episodes=4, frames=3, bad={"ep_003": "bad-image"})
    out = tmp_path / "out"
    run(src, out, TWO)
    before = tree(out)
    flip(out / "train/000000.tar")
    broken = tree(out)
    # What another library would do: the same pictures, other bytes.
    encoder = importlib.import_module("actionimg_data.video.encode")
    monkeypatch.setattr(encoder, "SAME_ON_EVERY_CPU", "cpu-independent=1:qpmin=20")
    found = engine.repair(out)
    ((name, reason),) = found.left
    assert name == "train/000000.tar"
    assert "members differ: task-ep_00" in reason
    assert "rgb.mp4" in reason
    assert "pictures by up to" in reason
    assert "--accept-different" in reason
    assert tree(out) == broken
    result = CliRunner().invoke(main, ["repair", str(out), "-j", "1", "--accept-different"])
    assert result.exit_code == 0, result.output
    assert "taken with other bytes: train/000000.tar" in result.stderr
    now = tree(out)
    assert sorted(n for n in now if now[n] != before[n]) == [
        "dataset.json", "index.parquet", "train/000000.json", "train/000000.tar"
    ]  # fmt: skip
    assert engine.verify(out, quick=True).ok
    manifest = read_manifest(out)
    assert manifest.remade[0].shards == ("train/000000",)
    assert engine.repair(out).made == []
    # The data set goes on under its plan as before.
    assert run(src, out, TWO).shards == 0


def test_a_shard_of_other_versions_is_made_again_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from actionimg_data.engine import restoration

    src = write_source(tmp_path / "src", episodes=2, frames=2)
    out = tmp_path / "out"
    run(src, out, TWO)
    before = tree(out)
    flip(out / "train/000000.tar")
    versions = restoration.tool_versions()
    monkeypatch.setattr(restoration, "tool_versions", lambda: {**versions, "av": "99.0"})
    ((_, reason),) = engine.repair(out).left
    assert reason.endswith("With --accept-different it is taken as it comes out now.")
    # It comes out as it was: nothing has to be accepted.
    found = engine.repair(out, accept_different=True)
    assert (found.ok, found.accepted) == (True, [])
    assert tree(out) == before


def test_differences_are_told_by_kind(tmp_path: Path) -> None:
    from actionimg_data.engine import difference
    from actionimg_data.shards import npz

    one, other = npz.dump({"a": np.zeros(3), "b": np.arange(2)}), npz.dump({"a": np.full(3, 1e-9), "b": np.arange(2)})
    assert difference._content("x.npz", one, other) == "a by up to 1e-09"
    assert difference._content("x.json", b'{"a": 1, "b": 2}', b'{"a": 1, "b": 3}') == "fields b"
    assert difference._content("x.json", b'{"a": 1}', b'{"a":1}') == "the same values, written otherwise"


def test_two_runners_on_one_folder_leave_one_whole_data_set(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=4, frames=2)
    results: list[Any] = []

    def runner() -> None:
        try:
            results.append(convert(src, tmp_path / "out", num_workers=2))
        except BaseException as error:  # noqa: BLE001 (said in the other thread)
            results.append(error)

    threads = [threading.Thread(target=runner, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [type(r) for r in results] == [engine.Result] * 2, results
    assert engine.verify(tmp_path / "out", quick=True).ok
    convert(src, tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert storage.free_bytes(tmp_path / "out")

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from processes import PATIENCE, wait_for_group
from synthetic_converter import SyntheticConverter, deaf_worker, write_source

from actionimg_data import engine
from actionimg_data.engine import local
from actionimg_data.errors import (
    InvalidSpecError,
    OutputExistsError,
    SourceNotFoundError,
    TooManyBadEpisodesError,
    WorkerError,
    WrongFormatError,
)
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards.manifest import read_manifest, read_sidecar
from actionimg_data.shards.prepare import Recipe

OPTIONS = ConvertOptions.parse(height=64, width=64)
TESTS = Path(__file__).resolve().parent


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tars(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(folder).items() if name.endswith(".tar")}


def run(src: str, out: Path, options: ConvertOptions = OPTIONS, **how: Any) -> engine.Result:
    return engine.convert(SyntheticConverter(), src, out, options, **how)


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=5, bad={"ep_003": "bad-image"})
    one = run(src, tmp_path / "one")
    two = run(src, tmp_path / "two", num_workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert one.manifest == two.manifest
    assert one.manifest.counts.converted == 4
    assert {r.id for r in two.quarantined} == {"task/ep_003"}


def test_a_worker_that_is_killed_once_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    calm = run(write_source(tmp_path / "calm", episodes=4), tmp_path / "a", num_workers=2)
    src = write_source(tmp_path / "wild", episodes=4, bad={"ep_002": f"kill-once:{mark}"})
    wild = run(src, tmp_path / "b", num_workers=2)
    assert mark.exists()
    assert calm.manifest.counts == wild.manifest.counts
    assert tars(tmp_path / "a") == tars(tmp_path / "b")
    assert not list((tmp_path / "b").rglob("*.tmp"))


def test_an_episode_that_kills_every_worker_is_quarantined_and_the_others_are_converted(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=4, bad={"ep_001": "kill"})
    options = ConvertOptions.parse(height=64, width=64, episodes_per_shard=2)
    result = run(src, tmp_path / "out", options, num_workers=2)
    assert result.manifest.counts.converted == 3
    (row,) = result.quarantined
    assert (row.id, row.code) == ("task/ep_001", "worker-crashed")
    assert "SIGKILL" in row.message
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_the_death_of_a_worker_is_noticed_though_its_child_holds_the_pipe(tmp_path: Path) -> None:
    child = tmp_path / "child"
    src = write_source(tmp_path / "src", episodes=2, bad={"ep_001": f"leave-a-child:{child}"})
    try:
        result = run(src, tmp_path / "out", num_workers=2)
    finally:
        if child.exists():
            os.kill(int(child.read_text()), signal.SIGKILL)
    assert [(row.id, row.code) for row in result.quarantined] == [("task/ep_001", "worker-crashed")]


def test_workers_end_where_sigterm_is_ignored(tmp_path: Path) -> None:
    others = set(multiprocessing.active_children())

    class Stop(engine.Observer):
        def progress(self, event: Any) -> None:
            raise KeyboardInterrupt

    src = write_source(tmp_path / "src", episodes=4, slow=1.0)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(src, tmp_path / "out", num_workers=2, observer=Stop())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert set(multiprocessing.active_children()) <= others
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_a_worker_that_does_not_end_is_killed(monkeypatch: Any) -> None:
    others = set(multiprocessing.active_children())
    monkeypatch.setattr(local, "STOP_SECONDS", 0.2)
    monkeypatch.setattr(local, "_work", deaf_worker)
    with local.Workers(2) as workers:
        assert all(worker.pipe.poll(PATIENCE) and worker.pipe.recv() == "deaf" for worker in workers._pool.workers)
    assert not workers._pool.workers
    assert set(multiprocessing.active_children()) <= others


def test_rows_are_taken_only_when_there_is_a_worker_for_them(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=12, frames=1)
    made = engine.plan(SyntheticConverter(), src, OPTIONS)
    taken, ahead = 0, []

    def rows() -> Any:
        nonlocal taken
        for row in made.rows:
            taken += 1
            yield row

    def published(_: Any) -> None:
        ahead.append(taken - len(ahead))

    job = engine.Job(
        tmp_path / "out",
        made.manifest.plan,
        SyntheticConverter(),
        Recipe.of(made.manifest),
    )
    with local.Workers(2) as workers:
        workers.run(job, rows(), lambda _: None, published)
    assert taken == 12
    assert max(ahead) <= 2


def test_a_forked_process_converts_without_touching_opencvs_threads(tmp_path: Path) -> None:
    """cv2.setNumThreads waits there for threads that only the parent has."""
    src = write_source(tmp_path / "src", episodes=1, frames=1)
    cv2.resize(np.zeros((512, 512, 3), np.uint8), (256, 256), interpolation=cv2.INTER_AREA)
    with warnings.catch_warnings():
        # Python 3.12 and later warn of forking a process that has threads, which is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run(src, tmp_path / "out")
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + PATIENCE
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    if ended == (0, 0):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert ended == (pid, 0)


# An interrupt between `os.scandir` and its `with` leaves an iterator to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_at_any_instant_is_neither_swallowed_nor_in_the_bytes(tmp_path: Path, workers: int) -> None:
    """Video libraries swallow what is raised in their callbacks, and the bytes that were to be written then."""
    src = write_source(tmp_path / "src", episodes=2, frames=12)
    run(src, tmp_path / "whole")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    stopped = 0
    try:
        for instant in range(8 if workers == 1 else 2):
            out = tmp_path / f"out{instant}"
            timer = threading.Timer(0.03 * instant, os.kill, (os.getpid(), signal.SIGINT))

            class Start(engine.Observer):
                def started(self, totals: engine.Totals, timer: threading.Timer = timer) -> None:
                    timer.start()

            try:
                run(src, out, num_workers=workers, observer=Start())
                timer.join(10)
                time.sleep(0.01)
            except KeyboardInterrupt:
                stopped += 1
            timer.join(10)
            assert not list(out.rglob("*.tmp"))
            run(src, out)
            assert tree(out) == tree(tmp_path / "whole")
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped == instant + 1


def test_a_run_of_parts_equals_a_run_of_all(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=5)
    run(src, tmp_path / "whole")
    parts = [run(src, tmp_path / "parts", shard_index=i, num_shards=3) for i in range(3)]
    assert [p.manifest.complete for p in parts] == [False, False, True]
    assert [p.shards for p in parts] == [2, 2, 1]
    assert tree(tmp_path / "whole") == tree(tmp_path / "parts")


def test_the_same_plan_goes_on_and_makes_only_what_is_missing(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=4)
    out = tmp_path / "out"
    run(src, out)
    before = tree(out)
    again = run(src, out)
    assert (again.shards, again.resumed_shards) == (0, 4)
    # A shard without its sidecar was never published.
    (out / "train/000002.json").unlink()
    (out / "train/000002.tar").write_bytes(b"half a sha")
    (out / "train/000001.tar.elsewhere-1.tmp").write_bytes(b"left by a killed run")
    assert run(src, out).shards == 1
    assert tree(out) == before


def test_a_run_that_was_killed_before_its_manifest_writes_it_next_time(tmp_path: Path, monkeypatch: Any) -> None:
    src = write_source(tmp_path / "src", episodes=2)
    run(src, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("actionimg_data.engine.conversion.assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(src, tmp_path / "out")
    assert not read_manifest(tmp_path / "out").complete
    assert run(src, tmp_path / "out").shards == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_what_a_run_left_that_was_killed_right_after_its_manifest_is_removed_by_the_next(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=2)
    run(src, tmp_path / "out")
    before = tree(tmp_path / "out")
    (tmp_path / "out/train/000001.tar.elsewhere-1.tmp").write_bytes(b"left by an earlier kill")
    (tmp_path / "out/index.parquet.elsewhere-1.tmp").write_bytes(b"")
    assert run(src, tmp_path / "out").shards == 0
    assert tree(tmp_path / "out") == before


def test_two_runs_that_end_at_once_do_not_trip_over_each_other(tmp_path: Path, monkeypatch: Any) -> None:
    src = write_source(tmp_path / "src", episodes=2)
    run(src, tmp_path / "whole")
    real, taken = os.replace, []

    def replace(part: Path, target: Path) -> None:
        if target.name == "index.parquet" and not taken:
            taken.append(part)
            Path(part).unlink()  # the other run takes it for one that was left behind
        real(part, target)

    monkeypatch.setattr(os, "replace", replace)
    run(src, tmp_path / "out")
    assert taken
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_another_plan_is_refused_with_what_differs(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=2)
    out = tmp_path / "out"
    run(src, out)
    before = tree(out)
    with pytest.raises(OutputExistsError, match=r"options\.crf: 18 there, 30 asked for"):
        run(src, out, ConvertOptions.parse(height=64, width=64, crf=30))
    write_source(tmp_path / "src", episodes=3)
    with pytest.raises(OutputExistsError, match=r"1 episode new in the source: task/ep_002\. --extend"):
        run(src, out)
    write_source(tmp_path / "src", episodes=2, version=2)
    with pytest.raises(OutputExistsError, match="2 episodes changed in the source: task/ep_000, task/ep_001"):
        run(src, out)
    assert tree(out) == before


def test_overwrite_replaces_a_data_set_and_nothing_else(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=4)
    out = tmp_path / "out"
    run(src, out)
    (out / "notes.txt").write_text("mine")
    write_source(tmp_path / "src", episodes=2)
    with pytest.raises(OutputExistsError):
        run(src, out)
    run(src, out, overwrite=True)
    assert read_manifest(out).counts.episodes == 2
    assert len(tars(out)) == 2
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    src = write_source(tmp_path / "src", episodes=1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExistsError, match=r"thesis\.tex"):
        run(src, tmp_path / "out", overwrite=overwrite)
    assert tree(tmp_path / "out") == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize("damage", [b"{", None])
def test_a_damaged_or_lost_manifest_is_written_again_by_the_command_that_made_it(
    tmp_path: Path, damage: bytes | None
) -> None:
    src = write_source(tmp_path / "src", episodes=2)
    out = tmp_path / "out"
    run(src, out)
    before = tree(out)
    if damage is None:
        (out / "dataset.json").unlink()
    else:
        (out / "dataset.json").write_bytes(damage)
    with pytest.raises(OutputExistsError, match="damaged" if damage else "not a data set"):
        run(src, out, ConvertOptions.parse(height=64, width=64, crf=30))
    assert run(src, out).shards == 0
    assert tree(out) == before


def test_a_run_that_goes_wrong_is_stopped_early(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=60, bad={f"ep_{i:03d}": "read" for i in range(1, 60)})
    with pytest.raises(TooManyBadEpisodesError, match="19 of 20"):
        run(src, tmp_path / "out")
    made = len(list((tmp_path / "out" / "train").glob("*.json")))
    assert made == 19
    assert run(src, tmp_path / "out", max_bad_fraction=1.0).manifest.counts.converted == 1


def test_a_source_of_which_nothing_can_be_converted_is_an_error(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=2, bad={"ep_000": "bad-image", "ep_001": "bad-image"})
    with pytest.raises(TooManyBadEpisodesError, match="2 of 2"):
        run(src, tmp_path / "out", max_bad_fraction=1.0)
    src = write_source(tmp_path / "unreadable", episodes=2, bad={"ep_000": "read", "ep_001": "read"})
    with pytest.raises(ValueError, match="bad episode"):
        run(src, tmp_path / "other")


def test_sources_that_are_not_there_or_of_another_format(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        run(str(tmp_path / "absent"), tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WrongFormatError):
        run(str(tmp_path / "empty"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong", [{"num_workers": 0}, {"num_shards": 0}, {"shard_index": 2, "num_shards": 2}, {"max_bad_fraction": 2.0}]
)
def test_wrong_ways_to_run_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpecError, match=next(iter(wrong))):
        run(write_source(tmp_path / "src", episodes=1), tmp_path / "out", **wrong)


def test_workers_that_die_before_any_work_are_an_error_and_not_a_loop(tmp_path: Path, monkeypatch: Any) -> None:
    src = write_source(tmp_path / "src", episodes=3)
    monkeypatch.setattr("actionimg_data.engine.local._work", os._exit)
    with pytest.raises(WorkerError, match="die while they convert no episode"):
        run(src, tmp_path / "out", num_workers=2)


def test_an_observer_hears_of_every_frame_and_shard(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=3, frames=6)

    class Ear(engine.Observer):
        def __init__(self) -> None:
            self.totals: Any = None
            self.frames = self.ended = self.shards = 0

        def started(self, totals: engine.Totals) -> None:
            self.totals = totals

        def progress(self, event: Any) -> None:
            self.frames += event.frames
            self.ended += event.ended

        def published(self, sidecar: Any) -> None:
            self.shards += 1

    ear = Ear()
    run(src, tmp_path / "out", observer=ear, num_workers=2)
    assert (ear.totals.shards, ear.totals.episodes, ear.totals.frames) == (3, 3, 21)
    assert (ear.frames, ear.ended, ear.shards) == (42, 3, 3)


def test_an_estimate_is_near_the_truth_and_writes_nothing(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=6, frames=30, bad={"ep_000": "bad-image"})
    options = ConvertOptions.parse(height=64, width=64)
    made = engine.plan(SyntheticConverter(), src, options)
    guess = engine.estimate(SyntheticConverter(), made, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert guess.frames == 6 * 31
    true = run(src, tmp_path / "out").manifest.counts.bytes
    assert true / 2 < guess.bytes < true * 2


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from synthetic_converter import SyntheticConverter
from actionimg_data import engine
from actionimg_data.schemas import ConvertOptions
if __name__ == "__main__":
    options = ConvertOptions.parse(height=64, width=64, episodes_per_shard=2)
    engine.convert(SyntheticConverter(), sys.argv[2], sys.argv[3], options, num_workers=int(sys.argv[4]))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_is_killed_at_any_time_goes_on_to_the_same_bytes(tmp_path: Path, workers: int) -> None:
    src = write_source(tmp_path / "src", episodes=8, frames=6, slow=0.01)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    options = ConvertOptions.parse(height=64, width=64, episodes_per_shard=2)
    run(src, tmp_path / "whole", options)
    out = tmp_path / "out"
    published: dict[str, bytes] = {}
    for kill in range(2):
        words = [sys.executable, str(script), str(TESTS), src, str(out), str(workers)]
        process = subprocess.Popen(words, start_new_session=True)
        try:
            deadline = time.monotonic() + PATIENCE
            # Until it is in the middle of a shard that is new.
            while time.monotonic() < deadline and process.poll() is None:
                # By name: its files come and go.
                if len(list(out.glob("train/*.tar"))) > kill and list(out.rglob("*.tmp")):
                    break
                time.sleep(0.005)
        finally:
            process.kill()
            process.wait(timeout=PATIENCE)
        wait_for_group(process.pid)  # workers notice that their parent is gone
        for name, data in published.items():
            assert (out / name).read_bytes() == data
        published = {n: d for n, d in tars(out).items() if read_sidecar(out, n[:-4]) is not None}
    assert published
    run(src, out, options)
    assert tree(out) == tree(tmp_path / "whole")

"""Small versions of the proofs of reliability of a conversion; the long ones are in tests/reliability."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from actionimg_data import errors
from actionimg_data.shards import write

ROOT = Path(__file__).resolve().parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"reliability_{name}", ROOT / "tests" / "reliability" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_conversion_that_is_killed_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    result = script("kill").prove(tmp_path, kills=3, episodes=4, shards=2, workers=1, seed=3, slow=0.01)
    assert result.ok, result
    assert result.kills == 3
    assert result.finished_runs >= 1


def test_a_derivation_that_is_killed_again_and_again_ends_with_the_same_bytes(tmp_path: Path) -> None:
    result = script("derive_kill").prove(tmp_path, kills=1, episodes=3, shards=3, workers=1, seed=1, slow=0.005)
    assert result.ok, result
    assert result.kills == 1
    assert result.finished_runs >= 1


def test_the_kill_test_notices_what_it_is_for(tmp_path: Path) -> None:
    kill = script("kill")
    out = tmp_path / "out"
    source = kill.write_source(tmp_path / "src", episodes=2, frames=1)
    kill.run(source, str(out), 1, 1)
    wanted = kill.tree(out)
    (out / "train/000001.tar.host-1.tmp").write_bytes(b"")
    result = kill.Outcome()
    kill._compare(out, wanted, 3, result)
    assert (result.left_over, result.lost, result.different) == (1, 1, 0)
    (out / "train/000000.tar").write_bytes(b"other")
    result = kill.Outcome()
    kill._look(out, result)
    kill._compare(out, wanted, 2, result)
    assert (result.damaged, result.different) == (1, 1)
    assert not result.ok


def test_a_disk_that_is_full_again_and_again_damages_nothing(tmp_path: Path) -> None:
    disk = script("disk_full")
    try:
        result = disk.prove(tmp_path, episodes=4, step=40)
    except PermissionError as error:
        pytest.skip(str(error))
    assert result.ok, result
    assert result.times_full >= 1
    assert "actionimg-disk-full" not in subprocess.run(["mount"], capture_output=True, text=True, timeout=30).stdout


def test_two_runners_of_different_bytes_and_one_that_stands_still_leave_one_whole_data_set(tmp_path: Path) -> None:
    # On a busy machine a runner may be done before anybody has stopped it: another round, then.
    race = script("race")
    for seed in range(1, 6):
        result = race.prove(tmp_path / str(seed), rounds=1, episodes=4, workers=1, seed=seed, slow=0.02)
        assert result.ok, result
        if result.stops:
            break
    assert result.stops >= 1


def test_the_load_test_measures_tenths(tmp_path: Path) -> None:
    load = script("load")
    assert load.plan_many(2000)["planned_episodes"] == 2000
    meter = load.Meter()
    meter.marks = [(float(i), i / 2, 100 + i) for i in range(21)]
    found = meter.summary()
    assert found["rate_last_over_first"] == found["cpu_rate_last_over_first"] == 1
    assert found["peak_last_over_first"] == round(120 / 102, 3)
    assert len(found["seconds_per_shard_by_tenth"]) == 10


def test_every_reason_for_a_quarantine_is_on_the_page() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    table = page.partition("## Quarantine")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| \[?`([a-z-]+)`", table, re.M))
    ours = {write.INTERNAL_ERROR, write.READ_FAILED, write.WORKER_CRASHED, write.EPISODE_TIMEOUT}
    codes = {c.code for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.ActionImgError)}
    # These end a run, are about data sets, or are the base: no episode is quarantined for them.
    never = {
        "error",
        "output-exists",
        "output-failed",
        "storage-failed",
        "storage-access",
        "source-gone",
        "corrupt-dataset",
        "unsupported-version",
        "decode-failed",
        "too-many-bad-episodes",
        "worker-failed",
    }
    assert listed == (codes - never) | ours


def test_a_command_that_is_done_ends_well_on_a_busy_machine(tmp_path: Path) -> None:
    exits = script("exits")
    bad, count = exits.prove(exits.make(tmp_path), runs=2, load=1, seconds=60)
    assert (bad, count > 0) == (0, True)


def test_parquet_in_memory_is_read_without_threads(tmp_path: Path) -> None:
    # A thread that outlives Python, and drops what belongs to it, aborts the process.
    program = """
import io, os, sys
import pyarrow as pa, pyarrow.parquet as pq
from actionimg_data.untrusted.parquet import load_parquet
out = io.BytesIO()
pq.write_table(pa.table({"a": list(range(1000)), "b": [str(i) for i in range(1000)]}), out, row_group_size=100)
before = len(os.listdir("/proc/self/task"))
table = load_parquet(out.getvalue())
assert table.num_rows == 1000
between = len(os.listdir("/proc/self/task"))
pq.read_table(io.BytesIO(out.getvalue()))
print(between - before, len(os.listdir("/proc/self/task")) - between > 0, flush=True)
# The threads of the reader that has some may abort the process, which is why they are not wanted.
os._exit(0)
"""
    if not Path("/proc/self/task").exists():
        pytest.skip("counts threads in /proc")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["0", "True"]


def test_nothing_in_memory_is_given_to_the_threads_of_pyarrow() -> None:
    readers = re.compile(r"read_(table|schema|csv|feather)\(\s*(io\.)?BytesIO|ParquetFile\(\s*(io\.)?BytesIO")
    files = [p for folder in ("actionimg_data", "converters", "schemas") for p in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert [p.name for p in files if readers.search(p.read_text())] == []


def test_a_view_of_a_bag_costs_what_it_costs_alone(tmp_path: Path) -> None:
    rows = script("bags").prove(tmp_path, 0.06, "none")
    among, alone = rows["among ten"], rows["alone"]
    assert among["size"] > 30 * alone["size"]
    for part in ("stamps", "pictures", "window"):
        assert among[part]["count"] == alone[part]["count"]
        assert among[part]["read"] < 0.1 * among["size"]
    assert among["peak"] < alone["peak"] + (32 << 20)

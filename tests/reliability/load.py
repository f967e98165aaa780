"""Ten thousand short episodes on two cores: is the last tenth as fast as the first, and memory flat?

    python tests/reliability/load.py [--episodes 10000] [--workers 2]

The rate is of CPU time as well as of the clock, so that other work on the machine does not count: what a run does more
of as it goes on, it does in CPU seconds. Memory is the largest resident size of the parent and of all its workers,
sampled twice a second, over each tenth. Then ``inspect`` and ``verify --quick`` are timed on the result, and a plan of
a million episodes is made and read, with the memory that takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from synthetic_converter import SyntheticConverter, write_source

from actionimg_data import engine
from actionimg_data.model import EpisodeRef
from actionimg_data.schemas import ConverterRecord, ConvertOptions
from actionimg_data.shards.plan import make_plan

OPTIONS = ConvertOptions.parse(height=32, width=32, views=("front", "side"), episodes_per_shard=32)
PLANNED = 1_000_000


def processes(root: int) -> dict[int, tuple[int, float]]:
    """Resident bytes and CPU seconds of a process and all below it."""
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    parents, found = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            values = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid] = int(values[1])
        found[pid] = int(values[21]) * page, (int(values[11]) + int(values[12])) / tick
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: found[pid] for pid in below if pid in found}


class Meter(engine.Observer):
    """Time, CPU time and memory at each shard."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float, int]] = []
        self.peak = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self.stop.wait(0.5):
            self.peak = max(self.peak, sum(size for size, _ in processes(os.getpid()).values()))

    def started(self, totals: engine.Totals) -> None:
        """The plan is there."""
        self.thread.start()

    def published(self, sidecar: Any) -> None:
        """A shard is there."""
        cpu = sum(seconds for _, seconds in processes(os.getpid()).values())
        self.marks.append((time.monotonic(), cpu, self.peak))
        self.peak = 0

    def summary(self) -> dict[str, Any]:
        """Each tenth of the shards, and the last against the first; what is before the first shard is no part of it."""
        steps = len(self.marks) - 1
        bounds = [i * steps // 10 for i in range(11)]
        clock = [(self.marks[b][0] - self.marks[a][0]) / (b - a) for a, b in itertools.pairwise(bounds)]
        cpu = [(self.marks[b][1] - self.marks[a][1]) / (b - a) for a, b in itertools.pairwise(bounds)]
        peaks = [max(peak for _, _, peak in self.marks[a + 1 : b + 1]) for a, b in itertools.pairwise(bounds)]
        return {
            "seconds_per_shard_by_tenth": [round(s, 3) for s in clock],
            "cpu_seconds_per_shard_by_tenth": [round(s, 3) for s in cpu],
            "rate_last_over_first": round(clock[0] / clock[-1], 3),
            "cpu_rate_last_over_first": round(cpu[0] / cpu[-1], 3),
            "peak_mb_by_tenth": [round(p / 1e6, 1) for p in peaks],
            "peak_last_over_first": round(peaks[-1] / peaks[0], 3),
        }


def prove(folder: Path, episodes: int, workers: int) -> dict[str, Any]:
    """Convert, inspect and verify many short episodes; returns what was measured."""
    source = write_source(folder / "source", episodes=episodes, frames=2)
    meter = Meter()
    begun = time.monotonic()
    result = engine.convert(SyntheticConverter(), source, folder / "out", OPTIONS, num_workers=workers, observer=meter)
    seconds = time.monotonic() - begun
    meter.stop.set()
    meter.thread.join(5)
    found = {
        "episodes": episodes,
        "shards": result.shards,
        "workers": workers,
        "seconds": round(seconds, 1),
        "episodes_per_second": round(episodes / seconds, 1),
        **meter.summary(),
    }
    for name, words in (("inspect", ["inspect"]), ("verify_quick", ["verify", "--quick", "-j", str(workers)])):
        command = [sys.executable, "-c", "from actionimg_data.cli import main; main()", *words, str(folder / "out")]
        begun, spent = time.monotonic(), _children_cpu()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=1800)
        found[f"{name}_seconds"] = round(time.monotonic() - begun, 1)
        found[f"{name}_cpu_seconds"] = round(_children_cpu() - spent, 1)
    begun = time.monotonic()
    again = engine.convert(SyntheticConverter(), source, folder / "out", OPTIONS, num_workers=1)
    found["resume_of_a_finished_run_seconds"] = round(time.monotonic() - begun, 1)
    found["resumed_shards"] = again.resumed_shards
    return found


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def plan_many(episodes: int) -> dict[str, Any]:
    """Plan ``episodes`` episodes in this process: seconds and peak memory."""

    def refs() -> Any:
        for i in range(episodes):
            location = {"source": "/data/droid", "path": f"lab/success/2023-07-{i % 28:02d}/{i:07d}", "index": i}
            yield EpisodeRef(f"lab/success/{i:07d}", location, 300, f"{i:016x}")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    made = make_plan(ConverterRecord(name="droid"), "/data/droid", refs(), ("front",), ConvertOptions.parse())
    planned = time.monotonic() - begun
    begun = time.monotonic()
    count = sum(len(row.episodes) for row in made.rows)
    return {
        "planned_episodes": count,
        "plan_seconds": round(planned, 1),
        "plan_read_seconds": round(time.monotonic() - begun, 1),
        "plan_mb": round(sum(map(len, made.rows.lines())) / 1e6, 1),
        "plan_peak_mb_over_start": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3, 1),
    }


def main() -> int:
    """Exit status: 0 when rate and memory are flat and the commands take seconds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--planned", type=int, default=PLANNED)
    given = parser.parse_args()
    if given.episodes < 12 * 32:
        parser.error("tenths need at least 12 shards of 32 episodes")
    found = plan_many(given.planned)
    with tempfile.TemporaryDirectory() as folder:
        found |= prove(Path(folder), given.episodes, given.workers)
    found["ok"] = found["cpu_rate_last_over_first"] >= 0.95 and found["peak_last_over_first"] <= 1.1
    print(json.dumps(found, indent=1))
    return int(not found["ok"])


if __name__ == "__main__":
    sys.exit(main())

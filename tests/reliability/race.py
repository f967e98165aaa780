"""Two runners on one folder whose bytes differ, one of them stopped and continued again and again.

    python tests/reliability/race.py [--rounds 12] [--seed 0]

Each round begins two conversions of one source into one folder at once. The second is a machine with other libraries:
its encoder is given another option, so that its shards have other bytes. One of the two is stopped (SIGSTOP) at random
instants and goes on (SIGCONT) a moment later, or only when the other has ended, as a frozen node does. Both have to end
with exit code 0. Then every sidecar is held against its tar (`verify --quick`), no episode may be missing or
there twice, and nothing may lie beside the data set.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

from synthetic_converter import SyntheticConverter, write_source  # noqa: E402

from actionimg_data import engine  # noqa: E402
from actionimg_data.schemas import ConvertOptions  # noqa: E402
from actionimg_data.shards import open_dataset  # noqa: E402

TINT = "ACTIONIMG_RACE_TINT"


class Tinted(SyntheticConverter):
    """The generated episodes; a process that is told so encodes them to other bytes, and so do its workers."""


if TINT in os.environ:
    importlib.import_module("actionimg_data.video.encode").SAME_ON_EVERY_CPU = "cpu-independent=1:qpmin=8"


@dataclass
class Outcome:
    """What the races did."""

    rounds: int = 0
    stops: int = 0
    mixed: int = 0
    """Data sets with shards of both runners: the race was one."""
    failed: int = 0
    corrupt: int = 0
    lost: int = 0
    doubled: int = 0
    left_over: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.failed or self.corrupt or self.lost or self.doubled or self.left_over)


def convert(source: str, out: str, workers: int) -> None:
    """What a started program does."""
    options = ConvertOptions.parse(height=64, width=64, episodes_per_shard=1)
    engine.convert(Tinted(), source, out, options, num_workers=workers)


def start(source: str, out: Path, workers: int, tinted: bool) -> subprocess.Popen[bytes]:
    """A runner, in a session of its own."""
    environment = {**os.environ, **({TINT: "1"} if tinted else {})}
    return subprocess.Popen(
        [sys.executable, str(HERE), "--run", source, str(out), str(workers)], env=environment, start_new_session=True
    )


def race(source: str, out: Path, chance: random.Random, workers: int, result: Outcome) -> None:
    """One round."""
    runners = [start(source, out, workers, tinted) for tinted in (False, True)]
    chosen, other = runners if chance.random() < 0.5 else runners[::-1]
    try:
        deadline = time.monotonic() + 300
        for_long = chance.random() < 0.5
        while not list(out.glob("train/*.tmp")) and time.monotonic() < deadline and chosen.poll() is None:
            time.sleep(0.005)
        while chosen.poll() is None and time.monotonic() < deadline:
            time.sleep(chance.uniform(0.02, 0.4))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(chosen.pid, signal.SIGSTOP)
                result.stops += 1
                if for_long:
                    other.wait(timeout=200)
                else:
                    time.sleep(chance.uniform(0.1, 0.6))
                os.killpg(chosen.pid, signal.SIGCONT)
            if for_long:
                break
        result.failed += sum(runner.wait(timeout=300) != 0 for runner in runners)
    finally:
        for runner in runners:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(runner.pid, signal.SIGKILL)
            runner.wait(timeout=30)


def judge(out: Path, episodes: int, plain: set[str], result: Outcome) -> None:
    """Look at what a round left."""
    report = engine.verify(out, quick=True)
    result.corrupt += not report.ok
    keys = Counter(open_dataset(out).keys())
    result.lost += max(0, episodes - len(keys))
    result.doubled += sum(n - 1 for n in keys.values())
    planned = {f"{n:06d}{e}" for n in range(episodes) for e in (".tar", ".json")}
    result.left_over += sum(p.name not in planned for p in (out / "train").iterdir()) + len(list(out.glob("*.tmp")))
    ours = sum(path.read_bytes().hex() in plain for path in (out / "train").glob("*.json"))
    result.mixed += 0 < ours < episodes


def prove(folder: Path, rounds: int, episodes: int, workers: int, seed: int, slow: float) -> Outcome:
    """Race ``rounds`` times and count what goes wrong.

    Args:
        folder: An empty folder to work in.
        rounds: How often.
        episodes: Generated episodes, each a shard.
        workers: Processes of each runner.
        seed: Of the instants.
        slow: Seconds that each picture takes to read, so that there is something to race for.
    """
    chance, result = random.Random(seed), Outcome()
    source = write_source(folder / "source", episodes=episodes, frames=3, slow=slow)
    alone = start(source, folder / "alone", 1, tinted=False)
    if alone.wait(timeout=300) != 0:
        raise RuntimeError("the conversion itself fails")
    plain = {path.read_bytes().hex() for path in (folder / "alone/train").glob("*.json")}
    for number in range(rounds):
        out = folder / f"out{number}"
        race(source, out, chance, workers, result)
        judge(out, episodes, plain, result)
        result.rounds += 1
    return result


def main() -> int:
    """Exit status: 0 when nothing is lost, doubled, corrupt or left over."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow", type=float, default=0.02, help="seconds a picture takes to read")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = prove(Path(folder), given.rounds, given.episodes, given.workers, given.seed, given.slow)
    print(json.dumps({**vars(result), "ok": result.ok}, indent=1))
    return int(not result.ok)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        convert(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        sys.exit(main())

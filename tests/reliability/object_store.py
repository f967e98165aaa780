"""Conversions into an object store that fails, against runners that race and are killed.

    python tests/reliability/object_store.py [--runs 10] [--seed 0]

moto's S3 server on 127.0.0.1 behind a proxy (tests/faulty_store.py). After every write the proxy looks whether a
sidecar is visible whose tar is not there as a whole; at the end each data set is held against a local one, byte for
byte. Scenarios, each so many times:

* errors: 30 % of all requests fail: 500, 503, the connection cut in the middle of an upload, the answer lost
* dying: the server dies in the middle of ten uploads of each run, chosen at random, and comes back
* slow: answers take longer than the client waits for
* race: two processes make every shard at the same time
* killed: ten processes are killed (SIGKILL) one after the other, each within its first 40 requests; the last five
  race with another one
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

from faulty_store import BUCKET, FaultyStore, revived, running_store, storage_options  # noqa: E402
from synthetic_converter import SyntheticConverter, write_source  # noqa: E402

from actionimg_data import engine  # noqa: E402
from actionimg_data.schemas import ConvertOptions  # noqa: E402

EPISODES = 8
OPTIONS = ConvertOptions.parse(height=64, width=64, episodes_per_shard=1)
LIMIT = 300.0
"""Seconds that one runner may take."""


def convert(source: str, out: str | Path) -> engine.Result:
    return engine.convert(SyntheticConverter(), source, out, OPTIONS, check_space=False)


def start(source: str, out: str) -> subprocess.Popen[bytes]:
    """A runner in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(HERE), "--runner", source, out],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def finish(runner: subprocess.Popen[bytes]) -> None:
    try:
        code = runner.wait(LIMIT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(runner.pid, signal.SIGKILL)
    if code:
        raise SystemExit(f"a runner ended with {code}")


def errors(store: FaultyStore, source: str, out: str, rng: random.Random) -> None:
    kinds: list[Any] = [500, 503, "cut", "lose"]
    store.fault = lambda method, path, number: rng.choice(kinds) if rng.random() < 0.3 else None
    finish(start(source, out))


def dying(store: FaultyStore, source: str, out: str, rng: random.Random) -> None:
    left = 10

    def fault(method: str, path: str, number: int) -> Any:
        nonlocal left
        if method == "PUT" and left and rng.random() < 0.4:
            left -= 1
            return "kill"
        return None

    store.fault = fault
    with revived(store, 0.5):
        finish(start(source, out))


def slow(store: FaultyStore, source: str, out: str, rng: random.Random) -> None:
    store.fault = lambda method, path, number: rng.choice([0.01, 0.2, 3.0]) if rng.random() < 0.15 else None
    finish(start(source, out))


def race(store: FaultyStore, source: str, out: str, rng: random.Random) -> None:
    runners = [start(source, out) for _ in range(2)]
    for runner in runners:
        finish(runner)


def killed(store: FaultyStore, source: str, out: str, rng: random.Random) -> None:
    other: subprocess.Popen[bytes] | None = None
    for number in range(10):
        runner = start(source, out)
        # A run makes some 150 requests: from before the first to after the last.
        until, limit = store.requests + rng.randrange(40), time.monotonic() + 60
        while store.requests < until and runner.poll() is None and time.monotonic() < limit:
            time.sleep(0.002)
        if number == 5:
            other = start(source, out)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(runner.pid, signal.SIGKILL)
        store.faults["SIGKILL"] += runner.poll() is None
        runner.wait(30)
    if other is not None:
        finish(other)
    finish(start(source, out))


SCENARIOS = {f.__name__: f for f in (errors, dying, slow, race, killed)}


def contents(store: FaultyStore, prefix: str) -> dict[str, bytes]:
    from actionimg_data.objectstore import RemotePath

    out = RemotePath(f"s3://{BUCKET}/{prefix}")
    return {name: (out / name).read_bytes() for name, _ in out.walk()}


def run(runs: int, seed: int, names: list[str], episodes: int = EPISODES) -> dict[str, dict[str, Any]]:
    """All scenarios; what happened in each."""
    rng = random.Random(seed)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, running_store() as store:
        options = storage_options(store, read_timeout=2.0)
        os.environ["FSSPEC_S3"] = json.dumps(options)
        os.environ["ACTIONIMG_STORE_PATIENCE"] = "120"
        os.environ["ACTIONIMG_SCRATCH_DIR"] = f"{folder}/scratch"
        import fsspec

        fsspec.config.conf["s3"] = options
        source = write_source(Path(folder) / "src", episodes=episodes, frames=6, bad={"ep_002": "bad-image"})
        convert(source, Path(folder) / "local")
        wanted = {
            p.relative_to(Path(folder) / "local").as_posix(): p.read_bytes()
            for p in (Path(folder) / "local").rglob("*")
            if p.is_file()
        }
        for name in names:
            totals: Counter[str] = Counter()
            injected: Counter[str] = Counter()
            started = time.monotonic()
            for number in range(runs):
                store.reset()
                SCENARIOS[name](store, source, f"s3://{BUCKET}/{name}-{number}", rng)
                store.fault = lambda method, path, n: None
                there = contents(store, f"{name}-{number}")
                left = [n for n in there if n.endswith(".tmp")]
                totals += Counter(
                    runs=1,
                    requests=store.requests,
                    partial=len(store.broken),
                    lost=len(wanted.keys() - there.keys()),
                    differing=sum(there[n] != wanted[n] for n in wanted.keys() & there.keys()),
                    left_over=len(left),
                    sidecars_written_twice=sum(
                        count > 1 for key, count in store.writes.items() if key.endswith(".json") and "/train/" in key
                    ),
                )
                injected.update(k for k, n in store.faults.items() for _ in range(n))
            row = {k: totals[k] for k in ("runs", "requests", "partial", "lost", "differing", "left_over")}
            row["sidecars_written_twice"] = totals["sidecars_written_twice"]
            row["injected"] = dict(injected)
            row["seconds"] = round(time.monotonic() - started, 1)
            found[name] = row
            print(name, json.dumps(row), flush=True)
        shutil.rmtree(f"{folder}/scratch", ignore_errors=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(SCENARIOS), action="append")
    parser.add_argument("--runner", nargs=2, metavar=("SOURCE", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.runner:
        convert(*given.runner)
        return 0
    found = run(given.runs, given.seed, given.only or list(SCENARIOS))
    bad = sum(row[k] for row in found.values() for k in ("partial", "lost", "differing", "left_over"))
    print("nothing partial visible, nothing lost" if not bad else f"{bad} faults found")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""A conversion that is killed again and again, and goes on each time.

    python tests/reliability/kill.py [--kills 50] [--seed 0]

24 generated episodes in 8 shards, two workers. Half of the kills come at a random instant of the run, the others at a
chosen step: right before or right after a rename, of a shard (its tar is there, its sidecar not), of a sidecar, of the
index, the quarantine, the plan, the manifest. SIGKILL goes to the whole process group, as from the kernel or a batch
system, or to the parent alone, whose workers have to notice. After each kill, every shard that has a sidecar is held
against it, and the same command is given again. When a run comes to its end, the data set has to equal that of a run
that was never interrupted in every byte, with no file beside it, and a fresh one is begun until all kills are spent.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

from synthetic_converter import SyntheticConverter, write_source  # noqa: E402

from actionimg_data import engine  # noqa: E402
from actionimg_data.schemas import ConvertOptions  # noqa: E402
from actionimg_data.shards import open_dataset  # noqa: E402
from actionimg_data.shards.manifest import read_sidecar  # noqa: E402

STEP = "ACTIONIMG_KILL_STEP"
TARGETS = (*(".tar", ".json") * 3, "index.parquet", "quarantine.jsonl", "dataset.json", "plan.jsonl")
"""Endings of the files whose renames are steps; shards and their sidecars are taken more often."""


def _arm() -> None:
    """Kill this process's group at the step that the environment names, e.g. ``rename:after:.tar:2``."""
    if STEP not in os.environ:
        return
    when, ending, text = os.environ[STEP].split(":")
    left = int(text)
    real, real_link = os.replace, os.link

    def counted(target: str, before: bool) -> None:
        nonlocal left
        if str(target).endswith(ending) and (when == "before") == before:
            left -= 1
            if left == 0:
                os.killpg(0, signal.SIGKILL)

    def replace(source: str, target: str) -> None:
        counted(target, True)
        real(source, target)
        counted(target, False)

    def link(source: str, target: str) -> None:
        counted(target, True)
        real_link(source, target)
        counted(target, False)

    os.replace, os.link = replace, link  # type: ignore[assignment]


class Armed(SyntheticConverter):
    """The generated episodes; arms the process that imports it, which is every worker."""


_arm()


@dataclass
class Outcome:
    """What the kills did."""

    kills: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    between_tar_and_sidecar: int = 0
    finished_runs: int = 0
    lost: int = 0
    doubled: int = 0
    damaged: int = 0
    different: int = 0
    left_over: int = 0
    orphans: int = 0
    longest_restart_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.lost or self.doubled or self.damaged or self.different or self.left_over or self.orphans)


def tree(folder: Path) -> dict[str, str]:
    """Digest of each file by name."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def group_of(pid: int) -> list[int]:
    """Living processes of a session that a program was started with."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            if int(group) == pid and state != "Z":
                found.append(int(path.parent.name))
    return found


def start(source: str, out: Path, workers: int, per_shard: int, step: str | None) -> subprocess.Popen[bytes]:
    """The conversion, in a session of its own."""
    environment = {name: value for name, value in os.environ.items() if name != STEP}
    if step is not None:
        environment[STEP] = step
    command = [sys.executable, str(HERE), "--run", source, str(out), str(workers), str(per_shard)]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of it lives on, whatever happens."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


def run(source: str, out: str, workers: int, per_shard: int) -> None:
    """What the started program does."""
    options = ConvertOptions.parse(height=64, width=64, episodes_per_shard=per_shard)
    engine.convert(Armed(), source, out, options, num_workers=workers)


def prove(folder: Path, kills: int, episodes: int, shards: int, workers: int, seed: int, slow: float) -> Outcome:
    """Kill a conversion ``kills`` times and count what goes wrong.

    Args:
        folder: An empty folder to work in.
        kills: How often.
        episodes: Generated episodes.
        shards: Shards they are put into.
        workers: Processes.
        seed: Of the instants.
        slow: Seconds that each picture takes to read, so that there is something to interrupt.
    """
    chance = random.Random(seed)
    source = write_source(folder / "source", episodes=episodes, frames=6, slow=slow, bad={"ep_001": "bad-image"})
    per_shard = -(-episodes // shards)
    whole = folder / "whole"
    process = start(source, whole, workers, per_shard, None)
    try:
        _begun(process, whole)
        begun = time.monotonic()
        if process.wait(timeout=300) != 0:
            raise RuntimeError("the conversion itself fails")
    finally:
        end(process)
    length = time.monotonic() - begun
    wanted, result = tree(whole), Outcome()
    out = folder / "out"
    while result.kills < kills or out.exists():
        step = None
        if result.kills < kills and chance.random() < 0.5:
            step = f"{chance.choice(['before', 'after'])}:{chance.choice(TARGETS)}:{chance.randint(1, 2)}"
        alone = step is None and chance.random() < 0.3
        begun = time.monotonic()
        process = start(source, out, workers, per_shard, step)
        try:
            if step is None and result.kills < kills:
                # Now and then while it starts, else while it works.
                early = chance.random() < 0.1
                if not early:
                    _begun(process, out)
                wait = chance.uniform(0, 1.0 if early else length)
            else:
                wait = 300
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=wait)
            if process.poll() is None and alone:
                process.kill()
                process.wait(timeout=30)
                result.steps["parent alone, at a random instant"] += 1
                result.kills += 1
                # The next run begins while the orphans still may live.
                _look(out, result)
                _orphans_end(process.pid, result)
                continue
        finally:
            end(process)
        if process.returncode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the conversion fails by itself, with exit code {process.returncode}")
        if process.returncode == 0:
            result.finished_runs += 1
            result.longest_restart_s = max(result.longest_restart_s, time.monotonic() - begun)
            _compare(out, wanted, episodes - 1, result)
            shutil.rmtree(out)
            continue
        result.kills += 1
        result.steps["random instant" if step is None else step.rpartition(":")[0].replace(":", " the rename to ")] += 1
        _look(out, result)
    return result


def _begun(process: subprocess.Popen[bytes], out: Path) -> None:
    """Wait until a shard is being made."""
    deadline = time.monotonic() + 120
    before = {p.name for p in out.glob("train/*.tmp")}
    while process.poll() is None and time.monotonic() < deadline:
        if {p.name for p in out.glob("train/*.tmp")} - before:
            return
        time.sleep(0.005)


def _orphans_end(group: int, result: Outcome) -> None:
    deadline = time.monotonic() + 30
    while group_of(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    result.orphans += len(group_of(group))


def _look(out: Path, result: Outcome) -> None:
    """After a kill: whatever has a sidecar is whole; count shards that are renamed and not committed."""
    for tar in (out / "train").glob("*.tar"):
        sidecar = read_sidecar(out, f"train/{tar.stem}")
        if sidecar is None:
            result.between_tar_and_sidecar += 1
    for mark in (out / "train").glob("*.json"):
        sidecar = read_sidecar(out, f"train/{mark.stem}")
        tar = out / "train" / f"{mark.stem}.tar"
        if sidecar is None or (
            sidecar.sha256 is not None and hashlib.sha256(tar.read_bytes()).hexdigest() != sidecar.sha256
        ):
            result.damaged += 1


def _compare(out: Path, wanted: dict[str, str], samples: int, result: Outcome) -> None:
    found = tree(out)
    keys = Counter(open_dataset(out).keys())
    result.lost += max(0, samples - len(keys))
    result.doubled += sum(n - 1 for n in keys.values())
    result.left_over += len(found.keys() - wanted.keys())
    result.different += sum(found.get(name) != digest for name, digest in wanted.items())


def command(prove: Callable[..., Any], about: str, slow: str, **defaults: Any) -> int:
    """What the command line asks for; the exit status is 0 when nothing is lost, doubled, different or left over.

    Args:
        prove: Of a folder and the numbers of ``defaults``, in their order.
        about: What it does, the first line of which is shown.
        slow: What ``--slow`` makes slow.
        defaults: kills, episodes, shards, workers, seed and slow.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=slow if name == "slow" else None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = prove(Path(folder), *(getattr(given, name) for name in defaults))
    print(json.dumps({**vars(result), "steps": dict(sorted(result.steps.items())), "ok": result.ok}, indent=1))
    return int(not result.ok)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        numbers = {"kills": 50, "episodes": 24, "shards": 8, "workers": 2, "seed": 0, "slow": 0.03}
        sys.exit(command(prove, __doc__ or "", "seconds a picture takes to read", **numbers))

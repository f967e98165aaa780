"""Does a command that is done always end well, on a machine with more to do than it can?

    python tests/reliability/exits.py [--runs 50] [--load 4]

``actionimg verify`` is run again and again, each time in a process of its own that shuts Python down as usual, beside
busy loops at twice to three times the number of cores. What ends otherwise than with status 0 is counted: a thread of
a library that comes to its end after Python has, and touches what belongs to it, aborts the process after all was said.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

_BUSY = "import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"


def make(folder: Path) -> Path:
    """A small data set."""
    from synthetic_converter import SyntheticConverter, write_source

    from actionimg_data import engine
    from actionimg_data.schemas import ConvertOptions

    source = write_source(folder / "src", episodes=4, frames=4)
    options = ConvertOptions.parse(height=32, width=32, views=("front", "side"), episodes_per_shard=2)
    engine.convert(SyntheticConverter(), str(source), folder / "out", options)
    return folder / "out"


def prove(out: Path, runs: int, load: int, seconds: float = 600.0) -> tuple[int, int]:
    """How many of ``runs`` ended badly, and how many there were before ``seconds`` were over.

    Everything is imported once, before the processes are forked: no thread of a library has been started by then.
    """
    program = Path(__file__).resolve()
    busy = [subprocess.Popen([sys.executable, "-c", _BUSY.format(seconds=seconds)]) for _ in range(load)]
    try:
        command = [sys.executable, str(program), "--fork", str(out), "--runs", str(runs), "--seconds", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=True)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    bad, count = map(int, done.stdout.split())
    return bad, count


def _forked(out: str, runs: int, seconds: float) -> int:
    """Fork and run; gives 0 in the children, which then end as a command does."""
    import pyarrow.parquet  # noqa: F401

    import actionimg_data.engine.verification
    import actionimg_data.shards.read  # noqa: F401
    from actionimg_data import cli

    bad = count = 0
    until = time.monotonic() + seconds
    for _ in range(runs):
        count += 1
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            cli.main(["verify", "--quick", "-j", "1", out], standalone_mode=False)
            return 0
        bad += os.waitpid(child, 0)[1] != 0
        if time.monotonic() > until:
            break
    print(bad, count)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--load", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--fork", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fork:
        sys.exit(_forked(given.fork, given.runs, given.seconds))
    with tempfile.TemporaryDirectory() as folder:
        bad, count = prove(make(Path(folder)), given.runs, given.load, given.seconds)
    print(f"{bad} of {count} runs ended badly, beside {given.load} busy processes")
    sys.exit(bool(bad))

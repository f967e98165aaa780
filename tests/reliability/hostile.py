"""Opens hostile files, each in a process of its own with limits, and prints what came of it.

    python tests/reliability/hostile.py [--json] [--fast] [WORD ...]   cases whose name holds a word; all by default

``--fast`` leaves out those that take long to make or to open, as the test suite does.

A case is held when the file is refused with an error of the package (or read, where that does no harm), no code of it
was run, and memory and time stayed under the caps. The exit code is 1 where one is not.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from hostile_cases import CANARY, CASES, Case
from limited import Outcome, run

MEGABYTES = 1024
"""Largest resident memory over that of the process before it opens a file."""

SECONDS = 20.0
"""Longest time; a loaded machine is several times slower than one that is not."""


SLOW = re.compile(
    "[0-9] MB|[0-9] GB|16,000 pixels|80 million|bomb|bzip2|xz|RLBench|LeRobot|inspect|convert|verify|boxes in|zarr"
    "|member$"
)
"""Cases that take long to make or to open."""


def attempt(case: Case, folder: Path) -> tuple[Outcome, str | None]:
    """Open a case's files in a process of its own; what came of it, and what is wrong with that."""
    made = run(lambda: case.make(folder), 120)
    if made.kind != "returned":
        return made, f"was not made: {made.detail}"
    outcome = run(_within(case, folder), SECONDS)
    if (folder / CANARY).exists() or Path(CANARY).exists():
        return outcome, "ran code"
    if outcome.kind in ("unnamed", "hung", "died"):
        return outcome, f"{outcome.kind}: {outcome.detail}"
    if outcome.kind == "returned" and not case.harmless:
        return outcome, "was read"
    if outcome.megabytes > MEGABYTES:
        return outcome, f"took {outcome.megabytes:.0f} MB"
    return outcome, None


def _within(case: Case, folder: Path) -> Callable[[], Any]:
    def work() -> Any:
        os.chdir(folder)
        return case.open(folder)

    return work


def main(words: list[str], as_json: bool, fast: bool) -> int:
    """Run the cases whose name holds one of ``words`` and print a table; 1 where one is not held."""
    rows: list[dict[str, Any]] = []
    for case in CASES:
        if (words and not any(word in case.id for word in words)) or (fast and SLOW.search(case.id)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            outcome, wrong = attempt(case, Path(folder))
        rows.append(
            {
                "group": case.group,
                "name": case.name,
                "kind": outcome.kind,
                "code": outcome.code,
                "seconds": outcome.seconds,
                "megabytes": outcome.megabytes,
                "wrong": wrong,
            }
        )
        if wrong is not None:
            print(f"NOT HELD {case.id}: {wrong}", file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps(rows))
    else:
        print("| | cases | refused by | harmless | most MB | most s |\n|---|---|---|---|---|---|")
        for group in dict.fromkeys(row["group"] for row in rows):
            of = [row for row in rows if row["group"] == group]
            codes = sorted({row["code"] for row in of if row["code"]})
            print(
                f"| {group} | {len(of)} | {', '.join(f'`{c}`' for c in codes)} | "
                f"{sum(row['kind'] == 'returned' for row in of)} | {max(row['megabytes'] for row in of):.0f} | "
                f"{max(row['seconds'] for row in of):.1f} |"
            )
        print(f"\n{len(rows)} cases, {sum(row['wrong'] is not None for row in rows)} not held")
    return int(any(row["wrong"] is not None for row in rows))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    named = [a for a in arguments if not a.startswith("--")]
    sys.exit(main(named, "--json" in arguments, "--fast" in arguments))

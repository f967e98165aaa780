"""Every `pip install` that a page or an error tells to type resolves: run with --dry-run, in the environment at hand.

What is fetched from elsewhere than the index (a `git+` URL) is only checked for its form; what a page calls
/opt/actionimg-data is this checkout.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *(ROOT / "docs").rglob("*.md"),
]
COMMAND = re.compile(r"pip install ([^`\n&|]+)")


def commands() -> dict[tuple[str, ...], str]:
    """Arguments of each distinct command, and the first page that has it."""
    found: dict[tuple[str, ...], str] = {}
    for page in PAGES:
        text = re.sub(r"\s*\n(?=torch==)", " ", page.read_text(encoding="utf-8"))
        for match in COMMAND.finditer(text):
            words = shlex.split(match[1].split("   #")[0].rstrip(").,;: "), comments=True)
            words = [w.replace("/opt/actionimg-data", ".") for w in words if w != "--no-cache-dir"]
            if words and words != [".[NAME]"]:
                found.setdefault(tuple(words), page.relative_to(ROOT).as_posix())
    return found


def main() -> int:
    """Run them; the number of those that fail is the exit code."""
    failed = 0
    for words, page in commands().items():
        if any(word.startswith("git+") for word in words) or words == ("pytorch3d",):
            continue
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        ok = done.returncode == 0 and "does not provide the extra" not in done.stderr
        print(f"{'ok  ' if ok else 'FAIL'} {page}: pip install {shlex.join(words)}")
        if not ok:
            print(done.stderr[-2000:])
            failed += 1
    return failed


if __name__ == "__main__":
    raise SystemExit(main())

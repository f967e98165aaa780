"""Hold a wheel's contents against the folders: every module and data file is in it, and nothing else."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "actionimg_data": "actionimg_data",
    "converters": "actionimg_data/converters",
    "schemas": "actionimg_data/schemas",
}
DATA = {".yaml", ".json", ".html", ".typed", ".css", ".js", ".svg", ".LICENSE"}


def expected() -> set[str]:
    """Names that the wheel must hold."""
    files = set()
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            inside = path.relative_to(ROOT / folder)
            through_link = folder == "actionimg_data" and inside.parts[0] in ("converters", "schemas")
            if through_link or "__pycache__" in inside.parts or not path.is_file():
                continue
            if path.suffix == ".py" or path.suffix in DATA:
                files.add(f"{package}/{inside.as_posix()}")
    return files


def main(wheel: str) -> int:
    """Exit status: 0 when the wheel and the folders agree."""
    with zipfile.ZipFile(wheel) as archive:
        found = {n for n in archive.namelist() if ".dist-info/" not in n}
    wanted = expected()
    for name in sorted(wanted - found):
        print(f"missing from the wheel: {name}")
    for name in sorted(found - wanted):
        print(f"only in the wheel: {name}")
    print(f"{len(found)} files in the wheel, {len(wanted)} in the folders")
    return int(found != wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

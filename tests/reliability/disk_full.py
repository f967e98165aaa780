"""A conversion whose disk fills up, again and again, and that goes on when there is room.

    python tests/reliability/disk_full.py          as root: it mounts a small tmpfs, and takes it away again

The file system begins with next to no space and is given some more each time the conversion stops for lack of it, so
that it fills up at many different places: in the middle of a shard, of a sidecar, of the manifest. Each time the error
has to be one clear line and exit code 1, no temporary file may stay, and every shard with a sidecar has to be whole. In
the end the data set has to equal one that was made with room enough. The checks that keep a run from getting that far
(the estimate ahead, the look at the free space while it runs) are proved first, and then left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from synthetic_converter import SyntheticConverter, write_source

from actionimg_data import engine
from actionimg_data.errors import OutputError
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards.manifest import read_sidecar
from actionimg_data.shards.tar import file_sha256

OPTIONS = ConvertOptions.parse(height=64, width=64, episodes_per_shard=3)


@dataclass
class Outcome:
    """What was seen."""

    refused_ahead: bool = False
    times_full: int = 0
    places: dict[str, int] = field(default_factory=dict)
    damaged: int = 0
    left_over: int = 0
    unclear: int = 0
    same_bytes: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing went wrong."""
        return self.refused_ahead and self.same_bytes and not (self.damaged or self.left_over or self.unclear)


class SmallDisk:
    """A tmpfs of a few kB; it is gone at the end, whatever happens.

    Raises:
        PermissionError: Mounting is not allowed here.
    """

    def __init__(self, folder: Path, kilobytes: int) -> None:
        self.folder, self.kilobytes = folder, kilobytes

    def __enter__(self) -> SmallDisk:
        self.folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={self.kilobytes}k", "actionimg-disk-full", str(self.folder)]
        if os.geteuid() != 0 or subprocess.run(command, stderr=subprocess.DEVNULL, timeout=30).returncode != 0:
            raise PermissionError("mounting a tmpfs needs root")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self.folder)], check=True, timeout=30)

    def grow(self, kilobytes: int) -> None:
        """Give it more room."""
        self.kilobytes += kilobytes
        command = ["mount", "-o", f"remount,size={self.kilobytes}k", str(self.folder)]
        subprocess.run(command, check=True, timeout=30)


def tree(folder: Path) -> dict[str, bytes]:
    """Content of each file by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def prove(folder: Path, episodes: int = 12, step: int = 8, workers: int = 1) -> Outcome:
    """Fill a disk at many places of a conversion.

    Args:
        folder: An empty folder to work in.
        episodes: Generated episodes.
        step: kB that the disk gets each time it is full.
        workers: Processes.

    Raises:
        PermissionError: Mounting is not allowed here.
    """
    result = Outcome()
    source = write_source(folder / "source", episodes=episodes, frames=8, bad={"ep_004": "bad-image"})
    converter = SyntheticConverter()
    with SmallDisk(folder / "disk", 64) as disk:
        engine.convert(converter, source, folder / "whole", OPTIONS)
        wanted = tree(folder / "whole")
        out = disk.folder / "out"
        try:
            engine.convert(converter, source, out, OPTIONS, num_workers=workers)
        except OutputError as error:
            result.refused_ahead = "not enough free space" in str(error) and not list(out.glob("train/*"))
        while True:
            try:
                engine.convert(converter, source, out, OPTIONS, num_workers=workers, check_space=False)
            except OutputError as error:
                result.times_full += 1
                name = Path(error.where or "").name.partition(".vm")[0]
                kind = next((k for k in (".tar", ".json", ".parquet", ".jsonl") if k in name), "other")
                kind = "dataset.json" if name.startswith("dataset") else kind
                result.places[kind] = result.places.get(kind, 0) + 1
                result.unclear += "No space left on device" not in str(error) or "free some space" not in str(error)
            else:
                break
            result.left_over += len(list(out.rglob("*.tmp")))
            for mark in out.glob("train/*.json"):
                sidecar = read_sidecar(out, f"train/{mark.stem}")
                if sidecar is None or (
                    sidecar.sha256 is not None and file_sha256(mark.with_suffix(".tar"))[0] != sidecar.sha256
                ):
                    result.damaged += 1
            disk.grow(step)
        result.same_bytes = tree(out) == wanted
    return result


def main() -> int:
    """Exit status: 0 when all is well, 1 when not, 77 when mounting is not allowed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--step", type=int, default=8, help="kB that the disk gets each time it is full")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = prove(Path(folder), given.episodes, given.step, given.workers)
        except PermissionError as error:
            print(f"skipped: {error}", file=sys.stderr)
            return 77
    print(json.dumps({**vars(result), "ok": result.ok}, indent=1))
    return int(not result.ok)


if __name__ == "__main__":
    sys.exit(main())

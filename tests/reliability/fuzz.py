"""Mutates valid files of every format and reads them: anything but data or an error of the package is a defect.

    python tests/reliability/fuzz.py [--runs 200] [--seed 0] [--seconds 20] [TARGET ...]

Each target's files are written once; each run changes one of them and reads the whole source as a conversion does. Runs
happen in forked processes of limited memory; one that takes too long, dies or grows too much is named with its seed.
The exit code is 1 where there is a defect.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import hostile_cases as cases
import limited
import numpy as np

from actionimg_data import engine
from actionimg_data.cameras import files as calibration
from actionimg_data.converters.kit import tables
from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.demo import rlds as rlds_writer
from actionimg_data.demo.recordings import (
    camera_file,
    droid_camera_file,
    make_log,
    write_droid,
    write_folder,
    write_lerobot,
    write_rosbag,
    write_yaml,
)
from actionimg_data.engine import verify
from actionimg_data.errors import ActionImgError
from actionimg_data.model.files import read_trajectory, write_trajectory
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import open_dataset
from actionimg_data.testing import write_action_images_tree, write_rlbench_dataset

BATCH = 25
MEGABYTES = 1024


@dataclass(frozen=True)
class Target:
    """A format.

    Args:
        make: Writes valid files below a folder.
        open: Reads them all.
        files: Which of them are changed, as a pattern.
    """

    make: Callable[[Path], Any]
    open: Callable[[Path], Any]
    files: str = "src/**/*"


TARGETS: dict[str, Target] = {}


def rlbench_source(folder: Path) -> None:
    write_rlbench_dataset(folder / "src", 1, 3, 32, cameras=("front",))


def images_tree(folder: Path) -> None:
    write_action_images_tree(folder / "src", 1, 9, 32)


def rlds_source(folder: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    sys.path.insert(0, str(root))
    import rlds_data

    rlds_writer.write_rlds(
        folder / "src", "kinds", rlds_data.all_kinds_features(), {"train": [rlds_data.all_kinds_episode(2, 0)]}
    )


def read_rlds(folder: Path) -> None:
    from actionimg_data.converters.rlds import open_rlds

    os.environ["ACTIONIMG_CACHE_DIR"] = str(folder / "cache")
    list(open_rlds(folder / "src/kinds/1.0.0").episodes())


def folder_source(table: Any, pictures: Any = "mp4") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        mapping = write_folder(cases.log(), folder / "src/ep", table, pictures)
        write_yaml(folder / "src/m.yaml", mapping)

    return make


def read_folder(folder: Path) -> None:
    cases.convert("folder", folder / "src", mapping=str(folder / "src/m.yaml"))


def lerobot_source(version: Any, **options: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        mapping = write_lerobot([cases.log()], folder / "src", version, **{"codec": "libx264", **options})
        (folder / "cameras.json").write_text(json.dumps(camera_file(cases.log())))
        write_yaml(folder / "m.yaml", mapping)

    return make


def read_lerobot(folder: Path) -> None:
    cases.convert("lerobot", folder / "src", mapping=str(folder / "m.yaml"))


def droid_source(folder: Path) -> None:
    log = make_log(frames=4, size=32, views=("front", "overhead", "wrist"))
    (folder / "cameras.json").write_text(json.dumps(droid_camera_file(log)))
    (folder / "tool.json").write_text(json.dumps(log.tool_from_gripper))
    write_droid(log, folder / "src")


def read_droid(folder: Path) -> None:
    tool = (folder / "tool.json").read_text()
    cases.convert("droid", folder / "src", tool_from_gripper=tool, camera_file=str(folder / "cameras.json"))


def bag_source(storage: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = folder / "src" / ("run.bag" if storage == "ros1" else "run")
        mapping = write_rosbag(cases.log(), path, storage, compressed=storage == "mcap")
        write_yaml(folder / "m.yaml", mapping)

    return make


def read_bag(folder: Path) -> None:
    cases.convert("rosbag", folder / "src", mapping=str(folder / "m.yaml"))


def table_source(folder: Path) -> None:
    (folder / "src").mkdir()
    rng = np.random.default_rng(0)
    import zarr

    for codec in ("zstd", "gzip", "blosc"):
        import numcodecs

        kind = {"zstd": numcodecs.Zstd(), "gzip": numcodecs.GZip(), "blosc": numcodecs.Blosc()}[codec]
        root = zarr.open_group(str(folder / f"src/{codec}.zarr"), mode="w", zarr_format=2)
        root.create_array("a", data=rng.random((20, 3)), compressors=kind)
    root = zarr.open_group(str(folder / "src/three.zarr"), mode="w", zarr_format=3)
    root.create_array("a", data=rng.random((20, 3)))


def read_tables(folder: Path) -> None:
    for path in sorted((folder / "src").iterdir()):
        found = tables.open_table(path)
        for name in found.names:
            found.column(name)


def data_set(folder: Path) -> None:
    write_rlbench_dataset(folder / "demos", 2, 3, 32, cameras=("front",))
    options = ConvertOptions.parse(height=32, width=32)
    engine.convert(RLBenchConverter(), str(folder / "demos"), folder / "src", options)


def read_data_set(folder: Path) -> None:
    with suppress(ActionImgError):
        verify(folder / "src")
    for sample in open_dataset(folder / "src"):
        for view in sample.views:
            sample.rgb(view)
            sample.action(view)
        _ = sample.trajectory, sample.cameras


def read_shards(folder: Path) -> None:
    for path in sorted((folder / "src").glob("train/*.tar")):
        for sample in open_dataset(path):
            for view in sample.views:
                sample.rgb(view)
            _ = sample.trajectory, sample.cameras


def trajectories(folder: Path) -> None:
    (folder / "src").mkdir()
    for suffix in ("csv", "npz", "npy", "json"):
        write_trajectory(folder / f"src/x.{suffix}", cases.log().truth())


def read_trajectories(folder: Path) -> None:
    for path in sorted((folder / "src").iterdir()):
        read_trajectory(path, fps=10)


def camera_files(folder: Path) -> None:
    (folder / "src").mkdir()
    (folder / "src/a.json").write_text(json.dumps(camera_file(cases.log())))
    write_yaml(folder / "src/b.yaml", camera_file(cases.log()))
    matrix = "!!opencv-matrix\n   rows: 3\n   cols: 3\n   dt: d\n   data: [ 50., 0., 32., 0., 50., 32., 0., 0., 1. ]\n"
    (folder / "src/c.yml").write_text(f"%YAML:1.0\n---\nimage_width: 64\nimage_height: 64\ncamera_matrix: {matrix}")


def read_cameras(folder: Path) -> None:
    for path in sorted((folder / "src").iterdir()):
        for camera in calibration.load_cameras(path).values():
            if camera.world_from_camera is not None:
                camera.camera(path)


TARGETS.update(
    {
        "rlbench": Target(rlbench_source, lambda f: cases.convert("rlbench", f / "src")),
        "action-images": Target(images_tree, lambda f: cases.convert("action-images", f / "src", actions_per_frame=4)),
        "rlds": Target(rlds_source, read_rlds),
        "folder-csv": Target(folder_source("csv"), read_folder),
        "folder-jsonl-png": Target(folder_source("jsonl", "png"), read_folder),
        "folder-npz": Target(folder_source("npz"), read_folder, "src/ep/*.npz"),
        "folder-parquet": Target(folder_source("parquet"), read_folder, "src/ep/*.parquet"),
        "folder-h5": Target(folder_source("h5"), read_folder, "src/ep/*.h5"),
        "lerobot-2.1": Target(lerobot_source("v2.1"), read_lerobot),
        "lerobot-3.0": Target(lerobot_source("v3.0", images=True), read_lerobot),
        "droid": Target(droid_source, read_droid),
        "mcap": Target(bag_source("mcap"), read_bag),
        "db3": Target(bag_source("sqlite3"), read_bag),
        "ros1": Target(bag_source("ros1"), read_bag),
        "zarr": Target(table_source, read_tables),
        "data-set": Target(data_set, read_data_set),
        "shards": Target(data_set, read_shards, "src/train/*.tar"),
        "trajectories": Target(trajectories, read_trajectories),
        "cameras": Target(camera_files, read_cameras),
    }
)

_NUMBERS = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
]
_WORDS = [
    b"NaN",
    b"1e999",
    b"-1",
    b"null",
    b"[]",
    b"{}",
    b"true",
    b'""',
    b"9" * 40,
    b"../..",
    b"\xff\xfe",
    b"0",
    b"[[[[",
    b"1e300",
]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """``data`` with a few changes of the kinds that parsers stumble over."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        at = chance.randrange(len(out) + 1)
        # Headers are at both ends.
        if chance.random() < 0.4:
            at = (
                min(at, chance.randrange(1, 200))
                if chance.random() < 0.6
                else max(0, len(out) - chance.randrange(1, 200))
            )
        kind = chance.randrange(7)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = chance.randrange(256)
        elif kind == 2:
            size = chance.choice((1, 2, 4, 8))
            number = chance.choice(_NUMBERS) & ((1 << 8 * size) - 1)
            out[at : at + size] = number.to_bytes(size, chance.choice(("little", "big")))  # type: ignore[arg-type]
        elif kind == 3:
            del out[at : at + chance.choice((1, 4, 16, 100))]
        elif kind == 4:
            out[at:at] = chance.choice(_WORDS)
        elif kind == 5:
            other = chance.randrange(len(out) + 1)
            out[at : at + 16] = out[other : other + 16]
        else:
            out[at : at + len(word)] = (word := chance.choice(_WORDS))
    if chance.random() < 0.05:
        del out[chance.randrange(len(out) + 1) :]
    return bytes(out)


def attempts(target: Target, base: Path, seeds: range, report: Callable[[dict[str, Any]], None]) -> None:
    """Run some mutations; ``report`` hears of each before it begins, and how it ended."""
    files = sorted(p for p in base.glob(target.files) if p.is_file() and p.stat().st_size)
    for seed in seeds:
        chance = random.Random(seed)
        path = chance.choice(files)
        data = path.read_bytes()
        report({"seed": seed, "file": str(path.relative_to(base))})
        before = limited.peak_mb()
        path.write_bytes(mutated(data, chance))
        try:
            target.open(base)
            end = "read"
        except ActionImgError as error:
            end = error.code
            str(error), pickle.dumps(error)
        except BaseException as error:  # noqa: BLE001
            # Whatever it is, it is what this program looks for.
            end = "unnamed"
            trace = traceback.extract_tb(error.__traceback__)
            ours = [f for f in trace if "actionimg_data" in f.filename] or list(trace)
            last = ours[-1]
            place = f"{last.filename.split('actionimg_data/')[-1]}:{last.lineno} {last.name}"
            report({"seed": seed, "unnamed": f"{type(error).__name__}: {str(error)[:160]} at {place}"})
        finally:
            path.write_bytes(data)
        report({"seed": seed, "end": end, "grown": limited.peak_mb() - before})


def run(name: str, target: Target, runs: int, first: int, seconds: float) -> tuple[Counter[str], list[str]]:
    """Fuzz one format: how the runs ended, and the defects."""
    ends: Counter[str] = Counter()
    defects: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as text:
        folder = Path(text)
        made = limited.run(lambda: target.make(folder / "base"), 120) if (folder / "base").mkdir() is None else None
        if made is None or made.kind != "returned":
            return ends, [f"{name}: was not made: {made}"]
        whole = limited.run(lambda: target.open(folder / "base"), 120)
        if whole.kind != "returned":
            return ends, [f"{name}: cannot be read before it is changed: {whole.detail}"]
        place = first
        while place < first + runs:
            stop = min(place + BATCH, first + runs)
            base, journal = folder / "work", folder / "journal"
            shutil.rmtree(base, ignore_errors=True)
            shutil.copytree(folder / "base", base, symlinks=True)
            with open(journal, "w", buffering=1) as out:

                def report(event: dict[str, Any], out: Any = out) -> None:
                    out.write(json.dumps(event) + "\n")

                ended = limited.run(lambda: attempts(target, base, range(place, stop), report), seconds * BATCH / 5)  # noqa: B023
            events = [json.loads(line) for line in journal.read_text().splitlines()]
            for event in events:
                if "end" in event:
                    ends[event["end"]] += 1
                    if event["grown"] > MEGABYTES:
                        defects.setdefault(f"{name}: took {event['grown']:.0f} MB", f"seed {event['seed']}")
                elif "unnamed" in event:
                    defects.setdefault(
                        f"{name}: {event['unnamed'].split(' at ')[-1]}: {event['unnamed']}", f"seed {event['seed']}"
                    )
            last = max((e["seed"] for e in events), default=place)
            if ended.kind != "returned":
                ends[ended.kind] += 1
                what = next((e["file"] for e in events if e["seed"] == last and "file" in e), "")
                defects.setdefault(f"{name}: {ended.kind} {ended.detail[:300]} {what}", f"seed {last}")
                place = last + 1
            else:
                place = stop
    return ends, [f"{what} ({seed})" for what, seed in defects.items()]


def main() -> int:
    """Fuzz the formats named, all by default, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    found = 0
    print("| format | runs | read | refused | defects |\n|---|---|---|---|---|")
    for name in given.targets or TARGETS:
        ends, defects = run(name, TARGETS[name], given.runs, given.seed, given.seconds)
        bad = sum(ends[k] for k in ("unnamed", "hung", "died"))
        total = sum(ends.values())
        print(f"| {name} | {total} | {ends['read']} | {total - ends['read'] - bad} | {len(defects)} |", flush=True)
        for defect in defects:
            print(f"DEFECT {defect}", file=sys.stderr, flush=True)
        found += len(defects)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())

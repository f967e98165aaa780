"""What a conversion of 76k DROID episodes, or of a million from Open X-Embodiment, costs, from rates measured here.

    python tests/reliability/cost.py [--frames 24] [--cores 16] [--json]

Measures, in CPU seconds of one core (so that a busy machine changes little), the conversion of generated recordings of
the same shape: DROID's raw tree (three H.264 videos of 1280x720 and an HDF5 file), and an RLDS data set (two JPEG
streams of 256x256); the time to read sidecars and write the index, for the part that one process does at the end; and
what comes in and goes out in bytes. The rest is multiplication, written out in `plan`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actionimg_data import engine
from actionimg_data.converters.base import converter_class
from actionimg_data.demo.recordings import LoggedView, TeleopLog, droid_camera_file, make_log, write_droid
from actionimg_data.demo.rlds import write_rlds_demo
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards.manifest import index_bytes, read_sidecar

NODES = (1, 16, 256)
SAMPLES_A_SHARD = 32


@dataclass(frozen=True)
class Rates:
    """What one episode frame (one time step, all views) costs, and one sample at the end.

    Args:
        cpu: CPU seconds a time step.
        bytes_out: Bytes written a time step.
        bytes_in: Bytes read a time step.
        assembly: Seconds a sample, of the one process that reads sidecars and writes index and manifest.
    """

    cpu: float
    bytes_out: float
    bytes_in: float
    assembly: float


@dataclass(frozen=True)
class Source:
    """A data set as its authors describe it.

    Args:
        name: Which.
        episodes: How many.
        steps: Time steps of all episodes together.
        bytes_in: Bytes of all that is read; None to take what was measured.
        requests: Requests to a store for each episode: its files, or ranges of them, and its share of a shard.
    """

    name: str
    episodes: int
    steps: int
    bytes_in: float | None
    requests: float


@dataclass(frozen=True)
class Site:
    """A cluster.

    Args:
        cores: Cores of a node.
        network: Bytes a second of a node's network.
        disk: Bytes a second of a node's disk, when nodes have their own.
        store: Bytes a second of the object store or shared file system, all nodes together.
        requests: Requests a second of the object store under one prefix.
    """

    cores: int = 16
    network: float = 10e9 / 8
    disk: float = 0.5e9
    store: float = 10e9
    requests: float = 3500


def measured(
    converter: str, source: Path, options: dict[str, Any], size: int, folder: Path
) -> tuple[float, float, int]:
    """CPU seconds and bytes out of a conversion with one worker, and its time steps; the least of three runs."""
    kind = converter_class(converter)
    best = float("inf")
    for attempt in range(3):
        begun = time.process_time()
        done = engine.convert(
            kind(kind.Options(**options)),
            str(source),
            folder / f"out{attempt}",
            ConvertOptions.parse(height=size, width=size),
            num_workers=1,
        )
        best = min(best, time.process_time() - begun)
    counts = done.manifest.counts
    assert counts is not None
    assert counts.quarantined == 0, "an episode could not be converted"
    return best, float(counts.bytes), counts.frames


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def assembly(out: Path, copies: int = 200) -> float:
    """Seconds a sample to read sidecars and write the index, from copies of one sidecar."""
    shard = sorted(out.glob("*/*.json"))[0]
    name = f"{shard.parent.name}/{shard.stem}"
    sidecar = read_sidecar(out, name)
    assert sidecar is not None
    begun = time.process_time()
    sidecars = [read_sidecar(out, name) for _ in range(copies)]
    index_bytes([s for s in sidecars if s is not None])
    return (time.process_time() - begun) / (copies * len(sidecar.samples))


def droid(frames: int, folder: Path) -> Rates:
    """Rates for DROID's raw tree."""
    log = make_log(frames=frames, size=1280, views=("front", "overhead", "wrist"))
    views = {}
    for name, view in log.views.items():
        K = view.K.copy()
        K[1, 2] -= 280
        views[name] = LoggedView(np.ascontiguousarray(view.pictures[:, 280:1000]), K, view.world_from_camera)
    wide = TeleopLog(log.times, log.world_from_tool, log.width_m, log.frame_times, views, log.tool_from_gripper)
    write_droid(wide, folder / "src")
    (folder / "cameras.json").write_text(json.dumps(droid_camera_file(wide)))
    options = {"tool_from_gripper": json.dumps(wide.tool_from_gripper), "camera_file": str(folder / "cameras.json")}
    cpu, out, steps = measured("droid", folder / "src", options, 512, folder)
    return Rates(cpu / steps, out / steps, size_of(folder / "src") / steps, assembly(folder / "out0"))


def openx(frames: int, folder: Path) -> Rates:
    """Rates for an RLDS data set of two cameras."""
    source, converter, options = write_rlds_demo(
        folder, episodes=2, frames=frames, size=256, cameras=("front", "wrist")
    )
    os.environ["ACTIONIMG_CACHE_DIR"] = str(folder / "cache")
    cpu, out, steps = measured(converter, source, options, 256, folder)
    return Rates(cpu / steps, out / steps, size_of(source) / steps, assembly(folder / "out0"))


# DROID: 76k episodes, 350 h at 15 Hz, 8.7 TB raw (https://droid-dataset.github.io). Open X-Embodiment: over a million
# episodes; 120 steps each and two views are assumed here, as its data sets differ too much for one number.
SOURCES = {
    "droid": Source("76k DROID episodes", 76_000, 350 * 3600 * 15, 8.7e12, 5 + 4 / SAMPLES_A_SHARD),
    "openx": Source("1M Open X episodes", 1_000_000, 120_000_000, None, 1 + 4 / SAMPLES_A_SHARD),
}


def plan(source: Source, rates: Rates, site: Site, nodes: int) -> dict[str, Any]:
    """Hours that each part of a conversion would take by itself, and which is the first bottleneck.

    Parts that run side by side take as long as the slowest; the assembly at the end is one process, and is added.
    """
    into = source.bytes_in if source.bytes_in is not None else source.steps * rates.bytes_in
    moved = into + 2 * source.steps * rates.bytes_out  # a shard is written and read back
    seconds = {
        "CPU": source.steps * rates.cpu / (nodes * site.cores),
        "network of the nodes": moved / (nodes * site.network),
        "disks of the nodes": 2 * source.steps * rates.bytes_out / (nodes * site.disk),
        "store": moved / site.store,
        "requests to the store": source.episodes * source.requests / site.requests,
    }
    last = source.episodes * rates.assembly
    first = max(seconds, key=lambda name: seconds[name])
    total = seconds[first] + last
    if last > seconds[first]:
        first = "assembly of index and manifest"
    return {
        "source": source.name,
        "nodes": nodes,
        "core_hours": source.steps * rates.cpu / 3600,
        "hours": total / 3600,
        "assembly_minutes": last / 60,
        "terabytes_out": source.steps * rates.bytes_out / 1e12,
        "bottleneck": first,
        "parts_hours": {name: value / 3600 for name, value in seconds.items()},
        # How many nodes it takes until something else than their number holds it up.
        "useful_nodes": int(seconds["CPU"] * nodes / max(seconds["store"], seconds["requests to the store"], last)),
    }


def main() -> int:
    """Measure, calculate, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--cores", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    site = Site(cores=given.cores)
    rows = []
    rates = {}
    for name, measure in (("droid", droid), ("openx", openx)):
        with tempfile.TemporaryDirectory() as folder:
            rates[name] = measure(given.frames, Path(folder))
        rows += [plan(SOURCES[name], rates[name], site, nodes) for nodes in NODES]
    if given.json:
        print(json.dumps({"rates": {k: vars(v) for k, v in rates.items()}, "rows": rows}, indent=2))
        return 0
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; {given.frames} frames\n")
    print("| | CPU ms a time step | kB in | kB out | assembly µs a sample |\n|---|---|---|---|---|")
    for name, rate in rates.items():
        print(
            f"| {name} | {1e3 * rate.cpu:.0f} | {rate.bytes_in / 1e3:.0f} | {rate.bytes_out / 1e3:.1f} | "
            f"{1e6 * rate.assembly:.0f} |"
        )
    print("\n| | nodes | core hours | TB out | hours | assembly min | first bottleneck | useful nodes |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['source']} | {row['nodes']} | {row['core_hours']:,.0f} | {row['terabytes_out']:.2f} | "
            f"{row['hours']:.3g} | {row['assembly_minutes']:.1f} | {row['bottleneck']} | {row['useful_nodes']:,} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

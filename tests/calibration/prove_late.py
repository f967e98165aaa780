"""Offsets in time that are said, held against those that poses were given: "Poses off in time" of docs/calibration.md.

    python tests/calibration/prove_late.py --half set --flow 4000                         # of the flow alone: minutes
    python tests/calibration/prove_late.py --scenes FOLDER … --flow 4000
    python tests/calibration/prove_late.py --scenes FOLDER … --runs 100 --out late.jsonl   # of guess_camera: 8 s each

Windows of random start and 1 to 5 s are cut from recordings at random, half of them with poses that are 0.1 to 0.5 s
off to either side, at 5 to 30 pictures a second, in the ways of `KINDS`. Constants were set on the setting half and on
simulator seeds 0 to 6.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import prove
from prove_guess import SET_ON, WRONG_PX, Unit, samples, scene, with_a_hand, with_another_arm

from actionimg_data.calibrate import GripperShape, Recorded, guess_camera, speeds
from actionimg_data.model import Camera, GripperTrajectory, View
from actionimg_data.model.episode import ArrayFrames

KINDS = {
    "plain": "a window of one episode",
    "whole": "all of one episode",
    "pooled": "a window of each episode of the camera",
    "long still": "the arm waits for a fifth to three fifths of the time",
    "there and back": "a stretch of 0.6 to 2.4 s, again and again",
    "frozen halfway": "the poses stand still from somewhere in the middle",
    "another arm": "another arm moves, whose poses nobody recorded",
    "a person's hand": "it goes about before everything",
    "slow": "two or three times as slow",
    "fast": "one and a half times as fast, 30 pictures a second",
}
LIKELY = ("plain", "plain", *KINDS)
SMALL = 96
"""Pixels of the longer side, where the flow alone is asked."""


@dataclass(frozen=True)
class Window:
    """What is asked, and what is true of it."""

    unit: Unit
    kind: str
    late_s: float
    seconds: float
    rate: float
    recorded: list[Recorded]


def again(arm: GripperTrajectory, way: Any, times: Any) -> GripperTrajectory:
    """The poses of some pictures, in that order, at other times."""
    return GripperTrajectory(arm.position[way], arm.quaternion_xyzw[way], arm.openness[way], times)


def cut(one: Recorded, kind: str, late_s: float, stride: int, slower: float, seconds: float, rng: Any) -> Recorded:
    """A window of a recording whose poses' stamps are late."""
    frames, arm = one.view.frames.array, one.arms[""]  # type: ignore[attr-defined]
    way = np.arange(0, len(arm), stride)
    step = float(np.median(np.diff(arm.times))) * stride * slower
    count = len(way) if kind == "whole" else min(len(way), round(seconds / step) + 1)
    if kind == "there and back":
        half = max(3, round(rng.uniform(0.3, 1.2) / step))
        begin = int(rng.integers(0, max(1, len(way) - half)))
        way = way[np.minimum(begin + np.abs((np.arange(2 * count) + half) % (2 * half) - half), len(way) - 1)]
    if kind == "long still":
        still, begin = round(rng.uniform(0.2, 0.6) * count), int(rng.integers(0, max(1, len(way) - 3)))
        way = np.insert(way, begin, np.full(still, way[begin]))
    times = np.arange(len(way)) * step
    late = speeds.moved(again(arm, way, times), late_s)
    kept = np.flatnonzero(late.known)
    begin = kept[0] + int(rng.integers(0, max(1, len(kept) - count + 1)))
    at = np.arange(begin, min(begin + count, kept[-1] + 1))
    poses = at
    if kind == "frozen halfway":
        poses = at[np.minimum(np.arange(len(at)), round(rng.uniform(0.35, 0.7) * len(at)))]
    pictures = frames[way[at]]
    if kind == "another arm":
        pictures = with_another_arm(pictures)
    if kind == "a person's hand":
        pictures = with_a_hand(pictures)
    return Recorded(one.episode, View(None, ArrayFrames(pictures)), {"": again(late, poses, times[at])})


def windows(units: Sequence[Unit], count: int, seed: int) -> Iterator[Window]:
    """So many windows, of recordings drawn at random."""
    for k in range(count):
        rng = np.random.default_rng([seed, k])
        kind = LIKELY[rng.integers(len(LIKELY))]
        # Cameras of several episodes are there pooled and alone.
        fit = [u for u in units if (len(u.recorded) > 1) == (kind == "pooled")] or list(units)
        unit = fit[rng.integers(len(fit))]
        slower = {"slow": float(rng.choice([2.0, 3.0])), "fast": 2 / 3}.get(kind, 1.0)
        stride = 1 if kind in ("slow", "fast") else int(rng.choice([1, 1, 1, 2, 4]))
        late = 0.0 if rng.random() < 0.5 else float(rng.choice([-1, 1]) * rng.uniform(0.1, 0.5))
        seconds = rng.uniform(1, 5) * (2 if kind == "slow" else 1)
        recorded = [cut(r, kind, late, stride, slower, seconds, rng) for r in unit.recorded]
        times = recorded[0].arms[""].times
        yield Window(unit, kind, late, float(np.ptp(times)), float(1 / np.median(np.diff(times))), recorded)


def of_the_flow(window: Window) -> dict[str, Any]:
    """What the flow says by itself."""
    measured = [speeds.speeds(r.view.frames, r.arms[""]) for r in window.recorded]
    off = speeds.offset_of([m for m in measured if m is not None])
    return {"said": off.seconds, "interval": off.interval_s} if off is not None and off.clear else {"said": None}


def of_guess(window: Window) -> dict[str, Any]:
    """What `guess_camera` says, its focal length known."""
    truth, begin = window.unit.truth, time.process_time()
    found = guess_camera("camera", window.recorded, GripperShape.parametric(0.003), K=truth.K)
    out = {"said": found.time_offset_s if not found.found else None, "verdict": found.verdict, "reason": found.reason}
    out["cpu"] = time.process_time() - begin
    if out["said"] is not None:
        out["interval"] = float(found.reason.split("± ")[1].split(" s")[0])
    if found.found:
        points = np.concatenate([r.arms[""].position[::5] for r in window.unit.recorded])
        there = Camera(found.K, found.world_from_camera, truth.width, truth.height).project(points)[0]  # type: ignore[arg-type]
        away = np.linalg.norm(there - truth.project(points)[0], axis=1).mean()
        out["error_px_256"] = float(away) * 256 / truth.width
    return out


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each kind, length and rate."""
    groups = {"all": rows}
    groups |= {
        f"{a} to {b} s": [r for r in rows if a <= r["seconds"] < b] for a, b in ((1, 2), (2, 3), (3, 4), (4, 20))
    }
    groups |= {f"{a} to {b} Hz": [r for r in rows if a <= r["rate"] < b] for a, b in ((4, 9), (9, 19), (19, 40))}
    groups |= {kind: [r for r in rows if r["kind"] == kind] for kind in KINDS}
    lines = []
    for name, some in groups.items():
        late = [r for r in some if r["late"]]
        said = [r for r in late if r["said"] is not None]
        held = sum(abs(r["said"] + r["late"]) <= r["interval"] for r in said)
        false = sum(r["said"] is not None for r in some if not r["late"])
        line = f"{name}: said {len(said)} of {len(late)}, {held} within the interval"
        line += f"; without an offset {false} of {len(some) - len(late)}"
        if said:
            off = [1e3 * abs(r["said"] + r["late"]) for r in said]
            wide = 1e3 * np.median([r["interval"] for r in said])
            line += f"; {np.median(off):.0f} ms off in the median, interval {wide:.0f}"
        if any("verdict" in r for r in some):
            for what, part in (("without", [r for r in some if not r["late"]]), ("with", late)):
                found = [r["error_px_256"] for r in part if r["verdict"] == "found"]
                wrong = sum(e > WRONG_PX for e in found)
                line += f"; cameras found {what} an offset: {len(found)}, wrong {wrong}"
        lines.append(line)
    return lines


def units_of(options: argparse.Namespace) -> list[Unit]:
    """The recordings that windows are cut from, as small as will do."""
    found: list[Unit] = []
    for folder in options.scenes or sorted((options.data / "uncalibrated").glob("scene_*")):
        found += [_small(u) if options.flow else u for u in scene(folder) if options.only in u.name]
    if not options.scenes:
        found += [_small(u) if options.flow else u for u in samples(options.data)]
        found = [u for u in found if (u.name.split("|")[0] in SET_ON) == (options.half == "set")]
    return found


def _small(unit: Unit) -> Unit:
    def shrunk(one: Recorded) -> Recorded:
        array = one.view.frames.array  # type: ignore[attr-defined]
        height, width = array.shape[1:3]
        size = round(SMALL * width / max(width, height)), round(SMALL * height / max(width, height))
        small = np.stack([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in array])
        return Recorded(one.episode, View(None, ArrayFrames(small)), one.arms)

    return unit._replace(recorded=[shrunk(r) for r in unit.recorded])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ACTIONIMG_TEST_DATA", here)))
    parser.add_argument("--scenes", type=Path, nargs="*", help="folders of scenes; by default the samples'")
    parser.add_argument("--half", choices=("set", "judged"), default="judged", help="of the samples")
    parser.add_argument("--only", default="", help="part of the names of the scenes' cameras")
    parser.add_argument("--flow", type=int, default=0, help="so many windows, of which the flow alone is asked")
    parser.add_argument("--runs", type=int, default=0, help="so many windows, of which guess_camera is asked")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("late.jsonl"), help="of --runs; goes on where it was")
    options = parser.parse_args()
    rows = {} if options.flow else prove.read_rows(options.out)
    for k, window in enumerate(windows(units_of(options), options.flow or options.runs, options.seed)):
        name = f"{options.seed}|{k}"
        if name in rows:
            continue
        row = {"name": name, "unit": window.unit.name, "kind": window.kind, "late": window.late_s}
        row |= {"seconds": window.seconds, "rate": window.rate}
        rows[name] = row | (of_the_flow(window) if options.flow else of_guess(window))
        if not options.flow:
            with options.out.open("a") as file:
                file.write(json.dumps(rows[name]) + "\n")
    for line in summary(list(rows.values())):
        print(line)


if __name__ == "__main__":
    main()

"""Cameras from nothing with the whole arm, beside the hand alone: the table of docs/calibration.md.

    python tests/calibration/prove_arm.py --out arm.jsonl                       # RLBench's samples, joints and a URDF
    python tests/calibration/prove_arm.py --out arm.jsonl --urdf panda_arm_hand.urdf --what links     # with its meshes
    python tests/calibration/prove_arm.py --out arm.jsonl --scenes FOLDER …     # scenes of `make_scenes.py`
    python tests/calibration/prove_arm.py --out arm.jsonl --summary

RLBench's demos have joint values; the URDF is the one of `panda_urdf`, after Franka Emika's published
Denavit-Hartenberg table, without meshes; a published one with meshes may be given besides, whose links' outlines are
looked for then. Of a scene the poses of the arm's links, which are its joints' forward kinematics, are read from
``truth.npz``, and their meshes from ``arm.npz``; nothing else of those files is shown to what estimates. Constants were
chosen on RLBench's episode0 and scenes of seeds below 1000.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import prove
import prove_guess
from scipy.spatial.transform import Rotation

from actionimg_data.calibrate import with_arm
from actionimg_data.calibrate.arm import Body, rigid_bodies
from actionimg_data.calibrate.outline import Solid
from actionimg_data.converters.base import converter_class
from actionimg_data.converters.kit.robot import Robot
from actionimg_data.demo.simulators import panda_urdf
from actionimg_data.model import GripperTrajectory

MEMBERS = ("hand", "arm", "links")
KINDS = ("pooled", "alone", "rlbench")


def links_of(folder: Path, episode: str, trajectory: GripperTrajectory, outlines: bool) -> tuple[Body, ...]:
    """The arm's bodies in an episode of a scene."""
    with np.load(folder / "arm.npz") as meshes:
        names = {int(k.split("/")[0]): k.split("/")[1] for k in meshes}
        solids = {
            k.split("/")[1]: Solid(meshes[k.replace("faces", "vertices")], meshes[k])
            for k in meshes
            if outlines and k.endswith("/faces") and "/robot0" in k
        }
    first = min(k for k, name in names.items() if name.startswith("gripper0"))
    rows = np.load(folder / episode / "truth.npz")["bodies"][:, :first]
    world = np.tile(np.eye(4), (first, len(rows), 1, 1))
    for k in range(first):
        world[k, :, :3, 3] = rows[:, k, :3]
        world[k, :, :3, :3] = Rotation.from_quat(rows[:, k][:, [4, 5, 6, 3]]).as_matrix()
    return rigid_bodies(
        world,
        [_parent(world, k) for k in range(first)],
        first - 1,
        trajectory.world_from_gripper,
        [names.get(k, str(k)) for k in range(first)],
        solids=solids,
    )


def _parent(world: np.ndarray, link: int) -> int:
    """The link that another hangs from: the nearest before it in which its origin does not move."""
    best, nearest = -1, np.inf
    for k in range(link):
        there = np.linalg.inv(world[k]) @ world[link]
        away = float(np.linalg.norm(there[0, :3, 3]))
        if np.ptp(there[:, :3, 3], axis=0).max() < 1e-5 and away <= nearest:
            best, nearest = k, away
    return best


def scene(folder: Path) -> Iterator[tuple[str, prove_guess.Unit]]:
    """The cameras of a scene, each with the hand alone and with the arm."""
    for unit in prove_guess.scene(folder):
        yield "hand", unit
        for what in MEMBERS[1:]:
            bodies = [(r, links_of(folder, r.episode, r.arms[""], what == "links")) for r in unit.recorded]
            whole = [
                replace(r, bodies=tuple(b for b in found if b.moves), still=tuple(b for b in found if not b.moves))
                for r, found in bodies
            ]
            yield what, unit._replace(recorded=whole)


def rlbench(data: Path, urdf: Path | None) -> Iterator[tuple[str, prove_guess.Unit]]:
    """RLBench's demos, their cameras withheld, each with the hand alone and with the arm."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "panda.urdf"
        path.write_text(panda_urdf(meshes=False))
        robots = {"arm": Robot.load(path, count=7)}
        if urdf is not None:
            robots["links"] = Robot.load(urdf, count=7)
        converter = converter_class("rlbench")()
        episodes = {ref.id: converter.read(ref) for ref in converter.discover(str(data / "rlbench"))}
        joints = {name: e.joints for name, e in episodes.items() if e.joints is not None}
        for unit in prove_guess.samples(data):
            if unit.name.endswith("|rlbench"):
                yield "hand", unit
                for what, robot in robots.items():
                    yield what, unit._replace(recorded=with_arm(unit.recorded, robot, joints))


def summary(rows: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each kind of input, the hand alone and the arm below each other."""
    lines = []
    for half in ("judged", "set on"):
        for kind in KINDS:
            for focal in ("known", "free"):
                for what in MEMBERS:
                    found = [r for n, r in rows.items() if _is(n, half, kind, focal, what)]
                    if not found:
                        continue
                    told = [r for r in found if r["verdict"] == "found"]
                    wrong = [r for r in told if r["error_px_256"] > prove_guess.WRONG_PX]
                    line = (
                        f"{half}, {kind}, focal {focal}, {what}: found {len(told)} of {len(found)}, wrong {len(wrong)}"
                    )
                    if told:
                        px = np.array([r["error_px_256"] for r in told])
                        holds = sum(r["error_px"] <= r["overlay_px"] for r in told)
                        placed = sum(r["error_mm"] <= r["position_interval_mm"] for r in told)
                        line += (
                            f"; overlay at 256 px {np.median(px):.2f} median, {np.quantile(px, 0.9):.2f} p90; camera "
                        )
                        line += f"{np.median([r['error_mm'] for r in told]):.0f} mm; intervals hold overlay {holds}, "
                        line += f"position {placed}"
                        if focal == "free":
                            line += f"; focal length {np.quantile([r['focal_error'] for r in told], 0.9):.1%} p90"
                    lines.append(line + f"; {np.median([r['seconds'] for r in found]):.0f} s a camera")
    return lines


def _is(name: str, half: str, kind: str, focal: str, what: str) -> bool:
    place, _, episode, length, member = name.split("|")
    setting = place in prove_guess.SET_ON or (place.startswith("sim_") and int(place[4:]) < 1000)
    own = episode if episode in ("pooled", "rlbench") else "alone"
    return (setting == (half == "set on")) and (own, length, member) == (kind, focal, what)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ACTIONIMG_TEST_DATA", here)))
    parser.add_argument("--scenes", type=Path, nargs="*", help="folders of scenes, in place of RLBench's samples")
    parser.add_argument("--urdf", type=Path, help="of a Panda, with meshes: RLBench's arm with its links' outlines")
    parser.add_argument("--out", type=Path, default=Path("arm.jsonl"))
    parser.add_argument("--focal", choices=("known", "free"), default="known")
    parser.add_argument("--what", choices=(*MEMBERS, "both"), default="both")
    parser.add_argument("--only", nargs="*", default=(), help="parts of the names of the cameras, all of them")
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    rows = prove.read_rows(options.out)
    if not options.summary:
        units = (u for f in options.scenes for u in scene(f)) if options.scenes else rlbench(options.data, options.urdf)
        with options.out.open("a") as file:
            for what, unit in units:
                name = f"{unit.name}|{options.focal}|{what}"
                if name in rows or options.what not in (what, "both") or not all(o in name for o in options.only):
                    continue
                rows[name] = prove_guess.judged(unit, options.focal == "known")
                file.write(json.dumps({"name": name, **rows[name]}) + "\n")
                file.flush()
    for line in summary(rows):
        print(line)


if __name__ == "__main__":
    main()

"""Cameras from nothing, held against the truth: the table of docs/calibration.md.

    python tests/calibration/prove_guess.py --out guesses.jsonl            # a run goes on where it was
    python tests/calibration/prove_guess.py --out guesses.jsonl --summary
    python tests/calibration/prove_guess.py --drawn 100 --out drawn.jsonl  # cameras about our own drawn scene
    python tests/calibration/prove_guess.py --scenes FOLDER …              # scenes of `make_scenes.py`, or others
    python tests/calibration/prove_guess.py --hand [--scenes FOLDER …]     # cameras on the hand

A scene is a folder of episodes (``poses.csv``, ``frame_times.csv``, ``camN.mp4``, ``truth.npz``), all with the same
fixed cameras; nothing that estimates reads ``truth.npz``. Constants were chosen on scene_2, scene_3, episode_1 and
RLBench's episode0; scene_5, episode_2 and episode5 judge.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import prove
from scipy.interpolate import interp1d
from scipy.spatial.transform import Rotation, Slerp

from actionimg_data.calibrate import GripperShape, Recorded, guess_camera
from actionimg_data.demo.scene import COLOURS, SceneRenderer, make_motion
from actionimg_data.model import Camera, GripperTrajectory, View
from actionimg_data.model.episode import ArrayFrames
from actionimg_data.video import read_frames

SET_ON = ("scene_2", "scene_3", "episode_1", "episode0")
WRONG_PX = 6.0


class Unit(NamedTuple):
    """One camera, and the episodes that are pooled."""

    name: str
    recorded: list[Recorded]
    truth: Camera


def scene(folder: Path, late: float = 0.0) -> Iterator[Unit]:
    """The cameras of a scene: pooled, and of each episode alone; its poses' stamps so many seconds too late."""
    cameras: dict[str, list[tuple[Recorded, Camera]]] = {}
    for episode in sorted(p for p in folder.iterdir() if (p / "poses.csv").is_file()):
        rows = np.genfromtxt(episode / "poses.csv", delimiter=",", names=True)
        at = np.genfromtxt(episode / "frame_times.csv", delimiter=",", names=True)["time_s"]
        t = rows["time_s"]
        stamps, at = at, np.clip(at - late, t[0], t[-1])
        position = interp1d(t, np.stack([rows[k] for k in ("x_m", "y_m", "z_m")], 1), axis=0)(at)
        turn = Slerp(t, Rotation.from_quat(np.stack([rows[k] for k in ("qx", "qy", "qz", "qw")], 1)))(at)
        opening = interp1d(t, rows["gripper"])(at)
        # Openness of a gripper whose range is not stated: between the ends that were reached.
        openness = np.clip((opening - rows["gripper"].min()) / max(np.ptp(rows["gripper"]), 1e-6), 0, 1)
        quaternion = (turn * Rotation.from_euler("z", 90, degrees=True)).as_quat()
        trajectory = GripperTrajectory(position, quaternion, openness, stamps)
        truth = np.load(episode / "truth.npz")
        for k, pose in enumerate(truth["world_from_camera"]):
            frames = read_frames(episode / f"cam{k}.mp4")
            camera = Camera(truth["K"], pose, frames.shape[2], frames.shape[1])
            one = Recorded(episode.name, View(None, ArrayFrames(frames)), {"": trajectory})
            cameras.setdefault(f"cam{k}", []).append((one, camera))
    for name, found in cameras.items():
        if len(found) > 1:
            yield Unit(f"{folder.name}|{name}|pooled", [r for r, _ in found], found[0][1])
        for one, camera in found:
            yield Unit(f"{folder.name}|{name}|{one.episode}", [one], camera)


def samples(data: Path) -> Iterator[Unit]:
    """The simulator's recordings and RLBench's demos, their cameras withheld."""
    for r in prove.load(data):
        name = r.id.rsplit("/", 1)[-1]
        kind = "rlbench" if "open_drawer" in r.id else "alone"
        for view, camera in r.cameras.items():
            yield Unit(
                f"{name}|{view}|{kind}", [Recorded(r.id, View(None, r.frames[view]), {"": r.trajectory})], camera
            )


def drawn(count: int, size: int = 192, frames: int = 80) -> Iterator[Unit]:
    """Cameras anywhere about the table of our own drawn scene, whose gripper, arm and cube move; two episodes each."""
    for k in range(count):
        rng = np.random.default_rng(1000 + k)
        motions = [make_motion(frames, 100 + 2 * k + i, list(COLOURS)[k % len(COLOURS)]) for i in range(2)]
        middle = np.mean([m.world_from_gripper[:, :3, 3].mean(0) for m in motions], axis=0)
        azimuth, height = rng.uniform(-2.4, 2.4), rng.uniform(0.15, 0.95)
        flat = np.sqrt(1 - height**2)
        away = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), height]) * rng.uniform(0.7, 1.4)
        target, fov = middle + rng.normal(size=3) * 0.06, float(rng.uniform(38, 65))
        camera = Camera.looking_at(middle + away, target, size, size, horizontal_fov_deg=fov)
        recorded = []
        for i, motion in enumerate(motions):
            renderer = SceneRenderer(motion, size)
            pictures = np.stack([renderer.draw(camera, f).rgb for f in range(frames)])
            times = np.arange(frames) / 20
            trajectory = GripperTrajectory.from_transforms(motion.world_from_gripper, motion.jaw, times)
            recorded.append(Recorded(f"drawn{k}-{i}", View(None, ArrayFrames(pictures)), {"": trajectory}))
        yield Unit(f"drawn{k}|camera|pooled", recorded, camera)
        yield Unit(f"drawn{k}|camera|{recorded[0].episode}", recorded[:1], camera)


@dataclass(frozen=True)
class ThereAndBack:
    """Pictures of a short recording there and back again, kept once, so that a long one costs no memory here."""

    kept: Any
    order: Any
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.order)

    def frames(self, indices: Sequence[int]) -> Iterator[Any]:
        for i in indices:
            yield self.kept[self.order[i]]


def lengthened(units: Iterator[Unit], count: int) -> Iterator[Unit]:
    """First episodes as ones of so many pictures, there and back again."""
    for unit in units:
        arm, frames = unit.recorded[0].arms[""], unit.recorded[0].view.frames
        way = np.abs((np.arange(count) + len(arm) - 1) % (2 * len(arm) - 2) - (len(arm) - 1))
        times = np.arange(count) * float(np.median(np.diff(arm.times)))
        longer = GripperTrajectory(arm.position[way], arm.quaternion_xyzw[way], arm.openness[way], times)
        kept = np.stack(list(frames.frames(range(len(arm)))))
        pictures = ThereAndBack(kept, way, frames.width, frames.height)
        name = unit.name.rsplit("|", 1)[0]
        yield Unit(f"{name}|{count} pictures", [Recorded("long", View(None, pictures), {"": longer})], unit.truth)


def with_another_arm(frames: Any) -> Any:
    """Pictures with another arm, whose poses nobody recorded: this one's, mirrored, some time later."""
    usual = np.median(frames[::4], 0)
    other = np.roll(frames[:, :, ::-1], len(frames) // 3, 0)
    moved = (np.abs(other - usual[:, ::-1]).max(-1) > 18)[..., None]
    return np.where(moved, other, frames)


def with_a_hand(frames: Any) -> Any:
    """Pictures before which a person's hand goes about."""
    rng, (count, height, width) = np.random.default_rng(0), frames.shape[:3]
    side = min(height, width)
    skin = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), side / 128)
    skin = np.clip(np.array([205, 150, 120]) + 180 * skin[..., None], 0, 255).astype(np.uint8)
    person = frames.copy()
    for k in range(count):
        at = np.array([width, height]) / 2 + 0.3 * side * np.array([np.sin(k / 9), np.cos(k / 13)])
        mask = np.zeros((height, width), np.uint8)
        cv2.ellipse(mask, at.astype(int).tolist(), (side // 6, side // 11), 4 * k, 0, 360, 1, -1)
        turn = cv2.getRotationMatrix2D((side / 2, side / 2), -4 * k, 1)
        turn[:, 2] += at - side / 2
        person[k][mask > 0] = cv2.warpAffine(skin, turn, (width, height), borderMode=cv2.BORDER_REFLECT)[mask > 0]
    return person


def spoiled(units: Iterator[Unit]) -> Iterator[Unit]:
    """Cameras whose input is bad, each in several ways; the truth is that of the pictures where they have one."""
    for unit in units:
        one = unit.recorded[0]
        arm = one.arms[""]
        frames = np.stack(list(one.view.frames.frames(range(len(arm)))))
        count, side = len(frames), frames.shape[1]
        t = np.arange(count)

        def made(kind: str, pictures: Any, arms: Any, unit: Unit = unit) -> Unit:
            name = unit.name.rsplit("|", 1)[0]
            return Unit(f"{name}|{kind}", [Recorded(kind, View(None, ArrayFrames(pictures)), arms)], unit.truth)

        def shifted(way: Any, frames: Any = frames) -> Any:
            moves = [np.float32([[1, 0, x], [0, 1, 0.6 * x]]) for x in way]
            size = frames.shape[2], frames.shape[1]
            return np.stack(
                [cv2.warpAffine(p, m, size, borderMode=cv2.BORDER_REFLECT) for p, m in zip(frames, moves, strict=True)]
            )

        yield made("camera drifts", shifted(0.12 * t), one.arms)
        yield made("camera sways", shifted(6 * np.sin(t / 5)), one.arms)
        yield made("two seconds", frames[:40], {"": arm[:40]})
        still = np.minimum(t, 1)
        frozen = GripperTrajectory(arm.position[still], arm.quaternion_xyzw[still], arm.openness, arm.times)
        yield made("poses frozen", frames, {"": frozen})
        still = np.minimum(t, count // 2)
        frozen = GripperTrajectory(arm.position[still], arm.quaternion_xyzw[still], arm.openness, arm.times)
        yield made("poses frozen halfway", frames, {"": frozen})
        yield made("two arms", frames, {"left": arm, "right": arm})
        yield made("another arm", with_another_arm(frames), one.arms)
        yield made("a person's hand", with_a_hand(frames), one.arms)
        # A board before the place where the gripper mostly is.
        uv = unit.truth.project(arm.position)[0]
        low, high = np.quantile(uv, 0.02, 0) - 0.12 * side, np.quantile(uv, 0.85, 0) + 0.12 * side
        (x0, y0), (x1, y1) = np.clip(low, 0, side).astype(int), np.clip(high, 0, side).astype(int)
        hidden = frames.copy()
        hidden[:, y0:y1, x0:x1] = (120, 110, 100)
        yield made("gripper hardly seen", hidden, one.arms)


def on_the_hand(data: Path, scenes: list[Path]) -> Iterator[tuple[str, Recorded, np.ndarray, np.ndarray]]:
    """Cameras on the hand: name, what was recorded, ``K`` and ``gripper_from_camera``."""
    for r in prove.load(data, hand=True):
        for view, camera in r.cameras.items():
            true = np.linalg.inv(r.trajectory.world_from_gripper[0]) @ camera.world_from_camera
            name = f"{r.id.rsplit('/', 1)[-1]}|{view}"
            yield name, Recorded(r.id, View(None, r.frames[view]), {"": r.trajectory}), camera.K, true
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    for folder in scenes:
        first = folder / "episode_0"
        if not (first / "wrist.mp4").exists():
            continue
        truth = np.load(first / "truth.npz")
        one = next(u for u in scene(folder) if u.name.endswith("|episode_0")).recorded[0]
        seen = Recorded(folder.name, View(None, ArrayFrames(read_frames(first / "wrist.mp4"))), one.arms)
        yield f"{folder.name}|wrist", seen, truth["wrist_K"], np.linalg.inv(turned) @ truth["gripper_from_wrist"]


def judge_on_the_hand(data: Path, scenes: list[Path]) -> None:
    """A line for each camera on the hand, its focal length known."""
    for name, recorded, K, true in on_the_hand(data, scenes):
        begin = time.process_time()
        found = guess_camera("hand", [recorded], GripperShape.parametric(0.003), K=K)
        line = f"{name}: {found.verdict}, {time.process_time() - begin:.0f} s; {found.reason}"
        if found.gripper_from_camera is not None:
            off = np.linalg.inv(true) @ found.gripper_from_camera
            angle = np.degrees(np.arccos(np.clip((np.trace(off[:3, :3]) - 1) / 2, -1, 1)))
            line += f"; off by {angle:.2f} deg (told {found.rotation_deg:.2f}), "
            line += f"{1e3 * np.linalg.norm(off[:3, 3]):.1f} mm (told {found.position_mm:.1f})"
        print(line, flush=True)


def units_of(options: argparse.Namespace) -> Iterator[Unit]:
    """The cameras that the command asks for."""
    if options.drawn:
        yield from drawn(options.drawn)
        return
    for folder in options.scenes or sorted((options.data / "uncalibrated").glob("scene_*")):
        yield from scene(folder, options.late)
    if not options.scenes and not options.late and not options.bad:
        yield from samples(options.data)


def first_of(options: argparse.Namespace) -> Iterator[Unit]:
    """The first episode of each camera."""
    seen = set()
    for unit in units_of(options):
        scene_and_camera = unit.name.rsplit("|", 1)[0]
        if not unit.name.endswith("pooled") and scene_and_camera not in seen and options.only in unit.name:
            seen.add(scene_and_camera)
            yield unit


def judged(unit: Unit, known: bool) -> dict[str, Any]:
    """What is found out of a camera, and how far that is from the truth."""
    begin = time.process_time()
    found = guess_camera("camera", unit.recorded, GripperShape.parametric(0.003), K=unit.truth.K if known else None)
    out: dict[str, Any] = {"seconds": time.process_time() - begin, **found.to_json()}
    if found.K is not None and found.world_from_camera is not None:
        points = np.concatenate([r.arms[""].position[::5] for r in unit.recorded])
        there = Camera(found.K, found.world_from_camera, unit.truth.width, unit.truth.height).project(points)[0]
        out["error_px"] = float(np.linalg.norm(there - unit.truth.project(points)[0], axis=1).mean())
        out["error_px_256"] = out["error_px"] * 256 / unit.truth.width
        away = found.world_from_camera[:3, 3] - unit.truth.world_from_camera[:3, 3]
        out["error_mm"] = float(1e3 * np.linalg.norm(away))
        out["focal_error"] = float(abs(found.K[0, 0] / unit.truth.K[0, 0] - 1))
    return out


def summary(rows: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each kind of input."""
    lines = []
    for half, wanted in (("judged", False), ("set on", True)):
        for kind in ("pooled", "alone", "rlbench"):
            for focal in ("known", "free"):
                found = [
                    r
                    for name, r in rows.items()
                    if (name.split("|")[0] in SET_ON) == wanted
                    and name.split("|")[3] == focal
                    and _kind(name.split("|")[2]) == kind
                ]
                if not found:
                    continue
                told = [r for r in found if r["verdict"] == "found"]
                wrong = [r for r in told if r["error_px_256"] > WRONG_PX]
                line = f"{half}, {kind}, focal {focal}: found {len(told)} of {len(found)}, wrong {len(wrong)}"
                if told:
                    px = np.array([r["error_px_256"] for r in told])
                    line += (
                        f"; overlay at 256 px {np.median(px):.2f} median, {np.quantile(px, 0.9):.2f} p90; "
                        f"camera {np.median([r['error_mm'] for r in told]):.0f} mm; intervals hold overlay "
                        f"{np.mean([r['error_px'] <= r['overlay_px'] for r in told]):.0%}, position "
                        f"{np.mean([r['error_mm'] <= r['position_interval_mm'] for r in told]):.0%}"
                    )
                    if focal == "free":
                        off = [r["focal_error"] for r in told]
                        line += f"; focal length {np.quantile(off, 0.9):.1%} p90"
                lines.append(line + f"; {np.median([r['seconds'] for r in found]):.0f} s a camera")
    return lines


def off_in_time(rows: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each offset that poses were given: how many cameras said so, and how exactly."""
    lines = []
    for late in sorted({float(n.split("|")[4]) for n in rows if n.count("|") == 4}):
        found = [r for n, r in rows.items() if n.count("|") == 4 and float(n.split("|")[4]) == late]
        told = [r for r in found if r["verdict"] == "cannot tell" and r["time_offset_s"] is not None]
        line = f"poses {late:+g} s late: said by {len(told)} of {len(found)}, "
        line += f"called found {sum(r['verdict'] == 'found' for r in found)}"
        if told:
            off = 1e3 * np.abs([r["time_offset_s"] + late for r in told])
            line += f"; off by {np.median(off):.0f} ms median, {off.max():.0f} at most"
        lines.append(line)
    return lines


def _kind(text: str) -> str:
    return text if text in ("pooled", "rlbench") else "alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ACTIONIMG_TEST_DATA", here)))
    parser.add_argument("--scenes", type=Path, nargs="*", help="folders of scenes; by default the samples'")
    parser.add_argument("--drawn", type=int, default=0, help="so many cameras about the drawn scene instead")
    parser.add_argument("--out", type=Path, default=Path("guesses.jsonl"))
    parser.add_argument("--focal", choices=("known", "free", "both"), default="both")
    parser.add_argument("--bad", action="store_true", help="the first episode of each camera, spoiled in many ways")
    parser.add_argument("--long", type=int, default=0, help="the first episode of each camera, of so many pictures")
    parser.add_argument("--late", type=float, default=0.0, help="seconds by which the poses of scenes come too late")
    parser.add_argument("--only", default="", help="part of the names of the cameras")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--hand", action="store_true", help="cameras on the hand, of the samples and of --scenes")
    options = parser.parse_args()
    if options.hand:
        judge_on_the_hand(options.data, options.scenes or [])
        return
    rows = prove.read_rows(options.out)
    if not options.summary:
        with options.out.open("a") as file:
            if options.bad:
                units = spoiled(first_of(options))
            else:
                units = lengthened(first_of(options), options.long) if options.long else units_of(options)
            for unit in units:
                for focal in ("known", "free") if options.focal == "both" else (options.focal,):
                    name = f"{unit.name}|{focal}" + (f"|{options.late:+g}" if options.late else "")
                    if name not in rows and (options.bad or options.long or options.only in name):
                        rows[name] = judged(unit, focal == "known")
                        file.write(json.dumps({"name": name, **rows[name]}) + "\n")
                        file.flush()
    for line in [*summary({n: r for n, r in rows.items() if n.count("|") == 3}), *off_in_time(rows)]:
        print(line)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB (the pictures included)")


if __name__ == "__main__":
    main()

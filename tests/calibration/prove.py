"""Proof of the figures in docs/calibration.md, on real recordings whose cameras are known to be true.

    python tests/calibration/prove.py --out results.jsonl            # stop it when you like: it goes on from there
    python tests/calibration/prove.py --out results.jsonl --summary  # only the table of what is there

Cameras are moved at random, and the package is asked what it thinks; nothing of the truth is given to it, and frames
are chosen through the moved cameras. The package's thresholds were set on episode_1 (simulator recording) and episode0
(RLBench); the other two episodes are the ones that judge. Every case has its own seed, so that any one can be repeated.

Needs the sample data of ../shared/data (or ACTIONIMG_TEST_DATA); half an hour of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, Slerp

from actionimg_data.calibrate import (
    GripperShape,
    Priors,
    Recorded,
    check_view,
    refine_camera,
    time_offset,
    tool_or_camera,
)
from actionimg_data.calibrate.outline import Hand
from actionimg_data.calibrate.refine import overlay_px
from actionimg_data.calibrate.solve import vector_of
from actionimg_data.converters.base import converter_class
from actionimg_data.geometry import transforms
from actionimg_data.model import Camera, CameraTrack, Episode, GripperTrajectory, View
from actionimg_data.model.episode import ArrayFrames

JUDGED = ("episode_2", "open_drawer/all_variations/episode5")
SIM_VIEWS = ("agentview", "frontview", "sideview")
# Where the simulator's grip site lies in the parametric gripper; found on episode_1.
SIM_SIZES = {"fingertip_reach": 0.0135}
LEVELS = {"0": (0.0, 0.0), "1 cm": (0.01, 0.0), "2 cm": (0.02, 0.0), "3 cm": (0.03, 0.0), "1 deg": (0.0, 1.0)}
LEVELS |= {"2 deg": (0.0, 2.0), "3 cm 3 deg": (0.03, 3.0)}
Case = tuple[str, Callable[[], dict[str, Any]]]


class Recording:
    """An episode with its pictures in memory and its fixed, true cameras."""

    def __init__(self, episode: Episode, shape: GripperShape, views: tuple[str, ...]) -> None:
        self.id, self.shape, self.trajectory, self.fps = episode.id, shape, episode.trajectory, episode.fps
        self.cameras: dict[str, Camera] = {}
        self.frames: dict[str, ArrayFrames] = {}
        self.masks: dict[str, np.ndarray] = {}
        for name in views:
            view = episode.views[name]
            camera = view.camera
            assert camera is not None
            self.cameras[name] = camera[0] if isinstance(camera, CameraTrack) else camera
            self.frames[name] = ArrayFrames(np.stack(list(view.frames.frames(range(len(episode))))))
            if view.mask is not None:
                self.masks[name] = np.stack(list(view.mask.frames(range(len(episode)))))

    @property
    def judged(self) -> bool:
        return self.id in JUDGED


def load(data: Path, only: tuple[str, ...] = (), hand: bool = False) -> list[Recording]:
    """The recordings with their fixed cameras, or with those on the hand."""
    sim_views = ("robot0_eye_in_hand",) if hand else SIM_VIEWS
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from sample_mapping import panda_mapping

    transform = panda_mapping(sim_views)
    import tempfile

    found = []
    with tempfile.TemporaryDirectory() as folder:
        mapping = Path(folder) / "mapping.json"
        mapping.write_text(json.dumps(transform))
        cls = converter_class("folder")
        converter = cls(cls.Options.parse({"mapping": str(mapping)}, "folder"))
        shape = GripperShape.parametric(**SIM_SIZES)
        for ref in converter.discover(str(data / "teleop")):
            if ref.id in (only or ("episode_1", "episode_2")):
                found.append(Recording(converter.read(ref), shape, sim_views))
    converter = converter_class("rlbench")()
    for ref in converter.discover(str(data / "rlbench")):
        if only and ref.id not in only:
            continue
        episode = converter.read(ref)
        views = tuple(n for n in episode.views if (n == "wrist") == hand)
        found.append(Recording(episode, GripperShape.parametric(), views))
    return found


def unit(rng: np.random.Generator) -> np.ndarray:
    v = rng.normal(size=3)
    return v / np.linalg.norm(v)


def moved(camera: Camera, rng: np.random.Generator, metres: float, degrees: float) -> Camera:
    turn = Rotation.from_rotvec(np.radians(degrees) * unit(rng)).as_matrix()
    change = np.asarray(transforms.make_transform(turn, metres * unit(rng)))
    return Camera(camera.K, camera.world_from_camera @ change, camera.width, camera.height)


def stretch(
    recording: Recording, view: str, rng: np.random.Generator, whole: bool
) -> tuple[ArrayFrames, GripperTrajectory]:
    """All frames, or a part of at least 40: another episode of the same camera, as far as a check can tell."""
    n = len(recording.trajectory)
    if whole:
        return recording.frames[view], recording.trajectory
    length = int(rng.integers(40, n))
    start = int(rng.integers(0, n - length + 1))
    window = slice(start, start + length)
    return ArrayFrames(recording.frames[view].array[window]), recording.trajectory[window]


def detection(recordings: list[Recording], runs: int) -> Iterator[Case]:
    for recording in recordings:
        for view in recording.cameras:
            for level, (metres, degrees) in LEVELS.items():
                for run in range(runs):
                    name = f"detect|{recording.id}|{view}|{level}|{run}"

                    def case(
                        name: str = name,
                        r: Recording = recording,
                        v: str = view,
                        m: float = metres,
                        d: float = degrees,
                        k: int = run,
                    ) -> dict[str, Any]:
                        rng = np.random.default_rng(zlib.crc32(name.encode()))
                        frames, trajectory = stretch(r, v, rng, k == 0)
                        camera = moved(r.cameras[v], rng, m, d)
                        begin = time.process_time()
                        found = check_view(View(camera, frames), {"": trajectory}, r.shape, keep=True)
                        seconds = time.process_time() - begin
                        out = {"verdict": found.verdict, "reason": found.reason, "seconds": seconds}
                        if found.evidence is not None and found.shift_px is not None:
                            true = true_shift(found.evidence, camera, r.cameras[v])
                            out |= {
                                "true_px": float(np.linalg.norm(true)),
                                "error_px": float(np.linalg.norm(found.shift_px - true)),
                                "interval_px": found.interval_px,
                                "sigmas": found.sigmas,
                            }
                        return out

                    yield name, case


def true_shift(evidence: Any, camera: Camera, truth: Camera) -> np.ndarray:
    """Mean shift of the gripper's middle in the frames used, in pixels of the source."""
    points = np.stack([transforms.apply(s.world_from_gripper, evidence.hand.centre[None])[0] for s in evidence.sights])
    there, _ = truth.project(points)
    here, _ = camera.project(points)
    return np.asarray((there - here).mean(0))


def refine_case(
    name: str,
    parts: list[tuple[Recording, str]],
    shape: GripperShape,
    masks: str,
    metres: float = 0.03,
    degrees: float = 3.0,
) -> dict[str, Any]:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    truth = parts[0][0].cameras[parts[0][1]]
    camera = moved(truth, rng, metres, degrees)
    recorded, ids = [], ()
    for r, v in parts:
        mask = None
        if masks == "drawn":
            mask, ids = ArrayFrames(drawn_masks(r, v, shape.hand)), (1,)
        elif masks == "real":
            mask, ids = ArrayFrames(r.masks[v]), gripper_ids(r, v)
        recorded.append(Recorded(r.id, View(camera, r.frames[v], mask=mask), {"": r.trajectory}, ids))
    begin = time.process_time()
    fit = refine_camera(parts[0][1], recorded, shape, priors=Priors(), keep=True)
    out: dict[str, Any] = {"accepted": fit.accepted, "reason": fit.reason, "seconds": time.process_time() - begin}
    if fit.evidence:
        out["before_px"] = overlay_px(fit.evidence, camera.world_from_camera, truth.world_from_camera)
        out["after_px"] = overlay_px(fit.evidence, fit.refined, truth.world_from_camera)
    if fit.accepted:
        left = np.asarray(transforms.invert(truth.world_from_camera)) @ fit.refined
        out |= {
            "pose_mm": float(1e3 * np.linalg.norm(fit.refined[:3, 3] - truth.world_from_camera[:3, 3])),
            "pose_deg": float(np.degrees(np.linalg.norm(vector_of(left)[:3]))),
            "overlay_90": fit.overlay_px,
            "pose_mm_90": fit.position_mm,
            "pose_deg_90": fit.rotation_deg,
            "unseen": len(fit.unseen),
        }
    return out


_DRAWN: dict[tuple[str, str], np.ndarray] = {}


def drawn_masks(recording: Recording, view: str, hand: Hand) -> np.ndarray:
    """Masks (T, H, W) of the model itself through the true camera: what a mask with the true mesh would be."""
    key = (recording.id, view)
    if key not in _DRAWN:
        camera, t = recording.cameras[view], recording.trajectory
        inverse = np.asarray(transforms.invert(camera.world_from_camera))
        _DRAWN[key] = np.stack(
            [
                hand.mask(
                    inverse @ t.world_from_gripper[i], camera.K, float(t.openness[i]), camera.height, camera.width
                )
                for i in range(len(t))
            ]
        ).astype(np.uint32)
    return _DRAWN[key]


def gripper_ids(recording: Recording, view: str) -> tuple[int, ...]:
    """Ids of RLBench's masks that belong to the hand: those that lie mostly under the model through the true camera."""
    drawn = drawn_masks(recording, view, recording.shape.hand) > 0
    masks = recording.masks[view]
    ids = []
    for value in np.unique(masks):
        where = masks == value
        if value and where.sum() > 100 and drawn[where].mean() > 0.5:
            ids.append(int(value))
    return tuple(ids)


def refinement(recordings: list[Recording], runs: int) -> Iterator[Case]:
    for recording in recordings:
        for view in recording.cameras:
            for run in range(runs):
                name = f"refine|{recording.id}|{view}|edges|{run}"
                yield name, lambda n=name, r=recording, v=view: refine_case(n, [(r, v)], r.shape, "")  # type: ignore[misc]
            for run in range(max(1, runs // 4)):
                for kind, metres, degrees in (("small", 0.01, 0.5), ("true", 0.0, 0.0)):
                    name = f"refine|{recording.id}|{view}|{kind}|{run}"
                    yield (
                        name,
                        lambda n=name, r=recording, v=view, m=metres, d=degrees: refine_case(
                            n, [(r, v)], r.shape, "", m, d
                        ),
                    )  # type: ignore[misc]
                exact = replace(recording.shape, error_m=1e-4)
                name = f"refine|{recording.id}|{view}|drawn masks|{run}"
                yield name, lambda n=name, r=recording, v=view, s=exact: refine_case(n, [(r, v)], s, "drawn")  # type: ignore[misc]
                if view in recording.masks:
                    name = f"refine|{recording.id}|{view}|real masks|{run}"
                    yield name, lambda n=name, r=recording, v=view: refine_case(n, [(r, v)], r.shape, "real")  # type: ignore[misc]
    pairs = [(a, b) for a in recordings for b in recordings if a.id < b.id]
    for a, b in pairs:
        for view in a.cameras:
            if view not in b.cameras or not np.allclose(
                a.cameras[view].world_from_camera, b.cameras[view].world_from_camera
            ):
                continue
            for run in range(max(1, runs // 4)):
                exact = replace(a.shape, error_m=1e-4)
                name = f"refine|{b.id}|{view}|pooled masks|{run}"
                yield name, lambda n=name, p=[(a, view), (b, view)], s=exact: refine_case(n, p, s, "drawn")  # type: ignore[misc]
                name = f"refine|{b.id}|{view}|pooled|{run}"
                yield name, lambda n=name, p=[(a, view), (b, view)], s=a.shape: refine_case(n, p, s, "")  # type: ignore[misc]


def timing(recordings: list[Recording], runs: int) -> Iterator[Case]:
    for recording in recordings:
        for wrong in (False, True):
            for run in range(runs):
                name = f"time|{recording.id}|all|{'wrong' if wrong else 'true'} cameras|{run}"

                def case(name: str = name, r: Recording = recording, wrong: bool = wrong) -> dict[str, Any]:
                    rng = np.random.default_rng(zlib.crc32(name.encode()))
                    injected = float(rng.uniform(-0.2, 0.2))
                    begin = time.process_time()
                    found = time_offset([late(r, injected, rng, wrong)], r.shape)
                    out: dict[str, Any] = {"reason": found.reason, "seconds": time.process_time() - begin}
                    if found.offset_s is not None and found.interval_s is not None:
                        out |= {"error_ms": 1e3 * abs(found.offset_s - injected), "interval_ms": 1e3 * found.interval_s}
                    return out

                yield name, case


def late(recording: Recording, offset: float, rng: np.random.Generator, wrong: bool) -> Episode:
    """The recording with poses whose stamps are ``offset`` too early."""
    t = recording.trajectory
    stamps = t.times - offset
    inside = (t.times >= stamps[0]) & (t.times <= stamps[-1])
    at = t.times[inside]
    q = Slerp(stamps, Rotation.from_quat(t.quaternion_xyzw))(at).as_quat()
    moved_poses = GripperTrajectory(CubicSpline(stamps, t.position)(at), q, t.openness[inside], at)
    first, last = np.flatnonzero(inside)[[0, -1]]
    views = {
        name: View(
            moved(camera, rng, 0.03, 3.0) if wrong else camera,
            ArrayFrames(recording.frames[name].array[first : last + 1]),
        )
        for name, camera in recording.cameras.items()
    }
    return Episode(recording.id, views, moved_poses, fps=recording.fps, instructions=("move",))


def blaming(recordings: list[Recording], runs: int) -> Iterator[Case]:
    for recording in recordings:
        names = tuple(recording.cameras)
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        for pair in pairs:
            for kind in ("tool", "camera"):
                for run in range(runs):
                    name = f"blame|{recording.id}|{'+'.join(pair)}|{kind}|{run}"

                    def case(
                        name: str = name, r: Recording = recording, pair: tuple[str, str] = pair, kind: str = kind
                    ) -> dict[str, Any]:
                        rng = np.random.default_rng(zlib.crc32(name.encode()))
                        t, cameras = r.trajectory, {v: r.cameras[v] for v in pair}
                        change = np.eye(4)
                        if kind == "tool":
                            change[:3, 3] = 0.01 * unit(rng)
                            t = GripperTrajectory.from_transforms(t.world_from_gripper @ change, t.openness, t.times)
                        else:
                            wrong = pair[int(rng.integers(2))]
                            size = (0.03, 0.0) if rng.random() < 0.5 else (0.0, 2.0)
                            cameras[wrong] = moved(cameras[wrong], rng, *size)
                        views = {v: View(c, r.frames[v]) for v, c in cameras.items()}
                        episode = Episode(r.id, views, t, fps=r.fps, instructions=("move",))
                        begin = time.process_time()
                        found = tool_or_camera(episode, r.shape)
                        out: dict[str, Any] = {"blame": found.blame, "reason": found.reason}
                        out["seconds"] = time.process_time() - begin
                        out["judgeable"] = sum(c.verdict != "cannot tell" for c in found.checks.values())
                        if found.gripper_from_true is not None and found.interval_mm is not None:
                            error = 1e3 * np.abs(found.gripper_from_true[:3, 3] + change[:3, 3])
                            out |= {"error_mm": error.tolist(), "interval_mm": found.interval_mm.tolist()}
                        return out

                    yield name, case


def summary(rows: dict[str, dict[str, Any]]) -> list[str]:
    """The table of docs/calibration.md."""
    lines = []

    def pick(part: str, *more: str, judged: bool | None = True) -> list[dict[str, Any]]:
        found = []
        for name, row in rows.items():
            fields = name.split("|")
            half = judged is None or (fields[1] in JUDGED) == judged
            if half and fields[0] == part and list(more) == fields[3 : 3 + len(more)]:
                found.append(row)
        return found

    def share(values: list[bool]) -> str:
        return f"{100 * np.mean(values):.1f} %" if values else "-"

    for judged in (True, False):
        lines.append(f"== {'judged: episode_2, episode5' if judged else 'set on: episode_1, episode0'}")
        for level in LEVELS:
            found = pick("detect", level, judged=judged)
            told = [r for r in found if r["verdict"] != "cannot tell"]
            close = [r for r in told if "error_px" in r]
            if found:
                lines.append(
                    f"detect {level}: off {share([r['verdict'] == 'off' for r in told])} of {len(told)} told, "
                    f"{share([r['verdict'] == 'off' for r in found])} of all {len(found)}; "
                    f"shift error {np.median([r['error_px'] for r in close]):.2f} px median, 90 % interval holds "
                    f"{share([r['error_px'] <= r['interval_px'] for r in close])}; "
                    f"{np.median([r['seconds'] for r in found]):.2f} s, at most {max(r['seconds'] for r in found):.2f}"
                )
        for kind in ("edges", "small", "true", "drawn masks", "real masks", "pooled masks", "pooled"):
            found = pick("refine", kind, judged=judged)
            good = [r for r in found if r["accepted"]]
            if not found:
                continue
            line = f"refine {kind}: {len(good)} of {len(found)} refined"
            if good:
                after = np.array([r["after_px"] for r in good])
                line += (
                    f"; overlay {np.median([r['before_px'] for r in good]):.1f} -> {np.median(after):.2f} px median, "
                    f"{np.quantile(after, 0.9):.2f} p90, {after.max():.2f} max; worse than before "
                    f"{sum(r['after_px'] > r['before_px'] for r in good)}; pose "
                    f"{np.median([r['pose_mm'] for r in good]):.1f} mm "
                    f"{np.median([r['pose_deg'] for r in good]):.2f} deg median; 90 % intervals hold "
                    f"overlay {share([r['after_px'] <= r['overlay_90'] for r in good])} "
                    f"mm {share([r['pose_mm'] <= r['pose_mm_90'] for r in good])} "
                    f"deg {share([r['pose_deg'] <= r['pose_deg_90'] for r in good])}; "
                    f"{np.median([r['seconds'] for r in good]):.1f} s, at most {max(r['seconds'] for r in good):.1f}"
                )
            lines.append(line)
        for kind in ("true cameras", "wrong cameras"):
            found = pick("time", kind, judged=judged)
            told = [r for r in found if "error_ms" in r]
            if found:
                lines.append(
                    f"time {kind}: {len(told)} of {len(found)} told"
                    + (
                        f"; {np.median([r['error_ms'] for r in told]):.1f} ms median, "
                        f"{np.quantile([r['error_ms'] for r in told], 0.9):.1f} p90; interval holds "
                        f"{share([r['error_ms'] <= r['interval_ms'] for r in told])}"
                        if told
                        else ""
                    )
                )
        for kind in ("tool", "camera"):
            found = [r for r in pick("blame", kind, judged=judged) if r["judgeable"] >= 1]
            if found:
                counts = {b: sum(r["blame"] == b for r in found) for b in ("tool", "camera", "cannot tell", "none")}
                errors = np.array([r["error_mm"] for r in found if "error_mm" in r]).ravel()
                widths = np.array([r["interval_mm"] for r in found if "interval_mm" in r]).ravel()
                held = f"; intervals hold {share(list(errors <= widths))}" if kind == "tool" and len(errors) else ""
                lines.append(f"blame {kind}: {counts} of {len(found)}{held}")
    return lines


def _turn(name: str) -> int:
    part, episode, *kinds, run = name.split("|")
    every = {"detect": 1, "refine": 1 if "edges" in kinds else 3, "time": 4, "blame": 5}[part]
    return every * int(run) + (0 if episode in JUDGED else 6)


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Results by name that an earlier run has written, a line each; none where there is no such file."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {row.pop("name"): row for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ACTIONIMG_TEST_DATA", here)))
    parser.add_argument(
        "--out", type=Path, default=Path("calibration.jsonl"), help="results; a run goes on where it was"
    )
    parser.add_argument("--runs", type=int, default=16, help="perturbations for each camera, episode and kind")
    parser.add_argument("--parts", default="detect,refine,time,blame")
    parser.add_argument("--summary", action="store_true", help="only print the table")
    options = parser.parse_args()
    rows = read_rows(options.out)
    if not options.summary:
        recordings = load(options.data)
        cases: dict[str, Callable[[list[Recording], int], Iterator[Case]]] = {
            "detect": detection,
            "refine": refinement,
            "time": timing,
            "blame": blaming,
        }
        work = [c for part in options.parts.split(",") for c in cases[part](recordings, options.runs)]
        # In an order that makes an early stop a fair sample: the cheap and the judged ones first.
        work.sort(key=lambda c: (_turn(c[0]), zlib.crc32(c[0].encode())))
        with options.out.open("a") as file:
            for name, case in work:
                if name not in rows:
                    rows[name] = case()
                    file.write(json.dumps({"name": name, **rows[name]}) + "\n")
                    file.flush()
    for line in summary(rows):
        print(line)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB (the recordings included)")


if __name__ == "__main__":
    main()

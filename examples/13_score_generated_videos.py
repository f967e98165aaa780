"""Score generated videos: a data set, two runs of a stand-in for a model, and what `actionimg evaluate` says.

    python examples/13_score_generated_videos.py --out DIR
    actionimg evaluate DIR/epoch_10 DIR/epoch_20 --against DIR/shards

Three demonstrations are made and converted. Then the stand-in "generates" the action videos of a window of each, with
errors that models make: it drifts away from the truth, opens and closes the gripper late, and its pictures are blurred,
noisy and compressed; in one of them a view gets stuck. Twenty epochs do better than ten. ``DIR`` then holds ``shards``
and both runs with their ``predictions.jsonl``, for the commands of docs/evaluation.md.
``DIR/13_score_generated_videos.png`` shows error and trust of every frame.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import actionimg_data as aid
from actionimg_data import engine
from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.evaluate import evaluate_run
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import Window
from actionimg_data.testing import write_rlbench_dataset
from actionimg_data.video import encode_bytes, rgb_encoding

VIEWS = ("front", "left_shoulder")
RUNS = {"epoch_10": 2.0, "epoch_20": 1.0}
"""Name of a run, and how far it is off."""


def wrong(truth: aid.GripperTrajectory, strength: float, rng: np.random.Generator) -> aid.GripperTrajectory:
    """A trajectory that drifts from the truth, by up to 8 mm times ``strength``, and whose gripper is late."""
    away = rng.standard_normal(3)
    away *= 0.008 * strength / np.linalg.norm(away)
    late = np.maximum(np.arange(len(truth)) - round(2 * strength), 0)
    drift = np.linspace(0, 1, len(truth))[:, None] * away
    return aid.GripperTrajectory(truth.position + drift, truth.quaternion_xyzw, truth.openness[late], truth.times)


def spoiled(video: np.ndarray, stuck: bool, rng: np.random.Generator) -> np.ndarray:
    """A view's action video (T, H, W, 3) as a generator might leave it."""
    out = video.astype(np.float32)
    if stuck:
        last = max(1, 6 * len(out) // 41)
        out[-last:] = out[-last]
    for t, frame in enumerate(out):
        out[t] = cv2.GaussianBlur(frame, (0, 0), 0.008 * frame.shape[0]) + rng.normal(0, 4, frame.shape)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def generate(dataset: Any, folder: Path, strength: float, frames: int, size: tuple[int, int]) -> None:
    """Write action videos of a window of each sample, and the predictions.jsonl that says what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, sample in enumerate(dataset):
        rng = np.random.default_rng([number, round(10 * strength)])
        window = Window.cut(sample, start=2, num_frames=frames, size=size, views=VIEWS)
        shown = wrong(window.trajectory, strength, rng)
        files = {}
        for view, camera in window.cameras.items():
            video = spoiled(aid.render(shown, [camera], window.spec)[0], number == 1 and view == VIEWS[0], rng)
            files[view] = f"{sample.key}.{view}.mp4"
            (folder / files[view]).write_bytes(encode_bytes(iter(video), rgb_encoding(24), window.fps, *size))
        lines.append({"key": sample.key, "start": 2, "stride": 1, "frames": frames, "views": files})
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="example_13", type=Path, help="folder for the data set and the runs")
    parser.add_argument("--size", default=256, type=int, help="width and height of the data set's pictures")
    parser.add_argument("--frames", default=48, type=int, help="frames of a demonstration")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    shards = options.out / "shards"
    if not (shards / "dataset.json").is_file():
        write_rlbench_dataset(options.out / "demos", 3, options.frames, options.size, VIEWS)
        settings = ConvertOptions.parse(height=options.size, width=options.size)
        engine.convert(RLBenchConverter(), str(options.out / "demos"), shards, settings)
    dataset = aid.open_dataset(shards)
    # A model's pictures have another shape than the data set's: cameras follow.
    size = (round(0.9375 * options.size / 2) * 2, round(1.625 * options.size / 2) * 2)
    found = {}
    for name, strength in RUNS.items():
        generate(dataset, options.out / name, strength, min(41, options.frames - 4), size)
        found[name] = evaluate_run(str(options.out / name), str(shards))
        figures = found[name].evaluation
        print(
            f"{name}: {figures.position_error_mm.median:.2f} mm, {figures.rotation_error_deg.median:.2f}°, gripper "
            f"right in {figures.gripper.accuracy:.0%}, {figures.success['10mm_5deg']:.0%} of frames within 10 mm and 5°"
        )
    picture = options.out / "13_score_generated_videos.png"
    draw({name: run.scored for name, run in found.items()}, picture)
    print(f"look at {picture}, then: actionimg evaluate {options.out / 'epoch_10'} --against {shards}")
    return {name: run.evaluation for name, run in found.items()}


def draw(runs: dict[str, Any], path: Path) -> None:
    """Position error and trust over time: a row a run, a column a prediction."""
    figure = Figure(figsize=(10, 2.1 * len(runs)), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(runs), max(len(run) for run in runs.values()), sharex=True, sharey=True, squeeze=False)
    for row, (name, scored) in zip(grid, runs.items(), strict=True):
        row[0].set_ylabel(f"{name}\nposition error, mm", fontsize=8)
        for axes, one in zip(row, scored, strict=True):
            times, trust = one.frames["time_s"], one.frames["trust"]
            axes.fill_between(times, 0, 20 * trust, color="#dfe7fb", step="mid", linewidth=0)
            axes.plot(times, one.frames["held_position_mm"], color="#b9bec8", linewidth=1)
            axes.plot(times, one.frames["position_mm"], "o-", color="#2b5fd6", markersize=2.5, linewidth=1)
            axes.axhline(10, color="#cf3434", linewidth=0.8, linestyle=":")
            axes.set_title(one.about["key"], fontsize=7)
            axes.tick_params(labelsize=7)
            axes.set_ylim(0, 21)
    figure.supxlabel("seconds; shaded: trust, from 0 to 1", fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    main()

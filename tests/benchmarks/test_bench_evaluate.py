"""What evaluation costs beside decoding, and what it takes to act on a chunk; figures are printed.

pytest tests/benchmarks/test_bench_evaluate.py -n 0 -o addopts= -s --timeout 0 --import-mode=importlib
"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from evaluation_data import action_videos, disturbed, write_predictions
from training_data import make_camera, make_dataset, make_trajectory

import actionimg_data as aid
from actionimg_data.evaluate import evaluate_run
from actionimg_data.policy import ActionChunk, Follower
from actionimg_data.raster import render_view
from actionimg_data.schemas import ActionImageSpec
from actionimg_data.shards import Window, open_dataset
from actionimg_data.video import read_frames

COUNT, FRAMES, VIEWS = 200, 41, ("front", "side")


def cpu(function: Any, repeat: int = 1) -> float:
    """Least seconds of CPU of this process."""
    times = []
    for _ in range(repeat):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    cv2.setNumThreads(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set, and 200 lines of 40 predictions of 41 x 2 x 256² in H.264."""
    folder = tmp_path_factory.mktemp("bench")
    out, _ = make_dataset(folder, [60] * 10, size=256)
    dataset = open_dataset(out)
    cut = [
        {"key": key, "start": start, "num_frames": FRAMES, "views": VIEWS}
        for key in dataset.table["key"].to_pylist()
        for start in (0, 5, 10, 15)
    ]
    run = write_predictions(folder / "run", dataset, cut, disturbed, "h264")
    lines = (run / "predictions.jsonl").read_text()
    (run / "predictions.jsonl").write_text(lines * (COUNT // len(cut)))
    return out, run


def test_evaluate_against_a_plain_loop_of_decode(made: tuple[Path, Path]) -> None:
    out, run = made
    dataset = open_dataset(out)

    def plain() -> None:
        for line in (run / "predictions.jsonl").read_text().splitlines():
            row = json.loads(line)
            sample = dataset[row["key"]]
            videos = {view: read_frames(run / name) for view, name in row["views"].items()}
            at = row["start"] + np.arange(FRAMES)
            aid.decode(videos, {view: sample.cameras[view][at] for view in videos}, dataset.spec)

    loop = cpu(plain)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scored = cpu(lambda: evaluate_run(str(run), str(out)))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"\n{COUNT} predictions: plain loop {loop:.1f} s of CPU, evaluate {scored:.1f} s: {scored / loop:.2f} times; "
        f"peak memory grew by {grown / 1024:.0f} MiB"
    )


def test_a_prediction_in_memory_beyond_decoding(made: tuple[Path, Path]) -> None:
    sample = open_dataset(made[0])[0]
    window = Window.cut(sample, 0, FRAMES, size=(512, 512), views=VIEWS)
    videos = action_videos(window)
    decode = cpu(lambda: aid.decode(videos, window.cameras, window.spec), 7)
    whole = cpu(lambda: aid.evaluate(videos, sample), 7)
    print(f"\n41 x 2 x 512²: decode {1e3 * decode:.1f} ms, evaluate {1e3 * whole:.1f} ms")


def test_a_chunk_to_poses_and_commands() -> None:
    cameras = {view: make_camera(view, FRAMES, 256) for view in VIEWS}
    truth, spec = make_trajectory(0, FRAMES, 10.0), ActionImageSpec(height=256, width=256)
    actions = {view: render_view(truth, camera, spec) for view, camera in cameras.items()}
    canvas = np.concatenate([part for action in actions.values() for part in (0 * action, action)])
    noise = np.random.default_rng(0).normal(0, 4, canvas.shape)
    noisy = np.clip(np.rint(canvas + noise), 0, 255).astype(np.uint8)
    for name, video in (("clean", canvas), ("noise of 4 levels", noisy)):
        took = cpu(lambda video=video: ActionChunk.from_canvas(video, cameras, fps=10), 9)
        print(f"\n41 x 2 x 256², {name}: from_canvas {1e3 * took:.1f} ms")
    chunk = ActionChunk.from_canvas(canvas, cameras, fps=10)
    follower = Follower(chunk.poses[0], 0.0)
    follower.accept(chunk, 0.0)
    took = cpu(lambda: [follower.command(follower._time + 0.02) for _ in range(200)])
    print(f"a command {1e3 * took / 200:.2f} ms")

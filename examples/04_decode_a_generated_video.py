"""Decode videos as a model generates them: noisy, compressed, and wrong in places. Which frames can be trusted?

    python examples/04_decode_a_generated_video.py --out DIR

A video model's output is imitated: true action videos of two views get blur, noise and H.264, and then some frames go
wrong in ways that models do: a blob is missing, one view stands still for a while, one blob jumps to another place, a
frame is a wash of colour. The decoder gives a pose for every frame that it can vouch for, and none for the others.
``DIR/04_decode_a_generated_video.png`` shows both videos, the validity mask, and the error beside the uncertainty that
the decoder states itself. On the command line:

    actionimg decode front.mp4 left_shoulder.mp4 --cameras cameras.json --out trajectory.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import actionimg_data as aid
from actionimg_data.demo import scene
from actionimg_data.video import encode_bytes, read_frames, rgb_encoding

VIEWS = ("front", "left_shoulder")
FPS = 20.0
MISSING, FROZEN, JUMPED, WASHED = range(10, 14), range(22, 28), range(36, 39), range(46, 49)


def damaged(videos: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Videos (V, T, H, W, 3) as a model might give them, and which frames (T,) were made wrong."""
    out = videos.astype(np.float32)
    size = videos.shape[2]
    for t in MISSING:
        out[:, t, ..., 0] = 0
    for t in FROZEN:
        out[1, t] = out[1, FROZEN[0] - 1]
    for t in JUMPED:
        out[0, t, ..., 1] = np.roll(out[0, t, ..., 1], size // 3, axis=1)
    for t in WASHED:
        out[:, t] = cv2.resize(rng.uniform(0, 255, (4, 4, 3)).astype(np.float32), (size, size))
    for view in out:
        for t, frame in enumerate(view):
            view[t] = cv2.GaussianBlur(frame, (0, 0), 0.006 * size) + rng.normal(0, 4, frame.shape)
    wrong = np.zeros(videos.shape[1], bool)
    for frames in (MISSING, FROZEN, JUMPED, WASHED):
        wrong[list(frames)] = True
    return np.clip(np.rint(out), 0, 255).astype(np.uint8), wrong


def through_h264(video: np.ndarray) -> np.ndarray:
    """A video (T, H, W, 3) after encoding at crf 28 and decoding."""
    data = encode_bytes(iter(video), rgb_encoding(28), FPS, *video.shape[1:3])
    return read_frames(data)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="example_04", type=Path, help="folder for the picture and the videos")
    parser.add_argument("--size", default=256, type=int, help="width and height of the videos")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)

    motion = scene.make_motion(60, seed=3)
    times = np.arange(len(motion)) / FPS
    truth = aid.GripperTrajectory.from_transforms(motion.world_from_gripper, motion.gripper_open, times)
    cameras = list(scene.make_cameras(motion, options.size, VIEWS).values())
    spec = aid.ActionImageSpec(height=options.size, width=options.size)
    clean = aid.render(truth, cameras, spec)
    made, wrong = damaged(clean, np.random.default_rng(0))
    videos = np.stack([through_h264(video) for video in made])

    decoded = aid.decode(videos, cameras, spec, fps=FPS)
    away = 1e3 * np.linalg.norm(decoded.trajectory.position - truth.position, axis=1)
    stated = 1e3 * np.sqrt(np.trace(decoded.covariance[:, :3, :3], axis1=1, axis2=2))
    good = decoded.valid
    print(f"{good.sum()} of {len(good)} frames have a pose, {(good & wrong).sum()} of them made wrong:")
    print("there one blob had jumped in one view, and the other five outvote it")
    print(f"position error: median {np.median(away[good]):.2f} mm, worst {away[good].max():.2f} mm")
    openness = (decoded.trajectory.openness[good] > 0.5) == (truth.openness[good] > 0.5)
    print(f"openness right in {openness.mean():.0%} of them")
    picture = options.out / "04_decode_a_generated_video.png"
    draw(videos, good, wrong, away, stated, picture)
    print(f"look at {picture}")
    return {
        "valid": good,
        "wrong": wrong,
        "position_mm": away,
        "stated_mm": stated,
        "openness": float(openness.mean()),
    }


def draw(
    videos: np.ndarray, good: np.ndarray, wrong: np.ndarray, away: np.ndarray, stated: np.ndarray, path: Path
) -> None:
    """Frames of both videos over time, the mask below them, and error and stated uncertainty below that."""
    shown = [2, 11, 17, 25, 32, 37, 42, 47, 55]
    figure = Figure(figsize=(10, 5.2), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    width = 0.93 / len(shown)
    for row, (video, name) in enumerate(zip(videos, VIEWS, strict=True)):
        for column, t in enumerate(shown):
            axes = figure.add_axes((0.06 + column * width, 0.775 - 0.19 * row, width * 0.96, 0.18))
            axes.imshow(video[t])
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set(color="#2b9a3e" if good[t] else "#e5342b", linewidth=2.5)
            if column == 0:
                axes.set_ylabel(name.replace("_", " "), fontsize=8)
            if row == 1:
                axes.set_xlabel(f"frame {t}", fontsize=8)
    axes = figure.add_axes((0.06, 0.42, 0.92, 0.045))
    axes.imshow(np.where(good, 1.0, 0.0)[None], aspect="auto", cmap="RdYlGn", vmin=-0.2, vmax=1.2)
    axes.set(xticks=[], yticks=[], ylabel="valid")
    axes.yaxis.label.set(rotation=0, ha="right", va="center", fontsize=8)
    axes = figure.add_axes((0.06, 0.1, 0.92, 0.29))
    frames = np.arange(len(good))
    band = axes.get_xaxis_transform()
    axes.fill_between(frames, 0, 1, where=wrong, transform=band, color="#f3dede", step="mid", label="made wrong")
    axes.plot(frames, np.where(good, away, np.nan), "o-", ms=3, lw=1, color="#1f2328", label="error")
    axes.plot(frames, np.where(good, stated, np.nan), lw=1.4, color="#3a5cf0", label="stated standard deviation")
    axes.set(xlim=(-0.5, len(good) - 0.5), ylim=(0, 1.4 * np.nanmax(np.where(good, away, np.nan))), xlabel="frame")
    axes.set_ylabel("position, mm", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, ncols=3, frameon=False, loc="upper left")
    figure.savefig(path)


if __name__ == "__main__":
    main()

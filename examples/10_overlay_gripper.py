"""Lay the gripper mesh, drawn by PyTorch3D, over the pictures of a demo: are its poses and cameras true?

Rows are views, columns frames; the mesh is tinted and outlined. Where the calibration is right it covers the gripper in
the picture, in every view and every frame. Needs torch and PyTorch3D; a CPU will do.

    python examples/10_overlay_gripper.py                   the demo's own data, written on the spot
    python examples/10_overlay_gripper.py ~/rlbench_demos    any source that a converter recognises
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np

import actionimg_data as aid
from actionimg_data.converters import base
from actionimg_data.testing import write_rlbench_dataset

TINT = np.array([255, 96, 0])


def first_episode(source: str, episode: int) -> aid.Episode:
    """An episode of any source, through the converter that recognises it."""
    names = list(base.detect(source))
    if not names:
        raise SystemExit(f"{source}: no converter recognises it")
    converter = base.converter_class(names[0])()
    return converter.read(list(converter.discover(source))[episode])


def tinted(picture: np.ndarray, overlay: aid.mesh.Overlay) -> np.ndarray:
    """The overlay at two thirds of its strength in the tint's colour, with its outline."""
    colour = (overlay.rgb.astype(float).mean(-1, keepdims=True) / 255) * TINT * 1.2
    shown = aid.mesh.blend_overlay(
        picture, overlay._replace(rgb=np.clip(colour, 0, 255).astype(np.uint8)), opacity=0.66
    )
    outlines, _ = cv2.findContours((overlay.alpha > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, outlines, -1, (255, 255, 0), 1, cv2.LINE_AA)
    return shown


def sheet(episode: aid.Episode, columns: int, size: int) -> np.ndarray:
    """The episode's calibrated views and evenly spread frames with the gripper over them, (H, W, 3) uint8."""
    frames = np.unique(np.linspace(0, len(episode) - 1, columns).astype(int))
    rows = []
    for view in episode.views.values():
        if view.camera is None:
            continue
        height = max(1, round(size * view.camera.height / view.camera.width))
        camera = view.camera.track(len(episode))[frames].resized(height, size)
        spec = aid.ActionImageSpec(height=height, width=size)
        overlays = aid.mesh.render_overlay_frames(episode.trajectory[frames], camera, spec)
        pictures = view.frames.frames(frames.tolist())
        row = [
            tinted(cv2.resize(picture, (size, height), interpolation=cv2.INTER_CUBIC), overlay)
            for picture, overlay in zip(pictures, overlays, strict=True)
        ]
        rows.append(np.concatenate(row, axis=1))
    if not rows:
        raise SystemExit(f"{episode.id}: no view has a camera")
    return np.concatenate(rows)


def main(argv: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", help="demonstrations; by default the demo's own data")
    parser.add_argument("--out", default="example_10", type=Path, help="folder for 10_overlay_gripper.png")
    parser.add_argument("--episode", default=0, type=int, help="its number in the order of discovery")
    parser.add_argument("--columns", default=5, type=int, help="frames shown of each view")
    parser.add_argument("--size", default=256, type=int, help="width of each picture in pixels")
    options = parser.parse_args(argv)

    if options.source is None:
        with tempfile.TemporaryDirectory() as folder:
            write_rlbench_dataset(folder, 1, 40, 128)
            picture = sheet(first_episode(folder, 0), options.columns, options.size)
    else:
        picture = sheet(first_episode(options.source, options.episode), options.columns, options.size)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "10_overlay_gripper.png"
    cv2.imwrite(str(path), picture[..., ::-1])
    print(f"{picture.shape[0] // options.size} views, picture in {path}")
    return path


if __name__ == "__main__":
    main()

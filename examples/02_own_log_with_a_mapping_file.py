"""A lab's own recordings through a mapping file, and how to see that the mapping is right.

    python examples/02_own_log_with_a_mapping_file.py --out DIR

A recording is a table of poses, two videos and a calibration, as many labs keep them. The mapping below says what the
numbers mean. Most mistakes in it convert without a word and teach a model something false. So look: the picture that
is left in ``DIR/02_own_log_with_a_mapping_file.png`` has the right mapping above three wrong ones. The red blob has
to sit between the fingertips in every view and every frame. The same on the command line, with your own data:

    actionimg inspect recordings --propose mapping.yaml
    actionimg render recordings --mapping mapping.yaml
    actionimg convert folder recordings shards --mapping mapping.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actionimg_data import ActionImageSpec, Episode, engine
from actionimg_data.converters.base import converter_class
from actionimg_data.report import pictures
from actionimg_data.schemas import ConvertOptions
from actionimg_data.testing import write_recordings

MAPPING = """\
version: 1
format: folder
instruction: {text: put the red cube on the green mat}
pose:
  file: poses.csv
  time: {column: time_s, unit: s}
  position: {columns: [x_m, y_m, z_m], unit: m}
  rotation: {columns: [qx, qy, qz, qw], form: quaternion, order: xyzw}
  # The log reports a flange; the fingertips are 10 cm in front of it, and the fingers open along its x.
  tool_from_gripper: {translation: [0, 0, 0.1], euler_xyz_deg: [0, 0, 90]}
gripper: {columns: [gripper_width_m], closed: 0.0, open: 0.08, kind: measured}
views:
  front:
    frames: front.mp4
    time: {file: frame_times.csv, column: time_s, unit: s}
    camera: {file: calibration.json}
  left_shoulder:
    frames: left_shoulder.mp4
    time: {file: frame_times.csv, column: time_s, unit: s}
    camera: {file: calibration.json}
"""

WRONG = {
    "right": ("", ""),
    "flange taken for the fingertips": ("translation: [0, 0, 0.1]", "translation: [0, 0, 0]"),
    "a quarter turn missing": ("euler_xyz_deg: [0, 0, 90]", "euler_xyz_deg: [0, 0, 0]"),
    "the other camera's calibration": (
        "unit: s}\n    camera: {file: calibration.json}\n  left_shoulder",
        "unit: s}\n    camera: {file: calibration.json, name: left_shoulder}\n  left_shoulder",
    ),
}


def converter_of(text: str, path: Path) -> Any:
    """The folder converter with a mapping of this text."""
    path.write_text(text)
    cls = converter_class("folder")
    return cls(cls.Options.parse({"mapping": str(path)}, "example"))


def row(episode: Episode, label: str, size: int) -> np.ndarray:
    """Two moments of both views with the action image over the picture, and what was done, (H, W, 3) uint8."""
    spec = ActionImageSpec(height=size, width=size)
    moments = [round(t * (len(episode) - 1)) for t in (0.2, 0.75)]
    tiles = [
        triptych.overlay
        for view in episode.views
        for triptych in pictures.triptychs(episode, view, spec, moments, text=False)
    ]
    shown = np.concatenate(tiles, axis=1)
    pictures.label(shown, label)
    return shown


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="example_02", type=Path, help="folder for everything")
    parser.add_argument("--size", default=224, type=int, help="width and height of the pictures")
    parser.add_argument("--frames", default=40, type=int, help="frames of a recording")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    source = str(write_recordings(options.out / "recordings", 2, options.frames, options.size))

    rows = []
    for label, (right, wrong) in WRONG.items():
        converter = converter_of(MAPPING.replace(right, wrong) if right else MAPPING, options.out / "tried.yaml")
        rows.append(row(converter.read(next(iter(converter.discover(source)))), label, options.size))
    picture = options.out / "02_own_log_with_a_mapping_file.png"
    cv2.imwrite(str(picture), np.concatenate(rows)[..., ::-1])

    converter = converter_of(MAPPING, options.out / "mapping.yaml")
    shards = options.out / "shards"
    engine.convert(converter, source, shards, ConvertOptions.parse(height=options.size, width=options.size))
    report = engine.verify(shards).summary()
    print(f"converted with the right mapping, verified: {report['ok']}, {report['samples']} samples in {shards}")
    print(f"look at {picture}: only the first row has the red blob between the fingertips")
    return report


if __name__ == "__main__":
    main()

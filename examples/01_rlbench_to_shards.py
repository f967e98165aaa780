"""RLBench demos to verified shards, and back to arrays: the whole way in Python.

    python examples/01_rlbench_to_shards.py [RLBENCH_FOLDER] --out DIR

The same on the command line: ``actionimg convert rlbench SRC shards``, ``actionimg verify shards``. Without a folder of
your own the demos are written on the spot. It leaves the data set in ``DIR/shards``, and in
``DIR/01_rlbench_to_shards.png`` the pictures, the stored action images, and both blended, of a sample read back.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import actionimg_data as aid
from actionimg_data import engine
from actionimg_data.converters.base import converter_class
from actionimg_data.geometry import rotations
from actionimg_data.report import pictures
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import Sample
from actionimg_data.testing import write_rlbench_dataset


def sheet(sample: Sample, spec: aid.ActionImageSpec, columns: int = 6) -> np.ndarray:
    """A row of pictures, of stored action images and of both blended for each of two views, (H, W, 3) uint8."""
    frames = pictures.evenly(len(sample), columns)
    rows = []
    for view in sample.views[:2]:
        rgb, action = sample.rgb(view, frames), sample.action(view, frames)
        both = [pictures.blend(a, b, spec) for a, b in zip(rgb, action, strict=True)]
        rows += [np.concatenate(list(row), axis=1) for row in (rgb, action, both)]
    return np.concatenate(rows)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", help="RLBench demos; by default made-up ones")
    parser.add_argument("--out", default="example_01", type=Path, help="folder for everything")
    parser.add_argument("--size", default=192, type=int, help="width and height of the pictures")
    parser.add_argument("--frames", default=40, type=int, help="frames of a made-up demo")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    source = options.source or str(
        write_rlbench_dataset(options.out / "demos", 2, options.frames, 128, ("front", "left_shoulder"))
    )

    # Every option of the command line is a field of ConvertOptions, or of the converter's own Options.
    shards = options.out / "shards"
    converted = engine.convert(
        converter_class("rlbench")(), source, shards, ConvertOptions.parse(height=options.size, width=options.size)
    )
    print(f"{converted.frames} frames in {converted.shards} shards, {len(converted.quarantined)} episodes quarantined")

    # Checksums, schemas, and the decoded action videos against the recorded poses.
    report = engine.verify(shards).summary()
    print(f"verified: {report['ok']}, position error {report['position_error_mm']['p95']:.3f} mm (95 % of frames)")

    # Reading back: nothing is unpickled, every member is held against its checksum.
    data = aid.open_dataset(shards)
    spec = data.spec
    assert spec is not None, "converted without action images"
    sample = data[0]
    print(f"{sample.key}: “{sample.instruction}”, {len(sample)} frames, views {', '.join(sample.views)}")

    # What a model that learnt these videos perfectly would give: its videos decoded with the sample's cameras.
    videos = np.stack([sample.action(view) for view in sample.views])  # (V, T, H, W, 3) uint8
    decoded = aid.decode(videos, [sample.cameras[view] for view in sample.views], spec, fps=sample.fps)
    truth, found = sample.trajectory, decoded.trajectory
    away = 1e3 * np.linalg.norm(found.position - truth.position, axis=1)[decoded.valid]
    turned = np.degrees(np.asarray(rotations.angle_between(found.rotation, truth.rotation)))[decoded.valid]
    print(f"decoded {decoded.valid.mean():.0%} of the frames: {np.median(away):.3f} mm, {np.median(turned):.3f}°")

    picture = options.out / "01_rlbench_to_shards.png"
    picture.write_bytes(pictures.png_bytes(sheet(sample, spec)))
    print(f"look at {picture}, and type next: actionimg report {shards}")
    return {"verify": report, "decoded": float(decoded.valid.mean()), "position_mm": float(np.median(away))}


if __name__ == "__main__":
    main()

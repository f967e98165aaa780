"""Two arms, separate and merged, through convert and verify at full size: ``python tests/prove_arms.py [SIZE]``.

The arms come to within 32 cm of each other, or pass through each other. What is merged is taken apart by what it
shows; the rest is counted. A few minutes at 512; the suite has it at 128.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path

from arms_data import make_dataset

from actionimg_data.engine.verification import verify

VIEWS = ["front", "side", "top"]


def main(size: int = 512) -> None:
    """Print one line a data set."""
    print("codec  pictures  closest  decoded  undecodable  overlapping  position mm    rotation °     openness")
    for codec, merged, closest in itertools.product(("ffv1", "h264"), (False, True), (0.16, 0.0)):
        with tempfile.TemporaryDirectory() as folder:
            out, _ = make_dataset(
                Path(folder),
                [41],
                {"closest": closest, "views": VIEWS},
                height=size,
                width=size,
                action_codec=codec,
                merge_arms=merged,
            )
            found = verify(out).summary()
        if not found["ok"]:
            sys.exit(f"{codec}, merged {merged}, closest {closest}: {found['failures']}")
        overlapping = sum(arm["overlapping_frames"] for arm in found["grippers"].values())
        errors = [found["position_error_mm"], found["rotation_error_deg"]]
        figures = "  ".join(f"{e['median']:.4f}/{e['p95']:.4f}" for e in errors)
        pictures = "merged  " if merged else "separate"
        print(
            f"{codec}   {pictures}  {closest:5.2f} m  {found['decoded_frames']:7d}  {found['undecodable_frames']:11d}"
            f"  {overlapping:11d}  {figures}  {found['openness_accuracy']:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Two arms, separate and merged, through convert and verify at full size: ``python tests/prove_arms.py [SIZE]``.

The arms come to within 32 cm of each other, or pass through each other. What is merged is taken apart by what it
shows; the rest is counted. A few minutes at 512; the suite has it at 128.

``python tests/prove_arms.py kinds [SIZE [SCENES]]`` degrades merged pictures as `decoder_degradations` has it, and
``python tests/prove_arms.py kinds SIZE SCENES NAME...`` only in the ways that are named.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path

import decoder_degradations as bench
import decoder_scenes as scenes
import numpy as np
from arms_data import make_dataset
from decoder_bench import Result

from actionimg_data.decode import decode
from actionimg_data.engine.verification import verify
from actionimg_data.schemas import ActionImageSpec

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


KINDS = {
    **{name: bench.TUNING[name] for name in ("clean", "noise 5", "noise 20")},
    "H.264 23": bench.Kind(bench.SHOWN, (bench.h264(23),)),
    **{
        name: bench.TUNING[name] for name in ("blur 8 px", "width 1.3", "width .6", "bleed .05", "peak .5", "ground .1")
    },
    "bleed .05, width 1.3": bench.Kind(bench.SHOWN, (bench.bleed(0.05),), (bench.shape(1.3),)),
}
"""What is done to merged pictures; pixels are those of a picture of 512."""


def merged_scene(seed: int, size: int, frames: int = 41, views: int = 2) -> dict[str, bench.Scene]:
    """Two arms with middles 30 cm apart that move and turn at random, and often pass each other in a view."""
    rng = np.random.default_rng(seed)
    cameras = scenes.ring_cameras(rng, size=size, views=views)
    spec = ActionImageSpec(height=size, width=size)
    found = {}
    for name, side in (("left", 0.15), ("right", -0.15)):
        truth = scenes.random_trajectory(rng, frames, cube=0.35, center=np.array([0.4, side, 0.3]))
        uv, _ = scenes.project_all(truth, cameras, spec)
        openness = np.repeat(truth.openness[None], views, 0)
        found[name] = bench.Scene(cameras, truth, spec, rng, uv, openness, np.ones((views, frames, 3)))
    return found


def merged_video(arms: dict[str, bench.Scene], kind: bench.Kind) -> np.ndarray:
    """``(V, T, H, W, 3)`` uint8: both drawn as the kind has it, summed, clipped and degraded."""
    for change, scene in itertools.product(kind.blobs, arms.values()):
        change(scene)
    video = np.clip(sum(scene.draw() for scene in arms.values()), 0, 1)
    for change in kind.picture:
        video = change(video, next(iter(arms.values())))
    return bench.to_uint8(video)


def kinds(size: int = 512, number: int = 3, *names: str) -> None:
    """Print one line a kind: of both arms, over scenes of 41 frames and two views."""
    print("| kind | decoded | position mm | rotation ° | wrong | holds | openness |\n|---|---|---|---|---|---|---|")
    for name, kind in KINDS.items():
        if names and name not in names:
            continue
        result = Result(kind.group)
        for seed in range(number):
            arms = merged_scene(500 + seed, size)
            video = merged_video(arms, kind)
            starts = {arm: scene.truth.position[0] for arm, scene in arms.items()}
            first = next(iter(arms.values()))
            found = decode(video, first.cameras, first.spec, arms=starts, fps=20)
            for arm, decoded in found.items():
                result.add(decoded, arms[arm].truth)
        mm, deg = ([np.percentile(e, q) if e else np.nan for q in (50, 95)] for e in (result.mm, result.deg))
        print(
            f"| {name} | {result.valid:.0%} | {mm[0]:.2g} / {mm[1]:.2g} | {deg[0]:.2g} / {deg[1]:.2g} | "
            f"{result.wrong:.1%} | {result.coverage:.0%} | {np.mean(result.open_right):.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["kinds"]:
        kinds(*map(int, sys.argv[2:4]), *sys.argv[4:])
    else:
        main(*map(int, sys.argv[1:]))

"""How the decoder fares under the degradations of `decoder_degradations`, beside a yardstick of twenty lines.

`python tests/decoder_bench.py [--set tuning|held_out] [--size 512] [--scenes 3] [KIND...]` prints the tables of
docs/decoding.md; `--pictures FILE` draws its pictures instead.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from decoder_degradations import BETWEEN, HELD_OUT, HIDDEN, NOTHING, SEEDS, SETS, SHOWN, TUNING, make_scene

from actionimg_data.decode import decode
from actionimg_data.geometry import rotations

WRONG_MM, WRONG_DEG = 10.0, 5.0


def baseline(video, cameras, axis_length=0.1):
    """The yardstick: threshold at 60 % of the peak, centroid, DLT, Kabsch: R ``(T, 3, 3)`` and p ``(T, 3)``."""
    views, frames, height, width = video.shape[:4]
    flat = video.reshape(views * frames, height * width, 3)
    peaks = flat.max(axis=1).reshape(views, frames, 3).astype(np.float64)
    y, x = np.arange(height), np.arange(width)
    uv = np.zeros((views, frames, 3, 2))
    for v, t, c in np.ndindex(views, frames, 3):
        over = video[v, t, ..., c] >= 0.6 * max(peaks[v, t, c], 1)
        total = max(over.sum(), 1)
        uv[v, t, c] = over.sum(axis=0) @ x / total, over.sum(axis=1) @ y / total
    projections = [c.K @ np.linalg.inv(c.world_from_camera)[:3] for c in cameras]
    rows = np.stack([uv[v, ..., i, None] * P[2] - P[i] for v, P in enumerate(projections) for i in (0, 1)], axis=-2)
    homogeneous = np.linalg.svd(rows)[2][..., -1, :]
    points = homogeneous[..., :3] / homogeneous[..., 3:]
    body = np.array([[0, 0, 0], [1, 0, 0], [0, 0, -1.0]]) * axis_length
    middle, mean = body.mean(axis=0), points.mean(axis=1)
    u, _, vt = np.linalg.svd(np.einsum("tki,kj->tij", points - mean[:, None], body - middle))
    sign = np.stack([np.ones(frames), np.ones(frames), np.linalg.det(u @ vt)], axis=-1)
    R = u * sign[:, None] @ vt
    return R, mean - R @ middle


def errors(R, p, truth):
    """Millimetres and degrees ``(T,)``."""
    return np.linalg.norm(p - truth.position, axis=-1) * 1e3, np.rad2deg(rotations.angle_between(R, truth.rotation))


@dataclass
class Result:
    """How one kind fared, over scenes."""

    group: str
    frames: int = 0
    mm: list = field(default_factory=list)
    deg: list = field(default_factory=list)
    inside: list = field(default_factory=list)
    trust: list = field(default_factory=list)
    right: list = field(default_factory=list)
    base_mm: list = field(default_factory=list)
    base_deg: list = field(default_factory=list)
    open_right: list = field(default_factory=list)
    open_known: list = field(default_factory=list)
    reasons: list = field(default_factory=list)
    findings: list = field(default_factory=list)

    def add(self, decoded, truth, yardstick=None):
        """One more clip: what was decoded of it, and the yardstick's errors."""
        ok = decoded.valid
        self.frames += len(decoded)
        R = np.where(ok[:, None, None], np.nan_to_num(decoded.trajectory.rotation), np.eye(3))
        mm, deg = (e[ok] for e in errors(R, np.nan_to_num(decoded.trajectory.position), truth))
        self.mm += mm.tolist()
        self.deg += deg.tolist()
        turn = rotations.rotation_vector_from_matrix(truth.rotation @ np.swapaxes(R, -1, -2))[ok]
        error = np.concatenate([truth.position[ok] - decoded.trajectory.position[ok], turn], axis=-1)
        if ok.any():
            squared = np.einsum("ti,ti->t", error, np.linalg.solve(decoded.covariance[ok], error[..., None])[..., 0])
            self.inside += (squared <= CHI_SQUARE_90).tolist()
        self.right += ((mm <= WRONG_MM) & (deg <= WRONG_DEG)).tolist()
        self.trust += decoded.trust[ok].tolist()
        self.findings += [str(f) for f in decoded.diagnosis.findings]
        known = np.isfinite(decoded.trajectory.openness)
        self.open_known.append(known.mean())
        self.open_right += (decoded.trajectory.openness[known] == truth.openness[known]).tolist()
        self.reasons += [str(r) for r in decoded.reason]
        if yardstick is not None:
            self.base_mm += yardstick[0].tolist()
            self.base_deg += yardstick[1].tolist()

    @property
    def valid(self):
        return len(self.mm) / self.frames

    @property
    def wrong(self):
        """Share of the valid frames that are off by more than 10 mm or 5 degrees."""
        return 1 - np.mean(self.right) if self.right else 0.0

    @property
    def coverage(self):
        """Share of valid frames whose 90 % ellipsoid holds the truth."""
        return np.mean(self.inside) if self.inside else np.nan


CHI_SQUARE_90 = 10.6446
"""90 % quantile of chi-square with six degrees of freedom."""


def judge(kind, seeds, size=512, frames=41, with_baseline=True, use=decode):
    """Run one kind over scenes."""
    result = Result(kind.group)
    for seed in seeds:
        scene = make_scene(seed, size, frames)
        video = kind.make(scene)
        decoded = use(video, scene.cameras, scene.spec, fps=20)
        yardstick = with_baseline and kind.group != NOTHING
        result.add(decoded, scene.truth, errors(*baseline(video, scene.cameras), scene.truth) if yardstick else None)
    return result


def row(name, r):
    def quantiles(values):
        return f"{np.median(values):7.3f} /{np.percentile(values, 95):8.2f}" if len(values) else "      - /       -"

    return (
        f"{name:26} {100 * r.valid:5.0f}% {quantiles(r.mm)} mm {quantiles(r.deg)} deg | base {quantiles(r.base_mm)} mm "
        f"{quantiles(r.base_deg)} deg | wrong {100 * r.wrong:5.1f}% cover {100 * r.coverage:4.0f}% "
        f"open {100 * np.mean(r.open_right) if r.open_right else np.nan:4.0f}%"
    )


def draw_kinds(path, tile=112, across=9):
    """One frame of the first view under every kind of both sets, with its name, into a picture file."""
    tiles = []
    for name, kind in {**TUNING, **HELD_OUT}.items():
        scene = make_scene(0, 192, 13)
        picture = cv2.resize(
            kind.make(scene)[-1 if "view" in name else 0, 9], (tile, tile), interpolation=cv2.INTER_AREA
        )
        label = np.full((16, tile, 3), 255, np.uint8)
        text = name.replace("°", " deg").replace("±", "+-")
        cv2.putText(label, text[:22], (1, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.29, (0, 0, 0), 1, cv2.LINE_AA)
        tiles.append(np.pad(np.concatenate([label, picture]), ((1, 2), (1, 1), (0, 0)), constant_values=255))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % across)
    rows = [np.concatenate(tiles[i : i + across], axis=1) for i in range(0, len(tiles), across)]
    cv2.imwrite(path, np.concatenate(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])


def main(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", dest="which", default="tuning", choices=list(SETS))
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=41)
    parser.add_argument("--scenes", type=int, default=3)
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--reasons", action="store_true")
    parser.add_argument("--pictures", metavar="FILE")
    parser.add_argument("kinds", nargs="*")
    options = parser.parse_args(arguments)
    if options.pictures:
        draw_kinds(options.pictures)
        return
    kinds = SETS[options.which]
    everything = []
    start = time.perf_counter()
    for name in options.kinds or kinds:
        found = judge(
            kinds[name], SEEDS[options.which][: options.scenes], options.size, options.frames, not options.no_baseline
        )
        everything.append(found)
        print(row(name, found), flush=True)
        if options.reasons:
            print("     ", dict(Counter(found.reasons)), *sorted(set(found.findings)), sep="\n      ")
    for group in (SHOWN, BETWEEN, HIDDEN, NOTHING):
        right = np.concatenate([r.right for r in everything if r.group == group] or [[]])
        print(f"{group}: {len(right)} valid, {100 * (1 - right.mean()) if len(right) else 0:.2f} % of them wrong")
    trust = np.concatenate([r.trust for r in everything if r.group in (SHOWN, BETWEEN)] or [[]])
    right = np.concatenate([r.right for r in everything if r.group in (SHOWN, BETWEEN)] or [[]])
    for low, high in ((0, 0.5), (0.5, 0.8), (0.8, 0.9), (0.9, 0.95), (0.95, 0.99), (0.99, 1.01)):
        inside = (trust >= low) & (trust < high)
        if inside.any():
            print(
                f"trust {low}-{high}: stated {trust[inside].mean():.3f}, right {right[inside].mean():.3f} of "
                f"{inside.sum()}"
            )
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main(sys.argv[1:])

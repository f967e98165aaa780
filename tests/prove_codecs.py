"""How depth, segmentation and normals as RGB survive H.264 (x264, crf 18), on data that nothing was chosen on.

``python tests/prove_codecs.py [--data ../shared/data]``: the demo's scene at 512x512 (another motion than in the choice
of the codecs' constants), and, where sample data are, RLBench's depth and masks and ManiSkill's depth at 128x128.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import h5py
import numpy as np

from actionimg_data.codecs import (
    DepthCodec,
    decode_labels,
    decode_normals,
    encode_labels,
    encode_normals,
    largest_labels,
    normals_from_depth,
)
from actionimg_data.demo import scene
from actionimg_data.video import encode, open_video, rgb_encoding

FRAMES = 6


def through_h264(pictures: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    encode(iter(pictures), file, rgb_encoding(18), 20, *pictures.shape[1:3])
    with open_video(file.getvalue(), "here") as video:
        return np.stack(list(video.frames(range(len(pictures)))))


def scenes(size: int = 512) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, depth in mm, ids and K."""
    motion = scene.make_motion(61, 3)
    renderer = scene.SceneRenderer(motion, size)
    for name, camera in scene.make_cameras(motion, size, ("left_shoulder", "overhead")).items():
        drawn = [renderer.draw(camera, 35 + i) for i in range(FRAMES)]
        depth = np.stack([np.rint(1000 * d.depth) for d in drawn]).astype(np.uint16)
        yield f"scene {name}", depth, np.stack([d.ids for d in drawn]), np.asarray(camera.K)


def numbered(folder: Path) -> np.ndarray:
    pictures = [cv2.imread(str(folder / f"{i}.png"))[..., ::-1] for i in range(FRAMES)]
    return np.stack(pictures).astype(np.int64)


def recorded(data: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    episode = data / "rlbench/open_drawer/all_variations/episodes/episode5"
    for view in ("left_shoulder", "overhead"):
        if episode.is_dir():
            depth = 0.01 + 4.49 * (numbered(episode / f"{view}_depth") @ [65536, 256, 1]) / (2**24 - 1)
            mask = numbered(episode / f"{view}_mask") @ [1, 256, 65536]
            yield f"RLBench {view}", np.rint(1000 * depth).astype(np.uint16), mask
    for file in data.glob("maniskill/StackCube*.h5"):
        with h5py.File(file) as log:
            for view, stream in log["traj_0/obs/sensor_data"].items():
                yield f"ManiSkill {view}", stream["depth"][20 : 20 + FRAMES, ..., 0].astype(np.uint16), None


def show_depth(name: str, depth: np.ndarray, codec: DepthCodec) -> None:
    known = (depth >= 1000 * codec.near) & (depth <= 1000 * codec.far)
    if not known.any():
        return
    metres = np.maximum(depth, 1) / 1000
    error = 100 * (np.abs(codec.decode(through_h264(codec.encode(depth))) - metres) / metres)[known]
    figures = "  ".join(f"{np.quantile(error, q):7.3f}" for q in (0.5, 0.75, 0.9, 0.95))
    within = "  ".join(f"{100 * (error < limit).mean():5.1f}" for limit in (0.1, 1))
    print(f"{name:24s} {depth.shape[1]:4d}  {figures}   {within}")


def show_labels(name: str, ids: np.ndarray) -> None:
    labels = largest_labels(ids)
    index = np.searchsorted(labels, ids)
    index = np.where(np.asarray(labels)[np.minimum(index, len(labels) - 1)] == ids, index, 0)
    found = decode_labels(through_h264(encode_labels(ids, labels)), len(labels))
    overlap, pixels = [], []
    for i in range(len(labels)):
        union = ((found == i) | (index == i)).sum()
        if union:
            overlap.append(((found == i) & (index == i)).sum() / union)
            pixels.append((index == i).sum() / len(ids))
    large = [o for o, n in zip(overlap, pixels, strict=True) if n >= 400]
    share = 100 * (found == index).mean()
    figures = f"{np.mean(overlap):.4f}  {min(overlap):.4f}  {min(large):.4f}"
    print(f"{name:24s} {ids.shape[1]:4d}     {len(overlap):2d}  {figures}            {share:.3f}")


def show_normals(name: str, depth: np.ndarray, K: np.ndarray) -> None:
    normals = np.stack([normals_from_depth(frame, K) for frame in depth])
    back = decode_normals(through_h264(np.stack([encode_normals(frame) for frame in normals])))
    known = np.isfinite(normals[..., 0]) & np.isfinite(back[..., 0])
    angle = np.degrees(np.arccos(np.clip((normals * back).sum(-1)[known], -1, 1)))
    share = 100 * np.isfinite(normals[..., 0]).mean()
    print(f"{name:24s} {depth.shape[1]:4d}  {np.median(angle):.2f}  {np.quantile(angle, 0.95):.2f}   {share:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared/data")
    data = parser.parse_args().data
    drawn, real = list(scenes()), list(recorded(data))
    print("depth, error in %          size   median      p75      p90      p95   <0.1 %  <1 % of pixels")
    for codec in (DepthCodec(), DepthCodec(0.3, 3.0)):
        print(f"{codec.near} … {codec.far} m")
        for name, depth, *_ in (*drawn, *real):
            show_depth(name, depth, codec)
    print("segmentation, IoU          size  labels  mean     least  least of >= 400 px  pixels right, %")
    for name, ids in [(name, ids) for name, _, ids, _ in drawn] + [(n, m) for n, _, m in real if m is not None]:
        show_labels(name, ids)
        if ids.shape[1] < 512:
            show_labels(f"{name}, x 4", ids.repeat(4, 1).repeat(4, 2))
    print("normals, degrees           size  median  p95   known, % of pixels")
    for name, depth, _, K in drawn:
        show_normals(name, depth, K)


if __name__ == "__main__":
    main()

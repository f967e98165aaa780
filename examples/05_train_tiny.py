"""Train a small network to label video with actions: on a CPU, in a minute, on demo data. Needs torch.

    python examples/05_train_tiny.py                    under a minute: enough to see it learn
    python examples/05_train_tiny.py --seconds 600      much better labels; --seconds are of processor time

It writes a few demos of the built-in scene, converts them into action-image shards, and trains a small U-Net that turns
each camera picture (with its Plücker rays) into the action image of that camera: the "labelling" task. Now and then the
predicted pictures of an episode that was never trained on are decoded into a trajectory, which gets better.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import actionimg_data as aid
from actionimg_data.converters.base import converter_class
from actionimg_data.demo.rlbench import write_rlbench_dataset
from actionimg_data.engine import convert
from actionimg_data.geometry import rotations
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import Sample
from actionimg_data.training import ActionImageDataset, IndexedActionImageDataset, collate

VIEWS = ("front", "left_shoulder")
WINDOW = 3


def make_shards(folder: Path, episodes: int, frames: int, size: int) -> Path:
    """Demos of the built-in scene as a data set."""
    write_rlbench_dataset(folder / "demos", episodes, frames, size=128, cameras=VIEWS)
    options = ConvertOptions.parse(height=size, width=size, views=VIEWS, action_codec="none")
    convert(converter_class("rlbench")(), str(folder / "demos"), folder / "dataset", options)
    return folder / "dataset"


class Block(nn.Sequential):
    """Two convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.GroupNorm(4, outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.SiLU(),
        )


class TinyUNet(nn.Module):
    """Camera picture and rays ``(N, 9, H, W)`` to the logits of an action image ``(N, 3, H, W)``.

    It works at half the size: a blob's standard deviation is a twentieth of the picture, so nothing is lost.
    """

    def __init__(self, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        sizes = [width * 2**i for i in range(levels + 1)]
        self.first = Block(9 * 4, sizes[0])
        self.down = nn.ModuleList(Block(a, b) for a, b in pairwise(sizes))
        self.up = nn.ModuleList(Block(a + b, a) for a, b in pairwise(sizes))
        self.last = nn.Conv2d(sizes[0], 3 * 4, 1)
        nn.init.constant_(self.last.bias, -3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(F.pixel_unshuffle(x, 2))
        kept = [x]
        for block in self.down:
            x = block(F.max_pool2d(x, 2))
            kept.append(x)
        for block, skip in zip(reversed(self.up), reversed(kept[:-1]), strict=True):
            x = block(torch.cat([skip, F.interpolate(x, scale_factor=2.0)], 1))
        return F.pixel_shuffle(self.last(x), 2)


def pictures(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs ``(N, 9, H, W)`` and action images ``(N, 3, H, W)`` in [0, 1] of all frames that are there."""
    inputs = torch.cat([batch["video"], batch["plucker"]], 1).transpose(1, 2)
    targets = (batch["action_video"].transpose(1, 2) + 1) / 2
    there = batch["valid"].repeat(1, len(VIEWS))
    return inputs[there], targets[there]


def loss_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of each value, 0 for a perfect picture, with more weight where the blobs are."""
    weight = 1 + 30 * targets * (targets > 0.26)
    entropy = F.binary_cross_entropy(targets, targets, weight=weight)
    return F.binary_cross_entropy_with_logits(logits, targets, weight=weight) - entropy


@torch.no_grad()
def evaluate(
    network: nn.Module, table: IndexedActionImageDataset, stored: Sample, png: Path
) -> dict[str, float | None]:
    """Label an episode, decode the labels, and hold the trajectory against the true one."""
    frames = len(stored)
    sample = table.sample(stored.key, start=0, views=VIEWS)
    inputs, targets = pictures(collate([sample]))
    logits = torch.cat([network(part) for part in inputs.split(16)])
    drawn = torch.sigmoid(logits).unflatten(0, (len(VIEWS), frames)).permute(0, 1, 3, 4, 2).numpy()
    spec = table.spec
    cameras = [stored.cameras[view].resized(spec.height, spec.width) for view in VIEWS]
    decoded = aid.decode(drawn, cameras, spec, fps=stored.fps)
    valid, truth = decoded.valid, stored.trajectory
    found = decoded.trajectory
    position = np.linalg.norm(found.position - truth.position, axis=1)[valid] * 1000
    angle = np.degrees(np.asarray(rotations.angle_between(found.rotation, truth.rotation)))[valid]
    opened = (found.openness[valid] > 0.5) == (truth.openness[valid] > 0.5)
    show(png, inputs[:, :3], drawn, targets, frames)
    return {
        "loss": float(loss_of(logits, targets)),
        "decoded": float(valid.mean()),
        "position_mm": float(np.median(position)) if valid.any() else None,
        "rotation_deg": float(np.median(angle)) if valid.any() else None,
        "openness": float(opened.mean()) if valid.any() else None,
    }


def show(png: Path, video: torch.Tensor, drawn: np.ndarray, targets: torch.Tensor, frames: int) -> None:
    """Some frames of each view: camera picture, predicted and true action image below each other."""
    columns = []
    for view in range(len(VIEWS)):
        for frame in np.linspace(0, frames - 1, 5).astype(int):
            i = view * frames + frame
            camera = (video[i].permute(1, 2, 0).numpy() + 1) / 2
            truth = targets[i].permute(1, 2, 0).numpy()
            columns.append(np.concatenate([camera, drawn[view, frame], truth]))
    sheet = (np.concatenate(columns, 1).clip(0, 1) * 255).astype(np.uint8)
    large = cv2.resize(sheet, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(png), large[..., ::-1])


def train(out: Path, seconds: float, episodes: int, frames: int, size: int, seed: int = 0) -> list[dict[str, Any]]:
    """Train for some seconds of processor time; returns what each evaluation found, the first before any training."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    dataset = out / "dataset"
    if not dataset.exists():
        make_shards(out, episodes, frames, size)
    stored = aid.open_dataset(dataset)
    held_out = stored[len(stored) - 1]
    common: dict[str, Any] = {"view_names": VIEWS, "size": size, "action": "rendered", "modes": {"labelling": 1.0}}
    data = ActionImageDataset(
        dataset, num_frames=WINDOW, filter=pc.field("key") != held_out.key, epochs=None, seed=seed, **common
    )
    table = IndexedActionImageDataset(dataset, num_frames=len(held_out), **common)
    loader = iter(DataLoader(data, batch_size=1, collate_fn=collate))
    network = TinyUNet()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    results = []
    start = time.process_time()
    step = 0
    print(" step  seconds    loss  decoded  position mm  rotation deg  openness")
    for part in range(5):
        while (passed := time.process_time() - start) < seconds * part / 4:
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * max(0.02, 1 - passed / seconds)
            inputs, targets = pictures(next(loader))
            optimizer.zero_grad()
            loss_of(network(inputs), targets).backward()
            optimizer.step()
            step += 1
        result = evaluate(network, table, held_out, out / f"step{step:05d}.png")
        results.append({"step": step, "seconds": time.process_time() - start, **result})
        decoded = [
            f"{result[name]:{width}}" if result[name] is not None else "-".rjust(int(width.partition(".")[0]))
            for name, width in (("position_mm", "12.1f"), ("rotation_deg", "13.1f"), ("openness", "9.0%"))
        ]
        head = f"{step:5d} {results[-1]['seconds']:8.1f} {result['loss']:7.4f} {result['decoded']:7.0%}"
        print(head, *decoded, flush=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Parse the options and train; returns what each evaluation found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=50, help="processor time to train")
    parser.add_argument("--episodes", type=int, default=6, help="demos, the last of which is held out")
    parser.add_argument("--frames", type=int, default=40, help="frames of a demo")
    parser.add_argument("--size", type=int, default=64, help="width and height of the pictures")
    parser.add_argument("--out", type=Path, default=Path("example_05"), help="folder for data, pictures and results")
    options = parser.parse_args(argv)
    return train(options.out, options.seconds, options.episodes, options.frames, options.size)


if __name__ == "__main__":
    main()

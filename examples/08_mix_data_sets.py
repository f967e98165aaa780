"""Mix data sets of different sources and rates in one stream of training samples. Needs the extra "training" (torch).

    python examples/08_mix_data_sets.py --out DIR

Three small data sets are made: RLBench demos at 20 Hz, the same kind at 10 Hz, and a lab's recordings at 20 Hz. One
stream draws from them in exact shares, all windows at 5 Hz. It leaves ``DIR/08_mix_data_sets.png``: samples in the
order in which they came, a row each, with the source they came from. Stopped in the middle of an epoch, the stream goes
on with exactly the batches that would have come; the end of this file does that.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torchdata.stateful_dataloader import StatefulDataLoader

from actionimg_data import engine
from actionimg_data.converters.base import converter_class
from actionimg_data.report import pictures
from actionimg_data.schemas import ConvertOptions
from actionimg_data.testing import write_recordings, write_rlbench_dataset
from actionimg_data.training import ConcatActionImageDataset, collate

VIEWS = ("front", "left_shoulder")
SHARES = {"rlbench": 0.5, "rlbench-10hz": 0.25, "recordings": 0.25}


def make_data_sets(folder: Path, frames: int, size: int) -> None:
    """The three data sets, below ``folder``; what is there already is left as it is."""
    if (folder / "recordings" / "dataset.json").exists():
        return
    demos = str(write_rlbench_dataset(folder / "demos", 2, frames, 96, VIEWS))
    logs = write_recordings(folder / "logs", 2, frames, 96, VIEWS)
    mapping = str(logs / "mapping.yaml")
    for name, source, converter, given, stride in (
        ("rlbench", demos, "rlbench", {}, 1),
        ("rlbench-10hz", demos, "rlbench", {}, 2),
        ("recordings", str(logs), "folder", {"mapping": mapping}, 1),
    ):
        cls = converter_class(converter)
        options = ConvertOptions.parse(height=size, width=size, stride=stride, views=VIEWS, action_codec="none")
        engine.convert(cls(cls.Options.parse(given, name)), source, folder / name, options, num_workers=1)


def picture_of(sample: dict[str, Any]) -> np.ndarray:
    """First and last frame of both views, pictures and action images side by side, (H, W, 3) uint8."""
    frames = sample["video"].shape[1] // len(VIEWS)
    tiles = []
    for view in range(len(VIEWS)):
        for frame in (0, frames - 1):
            for kind in ("video", "action_video"):
                tile = sample[kind][:, view * frames + frame].permute(1, 2, 0).numpy()
                tiles.append(np.rint((tile + 1) * 127.5).astype(np.uint8))
    row = np.ascontiguousarray(np.concatenate(tiles, axis=1))
    pictures.label(row, f"{sample['source']}   {sample['key']}")
    return row


def names_of(batch: dict[str, Any]) -> list[tuple[str, str]]:
    """Source and key of each sample of a batch."""
    return list(zip(batch["source"], batch["key"], strict=True))


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="example_08", type=Path, help="folder for the data sets and the picture")
    parser.add_argument("--frames", default=48, type=int, help="frames of a demonstration")
    parser.add_argument("--size", default=96, type=int, help="width and height of the pictures")
    parser.add_argument("--samples", default=16, type=int, help="samples of an epoch")
    options = parser.parse_args(argv)
    make_data_sets(options.out, options.frames, options.size)

    def stream() -> StatefulDataLoader:
        data = ConcatActionImageDataset(
            SHARES,
            root=options.out,
            fps=5,  # every source's windows span the same time, whatever it was stored at
            num_frames=6,
            size=options.size,
            view_names=VIEWS,
            action="rendered",
            plucker=False,
            epoch_samples=options.samples,
            batch_size=2,
            seed=0,
        )
        return StatefulDataLoader(data, batch_size=2, collate_fn=collate)

    keys: list[tuple[str, str]] = []
    rows: list[np.ndarray] = []
    drawn: Counter[str] = Counter()
    for batch in stream():
        keys += names_of(batch)
        for i, source in enumerate(batch["source"]):
            sample = {name: batch[name][i] for name in ("video", "action_video", "source", "key")}
            drawn[source] += 1
            if len(rows) < 8:
                rows.append(picture_of(sample))
    for name, share in SHARES.items():
        print(f"{name:>14}: {drawn[name]} of {options.samples} samples, {share:.0%} wanted")
    picture = options.out / "08_mix_data_sets.png"
    cv2.imwrite(str(picture), np.concatenate(rows)[..., ::-1])

    # Stop after three batches, as a job that is preempted, and go on in a new process' stream.
    first = stream()
    batches = iter(first)
    before = [key for _ in range(3) for key in names_of(next(batches))]
    state = first.state_dict()
    second = stream()
    second.load_state_dict(state)
    after = [key for batch in second for key in names_of(batch)]
    print(f"stopped after {len(before)} samples, went on with {len(after)}: same order {before + after == keys}")
    print(f"look at {picture}")
    return {"drawn": dict(drawn), "resumed": before + after == keys}


if __name__ == "__main__":
    main()

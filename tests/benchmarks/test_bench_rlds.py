"""Reading RLDS: against the bare decode of the same pictures, without pictures, and in how much memory.

The data set is generated: 40 episodes of 60 steps, each with a 240x320 JPEG and PNG, about 60 MB.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg

from actionimg_data.converters.rlds import open_rlds, wire
from actionimg_data.demo import rlds as w

STEPS, HEIGHT, WIDTH = 60, 240, 320
ROUNDS = 5
RGB = getattr(cv2, "IMREAD_COLOR_RGB", cv2.IMREAD_COLOR)


def node() -> Any:
    observation = {
        "image": w.image((HEIGHT, WIDTH, 3), encoding="jpeg"),
        "wrist_image": w.image((HEIGHT, WIDTH, 3), encoding="png"),
        "state": w.tensor((8,)),
        "joints": w.tensor((7,), "float64"),
    }
    step = {"observation": observation, "action": w.tensor((7,)), "language_instruction": w.text()}
    step["language_embedding"] = w.tensor((512,))
    return w.episode_features(step, episode_metadata={"file_path": w.text(), "episode_id": w.tensor(dtype="int64")})


class Episodes(Sequence[Mapping[str, Any]]):
    """Pictures with edges and a little noise, which compress about as camera pictures do."""

    def __init__(self, count: int) -> None:
        self.count_ = count

    def __len__(self) -> int:
        return self.count_

    def __getitem__(self, index: Any) -> Any:
        rng = np.random.default_rng(index)
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        base = np.stack([120 + 70 * np.sin(x / 23 + c) * np.cos(y / 17 - c) for c in range(3)], -1)
        pictures, wrist = [], []
        for t in range(STEPS):
            picture = np.clip(base + rng.normal(0, 0.7, base.shape), 0, 255).astype(np.uint8)
            cv2.rectangle(picture, (20 + 3 * t, 60), (90 + 3 * t, 140), (200, 60, 30), -1)
            pictures.append(picture)
            smooth = (np.roll(base, 4 * t, 1) / 60).astype(np.uint8) * 60
            cv2.circle(smooth, (40 + 4 * t, 120), 30, (20, 200, 90), -1)
            wrist.append(smooth)
        observation = {
            "image": pictures,
            "wrist_image": wrist,
            "state": rng.normal(size=(STEPS, 8)),
            "joints": rng.normal(size=(STEPS, 7)),
        }
        steps = {
            "observation": observation,
            "action": rng.normal(size=(STEPS, 7)),
            "language_instruction": ["put the cube on the mat"] * STEPS,
            "language_embedding": np.tile(rng.normal(size=512), (STEPS, 1)),
            **w.flags(STEPS),
        }
        return {"steps": steps, "episode_metadata": {"file_path": f"/raw/{index}", "episode_id": index}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.environ["ACTIONIMG_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    root = tmp_path_factory.mktemp("bench")
    return w.write_rlds(root, "bench", node(), {"train": Episodes(40)}, episodes_per_shard=10)


def megabytes(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.glob("*.tfrecord-*")) / 1e6


def best(work: Any, rounds: int = ROUNDS, clock: Any = time.perf_counter) -> float:
    """Seconds of the fastest round."""
    times = []
    for _ in range(rounds):
        start = clock()
        work()
        times.append(clock() - start)
    return min(times)


def read_all(folder: Path, **options: Any) -> int:
    return sum(len(e["steps"]["action"]) for e in open_rlds(folder).episodes(**options))


def encoded_pictures(folder: Path) -> list[list[bytes]]:
    """The pictures as they are stored, episode by episode."""
    dataset = open_rlds(folder)
    out = []
    for place in dataset.places():
        example = dataset.record(place).examples[0]
        keys = ("steps/observation/image", "steps/observation/wrist_image")
        spans = [s for k in keys for s in wire.bytes_spans(example.data, example.columns[k])]
        out.append([example.data[a:b] for a, b in spans])
    return out


def bare_decode(episodes: list[list[bytes]]) -> int:
    """Each picture decoded by the decoder itself, an episode's pictures held at a time."""
    count = 0
    for blobs in episodes:
        held = []
        for blob in blobs:
            if blob[:2] == b"\xff\xd8":
                held.append(simplejpeg.decode_jpeg(blob, "RGB", fastdct=True))
            else:
                held.append(cv2.imdecode(np.frombuffer(blob, np.uint8), RGB))
        count += len(held)
    return count


def test_reading_all_leaves_against_the_bare_decode(benchmark: Any, folder: Path) -> None:
    blobs = encoded_pictures(folder)
    # In turns, and in processor time: both are one thread, and a busy machine slows the clock on the wall at random.
    ours, bare = [], []
    for _ in range(ROUNDS):
        bare.append(best(lambda: bare_decode(blobs), 1, time.process_time))
        ours.append(best(lambda: read_all(folder), 1, time.process_time))
    benchmark.pedantic(read_all, (folder,), rounds=1)
    ratio = min(ours) / min(bare)
    benchmark.extra_info |= {
        "data MB": round(megabytes(folder), 1),
        "all leaves cpu s": round(min(ours), 3),
        "bare decode cpu s": round(min(bare), 3),
        "ratio": round(ratio, 3),
    }
    assert ratio <= 1.1


def test_reading_without_pictures(benchmark: Any, folder: Path) -> None:
    read_all(folder, images=False)
    seconds = best(lambda: read_all(folder, images=False))
    benchmark.pedantic(read_all, (folder,), {"images": False}, rounds=1)
    speed = megabytes(folder) / seconds
    benchmark.extra_info |= {"MB/s": round(speed), "seconds": round(seconds, 4)}
    assert speed >= 500


MEASURE = """
import sys
from actionimg_data.converters.rlds import open_rlds
import cv2
def status(key):
    return next(int(l.split()[1]) / 1024 for l in open("/proc/self/status") if l.startswith(key))
imported = status("VmRSS")
for _ in open_rlds(sys.argv[1]).episodes(sys.argv[2]):
    pass
print(status("VmHWM") - imported)
"""


def peak_mb(folder: Path, split: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), split], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def test_peak_memory_is_that_of_one_episode(benchmark: Any, folder: Path) -> None:
    few, all_of_them = peak_mb(folder, "train[:4]"), peak_mb(folder, "train")
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info |= {"4 episodes MB": round(few), "40 episodes MB": round(all_of_them)}
    assert all_of_them <= 120
    assert all_of_them <= few + 15

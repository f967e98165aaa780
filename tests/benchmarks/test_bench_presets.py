"""x264's presets for camera pictures: time, bytes and PSNR, of a real demo where there is one, else of our own scene.

Run: pytest tests/benchmarks/test_bench_presets.py -n 0 --benchmark-enable -o addopts= -s
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.geometry import crop
from actionimg_data.testing import write_rlbench_dataset
from actionimg_data.video import encode_bytes, read_frames, rgb_encoding
from actionimg_data.video.resize import apply

ROOT = Path(os.environ.get("ACTIONIMG_TEST_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
SETTINGS = [
    *(("ultrafast", crf) for crf in (21, 18)),
    *(("superfast", crf) for crf in (20, 18)),
    *((preset, 18) for preset in ("veryfast", "faster", "medium")),
]
SIZE = 512


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    source = ROOT / "rlbench"
    if not source.is_dir():
        source = write_rlbench_dataset(tmp_path_factory.mktemp("presets"), 1, 48, SIZE)
    converter = RLBenchConverter()
    episode = converter.read(next(converter.discover(str(source))))
    frames = episode.views["front"].frames
    cut = crop.center_crop(frames.height, frames.width, SIZE, SIZE)
    return [apply(picture, cut) for picture in frames.frames(range(min(48, len(episode))))]


def test_time_bytes_and_psnr_of_presets(benchmark, pictures) -> None:  # type: ignore[no-untyped-def]
    stack = np.stack(pictures).astype(np.float64)
    spent: dict[tuple[str, int], list[float]] = {setting: [] for setting in SETTINGS}
    video: dict[tuple[str, int], bytes] = {}
    for _ in range(3):  # in turns, so that a busy machine slows all of them alike
        for preset, crf in SETTINGS:
            start = time.process_time()
            video[preset, crf] = encode_bytes(pictures, rgb_encoding(crf, preset), 20, SIZE, SIZE)
            spent[preset, crf].append(1e3 * (time.process_time() - start) / len(pictures))
    base = "veryfast", 18
    print(f"\nload {os.getloadavg()[0]:.1f}, {len(pictures)} pictures of {SIZE}x{SIZE}")
    for setting in SETTINGS:
        error = np.mean((read_frames(video[setting]).astype(np.float64) - stack) ** 2)
        print(
            f"{setting[0]:>10} crf {setting[1]}: {median(spent[setting]):.2f} ms of CPU a picture "
            f"({median(spent[setting]) / median(spent[base]):.2f}), {len(video[setting]) / 1e3:.0f} kB "
            f"({len(video[setting]) / len(video[base]):.2f}), {10 * np.log10(255**2 / error):.2f} dB"
        )
    benchmark(lambda: encode_bytes(pictures[:8], rgb_encoding(), 20, SIZE, SIZE))

"""The training loader against a bare PyAV loop, against imageio frame by frame, and its memory and start-up.

pytest tests/benchmarks/test_bench_training.py -n 0 --benchmark-enable -o addopts="" -s

Everything is measured in one run, in turns, with two DataLoader workers; figures are the fastest of a few rounds.
The published way is imageio's ffmpeg reader (``pip install imageio imageio-ffmpeg``), skipped where it is absent.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import actionimg_data as aid
from actionimg_data import engine
from actionimg_data.converters.base import converter_class
from actionimg_data.schemas import ConvertOptions, DatasetManifest
from actionimg_data.schemas.dataset import to_bytes
from actionimg_data.shards import layout
from actionimg_data.training import ActionImageDataset, IndexedActionImageDataset, decoding

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

FRAMES = 41
WINDOWS = 16
ROUNDS = 4
VIEWS = ("front", "left_shoulder", "wrist")


@pytest.fixture(scope="module", params=[256, 512])
def real(
    request: pytest.FixtureRequest, sample_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Path]:
    """Two real RLBench demos as h264 shards."""
    size = request.param
    out = tmp_path_factory.mktemp(f"real{size}") / "dataset"
    options = ConvertOptions.parse(height=size, width=size, views=VIEWS)
    engine.convert(converter_class("rlbench")(), str(sample_data / "rlbench"), out, options)
    return size, out


Window = tuple[str, tuple[str, ...], list[int]]


def windows(dataset: Path, size: int) -> list[Window]:
    """The windows that every loader decodes."""
    data = ActionImageDataset(
        dataset, num_frames=FRAMES, size=size, action="none", plucker=False, pixels="uint8", epochs=None
    )
    found = []
    for sample in data:
        found.append((sample["key"], sample["view_names"], sample["frame_indices"].tolist()))
        if len(found) == WINDOWS:
            return found
    raise AssertionError


class Plain(IterableDataset):
    """The same windows through a function that decodes one."""

    def __init__(self, wanted: list[Window], decode: Callable[[str, str, list[int]], np.ndarray]) -> None:
        self.wanted, self.decode = wanted, decode

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        for key, views, indices in self.wanted[info.id :: info.num_workers]:
            yield torch.from_numpy(np.concatenate([self.decode(key, view, indices) for view in views]))


def bare_pyav(dataset: Path) -> Callable[[str, str, list[int]], np.ndarray]:
    """Decode from the keyframe to the end of the window, and keep the window's frames."""
    stored = {s.key: {v: s.read(layout.rgb_member(v, "mp4")) for v in s.views} for s in aid.open_dataset(dataset)}

    def decode(key: str, view: str, indices: list[int]) -> np.ndarray:
        frames = []
        with av.open(io.BytesIO(stored[key][view])) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            for i, frame in enumerate(container.decode(stream)):
                if i >= indices[0]:
                    frames.append(frame.to_ndarray(format="rgb24"))
                if i == indices[-1]:
                    break
        return np.stack(frames)

    return decode


def published_imageio(dataset: Path, folder: Path, size: int) -> Callable[[str, str, list[int]], np.ndarray]:
    """The published loader: count the frames, seek to each by its number, resize, scale to [-1, 1]."""
    imageio = pytest.importorskip("imageio")
    pytest.importorskip("imageio_ffmpeg")
    for sample in aid.open_dataset(dataset):
        for view in sample.views:
            (folder / f"{sample.key}.{view}.mp4").write_bytes(sample.read(layout.rgb_member(view, "mp4")))

    def decode(key: str, view: str, indices: list[int]) -> np.ndarray:
        reader = imageio.get_reader(str(folder / f"{key}.{view}.mp4"))
        assert reader.count_frames() > indices[-1]
        frames = []
        for i in indices:
            picture = Image.fromarray(reader.get_data(i)).resize((size, size), Image.Resampling.BILINEAR)
            frames.append((np.asarray(picture, np.float32) / 255 - 0.5) / 0.5)
        reader.close()
        return np.stack(frames)

    return decode


def consume(loader: Any, count: int) -> float:
    """Seconds from the first batch to the last: workers have started by then."""
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    for _ in range(count - 1):
        next(batches)
    seconds = time.perf_counter() - start
    del batches
    return seconds / (count - 1) * count


def in_turns(loaders: dict[str, Any], rounds: int = ROUNDS) -> dict[str, float]:
    """The fastest of some rounds of each."""
    best = dict.fromkeys(loaders, np.inf)
    for _ in range(rounds):
        for name, make in loaders.items():
            best[name] = min(best[name], consume(make(), WINDOWS))
    return best


def ours(dataset: Path, size: int, **options: Any) -> Callable[[], DataLoader]:
    def make() -> DataLoader:
        data = ActionImageDataset(dataset, num_frames=FRAMES, size=size, plucker=False, epochs=None, **options)
        return DataLoader(data, batch_size=None, num_workers=2)

    return make


def report(title: str, seconds: dict[str, float], baseline: str) -> None:
    print(f"\n{title}")
    for name, value in seconds.items():
        rate = WINDOWS / value
        print(
            f"  {name:36s} {rate:6.2f} samples/s {rate * 2 * FRAMES:7.0f} frames/s  {seconds[baseline] / value:5.2f}x"
        )


def test_windows_load_as_fast_as_bare_pyav_decodes_them(real: tuple[int, Path], tmp_path: Path) -> None:
    size, dataset = real
    wanted = windows(dataset, size)
    bare = Plain(wanted, bare_pyav(dataset))
    seconds = in_turns(
        {
            "bare PyAV, uint8": lambda: DataLoader(bare, batch_size=None, num_workers=2),
            "ours, uint8": ours(dataset, size, action="none", pixels="uint8"),
            "ours, float32": ours(dataset, size, action="none"),
        }
    )
    report(f"{size}x{size}, two views, {FRAMES} frames, two workers", seconds, "bare PyAV, uint8")
    assert seconds["bare PyAV, uint8"] / seconds["ours, uint8"] >= 0.85


def ordinary_float32(pictures: np.ndarray) -> torch.Tensor:
    """``(3, T, H, W)`` in [-1, 1] of ``(T, H, W, 3)`` uint8, as one writes it."""
    return (torch.from_numpy(pictures).permute(3, 0, 1, 2).float() / 127.5 - 1).contiguous()


@pytest.mark.timeout(1800)
def test_processor_time_of_a_window(real: tuple[int, Path]) -> None:
    """In one process and one thread, so that other work on the machine counts for less."""
    size, dataset = real
    torch.set_num_threads(1)
    plain = bare_pyav(dataset)
    wanted = windows(dataset, size)

    def table(**options: Any) -> Callable[[int], object]:
        data = IndexedActionImageDataset(dataset, num_frames=FRAMES, size=size, plucker=False, **options)
        return lambda i: data.sample(i % len(data), start=i)

    def bare(convert: Callable[[np.ndarray], object]) -> Callable[[int], object]:
        def load(i: int) -> object:
            key, views, indices = wanted[i]
            return convert(np.concatenate([plain(key, view, indices) for view in views]))

        return load

    loaders = {
        "bare PyAV, uint8": bare(lambda pictures: pictures),
        "bare PyAV, then to float32": bare(ordinary_float32),
        **{
            f"ours, {pixels}, action {action}, {decoder}": table(pixels=pixels, action=action, decoder=decoder)
            for decoder in ("pyav", "torchcodec")
            if decoder == "pyav" or decoding.torchcodec() is not None
            for pixels in ("uint8", "float32")
            for action in ("none", "rendered", "stored")
        },
    }
    spent = {name: np.full((2, 6), np.inf) for name in loaders}
    for round_ in range(2):
        for i in range(6):
            for name, load in loaders.items():
                start = time.process_time()
                load(i)
                spent[name][round_, i] = time.process_time() - start
    ms = {name: 1e3 * float(np.median(times.min(axis=0))) for name, times in spent.items()}
    print(f"\n{size}x{size}, ms of one core a window, load {os.getloadavg()[0]:.1f}")
    for name, value in ms.items():
        base = ms["bare PyAV, then to float32" if "float32" in name else "bare PyAV, uint8"]
        print(f"  {name:44s} {value:7.1f}  {base / value:5.2f}x")
    none, rendered = (ms[f"ours, uint8, action {action}, pyav"] for action in ("none", "rendered"))
    print(f"  rendered / none {rendered / none:.3f}")
    assert ms["bare PyAV, then to float32"] / ms["ours, float32, action none, pyav"] >= 0.9


def test_windows_load_three_times_as_fast_as_the_published_way(real: tuple[int, Path], tmp_path: Path) -> None:
    size, dataset = real
    wanted = windows(dataset, size)
    slow = Plain(wanted, published_imageio(dataset, tmp_path, size))
    seconds = in_turns(
        {
            "imageio, frame by frame, float32": lambda: DataLoader(slow, batch_size=None, num_workers=2),
            "ours, float32": ours(dataset, size, action="none"),
            "ours, uint8": ours(dataset, size, action="none", pixels="uint8"),
        },
        rounds=2,
    )
    report(f"{size}x{size}, against the published way", seconds, "imageio, frame by frame, float32")
    assert seconds["imageio, frame by frame, float32"] / seconds["ours, uint8"] >= 3


def many_shards(dataset: Path, out: Path, shards: int) -> Path:
    """A data set of ``shards`` shards: hard links to one, in an index as long as that of a real one."""
    source = aid.open_dataset(dataset)
    assert source.manifest is not None
    record = source.manifest.shards[0]
    name = record.path.removesuffix(".tar")
    sidecar = (dataset / f"{name}.json").read_text()
    table = pq.read_table(dataset / layout.INDEX)
    table = table.slice(0, record.samples)
    (out / "train").mkdir(parents=True)
    records, tables = [], []
    for i in range(shards):
        named = f"train/{i:06d}"
        (out / f"{named}.tar").hardlink_to(dataset / record.path)
        (out / f"{named}.json").write_text(sidecar.replace(f'"{name}"', f'"{named}"'))
        records.append(
            record.model_copy(update={"path": f"{named}.tar", "sidecar_sha256": _sha(out / f"{named}.json")})
        )
        column = pa.array([named] * record.samples)
        tables.append(table.set_column(table.column_names.index("shard"), table.schema.field("shard"), column))
    # Thirty-two samples to a shard, as in a large data set.
    index = pa.concat_tables([t for t in tables for _ in range(32 // record.samples)])
    sink = io.BytesIO()
    pq.write_table(index, sink, compression="zstd")
    (out / layout.INDEX).write_bytes(sink.getvalue())
    files = {**source.manifest.files, layout.INDEX: _sha(out / layout.INDEX)}
    changed = source.manifest.model_copy(update={"shards": tuple(records), "files": files})
    (out / layout.MANIFEST).write_bytes(to_bytes(DatasetManifest.sealed(changed)))
    return out


def _sha(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_first_batch_of_a_thousand_shards_comes_within_a_second(real: tuple[int, Path], tmp_path: Path) -> None:
    size, dataset = real
    if size != 256:
        pytest.skip("the index does not depend on the size")
    large = many_shards(dataset, tmp_path / "large", 1000)
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        data = ActionImageDataset(large, num_frames=FRAMES, size=size, action="none", plucker=False, pixels="uint8")
        loader = DataLoader(data, batch_size=1, num_workers=2)
        batches = iter(loader)
        next(batches)
        best = min(best, time.perf_counter() - start)
        del batches
    print(f"\nfirst batch of {len(data)} samples in 1000 shards: {best:.2f} s")
    assert best <= 1.0


def test_memory_is_flat_over_an_epoch(real: tuple[int, Path], tmp_path: Path) -> None:
    size, dataset = real
    if size != 256:
        pytest.skip("one size is enough")
    large = many_shards(dataset, tmp_path / "large", 40)
    data = ActionImageDataset(large, 9, size=64, action="none", plucker=False, pixels="uint8")
    process = psutil.Process()
    marks = []
    for i, _ in enumerate(data):
        if i % 40 == 39:
            marks.append(process.memory_info().rss / 2**20)
        if i == 639:
            break
    print(f"\nRSS in MiB over {len(marks) * 40} samples of 40 shards: " + " ".join(f"{m:.0f}" for m in marks))
    assert max(marks[len(marks) // 2 :]) <= marks[len(marks) // 4] + 8

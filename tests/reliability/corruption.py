"""Damages a data set in every way that disks, networks and people do, and counts what is not noticed.

    python tests/reliability/corruption.py [--flips 1000] [--seed 0]

A data set is made (four generated demonstrations in two shards, one of them quarantined), and a second one with another
option. Then, one damage at a time: files cut at every member's boundaries, bits flipped at random over all bytes and in
every header, shards and sidecars swapped and taken from the other run, files missing, doubled and appended to. After
each, `verify --quick` has to find something; and what a training reader, `open_dataset` and a lone shard give has to be
equal to what was written, or an error of the package. The exit code is 1 where anything was missed.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from actionimg_data import engine
from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.engine import verify
from actionimg_data.errors import ActionImgError
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import open_dataset
from actionimg_data.shards.manifest import read_sidecar
from actionimg_data.shards.tar import BLOCK
from actionimg_data.testing import write_rlbench_dataset

Damage = tuple[str, str, Callable[[], Any]]


def make(folder: Path, episodes: int = 4, frames: int = 5, size: int = 32) -> Path:
    """A data set with a quarantined episode in ``folder/out``, and one with another option in ``folder/other``."""
    source = write_rlbench_dataset(folder / "src", episodes, frames, size, cameras=("front", "wrist"))
    (next(iter(sorted(source.rglob("episode1")))) / "low_dim_obs.pkl").write_bytes(b"cut")
    for name, crf in (("out", 18), ("other", 23)):
        options = ConvertOptions.parse(height=size, width=size, crf=crf, episodes_per_shard=2)
        engine.convert(RLBenchConverter(), str(source), folder / name, options, max_bad_fraction=0.5)
    return folder / "out"


def files(out: Path) -> list[Path]:
    """Every file of a data set."""
    return sorted(p for p in out.rglob("*") if p.is_file())


def boundaries(out: Path, path: Path) -> Iterator[int]:
    """Where the members of a shard begin and end, headers and padding included."""
    sidecar = read_sidecar(out, f"{path.parent.name}/{path.stem}")
    assert sidecar is not None, path
    for sample in sidecar.samples:
        for member in sample.members:
            yield from (member.offset - BLOCK, member.offset, member.offset + member.size)
            yield member.offset + member.size + -member.size % BLOCK


def damages(out: Path, other: Path, flips: int, seed: int) -> Iterator[Damage]:
    """Kind, place, and a function that does it; a file that is changed is put back by who calls it."""
    chance = random.Random(seed)
    everything = [p for p in files(out) if p.stat().st_size]
    shards = [p for p in everything if p.suffix == ".tar"]

    def flip(path: Path, place: int, bit: int) -> Callable[[], Any]:
        def work() -> None:
            data = bytearray(path.read_bytes())
            data[place] ^= 1 << bit
            path.write_bytes(bytes(data))

        return work

    for path in shards:
        size = path.stat().st_size
        for cut in sorted({c for c in boundaries(out, path) if c < size}):
            yield (
                "cut at a member's boundary",
                f"{path.name}:{cut}",
                lambda p=path, c=cut: p.write_bytes(p.read_bytes()[:c]),
            )
    for path in everything:
        size = path.stat().st_size
        for cut in sorted({0, 1, size // 2, size - 1}):
            yield "cut elsewhere", f"{path.name}:{cut}", lambda p=path, c=cut: p.write_bytes(p.read_bytes()[:c])
    # Half of the flips fall where the bytes are, which is in the shards; half in any file.
    sizes = [p.stat().st_size for p in everything]
    for i in range(flips):
        path = chance.choices(everything, sizes)[0] if i % 2 else chance.choice(everything)
        place = chance.randrange(path.stat().st_size)
        yield "a flipped bit", f"{path.name}:{place}", flip(path, place, chance.randrange(8))
    for path in shards:
        sidecar = read_sidecar(out, f"{path.parent.name}/{path.stem}")
        assert sidecar is not None, path
        for member in (m for s in sidecar.samples for m in s.members):
            # Name, size, time stamp, checksum, kind, and what nothing uses.
            for field in (0, 130, 140, 150, 156, 400):
                place = member.offset - BLOCK + field
                yield "a flipped bit in a header", f"{path.name}:{place}", flip(path, place, chance.randrange(8))
    for ending in (".tar", ".json"):
        a, b = sorted(out.glob(f"*/*{ending}"))
        yield "two files swapped", f"{a.name} and {b.name}", lambda a=a, b=b: _swap(a, b)
        yield "a file in place of another", f"{b.name} for {a.name}", lambda a=a, b=b: shutil.copy(b, a)
    yield "two files swapped", "both shards with their sidecars", lambda: _swap_all(out)
    for path in files(out):
        name = path.relative_to(out)
        if (other / name).read_bytes() != path.read_bytes():
            yield "a file of another run", str(name), lambda p=path, n=name: shutil.copy(other / n, p)
        if path.suffix == ".tar":
            yield (
                "a file of another run",
                f"{name} with its sidecar",
                lambda p=path, n=name: (
                    shutil.copy(other / n, p),
                    shutil.copy((other / n).with_suffix(".json"), p.with_suffix(".json")),
                ),
            )
        yield "a file missing", str(name), lambda p=path: p.unlink()
        yield "bytes appended", str(name), lambda p=path: p.write_bytes(p.read_bytes() + b"\0")
        if path.parent != out:
            stray = path.with_name(f"000099{path.suffix}")
            yield "a file twice", f"{name} as {stray.name}", lambda p=path, s=stray: shutil.copy(p, s)
        if path.suffix == ".tar":
            yield "a file twice", f"{name} after itself", lambda p=path: p.write_bytes(2 * p.read_bytes())


def _swap(a: Path, b: Path) -> None:
    one, two = a.read_bytes(), b.read_bytes()
    a.write_bytes(two)
    b.write_bytes(one)


def _swap_all(out: Path) -> None:
    for ending in (".tar", ".json"):
        _swap(*sorted(out.glob(f"*/*{ending}")))


def noticed(out: Path) -> bool:
    """Whether verify finds something wrong."""
    try:
        return not verify(out, quick=True).ok
    except ActionImgError:
        return True


def content(out: Path) -> dict[str, str]:
    """What the training reader gives: key and member to a hash."""
    from actionimg_data.training.source import ShardSource

    source = ShardSource(str(out))
    found = {}
    for row in range(len(source)):
        names = [f"{view}.{kind}.mp4" for view in source.views for kind in ("rgb", "action")]
        for name, data in source.read(row, ["json", "trajectory.npz", "cameras.npz", *names]).items():
            found[f"{source.key(row)}.{name}"] = hashlib.sha256(data).hexdigest()
    return found


def opened(out: Path) -> dict[str, str]:
    """What `open_dataset` gives, decoded: its lighter checks are those of the index, the archives and the decoders."""
    found = {}
    for sample in open_dataset(out):
        for view in sample.views:
            found[f"{sample.key}.{view}"] = hashlib.sha256(sample.rgb(view).tobytes()).hexdigest()
        found[f"{sample.key}.trajectory"] = hashlib.sha256(sample.trajectory.position.tobytes()).hexdigest()
        found[f"{sample.key}.text"] = sample.instruction
    return found


def reads(read: Callable[[Path], dict[str, str]], out: Path, true: dict[str, str]) -> str:
    """``refused``, ``true`` (equal to what was written), or ``false``."""
    try:
        return "true" if read(out) == true else "false"
    except ActionImgError:
        return "refused"


def run(out: Path, flips: int, seed: int, deep: int = 1, every: int = 1) -> tuple[Counter[str], list[str]]:
    """Damage a data set in every way; counts by kind, and what was missed.

    Args:
        out: What `make` made.
        flips: Random bits to flip.
        seed: Of their places.
        deep: Let the readers read after every so many damages.
        every: Of cuts and flips in headers, of which there are many alike, do every so many.
    """
    assert verify(out, quick=True).ok, "the data set is damaged before anything was done to it"
    whole = {path: path.read_bytes() for path in files(out)}
    trained, plain = content(out), opened(out)
    counts: Counter[str] = Counter()
    missed = []
    alike: Counter[str] = Counter()
    for number, (kind, place, damage) in enumerate(damages(out, out.parent / "other", flips, seed)):
        if kind.startswith("cut") or kind.endswith("header"):
            alike[kind] += 1
            if alike[kind] % every:
                continue
        damage()
        counts[kind] += 1
        if not noticed(out):
            missed.append(f"verify: {kind}: {place}")
        if number % deep == 0:
            ended = reads(content, out, trained)
            counts[f"training reader: {ended}"] += 1
            if ended == "false":
                missed.append(f"training reader: {kind}: {place}")
            counts[f"open_dataset: {reads(opened, out, plain)}"] += 1
        for path in files(out):
            if path not in whole:
                path.unlink()
        for path, data in whole.items():
            if not path.exists() or path.stat().st_size != len(data) or path.read_bytes() != data:
                path.write_bytes(data)
    assert verify(out, quick=True).ok, "what was put back is not what was there"
    return counts, missed


def main() -> int:
    """Damage a data set and print a table; 1 where something was missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deep", type=int, default=1, help="let the readers read after every so many damages")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, missed = run(make(Path(folder)), given.flips, given.seed, given.deep)
    kinds = {kind: count for kind, count in counts.items() if ":" not in kind}
    print("| damage | tried | found by `verify --quick` |\n|---|---|---|")
    for kind, count in kinds.items():
        bad = sum(m.startswith(f"verify: {kind}:") for m in missed)
        print(f"| {kind} | {count} | {count - bad} |")
    bad = sum(m.startswith("verify:") for m in missed)
    print(f"| all | {sum(kinds.values())} | {sum(kinds.values()) - bad} |")
    print("\n| reader | refused | as written | false |\n|---|---|---|---|")
    for reader in ("training reader", "open_dataset"):
        print(
            f"| {reader} | "
            + " | ".join(str(counts[f"{reader}: {end}"]) for end in ("refused", "true", "false"))
            + " |"
        )
    for what in missed:
        print(f"MISSED {what}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())

"""A derivation that is killed again and again, and goes on each time.

    python tests/reliability/derive_kill.py [--kills 20] [--seed 0]

Windows of generated episodes in several shards, two workers. As in ``kill.py`` half of the kills come at a random
instant and half right before or right after a rename or a link: of a shard of members, its sidecar, the index, the
quarantine, the manifest. After each kill every shard that has a sidecar is held against it. When a run comes to its
end, every file has to equal that of a run that was never interrupted, with none beside it, and each member as training
reads it has to be what the function makes of that window.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from kill import STEP, Outcome, command, end, tree  # noqa: E402  (arms this process where the environment says so)
from synthetic_converter import SyntheticConverter, write_source  # noqa: E402

from actionimg_data import engine  # noqa: E402
from actionimg_data.schemas import ConvertOptions  # noqa: E402
from actionimg_data.shards import derived, open_dataset  # noqa: E402

TARGETS = (*(".tar", ".json") * 3, "index.parquet", "quarantine.jsonl", "derived.json")
NAME = "colours"
FRAMES = 5


def colours(window: Any, slow: float = 0.0) -> Any:
    """Mean colours ``(T, 3)`` of a view's pictures, and of its action images behind them."""
    time.sleep(slow)
    shown = [part[0].reshape(len(window), -1, 3).mean(1) for part in (window.pictures, window.action_images)]
    return {"pictures": shown[0].astype("float32"), "actions": shown[1].astype("float32")}


colours.version = "1"  # type: ignore[attr-defined]


def run(out: str, workers: int, slow: float) -> None:
    """What the started program does."""
    dataset = open_dataset(out)
    assert dataset.manifest is not None
    spec = engine.specification(
        dataset.manifest, f"{NAME}.npz", "derive_kill:colours", {"slow": slow}, num_frames=FRAMES, hop=2
    )
    engine.derive(out, spec, num_workers=workers)


def start(out: Path, workers: int, slow: float, step: str | None) -> subprocess.Popen[bytes]:
    """The derivation, in a session of its own."""
    environment = {name: value for name, value in os.environ.items() if name != STEP}
    if step is not None:
        environment[STEP] = step
    command = [sys.executable, str(HERE), "--run", str(out), str(workers), str(slow)]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def prove(folder: Path, kills: int, episodes: int, shards: int, workers: int, seed: int, slow: float) -> Outcome:
    """Kill a derivation ``kills`` times and count what goes wrong.

    Args:
        folder: An empty folder to work in.
        kills: How often.
        episodes: Generated episodes.
        shards: Shards they are put into.
        workers: Processes.
        seed: Of the instants.
        slow: Seconds that each call takes, so that there is something to interrupt.
    """
    chance = random.Random(seed)
    source = write_source(folder / "source", episodes=episodes, frames=12)
    per_shard = -(-episodes // shards)
    options = ConvertOptions.parse(height=64, width=64, episodes_per_shard=per_shard)
    data, whole, out = folder / "data", folder / "whole", folder / "out"
    engine.convert(SyntheticConverter(), source, data, options)
    shutil.copytree(data, whole)
    process, begun = start(whole, workers, slow, None), time.monotonic()
    try:
        if process.wait(timeout=300) != 0:
            raise RuntimeError("the derivation itself fails")
    finally:
        end(process)
    length = time.monotonic() - begun
    wanted, result = tree(whole), Outcome()
    while result.kills < kills or out.exists():
        if not out.exists():
            shutil.copytree(data, out)
        step = None
        if result.kills < kills and chance.random() < 0.5:
            step = f"{chance.choice(['before', 'after'])}:{chance.choice(TARGETS)}:{chance.randint(1, 2)}"
        process = start(out, workers, slow, step)
        try:
            wait = chance.uniform(0.3, 1) * length if step is None and result.kills < kills else 300
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=wait)
        finally:
            end(process)
        if process.returncode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the derivation fails by itself, with exit code {process.returncode}")
        if process.returncode == 0:
            result.finished_runs += 1
            compare(out, wanted, result)
            shutil.rmtree(out)
            continue
        result.kills += 1
        result.steps["random instant" if step is None else step.rpartition(":")[0].replace(":", " the rename to ")] += 1
        look(out, result)
    return result


def look(out: Path, result: Outcome) -> None:
    """After a kill: whatever has a sidecar is whole."""
    folder = out / derived.FOLDER / NAME / "train"
    for tar in folder.glob("*.tar"):
        if not tar.with_suffix(".json").exists():
            result.between_tar_and_sidecar += 1
    for mark in folder.glob("*.json"):
        sidecar = derived.read_sidecar(out, f"{derived.FOLDER}/{NAME}/train/{mark.stem}")
        data = mark.with_suffix(".tar").read_bytes()
        result.damaged += sidecar is None or hashlib.sha256(data).hexdigest() != sidecar.sha256


def compare(out: Path, wanted: dict[str, str], result: Outcome) -> None:
    """A finished run against one that was never interrupted, and what training reads of it against the function."""
    import numpy as np

    from actionimg_data.training import IndexedActionImageDataset

    found = tree(out)
    result.left_over += len(found.keys() - wanted.keys())
    result.lost += len(wanted.keys() - found.keys())
    result.different += sum(found[name] != digest for name, digest in wanted.items() if name in found)
    table = IndexedActionImageDataset(
        out, members=NAME, num_frames=FRAMES, size=64, views=1, video=True, action="rendered", pixels="uint8"
    )
    for sample in table:
        for name, video in (("pictures", sample["video"]), ("actions", sample["action_video"])):
            mean = video.numpy().reshape(3, FRAMES, -1).mean(-1).T.astype("float32")
            result.different += not np.allclose(sample[NAME][name][0].numpy(), mean, atol=1e-4)
    keys = Counter(table.keys)
    result.doubled += sum(n - 1 for n in keys.values())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    else:
        numbers = {"kills": 20, "episodes": 12, "shards": 6, "workers": 2, "seed": 0, "slow": 0.02}
        sys.exit(command(prove, __doc__ or "", "seconds a call takes", **numbers))

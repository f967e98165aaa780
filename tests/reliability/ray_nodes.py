"""A conversion on a Ray cluster of two nodes that loses nodes and workers, against one on this machine alone.

    python tests/reliability/ray_nodes.py [--kills 3] [--episodes 24]

* nodes: a node is killed (SIGKILL, its workers with it) after some shards, and replaced by a new one; as often as said
* workers: the process of each shard's task is killed after the shard was published and before anybody heard of it

Both data sets have to equal the local one in every byte.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
# The name of this folder's files must not come before those of packages.
sys.path[0] = str(HERE.parents[1])

from ray_cluster import DyingJob, add_node, ray_cluster  # noqa: E402
from synthetic_converter import SyntheticConverter, write_source  # noqa: E402

from actionimg_data import engine  # noqa: E402
from actionimg_data.engine.ray import RayExecutor  # noqa: E402
from actionimg_data.schemas import ConvertOptions, ShardSidecar  # noqa: E402
from actionimg_data.shards.manifest import assemble  # noqa: E402
from actionimg_data.shards.prepare import Recipe  # noqa: E402

OPTIONS = ConvertOptions.parse(height=64, width=64, episodes_per_shard=1)


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Killing(engine.Observer):
    """Kills a node each ``every`` shards."""

    def __init__(self, cluster: Any, kills: int, every: int) -> None:
        self.cluster, self.left, self.every = cluster, kills, every
        self.shards = self.killed = 0

    def published(self, sidecar: ShardSidecar) -> None:
        self.shards += 1
        if self.left and self.shards % self.every == 0:
            self.left -= 1
            self.killed += 1
            self.cluster.remove_node(self.cluster.list_all_nodes()[-1], allow_graceful=False)
            add_node(self.cluster)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=24)
    given = parser.parse_args()
    ok = True
    with tempfile.TemporaryDirectory() as name, ray_cluster() as cluster:
        folder = Path(name)
        source = write_source(
            folder / "src", episodes=given.episodes, frames=10, slow=0.05, bad={"ep_003": "bad-image"}
        )
        converter = SyntheticConverter()
        engine.convert(converter, source, folder / "local", OPTIONS)
        wanted = tree(folder / "local")

        observer = Killing(cluster, given.kills, max(1, given.episodes // (given.kills + 1)))
        started = time.monotonic()
        engine.convert(converter, source, folder / "nodes", OPTIONS, executor=RayExecutor(4), observer=observer)
        same = tree(folder / "nodes") == wanted
        ok &= same
        row = {"shards": given.episodes, "nodes_killed": observer.killed, "seconds": round(time.monotonic() - started)}
        print("nodes", json.dumps({**row, "same_bytes": same}), flush=True)

        made = engine.plan(converter, source, OPTIONS)
        out, marks = folder / "workers", folder / "marks"
        out.mkdir()
        marks.mkdir()
        (out / "dataset.json").write_bytes(wanted["dataset.json"])
        (out / "plan.jsonl").write_bytes(made.to_bytes())
        manifest = made.manifest
        fields = (manifest.plan, converter, Recipe.of(manifest))
        with RayExecutor(4) as executor:
            executor.run(DyingJob(out, *fields, marks=marks), made.rows, lambda _: None, lambda _: None)
        assemble(out, manifest, made.rows)
        same = tree(out) == wanted
        ok &= same
        killed = len(list(marks.iterdir()))
        print(
            "workers", json.dumps({"shards": given.episodes, "workers_killed": killed, "same_bytes": same}), flush=True
        )
    print("same bytes" if ok else "bytes differ")
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())

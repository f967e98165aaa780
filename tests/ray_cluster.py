"""A Ray cluster of several nodes on this machine, for tests and proofs; and jobs that die in it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import PATIENCE

from actionimg_data.engine.executor import Job
from actionimg_data.schemas import ShardSidecar

MEMORY = 80 << 20


def add_node(cluster: Any) -> None:
    """One more node; asked for again where the machine is too busy for Ray's own limit of half a minute."""
    for tried in range(4):
        try:
            cluster.add_node(wait=False, num_cpus=1, object_store_memory=MEMORY)
            return
        except Exception as error:
            # Ray has no class for it.
            if tried == 3 or "timed out during startup" not in str(error):
                raise


@contextlib.contextmanager
def ray_cluster() -> Iterator[Any]:
    """A cluster of two nodes with a CPU each, to which this process is connected; the first is the head."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": MEMORY},
    )
    try:
        add_node(cluster)
        cluster.wait_for_nodes(timeout=PATIENCE)
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        for number, handler in before.items():
            signal.signal(number, handler)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@dataclass(frozen=True)
class DyingJob(Job):
    """Its process dies after each shard was published and before anybody hears of it, once a shard."""

    marks: Path = Path()

    def run_shard(self, row: Any, report: Any, skip: Any = None, crew: Any = None) -> ShardSidecar:
        sidecar = super().run_shard(row, report, skip, crew)
        mark = self.marks / row.shard.replace("/", "-")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return sidecar

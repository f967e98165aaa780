"""Which executor runs the shards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from .executor import Executor

ExecutorName = Literal["local", "ray"]


def make_executor(
    name: ExecutorName,
    num_workers: int | None = None,
    ray_address: str | None = None,
    ray_task: str | None = None,
    *,
    episode_timeout: float | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Executor:
    """The executor of a name.

    Args:
        name: ``local``: processes of this machine; ``ray``: tasks of a Ray cluster.
        num_workers: Cores to use, by default 1; for Ray the number of shards under way at once, by default as many as
            there is room for.
        ray_address: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; by default a cluster of this machine alone.
        ray_task: What a shard needs of a machine, e.g. ``cpus=2,memory=4GiB``.
        episode_timeout: Seconds an episode may take in a local process; see `Workers`.
        warn: Called with a line about a local process that says nothing.

    Raises:
        MissingExtraError: Ray is not installed.
        InvalidSpecError: ``ray_task`` is something else.
    """
    if name == "ray":
        from .ray import RayExecutor, TaskResources

        return RayExecutor(num_workers, ray_address, TaskResources.parse(ray_task or ""))
    from .local import Workers

    return Workers(num_workers or 1, episode_timeout, warn)

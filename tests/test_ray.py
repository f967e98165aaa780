"""Shards as Ray tasks: the same bytes as on one machine, whatever dies."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_cluster import DyingJob, add_node, ray_cluster
from synthetic_converter import SyntheticConverter, write_source

from actionimg_data import engine
from actionimg_data.engine import Job, make_executor
from actionimg_data.engine.ray import RayExecutor, TaskResources, _check_machine
from actionimg_data.errors import InvalidSpecError, MissingExtraError, OutputError, WorkerError
from actionimg_data.schemas import ConvertOptions, ShardSidecar
from actionimg_data.shards import open_dataset
from actionimg_data.shards.manifest import assemble
from actionimg_data.shards.plan import tool_versions
from actionimg_data.shards.prepare import Recipe

pytest.importorskip("ray")

OPTIONS = ConvertOptions.parse(height=64, width=64, episodes_per_shard=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster() as running:
        yield running


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def convert(source: str, out: Path, **how: Any) -> engine.Result:
    return engine.convert(SyntheticConverter(), source, out, OPTIONS, **how)


class Watching(engine.Observer):
    def __init__(self) -> None:
        self.ended: list[str] = []
        self.shards: list[str] = []

    def progress(self, event: Any) -> None:
        if event.ended:
            self.ended.append(event.episode)

    def published(self, sidecar: ShardSidecar) -> None:
        self.shards.append(sidecar.shard)


class KillingANode(Watching):
    """Kills a node, and its workers with it, after the first shard; another one takes its place."""

    def __init__(self, cluster: Any) -> None:
        super().__init__()
        self.cluster = cluster
        self.killed = 0

    def published(self, sidecar: ShardSidecar) -> None:
        super().published(sidecar)
        if not self.killed:
            self.killed += 1
            self.cluster.remove_node(self.cluster.list_all_nodes()[-1], allow_graceful=False)
            add_node(self.cluster)


def test_a_node_that_is_killed_in_a_run_and_replaced_changes_no_byte(cluster: Any, tmp_path: Path) -> None:
    source = write_source(tmp_path / "src", episodes=5, frames=8, slow=0.04, bad={"ep_003": "bad-image"})
    convert(source, tmp_path / "local")
    observer = KillingANode(cluster)
    result = convert(source, tmp_path / "out", executor=RayExecutor(4), observer=observer)
    assert observer.killed == 1
    assert (result.shards, [q.code for q in result.quarantined]) == (5, ["bad-image"])
    assert sorted(observer.ended) == [f"task/ep_{i:03d}" for i in range(5)]
    assert tree(tmp_path / "out") == tree(tmp_path / "local")


def test_a_worker_that_dies_after_it_published_changes_no_byte(cluster: Any, tmp_path: Path) -> None:
    source = write_source(tmp_path / "src", episodes=2, frames=4)
    convert(source, tmp_path / "local")
    made = engine.plan(SyntheticConverter(), source, OPTIONS)
    (tmp_path / "out").mkdir()
    for name in ("dataset.json", "plan.jsonl"):
        content = made.to_bytes() if name == "plan.jsonl" else (tmp_path / "local" / name).read_bytes()
        (tmp_path / "out" / name).write_bytes(content)
    (tmp_path / "marks").mkdir()
    manifest = made.manifest
    fields = (manifest.plan, SyntheticConverter(), Recipe.of(manifest))
    job = DyingJob(tmp_path / "out", *fields, marks=tmp_path / "marks")
    published: list[str] = []
    with RayExecutor(2) as executor:
        executor.run(job, made.rows, lambda _: None, lambda sidecar: published.append(sidecar.shard))
    assert assemble(tmp_path / "out", manifest, made.rows) is not None
    assert sorted(published) == ["train/000000", "train/000001"]
    assert len(list((tmp_path / "marks").iterdir())) == 2
    assert tree(tmp_path / "out") == tree(tmp_path / "local")


def test_members_are_derived_as_tasks(cluster: Any, tmp_path: Path) -> None:
    source = write_source(tmp_path / "src", episodes=3, frames=8)
    convert(source, tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.manifest is not None
    spec = engine.specification(dataset.manifest, "size.npy", "synthetic_converter:window_size", num_frames=5)
    shutil.copytree(tmp_path / "out", tmp_path / "local")
    with RayExecutor() as executor:
        done = engine.derive(tmp_path / "out", spec, executor=executor)
    assert (done.made, done.manifest.complete) == (3, True)
    engine.derive(tmp_path / "local", spec)
    assert tree(tmp_path / "out") == tree(tmp_path / "local")


def test_an_episode_that_kills_two_workers_is_quarantined_and_errors_of_data_are_not_tried_again(
    cluster: Any, tmp_path: Path
) -> None:
    source = write_source(tmp_path / "src", episodes=3, frames=3, bad={"ep_000": "kill", "ep_001": "read"})
    observer = Watching()
    result = convert(source, tmp_path / "out", executor=RayExecutor(3), observer=observer, max_bad_fraction=1.0)
    rows = {row.id: row for row in result.quarantined}
    assert {key: row.code for key, row in rows.items()} == {
        "task/ep_000": "worker-crashed",
        "task/ep_001": "wrong-format",
    }
    assert "died 2 times" in rows["task/ep_000"].message
    assert sorted(observer.ended) == ["task/ep_000", "task/ep_001", "task/ep_002"]


def test_what_is_no_error_of_data_ends_the_run(cluster: Any, tmp_path: Path) -> None:
    source = write_source(tmp_path / "src", episodes=2, frames=3)
    made = engine.plan(SyntheticConverter(), source, OPTIONS)
    job = Job(
        tmp_path / "elsewhere",
        made.manifest.plan,
        SyntheticConverter(),
        Recipe.of(made.manifest),
    )
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(OutputError, match="not the same folder on this machine"), RayExecutor(1) as executor:
        executor.run(job, made.rows, lambda _: None, lambda _: None)
    broken = dataclasses.replace(job, recipe=None)  # type: ignore[arg-type]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "dataset.json").touch()
    with pytest.raises(WorkerError, match="not about the data"), RayExecutor(1) as executor:
        executor.run(broken, made.rows, lambda _: None, lambda _: None)

    def enough(_: Any) -> None:
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"), RayExecutor(2) as executor:
        executor.run(dataclasses.replace(job, plan="0" * 64), made.rows, enough, enough)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not list((tmp_path / "elsewhere").rglob("*.tmp"))


def test_a_machine_that_would_make_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").touch()
    job = Job(tmp_path, "0" * 64, SyntheticConverter(), Recipe(("front",), (), OPTIONS))
    _check_machine(job, tool_versions())
    with pytest.raises(WorkerError, match=r"libavcodec 1\.2\.3.*same container image"):
        _check_machine(job, {**tool_versions(), "libavcodec": "1.2.3"})


def test_what_a_task_needs_is_said_in_words() -> None:
    task = TaskResources.parse("cpus=2, memory=4GiB,fast_disk=0.5")
    assert task.options() == {"num_cpus": 2, "max_retries": 0, "memory": 4 << 30, "resources": {"fast_disk": 0.5}}
    assert TaskResources.parse("") == TaskResources()
    for bad in ("cpus", "cpus=0", "memory=4 parsecs", "cpus=2GB", "cpus=1,cpus=2", "=3"):
        with pytest.raises(InvalidSpecError, match="ray_task"):
            TaskResources.parse(bad)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install .ray>="):
        make_executor("ray", 1)


def test_ray_and_local_executors_are_made_by_name() -> None:
    executor = make_executor("ray", None, "10.0.0.1:6379", "cpus=2")
    assert isinstance(executor, RayExecutor)
    assert (executor.address, executor.num_workers, executor.task) == ("10.0.0.1:6379", None, TaskResources(2.0))

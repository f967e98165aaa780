"""A data set among processes: every sample once an epoch, however they are started, stopped and counted."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import pickle
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import PATIENCE, run_program
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from training_data import make_dataset

from actionimg_data.errors import InvalidSpecError
from actionimg_data.training import ActionImageDataset, SkippedSampleWarning, StreamOptions, collate
from actionimg_data.training import datasets as module

pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]

COUNT = 26
SMALL: dict[str, Any] = {"num_frames": 1, "size": 32, "views": 1, "plucker": False, "action": "none", "seed": 3}
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    return make_dataset(folder, [1 + i % 2 for i in range(COUNT)], views=("front",), size=32, action_codec="none")[0]


@pytest.fixture(autouse=True)
def _no_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def each_once(keys: Any) -> bool:
    counts = Counter(keys)
    return len(counts) == COUNT and set(counts.values()) == {1}


def keys_of(batches: Any) -> list[str]:
    return [key for batch in batches for key in batch["key"]]


def _in_one(rank: int, count: int, pipe: Any, work: Callable[..., Iterator[Any]], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    # Its models and groups live as long as it: their destructors wait, with Python's lock, for threads that want it.
    running = work(rank, count, *given)
    try:
        pipe.send(next(running))
    except BaseException:
        pipe.send(RuntimeError(traceback.format_exc()))
        raise
    finally:
        pipe.close()
        os._exit(0)


def in_processes(count: int, work: Callable[..., Iterator[Any]], *given: Any) -> list[Any]:
    """What ``work(rank, count, *given)`` yields first in processes of its own.

    They are forked from a server that has imported torch and done nothing with it: one that had computed may hang in
    its children, whose OpenMP has no threads.
    """
    context = multiprocessing.get_context("forkserver")
    # What DistributedDataParallel and accelerate import when they are made, each process would import for itself.
    needed = ["torch", "torch._dynamo", "accelerate", "pytest", "actionimg_data.training", "training_data"]
    context.set_forkserver_preload(needed)

    pipes, processes = [], []
    for rank in range(count):
        here, there = context.Pipe()
        processes.append(context.Process(target=_in_one, args=(rank, count, there, work, given)))
        processes[-1].start()
        there.close()
        pipes.append(here)
    try:
        assert all(pipe.poll(PATIENCE) for pipe in pipes)
        found = [pipe.recv() for pipe in pipes]
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    for result in found:
        if isinstance(result, Exception):
            raise result
    return found


class EverySecond:
    """A loader that hands out every second batch of another: to process 0 of 2, say."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.loader), 0, None, 2)


# ---- how jobs are started ------------------------------------------------------------------------------------------


def plain_ddp(rank: int, ranks: int, path: Path, store: Path) -> Iterator[list[str]]:
    """Data set and loader are made before the process group, as Lightning makes them."""
    data = ActionImageDataset(path, batch_size=2, **SMALL)
    loader = DataLoader(data, batch_size=2, num_workers=1 + rank, collate_fn=collate)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    assert data.check(loader) == len(data)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 1))
    keys = []
    with model.join():
        for batch in loader:
            model(batch["action_8d"][:, 0]).square().mean().backward()
            keys += batch["key"]
    with pytest.raises(InvalidSpecError, match=r"EverySecond.*each sample of an epoch once"):
        data.check(EverySecond(loader))
    torch.distributed.destroy_process_group()
    yield keys


def test_plain_ddp(dataset: Path, tmp_path: Path) -> None:
    found = in_processes(2, plain_ddp, dataset, tmp_path / "store")
    assert each_once(itertools.chain(*found))


def with_accelerate(rank: int, ranks: int, path: Path, port: int) -> Iterator[list[list[str]]]:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    data = ActionImageDataset(path, batch_size=2, **SMALL)
    loader = DataLoader(data, batch_size=2, num_workers=1, collate_fn=collate)
    found = []
    for dispatch in (False, True):
        accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=dispatch))
        prepared = accelerator.prepare(loader)
        # The one that dispatches reads in the first process only; the others would wait for it.
        if rank == 0 or not dispatch:
            with pytest.raises(InvalidSpecError, match=r"accelerate deals out.*prepare\(\).*rank=0, world_size=1"):
                next(iter(prepared))
        accelerator.wait_for_everyone()
    # What the error says to do: the model is prepared, the loader is not.
    found.append(keys_of(loader))
    # Or accelerate deals: then the data set does not.
    whole = ActionImageDataset(path, rank=0, world_size=1, batch_size=1, **SMALL)
    config = DataLoaderConfiguration(dispatch_batches=False)
    prepared = Accelerator(cpu=True, dataloader_config=config).prepare(DataLoader(whole, 1, collate_fn=collate))
    found.append(keys_of(prepared))
    yield found


def test_accelerate(dataset: Path) -> None:
    pytest.importorskip("accelerate")
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = in_processes(2, with_accelerate, dataset, port)
    for shares in zip(*found, strict=True):
        assert each_once(itertools.chain(*shares))


def test_torchrun(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "train.py"
    # What torchrun tells its processes is what counts; they need not import torch to say it.
    script.write_text(
        "import json, os, sys, pathlib\n"
        "pathlib.Path(sys.argv[1], os.environ['RANK']).write_text(json.dumps(dict(os.environ)))\n"
    )
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), str(tmp_path)]
    run_program([sys.executable, *words], env={**os.environ, "OMP_NUM_THREADS": "1"})
    keys = []
    for rank in range(2):
        with monkeypatch.context() as patch:
            for name, value in json.loads((tmp_path / str(rank)).read_text()).items():
                patch.setenv(name, value)
            share = [sample["key"] for sample in ActionImageDataset(dataset, **SMALL)]
            assert len(share) == COUNT // 2
            keys += share
    assert each_once(keys)


@pytest.mark.parametrize(("rank", "size"), [("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")])
def test_processes_are_those_of_the_environment_when_iteration_begins(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, rank: str, size: str
) -> None:
    data = ActionImageDataset(dataset, **SMALL)
    keys: list[str] = []
    for number in range(3):
        monkeypatch.setenv(rank, str(number))
        monkeypatch.setenv(size, "3")
        share = [sample["key"] for sample in data]
        assert len(share) == len(data)
        keys += share
    assert each_once(keys)


def test_a_spawned_worker_is_told_which_process_began_it(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is spawned knows nothing of the process group that its parent is in."""
    data = ActionImageDataset(dataset, **SMALL)
    keys = []
    for rank in range(2):
        monkeypatch.setattr(module, "this_process", lambda rank=rank: (rank, 2))
        sent = pickle.dumps(data)
        monkeypatch.setattr(module, "this_process", lambda: (0, 1))
        with monkeypatch.context() as patch:
            info = type("Info", (), {"id": 0, "num_workers": 1})
            patch.setattr(module, "get_worker_info", lambda info=info: info)
            keys += [sample["key"] for sample in pickle.loads(sent)]
    assert each_once(keys)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"WORLD_SIZE": "2"}, "expected RANK and WORLD_SIZE, found WORLD_SIZE=2"),
        ({"RANK": "0"}, "found RANK=0"),
        ({"SLURM_NTASKS": "4"}, "SLURM_PROCID and SLURM_NTASKS"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "names no process"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "names no process"),
    ],
)
def test_half_an_environment_is_refused_when_iteration_begins(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], found: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    data = ActionImageDataset(dataset, **SMALL)
    with pytest.raises(InvalidSpecError, match=found):
        next(iter(data))
    assert next(iter(ActionImageDataset(dataset, rank=1, world_size=2, **SMALL)))


def test_one_process_of_one_needs_no_number(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert each_once(sample["key"] for sample in ActionImageDataset(dataset, **SMALL))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_loses_or_doubles_samples_is_noticed(dataset: Path, workers: int) -> None:
    data = ActionImageDataset(dataset, stream=StreamOptions(batch_size=3, epochs=None), **SMALL)
    loader = DataLoader(data, batch_size=3, num_workers=workers, collate_fn=collate)
    assert data.check(loader) == COUNT
    with pytest.raises(InvalidSpecError, match=r"EverySecond.*expected 26 samples, found 12 lost, 0 more than once"):
        data.check(EverySecond(loader))
    with pytest.raises(InvalidSpecError, match="0 lost, 26 more than once"):
        data.check(itertools.chain(loader, loader))
    with pytest.raises(InvalidSpecError, match="do not say which samples"):
        data.check(DataLoader(data, batch_size=3, collate_fn=list))
    assert "video" in next(iter(loader))


# ---- restarts ------------------------------------------------------------------------------------------------------


def loader_of(data: ActionImageDataset, workers: int, batch: int) -> StatefulDataLoader:
    return StatefulDataLoader(data, batch_size=batch, num_workers=workers, collate_fn=collate)


@pytest.mark.parametrize("everyone", [True, False])
def test_a_preempted_job_of_four_finishes_its_epoch_on_two_with_every_sample_once(
    dataset: Path, tmp_path: Path, everyone: bool
) -> None:
    keys, states = [], []
    for rank in range(4):
        data = ActionImageDataset(dataset, rank=rank, world_size=4, batch_size=2, **SMALL)
        data.set_epoch(5)
        loader = loader_of(data, 2, 2)
        running = iter(loader)
        keys += keys_of(itertools.islice(running, 2))
        torch.save(loader.state_dict(), tmp_path / f"{rank}.pt")
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in range(4 if everyone else 1)]
    for rank in range(2):
        data = ActionImageDataset(dataset, rank=rank, world_size=2, batch_size=3, **SMALL)
        data.load_state_dict(states)
        assert data.epoch == 5
        keys += keys_of(loader_of(data, rank, 3))
    assert each_once(keys)
    # And the next epoch is a whole one, also where nobody says that it is another.
    assert len(keys_of(loader_of(data, 1, 3))) == len(data)


def test_a_restart_from_a_restart_and_over_the_end_of_an_epoch(dataset: Path) -> None:
    """Three shapes of a job in one endless stream: two epochs, each sample once in each."""
    seen: Counter[str] = Counter()
    state: Any = None
    for ranks, workers, batches in ((3, 1, 5), (2, 2, 6), (1, 0, 13)):
        loaders = []
        for rank in range(ranks):
            data = ActionImageDataset(dataset, rank=rank, world_size=ranks, epochs=None, batch_size=1, **SMALL)
            if state is not None:
                data.load_state_dict(state)
            loaders.append(loader_of(data, workers, 1))
        for loader in loaders:
            seen.update(keys_of(itertools.islice(iter(loader), batches)))
        state = [loader.state_dict() for loader in loaders]
    assert sum(seen.values()) == 40
    rest = ActionImageDataset(dataset, rank=0, world_size=1, epochs=None, **SMALL)
    rest.load_state_dict(state)
    assert rest.epoch == 1
    seen.update(sample["key"] for sample in itertools.islice(iter(rest), 12))
    assert set(seen.values()) == {2}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_without_a_state_goes_on_after_so_many_batches(dataset: Path, workers: int) -> None:
    def loaded(state: Any = None) -> tuple[ActionImageDataset, DataLoader[Any]]:
        data = ActionImageDataset(dataset, batch_size=4, **SMALL)
        if state is not None:
            data.load_state_dict(state)
        return data, DataLoader(data, batch_size=4, num_workers=workers, collate_fn=collate)

    data, loader = loaded()
    whole = [batch["key"] for batch in loader]
    running = iter(loader)
    head = [next(running)["key"] for _ in range(3)]
    if workers:
        with pytest.raises(InvalidSpecError, match=r"in the loader's workers.*state_after"):
            data.state_dict()
    state = json.loads(json.dumps(data.state_after(3)))
    again, loader = loaded(state)
    assert head + [batch["key"] for batch in loader] == whole
    assert [batch["key"] for batch in loader] == whole
    again.load_state_dict(state)
    further = again.state_after(2)
    third, loader = loaded(further)
    assert [batch["key"] for batch in loader] == whole[5:]
    third.load_state_dict(further)
    third.set_epoch(7)
    assert len(keys_of(loader)) == COUNT


def test_only_options_that_change_samples_are_refused_and_by_their_name(dataset: Path) -> None:
    data = ActionImageDataset(dataset, **SMALL)
    running = iter(data)
    head = [next(running)["key"] for _ in range(3)]
    state = data.state_dict()
    for name, value in {"seed": 4, "num_frames": 5, "size": 16, "shuffle": False, "text_dropout": 0.5}.items():
        with pytest.raises(InvalidSpecError, match=f"another run: {name}|{name}: the state|{name}"):
            ActionImageDataset(dataset, **{**SMALL, name: value}).load_state_dict(state)
    more = {"batch_size": 5, "drop_last": False, "on_error": "skip", "pixels": "uint8", "verify": False, "epochs": 2}
    again = ActionImageDataset(dataset, **{**SMALL, **more})
    again.load_state_dict(state)
    tail = [sample["key"] for sample in again]
    assert each_once([*head, *tail[: COUNT - 3]])
    assert each_once(tail[COUNT - 3 :])


def test_with_samples_left_out_workers_differ_and_the_rest_still_comes_once(dataset: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    for tar in sorted((copy / "train").glob("*.tar"))[:2]:
        body = bytearray(tar.read_bytes())
        body[len(body) // 4 : len(body) // 4 * 3] = bytes(len(body) // 4 * 3 - len(body) // 4)
        tar.write_bytes(body)
    options = {**SMALL, "on_error": "skip", "max_errors": COUNT}
    with pytest.warns(SkippedSampleWarning):
        whole = {sample["key"] for sample in ActionImageDataset(copy, **options)}
    assert 0 < len(whole) < COUNT
    keys, states = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedSampleWarning)
        for rank in range(2):
            data = ActionImageDataset(copy, rank=rank, world_size=2, batch_size=2, **options)
            running = iter(data)
            keys += [next(running)["key"] for _ in range(3 + 4 * rank)]
            states.append(data.state_dict())
            with pytest.raises(InvalidSpecError, match="skipped"):
                data.state_after(1)
        rest = ActionImageDataset(copy, rank=0, world_size=1, **options)
        rest.load_state_dict(states)
        keys += [sample["key"] for sample in rest]
    assert Counter(keys) == Counter(whole)

"""The Hugging Face Hub: uploads that go on where they stopped, and data sets read from there; against a stand-in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hub_server import Hub, running
from training_data import make_dataset

import actionimg_data as aid
from actionimg_data.cli import main
from actionimg_data.export import hub as uploads
from actionimg_data.training import ActionImageDataset

huggingface_hub = pytest.importorskip("huggingface_hub")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("hub"), [9, 6, 12], size=32)[0]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import HfFileSystem, constants

    with running() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "none")
        HfFileSystem.clear_instance_cache()
        yield server
        HfFileSystem.clear_instance_cache()


def test_an_upload_goes_on_where_it_stopped_and_every_command_reads_it_there(
    dataset: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "BATCH_FILES", 3)
    hub.fail_commits_after = 2
    command = ("export", "huggingface", dataset, tmp_path / "folder", "--license", "mit", "--push", "lab/shards")
    stopped = run(*command)
    assert stopped.exit_code == 1
    assert "What was uploaded stays" in stopped.stderr
    assert "dataset.json" not in hub.repos["lab/shards"]
    assert run("inspect", "hf://datasets/lab/shards", "--list").exit_code == 1
    first = [name for commit in hub.commits for name in commit]

    hub.fail_commits_after = None
    # Its listings are kept as long as a process runs; this is the next one.
    huggingface_hub.HfFileSystem.clear_instance_cache()
    done = run(*command, "--json")
    assert done.exit_code == 0, done.output
    every = [name for commit in hub.commits for name in commit]
    assert len(every) == len(set(every)) > len(first) == 6
    assert hub.commits[-1] == ["dataset.json"]
    folder = tmp_path / "folder"
    sent = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert hub.repos["lab/shards"] == sent
    assert hub.private["lab/shards"]
    assert any("hf://datasets/lab/shards" in note for note in json.loads(done.stdout)["notes"])

    rows = json.loads(run("inspect", "hf://datasets/lab/shards", "--list", "--json").stdout)
    assert rows["found"] == 3
    remote, local = aid.open_dataset("hf://datasets/lab/shards"), aid.open_dataset(dataset)
    assert (remote[1].rgb(remote[1].views[0]) == local[1].rgb(local[1].views[0])).all()
    assert sum(1 for _ in ActionImageDataset("hf://datasets/lab/shards", num_frames=5)) == 3


def test_a_card_has_a_picture_and_what_cannot_be_is_said(dataset: Path, hub: Hub, tmp_path: Path) -> None:
    result = run("export", "huggingface", dataset, tmp_path / "folder", "--public")
    assert result.exit_code == 2
    assert "Add --push" in result.stderr
    assert run("export", "huggingface", dataset, tmp_path / "folder").exit_code == 0
    picture = tmp_path / "folder" / "pictures" / "first_sample.jpg"
    assert picture.read_bytes()[:2] == b"\xff\xd8"
    assert f"({picture.relative_to(tmp_path / 'folder')})" in (tmp_path / "folder" / "README.md").read_text()
    named_badly = run("export", "huggingface", dataset, tmp_path / "folder", "--push", "no such/na me")
    assert named_badly.exit_code == 1
    assert "error[" in named_badly.stderr
    (tmp_path / "folder" / "dataset.json").write_text("{}")
    other = run("export", "huggingface", dataset, tmp_path / "folder", "--push", "lab/other")
    assert "exists already" in other.stderr
    assert not hub.commits

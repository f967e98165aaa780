"""Whatever is broken in a data set is made again, and nothing else is touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from synthetic_converter import SyntheticConverter, write_source
from test_engine import run, tree

from actionimg_data import engine
from actionimg_data.cli import main
from actionimg_data.converters import base
from actionimg_data.errors import CorruptDatasetError
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards.manifest import read_manifest

TWO = ConvertOptions.parse(height=64, width=64, episodes_per_shard=2)


class _Entry:
    name, value, dist = "synthetic", "synthetic_converter:SyntheticConverter", None

    @staticmethod
    def load() -> type[SyntheticConverter]:
        return SyntheticConverter


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {**base.entry_points(), "synthetic": _Entry()}
    monkeypatch.setattr(base, "entry_points", lambda: entries)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source and its data set of three shards; the second has an episode in quarantine, the third nothing else."""
    folder = tmp_path_factory.mktemp("repair")
    src = write_source(folder / "src", episodes=5, frames=2, bad={"ep_002": "bad-image", "ep_004": "bug"})
    run(src, folder / "out", TWO)
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path / "out"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


BREAKS: dict[str, Callable[[Path], None]] = {"flipped": flip, "cut": cut, "gone": Path.unlink}
FILES = (
    "train/000000.tar",
    "train/000001.tar",
    "train/000000.json",
    "train/000001.json",
    "train/000002.json",
    "index.parquet",
    "quarantine.jsonl",
    "plan.jsonl",
)


def test_a_whole_data_set_is_left_as_it_is(out: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    found = engine.repair(out)
    assert (found.ok, found.checked, found.made) == (True, 3, [])
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_made_again_to_the_same_bytes_and_no_other_is(
    made: Path, out: Path, name: str, how: str
) -> None:
    others = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p != out / name}
    BREAKS[how](out / name)
    assert not engine.verify(out, quick=True).ok
    found = engine.repair(out)
    assert found.ok
    assert found.made == [name]
    assert tree(out) == tree(made / "out")
    if not name.endswith(".tar"):
        # A shard is published again with its sidecar.
        assert {p: p.stat().st_mtime_ns for p in others} == others
    assert engine.verify(out, quick=True).ok


def test_everything_but_the_manifest_may_be_broken_at_once(made: Path, out: Path) -> None:
    for name in FILES:
        flip(out / name)
    found = engine.repair(out)
    assert found.ok
    assert len(found.made) == 6
    assert tree(out) == tree(made / "out")


def test_a_repair_that_was_killed_leaves_nothing_in_the_way(made: Path, out: Path) -> None:
    (out / "repair.tmp" / "train").mkdir(parents=True)
    (out / "repair.tmp" / "train" / "000000.tar").write_bytes(b"half")
    flip(out / "train/000000.tar")
    assert engine.repair(out).ok
    assert tree(out) == tree(made / "out")
    (out / "repair.tmp").mkdir()
    (out / "train/000001.json").unlink()
    run(str(made / "src"), out, TWO)
    assert tree(out) == tree(made / "out")
    assert not (out / "repair.tmp").exists()


def test_what_cannot_be_made_again_is_left_and_named(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=4, frames=2)
    out = tmp_path / "out"
    run(src, out, TWO)
    before = tree(out)
    flip(out / "train/000000.tar")
    broken = tree(out)
    write_source(tmp_path / "src", episodes=4, frames=2, bad={"ep_001": "nothing"})
    found = engine.repair(out)
    assert found.left == [("train/000000.tar", "its source has changed: task/ep_001")]
    assert tree(out) == broken
    shutil.rmtree(tmp_path / "src")
    assert "does not exist" in engine.repair(out).left[0][1]
    write_source(tmp_path / "src", episodes=4, frames=2)
    (out / "train" / "mine.tar").write_bytes(b"")
    found = engine.repair(out)
    assert found.left == [("train/mine.tar", "is in no plan: move it elsewhere")]
    (out / "train" / "mine.tar").unlink()
    assert tree(out) == before


def test_other_versions_do_not_repair(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(out / "train/000000.tar")
    from actionimg_data.engine import restoration

    versions = restoration.tool_versions()
    monkeypatch.setattr(restoration, "tool_versions", lambda: {**versions, "av": "99.0"})
    ((name, reason),) = engine.repair(out).left
    assert name == "train/000000.tar"
    assert f"av {versions['av']} (here 99.0)" in reason


def test_a_data_set_that_was_extended_is_repaired_under_the_plans_it_was_made_with(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=3, frames=2)
    out = tmp_path / "out"
    run(src, out, TWO)
    write_source(tmp_path / "src", episodes=6, frames=2)
    run(src, out, TWO, extend=True)
    before = tree(out)
    for name in ("train/000001.tar", "train/000003.tar", "train/000000.json", "plan.jsonl"):
        flip(out / name)
        assert engine.repair(out).ok
        assert tree(out) == before


def test_recorded_decode_errors_that_are_lost_are_said_to_be(out: Path) -> None:
    engine.record(out, engine.verify(out))
    flip(out / "index.parquet")
    found = engine.repair(out)
    assert (found.recorded_errors_lost, found.made) == (True, ["index.parquet", "dataset.json"])
    assert engine.verify(out).ok


def test_of_a_data_set_that_is_not_complete_broken_shards_are_taken_back(made: Path, out: Path) -> None:
    src = str(made / "src")
    (out / "dataset.json").write_bytes(b"{")
    (out / "train/000002.json").unlink()
    with pytest.raises(CorruptDatasetError, match="command that made this data set"):
        engine.repair(out)
    manifest = read_manifest(made / "out")
    blank = manifest.model_copy(update={"complete": False, "counts": None, "shards": (), "files": {}}).sealed()
    from actionimg_data.schemas.dataset import to_bytes

    (out / "dataset.json").write_bytes(to_bytes(blank))
    flip(out / "train/000000.tar")
    found = engine.repair(out)
    assert (found.convert_again, found.ok) == (["train/000000"], True)
    assert run(src, out, TWO).shards == 2
    assert tree(out) == tree(made / "out")


def test_the_command_says_what_it_did(made: Path, out: Path) -> None:
    flip(out / "train/000001.tar")
    result = CliRunner().invoke(main, ["verify", str(out), "--quick", "-j", "1"])
    assert result.exit_code == 3
    result = CliRunner().invoke(main, ["repair", str(out), "-j", "1"])
    assert result.exit_code == 0, result.output
    assert "made again: train/000001.tar" in result.stdout
    assert f"next: actionimg verify {out}" in " ".join(result.stdout.split())
    (out / "train/stray.json").write_text("{}")
    result = CliRunner().invoke(main, ["repair", str(out), "-j", "1", "--json"])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["ok"], found["left"][0]["name"], found["shards_checked"]) == (False, "train/stray.json", 3)


def test_finalize_assembles_what_others_made_and_names_what_is_missing(made: Path, tmp_path: Path) -> None:
    src = str(made / "src")
    out = tmp_path / "out"
    run(src, out, TWO, shard_index=0, num_shards=3)
    run(src, out, TWO, shard_index=2, num_shards=3)
    result = CliRunner().invoke(main, ["finalize", str(out)])
    assert result.exit_code == 1
    assert "1 shards missing: train/000001" in result.stderr
    for ending in ("tar", "json"):
        shutil.copy(made / f"out/train/000001.{ending}", out / "train")
    result = CliRunner().invoke(main, ["finalize", str(out), "--json"])
    assert result.exit_code == 4
    assert json.loads(result.stdout)["quarantined"] == 2
    assert tree(out) == tree(made / "out")

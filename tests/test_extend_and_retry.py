"""Data sets that go on: from a source that has grown, after a fix, under other versions, after being cut short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_converter import SyntheticConverter, write_source
from test_engine import run, tars, tree

from actionimg_data import engine
from actionimg_data.errors import InvalidSpecError, OutputExistsError
from actionimg_data.model import EpisodeRef
from actionimg_data.schemas import ConverterRecord, ConvertOptions
from actionimg_data.schemas.dataset import to_line
from actionimg_data.shards import layout, open_dataset
from actionimg_data.shards import plan as planning
from actionimg_data.shards.manifest import read_manifest, read_plan
from actionimg_data.shards.rows import PlanRows

TWO = ConvertOptions.parse(height=64, width=64, episodes_per_shard=2)


def mend(src: Path, **fixed: Any) -> None:
    """Change the source's own file; an episode that is no longer bad has another location, as a mended file would."""
    path = src / "synthetic.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fixed}))


def test_new_episodes_go_into_new_shards_and_the_old_ones_are_not_touched(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=3)
    out = tmp_path / "out"
    run(src, out, TWO)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted((out / "train").iterdir())}
    first = read_manifest(out)
    mend(tmp_path / "src", episodes=6)
    with pytest.raises(OutputExistsError, match="3 episodes new in the source: task/ep_003, task/ep_004, task/ep_005"):
        run(src, out, TWO)
    done = run(src, out, TWO, extend=True)
    assert (done.shards, done.resumed_shards) == (2, 2)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before} == before
    manifest = read_manifest(out)
    assert (manifest.counts.episodes, manifest.counts.shards) == (6, 4)
    assert manifest.earlier[0].plan == first.plan
    assert manifest.earlier[0].shards == ("train/000000", "train/000001")
    assert [len(row.episodes) for row in read_plan(out)] == [2, 1, 2, 1]
    assert engine.verify(out).ok
    assert [s.meta.episode for s in open_dataset(out)] == [f"task/ep_{i:03d}" for i in range(6)]
    # The same command, with and without --extend, has nothing more to do.
    after = tree(out)
    for extend in (True, False):
        assert run(src, out, TWO, extend=extend).shards == 0
    assert tree(out) == after
    # And it can grow again.
    mend(tmp_path / "src", episodes=7)
    run(src, out, TWO, extend=True)
    assert [e.plan for e in read_manifest(out).earlier] == [first.plan, manifest.plan]
    assert engine.verify(out).ok
    assert len(open_dataset(out)) == 7


def test_without_a_stated_size_new_shards_have_that_of_the_old_ones(tmp_path: Path) -> None:
    options = ConvertOptions.parse(height=16, width=16)
    src = write_source(tmp_path / "src", episodes=2, frames=1)
    run(src, tmp_path / "out", options)
    mend(tmp_path / "src", episodes=70)
    run(src, tmp_path / "out", options, extend=True)
    assert {len(row.episodes) for row in read_plan(tmp_path / "out")} == {1}
    assert run(src, tmp_path / "out", options).shards == 0


def test_a_source_that_lost_or_changed_episodes_is_refused_with_their_names(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=3)
    out = tmp_path / "out"
    run(src, out, TWO)
    before = tree(out)
    mend(tmp_path / "src", episodes=2)
    with pytest.raises(OutputExistsError, match=r"1 episode gone from the source: task/ep_002"):
        run(src, out, TWO, extend=True)
    mend(tmp_path / "src", episodes=4, bad={"ep_001": "nothing"})
    with pytest.raises(OutputExistsError, match=r"1 episode changed in the source: task/ep_001") as error:
        run(src, out, TWO, extend=True, retry_quarantined=True)
    assert "new in the source" not in str(error.value)
    with pytest.raises(OutputExistsError, match=r"options\.crf: 18 there, 20 asked for"):
        run(src, out, TWO.model_copy(update={"crf": 20}), extend=True)
    assert tree(out) == before


def test_only_the_shards_with_quarantined_episodes_are_made_again(tmp_path: Path) -> None:
    flag = tmp_path / "mount-is-back"
    bad = {"ep_002": f"unless:{flag}", "ep_005": "bad-image"}
    src = write_source(tmp_path / "src", episodes=8, bad=bad)
    out = tmp_path / "out"
    assert run(src, out, TWO).manifest.counts.quarantine_codes == {"bad-image": 1, "missing-frame": 1}
    quiet = {p: p.stat().st_mtime_ns for p in (out / "train").iterdir() if p.stem in ("000000", "000003")}
    flag.touch()
    run(src, tmp_path / "fresh", TWO)
    again = run(src, out, TWO, retry_quarantined=True)
    assert (again.shards, again.resumed_shards) == (2, 2)
    assert again.manifest.counts.quarantine_codes == {"bad-image": 1}
    assert {p: p.stat().st_mtime_ns for p in quiet} == quiet
    assert tree(out) == tree(tmp_path / "fresh")


def test_mended_episodes_are_taken_up_and_the_bytes_are_those_of_a_fresh_run(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=6, bad={"ep_001": "bad-image", "ep_002": "missing-frame"})
    out = tmp_path / "out"
    run(src, out, TWO)
    first = read_manifest(out).plan
    mend(tmp_path / "src", bad={"ep_002": "missing-frame"})
    with pytest.raises(OutputExistsError, match=r"1 episode changed in the source: task/ep_001"):
        run(src, out, TWO)
    again = run(src, out, TWO, retry_quarantined=True)
    assert (again.shards, again.resumed_shards) == (2, 1)
    assert again.manifest.counts.quarantined == 1
    assert again.manifest.earlier[0].shards == ("train/000002",)
    assert again.manifest.earlier[0].plan == first
    run(src, tmp_path / "fresh", TWO)
    assert tars(out) == tars(tmp_path / "fresh")
    assert (out / "quarantine.jsonl").read_bytes() == (tmp_path / "fresh/quarantine.jsonl").read_bytes()
    assert (out / "index.parquet").read_bytes() == (tmp_path / "fresh/index.parquet").read_bytes()
    assert (out / "plan.jsonl").read_bytes() == (tmp_path / "fresh/plan.jsonl").read_bytes()
    assert engine.verify(out).ok


def test_a_fix_that_is_a_new_version_is_taken_up_and_both_versions_are_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "fixed"
    src = write_source(tmp_path / "src", episodes=6, bad={"ep_003": f"unless:{flag}"})
    out = tmp_path / "out"
    run(src, out, TWO)
    flag.touch()
    old = planning.tool_versions()
    monkeypatch.setattr(planning, "tool_versions", lambda: {**old, "av": "99.0"})
    with pytest.raises(OutputExistsError, match=r"tool\.av: .* there, 99\.0 asked for"):
        run(src, out, TWO)
    again = run(src, out, TWO, retry_quarantined=True)
    assert (again.shards, again.manifest.counts.quarantined) == (1, 0)
    assert again.manifest.tool["av"] == "99.0"
    (earlier,) = again.manifest.earlier
    assert (earlier.tool["av"], earlier.shards) == (old["av"], ("train/000000", "train/000002"))
    assert engine.verify(out).ok


class Cut(Exception):
    """Stands for the process being killed."""


@pytest.mark.parametrize("step", range(1, 9))
def test_being_killed_at_any_step_of_a_change_leaves_what_the_same_command_finishes(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = write_source(tmp_path / "src", episodes=4, frames=1, bad={"ep_001": "bad-image"})
    for name in ("out", "whole"):
        run(src, tmp_path / name, TWO)
    mend(tmp_path / "src", episodes=5, bad={})
    how: dict[str, Any] = {"extend": True, "retry_quarantined": True}
    run(src, tmp_path / "whole", TWO, **how)
    done = 0
    real = layout.publish

    def publish(target: Any, data: bytes) -> None:
        nonlocal done
        done += 1
        if done == step:
            raise Cut
        real(target, data)

    with monkeypatch.context() as patch:
        patch.setattr(layout, "publish", publish)
        with pytest.raises(Cut):
            run(src, tmp_path / "out", TWO, **how)
    run(src, tmp_path / "out", TWO, **how)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_overwriting_and_going_on_exclude_each_other(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=1)
    with pytest.raises(InvalidSpecError, match="extend"):
        run(src, tmp_path / "out", overwrite=True, extend=True)


def refs(count: int) -> list[EpisodeRef]:
    return [EpisodeRef(f"task/ep_{i}", {"path": "/data/é", "b": 1, "a": [i]}, 3, f"f{i}") for i in range(count)]


def test_rows_of_a_plan_are_the_lines_of_its_file_and_are_not_kept_as_objects() -> None:
    record = ConverterRecord(name="x")
    made = planning.make_plan(record, "s", iter(refs(7)), ("front",), TWO)
    assert made.to_bytes() == b"".join(to_line(row) for row in made.rows)
    assert [e.id for row in made.rows for e in row.episodes] == [f"task/ep_{i}" for i in range(7)]
    assert (len(made.rows), made.rows[-1].shard, made.episodes) == (4, "train/000003", 7)
    assert [row.shard for row in made.rows[1:3]] == ["train/000001", "train/000002"]
    with pytest.raises(IndexError):
        made.rows[4]
    again = PlanRows(made.to_bytes().splitlines(keepends=True))
    assert again.sha256 == made.rows.sha256
    assert planning.fingerprint(made.manifest, again) == planning.fingerprint(made.manifest, list(again))


def test_planning_takes_time_in_proportion_to_the_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in bytes that are read back, which is what would grow with the square."""
    read = 0
    real = PlanRows.__getitem__

    def counted(self: PlanRows, index: Any) -> Any:
        nonlocal read
        read += 1
        return real(self, index)

    monkeypatch.setattr(PlanRows, "__getitem__", counted)
    made = planning.make_plan(ConverterRecord(name="x"), "s", refs(3000), ("front",), TWO)
    assert len(made.rows) == 1500
    assert read == 0


def test_a_spooled_plan_goes_to_disk_and_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    here = planning.make_plan(ConverterRecord(name="x"), "s", refs(50), ("front",), TWO)
    monkeypatch.setattr("actionimg_data.shards.rows.SPOOL", 100)
    there = planning.make_plan(ConverterRecord(name="x"), "s", refs(50), ("front",), TWO)
    assert here.to_bytes() == there.to_bytes()
    assert here.manifest == there.manifest


def test_the_version_of_a_converter_from_another_package_is_part_of_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Distribution:
        name, version = "synthetic", "1.2"

    class Entry:
        dist = Distribution

    src = write_source(tmp_path / "src", episodes=1)
    monkeypatch.setattr("actionimg_data.converters.base.entry_points", lambda: {"synthetic": Entry})
    made = engine.plan(SyntheticConverter(), src, TWO)
    assert made.manifest.tool["converter synthetic"] == "1.2"

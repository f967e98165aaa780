"""``actionimg inspect``: what it says of sources and data sets, that its next commands work, and its picture."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from training_data import make_dataset

from actionimg_data.cli import _common, main
from actionimg_data.cli._picture import half_blocks
from actionimg_data.demo.rlds import write_rlds_demo
from actionimg_data.demo.simulators import write_simulator_logs
from actionimg_data.testing import write_rlbench_dataset

DOC = (Path(__file__).resolve().parents[1] / "docs" / "looking.md").read_text(encoding="utf-8")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def found(*arguments: object) -> dict[str, Any]:
    result = run("inspect", *arguments, "--json")
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def type_in(line: str, *more: str) -> Result:
    """Run a command that was printed."""
    program, *words = shlex.split(line)
    assert program == "actionimg"
    return run(*words, *more)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("my sources")
    write_rlbench_dataset(folder / "demos", 1, 8, 64)
    write_rlds_demo(folder / "rlds", episodes=1, frames=8, size=64)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("inspected"), (10, 12))[0]


def test_the_commands_that_come_next_work_as_they_are(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = found(sources / "demos")
    assert (source["kind"], source["convertible"], source["missing"]) == ("source", True, [])
    look, convert = source["next"]
    assert type_in(look, "--no-video", "--size", "64").exit_code == 0
    assert Path("look/contact_sheet.png").is_file()
    assert type_in(convert, "--size", "64", "--num-workers", "1").exit_code == 0
    data = found("demos-shards")
    assert data["samples"] == 1
    for line in data["next"][:2]:
        assert type_in(line).exit_code == 0, line
    assert data["next"][2] == "actionimg report demos-shards"


def test_a_data_set_that_is_not_complete_says_how_to_finish_it(tmp_path: Path) -> None:
    write_rlbench_dataset(tmp_path / "two demos", 2, 8, 64)
    out = tmp_path / "out"
    part = ["--num-shards", 2, "--shard-index", 0, "--episodes-per-shard", 1, "--num-workers", 1]
    assert run("convert", "rlbench", tmp_path / "two demos", out, "--size", 64, "--crf", 20, *part).exit_code == 0
    half = found(out)
    assert (half["complete"], half["samples"]) == (False, None)
    (line,) = half["next"]
    assert type_in(line, "--num-workers", "1").exit_code == 0
    assert found(out)["samples"] == 2


def test_what_is_missing_is_named_and_the_way_to_it_leads_on(sources: Path) -> None:
    """An RLDS data set that the registry does not know has its entry beside it."""
    first = found(sources / "rlds")
    assert not first["convertible"]
    assert first["missing"][0]["code"] == "unsupported-source"
    assert "--config" in first["missing"][0]["hint"]
    (line,) = first["next"]
    second = type_in(line, "--json")
    assert second.exit_code == 0, second.output
    then = json.loads(second.stdout)
    assert then["convertible"]
    assert "--config" in then["next"][-1]
    assert type_in(then["next"][-1], "--dry-run").exit_code == 0


def test_people_read_the_same_verdict(sources: Path) -> None:
    ready = run("inspect", sources / "demos").stdout
    assert "can be converted" in ready
    assert re.search(r"^front +64x64 +yes *$", ready, re.M)
    assert f"next: actionimg render '{sources / 'demos'}' --out look" in ready
    not_yet = run("inspect", sources / "rlds").stdout
    assert "cannot be converted yet" in not_yet
    assert not_yet.count("the registry does not know this data set") == 1


def test_a_folder_of_sources_names_them(sources: Path) -> None:
    result = run("inspect", sources)
    assert result.exit_code == 1
    assert f"actionimg inspect '{sources / 'demos'}'" in result.stderr
    assert f"actionimg inspect '{sources / 'rlds'}'" in result.stderr


def test_what_a_simulators_log_has_to_be_told_is_in_its_command(tmp_path: Path) -> None:
    paths = write_simulator_logs(tmp_path, 4, 64, 1)
    for name, flags in (("robomimic", ["--instruction"]), ("umi", ["--fps", "--instruction", "--gripper"])):
        source = found(paths[name])
        assert not source["convertible"]
        convert, explain = source["next"]
        assert convert.startswith(f"actionimg convert {name} {paths[name]} {name}-shards ")
        for flag in flags:
            assert f"{flag} {flag[2:].upper()}" in convert
        assert explain == f"actionimg converters --explain {name}"
    told = found(paths["robomimic"], "-O", "instruction=lift the cube")
    assert (told["convertible"], told["missing"]) == (True, [])
    assert "--instruction 'lift the cube'" in told["next"][1]


@pytest.mark.realdata
def test_a_raw_log_needs_a_mapping(sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = found(sample_data / "teleop" / "episode_1")
    assert not source["convertible"]
    (line,) = source["next"]
    assert line.endswith("--propose mapping.yaml")
    assert type_in(line).exit_code == 0
    assert Path("mapping.yaml").is_file()


@pytest.mark.realdata
def test_a_data_set_without_cameras_needs_a_file_or_goes_without(sample_data: Path) -> None:
    source = found(sample_data / "rlds" / "bridge_dataset")
    assert source["missing"][0]["code"] == "missing-calibration"
    with_file, without = source["next"]
    absent = json.loads(type_in(with_file, "--json").stdout)
    assert not absent["convertible"]
    assert "cameras.json" in absent["missing"][0]["what"]
    poses = json.loads(type_in(without, "--json").stdout)
    assert poses["convertible"]
    assert poses["next"] == [
        f"actionimg convert rlds {sample_data}/rlds/bridge_dataset bridge_dataset-shards --poses-only"
    ]


def documented(kind: str) -> set[str]:
    row = re.search(rf"^\| `{kind}` \| (.*) \|$", DOC, re.M)
    assert row
    return set(re.findall(r"`(\w+)`", row[1]))


def test_the_keys_are_the_documented_ones(sources: Path, dataset: Path) -> None:
    data = found(dataset)
    assert set(data) - {"kind"} == documented("dataset")
    shard = found(next(dataset.glob("train/*.tar")))
    assert set(shard) - {"kind"} == documented("shard")
    sample = found(dataset, "--key", data["first_key"])
    assert documented("sample") <= set(sample)
    source = found(sources / "demos")
    assert {"format", "convertible", "missing", "next"} <= set(source)
    assert set(source) - {"kind", "tasks"} <= documented("source")


def test_the_other_commands_print_the_documented_keys(sources: Path, tmp_path: Path) -> None:
    small = ["--size", 64, "--num-workers", 1]
    for command, words in (
        ("convert", ["rlbench", sources / "demos", tmp_path / "out", *small]),
        ("convert --dry-run", ["rlbench", sources / "demos", tmp_path / "other", *small, "--dry-run"]),
        ("verify", [tmp_path / "out", "--num-workers", 1]),
        ("export", ["wids", tmp_path / "out", tmp_path / "out.json"]),
        ("doctor", []),
    ):
        result = run(command.split()[0], *words, "--json")
        row = re.search(rf"^\| `{command}` \| (.*?)(;.*)? \|$", DOC, re.M)
        assert row, command
        outside = re.sub(r"\(.*?\)", "", row[1])
        assert set(json.loads(result.stdout)) == set(re.findall(r"`(\w+)`", outside)), command


def test_a_typo_in_a_key_gets_a_suggestion(dataset: Path) -> None:
    key = found(dataset)["first_key"]
    result = run("inspect", dataset, "--key", key[:-1] + "x")
    assert result.exit_code == 1
    assert "Did you mean" in result.stderr


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in (
        ("FORCE_COLOR", "1"),
        ("COLORTERM", "truecolor"),
        ("TERM", "xterm-256color"),
        ("COLUMNS", "90"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    _common.output.cache_clear()
    yield monkeypatch
    _common.output.cache_clear()


def test_a_colour_terminal_gets_a_picture_and_nothing_else_does(
    sources: Path, dataset: Path, colours: pytest.MonkeyPatch
) -> None:
    for path in (sources / "demos", dataset, next(dataset.glob("train/*.tar"))):
        shown = CliRunner().invoke(main, ["inspect", str(path)], color=True).stdout
        lines = [line for line in shown.splitlines() if "▀" in line]
        assert 10 < len(lines) <= 22, path
        # Two panels of one width, two pixels a character, in true colour.
        assert {line.count("▀") % 2 for line in lines} == {0}
        assert "\x1b[38;2;" in lines[0]
    assert "▀" not in run("inspect", sources / "demos", "--json").stdout
    colours.delenv("FORCE_COLOR")
    _common.output.cache_clear()
    plain = run("inspect", sources / "demos").stdout
    assert "▀" not in plain
    assert "\x1b" not in plain


def test_half_blocks_hold_the_pictures_pixels() -> None:
    picture = np.arange(4 * 3 * 3, dtype=np.uint8).reshape(4, 3, 3)
    text = half_blocks([picture, 255 - picture])
    assert text.plain.splitlines() == ["▀▀▀  ▀▀▀"] * 2
    spans = [span.style for span in text.spans]
    first: Any = spans[0]
    assert (tuple(first.color.triplet), tuple(first.bgcolor.triplet)) == ((0, 1, 2), (9, 10, 11))

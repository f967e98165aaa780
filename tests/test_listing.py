"""Lists of samples and the conditions that filter them; what is said beside results; words in pictures."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from training_data import make_dataset

from actionimg_data.cli import _common, main
from actionimg_data.errors import InvalidSpecError
from actionimg_data.raster import caption
from actionimg_data.shards.where import parse_where
from actionimg_data.training import ActionImageDataset

ROWS: list[dict[str, Any]] = [
    {"task": "stack", "frames": 8, "views": ["front", "wrist"], "text": "stack the cups", "good": True, "mm": 0.1},
    {"task": "open", "frames": 200, "views": ["frontal"], "text": "open the drawer", "good": False, "mm": None},
    {"task": "", "frames": 41, "views": [], "text": "50% of it\n", "good": True, "mm": 3.5},
]
TABLE = pa.Table.from_pylist(ROWS)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize(
    "text",
    [
        'task == "stack" and frames > 4',
        'task != "stack" or frames <= 8',
        "not (frames >= 41)",
        "8 < frames <= 200",
        "frames in (8, 41)",
        'task not in ["stack", ""]',
        '"front" in views',
        '"front" not in views',
        "len(views) == 0",
        "len(task) > 4",
        '"%" in text',
        "good",
        "not good and frames > -1",
        'text.startswith("open")',
        "frames == 41.0",
    ],
)
def test_a_condition_holds_where_python_says_so(text: str) -> None:
    expected = [row["frames"] for row in ROWS if eval(text, {"len": len}, row)]  # noqa: S307 - of our own
    assert TABLE.filter(parse_where(text, TABLE.schema))["frames"].to_pylist() == expected


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("mm is None", [200]),
        ("mm is not None", [8, 41]),
        ("mm < 1", [8]),
        ('text.matches("^s.*s$")', [8]),
        ('text.endswith("drawer")', [200]),
        ('text.contains("of it")', [41]),
    ],
)
def test_what_python_says_otherwise(text: str, frames: list[int]) -> None:
    assert TABLE.filter(parse_where(text, TABLE.schema))["frames"].to_pylist() == frames


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('tsk == "a"', "Did you mean 'task'?"),
        ('task = "a"', "Equal is ==."),
        ("task == stack", "no such column"),
        ('frames == "3"', "compares number with text"),
        ('views == "front"', '"NAME" in views'),
        ("frames", "neither true nor false"),
        ("1 == 1", "names no column"),
        ('__import__("os").system("true")', "is no test of a text"),
        ('text.matches("(")', "is no regular expression"),
        ('text.foo("a")', "is no test of a text"),
        ("frames < 99999999999999999999999", "larger than any value"),
        ("(" * 300 + "good" + ")" * 300, "is no condition"),
        ("good or " * 900 + "good", "is too long"),
        ("", "is no condition"),
    ],
)
def test_what_is_no_condition_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidSpecError) as caught:
        parse_where(text, TABLE.schema)
    assert said in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_a_condition_or_a_named_error(text: str) -> None:
    with contextlib.suppress(InvalidSpecError):
        TABLE.filter(parse_where(text, TABLE.schema))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("listing"), [9, 6, 12, 6], size=32)[0]


def listed(*arguments: object) -> dict[str, Any]:
    result = run("inspect", *arguments, "--list", "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_samples_are_listed_filtered_sorted_and_cut(dataset: Path) -> None:
    every = listed(dataset)
    assert every["found"] == every["samples"] == len(every["rows"]) > 2
    assert [row["sample"] for row in every["rows"]] == list(range(every["samples"]))
    wanted = listed(dataset, "--where", "sample >= 1", "--sort=-sample", "--columns", "key,sample", "--limit", 2)
    assert [row["sample"] for row in wanted["rows"]] == [every["samples"] - 1, every["samples"] - 2]
    assert wanted["columns"] == ["key", "sample"]
    assert wanted["found"] == every["samples"] - 1
    assert "members" not in listed(dataset, "--columns", "all")["columns"]

    table = run("inspect", dataset, "--list", "--limit", 1)
    assert every["rows"][0]["key"] in table.stdout
    assert every["rows"][1]["key"] not in table.stdout
    assert f"--limit {every['samples']} shows all" in table.stderr

    rows = list(csv.DictReader(io.StringIO(run("inspect", dataset, "--list", "--csv").stdout)))
    assert [row["key"] for row in rows] == [row["key"] for row in every["rows"]]

    last = every["rows"][-1]
    by_number = json.loads(run("inspect", dataset, "--sample", last["sample"], "--json").stdout)
    by_key = json.loads(run("inspect", dataset, "--key", last["key"], "--json").stdout)
    assert by_number == by_key


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--list", "--sort", "farmes"], "Did you mean 'frames'?"),
        (["--list", "--sort", "views"], "have no order"),
        (["--list", "--columns", "key,instuction"], "Did you mean 'instruction'?"),
        (["--list", "--columns", ","], "names no column"),
        (["--list", "--where", "frames ="], "is no condition"),
        (["--where", "frames > 3"], "Add --list"),
        (["--csv"], "Add --list"),
        (["--key", "a", "--sample", "0"], "both name a sample"),
        (["--sample", "999"], "no such sample"),
    ],
)
def test_what_cannot_be_listed_is_said(dataset: Path, arguments: list[str], said: str) -> None:
    result = run("inspect", dataset, *arguments)
    assert result.exit_code in (1, 2)
    assert said in result.stderr


def test_training_takes_the_same_text(dataset: Path) -> None:
    chosen = listed(dataset, "--where", "sample in (0, 2)", "--columns", "key")
    keys = [row["key"] for row in chosen["rows"]]
    text = f"key in ({keys[0]!r}, {keys[1]!r})"
    assert sum(1 for _ in ActionImageDataset(dataset, num_frames=5, filter=text)) == 2
    with pytest.raises(InvalidSpecError, match="Did you mean 'frames'"):
        ActionImageDataset(dataset, filter="frame > 3")


def test_more_is_said_or_less_and_a_file_holds_it(dataset: Path, tmp_path: Path) -> None:
    missing = tmp_path / "no\x1bne"
    log = tmp_path / "logs" / "run.txt"
    plain = run("verify", missing)
    quiet = run("verify", missing, "--quiet", "--log-file", log)
    assert plain.exit_code == quiet.exit_code == 1
    assert plain.stderr == quiet.stderr
    assert plain.stderr.count("error[source-not-found]") == 1
    text = log.read_text()
    assert "ERROR" in text
    assert "Traceback" in text
    assert "\x1b" not in text
    assert not logging.getLogger("actionimg_data").handlers
    assert "cannot be written" in run("verify", dataset, "--log-file", dataset / "dataset.json" / "log").stderr


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_a_bar_leaves_room_for_the_count(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    from rich.console import Console
    from rich.progress import Progress

    made = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    monkeypatch.setattr(_common, "console", lambda: made)
    columns = _common.progress_columns("converting", "episodes", "{task.fields[rate]}", 20)
    with Progress(*columns, console=made) as bar:
        bar.add_task("converting", total=1234, completed=17, rate="99 pictures/s")
    assert "17/1234" in made.file.getvalue()  # type: ignore[attr-defined]
    assert ("pictures/s" in made.file.getvalue()) == (width >= 80)  # type: ignore[attr-defined]


def test_long_words_are_cut_in_the_middle_and_stay_in_their_room() -> None:
    name = "a_camera_whose_name_has_some_forty_letters"
    for room in (20, 60, 120, 400):
        short = caption.fitted(name, room, 0.5)
        assert caption.width_of(short, 0.5) <= room
        assert short == name or (name.startswith(short.split("..")[0]) and name.endswith(short.split("..")[-1]))
    canvas = np.zeros((40, 300, 3), np.uint8)
    caption.write(canvas, name, (10, 25), 0.5, (255, 255, 255), room=100)
    columns = np.flatnonzero(canvas.any(axis=(0, 2)))
    assert columns.min() >= 8
    assert columns.max() <= 112
    assert cv2.countNonZero(canvas[..., 0]) > 50

"""``actionimg inspect`` on raw logs: drafts of mapping files, stream tables, plots."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner, Result

from actionimg_data.cli import main

pytestmark = pytest.mark.realdata
MAPPING = re.search(
    r"```yaml\n(version: 1\n.*?)```",
    (Path(__file__).resolve().parents[1] / "docs" / "mapping.md").read_text(),
    re.DOTALL,
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    """The worked example of docs/mapping.md."""
    assert MAPPING is not None
    path = tmp_path / "mapping.yaml"
    path.write_text(MAPPING[1])
    return path


def test_a_draft_marks_what_it_cannot_know_and_is_not_taken_as_it_is(sample_data: Path, tmp_path: Path) -> None:
    recording, draft = sample_data / "teleop" / "episode_1", tmp_path / "draft.yaml"
    result = run("inspect", recording, "--propose", draft, "--json")
    assert result.exit_code == 0, result.output
    unknown = json.loads(result.stdout)["to_fill_in"]
    text = draft.read_text()
    assert unknown >= 5
    for field in ("tool_from_gripper", "closed", "open", "kind"):
        assert re.search(rf'{field}: "\?\?\?"', text), field
    used = run("render", recording, "--mapping", draft, "--format", "folder", "--out", tmp_path / "look")
    assert used.exit_code == 1
    assert "still to be filled in" in used.stderr
    again = run("inspect", recording, "--propose", draft)
    assert again.exit_code == 1
    assert draft.read_text() == text


def test_streams_are_a_table_and_a_picture(sample_data: Path, tmp_path: Path, mapping: Path) -> None:
    plot = tmp_path / "streams.png"
    source = sample_data / "teleop" / "episode_1"
    result = run("inspect", source, "--mapping", mapping, "--plot", plot)
    assert result.exit_code == 0, result.output
    assert re.search(r"pose +500 +100 +", result.stdout)
    assert re.search(r"robot0_eye_in_hand +100 +20 +", result.stdout)
    assert f"episode_1-shards --mapping {mapping}\n" in result.stdout
    assert cv2.imread(str(plot)).shape[1] > 600


def test_a_mapping_says_which_format_a_mixed_folder_is(sample_data: Path, tmp_path: Path, mapping: Path) -> None:
    source = sample_data / "teleop"
    ambiguous = run("inspect", source)
    assert ambiguous.exit_code == 1
    assert "several converters recognise this source" in ambiguous.stderr
    drawn = run(
        "render", source, "--mapping", mapping, "--out", tmp_path / "look", "--no-video", "--size", 64, "--columns", 2
    )
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "look" / "contact_sheet.png").is_file()

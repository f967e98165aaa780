"""Every command in README.md and docs/*.md is run, on demo data.

A block marked ``bash`` is run as it stands, line by line, in a folder that `prepared` fills; all its lines that begin
with ``actionimg`` have to succeed. ``~`` is that folder, OUT a data set, DEST a name that is free. A block that cannot
be run comes after a comment ``<!-- not run: why -->``. Errors' snippets are run by test_errors_doc.py, which knows what
each has to fail with, and examples in cli.md (``console``) are parsed by test_docs_cli.py.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from actionimg_data import engine
from actionimg_data.cli import main
from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import open_dataset
from actionimg_data.testing import write_rlbench_dataset

ROOT = Path(__file__).resolve().parents[1]
PAGES = [p for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))) if p.name != "errors.md"]
# Smaller than what people would type, the same code.
SMALLER = (
    (r"--size 512\b", "--size 96"),
    (r"(--num-workers|-j) \d+", r"\1 1"),
    (r"\bactionimg demo\b", "actionimg demo --episodes 1 --frames 8 --size 64"),
)


def blocks() -> list[tuple[str, list[str]]]:
    """Place and commands of each block that is run."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"(<!-- not run: [^>]+-->\s*)?```bash\n(.*?)```", text, re.S):
            lines = match[2].replace("\\\n", " ").splitlines()
            commands = [part for line in lines for part in commands_of(line)]
            if commands and not match[1]:
                place = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start(2)) + 1}"
                found.append((place, commands))
    return found


def commands_of(line: str) -> list[str]:
    """The ``actionimg`` commands of a line, which may follow others after ``&&``; comments are dropped."""
    words = shlex.split(line, comments=True)
    commands: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            commands.append([])
        else:
            commands[-1].append(word)
    return [shlex.join(command) for command in commands if command and command[0] == "actionimg"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documents' commands find: rlbench_demos, data sets, action videos with their cameras."""
    folder = tmp_path_factory.mktemp("docs")
    source = write_rlbench_dataset(folder / "rlbench_demos", 2, 8, 96)
    engine.convert(RLBenchConverter(), str(source), folder / "OUT", ConvertOptions.parse(height=96, width=96))
    for name in ("shards", "out"):
        shutil.copytree(folder / "OUT", folder / name)
    sample = open_dataset(folder / "OUT")[0]
    cameras = {}
    for view in ("front", "wrist"):
        (folder / f"{view}.mp4").write_bytes(sample.read(f"{view}.action.mp4"))
        camera = sample.cameras[view]
        poses = camera.world_from_camera.tolist()
        cameras[view] = {
            "K": camera.K[0].tolist(),
            "width": camera.width,
            "height": camera.height,
            "world_from_camera": poses[0] if camera.is_static else poses,
        }
    (folder / "cameras.json").write_text(json.dumps({"cameras": cameras}))
    return folder


BLOCKS = blocks()


def test_there_are_commands_to_run() -> None:
    assert len([command for _, commands in BLOCKS for command in commands]) >= 7
    assert commands_of("pip install . && actionimg demo  # a minute") == ["actionimg demo"]
    assert commands_of("python -m pip list") == []


@pytest.mark.parametrize(("place", "commands"), BLOCKS, ids=[place for place, _ in BLOCKS])
def test_a_block_of_commands_works(
    place: str, commands: list[str], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    # The README makes its data set itself.
    if any("convert" in command.split() and " shards" in command for command in commands):
        shutil.rmtree(tmp_path / "shards")
    monkeypatch.chdir(tmp_path)
    for number, command in enumerate(commands):
        for pattern, smaller in SMALLER:
            command = re.sub(pattern, smaller, command)
        words = [word.replace("~", str(tmp_path)).replace("DEST", f"dest{number}") for word in shlex.split(command)[1:]]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, f"{place}: {command}\n{result.output}"

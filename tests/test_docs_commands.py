"""Every command in README.md and docs/**/*.md is run, on made-up data.

The blocks marked ``bash`` of a page are run in order, in one folder, as a reader types them; all their lines that begin
with ``actionimg`` have to succeed. ``~`` is that folder; the sources and data sets that the commands name are made by
docs_data.py, but for those that the page makes itself. DEST is a name that is free. A block after a comment
``<!-- file: NAME -->`` is written to that file first. A block that cannot be run comes after ``<!-- not run: why -->``.
Errors' snippets are run by test_errors_doc.py, which knows what each has to fail with, and examples in cli.md
(``console``) are parsed by test_docs_cli.py.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from docs_data import MAKERS, DocsData
from processes import run_program

from actionimg_data.cli import main
from actionimg_data.converters.base import converter_class, detect, installed
from actionimg_data.converters.remote import SourceReader
from actionimg_data.errors import ActionImgError

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    p for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))) if p.name not in ("errors.md", "cli.md")
]
# Smaller than what people would type, the same code.
SMALLER = (
    (r"--size 512\b", "--size 96"),
    (r"--size 288x512\b", "--size 54x96"),
    (r"(--num-workers|-j) \d+", r"\1 1"),
    (r"^(evaluate (?!.*--no-html\b)(?!epoch_20 --against shards$).*)$", r"\1 --no-html"),
    (r"^((convert|verify|evaluate) (?!.*(--num-workers|-j|--executor|--help)\b).*)$", r"\1 -j 1"),
    (r"^(render (?!.*--size\b).*)$", r"\1 --size 96 --columns 3"),
    (r"^(report (?!.*--samples\b).*)$", r"\1 --samples 1"),
    (r"(?<=--num-frames )81\b", "5"),
    (r"^(export (?:diffsynth|musubi|finetrainers|cosmos) .*)$", r"\1 -j 1"),
    (r"--size 480x832\b", "--size 96x160"),
    (r"^demo\b", "demo --episodes 1 --frames 8 --size 64"),
)


def blocks(page: Path) -> list[tuple[int, str, str | list[str]]]:
    """Line, name and body of each file block; line, "" and commands of each block that is run."""
    text = page.read_text(encoding="utf-8")
    found: list[tuple[int, str, str | list[str]]] = []
    for match in re.finditer(r"(?:<!-- ([\w-]+(?: [\w-]+)?): ([^>]+?) -->\n)?```(\w*)\n(.*?)```", text, re.S):
        kind, value, language, body = match.groups()
        line = text.count("\n", 0, match.start(4)) + 1
        if kind == "file":
            found.append((line, value, body))
        elif language == "bash" and kind != "not run":
            commands = [part for row in body.replace("\\\n", " ").splitlines() for part in commands_of(row)]
            if commands:
                found.append((line, "", commands))
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
    return [shlex.join(command[1:]) for command in commands if command and command[0] == "actionimg"]


PAGE_BLOCKS = {page.relative_to(ROOT).as_posix(): found for page in PAGES if (found := blocks(page))}


@pytest.fixture(scope="session")
def docs_data(tmp_path_factory: pytest.TempPathFactory) -> DocsData:
    """Shared by the test processes."""
    base = tmp_path_factory.getbasetemp()
    return DocsData((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "docs-data")


def test_commands_and_files_are_found_in_the_pages() -> None:
    assert commands_of("pip install . && actionimg demo  # a minute") == ["demo"]
    assert commands_of("python -m pip list") == []
    commands = [c for found in PAGE_BLOCKS.values() for _, name, body in found if not name for c in body]
    assert len(commands) > 40
    assert {name for _, name, _ in PAGE_BLOCKS["docs/start/recordings.md"]} == {"", "mapping.yaml"}
    for page in (ROOT / "docs" / "start").glob("*.md"):
        run = [c for _, name, body in PAGE_BLOCKS[f"docs/start/{page.name}"] if not name for c in body]
        kinds = [command.split()[0] for command in run]
        assert kinds[0] == "inspect"
        assert kinds[-3:] == ["convert", "verify", "report"], page


@pytest.mark.parametrize("page", sorted(PAGE_BLOCKS))
def test_the_commands_of_a_page_work(
    page: str, docs_data: DocsData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = [c for _, name, body in PAGE_BLOCKS[page] if not name for c in body]
    words = {word for command in commands for word in shlex.split(command)}
    made = {shlex.split(c)[3] for c in commands if c.startswith("convert ") and "--dry-run" not in c}
    for name in MAKERS:
        used = any(re.search(rf"(^|[~/=]){re.escape(name)}(/|$)", word) for word in words)
        if used and name not in made:
            docs_data.place(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    # A page may bring a module of its own, which is imported from its folder.
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("encoders", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    number = 0
    for line, name, body in PAGE_BLOCKS[page]:
        if name:
            (tmp_path / name).write_text(str(body), encoding="utf-8")
            continue
        for command in body:
            number += 1
            for pattern, smaller in SMALLER:
                command = re.sub(pattern, smaller, command)
            given = [word.replace("~", str(tmp_path)).replace("DEST", f"dest{number}") for word in shlex.split(command)]
            result = CliRunner().invoke(main, given)
            assert result.exit_code == 0, f"{page}:{line}: actionimg {command}\n{result.output}\n{result.exception!r}"


RECOGNISED = {
    "rlbench_demos": "rlbench", "tensorflow_datasets": "rlds", "lerobot": "lerobot", "bags": "rosbag", "droid": "droid",
    "robomimic": "robomimic", "libero": "libero", "aloha": "aloha", "umi": "umi", "bridge_raw": "bridge-raw",
    "isaaclab": "isaaclab", "task_D_D": "calvin", "gello": "gello", "published_tree": "action-images",
    "robotwin": "robotwin", "maniskill": "maniskill", "agibot": "agibot", "rh20t": "rh20t",
}  # fmt: skip


def test_each_source_is_recognised_by_its_own_converter_and_no_other(docs_data: DocsData, tmp_path: Path) -> None:
    assert set(RECOGNISED.values()) == set(installed()) - {"folder"}
    for name, own in RECOGNISED.items():
        docs_data.place(name, tmp_path)
        found = {n for n, seen in detect(str(tmp_path / name)).items() if not seen.general}
        assert found == {own}, name
        # One that asks for options first, and one that looks for its files: both say whose data these are.
        for other in {"droid", "lerobot"} - {own}:
            with pytest.raises(ActionImgError, match=f"looks like {own}"):
                list(SourceReader(converter_class(other)()).discover(str(tmp_path / name)))


def test_code_of_the_examples_in_a_page_is_the_examples_own() -> None:
    pairs = [
        (page, *match)
        for page in PAGES
        for match in re.findall(r"<!-- same as: (\S+) -->\n```\w+\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    ]
    assert len(pairs) >= 3
    for page, name, text in pairs:
        assert text == (ROOT / name).read_text(encoding="utf-8"), f"{page.name}: differs from {name}"


def test_the_readmes_python_works(docs_data: DocsData, tmp_path: Path) -> None:
    docs_data.place("shards", tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    run_program([sys.executable, "-W", "error", "-c", code], cwd=tmp_path)

"""docs/cli.md says what the commands say, its examples parse, and shells complete."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from processes import run_program

from actionimg_data.cli import main
from actionimg_data.cli.reference import reference
from actionimg_data.testing import write_rlbench_dataset

DOCS = Path(__file__).resolve().parents[1] / "docs"
EXAMPLES = [
    line
    for block in re.findall(r"```console\n(.*?)```", reference(), re.S)
    for line in re.sub(r"\\\n\s*", " ", block).splitlines()
    if line.startswith("actionimg")
]


def test_the_reference_is_what_the_commands_say() -> None:
    stored = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert stored == reference(), "run: python -m actionimg_data.cli.reference docs/cli.md"


def test_the_reference_has_every_command_and_option() -> None:
    text = reference()
    context = click.Context(main, info_name="actionimg")
    for name in main.list_commands(context):
        assert f"\n## actionimg {name}\n" in text
        command = main.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert max(parameter.opts, key=len) in text


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_in_a_help_text_parses(line: str) -> None:
    """Command, options and their values are right; nothing is run."""
    # A third of the line is what the command does.
    words = shlex.split(re.split(r"\s{3,}(?=\w)", line.replace("$SLURM_ARRAY_TASK_ID", "3"))[0])[1:]
    command: click.Command = main
    context = click.Context(main, info_name="actionimg")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, context, info_name=name)
    if isinstance(command, click.Group):
        return
    for parameter in command.params:
        # Files of an example need not be here.
        if isinstance(parameter.type, click.Path):
            parameter.type = click.STRING
    command.make_context(context.info_name, words, parent=context.parent)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verfy", "out"], "Did you mean 'verify'?"),
        (["convert", "rlbnch", "src", "out"], "Did you mean 'rlbench'?"),
        (["verify", "--reccord", "out"], "Did you mean '--record'?"),
        (["convert", "rlbench", "src", "out", "--sise", "4"], "'--size'"),
        (["converters", "--explain", "rlbnch"], "Did you mean 'rlbench'?"),
    ],
)
def test_a_typo_gets_a_suggestion(words: list[str], said: str) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code in (1, 2)
    assert said in result.stderr


@pytest.mark.parametrize("command", ["verify", "report", "inspect"])
def test_a_typo_in_a_data_sets_name_gets_a_suggestion(command: str, tmp_path: Path) -> None:
    (tmp_path / "kitchen").mkdir()
    (tmp_path / "kitchen" / "dataset.json").write_text("{}")
    result = CliRunner().invoke(main, [command, str(tmp_path / "kichen")])
    assert result.exit_code == 1
    assert "error[source-not-found]" in result.stderr
    assert f"Did you mean '{tmp_path / 'kitchen'}'?" in result.stderr
    far = CliRunner().invoke(main, [command, str(tmp_path / "zzz")])
    assert "Did you mean" not in far.stderr


def test_a_typo_in_a_sources_name_view_option_or_sample_gets_a_suggestion(tmp_path: Path) -> None:
    source = write_rlbench_dataset(tmp_path / "kitchen_demos", 1, 8, 64)
    out = str(tmp_path / "out")
    small = ["--size", "64", "--no-video", "--out", out]
    for words, meant in (
        (["inspect", str(tmp_path / "kitchn_demos")], str(source)),
        (["render", str(tmp_path / "kitchen-demos"), *small], str(source)),
        (["convert", "rlbench", str(tmp_path / "kitchen_demo"), out], str(source)),
        (["render", str(source), "--views", "frnt", *small], "front"),
        (["render", str(source), "-O", "camera=front", *small], "cameras"),
        (["render", str(source), "--episode", "place_cube/all_variations/episode1", *small], "episode0"),
        (["convert", "rlbench", str(source), out, "--views", "overhed", "--dry-run"], "overhead"),
    ):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == (2 if "-O" in words else 1), words
        assert re.search(rf"Did you mean '[^']*{re.escape(meant)}'\?", result.stderr), (words, result.stderr)


def environment() -> dict[str, str]:
    scripts = sysconfig.get_path("scripts")
    return {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
    }


def installed() -> bool:
    return (Path(sysconfig.get_path("scripts")) / "actionimg").exists()


SCRIPTS = {
    "bash": """
eval "$(_ACTIONIMG_COMPLETE=bash_source actionimg)"
ask() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _actionimg_completion actionimg
    echo "${COMPREPLY[@]}"
}
ask actionimg conv
ask actionimg convert rlb
ask actionimg verify --qui
""",
    "fish": """
_ACTIONIMG_COMPLETE=fish_source actionimg | source
for line in "actionimg conv" "actionimg convert rlb" "actionimg verify --qui"
    string join -- " " (complete -C "$line" | string split -f1 \\t)
end
true
""",
    # zsh completes at a prompt only, so the function's own two halves are run: the request, and that it is registered.
    "zsh": """
compdef() { registered=$*; }
eval "$(_ACTIONIMG_COMPLETE=zsh_source actionimg)"
[[ $registered == "_actionimg_completion actionimg" ]] || exit 3
ask() {
    env COMP_WORDS="$*" COMP_CWORD=$(($# - 1)) _ACTIONIMG_COMPLETE=zsh_complete actionimg |
        awk 'NR % 3 == 2' | paste -sd " "
}
ask actionimg conv
ask actionimg convert rlb
ask actionimg verify --qui
""",
}


@pytest.mark.skipif(not installed(), reason="needs the actionimg command of this environment")
@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_a_shell_completes_commands_formats_and_options(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(SCRIPTS[shell])
    arguments = {"bash": ["--norc"], "fish": ["--no-config"], "zsh": ["-f"]}[shell]
    done = run_program([program, *arguments, str(script)], env=environment(), cwd=tmp_path)
    assert done.stdout.splitlines() == ["convert converters", "rlbench", "--quick --quiet"], done.stderr


@pytest.mark.skipif(not installed(), reason="needs the actionimg command of this environment")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_documented_line_gives_a_completion_script(shell: str) -> None:
    assert f"_ACTIONIMG_COMPLETE={shell}_source actionimg" in reference()
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("click asks bash for its version")
    env = {**environment(), "_ACTIONIMG_COMPLETE": f"{shell}_source"}
    done = run_program(["actionimg"], env=env, check=False)
    assert f"_ACTIONIMG_COMPLETE={shell}_complete" in done.stdout


def test_the_reference_is_printed_where_no_file_is_named() -> None:
    command = [sys.executable, "-m", "actionimg_data.cli.reference"]
    done = run_program(command)
    assert done.stdout == reference()

"""docs/errors.md has a section for each error, and its snippets bring that error about."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner

import actionimg_data as aid
from actionimg_data import engine, errors
from actionimg_data.cli import main
from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.schemas import ConvertOptions
from actionimg_data.testing import write_rlbench_dataset

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "errors.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"^## ", TEXT, flags=re.M)[1:]}
CLASSES = {
    cls.code: cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.ActionImgError)
}
SNIPPETS = {
    code: match.groups()
    for code, section in SECTIONS.items()
    if code != "error" and (match := re.search(r"```(python|bash)\n(.*?)```", section, re.S))
}


def test_every_error_has_a_section_and_no_section_is_of_another() -> None:
    assert list(SECTIONS) == [cls.code for cls in sorted(CLASSES.values(), key=lambda c: inspect.getsourcelines(c)[1])]


@pytest.mark.parametrize("code", sorted(CLASSES))
def test_a_section_names_its_class_its_cause_and_its_cure(code: str) -> None:
    cls, section = CLASSES[code], SECTIONS[code]
    assert section.split("\n")[2].startswith(f"`{cls.__name__}`, also a")
    standard = next(b for b in cls.__mro__ if not issubclass(b, errors.ActionImgError))
    module = "" if standard.__module__ == "builtins" else f"{standard.__module__.strip('_')}."
    assert f"`{module}{standard.__name__}`" in section
    for part in ("**Cause.**", "**See it.**", "**Fix.**"):
        assert section.count(part) == 1


def test_all_but_the_base_and_what_needs_a_failure_of_its_own_can_be_seen() -> None:
    assert set(CLASSES) - set(SNIPPETS) == {"error", "worker-failed", "calibration-off"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("errors")
    source = write_rlbench_dataset(folder / "rlbench_demos", 1, 8, 64)
    engine.convert(RLBenchConverter(), str(source), folder / "shards", ConvertOptions.parse(height=64, width=64))
    return folder


@pytest.mark.parametrize("code", sorted(SNIPPETS))
def test_a_snippet_brings_its_error_about(
    code: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    language, text = SNIPPETS[code]
    if language == "bash":
        words = shlex.split(text)
        result = CliRunner().invoke(main, words[1:])
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error[{code}]: ") or f"\nerror[{code}]: " in result.stderr
        return
    names: dict[str, Any] = {"aid": aid, "np": np}
    before = dict(sys.modules)
    # What a snippet sets for a store is for that snippet.
    monkeypatch.setattr(fsspec.config, "conf", {})
    environment = {**os.environ, "ACTIONIMG_STORE_PATIENCE": "0"}
    for name in [n for n in environment if n.startswith(("AWS_", "FSSPEC_"))]:
        del environment[name]
    monkeypatch.setattr(os, "environ", environment)
    try:
        with pytest.raises(CLASSES[code]) as caught:
            exec(compile(text, f"errors.md: {code}", "exec"), names)  # noqa: S102
    finally:
        # A snippet may hide a module.
        for name in [n for n, m in sys.modules.items() if n not in before and not hasattr(m, "__name__")]:
            del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if sys.modules.get(name) is not module})
    assert type(caught.value) is CLASSES[code]

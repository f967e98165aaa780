"""A plug-in that fails, however it does, is named in one warning, and every other format goes on."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from synthetic_converter import SyntheticConverter, write_source

from actionimg_data.cli import main
from actionimg_data.converters import Converter, Detection, base
from actionimg_data.errors import MissingExtraError, WrongFormatError


class Entry:
    def __init__(self, name: str, load: Callable[[], Any]) -> None:
        self.name, self.value, self.load = name, f"{name}_package:Converter", load


def raising(error: BaseException) -> Callable[[], Any]:
    def load() -> Any:
        raise error

    return load


def detecting(result: Any) -> Callable[[], Any]:
    class Detecting(SyntheticConverter):
        name = "broken"

        @classmethod
        def detect(cls, source: str) -> Detection | None:
            if isinstance(result, Exception):
                raise result
            return result  # type: ignore[no-any-return]

    return lambda: Detecting


class Half(Converter):
    """Has neither a summary nor `read`."""

    name = "broken"


NOT_LOADED = {
    "module is missing": raising(ModuleNotFoundError("No module named 'lab_tools'")),
    "bug at import": raising(RuntimeError("no licence server")),
    "syntax error": raising(SyntaxError("invalid syntax")),
    "attribute is missing": raising(AttributeError("module has no attribute 'Converter'")),
    "error of ours": raising(WrongFormatError("configuration")),
    "no converter": lambda: dict,
    "half a converter": lambda: Half,
}
NOT_DETECTED = {
    "detect raises": detecting(ZeroDivisionError("division by zero")),
    "detect raises ours": detecting(WrongFormatError("is not mine")),
    "detect answers something else": detecting(True),
}


@pytest.fixture(params=[*NOT_LOADED, *NOT_DETECTED])
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    load = {**NOT_LOADED, **NOT_DETECTED}[request.param]
    entries = {
        "broken": Entry("broken", load),
        **base.entry_points(),
        "synthetic": Entry("synthetic", lambda: SyntheticConverter),
    }
    monkeypatch.setattr(base, "entry_points", lambda: entries)
    return str(request.param)


def call(*args: object) -> Result:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        return CliRunner().invoke(main, [str(a) for a in args])


def warned(result: Result) -> int:
    return result.stderr.count("warning: converter 'broken' is passed over")


def test_every_other_format_is_still_detected(broken: str, tmp_path: Path) -> None:
    source = write_source(tmp_path / "src", episodes=1)
    with pytest.warns(base.PluginWarning, match="converter 'broken' is passed over") as seen:
        assert list(base.detect(source)) == ["synthetic"]
    assert len(seen) == 1


def test_inspect_names_it_once_and_shows_the_source(broken: str, tmp_path: Path) -> None:
    result = call("inspect", write_source(tmp_path / "src", episodes=2), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["episodes"] == 2
    assert warned(result) == 1


def test_lists_of_formats_leave_it_out(broken: str) -> None:
    for words in (("converters",), ("converters", "--json"), ("convert", "--help")):
        result = call(*words)
        assert result.exit_code == 0, result.output
        assert "synthetic" in result.stdout
        assert "rlbench" in result.stdout
        loads = broken in NOT_DETECTED
        assert warned(result) == (0 if loads else 1)
        assert ("broken" in result.stdout) == loads


def test_other_formats_are_converted(broken: str, tmp_path: Path) -> None:
    source = write_source(tmp_path / "src", episodes=1, frames=2)
    result = call("convert", "synthetic", source, tmp_path / "out", "--size", 64, "-j", 1)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("kind", NOT_LOADED)
def test_asked_for_by_name_it_is_an_error_with_the_reason(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "entry_points", lambda: {"broken": Entry("broken", NOT_LOADED[kind])})
    expected = MissingExtraError if kind == "module is missing" else WrongFormatError
    with pytest.raises(expected, match="broken = broken_package:Converter"):
        base.converter_class("broken")
    result = call("converters", "--explain", "broken")
    assert result.exit_code == 1
    assert "broken_package" in result.stderr

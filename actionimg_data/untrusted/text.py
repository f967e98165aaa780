"""Small text files that users write: YAML and JSON, read without running or expanding anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ..errors import BadFileError, UnsafeFileError, WrongFormatError
from .files import read_bytes

MAX_YAML_BYTES = 16 << 20
MAX_JSON_BYTES = 1 << 28
MAX_DEPTH = 50
_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """SafeLoader that refuses duplicate keys, which YAML parsers otherwise let overwrite each other."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(k, deep=True) for k, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", node.value[i][0].start_mark
                )
        result: dict[Any, Any] = super().construct_mapping(node, deep)
        return result


def load_yaml(path: Path) -> Any:
    """The values of a YAML file; tags, anchors and duplicate keys are refused.

    Raises:
        SourceNotFoundError: No such file.
        UnsafeFileError: A tag (``!!python/...`` or any other), an anchor or an alias.
        BadFileError: Not YAML.
    """
    return parse_yaml(read_bytes(path, MAX_YAML_BYTES), path)


def parse_yaml(raw: bytes | str, where: object) -> Any:
    """The values of a YAML text, as `load_yaml`.

    Raises:
        UnsafeFileError: A tag (``!!python/...`` or any other), an anchor or an alias.
        BadFileError: Not YAML.
    """
    try:
        depth = 0
        for token in yaml.scan(raw):
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if depth > MAX_DEPTH:
                raise UnsafeFileError("is nested too deeply", where=where, expected=f"≤ {MAX_DEPTH} levels")
            if isinstance(token, (yaml.TagToken, yaml.AnchorToken, yaml.AliasToken)):
                what = "a tag" if isinstance(token, yaml.TagToken) else "an anchor or alias"
                raise UnsafeFileError(
                    f"YAML with {what} is refused",
                    where=where,
                    field=f"line {token.start_mark.line + 1}",
                    expected="plain keys, lists, text and numbers",
                    found=str(getattr(token, "value", "")),
                )
        # The loader is a SafeLoader; tags are refused above even where it would know them.
        return yaml.load(raw, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        line = f"line {mark.line + 1}" if mark is not None else None
        raise BadFileError(f"is not YAML: {problem}", where=where, field=line) from None


def load_json(path: Path, limit: int = MAX_JSON_BYTES) -> Any:
    """The values of a JSON file; `BadFileError` says in which line it stops being JSON."""
    return parse_json(read_bytes(path, limit), path)


def load_any(path: Path) -> Any:
    """The values of a ``.json`` file, or of any other as YAML."""
    return load_json(path) if path.suffix.lower() == ".json" else load_yaml(path)


def parse(model: type[Model], value: Any, where: object) -> Model:
    """``value`` as ``model``; `WrongFormatError` names every field that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        first = problems[0]
        rest = [f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in problems[1:6]]
        raise WrongFormatError(
            first["msg"].removeprefix("Value error, "),
            where=where,
            field=".".join(map(str, first["loc"])) or None,
            found=first["input"] if not isinstance(first["input"], dict) else sorted(map(str, first["input"])),
            hint=f"Also: {'; '.join(rest)}." if rest else None,
        ) from None


def parse_json(raw: bytes | str, where: object, field: str | None = None) -> Any:
    """The values of a JSON text.

    Raises:
        BadFileError: It is not JSON, not UTF-8, nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        raise BadFileError(f"is not JSON: {error.msg}", where=where, field=field or f"line {error.lineno}") from None
    except RecursionError:
        raise BadFileError("is not JSON that can be read: it is nested too deeply", where=where, field=field) from None
    except ValueError as error:
        raise BadFileError(f"is not JSON: {error}", where=where, field=field) from None

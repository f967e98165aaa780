"""What public sources say of data sets: the entries of the registry, for every converter that reads one of them."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

from ...schemas.rlds_registry import RldsEntry
from ...untrusted.text import load_any, parse


@cache
def shipped() -> dict[str, RldsEntry]:
    """The registry that is part of the package, by file name."""
    folder = resources.files("actionimg_data.schemas") / "registry" / "rlds"
    out = {}
    for item in sorted(folder.iterdir(), key=lambda p: p.name):
        if item.name.endswith(".yaml"):
            with resources.as_file(item) as path:
                out[item.name.removesuffix(".yaml")] = load(path)
    return out


def load(path: Path) -> RldsEntry:
    """An entry from a YAML file.

    Raises:
        SourceNotFoundError: No such file.
        UnsafeFileError: YAML with tags, anchors or aliases.
        WrongFormatError: A field is missing or wrong; every such field is named.
    """
    return parse(RldsEntry, load_any(path), path)

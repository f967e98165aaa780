"""The house's rules that import-linter cannot say: no circle between files, no private name used across rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "actionimg_data"
FOLDERS = {
    PACKAGE: ROOT / PACKAGE,
    f"{PACKAGE}.converters": ROOT / "converters",
    f"{PACKAGE}.schemas": ROOT / "schemas",
}

Graph = Mapping[str, set[str]]


@cache
def modules() -> dict[str, Path]:
    """Every file of the package by its dotted name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if package == PACKAGE and parts[0] in ("converters", "schemas"):
                continue  # symlinks to the two other folders
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((package, *parts))] = path
    return found


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def imports(module: str, tree: ast.Module, is_package: bool) -> Iterator[tuple[str, str | None, str]]:
    """Every import of a file: the module it is from, the name in it or None, and what it is called here.

    Those within functions and under ``TYPE_CHECKING`` count like all others: either hides a circle, and breaks none.
    """
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None, alias.asname or alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield base, alias.name, alias.asname or alias.name


@cache
def our_imports(module: str) -> tuple[tuple[str, str | None, str], ...]:
    """Imports of a file from the package: the file, the name in it (None for the whole file), and its name here."""
    found = []
    is_package = modules()[module].name == "__init__.py"
    for base, name, here in imports(module, parsed(module), is_package):
        whole = base if name is None else f"{base}.{name}"
        if whole in modules():
            found.append((whole, None, here))
        elif base in modules():
            found.append((base, name, here))
    return tuple(found)


def graph() -> dict[str, set[str]]:
    return {module: {target for target, _, _ in our_imports(module)} - {module} for module in modules()}


def circles(edges: Graph) -> list[list[str]]:
    """Strongly connected parts of more than one node (Tarjan, SIAM J. Comput. 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1:
                found.append(sorted(part))

    for node in edges:
        if node not in index:
            visit(node)
    return found


def room(module: str) -> str:
    """A folder of the package; of the converters each format, which is a file or a folder."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[:1] == ["converters"] else parts[0] if parts else ""


def private(name: str | None) -> bool:
    return name is not None and name.startswith("_") and not name.startswith("__")


def trespasses(module: str) -> Iterator[str]:
    """Private names of other rooms that a file uses: imported, or taken from what it imported."""
    foreign = {}
    for target, name, here in our_imports(module):
        if room(target) == room(module):
            continue
        if private(name) or private(target.rpartition(".")[2]):
            yield f"{module} imports {target}{f'.{name}' if name else ''}"
        foreign[here] = target
    for node in ast.walk(parsed(module)):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        if private(node.attr) and node.value.id in foreign:
            yield f"{module}:{node.lineno} uses {node.value.id}.{node.attr} of {foreign[node.value.id]}"


def test_every_file_is_looked_at() -> None:
    assert len(modules()) > 150
    assert f"{PACKAGE}.converters.rlds.converter" in modules()
    edges = graph()
    assert f"{PACKAGE}.errors" in edges[f"{PACKAGE}.converters.base"]
    assert sum(map(len, edges.values())) > 500


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(graph()) == []


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}, [["a", "b", "c"]]),
        ({"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"c", "a"}}, [["a", "b"], ["c", "d"]]),
    ],
)
def test_circles_are_found(edges: Graph, expected: list[list[str]]) -> None:
    assert sorted(circles(edges)) == expected


def test_imports_are_found_wherever_they_stand() -> None:
    text = (
        "from typing import TYPE_CHECKING\nfrom . import b\nfrom ..x.y import _z as z\n"
        "if TYPE_CHECKING:\n    from .c import D\ndef f():\n    from .. import e\n    import actionimg_data.g as g\n"
    )
    found = set(imports("p.q.a", ast.parse(text), is_package=False))
    assert found >= {("p.q", "b", "b"), ("p.x.y", "_z", "z"), ("p.q.c", "D", "D"), ("p", "e", "e")}
    assert ("actionimg_data.g", None, "g") in found
    assert ("p.q.a", "b", "b") in set(imports("p.q.a", ast.parse("from . import b"), is_package=True))


def test_no_private_name_is_used_across_rooms() -> None:
    assert [line for module in modules() for line in trespasses(module)] == []

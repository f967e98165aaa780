"""Every file that comes from outside is opened as a plain file: nobody waits at a pipe, and the code has no other way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("actionimg_data", "converters", "schemas")
NATIVE = {
    **dict.fromkeys(("av", "tarfile", "io", "codecs", "gzip", "bz2", "lzma"), {"open"}),
    "os": {"open"},
    "np": {"load", "loadtxt", "genfromtxt", "fromfile", "memmap"},
    "zipfile": {"ZipFile"},
    "h5py": {"File"},
    "sqlite3": {"connect"},
    "cv2": {"imread", "VideoCapture", "FileStorage"},
    **dict.fromkeys(("pq", "parquet"), {"ParquetFile", "read_table", "read_schema", "read_metadata"}),
}
"""Functions of libraries that open what they are given."""

SAFE = {"plain", "open_plain", "open_place", "BytesIO"}
"""What makes their first argument a plain file, or bytes that were read from one."""

ALLOWED = {
    # file: function -> why
}


def sources() -> Iterator[Path]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if not any(p.is_symlink() for p in (path, *path.parents)) and "untrusted" not in path.parts[:-1][-1:]:
                yield path


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def mode_of(call: ast.Call, place: int) -> str | None:
    given = [k.value for k in call.keywords if k.arg == "mode"] or call.args[place : place + 1]
    return given[0].value if given and isinstance(given[0], ast.Constant) and isinstance(given[0].value, str) else None


def safe(call: ast.Call) -> bool:
    first = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "fileobj"), None)
    return isinstance(first, ast.Call) and name_of(first.func) in SAFE


def bare(call: ast.Call) -> bool:
    """Whether a call opens a file for reading by another way than `actionimg_data.untrusted.files`."""
    function = call.func
    if isinstance(function, ast.Name):
        return function.id == "open" and not set(mode_of(call, 1) or "r") & set("wxa")
    if not isinstance(function, ast.Attribute):
        return False
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    if function.attr in NATIVE.get(owner, set()):
        return not safe(call) and not set(mode_of(call, 1) or "r") & set("wxa")
    if function.attr in ("read_bytes", "read_text"):
        return not call.args
    if function.attr == "open":
        mode = mode_of(call, 0)
        first_is_mode = not call.args or mode is not None
        return first_is_mode and not set(mode or "r") & set("wxa")
    return False


def found(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    out = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and bare(node):
            around: ast.AST | None = node
            while around is not None and not isinstance(around, (ast.FunctionDef, ast.AsyncFunctionDef)):
                around = parents.get(around)
            out.append(
                f"{path.relative_to(ROOT)}:{node.lineno} {getattr(around, 'name', '<module>')}: {ast.unparse(node)[:70]}"
            )
    return out


def test_no_file_is_opened_but_as_a_plain_one() -> None:
    bad = [line for path in sources() for line in found(path)]
    assert bad == []

"""Every file that comes from outside is opened as a plain one: nobody waits at a pipe, and there is no other way in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("actionimg_data", "converters", "schemas")
NATIVE = {
    **{name: {"open"} for name in ("av", "tarfile", "io", "codecs", "gzip", "bz2", "lzma")},
    "os": {"open"},
    "np": {"load", "loadtxt", "genfromtxt", "fromfile", "memmap"},
    "zipfile": {"ZipFile"},
    "h5py": {"File"},
    "sqlite3": {"connect"},
    "ElementTree": {"parse"},
    "cv2": {"imread", "VideoCapture", "FileStorage"},
    **{name: {"ParquetFile", "read_table", "read_schema", "read_metadata"} for name in ("pq", "parquet")},
}
"""Functions of libraries that open what they are given."""

OPENING = re.compile(rf"open\(|read_bytes\(|read_text\(|\.(?:{'|'.join(sorted(set().union(*NATIVE.values())))})\(")

SAFE = {"plain", "open_plain", "open_place", "BytesIO"}
"""What makes their first argument a plain file, or bytes that were read from one."""

ALLOWED = {
    ("actionimg_data/cli/__init__.py", "_invoke"): "writes to the null device",
    ("actionimg_data/viewer/app.py", "_static"): "a file of the package",
    ("actionimg_data/viewer/catalog.py", "__init__"): "pyarrow over bytes that were read",
    ("actionimg_data/objectstore.py", "open_read"): "an object's own method",
    ("actionimg_data/objectstore.py", "read_text"): "an object's own method",
    ("actionimg_data/objectstore.py", "write"): "uploads a file that this process has written",
    ("actionimg_data/report/page.py", "asset"): "a template of the package",
    ("actionimg_data/scratch.py", "__init__"): "makes the lock of a private folder",
    ("actionimg_data/scratch.py", "alone"): "makes the lock of a private folder",
    ("actionimg_data/scratch.py", "_sweep"): "the lock of a folder that was private to a process which is gone",
    ("actionimg_data/shards/layout.py", "read_place"): "the way in for data sets: a place, which opens plain files",
    ("actionimg_data/shards/layout.py", "sync_folder"): "flushes a folder",
    ("actionimg_data/shards/read.py", "scan_tar"): "tarfile over a file that `open_place` opened",
    ("actionimg_data/video/read.py", "_open"): "PyAV, given bytes, or a path that was found plain a line before",
    ("actionimg_data/video/read.py", "__init__"): "a zip of pictures: bytes, or a path that is found plain",
    (
        "converters/kit/bags/rosbag_file.py",
        "__init__",
    ): "sqlite and rosbags, on paths that were found plain",
    ("converters/remote.py", "_stub"): "makes a file that stands for an object",
    ("converters/rlds/index.py", "_load_entry"): "numpy over a file that `open_plain` opened",
}
"""File and function: why it may open something in another way."""


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


def found(path: Path) -> list[tuple[str, str, str]]:
    code = path.read_text()
    if not OPENING.search(code):
        return []
    tree = ast.parse(code)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    out = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and bare(node):
            around: ast.AST | None = node
            while around is not None and not isinstance(around, (ast.FunctionDef, ast.AsyncFunctionDef)):
                around = parents.get(around)
            where = (path.relative_to(ROOT).as_posix(), getattr(around, "name", "<module>"))
            out.append((*where, f"line {node.lineno}: {ast.unparse(node)[:70]}"))
    return out


def test_no_file_is_opened_but_as_a_plain_one() -> None:
    every = [entry for path in sources() for entry in found(path)]
    assert [entry for entry in every if entry[:2] not in ALLOWED] == []
    assert sorted(set(ALLOWED) - {entry[:2] for entry in every}) == [], "these need no leave any more"


@pytest.mark.parametrize(
    ("code", "is_bare"),
    [
        ("open(path)", True),
        ("open(path, 'rb')", True),
        ("open(path, 'w')", False),
        ("path.open('rb')", True),
        ("path.open()", True),
        ("path.open('xb')", False),
        ("path.read_bytes()", True),
        ("read_bytes(path)", False),
        ("path.read_text(encoding='utf-8')", True),
        ("os.open(path, os.O_RDONLY)", True),
        ("av.open(path)", True),
        ("av.open(path, 'w')", False),
        ("av.open(plain(path))", False),
        ("h5py.File(path, 'r')", True),
        ("h5py.File(path, 'w')", False),
        ("np.load(io.BytesIO(data))", False),
        ("parquet.read_table(path)", True),
        ("zipfile.ZipFile(plain(path))", False),
        ("cv2.imread(path)", True),
    ],
)
def test_the_lint_knows_a_bare_open(code: str, is_bare: bool) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    assert bare(call) is is_bare

"""Hostile files, and how each is opened: what `hostile.py` runs and tests/test_hostile.py holds.

A case makes its files in a folder (not measured) and gives the opening of them (measured). Code that a file manages to
run writes `canary`; terminal escapes that get through are looked for in what is printed.
"""

# A table of one line a case reads better than one that is broken up.
# ruff: noqa: E501

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import h5py
import numpy as np
import pyarrow as pa
from click.testing import CliRunner
from pyarrow import parquet

from actionimg_data import engine
from actionimg_data.cameras import files as calibration
from actionimg_data.cli import main
from actionimg_data.converters.base import converter_class
from actionimg_data.converters.kit import tables
from actionimg_data.converters.kit.bags.reader import open_bag
from actionimg_data.converters.kit.frames import HDF5Frames, ImageFiles, ZarrFrames
from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.demo import rlds as rlds_writer
from actionimg_data.demo.recordings import (
    camera_file,
    make_log,
    write_folder,
    write_lerobot,
    write_rosbag,
    write_video,
    write_yaml,
)
from actionimg_data.model.files import read_trajectory
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import npz, open_dataset
from actionimg_data.testing import write_rlbench_dataset
from actionimg_data.untrusted import hdf5
from actionimg_data.untrusted.text import load_any
from actionimg_data.video import VideoFrames, read_frames

CANARY = "ran.txt"
BIG = 10**12
Opening = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A hostile input.

    Args:
        group: What kind of attack.
        name: Which.
        make: Writes it below a folder.
        open: Opens it as a user would.
        harmless: It may also be read, as long as nothing else happens.
    """

    group: str
    name: str
    make: Callable[[Path], Any]
    open: Callable[[Path], Any]
    harmless: bool = False

    @property
    def id(self) -> str:
        """Group and name."""
        return f"{self.group}: {self.name}"


CASES: list[Case] = []


def case(
    group: str, name: str, make: Callable[[Path], Any], open: Callable[[Path], Any], harmless: bool = False
) -> None:
    """Add a case."""
    CASES.append(Case(group, name, make, open, harmless))


class Runs:
    """Pickles to a call of `os.system`."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch {folder / CANARY}"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def convert(name: str, source: Path, **options: Any) -> None:
    """Read every episode of a source with its pictures, as a conversion does; raises its first error."""
    kind = converter_class(name)
    converter = kind(kind.Options(**options))
    for ref in converter.discover(str(source)):
        episode = converter.read(ref)
        for view in episode.views.values():
            for _ in view.frames.frames(range(len(episode))):
                pass


def command(*arguments: str | Path) -> str:
    """What a command prints; neither a traceback nor a terminal escape may be in it."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    printed = result.output
    bad = next((c for c in printed if (ord(c) < 32 and c not in "\n\r\t") or 0x7F <= ord(c) < 0xA0), None)
    if bad is not None:
        raise AssertionError(f"prints a control character {bad!r}: {printed[:300]!r}")
    return f"exit {result.exit_code}: {printed[:200]}"


# Pickles.


def demos(folder: Path) -> Path:
    """Where the demonstration of a small RLBench data set is."""
    write_rlbench_dataset(folder / "src", 1, 3, 32, cameras=("front",))
    return next((folder / "src").glob("*/all_variations/episodes/episode0"))


def pickled(data: Callable[[Path], bytes], name: str = "low_dim_obs.pkl") -> Callable[[Path], None]:
    """A demonstration in which one pickle is replaced."""

    def make(folder: Path) -> None:
        (demos(folder) / name).write_bytes(data(folder))

    return make


def rlbench(folder: Path) -> None:
    convert("rlbench", folder / "src")


for protocol in (0, 2, 4, 5):
    case(
        "pickles",
        f"a call of os.system, protocol {protocol}",
        pickled(lambda folder, p=protocol: pickle.dumps(Runs(folder), protocol=p)),
        rlbench,
    )
case(
    "pickles",
    "code in the descriptions",
    pickled(lambda f: pickle.dumps([Runs(f)]), "variation_descriptions.pkl"),
    rlbench,
)
case(
    "pickles",
    "code in the variation's number",
    pickled(lambda f: pickle.dumps(Runs(f)), "variation_number.pkl"),
    rlbench,
)
case("pickles", "eval by the opcode INST", pickled(lambda f: b"(S'1'\nibuiltins\neval\n."), rlbench)
case(
    "pickles", "a bytearray of 10 GB", pickled(lambda f: b"\x80\x05\x96" + struct.pack("<Q", 10 << 30) + b"."), rlbench
)
case("pickles", "a memo index of 2^31", pickled(lambda f: b"\x80\x02}r\xff\xff\xff\x7f."), rlbench)
case("pickles", "a whole number of 2 GB", pickled(lambda f: b"\x80\x02\x8b\xff\xff\xff\x7f."), rlbench)
case(
    "pickles",
    "a key nested 60 deep twice over",
    pickled(lambda f: b"\x80\x02}" + b")" + b"2\x86" * 60 + b"Ns."),
    rlbench,
)
case("pickles", "a gzip bomb in its place", pickled(lambda f: gzip.compress(bytes(64 << 20))), rlbench)
case("pickles", "an endless device behind a link", lambda f: _link(demos(f) / "low_dim_obs.pkl", "/dev/zero"), rlbench)
case("pickles", "a pipe in its place", lambda f: _pipe(demos(f) / "low_dim_obs.pkl"), rlbench)


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


# Tars.


def shard(*infos: tarfile.TarInfo, tail: bytes = b"") -> Callable[[Path], None]:
    """A shard with these members, each with the bytes it states, up to 100."""

    def make(folder: Path) -> None:
        with tarfile.open(folder / "x.tar", "w", format=tarfile.GNU_FORMAT) as archive:
            for info in infos:
                archive.addfile(info, io.BytesIO(bytes(info.size)) if info.isreg() and info.size <= 100 else None)
        if tail:
            data = (folder / "x.tar").read_bytes().rstrip(b"\0")
            (folder / "x.tar").write_bytes(data + bytes(-len(data) % 512) + tail)

    return make


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 10) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = size if kind == tarfile.REGTYPE else 0
    return info


def samples(folder: Path) -> None:
    """Read all members of all samples of a shard."""
    for sample in open_dataset(folder / "x.tar"):
        for name in sample.members:
            sample.read(name)
        _ = sample.trajectory


for text, info in {
    "a member ../x": member("../../x.json"),
    "an absolute member": member("/etc/cron.d/x.json"),
    "a folder in a name": member("a/b.json"),
    "a name without a key": member(".json"),
    "a soft link out": member("a.json", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link out": member("a.json", tarfile.LNKTYPE, "/etc/passwd"),
    "a character device": member("a.json", tarfile.CHRTYPE),
    "a block device": member("a.json", tarfile.BLKTYPE),
    "a pipe": member("a.json", tarfile.FIFOTYPE),
    "a folder": member("a.json", tarfile.DIRTYPE),
    "a member of a terabyte": member("a.json", size=BIG),
    "escapes in a name": member("a\x1b]0;owned\x07/x.json"),
}.items():
    case("tars", text, shard(info), samples)
case("tars", "a member twice", shard(member("a.json"), member("a.json")), samples)


def _pax(key: str, value: str) -> bytes:
    info = tarfile.TarInfo("a.trajectory.npz")
    info.size = 10
    info.pax_headers = {key: value}
    return info.tobuf(format=tarfile.PAX_FORMAT)


case("tars", "a size overruled to a terabyte (pax)", shard(tail=_pax("size", str(BIG)) + bytes(2048)), samples)
case("tars", "a negative size (pax)", shard(tail=_pax("size", "-1024") + bytes(2048)), samples)
case("tars", "a sparse file of a terabyte", shard(tail=_pax("GNU.sparse.realsize", str(BIG)) + bytes(2048)), samples)


def _long_name(folder: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8 << 30
    (folder / "x.tar").write_bytes(info.tobuf(format=tarfile.GNU_FORMAT) + bytes(10240))


case("tars", "a name of 8 GB", _long_name, samples)


# Archives and arrays.


def npy(shape: Any, descr: str = "<f8", body: bytes = b"") -> bytes:
    """A .npy whose header states a shape."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def zipped(
    folder: Path, data: bytes, name: str = "x.npz", inner: str = "position.npy", method: int = zipfile.ZIP_DEFLATED
) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(inner, data)
    return path


def lying(path: Path, size: int) -> None:
    """Let every header of a zip state this unpacked size."""
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.find(mark)
        while place >= 0:
            data[place + at : place + at + 4] = struct.pack("<I", size)
            place = data.find(mark, place + 4)
    path.write_bytes(bytes(data))


def trajectory(folder: Path) -> None:
    read_trajectory(next(folder.glob("x.np*")), fps=10)


def table(folder: Path) -> None:
    found = tables.open_table(next(p for p in folder.iterdir() if p.name.startswith("x.")))
    for name in found.names:
        found.column(name)


def stored(folder: Path) -> None:
    """As a sample's member."""
    npz.load((folder / "x.npz").read_bytes(), "x")


ZEROS = bytes(600 << 20)


def _object_array(folder: Path) -> bytes:
    body = io.BytesIO()
    np.save(body, np.array([Runs(folder)], dtype=object), allow_pickle=True)
    return body.getvalue()


for text, opened in (("a trajectory", trajectory), ("a table", table), ("a sample's member", stored)):
    group = "zip and npz"
    case(group, f"600 MB of zeros as {text}", lambda f: zipped(f, ZEROS), opened)
    case(group, f"a lie about 600 MB as {text}", lambda f: lying(zipped(f, ZEROS), 1000), opened)
    case(group, f"objects as {text}", lambda f: zipped(f, _object_array(f)), opened)
    case(group, f"a shape of 10^12 as {text}", lambda f: zipped(f, npy((BIG,))), opened)
    case(group, f"a negative shape as {text}", lambda f: zipped(f, npy((-1, -8), body=bytes(64))), opened)
    case(group, f"bzip2 as {text}", lambda f: zipped(f, ZEROS[: 1 << 28], method=zipfile.ZIP_BZIP2), opened)
    case(group, f"xz as {text}", lambda f: zipped(f, ZEROS[: 1 << 28], method=zipfile.ZIP_LZMA), opened)
    case(group, f"a deeply nested header as {text}", lambda f: zipped(f, _nested_npy()), opened)


def _nested_npy() -> bytes:
    header = b"(" * 9000
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


case("zip and npz", "an npy of objects", lambda f: (f / "x.npy").write_bytes(_object_array(f)), trajectory)
case("zip and npz", "an npy of 10^12 numbers", lambda f: (f / "x.npy").write_bytes(npy((BIG, 8))), trajectory)
case("zip and npz", "an npy of 10^9 rows of nothing", lambda f: (f / "x.npy").write_bytes(npy((10**9, 0))), trajectory)


# zarr.


def zarr_array(folder: Path, changes: dict[str, Any], chunk: bytes = bytes(80)) -> Path:
    """A zarr (version 2) folder with one array of ten numbers, whose metadata is changed."""
    root = folder / "x.zarr"
    (root / "a").mkdir(parents=True)
    (root / ".zgroup").write_text('{"zarr_format": 2}')
    metadata = {
        "zarr_format": 2, "shape": [10], "chunks": [10], "dtype": "<f8", "compressor": None, "fill_value": 0,
        "order": "C", "filters": None, **changes,
    }  # fmt: skip
    (root / "a/.zarray").write_text(json.dumps(metadata))
    (root / "a" / ".".join("0" * len(metadata["shape"]))).write_bytes(chunk)
    return root


def zarr_frames(folder: Path) -> None:
    frames = ZarrFrames(folder / "x.zarr", "a")
    list(frames.frames([0]))


def _blosc(size: int) -> bytes:
    body = bytes(100)
    return struct.pack("<BBBBIII", 2, 1, 1, 8, size, 1 << 20, len(body) + 16) + body


def _zarr_zip(folder: Path) -> None:
    root = zarr_array(folder, {"dtype": "<f8"})
    with zipfile.ZipFile(folder / "x.zarr.zip", "w") as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.name != "0":
                archive.write(path, path.relative_to(root).as_posix())
        archive.writestr(zipfile.ZipInfo("a/0"), ZEROS, zipfile.ZIP_DEFLATED)
    shutil.rmtree(root)
    lying(folder / "x.zarr.zip", 80)


def _zarr_loop(folder: Path) -> None:
    root = zarr_array(folder, {})
    for name in ("b", "c", "d"):
        (root / name).symlink_to(root, target_is_directory=True)


def _climbing_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "x.zarr.zip", "w") as archive:
        archive.writestr("../../.zgroup", "{}")


PICKLED = pickle.dumps(None)
case("zarr", "the codec pickle", lambda f: zarr_array(f, {"filters": [{"id": "pickle"}]}, pickle.dumps(Runs(f))), table)
case(
    "zarr",
    "the codec pickle, as packing",
    lambda f: zarr_array(f, {"compressor": {"id": "pickle"}}, pickle.dumps(Runs(f))),
    table,
)
case(
    "zarr",
    "objects",
    lambda f: zarr_array(
        f, {"dtype": "|O", "filters": [{"id": "pickle"}], "fill_value": None}, pickle.dumps([Runs(f)])
    ),
    table,
)
case("zarr", "10^12 numbers", lambda f: zarr_array(f, {"shape": [BIG], "chunks": [BIG]}), table)
case("zarr", "10^12 numbers in small chunks", lambda f: zarr_array(f, {"shape": [BIG]}), table)
case(
    "zarr",
    "a blosc chunk of 2 GB",
    lambda f: zarr_array(f, {"compressor": {"id": "blosc"}}, _blosc((1 << 31) - 64)),
    table,
)
case(
    "zarr",
    "a zstd chunk of 8 GB",
    lambda f: zarr_array(
        f, {"compressor": {"id": "zstd", "level": 1}}, b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 8 << 30) + bytes(40)
    ),
    table,
)
case(
    "zarr",
    "a gzip bomb of 600 MB",
    lambda f: zarr_array(f, {"compressor": {"id": "gzip", "level": 9}}, gzip.compress(ZEROS, 9)),
    table,
)
case(
    "zarr",
    "a zlib bomb of 600 MB",
    lambda f: zarr_array(f, {"compressor": {"id": "zlib", "level": 9}}, zlib.compress(ZEROS, 9)),
    table,
)
case("zarr", "an xz bomb", lambda f: zarr_array(f, {"compressor": {"id": "lzma"}}, bytes(100)), table)
case("zarr", "a member of a zip that lies about 600 MB", _zarr_zip, table)
case("zarr", "a member of a zip that climbs out", _climbing_zip, table)
case("zarr", "links in a circle", _zarr_loop, table)
case("zarr", "metadata nested 10^5 deep", lambda f: _write(zarr_array(f, {}) / "a/.zarray", b"[" * 100_000), table)
case(
    "zarr",
    "pictures of 65,536 pixels a side",
    lambda f: zarr_array(f, {"shape": [1, 65536, 65536, 3], "chunks": [1, 64, 64, 3], "dtype": "|u1"}),
    zarr_frames,
)
case(
    "zarr",
    "a JPEG-XL picture of 10^9 pixels a side",
    lambda f: zarr_array(
        f,
        {"shape": [1, 8, 8, 3], "chunks": [1, 8, 8, 3], "dtype": "|u1", "compressor": {"id": "imagecodecs_jpegxl"}},
        b"\xff\x0a" + int.to_bytes((0b11 << 1) | ((1 << 29) << 3) | (1 << 33), 12, "little") + bytes(64),
    ),
    zarr_frames,
)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# HDF5.


def h5(fill: Callable[[h5py.File, Path], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with h5py.File(folder / "x.h5", "w") as file:
            fill(file, folder)

    return make


def _external(file: h5py.File, folder: Path) -> None:
    file.create_dataset("a", (100,), "u1", external=[("/etc/passwd", 0, 100)])


def _virtual(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["a"] = np.arange(10)
    layout = h5py.VirtualLayout((10,), "i8")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "a", (10,))
    file.create_virtual_dataset("a", layout)


def _linked(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["a"] = np.arange(10)
    file["b"] = np.arange(3)
    file["a"] = h5py.ExternalLink(str(folder / "other.h5"), "a")


def _references(file: h5py.File, folder: Path) -> None:
    file["b"] = np.arange(3)
    file.create_dataset("a", (1,), h5py.ref_dtype)[0] = file["b"].ref


def _deep(file: h5py.File, folder: Path) -> None:
    group = file
    for _ in range(3000):
        group = group.create_group("g")
    group["a"] = np.arange(3.0)


def h5_frames(folder: Path) -> None:
    list(HDF5Frames(folder / "x.h5", "a").frames([0]))


def _zeros(file: h5py.File, shape: Any, chunks: Any, dtype: str = "u1") -> None:
    file.create_dataset("a", shape, dtype, chunks=chunks, compression="gzip", fillvalue=0)


def _huge_chunk(file: h5py.File, folder: Path) -> None:
    _zeros(file, (1000, 1024, 1024), (1000, 1024, 1024))
    chunk = zlib.compress(bytes(1000 << 20), 1)
    file["a"].id.write_direct_chunk((0, 0, 0), chunk)


case("HDF5", "values in another file", h5(_external), table)
case("HDF5", "a virtual data set over another file", h5(_virtual), table)
case("HDF5", "a link to another file", h5(_linked), table)
case("HDF5", "references", h5(_references), table)
case("HDF5", "10^12 numbers", h5(lambda file, _: _zeros(file, (BIG,), (1 << 20,), "f8")), table)
case(
    "HDF5",
    "pictures of 65,536 pixels a side",
    h5(lambda f, _: _zeros(f, (1, 65536, 65536, 3), (1, 64, 64, 3))),
    h5_frames,
)
case("HDF5", "an encoded picture of 10^12 bytes", h5(lambda file, _: _zeros(file, (2, BIG), (1, 1 << 20))), h5_frames)
case("HDF5", "a chunk of 1 GB of zeros", h5(_huge_chunk), table)
case("HDF5", "groups 3000 deep", h5(_deep), table, harmless=True)
case("HDF5", "groups in a circle", h5(lambda file, _: file.__setitem__("a/b", file)), table, harmless=True)
case("HDF5", "soft links in a circle", h5(lambda f, _: [f.__setitem__("a", h5py.SoftLink("/b")), f.__setitem__("b", h5py.SoftLink("/a"))]), lambda f: _dataset(f), )  # fmt: skip


def _dataset(folder: Path) -> None:
    with hdf5.open_hdf5(folder / "x.h5") as file:
        hdf5.dataset(file, "a")


# Parquet and CSV.


def _parquet_run(folder: Path) -> None:
    values = pa.array(np.zeros(80_000_000))
    parquet.write_table(pa.table({"a": values}), folder / "x.parquet")


def _parquet_claims(folder: Path) -> None:
    path = folder / "x.parquet"
    parquet.write_table(pa.table({"a": [1.0, 2.0]}), path)
    data = path.read_bytes()
    # num_rows, the i64 after field 3 of the footer, as thrift's varint: 2 becomes 63, and pages do not follow.
    path.write_bytes(data.replace(b"\x16\x04", b"\x16\x7e"))


case("tables", "80 million equal rows of Parquet", _parquet_run, table)
case("tables", "Parquet whose footer states other counts", _parquet_claims, table, harmless=True)
case(
    "tables",
    "Parquet cut in its footer",
    lambda f: _write(f / "x.parquet", b"PAR1" + b"\xff" * 100 + b"\xff\xff\xff\x7fPAR1"),
    table,
)
case("tables", "JSON lines nested 10^5 deep", lambda f: _write(f / "x.jsonl", b'{"a":' * 100_000), table)
case("tables", "a number of 10^5 digits", lambda f: _write(f / "x.jsonl", b'{"a": ' + b"9" * 100_000 + b"}"), table)
case(
    "tables",
    "CSV with a cell of 100 MB",
    lambda f: _write(f / "x.csv", b"a,b\n1," + b"x" * (100 << 20) + b"\n"),
    table,
    harmless=True,
)
case("tables", "CSV that is zeros", lambda f: _write(f / "x.csv", bytes(50 << 20)), table, harmless=True)
case("tables", "a pipe named as a table", lambda f: os.mkfifo(f / "x.csv"), table)
case(
    "tables",
    "a trajectory of JSON nested 10^5 deep",
    lambda f: _write(f / "x.json", b"[" * 100_000),
    lambda f: read_trajectory(f / "x.json"),
)
case(
    "tables",
    "a trajectory of CSV with NUL bytes",
    lambda f: _write(f / "x.csv", b"x,y\0,z\n\0"),
    lambda f: read_trajectory(f / "x.csv"),
)


# Text files: YAML, JSON, calibration.


def mapping_case(name: str, data: bytes, harmless: bool = False) -> None:
    case("YAML and JSON", name, lambda f: _write(f / "m.yaml", data), lambda f: load_any(f / "m.yaml"), harmless)


mapping_case("a tag that runs code", b"a: !!python/object/apply:os.system ['touch ran.txt']\n")
mapping_case("a tag of another kind", b"a: !foo 1\n")
mapping_case(
    "anchors that multiply",
    b"a: &a [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(9)),
)
mapping_case("a merge of itself", b"a: &a\n  <<: *a\n")
mapping_case("nested 10^5 deep", b"[" * 100_000)
mapping_case("nested 10^5 deep in blocks", b"\n".join(b" " * i + b"a:" for i in range(2000)))
mapping_case("a date that cannot be", b"a: 2024-13-45\n", harmless=True)
mapping_case("a number of 10^5 digits", b"a: " + b"9" * 100_000 + b"\n", harmless=True)
mapping_case("a key that is a list", b"? [a, b]\n: 1\n", harmless=True)
mapping_case("not UTF-8", b"a: \xff\xfe\xfa\n")
mapping_case("60 MB of one line", b"a: " + b"x" * (60 << 20))
for text, data in {
    "JSON nested 10^5 deep": b'{"a":' * 100_000,
    "JSON with a number of 10^5 digits": b"[" + b"9" * 100_000 + b"]",
    "JSON cut in a character": b'{"a": "\xe2\x82',
}.items():
    case("YAML and JSON", text, lambda f, d=data: _write(f / "m.json", d), lambda f: load_any(f / "m.json"))


def cameras(folder: Path) -> None:
    found = calibration.load_cameras(next(folder.glob("cam.*")))
    for camera in found.values():
        camera.camera(folder)


def _camera(**changes: Any) -> bytes:
    entry = {
        "K": [[50, 0, 32], [0, 50, 32], [0, 0, 1]],
        "width": 64,
        "height": 64,
        "world_from_camera": np.eye(4).tolist(),
    }
    return json.dumps({"cameras": {"front": {**entry, **changes}}}).encode()


_nan = [[float("nan")] * 4] * 3 + [[0, 0, 0, 1]]
for text, data, suffix in (
    ("a camera of NaN", _camera(K=[[float("nan"), 0, 0], [0, 1, 0], [0, 0, 1]]), "json"),
    ("a camera at infinity", _camera(world_from_camera=[[1, 0, 0, float("inf")], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "json"),
    ("a pose of NaN", _camera(world_from_camera=_nan), "json"),
    ("a moving camera with one pose of NaN", _camera(world_from_camera=[np.eye(4).tolist(), _nan]), "json"),
    ("a camera of 10^12 pixels", _camera(width=BIG, height=BIG), "json"),
    ("distortion of NaN", _camera(distortion={"model": "pinhole", "coefficients": [float("nan")] * 5}), "json"),
    ("an OpenCV matrix of 10^9 rows", b"%YAML:1.0\n---\nimage_width: 64\nimage_height: 64\ncamera_matrix: !!opencv-matrix\n   rows: 1000000000\n   cols: 1000000000\n   dt: d\n   data: [ 1. ]\n", "yml"),
    ("an OpenCV matrix of another type", b"%YAML:1.0\n---\nimage_width: 64\nimage_height: 64\ncamera_matrix: !!opencv-matrix\n   rows: 3\n   cols: 3\n   dt: \"100000u\"\n   data: [ 1. ]\n", "yml"),
    ("OpenCV YAML nested 5000 deep", b"%YAML:1.0\n---\na: " + b"[" * 5000, "yml"),
    ("OpenCV XML nested 5000 deep", b"<?xml version=\"1.0\"?>\n<opencv_storage>" + b"<a>" * 5000, "xml"),
    ("an XML entity bomb", b'<?xml version="1.0"?>\n<!DOCTYPE lolz [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>\n<opencv_storage><a>&b;</a></opencv_storage>', "xml"),
):  # fmt: skip
    case("cameras", text, lambda f, d=data, s=suffix: _write(f / f"cam.{s}", d), cameras)


# Pictures.


def png(width: int, height: int, body: bytes = b"", chunks: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunks + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    _, data = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))
    raw = bytearray(data.tobytes())
    at = raw.find(b"\xff\xc0")
    raw[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(raw)


def webp(width: int, height: int) -> bytes:
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body + bytes(30)


def bmp(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def _exif(data: bytes) -> bytes:
    body = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 65535) + b"\xff" * 60
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def _image_zlib(side: int) -> bytes:
    return zlib.compress(bytes((3 * side + 1) * side), 9)


PICTURES = {
    "PNG of 65,536 pixels a side": png(65536, 65536),
    "PNG of 2^31 pixels a side": png((1 << 31) - 1, (1 << 31) - 1),
    "PNG of 1 x 65,536": png(65536, 1),
    "PNG of no pixels": png(0, 10),
    "PNG with a chunk of 4 GB": png(8, 8)[:33] + struct.pack(">I", 0xFFFFFFF0) + b"IDAT" + bytes(50),
    "PNG with a text chunk that unpacks to 1 GB": png(8, 8, _image_zlib(8), (lambda z: struct.pack(">I", len(z)) + b"zTXt" + z + struct.pack(">I", zlib.crc32(b"zTXt" + z)))(b"a\0\0" + zlib.compress(bytes(1 << 28), 9))),
    "PNG whose pixels go on": png(8, 8, _image_zlib(4000)),
    "JPEG of 65,500 pixels a side": jpeg(65500, 65500),
    "JPEG of 30,000 pixels a side": jpeg(30000, 30000),
    "JPEG without a size": b"\xff\xd8\xff\xd9",
    "JPEG with EXIF of 65,535 entries": _exif(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()),
    "WebP of 16 million pixels a side": webp(1 << 24, 1 << 24),
    "WebP without pixels": webp(64, 64),
    "BMP of 65,536 pixels a side": bmp(65536, 65536),
    "BMP of a negative size": bmp(-64, -(1 << 31)),
    "a picture of another kind (OpenEXR)": b"\x76\x2f\x31\x01" + bytes(200),
    "a picture of another kind (JPEG 2000)": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(200),
    "an SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'><script>x</script></svg>",
}  # fmt: skip
for text, data in PICTURES.items():
    fine = text in (
        "JPEG with EXIF of 65,535 entries",
        "PNG whose pixels go on",
        "PNG with a text chunk that unpacks to 1 GB",
    )
    case(
        "pictures",
        text,
        lambda f, d=data: _write(f / "0.png", d),
        lambda f: list(ImageFiles([str(f / "0.png")], f).frames([0])),
        fine,
    )
    case(
        "pictures",
        f"{text}, in an RLBench demo",
        lambda f, d=data: _write(demos(f) / "front_rgb" / "1.png", d),
        rlbench,
        fine,
    )


def _rlds_picture(data: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        node = rlds_writer.episode_features({"x": rlds_writer.image((None, None, 3), encoding="")})
        record = rlds_writer.example(
            {
                "steps/x": rlds_writer.bytes_list([data]),
                **{f"steps/{k}": rlds_writer.int64_list([1]) for k in ("is_first", "is_last", "is_terminal")},
            }
        )
        rlds_writer.write_rlds(folder, "d", node, {"train": []})
        root = folder / "d/1.0.0"
        info = json.loads((root / "dataset_info.json").read_text())
        info["splits"][0]["shardLengths"] = ["1"]
        (root / "dataset_info.json").write_text(json.dumps(info))
        rlds_writer.write_records(root / "d-train.tfrecord-00000-of-00001", [record], "tfrecord")

    return make


def rlds(folder: Path) -> None:
    from actionimg_data.converters.rlds import open_rlds

    os.environ["ACTIONIMG_CACHE_DIR"] = str(folder / "cache")
    for episode in open_rlds(folder / "d/1.0.0").episodes():
        del episode


for text in ("PNG of 65,536 pixels a side", "PNG with a chunk of 4 GB", "JPEG of 65,500 pixels a side", "an SVG"):
    case("pictures", f"{text}, in an RLDS record", _rlds_picture(PICTURES[text]), rlds)


# Videos.


def video(folder: Path, frames: int = 8, **changes: Any) -> Path:
    rng = np.random.default_rng(0)
    path = folder / "x.mp4"
    write_video(path, rng.integers(0, 255, (frames, 64, 64, 3), dtype=np.uint8))
    return path


def patched(*changes: tuple[bytes, int, bytes]) -> Callable[[Path], None]:
    """An MP4 in which bytes after the name of a box are others."""

    def make(folder: Path) -> None:
        path = video(folder)
        data = bytearray(path.read_bytes())
        for box, offset, value in changes:
            place = data.find(box) + 4 + offset
            data[place : place + len(value)] = value
        path.write_bytes(bytes(data))

    return make


def all_frames(folder: Path) -> None:
    """By the readers of sources and of data sets, from a file and from bytes."""
    path = folder / "x.mp4"
    source = VideoFrames(path)
    for _ in source.frames(range(len(source))):
        pass
    read_frames(path)


def as_member(folder: Path) -> None:
    read_frames((folder / "x.mp4").read_bytes(), name="x")


def large_video(side: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with av.open(str(folder / "x.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=20)
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
            stream.options = {"preset": "ultrafast", "bf": "0", "rc-lookahead": "0"}
            frame = av.VideoFrame(side, side, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts, frame.time_base = 0, Fraction(1, 20)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    return make


def _playlist(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        video(folder).rename(folder / "secret.mp4")
        (folder / "x.mp4").write_text(text.format(folder=folder))

    return make


def _png_zip(folder: Path, *pictures: bytes, method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(folder / "x.mp4", "w", method) as archive:
        for i, data in enumerate(pictures):
            archive.writestr(f"{i:06d}.png", data)


for text, opened in (("", all_frames), (", as a sample's member", as_member)):
    group = "videos"
    case(group, f"an MP4 of 10^9 frames{text}", patched((b"stsz", 4, struct.pack(">II", 1, 10**9))), opened)
    case(group, f"an MP4 of 80 million frames{text}", patched((b"stsz", 4, struct.pack(">II", 1, 80 * 10**6)), (b"stsc", 4, struct.pack(">III", 1, 1, 80 * 10**6))), opened)  # fmt: skip
    case(
        group,
        f"a picture of 65,535 pixels a side{text}",
        patched((b"avc1", 24, b"\xff\xff\xff\xff")),
        opened,
        harmless=True,
    )
    case(group, f"H.264 of 16,000 pixels a side{text}", large_video(16000), opened)
    case(
        group,
        f"a list of files (concat){text}",
        _playlist("ffconcat version 1.0\nfile '{folder}/secret.mp4'\n"),
        opened,
    )
    case(group, f"a list of files without paths{text}", _playlist("ffconcat version 1.0\nfile secret.mp4\n"), opened)
    case(group, f"a playlist (HLS){text}", _playlist("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{folder}/secret.mp4\n#EXT-X-ENDLIST\n"), opened)  # fmt: skip
    case(group, f"a playlist of the network{text}", _playlist("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"), opened)  # fmt: skip
    case(group, f"a session description (SDP){text}", _playlist("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"), opened)  # fmt: skip
    case(group, f"a compressed header{text}", lambda f: _write(f / "x.mp4", struct.pack(">I4s", 40, b"moov") + struct.pack(">I4s", 32, b"cmov") + struct.pack(">I4s", 12, b"dcom") + b"zlib" + struct.pack(">I4s", 12, b"cmvd") + b"\x7f\xff\xff\xff"), opened)  # fmt: skip
    case(group, f"boxes in each other without end{text}", lambda f: _write(f / "x.mp4", struct.pack(">I4s", 16, b"ftyp") + bytes(8) + struct.pack(">I4s", 0, b"moov") * 20000), opened)  # fmt: skip
    case(
        group,
        f"nothing but a name{text}",
        lambda f: _write(f / "x.mp4", struct.pack(">I4s", 16, b"ftyp") + b"isom" + bytes(4)),
        opened,
    )
    case(
        group,
        f"PNG pictures of 65,536 pixels a side{text}",
        lambda f: _png_zip(f, png(65536, 65536)),
        lambda f: read_frames(f / "x.mp4"),
    )
    case(
        group,
        f"PNG pictures packed again{text}",
        lambda f: _png_zip(f, ZEROS, method=zipfile.ZIP_DEFLATED),
        lambda f: read_frames(f / "x.mp4"),
    )
case("videos", "a pipe named as a video", lambda f: os.mkfifo(f / "x.mp4"), all_frames)
case("videos", "a folder named as a video", lambda f: (f / "x.mp4").mkdir(), all_frames)


# Bags and records.

LOG = None


def log() -> Any:
    global LOG
    if LOG is None:
        LOG = make_log(frames=4, size=32, views=("front",))
    return LOG


def bag_case(name: str, change: Callable[[Path], None], storage: str = "mcap", harmless: bool = False) -> None:
    def make(folder: Path) -> None:
        mapping = write_rosbag(log(), folder / ("run.bag" if storage == "ros1" else "run"), storage)
        write_yaml(folder / "m.yaml", mapping)
        change(folder)

    def open_it(folder: Path) -> None:
        path = next(p for p in (folder / "run.bag", folder / "run.mcap", folder / "run") if p.exists())
        with open_bag(path) as bag:
            for channel, _, data in bag.messages(bag.channels):
                bag.decode(channel, data)

    case("bags and records", name, make, open_it, harmless)


def _mcap(*records: tuple[int, bytes]) -> Callable[[Path], None]:
    """Replaces the bag's file by one of these records."""

    def change(folder: Path) -> None:
        (path,) = (folder / "run").glob("*.mcap")
        (folder / "run/metadata.yaml").unlink()
        body = b"".join(struct.pack("<BQ", op, len(data)) + data for op, data in records)
        path.write_bytes(b"\x89MCAP0\r\n" + body + b"\x89MCAP0\r\n")
        for other in (folder / "run").iterdir():
            other.rename(folder / "x.mcap")
        (folder / "run").rmdir()
        (folder / "x.mcap").rename(folder / "run.mcap")

    return change


def _string(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode()


def _schema(text: str) -> bytes:
    body = text.encode()
    return struct.pack("<H", 1) + _string("pkg/msg/T") + _string("ros2msg") + struct.pack("<I", len(body)) + body


def _chunk(data: bytes, kind: str, size: int) -> bytes:
    return struct.pack("<QQQI", 0, 10, size, 0) + _string(kind) + struct.pack("<Q", len(data)) + data


HEADER = (1, _string("ros2") + _string("x"))
CHANNEL = (4, struct.pack("<HH", 1, 1) + _string("/t") + _string("cdr") + struct.pack("<I", 0))
DEFINITIONS = {
    "code in a definition": "int32 x\nint32 X=__import__('os').system('touch ran.txt')\n",
    "a definition that is not one": "int32 class\nint32 lambda\nint32 x y z\n",
    "an array of 10^12 numbers": f"int32[{BIG}] x\n",
    "a message that holds itself": "pkg/T x\n",
    "escapes in a definition": "string \x1b[31mx\n",
}


def _bag_text(text: str) -> Callable[[Path], None]:
    return _mcap(
        HEADER,
        (3, _schema(text)),
        CHANNEL,
        (5, struct.pack("<HIQQ", 1, 0, 0, 0) + bytes(64)),
        (15, bytes(4)),
        (2, bytes(20)),
    )


def _zstd(size: int) -> bytes:
    # A frame of run-length blocks of 128 KiB each (RFC 8878): four bytes for each.
    blocks = [struct.pack("<I", (1 << 1 | (131072 << 3)))[:3] + b"\0" for _ in range(size >> 17)]
    blocks[-1] = struct.pack("<I", (1 | 1 << 1 | (131072 << 3)))[:3] + b"\0"
    return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size) + b"".join(blocks)


for text, definition in DEFINITIONS.items():
    bag_case(text, _bag_text(definition), harmless=True)
for kind, packed in (("zstd", lambda: _zstd(2 << 30)), ("lz4", lambda: _lz4())):
    bag_case(
        f"an MCAP chunk that unpacks to 2 GB ({kind})",
        lambda f, k=kind, p=packed: _mcap(HEADER, (6, _chunk(p(), k, 2 << 30)), (15, bytes(4)), (2, bytes(20)))(f),
    )
bag_case("an MCAP that is cut", lambda f: _cut(next((f / "run").glob("*.mcap"))))
bag_case("a ROS 1 bag that is cut", lambda f: _cut(f / "run.bag"), "ros1")
bag_case(
    "a database that is none",
    lambda f: _write(next((f / "run").glob("*.db3")), b"SQLite format 3\0" + b"\xff" * 5000),
    "sqlite3",
)
bag_case(
    "metadata with a tag",
    lambda f: _write(
        f / "run/metadata.yaml", b"rosbag2_bagfile_information: !!python/object/apply:os.system ['touch ran.txt']\n"
    ),
)
bag_case("metadata that names a file outside", lambda f: _outside(f / "run/metadata.yaml"), harmless=True)


def _outside(path: Path) -> None:
    import re

    path.write_text(re.sub(r"\S+\.mcap", "../../../../etc/passwd", path.read_text()))


def _lz4() -> bytes:
    import lz4.frame

    return bytes(lz4.frame.compress(bytes(700 << 20)))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _bz2_bag(folder: Path) -> None:
    """A ROS 1 bag, all of whose chunks are bzip2 bombs."""
    data = (folder / "run.bag").read_bytes()
    bomb = bz2.compress(bytes(700 << 20))
    out, place = bytearray(data[:13]), 13
    while place < len(data):
        (size,) = struct.unpack_from("<I", data, place)
        head = data[place + 4 : place + 4 + size]
        (length,) = struct.unpack_from("<I", data, place + 4 + size)
        body = data[place + 8 + size : place + 8 + size + length]
        if b"op=\x05" in head:
            body = bomb
            head = head.replace(b"\x10\0\0\0compression=none", b"\x0f\0\0\0compression=bz2")
        out += struct.pack("<I", len(head)) + head + struct.pack("<I", len(body)) + body
        place += 8 + size + length
    (folder / "run.bag").write_bytes(bytes(out))


bag_case("a ROS 1 chunk that unpacks to 700 MB (bz2)", _bz2_bag, "ros1", harmless=True)


def _rlds_bomb(folder: Path) -> None:
    node = rlds_writer.episode_features({"x": rlds_writer.tensor((None, 3), "float32", "zlib")})
    rlds_writer.write_rlds(folder, "d", node, {"train": []})
    record = rlds_writer.example(
        {
            "steps/x": rlds_writer.bytes_list([zlib.compress(ZEROS, 9)]),
            **{f"steps/{k}": rlds_writer.int64_list([1]) for k in ("is_first", "is_last", "is_terminal")},
        }
    )
    root = folder / "d/1.0.0"
    info = json.loads((root / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["1"]
    (root / "dataset_info.json").write_text(json.dumps(info))
    rlds_writer.write_records(root / "d-train.tfrecord-00000-of-00001", [record], "tfrecord")


def _rlds_file(
    change: Callable[[bytes], bytes], name: str = "d-train.tfrecord-00000-of-00001"
) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _rlds_picture(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())(folder)
        path = folder / "d/1.0.0" / name
        path.write_bytes(change(path.read_bytes()))

    return make


def _info(**changes: Any) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        info = json.loads(data)
        info["splits"][0].update(changes)
        return json.dumps(info).encode()

    return change


case("bags and records", "an RLDS value that inflates to 600 MB", _rlds_bomb, rlds)
case("bags and records", "a gzip-compressed TFRecord", _rlds_file(gzip.compress), rlds)
case("bags and records", "a TFRecord of 8 exabytes", _rlds_file(lambda d: struct.pack("<Q", 1 << 63) + d[8:]), rlds)
case(
    "bags and records",
    "RLDS files outside the folder",
    _rlds_file(_info(filepathTemplate="../../../etc/passwd"), "dataset_info.json"),
    rlds,
)
case(
    "bags and records",
    "10^12 RLDS files",
    _rlds_file(
        _info(shardLengths=["1"] * 10, filepathTemplate="{SPLIT}-{SHARD_X_OF_Y:1000000000}"), "dataset_info.json"
    ),
    rlds,
)
case(
    "bags and records",
    "RLDS features nested 10^5 deep",
    _rlds_file(lambda d: b'{"a":' * 100_000, "features.json"),
    rlds,
)


# LeRobot.


def lerobot(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        mapping = write_lerobot([log()], folder / "set", "v2.1", codec="libx264")
        (folder / "cameras.json").write_text(json.dumps(camera_file(log())))
        write_yaml(folder / "m.yaml", mapping)
        change(folder / "set")

    return make


def read_lerobot(folder: Path) -> None:
    convert("lerobot", folder / "set", mapping=str(folder / "m.yaml"))


def _set_info(**changes: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "meta/info.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _set_episode(**changes: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "meta/episodes.jsonl"
        path.write_text(
            "".join(json.dumps({**json.loads(line), **changes}) + "\n" for line in path.read_text().splitlines())
        )

    return change


for text, change in {
    "LeRobot files outside the folder": _set_info(data_path="../../../etc/{episode_index}"),
    "a LeRobot path of 10^9 digits": _set_info(data_path="{episode_index:01000000000d}"),
    "a LeRobot path with attributes": _set_info(data_path="{episode_index.__class__.__mro__}"),
    "LeRobot chunks of no episode": _set_info(chunks_size=0),
    "LeRobot at 0 Hz": _set_info(fps=0),
    "LeRobot at NaN Hz": _set_info(fps=float("nan")),
    "a LeRobot episode of 10^12 frames": _set_episode(length=BIG),
    "a LeRobot episode of -1 frames": _set_episode(length=-1),
    "a LeRobot index that is text": _set_episode(episode_index="0"),
    "LeRobot rows nested 10^5 deep": lambda root: _write(root / "meta/episodes.jsonl", b'{"a":' * 100_000),
    "LeRobot features that are a list": _set_info(features=[1, 2]),
    "LeRobot features of text": _set_info(features={"observation.state": "x"}),
}.items():
    case("paths and numbers", text, lerobot(change), read_lerobot)


# Folders.


def plain(change: Callable[[Path, dict[str, Any]], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        mapping = write_folder(log(), folder / "src/ep")
        change(folder / "src/ep", mapping)
        write_yaml(folder / "m.yaml", mapping)

    return make


def read_folder(folder: Path) -> None:
    convert("folder", folder / "src", mapping=str(folder / "m.yaml"))


def _frames(text: str) -> Callable[[Path, dict[str, Any]], None]:
    return lambda _, mapping: mapping["views"]["front"].update(frames=text)


for text, plain_change in {
    "pictures outside the source": _frames("../../secret.mp4"),
    "pictures at an absolute path": _frames("/etc/passwd.mp4"),
    "pictures by a pattern that climbs out": _frames("../*/*.png"),
    "poses outside the source": lambda _, m: m["pose"].update(file="../../poses.csv"),
    "poses at an absolute path": lambda _, m: m["pose"].update(file="/etc/passwd"),
    "calibration outside the source": lambda _, m: m["views"]["front"]["camera"].update(file="../../../../etc/passwd"),
    "an instruction outside the source": lambda _, m: m.update(instruction={"file": "../../../../etc/hostname"}),
    "an instruction with escapes": lambda _, m: m.update(instruction={"text": "lift \x1b]0;owned\x07 it"}),
    "poses of NaN": lambda p, _: _write(
        p / "poses.csv",
        b"time_s,x_m,y_m,z_m,qx,qy,qz,qw,gripper_width_m\n" + b"nan,nan,nan,nan,nan,nan,nan,nan,nan\n" * 50,
    ),
    "poses at times of NaN": lambda p, _: _write(
        p / "poses.csv", b"time_s,x_m,y_m,z_m,qx,qy,qz,qw,gripper_width_m\n" + b"nan,0,0,0,0,0,0,1,0\n" * 50
    ),
}.items():
    case("paths and numbers", text, plain(plain_change), read_folder)


def _circle(folder: Path) -> None:
    demos(folder)
    for name in ("a", "b", "c"):
        (folder / "src" / name).symlink_to(folder / "src", target_is_directory=True)


case("paths and numbers", "links in a circle, RLBench", _circle, rlbench, harmless=True)
case("paths and numbers", "links in a circle, inspect", _circle, lambda f: command("inspect", f / "src"), harmless=True)


# Text that is shown.

EVIL = "\x1b]0;owned\x07\x1b[31m<script>alert(1)</script>\x9b2J‮"


def _evil_names(folder: Path) -> None:
    demos(folder)
    (folder / "src").rename(folder / f"src{EVIL.replace('/', '')}")


def _evil_folder(folder: Path) -> Path:
    return next(p for p in folder.iterdir() if p.name.startswith("src"))


def _converted(folder: Path) -> None:
    demos(folder)
    engine.convert(RLBenchConverter(), str(folder / "src"), folder / "out", ConvertOptions.parse(height=32, width=32))


def _evil_set(folder: Path) -> None:
    """A data set whose files hold escapes wherever a text is."""
    _converted(folder)
    for name in ("dataset.json", "plan.jsonl", "train/000000.json"):
        path = folder / "out" / name
        text = path.read_text()
        path.write_text(text.replace("front", json.dumps("\x1b[31mfront")[1:-1]))


case(
    "text that is shown",
    "escapes in a folder's name, inspect",
    _evil_names,
    lambda f: command("inspect", _evil_folder(f)),
    harmless=True,
)
case(
    "text that is shown",
    "escapes in a folder's name, convert",
    _evil_names,
    lambda f: command("convert", "rlbench", _evil_folder(f), f / "out", "--size", "32", "-j", "1"),
    harmless=True,
)
case(
    "text that is shown",
    "escapes in a missing folder's name",
    lambda f: None,
    lambda f: command("convert", "rlbench", f / EVIL, f / "out"),
    harmless=True,
)
case(
    "text that is shown",
    "escapes in the instruction, convert",
    lambda f: _write(demos(f) / "variation_descriptions.pkl", pickle.dumps([EVIL])),
    lambda f: command("convert", "rlbench", f / "src", f / "out", "--size", "32", "-j", "1"),
    harmless=True,
)
case(
    "text that is shown",
    "escapes in the instruction, inspect",
    lambda f: _write(demos(f) / "variation_descriptions.pkl", pickle.dumps([EVIL])),
    lambda f: command("inspect", f / "src"),
    harmless=True,
)
for what in ("verify", "inspect"):
    case(
        "text that is shown",
        f"escapes in a data set's files, {what}",
        _evil_set,
        lambda f, w=what: command(w, f / "out"),
        harmless=True,
    )
    case(
        "text that is shown",
        f"an index that is none, {what}",
        lambda f: (_converted(f), _write(f / "out/index.parquet", b"PAR1" + b"\xff" * 99 + b"PAR1")),
        lambda f, w=what: command(w, f / "out"),
        harmless=True,
    )
    case(
        "text that is shown",
        f"a manifest nested 10^5 deep, {what}",
        lambda f: (_converted(f), _write(f / "out/dataset.json", b'{"a":' * 100_000)),
        lambda f, w=what: command(w, f / "out"),
        harmless=True,
    )
case(
    "text that is shown",
    "escapes in a tar's member, inspect",
    shard(member("a\x1b[31m.json")),
    lambda f: command("inspect", f / "x.tar"),
    harmless=True,
)

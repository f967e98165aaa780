"""Hostile files are refused by name, run no code, and take neither memory nor time.

The cases are those of tests/reliability/hostile.py, which runs all of them; here, the quick ones of some groups, in a
program of its own that forks for each with limits. What single formats refuse is in their own tests.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import run_program

from actionimg_data.cli._common import emit_json, visible
from actionimg_data.errors import ActionImgError, BadFileError, BadImageError, BadVideoError, UnsafeFileError
from actionimg_data.untrusted import pictures, sizes, unpack

PROGRAM = Path(__file__).parent / "reliability" / "hostile.py"
GROUPS = ("zip and npz", "cameras", "videos", "YAML and JSON")


def test_the_quick_cases_are_held() -> None:
    command = [sys.executable, "-W", "ignore", str(PROGRAM), "--json", "--fast", *(f"{group}:" for group in GROUPS)]
    done = run_program(command, check=False)
    rows = json.loads(done.stdout)
    assert [(row["group"], row["name"], row["wrong"]) for row in rows if row["wrong"] is not None] == []
    assert done.returncode == 0
    assert {row["group"] for row in rows} == set(GROUPS)
    assert len(rows) >= 40
    assert {row["code"] for row in rows if row["kind"] == "refused"} <= {
        *("bad-file", "bad-video", "unsafe-file", "wrong-format", "invalid-camera", "invalid-option")
    }


class Runs:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_a_zarr_codec_that_runs_code_is_refused_before_it_is_asked(tmp_path: Path, place: str) -> None:
    pytest.importorskip("zarr")
    from actionimg_data.converters.kit import tables

    array = tmp_path / "x.zarr/a"
    array.mkdir(parents=True)
    (tmp_path / "x.zarr/.zgroup").write_text('{"zarr_format": 2}')
    metadata = {"zarr_format": 2, "shape": [10], "chunks": [10], "dtype": "<f8", "fill_value": 0, "order": "C"}
    codec: Any = {"id": "pickle"}
    codecs = {"compressor": None, "filters": None, place: codec if place == "compressor" else [codec]}
    (array / ".zarray").write_text(json.dumps({**metadata, **codecs}))
    (array / "0").write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises((UnsafeFileError, BadFileError), match=r"codec that data never needs|object_codec_id"):
        tables.open_table(tmp_path / "x.zarr").column("a")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\x28\xb5\x2f\xfd\xe0" + (8 << 30).to_bytes(8, "little") + bytes(40), str(8 << 30)),
        (
            b"\x02\x01\x01\x08" + (1 << 30).to_bytes(4, "little") + bytes(4) + (40).to_bytes(4, "little") + bytes(24),
            "107",
        ),
    ],
)
def test_what_a_packed_chunk_claims_is_looked_at_first(data: bytes, found: str) -> None:
    with pytest.raises(UnsafeFileError, match=found):
        unpack.check_unpacked(data, "x")
    unpack.check_unpacked(b"\x28\xb5\x2f\xfd\x20\x05" + bytes(10), "x")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (64, 48), (256, 256), (1024, 600)])
def test_the_size_of_a_jpegxl_picture_is_read_from_its_header(width: int, height: int) -> None:
    codec = pytest.importorskip("imagecodecs")
    data = codec.jpegxl_encode(np.zeros((height, width, 3), np.uint8), lossless=False)
    assert sizes.jpegxl_size(data) == (width, height)
    unpack.check_unpacked(data, "x")


def test_a_jpegxl_picture_of_an_impossible_size_is_refused() -> None:
    # Not small; the height in 30 bits, no ratio, the width in 9 (ISO/IEC 18181-1, SizeHeader).
    bits = (0b11 << 1) | ((1 << 29) << 3) | (0 << 33)
    with pytest.raises(BadImageError, match="impossible size"):
        unpack.check_unpacked(b"\xff\x0a" + bits.to_bytes(12, "little") + bytes(20), "x")


def test_a_picture_is_known_by_its_header_before_it_is_decoded() -> None:
    import cv2

    for suffix, kind in ((".png", "png"), (".jpg", "jpeg"), (".webp", "webp"), (".bmp", "bmp")):
        _, data = cv2.imencode(suffix, np.zeros((20, 30, 3), np.uint8))
        assert pictures.picture_header(data.tobytes(), "x")[:3] == (kind, 20, 30)
    with pytest.raises(BadImageError, match="is no picture that can be read"):
        pictures.picture_header(b"\x76\x2f\x31\x01" + bytes(100), "x")


def test_a_list_of_files_is_no_video(tmp_path: Path) -> None:
    from actionimg_data.demo.recordings import write_video
    from actionimg_data.video import read_frames

    write_video(tmp_path / "secret.mp4", np.zeros((3, 32, 32, 3), np.uint8))
    (tmp_path / "x.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    assert len(read_frames(tmp_path / "secret.mp4")) == 3
    with pytest.raises(BadVideoError, match="cannot be opened"):
        read_frames(tmp_path / "x.mp4")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    from actionimg_data.converters.kit import tables
    from actionimg_data.converters.rlds import tfrecord
    from actionimg_data.video import VideoFrames

    for name in ("x.csv", "x.mp4", "x.tfrecord-00000-of-00001"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(BadFileError, match="not a plain file"):
        tables.open_table(tmp_path / "x.csv")
    with pytest.raises(ActionImgError, match=r"x\.mp4"):
        VideoFrames(tmp_path / "x.mp4")
    with pytest.raises(ActionImgError, match="tfrecord"):
        tfrecord.open_file(tmp_path / "x.tfrecord-00000-of-00001")


def test_nothing_of_a_text_is_obeyed_by_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b]0;owned\x07\x9b2J\u202eb\udcff\u00e4\n\tc"
    assert visible(evil) == "a\\x1b]0;owned\\x07\\x9b2J\\u202eb\\udcff\u00e4\n\tc"
    emit_json({"name": evil})
    printed = capsys.readouterr().out
    assert printed.isascii() or set(printed) - set(map(chr, range(32, 127))) <= {"\n", "\u00e4"}
    assert json.loads(printed) == {"name": evil}

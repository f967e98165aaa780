"""The wire format of tf.train.Example and TFRecord: what is written is read, and nothing else does harm."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rlds_data as data
from hypothesis import given, settings
from hypothesis import strategies as st

from actionimg_data.converters.rlds import crc32c, features, images, tfrecord, wire
from actionimg_data.converters.rlds.example import Example
from actionimg_data.demo import rlds as w
from actionimg_data.errors import ActionImgError, BadFileError, BadImageError

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
COLUMNS = st.dictionaries(
    st.text(max_size=12),
    st.one_of(
        st.lists(st.binary(max_size=40), max_size=8).map(lambda v: ("bytes", v)),
        st.lists(FLOAT32, max_size=8).map(lambda v: ("float", v)),
        st.lists(INT64, max_size=8).map(lambda v: ("int64", v)),
    ),
    max_size=6,
)
WRITERS = {"bytes": w.bytes_list, "float": w.float_list, "int64": w.int64_list}


def unpacked_floats(values: list[float]) -> bytes:
    return w.field(2, b"".join(b"\x0d" + np.float32(v).tobytes() for v in values))


def unpacked_ints(values: list[int]) -> bytes:
    return w.field(3, b"".join(b"\x08" + w.varint(v) for v in values))


def values(record: bytes, columns: dict[str, wire.Column]) -> dict[str, Any]:
    """All values of all columns."""
    out: dict[str, Any] = {}
    for key, column in columns.items():
        if column.kind == wire.Kind.BYTES:
            out[key] = [record[a:b] for a, b in wire.bytes_spans(record, column)]
        elif column.kind == wire.Kind.FLOAT:
            out[key] = wire.floats(record, column).tolist()
        elif column.kind == wire.Kind.INT64:
            out[key] = wire.ints(record, column).tolist()
        else:
            out[key] = []
    return out


@settings(deadline=None)
@given(COLUMNS)
def test_what_is_written_is_read(columns: dict[str, Any]) -> None:
    record = w.example({k: WRITERS[kind](v) for k, (kind, v) in columns.items()})
    assert values(record, wire.parse_example(record)) == {k: v for k, (_, v) in columns.items()}


@settings(deadline=None)
@given(st.lists(INT64, max_size=200), st.lists(FLOAT32, max_size=200), st.data())
def test_lists_that_are_not_packed_or_packed_in_parts_are_read(ints: list[int], floats: list[float], d: Any) -> None:
    cut = d.draw(st.integers(0, len(ints)))
    packed = w.field(1, b"".join(w.varint(v) for v in ints[:cut]))
    mixed = w.field(3, packed + b"".join(b"\x08" + w.varint(v) for v in ints[cut:]))
    record = w.example({"i": unpacked_ints(ints), "f": unpacked_floats(floats), "m": mixed})
    assert values(record, wire.parse_example(record)) == {"i": ints, "f": floats, "m": ints}


@settings(deadline=None)
@given(st.lists(INT64, min_size=1, max_size=50))
def test_varints_are_decoded_as_one_by_one(numbers: list[int]) -> None:
    body = np.frombuffer(b"".join(w.varint(n) for n in numbers), np.uint8)
    assert wire.decode_varints(body, 0).tolist() == numbers


def test_unknown_fields_are_skipped_and_of_two_entries_the_last_counts() -> None:
    entry = w.field(1, w.field(1, b"k") + w.field(9, b"new") + w.field(2, w.int64_list([1]) + b"\x25abcd"))
    again = w.field(1, w.field(1, b"k") + w.field(2, w.float_list([2.0])))
    record = w.field(7, b"?") + b"\x10\x05" + w.field(1, entry + again) + b"\x19" + bytes(8)
    assert values(record, wire.parse_example(record)) == {"k": [2.0]}


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (b"\x0a", "ends within a length"),
        (b"\x0a\x05abc", "past the end"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "past the end"),
        (b"\x0a" + b"\xff" * 11, "varint of more than 10 bytes"),
        (b"\x02\x00", "field number 0"),
        (b"\x0b\x0a", "wire type 3"),
        (w.field(1, w.field(1, w.field(1, b"\xff\xfe"))), "not UTF-8"),
        (w.example({"k": w.field(2, w.field(1, b"abc"))}), "multiple of 4"),
        (w.example({"k": w.field(3, w.field(1, b"\x80"))}), "ends within a varint"),
        (w.example({"k": w.field(3, w.field(1, b"\x80" * 11 + b"\x01"))}), "more than 10 bytes"),
        (w.example({"k": w.field(3, b"\x08\x80")}), "ends within a varint"),
        (w.example({"k": w.field(2, b"\x0d\x00")}), "past the end"),
    ],
)
def test_what_is_no_example_is_refused_with_the_place(record: bytes, says: str) -> None:
    with pytest.raises(BadFileError, match=says):
        values(record, wire.parse_example(record))


def test_a_bomb_of_nested_messages_is_one_unknown_field() -> None:
    body = b""
    for _ in range(2000):
        body = w.field(1, body)
    started = time.process_time()
    for record in (body, w.field(1, w.field(1, w.field(1, b"k") + w.field(2, body))), b"\x0b" * 100_000):
        with suppress(BadFileError):
            values(record, wire.parse_example(record))
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "body",
    [
        b"\x0d\x00\x00\x00\x00\x0a\x00" * 8_000,  # one unpacked float, one empty packed list, and so on
        b"\x08\x01\x0a\x00" * 12_000,
        b"\x0a\x00" * 25_000,
        b"\x12\x00" * 25_000,
    ],
)
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_hostile_lists_take_time_and_memory_in_proportion(body: bytes, kind: int) -> None:
    record = w.example({"k": w.field(kind, body)})
    tracemalloc.start()
    started = time.process_time()
    with suppress(BadFileError):
        values(record, wire.parse_example(record))
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 10
    assert peak < 400 * len(record)


# -- fuzzing ---------------------------------------------------------------------------------------------------------

NODE = data.all_kinds_features()
STORED = list(features.flatten(NODE))
SEED = w.encode_episode(NODE, data.all_kinds_episode(3, 1))


def read_everything(record: bytes) -> None:
    """Parses a record and decodes all of it; only named errors may come out."""
    try:
        example = Example(record, "fuzzed")
    except ActionImgError:
        return
    for stored in STORED:
        with suppress(ActionImgError):
            example.length(stored)
            example.read(stored)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes_give_values_or_a_named_error(record: bytes) -> None:
    read_everything(record)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), min_size=1, max_size=6), st.data())
def test_a_damaged_record_gives_values_or_a_named_error(edits: list[tuple[int, int]], d: Any) -> None:
    damaged = bytearray(SEED)
    for position, byte in edits:
        damaged[position] = byte
    if d.draw(st.booleans()):
        del damaged[d.draw(st.integers(0, len(SEED) - 1)) :]
    read_everything(bytes(damaged))


@settings(deadline=None, max_examples=60)
@given(COLUMNS.map(lambda c: {k: WRITERS[kind](v) for k, (kind, v) in c.items()}), st.data())
def test_columns_of_other_kinds_and_lengths_give_values_or_a_named_error(columns: dict[str, bytes], d: Any) -> None:
    """A well-formed Example whose columns are not what features.json promises."""
    keys = [f"{s.key}{end}" for s in STORED for end in ("", "/ragged_row_lengths_0", "/ragged_flat_values", "/shape")]
    renamed = {d.draw(st.sampled_from(keys)): v for v in columns.values()}
    read_everything(w.example(renamed))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400))
def test_any_bytes_as_a_file_are_records_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, body: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.tfrecord"
    for content in (body, w.tfrecord([body]), w.tfrecord([body])[: len(body)]):
        path.write_bytes(content)
        with suppress(ActionImgError):
            found = tfrecord.scan(path)
            for offset in found.offsets.tolist():
                tfrecord.read_record(path, offset)


JPEG = w.encode_picture(np.full((9, 7, 3), 100, np.uint8), w.image((9, 7, 3)))
PNG = w.encode_picture(np.full((9, 7, 3), 100, np.uint8), w.image((9, 7, 3), encoding="png"))


EDITS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([JPEG, PNG]), EDITS, st.data())
def test_a_damaged_picture_is_a_picture_or_a_named_error(seed: bytes, edits: list[tuple[int, int]], d: Any) -> None:
    damaged = bytearray(seed)
    for position, byte in edits:
        damaged[position % len(seed)] = byte
    length = d.draw(st.integers(0, len(seed)))
    for content in (bytes(damaged), bytes(damaged[:length])):
        try:
            picture = images.decode(content, w.image((None, None, 3), encoding=""))
        except BadImageError:
            continue
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3


# -- checksums -------------------------------------------------------------------------------------------------------


def test_the_checksum_is_that_of_the_standard() -> None:
    """Vectors of RFC 3720, appendix B.4."""
    vectors = {
        bytes(32): 0x8A9136AA,
        b"\xff" * 32: 0x62A8AB43,
        bytes(range(32)): 0x46DD794E,
        bytes(range(31, -1, -1)): 0x113FDB5C,
        b"123456789": 0xE3069283,
    }
    for text, expected in vectors.items():
        assert crc32c.crc32c(np.frombuffer(text, np.uint8)) == expected
        assert crc32c.crc32c_numpy(np.frombuffer(text, np.uint8)) == expected


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 70_000), st.integers(0, 2**32 - 1))
def test_the_fallback_gives_the_same_checksum(length: int, seed: int) -> None:
    pytest.importorskip("google_crc32c")
    content = np.random.default_rng(seed).integers(0, 256, length, dtype=np.uint8)
    assert crc32c.crc32c_numpy(content) == crc32c.crc32c(content)


def test_without_google_crc32c_damage_is_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(w.tfrecord([b"x" * 5000]))
    monkeypatch.setattr(crc32c, "_hardware_crc32c", None)
    assert tfrecord.read_record(path, 0) == b"x" * 5000
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadFileError, match="CRC"):
        tfrecord.read_record(path, 0)

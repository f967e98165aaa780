"""The pickle reader gives data as pickle does, and gives nothing else: no code, no memory that is not in the file."""

from __future__ import annotations

import os
import pickle
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actionimg_data.converters.rlbench_tree import DEMO_CLASSES
from actionimg_data.demo.rlbench import pickle_demo
from actionimg_data.errors import (
    ActionImgError,
    BadFileError,
    SourceNotFoundError,
    UnsafeFileError,
    UnsupportedSourceError,
)
from actionimg_data.untrusted import pickles as _safe_pickle

PROTOCOLS = (2, 3, 4, 5)


UNSUPPORTED = {("rlbench.backend.observation", "SpiderObservation"): "a robot of eight legs"}


def load(data: bytes, **options: Any) -> Any:
    return _safe_pickle.loads(data, "demo.pkl", records=DEMO_CLASSES, unsupported=UNSUPPORTED, **options)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, _safe_pickle.Record):
        return a.kind == type(b).__name__ and same(a.attributes, vars(b))
    if isinstance(b, (np.ndarray, np.generic)):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=True)
    if isinstance(b, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(b, dict):
        return type(a) is dict and list(a) == list(b) and all(same(a[k], b[k]) for k in b)
    return type(a) is type(b) and (a == b or a != a)


def observation(i: int) -> dict[str, Any]:
    return {
        "front_rgb": None,
        "gripper_open": 1.0,
        "gripper_pose": np.arange(7) + i / 3,
        "gripper_matrix": np.asfortranarray(np.arange(16.0).reshape(4, 4)),
        "ignore_collisions": np.array(0.0),
        "misc": {"front_camera_near": 0.01, "front_camera_extrinsics": np.eye(4), "flag": np.bool_(True)},
        "big_endian": np.arange(3, dtype=">f4"),
        "empty": np.zeros((0, 3), np.uint8),
        "scalar": np.float32(0.25),
    }


def demo(frames: int, protocol: int) -> bytes:
    state = np.random.RandomState(0).get_state()
    return pickle_demo([observation(i) for i in range(frames)], state, 3, protocol)


data_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=300)
    | st.sampled_from([np.arange(6.0).reshape(2, 3), np.float64(2.5), np.array([], np.int16), np.uint8(7)]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(-5, 5), inner, max_size=4)
    ),
    max_leaves=25,
)


@settings(deadline=None, max_examples=80)
@given(data_values, st.sampled_from(PROTOCOLS))
def test_data_comes_out_as_pickle_gives_it(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert same(load(data), pickle.loads(data))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_demo_is_read_in_every_protocol(protocol: int) -> None:
    read = load(demo(3, protocol))
    assert read.kind == "Demo"
    assert read.get("variation_number") == 3
    assert read.get("absent") is None
    observations = read.get("_observations")
    assert [o.kind for o in observations] == ["Observation"] * 3
    for i, o in enumerate(observations):
        for name, value in observation(i).items():
            assert same(o.attributes[name], pickle.loads(pickle.dumps(value, protocol))), name


def with_numpy_names(data: bytes, core: str) -> bytes:
    """The same pickle as the other numpy would have written it: protocol 2 and 3 name modules in lines."""
    for module in (b"multiarray", b"numeric"):
        for other in (b"cnumpy.core.", b"cnumpy._core."):
            data = data.replace(other + module + b"\n", b"cnumpy." + core.encode() + b"." + module + b"\n")
    return data


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("core", ["core", "_core"])
def test_pickles_of_numpy_1_and_numpy_2_are_read(protocol: int, core: str) -> None:
    data = with_numpy_names(demo(2, protocol), core)
    assert f"numpy.{core}.multiarray".encode() in data
    assert load(data).get("_observations")[1].get("gripper_pose")[6] == 6 + 1 / 3


@pytest.mark.parametrize("core", ["core", "_core"])
@pytest.mark.parametrize("protocol", [4, 5])
def test_both_numpy_names_are_read_from_the_stack_too(protocol: int, core: str) -> None:
    module = f"numpy.{core}.numeric".encode()
    name = b"\x8c" + bytes([len(module)]) + module + b"\x8c\x0b_frombuffer\x93"
    number = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02f8\x89\x88\x87R"
    number += b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = bytes([0x80, protocol]) + name + b"(\x96" + struct.pack("<Qd", 8, 2.5) + number + b"K\x01\x85\x8c\x01CtR."
    assert load(data).tolist() == [2.5]


@pytest.mark.realdata
def test_the_real_demos_come_out_as_pickle_gives_them(sample_data: Path) -> None:
    class Anything:
        pass

    class Trusting(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return type(name, (Anything,), {}) if module.startswith("rlbench") else super().find_class(module, name)

    files = sorted(sample_data.glob("rlbench/**/low_dim_obs.pkl"))
    assert files
    for file in files:
        with open(file, "rb") as stream:
            assert same(_safe_pickle.load(file, records=DEMO_CLASSES), Trusting(stream).load())


# Nothing runs.


class Runs:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def g(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


DTYPE = g("numpy", "dtype") + b"X\x02\x00\x00\x00f8\x89\x88\x87R"
OBJECT_DTYPE = g("numpy", "dtype") + b"X\x02\x00\x00\x00O8\x89\x88\x87R"
ARRAY = g("numpy.core.multiarray", "_reconstruct") + g("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
OBSERVATION = g("rlbench.backend.observation", "Observation")
MALICIOUS = {
    "os.system": pickle.dumps(Runs(os.system, "touch pwned"), 2),
    "eval": pickle.dumps(Runs(eval, "open('pwned', 'w')"), 4),
    "exec in a list in a dict": pickle.dumps({"a": [Runs(exec, "open('pwned', 'w')")]}, 4),
    "getattr": b"\x80\x02" + g("builtins", "getattr") + b".",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
    "name of an allowed module": b"\x80\x02" + g("numpy", "load") + b".",
    "name of rlbench": b"\x80\x02" + g("rlbench.demo", "os") + b".",
    "global that is a method": b"\x80\x02" + g("rlbench.demo", "Demo.__init__") + b".",
    "calling a class": b"\x80\x02" + OBSERVATION + b")R.",
    "calling a text": b"\x80\x02X\x02\x00\x00\x00os)R.",
    "calling ndarray": b"\x80\x02" + g("numpy", "ndarray") + b"J\xff\xff\xff\x7f\x85R.",
    "reconstructing another class": b"\x80\x02"
    + g("numpy.core.multiarray", "_reconstruct")
    + OBSERVATION
    + b"K\x00\x85C\x01b\x87R.",
    "another codec": b"\x80\x02" + g("_codecs", "encode") + b"X\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
    "bytes of a number": b"\x80\x02" + g("builtins", "bytes") + b"J\xff\xff\xff\x7f\x85R.",
    "object array": b"\x80\x02" + ARRAY + b"(K\x01K\x01\x85" + OBJECT_DTYPE + b"\x89]N" + b"atb.",
    "object dtype": b"\x80\x02" + OBJECT_DTYPE + b".",
    "structured dtype": b"\x80\x02" + DTYPE + b"(K\x03X\x01\x00\x00\x00|N)}J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
    "array of no bytes but a list": b"\x80\x02" + ARRAY + b"(K\x01K\x01\x85" + DTYPE + b"\x89]tb.",
    "newobj of a function": b"\x80\x02" + g("_codecs", "encode") + b")\x81.",
    "newobj with arguments": b"\x80\x02" + OBSERVATION + b"K\x01\x85\x81.",
    "build on a class": b"\x80\x02" + OBSERVATION + b"}b.",
    "build on a text": b"\x80\x02X\x02\x00\x00\x00os}b.",
    "build twice": b"\x80\x02" + OBSERVATION + b")\x81}b}b.",
    "slots state": b"\x80\x02" + OBSERVATION + b")\x81N}\x86b.",
    "persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "persistent id by line": b"\x80\x02Pa\n.",
    "extension code": b"\x80\x02\x82\x01.",
    "inst": b"\x80\x02(ios\nsystem\n.",
    "obj": b"\x80\x02(" + OBSERVATION + b"o.",
    "newobj_ex": b"\x80\x04" + OBSERVATION + b")}\x92.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "set": b"\x80\x04\x8f.",
    "tuple as a key": b"\x80\x02})K\x01s.",
    "record as a key": b"\x80\x02}" + OBSERVATION + b")\x81K\x01s.",
    "arrays where texts should be": b"\x80\x02"
    + g("numpy", "dtype")
    + b"X\x02\x00\x00\x00f8\x89\x88\x87Rq\x00(K\x03"
    + ARRAY
    + b"(K\x01K\x02\x85h\x00\x89C\x10"
    + bytes(16)
    + b"tbNNNK\x00K\x00K\x00tb.",
    "huge whole number": b"\x80\x02\x8b" + struct.pack("<I", 17) + bytes(17) + b".",
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_what_data_never_needs_is_refused_and_nothing_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.pkl").write_bytes(MALICIOUS[name])
    with pytest.raises(UnsafeFileError, match=r"demo\.pkl") as caught:
        _safe_pickle.load(tmp_path / "demo.pkl", records=DEMO_CLASSES)
    assert isinstance(caught.value, pickle.UnpicklingError)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_the_refused_name_is_told() -> None:
    with pytest.raises(UnsafeFileError, match=r"found posix\.system"):
        load(MALICIOUS["os.system"])


def test_classes_that_cannot_be_converted_are_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedSourceError, match="eight legs"):
        load(b"\x80\x02" + g("rlbench.backend.observation", "SpiderObservation") + b")\x81.")


# Memory and time are bounded.

HUGE = struct.pack("<Q", 10 << 30)
BOMBS = {
    "array that claims 10 GB": b"\x80\x02"
    + ARRAY
    + b"(K\x01J\x00\x00\x00\x50\x85"
    + DTYPE
    + b"\x89C\x08"
    + bytes(8)
    + b"tb.",
    "array of a shape beyond 64 bits": b"\x80\x02"
    + ARRAY
    + b"(K\x01\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x00\x86"
    + DTYPE
    + b"\x89C\x00tb.",
    "negative shape": b"\x80\x02" + ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + b"\x89C\x00tb.",
    "many dimensions": b"\x80\x02"
    + ARRAY
    + b"(K\x01("
    + b"K\x01" * 40
    + b"t"
    + DTYPE
    + b"\x89C\x08"
    + bytes(8)
    + b"tb.",
    "bytearray of 10 GB": b"\x80\x05\x96" + HUGE + b"abc.",
    "bytes of 10 GB": b"\x80\x04\x8e" + HUGE + b"abc.",
    "text of 10 GB": b"\x80\x04\x8d" + HUGE + b"abc.",
    "text of 4 GB": b"\x80\x04X\xff\xff\xff\xffabc.",
    "frame of 10 GB": b"\x80\x04\x95" + HUGE + b"N.",
    "number of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "line without end": b"\x80\x02c" + b"a" * 100_000,
    "one text encoded again and again": b"\x80\x02X"
    + struct.pack("<I", 1 << 20)
    + b"a" * (1 << 20)
    + b"q\x00"
    + (g("_codecs", "encode") + b"h\x00X\x06\x00\x00\x00latin1\x86R") * 5000
    + b".",
    "one array's bytes used again and again": b"\x80\x02B"
    + struct.pack("<I", 1 << 20)
    + bytes(1 << 20)
    + b"q\x00"
    + DTYPE
    + b"q\x01"
    + (ARRAY + b"(K\x01J" + struct.pack("<I", 1 << 17) + b"\x85h\x01\x89h\x00tb") * 1000
    + b".",
}


@pytest.mark.parametrize("name", BOMBS)
def test_claims_beyond_the_file_are_refused_before_memory_is_taken(name: str) -> None:
    data = BOMBS[name]
    tracemalloc.start()
    try:
        start = time.process_time()
        with pytest.raises((UnsafeFileError, BadFileError)):
            load(data)
        assert time.process_time() - start < 5
        assert tracemalloc.get_traced_memory()[1] < 8 * len(data) + (4 << 20)
    finally:
        tracemalloc.stop()


def test_a_high_memo_index_costs_nothing() -> None:
    tracemalloc.start()
    try:
        assert load(b"\x80\x02K\x05r\xff\xff\xff\x7f0j\xff\xff\xff\x7f.") == 5
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("start", "step"), [(b"]", b"]"), (b")", b"\x85"), (b"N", b"\x85")])
def test_deep_nesting_is_read_without_recursion(start: bytes, step: bytes) -> None:
    depth = 200_000
    data = b"\x80\x02" + (start * depth + b"a" * (depth - 1) if step == b"]" else start + step * depth) + b"."
    value, seen = load(data), 0
    while value and seen < depth:
        value, seen = value[0], seen + 1
    assert seen >= depth - 1


def test_a_nested_key_is_refused_where_hashing_it_would_take_forever() -> None:
    bomb = b"\x80\x02}N" + b"2\x86" * 60 + b"Ns."
    with pytest.raises(UnsafeFileError, match="key"):
        load(bomb)


def test_shared_nesting_is_read_without_being_walked() -> None:
    value = load(b"\x80\x02)" + b"2\x86" * 300 + b".")
    assert value[0] is value[1]


def test_steps_and_bytes_are_limited(tmp_path: Path) -> None:
    with pytest.raises(UnsafeFileError, match="too many steps"):
        load(b"\x80\x02" + b"N0" * 600 + b"N.", max_steps=1000)
    file = tmp_path / "large.pkl"
    with open(file, "wb") as stream:
        stream.truncate(_safe_pickle.MAX_BYTES + 1)  # sparse: takes no room
    with pytest.raises(UnsafeFileError, match="too large"):
        _safe_pickle.load(file)


# Damage is named.


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_truncation_is_refused(protocol: int) -> None:
    data = demo(1, protocol)
    for end in range(0, len(data), 13):
        with pytest.raises(BadFileError):
            load(data[:end])
    for end in range(len(data) - 30, len(data)):
        with pytest.raises(BadFileError):
            load(data[:end])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "empty"),
        (b"PK\x03\x04", "not a pickle"),
        (b"\x80\x09N.", "unknown pickle protocol"),
        (b"\x80\x02\xfe.", "unknown opcode 0xfe"),
        (b"\x80\x02.", "demo.pkl"),
        (b"\x80\x02h\x07.", "not there"),
        (b"\x80\x02t.", "demo.pkl"),
        (b"\x80\x02NNa.", "no list"),
        (b"\x80\x02NNNs.", "no dictionary"),
        (b"\x80\x02}(Nu.", "no dictionary"),
        (b"\x80\x02X\x01\x00\x00\x00\xff.", "UTF-8"),
        (b"\x80\x02" + ARRAY + b"(K\x01K\x02\x85" + DTYPE + b"\x89C\x08" + bytes(8) + b"tb.", "do not fill its shape"),
    ],
)
def test_damage_is_told_in_one_line_with_the_file(data: bytes, text: str) -> None:
    with pytest.raises(BadFileError, match=text) as caught:
        load(data)
    assert "demo.pkl" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"none\.pkl"):
        _safe_pickle.load(tmp_path / "none.pkl")
    with pytest.raises(BadFileError, match="cannot be read"):
        _safe_pickle.load(tmp_path)


def outcome(data: bytes, max_steps: int) -> str | None:
    """ "data", or the place that the error names; any other exception comes through."""
    try:
        load(data, max_steps=max_steps)
    except ActionImgError as error:
        return error.where
    return "data"


SEEDS = [demo(1, protocol) for protocol in PROTOCOLS]
OPCODES = bytes(range(256))


@settings(deadline=None, max_examples=400)
@given(
    st.integers(0, len(SEEDS) - 1),
    st.lists(
        st.tuples(st.sampled_from(["flip", "insert", "delete", "copy"]), st.integers(0, 1 << 30), st.integers(0, 255)),
        min_size=1,
        max_size=6,
    ),
)
def test_mutations_of_a_demo_give_data_or_a_named_error(seed: int, changes: list[tuple[str, int, int]]) -> None:
    data = bytearray(SEEDS[seed])
    for kind, place, value in changes:
        at = place % len(data)
        if kind == "flip":
            data[at] ^= value or 1
        elif kind == "insert":
            data.insert(at, value)
        elif kind == "delete":
            del data[at : at + 1 + value % 8]
        else:
            data[at:at] = data[at // 2 : at // 2 + value]
        if not data:
            break
    assert outcome(bytes(data), 20_000) in ("data", "demo.pkl")


@settings(deadline=None, max_examples=400)
@given(
    st.lists(
        st.sampled_from(
            [bytes([code]) for code in OPCODES]
            + [
                DTYPE,
                ARRAY,
                OBSERVATION,
                b")\x81",
                b"K\x01",
                b"C\x08" + bytes(8),
                b"X\x01\x00\x00\x00a",
                b"(",
                b"t",
                b"b",
            ]
        ),
        max_size=60,
    )
)
@example([ARRAY, b"(", b"K\x01", b"K\x01", b"\x85", DTYPE, b"\x89", b"C\x08" + bytes(8), b"t", b"b"])
def test_random_opcodes_give_data_or_a_named_error(pieces: list[bytes]) -> None:
    assert outcome(b"\x80\x04" + b"".join(pieces) + b".", 5_000) in ("data", "demo.pkl")

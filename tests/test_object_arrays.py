"""`.npy` files with Python objects in them are read as data; whatever they ask for, nothing is run."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actionimg_data.errors import BadFileError, SourceNotFoundError, UnsafeFileError
from actionimg_data.untrusted.arrays import load_objects
from actionimg_data.untrusted.pickles import loads


def saved(path: Path, value: Any) -> Path:
    np.save(path, value, allow_pickle=True)
    return path


def test_a_dict_saved_as_an_array_is_that_dict(tmp_path: Path) -> None:
    value = {"language": {"ann": ["open the drawer", "lift it"]}, "info": {"indx": [(0, 64), (64, 128)]}}
    assert load_objects(saved(tmp_path / "a.npy", value)) == value


def test_arrays_of_objects_keep_their_shape(tmp_path: Path) -> None:
    value = np.empty((2, 2), object)
    value[0, 0], value[0, 1], value[1, 0], value[1, 1] = "text", [1, 2.5], {"k": np.arange(3)}, None
    found = load_objects(saved(tmp_path / "a.npy", value))
    assert found.shape == (2, 2)
    assert found.dtype == object
    assert found[0].tolist() == ["text", [1, 2.5]]
    np.testing.assert_array_equal(found[1, 0]["k"], [0, 1, 2])
    turned = load_objects(saved(tmp_path / "b.npy", np.asfortranarray(value)))
    assert turned[1, 1] is None
    assert turned[0, 1] == [1, 2.5]


def test_plain_numbers_are_an_array(tmp_path: Path) -> None:
    np.testing.assert_array_equal(load_objects(saved(tmp_path / "a.npy", np.eye(3))), np.eye(3))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=60)
@given(st.dictionaries(st.text(max_size=4), plain, max_size=4))
def test_any_plain_data_comes_back(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    assert load_objects(saved(tmp_path_factory.getbasetemp() / "plain.npy", value)) == value


class Evil:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_nothing_is_run(tmp_path: Path) -> None:
    path = saved(tmp_path / "evil.npy", {"a": Evil(str(tmp_path / "mark"))})
    with pytest.raises(UnsafeFileError, match=r"evil\.npy.*nothing was run"):
        load_objects(path)
    assert not (tmp_path / "mark").exists()


def test_what_is_damaged_or_absent_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"gone\.npy"):
        load_objects(tmp_path / "gone.npy")
    body = saved(tmp_path / "a.npy", {"k": list(range(50))}).read_bytes()
    for i, data in enumerate((b"", b"no numpy", body[:40], body[:-20])):
        (tmp_path / f"bad{i}.npy").write_bytes(data)
        with pytest.raises(BadFileError, match=rf"bad{i}\.npy"):
            load_objects(tmp_path / f"bad{i}.npy")
    with pytest.raises(UnsafeFileError, match="too large"):
        load_objects(tmp_path / "a.npy", max_bytes=100)
    # A header that states more objects than there are.
    (tmp_path / "more.npy").write_bytes(body.replace(b"'shape': (), }  ", b"'shape': (9,), }"))
    with pytest.raises(BadFileError, match="header"):
        load_objects(tmp_path / "more.npy")


def test_pickles_hold_no_object_arrays_unless_they_are_asked_for() -> None:
    value = np.array(["a", None], dtype=object)
    with pytest.raises(UnsafeFileError, match="something else than numbers"):
        loads(pickle.dumps(value), "x")
    assert loads(pickle.dumps(value), "x", objects=True).tolist() == ["a", None]


@settings(max_examples=200)
@given(st.data())
def test_a_file_with_any_byte_changed_is_read_or_refused(data: st.DataObject) -> None:
    body = bytearray(pickle.dumps(np.array([["a", [1, 2]], [{"k": 3}, None]], dtype=object)))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadFileError, UnsafeFileError):
        loads(bytes(body), "x", objects=True)

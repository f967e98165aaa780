"""The room of outside bytes, as authors of converters meet it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

import actionimg_data.untrusted as room

PAGE = Path(__file__).parent.parent / "docs" / "write_a_converter.md"


@pytest.mark.parametrize("name", room.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(room, name).__doc__
    assert name in dir(room)


def test_the_names_are_those_of_the_table_in_the_page() -> None:
    section = PAGE.read_text().partition("## Bytes from outside")[2].partition("\n## ")[0]
    told = {
        "decode_picture",
        "load_json",
        "load_npy",
        "load_npz",
        "load_pickle",
        "load_yaml",
        "open_hdf5",
        "open_plain",
    }
    told |= {"plain", "read_bytes", "read_head", "read_numbers", "unzip", "parse", "dataset", "Record"}
    assert told <= set(room.__all__)
    assert all(f"`{name}" in section or f".{name}(" in section or f"({name}(" in section for name in told)


def test_the_room_costs_nothing_until_something_in_it_is_used() -> None:
    code = "import sys, actionimg_data.untrusted; print([m for m in ('cv2', 'h5py', 'simplejpeg') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    section = PAGE.read_text().partition("## Bytes from outside")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "episode.pkl").write_bytes(pickle.dumps({"instruction": "push the block", "fps": 20}))
    with h5py.File(tmp_path / "robot.h5", "w") as file:
        file["pose"] = np.zeros((5, 7))
    cv2.imwrite(str(tmp_path / "0.jpg"), np.zeros((24, 32, 3), np.uint8))
    values: dict[str, object] = {"folder": tmp_path}
    exec(code, values)  # noqa: S102
    assert values["notes"] == {"instruction": "push the block", "fps": 20}
    assert np.shape(values["poses"]) == (5, 7)
    assert np.shape(values["first"]) == (24, 32, 3)

"""Whatever happens to the files of a data set is noticed, by verify and by those who read them.

The damages are those of tests/reliability/corruption.py, which does a thousand flips and all else; single kinds of
damage, and where they are reported, are in test_verify.py and test_training.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "reliability"))

import corruption

from actionimg_data.errors import CorruptDatasetError
from actionimg_data.shards import open_dataset


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corruption.make(tmp_path_factory.mktemp("corruption"), episodes=3, frames=3)


def test_no_damage_of_any_kind_is_missed(out: Path) -> None:
    counts, missed = corruption.run(out, flips=24, seed=1, deep=12, every=8)
    assert missed == []
    kinds = {kind for kind in counts if ":" not in kind}
    assert {"a flipped bit", "a flipped bit in a header", "cut at a member's boundary", "two files swapped"} <= kinds
    assert {"a file of another run", "a file missing", "a file twice", "bytes appended", "cut elsewhere"} <= kinds
    assert counts["training reader: refused"] > 0
    assert counts["open_dataset: refused"] > 0


def test_a_changed_member_is_refused_unless_the_check_is_turned_off(out: Path) -> None:
    sample = open_dataset(out)[0]
    tar = out / "train/000000.tar"
    data = tar.read_bytes()
    place = data.index(b'"instruction"') + 20
    tar.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    try:
        with pytest.raises(CorruptDatasetError, match="was changed after it was written"):
            _ = sample.instruction
        assert open_dataset(out, verify=False)[0].read("json") != data
    finally:
        tar.write_bytes(data)

"""An episode's fingerprint changes when the content of its main file does, though names and sizes stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actionimg_data.converters.kit.tree import HEAD, file_stamp
from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.testing import write_rlbench_dataset


@pytest.mark.parametrize("size", [0, 1, HEAD, HEAD + 1, 3 * HEAD])
def test_a_stamp_covers_the_beginning_and_the_end(tmp_path: Path, size: int) -> None:
    path = tmp_path / "log"
    path.write_bytes(bytes(size))
    before = file_stamp(path)
    assert before == file_stamp(path)
    for place in {0, size - 1} if size else ():
        data = bytearray(size)
        data[place] = 1
        path.write_bytes(bytes(data))
        assert file_stamp(path) != before
    path.write_bytes(bytes(size + 1))
    assert file_stamp(path) != before


def test_what_is_no_file_or_cannot_be_read_is_stamped_without_waiting_or_failing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert file_stamp(tmp_path / "pipe") == "0"


def test_a_log_that_was_mended_in_place_is_another_episode(tmp_path: Path) -> None:
    source = write_rlbench_dataset(tmp_path / "demos", 2, 4, 32)
    before = [ref.fingerprint for ref in RLBenchConverter().discover(str(source))]
    log = sorted(source.rglob("low_dim_obs.pkl"))[0]
    data = bytearray(log.read_bytes())
    data[-10] ^= 1
    log.write_bytes(bytes(data))
    after = [ref.fingerprint for ref in RLBenchConverter().discover(str(source))]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True]

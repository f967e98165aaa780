"""The format does not change by accident: data sets written once are read, verified, and made again.

What our code alone decides is compared byte by byte; what libraries encode (video, deflate, parquet) by content.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from make_golden import CODECS, GOLDEN, make
from synthetic_converter import camera, trajectory

import actionimg_data as aid
from actionimg_data.engine import verify
from actionimg_data.shards import npz
from actionimg_data.shards.plan import tool_versions
from actionimg_data.video import read_frames


def members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}


@pytest.mark.parametrize("codec", CODECS)
def test_golden_data_sets_are_read_and_verified(codec: str) -> None:
    report = verify(GOLDEN / codec)
    assert report.ok, report.failures
    assert report.summary()["decoded_frames"] == 3
    (sample,) = aid.open_dataset(GOLDEN / codec)
    assert sample.key == "task-ep_000"
    assert sample.instruction == "do task 0"
    np.testing.assert_array_equal(sample.trajectory.position, trajectory(0, 3).position)
    np.testing.assert_array_equal(sample.cameras["side"].K[2], camera("side").K)
    np.testing.assert_allclose(sample.cameras["side"].world_from_camera[0], camera("side").world_from_camera)
    drawn = aid.render(sample.trajectory, sample.cameras, aid.ActionImageSpec(height=64, width=64))
    limit = 0 if codec != "h264" else 80
    for i, view in enumerate(sample.views):
        assert np.abs(sample.action(view).astype(int) - drawn[i]).max() <= limit


@pytest.mark.parametrize("codec", CODECS)
def test_data_sets_made_now_are_the_golden_ones(tmp_path: Path, codec: str) -> None:
    make(tmp_path / "out", codec)
    new, old = members(tmp_path / "out/train/000000.tar"), members(GOLDEN / codec / "train/000000.tar")
    assert list(new) == list(old)
    for name, data in new.items():
        if name.endswith(".json"):
            assert data == old[name]
        elif name.endswith(".npz"):
            a, b = npz.load(data, name), npz.load(old[name], name)
            assert list(a) == list(b)
            for key in a:
                if a[key].dtype.kind == "f":
                    np.testing.assert_allclose(a[key], b[key], rtol=1e-12, atol=1e-15)
                else:
                    np.testing.assert_array_equal(a[key], b[key])
                assert a[key].dtype == b[key].dtype
        else:
            found, kept = read_frames(data).astype(int), read_frames(old[name]).astype(int)
            assert found.shape == kept.shape
            assert np.abs(found - kept).mean() <= (1 if name.endswith(".mp4") else 0)
    for name in ("plan.jsonl", "quarantine.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (GOLDEN / codec / name).read_bytes()
    a, b = (pq.read_table(folder / "index.parquet") for folder in (tmp_path / "out", GOLDEN / codec))
    assert a.schema == b.schema
    # Where members are depends on what encoders make of them.
    stable = [name for name in a.column_names if name not in ("offset", "bytes", "members")]
    assert a.select(stable).equals(b.select(stable))
    manifests = [json.loads((folder / "dataset.json").read_text()) for folder in (tmp_path / "out", GOLDEN / codec)]
    assert [list(m) for m in manifests] == [list(manifests[0])] * 2
    moving = {"tool", "plan", "counts", "shards", "files", "checksum"}
    assert [{k: v for k, v in m.items() if k not in moving} for m in manifests] == [
        {k: v for k, v in manifests[0].items() if k not in moving}
    ] * 2


@pytest.mark.parametrize("codec", CODECS)
def test_with_the_same_libraries_every_byte_is_the_golden_one(tmp_path: Path, codec: str) -> None:
    there = json.loads((GOLDEN / codec / "dataset.json").read_text())["tool"]
    if there != tool_versions():
        pytest.skip(f"the golden data set was written with other libraries: {there}")
    make(tmp_path / "out", codec)
    for path in sorted((GOLDEN / codec).rglob("*")):
        if path.is_file() and path.suffix != ".parquet":
            new = (tmp_path / "out" / path.relative_to(GOLDEN / codec)).read_bytes()
            if path.name == "dataset.json":
                # Its hash of the index depends on pyarrow's version, which decides nothing else.
                new, old = (json.loads(data) for data in (new, path.read_bytes()))
                for manifest in (new, old):
                    manifest["files"].pop("index.parquet")
                    manifest.pop("checksum")
                assert new == old
            else:
                assert hashlib.sha256(new).hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest(), path.name

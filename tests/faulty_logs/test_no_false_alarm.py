"""Sound logs raise no finding: what the programs themselves wrote, and real recordings, pictures and all."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from faulty_logs.logs import write_yaml
from sample_mapping import panda_mapping

from actionimg_data.converters.base import Converter, converter_class
from actionimg_data.plausibility import examine, examine_pictures

pytestmark = pytest.mark.realdata

PANDA = panda_mapping()
SOURCES: dict[str, tuple[str, str, str | None]] = {
    "rlbench": ("rlbench", "rlbench", None),
    "a Panda with four cameras": ("folder", "teleop", "PANDA"),
    **{f"lerobot {n}": ("lerobot", f"lerobot/{n}", "lerobot/mapping.yaml") for n in ("h264", "av1_small", "two_tasks")},
    **{f"mcap {n}": ("rosbag", f"mcap/{n}", "mcap/mapping.yaml") for n in ("jpeg", "jpeg_xsrv")},
    "mcap of a video": ("rosbag", "mcap/video", "mcap/video.mapping.yaml"),
}


def opened(root: Path, kind: str, mapping: str | None, tmp_path: Path) -> Converter:
    cls = converter_class(kind)
    if mapping is None:
        return cls()
    path = write_yaml(tmp_path / "panda.yaml", PANDA) if mapping == "PANDA" else root / mapping
    return cls(cls.Options(mapping=str(path)))


@pytest.mark.parametrize("name", SOURCES)
def test_a_sound_log_has_no_finding(name: str, sample_data: Path, tmp_path: Path) -> None:
    kind, place, mapping = SOURCES[name]
    if kind == "rosbag":
        pytest.importorskip("rosbags")
    converter = opened(sample_data, kind, mapping, tmp_path)
    refs: Iterator[Any] = islice(converter.discover(str(sample_data / place)), 2)
    for ref in refs:
        episode = converter.read(ref)
        assert [f.text() for f in (*examine(episode), *examine_pictures(episode))] == []

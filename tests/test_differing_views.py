"""Samples of one data set that differ in their views, whatever the format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actionimg_data import open_dataset
from actionimg_data.engine import convert, plan, verify
from actionimg_data.errors import InvalidSpecError, MissingCalibrationError, TooManyBadEpisodesError
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards.plan import PROBES

from .synthetic_converter import SyntheticConverter, write_source


def options(**more: Any) -> ConvertOptions:
    return ConvertOptions.parse(height=32, width=32, **{"views_per_sample": "found", "action_codec": "none", **more})


def source(folder: Path, views: dict[int, list[str]], episodes: int, **more: Any) -> str:
    named = {f"ep_{number:03d}": names for number, names in views.items()}
    return write_source(folder / "source", episodes=episodes, frames=2, views=named, **more)


def test_views_of_all_first_episodes_are_found_and_a_later_one_is_named(tmp_path: Path) -> None:
    last = PROBES
    place = source(tmp_path, {0: ["side"], 1: ["front"], last: ["front", "top"]}, last + 1)
    result = convert(SyntheticConverter(), place, tmp_path / "out", options())
    assert result.manifest.views == ("side", "front")
    (bad,) = result.quarantined
    assert (bad.id, bad.code) == (f"task/ep_{last:03d}", "missing-view")
    assert "--views calibrated,side,front,top" in bad.message
    data = open_dataset(tmp_path / "out")
    assert [s.views for s in data][:3] == [("side",), ("front",), ("side", "front")]
    assert verify(tmp_path / "out").ok
    # Named, it is one of them; one that is not named is not asked for.
    named = convert(
        SyntheticConverter(), place, tmp_path / "named", options(views_per_sample="named", views=("top", "front"))
    )
    assert [s.views for s in open_dataset(tmp_path / "named")][-1] == ("top", "front")
    assert named.manifest.counts is not None
    assert named.manifest.counts.quarantine_codes == {"missing-calibration": 1}


def test_views_without_a_camera_are_left_out_and_do_not_count_as_bad(tmp_path: Path) -> None:
    place = source(tmp_path, {n: ["side"] for n in range(4)}, 6, uncalibrated=["side"])
    result = convert(SyntheticConverter(), place, tmp_path / "out", options(), max_bad_fraction=0.0)
    assert result.manifest.counts is not None
    assert result.manifest.counts.quarantine_codes == {"missing-calibration": 4}
    assert {s.views for s in open_dataset(tmp_path / "out")} == {("front",)}
    nothing = source(tmp_path / "none", {}, 2, uncalibrated=["side", "front"])
    with pytest.raises(MissingCalibrationError, match="no view of the first 20 episodes"):
        plan(SyntheticConverter(), nothing, options())
    with pytest.raises(TooManyBadEpisodesError):
        convert(SyntheticConverter(), nothing, tmp_path / "x", options(views_per_sample="named", views=("front",)))


def test_without_cameras_there_is_nothing_to_tell_views_apart_by() -> None:
    with pytest.raises(InvalidSpecError, match="no camera is known"):
        options().without_cameras()
    with pytest.raises(InvalidSpecError, match="told apart by their cameras"):
        options(poses_only=True)

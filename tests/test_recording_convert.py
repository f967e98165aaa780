from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numbered import damage_in_the_middle

from actionimg_data import engine
from actionimg_data.converters import Converter, converter_class
from actionimg_data.demo.recordings import (
    TeleopLog,
    camera_file,
    droid_camera_file,
    make_log,
    read_panda_log,
    write_droid,
    write_folder,
    write_lerobot,
    write_yaml,
)
from actionimg_data.model import Episode
from actionimg_data.schemas import ConvertOptions

DOCS = Path(__file__).parents[1] / "docs" / "mapping.md"


def documented_mapping() -> dict[str, Any]:
    block = DOCS.read_text().split("```yaml\n")[1].split("```")[0]
    value: dict[str, Any] = yaml.safe_load(block)
    return value


def convert(converter: Converter, source: Path, out: Path, size: int) -> dict[str, Any]:
    options = ConvertOptions.parse(height=size, width=size)
    result = engine.convert(converter, str(source), out, options)
    assert not list(result.quarantined)
    return engine.verify(out).summary()


@pytest.mark.realdata
def test_the_documented_mapping_converts_the_real_recording_in_all_four_views(
    sample_data: Path, tmp_path: Path
) -> None:
    path = write_yaml(tmp_path / "m.yaml", documented_mapping())
    kind = converter_class("folder")
    converter = kind(kind.Options.parse({"mapping": str(path)}, "test"))
    found = convert(converter, sample_data / "teleop", tmp_path / "out", 256)
    assert found["ok"]
    assert (found["samples"], found["frames"], found["decoded_frames"]) == (2, 200, 200)
    assert found["position_error_mm"]["median"] < 0.1
    assert found["rotation_error_deg"]["median"] < 0.2
    assert found["position_error_mm"]["max"] < 1.0
    assert found["openness_accuracy"] == 1.0


@pytest.mark.realdata
def test_the_real_recording_gives_one_episode_through_every_converter(sample_data: Path, tmp_path: Path) -> None:
    views = ("agentview", "sideview", "robot0_eye_in_hand")
    log = read_panda_log(sample_data / "teleop" / "episode_1", views)
    roles = ("exterior_1", "exterior_2", "wrist")
    (tmp_path / "cameras.json").write_text(json.dumps(camera_file(log)))
    (tmp_path / "droid.json").write_text(json.dumps(droid_camera_file(log)))
    mappings = {"folder": ("folder", write_folder(log, tmp_path / "folder"))}
    for version in ("v2.1", "v3.0"):
        mappings[version] = ("lerobot", write_lerobot([log], tmp_path / version, version, codec="libx264"))
    if pytest.importorskip("rosbags"):
        from actionimg_data.demo.recordings import write_rosbag

        mappings["mcap"] = ("rosbag", write_rosbag(log, tmp_path / "mcap", "mcap"))
        mappings["db3"] = ("rosbag", write_rosbag(log, tmp_path / "db3", "sqlite3"))
    episodes = {}
    for name, (kind, mapping) in mappings.items():
        options = {"mapping": str(write_yaml(tmp_path / f"{name}.yaml", mapping))}
        episodes[name] = first(kind, tmp_path / name, options)
    write_droid(log, tmp_path / "droid", roles=roles)
    tool = {"tool_from_gripper": json.dumps(log.tool_from_gripper), "camera_file": str(tmp_path / "droid.json")}
    episodes["droid"] = first("droid", tmp_path / "droid", tool)
    truth = log.truth()
    for name, episode in episodes.items():
        np.testing.assert_allclose(episode.trajectory.position, truth.position, atol=1e-6, err_msg=name)
        turned = np.abs((episode.trajectory.quaternion_xyzw * truth.quaternion_xyzw).sum(1))
        assert np.degrees(2 * np.arccos(np.clip(turned, 0, 1))).max() < 1e-4, name
        np.testing.assert_allclose(episode.trajectory.openness, truth.openness, atol=1e-6, err_msg=name)
        assert episode.instruction == "lift the red cube"
        for view, own in zip(views, roles if name == "droid" else views, strict=True):
            camera = episode.views[own].camera
            assert camera is not None
            expected = np.broadcast_to(log.views[view].world_from_camera, (len(episode), 4, 4))
            np.testing.assert_allclose(camera.track(len(episode)).world_from_camera, expected, atol=1e-6, err_msg=name)
            pictures = np.stack(list(episode.views[own].frames.frames([0, 40, 99])))
            assert np.abs(pictures.astype(int) - log.views[view].pictures[[0, 40, 99]]).mean() < 3, name


def first(kind: str, source: Path, options: dict[str, Any]) -> Episode:
    chosen = converter_class(kind)
    converter = chosen(chosen.Options.parse(options, "test"))
    return converter.read(next(iter(converter.discover(str(source)))))


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return make_log(frames=6, size=64, views=("front", "overhead", "wrist"))


@pytest.mark.parametrize("kind", ["droid", "lerobot", "rosbag"])
def test_shards_of_every_converter_verify(log: TeleopLog, tmp_path: Path, kind: str) -> None:
    (tmp_path / "cameras.json").write_text(json.dumps(camera_file(log)))
    if kind == "droid":
        write_droid(log, tmp_path / "src")
        (tmp_path / "droid.json").write_text(json.dumps(droid_camera_file(log)))
        options = {
            "tool_from_gripper": json.dumps(log.tool_from_gripper),
            "camera_file": str(tmp_path / "droid.json"),
        }
    else:
        if kind == "rosbag":
            pytest.importorskip("rosbags")
            from actionimg_data.demo.recordings import write_rosbag

            mapping = write_rosbag(log, tmp_path / "src" / "run")
        else:
            mapping = write_lerobot([log], tmp_path / "src", "v3.0", codec="libx264")
        options = {"mapping": str(write_yaml(tmp_path / "m.yaml", mapping))}
    chosen = converter_class(kind)
    found = convert(chosen(chosen.Options.parse(options, "test")), tmp_path / "src", tmp_path / "out", 128)
    assert found["ok"], found
    assert found["decoded_frames"] == 6


def test_a_video_damaged_in_the_middle_puts_only_its_episode_into_quarantine(log: TeleopLog, tmp_path: Path) -> None:
    for name in ("a", "b"):
        mapping = write_folder(log, tmp_path / "src" / name)
    damage_in_the_middle(tmp_path / "src" / "a" / "front.mp4")
    chosen = converter_class("folder")
    options = {"mapping": str(write_yaml(tmp_path / "m.yaml", mapping))}
    converter = chosen(chosen.Options.parse(options, "test"))
    result = engine.convert(
        converter, str(tmp_path / "src"), tmp_path / "out", ConvertOptions.parse(height=64, width=64)
    )
    assert [row.id for row in result.quarantined] == ["a"]
    assert engine.verify(tmp_path / "out").summary()["samples"] == 1


def test_a_changed_calibration_beside_the_mapping_changes_the_plan(log: TeleopLog, tmp_path: Path) -> None:
    mapping = write_folder(log, tmp_path / "src" / "rec", "csv", "png")
    (tmp_path / "src" / "rec" / "calibration.json").rename(tmp_path / "calibration.json")
    chosen = converter_class("folder")
    options = {"mapping": str(write_yaml(tmp_path / "m.yaml", mapping))}
    refs = []
    for focal in (1.0, 1.5):
        value = camera_file(log)
        value["cameras"]["front"]["K"][0][0] *= focal
        (tmp_path / "calibration.json").write_text(json.dumps(value))
        converter = chosen(chosen.Options.parse(options, "test"))
        refs.append(next(iter(converter.discover(str(tmp_path / "src")))))
    assert refs[0].id == refs[1].id
    assert refs[0].fingerprint != refs[1].fingerprint

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

from actionimg_data.converters.droid import DroidConverter
from actionimg_data.converters.folder import FolderConverter, FolderOptions
from actionimg_data.converters.lerobot import LeRobotConverter
from actionimg_data.converters.look.inspection import stream_statistics
from actionimg_data.converters.look.propose import propose_mapping
from actionimg_data.converters.look.survey import survey
from actionimg_data.converters.recording.mapping import load_mapping
from actionimg_data.converters.robomimic import RobomimicConverter
from actionimg_data.demo.recordings import TeleopLog, make_log, write_droid, write_folder, write_lerobot, write_yaml
from actionimg_data.demo.simulators import write_aloha
from actionimg_data.errors import (
    AmbiguousSourceError,
    SourceNotFoundError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
)
from actionimg_data.report.streams import plot_streams
from actionimg_data.schemas.mapping import UNKNOWN


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return make_log(frames=8, size=48, views=("front", "overhead"))


def unknown(value: Any, place: str = "") -> set[str]:
    if isinstance(value, dict):
        return {p for k, v in value.items() for p in unknown(v, f"{place}.{k}" if place else k)}
    if isinstance(value, list):
        return {p for v in value for p in unknown(v, place)}
    return {place} if value == UNKNOWN else set()


def draft(source: Path, tmp_path: Path, expected_format: str) -> tuple[str, dict[str, Any]]:
    """A draft is YAML, is refused as long as anything is open, and says what."""
    text = propose_mapping(str(source))
    (tmp_path / "draft.yaml").write_text(text)
    with pytest.raises(AmbiguousSourceError, match="still to be filled in"):
        load_mapping(tmp_path / "draft.yaml", expected_format)
    return text, yaml.safe_load(text)


def robomimic_like(path: Path) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for demo in (0, 1, 10):
            group = file.create_group(f"data/demo_{demo}")
            group.attrs["num_samples"] = 20
            group["actions"] = rng.normal(size=(20, 7))
            group["states"] = rng.normal(size=(20, 45))
            group["obs/robot0_eef_pos"] = rng.normal(size=(20, 3))
            group["obs/robot0_eef_quat"] = Rotation.random(20, rng=rng).as_quat()
            group["obs/robot0_gripper_qpos"] = rng.uniform(0, 0.04, (20, 2)) * [1, -1]
            group["obs/agentview_image"] = np.zeros((20, 84, 84, 3), np.uint8)


def test_a_robomimic_like_file(tmp_path: Path) -> None:
    path = tmp_path / "low_dim.hdf5"
    robomimic_like(path)
    text, value = draft(path, tmp_path, "folder")
    for stream in ("actions", "states", "obs/robot0_eef_pos", "obs/robot0_gripper_qpos", "obs/agentview_image"):
        assert re.search(rf"# .*{stream}: ", text)
    assert "obs/robot0_eef_quat: 20×4 float64" in text
    assert "rows of length 1" in text
    assert value["group"] == "data/demo_*"
    assert value["pose"]["position"]["columns"] == ["obs/robot0_eef_pos"]
    assert value["pose"]["rotation"] == {"columns": ["obs/robot0_eef_quat"], "form": "quaternion", "order": UNKNOWN}
    assert value["gripper"]["columns"] == ["obs/robot0_gripper_qpos[0]", "obs/robot0_gripper_qpos[1]"]
    assert value["views"]["agentview_image"]["frames"] == "low_dim.hdf5#obs/agentview_image"
    assert unknown(value) == {
        "instruction.text",
        "pose.position.unit",
        "pose.rotation.order",
        "pose.tool_from_gripper",
        "gripper.combine",
        "gripper.closed",
        "gripper.open",
        "gripper.kind",
        "views.agentview_image.camera.file",
        "sync.fps",
    }


def test_a_bag(log: TeleopLog, tmp_path: Path) -> None:
    pytest.importorskip("rosbags")
    from actionimg_data.demo.recordings import write_rosbag

    write_rosbag(log, tmp_path / "run")
    text, value = draft(tmp_path / "run", tmp_path, "rosbag")
    for topic in ("/ee_pose", "/gripper", "/front/image", "/front/info", "/overhead/image", "/tf_static"):
        assert f"#   {topic}" in text
    assert value["pose"]["topic"] == "/ee_pose"
    assert (value["gripper"]["topic"], value["gripper"]["columns"]) == ("/gripper", ["position.width"])
    for view in ("front", "overhead"):
        camera = value["views"][view]["camera"]
        assert camera["camera_info"] == f"/{view}/info"
        # The frames are those of the messages, between which the bag's transforms lead.
        assert set(camera["tf"]) == {"parent", "child"}
        assert UNKNOWN not in camera["tf"].values()
    assert unknown(value) == {
        "instruction.text",
        "pose.tool_from_gripper",
        "gripper.closed",
        "gripper.open",
        "gripper.kind",
        *(f"views.{v}.camera.rectified" for v in ("front", "overhead")),
    }


FOLDER_UNKNOWN = {
    "instruction.text",
    "pose.tool_from_gripper",
    "gripper.closed",
    "gripper.open",
    "gripper.kind",
}


@pytest.mark.realdata
def test_the_folder_recording(sample_data: Path, tmp_path: Path) -> None:
    text, value = draft(sample_data / "teleop" / "episode_1", tmp_path, "folder")
    for column in ("time_s", "x_m", "qw", "gripper_width_m"):
        assert f"#     {column}: 500 float64" in text
    views = ("agentview", "frontview", "sideview", "robot0_eye_in_hand")
    assert set(value["views"]) == set(views)
    assert unknown(value) == FOLDER_UNKNOWN
    assert all(value["views"][v]["camera"] == {"file": "calibration.json", "name": v} for v in views)
    assert value["pose"]["time"] == {"column": "time_s", "unit": "s"}
    assert value["pose"]["position"]["unit"] == "m"


def test_a_draft_that_is_filled_in_converts(log: TeleopLog, tmp_path: Path) -> None:
    write_folder(log, tmp_path / "rec")
    _, value = draft(tmp_path / "rec", tmp_path, "folder")
    assert unknown(value) == FOLDER_UNKNOWN
    value["instruction"]["text"] = log.instruction
    value["pose"]["tool_from_gripper"] = dict(log.tool_from_gripper)
    value["gripper"].update(closed=0.0, open=0.08, kind="measured")
    path = write_yaml(tmp_path / "m.yaml", value)
    converter = FolderConverter(FolderOptions(mapping=str(path)))
    (ref,) = converter.discover(str(tmp_path / "rec"))
    np.testing.assert_allclose(converter.read(ref).trajectory.position, log.truth().position, atol=1e-9)


def test_a_lerobot_data_set(log: TeleopLog, tmp_path: Path) -> None:
    write_lerobot([log], tmp_path / "set", codec="libx264")
    _, value = draft(tmp_path / "set", tmp_path, "lerobot")
    assert value["gripper"]["columns"] == ["observation.state.gripper_width"]
    assert value["pose"]["position"]["columns"] == [f"observation.state.{a}" for a in "xyz"]
    assert {"pose.position.unit", "views.front.camera.file"} <= unknown(value)


def test_a_log_of_joints_is_drafted_through_a_robot_file(log: TeleopLog, tmp_path: Path) -> None:
    """ALOHA's, whose padded JPEGs are pictures; the draft says that a converter of its own reads it."""
    path = write_aloha(log, tmp_path / "episode_0.hdf5", [np.zeros((len(log.frame_times), 6))] * 2, jpeg=True)
    text, value = draft(path, tmp_path, "folder")
    assert "actionimg convert aloha" in text
    joints = value["pose"]["joints"]
    assert joints["columns"] == ["observations/qpos"]
    assert {f"pose.joints.{f}" for f in ("names", "unit", "robot", "tip")} <= unknown(value)
    assert "position" not in value["pose"]
    assert value["views"]["front"]["frames"] == "episode_0.hdf5#observations/images/front"


def test_joints_that_a_lerobot_data_set_names_are_named_in_the_draft(log: TeleopLog, tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_lerobot([log], root, "v2.1", codec="libx264")
    info = json.loads((root / "meta" / "info.json").read_text())
    names = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper", "left_gripper"]
    info["features"]["observation.state"]["names"] = names
    (root / "meta" / "info.json").write_text(json.dumps(info))
    _, value = draft(root, tmp_path, "lerobot")
    assert value["pose"]["joints"]["columns"] == [f"observation.state.{n}" for n in names[:6]]
    assert value["pose"]["joints"]["names"] == names[:6]


def test_a_parquet_file_and_zarr_arrays(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"stamp": np.arange(5), "eef_pos": [[1.0, 2, 3]] * 5}), tmp_path / "a.parquet")
    found = survey(str(tmp_path / "a.parquet"))
    assert [c.name for c in found.tables[0].columns] == ["stamp", "eef_pos"]
    assert f'unit: "{UNKNOWN}"' in propose_mapping(str(tmp_path / "a.parquet"))
    for store in (tmp_path / "b.zarr", zarr.storage.ZipStore(tmp_path / "c.zarr.zip", mode="w")):
        group = zarr.create_group(store=store)
        group.create_array("data/robot0_eef_pos", data=np.zeros((5, 3)))
        group.create_array("meta/episode_ends", data=np.array([2, 5]))
        if hasattr(store, "close"):
            store.close()
    for name in ("b.zarr", "c.zarr.zip"):
        text = propose_mapping(str(tmp_path / name))
        assert "data/robot0_eef_pos: 5×3 float64" in text
        assert "meta/episode_ends: many episodes in one array" in text


def test_what_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        propose_mapping(str(tmp_path / "none"))
    with pytest.raises(WrongFormatError, match="holds no table, bag or data set"):
        propose_mapping(str(tmp_path))
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(WrongFormatError, match="is not a log"):
        propose_mapping(str(tmp_path / "a.docx"))
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["x"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(UnsafeFileError):
        propose_mapping(str(tmp_path / "a.hdf5"))


# Statistics and their plot.


def test_streams_of_every_kind_of_log_have_statistics_and_a_plot(log: TeleopLog, tmp_path: Path) -> None:
    import cv2

    mapping = write_folder(log, tmp_path / "rec")
    write_droid(log, tmp_path / "droid", roles=("exterior_1", "exterior_2"))
    write_lerobot([log], tmp_path / "set", codec="libx264")
    options = FolderOptions(mapping=str(write_yaml(tmp_path / "m.yaml", mapping)))
    expected = {
        "rec": (FolderConverter(options), {"pose", "gripper", "front", "overhead"}),
        "droid": (DroidConverter(), {"robot_state", "20000000", "20001111"}),
        "set": (LeRobotConverter(), {"rows"}),
    }
    for name, (chosen, streams) in expected.items():
        found = stream_statistics(chosen, str(tmp_path / name))
        assert set(found["streams"]) == set(found["stamps"]) == streams
        plot_streams(found, tmp_path / f"{name}.png")
        picture = cv2.imread(str(tmp_path / f"{name}.png"))
        assert picture.shape[0] > 84 * len(streams)
        assert (picture != 255).any()


def test_gaps_are_drawn_red(tmp_path: Path) -> None:
    import cv2

    times = np.delete(np.arange(100) / 20, slice(40, 50))
    regular = {"episode": "e", "streams": {"a": {}}, "stamps": {"a": (np.arange(100) / 20).tolist()}}
    plot_streams(regular, tmp_path / "a.png")
    plot_streams({**regular, "stamps": {"a": times.tolist()}}, tmp_path / "b.png")
    red = [(cv2.imread(str(tmp_path / n))[..., ::-1] == [214, 40, 40]).all(-1).sum() for n in ("a.png", "b.png")]
    # The legend has its mark in both.
    assert 0 < red[0] < 40
    assert red[1] > red[0] + 20


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(WrongFormatError, match="has no stamps to draw"):
        plot_streams({"episode": "e", "streams": {}, "stamps": {}}, tmp_path / "a.png")


def test_no_log_has_no_statistics(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSourceError, match="has no stamps to draw"):
        stream_statistics(RobomimicConverter(), str(tmp_path))
    with pytest.raises(WrongFormatError, match="no DROID episode"):
        stream_statistics(DroidConverter(), str(tmp_path))

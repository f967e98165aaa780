"""The registry of RLDS data sets: each entry is complete and sourced, and each convention is applied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from actionimg_data.converters.kit.entries import shipped
from actionimg_data.converters.kit.kinematics import Chain
from actionimg_data.converters.rlds import RLDSConverter, RLDSOptions, motion, registry
from actionimg_data.converters.rlds import features as F
from actionimg_data.demo import rlds as w
from actionimg_data.demo.simulators import panda_urdf
from actionimg_data.errors import (
    AmbiguousSourceError,
    InvalidSpecError,
    InvalidTrajectoryError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
)
from actionimg_data.model import Camera, CameraTrack, Episode
from actionimg_data.schemas.rlds_registry import RldsCameraFile, RldsEntry

STEPS = 6
SHIPPED = shipped()
EXPECTED = {
    "austin_buds", "austin_sailor", "austin_sirius", "bc_z", "berkeley_autolab_ur5", "berkeley_cable_routing",
    "berkeley_fanuc", "berkeley_mvp", "bridge", "bridge_dataset", "cmu_stretch", "dlr_edan", "dlr_sara_grid_clamp",
    "dlr_sara_pour", "dobbe", "droid", "fmb", "fractal20220817_data", "furniture_bench", "iamlab_cmu", "jaco_play",
    "kaist_nonprehensile", "kuka", "language_table", "libero", "maniskill", "nyu_door_opening", "nyu_franka_play",
    "nyu_rot", "robo_set", "roboturk", "stanford_hydra", "taco_play", "tdroid", "tokyo_u_lsmo", "toto", "ucsd_kitchen",
    "utaustin_mutex", "utokyo_xarm_pick_and_place", "viola",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIONIMG_CACHE_DIR", str(tmp_path / "cache"))


def poses(seed: int = 0) -> tuple[np.ndarray[Any, Any], Rotation]:
    """Positions and rotations away from symmetric ones."""
    rng = np.random.default_rng(seed)
    turns = Rotation.from_euler("xyz", rng.uniform(-1.2, 1.2, (STEPS, 3)))
    return rng.uniform(-0.5, 0.5, (STEPS, 3)), turns


def pictures(count: int = STEPS, height: int = 12, width: int = 16) -> np.ndarray[Any, Any]:
    """Dark pictures with a bright upper left corner."""
    out = np.full((count, height, width, 3), 40, np.uint8)
    out[:, : height // 2, : width // 2] = 220
    return out


def build(tmp_path: Path, name: str, values: dict[str, Any], episode: dict[str, Any] | None = None) -> Path:
    """A data set of one episode from values by flat key below ``steps``; texts, pictures and numbers."""
    step: dict[str, Any] = {}
    nested: dict[str, Any] = {}
    for key, value in values.items():
        # Names that hold a slash of their own come as tuples.
        place = key if isinstance(key, tuple) else tuple(key.split("/"))
        leaf, data = value if isinstance(value, tuple) else (leaf_for(value), value)
        inner, inner_values = step, nested
        for part in place[:-1]:
            inner, inner_values = inner.setdefault(part, {}), inner_values.setdefault(part, {})
        inner[place[-1]], inner_values[place[-1]] = leaf, data
    extra = episode or {}
    node = w.episode_features(step, **{k: w.group({n: leaf_of_one(v) for n, v in g.items()}) for k, g in extra.items()})
    return w.write_rlds(tmp_path, name, node, {"train": [{"steps": {**nested, **w.flags(STEPS)}, **extra}]})


def leaf_for(values: Any) -> F.Leaf:
    array = np.asarray(values)
    if array.dtype.kind in "US":
        return w.text()
    if array.dtype == np.uint8 and array.ndim == 4:
        return w.image(array.shape[1:], encoding="png")
    dtype = {"b": "bool", "i": "int64"}.get(array.dtype.kind, "float32")
    return w.tensor(array.shape[1:], dtype)


def leaf_of_one(value: Any) -> F.Leaf:
    return w.text() if isinstance(value, str) else w.tensor((), "bool" if isinstance(value, bool) else "float32")


def read(folder: Path, **options: Any) -> Episode:
    converter = RLDSConverter(RLDSOptions(**{"poses_only": True, **options}))
    (ref,) = converter.discover(str(folder))
    return converter.read(ref)


def assert_motion(episode: Episode, position: Any, rotation: Rotation, openness: Any) -> None:
    t = episode.trajectory
    assert np.allclose(t.position, position, atol=1e-6)
    assert np.allclose(t.rotation, rotation.as_matrix(), atol=1e-5)
    assert np.allclose(t.openness, openness, atol=1e-6)


TEXT = ["put it there"] * STEPS

# -- joints ------------------------------------------------------------------------------------------------------------


def joint_data(tmp_path: Path, width: int = 7) -> tuple[Path, np.ndarray[Any, Any], dict[str, Any]]:
    """A data set that the registry knows, with joints besides, and the options that take them."""
    position, turns = poses()
    values = {
        "observation/joint_position": np.random.default_rng(1).uniform(-1, 1, (STEPS, width)).astype(np.float32),
        "observation/cartesian_position": np.concatenate([position, turns.as_euler("xyz")], axis=1).astype(np.float32),
        "observation/gripper_position": np.linspace(0, 1, STEPS).astype(np.float32)[:, None],
        "language_instruction": TEXT,
        **{view.image: pictures() for view in SHIPPED["droid"].views.values()},
    }
    for key in SHIPPED["droid"].requires:
        values.setdefault(key, np.zeros((STEPS, 6), np.float32))
    folder = build(tmp_path, "droid", values, {"episode_metadata": {"file_path": "a/b"}})
    (tmp_path / "arm.urdf").write_text(panda_urdf())
    options = {"robot": str(tmp_path / "arm.urdf"), "tip": "grip_site", "joints": "observation/joint_position"}
    return folder, values["observation/joint_position"], options


def test_joints_become_poses_through_a_robot_file(tmp_path: Path) -> None:
    folder, joints, options = joint_data(tmp_path)
    episode = read(folder, **options, tool_from_gripper="0 0 0 0 0 0.70710678 0.70710678")
    chain = Chain.load(tmp_path / "arm.urdf", None, "grip_site")
    expected = chain.poses(chain.names, joints.astype(np.float64))
    assert np.allclose(episode.trajectory.position, expected[:, :3, 3], atol=1e-9)
    turned = expected[:, :3, :3] @ Rotation.from_euler("z", 90, degrees=True).as_matrix()
    assert np.allclose(episode.trajectory.rotation, turned, atol=1e-6)
    # Without a robot file the joints stand beside the poses.
    beside = read(folder, poses_only="true").joints
    assert beside is not None
    assert beside.names == ()
    np.testing.assert_array_equal(beside.values, joints)
    with pytest.raises(InvalidSpecError, match="--joints FEATURE"):
        registry.with_joints(SHIPPED["bridge"], "arm.urdf", "tip", None, None, folder)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        # What the entry says of the hand is of another frame than the tip.
        ({}, AmbiguousSourceError, "--tool-from-gripper"),
        ({"tip": "palm"}, WrongFormatError, r"has no such link.*expected .*grip_site.*found palm"),
        ({"tip": "link4"}, WrongFormatError, "another number of joints.*expected joint1, joint2, joint3, joint4"),
        ({"tip": None}, InvalidSpecError, "--tip NAME"),
        ({"robot": None}, InvalidSpecError, "needs a robot file"),
    ],
)
def test_joints_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    folder, _, options = joint_data(tmp_path)
    with pytest.raises(error, match=message):
        read(folder, **{**options, **change}, **({"tool_from_gripper": "identity"} if change else {}))


# -- the entries -----------------------------------------------------------------------------------------------------


def test_every_data_set_of_the_list_has_an_entry() -> None:
    assert set(SHIPPED) == EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_section_of_an_entry_says_where_it_was_read(name: str) -> None:
    entry = SHIPPED[name]
    sections = {"views", "pose", "gripper", "instruction", "fps", "tool_from_gripper", "calibration"}
    # What is unknown or not agreed has no source of its own; the sides of a disagreement name theirs.
    unsaid = (set(entry.disagreements) | set(entry.unstated)) - ({"pose"} if entry.joints is not None else set())
    unsaid |= {"tool_from_gripper"} if entry.tool_from_gripper is None else set()
    unsaid |= {"gripper"} if entry.video_only else set()
    assert set(entry.sources) == sections - unsaid
    assert all(o.url for d in entry.disagreements.values() for o in d.options.values())
    assert entry.fps is not None
    assert entry.robot


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_entry_reads_a_data_set_with_its_features(tmp_path: Path, name: str) -> None:
    """Built from the entry itself, so that no key of it can be misspelt against another."""
    entry = SHIPPED[name]
    choices = tuple(f"{s}={o}" for s, d in entry.disagreements.items() for o in list(d.options)[:1])
    chosen = registry.choose(entry, choices, "test")
    given: dict[str, Any] = {} if entry.tool_from_gripper is not None else {"tool_from_gripper": "identity"}
    if "gripper" in chosen.unstated and not chosen.video_only:
        given["openness"] = 0.25
    values: dict[Any, Any] = {}
    for view in chosen.views.values():
        values[view.image] = pictures()
    for key in chosen.instruction.keys:
        values[key] = TEXT
    widths: dict[str, int] = {}
    for reference in _references(chosen):
        key, part = registry.column(reference)
        width = 16 if part is None else part.stop
        widths[key] = max(widths.get(key, 1), width if part is not None else _own_width(chosen, reference))
    for key, width in widths.items():
        values[key.removeprefix("steps/")] = np.zeros((STEPS, width), np.float32)
    _fill_rotations(chosen, values)
    for camera in chosen.calibration.cameras.values():
        values[camera.K] = np.tile(np.diag([20.0, 20.0, 1.0]), (STEPS, 1, 1))
        values[camera.camera_from_world or ""] = np.tile(np.eye(4), (STEPS, 1, 1))
    for key in chosen.requires:
        values.setdefault(key, np.zeros((STEPS, 1), np.float32))
    own_name = entry.names[0].replace("*", "any")
    droid = {"episode_metadata": {"file_path": "x"}} if chosen.calibration.kind == "droid" else None
    folder = build(tmp_path, own_name, values, droid)
    if chosen.video_only:
        with pytest.raises(UnsupportedSourceError, match="video only"):
            read(folder, choose=choices, **given)
        return
    if chosen.pose is None:
        with pytest.raises(AmbiguousSourceError, match="--robot FILE --tip NAME"):
            read(folder, choose=choices, **given)
        (tmp_path / "arm.urdf").write_text(panda_urdf())
        given |= {"robot": str(tmp_path / "arm.urdf"), "tip": "grip_site"}
    episode = read(folder, choose=choices, **given)
    assert list(episode.views) == list(entry.views)
    assert episode.fps == entry.fps
    assert episode.instruction == "put it there"
    assert episode.provenance["registry"] == name
    assert all(v.camera is None for v in episode.views.values())


def _references(entry: RldsEntry) -> list[str]:
    pose = entry.pose
    parts: list[Any] = [entry.joints, entry.gripper]
    if pose is not None:
        parts += [pose.matrix] if pose.matrix is not None else [pose.position, pose.rotation]
    return [c for p in parts if p is not None for c in p.columns]


def _own_width(entry: RldsEntry, reference: str) -> int:
    pose = entry.pose
    if entry.joints is not None and reference in entry.joints.columns:
        return 7
    if pose is None:
        return 1
    if pose.matrix is not None and reference in pose.matrix.columns:
        return 16
    if pose.rotation is not None and reference in pose.rotation.columns:
        return {"quaternion": 4, "matrix": 9}.get(pose.rotation.form, 3)
    return 3 if pose.position is not None and reference in pose.position.columns else 1


def _fill_rotations(entry: RldsEntry, values: dict[Any, Any]) -> None:
    pose = entry.pose
    if pose is None:
        return
    if pose.matrix is not None:
        key, part = registry.column(pose.matrix.columns[0])
        at = part.start if part is not None else 0
        values[key.removeprefix("steps/")][:, at : at + 16] = np.eye(4).ravel()
    elif pose.rotation is not None and pose.rotation.form == "quaternion":
        key, part = registry.column(pose.rotation.columns[0])
        at = part.start if part is not None else 0
        values[key.removeprefix("steps/")][:, at + (3 if pose.rotation.order == "xyzw" else 0)] = 1


# -- conventions -----------------------------------------------------------------------------------------------------

TOP_DOWN = Rotation.from_matrix([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])


def test_bridge_rotations_are_relative_to_the_top_down_pose(tmp_path: Path) -> None:
    position, turns = poses()
    grip = np.linspace(0, 1.1, STEPS)
    state = np.concatenate([position, turns.as_euler("xyz"), grip[:, None]], axis=1)
    views = {f"observation/image_{i}": pictures() * (i < 2) for i in range(4)}
    folder = build(tmp_path, "bridge_dataset", {"observation/state": state, "language_instruction": TEXT, **views})
    episode = read(folder)
    # The reported frame is R(rpy)·D, x along the hand; the canonical one has z along the hand.
    reported = turns * TOP_DOWN
    assert_motion(episode, position, reported * TOP_DOWN, np.clip(grip, 0, 1))
    approach = episode.trajectory.rotation[:, :, 2]
    assert np.allclose(approach, reported.as_matrix()[:, :, 0], atol=1e-5)
    assert np.allclose(episode.trajectory.rotation[:, :, 1], reported.as_matrix()[:, :, 1], atol=1e-5)
    assert list(episode.views) == ["image_0", "image_1"], "black pictures stand for cameras that are not there"
    at_rest = build(tmp_path / "rest", "bridge_orig", {
        "observation/state": np.zeros((STEPS, 7)), "language_instruction": TEXT, **views,
    })  # fmt: skip
    assert np.allclose(read(at_rest).trajectory.rotation[:, :, 2], [0, 0, -1], atol=1e-6), "at rest it points down"


def test_bridge_of_open_x_embodiment_is_told_apart_by_its_features(tmp_path: Path) -> None:
    position, turns = poses()
    state = np.concatenate([position, turns.as_euler("xyz"), np.zeros((STEPS, 1))], axis=1)
    opened = np.arange(STEPS) % 2 == 0
    folder = build(tmp_path, "bridge", {
        "observation/state": state, "observation/image": pictures(), "action/open_gripper": opened,
        "observation/natural_language_instruction": TEXT,
    })  # fmt: skip
    episode = read(folder)
    assert episode.provenance["registry"] == "bridge"
    assert_motion(episode, position, turns * TOP_DOWN * TOP_DOWN, opened)


def test_libero_rotations_are_axis_angle_and_its_pictures_are_mirrored_back(tmp_path: Path) -> None:
    position, turns = poses()
    state = np.concatenate([position, turns.as_rotvec(), np.zeros((STEPS, 2))], axis=1)
    action = np.zeros((STEPS, 7))
    action[:, 6] = np.where(np.arange(STEPS) < 3, -1, 1)
    folder = build(tmp_path, "libero_spatial_no_noops", {
        # What the simulator gives is upside down; turned by 180 degrees it is what is stored.
        "observation/image": pictures()[:, ::-1][:, ::-1, ::-1],
        "observation/wrist_image": pictures()[:, ::-1][:, ::-1, ::-1],
        "observation/state": state, "action": action, "language_instruction": TEXT,
    })  # fmt: skip
    episode = read(folder)
    assert_motion(episode, position, turns, np.arange(STEPS) < 3)
    for view in episode.views.values():
        assert np.array_equal(next(view.frames.frames([0])), pictures()[0])


def test_kuka_keys_hold_slashes_and_its_closing_signal_is_integrated(tmp_path: Path) -> None:
    position, turns = poses()
    pose = np.concatenate([position, turns.as_quat()], axis=1).astype(np.float32)
    closing = np.array([0, 0, 1.0, 0, -1.0, 0])
    folder = build(tmp_path, "kuka", {
        ("observation", "clip_function_input/base_pose_tool_reached"): (w.tensor((7,), "float32", "zlib"), pose),
        "observation/image": pictures(), "action/gripper_closedness_action": closing[:, None],
        "observation/natural_language_instruction": TEXT,
    })  # fmt: skip
    with pytest.raises(AmbiguousSourceError, match="--tool-from-gripper"):
        read(folder)
    assert_motion(read(folder, tool_from_gripper="identity"), position, turns, [1, 1, 0, 0, 1, 1])


def test_fractal_quaternions_are_xyzw(tmp_path: Path) -> None:
    position, turns = poses()
    folder = build(tmp_path, "fractal20220817_data", {
        "observation/base_pose_tool_reached": np.concatenate([position, turns.as_quat()], axis=1),
        "observation/image": pictures(), "observation/gripper_closed": np.zeros((STEPS, 1)),
        "observation/natural_language_instruction": TEXT,
    })  # fmt: skip
    # A quarter turn about the approach and 10 cm along it.
    mount = "0 0 0.1 0 0 0.7071068 0.7071068"
    episode = read(folder, tool_from_gripper=mount)
    quarter = Rotation.from_euler("z", 90, degrees=True)
    assert_motion(episode, position + 0.1 * turns.as_matrix()[:, :, 2], turns * quarter, np.ones(STEPS))


def test_droid_grippers_are_inverted_and_all_three_instructions_are_kept(tmp_path: Path) -> None:
    position, turns = poses()
    closed = np.linspace(0, 1, STEPS)
    folder = build(tmp_path, "droid", {
        "observation/cartesian_position": np.concatenate([position, turns.as_euler("xyz")], axis=1),
        "observation/gripper_position": closed[:, None],
        **{f"observation/{n}": pictures() for n in SHIPPED["droid"].views},
        "language_instruction": TEXT, "language_instruction_2": [""] * STEPS,
        "language_instruction_3": ["move  it\n"] * STEPS,
    }, {"episode_metadata": {"file_path": "a/b"}})  # fmt: skip
    episode = read(folder, tool_from_gripper="identity")
    assert_motion(episode, position, turns, 1 - closed)
    assert episode.instructions == ("put it there", "move it")
    assert episode.fps == 15


def test_maniskill_quaternions_are_wxyz_and_its_cameras_are_in_the_data(tmp_path: Path) -> None:
    position, turns = poses()
    action = np.zeros((STEPS, 7))
    action[:, 6] = [-1, -1, 1, 1, -1, 1]
    K = np.array([[20.0, 0, 8], [0, 21, 6], [0, 0, 1]])
    mounted, moving = np.eye(4), np.tile(np.eye(4), (STEPS, 1, 1))
    mounted[:3, :3], mounted[:3, 3] = Rotation.from_euler("xyz", [2.0, 0.1, 0.3]).as_matrix(), [0.1, 0.2, 1.5]
    moving[:, :3, :3], moving[:, :3, 3] = turns.as_matrix(), position
    folder = build(tmp_path, "maniskill_dataset_converted_externally_to_rlds", {
        "observation/tcp_pose": np.concatenate([position, turns.as_quat()[:, [3, 0, 1, 2]]], axis=1),
        "observation/image": pictures(), "observation/wrist_image": pictures(),
        "observation/main_camera_intrinsic_cv": np.tile(K, (STEPS, 1, 1)),
        "observation/wrist_camera_intrinsic_cv": np.tile(K, (STEPS, 1, 1)),
        "observation/main_camera_extrinsic_cv": np.tile(np.linalg.inv(mounted), (STEPS, 1, 1)),
        "observation/wrist_camera_extrinsic_cv": np.linalg.inv(moving),
        "action": action, "language_instruction": TEXT,
    })  # fmt: skip
    episode = read(folder, poses_only=False)
    assert_motion(episode, position, turns, [0, 0, 1, 1, 0, 1])
    fixed, track = (episode.views[n].camera for n in ("image", "wrist_image"))
    assert isinstance(fixed, Camera)
    assert isinstance(track, CameraTrack)
    assert np.allclose(fixed.world_from_camera, mounted, atol=1e-6)
    assert np.allclose(track.world_from_camera, moving, atol=1e-6)
    assert np.allclose(fixed.K, K)
    assert episode.views["image"].depth is None


@pytest.mark.parametrize("flip", ["none", "vertical", "both"])
def test_depth_is_in_millimetres_and_is_flipped_with_its_pictures(tmp_path: Path, flip: str) -> None:
    position, turns = poses()
    depth = np.arange(STEPS * 12 * 16, dtype=np.uint16).reshape(STEPS, 12, 16, 1) * 40
    values = {
        "observation/tcp_pose": np.concatenate([position, turns.as_quat()[:, [3, 0, 1, 2]]], axis=1),
        "observation/image": pictures(), "observation/wrist_image": pictures(),
        "observation/depth": (w.image((12, 16, 1), "uint16", encoding="png"), depth),
        "observation/main_camera_intrinsic_cv": np.tile(np.eye(3), (STEPS, 1, 1)),
        "action": np.ones((STEPS, 7)), "language_instruction": TEXT,
    }  # fmt: skip
    folder = build(tmp_path, "maniskill_dataset_converted_externally_to_rlds", values)
    entry = SHIPPED["maniskill"].model_dump(mode="json", exclude_none=True)
    entry["views"]["image"]["flip"] = flip
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump(entry))
    views = read(folder, config=config).views
    turned = depth[:, :: -1 if flip != "none" else 1, :: -1 if flip == "both" else 1, 0]
    planes = list(views["image"].depth.frames(range(STEPS)))
    assert planes[0].dtype == np.uint16
    # The entry's unit: 1024 are a metre.
    assert np.array_equal(planes, np.rint(turned / 1024 * 1000))
    assert planes[-1].max() > 30_000
    assert views["wrist_image"].depth is None
    entry["views"]["image"]["depth"]["image"] = "observation/image"
    config.write_text(yaml.safe_dump(entry))
    with pytest.raises(UnsupportedSourceError, match="is no depth"):
        read(folder, config=config)


@pytest.mark.parametrize("shape", [(12, 16), (12, 16, 1)])
@pytest.mark.parametrize(("dtype", "units"), [("float32", 1.0), ("int32", 1000.0)])
def test_depth_may_be_stored_as_numbers(tmp_path: Path, shape: tuple[int, ...], dtype: str, units: float) -> None:
    position, turns = poses()
    metres = np.arange(STEPS * 12 * 16).reshape(STEPS, *shape) / 500
    observation = np.concatenate([position, turns.as_euler("xyz"), np.zeros((STEPS, 9))], axis=1)
    folder = build(tmp_path / "own", "taco_play", {
        "observation/robot_obs": observation, "observation/rgb_static": pictures(),
        "observation/rgb_gripper": pictures(), "observation/natural_language_instruction": TEXT,
        "observation/structured_language_instruction": TEXT,
        "observation/depth_static": (w.tensor(shape, dtype), (metres * units).round(6).astype(dtype)),
    })  # fmt: skip
    entry = SHIPPED["taco_play"].model_dump(mode="json", exclude_none=True)
    entry["views"]["rgb_static"] |= {
        "flip": "vertical", "depth": {"image": "observation/depth_static", "units_per_metre": units},
    }  # fmt: skip
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump(entry))
    views = read(folder, config=config, tool_from_gripper="identity").views
    planes = list(views["rgb_static"].depth.frames([0, 3, 5]))
    expected = np.rint(metres.reshape(STEPS, 12, 16)[[0, 3, 5], ::-1] * 1000)
    assert np.abs(np.asarray(planes, float) - expected).max() <= 1
    assert planes[0].dtype == np.uint16
    assert views["rgb_gripper"].depth is None


def test_viola_matrices_go_column_by_column_and_a_wrong_order_is_noticed(tmp_path: Path) -> None:
    position, turns = poses()
    matrix = np.tile(np.eye(4), (STEPS, 1, 1))
    matrix[:, :3, :3], matrix[:, :3, 3] = turns.as_matrix(), position
    width = np.array([0.08, 0.081, 0.064, 0.0, 0.0, 0.0])
    rest = {
        "observation/agentview_rgb": pictures(), "observation/eye_in_hand_rgb": pictures(),
        "observation/gripper_states": width[:, None], "observation/natural_language_instruction": TEXT,
    }  # fmt: skip
    columns = matrix.swapaxes(1, 2).reshape(STEPS, 16)
    folder = build(tmp_path, "viola", {"observation/ee_states": columns, **rest})
    assert_motion(read(folder, tool_from_gripper="identity"), position, turns, [1, 1, 0.8, 0, 0, 0])
    rows = build(tmp_path / "rows", "viola", {"observation/ee_states": matrix.reshape(STEPS, 16), **rest})
    with pytest.raises(InvalidTrajectoryError, match="the order the other one"):
        read(rows, tool_from_gripper="identity")


def test_bc_z_has_slashes_in_names_and_rotation_vectors(tmp_path: Path) -> None:
    position, turns = poses()
    target = np.zeros((STEPS, 10))
    target[:, 0] = np.arange(STEPS) % 2
    folder = build(tmp_path, "bc_z", {
        ("observation", "present/xyz"): position, ("observation", "present/axis_angle"): turns.as_rotvec(),
        ("action", "future/target_close"): target.astype(np.int64), "observation/image": pictures(),
        "observation/natural_language_instruction": TEXT,
    })  # fmt: skip
    assert_motion(read(folder, tool_from_gripper="identity"), position, turns, 1 - target[:, 0])


def test_ur5_poses_lie_in_the_middle_of_the_state(tmp_path: Path) -> None:
    position, turns = poses()
    closed = np.array([0.0, 1, 1, 0, 0, 1])
    parts = [np.full((STEPS, 6), 9.0), position, turns.as_quat(), closed[:, None], np.zeros((STEPS, 1))]
    state = np.concatenate(parts, axis=1)
    folder = build(tmp_path, "berkeley_autolab_ur5", {
        "observation/robot_state": state, "observation/image": pictures(), "observation/hand_image": pictures(),
        "observation/natural_language_instruction": TEXT,
    })  # fmt: skip
    assert_motion(read(folder, tool_from_gripper="identity"), position, turns, 1 - closed)


def test_hydra_eulers_follow_the_quaternion(tmp_path: Path) -> None:
    position, turns = poses()
    state = np.concatenate([position, np.full((STEPS, 4), 7.0), turns.as_euler("xyz"), np.zeros((STEPS, 17))], axis=1)
    action = np.zeros((STEPS, 7))
    action[3:, 6] = 1
    folder = build(tmp_path, "stanford_hydra_dataset_converted_externally_to_rlds", {
        "observation/state": state, "observation/image": pictures(), "observation/wrist_image": pictures(),
        "action": action, "language_instruction": TEXT,
    })  # fmt: skip
    assert_motion(read(folder, tool_from_gripper="identity"), position, turns, 1 - action[:, 6])


# -- disagreements and what is unknown -------------------------------------------------------------------------------


def taco(tmp_path: Path) -> tuple[Path, np.ndarray[Any, Any]]:
    position, turns = poses()
    action = np.zeros((STEPS, 7))
    action[:, 6] = [-1, -1, 1, 1, 1, -1]
    width = np.linspace(0, 0.08, STEPS)
    observation = np.concatenate([position, turns.as_euler("xyz"), width[:, None], np.zeros((STEPS, 8))], axis=1)
    folder = build(tmp_path, "taco_play", {
        "observation/robot_obs": observation, "observation/rgb_static": pictures(),
        "observation/rgb_gripper": pictures(),
        "action/rel_actions_world": action, "observation/natural_language_instruction": TEXT,
        "observation/structured_language_instruction": ["put_it"] * STEPS,
    })  # fmt: skip
    return folder, width


def test_taco_play_takes_the_measured_width_and_not_the_command_about_which_sources_disagree(tmp_path: Path) -> None:
    folder, width = taco(tmp_path)
    episode = read(folder, tool_from_gripper="identity")
    assert np.allclose(episode.trajectory.openness, width / 0.08, atol=1e-6)
    with pytest.raises(InvalidSpecError, match="none: sources agree"):
        read(folder, tool_from_gripper="identity", choose=("gripper=other",))


def test_inspect_shows_the_grippers_command_beside_its_width(tmp_path: Path) -> None:
    folder, _ = taco(tmp_path)
    shown = RLDSConverter(RLDSOptions()).inspect(str(folder))["gripper"]
    ((_, lines),) = shown.items()
    # The width opens; of the command only look at the signs: -1 -1 1 1 1 -1.
    assert lines["observation/robot_obs[6]"] == "▁▂▄▅▇█  0 … 0.08"
    position, turns = poses()
    opened = np.arange(STEPS) % 2 == 0
    other = build(tmp_path / "bridge", "bridge", {
        "observation/state": np.concatenate([position, turns.as_euler("xyz"), np.zeros((STEPS, 1))], axis=1),
        "observation/image": pictures(), "action/open_gripper": opened,
        "observation/natural_language_instruction": TEXT,
    })  # fmt: skip
    ((_, lines),) = RLDSConverter(RLDSOptions()).inspect(str(other))["gripper"].items()
    assert lines == {"action/open_gripper": "█▁█▁█▁  0 … 1"}


def test_sides_of_a_disagreement_are_named_and_chosen(tmp_path: Path) -> None:
    position, turns = poses()
    values = {
        "observation/end_effector_pose": np.concatenate([position, turns.as_euler("xyz")[:, ::-1]], axis=1),
        **{f"observation/{n}": pictures() for n in ("image", "image2", "hand_image")},
        "action": np.concatenate([np.zeros((STEPS, 6)), np.arange(STEPS)[:, None] % 2], axis=1),
        "language_instruction": TEXT,
    }
    folder = build(tmp_path, "utokyo_xarm_pick_and_place_converted_externally_to_rlds", values)
    with pytest.raises(AmbiguousSourceError, match=r"RoboticsDiffusionTransformer.*openvla.*--choose gripper="):
        read(folder, tool_from_gripper="identity")
    closed = values["action"][:, 6]
    for side, openness in (("closed-is-one", 1 - closed), ("open-is-one", closed)):
        episode = read(folder, tool_from_gripper="identity", choose=(f"gripper={side}",))
        assert_motion(episode, position, turns, openness)
        assert episode.provenance["choices"] == [f"gripper={side}"]
    with pytest.raises(InvalidSpecError, match="gripper=closed-is-one"):
        read(folder, tool_from_gripper="identity", choose=("gripper=other",))


def test_all_that_is_left_open_is_said_at_once_with_the_command_that_gives_it(tmp_path: Path) -> None:
    values = {
        "observation/state": np.zeros((STEPS, 21)), "observation/image": pictures(), "action": np.zeros((STEPS, 8)),
        "language_instruction": TEXT,
    }  # fmt: skip
    folder = build(tmp_path, "ucsd_kitchen_dataset_converted_externally_to_rlds", values)
    with pytest.raises(AmbiguousSourceError) as caught:
        read(folder, poses_only=False)
    error = caught.value
    for part in (
        "4 things are left to you",
        "joint values",
        "disagree about the gripper",
        "which frame of the hand",
        "image",
    ):
        assert part in error.message
    command = (error.hint or "").split(". ")[0]
    assert command.startswith(f"All at once: actionimg convert rlds {folder} OUT ")
    options = "--robot FILE --tip NAME --tool-from-gripper TRANSFORM --camera-file FILE"
    assert command.endswith(f"--choose gripper=closed-is-one|open-is-one {options}")
    # What has been given is not asked for again, and one thing alone is said as it is.
    with pytest.raises(AmbiguousSourceError, match=r"2 things.*OUT --robot FILE --tip NAME --camera-file FILE\."):
        read(folder, poses_only=False, tool_from_gripper="identity", choose=("gripper=open-is-one",))
    with pytest.raises(AmbiguousSourceError, match="joint values and no poses"):
        read(folder, tool_from_gripper="identity", choose=("gripper=open-is-one",))


def test_a_gripper_that_is_not_recorded_is_asked_for_and_one_that_is_cannot_be_given(tmp_path: Path) -> None:
    position, turns = poses()
    state = np.concatenate([np.zeros((STEPS, 14)), position, turns.as_quat()], axis=1)
    folder = build(tmp_path, "kaist_nonprehensile_converted_externally_to_rlds", {
        "observation/state": state, "observation/image": pictures(), "language_instruction": TEXT,
        "observation/partial_pointcloud": np.zeros((STEPS, 2, 3), np.float32),
    })  # fmt: skip
    with pytest.raises(AmbiguousSourceError, match=r"records no gripper.*--openness"):
        read(folder, tool_from_gripper="identity")
    assert_motion(read(folder, tool_from_gripper="identity", openness=0.25), position, turns, 0.25)
    with pytest.raises(InvalidSpecError, match="records its gripper"):
        read(taco(tmp_path / "taco")[0], tool_from_gripper="identity", openness=0.5)


def test_instructions_may_be_rows_of_code_points(tmp_path: Path) -> None:
    folder, config = own_data(tmp_path, own_entry())
    words = np.zeros((STEPS, 12), np.int32)
    words[:, :7] = [ord(c) for c in "push \u2603\u2603"]
    position, turns = poses()
    folder = build(tmp_path, "own", {
        "observation/ee_pose": np.concatenate([position, turns.as_quat()], axis=1),
        "observation/gripper": np.ones((STEPS, 1)), "observation/front_rgb": pictures(),
        "words": (w.tensor((12,), "int32"), words),
    })  # fmt: skip
    entry = own_entry(instruction={"keys": ["words"]}, calibration={"kind": "none"})
    entry["gripper"] = {**entry["gripper"], "columns": ["observation/gripper"]}
    config.write_text(yaml.safe_dump(entry))
    assert read(folder, config=config).instructions == ("push \u2603\u2603",)


def test_jaco_play_is_refused_until_the_user_chooses_what_its_numbers_are(tmp_path: Path) -> None:
    position, turns = poses()
    values = {
        "observation/end_effector_cartesian_pos": np.concatenate([position, turns.as_quat()], axis=1),
        "observation/image": pictures(), "observation/image_wrist": pictures(),
        "action/gripper_closedness_action": np.zeros((STEPS, 1)), "observation/natural_language_instruction": TEXT,
    }  # fmt: skip
    folder = build(tmp_path, "jaco_play", values)
    with pytest.raises(AmbiguousSourceError, match="--choose pose="):
        read(folder, tool_from_gripper="identity")
    episode = read(folder, tool_from_gripper="identity", choose=("pose=quaternion",))
    assert_motion(episode, position, turns, np.ones(STEPS))


@settings(deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.5, -0.05, 0.0, 0.05, 0.5, 1.0]), min_size=1, max_size=30))
def test_relative_signals_are_integrated_as_the_field_does(commands: list[float]) -> None:
    """Against the rule written as a loop: close above 0.1, open below -0.1, hold between; the first one changes it."""
    says = [0 if abs(c) <= 0.1 else (-1 if c > 0 else 1) for c in commands]
    first = next((s for s in says if s), 0)
    state = -first if first else 1
    expected = []
    for s in says:
        state = s or state
        expected.append((state + 1) / 2)
    assert motion.integrated(np.array(commands), closed=1.0, open=-1.0).tolist() == expected
    assert motion.integrated(-np.array(commands), closed=-1.0, open=1.0).tolist() == expected


# -- entries of the user's own ---------------------------------------------------------------------------------------


ABSOLUTE = {"kind": "absolute", "closed": 1, "open": 0}


def own_entry(**changes: Any) -> dict[str, Any]:
    return {**w.demo_entry(("front",)), **changes}


def own_data(tmp_path: Path, entry: Any) -> tuple[Path, Path]:
    folder, _, options = w.write_rlds_demo(tmp_path, episodes=1, frames=2, size=32, cameras=("front",))
    config = Path(options["config"])
    config.write_text(entry if isinstance(entry, str) else yaml.safe_dump(entry))
    return folder, config


def test_an_entry_of_the_users_own_is_read_from_yaml_or_json(tmp_path: Path) -> None:
    folder, config = own_data(tmp_path, own_entry())
    episode = read(folder, config=config, poses_only=False)
    as_json = config.with_suffix(".json")
    as_json.write_text(json.dumps(own_entry()))
    assert np.array_equal(read(folder, config=as_json).trajectory.position, episode.trajectory.position)


def test_a_data_set_without_entry_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder, _ = own_data(tmp_path, own_entry())
    with pytest.raises(UnsupportedSourceError, match="--config"):
        read(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fsp": 5}, "fsp"),
        ({"fps": -1}, "fps"),
        ({"views": {}}, "views"),
        ({"views": {"Front": {"image": "x"}}}, "views"),
        ({"gripper": None}, "gripper is required"),
        ({"unstated": {"gripper": "none"}}, "gripper is given and unstated"),
        ({"pose": None, "unstated": {"pose": "none"}, "joints": {"columns": ["a"]}}, "joints are given"),
        ({"gripper": {"columns": ["a"], "kind": "absolute", "closed": 1, "open": 1}}, "must differ"),
        ({"gripper": {"columns": ["a"], "kind": "relative", "closed": 1, "open": 2}}, "opposite signs"),
        ({"gripper": {"columns": ["a", "b"], "kind": "absolute", "closed": 1, "open": 2}}, "combine"),
        ({"pose": {"frame": "base"}}, "position and rotation, or matrix"),
        ({"calibration": {"kind": "droid"}}, "kind droid needs droid"),
        ({"calibration": {"kind": "features", "cameras": {"side": {"K": "a", "camera_from_world": "b"}}}}, "side"),
        ({"disagreements": {"gripper": {"why": "?", "options": {}}}}, "disagreements"),
        ({"sources": {"views": [{"url": "ftp://x"}]}}, "sources"),
    ],
)
def test_an_entry_with_a_mistake_is_refused_by_field(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    folder, config = own_data(tmp_path, own_entry(**changes))
    with pytest.raises(WrongFormatError, match=says):
        read(folder, config=config)


def test_yaml_with_tags_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    folder, config = own_data(tmp_path, f"names: !!python/object/apply:os.mkdir ['{marker}']\n")
    with pytest.raises(UnsafeFileError, match="tag"):
        read(folder, config=config)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"views": {"front": {"image": "observation/fornt_rgb"}}}, "observation/fornt_rgb"),
        ({"requires": ["observation/nothing"]}, "observation/nothing"),
        ({"instruction": {"keys": ["langauge"]}}, "langauge"),
        ({"instruction": {"keys": ["observation/ee_pose"]}}, "no text"),
        ({"gripper": {"columns": ["language_instruction"], "kind": "absolute", "closed": 1, "open": 0}}, "not numbers"),
        ({"gripper": {"columns": ["observation/ee_pose[9]"], "kind": "absolute", "closed": 1, "open": 0}}, "7 numbers"),
        (
            {"gripper": {"columns": ["observation/ee_pose"], "kind": "absolute", "closed": 1, "open": 0}},
            "another count",
        ),
        ({"views": {"front": {"image": "observation/ee_pose"}}}, "no 8-bit picture"),
    ],
)
def test_an_entry_that_does_not_fit_the_data_names_the_feature(
    tmp_path: Path, changes: dict[str, Any], says: Any
) -> None:
    changed = own_entry(**changes)
    changed["calibration"] = {"kind": "none"}
    folder, config = own_data(tmp_path, changed)
    with pytest.raises((WrongFormatError, UnsupportedSourceError), match=says):
        read(folder, config=config)


def test_the_explanation_documents_every_field_and_every_data_set() -> None:
    text = RLDSConverter.explain()
    for model in registry.DOCUMENTED:
        for name, field in model.model_fields.items():
            row = next((r for r in text.splitlines() if r.startswith(f"| `{name}` |")), None)
            assert row is not None, (model, name, field)
            assert len(row.split(" | ")[-1].strip(" |")) > 5, row
    for name, entry in SHIPPED.items():
        assert f"| `{name}` |" in text
        assert all(s.url in text for sources in entry.sources.values() for s in sources)


def test_the_examples_of_the_documentation_are_valid() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "rlds.md").read_text()
    blocks = [yaml.safe_load(b.split("```")[0]) for b in text.split("```yaml\n")[1:]]
    entry, joints, calibration, cameras = blocks
    assert RldsEntry.model_validate(entry).names == ("my_robot",)
    assert RldsEntry.model_validate({**entry, **joints}).pose.joints.robot == "panda.urdf"
    assert RldsEntry.model_validate({**entry, **calibration}).calibration.kind == "features"
    assert RldsCameraFile.model_validate(cameras).scene_key == "/episode_metadata/file_path"


def test_the_table_of_the_documentation_is_the_one_of_the_entries() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "rlds.md").read_text()
    assert registry.table() in text, "print it with converters.rlds.registry.table()"

"""The whole arm in `calibrate guess`: joints of sources, links of a robot file, where the robot stands, the camera."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sample_mapping import log_mapping
from scipy.spatial.transform import Rotation

from actionimg_data.calibrate import Recorded, arm_points, with_arm
from actionimg_data.calibrate.arm import arms, place, rigid_bodies
from actionimg_data.calibrate.solve import motion, vector_of
from actionimg_data.cli import main
from actionimg_data.converters.base import converter_class
from actionimg_data.converters.kit.robot import Robot
from actionimg_data.demo.simulators import PANDA_JOINTS, panda_urdf
from actionimg_data.errors import (
    AmbiguousSourceError,
    FrameCountError,
    InvalidTrajectoryError,
    SourceNotFoundError,
    WrongFormatError,
)
from actionimg_data.geometry import transforms
from actionimg_data.model import Camera, Episode, GripperTrajectory, JointTrack, View
from actionimg_data.model.episode import ArrayFrames

TIMES = np.arange(80) / 20
REST = np.array([0.0, 0.2, 0.0, -2.2, 0.0, 2.4, 0.8])
FINGERS = (
    '<link name="finger"/><joint name="slide" type="prismatic"><parent link="hand"/><child link="finger"/>'
    '<axis xyz="0 1 0"/></joint></robot>'
)
BASE = motion(np.array([0.02, -0.03, 0.7, -0.3, 0.1, 0.75]))
HAND = motion(np.array([0.0, 0.1, 1.2, 0.0, 0.01, 0.03]))


@pytest.fixture
def robot(tmp_path: Path) -> Robot:
    path = tmp_path / "panda.urdf"
    path.write_text(panda_urdf(meshes=False).replace("</robot>", FINGERS))
    return Robot.load(path, count=7)


def joints_over_time(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    waves = rng.uniform(0.15, 0.5, 7) * np.sin(np.outer(TIMES, rng.uniform(0.6, 1.8, 7)) + rng.uniform(0, 6, 7))
    return REST + waves


def poses_of(robot: Robot, q: np.ndarray, base: np.ndarray = BASE) -> GripperTrajectory:
    world = base @ robot.poses_of(robot.tip, q) @ HAND
    return GripperTrajectory.from_transforms(world, np.ones(len(q)), TIMES)


def test_the_links_are_those_that_given_joints_move(robot: Robot, tmp_path: Path) -> None:
    assert robot.joints == PANDA_JOINTS
    assert robot.links[robot.tip] == "link7"
    assert "finger" not in robot.links
    q = joints_over_time()[:3]
    for k, (chain, parent) in enumerate(zip(robot.chains, robot.parents, strict=True)):
        assert parent < k
        count = len(chain.names)
        np.testing.assert_array_equal(robot.poses(q)[k], chain.poses(chain.names, q[:, :count]))
    named = Robot.load(tmp_path / "panda.urdf", [*PANDA_JOINTS[::-1], "other"])
    np.testing.assert_array_equal(
        named.poses_of(named.tip, np.concatenate([q[:, ::-1], q[:, :1]], 1)), robot.poses_of(robot.tip, q)
    )


def test_robot_files_that_do_not_have_the_joints_are_refused(tmp_path: Path, robot: Robot) -> None:
    path = tmp_path / "panda.urdf"
    with pytest.raises(SourceNotFoundError):
        Robot.load(tmp_path / "none.urdf", count=7)
    with pytest.raises(WrongFormatError, match=r"no arm with so many joints.*expected one chain of 11 joints"):
        Robot.load(path, count=11)
    with pytest.raises(WrongFormatError, match="none of the joints"):
        Robot.load(path, ["shoulder"])
    (tmp_path / "scene.xml").write_text("<mujoco/>")
    with pytest.raises(WrongFormatError, match="is not a URDF"):
        Robot.load(tmp_path / "scene.xml", count=7)
    two = '<robot name="two"><link name="base"/>' + "".join(
        f'<link name="{n}"/><joint name="j{n}" type="revolute"><parent link="base"/><child link="{n}"/></joint>'
        for n in "ab"
    )
    (tmp_path / "two.urdf").write_text(two + "</robot>")
    with pytest.raises(AmbiguousSourceError, match=r"several arms.*ja \| jb"):
        Robot.load(tmp_path / "two.urdf", count=1)


@pytest.mark.parametrize(("base", "zero_deg"), [(np.eye(4), 0.0), (BASE, 0.0), (BASE, 4.0)])
def test_where_the_robot_stands_is_found_from_poses(robot: Robot, base: np.ndarray, zero_deg: float) -> None:
    """Any base, any mounting of the gripper, a joint counted from another zero: the links are where they are."""
    q = joints_over_time()
    zeros = np.radians([0, 0, 0, zero_deg, 0, 0, 0])
    poses = poses_of(robot, q + zeros, base)
    found = place(robot, [(q, poses.world_from_gripper)])
    assert found.off_m < 2e-4
    there = found.world_from_base @ robot.poses(q + found.zeros)
    away = np.linalg.norm((there - base @ robot.poses(q + zeros))[..., :3, 3], axis=-1)
    assert away.max() < 1e-3
    (moves,) = arms(robot, [(JointTrack(q), poses)])
    assert not isinstance(moves, str)
    assert moves.bodies[0].links[0] == "link7"
    np.testing.assert_array_equal(moves.bodies[0].world_from_body, poses.world_from_gripper)
    assert [b.name for b in moves.bodies[1:]] == ["link6", "link5", "link4", "link3", "link2"]
    assert ("joint4 counts from +4.0°" in moves.text) == (zero_deg != 0)


def test_joints_of_another_clock_or_robot_are_not_used(robot: Robot) -> None:
    q = joints_over_time()
    late = poses_of(robot, np.roll(q, 12, axis=0))
    (text,) = arms(robot, [(JointTrack(q), late)])
    assert isinstance(text, str)
    assert "do not agree" in text
    gaps = q.copy()
    gaps[3] = np.nan
    (text,) = arms(robot, [(JointTrack(gaps), poses_of(robot, q))])
    assert text == "joints or poses are not known in all frames"
    (text,) = arms(robot, [(JointTrack(np.full_like(q, np.nan)), poses_of(robot, q))])
    assert isinstance(text, str)
    assert "too few frames" in text
    recorded = Recorded("a", View(None, ArrayFrames(np.zeros((80, 8, 8, 3), np.uint8))), {"": poses_of(robot, q)})
    assert with_arm([recorded], robot, {})[0].arm == "not used: no joints are recorded"
    assert len(with_arm([recorded], robot, {"a": JointTrack(q)})[0].bodies) == 6


def test_links_that_keep_their_place_are_one_body_and_still_ones_none() -> None:
    world = np.tile(np.eye(4), (4, 5, 1, 1))
    world[1:, :, 0, 3] = np.linspace(0, 0.4, 5)
    world[2, :, 1, 3] = world[3, :, 1, 3] = 0.2
    world[3, :, 2, 3] = np.linspace(0, 0.2, 5)
    bodies = rigid_bodies(world, [-1, 0, 1, 2], 3, world[3], ["base", "a", "b", "hand"])
    assert [(b.links, b.moves) for b in bodies] == [(("hand",), True), (("a", "b"), True), (("base",), False)]
    some = rigid_bodies(world, [-1, 0, 1, 2], 3, world[3], list("abcd"), np.array([1, 0, 1, 1], bool))
    assert [b.name for b in some] == ["d", "a"]


def test_points_of_all_links_find_the_camera(robot: Robot) -> None:
    """Points on each link as a known camera sees them, and some of something else: nearly the camera is found."""
    q, rng = joints_over_time(1), np.random.default_rng(0)
    poses = poses_of(robot, q)
    (moves,) = arms(robot, [(JointTrack(q), poses)])
    assert not isinstance(moves, str)
    middle = poses.position.mean(0)
    truth = Camera.looking_at(middle + np.array([0.9, 0.7, 0.5]), middle - [0.1, 0, 0], 256, 256, horizontal_fov_deg=45)
    uv, owner = [], []
    for number, body in enumerate(moves.bodies):
        bone = body.bones[0, rng.integers(0, body.bones.shape[1], 12)]
        start = bone[:, 0] + rng.uniform(0, 1, (12, 1)) * (bone[:, 1] - bone[:, 0]) + rng.normal(size=(12, 3)) * 0.02
        local = np.asarray(transforms.apply(transforms.invert(body.world_from_body[0]), start))
        world = np.stack([np.asarray(transforms.apply(pose, local)) for pose in body.world_from_body], 1)
        uv += [truth.project(w)[0] + rng.normal(size=(80, 2)) * 0.1 for w in world]
        owner += [number] * 12
    uv += [rng.uniform(60, 190, 2) + np.cumsum(rng.normal(size=(80, 2)), 0) for _ in range(15)]
    inverse = np.stack([np.asarray(transforms.invert(b.world_from_body)) for b in moves.bodies], 1)
    tracks = arm_points.ArmTracks(
        np.concatenate(uv),
        np.repeat(np.arange(len(uv)), 80),
        np.tile(np.arange(80), len(uv)),
        inverse,
        np.zeros((80, len(moves.bodies), 3, 4)),
        tuple(b.bones for b in moves.bodies),
    )
    start = motion(np.array([0.03, -0.02, 0.02, 0.02, -0.03, 0.03])) @ truth.world_from_camera
    state = np.append(vector_of(truth.world_from_camera), np.log(truth.K[0, 0]))
    body, close = arm_points.owned(tracks, truth.K, state, 0.11)
    mine = close[: len(owner)]
    assert mine.mean() > 0.9
    assert (body[: len(owner)] == owner)[mine].mean() > 0.6
    found = arm_points.fit([tracks], truth.K, start, False)
    assert found is not None
    final = arm_points.fit([tracks], truth.K, found.world_from_camera, False, final=True)
    assert final is not None
    assert final.fitting > 0.8
    seen = Camera(truth.K, final.world_from_camera, 256, 256).project(poses.position)[0]
    assert np.linalg.norm(seen - truth.project(poses.position)[0], axis=1).mean() < 0.5
    assert arm_points.fit([replace(tracks, uv=tracks.uv + 900)], truth.K, start, False) is None


def test_an_episode_carries_its_joints_where_its_frames_go() -> None:
    poses = GripperTrajectory.from_transforms(np.tile(np.eye(4), (6, 1, 1)), np.ones(6), np.arange(6.0))
    view = View(None, ArrayFrames(np.zeros((6, 8, 8, 3), np.uint8)))
    track = JointTrack(np.arange(12.0).reshape(6, 2), ("a", "b"))
    episode = Episode("e", {"v": view}, poses, fps=1, instructions=("x",), joints=track)
    some = episode.select(range(1, 6, 2)).with_views(["v"]).joints
    assert some is not None
    assert some.names == ("a", "b")
    np.testing.assert_array_equal(some.values, track.values[1::2])
    with pytest.raises(FrameCountError, match="joints and poses differ in number"):
        Episode("e", {"v": view}, poses, fps=1, instructions=("x",), joints=track[:3])
    with pytest.raises(InvalidTrajectoryError, match="other names than columns"):
        track.renamed(["a", "a"])
    with pytest.raises(InvalidTrajectoryError, match="not a table"):
        JointTrack(np.zeros(3))


def test_raw_logs_have_joints_beside_poses_where_the_mapping_says_so(tmp_path: Path) -> None:
    from actionimg_data.video import encode_bytes, rgb_encoding

    log = tmp_path / "logs" / "one"
    log.mkdir(parents=True)
    t = np.arange(20) / 20
    rows = np.stack([t, t, 0 * t, 0 * t, 0 * t, 0 * t, 0 * t, 1 + 0 * t, t > 0.5], 1)
    np.savetxt(log / "poses.csv", rows, delimiter=",", header="t,x,y,z,qx,qy,qz,qw,open", comments="")
    late = np.stack([t + 0.025, 10 * t, 90 + 0 * t], 1)
    np.savetxt(log / "joints.csv", late, delimiter=",", header="t,a,b", comments="")
    pictures = np.zeros((20, 32, 32, 3), np.uint8)
    (log / "front.mp4").write_bytes(encode_bytes(pictures, rgb_encoding(), 20.0, 32, 32))
    joints = {"columns": ["a", "b"], "names": ["j2", "j1"], "unit": "deg", "file": "joints.csv"}
    (tmp_path / "map.json").write_text(json.dumps(log_mapping(arm_joints=joints)))
    cls = converter_class("folder")
    converter = cls(cls.Options.parse({"mapping": str(tmp_path / "map.json")}, "folder"))
    (ref,) = converter.discover(str(tmp_path / "logs"))
    track = converter.read(ref).joints
    assert track is not None
    assert track.names == ("j2", "j1")
    np.testing.assert_allclose(np.degrees(track.values[5:, 0]), 10 * (t[5 : 5 + len(track) - 5] - 0.025), atol=1e-9)
    np.testing.assert_allclose(np.degrees(track.values[:, 1]), 90)


@pytest.mark.realdata
def test_the_whole_arm_finds_a_camera_of_a_small_demo(sample_data: Path, tmp_path: Path) -> None:
    """RLBench at 128 pixels: joints, and a URDF after the published table whose joint 4 has another zero."""
    (tmp_path / "panda.urdf").write_text(panda_urdf(meshes=False))
    out = tmp_path / "cameras.json"
    words = ["--episode", "0", "--views", "front", "--urdf", str(tmp_path / "panda.urdf"), "--fov", "40", "--json"]
    result = CliRunner().invoke(main, ["calibrate", "guess", str(sample_data / "rlbench"), "--out", str(out), *words])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["cameras"][0]
    assert "6 moving links" in found["arm"]
    assert "joint4 counts from +4." in found["arm"]
    assert "points of the arm" in found["reason"]
    converter = converter_class("rlbench")()
    episode = converter.read(next(iter(converter.discover(str(sample_data / "rlbench")))))
    camera = episode.views["front"].camera
    assert camera is not None
    entry = json.loads(out.read_text())["cameras"]["front"]
    there = Camera(np.array(entry["K"]), np.array(entry["world_from_camera"]), 128, 128)
    true = Camera(np.asarray(camera.K[0]), np.asarray(camera.world_from_camera[0]), 128, 128)
    points = episode.trajectory.position[::5]
    assert np.linalg.norm(there.project(points)[0] - true.project(points)[0], axis=1).mean() < 3
    assert Rotation.from_matrix(there.world_from_camera[:3, :3].T @ true.world_from_camera[:3, :3]).magnitude() < 0.1

"""Forward kinematics: one chain for URDF and MJCF, held against MuJoCo and yourdfpy."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from actionimg_data.converters.kit import mjcf
from actionimg_data.converters.kit.kinematics import Chain, scene_chain
from actionimg_data.demo.simulators import PANDA_JOINTS, panda_scene, panda_urdf, two_arm_scene
from actionimg_data.errors import (
    AmbiguousSourceError,
    BadFileError,
    MissingExtraError,
    SourceNotFoundError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
)

mujoco = pytest.importorskip("mujoco")
VX300S = "teleop/aloha_vx300s"


def sites_of(model: Any, site: str, names: tuple[str, ...], q: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """MuJoCo's own poses ``(N, 4, 4)`` of a site, or of a body where there is no such site."""
    data = mujoco.MjData(model)
    place = [model.jnt_qposadr[mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, n)] for n in names]
    index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, site)
    body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, site)
    out = np.tile(np.eye(4), (len(q), 1, 1))
    for i, row in enumerate(q):
        data.qpos[place] = row
        mujoco.mj_kinematics(model, data)
        out[i, :3, 3] = data.site_xpos[index] if index >= 0 else data.xpos[body]
        out[i, :3, :3] = (data.site_xmat[index] if index >= 0 else data.xmat[body]).reshape(3, 3)
    return out


def angles(count: int, joints: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).uniform(-np.pi, np.pi, (count, joints))


@pytest.mark.realdata
@pytest.mark.parametrize("arm", ["left", "right"])
@pytest.mark.parametrize("scene", ["bimanual_viperx_transfer_cube.xml", "bimanual_viperx_end_effector_insertion.xml"])
def test_vx300s_agrees_with_mujocos_own_sites(sample_data: Path, scene: str, arm: str) -> None:
    path = sample_data / VX300S / scene
    chain = Chain.load(path, None, f"cali_{arm}_site1")
    joints = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
    assert chain.names == tuple(f"vx300s_{arm}/{name}" for name in joints)
    q = angles(300, 6)
    expected = sites_of(mujoco.MjModel.from_xml_path(str(path)), f"cali_{arm}_site1", chain.names, q)
    assert np.abs(chain.poses(chain.names, q) - expected).max() <= 1e-9


@pytest.mark.realdata
def test_meshes_are_not_needed(sample_data: Path, tmp_path: Path) -> None:
    """The XML files alone, as most users have them, give the same poses as with their meshes."""
    for file in (sample_data / VX300S).glob("*.xml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    name, site = "bimanual_viperx_transfer_cube.xml", "cali_left_site1"
    with pytest.raises(ValueError, match="stl"):
        mujoco.MjModel.from_xml_path(str(tmp_path / name))
    chain, whole = Chain.load(tmp_path / name, None, site), Chain.load(sample_data / VX300S / name, None, site)
    q = angles(5, 6)
    assert np.array_equal(chain.poses(chain.names, q), whole.poses(whole.names, q))


def test_a_urdf_arm_agrees_with_yourdfpy_and_mujoco(tmp_path: Path) -> None:
    yourdfpy = pytest.importorskip("yourdfpy")
    path = tmp_path / "arm.urdf"
    path.write_text(panda_urdf())
    chain = Chain.load(path, "base", "grip_site")
    q = angles(50, 7)
    ours = chain.poses(chain.names, q)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        robot = yourdfpy.URDF.load(str(path), build_scene_graph=True, load_meshes=False, mesh_dir="")
    for row, pose in zip(q, ours, strict=True):
        robot.update_cfg(dict(zip(chain.names, row, strict=True)))
        assert np.abs(robot.get_transform("grip_site", "base") - pose).max() <= 1e-9
    # MuJoCo reads URDF itself, and joins fixed links: the last link that moves is compared.
    inertia = '<inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/>'
    bare = panda_urdf(meshes=False).replace("</link>", f'<inertial><mass value="1"/>{inertia}</inertial></link>')
    (tmp_path / "bare.urdf").write_text(bare)
    theirs = sites_of(mujoco.MjModel.from_xml_path(str(tmp_path / "bare.urdf")), "link7", chain.names, q)
    last = Chain.load(path, "base", "link7")
    assert np.abs(last.poses(last.names, q) - theirs).max() <= 1e-9


def test_urdf_and_mjcf_of_one_arm_are_one(tmp_path: Path) -> None:
    (tmp_path / "a.urdf").write_text(panda_urdf())
    (tmp_path / "a.xml").write_text(panda_scene(np.eye(4)))
    urdf = Chain.load(tmp_path / "a.urdf", None, "grip_site")
    scene = Chain.load(tmp_path / "a.xml", "world", "gripper0_grip_site")
    assert [n.removeprefix("robot0_") for n in scene.names] == list(urdf.names) == list(PANDA_JOINTS)
    q = angles(20, 7)
    assert np.abs(urdf.poses(urdf.names, q) - scene.poses(scene.names, q)).max() <= 1e-9
    in_degrees = urdf.poses(urdf.names[::-1], np.degrees(q[:, ::-1]), np.pi / 180)
    assert np.abs(in_degrees - urdf.poses(urdf.names, q)).max() <= 1e-9


SCENE = """<mujoco>
  <compiler angle="degree" eulerseq="zyx"/>
  <default><joint axis="0 1 0"/><default class="slider"><joint type="slide" axis="1 0 0" ref="0.1"/></default></default>
  <worldbody>
    <frame pos="0 0 0.2" euler="30 0 0">
      <body name="a" pos="0.1 0 0" axisangle="0 0 1 40">
        <joint name="j1" pos="0.02 0.03 0.04" ref="25"/>
        <joint name="j2" axis="0 0 1" pos="-0.01 0 0"/>
        <geom size="0.1"/>
        <body name="b" childclass="slider" pos="0.3 0 0" euler="10 20 30">
          <joint name="j3"/>
          <geom size="0.1" type="sphere"/>
          <site name="tip" pos="0 0 0.1" xyaxes="0 1 0 -1 0 0"/>
          <site name="b" pos="0 0 0.1"/>
        </body>
      </body>
    </frame>
  </worldbody>
</mujoco>"""


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_anchors_references_defaults_and_frames_are_mujocos(seed: int) -> None:
    scene = mjcf.Scene.from_text(SCENE, "test")
    chain = scene_chain(scene, None, "tip")
    assert chain.names == ("j1", "j2", "j3")
    q = angles(4, 3, seed)
    expected = sites_of(mujoco.MjModel.from_xml_string(SCENE), "tip", chain.names, q)
    assert np.abs(chain.poses(chain.names, q) - expected).max() <= 1e-9
    below = scene_chain(scene, "a", "tip")
    assert below.names == ("j3",)
    parent = scene_chain(scene, None, "body:a")
    together = parent.poses(parent.names, q[:, :2]) @ below.poses(below.names, q[:, 2:])
    assert np.abs(together - expected).max() <= 1e-9


@pytest.mark.parametrize("axis", ["0 0 1", "0 0 -1", "1e-7 0 1", "0 -1e-7 -1", "1 0 0", "0 -2 0", "0.3 -0.4 0.5"])
@pytest.mark.parametrize("kind", ["revolute", "prismatic"])
def test_any_axis_is_turned_about_and_slid_along(tmp_path: Path, axis: str, kind: str) -> None:
    joint = f'type="{kind}"><parent link="a"/><child link="b"/><axis xyz="{axis}"/></joint>'
    links = '<link name="a"/><link name="b"/><link name="tip"/>'
    tip = '<joint name="t" type="fixed"><parent link="b"/><child link="tip"/><origin xyz="0.1 0.2 0.3"/></joint>'
    (tmp_path / "j.urdf").write_text(f'<robot name="r">{links}<joint name="j" {joint}{tip}</robot>')
    pose = Chain.load(tmp_path / "j.urdf", None, "tip").poses(["j"], np.array([[0.7], [-2.0]]))
    unit = np.array([float(v) for v in axis.split()])
    unit /= np.linalg.norm(unit)
    for value, found in zip((0.7, -2.0), pose, strict=True):
        turn = Rotation.from_rotvec(value * unit).as_matrix() if kind == "revolute" else np.eye(3)
        place = turn @ [0.1, 0.2, 0.3] + (value * unit if kind == "prismatic" else 0)
        assert np.allclose(found[:3, :3], turn, rtol=0, atol=1e-14)
        assert np.allclose(found[:3, 3], place, rtol=0, atol=1e-14)


def test_a_joint_that_mimics_another_follows_it(tmp_path: Path) -> None:
    text = panda_urdf().replace(
        '<limit lower="-3" upper="3" effort="1" velocity="1"/></joint>\n<link name="link3">',
        '<mimic joint="joint1" multiplier="-2" offset="0.25"/></joint>\n<link name="link3">',
    )
    (tmp_path / "m.urdf").write_text(text)
    (tmp_path / "p.urdf").write_text(panda_urdf())
    mimic, plain = Chain.load(tmp_path / "m.urdf", None, "hand"), Chain.load(tmp_path / "p.urdf", None, "hand")
    assert mimic.names == tuple(n for n in PANDA_JOINTS if n != "joint2")
    q = angles(3, 6)
    whole = np.insert(q, 1, -2 * q[:, 0] + 0.25, axis=1)
    assert np.array_equal(mimic.poses(mimic.names, q), plain.poses(plain.names, whole))


def test_rows_that_are_not_finite_stay_so(tmp_path: Path) -> None:
    (tmp_path / "a.urdf").write_text(panda_urdf())
    chain = Chain.load(tmp_path / "a.urdf", None, "hand")
    q = angles(3, 7)
    q[1, 2] = np.nan
    poses = chain.poses(chain.names, q)
    assert np.isnan(poses[1, :3]).any()
    assert np.isfinite(poses[[0, 2]]).all()


def copies_of(count: str, depth: int) -> str:
    """A scene that repeats a site so often, in so many levels."""
    nested = f'<replicate count="{count}">' * depth + "<site/>" + "</replicate>" * depth
    return SCENE.replace("<body", nested + "<body", 1)


@pytest.mark.parametrize(
    ("text", "base", "tip", "error", "message"),
    [
        (SCENE, None, "palm", WrongFormatError, r"no such site or body.*site: tip, b; body: world, a, b.*palm"),
        (SCENE, None, "b", AmbiguousSourceError, r"names a site and a body.*site:b \| body:b"),
        (SCENE, "palm", "tip", WrongFormatError, "base: has no such"),
        (SCENE, "tip", "body:a", WrongFormatError, "frames are not connected"),
        (SCENE.replace('name="j2" axis="0 0 1"', 'name="j2" type="ball"'), None, "tip", UnsupportedSourceError, "j2"),
        (SCENE.replace("<mujoco>", "<mujoco><!DOCTYPE a>"), None, "tip", UnsafeFileError, "declarations"),
        (SCENE[:-20], None, "tip", BadFileError, "is not XML"),
        (SCENE.replace('size="0.1"/>', 'size="0.1"/><attach model="m" body="b"/>', 1), None, "tip",
         UnsupportedSourceError, "mj_saveLastXML"),
        (SCENE.replace('angle="degree"', 'coordinate="global"'), None, "tip", UnsupportedSourceError, "global"),
        (SCENE.replace('pos="0.1 0 0"', 'pos="0.1 zero 0"'), None, "tip", BadFileError, "MuJoCo cannot compile"),
        ("<mujoco><include file='gone.xml'/></mujoco>", None, "tip", SourceNotFoundError, "gone.xml"),
        ("<mujoco><include file='r.xml'/></mujoco>", None, "tip", BadFileError, "include each other"),
        ("<mujoco><include file='r.xml'/><include file='r.xml'/></mujoco>", None, "tip", BadFileError, "200 includes"),
        ("<mujoco><worldbody>" + "<body>" * 300 + "</body>" * 300 + "</worldbody></mujoco>", None, "tip",
         UnsafeFileError, "nests too deeply"),
        ("<mujoco><default>" + "<default>" * 300 + "</default>" * 300 + "</default><worldbody/></mujoco>", None, "tip",
         UnsafeFileError, "nests too deeply"),
        (copies_of("200", 2), None, "tip", UnsafeFileError, "copies too often"),
        (copies_of("-1", 1), None, "tip", UnsafeFileError, "copies too often"),
        ("<mujoco/>", None, "tip", WrongFormatError, "has no bodies"),
        (panda_urdf(), None, "palm", WrongFormatError, r"expected base \| grip_site \| hand \| link1.*found palm"),
        (panda_urdf(), "palm", "hand", WrongFormatError, "base: has no such link"),
        (panda_urdf(), "hand", "link3", WrongFormatError, "not connected"),
    ],
)  # fmt: skip
def test_robot_files_that_cannot_be_used_say_why(
    tmp_path: Path, text: str, base: str | None, tip: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "r.xml").write_text(text)
    with pytest.raises(error, match=message):
        Chain.load(tmp_path / "r.xml", base, tip)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("j1", "j2", "gripper"),
            "has no joint gripper between base and tip.*expected j1, j2, j3, found j1, j2, gripper",
        ),
        (("j1", "j2"), "needs the joint j3"),
        (("j1", "j2", "j3", "j1"), "given twice"),
    ],
)
def test_joints_that_are_not_the_chains_are_named(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    (tmp_path / "r.xml").write_text(SCENE)
    with pytest.raises(WrongFormatError, match=message):
        Chain.load(tmp_path / "r.xml", None, "tip").poses(names, np.zeros((1, len(names))))


def test_without_mujoco_mjcf_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "r.xml").write_text(SCENE)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingExtraError, match=r"pip install .mujoco>="):
        Chain.load(tmp_path / "r.xml", None, "tip")
    (tmp_path / "r.urdf").write_text(panda_urdf())
    assert len(Chain.load(tmp_path / "r.urdf", None, "hand").names) == 7


def test_files_that_are_included_count_for_a_robots_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "main.xml").write_text("<mujoco><include file='parts/arm.xml'/><include file='gone.xml'/></mujoco>")
    (tmp_path / "parts" / "arm.xml").write_text("<mujocoinclude><include file='more.xml'/></mujocoinclude>")
    (tmp_path / "more.xml").write_text("<mujocoinclude/>")
    assert [p.name for p in mjcf.robot_files(tmp_path / "main.xml")] == ["main.xml", "arm.xml", "more.xml"]


def test_a_text_from_a_log_cannot_read_other_files(tmp_path: Path) -> None:
    with pytest.raises(UnsafeFileError, match="includes another file"):
        mjcf.Scene.from_text("<mujoco><include file='/etc/hostname'/><worldbody/></mujoco>", "log")


@pytest.mark.parametrize("read", [mjcf.cameras_in, mjcf.Scene.from_text])
def test_a_text_that_is_no_utf8_is_refused(read: Any) -> None:
    """HDF5 hands bytes that are no UTF-8 over as surrogates."""
    with pytest.raises(BadFileError, match="is not XML"):
        read("<mujoco>\udce8<worldbody/></mujoco>", "log")


def test_cameras_are_where_mujoco_puts_them() -> None:
    """Position, axes and field of view against MuJoCo's own, one camera fixed and one aimed at a body that moves."""
    text = SCENE.replace(
        "<worldbody>",
        '<worldbody><camera name="fixed" pos="1 2 3" euler="10 20 30" fovy="40"/>'
        '<camera name="aimed" pos="1 0 1" mode="targetbody" target="b"/><camera name="mass" mode="trackcom"/>',
    )
    scene = mjcf.Scene.from_text(text, "test")
    fixed, aimed = (scene.find(n, ("camera",)) for n in ("fixed", "aimed"))
    assert scene.carriers(*fixed) == []
    assert scene.carriers(*aimed) != []
    assert mjcf.cameras_in(text, "test") == {"fixed": False, "aimed": True, "mass": True}
    q = angles(3, 3)
    found = scene.poses([fixed, aimed], q)
    model = mujoco.MjModel.from_xml_string(text)
    data = mujoco.MjData(model)
    for t, row in enumerate(q):
        data.qpos[:] = row
        mujoco.mj_forward(model, data)
        for kind, index in (fixed, aimed):
            pose = found[kind, index][t]
            # OpenCV's y and z are MuJoCo's turned round.
            assert np.allclose(pose[:3, :3], data.cam_xmat[index].reshape(3, 3) * [1, -1, -1], atol=1e-12)
            assert np.allclose(pose[:3, 3], data.cam_xpos[index], atol=1e-12)
    K = scene.camera_K(fixed[1], 640, 480)
    assert np.allclose(K, [[240 / np.tan(np.radians(20)), 0, 320], [0, 240 / np.tan(np.radians(20)), 240], [0, 0, 1]])
    with pytest.raises(UnsupportedSourceError, match="centre of mass"):
        scene.camera_K(scene.find("mass", ("camera",))[1], 64, 64)


def test_two_arms_in_one_file(tmp_path: Path) -> None:
    left, right = np.eye(4), np.eye(4)
    left[:3, 3], right[:3, 3] = [0, 0.5, 0], [0, -0.5, 0]
    (tmp_path / "two.xml").write_text(two_arm_scene(left, right))
    q = angles(4, 7)
    poses = []
    for i in (0, 1):
        chain = Chain.load(tmp_path / "two.xml", None, f"gripper{i}_grip_site")
        assert chain.names[0] == f"robot{i}_joint1"
        poses.append(chain.poses(chain.names, q))
    assert np.allclose(poses[0][:, :3, 3] - poses[1][:, :3, 3], [0, 1, 0], atol=1e-12)
    assert np.allclose(poses[0][:, :3, :3], poses[1][:, :3, :3], atol=1e-12)


def test_nothing_is_left_behind_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes MUJOCO_LOG.TXT where it warns."""
    monkeypatch.chdir(tmp_path)
    mjcf.Scene.from_text(panda_scene(np.eye(4)), "test")
    assert os.listdir(tmp_path) == []

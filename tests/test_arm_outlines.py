"""Outlines of an arm's links: their meshes from a robot file, what hides what, and the camera that they tell."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import nearest_depth
from scipy.spatial.transform import Rotation

from actionimg_data.calibrate import GripperShape, Recorded, with_arm
from actionimg_data.calibrate import guess as guess_module
from actionimg_data.calibrate.adjust import Adjusted
from actionimg_data.calibrate.arm import links_of
from actionimg_data.calibrate.evidence import Evidence, gather
from actionimg_data.calibrate.outline import BESIDE_PX, GAP_M, Solid, unhidden
from actionimg_data.calibrate.sharpen import sharpen
from actionimg_data.calibrate.solve import motion, vector_of
from actionimg_data.converters.kit.robot import Robot
from actionimg_data.errors import ActionImgError
from actionimg_data.geometry import transforms
from actionimg_data.model import Camera, GripperTrajectory, JointTrack, View
from actionimg_data.model.episode import ArrayFrames
from actionimg_data.raster.gripper import link_meshes, load_mesh

SHAPE = GripperShape.parametric(0.003)
SIZE, FRAMES = 128, 24
REACH = (0.12, 0.3, 0.25, 0.06)
"""Metres from each joint to the next, the last to the fingertips' flange."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of an arm of three joints: a box for its base, three cylinders and a flange whose mesh is missing."""
    package = tmp_path_factory.mktemp("robots") / "toy"
    for name in ("meshes", "urdf"):
        (package / name).mkdir(parents=True)
    trimesh.creation.box((0.16, 0.16, 0.1)).export(package / "meshes" / "base.stl")
    parts, above = ['<robot name="toy"><link name="base">' + _mesh("base.stl") + "</link>"], "base"
    for k, (before, length) in enumerate(itertools.pairwise(REACH)):
        bar = trimesh.creation.cylinder(0.045 - 0.006 * k, length)
        bar.apply_translation([0, 0, length / 2])
        bar.export(package / "meshes" / f"bar{k}.stl")
        axis = ("0 0 1", "0 1 0", "0 1 0")[k]
        # The first bar's visual mesh cannot be read, its collision mesh can.
        mesh = _mesh("none.stl") + _mesh("bar0.stl", "collision") if k == 0 else _mesh(f"bar{k}.stl")
        parts.append(
            f'<link name="bar{k}">{mesh}</link><joint name="j{k}" type="revolute"><parent link="{above}"/>'
            f'<child link="bar{k}"/><origin xyz="0 0 {before}"/><axis xyz="{axis}"/></joint>'
        )
        above = f"bar{k}"
    parts.append(
        f'<link name="flange">{_mesh("flange.stl")}</link><joint name="end" type="fixed"><parent link="{above}"/>'
        f'<child link="flange"/><origin xyz="0 0 {REACH[-1]}"/><axis xyz="0 0 0"/></joint></robot>'
    )
    (package / "urdf" / "toy.urdf").write_text("".join(parts))
    return package


def _mesh(name: str, kind: str = "visual") -> str:
    return f'<{kind}><geometry><mesh filename="package://toy/meshes/{name}"/></geometry></{kind}>'


@pytest.fixture(scope="module")
def moving(folder: Path) -> tuple[Recorded, Camera]:
    """Pictures of the arm with a gripper, drawn point by point, and the camera that sees them."""
    robot = Robot.load(folder / "urdf" / "toy.urdf", count=3)
    t = np.arange(FRAMES) / 10
    q = np.stack([0.7 * np.sin(2 * t), 0.5 + 0.3 * np.sin(3 * t), 1.1 + 0.4 * np.cos(2.4 * t)], 1)
    hand = np.asarray(transforms.make_transform(np.eye(3), np.array([0, 0, 0.15])))
    poses = GripperTrajectory.from_transforms(robot.poses_of(robot.tip, q) @ hand, 0.5 + 0.5 * np.cos(t), t)
    middle = poses.position.mean(0) - [0.1, 0, 0.1]
    camera = Camera.looking_at(middle + np.array([0.8, 0.9, 0.4]), middle, SIZE, SIZE, horizontal_fov_deg=50)
    blank = Recorded("toy", View(None, ArrayFrames(np.zeros((FRAMES, 8, 8, 3), np.uint8))), {"": poses})
    (known,) = with_arm([blank], robot, {"toy": JointTrack(q)})
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 110, (SIZE // 8, SIZE // 8, 3)).repeat(8, 0).repeat(8, 1)
    pictures = np.stack([_drawn(known, camera, ground, f) for f in range(FRAMES)])
    return replace(known, view=View(None, ArrayFrames(pictures))), camera


def _drawn(recorded: Recorded, camera: Camera, ground: np.ndarray, frame: int) -> np.ndarray:
    """Each quarter of a pixel has the colour of the nearest body."""
    sides = (np.arange(2 * SIZE) + 0.5) / 2
    uv = np.stack(np.meshgrid(sides, sides), -1).reshape(-1, 2)
    poses = recorded.arms[""]
    bodies = [(k.solid, k.world_from_link[frame]) for k in links_of((*recorded.bodies, *recorded.still))]
    bodies.append((SHAPE.hand, poses.world_from_gripper[frame]))
    inverse = np.asarray(transforms.invert(camera.world_from_camera))
    depths = []
    for solid, pose in bodies:
        drawn = solid.drawn(inverse @ pose, camera.K, float(poses.openness[frame]))
        assert drawn is not None
        depths.append(drawn.depth(uv))
    nearest = np.argmin(depths, axis=0)
    colours = np.stack([160 + 12 * np.arange(len(bodies))] * 3, 1)
    fine = np.where(np.isinf(np.min(depths, axis=0))[:, None], ground.repeat(2, 0).repeat(2, 1).reshape(-1, 3), 0)
    fine = np.where(np.isinf(np.min(depths, axis=0))[:, None], fine, colours[nearest])
    return fine.reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3)).astype(np.uint8)


def away_px(camera: Camera, pose: np.ndarray, recorded: Recorded) -> float:
    points = recorded.arms[""].position
    there = Camera(camera.K, pose, SIZE, SIZE).project(points)[0]
    return float(np.linalg.norm(there - camera.project(points)[0], axis=1).mean())


def test_meshes_are_found_in_the_package_and_what_cannot_be_read_is_said(folder: Path) -> None:
    path = folder / "urdf" / "toy.urdf"
    found = link_meshes(path, ("base", "bar0", "bar1", "flange"))
    assert list(found) == ["base", "bar0", "bar1", "flange"]
    for name, length in (("bar0", 0.3), ("bar1", 0.25)):
        mesh = found[name]
        assert isinstance(mesh, trimesh.Trimesh)
        np.testing.assert_allclose(mesh.bounds[:, 2], [0, length], atol=1e-6)
    assert isinstance(found["flange"], ActionImgError)
    assert "does not exist" in str(found["flange"])


def test_a_mesh_with_a_material_and_no_texture_has_its_colour(tmp_path: Path) -> None:
    """As meshes of arms are published: COLLADA, without texture coordinates."""
    box = trimesh.creation.box((0.1, 0.1, 0.1))
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=[200, 30, 40, 255])
    box.visual = trimesh.visual.TextureVisuals(material=material)
    box.export(tmp_path / "box.dae")
    mesh = load_mesh(tmp_path / "box.dae")
    assert len(mesh.faces) == 12
    np.testing.assert_allclose(mesh.visual.face_colors[:, :3], [[200, 30, 40]] * 12, atol=1)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_hidden_and_inner_outlines_are_those_of_a_slow_depth_buffer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    K = np.array([[200.0, 0, 64], [0, 200, 64], [0, 0, 1]])
    shapes, poses = [], []
    for _ in range(3):
        box = trimesh.creation.box(rng.uniform(0.08, 0.3, 3))
        shapes.append(Solid(box.vertices, box.faces))
        turn = Rotation.random(random_state=rng).as_matrix()
        poses.append(
            np.asarray(transforms.make_transform(turn, np.append(rng.normal(0, 0.08, 2), rng.uniform(0.8, 1.6))))
        )
    drawn = [s.drawn(p, K) for s, p in zip(shapes, poses, strict=True)]
    seen = [d for d in drawn if d is not None]
    for k, (shape, one) in enumerate(zip(shapes, seen, strict=True)):
        outline = shape.outlined(one, 60)
        assert outline is not None
        others = [d for d in seen if d is not one]
        kept = unhidden(outline, one, others)
        triangles = np.concatenate([d.points[d.faces] for d in others])
        depth = np.asarray(transforms.apply(poses[k], outline.local))[:, 2]
        inside, at, outside = (
            nearest_depth(triangles, K, outline.uv + side * outline.normal) for side in (-BESIDE_PX, 0.0, BESIDE_PX)
        )
        expected = (np.minimum(inside, at) > depth - GAP_M) & (outside > depth + GAP_M)
        # At the other bodies' own edges the drawn ones are as wide as a sample.
        assert (kept != expected).mean() < 0.1


def test_links_outlines_tell_the_camera_and_a_wrong_one_is_seen_not_to_fit(moving: tuple[Recorded, Camera]) -> None:
    recorded, camera = moving
    assert recorded.arm.endswith("outlines of 2 links; no outline of flange: mesh file of the URDF does not exist")
    assert {b.links for b in recorded.still} == {("base",), ("bar0",)}

    def ended(change: list[float], links: bool) -> tuple[float, float, float | None, Evidence]:
        """Pixels and metres away, fit of the links, and what was seen."""
        pose = camera.world_from_camera @ motion(np.array(change))
        state = np.append(vector_of(pose), np.log(camera.K[0, 0]))
        told = Adjusted(state, 0.0, 0.01, np.diag([0.05**-2] * 3 + [0.05**-2] * 3), 0.3)
        begun = Camera(camera.K, pose, SIZE, SIZE)
        known = links_of((*recorded.bodies, *recorded.still)) if links else ()
        gathered = gather(recorded.view.frames, recorded.arms, begun, pose, SHAPE.hand, FRAMES, links=known)
        found = sharpen([gathered], camera.K, told, guess_module.PRIORS, False, SIZE)
        metres = float(np.linalg.norm(found.pose[:3, 3] - camera.world_from_camera[:3, 3]))
        return away_px(camera, found.pose, recorded), metres, found.links, gathered

    away, metres, fit, gathered = ended([0.01, -0.012, 0.01, 0.02, -0.01, 0.03], links=True)
    assert away < 0.3
    assert fit is not None
    assert fit > guess_module.MIN_LINKS
    _, alone, none, _ = ended([0.01, -0.012, 0.01, 0.02, -0.01, 0.03], links=False)
    assert none is None
    assert metres < alone
    # No outline runs along where bars meet, or where the gripper is before them.
    sight = gathered.sights[0]
    inverse = np.asarray(transforms.invert(camera.world_from_camera))
    seen = gathered.seen(sight, inverse)
    assert [s.hand for s in seen] == [True, False, False]
    whole = [k.solid.outline(inverse @ k.world_from_link[sight.index], camera.K) for k in gathered.links if k.moves]
    assert all(w is not None and len(s.outline) < len(w) for s, w in zip(seen[1:], whole, strict=True))
    wrong, _, fit, _ = ended([0.12, -0.1, 0.1, 0.1, -0.1, 0.1], links=True)
    assert wrong > 3
    assert fit is not None
    assert fit < guess_module.MIN_LINKS

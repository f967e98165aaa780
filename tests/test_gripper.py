from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_program

from actionimg_data import errors
from actionimg_data.raster.gripper import GripperModel, gripper_model, load_mesh, parallel_jaw_gripper

URDF = """<?xml version="1.0"?>
<robot name="r">
  <link name="base"/>
  <link name="hand">
    <visual name="shell">
      <origin xyz="0 0 0.1" rpy="0 0 1.5707963267948966"/>
      <geometry><mesh filename="{mesh}" scale="0.001 0.001 0.001"/></geometry>
    </visual>
    <visual><geometry><sphere radius="0.02"/></geometry></visual>
    <collision><geometry><box size="9 9 9"/></geometry></collision>
  </link>
  <link name="finger"><collision><geometry><box size="0.02 0.01 0.05"/></geometry></collision></link>
</robot>
"""


def write_urdf(folder: Path, mesh: str = "meshes/hand.stl") -> Path:
    (folder / "meshes").mkdir(parents=True)
    trimesh.creation.box((40.0, 100.0, 60.0)).export(folder / "meshes" / "hand.stl")
    path = folder / "robot.urdf"
    path.write_text(URDF.format(mesh=mesh))
    return path


# ---- the parametric gripper


@settings(deadline=None, max_examples=25)
@given(
    openness=st.floats(0, 1),
    width=st.floats(0.01, 0.3),
    length=st.floats(0.02, 0.2),
    finger=st.floats(0.005, 0.05),
)
def test_gripper_is_watertight_and_opens_by_its_width(openness, width, length, finger):
    mesh = parallel_jaw_gripper(openness, max_width=width, finger_length=length, finger_width=finger)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert all(part.volume > 0 for part in mesh.split())
    assert len(mesh.faces) <= 320
    assert mesh.bounds[1][2] == pytest.approx(0, abs=1e-12)
    pads = {}
    for name in ("pad_left", "pad_right"):
        part = mesh.metadata["part_names"].index(name) + 1
        used = np.unique(mesh.faces[mesh.face_attributes["part_id"] == part])
        pads[name] = mesh.vertices[used]
    gap = pads["pad_left"][:, 1].min() - pads["pad_right"][:, 1].max()
    assert gap == pytest.approx(openness * width, abs=1e-12)
    assert pads["pad_left"][:, 1].min() == pytest.approx(-pads["pad_right"][:, 1].max())


def test_gripper_is_unchanged_by_a_half_turn_about_the_approach():
    mesh = parallel_jaw_gripper(0.4)
    turned = mesh.vertices * [-1, -1, 1]
    distance = np.linalg.norm(turned[:, None] - mesh.vertices[None], axis=-1).min(1)
    assert distance.max() < 1e-12


def test_posed_takes_a_batch_and_agrees_with_the_mesh_at_each_openness():
    model = gripper_model()
    openness = np.array([[0.0, 0.25], [0.5, 1.0]])
    posed = model.posed(openness)
    assert posed.shape == (2, 2, len(model.vertices), 3)
    np.testing.assert_allclose(posed[1, 0], model.mesh(0.5).vertices)
    still = np.isin(model.face_parts, [model.part_id("hand"), model.part_id("flange")])
    assert (model.opening[np.unique(model.faces[still])] == 0).all()


def test_fingertips_reach_beyond_the_origin_when_asked():
    assert parallel_jaw_gripper(fingertip_reach=0.0095).bounds[1][2] == pytest.approx(0.0095)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"openness": 1.2}, "openness"),
        ({"openness": float("nan")}, "openness"),
        ({"max_width": 0.0}, "max_width"),
        ({"finger_length": float("inf")}, "finger_length"),
        ({"hand_size": (0.05, -0.2, 0.06)}, "hand_size[1]"),
        ({"fingertip_reach": 0.2}, "fingertip_reach"),
    ],
)
def test_gripper_sizes_that_cannot_be_are_named(arguments, field):
    with pytest.raises(errors.InvalidSpecError) as caught:
        parallel_jaw_gripper(**arguments)
    assert caught.value.field == field


def test_unknown_part_is_refused_with_the_names_that_exist():
    with pytest.raises(errors.InvalidSpecError, match="flange hand finger_left"):
        gripper_model().part_id("thumb")


def test_gripper_needs_no_torch():
    code = (
        "import sys, actionimg_data.raster.gripper as g; assert 'trimesh' not in sys.modules;"
        "g.parallel_jaw_gripper(); assert 'torch' not in sys.modules"
    )
    run_program([sys.executable, "-c", code])


# ---- any mesh


def test_trimesh_round_trip_keeps_parts_and_colours(tmp_path):
    model = gripper_model()
    again = GripperModel.from_trimesh(load_mesh(model.mesh(0.0)))
    np.testing.assert_array_equal(again.face_parts, model.face_parts)
    assert again.part_names == model.part_names
    np.testing.assert_allclose(again.face_colors, model.face_colors, atol=0.5 / 255)
    np.testing.assert_allclose(again.vertices, model.vertices)


@pytest.mark.parametrize("ending", ["stl", "ply", "obj", "off", "glb"])
def test_mesh_files_are_read_scaled_and_placed(tmp_path, ending):
    path = tmp_path / f"box.{ending}"
    trimesh.creation.box((20.0, 40.0, 60.0)).export(path)
    turn = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, -0.1], [0, 0, 0, 1.0]])
    mesh = load_mesh(path, scale=0.001, gripper_from_mesh=turn)
    np.testing.assert_allclose(mesh.bounds, [[-0.02, -0.01, -0.13], [0.02, 0.01, -0.07]], atol=1e-7)
    assert len(mesh.faces) == 12
    assert mesh.face_attributes["part_id"].tolist() == [1] * 12


def test_geometries_of_a_scene_become_parts_where_the_scene_puts_them(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box((1, 1, 1)), geom_name="a")
    lift = trimesh.transformations.translation_matrix([0, 0, 5])
    scene.add_geometry(trimesh.creation.box((1, 1, 1)), geom_name="b", transform=lift)
    scene.export(tmp_path / "two.glb")
    mesh = load_mesh(tmp_path / "two.glb")
    assert len(mesh.metadata["part_names"]) == 2
    high = np.unique(mesh.face_attributes["part_id"][mesh.triangles_center[:, 2] > 2])
    assert len(high) == 1


# ---- URDF


@pytest.mark.parametrize("name", ["meshes/hand.stl", "package://robot/meshes/hand.stl"])
def test_urdf_link_visuals_are_placed_in_the_link_frame(tmp_path, name):
    mesh = load_mesh(write_urdf(tmp_path / "robot", name), link="hand")
    assert mesh.metadata["part_names"] == ["shell", "hand1"]
    shell = mesh.vertices[np.unique(mesh.faces[mesh.face_attributes["part_id"] == 1])]
    np.testing.assert_allclose([shell.min(0), shell.max(0)], [[-0.05, -0.02, 0.07], [0.05, 0.02, 0.13]], atol=1e-7)
    ball = mesh.vertices[np.unique(mesh.faces[mesh.face_attributes["part_id"] == 2])]
    np.testing.assert_allclose(np.linalg.norm(ball, axis=1), 0.02)


def test_urdf_link_without_visuals_uses_its_collision_shapes(tmp_path):
    mesh = load_mesh(write_urdf(tmp_path / "r"), link="finger")
    np.testing.assert_allclose(mesh.extents, [0.02, 0.01, 0.05])


@pytest.mark.parametrize(
    ("link", "error", "text"),
    [
        (None, errors.AmbiguousSourceError, r"hand \| finger"),
        ("thumb", errors.WrongFormatError, r"expected hand \| finger, found thumb"),
        ("base", errors.InvalidArrayError, "no faces"),
    ],
)
def test_urdf_link_that_cannot_be_drawn_is_refused(tmp_path, link, error, text):
    with pytest.raises(error, match=text):
        load_mesh(write_urdf(tmp_path / "r"), link=link)


def test_urdf_names_the_mesh_file_that_is_missing(tmp_path):
    path = write_urdf(tmp_path / "r", "meshes/gone.stl")
    with pytest.raises(FileNotFoundError, match=r"robot\.urdf: link hand.*found meshes/gone\.stl") as caught:
        load_mesh(path, link="hand")
    assert isinstance(caught.value, errors.SourceNotFoundError)


@pytest.mark.parametrize("name", ["http://example.org/hand.stl", "https://example.org/hand.stl"])
def test_urdf_never_reads_from_the_network(tmp_path, name):
    with pytest.raises(errors.UnsafeFileError, match="files only"):
        load_mesh(write_urdf(tmp_path / "r", name), link="hand")


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE robot [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE robot [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>',
        '<!DOCTYPE robot SYSTEM "http://example.org/evil.dtd">',
    ],
)
def test_urdf_with_entities_is_refused_before_they_are_read(tmp_path, head):
    path = tmp_path / "evil.urdf"
    path.write_text(f'<?xml version="1.0"?>{head}<robot name="r"><link name="l"/></robot>')
    with pytest.raises(errors.UnsafeFileError, match="document type"):
        load_mesh(path)


def link_of(geometry: str, origin: str = "") -> str:
    return f"<robot><link name='a'><visual>{origin}<geometry>{geometry}</geometry></visual></link></robot>"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("<robot><link name='a'>", errors.BadFileError),
        ("<sdf/>", errors.WrongFormatError),
        (link_of("<cone/>"), errors.WrongFormatError),
        (link_of("<box size='1 x 1'/>"), errors.BadFileError),
        (link_of("<box/>"), errors.BadFileError),
        (link_of("<box size='1 1 1'/>", "<origin xyz='0 nan 0'/>"), errors.BadFileError),
        (link_of("<sphere radius='-1'/>"), errors.BadFileError),
        (link_of("<cylinder radius='1'/>"), errors.BadFileError),
    ],
)
def test_damaged_urdf_is_refused(tmp_path, text, error):
    (tmp_path / "a.urdf").write_text(text)
    with pytest.raises(error):
        load_mesh(tmp_path / "a.urdf")


# ---- bad meshes


def test_mesh_without_faces_is_refused(tmp_path):
    with pytest.raises(errors.InvalidArrayError, match="no faces"):
        load_mesh(trimesh.Trimesh(np.zeros((3, 3)), np.empty((0, 3), int), process=False))
    (tmp_path / "points.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
        "end_header\n0 0 0\n"
    )
    with pytest.raises(errors.InvalidArrayError, match="no faces"):
        load_mesh(tmp_path / "points.ply")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_mesh_with_vertices_that_are_not_finite_is_refused(tmp_path, value):
    box = trimesh.creation.box((1, 1, 1))
    vertices = box.vertices.copy()
    vertices[2, 1] = value
    with pytest.raises(errors.InvalidArrayError, match=r"vertices\[2\].*not finite"):
        load_mesh(trimesh.Trimesh(vertices, box.faces, process=False))
    path = tmp_path / "bad.off"
    rows = [" ".join(map(str, row)) for row in vertices] + ["3 " + " ".join(map(str, f)) for f in box.faces]
    path.write_text("OFF\n8 12 0\n" + "\n".join(rows) + "\n")
    with pytest.raises(errors.InvalidArrayError, match="not finite"):
        load_mesh(path)


def test_face_of_a_vertex_that_does_not_exist_is_refused():
    with pytest.raises(errors.InvalidArrayError, match="does not exist"):
        GripperModel(
            np.zeros((3, 3)),
            np.array([[0, 1, 3]]),
            np.ones(1, int),
            np.zeros((3, 3)),
            ("a",),
            np.zeros((1, 3)),
        )


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("gone.stl", None, errors.SourceNotFoundError),
        ("notes.txt", b"hello", errors.WrongFormatError),
        ("cut.glb", b"glTF\x02\x00\x00\x00\xff", errors.BadFileError),
        # Without the optional collada reader the file's kind, with it the file, is what is wrong.
        ("hand.dae", b"<COLLADA/>", (errors.MissingExtraError, errors.BadFileError)),
    ],
)
def test_files_that_are_no_mesh_are_refused(tmp_path, name, content, error):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=name.replace(".", r"\.")):
        load_mesh(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "error", "field"),
    [
        ({"scale": 0.0}, errors.InvalidSpecError, "scale"),
        ({"scale": float("nan")}, errors.InvalidSpecError, "scale"),
        ({"link": "hand"}, errors.InvalidSpecError, "link"),
        ({"gripper_from_mesh": np.diag([1.0, 1.0, 2.0, 1.0])}, errors.InvalidArrayError, "gripper_from_mesh"),
        ({"gripper_from_mesh": np.eye(3)}, errors.InvalidArrayError, "gripper_from_mesh"),
    ],
)
def test_options_of_load_mesh_are_checked(options, error, field):
    with pytest.raises(error) as caught:
        load_mesh(parallel_jaw_gripper(), **options)
    assert caught.value.field == field

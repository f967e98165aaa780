from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from actionimg_data.converters.kit.kinematics import Chain
from actionimg_data.converters.kit.tables import Table, check_zip, open_table
from actionimg_data.converters.recording import streams
from actionimg_data.converters.recording.mapping import load_mapping
from actionimg_data.demo.recordings import write_yaml
from actionimg_data.errors import (
    AmbiguousSourceError,
    BadFileError,
    InvalidTrajectoryError,
    SourceNotFoundError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
)
from actionimg_data.schemas.documents import json_schemas
from actionimg_data.schemas.mapping import EXPORTED, Gripper, Mapping, PoseStream
from actionimg_data.schemas.mapping import Rotation as RotationMapping

MAPPING: dict[str, Any] = {
    "version": 1,
    "format": "folder",
    "instruction": {"text": "lift the cube"},
    "pose": {
        "file": "poses.csv",
        "time": {"column": "t", "unit": "s"},
        "position": {"columns": ["x", "y", "z"], "unit": "mm"},
        "rotation": {"columns": ["rx", "ry", "rz"], "form": "euler", "order": "xyz", "unit": "deg"},
        "tool_from_gripper": {"translation": [0, 0, 0.1]},
    },
    "gripper": {"columns": ["g"], "closed": 0, "open": 850, "kind": "command"},
    "views": {
        "front": {"frames": "a.mp4", "time": {"fps": 30}, "camera": {"file": "cameras.json"}},
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(MAPPING)
    *parents, last = path.split(".")
    place = result
    for key in parents:
        place = place[key]
    place[last] = value
    return result


def test_a_mapping_is_read_and_its_fingerprint_follows_its_bytes(tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "m.yaml", MAPPING)
    first = load_mapping(path, "folder")
    assert first.mapping.pose.rotation is not None
    assert first.mapping.pose.rotation.order == "xyz"
    path.write_text(path.read_text() + "# a remark\n")
    assert load_mapping(path, "folder").fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("pose.rotation.order", "xyx ", "three of xyz"),
        ("pose.rotation.order", "xYz", "three of xyz"),
        ("pose.rotation.unit", None, "needs a unit"),
        ("pose.position.unit", "inch", "'m', 'cm' or 'mm'"),
        ("pose.tool_from_gripper", {"quaternion_xyzw": [0, 0, 0, 1], "euler_xyz_deg": [0, 0, 0]}, "one form"),
        ("gripper.open", 0, "must differ"),
        ("gripper.columns", ["a", "b"], "two columns need combine"),
        ("gripper.polarity", "inverted", "Extra inputs"),
        ("views", {}, "at least 1"),
        ("views", {"Front": MAPPING["views"]["front"]}, "should match pattern"),
        ("views.front.camera", {}, "give one of file"),
        ("views.front.camera", {"file": "a", "world_from_camera": {}, "tf": {"parent": "a", "child": "b"}}, "one pose"),
        ("views.front.time", {"unit": "s"}, "a unit needs a column"),
        ("views.front.time", {"fps": 20, "stamp": "log"}, "one of column, fps, video and stamp"),
        ("views.front.frames", None, "a folder view needs frames"),
        ("instruction", None, "no default is made up"),
        ("sync", {"mode": "rows"}, "rows need fps"),
        ("sync", {"master": "side"}, "not one of the views"),
        ("pose.matrix", {"columns": ["m"], "order": "row", "unit": "m"}, "give one of"),
        ("version", 2, "Input should be 1"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_is_named(tmp_path: Path, path: str, value: Any, message: str) -> None:
    with pytest.raises(WrongFormatError, match=message) as caught:
        load_mapping(write_yaml(tmp_path / "m.yaml", changed(path, value)), "folder")
    assert str(tmp_path / "m.yaml") in str(caught.value)


@pytest.mark.parametrize("missing", ["pose.tool_from_gripper", "gripper.closed", "gripper.kind", "pose.position.unit"])
def test_what_only_the_user_can_know_has_no_default(tmp_path: Path, missing: str) -> None:
    mapping = copy.deepcopy(MAPPING)
    *parents, last = missing.split(".")
    place = mapping
    for key in parents:
        place = place[key]
    del place[last]
    with pytest.raises(WrongFormatError, match="Field required"):
        load_mapping(write_yaml(tmp_path / "m.yaml", mapping), "folder")


def test_fields_still_to_be_filled_in_are_listed(tmp_path: Path) -> None:
    path = write_yaml(tmp_path / "m.yaml", changed("gripper.open", "???"))
    with pytest.raises(AmbiguousSourceError, match=r"1 fields are still to be filled in.*gripper\.open|gripper\.open"):
        load_mapping(path, "folder")


def test_no_mapping_says_how_to_draft_one() -> None:
    with pytest.raises(AmbiguousSourceError, match="--propose"):
        load_mapping(None, "folder")


def test_a_mapping_for_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongFormatError, match="expected rosbag, found folder"):
        load_mapping(write_yaml(tmp_path / "m.yaml", MAPPING), "rosbag")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "a: !!python/object/apply:os.system ['true']\n",
            UnsafeFileError,
            r"tag is refused.*python/object|a tag is refused",
        ),
        ("a: !mine {x: 1}\n", UnsafeFileError, "a tag is refused"),
        ("a: !!binary aGk=\n", UnsafeFileError, "a tag is refused"),
        ("a: &x [1, 2]\nb: *x\n", UnsafeFileError, "an anchor or alias"),
        ("a: 1\na: 2\n", BadFileError, "given twice"),
        ("a: [1, 2\n", BadFileError, "is not YAML"),
        ("a: " + "[" * 5000 + "]" * 5000, UnsafeFileError, "nested too deeply"),
        ("- 1\n", WrongFormatError, "is not a mapping file"),
    ],
)
def test_yaml_is_plain_values_or_refused(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(error, match=message):
        load_mapping(tmp_path / "m.yaml", "folder")


def test_a_missing_mapping_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no such file"):
        load_mapping(tmp_path / "none.yaml", "folder")


# Rotations.

FORMS = [
    ("quaternion", "xyzw", None),
    ("quaternion", "wxyz", None),
    ("euler", "xyz", "rad"),
    ("euler", "ZYX", "deg"),
    ("euler", "zyz", "deg"),
    ("rotation_vector", None, "rad"),
    ("rotation_vector", None, "deg"),
    ("matrix", "row", None),
    ("matrix", "column", None),
    ("rotation_6d", "columns", None),
    ("rotation_6d", "rows", None),
]


def written(rotation: Rotation, form: str, order: str | None, unit: str | None) -> np.ndarray:
    if form == "quaternion":
        return rotation.as_quat(scalar_first=order == "wxyz")
    if form == "euler":
        return rotation.as_euler(order, degrees=unit == "deg")
    if form == "rotation_vector":
        return rotation.as_rotvec(degrees=unit == "deg")
    m = rotation.as_matrix()
    if form == "matrix":
        return (m if order == "row" else m.swapaxes(1, 2)).reshape(-1, 9)
    two = m[:, :, :2].swapaxes(1, 2) if order == "columns" else m[:, :2, :]
    return two.reshape(-1, 6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(FORMS))
def test_every_form_of_rotation_is_read_as_scipy_writes_it(seed: int, form: tuple[str, str | None, str | None]) -> None:
    truth = Rotation.random(12, rng=np.random.default_rng(seed))
    values = written(truth, *form)
    values[5] = np.nan
    q = streams.quaternions(values, *form, where="test")
    good = np.arange(12) != 5
    assert np.isnan(q[5]).all()
    assert (Rotation.from_quat(q[good]).inv() * truth[good]).magnitude().max() < 1e-6


def test_quaternions_that_are_not_unit_are_refused_with_their_row() -> None:
    values = np.tile([0.0, 0.0, 0.0, 1.0], (5, 1))
    values[3, 0] = 0.5
    with pytest.raises(InvalidTrajectoryError, match=r"row 3.*length 1, found 1\.118"):
        streams.quaternions(values, "quaternion", "xyzw", None, "poses.csv")


def test_a_mirrored_matrix_is_refused() -> None:
    mirrored = np.diag([1.0, 1.0, -1.0]).reshape(1, 9)
    with pytest.raises(InvalidTrajectoryError, match="a reflection"):
        streams.quaternions(mirrored, "matrix", "row", None, "poses.csv")


def test_column_major_matrices_in_millimetres(tmp_path: Path) -> None:
    pose = np.tile(np.eye(4), (6, 1, 1))
    pose[:, :3, :3] = Rotation.random(6, rng=np.random.default_rng(0)).as_matrix()
    pose[:, :3, 3] = np.arange(18).reshape(6, 3) * 100.0
    np.savez(tmp_path / "p.npz", O_T_EE=pose.swapaxes(1, 2).reshape(6, 16))
    table = open_table(tmp_path / "p.npz")
    stream = PoseStream.model_validate({"matrix": {"columns": ["O_T_EE"], "order": "column", "unit": "mm"}})
    samples = streams.poses_from_table(table, stream, np.arange(6.0), tmp_path)
    np.testing.assert_allclose(samples.position, np.arange(18).reshape(6, 3) * 0.1)
    np.testing.assert_allclose(Rotation.from_quat(samples.quaternion_xyzw).as_matrix(), pose[:, :3, :3], atol=1e-9)
    wrong = PoseStream.model_validate({"matrix": {"columns": ["O_T_EE"], "order": "row", "unit": "mm"}})
    with pytest.raises(InvalidTrajectoryError, match=r"last row.*Is the order the other one"):
        streams.poses_from_table(table, wrong, np.arange(6.0), tmp_path)


def test_inverse_poses_are_inverted(tmp_path: Path) -> None:
    turn = Rotation.random(4, rng=np.random.default_rng(1))
    place = np.random.default_rng(1).normal(size=(4, 3))
    np.savez(tmp_path / "p.npz", p=-turn.inv().apply(place), q=turn.inv().as_quat())
    stream = PoseStream.model_validate(
        {
            "position": {"columns": ["p"], "unit": "m"},
            "rotation": {"columns": ["q"], "form": "quaternion", "order": "xyzw"},
            "inverse": True,
        }
    )
    samples = streams.poses_from_table(open_table(tmp_path / "p.npz"), stream, np.arange(4.0), tmp_path)
    np.testing.assert_allclose(samples.position, place, atol=1e-12)
    assert (Rotation.from_quat(samples.quaternion_xyzw).inv() * turn).magnitude().max() < 1e-9


# Stamps and the gripper.


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_stamps_of_any_unit_become_seconds(unit: str, per_second: int) -> None:
    stamps = (1_700_000_000 * per_second + np.arange(5) * per_second).astype(np.int64)
    np.testing.assert_array_equal(streams.seconds(stamps, unit, 0.5), 1_700_000_000.5 + np.arange(5))


def test_nanoseconds_keep_their_distances() -> None:
    stamps = 1_700_000_000_000_000_000 + np.arange(100, dtype=np.int64) * 10_000_000
    assert np.abs(np.diff(streams.seconds(stamps, "ns")) - 0.01).max() < 5e-7


def gripper(**fields: Any) -> Gripper:
    return Gripper.model_validate({"columns": ["g"], "closed": 0, "open": 0.08, "kind": "measured", **fields})


def test_the_gripper_range_gives_scale_and_polarity() -> None:
    values = np.array([[0.0], [0.04], [0.08]])
    np.testing.assert_allclose(streams.openness_from_columns(values, gripper(), "x"), [0, 0.5, 1])
    flipped = gripper(closed=0.08, open=0.0)
    np.testing.assert_allclose(streams.openness_from_columns(values, flipped, "x"), [1, 0.5, 0])


def test_two_fingers_are_combined() -> None:
    values = np.array([[0.0, 0.0], [0.02, -0.02], [0.04, -0.04]])
    combined = gripper(columns=["a", "b"], combine="difference")
    np.testing.assert_allclose(streams.openness_from_columns(values, combined, "x"), [0, 0.5, 1])


def test_a_gripper_that_leaves_its_range_is_refused_and_rounding_is_not() -> None:
    np.testing.assert_allclose(streams.openness_from_columns(np.array([[0.0808]]), gripper(), "x"), [1.0])
    with pytest.raises(InvalidTrajectoryError, match=r"g: row 1.*0 \(closed\) … 0\.08 \(open\), found 0\.6"):
        streams.openness_from_columns(np.array([[0.01], [0.6]]), gripper(), "poses.csv")


# The question about quaternion order.


def order(checked: bool = False) -> RotationMapping:
    columns = ("a", "b", "c", "d")
    return RotationMapping(columns=columns, form="quaternion", order="xyzw", checked=checked)


def down(n: int = 30) -> Rotation:
    t = np.linspace(0, 1, n)
    return Rotation.from_euler("xyz", np.stack([np.pi + 0.1 * np.sin(5 * t), 0.1 * t, 1.5 * t], 1))


def upright() -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = np.stack([[0, 1, 0], [0.3, 0, -1], [-1, 0, -0.3]], axis=1)
    pose[:3, :3] = np.linalg.qr(pose[:3, :3])[0] * np.sign(np.diag(np.linalg.qr(pose[:3, :3])[1]))
    return pose


def test_true_quaternions_raise_no_question() -> None:
    mount = Rotation.from_euler("xyz", [0.1, 0.2, 1.0])
    moving = {"wrist": (down() * mount).as_matrix()}
    for fixed in ({}, {"front": upright()}):
        streams.ask_about_quaternion_order(down().as_quat(), order(), np.eye(4), np.eye(4), moving, fixed, "e")
        streams.ask_about_quaternion_order(down().as_quat(), order(), np.eye(4), np.eye(4), {}, fixed, "e")


@pytest.mark.parametrize("evidence", ["hand camera", "upright cameras"])
def test_wxyz_where_xyzw_was_promised_is_asked_about(evidence: str) -> None:
    swapped = down().as_quat(scalar_first=True)
    moving = {"wrist": (down() * Rotation.from_euler("x", 0.3)).as_matrix()} if evidence == "hand camera" else {}
    fixed = {} if moving else {"front": upright()}
    with pytest.raises(
        AmbiguousSourceError, match=r"are the quaternions really xyzw\?.*fits wxyz better.*checked: true"
    ):
        streams.ask_about_quaternion_order(swapped, order(), np.eye(4), np.eye(4), moving, fixed, "e")
    streams.ask_about_quaternion_order(swapped, order(checked=True), np.eye(4), np.eye(4), moving, fixed, "e")


# Tables.


def test_column_references_name_columns_parts_and_labels() -> None:
    arrays = {"pose": np.arange(12.0).reshape(4, 3), "a[0]": np.arange(4)}
    table = Table(list(arrays), arrays.__getitem__, "t", {"pose": ["x", "y", "z"]})
    np.testing.assert_array_equal(table.column("pose[1]"), [1, 4, 7, 10])
    np.testing.assert_array_equal(table.column("pose[0:2]"), arrays["pose"][:, :2])
    np.testing.assert_array_equal(table.column("pose.z"), [2, 5, 8, 11])
    np.testing.assert_array_equal(table.column("a[0]"), np.arange(4))
    for ref in ("pose[3]", "pose[2:1]", "pose.w", "q"):
        with pytest.raises(WrongFormatError, match="has no such"):
            table.column(ref)


def test_tables_of_text_ragged_rows_or_no_header_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3\n")
    with pytest.raises(BadFileError, match="is not CSV"):
        open_table(tmp_path / "a.csv").numbers(["x"])
    (tmp_path / "b.csv").write_text("1,2\n3,4\n")
    with pytest.raises(WrongFormatError, match="has no header line"):
        open_table(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("x,y\n1,a\n")
    with pytest.raises(WrongFormatError, match="is not a column of numbers"):
        open_table(tmp_path / "c.csv").numbers(["y"])
    (tmp_path / "d.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(BadFileError, match="line 2"):
        open_table(tmp_path / "d.jsonl")
    (tmp_path / "e.csv").write_text("x,x\n1,2\n")
    with pytest.raises(WrongFormatError, match="names a column twice"):
        open_table(tmp_path / "e.csv")


def test_nested_jsonl_and_empty_csv_cells(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"t": 1700000000000000001, "ee": {"p": [1, 2, 3]}}\n' * 2)
    table = open_table(tmp_path / "a.jsonl")
    assert table.column("t").dtype == np.int64
    np.testing.assert_array_equal(table.numbers(["ee.p"], 3), [[1, 2, 3]] * 2)
    (tmp_path / "b.csv").write_text("x, y\n1,\n2,3\n")
    np.testing.assert_array_equal(open_table(tmp_path / "b.csv").numbers(["y"]), [[np.nan], [3.0]])


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UnsafeFileError, match="pickled"):
        open_table(tmp_path / "a.npz").column("x")


@pytest.mark.parametrize("name", ["../evil.npy", "/etc/evil.npy", "a/../../evil.npy", "C:evil.npy", "..\\evil.npy"])
def test_a_zip_that_writes_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(name, b"x")
    for use in (check_zip, open_table):
        with pytest.raises(UnsafeFileError, match="outside its folder"):
            use(tmp_path / "a.npz")


def test_a_truncated_zip_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(10))
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadFileError, match="is not a zip file"):
        open_table(tmp_path / "a.npz")


# Kinematics.

URDF = """<robot name="two"><link name="base"/><link name="a"/><link name="b"/><link name="tip"/>
<joint name="j1" type="revolute"><parent link="base"/><child link="a"/><origin xyz="0 0 0.5"/>
<axis xyz="0 0 1"/></joint>
<joint name="j2" type="prismatic"><parent link="a"/><child link="b"/>
<origin xyz="0.3 0 0" rpy="0 1.5707963267948966 0"/><axis xyz="0 0 2"/></joint>
<joint name="f" type="fixed"><parent link="b"/><child link="tip"/><origin xyz="0 0 0.1"/></joint></robot>"""


def test_forward_kinematics_of_a_chain_by_hand(tmp_path: Path) -> None:
    (tmp_path / "r.urdf").write_text(URDF)
    chain = Chain.load(tmp_path / "r.urdf", "base", "tip")
    pose = chain.poses(["j2", "j1"], np.array([[0.2, 90.0], [0.0, 0.0]]), np.pi / 180)
    # Turned by 90 degrees the arm points along +y; the slide and the tip lie along it.
    np.testing.assert_allclose(pose[0, :3, 3], [0, 0.6, 0.5], atol=1e-12)
    np.testing.assert_allclose(pose[1, :3, 3], [0.4, 0, 0.5], atol=1e-12)
    np.testing.assert_allclose(pose[0, :3, 2], [0, 1, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("text", "base", "error", "message"),
    [
        ("<!DOCTYPE r [<!ENTITY a 'b'>]>" + URDF, "base", UnsafeFileError, "declarations"),
        (URDF[:-10], "base", BadFileError, "is not XML"),
        ("<sdf/>", "base", WrongFormatError, "is not a robot file"),
        (URDF, "hand", WrongFormatError, "has no such link"),
        (URDF.replace('"prismatic"', '"planar"'), "base", UnsupportedSourceError, "not supported"),
        (URDF.replace('xyz="0.3 0 0"', 'xyz="0.3 0"'), "base", WrongFormatError, "three numbers"),
    ],
)
def test_robot_files_that_cannot_be_used(
    tmp_path: Path, text: str, base: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "r.urdf").write_text(text)
    with pytest.raises(error, match=message):
        Chain.load(tmp_path / "r.urdf", base, "tip")


def test_joints_that_are_not_the_chains_are_named(tmp_path: Path) -> None:
    (tmp_path / "r.urdf").write_text(URDF)
    with pytest.raises(WrongFormatError, match="expected j1, j2, found j1"):
        Chain.load(tmp_path / "r.urdf", "base", "tip").poses(["j1"], np.zeros((1, 1)))


def test_every_field_of_the_schema_is_explained_in_the_docs() -> None:
    docs = Path(__file__).parents[1] / "docs"
    text = "".join((docs / name).read_text() for name in ("mapping.md", "plausibility.md"))
    schema = Mapping.model_json_schema()
    fields = {name for model in [schema, *schema["$defs"].values()] for name in model.get("properties", {})}
    missing = sorted(name for name in fields if not re.search(f"`{name}[`:]", text))
    assert not missing


def test_the_exported_schemas_are_those_of_the_models() -> None:
    folder = Path(__file__).parents[1] / "schemas"
    for name, text in json_schemas(EXPORTED).items():
        assert (folder / name).read_text() == text, "run: python -m actionimg_data.schemas"

"""One parser of rigid transforms, and the same forms wherever one is given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from actionimg_data.cameras.transforms import TRANSFORM_FORMS, parse_transform, transform_file, transform_matrix
from actionimg_data.converters.base import converter_class, names
from actionimg_data.demo.rlds import write_rlds_demo
from actionimg_data.errors import BadFileError, InvalidSpecError, SourceNotFoundError, UnsafeFileError
from actionimg_data.geometry import rotations, transforms
from actionimg_data.schemas.camera_file import CameraEntry, Transform

MOVED = np.array([[0.0, -1, 0, 0.1], [1, 0, 0, 0], [0, 0, 1, 0.15], [0, 0, 0, 1]])
FORMS = {
    "parts": "{translation: [0.1, 0, 0.15], euler_xyz_deg: [0, 0, 90]}",
    "json": json.dumps({"translation": [0.1, 0, 0.15], "quaternion_xyzw": [0, 0, 0.5**0.5, 0.5**0.5]}),
    "rotation": "{translation: [0.1, 0, 0.15], rotation: [[0, -1, 0], [1, 0, 0], [0, 0, 1]]}",
    "matrix": json.dumps(MOVED.tolist()),
    "seven": "0.1 0 0.15 0 0 0.70710678 0.70710678",
    "commas": "0.1, 0, 0.15, 0, 0, 0.70710678, 0.70710678",
    "sixteen": " ".join(map(str, MOVED.ravel())),
    "flat list": json.dumps(MOVED.ravel().tolist()),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_transform_is_written_in_any_form(form: str, tmp_path: Path) -> None:
    np.testing.assert_allclose(parse_transform(FORMS[form], "t"), MOVED, atol=1e-7)
    if form in ("parts", "json", "rotation", "matrix"):
        for ending in ("yaml", "json") if form in ("json", "matrix") else ("yaml",):
            (tmp_path / f"t.{ending}").write_text(FORMS[form])
            np.testing.assert_allclose(parse_transform(str(tmp_path / f"t.{ending}"), "t"), MOVED, atol=1e-7)


def test_identity_is_a_word() -> None:
    assert np.array_equal(parse_transform(" identity ", "t"), np.eye(4))
    assert transform_file("identity") is None
    assert transform_file(None) is None
    assert transform_file("a/b.YAML") == "a/b.YAML"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 2 3",
        "0 0 0 1 1 0 0",
        "a b c d e f g",
        "nan 0 0 0 0 0 1",
        "2 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1",
        "1 0 0 0 0 1 0 0 0 0 -1 0 0 0 0 1",
        "{translation: [0, 0]}",
        "{translation: [0, 0, 0], euler: [0, 0, 0]}",
        "{rotation: [[1, 0, 0], [0, 2, 0], [0, 0, 1]]}",
        "{translation: [0, 0",
        "[[1, 0], [0, 1]]",
    ],
)
def test_what_is_no_transform_is_refused_by_the_name_of_its_field(text: str) -> None:
    with pytest.raises(InvalidSpecError, match="the_field"):
        parse_transform(text, "the_field")


def test_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"gone\.yaml"):
        parse_transform(str(tmp_path / "gone.yaml"), "t")
    (tmp_path / "tag.yaml").write_text("!!python/object/apply:os.system [ls]")
    with pytest.raises(UnsafeFileError, match=r"tag\.yaml"):
        parse_transform(str(tmp_path / "tag.yaml"), "t")
    (tmp_path / "not.json").write_text("{")
    with pytest.raises(BadFileError, match=r"not\.json"):
        parse_transform(str(tmp_path / "not.json"), "t")
    (tmp_path / "other.yaml").write_text("fps: 30")
    with pytest.raises(InvalidSpecError, match=r"other\.yaml"):
        parse_transform(str(tmp_path / "other.yaml"), "t")


@given(
    st.tuples(*[st.floats(-2, 2)] * 3),
    st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
)
def test_any_pose_survives_being_written_as_seven_or_sixteen_numbers(
    position: tuple[float, ...], quaternion: tuple[float, ...]
) -> None:
    q = np.array(quaternion) / np.linalg.norm(quaternion)
    pose = np.asarray(transforms.make_transform(rotations.matrix_from_quaternion(q), np.array(position)))
    for numbers in ([*position, *q], pose.ravel()):
        np.testing.assert_allclose(parse_transform(" ".join(map(repr, map(float, numbers))), "t"), pose, atol=1e-9)


def test_every_option_that_is_a_transform_says_the_same_forms() -> None:
    found = {}
    for name in names():
        for field, info in converter_class(name).Options.model_fields.items():
            if field == "tool_from_gripper":
                found[name] = info.description or ""
    assert {"droid", "rlds", "robomimic", "libero", "aloha", "umi"} <= set(found)
    assert all(TRANSFORM_FORMS in text for text in found.values()), found


def test_rlds_takes_a_file_and_notices_when_it_changes(tmp_path: Path) -> None:
    source, name, options = write_rlds_demo(tmp_path / "rlds", episodes=1, frames=2, size=64)
    kind = converter_class(name)
    (tmp_path / "tool.yaml").write_text(FORMS["parts"])

    def first(tool: str) -> tuple[str, np.ndarray]:
        made = kind(kind.Options.parse({**options, "tool_from_gripper": tool}, "test"))
        ref = next(iter(made.discover(str(source))))
        return ref.fingerprint, np.array(made.read(ref).provenance["tool_from_gripper"])

    written, by_file = first(FORMS["seven"]), first(str(tmp_path / "tool.yaml"))
    np.testing.assert_allclose(by_file[1], MOVED, atol=1e-7)
    np.testing.assert_allclose(written[1], MOVED, atol=1e-7)
    (tmp_path / "tool.yaml").write_text("{translation: [0.2, 0, 0.15]}")
    changed = first(str(tmp_path / "tool.yaml"))
    assert changed[0] != by_file[0]
    assert changed[1][0, 3] == 0.2


def test_mapping_and_camera_files_take_the_same_forms() -> None:
    for form, text in FORMS.items():
        value = yaml.safe_load(text)
        entry = CameraEntry.model_validate(
            {"K": np.eye(3).tolist(), "width": 4, "height": 4, "world_from_camera": value}
        )
        np.testing.assert_allclose(transform_matrix(entry.world_from_camera), MOVED, atol=1e-7, err_msg=form)
        np.testing.assert_allclose(transform_matrix(TypeAdapter(Transform).validate_python(value)), MOVED, atol=1e-7)
    assert np.array_equal(transform_matrix(TypeAdapter(Transform).validate_python("identity")), np.eye(4))

"""What authors of converters build on: orders, ids, stamps, numbered pictures, a camera from look-at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actionimg_data import Camera
from actionimg_data.converters import kit
from actionimg_data.errors import FrameCountError, InvalidCameraError, MissingFrameError
from actionimg_data.geometry import pinhole


def test_every_public_name_is_there_is_listed_and_says_what_it_is() -> None:
    assert set(kit.__all__) <= set(dir(kit))
    for name in kit.__all__:
        assert getattr(kit, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'naturel_key'"):
        kit.naturel_key  # noqa: B018


def test_the_kit_costs_nothing_until_it_is_used() -> None:
    code = "import sys; from actionimg_data.converters import kit; print('cv2' in sys.modules, 'h5py' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=20, unique=True))
def test_names_are_in_the_order_of_their_numbers(numbers: list[int]) -> None:
    names = [f"run{n}/frame_{n}.png" for n in numbers]
    assert sorted(names, key=kit.natural_key) == [f"run{n}/frame_{n}.png" for n in sorted(numbers)]


@pytest.mark.parametrize("name", ["²x", "x³", "٣", "1²2", ""])
def test_digits_of_any_script_are_sorted(name: str) -> None:
    assert sorted([name, "a1"], key=kit.natural_key)


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
def test_ids_are_plain_and_two_places_never_share_one(first: str, second: str) -> None:
    ids = [kit.plain_id(text) for text in (first, second)]
    assert all(set(i) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-") for i in ids)
    assert (ids[0] == ids[1]) == (first == second)


def written(folder: Path, names: list[str], size: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        number = int("".join(filter(str.isdigit, name)))
        cv2.imwrite(str(folder / name), np.full((size, size, 3), number, np.uint8))
    return folder


def test_numbered_pictures_are_in_order_and_as_many_as_are_asked_for(tmp_path: Path) -> None:
    folder = written(tmp_path / "p", [f"rgb_{i}.png" for i in (0, 1, 2, 9, 10, 11)] + ["depth_3.png"])
    found = kit.numbered_pictures(folder, "rgb_*.png", count=6)
    assert [int(picture[0, 0, 0]) for picture in found.frames(range(6))] == [0, 1, 2, 9, 10, 11]
    with pytest.raises(FrameCountError, match=r"rgb_\*\.png.*expected 7.*found 6"):
        kit.numbered_pictures(folder, "rgb_*.png", count=7)
    with pytest.raises(MissingFrameError, match="no picture matches"):
        kit.numbered_pictures(folder, "*.jpg")


coordinates = st.tuples(*[st.floats(-2, 2)] * 3)


@settings(deadline=None)
@given(coordinates, coordinates, st.floats(5, 150), st.booleans())
def test_a_camera_sees_its_target_in_the_middle_upright_and_its_field_of_view_at_the_border(
    eye: tuple[float, ...], target: tuple[float, ...], fov: float, vertical: bool
) -> None:
    ahead = np.subtract(target, eye)
    if np.linalg.norm(ahead[:2]) < 0.05:
        return
    name = "vertical_fov_deg" if vertical else "horizontal_fov_deg"
    camera = Camera.looking_at(eye, target, 200, 120, **{name: fov})
    pose = camera.world_from_camera
    np.testing.assert_allclose(pose[:3, 3], eye)
    uv, depth, valid = pinhole.project(np.array([target]), camera.K, pose, near=1e-6)
    np.testing.assert_allclose(uv[0], [100, 60], atol=1e-6)
    np.testing.assert_allclose(depth[0], np.linalg.norm(ahead))
    assert valid.all()
    assert abs(pose[2, 0]) < 1e-9  # the picture's x axis is level
    assert pose[2, 1] < 1e-9  # and its y axis points down
    side = np.tan(np.radians(fov) / 2)
    border = pose[:3, 3] + pose[:3, 2] + side * pose[:3, 1 if vertical else 0]
    uv, _, _ = pinhole.project(border[None], camera.K, pose)
    np.testing.assert_allclose(uv[0, 1] if vertical else uv[0, 0], 120 if vertical else 200, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": (1.0, 0.0, 0.5)}, "its own place"),
        ({"target": (1.0, 0.0, 0.0)}, "along the picture's up"),
        ({"vertical_fov_deg": None}, "one field of view"),
        ({"horizontal_fov_deg": 60.0}, "one field of view"),
        ({"vertical_fov_deg": 180.0}, "one field of view"),
        ({"up": (0.0, 0.0, 0.0)}, "along the picture's up"),
        ({"eye": (1.0, 0.0)}, "eye"),
    ],
)
def test_what_is_no_camera_is_refused(change: dict[str, object], message: str) -> None:
    values = {"eye": (1.0, 0.0, 0.5), "target": (0.0, 0.0, 0.2), "width": 64, "height": 64, "vertical_fov_deg": 60.0}
    Camera.looking_at(**values)  # type: ignore[arg-type]
    with pytest.raises(InvalidCameraError, match=message):
        Camera.looking_at(**{**values, **change})  # type: ignore[arg-type]

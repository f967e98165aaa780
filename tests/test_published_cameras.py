"""Cameras that data sets' own sources publish: where they look, whose they are, and that samples say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.spatial.transform import Rotation
from test_rlds_registry import STEPS, TEXT, build, pictures, poses

from actionimg_data import open_dataset
from actionimg_data.cameras.published import published
from actionimg_data.cli import main
from actionimg_data.converters.kit.entries import shipped
from actionimg_data.converters.rlds import RLDSConverter, RLDSOptions
from actionimg_data.demo import scene
from actionimg_data.demo.rlds import LIBERO_FROM_DEMO, write_libero_demo
from actionimg_data.errors import MissingCalibrationError
from actionimg_data.geometry import transforms
from actionimg_data.model import Camera, Episode


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIONIMG_CACHE_DIR", str(tmp_path / "cache"))


def libero(tmp_path: Path, name: str, file_path: str, size: int = 12) -> Path:
    position, turns = poses()
    state = np.concatenate([position, turns.as_rotvec(), np.zeros((STEPS, 2))], axis=1)
    values = {
        "observation/image": pictures(height=size, width=size),
        "observation/wrist_image": pictures(height=size, width=size),
        "observation/state": state,
        "action": np.zeros((STEPS, 7)),
        "language_instruction": TEXT,
    }
    return build(tmp_path, name, values, {"episode_metadata": {"file_path": file_path}})


def read(folder: Path, **options: Any) -> Episode:
    converter = RLDSConverter(RLDSOptions(cameras="published", **options))
    (ref,) = converter.discover(str(folder))
    return converter.read(ref)


def test_every_published_camera_is_of_views_that_the_registry_knows() -> None:
    for name, found in published().items():
        assert set(found.views) <= set(shipped()[name].views)
        used = {c for rows in found.views.values() for r in rows for c in (r.camera, *r.scenes.values()) if c}
        assert used == set(found.cameras), "a camera that no view has"


@pytest.mark.parametrize("scene", ["tabletop", "kitchen", "study", "living_room", "floor"])
def test_liberos_cameras_stand_where_mujoco_puts_them(scene: str) -> None:
    mujoco = pytest.importorskip("mujoco")
    said = published()["libero"].cameras[scene]
    numbers = {k: " ".join(map(repr, v)) for k, v in (("p", said.position), ("q", said.quaternion_wxyz))}
    camera_tag = f'<camera name="c" fovy="45" pos="{numbers["p"]}" quat="{numbers["q"]}"/>'
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{camera_tag}</worldbody></mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = said.calibrated("published")
    assert camera.world_from_camera is not None
    # MuJoCo's camera looks along -z with y up.
    axes = data.cam_xmat[0].reshape(3, 3) * [1, -1, -1]
    assert np.allclose(camera.world_from_camera[:3, :3], axes, atol=1e-6)
    assert np.allclose(camera.world_from_camera[:3, 3], data.cam_xpos[0])
    half = camera.K[0, 2] / camera.K[0, 0]
    assert half == pytest.approx(np.tan(np.radians(model.cam_fovy[0] / 2)))


def test_sapiens_camera_looks_along_its_x_with_z_up() -> None:
    said = published()["bridge_dataset"].cameras["over_shoulder"]
    turn = Rotation.from_quat(said.quaternion_wxyz, scalar_first=True).as_matrix()
    found = said.calibrated("estimate").world_from_camera
    assert found is not None
    assert np.allclose(found[:3, :3], np.stack([-turn[:, 1], -turn[:, 2], turn[:, 0]], axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "file_path", "camera"),
    [
        ("libero_spatial_no_noops", "x.hdf5", "tabletop"),
        ("libero_goal", "x.hdf5", "tabletop"),
        ("libero_object_no_noops", "x.hdf5", "floor"),
        ("libero_10_no_noops", "/a/KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5", "kitchen"),
        ("libero_90", "/a/STUDY_SCENE1_pick_up_the_book_demo.hdf5", "study"),
        ("libero_90", "/a/LIVING_ROOM_SCENE2_put_it_demo.hdf5", "living_room"),
    ],
)
def test_a_libero_episode_has_the_camera_of_its_suite_and_scene(
    tmp_path: Path, name: str, file_path: str, camera: str
) -> None:
    episode = read(libero(tmp_path, name, file_path))
    # The camera on the hand is not published, and is left out by itself.
    assert list(episode.views) == ["image"]
    view = episode.views["image"]
    expected = published()["libero"].cameras[camera].calibrated("published").world_from_camera
    assert isinstance(view.camera, Camera)
    assert np.array_equal(view.camera.world_from_camera, expected)
    assert view.camera.K[1, 1] == pytest.approx(6 / np.tan(np.radians(22.5)))
    assert view.origin is not None
    assert (view.origin.kind, "libero" in view.origin.source) == ("published", True)
    assert episode.provenance["calibration"]["image"]["kind"] == "published"


def test_a_scene_or_a_data_set_of_which_nothing_is_published_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingCalibrationError, match="camera of view 'image' is not known"):
        read(libero(tmp_path / "a", "libero_90", "/a/ATTIC_SCENE1_demo.hdf5"))
    with pytest.raises(MissingCalibrationError, match=r"publish no cameras.*--camera-file"):
        read(libero(tmp_path / "b", "libero_mine", "x"))
    with pytest.raises(MissingCalibrationError, match="--cameras published"):
        list(RLDSConverter(RLDSOptions()).discover(str(libero(tmp_path / "c", "libero_goal", "x"))))
    with pytest.raises(MissingCalibrationError, match="view 'wrist_image' is not known"):
        read(libero(tmp_path / "d", "libero_goal", "x"), only_views=("wrist_image",))


def test_a_libero_shaped_data_set_is_drawn_between_the_fingertips(tmp_path: Path) -> None:
    """Pictures drawn through the published camera, stored as LIBERO's copies are; nothing but --cameras is said."""
    frames, size = 8, 128
    folder = write_libero_demo(tmp_path / "rlds", frames=frames, size=size)
    command = ["convert", "rlds", str(folder), str(tmp_path / "out"), "--cameras", "published", "-j", "1"]
    result = CliRunner().invoke(main, [*command, "--size", str(size)])
    assert result.exit_code == 0, result.output
    (sample,) = open_dataset(tmp_path / "out")
    assert sample.views == ("image",)
    assert sample.meta.camera_origins["image"].kind == "published"
    motion = scene.make_motion(frames, 0)
    camera = sample.cameras["image"][0]
    pose = transforms.invert(LIBERO_FROM_DEMO) @ camera.world_from_camera
    renderer = scene.SceneRenderer(motion, size)
    seen, drawn = sample.rgb("image"), sample.action("image")
    assert np.allclose(sample.trajectory.openness, motion.gripper_open)
    for t in range(frames):
        picture = renderer.draw(Camera(camera.K, pose, size, size), t)
        # The way the camera saw it, and not its mirror image.
        error = [np.abs(seen[t].astype(float) - p).mean() for p in (picture.rgb, picture.rgb[:, ::-1])]
        assert error[0] < 6 < error[1]
        # Red is brightest between the fingertips: below the hand, and inside the gripper's own width.
        v, u = np.unravel_index(drawn[t, ..., 0].argmax(), (size, size))
        rows, columns = np.nonzero(picture.ids == scene.GRIPPER_ID)
        assert columns.min() <= u <= columns.max()
        assert abs(int(v) - int(rows.max())) <= size // 16


@pytest.mark.realdata
def test_bridges_published_camera_sees_the_gripper(sample_data: Path) -> None:
    converter = RLDSConverter(RLDSOptions(cameras="published", instruction="do it"))
    inside = []
    for ref in converter.discover(str(sample_data / "rlds" / "bridge_dataset")):
        episode = converter.read(ref)
        assert list(episode.views) == ["image_0"]
        view = episode.views["image_0"]
        assert isinstance(view.camera, Camera)
        assert view.origin is not None
        assert view.origin.kind == "estimate"
        # Squeezed from 640x480 to a square.
        assert view.camera.K[1, 1] / view.camera.K[0, 0] == pytest.approx(640 / 480)
        uv, in_front = view.camera.project(episode.trajectory.position)
        inside += list(in_front & (uv > 0).all(-1) & (uv < view.frames.width).all(-1))
    assert np.mean(inside) > 0.75

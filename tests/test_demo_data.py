"""The demo data is true: pictures, cameras and poses belong together; the same seed gives the same files."""

from __future__ import annotations

import doctest
import hashlib
import pickle
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from processes import run_program

from actionimg_data import testing
from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.demo import rlbench, scene
from actionimg_data.errors import InvalidSpecError, OutputExistsError
from actionimg_data.geometry import rotations


def digest(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("layout", ["peract", "stepjam"])
def test_the_same_seed_gives_the_same_files_and_another_gives_others(tmp_path: Path, layout: str) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 30)):
        testing.write_rlbench_dataset(tmp_path / name, 2, 3, 32, layout=layout, seed=seed)
    a, b, c = (digest(tmp_path / name) for name in "abc")
    assert a == b
    assert list(a) == list(c)
    assert len(set(a.values()) & set(c.values())) <= 4  # two variations' descriptions and numbers


def test_the_processed_tree_is_the_same_each_time(tmp_path: Path) -> None:
    for name in "ab":
        testing.write_action_images_tree(tmp_path / name, 1, 9, 32)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_the_layouts_have_rlbenchs_own_file_names(tmp_path: Path) -> None:
    testing.write_rlbench_dataset(tmp_path / "p", 1, 2, 16, cameras=("front",), depth_and_masks=True)
    episode = "place_cube/all_variations/episodes/episode0"
    assert list(digest(tmp_path / "p")) == [
        *(f"{episode}/front_{kind}/{i}.png" for kind in ("depth", "mask", "rgb") for i in (0, 1)),
        *(f"{episode}/{name}.pkl" for name in ("low_dim_obs", "variation_descriptions", "variation_number")),
    ]
    testing.write_rlbench_dataset(tmp_path / "s", 1, 1, 16, cameras=("wrist",), layout="stepjam", task="lift")
    assert list(digest(tmp_path / "s")) == [
        "lift/variation0/episodes/episode0/low_dim_obs.pkl",
        "lift/variation0/episodes/episode0/wrist_rgb/0.png",
        "lift/variation0/variation_descriptions.pkl",
    ]


def test_pickles_name_rlbenchs_classes_and_leave_no_module_behind(tmp_path: Path) -> None:
    testing.write_rlbench_dataset(tmp_path, 1, 2, 16, cameras=("front",))
    data = (tmp_path / "place_cube/all_variations/episodes/episode0/low_dim_obs.pkl").read_bytes()
    assert b"rlbench.demo" in data
    assert b"rlbench.backend.observation" in data
    assert not any(name.split(".")[0] == "rlbench" for name in sys.modules)
    with pytest.raises(ModuleNotFoundError, match="rlbench"):
        pickle.loads(data)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read_back(tmp_path: Path, protocol: int) -> None:
    testing.write_rlbench_dataset(tmp_path, 1, 3, 16, cameras=("front",), protocol=protocol)
    converter = RLBenchConverter()
    episode = converter.read(next(converter.discover(str(tmp_path))))
    assert len(episode) == 3


@pytest.mark.parametrize("frames", [1, 2, 7, 60])
def test_motions_are_rigid_continuous_and_grasp_the_cube(frames: int) -> None:
    for seed in range(4):
        motion = scene.make_motion(frames, seed)
        assert len(motion) == frames
        for poses in (motion.world_from_gripper, motion.world_from_cube):
            assert rotations.orthonormality_error(poses[:, :3, :3]).max() < 1e-9
        assert motion.world_from_cube[:, 2, 3].min() > scene.TABLE_HEIGHT
        assert ((motion.jaw >= 0) & (motion.jaw <= 1)).all()
        if frames < 60:
            continue
        assert np.linalg.norm(np.diff(motion.world_from_gripper[:, :3, 3], axis=0), axis=1).max() < 0.08
        assert np.linalg.norm(np.diff(motion.world_from_cube[:, :3, 3], axis=0), axis=1).max() < 0.08
        closed = motion.gripper_open == 0
        assert 0.3 < closed.mean() < 0.8
        apart = np.linalg.norm(motion.world_from_gripper[:, :3, 3] - motion.world_from_cube[:, :3, 3], axis=1)
        assert apart[closed].max() < 0.02
        assert np.allclose(motion.world_from_cube[-1, :2, 3], motion.mat[:2], atol=1e-3)


def test_fingers_close_on_the_cube_and_do_not_enter_it() -> None:
    gripper = scene.gripper_model(max_width=0.08)
    motion = scene.make_motion(60, 0)
    fingers = (
        gripper.vertices[gripper.opening[:, 1] > 0] + motion.jaw.min() * gripper.opening[gripper.opening[:, 1] > 0]
    )
    assert abs(fingers[:, 1].min() - 0.0225) < 0.001


@pytest.mark.parametrize("name", scene.CAMERAS)
def test_pictures_show_the_gripper_where_its_pose_says(name: str) -> None:
    size = 96
    for seed in (0, 5):
        motion = scene.make_motion(12, seed)
        renderer = scene.SceneRenderer(motion, size)
        track = scene.make_cameras(motion, size, [name])[name].track(12)
        seen = 0
        for i in range(12):
            picture = renderer.draw(track[i], i)
            assert picture.rgb.shape == (size, size, 3)
            (uv,), valid = track[i].project(motion.world_from_gripper[i : i + 1, :3, 3])
            assert valid.all()
            held = np.isin(picture.ids, (scene.GRIPPER_ID, 4))
            if not ((uv > 4) & (uv < size - 4)).all() or not held.any():
                continue
            rows, columns = np.nonzero(held)
            nearest = np.hypot(columns + 0.5 - uv[0], rows + 0.5 - uv[1]).min()
            # Open fingers stand 4 cm to either side of the origin: f / z pixels a metre.
            reach = (
                0.045
                * track[i].K[0, 0]
                / np.linalg.norm(track[i].world_from_camera[:3, 3] - motion.world_from_gripper[i, :3, 3])
            )
            if name != "overhead":  # there the arm hides the fingers
                assert nearest < reach + 2
            seen += 1
        assert seen >= 6


def test_depth_is_the_true_distance() -> None:
    """A pixel unprojected with its depth lies on the cube or on the table."""
    motion = scene.make_motion(30, 1)
    camera = scene.make_cameras(motion, 128, ["front"])["front"].track(1)[0]
    picture = scene.SceneRenderer(motion, 128).draw(camera, 0)
    for object_id, low, high in ((4, 0.0, 0.0461), (1, -1e-3, 1e-3)):
        # Away from the rim, where two samples a pixel differ.
        inside = cv2.erode((picture.ids == object_id).astype(np.uint8), np.ones((3, 3), np.uint8))
        rows, columns = np.nonzero(inside)
        assert len(rows) > 10
        # The sample that stands for a pixel lies a quarter of a pixel past its centre.
        at = np.stack([columns + 0.75, rows + 0.75, np.ones(len(rows))], axis=-1)
        rays = at @ np.linalg.inv(camera.K).T * picture.depth[rows, columns][:, None]
        world = rays @ camera.world_from_camera[:3, :3].T + camera.world_from_camera[:3, 3]
        height = world[:, 2] - scene.TABLE_HEIGHT
        assert height.min() > low - 2e-3
        assert height.max() < high + 2e-3


def test_depth_and_mask_pictures_have_rlbenchs_encoding(tmp_path: Path) -> None:
    testing.write_rlbench_dataset(tmp_path, 1, 2, 64, cameras=("front",), depth_and_masks=True)
    folder = tmp_path / "place_cube/all_variations/episodes/episode0"
    motion = scene.make_motion(2, 0, "red")
    truth = scene.SceneRenderer(motion, 64).draw(scene.make_cameras(motion, 64, ["front"])["front"].track(1)[0], 1)
    b, g, r = (cv2.imread(str(folder / "front_depth/1.png"))[..., i].astype(np.float64) for i in range(3))
    unit = (r * 65536 + g * 256 + b) / (2**24 - 1)
    metres = rlbench.NEAR + unit * (rlbench.FAR - rlbench.NEAR)
    near = truth.depth < rlbench.FAR
    assert np.abs(metres - truth.depth)[near].max() < 1e-6
    mask = cv2.imread(str(folder / "front_mask/1.png"))
    assert np.array_equal(mask[..., 2], truth.ids)
    assert np.array_equal(cv2.imread(str(folder / "front_rgb/1.png"))[..., ::-1], truth.rgb)


def test_pictures_have_light_shade_and_every_object() -> None:
    motion = scene.make_motion(30, 0)
    picture = scene.SceneRenderer(motion, 128).draw(scene.make_cameras(motion, 128, ["front"])["front"].track(1)[0], 8)
    assert set(np.unique(picture.ids)) == {0, 1, 2, 3, 4}
    table = picture.rgb[picture.ids == 1].astype(float).mean(-1)
    assert np.percentile(table, 1) < 0.65 * np.median(table)  # a shadow
    cube = picture.rgb[picture.ids == 4].astype(float)
    assert cube[:, 0].mean() > 2 * cube[:, 1:].mean()
    assert np.ptp(cube[:, 0]) > 60  # its faces differ


@pytest.mark.parametrize(
    "wrong",
    [{"episodes": 0}, {"frames": 0}, {"cameras": ("front", "side")}, {"layout": "other"}],
)
def test_wrong_arguments_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpecError):
        testing.write_rlbench_dataset(tmp_path, **{"size": 16, "frames": 1, **wrong})


def test_data_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    testing.write_rlbench_dataset(tmp_path, 1, 1, 16, cameras=("front",))
    before = digest(tmp_path)
    with pytest.raises(OutputExistsError, match="place_cube"):
        testing.write_rlbench_dataset(tmp_path, 1, 1, 16, cameras=("front",))
    assert digest(tmp_path) == before


def test_importing_the_package_imports_neither_pytest_nor_the_renderer() -> None:
    code = (
        "import sys, actionimg_data.testing as t; "
        "heavy = {'pytest', 'cv2', 'trimesh', 'av', 'torch'} & set(sys.modules); "
        "assert not heavy, heavy; t.write_rlbench_dataset; assert 'pytest' not in sys.modules; "
        "assert 'ConverterContract' in dir(t)"
    )
    run_program([sys.executable, "-c", code])
    with pytest.raises(AttributeError, match="nothing"):
        _ = testing.nothing


def test_the_gripper_alone_is_drawn_over_paper() -> None:
    camera = scene.make_cameras(scene.make_motion(1, 0), 64, ("front",))["front"]
    pose = scene.make_motion(1, 0).world_from_gripper[0]
    wide, narrow = (scene.draw_gripper(camera, o, pose, (255, 255, 255)) for o in (1.0, 0.0))
    for picture in (wide, narrow):
        there = picture.ids == scene.GRIPPER_ID
        assert 20 < there.sum() < 2000
        assert (picture.rgb[0, 0] == 255).all()
        assert picture.depth[there].max() < 2 < picture.depth[~there].min()
    assert (wide.ids != narrow.ids).any()


@pytest.mark.parametrize("name", testing.__all__)
def test_every_public_name_for_authors_has_an_example_that_is_true(name: str) -> None:
    found = getattr(testing, name)
    assert "Example:" in (found.__doc__ or "")
    examples = [e for e in doctest.DocTestFinder(recurse=False).find(found, name) if e.examples]
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for example in examples:
        assert runner.run(example).failed == 0
    assert examples or name == "ConverterContract"  # whose example is run as the plug-in's own test

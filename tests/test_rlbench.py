"""RLBench demos of every layout are found, in order, and read with true poses, cameras and texts."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from actionimg_data.cli import main
from actionimg_data.converters import detect
from actionimg_data.converters.kit.tree import links_below, natural_key
from actionimg_data.converters.rlbench import RLBenchConverter, RLBenchOptions
from actionimg_data.converters.rlbench_tree import DEMO_CLASSES
from actionimg_data.demo import scene
from actionimg_data.demo.rlbench import coppelia_camera
from actionimg_data.errors import InvalidSpecError, WrongFormatError
from actionimg_data.geometry import rotations
from actionimg_data.model import Camera, CameraTrack, Episode
from actionimg_data.testing import ConverterContract, write_rlbench_dataset
from actionimg_data.untrusted import pickles as _safe_pickle

pytestmark = pytest.mark.usefixtures("settled_heap")

FRAMES, SIZE = 6, 48


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rlbench")
    return {
        layout: write_rlbench_dataset(root / layout, episodes=3, frames=FRAMES, size=SIZE, layout=layout)
        for layout in ("peract", "stepjam")
    }


def copied(made: dict[str, Path], layout: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[layout], tmp_path / "data"))


def ids(source: Path, **options: object) -> list[str]:
    return [ref.id for ref in RLBenchConverter(RLBenchOptions(**options)).discover(str(source))]


def first(source: Path) -> Episode:
    converter = RLBenchConverter()
    return converter.read(next(converter.discover(str(source))))


class TestPerActKeepsTheContract(ConverterContract):
    @pytest.fixture
    def converter(self) -> RLBenchConverter:
        return RLBenchConverter()

    @pytest.fixture
    def source(self, made: dict[str, Path]) -> Path:
        return made["peract"]


class TestStepjamKeepsTheContract(TestPerActKeepsTheContract):
    @pytest.fixture
    def source(self, made: dict[str, Path]) -> Path:
        return made["stepjam"]


# Where episodes are found.

PERACT = [f"place_cube/all_variations/episode{i}" for i in range(3)]
STEPJAM = ["place_cube/variation0/episode0", "place_cube/variation0/episode1", "place_cube/variation1/episode0"]


@pytest.mark.parametrize(("layout", "expected"), [("peract", PERACT), ("stepjam", STEPJAM)])
def test_ids_do_not_depend_on_how_deep_the_source_is(made: dict[str, Path], layout: str, expected: list[str]) -> None:
    source = made[layout]
    group = expected[0].split("/")[1]
    in_group = [i for i in expected if f"/{group}/" in i]
    assert ids(source) == expected
    assert ids(source / "place_cube") == expected
    assert ids(source / "place_cube" / group) == in_group
    assert ids(source / "place_cube" / group / "episodes") == in_group
    assert ids(source / "place_cube" / group / "episodes" / "episode0") == expected[:1]
    assert ids(source.parent) == [f"peract/{i}" for i in PERACT] + [f"stepjam/{i}" for i in STEPJAM]


def test_relative_sources_and_trailing_slashes_are_the_same(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made["peract"])
    for source in (".", "place_cube", "./place_cube/", "../peract/place_cube//"):
        assert [ref.id for ref in RLBenchConverter().discover(source)] == PERACT


@pytest.mark.parametrize("layout", ["peract", "stepjam"])
def test_the_layout_is_detected(made: dict[str, Path], layout: str) -> None:
    found = detect(str(made[layout]))
    assert list(found) == ["rlbench"]
    assert found["rlbench"].layout == layout


def test_episodes_and_variations_are_in_numeric_order(made: dict[str, Path], tmp_path: Path) -> None:
    source = copied(made, "stepjam", tmp_path)
    task = source / "place_cube"
    (task / "variation0/episodes/episode1").rename(task / "variation0/episodes/episode10")
    shutil.copytree(task / "variation0/episodes/episode0", task / "variation0/episodes/episode2")
    (task / "variation1").rename(task / "variation11")
    shutil.copytree(task / "variation0", task / "variation3")
    assert ids(source) == [
        *(f"place_cube/variation0/episode{i}" for i in (0, 2, 10)),
        *(f"place_cube/variation3/episode{i}" for i in (0, 2, 10)),
        "place_cube/variation11/episode0",
    ]


def test_natural_order_sorts_numbers_by_value() -> None:
    names = ["episode10", "episode9", "a2b", "a10b", "a", "2", "10", "episode09"]
    assert sorted(names, key=natural_key) == ["2", "10", "a", "a2b", "a10b", "episode09", "episode9", "episode10"]


def test_colosseum_layouts_are_read(made: dict[str, Path], tmp_path: Path) -> None:
    source = copied(made, "stepjam", tmp_path)
    (source / "place_cube").rename(source / "place_cube_3")
    (source / "place_cube_3" / "save_state.pkl").write_bytes(b"whatever this is")
    bare = source / "place_cube_12"
    shutil.copytree(source / "place_cube_3/variation1/episodes", bare / "episodes")
    shutil.copy(source / "place_cube_3/variation1/variation_descriptions.pkl", bare)
    converter = RLBenchConverter()
    refs = list(converter.discover(str(source)))
    assert [r.id for r in refs] == [
        "place_cube_3/variation0/episode0",
        "place_cube_3/variation0/episode1",
        "place_cube_3/variation1/episode0",
        "place_cube_12/episode0",
    ]
    for ref, index, variation in zip(refs, (3, 3, 3, 12), (0, 0, 1, 1), strict=True):
        episode = converter.read(ref)
        assert episode.task == "place_cube"
        assert episode.provenance["layout"] == "colosseum"
        assert episode.provenance["colosseum_index"] == index
        assert episode.provenance["variation"] == variation
    assert episode.instruction == "put the blue cube on the green mat"
    assert ids(source, tasks=("place_cube_12",)) == ["place_cube_12/episode0"]
    assert len(ids(source, tasks=("place_cube",))) == 4


def test_an_episode_folder_by_itself_is_read(made: dict[str, Path], tmp_path: Path) -> None:
    alone = tmp_path / "my demo"
    shutil.copytree(made["peract"] / "place_cube/all_variations/episodes/episode1", alone)
    (ref,) = RLBenchConverter().discover(str(alone))
    assert ref.id.startswith("my_demo-")
    episode = RLBenchConverter().read(ref)
    assert episode.task is None
    assert episode.instruction == "put the blue cube on the green mat"


def test_links_that_lead_back_or_nowhere_and_dot_files_are_passed_over(made: dict[str, Path], tmp_path: Path) -> None:
    source = copied(made, "peract", tmp_path)
    before = list(RLBenchConverter().discover(str(source)))
    episodes = source / "place_cube/all_variations/episodes"
    (source / "loop").symlink_to(source, target_is_directory=True)
    (episodes / "up").symlink_to(source, target_is_directory=True)
    (episodes / "episode0" / "nowhere_rgb").symlink_to(tmp_path / "absent")
    (source / ".DS_Store").write_bytes(b"\0")
    (episodes / ".DS_Store").write_bytes(b"\0")
    (episodes / "episode0" / "front_rgb" / ".DS_Store").write_bytes(b"\0")
    (episodes / "episode0" / "front_rgb" / "._0.png").write_bytes(b"\0")
    shutil.copytree(episodes / "episode1", episodes / ".episode9")
    after = list(RLBenchConverter().discover(str(source)))
    assert after == before
    assert len(RLBenchConverter().read(after[0])) == FRAMES
    linked = tmp_path / "link"
    linked.symlink_to(source, target_is_directory=True)
    assert ids(linked) == PERACT


def test_a_subset_made_of_links_is_converted_as_its_targets_are(
    made: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = copied(made, "peract", tmp_path)
    whole = {ref.id: ref for ref in RLBenchConverter().discover(str(source))}
    subset = tmp_path / "subset/place_cube/all_variations"
    (subset / "episodes").mkdir(parents=True)
    there = source / "place_cube/all_variations/episodes"
    (subset / "episodes/episode1").symlink_to(there / "episode1", target_is_directory=True)
    (subset / "episodes/episode5").symlink_to(there / "absent", target_is_directory=True)
    # Two folders that hold links to each other: a walk through them has an end.
    for a, b in (("a", "b"), ("b", "a")):
        (tmp_path / "subset" / a).mkdir(exist_ok=True)
        (tmp_path / "subset" / a / "other").symlink_to(tmp_path / "subset" / b, target_is_directory=True)
    (ref,) = RLBenchConverter().discover(str(tmp_path / "subset"))
    assert ref.fingerprint == whole[ref.id].fingerprint
    assert len(RLBenchConverter().read(ref)) == FRAMES
    assert "episode5 is a link that leads nowhere" in caplog.text
    # Pictures that are links one by one, too.
    copy = tmp_path / "pictures/place_cube/all_variations/episodes/episode1"
    shutil.copytree(there / "episode1", copy, copy_function=lambda a, b: os.symlink(a, b))
    (ref,) = RLBenchConverter().discover(str(tmp_path / "pictures"))
    assert len(list(RLBenchConverter().read(ref).views["front"].frames.frames(range(FRAMES)))) == FRAMES
    links = links_below(tmp_path / "subset")
    assert links.followed == 3
    assert [Path(p).name for p in links.nowhere] == ["episode5"]
    assert len(links.back) == 2
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "subset"), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["links"]["followed"] == 3


def test_the_fingerprint_tells_changed_pictures_and_pickles(made: dict[str, Path], tmp_path: Path) -> None:
    source = copied(made, "peract", tmp_path)

    def fingerprints() -> list[str]:
        return [ref.fingerprint for ref in RLBenchConverter().discover(str(source))]

    episodes = source / "place_cube/all_variations/episodes"
    seen = [fingerprints()]
    with open(episodes / "episode0/wrist_rgb/3.png", "ab") as file:
        file.write(b"\0")
    seen.append(fingerprints())
    (episodes / "episode0/front_rgb/5.png").unlink()
    seen.append(fingerprints())
    (episodes / "episode0/low_dim_obs.pkl").write_bytes(b"")
    seen.append(fingerprints())
    (episodes / "episode0/wrist_mask").mkdir(exist_ok=True)
    (episodes / "episode0/wrist_mask/0.png").write_bytes(b"another")
    seen.append(fingerprints())
    assert len({f[0] for f in seen}) == 5
    assert len({tuple(f[1:]) for f in seen}) == 1


# What is asked for.


def test_tasks_and_variations_are_chosen(made: dict[str, Path]) -> None:
    assert ids(made["stepjam"], variations=(1,)) == STEPJAM[2:]
    assert ids(made["peract"], variations=(1,)) == PERACT[1:2]
    assert ids(made["peract"], variations=(0, 1)) == PERACT
    assert ids(made["peract"], tasks=("place_cube",)) == PERACT
    with pytest.raises(WrongFormatError, match=r"expected 0 \| 1, found 4"):
        ids(made["peract"], variations=(4,))
    with pytest.raises(WrongFormatError, match="expected place_cube, found open_drawer"):
        ids(made["peract"], tasks=("open_drawer",))


def test_cameras_are_chosen_in_the_order_asked_for(made: dict[str, Path]) -> None:
    converter = RLBenchConverter(RLBenchOptions(cameras=("wrist", "front")))
    episode = converter.read(next(converter.discover(str(made["peract"]))))
    assert list(episode.views) == ["wrist", "front"]
    converter = RLBenchConverter(RLBenchOptions(cameras=("side",)))
    ref = next(converter.discover(str(made["peract"])))
    with pytest.raises(WrongFormatError, match="found side"):
        converter.read(ref)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(InvalidSpecError, match="variation"):
        RLBenchOptions.parse({"variation": 3}, "rlbench")


# What is read.


@pytest.mark.parametrize("layout", ["peract", "stepjam"])
def test_poses_cameras_and_pictures_are_those_of_the_scene(made: dict[str, Path], layout: str) -> None:
    episode = first(made[layout])
    motion = scene.make_motion(FRAMES, 0, "red")
    assert list(episode.views) == ["front", "left_shoulder", "overhead", "right_shoulder", "wrist"]
    assert episode.fps == 20
    assert np.allclose(episode.trajectory.times, np.arange(FRAMES) / 20)
    assert np.allclose(episode.trajectory.world_from_gripper, motion.world_from_gripper, atol=1e-12)
    assert np.array_equal(episode.trajectory.openness, motion.gripper_open)
    renderer = scene.SceneRenderer(motion, SIZE)
    for name, truth in scene.make_cameras(motion, SIZE).items():
        view = episode.views[name]
        assert isinstance(view.camera, CameraTrack)
        assert view.camera.is_static == (name != "wrist")
        track = truth.track(FRAMES)
        assert np.allclose(view.camera.K, track.K, atol=1e-12)
        assert np.allclose(view.camera.world_from_camera, track.world_from_camera, atol=1e-12)
        for i, picture in zip((0, 3), view.frames.frames([0, 3]), strict=True):
            assert np.array_equal(picture, renderer.draw(track[i], i).rgb)


def test_texts_and_provenance_are_kept(made: dict[str, Path]) -> None:
    converter = RLBenchConverter()
    peract = [converter.read(ref) for ref in converter.discover(str(made["peract"]))]
    assert [e.provenance["variation"] for e in peract] == [0, 1, 0]
    assert peract[1].provenance["variation_source"] == "variation_number.pkl"
    assert len(peract[1].instructions) == 3
    assert peract[1].instruction == "put the blue cube on the green mat"
    assert peract[1].task == "place_cube"
    assert peract[1].provenance["path"] == "place_cube/all_variations/episodes/episode1"
    assert peract[1].provenance["layout"] == "peract"
    stepjam = [converter.read(ref) for ref in converter.discover(str(made["stepjam"]))]
    assert [e.provenance["variation"] for e in stepjam] == [0, 0, 1]
    assert stepjam[2].provenance["variation_source"] == "folder name"
    states = {e.provenance["random_state"] for e in peract}
    assert len(states) == 3
    assert None not in states


def test_descriptions_that_are_an_observation_give_the_task_name_and_say_so(
    made: dict[str, Path], tmp_path: Path
) -> None:
    from actionimg_data.demo.rlbench import pickle_demo

    source = copied(made, "stepjam", tmp_path)
    file = source / "place_cube/variation0/variation_descriptions.pkl"
    for contents, said in (
        (pickle_demo([], None, 0), "holds a pickled Demo"),
        (b"\x80\x02crlbench.backend.observation\nObservation\n)\x81}b.", "holds a pickled Observation"),
        (pickle.dumps([]), "is an empty list"),
        (None, "no variation_descriptions.pkl"),
    ):
        file.unlink() if contents is None else file.write_bytes(contents)
        episode = first(source)
        assert episode.instructions == ("place cube",)
        assert episode.provenance["instruction_source"].startswith("task name (")
        assert said in episode.provenance["instruction_source"]


def test_cameras_that_are_off_are_no_views(made: dict[str, Path], tmp_path: Path) -> None:
    source = copied(made, "peract", tmp_path)
    episode = source / "place_cube/all_variations/episodes/episode0"
    shutil.rmtree(episode / "overhead_rgb")
    for picture in (episode / "left_shoulder_rgb").iterdir():
        picture.unlink()  # RLBench makes the folder all the same
    assert list(first(source).views) == ["front", "right_shoulder", "wrist"]


def test_a_camera_without_calibration_is_a_view_without_a_camera(tmp_path: Path) -> None:
    source = write_rlbench_dataset(tmp_path, 1, 3, 32, cameras=("front",))
    folder = source / "place_cube/all_variations/episodes/episode0"
    shutil.copytree(folder / "front_rgb", folder / "phone_rgb")
    episode = first(source)
    assert episode.views["phone"].camera is None
    assert episode.views["front"].camera is not None
    assert episode.provenance["cameras_without_calibration"] == ["phone"]


def test_depth_and_masks_are_not_looked_at(tmp_path: Path) -> None:
    source = write_rlbench_dataset(tmp_path, 1, 2, 32, cameras=("front",), depth_and_masks=True)
    folder = source / "place_cube/all_variations/episodes/episode0"
    (folder / "front_mask" / "1.png").write_bytes(b"no picture")
    (folder / "front_depth" / "0.png").unlink()
    assert list(first(source).views) == ["front"]


def test_discover_unpickles_nothing_and_counts_pictures(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(_safe_pickle, "load", refuse)
    refs = list(RLBenchConverter().discover(str(made["peract"])))
    assert [ref.num_frames for ref in refs] == [FRAMES] * 3


def test_files_that_are_no_pictures_are_not_counted(made: dict[str, Path], tmp_path: Path) -> None:
    source = copied(made, "peract", tmp_path)
    (source / "place_cube/all_variations/episodes/episode0/front_rgb/Thumbs.db").write_bytes(b"\0")
    ref = next(RLBenchConverter().discover(str(source)))
    assert ref.num_frames == FRAMES
    assert len(RLBenchConverter().read(ref)) == FRAMES


def test_inspect_counts_episodes_a_task(made: dict[str, Path]) -> None:
    found = RLBenchConverter().inspect(str(made["peract"]))
    assert found["tasks"] == {"place_cube": 3}
    assert found["episodes"] == 3
    assert found["frames"] == 3 * FRAMES
    assert found["views"]["wrist"] == {"size": f"{SIZE}x{SIZE}", "calibrated": True}


# The real demos.


@pytest.fixture(scope="module")
def real(sample_data: Path) -> list[tuple[Path, Episode]]:
    converter = RLBenchConverter()
    refs = list(converter.discover(str(sample_data / "rlbench")))
    assert [r.id for r in refs] == [f"open_drawer/all_variations/episode{i}" for i in (0, 5)]
    return [(Path(r.location["source"]) / r.location["path"], converter.read(r)) for r in refs]


@pytest.mark.realdata
def test_real_demos_have_five_cameras_and_their_texts(real: list[tuple[Path, Episode]]) -> None:
    episode = real[0][1]
    assert list(episode.views) == ["front", "left_shoulder", "overhead", "right_shoulder", "wrist"]
    assert [name for name, view in episode.views.items() if not view.camera.is_static] == ["wrist"]
    assert episode.instruction == "open the top drawer"
    assert episode.provenance["variation"] == 2
    assert [len(e) for _, e in real] == [125, 96]


@pytest.mark.realdata
def test_real_poses_equal_the_recorded_gripper_matrices(real: list[tuple[Path, Episode]]) -> None:
    for path, episode in real:
        demo = _safe_pickle.load(path / "low_dim_obs.pkl", records=DEMO_CLASSES)
        recorded = np.stack([o.get("gripper_matrix") for o in demo.get("_observations")])
        ours = episode.trajectory.world_from_gripper
        assert np.abs(ours - recorded).max() < 1e-6
        assert rotations.angle_between(ours[:, :3, :3], recorded[:, :3, :3]).max() < 1e-6


@pytest.mark.realdata
def test_real_cameras_project_the_gripper_between_its_fingers(real: list[tuple[Path, Episode]]) -> None:
    """The projected origin lies within a few pixels of what is seen of the fingers, and nowhere near it otherwise.

    The fingers' handles are found in the wrist camera: one touches each lower corner in every frame.
    """
    found: dict[str, list[float]] = {"ours": [], "|f|, axes as stored": [], "pose inverted": []}
    for path, episode in real:
        fingers = _finger_handles(path, len(episode))
        assert len(fingers) == 2
        per_camera = {}
        for name in ("front", "left_shoulder", "overhead", "right_shoulder"):
            camera = episode.views[name].camera[0]
            wrong = {
                "ours": camera,
                "|f|, axes as stored": replace_pose(camera, camera.world_from_camera @ np.diag([-1.0, -1, 1, 1])),
                "pose inverted": replace_pose(camera, np.linalg.inv(camera.world_from_camera)),
            }
            own = []
            for i in range(0, len(episode), 5):
                rows, columns = np.nonzero(np.isin(_handles(path / f"{name}_mask" / f"{i}.png"), list(fingers)))
                if len(rows) < 8:
                    continue
                for kind, model in wrong.items():
                    uv, valid = model.project(episode.trajectory.position[i : i + 1])
                    distance = np.hypot(columns + 0.5 - uv[0, 0], rows + 0.5 - uv[0, 1]).min()
                    found[kind].append(float(distance) if valid[0] else np.inf)
                own.append(found["ours"][-1])
            per_camera[name] = float(np.median(own)) if own else None
        assert sum(d is not None for d in per_camera.values()) >= 3
        # The arm or the cabinet hides the fingertips in some cameras, so that only their upper part is seen.
        assert all(d is None or d < 8 for d in per_camera.values()), per_camera
    assert np.median(found["ours"]) < 3.5
    assert np.median(found["|f|, axes as stored"]) > 25
    assert np.median(found["pose inverted"]) > 25


def replace_pose(camera: Camera, world_from_camera: np.ndarray) -> Camera:
    return Camera(camera.K, world_from_camera, camera.width, camera.height)


def _handles(path: Path) -> np.ndarray:
    picture = cv2.imread(os.fspath(path)).astype(np.int64)
    return picture[..., 2] + 256 * picture[..., 1] + 65536 * picture[..., 0]


def _finger_handles(path: Path, frames: int) -> set[int]:
    seen = []
    for i in range(0, frames, 10):
        picture = _handles(path / "wrist_mask" / f"{i}.png")
        seen.append(set(np.unique(picture[-20:, :10])) | set(np.unique(picture[-20:, -10:])))
    return set.intersection(*seen)


def test_coppelia_cameras_come_back_as_they_were() -> None:
    from actionimg_data.converters.rlbench_tree import opencv_camera

    camera = scene.make_cameras(scene.make_motion(1, 0), 64)["front"]
    K, pose = coppelia_camera(camera)
    assert K[0, 0] < 0
    assert K[1, 1] < 0
    back = opencv_camera(K, pose)
    assert np.array_equal(back[0], camera.K)
    assert np.array_equal(back[1], camera.world_from_camera)
    point = np.array([0.3, 0.1, 0.8, 1.0])
    stored = K @ (np.linalg.inv(pose) @ point)[:3]
    assert np.allclose(camera.project(point[None, :3])[0][0], stored[:2] / stored[2])

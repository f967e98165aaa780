"""DROID in RLDS with its side files: one of two exterior cameras, unlabelled episodes, idle steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from actionimg_data import open_dataset
from actionimg_data.cameras.files import DroidKeepRanges
from actionimg_data.cli import main
from actionimg_data.converters.rlds import RLDSConverter, RLDSOptions
from actionimg_data.demo import rlds as w
from actionimg_data.errors import (
    BadFileError,
    EmptyEpisodeError,
    InvalidSpecError,
    InvalidTextError,
    MissingCalibrationError,
)
from actionimg_data.model import Camera, Episode

STEPS, HEIGHT, WIDTH = 12, 18, 32
PICTURES = ("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left")
PATHS = [f"LAB/success/2023-07-0{n}/Fri_Jul__{n}_09_00_00_2023" for n in range(1, 6)]
CODES = {"invalid-text": 1, "missing-calibration": 1}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIONIMG_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def looking(eye: tuple[float, float, float]) -> list[float]:
    """x y z and "xyz" Euler angles of a camera there that looks at what the arm does."""
    camera = Camera.looking_at(eye, (0.45, 0.0, 0.2), 1280, 720, vertical_fov_deg=60)
    return [*eye, *Rotation.from_matrix(camera.world_from_camera[:3, :3]).as_euler("xyz").tolist()]


def pictures(number: int) -> NDArray[np.uint8]:
    """``(T, H, W, 3)`` of a scene that is none, in which something moves."""
    still = np.random.default_rng(number).integers(0, 200, (HEIGHT, WIDTH, 3))
    video = np.repeat(still[None], STEPS, axis=0)
    for t in range(STEPS):
        video[t, 4:14, t : t + 12] = 255 - video[t, 4:14, t : t + 12]
    video[:, 0, 0] = 40 * number + 3 * np.arange(STEPS)[:, None]
    return video.astype(np.uint8)


@pytest.fixture(scope="module")
def droid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five episodes: the left camera is known, the right one, none, the left one without any words, and both."""
    tmp_path = tmp_path_factory.mktemp("droid")
    numbers = {"cartesian_position": w.tensor((6,), "float64"), "gripper_position": w.tensor((1,), "float64")}
    images = {name: w.image((HEIGHT, WIDTH, 3), encoding="png") for name in PICTURES}
    step = {"observation": {**numbers, **images}, "language_instruction": w.text()}
    node = w.episode_features(step, episode_metadata={"file_path": w.text(), "recording_folderpath": w.text()})
    made = []
    for path in PATHS:
        position = np.linspace([0.4, -0.1, 0.3], [0.5, 0.1, 0.4], STEPS)
        observation = {
            "cartesian_position": np.concatenate([position, np.tile([3.0, 0.1, 0.2], (STEPS, 1))], axis=1),
            "gripper_position": np.linspace(0, 1, STEPS)[:, None],
            **{name: pictures(number) for number, name in enumerate(PICTURES)},
        }
        values = {"observation": observation, "language_instruction": [""] * STEPS, **w.flags(STEPS)}
        metadata = {
            "file_path": f"gs://x/{path}/trajectory.h5",
            "recording_folderpath": f"gs://x/{path}/recordings/MP4",
        }
        made.append({"steps": values, "episode_metadata": metadata})
    folder = w.write_rlds(tmp_path / "data", "droid", node, {"train": made})
    side = tmp_path / "side"
    side.mkdir()
    left, right = looking((1.2, 0.6, 0.7)), looking((1.1, -0.7, 0.6))
    lens = [530.0, 640.0, 530.0, 360.0]
    every = range(1, len(PATHS) + 1)
    files: dict[str, Any] = {
        "cam2base_extrinsic_superset.json": {
            "ID1": {"11": left},
            "ID2": {"22": right},
            "ID4": {"41": left},
            "ID5": {"51": left, "52": right},
        },
        "intrinsics.json": {f"ID{n}": {f"{n}{m}": lens for m in (1, 2)} for n in every},
        "camera_serials.json": {
            f"ID{n}": {"ext1_cam_serial": f"{n}1", "ext2_cam_serial": f"{n}2", "wrist_cam_serial": f"{n}3"}
            for n in every
        },
        "episode_id_to_path.json": {f"ID{n + 1}": path for n, path in enumerate(PATHS)},
        "droid_language_annotations.json": {
            f"ID{n}": {f"language_instruction{m}": said for m, said in ((1, "Put it there"), (2, ""), (3, "move"))}
            for n in (1, 2, 3, 5)
        },
    }
    for name, content in files.items():
        (side / name).write_text(json.dumps(content))
    return folder, side


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def differing(droid: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of the documented command: of each episode the views whose camera is known."""
    folder, side = droid
    out = tmp_path_factory.mktemp("differing") / "out"
    result = run(
        "convert", "rlds", folder, out, "--droid-calibration", side, "--views", "calibrated", "--size", 256, "-j", 1
    )
    assert result.exit_code == 4, result.output
    return out


def read_all(folder: Path, side: Path | None, **options: Any) -> list[Episode | Exception]:
    converter = RLDSConverter(RLDSOptions(droid_calibration=side, **options))
    found: list[Episode | Exception] = []
    for ref in converter.discover(str(folder)):
        try:
            found.append(converter.read(ref))
        except (MissingCalibrationError, EmptyEpisodeError, InvalidTextError) as error:
            found.append(error)
    return found


def first_pixel(episode: Episode, step: int) -> int:
    (view,) = episode.views.values()
    return int(next(view.frames.frames([step]))[0, 0, 0])


def test_each_episode_has_the_exterior_camera_that_is_known_of_it_and_words_from_the_side_files(
    droid: tuple[Path, Path],
) -> None:
    left, right, neither, wordless, both = read_all(*droid)
    assert isinstance(left, Episode)
    assert isinstance(right, Episode)
    # The wrist, of which the side files know nothing, is left out by itself.
    assert list(left.views) == list(right.views) == ["exterior"]
    assert [first_pixel(e, 0) for e in (left, right)] == [0, 40]
    assert left.provenance["calibration"]["exterior"]["view"] == "exterior_image_1_left"
    assert right.provenance["calibration"]["exterior"]["view"] == "exterior_image_2_left"
    assert right.provenance["calibration"]["exterior"]["droid"]["serial"] == "22"
    assert left.instructions == ("Put it there", "move")
    assert isinstance(neither, MissingCalibrationError)
    assert isinstance(both, Episode)
    assert "--views calibrated" in str(neither)
    assert isinstance(wordless, InvalidTextError)
    assert "--instruction" in str(wordless)


def test_views_that_are_named_are_taken_as_they_are(droid: tuple[Path, Path]) -> None:
    left, right, *_ = read_all(*droid, only_views=("exterior_image_2_left",))
    assert isinstance(left, MissingCalibrationError)
    assert isinstance(right, Episode)
    assert list(right.views) == ["exterior_image_2_left"]
    chosen = read_all(*droid, only_views=("exterior",))[0]
    assert isinstance(chosen, Episode)
    assert list(chosen.views) == ["exterior"]


def test_the_documented_command_converts_what_can_be_with_no_other_option(
    droid: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, side = droid
    result = run("convert", "rlds", folder, tmp_path / "out", "--droid-calibration", side, "--json")
    assert result.exit_code == 4, result.output
    found = json.loads(result.stdout)
    assert (found["samples"], found["views"], found["quarantine_codes"]) == (3, ["exterior"], CODES)
    # The gripper's frame is the registry's: fingers ahead of the flange, opening along its y.
    sample = open_dataset(tmp_path / "out")[0]
    flange = Rotation.from_euler("xyz", [3.0, 0.1, 0.2])
    assert np.allclose(sample.trajectory.position[0], np.array([0.4, -0.1, 0.3]) + flange.apply([0, 0, 0.1488]))
    assert np.allclose(sample.trajectory.rotation[0], flange.as_matrix())


def test_episodes_that_have_no_camera_are_no_bad_ones_unless_all_are_so(
    droid: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, side = droid
    few = tmp_path / "side"
    shutil.copytree(side, few)
    known = json.loads((side / "cam2base_extrinsic_superset.json").read_text())
    (few / "cam2base_extrinsic_superset.json").write_text(json.dumps({"ID1": known["ID1"]}))
    command = ["convert", "rlds", folder, tmp_path / "out", "--droid-calibration", few, "--size", 32, "-j", 1]
    result = run(*command, "--max-bad-fraction", 0, "--json")
    assert result.exit_code == 4, result.output
    assert json.loads(result.stdout)["quarantine_codes"] == {"missing-calibration": 4}
    (few / "cam2base_extrinsic_superset.json").write_text("{}")
    assert run(*command, "--overwrite").exit_code == 1


def test_views_calibrated_takes_of_each_episode_the_views_that_have_a_camera(differing: Path) -> None:
    data = open_dataset(differing)
    one, two = PICTURES[:2]
    assert data.manifest is not None
    assert data.manifest.views == (one, two)
    assert data.manifest.counts is not None
    assert data.manifest.counts.quarantine_codes == CODES
    wanted = [(one,), (two,), (one, two)]
    assert [s.views for s in data] == [tuple(v) for v in data.table["views"].to_pylist()] == wanted
    for sample, views in zip(data, wanted, strict=True):
        assert tuple(sample.cameras) == views
        members = {m for v in views for m in (f"{v}.rgb.mp4", f"{v}.action.mp4")}
        assert set(sample.members) == {"json", "trajectory.npz", "cameras.npz", *members}
        assert all(sample.action(view, [3]).max() > 200 for view in views)


def test_verify_inspect_report_and_repair_know_that_samples_differ(differing: Path, tmp_path: Path) -> None:
    summary = json.loads(run("verify", differing, "-j", 1, "--json").stdout)
    assert (summary["ok"], summary["proven"], summary["unproven_samples"]) == (True, True, 2)
    assert summary["samples_by_view"] == dict.fromkeys(PICTURES[:2], 2)
    assert summary["samples_by_number_of_views"] == {"1": 2, "2": 1}
    assert "exterior_image_1_left in 2 of 3 samples" in " ".join(run("inspect", differing).stdout.split())
    made = run("report", differing, "--html", tmp_path / "report.html", "--samples", 3)
    assert made.exit_code == 0, made.output
    assert "--views calibrated,exterior_image_1_left,exterior_image_2_left" in (tmp_path / "report.html").read_text()
    whole = {p.name: p.read_bytes() for p in differing.rglob("*.*") if p.is_file()}
    copy = tmp_path / "copy"
    shutil.copytree(differing, copy)
    next((copy / "train").glob("000004.tar")).write_bytes(b"")
    assert run("repair", copy, "-j", 1).exit_code in (0, 4)
    assert {p.name: p.read_bytes() for p in copy.rglob("*.*") if p.is_file()} == whole


def test_a_view_that_a_sample_may_not_have_is_found(differing: Path) -> None:
    manifest = open_dataset(differing).manifest
    assert manifest is not None
    one, two = manifest.views
    assert [manifest.may_have(v) for v in ((one,), (two,), (one, two))] == [True] * 3
    assert [manifest.may_have(v) for v in ((), (two, one), (one, "wrist"))] == [False] * 3
    fixed = manifest.model_copy(update={"options": manifest.options.model_copy(update={"views_per_sample": ""})})
    assert [fixed.may_have(v) for v in ((one,), (one, two))] == [False, True]


def test_training_draws_views_among_those_that_a_sample_has(differing: Path) -> None:
    pytest.importorskip("torch")
    from actionimg_data.training import ActionImageDataset, IndexedActionImageDataset, collate

    options = {"num_frames": 5, "size": 32, "modes": {"joint": 1.0}}
    data = ActionImageDataset(str(differing), views=1, epochs=12, **options)
    shown: dict[str, set[str]] = {}
    samples = list(data)
    for sample in samples:
        shown.setdefault(sample["key"], set()).update(sample["view_names"])
    has = {s.key: set(s.views) for s in open_dataset(differing)}
    assert shown == has
    assert collate(samples)["video"].shape == (36, 3, 5, 32, 32)
    told = data.describe(0)
    assert told["samples"] == 3
    (source,) = told["sources"].values()
    assert sum(source["views"].values()) == sum(source["drawn"].values()) == 3
    with pytest.raises(InvalidSpecError, match=r"2 of 3 samples have fewer views.*few_views='skip'"):
        ActionImageDataset(str(differing), views=2, **options)
    (pair,) = ActionImageDataset(str(differing), views=2, few_views="skip", **options)
    assert set(pair["view_names"]) == set(PICTURES[:2])
    table = IndexedActionImageDataset(str(differing), views=1, **options)
    with pytest.raises(InvalidSpecError, match="bad choice of views"):
        table.sample(0, views=[PICTURES[1]])


def test_exports_take_what_their_layouts_can_hold(differing: Path, tmp_path: Path) -> None:
    tree = run("export", "reference-tree", differing, tmp_path / "tree")
    assert tree.exit_code == 0, tree.output
    listed = json.loads((tmp_path / "tree" / "export.json").read_text())["episodes"]
    assert [len(e["views"]) for e in listed] == [1, 1, 2]
    for kind, words in (("lerobot", "no view is in every sample"), ("huggingface", "the same members")):
        refused = run("export", kind, differing, tmp_path / kind)
        assert refused.exit_code == 1
        assert words in refused.stderr
    assert run("export", "wids", differing, tmp_path / "wids.json").exit_code == 0


@pytest.mark.parametrize("key", ["gs://x/{}/recordings/MP4--gs://x/{}/trajectory.h5", "{}", "/raw/{}/trajectory.h5"])
def test_idle_steps_are_left_out_and_the_rest_is_joined_at_the_episodes_rate(
    droid: tuple[Path, Path], tmp_path: Path, key: str
) -> None:
    path = tmp_path / "keep.json"
    path.write_text(json.dumps({key.replace("{}", PATHS[0]): [[1, 4], [8, 99]], key.replace("{}", PATHS[1]): []}))
    joined, idle, *_ = read_all(*droid, droid_keep_ranges=path)
    whole = read_all(*droid)[0]
    assert isinstance(joined, Episode)
    assert isinstance(whole, Episode)
    steps = [1, 2, 3, 8, 9, 10, 11]
    assert np.array_equal(joined.trajectory.position, whole.trajectory.position[steps])
    assert np.array_equal(joined.trajectory.openness, whole.trajectory.openness[steps])
    assert np.allclose(joined.times, np.arange(7) / 15)
    assert [first_pixel(joined, t) for t in range(7)] == [first_pixel(whole, s) for s in steps]
    assert joined.provenance["kept_steps"] == [[1, 4], [8, 12]]
    assert isinstance(idle, EmptyEpisodeError)


@pytest.mark.parametrize("ranges", [[[1]], [[3, 1]], [[-1, 2]], [["a", 2]], {"a": 1}, [[0, 1.5]]])
def test_ranges_that_are_none_are_refused(tmp_path: Path, ranges: Any) -> None:
    path = tmp_path / "keep.json"
    path.write_text(json.dumps({PATHS[0]: ranges}))
    with pytest.raises(BadFileError, match="no range"):
        DroidKeepRanges(path).steps(PATHS[0], 10)
    path.write_text("[]")
    with pytest.raises(BadFileError, match="not an object"):
        DroidKeepRanges(path)


def test_ranges_that_overlap_count_once(tmp_path: Path) -> None:
    path = tmp_path / "keep.json"
    path.write_text(json.dumps({PATHS[0]: [[2, 5], [0, 3]]}))
    steps: NDArray[np.intp] | None = DroidKeepRanges(path).steps(PATHS[0], 10)
    assert steps is not None
    assert steps.tolist() == [0, 1, 2, 3, 4]
    assert DroidKeepRanges(path).steps(PATHS[1], 10) is None

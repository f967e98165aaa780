"""DROID in RLDS with its side files: one of two exterior cameras, unlabelled episodes, idle steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from actionimg_data.cameras.files import DroidKeepRanges
from actionimg_data.cli import main
from actionimg_data.converters.rlds import RLDSConverter, RLDSOptions
from actionimg_data.demo import rlds as w
from actionimg_data.errors import BadFileError, EmptyEpisodeError, InvalidTextError, MissingCalibrationError
from actionimg_data.model import Episode

STEPS, HEIGHT, WIDTH = 12, 18, 32
PICTURES = ("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left")
PATHS = [f"LAB/success/2023-07-0{n}/Fri_Jul__{n}_09_00_00_2023" for n in range(1, 5)]
POSE = [0.4, 0.5, 0.6, -2.0, 0.1, 2.5]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIONIMG_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def droid(tmp_path: Path) -> tuple[Path, Path]:
    """Four episodes: the left camera is known, the right one, none, and the left one without any words."""
    numbers = {"cartesian_position": w.tensor((6,), "float64"), "gripper_position": w.tensor((1,), "float64")}
    images = {name: w.image((HEIGHT, WIDTH, 3), encoding="png") for name in PICTURES}
    step = {"observation": {**numbers, **images}, "language_instruction": w.text()}
    node = w.episode_features(step, episode_metadata={"file_path": w.text(), "recording_folderpath": w.text()})
    made = []
    for path in PATHS:
        position = np.linspace([0.4, -0.1, 0.3], [0.5, 0.1, 0.4], STEPS)
        pictures = {}
        for number, name in enumerate(PICTURES):
            noise = np.random.default_rng(number).integers(0, 200, (STEPS, HEIGHT, WIDTH, 3))
            pictures[name] = (noise * 0 + 40 * number + 3 * np.arange(STEPS)[:, None, None, None]).astype(np.uint8)
        observation = {
            "cartesian_position": np.concatenate([position, np.tile([3.0, 0.1, 0.2], (STEPS, 1))], axis=1),
            "gripper_position": np.linspace(0, 1, STEPS)[:, None],
            **pictures,
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
    lens = [26.0, 640.0, 26.0, 360.0]
    files: dict[str, Any] = {
        "cam2base_extrinsic_superset.json": {"ID1": {"11": POSE}, "ID2": {"22": POSE}, "ID4": {"41": POSE}},
        "intrinsics.json": {f"ID{n}": {f"{n}{m}": lens for m in (1, 2)} for n in range(1, 5)},
        "camera_serials.json": {
            f"ID{n}": {"ext1_cam_serial": f"{n}1", "ext2_cam_serial": f"{n}2", "wrist_cam_serial": f"{n}3"}
            for n in range(1, 5)
        },
        "episode_id_to_path.json": {f"ID{n + 1}": path for n, path in enumerate(PATHS)},
        "droid_language_annotations.json": {
            f"ID{n}": {f"language_instruction{m}": said for m, said in ((1, "Put it there"), (2, ""), (3, "move"))}
            for n in (1, 2, 3)
        },
    }
    for name, content in files.items():
        (side / name).write_text(json.dumps(content))
    return folder, side


def read_all(folder: Path, side: Path | None, **options: Any) -> list[Episode | Exception]:
    converter = RLDSConverter(RLDSOptions(droid_calibration=side, tool_from_gripper="identity", **options))
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
    left, right, neither, wordless = read_all(*droid)
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
    assert "--max-bad-fraction" in str(neither)
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


def test_the_documented_command_converts_what_can_be(droid: tuple[Path, Path], tmp_path: Path) -> None:
    folder, side = droid
    arguments = ["convert", "rlds", str(folder), str(tmp_path / "out"), "--droid-calibration", str(side)]
    arguments += ["--tool-from-gripper", "0 0 0.15 0 0 0 1", "--size", "32", "--num-workers", "1", "--json"]
    made_up = [part for kind in ("blank-pictures", "frozen-pictures", "out-of-view") for part in ("--allow", kind)]
    result = CliRunner().invoke(main, [*arguments, "--max-bad-fraction", "0.5", *made_up])
    assert result.exit_code == 4, result.output
    assert json.loads(result.stdout)["samples"] == 2


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

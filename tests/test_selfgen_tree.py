"""The tree of a public fork of the published code: written, and read back with depth and masks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from actionimg_data.cli import main
from actionimg_data.converters.action_images import ActionImagesConverter
from actionimg_data.converters.rlbench import RLBenchConverter
from actionimg_data.engine import convert
from actionimg_data.errors import (
    ActionImgError,
    BadFileError,
    BadImageError,
    FrameCountError,
    InvalidTextError,
    MissingFrameError,
    UnsafeFileError,
    WrongFormatError,
)
from actionimg_data.model import Episode
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import open_dataset
from actionimg_data.testing import write_rlbench_dataset
from actionimg_data.untrusted.arrays import NpzRows


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set ``out`` with depth and masks, and the tree ``tree`` exported from it."""
    place = tmp_path_factory.mktemp("selfgen")
    write_rlbench_dataset(place / "demos", 2, 8, 96, ("front", "wrist"), depth_and_masks=True)
    options = ConvertOptions.parse(height=96, width=96, depth=True, masks=True)
    convert(RLBenchConverter(), str(place / "demos"), place / "out", options)
    result = run("export", "reference-tree", place / "out", place / "tree", "--layout", "selfgen")
    assert result.exit_code == 0, result.output
    return place


@pytest.fixture
def episode(trees: Path, tmp_path: Path) -> Path:
    """The folder of an episode in a copy of the tree."""
    shutil.copytree(trees / "tree", tmp_path / "tree")
    return sorted((tmp_path / "tree").rglob("episode0"))[0]


def read(tree: Path) -> list[Episode]:
    found = ActionImagesConverter()
    return [found.read(ref) for ref in found.discover(str(tree))]


def test_the_tree_is_the_forks(trees: Path) -> None:
    folder = sorted((trees / "tree").rglob("episode0"))[0]
    sample = open_dataset(trees / "out")[0]
    actions = np.load(folder / "actions.npy")
    assert actions.shape == (8, 8)  # a row a frame
    cameras = json.loads((folder / "view1" / "camera_params.json").read_text())
    assert list(cameras) == [str(i) for i in range(8)]
    assert cameras["3"]["intrinsics"][0][0] < 0
    assert json.loads((folder / "meta.json").read_text())["instruction"] == sample.meta.instructions[0]
    with np.load(folder / "view0" / "depth.npz") as file:
        (depth,) = (file[name] for name in file.files)
    assert (depth.dtype, depth.shape) == (np.float16, (8, 96, 96))
    with np.load(folder / "view0" / "mask.npz") as file:
        (mask,) = (file[name] for name in file.files)
    handles = json.loads((folder / "handles.json").read_text())
    assert set(np.unique(mask).astype(str)) <= set(handles)


def test_it_comes_back_as_it_went(trees: Path) -> None:
    episodes = {e.instruction: e for e in read(trees / "tree")}
    dataset = open_dataset(trees / "out")
    assert len(episodes) == len(dataset)
    for sample in dataset:
        found = episodes[sample.meta.instructions[0]]
        assert found.fps == 20
        assert found.provenance["actions_per_frame"] == 1
        assert found.provenance["instruction_source"] == "meta.json"
        np.testing.assert_allclose(found.trajectory.position, sample.trajectory.position, atol=1e-12)
        for view, name in zip(("view0", "view1"), sample.meta.views, strict=True):
            shown = found.views[view]
            assert shown.camera is not None
            assert shown.depth is not None
            assert shown.mask is not None
            np.testing.assert_allclose(np.atleast_3d(shown.camera.K)[..., 0, 0], sample.cameras[name].K[0, 0, 0])
            stored = sample.depth(name)
            back = np.stack(list(shown.depth.frames(range(8))))
            known = stored > 0
            # 16-bit floats: 11 bits of a metre or two.
            assert np.abs(back[known].astype(int) - stored[known]).max() <= 1 + int(stored.max() / 2**11)
            np.testing.assert_array_equal(np.stack(list(shown.mask.frames([0, 5]))), sample.mask(name, [0, 5]))


def test_it_converts_with_depth_and_masks(trees: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    result = run("convert", "action-images", trees / "tree", out, "--size", 96, "--depth", "--masks", "-j", 1)
    assert result.exit_code == 0, result.output
    result = run("verify", out, "-j", 1)
    assert result.exit_code == 0, result.output


def test_without_depth_there_is_none(trees: Path, tmp_path: Path) -> None:
    write_rlbench_dataset(tmp_path / "demos", 1, 4, 48, ("front",))
    convert(RLBenchConverter(), str(tmp_path / "demos"), tmp_path / "out", ConvertOptions.parse(height=48, width=48))
    assert run("export", "reference-tree", tmp_path / "out", tmp_path / "t", "--layout", "selfgen").exit_code == 0
    (found,) = read(tmp_path / "t")
    assert found.views["view0"].depth is None
    assert found.views["view0"].mask is None


def short_depth(folder: Path) -> None:
    np.savez_compressed(folder / "view0" / "depth.npz", depth=np.zeros((7, 96, 96), np.float16))


def small_mask(folder: Path) -> None:
    np.savez_compressed(folder / "view0" / "mask.npz", mask=np.zeros((8, 40, 96), np.int32))


def float_mask(folder: Path) -> None:
    np.savez_compressed(folder / "view0" / "mask.npz", mask=np.zeros((8, 96, 96)))


def two_arrays(folder: Path) -> None:
    np.savez_compressed(folder / "view0" / "depth.npz", a=np.zeros(3), b=np.zeros(3))


def objects(folder: Path) -> None:
    np.savez_compressed(folder / "view0" / "depth.npz", depth=np.array([{}] * 8, dtype=object))


def cut(folder: Path) -> None:
    path = folder / "view0" / "depth.npz"
    path.write_bytes(path.read_bytes()[:300])


def no_words(folder: Path) -> None:
    (folder / "meta.json").write_text('{"task": "x"}')


def no_camera(folder: Path) -> None:
    path = folder / "view0" / "camera_params.json"
    cameras = json.loads(path.read_text())
    del cameras["7"]
    path.write_text(json.dumps(cameras))


@pytest.mark.parametrize(
    ("damage", "kind", "named"),
    [
        (short_depth, FrameCountError, "depth.npz"),
        (small_mask, BadImageError, "mask.npz"),
        (float_mask, BadFileError, "whole numbers"),
        (two_arrays, WrongFormatError, "several arrays"),
        (objects, UnsafeFileError, "depth.npz"),
        (cut, BadFileError, "depth.npz"),
        (no_words, InvalidTextError, "meta.json"),
        (no_camera, MissingFrameError, "camera_params.json.*7"),
    ],
)
def test_what_is_wrong_is_named_and_the_others_are_read(
    damage: Callable[[Path], None], kind: type[ActionImgError], named: str, episode: Path
) -> None:
    damage(episode)
    found = ActionImagesConverter()
    refs = list(found.discover(str(episode.parents[4])))
    good = 0
    for ref in refs:
        if (Path(str(ref.location["source"])) / str(ref.location["path"])).resolve() == episode.resolve():
            with pytest.raises(kind, match=named):
                found.read(ref)
        else:
            good += len(found.read(ref)) == 8
    assert good == len(refs) - 1


def test_rows_of_a_packed_array_are_those_of_numpy(tmp_path: Path) -> None:
    values = np.arange(7 * 5 * 3, dtype=np.int32).reshape(7, 5, 3)
    np.savez_compressed(tmp_path / "a.npz", a=values)
    rows = NpzRows.open(tmp_path / "a.npz", "a")
    for index in ([0, 1, 6], [6, 2, 2], []):
        np.testing.assert_array_equal(np.array(list(rows.rows(index))).reshape(-1, 5, 3), values[index])
    np.savez_compressed(tmp_path / "f.npz", a=np.asfortranarray(values))
    with pytest.raises(BadFileError, match="array of rows"):
        NpzRows.open(tmp_path / "f.npz")
    (tmp_path / "a.npz").unlink()
    with pytest.raises(BadFileError, match=r"a\.npz"):
        list(rows.rows([0]))

"""A named pipe in place of any file: every reader and every command says so at once, and waits for nobody."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from processes import PATIENCE

from actionimg_data.cameras.files import load_cameras, load_user_cameras
from actionimg_data.cli import main
from actionimg_data.cli._inputs import load_spec
from actionimg_data.converters import detect
from actionimg_data.converters.kit import tables
from actionimg_data.converters.kit.bags.reader import open_bag
from actionimg_data.converters.kit.frames import HDF5Frames, ImageFiles, ZarrFrames
from actionimg_data.converters.kit.pictures import PngFrames, png_size
from actionimg_data.converters.lerobot import LeRobotConverter
from actionimg_data.converters.recording.mapping import load_mapping
from actionimg_data.converters.rlds import open_rlds
from actionimg_data.errors import ActionImgError
from actionimg_data.model.files import read_trajectory
from actionimg_data.raster.gripper import load_mesh
from actionimg_data.shards import open_dataset
from actionimg_data.untrusted import files, pickles, text
from actionimg_data.untrusted.hdf5 import open_hdf5
from actionimg_data.video import VideoFrames, read_frames

GOLDEN = Path(__file__).parent / "golden" / "h264"
Read = Callable[[Path], object]


class Waited(BaseException):
    """No error of the code under test: it may catch those."""


@contextmanager
def promptly() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Waited

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def zarr_with(name: str) -> Read:
    def read(path: Path) -> object:
        zarr = pytest.importorskip("zarr")
        group = zarr.create_group(path, zarr_format=2)
        group.create_array("a", data=np.zeros((2, 4, 4, 3), np.uint8), chunks=(1, 4, 4, 3), fill_value=None)
        pipe(path / name)
        return list(ZarrFrames(path, "a").frames([0, 1]))

    return read


def rlds_with(name: str) -> Read:
    def read(path: Path) -> object:
        from actionimg_data.demo import rlds as w

        node = w.episode_features({"state": w.tensor((2,))})
        episode = {"steps": {"state": np.zeros((3, 2), np.float32), **w.flags(3)}}
        kind = next((kind for kind in RLDS_KINDS if kind in name), "tfrecord")
        folder = w.write_rlds(path, "small", node, {"train": [episode]}, file_format=kind)
        pipe(folder / name)
        return list(open_rlds(folder).episodes("train"))

    return read


RLDS_KINDS = ("tfrecord", "array_record", "parquet")
RLDS_FILES = ("features.json", "dataset_info.json", *(f"small-train.{kind}-00000-of-00001" for kind in RLDS_KINDS))
READERS: dict[str, tuple[str, Read]] = {
    "bytes": ("x.bin", files.read_bytes),
    "head": ("x.bin", lambda p: files.read_head(p, 4)),
    "yaml": ("x.yaml", text.load_yaml),
    "json": ("x.json", text.load_json),
    "pickle": ("x.pkl", pickles.load),
    "hdf5": ("x.hdf5", lambda p: open_hdf5(p).__enter__()),
    **{f"trajectory{s}": (f"x{s}", lambda p: read_trajectory(p, 20)) for s in (".csv", ".npz", ".npy", ".json")},
    **{f"cameras{s}": (f"x{s}", load_cameras) for s in (".json", ".yaml", ".xml", ".npz")},
    "camera file": ("x.json", load_user_cameras),
    "mapping": ("x.yaml", lambda p: load_mapping(str(p), "folder")),
    "spec": ("x.json", lambda p: load_spec(str(p), None)),
    **{
        f"table{s}": (f"x{s}", tables.open_table)
        for s in (".csv", ".tsv", ".jsonl", ".npz", ".parquet", ".h5", ".zarr.zip")
    },
    "zarr chunk": ("x.zarr", zarr_with("a/0.0.0.0")),
    "zarr group": ("x.zarr", zarr_with(".zgroup")),
    "zarr array": ("x.zarr", zarr_with("a/.zarray")),
    "video": ("x.mp4", VideoFrames),
    "video of a data set": ("x.mp4", read_frames),
    "pictures": ("0.jpg", lambda p: ImageFiles([str(p)], p)),
    "png": ("0.png", lambda p: png_size(str(p))),
    "numbered pngs": ("0.png", lambda p: next(PngFrames(str(p.parent), 1, 4, 4).frames([0]))),
    "pictures in hdf5": ("x.hdf5", lambda p: HDF5Frames(p, "rgb")),
    **{f"bag{s}": (f"x{s}", lambda p: open_bag(p).__enter__()) for s in (".mcap", ".db3", ".bag")},
    "bag's metadata": ("bag/metadata.yaml", lambda p: open_bag(p.parent).__enter__()),
    "urdf": ("x.urdf", load_mesh),
    "mesh": ("x.stl", load_mesh),
    "obj": ("x.obj", load_mesh),
    "lerobot": ("meta/info.json", lambda p: LeRobotConverter().inspect(str(p.parent.parent))),
    **{f"rlds {n}": ("x", rlds_with(n)) for n in RLDS_FILES},
}


@pytest.mark.parametrize("name", READERS)
def test_no_reader_waits(tmp_path: Path, name: str) -> None:
    file, read = READERS[name]
    path = tmp_path / file
    if not name.startswith(("zarr", "rlds")):
        pipe(path)
    with promptly(), pytest.raises(ActionImgError) as caught:
        read(path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a device", "a folder"])
def test_what_is_no_plain_file_is_said(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    bound = socket.socket(socket.AF_UNIX)
    if kind == "a named pipe":
        pipe(path)
    elif kind == "a socket":
        bound.bind(str(path))
    elif kind == "a device":
        path = Path("/dev/zero")
    else:
        path.mkdir()
    try:
        with promptly(), pytest.raises(OSError, match=f"is not a plain file, but {kind}"):
            files.open_plain(path)
        with promptly(), pytest.raises(ActionImgError, match=f"is not a plain file, but {kind}"):
            files.read_bytes(path)
    finally:
        bound.close()


# Data sets.


OWN = ["dataset.json", "plan.jsonl", "index.parquet", "quarantine.jsonl", "train/000000.json", "train/000000.tar"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "out"))


def run(*arguments: object) -> Any:
    with promptly():
        result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert not isinstance(result.exception, Waited)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.parametrize("name", OWN)
def test_no_command_waits_at_a_file_of_a_data_set(out: Path, name: str) -> None:
    pipe(out / name)
    result = run("verify", out, "--num-workers", 1)
    assert result.exit_code in (1, 3), result.output
    assert Path(name).name in result.output
    result = run("inspect", out)
    # Without its manifest it is no data set, and what else it could be is not known.
    assert result.exit_code == 0 or Path(name).name in result.output or "no converter recognises" in result.output
    if name not in ("plan.jsonl", "quarantine.jsonl", "train/000000.json"):
        with promptly(), pytest.raises(ActionImgError, match=Path(name).name.replace(".", r"\.")):
            next(iter(open_dataset(out))).rgb("front")


@pytest.mark.parametrize("name", ["dataset.json", "index.parquet", "train/000000.tar"])
def test_the_training_reader_does_not_wait(out: Path, name: str) -> None:
    pytest.importorskip("torch")
    from actionimg_data.training import ActionImageDataset

    pipe(out / name)
    with promptly(), pytest.raises(ActionImgError, match=Path(name).name.replace(".", r"\.")):
        list(ActionImageDataset(out))


def test_a_shard_that_is_a_pipe_is_not_waited_for(out: Path) -> None:
    assert run("inspect", pipe(out / "train/000000.tar")).exit_code == 1


# Commands.


@pytest.mark.parametrize("name", ["x.mcap", "x.h5", "x.csv", "x.mp4", "x.bag", "x.tar", "x"])
def test_inspect_does_not_wait(tmp_path: Path, name: str) -> None:
    result = run("inspect", pipe(tmp_path / name))
    assert result.exit_code in (1, 2), result.output


@pytest.mark.parametrize("name", ["poses.csv", "front.mp4", "calibration.json", "frame_times.csv", "mapping"])
def test_convert_and_inspect_do_not_wait(tmp_path: Path, name: str) -> None:
    from actionimg_data.demo.recordings import make_log, write_folder, write_yaml

    mapping = write_folder(make_log(frames=4, size=32, views=("front",)), tmp_path / "rec")
    path = write_yaml(tmp_path / "mapping.yaml", mapping)
    pipe(path if name == "mapping" else tmp_path / "rec" / name)
    for command in (
        ("convert", "folder", tmp_path / "rec", tmp_path / "out", "--mapping", path, "--num-workers", 1),
        ("inspect", tmp_path / "rec", "--mapping", path),
        ("render", tmp_path / "rec", "--mapping", path, "--out", tmp_path / "look"),
    ):
        result = run(*command)
        assert result.exit_code != 0 or command[0] == "inspect", (command[0], result.output)


@pytest.mark.parametrize("option", ["--spec", "--cameras", "VIDEO"])
def test_decode_does_not_wait(tmp_path: Path, option: str) -> None:
    fifo = pipe(tmp_path / "front.mp4")
    cameras = tmp_path / "cameras.json"
    camera = {"K": [[50, 0, 32], [0, 50, 32], [0, 0, 1]], "width": 64, "height": 64}
    cameras.write_text(json.dumps({"cameras": {"front": {**camera, "world_from_camera": np.eye(4).tolist()}}}))
    more = ("--spec", fifo) if option == "--spec" else ()
    given = fifo if option == "--cameras" else cameras
    result = run("decode", fifo, "--cameras", given, "--out", tmp_path / "t.csv", *more)
    assert result.exit_code in (1, 2)
    assert "front.mp4" in result.output


def test_render_does_not_wait(tmp_path: Path) -> None:
    fifo = pipe(tmp_path / "t.csv")
    result = run("render", fifo, "--cameras", pipe(tmp_path / "c.json"), "--out", tmp_path / "look")
    assert result.exit_code in (1, 2)


def test_no_converter_waits_to_tell_a_source(tmp_path: Path) -> None:
    for name in (
        "meta/info.json",
        "features.json",
        "dataset_info.json",
        "metadata.yaml",
        "poses.csv",
        "trajectory.h5",
        "x.hdf5",
        "x.mcap",
        "low_dim_obs.pkl",
        "variation_descriptions.pkl",
    ):
        pipe(tmp_path / name)
    with promptly():
        detect(str(tmp_path))

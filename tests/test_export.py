"""Exports, each read back by the program it is for."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from arms_data import make_dataset as make_arms
from click.testing import CliRunner
from processes import run_program
from scipy.spatial.transform import Rotation
from training_data import SIZE, VIEWS, BarConverter, make_camera, make_dataset, make_trajectory, read_bars

import actionimg_data as aid
from actionimg_data import engine
from actionimg_data.cli import main
from actionimg_data.converters import base
from actionimg_data.errors import (
    ActionImgError,
    CorruptDatasetError,
    InvalidSpecError,
    MissingExtraError,
    OutputExistsError,
    SourceNotFoundError,
    WrongFormatError,
)
from actionimg_data.export import KINDS, export
from actionimg_data.model import Episode, EpisodeRef, GripperTrajectory
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards.verify import round_trips

FRAMES = (22, 25, 18)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("export"), FRAMES)[0]


def number(key: str) -> int:
    return int(key.rpartition("_")[2])


def frames_of(path: Path | io.BytesIO) -> np.ndarray:
    with av.open(str(path) if isinstance(path, Path) else path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


# ---- the published tree --------------------------------------------------------------------------------------------


def published_episode(folder: Path) -> dict[str, Any]:
    """What the published loader makes of an episode's folder."""
    actions = np.load(folder / "actions.npy")[::4]
    euler = Rotation.from_quat(actions[:, 3:7]).as_euler("xyz")
    views = []
    for view in sorted(folder.glob("view*")):
        video = frames_of(view / "rgb" / "video.mp4")
        cameras = json.loads((view / "camera_params.json").read_text())
        stacked = [np.array([cameras[f"{j:04d}"][k] for j in range(len(video))]) for k in ("extrinsics", "intrinsics")]
        views.append((video, *stacked))
    return {"action_8d": actions, "action_7d": np.c_[actions[:, :3], euler, actions[:, 7:]], "views": views}


@pytest.mark.parametrize("every", [4, 2, 1])
def test_the_published_loader_gets_what_was_stored(dataset: Path, tmp_path: Path, every: int) -> None:
    result = export("reference-tree", dataset, tmp_path / "tree", every=every)
    assert (result.samples, result.left_out) == (3, [])
    assert f"{20 / every:g} Hz" in result.notes[0]
    listed = json.loads((tmp_path / "tree" / "export.json").read_text())["episodes"]
    assert len(listed) == 3
    for entry in listed:
        n = number(entry["key"])
        folder = tmp_path / "tree" / entry["episode"]
        texts = pickle.loads((folder.parents[1] / "variation_descriptions.pkl").read_bytes())
        assert texts == [f"open drawer {n}", f"pull out drawer {n}"]
        assert folder.parents[2].name == f"task_{n % 2}"
        path = make_trajectory(n, FRAMES[n], 20.0)
        stored = np.arange(0, FRAMES[n], every)
        found = published_episode(folder)
        np.testing.assert_array_equal(found["action_8d"], path.to_action8()[stored])
        np.testing.assert_allclose(found["action_7d"], path.to_action7()[stored], atol=1e-12)
        assert len(np.load(folder / "actions.npy")) > 4 * (len(stored) - 1)
        for view, (video, extrinsics, intrinsics) in enumerate(found["views"]):
            assert [read_bars(f[..., 0] / 127.5 - 1) for f in video] == [(n, view, int(i)) for i in stored]
            track = make_camera(VIEWS[view], FRAMES[n], SIZE).track(FRAMES[n])
            np.testing.assert_allclose(
                extrinsics, track.world_from_camera[stored] @ np.diag([-1, -1, 1, 1]), atol=1e-12
            )
            assert (intrinsics[:, 0, 0] < 0).all()
            assert (intrinsics[:, 1, 1] < 0).all()
            uvw = np.einsum("tij,tj->ti", intrinsics, _in_camera(extrinsics, path.position[stored]))
            ours = [track[int(i)].project(path.position[int(i)][None])[0][0] for i in stored]
            np.testing.assert_allclose(uvw[:, :2] / uvw[:, 2:], ours, atol=1e-9)


def _in_camera(extrinsics: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.einsum("tij,tj->ti", np.linalg.inv(extrinsics), np.c_[points, np.ones(len(points))])[:, :3]


def test_poses_between_frames_lie_between_them(dataset: Path, tmp_path: Path) -> None:
    export("reference-tree", dataset, tmp_path / "tree", every=1)
    actions = np.load(next((tmp_path / "tree").rglob("actions.npy")))
    at = actions.reshape(-1, 8)
    middle = (at[0:-4:4, :3] + at[4::4, :3]) / 2
    np.testing.assert_allclose(at[2::4, :3], middle, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(at[:, 3:7], axis=1), 1, atol=1e-12)
    before, half = Rotation.from_quat(at[0:-4:4, 3:7]), Rotation.from_quat(at[2::4, 3:7])
    after = Rotation.from_quat(at[4::4, 3:7])
    np.testing.assert_allclose((before.inv() * half).magnitude(), (half.inv() * after).magnitude(), atol=1e-9)


def test_the_tree_is_read_by_our_own_converter(dataset: Path, tmp_path: Path) -> None:
    export("reference-tree", dataset, tmp_path / "tree")
    converter = base.converter_class("action-images")()
    refs = list(converter.discover(str(tmp_path / "tree")))
    assert len(refs) == 3
    episode = converter.read(refs[0])
    n = number(episode.instruction.replace(" ", "_"))
    path = make_trajectory(n, FRAMES[n], 20.0)
    np.testing.assert_allclose(episode.trajectory.position, path.position[::4], atol=1e-12)
    camera = next(iter(episode.views.values())).camera
    assert camera is not None
    np.testing.assert_allclose(camera.track(len(episode)).K, make_camera("front", 1, SIZE).track(len(episode)).K)


# ---- wids, webdataset ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:String specifications for transformations")
def test_wids_reads_its_index(dataset: Path, tmp_path: Path) -> None:
    wids = pytest.importorskip("wids")
    target = tmp_path / "there" / "index.json"
    target.parent.mkdir()
    assert export("wids", dataset, target).samples == 3
    data = wids.ShardListDataset(str(target), cache_dir=str(tmp_path / "cache"), keep=True)
    assert len(data) == 3
    for i, sample in enumerate(data[j] for j in range(3)):
        assert number(sample[".json"]["key"]) == i
        video = frames_of(sample[".side.rgb.mp4"])
        assert [read_bars(f[..., 0] / 127.5 - 1) for f in video] == [(i, 1, j) for j in range(FRAMES[i])]
    with pytest.raises(OutputExistsError):
        export("wids", dataset, target)
    with pytest.raises(InvalidSpecError, match=r"\*\.json"):
        export("wids", dataset, tmp_path / "index")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_plain_webdataset_reads_the_shards(dataset: Path) -> None:
    import webdataset

    urls = [str(path) for path in sorted((dataset / "train").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [number(s["__key__"]) for s in samples] == [0, 1, 2]
    arrays = np.load(io.BytesIO(samples[1]["trajectory.npz"]))
    np.testing.assert_array_equal(arrays["position"], make_trajectory(1, FRAMES[1], 20.0).position)


# ---- Hugging Face, Energon -----------------------------------------------------------------------------------------

HUGGING_FACE = """
import sys, json
import datasets
root = sys.argv[1]
named = datasets.load_dataset("webdataset", data_files={"train": f"{root}/train/*.tar"}, split="train", streaming=True)
folder = datasets.load_dataset(root, split="train", streaming=True)
out = []
for data in (named, folder):
    rows = list(data.decode(False))
    videos = [len(r["side.rgb.mp4"]["bytes"]) for r in rows]
    positions = [list(r["trajectory.npz"]["position"][3]) for r in rows]
    out.append(list(zip([r["json"]["key"] for r in rows], videos, positions)))
    out.append(sorted(k for k, f in data.features.items() if isinstance(f, datasets.Video)))
print(json.dumps(out))
"""


def run_python(code: str, *arguments: Any, cache: Path) -> str:
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return run_program(command, env=environment).stdout.splitlines()[-1]


def test_hugging_face_loads_the_folder_and_the_shards(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    result = export("huggingface", dataset, tmp_path / "hub", license="apache-2.0")
    assert result.notes == ["next: the same command with --push USER/NAME uploads it"]
    rows, videos, again, _ = json.loads(run_python(HUGGING_FACE, tmp_path / "hub", cache=tmp_path / "cache"))
    assert again == rows
    assert videos == sorted(f"{view}.{kind}.mp4" for view in VIEWS for kind in ("rgb", "action"))
    for key, size, position in rows:
        assert size == len(aid.open_dataset(dataset)[key].read("side.rgb.mp4"))
        assert position == make_trajectory(number(key), FRAMES[number(key)], 20.0).position[3].tolist()
    text = (tmp_path / "hub" / "README.md").read_text()
    assert text.startswith("---\nlicense: apache-2.0\n")
    assert "3 samples, 65 frames in 3 calibrated views" in text


@pytest.mark.parametrize("link", ["hard", "symbolic", "copy"])
def test_exported_folders_are_data_sets_still(dataset: Path, tmp_path: Path, link: str) -> None:
    from actionimg_data.engine import verify

    export("huggingface", dataset, tmp_path / "hub", link=link)
    shard = tmp_path / "hub" / "train" / "000000.tar"
    assert shard.is_symlink() == (link == "symbolic")
    assert (shard.stat().st_ino == (dataset / "train" / "000000.tar").stat().st_ino) == (link != "copy")
    assert aid.open_dataset(tmp_path / "hub").keys() == aid.open_dataset(dataset).keys()
    assert verify(tmp_path / "hub", quick=True).ok


ENERGON = """
import json, sys, warnings
warnings.simplefilter("ignore")
from megatron.energon import Cooker, DefaultTaskEncoder, WorkerConfig, get_loader, get_train_dataset
from actionimg_data.training import collate
from actionimg_data.training.energon import Cook

class Encoder(DefaultTaskEncoder):
    decoder = None
    cookers = [Cooker(Cook(sys.argv[1], num_frames=5, size=64, plucker=False))]
    def batch(self, samples):
        return collate(samples)

data = get_train_dataset(
    sys.argv[1], batch_size=1, shuffle_buffer_size=None, max_samples_per_sequence=None, task_encoder=Encoder(),
    worker_config=WorkerConfig(rank=0, world_size=1, num_workers=1), repeat=False, split_part="train",
)
print(json.dumps([
    [b["key"][0], b["view_names"][0], b["frame_indices"][0].tolist(), b["video"][0, 0, :, 32].tolist(),
     list(b["action_video"].shape)]
    for b in get_loader(data)
]))
"""


def test_energon_cooks_the_samples(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("megatron.energon")
    result = export("energon", dataset, tmp_path / "energon")
    assert result.notes == [f"Then: energon prepare --tar-index-only {tmp_path / 'energon'}"]
    prepare = [str(Path(sys.executable).with_name("energon")), "prepare", "--tar-index-only", str(tmp_path / "energon")]
    run_program(prepare)
    samples = json.loads(run_python(ENERGON, tmp_path / "energon", cache=tmp_path / "cache"))
    assert sorted(number(key) for key, *_ in samples) == [0, 1, 2]
    for key, views, indices, rows, shape in samples:
        assert shape == [1, 3, 10, SIZE, SIZE]
        for i, view in enumerate(views):
            for j, frame in enumerate(indices):
                seen = read_bars(np.array(rows[i * 5 + j])[None])
                assert seen == (number(key), VIEWS.index(view), frame)


def test_the_cook_refuses_samples_of_other_data_sets(dataset: Path) -> None:
    from actionimg_data.training.energon import Cook

    with pytest.raises(CorruptDatasetError, match="is not a sample"):
        Cook(dataset, num_frames=5, size=SIZE)({"__key__": "train/000000.tar/other"})


# ---- LeRobot -------------------------------------------------------------------------------------------------------


def test_lerobots_layout_holds_together(dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / "lerobot"
    assert export("lerobot", dataset, root, robot_type="panda").samples == 3
    info = json.loads((root / "meta" / "info.json").read_text())
    total = sum(FRAMES)
    assert (info["codebase_version"], info["fps"], info["total_frames"], info["robot_type"]) == (
        "v3.0",
        20,
        total,
        "panda",
    )
    table = pq.read_table(root / info["data_path"].format(chunk_index=0, file_index=0))
    assert table["index"].to_pylist() == list(range(total))
    stored = {name for name, feature in info["features"].items() if feature["dtype"] != "video"}
    assert set(table.column_names) == stored
    for name in stored:
        assert info["features"][name]["shape"][0] == (
            1 if table.schema.field(name).type.num_fields == 0 else table.schema.field(name).type.list_size
        )
    episodes = pq.read_table(root / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    tasks = pq.read_table(root / "meta" / "tasks.parquet").to_pylist()
    for n, episode in enumerate(episodes):
        begin, end = episode["dataset_from_index"], episode["dataset_to_index"]
        rows = table.slice(begin, end - begin)
        action = np.array(rows["action"].to_pylist())
        np.testing.assert_allclose(action, make_trajectory(n, FRAMES[n], 20.0).to_action8(), atol=1e-6)
        task = next(t for t in tasks if t["task_index"] == rows["task_index"][0].as_py())
        assert task["__index_level_0__"] == f"open drawer {n}" == episode["tasks"][0]
        np.testing.assert_allclose(episode["stats/action/max"], action.max(0), atol=1e-6)
        for key in (f"observation.images.{VIEWS[2]}", f"action_images.{VIEWS[0]}"):
            place = {k: episode[f"videos/{key}/{k}"] for k in ("chunk_index", "file_index")}
            video = frames_of(root / info["video_path"].format(video_key=key, **place))
            assert len(video) == FRAMES[n] == round(episode[f"videos/{key}/to_timestamp"] * 20)
            if key.startswith("observation"):
                assert read_bars(video[7][..., 0] / 127.5 - 1) == (n, 2, 7)
    stats = json.loads((root / "meta" / "stats.json").read_text())
    actions = np.array(table["action"].to_pylist())
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(0), atol=1e-6)
    np.testing.assert_allclose(stats["action"]["std"], actions.std(0), atol=1e-6)
    assert np.array(stats["observation.images.front"]["mean"]).shape == (3, 1, 1)


def test_lossless_action_images_become_h264_for_lerobot(tmp_path: Path) -> None:
    out = make_dataset(tmp_path, (9,), views=("front", "side"), action_codec="none")[0]
    export("lerobot", out, tmp_path / "lerobot")
    video = frames_of(tmp_path / "lerobot" / "videos" / "action_images.front" / "chunk-000" / "file-000.mp4")
    drawn = aid.open_dataset(out)[0].action("front")
    assert np.abs(video.astype(int) - drawn).mean() < 4


# ---- all of them ---------------------------------------------------------------------------------------------------


# Trainers' exports go on after a failure: see test_trainers.py.
GOES_ON = ("diffsynth", "musubi", "finetrainers", "cosmos")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("wids", "window", *GOES_ON)])
def test_exports_write_new_folders_only_and_leave_nothing_of_a_failure(
    dataset: Path, tmp_path: Path, kind: str
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "precious").write_text("mine")
    with pytest.raises(OutputExistsError if kind != "rerun" else InvalidSpecError):
        export(kind, dataset, taken)
    assert [p.name for p in taken.iterdir()] == ["precious"]

    damaged = Path(shutil.copytree(dataset, tmp_path / "damaged"))
    (damaged / "plan.jsonl").unlink()
    os.truncate(damaged / "train" / "000001.tar", 5000)
    with pytest.raises(ActionImgError):
        export(kind, damaged, tmp_path / ("new" if kind != "rerun" else "new.rrd"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged", "taken"]


def test_bad_exports_are_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongFormatError, match="no such export"):
        export("zip", dataset, tmp_path / "x")
    with pytest.raises(InvalidSpecError, match="every"):
        export("reference-tree", dataset, tmp_path / "x", every=3)
    with pytest.raises(CorruptDatasetError, match="single shard"):
        export("huggingface", dataset / "train" / "000000.tar", tmp_path / "x")


def test_the_command_exports_and_checks_its_options(dataset: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    tree = [str(dataset), str(tmp_path / "tree")]
    done = runner.invoke(main, ["export", "reference-tree", *tree, "--every", "2", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["samples"] == 3
    again = runner.invoke(main, ["export", "reference-tree", *tree])
    assert again.exit_code == 1
    assert "output-exists" in again.stderr
    wrong = runner.invoke(main, ["export", "lerobot", str(dataset), str(tmp_path / "x"), "--link", "copy"])
    assert wrong.exit_code == 2
    assert "--link is not an option of lerobot" in wrong.stderr
    for kind in KINDS:
        assert kind in runner.invoke(main, ["export", "--help"]).output


# ---- rerun ---------------------------------------------------------------------------------------------------------


def recorded(path: Path) -> dict[str, Any]:
    """Entity to its columns, as pyarrow tables with a row for each log time, of the only recording in a file."""
    import pyarrow as pa
    from rerun.chunk import RrdReader

    reader = RrdReader(path)
    (entry,) = reader.recordings()
    assert len(reader.blueprints()) == 1
    found: dict[str, list[Any]] = {}
    for chunk in reader.store(store=entry).stream():
        batch = chunk.to_record_batch()
        found.setdefault(str(chunk.entity_path), []).append(
            {name: batch.column(i) for i, name in enumerate(batch.schema.names)}
        )
    assert all(isinstance(c, pa.Array) for parts in found.values() for part in parts for c in part.values())
    return found


def values_of(parts: list[dict[str, Any]], component: str) -> tuple[np.ndarray, np.ndarray]:
    """Times in seconds and values of a component, in the order of time."""
    rows = []
    for part in parts:
        for name, column in part.items():
            if name.endswith(component):
                times = part["time"].cast("int64").to_numpy(zero_copy_only=False) * 1e-9
                rows += [(t, v) for t, v in zip(times, column.to_pylist(), strict=True) if v is not None]
    rows.sort(key=lambda row: row[0])
    return np.array([t for t, _ in rows]), np.array([v for _, v in rows], dtype=object)


@pytest.fixture(scope="module")
def recording(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("rerun")
    path = tmp_path_factory.mktemp("rerun") / "look.rrd"
    result = export("rerun", dataset, path)
    assert (result.samples, result.left_out) == (3, [])
    return recorded(path)


def test_a_rerun_recording_holds_the_poses_one_sample_after_the_other(dataset: Path, recording: dict[str, Any]) -> None:
    times, positions = values_of(recording["/world/gripper/frame"], "translation")
    _, quaternions = values_of(recording["/world/gripper/frame"], "quaternion")
    samples = list(aid.open_dataset(dataset))
    stored = np.concatenate([s.trajectory.position for s in samples])
    np.testing.assert_allclose(np.stack([p[0] for p in positions]).astype(float), stored, atol=1e-6)
    turns = np.concatenate([s.trajectory.quaternion_xyzw for s in samples])
    np.testing.assert_allclose(np.stack([q[0] for q in quaternions]).astype(float), turns, atol=1e-6)
    assert (np.diff(times) > 0).all()
    pauses = np.diff(times)[np.cumsum([len(s) for s in samples])[:-1] - 1]
    np.testing.assert_allclose(pauses, 0.5, atol=1e-6)
    at, texts = values_of(recording["/instruction"], "text")
    assert [t[0].splitlines()[0] for t in texts] == [s.instruction for s in samples]
    np.testing.assert_allclose(at, times[[0, FRAMES[0], FRAMES[0] + FRAMES[1]]], atol=1e-6)


def test_a_rerun_camera_puts_the_gripper_where_ours_does(dataset: Path, recording: dict[str, Any]) -> None:
    """The pinhole and pose in the file project a keypoint to the pixel that its action image has it at."""
    for view in VIEWS:
        parts = recording[f"/world/cameras/{view}"]
        _, eyes = values_of(parts, "translation")
        _, turns = values_of(parts, "mat3x3")
        _, pinholes = values_of(parts, "image_from_camera")
        eye, turn, K = (np.asarray(v[0][0], float) for v in (eyes, turns, pinholes))
        sample = aid.open_dataset(dataset)[0]
        point = sample.trajectory.position[0]
        uvw = K.reshape(3, 3).T @ (turn.reshape(3, 3) @ (point - eye))
        ours, _ = sample.cameras[view][0].project(point[None])
        np.testing.assert_allclose(uvw[:2] / uvw[2], ours[0], atol=1e-2)


def test_a_rerun_recording_holds_videos_openness_and_decode_errors(dataset: Path, recording: dict[str, Any]) -> None:
    samples = list(aid.open_dataset(dataset))
    for view in VIEWS:
        for entity, member in (
            (f"world/cameras/{view}/rgb", f"{view}.rgb.mp4"),
            (f"action/{view}", f"{view}.action.mp4"),
        ):
            times, stamps = values_of(recording[f"/{entity}"], "timestamp")
            assert len(times) == sum(FRAMES)
            assert [int(s[0]) for s in stamps[: FRAMES[0]]] == pytest.approx(
                [round(i / samples[0].fps * 1e9) for i in range(FRAMES[0])], abs=1e6
            )
            (blob,) = [
                column.to_pylist()[0]
                for part in recording[f"/videos/{entity}/{samples[0].key}"]
                for name, column in part.items()
                if name.endswith("blob")
            ]
            assert bytes(np.asarray(blob[0], np.uint8)) == samples[0].read(member)
    _, openness = values_of(recording["/openness"], "scalars")
    np.testing.assert_allclose(
        np.concatenate(list(openness)).astype(float), np.concatenate([s.trajectory.openness for s in samples])
    )
    _, errors = values_of(recording["/decode_error/position_mm"], "scalars")
    truth = [round_trips(sample, sample.spec)[0].position_mm for sample in samples]
    np.testing.assert_allclose(np.concatenate(list(errors)).astype(float), np.concatenate(truth))


def test_rerun_pictures_may_be_jpegs_and_samples_chosen(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    import cv2

    keys = aid.open_dataset(dataset).keys()
    result = CliRunner().invoke(
        main,
        ["export", "rerun", str(dataset), str(tmp_path / "a.rrd"), "--sample", keys[1], "--pictures", "jpeg", "--json"],
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["samples"] == 1
    found = recorded(tmp_path / "a.rrd")
    times, blobs = values_of(found[f"/action/{VIEWS[0]}"], "blob")
    assert len(times) == FRAMES[1]
    picture = cv2.imdecode(np.asarray(blobs[3][0], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    truth = aid.open_dataset(dataset)[1].action(VIEWS[0], [3])[0]
    assert np.abs(picture.astype(int) - truth).mean() < 4
    assert not [name for name in found if name.startswith("/videos")]


@pytest.mark.parametrize("merged", [False, True])
def test_rerun_recordings_of_two_grippers_keep_them_apart(tmp_path: Path, merged: bool) -> None:
    pytest.importorskip("rerun")
    out, manifest = make_arms(tmp_path, [5], merge_arms=merged)
    export("rerun", out, tmp_path / "two.rrd")
    found = recorded(tmp_path / "two.rrd")
    sample = aid.open_dataset(out)[0]
    assert set(sample.grippers) == {"left", "right"}
    for name, trajectory in sample.grippers.items():
        _, positions = values_of(found[f"/world/gripper/{name}/frame"], "translation")
        np.testing.assert_allclose(np.stack([p[0] for p in positions]).astype(float), trajectory.position, atol=1e-6)
        assert f"/decode_error/position_mm/{name}" in found
    actions = {entity for entity in found if entity.startswith("/action/")}
    names = ("",) if merged else ("/left", "/right")
    assert actions == {f"/action/{view}{name}" for view in manifest.views for name in names}


class GapConverter(BarConverter):
    """The generated episodes without poses in frames 2 to 4."""

    def read(self, ref: EpisodeRef) -> Episode:
        episode = super().read(ref)
        path = episode.trajectory
        position, quaternion = path.position.copy(), path.quaternion_xyzw.copy()
        position[2:5] = quaternion[2:5] = np.nan
        gaps = GripperTrajectory(position, quaternion, path.openness, path.times, allow_missing=True)
        return replace(episode, grippers={"": gaps})


def test_frames_without_a_pose_show_no_gripper_in_a_rerun_recording(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    (tmp_path / "source").mkdir()
    config = {"frames": [8], "fps": 20.0, "views": ["front", "side"], "size": 64}
    (tmp_path / "source" / "bars.json").write_text(json.dumps(config))
    options = ConvertOptions.parse(height=64, width=64)
    engine.convert(GapConverter(), str(tmp_path / "source"), tmp_path / "out", options)
    assert export("rerun", tmp_path / "out", tmp_path / "gaps.rrd").samples == 1
    found = recorded(tmp_path / "gaps.rrd")
    _, points = values_of(found["/world/gripper/keypoints"], "positions")
    assert [len(p) for p in points] == [3, 3, 0, 0, 0, 3, 3, 3]
    _, poses = values_of(found["/world/gripper/frame"], "translation")
    assert len(poses) == 5
    _, strips = values_of(found["/world/path"], "strips")
    assert [len(strip) for strip in strips[0]] == [2, 3]


def test_what_cannot_be_recorded_is_refused(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rerun")
    with pytest.raises(InvalidSpecError, match=r"\*\.rrd"):
        export("rerun", dataset, tmp_path / "folder")
    with pytest.raises(SourceNotFoundError, match="Did you mean"):
        export("rerun", dataset, tmp_path / "a.rrd", sample=[aid.open_dataset(dataset).keys()[0] + "x"])
    (tmp_path / "there.rrd").touch()
    with pytest.raises(OutputExistsError):
        export("rerun", dataset, tmp_path / "there.rrd")
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingExtraError, match=r"pip install .rerun-sdk"):
        export("rerun", dataset, tmp_path / "a.rrd")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there.rrd"]


# ---- mcap ----------------------------------------------------------------------------------------------------------


def test_mcap_files_come_back_through_our_own_reader(tmp_path: Path) -> None:
    pytest.importorskip("foxglove_schemas_protobuf")
    from mcap.reader import make_reader

    from actionimg_data.converters.rosbag import RosbagConverter

    def read_back(bags: Path) -> RosbagConverter:
        return RosbagConverter(RosbagConverter.Options.parse({"mapping": str(bags / "mapping.yaml")}, "test"))

    source, _ = make_dataset(tmp_path / "one", [9, 7], size=32)
    result = export("mcap", source, tmp_path / "bags")
    assert result.samples == 2
    converter = RosbagConverter(
        RosbagConverter.Options.parse({"mapping": str(tmp_path / "bags" / "mapping.yaml")}, "test")
    )
    episodes = [converter.read(ref) for ref in converter.discover(str(tmp_path / "bags"))]
    for sample, episode in zip(aid.open_dataset(source), episodes, strict=True):
        assert episode.instruction == sample.instruction
        assert len(episode) == len(sample)
        np.testing.assert_allclose(episode.trajectory.position, sample.trajectory.position, atol=1e-12)
        np.testing.assert_allclose(episode.trajectory.openness, sample.trajectory.openness, atol=1e-12)
        for view in sample.views:
            camera = episode.views[view].camera
            assert camera is not None
            was, now = sample.cameras[view], np.broadcast_to(camera.K, (len(sample), 3, 3)).copy()
            now[:, :2, 2] += was.pixel_centre - camera.pixel_centre
            np.testing.assert_allclose(now, was.K)
            pictures = np.stack(list(episode.views[view].frames.frames(range(len(sample)))))
            # The stored video waits for later pictures, so it was encoded once more.
            assert np.abs(pictures.astype(int) - sample.rgb(view)).mean() < 4
    with open(sorted((tmp_path / "bags").glob("*.mcap"))[0], "rb") as file:
        topics = {c.topic: c.message_encoding for c in make_reader(file).get_summary().channels.values()}
    assert {f"/{view}/{kind}" for view in VIEWS for kind in ("video", "action", "calibration")} <= set(topics)
    assert topics["/tf"] == "protobuf"

    both, _ = make_arms(tmp_path / "two", [5])
    export("mcap", both, tmp_path / "arms")
    converter = RosbagConverter(
        RosbagConverter.Options.parse({"mapping": str(tmp_path / "arms" / "mapping.yaml")}, "test")
    )
    episode = converter.read(next(iter(converter.discover(str(tmp_path / "arms")))))
    assert tuple(episode.grippers) == aid.open_dataset(both)[0].gripper_names

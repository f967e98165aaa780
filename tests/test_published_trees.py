"""The published trees of DROID and Bridge: written so that the published loaders read them, and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from actionimg_data import open_dataset
from actionimg_data.cli import main
from actionimg_data.engine import convert
from actionimg_data.schemas import ConvertOptions

from .synthetic_converter import SyntheticConverter, SyntheticOptions

FloatArray = NDArray[np.float64]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def succeed(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes, two views that stand still."""
    folder = tmp_path_factory.mktemp("trees")
    source = folder / "source"
    source.mkdir()
    (source / "synthetic.json").write_text(json.dumps({"episodes": 2, "frames": 6}))
    convert(
        SyntheticConverter(SyntheticOptions()), str(source), folder / "out", ConvertOptions.parse(height=64, width=96)
    )
    return folder / "out"


def frames_of(video: Path) -> int:
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))


def droid_loader(base: Path) -> list[dict[str, Any]]:
    """What the published droid loader reads, by its facts: nothing is guessed, and what is not there raises."""
    superset = json.loads((base / "cam2base_extrinsic_superset.json").read_text())
    all_serials = json.loads((base / "camera_serials.json").read_text())
    samples = []
    for episode in sorted((base / "processed").iterdir()):
        videos = sorted((episode / "video").glob("*.mp4"))
        serials = all_serials[episode.name]
        own = json.loads((episode / "camera.json").read_text())
        cameras = []
        for video in videos:
            name = video.name.split(".")[0]
            serial = serials[next(key for key in serials if name in key)]
            six = np.asarray(superset[episode.name][serial], np.float32)
            pose = np.eye(4)
            pose[:3, :3] = Rotation.from_euler("xyz", six[3:]).as_matrix()
            pose[:3, 3] = six[:3]
            assert np.asarray(own[name]["extrinsics"]).shape == (4, 4)
            cameras.append((np.asarray(own[name]["intrinsics"], np.float32).reshape(3, 3), pose))
        with np.load(episode / "action.npz") as arrays:
            action = arrays["action"]
        count = frames_of(videos[0])
        action7 = np.concatenate([action, np.ones((len(action), 1))], axis=1)[np.arange(count)]
        text = (episode / "instruction.txt").read_text().splitlines()[0].strip()
        samples.append({"text": text, "action": action7, "cameras": cameras, "frames": [frames_of(v) for v in videos]})
    return samples


def bridge_loader(base: Path) -> list[dict[str, Any]]:
    """What the published bridge loader reads, by its facts."""
    samples = []
    for episode in sorted((base / "processed").iterdir()):
        videos = sorted((episode / "video").glob("*.mp4"))
        extrinsic, intrinsic = (np.load(episode / "vggt" / "0" / f"{n}.npy") for n in ("extrinsic", "intrinsic"))
        assert extrinsic.shape == (len(videos), 3, 4)
        assert intrinsic.shape == (len(videos), 3, 3)
        # It turns the axes by half a turn about z, and focal lengths with them.
        turn = np.diag([-1.0, -1.0, 1.0, 1.0])
        poses = []
        for R, t in ((e[:, :3], e[:, 3:]) for e in extrinsic):
            poses.append(np.concatenate([R.T, -R.T @ t], axis=1) @ turn)
        lines = (episode / "instruction.txt").read_text().splitlines()
        samples.append({"lines": lines, "poses": poses, "K": intrinsic, "frames": [frames_of(v) for v in videos]})
    return samples


def test_the_droid_loader_finds_cameras_actions_and_words(dataset: Path, tmp_path: Path) -> None:
    result = succeed("export", "reference-tree", dataset, tmp_path / "tree", "--layout", "droid")
    assert "every 4th frame" in result.output
    data = open_dataset(dataset)
    for sample, read in zip(data, droid_loader(tmp_path / "tree" / "droid"), strict=True):
        count = len(sample)
        assert read["frames"] == [count, count]
        assert read["text"] == sample.instruction
        assert np.allclose(read["action"][:, :6], sample.trajectory.to_action7()[:, :6])
        for (K, pose), camera in zip(read["cameras"], sample.cameras.values(), strict=True):
            assert np.allclose(K, camera.K[0], rtol=1e-6)
            # Points land where they are drawn: K inv(E) P, OpenCV axes.
            point = np.array([*sample.trajectory.position[0], 1.0])
            seen = K @ (np.linalg.inv(pose) @ point)[:3]
            uv, _ = camera[0].project(point[None, :3])
            assert np.abs(seen[:2] / seen[2] - uv[0]).max() < 1e-3


def test_the_droid_tree_is_read_back(dataset: Path, tmp_path: Path) -> None:
    succeed("export", "reference-tree", dataset, tmp_path / "tree", "--layout", "droid")
    assert "action-images" in succeed("inspect", tmp_path / "tree").output
    size = ("--size", "64x96", "-j", 1)
    succeed("convert", "action-images", tmp_path / "tree", tmp_path / "again", *size)
    for old, new in zip(open_dataset(dataset), open_dataset(tmp_path / "again"), strict=True):
        assert new.meta.instructions == old.meta.instructions
        assert np.allclose(new.trajectory.to_action8(), old.trajectory.to_action8(), atol=1e-9)
        for a, b in zip(new.cameras.values(), old.cameras.values(), strict=True):
            assert np.allclose(a.world_from_camera, b.world_from_camera, atol=1e-9)
            assert np.allclose(a.K, b.K)
        # What camera.json says beside is kept apart.
        assert tuple(new.conditioning) == new.views
    # Without its superset the cameras are in a frame of their own: nothing can be drawn, and pictures still train.
    (tmp_path / "tree" / "droid" / "cam2base_extrinsic_superset.json").write_text("{}")
    refused = run("convert", "action-images", tmp_path / "tree", tmp_path / "none", *size)
    assert refused.exit_code == 1
    assert "no camera of it is known in the robot's frame" in refused.stderr
    succeed("convert", "action-images", tmp_path / "tree", tmp_path / "videos", *size, "--videos-only")
    assert not open_dataset(tmp_path / "videos")[0].trajectory.known.any()


def test_a_droid_tree_without_the_gripper_asks_for_it(dataset: Path, tmp_path: Path) -> None:
    succeed("export", "reference-tree", dataset, tmp_path / "tree", "--layout", "droid")
    for path in (tmp_path / "tree").rglob("action.npz"):
        with np.load(path) as arrays:
            np.savez(path, action=arrays["action"])
    size = ("--size", "64x96", "-j", 1)
    asked = run("convert", "action-images", tmp_path / "tree", tmp_path / "x", *size)
    assert "--openness" in asked.stderr
    succeed("convert", "action-images", tmp_path / "tree", tmp_path / "open", *size, "--openness", 1)
    assert (open_dataset(tmp_path / "open")[0].trajectory.openness == 1).all()


def test_the_bridge_loader_finds_cameras_and_words_and_the_tree_trains_as_video_only(
    dataset: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from actionimg_data.training import ActionImageDataset

    succeed("export", "reference-tree", dataset, tmp_path / "tree", "--layout", "bridge")
    for sample, read in zip(open_dataset(dataset), bridge_loader(tmp_path / "tree" / "bridge"), strict=True):
        assert read["lines"] == list(sample.meta.instructions)
        assert read["frames"] == [len(sample)] * 2
        for pose, camera in zip(read["poses"], sample.cameras.values(), strict=True):
            turned = camera.world_from_camera[0] @ np.diag([-1.0, -1.0, 1.0, 1.0])
            assert np.allclose(pose, turned[:3], atol=1e-9)
    size = ("--size", "64x96", "-j", 1)
    asked = run("convert", "action-images", tmp_path / "tree", tmp_path / "x", *size)
    assert asked.exit_code == 1
    assert "--videos-only" in asked.stderr
    out = tmp_path / "videos"
    succeed("convert", "action-images", tmp_path / "tree", out, *size, "--videos-only")
    summary = json.loads(succeed("verify", out, "--json", "-j", 1).stdout)
    assert (summary["ok"], summary["samples"]) == (True, 2)
    assert "videos alone" in summary["not_proven"]
    whole = ActionImageDataset(str(dataset), num_frames=5, size=64, modes={"video_only": 1.0}, shuffle=False)
    for told, sample in zip(whole, ActionImageDataset(str(out), num_frames=5, size=64, shuffle=False), strict=True):
        assert (sample["mode"], sample["has_cameras"], sample["has_actions"]) == ("video_only", True, False)
        assert sample["camera_frame"] == "own"
        assert not sample["action_7d"].any()
        assert (sample["action_video"] == -1).all()
        assert sample["plucker"].abs().sum() > 0
        # The same cameras as those that draw, for the same views, up to what arrays keep.
        assert told["camera"].shape == sample["camera"].shape
        assert set(sample["view_names"]) == {"0", "1"}


def test_layouts_that_cannot_be_written_are_refused(dataset: Path, tmp_path: Path) -> None:
    assert run("export", "reference-tree", dataset, tmp_path / "x", "--layout", "nothing").exit_code == 2
    assert run("export", "wids", dataset, tmp_path / "y.json", "--layout", "droid").exit_code == 2

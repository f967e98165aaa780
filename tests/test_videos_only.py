"""Data without poses, and cameras of a frame of their own: converted, verified, trained on, and never drawn with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from actionimg_data import open_dataset
from actionimg_data.cameras.conditioning import with_conditioning
from actionimg_data.cli import main
from actionimg_data.demo import rlds as w
from actionimg_data.errors import ActionImgError, InvalidSpecError, MissingCalibrationError
from actionimg_data.model import Camera, Episode, GripperTrajectory, View
from actionimg_data.model.episode import ArrayFrames
from actionimg_data.schemas import ConvertOptions
from actionimg_data.video import encode_bytes, rgb_encoding

from .synthetic_converter import write_source

FRAMES, HEIGHT, WIDTH = 8, 48, 64


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def succeed(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def pictures(seed: int) -> NDArray[np.uint8]:
    video = np.repeat(np.random.default_rng(seed).integers(0, 200, (1, HEIGHT, WIDTH, 3)), FRAMES, axis=0)
    for t in range(FRAMES):
        video[t, 8:32, 3 * t : 3 * t + 20] = 255 - video[t, 8:32, 3 * t : 3 * t + 20]
    return video.astype(np.uint8)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of two views: videos right in a folder, and in its folder ``video``."""
    root = tmp_path_factory.mktemp("videos")
    for number, folder in enumerate(("one", "two/video")):
        (root / folder).mkdir(parents=True)
        for view in ("Front", "side"):
            body = encode_bytes(pictures(number), rgb_encoding(18), 10.0, HEIGHT, WIDTH)
            (root / folder / f"{view}.mp4").write_bytes(body)
    (root / "one" / "instruction.txt").write_text("open the drawer\n\npull it\n")
    (root / "two" / "instruction.txt").write_text("close it\n")
    return root


VIEWS = ("front", "side")
K = np.array([[70.0, 0, WIDTH / 2], [0, 70.0, HEIGHT / 2], [0, 0, 1]])


def poses() -> NDArray[np.float64]:
    """``(V, 4, 4)`` camera-to-world in a frame of nobody's."""
    eyes = ((2.0, 0.0, 1.0), (0.0, 3.0, 1.5))
    return np.stack(
        [Camera.looking_at(e, (0, 0, 0), WIDTH, HEIGHT, vertical_fov_deg=40).world_from_camera for e in eyes]
    )


def write_vggt(folder: Path) -> Path:
    """As VGGT's outputs are saved: world-to-camera, for its own size of pictures (518 wide, sides multiples of 14)."""
    folder.mkdir(parents=True)
    own = np.diag([518 / WIDTH, 392 / HEIGHT, 1.0]) @ K
    np.save(folder / "extrinsic.npy", np.linalg.inv(poses())[None, :, :3].astype(np.float32))
    np.save(folder / "intrinsic.npy", np.tile(own, (1, 2, 1, 1)).astype(np.float32))
    return folder


def write_dust3r(path: Path) -> Path:
    """As DUSt3R's scene gives them: camera-to-world, focal lengths (V, 1), principal points, 512 pixels wide."""
    scale = 512 / WIDTH
    np.savez(path, poses=poses(), focals=np.full((2, 1), 70 * scale), pp=np.tile([256.0, 192.0], (2, 1)))
    return path


def write_colmap(folder: Path) -> Path:
    """``cameras.txt`` and ``images.txt``, one picture a view."""
    from scipy.spatial.transform import Rotation

    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text(f"# one\n1 PINHOLE {WIDTH} {HEIGHT} 70 70 {WIDTH / 2} {HEIGHT / 2}\n")
    lines = []
    for number, (view, pose) in enumerate(zip(VIEWS, np.linalg.inv(poses()), strict=True), start=1):
        x, y, z, s = Rotation.from_matrix(pose[:3, :3]).as_quat()
        numbers = " ".join(f"{v:.12g}" for v in (s, x, y, z, *pose[:3, 3]))
        lines += [f"{number} {numbers} 1 {view}.png", "1 2 -1"]
    (folder / "images.txt").write_text("# two lines each\n" + "\n".join(lines) + "\n")
    return folder


def an_episode() -> Episode:
    frames = ArrayFrames(pictures(0))
    return Episode(
        "e",
        {name: View(None, frames) for name in VIEWS},
        GripperTrajectory.unknown(np.arange(FRAMES) / 10),
        fps=10.0,
        instructions=("do it",),
    )


@pytest.mark.parametrize("write", [write_vggt, write_dust3r, write_colmap], ids=["vggt", "dust3r", "colmap"])
def test_cameras_of_each_program_are_read(write: Any, tmp_path: Path) -> None:
    name = "e.npz" if write is write_dust3r else "e"
    write(tmp_path / name)
    episode = with_conditioning(an_episode(), str(tmp_path / name.replace("e", "{episode}", 1)))
    for view, pose in zip(episode.views.values(), poses(), strict=True):
        assert view.camera is None
        assert isinstance(view.conditioning, Camera)
        assert np.allclose(view.conditioning.world_from_camera, pose, atol=1e-5)
        assert np.allclose(view.conditioning.K, K, rtol=1e-5)
    assert episode.provenance["conditioning"]["kind"] == write.__name__.removeprefix("write_")


def test_a_camera_for_every_picture_is_a_track(tmp_path: Path) -> None:
    moving = np.repeat(poses()[:, None], FRAMES, axis=1)
    moving[:, :, 0, 3] += np.arange(FRAMES) / 100
    np.savez(tmp_path / "e.npz", poses=moving, K=np.tile(K, (2, 1, 1)), views=np.array(VIEWS[::-1]))
    episode = with_conditioning(an_episode(), str(tmp_path / "e.npz")).select(range(2, 6))
    tracks = [view.conditioning for view in episode.views.values()]
    assert [len(t) for t in tracks] == [4, 4]  # type: ignore[arg-type]
    # Named, so in the order of the names.
    assert np.allclose(tracks[0].world_from_camera, moving[1, 2:6])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"poses": poses()}, "holds no intrinsics"),
        ({"K": np.tile(K, (2, 1, 1))}, "world-to-camera or camera-to-world"),
        ({"poses": poses(), "extrinsic": poses(), "K": np.tile(K, (2, 1, 1))}, "world-to-camera or camera-to-world"),
        ({"poses": poses()[:1], "K": K[None]}, "does not fit the episode's views"),
        ({"poses": poses() * np.nan, "K": np.tile(K, (2, 1, 1))}, "not finite"),
        ({"poses": poses(), "K": np.tile(K, (2, 1, 1)), "width": 64, "height": 32}, "aspect"),
        ({"poses": poses(), "K": np.tile(np.triu(K * 1.403, 1) + np.diag([70, 70, 1]), (2, 1, 1))}, "principal point"),
        ({"poses": poses() * 2, "K": np.tile(K, (2, 1, 1))}, "last row"),
        ({"poses": poses(), "K": np.tile(K, (2, 1, 1)), "views": np.array(["a", "b"])}, "no camera of this view"),
    ],
)
def test_what_is_no_camera_of_these_pictures_is_refused(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(ActionImgError, match=words):
        with_conditioning(an_episode(), str(tmp_path / "e.npz"))


def test_places_without_cameras_and_lenses_that_distort_are_refused(tmp_path: Path) -> None:
    for place in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ActionImgError, match="no estimated cameras"):
            with_conditioning(an_episode(), str(place))
    folder = write_colmap(tmp_path / "e")
    (folder / "cameras.txt").write_text(f"1 SIMPLE_RADIAL {WIDTH} {HEIGHT} 70 {WIDTH / 2} {HEIGHT / 2} 0.1\n")
    with pytest.raises(ActionImgError, match="image_undistorter"):
        with_conditioning(an_episode(), str(folder))


@pytest.fixture(scope="module")
def converted(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos alone, with VGGT's cameras."""
    place = tmp_path_factory.mktemp("cameras")
    for name in ("one", "two"):
        write_vggt(place / name / "vggt" / "0")
    out = place / "out"
    cameras = place / "{episode}" / "vggt" / "0"
    command = ("convert", "folder", videos, out, "--videos-only", "--conditioning-cameras", cameras)
    succeed(*command, "--size", "48x64", "-j", 1)
    return out


def test_folders_of_videos_become_samples_without_a_pose(converted: Path) -> None:
    data = open_dataset(converted)
    assert [s.key for s in data] == ["one", "two"]
    assert [s.meta.instructions for s in data] == [("open the drawer", "pull it"), ("close it",)]
    sample = data[0]
    assert set(sample.members) == {"json", "trajectory.npz", "conditioning.npz", "front.rgb.mp4", "side.rgb.mp4"}
    assert not sample.trajectory.known.any()
    assert np.isnan(sample.trajectory.openness).all()
    assert np.allclose(sample.times, np.arange(FRAMES) / 10)
    for camera, pose in zip(sample.conditioning.values(), poses(), strict=True):
        assert np.allclose(camera.world_from_camera[0], pose, atol=1e-5)
        assert np.allclose(camera.K[0], K, rtol=1e-5)
    for part in (lambda: sample.cameras, lambda: sample.action("front")):
        with pytest.raises(MissingCalibrationError):
            part()


def test_verify_inspect_and_report_say_what_it_is(converted: Path, tmp_path: Path) -> None:
    summary = json.loads(succeed("verify", converted, "--json", "-j", 1).stdout)
    assert (summary["ok"], summary["proven"], summary["samples"]) == (True, False, 2)
    assert "videos alone" in summary["not_proven"]
    succeed("inspect", converted, "--key", "one")
    succeed("report", converted, "--html", tmp_path / "report.html")
    assert run("render", converted, "--out", tmp_path / "drawn").exit_code == 1


def test_training_takes_the_cameras_to_condition_on_and_nothing_to_draw(converted: Path) -> None:
    torch = pytest.importorskip("torch")
    from actionimg_data.training import ActionImageDataset, DeviceTransform, collate

    options: dict[str, Any] = {"num_frames": 5, "size": (48, 64), "action": "both"}
    data = ActionImageDataset(str(converted), axes="opencv", **options)
    samples = list(data)
    for sample in samples:
        assert (sample["mode"], sample["has_cameras"], sample["has_actions"]) == ("video_only", True, False)
        assert sample["camera_frame"] == "own"
        order = [VIEWS.index(v) for v in sample["view_names"]]
        assert np.allclose(sample["extrinsics"].unflatten(0, (2, 5))[:, 0], poses()[order], atol=1e-5)
        assert not sample["valid"].any()
        assert not sample["action_8d"].any()
        assert (sample["action_video"] == -1).all()
    batch = collate(samples)
    drawn = DeviceTransform(spec=data.spec, axes="opencv")(batch)
    assert torch.allclose(drawn["plucker"], batch["plucker"], atol=1e-5)
    assert (drawn["action_video"] == -1).all()


def test_a_mixture_reports_the_odds_that_are_drawn(converted: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from actionimg_data.engine import convert
    from actionimg_data.training import ConcatActionImageDataset, collate

    from .synthetic_converter import SyntheticConverter

    source = write_source(tmp_path / "source", episodes=3, frames=6)
    options = ConvertOptions.parse(height=48, width=64)
    convert(SyntheticConverter(), source, tmp_path / "full", options)
    paths = {"videos": str(converted), "full": str(tmp_path / "full")}
    mixed = ConcatActionImageDataset(
        {"videos": 0.25, "full": 0.75},
        paths=paths,
        epoch_samples=200,
        num_frames=5,
        size=(48, 64),
        modes={"joint": 0.8, "video_only": 0.2},
    )
    told = mixed.describe()
    assert told["samples"] == 200
    assert {n: s["samples"] for n, s in told["sources"].items()} == {"videos": 50, "full": 150}
    assert told["sources"]["videos"]["drawn"] == {"video_only": 50}
    assert told["sources"]["videos"]["odds"] == {"video_only": 1.0}
    assert (told["sources"]["videos"]["cameras"], told["sources"]["videos"]["actions"]) == ("own", False)
    full = told["sources"]["full"]
    assert set(full["drawn"]) == {"joint", "video_only"}
    # Those of the samples themselves, counted.
    head = [sample for sample, _ in zip(mixed, range(40), strict=False)]
    assert {s["mode"] for s in head if s["source"] == "videos"} == {"video_only"}
    assert collate(head)["has_actions"].float().mean() == pytest.approx(0.75, abs=0.11)


def test_each_video_may_be_an_episode(videos: Path, tmp_path: Path) -> None:
    succeed("convert", "folder", videos, tmp_path / "out", "--videos-only", "--each-video", "--size", 32, "-j", 1)
    data = open_dataset(tmp_path / "out")
    assert len(data) == 4
    assert {s.views for s in data} == {("video",)}


def test_what_does_not_go_together_is_refused(videos: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "a.mp4").write_bytes((videos / "one" / "Front.mp4").read_bytes())
    refused = run("convert", "folder", bare, tmp_path / "x", "--videos-only", "-j", 1)
    assert "--instruction" in refused.stderr
    succeed("convert", "folder", bare, tmp_path / "y", "--videos-only", "--instruction", "go", "--size", 32, "-j", 1)
    assert "no pose" not in run("convert", "folder", bare, tmp_path / "z", "-j", 1).stdout
    with_mapping = run("convert", "folder", videos, tmp_path / "x", "--videos-only", "--mapping", "m.yaml")
    assert "videos alone have none" in with_mapping.stderr
    differ = run("convert", "folder", videos, tmp_path / "x", "--videos-only", "--views", "calibrated")
    assert "no camera is known" in differ.stderr
    with pytest.raises(InvalidSpecError, match="videos_only needs poses_only"):
        ConvertOptions.parse(videos_only=True, action_codec="none")


def test_an_rlds_data_set_without_poses_becomes_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIONIMG_CACHE_DIR", str(tmp_path / "cache"))
    observation = {"image": w.image((HEIGHT, WIDTH, 3), encoding="png"), "state": w.tensor((4,))}
    step = {"observation": observation, "language_instruction": w.text()}
    node = w.episode_features(step)
    seen = {"image": pictures(1), "state": np.zeros((FRAMES, 4), np.float32)}
    values = {"observation": seen, "language_instruction": ["sweep"] * FRAMES, **w.flags(FRAMES)}
    folder = w.write_rlds(tmp_path / "data", "cmu_stretch", node, {"train": [{"steps": values}]})
    refused = run("convert", "rlds", folder, tmp_path / "out", "-j", 1)
    assert "--videos-only" in refused.stderr
    succeed("convert", "rlds", folder, tmp_path / "out", "--videos-only", "--size", 32, "-j", 1)
    (sample,) = open_dataset(tmp_path / "out")
    assert (sample.instruction, len(sample), sample.trajectory.known.any()) == ("sweep", FRAMES, False)

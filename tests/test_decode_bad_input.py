"""What does not fit together, of one gripper or of two in one picture: one clear line, or what can be decoded."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import decoder_scenes as scenes
import numpy as np
import prove_arms
import pytest
from click.testing import CliRunner

import actionimg_data as aid
from actionimg_data.cli import main
from actionimg_data.decode import ArmBlobs, decode, measure_arms, measure_blobs, solve_arms
from actionimg_data.errors import DecodeError, FrameCountError
from actionimg_data.video import action_encoding, encode_bytes

ARMS = [None, 2]
FRAMES = 5


@pytest.fixture(scope="module")
def clips() -> dict[Any, tuple[Any, np.ndarray]]:
    """Cameras and videos of one gripper and of two."""
    both = prove_arms.merged_scene(501, 128, 41)
    for scene in both.values():
        scene.uv, scene.openness, scene.peak = (a[:, :FRAMES] for a in (scene.uv, scene.openness, scene.peak))
    left = both["left"]
    one = aid.render(left.truth[:FRAMES], left.cameras, left.spec)
    return {None: (left, one), 2: (left, prove_arms.merged_video(both, prove_arms.KINDS["clean"]))}


def ok(found: Any) -> np.ndarray:
    """``(grippers, T)`` whether there is a pose."""
    return np.stack([one.valid for one in (found.values() if isinstance(found, dict) else [found])])


@pytest.mark.parametrize("arms", ARMS)
def test_views_that_do_not_fit_each_other_are_named(clips: Any, arms: Any) -> None:
    scene, video = clips[arms]
    cameras = dict(zip(("front", "side"), scene.cameras, strict=True))
    front, side = video

    def refuses(error: type[Exception], words: str, side: Any, cameras: Any = cameras, **options: Any) -> None:
        with pytest.raises(error, match=words) as caught:
            decode({"front": front, "side": side}, cameras, arms=arms, **options)
        assert "\n" not in str(caught.value)

    refuses(FrameCountError, r"side: views differ in length \(expected 5 frames as front, found 4\)", side[:4])
    refuses(DecodeError, r"side: views differ in size \(expected 128x128 as front, found 96x96\)", side[:, :96, :96])
    refuses(DecodeError, r"side: has another size than the spec.*128x128.*96x96", side[:, :96, :96], spec=scene.spec)
    other = {**cameras, "side": cameras["side"].resized(96, 96)}
    refuses(DecodeError, r"camera is for another picture size.*128x128, found 96x96.*resized", side, other)
    refuses(FrameCountError, r"track|frames", side, {**cameras, "side": cameras["side"].track(4)})
    refuses(DecodeError, r"side: is not scaled to \[0, 1\].*-1 to 1", side / 127.5 - 1)
    refuses(DecodeError, r"side: is not scaled to \[0, 1\].*0 to 255", side.astype(np.float32))
    refuses(DecodeError, r"side: has the wrong dtype.*int16", side.astype(np.int16))
    refuses(DecodeError, r"side: is not an RGB video", side[..., 0])
    refuses(DecodeError, r"side: is not an RGB video.*T >= 1", side[:0])


@pytest.mark.parametrize("arms", ARMS)
def test_values_that_are_not_finite_cost_their_frame_and_are_said(clips: Any, arms: Any) -> None:
    scene, video = clips[arms]
    shown = video / np.float32(255)
    shown[:, 2] = np.nan
    shown[1, 3, :20, :20] = np.inf
    # What a filter's overshoot makes negative is clipped.
    shown[0, 4] -= 0.01
    found = decode(shown, scene.cameras, scene.spec, arms=arms)
    assert not ok(found)[:, 2].any()
    assert ok(found)[:, [0, 1, 3, 4]].all()
    for one in found.values() if arms else [found]:
        said = [f.text for f in one.diagnosis.findings if f.code == "not-finite"]
        assert said == [
            "view 0: 1 frames hold values that are not finite; these count as black",
            "view 1: 2 frames hold values that are not finite; these count as black",
        ]


@pytest.mark.parametrize("arms", ARMS)
def test_one_frame_is_enough(clips: Any, arms: Any) -> None:
    scene, video = clips[arms]
    assert ok(decode(video[:, :1], scene.cameras, scene.spec, arms=arms)).all()


@pytest.mark.parametrize("measure", [measure_blobs, measure_arms])
def test_chunks_of_a_long_video_are_measured_as_the_whole(clips: Any, measure: Any) -> None:
    scene, video = clips[2 if measure is measure_arms else None]
    whole = measure(video[0], scene.spec)
    parts = type(whole).concatenate([measure(video[0, :2], scene.spec), measure(video[0, 2:], scene.spec)])
    for name in ("uv", "covariance", "valid", "pedestal"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_memory_hardly_grows_with_the_length_of_a_video_of_two_arms() -> None:
    frames = 300
    both = prove_arms.merged_scene(501, 512, frames)
    scene = both["left"]
    rng = np.random.default_rng(0)
    each = [scenes.perfect_measurements(s.truth, scene.cameras, scene.spec, rng, 0.05) for s in both.values()]
    nan = np.full((frames, 3), np.nan)
    views = [
        ArmBlobs(
            uv=np.stack([m.uv for m in arms], axis=2),
            covariance=np.stack([m.covariance for m in arms], axis=2),
            valid=np.ones((frames, 3, 2), bool),
            amplitude=np.ones((frames, 3, 2)),
            residual=np.zeros((frames, 3, 2)),
            structure=np.ones((frames, 3, 2)),
            crowded=np.zeros((frames, 3), bool),
            beneath=np.stack([m.pedestal for m in arms[::-1]], axis=1),
            pedestal=sum(m.pedestal for m in arms),
            ground=np.zeros(frames),
            samples=np.full(frames, 400),
            odd=np.zeros(frames, bool),
            width=np.ones(frames),
            ellipse=np.full((frames, 3, 2, 2), np.nan),
            mixing=np.full((frames, 3, 3), np.nan),
            light=nan,
        )
        for arms in zip(*each, strict=True)
    ]
    starts = {name: s.truth.position[0] for name, s in both.items()}
    tracemalloc.start()
    try:
        assert ok(solve_arms(views, scene.cameras, scene.spec, starts, fps=20)).mean() > 0.5
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A picture of 512 x 512 is 786 kB.
    assert peak < frames * 40e3


def test_videos_of_other_sizes_and_rates_are_named(clips: Any, tmp_path: Path) -> None:
    scene, video = clips[None]
    entries = {
        name: {"K": c.K.tolist(), "width": 128, "height": 128, "world_from_camera": c.world_from_camera.tolist()}
        for name, c in zip(("front", "side"), scene.cameras, strict=True)
    }
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": entries}))
    encoding = action_encoding("ffv1")
    files = [tmp_path / f"{name}.mkv" for name in ("front", "side")]
    files[0].write_bytes(encode_bytes(video[0], encoding, 20, 128, 128))
    for shown, rate, words in (
        (video[1], 10, "videos differ in frame rate (found front 128x128 at 20, side 128x128 at 10)"),
        (video[1, :, :96, :96], 20, "videos differ in size (found front 128x128 at 20, side 96x96 at 20)"),
        (video[1, :3], 20, "videos differ in their number of frames (found front 5, side 3)"),
    ):
        files[1].write_bytes(encode_bytes(np.ascontiguousarray(shown), encoding, rate, *shown.shape[1:3]))
        for more in ([], ["--merged", "left,right"]):
            arguments = [*map(str, files), "--cameras", str(tmp_path / "cameras.json"), "--out", "never.csv", *more]
            result = CliRunner().invoke(main, ["decode", *arguments])
            assert result.exit_code == 1
            assert words in result.stderr
            assert result.stderr.count("\n") == 1

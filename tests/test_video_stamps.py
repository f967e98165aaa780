"""No picture of a video is lost or comes as another one, whatever its file says of times."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numbered import number, write_numbered

from actionimg_data.cli import main
from actionimg_data.converters.folder import FolderConverter, FolderOptions
from actionimg_data.demo.recordings import TeleopLog, make_log, write_folder, write_yaml
from actionimg_data.errors import BadVideoError, FrameCountError, MissingFrameError
from actionimg_data.video import FrameIndex, VideoFrames, open_video

N = 24
B_FRAMES = {"bf": "3", "g": "10", "crf": "10"}
TWICE = [50 * i for i in range(N)]
TWICE[7] = TWICE[6]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("x.mp4", B_FRAMES),
        ("x.mp4", {**B_FRAMES, "g": "2"}),
        ("x.mp4", {**B_FRAMES, "x264-params": "open-gop=1"}),
        ("x.mkv", {**B_FRAMES, "stamps_ms": [50 * i - 250 for i in range(N)]}),
        ("x.mkv", {**B_FRAMES, "stamps_ms": [50 * i + 37 * (i % 3 == 0) for i in range(N)]}),
        ("x.ts", {**B_FRAMES, "format": "mpegts"}),
        ("x.avi", {"bf": "0", "g": "10"}),
        ("x.avi", B_FRAMES),
        ("x.avi", {"codec": "mpeg4", "bf": "2", "qscale": "2"}),
        ("x.avi", {"codec": "mjpeg"}),
        ("x.h264", B_FRAMES),
        ("x.h264", {"bf": "0"}),
    ],
)
def test_every_picture_is_itself_in_every_container(tmp_path: Path, name: str, more: dict[str, Any]) -> None:
    write_numbered(tmp_path / name, N, **more)
    video = pickle.loads(pickle.dumps(VideoFrames(tmp_path / name)))
    assert len(video) == N
    assert [number(p) for p in video.frames(range(N))] == list(range(N))
    for window in ([0], [N - 1], [1], [9, 10, 11], [3, 17], list(range(2, N, 5))):
        assert [number(p) for p in video.frames(window)] == window
    with open_video((tmp_path / name).read_bytes(), name) as again:
        assert [number(p) for p in again.frames(range(4, 16))] == list(range(4, 16))
        assert [number(p) for p in again.frames([0, 20])] == [0, 20]
    # What no container states is not made up.
    assert video.fps == (None if name.endswith(".h264") else pytest.approx(20, rel=0.05))
    with pytest.raises(MissingFrameError):
        next(video.frames([N]))


def test_pictures_that_an_edit_list_leaves_out_are_not_counted(tmp_path: Path) -> None:
    write_numbered(tmp_path / "x.mp4", N, stamps_ms=[50 * i - 250 for i in range(N)], **B_FRAMES)
    video = VideoFrames(tmp_path / "x.mp4")
    assert [number(p) for p in video.frames(range(len(video)))] == list(range(5, N))
    assert number(next(video.frames([8]))) == 13


def test_stamps_that_repeat_are_refused_by_name_or_counted(tmp_path: Path) -> None:
    write_numbered(tmp_path / "x.mkv", N, stamps_ms=TWICE, bf="0")
    with pytest.raises(BadVideoError, match=r"x\.mkv: frame 7: frames have equal time stamps.*found 0\.3 s again"):
        VideoFrames(tmp_path / "x.mkv")
    video = VideoFrames(tmp_path / "x.mkv", counted=True)
    assert [number(p) for p in video.frames(range(N))] == list(range(N))
    assert [number(p) for p in video.frames([6, 7, 8, 20])] == [6, 7, 8, 20]


def test_a_video_that_changed_since_it_was_counted_is_refused(tmp_path: Path) -> None:
    write_numbered(tmp_path / "x.mp4", N, **B_FRAMES)
    video = VideoFrames(tmp_path / "x.mp4")
    write_numbered(tmp_path / "x.mp4", N - 3, **B_FRAMES)
    with pytest.raises(BadVideoError, match="has changed"):
        list(video.frames([2]))


@pytest.mark.parametrize(("count", "message"), [(N + 2, "ends early"), (N - 2, "holds more frames than it states")])
def test_frames_that_are_counted_have_to_be_as_many_as_the_parts_of_the_file(
    tmp_path: Path, count: int, message: str
) -> None:
    write_numbered(tmp_path / "x.h264", N, bf="0")
    wrong = FrameIndex(count, None, np.zeros(1, np.int64), 0.0)
    with open_video(tmp_path / "x.h264", index=wrong) as video, pytest.raises(BadVideoError, match=message):
        list(video.frames(range(count)))


# In recordings.


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return make_log(frames=N, size=64, views=("front",))


@pytest.fixture
def mapping(log: TeleopLog, tmp_path: Path) -> dict[str, Any]:
    mapping = write_folder(log, tmp_path / "rec")
    write_numbered(tmp_path / "rec" / "front.mkv", N, stamps_ms=TWICE, bf="0")
    mapping["views"]["front"]["frames"] = "front.mkv"
    return mapping


def seen(folder: Path, mapping: dict[str, Any]) -> list[int]:
    path = write_yaml(folder.parent / "mapping.yaml", mapping)
    converter = FolderConverter(FolderOptions(mapping=str(path)))
    episode = converter.read(next(iter(converter.discover(str(folder)))))
    return [number(p) for p in episode.views["front"].frames.frames(range(len(episode)))]


def test_pictures_whose_times_stand_in_a_column_are_all_there(mapping: dict[str, Any], tmp_path: Path) -> None:
    assert seen(tmp_path / "rec", mapping) == list(range(N))


def test_pictures_that_are_paired_with_rows_are_all_there(mapping: dict[str, Any], tmp_path: Path) -> None:
    lines = (tmp_path / "rec" / "poses.csv").read_text().splitlines()
    (tmp_path / "rec" / "poses.csv").write_text("\n".join(lines[: N + 1]) + "\n")
    mapping["sync"] = {"mode": "rows", "fps": 20}
    for stream in (mapping["pose"], mapping["views"]["front"]):
        del stream["time"]
    assert seen(tmp_path / "rec", mapping) == list(range(N))


def test_a_stated_rate_does_not_say_which_picture_is_when(
    log: TeleopLog, mapping: dict[str, Any], tmp_path: Path
) -> None:
    mapping["views"]["front"]["time"] = {"fps": 20, "start_s": float(log.frame_times[0])}
    with pytest.raises(BadVideoError, match=r"front\.mkv: frame 7: frames have equal time stamps"):
        seen(tmp_path / "rec", mapping)
    path = write_yaml(tmp_path / "mapping.yaml", mapping)
    result = CliRunner().invoke(
        main, ["convert", "folder", str(tmp_path / "rec"), str(tmp_path / "out"), "--mapping", str(path), "--json"]
    )
    assert result.exit_code != 0
    assert "front.mkv: frame 7: frames have equal time stamps" in result.output


def test_a_column_of_too_few_times_is_refused(mapping: dict[str, Any], tmp_path: Path) -> None:
    lines = (tmp_path / "rec" / "frame_times.csv").read_text().splitlines()
    (tmp_path / "rec" / "frame_times.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(FrameCountError, match="one for each stamp"):
        seen(tmp_path / "rec", mapping)

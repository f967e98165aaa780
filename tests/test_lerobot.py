from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from actionimg_data.converters.lerobot import LeRobotConverter, LeRobotOptions
from actionimg_data.demo.recordings import TeleopLog, camera_file, make_log, write_lerobot, write_video, write_yaml
from actionimg_data.errors import (
    BadVideoError,
    FrameCountError,
    InvalidTextError,
    InvalidTrajectoryError,
    MissingCalibrationError,
    SourceNotFoundError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
)
from actionimg_data.geometry import rotations
from actionimg_data.model import Episode

VERSIONS = ("v2.0", "v2.1", "v3.0")


@pytest.fixture(scope="module")
def logs() -> list[TeleopLog]:
    views = ("front", "overhead")
    return [make_log(8, 64, 0, views), make_log(11, 64, 1, views), make_log(6, 64, 2, views)]


def write(logs: list[TeleopLog], tmp_path: Path, version: Any = "v2.1", **options: Any) -> dict[str, Any]:
    mapping = write_lerobot(logs, tmp_path / "set", version, **{"codec": "libx264", **options})
    (tmp_path / "cameras.json").write_text(json.dumps(camera_file(logs[0])))
    write_yaml(tmp_path / "m.yaml", mapping)
    return mapping


def read_all(tmp_path: Path, **options: Any) -> list[Episode]:
    converter = LeRobotConverter(LeRobotOptions(mapping=str(tmp_path / "m.yaml"), **options))
    return [converter.read(ref) for ref in converter.discover(str(tmp_path / "set"))]


def check(episode: Episode, log: TeleopLog, levels: float = 4.0) -> None:
    truth = log.truth()
    np.testing.assert_allclose(episode.trajectory.position, truth.position, atol=1e-6)
    assert np.asarray(rotations.angle_between(episode.trajectory.rotation, truth.rotation)).max() < 1e-6
    np.testing.assert_allclose(episode.trajectory.openness, truth.openness, atol=1e-6)
    np.testing.assert_allclose(episode.trajectory.times, truth.times, atol=1e-9)
    assert (episode.instruction, episode.fps, episode.sync) == (log.instruction, 20.0, "assumed")
    for name, view in episode.views.items():
        pictures = np.stack(list(view.frames.frames(range(len(episode)))))
        assert np.abs(pictures.astype(int) - log.views[name].pictures).mean() < levels


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_gives_the_same_episodes(logs: list[TeleopLog], tmp_path: Path, version: str) -> None:
    write(logs, tmp_path, version)
    episodes = read_all(tmp_path)
    assert [e.id for e in episodes] == ["episode_000000", "episode_000001", "episode_000002"]
    for episode, log in zip(episodes, logs, strict=True):
        check(episode, log)


@pytest.mark.parametrize("codec", ["libsvtav1", "libx265"])
def test_other_codecs_in_one_file_for_all_episodes(logs: list[TeleopLog], tmp_path: Path, codec: str) -> None:
    write(logs, tmp_path, "v3.0", codec=codec)
    for episode, log in zip(read_all(tmp_path), logs, strict=True):
        check(episode, log, levels=6.0)


def test_pictures_in_the_rows(logs: list[TeleopLog], tmp_path: Path) -> None:
    write(logs, tmp_path, "v3.0", images=True)
    for episode, log in zip(read_all(tmp_path), logs, strict=True):
        check(episode, log, levels=1e-9)


def test_chosen_episodes_and_their_lengths(logs: list[TeleopLog], tmp_path: Path) -> None:
    write(logs, tmp_path)
    converter = LeRobotConverter(LeRobotOptions(mapping=str(tmp_path / "m.yaml"), episodes=(2,)))
    refs = list(converter.discover(str(tmp_path / "set")))
    assert [(r.id, r.num_frames) for r in refs] == [("episode_000002", 6)]
    with pytest.raises(WrongFormatError, match="has no such episode"):
        read_all(tmp_path, episodes=(7,))


def test_a_reference_is_read_by_a_converter_that_did_not_discover_it(logs: list[TeleopLog], tmp_path: Path) -> None:
    write(logs, tmp_path, "v3.0")
    options = LeRobotOptions(mapping=str(tmp_path / "m.yaml"))
    refs = list(LeRobotConverter(options).discover(str(tmp_path / "set")))
    check(LeRobotConverter(options).read(refs[1]), logs[1])


def test_intrinsics_and_poses_from_extra_features(logs: list[TeleopLog], tmp_path: Path) -> None:
    mapping = write(logs[:1], tmp_path)
    path = tmp_path / "set/data/chunk-000/episode_000000.parquet"
    table = parquet.read_table(path)
    view = logs[0].views["front"]
    n = len(logs[0].frame_times)
    inverse = np.linalg.inv(view.world_from_camera)[:3].ravel()
    table = table.append_column("sensors.front.intrinsic_cv", pa.array([view.K.ravel().tolist()] * n))
    table = table.append_column("sensors.front.extrinsic_cv", pa.array([inverse.tolist()] * n))
    parquet.write_table(table, path)
    mapping["views"]["front"]["camera"] = {
        "K_columns": ["sensors.front.intrinsic_cv"],
        "poses": {"matrix": {"columns": ["sensors.front.extrinsic_cv"], "order": "row", "unit": "m"}, "inverse": True},
    }
    write_yaml(tmp_path / "m.yaml", mapping)
    camera = read_all(tmp_path)[0].views["front"].camera
    assert camera is not None
    np.testing.assert_allclose(camera.track(n).world_from_camera[3], view.world_from_camera, atol=1e-9)
    np.testing.assert_allclose(camera.track(n).K[3], view.K)


def test_joints_through_the_robots_kinematics(logs: list[TeleopLog], tmp_path: Path) -> None:
    mapping = write(logs[:1], tmp_path)
    (tmp_path / "r.urdf").write_text(
        '<robot name="r"><link name="base"/><link name="tool"/><joint name="j" type="prismatic"><parent link="base"/>'
        '<child link="tool"/><origin xyz="1 0 0"/><axis xyz="0 0 1"/></joint></robot>'
    )
    del mapping["pose"]["position"], mapping["pose"]["rotation"]
    mapping["pose"]["joints"] = {
        "columns": ["observation.state.z"], "names": ["j"], "unit": "rad",
        "robot": "r.urdf", "base": "base", "tip": "tool",
    }  # fmt: skip
    mapping["pose"]["tool_from_gripper"] = {}
    write_yaml(tmp_path / "m.yaml", mapping)
    episode = read_all(tmp_path)[0]
    z = logs[0].tool_at(logs[0].frame_times)[:, 2, 3]
    np.testing.assert_allclose(episode.trajectory.position, np.stack([np.ones_like(z), 0 * z, z], 1), atol=1e-6)


def test_it_is_recognised_and_shown(logs: list[TeleopLog], tmp_path: Path) -> None:
    write(logs, tmp_path, "v3.0")
    found = LeRobotConverter.detect(str(tmp_path / "set"))
    assert found is not None
    assert found.details == "v3.0, 3 episodes"
    assert LeRobotConverter.detect(str(tmp_path / "set/data")) is None
    shown = LeRobotConverter().inspect(str(tmp_path / "set"))
    assert json.loads(json.dumps(shown)) == shown
    assert (shown["episodes"], shown["frames"], shown["fps"]) == (3, 25, 20.0)
    assert shown["features"]["observation.state"]["names"][-1] == "gripper_width"


# Bad input.


def change_info(tmp_path: Path, **changes: Any) -> None:
    path = tmp_path / "set/meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"codebase_version": "v1.6"}, UnsupportedSourceError, r"v2\.0 \| v2\.1 \| v3\.0, found v1\.6"),
        ({"features": None}, WrongFormatError, "is not LeRobot's info.json"),
        ({"data_path": "../{episode_index}.parquet"}, UnsafeFileError, "outside the data set"),
        ({"data_path": "{episode_index.__class__}"}, WrongFormatError, "is not a path template"),
        ({"video_path": "/tmp/{video_key}.mp4"}, UnsafeFileError, "outside the data set"),
        ({"video_path": "{video_key}.mp4"}, SourceNotFoundError, r"observation\.images\.front\.mp4"),
        ({"fps": 30}, InvalidTrajectoryError, r"do not follow the stated rate.*30 Hz"),
    ],
)
def test_what_info_json_must_not_say(
    logs: list[TeleopLog], tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    write(logs[:1], tmp_path)
    change_info(tmp_path, **changes)
    with pytest.raises(error, match=message):
        read_all(tmp_path)


def test_a_video_shorter_than_its_rows_is_refused(logs: list[TeleopLog], tmp_path: Path) -> None:
    write(logs[:1], tmp_path)
    path = tmp_path / "set/videos/chunk-000/observation.images.front/episode_000000.mp4"
    write_video(path, logs[0].views["front"].pictures[:5])
    with pytest.raises(FrameCountError, match=r"episode_000000\.mp4.*expected 8 pictures, found 5"):
        read_all(tmp_path)


def test_a_packed_video_that_ends_before_its_last_episode_is_refused(logs: list[TeleopLog], tmp_path: Path) -> None:
    write(logs, tmp_path, "v3.0")
    path = tmp_path / "set/videos/observation.images.front/chunk-000/file-000.mp4"
    write_video(path, np.concatenate([log.views["front"].pictures for log in logs])[:-3])
    read_all(tmp_path, episodes=(0, 1))
    with pytest.raises(FrameCountError, match=r"episode 2.*expected pictures up to 1\.200 s, found 1\.050 s"):
        read_all(tmp_path, episodes=(2,))


def test_a_video_at_another_rate_is_refused(logs: list[TeleopLog], tmp_path: Path) -> None:
    write(logs[:1], tmp_path)
    path = tmp_path / "set/videos/chunk-000/observation.images.front/episode_000000.mp4"
    write_video(path, logs[0].views["front"].pictures, fps=30)
    with pytest.raises(BadVideoError, match="expected 20, found 30"):
        read_all(tmp_path)


def test_missing_rows_features_calibration_and_tasks_are_named(logs: list[TeleopLog], tmp_path: Path) -> None:
    mapping = write(logs[:1], tmp_path)
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": {"side": camera_file(logs[0])["cameras"]["front"]}}))
    mapping["views"]["front"]["camera"]["name"] = "front"
    write_yaml(tmp_path / "m.yaml", mapping)
    with pytest.raises(MissingCalibrationError, match="expected side, found front"):
        read_all(tmp_path)
    mapping["views"]["front"]["feature"] = "observation.images.top"
    write_yaml(tmp_path / "m.yaml", mapping)
    with pytest.raises(WrongFormatError, match=r"has no such pictures.*observation\.images\.front"):
        read_all(tmp_path)
    write_yaml(tmp_path / "m.yaml", write_again(logs, tmp_path))
    path = tmp_path / "set/meta/tasks.jsonl"
    path.write_text(path.read_text().replace(logs[0].instruction, " "))
    with pytest.raises(InvalidTextError, match="has a task without a text"):
        read_all(tmp_path)
    path.write_text('{"task_index": 7, "task": "another"}')
    with pytest.raises(InvalidTextError, match="a task that is not in the table of tasks"):
        read_all(tmp_path)
    path.unlink()
    path = tmp_path / "set/meta/episodes.jsonl"
    path.write_text(path.read_text().replace(logs[0].instruction, " "))
    with pytest.raises(InvalidTextError, match="has no task"):
        read_all(tmp_path)
    path = tmp_path / "set/data/chunk-000/episode_000000.parquet"
    parquet.write_table(parquet.read_table(path).slice(0, 5), path)
    with pytest.raises(FrameCountError, match="expected 8, found 5"):
        read_all(tmp_path)


def write_again(logs: list[TeleopLog], tmp_path: Path) -> dict[str, Any]:
    import shutil

    shutil.rmtree(tmp_path / "set")
    return write(logs[:1], tmp_path)


# What LeRobot's own tools leave: files that roll over, places that are stated wrong, tasks that change.


def episodes_table(tmp_path: Path) -> Path:
    return tmp_path / "set/meta/episodes/chunk-000/file-000.parquet"


def state(tmp_path: Path, change: Any) -> None:
    """Change what meta/episodes says of each episode."""
    path = episodes_table(tmp_path)
    rows = [change(row) for row in parquet.read_table(path).to_pylist()]
    parquet.write_table(pa.Table.from_pylist(rows), path)


def second_task(tmp_path: Path, file: str = "file-000.parquet", episode: int = 1, from_row: int = 4) -> None:
    """From a row of an episode on, another task."""
    path = tmp_path / "set/data/chunk-000" / file
    rows = parquet.read_table(path).to_pylist()
    for row in rows:
        if row["episode_index"] == episode and row["frame_index"] >= from_row:
            row["task_index"] = 1
    parquet.write_table(pa.Table.from_pylist(rows, parquet.read_schema(path)), path)
    tasks = tmp_path / "set/meta/tasks.parquet"
    named = parquet.read_table(tasks).to_pylist()
    named.append({"task_index": 1, "__index_level_0__": "put it down"})
    parquet.write_table(pa.Table.from_pylist(named), tasks)


def test_files_that_roll_over(logs: list[TeleopLog], tmp_path: Path) -> None:
    write(logs, tmp_path, "v3.0", episodes_per_file=2)
    assert (tmp_path / "set/data/chunk-000/file-001.parquet").is_file()
    for episode, log in zip(read_all(tmp_path), logs, strict=True):
        check(episode, log)


@pytest.mark.parametrize(("stated", "chunk"), [(0, 0), (2, 0), (1, 1)])
def test_rows_are_found_beside_the_file_that_is_stated(
    logs: list[TeleopLog], tmp_path: Path, stated: int, chunk: int
) -> None:
    write(logs, tmp_path, "v3.0", episodes_per_file=1)
    if chunk:
        # The last file of a chunk, and the first of the next.
        change_info(tmp_path, chunks_size=2)
        (tmp_path / "set/data/chunk-001").mkdir()
        (tmp_path / "set/data/chunk-000/file-002.parquet").rename(tmp_path / "set/data/chunk-001/file-000.parquet")

    def change(row: dict[str, Any]) -> dict[str, Any]:
        if row["episode_index"] == (2 if chunk else 1):
            row["data/file_index"] = stated
        return row

    state(tmp_path, change)
    for episode, log in zip(read_all(tmp_path), logs, strict=True):
        check(episode, log)


def test_rows_that_are_nowhere_are_named(logs: list[TeleopLog], tmp_path: Path) -> None:
    write(logs, tmp_path, "v3.0", episodes_per_file=1)
    path = tmp_path / "set/data/chunk-000/file-001.parquet"
    parquet.write_table(parquet.read_table(path).slice(0, 0), path)
    with pytest.raises(WrongFormatError, match=r"file-001\.parquet: episode_index: holds no rows.*expected 1"):
        read_all(tmp_path)
    path.unlink()
    with pytest.raises(SourceNotFoundError, match=r"file-001\.parquet"):
        read_all(tmp_path)


def test_tasks_come_from_the_rows(logs: list[TeleopLog], tmp_path: Path) -> None:
    write(logs, tmp_path, "v3.0")
    state(tmp_path, lambda row: {k: v for k, v in row.items() if k != "tasks"})
    assert {e.instruction for e in read_all(tmp_path)} == {logs[0].instruction}
    # Which of several it is only the rows can say.
    (tmp_path / "set/meta/tasks.parquet").unlink()
    state(tmp_path, lambda row: {**row, "tasks": ["one", "two"]})
    with pytest.raises(InvalidTextError, match=r"several tasks.*one \| two"):
        read_all(tmp_path)


def test_a_task_that_changes_is_a_span_of_frames(logs: list[TeleopLog], tmp_path: Path) -> None:
    write(logs, tmp_path, "v3.0")
    second_task(tmp_path)
    episodes = read_all(tmp_path)
    assert [len(e.spans) for e in episodes] == [0, 2, 0]
    spans = [(s.start, s.end, s.text) for s in episodes[1].spans]
    assert spans == [(0, 4, "lift the red cube"), (4, 11, "put it down")]
    assert episodes[1].instructions == ("lift the red cube", "put it down")
    half = episodes[1].select(range(2, 10, 3))
    assert [(s.start, s.end, s.text) for s in half.spans] == [(0, 1, "lift the red cube"), (1, 3, "put it down")]
    late = episodes[1].select(range(5, 9))
    assert (late.spans, late.instructions) == ((), ("put it down",))


def test_an_episode_is_split_where_its_task_changes(logs: list[TeleopLog], tmp_path: Path) -> None:
    write(logs, tmp_path, "v3.0")
    second_task(tmp_path)
    converter = LeRobotConverter(LeRobotOptions(mapping=str(tmp_path / "m.yaml"), split_by_task=True))
    refs = list(converter.discover(str(tmp_path / "set")))
    assert [(r.id, r.num_frames) for r in refs] == [
        ("episode_000000", 8), ("episode_000001_part_0", 4), ("episode_000001_part_1", 7), ("episode_000002", 6),
    ]  # fmt: skip
    part = converter.read(refs[2])
    assert (len(part), part.instructions, part.spans) == (7, ("put it down",), ())
    assert part.times[0] == 0
    np.testing.assert_allclose(part.trajectory.position, logs[1].truth().position[4:], atol=1e-6)
    pictures = np.stack(list(part.views["front"].frames.frames(range(7))))
    assert np.abs(pictures.astype(int) - logs[1].views["front"].pictures[4:]).mean() < 4
    assert part.provenance["frames"] == [4, 11]


def test_windows_are_trained_on_with_the_task_of_their_own_frames(logs: list[TeleopLog], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from actionimg_data import engine, open_dataset
    from actionimg_data.schemas import ConvertOptions
    from actionimg_data.training import ActionImageDataset

    write(logs, tmp_path, "v3.0")
    second_task(tmp_path)
    converter = LeRobotConverter(LeRobotOptions(mapping=str(tmp_path / "m.yaml"), episodes=(1,)))
    options = ConvertOptions.parse(height=32, width=32)
    engine.convert(converter, str(tmp_path / "set"), tmp_path / "out", options)
    (sample,) = open_dataset(tmp_path / "out")
    assert [(s.start, s.end, s.text) for s in sample.meta.instruction_spans] == [
        (0, 4, "lift the red cube"), (4, 11, "put it down"),
    ]  # fmt: skip
    assert sample.meta.instruction_at([2, 3, 4]) == "lift the red cube"
    assert sample.meta.instruction_at([3, 4]) == "lift the red cube"
    seen = set()
    for seed in range(12):
        data = ActionImageDataset(tmp_path / "out", num_frames=4, size=32, views=2, seed=seed)
        for item in data:
            assert item["text"] == sample.meta.instruction_at(item["frame_indices"].tolist())
            seen.add(item["text"])
    assert len(seen) == 2


def test_a_folder_of_several_sets(logs: list[TeleopLog], tmp_path: Path) -> None:
    write(logs[:2], tmp_path, "v3.0")
    (tmp_path / "all").mkdir()
    (tmp_path / "set").rename(tmp_path / "all/val")
    write(logs[2:], tmp_path, "v2.1")
    (tmp_path / "set").rename(tmp_path / "all/train")
    found = LeRobotConverter.detect(str(tmp_path / "all"))
    assert found is not None
    assert found.details.startswith("2 data sets")
    converter = LeRobotConverter(LeRobotOptions(mapping=str(tmp_path / "m.yaml")))
    refs = list(converter.discover(str(tmp_path / "all")))
    assert [r.id for r in refs] == ["train/episode_000000", "val/episode_000000", "val/episode_000001"]
    for ref, log in zip(refs, (logs[2], logs[0], logs[1]), strict=True):
        check(converter.read(ref), log)
    assert converter.inspect(str(tmp_path / "all"))["data_sets"] == ["train", "val"]


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["h264", "av1_small", "two_tasks", "resume", "images_to_videos", "v21_to_v3_small"])
def test_sets_by_lerobots_own_tools(sample_data: Path, name: str) -> None:
    from numbered import number

    root = sample_data / "lerobot"
    converter = LeRobotConverter(LeRobotOptions(mapping=str(root / "mapping.yaml")))
    refs = list(converter.discover(str(root / name)))
    assert len(refs) == (7 if name == "resume" else 5)
    for ref in refs:
        episode, index = converter.read(ref), int(ref.location["index"])
        for view, first in (("front", 0), ("side", 500)):
            # Of their ten bits the first sixteenths of a picture show one each.
            seen = [number(p) & 1023 for p in episode.views[view].frames.frames(range(len(episode)))]
            assert seen == [(100 * index + k + first) % 1024 for k in range(len(episode))]
        if index < 5:
            np.testing.assert_allclose(
                episode.trajectory.position[:, 0], 0.3 + 0.004 * np.arange(len(episode)), atol=1e-6
            )
        assert len(episode.spans) == (2 if name == "two_tasks" else 0)


@pytest.mark.realdata
def test_our_own_sets_are_laid_out_as_lerobots(logs: list[TeleopLog], sample_data: Path, tmp_path: Path) -> None:
    write(logs, tmp_path, "v3.0")

    def kinds(root: Path, file: str) -> dict[str, str]:
        schema = parquet.read_schema(root / file)
        own = {"observation.images.overhead": "observation.images.side"}
        names = {n: n.replace(*next(iter(own.items()))) for n in schema.names if not n.startswith("stats/")}
        return {names[n]: str(schema.field(n).type).replace("item:", "element:").removeprefix("large_") for n in names}

    theirs, ours = sample_data / "lerobot/h264", tmp_path / "set"
    for file in ("meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet"):
        assert kinds(ours, file) == kinds(theirs, file)
    rows = kinds(theirs, "data/chunk-000/file-000.parquet")
    del rows["action"], rows["observation.state"]
    mine = kinds(ours, "data/chunk-000/file-000.parquet")
    assert {n: mine[n] for n in rows} == rows

"""Bags of every kind: containers, encodings, topics of video, recordings that were cut off, messages of one's own."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

import bag_data
from mcap.reader import NonSeekingReader, make_reader
from mcap.writer import CompressionType, IndexType

from actionimg_data.converters.kit.bags import mcap_file
from actionimg_data.converters.kit.bags.reader import Access, open_bag
from actionimg_data.converters.look.propose import propose_mapping
from actionimg_data.converters.rosbag import RosbagConverter, RosbagOptions
from actionimg_data.demo.recordings import TeleopLog, make_log, write_rosbag, write_yaml
from actionimg_data.errors import ActionImgError, BadFileError, BadVideoError, UnsupportedSourceError
from actionimg_data.geometry import rotations
from actionimg_data.model import Episode


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return make_log(frames=10, size=64, views=("front", "wrist"))


def converter(tmp_path: Path, mapping: dict[str, Any], **options: Any) -> RosbagConverter:
    write_yaml(tmp_path / "m.yaml", mapping)
    return RosbagConverter(RosbagOptions(mapping=str(tmp_path / "m.yaml"), **options))


def read(tmp_path: Path, mapping: dict[str, Any], allow: tuple[str, ...] = (), **options: Any) -> Episode:
    reader = converter(tmp_path, mapping, **options)
    reader.allowed = frozenset(allow)
    (ref,) = reader.discover(str(tmp_path / "bags"))
    return reader.read(ref)


def pictures(episode: Episode, view: str) -> np.ndarray:
    return np.stack(list(episode.views[view].frames.frames(range(len(episode)))))


def check(episode: Episode, log: TeleopLog, levels: float = 0.0) -> None:
    truth = log.truth()
    np.testing.assert_allclose(episode.trajectory.position, truth.position, atol=1e-6)
    assert np.asarray(rotations.angle_between(episode.trajectory.rotation, truth.rotation)).max() < 1e-6
    np.testing.assert_allclose(episode.trajectory.openness, truth.openness, atol=1e-6)
    for name, view in log.views.items():
        camera = episode.views[name].camera
        assert camera is not None
        expected = np.broadcast_to(view.world_from_camera, (len(episode), 4, 4))
        np.testing.assert_allclose(camera.track(len(episode)).world_from_camera, expected, atol=1e-6)
        np.testing.assert_allclose(camera.track(len(episode)).K[0], view.K)
        off = np.abs(pictures(episode, name).astype(int) - view.pictures).mean()
        assert off <= (levels if name == "front" else 0.0)


# Encodings of messages.


@pytest.mark.parametrize("encoding", list(bag_data.WRITERS))
def test_foxgloves_schemas_give_the_episode_that_ros_gives(log: TeleopLog, tmp_path: Path, encoding: str) -> None:
    if encoding != "json":
        pytest.importorskip(f"foxglove_schemas_{encoding}")
    mapping = bag_data.WRITERS[encoding](log, tmp_path / "bags/run.mcap")
    check(read(tmp_path, mapping), log)
    assert json.loads(json.dumps(RosbagConverter().inspect(str(tmp_path / "bags"))))["bags"]["run.mcap"]["topics"][
        "/ee_pose"
    ].startswith("foxglove.PoseInFrame × ")


def test_joints_in_json_have_the_names_of_ros(log: TeleopLog, tmp_path: Path) -> None:
    check(read(tmp_path, bag_data.write_json(log, tmp_path / "bags/run.mcap", joints=True)), log)


def test_a_flatbuffer_that_lies_is_refused_and_takes_no_time(log: TeleopLog) -> None:
    pytest.importorskip("foxglove_schemas_flatbuffer")
    from actionimg_data.converters.kit.bags import flatbuffer

    _, _, name, values = next(e for e in bag_data.events(log) if e[2] == "CameraCalibration")
    data = bag_data._built(name, values)
    decode = flatbuffer.decoder(bag_data.binary_schema(name), f"foxglove.{name}")
    assert decode(data).k.tolist() == values["K"]
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            broken[at] = rng.integers(0, 256)
        try:
            decode(bytes(broken))
        except (ActionImgError, ValueError):
            continue
    with pytest.raises(BadFileError, match="does not define the type"):
        flatbuffer.decoder(bag_data.binary_schema(name), "foxglove.Nothing")
    with pytest.raises(BadFileError, match="no binary schema"):
        flatbuffer.decoder(b"\x08\0\0\0text" * 9, "")


def test_an_odd_topic_does_not_harm_a_sound_bag(log: TeleopLog, tmp_path: Path) -> None:
    (tmp_path / "bags").mkdir()
    mapping = bag_data.write_json(log, tmp_path / "plain/run.mcap")
    odd = {
        "/odd/encoding": ("x", "capnp", "capnp", b"?"),
        "/odd/idl": ("a/msg/B", "cdr", "ros2idl", b"module { nonsense"),
        "/odd/service": ("test_msgs/srv/Basic_Event", "cdr", "ros2msg", b"service_msgs/ServiceEventInfo info\n"),
        "/odd/proto": ("x.Y", "protobuf", "protobuf", b"\xff\xff"),
        "/odd/flat": ("x.Y", "flatbuffer", "flatbuffer", b"1234nope"),
    }
    with open(tmp_path / "plain/run.mcap", "rb") as file:
        found = [(m.log_time, c.topic, m.data, s) for s, c, m in make_reader(file).iter_messages()]
    channels = {
        t: (s.name if s else "", "json", "jsonschema" if s else "", b"{}" if s else b"") for _, t, _, s in found
    }
    extra = [(found[0][0], topic, b"\0\1\0\0junk") for topic in odd]
    everything = sorted([*extra, *((ns, t, data) for ns, t, data, _ in found)], key=lambda m: m[0])
    bag_data.write_mcap(tmp_path / "bags/run.mcap", everything, {**channels, **odd}, profile="foreign")
    check(read(tmp_path, mapping), log)
    shown = RosbagConverter().inspect(str(tmp_path / "bags"))["bags"]["run.mcap"]["topics"]
    assert {t for t, text in shown.items() if "not readable" in text} == set(odd)
    assert "capnp" in shown["/odd/encoding"]
    assert "ServiceEventInfo" in shown["/odd/service"]
    mapping["gripper"]["topic"] = "/odd/idl"
    with pytest.raises(BadFileError, match=r"run\.mcap: /odd/idl: .*makes no sense"):
        read(tmp_path, mapping)


# Definitions of messages.


def custom_bag(log: TeleopLog, tmp_path: Path) -> dict[str, Any]:
    """A db3 as Humble writes it, with a message of one's own and no definitions."""
    import sqlite3

    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    mapping = write_rosbag(log, tmp_path / "bags/run", "sqlite3")
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg("float64 width\nmy_parts/Note note", "my_msgs/msg/Gripper"))
    store.register(get_types_from_msg("string text", "my_parts/msg/Note"))
    note = store.types["my_parts/msg/Note"]("x")
    (path,) = (tmp_path / "bags/run").glob("*.db3")
    rows = sqlite3.connect(path)
    with rows:
        rows.execute("DELETE FROM message_definitions")
        rows.execute("UPDATE topics SET type = 'my_msgs/msg/Gripper' WHERE name = '/gripper'")
        (topic,) = rows.execute("SELECT id FROM topics WHERE name = '/gripper'").fetchone()
        ids = [i for (i,) in rows.execute("SELECT id FROM messages WHERE topic_id = ? ORDER BY timestamp", (topic,))]
        for number, width in zip(ids, log.width_m, strict=True):
            raw = store.serialize_cdr(store.types["my_msgs/msg/Gripper"](float(width), note), "my_msgs/msg/Gripper")
            rows.execute("UPDATE messages SET data = ? WHERE id = ?", (bytes(raw), number))
    rows.close()
    # These have no header: the times of logging are 31 ms late.
    mapping["gripper"] = {**mapping["gripper"], "columns": ["width"], "time": {"stamp": "log", "offset_s": -0.031}}
    return mapping


def test_messages_of_ones_own_need_their_definitions(log: TeleopLog, tmp_path: Path) -> None:
    mapping = custom_bag(log, tmp_path)
    with pytest.raises(UnsupportedSourceError, match=r"/gripper: .*my_msgs/msg/Gripper.*--msg-path FOLDER"):
        read(tmp_path, mapping)
    shown = RosbagConverter().inspect(str(tmp_path / "bags"))["bags"]["run"]["topics"]
    assert "--msg-path" in shown["/gripper"]
    assert "not readable" not in shown["/ee_pose"]
    # A tree of ROS packages for one, a file alone for the other.
    (tmp_path / "ws/src/my_msgs/msg").mkdir(parents=True)
    (tmp_path / "ws/src/my_msgs/msg/Gripper.msg").write_text("float64 width\nmy_parts/Note note\n")
    folders = (str(tmp_path / "ws"),)
    with pytest.raises(UnsupportedSourceError, match=r"my_parts/msg/Note.*only that of my_msgs/msg/Gripper"):
        read(tmp_path, mapping, msg_path=folders)
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose/Note.msg").write_text("string text\n")
    episode = read(tmp_path, mapping, msg_path=(*folders, str(tmp_path / "loose")))
    np.testing.assert_allclose(episode.trajectory.openness, log.truth().openness, atol=1e-6)
    (tmp_path / "ws/src/my_msgs/msg/Gripper.msg").write_text("float64 ((\n")
    with pytest.raises(BadFileError, match=r"Gripper\.msg: .*is no definition of a message"):
        read(tmp_path, mapping, msg_path=(str(tmp_path / "ws") + "/",))


# MCAP files.


FORMS: dict[str, dict[str, Any]] = {
    "zstd": {"compression": CompressionType.ZSTD},
    "lz4": {"compression": CompressionType.LZ4},
    "plain": {"compression": CompressionType.NONE},
    "no chunks": {"use_chunking": False},
    "no message index": {"index_types": IndexType.ALL & ~IndexType.MESSAGE},
    "no index": {"index_types": IndexType.NONE, "use_statistics": False, "repeat_channels": False},
    "no schemas behind": {"repeat_channels": False, "repeat_schemas": False},
}


def some_messages(count: int = 400) -> tuple[list[tuple[int, str, bytes]], dict[str, tuple[str, str, str, bytes]]]:
    rng = np.random.default_rng(3)
    topics = [f"/t{k}" for k in range(5)]
    # Logged out of order, and sometimes in the same nanosecond.
    times = np.arange(count) // 2 * 1000 + rng.integers(0, 3000, count) // 500 * 500 + 10**18
    found = [(int(t), topics[rng.integers(0, 5)], rng.bytes(rng.integers(1, 400))) for t in times]
    return found, dict.fromkeys(topics, ("x", "json", "jsonschema", b"{}"))


def all_messages(path: Path, topics: list[str], allow_cut: bool = False, start: int | None = None) -> list[Any]:
    reader = mcap_file.McapFile(path, allow_cut)
    chosen = [c for c in reader.channels if c.topic in topics]
    try:
        return [(c.topic, ns, data) for c, ns, data in reader.messages(chosen, start)]
    finally:
        reader.close()


@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_of_mcap_gives_what_its_own_reader_gives(tmp_path: Path, form: str) -> None:
    found, channels = some_messages()
    path = tmp_path / "x.mcap"
    bag_data.write_mcap(path, found, channels, chunk_size=4000, **FORMS[form])
    topics = ["/t1", "/t3"]
    with open(path, "rb") as file:
        wanted = [(c.topic, m.log_time, m.data) for _, c, m in NonSeekingReader(file).iter_messages(topics)]
    assert all_messages(path, topics) == wanted
    start = wanted[len(wanted) // 2][1]
    assert all_messages(path, topics, start=start) == [m for m in wanted if m[1] >= start]
    with open_bag(path) as bag:
        assert {n: t.count for n, t in bag.topics().items()} == {t: sum(m[1] == t for m in found) for t in channels}
        span = max(m[0] for m in found) - min(m[0] for m in found)
        assert bag.duration_s == pytest.approx(span * 1e-9)


@pytest.mark.parametrize("form", ["zstd", "lz4", "plain", "no chunks"])
def test_of_a_file_that_was_cut_off_what_is_whole_is_read(tmp_path: Path, form: str) -> None:
    found, channels = some_messages(200)
    path = tmp_path / "x.mcap"
    bag_data.write_mcap(path, found, channels, chunk_size=2000, **FORMS[form])
    whole, data = all_messages(path, list(channels)), path.read_bytes()
    kept = -1
    for size in (*range(20, len(data) - 1, max(1, len(data) // 40)), len(data) - 1):
        cut = tmp_path / f"cut{size}.mcap"
        cut.write_bytes(data[:size])
        with pytest.raises(BadFileError, match=rf"was cut off: it ends at byte {size}.*--allow cut-recording"):
            mcap_file.McapFile(cut)
        part = all_messages(cut, list(channels), allow_cut=True)
        assert set(part) <= set(whole)
        assert len(part) >= kept
        kept = len(part)
    assert kept == len(whole)


def test_damage_in_a_packed_chunk_is_noticed(tmp_path: Path) -> None:
    found, channels = some_messages()
    path = tmp_path / "x.mcap"
    bag_data.write_mcap(path, found, channels, chunk_size=4000)
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(BadFileError), open_bag(path) as bag:
        list(bag.messages(bag.channels))


def test_only_the_topics_that_are_asked_for_are_read(tmp_path: Path) -> None:
    large = [(10**18 + i * 1000, "/large", bytes(20_000)) for i in range(200)]
    small = [(10**18 + i * 1000 + 1, "/small", b"{}") for i in range(200)]
    channels = dict.fromkeys(("/large", "/small"), ("x", "json", "jsonschema", b"{}"))
    path = tmp_path / "x.mcap"
    together = sorted([*large, *small])
    bag_data.write_mcap(path, together, channels, chunk_size=200_000, compression=CompressionType.NONE)
    reader = mcap_file.McapFile(path)
    count = 0
    inner = reader._file

    class Counted:
        def read(self, size: int) -> bytes:
            nonlocal count
            count += size
            return inner.read(size)

        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

    reader._file = Counted()  # type: ignore[assignment]
    found = list(reader.messages([c for c in reader.channels if c.topic == "/small"]))
    reader.close()
    assert [m[2] for m in found] == [b"{}"] * 200
    assert count < 0.01 * path.stat().st_size


def test_what_is_no_mcap_is_not_said_to_be_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "x.mcap"
    path.write_bytes(b"something else" * 20)
    with pytest.raises(BadFileError, match="is no MCAP file"), open_bag(path):
        pass
    path.write_bytes(mcap_file.MAGIC + struct.pack("<BQ", 77, 3) + b"abc" * 50)
    with pytest.raises(BadFileError, match="is damaged"), open_bag(path, Access(cut=True)):
        pass


# Folders of several files, and ROS 1.


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_folder_of_split_files_is_one_bag(log: TeleopLog, tmp_path: Path, storage: Any) -> None:
    first = make_log(frames=6, size=64, views=("front",))
    write_rosbag(first, tmp_path / "bags/run", storage)
    write_rosbag(first, tmp_path / "other/run", storage)
    suffix = ".mcap" if storage == "mcap" else ".db3"
    (tmp_path / f"other/run/run{suffix}").rename(tmp_path / f"bags/run/run_1{suffix}")
    path = tmp_path / "bags/run/metadata.yaml"
    path.write_text(path.read_text().replace(f"  - run{suffix}", f"  - run{suffix}\n  - run_1{suffix}", 1))
    with open_bag(tmp_path / "bags/run") as bag:
        assert bag.topics()["/front/image"].count == 12
        one = bag.of(["/front/image"])
        stamps = [ns for _, ns, _ in bag.messages(one)]
        assert stamps == stamps[:6] * 2
    (tmp_path / f"bags/run/run_1{suffix}").unlink()
    with (
        pytest.raises(BadFileError, match=f"run_1{suffix}: a file of the bag is missing"),
        open_bag(tmp_path / "bags/run"),
    ):
        pass


def test_a_ros_1_bag_that_was_never_closed_is_read_where_that_is_allowed(log: TeleopLog, tmp_path: Path) -> None:
    mapping = write_rosbag(log, tmp_path / "bags/run.bag", "ros1")
    path = tmp_path / "bags/run.bag"
    data = bytearray(path.read_bytes())
    at = data.index(b"index_pos=") + len(b"index_pos=")
    index = int.from_bytes(data[at : at + 8], "little")
    data[at : at + 8] = bytes(8)
    path.write_bytes(data[:index])
    with pytest.raises(BadFileError, match=r"was cut off: it was never closed.*--allow cut-recording"):
        read(tmp_path, mapping)
    check(read(tmp_path, mapping, allow=("cut-recording",)), log)
    # The length of the chunk that is being written is not known yet.
    place = 13
    while b"op=\x05" not in data[place + 4 : place + 4 + struct.unpack_from("<I", data, place)[0]]:
        head = struct.unpack_from("<I", data, place)[0]
        place += 8 + head + struct.unpack_from("<I", data, place + 4 + head)[0]
    at = place + 4 + struct.unpack_from("<I", data, place)[0]
    chunks = data.count(b"op=\x05")
    open_chunk = data[:at] + bytes(4) + data[at + 4 : index]
    path.write_bytes(open_chunk)
    assert chunks == 1
    check(read(tmp_path, mapping, allow=("cut-recording",)), log)
    # What ROS 1 calls it while it is recorded.
    path.rename(tmp_path / "bags/run.bag.active")
    episode = read(tmp_path, mapping, allow=("cut-recording",))
    assert episode.id == "run"
    check(episode, log)


# Topics of video.


CODECS = {"h264": "libx264", "h265": "libx265"}


def video(log: TeleopLog, codec: str = "h264", **options: str) -> list[tuple[int, bytes]]:
    quiet = {"g": "4", "bf": "0", "sc_threshold": "0", **options}
    return list(bag_data.packets(list(log.views["front"].pictures), CODECS[codec], **quiet))


@pytest.mark.parametrize("codec", list(CODECS))
def test_a_topic_of_video_is_a_view(log: TeleopLog, tmp_path: Path, codec: str) -> None:
    mapping = bag_data.write_video_topic(log, tmp_path / "bags/run.mcap", video(log, codec), codec)
    episode = read(tmp_path, mapping)
    check(episode, log, levels=4.0)
    whole = pictures(episode, "front")
    for window in ([5], [2, 9], [7, 8], [0]):
        got = np.stack(list(episode.views["front"].frames.frames(window)))
        np.testing.assert_array_equal(got, whole[window])
    assert "left_out" not in episode.provenance
    assert f"topic: {json.dumps('/front/image')}" in propose_mapping(str(tmp_path / "bags/run.mcap"))


def test_pictures_before_the_first_key_frame_are_left_out_and_counted(log: TeleopLog, tmp_path: Path) -> None:
    sent = video(log)
    mapping = bag_data.write_video_topic(log, tmp_path / "bags/run.mcap", sent[2:])
    mapping["sync"] = {"master": "front"}
    episode = read(tmp_path, mapping)
    assert episode.provenance["left_out"] == {"front": {"before_first_key_frame": 2}}
    np.testing.assert_allclose(episode.trajectory.position, log.truth().position[4:], atol=1e-6)
    off = np.abs(pictures(episode, "front").astype(int) - log.views["front"].pictures[4:])
    assert off.mean() < 4
    bag_data.write_video_topic(log, tmp_path / "bags/run.mcap", sent[1:4])
    with pytest.raises(BadVideoError, match="has no key frame"):
        read(tmp_path, mapping)


def test_parameter_sets_may_come_once_and_alone(log: TeleopLog, tmp_path: Path) -> None:
    from actionimg_data.video.packets import _units

    sent, plain = video(log), []
    for number, data in sent:
        units = [data[a:b].rstrip(b"\0") for a, b in _units(data)]
        sets = b"".join(b"\0\0\0\1" + u for u in units if u[0] & 31 in (7, 8))
        rest = b"".join(b"\0\0\0\1" + u for u in units if u[0] & 31 not in (7, 8))
        if not plain:
            plain.append((number, sets))
        plain.append((number, rest))
    mapping = bag_data.write_video_topic(log, tmp_path / "bags/run.mcap", plain)
    episode = read(tmp_path, mapping)
    check(episode, log, levels=4.0)
    later = np.stack(list(episode.views["front"].frames.frames([9])))
    np.testing.assert_array_equal(later, pictures(episode, "front")[[9]])


@pytest.mark.parametrize("codec", list(CODECS))
def test_pictures_that_are_sent_out_of_order_keep_their_stamps(log: TeleopLog, tmp_path: Path, codec: str) -> None:
    open_gop = {"x265-params": "log-level=none:open-gop=1:bframes=2:b-adapt=0:keyint=4:min-keyint=4"}
    sent = video(log, codec, bf="2", **({"b_strategy": "0"} if codec == "h264" else open_gop))
    assert [n for n, _ in sent] != sorted(n for n, _ in sent)
    mapping = bag_data.write_video_topic(log, tmp_path / "bags/run.mcap", sent, codec)
    mapping["views"] = {"front": mapping["views"]["front"]}
    episode = read(tmp_path, mapping)
    frames = episode.views["front"].frames
    truth = log.views["front"].pictures
    assert len(episode) == len(truth)
    for i in range(len(episode)):
        (picture,) = frames.frames([i])
        distance = [np.abs(picture.astype(int) - other).mean() for other in truth]
        assert distance[i] == min(distance)


@pytest.mark.parametrize("profile", ["baseline", "main", "high", "high444"])
def test_pictures_that_build_upon_a_lost_one_are_left_out_and_counted(
    log: TeleopLog, tmp_path: Path, profile: str
) -> None:
    sent = video(log, profile=profile)
    del sent[5]
    mapping = bag_data.write_video_topic(log, tmp_path / "bags/run.mcap", sent)
    mapping["sync"] = {"master": "front"}
    episode = read(tmp_path, mapping)
    # Of 4 5 6 7, begun by a key frame, 5 was lost, and the next key frame is 8.
    assert episode.provenance["left_out"] == {"front": {"behind_lost_packets": 2}}
    kept = [0, 1, 2, 3, 4, 8, 9]
    off = np.abs(pictures(episode, "front").astype(int) - log.views["front"].pictures[kept])
    assert off.mean() < 4


def test_b_frames_that_nothing_builds_upon_may_be_lost() -> None:
    from actionimg_data.video import PacketScan

    scene = list(make_log(frames=12, size=64, views=("front",)).views["front"].pictures)
    sent = list(
        bag_data.packets(scene, "libx264", g="12", bf="2", b_strategy="0", sc_threshold="0", **{"b-pyramid": "none"})
    )
    for lost, behind in ((None, 0), (2, 0), (4, 7)):
        scan = PacketScan("h264")
        for position, (_, data) in enumerate(sent):
            if position != lost:
                scan.add(data)
        found = scan.index("x")
        assert found.behind_gaps == behind, lost
        assert len(found.pictures) + behind == len(sent) - (lost is not None)


def test_a_damaged_packet_is_named(log: TeleopLog, tmp_path: Path) -> None:
    sent = video(log)
    # Its header stays, by which its number is known.
    sent[5] = (5, sent[5][1][: len(sent[5][1]) // 2])
    mapping = bag_data.write_video_topic(log, tmp_path / "bags/run.mcap", sent)
    episode = read(tmp_path, mapping)
    list(episode.views["front"].frames.frames([0, 1, 2, 3]))
    with pytest.raises(BadVideoError, match=r"run\.mcap: /front/image: packet \d: "):
        list(episode.views["front"].frames.frames([7]))


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("h264", "h264"), ("H.264", "h264"), ("libx264;yuv420p;bgr8", "h264"), ("h.265", "hevc"),
        ("hevc_nvenc", "hevc"), ("av1", "av1"), ("vp9", "vp9"), ("jpeg", None), ("rgb8; png compressed bgr8", None),
    ],
)  # fmt: skip
def test_names_of_codecs(name: str, codec: str | None) -> None:
    from actionimg_data.video import codec_named

    assert codec_named(name) == codec


def test_key_frames_of_av1_and_vp9_are_seen() -> None:
    from actionimg_data.video import PacketScan, decode_packets

    scene = make_log(frames=9, size=64, views=("front",)).views["front"].pictures
    for codec, encoder in (("av1", "libsvtav1"), ("vp9", "libvpx-vp9")):
        options = {"preset": "10"} if codec == "av1" else {"lag-in-frames": "0", "deadline": "realtime"}
        # SVT-AV1 sends nothing until its pyramid is full; low delay sends each picture as it comes.
        low_delay = {"svtav1-params": "pred-struct=1:keyint=4"} if codec == "av1" else {}
        sent = [data for _, data in bag_data.packets(list(scene), encoder, g="4", **options, **low_delay)]
        scan = PacketScan(codec)
        for data in sent:
            scan.add(data)
        index = scan.index("x")
        assert index.keys.tolist()[:2] == [0, 4], codec
        assert len(index.pictures) == len(scene)
        got = list(decode_packets(index, lambda start, sent=sent: iter(sent[start:]), [5, 8], "x"))  # type: ignore[misc]
        assert np.abs(np.stack(got).astype(int) - scene[[5, 8]]).mean() < 6


# What is shown.


def test_forty_bags_of_foreign_kinds_are_shown_and_none_is_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "bags").mkdir()
    profiles = ("", "ros1", "px4", "x-foreign")
    kinds = [
        ("json", "jsonschema", b"{}", b'{"transforms": [{"odd": 1}], "x": [1, "a", null], "pose": 3}'),
        ("cbor", "", b"", b"\xa1axx"),
        ("protobuf", "protobuf", b"\0\1\2", b"\xff"),
        ("flatbuffer", "flatbuffer", b"\0" * 40, b"\0" * 8),
        ("cdr", "omgidl", b"struct X {", b"\0\1\0\0"),
        ("ros1", "ros1msg", b"int32 a\nnone/Such b", b"1234"),
        ("", "", b"", b""),
        ("cdr", "ros2msg", "float64 é".encode(), b"\0\1\0\0"),
    ]
    names = ["foxglove.FrameTransforms", "sensor_msgs/msg/Image", "foxglove.PoseInFrame", "odd/Type/of/all", ""]
    forms = list(FORMS.values())
    for number in range(40):
        encoding, schema_encoding, schema, data = kinds[number % len(kinds)]
        channels = {
            "/odd": (names[number % len(names)], encoding, schema_encoding, schema),
            "/plain": ("", "json", "", b""),
            "/empty": ("foxglove.CompressedVideo", "json", "jsonschema", b"{}"),
        }
        sent = [
            (10**18 + i, topic, data if topic == "/odd" else b'{"x": 1}')
            for i in range(3)
            for topic in ("/odd", "/plain")
        ]
        path = tmp_path / f"bags/{number:02d}.mcap"
        bag_data.write_mcap(path, sent, channels, profile=profiles[number % 4], **forms[number % len(forms)])
    shown = RosbagConverter().inspect(str(tmp_path / "bags"))
    assert len(shown["bags"]) == 40
    for name, bag in shown["bags"].items():
        assert "error" not in bag, name
        assert bag["topics"]["/plain"] == "json × 3"
    for path in sorted((tmp_path / "bags").iterdir()):
        assert 'topic: "???"' in propose_mapping(str(path))


def test_a_bag_that_was_cut_off_is_shown_as_far_as_it_goes(log: TeleopLog, tmp_path: Path) -> None:
    bag_data.write_json(log, tmp_path / "bags/run.mcap")
    path = tmp_path / "bags/run.mcap"
    path.write_bytes(path.read_bytes()[:-100])
    shown = RosbagConverter().inspect(str(tmp_path / "bags"))["bags"]["run.mcap"]
    assert "--allow cut-recording" in shown["cut"]
    assert shown["topics"]["/ee_pose"].startswith("foxglove.PoseInFrame")
    assert "--allow cut-recording" in propose_mapping(str(path))


def test_a_calibration_is_proposed_for_its_own_pictures(log: TeleopLog, tmp_path: Path) -> None:
    bag_data.write_json(log, tmp_path / "run.mcap")
    draft = propose_mapping(str(tmp_path / "run.mcap"))
    for name in log.views:
        assert f'camera_info: "/{name}/calib"' in draft


# What is opened.


def test_views_that_are_not_wanted_stay_closed(log: TeleopLog, tmp_path: Path) -> None:
    mapping = bag_data.write_json(log, tmp_path / "bags/run.mcap")
    mapping["views"]["wrist"]["topic"] = "/nothing"
    reader = converter(tmp_path, mapping)
    (ref,) = reader.discover(str(tmp_path / "bags"))
    with pytest.raises(ActionImgError, match="/nothing"):
        reader.read(ref)
    reader.wanted_views = ("front",)
    assert list(reader.read(ref).views) == ["front"]
    # The view that sets the times is needed whatever is wanted.
    mapping["sync"] = {"master": "wrist"}
    reader = converter(tmp_path, mapping)
    reader.wanted_views = ("front",)
    with pytest.raises(ActionImgError, match="/nothing"):
        reader.read(ref)


def test_a_conversion_is_told_what_is_allowed_and_wanted(log: TeleopLog, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from actionimg_data.cli import main

    mapping = bag_data.write_json(log, tmp_path / "bags/run.mcap")
    mapping["views"]["wrist"]["topic"] = "/nothing"
    write_yaml(tmp_path / "m.yaml", mapping)
    path = tmp_path / "bags/run.mcap"
    path.write_bytes(path.read_bytes()[:-100])
    command = [
        "convert",
        "rosbag",
        str(tmp_path / "bags"),
        str(tmp_path / "out"),
        "--mapping",
        str(tmp_path / "m.yaml"),
    ]
    command += ["--size", "32", "--views", "front", "--num-workers", "1"]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 1
    done = CliRunner().invoke(main, [*command, "--overwrite", "--allow", "cut-recording"])
    assert done.exit_code == 0, done.output


@pytest.mark.realdata
def test_the_sample_bags_are_read_whole(sample_data: Path, tmp_path: Path) -> None:
    root = sample_data / "mcap"
    reference = None
    for name, mapping, topic in (
        ("jpeg", "mapping", ""),
        ("jpeg_xjson", "mapping", ""),
        ("jpeg_xsrv", "mapping", ""),
        ("jpeg_xprofile", "mapping", ""),
        ("jpeg_xcut", "mapping", ""),
        ("video", "video.mapping", ""),
        ("ffmpeg", "video.mapping", "/side/image/ffmpeg"),
        ("ci_h264", "video.mapping", "/side/image/h264"),
    ):
        text = (root / f"{mapping}.yaml").read_text()
        (tmp_path / "m.yaml").write_text(text.replace("/side/video", topic) if topic else text)
        reader = RosbagConverter(RosbagOptions(mapping=str(tmp_path / "m.yaml")))
        reader.allowed = frozenset(["cut-recording"])
        (ref,) = reader.discover(str(root / name))
        episode = reader.read(ref)
        reference = reference or episode
        np.testing.assert_array_equal(episode.trajectory.position, reference.trajectory.position)
        for view in ("front", "side"):
            levels = np.abs(pictures(episode, view).astype(int) - pictures(reference, view))
            assert levels.mean() < 3, (name, view)

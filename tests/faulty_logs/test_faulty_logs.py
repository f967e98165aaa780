"""Faults of logs as labs report them, through the command line: each is refused by its name, or read right.

``REFUSED`` lists what has to go to the quarantine, with the word that has to be in the reason; ``RIGHT`` what has to be
read so that the number in every picture fits the pose beside it.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from faulty_logs.logs import (
    CAMERA,
    COUNT,
    EPOCH,
    FPS,
    SIZE,
    Log,
    mapping,
    pairing_mm,
    place,
    write_hdf5,
    write_log,
    write_pictures,
    write_tables,
    write_video,
    write_yaml,
)
from numbered import picture

import actionimg_data as aid
from actionimg_data.cli import main

Make = Callable[[Path], dict[str, Any]]
REFUSED: dict[str, tuple[str, Make]] = {}
RIGHT: dict[str, tuple[float, Make]] = {}


def refused(name: str, reason: str) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        REFUSED[name] = (reason, make)
        return make

    return add


def right(name: str, within_mm: float = 0.01) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        RIGHT[name] = (within_mm, make)
        return make

    return add


def convert(source: Path, out: Path, way: dict[str, Any], *words: str) -> Any:
    """What ``actionimg convert`` says of a source."""
    kind = way["format"]
    given = ["--mapping", str(write_yaml(source.parent / "mapping.yaml", way))]
    small = ["--size", str(SIZE), "--action-codec", "none", "--num-workers", "1", "--max-bad-fraction", "1"]
    return CliRunner().invoke(main, ["convert", kind, str(source), str(out), *given, *small, *words])


def changed(**changes: Any) -> Log:
    return Log(**changes)


def simple(name: str, reason: str, make_log: Callable[[], Log], **way: Any) -> None:
    """A fault that is in the tables alone."""

    def make(folder: Path) -> dict[str, Any]:
        write_log(folder / "run", make_log())
        return mapping(**way)

    REFUSED[name] = (reason, make)


# Units, and motion that no robot has.

TIMES = np.arange(-5, 205) / 100
PATH = place(TIMES)


def with_rows(rows: Any, value: Any) -> Log:
    position = PATH.copy()
    position[rows] = value
    return changed(position=position)


def euler(values: np.ndarray, unit: str) -> tuple[Log, dict[str, Any]]:
    way = {"columns": ["qx", "qy", "qz"], "form": "euler", "order": "xyz", "unit": unit}
    return changed(rotation=values), {"pose__rotation": way}


simple("positions in millimetres, called metres", "length-unit", lambda: changed(position=PATH * 1e3))
simple("positions in centimetres, called metres", "length-unit", lambda: changed(position=PATH * 1e2))
simple("positions in metres, called millimetres", "length-unit", Log, pose__position__unit="mm")
simple("positions in metres, called centimetres", "length-unit", Log, pose__position__unit="cm")
simple(
    "a camera's pose in millimetres",
    "length-unit",
    lambda: changed(camera=CAMERA * np.array([[1, 1, 1, 1e3]] * 3 + [[1, 1, 1, 1]])),
)
simple(
    "a camera's pose divided by 1000 twice",
    "length-unit",
    lambda: changed(camera=CAMERA * np.array([[1, 1, 1, 1e-3]] * 3 + [[1, 1, 1, 1]])),
)
simple(
    "tool_from_gripper in millimetres", "length-unit", Log, pose__tool_from_gripper={"translation": [0.0, 0.0, 103.4]}
)
simple("a row of zeros", "zero-poses", lambda: with_rows(100, 0.0))
simple("zeros until the tracker is ready", "zero-poses", lambda: with_rows(slice(0, 30), 0.0))
simple("zeros after the tracker was lost", "zero-poses", lambda: with_rows(slice(150, None), 0.0))
simple("a glitch of one sample", "speed", lambda: with_rows(90, PATH[90] + 0.4))
simple(
    "two recordings joined",
    "speed",
    lambda: changed(position=np.where(np.arange(210)[:, None] < 100, PATH, PATH + 0.5)),
)
simple("a pose a kilometre away", "far-poses", lambda: with_rows(slice(60, 63), 1e3))
simple("a pose that is no number a robot has", "far-poses", lambda: with_rows(70, 4e27))
simple(
    "the hand turns over within a sample",
    "turn",
    lambda: changed(rotation=np.where(np.arange(210)[:, None] < 100, (1.0, 0, 0, 0), (0.0, 1, 0, 0))),
)
DEGREES = np.stack([180 - 2 * np.abs(np.sin(TIMES)), 3 * np.sin(TIMES), 20 * np.sin(TIMES)], -1)
_log, _way = euler(DEGREES, "rad")
simple("degrees, called radians", "angle-unit", lambda log=_log: log, **_way)  # type: ignore[misc]
_log, _way = euler(np.radians(DEGREES), "deg")
simple("radians, called degrees", "angle-unit", lambda log=_log: log, **_way)  # type: ignore[misc]

ARM = """<robot name="arm"><link name="base"/><link name="a"/><link name="b"/><link name="tip"/>
<joint name="j1" type="revolute"><parent link="base"/><child link="a"/><origin xyz="0.2 0 0.1"/><axis xyz="0 0 1"/>
<limit lower="-2.8" upper="2.8" effort="1" velocity="1"/></joint>
<joint name="j2" type="revolute"><parent link="a"/><child link="b"/><origin xyz="0 0 0.05"/><axis xyz="0 1 0"/>
<limit lower="-1.5" upper="1.5" effort="1" velocity="1"/></joint>
<joint name="j3" type="fixed"><parent link="b"/><child link="tip"/><origin xyz="0.2 0 0"/></joint></robot>"""


def joints(values: np.ndarray) -> Make:
    def make(folder: Path) -> dict[str, Any]:
        write_log(folder / "run", changed(rotation=np.column_stack([values, np.zeros((len(values), 2))])))
        (folder.parent / "arm.urdf").write_text(ARM)
        way = {"columns": ["qx", "qy"], "names": ["j1", "j2"], "unit": "rad", "robot": "arm.urdf", "tip": "tip"}
        return mapping(pose__position=None, pose__rotation=None, pose__joints=way)

    return make


SWING = np.stack([0.5 * np.sin(TIMES), 0.3 * np.cos(TIMES)], -1)
REFUSED["joints in degrees, called radians"] = ("joint-limits", joints(np.degrees(SWING)))
REFUSED["joints beyond the robot's limits"] = ("joint-limits", joints(SWING + np.array([0, 1.5])))

# Streams without news.


@refused("a camera that froze", "frozen-pictures")
def _(folder: Path) -> dict[str, Any]:
    write_log(folder / "run", changed(numbers=[min(i, 8) for i in range(COUNT)]))
    return mapping()


@refused("a camera that froze for half a second", "frozen-pictures")
def _(folder: Path) -> dict[str, Any]:
    write_log(folder / "run", changed(numbers=[10 if 10 <= i < 24 else i for i in range(COUNT)]))
    return mapping()


@refused("every picture twice", "frozen-pictures")
def _(folder: Path) -> dict[str, Any]:
    write_log(folder / "run", changed(numbers=[i - i % 2 for i in range(COUNT)]))
    return mapping()


@refused("black pictures", "blank-pictures")
def _(folder: Path) -> dict[str, Any]:
    write_log(folder / "run", changed(draw=lambda n: np.zeros((SIZE, SIZE, 3), np.uint8)))
    return mapping()


@refused("pictures that turn black", "blank-pictures")
def _(folder: Path) -> dict[str, Any]:
    write_log(
        folder / "run", changed(draw=lambda n: picture(n, SIZE) if n < 20 else np.zeros((SIZE, SIZE, 3), np.uint8))
    )
    return mapping()


@refused("a data set of pictures that was never written", "blank-pictures")
def _(folder: Path) -> dict[str, Any]:
    write_log(folder / "run", video=False)
    write_hdf5(folder / "run" / "pictures.h5", None)
    return mapping(views__front__frames="pictures.h5#img")


simple("a robot state that froze", "frozen-poses", lambda: changed(position=place(np.minimum(TIMES, 0.5))))
simple("a robot state that froze for a second", "frozen-poses", lambda: changed(position=place(_paused(TIMES))))
simple("a robot state that never came", "frozen-poses", lambda: changed(position=np.tile(PATH[:1], (210, 1))))
simple("poses that were never written", "frozen-poses", lambda: changed(position=np.zeros((210, 3))))
simple("a state of 5 Hz, published at 100 Hz", "staircase", lambda: changed(position=place(np.floor(TIMES * 5) / 5)))
simple("a state of 10 Hz, published at 100 Hz", "staircase", lambda: changed(position=place(np.floor(TIMES * 10) / 10)))


def _paused(times: np.ndarray) -> np.ndarray:
    return np.where(times < 0.5, times, np.maximum(0.5, times - 1.0))


# Stamps.


def since_1970(log: Log) -> Log:
    log.times, log.frame_times = log.times + EPOCH, log.frame_times + EPOCH
    return log


simple("pictures stamped in whole seconds", "coarse-stamps", lambda: changed(frame_stamp=lambda t: int(t)))
simple("poses stamped in whole seconds", "coarse-stamps", lambda: changed(stamp=lambda t: int(np.floor(t))))
simple("poses stamped in tenths", "coarse-stamps", lambda: changed(stamp=lambda t: round(t, 1)))
simple(
    "pictures stamped in steps of 20 ms", "coarse-stamps", lambda: changed(frame_stamp=lambda t: round(t / 0.02) * 0.02)
)
simple(
    "stamps of ten digits",
    "coarse-stamps",
    lambda: since_1970(changed(stamp=lambda t: f"{t:.10g}", frame_stamp=lambda t: f"{t:.10g}")),
)
simple(
    "stamps as 32-bit floats",
    "coarse-stamps",
    lambda: since_1970(changed(stamp=lambda t: float(np.float32(t)), frame_stamp=lambda t: float(np.float32(t)))),
)
simple(
    "two sources in one stream",
    "equal-stamps",
    lambda: changed(
        times=np.repeat(TIMES, 2),
        position=np.stack([PATH, PATH + np.array([0, 0.02, 0])], 1).reshape(-1, 3),
        rotation=np.tile((1.0, 0, 0, 0), (420, 1)),
    ),
)
simple(
    "stamps of zero at the beginning",
    "zero-stamps",
    lambda: since_1970(changed(stamp=lambda t: 0.0 if t < EPOCH + 0.2 else repr(t))),
)
simple(
    "a stamp of zero in the middle",
    "zero-stamps",
    lambda: since_1970(changed(frame_stamp=lambda t: 0.0 if abs(t - EPOCH - 1) < 1e-3 else repr(t))),
)
simple(
    "clocks of two time zones",
    r"clock-offset.*time\.zone",
    lambda: since_1970(changed(stamp=lambda t: repr(t + 7200))),
)
simple(
    "one clock that begins at zero",
    r"clock-offset.*time\.start",
    lambda: changed(frame_stamp=lambda t: repr(t + EPOCH)),
)
simple("a picture's stamp that is no number", "not finite", lambda: changed(frame_stamp=_nan_at_one))
simple(
    "a picture's stamp that is infinite",
    "not finite",
    lambda: changed(frame_stamp=lambda t: "inf" if t == 1 else repr(t)),
)


def _nan_at_one(t: float) -> str:
    return "nan" if t == 1.0 else repr(t)


@refused("gaps that grow with what was dropped", "too long to interpolate")
def _(folder: Path) -> dict[str, Any]:
    # Of 100 Hz a third is left, and a hole of 90 ms, which two of the *median* periods would allow.
    keep = np.ones(210, bool)
    keep[(np.arange(210) % 10) >= 4] = False
    keep[100:109] = False
    times = TIMES[keep]
    write_log(
        folder / "run", changed(times=times, position=place(times), rotation=np.tile((1.0, 0, 0, 0), (len(times), 1)))
    )
    return mapping()


def iso(zone: dt.tzinfo | None) -> Callable[[float], str]:
    def text(t: float) -> str:
        moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=round(t * 1e6))
        return (moment if zone is None else moment.astimezone(zone)).isoformat()

    return text


def local(t: float) -> str:
    """Local time in Berlin in November 2023: an hour ahead of UTC; no zone is named."""
    return iso(dt.timezone(dt.timedelta(hours=1)))(t)[:-6]


@right("dates and times that name their zone")
def _(folder: Path) -> dict[str, Any]:
    write_log(folder / "run", since_1970(changed(stamp=iso(dt.timezone(dt.timedelta(hours=2))))))
    return mapping(pose__time={"column": "t"})


@right("dates and times of a zone that is not named")
def _(folder: Path) -> dict[str, Any]:
    write_log(folder / "run", since_1970(changed(stamp=local)))
    return mapping(pose__time={"column": "t", "zone": "Europe/Berlin"})


@right("a unit beside dates and times")
def _(folder: Path) -> dict[str, Any]:
    write_log(folder / "run", since_1970(changed(stamp=iso(None))))
    return mapping(pose__time={"column": "t", "unit": "ms"})


@right("timestamps in Parquet")
def _(folder: Path) -> dict[str, Any]:
    log = write_log(folder / "run", since_1970(Log()))
    stamps = pa.array(np.round(log.times * 1e9).astype(np.int64), pa.timestamp("ns", "UTC"))
    columns = {"t": stamps, **{n: log.position[:, i] for i, n in enumerate("xyz")}}
    columns |= {n: log.rotation[:, i] for i, n in enumerate(("qx", "qy", "qz", "qw"))}
    pq.write_table(pa.table({**columns, "w": np.full(len(log.times), 0.04)}), folder / "run" / "poses.parquet")
    return mapping(pose__file="poses.parquet", pose__time={"column": "t"})


@right("seconds of a local clock")
def _(folder: Path) -> dict[str, Any]:
    write_log(folder / "run", since_1970(changed(stamp=lambda t: repr(t + 3600))))
    return mapping(pose__time={"column": "t", "unit": "s", "zone": "Europe/Berlin"})


@right("a clock that begins at zero, with its beginning")
def _(folder: Path) -> dict[str, Any]:
    write_log(folder / "run", changed(frame_stamp=lambda t: repr(t + EPOCH)))
    return mapping(pose__time={"column": "t", "unit": "s", "start": "2023-11-14T22:13:20+00:00"})


@right("an offset of two hours")
def _(folder: Path) -> dict[str, Any]:
    write_log(folder / "run", since_1970(changed(stamp=lambda t: repr(t - 7200))))
    return mapping(pose__time={"column": "t", "unit": "s", "offset_s": 7200})


@right("a clock that runs slow", 0.02)
def _(folder: Path) -> dict[str, Any]:
    write_log(folder / "run", changed(stamp=lambda t: repr((t + 0.05) / 1.008 - 0.05)))
    return mapping(pose__time={"column": "t", "unit": "s", "drift_ppm": 8000})


# Containers.

VARIABLE_MS = np.cumsum([0, *([40, 60, 50, 45, 55] * 8)])[:COUNT]


@right("a video of varying rate by its own stamps")
def _(folder: Path) -> dict[str, Any]:
    log = changed(draw=Log().draw)
    write_log(folder / "run", log, video=False)
    # Picture i is taken at its own time: it carries the nearest of 20 Hz, and the path is looked up there.
    write_video(
        folder / "run" / "front.mp4",
        log,
        stamps_ms=[int(1000 * i / FPS) + (150 if i > 20 else 0) for i in range(COUNT)],
    )
    moved = np.where(TIMES > 1.0, TIMES - 0.15, TIMES)
    write_tables(folder / "run", changed(position=place(np.where(TIMES > 1.0, np.maximum(moved, 1.0), TIMES))))
    return mapping(views__front__time={"video": True}, allow=["frozen-poses"])


@refused("pictures lost, the rate stated", "video-times")
def _(folder: Path) -> dict[str, Any]:
    write_log(folder / "run", video=False)
    stamps = [50 * (i if i < 20 else i + 4) for i in range(COUNT)]
    write_video(folder / "run" / "front.mp4", Log(), stamps_ms=stamps)
    return mapping(views__front__time={"fps": 20})


@refused("a video of another rate than is stated", "video-times")
def _(folder: Path) -> dict[str, Any]:
    write_log(folder / "run", video=False)
    write_video(folder / "run" / "front.mp4", Log(), rate=25)
    return mapping(views__front__time={"fps": 20})


@refused("a video with gaps, its list of stamps without", "video-times")
def _(folder: Path) -> dict[str, Any]:
    write_log(folder / "run", video=False)
    stamps = [50 * (i if i < 30 else i + 2) for i in range(COUNT)]
    write_video(folder / "run" / "front.mp4", Log(), stamps_ms=stamps)
    return mapping()


# Names of pictures.


def named(name: Callable[[int], str], suffix: str = ".png", **way: Any) -> Make:
    def make(folder: Path) -> dict[str, Any]:
        log = write_log(folder / "run", video=False)
        write_pictures(folder / "run" / "rgb", log, name, suffix)
        return mapping(views__front__frames=f"rgb/*{suffix}", **way)

    return make


JITTER = np.random.default_rng(0).integers(0, 999, COUNT) * 1e-6
RIGHT["names: Python's time.time()"] = (0.01, named(lambda i: f"{float(np.round(EPOCH + i / FPS + JITTER[i], 6))}"))
RIGHT["names: seconds"] = (0.01, named(lambda i: f"{round(i / 20, 3)}"))
RIGHT["names: from -5"] = (0.01, named(lambda i: f"frame-{i - 5}"))
RIGHT["names: numbers and stamps"] = (0.01, named(lambda i: f"{i}_{EPOCH}{50 * i:06d}"))
REFUSED["names: hexadecimal"] = ("hexadecimal", named(lambda i: f"{i:x}"))
REFUSED["names: two cameras in one folder"] = ("2 numbers vary", named(lambda i: f"cam{i % 2}_{i // 2}"))
REFUSED["names: a number is missing"] = ("picture-names", named(lambda i: f"{i if i < 20 else i + 1:04d}"))


@refused("names: a stray copy", "not like the others")
def _(folder: Path) -> dict[str, Any]:
    way = named(lambda i: f"{i:04d}")(folder)
    rgb = folder / "run" / "rgb"
    (rgb / "0010 (1).png").write_bytes((rgb / "0010.png").read_bytes())
    (rgb / "0039.png").unlink()
    return way


# How a file says that it is to be shown.


def turned(stored: int, shown: int, **way: Any) -> Make:
    def make(folder: Path) -> dict[str, Any]:
        log = write_log(folder / "run", video=False)
        write_video(folder / "run" / "front.mp4", log, stored=stored, shown=shown)
        return mapping(**way)

    return make


for _degrees in (90, 180, 270):
    RIGHT[f"a video that is to be turned by {_degrees}"] = (0.01, turned(_degrees, _degrees))
RIGHT["a video that was mounted upside down, unflagged"] = (0.01, turned(180, 0, views__front__rotate=180))
RIGHT["a video whose flag is wrong"] = (0.01, turned(0, 90, views__front__rotation="ignored"))
RIGHT["a video that lies on its side, unflagged"] = (0.01, turned(90, 0, views__front__rotate=90))


def exif(orientation: int, stored: int) -> Make:
    def make(folder: Path) -> dict[str, Any]:
        from io import BytesIO

        from PIL import Image

        log = write_log(folder / "run", video=False)
        rgb = folder / "run" / "rgb"
        rgb.mkdir()
        for i, drawn in enumerate(log.pictures()):
            tags, body = Image.Exif(), BytesIO()
            tags[0x112] = orientation
            Image.fromarray(np.ascontiguousarray(np.rot90(drawn, stored))).save(body, "JPEG", exif=tags, quality=95)
            (rgb / f"{i:04d}.jpg").write_bytes(body.getvalue())
        return mapping(views__front__frames="rgb/*.jpg")

    return make


RIGHT["JPEGs whose EXIF turns them over"] = (0.01, exif(3, 2))
RIGHT["JPEGs whose EXIF turns them by a quarter"] = (0.01, exif(6, 1))

# Cameras that see something else.

simple("a camera's pose that is its inverse", "out-of-view.*inverse", lambda: changed(camera=_inverse(_oblique())))
simple(
    "a camera's axes that are OpenGL's", "out-of-view.*OpenGL", lambda: changed(camera=CAMERA @ np.diag([1, -1, -1, 1]))
)


def _oblique() -> np.ndarray:
    pose = CAMERA.copy()
    angle = 0.6
    pose[:3, :3] = pose[:3, :3] @ np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    pose[:3, 3] = [0.4, -0.7, 1.2]
    return pose


def _inverse(pose: np.ndarray) -> np.ndarray:
    return np.linalg.inv(pose)


# LeRobot: metadata that says the same thing more than once.

KEY = "observation.images.front"


def lerobot(
    folder: Path,
    episodes: list[list[int]],
    starts: list[float] | None = None,
    fps: float = FPS,
    meta: dict[int, dict[str, Any]] | None = None,
    info: dict[str, Any] | None = None,
    frame_index: Callable[[np.ndarray], np.ndarray] = lambda n: n,
    doubled: int | None = None,
    stamps_ms: list[int] | None = None,
    rate: float | None = None,
    numbers: list[int] | None = None,
) -> dict[str, Any]:
    """A packed data set of version 3.0, and its mapping."""
    root = folder / "set"
    for part in ("meta/episodes/chunk-000", "data/chunk-000", f"videos/{KEY}/chunk-000"):
        (root / part).mkdir(parents=True)
    tables, rows, start = [], [], 0
    for e, ids in enumerate(episodes):
        n = len(ids)
        state = np.concatenate([place(np.array(ids) / FPS), np.tile((1.0, 0, 0, 0, 0.04), (n, 1))], 1).astype(
            np.float32
        )
        columns = {
            "observation.state": pa.array(state.tolist(), pa.list_(pa.float32())),
            "timestamp": pa.array((np.arange(n) / fps).astype(np.float32)),
            "frame_index": frame_index(np.arange(n)),
            "episode_index": np.full(n, e),
        }
        tables.append(pa.table(columns))
        begin = start / fps if starts is None else starts[e]
        place_of = {"chunk_index": 0, "file_index": 0, "from_timestamp": begin, "to_timestamp": begin + n / fps}
        row = {"episode_index": e, "tasks": ["push"], "length": n, "data/chunk_index": 0, "data/file_index": 0}
        row |= {"dataset_from_index": start, "dataset_to_index": start + n}
        rows.append({**row, **{f"videos/{KEY}/{k}": v for k, v in place_of.items()}, **((meta or {}).get(e, {}))})
        start += n
    rows += [] if doubled is None else [rows[doubled]]
    names = ["x", "y", "z", "qx", "qy", "qz", "qw", "w"]
    features = {
        "observation.state": {"dtype": "float32", "shape": [8], "names": names},
        KEY: {"dtype": "video", "shape": [SIZE, SIZE, 3], "names": ["height", "width", "channels"]},
    }
    stated = {"codebase_version": "v3.0", "fps": fps, "features": features, "chunks_size": 1000}
    stated |= {"total_episodes": len(episodes), "total_frames": start}
    stated |= {"data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"}
    stated |= {"video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"}
    (root / "meta/info.json").write_text(json.dumps({**stated, **(info or {})}))
    pq.write_table(pa.concat_tables(tables), root / "data/chunk-000/file-000.parquet")
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    write_tables(folder, Log())
    shown = [i for ids in episodes for i in ids] if numbers is None else numbers
    path = root / f"videos/{KEY}/chunk-000/file-000.mp4"
    write_video(path, changed(numbers=shown), fps if rate is None else rate, stamps_ms)
    return {
        "version": 1,
        "format": "lerobot",
        "pose": {
            "position": {"columns": ["observation.state[0:3]"], "unit": "m"},
            "rotation": {"columns": ["observation.state[3:7]"], "form": "quaternion", "order": "xyzw"},
            "tool_from_gripper": {},
        },
        "gripper": {"columns": ["observation.state[7]"], "closed": 0.0, "open": 0.08, "kind": "measured"},
        "views": {"front": {"feature": KEY, "camera": {"file": "cameras.json"}}},
    }


PARTS = [list(range(12)), list(range(20, 32)), list(range(5, 17))]


@right("lerobot: a file that begins late", 0.1)
def _(folder: Path) -> dict[str, Any]:
    stamps = [100 + 50 * i for i in range(38)]
    shown = [*(i for ids in PARTS for i in ids), 60, 61]
    return lerobot(folder, PARTS, starts=[0.1, 0.7, 1.3], stamps_ms=stamps, numbers=shown)


@right("lerobot: a video at 29.97 Hz", 0.1)
def _(folder: Path) -> dict[str, Any]:
    rate = 30000 / 1001
    return lerobot(folder, PARTS, starts=[0, 12 / rate, 24 / rate], fps=30, rate=rate)


@refused("lerobot: pictures that were lost", "no picture at a time")
def _(folder: Path) -> dict[str, Any]:
    shown = [i for ids in PARTS for i in ids]
    kept = [i for i in range(36) if i not in (3, 4)]
    return lerobot(folder, PARTS, stamps_ms=[50 * i for i in kept], numbers=[shown[i] for i in kept])


@refused("lerobot: places that overlap", "overlaps episode")
def _(folder: Path) -> dict[str, Any]:
    name = f"videos/{KEY}"
    return lerobot(folder, PARTS, meta={1: {f"{name}/from_timestamp": 0.3, f"{name}/to_timestamp": 0.9}})


@refused("lerobot: a place that is too short", "not as long as the episode")
def _(folder: Path) -> dict[str, Any]:
    return lerobot(folder, PARTS, meta={2: {f"videos/{KEY}/to_timestamp": 1.6}})


@refused("lerobot: rows out of order", "frame_index")
def _(folder: Path) -> dict[str, Any]:
    return lerobot(folder, PARTS, frame_index=lambda n: np.where(n == 3, 4, np.where(n == 4, 3, n)))


@refused("lerobot: an episode that is listed twice", "lists an episode twice")
def _(folder: Path) -> dict[str, Any]:
    return lerobot(folder, PARTS, doubled=1, info={"total_episodes": 4})


@refused("lerobot: totals of another data set", "total_frames")
def _(folder: Path) -> dict[str, Any]:
    return lerobot(folder, PARTS, info={"total_frames": 99})


def source_of(folder: Path, way: dict[str, Any]) -> Path:
    return {"folder": folder, "lerobot": folder / "set", "rosbag": folder / "bags"}[way["format"]]


@pytest.mark.parametrize("name", REFUSED)
def test_a_fault_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    reason, make = REFUSED[name]
    (tmp_path / "log").mkdir()
    way = make(tmp_path / "log")
    result = convert(source_of(tmp_path / "log", way), tmp_path / "out", way)
    said = result.output
    lines = tmp_path / "out" / "quarantine.jsonl"
    if lines.exists():
        said += lines.read_text()
    for sidecar in (tmp_path / "out").rglob("train/*.json"):
        said += sidecar.read_text()
    assert result.exit_code in (1, 4), said
    assert re.search(reason, said.replace("\n", " ")), said


@pytest.mark.parametrize("name", RIGHT)
def test_what_can_be_known_is_read_right(name: str, tmp_path: Path) -> None:
    within, make = RIGHT[name]
    (tmp_path / "log").mkdir()
    way = make(tmp_path / "log")
    source = source_of(tmp_path / "log", way)
    result = convert(source, tmp_path / "out", way)
    assert result.exit_code == 0, result.output
    for sample in aid.open_dataset(tmp_path / "out"):
        assert pairing_mm(sample).max() <= within, sample.key

"""Faults of logs as labs report them, through the command line: each is refused by its name, or read right.

``REFUSED`` lists what has to go to the quarantine, with the word that has to be in the reason; ``RIGHT`` what has to be
read so that the number in every picture fits the pose beside it.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
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
        moment = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc) + dt.timedelta(microseconds=round(t * 1e6))
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


def samples(out: Path) -> list[Any]:
    return list(aid.open_dataset(out))


def test_a_sound_log_has_no_finding(tmp_path: Path) -> None:
    write_log(tmp_path / "log" / "run")
    result = convert(tmp_path / "log", tmp_path / "out", mapping())
    assert result.exit_code == 0, result.output
    (sample,) = samples(tmp_path / "out")
    assert sample.meta.findings == ()
    assert pairing_mm(sample).max() < 0.01
    assert not [c for c in aid.open_dataset(tmp_path / "out").table.column_names if c.startswith("finding_")]


@pytest.mark.parametrize("where", ["command line", "mapping"])
def test_what_is_meant_is_taken_and_recorded(tmp_path: Path, where: str) -> None:
    write_log(tmp_path / "log" / "frozen", changed(numbers=[min(i, 8) for i in range(COUNT)]))
    write_log(tmp_path / "log" / "sound")
    given = {"allow": ["frozen-pictures"]} if where == "mapping" else {}
    words = () if where == "mapping" else ("--allow", "frozen-pictures")
    result = convert(tmp_path / "log", tmp_path / "out", mapping(**given), *words)
    assert result.exit_code == 0, result.output
    frozen, sound = samples(tmp_path / "out")
    (finding,) = frozen.meta.findings
    assert (finding.kind, finding.stream, finding.rows) == ("frozen-pictures", "front", (8, COUNT - 1))
    assert sound.meta.findings == ()
    assert aid.open_dataset(tmp_path / "out").table["finding_frozen_pictures"].to_pylist() == [True, False]
    verified = CliRunner().invoke(main, ["verify", str(tmp_path / "out")])
    assert verified.exit_code == 0, verified.output


def test_the_quarantine_has_the_findings(tmp_path: Path) -> None:
    write_log(tmp_path / "log" / "run", with_rows(100, 0.0))
    write_log(tmp_path / "log" / "sound")
    result = convert(tmp_path / "log", tmp_path / "out", mapping())
    assert result.exit_code == 4, result.output
    (line,) = [json.loads(text) for text in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert line["code"] == "implausible"
    assert (line["findings"][0]["kind"], line["findings"][0]["rows"]) == ("zero-poses", [100, 100])
    assert len(samples(tmp_path / "out")) == 1


def test_inspect_shows_what_convert_would_refuse(tmp_path: Path) -> None:
    write_log(tmp_path / "log" / "run", changed(numbers=[min(i, 8) for i in range(COUNT)]))
    way = str(write_yaml(tmp_path / "mapping.yaml", mapping()))
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "log"), "--mapping", way, "--json"])
    found = json.loads(shown.stdout)
    assert not found["convertible"]
    assert [f["kind"] for f in found["findings"]] == ["frozen-pictures"]
    assert found["in_view"] == {"front": 1.0}
    table = CliRunner().invoke(main, ["inspect", str(tmp_path / "log"), "--mapping", way])
    assert "frozen-pictures" in table.output
    assert "--allow frozen-pictures" in table.output


@pytest.mark.parametrize(
    ("words", "message"), [(("--allow", "sped"), "speed"), (("--limit", "max_speed=1"), "max_speed_m_s")]
)
def test_a_kind_or_limit_that_does_not_exist_is_named(tmp_path: Path, words: tuple[str, str], message: str) -> None:
    write_log(tmp_path / "log" / "run")
    result = convert(tmp_path / "log", tmp_path / "out", mapping(), *words)
    assert result.exit_code != 0
    assert message in result.output


def test_a_limit_is_where_plausible_ends(tmp_path: Path) -> None:
    write_log(tmp_path / "log" / "run")
    assert convert(tmp_path / "log", tmp_path / "out", mapping(), "--limit", "max_speed_m_s=0.01").exit_code == 1
    assert "speed: " in next((tmp_path / "out" / "train").glob("*.json")).read_text()


def test_render_names_a_view_that_never_shows_the_gripper(tmp_path: Path) -> None:
    write_log(tmp_path / "log" / "run", changed(camera=CAMERA @ np.diag([1, -1, -1, 1])))
    way = str(write_yaml(tmp_path / "mapping.yaml", mapping()))
    words = ["render", str(tmp_path / "log"), "--mapping", way, "--out", str(tmp_path / "look"), "--no-video"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "the gripper is in no frame of front" in result.output
    assert "OpenGL" in result.output


def test_verify_says_that_one_view_proves_nothing(tmp_path: Path) -> None:
    write_log(tmp_path / "log" / "run")
    assert convert(tmp_path / "log", tmp_path / "out", mapping(), "--action-codec", "ffv1").exit_code == 0
    found = CliRunner().invoke(main, ["verify", str(tmp_path / "out"), "--json"])
    summary = json.loads(found.stdout)
    assert (summary["ok"], summary["proven"], summary["not_proven"]) == (
        True,
        False,
        "there is one view, and a pose takes two",
    )
    shown = CliRunner().invoke(main, ["verify", str(tmp_path / "out")])
    assert "not proven" in shown.output
    assert "✓ verified" not in shown.output


# Half a pixel.


@pytest.mark.parametrize("size", [32, 64, 256, 512])
def test_a_dot_and_the_blob_stay_together_at_every_size(tmp_path: Path, size: int) -> None:
    """A dot that OpenCV's own projection puts into the source's picture is where the action image has its blob."""
    source = 128
    matrix = np.array([[150.0, 0, 63.1], [0, 150.0, 62.4], [0, 0, 1]])
    log = changed()
    camera_from_world = np.linalg.inv(CAMERA)
    dots = cv2.projectPoints(
        place(log.frame_times), cv2.Rodrigues(camera_from_world[:3, :3])[0], camera_from_world[:3, 3], matrix, None
    )[0].reshape(-1, 2)
    y, x = np.mgrid[:source, :source]

    def draw(n: int) -> np.ndarray:
        u, v = dots[n]
        return np.repeat((20 + 230 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 18))[..., None], 3, -1).astype(np.uint8)

    log.draw = draw
    run = tmp_path / "log" / "run"
    write_log(run, log, video=False)
    write_pictures(run / "rgb", log, lambda i: f"{i:04d}")
    camera = {"K": matrix.tolist(), "width": source, "height": source, "world_from_camera": CAMERA.tolist()}
    (run / "cameras.json").write_text(json.dumps({"cameras": {"front": camera}}))
    way = mapping(views__front__frames="rgb/*.png")
    given = ["--mapping", str(write_yaml(tmp_path / "m.yaml", way)), "--size", str(size), "--action-codec", "ffv1"]
    words = [
        "convert",
        "folder",
        str(tmp_path / "log"),
        str(tmp_path / "out"),
        *given,
        "--crf",
        "4",
        "--num-workers",
        "1",
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    (sample,) = samples(tmp_path / "out")
    uv = np.array([sample.cameras["front"][i].project(p[None])[0][0] for i, p in enumerate(sample.trajectory.position)])
    grid = np.mgrid[:size, :size]
    for number in (0, 20, COUNT - 1):
        for drawn in (sample.rgb("front")[number], sample.action("front")[number]):
            weight = np.clip(drawn[..., 0].astype(float) - 60, 0, None)
            centre = [(weight * axis).sum() / weight.sum() for axis in grid[::-1]]
            assert np.abs(centre - uv[number]).max() < 0.06 * max(1, size / 128), (number, centre, uv[number])


# Bags: what may not change, and what has no time.


def bag(folder: Path, statics: list[tuple[float, np.ndarray]], info: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """A ROS 2 bag of the sound log; ``statics`` are times and poses on ``/tf_static``."""
    writer = pytest.importorskip("rosbags.rosbag2")
    from rosbags.typesys import Stores, get_typestore
    from scipy.spatial.transform import Rotation

    store = get_typestore(Stores.ROS2_HUMBLE)
    t = store.types

    def make(kind: str, *values: Any) -> Any:
        return t[kind](*values)

    def header(at: float, frame: str) -> Any:
        ns = round((EPOCH + at) * 1e9)
        return make("std_msgs/msg/Header", make("builtin_interfaces/msg/Time", ns // 10**9, ns % 10**9), frame)

    def vector(values: Any) -> Any:
        return make("geometry_msgs/msg/Vector3", *map(float, values))

    events: list[tuple[float, str, str, Any]] = []
    for at in TIMES:
        pose = make("geometry_msgs/msg/Pose", make("geometry_msgs/msg/Point", *map(float, place(at))), None)
        pose.orientation = make("geometry_msgs/msg/Quaternion", 1.0, 0.0, 0.0, 0.0)
        stamped = make("geometry_msgs/msg/PoseStamped", header(at, "base"), pose)
        events.append((at, "/pose", "geometry_msgs/msg/PoseStamped", stamped))
        state = make(
            "sensor_msgs/msg/JointState", header(at, "base"), ["w"], np.array([0.04]), np.zeros(0), np.zeros(0)
        )
        events.append((at, "/joints", "sensor_msgs/msg/JointState", state))
    for at, pose in statics:
        q = make("geometry_msgs/msg/Quaternion", *map(float, Rotation.from_matrix(pose[:3, :3]).as_quat()))
        moved = make("geometry_msgs/msg/Transform", vector(pose[:3, 3]), q)
        one = make("geometry_msgs/msg/TransformStamped", header(at, "base"), "cam", moved)
        events.append((at, "/tf_static", "tf2_msgs/msg/TFMessage", make("tf2_msgs/msg/TFMessage", [one])))
    roi = make("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False)
    for i in range(COUNT):
        at, drawn = i / FPS, picture(i, SIZE)
        image = make("sensor_msgs/msg/Image", header(at, "cam"), SIZE, SIZE, "rgb8", 0, SIZE * 3, drawn.ravel())
        events.append((at, "/image", "sensor_msgs/msg/Image", image))
        own = {"width": SIZE, "height": SIZE, "d": [0.0] * 5, "k": [75.0, 0, 31.5, 0, 75.0, 31.5, 0, 0, 1], **info(i)}
        p = np.concatenate([np.array(own["k"]).reshape(3, 3), np.zeros((3, 1))], 1).ravel()
        k, d = np.array(own["k"], float), np.array(own["d"], float)
        says = ("sensor_msgs/msg/CameraInfo", header(at, "cam"), own["height"], own["width"], "plumb_bob", d, k)
        events.append((at, "/info", "sensor_msgs/msg/CameraInfo", make(*says, np.eye(3).ravel(), p, 0, 0, roi)))
    path = folder / "bags" / "run"
    path.parent.mkdir(parents=True)
    with writer.Writer(path, version=9, storage_plugin=writer.StoragePlugin.MCAP) as out:
        topics: dict[str, Any] = {}
        for at, topic, kind, message in sorted(events, key=lambda e: e[0]):
            if topic not in topics:
                topics[topic] = out.add_connection(topic, kind, typestore=store)
            out.write(topics[topic], round((EPOCH + at + 0.03) * 1e9), store.serialize_cdr(message, kind))
    tf = {"parent": "base", "child": "cam"}
    return {
        "version": 1,
        "format": "rosbag",
        "instruction": {"text": "push"},
        "pose": {"topic": "/pose", "tool_from_gripper": {}},
        "gripper": {"topic": "/joints", "columns": ["position.w"], "closed": 0.0, "open": 0.08, "kind": "measured"},
        "views": {"front": {"topic": "/image", "camera": {"camera_info": "/info", "tf": tf}}},
    }


@pytest.mark.parametrize("second_at", [-0.04, 1.0, 2.5])
def test_of_two_static_transforms_the_last_one_holds(tmp_path: Path, second_at: float) -> None:
    nominal = CAMERA.copy()
    nominal[0, 3] += 0.2
    way = bag(tmp_path / "log", [(-0.05, nominal), (second_at, CAMERA)], lambda i: {})
    result = convert(tmp_path / "log" / "bags", tmp_path / "out", way)
    assert result.exit_code == 0, result.output
    (sample,) = samples(tmp_path / "out")
    assert len(sample) == COUNT
    assert pairing_mm(sample).max() < 0.01
    np.testing.assert_allclose(sample.cameras["front"].world_from_camera, np.tile(CAMERA, (COUNT, 1, 1)), atol=1e-9)


@pytest.mark.parametrize(
    "change",
    [{"d": [0.3, 0, 0, 0, 0]}, {"width": 2 * SIZE, "height": 2 * SIZE}, {"k": [76.0, 0, 31.5, 0, 75.0, 31.5, 0, 0, 1]}],
    ids=["d", "size", "k"],
)
def test_a_camera_info_that_changes_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    way = bag(tmp_path / "log", [(-0.05, CAMERA)], lambda i: {} if i < 20 else change)
    result = convert(tmp_path / "log" / "bags", tmp_path / "out", way)
    assert result.exit_code == 1
    assert "the camera changes within the bag" in result.output


def test_the_report_lists_what_was_found(tmp_path: Path) -> None:
    write_log(tmp_path / "log" / "frozen", changed(numbers=[min(i, 8) for i in range(COUNT)]))
    write_log(tmp_path / "log" / "zeros", with_rows(100, 0.0))
    write_log(tmp_path / "log" / "sound")
    result = convert(tmp_path / "log", tmp_path / "out", mapping(), "--allow", "frozen-pictures")
    assert result.exit_code == 4, result.output
    page = tmp_path / "report.html"
    made = CliRunner().invoke(main, ["report", str(tmp_path / "out"), "--html", str(page)])
    assert made.exit_code == 0, made.output
    text = page.read_text()
    assert 'id="findings"' in text
    for kind in ("frozen-pictures", "zero-poses"):
        assert re.search(rf'class="mono">{kind}</th>', text), kind
    assert "--allow frozen-pictures" in text


def test_the_filter_that_an_hdf5_file_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    write_log(tmp_path / "log" / "run", video=False)
    with h5py.File(tmp_path / "log" / "run" / "pictures.h5", "w") as file:
        packed = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        packed.set_chunk((1, SIZE, SIZE, 3))
        packed.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        shape = h5py.h5s.create_simple((COUNT, SIZE, SIZE, 3))
        h5py.h5d.create(file.id, b"img", h5py.h5t.NATIVE_UINT8, shape, packed)
    result = convert(tmp_path / "log", tmp_path / "out", mapping(views__front__frames="pictures.h5#img"))
    assert result.exit_code == 1
    assert "Zstandard (32015)" in result.output
    assert "pip install 'hdf5plugin>=" in result.output

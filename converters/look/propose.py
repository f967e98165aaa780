"""A draft of a mapping file for a log that nobody explained.

The draft names what was found and where, and picks candidates by name and by what the numbers show (a row of four of
length 1 is a quaternion). What numbers cannot show is left as ``???``: units, the order of a quaternion that nothing
names, the frame of the tool, which end of the gripper's range is open, and whose instruction it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from ...schemas.mapping import UNKNOWN
from ..aloha import AlohaConverter
from ..kit.bags.messages import CAMERA_TYPES, POSE_TYPES, TF_TYPES
from ..libero import LiberoConverter
from ..robomimic import RobomimicConverter
from ..umi import UmiConverter
from .survey import Column, Pictures, Survey, TableFound, describe, survey

_GRIPPER = re.compile(r"gripper|finger|jaw|\bwidth|_width|hand_open", re.IGNORECASE)
_TIME = re.compile(r"time|stamp", re.IGNORECASE)
_NOT_POSE = re.compile(r"action|target|command|vel|force|torque|error|goal|delta", re.IGNORECASE)
_POSITION = re.compile(
    r"(?<![a-z])(eef|ee|tcp|tool|cart\w*|hand|gripper)?_?(pos|position|xyz|translation)(?![a-z])", re.IGNORECASE
)
_JOINT = re.compile(r"joint|qpos|waist|shoulder|elbow|forearm|wrist", re.IGNORECASE)
_MIN_JOINTS, _MAX_JOINTS = 5, 32
_ROTATION = re.compile(r"euler|rpy|axis_angle|axisangle|rotvec|rotation|orientation|_ori\b|_rot\b", re.IGNORECASE)


def propose_mapping(source: str) -> str:
    """The text of a draft mapping file (YAML with comments) for any source that `survey.survey` can look at.

    Raises:
        SourceNotFoundError: Nothing there.
        WrongFormatError: Nothing in it that could be a recording.
    """
    found = survey(source)
    for kind in (RobomimicConverter, LiberoConverter, AlohaConverter, UmiConverter):
        if kind.detect(source) is not None:
            found.notes.append(f"looks like {kind.name}: `actionimg convert {kind.name}` reads it without a mapping")
    return "\n".join(_draft(found, Path(source).name)) + "\n"


def _draft(found: Survey, name: str) -> Iterator[str]:
    yield f"# Draft of a mapping for {name}. {UNKNOWN} marks what only you can know; docs/mapping.md explains every"
    yield "# field. Candidates were picked by name and by what the numbers show: check them."
    yield "#"
    yield "# Found:"
    yield from _listing(found)
    yield ""
    yield "version: 1"
    yield f"format: {found.format}"
    if found.groups is not None:
        yield f"group: {_quoted(found.groups[0])}  # {found.groups[1]} groups, each taken as an episode"
    if found.format == "lerobot":
        yield "# instruction: LeRobot's own tasks are used"
    else:
        yield f'instruction: {{text: "{UNKNOWN}"}}  # what the demonstration does; or file and key, column, topic'
    table = _pose_table(found)
    stamped = found.format == "folder" and table is not None and _time_column(table) is not None
    yield "pose:"
    yield from _pose(found, table, stamped)
    yield "gripper:"
    yield from _gripper(found, table)
    yield "views:"
    yield from _views(found, stamped)
    if found.format == "folder" and not stamped:
        yield f'sync: {{mode: rows, fps: "{UNKNOWN}"}}  # no stamps found: sample i of every stream goes with picture i'


def _listing(found: Survey) -> Iterator[str]:
    for table in found.tables:
        rate = f", {table.rate_hz:.4g} Hz" if table.rate_hz else ""
        kind = f" ({table.kind})" if table.kind else ""
        yield f"#   {table.name}{kind}: {table.rows} rows{rate}"
        # What a CameraInfo says is the same in every camera; its stream is enough.
        for column in table.columns if table.kind not in CAMERA_TYPES else ():
            yield f"#     {column.name}: {describe(column)}"
    for picture in found.pictures:
        rate = f", {picture.fps:.4g} Hz" if picture.fps else ""
        size = f" of {picture.width}x{picture.height}" if picture.width else ", encoded"
        yield f"#   {picture.source}: {picture.count} pictures{size}{rate}"
    for file, cameras in found.cameras.items():
        posed = [n for n, has in cameras.items() if has]
        yield f"#   {file}: cameras {', '.join(cameras)}; with poses: {', '.join(posed) or 'none'}"
    for note in found.notes:
        yield f"#   {note}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _list(refs: list[str]) -> str:
    return f"[{', '.join(_quoted(r) for r in refs)}]"


def _position(table: TableFound) -> list[str] | None:
    """Three numbers that are named like a place: columns x, y, z, a vector of three, or labelled parts."""
    names = [c.name for c in table.columns if not _NOT_POSE.search(c.name)]
    for suffix in ("", "_m", "_mm", "_cm"):
        for name in names:
            if re.search(rf"(^|[._/])x{suffix}$", name):
                stem = name[: -len(f"x{suffix}")]
                triple = [f"{stem}{axis}{suffix}" for axis in "xyz"]
                if all(t in names for t in triple):
                    return triple
    for column in table.columns:
        if len(column.shape) == 2 and column.width == 3 and column.name in names and _POSITION.search(column.name):
            return [column.name]
    for column in table.columns:
        labels = [str(part) for part in column.labels]
        if column.name in names and {"x", "y", "z"} <= set(labels):
            return [f"{column.name}.{axis}" for axis in "xyz"]
    return None


def _quaternion(table: TableFound) -> tuple[list[str], bool] | None:
    """Four numbers that are a quaternion, and whether their names say which is which."""
    names = [c.name for c in table.columns if not _NOT_POSE.search(c.name)]
    for name in names:
        match = re.search(r"(^|[._/])(q_?|quat_?)x$", name)
        if match:
            stem = name[:-1]
            four = [f"{stem}{axis}" for axis in "xyzw"]
            if all(f in names for f in four):
                return four, True
    for column in table.columns:
        parts = list(column.labels)
        if column.name in names and {"qx", "qy", "qz", "qw"} <= set(parts):
            return [f"{column.name}.q{axis}" for axis in "xyzw"], True
    vectors = [c for c in table.columns if c.name in names and c.width == 4 and len(c.shape) == 2]
    for column in vectors:
        if column.unit_norm:
            return [column.name], False
    return None


def _time_column(table: TableFound) -> Column | None:
    columns = [c for c in table.columns if c.increasing and len(c.shape) == 1]
    return next((c for c in columns if _TIME.search(c.name)), None)


def _pose_table(found: Survey) -> TableFound | None:
    """The table that most looks like poses; for bags a topic of poses."""
    if found.format == "rosbag":
        typed = [t for t in found.tables if t.kind in POSE_TYPES]
        return max(typed, key=lambda t: t.rows, default=None)

    def score(table: TableFound) -> tuple[int, int]:
        return (_position(table) is not None) + 2 * (_quaternion(table) is not None), table.rows

    best = max(found.tables, key=score, default=None)
    return best if best is not None and score(best)[0] > 0 else (found.tables[0] if found.tables else None)


def _pose(found: Survey, table: TableFound | None, stamped: bool) -> Iterator[str]:
    if found.format == "rosbag":
        if table is not None:
            yield f"  topic: {_quoted(table.name)}  # {table.kind}: metres, xyzw by the message's definition"
        else:
            yield f'  topic: "{UNKNOWN}"  # no topic of poses was found; or tf: {{parent, child}}, or fields of a topic'
    else:
        if found.format == "folder":
            yield f"  file: {_quoted(table.name) if table is not None else _quoted(UNKNOWN)}"
        column = _time_column(table) if table is not None else None
        if stamped and column is not None:
            yield f'  time: {{column: {_quoted(column.name)}, unit: "{UNKNOWN}"}}  # s | ms | us | ns; {_rates(column)}'
        yield from _pose_columns(table)
    yield f'  tool_from_gripper: "{UNKNOWN}"  # gripper (between the fingertips, +z approach, fingers along +-y) in the'
    yield "    # reported frame: 4x4, or {translation: [x, y, z], euler_xyz_deg: [r, p, y]}"


def _rates(column: Column) -> str:
    step = column.median_step or 0.0
    units = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))
    rates = [(name, 1 / (step * unit)) for name, unit in units if step > 0]
    return ", ".join(f"{rate:.4g} Hz if {name}" for name, rate in rates if 0.5 <= rate <= 5000)


def _joints(table: TableFound) -> tuple[list[str], list[str]] | None:
    """Columns that hold joint values, and their names where the log has them."""
    for column in table.columns:
        named = [str(label) for label in column.labels if _JOINT.search(str(label)) and not _GRIPPER.search(str(label))]
        if len(named) >= _MIN_JOINTS and not _NOT_POSE.search(column.name):
            return [f"{column.name}.{label}" for label in named], named
    for column in table.columns:
        wide = len(column.shape) == 2 and _MIN_JOINTS <= column.width <= _MAX_JOINTS
        if wide and _JOINT.search(column.name) and not _NOT_POSE.search(column.name):
            return [column.name], []
    return None


def _pose_columns(table: TableFound | None) -> Iterator[str]:
    position = None if table is None else _position(table)
    quaternion = None if table is None else _quaternion(table)
    joints = None if table is None or position is not None else _joints(table)
    if joints is not None:
        angles, names = joints
        yield "  joints:  # no pose was found: joints through the robot's kinematics; leave out what is not the arm's"
        yield f"    columns: {_list(angles)}  # NAME[0:6] takes a part"
        yield f"    names: {_list(names or [UNKNOWN])}  # of the robot file, in the order of the columns"
        yield f'    unit: "{UNKNOWN}"  # rad | deg'
        yield f'    robot: "{UNKNOWN}"  # URDF or MJCF file beside this one'
        yield f'    tip: "{UNKNOWN}"  # link, body or site whose pose is the tool\'s'
        return
    refs = _quoted(UNKNOWN) if position is None else None
    columns = f"[{refs}]" if position is None else _list(position)
    yield f'  position: {{columns: {columns}, unit: "{UNKNOWN}"}}  # m | cm | mm'
    if quaternion is not None:
        refs_q, named = quaternion
        order = "xyzw" if named else f'"{UNKNOWN}"'
        why = "the columns' names say which is which" if named else "xyzw | wxyz: rows have length 1 either way"
        yield f"  rotation: {{columns: {_list(refs_q)}, form: quaternion, order: {order}}}  # {why}"
        return
    candidates = [] if table is None else [
        c.name for c in table.columns
        if len(c.shape) == 2 and c.width in (3, 6, 9) and _ROTATION.search(c.name) and not _NOT_POSE.search(c.name)
    ]  # fmt: skip
    columns = _list(candidates[:1]) if candidates else f'["{UNKNOWN}"]'
    yield f'  rotation: {{columns: {columns}, form: "{UNKNOWN}", order: "{UNKNOWN}", unit: "{UNKNOWN}"}}'
    yield "    # form: euler | rotation_vector | matrix | rotation_6d | quaternion; leave order or unit out where the"
    yield "    # form has none"


def _gripper(found: Survey, pose: TableFound | None) -> Iterator[str]:
    candidates: list[tuple[TableFound, str, Column]] = []
    tables = [t for t in found.tables if t.kind not in (*CAMERA_TYPES, *TF_TYPES)]
    for table in sorted(tables, key=lambda t: t is not pose):
        for column in table.columns:
            whole = f"{table.name}/{column.name}" if found.format == "rosbag" else column.name
            labelled = [p for p in column.labels if _GRIPPER.search(p)]
            refs = [f"{column.name}.{p}" for p in labelled]
            if _GRIPPER.search(whole) and not column.labels and column.width in (1, 2) and len(column.shape) <= 2:
                refs = [f"{column.name}[{i}]" for i in range(column.width)] if len(column.shape) == 2 else [column.name]
            plain = not _TIME.search(column.name) and column.low is not None
            candidates.extend((table, ref, column) for ref in refs if plain and ref not in (_position(table) or []))
    measured = [c for c in candidates if not _NOT_POSE.search(c[2].name)] or candidates
    named = [c for c in measured if _GRIPPER.search(c[1])] or measured
    if named:
        table, ref, column = named[0]
        same = [r for t, r, c in named if t is table and c is column]
        if found.format == "rosbag":
            yield f"  topic: {_quoted(table.name)}"
        elif table is not pose and found.format == "folder":
            yield f"  file: {_quoted(table.name)}"
            own = _time_column(table)
            if own is not None:
                yield f'  time: {{column: {_quoted(own.name)}, unit: "{UNKNOWN}"}}  # {_rates(own)}'
        yield f"  columns: {_list(same[:2] if len(same) == 2 else [ref])}"
        if len(same) == 2:
            yield f'  combine: "{UNKNOWN}"  # difference | sum | mean of the two fingers'
        values = "" if column.labels else f"; all values lie in {column.low:.6g} … {column.high:.6g}"
    else:
        if found.format == "rosbag":
            yield f'  topic: "{UNKNOWN}"'
        yield f'  columns: ["{UNKNOWN}"]'
        values = ""
    yield f'  closed: "{UNKNOWN}"  # the value when the gripper is closed{values}'
    yield f'  open: "{UNKNOWN}"  # the value when it is open'
    yield f'  kind: "{UNKNOWN}"  # measured | command'


def _views(found: Survey, stamped: bool) -> Iterator[str]:
    if not found.pictures:
        key = {"folder": "frames", "lerobot": "feature", "rosbag": "topic"}[found.format]
        yield "  camera:"
        yield f'    {key}: "{UNKNOWN}"  # no pictures were found'
        yield f'    camera: {{file: "{UNKNOWN}"}}'
    for picture in found.pictures:
        yield f"  {_view_name(picture)}:"
        if found.format == "lerobot":
            yield f"    feature: {_quoted(picture.source)}"
        elif found.format == "rosbag":
            yield f"    topic: {_quoted(picture.source)}"
        else:
            yield f"    frames: {_quoted(picture.source)}"
            if stamped:
                yield from _view_time(found, picture)
        yield from _camera(found, picture)


def _view_name(picture: Pictures) -> str:
    return re.sub(r"[^a-z0-9_-]+", "_", picture.name.lower()).strip("_") or "camera"


def _view_time(found: Survey, picture: Pictures) -> Iterator[str]:
    fitting = [(t, c) for t in found.tables if t.rows == picture.count and (c := _time_column(t)) is not None]
    if fitting:
        table, column = fitting[0]
        yield f'    time: {{file: {_quoted(table.name)}, column: {_quoted(column.name)}, unit: "{UNKNOWN}"}}'
        yield f"      # has as many rows as there are pictures; {_rates(column)}"
    else:
        yield f'    time: {{file: "{UNKNOWN}", column: "{UNKNOWN}", unit: "{UNKNOWN}"}}'
        yield f"      # no column of {picture.count} stamps was found"


def _camera(found: Survey, picture: Pictures) -> Iterator[str]:
    for file, cameras in found.cameras.items():
        if picture.name in cameras or (len(cameras) == 1 and len(found.pictures) == 1):
            name = picture.name if picture.name in cameras else next(iter(cameras))
            if cameras[name]:
                yield f"    camera: {{file: {_quoted(file)}, name: {_quoted(name)}}}"
            else:
                yield f'    camera: {{file: {_quoted(file)}, name: {_quoted(name)}, world_from_camera: "{UNKNOWN}"}}'
            return
    if found.format == "rosbag":
        stem = picture.source.rsplit("/", 1)[0] if "/" in picture.source else ""
        infos = [t.name for t in found.tables if t.kind in CAMERA_TYPES]
        near = next(
            (n for n in infos if stem and n.startswith(stem)),
            infos[0] if len(infos) == len(found.pictures) == 1 else None,
        )
        info = _quoted(near or UNKNOWN)
        frames = f'{{parent: "{UNKNOWN}", child: "{UNKNOWN}"}}'
        yield f'    camera: {{camera_info: {info}, rectified: "{UNKNOWN}", tf: {frames}}}'
        yield "      # rectified: true where the pictures are; or file, or world_from_camera in place of tf"
        return
    yield f'    camera: {{file: "{UNKNOWN}"}}  # camera file with K, size and world_from_camera'

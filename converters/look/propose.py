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
from .units import ANGLES, LENGTHS, common_unit, place_of, short_names, time_unit, turn_of

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
    single = [c.name for c in table.columns if c.name in names and len(c.shape) <= 1]
    if (triple := place_of(single)) is not None:
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
            yield f"  time: {_time_of(column)}"
        yield from _pose_columns(table)
    yield f'  tool_from_gripper: "{UNKNOWN}"  # gripper (between the fingertips, +z approach, fingers along +-y) in the'
    yield "    # reported frame: 4x4, or {translation: [x, y, z], euler_xyz_deg: [r, p, y]}"


def _time_of(column: Column, file: str | None = None) -> str:
    """The ``time`` of a stream whose stamps are in a column, with a remark."""
    of = "" if file is None else f"file: {_quoted(file)}, "
    if column.dtype == "time":
        return f"{{{of}column: {_quoted(column.name)}}}  # dates and times; zone: where it is not UTC"
    unit, why = time_unit(column.name, column.low)
    if unit is not None:
        start = "" if column.low is None or column.low > 1e8 else "; start: where others count from 1970"
        return f"{{{of}column: {_quoted(column.name)}, unit: {unit}}}  # {why}{start}"
    return f'{{{of}column: {_quoted(column.name)}, unit: "{UNKNOWN}"}}  # s | ms | us | ns; {_rates(column)}'


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
    length = None if position is None else common_unit(position, LENGTHS)
    unit = f'"{UNKNOWN}"}}  # m | cm | mm' if length is None else f"{length}}}  # as the names say"
    yield f"  position: {{columns: {columns}, unit: {unit}"
    if quaternion is not None:
        refs_q, named = quaternion
        order = "xyzw" if named else f'"{UNKNOWN}"'
        why = "the columns' names say which is which" if named else "xyzw | wxyz: rows have length 1 either way"
        yield f"  rotation: {{columns: {_list(refs_q)}, form: quaternion, order: {order}}}  # {why}"
        return
    turn = None if table is None else turn_of([c.name for c in table.columns if not _NOT_POSE.search(c.name)])
    if turn is not None:
        angles, kind = turn
        unit = common_unit(angles, ANGLES) or f'"{UNKNOWN}"'
        if kind == "rpy":
            how, why = "form: euler, order: xyz", "roll, pitch and yaw about the fixed axes x, y and z"
        else:
            how, why = f'form: "{UNKNOWN}", order: "{UNKNOWN}"', "euler | rotation_vector, which has no order"
        yield f"  rotation: {{columns: {_list(angles)}, {how}, unit: {unit}}}  # {why}"
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
                yield f"  time: {_time_of(own)}"
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
    long = [p.source if found.format == "rosbag" else p.name for p in found.pictures]
    short = short_names(long)
    names = {p.name: short[name] for p, name in zip(found.pictures, long, strict=True)}
    for picture in found.pictures:
        yield f"  {names[picture.name]}:"
        if found.format == "lerobot":
            yield f"    feature: {_quoted(picture.source)}"
        elif found.format == "rosbag":
            yield f"    topic: {_quoted(picture.source)}"
        else:
            yield f"    frames: {_quoted(picture.source)}"
            if stamped:
                yield from _view_time(found, picture)
        yield from _camera(found, picture)


def _view_time(found: Survey, picture: Pictures) -> Iterator[str]:
    fitting = [(t, c) for t in found.tables if t.rows == picture.count and (c := _time_column(t)) is not None]
    if fitting:
        table, column = fitting[0]
        yield f"    time: {_time_of(column, table.name)}"
        yield "      # has as many rows as there are pictures"
    elif picture.own_stamps:
        yield f'    time: {{video: true, start: "{UNKNOWN}"}}  # the video\'s own stamps, and when they begin'
        yield f"      # no column of {picture.count} stamps was found"
    else:
        yield f'    time: {{file: "{UNKNOWN}", column: "{UNKNOWN}", unit: "{UNKNOWN}"}}'
        yield f"      # no column of {picture.count} stamps was found"


def _camera(found: Survey, picture: Pictures) -> Iterator[str]:
    """Where a view's calibration is: files that fit its name, or the only ones."""
    for file, cameras in found.cameras.items():
        alone = len(found.pictures) == 1 or _named_alike(file, picture.name)
        if picture.name in cameras or (len(cameras) == 1 and alone):
            name = picture.name if picture.name in cameras else next(iter(cameras))
            posed = "" if cameras[name] else f", {_pose_file(found, picture)}"
            yield f"    camera: {{file: {_quoted(file)}, name: {_quoted(name)}{posed}}}"
            return
    if found.format == "rosbag":
        yield from _bag_camera(found, picture)
        return
    rest = [(f, c) for f, c in found.cameras.items() if len(c) == 1 and not _of_another(found, f, picture)]
    if len(rest) == 1:
        file, cameras = rest[0]
        named = f"name: {_quoted(next(iter(cameras)))}, {_pose_file(found, picture)}"
        yield f"    camera: {{file: {_quoted(file)}, {named}}}"
        return
    posed = f", {_pose_file(found, picture)}" if found.poses else ""
    yield f'    camera: {{file: "{UNKNOWN}"{posed}}}  # camera file with K, size and world_from_camera'


def _named_alike(file: str, view: str) -> bool:
    return bool(set(re.split(r"[^a-z0-9]+", Path(file).stem.lower())) & set(re.split(r"[^a-z0-9]+", view.lower())))


def _of_another(found: Survey, file: str, picture: Pictures) -> bool:
    return any(_named_alike(file, p.name) for p in found.pictures if p is not picture)


def _pose_file(found: Survey, picture: Pictures) -> str:
    """A camera's pose: a hand-eye file that is named like the view, or the only one; else what the user has to say."""
    alike = [f for f in found.poses if _named_alike(f, picture.name)] or (
        list(found.poses) if len(found.poses) == len(found.pictures) == 1 else []
    )
    if len(alike) != 1:
        return f'world_from_camera: "{UNKNOWN}"'
    field = "tool_from_camera" if found.poses[alike[0]] == "tool" else "world_from_camera"
    return f"{field}: {{file: {_quoted(alike[0])}}}"


def _bag_camera(found: Survey, picture: Pictures) -> Iterator[str]:
    stem = picture.source.rsplit("/", 1)[0] if "/" in picture.source else ""
    infos = [t.name for t in found.tables if t.kind.endswith(("/CameraInfo", "CameraCalibration"))]
    near = next((n for n in infos if stem and (n.startswith(stem) or stem.startswith(n.rsplit("/", 1)[0]))), None)
    near = near or (infos[0] if len(infos) == 1 else None)
    info = _quoted(near or UNKNOWN)
    table = _pose_table(found)
    child = found.frames.get(picture.source) or found.frames.get(near or "") or UNKNOWN
    parent = (found.frames.get(table.name) if table is not None else None) or UNKNOWN
    if UNKNOWN not in (child, parent) and not _connected(found, parent, child):
        parent = child = UNKNOWN
    frames = f"{{parent: {_quoted(parent)}, child: {_quoted(child)}}}"
    yield f'    camera: {{camera_info: {info}, rectified: "{UNKNOWN}", tf: {frames}}}'
    yield "      # rectified: true where the pictures are; or file, or world_from_camera in place of tf"


def _connected(found: Survey, parent: str, child: str) -> bool:
    """Whether the bag's transforms lead from one frame to the other."""
    seen, pending = set(), [parent.lstrip("/")]
    while pending:
        frame = pending.pop()
        if frame == child.lstrip("/"):
            return True
        seen.add(frame)
        pending += [b for a, b in found.transforms if a == frame and b not in seen]
        pending += [a for a, b in found.transforms if b == frame and a not in seen]
    return False

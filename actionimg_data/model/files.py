"""Trajectories in files: CSV, NPZ, NPY and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ActionImgError, BadFileError, InvalidSpecError, WrongFormatError
from ..untrusted import arrays, files, text, unpack
from .trajectory import GripperTrajectory

SUFFIXES = (".csv", ".npz", ".npy", ".json")
ACTION7_COLUMNS = ("x", "y", "z", "roll", "pitch", "yaw", "openness")
ACTION8_COLUMNS = ("x", "y", "z", "qx", "qy", "qz", "qw", "openness")
_OWN_MEMBERS = ("position", "quaternion_xyzw", "openness", "times")
_MAX_BYTES = unpack.MAX_ARRAY_BYTES


def read_trajectory(path: str | Path, fps: float | None = None) -> GripperTrajectory:
    """A trajectory from a file.

    * ``.npy``: ``(T, 7)`` action_7d or ``(T, 8)`` action_8d.
    * ``.npz``: ``position, quaternion_xyzw, openness, times``, or ``action_8d`` or ``action_7d``, perhaps ``times``.
    * ``.csv``: a header naming ``x y z``, ``qx qy qz qw`` or ``roll pitch yaw`` (radians, extrinsic xyz), ``openness``
      and perhaps ``time_s``; or no header and exactly 7 or 8 columns. Rows with ``valid`` 0 are missing poses.
    * ``.json``: what ``actionimg decode --out x.json`` writes, or an object with the members of an ``.npz``.

    Args:
        path: The file.
        fps: Frames per second, for files that carry no times.

    Raises:
        SourceNotFoundError: There is no such file.
        WrongFormatError: The ending, the columns or the members are not those above.
        BadFileError: The file does not parse.
        InvalidSpecError: The file has no times and ``fps`` is not given.
        InvalidTrajectoryError: The values are not a trajectory.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise WrongFormatError("unknown kind of trajectory file", where=path, expected=" ".join(SUFFIXES), found=suffix)
    data = files.read_bytes(path, _MAX_BYTES)
    try:
        if suffix == ".npy":
            return _from_members({"action": arrays.load_npy(data, path)}, fps, path)
        if suffix == ".npz":
            return _from_members(arrays.load_npz(data, path), fps, path)
        if suffix == ".json":
            content = text.parse_json(data, path)
            if not isinstance(content, dict):
                raise WrongFormatError("is not a JSON object", where=path, found=type(content).__name__)
            known = (*_OWN_MEMBERS, "action_7d", "action_8d")
            return _from_members({k: _numbers(content[k]) for k in known if k in content}, fps, path)
        return _from_members(_csv_members(data, path), fps, path)
    except ActionImgError as error:
        raise error.at(path) from None
    except (ValueError, TypeError, OSError, EOFError, KeyError, csv.Error) as error:
        raise BadFileError("cannot be read", where=path, found=error) from error


def _numbers(value: Any) -> NDArray[Any]:
    """A JSON list as an array, with null as NaN."""
    array = np.array(value, dtype=object)
    return np.where(array == None, math.nan, array).astype(np.float64) if array.dtype == object else array  # noqa: E711


def _csv_members(data: bytes, path: Path) -> dict[str, NDArray[Any]]:
    lines = io.StringIO(data.decode("utf-8"), newline="")
    rows = [row for row in csv.reader(lines) if row and not row[0].startswith("#")]
    if not rows:
        raise WrongFormatError("has no rows", where=path)
    try:
        [float(cell) for cell in rows[0]]
    except ValueError:
        header = [cell.strip() for cell in rows.pop(0)]
    else:
        named = {7: ACTION7_COLUMNS, 8: ACTION8_COLUMNS}.get(len(rows[0]))
        if named is None:
            raise WrongFormatError(
                "has no header and is neither action_7d nor action_8d",
                where=path,
                expected="7 or 8 columns, or a header",
                found=f"{len(rows[0])} columns",
            )
        header = list(named)
    columns: dict[str, list[float]] = {name: [] for name in header}
    texts = {"reason"}
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise BadFileError(
                "row has another length",
                where=path,
                field=f"row {number}",
                expected=len(header),
                found=len(row),
            )
        for name, cell in zip(header, row, strict=True):
            if name in texts:
                continue
            try:
                columns[name].append(float(cell) if cell else math.nan)
            except ValueError:
                raise BadFileError("is not a number", where=path, field=f"row {number}, {name}", found=cell) from None
    table = {name: np.array(values) for name, values in columns.items() if values}
    for names, key in ((ACTION8_COLUMNS, "action_8d"), (ACTION7_COLUMNS, "action_7d")):
        if all(name in table for name in names):
            members = {key: np.stack([table[name] for name in names], axis=1)}
            return members | ({"times": table["time_s"]} if "time_s" in table else {})
    raise WrongFormatError(
        "lacks columns",
        where=path,
        expected=" ".join(ACTION8_COLUMNS) + " or " + " ".join(ACTION7_COLUMNS),
        found=" ".join(header),
    )


def _from_members(members: Mapping[str, NDArray[Any]], fps: float | None, path: Path) -> GripperTrajectory:
    if "action" in members:
        width = members["action"].shape[-1] if members["action"].ndim == 2 else None
        key = {7: "action_7d", 8: "action_8d"}.get(width or 0)
        if key is None:
            raise WrongFormatError(
                "is neither action_7d nor action_8d",
                where=path,
                expected="(T, 7) or (T, 8)",
                found=str(members["action"].shape),
            )
        members = {key: members["action"]}
    if all(name in members for name in _OWN_MEMBERS):
        return GripperTrajectory(*(members[name] for name in _OWN_MEMBERS), allow_missing=True)
    key = next((k for k in ("action_8d", "action_7d") if k in members), None)
    if key is None:
        raise WrongFormatError(
            "lacks members",
            where=path,
            expected="action_7d, action_8d or " + ", ".join(_OWN_MEMBERS),
            found=" ".join(members),
        )
    action = np.asarray(members[key])
    times = members.get("times")
    if times is None:
        if fps is None or not fps > 0:
            raise InvalidSpecError(
                "has no times", where=path, field="fps", found=fps, hint="Give the frame rate with --fps."
            )
        times = np.arange(len(action)) / fps
    if key == "action_8d":
        if action.ndim == 2 and action.shape[1] == 8:
            return GripperTrajectory(action[:, :3], action[:, 3:7], action[:, 7], times, allow_missing=True)
        return GripperTrajectory.from_action8(action, times)
    return GripperTrajectory.from_action7(action, times)


def write_trajectory(
    path: str | Path, trajectory: GripperTrajectory, extra: Mapping[str, NDArray[Any]] | None = None
) -> None:
    """Write a trajectory as ``.csv``, ``.npz``, ``.npy`` (action_8d) or ``.json``; `read_trajectory` reads it back.

    Args:
        path: Where to; the ending names the kind.
        trajectory: Missing poses become empty cells, NaN or null.
        extra: More arrays with one row a frame. A CSV takes those of shape ``(T,)``, an NPY none.

    Raises:
        WrongFormatError: The ending is none of these.
    """
    path = Path(path)
    extra = dict(extra or {})
    suffix = path.suffix.lower()
    own = {
        "position": trajectory.position,
        "quaternion_xyzw": trajectory.quaternion_xyzw,
        "openness": trajectory.openness,
        "times": trajectory.times,
    }
    if suffix == ".npy":
        np.save(path, trajectory.to_action8())
    elif suffix == ".npz":
        np.savez(path, **own, **{k: np.asarray(v) for k, v in extra.items()})  # type: ignore[arg-type]
    elif suffix == ".json":
        content = {k: _jsonable(np.asarray(v).tolist()) for k, v in {**own, **extra}.items()}
        path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    elif suffix == ".csv":
        flat = {k: np.asarray(v) for k, v in extra.items() if np.asarray(v).ndim == 1}
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["time_s", *ACTION8_COLUMNS, *flat])
            action = trajectory.to_action8()
            for i, time in enumerate(trajectory.times):
                cells = ["" if math.isnan(v) else repr(float(v)) for v in action[i]]
                writer.writerow([repr(float(time)), *cells, *(_cell(column[i]) for column in flat.values())])
    else:
        raise WrongFormatError(
            "unknown kind of trajectory file",
            where=path,
            expected=" ".join(SUFFIXES),
            found=suffix or "no ending",
        )


def _cell(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return "" if math.isnan(value) else repr(float(value))
    return str(value)


def _jsonable(value: Any) -> Any:
    """Nested lists with NaN as null, which JSON can hold."""
    if isinstance(value, list):
        return [_jsonable(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

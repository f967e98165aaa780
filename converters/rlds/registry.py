"""Which entry of the registry a data set has, and what the user chose where the entry leaves something open."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from ...cameras.transforms import TRANSFORM_FORMS, parse_transform, transform_matrix
from ...errors import AmbiguousSourceError, InvalidSpecError, UnsupportedSourceError, WrongFormatError
from ...schemas import rlds_registry as models
from ...schemas.camera_file import CameraEntry, PoseParts
from ...schemas.mapping import PoseMatrix, Position, Rotation
from ...schemas.rlds_registry import CHOOSABLE, RldsEntry
from ..kit.entries import load, shipped
from .reader import STEPS, RLDSDataset

FloatArray = NDArray[np.float64]
_COLUMN = re.compile(r"(?P<key>.*?)(?:\[(?P<start>\d+)(?::(?P<stop>\d+))?\])?\Z", re.S)


def feature_key(key: str) -> str:
    """The flat key that an entry's ``KEY`` means: below ``steps``, or from the top where it begins with "/"."""
    return key[1:] if key.startswith("/") else f"{STEPS}/{key}"


def column(reference: str) -> tuple[str, slice | None]:
    """Flat key and range of a column as entries write it: ``KEY``, ``KEY[3]`` or ``KEY[0:3]``."""
    match = _COLUMN.match(reference)
    if match is None or match["start"] is None:
        return feature_key(reference), None
    start = int(match["start"])
    return feature_key(match["key"]), slice(start, int(match["stop"]) if match["stop"] else start + 1)


def find(dataset: RLDSDataset, config: Path | None) -> tuple[str, RldsEntry]:
    """The data set's entry and where it comes from: the user's file, or the registry.

    Raises:
        UnsupportedSourceError: No entry has this name, and no file was given.
        WrongFormatError: The entry names features that the data set does not have.
    """
    if config is not None:
        entry = load(config)
        _check_required(entry, dataset, str(config))
        return str(config), entry
    named = {n: e for n, e in shipped().items() if any(fnmatch.fnmatchcase(dataset.name, p) for p in e.names)}
    fitting = {n: e for n, e in named.items() if not _missing(e, dataset)}
    if fitting:
        name = sorted(fitting, key=lambda n: (-len(fitting[n].requires), n))[0]
        return name, fitting[name]
    if named:
        name, entry = next(iter(named.items()))
        _check_required(entry, dataset, f"registry entry {name}")
    raise UnsupportedSourceError(
        "the registry does not know this data set",
        where=dataset.path,
        field="name",
        expected=" | ".join(shipped()),
        found=dataset.name,
        hint="Write an entry of the same shape and give it with --config: docs/rlds.md has an example, and "
        "`actionimg inspect` prints the features.",
    )


def _missing(entry: RldsEntry, dataset: RLDSDataset) -> list[str]:
    return [k for k in entry.requires if feature_key(k) not in dataset.leaves]


def _check_required(entry: RldsEntry, dataset: RLDSDataset, where: str) -> None:
    missing = _missing(entry, dataset)
    if missing:
        raise WrongFormatError(
            f"{where} names features that the data set does not have",
            where=dataset.path,
            field=feature_key(missing[0]),
            expected=" | ".join(entry.requires),
            found=", ".join(k for k in dataset.leaves if k.startswith(STEPS))[:200],
            hint="Is it another version of the data set? Give an entry for it with --config.",
        )


def choose(entry: RldsEntry, choices: tuple[str, ...], where: object) -> RldsEntry:
    """The entry with the user's choices made.

    Args:
        entry: With its disagreements.
        choices: ``SECTION=NAME`` each.
        where: For errors.

    Raises:
        InvalidSpecError: A choice that the entry does not offer.
    """
    for text in choices:
        section, equals, name = text.partition("=")
        disagreement = entry.disagreements.get(section)  # type: ignore[call-overload]
        if not equals or disagreement is None or name not in disagreement.options:
            offered = [f"{s}={o}" for s, d in entry.disagreements.items() for o in d.options]
            raise InvalidSpecError(
                "is no choice of this data set",
                where=where,
                field="choose",
                expected=" | ".join(offered) or "none: sources agree",
                found=text,
            )
        entry = entry.chosen(section, disagreement.options[name])
    return entry


def check_choices(entry: RldsEntry, section: str, where: object) -> None:
    """Whether sources still disagree about a section of the entry (`AmbiguousSourceError`, which lists the sides)."""
    disagreement = entry.disagreements.get(section)  # type: ignore[call-overload]
    if disagreement is None:
        return
    sides = "; ".join(f"{n}: {o.says} ({o.url})" for n, o in disagreement.options.items())
    raise AmbiguousSourceError(
        f"sources disagree about the {section.replace('_', ' ')}: {disagreement.why} {sides}",
        where=where,
        hint=f"Choose with --choose {section}={next(iter(disagreement.options))} (or another side).",
    )


def with_joints(
    entry: RldsEntry, robot: str | None, tip: str | None, base: str | None, joints: str | None, where: object
) -> RldsEntry:
    """The entry with its pose given by joints through the user's robot file, where one is given.

    What the entry says of the reported frame (``tool_from_gripper``) does not hold for another one, and is dropped.

    Raises:
        InvalidSpecError: A part is missing.
    """
    if robot is None:
        if tip is not None or base is not None or joints is not None:
            raise InvalidSpecError("needs a robot file", where=where, field="robot", expected="--robot FILE --tip NAME")
        return entry
    known = entry.pose.joints if entry.pose is not None and entry.pose.joints is not None else entry.joints
    columns = (joints,) if joints is not None else known.columns if known is not None else None
    if tip is None or columns is None:
        raise InvalidSpecError(
            "says neither which feature holds the joints nor which frame is the hand's",
            where=where,
            field="tip" if tip is None else "joints",
            expected="--robot FILE --tip NAME --joints FEATURE, e.g. observation/joint_position",
        )
    pose = models.RldsPose(
        joints=models.RldsJoints(
            columns=columns,
            names=known.names if known is not None else (),
            unit=known.unit if known is not None else "rad",
            robot=str(Path(robot).absolute()),
            base=base,
            tip=tip,
        ),
        frame=f"{base or 'root'} of {Path(robot).name}",
    )
    rest = {k: v for k, v in entry.disagreements.items() if k not in ("pose", "tool_from_gripper")}
    unstated = {k: v for k, v in entry.unstated.items() if k != "pose"}
    changes = {"pose": pose, "tool_from_gripper": None, "disagreements": rest, "unstated": unstated}
    return entry.model_copy(update=changes)


def check_pose(entry: RldsEntry, where: object) -> None:
    """Whether there is anything that poses could come from.

    Raises:
        UnsupportedSourceError: The data set is video only.
        AmbiguousSourceError: It holds joints, and no robot file was given.
    """
    check_choices(entry, "pose", where)
    if entry.pose is not None:
        return
    if entry.joints is None:
        raise UnsupportedSourceError(
            f"{entry.unstated.get('pose', 'has no pose')}: it is video only",
            where=where,
            field="pose",
            hint="Action images need the pose of the hand. Take pictures and words alone with --videos-only; where "
            "your copy holds a pose, say so in an entry: --config.",
        )
    raise AmbiguousSourceError(
        "holds joint values and no poses",
        where=where,
        field=", ".join(entry.joints.columns),
        hint="Give the robot's URDF or MJCF file, and the link or site that is the hand: --robot FILE --tip NAME "
        "[--base NAME].",
    )


def tool_from_gripper(entry: RldsEntry, given: str | None, where: object) -> FloatArray:
    """The 4x4 that takes the canonical gripper frame to the reported one; the user's where given.

    Raises:
        InvalidSpecError: What the user gave is no transform.
        SourceNotFoundError: It names a file that does not exist.
        AmbiguousSourceError: Neither the entry nor the user says.
    """
    if given is not None:
        return parse_transform(given, "tool_from_gripper")
    check_choices(entry, "tool_from_gripper", where)
    if entry.tool_from_gripper is None:
        raise AmbiguousSourceError(
            "nobody states which frame of the hand the poses are of",
            where=where,
            field="tool_from_gripper",
            hint="Give the canonical gripper frame (origin between the fingertips, +z approach, fingers open along +-y)"
            f" in the reported one with --tool-from-gripper: {TRANSFORM_FORMS}.",
        )
    return transform_matrix(entry.tool_from_gripper)


# -- documentation ---------------------------------------------------------------------------------------------------

DOCUMENTED = (
    models.RldsEntry,
    models.RldsView,
    models.RldsPose,
    models.JointColumns,
    models.RldsJoints,
    Position,
    Rotation,
    PoseMatrix,
    PoseParts,
    models.RldsGripper,
    models.RldsInstruction,
    models.RldsCalibration,
    models.FeatureCamera,
    models.DroidFiles,
    models.Disagreement,
    models.Option,
    models.Source,
    models.RldsCameraFile,
    CameraEntry,
)
"""Models that `explain` documents, field by field."""


# Fields that the registry shares with mapping and camera files, where they need no words beside their model's.
_SHARED = {
    ("Position", "unit"): "of the three numbers",
    ("Rotation", "columns"): "as many numbers as the form needs",
    ("Rotation", "form"): "what the numbers are",
    ("PoseMatrix", "columns"): "16 numbers",
    ("PoseMatrix", "order"): "row: the matrix row by row; column: column by column, as libfranka's O_T_EE",
    ("PoseMatrix", "unit"): "of the translation",
    ("PoseParts", "quaternion_xyzw"): "a unit quaternion, x y z w",
    ("CameraEntry", "height"): "of the pictures that K is for",
    ("CameraEntry", "distortion"): "of the lens; pictures are undistorted",
}


def _type_name(annotation: Any) -> str:
    """A type in words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(args[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_type_name(a) for a in args if a is not type(None)))
    if origin is Literal:
        return " or ".join(f"`{a}`" for a in args)
    if origin is tuple and args[-1] is Ellipsis:
        return f"list of {_type_name(args[0])}"
    if origin is tuple:
        inner = get_args(args[0])
        return f"{len(args)}x{len(inner)} matrix" if inner else f"{len(args)} numbers"
    if origin is dict:
        return f"{_type_name(args[1])} by name"
    names = {"str": "text", "float": "number", "int": "whole number", "bool": "yes or no", "Any": "anything"}
    return names.get(annotation.__name__, str(annotation.__name__).removeprefix("Rlds"))


def _fields(model: type[BaseModel]) -> str:
    lines = ["| field | type | needed | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        needed = "yes" if field.is_required() else ""
        meaning = (field.description or _SHARED[model.__name__, name]).replace("|", "\\|")
        lines.append(f"| `{name}` | {_type_name(field.annotation)} | {needed} | {meaning} |")
    return "\n".join(lines)


def pose_in_words(entry: RldsEntry) -> str:
    """What the data set says of the hand's pose, in a few words."""
    if entry.video_only:
        return "none: video only"
    if entry.pose is None:
        return "to be chosen" if "pose" in entry.disagreements else "joints"
    if entry.pose.rotation is None:
        return "joints" if entry.pose.joints is not None else "4x4 matrix"
    rotation = entry.pose.rotation
    form = " ".join(part for part in (rotation.form.replace("_", " "), rotation.order) if part)
    return f"position, {form}{', turned' if entry.pose.rotation_offset is not None else ''}"


def gripper_in_words(entry: RldsEntry) -> str:
    """Where the gripper's opening comes from, and its values for closed and open, in a few words."""
    gripper = entry.gripper
    if gripper is None:
        return "none" if "gripper" in entry.unstated or entry.video_only else "to be chosen"
    measured = all(c.startswith("observation/") for c in gripper.columns)
    kind = "relative command" if gripper.kind == "relative" else "measured" if measured else "command"
    return f"{kind}, {gripper.closed:g} closed, {gripper.open:g} open"


def asked(entry: RldsEntry) -> tuple[str, ...]:
    """The options that the entry leaves to the user, cameras aside."""
    if entry.video_only:
        return ("--videos-only",)
    out = [f"--choose {s}={'/'.join(d.options)}" for s, d in entry.disagreements.items()]
    if entry.pose is None and "pose" not in entry.disagreements:
        out.append("--robot FILE --tip NAME")
    if "gripper" in entry.unstated:
        out.append("--openness")
    if entry.tool_from_gripper is None and "tool_from_gripper" not in entry.disagreements:
        out.append("--tool-from-gripper")
    if entry.fps is None:
        out.append("--fps")
    return tuple(out)


_CALIBRATION = {"none": "none published", "features": "in the data set", "droid": "side files"}


def table() -> str:
    """All entries as a Markdown table: pose, gripper, cameras, what is asked, and where that was read."""
    lines = ["| data set | views | pose | gripper | cameras | asked | sources |", "|---|---|---|---|---|---|---|"]
    for name, entry in shipped().items():
        urls = [s.url for found in entry.sources.values() for s in found]
        urls += [o.url for d in entry.disagreements.values() for o in d.options.values()]
        cells = (
            f"`{name}`",
            str(len(entry.views)),
            pose_in_words(entry),
            gripper_in_words(entry),
            _CALIBRATION[entry.calibration.kind],
            "; ".join(f"`{option}`" for option in asked(entry)) or "–",
            " ".join(f"[{i}]({url})" for i, url in enumerate(dict.fromkeys(urls), start=1)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def explain() -> str:
    """The registry as Markdown: every field of an entry, and what each data set's entry says."""
    parts = [
        (models.__doc__ or "").strip(),
        f"Sections that sources may disagree about: {', '.join(CHOOSABLE)}.",
    ]
    for model in DOCUMENTED:
        title = re.sub(r"^Rlds", "", model.__name__)
        parts += [f"### {title}", (model.__doc__ or "").strip().split("\n")[0], _fields(model)]
    parts += ["### Data sets", table()]
    for name, entry in shipped().items():
        facts = [(section, s) for section, found in entry.sources.items() for s in found]
        urls = "\n".join(f"- {section}: {s.url}{f' ({s.says})' if s.says else ''}" for section, s in facts)
        parts.append(f"**{name}** {entry.robot}. {entry.notes}\n\n{urls}")
    return "\n\n".join(parts)

"""Rigid transforms as users write them: in a file, in an option, in a mapping or a camera file.

Every place where a transform is given takes the same forms, through `parse_transform` (text) or `transform_matrix`
(values that were parsed already).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from ..errors import BadFileError, InvalidSpecError
from ..geometry import rotations, transforms
from ..schemas.camera_file import PoseParts, Transform
from ..untrusted.text import load_any, parse_yaml

FloatArray = NDArray[np.float64]

TRANSFORM_FORMS: Final = (
    "a YAML or JSON file, '{translation: [x, y, z], euler_xyz_deg: [r, p, y]}', identity, "
    "'x y z qx qy qz qw', or 16 numbers row by row"
)
"""What `parse_transform` takes, in words, for the help of options."""

_WRITTEN_TOLERANCE = 2e-3
_FILES = (".yaml", ".yml", ".json")


def transform_file(text: str | None) -> str | None:
    """The file that a transform is in; None for one that is written out, or none at all."""
    return text if text is not None and text.lower().endswith(_FILES) else None


def parse_transform(text: str, field: str) -> FloatArray:
    """The rigid ``(4, 4)`` transform that a text gives; lengths in metres.

    ``identity``; seven numbers x y z qx qy qz qw; sixteen numbers row by row; YAML of a 4x4 matrix or of parts
    (``{translation, quaternion_xyzw | euler_xyz_deg | rotation}``); or the name of a YAML or JSON file with either.
    Numbers may be separated by spaces or commas.

    Args:
        text: As the user wrote it.
        field: The option or field that it stands in, for errors.

    Raises:
        SourceNotFoundError: A file that does not exist.
        UnsafeFileError: YAML with tags, anchors or aliases.
        InvalidSpecError: It is none of these, or not rigid.
    """
    file = transform_file(text)
    where = "" if file is None else file
    if file is not None:
        value = load_any(Path(file))
    elif text.strip().startswith(("{", "[[")):
        try:
            value = parse_yaml(text, field)
        except BadFileError:
            raise _is_no_transform(text, field, where) from None
    else:
        value = text
    try:
        given: Any = TypeAdapter(Transform).validate_python(value)
    except ValidationError:
        raise _is_no_transform(text, field, where) from None
    try:
        return transform_matrix(given)
    except InvalidSpecError as error:
        raise error.at(f"{where}: {field}" if where else field) from None


def _is_no_transform(text: str, field: str, where: str) -> InvalidSpecError:
    return InvalidSpecError("is no transform", where=where or None, field=field, expected=TRANSFORM_FORMS, found=text)


def transform_matrix(value: Transform) -> FloatArray:
    """The rigid 4x4 matrix of a transform as users write it, with the rounding of a few digits removed.

    Raises:
        InvalidSpecError: It is not rigid.
    """
    matrix = _as_written(value)
    error = float(np.asarray(rotations.orthonormality_error(matrix[:3, :3])))
    if error > _WRITTEN_TOLERANCE or np.abs(matrix[3] - [0, 0, 0, 1]).max() > 0:
        raise InvalidSpecError(
            "is not a rigid transform",
            expected="a rotation and a translation, last row 0 0 0 1",
            found="a reflection" if error >= 2 else f"max |RᵀR − I| = {error:.3g}, last row {matrix[3].tolist()}",
        )
    matrix[:3, :3] = rotations.nearest_rotation(matrix[:3, :3])
    return matrix


def _as_written(value: Transform) -> FloatArray:
    if not isinstance(value, PoseParts):
        return np.array(value, dtype=np.float64)
    if value.quaternion_xyzw is not None:
        rotation = rotations.matrix_from_quaternion(np.asarray(value.quaternion_xyzw))
    elif value.euler_xyz_deg is not None:
        rotation = rotations.matrix_from_euler(np.deg2rad(np.asarray(value.euler_xyz_deg)))
    elif value.rotation is not None:
        rotation = np.asarray(value.rotation)
    else:
        rotation = np.eye(3)
    return np.array(transforms.make_transform(rotation, np.asarray(value.translation)))


def transform_from_xyz_euler(values: Any) -> FloatArray:
    """Transforms ``(..., 4, 4)`` of ``(..., 6)``: x y z in metres and extrinsic "xyz" Euler angles in radians."""
    v = np.asarray(values, dtype=np.float64)
    return np.asarray(transforms.make_transform(rotations.matrix_from_euler(v[..., 3:6]), v[..., :3]))

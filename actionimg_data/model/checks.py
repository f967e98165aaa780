"""Checks shared by the model's constructors; each returns a read-only float64 copy or view."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conventions import ROTATION_TOLERANCE
from ..errors import ActionImgError, InvalidCameraError
from ..geometry import rotations


def float_array(
    value: Any, shape: tuple[int | None, ...], field: str, error: type[ActionImgError], finite: bool = True
) -> NDArray[np.float64]:
    """``value`` as a read-only float64 array of ``shape`` (None for any length)."""
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise error("is not an array of numbers", field=field, found=type(value).__name__) from None
    text = "(" + ", ".join("N" if n is None else str(n) for n in shape) + (",)" if len(shape) == 1 else ")")
    if array.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True)):
        raise error("has the wrong shape", field=field, expected=text, found=str(array.shape))
    if finite and not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise error("has a value that is not finite", field=field, found=f"{array[where]} at {list(where)}")
    array.flags.writeable = False
    return array


def intrinsics(K: NDArray[np.float64]) -> None:
    """Refuse intrinsics ``(..., 3, 3)`` that no OpenCV pinhole camera has."""
    if not (K[..., 0, 0] > 0).all() or not (K[..., 1, 1] > 0).all():
        bad = K.reshape(-1, 3, 3)[np.argmin(np.minimum(K[..., 0, 0], K[..., 1, 1]).ravel())]
        raise InvalidCameraError(
            "focal lengths must be positive",
            field="K",
            expected="fx, fy > 0",
            found=f"fx={bad[0, 0]:g}, fy={bad[1, 1]:g}",
            hint="A source with negative focal lengths (CoppeliaSim) must be converted to OpenCV axes first.",
        )
    rest = np.stack([K[..., 1, 0], K[..., 2, 0], K[..., 2, 1], K[..., 2, 2] - 1], -1)
    if np.abs(rest).max(initial=0) > 1e-9:
        raise InvalidCameraError("is not upper triangular with a last row of 0 0 1", field="K", found=K.tolist())


def rigid(transform: NDArray[np.float64], field: str, error: type[ActionImgError]) -> NDArray[np.float64]:
    """Rigid transforms ``(..., 4, 4)`` with rounding removed from their rotations; anything else is refused."""
    if np.abs(transform[..., 3, :] - np.array([0.0, 0.0, 0.0, 1.0])).max(initial=0) > 1e-9:
        raise error("last row of a transform must be 0 0 0 1", field=field)
    # No entry of a rotation is over 1; squares of huge ones would overflow.
    deviation = np.asarray(rotations.orthonormality_error(np.clip(transform[..., :3, :3], -2, 2)))
    worst = float(deviation.max(initial=0))
    if worst > ROTATION_TOLERANCE:
        mirrored = 0 <= worst - 2 <= ROTATION_TOLERANCE
        handed = "a reflection" if mirrored else f"max |RᵀR − I| = {worst:.2g}"
        place = f" at frame {int(deviation.argmax())}" if transform.ndim > 2 else ""
        raise error("is not a rotation", field=field, expected=f"≤ {ROTATION_TOLERANCE:g}", found=handed + place)
    clean = transform.copy()
    clean[..., :3, :3] = rotations.nearest_rotation(transform[..., :3, :3])
    clean.flags.writeable = False
    return clean


def size(value: Any, field: str, error: type[ActionImgError]) -> int:
    """A picture's width or height: a whole number from 1 to 65536."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= 65536:
        raise error("must be a whole number of pixels", field=field, expected="1 … 65536", found=value)
    return int(value)

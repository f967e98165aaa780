"""What a data set stores of its gripper, drawn in characters: which way is open can be seen beside the pictures."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from ...errors import ActionImgError
from ...schemas.rlds_registry import RldsEntry, RldsGripper
from .motion import numbers
from .reader import STEPS, Record

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 48
_NAMES = re.compile(r"grip|clos|open", re.I)


def line(values: NDArray[np.float64], width: int = _WIDTH) -> str:
    """Values ``(T,)`` over time as bars from the least to the greatest, at most ``width`` of them."""
    if not np.isfinite(values).all():
        return "not finite"
    at = np.linspace(0, len(values) - 1, min(width, len(values))).round().astype(int)
    low, high = float(values.min()), float(values.max())
    heights = np.zeros(len(at)) if high == low else (values[at] - low) / (high - low)
    return "".join(_BARS[round(float(h) * (len(_BARS) - 1))] for h in heights) + f"  {low:g} … {high:g}"


def gripper_lines(record: Record, entry: RldsEntry | None) -> dict[str, str]:
    """For each signal that may be the gripper's, how it goes over the episode; the entry's own come first."""
    columns: dict[str, None] = {}
    if entry is not None:
        sides = [entry.gripper] if entry.gripper is not None else []
        if "gripper" in entry.disagreements:
            options = entry.disagreements["gripper"].options.values()
            sides += [RldsGripper.model_validate(option.value) for option in options]
        columns.update(dict.fromkeys(c for side in sides for c in side.columns))
    for key, stored in record.leaves.items():
        name = key.removeprefix(f"{STEPS}/")
        size = int(np.prod([n or 0 for n in stored.leaf.shape]))
        if not stored.in_steps or stored.leaf.kind != "tensor":
            continue
        if _NAMES.search(name) and size <= 2:
            columns.setdefault(f"{name}[0]" if stored.leaf.shape else name)
        elif name == "action" and 7 <= size <= 8:
            columns.setdefault("action[6]")
    out: dict[str, str] = {}
    for column in columns:
        plain = column.removesuffix("[0]")
        if plain in out:
            continue
        try:
            out[plain] = line(numbers(record, (column,), None)[:, 0])
        except ActionImgError as error:
            out[plain] = error.message
    return out

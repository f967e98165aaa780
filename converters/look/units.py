"""What the names of columns say: units, and which three of them are a place or a turn."""

from __future__ import annotations

import re
from collections.abc import Sequence

_UNITS = {
    "m": "m",
    "meter": "m",
    "meters": "m",
    "metre": "m",
    "metres": "m",
    "cm": "cm",
    "mm": "mm",
    "deg": "deg",
    "degree": "deg",
    "degrees": "deg",
    "°": "deg",
    "rad": "rad",
    "radian": "rad",
    "radians": "rad",
    "s": "s",
    "sec": "s",
    "seconds": "s",
    "ms": "ms",
    "us": "us",
    "µs": "us",
    "ns": "ns",
    "nsec": "ns",
}
LENGTHS, ANGLES, TIMES = ("m", "cm", "mm"), ("rad", "deg"), ("s", "ms", "us", "ns")
_BRACKETED = re.compile(r"^(?P<stem>.*?)[\s_]*[(\[{](?P<unit>[^)\]}]*)[)\]}]\s*$")
_SUFFIXED = re.compile(r"^(?P<stem>.+)[_ .](?P<unit>[a-zµ°]+)$", re.IGNORECASE)
_EPOCHS = {"s": 1e9, "ms": 1e12, "us": 1e15, "ns": 1e18}
_TURNS = (("roll", "pitch", "yaw"), ("rx", "ry", "rz"), ("rot_x", "rot_y", "rot_z"), ("euler_x", "euler_y", "euler_z"))


def split_unit(name: str) -> tuple[str, str | None]:
    """A column's name without its unit, and the unit: ``TCP_X (mm)``, ``robot_time [ns]``, ``x_m``."""
    for pattern in (_BRACKETED, _SUFFIXED):
        match = pattern.match(name)
        if match and (unit := _UNITS.get(match["unit"].strip().lower())):
            return match["stem"].strip(), unit
    return name, None


def common_unit(names: Sequence[str], kinds: Sequence[str]) -> str | None:
    """The one unit of these kinds that all names state."""
    units = {split_unit(name)[1] for name in names}
    return units.pop() if len(units) == 1 and next(iter(units)) in kinds else None


def place_of(names: Sequence[str]) -> list[str] | None:
    """Three columns that are called x, y and z of one thing, whatever stands around the letters."""
    stems = {name: split_unit(name)[0].lower() for name in names}
    for name, stem in stems.items():
        match = re.search(r"(^|[._/ ])x$", stem)
        if match is None:
            continue
        wanted = [f"{stem[:-1]}{axis}" for axis in "xyz"]
        unit = split_unit(name)[1]
        triple = [next((n for n, s in stems.items() if s == w and split_unit(n)[1] == unit), None) for w in wanted]
        if all(triple):
            return [str(n) for n in triple]
    return None


def turn_of(names: Sequence[str]) -> tuple[list[str], str] | None:
    """Three columns of angles, in order, and how they are called: ``rpy`` for roll, pitch and yaw, else ``xyz``."""
    stems = {name: split_unit(name)[0].lower() for name in names}
    for words in _TURNS:
        found = [next((n for n, s in stems.items() if re.search(rf"(^|[._/ ]){w}$", s)), None) for w in words]
        if all(found):
            return [str(n) for n in found], "rpy" if words[0] == "roll" else "xyz"
    return None


def time_unit(name: str, low: float | None) -> tuple[str | None, str]:
    """The unit of a column of stamps and why it is known: its name says it, or seconds since 1970 have that size."""
    unit = split_unit(name)[1]
    if unit in TIMES:
        return unit, "as its name says"
    if low is not None:
        for known, size in _EPOCHS.items():
            if 0.9 * size < low < 4 * size:
                return known, "as the size of seconds since 1970 says"
    return None, ""


_COMMON = frozenset(
    {
        *("image", "images", "raw", "compressed", "color", "colour", "rgb", "rect", "camera", "cam"),
        *("image_raw", "image_color", "image_rect", "video", "h264"),
    }
)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Short names for views, ``[a-z0-9_-]+``: ``/front/image/compressed`` becomes ``front``; all differ."""
    found: dict[str, str] = {}
    for name in names:
        words = [w for w in re.split(r"[^a-z0-9_-]+", name.lower()) if w] or ["camera"]
        own = [w for w in words if w not in _COMMON] or words
        tries = [*("_".join(own[-count:]) for count in range(1, len(own) + 1)), "_".join(words)]
        found[name] = next((t for t in tries if t not in found.values()), f"{tries[-1]}_{len(found)}")
    return found

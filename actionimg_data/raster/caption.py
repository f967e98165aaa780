"""Words in pictures: shortened in the middle until they fit."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_CUT: Final = ".."
_AROUND: Final = tuple((x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y)


def width_of(text: str, size: float) -> int:
    """Width in pixels that ``text`` takes at a font scale of ``size``."""
    return int(cv2.getTextSize(text, _FONT, size, 1)[0][0])


def fitted(text: str, room: float, size: float) -> str:
    """``text``, or its beginning and its end with dots between them, so that it takes at most ``room`` pixels.

    Names that differ mostly do so at one of their ends.
    """
    if width_of(text, size) <= room:
        return text
    for letters in range(len(text) - 1, 0, -1):
        left, right = (letters + 1) // 2, letters // 2
        short = text[:left] + _CUT + (text[-right:] if right else "")
        if width_of(short, size) <= room:
            return short
    return ""


def write(
    picture: Image,
    text: str,
    at: tuple[int, int],
    size: float,
    colour: tuple[int, int, int],
    room: float | None = None,
    halo: tuple[int, int, int] | None = None,
) -> None:
    """Write ``text`` into ``picture``, in place.

    Args:
        picture: ``(H, W, 3)`` uint8.
        text: What; letters that the font has not are question marks.
        at: ``(x, y)`` of the lower left corner.
        size: Scale of the font; 0.4 is some 9 pixels high.
        colour: Of the letters.
        room: Pixels it may take; None for what is left of the picture.
        halo: Colour of a line around the letters, for pictures of any brightness.
    """
    plain = text.encode("ascii", "replace").decode()
    plain = fitted(plain, picture.shape[1] - at[0] if room is None else room, size)
    if halo is not None:
        # Not a thicker pen: with OpenCV 5 that makes bold letters, which are wider and lie elsewhere.
        for dx, dy in _AROUND:
            cv2.putText(picture, plain, (at[0] + dx, at[1] + dy), _FONT, size, halo, 1, cv2.LINE_AA)
    cv2.putText(picture, plain, at, _FONT, size, colour, 1, cv2.LINE_AA)

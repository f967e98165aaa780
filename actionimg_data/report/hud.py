"""The strip below a frame of an overlay video: when it is, how open the gripper is, and what of it the view shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..model import GripperTrajectory
from ..raster import caption

Image = NDArray[np.uint8]
FloatArray = NDArray[np.float64]

INSIDE: Final = 2
OUTSIDE: Final = 1
HIDDEN: Final = 0
"""Of a keypoint in a view: inside the picture, outside it, or behind the camera (or its pose not known)."""

_LETTERS: Final = 0.37
_INK, _PAPER, _GREY, _RULE = (20, 21, 25), (244, 244, 242), (150, 153, 160), (58, 60, 68)
_OPEN: Final = (94, 160, 235)
_ERROR: Final = (255, 160, 40)
_DOTS: Final = ((238, 70, 66), (64, 196, 96), (92, 128, 255))
_BAND: Final = {3: (64, 170, 100), 2: (222, 170, 60), 1: (222, 170, 60), 0: (150, 58, 58)}


@dataclass(frozen=True)
class Lane:
    """What the strip shows of one gripper.

    Attributes:
        name: Its name; empty where there is only one.
        openness: ``(T,)`` in [0, 1], NaN where not known.
        state: ``(T, 3)`` `INSIDE`, `OUTSIDE` or `HIDDEN` of each keypoint.
    """

    name: str
    openness: FloatArray
    state: NDArray[np.uint8]


def states(uv: FloatArray, valid: NDArray[np.bool_], height: int, width: int) -> NDArray[np.uint8]:
    """``(T, 3)`` state of keypoints at ``uv (T, 3, 2)`` that are in front of the camera where ``valid (T, 3)``."""
    inside = ((uv >= 0) & (uv <= [width - 1, height - 1])).all(axis=-1)
    return np.where(valid, np.where(inside, INSIDE, OUTSIDE), HIDDEN).astype(np.uint8)


def lanes(
    grippers: Mapping[str, GripperTrajectory],
    projected: Mapping[str, tuple[FloatArray, NDArray[np.bool_]]],
    height: int,
    width: int,
) -> list[Lane]:
    """A lane for each gripper, of its keypoints' ``uv (T, 3, 2)`` and ``valid (T, 3)`` in one view."""
    return [
        Lane(name, np.asarray(trajectory.openness), states(*projected[name], height, width))
        for name, trajectory in grippers.items()
    ]


class Strip:
    """Draws the strip of each frame of one view.

    Args:
        width: Its width in pixels.
        size: The shorter side of the frames' pictures: letters and lines grow with it.
        title: What is on the left, e.g. the view's name.
        times: ``(T,)`` seconds.
        lanes: One of each gripper.
        error_mm: ``(T,)`` distance between recorded and decoded position where there is one, NaN elsewhere; it gets a
            curve of its own.
    """

    def __init__(
        self,
        width: int,
        size: int,
        title: str,
        times: FloatArray,
        lanes: list[Lane],
        error_mm: FloatArray | None = None,
    ) -> None:
        self._unit = unit = max(1.0, size / 256)
        self._title, self._times, self._lanes, self._error = title, times - times[0], lanes, error_mm
        self._width = width
        self._head = round(19 * unit)
        self._row = round(25 * unit)
        rows = len(lanes) + (error_mm is not None)
        # H.264 needs even sizes.
        self.height = (self._head + rows * self._row + round(3 * unit)) // 2 * 2
        self._left = round(50 * unit)
        self._right = width - round(20 * unit)
        self._dim, self._bright = self._background(0.42), self._background(1.0)

    def draw(self, frame: int) -> Image:
        """``(height, width, 3)`` uint8 RGB of a frame."""
        unit, x = self._unit, self._x(frame)
        picture = self._dim.copy()
        picture[:, :x] = self._bright[:, :x]
        dots = self._right + round(9 * unit)
        start = round(10 * unit)
        # The marks of the keypoints stand at the right end of the same line.
        room = dots - round(len(self._lanes) * 42 * unit) - start
        self._text(picture, self._headline(frame, room), start, round(13 * unit), _PAPER, room)
        for number, lane in enumerate(self._lanes):
            top, bottom = self._span(number)
            self._keypoints(picture, lane.state[frame], dots - round((len(self._lanes) - 1 - number) * 42 * unit))
            value = lane.openness[frame]
            bar = (self._right + round(6 * unit), self._right + round(13 * unit))
            cv2.rectangle(picture, (bar[0], top), (bar[1], bottom), _RULE, -1)
            if np.isfinite(value):
                cv2.rectangle(
                    picture, (bar[0], bottom - round((bottom - top) * float(value))), (bar[1], bottom), _OPEN, -1
                )
        thick = max(1, round(1.4 * unit))
        cv2.line(picture, (x, self._head), (x, self.height - round(3 * unit)), _PAPER, thick)
        return picture

    def _headline(self, frame: int, room: int) -> str:
        text = f"   {frame}/{len(self._times) - 1}   {self._times[frame]:.2f} s"
        if self._error is not None:
            here = self._error[frame]
            text += f"   {here:.2f} mm" if np.isfinite(here) else "   not decoded"
        size = _LETTERS * self._unit
        return caption.fitted(self._title, room - caption.width_of(text, size), size) + text

    def _x(self, frame: int) -> int:
        end = float(self._times[-1]) or 1.0
        return self._left + round((self._right - self._left) * float(self._times[frame]) / end)

    def _span(self, row: int) -> tuple[int, int]:
        """Upper and lower end of a row's curve."""
        top = self._head + row * self._row
        return top + round(2 * self._unit), top + self._row - round(8 * self._unit)

    def _text(
        self, picture: Image, text: str, x: int, y: int, colour: tuple[int, int, int], room: int, size: float = _LETTERS
    ) -> None:
        caption.write(picture, text, (x, y), size * self._unit, colour, room)

    def _keypoints(self, picture: Image, state: NDArray[np.uint8], right: int) -> None:
        """Three marks that end at ``right``: a disc inside the picture, a ring outside, a cross where hidden."""
        unit = self._unit
        y, radius = round(9 * unit), round(3.4 * unit)
        for i, colour in enumerate(_DOTS):
            x = right - round((2 - i) * 12 * unit)
            if state[i] == INSIDE:
                cv2.circle(picture, (x, y), radius, colour, -1, cv2.LINE_AA)
            elif state[i] == OUTSIDE:
                cv2.circle(picture, (x, y), radius, colour, max(1, round(unit)), cv2.LINE_AA)
            else:
                for a, b in ((-1, -1), (-1, 1)):
                    end = (x - a * radius * 2 // 3, y - b * radius * 2 // 3)
                    cv2.line(picture, (x + a * radius * 2 // 3, y + b * radius * 2 // 3), end, _GREY, 1, cv2.LINE_AA)

    def _background(self, strength: float) -> Image:
        """All that does not change from frame to frame, at a strength of its colours."""
        picture = np.full((self.height, self._width, 3), _INK, np.uint8)
        frames = np.array([self._x(i) for i in range(len(self._times))])
        for number, lane in enumerate(self._lanes):
            top, bottom = self._span(number)
            self._label(picture, lane.name or "openness", bottom)
            self._curve(picture, frames, lane.openness, top, bottom, _OPEN, strength)
            self._band(picture, frames, lane.state, bottom + round(2 * self._unit), strength)
        if self._error is not None:
            top, bottom = self._span(len(self._lanes))
            worst = float(np.nanmax(self._error)) if np.isfinite(self._error).any() else 0.0
            self._label(picture, f"{worst:.2f} mm", bottom)
            self._curve(picture, frames, self._error / max(worst, 1e-9), top, bottom, _ERROR, strength)
        return picture

    def _label(self, picture: Image, text: str, y: int) -> None:
        if text:
            start = round(8 * self._unit)
            self._text(picture, text, start, y, _GREY, self._left - start, 0.27)

    def _curve(
        self,
        picture: Image,
        x: NDArray[np.intp],
        values: FloatArray,
        top: int,
        bottom: int,
        colour: tuple[int, int, int],
        strength: float,
    ) -> None:
        """A filled curve of values in [0, 1], with gaps where they are not known."""
        shade = tuple(round(i + (c - i) * strength) for c, i in zip(colour, _INK, strict=True))
        soft = tuple(round(i + (c - i) * 0.4 * strength) for c, i in zip(colour, _INK, strict=True))
        known = np.isfinite(values)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
        for a, b in zip(edges[::2], edges[1::2], strict=True):
            y = bottom - np.round((bottom - top) * values[a:b]).astype(np.intp)
            line = np.stack([x[a:b], y], axis=1).astype(np.int32)
            ground = np.array([[x[b - 1], bottom], [x[a], bottom]], np.int32)
            cv2.fillPoly(picture, [np.concatenate([line, ground])], soft)
            cv2.polylines(picture, [line], False, shade, max(1, round(self._unit)), cv2.LINE_AA)

    def _band(self, picture: Image, x: NDArray[np.intp], state: NDArray[np.uint8], y: int, strength: float) -> None:
        """A coloured band: three keypoints inside, some, or none."""
        seen = (state == INSIDE).sum(axis=1)
        thick = max(2, round(3 * self._unit))
        ends = np.concatenate([x[:1], (x[1:] + x[:-1]) // 2, [x[-1] + 1]])
        for i, count in enumerate(seen.tolist()):
            colour = [round(g + (c - g) * strength) for c, g in zip(_BAND[count], _INK, strict=True)]
            picture[y : y + thick, ends[i] : max(ends[i + 1], ends[i] + 1)] = colour

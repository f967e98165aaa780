"""Pictures that go on without news, watched while they pass from the source to the encoder.

A picture is looked at on a grid of points, so that watching costs a small part of what its encoding does, and only one
such grid a view is kept. What is compared is not one picture with the next, from which a slow gripper may hardly
differ, but each with the first of those that look like it: a run ends where one differs, and while it lasts the
gripper, as the camera has it, must not have moved in the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..geometry import rotations
from ..model import CameraTrack, Episode
from ..schemas.plausibility import Finding, Limits
from . import motion, sight

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]

_GRID = 128
_LEVELS = 6
_SAME = 0.001
_UNIFORM = 2
_MIN_RUN = 3
_MOVES = 0.004
_MIN_PAIRS = 8
_NEWS = 0.002
_TURN_RAD = 0.1


class PictureWatch:
    """What the pictures of one view show over time.

    Args:
        episode: As it is converted: pictures, poses and cameras belong together.
        view: Name of the view.
        limits: What is plausible.
    """

    def __init__(self, episode: Episode, view: str, limits: Limits) -> None:
        self.episode, self.view, self.limits = episode, view, limits
        self._anchor: Image | None = None
        self._last: Image | None = None
        self._start = 0
        self._runs: list[tuple[int, int]] = []
        self._count = 0
        self._changed: list[float] = []
        self._repeats: list[bool] = []
        self._uniform: list[bool] = []

    def watched(self, pictures: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """The same pictures, looked at as they pass."""
        for picture in pictures:
            self.see(picture)
            yield picture

    def see(self, picture: NDArray[Any]) -> None:
        """The next picture ``(H, W, 3)`` uint8."""
        height, width = picture.shape[:2]
        rows, columns = max(1, height // _GRID), max(1, width // _GRID)
        # One channel will do: what moves changes green.
        grid = np.ascontiguousarray(picture[rows // 2 :: rows, columns // 2 :: columns, 1])
        self._uniform.append(int(grid.max()) - int(grid.min()) <= _UNIFORM and _flat(picture))
        if self._last is None or self._anchor is None:
            self._anchor = grid
        else:
            step = cv2.absdiff(grid, self._last)
            self._repeats.append(not step.any())
            self._changed.append(float((step > _LEVELS).mean()))
            if float((cv2.absdiff(grid, self._anchor) > _LEVELS).mean()) > _SAME:
                self._runs.append((self._start, self._count - 1))
                self._start, self._anchor = self._count, grid
        self._last = grid
        self._count += 1

    def findings(self) -> list[Finding]:
        """What cannot be true of the pictures that have passed."""
        if self._count < 2:
            return []
        return [
            Finding(kind=k, episode=self.episode.id, stream=self.view, rows=rows, found=found, expected=expected)
            for k, rows, found, expected in self._found()
        ]

    def _found(self) -> Iterator[motion.Found]:
        runs = [*self._runs, (self._start, self._count - 1)]
        uniform = np.asarray(self._uniform)
        if uniform.all():
            yield "blank-pictures", (0, self._count - 1), "every picture is of one colour", "pictures of something"
            return
        for first, last in runs:
            if last - first + 1 < _MIN_RUN:
                continue
            moved, unit, limit = self._moved(first, last)
            if moved > limit:
                what = "blank-pictures" if uniform[first : last + 1].all() else "frozen-pictures"
                same = "pictures of one colour" if what == "blank-pictures" else "pictures that do not change"
                text = f"{last - first + 1} {same} while the gripper moves by {moved:.2g} {unit}"
                yield what, (first, last), text, f"at most {limit:g}"  # type: ignore[misc]
        repeats = np.asarray(self._repeats)
        moves = self._moves()
        judged = int(moves.sum())
        if judged >= _MIN_PAIRS and repeats[moves].mean() > self.limits.repeated_share:
            rows = np.flatnonzero(repeats & moves)
            # A frozen stretch has been told of already.
            alone = [i for i in rows if not any(a < i + 1 <= b and b - a > 4 for a, b in runs)]
            if len(alone) > self.limits.repeated_share * judged:
                yield (
                    "frozen-pictures",
                    (int(rows[0]), int(rows[-1]) + 1),
                    f"{repeats[moves].mean():.0%} of the pictures repeat the one before, while the gripper moves",
                    f"at most {self.limits.repeated_share:.0%}",
                )
        yield from self._frozen_poses()

    def _pixels(self) -> tuple[FloatArray, NDArray[np.bool_]] | None:
        """Pixels ``(G, T, 2)`` of the grippers by a camera that stands still, as parts of the picture's width."""
        view = self.episode.views[self.view]
        if view.camera is None or isinstance(view.camera, CameraTrack):
            return None
        uv, inside = sight.pixels(view, sight.positions(self.episode))
        return uv / view.camera.width, inside

    def _moved(self, first: int, last: int) -> tuple[float, str, float]:
        """By how much the gripper moves in a run of pictures, its unit, and what is allowed."""
        projected = self._pixels()
        window = slice(first, last + 1)
        if projected is not None:
            uv, inside = projected
            moved = 0.0
            for g in range(len(uv)):
                seen = uv[g, window][inside[g, window]]
                if len(seen) >= 2:
                    moved = max(moved, float(np.linalg.norm(seen - seen[0], axis=-1).max()))
            return moved, "of the picture's width", self.limits.frozen_width
        camera = self.episode.views[self.view].camera
        if isinstance(camera, CameraTrack):
            place = camera.world_from_camera[window, :3, 3]
            turned = camera.world_from_camera[window, :3, :3]
            angle = np.asarray(rotations.angle_between(np.broadcast_to(turned[0], turned.shape), turned)).max()
            moved = float(np.linalg.norm(place - place[0], axis=-1).max())
            # A turn moves the picture as much as a shift does.
            return max(moved, float(angle) / _TURN_RAD * self.limits.frozen_m), "m", self.limits.frozen_m
        points = sight.positions(self.episode)[:, window]
        return float(np.nanmax(np.linalg.norm(points - points[:, :1], axis=-1))), "m", self.limits.frozen_m

    def _moves(self) -> NDArray[np.bool_]:
        """``(T - 1,)`` between which pictures the gripper moves so far that they have to differ."""
        projected = self._pixels()
        if projected is None:
            return np.zeros(self._count - 1, bool)
        uv, inside = (a[:, : self._count] for a in projected)
        step = np.linalg.norm(np.diff(uv, axis=1), axis=-1)
        return np.asarray(((step > _MOVES) & inside[:, 1:] & inside[:, :-1]).any(0))

    def _frozen_poses(self) -> Iterator[motion.Found]:
        if isinstance(self.episode.views[self.view].camera, CameraTrack):
            return
        changed = np.asarray(self._changed)
        frames = max(_MIN_RUN, int(np.ceil(self.limits.frozen_pose_s * self.episode.fps)))
        standing = [
            motion.frozen(
                t.position[: self._count], t.quaternion_xyzw[: self._count], t.openness[: self._count], frames
            )
            for t in self.episode.grippers.values()
        ]
        # Of several arms one may well stand still.
        together = standing[0] if len(standing) == 1 else []
        still = np.zeros(len(changed), bool)
        for first, last in together:
            still[first:last] = True
        moving = float(np.median(changed[~still])) if (~still).sum() >= _MIN_RUN else _NEWS
        for first, last in together:
            news = float(np.median(changed[first:last]))
            if news >= max(_NEWS, 0.5 * moving):
                yield (
                    "frozen-poses",
                    (first, last),
                    f"the same pose in {last - first + 1} frames ({(last - first) / self.episode.fps:.2g} s), "
                    f"while {news:.1%} of the picture change from each to the next",
                    f"at most {self.limits.frozen_pose_s:g} s, or pictures that stand still as well",
                )


def examine_pictures(episode: Episode, limits: Limits | None = None) -> list[Finding]:
    """What cannot be true of an episode's pictures; all of them are read.

    Raises:
        ActionImgError: A picture cannot be read.
    """
    found: list[Finding] = []
    for name, view in episode.views.items():
        watch = PictureWatch(episode, name, limits or Limits())
        for picture in view.frames.frames(range(len(episode))):
            watch.see(picture)
        found += watch.findings()
    return found


def _flat(picture: NDArray[Any]) -> bool:
    return bool((picture.max(axis=(0, 1)).astype(int) - picture.min(axis=(0, 1)) <= _UNIFORM).all())

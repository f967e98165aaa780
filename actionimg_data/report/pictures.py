"""Pictures for people: RGB, action image and their blend side by side, and contact sheets of an episode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..conventions import CHANNEL_NAMES
from ..errors import BadImageError, MissingCalibrationError
from ..geometry import crop
from ..model import Episode
from ..raster import caption, project_keypoints, render_merged
from ..schemas import ActionImageSpec
from ..video import resize

Image = NDArray[np.uint8]
_INK = (24, 24, 27)
_PAPER = (250, 250, 249)
_FAINT = (170, 170, 175)
_HEAD = 22


def fit(image: Image, height: int, width: int) -> Image:
    """``image`` centre-cropped to the aspect of ``height x width`` and resized, as the shard writer does it."""
    return resize.apply(image, crop.center_crop(image.shape[0], image.shape[1], height, width))


def over_camera(action: Image, spec: ActionImageSpec) -> Image:
    """An action image ``(H, W, 3)`` as it lies over the camera's picture, whatever its field of view."""
    if spec.fov_scale == 1:
        return action
    height, width = action.shape[:2]
    s, x, y = 1 / spec.fov_scale, (width - 1) / 2, (height - 1) / 2
    back = np.array([[s, 0, x - s * x], [0, s, y - s * y]])
    return np.asarray(cv2.warpAffine(action, back, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))


def blend(rgb: Image, action: Image, spec: ActionImageSpec, grippers: int = 1) -> Image:
    """The blobs of ``action`` painted over ``rgb``; the pedestals of its ``grippers`` are left out, so that the picture
    shows through.
    """
    weight = action.astype(np.float32) / 255
    floor = grippers * spec.pedestal + 1.5 / 255
    weight[..., 2] = np.where(weight[..., 2] <= floor, 0, weight[..., 2])
    cover = weight.max(axis=-1, keepdims=True)
    return np.asarray(rgb * (1 - cover) + 255 * weight, np.uint8)


def mark(image: Image, uv: NDArray[np.float64], valid: NDArray[np.bool_]) -> None:
    """Draw the gripper's axes into ``image``: a ring at the origin, lines to the other two points, in place."""
    size = min(image.shape[:2])
    line = max(1, round(size / 256))
    halo = line + (1 if size < 224 else 2)
    # cv2 draws with four fractional bits, so that the mark does not jump from pixel to pixel.
    points = [(round(float(u) * 16), round(float(v) * 16)) for u, v in np.clip(uv, -4096, 8192)]
    axes = [
        (points[index], colour)
        for index, colour in ((1, (66, 226, 100)), (2, (104, 140, 255)))
        if valid[0] and valid[index]
    ]
    for end, _ in axes:
        cv2.line(image, points[0], end, _INK, halo, cv2.LINE_AA, 4)
    for end, colour in axes:
        cv2.line(image, points[0], end, colour, line, cv2.LINE_AA, 4)
        cv2.circle(image, end, round(16 * 1.5 * line), colour, -1, cv2.LINE_AA, 4)
    if valid[0]:
        cv2.circle(image, points[0], round(16 * 4.2 * line), _INK, halo, cv2.LINE_AA, 4)
        cv2.circle(image, points[0], round(16 * 4.2 * line), (255, 255, 255), line, cv2.LINE_AA, 4)
        cv2.circle(image, points[0], round(16 * 1.4 * line), (255, 56, 56), -1, cv2.LINE_AA, 4)


def trail(image: Image, uv: NDArray[np.float64], valid: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    """Draw the way of a point, ``uv (n, 2)`` up to now, in place; where it was behind the camera there is a gap."""
    line = max(1, round(min(image.shape[:2]) / 220))
    points = np.round(16 * np.clip(uv, -4096, 8192)).astype(np.int32)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], valid, [False]]).astype(np.int8)))
    for thick, shade in ((line + 2, _INK), (line, colour)):
        for a, b in zip(edges[::2], edges[1::2], strict=True):
            cv2.polylines(image, [points[a:b]], False, shade, thick, cv2.LINE_AA, 4)


def label(image: Image, name: str, remark: str = "", bar: float | None = None) -> None:
    """Write ``name`` (shortened where it has to be) and ``remark`` on a strip along the lower edge, with a bar for the
    openness in [0, 1], in place.
    """
    height, width = image.shape[:2]
    strip = max(14, height // 24)
    image[height - strip :] = (image[height - strip :] * 0.35).astype(np.uint8)
    size, edge = strip / 32, strip // 3
    base = height - edge
    right, left = width - edge, width - width // 5
    room = width - 2 * edge
    if bar is not None:
        word = caption.width_of("open", 0.8 * size)
        room = left - word - 3 * edge
        caption.write(image, "open", (left - word - edge, base), 0.8 * size, _FAINT)
    tail = caption.width_of(f"  {remark}", size) if remark else 0
    short = caption.fitted(name, room - tail, size)
    caption.write(image, f"{short}  {remark}" if remark else short, (edge, base), size, _PAPER, room)
    if bar is not None and np.isfinite(bar):
        top, bottom = height - 2 * strip // 3, base
        cv2.rectangle(image, (left, top), (right, bottom), (110, 110, 110), 1)
        cv2.rectangle(image, (left, top), (left + round((right - left) * bar), bottom), (90, 170, 255), -1)


@dataclass(frozen=True)
class Triptych:
    """One frame of one view: the picture, its action image, and the blend with the gripper's axes marked."""

    rgb: Image
    action: Image
    overlay: Image

    def wide(self) -> Image:
        """``(H, 3 W, 3)``: RGB | action image | blend."""
        return np.concatenate([self.rgb, self.action, self.overlay], axis=1)


def triptychs(
    episode: Episode, view: str, spec: ActionImageSpec, frames: Sequence[int], *, text: bool = True
) -> Iterator[Triptych]:
    """The chosen ``frames`` of a view, one at a time, at the spec's size.

    Raises:
        MissingCalibrationError: The view has no camera.
    """
    source = episode.views[view]
    if source.camera is None:
        raise MissingCalibrationError("cannot draw action images without a camera", where=episode.id, field=view)
    camera = source.camera.resized(spec.height, spec.width)
    seen = keypoints_of(episode, view, spec)
    for index, picture in zip(frames, source.frames.frames(list(frames)), strict=True):
        rgb = fit(picture, spec.height, spec.width)
        action = render_merged(episode.grippers, camera, spec, slice(index, index + 1))[0]
        overlay = blend(rgb, over_camera(action, spec), spec, len(episode.grippers))
        for uv, valid in seen.values():
            mark(overlay, uv[index], valid[index])
        if text:
            hidden = {
                n for _, valid in seen.values() for n, ok in zip(CHANNEL_NAMES, valid[index], strict=True) if not ok
            }
            behind = [n for n in CHANNEL_NAMES if n in hidden]
            remark = f"  behind: {' '.join(behind)}" if behind else ""
            openness = [float(t.openness[index]) for t in episode.grippers.values()]
            label(overlay, view, f"{index}{remark}", openness[0] if len(openness) == 1 else None)
        yield Triptych(rgb, action, overlay)


def keypoints_of(
    episode: Episode, view: str, spec: ActionImageSpec
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """``uv (T, 3, 2)`` and ``valid (T, 3)`` of each gripper's keypoints in the picture of a view that has a camera."""
    camera = episode.views[view].camera
    if camera is None:
        raise MissingCalibrationError("cannot draw action images without a camera", where=episode.id, field=view)
    fitted = camera.resized(spec.height, spec.width)
    found, spec = {}, spec.over_camera()
    for name, trajectory in episode.grippers.items():
        uv, valid = project_keypoints(trajectory, [fitted], spec)
        found[name] = (uv[0], valid[0])
    return found


def evenly(count: int, wanted: int) -> list[int]:
    """Up to ``wanted`` frame numbers spread over ``count`` frames, first and last included."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, max(1, wanted)))})


def contact_sheet(
    episode: Episode,
    spec: ActionImageSpec,
    views: Sequence[str] | None = None,
    columns: int = 6,
    tile: int = 192,
) -> Image:
    """One picture of a whole episode: a row of RGB, of action images and of blends for each view, over time."""
    names = list(views or episode.views)
    frames = evenly(len(episode), columns)
    scale = tile / min(spec.height, spec.width)
    small = spec.resized(max(1, round(spec.height * scale)), max(1, round(spec.width * scale)))
    gap, margin, head = 4, 16, 56
    rows: list[list[Image]] = []
    for name in names:
        shown = list(triptychs(episode, name, small, frames))
        rows += [[t.rgb for t in shown], [t.action for t in shown], [t.overlay for t in shown]]
    width = 2 * margin + len(frames) * (small.width + gap) - gap
    height = head + len(rows) * (small.height + gap) + (len(names) - 1) * 2 * gap + margin
    sheet = np.full((height, width, 3), _INK, np.uint8)
    title = episode.instruction if episode.instruction.isascii() else episode.id
    caption.write(sheet, title, (margin, 26), 0.6, _PAPER, width - 2 * margin)
    about = f"{episode.id}   {len(episode)} frames at {episode.fps:g} Hz"
    caption.write(sheet, about, (margin, 46), 0.42, _FAINT, width - 2 * margin)
    y = head
    for number, row in enumerate(rows):
        y += 2 * gap if number and number % 3 == 0 else 0
        for column, picture in enumerate(row):
            x = margin + column * (small.width + gap)
            sheet[y : y + small.height, x : x + small.width] = picture
        y += small.height + gap
    return sheet


def grid(columns: Sequence[Triptych], gap: int = 4, heads: Sequence[str] = ()) -> Image:
    """Frames side by side, each as a column of RGB, action image and blend; ``heads`` is written above each column, and
    then what each row shows in the first one.
    """
    stacks = [_spaced([t.rgb, t.action, t.overlay], 0, gap) for t in columns]
    sheet = _spaced(stacks, 1, gap)
    if not heads:
        return sheet
    height, width = columns[0].rgb.shape[:2]
    band = np.full((_HEAD, sheet.shape[1], 3), _PAPER, np.uint8)
    for number, head in enumerate(heads):
        caption.write(band, head, (number * (width + gap) + 4, _HEAD - 7), 0.45, _INK, width - 8)
    for number, row in enumerate(("camera", "action image", "both")):
        caption.write(sheet, row, (6, (number + 1) * (height + gap) - gap - 8), 0.45, _PAPER, width - 12, _INK)
    return np.concatenate([band, sheet])


def _spaced(pictures: Sequence[Image], axis: int, gap: int) -> Image:
    """Pictures of one size one after the other along ``axis``, with a gap between them."""
    shape = list(pictures[0].shape)
    shape[axis] = gap
    space = np.full(shape, _PAPER, np.uint8)
    parts = [part for picture in pictures for part in (picture, space)][:-1]
    return np.concatenate(parts, axis=axis)


def png_bytes(picture: Image) -> bytes:
    """``picture`` ``(H, W, 3)`` RGB as a PNG file."""
    return _encoded(picture, ".png")


def jpeg_bytes(picture: Image) -> bytes:
    """``picture`` ``(H, W, 3)`` RGB as a JPEG file of good quality, for pages."""
    return _encoded(picture, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 90)


def _encoded(picture: Image, ending: str, *options: int) -> bytes:
    done, data = cv2.imencode(ending, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise BadImageError("cannot be encoded", field="picture", found=str(picture.shape))
    return bytes(data.tobytes())

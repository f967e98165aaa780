"""From the frames of one view to measured keypoints, in memory of the chunk that is given."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import DecodeError
from ..schemas import ActionImageSpec
from . import blobs

FloatArray = NDArray[np.float64]

MIN_SIDE = 8
"""Pixels; in a smaller picture a blob of the usual width has no extent."""
_FRAMES_AT_ONCE = 200
_BLUE = np.array([False, False, True])


@dataclass(frozen=True, eq=False)
class BlobMeasurements:
    """What one view shows over time: a centre per channel (origin, normal, up), and the pedestal.

    Values of keypoints that are not ``valid`` are NaN. Measurements of successive chunks of a video are joined with
    `concatenate`, and of the same frames in any order of chunks are the same.
    """

    uv: FloatArray
    """``(T, 3, 2)`` pixels, pixel index (0, 0) at coordinate (0, 0); may lie outside the picture."""
    covariance: FloatArray
    """``(T, 3, 2, 2)`` square pixels."""
    valid: NDArray[np.bool_]
    """``(T, 3)`` whether the channel shows a blob."""
    amplitude: FloatArray
    """``(T, 3)`` fitted peak intensity; 1 on a faithful picture."""
    residual: FloatArray
    """``(T, 3)`` root mean square of what the blob does not explain, in units of intensity."""
    pedestal: FloatArray
    """``(T,)`` median intensity of the blue channel away from its blob."""
    pedestal_samples: NDArray[np.int64]
    """``(T,)`` number of samples behind ``pedestal``."""
    another: NDArray[np.bool_]
    """``(T, 2)`` whether red and green show a second blob apart from the one that is measured."""

    def __len__(self) -> int:
        return len(self.uv)

    def restricted(self, keep: NDArray[np.bool_]) -> BlobMeasurements:
        """Without the keypoints that are not in ``keep`` ``(T, 3)``."""
        return replace(
            self,
            uv=np.where(keep[..., None], self.uv, np.nan),
            covariance=np.where(keep[..., None, None], self.covariance, np.nan),
            valid=self.valid & keep,
            amplitude=np.where(keep, self.amplitude, np.nan),
            residual=np.where(keep, self.residual, np.nan),
            another=self.another & keep[:, :2],
        )

    @staticmethod
    def concatenate(parts: Sequence[BlobMeasurements]) -> BlobMeasurements:
        """Measurements of successive chunks as one; refuses none at all."""
        if not parts:
            raise DecodeError("no measurements to join", expected="at least 1 chunk", found="0")
        return BlobMeasurements(
            *(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(BlobMeasurements))
        )


def measure_blobs(frames: Any, spec: ActionImageSpec) -> BlobMeasurements:
    """Measure the blobs of successive frames of one view.

    Args:
        frames: ``(T, H, W, 3)`` RGB, uint8 or float in [0, 1]; values of a float video outside are clipped, a frame
            with values that are not finite shows nothing.
        spec: How the pictures were drawn, of their size.

    Raises:
        DecodeError: Not such an array, or of another size than the spec.
    """
    return measure_views([check_video(frames, spec, "frames")], spec)[0]


def measure_views(videos: Sequence[NDArray[Any]], spec: ActionImageSpec) -> list[BlobMeasurements]:
    """`measure_blobs` of views of equal length that `check_video` has passed, faster than one by one."""
    layout = blobs.Layout.of(spec)
    step = max(1, _FRAMES_AT_ONCE // len(videos))
    parts = [_measure([video[i : i + step] for video in videos], layout) for i in range(0, len(videos[0]), step)]
    return [BlobMeasurements.concatenate(chunks) for chunks in zip(*parts, strict=True)]


def check_video(frames: Any, spec: ActionImageSpec, where: str) -> NDArray[Any]:
    """``frames`` as a numpy array ``(T, H, W, 3)`` of uint8 or floats, or `DecodeError`."""
    if not hasattr(frames, "shape") or not hasattr(frames, "dtype"):
        try:
            frames = np.asarray(frames)
        except ValueError:
            raise DecodeError("frames differ in size", where=where, expected="(T, H, W, 3)") from None
    video: NDArray[Any] = np.asarray(frames)
    if video.ndim != 4 or video.shape[-1] != 3 or video.shape[0] == 0:
        raise DecodeError("is not an RGB video", where=where, expected="(T, H, W, 3), T >= 1", found=str(video.shape))
    if video.dtype != np.uint8 and not np.issubdtype(video.dtype, np.floating):
        raise DecodeError(
            "has the wrong dtype", where=where, expected="uint8, or float in [0, 1]", found=str(video.dtype)
        )
    if video.shape[1:3] != (spec.height, spec.width):
        raise DecodeError(
            "has another size than the spec",
            where=where,
            expected=f"{spec.height}x{spec.width}",
            found=f"{video.shape[1]}x{video.shape[2]}",
        )
    if min(spec.height, spec.width) < MIN_SIDE:
        raise DecodeError(
            "pictures are too small to find blobs in",
            where=where,
            expected=f"at least {MIN_SIDE}x{MIN_SIDE}",
            found=f"{spec.height}x{spec.width}",
        )
    return video


def _measure(videos: Sequence[NDArray[Any]], layout: blobs.Layout) -> list[BlobMeasurements]:
    frames = sum(map(len, videos))
    stride = layout.stride
    coarse = np.empty((frames, 3, -(-layout.height // stride), -(-layout.width // stride)), np.float32)
    start = 0
    for video in videos:
        sampled = video[:, ::stride, ::stride]
        for channel in range(3):
            coarse[start : start + len(video), channel] = _unit(sampled[..., channel])
        start += len(video)
    planes = coarse.reshape(frames * 3, *coarse.shape[2:])
    blue = np.tile(_BLUE, frames)
    spots = blobs.find(planes, layout)
    columns, rows = blobs.patch_pixels(spots, layout)
    found = blobs.locate(_gather(videos, columns, rows), columns, rows, spots, blue, layout)
    index = np.flatnonzero(found.present)
    spot = found.uv[index].astype(np.float64)
    origin = blobs.window_origins(spot, layout)
    binned = _bin_windows(videos, index, origin, layout)
    corner = origin.astype(np.float64)
    state = blobs.converge(binned, corner, spot, blue[index], layout)
    fit = blobs.polish(binned, corner, state, blue[index], layout, steps=0)
    full = _scatter(fit, index, frames * 3)
    shown = full.valid.reshape(frames, 3)
    # Blue stands on its pedestal, which is no blob; red and green stand on nothing.
    plain = coarse[:, :2].reshape(frames * 2, *coarse.shape[2:])
    where = full.uv.reshape(frames, 3, 2)[:, :2].reshape(frames * 2, 2)
    another = blobs.another(plain, where, layout).reshape(frames, 2) & shown[:, :2]
    level, count = blobs.pedestal_level(coarse[:, 2], full.uv.reshape(frames, 3, 2)[:, 2], shown[:, 2], layout)
    missing = ~full.valid
    for value in (full.uv, full.covariance, full.amplitude, full.residual):
        value[missing] = np.nan
    everything = BlobMeasurements(
        uv=full.uv.reshape(frames, 3, 2),
        covariance=full.covariance.reshape(frames, 3, 2, 2),
        valid=shown,
        amplitude=full.amplitude.reshape(frames, 3),
        residual=full.residual.reshape(frames, 3),
        pedestal=level.astype(np.float64),
        pedestal_samples=count.astype(np.int64),
        another=another,
    )
    ends = np.cumsum([0, *map(len, videos)])
    return [
        BlobMeasurements(*(getattr(everything, f.name)[a:b] for f in fields(BlobMeasurements)))
        for a, b in itertools.pairwise(ends)
    ]


def _gather(videos: Sequence[NDArray[Any]], columns: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Intensities ``(N, q, p)`` of planes ``3 * frame + channel`` at their rows ``(N, q)`` and columns ``(N, p)``."""
    parts, start = [], 0
    for video in videos:
        plane = np.arange(3 * len(video))[:, None, None]
        y, x = rows[start:][: len(plane), :, None], columns[start:][: len(plane), None, :]
        parts.append(_unit(video[plane // 3, y, x, plane % 3]))
        start += len(plane)
    return np.concatenate(parts)


def _unit(values: NDArray[Any]) -> NDArray[Any]:
    """Intensities in [0, 1]; what is not finite counts as black."""
    if values.dtype == np.uint8:
        return np.asarray(np.multiply(values, np.float32(1 / 255), dtype=np.float32))
    wide = values.astype(np.float32) if values.dtype == np.float16 else values
    return np.asarray(np.clip(np.nan_to_num(wide, nan=0.0, posinf=0.0, neginf=0.0), 0, 1))


def _scatter(fit: blobs.BlobFit, index: NDArray[np.intp], total: int) -> blobs.BlobFit:
    def spread(values: NDArray[Any]) -> NDArray[Any]:
        out = np.zeros((total, *values.shape[1:]), values.dtype)
        out[index] = values
        return out

    return blobs.BlobFit(*(spread(v) for v in fit))


def _bin_windows(
    videos: Sequence[NDArray[Any]], index: NDArray[np.intp], origin: NDArray[np.int64], layout: blobs.Layout
) -> FloatArray:
    """Mean intensities ``(N, bins, bins)`` of the fine windows of planes ``3 * frame + channel``."""
    size, bins, width = layout.window, layout.bins, layout.bin
    exact = all(video.dtype == np.uint8 for video in videos)
    windows = np.empty((len(index), size, size), np.uint8 if exact else np.float64)
    pictures = [frame for video in videos for frame in video]
    for window, plane, (x, y) in zip(windows, index.tolist(), origin.tolist(), strict=True):
        picture = pictures[plane // 3][y : y + size, x : x + size]
        if exact:
            # Several times as fast as copying every third byte with numpy.
            cv2.extractChannel(picture, plane % 3, window)
        else:
            window[...] = _unit(picture[..., plane % 3])
    # Adding slices keeps to one thread and is exact for uint8: a matrix product of this size would start BLAS threads.
    down = windows.reshape(len(index), bins, width, size)
    rows: NDArray[Any] = (
        down[:, :, 0].astype(np.uint32 if width > 256 else np.uint16) if exact else down[:, :, 0].copy()
    )
    for i in range(1, width):
        rows += down[:, :, i]
    across = rows.reshape(len(index), bins, bins, width)
    total: NDArray[Any] = across[..., 0].astype(np.uint32 if exact else np.float64)
    for i in range(1, width):
        total += across[..., i]
    return np.asarray(total * ((1 / 255 if exact else 1.0) / width**2))

"""From the frames of one view to measured keypoints, in memory of the chunk that is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DecodeError
from ..schemas import ActionImageSpec
from . import appearance, blobs

FloatArray = NDArray[np.float64]

OVERSHOOT = 0.25
"""Floats beyond [0, 1] by more are scaled otherwise."""
MIN_SIDE = 8
"""Pixels; in a smaller picture a blob of the usual width has no extent."""
ODD_STRUCTURE = 1.75
"""Median `BlobMeasurements.structure` of a channel above which its pictures are not drawn as the spec says,"""
ODD_RESIDUAL = 0.0008
"""if the residual is more than this (two thirds of the rounding of 8 bits in a single pixel)."""
ODD_SHARE = 0.25
"""Share of a channel's bright spots that are no blobs of the spec above which the same is concluded."""
_FRAMES_AT_ONCE = 200
_KEPT_BYTES = 4 << 20
_BLUE = np.array([False, False, True])


@dataclass(frozen=True, eq=False)
class FreeBlobs:
    """Blobs of a width, a height and a mixing of channels that the frames themselves were asked for; see `appearance`.

    Measured where the pictures do not look as the spec says, and NaN elsewhere. Up to two a channel.
    """

    uv: FloatArray
    """``(T, 3, 2, 2)`` (channel, candidate, xy) pixels, the highest blob first."""
    covariance: FloatArray
    """``(T, 3, 2, 2, 2)`` square pixels."""
    valid: NDArray[np.bool_]
    """``(T, 3, 2)``."""
    amplitude: FloatArray
    """``(T, 3)`` height over the ground."""
    ellipse: FloatArray
    """``(T, 3, 2, 2)`` covariance of the blobs of these frames over sigma squared."""
    ground: FloatArray
    """``(T, 3)`` median of each channel."""
    pedestal: FloatArray
    """``(T,)`` height of blue's pedestal when open."""
    mixing: FloatArray
    """``(T, 3, 3)`` share of each channel (last axis) in each channel of the picture."""

    @staticmethod
    def nothing(frames: int) -> FreeBlobs:
        """Of frames that were not asked."""
        sizes = {f.name: s for f, s in zip(fields(FreeBlobs), _FREE_SHAPES, strict=True)}
        return FreeBlobs(
            **{
                name: np.zeros((frames, *shape), bool) if name == "valid" else np.full((frames, *shape), np.nan)
                for name, shape in sizes.items()
            }
        )

    def restricted(self, keep: NDArray[np.bool_]) -> FreeBlobs:
        """Without the keypoints that are not in ``keep`` ``(T, 3)``."""
        return replace(self, valid=self.valid & keep[..., None])


_FREE_SHAPES = ((3, 2, 2), (3, 2, 2, 2), (3, 2), (3,), (3, 2, 2), (3,), (), (3, 3))


@dataclass(frozen=True, eq=False)
class BlobMeasurements:
    """What one view shows over time: a centre per channel (origin, normal, up), and the pedestal.

    Values of keypoints that are not ``valid`` are NaN. Measurements of successive chunks of a video are joined with
    `concatenate`; of pictures that look as the spec says they do not depend on the chunks. How other pictures are drawn
    is found chunk by chunk: give these 30 frames or more.
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
    ground: FloatArray
    """``(T,)`` median intensity of red and green away from their blobs, averaged."""
    another: NDArray[np.bool_]
    """``(T, 2)`` whether red and green show a second blob apart from the one that is measured."""
    structure: FloatArray
    """``(T, 3)`` how much the residual is more than noise: 1 to 1.7 with codecs, over 2 where the blob has another
    shape or something shines through."""
    odd: NDArray[np.bool_]
    """``(T,)`` whether the pictures of these frames do not look as the spec says."""
    free: FreeBlobs
    """The same blobs without the spec's width and height, where anything is odd."""

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
            free=self.free.restricted(keep),
        )

    @staticmethod
    def concatenate(parts: Sequence[BlobMeasurements]) -> BlobMeasurements:
        """Measurements of successive chunks as one; refuses none at all."""
        if not parts:
            raise DecodeError("no measurements to join", expected="at least 1 chunk", found="0")
        joined: BlobMeasurements = combine(list(parts), np.concatenate)
        return joined


def combine(parts: list[Any], how: Any) -> Any:
    """One of the dataclasses above from several, field by field."""
    values = {f.name: [getattr(p, f.name) for p in parts] for f in fields(parts[0])}
    return type(parts[0])(**{k: combine(v, how) if k == "free" else how(v) for k, v in values.items()})


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
    if video.dtype != np.uint8:
        _check_range(video, where)
    if min(spec.height, spec.width) < MIN_SIDE:
        raise DecodeError(
            "pictures are too small to find blobs in",
            where=where,
            expected=f"at least {MIN_SIDE}x{MIN_SIDE}",
            found=f"{spec.height}x{spec.width}",
        )
    return video


def _check_range(video: NDArray[Any], where: str) -> None:
    """Refuse floats that are scaled otherwise than to [0, 1]; a little beyond is a filter's overshoot."""
    finite = np.isfinite(video)
    low, high = (float(f(video, where=finite, initial=0.0)) for f in (np.min, np.max))
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise DecodeError(
            "is not scaled to [0, 1]",
            where=where,
            expected="floats in [0, 1]",
            found=f"{low:.4g} to {high:.4g}",
            hint="Divide by 255, or map [-1, 1] by (x + 1) / 2.",
        )


def coarse_samples(videos: Sequence[NDArray[Any]], layout: blobs.Layout) -> NDArray[np.float32]:
    """Intensities ``(T, 3, h, w)`` of every ``layout.stride``-th pixel of all videos, one after the other."""
    stride = layout.stride
    shape = -(-layout.height // stride), -(-layout.width // stride)
    coarse = np.empty((sum(map(len, videos)), 3, *shape), np.float32)
    start = 0
    for video in videos:
        sampled = np.ascontiguousarray(video[:, ::stride, ::stride])
        coarse[start : start + len(video)] = np.moveaxis(_unit(sampled), -1, 1)
        start += len(video)
    return coarse


def _measure(videos: Sequence[NDArray[Any]], layout: blobs.Layout) -> list[BlobMeasurements]:
    frames = sum(map(len, videos))
    coarse = coarse_samples(videos, layout)
    blue = np.tile(_BLUE, frames)
    boxed = blobs.boxes(coarse.reshape(frames * 3, *coarse.shape[2:]))
    spots = blobs.find(boxed, layout)
    columns, rows = blobs.patch_pixels(spots, layout)
    found = blobs.locate(_gather(videos, columns, rows), columns, rows, spots, blue, layout)
    index = np.flatnonzero(found.present)
    spot = found.uv[index].astype(np.float64)
    origin = blobs.window_origins(spot, layout)
    binned = bin_windows(videos, index, origin, layout)
    corner = origin.astype(np.float64)
    state, mask = blobs.converge(binned, corner, spot, blue[index], layout)
    fit = blobs.polish(binned, corner, state, mask, blue[index], layout, steps=0)
    full = _scatter(fit, index, frames * 3)
    shown = full.valid.reshape(frames, 3)
    # Blue stands on its pedestal, which is no blob; red and green stand on nothing.
    plain = boxed.reshape(frames, 3, *boxed.shape[1:])[:, :2].reshape(frames * 2, *boxed.shape[1:])
    where = full.uv.reshape(frames, 3, 2)[:, :2].reshape(frames * 2, 2)
    another = blobs.another(plain, where, layout).reshape(frames, 2) & shown[:, :2]
    level, count = blobs.pedestal_level(coarse[:, 2], full.uv.reshape(frames, 3, 2)[:, 2], shown[:, 2], layout)
    # Red and green stand on nothing; where they do stand on something, it is light that blue has as well.
    ground = blobs.ground_level(coarse)
    missing = ~full.valid
    for value in (full.uv, full.covariance, full.amplitude, full.residual, full.structure):
        value[missing] = np.nan
    everything = BlobMeasurements(
        uv=full.uv.reshape(frames, 3, 2),
        covariance=full.covariance.reshape(frames, 3, 2, 2),
        valid=shown,
        amplitude=full.amplitude.reshape(frames, 3),
        residual=full.residual.reshape(frames, 3),
        pedestal=level.astype(np.float64),
        pedestal_samples=count.astype(np.int64),
        ground=ground.astype(np.float64),
        another=another,
        structure=full.structure.reshape(frames, 3),
        odd=np.zeros(frames, bool),
        free=FreeBlobs.nothing(frames),
    )
    ends = np.cumsum([0, *map(len, videos)])
    present = found.present.reshape(frames, 3)
    out = []
    for video, a, b in zip(videos, ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        view: BlobMeasurements = combine([everything], lambda values, a=a, b=b: values[0][a:b])
        odd = unlike_spec(view.structure, view.residual, view.valid, present[a:b])
        if odd or (present[a:b] & ~view.valid).any() or view.another.any():
            view = replace(view, odd=np.full(len(view), odd), free=_measure_free(video, layout))
        out.append(view)
    return out


def unlike_spec(structure: Any, residual: Any, valid: Any, present: Any) -> bool:
    """Whether a view's blobs ``(T, 3)`` look otherwise than the spec says, by what its fits leave unexplained.

    Noise and codecs leave residuals whose clusters are 1 to 1.7 times those of white noise; other widths, bleeding
    channels, backgrounds that shine through and smooth noise leave more than twice.
    """
    if ((present & ~valid).sum(axis=0) > ODD_SHARE * present.sum(axis=0)).any():
        return True
    # NaN, where there is no blob, comes last.
    middle = np.maximum(valid.sum(axis=0) - 1, 0) // 2, np.arange(3)
    with np.errstate(invalid="ignore"):
        structured = np.sort(structure, axis=0)[middle] > ODD_STRUCTURE
        large = np.sort(residual, axis=0)[middle] > ODD_RESIDUAL
    return bool((structured & large).any())


def _measure_free(video: NDArray[Any], layout: blobs.Layout) -> FreeBlobs:
    look, start = appearance.survey(bin_pictures(video, layout), layout)
    found = appearance.candidates(look, start, layout)
    frames = len(video)
    nan = np.nan
    return FreeBlobs(
        uv=np.where(found.valid[..., None], found.uv, nan),
        covariance=np.where(found.valid[..., None, None], found.covariance, nan),
        valid=found.valid,
        amplitude=np.where(found.valid[..., 0], found.amplitude[..., 0], nan),
        ellipse=np.broadcast_to(look.ellipse, (frames, 3, 2, 2)),
        ground=look.ground,
        pedestal=np.full(frames, appearance.pedestal_height(look, start, found, layout)),
        mixing=np.broadcast_to(look.mixing, (frames, 3, 3)),
    )


def bin_pictures(video: NDArray[Any], layout: blobs.Layout) -> FloatArray:
    """Mean intensities ``(T, 3, h, w)`` of bins of the whole pictures; a rest at the right and below is left out."""
    width = layout.bin
    h, w = layout.height // width, layout.width // width
    out = np.empty((len(video), 3, h, w))
    exact = video.dtype == np.uint8
    for into, frame in zip(out, video, strict=True):
        picture = frame[: h * width, : w * width] if exact else _unit(frame[: h * width, : w * width])
        down = picture.reshape(h, width, w * width * 3)
        rows = down[:, 0].astype(np.uint32 if exact else np.float64)
        for i in range(1, width):
            rows += down[:, i]
        across = rows.reshape(h, w, width, 3)
        total: NDArray[Any] = across[:, :, 0].astype(np.float64)
        for i in range(1, width):
            total += across[:, :, i]
        into[...] = np.moveaxis(total, -1, 0)
    return np.asarray(out * ((1 / 255 if exact else 1.0) / width**2))


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


def _kept(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array that is not filled, of at least `_KEPT_BYTES` of address space.

    Once such a block was freed, glibc keeps as much for the arrays that follow. Small clips would else give their
    memory back with every array and fault it in with the next, which takes a quarter of their time.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    kept: NDArray[Any] = np.empty(max(size, _KEPT_BYTES), np.uint8)[:size].view(dtype).reshape(shape)
    return kept


def bin_windows(
    videos: Sequence[NDArray[Any]], index: NDArray[np.intp], origin: NDArray[np.int64], layout: blobs.Layout
) -> FloatArray:
    """Mean intensities ``(N, bins, bins)`` of the fine windows of planes ``3 * frame + channel``."""
    size, bins, width = layout.window, layout.bins, layout.bin
    exact = all(video.dtype == np.uint8 for video in videos)
    windows = _kept((len(index), size, size), np.uint8 if exact else np.float64)
    pictures = [frame for video in videos for frame in video]
    picture = np.empty((size, size, 3), np.uint8)
    for window, plane, (x, y) in zip(windows, index.tolist(), origin.tolist(), strict=True):
        shown = pictures[plane // 3][y : y + size, x : x + size]
        if exact:
            # Whole rows first: every third byte is then read from the cache, at half the time.
            picture[...] = shown
            window[...] = picture[..., plane % 3]
        else:
            window[...] = _unit(shown[..., plane % 3])
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

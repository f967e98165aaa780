"""The decoder on torch tensors: batched, on the device of its input, and differentiable.

The estimator is the numpy one, function by function. Detection, starting poses, the search for wrong blobs and the
choice among solutions run without gradients; the last Gauss-Newton steps, of the blobs and then of the pose, are
repeated with them. At a solution such a step contracts, so the derivative of two of them is that of the solution to
the second order of the (small) contraction.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actionimg_data.schemas import ActionImageSpec

from ..conventions import ROTATION_TOLERANCE
from ..errors import DecodeError, FrameCountError, InvalidArrayError, InvalidCameraError
from ..geometry import rotations
from ..geometry.drawing import action_K
from . import appearance, blobs, consensus, lighting, pose
from .measure import MIN_SIDE, unlike_spec
from .openness import height_when_open, openness_of_clip

_BLOB_STEPS = 2
_POSE_STEPS = 2


@dataclasses.dataclass(frozen=True, eq=False)
class TorchDecoded:
    """What action videos say, as float64 tensors on their device; compare `actionimg_data.decode.DecodedTrajectory`.

    ``position``, ``rotation``, ``quaternion_xyzw``, ``keypoints`` and ``openness_level`` carry gradients to the video,
    and all but the last two to the cameras. Entries of frames that are not ``valid`` are NaN, and pass none: select
    with ``valid`` before reducing, e.g. ``(decoded.position - target)[decoded.valid].square().mean()``.
    """

    position: Tensor
    """``(..., T, 3)`` metres."""
    rotation: Tensor
    """``(..., T, 3, 3)`` world from gripper."""
    openness: Tensor
    """``(..., T)`` as the spec draws it: 0 or 1 (without gradient), or in [0, 1]; NaN where no picture tells it."""
    openness_level: Tensor
    """``(..., T)`` pedestal over its height when open; NaN where no picture tells it."""
    valid: Tensor
    """``(..., T)`` bool."""
    openness_probability: Tensor
    """``(..., T)`` of being open, without gradient; NaN where no picture tells it."""
    covariance: Tensor
    """``(..., T, 6, 6)`` as in `DecodedTrajectory`, without gradient."""
    trust: Tensor
    """``(..., T)`` as in `DecodedTrajectory`, without gradient."""
    keypoints: Tensor
    """``(..., V, T, 3, 2)`` measured pixels; NaN where a channel shows no blob."""
    keypoint_valid: Tensor
    """``(..., V, T, 3)`` bool, whether the channel shows a blob."""
    keypoint_used: Tensor
    """``(..., V, T, 3)`` bool, whether the pose rests on it."""
    residual: Tensor
    """``(..., V, T, 3, 2)`` measured minus reprojected pixels, without gradient; NaN where unknown."""

    @property
    def quaternion_xyzw(self) -> Tensor:
        """``(..., T, 4)`` unit quaternions, NaN where not ``valid``; signs are not made continuous in time."""
        known = torch.where(self.valid[..., None, None], self.rotation, torch.eye(3).to(self.rotation))
        quaternion = rotations.quaternion_from_matrix(known)
        return torch.where(self.valid[..., None], quaternion, torch.nan)


def decode(
    video: Tensor,
    K: Tensor,
    world_from_camera: Tensor,
    spec: ActionImageSpec | None = None,
    *,
    times: Tensor | None = None,
    pixel_centre: float = 0.5,
) -> TorchDecoded:
    """Decode action videos, differentiably with respect to the video and the cameras.

    Args:
        video: ``(..., V, T, 3, H, W)`` RGB in [0, 1], as `actionimg_data.torch.render` returns it; any floating dtype.
            Values outside are clipped.
        K: ``(..., V, 3, 3)``, or ``(..., V, T, 3, 3)`` for cameras that move; leading shapes broadcast.
        world_from_camera: ``(..., V, 4, 4)`` or ``(..., V, T, 4, 4)``.
        spec: How the pictures were drawn; the published defaults at the video's size if not given.
        times: ``(T,)`` increasing seconds; only the choice among the solutions of a single view depends on them.
        pixel_centre: Where K has the centre of the first pixel, as for `actionimg_data.torch.render`.

    Raises:
        InvalidArrayError: Not tensors of floats, or on devices that differ or have no float64.
        InvalidCameraError: Cameras that are not finite, not rigid, or have focal lengths that are not positive.
        DecodeError: Shapes or a spec that do not fit.
        FrameCountError: Cameras or times with another number of frames than the video.
    """
    spec = check(video, K, world_from_camera, spec, times)
    found = [
        solve_clip(_measure(clip.pictures, spec), clip, spec)
        for clip in clips(video, K, world_from_camera, spec, times, pixel_centre)
    ]
    return stacked(found, video.shape[:-5])


class Clip(NamedTuple):
    """One clip of a batch."""

    pictures: Tensor
    """``(V, T, 3, H, W)``."""
    K: Tensor
    """``(T, V, 3, 3)`` of the action images."""
    world_from_camera: Tensor
    """``(T, V, 4, 4)``."""
    times: NDArray[np.float64]
    """``(T,)`` seconds."""


def clips(
    video: Tensor,
    K: Tensor,
    world_from_camera: Tensor,
    spec: ActionImageSpec,
    times: Tensor | None,
    pixel_centre: float,
) -> Iterator[Clip]:
    """The clips of a batch that `check` has passed, one after the other, where autocast is off."""
    *leading, views, frames = video.shape[:-3]
    count = int(np.prod(leading, dtype=np.int64))
    # Autocast would round the geometry to half precision.
    with torch.autocast(video.device.type, enabled=False):
        cameras = [_camera_batch(m, leading, views, frames) for m in (K, world_from_camera)]
        pictures = video.reshape(count, views, frames, 3, *video.shape[-2:])
        K_, poses = (m.unflatten(0, (count, frames)) for m in cameras)
        K_ = action_K(K_, spec, pixel_centre)
        seconds = np.arange(frames, dtype=np.float64) if times is None else times.detach().double().cpu().numpy()
        for of_clip in zip(pictures, K_, poses, strict=True):
            yield Clip(*of_clip, seconds)


def stacked(found: list[TorchDecoded], leading: Sequence[int]) -> TorchDecoded:
    """Clips as the batch they are of."""
    fields = {f.name: torch.stack([getattr(clip, f.name) for clip in found]) for f in dataclasses.fields(TorchDecoded)}
    return TorchDecoded(**{name: values.reshape(*leading, *values.shape[1:]) for name, values in fields.items()})


def solve_clip(seen: Seen, clip: Clip, spec: ActionImageSpec, keep: Tensor | None = None) -> TorchDecoded:
    """Poses of one clip from what its views show.

    With ``keep (T,)``, only those of these frames that rest on two views or more.
    """
    frames = len(clip.times)
    K, world_from_camera, times = clip.K, clip.world_from_camera, clip.times
    plain = pose.Measured(*(m.detach() for m in (seen.uv, seen.covariance, seen.valid, K, world_from_camera)))
    with torch.no_grad():
        free = consensus.Free(*(f.detach() for f in seen.free))
        verdict = consensus.verdict(plain, free, seen.another, seen.structure, times, spec, fix_lag=False)
    settled, found = verdict.settled, verdict.judged
    ok = found.consistent & ~settled.several
    if keep is not None:
        ok = ok & keep & ((found.used & ok[:, None, None]).any(-1).sum(-1) > 1)
    good = ok.nonzero()[:, 0]
    # The measurements that were chosen, with their gradients.
    free_uv = torch.cat([seen.uv[..., None, :], seen.free.uv], dim=-2)
    uv = free_uv.gather(-2, settled.source[..., None, None].expand(*settled.source.shape, 1, 2))[..., 0, :]
    mask = settled.measured.mask
    if verdict.aside is not None:
        uv = uv - verdict.aside
    uv = torch.where(mask[..., None], uv, 0.0)
    # The weights' own derivative is that of the blobs' covariances; what the clip adds to these is taken as constant.
    spread = torch.cat([seen.covariance[..., None, :, :], seen.free.covariance], dim=-3)
    spread = spread.gather(-3, settled.source[..., None, None, None].expand(*settled.source.shape, 1, 2, 2))[
        ..., 0, :, :
    ]
    weights = spread + (settled.weights - spread.detach())
    chosen = pose.Measured(uv, weights, found.used, K, world_from_camera)
    rotation, translation, _ = pose.final_pose(
        chosen.take(good), found.rotation[good], found.translation[good], spec.axis_length, _POSE_STEPS
    )
    shown, where = mask.movedim(1, 0), uv.detach().movedim(1, 0)
    expected = consensus.blue_in_picture(verdict, spec)
    opened = openness_of_clip(
        seen.pedestal, seen.samples, seen.ground.detach(), seen.height, where, shown, expected, spec
    )
    nan = torch.nan
    by_view = [
        torch.where(mask[..., None], uv, nan),
        mask,
        found.used & ok[:, None, None],
        torch.where(ok[:, None, None, None], found.residual, nan),
    ]
    keypoints, valid, used, residual = (v.movedim(1, 0) for v in by_view)
    return TorchDecoded(
        position=_spread(translation, good, frames),
        rotation=_spread(rotation, good, frames),
        openness=opened.openness,
        openness_level=opened.level,
        openness_probability=opened.probability.detach(),
        valid=ok,
        covariance=torch.where(ok[:, None, None], found.covariance, nan),
        trust=torch.where(ok, found.trust, 0.0),
        keypoints=keypoints,
        keypoint_valid=valid,
        keypoint_used=used,
        residual=residual,
    )


class Seen(NamedTuple):
    """`BlobMeasurements` of all views, frames first."""

    uv: Tensor
    covariance: Tensor
    valid: Tensor
    structure: Tensor
    another: Tensor
    free: consensus.Free
    pedestal: Tensor
    samples: Tensor
    ground: Tensor
    height: Tensor


def _measure(video: Tensor, spec: ActionImageSpec) -> Seen:
    """`measure_blobs` of the views of a clip ``(V, T, 3, H, W)``."""
    layout = blobs.Layout.of(spec)
    views, frames = video.shape[:2]
    planes = video.flatten(0, 2)
    n = len(planes)
    blue = torch.arange(n, device=planes.device) % 3 == 2
    stride = layout.stride
    coarse = clean(planes[:, ::stride, ::stride])
    with torch.no_grad():
        boxed = blobs.boxes(coarse.float())
        spots = blobs.find(boxed, layout)
        columns, rows = blobs.patch_pixels(spots, layout)
        every = torch.arange(n, device=planes.device)[:, None, None]
        patch = clean(planes[every, rows[:, :, None], columns[:, None, :]])
        near = blobs.locate(patch.float(), columns, rows, spots, blue, layout)
        index = near.present.nonzero()[:, 0]
        start = near.uv[index].double()
        origin = blobs.window_origins(start, layout)
    binned = bin_windows(planes, index, origin, layout, alone=True)
    corner, kind = origin.double(), blue[index]
    with torch.no_grad():
        state, fitted = blobs.converge(binned.detach(), corner, start, kind, layout)
        trial = blobs.polish(binned.detach(), corner, state, fitted, kind, layout, steps=0)
        real = trial.valid
    fit = blobs.polish(binned[real], corner[real], state[real], fitted[real], kind[real], layout, steps=_BLOB_STEPS)
    shown = index[real]
    by_view = (views, frames, 3)
    valid = torch.zeros(n, dtype=torch.bool, device=planes.device)
    valid[shown] = True
    uv = start.new_zeros(n, 2).index_put((shown,), fit.uv)
    covariance = torch.eye(2).to(start).repeat(n, 1, 1).index_put((shown,), fit.covariance)
    with torch.no_grad():
        other = [
            start.new_full((n,), torch.nan).index_put((shown,), values).unflatten(0, by_view)
            for values in (fit.structure, fit.residual, fit.amplitude)
        ]
        structure, residual, amplitude = other
        plain = boxed.unflatten(0, by_view)[:, :, :2].flatten(0, 2)
        where = uv.detach().unflatten(0, by_view)[:, :, :2].flatten(0, 2)
        seen_plain = valid.unflatten(0, by_view)[:, :, :2].flatten(0, 2)
        another = blobs.another(plain, where, layout) & seen_plain
        another = another.unflatten(0, (views, frames, 2))
        ground = blobs.ground_level(coarse.double().unflatten(0, (views * frames, 3))).unflatten(0, (views, frames))
    level, samples = blobs.pedestal_level(coarse[2::3].double(), uv[2::3].detach(), valid[2::3], layout)
    by_plane = valid.unflatten(0, by_view)
    present = near.present.unflatten(0, by_view)
    found, odd, height, light = [], [], [], []
    lit = level.detach().unflatten(0, (views, frames))
    shape = spec.sigma_px**2 * torch.eye(2).to(start).expand(3, 2, 2)
    for v in range(views):
        strange = unlike_spec(*(a[v].cpu().numpy() for a in (structure, residual, by_plane, present)))
        odd.append(strange)
        free, seen = None, None
        if strange or bool((present[v] & ~by_plane[v]).any()) or bool(another[v].any()):
            free, seen = _measure_free(video[v], layout)
        found.append(free if free is not None else _no_candidates(frames, start))
        heights = found[-1].amplitude[:, 2, 0] if strange else amplitude[v, :, 2]
        known = heights[heights.isfinite() & (found[-1].valid[:, 2, 0] if strange else True)].detach()
        peak = float(known.quantile(0.5)) if len(known) else 1.0
        place = uv.detach().unflatten(0, by_view)[v]
        even = by_plane[v] & (not strange)
        light.append(lighting.moved(place, amplitude[v], lit[v], shape, even, (spec.height, spec.width)))
        height.append(height_when_open(peak, seen if strange else None, spec))
    return Seen(
        uv=(uv.unflatten(0, by_view) - torch.stack([shift for shift, _ in light])).movedim(0, 1),
        covariance=(covariance.unflatten(0, by_view) + torch.stack([wide for _, wide in light])).movedim(0, 1),
        valid=by_plane.movedim(0, 1),
        structure=structure.movedim(0, 1),
        another=another.sum((0, 2)) > 1,
        free=consensus.Free(
            torch.stack([f.uv for f in found], dim=1),
            torch.stack([f.covariance for f in found], dim=1),
            torch.stack([f.valid for f in found], dim=1),
            torch.tensor(odd, device=planes.device),
        ),
        pedestal=level.unflatten(0, (views, frames)),
        samples=samples.unflatten(0, (views, frames)),
        ground=ground,
        height=start.new_tensor(height),
    )


def _measure_free(video: Tensor, layout: blobs.Layout) -> tuple[appearance.Candidates, float | None]:
    """`appearance.candidates` of a view ``(T, 3, H, W)``, and how high the pedestal is when open.

    How the view is drawn has no gradient, where its blobs are has.
    """
    binned = bin_pictures(video, layout)
    h, w = binned.shape[-2:]
    with torch.no_grad():
        look, start = appearance.survey(binned.detach(), layout)
    # The values are those of `survey`, the gradient is that of the undone mixing.
    change = torch.linalg.solve(look.mixing, (binned - binned.detach()).flatten(2))
    start = start._replace(pictures=start.pictures + change.unflatten(-1, (h, w)))
    found = appearance.candidates(look, start, layout)
    with torch.no_grad():
        height = appearance.pedestal_height(look, start, found, layout)
    known = None if math.isnan(height) else height
    return found._replace(uv=torch.where(found.valid[..., None], found.uv, 0.0)), known


def bin_pictures(video: Tensor, layout: blobs.Layout) -> Tensor:
    """Mean intensities ``(T, 3, h, w)``, float64, of bins of whole pictures; a rest is left out."""
    width = layout.bin
    h, w = layout.height // width, layout.width // width
    shown = clean(video[..., : h * width, : w * width])
    return shown.unflatten(-1, (w, width)).sum(-1, dtype=torch.float64).unflatten(-2, (h, width)).sum(-2) / width**2


def _no_candidates(frames: int, like: Tensor) -> appearance.Candidates:
    shape = (frames, 3, appearance.CANDIDATES)
    return appearance.Candidates(
        like.new_zeros(*shape, 2),
        torch.eye(2).to(like).expand(*shape, 2, 2),
        like.new_full(shape, torch.nan),
        torch.zeros(shape, dtype=torch.bool, device=like.device),
    )


def clean(values: Tensor) -> Tensor:
    """Values in [0, 1]; what is not finite counts as black."""
    wide = values if values.dtype == torch.float64 else values.float()
    return torch.where(torch.isfinite(wide), wide, 0.0).clamp(0.0, 1.0)


class _Windows(torch.autograd.Function):  # type: ignore[misc]
    """Square windows ``(M, size, size)`` of planes ``(N, H, W)``; ``alone`` if there is at most one of each plane."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, index: Tensor, origin: Tensor, size: int, alone: bool) -> Tensor:
        steps = torch.arange(size, device=planes.device)
        place = index[:, None, None], (origin[:, 1:] + steps)[:, :, None], (origin[:, :1] + steps)[:, None, :]
        ctx.shape, ctx.place, ctx.alone = planes.shape, place, alone
        return planes[place]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # Where no pixel is in two windows nothing has to be accumulated: much faster on a GPU than indexing's own.
        (gradient,) = gradients
        whole = gradient.new_zeros(ctx.shape).index_put(ctx.place, gradient, accumulate=not ctx.alone)
        return whole, None, None, None, None


def bin_windows(planes: Tensor, index: Tensor, origin: Tensor, layout: blobs.Layout, alone: bool) -> Tensor:
    """Mean intensities ``(M, bins, bins)``, float64, of the fine windows; ``alone`` if of each plane at most one."""
    windows = clean(_Windows.apply(planes, index, origin, layout.window, alone))
    across = windows.reshape(len(index), layout.window, layout.bins, layout.bin).sum(dim=-1, dtype=torch.float64)
    down = across.reshape(len(index), layout.bins, layout.bin, layout.bins).sum(dim=2)
    return down / layout.bin**2


def _spread(values: Tensor, index: Tensor, total: int) -> Tensor:
    """``values`` at the places ``index`` of ``total``, NaN elsewhere."""
    return values.new_full((total, *values.shape[1:]), torch.nan).index_put((index,), values)


def _camera_batch(matrices: Tensor, leading: list[int], views: int, frames: int) -> Tensor:
    """Camera matrices as ``(clips * T, V, n, n)`` in float64."""
    size = matrices.shape[-1]
    timed = matrices if matrices.ndim == 4 + len(leading) else matrices.unsqueeze(-3)
    whole = timed.double().expand(*leading, views, frames, size, size)
    return whole.reshape(-1, views, frames, size, size).movedim(1, 2).flatten(0, 1)


def check(
    video: Tensor, K: Tensor, world_from_camera: Tensor, spec: ActionImageSpec | None, times: Tensor | None
) -> ActionImageSpec:
    """Refuse what does not fit; the spec, filled in."""
    tensors = {"video": video, "K": K, "world_from_camera": world_from_camera}
    if times is not None:
        tensors["times"] = times
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise InvalidArrayError("is not a torch tensor", field=name, found=type(value).__name__)
        if not value.is_floating_point():
            raise InvalidArrayError("is not of floats", field=name, expected="floating dtype", found=value.dtype)
        if name != "times" and value.device != video.device:
            raise InvalidArrayError("is on another device", field=name, expected=video.device, found=value.device)
    if video.device.type == "mps":
        raise InvalidArrayError("device has no float64", field="video", expected="cpu or cuda", found=video.device)
    if video.ndim < 5 or video.shape[-3] != 3 or 0 in video.shape:
        raise DecodeError(
            "is not an RGB video",
            field="video",
            expected="(..., V, T, 3, H, W), none of them 0",
            found=tuple(video.shape),
        )
    height, width = video.shape[-2:]
    spec = ActionImageSpec(height=height, width=width) if spec is None else spec
    if (height, width) != (spec.height, spec.width):
        raise DecodeError(
            "has another size than the spec",
            field="video",
            expected=f"{spec.height}x{spec.width}",
            found=f"{height}x{width}",
        )
    if min(height, width) < MIN_SIDE:
        raise DecodeError(
            "pictures are too small to find blobs in",
            field="video",
            expected=f"at least {MIN_SIDE}x{MIN_SIDE}",
            found=f"{height}x{width}",
        )
    *leading, views, frames = video.shape[:-3]
    for name, value, size in (("K", K, 3), ("world_from_camera", world_from_camera, 4)):
        timed = value.ndim == len(leading) + 4
        expected = (*leading, views, frames, size, size) if timed else (*leading, views, size, size)
        if timed and value.shape[-3] not in (1, frames):
            raise FrameCountError(
                "cameras and video differ in length", field=name, expected=frames, found=value.shape[-3]
            )
        fits = len(expected) >= value.ndim >= 3 and all(
            a in (1, b) for a, b in itertools.zip_longest(value.shape[::-1], expected[::-1][: value.ndim])
        )
        if not fits or tuple(value.shape[-2:]) != (size, size):
            raise DecodeError("does not fit the video", field=name, expected=expected, found=tuple(value.shape))
    _check_cameras(K.detach(), world_from_camera.detach())
    if times is not None:
        if times.shape != (frames,):
            raise FrameCountError(
                "one time a frame is needed", field="times", expected=f"({frames},)", found=tuple(times.shape)
            )
        if not bool(torch.isfinite(times).all()) or bool((times.diff() <= 0).any()):
            raise DecodeError("must be finite and increase", field="times")
    return spec


def _check_cameras(K: Tensor, world_from_camera: Tensor) -> None:
    """Refuse what is no camera; one synchronisation with the device."""
    rotation = world_from_camera[..., :3, :3].double()
    error = rotations.orthonormality_error(torch.where(torch.isfinite(rotation), rotation, 0.0))
    faults = torch.stack(
        [
            ~(torch.isfinite(K).all() & torch.isfinite(world_from_camera).all()),
            ((K[..., 0, 0] <= 0) | (K[..., 1, 1] <= 0)).any(),
            (error > ROTATION_TOLERANCE).any(),
        ]
    ).tolist()
    if faults[0]:
        raise InvalidCameraError("has a value that is not finite", field="K, world_from_camera")
    if faults[1]:
        raise InvalidCameraError("focal lengths must be positive", field="K", expected="fx, fy > 0")
    if faults[2]:
        raise InvalidCameraError("is not a rotation", field="world_from_camera", expected=f"≤ {ROTATION_TOLERANCE:g}")

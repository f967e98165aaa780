"""Pictures that show two grippers, on torch tensors: `measure_arms` and `solve_arms`, with gradients.

Whose a blob is, is decided by the same code on the same numbers as for numpy, without gradients.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..schemas import ActionImageSpec
from . import arm_blobs, blobs, consensus, lighting
from .appearance import CANDIDATES
from .arm_blobs import ArmBlobs
from .arms import Arms, OwnBlobs, hand_out, named_arms, own_blobs
from .openness import height_when_open
from .torch_backend import Clip, Seen, TorchDecoded, bin_pictures, bin_windows, check, clean, clips, solve_clip, stacked


def decode_arms(
    video: Tensor,
    K: Tensor,
    world_from_camera: Tensor,
    spec: ActionImageSpec | None = None,
    *,
    arms: Arms = 2,
    times: Tensor | None = None,
    pixel_centre: float = 0.5,
) -> dict[str, TorchDecoded]:
    """Decode videos that show several grippers at once, differentiably: for each name what `decode` returns for one.

    Args:
        video: As for `actionimg_data.torch.decode`, and
        K: likewise,
        world_from_camera: likewise,
        spec: likewise.
        arms: As for `actionimg_data.decode`; positions are of every clip of a batch.
        times: As for `actionimg_data.torch.decode`.
        pixel_centre: Likewise.

    Raises:
        DecodeError: Not two grippers of different names, or what `actionimg_data.torch.decode` refuses; and its others.
    """
    spec = check(video, K, world_from_camera, spec, times)
    labels, known = named_arms(arms, video.shape[-4])
    found = [_decode_clip(clip, known, spec) for clip in clips(video, K, world_from_camera, spec, times, pixel_centre)]
    return {name: stacked([clip[k] for clip in found], video.shape[:-5]) for k, name in enumerate(labels)}


class _Planes:
    """A view's frames ``(T, 3, H, W)``."""

    def __init__(self, video: Tensor) -> None:
        self.video, self.planes = video, video.flatten(0, 1)

    def coarse(self, layout: blobs.Layout) -> Tensor:
        return clean(self.video[..., :: layout.stride, :: layout.stride])

    def windows(self, plane: Tensor, origin: Tensor, layout: blobs.Layout) -> Tensor:
        return bin_windows(self.planes, plane, origin, layout, alone=False)

    def whole(self, layout: blobs.Layout) -> Tensor:
        return bin_pictures(self.video, layout)

    def still(self) -> contextlib.AbstractContextManager[Any]:
        quiet: contextlib.AbstractContextManager[Any] = torch.no_grad()
        return quiet


def _decode_clip(clip: Clip, known: NDArray[np.float64], spec: ActionImageSpec) -> list[TorchDecoded]:
    views = [arm_blobs.measure(_Planes(view), spec, len(known)) for view in clip.pictures]
    K, world = (m.detach().cpu().numpy() for m in (clip.K, clip.world_from_camera))
    handed = hand_out([_numpy(view) for view in views], known, K, world, spec)
    device = clip.pictures.device
    keep = torch.as_tensor(~(handed.several | handed.lost), device=device)
    owner = torch.as_tensor(handed.blobs, device=device)
    return [
        solve_clip(_seen([own_blobs(m, owner[:, k, v]) for v, m in enumerate(views)], views, spec), clip, spec, keep)
        for k in range(len(known))
    ]


def _numpy(view: ArmBlobs) -> ArmBlobs:
    return ArmBlobs(**{f.name: getattr(view, f.name).detach().cpu().numpy() for f in dataclasses.fields(ArmBlobs)})


def _seen(own: list[OwnBlobs], views: list[ArmBlobs], spec: ActionImageSpec) -> Seen:
    """What `solve` makes of the measurements of one gripper before it looks for poses."""
    eye = torch.eye(2).to(own[0].uv)
    odd = [bool(view.odd.any()) for view in views]
    uv: list[Tensor] = []
    covariance: list[Tensor] = []
    free: list[tuple[Tensor, ...]] = []
    height: list[float] = []
    for one, strange in zip(own, odd, strict=True):
        place = torch.where(one.valid[..., None], one.uv, 0.0)
        spread = torch.where(one.valid[..., None, None], one.covariance, eye)
        first = torch.arange(CANDIDATES, device=place.device) == 0
        twice = (v.unsqueeze(2).repeat_interleave(CANDIDATES, 2) for v in (place, spread))
        free.append((*twice, one.valid[..., None] & first & strange))
        if not strange:
            shape = (spec.sigma_px**2 * eye).expand(3, 2, 2)
            with torch.no_grad():
                shift, wide = lighting.moved(
                    place, one.amplitude, one.pedestal, shape, one.valid, (spec.height, spec.width)
                )
            place, spread = place - shift, spread + wide
        uv.append(place)
        covariance.append(spread)
        heights = one.amplitude[:, 2].detach()
        heights = heights[heights.isfinite()]
        height.append(height_when_open(float(heights.quantile(0.5)) if len(heights) else 1.0, None, spec))
    valid = torch.stack([one.valid for one in own], dim=1)
    return Seen(
        uv=torch.stack(uv, dim=1),
        covariance=torch.stack(covariance, dim=1),
        valid=valid,
        structure=torch.stack([one.structure.detach() for one in own], dim=1),
        another=torch.zeros(len(valid), dtype=torch.bool, device=valid.device),
        free=consensus.Free(
            torch.stack([place for place, _, _ in free], dim=1),
            torch.stack([spread for _, spread, _ in free], dim=1),
            torch.stack([shown for _, _, shown in free], dim=1),
            torch.tensor(odd, device=valid.device),
        ),
        pedestal=torch.stack([one.pedestal for one in own]),
        samples=torch.stack([one.samples for one in own]),
        ground=torch.stack([view.ground for view in views]),
        height=eye.new_tensor(height),
    )

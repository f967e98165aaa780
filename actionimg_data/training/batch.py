"""From samples to a batch, and what a training step makes of a batch on its device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch

from ..errors import InvalidSpecError
from ..geometry.axes import rotate_half_turn
from ..geometry.pluecker import pluecker_rays
from ..schemas import ActionImageSpec
from .options import Segment

_BETWEEN = tuple(f"{kind}_video" for kind in get_args(Segment))
_PICTURES = ("video", "action_video", "action_video_rendered", *_BETWEEN)


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Samples as a batch: whatever holds numbers becomes a tensor, so that frameworks move it; the rest are lists.

    Tensors and arrays are stacked, numbers become tensors (floats as float64), dictionaries become dictionaries of
    batches; texts and all else are lists by sample.

    Raises:
        InvalidSpecError: Samples differ in their keys, or in the shape of a value.
    """
    batch: dict[str, Any] = {}
    for sample in samples:
        if sample.keys() != samples[0].keys():
            other = sorted(sample.keys() ^ samples[0].keys())
            raise InvalidSpecError("samples of a batch differ in their keys", field="collate", found=", ".join(other))
    for name in samples[0]:
        try:
            batch[name] = _stacked([sample[name] for sample in samples])
        except RuntimeError as error:
            raise InvalidSpecError("does not fit into one batch", field=name, found=error) from None
    return batch


def _stacked(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor):
        return torch.stack(values)
    if isinstance(first, (np.ndarray, np.generic)) and first.dtype.kind in "biuf":
        return torch.stack([torch.as_tensor(value) for value in values])
    if isinstance(first, bool):
        return torch.tensor(values)
    if isinstance(first, (int, float)):
        return torch.tensor(values, dtype=torch.float64 if any(isinstance(v, float) for v in values) else torch.int64)
    if isinstance(first, dict):
        return collate(values)
    return values


class DeviceTransform:
    """Moves a batch to a device and makes there what is cheap to make and dear to move.

    Pictures given as uint8 become floats in [-1, 1]; with ``spec`` the action images are drawn from ``action_8d`` and
    the cameras; with ``plucker`` the rays are computed.

    Args:
        device: Where to; that of each batch's video by default.
        spec: How action images are drawn (`ActionImageDataset.spec`); None draws none.
        plucker: Add ``plucker`` (B, 6, V T, H, W).
        axes: Axes of the batch's cameras, as given to the data set.
        dtype: Of pictures and rays.

    Raises:
        InvalidSpecError: The batch's pictures are not of the spec's size.
    """

    def __init__(
        self,
        device: str | torch.device | None = None,
        *,
        spec: ActionImageSpec | None = None,
        plucker: bool = True,
        axes: str = "rlbench",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if axes not in ("rlbench", "opencv"):
            raise InvalidSpecError("no such choice", field="axes", expected="rlbench | opencv", found=axes)
        self._device = None if device is None else torch.device(device)
        self._spec, self._plucker, self._axes, self._dtype = spec, plucker, axes, dtype

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch (of `collate`) on the device; pictures ``(B, 3, V T, H, W)`` in [-1, 1]."""
        device = self._device or next(v.device for v in batch.values() if isinstance(v, torch.Tensor))
        out = {
            name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }
        for name in _PICTURES:
            if name in out:
                out[name] = self._levels(out[name])
        height, width = self._size(out)
        if self._plucker:
            pose = out["camera"].unflatten(-1, (3, 4))
            rays = pluecker_rays(out["intrinsics"], pose, height, width)
            if "has_cameras" in out:
                # Of a camera that is not known there are no rays.
                rays = rays * out["has_cameras"].to(rays.dtype).reshape(-1, *[1] * (rays.ndim - 1))
            out["plucker"] = rays.movedim(-3, 1).to(self._dtype)
        if self._spec is not None:
            if (self._spec.height, self._spec.width) != (height, width):
                raise InvalidSpecError(
                    "spec and pictures differ in size",
                    field="spec",
                    expected=f"{height}x{width}",
                    found=f"{self._spec.height}x{self._spec.width}",
                )
            out["action_video"] = self._draw(out, self._spec)
        return out

    def _size(self, batch: dict[str, Any]) -> tuple[int, int]:
        """Height and width: of the video, or without one of what is drawn."""
        if "video" in batch:
            return tuple(batch["video"].shape[-2:])
        if self._spec is not None:
            return self._spec.height, self._spec.width
        if self._plucker:
            raise InvalidSpecError(
                "has no pictures whose size rays could have",
                field="video",
                hint="Give plucker=False, or a spec of the size; members stand in for the video of this data set.",
            )
        return 0, 0

    def _levels(self, pictures: torch.Tensor) -> torch.Tensor:
        if pictures.dtype == torch.uint8:
            return pictures.to(torch.float32).div_(255).sub_(0.5).div_(0.5).to(self._dtype)
        return pictures.to(self._dtype)

    def _draw(self, batch: dict[str, Any], spec: ActionImageSpec) -> torch.Tensor:
        action, known = batch["action_8d"], batch["valid"]
        if action.ndim == 3:
            return self._draw_one(batch, action, known, spec).flatten(2, 3)
        views = batch["extrinsics"].shape[1] // action.shape[2]
        # Masks are over a video and the action segments of each view: one, or as many as there are grippers.
        between = sum(name in batch for name in _BETWEEN)
        segments = batch["used_mask"].shape[1] // (views * action.shape[2]) - 1 - between
        drawn = [
            self._draw_one(batch, action[:, g], batch["gripper_valid"][:, g], spec) for g in range(action.shape[1])
        ]
        if segments == 1 and len(drawn) > 1:
            return ((torch.stack(drawn).add(1).sum(0)).clamp_(max=2) - 1).flatten(2, 3)
        return torch.stack(drawn, dim=3).flatten(2, 4)

    def _draw_one(
        self, batch: dict[str, Any], action: torch.Tensor, known: torch.Tensor, spec: ActionImageSpec
    ) -> torch.Tensor:
        """``(B, 3, V, T, H, W)`` in [-1, 1] of one gripper's ``(B, T, 8)``."""
        from ..raster.torch_backend import render

        frames = action.shape[1]
        # A pose that is not known is zero; any unit quaternion will do for it, and its frame is made black below.
        anything = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=action.dtype, device=action.device)
        quaternion = torch.where(known[..., None], action[..., 3:7], anything)
        K, pose, axis = batch["intrinsics"], batch["extrinsics"], None
        if "action_intrinsics" in batch:
            # Its K takes points to pixel indices already.
            K, pose = batch["action_intrinsics"], batch["action_extrinsics"]
            axis = batch["action_axis_length"][..., None]
            spec = spec.changed(fov_scale=1.0, pixel_centre="published")
        if self._axes == "rlbench":
            K, pose = rotate_half_turn(K, pose)
        K, pose = (x.unflatten(1, (-1, frames)) for x in (K, pose))
        drawn = render(action[..., :3], quaternion, action[..., 7], K, pose, spec, axis_length=axis)
        drawn = (drawn * known[:, None, :, None, None, None]).movedim(3, 1)
        return (drawn * 2 - 1).to(self._dtype)

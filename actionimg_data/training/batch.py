"""From samples to a batch, and what a training step makes of a batch on its device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import InvalidSpecError
from ..geometry.axes import rotate_half_turn
from ..geometry.pluecker import pluecker_rays
from ..schemas import ActionImageSpec

_PICTURES = ("video", "action_video", "action_video_rendered")


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Samples as a batch: tensors stacked, ``fps`` as a float64 tensor, everything else a list by sample."""
    batch: dict[str, Any] = {}
    for name, first in samples[0].items():
        values = [sample[name] for sample in samples]
        if isinstance(first, torch.Tensor):
            batch[name] = torch.stack(values)
        elif isinstance(first, float):
            batch[name] = torch.tensor(values, dtype=torch.float64)
        else:
            batch[name] = values
    return batch


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
        device = self._device or batch["video"].device
        out = {
            name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }
        for name in _PICTURES:
            if name in out:
                out[name] = self._levels(out[name])
        height, width = out["video"].shape[-2:]
        if self._plucker:
            pose = out["camera"].unflatten(-1, (3, 4))
            rays = pluecker_rays(out["intrinsics"], pose, height, width)
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

    def _levels(self, pictures: torch.Tensor) -> torch.Tensor:
        if pictures.dtype == torch.uint8:
            return pictures.to(torch.float32).div_(255).sub_(0.5).div_(0.5).to(self._dtype)
        return pictures.to(self._dtype)

    def _draw(self, batch: dict[str, Any], spec: ActionImageSpec) -> torch.Tensor:
        from ..raster.torch_backend import render

        action = batch["action_8d"]
        frames = action.shape[1]
        known = batch["valid"]
        # A pose that is not known is zero; any unit quaternion will do for it, and its frame is made black below.
        anything = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=action.dtype, device=action.device)
        quaternion = torch.where(known[..., None], action[..., 3:7], anything)
        K, pose = batch["intrinsics"], batch["extrinsics"]
        if self._axes == "rlbench":
            K, pose = rotate_half_turn(K, pose)
        K, pose = (x.unflatten(1, (-1, frames)) for x in (K, pose))
        drawn = render(action[..., :3], quaternion, action[..., 7], K, pose, spec)
        # (B, V, T, 3, H, W) to (B, 3, V T, H, W)
        drawn = (drawn * known[:, None, :, None, None, None]).movedim(3, 1).flatten(2, 3)
        return (drawn * 2 - 1).to(self._dtype)

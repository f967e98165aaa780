"""Functions that `actionimg derive` runs: a tiny VAE's latents of pictures and action images, and words by hashing.

    actionimg derive out --with encoders:TinyVAE --member latent.npz --num-frames 9
    actionimg derive out --with encoders:words --member words.npy --over sample --option size=64

A class is made into an object once a process, with `--option` and `--device`; a function is called as it is. Both are
given a window (pictures, action images, text, poses, cameras; each is read when it is asked for) and return arrays of
numpy or torch. `version` says when what they make has changed; without it a hash of this file's source does.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np
import torch
from torch import nn


class TinyVAE:
    """Latents ``(16, L, H/8, W/8)`` float16 of a view's pictures and action images: 4n + 1 frames to n + 1, as Wan's.

    Its weights are drawn from a seed: it stands for a real one, and shows nothing of what one would.
    """

    version = "1"

    def __init__(self, seed: int = 0, device: str = "cpu") -> None:
        self.device = torch.device(device)
        generator = torch.Generator().manual_seed(seed)
        self.first = self._layer(nn.Conv3d(3, 16, (1, 8, 8), stride=(1, 8, 8)), generator)
        self.later = self._layer(nn.Conv3d(3, 16, (4, 8, 8), stride=(4, 8, 8)), generator)

    def __call__(self, window: Any) -> dict[str, torch.Tensor]:
        return {"video": self.encode(window.pictures[0]), "action": self.encode(window.action_images[0])}

    @torch.no_grad()
    def encode(self, pictures: np.ndarray) -> torch.Tensor:
        """``(T, H, W, 3)`` uint8 to latents; the first frame is a latent frame by itself."""
        video = torch.from_numpy(pictures).to(self.device).permute(3, 0, 1, 2).float().div(127.5).sub(1)
        return torch.cat([self.first(video[:, :1]), self.later(video[:, 1:])], dim=1).half()

    def _layer(self, layer: nn.Conv3d, generator: torch.Generator) -> nn.Conv3d:
        for weight in layer.parameters():
            weight.data = torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5
        return layer.to(self.device)


def words(window: Any, size: int = 256) -> np.ndarray:
    """Embeddings ``(16, size)`` float32 of the instruction: a row a word, each a vector drawn from the word's hash."""
    out = np.zeros((16, size), np.float32)
    for row, word in zip(out, re.findall(r"[\w']+", window.text.lower()), strict=False):
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
        row[:] = np.random.default_rng(seed).standard_normal(size, np.float32)
    return out


words.version = "1"  # type: ignore[attr-defined]

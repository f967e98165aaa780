"""Generated camera pictures against the stored ones: PSNR, SSIM, and LPIPS where it is installed."""

from __future__ import annotations

import functools
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

_C1: Final = (0.01 * 255) ** 2
_C2: Final = (0.03 * 255) ** 2
_MOST_DB: Final = 100.0


def psnr_db(made: NDArray[Any], true: NDArray[np.uint8]) -> float:
    """Peak signal to noise of two pictures uint8, in decibels; 100 where they are the same."""
    error = float(np.mean((made.astype(np.float64) - true) ** 2))
    return min(_MOST_DB, 10 * float(np.log10(255**2 / error))) if error > 0 else _MOST_DB


def ssim(made: NDArray[Any], true: NDArray[np.uint8]) -> float:
    """Structural similarity (Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5), mean over the picture."""
    a, b = made.astype(np.float32), true.astype(np.float32)

    def mean(picture: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(cv2.GaussianBlur(picture, (11, 11), 1.5)[5:-5, 5:-5])

    ma, mb = mean(a), mean(b)
    va, vb, covariance = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    value = (2 * ma * mb + _C1) * (2 * covariance + _C2) / ((ma * ma + mb * mb + _C1) * (va + vb + _C2))
    return float(value.mean())


@functools.cache
def lpips_network() -> Any | None:
    """The network of the package ``lpips`` (AlexNet), or None where it is not installed."""
    try:
        import lpips
    except ImportError:
        return None
    return lpips.LPIPS(net="alex", verbose=False)


def lpips_of(made: NDArray[Any], true: NDArray[np.uint8]) -> float | None:
    """LPIPS of two pictures, or None where it is not installed."""
    network = lpips_network()
    if network is None:
        return None
    import torch

    pair = [torch.from_numpy(np.ascontiguousarray(p)).permute(2, 0, 1)[None].float() / 127.5 - 1 for p in (made, true)]
    with torch.no_grad():
        return float(network(*pair))

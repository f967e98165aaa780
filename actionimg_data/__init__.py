"""Robot demonstrations in, Action-Image data sets out, and back again.

Everything named here is imported on first use, so that ``import actionimg_data`` costs next to nothing and never
imports torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "Camera": "model",
    "CameraTrack": "model",
    "GripperTrajectory": "model",
    "Episode": "model",
    "EpisodeRef": "model",
    "View": "model",
    "ActionImageSpec": "schemas",
    "render": "raster",
    "DecodedTrajectory": "decode",
    "open_dataset": "shards",
    "ActionImgError": "errors",
}
# `decode` and `evaluate` are packages that can be called: importing one anywhere would shadow a function of that name.
_MODULES = ("decode", "evaluate", "mesh", "torch")
__all__ = [*_EXPORTS, *_MODULES, "__version__"]


def _after_fork() -> None:
    """OpenCV's threads do not live on in a forked process, e.g. a worker of torch's DataLoader: do without them.

    Zero leaves OpenCV's pool alone; one would wait for its threads to end, which here can take for ever.
    """
    cv2 = sys.modules.get("cv2")
    # It may be in the middle of its import.
    if cv2 is not None and hasattr(cv2, "setNumThreads"):
        cv2.setNumThreads(0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS, *_MODULES])

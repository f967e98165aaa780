"""Data sets in the layouts that other programs read; nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ..errors import WrongFormatError
from .common import Result

KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "reference-tree": "the folder tree that the published training code reads",
        "wids": "an index for random access with wids",
        "energon": "a folder for Megatron-Energon (CrudeWebdataset)",
        "huggingface": "a folder for the Hugging Face Hub, with a data card",
        "lerobot": "a LeRobot v3.0 data set, with action images as further video features",
        "rerun": "a recording for the rerun viewer: cameras, pictures, action images, the gripper",
        "mcap": "MCAP files for Foxglove: video, calibration, transforms, poses; and a mapping that reads them",
        "window": "a window of one sample, as a training loader cuts it: pictures, action videos, cameras, caption",
        "diffsynth": "windows as videos, action videos and captions: metadata.csv of DiffSynth-Studio",
        "musubi": "the same: metadata.jsonl and dataset.toml of musubi-tuner",
        "finetrainers": "the same: metadata.jsonl of finetrainers, a videofolder of Hugging Face datasets",
        "cosmos": "annotations and videos of Cosmos-Predict's action-conditioned training",
    }
)


def export(kind: str, path: str | Path, dest: str | Path, **options: Any) -> Result:
    """Export a data set; the options are those of the module's own ``export``.

    Raises:
        WrongFormatError: There is no such kind.
    """
    if kind not in KINDS:
        raise WrongFormatError("no such export", field="kind", expected=" | ".join(KINDS), found=kind)
    module = importlib.import_module(f"{__name__}.{kind.replace('-', '_')}")
    function: Callable[..., Result] = module.export
    return function(path, dest, **options)


__all__ = ["KINDS", "Result", "export"]

"""Action videos back to keypoints, poses and a trajectory."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

from .arm_blobs import ArmBlobs, measure_arms
from .arms import solve_arms
from .decoder import decode
from .diagnosis import ChannelDiagnosis, Diagnosis, Finding, ViewDiagnosis
from .measure import BlobMeasurements, measure_blobs
from .result import DecodedTrajectory, Reason
from .solver import solve

__all__ = [
    "ArmBlobs",
    "BlobMeasurements",
    "ChannelDiagnosis",
    "DecodedTrajectory",
    "Diagnosis",
    "Finding",
    "Reason",
    "ViewDiagnosis",
    "decode",
    "measure_arms",
    "measure_blobs",
    "solve",
    "solve_arms",
]


class _CallableModule(types.ModuleType):
    """``actionimg_data.decode`` names this package and, in the public API, its function: calling it calls that."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return decode(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (self.__name__,)


# As Python's data model has it for a module that does more than hold names ("Customizing module attribute access").
sys.modules[__name__].__class__ = _CallableModule

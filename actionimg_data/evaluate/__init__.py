"""Generated action videos against a data set: errors, trust, baselines, and a page to look at.

The package can be called: ``aid.evaluate(videos, sample)`` is `evaluate` of one prediction.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

from .clip import evaluate
from .prediction import Options
from .run import evaluate_run, read_predictions

__all__ = ["Options", "evaluate", "evaluate_run", "read_predictions"]


class _CallableModule(types.ModuleType):
    """``actionimg_data.evaluate`` names this package and, in the public API, its function: calling it calls that."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return evaluate(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _CallableModule

"""The namespace of arrays, without the compatibility layer where NumPy needs none: a clip takes a thousand calls."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

# NumPy follows the array API by itself from 2.1 on.
_NUMPY: Any = np if hasattr(np, "cumulative_prod") else None


def array_namespace(*arrays: Any) -> Any:
    """As `array_api_compat.array_namespace`; of arrays of a NumPy that follows the standard, NumPy."""
    if _NUMPY is not None and all(type(a) is np.ndarray for a in arrays):
        return _NUMPY
    return array_api_compat.array_namespace(*arrays)

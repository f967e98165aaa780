"""Joint values beside an episode's poses, as far as the source has them: for calibration, and not stored in samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidTrajectoryError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class JointTrack:
    """The arm's joint values at each frame's time.

    Args:
        values: ``(T, J)`` radians, of joints that slide metres; NaN where they are not known.
        names: Of the joints, in the order of the columns; empty where the source does not say them.

    Raises:
        InvalidTrajectoryError: Not a table of numbers, or the names are not as many as the columns, or one is twice.
    """

    values: FloatArray
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        values = np.asarray(self.values, np.float64)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "names", tuple(self.names))
        if values.ndim != 2 or values.shape[1] == 0:
            raise InvalidTrajectoryError(
                "are not a table of joint values", field="joints", expected="(T, J)", found=str(values.shape)
            )
        if self.names and (len(self.names) != values.shape[1] or len(set(self.names)) != len(self.names)):
            raise InvalidTrajectoryError(
                "have other names than columns",
                field="joints",
                expected=f"{values.shape[1]} names, each once",
                found=" ".join(self.names),
            )

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice | NDArray[np.intp]) -> JointTrack:
        return JointTrack(self.values[index], self.names)

    def renamed(self, names: Sequence[str]) -> JointTrack:
        """The same values under other names.

        Raises:
            InvalidTrajectoryError: Not as many names as columns, or one twice.
        """
        return JointTrack(self.values, tuple(names))

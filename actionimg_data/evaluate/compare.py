"""Several runs side by side: differences over the predictions that both have, with a paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..schemas.evaluation import Comparison, Difference, Evaluation, PredictionScores

RESAMPLES: Final = 2000
_SEED: Final = 0
FIGURES: Final = (
    "valid_fraction",
    "position_error_mm.median",
    "position_error_mm_held.mean",
    "rotation_error_deg.median",
    "rotation_error_deg_held.mean",
    "gripper.accuracy",
    "blob.weak_fraction",
    "success.10mm_5deg",
    "strong.fraction",
    "strong.success.10mm_5deg",
)
"""Figures of a prediction whose means over predictions are compared."""


def compare(evaluations: Sequence[Evaluation]) -> Comparison:
    """Each further run against the first: mean differences of `FIGURES` over the predictions that both have."""
    first = evaluations[0]
    return Comparison(
        runs=[one.run for one in evaluations],
        evaluations=list(evaluations),
        differences={one.run: differences(first, one) for one in evaluations[1:]},
    )


def differences(first: Evaluation, second: Evaluation) -> list[Difference]:
    """Differences of two runs, second minus first.

    Predictions are paired by key, start, stride and gripper; the interval is that of 2000 resamples of the pairs
    (Efron & Tibshirani 1993, percentile).
    """
    one, two = ({_name(p): p for p in run.by_sample} for run in (first, second))
    both = [name for name in one if name in two]
    out = []
    for figure in FIGURES:
        pairs = np.array([(_figure(one[name], figure), _figure(two[name], figure)) for name in both], np.float64)
        pairs = pairs.reshape(-1, 2)
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        if not len(pairs):
            continue
        change = pairs[:, 1] - pairs[:, 0]
        low, high = np.quantile(_means(change), [0.025, 0.975])
        out.append(
            Difference(
                figure=figure,
                first=float(pairs[:, 0].mean()),
                second=float(pairs[:, 1].mean()),
                difference=float(change.mean()),
                low=float(low),
                high=float(high),
                predictions=len(pairs),
            )
        )
    return out


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    rng = np.random.default_rng(_SEED)
    return np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)])


def _name(one: PredictionScores) -> tuple[Any, ...]:
    return (one.key, one.start, one.stride, one.gripper_name)


def _figure(one: PredictionScores, figure: str) -> float:
    value: Any = one.model_dump(include={figure.split(".")[0]})
    for part in figure.split("."):
        value = value[part]
    return np.nan if value is None else float(value)

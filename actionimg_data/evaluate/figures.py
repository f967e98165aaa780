"""From the figures of frames to those of a prediction, a task, or a run: one formula for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..schemas.evaluation import (
    AxesError,
    BlobScores,
    ClipScores,
    Distribution,
    GripperScores,
    PublishedScores,
    RgbScores,
    Scores,
    StrongScores,
    TrustRow,
)
from .score import FRAME_COLUMNS, RIGHT_DEG, RIGHT_MM, WEAK_PEAK, Scored

FloatArray = NDArray[np.float64]

SUCCESS: Final = tuple((mm, deg) for mm in (5, 10, 20) for deg in (5, 10))
"""Millimetres and degrees within which a frame is a success."""
TRUST_STEPS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def distribution(values: FloatArray) -> Distribution:
    """Median, 95th percentile, largest and mean of the finite values."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Distribution(median=None, p95=None, max=None, mean=None)
    median, p95 = np.quantile(known, [0.5, 0.95])
    return Distribution(median=float(median), p95=float(p95), max=float(known.max()), mean=float(known.mean()))


def _median(values: Any) -> float | None:
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    return float(np.median(known)) if len(known) else None


def _share(right: NDArray[np.bool_] | FloatArray) -> float | None:
    return float(np.mean(right)) if len(right) else None


def success(table: Mapping[str, FloatArray]) -> dict[str, float | None]:
    """Share of frames within each of `SUCCESS`; a frame without a pose is not."""
    out = {}
    with np.errstate(invalid="ignore"):
        for mm, deg in SUCCESS:
            out[f"{mm}mm_{deg}deg"] = _share((table["position_mm"] <= mm) & (table["rotation_deg"] <= deg))
    return out


def pooled(scored: Sequence[Scored]) -> dict[str, FloatArray]:
    """The frames of all predictions, one after the other, by column."""
    return {
        name: np.concatenate([one.frames[name] for one in scored]) if scored else np.empty(0) for name in FRAME_COLUMNS
    }


def scores_of(scored: Sequence[Scored]) -> Scores:
    """The figures of some predictions together."""
    table = pooled(scored)
    strong = {name: values[table["strong"] == 1] for name, values in table.items()}
    looked_at = np.isfinite(table["strong"])
    peak = table["peak"][np.isfinite(table["peak"])]
    return Scores(
        frames=len(table["frame"]),
        valid_fraction=_share(table["valid"]),
        position_error_mm=distribution(table["position_mm"]),
        position_error_mm_held=distribution(table["held_position_mm"]),
        rotation_error_deg=distribution(table["rotation_deg"]),
        rotation_error_deg_held=distribution(table["held_rotation_deg"]),
        axes_error_deg=AxesError(**{axis: _median(table[f"axis_{axis}_deg"]) for axis in "xyz"}),
        gripper=_gripper(scored, table),
        blob=BlobScores(peak=_median(peak), weak_fraction=_share(peak < WEAK_PEAK)),
        success=success(table),
        strong=StrongScores(
            fraction=_share(table["strong"][looked_at]),
            position_error_mm=distribution(strong["position_mm"]),
            rotation_error_deg=distribution(strong["rotation_deg"]),
            success=success(strong),
        ),
        clip=ClipScores(**{name: _median([one.clip[name] for one in scored]) for name in ClipScores.model_fields}),
        rgb=_rgb(scored),
        published=_published(table),
    )


def _published(table: Mapping[str, FloatArray]) -> PublishedScores | None:
    """None where the published protocol was not asked for."""
    centroid = distribution(table["published_mm"]).mean
    held = distribution(table["held_position_mm"]).mean
    if centroid is None or held is None:
        return None
    return PublishedScores(mean_3d_error_mm=held, centroid_3d_error_mm=centroid)


def _gripper(scored: Sequence[Scored], table: Mapping[str, FloatArray]) -> GripperScores:
    told = np.isfinite(table["openness_true"])
    found, true = table["openness"][told], table["openness_true"][told]
    known = np.isfinite(found)
    errors = np.array([error for one in scored for error in one.event_errors_s])
    f1 = []
    for state in (0.0, 1.0):
        hits, claimed, there = (
            ((found == state) & (true == state)).sum(),
            (found == state).sum(),
            (true == state).sum(),
        )
        if claimed + there:
            f1.append(2 * hits / (claimed + there))
    return GripperScores(
        accuracy=_share(found == true),
        accuracy_known=_share((found == true)[known]),
        known_fraction=_share(known),
        f1=float(np.mean(f1)) if f1 else None,
        events=sum(one.events for one in scored),
        events_found=len(errors),
        events_invented=sum(one.invented for one in scored),
        event_error_s=distribution(np.abs(errors)),
        event_bias_s=_median(errors),
    )


def _rgb(scored: Sequence[Scored]) -> RgbScores | None:
    parts = {
        name: np.concatenate([one.rgb[name] for one in scored if name in one.rgb] or [np.empty(0)])
        for name in ("psnr_db", "ssim", "lpips")
    }
    if not len(parts["ssim"]):
        return None
    lpips = parts["lpips"]
    return RgbScores(
        psnr_db=float(parts["psnr_db"].mean()),
        ssim=float(parts["ssim"].mean()),
        lpips=float(lpips.mean()) if len(lpips) else None,
    )


def trust_rows(table: Mapping[str, FloatArray]) -> list[TrustRow]:
    """Of the frames with a trust over each of `TRUST_STEPS`, how many there are and how many are right."""
    with np.errstate(invalid="ignore"):
        right = (table["position_mm"] <= RIGHT_MM) & (table["rotation_deg"] <= RIGHT_DEG)
    rows = []
    for step in TRUST_STEPS:
        over = table["trust"] > step
        rows.append(TrustRow(over=step, fraction=_share(over) or 0.0, right=_share(right[over])))
    return rows


def by_frame(scored: Sequence[Scored], most: int = 400) -> list[dict[str, Any]]:
    """Median errors over the horizon: of the first frame of all predictions, the second, and so on."""
    longest = min(most, max((len(one.frames["frame"]) for one in scored), default=0))
    columns = ("position_mm", "rotation_deg", "valid")
    grid = {name: np.full((len(scored), longest), np.nan) for name in columns}
    for i, one in enumerate(scored):
        for name in columns:
            values = one.frames[name][:longest]
            grid[name][i, : len(values)] = values
    return [
        {
            "frame": t,
            "position_mm": _median(grid["position_mm"][:, t]),
            "rotation_deg": _median(grid["rotation_deg"][:, t]),
            "valid_fraction": float(np.nanmean(grid["valid"][:, t])),
        }
        for t in range(longest)
    ]

"""What a clip's pictures look like against the spec, and its views against each other, in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas import ActionImageSpec

if TYPE_CHECKING:
    from .measure import BlobMeasurements

CHANNELS = ("red", "green", "blue")


@dataclass(frozen=True)
class ChannelDiagnosis:
    """How one channel of one view is drawn, as medians over the frames that show its blob; NaN where none does."""

    view: str
    channel: str
    """``red`` (origin), ``green`` (normal) or ``blue`` (up)."""
    shown: float
    """Share of the frames in which a blob was measured."""
    width: float
    """Geometric mean of its two standard deviations over the spec's sigma; 1 on a faithful picture."""
    elongation: float
    """Larger over smaller standard deviation; 1 on a faithful picture."""
    peak: float
    """Height over the ground; 1 on a faithful picture."""
    ground: float
    """Intensity away from the blob (of blue: when closed); 0 on a faithful picture."""
    bleed: dict[str, float]
    """Share of each other channel that shows in this one; 0 on a faithful picture."""


@dataclass(frozen=True)
class ViewDiagnosis:
    """How one view lies against the others; NaN where it cannot be told."""

    view: str
    lag_frames: float
    """Frames by which the view is late (negative: early) against the first view."""
    lag_std: float
    """Standard deviation of that."""
    disagreement_px: float
    """Length in pixels of the constant move of its picture that would reconcile it with the other views."""
    disagreement_std: float
    """Standard deviation of that."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    code: str
    """``width``, ``shape``, ``peak``, ``ground``, ``bleed``, ``noise``, ``lag``, ``disagreement``, ``openness``, …"""
    text: str
    """A sentence with the figure: what a person should know."""
    view: str | None = None
    fatal: bool = False
    """Whether the frames it concerns are refused for it."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Diagnosis:
    """What `decode` found out about a clip besides its poses; printed by ``actionimg decode``."""

    channels: tuple[ChannelDiagnosis, ...] = ()
    views: tuple[ViewDiagnosis, ...] = ()
    keypoint_std_px: float = math.nan
    """Pixels by which the keypoints of the views contradict each other beyond what the blobs' own noise explains."""
    openness_levels: tuple[float, float] = (math.nan, math.nan)
    """Pedestal over its height, closed and open, as found in the clip; NaN where the clip does not show one."""
    openness_certain: float = math.nan
    """Share of the frames whose openness is told with a probability over 0.9."""
    findings: tuple[Finding, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: NaN as None, findings with their code, view and text."""
        return dict(_plain(asdict(self)))

    def table(self) -> str:
        """The diagnosis as a person reads it: a line a view and channel, a line a view, and the findings."""
        lines = [
            f"{'view':12} {'channel':7} {'shown':>6} {'width':>6} {'elong.':>6} {'peak':>6} {'ground':>6}  "
            "bleed from others"
        ]
        for c in self.channels:
            bleed = " ".join(f"{name} {_figure(100 * share, '.1f')} %" for name, share in c.bleed.items())
            lines.append(
                f"{c.view:12.12} {c.channel:7} {100 * c.shown:5.0f}% {_figure(c.width, '6.2f')} "
                f"{_figure(c.elongation, '6.2f')} {_figure(c.peak, '6.2f')} {_figure(c.ground, '6.2f')}  {bleed}"
            )
        for v in self.views:
            if not math.isnan(v.disagreement_px):
                lag = f"lag {v.lag_frames:+.2f} ± {v.lag_std:.2f} frames, " if not math.isnan(v.lag_frames) else ""
                lines.append(f"{v.view:12.12} {lag}disagreement {v.disagreement_px:.2f} ± {v.disagreement_std:.2f} px")
        if not math.isnan(self.keypoint_std_px):
            lines.append(
                f"keypoints contradict each other by {self.keypoint_std_px:.3g} px beyond the blobs' own noise"
            )
        closed, opened = self.openness_levels
        if not (math.isnan(closed) and math.isnan(opened)):
            lines.append(f"openness levels: closed {_figure(closed, '.2f')}, open {_figure(opened, '.2f')}")
        lines += [f"! {finding.text}" for finding in self.findings]
        return "\n".join(lines)


def _figure(value: float, form: str) -> str:
    width = form.split(".")[0]
    return format(value, form) if math.isfinite(value) else format("-", f">{width}" if width else "")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def diagnose(views: Sequence[BlobMeasurements], names: Sequence[str], spec: ActionImageSpec) -> Diagnosis:
    """What the measurements of each view say of how it was drawn."""
    channels = []
    for name, view in zip(names, views, strict=True):
        for c, channel in enumerate(CHANNELS):
            shown = view.valid[:, c]
            peak = float(np.median(view.amplitude[shown, c])) if shown.any() else math.nan
            channels.append(
                ChannelDiagnosis(name, channel, float(shown.mean()), math.nan, math.nan, peak, math.nan, {})
            )
    return Diagnosis(channels=tuple(channels))

"""What a clip's pictures look like against the spec, and its views against each other, in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas import ActionImageSpec

if TYPE_CHECKING:
    from .consensus import Verdict
    from .measure import BlobMeasurements
    from .openness import Openness

CHANNELS = ("red", "green", "blue")

SHOWN_ASIDE_PX = 0.2
"""Pixels aside from which on a channel is named."""


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
            bleed = ", ".join(f"{name} {_figure(100 * share, '.1f')} %" for name, share in c.bleed.items())
            if not c.bleed:
                bleed = "as the spec says" if c.shown else "no blob"
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


def diagnose(
    views: Sequence[BlobMeasurements],
    names: Sequence[str],
    verdict: Verdict,
    opened: Openness,
    spec: ActionImageSpec,
) -> Diagnosis:
    """What the measurements of each view and the verdict on the clip say, with the findings that follow."""
    channels = [_channel(name, view, c) for name, view in zip(names, views, strict=True) for c in range(len(CHANNELS))]
    between = [_between(name, number, verdict) for number, name in enumerate(names)] if len(names) > 1 else []
    judged = verdict.judged
    beyond = math.sqrt(judged.spread.single + judged.spread.common)
    certain = opened.probability[np.isfinite(opened.probability)]
    sure = float(np.mean(np.abs(certain - 0.5) > 0.4)) if len(certain) else math.nan
    found = [f for c in channels for f in _channel_findings(c)]
    found += _aside(names, verdict)
    found += _between_findings(names, verdict, beyond, spec)
    if len(certain) and spec.openness == "binary" and sure < 0.9:
        found.append(
            Finding(
                "openness", f"open and closed are hard to tell apart: {100 * (1 - sure):.0f} % of frames are in doubt"
            )
        )
    return Diagnosis(tuple(channels), tuple(between), beyond, opened.levels, sure, tuple(found))


def _channel(name: str, view: BlobMeasurements, c: int) -> ChannelDiagnosis:
    free = view.free
    odd = bool(view.odd.any())
    shown = view.valid[:, c] | free.valid[:, c, 0]
    heights = free.amplitude[:, c] if odd else view.amplitude[:, c]
    known = np.sort(heights[np.isfinite(heights)])
    peak = float(known[len(known) // 2]) if len(known) else math.nan
    width = elongation = ground = math.nan
    bleed = {}
    if odd:
        surveyed = np.isfinite(free.ground[:, c])
        values = np.linalg.eigvalsh(free.ellipse[surveyed][:, c])
        width = float(np.median(np.prod(values, axis=-1) ** 0.25))
        elongation = float(np.median(np.sqrt(values[:, 1] / values[:, 0])))
        low = 10.0 if c == 2 else 50.0
        ground = float(np.percentile(free.ground[surveyed, c], low))
        mixing = np.median(free.mixing[surveyed], axis=0)
        bleed = {CHANNELS[r]: float(mixing[c, r]) for r in range(3) if r != c}
    return ChannelDiagnosis(name, CHANNELS[c], float(shown.mean()), width, elongation, peak, ground, bleed)


def _channel_findings(c: ChannelDiagnosis) -> list[Finding]:
    where = f"{c.view}, {c.channel}"
    found = []
    if c.width > 1.05 or c.width < 0.95:
        found.append(Finding("width", f"{where}: the blob is {c.width:.2f}x as wide as the spec's", c.view))
    if c.elongation > 1.1:
        found.append(Finding("shape", f"{where}: the blob is elongated {c.elongation:.2f} : 1", c.view))
    if c.peak < 0.85:
        found.append(Finding("peak", f"{where}: the blob is {c.peak:.2f} high instead of 1", c.view))
    if c.ground > 0.05:
        found.append(Finding("ground", f"{where}: the picture stands on {c.ground:.2f} instead of black", c.view))
    for other, share in c.bleed.items():
        if abs(share) > 0.01:
            found.append(Finding("bleed", f"{where}: shows {100 * share:.0f} % of {other}", c.view))
    if c.shown < 0.9:
        found.append(Finding("missing", f"{where}: no blob in {100 * (1 - c.shown):.0f} % of the frames", c.view))
    return found


def _aside(names: Sequence[str], verdict: Verdict) -> list[Finding]:
    """Channels that were moved back."""
    if verdict.aside is None:
        return []
    far = np.linalg.norm(np.asarray(verdict.aside), axis=-1)
    return [
        Finding("aside", f"{name}, {CHANNELS[c]}: drawn {far[v, c]:.2g} px aside in every frame, moved back", name)
        for v, name in enumerate(names)
        for c in range(len(CHANNELS))
        if far[v, c] > SHOWN_ASIDE_PX
    ]


def _between(name: str, number: int, verdict: Verdict) -> ViewDiagnosis:
    lag = lag_std = moved = moved_std = math.nan
    for cause in verdict.judged.systematic:
        if cause.view != number:
            continue
        value, deviation = np.asarray(cause.value, dtype=float), np.asarray(cause.deviation, dtype=float)
        if cause.kind == "lag":
            lag, lag_std = float(value[0]), float(deviation[0])
        elif cause.kind == "moved":
            moved, moved_std = float(np.hypot(*value[:2])), float(np.hypot(*deviation[:2]))
    if verdict.lag is not None and verdict.lag[0] == number:
        lag = verdict.lag[1]
    if number == 0:
        lag = lag_std = moved = moved_std = 0.0
    return ViewDiagnosis(name, lag, lag_std, moved, moved_std)


def _between_findings(names: Sequence[str], verdict: Verdict, beyond: float, spec: ActionImageSpec) -> list[Finding]:
    from .consensus import CONTRADICTION, significant

    if verdict.lag is not None:
        view, lag = names[verdict.lag[0]], verdict.lag[1]
        frames = f"{abs(lag):.2g} frame{'' if abs(lag) == 1 else 's'}"
        text = f"{view} is {frames} {'late' if lag > 0 else 'early'} against {names[0]}"
        return [Finding("lag", text, view, fatal=True)]
    unexplained = beyond > 10 * CONTRADICTION * spec.sigma_px
    for cause in verdict.judged.systematic:
        if significant(cause, spec.sigma_px) and not unexplained:
            view = names[cause.view]
            value = [float(v) for v in cause.value]
            if cause.kind == "lag":
                return [Finding("lag", f"{view} seems {value[0]:+.2g} frames late against {names[0]}", view, True)]
            if cause.kind == "drift":
                start, end = (math.hypot(value[0] + s * value[2], value[1] + s * value[3]) for s in (-1, 1))
                text = (
                    f"views disagree: against {names[0]} the picture of {view} seems to drift, from {start:.2g} px off"
                )
                return [
                    Finding("disagreement", f"{text} at the beginning to {end:.2g} px at the end", view, fatal=True)
                ]
            parts = [f"moved by {math.hypot(*value[:2]):.2g} px"]
            reach = min(spec.height, spec.width) / 4
            roll, zoom = math.degrees(value[2] / reach), 100 * value[3] / reach
            parts += [f"rolled by {roll:+.2g}°"] * (abs(roll) > 0.5) + [f"zoomed by {zoom:+.2g} %"] * (abs(zoom) > 1)
            text = f"views disagree: against {names[0]} the picture of {view} seems {', '.join(parts)}"
            return [Finding("disagreement", text, view, fatal=True)]
    if beyond > 2 * CONTRADICTION * spec.sigma_px:
        kind = "together" if verdict.judged.spread.common > verdict.judged.spread.single else "each by itself"
        text = f"views disagree by {beyond:.2g} px a keypoint, {kind}, and no lag or move explains it"
        return [Finding("disagreement", text, fatal=True)]
    return []

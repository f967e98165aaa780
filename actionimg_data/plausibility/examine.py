"""Everything that is asked of an episode but its pictures, and what becomes of what is found."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import ImplausibleError
from ..model import Episode, StreamSamples
from ..schemas.plausibility import Finding, Limits
from . import motion, sight, stamps


def examine(episode: Episode, limits: Limits | None = None) -> list[Finding]:
    """What cannot be true of an episode, as far as its streams, poses and cameras tell; its pictures are not read.

    Args:
        episode: As its converter read it.
        limits: What is plausible.
    """
    limits = limits or Limits()
    found = list(episode.recorded.findings)
    streams = dict(episode.recorded.streams)
    found += examine_streams(streams, limits, episode.id)
    if not any(s.kind == "pose" for s in streams.values()):
        for name, trajectory in episode.grippers.items():
            own = StreamSamples("pose", trajectory.times, trajectory.position, trajectory.quaternion_xyzw, made_up=True)
            found += _placed(motion.motion(own, limits), episode.id, name or "gripper")
    cameras = {n: v.camera.world_from_camera[..., :3, 3] for n, v in episode.views.items() if v.camera is not None}
    for name, trajectory in episode.grippers.items():
        offset = episode.recorded.tool_offset_m.get(name, 0.0)
        checks = motion.length_units(trajectory.position, cameras, offset, limits)
        found += _placed(checks, episode.id, name or "gripper")
    found += _out_of_view(episode, limits)
    return found


def examine_streams(streams: dict[str, StreamSamples], limits: Limits, episode: str) -> list[Finding]:
    """What cannot be true of streams by themselves: also where they could not be brought together."""
    found: list[Finding] = []
    seen_stamps: list[NDArray[np.float64]] = []
    for name, stream in streams.items():
        # Poses and gripper are often columns of one table.
        if any(np.array_equal(stream.times, t) for t in seen_stamps) and stream.kind != "pose":
            continue
        seen_stamps.append(stream.times)
        found += _placed(stamps.stamps(stream, limits), episode, name)
        if stream.kind == "pose":
            found += _placed(motion.motion(stream, limits), episode, name)
    apart = stamps.clock_offset(streams)
    if apart is not None:
        name, seen, expected = apart
        found.append(Finding(kind=stamps.KIND_OF_OFFSET, episode=episode, stream=name, found=seen, expected=expected))
    return found


def _placed(found: Iterator[motion.Found], episode: str, stream: str) -> list[Finding]:
    return [
        Finding(kind=kind, episode=episode, stream=stream, rows=rows, found=seen, expected=expected)
        for kind, rows, seen, expected in found
    ]


def _out_of_view(episode: Episode, limits: Limits) -> Iterator[Finding]:
    if not any(np.isfinite(t.position).all(-1).any() for t in episode.grippers.values()):
        return
    for name, share in sight.in_view(episode).items():
        if share <= limits.out_of_view:
            causes = sight.why_out_of_view(episode, name)
            likely = "likely: " + "; or ".join(causes[:3]) if causes else "is it the calibration of this camera?"
            yield Finding(
                kind="out-of-view",
                episode=episode.id,
                stream=name,
                found=f"the gripper is in {share:.0%} of its {len(episode)} frames; {likely}",
                expected="a view that shows what the gripper does",
            )


def taken(findings: Sequence[Finding], allow: Collection[str]) -> list[Finding]:
    """The findings that the user has allowed."""
    return [f for f in findings if f.kind in allow]


def refuse(findings: Sequence[Finding], allow: Collection[str], where: object) -> None:
    """Refuse an episode with findings that are not allowed.

    Raises:
        ImplausibleError: There are some; it has all of them as ``findings``.
    """
    bad = [f for f in findings if f.kind not in allow]
    if not bad:
        return
    kinds = list(dict.fromkeys(f.kind for f in bad))
    first = bad[0]
    rows = "" if first.rows is None else f", rows {first.rows[0]}–{first.rows[1]}"
    more = f"; and {len(bad) - 1} more: {', '.join(kinds)}" if len(bad) > 1 else ""
    raise ImplausibleError(
        f"{first.kind}: {first.found}{more}",
        where=where,
        field=f"{first.stream}{rows}",
        expected=first.expected,
        hint=f"If that is meant: {' '.join(f'--allow {k}' for k in kinds)}.",
        findings=bad,
    )

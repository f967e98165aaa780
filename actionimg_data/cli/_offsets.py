"""The offset of each camera's clock, written into a mapping file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ActionImgError, AmbiguousSourceError, OutputError, OutputExistsError

if TYPE_CHECKING:
    from ..calibrate import GripperShape
    from ..calibrate.time_offset import TimeOffset
    from ..converters import Converter
    from ..model import Episode


def stream_offsets(
    converter: Converter, source: str, shape: GripperShape, max_offset_s: float, episodes: int | None
) -> dict[str, TimeOffset]:
    """How far each camera's clock is from that of the poses, by view, each view alone and at its own pictures' times.

    Args:
        converter: Of a kind of logs that a mapping explains, with stamps.
        source: Its recordings.
        shape: The gripper to look for.
        max_offset_s: Range searched, to both sides.
        episodes: How many recordings to use; all by default.

    Raises:
        AmbiguousSourceError: The format has no stamps of its own, or no mapping.
    """
    from ..calibrate import time_offset

    names = _views(converter)
    return {
        name: time_offset(list(_alone(converter, source, name, episodes)), shape, max_offset_s=max_offset_s)
        for name in names
    }


def _views(converter: Converter) -> list[str]:
    from ..converters.recording.mapping import MappedConverter

    if not isinstance(converter, MappedConverter) or not hasattr(converter, "recording"):
        raise AmbiguousSourceError(
            "has no mapping that offsets could be written into", field="--write", expected="--mapping FILE"
        )
    return list(converter.mapping().mapping.views)


def _alone(converter: Any, source: str, view: str, most: int | None) -> Iterator[Episode]:
    """The recordings with one camera, whose pictures then set the times."""
    from ..converters.recording.episode import assemble

    for ref in islice(converter.discover(source), most):
        try:
            recording = converter.recording(ref)
            if recording.rows_fps is not None:
                raise AmbiguousSourceError("rows have no stamps that could be moved", where=ref.id, field="--write")
            yield assemble(replace(recording, views={view: recording.views[view]}, master=view))
        except AmbiguousSourceError:
            raise
        except ActionImgError:
            # Its other recordings speak for the clock as well; the command has told of this one.
            continue


def write_offsets(mapping: Path, out: Path, found: dict[str, TimeOffset]) -> list[str]:
    """Write a mapping with ``offset_s`` of each view's stamps; the views of which it is known.

    Seconds to add to the stamps of the poses are seconds to take from those of the pictures.

    Raises:
        OutputExistsError: There is a file already: its comments would be lost.
        OutputError: It cannot be written.
    """
    import yaml

    from ..untrusted.text import load_yaml

    if out.exists():
        raise OutputExistsError(
            "is there already, and its comments would be lost", where=out, hint="Give another name."
        )
    value = load_yaml(mapping)
    lines = [f"# {mapping.name} with the offsets that `actionimg calibrate time` found:"]
    known = []
    for name, offset in found.items():
        if offset.offset_s is None or offset.interval_s is None:
            lines.append(f"#   {name}: cannot tell: {offset.reason}")
            continue
        time = value["views"][name].get("time") or {}
        time["offset_s"] = round(float(time.get("offset_s", 0.0)) - offset.offset_s, 4)
        value["views"][name]["time"] = time
        lines.append(f"#   {name}: {-1e3 * offset.offset_s:+.1f} ± {1e3 * offset.interval_s:.1f} ms (90 %)")
        known.append(name)
    text = "\n".join(lines) + "\n" + yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError("cannot write", where=out, found=error.strerror) from None
    return known

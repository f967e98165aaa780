"""``actionimg decode``: what does a video say the gripper did?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import DecodeError, FrameCountError, InvalidSpecError, OutputError
from ._common import EXIT_DONE, EXIT_FAILED, console, emit_json, progress
from ._inputs import fit_cameras, load_cameras, load_spec, split_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..decode import DecodedTrajectory
    from ..schemas import ActionImageSpec

_CHUNK = 32


@click.command("decode")
@click.argument("videos", nargs=-1, required=True, metavar="VIDEO...")
@click.option(
    "--cameras", "camera_file", required=True, metavar="FILE", help="Camera file, or a sample's .cameras.npz."
)
@click.option("--sample", metavar="KEY", help="Sample of the data set whose cameras to use.  [default: the first]")
@click.option("--out", "-o", required=True, metavar="FILE", help="Trajectory to write: .csv, .npz, .npy or .json.")
@click.option("--concatenated", is_flag=True, help="One video holds [video|action] of each view, one after the other.")
@click.option("--views", multiple=True, help="View names in the order of the videos, or of the segments.")
@click.option(
    "--spec", "spec_file", metavar="FILE", help="JSON with the spec, e.g. dataset.json.  [default: published]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with counts and uncertainties.")
@click.pass_context
def command(
    ctx: click.Context,
    videos: tuple[str, ...],
    camera_file: str,
    sample: str | None,
    out: str,
    concatenated: bool,
    views: tuple[str, ...],
    spec_file: str | None,
    as_json: bool,
) -> None:
    """Decode action videos back into a 7-DoF trajectory.

    Each VIDEO shows one view's action images. Its view is the part of its name before .action.mp4 or .mp4, or is
    given as VIEW=FILE, or by --views in order; it names the camera in the camera file. With --concatenated the one
    VIDEO holds [video|action|video|action…] in time, as the published model writes it; --views names the cameras.

    CSV columns: time_s, x, y, z, qx, qy, qz, qw, openness, valid, reason, position_std_mm, rotation_std_deg,
    views_used, reprojection_rms_px. NPZ and JSON hold the covariances and keypoints too. Frames that cannot be
    decoded have no pose, and say why. Exit code 1 when no frame could be.

    \b
    actionimg decode front.mp4 wrist.mp4 --cameras cameras.json --out trajectory.csv
    actionimg decode front=gen_0.mp4 overhead=gen_1.mp4 --cameras cameras.json --out trajectory.npz
    actionimg decode generated.mp4 --concatenated --views front,wrist --cameras cameras.json --out t.csv
    actionimg decode front.mp4 wrist.mp4 --cameras shards --sample open-drawer-000000 --out t.csv
    """
    import numpy as np

    from ..decode import BlobMeasurements, measure_blobs, solve
    from ..model.files import SUFFIXES, write_trajectory
    from ..video import open_video

    if Path(out).suffix.lower() not in SUFFIXES:
        raise InvalidSpecError("unknown ending", field="--out", expected=" ".join(SUFFIXES), found=out)
    known = load_cameras(camera_file, sample)
    names = split_names(views)
    sources = _concatenated(videos, names) if concatenated else _separate(videos, names, list(known))
    missing = [name for name in sources if name not in known]
    if missing:
        raise DecodeError(
            "has no camera of this name",
            where=camera_file,
            expected=" ".join(known),
            found=" ".join(missing),
            hint="Name the view: VIEW=FILE, or --views.",
        )

    readers = {path: open_video(path) for path in dict.fromkeys(path for path, _ in sources.values())}
    infos = {name: readers[path].info for name, (path, _) in sources.items()}
    sizes = {(info.height, info.width) for info in infos.values()}
    rates = {round(info.fps, 6) for info in infos.values()}
    if len(sizes) > 1 or len(rates) > 1:
        raise DecodeError("videos differ in size or frame rate", found=f"sizes {sorted(sizes)}, rates {sorted(rates)}")
    (height, width), fps = sizes.pop(), rates.pop()
    from ..shards.layout import place

    if spec_file is None and (place(camera_file) / "dataset.json").is_file():
        spec_file = str(place(camera_file) / "dataset.json")
    spec = load_spec(spec_file, (height, width))
    segments = {name: _segment(infos[name].frames, segment, path) for name, (path, segment) in sources.items()}
    lengths = {len(s) for s in segments.values()}
    if len(lengths) > 1:
        counts = ", ".join(f"{name} {len(s)}" for name, s in segments.items())
        raise FrameCountError("videos differ in their number of frames", found=counts)
    frames = lengths.pop()
    cameras = fit_cameras({name: known[name] for name in sources}, height, width, camera_file)

    measured = []
    with progress("decode", frames * len(sources), "frames") as advance:
        for name, (path, _) in sources.items():
            parts = []
            for chunk in _chunks(readers[path].frames(segments[name]), spec):
                parts.append(measure_blobs(chunk, spec))
                advance(len(chunk))
            measured.append(BlobMeasurements.concatenate(parts))
    for reader in readers.values():
        reader.close()
    decoded = solve(measured, [cameras[name].track(frames) for name in sources], spec, times=np.arange(frames) / fps)
    try:
        write_trajectory(out, decoded.trajectory, _extra(decoded))
    except OSError as error:
        raise OutputError("cannot write", where=out, found=error.strerror) from None

    summary = _summary(decoded, list(sources), fps, out)
    if as_json:
        emit_json(summary)
    else:
        click.echo(_sentence(summary))
    if not decoded.valid.any():
        console().print("No frame could be decoded.", style="red")
    ctx.exit(EXIT_DONE if decoded.valid.any() else EXIT_FAILED)


def _concatenated(videos: Sequence[str], names: list[str]) -> dict[str, tuple[str, tuple[int, int]]]:
    """View name to its video and its segment (number, of how many); the action follows the view's own video."""
    if len(videos) != 1 or not names:
        raise InvalidSpecError(
            "--concatenated takes one video and the names of its views",
            field="--concatenated",
            expected="1 VIDEO and --views",
            found=f"{len(videos)} videos, views {' '.join(names) or 'not given'}",
        )
    return {name: (videos[0], (2 * i + 1, 2 * len(names))) for i, name in enumerate(names)}


def _separate(videos: Sequence[str], names: list[str], cameras: list[str]) -> dict[str, tuple[str, tuple[int, int]]]:
    """View name to its video: by ``VIEW=FILE``, by --views in order, or by the file's name."""
    if names and len(names) != len(videos):
        raise InvalidSpecError("one name a video", field="--views", expected=len(videos), found=len(names))
    found: dict[str, tuple[str, tuple[int, int]]] = {}
    for i, text in enumerate(videos):
        view, equals, path = text.partition("=")
        if names:
            view, path = names[i], path if equals and not Path(text).exists() else text
        elif not equals or Path(text).exists():
            path = text
            stem = Path(text).name.rsplit(".", 1)[0].removesuffix(".action")
            # A shard's member is called KEY.VIEW.action.mp4.
            view = stem.rsplit(".", 1)[-1]
            if len(videos) == len(cameras) == 1:
                view = cameras[0]
        if view in found:
            raise DecodeError("two videos of one view", field=view, found=f"{found[view][0]} and {path}")
        found[view] = (path, (0, 1))
    return found


def _segment(frames: int, segment: tuple[int, int], path: str) -> range:
    number, count = segment
    if frames % count:
        raise FrameCountError(
            "frames do not divide into equal segments", where=path, expected=f"a multiple of {count}", found=frames
        )
    length = frames // count
    return range(number * length, (number + 1) * length)


def _chunks(frames: Iterator[NDArray[np.uint8]], spec: ActionImageSpec) -> Iterator[NDArray[np.uint8]]:
    """Some frames at a time: memory stays flat however long the video is."""
    import itertools

    import numpy as np

    while part := list(itertools.islice(frames, _CHUNK)):
        yield np.stack(part)


def _extra(decoded: DecodedTrajectory) -> dict[str, NDArray[Any]]:
    import numpy as np

    variance = np.einsum("tii->ti", decoded.covariance)
    return {
        "valid": decoded.valid,
        "reason": decoded.reason,
        "position_std_mm": 1000 * np.sqrt(variance[:, :3].sum(axis=1)),
        "rotation_std_deg": np.rad2deg(np.sqrt(variance[:, 3:].sum(axis=1))),
        "views_used": decoded.views_used,
        "reprojection_rms_px": decoded.reprojection_rms,
        "covariance": decoded.covariance,
        "keypoints": np.moveaxis(decoded.keypoints, 1, 0),
    }


def _summary(decoded: DecodedTrajectory, views: list[str], fps: float, out: str) -> dict[str, Any]:
    import numpy as np

    extra = _extra(decoded)

    def median(name: str) -> float | None:
        values = extra[name][decoded.valid]
        return float(np.median(values)) if len(values) else None

    return {
        "out": out,
        "frames": len(decoded),
        "valid": int(decoded.valid.sum()),
        "reasons": dict(Counter(str(r) for r in decoded.reason)),
        "views": views,
        "fps": fps,
        "position_std_mm": median("position_std_mm"),
        "rotation_std_deg": median("rotation_std_deg"),
        "reprojection_rms_px": median("reprojection_rms_px"),
        "single_view_frames": int((decoded.valid & (decoded.views_used == 1)).sum()),
    }


def _sentence(summary: dict[str, Any]) -> str:
    lines = [f"{summary['valid']} of {summary['frames']} frames decoded from {', '.join(summary['views'])}"]
    if summary["valid"]:
        lines.append(
            f"standard deviation {summary['position_std_mm']:.3g} mm, {summary['rotation_std_deg']:.3g}° (median); "
            f"reprojection {summary['reprojection_rms_px']:.3g} px"
        )
    if summary["single_view_frames"]:
        lines.append(f"{summary['single_view_frames']} frames rest on one view alone: see their standard deviation")
    refused = {k: n for k, n in summary["reasons"].items() if k != "ok"}
    if refused:
        lines.append("not decoded: " + ", ".join(f"{n} {reason}" for reason, n in refused.items()))
    lines.append(f"written to {summary['out']}")
    return "\n".join(lines)

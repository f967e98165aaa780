"""``actionimg decode``: what does a video say the gripper did?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import DecodeError, FrameCountError, InvalidSpecError, OutputError
from ._common import EXIT_DONE, EXIT_FAILED, console, emit_json, progress
from ._inputs import fit_cameras, load_cameras, load_spec, pick_sample, split_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..decode import DecodedTrajectory
    from ..decode.arms import Arms
    from ..model import Camera, CameraTrack
    from ..schemas import ActionImageSpec

_CHUNK = 32


@click.command("decode")
@click.argument("videos", nargs=-1, required=True, metavar="VIDEO...")
@click.option(
    "--cameras", "camera_file", required=True, metavar="FILE", help="Camera file, or a sample's .cameras.npz."
)
@click.option("--sample", metavar="KEY", help="Sample of the data set whose cameras to use.  [default: the first]")
@click.option(
    "--start",
    type=click.IntRange(0),
    help="Frame of the cameras that the videos begin with; needed where a camera moves and has more frames.",
)
@click.option(
    "--stride", type=click.IntRange(1), default=1, show_default=True, help="Frames of the cameras a frame of video."
)
@click.option(
    "--crop",
    type=click.Choice(["center", "none"]),
    help="What was done to the cameras' pictures before they were scaled to the videos' size: cut to their aspect "
    "about the centre, or nothing.  [default: center for a sample's cameras, as the training loader cuts; else none]",
)
@click.option("--out", "-o", required=True, metavar="FILE", help="Trajectory to write: .csv, .npz, .npy or .json.")
@click.option(
    "--concatenated",
    "--canvas",
    is_flag=True,
    help="One video holds [video|action] of each view, one after the other.",
)
@click.option("--views", multiple=True, help="View names in the order of the videos, or of the segments.")
@click.option(
    "--grippers", multiple=True, help="With --concatenated: whose action segments follow each view's video, in order."
)
@click.option(
    "--merged",
    multiple=True,
    metavar="NAMES",
    help="Names of the two grippers that each picture shows together, from left to right in the first view when both "
    "are first seen.  [default: a merged data set's, by where its sample says they are]",
)
@click.option(
    "--spec", "spec_file", metavar="FILE", help="JSON with the spec, e.g. dataset.json.  [default: published]"
)
@click.option("--fix-lag", is_flag=True, help="Show a view that is found to be late by so much earlier.")
@click.option(
    "--max-std-mm",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MM",
    help="Refuse poses less certain in place.",
)
@click.option(
    "--max-std-deg",
    type=click.FloatRange(min=0, min_open=True),
    metavar="DEG",
    help="Refuse poses less certain in turn.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object with counts, uncertainties and the diagnosis."
)
@click.pass_context
def command(
    ctx: click.Context,
    videos: tuple[str, ...],
    camera_file: str,
    sample: str | None,
    start: int | None,
    stride: int,
    crop: str | None,
    out: str,
    concatenated: bool,
    views: tuple[str, ...],
    grippers: tuple[str, ...],
    merged: tuple[str, ...],
    spec_file: str | None,
    fix_lag: bool,
    max_std_mm: float | None,
    max_std_deg: float | None,
    as_json: bool,
) -> None:
    """Decode action videos back into a 7-DoF trajectory.

    Each VIDEO shows one view's action images. Its view is the part of its name before .action.mp4 or .mp4, or is
    given as VIEW=FILE, or by --views in order; it names the camera in the camera file. With --concatenated the one
    VIDEO holds [video|action|video|action…] in time, as the published model writes it; --views names the cameras, or
    they are all of a sample's .cameras.npz, in its order (`actionimg export window` writes one of a window).

    Cameras follow the pictures: of a sample, videos may have any size and aspect that the training loader makes of
    it, and begin at any frame (--start, --stride).

    Videos of several grippers (VIEW.action.GRIPPER.mp4, or VIEW.GRIPPER=FILE) give one trajectory each, written to
    --out with the gripper's name before its ending: t.left.csv. So do pictures that show two at once (convert
    --merge-arms): the cameras are the data set's, or --merged names the grippers. Frames in which blobs lie on each
    other are refused where the rest determines no pose: overlap, several-grippers, which-gripper.

    Blobs that are wider, flatter or elongated, that stand on grey or shine through into other channels are decoded
    as they are; what was found of that, and how the views lie against each other, is printed as the diagnosis. A pose
    that is probably off by more than 10 mm (a tenth of the axis length) or 5 degrees is refused. --max-std-mm and
    --max-std-deg refuse more, by the standard deviation of position and of rotation.

    CSV columns: time_s, x, y, z, qx, qy, qz, qw, openness, valid, reason, trust, position_std_mm, rotation_std_deg,
    openness_probability, views_used, reprojection_rms_px. NPZ and JSON hold the covariances and keypoints too. Frames
    that cannot be decoded have no pose, and say why. Exit code 1 when no frame could be.

    \b
    actionimg decode front.mp4 wrist.mp4 --cameras cameras.json --out trajectory.csv
    actionimg decode front=gen_0.mp4 overhead=gen_1.mp4 --cameras cameras.json --out trajectory.npz
    actionimg decode generated.mp4 --concatenated --views front,wrist --cameras cameras.json --out t.csv
    actionimg decode front.mp4 wrist.mp4 --cameras shards --sample open-drawer-000000 --start 20 --out t.csv
    actionimg decode generated.mp4 --canvas --cameras window.cameras.npz --out t.csv
    actionimg decode front.action.left.mp4 side.action.left.mp4 --cameras cameras.json --out left.csv
    """
    from ..model.files import SUFFIXES, write_trajectory

    if Path(out).suffix.lower() not in SUFFIXES:
        raise InvalidSpecError("unknown ending", field="--out", expected=" ".join(SUFFIXES), found=out)
    known = load_cameras(camera_file, sample)
    together = _together(camera_file, sample, split_names(merged), start or 0)
    names, arms = split_names(views), split_names(grippers)
    if arms and not concatenated:
        raise InvalidSpecError("goes with --concatenated", field="--grippers", found=" ".join(arms))
    of_sample = _of_a_sample(camera_file)
    if concatenated and not names and of_sample:
        names = list(known)
    fitting = _Fitting(start, stride, crop or ("center" if of_sample else "none"))
    groups = _concatenated(videos, names, arms) if concatenated else _separate(videos, names, list(known))
    if together and list(groups) != [""]:
        raise InvalidSpecError(
            "pictures that show all grippers are no single one's", field="VIDEO, --grippers", found=" ".join(groups)
        )
    decoded_by: dict[str, DecodedTrajectory] = {}
    sources_of: dict[str, _Sources] = {}
    rates: dict[str, float] = {}
    for gripper, sources in groups.items():
        found, fps = _decode(gripper, sources, known, camera_file, spec_file, fitting, fix_lag, together)
        decoded_by |= found
        sources_of |= dict.fromkeys(found, sources)
        rates |= dict.fromkeys(found, fps)
    summaries, tables = {}, {}
    for gripper, whole in decoded_by.items():
        decoded = _limited(whole, max_std_mm, max_std_deg)
        path = str(Path(out).with_suffix(f".{gripper}{Path(out).suffix}")) if len(decoded_by) > 1 else out
        try:
            write_trajectory(path, decoded.trajectory, _extra(decoded))
        except OSError as error:
            raise OutputError("cannot write", where=path, found=error.strerror) from None
        summaries[gripper] = _summary(decoded, list(sources_of[gripper]), rates[gripper], path)
        tables[gripper] = decoded.diagnosis.table()
    if as_json:
        emit_json(summaries if len(summaries) > 1 else next(iter(summaries.values())))
    for gripper, summary in summaries.items():
        if not as_json:
            click.echo(f"{gripper}: {_sentence(summary)}" if len(summaries) > 1 else _sentence(summary))
            click.echo(tables[gripper])
        if not summary["valid"]:
            console().print(f"No frame{f' of {gripper}' if gripper else ''} could be decoded.", style="red")
    ctx.exit(EXIT_DONE if all(summary["valid"] for summary in summaries.values()) else EXIT_FAILED)


@dataclass(frozen=True)
class _Fitting:
    """Which frames of the cameras the videos show, and what was cut off their pictures."""

    start: int | None
    stride: int
    crop: str


def _of_a_sample(camera_file: str) -> bool:
    """Whether cameras are those of a sample, whose pictures the training loader cuts, and not of a camera file."""
    from ..cameras.tracks import is_cameras_npz
    from ..objectstore import is_url

    return is_url(camera_file) or Path(camera_file).is_dir() or is_cameras_npz(Path(camera_file))


def _together(camera_file: str, sample: str | None, names: list[str], start: int) -> Arms | None:
    """The grippers that the pictures show together, where they do: as named, or a merged sample's, and where it has
    them in the first frame."""
    from ..objectstore import is_url

    if names:
        return names
    if not (is_url(camera_file) or Path(camera_file).is_dir()):
        return None
    chosen = pick_sample(camera_file, sample)
    if not chosen.meta.merged_arms:
        return None
    return {name: trajectory.position[min(start, len(chosen) - 1)] for name, trajectory in chosen.grippers.items()}


_Sources = dict[str, tuple[str, tuple[int, int]]]
"""View name to its video and its segment: number, of how many."""


def _decode(
    gripper: str,
    sources: _Sources,
    known: Mapping[str, Camera | CameraTrack],
    camera_file: str,
    spec_file: str | None,
    fitting: _Fitting,
    fix_lag: bool,
    together: Arms | None,
) -> tuple[dict[str, DecodedTrajectory], float]:
    """What the videos of one gripper say, or of all ``together``, and their frame rate."""
    import numpy as np

    from ..decode import ArmBlobs, BlobMeasurements, measure_arms, measure_blobs, solve, solve_arms
    from ..video import open_video

    missing = [name for name in sources if name not in known]
    if missing:
        raise DecodeError(
            "has no camera of this name",
            where=camera_file,
            expected=" ".join(known),
            found=" ".join(missing),
            hint="Name the view: VIEW=FILE, or --views.",
        )

    readers = {path: open_video(path, oriented=True) for path in dict.fromkeys(path for path, _ in sources.values())}
    infos = {name: readers[path].info for name, (path, _) in sources.items()}
    sizes = {(info.height, info.width) for info in infos.values()}
    rates = {round(info.fps, 6) for info in infos.values()}
    if len(sizes) > 1 or len(rates) > 1:
        what = " and ".join(w for w, some in (("size", sizes), ("frame rate", rates)) if len(some) > 1)
        each = ", ".join(f"{name} {info.height}x{info.width} at {info.fps:g}" for name, info in infos.items())
        raise DecodeError(f"videos differ in {what}", found=each)
    (height, width), fps = sizes.pop(), rates.pop()
    from ..shards.layout import place
    from ..shards.window import window_cameras

    if spec_file is None and (place(camera_file) / "dataset.json").is_file():
        spec_file = str(place(camera_file) / "dataset.json")
    spec = load_spec(spec_file, (height, width))
    segments = {name: _segment(infos[name].frames, segment, path) for name, (path, segment) in sources.items()}
    lengths = {len(s) for s in segments.values()}
    if len(lengths) > 1:
        counts = ", ".join(f"{name} {len(s)}" for name, s in segments.items())
        raise FrameCountError("videos differ in their number of frames", found=counts)
    frames = lengths.pop()
    chosen = window_cameras({name: known[name] for name in sources}, fitting.start, fitting.stride, frames, camera_file)
    cameras = fit_cameras(chosen, height, width, camera_file, fitting.crop)

    measured: list[BlobMeasurements] = []
    shared: list[ArmBlobs] = []
    with progress("decode", frames * len(sources), "frames") as advance:
        for name, (path, _) in sources.items():
            parts, of_all = [], []
            for chunk in _chunks(readers[path].frames(segments[name]), spec):
                if together is None:
                    parts.append(measure_blobs(chunk, spec))
                else:
                    of_all.append(measure_arms(chunk, spec))
                advance(len(chunk))
            if together is None:
                measured.append(BlobMeasurements.concatenate(parts))
            else:
                shared.append(ArmBlobs.concatenate(of_all))
    for reader in readers.values():
        reader.close()
    tracks = [cameras[name].track(frames) for name in sources]
    times = np.arange(frames) / fps
    views = list(sources)
    if together is not None:
        return solve_arms(shared, tracks, spec, together, times=times, names=views, fix_lag=fix_lag), fps
    return {gripper: solve(measured, tracks, spec, times=times, names=views, fix_lag=fix_lag)}, fps


def _limited(decoded: DecodedTrajectory, mm: float | None, degrees: float | None) -> DecodedTrajectory:
    """Without the poses whose standard deviations are larger than wanted."""
    import numpy as np

    position, rotation = _standard_deviations(decoded)
    keep = np.ones(len(decoded), bool)
    with np.errstate(invalid="ignore"):
        for limit, found in ((mm, position), (degrees, rotation)):
            if limit is not None:
                keep &= ~(found > limit)
    return decoded if keep.all() else decoded.restricted(keep)


def _standard_deviations(decoded: DecodedTrajectory) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of position (mm) and of rotation (degrees), root of the sum of squares of the axes; NaN where invalid."""
    import numpy as np

    variance = np.einsum("tii->ti", decoded.covariance)
    return 1000 * np.sqrt(variance[:, :3].sum(axis=1)), np.rad2deg(np.sqrt(variance[:, 3:].sum(axis=1)))


def _concatenated(videos: Sequence[str], names: list[str], grippers: list[str]) -> dict[str, _Sources]:
    """Sources by gripper; the action segments follow the view's own video."""
    if len(videos) != 1 or not names:
        raise InvalidSpecError(
            "--concatenated takes one video and the names of its views",
            field="--concatenated",
            expected="1 VIDEO and --views",
            found=f"{len(videos)} videos, views {' '.join(names) or 'not given'}",
        )
    arms = grippers or [""]
    each = 1 + len(arms)
    return {
        gripper: {name: (videos[0], (each * i + 1 + g, each * len(names))) for i, name in enumerate(names)}
        for g, gripper in enumerate(arms)
    }


def _separate(videos: Sequence[str], names: list[str], cameras: list[str]) -> dict[str, _Sources]:
    """Sources by gripper: by ``VIEW=FILE`` or ``VIEW.GRIPPER=FILE``, by --views in order, or by the file's name."""
    if names and len(names) != len(videos):
        raise InvalidSpecError("one name a video", field="--views", expected=len(videos), found=len(names))
    found: dict[str, _Sources] = {}
    for i, text in enumerate(videos):
        label, equals, path = text.partition("=")
        labelled = bool(equals) and not Path(text).exists()
        view, _, gripper = label.partition(".") if labelled else (label, "", "")
        if names:
            view, path = names[i], path if labelled else text
        elif not labelled:
            path = text
            # A shard's member is called KEY.VIEW.action.mp4 or KEY.VIEW.action.GRIPPER.mp4.
            stem, _, gripper = Path(text).name.rsplit(".", 1)[0].removesuffix(".action").partition(".action.")
            view = stem.rsplit(".", 1)[-1]
            if len(videos) == len(cameras) == 1:
                view = cameras[0]
        own = found.setdefault(gripper, {})
        if view in own:
            raise DecodeError("two videos of one view", field=view, found=f"{own[view][0]} and {path}")
        own[view] = (path, (0, 1))
    if len(found) > 1 and "" in found:
        raise DecodeError(
            "some videos name their gripper and some do not",
            field="VIDEO",
            found=", ".join(path for path, _ in found[""].values()),
            hint="Name it: VIEW.GRIPPER=FILE.",
        )
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

    position, rotation = _standard_deviations(decoded)
    return {
        "valid": decoded.valid,
        "reason": decoded.reason,
        "trust": decoded.trust,
        "position_std_mm": position,
        "rotation_std_deg": rotation,
        "openness_probability": decoded.openness_probability,
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
        "trust": median("trust"),
        "single_view_frames": int((decoded.valid & (decoded.views_used == 1)).sum()),
        "diagnosis": decoded.diagnosis.to_dict(),
    }


def _sentence(summary: dict[str, Any]) -> str:
    lines = [f"{summary['valid']} of {summary['frames']} frames decoded from {', '.join(summary['views'])}"]
    if summary["valid"]:
        lines.append(
            f"standard deviation {summary['position_std_mm']:.3g} mm, {summary['rotation_std_deg']:.3g}° (median); "
            f"reprojection {summary['reprojection_rms_px']:.3g} px; trust {summary['trust']:.3f}"
        )
    if summary["single_view_frames"]:
        lines.append(f"{summary['single_view_frames']} frames rest on one view alone: see their standard deviation")
    refused = {k: n for k, n in summary["reasons"].items() if k != "ok"}
    if refused:
        lines.append("not decoded: " + ", ".join(f"{n} {reason}" for reason, n in refused.items()))
    lines.append(f"written to {summary['out']}")
    return "\n".join(lines)

"""``actionimg render``: look at action images before anything is converted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import (
    FrameCountError,
    InvalidSpecError,
    MissingCalibrationError,
    OutputError,
    UnsupportedSourceError,
    WrongFormatError,
    suggestion,
)
from ._common import console, emit_json, progress
from ._inputs import (
    SIZE,
    episode_of,
    fit_cameras,
    load_cameras,
    load_spec,
    make_converter,
    pick_sample,
    read_episode,
    split_names,
)

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..model import Camera, CameraTrack, Episode, GripperTrajectory
    from ..schemas import ActionImageSpec
    from ..shards import Sample

    Image = NDArray[np.uint8]

_MESH_COLOUR = (255, 140, 40)
_MESH_OPACITY = 0.65
_STORED = "-"
_SIZE = (512, 512)
_TRAJECTORY_SUFFIXES = (".csv", ".npz", ".npy", ".json")


@click.command("render")
@click.argument("source")
@click.option("--out", "-o", default="render", show_default=True, help="Folder for the pictures and videos.")
@click.option("--format", "format_name", metavar="NAME", help="Source format; detected where it can be.")
@click.option("--option", "-O", "options", multiple=True, metavar="NAME=VALUE", help="An option of the converter.")
@click.option("--mapping", metavar="FILE", help="Mapping file of a raw log: short for -O mapping=FILE.")
@click.option("--episode", metavar="ID", help="Episode id, or its number in the order of discovery.  [default: first]")
@click.option("--views", "views", multiple=True, help="Views to draw, comma-separated.  [default: all]")
@click.option("--cameras", "camera_file", metavar="FILE", help="Camera file, for a trajectory file.")
@click.option(
    "--refined-cameras",
    "refined_file",
    metavar="FILE",
    help="Camera file laid over SOURCE's own cameras: of `actionimg calibrate refine` or `guess`.",
)
@click.option("--fps", type=float, help="Frame rate, for a trajectory file that has no times.")
@click.option(
    "--size", type=SIZE, help="Picture size, N or HxW.  [default: 512; of a trajectory file, the cameras' own]"
)
@click.option("--spec", "spec_file", metavar="FILE", help="JSON file with an ActionImageSpec.")
@click.option("--start", type=click.IntRange(0), help="First frame to draw.  [default: 0]")
@click.option("--num-frames", type=click.IntRange(1), help="How many frames to draw.  [default: to the end]")
@click.option("--stride", type=click.IntRange(1), default=1, show_default=True, help="Draw each N-th frame.")
@click.option("--columns", type=click.IntRange(1), default=7, show_default=True, help="Frames in the contact sheet.")
@click.option("--tile", type=click.IntRange(16), default=192, show_default=True, help="Size of its pictures in pixels.")
@click.option("--style", type=click.Choice(["keypoints", "mesh"]), default="keypoints", show_default=True)
@click.option("--mesh", "mesh_file", metavar="FILE", help="Gripper mesh or URDF, for --style mesh.")
@click.option("--device", default="cpu", show_default=True, help="Torch device, for --style mesh.")
@click.option("--video/--no-video", default=True, help="Write the overlay videos, not only the contact sheet.")
@click.option(
    "--overlay", is_flag=True, help="Videos of the overlay alone, not beside the picture and its action image."
)
@click.option(
    "--compare",
    is_flag=False,
    flag_value=_STORED,
    metavar="[FILE]",
    help="Videos of the recorded trajectory beside another: that of FILE (what `actionimg decode` writes), or "
    "without a FILE the one that the data set's own action videos decode to. A FILE of the window that --start, "
    "--stride and --num-frames choose, or of the whole episode.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object that names what was written.")
def command(source: str, out: str, as_json: bool, **given: Any) -> None:
    """Draw action images over SOURCE's own pictures: is the calibration right?

    SOURCE is demonstrations in any format that `actionimg converters` lists; one episode of it is drawn, as a contact
    sheet (PNG) and as one video a view: RGB | action image | both blended. Below each frame of a video are its time,
    the openness over time, and which of the three points the view shows: a disc inside the picture, a ring outside, a
    cross behind the camera. SOURCE may also be a data set of ours (--episode takes a sample's key), or a trajectory
    file (CSV, NPZ, NPY or JSON of action_7d, action_8d, or what `actionimg decode` writes), which is drawn into the
    cameras of --cameras.

    The red blob has to sit between the fingertips in every view and every frame.

    \b
    actionimg render ~/rlbench_demos --out look
    actionimg render ~/rlbench_demos --episode open_drawer/all_variations/episode5 --views front,wrist
    actionimg render trajectory.csv --cameras cameras.json --out look
    actionimg render recordings --mapping map.yaml --refined-cameras cameras.json --out look
    actionimg render ~/rlbench_demos --style mesh
    actionimg render shards --compare
    actionimg render shards --episode 3 --compare trajectory.csv
    actionimg render shards --episode 3 --start 20 --stride 2 --compare generated.csv
    """
    folder = Path(out)
    if given["mapping"] is not None:
        given["options"] += (f"mapping={given['mapping']}",)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("cannot make the folder", where=out, found=error.strerror) from None
    if Path(source).is_file() and Path(source).suffix.lower() in _TRAJECTORY_SUFFIXES and not given["format_name"]:
        result = _render_trajectory(source, folder, given)
    else:
        result = _render_episode(source, folder, given)
    if as_json:
        emit_json(result)
        return
    for path in result["files"]:
        click.echo(path)
    found = result.get("difference_mm")
    if found is not None:
        text = "no frame has both"
        if found["frames"]:
            text = f"median {found['median']:.3g} mm, p95 {found['p95']:.3g} mm, largest {found['max']:.3g} mm"
        click.echo(f"distance of the two, in {found['frames']} of {result['frames']} frames: {text}")


def _render_episode(source: str, folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    from ..report import clips, pictures
    from ..shards.window import window_frames

    spec = load_spec(given["spec_file"], given["size"] or _SIZE)
    other: dict[str, GripperTrajectory] | None = None
    from ..shards.layout import place

    if (place(source) / "dataset.json").is_file() and not given["format_name"]:
        sample = pick_sample(source, given["episode"])
        episode = episode_of(sample)
        if given["compare"] == _STORED:
            other = _decoded(sample)
    else:
        converter = make_converter(source, given["format_name"], given["options"])
        episode = read_episode(converter, source, given["episode"])
        if given["refined_file"] is not None:
            from ..calibrate.files import with_cameras
            from ..cameras.files import load_user_cameras

            episode = with_cameras(episode, load_user_cameras(Path(given["refined_file"])))
        if given["compare"] == _STORED:
            raise InvalidSpecError(
                "a source has no action videos to decode",
                field="--compare",
                expected="a trajectory file",
                hint="Name one, or give a data set of ours.",
            )
    if given["compare"] not in (None, _STORED):
        frames, other = _read_other(given["compare"], given, episode)
    else:
        frames = window_frames(len(episode), given["start"] or 0, given["stride"], given["num_frames"], episode.id)
        other = other and {name: trajectory[frames] for name, trajectory in other.items()}
    views = split_names(given["views"]) or [n for n, v in episode.views.items() if v.camera is not None]
    if not views:
        raise MissingCalibrationError("no view has a camera", where=episode.id)
    episode = episode.with_views(views).select(range(int(frames[0]), int(frames[-1]) + 1, given["stride"]))
    files = []
    if given["style"] == "keypoints":
        sheet = folder / "contact_sheet.png"
        _write(sheet, pictures.png_bytes(pictures.contact_sheet(episode, spec, views, given["columns"], given["tile"])))
        files.append(str(sheet))
    if given["video"] or given["style"] == "mesh":
        with progress("render", len(views) * len(episode), "frames") as advance:
            for view in views:
                if given["style"] == "mesh":
                    kind, drawn = "mesh", _mesh_frames(episode, view, spec, given)
                elif other is not None:
                    kind, drawn = "compare", clips.compared(episode, other, view, spec)
                else:
                    kind, drawn = "overlay", clips.overlaid(episode, view, spec, alone=given["overlay"])
                path = folder / f"{view}.{kind}.mp4"
                _write_video(path, _counted(drawn, advance), episode.fps)
                files.append(str(path))
    result = {"episode": episode.id, "frames": len(episode), "fps": episode.fps, "views": views, "files": files}
    result["in_view"] = _in_view(episode)
    return result if other is None else {**result, "difference_mm": clips.differences(episode, other)}


def _in_view(episode: Episode) -> dict[str, float]:
    """How often each view shows the gripper; what is likely wrong with one that never does is said."""
    from ..plausibility import in_view, why_out_of_view

    shares = in_view(episode)
    for name, share in shares.items():
        if share == 0:
            likely = "; or ".join(why_out_of_view(episode, name)[:3]) or "is it the calibration of this camera?"
            log.warning("the gripper is in no frame of %s: %s", name, likely)
    return {name: round(share, 3) for name, share in shares.items()}


def _decoded(sample: Sample) -> dict[str, GripperTrajectory]:
    """What the stored action videos of a sample decode to."""
    from ..shards.verify import decode_sample

    if sample.spec is None or sample.meta.action_codec == "none":
        raise WrongFormatError("stores no action videos to decode", where=sample.key, field="--compare")
    return {name: decoded.trajectory for name, decoded in decode_sample(sample, sample.spec).items()}


def _read_other(
    path: str, given: dict[str, Any], episode: Episode
) -> tuple[NDArray[np.int64], dict[str, GripperTrajectory]]:
    """The frames to draw, and a file's trajectory at them, for the only gripper of an episode."""
    from ..model.files import read_trajectory
    from ..shards.window import window_frames

    if len(episode.grippers) > 1:
        raise UnsupportedSourceError(
            "a trajectory file holds one gripper",
            where=path,
            field="--compare",
            found=f"an episode of {' '.join(episode.grippers)}",
        )
    start, stride, wanted = given["start"] or 0, given["stride"], given["num_frames"]
    of_window = given["start"] is not None or wanted is not None
    other = read_trajectory(path, given["fps"] or episode.fps / stride)
    most = len(range(start, len(episode), stride))
    whole = len(other) == len(episode)
    fits = whole or (of_window and len(other) <= most)
    if not fits or (wanted or 0) > (most if whole else len(other)):
        raise FrameCountError(
            "trajectory and episode differ in length",
            where=path,
            expected=f"at most {most} from frame {start} on at stride {stride}" if of_window else len(episode),
            found=len(other),
            hint=None if of_window else "--start says which frame it begins with.",
        )
    frames = window_frames(len(episode), start, stride, wanted or (most if whole else len(other)), episode.id)
    chosen = other[frames] if whole else other[: len(frames)]
    return frames, {next(iter(episode.grippers)): chosen}


def _mesh_frames(episode: Episode, view: str, spec: ActionImageSpec, given: dict[str, Any]) -> Iterator[Image]:
    import numpy as np

    from ..report import pictures

    try:
        from ..raster.mesh_backend import blend_overlay, render_overlay_frames
    except ImportError as error:
        from ..errors import MissingExtraError

        raise MissingExtraError(
            "--style mesh needs PyTorch3D",
            found=error,
            hint="pip install torch==2.12.0 easypytorch3d==0.7.9.post1",
        ) from None
    source = episode.views[view]
    if source.camera is None:
        raise MissingCalibrationError("cannot draw without a camera", where=episode.id, field=view)
    camera = source.camera.resized(spec.height, spec.width)
    drawn = render_overlay_frames(episode.trajectory, camera, spec, mesh=given["mesh_file"], device=given["device"])
    for picture, overlay in zip(source.frames.frames(range(len(episode))), drawn, strict=True):
        below = pictures.fit(picture, spec.height, spec.width)
        # A grey mesh over a grey gripper shows nothing: keep its shading, change its colour.
        shade = overlay.rgb.max(axis=-1, keepdims=True) / 255
        tinted = overlay._replace(rgb=np.asarray(shade * _MESH_COLOUR, np.uint8))
        yield np.concatenate([below, blend_overlay(below, tinted, _MESH_OPACITY)], axis=1)


def _render_trajectory(source: str, folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from ..model.files import read_trajectory
    from ..raster import render_frames, render_view
    from ..report import pictures
    from ..shards.window import window_cameras, window_frames

    if not given["camera_file"]:
        raise MissingCalibrationError(
            "a trajectory file has no cameras", where=source, hint="Give a camera file with --cameras."
        )
    if given["compare"] is not None:
        raise InvalidSpecError(
            "a trajectory file has no pictures to compare in", where=source, field="--compare", hint="Give its episode."
        )
    if given["style"] == "mesh":
        raise InvalidSpecError("a trajectory file has no pictures to draw a mesh over", field="--style", found="mesh")
    trajectory = read_trajectory(source, given["fps"])
    known = load_cameras(given["camera_file"], given["episode"])
    views = split_names(given["views"]) or list(known)
    unknown = [v for v in views if v not in known]
    if unknown:
        raise InvalidSpecError(
            "no such camera",
            field="--views",
            expected=" ".join(known),
            found=" ".join(unknown),
            hint=suggestion(unknown[0], known),
        )
    spec = load_spec(given["spec_file"], given["size"] or _own_size([known[v] for v in views], given["camera_file"]))
    trajectory = trajectory[
        window_frames(len(trajectory), given["start"] or 0, given["stride"], given["num_frames"], source)
    ]
    chosen = window_cameras({v: known[v] for v in views}, None, 1, len(trajectory), given["camera_file"])
    cameras = fit_cameras(chosen, spec.height, spec.width, given["camera_file"])
    n = len(trajectory)
    fps = (n - 1) / float(trajectory.times[-1] - trajectory.times[0]) if n > 1 else given["fps"] or 1.0
    shown = pictures.evenly(n, given["columns"])
    rows = []
    for view in views:
        row = []
        for index in shown:
            panel = render_view(trajectory, cameras[view].track(n), spec, slice(index, index + 1))[0]
            panel = pictures.fit(panel, given["tile"], max(1, round(given["tile"] * spec.width / spec.height)))
            pictures.label(panel, view, str(index), float(trajectory.openness[index]))
            row.append(panel)
        rows.append(np.concatenate(row, axis=1))
    sheet = folder / "contact_sheet.png"
    _write(sheet, pictures.png_bytes(np.concatenate(rows, axis=0)))
    files = [str(sheet)]
    if given["video"]:
        with progress("render", len(views) * n, "frames") as advance:
            for view in views:
                path = folder / f"{view}.action.mp4"
                frames = render_frames(trajectory, cameras[view].track(n), spec)
                _write_video(path, _counted(frames, advance), fps)
                files.append(str(path))
    return {"episode": None, "frames": n, "fps": fps, "views": views, "files": files}


def _own_size(cameras: list[Camera | CameraTrack], where: str) -> tuple[int, int]:
    """Height and width of the pictures of all cameras."""
    sizes = {(camera.height, camera.width) for camera in cameras}
    if len(sizes) > 1:
        raise InvalidSpecError(
            "cameras differ in picture size: say which one to draw at",
            where=where,
            field="--size",
            found=", ".join(f"{height}x{width}" for height, width in sorted(sizes)),
        )
    return sizes.pop()


def _counted(frames: Iterator[Image], advance: Any) -> Iterator[Image]:
    for frame in frames:
        yield frame
        advance()


def _write_video(path: Path, frames: Iterator[Image], fps: float) -> None:
    import itertools

    from ..video import encode_bytes, rgb_encoding

    first = next(frames)
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2
    if (height, width) != first.shape[:2]:
        console().print(f"{path.name}: cut to {width}x{height}, H.264 needs even sizes", style="yellow")
    even = (f[:height, :width] for f in itertools.chain([first], frames))
    _write(path, encode_bytes(even, rgb_encoding(), fps, height, width))


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise OutputError("cannot write", where=path, found=error.strerror) from None

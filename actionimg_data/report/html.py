"""A data set as one HTML file that needs no network: pictures, plots and figures to look at and to mail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..errors import ActionImgError, InvalidSpecError, WrongFormatError
from ..objectstore import RemotePath
from ..raster import merge
from ..schemas import ActionImageSpec, DatasetManifest
from ..shards import Dataset, Sample, layout, open_dataset
from ..shards.layout import Place
from ..shards.manifest import read_quarantine
from ..shards.verify import RoundTrip
from . import collect, plots
from .page import Album, asset, safe, script_hash, template
from .pictures import blend, evenly, mark, over_camera
from .tiles import MOST_TILES, Reel, tiles

Image = NDArray[np.uint8]
CURVE_BYTES: Final = 4_400_000
"""Curves over time end here, as pictures do: with several grippers there are many."""
MOST_SAMPLES: Final = 40
MOST_VIEWS: Final = 8
COLUMNS: Final = 6
_NOISE: Final = 12
_TILE: Final = 176
_WORST_TILE: Final = 256


@dataclass
class ReportSummary:
    """What was written."""

    path: Path
    bytes: int = 0
    samples: int = 0
    samples_shown: int = 0
    samples_decoded: int = 0
    pictures: int = 0
    videos: int = 0
    notes: list[str] = field(default_factory=list)


def write_report(
    out: str | Path, html: str | Path | None = None, *, samples: int = 6, grid: int = 24, frames: slice = slice(None)
) -> ReportSummary:
    """Write the report of a data set.

    Args:
        out: Folder of the data set.
        html: File to write; by default ``OUT.report.html`` beside the data set.
        samples: How many samples are shown with pictures and curves.
        grid: How many are in the grid, each with a short video.
        frames: Which frames of each of them are shown.

    Returns:
        What was written, and what was left out.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
        SourceNotFoundError: There is no data set.
        CorruptDatasetError: The data set is damaged or not complete.
        OutputError: The file cannot be written.
    """
    for name, wanted, most in (("samples", samples, MOST_SAMPLES), ("grid", grid, MOST_TILES)):
        if not 0 <= wanted <= most:
            raise InvalidSpecError("out of range", field=name, expected=f"0 … {most}", found=wanted)
    place = layout.place(out)
    page = template("report.html")
    dataset = open_dataset(place)
    if dataset.manifest is None:
        raise WrongFormatError("is a shard", where=place, expected="the folder of a data set")
    target = Path(html) if html is not None else _default_path(place)
    summary = ReportSummary(target, samples=len(dataset))
    content = _content(place, dataset, dataset.manifest, (samples, grid), summary, frames)
    text = page.render(**content)
    data = text.encode("utf-8")
    layout.publish(target, data)
    summary.bytes = len(data)
    return summary


def _default_path(out: Place) -> Path:
    # Of a data set in a store, beside where the command is given.
    folder = Path(out.name).absolute() if isinstance(out, RemotePath) else out.resolve()
    return folder.with_name(f"{folder.name}.report.html")


def _content(
    out: Place,
    dataset: Dataset,
    manifest: DatasetManifest,
    wanted: tuple[int, int],
    summary: ReportSummary,
    frames: slice,
) -> dict[str, Any]:
    samples, grid = wanted
    spec = manifest.options.spec
    album = Album()
    moved = collect.motion(dataset, spec, manifest.views, manifest.grippers or ("",))
    trips = [] if manifest.options.action_codec == "none" else collect.decode(dataset, spec, moved.unreadable)
    bad = {key for key, _ in moved.unreadable}
    # The worst frames first, so that a small budget is spent on them.
    worst = list(_worst(dataset, trips, spec, album))
    shown = list(_samples(dataset, spec, samples, album, bad, moved.unreadable, frames))
    reel = Reel()
    wall = tiles(dataset, spec, collect.spread(dataset, grid) if grid else [], reel, moved.unreadable)
    summary.videos = reel.count
    summary.samples_shown, summary.samples_decoded, summary.pictures = (
        len(shown),
        len({t.key for t in trips}),
        album.count,
    )
    if moved.unreadable:
        summary.notes.append(f"{len(moved.unreadable)} samples could not be read")
    if album.left_out:
        summary.notes.append(f"{album.left_out} pictures were left out to keep the file small")
    if reel.left_out:
        summary.notes.append(f"{reel.left_out} videos were left out to keep the file small")
    script = "".join(map(asset, ("hover.js", "tiles.js", "script.js")))
    return {
        "name": out.resolve().name,
        "out": str(out),
        "version": __version__,
        "style": safe(asset("style.css") + asset("tiles.css")),
        "script": safe(script),
        "script_hash": script_hash(script),
        "manifest": manifest,
        "counts": manifest.counts,
        "spec": spec,
        "seconds": _seconds(dataset),
        "command": collect.command_of(manifest, str(out)),
        "samples": shown,
        "wall": wall,
        "reel": reel,
        "motion": _motion(moved, manifest),
        "decode": _decode(dataset, manifest, trips, worst),
        "calibration": collect.calibration(dataset),
        "findings": collect.findings(dataset, read_quarantine(out)),
        "timing": _timing(dataset, moved),
        "words": _words(dataset),
        "quarantine": collect.quarantine(read_quarantine(out)),
        "unreadable": moved.unreadable,
        "album": album,
    }


def _seconds(dataset: Dataset) -> float:
    frames = np.asarray(dataset.table["frames"].to_pylist(), np.float64)
    return float((frames / np.asarray(dataset.table["fps"].to_pylist(), np.float64)).sum())


def _samples(
    dataset: Dataset,
    spec: ActionImageSpec,
    wanted: int,
    album: Album,
    bad: set[str],
    unreadable: list[tuple[str, str]],
    window: slice,
) -> Iterator[dict[str, Any]]:
    room = CURVE_BYTES
    for number in collect.spread(dataset, wanted) if wanted else []:
        sample = dataset[number]
        if sample.key in bad:
            continue
        try:
            frames = range(len(sample))[window]
            if not frames:
                continue
            columns = [frames[i] for i in evenly(len(frames), COLUMNS)]
            views = [
                {"name": view, "sheet": album.add(_sheet(sample, view, spec, columns))}
                for view in sample.views[:MOST_VIEWS]
            ]
            drawn = {
                # Several grippers share the room of one: the file's size does not grow with their number.
                name: plots.trajectory_plots(f"s{number}g{i}", trajectory[window], max(40, 400 // len(sample.grippers)))
                for i, (name, trajectory) in enumerate(sample.grippers.items())
            }
        except ActionImgError as error:
            unreadable.append((sample.key, str(error)))
            continue
        room -= sum(len(plot["svg"]) for curves in drawn.values() for plot in curves)
        times = sample.times[window]
        yield {
            "number": number,
            "key": sample.key,
            "instruction": sample.instruction,
            "task": sample.meta.task,
            "frames": len(frames),
            "fps": sample.fps / frames.step,
            "seconds": float(times[-1] - times[0]),
            "views": views,
            "more_views": len(sample.views) - len(views),
            "columns": columns,
            "rows": ("camera", "action", "both") if sample.meta.calibrated else ("camera",),
            "grippers": [
                {"gripper": name, "plots": [{**plot, "svg": safe(plot["svg"])} for plot in curves]}
                for name, curves in (drawn.items() if room >= 0 else ())
            ],
        }


def _tile(spec: ActionImageSpec, tile: int) -> tuple[int, int]:
    scale = min(1.0, tile / min(spec.height, spec.width))
    return max(1, round(spec.height * scale)), max(1, round(spec.width * scale))


def _shrunk(picture: Image, height: int, width: int) -> Image:
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _sheet(sample: Sample, view: str, spec: ActionImageSpec, frames: Sequence[int]) -> Image:
    """Stored frames of one view: a row of pictures, of action images, and of their blend."""
    height, width = _tile(spec, _TILE)
    if not sample.meta.calibrated:
        return _mosaic([[_shrunk(picture, height, width) for picture in sample.rgb(view, frames)]])
    rows: list[list[Image]] = [[], [], []]
    for frame, parts in zip(frames, _stored(sample, view, frames), strict=True):
        rgb, action = (_shrunk(part, height, width) for part in parts)
        rows[0].append(rgb)
        rows[1].append(action)
        rows[2].append(_marked(sample, view, frame, rgb, action, spec))
    return _mosaic(rows)


def _mosaic(rows: Sequence[Sequence[Image]], gap: int = 4) -> Image:
    """Pictures of one size in rows, ``(H, W, 4)``, with transparent gaps that show the page's own colour."""
    height, width = rows[0][0].shape[:2]
    sheet = np.zeros((len(rows) * (height + gap) - gap, len(rows[0]) * (width + gap) - gap, 4), np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            y, x = i * (height + gap), j * (width + gap)
            sheet[y : y + height, x : x + width, :3] = picture
            sheet[y : y + height, x : x + width, 3] = 255
    return sheet


def _stored(sample: Sample, view: str, frames: Sequence[int]) -> Iterator[tuple[Image, Image]]:
    """Stored pictures and action images, those of several grippers added up."""
    action = merge([sample.action(view, frames, name) for name in sample.action_names])
    yield from zip(sample.rgb(view, frames), action, strict=True)


def _marked(sample: Sample, view: str, frame: int, rgb: Image, action: Image, spec: ActionImageSpec) -> Image:
    """The blend of a frame's two pictures, with the axes of its stored poses."""
    small = spec.resized(rgb.shape[0], rgb.shape[1])
    found = collect.keypoint_frame(sample, frame, spec.over_camera())
    quiet = over_camera(action, spec).copy()
    # What compression adds to the pedestal would be speckles in the blend.
    quiet[..., 2][quiet[..., 2] <= 255 * spec.pedestal * len(found) + _NOISE] = 0
    picture = blend(rgb, quiet, small)
    at = sample.views.index(view)
    # Pixel index 0 is coordinate 0 in both sizes, so the centres of the first pixels stay half a pixel apart.
    scale = np.array([small.width / spec.width, small.height / spec.height])
    for uv, valid in found.values():
        mark(picture, (uv[at] + 0.5) * scale - 0.5, valid[at])
    return picture


def _worst(
    dataset: Dataset, trips: Sequence[RoundTrip], spec: ActionImageSpec, album: Album, most: int = 6
) -> Iterator[dict[str, Any]]:
    height, width = _tile(spec, _WORST_TILE)
    for bad in collect.worst_frames(trips, most):
        sample = dataset[bad.key]
        uv, valid = collect.keypoint_frame(sample, bad.frame, spec)[bad.gripper]
        inside = valid & ((uv >= 0) & (uv <= [spec.width - 1, spec.height - 1])).all(axis=-1)
        # The two views that show most: what went wrong is seen in them.
        views = [sample.views[i] for i in np.argsort(-inside.sum(axis=1), kind="stable")[:2]]
        pictures = []
        for view in views:
            rgb, action = (_shrunk(part, height, width) for part in next(_stored(sample, view, [bad.frame])))
            strip = _mosaic([[rgb, action, _marked(sample, view, bad.frame, rgb, action, spec)]])
            pictures.append({"view": view, "picture": album.add(strip)})
        yield {"frame": bad, "pictures": pictures}


def _motion(moved: collect.Motion, manifest: DatasetManifest) -> dict[str, Any] | None:
    known = [path for path in moved.paths if np.isfinite(path.position).any()]
    if not known:
        return None
    space = plots.scene(known)
    points = np.concatenate([path.position[np.isfinite(path.position).all(axis=1)] for path in known])
    low, high = points.min(axis=0), points.max(axis=0)
    cameras = []
    for name, camera in known[0].cameras.items():
        K = camera.K[0]
        cameras.append(
            {
                "name": name,
                "moving": not camera.is_static,
                "fx": float(K[0, 0]),
                "fy": float(K[1, 1]),
                "cx": float(K[0, 2]),
                "cy": float(K[1, 2]),
                "field": float(np.rad2deg(2 * np.arctan(camera.width / (2 * K[0, 0])))),
                "position": camera.world_from_camera[0, :3, 3].tolist(),
            }
        )
    return {
        "samples": len({path.key for path in moved.paths}),
        "grippers": list(manifest.grippers),
        "frames": moved.frames,
        "missing_pose": moved.missing_pose,
        "scene": {**space, "svg": safe(space["svg"])},
        "coverage": [
            {"title": title, "svg": safe(plots.coverage(f"cover{i}", f"Gripper positions, {title}", points, a, b))}
            for i, (title, a, b) in enumerate(
                (("from above", 0, 1), ("from the side, along y", 0, 2), ("along x", 1, 2))
            )
        ],
        "extent": [
            {"axis": axis, "low": float(a), "high": float(b)} for axis, a, b in zip("xyz", low, high, strict=True)
        ],
        "cameras": cameras,
        "calibrated": not manifest.options.poses_only,
        "visibility": [
            {"view": row.view, "gripper": row.gripper, "seen": row.keypoints.tolist(), "all": row.all_three}
            for row in moved.seen
        ],
        "two_views": moved.two_views,
    }


def _decode(
    dataset: Dataset, manifest: DatasetManifest, trips: Sequence[RoundTrip], worst: list[dict[str, Any]]
) -> dict[str, Any]:
    position = collect.recorded(dataset, "decode_position_p95_mm")
    position = position[np.isfinite(position)]
    found: dict[str, Any] = {
        "stored": manifest.options.action_codec != "none",
        "recorded": len(position),
        "worst_recorded": float(position.max()) if len(position) else None,
        "histograms": [],
        "worst": worst,
        "samples": len({trip.key for trip in trips}),
        "grippers": list(manifest.grippers),
        "frames": 0,
    }
    mm = np.concatenate([t.position_mm for t in trips]) if trips else np.zeros(0)
    degrees = np.concatenate([t.rotation_deg for t in trips]) if trips else np.zeros(0)
    found["frames"] = len(mm)
    found["missed"] = sum(t.missed for t in trips)
    found["undecodable"] = sum(t.undecodable for t in trips)
    found["openness"] = sum(t.openness_right for t in trips) / len(mm) if len(mm) else None
    found["statistics"] = []
    if len(mm):
        for title, values, unit in (("Position", mm, " mm"), ("Rotation", degrees, "°")):
            median, p95 = np.quantile(values, [0.5, 0.95])
            found["statistics"].append(
                {
                    "title": title,
                    "unit": unit,
                    "median": float(median),
                    "p95": float(p95),
                    "max": float(values.max()),
                }
            )
            svg = plots.histogram(
                f"err{title[0]}", f"{title} error of each frame, {unit}", values, {"°": "degrees"}.get(unit, "mm")
            )
            found["histograms"].append({"title": f"{title} error, each frame", "svg": safe(svg)})
    found["each"] = []
    for name in manifest.grippers:
        own = [t for t in trips if t.gripper == name and t.decoded]
        if own:
            found["each"].append(
                {
                    "gripper": name,
                    "mm": float(np.quantile(np.concatenate([t.position_mm for t in own]), 0.95)),
                    "degrees": float(np.quantile(np.concatenate([t.rotation_deg for t in own]), 0.95)),
                    "openness": sum(t.openness_right for t in own) / sum(t.decoded for t in own),
                }
            )
    if len(position) > 1:
        svg = plots.histogram("errRec", "95th percentile of each sample's position error, mm", position, "mm")
        title = f"p95 of each sample, all {len(position)}"
        found["histograms"].append({"title": title, "svg": safe(svg)})
    return found


def _timing(dataset: Dataset, moved: collect.Motion) -> dict[str, Any]:
    rates = sorted((row["values"], row["counts"]) for row in dataset.table["fps"].value_counts().to_pylist())
    frames = np.asarray(dataset.table["frames"].to_pylist(), np.float64)
    found: dict[str, Any] = {"rates": rates[:12], "more_rates": max(0, len(rates) - 12), "sync": dict(moved.sync)}
    found["frames"] = (int(frames.min()), int(np.median(frames)), int(frames.max())) if len(frames) else None
    found["plots"] = []
    if len(frames) > 1 and frames.min() < frames.max():
        svg = plots.histogram("lengths", "Frames of each sample", frames, "frames", whole=True)
        found["plots"].append({"title": "Length of the samples", "svg": safe(svg)})
    residuals = moved.residuals_ms
    found["residual"] = None
    if len(residuals):
        median, p95 = np.quantile(residuals, [0.5, 0.95])
        found["residual"] = {"median": float(median), "p95": float(p95), "max": float(residuals.max())}
        svg = plots.histogram("sync", "Time from a frame to its nearest measured pose, ms", residuals, "ms")
        found["plots"].append({"title": "From a frame to its nearest pose", "svg": safe(svg)})
    intervals = [1000 * np.diff(path.times) for path in moved.paths if len(path.times) > 1]
    if intervals:
        every = np.concatenate(intervals)
        if float(np.ptp(every)) > 0.01:
            svg = plots.histogram("steps", "Time from one frame to the next, ms", every, "ms")
            found["plots"].append({"title": "From one frame to the next", "svg": safe(svg)})
    return found


def _words(dataset: Dataset) -> dict[str, Any]:
    found = collect.instructions(dataset)
    svg = None
    if len(found.lengths) > 1 and found.lengths.min() < found.lengths.max():
        svg = safe(plots.histogram("words", "Words of each instruction", found.lengths, "words", whole=True))
    return {
        "distinct": found.distinct,
        "most": found.most,
        "top": max((n for _, n in found.most), default=1),
        "words": found.words,
        "tasks": found.tasks,
        "svg": svg,
    }

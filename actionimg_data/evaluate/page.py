"""A run as one HTML file: figures, curves, and the worst predictions drawn over the pictures, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..decode import BlobMeasurements, measure_blobs, solve
from ..errors import ActionImgError
from ..geometry.crop import CropResize
from ..model import CameraTrack, GripperTrajectory
from ..raster import project_keypoints
from ..report import plots
from ..report.page import Album, asset, safe, script_hash, template
from ..report.pictures import blend, evenly, label, mark, over_camera
from ..schemas import ActionImageSpec
from ..schemas.evaluation import Comparison, Evaluation, PredictionScores
from ..shards import Dataset, Window, layout
from ..video.resize import apply
from .compare import FIGURES
from .prediction import Options, opened_parts, sample_of, window_of
from .run import Run
from .score import Scored

Image = NDArray[np.uint8]

WORST: Final = 8
FRAMES: Final = 13
_TILE: Final = 232
_VIEWS: Final = 2
_LISTED: Final = 200
_GAP: Final = 4
_NOISE: Final = 20
LOWER_IS_BETTER: Final = tuple(name for name in FIGURES if "error" in name or "weak" in name)


def write_page(run: Run, dataset: Dataset, options: Options, target: Path, comparison: Comparison | None = None) -> int:
    """Write the page of a run; returns its size in bytes.

    Args:
        run: What was scored.
        dataset: What it was held against.
        options: How it was judged.
        target: File to write.
        comparison: Differences to other runs.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
        OutputError: The file cannot be written.
    """
    page = template("evaluation.html", __package__)
    album = Album()
    ranked = sorted(run.evaluation.by_sample, key=badness, reverse=True)
    by_line = {one.about["prediction"]: one for one in run.scored}
    script = asset("evaluation.js", __package__)
    text = page.render(
        evaluation=run.evaluation,
        style=safe(asset("style.css", "actionimg_data.report") + asset("evaluation.css", __package__)),
        script=safe(script),
        script_hash=script_hash(script),
        rows=list(_rows(run.evaluation)),
        worst=list(_worst(run, dataset, options, ranked[:WORST], by_line, album)),
        ranked=ranked[:_LISTED],
        curves=_curves(run.evaluation),
        comparison=comparison,
        album=album,
    )
    data = text.encode("utf-8")
    layout.publish(target, data)
    return len(data)


def badness(one: PredictionScores) -> tuple[float, float]:
    """What puts a prediction first: the share of frames that are not within 10 mm and 5 degrees, then the error."""
    held = one.position_error_mm_held.mean
    return 1 - (one.success["10mm_5deg"] or 0.0), np.inf if held is None else held


def _rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Rows of the table of figures: the predictions, and the baselines under them."""
    yield {"name": "predictions", "what": f"{evaluation.samples} of {evaluation.run}", "scores": evaluation}
    for one in evaluation.baselines:
        yield {"name": one.name, "what": f"{one.what}; {one.predictions} windows", "scores": one}


def _curves(evaluation: Evaluation) -> list[dict[str, Any]]:
    frames = evaluation.by_frame
    number = np.array([row["frame"] for row in frames], np.float64)

    def column(name: str) -> NDArray[np.float64]:
        return np.array([np.nan if row[name] is None else row[name] for row in frames], np.float64)

    over = np.array([row.over for row in evaluation.trust])
    right = np.array([np.nan if row.right is None else row.right for row in evaluation.trust])
    share = np.array([row.fraction for row in evaluation.trust])
    made = [
        ("Position error over the horizon", "mm, median", (), "frame", number, [("blue", column("position_mm"))], {}),
        ("Rotation error over the horizon", "°, median", (), "frame", number, [("green", column("rotation_deg"))], {}),
        (
            "Frames that are trusted more than …",
            "share",
            (("are right", "blue"), ("of all frames", "red")),
            "trust",
            over,
            [("blue", right), ("red", share)],
            {"ylim": (-0.04, 1.04)},
        ),
    ]
    return [
        {
            "title": title,
            "unit": unit,
            "key": key,
            "svg": safe(plots.curves(f"c{i}", f"{title}, {unit}", x, series, xlabel, **limits)),
        }
        for i, (title, unit, key, xlabel, x, series, limits) in enumerate(made)
        if len(x)
    ]


@dataclass(frozen=True)
class _Shown:
    """A prediction to be drawn: some frames of it."""

    window: Window
    numbers: list[int]
    """Which of the window's frames."""
    actions: dict[str, Image]
    """The prediction's pictures ``(n, H, W, 3)`` by view."""
    found: GripperTrajectory
    """What they decode to."""


def _worst(
    run: Run,
    dataset: Dataset,
    options: Options,
    ranked: Sequence[PredictionScores],
    by_line: dict[int, Scored],
    album: Album,
) -> Iterator[dict[str, Any]]:
    for one in ranked:
        scored = by_line[one.prediction]
        try:
            shown = _shown(run, dataset, options, one)
            frames = [
                {"picture": album.add(picture), **_caption(scored, shown.window, number)}
                for number, picture in zip(shown.numbers, _pictures(shown, one.gripper_name), strict=True)
            ]
        except ActionImgError as error:
            yield {"scores": one, "problem": str(error), "frames": [], "plots": [], "instruction": "", "views": []}
            continue
        times = scored.frames["time_s"]
        name = f"p{one.prediction}"
        yield {
            "scores": one,
            "problem": "",
            "frames": [frame for frame in frames if frame["picture"]],
            "instruction": shown.window.sample.instruction,
            "views": list(shown.actions),
            "plots": [
                {
                    "title": title,
                    "unit": unit,
                    "svg": safe(plots.curves(f"{name}{column[0]}", f"{title}, {unit}", times, series, "s", **limits)),
                }
                for title, unit, column, series, limits in (
                    ("Position error", "mm", "position", [("blue", scored.frames["position_mm"])], {}),
                    ("Rotation error", "°", "rotation", [("green", scored.frames["rotation_deg"])], {}),
                    (
                        "Trust",
                        "and openness: true, predicted",
                        "trust",
                        [
                            ("muted", scored.frames["openness_true"]),
                            ("red", scored.frames["openness"]),
                            ("blue", scored.frames["trust"]),
                        ],
                        {"ylim": (-0.06, 1.06)},
                    ),
                )
            ],
        }


def _shown(run: Run, dataset: Dataset, options: Options, one: PredictionScores) -> _Shown:
    row = run.rows[one.prediction]
    sample = sample_of(dataset, row)
    with opened_parts(row, sample, run.root, options) as (action, _):
        window = window_of(row, sample, action, options)
        numbers = evenly(len(window), FRAMES)
        pictures = {
            view: np.stack(list(part.reader.frames([part.frames[i] for i in numbers])))
            for view, part in list(action.items())
        }
    spec = window.spec
    measured: list[BlobMeasurements] = [measure_blobs(video, spec) for video in pictures.values()]
    at = np.array(numbers)
    cameras = {view: track[at] for view, track in window.cameras.items()}
    found = solve(measured, cameras, spec, times=window.grippers[row.gripper].times[at]).trajectory
    levels = {
        view: video if video.dtype == np.uint8 else np.rint(255 * np.clip(video, 0, 1)).astype(np.uint8)
        for view, video in list(pictures.items())[:_VIEWS]
    }
    return _Shown(window, numbers, levels, found)


def _pictures(shown: _Shown, gripper: str) -> Iterator[Image]:
    """For each frame a row a view: the prediction over the picture, the truth over it, and the axes of both."""
    window, at = shown.window, np.array(shown.numbers)
    height, width = window.height, window.width
    scale = min(1.0, _TILE / height)
    small = window.spec.resized(max(1, round(height * scale)), max(1, round(width * scale)))
    truth = window.grippers[gripper][at]
    rgb = {view: _stored(window, view, shown.numbers) for view in shown.actions}
    drawn = {view: window.action(view, gripper)[at] for view in shown.actions}
    axes = {
        view: [
            _keypoints(trajectory, window.cameras[view][at], window.spec.over_camera(), small)
            for trajectory in (shown.found, truth)
        ]
        for view in shown.actions
    }
    for i in range(len(at)):
        rows = []
        for view in shown.actions:
            below, made, true = (_small(p[i], small) for p in (rgb[view], shown.actions[view], drawn[view]))
            both = below.copy()
            for uv, valid in (axes[view][1], axes[view][0]):
                mark(both, uv[i], valid[i])
            panels = [_over(below, made, window.spec), _over(below, true, window.spec), both]
            for panel, text in zip(panels, (f"{view}: predicted", "true", "both"), strict=True):
                label(panel, text)
            rows.append(_beside(panels, 1))
        yield _beside(rows, 0)


def _over(below: Image, action: Image, spec: ActionImageSpec) -> Image:
    """The blobs of an action picture over a camera picture; what compression adds to the pedestal is left out."""
    quiet = over_camera(action, spec).copy()
    quiet[..., 2][quiet[..., 2] <= 255 * spec.pedestal + _NOISE] = 0
    return blend(below, quiet, spec)


def _stored(window: Window, view: str, numbers: Sequence[int]) -> list[Image]:
    chosen = Window(window.sample, window.indices[np.array(numbers)], window.height, window.width, window.views)
    return list(chosen.rgb(view))


def _keypoints(
    trajectory: GripperTrajectory, camera: CameraTrack, spec: ActionImageSpec, small: ActionImageSpec
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Pixels ``(n, 3, 2)`` of the small picture, and which are in front of the camera ``(n, 3)``."""
    uv, valid = project_keypoints(trajectory, [camera], spec)
    factor = np.array([small.width / spec.width, small.height / spec.height])
    return (uv[0] + 0.5) * factor - 0.5, valid[0]


def _small(picture: Image, spec: ActionImageSpec) -> Image:
    height, width = picture.shape[:2]
    return apply(picture, CropResize(0, 0, width, height, spec.width, spec.height))


def _beside(parts: Sequence[Image], axis: int) -> Image:
    """Pictures side by side (1) or below each other (0), RGBA with transparent gaps."""
    whole = [cv2.cvtColor(p, cv2.COLOR_RGB2RGBA) if p.shape[-1] == 3 else p for p in parts]
    shape = list(whole[0].shape)
    shape[axis] = _GAP
    gap = np.zeros(shape, np.uint8)
    joined = [piece for part in whole for piece in (part, gap)][:-1]
    return np.asarray(np.concatenate(joined, axis=axis), np.uint8)


def _caption(scored: Scored, window: Window, number: int) -> dict[str, Any]:
    """What is said of a frame under its picture."""
    frame = int(window.indices[number])
    at = np.flatnonzero(scored.frames["frame"] == frame)
    if not len(at):
        return {
            "number": number,
            "text": f"frame {number} of the window, {frame} of the sample: its true pose is not known",
        }
    row = {name: float(values[at[0]]) for name, values in scored.frames.items()}
    if not row["valid"]:
        return {"number": number, "text": f"frame {number}: no pose ({scored.reasons[at[0]]})"}
    text = f"frame {number}: {row['position_mm']:.1f} mm, {row['rotation_deg']:.1f}°, trust {row['trust']:.2f}"
    return {"number": number, "text": text}

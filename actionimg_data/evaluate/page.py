"""A run as one HTML file: figures, curves, and the worst predictions drawn over the pictures, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import ActionImgError
from ..report import plots
from ..report.page import Album, asset, safe, script_hash, template
from ..schemas.evaluation import Comparison, Evaluation, PredictionScores
from ..shards import Dataset, Window, layout
from .compare import FIGURES
from .drawing import drawn, open_shown
from .prediction import Options
from .run import Run
from .score import Scored

WORST: Final = 8
_LISTED: Final = 200
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
    script = asset("hover.js", "actionimg_data.report") + asset("evaluation.js", __package__)
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
            shown = open_shown(run.rows[one.prediction], run.root, dataset, options)
            frames = [
                {"picture": album.add(picture), **_caption(scored, shown.window, number)}
                for number, picture in zip(shown.numbers, drawn(shown, one.gripper_name), strict=True)
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

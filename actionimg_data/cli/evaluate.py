"""``actionimg evaluate``: how good are the videos that a model generated?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InvalidSpecError, MissingExtraError
from ._common import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_QUARANTINE,
    EXIT_VERIFICATION_FAILED,
    console,
    cores,
    emit_json,
    output,
    progress,
)
from ._inputs import split_names

if TYPE_CHECKING:
    from ..evaluate.run import Line, Run
    from ..schemas.evaluation import Evaluation, Scores


@click.command("evaluate")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--against", required=True, metavar="OUT", help="The data set.")
@click.option("--out", "-o", metavar="FOLDER", help="Where to write.  [default: RUN.evaluation; of a URL, here]")
@click.option("--key", metavar="KEY", help="RUN is one prediction of this sample: VIEW=FILE…, or its canvas.")
@click.option("--start", type=click.IntRange(0), help="With --key: frame of the sample that the videos begin with.")
@click.option("--stride", type=click.IntRange(1), help="With --key: frames of the sample a frame of video.")
@click.option("--frames", type=click.IntRange(1), help="With --key: frames that the videos have to have.")
@click.option("--gripper", default="", help="With --key: whose videos, where the sample has several grippers.")
@click.option("--canvas", is_flag=True, help="With --key: one video of [video|action|video|action] in time.")
@click.option("--views", multiple=True, help="Views that every prediction has to show; with --canvas, in order.")
@click.option(
    "--task",
    type=click.Choice(["actions", "labelling"]),
    default="actions",
    show_default=True,
    help="labelling: action videos of given camera videos, with the coverage of tasks.",
)
@click.option(
    "--protocol",
    type=click.Choice(["ours", "published"]),
    default="ours",
    show_default=True,
    help="published: also the mean 3-D error, read as the published decoder does.",
)
@click.option("--any-rate", is_flag=True, help="Do not hold the videos' frame rate against that of their window.")
@click.option("--baselines/--no-baselines", default=True, help="Put the truth's codec and simple guesses beside.")
@click.option("--html/--no-html", default=True, help="Write the page (extra report).")
@click.option("--overwrite", is_flag=True, help="Score again what an earlier call has scored.")
@click.option("--num-workers", "-j", type=click.IntRange(1), help="Processes.  [default: cores]")
@click.option("--fail-under", multiple=True, metavar="KEY=VALUE", help="Exit code 3 where a figure is under VALUE.")
@click.option("--fail-over", multiple=True, metavar="KEY=VALUE", help="Exit code 3 where a figure is over VALUE.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object: the figures; of several runs, a comparison."
)
def command(runs: tuple[str, ...], against: str, as_json: bool, **given: Any) -> None:
    """Score generated action videos against the data set OUT that they should be like.

    RUN is a folder with predictions.jsonl (or such a file, or a URL), a line a prediction:

    \b
    {"key": KEY, "start": 0, "stride": 1, "views": {VIEW: FILE, …}}
    {"key": KEY, "start": 0, "stride": 1, "canvas": FILE, "views": [VIEW, …]}

    Files are MP4, MKV, WebM, GIF, folders of pictures or NPY, of any size: cameras follow the training loader's crop.
    Optional: "frames", "rgb" ({VIEW: FILE}: generated camera videos), "gripper". With --key one prediction is given on
    the command line. Several RUNs are compared with the first, over the predictions that both have.

    Written to the output folder: evaluation.json, predictions and frames (.csv, .parquet), evaluation.html with the
    worst predictions first, and scored.jsonl: the same command goes on from there, and scores what has changed.

    Exit codes: 3 where a figure is not as --fail-under or --fail-over asks, 4 where some predictions could not be
    scored (the others are), 1 where none could.

    \b
    actionimg evaluate generated --against out
    actionimg evaluate front=a.mp4 wrist=b.mp4 --against out --key open-drawer-000000 --start 20 --stride 4
    actionimg evaluate epoch_10 epoch_20 --against out
    actionimg evaluate generated --against out --fail-under success.10mm_5deg=0.8 --fail-over position_error_mm.median=5
    """
    from ..evaluate.compare import compare
    from ..evaluate.prediction import Options

    limits = [_limit(text, over) for over in (False, True) for text in given["fail_over" if over else "fail_under"]]
    names = split_names(given["views"])
    options = Options(given["task"], given["protocol"], given["any_rate"], tuple(names) or None)
    single = _single(runs, names, given)
    done = []
    for name in [",".join(runs)] if single else runs:
        folder = _folder(name, given["out"], len(runs) if not single else 1, single)
        done.append((_scored(name, against, options, folder, single, given), folder))
    comparison = compare([run.evaluation for run, _ in done]) if len(done) > 1 else None
    for run, folder in done:
        _write(run, against, options, folder, given["html"], comparison)
    if as_json:
        emit_json((comparison or done[0][0].evaluation).model_dump(mode="json"))
    else:
        for run, folder in done:
            _show(run.evaluation, folder)
        if comparison:
            _show_differences(comparison)
    click.get_current_context().exit(_exit_code([run.evaluation for run, _ in done], limits))


def _single(runs: Sequence[str], names: Sequence[str], given: dict[str, Any]) -> list[Line] | None:
    """The one prediction of the command line; None where RUN names files of predictions."""
    from ..evaluate.run import Line
    from ..schemas.evaluation import PredictionRow
    from ..untrusted.text import parse

    if given["key"] is None:
        wrong = [n for n in ("start", "stride", "frames", "gripper", "canvas") if given[n] not in (None, "", False)]
        if wrong:
            raise InvalidSpecError("goes with --key", field=f"--{wrong[0]}", found=given[wrong[0]])
        return None
    row: dict[str, Any] = {"key": given["key"], "gripper": given["gripper"]}
    row |= {name: given[name] for name in ("start", "stride", "frames") if given[name] is not None}
    if given["canvas"]:
        if len(runs) != 1:
            raise InvalidSpecError("takes one video", field="--canvas", expected=1, found=len(runs))
        row |= {"canvas": str(Path(runs[0]).absolute()) if "://" not in runs[0] else runs[0]}
        row |= {"views": list(names)} if names else {}
    else:
        files = {}
        for i, text in enumerate(runs):
            view, equals, path = text.partition("=")
            if not equals:
                if i >= len(names):
                    raise InvalidSpecError(
                        "does not say which view it shows",
                        field="RUN",
                        expected="VIEW=FILE, or --views in order",
                        found=text,
                    )
                view, path = names[i], text
            files[view] = path if "://" in path else str(Path(path).absolute())
        row["views"] = files
    return [Line(0, parse(PredictionRow, row, "command line"))]


def _folder(run: str, out: str | None, runs: int, single: list[Line] | None) -> Path:
    """Where the figures of a run go."""
    name = Path(run.rstrip("/").removesuffix(".jsonl")).name or "run"
    if out is not None:
        return Path(out) / name if runs > 1 else Path(out)
    if single is not None:
        assert single[0].row is not None
        return Path(f"{single[0].row.key}-{single[0].row.start}.evaluation")
    here = "://" in run
    return Path(f"{name}.evaluation") if here else Path(run.rstrip("/")).absolute().with_name(f"{name}.evaluation")


def _scored(
    run: str, against: str, options: Any, folder: Path, single: list[Line] | None, given: dict[str, Any]
) -> Run:
    from ..evaluate.run import JOURNAL, evaluate_run
    from ..shards.layout import output_errors

    journal = folder / JOURNAL
    if given["overwrite"]:
        with output_errors(journal):
            journal.unlink(missing_ok=True)
    with progress(f"score {run}", None, "predictions") as advance:
        return evaluate_run(
            run,
            against,
            options,
            lines=single,
            journal=journal,
            num_workers=given["num_workers"] or cores(),
            with_baselines=given["baselines"],
            on_start=getattr(advance, "total", lambda _: None),
            on_done=advance,
        )


def _write(run: Run, against: str, options: Any, folder: Path, html: bool, comparison: Any) -> None:
    from ..evaluate.outputs import write_outputs
    from ..shards import layout, open_dataset

    write_outputs(run, folder)
    if not html:
        return
    try:
        from ..evaluate.page import write_page

        write_page(run, open_dataset(layout.place(against)), options, folder / "evaluation.html", comparison)
    except MissingExtraError as error:
        console().print(f"no page: {error}", style="yellow", markup=False)


# ---- limits --------------------------------------------------------------------------------------------------------


def _limit(text: str, over: bool) -> tuple[str, float, bool]:
    """Figure, value, and whether it is the most (or the least) that is allowed."""
    key, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    field = "--fail-over" if over else "--fail-under"
    if not equals or number != number:
        raise InvalidSpecError("is no limit", field=field, expected="KEY=NUMBER", found=text)
    _check_key(key, field)
    return key, number, over


def _check_key(key: str, field: str) -> None:
    """Refuse a name of a figure that no evaluation has, before anything is scored."""
    from ..errors import suggestion
    from ..evaluate.figures import scores_of

    known = dict(_numbers(scores_of([]).model_dump()))
    if key not in known:
        raise InvalidSpecError(
            "no such figure", field=field, expected=", ".join(list(known)[:6]) + ", …", found=key,
            hint=suggestion(key, known),
        )  # fmt: skip


def _numbers(value: dict[str, Any], prefix: str = "") -> Any:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _numbers(item, f"{prefix}{name}.")
        elif name not in ("rgb", "published"):
            yield prefix + name, item


def _exit_code(evaluations: Sequence[Evaluation], limits: Sequence[tuple[str, float, bool]]) -> int:
    if any(not one.samples for one in evaluations):
        return EXIT_FAILED
    missed = False
    for one in evaluations:
        figures = dict(_numbers(one.model_dump(exclude={"by_task", "by_sample", "by_frame", "baselines", "trust"})))
        for key, limit, over in limits:
            found = figures[key]
            if found is None or (found > limit if over else found < limit):
                missed = True
                shown = "not known" if found is None else f"{found:.4g}"
                word = "over" if over else "under"
                text = f"{one.run}: {key} is {shown}, {word} {limit:g}"
                console().print(text, style="red", markup=False, soft_wrap=True)
    if missed:
        return EXIT_VERIFICATION_FAILED
    return EXIT_QUARANTINE if any(one.failures for one in evaluations) else EXIT_DONE


# ---- what is printed -----------------------------------------------------------------------------------------------


def _show(evaluation: Evaluation, folder: Path) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True, min_width=14)
    for head in ("10mm 5deg", "mm median", "mm p95", "mm all", "deg median", "deg p95", "gripper", "decoded", "strong"):
        table.add_column(head, justify="right")
    table.add_row(f"{evaluation.samples} predictions", *_cells(evaluation))
    if evaluation.strong.fraction:
        strong = evaluation.strong
        table.add_row(
            "  two strong views", _part(strong.success["10mm_5deg"]), _number(strong.position_error_mm.median),
            _number(strong.position_error_mm.p95), "-", _number(strong.rotation_error_deg.median),
            _number(strong.rotation_error_deg.p95), "-", "-", _part(strong.fraction), style="dim",
        )  # fmt: skip
    for one in evaluation.baselines:
        table.add_row(one.name, *_cells(one), style="dim")
    output().print(table)
    lines = [
        f"openings and closings: {evaluation.gripper.events_found} of {evaluation.gripper.events} found, "
        f"{evaluation.gripper.events_invented} invented, off by {_number(evaluation.gripper.event_error_s.median)} s; "
        f"F1 {_number(evaluation.gripper.f1)}",
        f"blobs: peak {_number(evaluation.blob.peak)}, weak in {_part(evaluation.blob.weak_fraction)} of the frames",
        f"first frame: {_number(evaluation.clip.first_frame_position_mm)} mm from the condition; drift "
        f"{_number(evaluation.clip.drift_mm_per_s)} mm/s; {_number(evaluation.clip.roughness_ratio)} x as rough as "
        "the truth",
    ]
    if evaluation.published is not None:
        lines.append(
            f"mean 3-D error as published: {_number(evaluation.published.mean_3d_error_mm)} mm; by the published "
            f"decoder's centroids {_number(evaluation.published.centroid_3d_error_mm)} mm"
        )
    if evaluation.rgb is not None:
        perceptual = "" if evaluation.rgb.lpips is None else f", LPIPS {evaluation.rgb.lpips:.3f}"
        lines.append(
            f"camera pictures: PSNR {evaluation.rgb.psnr_db:.2f} dB, SSIM {evaluation.rgb.ssim:.3f}{perceptual}"
        )
    if evaluation.coverage is not None:
        rows = evaluation.coverage.values()
        lines.append(
            f"coverage: {sum(r.frames_labelled for r in rows)} of {sum(r.frames for r in rows)} frames labelled, "
            f"{sum(r.frames_usable for r in rows)} usable, in {sum(r.samples_labelled > 0 for r in rows)} of "
            f"{len(rows)} tasks"
        )
    for line in lines:
        click.echo(line)
    for failure in evaluation.failures[:10]:
        where = "command line" if failure.prediction is None else f"line {failure.prediction + 1}"
        console().print(f"{where}: {failure.message}", style="yellow", markup=False, soft_wrap=True)
    if len(evaluation.failures) > 10:
        console().print(f"… {len(evaluation.failures)} could not be scored", style="yellow", markup=False)
    click.echo(f"written to {folder}")


def _cells(scores: Scores) -> list[str]:
    return [
        _part(scores.success["10mm_5deg"]),
        _number(scores.position_error_mm.median),
        _number(scores.position_error_mm.p95),
        _number(scores.position_error_mm_held.mean),
        _number(scores.rotation_error_deg.median),
        _number(scores.rotation_error_deg.p95),
        _part(scores.gripper.accuracy),
        _part(scores.valid_fraction),
        _part(scores.strong.fraction),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _part(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _show_differences(comparison: Any) -> None:
    from rich.table import Table

    for run, rows in comparison.differences.items():
        table = Table(box=None, pad_edge=False, title=f"{run} against {comparison.runs[0]}", title_justify="left")
        table.add_column("")
        for head in ("first", "second", "difference", "95 % interval", "predictions"):
            table.add_column(head, justify="right")
        for row in rows:
            sure = row.low > 0 or row.high < 0
            table.add_row(
                row.figure, f"{row.first:.4g}", f"{row.second:.4g}", f"{row.difference:+.3g}",
                f"{row.low:+.3g} … {row.high:+.3g}", str(row.predictions), style="bold" if sure else "dim",
            )  # fmt: skip
        output().print(table)

"""``actionimg report``: a data set as one HTML file to look at."""

from __future__ import annotations

from typing import Any

import click

from ._common import console, emit_json, output


@click.command("report")
@click.argument("out")
@click.option("--html", metavar="FILE", help="File to write.  [default: OUT.report.html, beside OUT]")
@click.option(
    "--samples",
    type=click.IntRange(0, 40),
    default=6,
    show_default=True,
    help="Samples shown with pictures, spread over the data set.",
)
@click.option(
    "--grid",
    type=click.IntRange(0, 500),
    default=24,
    show_default=True,
    help="Samples in the grid, each with a short looping video.",
)
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="First frame shown of a sample.")
@click.option("--num-frames", type=click.IntRange(1), help="How many frames of a sample.  [default: to the end]")
@click.option("--stride", type=click.IntRange(1), default=1, show_default=True, help="From one frame to the next.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    out: str, html: str | None, samples: int, grid: int, start: int, num_frames: int | None, stride: int, as_json: bool
) -> None:
    """Write a report of the data set OUT: one HTML file that opens from disk and needs no network.

    Pictures, a grid of short looping videos, trajectories, decode errors with the worst frames, visibility, workspace,
    cameras, timing, instructions and quarantine. The file stays under 25 MB, 8 MB of it videos: large data sets are
    sampled, and the report says so. Errors of all samples are in it once `actionimg verify OUT --record` has measured
    them. Needs the extra "report".

    \b
    actionimg report out
    actionimg report out --html out.html --samples 12 --grid 500
    actionimg report out --start 20 --num-frames 41 --stride 4
    """
    from ..report.html import write_report

    with console().status("drawing the report"):
        stop = None if num_frames is None else start + num_frames * stride
        made = write_report(out, html, samples=samples, grid=grid, frames=slice(start, stop, stride))
    if as_json:
        emit_json({**{k: v for k, v in vars(made).items() if k != "path"}, "html": str(made.path)})
        return
    _show(made)


def _show(made: Any) -> None:
    from ..errors import human_bytes

    videos = f", {made.videos} in the grid" if made.videos else ""
    click.echo(f"{made.path}: {human_bytes(made.bytes)}, {made.samples_shown} of {made.samples} samples shown{videos}")
    for note in made.notes:
        console().print(note, style="yellow", markup=False)
    output().print("next: open it in a browser", style="dim", markup=False)

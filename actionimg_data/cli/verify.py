"""``actionimg verify``: is a data set whole, and do its action videos decode to its trajectories?"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

import click

from ._common import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_VERIFICATION_FAILED,
    console,
    cores,
    emit_error,
    emit_json,
    output,
    progress,
)


@click.command("verify")
@click.argument("out")
@click.option("--quick", is_flag=True, help="Every byte, but no video is decoded; looks into one sample a shard.")
@click.option(
    "--max-position-mm",
    type=float,
    help="Largest 95th percentile of the position error.  [default: 0.5 for h264, 0.05 lossless, at 512 px]",
)
@click.option(
    "--max-rotation-deg",
    type=float,
    help="Largest 95th percentile of the rotation error.  [default: 0.5 for h264, 0.03 lossless, at 512 px]",
)
@click.option("--record", is_flag=True, help="Write each sample's errors into index.parquet.")
@click.option("--num-workers", "-j", type=click.IntRange(1), default=cores, show_default="cores", help="Processes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(out: str, quick: bool, record: bool, as_json: bool, **given: Any) -> None:
    """Verify the data set OUT: every byte, schema and count, and the round trip.

    The round trip decodes the stored action videos of all views and compares the poses with the stored trajectory, in
    every frame that has two views (one that shows all three keypoints, another at least one).
    Exit code 0 when all is well, 3 when something is not.

    \b
    actionimg verify out
    actionimg verify out --quick --json
    """
    from .. import engine
    from ..errors import CorruptDatasetError

    if quick and record:
        raise click.UsageError("--record needs the round trip, which --quick leaves out")
    ctx = click.get_current_context()
    with ExitStack() as stack:
        steps: list[Any] = []

        def start(shards: int) -> None:
            steps.append(stack.enter_context(progress("verifying", shards, "shards")))

        try:
            report = engine.verify(out, quick=quick, on_start=start, on_shard=lambda _: steps[0](), **given)
        except CorruptDatasetError as error:
            # The manifest itself: there is nothing to hold the rest against.
            if as_json:
                failure = {"key": None, "shard": None, "reason": str(error)}
                emit_json({"ok": False, "failures": [failure], "shards": {"checked": 0, "corrupt": []}})
            emit_error(error)
            ctx.exit(EXIT_VERIFICATION_FAILED)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)
    if record and report.ok:
        engine.record(out, report)
    summary = report.summary()
    if as_json:
        emit_json(summary)
    else:
        _show(out, report, summary)
    sys.stdout.flush()
    ctx.exit(EXIT_DONE if report.ok else EXIT_VERIFICATION_FAILED)


def _show(out: str, report: Any, summary: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    corrupt = len(summary["shards"]["corrupt"])
    table.add_row("shards", f"{summary['shards']['checked']} checked, {corrupt} corrupt")
    table.add_row("samples", f"{summary['samples']}, {summary['frames']} frames")
    if summary["quarantined"]:
        table.add_row("quarantine", f"{summary['quarantined']} episodes")
    if report.quick:
        table.add_row("round trip", "left out (--quick)")
    elif report.manifest.options.poses_only:
        table.add_row("round trip", "none: converted with --poses-only, there are no cameras and no action images")
    elif summary["action_codec"] == "none":
        table.add_row("round trip", "none: no action videos are stored, they are drawn from the trajectory on load")
    else:
        undecodable = summary["undecodable_frames"]
        text = f"{summary['decoded_frames']} frames, {summary['missed_frames']} missed"
        table.add_row("decoded", f"{text}, {undecodable} without two views")
        for name, found in summary.get("grippers", {}).items():
            text = f"{found['decoded_frames']} frames, {found['undecodable_frames']} without two views"
            if summary["merged_arms"]:
                text += f", {found['overlapping_frames']} of them because grippers overlap in the merged picture"
            table.add_row(f"  {name}", text)
        for name, unit, limit in (
            ("position_error_mm", "mm", report.tolerance.position_mm),
            ("rotation_error_deg", "°", report.tolerance.rotation_deg),
        ):
            values = summary[name]
            if values["p95"] is not None:
                numbers = f"median {values['median']:.3f}, p95 {values['p95']:.3f}, max {values['max']:.3f} {unit}"
                table.add_row(name.split("_")[0], f"{numbers} (p95 ≤ {limit:.3g})")
        if summary["openness_accuracy"] is not None:
            table.add_row("openness", f"{summary['openness_accuracy']:.2%} right")
    for one in report.derived:
        broken = f", {len(one['corrupt'])} corrupt" if one["corrupt"] else ""
        text = f"{one.get('items', 0)} values of {one.get('samples', 0)} samples by {one.get('function', '?')}{broken}"
        table.add_row(f"derived {one['name']}", text)
    output().print(table)
    for failure in report.failures[:20]:
        text = failure.reason if failure.key is None else f"{failure.key}: {failure.reason}"
        output().print(f"✗ {text}", style="red", markup=False, soft_wrap=True)
    if len(report.failures) > 20:
        output().print(f"… {len(report.failures) - 20} more, all with --json")
    if report.ok:
        if summary["proven"]:
            output().print("✓ verified", style="green")
        else:
            text = f"not proven: whole, but no pose was decoded: {summary['not_proven']}"
            output().print(text, style="yellow", markup=False, soft_wrap=True)
        if summary["proven"] and summary["unproven_samples"]:
            text = f"{summary['unproven_samples']} samples are not proven: the gripper is never in two views at once"
            output().print(text, style="yellow", markup=False)
        output().print(f"next: actionimg report {out}", style="dim", markup=False)
    else:
        console().print(f"{len(report.failures)} failures", style="red")
        files = ("index.parquet", "quarantine.jsonl", "plan.jsonl")
        if (
            summary["shards"]["corrupt"]
            or any(d["corrupt"] for d in report.derived)
            or any(name in f.reason for f in report.failures for name in files)
        ):
            output().print(f"next: actionimg repair {out}", style="dim", markup=False)

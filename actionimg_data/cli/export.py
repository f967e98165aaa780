"""``actionimg export``: a data set in another program's layout."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from ..export import KINDS
from ._common import EXIT_DONE, EXIT_QUARANTINE, console, emit_json
from ._inputs import SIZE, split_names

_OPTIONS = {
    "reference-tree": ("every",),
    "wids": (),
    "energon": ("link",),
    "huggingface": ("link", "license"),
    "lerobot": ("robot_type",),
    "rerun": ("samples", "sample", "pictures"),
    "window": ("start", "num_frames", "stride", "size", "views"),
}


@click.command("export")
@click.argument("kind", type=click.Choice(list(KINDS)), metavar="KIND")
@click.argument("out", type=click.Path())
@click.argument("dest", type=click.Path(), metavar="DEST")
@click.argument("folder", type=click.Path(), required=False, metavar="[FOLDER]")
@click.option(
    "--every",
    type=click.Choice(["1", "2", "4"]),
    help="reference-tree: the video takes every n-th stored frame (default 4, as the published loader expects "
    "poses at four times the video's rate; 1 keeps all frames).",
)
@click.option(
    "--link", type=click.Choice(["hard", "symbolic", "copy"]), help="energon, huggingface: how shards get there."
)
@click.option("--license", metavar="NAME", help="huggingface: the Hub's name of the licence.")
@click.option("--robot-type", metavar="NAME", help="lerobot: name of the robot.")
@click.option(
    "--samples", type=click.IntRange(1), help="rerun: samples in the recording, spread over the data set (default 10)."
)
@click.option("--sample", multiple=True, metavar="KEY", help="rerun: these samples instead; may be given again.")
@click.option(
    "--pictures",
    type=click.Choice(["video", "jpeg"]),
    help="rerun: the stored videos (default; the native viewer needs ffmpeg for them), or larger JPEGs.",
)
@click.option("--start", type=click.IntRange(0), help="window: its first frame (default 0).")
@click.option("--num-frames", type=click.IntRange(1), help="window: its frames (default: to the end).")
@click.option("--stride", type=click.IntRange(1), help="window: from one frame to the next (default 1).")
@click.option("--size", type=SIZE, help="window: N or HxW; pictures are centre-cropped to its aspect and scaled.")
@click.option("--views", multiple=True, help="window: which views, in order (default: all).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(kind: str, out: str, dest: str, folder: str | None, as_json: bool, **options: Any) -> None:
    """Write the data set OUT in another program's layout to DEST; of a window, DEST is the sample's key.

    \b
    reference-tree  the folder tree that the published training code reads
    wids            an index (DEST.json) for random access with wids
    energon         a folder for Megatron-Energon
    huggingface     a folder for the Hugging Face Hub, with a data card
    lerobot         a LeRobot v3.0 data set
    rerun           a recording (DEST.rrd) for the rerun viewer
    window          a window of one sample, as a training loader cuts it, in FOLDER (default: KEY-START):
                    pictures, action videos, the canvas of both, cameras.npz, caption, predictions.jsonl

    \b
    actionimg export huggingface shards hub_folder --license cc-by-4.0
    actionimg export wids shards shards.index.json
    actionimg export rerun shards shards.rrd --samples 3
    actionimg export window shards open-drawer-000000 --start 20 --num-frames 41 --size 480x832
    """
    from ..export import export

    ctx = click.get_current_context()
    given = {name: value for name, value in options.items() if value not in (None, ())}
    foreign = sorted(set(given) - set(_OPTIONS[kind]))
    if foreign:
        raise click.UsageError(f"--{foreign[0].replace('_', '-')} is not an option of {kind}")
    if kind == "window":
        given["key"], dest = dest, folder or f"{dest}-{given.get('start', 0)}"
        if "views" in given:
            given["views"] = tuple(split_names(given["views"]))
    elif folder is not None:
        raise click.UsageError(f"{kind} takes OUT and DEST, and nothing else: {folder}")
    if "every" in given:
        given["every"] = int(given["every"])
    result = export(kind, out, dest, **given)
    if as_json:
        emit_json({**asdict(result), "left_out": [{"key": k, "reason": r} for k, r in result.left_out]})
    else:
        console().print(
            f"{result.kind}: {result.samples} {'sample' if result.samples == 1 else 'samples'} in {result.dest}",
            markup=False,
        )
        for key, reason in result.left_out:
            console().print(f"left out {key}: {reason}", markup=False)
        for note in result.notes:
            console().print(note, markup=False)
    ctx.exit(EXIT_QUARANTINE if result.left_out else EXIT_DONE)

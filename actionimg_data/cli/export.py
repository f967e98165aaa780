"""``actionimg export``: a data set in another program's layout."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import click

from ..export import KINDS
from ._common import EXIT_DONE, EXIT_QUARANTINE, console, cores, emit_json, progress
from ._inputs import SIZE, split_names

_CLIPS = ("num_frames", "fps", "hop", "short", "nearest", "size", "views", "actions", "crf", "reuse", "num_workers")
_OPTIONS = {
    "reference-tree": ("every", "layout"),
    "wids": (),
    "energon": ("link",),
    "huggingface": ("link", "license", "push", "public"),
    "lerobot": ("robot_type",),
    "rerun": ("samples", "sample", "pictures"),
    "mcap": (),
    "window": ("start", "num_frames", "stride", "size", "views"),
    "diffsynth": (*_CLIPS, "canvas"),
    "musubi": (*_CLIPS, "canvas"),
    "finetrainers": (*_CLIPS, "canvas"),
    "cosmos": (*_CLIPS, "val_fraction"),
}
_TRAINERS = ("diffsynth", "musubi", "finetrainers", "cosmos")


@click.command("export")
@click.argument("kind", type=click.Choice(list(KINDS)), metavar="KIND")
@click.argument("out", type=click.Path())
@click.argument("dest", type=click.Path(), metavar="DEST")
@click.argument("folder", type=click.Path(), required=False, metavar="[FOLDER]")
@click.option(
    "--every",
    type=click.Choice(["1", "2", "4"]),
    help="reference-tree: the video takes every n-th stored frame (of rlbench 4 by default, as the published loader "
    "expects poses at four times the video's rate; 1 keeps all frames, and is the default of the others).",
)
@click.option(
    "--layout",
    type=click.Choice(["rlbench", "selfgen", "droid", "bridge"]),
    help="reference-tree: of which data set the tree is (default rlbench); selfgen is a public fork's of rlbench, with "
    "depth and masks; bridge has no actions.",
)
@click.option(
    "--link", type=click.Choice(["hard", "symbolic", "copy"]), help="energon, huggingface: how shards get there."
)
@click.option("--license", metavar="NAME", help="huggingface: the Hub's name of the licence.")
@click.option(
    "--push",
    metavar="USER/NAME",
    help="huggingface: upload DEST to the Hub as this data set (private where it has to be made); resumable.",
)
@click.option("--public", is_flag=True, help="huggingface, with --push: a new data set that everybody can read.")
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
@click.option(
    "--num-frames",
    type=click.IntRange(1),
    help="window, trainers: frames of a window (default: window, cosmos: all there are; other trainers 81).",
)
@click.option("--stride", type=click.IntRange(1), help="window: from one frame to the next (default 1).")
@click.option(
    "--size",
    type=SIZE,
    help="window, trainers: N or HxW; pictures are centre-cropped to its aspect and scaled (default: as stored).",
)
@click.option("--views", multiple=True, help="window, trainers: which views, in order (default: all).")
@click.option(
    "--fps",
    type=float,
    help="trainers: the windows' rate, a whole fraction of the data set's (default: the data set's own).",
)
@click.option(
    "--nearest", is_flag=True, help="trainers: take the nearest stored frame where --fps is no whole fraction."
)
@click.option(
    "--hop", type=click.IntRange(1), help="trainers: frames from window to window (default: a window's length)."
)
@click.option(
    "--short",
    type=click.Choice(["skip", "repeat"]),
    help="trainers: samples shorter than a window are left out (default), or repeat their last frame.",
)
@click.option(
    "--canvas",
    type=click.Choice(["none", "views", "joint"]),
    help="diffsynth, musubi, finetrainers: a clip a view (default), all views side by side, or those with their "
    "action images below.",
)
@click.option("--no-actions", is_flag=True, help="trainers: no action videos.")
@click.option("--crf", type=click.IntRange(0, 51), help="trainers: x264's rate factor (default: the data set's).")
@click.option("--val-fraction", type=float, help="cosmos: share of the samples that go to val (default 0).")
@click.option(
    "--reuse",
    type=click.Path(),
    metavar="DEST",
    help="trainers: hard-link the clips of a finished export of the same windows for another trainer.",
)
@click.option("--num-workers", "-j", type=click.IntRange(1), help="trainers: processes (default: cores).")
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
    mcap            a folder of MCAP files for Foxglove, one a sample, and the mapping that converts them back
    window          a window of one sample, as a training loader cuts it, in FOLDER (default: KEY-START):
                    pictures, action videos, the canvas of both, cameras.npz, caption, predictions.jsonl
    diffsynth, musubi, finetrainers, cosmos
                    windows as files for these trainers: a video, an action video and a caption each, with the
                    lists that they read; the same command goes on after an interruption (docs/trainers.md)

    \b
    actionimg export huggingface shards hub_folder --license cc-by-4.0 --push USER/NAME
    actionimg export wids shards shards.index.json
    actionimg export rerun shards shards.rrd --samples 3
    actionimg export window shards open-drawer-000000 --start 20 --num-frames 41 --size 480x832
    actionimg export diffsynth shards clips --num-frames 81 --fps 10 --size 480x832 --views front,wrist
    """
    from ..export import export

    ctx = click.get_current_context()
    options["actions"] = False if options.pop("no_actions") else None
    given = {name: value for name, value in options.items() if value not in (None, ()) and value is not False}
    if options["actions"] is False:
        given["actions"] = False
    foreign = sorted(set(given) - set(_OPTIONS[kind]))
    if foreign:
        name = {"actions": "no-actions"}.get(foreign[0], foreign[0].replace("_", "-"))
        raise click.UsageError(f"--{name} is not an option of {kind}")
    if kind == "window":
        given["key"], dest = dest, folder or f"{dest}-{given.get('start', 0)}"
    elif folder is not None:
        raise click.UsageError(f"{kind} takes OUT and DEST, and nothing else: {folder}")
    if "views" in given:
        given["views"] = tuple(split_names(given["views"]))
    if "every" in given:
        given["every"] = int(given["every"])
    with ExitStack() as stack:
        if kind == "mcap":
            bar = stack.enter_context(progress("exporting", None, "samples"))
            given |= {"on_start": bar.total, "on_done": bar}
        if kind in _TRAINERS:
            bar = stack.enter_context(progress("exporting", None, "samples"))
            given = {"num_workers": cores(), **given, "on_start": bar.total, "on_done": bar}
        if "push" in given:
            bar = stack.enter_context(progress("uploading", None, "files"))
            given |= {"on_start": bar.total, "on_done": bar}
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

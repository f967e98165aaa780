"""``actionimg derive``: what a function makes of a data set's windows, in shards beside its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import click

from ._common import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_QUARANTINE,
    console,
    emit_json,
    output,
    progress,
)
from ._inputs import SIZE, split_names


@click.command("derive")
@click.argument("out")
@click.option("--with", "function", required=True, metavar="MODULE:FUNCTION", help="A function, or a class of them.")
@click.option("--member", required=True, metavar="NAME.npy", help="NAME.npy, or NAME.npz for arrays by name.")
@click.option("--option", multiple=True, metavar="NAME=VALUE", help="Keyword argument of the function; VALUE is JSON.")
@click.option(
    "--over",
    type=click.Choice(["window", "sample"]),
    help="Call it once a window (default with --num-frames), or once a sample.",
)
@click.option("--num-frames", type=click.IntRange(1), help="Frames of a window, as training will ask for them.")
@click.option("--fps", type=float, help="Rate of the windows, a whole fraction of the data set's (default: its own).")
@click.option("--hop", type=click.IntRange(1), help="Frames from one window to the next (default: --num-frames).")
@click.option(
    "--short",
    type=click.Choice(["skip", "repeat"]),
    default="skip",
    show_default=True,
    help="Samples shorter than a window.",
)
@click.option("--size", type=SIZE, help="N or HxW of the pictures (default: as stored).")
@click.option("--views", multiple=True, help="Which views (default: all).")
@click.option(
    "--together/--apart",
    default=None,
    help="One call for all views, or one for each (default: windows apart, samples together).",
)
@click.option("--device", default="cpu", show_default=True, help="Given to functions and classes that take a device.")
@click.option(
    "--num-workers", "-j", type=click.IntRange(1), help="Processes, each with its own function.  [default: 1]"
)
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes of this machine, or tasks of a Ray cluster (docs/ray.md).",
)
@click.option("--ray-address", metavar="ADDRESS", help="As of convert.")
@click.option("--ray-task", metavar="NEEDS", help="What a shard needs of a machine, e.g. cpus=2,gpus=1.")
@click.option("--shard-index", type=click.IntRange(0), default=0, help="Make this part of the shards …")
@click.option("--num-shards", type=click.IntRange(1), default=1, help="… of so many.")
@click.option("--overwrite", is_flag=True, help="Remove members of this name first.")
@click.option("--retry-quarantined", is_flag=True, help="Make shards again of which windows are in quarantine.")
@click.option(
    "--max-bad-fraction",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Stop where the function fails more often.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(out: str, as_json: bool, **given: Any) -> None:
    """Make members of the data set OUT with a function: latents of its windows, embeddings of its words.

    The function is given a window (pictures, action images, text, poses, cameras; read when asked for) and returns an
    array of numpy or torch. A class is made into an object once a process, with --option and --device. What it returns
    is stored in shards beside the data set's own (OUT/derived/NAME), committed, resumed, verified and repaired like
    them, and identified by function, version and options. Training serves it with members=("NAME",).

    \b
    actionimg derive out --with encoders:Latent --member latent.npy --num-frames 41 --device cuda
    actionimg derive out --with encoders:embed_text --member words.npy --over sample -j 4
    """
    from .. import engine
    from ..engine.choice import make_executor
    from ..shards import layout
    from ..shards.manifest import read_manifest

    ctx = click.get_current_context()
    over = given["over"] or ("sample" if given["num_frames"] is None else "window")
    spec = engine.specification(
        read_manifest(layout.place(out)),
        given["member"],
        given["function"],
        _options(given["option"]),
        over=over,
        size=given["size"],
        views=split_names(given["views"]) or None,
        together=over == "sample" if given["together"] is None else given["together"],
        **{name: given[name] for name in ("num_frames", "fps", "hop", "short")},
    )

    def warn(text: str) -> None:
        console().print(f"warning: {text}", style="yellow", markup=False)

    executor = make_executor(
        given["executor"], given["num_workers"], given["ray_address"], given["ray_task"], warn=warn
    )
    with ExitStack() as stack:
        bar = stack.enter_context(progress("deriving", None, "samples"))

        def start(samples: int, resumed: int) -> None:
            bar.total(samples)
            if resumed:
                console().print(f"resuming: {resumed} shards are there")

        try:
            done = engine.derive(
                out,
                spec,
                device=given["device"],
                executor=executor,
                on_start=start,
                on_progress=lambda event: bar(int(event.ended)),
                **{name: given[name] for name in ("overwrite", "retry_quarantined", "shard_index", "num_shards")},
                max_bad_fraction=given["max_bad_fraction"],
            )
        except KeyboardInterrupt:
            click.echo("interrupted: shards that were made stay, and the same command goes on", err=True)
            ctx.exit(EXIT_INTERRUPTED)
    _report(out, done, as_json)
    counts = done.manifest.counts
    ctx.exit(EXIT_QUARANTINE if counts is not None and counts.quarantined else EXIT_DONE)


def _options(texts: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or name in values:
            raise click.UsageError(f"--option takes NAME=VALUE, each name once: {text}")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def _report(out: str, done: Any, as_json: bool) -> None:
    manifest = done.manifest
    spec, counts = manifest.spec, manifest.counts
    if as_json:
        emit_json(
            {
                "out": out,
                "member": spec.member,
                "function": spec.function,
                "function_version": spec.function_version,
                "complete": manifest.complete,
                **(counts.model_dump() if counts is not None else {}),
                "reads": list(manifest.reads),
                "arrays": {name: one.model_dump() for name, one in manifest.arrays.items()},
                "shards_made": done.made,
                "shards_resumed": done.resumed,
                "quarantine": [row.model_dump(exclude={"traceback"}) for row in done.quarantined],
            }
        )
        return
    for row in done.quarantined:
        text = f"quarantined {row.key} {row.start} {'+'.join(row.views)}: [{row.code}] {row.message}"
        console().print(text, style="yellow", markup=False, soft_wrap=True)
    if counts is None:
        click.echo(f"{out}: {done.made} shards made, {done.resumed} were there; others are still missing")
        return
    shapes = ", ".join(f"{name} {one.dtype}{list(one.shape)}".strip() for name, one in manifest.arrays.items())
    click.echo(f"{out}: {spec.member} of {counts.samples} samples, {counts.items} values, {shapes}")
    if counts.quarantined:
        click.echo(f"{counts.quarantined} in quarantine; see {out}/derived/{spec.name}/quarantine.jsonl")
    output().print(f'next: members=("{spec.name}",) in actionimg_data.training', style="dim", markup=False)

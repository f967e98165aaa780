"""``actionimg repair``: make again what is broken in a data set, and only that."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import click

from ._common import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, console, cores, emit_json, output, progress


@click.command("repair")
@click.argument("out")
@click.option("--num-workers", "-j", type=click.IntRange(1), default=cores, show_default="cores", help="Processes.")
@click.option(
    "--accept-different",
    is_flag=True,
    help="Take a shard that comes out with other bytes than it had, and write the manifest anew.",
)
@click.option(
    "--with",
    "functions",
    multiple=True,
    metavar="MODULE:FUNCTION",
    help="May be run to derive broken members again (actionimg derive); may be given again.",
)
@click.option("--device", default="cpu", show_default=True, help="Given to those functions.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    out: str, num_workers: int, accept_different: bool, functions: tuple[str, ...], device: str, as_json: bool
) -> None:
    """Make again what is broken in the data set OUT, and only that, to the same bytes.

    Every hash of the manifest is checked. Sidecars, index, quarantine and plan are made from what is left; a broken
    shard is converted again from the source, which has to be where it was, with the same versions, and takes its place
    only if it is byte for byte what the manifest names. Of a data set that is not complete broken shards are taken
    back, and the command that makes it makes them again. Exit code 0 when nothing is left broken, else 1.

    Other versions of the libraries make other bytes of the same episodes: what differs, and by how much, is said. With
    --accept-different such a shard is taken all the same, under a new entry in the manifest that names the versions.
    The pictures are as good as before, but copies of the data set that others have are no longer equal to this one.

    Members that were derived of the data set are made again by their function, which is run only where --with names it:
    what a data set says of itself is nothing to run.

    \b
    actionimg repair out
    actionimg repair out --json
    actionimg repair out --with encoders:latent
    actionimg repair out --accept-different
    """
    from .. import engine

    ctx = click.get_current_context()
    with ExitStack() as stack:
        steps: list[Any] = []

        def start(shards: int) -> None:
            steps.append(stack.enter_context(progress("checking", shards, "shards")))

        try:
            found = engine.repair(
                out,
                num_workers=num_workers,
                accept_different=accept_different,
                derive_with=functions,
                device=device,
                on_start=start,
                on_shard=lambda: steps[0](),
            )
        except KeyboardInterrupt:
            click.echo("interrupted: what was repaired stays", err=True)
            ctx.exit(EXIT_INTERRUPTED)
    if as_json:
        emit_json(
            {
                "ok": found.ok,
                "shards_checked": found.checked,
                "made": found.made,
                "left": [{"name": name, "reason": reason} for name, reason in found.left],
                "accepted": [{"name": name, "difference": how} for name, how in found.accepted],
                "convert_again": found.convert_again,
                "recorded_errors_lost": found.recorded_errors_lost,
            }
        )
    else:
        _show(out, found)
    ctx.exit(EXIT_DONE if found.ok else EXIT_FAILED)


def _show(out: str, found: Any) -> None:
    click.echo(f"{out}: {found.checked} shards checked, {len(found.made)} files made again")
    for name in found.made:
        click.echo(f"  made again: {name}")
    for name, how in found.accepted:
        console().print(f"  taken with other bytes: {name}: {how}", style="yellow", markup=False, soft_wrap=True)
    if found.accepted:
        click.echo(
            "copies of this data set that others have are no longer equal to it; the manifest names the versions"
        )
    for name in found.convert_again:
        click.echo(f"  taken back: {name}")
    for name, reason in found.left:
        console().print(f"✗ {name}: {reason}", style="red", markup=False, soft_wrap=True)
    if found.recorded_errors_lost:
        click.echo("the decode errors that verify --record wrote are gone from the index")
    if found.convert_again:
        click.echo("next: give the actionimg convert command that makes this data set again")
    elif found.ok:
        after = " --record" if found.recorded_errors_lost else ""
        output().print(f"next: actionimg verify {out}{after}", style="dim", markup=False)

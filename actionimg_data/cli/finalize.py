"""``actionimg finalize``: the manifest of a data set from the sidecars of its shards, whoever made them."""

from __future__ import annotations

import click

from ._common import EXIT_DONE, EXIT_QUARANTINE, emit_json, output


@click.command("finalize")
@click.argument("out")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(out: str, as_json: bool) -> None:
    """Assemble index, quarantine and manifest of OUT from the sidecars of its shards, whoever made them.

    The run that publishes the last shard does this by itself; this is for when it was killed right then, or when shards
    were made by something else. While shards are missing nothing is written, and the missing ones are named.

    \b
    actionimg finalize out
    actionimg finalize out --json
    """
    from .. import engine

    done, missing = engine.finalize(out)
    ctx = click.get_current_context()
    if done is None or done.counts is None:
        from ..errors import CorruptDatasetError

        names = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise CorruptDatasetError(
            "is not complete",
            where=out,
            found=f"{len(missing)} shards missing: {names}",
            hint="Give the actionimg convert command that makes this data set again: it makes them.",
        )
    counts = done.counts
    if as_json:
        emit_json({"out": out, "complete": True, **counts.model_dump(), "views": list(done.views), "plan": done.plan})
    else:
        episodes = f"{counts.converted} of {counts.episodes} episodes"
        click.echo(f"{out}: {episodes}, {counts.samples} samples in {counts.shards} shards")
        output().print(f"next: actionimg verify {out}", style="dim", markup=False)
    ctx.exit(EXIT_QUARANTINE if counts.quarantined else EXIT_DONE)

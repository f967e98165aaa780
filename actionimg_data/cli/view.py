"""``actionimg view``: a data set in the browser."""

from __future__ import annotations

import click

from ._common import console


@click.command("view")
@click.argument("out")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 for any.  [default: 8777, or the next free one]")
@click.option("--no-browser", is_flag=True, help="Print the address, and open nothing.")
@click.option(
    "--evaluation", metavar="DIR", help="What actionimg evaluate wrote: predictions beside the truth, worst first."
)
def command(out: str, port: int | None, no_browser: bool, evaluation: str | None) -> None:
    """Look through the data set OUT (a folder, or a URL of a store) in the browser.

    A grid of all samples to filter, sort and search; each sample with pictures, action images and their blend in step,
    the gripper and the cameras in space, curves, and where it came from. Quarantine with its reasons. The page is for
    this machine alone (127.0.0.1), its address has a token in it, nothing is written, and nothing is asked of the
    network. Ctrl-C ends it. Needs the extra "view".

    \b
    actionimg view out
    actionimg view out --evaluation generated.evaluation
    actionimg view s3://bucket/out --no-browser --port 9000
    """
    import webbrowser

    from ..viewer.serve import Server

    with console().status("opening the data set"):
        server = Server(out, evaluation, port)
    count = len(server.catalog)
    console().print(f"{count} {'sample' if count == 1 else 'samples'} of {out}; Ctrl-C ends it", markup=False)
    click.echo(server.url)
    if not no_browser:
        webbrowser.open(server.url)
    server.run()

"""``actionimg demo``: the whole way on a small data set of our own, with pictures to look at."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import OutputExistsError
from ._common import EXIT_DONE, EXIT_VERIFICATION_FAILED, console, cores, emit_json, output


@click.command("demo")
@click.argument("folder", default="demo", metavar="[DIR]")
@click.option("--episodes", type=click.IntRange(1, 100), default=2, show_default=True, help="Demonstrations to make.")
@click.option("--frames", type=click.IntRange(8, 2000), default=48, show_default=True, help="Frames of each.")
@click.option("--size", type=click.IntRange(64, 1024), default=256, show_default=True, help="Picture size in pixels.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier demo left in DIR.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    ctx: click.Context, folder: str, episodes: int, frames: int, size: int, overwrite: bool, as_json: bool
) -> None:
    """Make a small data set, convert it, verify it, and leave pictures to look at.

    A gripper moves over a table: demonstrations of our own making, written as RLBench and as RLDS write them, and as
    a lab's own recordings (tables, videos, a mapping file). All three are converted into action-image shards and
    verified by decoding them. DIR is ./demo by default.

    \b
    actionimg demo
    actionimg demo /tmp/demo --size 512
    """
    root = Path(folder)
    if root.exists() and any(root.iterdir()):
        if not (overwrite and (root / ".actionimg-demo").is_file()):
            raise OutputExistsError(
                "folder is not empty", where=root, hint="Give another DIR, or --overwrite for an earlier demo's."
            )
        import shutil

        shutil.rmtree(root)
    root.mkdir(parents=True, exist_ok=True)
    (root / ".actionimg-demo").touch()

    def say(text: str) -> None:
        if not as_json:
            output().print(text, soft_wrap=True)

    started = time.monotonic()
    workers = min(2, cores(), episodes)
    results = {}
    for name, make in (("rlbench", _rlbench), ("rlds", _rlds), ("recordings", _recordings)):
        say(f"[bold]{name}[/bold]: {episodes} demonstrations of {frames} frames")
        with console().status("drawing the demonstrations"):
            source, converter_name, options = make(root, episodes, frames, size)
        results[name] = _convert_and_verify(
            source, converter_name, options, root / f"{name}-shards", size, workers, say
        )
    pictures = _pictures(root)
    ok = all(r["verify"]["ok"] for r in results.values())
    seconds = time.monotonic() - started
    if as_json:
        emit_json({"ok": ok, "seconds": round(seconds, 1), "pictures": pictures, **results})
    else:
        say(f"\nDone in {seconds:.0f} s. Look at")
        for path in pictures:
            say(f"  {path}")
        say("and type next")
        say(f"  actionimg inspect {root / 'rlbench-shards'}")
        say(f"  actionimg verify {root / 'rlbench-shards'}")
        say(f"  actionimg view {root / 'rlbench-shards'}")
        say(f"  actionimg report {root / 'rlbench-shards'}")
        say(f"  actionimg render {root / 'rlbench'} --out look")
    ctx.exit(EXIT_DONE if ok else EXIT_VERIFICATION_FAILED)


def _rlbench(root: Path, episodes: int, frames: int, size: int) -> tuple[Path, str, dict[str, Any]]:
    from ..testing import write_rlbench_dataset

    return write_rlbench_dataset(root / "rlbench", episodes, frames, size), "rlbench", {}


def _rlds(root: Path, episodes: int, frames: int, size: int) -> tuple[Path, str, dict[str, Any]]:
    from ..demo.rlds import write_rlds_demo

    return write_rlds_demo(root / "rlds", episodes=episodes, frames=frames, size=size)


def _recordings(root: Path, episodes: int, frames: int, size: int) -> tuple[Path, str, dict[str, Any]]:
    from ..demo.recordings import write_recordings

    source = write_recordings(root / "recordings", episodes, frames, size)
    return source, "folder", {"mapping": str(source / "mapping.yaml")}


def _convert_and_verify(
    source: Path,
    converter_name: str,
    options: dict[str, Any],
    out: Path,
    size: int,
    workers: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    from ..converters import base
    from ..engine import convert, verify
    from ..schemas import ConvertOptions

    cls = base.converter_class(converter_name)
    converter = cls(cls.Options.parse(options, converter_name))
    result = convert(converter, str(source), out, ConvertOptions.parse(height=size, width=size), num_workers=workers)
    views = len(result.manifest.views)
    say(f"  converted: {result.frames} frames × {views} views in {result.seconds:.1f} s → {out}")
    report = verify(out, num_workers=workers).summary()
    position, rotation = report["position_error_mm"]["p95"], report["rotation_error_deg"]["p95"]
    if position is not None:
        say(
            f"  {'verified' if report['ok'] else 'NOT verified'}: {report['decoded_frames']} frames decoded from their "
            f"action videos, 95 % of them within {position:.2f} mm and {rotation:.2f}°, "
            f"openness {report['openness_accuracy']:.0%} right"
        )
    for failure in report["failures"][:3]:
        say(f"  ✗ {failure['reason']}")
    return {"source": str(source), "out": str(out), "frames": result.frames, "verify": report}


def _pictures(root: Path) -> list[str]:
    """The contact sheet of the first demonstration, the README's picture, and an overlay video."""
    from ..converters.rlbench import RLBenchConverter
    from ..report import clips, pictures
    from ..schemas import ActionImageSpec
    from ..video import encode_bytes, rgb_encoding

    converter = RLBenchConverter()
    episode = converter.read(next(converter.discover(str(root / "rlbench"))))
    spec = ActionImageSpec(height=256, width=256)
    last = len(episode) - 1
    moments = [
        ("front", 0.2),
        ("front", 0.4),
        ("front", 0.8),
        ("overhead", 0.4),
        ("right_shoulder", 0.4),
        ("wrist", 0.4),
    ]
    columns = [next(pictures.triptychs(episode, view, spec, [round(t * last)], text=False)) for view, t in moments]
    heads = [f"{view}, frame {round(t * last)}" for view, t in moments]
    files = {
        "demo.png": pictures.png_bytes(pictures.grid(columns, heads=heads)),
        "contact_sheet.png": pictures.png_bytes(pictures.contact_sheet(episode, spec)),
    }
    frames = list(clips.overlaid(episode, "front", spec))
    files["front.overlay.mp4"] = encode_bytes(frames, rgb_encoding(), episode.fps, *frames[0].shape[:2])
    for name, data in files.items():
        (root / name).write_bytes(data)
    return [str(root / name) for name in files]

"""``actionimg convert``: demonstrations into action-image shards; one subcommand a format."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, get_args

import click

from ..errors import human_bytes
from ._common import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_QUARANTINE,
    console,
    cores,
    emit_json,
    output,
    progress_columns,
    say,
)
from ._inputs import SIZE, allowed_kinds, load_spec, option_type, plausible_limits, split_names
from ._logging import with_logging

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

    from ..converters.cache import CacheSettings
    from ..engine import Observer
    from ..shards.plan import Plan


CALIBRATED: Final = "calibrated"
"""In --views: those whose camera is known in the episode."""


def _shared_options() -> list[click.Option]:
    from ..schemas.dataset import RgbPreset

    choice = click.Choice
    return [
        click.Option(["--size"], type=SIZE, default="512", show_default=True, help="Picture size, N or HxW, even."),
        click.Option(
            ["--views"],
            multiple=True,
            help="Views to convert, comma-separated, in order; others are not read. calibrated: of each episode those "
            "whose camera is known in it (calibrated,a,b: of these).  [default: the calibrated views of the first "
            "episode]",
        ),
        click.Option(["--stride"], type=click.IntRange(1), default=1, show_default=True, help="Take each N-th frame."),
        click.Option(
            ["--clip-frames"],
            type=click.IntRange(1),
            help="Cut episodes into clips of N frames; the last may be shorter.  [default: whole episodes]",
        ),
        click.Option(["--spec"], metavar="FILE", help="JSON file with an ActionImageSpec.  [default: as published]"),
        click.Option(
            ["--action-codec"],
            type=choice(["h264", "ffv1", "png", "none"]),
            default="h264",
            show_default=True,
            help="Codec of the action images; none: they are drawn when a sample is loaded.",
        ),
        click.Option(["--rgb-codec"], type=choice(["h264"]), default="h264", show_default=True),
        click.Option(
            ["--crf"], type=click.IntRange(0, 51), default=18, show_default=True, help="x264 quality; less is better."
        ),
        click.Option(
            ["--rgb-preset"],
            type=choice(get_args(RgbPreset)),
            default="veryfast",
            show_default=True,
            help="x264's preset for camera pictures: a faster one takes more bytes (docs/performance.md).",
        ),
        click.Option(
            ["--rgb-crf"], type=click.IntRange(0, 51), help="x264 quality of camera pictures.  [default: as --crf]"
        ),
        click.Option(
            ["--merge-arms"],
            is_flag=True,
            help="Several grippers in one action video: the clipped sum. Overlapping blobs cannot be decoded.",
        ),
        click.Option(["--depth"], is_flag=True, help="Store each view's depth: millimetres in 16 bits, lossless."),
        click.Option(["--masks"], is_flag=True, help="Store each view's mask of ids, lossless."),
        click.Option(
            ["--refined-cameras"],
            metavar="FILE",
            help="Camera file, as `actionimg calibrate refine` writes it, in place of the source's own cameras.",
        ),
        click.Option(
            ["--conditioning-cameras"],
            metavar="PLACE",
            help="Cameras that VGGT, DUSt3R or COLMAP estimated, in a frame of their own: stored for a model to be "
            "conditioned on, never drawn with. {episode} stands for the episode's id.",
        ),
        click.Option(
            ["--check-calibration"],
            type=choice(["off", "warn", "quarantine"]),
            default="off",
            show_default=True,
            help="Hold each camera against the pictures; store the verdict, or leave out episodes that are off.",
        ),
        click.Option(
            ["--calibration-gripper"],
            multiple=True,
            metavar="NAME=VALUE",
            help="What --check-calibration looks for: a size in metres, mesh=FILE, link=NAME, model_error=MM.",
        ),
        click.Option(
            ["--allow"],
            multiple=True,
            metavar="KIND",
            help="Take episodes in which something of this kind cannot be true: it is meant (docs/plausibility.md).",
        ),
        click.Option(
            ["--limit", "limits"],
            multiple=True,
            metavar="NAME=VALUE",
            help="Where plausible ends, e.g. max_speed_m_s=8 (docs/plausibility.md).",
        ),
        click.Option(
            ["--episodes-per-shard"],
            type=click.IntRange(1),
            help="[default: a 32nd of the episodes, at least 1, at most 32]",
        ),
        click.Option(["--split"], default="train", show_default=True, help="Folder of the shards within OUT."),
        click.Option(
            ["--num-workers", "-j"], type=click.IntRange(1), default=cores, show_default="cores", help="Processes."
        ),
        click.Option(
            ["--episode-timeout"],
            type=click.FloatRange(0, min_open=True),
            metavar="SECONDS",
            help="End a worker whose episode takes longer; what two workers take longer for is left out.  "
            "[default: never]",
        ),
        click.Option(
            ["--executor"],
            type=choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="Run the shards in processes of this machine, or as tasks of a Ray cluster.",
        ),
        click.Option(
            ["--ray-address"],
            metavar="ADDRESS",
            help="auto, HOST:PORT or ray://HOST:PORT.  [default: a cluster of this machine alone]",
        ),
        click.Option(
            ["--ray-task"],
            metavar="NEEDS",
            help="What a shard needs of a machine, e.g. cpus=2,memory=4GiB,NAME=1.  [default: cpus=1]",
        ),
        click.Option(
            ["--cache-dir"],
            type=click.Path(file_okay=False),
            help="Where objects of a SRC in a store are kept.  [default: ~/.cache/actionimg]",
        ),
        click.Option(
            ["--cache-size"], metavar="SIZE", help="How much of them, on each machine, e.g. 100GB.  [default: 20GiB]"
        ),
        click.Option(["--shard-index"], type=click.IntRange(0), help="Make part I of --num-shards.  [default: 0]"),
        click.Option(["--num-shards"], type=click.IntRange(1), help="Parts of the work.  [default: 1]"),
        click.Option(
            ["--slurm"],
            is_flag=True,
            help="Take --shard-index and --num-shards from the SLURM_ARRAY_TASK_… variables of a job array.",
        ),
        click.Option(
            ["--max-bad-fraction"],
            type=click.FloatRange(0, 1),
            default=0.5,
            show_default=True,
            help="Stop when more of the episodes than this cannot be converted.",
        ),
        click.Option(
            ["--resume/--overwrite"],
            default=True,
            help="Go on where the same command stopped, or remove what OUT holds and start again.  [default: resume]",
        ),
        click.Option(
            ["--extend"],
            is_flag=True,
            help="Put episodes that SRC has gained into new shards; those that are there stay as they are.",
        ),
        click.Option(
            ["--retry-quarantined"],
            is_flag=True,
            help="Make the shards again that have episodes in quarantine, and no others; after a fix.",
        ),
        click.Option(
            ["--check-space/--no-check-space"],
            default=True,
            help="Refuse to begin what will not fit, and stop before the disk is full.  [default: check-space]",
        ),
        click.Option(["--dry-run"], is_flag=True, help="Show the plan and an estimate of its cost; write nothing."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object."),
    ]


def _converter_option(name: str, field: FieldInfo) -> click.Option:
    """An option of the command line for one of the converter's own fields."""
    kind, many = option_type(field.annotation)
    flag = f"--{name.replace('_', '-')}"
    required = field.is_required()
    default = None if required else field.get_default(call_default_factory=True)
    text = field.description or ""
    if kind is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", f"own_{name}"], default=None, help=text)
    if default not in (None, (), [], "") and "default" not in text:
        text += f"  [default: {default}]"
    return click.Option([flag, f"own_{name}"], type=kind, multiple=many, required=required, default=None, help=text)


class _Formats(click.Group):
    """One subcommand a converter, made when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from ..converters import base

        return base.names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from ..converters import base

        if cmd_name not in base.names():
            return None
        return with_logging(_command(cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from ..converters import base

        rows = [(name, cls.summary) for name, cls in base.installed().items()]
        if rows:
            with formatter.section("Formats"):
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            names = self.list_commands(ctx)
            close = difflib.get_close_matches(args[0], names, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Formats: {', '.join(names)}."
            if "Did you mean" in error.message:
                raise
            raise click.UsageError(f"{error.message} {hint}", ctx) from None


@click.command(
    "convert",
    cls=_Formats,
    subcommand_metavar="FORMAT SRC OUT [OPTIONS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
)
def command() -> None:
    """Convert demonstrations into action-image shards.

    The same command goes on where it was stopped; each format has options of its own (convert FORMAT --help).

    \b
    actionimg convert rlbench ~/rlbench_demos out --size 512
    actionimg convert rlbench ~/rlbench_demos out --dry-run
    actionimg convert rlbench ~/rlbench_demos out --extend
    actionimg convert rlbench ~/rlbench_demos out --retry-quarantined
    actionimg convert rlbench ~/rlbench_demos out --shard-index 3 --num-shards 100
    """


def _command(name: str) -> click.Command:
    from ..converters import base

    cls = base.converter_class(name)
    fields = cls.Options.model_fields
    taken = {f.replace("_", "-") for f in fields}
    shared = [option for option in _shared_options() if not taken & {text.lstrip("-") for text in option.opts}]
    # Which views are read is said once, by --views.
    own = [_converter_option(field, info) for field, info in fields.items() if field != cls.views_field]
    arguments = [click.Argument(["source"], metavar="SRC"), click.Argument(["out"], metavar="OUT")]

    def callback(**given: Any) -> None:
        with _cache(given["cache_dir"], given["cache_size"]).used():
            _convert(name, given)

    return click.Command(
        name,
        params=[*arguments, *own, *shared],
        callback=callback,
        help=f"Convert {cls.summary}.\n\nSRC holds the demonstrations, OUT becomes the data set."
        + "".join(["\n\n\b", *(f"\n{line}" for line in cls.examples)] if cls.examples else []),
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _convert(name: str, given: dict[str, Any]) -> None:
    from .. import engine
    from ..converters import base
    from ..schemas import ConvertOptions

    cls = base.converter_class(name)
    values: dict[str, Any] = {}
    chosen, differ = _views(split_names(given["views"]))
    for field in cls.Options.model_fields:
        value: Any = chosen if field == cls.views_field else given[f"own_{field}"]
        if value is None or value == ():
            continue
        values[field] = tuple(split_names(value)) if isinstance(value, tuple) else value
    converter = cls(cls.Options.parse(values, name))
    height, width = given["size"]
    options = ConvertOptions.parse(
        height=height,
        width=width,
        views=chosen or None,
        views_per_sample=differ,
        conditioning_cameras=given["conditioning_cameras"],
        spec=load_spec(given["spec"], None).model_dump(),
        **{k: given.get(k, d) for k, d in (("stride", 1), ("clip_frames", None), ("episodes_per_shard", None))},
        **{k: given[k] for k in ("action_codec", "rgb_codec", "crf", "rgb_preset", "rgb_crf", "split")},
        **{k: given[k] for k in ("merge_arms", "depth", "masks")},
        check_calibration=given["check_calibration"],
        **_refined_cameras(given["refined_cameras"]),
        calibration_gripper=_gripper_words(given["calibration_gripper"]),
        allow=allowed_kinds(given["allow"]),
        limits=plausible_limits(given["limits"]),
    )
    source, out = given["source"], given["out"]
    if not given["resume"] and (given["extend"] or given["retry_quarantined"]):
        raise click.UsageError("--overwrite starts again: it goes with neither --extend nor --retry-quarantined")
    if given["executor"] == "ray" and given["episode_timeout"] is not None:
        raise click.UsageError("--episode-timeout is of the processes of this machine: it needs --executor local")
    for option in ("ray_address", "ray_task"):
        if given["executor"] != "ray" and given[option] is not None:
            raise click.UsageError(f"--{option.replace('_', '-')} needs --executor ray")
    shard_index, num_shards = _part(given)
    if given["dry_run"]:
        _dry_run(converter, engine.plan(converter, source, options), out, given)
        return
    context = click.get_current_context()
    named = context.get_parameter_source("num_workers") is not click.core.ParameterSource.DEFAULT
    # The cores of this machine say nothing of a cluster's.
    workers = given["num_workers"] if named or given["executor"] == "local" else None
    with _terminate_as_interrupt(), _observer(given["as_json"]) as observer:
        try:
            result = engine.convert(
                converter,
                source,
                out,
                options,
                num_workers=given["num_workers"],
                executor=engine.make_executor(
                    given["executor"],
                    workers,
                    given["ray_address"],
                    given["ray_task"],
                    episode_timeout=given["episode_timeout"],
                    warn=observer.warning,
                ),
                shard_index=shard_index,
                num_shards=num_shards,
                max_bad_fraction=given["max_bad_fraction"],
                overwrite=not given["resume"],
                extend=given["extend"],
                retry_quarantined=given["retry_quarantined"],
                check_space=given["check_space"],
                observer=observer,
            )
        except KeyboardInterrupt:
            say("interrupted: what is published stays; the same command goes on from here")
            context.exit(EXIT_INTERRUPTED)
    _report(result, out, given["as_json"])
    counts = result.manifest.counts
    bad = counts.quarantined if counts is not None else len(result.quarantined)
    context.exit(EXIT_QUARANTINE if bad else EXIT_DONE)


def _views(names: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The views that --views names, and whether each sample has those of them that are calibrated (see the schema)."""
    named = tuple(name for name in names if name != CALIBRATED)
    return named, "" if len(named) == len(names) else "named" if named else "found"


def _refined_cameras(path: str | None) -> dict[str, str]:
    """The camera file by its whole path and its content, so that a data set is never made of two."""
    if path is None:
        return {}
    import hashlib
    from pathlib import Path

    from ..cameras.files import load_user_cameras
    from ..untrusted.files import read_bytes

    load_user_cameras(Path(path))
    return {
        "refined_cameras": os.path.abspath(path),
        "refined_cameras_sha256": hashlib.sha256(read_bytes(path)).hexdigest(),
    }


def _gripper_words(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words of --calibration-gripper, refused here rather than in each episode; a mesh by its whole path."""
    if words:
        from ..calibrate import GripperShape

        GripperShape.from_words(words)
    return tuple("mesh=" + os.path.abspath(w[5:]) if w.startswith("mesh=") else w for w in words)


def _cache(folder: str | None, size: str | None) -> CacheSettings:
    from pathlib import Path

    from ..converters.cache import CacheSettings, parse_size

    kept = None if folder is None else Path(os.path.abspath(folder))
    return CacheSettings(kept, None if size is None else parse_size(size, "--cache-size"))


def _part(given: dict[str, Any]) -> tuple[int, int]:
    """Which part of the work is this run's, and of how many."""
    if not given["slurm"]:
        return given["shard_index"] or 0, given["num_shards"] or 1
    if given["shard_index"] is not None or given["num_shards"] is not None:
        raise click.UsageError("--slurm stands for --shard-index and --num-shards: give either")
    numbers = {}
    for name in ("ID", "MIN", "COUNT", "STEP"):
        text = os.environ.get(f"SLURM_ARRAY_TASK_{name}", "1" if name == "STEP" else "")
        if not text.isdecimal():
            raise click.UsageError(
                f"--slurm: SLURM_ARRAY_TASK_{name} is {text!r}; run it in a job array (sbatch --array=0-99)"
            )
        numbers[name] = int(text)
    place, rest = divmod(numbers["ID"] - numbers["MIN"], max(1, numbers["STEP"]))
    if rest or not 0 <= place < numbers["COUNT"]:
        raise click.UsageError(
            f"--slurm: task {numbers['ID']} is not one of {numbers['COUNT']} from {numbers['MIN']} on: the array has "
            "gaps, give --shard-index and --num-shards"
        )
    return place, numbers["COUNT"]


def _report(result: Any, out: str, as_json: bool) -> None:
    manifest, counts = result.manifest, result.manifest.counts
    if as_json:
        emit_json(
            {
                "out": out,
                "complete": manifest.complete,
                **(counts.model_dump() if counts is not None else {}),
                "views": list(manifest.views),
                "plan": manifest.plan,
                "shards_made": result.shards,
                "shards_resumed": result.resumed_shards,
                "frames_made": result.frames,
                "seconds": round(result.seconds, 3),
                "quarantine": [row.model_dump(exclude={"traceback"}) for row in result.quarantined],
            }
        )
        return
    log = f"the {manifest.options.split}/*.json" if counts is None else os.path.join(out, "quarantine.jsonl")
    for row in result.quarantined:
        where = f" (traceback: {log})" if row.traceback else ""
        text = f"quarantined {row.id}: [{row.code}] {row.message}{where}"
        console().print(text, style="yellow", markup=False, soft_wrap=True)
    if counts is None:
        made = f"{result.shards} shards made, {result.resumed_shards} were there"
        click.echo(f"{out}: {made}; of {manifest.planned_shards} some belong to other runs and are still missing")
        _reasons(Counter(row.code for row in result.quarantined), log)
        return
    text = f"{out}: {counts.converted} of {counts.episodes} episodes, {counts.samples} samples, {counts.frames} frames"
    text += f" × {len(manifest.views)} views, {human_bytes(counts.bytes)} in {counts.shards} shards"
    text += f" ({result.seconds:.1f} s)" if result.shards else " (was complete already)"
    click.echo(text)
    _reasons(counts.quarantine_codes, log)
    output().print(f"next: actionimg verify {out}", style="dim", markup=False)


def _reasons(codes: Mapping[str, int], where: str) -> None:
    if codes:
        reasons = ", ".join(f"{n} × {code}" for code, n in sorted(codes.items()))
        click.echo(f"{sum(codes.values())} episodes in quarantine: {reasons}; see {where}")
        click.echo("after a fix: the same command with --retry-quarantined makes them again, and nothing else")


def _dry_run(converter: Any, made: Plan, out: str, given: dict[str, Any]) -> None:
    from .. import engine

    estimate = engine.estimate(converter, made, out)
    options = made.manifest.options
    if given["as_json"]:
        emit_json(
            {
                "out": out,
                "plan": made.manifest.plan,
                "episodes": made.episodes,
                "shards": [{"path": f"{row.shard}.tar", "episodes": [e.id for e in row.episodes]} for row in made.rows],
                "views": list(made.manifest.views),
                "size": [options.height, options.width],
                "frames": estimate.frames,
                "frames_estimated": estimate.frames_estimated,
                "estimated_bytes": estimate.bytes,
                "estimated_bytes_error": estimate.bytes_error,
                "estimated_seconds_one_worker": estimate.seconds_one_worker,
                "estimated_seconds_error": estimate.seconds_error,
                "measured_episodes": estimate.measured_episodes,
                "measured_frames": estimate.measured_frames,
                "failed_episodes": estimate.failed_episodes,
                "free_bytes": estimate.free_bytes,
            }
        )
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    about = "about " if estimate.frames_estimated else ""
    frames = "not known" if estimate.frames is None else f"{about}{estimate.frames}"
    table.add_row("episodes", f"{made.episodes} in {len(made.rows)} shards of up to {options.episodes_per_shard}")
    table.add_row("frames", f"{frames} × {len(made.manifest.views)} views at {options.height}x{options.width}")
    table.add_row("views", " ".join(made.manifest.views))
    if estimate.bytes is not None and estimate.seconds_one_worker is not None:
        seconds = estimate.seconds_one_worker / given["num_workers"]
        free = "" if estimate.free_bytes is None else f"; {human_bytes(estimate.free_bytes)} are free"
        table.add_row("size", f"about {human_bytes(estimate.bytes)}{_error(estimate.bytes_error)}{free}")
        workers = f"{given['num_workers']} worker{'s' * (given['num_workers'] > 1)}"
        table.add_row("time", f"about {human_time(seconds)}{_error(estimate.seconds_error)} with {workers}")
    failed = f", {estimate.failed_episodes} of them fail" if estimate.failed_episodes else ""
    sample = f"{estimate.measured_frames} frames of {estimate.measured_episodes} episodes{failed}"
    table.add_row("measured", f"{sample}; ±: 95 %, from how much they differ")
    table.add_row("plan", made.manifest.plan[:12])
    output().print(table)
    for row in made.rows[:5]:
        names = [e.id for e in row.episodes]
        output().print(f"  {row.shard}.tar  {', '.join(names[:3])}{' …' if len(names) > 3 else ''}", markup=False)
    if len(made.rows) > 5:
        output().print(f"  … {len(made.rows) - 5} more shards")
    if estimate.bytes is not None and estimate.free_bytes is not None and estimate.bytes > estimate.free_bytes:
        console().print("more than there is free space for", style="red")


def _error(fraction: float | None) -> str:
    return "" if fraction is None else f" ± {max(fraction, 0.01):.0%}"


def human_time(seconds: float) -> str:
    """``1 h 02 min``: a time for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM, as batch systems send it, stops as cleanly as Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _observer(quiet: bool) -> Iterator[Observer]:
    if sys.stderr.isatty() and not quiet:
        with _bar() as observer:
            yield observer
    else:
        yield _lines(say)


class _Tally:
    """Sums up progress events: episodes, frames, bytes, and the time left."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.frames = self.bytes = self.episodes = self.view_frames = 0
        self.total_episodes = 1
        self.views: dict[str, int] = {}

    def add(self, event: Any) -> None:
        self.view_frames += event.frames
        self.bytes += event.bytes
        self.episodes += event.ended

    def text(self) -> str:
        passed = max(time.monotonic() - self.begun, 1e-6)
        rate = f"{self.view_frames / passed:.0f} pictures/s"
        left = passed / self.episodes * (self.total_episodes - self.episodes) if self.episodes else None
        ahead = "" if left is None else f", {human_time(left)} left"
        return f"{self.episodes}/{self.total_episodes} episodes, {rate}, {human_bytes(self.bytes)}{ahead}"


def _lines(echo: Callable[[str], None], every: float = 10.0) -> Observer:
    """Progress for logs: one line every ten seconds."""
    from ..engine import Observer, Totals

    class Lines(Observer):
        def __init__(self) -> None:
            self.tally = _Tally()
            self.last = time.monotonic()

        def started(self, totals: Totals) -> None:
            self.tally.total_episodes = totals.episodes - totals.episodes_done
            if totals.shards_done:
                echo(f"resuming: {totals.shards_done} of {totals.shards} shards are there")

        def warning(self, text: str) -> None:
            log.warning("%s", text)

        def progress(self, event: Any) -> None:
            self.tally.add(event)
            if time.monotonic() - self.last > every:
                self.last = time.monotonic()
                echo(self.tally.text())

    return Lines()


@contextmanager
def _bar() -> Iterator[Observer]:
    """Progress for people: a bar over episodes with frames/s, bytes and the time left."""
    from rich.progress import Progress

    from ..engine import Observer, Totals

    columns = progress_columns("converting", "episodes", "{task.fields[rate]} · {task.fields[size]}", 30)
    with Progress(*columns, console=console(), transient=True, disable=console().quiet) as bar:
        task = bar.add_task("converting", total=None, rate="", size="")

        class Bar(Observer):
            def __init__(self) -> None:
                self.tally = _Tally()

            def started(self, totals: Totals) -> None:
                self.tally.total_episodes = totals.episodes
                bar.update(task, total=totals.episodes, completed=totals.episodes_done)
                if totals.shards_done:
                    bar.console.print(f"resuming: {totals.shards_done} of {totals.shards} shards are there")

            def warning(self, text: str) -> None:
                log.warning("%s", text)

            def progress(self, event: Any) -> None:
                self.tally.add(event)
                passed = max(time.monotonic() - self.tally.begun, 1e-6)
                rate = f"{self.tally.view_frames / passed:.0f} pictures/s"
                bar.update(task, advance=int(event.ended), rate=rate, size=human_bytes(self.tally.bytes))

        yield Bar()

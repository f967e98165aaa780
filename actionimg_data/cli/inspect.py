"""``actionimg inspect``: what is in a data set, a shard, a sample or a source."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import (
    ActionImgError,
    AmbiguousSourceError,
    ImplausibleError,
    InvalidSpecError,
    MissingCalibrationError,
    OutputError,
    OutputExistsError,
    SourceNotFoundError,
    WrongFormatError,
    suggested_path,
)
from ..objectstore import is_url
from ._common import emit_json, output
from .listing import list_samples, refuse_options, refuse_source

if TYPE_CHECKING:
    from ..converters import Converter
    from ..model import Episode
    from ..schemas import ActionImageSpec
    from ..shards import Dataset, Sample
    from ..shards.layout import Place

_SHOWN = 12
_LINE = 90


@click.command("inspect")
@click.argument("path")
@click.option("--key", metavar="KEY", help="Show one sample of a data set or a shard.")
@click.option("--sample", metavar="KEY|NUMBER", help="The same, also by its number in the list (from 0).")
@click.option("--list", "listed", is_flag=True, help="List the samples of a data set, a line each.")
@click.option("--where", "condition", metavar="CONDITION", help="Of the list only these: 'frames > 100'.")
@click.option("--sort", multiple=True, metavar="[-]COLUMN", help="Sort the list; - for the largest first. Repeatable.")
@click.option("--columns", metavar="NAME,…|all", help="Columns of the list.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Lines of the list; 50 where a table is drawn.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the list as comma-separated values.")
@click.option("--format", "format_name", metavar="NAME", help="Source format; detected where it can be.")
@click.option("--option", "-O", "options", multiple=True, metavar="NAME=VALUE", help="An option of the converter.")
@click.option("--mapping", metavar="FILE", help="Mapping file of a raw log: short for -O mapping=FILE.")
@click.option("--propose", "draft", metavar="FILE", help="Draft a mapping file for a raw log nobody prepared.")
@click.option("--plot", metavar="FILE", help="Draw the streams of a raw log over time: rates, jitter, gaps (PNG).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    path: str,
    key: str | None,
    sample: str | None,
    listed: bool,
    condition: str | None,
    sort: tuple[str, ...],
    columns: str | None,
    limit: int | None,
    as_csv: bool,
    format_name: str | None,
    options: tuple[str, ...],
    mapping: str | None,
    draft: str | None,
    plot: str | None,
    as_json: bool,
) -> None:
    """Show what is in PATH: a data set, one of its shards, or a source that a converter reads.

    \b
    actionimg inspect ~/rlbench_demos
    actionimg inspect out
    actionimg inspect out --list --where 'task == "open_drawer" and frames > 100' --sort -decode_position_p95_mm
    actionimg inspect out --sample 17
    actionimg inspect out/train/000000.tar --key open_drawer-all_variations-episode0
    actionimg inspect recording/ --propose mapping.yaml
    actionimg inspect recording/ --mapping mapping.yaml --plot streams.png

    Of a source it says whether its first episode can be converted, what is missing, and what to type next. A terminal
    with colours also gets a small picture of a frame. The keys of --json are in docs/looking.md.

    CONDITION is written as in Python, over the columns of index.parquet: comparisons, and, or, not, in ("drawer" in
    instruction, "front" in views, task in ("a", "b")), is None, len(views), .startswith(), .endswith(), .matches().
    """
    from ..shards.layout import place

    where = place(path)
    if not where.exists():
        hint = None if is_url(path) else suggested_path(path)
        raise SourceNotFoundError("no such file or folder", where=path, hint=hint)
    if key is not None and sample is not None:
        raise InvalidSpecError("both name a sample", where=path, field="--key, --sample")
    options += () if mapping is None else (f"mapping={mapping}",)
    stored = where.suffix == ".tar" or (where / "dataset.json").is_file()
    if listed or sample is not None:
        refuse_source(path, "dataset" if stored else "source")
    if listed:
        list_samples(where, condition, sort, columns, limit, as_json=as_json, as_csv=as_csv)
        return
    refuse_options(
        path,
        {
            "--where": condition is not None,
            "--sort": bool(sort),
            "--columns": columns is not None,
            "--limit": limit is not None,
            "--csv": as_csv,
        },
    )
    if sample is not None:
        from ._inputs import pick_sample

        key = pick_sample(path, sample).key
    if draft is not None:
        _propose(path, Path(draft), as_json)
        return
    made: Converter | None = None
    if where.is_dir() and (where / "dataset.json").is_file() and format_name is None:
        kind, found = "dataset", _dataset(where)
    elif where.is_file() and where.suffix == ".tar" and format_name is None:
        kind, found = "shard", _shard(where)
    else:
        if key is not None:
            raise WrongFormatError("--key is for data sets and shards", where=path)
        made = _converter(path, format_name, options)
        kind, found = "source", _source(path, made, plot)
    if key is not None:
        from ..shards import open_dataset
        from ._inputs import no_such

        dataset = open_dataset(where)
        if key not in dataset:
            raise no_such("sample", path, key, dataset.keys())
        kind, found = "sample", _sample(dataset[key])
    first: Episode | None = None
    if made is not None:
        first, judged = _first_episode(path, made, options, format_name, found.get("to be given") or [])
        found |= judged
    else:
        found["next"] = _next_of(kind, path, found)
    if as_json:
        emit_json({"kind": kind, **found})
        return
    show = {"dataset": _show_dataset, "shard": _show_dataset, "sample": _show_sample, "source": _show_source}[kind]
    show(path, found)
    if first is None and made is None:
        first = _stored(where, key if key is not None else found.get("first_key"))
    if first is not None:
        from ._picture import show_frame

        show_frame(first, _spec_of(where))
    if made is not None:
        _show_verdict(found)
    for text in found["next"]:
        _next(text)


def _stored(where: Place, key: str | None) -> Episode | None:
    """A sample of a data set or a shard for its picture, where a picture can be shown."""
    from ._inputs import episode_of
    from ._picture import shown

    if key is None or not shown():
        return None
    from ..shards import open_dataset

    return episode_of(open_dataset(where)[key])


def _spec_of(where: Place) -> ActionImageSpec | None:
    """The spec of a data set; None for anything else."""
    if not (where / "dataset.json").is_file():
        return None
    from ..shards import read_manifest

    return read_manifest(where).options.spec


def _converter(path: str, format_name: str | None, options: Sequence[str]) -> Converter:
    """The converter of a source; of a folder that only holds sources, those get named."""
    from ._inputs import make_converter

    try:
        return make_converter(path, format_name, options)
    except (WrongFormatError, AmbiguousSourceError) as error:
        inside = _inside(Path(path)) if format_name is None and not options and not is_url(path) else []
        if not inside:
            raise
        raise type(error)(
            error.message, where=path, found=error.found, hint="Look at one of: " + ", ".join(inside) + "."
        ) from None


def _inside(folder: Path, most: int = 40) -> list[str]:
    """Commands that look at the data sets and sources right below a folder."""
    import itertools

    from ..converters import base

    if not folder.is_dir():
        return []
    found = []
    for inner in itertools.islice(sorted(p for p in folder.iterdir() if p.is_dir()), most):
        if (inner / "dataset.json").is_file():
            found.append(_line("inspect", str(inner)))
        else:
            names = list(base.detect(str(inner)))
            found += [_line("inspect", str(inner), *(("--format", n) if len(names) > 1 else ())) for n in names]
    return found if len(found) > 1 else []


def _line(*words: str) -> str:
    """A command line as one types it."""
    return shlex.join(("actionimg", *words))


def _first_episode(
    path: str, converter: Converter, options: Sequence[str], format_name: str | None, asked: Sequence[str]
) -> tuple[Episode | None, dict[str, Any]]:
    """Whether the first episode can be converted, what is missing, and the commands to type next.

    ``asked`` are the flags that the converter has still to be given.
    """
    source = [path, *(("--format", format_name) if format_name else ())]
    for text in options:
        name, _, value = text.partition("=")
        source += ["--mapping", value] if name == "mapping" else ["-O", text]
    convert = ["convert", converter.name, path, f"{Path(path).resolve().name}-shards", *_flags(converter, options)]
    to_fill_in = _line(*convert, *(word for flag in asked for word in (flag, flag[2:].replace("-", "_").upper())))
    from ..converters.remote import SourceReader

    reader = SourceReader(converter)
    try:
        episode = reader.read(next(iter(reader.discover(path))))
    except StopIteration:
        return None, _cannot(WrongFormatError("holds no episode", where=path), source, converter, None)
    except ActionImgError as error:
        return None, _cannot(error, source, converter, to_fill_in if asked else None)
    without = [name for name, view in episode.views.items() if view.camera is None]
    if len(without) == len(episode.views) and not converter.poses_only:
        blind = MissingCalibrationError(
            "no view has a camera", where=episode.id, found=" ".join(without), hint="Give their cameras."
        )
        return episode, _cannot(blind, source, converter, to_fill_in if asked else None)
    missing = [
        {
            "code": MissingCalibrationError.code,
            "what": f"view {name} has no camera",
            "hint": "It is left out unless --views names it.",
        }
        for name in without
        if not converter.poses_only
    ]
    todo = [] if converter.poses_only else [_line("render", *source, "--out", "look")]
    found = _plausible(episode, converter)
    if found["refused"]:
        missing += found.pop("refused")
        return episode, {"convertible": False, "missing": missing, "next": todo, **found}
    del found["refused"]
    return episode, {"convertible": True, "missing": missing, "next": [*todo, _line(*convert)], **found}


def _plausible(episode: Episode, converter: Converter) -> dict[str, Any]:
    """What cannot be true of the first episode, its pictures included, and how often each view shows the gripper."""
    from ..plausibility import examine, examine_pictures, in_view

    calibrated = {name: view for name, view in episode.views.items() if view.camera is not None}
    judged = episode.with_views(tuple(calibrated)) if calibrated and not converter.poses_only else episode
    findings = examine(judged, converter.limits)
    unreadable: list[dict[str, Any]] = []
    try:
        findings += examine_pictures(judged, converter.limits)
    except ActionImgError as error:
        unreadable = [{"code": error.code, "what": str(_without_hint(error)), "hint": error.hint}]
    refused = [
        {"code": "implausible", "what": f.text(), "hint": f"If that is meant: --allow {f.kind}."}
        for f in findings
        if f.kind not in converter.allow
    ]
    return {
        "findings": [f.model_dump(mode="json") for f in findings],
        "in_view": {name: round(share, 3) for name, share in in_view(judged).items()},
        "refused": [*unreadable, *refused],
    }


def _cannot(error: ActionImgError, source: list[str], converter: Converter, to_fill_in: str | None) -> dict[str, Any]:
    """Of a source whose first episode cannot be converted: why, and what to type to mend it.

    ``to_fill_in`` is the command whose words in capitals are for the user to replace.
    """
    fields = converter.Options.model_fields
    absent = {name for name in fields if getattr(converter.options, name) is None}
    configs = sorted(Path(source[0]).glob("*.yaml")) if "config" in absent else []
    beside = Path(source[0]) / "mapping.yaml"
    if "mapping" in absent:
        way = ("--mapping", str(beside)) if beside.is_file() else ("--propose", "mapping.yaml")
        todo = [_line("inspect", *source, *way)]
    elif to_fill_in is not None:
        todo = [to_fill_in, _line("converters", "--explain", converter.name)]
    elif error.code == MissingCalibrationError.code and "camera_file" in absent:
        todo = [_line("inspect", *source, "-O", "camera_file=cameras.json")]
        if "poses_only" in fields:
            todo.append(_line("inspect", *source, "-O", "poses_only=true"))
    elif configs:
        todo = [_line("inspect", *source, "-O", f"config={configs[0]}")]
    else:
        todo = [_line("converters", "--explain", converter.name)]
    reason = {"code": error.code, "what": str(_without_hint(error)), "hint": error.hint}
    findings = [f.model_dump(mode="json") for f in error.findings] if isinstance(error, ImplausibleError) else []
    return {"convertible": False, "missing": [reason], "next": todo, "findings": findings}


def _without_hint(error: ActionImgError) -> ActionImgError:
    fields = {name: getattr(error, name) for name in ("where", "field", "expected", "found")}
    return type(error)(error.message, **fields)


def _flags(converter: Converter, options: Sequence[str]) -> list[str]:
    """Options of the form NAME=VALUE as ``actionimg convert`` takes them."""
    words = []
    for text in options:
        name, _, value = text.partition("=")
        name = name.strip().replace("-", "_")
        whole = converter.Options.model_fields[name].annotation is bool
        name = "views" if name == converter.views_field else name.replace("_", "-")
        if whole:
            words.append(f"--{name}" if value.lower() in ("1", "true", "yes", "on") else f"--no-{name}")
        else:
            words += [f"--{name}", value]
    return words


def _next_of(kind: str, path: str, found: dict[str, Any]) -> list[str]:
    """What to type after having seen one of our own data sets, shards or samples."""
    if kind == "sample":
        view = found["views"][0]
        return [f"in Python: actionimg_data.open_dataset({path!r})[{found['key']!r}].rgb({view!r})"]
    if not found.get("complete", True):
        from ..report.collect import command_of
        from ..shards import read_manifest
        from ..shards.layout import place

        return [command_of(read_manifest(place(path)), path)]
    todo = [_line("inspect", path, "--key", found["first_key"])] if found.get("first_key") else []
    if kind == "dataset":
        todo += [_line("verify", path), _line("report", path)]
    return todo


def _dataset(path: Place) -> dict[str, Any]:
    from ..shards import read_manifest

    manifest = read_manifest(path)
    options, counts = manifest.options, manifest.counts
    found: dict[str, Any] = {
        "complete": manifest.complete,
        "samples": counts.samples if counts else None,
        "frames": counts.frames if counts else None,
        "views": list(manifest.views),
        "grippers": list(manifest.grippers),
        "planes": list(options.planes),
        "size": [options.height, options.width],
        "fps": None,
        "spec": {"id": manifest.spec_id, **options.spec.model_dump(mode="json")},
        "shards": [{k: getattr(s, k) for k in ("path", "samples", "bytes", "sha256")} for s in manifest.shards],
        "quarantined": counts.quarantined if counts else None,
        "quarantine_codes": counts.quarantine_codes if counts else {},
        "episodes": manifest.planned_episodes,
        "bytes": counts.bytes if counts else None,
        "converter": manifest.converter.model_dump(mode="json"),
        "sources": list(manifest.sources),
        "codecs": {"rgb": options.rgb_codec, "action": options.action_codec, "crf": options.crf},
        "plan": manifest.plan,
        "tool": dict(manifest.tool),
    }
    if manifest.complete:
        from ..shards import open_dataset

        found |= _from_index(open_dataset(path))
    if derived := _derived(path):
        found["derived"] = derived
    return found


def _derived(path: Place) -> list[dict[str, Any]]:
    """What was derived of a data set, as far as it says so itself."""
    from ..errors import CorruptDatasetError, SourceNotFoundError
    from ..shards import derived

    rows: list[dict[str, Any]] = []
    for name in derived.names(path):
        try:
            manifest = derived.read_manifest(path, name)
        except (CorruptDatasetError, SourceNotFoundError) as error:
            rows.append({"name": name, "complete": False, "error": str(error)})
            continue
        spec, counts = manifest.spec, manifest.counts
        own: dict[str, Any] = {"member": spec.member, "function": spec.function}
        own["function_version"] = spec.function_version
        own |= {"over": spec.over, "num_frames": spec.num_frames, "fps": spec.fps, "views": list(spec.views)}
        rows.append({"name": name, "complete": manifest.complete, **own, **(counts.model_dump() if counts else {})})
    return rows


def _derived_line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['name']} (damaged)"
    if not row["complete"]:
        return f"{row['member']} by {row['function']} (not complete)"
    return f"{row['member']} by {row['function']}, {row['items']} values of {row['samples']} samples"


def _views(found: dict[str, Any]) -> str:
    """The views, and in how many samples each is where samples differ."""
    counts = found.get("samples_by_view")
    if not counts:
        return " ".join(found["views"])
    return ", ".join(f"{name} in {counts.get(name, 0)} of {found['samples']} samples" for name in found["views"])


def _from_index(dataset: Dataset) -> dict[str, Any]:
    """What the index knows of all samples: rates, instructions, recorded decode errors."""
    import pyarrow.compute as pc

    index = dataset.table
    rates = sorted(index["fps"].unique().to_pylist())
    tasks: Counter[str] = Counter(index["task"].to_pylist())
    position = index["decode_position_p95_mm"].drop_null()
    views = Counter(name for own in index["views"].to_pylist() for name in own)
    differ = dataset.manifest is not None and bool(dataset.manifest.options.views_per_sample)
    return {
        "fps": rates[0] if len(rates) == 1 else rates or None,
        **({"samples_by_view": dict(sorted(views.items()))} if differ else {}),
        "tasks": dict(sorted(tasks.items())),
        "instructions": len(index["instruction"].unique()),
        "example": index["instruction"][0].as_py() if index.num_rows else None,
        "first_key": index["key"][0].as_py() if index.num_rows else None,
        "decode_position_p95_mm": pc.max(position).as_py() if len(position) else None,
    }


def _shard(path: Place) -> dict[str, Any]:
    from ..shards import open_dataset
    from ..shards.layout import read_place
    from ..shards.storage import place_sha256

    dataset = open_dataset(path)
    sha256, size = place_sha256(path)
    metas = [sample.meta for sample in dataset]
    first = metas[0] if metas else None
    rates = sorted({meta.fps for meta in metas})
    sidecar = path.with_suffix(".json")
    promised = json.loads(read_place(sidecar)).get("sha256") if sidecar.is_file() else None
    return {
        "samples": len(metas),
        "frames": sum(meta.frames for meta in metas),
        "views": list(first.views) if first else [],
        "grippers": list(first.grippers) if first else [],
        "size": [first.height, first.width] if first else None,
        "fps": rates[0] if len(rates) == 1 else rates or None,
        "spec": {"id": first.spec} if first else None,
        "shards": [{"path": path.name, "samples": len(metas), "bytes": size, "sha256": sha256}],
        "quarantined": None,
        "matches_sidecar": None if promised is None else promised == sha256,
        "codecs": {"rgb": first.rgb_codec, "action": first.action_codec} if first else None,
        "example": first.instruction if first else None,
        "first_key": first.key if first else None,
    }


def _sample(sample: Sample) -> dict[str, Any]:
    import numpy as np

    every = list(sample.grippers.values())
    known = np.concatenate([trajectory.position[trajectory.known] for trajectory in every])
    openness = np.concatenate([trajectory.openness for trajectory in every])
    openness = openness[np.isfinite(openness)]
    return {
        **sample.meta.model_dump(mode="json"),
        "seconds": float(sample.times[-1] - sample.times[0]),
        "position_min_m": known.min(axis=0).tolist() if len(known) else None,
        "position_max_m": known.max(axis=0).tolist() if len(known) else None,
        "open_fraction": float(np.mean(openness > 0.5)) if len(openness) else None,
        "cameras": {
            name: {
                "moving": not camera.is_static,
                "fx": float(camera.K[0, 0, 0]),
                "fy": float(camera.K[0, 1, 1]),
                "cx": float(camera.K[0, 0, 2]),
                "cy": float(camera.K[0, 1, 2]),
                "position_m": camera.world_from_camera[0, :3, 3].tolist(),
            }
            for name, camera in (sample.cameras.items() if sample.meta.calibrated else ())
        },
        "members": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name in sample.members
            for data in [sample.read(name)]
        },
    }


def _source(path: str, converter: Converter, plot: str | None) -> dict[str, Any]:
    from ..converters.base import Converter as Base
    from ..converters.look.inspection import inspect_source, stream_statistics
    from ..converters.remote import SourceReader

    try:
        found = inspect_source(converter, path)
    except ActionImgError:
        # The shared description reads the first episode, and what is wrong with it is said below; a folder that
        # holds no episode at all is an error.
        if type(converter).inspect is not Base.inspect:
            raise
        found = {"episodes": sum(1 for _ in SourceReader(converter).discover(path))}
    if plot is not None:
        from ..report.streams import plot_streams

        plot_streams(stream_statistics(converter, path), plot)
        found = {**found, "plot": plot}
    return {"format": converter.name, **found, **_links(path)}


def _links(path: str) -> dict[str, Any]:
    """What is linked rather than in a source; nothing where nothing is."""
    from ..converters.kit.tree import links_below

    if is_url(path) or not Path(path).is_dir():
        return {}
    links = links_below(Path(path))
    said = {"followed": links.followed, "lead_nowhere": links.nowhere, "lead_back": links.back}
    return (
        {"links": {name: value for name, value in said.items() if value or name == "followed"}}
        if any(said.values())
        else {}
    )


def _propose(path: str, draft: Path, as_json: bool) -> None:
    """Write a draft mapping; what it cannot know is marked in it for the user."""
    from ..converters.look.propose import propose_mapping
    from ..schemas.mapping import UNKNOWN

    if draft.exists():
        raise OutputExistsError(
            "is there already", where=draft, hint="Name another file: a mapping is written by hand."
        )
    text = propose_mapping(path)
    try:
        draft.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError("cannot write", where=draft, found=error.strerror) from None
    unknown = sum(UNKNOWN in line.split("#")[0] for line in text.splitlines())
    if as_json:
        emit_json({"kind": "mapping", "out": str(draft), "to_fill_in": unknown})
        return
    output().print(f"{draft}: {unknown} fields to fill in, each marked {UNKNOWN}", markup=False, soft_wrap=True)
    _next(_line("inspect", path, "--mapping", str(draft)))


def _rows(rows: list[tuple[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows:
        if value not in (None, "", [], {}):
            table.add_row(Text(name, style="bold"), Text(str(value)))
    output().print(table)


def _next(text: str) -> None:
    output().print(f"next: {text}", style="dim", markup=False, soft_wrap=True)


def _show_dataset(path: str, found: dict[str, Any]) -> None:
    from rich.table import Table

    from ..errors import human_bytes

    size, codecs = found["size"], found.get("codecs") or {}
    converter = found.get("converter")
    state = None if found.get("complete", True) else "not complete: run the same actionimg convert again"
    instruction = found.get("example")
    if found.get("instructions", 1) > 1:
        others = found["instructions"] - 1
        instruction = f"{instruction!r} and {others} other{'s' if others > 1 else ''}"
    quarantined = found.get("quarantined")
    if quarantined:
        quarantined = f"{quarantined}: " + ", ".join(f"{n} × {c}" for c, n in found["quarantine_codes"].items())
    worst = found.get("decode_position_p95_mm")
    decoded = None if worst is None else f"position ≤ {worst:.3f} mm in every sample"
    _rows(
        [
            ("state", state),
            ("samples", f"{found['samples']}, {found['frames']} frames" if found["samples"] is not None else None),
            ("episodes", found.get("episodes")),
            ("views", _views(found)),
            ("grippers", " ".join(found["grippers"])),
            ("beside pictures", ", ".join(found.get("planes", ()))),
            ("size", f"{size[0]}x{size[1]}" if size else None),
            ("fps", found["fps"]),
            ("codecs", ", ".join(f"{k} {v}" for k, v in codecs.items())),
            ("instruction", instruction),
            ("tasks", ", ".join(f"{t} ({n})" for t, n in list(found.get("tasks", {}).items())[:8] if t)),
            ("spec", found["spec"]["id"] if found["spec"] else None),
            ("converter", f"{converter['name']} {converter['options'] or ''}" if converter else None),
            ("source", " ".join(found.get("sources", []))),
            ("quarantined", quarantined),
            ("derived", "; ".join(map(_derived_line, found.get("derived", ()))) or None),
            ("decode p95", decoded),
            ("sidecar", {None: None, True: "agrees", False: "does not agree: damaged"}[found.get("matches_sidecar")]),
        ]
    )
    shards = found["shards"]
    if shards:
        table = Table(box=None, pad_edge=False)
        for name in ("shard", "samples", "size", "SHA-256"):
            table.add_column(name, justify="right" if name in ("samples", "size") else "left")
        for shard in shards[:_SHOWN]:
            digest = shard["sha256"][:12] if shard["sha256"] else "(no samples)"
            table.add_row(shard["path"], str(shard["samples"]), human_bytes(shard["bytes"]), digest)
        output().print()
        output().print(table)
        if len(shards) > _SHOWN:
            total = sum(shard["bytes"] for shard in shards)
            output().print(f"… {len(shards) - _SHOWN} more shards, {human_bytes(total)} in all")
    output().print()


def _show_sample(path: str, found: dict[str, Any]) -> None:
    from rich.table import Table

    from ..errors import human_bytes

    low, high = found["position_min_m"], found["position_max_m"]
    workspace = None
    if low is not None:
        workspace = ", ".join(f"{axis} {a:.3f} … {b:.3f}" for axis, a, b in zip("xyz", low, high, strict=True)) + " m"
    _rows(
        [
            ("key", found["key"]),
            ("episode", f"{found['episode']}, clip {found['clip']}, from frame {found['start_frame']}"),
            ("instructions", "\n".join(found["instructions"])),
            ("frames", f"{found['frames']} at {found['fps']:g} fps, {found['seconds']:.2f} s"),
            ("size", f"{found['height']}x{found['width']}"),
            ("gripper", workspace),
            ("grippers", " ".join(found.get("grippers", ()))),
            ("open", None if found["open_fraction"] is None else f"{found['open_fraction']:.0%} of the time"),
            ("sync", found["sync"]),
        ]
    )
    cameras = Table(box=None, pad_edge=False)
    for name in ("view", "moving", "fx", "cx, cy", "position (m)"):
        cameras.add_column(name)
    for name, camera in found["cameras"].items():
        position = ", ".join(f"{v:.3f}" for v in camera["position_m"])
        centre = f"{camera['cx']:.1f}, {camera['cy']:.1f}"
        cameras.add_row(name, "yes" if camera["moving"] else "no", f"{camera['fx']:.1f}", centre, position)
    members = Table(box=None, pad_edge=False)
    for name in ("member", "size", "SHA-256"):
        members.add_column(name, justify="right" if name == "size" else "left")
    for name, member in found["members"].items():
        members.add_row(name, human_bytes(member["bytes"]), member["sha256"][:12])
    for table in (cameras, members):
        output().print()
        output().print(table)
    output().print()


def _show_source(path: str, found: dict[str, Any]) -> None:
    from rich.tree import Tree

    streams = found.get("streams") or {}
    tree = Tree(f"[bold]{found['format']}[/bold]")
    views = found.get("views") or {}
    tabled = isinstance(views, dict) and bool(views) and all(isinstance(v, dict) for v in views.values())
    hidden = ("format", "streams", "convertible", "missing", "next", "hint", *(("views",) if tabled else ()))
    # What the registry says of a data set that it does not know is what is missing, below.
    unknown = isinstance(found.get("registry"), str) and not found["convertible"]
    _grow(tree, {k: v for k, v in found.items() if k not in hidden and not (unknown and k == "registry")})
    output().print(tree)
    output().print()
    if tabled:
        output().print(_view_table(views))
        output().print()
    if streams:
        output().print(_stream_table(streams))
        output().print()


def _show_verdict(found: dict[str, Any]) -> None:
    """Whether it can be converted, and what is missing."""
    if found["convertible"]:
        output().print("can be converted", style="green")
    else:
        output().print("cannot be converted yet", style="yellow")
    for item in found["missing"]:
        if item["code"] == ImplausibleError.code and found["findings"]:
            continue
        line = f"missing [{item['code']}]: {item['what']}" + (f". {item['hint']}" if item["hint"] else "")
        output().print(line, markup=False, soft_wrap=True)
    if found.get("findings"):
        output().print(_finding_table(found["findings"]))
        kinds = dict.fromkeys(f["kind"] for f in found["findings"])
        output().print(f"what is meant is taken with {' '.join(f'--allow {k}' for k in kinds)}", markup=False)


def _finding_table(findings: list[dict[str, Any]]) -> Any:
    """What cannot be true, one row a finding."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("finding", style="bold")
    for name in ("stream", "rows", "found", "expected"):
        table.add_column(name)
    for f in findings:
        rows = "" if f["rows"] is None else f"{f['rows'][0]}–{f['rows'][1]}"
        table.add_row(f["kind"], f["stream"], rows, f["found"], f["expected"])
    return table


def _view_table(views: dict[str, dict[str, Any]]) -> Any:
    """A row a view, a column for each thing that is known of any."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("view", style="bold")
    columns = dict.fromkeys(name for found in views.values() for name in found)
    for name in columns:
        table.add_column("camera" if name == "calibrated" else name)
    words = {True: "yes", False: "no", None: "–"}
    for view, found in views.items():
        values = [found.get(name) for name in columns]
        table.add_row(view, *(words[v] if v is None or isinstance(v, bool) else str(v) for v in values))
    return table


def _stream_table(streams: dict[str, dict[str, Any]]) -> Any:
    """Rates, jitter, gaps and drops of each stream of a raw log, one row a stream."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    columns = {
        "samples": "samples",
        "rate_hz": "rate (Hz)",
        "jitter_ms": "jitter (ms)",
        "missing": "missing",
        "gaps": "gaps",
        "duplicates": "doubled",
        "out_of_order": "disorder",
        "not_finite": "not finite",
    }
    table.add_column("stream", overflow="fold", min_width=min(24, max(map(len, streams))))
    for title in columns.values():
        table.add_column(title, justify="right")
    for name, found in streams.items():
        cells = []
        for column in columns:
            value = found.get(column)
            value = len(value) if isinstance(value, (list, tuple)) else value
            cells.append("–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value))
        table.add_row(name, *cells)
    return table


def _grow(tree: Any, value: dict[str, Any]) -> None:
    from rich.markup import escape

    for name, item in value.items():
        if isinstance(item, dict) and item:
            text = ", ".join(f"{k} {v}" for k, v in item.items() if v is not None)
            if all(not isinstance(v, (dict, list)) for v in item.values()) and len(text) <= _LINE:
                tree.add(f"[bold]{escape(str(name))}[/bold] {escape(text)}")
            else:
                _grow(tree.add(f"[bold]{escape(str(name))}[/bold]"), item)
        elif isinstance(item, list):
            shown = ", ".join(str(v) for v in item[:8]) + (f" … ({len(item)} in all)" if len(item) > 8 else "")
            tree.add(f"[bold]{escape(str(name))}[/bold] {escape(shown)}")
        elif item not in (None, "", {}):
            tree.add(f"[bold]{escape(str(name))}[/bold] {escape(str(item))}")

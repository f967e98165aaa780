"""Begin a data set, or find the one that a plan goes on from; extend it, mend it, or refuse it.

What is in the folder decides. The manifest and the plan are each created only if absent, so that of several runs that
begin at once all follow one. A data set that is there is changed in an order that can be cut short anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ..errors import ActionImgError, CorruptDatasetError, OutputExistsError, SourceNotFoundError, StorageError
from ..schemas import ConvertOptions, DatasetManifest
from ..schemas.dataset import to_bytes
from ..shards import layout, storage
from ..shards.layout import Place
from ..shards.manifest import read_manifest, read_plan, read_sidecar
from ..shards.plan import Changes, Plan, changes, differences, fingerprint, revise
from ..shards.rows import PlanRows

NEXT_PLAN: Final = "plan.next.jsonl"
"""A plan that is about to replace ``plan.jsonl``; there only while a data set is being extended or mended."""


def planned(manifest: DatasetManifest) -> DatasetManifest:
    """The manifest as it is before the first shard."""
    return manifest.model_copy(update={"complete": False, "counts": None, "shards": (), "files": {}}).sealed()


def open_output(
    out: Place, made: Plan, asked: ConvertOptions, *, overwrite: bool, extend: bool = False, retry: bool = False
) -> Plan:
    """Begin a data set, or find the one that this plan goes on from.

    Args:
        out: Where it is.
        made: The source as it is now, planned afresh.
        asked: The options as they were asked for.
        overwrite: Remove what is there.
        extend: Take up episodes that are new.
        retry: Take up episodes that were mended; their shards are made again by whoever has them in its part.

    Returns:
        The plan to follow: its manifest may be complete already.

    Raises:
        OutputExistsError: ``out`` holds something else, or the source has changed; says what differs.
        UnsupportedVersionError: It holds a data set of another version of the format.
    """
    storage.check_protocol(out)
    with layout.output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        removed = overwrite and _remove(out)
        others = sorted(p.name for p in out.iterdir() if not p.name.endswith(layout.TEMPORARY))
    if layout.MANIFEST not in others and others and not removed and not _is_ours(out, made):
        raise OutputExistsError(
            "is not empty, and not a data set", where=out, found=", ".join(others[:3]), hint="Choose another folder."
        )
    storage.check_destination(out)
    fresh = layout.publish_if_absent(out / layout.MANIFEST, to_bytes(made.manifest))
    existing = made.manifest if fresh else _existing(out, made)
    if existing.plan == made.manifest.plan:
        if not layout.publish_if_absent(out / layout.PLAN, made.to_bytes()):
            _check_plan(out, made)
        opened = Plan(existing, made.rows)
        return _reopened(out, opened) if retry and existing.complete and _quarantined(out, opened) else opened
    return _go_on(out, Plan(existing, own_rows(out, existing)), made, asked, extend, retry)


def _check_plan(out: Place, made: Plan) -> None:
    if read_plan(out).sha256 != made.rows.sha256:
        raise OutputExistsError(
            "was changed after it was written", where=out / layout.PLAN, hint="actionimg repair writes it again."
        )


def _is_ours(out: Place, made: Plan) -> bool:
    """Whether a folder without a usable manifest holds this very plan, so that the manifest can be written again."""
    try:
        if read_plan(out).sha256 != made.rows.sha256:
            return False
        found = (read_sidecar(out, row.shard) for row in made.rows)
        first = next((sidecar for sidecar in found if sidecar is not None), None)
    except StorageError:
        raise
    except ActionImgError:
        return False
    return first is None or first.plan == made.manifest.plan


def _existing(out: Place, made: Plan | None = None) -> DatasetManifest:
    try:
        return read_manifest(out)
    except CorruptDatasetError as error:
        if made is not None and _is_ours(out, made):
            layout.publish(out / layout.MANIFEST, to_bytes(made.manifest))
            return made.manifest
        raise OutputExistsError(
            f"holds a damaged data set: {error}",
            where=out,
            hint="The command that made it, with the same source, writes it again; or choose another folder.",
        ) from None


def own_rows(out: Place, existing: DatasetManifest) -> PlanRows:
    """The rows of a data set's own plan; a change of it that was cut short is brought to its end."""
    rows = read_plan(out)
    if fingerprint(existing, rows) == existing.plan:
        return rows
    path = out / NEXT_PLAN
    if path.exists():
        with layout.open_place(path) as file:
            ahead = PlanRows(file, path)
        if fingerprint(existing, ahead) == existing.plan:
            layout.publish(out / layout.PLAN, b"".join(ahead.lines()))
            path.unlink(missing_ok=True)
            return ahead
    raise OutputExistsError(
        "was changed after it was written", where=out / layout.PLAN, hint="actionimg repair writes it again."
    )


def _go_on(out: Place, old: Plan, made: Plan, asked: ConvertOptions, extend: bool, retry: bool) -> Plan:
    """Extend or mend a data set of another plan, or go on with one that was; refuse all else."""
    existing = old.manifest
    grown = extend or bool(existing.earlier)
    # How many episodes a shard gets by default depends on how many there were at first.
    leave = ("options.episodes_per_shard",) if grown and asked.episodes_per_shard is None else ()
    lines = differences(existing, made.manifest, leave)
    if existing.sources != made.manifest.sources or existing.converter != made.manifest.converter:
        raise _another_plan(out, lines)
    delta = changes(old.rows, made.rows)
    bad = _quarantined(out, old) if retry else frozenset()
    blocked = Changes(delta.gone, tuple(i for i in delta.changed if i not in bad), () if extend else delta.added)
    versions = [line for line in lines if line.startswith("tool.")]
    ahead = (extend and bool(delta.added)) or bool(bad)
    if blocked != Changes() or len(lines) > len(versions) or (versions and not (ahead and existing.complete)):
        raise _another_plan(out, [*lines, *blocked.lines()], blocked)
    mended = bool(versions) or any(i in bad for i in delta.changed)
    if not (extend and delta.added) and not (bad and mended):
        return _reopened(out, old) if bad and existing.complete else old
    revised = revise(old, made, extend, bad)
    content = revised.to_bytes()
    # In this order, so that being killed in between leaves what `own_rows` can bring to its end.
    layout.publish(out / NEXT_PLAN, content)
    layout.publish(out / layout.MANIFEST, to_bytes(revised.manifest))
    layout.publish(out / layout.PLAN, content)
    (out / NEXT_PLAN).unlink(missing_ok=True)
    return revised


def _another_plan(out: Place, lines: Sequence[str], blocked: Changes | None = None) -> OutputExistsError:
    if blocked is not None and blocked.added and not blocked.gone and not blocked.changed and len(lines) == 1:
        hint = "--extend puts the new episodes into new shards."
    else:
        hint = "Choose another folder, repeat the old options to go on, or --overwrite to start again."
    text = "; ".join(lines[:6]) + (f"; and {len(lines) - 6} more" if len(lines) > 6 else "")
    return OutputExistsError(f"holds a data set of another plan: {text}", where=out, hint=hint)


def _quarantined(out: Place, made: Plan) -> frozenset[str]:
    """Ids of the episodes that are in quarantine, as far as shards are published."""
    listed = {r.path for r in made.manifest.shards if r.quarantined} if made.manifest.complete else None
    ids: set[str] = set()
    for number in range(len(made.rows)):
        shard = layout.shard_name(made.manifest.options.split, number)
        if listed is not None and f"{shard}.tar" not in listed:
            continue
        sidecar = read_sidecar(out, shard)
        ids.update(q.id for q in (sidecar.quarantined if sidecar is not None else ()))
    return frozenset(ids)


def _reopened(out: Place, made: Plan) -> Plan:
    """The data set, no longer complete: shards of it are about to be made again."""
    blank = planned(made.manifest)
    layout.publish(out / layout.MANIFEST, to_bytes(blank))
    return Plan(blank, made.rows)


def _remove(out: Place) -> bool:
    """Remove a data set, and nothing else; its manifest last, so that a removal that is cut short can be repeated."""
    try:
        manifest = _existing(out)
    except SourceNotFoundError:
        return False
    folder = out / manifest.options.split
    for name in layout.listing(folder):
        if re.fullmatch(r"\d{6,}\.(tar|json)(\..*\.tmp)?", name):
            (folder / name).unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    for name in (layout.INDEX, layout.QUARANTINE, NEXT_PLAN, layout.PLAN, layout.MANIFEST):
        (out / name).unlink(missing_ok=True)
    return True

"""RLDS data sets as TFDS wrote them: episodes as nested dicts shaped like ``features.json``."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import (
    BadFileError,
    FrameCountError,
    InvalidSpecError,
    SourceNotFoundError,
    UnsafeFileError,
    UnsupportedSourceError,
    WrongFormatError,
)
from . import features, layout, slicing
from .containers import Container, Location, container_class
from .example import Example
from .features import Group, Leaf, Node, Stored

log = logging.getLogger(__name__)

STEPS = "steps"
_FLAGS = ("is_first", "is_last", "is_terminal")
DEFAULT_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_PLACEHOLDER = re.compile(r"\{([A-Z_]+)\}")
_MAX_SHARDS = 1 << 20
_PROBES = 8  # records that are looked at to see how records hold episodes


@dataclass(frozen=True)
class Shard:
    """One file of a split, and how many records dataset_info.json says it has (None where it does not say)."""

    split: str
    number: int
    path: Path
    records: int | None


@dataclass(frozen=True)
class Place:
    """Where one episode is: its shard, and its records (one, unless steps are records of their own).

    It has no records where the file is damaged before it, and cannot be read then.
    """

    shard: Shard
    number: int
    records: tuple[Location, ...]
    grouping: str
    """"" where a record is an episode; else how a record holds one step: "flat" or "nested"."""

    @property
    def id(self) -> str:
        """``SPLIT/SHARD/NUMBER``; does not depend on slicing or on absent shards."""
        return f"{self.shard.split}/{self.shard.number:05d}/{self.number:06d}"


class Record:
    """One episode, parsed but not yet decoded.

    Args:
        examples: Its records.
        leaves: All leaves by flat key.
        grouping: As in `Place`.
    """

    def __init__(self, examples: list[Example], leaves: dict[str, Stored], grouping: str) -> None:
        self.examples = examples
        self.leaves = leaves
        self.grouping = grouping
        self.where = examples[0].where

    @cached_property
    def num_steps(self) -> int:
        """Number of steps; all leaves that are read must agree with it."""
        if self.grouping:
            return len(self.examples)
        example = self.examples[0]
        # The flags first: every RLDS data set has them, and they cost the least to count.
        flags = [s for n in _FLAGS if (s := self.leaves.get(f"{STEPS}/{n}")) is not None]
        for stored in (*flags, *self.leaves.values()):
            if stored.in_steps and example.has(stored):
                length = example.length(stored)
                if length is not None:
                    return length
        return 0

    def leaf(self, key: str) -> Stored:
        """The leaf of a flat key; `WrongFormatError` names those that look like it."""
        try:
            return self.leaves[key]
        except KeyError:
            raise missing_leaf(key, self.leaves, self.where) from None

    def read(self, key: str, frames: Sequence[int] | None = None) -> Any:
        """The value of one leaf, as `Example.read`; under ``steps`` stacked over time."""
        stored = self.leaf(key)
        if not self.grouping:
            steps = self.num_steps if stored.in_steps else None
            return self.examples[0].read(stored, steps, frames)
        if not stored.in_steps:
            return self.examples[0].read(stored)
        chosen = self.examples if frames is None else [self.examples[i] for i in frames]
        return _stack_steps([self._read_step(e, stored) for e in chosen])

    def _read_step(self, example: Example, stored: Stored) -> Any:
        if self.grouping == "flat":
            return example.read(_without_steps(stored))
        return example.read(stored, 1)[0]

    def image_shape(self, key: str) -> tuple[int, int, int]:
        """Shape of the first picture of a leaf under ``steps``; `FrameCountError` where there is not one a step."""
        stored = self.leaf(key)
        count = len(self.examples) if self.grouping else self.examples[0].length(stored)
        if count != self.num_steps:
            raise FrameCountError(
                "has another number of pictures than there are steps",
                where=self.where,
                field=key,
                expected=self.num_steps,
                found=count,
            )
        return self.examples[0].image_shape(_without_steps(stored) if self.grouping == "flat" else stored)

    def nested(self, wanted: Callable[[Stored], bool]) -> dict[str, Any]:
        """All wanted leaves as nested dicts shaped like ``features.json``."""
        out: dict[str, Any] = {}
        for stored in self.leaves.values():
            if not wanted(stored):
                continue
            inner = out
            for name in stored.place[:-1]:
                inner = inner.setdefault(name, {})
            inner[stored.place[-1]] = self.read(stored.key)
        return out


class RLDSDataset:
    """An RLDS data set on disk; see `open_rlds`.

    Args:
        found: Its folder.
        allow_missing_shards: Go on without files that dataset_info.json lists and that do not exist.
        allow_count_mismatch: Go on where a file holds another number of records than dataset_info.json says.
        skip_bad_shards: Go on after a file that is cut or damaged: what comes after the damage are episodes that cannot
            be read, one by one.
    """

    def __init__(
        self,
        found: layout.Found,
        *,
        allow_missing_shards: bool = False,
        allow_count_mismatch: bool = False,
        skip_bad_shards: bool = False,
    ) -> None:
        self.path = Path(os.path.abspath(found.folder))
        self.allow_missing_shards = allow_missing_shards
        self.allow_count_mismatch = allow_count_mismatch
        self.skip_bad_shards = skip_bad_shards
        self.features = features.load(self.path / layout.FEATURES)
        self.leaves = {s.key: s for s in features.flatten(self.features)}
        info_path = self.path / layout.INFO
        info = features.read_json(info_path)
        if not isinstance(info, dict):
            raise BadFileError("is not a JSON object", where=info_path, found=type(info).__name__)
        steps = self.features.children.get(STEPS)
        if not isinstance(steps, features.Sequence) or not isinstance(steps.child, Group):
            raise WrongFormatError(
                "was written by TFDS but is not RLDS",
                where=self.path / layout.FEATURES,
                expected=f"a data set of steps named {STEPS!r}",
                found=", ".join(self.features.children) or "no features",
            )
        self.name = str(info.get("name") or found.name)
        self.version = str(info.get("version") or found.version)
        self.file_format = str(info.get("fileFormat") or info.get("file_format") or "tfrecord")
        self._container = container_class(self.file_format, info_path)
        self.splits = _splits(info, info_path, self.path, self.name, self.file_format)
        self._groupings: dict[str, str] = {}
        self._warned: set[str] = set()
        self._known_counts: dict[str, list[int]] = {}
        self._last_places: tuple[Shard, list[Place]] | None = None

    # -- episodes ------------------------------------------------------------------------------------------------

    def episodes(
        self, split: str = "train", *, images: bool = True, only: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Episodes of a split in file order, one at a time, as nested dicts shaped like ``features.json``.

        Leaves under ``steps`` are stacked over time ``(T, ...)``, or a list of T arrays where ragged; text is str.

        Args:
            split: As in TFDS, e.g. ``train``, ``train[10:20]``, ``train[:5%]``.
            images: Whether pictures are read; where not, their leaves are left out.
            only: Read only leaves with these flat keys, e.g. ``steps/observation/state``.

        Raises:
            InvalidSpecError: The split does not parse or does not exist.
            ActionImgError: Whatever is wrong with a file; it names the file, the byte and the feature.
        """
        wanted = None if only is None else set(only)
        for key in sorted(wanted or ()):
            if key not in self.leaves:
                raise missing_leaf(key, self.leaves, self.path / layout.FEATURES)

        def take(stored: Stored) -> bool:
            return (images or stored.leaf.kind != "image") and (wanted is None or stored.key in wanted)

        for place in self.places(split):
            yield self.record(place).nested(take)

    def num_episodes(self, split: str = "train") -> int:
        """How many episodes `episodes` yields."""
        return sum(1 for _ in self.places(split))

    def places(self, split: str = "train") -> Iterator[Place]:
        """Where the episodes of a split are, in file order; reads no episode."""
        for part in slicing.resolve(split, {n: self._counts(n) for n in self._split_names(split)}):
            position = 0
            counts = self._counts(part.split)
            for shard, count in zip(self._shards(part.split), counts, strict=True):
                first, last = max(part.start - position, 0), min(part.stop - position, count)
                position += count
                if first >= last or not shard.path.is_file():
                    continue
                yield from self._shard_places(shard)[first:last]

    def record(self, place: Place) -> Record:
        """The episode at a place, parsed; checks its CRC."""
        container = self._container(place.shard.path)
        if not place.records:
            damage = container.readable()[1]
            raise BadFileError(
                f"record {place.number} comes after a damaged place",
                where=place.shard.path,
                found="the file ends early" if damage is None else damage.message,
            )
        examples = [
            Example(container.read(r), f"{place.shard.path} record at byte {r[0]}"
                    if container.suffix == "tfrecord" else f"{place.shard.path} record {r[0]}")
            for r in place.records
        ]  # fmt: skip
        return Record(examples, self.leaves, place.grouping)

    def fingerprint(self, place: Place) -> str:
        """What changes when the episode does."""
        container = self._container(place.shard.path)
        if not place.records:
            return f"damaged:{place.shard.path.stat().st_size}:{place.number}"
        return " ".join(container.fingerprint(r) for r in (place.records[0], place.records[-1]))

    # -- shards --------------------------------------------------------------------------------------------------

    def _split_names(self, text: str) -> list[str]:
        """The splits whose counts are needed to resolve an instruction: those named in it."""
        named = [n for n in self.splits if re.search(rf"(?<![\w.-]){re.escape(n)}(?![\w.-])", text)]
        return list(self.splits) if "all" in text or not named else named

    def _shards(self, split: str) -> list[Shard]:
        shards = self.splits[split]
        absent = [s for s in shards if not s.path.is_file()]
        if absent and (not self.allow_missing_shards or len(absent) == len(shards)):
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise SourceNotFoundError(
                f"{layout.INFO} lists files that are absent",
                where=self.path,
                field=f"split {split}",
                expected=f"{len(shards)} files",
                found=f"{len(shards) - len(absent)}; first absent: {absent[0].path.name}{more}",
                hint="Get the files, or go on without them with --allow-missing-shards."
                if len(absent) < len(shards)
                else "No file of this split is there; choose another split.",
            )
        if absent and split not in self._warned:
            self._warned.add(split)
            log.warning(
                "%s: split %s: %d of %d files are absent, going on without them",
                self.path,
                split,
                len(absent),
                len(shards),
            )
        return shards

    def _counts(self, split: str) -> list[int]:
        """Episodes in each shard: as dataset_info.json says, so that slices mean what they mean to TFDS."""
        if split not in self._known_counts:
            counts = []
            for shard in self._shards(split):
                if shard.records is not None and not self.allow_count_mismatch and not self._grouping(split):
                    counts.append(shard.records)
                else:
                    counts.append(len(self._shard_places(shard)) if shard.path.is_file() else 0)
            self._known_counts[split] = counts
        return self._known_counts[split]

    def _shard_places(self, shard: Shard) -> list[Place]:
        # Of the shards only the last one's places are kept: a data set may have millions of episodes.
        if self._last_places is None or self._last_places[0] != shard:
            self._last_places = (shard, self._find_places(shard))
        return self._last_places[1]

    def _find_places(self, shard: Shard) -> list[Place]:
        container = self._container(shard.path)
        locations, damage = self._locations(container)
        if damage is not None:
            return self._to_damage(shard, container, locations, damage)
        if shard.records is not None and shard.records != len(locations):
            if self.skip_bad_shards and shard.records > len(locations):
                short = BadFileError("ends early", where=shard.path, expected=shard.records, found=len(locations))
                return self._to_damage(shard, container, locations, short)
            if not self.allow_count_mismatch:
                raise FrameCountError(
                    f"{layout.INFO} and the file disagree about the number of records",
                    where=shard.path,
                    expected=shard.records,
                    found=len(locations),
                    hint="The file may be cut or from another version; to go by the files: --allow-count-mismatch.",
                )
            log.warning("%s: %d records, dataset_info.json says %d", shard.path, len(locations), shard.records)
        grouping = self._grouping(shard.split)
        if not grouping:
            return [Place(shard, i, (loc,), "") for i, loc in enumerate(locations)]
        return self._grouped(shard, container, locations, grouping)

    def _locations(self, container: Container) -> tuple[list[Location], BadFileError | None]:
        """Where the records are, and the damage that ends the list where that is to be passed over."""
        if self.skip_bad_shards:
            return container.readable()
        try:
            return container.locations(), None
        except BadFileError as error:
            raise BadFileError(
                error.message,
                where=error.where,
                field=error.field,
                expected=error.expected,
                found=error.found,
                hint="Get the file again; to go on with the others, and with what comes before: --skip-bad-shards.",
            ) from None

    def _to_damage(
        self, shard: Shard, container: Container, locations: list[Location], damage: BadFileError
    ) -> list[Place]:
        """The places of a damaged file: those before the damage, and after it as many as the file should hold."""
        log.warning("%s; going on without what comes after", damage)
        grouping = self._grouping(shard.split)
        if grouping:
            # Which steps belong together after the damage, nobody knows: one place stands for all.
            whole = self._grouped(shard, container, locations, grouping, cut=True)
            return [*whole, Place(shard, len(whole), (), grouping)]
        count = max(shard.records or 0, len(locations) + 1)
        return [Place(shard, i, (locations[i],) if i < len(locations) else (), "") for i in range(count)]

    def _grouping(self, split: str) -> str:
        """How records hold episodes, from the first two of the split."""
        if split not in self._groupings:
            self._groupings[split] = ""
            for shard in self.splits[split]:
                examples = self._first_examples(shard) if shard.path.is_file() else []
                if examples:
                    self._groupings[split] = self._detect_grouping(examples)
                    break
        return self._groupings[split]

    def _first_examples(self, shard: Shard) -> list[Example]:
        """Two records that follow each other; damaged ones are for those who read the episodes to report."""
        container = self._container(shard.path)
        examples: list[Example] = []
        for location in self._locations(container)[0][:_PROBES]:
            try:
                examples.append(Example(container.read(location), str(shard.path)))
            except BadFileError:
                examples.clear()
            if len(examples) == 2:
                break
        return examples

    def _detect_grouping(self, examples: list[Example]) -> str:
        """Whether a record is an episode, or one step under an episode's schema."""
        example = examples[0]
        under = [s for s in self.leaves.values() if s.in_steps and s.leaf.kind != "unsupported"]
        if not any(example.has(s) for s in under):
            flat = [s for s in under if example.has(_without_steps(s))]
            if flat:
                return "flat"
            if any(s.leaf.size != 0 for s in under) and example.columns:
                # An episode of no steps may leave out every list; other keys mean another schema.
                known = {s.key for s in self.leaves.values()}
                strange = [k for k in example.columns if k not in known]
                if strange:
                    raise BadFileError(
                        "the records do not have the features of features.json",
                        where=example.where,
                        expected=under[0].key if under else None,
                        found=", ".join(strange[:5]),
                    )
            return ""
        first, last = f"{STEPS}/is_first", f"{STEPS}/is_last"
        if len(examples) < 2 or first not in self.leaves or last not in self.leaves:
            return ""
        for record in (Record([e], self.leaves, "") for e in examples):
            # One step that is both first and last is an episode of one step.
            if record.num_steps != 1 or (bool(record.read(first)[0]) and bool(record.read(last)[0])):
                return ""
        return "nested"

    def _grouped(
        self, shard: Shard, container: Container, locations: list[Location], grouping: str, cut: bool = False
    ) -> list[Place]:
        """Runs of steps from one ``is_first`` to its ``is_last``; any other order is refused.

        Where the records are ``cut`` by a damage, a last run without its end is left out.
        """
        flags = []
        for location in locations:
            record = Record([Example(container.read(location), str(shard.path))], self.leaves, grouping)
            flags.append(tuple(bool(record.read(f"{STEPS}/{name}")[0]) for name in ("is_first", "is_last")))
        places: list[Place] = []
        start = 0
        for i, (is_first, is_last) in enumerate(flags):
            if is_first != (i == start) or (i == len(flags) - 1 and not is_last and not cut):
                raise UnsupportedSourceError(
                    "holds one record a step, and not in the order of episodes",
                    where=shard.path,
                    expected="runs from is_first to is_last",
                    found=f"record {i}: is_first={is_first}, is_last={is_last}",
                    hint="TFDS shuffles records when it writes: write one record an episode.",
                )
            if is_last:
                places.append(Place(shard, len(places), tuple(locations[start : i + 1]), grouping))
                start = i + 1
        return places

    def __reduce__(self) -> tuple[Any, ...]:
        found = layout.Found(self.path, self.name, self.version)
        return _rebuild, (found, self.allow_missing_shards, self.allow_count_mismatch, self.skip_bad_shards)

    # -- looking -------------------------------------------------------------------------------------------------

    def tree(self, episode: dict[str, Any] | None = None) -> dict[str, Any]:
        """The features as nested dicts of texts ``dtype (shape) encoding``, with an episode's values where given."""
        found: dict[str, Any] = _tree(self.features, episode)
        return found


def _rebuild(found: layout.Found, missing: bool, mismatch: bool, skip: bool) -> RLDSDataset:
    return RLDSDataset(found, allow_missing_shards=missing, allow_count_mismatch=mismatch, skip_bad_shards=skip)


def open_rlds(
    path: str | os.PathLike[str],
    dataset: str | None = None,
    *,
    allow_missing_shards: bool = False,
    allow_count_mismatch: bool = False,
    skip_bad_shards: bool = False,
) -> RLDSDataset:
    """Open an RLDS data set that TFDS wrote.

    Args:
        path: The version's folder (``.../bridge_dataset/1.0.0``), or a folder above it.
        dataset: ``NAME``, ``NAME/CONFIG`` or ``NAME/VERSION`` where ``path`` holds several; the newest version counts.
        allow_missing_shards: Go on without listed files that do not exist.
        allow_count_mismatch: Go by the files where dataset_info.json counts other records in them.
        skip_bad_shards: Go on after a file that is cut or damaged; what comes after the damage cannot be read.

    Raises:
        SourceNotFoundError: No such folder or data set.
        WrongFormatError: Not a TFDS folder, or not RLDS.
        AmbiguousSourceError: Several data sets, and none chosen.
        UnsupportedSourceError: A file format without a reader, e.g. Riegeli.
        BadFileError: features.json or dataset_info.json is damaged.

    Example:
        >>> for episode in open_rlds("bridge_dataset/1.0.0").episodes("train[:5%]"):  # doctest: +SKIP
        ...     episode["steps"]["observation"]["state"].shape
        (38, 7)
    """
    return RLDSDataset(
        layout.find(path, dataset),
        allow_missing_shards=allow_missing_shards,
        allow_count_mismatch=allow_count_mismatch,
        skip_bad_shards=skip_bad_shards,
    )


def missing_leaf(key: str, leaves: dict[str, Stored], where: object) -> WrongFormatError:
    """The error of a feature that the data set does not have."""
    name = key.rpartition("/")[2]
    near = [k for k in leaves if k.rpartition("/")[2] == name] or list(leaves)
    return WrongFormatError(
        "has no such feature", where=where, field=key, expected=" | ".join(near[:12]) or "any feature", found="nothing"
    )


def _without_steps(stored: Stored) -> Stored:
    """The leaf of a record that holds one step with no ``steps`` around it."""
    place = stored.place[1:]
    return Stored(place, "/".join(place), stored.leaf, stored.sequences[1:])


def _stack_steps(values: list[Any]) -> Any:
    if all(isinstance(v, str) for v in values):
        out = np.empty(len(values), object)
        out[:] = values
        return out
    if values and all(isinstance(v, np.ndarray) and v.shape == values[0].shape for v in values):
        return np.stack(values)
    return values


def _splits(info: dict[str, Any], where: Path, folder: Path, name: str, file_format: str) -> dict[str, list[Shard]]:
    raw = info.get("splits")
    if not isinstance(raw, list) or not raw:
        raise BadFileError("lists no splits", where=where, field="splits", found=raw)
    out: dict[str, list[Shard]] = {}
    for entry in raw:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise BadFileError("has a split without a name", where=where, field="splits", found=entry)
        split = entry["name"]
        if not re.fullmatch(r"[A-Za-z0-9._-]+", split):
            raise InvalidSpecError("has a split of a strange name", where=where, field="splits", found=split)
        lengths = _lengths(entry, where)
        template = entry.get("filepathTemplate") or DEFAULT_TEMPLATE
        out[split] = [
            Shard(split, i, folder / _file_name(str(template), where, name, split, file_format, i, len(lengths)), n)
            for i, n in enumerate(lengths)
        ]
    return out


def _lengths(entry: dict[str, Any], where: Path) -> list[int | None]:
    """Records in each shard; older files say only how many shards there are."""
    raw = entry.get("shardLengths", entry.get("shard_lengths"))
    try:
        if raw is not None:
            lengths: list[int | None] = [int(n) for n in raw]
        else:
            lengths = [None] * min(int(entry.get("numShards", entry.get("num_shards", 0))), _MAX_SHARDS + 1)
    except (TypeError, ValueError):
        raise BadFileError(
            "has shard lengths that are not numbers", where=where, field=entry["name"], found=raw
        ) from None
    if len(lengths) > _MAX_SHARDS or any(n is not None and n < 0 for n in lengths):
        raise BadFileError("has impossible shard lengths", where=where, field=entry["name"], found=len(lengths))
    return lengths


def _file_name(template: str, where: Path, name: str, split: str, file_format: str, index: int, count: int) -> str:
    values = {
        "DATASET": name,
        "SPLIT": split,
        "FILEFORMAT": file_format,
        "SHARD_INDEX": f"{index:05d}",
        "NUM_SHARDS": f"{count:05d}",
        "SHARD_X_OF_Y": f"{index:05d}-of-{count:05d}",
    }
    unknown = [p for p in _PLACEHOLDER.findall(template) if p not in values]
    if unknown:
        raise BadFileError(
            "has an unknown placeholder",
            where=where,
            field="filepathTemplate",
            expected=" ".join(values),
            found=unknown[0],
        )
    result = _PLACEHOLDER.sub(lambda m: values[m.group(1)], template)
    if result != Path(result).name or result in ("", ".", "..") or "\\" in result:
        raise UnsafeFileError("names a file outside of its folder", where=where, field="filepathTemplate", found=result)
    return result


def _tree(node: Node, value: Any) -> Any:
    if isinstance(node, Leaf):
        text = node.text()
        return text if value is None else f"{text}: {_short(value)}"
    if isinstance(node, features.Sequence):
        inner = _tree(node.child, value)
        if node.is_steps and isinstance(inner, dict):
            return inner
        length = "" if node.length is None else str(node.length)
        return {f"[{length}]": inner} if isinstance(inner, dict) else f"[{length}] of {inner}"
    return {
        name: _tree(child, value.get(name) if isinstance(value, dict) else None)
        for name, child in node.children.items()
    }


def _short(value: Any) -> str:
    """A value in at most a line."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:59] + "…")
    if isinstance(value, list):
        return f"{len(value)} values of varying shape"
    array = np.asarray(value)
    if array.dtype == object:
        flat = [str(v) for v in array.ravel()]
        distinct = sorted(set(flat))
        text = repr(flat[0][:60]) if flat else "none"
        return text if len(distinct) <= 1 else f"{text} and {len(distinct) - 1} more"
    if array.ndim == 0:
        return str(array[()])
    if array.size == 0:
        return f"empty {array.shape}"
    first = array[0].ravel()[:8]
    numbers = " ".join(f"{v:.4g}" if array.dtype.kind == "f" else str(int(v)) for v in first)
    more = " …" if array[0].size > 8 else ""
    return f"{array.shape} first: {numbers}{more}"


__all__ = ["Place", "RLDSDataset", "Record", "open_rlds"]

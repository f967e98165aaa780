"""Derived members (`actionimg derive`) of the windows that training draws: which there are, and their arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from ..errors import CorruptDatasetError, InvalidSpecError, SourceNotFoundError
from ..shards import derived
from ..shards.members import read_members
from .options import SampleOptions
from .source import ShardSource


class Member:
    """One derived member of a source, by window.

    Args:
        source: The data set.
        name: The member's name.
        options: What windows are asked for.

    Raises:
        InvalidSpecError: There is no such member, or it is of other windows.
        CorruptDatasetError: It is damaged, incomplete, or of another state of the data set.
    """

    def __init__(self, source: ShardSource, name: str, options: SampleOptions) -> None:
        self.name, self._source = name, source
        try:
            self.manifest = derived.read_manifest(source.place, name)
        except SourceNotFoundError:
            have = derived.names(source.place)
            raise InvalidSpecError(
                "has no such derived member",
                where=source.path,
                field="members",
                expected=", ".join(have) or "none",
                found=name,
                hint="actionimg derive makes them.",
            ) from None
        self.spec = self.manifest.spec
        self._root = derived.folder_of(source.place, name)
        self._check_state()
        self._check_windows(options)
        self._load(options)

    @property
    def by_window(self) -> bool:
        """Whether it has a value for each window, and not one for the whole sample."""
        return self.spec.over == "window"

    @property
    def one_group(self) -> bool:
        """Whether windows are made of several views at once, which training then has to draw."""
        return self.by_window and self.spec.together

    @property
    def of_any_views(self) -> bool:
        """Whether it is one value of the sample, whatever views are drawn."""
        return self.spec.together and not self.by_window

    @property
    def fingerprint(self) -> str:
        """Of what it is: function, version, options, windows."""
        return self.spec.fingerprint

    def _check_state(self) -> None:
        mine = {record.path: record.sha256 for record in self._source.manifest.shards}
        for record in self.manifest.shards:
            if mine.get(record.path, record.source_sha256) != record.source_sha256:
                raise CorruptDatasetError(
                    "was derived of another version of the data set's shard",
                    where=self._root / record.path,
                    hint="Give the same actionimg derive command again: it makes what has changed.",
                )

    def _check_windows(self, options: SampleOptions) -> None:
        spec = self.spec
        own: list[tuple[str, Any, Any]] = []
        if self.by_window:
            own.append(("num_frames", spec.num_frames, options.num_frames))
        if {"pictures", "actions"} & set(self.manifest.reads):
            own.append(("size", (spec.height, spec.width), options.size))
        if self.one_group:
            own.append(("views", len(spec.views), options.views))
        for field, stored, asked in own:
            if stored != asked:
                raise InvalidSpecError(
                    "the member was made of other windows", where=self.name, field=field, expected=stored, found=asked
                )
        if "actions" in self.manifest.reads and options.wrist_views:
            raise InvalidSpecError(
                "the member was made of action images as they are drawn without it",
                where=self.name,
                field="wrist_views",
                found=" ".join(options.wrist_views),
            )

    def _load(self, options: SampleOptions) -> None:
        """Places of its values as flat arrays, sorted by sample, start and views."""
        source = self._source
        table = derived.read_table(source.place, self.manifest, source.verifies)
        rows = source.rows_of(table["key"].combine_chunks())
        strides = {rate: options.stride(float(rate), source.path) for rate in np.unique(source.fps)}
        wanted = np.array([strides[rate] for rate in source.fps.tolist()], np.int64)
        keep = rows >= 0
        if self.by_window:
            keep &= table["stride"].to_numpy() == wanted[np.maximum(rows, 0)]
            if not keep.any():
                raise InvalidSpecError(
                    "the member was made of windows at another rate",
                    where=self.name,
                    field="fps, frame_stride",
                    expected=f"stride {sorted(set(table['stride'].to_pylist()))}",
                    found=f"stride {sorted(set(strides.values()))}",
                )
            if options.short != "repeat":
                # Windows that hold a sample's last frame are those of short="repeat" alone.
                ends = table["start"].to_numpy() + (options.num_frames - 1) * wanted[np.maximum(rows, 0)]
                keep &= ends < source.frames[np.maximum(rows, 0)]
        groups = pc.dictionary_encode(table["views"].combine_chunks())
        self.groups: list[tuple[str, ...]] = [tuple(text.split("+")) for text in groups.dictionary.to_pylist()]
        shards = pc.dictionary_encode(table["shard"].combine_chunks())
        self._shards: list[str] = shards.dictionary.to_pylist()
        codes = groups.indices.to_numpy(zero_copy_only=False).astype(np.int32)
        starts = table["start"].to_numpy().astype(np.int64)
        order = np.lexsort((codes, starts, rows))
        order = order[keep[order]]
        self._rows, self._starts, self._codes = rows[order], starts[order], codes[order]
        self._shard = shards.indices.to_numpy(zero_copy_only=False).astype(np.int32)[order]
        self._offset, self._size = (table[name].to_numpy().astype(np.int64)[order] for name in ("offset", "size"))
        digests = b"".join(table["sha256"].to_pylist())
        self._digest = np.frombuffer(digests, np.uint8).reshape(-1, 32)[order]

    def places(self, row: int) -> slice:
        """Where a sample's values are."""
        first, last = np.searchsorted(self._rows, [row, row + 1])
        return slice(int(first), int(last))

    def views_at(self, row: int) -> dict[int, set[str]]:
        """Views that there are values for, by the window's start; all together count for each of them."""
        place = self.places(row)
        found: dict[int, set[str]] = {}
        for start, code in zip(self._starts[place].tolist(), self._codes[place].tolist(), strict=True):
            found.setdefault(start, set()).update(self.groups[code])
        return found

    def rows(self) -> NDArray[np.int64]:
        """Rows of the source that there is any value for."""
        return np.unique(self._rows)

    def read(self, row: int, start: int, views: tuple[str, ...]) -> torch.Tensor | dict[str, torch.Tensor]:
        """The values of a window: of the only call, or of each view, stacked (V, …).

        Raises:
            CorruptDatasetError: There is none, or it was changed.
        """
        wanted = [self.spec.views] if self.spec.together else [(view,) for view in views]
        parts = [self._one(row, start if self.by_window else 0, group) for group in wanted]
        if self.spec.together:
            stacked = {name: torch.from_numpy(array.copy()) for name, array in parts[0].items()}
        else:
            stacked = {name: torch.from_numpy(np.stack([part[name] for part in parts])) for name in parts[0]}
        return stacked[""] if list(stacked) == [""] else stacked

    def _one(self, row: int, start: int, group: tuple[str, ...]) -> derived.Arrays:
        place = self.places(row)
        code = self.groups.index(group) if group in self.groups else -1
        shown = (self._codes[place] == code) | self.of_any_views
        found = place.start + np.flatnonzero((self._starts[place] == start) & shown)
        key = self._source.key(row)
        if len(found) != 1:
            raise CorruptDatasetError(
                "has no such derived member",
                where=f"{self._root}: {key}",
                field=self.name,
                found=f"start {start}, {' '.join(group)}",
            )
        at = int(found[0])
        tar = self._root / f"{self._shards[int(self._shard[at])]}.tar"
        places = {self.spec.member: (int(self._offset[at]), int(self._size[at]))}
        digests = {self.spec.member: self._digest[at].tobytes().hex()} if self._source.verifies else None
        body = read_members(tar, key, places, digests)[self.spec.member]
        return derived.load_arrays(body, self.spec.member, f"{tar}: {key}")

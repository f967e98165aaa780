"""Members of shards by their place, and what a data set says of them: the one way in which shards are read.

A shard is in a local folder or in a store; of either only the ranges are read that are asked for, and each is held
against its SHA-256. Nothing stays open, so that whatever reads may be forked and pickled.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ..errors import CorruptDatasetError, SourceNotFoundError, StorageError
from ..schemas import DatasetManifest, ShardSidecar, index_schema
from ..schemas.dataset import parse
from ..untrusted.parquet import load_parquet
from . import layout
from .layout import Place
from .manifest import check_index, read_bytes

if TYPE_CHECKING:
    import pyarrow as pa

MAX_MEMBER: Final = 4 << 30
_SHARDS_KEPT: Final = 128


def read_members(
    tar: Place,
    key: str,
    places: Mapping[str, tuple[int, int]],
    digests: Mapping[str, str] | None = None,
    size: int | None = None,
) -> dict[str, bytes]:
    """Members of a sample.

    Args:
        tar: The shard.
        key: The sample's key, for errors.
        places: Offset and size of each member by its name.
        digests: SHA-256 of each; None: they are not known.
        size: Bytes of the shard, where they are known.

    Raises:
        SourceNotFoundError: The shard cannot be read.
        CorruptDatasetError: It has another size, or a member is truncated or was changed.
        StorageError: The store does not answer.
    """
    for name, (_, length) in places.items():
        if not 0 <= length <= MAX_MEMBER:
            raise CorruptDatasetError("has an impossible size", where=f"{tar}: {key}.{name}", found=length)
    try:
        parts = layout.read_ranges(tar, list(places.values()), size)
    except (StorageError, CorruptDatasetError):
        raise
    except OSError as error:
        raise SourceNotFoundError(error.strerror or str(error) or "not found", where=tar) from None
    for (name, (_, length)), part in zip(places.items(), parts, strict=True):
        where = f"{tar}: {key}.{name}"
        if len(part) != length:
            raise CorruptDatasetError("is truncated", where=where, expected=f"{length} B", found=f"{len(part)} B")
        if digests is not None and hashlib.sha256(part).hexdigest() != digests.get(name):
            raise CorruptDatasetError(
                "was changed after it was written",
                where=where,
                field="SHA-256",
                hint="actionimg verify checks the whole data set.",
            )
    return dict(zip(places, parts, strict=True))


class Sidecars:
    """The sidecars of a data set's shards, each held against the manifest when it is read; of some, hashes are kept.

    Args:
        root: The data set.
        manifest: Its manifest.
    """

    def __init__(self, root: Place, manifest: DatasetManifest) -> None:
        self._root, self._manifest = root, manifest
        self._records = {record.path.removesuffix(".tar"): record for record in manifest.shards}
        self._digests: OrderedDict[str, dict[str, dict[str, str]]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_digests": OrderedDict()}

    def of(self, shard: str) -> ShardSidecar:
        """The sidecar of a shard.

        Raises:
            CorruptDatasetError: It is not what the manifest says, or of another shard or data set.
            SourceNotFoundError: It cannot be read.
        """
        where = self._root / f"{shard}.json"
        data = read_bytes(where)
        record = self._records.get(shard)
        if record is not None and hashlib.sha256(data).hexdigest() != record.sidecar_sha256:
            raise CorruptDatasetError("is not what the manifest says", where=where, field="SHA-256")
        sidecar = parse(ShardSidecar, data, where)
        if sidecar.shard != shard:
            raise CorruptDatasetError("is of another shard", where=where, expected=shard, found=sidecar.shard)
        plan = self._manifest.plan_of(shard)
        if sidecar.plan != plan:
            raise CorruptDatasetError(
                "is of another data set",
                where=where,
                field="plan",
                expected=plan[:12],
                found=sidecar.plan[:12],
                hint="Shards of different data sets are mixed with ConcatActionImageDataset.",
            )
        return sidecar

    def digests(self, shard: str, key: str) -> dict[str, str]:
        """SHA-256 of each member of a sample."""
        if shard in self._digests:
            self._digests.move_to_end(shard)
        else:
            samples = self.of(shard).samples
            self._digests[shard] = {s.key: {m.name: m.sha256 for m in s.members} for s in samples}
            if len(self._digests) > _SHARDS_KEPT:
                self._digests.popitem(last=False)
        return self._digests[shard].get(key, {})

    def size(self, shard: str) -> int | None:
        """Bytes of a shard; None where the manifest does not name it."""
        record = self._records.get(shard)
        return None if record is None else record.bytes


def index_data(root: Place, manifest: DatasetManifest, verify: bool) -> bytes:
    """The bytes of a complete data set's index.

    Args:
        root: The data set.
        manifest: Its manifest.
        verify: Hold them against their SHA-256.

    Raises:
        CorruptDatasetError: The data set is not complete, or the index is another one.
        SourceNotFoundError: It cannot be read.
    """
    if not manifest.complete:
        raise CorruptDatasetError(
            "is not complete", where=root, hint="Run the same actionimg convert again to finish it."
        )
    where = root / layout.INDEX
    data = read_bytes(where)
    if verify and hashlib.sha256(data).hexdigest() != manifest.files.get(layout.INDEX):
        raise CorruptDatasetError("is not what the manifest says", where=where, field="SHA-256")
    return data


def check_columns(schema: pa.Schema, manifest: DatasetManifest, where: object) -> None:
    """Refuse an index with other columns than one of this data set has (`CorruptDatasetError`)."""
    if not schema.equals(index_schema(**manifest.index_columns)):
        raise CorruptDatasetError("has other columns than an index", where=where, found=" ".join(schema.names))


def read_index(root: Place, manifest: DatasetManifest, verify: bool) -> pa.Table:
    """The index of a data set: one row a sample.

    Args:
        root: The data set.
        manifest: Its manifest.
        verify: Hold it against its SHA-256.

    Raises:
        CorruptDatasetError: The data set is not complete, or the index is damaged or another one.
        SourceNotFoundError: It cannot be read.
    """
    import pyarrow as pa

    where = root / layout.INDEX
    data = index_data(root, manifest, verify)
    try:
        table = load_parquet(data).combine_chunks()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise CorruptDatasetError(f"cannot be read: {error}", where=where) from None
    check_columns(table.schema, manifest, where)
    check_index(table, manifest, where)
    return table

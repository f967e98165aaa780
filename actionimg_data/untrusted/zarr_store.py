"""A zarr store that gives no chunk which claims to unpack to more than there is reason for."""

from __future__ import annotations

import zipfile
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore, ZipStore

from ..errors import BadFileError, UnsafeFileError
from .files import check_plain
from .pictures import check_jpeg
from .unpack import MAX_ARRAY_BYTES, check_unpacked, unzip


class Guarded(WrapperStore[Any]):
    """Another store, whose values are looked at before a codec sees them."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The value of a key, or None; `UnsafeFileError` where it would unpack to too much."""
        store = self._store
        if isinstance(store, ZipStore):
            await store._ensure_open()
            entry = store._zf.NameToInfo.get(key)
            if entry is None:
                return None
            if entry.compress_type != zipfile.ZIP_STORED:
                # The archive's own reader unpacks all there is before it looks at the stated size.
                data = unzip(store._zf, entry, store.path)
                if byte_range is not None:
                    raise BadFileError("a part of a packed member cannot be read", where=store.path, field=key)
                _check(data, f"{store.path}: {key}")
                packed: Buffer = prototype.buffer.from_bytes(data)
                return packed
        elif isinstance(store, LocalStore):
            file = store.root / key
            if file.exists() and not file.is_dir():
                check_plain(file)
        found: Buffer | None = await store.get(key, prototype, byte_range)
        if found is not None:
            if len(found) > MAX_ARRAY_BYTES:
                raise UnsafeFileError("is too large", where=f"{store}: {key}", found=len(found))
            _check(found.to_bytes(), f"{store}: {key}")
        return found


def _check(data: bytes, where: str) -> None:
    check_unpacked(data, where)
    # The codec of JPEGs shows a damaged picture in part; nobody but `pictures` says so.
    if data.startswith(b"\xff\xd8\xff"):
        check_jpeg(data, where)

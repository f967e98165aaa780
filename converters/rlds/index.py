"""A cache of where the records of TFRecord files are, so that a large data set is not walked again and again.

The cache lies where all converters keep theirs (`actionimg_data.converters.cache`), never beside the data. Entries are
written under a temporary name and renamed; where the folder cannot be written, everything works without. An entry
counts only while the file has the same size, modification time, first and last bytes, and the headers of records spread
over it are those remembered; and each record's CRC is compared again when it is read.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from ...errors import BadFileError, StorageError
from ...untrusted.files import open_plain
from ..cache import index_folder
from . import tfrecord
from .tfrecord import FOOTER, HEADER, Records

VERSION = 1
_EDGE = 4096
_SAMPLES = 8


def load(path: Path) -> Records:
    """The records of a TFRecord file, from the cache where that still holds, else by `tfrecord.scan`.

    Raises:
        SourceNotFoundError: No such file.
        BadFileError: The file is cut or damaged.
    """
    folder = index_folder()
    if folder is None:
        return tfrecord.scan(path)
    identity, key = _identity(path)
    entry = folder / (hashlib.sha256(key.encode()).hexdigest()[:32] + ".npz")
    cached = _load_entry(entry, identity)
    if cached is not None and _agrees(path, cached):
        return cached
    records = tfrecord.scan(path)
    # A file that changed while it was walked is not remembered.
    if _identity(path) == (identity, key):
        _store_entry(entry, identity, records)
    return records


def _identity(path: Path) -> tuple[str, str]:
    """Size, version and a hash of the edges of a file; and its name, of an object in a store its URL."""
    file = tfrecord.open_file(path)
    try:
        edges = file.read(_EDGE, 0) + file.read(_EDGE, max(0, file.size - _EDGE))
    except StorageError:
        raise
    except OSError as error:
        raise BadFileError("cannot be read", where=path, found=error) from None
    finally:
        file.close()
    return f"{VERSION} {file.size} {file.version} {hashlib.sha256(edges).hexdigest()}", file.key


def _load_entry(entry: Path, identity: str) -> Records | None:
    try:
        # Opened here, because np.load leaves a file open that turns out to be no archive.
        with open_plain(entry) as raw:
            if not zipfile.is_zipfile(raw):
                return None
            raw.seek(0)
            with np.load(raw, allow_pickle=False) as file:
                if str(file["identity"]) != identity:
                    return None
                records = Records(file["offsets"], file["lengths"], file["crcs"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    shapes = {records.offsets.shape, records.lengths.shape, records.crcs.shape}
    return records if len(shapes) == 1 and records.offsets.ndim == 1 else None


def _agrees(path: Path, records: Records) -> bool:
    """Whether records spread over the file are where the index says, with the CRCs that it says."""
    n = len(records)
    with tfrecord.open_file(path) as file:
        try:
            for i in {n * k // _SAMPLES for k in range(_SAMPLES)} if n else ():
                offset, length = int(records.offsets[i]), int(records.lengths[i])
                if int.from_bytes(file.read(8, offset), "little") != length:
                    return False
                if int.from_bytes(file.read(FOOTER, offset + HEADER + length), "little") != records.crcs[i]:
                    return False
        except StorageError:
            raise
        except OSError:
            return False
        end = int(records.offsets[-1] + records.lengths[-1]) + HEADER + FOOTER if n else 0
        return end == file.size


def _store_entry(entry: Path, identity: str, records: Records) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=entry.parent, suffix=".tmp")
    except OSError:
        return
    try:
        with os.fdopen(fd, "wb") as file:
            np.savez(
                file,
                identity=np.array(identity),
                offsets=records.offsets,
                lengths=records.lengths,
                crcs=records.crcs,
            )
        os.replace(name, entry)
    except OSError:
        Path(name).unlink(missing_ok=True)

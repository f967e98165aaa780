"""Objects of a store that fsspec knows: ``s3://``, ``gs://``, ``az://``, ``memory://``.

`RemotePath` has the part of `pathlib.Path` that is used here, under the same names and with the same errors. Every call
is repeated with back-off while the store answers with 5xx, 429 or not at all, until `patience` is over; then, and for
credentials that are missing or refused, there is an error with a name. Nothing is cached: a listing is what the store
says now.
"""

from __future__ import annotations

import errno
import fnmatch
import io
import os
import posixpath
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeVar

from .errors import (
    ActionImgError,
    InvalidSpecError,
    MissingExtraError,
    SourceNotFoundError,
    StorageAccessError,
    StorageError,
    UnsafeFileError,
    UnsupportedSourceError,
    install_hint,
)

PATIENCE_VARIABLE: Final = "ACTIONIMG_STORE_PATIENCE"
DEFAULT_PATIENCE_S: Final = 120.0
FIRST_WAIT_S: Final = 0.2
LONGEST_WAIT_S: Final = 15.0
BLOCK: Final = 4 << 20
"""Bytes that are asked for at once where a file is read from its beginning to its end."""

CREATES: Final = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""Protocols whose fsspec file systems can create an object only where there is none (``mode="create"``)."""

_URL: Final = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*(::|://)")
_EXTRAS: Final = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "hf": "hub",
}

# Told by their names, since the packages that define them are optional.
_PASSING: Final = {
    "ClientError", "ClientPayloadError", "ConnectionClosedError", "ConnectionError", "ConnectTimeoutError",
    "EndpointConnectionError", "FSTimeoutError", "HTTPClientError", "IncompleteRead", "IncompleteReadError",
    "ReadTimeoutError", "ResponseParserError", "ResponseStreamingError", "ServiceRequestError", "ServiceResponseError",
    "TimeoutError",
}  # fmt: skip
_ACCESS: Final = {
    "ClientAuthenticationError", "CredentialRetrievalError", "DefaultCredentialsError", "NoCredentialsError",
    "PartialCredentialsError", "PermissionError", "ProfileNotFound", "RefreshError", "TokenRetrievalError",
}  # fmt: skip
_PASSING_STATUS: Final = {408, 409, 429, 500, 502, 503, 504}

Result = TypeVar("Result")


def is_url(where: object) -> bool:
    """Whether ``where`` names something in a store; ``file://`` and plain paths do not."""
    text = str(where)
    return bool(_URL.match(text)) and not text.startswith("file://")


def patience() -> float:
    """Seconds for which a call is repeated: ``ACTIONIMG_STORE_PATIENCE``, by default 120.

    Raises:
        InvalidSpecError: The variable is no number of seconds.
    """
    text = os.environ.get(PATIENCE_VARIABLE)
    if not text:
        return DEFAULT_PATIENCE_S
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise InvalidSpecError("must be seconds", where="environment", field=PATIENCE_VARIABLE, found=text)
    return value


@dataclass(frozen=True)
class Stat:
    """Size of an object, and a text that is another one when its content is."""

    st_size: int
    version: str


class RemotePath:
    """An object, or a folder of objects, by its URL; picklable, and opened in the process that uses it.

    It is not `os.PathLike` on purpose: what would open it as a local file fails at once.

    Args:
        url: Where it is, e.g. ``s3://bucket/shards``; credentials and endpoints come from the environment.
        options: What fsspec's file system needs beside that.

    Raises:
        UnsafeFileError: ``pipe:`` and other chained protocols.
        UnsupportedSourceError: No file system of fsspec has this protocol.
        MissingExtraError: The package of that file system is not installed.
    """

    __slots__ = ("_options", "url")

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        scheme, _, rest = url.partition("://")
        if "::" in url or not rest:
            raise UnsafeFileError("is not a plain URL of a store", where=url, expected="PROTOCOL://BUCKET/FOLDER")
        self.url = f"{scheme}://{posixpath.normpath('/' + rest).lstrip('/')}"
        self._options = dict(options or {})
        self._class()

    @classmethod
    def at(cls, url: str, options: dict[str, Any] | None = None) -> RemotePath:
        """The place of a URL that is known to be one: nothing of it is checked."""
        path = cls.__new__(cls)
        path.url, path._options = url, options or {}
        return path

    def __getstate__(self) -> tuple[str, dict[str, Any]]:
        return self.url, self._options

    def __setstate__(self, state: tuple[str, dict[str, Any]]) -> None:
        self.url, self._options = state

    def __repr__(self) -> str:
        return f"RemotePath({self.url!r})"

    def __str__(self) -> str:
        return self.url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and other.url == self.url

    def __lt__(self, other: RemotePath) -> bool:
        return self.url < other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath.at(f"{self.url}/{name}", self._options)

    # -- names ---------------------------------------------------------------------------------------------------

    @property
    def protocol(self) -> str:
        """``s3``, ``gs``, …"""
        return self.url.partition("://")[0].lower()

    @property
    def name(self) -> str:
        """Last part of the path."""
        return posixpath.basename(self.url)

    @property
    def stem(self) -> str:
        """`name` without its last ending."""
        return posixpath.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        """Last ending of `name`, with its dot."""
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> RemotePath:
        """The folder it is in; a bucket is its own."""
        scheme, _, rest = self.url.partition("://")
        return RemotePath.at(f"{scheme}://{posixpath.dirname(rest) or rest}", self._options)

    def with_suffix(self, suffix: str) -> RemotePath:
        """Another last ending, with its dot."""
        return self.parent / f"{self.stem}{suffix}"

    def with_name(self, name: str) -> RemotePath:
        """Another name in the same folder."""
        return self.parent / name

    def absolute(self) -> RemotePath:
        """Itself."""
        return self

    def resolve(self) -> RemotePath:
        """Itself."""
        return self

    def relative_to(self, other: RemotePath) -> str:
        """The path below ``other``, with forward slashes."""
        if not self.url.startswith(f"{other.url}/"):
            raise ValueError(f"{self.url} is not below {other.url}")
        return self.url[len(other.url) + 1 :]

    # -- what is there -------------------------------------------------------------------------------------------

    def stat(self) -> Stat:
        """Size and version of an object.

        Raises:
            FileNotFoundError: There is none.
            StorageError: The store does not answer.
        """
        info = self._info()
        if info is None or info["type"] != "file":
            raise FileNotFoundError(2, "No such object", self.url)
        return _stat(info)

    def exists(self) -> bool:
        """Whether there is an object of this name, or any below it."""
        return self._info() is not None

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        info = self._info()
        return info is not None and info["type"] == "file"

    def is_dir(self) -> bool:
        """Whether there are objects below this name."""
        info = self._info()
        return info is not None and info["type"] == "directory"

    def _info(self) -> dict[str, Any] | None:
        # fsspec's own exists, isfile and isdir say False when the store does not answer.
        try:
            return dict(self._call("look at", lambda fs, key: fs.info(key)))
        except FileNotFoundError:
            return None

    def iterdir(self) -> Iterator[RemotePath]:
        """What is right below it, sorted; nothing where it does not exist."""
        return (self / posixpath.basename(name) for name, _ in self._list())

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """What is right below it and matches a pattern of names."""
        return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def files(self) -> list[tuple[str, Stat]]:
        """Names and sizes of the objects right below it, sorted."""
        return [(posixpath.basename(name), _stat(info)) for name, info in self._list() if info["type"] == "file"]

    def sizes(self) -> dict[str, int]:
        """Names and sizes of the objects right below it, sorted."""
        return {name: stat.st_size for name, stat in self.files()}

    def similar(self, mark: str) -> str | None:
        """None: what is beside it in the store is not looked for."""

    def free_bytes(self) -> int | None:
        """None: a store has no end."""

    def walk(self) -> list[tuple[str, Stat]]:
        """Paths below it, with forward slashes, and sizes of all objects at any depth, sorted.

        Raises:
            SourceNotFoundError: There is nothing.
            StorageError: The store does not answer.
        """
        found = self._call("list", lambda fs, key: (key, fs.find(key, detail=True)))
        prefix, objects = found
        below = sorted(
            (name.strip("/")[len(prefix.strip("/")) :].lstrip("/"), _stat(info))
            for name, info in objects.items()
            if info["type"] == "file" and not name.endswith("/")
        )
        if not below:
            raise SourceNotFoundError("does not exist, or holds nothing", where=self.url)
        return below

    def _list(self) -> list[tuple[str, dict[str, Any]]]:
        try:
            infos = self._call("list", lambda fs, key: fs.ls(key, detail=True))
        except FileNotFoundError:
            return []
        own = self._key()[1].strip("/")
        named = [(str(info["name"]).rstrip("/"), info) for info in infos]
        return sorted((item for item in named if item[0].strip("/") != own), key=lambda item: item[0])

    # -- reading -------------------------------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        """All of an object; `FileNotFoundError` where there is none."""
        return bytes(self._call("read", lambda fs, key: fs.cat_file(key)))

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of an object as text."""
        return self.read_bytes().decode(encoding)

    def read_range(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset`` on; fewer where the object ends before."""
        if size <= 0:
            return b""
        try:
            return bytes(self._call("read", lambda fs, key: fs.cat_file(key, start=offset, end=offset + size)))
        except StorageError:
            # A range that begins past the end is an error of some stores, and empty in others.
            if offset >= self.stat().st_size:
                return b""
            raise

    def read_ranges(self, ranges: Sequence[tuple[int, int]], size: int | None = None) -> list[bytes]:
        """Bytes by offset and size, asked for side by side; fewer where the object ends before.

        The ``size`` of the whole, which a file is held against, is not asked of a store: it would be one more call.
        """
        starts = [offset for offset, _ in ranges]
        ends = [offset + size for offset, size in ranges]
        found = self._call("read", lambda fs, key: fs.cat_ranges([key] * len(starts), starts, ends, on_error="raise"))
        return [bytes(part) for part in found]

    def open(self, mode: str = "rb", buffering: int = 1 << 20) -> IO[bytes]:
        """The object as a binary file that reads ranges where it is read, at least ``buffering`` bytes at once.

        Raises:
            FileNotFoundError: There is none.
        """
        if mode != "rb":
            raise ValueError(f"objects are written whole, by put and create; mode {mode!r}")
        return io.BufferedReader(RangeFile(self, self.stat().st_size), buffering)

    def open_read(self, buffering: int = -1) -> IO[bytes]:
        """`open`, with as much buffer as is usual where nothing is said."""
        return self.open("rb") if buffering < 0 else self.open("rb", buffering)

    def chunks(self, known: int | None = None) -> Iterator[bytes]:
        """All of an object, piece by piece.

        Args:
            known: Its size, where that was listed: a small object is then one call.
        """
        if known is not None and 0 < known < BLOCK:
            # One byte more, so that one that has grown since shows.
            yield self.read_range(0, known + 1)
            return
        total = self.stat().st_size
        for offset in range(0, total, BLOCK):
            part = self.read_range(offset, min(BLOCK, total - offset))
            if not part:
                return
            yield part

    def download(self, target: Path, known: int | None = None) -> int:
        """Copy the object into a local file; returns its size."""
        size = 0
        with open(target, "wb") as file:
            for part in self.chunks(known):
                file.write(part)
                size += len(part)
        return size

    # -- writing -------------------------------------------------------------------------------------------------

    def put(self, data: bytes | Path) -> None:
        """Write the object, of bytes or of a local file; it is there as a whole or not at all."""
        self._write(data, "overwrite")

    def create(self, data: bytes | Path) -> bool:
        """Write the object where there is none; of several at once one wins.

        Returns:
            Whether it was written by this call. False also where an earlier try of this call did reach the store and
            only its answer was lost: compare what is there.

        Raises:
            UnsupportedSourceError: The store cannot do that.
        """
        self.check_protocol()
        return self._write(data, "create")

    def _write(self, data: bytes | Path, mode: Literal["overwrite", "create"]) -> bool:
        extra: dict[str, Any] = {} if mode == "overwrite" else {"mode": mode}
        if self.protocol in ("az", "abfs", "abfss"):
            extra = {"overwrite": mode == "overwrite"}

        def write(fs: Any, key: str) -> bool:
            try:
                if isinstance(data, Path):
                    if self.protocol == "memory":
                        fs.pipe_file(key, data.read_bytes(), **extra)
                    else:
                        fs.put_file(os.fspath(data), key, **extra)
                else:
                    fs.pipe_file(key, data, **extra)
            except FileExistsError:
                return False
            except OSError as error:
                if mode == "create" and _code(error) in ("PreconditionFailed", "412"):
                    return False
                raise
            return True

        return bool(self._call("write", write))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        try:
            self._call("remove", lambda fs, key: fs.rm_file(key))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmdir(self) -> None:
        """Nothing: folders of a store are made of the objects in them."""

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: folders of a store are made of the objects in them."""

    def check_creates(self) -> None:
        """Try on the store itself that an object is created only where there is none.

        Raises:
            UnsupportedSourceError: It is written over: two runs at once would damage each other's work.
        """
        self.check_protocol()
        probe = self / f".probe-{os.getpid()}-{random.getrandbits(64):016x}.tmp"
        try:
            probe.create(b"1")
            if probe.create(b"2"):
                raise self._no_create("the store overwrites")
        finally:
            probe.unlink(missing_ok=True)

    def check_protocol(self) -> None:
        """Refuse a protocol of which it is not known that it can create objects.

        Raises:
            UnsupportedSourceError: As said.
        """
        if self.protocol not in CREATES:
            raise self._no_create(self.protocol)

    def _no_create(self, found: str) -> UnsupportedSourceError:
        return UnsupportedSourceError(
            "cannot create an object only where there is none, so two runs at once could damage each other's work",
            where=self.url,
            expected=" | ".join(f"{p}://" for p in CREATES),
            found=found,
            hint="Convert into a local folder and copy it there.",
        )

    # -- calls ---------------------------------------------------------------------------------------------------

    def _filesystem(self) -> Any:
        # fsspec keeps one a process, thread and set of options.
        made = self._class()
        return made(**{"use_listings_cache": False, **made._get_kwargs_from_urls(self.url), **self._options})

    def _class(self) -> Any:
        import fsspec

        try:
            return fsspec.get_filesystem_class(self.protocol)
        except ValueError as error:
            raise UnsupportedSourceError(str(error), where=self.url, expected="s3:// | gs:// | az://") from None
        except ImportError as error:
            extra = _EXTRAS.get(self.protocol)
            hint = None if extra is None else install_hint(extra)
            raise MissingExtraError(str(error), where=self.url, hint=hint) from None

    def _key(self) -> tuple[Any, str]:
        fs = self._filesystem()
        return fs, str(fs._strip_protocol(self.url))

    def _call(self, what: str, call: Callable[[Any, str], Result]) -> Result:
        return calling(what, self.url, lambda: call(*self._key()))


def calling(what: str, where: str, call: Callable[[], Result]) -> Result:
    """A call of a file system, repeated while it fails for a reason that may pass.

    Args:
        what: What it does, for an error: ``read``.
        where: To what.
        call: Does it.

    Raises:
        FileNotFoundError, FileExistsError: What the store says.
        StorageAccessError: Credentials are missing, or not enough.
        StorageError: The store refuses, or does not answer for as long as `patience` says.
    """
    end = time.monotonic() + patience()
    wait = FIRST_WAIT_S
    tries = 0
    while True:
        tries += 1
        try:
            return call()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, FileExistsError):
            raise
        except Exception as error:
            kind = None if isinstance(error, ActionImgError) else _kind(error)
            if kind is None:
                raise
            left = end - time.monotonic()
            if kind == "passing" and left > 0:
                # Spread, so that a thousand workers do not come back at the same moment.
                time.sleep(min(left, wait * random.uniform(0.5, 1.5)))
                wait = min(2 * wait, LONGEST_WAIT_S)
                continue
            raise _error(what, where, kind, tries, error) from error


def _error(what: str, where: str, kind: str, tries: int, error: Exception) -> StorageError:
    found = f"{type(error).__name__}: {error}"
    if kind == "access":
        return StorageAccessError(
            f"cannot {what}: credentials are missing, or not enough",
            where=where,
            found=found,
            hint="Set the credentials as the store's own tools take them, e.g. AWS_PROFILE or AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY; is the machine's clock right?",
        )
    if kind == "refused":
        return StorageError(f"cannot {what}: the store refuses", where=where, found=found)
    return StorageError(
        f"cannot {what}: the store does not answer as it should, in {tries} tries",
        where=where,
        found=found,
        hint=f"Nothing published was changed: run the same command again later; {PATIENCE_VARIABLE} says how long "
        "a call is repeated.",
    )


def _stat(info: dict[str, Any]) -> Stat:
    names = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "mtime", "created")
    version = next((str(info[name]) for name in names if info.get(name)), "")
    return Stat(int(info.get("size") or 0), version.strip('"'))


def _kind(error: BaseException) -> Literal["passing", "access", "refused"] | None:
    """Whether an error may pass, is about credentials, or is the store's last word; None: not about the store."""
    names = {cls.__name__ for cls in type(error).__mro__}
    status = _status(error)
    if names & _ACCESS or status in (401, 403) or str(error).startswith("Forbidden"):
        return "access"
    if status is not None:
        return "passing" if status in _PASSING_STATUS else "refused"
    if names & _PASSING:
        return "passing"
    if isinstance(error, OSError):
        # What the operating system says about a connection, and what s3fs makes of an answer it does not know.
        return "passing"
    return "refused" if type(error).__module__.partition(".")[0] in ("botocore", "azure", "gcsfs", "google") else None


def _response(error: BaseException) -> dict[str, Any]:
    for candidate in (error, error.__cause__):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            return response
    return {}


def _code(error: BaseException) -> str | None:
    """The store's own code of an error, e.g. ``PreconditionFailed``."""
    code = _response(error).get("Error", {}).get("Code")
    return None if code is None else str(code)


def _status(error: BaseException) -> int | None:
    """The HTTP status of an error, where it is known."""
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    for value in (status, getattr(error, "status_code", None), getattr(error, "code", None)):
        if isinstance(value, int) and not isinstance(value, bool) and 100 <= value < 600:
            return value
    return None


class RangeFile(io.RawIOBase):
    """A seekable file whose reads become ranges of an object."""

    def __init__(self, path: RemotePath, size: int) -> None:
        super().__init__()
        self._path, self._size, self._offset = path, size, 0

    def _part(self, offset: int, count: int) -> bytes:
        """Bytes from ``offset``: ``count`` of them, or fewer, but one where ``count`` is not 0."""
        return self._path.read_range(offset, count)

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The next byte's offset."""
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset, also past the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            # As of a file on disk: who looks for an end that a short file has not got expects this error.
            raise OSError(errno.EINVAL, "negative position")
        self._offset = base + offset
        return self._offset

    def readinto(self, buffer: Any) -> int:
        """What is read is what one range gives: a buffered reader asks again for the rest."""
        view = memoryview(buffer).cast("B")
        size = min(len(view), max(0, self._size - self._offset))
        part = self._part(self._offset, size)
        view[: len(part)] = part
        self._offset += len(part)
        return len(part)

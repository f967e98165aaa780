"""Sources in object stores, for converters that know nothing of them.

`SourceReader` wraps a converter. The source appears as a folder: each object of it as a file of its size.
`Converter.discover` and `Converter.read` are given that folder in place of the URL. What they need is there: the
objects that `Converter.remote_headers` names before `discover`, and before `read` the files and folders that
`Converter.remote_files` names for the episode. They come through a cache of whole objects, shared by the processes of a
machine and bounded; those that were used longest ago go first. Files that are read in ranges (`RANGED`: TFRecord, and
large HDF5 files) are never fetched.

What leaves is the source's own: locations, provenance and errors name URLs and no local folder, so that plan and bytes
are the same on every machine.

An object that was not fetched is a file that cannot be opened, or for root one of zeros: no format here takes it for
data.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final, TypeVar, cast

from ..errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadFileError,
    OutputError,
    SourceNotFoundError,
    StorageError,
    UnsupportedSourceError,
    WrongFormatError,
)
from ..model import Episode, EpisodeRef
from ..objectstore import RangeFile, RemotePath, Stat, is_url
from ..scratch import PrivateFolder, alone
from ..untrusted.files import open_plain, register_opener
from .base import Converter, detect
from .cache import CACHE_VARIABLE, SIZE_VARIABLE, cache_bytes, cache_folder

Item = TypeVar("Item")
RANGED: Final = ("*.tfrecord", "*.tfrecord-*")
"""Names of files that are always read in ranges."""

RANGED_IF_LARGE: Final = ("*.hdf5", "*.h5")
LARGE_BYTES: Final = 64 << 20
"""From this size on files of `RANGED_IF_LARGE` are read in ranges; smaller ones come faster whole."""

BESIDE: Final = ("*.json", "*.yaml", "*.yml", "*.txt", "*.pkl")
BESIDE_BYTES: Final = 4 << 20
"""Size up to which files of `BESIDE` in the folders above an episode come with it: instructions, calibrations."""

MARK: Final = "remote"
"""Key in an episode's location: its source is in a store."""

_KEPT: Final = 2
_THREADS: Final = 16
_BLOCK: Final = 1 << 18
_BLOCKS: Final = 256


class _Cache:
    """Whole objects below a folder that several processes share; at most so many bytes, oldest use first to go."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder / "objects"
        self.limit = limit
        self._since = 0
        self._lock = threading.Lock()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def place(self, url: RemotePath, known: Stat, target: Path) -> None:
        """Make the object appear as ``target``, fetched where it is not here yet."""
        digest = hashlib.sha256(f"{url}\0{known.version}\0{known.st_size}".encode()).hexdigest()
        entry = self.folder / digest[:2] / digest[2:40]
        for _ in range(3):
            try:
                os.utime(entry)
                _appear(entry, target)
                return
            except FileNotFoundError:
                # Not here, or removed for its age just now.
                self._fetch(url, known, entry)
        raise OutputError("cannot keep an object for as long as it takes to read it", where=self.folder, found=str(url))

    def _fetch(self, url: RemotePath, known: Stat, entry: Path) -> None:
        entry.parent.mkdir(mode=0o700, exist_ok=True)
        part = entry.with_name(f"{entry.name}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            size = url.download(part, known.st_size)
            if size != known.st_size:
                raise BadFileError(
                    "changed while it was fetched", where=url, expected=f"{known.st_size} B", found=f"{size} B"
                )
            os.replace(part, entry)
        except FileNotFoundError:
            raise SourceNotFoundError("no such object", where=url) from None
        finally:
            part.unlink(missing_ok=True)
        with self._lock:
            self._since += size
            due, self._since = self._since > self.limit // 20, 0 if self._since > self.limit // 20 else self._since
        if due:
            self.shrink()

    def shrink(self) -> None:
        """Remove what was used longest ago until the rest fits."""
        with alone(self.folder):
            found = []
            for path in self.folder.glob("*/*"):
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
                found.append((status.st_mtime_ns, status.st_size, path))
            total = sum(size for _, size, _ in found)
            for _, size, path in sorted(found):
                if total <= self.limit:
                    break
                if path.suffix != ".part":
                    path.unlink(missing_ok=True)
                    total -= size


def _appear(entry: Path, target: Path) -> None:
    """A second name for a file, so that it may go from the cache while it is read."""
    target.unlink(missing_ok=True)
    try:
        os.link(entry, target)
    except FileNotFoundError:
        raise
    except OSError:
        # A file system without hard links.
        shutil.copyfile(entry, target)


def _remove(private: PrivateFolder, pid: int) -> None:
    # A process that was forked has the tree, but not the folder.
    if pid == os.getpid():
        private.remove()


class _Tree:
    """A folder of this process in which sources appear: ``PROTOCOL/BUCKET/…``."""

    def __init__(self) -> None:
        base = cache_folder()
        try:
            self.private = PrivateFolder(base / "trees")
            self.cache = _Cache(base, cache_bytes())
        except OSError as error:
            raise OutputError(
                f"cannot write the cache: {error.strerror}",
                where=error.filename or base,
                hint=f"Name another folder with --cache-dir or {CACHE_VARIABLE}.",
            ) from None
        self.root = self.private.path
        self.settings = (os.getpid(), base, self.cache.limit)
        weakref.finalize(self, _remove, self.private, os.getpid())
        self._text = re.compile(re.escape(str(self.root)) + r"/([A-Za-z0-9+.-]+)(?:/|$)")
        self._known: dict[Path, Stat] = {}
        self._fetched: set[Path] = set()
        self._folders: dict[Path, list[tuple[str, Stat]]] = {}
        self._held: deque[set[Path]] = deque()
        self._lock = threading.RLock()

    @contextmanager
    def seen(self) -> Iterator[None]:
        """Within, readers find what is in the tree; errors name URLs."""
        token = _seen.set(self)
        try:
            yield
        except ActionImgError as error:
            raise self.error(error) from None
        finally:
            _seen.reset(token)

    def steps(self, iterator: Iterator[Item]) -> Iterator[Item]:
        """The same, each item made with the tree seen, and whoever takes them without it."""
        while True:
            with self.seen():
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    # -- names ---------------------------------------------------------------------------------------------------

    def local(self, url: str) -> str:
        """The path in the tree of a URL."""
        protocol, _, rest = url.partition("://")
        return str(self.root / protocol / rest)

    def url(self, path: Path) -> RemotePath | None:
        """The URL of a path in the tree; None for any other path."""
        try:
            protocol, *rest = Path(os.path.abspath(path)).relative_to(self.root).parts
        except ValueError:
            return None
        return RemotePath.at(f"{protocol}://{'/'.join(rest)}") if rest else None

    def named(self, value: Any) -> Any:
        """The same JSON value or text with URLs in place of paths in the tree."""
        if isinstance(value, str):
            return self._text.sub(lambda m: f"{m[1]}://", value)
        if isinstance(value, Mapping):
            return {self.named(k): self.named(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.named(v) for v in value)
        return value

    def error(self, error: ActionImgError) -> ActionImgError:
        """The same error, about URLs."""
        return type(error)(
            self.named(error.message),
            where=self.named(error.where),
            field=self.named(error.field),
            expected=self.named(error.expected),
            found=self.named(error.found),
            hint=self.named(error.hint),
        )

    # -- what is there -------------------------------------------------------------------------------------------

    def mirror(self, source: RemotePath, headers: Sequence[str]) -> Path:
        """Let a source appear, with the content of ``headers``; returns its path.

        Raises:
            SourceNotFoundError: There is nothing.
            StorageError: The store does not answer.
        """
        root = Path(self.local(str(source)))
        if source.is_file():
            listed = [("", source.stat())]
        else:
            listed = source.walk()
        wanted = []
        for name, known in listed:
            path = root / name if name else root
            self._stub(path, known)
            if any(fnmatchcase(name, pattern) for pattern in headers) and not _in_ranges(path, known):
                wanted.append(path)
        self._fetch(wanted)
        return root

    def hold(self, paths: Sequence[Path], sources: Sequence[Path]) -> None:
        """Fetch files and folders of an episode, and let go of those of the episode before the last."""
        wanted = dict.fromkeys(found for path in paths for found in self._below(path))
        for source in sources:
            for path in paths:
                wanted.update(dict.fromkeys(self._beside(path, source)))
        sizes = sum(self._known[path].st_size for path in wanted)
        if sizes > self.cache.limit:
            raise StorageError(
                "is smaller than what one episode needs",
                where="cache",
                field=SIZE_VARIABLE,
                expected=f"at least {sizes} B",
                found=f"{self.cache.limit} B",
                hint="Give more with --cache-size.",
            )
        self._fetch(list(wanted))
        with self._lock:
            self._held.append(set(wanted))
            while len(self._held) > _KEPT:
                gone = self._held.popleft()
                for path in gone.difference(*self._held):
                    if path in self._fetched:
                        self._stub(path, self._known[path], again=True)

    def _below(self, path: Path) -> Iterator[Path]:
        """The objects at or below a path, whether they were listed already or not."""
        url = self.url(path)
        if url is None:
            return
        if path in self._known:
            yield from self._listed(path, self._known[path])
            return
        try:
            yield from self._listed(path, url.stat())
            return
        except FileNotFoundError:
            pass
        try:
            listed = url.walk()
        except SourceNotFoundError:
            # What is missing is for the converter to say.
            return
        for name, known in listed:
            yield from self._listed(path / name, known)

    def _beside(self, path: Path, source: Path) -> Iterator[Path]:
        """Small files that belong to many episodes, in the folders between an episode and its source."""
        for folder in path.parents:
            if folder != source and source not in folder.parents:
                return
            url = self.url(folder)
            if url is None:
                return
            if folder not in self._folders:
                self._folders[folder] = url.files()
            for name, known in self._folders[folder]:
                if known.st_size <= BESIDE_BYTES and any(fnmatchcase(name, pattern) for pattern in BESIDE):
                    yield from self._listed(folder / name, known)

    def _listed(self, path: Path, known: Stat) -> Iterator[Path]:
        if self._known.get(path) != known:
            self._stub(path, known)
        if not _in_ranges(path, known):
            yield path

    def _stub(self, path: Path, known: Stat, again: bool = False) -> None:
        """A file of the object's size and no content, that only root can open."""
        with self._lock:
            if not again and self._known.get(path) == known:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o200)
            try:
                os.ftruncate(descriptor, known.st_size)
            finally:
                os.close(descriptor)
            os.chmod(path, 0)
            self._known[path] = known
            self._fetched.discard(path)

    def _fetch(self, paths: Sequence[Path]) -> None:
        missing = [path for path in paths if path not in self._fetched]
        if not missing:
            return

        def one(path: Path) -> None:
            url = self.url(path)
            assert url is not None
            self.cache.place(url, self._known[path], path)
            with self._lock:
                self._fetched.add(path)

        pool = ThreadPoolExecutor(min(_THREADS, len(missing)))
        try:
            for done in as_completed([pool.submit(one, path) for path in missing]):
                done.result()
        finally:
            # When one fails, those under way end and the others are not begun: each would be as patient again.
            pool.shutdown(cancel_futures=True)

    def ensure(self, path: Path) -> None:
        """Fetch a file, or all of a folder, that is about to be opened."""
        path = Path(os.path.abspath(path))
        if path in self._known:
            self._fetch([path])
        elif self.url(path) is not None:
            self._fetch([known for known in list(self._known) if path in known.parents])

    def known(self, path: Path) -> Stat | None:
        """Size and version of an object that was listed."""
        return self._known.get(Path(os.path.abspath(path)))

    def ranges(self, path: Path) -> tuple[RemotePath, Stat] | None:
        """The object of a file that was not fetched; None for any other file."""
        path = Path(os.path.abspath(path))
        url = self.url(path)
        if url is None or path in self._fetched or path not in self._known:
            return None
        return url, self._known[path]


_seen: ContextVar[_Tree | None] = ContextVar("tree of a store's objects", default=None)
"""The tree whose files are being read, by this thread; readers of files need not be told of it."""


def _in_ranges(path: Path, known: Stat) -> bool:
    name = path.name.lower()
    if any(fnmatchcase(name, pattern) for pattern in RANGED):
        return True
    return known.st_size >= LARGE_BYTES and any(fnmatchcase(name, pattern) for pattern in RANGED_IF_LARGE)


_ABOUT_FORMATS = (WrongFormatError, AmbiguousSourceError, SourceNotFoundError, UnsupportedSourceError)
"""What a converter says of data that may be another format's."""


class SourceReader:
    """A converter on a source that may be in an object store.

    Whoever reads a source that a user named goes through this; of a local source the converter does all. The same
    reader, of however many episodes, keeps what it fetched for one episode until the one after the next.

    Args:
        converter: Reads folders.
    """

    def __init__(self, converter: Converter) -> None:
        self.converter = converter
        self._own: _Tree | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """It goes to another process as its converter, and fetches there what it needs there."""
        return SourceReader, (self.converter,)

    def tell(self, views: Iterable[str], allowed: Iterable[str], calibrated: bool = False) -> None:
        """As `Converter.tell`."""
        self.converter.tell(views, allowed, calibrated)

    def possible_views(self, source: str) -> tuple[str, ...]:
        """As `Converter.possible_views`."""
        if self.converter.reads_urls or not is_url(source):
            return self.converter.possible_views(source)
        tree = self._tree()
        root = tree.mirror(RemotePath(source), self.converter.remote_headers())
        with tree.seen():
            return self.converter.possible_views(str(root))

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """As `Converter.discover`, of a folder, a file or a URL."""
        if self.converter.reads_urls or not is_url(source):
            return self._siblings_named(source)
        return self._discover(source)

    def _siblings_named(self, source: str) -> Iterator[EpisodeRef]:
        """As `Converter.discover`; where a source is of another format, the error says of which."""
        found = False
        try:
            for ref in self.converter.discover(source):
                found = True
                yield ref
        except _ABOUT_FORMATS as error:
            seen = {} if found or not os.path.exists(source) else detect(source)
            if not seen or self.converter.name in seen:
                raise
            sibling = f"It looks like {' or '.join(seen)}: actionimg convert {next(iter(seen))}."
            raise type(error)(
                error.message,
                where=error.where,
                field=error.field,
                expected=error.expected,
                found=error.found,
                hint=f"{sibling} {error.hint}" if error.hint else sibling,
            ) from None

    def _discover(self, source: str) -> Iterator[EpisodeRef]:
        tree = self._tree()
        root = tree.mirror(RemotePath(source), self.converter.remote_headers())
        for ref in tree.steps(self.converter.discover(str(root))):
            yield replace(ref, location={**tree.named(dict(ref.location)), MARK: source})

    def read(self, ref: EpisodeRef) -> Episode:
        """As `Converter.read`; the pictures of an episode in a store are there when they are asked for soon."""
        if self.converter.reads_urls or MARK not in ref.location:
            return self.converter.read(ref)
        tree = self._tree()
        location = {
            name: tree.local(value) if isinstance(value, str) and is_url(value) else value
            for name, value in ref.location.items()
            if name != MARK
        }
        source = Path(tree.local(str(RemotePath(str(ref.location[MARK])))))
        tree.hold(self.converter.remote_files(location), [source])
        with tree.seen():
            episode = self.converter.read(replace(ref, location=location))
        views = {
            name: replace(
                view,
                frames=_Pictures(view.frames, tree),
                depth=None if view.depth is None else _Pictures(view.depth, tree),
                mask=None if view.mask is None else _Pictures(view.mask, tree),
            )
            for name, view in episode.views.items()
        }
        return replace(episode, views=views, provenance=tree.named(dict(episode.provenance)))

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """As `Converter.fingerprint`; None of a source in a store, whose objects are those that were listed."""
        return None if MARK in ref.location else self.converter.fingerprint(ref)

    def inspect(self, source: str) -> dict[str, Any]:
        """As `Converter.inspect`, of a folder, a file or a URL; of one in a store the first episode is fetched."""
        if self.converter.reads_urls or not is_url(source):
            return self.converter.inspect(source)
        tree = self._tree()
        root = tree.mirror(RemotePath(source), self.converter.remote_headers())
        first = next(tree.steps(self.converter.discover(str(root))), None)
        if first is not None:
            tree.hold(self.converter.remote_files(first.location), [root])
        with tree.seen():
            found: dict[str, Any] = tree.named(self.converter.inspect(str(root)))
        return found

    def _tree(self) -> _Tree:
        """The folder in which sources appear, of this process and of the cache that the environment names now."""
        settings = (os.getpid(), cache_folder(), cache_bytes())
        if self._own is None or self._own.settings != settings:
            self._own = _Tree()
        return self._own


@dataclass(frozen=True)
class _Pictures:
    """Pictures, depth or masks of objects in a tree; their errors name the objects."""

    inner: Any
    tree: _Tree

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def frames(self, indices: Sequence[int]) -> Iterator[Any]:
        """As the source's own."""
        return self.tree.steps(self.inner.frames(indices))


# What readers of large files do with one that may be in a store.


def fetched(path: Path) -> Path:
    """The same path, its content fetched where it is an object, or a folder of objects, that are not here yet."""
    tree = _seen.get()
    if tree is not None:
        tree.ensure(path)
    return path


def object_of(path: Path) -> Stat | None:
    """Size and version of the object that a path in the tree stands for, fetched or not; None for any other path."""
    tree = _seen.get()
    return None if tree is None else tree.known(path)


def _object(path: Path) -> tuple[RemotePath, Stat] | None:
    tree = _seen.get()
    return None if tree is None else tree.ranges(path)


def range_file(path: Path) -> BinaryIO | None:
    """A file object over an object that is not here; None for a file that is, which is opened as ever."""
    found = _object(path)
    return None if found is None else cast(BinaryIO, io.BufferedReader(_Blocks(*found), _BLOCK))


class Ranges:
    """A file that is read at offsets: a local one, or an object in a store.

    Args:
        path: Where it is.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        found = _object(path)
        self._remote: RemotePath | None = None
        self._descriptor = -1
        if found is None:
            with open_plain(path, 0) as file:
                self._descriptor = os.dup(file.fileno())
            status = os.fstat(self._descriptor)
            self.size = status.st_size
            self.key, self.version = os.path.abspath(path), str(status.st_mtime_ns)
        else:
            self._remote, known = found
            self.size, self.key, self.version = known.st_size, str(self._remote), known.version

    def read(self, count: int, offset: int) -> bytes:
        """Up to ``count`` bytes from ``offset`` on."""
        if self._remote is not None:
            return self._remote.read_range(offset, min(count, max(0, self.size - offset)))
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, count, offset)
        os.lseek(self._descriptor, offset, os.SEEK_SET)
        return os.read(self._descriptor, count)

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Ranges:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Blocks(RangeFile):
    """An object in blocks, of which those used last are kept for all that read it."""

    _kept: ClassVar[OrderedDict[tuple[str, str, int], bytes]] = OrderedDict()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, url: RemotePath, known: Stat) -> None:
        super().__init__(url, known.st_size)
        self._known = known

    def _part(self, offset: int, count: int) -> bytes:
        if not 0 < count <= 4 * _BLOCK:
            return super()._part(offset, count)
        number = offset // _BLOCK
        return self._block(number)[offset - number * _BLOCK :][:count]

    def _block(self, number: int) -> bytes:
        key = (str(self._path), self._known.version, number)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        offset = number * _BLOCK
        part = self._path.read_range(offset, min(_BLOCK, self._known.st_size - offset))
        with self._lock:
            self._kept[key] = part
            if len(self._kept) > _BLOCKS:
                self._kept.popitem(last=False)
        return part


def _opened(path: Path) -> BinaryIO | None:
    """An object in ranges; None for any other path, which is a file once it is fetched."""
    file = range_file(path)
    if file is None:
        fetched(path)
    return file


register_opener(_opened)

"""Finding bags, and opening them."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....errors import ActionImgError, BadFileError, MissingExtraError, SourceNotFoundError, install_hint
from ....untrusted.files import open_plain
from ..tree import file_names, subfolders
from .channels import BagReader, Channel

ACTIVE = ".bag.active"
"""What ROS 1 calls a bag while it is recorded, and leaves when its recorder is killed."""

SUFFIXES = (".bag", ".mcap", ".db3", ACTIVE)


def bag_suffix(path: Path) -> str:
    """The suffix that says which kind of bag a file is, in lower case."""
    return ACTIVE if path.name.lower().endswith(ACTIVE) else path.suffix.lower()


def is_bag_folder(folder: Path) -> bool:
    """Whether a folder is a ROS 2 bag: others have a ``metadata.yaml`` too."""
    try:
        with open_plain(folder / "metadata.yaml") as file:
            return b"rosbag2_bagfile_information" in file.read(256)
    except OSError:
        return False


def find_bags(root: Path, max_folders: int | None = None) -> Iterator[Path]:
    """Bags at or below ``root``, in natural order: files, and ROS 2 folders that hold ``metadata.yaml``."""
    if root.is_file():
        if bag_suffix(root) in SUFFIXES:
            yield root
        return
    pending, looked = [root], 0
    while pending and (max_folders is None or looked < max_folders):
        folder = pending.pop()
        looked += 1
        if is_bag_folder(folder):
            yield folder
            continue
        yield from (folder / name for name in file_names(folder, SUFFIXES))
        pending.extend(reversed(subfolders(folder)))


@dataclass(frozen=True)
class Access:
    """What a user lets a bag be read with.

    Args:
        cut: Read what is whole of a recording that was cut off.
        msg_path: Folders of definitions of messages that bags do not hold.
    """

    cut: bool = False
    msg_path: tuple[str, ...] = ()


WHOLE = Access()
"""Nothing but what is whole and explains itself."""


@dataclass(frozen=True)
class Topic:
    """A topic.

    Args:
        name: Of the topic.
        type: Of its messages, as `decoders.canonical` names it; ``several types`` where publishers differ.
        count: Messages.
        problem: Why they cannot be read, in words; empty where they can.
    """

    name: str
    type: str
    count: int
    problem: str = ""

    def text(self) -> str:
        """In a line."""
        named = f"{self.type or 'no type'} × {self.count}"
        return f"{named} (not readable: {self.problem})" if self.problem else named


class Bag:
    """An open bag: its topics, their messages, and the values in those."""

    def __init__(self, reader: BagReader, access: Access) -> None:
        from .decoders import Decoders

        self._reader = reader
        self._decoders = Decoders(access.msg_path)
        self.channels = reader.channels

    @property
    def duration_s(self) -> float:
        """Seconds between the first and the last message."""
        return self._reader.duration_s

    @property
    def cut(self) -> str:
        """Where the recording was cut off, in words; empty where it was not."""
        return self._reader.cut

    def topics(self) -> dict[str, Topic]:
        """Topics by name; their definitions are not looked at."""
        return {name: self._topic(name, own, "") for name, own in self._by_topic().items()}

    def checked_topics(self) -> dict[str, Topic]:
        """Topics by name, each with why it cannot be read where it cannot."""
        found = {}
        for name, own in self._by_topic().items():
            problems = (self._decoders.problem(channel) for channel in own)
            found[name] = self._topic(name, own, next((p for p in problems if p), ""))
        return found

    def _by_topic(self) -> dict[str, list[Channel]]:
        found: dict[str, list[Channel]] = {}
        for channel in sorted(self.channels, key=lambda c: c.topic):
            found.setdefault(channel.topic, []).append(channel)
        return found

    @staticmethod
    def _topic(name: str, own: list[Channel], problem: str) -> Topic:
        from .decoders import canonical

        types = {canonical(c.type) or (c.encoding if c.encoding == "json" else "") for c in own}
        return Topic(name, types.pop() if len(types) == 1 else "several types", sum(c.count for c in own), problem)

    def of(self, names: Collection[str]) -> list[Channel]:
        """Channels of the named topics."""
        return [c for c in self.channels if c.topic in names]

    def messages(self, channels: Collection[Channel], start: int | None = None) -> Iterator[tuple[Channel, int, bytes]]:
        """Channel, log time in nanoseconds and bytes of messages from ``start`` on, in order of their log times."""
        return self._reader.messages(channels, start)

    def decode(self, channel: Channel, data: bytes) -> Any:
        """The values of a message.

        Raises:
            UnsupportedSourceError: The channel is of a kind that is not read, or its definition is not there.
            BadFileError: The message does not fit its definition.
        """
        return self._decoders.decode(channel, data)


@contextmanager
def open_bag(path: Path, access: Access | None = None) -> Iterator[Bag]:
    """An open bag; what goes wrong with it comes out as errors of this package.

    Raises:
        SourceNotFoundError: No such bag.
        MissingExtraError: ``rosbags`` or ``mcap`` is not installed.
        BadFileError: The bag is damaged, or was cut off.
    """
    try:
        import mcap  # noqa: F401
        from mcap.exceptions import McapError
        from rosbags.rosbag1 import ReaderError

        from ....untrusted import unpack as _unpack
        from .rosbag_file import open_file
    except ImportError:
        raise MissingExtraError(
            "rosbags and mcap are not installed", where=path, hint=f"Install them: {install_hint('teleop')}"
        ) from None
    if not path.exists():
        raise SourceNotFoundError("no such bag", where=path)
    _unpack.bound()
    access = access or WHOLE
    try:
        reader = open_file(path, access.cut)
        try:
            yield Bag(reader, access)
        finally:
            reader.close()
    except ActionImgError as error:
        raise error.at(path) from None
    except (
        McapError,
        ReaderError,
        sqlite3.Error,
        struct.error,
        # What Python and the libraries below make of bytes that make no sense.
        ArithmeticError,
        AssertionError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise BadFileError(f"is damaged, or no bag: {error or type(error).__name__}", where=path) from None
    except OSError as error:
        raise BadFileError(f"cannot be read: {error}", where=path) from None

"""What every kind of bag is read as: channels, and messages of them in order of their log times."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Channel:
    """Messages of one type on one topic.

    Args:
        id: Within its bag.
        topic: Its name.
        type: Of the messages, as the bag names it; empty where it says nothing.
        encoding: Of the messages: ``cdr``, ``ros1``, ``protobuf``, ``json``, ``flatbuffer``.
        schema_encoding: Of the definition: ``ros2msg``, ``ros2idl``, ``ros1msg``, ``protobuf``, ``jsonschema``,
            ``flatbuffer``; empty where the bag has none.
        schema: The definition.
        count: Number of messages.
    """

    id: int
    topic: str
    type: str
    encoding: str
    schema_encoding: str
    schema: bytes
    count: int


class BagReader(Protocol):
    """An open bag."""

    channels: tuple[Channel, ...]

    @property
    def duration_s(self) -> float:
        """Seconds between the first and the last message."""
        ...

    @property
    def cut(self) -> str:
        """Where the recording was cut off, in words; empty where it was not."""
        ...

    def messages(self, channels: Collection[Channel], start: int | None = None) -> Iterator[tuple[Channel, int, bytes]]:
        """Channel, log time in nanoseconds and bytes of messages from ``start`` on, in order of their log times."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...

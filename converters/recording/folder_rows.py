"""Converters of logs with a folder for each episode, somewhere below the source, in which rows belong together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from ...errors import ActionImgError, WrongFormatError
from ...model import Episode, EpisodeRef
from ..base import Detection
from ..kit.tree import folders_with, plain_id, source_folder
from .episode import assemble
from .recording import Recording
from .rows import RowConverter

_LOOKED_AT = 200
"""Folders among which a source's format is looked for."""


class FolderRowConverter(RowConverter):
    """Base of converters of such logs: finding the folders, telling them apart, and their fingerprints.

    A subclass says which folders are episodes (`is_episode`), how many pictures one has (`pictures`), what it is made
    of (`state`), and reads one (`recording`).
    """

    layout: ClassVar[str]
    """A word on the layout, for `detect`."""
    episodes_are: ClassVar[str]
    """What an episode's folder holds, for the error where none is found."""
    nothing: ClassVar[str]
    """That error."""

    @classmethod
    @abstractmethod
    def is_episode(cls, folder: Path) -> bool:
        """Whether a folder is an episode's, by the names in it."""

    @classmethod
    def is_really(cls, folder: Path) -> bool:
        """Whether what is in an episode's folder is of the format, where names do not say it."""
        return True

    @abstractmethod
    def pictures(self, folder: Path) -> int | None:
        """How many pictures an episode has, where it is known."""

    @abstractmethod
    def state(self, stamp: str, folder: Path) -> str:
        """What changes when an episode's files do, or the options' (``stamp``)."""

    @abstractmethod
    def recording(self, ref: EpisodeRef) -> Recording:
        """Everything that an episode's files say."""

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether there is an episode of the format in ``source`` or a few folders below it."""
        root = Path(source)
        try:
            found = next(folders_with(root, cls.is_episode, _LOOKED_AT), None) if root.is_dir() else None
            if found is None or not cls.is_really(found):
                return None
        except (OSError, ActionImgError):
            return None
        return Detection(cls.layout, found.relative_to(root).as_posix())

    def remote_headers(self) -> tuple[str, ...]:
        """None: names and sizes are enough."""
        return ()

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """One reference for each episode's folder, in natural order."""
        root = source_folder(source)
        stamp = self.stamp()
        empty = True
        for folder in folders_with(root, self.is_episode):
            empty = False
            relative = folder.relative_to(root).as_posix()
            yield EpisodeRef(
                plain_id(root.name if relative == "." else relative),
                {"source": str(root), "path": relative},
                num_frames=self.pictures(folder),
                fingerprint=self.state(stamp, folder),
            )
        if empty:
            raise WrongFormatError(self.nothing, where=root, expected=self.episodes_are)

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """The episode's fingerprint as its files are now."""
        return self.state(self.stamp(), self.folder(ref))

    def read(self, ref: EpisodeRef) -> Episode:
        """One episode; its pictures are read when asked for."""
        return assemble(self.recording(ref))

    @staticmethod
    def folder(ref: EpisodeRef) -> Path:
        """The episode's folder."""
        return Path(str(ref.location["source"])) / str(ref.location["path"])

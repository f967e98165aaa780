"""What every converter is: a class with ``discover`` and ``read``, found through an entry point."""

from __future__ import annotations

import functools
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import InvalidSpecError, MissingExtraError, WrongFormatError, suggestion
from ..model import Episode, EpisodeRef
from ..objectstore import is_url

ENTRY_POINT_GROUP = "actionimg.converters"


class ConverterOptions(BaseModel):
    """Base of a converter's options.

    Each field becomes an option of ``actionimg convert NAME`` (``_`` as ``-``; tuples may be given several times or
    comma-separated; the description is the help text), and is part of the plan's fingerprint. Every field needs a
    default or is required on the command line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, values: dict[str, Any], where: str) -> ConverterOptions:
        """Options from a mapping; `InvalidSpecError` names the first one that is wrong."""
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidSpecError(
                first["msg"], where=where, field=".".join(map(str, first["loc"])), found=first.get("input")
            ) from None


@dataclass(frozen=True)
class Detection:
    """Why a source looks like a converter's format, e.g. ``PerAct layout, 2 episodes``.

    Args:
        layout: In a word.
        details: What was seen.
        general: Any file of this kind looks like it: a converter that knows more of the source goes first.
    """

    layout: str
    details: str = ""
    general: bool = False


class Converter(ABC):
    """Reads one format.

    ``discover`` is cheap, sorted and lazy, and yields the same references in the same order on every machine;
    ``read`` takes one of them and may run in any process. A converter reads pictures only when they are asked for.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Options: ClassVar[type[ConverterOptions]] = ConverterOptions
    examples: ClassVar[tuple[str, ...]] = ()
    """Commands that ``actionimg convert NAME --help`` shows, each on a line of its own."""

    reads_urls: ClassVar[bool] = False
    """Whether ``discover`` and ``read`` take URLs of object stores themselves; else they are given a folder (see
    `actionimg_data.converters.remote`)."""

    def __init__(self, options: ConverterOptions | None = None) -> None:
        self.options: Any = self.Options() if options is None else options

    def __reduce__(self) -> tuple[Any, ...]:
        """A converter goes to another process as its class and its options: what it keeps open stays here."""
        return type(self), (self.options,)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Every subclass takes URLs, whether its author has thought of them or not.
        if "discover" in cls.__dict__:
            cls.discover = _of_urls(cls.discover)  # type: ignore[method-assign]
        if "read" in cls.__dict__:
            cls.read = _of_remote_refs(cls.read)  # type: ignore[method-assign]

    @property
    def poses_only(self) -> bool:
        """Whether the user asked for pictures and trajectory alone: views then have no camera."""
        return bool(getattr(self.options, "poses_only", False))

    @classmethod
    @abstractmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether ``source`` looks like this format; cheap, and never raises for another format."""

    @abstractmethod
    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """References to the episodes of ``source``, sorted naturally.

        Raises:
            SourceNotFoundError: ``source`` does not exist.
            WrongFormatError: ``source`` is not of this format, or holds no episode.
        """

    @abstractmethod
    def read(self, ref: EpisodeRef) -> Episode:
        """One episode; its pictures are read when asked for.

        Raises:
            ActionImgError: Anything about the episode that cannot be converted; its ``code`` is the reason code
                under which the episode is quarantined.
        """

    def remote_headers(self) -> tuple[str, ...]:
        """Patterns of paths below a source in an object store that `discover` opens; they are fetched before.

        By default everything: a converter that looks at names and sizes alone returns nothing.
        """
        return ("*",)

    def remote_files(self, location: Mapping[str, Any]) -> list[Path]:
        """Files and folders that `read` opens for an episode of a source in an object store; they are fetched before.

        By default ``path`` below ``source`` of the location, else all of the source. Small files in the folders above
        (instructions, calibrations) come with them.

        Args:
            location: As `discover` gave it.
        """
        from .remote import local_files

        return local_files(location)

    @classmethod
    def explain(cls) -> str:
        """What the format is and how it is read, as Markdown, for ``actionimg converters --explain``.

        By default the class's own docstring.
        """
        return inspect.cleandoc(cls.__doc__ or "")

    def inspect(self, source: str) -> dict[str, Any]:
        """What is in ``source``, as JSON values, for ``actionimg inspect``: nothing is converted.

        The first episode is read (not its pictures); override it to show more.
        """
        refs = list(self.discover(source))
        episode = self.read(refs[0])
        frames = [r.num_frames for r in refs]
        return {
            "format": self.name,
            "episodes": len(refs),
            "frames": None if None in frames else sum(n or 0 for n in frames),
            "fps": episode.fps,
            "instruction": episode.instruction,
            "views": {
                name: {
                    "size": f"{view.frames.width}x{view.frames.height}",
                    "calibrated": view.camera is not None,
                }
                for name, view in episode.views.items()
            },
        }


def _of_urls(inner: Callable[..., Iterator[EpisodeRef]]) -> Callable[..., Iterator[EpisodeRef]]:
    @functools.wraps(inner)
    def discover(self: Converter, source: str) -> Iterator[EpisodeRef]:
        if self.reads_urls or not is_url(source):
            return inner(self, source)
        from . import remote

        return remote.discover(self, source, inner)

    return discover


def _of_remote_refs(inner: Callable[..., Episode]) -> Callable[..., Episode]:
    @functools.wraps(inner)
    def read(self: Converter, ref: EpisodeRef) -> Episode:
        if self.reads_urls or "remote" not in ref.location:
            return inner(self, ref)
        from . import remote

        return remote.read(self, ref, inner)

    return read


@cache
def _entry_points() -> dict[str, metadata.EntryPoint]:
    return {e.name: e for e in sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda e: e.name)}


def names() -> list[str]:
    """Names of all installed converters, ours and third parties'."""
    return list(_entry_points())


def converter_class(name: str) -> type[Converter]:
    """The converter class registered under ``name``; imported only now."""
    try:
        entry = _entry_points()[name]
    except KeyError:
        raise WrongFormatError(
            "no such converter",
            field="format",
            expected=" | ".join(names()),
            found=name,
            hint=suggestion(name, names()),
        ) from None
    try:
        loaded = entry.load()
    except ImportError as error:
        raise MissingExtraError("converter cannot be imported", where=f"{name} = {entry.value}", found=error) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Converter)):
        raise WrongFormatError("entry point is not a Converter class", where=entry.value, found=loaded)
    return loaded


def detect(source: str) -> dict[str, Detection]:
    """Every installed converter that recognises ``source``, with why.

    A plug-in that cannot be imported is warned of and passed over: it must not take the others down with it.
    """
    found = {}
    for name in names():
        try:
            cls = converter_class(name)
        except MissingExtraError as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        detection = cls.detect(source)
        if detection is not None:
            found[name] = detection
    return found

"""What every converter is: a class with ``discover`` and ``read``, found through an entry point."""

from __future__ import annotations

import inspect
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import InvalidSpecError, MissingExtraError, UnsupportedSourceError, WrongFormatError, suggestion
from ..model import Episode, EpisodeRef
from ..schemas.plausibility import FindingKind, Limits

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


@dataclass(frozen=True)
class Streams:
    """The streams of a source's first episode: poses, gripper and pictures, each with stamps of its own.

    Args:
        episode: Its id, or its name where it has none yet.
        statistics: By stream what is known of it, as JSON values.
        times: By stream ``(N,)`` its stamps in seconds, in the order in which they were logged.
    """

    episode: str
    statistics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    times: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


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
    """Whether ``discover`` and ``read`` take URLs of object stores themselves; else they are only ever given folders,
    in which the objects of a store appear as files."""

    views_field: ClassVar[str | None] = None
    """Name of the option that says which views are read; on the command line it is ``--views``."""

    wanted_views: tuple[str, ...] = ()
    """Views that will be used, where that is known; empty: all. A converter may leave the others closed."""

    allowed: frozenset[str] = frozenset()
    """Findings about recordings that the user takes as they are (``--allow``), e.g. ``cut-recording``."""

    calibrated_views: bool = False
    """Whether of each episode the views are wanted whose camera is known in it (``--views calibrated``)."""

    def tell(self, views: Iterable[str], allowed: Iterable[str], calibrated: bool = False) -> None:
        """Take in which views will be used (none named: all), and what the user takes as it is.

        Args:
            views: Their names.
            allowed: Kinds of findings.
            calibrated: Of these views each episode has those whose camera is known in it: a view without one is left
                out, and no reason to refuse the episode.
        """
        self.wanted_views, self.allowed, self.calibrated_views = tuple(views), frozenset(allowed), calibrated

    def possible_views(self, source: str) -> tuple[str, ...]:
        """All views that an episode of ``source`` may have a camera of, in order, where the source says so.

        It is asked for where samples may differ in their views. Empty, the default, where that is not known without
        reading every episode: those of the first episodes are taken then.
        """
        return ()

    @property
    def left_out(self) -> frozenset[str]:
        """Codes of errors by which the user's own choice leaves episodes out, so that they are no sign of a fault.

        They go to quarantine as others do, and do not count for ``--max-bad-fraction``.
        """
        return frozenset()

    def __init__(self, options: ConverterOptions | None = None) -> None:
        self.options: Any = self.Options() if options is None else options

    def __reduce__(self) -> tuple[Any, ...]:
        """A converter goes to another process as its class, its options and what it was told.

        What it keeps open stays here.
        """
        told = {name: getattr(self, name) for name in ("wanted_views", "allowed", "calibrated_views")}
        return type(self), (self.options,), told

    @property
    def poses_only(self) -> bool:
        """Whether the user asked for pictures and trajectory alone: views then have no camera."""
        return self.videos_only or bool(getattr(self.options, "poses_only", False))

    @property
    def videos_only(self) -> bool:
        """Whether pictures and words are all there is: trajectories are unknown in every frame."""
        return bool(getattr(self.options, "videos_only", False))

    @property
    def allow(self) -> tuple[FindingKind, ...]:
        """Kinds of findings that the user's own files say are meant; see docs/plausibility.md."""
        return ()

    @property
    def limits(self) -> Limits:
        """Where plausible ends, as the user's own files say."""
        return Limits()

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

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """The fingerprint that `discover` would give the episode now, from its own files alone.

        It is asked for once an episode was read: where it is another one than the plan's, the source changed meanwhile,
        and the episode is refused. None, the default, where that cannot be told without listing the whole source.

        Args:
            ref: As `discover` gave it.
        """
        return None

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
        source, path = location.get("source"), location.get("path")
        if not isinstance(source, str):
            return [Path(v) for v in location.values() if isinstance(v, str) and os.path.isabs(v)]
        return [Path(source) / path] if isinstance(path, str) else [Path(source)]

    @property
    def blind(self) -> bool:
        """Whether nothing explains the source yet, so that only a survey of its files can be shown of it."""
        return False

    def streams(self, source: str) -> Streams:
        """The stamps of a source's first episode, stream by stream, and what they say of rates, jitter and gaps.

        Raises:
            UnsupportedSourceError: The format has no stamps: its rows are a constant rate apart.
            ActionImgError: The first episode cannot be read.
        """
        raise UnsupportedSourceError(
            "has no stamps to draw: its rows are a constant rate apart", where=source, field="format", found=self.name
        )

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


@cache
def entry_points() -> dict[str, metadata.EntryPoint]:
    """The entry points of all installed converters, by name."""
    return {e.name: e for e in sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda e: e.name)}


def names() -> list[str]:
    """Names of all installed converters, ours and third parties'."""
    return list(entry_points())


def converter_class(name: str) -> type[Converter]:
    """The converter class registered under ``name``; imported only now.

    Raises:
        InvalidSpecError: There is no such converter.
        WrongFormatError: It is none: what a plug-in raises is told.
        MissingExtraError: It needs a package that is not installed.
    """
    try:
        entry = entry_points()[name]
    except KeyError:
        raise InvalidSpecError(
            "no such converter",
            field="format",
            expected=" | ".join(names()),
            found=name,
            hint=suggestion(name, names()),
        ) from None
    where = f"{name} = {entry.value}"
    try:
        loaded = entry.load()
    except ImportError as error:
        raise MissingExtraError("converter cannot be imported", where=where, found=error) from error
    except Exception as error:
        raise WrongFormatError(
            "converter cannot be imported", where=where, found=f"{type(error).__name__}: {error}"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Converter)):
        raise WrongFormatError("entry point is not a Converter class", where=where, found=loaded)
    lacking = [field for field in ("name", "summary") if not isinstance(getattr(loaded, field, None), str)]
    lacking += sorted(loaded.__abstractmethods__)
    if lacking:
        raise WrongFormatError("Converter class is not whole", where=where, expected=", ".join(lacking))
    return loaded


class PluginWarning(UserWarning):
    """A converter that cannot be used; it is passed over, and the others go on."""


def installed() -> dict[str, type[Converter]]:
    """All converters that can be used, by name; one that cannot be loaded is named in a warning and left out."""
    found = {}
    for name in names():
        try:
            found[name] = converter_class(name)
        except (MissingExtraError, WrongFormatError) as error:
            warnings.warn(f"converter {name!r} is passed over: {error}", PluginWarning, stacklevel=2)
    return found


def detect(source: str) -> dict[str, Detection]:
    """Every installed converter that recognises ``source``, with why.

    A plug-in that cannot be loaded, or whose ``detect`` raises whatever exception, is named in a warning and passed
    over: it must not take the others down with it.
    """
    found = {}
    for name, cls in installed().items():
        try:
            detection = cls.detect(source)
            if not isinstance(detection, Detection | None):
                raise TypeError(f"{detection!r} is neither a Detection nor None")
        except Exception as error:  # noqa: BLE001 - see above
            what = f"its detect() raises {type(error).__name__}: {error}"
            warnings.warn(f"converter {name!r} is passed over: {what}", PluginWarning, stacklevel=2)
            continue
        if detection is not None:
            found[name] = detection
    return found

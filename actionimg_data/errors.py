"""Every error this package raises on purpose.

An error names the place (``where``: a file, a key, an argument), the ``field``, what was ``expected`` and what was
``found``, has a stable ``code`` (it is the reason code of a quarantined episode), and inherits the class of the
standard library that fits it, so that ``except FileNotFoundError`` works as well as ``except SourceNotFoundError``.
"""

from __future__ import annotations

import os
import pickle
import re
import shlex
import sys
from collections.abc import Iterable
from typing import Any, ClassVar


def printable(value: object, limit: int = 160) -> str:
    """Text of ``value`` that is safe to print: control characters escaped, cut at ``limit`` characters."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def suggestion(found: str, names: Iterable[str]) -> str | None:
    """A hint at the one of ``names`` that ``found`` is nearly; None where none is near."""
    import difflib

    close = difflib.get_close_matches(found, list(names), n=1)
    return f"Did you mean {close[0]!r}?" if close else None


def suggested_path(path: str | os.PathLike[str]) -> str | None:
    """A hint at what lies beside ``path``, which does not exist, under nearly its name; None where nothing does."""
    import difflib

    folder, name = os.path.split(os.path.normpath(path))
    try:
        beside = [n for n in os.listdir(folder or ".") if not n.startswith(".")]
    except OSError:
        return None
    close = difflib.get_close_matches(name, beside, n=1)
    return f"Did you mean {os.path.join(folder, close[0])!r}?" if close else None


def install_hint(extra: str) -> str:
    """What to type to get the packages of one of this project's extras, wherever the project itself came from."""
    from importlib import metadata

    try:
        requirements = metadata.requires("actionimg-data") or []
    except metadata.PackageNotFoundError:
        requirements = []
    wanted = []
    for requirement in requirements:
        package, _, condition = requirement.partition(";")
        least = re.search(r"python_version >= ['\"](\d+)\.(\d+)['\"]", condition)
        fits = least is None or sys.version_info >= (int(least[1]), int(least[2]))
        if fits and re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", condition):
            wanted.append(package.strip())
    return "pip install " + (" ".join(shlex.quote(package) for package in wanted) or f"'.[{extra}]'")


def human_bytes(count: float) -> str:
    """``2.9 MB``: a size for people, powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


class ActionImgError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: What is wrong, in one sentence without the place.
        where: File, key or argument in which it was found.
        field: The field, member or array within ``where``.
        expected: What should have been there.
        found: What was there.
        hint: What the user can do next.
    """

    code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        where: object = None,
        field: str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.where = None if where is None else str(where)
        self.field = field
        self.expected = None if expected is None else str(expected)
        self.found = None if found is None else printable(found if isinstance(found, str) else str(found))
        self.hint = hint
        super().__init__(self._text())

    def _text(self) -> str:
        place = ": ".join(printable(p, 400) for p in (self.where, self.field) if p)
        text = f"{place}: {self.message}" if place else self.message
        if self.expected is not None or self.found is not None:
            parts = []
            if self.expected is not None:
                parts.append(f"expected {self.expected}")
            if self.found is not None:
                parts.append(f"found {self.found}")
            text += f" ({', '.join(parts)})"
        return f"{text}. {self.hint}" if self.hint else text

    def at(self, where: object) -> ActionImgError:
        """The same error with its place filled in where it had none."""
        if self.where is not None:
            return self
        return type(self)(
            self.message,
            where=where,
            field=self.field,
            expected=self.expected,
            found=self.found,
            hint=self.hint,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {k: getattr(self, k) for k in ("where", "field", "expected", "found", "hint")}
        return _rebuild, (type(self), self.message, fields)


def _rebuild(cls: type[ActionImgError], message: str, fields: dict[str, Any]) -> ActionImgError:
    return cls(message, **fields)


class InvalidArrayError(ActionImgError, ValueError):
    """An array has the wrong shape, dtype or values."""

    code = "invalid-array"


class InvalidCameraError(ActionImgError, ValueError):
    """A camera's intrinsics, pose or size cannot be true."""

    code = "invalid-camera"


class InvalidTrajectoryError(ActionImgError, ValueError):
    """A trajectory has non-finite poses, quaternions that are not unit, or times that do not increase."""

    code = "invalid-trajectory"


class InvalidSpecError(ActionImgError, ValueError):
    """An action-image specification or an option is outside its range."""

    code = "invalid-option"


class InvalidTextError(ActionImgError, ValueError):
    """An instruction is empty, too long, or holds control characters."""

    code = "invalid-text"


class SourceNotFoundError(ActionImgError, FileNotFoundError):
    """A source path, or a file that a source must have, does not exist."""

    code = "source-not-found"


class WrongFormatError(ActionImgError, ValueError):
    """A folder or file is not of the format it was given as."""

    code = "wrong-format"


class UnsupportedSourceError(ActionImgError, NotImplementedError):
    """A source was recognised and cannot be converted; the message says why."""

    code = "unsupported-source"


class MissingFrameError(ActionImgError, FileNotFoundError):
    """A picture within an episode is missing."""

    code = "missing-frame"


class MissingViewError(ActionImgError, ValueError):
    """An episode lacks a view that every sample of its data set has."""

    code = "missing-view"


class FrameCountError(ActionImgError, ValueError):
    """Two streams of one episode differ in their number of frames."""

    code = "frame-count-mismatch"


class BadImageError(ActionImgError, ValueError):
    """A picture cannot be decoded, or has another size than its stream."""

    code = "bad-image"


class BadVideoError(ActionImgError, ValueError):
    """A video cannot be decoded or encoded, or holds another number of frames than stated."""

    code = "bad-video"


class BadFileError(ActionImgError, ValueError):
    """A file is truncated or damaged, or does not parse."""

    code = "bad-file"


class UnsafeFileError(ActionImgError, pickle.UnpicklingError):
    """A file asks for code, links or memory that reading data never needs; nothing of it was run."""

    code = "unsafe-file"


class MissingCalibrationError(ActionImgError, ValueError):
    """A source carries no camera calibration, and none was given."""

    code = "missing-calibration"


class AmbiguousSourceError(ActionImgError, ValueError):
    """A convention cannot be known from the source; the user has to choose."""

    code = "ambiguous-source"


class EmptyEpisodeError(ActionImgError, ValueError):
    """An episode has no frames, or fewer than asked for."""

    code = "empty-episode"


class UnsupportedVersionError(ActionImgError, ValueError):
    """A data set is of another version of the format than this program reads; it is not damaged."""

    code = "unsupported-version"


class OutputExistsError(ActionImgError, FileExistsError):
    """The output folder holds something else than this plan's own work."""

    code = "output-exists"


class OutputError(ActionImgError, OSError):
    """The output cannot be written: no space, no permission."""

    code = "output-failed"


class StorageError(ActionImgError, OSError):
    """An object store does not answer, after retries, or refuses."""

    code = "storage-failed"


class StorageAccessError(StorageError, PermissionError):
    """Credentials for an object store are missing, wrong or not enough."""

    code = "storage-access"


class SourceGoneError(StorageError, FileNotFoundError):
    """A source was there when a run began and is not any more: a share was unmounted, a disk pulled out."""

    code = "source-gone"


class SourceChangedError(ActionImgError, ValueError):
    """An episode's files changed between the plan and the end of reading them."""

    code = "source-changed"


class CorruptDatasetError(ActionImgError, ValueError):
    """A data set, shard or member is not what its manifest or checksum says."""

    code = "corrupt-dataset"


class MissingExtraError(ActionImgError, ImportError):
    """An optional package is needed and not installed."""

    code = "missing-extra"


class DecodeError(ActionImgError, ValueError):
    """Action videos, cameras and spec that are given to the decoder do not fit each other."""

    code = "decode-failed"


class CalibrationOffError(ActionImgError, ValueError):
    """The gripper is not seen where the recorded camera and pose put it, and such episodes are not wanted."""

    code = "calibration-off"


class ImplausibleError(ActionImgError, ValueError):
    """Something about an episode cannot be true of a robot's recording; docs/plausibility.md lists the kinds.

    Args:
        findings: All that was found (`actionimg_data.plausibility.Finding`).
    """

    code = "implausible"

    def __init__(self, message: str, *, findings: Iterable[Any] = (), **fields: Any) -> None:
        super().__init__(message, **fields)
        self.findings = tuple(findings)

    def at(self, where: object) -> ImplausibleError:
        """The same error with its place filled in where it had none."""
        placed = super().at(where)
        assert isinstance(placed, ImplausibleError)
        placed.findings = self.findings
        return placed

    def __reduce__(self) -> tuple[Any, ...]:
        make, (cls, message, fields) = super().__reduce__()
        return make, (cls, message, {**fields, "findings": self.findings})


class TooManyBadEpisodesError(ActionImgError, RuntimeError):
    """More episodes failed than ``--max-bad-fraction`` allows."""

    code = "too-many-bad-episodes"


class WorkerError(ActionImgError, RuntimeError):
    """A worker process died, or failed for a reason that is not about the data."""

    code = "worker-failed"

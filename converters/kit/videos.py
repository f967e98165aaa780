"""Episodes that are folders of videos: which videos are their views, at which rate, and what is said beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from ...errors import (
    AmbiguousSourceError,
    FrameCountError,
    InvalidTextError,
    WrongFormatError,
)
from ...untrusted.files import read_bytes
from ...video import VideoFrames
from .tree import files_with_sizes, subfolders

VIDEO_SUFFIXES: Final = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".ts", ".m2ts")
TEXT_FILES: Final = ("instruction.txt", "instructions.txt", "caption.txt", "prompt.txt")
"""Where an episode's words are looked for, in this order; each line that is not empty is one instruction."""

_WITHIN: Final = ("video", "videos")
_RATE_TOLERANCE: Final = 1e-3
_MAX_TEXT: Final = 1 << 20


def video_files(folder: Path) -> list[Path]:
    """Videos in a folder, in natural order; those in its folder ``video`` or ``videos`` where it holds none itself."""
    for place in (folder, *(folder / name for name in _WITHIN)):
        if place.is_dir():
            found = [place / name for name, _ in files_with_sizes(place) if name.lower().endswith(VIDEO_SUFFIXES)]
            if found:
                return found
    return []


def video_folders(root: Path) -> Iterator[Path]:
    """Folders at or below ``root`` that hold videos, in natural order; nothing below one is looked into."""
    pending = [root]
    while pending:
        folder = pending.pop()
        if video_files(folder):
            yield folder
        else:
            pending.extend(reversed(subfolders(folder)))


def view_name(path: Path) -> str:
    """The view that a video shows: its name in what view names are made of."""
    return re.sub(r"[^a-z0-9_-]+", "_", path.stem.lower()).strip("_") or "video"


def open_videos(files: Sequence[Path], where: Path) -> dict[str, VideoFrames]:
    """Videos by view, all of one length; they are counted, and not decoded.

    Raises:
        AmbiguousSourceError: Two have one name.
        BadVideoError: One cannot be read.
        FrameCountError: They differ in length.
    """
    views: dict[str, VideoFrames] = {}
    for file in files:
        name = view_name(file)
        if name in views:
            raise AmbiguousSourceError("two videos of one name", where=where, field=name, found=file.name)
        views[name] = VideoFrames(file)
        first = next(iter(views.values()))
        if len(views[name]) != len(first):
            raise FrameCountError(
                "the views' videos differ in length",
                where=file,
                field=name,
                expected=f"{len(first)} frames as in {first.path}",
                found=f"{len(views[name])}",
            )
    return views


def common_rate(videos: Mapping[str, VideoFrames], given: float | None) -> float:
    """Frames per second of an episode's videos: as given, else what their containers state.

    Raises:
        AmbiguousSourceError: They state none, or others than each other.
    """
    if given is not None:
        return given
    first = next(iter(videos.values()))
    fps = first.fps or 0.0
    for video in videos.values():
        if not video.fps or abs(video.fps - fps) > _RATE_TOLERANCE * fps:
            raise AmbiguousSourceError(
                "the rate of the videos is not known",
                where=video.path,
                field="fps",
                expected=f"{fps} as in {first.path}" if fps else "a rate in the container",
                found=video.fps,
                hint="Give it with --fps.",
            )
    return fps


def instructions_beside(folders: Sequence[Path], given: str | None, stem: str | None = None) -> tuple[str, ...]:
    """What an episode does, in words: of the text file in its folder, each line once; else as given.

    Args:
        folders: Where the file is looked for, in this order.
        given: The user's words for episodes that have none.
        stem: Of a single video: ``STEM.txt`` is looked for first.

    Raises:
        InvalidTextError: There are none.
    """
    names = TEXT_FILES if stem is None else (f"{stem}.txt", *TEXT_FILES)
    for path in (folder / name for folder in folders for name in names):
        if path.is_file():
            lines = read_bytes(path, _MAX_TEXT).decode("utf-8", "replace").splitlines()
            texts = tuple(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))
            if texts:
                return texts
    if given is None:
        raise InvalidTextError(
            "has no instruction",
            where=folders[0],
            field=" | ".join(names),
            hint="To convert such episodes too, give them one with --instruction.",
        )
    return (given,)


def no_videos(root: Path) -> WrongFormatError:
    """The error of a source without a video."""
    return WrongFormatError("holds no videos", where=root, expected=f"files *{' *'.join(VIDEO_SUFFIXES)}")

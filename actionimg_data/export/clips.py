"""Windows as files, for trainers that read a video, an action video and a caption each: what these exports share.

Every sample is cut into the same windows in every run (`actionimg_data.shards.windows`). A file appears as a whole or
not at all, and the lists of a trainer are written last, from all windows: an export that was interrupted goes on where
it was, and is told from a finished one by ``export.json``. Beside them ``windows.jsonl`` says of each file which frames
of which sample it shows.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    BadFileError,
    EmptyEpisodeError,
    InvalidSpecError,
    MissingCalibrationError,
    OutputExistsError,
    SourceNotFoundError,
    UnsafeFileError,
    WrongFormatError,
    suggestion,
)
from ..geometry.crop import center_crop
from ..raster import render_merged
from ..schemas import DatasetManifest
from ..shards import Dataset, Sample, layout, open_dataset
from ..shards.plan import tool_versions
from ..shards.processes import spread
from ..shards.window import Window
from ..shards.windows import Cut, Short, WindowId, unusual_window, view_groups
from ..shards.write import CHUNK
from ..untrusted import text
from ..untrusted.files import open_plain
from ..video import ENDINGS, action_encoding, encode_bytes, open_video, rgb_encoding
from ..video.resize import apply
from .common import Result, opened

Image = NDArray[np.uint8]
Canvas = Literal["none", "views", "joint"]

RECORD: Final = "export.json"
WINDOWS: Final = "windows.jsonl"


@dataclass(frozen=True)
class Options:
    """How a data set becomes clips.

    Args:
        cut: How samples are cut into windows; None: one window of the whole sample.
        fps: Rate of whole samples; that of windows is in ``cut``.
        size: Height and width of a picture, centre-cropped to its aspect; the data set's own by default.
        views: Which views, in order; all by default.
        canvas: A clip for each view (``none``); one of all views side by side (``views``); or one of all views with
            their action images below (``joint``), for a model that draws them.
        actions: Write action videos.
        crf: x264's constant rate factor; that of the data set by default.
        poses: Say the poses of each window (`Made.poses`).
    """

    cut: Cut | None
    fps: float | None = None
    size: tuple[int, int] | None = None
    views: tuple[str, ...] | None = None
    canvas: Canvas = "none"
    actions: bool = True
    crf: int | None = None
    poses: bool = False

    def cut_of(self, total: int, stored: float, where: object) -> tuple[Cut, list[int]]:
        """How a sample of so many frames at a rate is cut, and the first frames of its windows."""
        if self.cut is not None:
            return self.cut, self.cut.starts(total, stored, where)
        whole = Cut(1, self.fps)
        return replace(whole, num_frames=1 + (total - 1) // whole.stride(stored, where)), [0]


@dataclass(frozen=True)
class Clip:
    """One video with its action video: paths within the export.

    Args:
        views: What it shows.
        video: Path of the video.
        control: Path of the action video; empty where there is none.
    """

    views: tuple[str, ...]
    video: str
    control: str = ""


@dataclass(frozen=True)
class Made:
    """A window that was written.

    Args:
        window: Which one; of all its views.
        fps: Frames per second.
        frames: ``(T,)`` frames of the sample that it shows.
        caption: What they do, in words.
        clips: Its files.
        size: Height and width of their pictures.
        poses: ``(T, 7)`` x y z, Euler xyz, openness, where they are asked for.
    """

    window: WindowId
    fps: float
    frames: tuple[int, ...]
    caption: str
    clips: tuple[Clip, ...]
    size: tuple[int, int]
    poses: NDArray[np.float64] | None = None


Naming = Callable[[WindowId], tuple[str, str]]
"""Paths of a clip's video and action video, by what it shows; picklable."""


def flat_names(window: WindowId) -> tuple[str, str]:
    """``videos/KEY.START.VIEW.mp4`` and ``actions/KEY.START.VIEW.mp4``; keys and views hold no dots."""
    name = f"{window.key}.{window.start:06d}.{'+'.join(window.views)}.mp4"
    return f"videos/{name}", f"actions/{name}"


def export_clips(
    kind: str,
    path: str | Path,
    dest: str | Path,
    finish: Callable[[Path, Sequence[Made]], None],
    *,
    num_frames: int = 81,
    fps: float | None = None,
    hop: int | None = None,
    short: Short = "skip",
    nearest: bool = False,
    size: tuple[int, int] | None = None,
    views: tuple[str, ...] | None = None,
    canvas: Canvas = "none",
    actions: bool = True,
    crf: int | None = None,
    **run: Any,
) -> Result:
    """`write_clips` of windows of one length.

    Args:
        kind: Which export.
        path: A complete data set.
        dest: As of `write_clips`.
        finish: As of `write_clips`.
        num_frames: Frames of a window.
        fps: Its rate, a whole fraction of the data set's; the data set's own by default.
        hop: Frames from the start of one window to that of the next; those of a window by default. The last window of
            a sample ends with it.
        short: What becomes of samples that are shorter than a window: ``skip``, or ``repeat`` the last frame.
        nearest: Take the stored frame that is nearest in time where ``fps`` is no whole fraction.
        size: Height and width of a picture; the data set's own by default.
        views: Which views, in order; all by default.
        canvas: ``none``, ``views`` or ``joint``, as of `Options`.
        actions: Write action videos.
        crf: x264's constant rate factor; that of the data set by default.
        run: ``naming``, ``reuse``, ``num_workers``, ``on_start``, ``on_done`` of `write_clips`.

    Raises:
        As `write_clips`.
    """
    cut = Cut(num_frames, fps, hop, short, nearest)
    options = Options(cut, None, size, views, canvas, actions, crf)
    return write_clips(kind, path, dest, options, finish, **run)


def write_clips(
    kind: str,
    path: str | Path,
    dest: str | Path,
    options: Options,
    finish: Callable[[Path, Sequence[Made]], None],
    *,
    naming: Naming = flat_names,
    strict: bool = True,
    reuse: str | Path | None = None,
    num_workers: int = 1,
    on_start: Callable[[int], None] = lambda _: None,
    on_done: Callable[[], None] = lambda: None,
) -> Result:
    """Write the clips of a data set, and then what a trainer reads beside them.

    Args:
        kind: Which export.
        path: A complete data set.
        dest: A new folder, or that of an export of the same windows that was interrupted.
        options: How samples become clips.
        finish: Writes the trainer's lists into the folder, from all windows in their order.
        naming: Where clips are.
        strict: Refuse windows that video models do not take as they are.
        reuse: A finished export of the same windows, for another trainer: its clips are hard-linked.
        num_workers: Processes; 1 works in this one.
        on_start: Called with the number of samples.
        on_done: Called for each of them.

    Raises:
        InvalidSpecError: An option does not fit the data set or the trainer.
        WrongFormatError: There is no such view.
        MissingCalibrationError: There are no action images.
        EmptyEpisodeError: No sample is as long as a window.
        OutputExistsError: ``dest`` holds something else.
        OutputError: It cannot be written.
        CorruptDatasetError, BadVideoError: The data set is damaged.
        WorkerError: A worker process died.
    """
    dataset, manifest = opened(path)
    options = _checked(options, manifest, path, strict)
    _check_lengths(options, dataset, path)
    root = Path(dest)
    identity = _identity(options, manifest)
    before = _begin(root, kind, identity)
    result = Result(kind, str(dest))
    if before is not None:
        result.samples, result.left_out = before["samples"], [tuple(pair) for pair in before["left_out"]]
        result.notes.append("was complete already")
        return result
    links = {} if reuse is None else _finished(Path(reuse), identity)
    setup = (str(path), str(root), options, naming, links)
    on_start(len(dataset))
    found: dict[int, list[Made | tuple[str, str]]] = {}
    numbers = list(range(len(dataset)))
    for number, made in spread(_Maker, setup, numbers, num_workers, where="export", kept="what was written stays"):
        found[number] = made
        on_done()
    windows: list[Made] = []
    for number in sorted(found):
        done = [one for one in found[number] if isinstance(one, Made)]
        windows += done
        result.samples += bool(done)
        result.left_out += [one for one in found[number] if not isinstance(one, Made)]
    if not windows:
        raise EmptyEpisodeError(
            "no sample gives a window", where=path, found=result.left_out[0][1] if result.left_out else "no samples"
        )
    with layout.output_errors(root):
        finish(root, windows)
        lines = "".join(json.dumps(_line(made), ensure_ascii=False) + "\n" for made in windows)
        layout.publish(root / WINDOWS, lines.encode())
        done_record = {"samples": result.samples, "windows": len(windows), "left_out": result.left_out}
        _record(root, kind, identity, done_record)
    clips = sum(len(made.clips) for made in windows)
    rates = sorted({made.fps for made in windows})
    spans = ", ".join(f"{len(windows[0].frames)} frames at {rate:g} fps" for rate in rates)
    what = spans if options.cut is not None else f"whole samples at {', '.join(f'{rate:g}' for rate in rates)} fps"
    result.notes.append(f"{len(windows)} windows, {clips} clips: {what}")
    return result


def _checked(options: Options, manifest: DatasetManifest, where: object, strict: bool) -> Options:
    stored = manifest.options
    size = options.size or (stored.height, stored.width)
    for view in options.views or ():
        if view not in manifest.views:
            raise WrongFormatError(
                "has no such view",
                where=where,
                expected=" ".join(manifest.views),
                found=view,
                hint=suggestion(view, list(manifest.views)),
            )
    if len(set(options.views or ())) != len(options.views or ()):
        raise InvalidSpecError("names a view twice", field="views", found=" ".join(options.views or ()))
    if options.actions and stored.poses_only:
        raise MissingCalibrationError(
            "no camera is known of its samples, so there are no action videos",
            where=where,
            field="cameras",
            hint="--no-actions writes the videos alone.",
        )
    if not options.actions and options.canvas == "joint":
        raise InvalidSpecError("has no action images to put below", field="canvas", found="joint, --no-actions")
    if size[0] % 2 or size[1] % 2:
        raise InvalidSpecError("h264 video has an even height and width", field="size", found=f"{size[0]}x{size[1]}")
    if strict and options.cut is not None and (unusual := unusual_window(options.cut.num_frames, *size)):
        raise InvalidSpecError(f"the trainer would cut this down in silence: {unusual}", where=where)
    crf = stored.crf if options.crf is None else options.crf
    return replace(options, size=size, views=options.views or manifest.views, crf=crf)


def _check_lengths(options: Options, dataset: Dataset, where: object) -> None:
    """Refuse a rate that does not fit, and a data set of which nothing would be left, before anything is written."""
    frames, rates = (dataset.table[name].to_numpy() for name in ("frames", "fps"))
    longest = {rate: int(frames[rates == rate].max()) for rate in np.unique(rates).tolist()}
    cuts = {rate: options.cut_of(total, rate, where) for rate, total in longest.items()}
    if cuts and not any(starts for _, starts in cuts.values()):
        rate, total = max(longest.items(), key=lambda pair: pair[1] / pair[0])
        needed = int(cuts[rate][0].offsets(rate, where)[-1]) + 1
        raise EmptyEpisodeError(
            "no sample is as long as a window",
            where=where,
            field="frames",
            expected=f">= {needed} at {rate:g} fps",
            found=f"at most {total}",
            hint="Fewer --num-frames, a higher --fps, or --short repeat.",
        )


def _identity(options: Options, manifest: DatasetManifest) -> dict[str, Any]:
    """What decides the bytes of the clips."""
    shards = hashlib.sha256("".join(f"{r.path} {r.sha256}\n" for r in manifest.shards).encode()).hexdigest()
    plain: dict[str, Any] = json.loads(json.dumps(asdict(options)))
    plain |= plain.pop("cut") or {"num_frames": None}
    del plain["poses"]
    return {"data set": manifest.plan, "shards": shards, **plain, "tool": tool_versions()}


# ---- the folder ----------------------------------------------------------------------------------------------------


def _begin(root: Path, kind: str, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Begin an export or go on with it; what it says of itself where it is complete."""
    if root.is_file() or (root.is_dir() and any(root.iterdir()) and not (root / RECORD).is_file()):
        raise OutputExistsError("exists already", where=root, hint="Exports write new folders only.")
    with layout.output_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        if not (root / RECORD).is_file():
            _record(root, kind, identity, None)
            return None
    there = _read_record(root)
    asked = {"kind": kind, **identity}
    found = {"kind": there.get("kind"), **there.get("identity", {})}
    other = [name for name in {**asked, **found} if asked.get(name) != found.get(name)]
    if other:
        raise OutputExistsError(
            "holds another export",
            where=root,
            field=other[0],
            expected=_short(asked.get(other[0])),
            found=_short(found.get(other[0])),
            hint="Choose another folder, or remove it.",
        )
    done = there.get("done")
    return done if isinstance(done, dict) else None


def _short(value: Any) -> str:
    words = json.dumps(value)
    return words if len(words) <= 80 else f"{words[:77]}…"


def _record(root: Path, kind: str, identity: dict[str, Any], done: dict[str, Any] | None) -> None:
    document = {"format": "actionimg-export", "kind": kind, "identity": identity, "done": done}
    layout.publish(root / RECORD, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def _read_record(root: Path) -> dict[str, Any]:
    try:
        with open_plain(root / RECORD) as file:
            found = text.parse_json(file.read(), root / RECORD)
    except FileNotFoundError:
        raise SourceNotFoundError(f"has no {RECORD}", where=root, hint="Is it an export for a trainer?") from None
    if not isinstance(found, dict) or found.get("format") != "actionimg-export":
        raise BadFileError("is no record of an export", where=root / RECORD)
    return found


def _finished(root: Path, identity: dict[str, Any]) -> dict[str, str]:
    """Files of a finished export of the same windows, by what they show."""
    there = _read_record(root)
    if there.get("done") is None:
        raise InvalidSpecError("is not finished, so nothing is taken from it", where=root, field="reuse")
    found = there.get("identity", {})
    other = [name for name in identity if identity[name] != found.get(name)]
    if other:
        raise InvalidSpecError(
            "holds other windows, so nothing is taken from it",
            where=root,
            field=f"reuse: {other[0]}",
            expected=_short(identity[other[0]]),
            found=_short(found.get(other[0])),
        )
    files: dict[str, str] = {}
    with open_plain(root / WINDOWS) as file:
        for line in file:
            row = text.parse_json(line, root / WINDOWS)
            for clip in row["clips"]:
                shown = WindowId(row["key"], row["start"], row["stride"], tuple(clip["views"]))
                for role in ("video", "control"):
                    if clip[role]:
                        files[f"{shown} {role}"] = str(_within(root, clip[role]))
    return files


def _within(root: Path, name: str) -> Path:
    """A file of an export; its list leads nowhere else."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UnsafeFileError("names a file outside of its folder", where=root / WINDOWS, found=name)
    return root / name


def _line(made: Made) -> dict[str, Any]:
    window = made.window
    return {
        "key": window.key,
        "start": window.start,
        "stride": window.stride,
        "frames": made.frames,
        "fps": made.fps,
        "views": window.views,
        "caption": made.caption,
        "clips": [asdict(clip) for clip in made.clips],
    }


# ---- a sample's windows --------------------------------------------------------------------------------------------

_Setup = tuple[str, str, Options, Naming, dict[str, str]]


class _Maker:
    """Writes the windows of samples in one process; the data set is opened once."""

    def __init__(self, path: str, root: str, options: Options, naming: Naming, links: dict[str, str]) -> None:
        self.dataset: Dataset = open_dataset(layout.place(path))
        self.root, self.options, self.naming, self.links = Path(root), options, naming, links

    def __call__(self, number: int) -> list[Made | tuple[str, str]]:
        """The windows of a sample, and why others are left out."""
        sample, options = self.dataset[number], self.options
        total, fps = len(sample), sample.fps
        cut, starts = options.cut_of(total, fps, sample.key)
        if not starts:
            needed = int(cut.offsets(fps, sample.key)[-1]) + 1
            return [(sample.key, f"has {total} frames; a window takes {needed} at its {fps:g} fps")]
        return [self._window(sample, cut, start) for start in starts]

    def _window(self, sample: Sample, cut: Cut, start: int) -> Made | tuple[str, str]:
        options, wanted = self.options, self.options.views or ()
        # Samples of a data set may differ in their views; a canvas is of one size, and cameras go by number in cosmos.
        views = tuple(view for view in wanted if view in sample.views)
        if not views or ((options.canvas != "none" or options.poses) and views != wanted):
            return sample.key, f"window {start}: has no view {' '.join(v for v in wanted if v not in views)}"
        fps = sample.fps
        indices = cut.indices(start, len(sample), fps, sample.key)
        kept = np.unique(indices)
        shown = [trajectory[kept] for trajectory in sample.grippers.values()]
        if (options.actions or options.poses) and not all(
            (one.known & np.isfinite(one.openness)).all() for one in shown
        ):
            return sample.key, f"window {start}: has frames without a pose"
        window = WindowId(sample.key, start, cut.stride(fps, sample.key), views)
        groups = list(view_groups(views, options.canvas != "none"))
        rate = cut.rate(fps)
        clips = [self._clip(sample, replace(window, views=group), kept, len(indices), rate) for group in groups]
        poses = None
        if options.poses:
            poses = shown[0].to_action7()[np.searchsorted(kept, indices)]
        caption = sample.meta.instruction_at(indices)
        size = self._clip_size(len(groups[0]))
        return Made(window, rate, tuple(indices.tolist()), caption, tuple(clips), size, poses)

    def _clip(self, sample: Sample, shown: WindowId, kept: NDArray[np.int64], count: int, fps: float) -> Clip:
        video, control = self.naming(shown)
        separate = self.options.actions and self.options.canvas != "joint"
        clip = Clip(shown.views, video, control if separate else "")
        for role, name in (("video", clip.video), ("control", clip.control)):
            target = self.root / name
            if not name or target.is_file():
                continue
            if (source := self.links.get(f"{shown} {role}")) is not None:
                _link(Path(source), target)
                continue
            data = self._stored(sample, shown.views, kept, count, role)
            if data is None:
                frames = self._pictures(sample, shown.views, kept, role)
                data = self._encoded(frames, count, fps, role, len(shown.views))
            layout.publish(target, data)
        return clip

    def _stored(
        self, sample: Sample, views: tuple[str, ...], kept: NDArray[np.int64], count: int, role: str
    ) -> bytes | None:
        """The stored video itself, where nothing changes."""
        options, meta = self.options, sample.meta
        own = (meta.height, meta.width) == options.size and len(kept) == count == len(sample) and len(views) == 1
        manifest = self.dataset.manifest
        if not own or options.canvas == "joint" or manifest is None or manifest.options.crf != options.crf:
            return None
        if role == "video":
            return sample.read(layout.rgb_member(views[0], ENDINGS[meta.rgb_codec]))
        if meta.action_codec != "h264" or sample.action_names != ("",):
            return None
        return sample.read(layout.action_member(views[0], ENDINGS["h264"]))

    def _pictures(self, sample: Sample, views: tuple[str, ...], kept: NDArray[np.int64], role: str) -> Iterator[Image]:
        """The frames of a clip: views side by side, and with ``joint`` their action images below."""
        window = Window(sample, kept, *self._size, views)
        rows = []
        if role == "video":
            rows.append([_rgb(window, view) for view in views])
        if role == "control" or self.options.canvas == "joint":
            rows.append([_actions(window, view) for view in views])
        for frames in zip(*(zip(*row, strict=True) for row in rows), strict=True):
            yield np.concatenate([np.concatenate(row, axis=1) for row in frames], axis=0)

    @property
    def _size(self) -> tuple[int, int]:
        assert self.options.size is not None
        return self.options.size

    def _clip_size(self, views: int) -> tuple[int, int]:
        height, width = self._size
        return height * (1 + (self.options.canvas == "joint")), width * views

    def _encoded(self, frames: Iterable[Image], count: int, fps: float, role: str, views: int) -> bytes:
        joint = self.options.canvas == "joint"
        crf = 18 if self.options.crf is None else self.options.crf
        encoding = rgb_encoding(crf) if role == "video" and not joint else action_encoding("h264", crf)
        held = itertools.islice(_last_held(frames), count)
        return encode_bytes(held, encoding, fps, *self._clip_size(views))


def _rgb(window: Window, view: str) -> Iterator[Image]:
    """Camera pictures of a view, decoded one at a time: a window may be a whole sample."""
    sample, meta = window.sample, window.sample.meta
    change = center_crop(meta.height, meta.width, window.height, window.width)
    name = layout.rgb_member(view, ENDINGS[meta.rgb_codec])
    with open_video(sample.read(name), f"{sample.key}.{name}") as video:
        for frame in video.frames(window.indices.tolist()):
            yield apply(frame, change)


def _actions(window: Window, view: str) -> Iterator[Image]:
    """Action images of a view, of all grippers in one picture, drawn some at a time."""
    for start in range(0, len(window), CHUNK):
        yield from render_merged(window.grippers, window.cameras[view], window.spec, slice(start, start + CHUNK))


def _last_held(frames: Iterable[Image]) -> Iterator[Image]:
    last = None
    for frame in frames:
        last = frame
        yield frame
    while last is not None:
        yield last


def _link(source: Path, target: Path) -> None:
    """Hard-link a file so that it is there as a whole or not at all; copied where that is not possible."""
    with layout.output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = layout.temporary(target)
        part.unlink(missing_ok=True)
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)
        os.replace(part, target)


# ---- processes -----------------------------------------------------------------------------------------------------

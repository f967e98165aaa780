"""Convert the episodes of one plan row into one shard, and publish it.

A shard is written under a temporary name, flushed, read back and hashed, moved to its place (`storage`), and only then
its sidecar is published: a shard without a sidecar is not there. Frames pass one at a time from the source through the
resize into the encoder; action images are drawn in chunks of `CHUNK`; what is encoded stays in memory up to `SPOOL`
bytes a stream.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    ActionImgError,
    FrameCountError,
    ImplausibleError,
    OutputError,
    StorageError,
    WrongFormatError,
    printable,
)
from ..model import CameraTrack, Episode, FrameSource, GripperTrajectory, view_planes
from ..plausibility import Finding, PictureWatch, refuse
from ..raster import render_merged
from ..schemas import (
    ActionImageSpec,
    ConvertOptions,
    MemberRow,
    PlanEpisode,
    PlanRow,
    QuarantineRow,
    SampleMeta,
    SampleRow,
    ShardSidecar,
    SpanRow,
)
from ..schemas.camera_file import least_certain
from ..schemas.dataset import parse, to_line
from ..video import Encoding, action_encoding, encode, mask_pictures, plane_encoding, rgb_encoding
from ..video.resize import resized, resized_planes
from . import layout, sample, storage
from .crew import Crew
from .layout import Place
from .prepare import Prepared, Reader, Recipe, WatchedReader, prepare, reference
from .source import check_episode, check_source, remember
from .tar import TarWriter

CHUNK: Final = 16
"""Action images drawn at once: 12 MB at 512x512."""

SPOOL: Final = 8 << 20
INTERNAL_ERROR: Final = "internal-error"
READ_FAILED: Final = "read-failed"
WORKER_CRASHED: Final = "worker-crashed"
EPISODE_TIMEOUT: Final = "episode-timeout"

Skip = Mapping[str, tuple[str, str]]
"""Episodes that are put into quarantine unread: id to code and message."""

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Progress:
    """Something was done: frames of one view encoded, or an episode begun or ended."""

    episode: str
    frames: int = 0
    bytes: int = 0
    begun: bool = False
    ended: bool = False
    code: str | None = None


Report = Callable[[Progress], None]


def write_shard(
    out: Place,
    row: PlanRow,
    plan: str,
    reader: WatchedReader,
    recipe: Recipe,
    *,
    report: Report = lambda _: None,
    skip: Skip | None = None,
    crew: Crew | None = None,
    source: str = "",
) -> ShardSidecar:
    """Convert and publish one shard.

    Args:
        out: Folder of the data set, or where it is in a store.
        row: Which episodes.
        plan: Fingerprint of the plan.
        reader: Reads an episode.
        recipe: What each episode is made into.
        report: Called with what was done.
        skip: Episodes to quarantine unread: those that killed the process that read them, or took too long.
        crew: Threads to encode with; this one alone by default.
        source: Where the episodes come from: an episode that fails is only bad where this is still there.

    Returns:
        The sidecar, as published; that of another runner, where one was first.

    Raises:
        OutputError: The shard cannot be written; what was published before is unchanged.
        CorruptDatasetError: What was read back is not what was written.
        StorageError: The store of the source or of the output does not answer.
        SourceGoneError: The source is not there any more.
    """
    remember(source)
    samples: list[SampleRow] = []
    quarantined: list[QuarantineRow] = []
    with storage.workspace(out, row.shard) as part:
        with layout.output_errors(part), open(part, "wb") as file:
            tar = TarWriter(file)
            shard = _Shard(tar, recipe, part.parent, report, crew or Crew())
            for planned in row.episodes:
                mark = tar.mark()
                report(Progress(planned.id, begun=True))
                code: str | None = None
                try:
                    if skip and planned.id in skip:
                        code = skip[planned.id][0]
                        quarantined.append(_quarantine(planned, row, *skip[planned.id]))
                    else:
                        made = shard.add_episode(planned, reader)
                        check_episode(reader, reference(planned))
                        samples += made
                except (OutputError, StorageError):
                    # A store that is away is away for every episode: none of them is bad.
                    raise
                except Exception as error:
                    # One bad episode must not cost the others; what is not an error of ours keeps its traceback.
                    if isinstance(error, OSError) and not isinstance(error, ActionImgError) and _is_about(error, part):
                        raise
                    check_source(source)
                    tar.rewind(mark)
                    findings = error.findings if isinstance(error, ImplausibleError) else ()
                    quarantined.append(_quarantine(planned, row, *_reason(error), findings))
                    code = quarantined[-1].code
                report(Progress(planned.id, ended=True, code=code))
            sha256 = tar.close()
            layout.flush(file)
        sidecar = ShardSidecar(
            plan=plan,
            shard=row.shard,
            bytes=tar.offset if samples else 0,
            sha256=sha256 if samples else None,
            samples=tuple(samples),
            quarantined=tuple(quarantined),
        )
        content = to_line(sidecar)
        there = storage.commit_shard(out, row.shard, part if samples else None, sha256, tar.offset, content)
    return sidecar if there == content else parse(ShardSidecar, there, out / f"{row.shard}.json")


def _is_about(error: OSError, part: Path) -> bool:
    """Whether an error of the operating system is about our own output and not about the source."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) or str(error.filename or "").startswith(str(part))


def unexpected(error: Exception, where: str) -> ActionImgError:
    """An error that nobody has thought of, in one line."""
    return ActionImgError(f"{type(error).__name__}: {printable(str(error), 400)}", where=where)


def _reason(error: Exception) -> tuple[str, str, str | None]:
    if isinstance(error, ActionImgError):
        return error.code, str(error), None
    text = "".join(traceback.format_exception(error))
    if isinstance(error, OSError):
        return READ_FAILED, printable(str(error), 400), text
    return INTERNAL_ERROR, f"{type(error).__name__}: {printable(str(error), 400)}", text


def _quarantine(
    planned: PlanEpisode,
    row: PlanRow,
    code: str,
    message: str,
    trace: str | None = None,
    findings: tuple[Finding, ...] = (),
) -> QuarantineRow:
    return QuarantineRow(
        id=planned.id, key=planned.key, shard=row.shard, code=code, message=message, traceback=trace, findings=findings
    )


class _Shard:
    """A tar that samples are added to, and what they need."""

    def __init__(self, tar: TarWriter, recipe: Recipe, work: Path, report: Report, crew: Crew) -> None:
        self.tar, self.options, self.work, self.report, self.crew = tar, recipe.options, work, report, crew
        self.recipe = recipe
        rgb_crf = self.options.crf if self.options.rgb_crf is None else self.options.rgb_crf
        self.rgb = rgb_encoding(rgb_crf, self.options.rgb_preset)
        codec = self.options.action_codec
        self.action = None if codec == "none" else action_encoding(codec, self.options.crf)

    def add_episode(self, planned: PlanEpisode, reader: Reader) -> list[SampleRow]:
        """Add all clips of an episode."""
        options = self.options
        try:
            made = prepare(planned, reader, self.recipe)
            episode = made.episode
            rows = []
            length = options.clip_frames or len(episode)
            for clip, start in enumerate(range(0, len(episode), length)):
                part = episode.select(range(start, min(start + length, len(episode))))
                key = planned.key if options.clip_frames is None else f"{planned.key}-c{clip:04d}"
                rows.append(self.add_sample(key, replace(made, episode=part), clip, start * options.stride))
            return rows
        except ActionImgError as error:
            raise error.at(planned.id) from None

    def add_sample(self, key: str, made: Prepared, clip: int = 0, start_frame: int = 0) -> SampleRow:
        """Add one sample; ``start_frame`` is its first frame's number in the source."""
        episode, options = made.episode, self.options
        count, offset = len(episode), self.tar.offset
        cameras = {name: view.camera.track(count) for name, view in episode.views.items() if view.camera is not None}
        watches = {name: PictureWatch(episode, name, options.limits) for name in episode.views}
        videos = self._videos(episode, cameras, watches)
        with contextlib.ExitStack() as bodies:
            encoded = self._encode_all(videos, episode.id, count, bodies)
            # What the pictures show is known once they have passed, and stands in what comes before them.
            seen = [f for watch in watches.values() for f in watch.findings()]
            if clip or options.stride > 1:
                seen = [_in_source(f, start_frame, options.stride) for f in seen]
            refuse(seen, options.allow, episode.id)
            findings = (*made.findings, *seen)
            meta = _meta(key, clip, start_frame, episode, cameras, options).model_copy(
                update={"calibration": made.calibration, "calibration_model": made.model, "findings": findings}
            )
            small = {layout.META: to_line(meta)}
            for gripper, trajectory in episode.grippers.items():
                small[layout.trajectory_member(gripper)] = sample.trajectory_bytes(trajectory)
            if not options.poses_only:
                small[layout.CAMERAS] = sample.cameras_bytes(cameras, options.spec)
            if options.conditioning:
                own = {n: v.conditioning.track(count) for n, v in episode.views.items() if v.conditioning is not None}
                small[layout.CONDITIONING] = sample.cameras_bytes(own)
            members = [self._add(key, name, io.BytesIO(data), len(data)) for name, data in small.items()]
            for video, (body, size) in zip(videos, encoded, strict=True):
                members.append(self._add(key, video.member, body, size))
        return SampleRow(
            key=key,
            episode=episode.id,
            clip=clip,
            start_frame=start_frame,
            frames=count,
            fps=episode.fps,
            views=tuple(episode.views),
            grippers=episode.gripper_names,
            calibration=made.calibration,
            findings=findings,
            camera_origin=least_certain(meta.camera_origins.values()),
            instruction=episode.instruction,
            task=episode.task or "",
            offset=offset,
            bytes=self.tar.offset - offset,
            members=tuple(members),
        )

    def _add(self, key: str, name: str, body: IO[bytes], size: int) -> MemberRow:
        start, digest = self.tar.add(f"{key}.{name}", body, size)
        return MemberRow(name=name, offset=start, size=size, sha256=digest)

    def _videos(
        self, episode: Episode, cameras: Mapping[str, CameraTrack], watches: Mapping[str, PictureWatch]
    ) -> list[_Video]:
        """The videos of a sample, in the order of its members; each view's pictures are watched as they pass."""
        options, count = self.options, len(episode)
        videos = []
        for name, view in episode.views.items():
            pictures = functools.partial(_seen_pictures, watches[name], view.frames, count, options, episode.id, name)
            member = layout.rgb_member(name, self.rgb.ending)
            videos.append(_Video(name, member, functools.partial(self._encoded, pictures, self.rgb, episode.fps)))
            if self.action is not None:
                for gripper, shown in drawn_together(episode.grippers, options.merge_arms).items():
                    drawn = functools.partial(_drawn, shown, cameras[name], options.spec)
                    member = layout.action_member(name, self.action.ending, gripper)
                    encoded = functools.partial(self._encoded, drawn, self.action, episode.fps)
                    videos.append(_Video(name, member, encoded))
            for kind in options.planes:
                planes = functools.partial(_planes, view_planes(view)[kind], kind, count, options, episode.id, name)
                encoded = functools.partial(self._encoded, planes, plane_encoding(kind), episode.fps)
                videos.append(_Video(name, layout.plane_member(name, kind), encoded))
        return videos

    def _encoded(
        self, pictures: Callable[[], Iterator[NDArray[Any]]], encoding: Encoding, fps: float
    ) -> tuple[IO[bytes], int]:
        """An encoded video, from its start, and its size."""
        body = tempfile.SpooledTemporaryFile(SPOOL, dir=str(self.work))  # noqa: SIM115 (closed by who adds it)
        try:
            frames = _watched(pictures(), self.crew)
            with contextlib.closing(frames):
                encode(frames, body, encoding, fps, self.options.height, self.options.width)
            body.seek(0, io.SEEK_END)
            size = body.tell()
            body.seek(0)
        except BaseException:
            body.close()
            raise
        return body, size

    def _encode_all(
        self, videos: Sequence[_Video], episode: str, count: int, bodies: contextlib.ExitStack
    ) -> list[tuple[IO[bytes], int]]:
        """All videos of a sample and their sizes; ``bodies`` closes them."""
        encoded: list[tuple[IO[bytes], int]] = []
        seen: set[str] = set()
        # Closed in any case, so that threads that still encode have ended before the shard is rewound.
        # Camera pictures take longest to encode, so they are begun first.
        order = sorted(range(len(videos)), key=lambda i: not videos[i].member.endswith(f".rgb.{self.rgb.ending}"))
        made = self.crew.run([v.encoded for v in videos], order, discard=lambda unused: unused[0].close())
        with contextlib.closing(made) as results:
            for video, (body, size) in zip(videos, results, strict=True):
                bodies.enter_context(body)
                encoded.append((body, size))
                self.report(Progress(episode, frames=0 if video.view in seen else count, bytes=size))
                seen.add(video.view)
        return encoded


class _Video(NamedTuple):
    view: str
    member: str
    encoded: Callable[[], tuple[IO[bytes], int]]


def drawn_together(
    grippers: Mapping[str, GripperTrajectory], merge: bool
) -> dict[str, Mapping[str, GripperTrajectory]]:
    """What each action video of a view shows: by the gripper in the video's name, the grippers drawn in it."""
    return {"": grippers} if merge else {name: {name: trajectory} for name, trajectory in grippers.items()}


def _watched(frames: Iterator[NDArray[Any]], crew: Crew) -> Generator[NDArray[Any], None, None]:
    for frame in frames:
        crew.checkpoint()
        yield frame


def _in_source(finding: Finding, start: int, stride: int) -> Finding:
    """A finding about frames of a sample, its rows counted as the source counts them."""
    if finding.rows is None:
        return finding
    first, last = finding.rows
    return finding.model_copy(update={"rows": (start + first * stride, start + last * stride)})


def _seen_pictures(watch: PictureWatch, *given: Any) -> Generator[Image, None, None]:
    with contextlib.closing(_pictures(*given)) as pictures:
        for picture in pictures:
            watch.see(picture)
            yield picture


def _pictures(
    source: FrameSource, expected: int, options: ConvertOptions, where: str, view: str
) -> Generator[Image, None, None]:
    """A view's pictures at the data set's size; exactly as many as promised."""
    count = 0
    frames = source.frames(range(expected))
    try:
        for frame in resized(frames, source.height, source.width, options.height, options.width):
            count += 1
            yield frame
    except ActionImgError as error:
        raise error.at(f"{where}: {view}") from None
    if count != expected:
        raise FrameCountError("pictures end early", where=where, field=view, expected=expected, found=count)


def _planes(
    source: FrameSource, kind: str, expected: int, options: ConvertOptions, where: str, view: str
) -> Generator[NDArray[Any], None, None]:
    """A view's depth or masks at the data set's size, masks as pictures; exactly as many as promised."""
    count = 0
    read = source.frames(range(expected))
    try:
        planes = resized_planes(read, kind, source.height, source.width, options.height, options.width)
        for plane in planes if kind == "depth" else mask_pictures(planes):
            count += 1
            yield plane
    except ActionImgError as error:
        raise error.at(f"{where}: {view}.{kind}") from None
    if count != expected:
        raise FrameCountError(f"{kind} ends early", where=where, field=view, expected=expected, found=count)


def _drawn(
    grippers: Mapping[str, GripperTrajectory], camera: CameraTrack, spec: ActionImageSpec
) -> Generator[Image, None, None]:
    for start in range(0, len(camera), CHUNK):
        yield from render_merged(grippers, camera, spec, slice(start, start + CHUNK))


def _meta(
    key: str,
    clip: int,
    start_frame: int,
    episode: Episode,
    cameras: Mapping[str, CameraTrack],
    options: ConvertOptions,
) -> SampleMeta:
    residual = episode.sync_residual_s
    merged = options.merge_arms and len(episode.grippers) > 1
    return SampleMeta(
        key=key,
        episode=episode.id,
        clip=clip,
        start_frame=start_frame,
        stride=options.stride,
        frames=len(episode),
        fps=episode.fps,
        instruction=episode.instruction,
        instructions=episode.instructions,
        task=episode.task or "",
        views=tuple(episode.views),
        height=options.height,
        width=options.width,
        source_sizes=tuple((v.frames.height, v.frames.width) for v in episode.views.values()),
        spec=options.spec.id,
        rgb_codec=options.rgb_codec,
        action_codec=options.action_codec,
        calibrated=not options.poses_only,
        sync=episode.sync,
        sync_residual_s=() if residual is None else tuple(residual.tolist()),
        provenance=_jsonable(episode.provenance, episode.id),
        grippers=episode.gripper_names,
        merged_arms=merged,
        overlapping_frames=sample.overlapping_frames(episode.grippers, cameras, options.spec) if merged else (),
        depth_range_m=tuple(view.depth_range_m for view in episode.views.values()) if options.depth else None,
        masks=options.masks,
        camera_origins={n: v.origin for n, v in episode.views.items() if v.origin is not None and v.camera is not None},
        instruction_spans=tuple(SpanRow(start=s.start, end=s.end, text=s.text) for s in episode.spans),
    )


def _jsonable(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A converter's provenance as JSON knows it, so that what is read back equals what was written."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise WrongFormatError(f"holds what JSON cannot: {error}", where=where, field="provenance") from None
    return plain


class Measured(NamedTuple):
    """What was measured of an episode's first frames, and from them all of it."""

    frames: int
    """Frames that were converted."""
    total_frames: int
    total_bytes: float
    total_seconds: float


def measure(planned: PlanEpisode, reader: Reader, recipe: Recipe, frames: int) -> Measured:
    """Convert the first frames of an episode and throw them away, for an estimate.

    Raises:
        ActionImgError: The episode cannot be converted.
    """
    with tempfile.TemporaryFile() as file:
        begun = time.perf_counter()
        made = prepare(planned, reader, recipe)
        ready = time.perf_counter()
        total = len(made.episode)
        part = replace(made, episode=made.episode.select(range(min(frames, total))))
        shard = _Shard(TarWriter(file), recipe, Path(tempfile.gettempdir()), lambda _: None, Crew())
        row = shard.add_sample(planned.key, part)
        scale = total / row.frames
        seconds = ready - begun + (time.perf_counter() - ready) * scale
        return Measured(row.frames, total, row.bytes * scale, seconds)

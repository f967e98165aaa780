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
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    ActionImgError,
    FrameCountError,
    InvalidTrajectoryError,
    MissingCalibrationError,
    MissingViewError,
    OutputError,
    StorageError,
    WrongFormatError,
    printable,
)
from ..model import CameraTrack, Episode, EpisodeRef, FrameSource, GripperTrajectory, view_planes
from ..raster import render_merged
from ..schemas import (
    ActionImageSpec,
    CalibrationRow,
    ConvertOptions,
    MemberRow,
    PlanEpisode,
    PlanRow,
    QuarantineRow,
    SampleMeta,
    SampleRow,
    ShardSidecar,
)
from ..schemas.dataset import parse, to_line
from ..video import Encoding, action_encoding, encode, mask_pictures, plane_encoding, rgb_encoding
from ..video.resize import resized, resized_planes
from . import layout, sample, storage
from .calibration import checked, with_refined_cameras
from .crew import Crew
from .layout import Place
from .plan import check_planes
from .tar import TarWriter

CHUNK: Final = 16
"""Action images drawn at once: 12 MB at 512x512."""

SPOOL: Final = 8 << 20
INTERNAL_ERROR: Final = "internal-error"
READ_FAILED: Final = "read-failed"
WORKER_CRASHED: Final = "worker-crashed"

Image = NDArray[np.uint8]


class Reader(Protocol):
    """The half of a converter that a shard needs."""

    def read(self, ref: EpisodeRef) -> Episode:
        """One episode."""
        ...


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
    reader: Reader,
    views: tuple[str, ...],
    options: ConvertOptions,
    report: Report = lambda _: None,
    skip: Mapping[str, str] | None = None,
    crew: Crew | None = None,
    grippers: tuple[str, ...] = (),
) -> ShardSidecar:
    """Convert and publish one shard.

    Args:
        out: Folder of the data set, or where it is in a store.
        row: Which episodes.
        plan: Fingerprint of the plan.
        reader: Reads an episode.
        views: Views of every sample, in order.
        options: What decides the bytes.
        report: Called with what was done.
        skip: Episodes to quarantine unread, id to message: those that killed the process that read them.
        crew: Threads to encode with; this one alone by default.
        grippers: Names of the grippers of every sample, in order; empty for one without a name.

    Returns:
        The sidecar, as published; in a store that of another runner, where one was first.

    Raises:
        OutputError: The shard cannot be written; what was published before is unchanged.
        CorruptDatasetError: What was read back is not what was written.
        StorageError: The store of the source or of the output does not answer.
    """
    crew = crew or Crew()
    samples: list[SampleRow] = []
    quarantined: list[QuarantineRow] = []
    with storage.workspace(out, row.shard) as part:
        with layout.output_errors(part), open(part, "wb") as file:
            tar = TarWriter(file)
            for planned in row.episodes:
                mark = tar.mark()
                report(Progress(planned.id, begun=True))
                code: str | None = None
                try:
                    if skip and planned.id in skip:
                        quarantined.append(_quarantine(planned, row, WORKER_CRASHED, skip[planned.id]))
                        code = WORKER_CRASHED
                    else:
                        samples += _episode(tar, planned, reader, views, grippers, options, part.parent, report, crew)
                except (OutputError, StorageError):
                    # A store that is away is away for every episode: none of them is bad.
                    raise
                except Exception as error:
                    # One bad episode must not cost the others; what is not an error of ours keeps its traceback.
                    if isinstance(error, OSError) and not isinstance(error, ActionImgError) and _is_about(error, part):
                        raise
                    tar.rewind(mark)
                    quarantined.append(_quarantine(planned, row, *_reason(error)))
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


def _reason(error: Exception) -> tuple[str, str, str | None]:
    if isinstance(error, ActionImgError):
        return error.code, str(error), None
    text = "".join(traceback.format_exception(error))
    if isinstance(error, OSError):
        return READ_FAILED, printable(str(error), 400), text
    return INTERNAL_ERROR, f"{type(error).__name__}: {printable(str(error), 400)}", text


def _quarantine(planned: PlanEpisode, row: PlanRow, code: str, message: str, trace: str | None = None) -> QuarantineRow:
    return QuarantineRow(id=planned.id, key=planned.key, shard=row.shard, code=code, message=message, traceback=trace)


def _episode(
    tar: TarWriter,
    planned: PlanEpisode,
    reader: Reader,
    views: tuple[str, ...],
    grippers: tuple[str, ...],
    options: ConvertOptions,
    work: Path,
    report: Report,
    crew: Crew,
) -> list[SampleRow]:
    try:
        source = with_refined_cameras(reader.read(_ref(planned)), options)
        episode = prepared(source, views, options, grippers)
        found = checked(source, views, options)
        rows = []
        length = options.clip_frames or len(episode)
        for clip, start in enumerate(range(0, len(episode), length)):
            part = episode.select(range(start, min(start + length, len(episode))))
            key = planned.key if options.clip_frames is None else f"{planned.key}-c{clip:04d}"
            rows.append(_sample(tar, key, clip, start * options.stride, part, options, work, report, crew, found))
        return rows
    except ActionImgError as error:
        raise error.at(planned.id) from None


def prepared(
    episode: Episode, views: tuple[str, ...], options: ConvertOptions, grippers: tuple[str, ...] = ()
) -> Episode:
    """The episode with the data set's views and stride, its cameras those of the resized pictures.

    Raises:
        MissingViewError: It lacks a view, or a view the depth or the mask that is to be stored.
        InvalidTrajectoryError: It has other grippers than the data set, or one of several has no pose at all.
        MissingCalibrationError: A view has no camera.
        WrongFormatError: A camera is for pictures of another size than the view's.
    """
    missing = [name for name in views if name not in episode.views]
    if missing:
        raise MissingViewError(
            "lacks a view", where=episode.id, expected=" ".join(views), found=f"no {' '.join(missing)}"
        )
    episode = episode.with_views(views)
    check_planes(episode, options.planes)
    if episode.gripper_names != grippers:
        raise InvalidTrajectoryError(
            "has other grippers than its data set",
            where=episode.id,
            field="grippers",
            expected=" ".join(grippers) or "one without a name",
            found=" ".join(episode.gripper_names) or "one without a name",
            hint="All samples of a data set have the same grippers: those of the first episode.",
        )
    for name, trajectory in episode.grippers.items():
        if name and not trajectory.known.any():
            raise InvalidTrajectoryError("has no poses", where=episode.id, field=f"grippers.{name}")
    if options.stride > 1:
        episode = episode.select(range(0, len(episode), options.stride))
    if options.poses_only:
        return replace(episode, views={name: replace(view, camera=None) for name, view in episode.views.items()})
    cameras = {}
    for name, view in episode.views.items():
        if view.camera is None:
            raise MissingCalibrationError("view has no calibration", where=episode.id, field=name)
        if (view.camera.height, view.camera.width) != (view.frames.height, view.frames.width):
            raise WrongFormatError(
                "camera and pictures differ in size",
                where=episode.id,
                field=name,
                expected=f"{view.camera.width}x{view.camera.height}, as the camera says",
                found=f"{view.frames.width}x{view.frames.height}",
            )
        cameras[name] = replace(view, camera=view.camera.resized(options.height, options.width))
    return replace(episode, views=cameras)


def _sample(
    tar: TarWriter,
    key: str,
    clip: int,
    start_frame: int,
    episode: Episode,
    options: ConvertOptions,
    work: Path,
    report: Report,
    crew: Crew,
    found: tuple[tuple[CalibrationRow, ...], str] = ((), ""),
) -> SampleRow:
    count = len(episode)
    offset = tar.offset
    members: list[MemberRow] = []

    def add(name: str, body: IO[bytes], size: int) -> None:
        start, digest = tar.add(f"{key}.{name}", body, size)
        members.append(MemberRow(name=name, offset=start, size=size, sha256=digest))

    def add_bytes(name: str, data: bytes) -> None:
        add(name, io.BytesIO(data), len(data))

    cameras = {name: view.camera.track(count) for name, view in episode.views.items() if view.camera is not None}
    meta = _meta(key, clip, start_frame, episode, cameras, options)
    meta = meta.model_copy(update={"calibration": found[0], "calibration_model": found[1]})
    add_bytes(layout.META, to_line(meta))
    for gripper, trajectory in episode.grippers.items():
        add_bytes(layout.trajectory_member(gripper), sample.trajectory_bytes(trajectory))
    if not options.poses_only:
        add_bytes(layout.CAMERAS, sample.cameras_bytes(cameras))
    rgb = rgb_encoding(options.crf)
    action = None if options.action_codec == "none" else action_encoding(options.action_codec, options.crf)

    def stream(pictures: Callable[[], Iterator[NDArray[Any]]], encoding: Encoding) -> tuple[IO[bytes], int]:
        body = tempfile.SpooledTemporaryFile(SPOOL, dir=str(work))  # noqa: SIM115 (closed by who adds it)
        try:
            frames = _watched(pictures(), crew)
            with contextlib.closing(frames):
                encode(frames, body, encoding, episode.fps, options.height, options.width)
            body.seek(0, io.SEEK_END)
            size = body.tell()
            body.seek(0)
        except BaseException:
            body.close()
            raise
        return body, size

    streams: list[tuple[str, str, Callable[[], tuple[IO[bytes], int]]]] = []
    for name, view in episode.views.items():
        pictures = functools.partial(_pictures, view.frames, count, options, episode.id, name)
        streams.append((name, layout.rgb_member(name, rgb.ending), functools.partial(stream, pictures, rgb)))
        if action is not None:
            for gripper, shown in drawn_together(episode.grippers, options.merge_arms).items():
                drawn = functools.partial(_drawn, shown, cameras[name], options.spec)
                member = layout.action_member(name, action.ending, gripper)
                streams.append((name, member, functools.partial(stream, drawn, action)))
        for kind in options.planes:
            planes = functools.partial(_planes, view_planes(view)[kind], kind, count, options, episode.id, name)
            member = layout.plane_member(name, kind)
            streams.append((name, member, functools.partial(stream, planes, plane_encoding(kind))))
    seen: set[str] = set()
    # Closed in any case, so that threads that still encode have ended before the shard is rewound.
    # Camera pictures take longest to encode, so they are begun first.
    order = sorted(range(len(streams)), key=lambda i: not streams[i][1].endswith(f".rgb.{rgb.ending}"))
    made = crew.run([work for _, _, work in streams], order, discard=lambda unused: unused[0].close())
    with contextlib.closing(made) as results:
        for (view_name, member, _), (body, size) in zip(streams, results, strict=True):
            with body:
                add(member, body, size)
            report(Progress(episode.id, frames=0 if view_name in seen else count, bytes=size))
            seen.add(view_name)
    return SampleRow(
        key=key,
        episode=episode.id,
        clip=clip,
        start_frame=start_frame,
        frames=count,
        fps=episode.fps,
        views=tuple(episode.views),
        grippers=episode.gripper_names,
        calibration=found[0],
        instruction=episode.instruction,
        task=episode.task or "",
        offset=offset,
        bytes=tar.offset - offset,
        members=tuple(members),
    )


def drawn_together(
    grippers: Mapping[str, GripperTrajectory], merge: bool
) -> dict[str, Mapping[str, GripperTrajectory]]:
    """What each action video of a view shows: by the gripper in the video's name, the grippers drawn in it."""
    return {"": grippers} if merge else {name: {name: trajectory} for name, trajectory in grippers.items()}


def _watched(frames: Iterator[NDArray[Any]], crew: Crew) -> Generator[NDArray[Any], None, None]:
    for frame in frames:
        crew.checkpoint()
        yield frame


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
    )


def _jsonable(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A converter's provenance as JSON knows it, so that what is read back equals what was written."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise WrongFormatError(f"holds what JSON cannot: {error}", where=where, field="provenance") from None
    return plain


class Measured(NamedTuple):
    """What the first frames of an episode took, and how many frames it has."""

    frames: int
    bytes: int
    total: int


def measure(
    planned: PlanEpisode,
    reader: Reader,
    views: tuple[str, ...],
    options: ConvertOptions,
    frames: int,
    grippers: tuple[str, ...] = (),
) -> Measured:
    """Convert the first frames of an episode and throw them away, for an estimate.

    Raises:
        ActionImgError: The episode cannot be converted.
    """
    with tempfile.TemporaryFile() as file:
        tar = TarWriter(file)
        episode = prepared(reader.read(_ref(planned)), views, options, grippers)
        part = episode.select(range(min(frames, len(episode))))
        row = _sample(tar, planned.key, 0, 0, part, options, Path(tempfile.gettempdir()), lambda _: None, Crew())
        return Measured(row.frames, row.bytes, len(episode))


def _ref(planned: PlanEpisode) -> EpisodeRef:
    return EpisodeRef(planned.id, planned.location, planned.num_frames, planned.fingerprint)

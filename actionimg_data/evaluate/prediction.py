"""One prediction: its videos, held against what they should be, decoded and scored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..decode import ArmBlobs, BlobMeasurements, DecodedTrajectory, measure_arms, solve, solve_arms
from ..decode.arms import COUNT
from ..decode.measure import check_video, measure_views
from ..errors import (
    DecodeError,
    FrameCountError,
    InvalidSpecError,
    MissingCalibrationError,
    MissingViewError,
    WrongFormatError,
    suggestion,
)
from ..objectstore import is_url
from ..raster import WRIST_AXIS, wrist_spec
from ..schemas import ActionImageSpec
from ..schemas.evaluation import PredictionRow, PredictionScores
from ..shards import Dataset, Sample, Window
from ..video.read import VideoReader
from . import published, rgb
from .figures import scores_of
from .frames import chunks, open_frames
from .score import Estimate, Scored, blob_health, score

Frames = Iterator[NDArray[Any]]

_RATE_TOLERANCE: Final = 0.02
_GIF_TICK: Final = 0.01
_TOGETHER_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class Options:
    """How predictions are judged; picklable.

    Args:
        task: ``actions``: videos generated from a first frame; ``labelling``: action videos of given camera videos, of
            which every frame counts alike.
        protocol: ``published`` adds the mean position error read as the published decoder does.
        any_rate: Do not hold the videos' frame rate against the window's.
        views: Views that every prediction has to show; None for whatever it shows.
    """

    task: Literal["actions", "labelling"] = "actions"
    protocol: Literal["ours", "published"] = "ours"
    any_rate: bool = False
    views: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Part:
    """The frames of one view in an open video."""

    reader: VideoReader
    frames: range


def sample_of(dataset: Dataset, row: PredictionRow) -> Sample:
    """The sample that a prediction is of.

    Raises:
        WrongFormatError: There is no such key.
        InvalidSpecError: It has several grippers and the prediction names none, or one that is not there.
        MissingCalibrationError: Its data set was made without cameras.
    """
    if row.key not in dataset:
        raise WrongFormatError(
            "the data set has no such sample",
            field="key",
            expected=f"one of {len(dataset)} keys",
            found=row.key,
            hint=suggestion(row.key, dataset.keys()),
        )
    sample = dataset[row.key]
    check_sample(sample, row.gripper)
    return sample


def check_sample(sample: Sample, gripper: str, protocol: str = "ours") -> None:
    """Refuse a sample that no action video of ``gripper`` can be held against."""
    if not sample.meta.calibrated:
        raise MissingCalibrationError(
            "no camera is known of this sample, so its action videos cannot be decoded", where=sample.key, field="key"
        )
    if sample.meta.merged_arms and (protocol == "published" or len(sample.gripper_names) > COUNT):
        raise DecodeError(
            "its action images show several grippers in one picture, which the published protocol cannot take apart"
            if protocol == "published"
            else f"its action images show more than {COUNT} grippers in one picture, which cannot be taken apart",
            where=sample.key,
            field="gripper",
            found=" ".join(sample.gripper_names),
        )
    names = sample.gripper_names or ("",)
    if gripper not in names:
        raise InvalidSpecError(
            "does not name a gripper of the sample",
            where=sample.key,
            field="gripper",
            expected=" ".join(names) if names != ("",) else "none",
            found=gripper or "none",
        )


@contextlib.contextmanager
def opened_parts(
    row: PredictionRow, sample: Sample, root: str, options: Options
) -> Iterator[tuple[dict[str, Part], dict[str, Part]]]:
    """Action parts and camera parts by view; files are closed afterwards."""
    with contextlib.ExitStack() as stack:

        def opened(file: str) -> VideoReader:
            path = file if is_url(file) or file.startswith("/") or not root else f"{root.rstrip('/')}/{file}"
            return stack.enter_context(open_frames(path))

        if row.canvas is None:
            files = row.views if isinstance(row.views, dict) else {}
            check_views(list(files), sample, options)
            check_views(list(row.rgb), sample, Options())
            action = {view: _whole(opened(file)) for view, file in files.items()}
            yield action, {view: _whole(opened(file)) for view, file in row.rgb.items()}
            return
        names = list(row.views) if row.views is not None else list(sample.views)
        if row.views is None and len(sample.views) > 2:
            raise MissingViewError(
                "a canvas does not say which views it shows",
                field="views",
                expected=f'"views": [two or more of {" ".join(sample.views)}]',
                found="none",
            )
        check_views(names, sample, options)
        reader = opened(row.canvas)
        each = 2 + row.others
        segments = each * len(names)
        if reader.info.frames % segments:
            raise FrameCountError(
                "the canvas does not divide into equal segments",
                field="canvas",
                expected=f"a multiple of {segments}: {each} segments of {' '.join(names)}",
                found=reader.info.frames,
            )
        length = reader.info.frames // segments
        parts = [Part(reader, range(i * length, (i + 1) * length)) for i in range(segments)]
        yield dict(zip(names, parts[each - 1 :: each], strict=True)), dict(zip(names, parts[::each], strict=True))


def _whole(reader: VideoReader) -> Part:
    return Part(reader, range(reader.info.frames))


def check_views(names: Sequence[str], sample: Sample, options: Options) -> None:
    """Refuse views that a sample does not have, or the lack of one that is asked for."""
    unknown = [name for name in names if name not in sample.views]
    missing = [name for name in options.views or () if name not in names]
    if unknown:
        raise MissingViewError(
            "the sample has no such view",
            where=sample.key,
            field="views",
            expected=" ".join(sample.views),
            found=unknown[0],
            hint=suggestion(unknown[0], sample.views),
        )
    if missing:
        raise MissingViewError(
            "a view is missing", where=sample.key, field="views", expected=missing[0], found=" ".join(names) or "none"
        )


def window_of(row: PredictionRow, sample: Sample, parts: Mapping[str, Part], options: Options) -> Window:
    """The sample's window that the videos show, where they all are what was promised."""
    for field, values, expected in (
        ("size", {n: f"{p.reader.info.height}x{p.reader.info.width}" for n, p in parts.items()}, None),
        ("frames", {n: len(p.frames) for n, p in parts.items()}, row.frames),
        ("rate", {n: round(p.reader.info.fps, 3) for n, p in parts.items() if p.reader.info.fps}, None),
    ):
        first = next(iter(values.values()), None) if expected is None else expected
        other = next((name for name, value in values.items() if value != first), None)
        if other is not None:
            kind = FrameCountError if field == "frames" else DecodeError
            raise kind(
                "another number of frames than promised" if expected else "the views differ",
                where=sample.key,
                field=f"{other}: {field}",
                expected=first,
                found=values[other],
            )
    name, part = next(iter(parts.items()))
    info = part.reader.info
    size = (info.height, info.width)
    window = Window.cut(sample, row.start, len(part.frames), row.stride, size, list(parts), row.held)
    for view, distance in row.held.items():
        if view not in parts or wrist_spec(window.spec, distance) != window.spec:
            raise InvalidSpecError(
                "a view that is held near the gripper has shorter axes, and is not decoded with the others"
                if view in parts
                else "is no view of the prediction",
                where=sample.key,
                field=f"held: {view}",
                expected=f">= {window.spec.axis_length / WRIST_AXIS:.3f} m" if view in parts else " ".join(parts),
                found=distance,
                hint="Score the other views without it.",
            )
    rate = sample.fps / row.stride
    if info.fps and not options.any_rate and not _same_rate(info.fps, rate, info.codec):
        raise DecodeError(
            "the video has another frame rate than the frames of its window",
            where=sample.key,
            field=f"{name}: rate",
            expected=f"{rate:g} fps (stride {row.stride} of {sample.fps:g})",
            found=f"{info.fps:g} fps",
            hint="Is the stride right? --any-rate takes the frames as they are.",
        )
    return window


def _same_rate(found: float, expected: float, codec: str) -> bool:
    # A GIF's frames last whole hundredths of a second.
    slack = _GIF_TICK / 2 if codec == "gif" else 0.0
    return abs(1 / found - 1 / expected) <= max(slack, _RATE_TOLERANCE / expected)


def score_row(
    dataset: Dataset, number: int, row: PredictionRow, root: str, options: Options
) -> tuple[Scored, Window, str]:
    """Decode and score one prediction.

    Args:
        dataset: What it is held against.
        number: Its line.
        row: What it says of itself.
        root: Folder or URL that its files are relative to.
        options: How it is judged.

    Returns:
        Its figures, the window of the sample that it is of, and the codec of its videos.

    Raises:
        ActionImgError: It is not what it says it is, or does not fit the data set; the error names field, expected and
            found.
    """
    sample = sample_of(dataset, row)
    check_sample(sample, row.gripper, options.protocol)
    with opened_parts(row, sample, root, options) as (action, camera):
        window = window_of(row, sample, action, options)
        streams = {view: chunks(part.reader, part.frames) for view, part in action.items()}
        found = score_frames(streams, window, row.gripper, options)
        codec = next(iter(action.values())).reader.info.codec
    if options.task == "actions" and camera:
        with opened_parts(row, sample, root, options) as (_, camera):
            found.rgb = _rgb(camera, window)
    found.about = {"prediction": number, **about_window(window, row.gripper, row.stride)}
    return found, window, codec


def about_window(window: Window, gripper: str, stride: int) -> dict[str, Any]:
    """What names a prediction of a window in the figures."""
    return {
        "key": window.sample.key,
        "task": window.sample.meta.task,
        "start": int(window.indices[0]),
        "stride": stride,
        "gripper_name": gripper,
        "views": list(window.views),
        "size": [window.height, window.width],
    }


def score_frames(streams: Mapping[str, Frames], window: Window, gripper: str, options: Options) -> Scored:
    """Decode the action pictures ``(n, H, W, 3)`` of each view of a window, some at a time, and score them."""
    spec = window.spec
    cameras = window.action_cameras
    truth = window.grippers[gripper]
    if window.sample.meta.merged_arms:
        return score(Estimate.decoded(_arms(streams, window)[gripper]), truth, window.indices, spec)
    measured, centroids = _measured(streams, spec, options.protocol == "published")
    decoded = solve(measured, cameras, spec, times=truth.times, names=list(cameras))
    published_mm = None
    if options.protocol == "published":
        points = published.positions(centroids, list(cameras.values()), spec)
        published_mm = 1000 * np.linalg.norm(points - truth.position, axis=-1)
    return score(
        Estimate.decoded(decoded),
        truth,
        window.indices,
        spec,
        blobs=blob_health(measured, truth, cameras, spec),
        published_mm=published_mm,
    )


def _arms(streams: Mapping[str, Frames], window: Window) -> dict[str, DecodedTrajectory]:
    """All grippers of merged pictures; named by where the sample says they are in the window's first frame."""
    spec, grippers = window.spec, window.grippers
    views = []
    for view, frames in streams.items():
        parts = [measure_arms(check_video(chunk, spec, view), spec) for chunk in frames]
        views.append(ArmBlobs.concatenate(parts))
    first = {name: trajectory.position[0] for name, trajectory in grippers.items()}
    cameras = window.action_cameras
    times = next(iter(grippers.values())).times
    return solve_arms(views, cameras, spec, first, times=times, names=list(cameras))


def _measured(
    streams: Mapping[str, Frames], spec: ActionImageSpec, centroids: bool
) -> tuple[list[BlobMeasurements], list[NDArray[np.float64]]]:
    """What each view shows, and its red centroids where those are wanted.

    Views are measured together, which is faster, as long as they fit into `_TOGETHER_BYTES`.
    """
    measured: list[list[BlobMeasurements]] = [[] for _ in streams]
    waiting: list[list[NDArray[Any]]] = [[] for _ in streams]
    reds: list[NDArray[np.float64]] = []
    held = 0
    for number, (view, frames) in enumerate(streams.items()):
        red = []
        for chunk in frames:
            pictures = check_video(chunk, spec, view)
            if centroids:
                red.append(published.red_centroids(pictures))
            if held + pictures.nbytes > _TOGETHER_BYTES:
                measured[number] += [measure_views([part], spec)[0] for part in (*waiting[number], pictures)]
                held -= sum(part.nbytes for part in waiting[number])
                waiting[number].clear()
            else:
                waiting[number].append(pictures)
                held += pictures.nbytes
        reds.append(np.concatenate(red) if red else np.empty((0, 2)))
    if any(measured) or len({sum(map(len, parts)) for parts in waiting}) != 1:
        for number, parts in enumerate(waiting):
            measured[number] += [measure_views([part], spec)[0] for part in parts]
    else:
        whole = [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in waiting]
        return measure_views(whole, spec), reds
    return [BlobMeasurements.concatenate(parts) for parts in measured], reds


def _rgb(parts: Mapping[str, Part], window: Window) -> dict[str, NDArray[np.float64]]:
    """PSNR, SSIM and LPIPS of each frame of each view."""
    values: dict[str, list[float]] = {"psnr_db": [], "ssim": []}
    for view, part in parts.items():
        pictures = part.reader.frames(part.frames)
        for made, true in zip(pictures, window.rgb(view), strict=False):
            if made.shape != true.shape:
                raise DecodeError(
                    "camera pictures have another size than the action pictures",
                    where=window.sample.key,
                    field=f"rgb {view}",
                    expected=f"{true.shape[0]}x{true.shape[1]}",
                    found=f"{made.shape[0]}x{made.shape[1]}",
                )
            whole = made if made.dtype == np.uint8 else np.rint(255 * np.clip(made, 0, 1)).astype(np.uint8)
            values["psnr_db"].append(rgb.psnr_db(whole, true))
            values["ssim"].append(rgb.ssim(whole, true))
            perceptual = rgb.lpips_of(whole, true)
            if perceptual is not None:
                values.setdefault("lpips", []).append(perceptual)
    return {name: np.asarray(numbers) for name, numbers in values.items()}


def prediction_scores(scored: Scored) -> PredictionScores:
    """The figures of one prediction, under its name."""
    return PredictionScores(**scores_of([scored]).model_dump(), **scored.about)

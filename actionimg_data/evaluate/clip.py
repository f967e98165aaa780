"""Score one prediction that is in memory, for a training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import DecodeError, FrameCountError
from ..schemas.evaluation import PredictionScores
from ..shards import Sample, Window
from .frames import checked_pictures
from .prediction import Options, about_window, check_sample, check_views, prediction_scores, score_frames
from .score import Scored


def evaluate(
    videos: Mapping[str, Any] | Any,
    sample: Sample,
    start: int = 0,
    stride: int = 1,
    *,
    gripper: str = "",
    protocol: str = "ours",
) -> PredictionScores:
    """What ``actionimg evaluate`` says of one prediction; no file is written or read but the sample's own.

    Args:
        videos: Action videos ``(T, H, W, 3)`` by view, or ``(V, T, H, W, 3)`` in the order of the sample's views;
            uint8, or float in [0, 1]; numpy, or torch on any device.
        sample: Of `open_dataset`.
        start: Frame of the sample that the videos begin with.
        stride: Frames of the sample from one frame of the videos to the next.
        gripper: Whose, where the sample has several.
        protocol: ``published`` adds the published protocol's mean position error.

    Raises:
        InvalidArrayError: A video is none, or holds values that are not finite or outside [0, 1].
        MissingViewError: The sample has no such view.
        FrameCountError: The window ends after the sample, or views differ in length.
        DecodeError, InvalidSpecError, MissingCalibrationError: The videos do not fit the sample.
    """
    return prediction_scores(score_clip(videos, sample, start, stride, gripper=gripper, protocol=protocol))


def score_clip(
    videos: Mapping[str, Any] | Any,
    sample: Sample,
    start: int = 0,
    stride: int = 1,
    *,
    gripper: str = "",
    protocol: str = "ours",
) -> Scored:
    """`evaluate`, with the figures of every frame."""
    check_sample(sample, gripper, protocol)
    options = Options(protocol="published" if protocol == "published" else "ours")
    if not isinstance(videos, Mapping):
        if len(videos) > len(sample.views):
            raise DecodeError(
                "more videos than the sample has views",
                where=sample.key,
                field="videos",
                expected=f"{len(sample.views)}: {' '.join(sample.views)}",
                found=len(videos),
            )
        videos = dict(zip(sample.views, videos, strict=False))
    check_views(list(videos), sample, options)
    pictures = {view: checked_pictures(video, f"{sample.key}: {view}") for view, video in videos.items()}
    shapes = {video.shape for video in pictures.values()}
    if len(shapes) != 1:
        raise FrameCountError(
            "views differ in length or size", where=sample.key, field="videos", found=", ".join(map(str, shapes))
        )
    count, height, width, _ = shapes.pop()
    window = Window.cut(sample, start, count, stride, (height, width), list(pictures))
    found = score_frames({view: iter([video]) for view, video in pictures.items()}, window, gripper, options)
    found.about = {"prediction": 0, **about_window(window, gripper, stride)}
    return found

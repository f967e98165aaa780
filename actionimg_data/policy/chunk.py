"""What a model generated, as poses over the next seconds and how far each can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..decode import DecodedTrajectory, decode
from ..errors import DecodeError, FrameCountError
from ..model import Camera, CameraTrack
from ..schemas import ActionImageSpec

FloatArray = NDArray[np.float64]
_CHANNELS: Final = 3


@dataclass(frozen=True, eq=False)
class ActionChunk:
    """Poses of the next T frames.

    Args:
        action_8d: ``(T, 8)``: x y z, qx qy qz qw, openness; NaN where there is none.
        trust: ``(T,)`` in [0, 1]: probability that the pose is right (`DecodedTrajectory.trust`).
        reason: ``(T,)`` "ok", or why there is no pose.
        times: ``(T,)`` seconds from the observation; the first frame is the observation itself.
    """

    action_8d: FloatArray
    trust: FloatArray
    reason: NDArray[np.str_]
    times: FloatArray

    def __len__(self) -> int:
        return len(self.action_8d)

    @property
    def poses(self) -> FloatArray:
        """``(T, 8)``: another name of ``action_8d``."""
        return self.action_8d

    @classmethod
    def of(cls, decoded: DecodedTrajectory) -> ActionChunk:
        """What was decoded; its first time becomes 0."""
        found = decoded.trajectory
        return cls(found.to_action8(), decoded.trust, decoded.reason, found.times - found.times[0])

    @classmethod
    def from_videos(
        cls,
        videos: Mapping[str, Any],
        cameras: Mapping[str, Camera | CameraTrack],
        spec: ActionImageSpec | None = None,
        *,
        times: ArrayLike | None = None,
        fps: float | None = None,
    ) -> ActionChunk:
        """Decode action videos by view; arguments and errors as for `decode`."""
        return cls.of(decode(dict(videos), {view: cameras[view] for view in videos}, spec, times=times, fps=fps))

    @classmethod
    def from_canvas(
        cls,
        video: Any,
        cameras: Mapping[str, Camera | CameraTrack],
        spec: ActionImageSpec | None = None,
        *,
        fps: float,
        others: int = 0,
    ) -> ActionChunk:
        """Decode the action segments of ``[video₁ | action₁ | video₂ | action₂]``.

        Args:
            video: ``(2 V T, H, W, 3)``, uint8 or float in [0, 1]; or ``(3, 2 V T, H, W)`` float in [-1, 1], as models
                make them. Numpy, or torch on any device.
            cameras: V of them, in order, for the pictures' size.
            spec: How action images are drawn; the published ones by default.
            fps: Frames a second.
            others: Segments between a view's video and its action: depth, masks, normals.

        Raises:
            DecodeError: It is no such video, or cameras and pictures differ in size.
            FrameCountError: It does not divide into (2 + others) V segments.
            InvalidTrajectoryError: The rate is not positive.
        """
        views = len(cameras)
        shape = tuple(video.shape)
        first = len(shape) == 4 and shape[0] == _CHANNELS and shape[-1] != _CHANNELS
        if len(shape) != 4 or not views or not (first or shape[-1] == _CHANNELS):
            raise DecodeError(
                "is no canvas", field="video", expected="(2 V T, H, W, 3) or (3, 2 V T, H, W)", found=str(shape)
            )
        count = shape[1] if first else shape[0]
        each = 2 + others
        if count % (each * views):
            raise FrameCountError(
                "the canvas does not divide into equal segments",
                field="video",
                expected=f"a multiple of {each * views}: {each} segments of {' '.join(cameras)}",
                found=count,
            )
        length = count // (each * views)
        parts = {}
        for i, view in enumerate(cameras):
            segment = slice((each * (i + 1) - 1) * length, each * (i + 1) * length)
            parts[view] = _pictures(video[:, segment]) if first else _array(video[segment])
        return cls.from_videos(parts, cameras, spec, fps=fps)


def _array(pictures: Any) -> NDArray[Any]:
    """As numpy; only the action segments are moved from a device."""
    if hasattr(pictures, "detach"):
        pictures = pictures.detach().cpu()
        pictures = pictures.float() if pictures.dtype.is_floating_point else pictures
        return np.asarray(pictures.numpy())
    return np.asarray(pictures)


def _pictures(planes: Any) -> NDArray[np.uint8]:
    """Channels first in [-1, 1] as pictures ``(T, H, W, 3)`` uint8; what is not finite becomes black."""
    levels = np.nan_to_num(_array(planes), nan=-1.0)
    return np.asarray(np.rint(np.clip((np.moveaxis(levels, 0, -1) + 1) * 127.5, 0, 255)), np.uint8)

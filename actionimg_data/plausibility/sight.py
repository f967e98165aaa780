"""In how many frames each view shows the gripper, and what would explain a view that never does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..geometry import pinhole, transforms
from ..model import CameraTrack, Episode, View

FloatArray = NDArray[np.float64]
_EXPLAINS = 0.5
_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def positions(episode: Episode) -> FloatArray:
    """``(G, T, 3)`` places of the grippers."""
    return np.stack([trajectory.position for trajectory in episode.grippers.values()])


_AXIS_M = 0.1


def keypoints(episode: Episode) -> FloatArray:
    """``(3 G, T, 3)`` what is drawn of the grippers: their places, and 0.1 m along +x and −z of each."""
    points = []
    for trajectory in episode.grippers.values():
        rotation = trajectory.rotation
        place = trajectory.position
        points += [place, place + _AXIS_M * rotation[..., 0], place - _AXIS_M * rotation[..., 2]]
    return np.stack(points)


def pixels(view: View, points: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Pixels ``(N, T, 2)`` of points ``(N, T, 3)`` in a view with a camera, and which lie in the picture ``(N, T)``."""
    camera = view.camera
    assert camera is not None
    moving = isinstance(camera, CameraTrack)
    pose = camera.world_from_camera if moving else np.broadcast_to(camera.world_from_camera, (points.shape[1], 4, 4))
    K = camera.K if moving else np.broadcast_to(camera.K, (points.shape[1], 3, 3))
    return _seen(points, K, pose, camera.width, camera.height)


def _seen(
    points: FloatArray, K: FloatArray, pose: FloatArray, width: int, height: int
) -> tuple[FloatArray, NDArray[np.bool_]]:
    uv, _, valid = pinhole.project(np.swapaxes(points, 0, 1), K, pose)
    uv, valid = np.swapaxes(np.asarray(uv), 0, 1), np.swapaxes(np.asarray(valid), 0, 1)
    inside = valid & (uv >= 0).all(-1) & (uv[..., 0] <= width - 1) & (uv[..., 1] <= height - 1)
    return uv, inside


def in_view(episode: Episode) -> dict[str, float]:
    """Of each view with a camera the share of the frames in which it shows any point that is drawn of a gripper."""
    points = keypoints(episode)
    return {
        name: float(pixels(view, points)[1].any(0).mean())
        for name, view in episode.views.items()
        if view.camera is not None
    }


def why_out_of_view(episode: Episode, name: str) -> list[str]:
    """What would make a view show the gripper, most likely first, in words; each was tried."""
    return [text for text, view in _alternatives(episode, name) if _share(episode, view) >= _EXPLAINS]


def _share(episode: Episode, view: View) -> float:
    return float(pixels(view, keypoints(episode))[1].any(0).mean())


def _with_pose(view: View, pose: FloatArray) -> View:
    camera = view.camera
    assert camera is not None
    return replace(view, camera=type(camera)(camera.K, pose, camera.width, camera.height, camera.pixel_centre))


def _alternatives(episode: Episode, name: str) -> Iterator[tuple[str, View]]:
    view = episode.views[name]
    camera = view.camera
    assert camera is not None
    pose = camera.world_from_camera
    inverse = np.asarray(transforms.invert(pose))
    yield "its pose is the inverse: camera_from_world called world_from_camera", _with_pose(view, inverse)
    yield "its axes are OpenGL's (y up, z backward)", _with_pose(view, pose @ _OPENGL)
    for factor, text in ((1e-3, "the translation of its pose is in millimetres"), (1e3, "... in metres, divided")):
        scaled = pose.copy()
        scaled[..., :3, 3] *= factor
        text = text if factor < 1 else "the translation of its pose was divided by 1000 once too often"
        yield text, _with_pose(view, scaled)
    for other, theirs in _others(episode.views, name).items():
        yield (
            f"it has the camera of another view: that of {other} shows the gripper",
            replace(view, camera=theirs.camera),
        )
    for factor, text in ((1e-3, "the poses are millimetres, called metres"), (1e3, "the poses are metres, called mm")):
        K = camera.K
        moved = pose.copy()
        moved[..., :3, 3] /= factor
        # To scale the poses is to scale the cameras the other way.
        yield text, replace(view, camera=type(camera)(K, moved, camera.width, camera.height, camera.pixel_centre))


def _others(views: Mapping[str, View], name: str) -> dict[str, View]:
    mine = views[name].camera
    return {
        n: v
        for n, v in views.items()
        if n != name
        and v.camera is not None
        and mine is not None
        and isinstance(v.camera, CameraTrack) == isinstance(mine, CameraTrack)
        and (v.camera.width, v.camera.height) == (mine.width, mine.height)
    }

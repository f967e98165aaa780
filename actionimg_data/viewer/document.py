"""What a sample's page is drawn from: numbers by frame, cameras, where it came from, and commands to copy."""

from __future__ import annotations

import shlex
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..geometry import rotations
from ..model import CameraTrack, GripperTrajectory
from ..raster import project_keypoints
from ..schemas import ActionImageSpec
from ..shards.read import Sample
from ..shards.verify import decode_sample
from ..video import ENDINGS

DIGITS: Final = 5
BROWSER_CODEC: Final = "h264"
"""What every browser plays; videos of other codecs are made again."""


def numbers(values: ArrayLike, digits: int = DIGITS) -> Any:
    """Nested lists of rounded numbers; what is not finite is None."""
    array = np.asarray(values, np.float64)
    rounded = np.round(array, digits) + 0.0
    if np.isfinite(array).all():
        return rounded.tolist()
    return np.where(np.isfinite(array), rounded.astype(object), np.array(None, object)).tolist()


def document(number: int, sample: Sample, where: str) -> dict[str, Any]:
    """A sample, but for its videos.

    Args:
        number: Its number in the index.
        sample: The sample.
        where: The data set, as the user names it.

    Raises:
        CorruptDatasetError: A member is damaged.
    """
    meta = sample.meta
    calibrated = meta.calibrated
    cameras = sample.cameras if calibrated else {}
    spec = sample.spec
    assert spec is not None
    times = sample.times
    return {
        "number": number,
        "key": sample.key,
        "meta": meta.model_dump(mode="json", exclude={"sync_residual_s"}),
        "frames": len(sample),
        "fps": sample.fps,
        "times": numbers(times - times[0]),
        "sync_ms": numbers(1000 * np.asarray(meta.sync_residual_s), 3),
        "spec": {"pedestal": spec.pedestal, "axis_length": spec.axis_length, "fov_scale": spec.fov_scale},
        "grippers": [{"name": name, **_gripper(path)} for name, path in sample.grippers.items()],
        "cameras": [_camera(view, track) for view, track in cameras.items()],
        "keypoints": _keypoints(sample, cameras, spec),
        "videos": _videos(number, sample),
        "members": {name: sample.size(name) for name in sample.members},
        "commands": commands(sample, where),
        "decodable": calibrated and meta.action_codec != "none",
    }


def _gripper(path: GripperTrajectory) -> dict[str, Any]:
    angles = np.full((len(path), 3), np.nan)
    if path.known.any():
        euler = np.asarray(rotations.euler_from_matrix(path.rotation[path.known]))
        angles[path.known] = np.degrees(np.unwrap(euler, axis=0))
    return {
        "position": numbers(path.position),
        "quaternion": numbers(path.quaternion_xyzw),
        "euler_deg": numbers(angles, 3),
        "openness": numbers(path.openness, 4),
    }


def _camera(view: str, track: CameraTrack) -> dict[str, Any]:
    shown = slice(0, 1) if track.is_static else slice(None)
    return {
        "view": view,
        "moves": not track.is_static,
        "K": numbers(track.K[shown], 3),
        "world_from_camera": numbers(track.world_from_camera[shown]),
        "width": track.width,
        "height": track.height,
    }


def _keypoints(sample: Sample, cameras: dict[str, CameraTrack], spec: ActionImageSpec) -> dict[str, Any]:
    """By view, for each gripper, where the three keypoints fall: ``(T, 3, 2)`` as shares of the picture, or None."""
    if not cameras:
        return {}
    size = np.array([spec.width, spec.height])
    found: dict[str, Any] = {view: [] for view in cameras}
    for path in sample.grippers.values():
        uv, valid = project_keypoints(path, cameras, spec.over_camera())
        shares = np.where(valid[..., None], (uv + 0.5) / size, np.nan)
        for view, share in zip(cameras, shares, strict=True):
            found[view].append(numbers(share, 4))
    return found


def _videos(number: int, sample: Sample) -> list[dict[str, Any]]:
    """For each view where its videos are: members that a browser plays as they are, others made again."""
    meta = sample.meta

    def address(kind: str, codec: str, view: str, gripper: str = "") -> str:
        if codec == BROWSER_CODEC:
            name = f"{view}.{kind}{f'.{gripper}' if gripper else ''}.{ENDINGS[codec]}"
            return f"member/{number}/{name}"
        return f"video/{number}/{kind}/{view}{f'/{gripper}' if gripper else ''}"

    found = []
    for view in meta.views:
        action = {}
        if meta.calibrated:
            action = {name: address("action", meta.action_codec, view, name) for name in sample.action_names}
            if meta.action_codec == "none":
                action = {name: address("action", "none", view, name) for name in meta.grippers or ("",)}
        found.append(
            {
                "view": view,
                "rgb": address("rgb", meta.rgb_codec, view),
                "action": action,
                "planes": {kind: address(kind, "ffv1", view) for kind in meta.planes},
            }
        )
    return found


def commands(sample: Sample, where: str) -> dict[str, str]:
    """Commands and code about a sample, to copy."""
    key, out = shlex.quote(sample.key), shlex.quote(where)
    return {
        "inspect": f"actionimg inspect {out} --key {key}",
        "rerun": f"actionimg export rerun {out} {key}.rrd --sample {key} --pictures jpeg && rerun {key}.rrd",
        "window": f"actionimg export window {out} {key}",
        "python": f"import actionimg_data as aid\n\nsample = aid.open_dataset({where!r})[{sample.key!r}]",
    }


def decoded(sample: Sample) -> dict[str, Any]:
    """What a sample's action videos decode to, against its trajectory, frame by frame and gripper by gripper.

    Raises:
        BadVideoError, DecodeError: A video is damaged, or does not fit the spec.
    """
    assert sample.spec is not None
    found = []
    for name, made in decode_sample(sample, sample.spec).items():
        truth = sample.grippers[name]
        both = made.valid & truth.known
        position, rotation = np.full(len(truth), np.nan), np.full(len(truth), np.nan)
        position[both] = 1000 * np.linalg.norm(made.trajectory.position[both] - truth.position[both], axis=-1)
        angle = rotations.angle_between(made.trajectory.rotation[both], truth.rotation[both])
        rotation[both] = np.degrees(np.asarray(angle))
        found.append(
            {
                "name": name,
                "position_mm": numbers(position, 3),
                "rotation_deg": numbers(rotation, 3),
                "trust": numbers(made.trust, 3),
                "reason": [] if made.valid.all() else [str(reason) for reason in made.reason],
                "position": numbers(made.trajectory.position),
            }
        )
    return {"grippers": found}


def trail(sample: Sample, view: str, height: int, width: int) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Where each gripper's origin goes in a picture of a size: ``(T, 2)`` pixels, and in which frames it is seen."""
    spec = sample.spec
    if spec is None or not sample.meta.calibrated:
        return []
    camera = {view: sample.cameras[view]}
    found = []
    for path in sample.grippers.values():
        uv, valid = project_keypoints(path, camera, spec.over_camera())
        scale = np.array([width / spec.width, height / spec.height])
        found.append(((uv[0, :, 0] + 0.5) * scale - 0.5, valid[0, :, 0]))
    return found

"""Cameras that programs estimate from pictures alone (VGGT, DUSt3R, COLMAP), in a frame and a scale of their own.

A model may be conditioned on them (relative poses, Plücker rays). Nothing can be drawn with them: where the robot is in
their frame nobody knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    BadFileError,
    FrameCountError,
    InvalidCameraError,
    MissingCalibrationError,
    SourceNotFoundError,
    WrongFormatError,
)
from ..geometry import crop, transforms
from ..model import CameraTrack, Episode
from ..untrusted.arrays import load_npy, load_npz
from ..untrusted.files import read_bytes
from .calibrated import CalibratedCamera
from .colmap import CAMERAS, IMAGES, MAX_BYTES, colmap
from .tracks import CAMERA_FIELDS, tracks_from

FloatArray = NDArray[np.float64]
MAX_FILE: Final = 64 << 20
EPISODE: Final = "{episode}"
"""Stands for an episode's id in a place that is different for each."""

_TO_CAMERA: Final = ("extrinsic", "extrinsics", "camera_from_world")
"""Names of world-to-camera poses: what VGGT calls extrinsic."""
_FROM_CAMERA: Final = ("cams2world", "cam2world", "im_poses", "poses", "pose", "world_from_camera")
"""Names of camera-to-world poses: what DUSt3R's ``get_im_poses`` gives."""
_INTRINSICS: Final = ("intrinsic", "intrinsics", "K")
_FOCALS: Final = ("focals", "focal")
_PRINCIPAL: Final = ("principal_points", "principal_point", "pp")
_SIZES: Final = ("width", "height")
_NAMES: Final = (*_TO_CAMERA, *_FROM_CAMERA, *_INTRINSICS, *_FOCALS, *_PRINCIPAL, *_SIZES, "views")
_SQUEEZE: Final = 0.03
"""Largest difference in aspect: such programs round their pictures' sides to multiples of 14 or 16."""
_WHOLE_PX: Final = 0.02
_NEAR: Final = 0.1

Sizes = Mapping[str, tuple[int, int]]
"""Views of an episode, in order, with the width and height of their pictures."""


def with_conditioning(episode: Episode, place: str) -> Episode:
    """The episode with the estimated cameras of its views beside its own.

    Args:
        episode: As its source has it, all views.
        place: Where the cameras are; ``{episode}`` in it stands for the episode's id. A folder with VGGT's or DUSt3R's
            ``.npy`` files or with COLMAP's ``cameras`` and ``images`` (``.txt`` or ``.bin``, also below ``sparse/0``),
            or an ``.npz``. Rows of arrays are the views in the source's order, unless ``views`` names them.

    Raises:
        SourceNotFoundError: Nothing is there.
        WrongFormatError, BadFileError, UnsafeFileError: It is none of these.
        MissingCalibrationError: A view has none.
        InvalidCameraError, FrameCountError: A camera is for pictures of another shape, or of another number.
    """
    path = Path(place.replace(EPISODE, episode.id))
    sizes = {name: (view.frames.width, view.frames.height) for name, view in episode.views.items()}
    kind, found, files = _read(path, sizes, len(episode))
    views = {}
    for name, view in episode.views.items():
        if name not in found:
            raise MissingCalibrationError(
                "has no camera of this view", where=path, field=name, expected=" ".join(found)
            )
        track = _fitted(found[name], view.frames.width, view.frames.height, f"{path}: {name}")
        if len(track) == 1:
            views[name] = replace(view, conditioning=track[0])
        elif len(track) == len(episode):
            views[name] = replace(view, conditioning=track)
        else:
            raise FrameCountError(
                "is of another number of pictures", where=path, field=name, expected=len(episode), found=len(track)
            )
    record = {"kind": kind, "file": path.name, "sha256": _digest(files)}
    return replace(episode, views=views, provenance={**episode.provenance, "conditioning": record})


def _read(path: Path, views: Sizes, frames: int) -> tuple[str, dict[str, CameraTrack], list[Path]]:
    """What kind of estimate it is; the cameras by view: of one picture, or of every picture; and the files read."""
    files = [path]
    if path.is_file() and path.suffix == ".npz":
        arrays: dict[str, NDArray[Any]] = load_npz(path, path, MAX_FILE)
    elif path.is_file() and path.name in IMAGES:
        return "colmap", _colmap(path, views), [path.with_name(CAMERAS[IMAGES.index(path.name)]), path]
    elif path.is_dir():
        for folder in (path, path / "sparse" / "0"):
            for images in (folder / name for name in IMAGES):
                if images.is_file():
                    return _read(images, views, frames)
        files = [f for f in sorted(path.glob("*.npy")) if f.stem in _NAMES]
        arrays = {f.stem: load_npy(read_bytes(f, MAX_FILE), f) for f in files}
        if not arrays:
            raise WrongFormatError(
                "holds no estimated cameras",
                where=path,
                expected="extrinsic.npy and intrinsic.npy, poses.npy and focals.npy, or COLMAP's cameras and images",
            )
    else:
        raise SourceNotFoundError("no estimated cameras", where=path, expected="a folder, an .npz or COLMAP's images")
    if set(CAMERA_FIELDS) <= set(arrays):
        return "cameras.npz", tracks_from(arrays, path), files
    try:
        return (*_of_arrays(arrays, path, views, frames), files)
    except InvalidCameraError as error:
        raise error.at(path) from None


def _of_arrays(
    arrays: Mapping[str, NDArray[Any]], where: Path, views: Sizes, frames: int
) -> tuple[str, dict[str, CameraTrack]]:
    to_camera, from_camera = _one(arrays, _TO_CAMERA), _one(arrays, _FROM_CAMERA)
    if (to_camera is None) == (from_camera is None):
        raise WrongFormatError(
            "must hold world-to-camera or camera-to-world poses",
            where=where,
            expected=f"{' | '.join(_TO_CAMERA)}, or {' | '.join(_FROM_CAMERA)}",
            found=" ".join(arrays),
        )
    key, given = to_camera or from_camera  # type: ignore[misc]
    names = tuple(map(str, arrays["views"])) if "views" in arrays else tuple(views)
    pose = _by_view(_numbers(given, where, key), 2, len(names), frames, where, key)
    if pose.shape[-2:] == (3, 4):
        last = np.broadcast_to([[0.0, 0.0, 0.0, 1.0]], (*pose.shape[:-2], 1, 4))
        pose = np.concatenate([pose, last], axis=-2)
    if to_camera is not None:
        pose = np.asarray(transforms.invert(pose))
    K = _intrinsics(arrays, len(names), frames, where)
    count = max(pose.shape[1], K.shape[1])
    tracks = {}
    for i, name in enumerate(names):
        width, height = _size(arrays, K[i], views.get(name), where, name)
        k, p = (np.broadcast_to(part, (count, *part.shape[1:])) for part in (K[i], pose[i]))
        tracks[name] = CameraTrack(k, p, width, height)
    return ("vggt" if to_camera is not None else "dust3r"), tracks


def _one(arrays: Mapping[str, NDArray[Any]], names: Sequence[str]) -> tuple[str, NDArray[Any]] | None:
    return next(((name, arrays[name]) for name in names if name in arrays), None)


def _numbers(value: NDArray[Any], where: Path, key: str) -> FloatArray:
    if value.dtype.kind not in "fiu" or not np.isfinite(value).all():
        raise BadFileError("is not finite numbers", where=where, field=key, found=value.dtype)
    return value.astype(np.float64)


def _by_view(value: FloatArray, inner: int, views: int, frames: int, where: Path, key: str) -> FloatArray:
    """``(V, T or 1, …)`` of ``(V, …)``, ``(V, T, …)``, of a batch of one of either, or of one view ``(T, …)``."""
    outer = value.shape[: value.ndim - inner]
    if len(outer) > 1 and outer[0] == 1 and outer[1] in (views, frames) and (views > 1 or len(outer) > 2):
        value, outer = value[0], outer[1:]
    if len(outer) == 1 and outer[0] == views:
        return value[:, None]
    if len(outer) == 1 and views == 1 and outer[0] == frames:
        return value[None]
    if len(outer) == 2 and outer[0] == views and outer[1] in (1, frames):
        return value
    raise BadFileError(
        "does not fit the episode's views and pictures",
        where=where,
        field=key,
        expected=f"({views}, …) or ({views}, {frames}, …)",
        found=value.shape,
    )


def _intrinsics(arrays: Mapping[str, NDArray[Any]], views: int, frames: int, where: Path) -> FloatArray:
    """``(V, T or 1, 3, 3)``."""
    given = _one(arrays, _INTRINSICS)
    if given is not None:
        K = _numbers(given[1], where, given[0])
        if K.shape[-2:] != (3, 3):
            raise BadFileError("is no 3x3 matrix", where=where, field=given[0], found=K.shape)
        return _by_view(K, 2, views, frames, where, given[0])
    focal, centre = _one(arrays, _FOCALS), _one(arrays, _PRINCIPAL)
    if focal is None or centre is None:
        raise WrongFormatError(
            "holds no intrinsics",
            where=where,
            expected=f"{' | '.join(_INTRINSICS)}, or focals and principal_points",
            found=" ".join(arrays),
        )
    lengths = _numbers(focal[1], where, focal[0])
    # DUSt3R's get_focals gives (V, 1).
    lengths = lengths[..., 0] if lengths.ndim > 1 and lengths.shape[-1] == 1 else lengths
    lengths = _by_view(lengths, 0, views, frames, where, focal[0])
    centres = _by_view(_numbers(centre[1], where, centre[0]), 1, views, frames, where, centre[0])
    shape = np.broadcast_shapes(lengths.shape, centres.shape[:-1])
    K = np.zeros((*shape, 3, 3))
    K[..., 0, 0] = K[..., 1, 1] = lengths
    K[..., :2, 2] = centres
    K[..., 2, 2] = 1.0
    return K


def _size(
    arrays: Mapping[str, NDArray[Any]], K: FloatArray, own: tuple[int, int] | None, where: Path, view: str
) -> tuple[int, int]:
    """Width and height of the pictures that a K is for.

    As stated; else twice the principal point, which such programs put into the middle of what they look at; else the
    size of the view's own pictures, where the principal point is near their middle.
    """
    if all(name in arrays for name in _SIZES):
        return int(arrays["width"]), int(arrays["height"])
    twice = 2 * K[0, :2, 2]
    if np.abs(twice - np.rint(twice)).max() <= _WHOLE_PX and np.abs(K[:, :2, 2] - K[0, :2, 2]).max() <= _WHOLE_PX:
        return int(np.rint(twice[0])), int(np.rint(twice[1]))
    if own is not None and np.abs(twice / own - 1).max() < _NEAR:
        return own
    raise InvalidCameraError(
        "does not say for which size of pictures it is, and its principal point is not their centre",
        where=where,
        field=view,
        expected="width and height beside the intrinsics",
        found=f"principal point {K[0, 0, 2]:g} {K[0, 1, 2]:g}",
    )


def _colmap(path: Path, views: Sizes) -> dict[str, CameraTrack]:
    """Cameras by view of pictures that are called ``VIEW.png``, or of all that lie in a folder ``VIEW/``."""
    pictures = colmap(path, keyed=str)
    tracks = {}
    for view in views:
        own = sorted(
            n for n in pictures if Path(n).stem == view or (len(Path(n).parts) > 1 and Path(n).parts[0] == view)
        )
        cameras = [_straight(pictures[n], f"{path}: {n}").camera(path) for n in own]
        if cameras:
            first = cameras[0]
            K, pose = np.stack([c.K for c in cameras]), np.stack([c.world_from_camera for c in cameras])
            tracks[view] = CameraTrack(K, pose, first.width, first.height, first.pixel_centre)
    return tracks


def _straight(camera: CalibratedCamera, where: str) -> CalibratedCamera:
    if camera.distortion is not None and not camera.distortion.is_zero:
        raise InvalidCameraError(
            "the lens distorts; pictures are taken as undistorted",
            where=where,
            hint="colmap image_undistorter writes undistorted pictures and their cameras.",
        )
    return camera


def _fitted(track: CameraTrack, width: int, height: int, where: str) -> CameraTrack:
    """The camera for pictures of the view's size: its own were those scaled, with sides rounded."""
    if (track.width, track.height) == (width, height):
        return track
    ratio = (width / track.width) / (height / track.height)
    if abs(ratio - 1) > _SQUEEZE:
        raise InvalidCameraError(
            "pictures and estimated camera differ in aspect",
            where=where,
            expected=f"{track.width}x{track.height} or a multiple of it",
            found=f"{width}x{height}",
            hint="Were the pictures cropped or padded before? State the camera for whole pictures, with width, height.",
        )
    part = crop.CropResize(0, 0, track.width, track.height, width, height)
    K = np.asarray(crop.apply_to_K(track.K, part, track.pixel_centre))
    return CameraTrack(K, track.world_from_camera, width, height, track.pixel_centre)


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(read_bytes(file, MAX_BYTES))
    return digest.hexdigest()

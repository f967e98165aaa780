"""What a model is given of an observation: the tensors of a training sample whose first frame it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import BadImageError, InvalidCameraError, InvalidSpecError, MissingViewError
from ..geometry import transforms
from ..geometry.crop import center_crop
from ..model import Camera, CameraTrack, GripperTrajectory
from ..raster import WRIST_DISTANCE, held_camera, project_keypoints, render_view, wrist_spec
from ..schemas import ActionImageSpec


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The tensors of a training sample (`ActionImageDataset`) of V views and T frames, whose first frame is known.

    Later frames of ``video`` and ``action_video`` are black: they are for the model to make. All are torch tensors, or
    numpy arrays where that was asked for.
    """

    text: str
    video: Any
    """``(3, V T, H, W)`` float32 in [-1, 1]."""
    action_video: Any
    """``(3, V T, H, W)`` float32 in [-1, 1]."""
    camera: Any
    """``(V T, 12)`` float32: 3x4 poses relative to frame 0 of the first view."""
    extrinsics: Any
    """``(V T, 4, 4)`` float32 camera-to-world."""
    intrinsics: Any
    """``(V T, 3, 3)`` float32."""
    plucker: Any
    """``(6, V T, H, W)`` float32."""
    condition_mask: Any
    """``(2 V T,)`` bool over [video₁ | action₁ | video₂ | action₂], more with ``others``."""
    used_mask: Any
    """``(2 V T,)`` bool."""
    condition_mask_latent: Any
    """``(2 V L,)`` bool."""
    used_mask_latent: Any
    """``(2 V L,)`` bool."""
    mode: str
    view_names: tuple[str, ...]
    cameras: Mapping[str, CameraTrack]
    """The cameras of the action images that the model makes, for `ActionChunk`."""
    pixels: Mapping[str, NDArray[np.float64]]
    """``(7,)`` by view: x y of red, green and blue, and the openness, as the published inference takes them."""

    @classmethod
    def from_observation(
        cls,
        pictures: Mapping[str, NDArray[np.uint8]],
        cameras: Mapping[str, Camera | CameraTrack],
        pose: ArrayLike,
        instruction: str,
        spec: ActionImageSpec | None = None,
        size: int | tuple[int, int] = 512,
        num_frames: int = 41,
        *,
        mode: str = "joint",
        axes: str = "rlbench",
        latent_stride: int = 4,
        others: int = 0,
        wrist_views: Sequence[str] = (),
        wrist_distance: float = WRIST_DISTANCE,
        arrays: str = "torch",
    ) -> Conditioning:
        """The tensors of an observation.

        Args:
            pictures: What each camera sees, ``(H, W, 3)`` uint8 RGB, in the order of the model's views; centre-cropped
                to the aspect of ``size`` and scaled, as the training loader does.
            cameras: Of the same views, for those pictures; a `CameraTrack` of ``num_frames`` frames where it is known
                how a camera will move, else it is taken to stand still.
            pose: ``(8,)`` of the gripper: x y z, qx qy qz qw, openness; the canonical frame, world axes.
            instruction: What to do, in words.
            spec: How action images are drawn; the published ones by default.
            size: Of the model's pictures: N, or height and width.
            num_frames: T.
            mode: Which task (`training.modes.MODES`).
            axes: Of ``camera``, ``extrinsics`` and ``intrinsics``: as the model was trained, ``rlbench`` or ``opencv``.
            latent_stride: Frames a latent frame.
            others: Segments between a view's video and its action (depth, masks, normals), for which the masks have
                places.
            wrist_views: Views whose action images are drawn as `ActionImageDataset(wrist_views=…)` draws them, from a
                camera that is held ``wrist_distance`` metres before the gripper; ``cameras`` and ``pixels`` have it.
            wrist_distance: Metres.
            arrays: ``torch`` or ``numpy``.

        Raises:
            MissingViewError: Pictures and cameras are of different views, or a wrist view is none of them.
            BadImageError: A picture is not uint8 RGB of its camera's size.
            InvalidTrajectoryError: The pose is none.
            InvalidCameraError: A camera track of another length.
            InvalidSpecError: A choice that does not exist.
        """
        import torch

        from ..training.modes import task
        from ..training.published import LEVELS, camera_arrays, float_tensor, plucker_video, resized_picture

        for field, value, allowed in (("axes", axes, ("rlbench", "opencv")), ("arrays", arrays, ("torch", "numpy"))):
            if value not in allowed:
                raise InvalidSpecError("no such choice", field=field, expected=" | ".join(allowed), found=value)
        height, width = (size, size) if isinstance(size, int) else size
        views = tuple(pictures)
        if set(views) != set(cameras) or not views:
            raise MissingViewError(
                "pictures and cameras are of different views",
                field="cameras",
                expected=" ".join(views) or "at least 1 view",
                found=" ".join(cameras) or "none",
            )
        strange = [view for view in wrist_views if view not in views]
        if strange:
            raise MissingViewError("no such view", field="wrist_views", expected=" ".join(views), found=strange[0])
        masks = task(mode, num_frames, len(views), latent_stride, others=others)
        tracks = {view: _track(cameras[view], view, num_frames) for view in views}
        fitted = [tracks[view].resized(height, width) for view in views]
        drawn_spec = (spec or ActionImageSpec()).resized(height, width)
        gripper = GripperTrajectory.from_action8(np.asarray(pose, np.float64)[None], [0.0])
        levels = np.full((2, 3, len(views) * num_frames, height, width), LEVELS[0], np.float32)
        pixels, drawn_by = {}, dict(zip(views, fitted, strict=True))
        for i, view in enumerate(views):
            source = tracks[view]
            picture = _checked(pictures[view], source, view)
            first = resized_picture(picture, center_crop(source.height, source.width, height, width))
            own = drawn_spec
            if view in wrist_views:
                held = held_camera(fitted[i][:1], {"": gripper}, wrist_distance)
                drawn_by[view], own = held.track(num_frames), wrist_spec(drawn_spec, wrist_distance)
            action = render_view(gripper, drawn_by[view][:1], own)[0]
            for target, shown in zip(levels, (first, action), strict=True):
                target[:, i * num_frames] = LEVELS[np.moveaxis(shown, -1, 0)]
            pixels[view] = _pixels(gripper, drawn_by[view], own, view)
        intrinsics, extrinsics = camera_arrays(fitted, num_frames, axes)
        relative = transforms.invert(extrinsics[0, 0]) @ extrinsics
        flat = (len(views) * num_frames,)
        made = cls(
            text=instruction,
            video=torch.from_numpy(levels[0]),
            action_video=torch.from_numpy(levels[1]),
            camera=float_tensor(relative[..., :3, :].reshape(*flat, 12)),
            extrinsics=float_tensor(extrinsics.reshape(*flat, 4, 4)),
            intrinsics=float_tensor(intrinsics.reshape(*flat, 3, 3)),
            plucker=plucker_video(relative, intrinsics, fitted, height, width),
            condition_mask=torch.from_numpy(masks.given),
            used_mask=torch.from_numpy(masks.used),
            condition_mask_latent=torch.from_numpy(masks.given_latent),
            used_mask_latent=torch.from_numpy(masks.used_latent),
            mode=mode,
            view_names=views,
            cameras=drawn_by,
            pixels=pixels,
        )
        return made if arrays == "torch" else made._as_numpy()

    def published_arguments(self) -> list[str]:
        """The published inference's arguments: ``--view1_action`` and its seven numbers, and so on."""
        words = []
        for i, numbers in enumerate(self.pixels.values(), 1):
            words += [f"--view{i}_action", *(f"{number:.6g}" for number in numbers)]
        return words

    def _as_numpy(self) -> Conditioning:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Conditioning(**{n: v.numpy() if hasattr(v, "detach") else v for n, v in values.items()})


def _track(camera: Camera | CameraTrack, view: str, num_frames: int) -> CameraTrack:
    if isinstance(camera, Camera):
        return camera.track(num_frames)
    if len(camera) not in (1, num_frames):
        raise InvalidCameraError(
            "is of another number of frames", field=view, expected=f"1 or {num_frames}", found=len(camera)
        )
    return camera if len(camera) == num_frames else camera[0].track(num_frames)


def _checked(picture: NDArray[np.uint8], camera: CameraTrack, view: str) -> NDArray[np.uint8]:
    found = np.asarray(picture)
    if found.dtype != np.uint8 or found.shape != (camera.height, camera.width, 3):
        raise BadImageError(
            "is not a picture of its camera",
            field=view,
            expected=f"uint8 ({camera.height}, {camera.width}, 3)",
            found=f"{found.dtype} {found.shape}",
        )
    return found


def _pixels(gripper: GripperTrajectory, camera: CameraTrack, spec: ActionImageSpec, view: str) -> NDArray[np.float64]:
    uv, valid = project_keypoints(gripper, [camera[:1]], spec)
    if not valid.all():
        raise InvalidCameraError(
            "a point of the gripper is behind the camera, so that no pixel shows it",
            field=view,
            expected=f"depth over {spec.near:g} m",
            found=" ".join(name for name, ok in zip(("red", "green", "blue"), valid[0, 0], strict=True) if not ok),
        )
    return np.concatenate([uv[0, 0].ravel(), gripper.openness])

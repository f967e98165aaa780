"""A training sample as the published code reads it, cut out of a stored sample.

Formulas as in the published training code (arXiv 2604.06168); what it leaves to chance is stated here: frames past the
end of an episode are black, marked in ``valid`` and have index -1, and the frame rate is part of the sample.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..codecs import (
    MOST_LABELS,
    DepthCodec,
    encode_labels,
    encode_normals,
    largest_labels,
    normals_from_depth,
)
from ..errors import CorruptDatasetError, EmptyEpisodeError, InvalidSpecError
from ..geometry import transforms
from ..geometry.axes import rotate_half_turn
from ..geometry.crop import center_crop
from ..geometry.drawing import action_K
from ..model import CameraTrack, GripperTrajectory
from ..raster import held_camera, render_planes, wrist_spec
from ..schemas import ActionImageSpec, SampleMeta
from ..schemas.dataset import parse
from ..shards import layout
from ..shards import sample as stored
from ..video import ENDINGS, open_video
from ..video.read import VideoReader
from ..video.resize import resized_planes
from .decoding import check_decoder, open_pictures
from .members import Member
from .modes import draw, latent_mask, task, without_actions
from .options import SampleOptions, Segment, Stream
from .published import LEVELS, camera_arrays, float_tensor, plucker_video, resized_picture
from .source import ShardSource

_RATE_TOLERANCE: Final = 1e-3
ANY_START: Final = -1
"""Where no member is of windows, any start will do."""


class Drawn(NamedTuple):
    """What is drawn of a sample: the window's first frame, its views and task, which instruction, and whether any."""

    start: int
    views: tuple[str, ...]
    mode: str
    pick: float
    silent: bool


class SampleReader:
    """Reads windows of a source's samples.

    Raises:
        InvalidSpecError: The source has too few views, lacks a view, or stores no action images that are asked for.
    """

    def __init__(self, source: ShardSource, options: SampleOptions) -> None:
        self.source, self.options = source, options
        options.warn_if_unusual()
        check_decoder(options.decoder)
        stored_options = source.manifest.options
        names = source.views if options.view_names is None else options.view_names
        missing = [name for name in names if name not in source.views]
        if missing:
            raise InvalidSpecError(
                "has no such view",
                where=source.path,
                field="view_names",
                expected=" ".join(source.views),
                found=missing[0],
            )
        if len(set(names)) < options.views or len(set(names)) != len(names):
            raise InvalidSpecError(
                "has too few views",
                where=source.path,
                field="views",
                expected=f"{options.views} different ones",
                found=f"{len(names)}: {' '.join(names)}",
                hint="A view is never shown twice in its place.",
            )
        self.members = tuple(Member(source, name, options) for name in options.members)
        """Derived members that are given, too."""
        reads = {kind for member in self.members for kind in member.manifest.reads}
        self.with_video = "pictures" not in reads if options.video is None else options.video
        self.action = options.action if options.said("action") or "actions" not in reads else "none"
        self.plucker = options.plucker and (options.said("plucker") or self.with_video)
        self.modes = dict(options.modes) if source.calibrated else without_actions(options.modes, source.path)
        """Odds of the tasks that are drawn: those of the options that the source has what it takes for."""
        if source.calibrated and self.action in ("stored", "both") and stored_options.action_codec == "none":
            raise InvalidSpecError(
                "stores no action images",
                where=source.path,
                field="action",
                expected="rendered | none",
                found=options.action,
            )
        strange = [name for name in options.wrist_views if name not in source.views]
        if strange:
            raise InvalidSpecError(
                "has no such view",
                where=source.path,
                field="wrist_views",
                expected=" ".join(source.views),
                found=strange[0],
            )
        self._check_streams()
        self.names = tuple(names)
        self._has = source.has_views(self.names)
        self.grippers = source.manifest.grippers
        self._merged = len(self.grippers) > 1 and (
            options.arms == "merged" or (options.arms == "auto" and stored_options.merge_arms)
        )
        """Whether all grippers are in one action picture."""
        self.spec = source.spec.resized(options.height, options.width)
        self._own_cameras = (
            bool(options.wrist_views) or self.spec.fov_scale != 1 or self.spec.pixel_centre != "published"
        )
        """Whether action images are drawn into other cameras than the video's, so that samples have both."""
        self._crop = center_crop(stored_options.height, stored_options.width, options.height, options.width)
        self._salt = int(source.manifest.plan[:16], 16)
        if options.fps is None and len(source) and float(np.ptp(source.fps)) > _RATE_TOLERANCE * float(source.fps[0]):
            raise InvalidSpecError(
                "samples differ in frame rate",
                where=source.path,
                field="fps",
                expected="the rate to bring them to",
                found=", ".join(f"{rate:g}" for rate in np.unique(source.fps)[:8]),
            )

    def _check_streams(self) -> None:
        stored_options, options, where = self.source.manifest.options, self.options, self.source.path
        missing = [name for name in self._plane_kinds if name not in stored_options.planes]
        if missing:
            raise InvalidSpecError(
                "does not store it",
                where=where,
                field="streams, segments",
                expected=", ".join(stored_options.planes) or "none",
                found=" ".join(missing),
                hint="actionimg convert --depth --masks stores them where the source has them.",
            )
        if "normals" in options.segments and self.source.camera_frame == "none":
            raise InvalidSpecError(
                "has no cameras, without which there are no normals", where=where, field="segments", found="normals"
            )
        if options.arms == "separate" and stored_options.merge_arms and options.action in ("stored", "both"):
            raise InvalidSpecError(
                "its action images show all grippers together",
                where=where,
                field="arms",
                expected="merged, or action='rendered'",
                found="separate",
            )

    @property
    def _plane_kinds(self) -> tuple[Literal["depth", "mask"], ...]:
        """What is read of depth and masks."""
        own = {"depth" if segment == "normals" else segment for segment in self.options.segments}
        return tuple(kind for kind in get_args(Stream) if kind in self.options.streams or kind in own)

    def usable(self) -> NDArray[np.int64]:
        """Rows that are long enough, or all of them where short ones are padded, and that have enough views.

        Raises:
            InvalidSpecError: A rate does not fit the declared one, or a sample has too few views and that is an error.
            EmptyEpisodeError: A sample is too short and that is an error, or no sample is long enough.
        """
        return self._with_members(self._with_views(self._long_enough()))

    def _with_views(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some rows that have as many views as a sample shows."""
        options, source = self.options, self.source
        counts = self._has[rows].sum(axis=1)
        enough = counts >= options.views
        if enough.all():
            return rows
        wanted = f"{options.views} of {' '.join(self.names)}"
        if not enough.any():
            raise InvalidSpecError(
                "no sample has so many views", where=source.path, field="views", expected=wanted, found=counts.max()
            )
        if options.few_views == "error":
            row = int(rows[np.argmin(enough)])
            raise InvalidSpecError(
                f"{np.count_nonzero(~enough)} of {len(rows)} samples have fewer views",
                where=source.where(row),
                field="views",
                expected=wanted,
                found=" ".join(n for n in source.views_of(row) if n in self.names) or "none",
                hint="few_views='skip' leaves such samples out; views=1 shows one view of each.",
            )
        left: NDArray[np.int64] = rows[enough]
        return left

    def _long_enough(self) -> NDArray[np.int64]:
        options, source = self.options, self.source
        strides = {rate: options.stride(float(rate), source.path) for rate in np.unique(source.fps)}
        if options.short in ("pad", "repeat"):
            return np.arange(len(source))
        spans = np.array([(options.num_frames - 1) * strides[rate] + 1 for rate in source.fps])
        long_enough = source.frames >= spans
        if options.short == "error" and not long_enough.all():
            row = int(np.argmin(long_enough))
            raise EmptyEpisodeError(
                "is shorter than a window",
                where=source.where(row),
                expected=f">= {spans[row]} frames",
                found=f"{source.frames[row]}",
                hint="short='pad' fills up with a mask, 'repeat' with the last frame, 'skip' leaves such samples out.",
            )
        rows = np.flatnonzero(long_enough)
        if not len(rows):
            raise EmptyEpisodeError(
                "no sample is as long as a window",
                where=source.path,
                expected=f">= {spans.min()} frames",
                found=f"at most {source.frames.max()}",
            )
        return rows

    def _with_members(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those rows of which there is a window with every member, in enough views."""
        if not self.members:
            return rows
        for member in self.members:
            rows = np.intersect1d(rows, member.rows())
        found = np.array([row for row in rows.tolist() if self._windows(row)], np.int64)
        if not len(found):
            raise EmptyEpisodeError(
                "no sample has all members",
                where=self.source.path,
                field="members",
                expected=f"windows of {self.options.views} views",
                found=" ".join(self.options.members),
            )
        return found

    def _windows(self, row: int) -> dict[int, tuple[str, ...]]:
        """Starts of a sample's windows that have every member, with the views that do; `ANY_START` of no windows."""
        common: dict[int, set[str]] | None = None
        everywhere = set(self._there(row))
        for member in self.members:
            if member.of_any_views:
                continue
            views = member.views_at(row)
            if not member.by_window:
                everywhere &= views.get(0, set())
            elif common is None:
                common = views
            else:
                common = {start: common[start] & views[start] for start in common.keys() & views.keys()}
        if common is None:
            common = {ANY_START: everywhere}
        chosen = {start: tuple(v for v in self.names if v in views & everywhere) for start, views in common.items()}
        return {start: views for start, views in sorted(chosen.items()) if len(views) >= self.options.views}

    def draw(
        self,
        row: int,
        turn: int,
        *,
        start: int | None = None,
        views: Sequence[str] | None = None,
        mode: str | None = None,
        members: Mapping[str, bytes] | None = None,
    ) -> dict[str, Any]:
        """One sample; what is not given is drawn, from the seed, the sample's key and ``turn`` alone.

        Args:
            row: Row of the source.
            turn: The how-manieth time this sample comes.
            start: First frame of the window.
            views: Which views, in order.
            mode: Which task.
            members: The sample's members by name, where another program has read them already.

        Raises:
            InvalidSpecError: ``start``, a view or the mode does not exist.
            CorruptDatasetError, BadVideoError, MissingFrameError: The stored sample is damaged.
        """
        options, source = self.options, self.source
        stride = options.stride(float(source.fps[row]), source.where(row))
        total = int(source.frames[row])
        drawn = self.drawn(row, turn, start, views)
        if mode is not None and not source.calibrated and mode != "video_only":
            raise InvalidSpecError(
                "has no action images for this task",
                where=source.where(row),
                field="mode",
                expected="video_only",
                found=mode,
            )
        start = drawn.start if start is None else start
        if not 0 <= start < total:
            raise InvalidSpecError(
                "no such frame", where=source.where(row), field="start", expected=f"0 … {total - 1}", found=start
            )
        if views is not None:
            unknown = [view for view in views if view not in source.views_of(row)]
            if unknown or len(views) != options.views:
                raise InvalidSpecError(
                    "bad choice of views",
                    where=source.where(row),
                    field="views",
                    expected=f"{options.views} of {' '.join(source.views_of(row))}",
                    found=" ".join(views),
                )
        elif len(drawn.views) < options.views:
            raise InvalidSpecError(
                "has too few views",
                where=source.where(row),
                field="views",
                expected=f"{options.views} of {' '.join(self.names)}",
                found=" ".join(source.views_of(row)),
            )
        indices = start + stride * np.arange(options.num_frames)
        indices = indices[indices < total]
        sample = self._cut(row, indices, list(views or drawn.views), mode or drawn.mode, drawn.pick, stride, members)
        if drawn.silent:
            sample["text"] = ""
        return sample

    def drawn(self, row: int, turn: int, start: int | None = None, views: Sequence[str] | None = None) -> Drawn:
        """What is drawn of a sample, from the seed, its key and ``turn`` alone; nothing is read.

        With members it is among their windows: those that begin at ``start`` and show ``views``, where that is given.

        Raises:
            InvalidSpecError: There is no such window.
        """
        options, source = self.options, self.source
        name = int.from_bytes(hashlib.blake2b(source.key(row).encode(), digest_size=8).digest(), "big")
        rng = np.random.default_rng([options.seed, turn, self._salt, name])
        stride = options.stride(float(source.fps[row]), source.path)
        spare = int(source.frames[row]) - ((options.num_frames - 1) * stride + 1)
        there = self._there(row)
        windows = self._matching(row, start, views) if self.members else {ANY_START: there}
        at = next(iter(windows)) if len(windows) == 1 else list(windows)[int(rng.integers(0, len(windows)))]
        begin = int(rng.integers(0, max(spare, 0) + 1)) if at == ANY_START else at
        there = windows[at]
        chosen = tuple(there[i] for i in rng.permutation(len(there))[: options.views])
        together = next((member.spec.views for member in self.members if member.one_group), chosen)
        mode = draw(self.modes, float(rng.random()))
        pick = float(rng.random())
        return Drawn(begin, together, mode, pick, silent=float(rng.random()) < options.text_dropout)

    def _there(self, row: int) -> tuple[str, ...]:
        """The views that a sample has, of those that are drawn from."""
        return tuple(name for name, has in zip(self.names, self._has[row], strict=True) if has)

    def _matching(self, row: int, start: int | None, views: Sequence[str] | None) -> dict[int, tuple[str, ...]]:
        """The windows of a sample that have every member, and are those that are asked for."""
        every = self._windows(row)
        windows = {
            at: have
            for at, have in every.items()
            if (start is None or at in (start, ANY_START)) and set(views or ()) <= set(have)
        }
        if not windows:
            raise InvalidSpecError(
                "has no window with all members",
                where=self.source.where(row),
                field="start, views",
                expected=", ".join(map(str, every)) or "none",
                found=f"{start}, {' '.join(views or ())}",
            )
        return windows

    def _cut(
        self,
        row: int,
        indices: NDArray[np.int64],
        views: list[str],
        mode: str,
        pick: float,
        stride: int,
        members: Mapping[str, bytes] | None,
    ) -> dict[str, Any]:
        options, source = self.options, self.source
        stored_options = source.manifest.options
        rgb = [layout.rgb_member(view, ENDINGS[stored_options.rgb_codec]) for view in views]
        drawable, with_cameras = source.calibrated, source.camera_frame != "none"
        placed_in = layout.CAMERAS if drawable else layout.CONDITIONING
        with_stored = drawable and self.action in ("stored", "both")
        files = {name: layout.trajectory_member(name) for name in self.grippers or ("",)}
        action = self._action_members(views) if with_stored else []
        beside = {kind: [layout.plane_member(view, kind) for view in views] for kind in self._plane_kinds}
        if members is None:
            drawn_from = itertools.chain(rgb if self.with_video else (), *action, *beside.values())
            placed = [placed_in] if with_cameras else []
            members = source.read(row, [layout.META, *files.values(), *placed, *drawn_from])
        meta = self._meta(row, members[layout.META])
        where = source.where(row)
        trajectories = {name: stored.trajectory_from(members[file], where) for name, file in files.items()}
        tracks = stored.cameras_from(members[placed_in], where) if with_cameras else {}
        named = tuple(tracks) if with_cameras else meta.views
        found = (named, {*map(len, trajectories.values()), *map(len, tracks.values())})
        if found != (meta.views, {meta.frames}):
            raise CorruptDatasetError(
                "members do not fit each other",
                where=where,
                expected=f"{meta.views}, {meta.frames} frames",
                found=found,
            )
        windows = {name: trajectory[indices] for name, trajectory in trajectories.items()}
        cameras = [tracks[view][indices] for view in views] if with_cameras else []
        if (meta.height, meta.width) != (options.height, options.width):
            cameras = [camera.resized(options.height, options.width) for camera in cameras]
        count = options.num_frames
        pad = count - len(indices)
        # Past the end of the episode: the last frame, which is there only where it is repeated.
        held = np.minimum(np.arange(count), len(indices) - 1)
        there = np.arange(count) < (count if options.short == "repeat" else len(indices))

        known = np.stack([window.known & np.isfinite(window.openness) for window in windows.values()])
        action7 = np.stack([window.to_action7() for window in windows.values()])
        action8 = np.stack([window.to_action8() for window in windows.values()])
        # Without cameras in the robot's frame nothing can be drawn of an action: it counts as not known, and is zero.
        valid = known[:, held] & there & drawable
        action7, action8 = (
            np.where(valid[..., None], np.nan_to_num(action)[:, held], 0.0) for action in (action7, action8)
        )
        if with_cameras:
            intrinsics, extrinsics = camera_arrays(cameras, count, options.axes)
        else:
            intrinsics = np.tile(np.eye(3), (options.views, count, 1, 1))
            extrinsics = np.tile(np.eye(4), (options.views, count, 1, 1))
            if options.axes == "rlbench":
                intrinsics, extrinsics = rotate_half_turn(intrinsics, extrinsics)
        drawn_cameras = zip(views, cameras, strict=True) if drawable else ()
        drawn_into = [self._action_camera(view, camera, windows) for view, camera in drawn_cameras]
        relative = transforms.invert(extrinsics[0, 0]) @ extrinsics
        flat = (options.views * count,)
        together = [list(windows)] if self._merged else [[name] for name in windows]
        masks = task(mode, count, options.views, options.latent_stride, len(together), len(options.segments))
        every: NDArray[np.bool_] = np.logical_and.reduce(valid)
        seen = np.stack([*[there] * (1 + len(options.segments)), *([every] if len(together) == 1 else valid)])
        valid_latent = latent_mask(seen, options.latent_stride)
        per_view = (options.views, 1, 1)
        loss = masks.used & ~masks.given & np.tile(seen, per_view).ravel()
        loss_latent = masks.used_latent & ~masks.given_latent & np.tile(valid_latent, per_view).ravel()
        # Where the instruction changes within the sample, a window has that of its own frames.
        instructions = (meta.instruction_at(indices),) if meta.instruction_spans else meta.instructions
        result: dict[str, Any] = {
            "text": instructions[min(int(pick * len(instructions)), len(instructions) - 1)],
            **self._pictures(members, rgb, views, indices, where),
            "camera": float_tensor(relative[..., :3, :].reshape(*flat, 12)),
            "extrinsics": float_tensor(extrinsics.reshape(*flat, 4, 4)),
            "intrinsics": float_tensor(intrinsics.reshape(*flat, 3, 3)),
            "action_7d": float_tensor(action7 if self.grippers else action7[0]),
            "action_8d": float_tensor(action8 if self.grippers else action8[0]),
            "path": source.location(row),
            "key": meta.key,
            "view_names": tuple(views),
            "frame_indices": torch.from_numpy(np.where(there, indices[held], -1).astype(np.int64)),
            "fps": meta.fps / stride,
            "valid": torch.from_numpy(every),
            "valid_latent": torch.from_numpy(latent_mask(every, options.latent_stride)),
            "mode": mode,
            "has_cameras": with_cameras,
            "has_actions": drawable,
            "camera_frame": source.camera_frame,
            "condition_mask": torch.from_numpy(masks.given),
            "used_mask": torch.from_numpy(masks.used),
            "condition_mask_latent": torch.from_numpy(masks.given_latent),
            "used_mask_latent": torch.from_numpy(masks.used_latent),
            "loss_mask": torch.from_numpy(loss.astype(np.float32)),
            "loss_mask_latent": torch.from_numpy(loss_latent.astype(np.float32)),
        }
        for member in self.members:
            if member.name in result:
                raise InvalidSpecError("is a name of the sample itself", field="members", found=member.name)
            result[member.name] = member.read(row, int(indices[0]), tuple(views))
        if self._own_cameras:
            result |= self._action_cameras(drawn_into, intrinsics, extrinsics)
        if self.grippers:
            result["grippers"] = self.grippers
            result["gripper_valid"] = torch.from_numpy(valid)
        if with_stored:
            pictures = [[members[name] for name in segment] for segment in action]
            labels = [f"{view}.action" for view in views for _ in together]
            result["action_video"] = self._video(pictures, labels, indices, where)
        elif self.action != "none" and not drawable:
            black = _Planes(options, 0, options.views * len(together), black=True)
            for i in range(options.views * len(together)):
                with black.frames(i, count):
                    pass
            result["action_video"] = black.tensor
            if self.action == "both":
                result["action_video_rendered"] = black.tensor.clone()
        if drawable and self.action in ("rendered", "both"):
            drawn = _Planes(options, pad, options.views * len(together), black=True)
            for i, ((camera, spec), names) in enumerate(itertools.product(drawn_into, together)):
                with drawn.frames(i, len(indices)) as planes:
                    render_planes(windows[names[0]], camera, spec, out=planes)
                    for name in names[1:]:
                        _add(render_planes(windows[name], camera, spec), planes)
            result["action_video" if self.action == "rendered" else "action_video_rendered"] = drawn.tensor
        found_planes: dict[str, NDArray[Any]] = {
            kind: self._planes(kind, [members[name] for name in names], views, indices, where)
            for kind, names in beside.items()
        }
        for kind in options.streams:
            result[kind] = self._beside(kind, found_planes[kind])
        for segment in options.segments:
            result |= self._segment(segment, found_planes, cameras)
        if self.plucker and with_cameras:
            result["plucker"] = plucker_video(relative, intrinsics, cameras, options.height, options.width)
        elif self.plucker:
            result["plucker"] = torch.zeros((6, options.views * count, options.height, options.width))
        return result

    def _action_camera(
        self, view: str, camera: CameraTrack, windows: Mapping[str, GripperTrajectory]
    ) -> tuple[CameraTrack, ActionImageSpec]:
        """Into which camera a view's action images are drawn, and how."""
        if view not in self.options.wrist_views:
            return camera, self.spec
        distance = self.options.wrist_distance
        return held_camera(camera, windows, distance).track(len(camera)), wrist_spec(self.spec, distance)

    def _action_cameras(
        self,
        drawn_into: Sequence[tuple[CameraTrack, ActionImageSpec]],
        intrinsics: NDArray[np.float64],
        extrinsics: NDArray[np.float64],
    ) -> dict[str, torch.Tensor]:
        """The cameras of the action images, where they are not those of the video; theirs project to pixel indices."""
        views, count = intrinsics.shape[:2]
        axes = [spec.axis_length for _, spec in drawn_into] or [self.spec.axis_length] * views
        if drawn_into:
            tracks = [
                CameraTrack(action_K(c.K, s, c.pixel_centre), c.world_from_camera, c.width, c.height)
                for c, s in drawn_into
            ]
            intrinsics, extrinsics = camera_arrays(tracks, count, self.options.axes)
        return {
            "action_intrinsics": float_tensor(intrinsics.reshape(-1, 3, 3)),
            "action_extrinsics": float_tensor(extrinsics.reshape(-1, 4, 4)),
            "action_axis_length": float_tensor(np.array(axes)),
        }

    def _pictures(
        self,
        members: Mapping[str, bytes],
        names: Sequence[str],
        views: Sequence[str],
        indices: NDArray[np.int64],
        where: str,
    ) -> dict[str, torch.Tensor]:
        """The video, unless members stand in for it."""
        if not self.with_video:
            return {}
        return {"video": self._video([[members[n]] for n in names], [f"{v}.rgb" for v in views], indices, where)}

    def _action_members(self, views: Sequence[str]) -> list[list[str]]:
        """For each segment of the action video, the stored videos whose clipped sum it is."""
        options = self.source.manifest.options
        stored_names = ("",) if options.merge_arms or not self.grippers else self.grippers
        ending = ENDINGS[options.action_codec]
        named = [[layout.action_member(view, ending, name) for name in stored_names] for view in views]
        return named if self._merged else [[name] for names in named for name in names]

    def _meta(self, row: int, data: bytes) -> SampleMeta:
        source, where = self.source, self.source.where(row)
        meta = parse(SampleMeta, data, where)
        promised = source.manifest
        facts = (
            ("key", source.key(row), meta.key),
            ("frames", int(source.frames[row]), meta.frames),
            ("views", source.views_of(row), meta.views),
            ("size", (promised.options.height, promised.options.width), (meta.height, meta.width)),
            ("spec", promised.spec_id, meta.spec),
            ("action_codec", promised.options.action_codec, meta.action_codec),
            ("grippers", promised.grippers, meta.grippers),
            ("merged_arms", promised.options.merge_arms, meta.merged_arms),
            ("depth and masks", promised.options.planes, meta.planes),
        )
        for name, expected, found in facts:
            if expected != found:
                raise CorruptDatasetError(
                    "is not a sample of this data set", where=where, field=name, expected=expected, found=found
                )
        return meta

    def _video(
        self, segments: Sequence[Sequence[bytes]], labels: Sequence[str], indices: NDArray[np.int64], where: str
    ) -> torch.Tensor:
        """Segments one after the other in time, each the clipped sum of its videos."""
        options = self.options
        planes = _Planes(options, options.num_frames - len(indices), len(segments))
        wanted: list[int] = indices.tolist()
        for i, (videos, label) in enumerate(zip(segments, labels, strict=True)):
            with planes.frames(i, len(wanted)) as channels:
                for number, data in enumerate(videos):
                    name = f"{where}.{label}"
                    checked = self.source.verifies
                    with open_pictures(data, name, wanted, options.decoder, checked=checked) as video:
                        self._check_size(video.height, video.width, name)
                        for j, frame in enumerate(video.pictures):
                            picture = resized_picture(frame, self._crop)
                            if number == 0:
                                cv2.split(picture, [channels[c, j] for c in range(3)])
                            else:
                                _add(np.moveaxis(picture, -1, 0), channels[:, j])
        return planes.tensor

    def _planes(
        self, kind: str, videos: Sequence[bytes], views: Sequence[str], indices: NDArray[np.int64], where: str
    ) -> NDArray[Any]:
        """Depth ``(V, n, H, W)`` uint16 in millimetres, or masks uint32, of the frames that are there."""
        options, stored_options = self.options, self.source.manifest.options
        size = (stored_options.height, stored_options.width, options.height, options.width)
        shape = (options.views, len(indices), options.height, options.width)
        out = np.zeros(shape, np.uint16 if kind == "depth" else np.uint32)
        for target, data, view in zip(out, videos, views, strict=True):
            with self._open(data, f"{where}.{view}.{kind}") as video:
                for j, plane in enumerate(resized_planes(video.planes(kind, indices.tolist()), kind, *size)):
                    target[j] = plane
        return out

    def _beside(self, kind: str, planes: NDArray[Any]) -> torch.Tensor:
        """Depth ``(V T, H, W)`` float32 in metres, or masks int32; 0 where not known and where padded."""
        options, depth = self.options, kind == "depth"
        shape = (options.views, options.num_frames, options.height, options.width)
        out = np.zeros(shape, np.float32 if depth else np.int32)
        there = planes.shape[1]
        out[:, :there] = planes / np.float32(1000) if depth else planes
        if options.short == "repeat":
            out[:, there:] = out[:, there - 1 : there]
        return torch.from_numpy(out.reshape(-1, options.height, options.width))

    def _segment(
        self, segment: Segment, planes: Mapping[str, NDArray[Any]], cameras: Sequence[CameraTrack]
    ) -> dict[str, torch.Tensor]:
        """A further video, and of masks the ids of its colours ``(16,)``, -1 where there is none."""
        options, more = self.options, {}
        source = planes["depth" if segment == "normals" else segment]
        if segment == "mask":
            labels = largest_labels(source) if options.mask_labels is None else options.mask_labels
            more["mask_labels"] = torch.tensor([*labels, *[-1] * (MOST_LABELS - len(labels))])
        codec = DepthCodec(*options.depth_range)
        out = _Planes(options, options.num_frames - source.shape[1], options.views)
        for i, view in enumerate(source):
            with out.frames(i, len(view)) as channels:
                for j, plane in enumerate(view):
                    if segment == "depth":
                        picture = codec.encode(plane)
                    elif segment == "mask":
                        picture = encode_labels(plane, labels)
                    else:
                        picture = encode_normals(normals_from_depth(plane, cameras[i].K[j], cameras[i].pixel_centre))
                    cv2.split(np.ascontiguousarray(picture), [channels[c, j] for c in range(3)])
        return {f"{segment}_video": out.tensor, **more}

    @contextlib.contextmanager
    def _open(self, data: bytes, name: str) -> Iterator[VideoReader]:
        """A stored video, of the data set's size."""
        with open_video(data, name) as video:
            self._check_size(video.info.height, video.info.width, name)
            yield video

    def _check_size(self, height: int, width: int, name: str) -> None:
        options = self.source.manifest.options
        if (height, width) != (options.height, options.width):
            raise CorruptDatasetError(
                "has another size than the data set",
                where=name,
                expected=f"{options.width}x{options.height}",
                found=f"{width}x{height}",
            )


class _Planes:
    """A video ``(3, S T, H, W)`` that is filled segment by segment.

    Padded frames are black, or the last one where it is repeated; with ``black`` all are at first.
    """

    def __init__(self, options: SampleOptions, pad: int, segments: int, black: bool = False) -> None:
        size = (options.height, options.width)
        self._bytes = options.pixels == "uint8"
        self._repeat = options.short == "repeat"
        self._count = options.num_frames
        shape = (3, segments * self._count, *size)
        # Zeros from the system cost nothing where nothing is drawn.
        self._array: NDArray[Any] = np.zeros(shape, np.uint8) if self._bytes else np.empty(shape, np.float32)
        self._black = black
        self._scratch = None if self._bytes else np.empty((3, self._count - pad, *size), np.uint8)
        if pad and not self._bytes:
            self._array.reshape(3, segments, self._count, *size)[:, :, self._count - pad :] = LEVELS[0]

    @property
    def tensor(self) -> torch.Tensor:
        return torch.from_numpy(self._array)

    @contextlib.contextmanager
    def frames(self, segment: int, count: int) -> Iterator[NDArray[np.uint8]]:
        """``(3, count, H, W)`` uint8 to fill with a segment's first frames."""
        whole = self._array[:, segment * self._count : (segment + 1) * self._count]
        target = whole[:, :count]
        if self._scratch is None:
            yield target
        else:
            if self._black:
                self._scratch.fill(0)
            yield self._scratch
            for channel, levels in zip(self._scratch, target, strict=True):
                for plane, out in zip(channel, levels, strict=True):
                    cv2.LUT(plane, LEVELS, out)
        if self._repeat:
            whole[:, count:] = whole[:, count - 1 : count]


def _add(pictures: NDArray[np.uint8], planes: NDArray[np.uint8]) -> None:
    """Add pictures to planes of the same shape, clipped."""
    np.copyto(planes, cv2.add(np.ascontiguousarray(pictures).reshape(-1), planes.reshape(-1)).reshape(planes.shape))

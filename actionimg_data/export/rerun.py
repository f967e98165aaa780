"""A recording for the rerun viewer: cameras, pictures, action images and the gripper, on one timeline.

Samples follow one another on the timeline ``time`` (seconds), half a second apart; ``frame`` counts their frames. An
entity keeps its last value, so that the instruction, the cameras and the whole path of a sample are logged once, where
it begins. Checked with rerun-sdk 0.26 (lerobot wants
one below 0.27), 0.27, 0.28 and 0.41.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import (
    BadImageError,
    InvalidSpecError,
    MissingExtraError,
    OutputExistsError,
    SourceNotFoundError,
    install_hint,
    suggestion,
)
from ..geometry import rotations
from ..model import CameraTrack, GripperTrajectory
from ..raster import project_keypoints
from ..raster.keypoints import gripper_keypoints
from ..schemas import ActionImageSpec, DatasetManifest
from ..shards import Dataset, Sample, layout
from ..shards.verify import decode_sample
from ..video import ENDINGS
from .common import Result, h264_action, opened

Pictures = Literal["video", "jpeg"]
FloatArray = NDArray[np.float64]

PAUSE: Final = 0.5
"""Seconds between two samples."""
DEFAULT_SAMPLES: Final = 10
_EYE: Final = (1.1, -1.5, 0.9)
"""Metres from the middle of the first path to the eye that looks at it."""
_JPEG_QUALITY: Final = 88
_KEYPOINT_COLOURS: Final = ((255, 64, 64), (64, 220, 96), (90, 130, 255))
_STORED, _DECODED, _TURN = (112, 146, 190), (255, 160, 40), (170, 110, 220)


def export(
    path: str | Path,
    dest: str | Path,
    *,
    samples: int | None = None,
    sample: Sequence[str] = (),
    pictures: Pictures = "video",
) -> Result:
    """Write an ``.rrd``.

    Args:
        path: A complete data set.
        dest: A new ``.rrd`` file.
        samples: How many samples, spread over the data set; by default at most 10.
        sample: Keys of the samples, instead.
        pictures: "video" puts the stored H.264 videos in as they are (the native viewer then needs ffmpeg to play
            them); "jpeg" one JPEG a frame, which every viewer shows, in a larger file.

    Raises:
        MissingExtraError: rerun-sdk is not installed.
        InvalidSpecError: ``dest`` is not an ``.rrd``, or an option is out of range.
        SourceNotFoundError: There is no such sample.
        OutputExistsError, OutputError: ``dest`` exists, or cannot be written.
        CorruptDatasetError: The data set is damaged or incomplete.
    """
    dest = Path(dest)
    if dest.suffix != ".rrd":
        raise InvalidSpecError("a rerun recording is one file", field="dest", expected="*.rrd", found=dest.name)
    if pictures not in get_args(Pictures):
        raise InvalidSpecError("unknown", field="pictures", expected="video | jpeg", found=pictures)
    if dest.exists():
        raise OutputExistsError("exists already", where=dest)
    rr = _rerun()
    dataset, manifest = opened(path)
    chosen = _chosen(dataset, samples, sample)
    result = Result("rerun", str(dest))
    part = layout.temporary(dest)
    with layout.output_errors(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        # What cannot be written is an error here, not a line of the recorder's own log.
        part.touch()
        try:
            recording = rr.RecordingStream("actionimg", recording_id=manifest.plan[:16], send_properties=False)
            recording.save(part, default_blueprint=_blueprint(rr, manifest, dataset[chosen[0]] if chosen else None))
            recording.send_recording_name(layout.place(path).absolute().name)
            log = _Log(rr, recording, pictures)
            log.static(manifest)
            for key in chosen:
                log.sample(dataset[key], manifest)
            result.samples = len(chosen)
            recording.flush()
            recording.disconnect()
            part.replace(dest)
        finally:
            part.unlink(missing_ok=True)
    if len(chosen) < len(dataset):
        result.notes.append(f"{len(chosen)} of {len(dataset)} samples; choose with --samples N or --sample KEY")
    if pictures == "video":
        result.notes.append("videos need ffmpeg in rerun's native viewer; --pictures jpeg does not")
    result.notes.append(f"next: rerun {dest}")
    return result


def _rerun() -> Any:
    try:
        import rerun
    except ImportError:
        raise MissingExtraError("this export needs rerun-sdk", field="rerun", hint=install_hint("rerun")) from None
    return rerun


def _axes(rr: Any, length: float) -> Any:
    """The three axes of a frame, ``length`` metres each; before rerun-sdk 0.28 they are fields of the transform."""
    made = getattr(rr, "TransformAxes3D", None)
    return rr.Transform3D.from_fields(axis_length=length) if made is None else made(length)


def _chosen(dataset: Dataset, samples: int | None, keys: Sequence[str]) -> list[str]:
    if keys and samples is not None:
        raise InvalidSpecError("choose samples by number or by key, not both", field="samples, sample")
    if keys:
        for key in keys:
            if key not in dataset:
                raise SourceNotFoundError(
                    "no such sample", where=dataset.path, field=key, hint=suggestion(key, dataset.keys())
                )
        return list(dict.fromkeys(keys))
    wanted = DEFAULT_SAMPLES if samples is None else samples
    if wanted < 1:
        raise InvalidSpecError("out of range", field="samples", expected="at least 1", found=wanted)
    every = dataset.keys()
    return [every[i] for i in sorted({round(i) for i in np.linspace(0, len(every) - 1, min(wanted, len(every)))})]


def _blueprint(rr: Any, manifest: DatasetManifest, first: Sample | None) -> Any:
    """Space on the left; pictures with the gripper drawn in, and action images beside them; curves below."""
    import rerun.blueprint as rrb

    views = []
    for view in manifest.views:
        camera = f"/world/cameras/{view}"
        views.append(rrb.Spatial2DView(origin=camera, contents=[f"{camera}/**", "/world/gripper/**"], name=view))
        apart = manifest.grippers if not manifest.options.merge_arms else ()
        for name in () if manifest.options.poses_only else apart or ("",):
            title = f"{view} action {name}".rstrip()
            views.append(rrb.Spatial2DView(origin=_entity(f"/action/{view}", name), name=title))
    curves = [
        rrb.TimeSeriesView(origin="/position", name="position (m)"),
        rrb.TimeSeriesView(origin="/openness", name="openness"),
        rrb.TimeSeriesView(origin="/decode_error", name="decode error"),
    ]
    eye = None
    paths = [] if first is None else [path.position[path.known] for path in first.grippers.values()]
    if paths and len(points := np.concatenate(paths)):
        target = points.mean(axis=0)
        # rerun-sdk before 0.28 places its eye itself.
        if "look_target" in inspect.signature(rrb.EyeControls3D.__init__).parameters:
            eye = rrb.EyeControls3D(position=target + _EYE, look_target=target, eye_up=[0, 0, 1])
    return rrb.Blueprint(
        rrb.Vertical(
            rrb.Horizontal(
                rrb.Vertical(
                    rrb.Spatial3DView(origin="/world", name="space", eye_controls=eye),
                    rrb.TextDocumentView(origin="/instruction", name="instruction"),
                    row_shares=[5, 1],
                ),
                rrb.Grid(*views, grid_columns=4 if len(views) > 4 else 2),
            ),
            rrb.Horizontal(*curves),
            row_shares=[3, 1],
        ),
        rrb.TimePanel(timeline="time", state="collapsed"),
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
    )


@dataclass
class _Clock:
    """Where on the timeline a sample is."""

    seconds: float = 0.0
    frame: int = 0


class _Log:
    """Writes samples one after the other into a recording."""

    def __init__(self, rr: Any, recording: Any, pictures: Pictures) -> None:
        self._rr = rr
        self._recording = recording
        self._pictures = pictures
        self._clock = _Clock()

    def static(self, manifest: DatasetManifest) -> None:
        """What holds for all samples."""
        rr = self._rr
        self._static("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP)
        curves = [(f"position/{axis}", colour) for axis, colour in zip("xyz", _KEYPOINT_COLOURS, strict=True)]
        curves += [("openness", _STORED), ("decode_error/position_mm", _DECODED), ("decode_error/rotation_deg", _TURN)]
        for gripper in manifest.grippers or ("",):
            for entity, colour in curves:
                title = f"{gripper} {entity.rpartition('/')[2].replace('_', ' ')}".strip()
                self._static(_entity(entity, gripper), rr.SeriesLines(colors=[colour], names=[title]))
        self._static("data_set", rr.TextDocument(manifest.model_dump_json(indent=2), media_type="application/json"))

    def sample(self, sample: Sample, manifest: DatasetManifest) -> None:
        """One sample, from here on on the timeline."""
        spec = manifest.options.spec
        meta, grippers = sample.meta, sample.grippers
        cameras = sample.cameras if meta.calibrated else {}
        stored = meta.calibrated and meta.action_codec != "none"
        decoded = decode_sample(sample, spec) if stored else {}
        at = np.asarray(sample.times - sample.times[0] + self._clock.seconds)
        self._begin("instruction", self._rr.TextDocument(_text(sample), media_type="text/plain"))
        for view, camera in cameras.items():
            self._camera(view, camera, at)
        for name, trajectory in grippers.items():
            self._trajectory(name, trajectory, spec, at)
            if cameras:
                self._visible(name, trajectory, cameras, spec, at)
            if name in decoded:
                self._decode_error(name, trajectory, decoded[name].trajectory, decoded[name].valid, at)
        for entity, content in self._videos(sample):
            self._video(entity, content, meta.key, at)
        self._clock.seconds += float(sample.times[-1] - sample.times[0]) + max(PAUSE, 1 / meta.fps)
        self._clock.frame += len(at)

    def _static(self, entity: str, value: Any) -> None:
        self._recording.log(entity, value, static=True)

    def _columns(self, entity: str, at: FloatArray, frames: NDArray[np.intp], *columns: Any) -> None:
        if not len(frames):
            return
        indexes = [
            self._rr.TimeColumn("time", duration=at[frames]),
            self._rr.TimeColumn("frame", sequence=frames + self._clock.frame),
        ]
        self._recording.send_columns(entity, indexes, columns=[c for part in columns for c in part])

    def _begin(self, entity: str, value: Any) -> None:
        self._recording.set_time("time", duration=self._clock.seconds)
        self._recording.set_time("frame", sequence=self._clock.frame)
        self._recording.log(entity, value)

    def _trajectory(self, gripper: str, trajectory: GripperTrajectory, spec: ActionImageSpec, at: FloatArray) -> None:
        rr, known = self._rr, np.flatnonzero(trajectory.known)
        frame = _entity("world/gripper", gripper)
        self._begin(
            _entity("world/path", gripper),
            rr.LineStrips3D(_runs(trajectory.position), colors=[_STORED], radii=[rr.Radius.ui_points(1.2)]),
        )
        self._columns(
            f"{frame}/frame",
            at,
            known,
            rr.Transform3D.columns(
                translation=trajectory.position[known], quaternion=trajectory.quaternion_xyzw[known]
            ),
        )
        self._begin(f"{frame}/frame", _axes(rr, spec.axis_length / 2))
        points = np.asarray(gripper_keypoints(trajectory.position, trajectory.rotation, spec.axis_length))
        # A frame without a pose gets no points, or the viewer would go on showing those before it.
        self._columns(
            f"{frame}/keypoints",
            at,
            np.arange(len(trajectory)),
            rr.Points3D.columns(
                positions=points[known].reshape(-1, 3), colors=np.tile(_KEYPOINT_COLOURS, (len(known), 1))
            ).partition(3 * trajectory.known),
        )
        self._begin(f"{frame}/keypoints", rr.Points3D.from_fields(radii=[0.006]))
        for axis in range(3):
            values = trajectory.position[:, axis]
            self._columns(
                _entity(f"position/{'xyz'[axis]}", gripper), at, known, rr.Scalars.columns(scalars=values[known])
            )
        measured = np.flatnonzero(np.isfinite(trajectory.openness))
        self._columns(
            _entity("openness", gripper), at, measured, rr.Scalars.columns(scalars=trajectory.openness[measured])
        )

    def _decode_error(
        self,
        gripper: str,
        truth: GripperTrajectory,
        decoded: GripperTrajectory,
        valid: NDArray[np.bool_],
        at: FloatArray,
    ) -> None:
        rr = self._rr
        strips = _runs(np.where(valid[:, None], decoded.position, np.nan))
        self._begin(
            _entity("world/decoded", gripper),
            rr.LineStrips3D(strips, colors=[_DECODED], radii=[rr.Radius.ui_points(0.8)]),
        )
        both = np.flatnonzero(valid & truth.known)
        distance = 1000 * np.linalg.norm(decoded.position[both] - truth.position[both], axis=-1)
        angle = np.rad2deg(np.asarray(rotations.angle_between(truth.rotation[both], decoded.rotation[both])))
        for name, values in (("position_mm", distance), ("rotation_deg", angle)):
            self._columns(_entity(f"decode_error/{name}", gripper), at, both, rr.Scalars.columns(scalars=values))

    def _camera(self, view: str, camera: CameraTrack, at: FloatArray) -> None:
        rr = self._rr
        entity = f"world/cameras/{view}"
        frames = np.array([0]) if camera.is_static else np.arange(len(camera))
        pose = camera.world_from_camera[frames]
        self._columns(
            entity,
            at,
            frames,
            rr.Transform3D.columns(translation=pose[:, :3, 3], mat3x3=pose[:, :3, :3]),
            rr.Pinhole.columns(
                image_from_camera=camera.K[frames],
                resolution=np.tile([camera.width, camera.height], (len(frames), 1)),
                camera_xyz=[rr.ViewCoordinates.RDF] * len(frames),
                image_plane_distance=np.full(len(frames), 0.12),
            ),
        )

    def _visible(
        self,
        gripper: str,
        trajectory: GripperTrajectory,
        cameras: Mapping[str, CameraTrack],
        spec: ActionImageSpec,
        at: FloatArray,
    ) -> None:
        uv, valid = project_keypoints(trajectory, dict(cameras), spec)
        inside = valid & ((uv >= 0) & (uv <= [spec.width - 1, spec.height - 1])).all(axis=-1)
        for view, seen in zip(cameras, inside.sum(axis=-1), strict=True):
            self._columns(
                _entity(f"keypoints_seen/{view}", gripper),
                at,
                np.arange(len(trajectory)),
                self._rr.Scalars.columns(scalars=seen.astype(np.float64)),
            )

    def _videos(self, sample: Sample) -> Iterator[tuple[str, bytes | list[bytes]]]:
        """Entity to an MP4's bytes, or to the frames' JPEGs."""
        meta, jpeg = sample.meta, self._pictures == "jpeg"
        for view in sample.views:
            entity = f"world/cameras/{view}/rgb"
            if jpeg:
                yield entity, [_jpeg(picture) for chunk in sample.iter_rgb(view) for picture in chunk]
            else:
                yield entity, sample.read(layout.rgb_member(view, ENDINGS[meta.rgb_codec]))
            for gripper in sample.action_names if meta.calibrated else ():
                entity = _entity(f"action/{view}", gripper)
                if jpeg:
                    yield entity, [_jpeg(p) for chunk in sample.iter_action(view, gripper=gripper) for p in chunk]
                else:
                    yield entity, h264_action(sample, view, gripper)

    def _video(self, entity: str, content: bytes | list[bytes], key: str, at: FloatArray) -> None:
        rr = self._rr
        frames = np.arange(len(at))
        if isinstance(content, bytes):
            video = rr.AssetVideo(contents=content, media_type="video/mp4")
            name = f"videos/{entity}/{key}"
            self._static(name, video)
            stamps = video.read_frame_timestamps_nanos()
            reference = rr.VideoFrameReference.columns(
                timestamp=stamps.astype("timedelta64[ns]"), video_reference=[name] * len(frames)
            )
            self._columns(entity, at, frames, reference)
        else:
            self._columns(
                entity, at, frames, rr.EncodedImage.columns(blob=content, media_type=["image/jpeg"] * len(frames))
            )


def _entity(path: str, gripper: str) -> str:
    """``path`` of the only gripper, or of the named one."""
    return f"{path}/{gripper}" if gripper else path


def _text(sample: Sample) -> str:
    meta = sample.meta
    lines = [sample.instruction, "", f"{meta.key}: {meta.frames} frames at {meta.fps:g} fps"]
    return "\n".join(lines)


def _runs(points: FloatArray) -> list[FloatArray]:
    """The stretches of ``points (T, 3)`` between frames that are not known, each of two points at least."""
    known = np.isfinite(points).all(axis=-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    return [points[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 1]


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    if not done:
        raise BadImageError("cannot be encoded", field="picture", found=str(picture.shape))
    return bytes(data.tobytes())

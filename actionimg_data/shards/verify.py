"""Hold a shard against its sidecar, its samples against their schema, and its action videos against its trajectories.

A frame has two views when one view shows all three keypoints of the stored pose (in front of the near plane, inside the
picture) and another at least one; then its pose can be decoded without a guess, and has to be, within tolerance. Frames
without two views, and frames whose pose is unknown, are counted as undecodable; whatever they decode to is not judged.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..decode import (
    ArmBlobs,
    BlobMeasurements,
    DecodedTrajectory,
    Reason,
    measure_arms,
    measure_blobs,
    solve,
    solve_arms,
)
from ..decode.arms import COUNT
from ..errors import ActionImgError, CorruptDatasetError, StorageError
from ..geometry import rotations
from ..model import CameraTrack, GripperTrajectory
from ..model.episode import check_instruction
from ..raster import project_keypoints, render_merged, separate_blobs
from ..schemas import ActionImageSpec, DatasetManifest, PlanRow, SampleRow, ShardRecord, ShardSidecar
from ..schemas.dataset import parse, to_line
from ..untrusted.files import open_plain
from ..video import ENDINGS
from . import layout, storage
from .layout import Place
from .read import Sample, scan_tar
from .sample import check_drawn_K, drawn_K, overlapping_frames
from .tar import BLOCK, RECORD, file_sha256

CHUNK: Final = 48
UNTOLD: Final = (Reason.SEVERAL_GRIPPERS, Reason.OVERLAP, Reason.WHICH_GRIPPER)
"""Reasons for which a gripper in a merged picture is undecodable, and not missed."""
OPENNESS_TOLERANCE: Final = 0.05
"""Largest error of a continuous openness that counts as right; a binary one has to be equal."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Failure:
    """Something that is not as promised; ``key`` is None where it is not about one sample."""

    shard: str | None
    key: str | None
    reason: str


@dataclass(frozen=True)
class RoundTrip:
    """What one sample's action videos of one gripper decode to, against its trajectory, where it has two views.

    ``frames``, ``position_mm`` and ``rotation_deg`` have one value for each frame that was decoded.
    """

    key: str
    frames: NDArray[np.intp]
    position_mm: FloatArray
    rotation_deg: FloatArray
    openness_right: int
    undecodable: int
    missed: int
    gripper: str = ""
    """Which one, where there are several."""
    overlapping: int = 0
    """Of the undecodable frames, those that are so only because grippers share a merged picture."""

    @property
    def decoded(self) -> int:
        """Frames that have two views and were decoded."""
        return len(self.position_mm)


@dataclass
class ShardReport:
    """What was found in one shard."""

    path: str
    corrupt: bool = False
    samples: int = 0
    frames: int = 0
    views: Counter[tuple[str, ...]] = field(default_factory=Counter)
    """Samples by the views that they have."""
    failures: list[Failure] = field(default_factory=list)
    round_trips: list[RoundTrip] = field(default_factory=list)


def verify_shard(
    out: Place,
    record: ShardRecord,
    row: PlanRow,
    manifest: DatasetManifest,
    quick: bool,
    report: Callable[[int], None] = lambda _: None,
) -> ShardReport:
    """Verify one shard.

    Args:
        out: Folder of the data set.
        record: The shard, as the manifest has it.
        row: The shard, as the plan has it.
        manifest: The data set's manifest.
        quick: Leave out the round trip, and look into one sample of the shard only; every byte is still checked.
        report: Called with the number of frames done, now and then.

    Returns:
        What was found; nothing that is wrong with the shard is raised.

    Raises:
        StorageError: The store that it is in does not answer.
    """
    result = ShardReport(record.path)

    def fail(reason: str, key: str | None = None, corrupt: bool = True) -> None:
        result.failures.append(Failure(record.path, key, reason))
        result.corrupt = result.corrupt or corrupt

    try:
        sidecar = _sidecar(out, record, row, manifest)
    except StorageError:
        raise
    except ActionImgError as error:
        fail(str(error))
        return result
    result.samples, result.frames = len(sidecar.samples), sidecar.frames
    result.views = Counter(sample.views for sample in sidecar.samples)
    tar = out / record.path
    if record.sha256 is None:
        if tar.exists():
            fail("there is a tar, and the sidecar says that the shard has no samples")
        return result
    try:
        with storage.local_copy(tar) as copy:
            # A copy is called by the name of what it is a copy of.
            def named(reason: str, key: str | None) -> None:
                fail(reason.replace(str(copy), str(tar)), key)

            _check_tar(copy, record, sidecar, manifest, quick, named, result, report)
    except FileNotFoundError as error:
        fail(f"{tar}: cannot be read: {error.strerror}")
    return result


def _check_tar(
    tar: Path,
    record: ShardRecord,
    sidecar: ShardSidecar,
    manifest: DatasetManifest,
    quick: bool,
    fail: Callable[[str, str | None], None],
    result: ShardReport,
    report: Callable[[int], None],
) -> None:
    for problem in _damage(tar, record, sidecar):
        fail(problem, None)
    if result.corrupt:
        return
    for number, sample_row in enumerate(sidecar.samples):
        members = {m.name: (m.offset, m.size) for m in sample_row.members}
        sample = Sample(sample_row.key, tar, members, manifest.options.spec)
        try:
            check_members(sample_row, manifest)
            # Every byte is the one that was written, so that one sample stands for a shard that one program wrote.
            if not quick or number == 0:
                check_sample(sample, sample_row, manifest)
            if not quick:
                check_planes(sample)
                if manifest.options.action_codec != "none":
                    result.round_trips += round_trips(sample, manifest.options.spec)
        except ActionImgError as error:
            fail(str(error), sample_row.key)
        report(sample_row.frames)


def _sidecar(out: Place, record: ShardRecord, row: PlanRow, manifest: DatasetManifest) -> ShardSidecar:
    """The sidecar, held against the manifest and the plan."""
    path = out / f"{row.shard}.json"
    try:
        data = layout.read_place(path)
    except StorageError:
        raise
    except OSError as error:
        raise CorruptDatasetError(f"cannot be read: {error.strerror}", where=path) from None
    if hashlib.sha256(data).hexdigest() != record.sidecar_sha256:
        raise CorruptDatasetError("is not what the manifest says", where=path, field="SHA-256")
    sidecar = parse(ShardSidecar, data, path)
    promised = (record.samples, record.frames, record.bytes, record.sha256, record.quarantined)
    found = (len(sidecar.samples), sidecar.frames, sidecar.bytes, sidecar.sha256, len(sidecar.quarantined))
    if (
        (sidecar.shard, sidecar.plan) != (row.shard, manifest.plan_of(row.shard))
        or promised != found
        or data != to_line(sidecar)
    ):
        raise CorruptDatasetError("is not what the manifest says", where=path, expected=promised, found=found)
    converted = {s.episode for s in sidecar.samples}
    bad = {q.id for q in sidecar.quarantined}
    planned = {e.id for e in row.episodes}
    if converted | bad != planned or converted & bad:
        raise CorruptDatasetError(
            "does not hold the planned episodes",
            where=path,
            expected=f"{len(planned)} episodes",
            found=f"{len(converted)} converted, {len(bad)} in quarantine",
        )
    return sidecar


def _damage(tar: Path, record: ShardRecord, sidecar: ShardSidecar) -> Iterator[str]:
    """What is wrong with the bytes of a tar, and where."""
    try:
        sha256, size = file_sha256(tar)
    except OSError as error:
        yield f"{tar}: cannot be read: {error.strerror}"
        return
    if (sha256, size) != (record.sha256, record.bytes):
        if size != record.bytes:
            yield f"{tar}: has the wrong size (expected {record.bytes} B, found {size} B)"
        else:
            yield f"{tar}: has the wrong SHA-256"
        yield from _damaged_members(tar, sidecar)
        return
    # The bytes are those that were written; from here on, what was written is held against what was promised.
    expected = {s.key: {m.name: (m.offset, m.size) for m in s.members} for s in sidecar.samples}
    try:
        found = scan_tar(tar)
    except CorruptDatasetError as error:
        yield str(error)
        return
    if found != expected:
        yield f"{tar}: members are not those of the sidecar"
    end = max((m.offset + m.size for s in sidecar.samples for m in s.members), default=0)
    end += -end % BLOCK + 2 * BLOCK
    if size != end + -end % RECORD:
        yield f"{tar}: goes on after its last member"


def _damaged_members(tar: Path, sidecar: ShardSidecar) -> Iterator[str]:
    try:
        with open_plain(tar) as file:
            for sample in sidecar.samples:
                for member in sample.members:
                    file.seek(member.offset)
                    if hashlib.sha256(file.read(member.size)).hexdigest() != member.sha256:
                        yield f"{tar}: {sample.key}.{member.name} is damaged"
    except OSError as error:
        yield f"{tar}: cannot be read: {error.strerror}"


def expected_members(views: tuple[str, ...], manifest: DatasetManifest) -> tuple[str, ...]:
    """Names of a sample's members, in order."""
    options = manifest.options
    grippers = manifest.grippers or ("",)
    names = [layout.META, *map(layout.trajectory_member, grippers)]
    if not options.poses_only:
        names.append(layout.CAMERAS)
    if options.conditioning:
        names.append(layout.CONDITIONING)
    for view in views:
        names.append(layout.rgb_member(view, ENDINGS[options.rgb_codec]))
        if options.action_codec != "none":
            ending = ENDINGS[options.action_codec]
            names += [layout.action_member(view, ending, g) for g in (("",) if options.merge_arms else grippers)]
        names += [layout.plane_member(view, kind) for kind in options.planes]
    return tuple(names)


def check_members(row: SampleRow, manifest: DatasetManifest) -> None:
    """Refuse a sample that has other members than a sample of its views has, with `CorruptDatasetError`."""
    members = tuple(m.name for m in row.members)
    wanted = expected_members(row.views if manifest.may_have(row.views) else manifest.views, manifest)
    if members != wanted:
        raise CorruptDatasetError(
            "has other members than every sample has", where=row.key, expected=" ".join(wanted), found=" ".join(members)
        )


def check_sample(sample: Sample, row: SampleRow, manifest: DatasetManifest) -> None:
    """Everything about a sample but its members' names and the round trip.

    Raises:
        ActionImgError: What is wrong with it.
    """
    options = manifest.options
    meta = sample.meta
    for name, found, expected in (
        ("key", meta.key, row.key),
        ("episode", meta.episode, row.episode),
        ("clip", meta.clip, row.clip),
        ("start_frame", meta.start_frame, row.start_frame),
        ("frames", meta.frames, row.frames),
        ("fps", meta.fps, row.fps),
        ("instruction", meta.instruction, row.instruction),
        ("instructions[0]", meta.instructions[0], row.instruction),
        ("task", meta.task, row.task),
        ("views", meta.views, row.views),
        ("views", row.views, row.views if manifest.may_have(row.views) else manifest.views),
        ("grippers", meta.grippers, manifest.grippers),
        ("grippers", row.grippers, manifest.grippers),
        ("merged_arms", meta.merged_arms, options.merge_arms and len(manifest.grippers) > 1),
        ("depth and masks", meta.planes, options.planes),
        ("depth_range_m", len(meta.depth_range_m or ()), len(meta.views) if options.depth else 0),
        ("size", (meta.height, meta.width), (options.height, options.width)),
        ("spec", meta.spec, manifest.spec_id),
        ("stride", meta.stride, options.stride),
        ("codecs", (meta.rgb_codec, meta.action_codec), (options.rgb_codec, options.action_codec)),
        ("calibrated", meta.calibrated, not options.poses_only),
        ("source_sizes", len(meta.source_sizes), len(meta.views)),
    ):
        if found != expected:
            raise CorruptDatasetError(
                "is not what index and manifest say", where=row.key, field=name, expected=expected, found=found
            )
    for text in meta.instructions:
        check_instruction(text, row.key)
    for name, trajectory in sample.grippers.items():
        _count(layout.trajectory_member(name).removesuffix(".npz"), len(trajectory), row)
    if meta.sync_residual_s:
        _count("sync residuals", len(meta.sync_residual_s), row)
    cameras = sample.cameras if meta.calibrated else {}
    if meta.calibrated and tuple(cameras) != meta.views:
        raise CorruptDatasetError("cameras are of other views", where=row.key, found=" ".join(cameras))
    if meta.calibrated and drawn_K(cameras, options.spec) is not None:
        check_drawn_K(sample.read(layout.CAMERAS), cameras, options.spec, f"{row.key}.{layout.CAMERAS}")
    conditioning = sample.conditioning if options.conditioning else {}
    if options.conditioning and tuple(conditioning) != meta.views:
        raise CorruptDatasetError(
            "cameras for conditioning are of other views", where=row.key, found=" ".join(conditioning)
        )
    for view, camera in (*cameras.items(), *conditioning.items()):
        _count(f"camera {view}", len(camera), row)
        if (camera.height, camera.width) != (options.height, options.width):
            raise CorruptDatasetError("camera has another size", where=row.key, field=view)
    if options.videos_only and any(t.known.any() or np.isfinite(t.openness).any() for t in sample.grippers.values()):
        raise CorruptDatasetError("has poses in a data set of videos alone", where=row.key)
    overlapping = overlapping_frames(sample.grippers, cameras, options.spec) if meta.merged_arms else ()
    if meta.overlapping_frames != overlapping:
        raise CorruptDatasetError(
            "is not what trajectories and cameras say", where=row.key, field="overlapping_frames", expected=overlapping
        )
    kinds = [("rgb", ""), *((kind, "") for kind in options.planes)]
    if options.action_codec != "none":
        kinds += [("action", gripper) for gripper in sample.action_names]
    for view in meta.views:
        for stream, gripper in kinds:
            info = sample.video_info(view, stream, gripper)
            kind = f"{stream}.{gripper}" if gripper else stream
            _count(f"{view}.{kind}", info.frames, row)
            if (info.height, info.width) != (options.height, options.width):
                raise CorruptDatasetError(
                    "video has another size",
                    where=row.key,
                    field=f"{view}.{kind}",
                    expected=f"{options.width}x{options.height}",
                    found=f"{info.width}x{info.height}",
                )
            # A zip of pictures has no rate.
            if info.fps and abs(info.fps / meta.fps - 1) > 1e-3:
                raise CorruptDatasetError(
                    "video has another frame rate",
                    where=row.key,
                    field=f"{view}.{kind}",
                    expected=meta.fps,
                    found=info.fps,
                )


def _count(what: str, found: int, row: SampleRow) -> None:
    if found != row.frames:
        raise CorruptDatasetError(
            "streams differ in their number of frames", where=row.key, field=what, expected=row.frames, found=found
        )


def check_planes(sample: Sample) -> None:
    """Decode every depth picture and mask of a sample.

    Raises:
        BadVideoError: One cannot be decoded.
        CorruptDatasetError: A depth is outside the range that the source states.
    """
    for kind in sample.meta.planes:
        for number, view in enumerate(sample.views):
            limits = sample.meta.depth_range_m[number] if kind == "depth" and sample.meta.depth_range_m else None
            for start in range(0, len(sample), CHUNK):
                window = slice(start, start + CHUNK)
                if kind == "mask":
                    sample.mask(view, window)
                    continue
                depth = sample.depth(view, window)
                known = depth[depth > 0]
                if limits is None or not len(known):
                    continue
                least, most = known.min() / 1000, known.max() / 1000
                if least < limits[0] - 1e-3 or most > limits[1] + 1e-3:
                    raise CorruptDatasetError(
                        "depth is outside the range that the source states",
                        where=sample.key,
                        field=f"{view}.depth",
                        expected=f"{limits[0]:g} … {limits[1]:g} m",
                        found=f"{least:g} … {most:g} m",
                    )


def has_two_views(
    trajectory: GripperTrajectory,
    cameras: dict[str, CameraTrack],
    spec: ActionImageSpec,
    apart: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """``(T,)`` frames in which one view shows all three keypoints and another at least one.

    Args:
        trajectory: T poses.
        cameras: V cameras.
        spec: How the pictures are drawn.
        apart: ``(V, T, 3)`` keypoints that may count; all by default.
    """
    uv, valid = project_keypoints(trajectory, cameras, spec)
    limit = np.array([spec.width - 1, spec.height - 1])
    shown = valid & ((uv >= 0) & (uv <= limit)).all(axis=-1)
    if apart is not None:
        shown &= apart
    count = np.sort(shown.sum(axis=-1), axis=0)
    if len(count) < 2:
        return np.zeros(len(trajectory), bool)
    return np.asarray((count[-1] == 3) & (count[-2] >= 1) & trajectory.known)


def decode_sample(sample: Sample, spec: ActionImageSpec) -> dict[str, DecodedTrajectory]:
    """Decode the stored action videos of all views of a sample, some frames at a time: a trajectory a gripper.

    A merged picture of two grippers is taken apart as `decode` does it; what the sample says of them only names them.
    Of more, the action images of the *others* are subtracted, and keypoints that one of theirs overlaps do not count.

    Args:
        sample: Of a data set that stores action images.
        spec: How they are drawn.

    Raises:
        BadVideoError: A video cannot be decoded.
        DecodeError: A video does not fit the spec.
    """
    if not sample.meta.merged_arms:
        return {name: _decode_one(sample, spec, name, {}) for name in sample.grippers}
    if len(sample.grippers) > COUNT:
        return {
            name: _decode_one(sample, spec, name, {n: t for n, t in sample.grippers.items() if n != name})
            for name in sample.grippers
        }
    views = [
        ArmBlobs.concatenate([measure_arms(chunk, spec) for chunk in sample.iter_action(view, CHUNK)])
        for view in sample.views
    ]
    places = {name: trajectory.position for name, trajectory in sample.grippers.items()}
    return solve_arms(views, sample.cameras, spec, places, times=sample.times)


def _decode_one(
    sample: Sample, spec: ActionImageSpec, gripper: str, others: dict[str, GripperTrajectory]
) -> DecodedTrajectory:
    """One gripper; of pictures merged with ``others``, with what is known of them."""
    apart = _apart(sample, spec, gripper) if others else None
    measured = []
    for number, view in enumerate(sample.views):
        chunks, start = [], 0
        for chunk in sample.iter_action(view, CHUNK, "" if others else gripper):
            window = slice(start, start + len(chunk))
            start = window.stop
            if others:
                drawn = render_merged(others, sample.cameras[view], spec, window)
                # Where the sum was clipped, this leaves a flat top, which has the same centre.
                chunk = cv2.subtract(chunk.reshape(-1), drawn.reshape(-1)).reshape(chunk.shape)
            chunks.append(measure_blobs(chunk, spec))
        blobs = BlobMeasurements.concatenate(chunks)
        measured.append(blobs if apart is None else blobs.restricted(apart[number]))
    return solve(measured, sample.cameras, spec, times=sample.times)


def _apart(sample: Sample, spec: ActionImageSpec, gripper: str) -> NDArray[np.bool_]:
    """``(V, T, 3)`` keypoints of a gripper that no other one overlaps in a merged picture."""
    apart = separate_blobs(sample.grippers, sample.cameras, spec)
    return np.asarray(apart[list(sample.grippers).index(gripper)])


def round_trips(sample: Sample, spec: ActionImageSpec) -> list[RoundTrip]:
    """Decode the stored action videos of all views and hold each gripper against its stored trajectory.

    Args:
        sample: Of a data set that stores action images.
        spec: How they are drawn.

    Raises:
        BadVideoError: A video cannot be decoded.
        DecodeError: A video does not fit the spec.
    """
    decoded = decode_sample(sample, spec)
    return [_round_trip(sample, spec, gripper, decoded[gripper]) for gripper in sample.grippers]


def _round_trip(sample: Sample, spec: ActionImageSpec, gripper: str, decoded: DecodedTrajectory) -> RoundTrip:
    truth = sample.grippers[gripper]
    apart = _apart(sample, spec, gripper) if sample.meta.merged_arms else None
    expected = has_two_views(truth, sample.cameras, spec, apart)
    alone = expected if apart is None else has_two_views(truth, sample.cameras, spec)
    if apart is not None:
        # With what is apart the poses may still not say which blobs, or which gripper, are whose.
        expected &= ~np.isin(decoded.reason, [r.value for r in UNTOLD])
    judged = expected & decoded.valid
    angle = rotations.angle_between(truth.rotation[judged], decoded.trajectory.rotation[judged])
    distance = np.linalg.norm(truth.position[judged] - decoded.trajectory.position[judged], axis=-1)
    stored, found = truth.openness[judged], decoded.trajectory.openness[judged]
    if spec.openness == "binary":
        right = (stored > spec.openness_threshold) == (found > spec.openness_threshold)
    else:
        right = np.abs(stored - found) <= OPENNESS_TOLERANCE
    return RoundTrip(
        key=sample.key,
        frames=np.flatnonzero(judged),
        position_mm=distance * 1000,
        rotation_deg=np.degrees(np.asarray(angle)),
        openness_right=int((right & np.isfinite(found)).sum()),
        undecodable=int((~expected).sum()),
        missed=int((expected & ~decoded.valid).sum()),
        gripper=gripper,
        overlapping=int((alone & ~expected).sum()),
    )

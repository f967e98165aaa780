"""Chains of transforms: ROS' ``/tf`` and ``/tf_static``, and Foxglove's frame transforms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InvalidTrajectoryError, WrongFormatError
from ....geometry import exact, rotations, transforms
from ...recording.streams import seconds
from ...recording.sync import PoseSamples, ordered
from .messages import Messages, unit_quaternions
from .record import stamp_of

FloatArray = NDArray[np.float64]
_STATIC = 1e-6
"""Largest change, in metres and of a quaternion, of a frame that stands still and is published again and again."""


def transforms_of(message: Any) -> Iterator[tuple[str, str, int, Any, Any]]:
    """Parent, child, stamp in nanoseconds, translation and rotation of the transforms in a message."""
    many = getattr(message, "transforms", None)
    for one in [message] if many is None else many:
        try:
            if hasattr(one, "parent_frame_id"):
                yield one.parent_frame_id, one.child_frame_id, stamp_of(one), one.translation, one.rotation
            else:
                of = one.transform
                yield one.header.frame_id, one.child_frame_id, stamp_of(one), of.translation, of.rotation
        except AttributeError as error:
            # JSON holds what its writer wrote, whatever its schema is called.
            raise WrongFormatError(f"is not a transform: {error}") from None


def _is_static(topic: str) -> bool:
    return topic.rstrip("/").rpartition("/")[2] == "tf_static"


class TfTree:
    """The transforms of ``/tf`` and ``/tf_static``: for each child frame its parent and poses over time.

    What is published as static has no time: of several messages about a frame the last one holds, as in tf2.
    """

    def __init__(self, streams: Mapping[str, Messages], where: object) -> None:
        self.where = where
        self.parent: dict[str, str] = {}
        self._poses: dict[str, PoseSamples] = {}
        raw: dict[str, list[tuple[int, Any, Any]]] = {}
        self._fixed: set[str] = set()
        # Static ones last, so that they replace what was said of their frames before.
        topics = sorted(streams.items(), key=lambda item: _is_static(item[0]))
        for topic, messages in topics:
            for message in messages.values:
                for above, below, stamp, translation, rotation in transforms_of(message):
                    child, parent = str(below).lstrip("/"), str(above).lstrip("/")
                    if self.parent.setdefault(child, parent) != parent:
                        raise WrongFormatError(
                            "a frame has two parents",
                            where=where,
                            field=child,
                            found=f"{self.parent[child]} and {parent}",
                        )
                    if _is_static(topic):
                        if child in raw and child not in self._fixed:
                            raise WrongFormatError(
                                "a frame is published as static and as moving", where=where, field=child
                            )
                        self._fixed.add(child)
                        raw[child] = [(stamp, translation, rotation)]
                    else:
                        raw.setdefault(child, []).append((stamp, translation, rotation))
        for child, samples in raw.items():
            at = [s[1] for s in samples]
            turn = [s[2] for s in samples]
            self._poses[child] = PoseSamples(
                seconds(np.asarray([s[0] for s in samples], dtype=np.int64), "ns"),
                np.asarray([(p.x, p.y, p.z) for p in at], dtype=np.float64),
                unit_quaternions(np.asarray([(q.x, q.y, q.z, q.w) for q in turn], dtype=np.float64)),
            )

    def _to_root(self, frame: str) -> list[str]:
        path = [frame]
        while path[-1] in self.parent:
            if self.parent[path[-1]] in path:
                raise WrongFormatError("frames form a circle", where=self.where, field=frame)
            path.append(self.parent[path[-1]])
        return path

    def chain(self, parent: str, child: str) -> PoseSamples | FloatArray:
        """The pose of ``child`` in ``parent``: ``(4, 4)`` where nothing between them moves, else over time.

        Of several moving joints the one with the most samples sets the times; the others are interpolated to them.

        Raises:
            WrongFormatError: A frame is not in the tree, or the two are not connected.
            InvalidTrajectoryError: A gap in a moving joint.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        frames = sorted({*self.parent, *self.parent.values()})
        for frame in (parent, child):
            if frame not in frames:
                raise WrongFormatError(
                    "tf has no such frame", where=self.where, expected=" | ".join(frames[:60]), found=frame
                )
        up, down = self._to_root(child), self._to_root(parent)
        common = next((f for f in up if f in down), None)
        if common is None:
            raise WrongFormatError("tf frames are not connected", where=self.where, found=f"{parent} and {child}")
        # parent_from_child = inverse(common_from_parent) @ common_from_child
        edges = [(f, True) for f in down[: down.index(common)]] + [(f, False) for f in reversed(up[: up.index(common)])]
        unset = next((f for f, _ in edges if not np.isfinite(self._poses[f].quaternion_xyzw).any()), None)
        if unset is not None:
            raise InvalidTrajectoryError(
                "the rotation of a transform was never set",
                where=self.where,
                field=f"tf {unset}",
                expected="a quaternion of length 1",
                hint="Give the camera's pose in a camera file, or as world_from_camera.",
            )
        moving = [f for f, _ in edges if not self._static(f)]
        if not moving:
            pose = np.eye(4)
            for frame, inverse in edges:
                step = self._matrix(frame)
                pose = np.asarray(exact.matmul(pose, transforms.invert(step) if inverse else step))
            return pose
        cleaned = {f: self._poses[f].cleaned(f"tf {f}") for f in moving}
        lead = max(moving, key=lambda f: len(cleaned[f].times))
        start = max(c.times[0] for c in cleaned.values())
        end = min(c.times[-1] for c in cleaned.values())
        times = cleaned[lead].times
        times = times[(times >= start) & (times <= end)]
        if len(times) == 0:
            raise WrongFormatError("tf joints do not overlap in time", where=self.where, field=", ".join(moving))
        pose = np.broadcast_to(np.eye(4), (len(times), 4, 4))
        for frame, inverse in edges:
            if frame in cleaned:
                position, q = cleaned[frame].at(times, f"tf {frame}", None)
                step = np.asarray(transforms.make_transform(rotations.matrix_from_quaternion(q), position))
            else:
                step = self._matrix(frame)
            pose = np.asarray(exact.matmul(pose, transforms.invert(step) if inverse else step))
        q = rotations.quaternion_from_matrix(pose[:, :3, :3])
        return PoseSamples(times, pose[:, :3, 3], np.asarray(q))

    def _static(self, frame: str) -> bool:
        poses = self._poses[frame]
        changes = (np.ptp(poses.position, axis=0).max(), np.ptp(poses.quaternion_xyzw, axis=0).max())
        return frame in self._fixed or bool(max(changes) < _STATIC)

    def _matrix(self, frame: str) -> FloatArray:
        poses = self._poses[frame]
        first = ordered(poses.times, f"tf {frame}", poses.finite)[0]
        rotation = rotations.matrix_from_quaternion(poses.quaternion_xyzw[first])
        return np.asarray(transforms.make_transform(rotation, poses.position[first]))

"""Read a data set: iterate over its samples, or take one by its key; nothing is decoded until it is asked for."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    CorruptDatasetError,
    MissingCalibrationError,
    MissingFrameError,
    StorageError,
    WrongFormatError,
    suggestion,
)
from ..model import CameraTrack, GripperTrajectory
from ..objectstore import RemotePath
from ..raster import render_view
from ..schemas import ActionImageSpec, DatasetManifest, SampleMeta, index_schema
from ..schemas.dataset import parse
from ..video import ENDINGS, iter_chunks, open_video, read_frames, read_planes
from . import layout, sample
from .layout import Place
from .manifest import read_manifest
from .members import Sidecars, read_index, read_members

if TYPE_CHECKING:
    import pyarrow as pa

Image = NDArray[np.uint8]


class Sample:
    """One sample; each part is read from the shard when it is asked for, and not kept unless said so.

    Attributes:
        key: Its key, unique in the data set.
        spec: How its action images are drawn; None for a shard that is read without its data set.
    """

    def __init__(
        self,
        key: str,
        tar: Place,
        members: Mapping[str, tuple[int, int]],
        spec: ActionImageSpec | None,
        digests: Mapping[str, str] | None = None,
    ) -> None:
        self.key = key
        self.spec = spec
        self._tar = tar
        self._members = dict(members)
        self._digests = None if digests is None else dict(digests)

    def __repr__(self) -> str:
        return f"<Sample {self.key} of {self._tar}>"

    @property
    def members(self) -> tuple[str, ...]:
        """Names of its members, without the key."""
        return tuple(self._members)

    def size(self, member: str) -> int:
        """Bytes of a member; `KeyError` where there is none."""
        return self._members[member][1]

    def read(self, member: str) -> bytes:
        """The bytes of a member.

        Raises:
            CorruptDatasetError: It has no such member, the shard is truncated, or the member was changed.
        """
        if member not in self._members:
            raise CorruptDatasetError(
                "has no such member", where=self.key, expected=" ".join(self._members), found=member
            )
        return read_members(self._tar, self.key, {member: self._members[member]}, self._digests)[member]

    def _where(self, member: str) -> str:
        return f"{self._tar}: {self.key}.{member}"

    @cached_property
    def meta(self) -> SampleMeta:
        """What its ``.json`` says (kept)."""
        return parse(SampleMeta, self.read(layout.META), self._where(layout.META))

    @property
    def instruction(self) -> str:
        """What the demonstration does, in words."""
        return self.meta.instruction

    @property
    def views(self) -> tuple[str, ...]:
        """Names of its views."""
        return self.meta.views

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.meta.fps

    def __len__(self) -> int:
        return self.meta.frames

    @property
    def gripper_names(self) -> tuple[str, ...]:
        """Names of its grippers, in order; empty where there is one, without a name."""
        return self.meta.grippers

    @cached_property
    def grippers(self) -> dict[str, GripperTrajectory]:
        """The grippers at each frame (kept), by name, of one under the name ""; frames without a pose are NaN.

        Raises:
            CorruptDatasetError: One is damaged, or they differ in their times.
        """
        names = {name: layout.trajectory_member(name) for name in self.gripper_names or ("",)}
        found = {name: sample.trajectory_from(self.read(m), self._where(m)) for name, m in names.items()}
        first = next(iter(found.values()))
        for name, trajectory in found.items():
            if not np.array_equal(trajectory.times, first.times):
                raise CorruptDatasetError("has other times than the first", where=self._where(names[name]))
        return found

    @property
    def trajectory(self) -> GripperTrajectory:
        """The gripper of a sample with one, at each frame; frames without a pose are NaN.

        Raises:
            WrongFormatError: It has several: see ``grippers``.
        """
        if len(self.grippers) > 1:
            raise WrongFormatError(
                "has several grippers, and one was asked for",
                where=self.key,
                field="trajectory",
                found=" ".join(self.grippers),
                hint="Use its grippers, by name.",
            )
        return next(iter(self.grippers.values()))

    @property
    def times(self) -> NDArray[np.float64]:
        """``(T,)`` seconds of the frames."""
        return next(iter(self.grippers.values())).times

    @property
    def action_names(self) -> tuple[str, ...]:
        """What each view has an action video of: the names of the grippers, or "" for one that shows all there are."""
        return ("",) if self.meta.merged_arms else self.gripper_names or ("",)

    @cached_property
    def cameras(self) -> dict[str, CameraTrack]:
        """The camera of each view, for pictures of the data set's size (kept).

        Raises:
            MissingCalibrationError: The data set was made without cameras (``--poses-only``).
        """
        if not self.meta.calibrated:
            raise MissingCalibrationError(
                "no camera is known of this sample, so it has no action images", where=self.key, field="cameras"
            )
        return sample.cameras_from(self.read(layout.CAMERAS), self._where(layout.CAMERAS))

    @cached_property
    def conditioning(self) -> dict[str, CameraTrack]:
        """Cameras of a frame and a scale of their own, of each view, for a model to be conditioned on (kept).

        Raises:
            MissingCalibrationError: The data set was made without such cameras.
        """
        if layout.CONDITIONING not in self._members:
            raise MissingCalibrationError(
                "has no cameras for conditioning", where=self.key, hint="actionimg convert --conditioning-cameras"
            )
        return sample.cameras_from(self.read(layout.CONDITIONING), self._where(layout.CONDITIONING))

    def rgb(self, view: str, frames: slice | Sequence[int] | None = None) -> Image:
        """Camera pictures ``(n, H, W, 3)`` uint8 RGB of a view: all, a slice, or the frames named.

        Raises:
            WrongFormatError: There is no such view.
            MissingFrameError: There is no such frame.
            BadVideoError: The video is damaged.
        """
        name = self._video(view, "rgb")
        return read_frames(self.read(name), self._indices(frames), self._where(name))

    def action(self, view: str, frames: slice | Sequence[int] | None = None, gripper: str = "") -> Image:
        """Action images ``(n, H, W, 3)`` uint8 RGB of a view; drawn here where the data set stores none.

        Args:
            view: Name of the view.
            frames: All, a slice, or the frames named.
            gripper: Which gripper's, where each has its own (see ``action_names``).

        Raises:
            WrongFormatError: There is no such view or gripper, or it is not said which.
        """
        indices = self._indices(frames)
        if self.meta.action_codec != "none":
            name = self._video(view, "action", gripper)
            return read_frames(self.read(name), indices, self._where(name))
        self._check_gripper(gripper)
        self._check_view(view)
        if self.spec is None:
            raise CorruptDatasetError(
                "stores no action images, and how to draw them is in its dataset.json", where=self.key
            )
        if indices is not None and len(indices) == 0:
            return np.empty((0, self.spec.height, self.spec.width, 3), np.uint8)
        # A trajectory's times increase, so the frames are drawn in their order and then put in the one asked for.
        order = np.arange(len(self)) if indices is None else np.unique(np.asarray(indices, np.intp))
        drawn = render_view(self.grippers[gripper][order], self.cameras[view][order], self.spec)
        return drawn if indices is None else drawn[np.searchsorted(order, indices)]

    def iter_rgb(self, view: str, chunk: int = 32) -> Iterator[Image]:
        """All camera pictures of a view, ``chunk`` at a time."""
        name = self._video(view, "rgb")
        yield from iter_chunks(self.read(name), chunk, self._where(name))

    def depth(self, view: str, frames: slice | Sequence[int] | None = None) -> NDArray[np.uint16]:
        """Depth ``(n, H, W)`` uint16 of a view, millimetres along the camera's axis; 0 where it is not known.

        Raises:
            WrongFormatError: There is no such view, or no depth is stored.
        """
        name = self._video(view, "depth")
        return read_planes(self.read(name), "depth", self._indices(frames), self._where(name))

    def mask(self, view: str, frames: slice | Sequence[int] | None = None) -> NDArray[np.uint32]:
        """Ids ``(n, H, W)`` uint32 of what each pixel of a view shows.

        Raises:
            WrongFormatError: There is no such view, or no mask is stored.
        """
        name = self._video(view, "mask")
        return read_planes(self.read(name), "mask", self._indices(frames), self._where(name))

    def iter_action(self, view: str, chunk: int = 32, gripper: str = "") -> Iterator[Image]:
        """All action images of a view, ``chunk`` at a time; ``gripper`` as for `action`."""
        if self.meta.action_codec == "none":
            for start in range(0, len(self), chunk):
                yield self.action(view, slice(start, start + chunk), gripper)
            return
        name = self._video(view, "action", gripper)
        yield from iter_chunks(self.read(name), chunk, self._where(name))

    def video_info(self, view: str, kind: str = "rgb", gripper: str = "") -> Any:
        """Size, frames, rate and codec of a stored video (rgb, action, depth, mask); frames are counted."""
        name = self._video(view, kind, gripper)
        with open_video(self.read(name), self._where(name)) as video:
            return video.info

    def _check_view(self, view: str) -> None:
        if view not in self.meta.views:
            raise WrongFormatError(
                "has no such view",
                where=self.key,
                expected=" ".join(self.views),
                found=view,
                hint=suggestion(view, self.views),
            )

    def _check_gripper(self, gripper: str) -> None:
        if gripper in self.action_names:
            return
        if self.action_names == ("",):
            hint = "Its action images show all grippers together." if self.gripper_names else None
            raise WrongFormatError("has no such gripper", where=self.key, found=gripper, hint=hint)
        raise WrongFormatError(
            "has one action video a gripper: name one" if not gripper else "has no such gripper",
            where=self.key,
            field="gripper",
            expected=" ".join(self.action_names),
            found=gripper or "none named",
        )

    def _video(self, view: str, kind: str, gripper: str = "") -> str:
        self._check_view(view)
        if kind == "rgb":
            return layout.rgb_member(view, ENDINGS[self.meta.rgb_codec])
        if kind in ("depth", "mask"):
            if kind not in self.meta.planes:
                raise WrongFormatError(f"stores no {kind}", where=self.key, field=view)
            return layout.plane_member(view, kind)
        if self.meta.action_codec == "none":
            raise WrongFormatError("stores no action images", where=self.key, field=view)
        self._check_gripper(gripper)
        return layout.action_member(view, ENDINGS[self.meta.action_codec], gripper)

    def _indices(self, frames: slice | Sequence[int] | None) -> Sequence[int] | None:
        if frames is None:
            return None
        count = len(self)
        if isinstance(frames, slice):
            return range(count)[frames]
        indices = [i + count if i < 0 else i for i in map(int, frames)]
        bad = next((i for i in indices if not 0 <= i < count), None)
        if bad is not None:
            raise MissingFrameError("no such frame", where=self.key, expected=f"0 … {count - 1}", found=bad)
        return indices


class Dataset:
    """The samples of a data set, or of one shard; picklable, and no file stays open.

    Attributes:
        path: The folder, or the shard.
        manifest: The data set's ``dataset.json``; None for a single shard.
        table: One row a sample (Arrow), as `actionimg_data.schemas.index_schema` says; for a single shard only key,
            shard and members.
    """

    def __init__(self, path: Place, manifest: DatasetManifest | None, table: pa.Table, verify: bool = False) -> None:
        self.path = path
        self.manifest = manifest
        self.table = table
        self._sidecars = Sidecars(path, manifest) if verify and manifest is not None else None

    @cached_property
    def _number(self) -> dict[str, int]:
        keys = self.keys()
        number = {key: i for i, key in enumerate(keys)}
        if len(number) != len(keys):
            raise CorruptDatasetError("two samples have one key", where=self.path)
        return number

    @property
    def spec(self) -> ActionImageSpec | None:
        """How its action images are drawn; None for a single shard."""
        return None if self.manifest is None else self.manifest.options.spec

    def keys(self) -> list[str]:
        """Keys of all samples, in order."""
        keys: list[str] = self.table["key"].to_pylist()
        return keys

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __contains__(self, key: object) -> bool:
        return key in self._number

    @overload
    def __getitem__(self, index: int | str) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | str | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        if isinstance(index, str):
            if index not in self._number:
                raise KeyError(index)
            index = self._number[index]
        number = range(len(self))[index]
        key, shard, members = (self.table[name][number].as_py() for name in ("key", "shard", "members"))
        tar = self.path / f"{shard}.tar" if self.manifest is not None else self.path
        places = {m["name"]: (m["offset"], m["size"]) for m in members}
        digests = None if self._sidecars is None else self._sidecars.digests(shard, key)
        return Sample(key, tar, places, self.spec, digests)

    def __iter__(self) -> Iterator[Sample]:
        for i in range(len(self)):
            yield self[i]


def open_dataset(path: str | Path | RemotePath, verify: bool = True) -> Dataset:
    """Open a data set's folder, or a single shard (``.tar``).

    Args:
        path: A folder that ``actionimg convert`` wrote, or one of its shards; or a URL of either, e.g. ``s3://…``, of
            which the ranges are read that are asked for.
        verify: Hold the index, and every member that is read, against its SHA-256. A single shard has none: only its
            archive, its schemas and its decoders are there to notice that it was changed.

    Returns:
        A sequence of samples in the order of the shards; ``dataset[3]``, ``dataset["key"]``, ``for s in dataset``.

    Raises:
        SourceNotFoundError: Nothing is there, or it is not a data set.
        CorruptDatasetError: The manifest, the index or the shard is damaged, or the data set is not complete.
    """
    path = layout.place(path)
    if path.is_file():
        return Dataset(path, None, _scan(path))
    manifest = read_manifest(path)
    return Dataset(path, manifest, read_index(path, manifest, verify), verify)


def _scan(tar: Place) -> pa.Table:
    """Samples of a shard, from its tar headers."""
    import pyarrow as pa

    rows = [
        {
            "key": key,
            "shard": tar.stem,
            "members": [{"name": n, "offset": o, "size": z} for n, (o, z) in members.items()],
        }
        for key, members in scan_tar(tar).items()
    ]
    wanted = ("key", "shard", "members")
    return pa.Table.from_pylist(rows, schema=pa.schema([index_schema().field(name) for name in wanted]))


def scan_tar(tar: Place) -> dict[str, dict[str, tuple[int, int]]]:
    """Key to member name to (offset, size), from a shard's tar headers.

    Raises:
        CorruptDatasetError: Not a tar, or a member is no plain file, is in a folder, has no key, or is there twice.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with layout.open_place(tar, 1 << 16) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                key, dot, member = info.name.partition(".")
                if not info.isreg() or not dot or not key or "/" in info.name:
                    raise CorruptDatasetError("has an unexpected member", where=tar, found=info.name)
                if member in samples.setdefault(key, {}):
                    raise CorruptDatasetError("has a member twice", where=tar, found=info.name)
                samples[key][member] = (info.offset_data, info.size)
    except StorageError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, CorruptDatasetError):
            raise
        raise CorruptDatasetError(f"is not a readable tar: {error}", where=tar) from None
    return samples

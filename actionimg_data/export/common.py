"""What all exports share: where they write, how shards get there, and what they report."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import CorruptDatasetError, OutputExistsError
from ..objectstore import RemotePath
from ..schemas import DatasetManifest
from ..shards import Dataset, Sample, layout, open_dataset
from ..video import ENDINGS, action_encoding, encode_bytes

Link = Literal["hard", "symbolic", "copy"]


@dataclass
class Result:
    """What an export wrote.

    Args:
        kind: Which export.
        dest: Where.
        samples: Samples of the data set that are in it.
        left_out: Key and reason of the samples that are not.
        notes: What the user should know or do next.
    """

    kind: str
    dest: str
    samples: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def opened(path: str | Path) -> tuple[Dataset, DatasetManifest]:
    """A complete data set and its manifest.

    Raises:
        CorruptDatasetError: It is a single shard, incomplete or damaged.
        SourceNotFoundError: There is none.
    """
    dataset = open_dataset(path)
    if dataset.manifest is None:
        raise CorruptDatasetError("is a single shard; exports take a whole data set", where=path)
    return dataset, dataset.manifest


@contextlib.contextmanager
def new_folder(dest: str | Path) -> Iterator[Path]:
    """A folder to write into, that becomes ``dest`` when all went well, and is removed when not.

    Raises:
        OutputExistsError: ``dest`` exists and is not an empty folder.
        OutputError: It cannot be written.
    """
    dest = Path(dest)
    if dest.is_file() or (dest.is_dir() and any(dest.iterdir())):
        raise OutputExistsError("exists already", where=dest, hint="Exports write new folders only.")
    part = layout.temporary(dest)
    with layout.output_errors(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        try:
            yield part
            if dest.is_dir():
                dest.rmdir()
            os.replace(part, dest)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def place(source: layout.Place, target: Path, link: Link) -> None:
    """Make a file of a data set appear at ``target``: hard-linked where that is possible, linked, copied or fetched."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, RemotePath):
        source.download(target)
        return
    if link == "symbolic":
        target.symlink_to(source.resolve())
        return
    if link == "hard":
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def shard_paths(manifest: DatasetManifest) -> list[str]:
    """Paths within the data set of the shards that hold samples."""
    return [record.path for record in manifest.shards if record.samples]


def common_rate(rates: Sequence[float], where: object) -> float:
    """The one frame rate of all samples.

    Raises:
        CorruptDatasetError: They differ.
    """
    if max(rates) > min(rates) * (1 + 1e-9):
        raise CorruptDatasetError(
            "samples differ in frame rate, and this layout has one for all",
            where=where,
            field="fps",
            found=f"{min(rates):g} … {max(rates):g}",
        )
    return rates[0]


def h264_action(sample: Sample, view: str, gripper: str = "") -> bytes:
    """A view's action images as an H.264 MP4: as they are stored, or encoded from what is stored or drawn.

    Args:
        sample: Of a data set with cameras.
        view: One of its views.
        gripper: One of its ``action_names``.
    """
    meta = sample.meta
    if meta.action_codec == "h264":
        return sample.read(layout.action_member(view, ENDINGS["h264"], gripper))
    pictures = (frame for chunk in sample.iter_action(view, gripper=gripper) for frame in chunk)
    return encode_bytes(pictures, action_encoding("h264"), meta.fps, meta.height, meta.width)

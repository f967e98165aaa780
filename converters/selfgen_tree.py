"""What the tree of a public fork ("selfgen") has besides the published one (`action_images`).

Its demos were made in RLBench at the videos' own 20 Hz: ``actions.npy`` has a row a frame, cameras are keyed "0", "1",
…; beside them lie ``meta.json`` with the instruction, ``handles.json``, and for each view ``depth.npz`` (T, H, W),
metres in 16-bit floats, and ``mask.npz`` (T, H, W), ids. What the arrays are called is not stated: each file holds one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadFileError, BadImageError, FrameCountError, InvalidTextError
from ..model import millimetres
from ..model.episode import check_instruction
from ..untrusted.arrays import NpzRows
from ..untrusted.text import load_json
from ..video import VideoFrames

META = "meta.json"
_MAX_ID = 1 << 24


@dataclass(frozen=True)
class Planes:
    """Depth or masks beside a video: a frame source that unpacks a picture when it is asked for.

    Args:
        array: ``(T, H, W)``.
        kind: ``depth`` or ``mask``.
    """

    array: NpzRows
    kind: str

    @property
    def height(self) -> int:
        """Picture height in pixels."""
        return self.array.shape[1]

    @property
    def width(self) -> int:
        """Picture width in pixels."""
        return self.array.shape[2]

    def __len__(self) -> int:
        return self.array.shape[0]

    def frames(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint16] | NDArray[np.uint32]]:
        """Depth ``(H, W)`` in millimetres, or ids, at ``indices``; `BadImageError` names an id that cannot be."""
        for index, row in zip(indices, self.array.rows(indices), strict=True):
            if self.kind == "depth":
                yield millimetres(row)
                continue
            if row.size and not (int(row.min()) >= 0 and int(row.max()) < _MAX_ID):
                raise BadImageError(
                    "holds an id that cannot be",
                    where=self.array.path,
                    field=f"[{index}]",
                    expected=f"0 … {_MAX_ID - 1}",
                    found=f"{row.min()} … {row.max()}",
                )
            yield row.astype(np.uint32)


def planes(view: Path, kind: str, video: VideoFrames) -> Planes | None:
    """A view's ``depth.npz`` or ``mask.npz``; None where there is none.

    Raises:
        WrongFormatError: It holds several arrays.
        BadFileError: It holds something else than pictures of this kind.
        FrameCountError: Another number of them than the video has.
        BadImageError: Of another size than the video's.
    """
    path = view / f"{kind}.npz"
    if not path.is_file():
        return None
    array = NpzRows.open(path)
    kinds = "f" if kind == "depth" else "iu"
    if len(array.shape) != 3 or array.dtype.kind not in kinds:
        expected = f"(T, H, W) {'metres' if kind == 'depth' else 'whole numbers'}"
        found = f"{array.dtype} {array.shape}"
        raise BadFileError(f"holds no {kind}", where=path, expected=expected, found=found)
    if array.shape[0] != len(video):
        raise FrameCountError(
            f"{kind} and video differ in length", where=path, expected=len(video), found=array.shape[0]
        )
    if array.shape[1:] != (video.height, video.width):
        found = f"{array.shape[2]}x{array.shape[1]}"
        raise BadImageError(
            f"{kind} has another size", where=path, expected=f"{video.width}x{video.height}", found=found
        )
    return Planes(array, kind)


def instructions(episode: Path) -> tuple[str, ...]:
    """The texts of ``meta.json``; empty where there is no such file.

    Raises:
        BadFileError: It is no object.
        InvalidTextError: It says no instruction, or none that is text.
    """
    path = episode / META
    if not path.is_file():
        return ()
    value: Any = load_json(path)
    if not isinstance(value, dict):
        raise BadFileError("is no object", where=path, found=type(value).__name__)
    told = value.get("instruction", value.get("instructions"))
    texts = [told] if isinstance(told, str) else told if isinstance(told, list) else []
    if not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise InvalidTextError("says no instruction", where=path, field="instruction", found=repr(told))
    for text in texts:
        check_instruction(text.strip(), str(path))
    return tuple(dict.fromkeys(text.strip() for text in texts))

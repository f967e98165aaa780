"""What RLBench's two trees have in common: episode folders, CoppeliaSim's cameras, variation descriptions.

Episodes lie in ``TASK/GROUP/episodes/episodeN``. GROUP is ``variationN`` or ``all_variations``, or is left out. Folders
are visited in natural order (2 before 10).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import BadFileError, InvalidTextError
from ..model.episode import check_instruction
from ..untrusted import pickles
from .kit.tree import plain_id, subfolders

MAX_DEPTH: Final = 8
"""Folders below the source that are searched for episodes."""

_EPISODE = re.compile(r"episode\d+\Z")
_GROUP = re.compile(r"(all_variations|variation\d+)\Z")
_MARKS = ("low_dim_obs.pkl", "actions.npy")

DEMO_CLASSES = {
    ("rlbench.demo", "Demo"): "Demo",
    ("rlbench.backend.observation", "Observation"): "Observation",
    # PerAct2's fork: one arm, two arms, and what one arm of two says.
    ("rlbench.backend.observation", "UnimodalObservation"): "Observation",
    ("rlbench.backend.observation", "BimanualObservation"): "BimanualObservation",
    ("rlbench.backend.observation", "UnimodalObservationData"): "UnimodalObservationData",
}


@dataclass(frozen=True)
class EpisodeFolder:
    """One episode's folder and what its place in the tree says."""

    root: Path
    path: Path
    id: str
    task: str | None
    group: str | None

    @property
    def relative(self) -> str:
        """Path relative to the source, with forward slashes; "." where the source is the episode itself."""
        return self.path.relative_to(self.root).as_posix()

    def location(self) -> dict[str, str | None]:
        """What `from_location` needs, as JSON values."""
        return {"source": str(self.root), "path": self.relative, "task": self.task, "group": self.group}

    @classmethod
    def from_location(cls, id: str, location: Mapping[str, Any]) -> EpisodeFolder:
        """The folder of an `EpisodeRef`."""
        root = Path(location["source"])
        return cls(root, root / location["path"], id, location["task"], location["group"])


def find_episodes(root: Path, max_folders: int | None = None) -> Iterator[EpisodeFolder]:
    """Every episode folder at or under ``root``, lazily and in natural order.

    Args:
        root: Data set, task, variation, ``episodes`` or episode folder (absolute).
        max_folders: Give up quietly after looking into so many folders (None: never).
    """
    if _is_episode(root):
        yield _episode(root, root)
        return
    left = [max_folders if max_folders is not None else -1]
    yield from _walk(root, root, 0, left)


def _walk(root: Path, folder: Path, depth: int, left: list[int]) -> Iterator[EpisodeFolder]:
    if left[0] == 0:
        return
    left[0] -= 1
    for child in subfolders(folder):
        if _EPISODE.match(child.name):
            yield _episode(root, child)
        elif depth < MAX_DEPTH:
            yield from _walk(root, child, depth + 1, left)


def _is_episode(folder: Path) -> bool:
    return _EPISODE.match(folder.name) is not None or any((folder / name).is_file() for name in _MARKS)


def _episode(root: Path, path: Path) -> EpisodeFolder:
    task = group = None
    base = root
    above = path.parent
    if above.name == "episodes":
        above = above.parent
        if _GROUP.match(above.name):
            group, above = above.name, above.parent
        task = above.name or None
        if above == root or above in root.parents:
            base = above.parent
    elif root == path:
        base = path.parent
    parts = [p for p in path.relative_to(base).parts if p != "episodes"]
    return EpisodeFolder(root, path, plain_id("/".join(parts)), task, group)


def opencv_camera(
    K: NDArray[np.float64], world_from_camera: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A camera with focal lengths of either sign as the same camera with OpenCV axes.

    PyRep's `VisionSensor` states camera-to-world matrices for axes x left, y up, z forward, and negative focal
    lengths to match; ``uv = K inv(E) P / z`` holds as stored. With ``S = diag(sign fx, sign fy, 1)`` the pair
    ``(K S, E S)`` draws every point at the same pixel, and is ``E @ diag(-1, -1, 1, 1)`` and ``|f|`` for CoppeliaSim.

    Args:
        K: ``(..., 3, 3)`` intrinsics in pixels.
        world_from_camera: ``(..., 4, 4)`` camera-to-world.

    Returns:
        ``K`` with positive focal lengths, and the pose of the camera with OpenCV axes.
    """
    sign_x, sign_y = np.sign(K[..., 0, 0]), np.sign(K[..., 1, 1])
    one = np.ones_like(sign_x)
    with np.errstate(invalid="ignore"):  # what is not finite is refused by the model
        return (
            K * np.stack([sign_x, sign_y, one], axis=-1)[..., None, :] + 0.0,
            world_from_camera * np.stack([sign_x, sign_y, one, one], axis=-1)[..., None, :] + 0.0,
        )


def descriptions(path: str | os.PathLike[str]) -> tuple[str, ...] | str:
    """The texts of a ``variation_descriptions.pkl``, or, where it holds no text at all, the reason in words.

    Older dataset generators pickled an Observation under this name; that is known and harmless. A file that is
    damaged, or that mixes text with something else, is refused.

    Raises:
        BadFileError: The file is damaged, or its list holds something else than text.
        UnsafeFileError: The file asks for more than data needs.
        InvalidTextError: A text is empty, over 4096 characters, or holds control characters.
    """
    where = os.fspath(path)
    value: Any = pickles.load(where, records=DEMO_CLASSES)
    if isinstance(value, pickles.Record):
        return f"{os.path.basename(where)} holds a pickled {value.kind}"
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise BadFileError("bad contents", where=where, expected="a list of texts", found=type(value).__name__)
    if not value:
        return f"{os.path.basename(where)} is an empty list"
    for i, text in enumerate(value):
        if not isinstance(text, str):
            raise BadFileError("bad contents", where=where, field=f"[{i}]", expected="text", found=type(text).__name__)
        check_instruction(text.strip(), where)
    return tuple(text.strip() for text in value)


def instructions_of(folder: EpisodeFolder, task: str | None) -> tuple[tuple[str, ...], str]:
    """All descriptions of an episode and the name of their file; else the task's name, and why.

    Raises:
        InvalidTextError: Neither descriptions nor a task folder.
        ActionImgError: As `descriptions`.
    """
    name = "variation_descriptions.pkl"
    reason = f"no {name}"
    candidates = [folder.path / name]
    if folder.path.parent.name == "episodes":
        candidates.append(folder.path.parent.parent / name)
    file = next((path for path in candidates if path.is_file()), None)
    if file is not None:
        found = descriptions(file)
        if isinstance(found, tuple):
            return found, name
        reason = found
    if task is None:
        raise InvalidTextError("no instruction, and no task folder to name it", where=folder.path, found=reason)
    return (task.replace("_", " "),), f"task name ({reason})"

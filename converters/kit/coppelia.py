"""CoppeliaSim's cameras as OpenCV's, and RLBench's variation descriptions: shared by the two RLBench trees."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BadFileError, InvalidTextError
from ...model.episode import check_instruction
from ...untrusted import pickles as _safe_pickle
from .tree import EpisodeFolder

DEMO_CLASSES = {
    ("rlbench.demo", "Demo"): "Demo",
    ("rlbench.backend.observation", "Observation"): "Observation",
    # PerAct2's fork: one arm, two arms, and what one arm of two says.
    ("rlbench.backend.observation", "UnimodalObservation"): "Observation",
    ("rlbench.backend.observation", "BimanualObservation"): "BimanualObservation",
    ("rlbench.backend.observation", "UnimodalObservationData"): "UnimodalObservationData",
}


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
    value: Any = _safe_pickle.load(where, records=DEMO_CLASSES)
    if isinstance(value, _safe_pickle.Record):
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


def instructions(folder: EpisodeFolder, task: str | None) -> tuple[tuple[str, ...], str]:
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

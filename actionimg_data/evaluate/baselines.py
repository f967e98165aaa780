"""What stands beside a model's figures: the truth through a codec, and guesses that no model is needed for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..geometry import rotations
from ..model import GripperTrajectory
from ..shards import Dataset, Window
from ..video import action_encoding, encode_bytes, read_frames
from .prediction import Options, score_frames
from .score import Estimate, Scored, score

WHAT: Final = {
    "floor": "the truth, drawn, encoded as the predictions are, and decoded",
    "frozen": "the first pose, held",
    "task mean": "the mean of other episodes of the task at the same frames",
    "another episode": "the truth of another episode of the task at the same frames",
}
"""Name of each baseline and what it is."""

_LOSSLESS: Final = ("pictures", "array", "png", "ffv1", "gif")
_MOST_SIBLINGS: Final = 16


class Siblings:
    """Trajectories of other episodes of a task; some are read, and kept."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        tasks, episodes = dataset.table["task"].to_pylist(), dataset.table["episode"].to_pylist()
        self._number = {key: i for i, key in enumerate(dataset.keys())}
        self._episode: list[str] = episodes
        self._of_task: dict[str, list[int]] = {}
        for number, task in enumerate(tasks):
            self._of_task.setdefault(task, []).append(number)
        self._task: list[str] = tasks
        self._read = lru_cache(maxsize=64 * _MOST_SIBLINGS)(self._trajectories)

    def _trajectories(self, number: int) -> dict[str, GripperTrajectory]:
        return self._dataset[number].grippers

    def of(self, key: str, gripper: str) -> Iterator[GripperTrajectory]:
        """Up to 16 of other episodes of the sample's task, the next in the data set's order first."""
        number = self._number[key]
        same = self._of_task[self._task[number]]
        at = same.index(number)
        given = 0
        for other in [*same[at + 1 :], *same[:at]]:
            if self._episode[other] == self._episode[number]:
                continue
            trajectory = self._read(other).get(gripper)
            if trajectory is None or not trajectory.known.any():
                continue
            yield trajectory
            given += 1
            if given == _MOST_SIBLINGS:
                return


def baselines(window: Window, gripper: str, siblings: Siblings, codec: str, floor: bool) -> dict[str, Scored]:
    """The figures of each baseline for a window; of those that other episodes are needed for, where there are some.

    Args:
        window: Of the sample.
        gripper: Which one.
        siblings: Of the data set.
        codec: Of the prediction's videos.
        floor: Whether to draw, encode and decode the truth, which takes as long as a prediction.
    """
    truth, spec = window.grippers[gripper], window.spec
    found = {"frozen": score(Estimate.of(_frozen(truth)), truth, window.indices, spec)}
    if floor:
        streams = {view: iter([_through(codec, window, view, gripper)]) for view in window.views}
        found["floor"] = score_frames(streams, window, gripper, Options())
    others = [_at(other, window.indices, truth) for other in siblings.of(window.sample.key, gripper)]
    if others:
        found["another episode"] = score(Estimate.of(others[0]), truth, window.indices, spec)
        found["task mean"] = score(Estimate.of(_mean(others, truth)), truth, window.indices, spec)
    return found


def _through(codec: str, window: Window, view: str, gripper: str) -> NDArray[np.uint8]:
    """The true action pictures of a view as the codec of the predictions leaves them; lossy ones as H.264, crf 18."""
    drawn = window.action(view, "" if window.sample.meta.merged_arms else gripper)
    if codec in _LOSSLESS or window.height % 2 or window.width % 2:
        return drawn
    return read_frames(encode_bytes(drawn, action_encoding("h264"), window.fps, window.height, window.width))


def _frozen(truth: GripperTrajectory) -> GripperTrajectory:
    first = np.full(len(truth), int(np.argmax(truth.known)))
    return _rows(truth, first, truth)


def _at(other: GripperTrajectory, indices: NDArray[np.int64], truth: GripperTrajectory) -> GripperTrajectory:
    """Another trajectory at the same frames; its last is held where it is shorter."""
    return _rows(other, np.minimum(indices, len(other) - 1), truth)


def _rows(source: GripperTrajectory, rows: NDArray[np.int64], truth: GripperTrajectory) -> GripperTrajectory:
    return GripperTrajectory(
        source.position[rows], source.quaternion_xyzw[rows], source.openness[rows], truth.times, allow_missing=True
    )


def _mean(others: Sequence[GripperTrajectory], truth: GripperTrajectory) -> GripperTrajectory:
    """Means of position, rotation (Markley et al. 2007, *Averaging quaternions*) and openness, of the known poses."""
    known = np.stack([other.known for other in others])
    some = np.asarray(known.any(axis=0))
    count = np.maximum(known.sum(axis=0), 1)[:, None]
    position = np.where(known[..., None], np.stack([o.position for o in others]), 0).sum(axis=0) / count
    q = np.where(known[..., None], np.stack([o.quaternion_xyzw for o in others]), 0)
    _, vectors = np.linalg.eigh(np.einsum("nti,ntj->tij", q, q))
    quaternion = np.asarray(rotations.normalize(vectors[..., -1]))
    openness = np.stack([o.openness for o in others])
    told = np.asarray(np.isfinite(openness))
    mean_openness = np.where(told, openness, 0).sum(axis=0) / np.maximum(told.sum(axis=0), 1)
    return GripperTrajectory(
        np.where(some[:, None], position, np.nan),
        np.where(some[:, None], quaternion, np.nan),
        np.where(np.asarray(told.any(axis=0)), mean_openness, np.nan),
        truth.times,
        allow_missing=True,
    )

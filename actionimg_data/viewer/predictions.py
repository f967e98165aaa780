"""What ``actionimg evaluate`` left of a run: the worst predictions first, each drawn over its pictures."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import Any, Final

import cv2
import numpy as np

from ..errors import CorruptDatasetError, SourceNotFoundError
from ..evaluate.drawing import drawn, open_shown
from ..evaluate.page import badness
from ..evaluate.prediction import Options
from ..evaluate.run import read_predictions
from ..schemas.dataset import parse
from ..schemas.evaluation import Evaluation, PredictionRow, PredictionScores
from ..shards import Dataset, layout, open_dataset
from ..shards.layout import Place
from ..untrusted.parquet import load_parquet
from ..video import Encoding, encode_bytes
from .document import numbers

EVALUATION: Final = "evaluation.json"
MOST_FRAMES: Final = 1000
"""Frames of a prediction that are drawn, spread over it."""
_TILE: Final = 288
_CURVES: Final = ("position_mm", "rotation_deg", "trust", "openness", "openness_true")
_PAPER: Final = 20


class Predictions:
    """An evaluation's folder, beside the data set that it was held against.

    Args:
        folder: What ``actionimg evaluate`` wrote.
        root: The data set.

    Raises:
        SourceNotFoundError: There is no evaluation.
        CorruptDatasetError: It cannot be read.
    """

    def __init__(self, folder: Place, root: Place) -> None:
        self._folder, self._root = folder, root
        where = folder / EVALUATION
        try:
            data = layout.read_place(where)
        except (FileNotFoundError, NotADirectoryError):
            raise SourceNotFoundError(
                f"has no {EVALUATION}", where=folder, hint="actionimg evaluate RUN --against OUT writes RUN.evaluation."
            ) from None
        self.evaluation = parse(Evaluation, data, where)
        self.ranked: list[PredictionScores] = sorted(self.evaluation.by_sample, key=badness, reverse=True)
        self._by_line = {one.prediction: one for one in self.ranked}
        self._opening = threading.Lock()

    def summary(self) -> dict[str, Any]:
        """Figures of the run, without its predictions."""
        said = self.evaluation.model_dump(mode="json", exclude={"by_sample", "by_frame", "trust", "by_task"})
        return {**said, "predictions": len(self.ranked)}

    def rows(self, words: list[str], start: int, count: int) -> dict[str, Any]:
        """Some predictions, worst first."""
        found = [
            (rank, one)
            for rank, one in enumerate(self.ranked)
            if all(word.lower() in f"{one.key} {one.task}".lower() for word in words)
        ]
        return {
            "total": len(found),
            "rows": [self._row(rank, one) for rank, one in found[start : start + count]],
        }

    def _row(self, rank: int, one: PredictionScores) -> dict[str, Any]:
        return {
            "rank": rank, "line": one.prediction, "key": one.key, "task": one.task, "start": one.start,
            "stride": one.stride, "frames": one.frames, "success": one.success["10mm_5deg"],
            "position_mm": one.position_error_mm.median, "held_mm": one.position_error_mm_held.mean,
            "rotation_deg": one.rotation_error_deg.median, "valid": one.valid_fraction,
            "gripper": one.gripper.accuracy,
        }  # fmt: skip

    def prediction(self, line: int) -> dict[str, Any]:
        """A prediction's figures, and its curves."""
        one = self.one(line)
        found = self._frames
        own = found["prediction"] == line
        # Frames whose truth is not known are in the video, and have no row.
        place = np.rint((found["frame"][own].astype(np.float64) - one.start) / one.stride).astype(np.int64)
        curves = {}
        for name in _CURVES:
            curve = np.full(int(place.max(initial=-1)) + 1, np.nan)
            curve[place] = found[name][own].astype(np.float64)
            curves[name] = numbers(curve, 4)
        return {
            **self._row(self.ranked.index(one), one),
            "views": list(one.views),
            "fps": float(self._dataset[one.key].fps) / one.stride,
            "curves": curves,
        }

    def one(self, line: int) -> PredictionScores:
        """The figures of the prediction of a line.

        Raises:
            SourceNotFoundError: There is none.
        """
        if line not in self._by_line:
            raise SourceNotFoundError("no such prediction", where=self._folder, field=str(line))
        return self._by_line[line]

    def video(self, line: int) -> bytes:
        """All frames of a prediction: over the picture, the truth over it, and the axes of both, as H.264.

        Raises:
            ActionImgError: Its videos are not there any more, or not what they were.
        """
        one = self.one(line)
        row, root = self._rows[one.prediction]
        options = Options(self.evaluation.task, "ours", any_rate=True)
        shown = open_shown(row, root, self._dataset, options, MOST_FRAMES)
        frames = []
        for picture in drawn(shown, one.gripper_name, _TILE):
            height, width = picture.shape[:2]
            whole = np.full((height + height % 2, width + width % 2, 3), _PAPER, np.uint8)
            cover = picture[..., 3:] == 255
            whole[:height, :width] = np.where(cover, picture[..., :3], whole[:height, :width])
            frames.append(whole)
        encoding = Encoding("h264", 16, gop=12, options={"preset": "veryfast", "bf": "0"})
        return encode_bytes(frames, encoding, shown.window.fps, *frames[0].shape[:2])

    def picture(self, line: int) -> bytes:
        """The middle frame of a prediction as WebP."""
        one = self.one(line)
        row, root = self._rows[one.prediction]
        shown = open_shown(row, root, self._dataset, Options(self.evaluation.task, "ours", any_rate=True), 3)
        pictures = list(drawn(shown, one.gripper_name, 160))
        picture = pictures[len(pictures) // 2]
        done, data = cv2.imencode(".webp", cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_WEBP_QUALITY, 76])
        if not done:
            raise CorruptDatasetError("cannot be drawn", where=one.key)
        return data.tobytes()

    @cached_property
    def _dataset(self) -> Dataset:
        return open_dataset(self._root)

    @cached_property
    def _rows(self) -> dict[int, tuple[PredictionRow, str]]:
        root, lines = read_predictions(self.evaluation.run)
        return {line.number: (line.row, root) for line in lines if line.row is not None}

    @cached_property
    def _frames(self) -> dict[str, Any]:
        where = self._folder / "frames.parquet"
        try:
            table = load_parquet(layout.read_place(where))
            names = ("prediction", "frame", *_CURVES)
            return {name: table[name].to_numpy(zero_copy_only=False) for name in names}
        except (OSError, ValueError, KeyError) as error:
            raise CorruptDatasetError(f"cannot be read: {error}", where=where) from None

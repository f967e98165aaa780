"""A whole run of predictions, in several processes, that goes on where it was interrupted."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from .. import __version__
from ..errors import ActionImgError, SourceNotFoundError, WrongFormatError
from ..objectstore import is_url
from ..schemas.evaluation import BaselineRow, CoverageRow, Evaluation, FailureRow, PredictionRow, PredictionScores
from ..shards import Dataset, layout, open_dataset
from ..shards.processes import spread
from ..untrusted import text
from ..untrusted.files import open_plain
from . import figures
from .baselines import WHAT, Siblings, baselines
from .prediction import Options, prediction_scores, score_row
from .score import Scored

PREDICTIONS: Final = "predictions.jsonl"
JOURNAL: Final = "scored.jsonl"
BASELINE_PREDICTIONS: Final = 100
"""Predictions, spread over the run, that baselines are computed for."""
FLOOR_PREDICTIONS: Final = 8
"""Of those, the ones for which the truth is drawn, encoded and decoded: each takes as long as a prediction."""
USABLE_TRUST: Final = 0.5
_MAX_LINES: Final = 1_000_000


@dataclass(frozen=True)
class Line:
    """A line of ``predictions.jsonl``: what it says, or why it says nothing."""

    number: int
    row: PredictionRow | None
    error: ActionImgError | None = None


@dataclass
class Run:
    """A run that was scored.

    Args:
        evaluation: What is printed.
        scored: Every prediction's figures by frame, in the order of the lines.
        rows: What each of them says of itself.
        root: Folder or URL that their files are relative to.
    """

    evaluation: Evaluation
    scored: list[Scored]
    rows: dict[int, PredictionRow]
    root: str


@dataclass(frozen=True)
class _Task:
    line: int
    row: PredictionRow
    stamp: str
    beside: bool
    floor: bool


@dataclass
class _Found:
    scored: dict[int, Scored] = field(default_factory=dict)
    by_sample: dict[int, PredictionScores] = field(default_factory=dict)
    beside: dict[str, dict[int, Scored]] = field(default_factory=dict)
    failures: list[FailureRow] = field(default_factory=list)


def read_predictions(run: str) -> tuple[str, list[Line]]:
    """The predictions of a run, and what their files are relative to.

    Args:
        run: A folder that holds ``predictions.jsonl``, or a file of that form; or a URL of either.

    Raises:
        SourceNotFoundError: There is none.
        WrongFormatError: It has no lines.
        BadFileError: It is too large.
    """
    place = layout.place(run)
    file = place if run.endswith(".jsonl") else place / PREDICTIONS
    try:
        data = layout.read_place(file)
    except (FileNotFoundError, NotADirectoryError):
        raise SourceNotFoundError(
            f"has no {PREDICTIONS}",
            where=run,
            hint='A line a prediction: {"key": …, "start": 0, "stride": 1, "views": {NAME: FILE}}.',
        ) from None
    lines = []
    for number, raw in enumerate(line for line in data.splitlines() if line.strip()):
        if number >= _MAX_LINES:
            raise WrongFormatError("has too many lines", where=file, expected=f"<= {_MAX_LINES}")
        where = f"{PREDICTIONS}: line {number}"
        try:
            value = text.parse_json(raw, where)
            lines.append(Line(number, text.parse(PredictionRow, value, where)))
        except ActionImgError as error:
            lines.append(Line(number, None, error))
    if not lines:
        raise WrongFormatError("has no lines", where=file, expected="a line a prediction", found="none")
    return str(file.parent), lines


def evaluate_run(
    run: str,
    against: str,
    options: Options | None = None,
    *,
    lines: Sequence[Line] | None = None,
    journal: str | os.PathLike[str] | None = None,
    num_workers: int = 1,
    with_baselines: bool = True,
    on_start: Callable[[int], None] = lambda _: None,
    on_done: Callable[[], None] = lambda: None,
) -> Run:
    """Score every prediction of a run against a data set.

    A prediction that cannot be scored is among ``evaluation.failures``, and the others go on. What was scored is
    written to the journal at once; a second call with the same data set and options takes from it what has not changed.

    Args:
        run: Folder or URL of the predictions.
        against: The data set.
        options: How they are judged.
        lines: The predictions, where they are not those of ``run``'s file.
        journal: File to keep what is scored in; none by default.
        num_workers: Processes; 1 works in this one.
        with_baselines: Put baselines beside.
        on_start: Called with the number of predictions.
        on_done: Called for each of them.

    Raises:
        SourceNotFoundError, WrongFormatError: There are no predictions.
        ActionImgError: The data set cannot be opened.
        WorkerError: A worker process died.
    """
    options = options or Options()
    root = ""
    if lines is None:
        root, lines = read_predictions(run)
    dataset = open_dataset(layout.place(against))
    if dataset.manifest is None:
        raise WrongFormatError("is a shard", where=against, expected="the folder of a data set")
    on_start(len(lines))
    beside = set(_spread(len(lines), BASELINE_PREDICTIONS)) if with_baselines else set()
    floor = set(_spread(len(lines), FLOOR_PREDICTIONS)) & beside
    stamped = json.dumps([dataset.manifest.plan, asdict(options), __version__])
    found = _Found()
    tasks = []
    times: Counter[str] = Counter()
    for line in lines:
        if line.row is None:
            found.failures.append(_failure(line.number, None, line.error or WrongFormatError("is empty")))
            on_done()
            continue
        flags = (line.number in beside, line.number in floor)
        said = f"{stamped}{flags}{line.row.model_dump_json()}{_files(line.row, root)}"
        stamp = hashlib.sha256(said.encode()).hexdigest()[:24]
        # A line may be there twice.
        tasks.append(_Task(line.number, line.row, f"{stamp}-{times[stamp]}", *flags))
        times[stamp] += 1
    wanted = {task.stamp: task for task in tasks}
    for entry in _journaled(journal):
        task = wanted.pop(entry.get("stamp", ""), None)
        if task is not None:
            _take(found, task, entry)
            on_done()
    setup = (against, root, options)
    with _Journal(journal) as keep:
        left, kept = list(wanted.values()), "what was scored is kept"
        for task, entry in spread(_Scorer, setup, left, num_workers, where="evaluate", kept=kept):
            if "failure" not in entry:
                keep({"stamp": task.stamp, **entry})
            _take(found, task, entry)
            on_done()
    evaluation = _evaluation(run, against, options, found, dataset)
    rows = {task.line: task.row for task in tasks}
    return Run(evaluation, [found.scored[number] for number in sorted(found.scored)], rows, root)


def _spread(count: int, wanted: int) -> list[int]:
    return sorted({round(i) for i in np.linspace(0, count - 1, min(wanted, count))}) if count else []


def _files(row: PredictionRow, root: str) -> list[tuple[str, int, int]]:
    """Name, size and time of a prediction's files, so that what was generated again is scored again."""
    names = [*(row.views.values() if isinstance(row.views, dict) else ()), *row.rgb.values()]
    names += [row.canvas] if row.canvas else []
    out = []
    for name in names:
        path = Path(root) / name
        if is_url(name) or is_url(root) or not path.exists():
            continue
        stats = [p.stat() for p in (sorted(path.iterdir()) if path.is_dir() else [path])]
        out.append((name, sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)))
    return out


# ---- workers -------------------------------------------------------------------------------------------------------

_Setup = tuple[str, str, Options]


class _Scorer:
    """Scores predictions in one process; the data set is opened once."""

    def __init__(self, against: str, root: str, options: Options) -> None:
        self.dataset = open_dataset(layout.place(against))
        self.root, self.options = root, options
        self.siblings = Siblings(self.dataset)

    def __call__(self, task: _Task) -> dict[str, Any]:
        """What is written to the journal of a prediction, or its failure."""
        try:
            scored, window, codec = score_row(self.dataset, task.line, task.row, self.root, self.options)
            other = baselines(window, task.row.gripper, self.siblings, codec, task.floor) if task.beside else {}
        except ActionImgError as error:
            return {"failure": _failure(task.line, task.row.key, error).model_dump()}
        return {
            "scored": scored.to_json(),
            "scores": prediction_scores(scored).model_dump(),
            "baselines": {name: one.to_json() for name, one in other.items()},
        }


# ---- the journal ---------------------------------------------------------------------------------------------------


class _Journal:
    """Appends lines to a file, each as a whole."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = path

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        if self._path is None:
            return lambda entry: None
        with layout.output_errors(Path(self._path)):
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "a", encoding="utf-8")
        return self._write

    def _write(self, entry: dict[str, Any]) -> None:
        with layout.output_errors(Path(str(self._path))):
            self._file.write(json.dumps(entry, allow_nan=False) + "\n")
            self._file.flush()

    def __exit__(self, *error: object) -> None:
        if self._path is not None:
            self._file.close()


def _journaled(path: str | os.PathLike[str] | None) -> Iterator[dict[str, Any]]:
    """Lines that an earlier run wrote; one that was cut off is not taken."""
    if path is None or not Path(path).is_file():
        return
    with io.TextIOWrapper(open_plain(path), encoding="utf-8") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and {"stamp", "scored", "scores", "baselines"} <= set(entry):
                yield entry


# ---- what was found ------------------------------------------------------------------------------------------------


def _failure(number: int | None, key: str | None, error: ActionImgError) -> FailureRow:
    return FailureRow(
        prediction=number,
        key=key,
        reason=error.code,
        field=error.field,
        expected=error.expected,
        found=error.found,
        message=str(error),
    )


def _take(found: _Found, task: _Task, entry: dict[str, Any]) -> None:
    if "failure" in entry:
        found.failures.append(FailureRow(**entry["failure"]))
        return
    found.scored[task.line] = Scored.from_json(entry["scored"])
    # The line may have moved since it was scored.
    found.scored[task.line].about["prediction"] = task.line
    found.by_sample[task.line] = PredictionScores(**{**entry["scores"], "prediction": task.line})
    for name, one in entry["baselines"].items():
        found.beside.setdefault(name, {})[task.line] = Scored.from_json(one)


def _evaluation(run: str, against: str, options: Options, found: _Found, dataset: Dataset) -> Evaluation:
    scored = [found.scored[number] for number in sorted(found.scored)]
    by_task: dict[str, list[Scored]] = {}
    for one in scored:
        by_task.setdefault(one.about["task"], []).append(one)
    return Evaluation(
        version=__version__,
        run=run,
        against=against,
        task=options.task,
        protocol=options.protocol,
        samples=len(scored),
        **figures.scores_of(scored).model_dump(),
        by_task={task: figures.scores_of(own) for task, own in sorted(by_task.items())},
        by_sample=[found.by_sample[number] for number in sorted(found.by_sample)],
        by_frame=figures.by_frame(scored),
        trust=figures.trust_rows(figures.pooled(scored)),
        baselines=[
            BaselineRow(
                name=name,
                what=what,
                predictions=len(own),
                **figures.scores_of([own[number] for number in sorted(own)]).model_dump(),
            )
            for name, what in WHAT.items()
            if (own := found.beside.get(name))
        ],
        coverage=_coverage(scored, dataset) if options.task == "labelling" else None,
        failures=sorted(found.failures, key=lambda failure: failure.prediction or 0),
    )


def _coverage(scored: Sequence[Scored], dataset: Dataset) -> dict[str, CoverageRow]:
    """How many samples and frames of each task have a label, and how many of those can be used."""
    frames: dict[str, int] = {}
    samples: dict[str, int] = {}
    for task, count in zip(dataset.table["task"].to_pylist(), dataset.table["frames"].to_pylist(), strict=True):
        frames[task] = frames.get(task, 0) + count
        samples[task] = samples.get(task, 0) + 1
    labelled: dict[str, set[str]] = {}
    covered: dict[str, set[tuple[str, int]]] = {}
    usable: dict[str, set[tuple[str, int]]] = {}
    for one in scored:
        task, key = one.about["task"], one.about["key"]
        labelled.setdefault(task, set()).add(key)
        for frame, trust in zip(one.frames["frame"].tolist(), one.frames["trust"].tolist(), strict=True):
            covered.setdefault(task, set()).add((key, int(frame)))
            if trust > USABLE_TRUST:
                usable.setdefault(task, set()).add((key, int(frame)))
    return {
        task: CoverageRow(
            samples=samples[task],
            samples_labelled=len(labelled.get(task, ())),
            frames=frames[task],
            frames_labelled=len(covered.get(task, ())),
            frames_usable=len(usable.get(task, ())),
        )
        for task in sorted(samples)
    }

"""What ``actionimg evaluate`` reads and writes: predictions, and the scores of a run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class PredictionRow(BaseModel):
    """A line of ``predictions.jsonl``: action videos that a model generated for a window of a sample.

    Exactly one of a mapping of ``views`` to files, and ``canvas``, is given. Files are relative to the file's own
    folder, or URLs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(min_length=1, description="key of the sample")
    start: int = Field(0, ge=0, description="frame of the sample that the videos begin with")
    stride: int = Field(1, ge=1, description="frames of the sample from one frame of the videos to the next")
    frames: int | None = Field(None, ge=1, description="frames that the videos have; another number is an error")
    views: dict[str, str] | list[str] | None = Field(
        None, description="action video of each view; or, with canvas, the names of its views in order"
    )
    canvas: str | None = Field(None, description="one video of [video₁ | action₁ | video₂ | action₂] in time")
    others: int = Field(
        0, ge=0, description="with canvas, segments between a view's video and its action: depth, masks, normals"
    )
    held: dict[str, Annotated[float, Field(gt=0, le=10)]] = Field(
        default_factory=dict,
        description="views of wrist cameras whose action video is drawn from a camera that is held where the window "
        "begins, and its distance to the gripper there in metres",
    )
    rgb: dict[str, str] = Field(default_factory=dict, description="generated camera video of each view")
    gripper: str = Field("", description="whose actions the videos show, where the sample has several grippers")

    @model_validator(mode="after")
    def _one_form(self) -> PredictionRow:
        files = isinstance(self.views, dict)
        if files == (self.canvas is not None):
            raise ValueError('give "views": {NAME: FILE}, or "canvas": FILE')
        if files and not self.views:
            raise ValueError("views names no file")
        if self.others and files:
            raise ValueError("others go with a canvas")
        if self.rgb and not files:
            raise ValueError("a canvas holds its camera pictures itself")
        return self


class Distribution(BaseModel):
    """Quantiles of an error; None where there is no frame to tell."""

    median: float | None
    p95: float | None
    max: float | None
    mean: float | None


class AxesError(BaseModel):
    """Median degrees between the decoded and the true direction of each axis of the gripper."""

    x: float | None
    y: float | None
    z: float | None


class GripperScores(BaseModel):
    """Open or closed."""

    accuracy: float | None = Field(description="share of the frames that are right; one that cannot be told is wrong")
    accuracy_known: float | None = Field(description="the same over the frames that could be told")
    known_fraction: float | None
    f1: float | None = Field(description="mean of the F1 scores of open and of closed, of those that occur")
    events: int = Field(description="openings and closings of the truth")
    events_found: int
    events_invented: int
    event_error_s: Distribution = Field(description="seconds that those found are early or late (absolute)")
    event_bias_s: float | None = Field(description="median of those, late is positive")


class BlobScores(BaseModel):
    """How the blobs look that the true pose shows in the pictures."""

    peak: float | None = Field(description="median over frames of the weakest blob's fitted peak, 1 on a true picture")
    weak_fraction: float | None = Field(description="share of the frames in which a blob is missing or under 0.5")


class StrongScores(BaseModel):
    """The conditional figures: of the frames in which at least two views show every blob strongly."""

    fraction: float | None = Field(description="share of the frames that are so")
    position_error_mm: Distribution
    rotation_error_deg: Distribution
    success: dict[str, float | None]


class ClipScores(BaseModel):
    """Medians over predictions."""

    first_frame_position_mm: float | None = Field(description="from the condition to the first decoded frame")
    first_frame_rotation_deg: float | None
    drift_mm_per_s: float | None = Field(description="slope of the position error over the horizon (Theil-Sen)")
    drift_deg_per_s: float | None
    roughness_ratio: float | None = Field(
        description="root mean square of the third difference of position, of the prediction over that of the truth"
    )


class RgbScores(BaseModel):
    """Generated camera pictures against the stored ones; means over frames."""

    psnr_db: float
    ssim: float
    lpips: float | None = Field(description="None where lpips is not installed")


class PublishedScores(BaseModel):
    """The mean 3-D error that Table 4 of arXiv 2604.06168 states; its evaluation is not in its released code."""

    mean_3d_error_mm: float = Field(
        description="mean position error over all frames; one without a pose holds the last"
    )
    centroid_3d_error_mm: float | None = Field(
        description="the same of positions read as the published decoder does: centroid of the whole picture, plus "
        "half a pixel, triangulated linearly; over the frames in which two views have one"
    )


class Scores(BaseModel):
    """What was found, over a prediction, a task, or everything."""

    frames: int = Field(description="frames whose true pose is known")
    valid_fraction: float | None
    position_error_mm: Distribution = Field(description="over the frames that could be decoded")
    position_error_mm_held: Distribution = Field(
        description="over all frames: one that could not be decoded holds the last pose, at first the condition"
    )
    rotation_error_deg: Distribution
    rotation_error_deg_held: Distribution
    axes_error_deg: AxesError
    gripper: GripperScores
    blob: BlobScores
    success: dict[str, float | None] = Field(description="share of all frames within; undecoded frames are not")
    strong: StrongScores
    clip: ClipScores
    rgb: RgbScores | None = None
    published: PublishedScores | None = Field(None, description="with --protocol published")


class PredictionScores(Scores):
    """One prediction's."""

    prediction: int = Field(description="line of predictions.jsonl, from 0")
    key: str
    task: str
    start: int
    stride: int
    gripper_name: str = ""
    views: tuple[str, ...]
    size: tuple[int, int] = Field(description="height, width")


class TrustRow(BaseModel):
    """Of the frames with a trust over ``over``, how many are right (10 mm and 5 degrees)."""

    over: float
    fraction: float = Field(description="share of all frames")
    right: float | None


class BaselineRow(Scores):
    """The same figures of something that is no model."""

    name: Literal["floor", "frozen", "task mean", "another episode"]
    what: str
    predictions: int


class CoverageRow(BaseModel):
    """How much of a task is labelled."""

    samples: int
    samples_labelled: int
    frames: int
    frames_labelled: int = Field(description="frames of the data set that a prediction covers")
    frames_usable: int = Field(description="of those, with a trust over 0.5")


class FailureRow(BaseModel):
    """A prediction that could not be scored."""

    prediction: int | None
    key: str | None
    reason: str = Field(description="the error's code")
    field: str | None
    expected: str | None
    found: str | None
    message: str


class Evaluation(Scores):
    """The JSON object of ``actionimg evaluate --json``, and ``evaluation.json``."""

    version: str
    run: str = Field(description="where the predictions are")
    against: str
    task: Literal["actions", "labelling"]
    protocol: Literal["ours", "published"]
    samples: int = Field(description="predictions that were scored")
    by_task: dict[str, Scores]
    by_sample: list[PredictionScores]
    by_frame: list[dict[str, Any]] = Field(description="over the horizon: median errors by frame of the prediction")
    trust: list[TrustRow]
    baselines: list[BaselineRow]
    coverage: dict[str, CoverageRow] | None = None
    failures: list[FailureRow]


class Difference(BaseModel):
    """A figure of two runs over the predictions that both have."""

    figure: str
    first: float
    second: float
    difference: float = Field(description="second minus first")
    low: float = Field(description="2.5 % quantile of the bootstrap")
    high: float = Field(description="97.5 % quantile")
    predictions: int


class Comparison(BaseModel):
    """Several runs side by side."""

    runs: list[str]
    evaluations: list[Evaluation]
    differences: dict[str, list[Difference]] = Field(description="of each further run against the first, by run")

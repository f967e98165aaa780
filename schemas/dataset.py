"""Everything a data set writes to disk: manifest, plan, sidecars, samples, quarantine and the index.

`to_bytes` is the one way to write any of them, so that equal content gives equal bytes and a changed byte is found by
writing again what was read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from ..errors import ActionImgError, CorruptDatasetError, InvalidSpecError
from .camera_file import CameraOrigin
from .evaluation import Evaluation, PredictionRow
from .plausibility import Finding, FindingKind, Limits
from .spec import ActionImageSpec

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT: Final = "actionimg-dataset"
FORMAT_VERSION: Final = 1

ActionCodec = Literal["h264", "ffv1", "png", "none"]
RgbCodec = Literal["h264"]
RgbPreset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower"]
CalibrationPolicy = Literal["off", "warn", "quarantine"]
CalibrationVerdict = Literal["ok", "off", "cannot tell"]
VIEW_PATTERN: Final = r"^[a-z0-9_-]+$"
KEY_PATTERN: Final = r"^[a-z0-9_-]{1,160}$"
SHARD_PATTERN: Final = r"^[a-z0-9_-]{1,64}/[0-9]{6,12}$"
TAR_PATTERN: Final = r"^[a-z0-9_-]{1,64}/[0-9]{6,12}\.tar$"
MEMBER_PATTERN: Final = r"^[a-z0-9_-]+(\.[a-z0-9_-]+)*$"
FILE_PATTERN: Final = r"^(plan\.jsonl|index\.parquet|quarantine\.jsonl)$"
SHA256_PATTERN: Final = r"^[0-9a-f]{64}$"

# A document is no more to be trusted than who wrote it: what becomes the name of a file can lead nowhere else.
Name = Annotated[str, Field(pattern=VIEW_PATTERN)]
"""A view, a gripper or a split."""
Key = Annotated[str, Field(pattern=KEY_PATTERN)]
"""A sample."""
ShardName = Annotated[str, Field(pattern=SHARD_PATTERN)]
"""``SPLIT/NNNNNN``: a shard in plan, sidecar, index and quarantine."""

Model = TypeVar("Model", bound=BaseModel)


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    _later: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after the first data sets: written only where they say something, so that the bytes of a data
    set that does not need them are those of before, and readers of before read it."""

    @model_serializer(mode="wrap")
    def _without_later(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        for name in self._later:
            if name in values and getattr(self, name) == type(self).model_fields[name].default:
                del values[name]
        return values


class ConvertOptions(_Stored):
    """What decides the bytes of a data set, apart from its source and the converter's own options.

    Raises:
        InvalidSpecError: An option is outside its range, or two do not go together (use `parse`).
    """

    height: int = Field(512, ge=16, le=8192, description="picture height in pixels")
    width: int = Field(512, ge=16, le=8192, description="picture width in pixels")
    views: tuple[str, ...] | None = Field(
        None, description="views in this order; null: the calibrated views of the first episode that can be read"
    )
    views_per_sample: Literal["", "named", "found"] = Field(
        "",
        description="each sample has those of the views whose camera is known in its episode, where all that may be "
        "are named (by the user or the source), or were found in the first episodes; empty: every sample has all",
    )
    stride: int = Field(1, ge=1, description="every n-th frame; the frame rate is divided by it")
    clip_frames: int | None = Field(
        None, ge=1, description="cut episodes into clips of this many frames; the last one may be shorter"
    )
    spec: ActionImageSpec = Field(default_factory=lambda: ActionImageSpec(), description="how action images are drawn")
    action_codec: ActionCodec = Field("h264", description="h264, ffv1 or png (lossless), or none: draw on load")
    rgb_codec: RgbCodec = Field("h264", description="codec of the camera pictures")
    crf: int = Field(18, ge=0, le=51, description="x264's constant rate factor; less is better and larger")
    rgb_preset: RgbPreset = Field("veryfast", description="x264's preset for the camera pictures: time against bytes")
    rgb_crf: int | None = Field(None, ge=0, le=51, description="rate factor of the camera pictures; null: as crf")
    episodes_per_shard: int | None = Field(
        None, ge=1, le=100_000, description="null: a 32nd of the episodes, at least 1, at most 32"
    )
    split: str = Field("train", pattern=VIEW_PATTERN, max_length=64, description="folder the shards go to")
    poses_only: bool = Field(
        False, description="no camera is known: pictures and trajectory, without cameras and action images"
    )
    videos_only: bool = Field(
        False, description="no pose is known either: pictures and words, and a trajectory whose every frame is unknown"
    )
    conditioning: bool = Field(
        False,
        description="each view has a camera in a frame and a scale of its own, for a model to be conditioned on; "
        "nothing is drawn with it",
    )
    conditioning_cameras: str | None = Field(
        None, description="where those are, if not in the source; {episode} stands for the episode's id"
    )
    merge_arms: bool = Field(
        False, description="several grippers in one action video: the clipped sum of their action images"
    )
    depth: bool = Field(False, description="store each view's depth, millimetres in 16 bits, lossless")
    masks: bool = Field(False, description="store each view's mask of ids, lossless")
    check_calibration: CalibrationPolicy = Field(
        "off", description="hold each camera against the pictures: store the verdict, or refuse episodes that are off"
    )
    calibration_gripper: tuple[str, ...] = Field(
        (), description="the gripper looked for by check_calibration: NAME=VALUE as `actionimg convert --gripper` takes"
    )

    refined_cameras: str | None = Field(None, description="camera file laid over the source's own cameras")
    refined_cameras_sha256: str | None = Field(None, pattern=SHA256_PATTERN, description="of that file")
    allow: tuple[FindingKind, ...] = Field(
        (), description="kinds of findings that are meant; episodes with others are refused (docs/plausibility.md)"
    )
    limits: Limits = Field(Limits(), description="where plausible ends")

    _later: ClassVar[frozenset[str]] = frozenset(
        {
            *("rgb_preset", "rgb_crf"),
            *("merge_arms", "depth", "masks", "check_calibration", "calibration_gripper"),
            *("refined_cameras", "refined_cameras_sha256", "allow", "limits"),
            *("views_per_sample", "videos_only", "conditioning", "conditioning_cameras"),
        }
    )

    @field_validator("views")
    @classmethod
    def _views(cls, views: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if views is not None:
            if not views or len(set(views)) != len(views):
                raise ValueError("views must be named, each once")
            for name in views:
                if not name or set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789_-"):
                    raise ValueError(f"bad view name {name!r}: [a-z0-9_-]+")
        return views

    @model_validator(mode="after")
    def _fits(self) -> ConvertOptions:
        if self.height % 2 or self.width % 2:
            down, up = f"{self.height & ~1}x{self.width & ~1}", f"{-(-self.height // 2) * 2}x{-(-self.width // 2) * 2}"
            raise ValueError(f"h264 video has an even height and width (HxW): {down} or {up}")
        if (self.spec.height, self.spec.width) != (self.height, self.width):
            raise ValueError("spec and options differ in size")
        if self.poses_only and self.action_codec != "none":
            raise ValueError("without cameras there are no action images: action_codec must be none")
        if self.poses_only and self.views_per_sample:
            raise ValueError("views are told apart by their cameras, and none is known: not with views_per_sample")
        if self.videos_only and not self.poses_only:
            raise ValueError("without poses there is nothing that a camera could draw: videos_only needs poses_only")
        if self.calibration_gripper and self.check_calibration == "off":
            raise ValueError("a gripper is looked for only with check_calibration warn or quarantine")
        if self.merge_arms and self.action_codec == "none":
            raise ValueError("there are no stored action images to merge: merge_arms needs an action_codec")
        return self

    @property
    def planes(self) -> tuple[str, ...]:
        """What is stored beside each view's pictures: ``depth``, ``mask``."""
        return ("depth",) * self.depth + ("mask",) * self.masks

    @property
    def checks_calibration(self) -> bool:
        """Whether each camera is held against the pictures."""
        return self.check_calibration != "off"

    def without_cameras(self, videos_only: bool = False) -> ConvertOptions:
        """The same options for a source of which no camera is known, and with ``videos_only`` no pose either.

        Raises:
            InvalidSpecError: Views were to be told apart by their cameras.
        """
        if self.views_per_sample:
            raise InvalidSpecError("no camera is known", field="views", found="calibrated", expected="names of views")
        left_out = {"merge_arms": False, "check_calibration": "off", "calibration_gripper": ()}
        without = {"poses_only": True, "videos_only": videos_only, "action_codec": "none"}
        return self.model_copy(update={**without, **left_out})

    @classmethod
    def parse(cls, **values: Any) -> ConvertOptions:
        """Options from keyword arguments; ``spec`` may be a mapping and takes its size from ``height``, ``width``."""
        height, width = values.get("height", 512), values.get("width", 512)
        spec = values.pop("spec", None) or {}
        fields = spec.model_dump() if isinstance(spec, ActionImageSpec) else dict(spec)
        fields |= {"height": height, "width": width}
        try:
            # The options' own complaint about a bad size is the better one.
            usable = isinstance(height, int) and isinstance(width, int) and min(height, width) > 0
            return cls(**values, spec=ActionImageSpec(**fields) if usable else ActionImageSpec())
        except ValidationError as error:
            first = error.errors()[0]
            message = first["msg"].removeprefix("Value error, ")
            field = ".".join(map(str, first["loc"])) or "size"
            found = f"{height}x{width}" if field == "size" else first.get("input")
            raise InvalidSpecError(message, where="convert options", field=field, found=found) from None


class PlanEpisode(_Stored):
    """One episode of a plan: all that is needed to convert it, in any process."""

    id: str = Field(min_length=1)
    key: Key
    location: dict[str, Any] = Field(default_factory=dict)
    num_frames: int | None = None
    fingerprint: str = ""


class PlanRow(_Stored):
    """One shard of a plan."""

    shard: ShardName
    episodes: tuple[PlanEpisode, ...] = Field(min_length=1)


class QuarantineRow(_Stored):
    """One episode that could not be converted."""

    id: str
    key: Key
    shard: ShardName
    code: str
    message: str
    traceback: str | None = None
    findings: tuple[Finding, ...] = Field((), description="what cannot be true of it; absent where it is another fault")

    _later: ClassVar[frozenset[str]] = frozenset({"findings"})


class MemberRow(_Stored):
    """One member of a sample within its shard: name without the key, and where its bytes are."""

    name: str = Field(pattern=MEMBER_PATTERN)
    offset: int = Field(ge=0)
    size: int = Field(ge=0)
    sha256: str = Field(pattern=SHA256_PATTERN)


class CalibrationRow(_Stored):
    """What the pictures say of one camera in one episode; see docs/calibration.md."""

    view: Name
    verdict: CalibrationVerdict
    displacement_px: float | None = Field(
        None, ge=0, description="pixels of the source by which the gripper is seen away from where it should be"
    )
    interval_px: float | None = Field(None, ge=0, description="radius that holds the true shift in 90 of 100 cases")
    reason: str


class SampleRow(_Stored):
    """One sample within its shard; ``offset`` and ``bytes`` span its members with their tar headers."""

    key: Key
    episode: str
    clip: int = Field(ge=0)
    start_frame: int = Field(ge=0)
    frames: int = Field(ge=1)
    fps: float = Field(gt=0)
    views: tuple[Name, ...]
    instruction: str
    task: str
    offset: int = Field(ge=0)
    bytes: int = Field(ge=0)
    members: tuple[MemberRow, ...]
    grippers: tuple[Name, ...] = Field((), description="names of the grippers, in order; absent where there is one")
    calibration: tuple[CalibrationRow, ...] = Field((), description="of each view; absent where it was not checked")
    findings: tuple[Finding, ...] = Field((), description="what was found and allowed; absent where nothing was")
    camera_origin: str = Field(
        "",
        description="how the least certain of its cameras was come by; absent where all are the source's calibration",
    )

    _later: ClassVar[frozenset[str]] = frozenset({"grippers", "calibration", "findings", "camera_origin"})


class ShardSidecar(_Stored):
    """The commit mark of a shard; a shard without samples has no tar (``bytes`` 0, ``sha256`` null)."""

    format: Literal["actionimg-shard"] = "actionimg-shard"
    version: Literal[1] = 1
    plan: str = Field(pattern=SHA256_PATTERN)
    shard: ShardName
    bytes: int = Field(ge=0)
    sha256: str | None = Field(None, pattern=SHA256_PATTERN)
    samples: tuple[SampleRow, ...] = ()
    quarantined: tuple[QuarantineRow, ...] = ()

    @property
    def frames(self) -> int:
        """Frames of all samples."""
        return sum(s.frames for s in self.samples)


class SpanRow(_Stored):
    """What some of a sample's frames do, in words."""

    start: int = Field(ge=0, description="its first frame, counted in the sample")
    end: int = Field(ge=1, description="the frame behind its last")
    text: str = Field(min_length=1)


class SampleMeta(_Stored):
    """A sample's ``.json``: the same fields with the same types in every sample."""

    format: Literal["actionimg-sample"] = "actionimg-sample"
    version: Literal[1] = 1
    key: Key
    episode: str
    clip: int = Field(ge=0, description="number of the clip within its episode")
    start_frame: int = Field(ge=0, description="the sample's first frame, counted in the source")
    stride: int = Field(ge=1, description="source frames from one frame to the next")
    frames: int = Field(ge=1)
    fps: float = Field(gt=0)
    instruction: str = Field(min_length=1)
    instructions: tuple[str, ...] = Field(min_length=1)
    task: str = Field(description="empty where the source has no task")
    views: tuple[Name, ...] = Field(min_length=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    source_sizes: tuple[tuple[int, int], ...] = Field(description="height, width of each view in the source")
    spec: str = Field(description="id of the action-image specification, in full in dataset.json")
    rgb_codec: RgbCodec
    action_codec: ActionCodec
    calibrated: bool = Field(description="false: no camera is known, so there are no cameras and no action images")
    sync: Literal["measured", "assumed"]
    sync_residual_s: tuple[float, ...] = Field(
        description="seconds from each frame to the nearest measured pose; empty where not known"
    )
    provenance: dict[str, Any]
    grippers: tuple[Name, ...] = Field((), description="names of the grippers, in order; absent where there is one")
    merged_arms: bool = Field(
        False, description="the action images show the clipped sum of all grippers; absent where each has its own"
    )
    overlapping_frames: tuple[tuple[int, ...], ...] = Field(
        (),
        description="with merged_arms, for each view the frames in which blobs of two grippers overlap in a channel, "
        "so that they cannot be told apart there; else absent",
    )
    depth_range_m: tuple[tuple[float, float] | None, ...] | None = Field(
        None,
        description="where depth is stored, for each view the least and largest depth that the source can tell, in "
        "metres, or null where it does not say; else absent",
    )
    masks: bool = Field(False, description="a mask of ids is stored for each view; absent where not")
    calibration: tuple[CalibrationRow, ...] = Field(
        (), description="what the pictures of the episode say of each view's camera; absent where it was not checked"
    )
    calibration_model: str = Field("", description="the gripper model that was looked for; absent where none was")
    camera_origins: dict[Name, CameraOrigin] = Field(
        default_factory=dict, description="of each view whose camera is not the source's own calibration; else absent"
    )
    findings: tuple[Finding, ...] = Field(
        (), description="what cannot be true of the episode, and was allowed; absent where nothing was found"
    )
    instruction_spans: tuple[SpanRow, ...] = Field(
        (),
        description="where the instruction changes within the sample, the frames of each, one after another from the "
        "first to the last; ``instructions`` are then their texts. Absent where one holds throughout",
    )

    _later: ClassVar[frozenset[str]] = frozenset(
        {
            *("grippers", "merged_arms", "overlapping_frames", "depth_range_m", "masks"),
            *("calibration", "calibration_model", "findings", "instruction_spans", "camera_origins"),
        }
    )

    @model_validator(mode="after")
    def _spans(self) -> SampleMeta:
        spans = self.instruction_spans
        ends = [0, *(span.end for span in spans)]
        one_after_another = [span.start for span in spans] == ends[:-1] and all(s.start < s.end for s in spans)
        if spans and not (one_after_another and ends[-1] == self.frames):
            raise ValueError("instruction_spans must cover the frames one after another")
        if spans and {span.text for span in spans} != set(self.instructions):
            raise ValueError("instruction_spans and instructions have other texts")
        return self

    @property
    def planes(self) -> tuple[str, ...]:
        """What is stored beside each view's pictures: ``depth``, ``mask``."""
        return ("depth",) * (self.depth_range_m is not None) + ("mask",) * self.masks

    def instruction_at(self, frames: Iterable[int]) -> str:
        """What most of some frames do, in words; of two that do so equally often, the earlier one.

        Where the instruction does not change within the sample, the first of ``instructions``.
        """
        if not self.instruction_spans:
            return self.instructions[0]
        wanted = list(frames)
        return max(self.instruction_spans, key=lambda s: sum(s.start <= f < s.end for f in wanted)).text


class ConverterRecord(_Stored):
    """Which converter made a data set, and with which of its own options."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class ShardRecord(_Stored):
    """One shard in the manifest."""

    path: str = Field(pattern=TAR_PATTERN, description="of its tar within the data set: SPLIT/NNNNNN.tar")
    samples: int = Field(ge=0)
    frames: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str | None = Field(pattern=SHA256_PATTERN)
    sidecar_sha256: str = Field(pattern=SHA256_PATTERN)
    quarantined: int


class Counts(_Stored):
    """What a finished data set holds."""

    episodes: int
    converted: int
    quarantined: int
    quarantine_codes: dict[str, int]
    samples: int
    frames: int
    bytes: int
    shards: int


class EarlierPlan(_Stored):
    """Shards that were made under an earlier plan of the same data set, which their sidecars name."""

    plan: str = Field(pattern=SHA256_PATTERN)
    tool: dict[str, str] = Field(description="versions with which they were made")
    shards: tuple[ShardName, ...] = Field(min_length=1)


class RemadeShards(_Stored):
    """Shards that were made again to other bytes than they had (``repair --accept-different``)."""

    tool: dict[str, str] = Field(description="versions with which they were made again")
    shards: tuple[ShardName, ...] = Field(min_length=1)


class DatasetManifest(_Stored):
    """``dataset.json``. While shards are missing, ``complete`` is false and counts, shards and files are absent."""

    format: Literal["actionimg-dataset"] = FORMAT
    version: Literal[1] = FORMAT_VERSION
    complete: bool = False
    plan: str = Field(pattern=SHA256_PATTERN, description="fingerprint of the plan")
    planned_shards: int
    planned_episodes: int
    tool: dict[str, str] = Field(description="versions that decide the bytes")
    converter: ConverterRecord
    sources: tuple[str, ...]
    views: tuple[Name, ...] = Field(
        min_length=1,
        description="of every sample, in order; with options.views_per_sample those that a sample may have",
    )
    grippers: tuple[Name, ...] = Field((), description="grippers of every sample, in order; absent where there is one")
    options: ConvertOptions
    spec_id: str
    counts: Counts | None = None
    shards: tuple[ShardRecord, ...] = ()
    files: dict[Annotated[str, Field(pattern=FILE_PATTERN)], Annotated[str, Field(pattern=SHA256_PATTERN)]] = Field(
        default_factory=dict, description="SHA-256 of plan, index and quarantine"
    )
    checksum: str = Field("", description="SHA-256 of this document with this field empty")

    earlier: tuple[EarlierPlan, ...] = Field(
        (), description="shards of plans that this one goes on from; absent where there are none"
    )

    remade: tuple[RemadeShards, ...] = Field(
        (), description="shards that repair made again with other bytes; absent where there are none"
    )

    _later: ClassVar[frozenset[str]] = frozenset({"grippers", "earlier", "remade"})

    @property
    def index_columns(self) -> dict[str, Any]:
        """What `index_schema` has to know of this data set."""
        return {
            "grippers": bool(self.grippers),
            "calibration": self.options.checks_calibration,
            "allow": self.options.allow,
        }

    def may_have(self, views: Sequence[str]) -> bool:
        """Whether a sample may have these views: all of the data set's in order, or some of them where samples differ.

        The one place that says in what samples of a data set may differ.
        """
        if not self.options.views_per_sample:
            return tuple(views) == self.views
        return bool(views) and tuple(views) == tuple(name for name in self.views if name in views)

    def earlier_plans(self) -> dict[str, str]:
        """Shard to plan, of the shards whose sidecars name another plan than this one."""
        return {shard: earlier.plan for earlier in self.earlier for shard in earlier.shards}

    def plan_of(self, shard: str) -> str:
        """The plan that a shard's sidecar names."""
        return next((earlier.plan for earlier in self.earlier if shard in earlier.shards), self.plan)

    def sealed(self) -> DatasetManifest:
        """The manifest with its checksum filled in."""
        blank = self.model_copy(update={"checksum": ""})
        return blank.model_copy(update={"checksum": hashlib.sha256(to_bytes(blank)).hexdigest()})


def to_bytes(model: BaseModel) -> bytes:
    """The one JSON text of a model: indented, UTF-8, fields in the order of the class, keys of mappings sorted."""
    return (json.dumps(_ordered(model), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def to_line(model: BaseModel) -> bytes:
    """A model as one line of JSON."""
    return (json.dumps(_ordered(model), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n").encode()


def _ordered(model: BaseModel) -> dict[str, Any]:
    # Through JSON mode, so that tuples become lists; mappings inside get sorted keys, the model keeps its order.
    dumped = model.model_dump(mode="json")
    return {name: _sorted(value) if isinstance(value, dict) else value for name, value in dumped.items()}


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _sorted(value[k]) for k in sorted(value)}
    if isinstance(value, list):
        return [_sorted(v) for v in value]
    return value


def parse(
    model: type[Model], data: bytes | str, where: object, error: type[ActionImgError] = CorruptDatasetError
) -> Model:
    """A model from JSON text.

    Raises:
        CorruptDatasetError: Not JSON, or a field is missing, unknown or of the wrong type (or ``error``).
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        raise error(
            first["msg"],
            where=where,
            field=".".join(map(str, first["loc"])) or None,
            found=None if first["type"] == "json_invalid" else first.get("input"),
        ) from None


def finding_column(kind: str) -> str:
    """The index's column of a kind of findings that a data set allows."""
    return f"finding_{kind.replace('-', '_')}"


def index_schema(grippers: bool = False, calibration: bool = False, allow: tuple[str, ...] = ()) -> pa.Schema:
    """Arrow schema of ``index.parquet``: one row a sample, in the order of the shards.

    Args:
        grippers: With a column of their names, as in data sets of several.
        calibration: With a column of what was found out about the cameras, as in data sets that were checked for it.
        allow: With a column for each of these kinds of findings: whether the sample has one.
    """
    import pyarrow as pa

    member = pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("episode", pa.string(), nullable=False),
        pa.field("clip", pa.int32(), nullable=False),
        pa.field("start_frame", pa.int64(), nullable=False),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("fps", pa.float64(), nullable=False),
        pa.field("views", pa.list_(pa.string()), nullable=False),
        pa.field("instruction", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("members", pa.list_(member), nullable=False),
        pa.field("decode_position_p95_mm", pa.float64()),
        pa.field("decode_rotation_p95_deg", pa.float64()),
        pa.field("decode_openness_accuracy", pa.float64()),
        pa.field("undecodable_frames", pa.int64()),
        pa.field("camera_origin", pa.string(), nullable=False),
    ]
    if grippers:
        fields.insert(10, pa.field("grippers", pa.list_(pa.string()), nullable=False))
    if calibration:
        row = [("view", pa.string()), ("verdict", pa.string())]
        row += [("displacement_px", pa.float64()), ("interval_px", pa.float64()), ("reason", pa.string())]
        fields.append(pa.field("calibration", pa.list_(pa.struct(row)), nullable=False))
    fields += [pa.field(finding_column(kind), pa.bool_(), nullable=False) for kind in allow]
    return pa.schema(fields, metadata={"format": FORMAT, "version": str(FORMAT_VERSION)})


EXPORTED: Final[dict[str, type[BaseModel]]] = {
    "action-image-spec": ActionImageSpec,
    "dataset": DatasetManifest,
    "evaluation": Evaluation,
    "plan-row": PlanRow,
    "prediction": PredictionRow,
    "quarantine-row": QuarantineRow,
    "sample": SampleMeta,
    "shard": ShardSidecar,
}
"""Documents that other programs may want to check, by the name of their schema file."""

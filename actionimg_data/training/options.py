"""What a training data set can be told: how samples are cut, and how they come. Documented in docs/training.md."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..codecs import MOST_LABELS, DepthCodec
from ..errors import InvalidSpecError
from ..raster import WRIST_DISTANCE
from ..shards.windows import LATENT_STRIDE, unusual_window, whole_stride
from .modes import PUBLISHED_ODDS, check_odds

Action = Literal["stored", "rendered", "both", "none"]
Arms = Literal["auto", "separate", "merged"]
Axes = Literal["rlbench", "opencv"]
Short = Literal["pad", "repeat", "skip", "error"]
Few = Literal["error", "skip"]
Pixels = Literal["float32", "uint8"]
Decoder = Literal["auto", "pyav", "torchcodec"]
Stream = Literal["depth", "mask"]
Segment = Literal["depth", "mask", "normals"]

_warned: set[str] = set()


class UnusualWindowWarning(UserWarning):
    """Windows have a number of frames or a size that video models do not take as they are."""


def _whole(value: Any) -> Any:
    """numpy's integers are integers; booleans are none."""
    if isinstance(value, bool):
        raise ValueError("must be an integer")
    return int(value) if hasattr(value, "__index__") else value


def _pair(value: Any) -> Any:
    return (value, value) if hasattr(value, "__index__") else value


def _names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Count = Annotated[int, BeforeValidator(_whole), Field(ge=1, strict=True)]
Number = Annotated[int, BeforeValidator(_whole), Field(ge=0, strict=True)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    if not TYPE_CHECKING:

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise _named(error, type(self)) from None


def _named(error: ValidationError, kind: type[_Options]) -> InvalidSpecError:
    first = error.errors()[0]
    field = str(first["loc"][0]) if first["loc"] else None
    known = f"one of {', '.join(kind.model_fields)}" if first["type"] == "extra_forbidden" else None
    found = first.get("input") if field is not None else None
    return InvalidSpecError(first["msg"].removeprefix("Value error, "), field=field, expected=known, found=found)


class SampleOptions(_Options):
    """How samples are cut out of a data set.

    Raises:
        InvalidSpecError: An option is unknown or outside its range; it is named.
    """

    num_frames: Count = Field(41, description="Frames of a window; video models take 4n + 1.")
    frame_stride: Count = Field(1, description="Stored frames from one frame of the window to the next.")
    fps: Rate | None = Field(
        None, description="Instead of `frame_stride`: the rate of the window, a whole fraction of the data set's."
    )
    views: Count = Field(2, description="Number of views of a sample.")
    view_names: Annotated[tuple[str, ...], BeforeValidator(_names)] | None = Field(
        None, description="Draw from these views only; all by default."
    )
    few_views: Few = Field(
        "error",
        description="What becomes of samples with fewer views, where a data set's samples differ in them: an `error`, "
        "or `skip` them.",
    )
    size: Annotated[tuple[Count, Count], BeforeValidator(_pair)] = Field(
        (512, 512),
        description="Height and width, or both as one number: centre-cropped to the aspect and scaled, K kept true.",
    )
    action: Action = Field(
        "stored", description="Where the action images come from: `stored`, `rendered`, `both` or `none`."
    )
    plucker: bool = Field(
        True,
        description="Give the rays; they are 24 B a pixel, and `DeviceTransform` makes them on the device instead.",
    )
    modes: Mapping[str, float] = Field(
        dict(PUBLISHED_ODDS), validate_default=True, description="Odds of each task by name; as published for RLBench."
    )
    latent_stride: Count = Field(LATENT_STRIDE, description="Frames to a latent frame.")
    short: Short = Field(
        "pad",
        description="Samples that are shorter than a window: `pad` with black frames, zero actions and the last "
        "camera, `valid` false; `repeat` the last frame and take it for valid, as the published loader does; `skip` "
        "them; or `error`.",
    )
    text_dropout: Share = Field(0.0, description="How often `text` is empty, for classifier-free guidance.")
    pixels: Pixels = Field(
        "float32", description="`float32` in [−1, 1], or `uint8`: a quarter of the bytes, for `DeviceTransform`."
    )
    decoder: Decoder = Field(
        "auto", description="What decodes videos: `torchcodec` where it can be loaded, else `pyav`; the same pixels."
    )
    axes: Axes = Field("rlbench", description="Axes of the cameras: `rlbench` as published, or `opencv`.")
    arms: Arms = Field(
        "auto",
        description="Of several grippers, give each its own action segment (`separate`), or the clipped sum of all in "
        "one (`merged`); `auto` takes them as they are stored.",
    )
    wrist_views: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        (),
        description="Views of wrist cameras, whose action images are drawn on load from a virtual camera that is held "
        "where the window begins, `wrist_distance` before the gripper (with `action='rendered'`).",
    )
    wrist_distance: Annotated[float, Field(gt=0, le=10)] = Field(
        WRIST_DISTANCE, description="Metres from that camera to the gripper; axes are at most 0.35 times as long."
    )
    members: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        (), description="Derived members (`actionimg derive`) to give, by name; windows are then among theirs."
    )
    video: bool | None = Field(
        None, description="Decode the pictures; by default where no member was made of them (see Derived members)."
    )
    streams: Annotated[tuple[Stream, ...], BeforeValidator(_names)] = Field(
        (), description="Which of `depth` and `mask` to give beside the video."
    )
    segments: Annotated[tuple[Segment, ...], BeforeValidator(_names)] = Field(
        (),
        description="Which of `depth`, `mask` and `normals` to give as further RGB videos, between video and action "
        "images in the masks.",
    )
    depth_range: tuple[float, float] = Field(
        (DepthCodec.near, DepthCodec.far),
        description="Nearest and farthest depth that a depth video shows, metres; the narrower, the more precise.",
    )
    mask_labels: tuple[Number, ...] | None = Field(
        None, description="Ids that have a colour in a mask video, up to 16; the largest of a window by default."
    )
    seed: Number = Field(0, description="Of everything that is drawn, the order of the samples included.")
    strict: bool = Field(
        False, description="Refuse windows that video models do not take as they are, instead of warning once."
    )

    @field_validator("modes")
    @classmethod
    def _odds(cls, value: Mapping[str, float]) -> Mapping[str, float]:
        try:
            return check_odds(value)
        except InvalidSpecError as error:
            raise ValueError(f"{error.message}: {error.field} {error.found}") from None

    @field_validator("depth_range")
    @classmethod
    def _limits(cls, value: tuple[float, float]) -> tuple[float, float]:
        try:
            DepthCodec(*value)
        except InvalidSpecError as error:
            raise ValueError(f"{error.message}: {error.expected}") from None
        return value

    @field_validator("mask_labels")
    @classmethod
    def _colours(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not 1 <= len(value) <= MOST_LABELS or len(set(value)) != len(value)):
            raise ValueError(f"needs 1 … {MOST_LABELS} different ids")
        return value

    @field_validator("streams", "segments")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names a stream twice")
        return value

    @model_validator(mode="after")
    def _together(self) -> SampleOptions:
        if self.fps is not None and self.frame_stride != 1:
            raise ValueError("give fps or frame_stride, not both")
        if self.wrist_views and self.action not in ("rendered", "none"):
            raise ValueError(f"wrist_views need action='rendered', not '{self.action}': stored ones do not move")
        if self.strict and (found := self.unusual()):
            raise ValueError(found)
        return self

    def said(self, name: str) -> bool:
        """Whether an option was given, so that nothing is taken in its place."""
        return name in self.model_fields_set

    @property
    def height(self) -> int:
        """Height of the pictures."""
        return self.size[0]

    @property
    def width(self) -> int:
        """Width of the pictures."""
        return self.size[1]

    @property
    def span(self) -> int:
        """Frames from the first to the last of a window, for `frame_stride`."""
        return (self.num_frames - 1) * self.frame_stride + 1

    def stride(self, fps: float, where: object) -> int:
        """Frames from one to the next at a source's rate.

        Raises:
            InvalidSpecError: The declared rate is not a whole fraction of the source's.
        """
        if self.fps is None:
            return self.frame_stride
        return whole_stride(fps, self.fps, where)

    def unusual(self) -> str:
        """What of a window video models do not take as it is; empty where they do."""
        return unusual_window(self.num_frames, self.height, self.width, self.latent_stride)

    def warn_if_unusual(self) -> None:
        """Say once in a process what `unusual` finds."""
        found = self.unusual()
        if found and found not in _warned:
            _warned.add(found)
            warnings.warn(f"video models do not take such windows: {found}", UnusualWindowWarning, stacklevel=4)

    def identity(self) -> dict[str, Any]:
        """The options that decide what is in a sample, as JSON values."""
        own = self.model_dump(mode="json", exclude={"plucker", "pixels", "strict", "decoder"})
        if not self.members:
            del own["members"]
        if self.video is None:
            del own["video"]
        if not self.wrist_views:
            del own["wrist_views"], own["wrist_distance"]
        if not self.segments:
            del own["segments"], own["depth_range"], own["mask_labels"]
        # It came later: states of before know nothing of it.
        if self.few_views == "error":
            del own["few_views"]
        return own


class StreamOptions(_Options):
    """In which order samples come, who gets which, and what becomes of damaged ones.

    Raises:
        InvalidSpecError: An option is unknown or outside its range; it is named.
    """

    shuffle: bool = Field(True, description="Shuffle shards, and samples among neighbours.")
    shuffle_buffer: Count = Field(1000, description="How many neighbouring samples are shuffled.")
    batch_size: Count = Field(
        1, description="That of the loader. With it, batches are the same for any number of workers."
    )
    drop_last: bool = Field(
        False,
        description="Leave out the samples at the end of an epoch that do not fill a batch on every process, so that "
        "all have as many.",
    )
    epochs: Count | None = Field(1, description="Epochs of one iteration; `None` goes on without end.")
    rank: Number | None = Field(
        None, description="Number of this process; found when iteration begins, where it is not given."
    )
    world_size: Count | None = Field(None, description="Number of processes; goes with `rank`.")
    on_error: Literal["raise", "skip"] = Field(
        "raise", description="`raise`, with shard and key, or `skip` the sample with a `SkippedSampleWarning`."
    )
    max_errors: Number = Field(10, description="Samples that a worker skips before it raises.")

    @model_validator(mode="after")
    def _together(self) -> StreamOptions:
        if (self.rank is None) != (self.world_size is None):
            raise ValueError(f"rank and world_size go together: {self.rank}, {self.world_size}")
        if self.rank is not None and self.world_size is not None and self.rank >= self.world_size:
            raise ValueError(f"rank {self.rank} is none of 0 … {self.world_size - 1}")
        return self


Kind = TypeVar("Kind", bound=_Options)


def told(kind: type[Kind], given: Kind | None, keywords: dict[str, Any]) -> Kind:
    """Options of a kind: those given, with the ones of ``keywords`` that are its own in their place.

    ``keywords`` is left with what is not taken.
    """
    own = {name: keywords.pop(name) for name in list(keywords) if name in kind.model_fields}
    if given is not None and not isinstance(given, kind):
        raise InvalidSpecError("is not what it is for", field=kind.__name__, found=given)
    if not own and given is not None:
        return given
    before = {} if given is None else {name: getattr(given, name) for name in given.model_fields_set}
    return kind(**{**before, **own})


def refuse_unknown(keywords: Mapping[str, Any]) -> None:
    """Refuse options that nothing has taken (`InvalidSpecError`)."""
    for name in keywords:
        known = [*SampleOptions.model_fields, *StreamOptions.model_fields]
        raise InvalidSpecError(
            "no such option", field=name, expected=f"one of {', '.join(known)}", found=keywords[name]
        )

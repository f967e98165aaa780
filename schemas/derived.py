"""What is written beside a data set for members that were derived from it: manifest, sidecars, quarantine, index."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from .dataset import SHA256_PATTERN, TAR_PATTERN, Key, Name, ShardName, _Stored, to_bytes

if TYPE_CHECKING:
    import pyarrow as pa

MEMBER_FILE_PATTERN: Final = r"^[a-z0-9_-]{1,64}\.(npy|npz)$"
MODULE_PATTERN: Final = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
FILE_PATTERN: Final = r"^(index\.parquet|quarantine\.jsonl)$"

Over = Literal["window", "sample"]
Reads = Literal["pictures", "actions", "text", "poses", "cameras"]
Sha256 = Annotated[str, Field(pattern=SHA256_PATTERN)]


class DerivedSpec(_Stored):
    """What a derived member is: which function, in which version and with which options, of what.

    Its `fingerprint` is in every sidecar, so that members of different functions are never mixed.
    """

    member: str = Field(pattern=MEMBER_FILE_PATTERN, description="file name without the key: NAME.npy or NAME.npz")
    function: str = Field(pattern=MODULE_PATTERN, description="MODULE:FUNCTION")
    function_version: str = Field(
        min_length=1, description="what the function says of itself (`version`), else a hash of its module's source"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the function")
    over: Over = Field("window", description="called once a window, or once a sample")
    num_frames: int | None = Field(None, ge=1, description="frames of a window; null: of whole samples")
    fps: float | None = Field(None, gt=0, description="rate of the windows; null: the data set's own")
    hop: int | None = Field(None, ge=1, description="frames of the window from one to the next; null: num_frames")
    short: Literal["skip", "repeat"] = "skip"
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    views: tuple[Name, ...] = Field(min_length=1)
    together: bool = Field(False, description="one call for all views, and not one for each")

    @model_validator(mode="after")
    def _fits(self) -> DerivedSpec:
        windowed = (self.num_frames is not None, self.fps is not None, self.hop is not None, self.short != "skip")
        if self.over == "sample" and any(windowed):
            raise ValueError("a whole sample is not cut into windows")
        if self.over == "window" and self.num_frames is None:
            raise ValueError("a window has num_frames")
        return self

    @property
    def name(self) -> str:
        """The member's name, by which training asks for it."""
        return self.member.partition(".")[0]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it."""
        plain = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(plain.encode()).hexdigest()

    def shard_plan(self, source: str) -> str:
        """What the sidecar of a shard names as its plan: this, made of a shard with a SHA-256."""
        return hashlib.sha256(f"{self.fingerprint} {source}".encode()).hexdigest()


class DerivedArray(_Stored):
    """Type and shape of an array, as numpy writes them."""

    dtype: str
    shape: tuple[int, ...]


class DerivedItem(_Stored):
    """One derived member within its shard."""

    key: Key
    start: int = Field(ge=0)
    stride: int = Field(ge=1)
    frames: int = Field(ge=1)
    views: tuple[Name, ...] = Field(min_length=1)
    offset: int = Field(ge=0)
    size: int = Field(ge=0)
    sha256: Sha256
    arrays: dict[str, DerivedArray] = Field(description='of an .npz by name, of an .npy under ""')


class DerivedFailure(_Stored):
    """A window or sample of which the function made nothing."""

    key: Key
    start: int = Field(ge=0)
    views: tuple[Name, ...]
    shard: ShardName
    code: str
    message: str
    traceback: str | None = None


class DerivedSidecar(_Stored):
    """The commit mark of a shard of derived members; one without any has no tar (``bytes`` 0, ``sha256`` null)."""

    format: Literal["actionimg-derived-shard"] = "actionimg-derived-shard"
    version: Literal[1] = 1
    plan: Sha256 = Field(description="of the specification and of the shard that it was made of")
    shard: ShardName = Field(description="that of the data set")
    source_sha256: Sha256 = Field(description="of the tar that it was made of")
    bytes: int = Field(ge=0)
    sha256: Sha256 | None = None
    reads: tuple[Reads, ...] = Field((), description="what the function has asked for")
    items: tuple[DerivedItem, ...] = ()
    quarantined: tuple[DerivedFailure, ...] = ()


class DerivedShard(_Stored):
    """A shard of derived members in the manifest."""

    path: str = Field(pattern=TAR_PATTERN, description="within the derivation's folder")
    items: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: Sha256 | None
    sidecar_sha256: Sha256
    source_sha256: Sha256
    quarantined: int = Field(ge=0)


class DerivedCounts(_Stored):
    """What a finished derivation holds."""

    samples: int
    items: int
    quarantined: int
    bytes: int
    shards: int


class DerivedManifest(_Stored):
    """``derived/NAME/derived.json``. While shards are missing ``complete`` is false, and the rest is absent."""

    format: Literal["actionimg-derived"] = "actionimg-derived"
    version: Literal[1] = 1
    complete: bool = False
    spec: DerivedSpec
    tool: dict[str, str] = Field(description="versions with which it was begun")
    reads: tuple[Reads, ...] = ()
    arrays: dict[str, DerivedArray] = Field(
        default_factory=dict, description="what all have in common: of a window all, of a sample the type alone"
    )
    counts: DerivedCounts | None = None
    shards: tuple[DerivedShard, ...] = ()
    files: dict[Annotated[str, Field(pattern=FILE_PATTERN)], Sha256] = Field(default_factory=dict)
    checksum: str = Field("", description="SHA-256 of this document with this field empty")

    def sealed(self) -> DerivedManifest:
        """The manifest with its checksum filled in."""
        blank = self.model_copy(update={"checksum": ""})
        return blank.model_copy(update={"checksum": hashlib.sha256(to_bytes(blank)).hexdigest()})

    def blank(self) -> DerivedManifest:
        """The manifest as it is before the first shard."""
        return DerivedManifest(spec=self.spec, tool=self.tool).sealed()


EXPORTED: Final[dict[str, type[_Stored]]] = {"derived": DerivedManifest, "derived-shard": DerivedSidecar}
"""Documents that other programs may want to check, by the name of their schema file."""


def derived_schema() -> pa.Schema:
    """Arrow schema of a derivation's ``index.parquet``: one row a member, in the order of the shards."""
    import pyarrow as pa

    fields = [
        ("key", pa.string()),
        ("start", pa.int64()),
        ("stride", pa.int64()),
        ("frames", pa.int64()),
        ("views", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.binary(32)),
    ]
    metadata = {"format": "actionimg-derived", "version": "1"}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields], metadata=metadata)

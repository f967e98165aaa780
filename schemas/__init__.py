"""The models of everything written to disk, and the registries of known data sets."""

from __future__ import annotations

from .dataset import (
    CalibrationRow,
    ConverterRecord,
    ConvertOptions,
    Counts,
    DatasetManifest,
    EarlierPlan,
    MemberRow,
    PlanEpisode,
    PlanRow,
    QuarantineRow,
    RemadeShards,
    SampleMeta,
    SampleRow,
    ShardRecord,
    ShardSidecar,
    SpanRow,
    index_schema,
)
from .spec import ActionImageSpec

__all__ = [
    "ActionImageSpec",
    "CalibrationRow",
    "ConvertOptions",
    "ConverterRecord",
    "Counts",
    "DatasetManifest",
    "EarlierPlan",
    "MemberRow",
    "PlanEpisode",
    "PlanRow",
    "QuarantineRow",
    "RemadeShards",
    "SampleMeta",
    "SampleRow",
    "ShardRecord",
    "ShardSidecar",
    "SpanRow",
    "index_schema",
]

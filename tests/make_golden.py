"""Write the golden data set: ``python tests/make_golden.py`` (only when the format's version changes)."""

from __future__ import annotations

import sys
from pathlib import Path

from synthetic_converter import SyntheticConverter

from actionimg_data.model import EpisodeRef
from actionimg_data.schemas import ConverterRecord, ConvertOptions
from actionimg_data.schemas.dataset import to_bytes
from actionimg_data.shards import Recipe, assemble, layout, make_plan, write_shard

GOLDEN = Path(__file__).resolve().parent / "golden"
CODECS = ("h264", "ffv1", "png")


def make(out: Path, codec: str) -> None:
    """A data set of two episodes, one of them in quarantine, in two shards."""
    converter = SyntheticConverter()
    refs = [
        EpisodeRef(f"task/ep_{i:03d}", {"seed": i, "frames": 3, "bad": bad, "slow": 0.0, "views": ["front", "side"],
                                        "uncalibrated": []}, 3, "v1")
        for i, bad in enumerate((None, "bad-image"))
    ]  # fmt: skip
    options = ConvertOptions.parse(height=64, width=64, action_codec=codec)
    plan = make_plan(ConverterRecord(name="synthetic"), "synthetic://golden", refs, ("front", "side"), options)
    out.mkdir(parents=True)
    layout.publish(out / layout.MANIFEST, to_bytes(plan.manifest))
    layout.publish(out / layout.PLAN, plan.to_bytes())
    for row in plan.rows:
        write_shard(out, row, plan.manifest.plan, converter, Recipe.of(plan.manifest))
    assemble(out, plan.manifest, plan.rows)


if __name__ == "__main__":
    for name in CODECS:
        if (GOLDEN / name).exists():
            sys.exit(f"{GOLDEN / name} exists: remove it first")
        make(GOLDEN / name, name)

"""A folder for the Hugging Face Hub: shards, a data card, and what makes ``load_dataset`` and the viewer find them."""

from __future__ import annotations

from pathlib import Path

from ..errors import UnsupportedSourceError
from ..schemas import ActionImageSpec, DatasetManifest
from ..shards import Dataset, layout
from .common import Link, Result, new_folder, opened, place, shard_paths


def export(path: str | Path, dest: str | Path, *, link: Link = "hard", license: str = "other") -> Result:
    """Write the folder; it stays a data set that every command of ours takes, also from ``hf://datasets/…``.

    Args:
        path: A complete data set.
        dest: A new folder; ``hf upload NAME DEST --repo-type dataset`` publishes it.
        link: How shards get there.
        license: The Hub's name of the data's licence, which its source decides.

    Raises:
        OutputExistsError, OutputError: ``dest`` cannot be made.
        CorruptDatasetError: The data set is damaged or incomplete.
        UnsupportedSourceError: Samples differ in their views.
    """
    dataset, manifest = opened(path)
    if manifest.options.views_per_sample and len(set(map(tuple, dataset.table["views"].to_pylist()))) > 1:
        raise UnsupportedSourceError(
            "samples differ in their views, and load_dataset takes the same members in every sample",
            where=path,
            field="views",
            hint="actionimg convert --views NAME makes a data set of one view; wids and energon take this one.",
        )
    source = layout.place(path)
    with new_folder(dest) as root:
        for name in shard_paths(manifest):
            place(source / name, root / name, link)
            place(source / f"{name.removesuffix('.tar')}.json", root / f"{name.removesuffix('.tar')}.json", "copy")
        for name in (layout.MANIFEST, layout.INDEX, layout.PLAN, layout.QUARANTINE):
            place(source / name, root / name, "copy")
        (root / "README.md").write_text(card(dataset, manifest, license), encoding="utf-8")
    result = Result("huggingface", str(dest), samples=len(dataset))
    result.notes.append("The card says licence 'other'; look up your source's." if license == "other" else "")
    result.notes = [note for note in result.notes if note]
    return result


def card(dataset: Dataset, manifest: DatasetManifest, license: str) -> str:
    """The data card: YAML for the Hub, then what is in the data set and how to read it."""
    options, counts = manifest.options, manifest.counts
    frames = counts.frames if counts else 0
    size = counts.bytes if counts else 0
    total = len(dataset)
    category = next(
        (name for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")) if total < limit),
        "100K<n<1M" if total < 1_000_000 else "n>1M",
    )
    first = dataset[0]
    members = "\n".join(f"| `{name}` | {_describe(name)} |" for name in first.members)
    return f"""---
license: {license}
task_categories:
- robotics
tags:
- action-images
- webdataset
- video
size_categories:
- {category}
configs:
- config_name: default
  data_files:
  - split: {options.split}
    path: {options.split}/*.tar
---

# Action images

{total} samples, {frames} frames in {len(manifest.views)} calibrated views
({", ".join(manifest.views)}), {options.width}x{options.height}, {size / 1e6:.1f} MB; made from
`{manifest.converter.name}` with actionimg-data {manifest.tool.get("actionimg-data", "")}.

An action image draws the gripper's pose into a calibrated camera: red the point between the fingertips, green
{options.spec.axis_length:g} m along the gripper's x, blue {options.spec.axis_length:g} m back along the hand, and the
openness as the level of the blue background (arXiv 2604.06168).{_drawn_otherwise(options.spec)}

| member of a sample | what it is |
|---|---|
{members}

Right-handed frames, metres, radians, seconds; cameras with OpenCV axes; quaternions xyzw; openness 1 = open.

```python
from datasets import load_dataset
data = load_dataset("USER/NAME", split="{options.split}", streaming=True).decode(False)

from actionimg_data.training import ActionImageDataset
data = ActionImageDataset("hf://datasets/USER/NAME", num_frames=41, size={min(options.height, options.width)})
```
"""


def _drawn_otherwise(spec: ActionImageSpec) -> str:
    """What the pictures' spec changes of the published drawing, in a sentence."""
    published = ActionImageSpec(height=spec.height, width=spec.width).model_dump()
    changed = [f"{name} {value}" for name, value in spec.model_dump().items() if published.get(name) != value]
    return f" Drawn otherwise than published: {', '.join(changed)}." if changed else ""


def _describe(member: str) -> str:
    view, _, kind = member.partition(".")
    shown, _, gripper = kind.rpartition(".")[0].partition(".")
    whose = f" of gripper {gripper}" if gripper else ""
    if member == layout.META:
        return "instruction, frame rate, views, size, provenance"
    if view == "trajectory":
        arm = kind.removesuffix("npz").rstrip(".")
        arrays = "position (T, 3), quaternion_xyzw (T, 4), openness (T,), times (T,)"
        return f"{arrays} of gripper {arm}" if arm else arrays
    if member == layout.CAMERAS:
        return "K (V, T, 3, 3), world_from_camera (V, T, 4, 4)"
    if member == layout.CONDITIONING:
        return "the same of cameras in a frame and a scale of their own, to condition on and not to draw with"
    what = {
        "rgb": "camera pictures",
        "action": "action images",
        "depth": "depth in millimetres, 16 bits, 0 where not known,",
        "mask": "ids of what is seen, R + 256 G + 65536 B,",
    }[shown]
    return f"{what} of view {view}{whose}"

"""A folder for the Hugging Face Hub: shards, a data card, and what makes ``load_dataset`` and the viewer find them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from ..errors import InvalidSpecError, UnsupportedSourceError
from ..report import pictures
from ..schemas import ActionImageSpec, DatasetManifest
from ..shards import Dataset, Sample, derived, layout
from . import hub
from .common import Link, Result, new_folder, opened, place, shard_paths

PICTURE: Final = "pictures/first_sample.jpg"


def export(
    path: str | Path,
    dest: str | Path,
    *,
    link: Link = "hard",
    license: str = "other",
    push: str | None = None,
    public: bool = False,
    on_start: Callable[[int], None] = lambda total: None,
    on_done: Callable[[int], None] = lambda done: None,
) -> Result:
    """Write the folder; it stays a data set that every command of ours takes, also from ``hf://datasets/…``.

    Args:
        path: A complete data set.
        dest: A new folder; with ``push`` also one that an earlier run made of the same data set.
        link: How shards get there.
        license: The Hub's name of the data's licence, which its source decides.
        push: ``USER/NAME`` to upload the folder to, as a data set; what is there already is not sent again.
        public: Whether everybody can read a repository that ``push`` has to make.
        on_start: Called with the number of files to upload.
        on_done: Called with the number of files uploaded since the last call.

    Raises:
        OutputExistsError, OutputError: ``dest`` cannot be made, or the Hub refuses.
        InvalidSpecError: ``public`` without ``push``.
        MissingExtraError: ``push`` needs huggingface_hub.
        CorruptDatasetError: The data set is damaged or incomplete.
        UnsupportedSourceError: Samples differ in their views.
    """
    if public and push is None:
        raise InvalidSpecError("is an option of an upload", field="--public", hint="Add --push USER/NAME.")
    dataset, manifest = opened(path)
    if manifest.options.views_per_sample and len(set(map(tuple, dataset.table["views"].to_pylist()))) > 1:
        raise UnsupportedSourceError(
            "samples differ in their views, and load_dataset takes the same members in every sample",
            where=path,
            field="views",
            hint="actionimg convert --views NAME makes a data set of one view; wids and energon take this one.",
        )
    source = layout.place(path)
    if push is None or not _written(source, Path(dest)):
        with new_folder(dest) as root:
            _write(source, root, dataset, manifest, link, license)
    result = Result("huggingface", str(dest), samples=len(dataset))
    result.notes += _write_derived(source, Path(dest), link)
    if license == "other":
        result.notes.append("The card says licence 'other'; look up your source's.")
    if push is None:
        result.notes.append("next: the same command with --push USER/NAME uploads it")
        return result
    before = 0

    def on_files(done: int, total: int) -> None:
        nonlocal before
        on_start(total)
        on_done(done - before)
        before = done

    result.notes.append(f"next: actionimg inspect {hub.push(Path(dest), push, public=public, on_files=on_files)}")
    return result


def _written(source: layout.Place, dest: Path) -> bool:
    """Whether ``dest`` is what an earlier run made of the same data set: the manifest is copied last."""
    there = dest / layout.MANIFEST
    return there.is_file() and layout.read_place(layout.place(there)) == layout.read_place(source / layout.MANIFEST)


def _write(
    source: layout.Place, root: Path, dataset: Dataset, manifest: DatasetManifest, link: Link, license: str
) -> None:
    for name in shard_paths(manifest):
        place(source / name, root / name, link)
        place(source / f"{name.removesuffix('.tar')}.json", root / f"{name.removesuffix('.tar')}.json", "copy")
    picture = _picture(dataset[0])
    if picture is not None:
        (root / PICTURE).parent.mkdir()
        (root / PICTURE).write_bytes(picture)
    (root / "README.md").write_text(card(dataset, manifest, license), encoding="utf-8")
    for name in (layout.INDEX, layout.PLAN, layout.QUARANTINE, layout.MANIFEST):
        place(source / name, root / name, "copy")


def _write_derived(source: layout.Place, root: Path, link: Link) -> list[str]:
    """Bring along what was derived and is not there yet, each manifest last; returns what is left behind."""
    left = []
    for name in derived.names(source):
        manifest = derived.read_manifest(source, name)
        if not manifest.complete:
            left.append(f"derived {name} is not complete and stays behind: give its actionimg derive command again")
            continue
        mark = derived.folder_of(layout.place(root), name) / derived.MANIFEST
        if mark.is_file():
            if layout.read_place(mark) == layout.read_place(derived.folder_of(source, name) / derived.MANIFEST):
                continue
            derived.remove(layout.place(root), name)
        for file in derived.files(manifest):
            target = root / file
            with layout.output_errors(target):
                # What an interrupted run has left.
                target.unlink(missing_ok=True)
                place(source / file, target, link if file.endswith(".tar") else "copy")
    return left


def _picture(sample: Sample) -> bytes | None:
    """Four frames of a sample's first view: camera picture, action image, both; None of a sample without cameras."""
    if sample.spec is None or not sample.meta.calibrated:
        return None
    view, gripper = sample.views[0], sample.action_names[0]
    frames, arms = pictures.evenly(len(sample), 4), max(1, len(sample.meta.grippers))
    over = partial(pictures.over_camera, spec=sample.spec)
    columns = [
        pictures.Triptych(rgb, action, pictures.blend(rgb, over(action), sample.spec, arms))
        for rgb, action in zip(sample.rgb(view, frames), sample.action(view, frames, gripper), strict=True)
    ]
    return pictures.jpeg_bytes(pictures.grid(columns, heads=[f"{view}, frame {frame}" for frame in frames]))


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

{_shown(first)}{total} samples, {frames} frames in {len(manifest.views)} calibrated views
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


def _shown(first: Sample) -> str:
    """The card's picture, where there is one."""
    if not first.meta.calibrated:
        return ""
    return f"![Frames of the sample {first.key}: camera pictures, action images, and both]({PICTURE})\n\n"


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

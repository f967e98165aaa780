"""All data sets of Open X-Embodiment by shape: their features.json is rebuilt from a table of facts, and read.

The table (oxe_shapes.json) holds what the features.json files of a mirror of the published data sets say, as listed at
https://github.com/felixmin/high-level-robot-planner/blob/0a9871c/docs/openx_local_dataset_inventory.md: the shapes of
pictures, texts and actions, and of other observations only their names.
"""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actionimg_data.converters.kit.entries import shipped
from actionimg_data.converters.rlds import features as F
from actionimg_data.converters.rlds import open_rlds, registry
from actionimg_data.demo import rlds as w

SHAPES: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "oxe_shapes.json").read_text())
FLAGS = ("is_first", "is_last", "is_terminal")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIONIMG_CACHE_DIR", str(tmp_path / "cache"))


def _leaf(said: str) -> F.Leaf:
    """The table's words for a leaf: ``float32 7``, ``string scalar``, ``scalar`` (a Text) or ``FeaturesDict``."""
    dtype, _, shape = said.rpartition(" ")
    if not dtype:
        return w.text()
    dims = () if shape == "scalar" else (int(shape),)
    return w.tensor(dims, {"string": "str"}.get(dtype, dtype))


def _value(leaf: F.Leaf) -> Any:
    if leaf.dtype == "str":
        return ["do it"]
    return np.ones((1, *[n or 2 for n in leaf.shape]), leaf.dtype)


def _step(facts: dict[str, Any]) -> dict[str, Any]:
    images = {k: w.image(shape, dtype, kind or "png") for k, (shape, dtype, kind) in facts["images"].items()}
    known = {**{k: _leaf(v) for k, v in facts["text"].items()}, **images}
    observation = {k: known.get(k, w.tensor((3,))) for k in facts["observation"]}
    action = facts["action"]
    step = {k: known.get(k, w.tensor(())) for k in facts["step"] if k not in (*FLAGS, "observation", "action")}
    if "action" in facts["step"]:
        step["action"] = {k: _leaf(v) for k, v in action.items()} if isinstance(action, dict) else _leaf(action)
    return {**step, "observation": observation}


def _values(node: Any) -> Any:
    return {k: _values(v) for k, v in node.items()} if isinstance(node, dict) else _value(node)


def test_all_data_sets_are_in_the_table() -> None:
    assert len(SHAPES) == 69


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_data_set_of_this_shape_is_read(tmp_path: Path, name: str) -> None:
    step = _step(SHAPES[name])
    values = {**_values(step), **w.flags(1)}
    folder = w.write_rlds(tmp_path, name, w.episode_features(step), {"train": [{"steps": values}]})
    dataset = open_rlds(folder)
    (episode,) = dataset.episodes("train")
    found = episode["steps"]
    assert set(found) == {*step, *FLAGS}
    assert set(found["observation"]) == set(SHAPES[name]["observation"])
    for key, (shape, dtype, _) in SHAPES[name]["images"].items():
        assert found["observation"][key].shape == (1, *shape)
        assert found["observation"][key].dtype == dtype
        assert (found["observation"][key] == 1).all() or SHAPES[name]["images"][key][2] == "jpeg"


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        (name, entry)
        for name in sorted(SHAPES)
        for entry in shipped()
        if any(fnmatch.fnmatchcase(name, p) for p in shipped()[entry].names) and entry != "bridge_dataset"
    ],
)
def test_an_entry_names_features_that_the_published_data_set_has(name: str, entry: str) -> None:
    """Written from other sources than the table, so that each holds the other."""
    facts, found = SHAPES[name], shipped()[entry]
    step = {*facts["step"], *(f"observation/{k}" for k in facts["observation"])}
    action = facts["action"]
    widths = {f"action/{k}": v for k, v in action.items()} if isinstance(action, dict) else {"action": action}
    references = [c for part in (found.joints, found.gripper) if part is not None for c in part.columns]
    if found.pose is not None:
        parts = (found.pose.matrix, found.pose.position, found.pose.rotation)
        references += [c for part in parts if part is not None for c in part.columns]
    keys = [*found.requires, *found.instruction.keys, *(v.image for v in found.views.values())]
    for reference in (*references, *keys):
        flat, part = registry.column(reference)
        key = flat.removeprefix("steps/")
        assert key in step or key in widths, key
        if key in widths and part is not None:
            assert part.stop <= int(widths[key].split()[-1]), reference
    for view in found.views.values():
        shape, dtype, _ = facts["images"][view.image.removeprefix("observation/")]
        assert (shape[2], dtype) == (3, "uint8")

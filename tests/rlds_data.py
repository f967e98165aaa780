"""Small RLDS data sets for tests, and TFDS' own answers for the samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from actionimg_data.converters.rlds import features as F
from actionimg_data.demo import rlds as w

SAMPLES = (
    ("bridge_dataset", "bridge_train"),
    ("toy_robot", "toy_train"),
    ("toy_plain_array_record", "toy_plain_train"),
)


def all_kinds_features() -> F.Group:
    """Every kind of leaf that RLDS data sets have."""
    observation = {
        "image": w.image((12, 16, 3)),
        "any_size": w.image((None, None, 3), encoding="png"),
        "grey": w.image((8, 8, 1), encoding="png"),
        "alpha": w.image((8, 8, 4), encoding="png"),
        "depth": w.image((8, 8, 1), "uint16", "png"),
        "float_depth": w.image((4, 4, 1), "float32", "png"),
        "state": w.tensor((7,)),
        "float64": w.tensor((2,), "float64"),
        "matrix": w.tensor((4, 4)),
        "small": w.tensor((3,), "uint8"),
        "negative": w.tensor((), "int64"),
        "flag": w.tensor((), "bool"),
        "raw": w.tensor((3, 3), "float64", "bytes"),
        "packed": w.tensor((3,), "float32", "zlib"),
        "rows": w.tensor((None, 3), "float32", "zlib"),
        "two_unknown": w.tensor((None, None), "int32", "bytes"),
        "points": w.sequence(w.tensor((3,))),
        "crops": w.sequence(w.image((None, None, 3), encoding="png")),
        "nested": w.sequence(w.sequence(w.tensor((), "int64"))),
        "words": w.sequence(w.text()),
        "pair": w.tensor((2,), "str"),
        "slashed/name": w.tensor((2,)),
    }
    step = {"observation": observation, "action": w.tensor((7,)), "language_instruction": w.text()}
    metadata = {"file_path": w.text(), "tags": w.sequence(w.text()), "calib": w.tensor((2, 2), "float64")}
    return w.episode_features(step, episode_metadata=metadata, video=w.sequence(w.image((6, 6, 3), encoding="png")))


def all_kinds_episode(steps: int, seed: int = 0) -> dict[str, Any]:
    """An episode of `all_kinds_features`."""
    rng = np.random.default_rng(seed)

    def pictures(*shape: int, dtype: str = "uint8") -> np.ndarray[Any, Any]:
        return rng.integers(0, np.iinfo(dtype).max, (steps, *shape)).astype(dtype)

    observation = {
        "image": pictures(12, 16, 3),
        "any_size": [rng.integers(0, 255, (5 + t, 7, 3)).astype(np.uint8) for t in range(steps)],
        "grey": pictures(8, 8, 1),
        "alpha": pictures(8, 8, 4),
        "depth": pictures(8, 8, 1, dtype="uint16"),
        "float_depth": rng.normal(size=(steps, 4, 4, 1)).astype(np.float32),
        "state": rng.normal(size=(steps, 7)).astype(np.float32),
        "float64": rng.normal(size=(steps, 2)).astype(np.float32).astype(np.float64),
        "matrix": rng.normal(size=(steps, 4, 4)).astype(np.float32),
        "small": pictures(3),
        "negative": rng.integers(-(2**62), 2**62, steps),
        "flag": rng.random(steps) > 0.5,
        "raw": rng.normal(size=(steps, 3, 3)),
        "packed": rng.normal(size=(steps, 3)).astype(np.float32),
        "rows": [rng.normal(size=(t % 3, 3)).astype(np.float32) for t in range(steps)],
        "two_unknown": [rng.integers(-5, 5, (t % 3, t % 2)).astype(np.int32) for t in range(steps)],
        "points": [rng.normal(size=(t % 3, 3)).astype(np.float32) for t in range(steps)],
        "crops": [rng.integers(0, 255, (t % 2, 3, 4 + t, 3)).astype(np.uint8) for t in range(steps)],
        "nested": [[list(range(k)) for k in range(t % 3)] for t in range(steps)],
        "words": [["a", "☃"][: t % 3] for t in range(steps)],
        "pair": [[f"x{t}", "y"] for t in range(steps)],
        "slashed/name": rng.normal(size=(steps, 2)).astype(np.float32),
    }
    return {
        "steps": {
            "observation": observation,
            "action": rng.normal(size=(steps, 7)).astype(np.float32),
            "language_instruction": [f"do it ☃ {seed}"] * steps,
            **w.flags(steps),
        },
        "episode_metadata": {"file_path": f"/raw/{seed}", "tags": ["t"] * (seed % 3), "calib": np.eye(2)},
        "video": pictures(6, 6, 3)[: max(0, steps - 1)],
    }


def leaves(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The leaves of nested dicts."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*place, name))
    else:
        yield place, value


def same(found: Any, expected: Any, place: object = "") -> None:
    """Two leaves are equal in structure, values, dtype of numbers and shape."""
    if isinstance(found, list):
        assert len(found) == len(expected), place
        for f, e in zip(found, expected, strict=True):
            same(f, e, place)
        return
    if isinstance(found, str):
        assert found == str(expected), place
        return
    e = np.asarray(expected, dtype=object if found.dtype == object else None)
    assert np.shape(found) == e.shape or (found.size == 0 and e.size == 0), (place, found.shape, e.shape)
    assert np.array_equal(found, e.reshape(found.shape)), place


def expected_leaves(root: Path, name: str) -> Iterator[tuple[int, tuple[str, ...], str, list[Any]]]:
    """TFDS' values of a sample: episode, place, kind ("array", "text" or "ragged") and value(s)."""
    kinds = json.loads((root / f"{name}.kinds.json").read_text())
    with np.load(root / f"{name}.npz", allow_pickle=False) as values:
        for key, kind in kinds.items():
            episode, *place = key.split("|")
            number = int(episode.removeprefix("ep"))
            if kind.startswith("text"):
                *texts, shape = json.loads(str(values[key]))
                array = np.empty(len(texts), object)
                array[:] = texts
                yield number, tuple(place), "text", [array.reshape(shape)]
            elif kind.startswith("per step"):
                steps = sum(k.startswith(f"{key}#step") for k in values.files)
                yield number, tuple(place), "ragged", [values[f"{key}#step{t}"] for t in range(steps)]
            else:
                yield number, tuple(place), "array", [values[key]]

"""Windows as video models and training steps want them: masks to multiply with, short samples, sizes, batches."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_data import SIZE, make_dataset

from actionimg_data.errors import InvalidSpecError
from actionimg_data.training import (
    ActionImageDataset,
    ConcatActionImageDataset,
    IndexedActionImageDataset,
    SampleOptions,
    StreamOptions,
    UnusualWindowWarning,
    collate,
    modes,
    options,
)

VIEWS = 2
SMALL: dict[str, Any] = {"num_frames": 13, "size": SIZE, "plucker": False, "views": VIEWS}
DOCS = Path(__file__).resolve().parent.parent / "docs" / "training.md"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("windows"), (8, 13, 20))[0]


def sample(path: Path, row: int, **more: Any) -> dict[str, Any]:
    return IndexedActionImageDataset(path, **{**SMALL, "action": "rendered", **more}).sample(row, start=0, mode="joint")


def segments(mask: torch.Tensor) -> np.ndarray:
    return mask.numpy().reshape(VIEWS, 2, -1)


def test_the_loss_is_not_taken_where_a_short_episode_is_padded(dataset: Path) -> None:
    """An episode of 8 frames in a window of 13: five frames are not there, and no latent frame that has one of them."""
    short = sample(dataset, 0)
    assert short["used_mask"].all()
    expected = np.zeros(13, np.float32)
    expected[1:8] = 1
    assert (segments(short["loss_mask"]) == expected).all()
    assert short["valid_latent"].tolist() == [True, True, False, False]
    assert (segments(short["loss_mask_latent"]) == [0, 1, 0, 0]).all()
    assert short["loss_mask"].dtype == short["loss_mask_latent"].dtype == torch.float32
    whole = sample(dataset, 1)
    assert whole["loss_mask"].sum() == VIEWS * 2 * 12
    assert whole["loss_mask_latent"].sum() == VIEWS * 2 * 3


@pytest.mark.parametrize("mode", modes.MODES)
def test_the_loss_is_taken_on_what_is_used_and_not_given(dataset: Path, mode: str) -> None:
    found = IndexedActionImageDataset(dataset, action="none", **SMALL).sample(2, mode=mode)
    for kind in ("", "_latent"):
        expected = found[f"used_mask{kind}"] & ~found[f"condition_mask{kind}"]
        assert torch.equal(found[f"loss_mask{kind}"], expected.float())


@pytest.mark.parametrize("pixels", ["float32", "uint8"])
@pytest.mark.parametrize("action", ["stored", "rendered"])
def test_the_last_frame_is_repeated_as_published(dataset: Path, action: Any, pixels: Any) -> None:
    how = {"action": action, "pixels": pixels, "axes": "opencv"}
    padded, repeated = sample(dataset, 0, **how), sample(dataset, 0, short="repeat", **how)
    for name in ("video", "action_video"):
        a, b = (found[name].unflatten(1, (VIEWS, 13)) for found in (padded, repeated))
        assert torch.equal(a[:, :, :8], b[:, :, :8])
        assert torch.equal(b[:, :, 8:], b[:, :, 7:8].expand_as(b[:, :, 8:]))
        assert not torch.equal(a[:, :, 8:], b[:, :, 8:])
    assert repeated["frame_indices"].tolist() == [*range(8), 7, 7, 7, 7, 7]
    assert repeated["valid"].all()
    assert repeated["loss_mask"].sum() == VIEWS * 2 * 12
    for name in ("action_7d", "action_8d"):
        assert torch.equal(repeated[name][8:], repeated[name][7:8].expand(5, -1))
    assert len(list(ActionImageDataset(dataset, short="repeat", action="none", **SMALL))) == 3


def test_planes_repeat_their_last_frame() -> None:
    from actionimg_data.training.sample import _Planes

    planes = _Planes(SampleOptions(num_frames=4, size=16, short="repeat", pixels="uint8"), 2, 1)
    with planes.frames(0, 2) as channels:
        channels[:, 0], channels[:, 1] = 3, 9
    assert planes.tensor[0, :, 0, 0].tolist() == [3, 9, 9, 9]


def test_texts_are_left_out_as_often_as_asked_and_nothing_else_changes(dataset: Path) -> None:
    told = IndexedActionImageDataset(dataset, action="none", **SMALL)
    silent = IndexedActionImageDataset(dataset, action="none", text_dropout=1.0, **SMALL)
    for a, b in zip(told, silent, strict=True):
        assert a["text"]
        assert b["text"] == ""
        assert torch.equal(a["video"], b["video"])
        assert a["mode"] == b["mode"]
    stream = {**SMALL, "num_frames": 1, "views": 1, "action": "none", "epochs": 40}
    texts = [s["text"] for s in ActionImageDataset(dataset, text_dropout=0.3, **stream)]
    # 120 draws; the bounds are six standard deviations away.
    assert 6 < texts.count("") < 66
    assert texts == [s["text"] for s in ActionImageDataset(dataset, text_dropout=0.3, **stream)]


def test_windows_that_no_model_takes_are_warned_of_once(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "_warned", set())
    odd = {**SMALL, "num_frames": 12, "size": (60, 64), "action": "none"}
    with pytest.warns(UnusualWindowWarning, match=r"num_frames=12 is not 4n \+ 1.*take 9 or 13.*60x64.*take 64x64"):
        ActionImageDataset(dataset, **odd)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ActionImageDataset(dataset, **odd)
        ActionImageDataset(dataset, **{**SMALL, "strict": True})
        ActionImageDataset(dataset, **{**SMALL, "num_frames": 12, "latent_stride": 11})
    with pytest.raises(InvalidSpecError, match="num_frames=12"):
        ActionImageDataset(dataset, strict=True, **odd)


def test_options_as_objects_and_as_keywords_are_one(dataset: Path) -> None:
    cut = SampleOptions(**SMALL, action="none", seed=4)
    come = StreamOptions(batch_size=2, shuffle=False)
    a = ActionImageDataset(dataset, sample=cut, stream=come)
    b = ActionImageDataset(dataset, action="none", seed=4, batch_size=2, shuffle=False, **SMALL)
    assert a.state_dict() == b.state_dict()
    over = ActionImageDataset(dataset, cut, come, seed=5, batch_size=1)
    assert over.state_dict()["identity"] == {**a.state_dict()["identity"], "seed": 5}
    assert pickle.loads(pickle.dumps(cut)) == cut
    assert SampleOptions(size=64).size == SampleOptions(size=np.int64(64)).size == (64, 64)
    mixed = ConcatActionImageDataset({str(dataset): 1.0}, cut, come, frame_stride={str(dataset): 1})
    assert [s["key"] for s in mixed]
    with pytest.raises(InvalidSpecError, match="SampleOptions: is not what it is for"):
        ActionImageDataset(dataset, 41)  # type: ignore[arg-type]
    with pytest.raises(InvalidSpecError, match="no such option"):
        IndexedActionImageDataset(dataset, batch_size=2, **SMALL)


def table() -> str:
    """The options as docs/training.md lists them."""
    lines = []
    for kind in (SampleOptions, StreamOptions):
        lines += [f"`{kind.__name__}`", "", "| option | default | |", "|---|---|---|"]
        for name, field in kind.model_fields.items():
            default = "as published" if name == "modes" else repr(field.default).replace("'", '"')
            lines.append(f"| `{name}` | {default} | {field.description} |")
        lines.append("")
    return "\n".join(lines)


def test_every_option_is_in_the_documents() -> None:
    assert table().strip() in DOCS.read_text(encoding="utf-8")


def test_whatever_holds_numbers_is_in_the_batch_as_a_tensor() -> None:
    samples = [
        {"a": torch.ones(2) * i, "b": np.float32([i, 2]), "c": i, "d": 0.5 * i, "e": i > 0, "f": f"t{i}", "g": {"x": i},
         "h": np.int64(i), "n": None, "s": ("u", "v")}
        for i in range(2)
    ]  # fmt: skip
    batch = collate(samples)
    assert {name: tuple(v.shape) for name, v in batch.items() if isinstance(v, torch.Tensor)} == {
        "a": (2, 2), "b": (2, 2), "c": (2,), "d": (2,), "e": (2,), "h": (2,)
    }  # fmt: skip
    assert (batch["c"].dtype, batch["d"].dtype, batch["e"].dtype) == (torch.int64, torch.float64, torch.bool)
    assert batch["g"]["x"].tolist() == [0, 1]
    assert (batch["f"], batch["n"], batch["s"]) == (["t0", "t1"], [None, None], [("u", "v")] * 2)
    with pytest.raises(InvalidSpecError, match=r"differ in their keys.*found c"):
        collate([samples[0], {k: v for k, v in samples[1].items() if k != "c"}])
    with pytest.raises(InvalidSpecError, match=r"a: does not fit into one batch"):
        collate([{"a": torch.ones(2)}, {"a": torch.ones(3)}])

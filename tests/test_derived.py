"""Derived members: made, committed, verified, repaired and served like what they were made of."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from training_data import SIZE, BarConverter, make_dataset, read_bars

import actionimg_data.schemas
import actionimg_data.training.sample as training_sample
from actionimg_data import engine
from actionimg_data.cli import main
from actionimg_data.errors import (
    ActionImgError,
    CorruptDatasetError,
    EmptyEpisodeError,
    InvalidSpecError,
    OutputExistsError,
    TooManyBadEpisodesError,
    WrongFormatError,
)
from actionimg_data.export import export, huggingface
from actionimg_data.schemas import ConvertOptions
from actionimg_data.schemas.derived import EXPORTED, DerivedSpec
from actionimg_data.schemas.documents import json_schemas
from actionimg_data.shards import derived, layout, open_dataset
from actionimg_data.shards.inputs import WindowInput
from actionimg_data.training import ActionImageDataset, DeviceTransform, IndexedActionImageDataset, collate

FRAMES = (22, 25, 7)
VIEWS = ("front", "side", "wrist")
WINDOW: dict[str, Any] = {"num_frames": 9, "size": SIZE, "views": 2}
calls: list[str] = []


def thumbs(window: WindowInput, factor: int = 8) -> np.ndarray:
    """Every ``factor``-th pixel of a view's pictures ``(T, h, w, 3)``."""
    calls.append(str(window.id))
    return window.pictures[0, :, ::factor, ::factor]


def both(window: WindowInput) -> dict[str, Any]:
    """Pictures and action images of all views, as torch tensors."""
    return {"rgb": torch.from_numpy(window.pictures), "drawn": torch.from_numpy(window.action_images)}


def letters(window: WindowInput) -> np.ndarray:
    """The instruction's letters; reads nothing else."""
    return np.frombuffer(window.text.encode().ljust(32)[:32], np.uint8).astype(np.float32)


class Counter:
    """A class is made into an object once."""

    version = "7"
    made = 0

    def __init__(self, base: int, device: str = "cpu") -> None:
        Counter.made += 1
        self.base, self.device = base, device

    def __call__(self, window: WindowInput) -> np.ndarray:
        return np.array([self.base, window.id.start, self.device == "meta"], np.int32)


def picky(window: WindowInput) -> Any:
    """Fails in many ways, by the window's start."""
    return {0: lambda: 1 / 0, 9: lambda: np.array([1.0, np.nan]), 13: lambda: np.ones(2), 16: lambda: "text"}[
        window.id.start
    ]()


def ragged(window: WindowInput) -> np.ndarray:
    return np.zeros(2 + window.id.start)


for _function in (thumbs, both, letters, picky, ragged):
    _function.version = "1"  # type: ignore[attr-defined]
HERE = __name__


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("derived"), FRAMES, episodes_per_shard=1)[0]


@pytest.fixture(scope="module")
def whole(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with thumbnails of windows and letters of samples."""
    out = Path(shutil.copytree(plain, tmp_path_factory.mktemp("whole") / "out"))
    derive(out, "thumb.npy", "thumbs", num_frames=9)
    derive(out, "letters.npy", "letters", over="sample", together=True)
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def derive(out: Path, member: str, function: str, options: Any = None, run: Any = None, **more: Any) -> engine.Derived:
    manifest = open_dataset(out).manifest
    assert manifest is not None
    spec = engine.specification(manifest, member, f"{HERE}:{function}", options, **more)
    return engine.derive(out, spec, **(run or {}))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def flip(path: Path, place: int = 700) -> None:
    data = bytearray(path.read_bytes())
    data[min(place, len(data) - 1)] ^= 1
    path.write_bytes(bytes(data))


# ---- made ----------------------------------------------------------------------------------------------------------


def test_a_member_is_what_the_function_makes_of_each_window(plain: Path, whole: Path) -> None:
    manifest = derived.read_manifest(whole, "thumb")
    assert manifest.counts is not None
    assert (manifest.counts.samples, manifest.counts.items, manifest.counts.shards) == (2, 3 * (3 + 3), 3)
    assert (manifest.reads, manifest.arrays[""].shape) == (("pictures",), (9, 8, 8, 3))
    table = derived.read_table(whole, manifest).to_pylist()
    stored = open_dataset(plain)
    for row in table:
        (view,) = row["views"].split("+")
        pictures = stored[row["key"]].rgb(view, slice(row["start"], row["start"] + 9))
        body = (whole / "derived" / "thumb" / f"{row['shard']}.tar").read_bytes()[row["offset"] :][: row["size"]]
        assert np.array_equal(derived.load_arrays(body, "thumb.npy", "")[""], pictures[:, ::8, ::8])
    assert [row["start"] for row in table if row["views"] == "front"] == [0, 9, 13, 0, 9, 16]
    # The data set itself is untouched, and others read it as ever.
    assert {n: d for n, d in tree(whole).items() if not n.startswith("derived")} == tree(plain)


def test_processes_make_the_same_bytes(
    plain: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(plain, tmp_path / "out"))
    (tmp_path / "twins.py").write_text(
        "def thumbs(window, factor=8):\n    return window.pictures[0, :, ::factor, ::factor]\nthumbs.version = '1'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    command = ["derive", str(other), "--with", "twins:thumbs", "--member", "thumb.npy", "--num-frames", "9", "-j", "2"]
    result = CliRunner().invoke(main, [*command, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["items"], found["shards_made"], found["reads"]) == (18, 3, ["pictures"])
    for name in ("000000.tar", "000001.tar"):
        path = Path("derived") / "thumb" / "train" / name
        assert (other / path).read_bytes() == (whole / path).read_bytes()
    again = CliRunner().invoke(main, [*command, "--json"])
    assert json.loads(again.stdout)["shards_resumed"] == 3
    wrong = CliRunner().invoke(main, [*command, "--option", "factor=4"])
    assert wrong.exit_code == 1
    assert "options: {} there, {'factor': 4} asked for" in wrong.stderr


def test_a_class_is_made_once_and_gets_options_and_device(plain: Path, tmp_path: Path) -> None:
    other, before = Path(shutil.copytree(plain, tmp_path / "out")), Counter.made
    done = derive(other, "count.npy", "Counter", {"base": 3}, {"device": "meta"}, num_frames=9, views=("side",))
    assert (Counter.made - before, done.manifest.spec.function_version, done.manifest.reads) == (1, "7", ())
    sample = IndexedActionImageDataset(other, members="count", view_names="side", **{**WINDOW, "views": 1})[1]
    assert sample["count"].tolist() == [[3, int(sample["frame_indices"][0]), 1]]
    assert "video" in sample, "the function has not looked at the pictures"


def test_several_views_at_once_and_short_samples(plain: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(plain, tmp_path / "out"))
    derive(other, "both.npz", "both", num_frames=9, views=("wrist", "front"), together=True, short="repeat")
    options = {**WINDOW, "short": "repeat", "pixels": "uint8", "video": True, "action": "rendered"}
    data = IndexedActionImageDataset(other, members="both", **options)
    assert len(data) == 3
    for sample in data:
        assert sample["view_names"] == ("wrist", "front")
        for name, video in (("rgb", "video"), ("drawn", "action_video")):
            shown = sample[video].unflatten(1, (2, 9)).permute(1, 2, 3, 4, 0)
            assert torch.equal(sample["both"][name], shown)
    assert len(IndexedActionImageDataset(other, members="both", **{**options, "short": "pad"})) == 2
    with pytest.raises(InvalidSpecError, match=r"views: the member was made of other windows \(expected 2, found 1\)"):
        IndexedActionImageDataset(other, members="both", **{**options, "views": 1})


# ---- served --------------------------------------------------------------------------------------------------------


def test_training_draws_the_windows_that_have_members_and_decodes_nothing(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_video = ActionImageDataset(whole, members=("thumb", "letters"), video=True, pixels="uint8", **WINDOW)
    seen = set()
    for epoch in range(6):
        with_video.set_epoch(epoch)
        for sample in with_video:
            pictures = sample["video"].unflatten(1, (2, 9)).permute(1, 2, 3, 4, 0)
            assert torch.equal(sample["thumb"], pictures[:, :, ::8, ::8])
            text = "".join(map(chr, sample["letters"].int().tolist())).strip()
            assert text == f"open drawer {int(sample['key'][-3:])}"
            seen.add((sample["key"], int(sample["frame_indices"][0]), sample["view_names"]))
    assert {start for _, start, _ in seen} <= {0, 9, 13, 16}
    assert len(seen) > 8

    def refused(*_: Any) -> Any:
        raise AssertionError("a video was opened")

    data = ActionImageDataset(whole, members=("thumb", "letters"), action="none", seed=0, **WINDOW)
    monkeypatch.setattr(training_sample, "open_video", refused)
    batch = collate(list(data))
    assert (tuple(batch["thumb"].shape), tuple(batch["letters"].shape)) == ((2, 2, 9, 8, 8, 3), (2, 32))
    assert not {"video", "plucker", "action_video"} & batch.keys()
    assert not {"video", "plucker"} & DeviceTransform("cpu", plucker=False)(batch).keys()
    with pytest.raises(InvalidSpecError, match="plucker=False"):
        DeviceTransform("cpu")(batch)


def test_members_of_samples_alone_leave_windows_free(whole: Path) -> None:
    options = {**WINDOW, "action": "none", "plucker": False, "pixels": "uint8"}
    free = [(s["key"], s["frame_indices"].tolist(), s["view_names"]) for s in ActionImageDataset(whole, **options)]
    data = ActionImageDataset(whole, members="letters", **options)
    assert [(s["key"], s["frame_indices"].tolist(), s["view_names"]) for s in data] == free
    assert all("video" in sample for sample in data)


def test_a_window_that_is_asked_for_has_to_be_there(whole: Path) -> None:
    data = IndexedActionImageDataset(whole, members="thumb", **WINDOW)
    sample = data.sample(0, start=9, views=("wrist", "side"))
    assert (sample["frame_indices"][0], sample["view_names"]) == (9, ("wrist", "side"))
    with pytest.raises(InvalidSpecError, match=r"start, views: has no window .*expected 0, 9, 13, found 3"):
        data.sample(0, start=3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"members": "latent"}, r"members: has no such derived member \(expected letters, thumb, found latent\)"),
        ({"members": "thumb", "num_frames": 5}, r"num_frames: .*expected 9, found 5"),
        ({"members": "thumb", "size": 32}, r"size: .*found \(32, 32\)"),
        (
            {"members": "thumb", "frame_stride": 2},
            r"frame_stride: .*another rate .*stride \[1\], found stride \[2\]",
        ),
    ],
)
def test_members_of_other_windows_are_refused(whole: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSpecError, match=words):
        ActionImageDataset(whole, **{**WINDOW, **options})


def test_a_restart_with_other_members_is_refused(whole: Path, out: Path) -> None:
    state = ActionImageDataset(whole, members="thumb", **WINDOW).state_dict()
    ActionImageDataset(out, members="thumb", **WINDOW).load_state_dict(state)
    derive(out, "thumb.npy", "thumbs", {"factor": 8}, {"overwrite": True}, num_frames=9)
    with pytest.raises(InvalidSpecError, match="member thumb: the state is of another run"):
        ActionImageDataset(out, members="thumb", **WINDOW).load_state_dict(state)


# ---- failures ------------------------------------------------------------------------------------------------------


def test_what_fails_goes_to_quarantine_and_is_not_drawn(plain: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(plain, tmp_path / "out"))
    run: dict[str, Any] = {"max_bad_fraction": 0.9}
    done = derive(other, "picky.npy", "picky", None, run, num_frames=9, views=("front", "side"))
    assert done.manifest.counts is not None
    assert (done.manifest.counts.items, done.manifest.counts.quarantined) == (2, 10)
    lines = [json.loads(line) for line in (other / "derived" / "picky" / "quarantine.jsonl").read_text().splitlines()]
    by_start = {line["start"]: line for line in lines}
    assert by_start[0]["code"] == "internal-error"
    assert "ZeroDivisionError" in by_start[0]["message"]
    assert "picky" in by_start[0]["traceback"]
    assert "holds NaN" in by_start[9]["message"]
    assert "is no array" in by_start[16]["message"]
    assert engine.verify(other, quick=True).ok
    data = IndexedActionImageDataset(other, members="picky", **WINDOW)
    assert (data.keys, int(data[0]["frame_indices"][0])) == (["task_0-ep_000"], 13)
    with pytest.raises(EmptyEpisodeError, match="no sample has all members"):
        IndexedActionImageDataset(other, members="picky", **{**WINDOW, "views": 3})
    assert derive(other, "picky.npy", "picky", None, run, num_frames=9, views=("front", "side")).resumed == 3
    run["retry_quarantined"] = True
    again = derive(other, "picky.npy", "picky", None, run, num_frames=9, views=("front", "side"))
    assert (again.made, again.manifest) == (2, done.manifest)
    with pytest.raises(TooManyBadEpisodesError, match="the function fails too often"):
        derive(other, "picky.npy", "picky", num_frames=9, views=("front", "side"))


@pytest.mark.parametrize(
    ("member", "made", "words"),
    [
        ("a.npy", {"x": np.ones(2)}, "is no array"),
        ("a.npz", np.ones(2), "arrays by name"),
        ("a.npz", {"a b": np.ones(2)}, "no name of an array"),
        ("a.npy", np.array(["x"]), "holds no numbers"),
        ("a.npy", np.array([object()]), "holds no numbers"),
        ("a.npy", torch.ones(2, dtype=torch.bfloat16), "half"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(member: str, made: Any, words: str) -> None:
    with pytest.raises(WrongFormatError, match=words):
        derived.arrays_of(made, member, "here")


def test_arrays_are_stored_in_one_order_of_bytes() -> None:
    (found,) = derived.arrays_of(np.arange(3, dtype=">f4"), "a.npy", "").values()
    assert (found.dtype.str, found.tolist()) == ("<f4", [0, 1, 2])
    assert derived.arrays_of(torch.ones(2, 3).T, "a.npy", "")[""].flags.c_contiguous


@pytest.mark.parametrize(
    ("function", "more", "error", "words"),
    [
        ("no_such", {"num_frames": 9}, InvalidSpecError, "has no such function"),
        ("HERE", {"num_frames": 9}, InvalidSpecError, "cannot be called"),
        ("thumbs", {}, InvalidSpecError, "a window has num_frames"),
        ("thumbs", {"over": "sample", "num_frames": 9}, InvalidSpecError, "not cut into windows"),
        ("thumbs", {"num_frames": 9, "views": ("frnt",)}, WrongFormatError, "front"),
        ("thumbs", {"num_frames": 90}, InvalidSpecError, "no sample is as long"),
        ("thumbs", {"num_frames": 9, "fps": 7.0}, InvalidSpecError, "no whole multiple"),
        ("ragged", {"num_frames": 9}, CorruptDatasetError, "differ in type or shape"),
    ],
)
def test_what_cannot_be_derived_is_refused(
    plain: Path, tmp_path: Path, function: str, more: dict[str, Any], error: type[ActionImgError], words: str
) -> None:
    other = Path(shutil.copytree(plain, tmp_path / "out"))
    with pytest.raises(error, match=words):
        derive(other, "x.npy", function, **more)


def test_other_members_of_a_name_are_not_written_over(out: Path) -> None:
    with pytest.raises(OutputExistsError, match=r"num_frames: 9 there, 5 asked for.*--overwrite"):
        derive(out, "thumb.npy", "thumbs", num_frames=5)
    done = derive(out, "thumb.npy", "thumbs", None, {"overwrite": True}, num_frames=5)
    assert done.manifest.arrays[""].shape[0] == 5
    assert sorted(p.name for p in (out / "derived").iterdir()) == ["letters", "thumb"]


# ---- brought along -------------------------------------------------------------------------------------------------


def test_an_export_for_the_hub_brings_along_what_was_derived(whole: Path, out: Path, tmp_path: Path) -> None:
    export("huggingface", whole, tmp_path / "hub")
    assert tree(tmp_path / "hub" / "derived") == tree(whole / "derived")
    assert engine.verify(tmp_path / "hub", quick=True).ok
    assert len(IndexedActionImageDataset(tmp_path / "hub", members="thumb", **WINDOW)) > 0
    # Made anew since, and one that was cut short: the folder of an earlier export that is pushed gets what is new.
    derive(out, "thumb.npy", "thumbs", {"factor": 4}, {"overwrite": True}, num_frames=9)
    derive(out, "cut.npy", "letters", None, {"num_shards": 2, "shard_index": 0}, over="sample")
    left = huggingface._write_derived(layout.place(out), tmp_path / "hub", "copy")
    assert left == ["derived cut is not complete and stays behind: give its actionimg derive command again"]
    shutil.rmtree(out / "derived" / "cut")
    assert tree(tmp_path / "hub" / "derived") == tree(out / "derived")


# ---- another state of the data set ---------------------------------------------------------------------------------


def test_a_data_set_that_has_grown_is_gone_on_with(tmp_path: Path) -> None:
    out = make_dataset(tmp_path, (10, 11, 12, 13))[0]
    derive(out, "thumb.npy", "thumbs", num_frames=9)
    before = {n: d for n, d in tree(out / "derived").items() if n.endswith((".tar", "000000.json"))}
    config = json.loads((tmp_path / "source" / "bars.json").read_text())
    (tmp_path / "source" / "bars.json").write_text(json.dumps({**config, "frames": [*config["frames"], 14]}))
    options = ConvertOptions.parse(height=SIZE, width=SIZE, episodes_per_shard=2)
    engine.convert(BarConverter(), str(tmp_path / "source"), out, options, extend=True)
    assert [f.reason.rpartition(": ")[2] for f in engine.verify(out, quick=True).failures] == ["is missing"]
    assert len(IndexedActionImageDataset(out, members="thumb", **WINDOW)) == 4
    calls.clear()
    done = derive(out, "thumb.npy", "thumbs", num_frames=9)
    assert (done.made, done.resumed, {call.split(".")[0] for call in calls}) == (1, 2, {"task_0-ep_004"})
    assert before.items() <= tree(out / "derived").items()
    assert engine.verify(out, quick=True).ok
    # A shard that was made anew with other bytes: its members are of another version of it.
    engine.convert(
        BarConverter(), str(tmp_path / "source"), out, options.model_copy(update={"crf": 30}), overwrite=True
    )
    with pytest.raises(CorruptDatasetError, match="another version of the data set's shard"):
        IndexedActionImageDataset(out, members="thumb", **WINDOW)
    assert derive(out, "thumb.npy", "thumbs", num_frames=9).made == 3


# ---- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train/000000.tar", "train/000001.json", "index.parquet", "quarantine.jsonl"])
@pytest.mark.parametrize("how", [flip, Path.unlink])
def test_damage_is_found_and_repaired_to_the_same_bytes(whole: Path, out: Path, name: str, how: Any) -> None:
    if name == "quarantine.jsonl" and how is flip:
        (out / "derived" / "thumb" / name).write_text("{}\n")
    else:
        how(out / "derived" / "thumb" / name)
    report = engine.verify(out, quick=True)
    assert not report.ok
    (about,) = [one for one in report.derived if one["corrupt"]]
    assert about["name"] == "thumb"
    assert all("derived/thumb" in f.reason for f in report.failures)
    made_by_function = name.endswith((".tar", ".json"))
    if made_by_function:
        left = engine.repair(out)
        assert not left.ok
        assert f"--with {HERE}:thumbs" in left.left[0][1]
    assert engine.repair(out, derive_with=[f"{HERE}:thumbs"] if made_by_function else []).ok
    assert tree(out) == tree(whole)


def test_training_and_verify_refuse_a_changed_member(out: Path) -> None:
    shard = out / "derived" / "thumb" / "train" / "000000.tar"
    flip(shard, 600)
    table = IndexedActionImageDataset(out, members="thumb", **WINDOW)
    table.sample(0, start=9)
    with pytest.raises(CorruptDatasetError, match=r"thumb.npy: SHA-256: was changed after"):
        table.sample(0, start=0, views=("front", "side"))
    result = CliRunner().invoke(main, ["verify", str(out), "--quick", "--json", "-j", "1"])
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert [one["corrupt"] for one in found["derived"]] == [[], ["derived/thumb/train/000000.tar"]]
    shown = CliRunner().invoke(main, ["verify", str(out), "--quick", "-j", "1"]).stdout
    assert "actionimg repair" in shown
    repaired = CliRunner().invoke(main, ["repair", str(out), "--with", f"{HERE}:thumbs", "-j", "1", "--json"])
    assert repaired.exit_code == 0, repaired.output
    assert json.loads(repaired.stdout)["made"] == ["derived/thumb/train/000000.tar"]


def test_inspect_shows_what_was_derived(out: Path) -> None:
    (out / "derived" / "letters" / "derived.json").write_text("{}")
    found = json.loads(CliRunner().invoke(main, ["inspect", str(out), "--json"]).stdout)["derived"]
    assert [(one["name"], one["complete"]) for one in found] == [("letters", False), ("thumb", True)]
    assert (found[1]["items"], found[1]["num_frames"], found[1]["views"]) == (18, 9, list(VIEWS))
    shown = " ".join(CliRunner().invoke(main, ["inspect", str(out)]).stdout.split())
    assert "letters (damaged)" in shown
    assert f"thumb.npy by {HERE}:thumbs, 18 values of 2 samples" in shown


def test_a_manifest_that_was_changed_is_refused_everywhere(out: Path) -> None:
    path = out / "derived" / "thumb" / "derived.json"
    path.write_text(path.read_text().replace(f"{HERE}:thumbs", "os:system"))
    with pytest.raises(CorruptDatasetError, match="changed after it was written"):
        ActionImageDataset(out, members="thumb", **WINDOW)
    assert not engine.verify(out, quick=True).ok
    assert not engine.repair(out, derive_with=["os:system"]).ok
    with pytest.raises(OutputExistsError, match="is damaged"):
        derive(out, "thumb.npy", "thumbs", num_frames=9)


def test_a_function_is_run_again_only_in_its_version(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "derived" / "thumb" / "train" / "000000.tar").unlink()
    monkeypatch.setattr(thumbs, "version", "2")
    left = engine.repair(out, derive_with=[f"{HERE}:thumbs"]).left
    assert left == [("derived/thumb/train/000000.tar", f"was made by version 1, and {HERE}:thumbs is now 2")]


def test_the_schemas_are_those_of_the_models() -> None:
    folder = Path(actionimg_data.schemas.__file__).parent
    for name, text in json_schemas(EXPORTED).items():
        assert (folder / name).read_text() == text, f"python -m actionimg_data.schemas writes {name} again"


def test_names_lead_nowhere_else() -> None:
    good = {"member": "a.npy", "function": "m:f", "function_version": "1", "num_frames": 1, "height": 1, "width": 1}
    DerivedSpec(**good, views=("front",))
    for bad in ({"member": "../a.npy"}, {"member": "a.pkl"}, {"function": "os.system"}, {"views": ("../x",)}):
        with pytest.raises(ValueError):
            DerivedSpec(**{**good, "views": ("front",), **bad})


def test_bars_are_read_from_thumbnails(whole: Path) -> None:
    """The oracle that the fixtures rest on: a picture says which episode, view and frame it shows."""
    sample = IndexedActionImageDataset(whole, members="thumb", video=True, **WINDOW)[1]
    where = [read_bars(picture.mean(0).numpy()) for picture in sample["video"].movedim(1, 0)]
    views = [VIEWS.index(view) for view in sample["view_names"]]
    assert where == [(1, view, int(frame)) for view in views for frame in sample["frame_indices"]]

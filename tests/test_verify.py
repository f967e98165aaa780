from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_converter import SyntheticConverter, camera, trajectory, write_source

from actionimg_data import engine
from actionimg_data.engine import verify
from actionimg_data.errors import CorruptDatasetError, InvalidSpecError, SourceNotFoundError
from actionimg_data.model import GripperTrajectory
from actionimg_data.schemas import ActionImageSpec, ConvertOptions
from actionimg_data.schemas.dataset import to_bytes, to_line
from actionimg_data.shards import open_dataset, write
from actionimg_data.shards.manifest import assemble, read_manifest, read_plan, read_sidecar
from actionimg_data.shards.verify import has_two_views


def make(folder: Path, source: dict[str, Any] | None = None, **options: Any) -> Path:
    src = write_source(folder / "src", **{"episodes": 2, "frames": 6, **(source or {})})
    values = {"height": 128, "width": 128, **options}
    engine.convert(SyntheticConverter(), src, folder / "out", ConvertOptions.parse(**values))
    return folder / "out"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("whole"), action_codec="png")


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("codec", ["h264", "ffv1", "png"])
def test_a_fresh_data_set_decodes_to_its_own_trajectories(tmp_path: Path, codec: str) -> None:
    report = verify(make(tmp_path, {"frames": 8}, action_codec=codec, clip_frames=5))
    summary = report.summary()
    assert summary["ok"], summary["failures"]
    assert summary["frames"] == 17
    assert summary["decoded_frames"] + summary["undecodable_frames"] == 17
    assert summary["decoded_frames"] >= 15
    assert summary["openness_accuracy"] == 1.0
    assert summary["position_error_mm"]["p95"] < (1.5 if codec == "h264" else 0.05)
    assert summary["shards"] == {"checked": 2, "corrupt": []}
    json.dumps(summary, allow_nan=False)


def test_a_data_set_without_stored_action_images_is_checked_as_far_as_it_goes(tmp_path: Path) -> None:
    summary = verify(make(tmp_path, action_codec="none")).summary()
    assert summary["ok"]
    assert (summary["decoded_frames"], summary["position_error_mm"]["p95"], summary["action_codec"]) == (
        0,
        None,
        "none",
    )


def test_any_number_of_workers_finds_the_same(whole: Path) -> None:
    assert verify(whole, num_workers=2).summary() == verify(whole).summary()


def test_every_flipped_byte_is_found(copy: Path) -> None:
    """In every file of the data set; in the shard at random places and at both ends of every member."""
    chance = random.Random(1)
    files = [p for p in sorted(copy.rglob("*")) if p.is_file()]
    assert {p.name for p in files} == {
        "dataset.json",
        "plan.jsonl",
        "index.parquet",
        "quarantine.jsonl",
        "000000.tar",
        "000000.json",
        "000001.tar",
        "000001.json",
    }
    missed = []
    for path in files:
        data = path.read_bytes()
        if not data:
            continue
        places = {chance.randrange(len(data)) for _ in range(12)} | {0, len(data) - 1}
        if path.suffix == ".tar":
            sidecar = read_sidecar(copy, f"train/{path.stem}")
            members = [m for s in sidecar.samples for m in s.members]
            places |= {p for m in members for p in (m.offset - 512, m.offset - 1, m.offset, m.offset + m.size - 1)}
            places |= {min(m.offset + m.size, len(data) - 1) for m in members}
        for place in sorted(places):
            path.write_bytes(data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :])
            if not found(copy):
                missed.append((path.name, place))
        path.write_bytes(data)
    assert not missed
    assert verify(copy, quick=True).ok


def found(out: Path) -> bool:
    try:
        return not verify(out, quick=True).ok
    except (CorruptDatasetError, SourceNotFoundError):
        return True


def test_every_truncation_is_found(copy: Path) -> None:
    for path in [p for p in sorted(copy.rglob("*")) if p.is_file() and p.stat().st_size]:
        data = path.read_bytes()
        cuts = {0, 1, len(data) // 2, len(data) - 1}
        if path.suffix == ".tar":
            sidecar = read_sidecar(copy, f"train/{path.stem}")
            for member in (m for s in sidecar.samples for m in s.members):
                cuts |= {member.offset - 512, member.offset, member.offset + member.size}
        for cut in sorted(cuts):
            path.write_bytes(data[:cut])
            assert found(copy), (path.name, cut)
        path.write_bytes(data + b"\0")
        assert found(copy), path.name
        path.write_bytes(data)


def test_every_missing_file_and_every_stray_shard_is_found(copy: Path) -> None:
    for path in [p for p in sorted(copy.rglob("*")) if p.is_file()]:
        data = path.read_bytes()
        path.unlink()
        assert found(copy), path.name
        path.write_bytes(data)
    shutil.copy(copy / "train/000001.tar", copy / "train/000002.tar")
    (failure,) = verify(copy, quick=True).failures
    assert "000002.tar: is in no plan" in failure.reason


def test_damage_is_located_and_the_other_shards_are_still_checked(copy: Path) -> None:
    member = read_sidecar(copy, "train/000000").samples[0].members[4]
    path = copy / "train/000000.tar"
    data = bytearray(path.read_bytes())
    data[member.offset + member.size // 2] ^= 1
    path.write_bytes(bytes(data))
    summary = verify(copy).summary()
    assert summary["shards"] == {"checked": 2, "corrupt": ["train/000000.tar"]}
    assert any(f"{member.name} is damaged" in f["reason"] for f in summary["failures"])
    assert summary["decoded_frames"] > 0


def test_swapped_shards_and_sidecars_of_another_run_are_found(copy: Path, tmp_path: Path) -> None:
    a, b = copy / "train/000000", copy / "train/000001"
    for ending in (".tar", ".json"):
        one, two = a.with_suffix(ending).read_bytes(), b.with_suffix(ending).read_bytes()
        a.with_suffix(ending).write_bytes(two)
        b.with_suffix(ending).write_bytes(one)
    assert len(verify(copy, quick=True).summary()["shards"]["corrupt"]) == 2


def resealed(out: Path, change: Any) -> None:
    """Rewrite the first shard with other members, and everything above it so that all checksums agree again."""
    manifest, rows = read_manifest(out), read_plan(out)
    sidecar = read_sidecar(out, "train/000000")
    path = out / "train/000000.tar"
    old = path.read_bytes()
    buffer = io.BytesIO()
    tar = write.TarWriter(buffer)
    samples = []
    for sample in sidecar.samples:
        members = {m.name: old[m.offset : m.offset + m.size] for m in sample.members}
        members, row = change(members, sample)
        start, found = tar.offset, []
        for name, data in members.items():
            offset, digest = tar.add(f"{row.key}.{name}", io.BytesIO(data), len(data))
            found.append(write.MemberRow(name=name, offset=offset, size=len(data), sha256=digest))
        samples.append(row.model_copy(update={"offset": start, "bytes": tar.offset - start, "members": tuple(found)}))
    sha256 = tar.close()
    path.write_bytes(buffer.getvalue())
    fresh = sidecar.model_copy(update={"samples": tuple(samples), "sha256": sha256, "bytes": tar.offset})
    (out / "train/000000.json").write_bytes(to_line(fresh))
    blank = manifest.model_copy(update={"complete": False, "counts": None, "shards": (), "files": {}})
    (out / "dataset.json").write_bytes(to_bytes(blank.sealed()))
    assert assemble(out, blank, rows) is not None


def edit_meta(**fields: Any) -> Any:
    def change(members: dict[str, bytes], row: Any) -> tuple[dict[str, bytes], Any]:
        meta = json.loads(members["json"])
        return {**members, "json": json.dumps({**meta, **fields}).encode()}, row

    return change


def edit_trajectory(**fields: Any) -> Any:
    def change(members: dict[str, bytes], row: Any) -> tuple[dict[str, bytes], Any]:
        arrays = dict(np.load(io.BytesIO(members["trajectory.npz"])))
        for name, edit in fields.items():
            arrays[name] = edit(arrays[name])
        return {**members, "trajectory.npz": write.sample.npz.dump(arrays)}, row

    return change


def drop(name: str) -> Any:
    return lambda members, row: ({k: v for k, v in members.items() if k != name}, row)


def swap(a: str, b: str) -> Any:
    return lambda members, row: ({**members, a: members[b], b: members[a]}, row)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m, r: (m, r), None),
        (edit_meta(instruction="a\x1bb", instructions=["a\x1bb"]), "instruction"),
        (edit_meta(frames=7), "frames"),
        (edit_meta(views=["front"]), "views"),
        (edit_meta(extra=1), "extra"),
        (edit_meta(fps=11.0), "fps"),
        (edit_trajectory(position=lambda p: p + 0.05), "median position error"),
        (edit_trajectory(position=lambda p: np.where(np.arange(len(p))[:, None] == 1, np.inf, p)), "finite|NaN"),
        (edit_trajectory(quaternion_xyzw=lambda q: q * 1.5), "unit quaternion"),
        (edit_trajectory(times=lambda t: t[::-1]), "times must increase"),
        (edit_trajectory(openness=lambda o: 1 - o), "openness is right"),
        (edit_trajectory(openness=lambda o: o[:-1]), "openness"),
        (drop("side.action.zip"), "members"),
        (swap("front.action.zip", "side.action.zip"), "not decoded|median"),
        (lambda m, r: ({**m, "extra.txt": b"x"}, r), "members"),
        (lambda m, r: ({**m, "front.rgb.mp4": m["front.rgb.mp4"][:-200]}, r), "video|decoded|frames"),
        (lambda m, r: ({**m, "cameras.npz": m["trajectory.npz"]}, r), "wrong arrays"),
    ],
)
def test_what_is_wrong_in_a_shard_whose_checksums_are_right_is_found(
    copy: Path, change: Any, reason: str | None
) -> None:
    resealed(copy, change)
    summary = verify(copy).summary()
    assert summary["ok"] == (reason is None)
    if reason is not None:
        text = " ".join(f["reason"] for f in summary["failures"])
        assert any(part in text for part in reason.split("|")), text


def test_cameras_that_are_no_rotation_are_found(copy: Path) -> None:
    def change(members: dict[str, bytes], row: Any) -> tuple[dict[str, bytes], Any]:
        arrays = dict(np.load(io.BytesIO(members["cameras.npz"])))
        arrays["world_from_camera"][0, 0, 0, 0] += 0.1
        return {**members, "cameras.npz": write.sample.npz.dump(arrays)}, row

    resealed(copy, change)
    assert any("is not a rotation" in f.reason for f in verify(copy).failures)


def test_the_tolerance_can_be_chosen(whole: Path) -> None:
    strict = verify(whole, max_position_mm=1e-6)
    assert not strict.ok
    assert any("p95" in f.reason for f in strict.failures)
    with pytest.raises(InvalidSpecError, match="max_rotation_deg"):
        verify(whole, max_rotation_deg=float("nan"))


def test_quick_decodes_nothing(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actionimg_data.shards.verify._round_trip", None)
    summary = verify(whole, quick=True).summary()
    assert summary["ok"]
    assert summary["decoded_frames"] == 0


def test_an_unfinished_data_set_is_not_verified(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=3)
    options = ConvertOptions.parse(height=64, width=64)
    engine.convert(SyntheticConverter(), src, tmp_path / "out", options, shard_index=0, num_shards=2)
    (failure,) = verify(tmp_path / "out").failures
    assert "not complete: 2 of 3 shards" in failure.reason


def test_a_data_set_with_quarantined_episodes_is_fine(tmp_path: Path) -> None:
    out = make(tmp_path, {"episodes": 3, "bad": {"ep_001": "bad-image"}})
    summary = verify(out).summary()
    assert summary["ok"]
    assert summary["quarantined"] == 1


def test_recorded_errors_are_in_the_index_and_the_data_set_still_verifies(copy: Path) -> None:
    engine.record(copy, verify(copy))
    table = open_dataset(copy).table
    errors = table["decode_position_p95_mm"].to_pylist()
    assert all(0 < e < 0.1 for e in errors)
    assert table["decode_openness_accuracy"].to_pylist() == [1.0, 1.0]
    assert verify(copy).ok


def test_frames_that_have_two_views_are_those_of_the_definition() -> None:
    spec = ActionImageSpec(height=64, width=64)
    path = trajectory(0, 6)
    cameras = {name: camera(name).track(6) for name in ("front", "side")}
    assert has_two_views(path, cameras, spec).all()
    assert not has_two_views(path, {"front": cameras["front"]}, spec).any()
    away = path.position.copy()
    away[2] += 5.0  # outside every picture
    moved = GripperTrajectory(away, path.quaternion_xyzw, path.openness, path.times)
    assert has_two_views(moved, cameras, spec).tolist() == [True, True, False, True, True, True]
    gap = path.position.copy()
    gap[4] = np.nan
    turn = path.quaternion_xyzw.copy()
    turn[4] = np.nan
    missing = GripperTrajectory(gap, turn, path.openness, path.times, allow_missing=True)
    assert has_two_views(missing, cameras, spec).tolist() == [True, True, True, True, False, True]

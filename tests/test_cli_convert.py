from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from processes import PATIENCE, hear_interrupts
from synthetic_converter import SyntheticConverter, SyntheticOptions, camera, environment_with_converter, write_source

from actionimg_data import engine, open_dataset
from actionimg_data.cli import main
from actionimg_data.converters import base
from actionimg_data.converters.cache import CacheSettings, cache_bytes, cache_folder
from actionimg_data.errors import CalibrationOffError
from actionimg_data.model import Episode
from actionimg_data.report.collect import command_of
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import prepare, read_manifest


class _Distribution:
    name, version = "synthetic", "1.0"


class _Entry:
    name, value = "synthetic", "synthetic_converter:SyntheticConverter"
    dist = _Distribution

    @staticmethod
    def load() -> type[SyntheticConverter]:
        return SyntheticConverter


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {**base.entry_points(), "synthetic": _Entry()}
    monkeypatch.setattr(base, "entry_points", lambda: entries)


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def convert(source: str, out: Path, *more: object) -> Result:
    return call("convert", "synthetic", source, out, "--size", 64, "-j", 1, *more)


def test_convert_verify_inspect_go_together(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=2, frames=8)
    out = tmp_path / "out"
    result = convert(src, out, "--action-codec", "ffv1")
    assert result.exit_code == 0, result.output
    assert "2 of 2 episodes, 2 samples, 17 frames × 2 views" in result.stdout
    assert f"next: actionimg verify {out}" in " ".join(result.stdout.split())
    assert convert(src, out, "--action-codec", "ffv1").stdout.count("was complete already") == 1

    result = call("verify", out, "--json", "-j", 1)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert {"ok", "samples", "frames", "decoded_frames", "undecodable_frames", "position_error_mm"} <= set(summary)
    assert {"rotation_error_deg", "openness_accuracy", "shards", "failures"} <= set(summary)
    assert set(summary["position_error_mm"]) == {"median", "p95", "max"}
    assert "✓ verified" in call("verify", out, "-j", 1).stdout
    assert "left out" in call("verify", out, "-j", 1, "--quick").stdout
    assert call("verify", out, "-j", 1, "--record").exit_code == 0

    found = json.loads(call("inspect", out, "--json").stdout)
    assert found["kind"] == "dataset"
    assert (found["samples"], found["frames"], found["fps"], found["size"]) == (2, 17, 10.0, [64, 64])
    assert set(found["shards"][0]) == {"path", "samples", "bytes", "sha256"}
    assert (found["quarantined"], found["views"]) == (0, ["front", "side"])
    assert found["decode_position_p95_mm"] < 1
    shard = json.loads(call("inspect", out / "train/000000.tar", "--json").stdout)
    assert (shard["kind"], shard["samples"], shard["matches_sidecar"]) == ("shard", 1, True)
    assert shard["shards"][0]["sha256"] == found["shards"][0]["sha256"]
    sample = json.loads(call("inspect", out, "--key", "task-ep_000", "--json").stdout)
    assert sample["kind"] == "sample"
    assert set(sample["cameras"]) == {"front", "side"}
    source = json.loads(call("inspect", src, "--json").stdout)
    assert (source["kind"], source["format"], source["episodes"]) == ("source", "synthetic", 2)
    for words in ((out,), (out / "train/000000.tar",), (out, "--key", "task-ep_000"), (src,)):
        result = call("inspect", *words)
        assert result.exit_code == 0, result.output
        assert "next: " in result.stdout


def test_verify_says_what_is_wrong_and_exits_with_3(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(write_source(tmp_path / "src", episodes=1), out)
    tar = out / "train/000000.tar"
    data = bytearray(tar.read_bytes())
    data[1000] ^= 4
    tar.write_bytes(bytes(data))
    result = call("verify", out, "-j", 1, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["shards"]["corrupt"] == ["train/000000.tar"]
    result = call("verify", out, "-j", 1)
    assert result.exit_code == 3
    assert "wrong SHA-256" in result.stdout
    (out / "dataset.json").write_text("{}")
    for words in ((), ("--json",)):
        assert call("verify", out, *words).exit_code == 3
    result = call("verify", tmp_path / "absent")
    assert (result.exit_code, "error[source-not-found]" in result.stderr) == (1, True)


def test_quarantined_episodes_give_exit_code_4_and_their_reasons(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=4, bad={"ep_001": "bad-image", "ep_002": "bug"})
    result = convert(src, tmp_path / "out")
    assert result.exit_code == 4
    assert "[bad-image]" in result.stderr
    assert "a bug in a converter" in result.stderr
    # One line on the screen; the rest is in the file that it names.
    assert "Traceback" not in result.stderr
    assert f"(traceback: {tmp_path / 'out/quarantine.jsonl'})" in result.stderr
    assert "--retry-quarantined" in result.stdout
    assert "1 × bad-image, 1 × internal-error" in result.stdout
    again = convert(src, tmp_path / "out", "--json")
    assert again.exit_code == 4
    summary = json.loads(again.stdout)
    assert (summary["converted"], summary["quarantined"], summary["shards_made"]) == (2, 2, 0)


def test_options_of_the_converter_and_of_the_data_set_reach_the_plan(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=2)
    spec = tmp_path / "spec.json"
    spec.write_text('{"sigma": 0.08}')
    result = call(
        *("convert", "synthetic", src, tmp_path / "out", "-j", 1, "--size", "48x64", "--views", "side,front"),
        *("--stride", 2, "--clip-frames", 2, "--crf", 25, "--split", "val", "--spec", spec, "--episodes-per-shard", 2),
        *("--brightness", 7, "--tags", "a,b", "--tags", "c", "--action-codec", "png"),
        *("--rgb-preset", "ultrafast", "--rgb-crf", 30),
    )
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "out/dataset.json").read_text())
    options = manifest["options"]
    assert manifest["converter"] == {"name": "synthetic", "options": {"brightness": 7, "tags": ["a", "b", "c"]}}
    assert (options["height"], options["width"], options["stride"], options["clip_frames"]) == (48, 64, 2, 2)
    assert (options["crf"], options["split"], options["episodes_per_shard"]) == (25, "val", 2)
    assert options["spec"]["sigma"] == 0.08
    assert (options["rgb_preset"], options["rgb_crf"]) == ("ultrafast", 30)
    stream = open_dataset(tmp_path / "out")[0].read("side.rgb.mp4")
    assert b"crf=30.0" in stream
    # What x264's ultrafast leaves out.
    assert b"cabac=0" in stream
    assert manifest["views"] == ["side", "front"]
    assert (tmp_path / "out/val/000000.tar").is_file()
    help_text = call("convert", "synthetic", "--help").stdout
    assert "--brightness INTEGER" in help_text
    assert "--views" in help_text
    assert "--cameras" not in help_text


def test_views_are_said_once_to_the_converter_and_to_the_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SyntheticConverter, "views_field", "tags")
    src = write_source(tmp_path / "src", episodes=1, frames=1)
    assert convert(src, tmp_path / "out", "--views", "side,front").exit_code == 0
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.views, manifest.converter.options["tags"]) == (("side", "front"), ["side", "front"])
    assert "--tags" not in call("convert", "synthetic", "--help").stdout
    assert "--views side,front" in command_of(manifest, "out")
    assert convert(src, tmp_path / "all").exit_code == 0
    manifest = read_manifest(tmp_path / "all")
    assert (manifest.views, manifest.converter.options["tags"]) == (("front", "side"), [])
    assert "--views" not in command_of(manifest, "out")
    for path, words in ((tmp_path / "out", ["--views", "side,front"]), (tmp_path / "all", [])):
        assert "was complete already" in convert(src, path, *words).stdout


def test_a_job_takes_along_what_its_converter_was_told_and_the_settings_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = write_source(tmp_path / "src", episodes=1, frames=1)
    made = engine.plan(SyntheticConverter(), src, ConvertOptions.parse(height=64, width=64))
    converter = SyntheticConverter(SyntheticOptions(brightness=3))
    converter.tell(("front",), ("cut-recording",))
    with CacheSettings(tmp_path / "kept", 1 << 20).used():
        job = engine.Job(tmp_path / "out", made.manifest.plan, converter, prepare.Recipe.of(made.manifest))
    before = (cache_folder(), cache_bytes())
    seen = []
    read = SyntheticConverter.read

    def watched(self: SyntheticConverter, ref: Any) -> Episode:
        seen.append((cache_folder(), cache_bytes(), self.options.brightness, self.wanted_views, self.allowed))
        return read(self, ref)

    monkeypatch.setattr(SyntheticConverter, "read", watched)
    pickle.loads(pickle.dumps(job)).run_shard(made.rows[0], lambda _: None)
    assert seen == [(tmp_path / "kept", 1 << 20, 3, ("front",), {"cut-recording"})]
    assert (cache_folder(), cache_bytes()) == before


def test_dry_run_shows_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=3, frames=6)
    result = convert(src, tmp_path / "out", "--dry-run")
    assert result.exit_code == 0
    assert "3 in 3 shards" in result.stdout
    assert "about" in result.stdout
    plan = json.loads(convert(src, tmp_path / "out", "--dry-run", "--json").stdout)
    assert (plan["episodes"], plan["frames"], len(plan["shards"])) == (3, 21, 3)
    assert plan["estimated_bytes"] > 1000
    assert plan["measured_episodes"] == 3
    assert 0 <= plan["estimated_bytes_error"] < 1
    assert not (tmp_path / "out").exists()


def test_a_dry_run_takes_refined_cameras_as_the_conversion_does(tmp_path: Path) -> None:
    """An estimate once read the source's own cameras, and said "failed 2 of 2" of what then was converted."""
    src = write_source(tmp_path / "src", episodes=2, uncalibrated=["front", "side"])
    assert "no view has a calibration" in convert(src, tmp_path / "out", "--dry-run").stderr
    cameras = {
        name: {
            "K": c.K.tolist(),
            "width": c.width,
            "height": c.height,
            "world_from_camera": c.world_from_camera.tolist(),
        }
        for name, c in (("front", camera("front")), ("side", camera("side")))
    }
    (tmp_path / "mended.json").write_text(json.dumps({"axes": "opencv", "cameras": cameras}))
    words = ("--refined-cameras", tmp_path / "mended.json", "--json")
    for views in ((), ("--views", "side")):
        plan = json.loads(convert(src, tmp_path / "out", *words, *views, "--dry-run").stdout)
        assert (plan["failed_episodes"], plan["measured_episodes"]) == (0, 2)
        assert plan["estimated_bytes"] > 1000
    made = json.loads(convert(src, tmp_path / "out", *words).stdout)
    assert (made["converted"], made["quarantined"], made["views"]) == (2, 0, ["front", "side"])


def test_a_dry_run_counts_cameras_that_the_conversion_will_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(episode: Episode, recipe: prepare.Recipe) -> None:
        if episode.id == "task/ep_001" and recipe.options.checks_calibration:
            raise CalibrationOffError("the gripper is not seen", where=episode.id)

    monkeypatch.setattr(prepare, "checked", lambda *given: off(*given) or ((), ""))
    src = write_source(tmp_path / "src", episodes=3, frames=2)
    for words, bad in (((), 0), (("--check-calibration", "quarantine"), 1)):
        plan = json.loads(convert(src, tmp_path / "out", *words, "--dry-run", "--json").stdout)
        assert plan["failed_episodes"] == bad
    assert json.loads(convert(src, tmp_path / "out", *words, "--json").stdout)["quarantined"] == 1


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--crf", 99), 2, "crf"),
        (("--size", "big"), 2, "neither a number"),
        (("--size", "63"), 2, "even width and height|even height and width"),
        (("--views", "nowhere"), 1, "missing-view|too many"),
        (("--brightness", "x"), 2, "brightness"),
        (("--shard-index", 3), 2, "shard_index"),
    ],
)
def test_wrong_words_are_one_clear_line(tmp_path: Path, words: tuple[Any, ...], code: int, text: str) -> None:
    src = write_source(tmp_path / "src", episodes=2)
    result = call("convert", "synthetic", src, tmp_path / "out", "-j", 1, *words)
    assert result.exit_code == code
    assert any(part in result.stderr for part in text.split("|")), result.stderr
    assert "Traceback" not in result.output


def test_wrong_formats_name_the_right_ones(tmp_path: Path) -> None:
    result = call("convert", "syntetic", "a", "b")
    assert result.exit_code == 2
    assert "Did you mean 'synthetic'" in result.stderr
    result = call("convert", "xyz", "a", "b")
    assert "rlbench" in result.stderr
    result = call("convert", "synthetic", tmp_path / "absent", tmp_path / "out")
    assert (result.exit_code, "error[source-not-found]" in result.stderr) == (1, True)
    (tmp_path / "x.bin").write_bytes(b"")
    assert "no converter recognises" in call("inspect", tmp_path / "x.bin").stderr
    assert call("inspect", tmp_path / "absent").exit_code == 1


ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "2"}


def test_a_slurm_array_takes_its_numbers_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = write_source(tmp_path / "src", episodes=4, frames=1)
    for name, value in {**ARRAY, "SLURM_ARRAY_TASK_STEP": "2"}.items():
        monkeypatch.setenv(name, value)
    assert json.loads(convert(src, tmp_path / "all", "--json").stdout)["shards_made"] == 4
    part = convert(src, tmp_path / "part", "--slurm", "--json")
    assert json.loads(part.stdout)["shards_made"] == 2
    assert sorted(p.name for p in (tmp_path / "part/train").glob("*.tar")) == ["000001.tar", "000003.tar"]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    assert "4 of 4 episodes" in convert(src, tmp_path / "part", "--slurm").stdout
    assert (tmp_path / "part/dataset.json").read_bytes() == (tmp_path / "all/dataset.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "words", "text"),
    [
        ({"SLURM_ARRAY_TASK_ID": None}, (), "SLURM_ARRAY_TASK_ID is ''"),
        ({"SLURM_ARRAY_TASK_ID": "9"}, (), "the array has gaps"),
        ({}, ("--num-shards", 2), "give either"),
    ],
)
def test_a_slurm_array_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: tuple[Any, ...], text: str
) -> None:
    for name, value in {**ARRAY, **change}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    src = write_source(tmp_path / "src", episodes=1)
    result = convert(src, tmp_path / "out", "--slurm", *words)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())


@pytest.mark.parametrize("words", [("--overwrite", "--extend"), ("--ray-address", "auto")])
def test_options_that_do_not_go_together_are_a_usage_error(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert convert(write_source(tmp_path / "src", episodes=1), tmp_path / "out", *words).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_extending_and_retrying_from_the_command_line(tmp_path: Path) -> None:
    src = write_source(tmp_path / "src", episodes=2, frames=1, bad={"ep_001": "bad-image"})
    out = tmp_path / "out"
    assert convert(src, out).exit_code == 4
    write_source(tmp_path / "src", episodes=3, frames=1)
    refused = convert(src, out)
    assert refused.exit_code == 1
    assert "1 episode changed in the source: task/ep_001" in refused.stderr
    assert convert(src, out, "--extend", "--retry-quarantined").exit_code == 0
    assert "3 of 3 episodes" in convert(src, out).stdout


@pytest.mark.parametrize(("workers", "which"), [(1, signal.SIGINT), (2, signal.SIGINT), (1, signal.SIGTERM)])
def test_an_interrupted_run_exits_with_130_and_can_be_resumed(tmp_path: Path, which: int, workers: int) -> None:
    # However slow the machine: the last episode does not end before the interrupt.
    stand = tmp_path / "stand"
    stand.touch()
    src = write_source(tmp_path / "src", episodes=6, frames=8, bad={"ep_005": f"while:{stand}"})
    out = tmp_path / "out"
    program = [sys.executable, "-c", "from actionimg_data.cli import main; main()"]
    command = [*program, "convert", "synthetic", src, str(out), "--size", "64"]
    # To a file: a pipe would stay open as long as any process of the run lives.
    errors = tmp_path / "errors.txt"
    with errors.open("wb") as file:
        process = subprocess.Popen(
            [*command, "-j", str(workers)],
            env=environment_with_converter(tmp_path / "plugin"),
            stderr=file,
            start_new_session=True,
            preexec_fn=hear_interrupts,
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None and not list(out.glob("train/*.json")):
            time.sleep(0.01)
        if which == signal.SIGINT:
            os.killpg(process.pid, which)  # as a terminal does
        else:
            process.send_signal(which)
        stand.unlink()
        process.wait(timeout=PATIENCE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=PATIENCE)
    said = errors.read_text()
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    assert not list(out.rglob("*.tmp"))
    result = convert(src, out, "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert summary["complete"]
    assert summary["shards_resumed"] >= 1


@pytest.mark.realdata
@pytest.mark.parametrize(("codec", "mm", "degrees"), [("h264", 0.5, 0.5), ("ffv1", 0.05, 0.03)])
def test_real_demos_are_converted_and_verified(
    tmp_path: Path, sample_data: Path, codec: str, mm: float, degrees: float
) -> None:
    source = sample_data / "rlbench"
    # Every fifth frame at full size: the whole of it is in the benchmark.
    words = ("--size", 512, "--stride", 5, "--action-codec", codec, "-j", 1, "--json")
    result = call("convert", "rlbench", source, tmp_path / "out", *words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["converted"] == 2
    result = call("verify", tmp_path / "out", "--json", "-j", 1)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["missed_frames"] == 0
    assert summary["decoded_frames"] > 0.9 * summary["frames"]
    assert summary["position_error_mm"]["p95"] <= mm
    assert summary["rotation_error_deg"]["p95"] <= degrees
    assert summary["openness_accuracy"] == 1.0

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_recording_convert import documented_mapping

from actionimg_data.converters.folder import FolderConverter, FolderOptions
from actionimg_data.converters.recording.episode import assemble
from actionimg_data.converters.recording.offset import estimate_offset
from actionimg_data.converters.recording.recording import Recording, ViewInput, shifted
from actionimg_data.demo.recordings import TeleopLog, make_log, write_folder, write_yaml
from actionimg_data.errors import AmbiguousSourceError


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "injected"), [("episode_1", 0.03), ("episode_2", -0.03)])
def test_an_injected_offset_of_30_ms_is_found_to_5_ms(
    sample_data: Path, tmp_path: Path, name: str, injected: float
) -> None:
    mapping = documented_mapping()
    mapping["pose"]["time"]["offset_s"] = -injected
    path = write_yaml(tmp_path / "m.yaml", mapping)
    converter = FolderConverter(FolderOptions(mapping=str(path)))
    (ref,) = converter.discover(str(sample_data / "teleop" / name))
    estimate = estimate_offset(converter.recording(ref))
    assert estimate.offset_s == pytest.approx(injected, abs=0.005)
    assert estimate.sure
    assert set(estimate.views) == {"agentview", "frontview", "sideview"}
    assert json.loads(json.dumps(estimate.to_json()))["sure"] is True


@pytest.fixture(scope="module")
def log() -> TeleopLog:
    return make_log(frames=80, size=96, seed=1, views=("left_shoulder",))


@pytest.fixture(scope="module")
def made(log: TeleopLog, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder = tmp_path_factory.mktemp("made") / "rec"
    path = write_yaml(folder.parent / "m.yaml", write_folder(log, folder, "csv", "png"))
    converter = FolderConverter(FolderOptions(mapping=str(path)))
    return converter.recording(next(iter(converter.discover(str(folder)))))


def test_an_offset_in_a_drawn_scene_is_found(made: Recording) -> None:
    for injected in (0.0, 0.06):
        estimate = estimate_offset(shifted(made, -injected), max_offset_s=0.3)
        assert estimate.offset_s == pytest.approx(injected, abs=0.006)
        assert estimate.sure


def test_auto_applies_the_estimate_and_says_so(log: TeleopLog, made: Recording) -> None:
    episode = assemble(shifted(made, -0.06), "auto")
    assert episode.provenance["time_offset_s"] == pytest.approx(0.06, abs=0.006)
    assert episode.provenance["time_offset"]["sure"] is True
    plain = assemble(shifted(made, -0.06))
    assert "time_offset" not in plain.provenance
    truth = {round(float(t), 6): p for t, p in zip(log.frame_times, log.truth().position, strict=True)}

    def error(found: Any) -> float:
        start = found.provenance["start_time_s"]
        at = [truth[round(float(t) + start, 6)] for t in found.trajectory.times]
        return float(np.linalg.norm(found.trajectory.position - at, axis=1).mean())

    assert error(episode) < error(plain) / 3


def test_pictures_that_do_not_move_give_no_offset(made: Recording) -> None:
    still = {}
    for name, view in made.views.items():
        picture = next(view.frames.frames([0]))
        frozen = _Frozen(picture, len(view.frames))
        still[name] = ViewInput(frozen, view.times, view.camera)
    frozen_recording = replace(made, views=still)
    with pytest.raises(AmbiguousSourceError, match="nothing moves in the pictures"):
        assemble(frozen_recording, "auto")


class _Frozen:
    def __init__(self, picture: np.ndarray, count: int) -> None:
        self.picture, self.count = picture, count
        self.height, self.width = picture.shape[:2]

    def __len__(self) -> int:
        return self.count

    def frames(self, indices: Any) -> Any:
        for _ in indices:
            yield self.picture


def test_noise_gives_no_offset_that_would_be_applied(made: Recording) -> None:
    rng = np.random.default_rng(0)

    class Noise(_Frozen):
        def frames(self, indices: Any) -> Any:
            for _ in indices:
                yield rng.integers(0, 256, self.picture.shape, np.uint8)

    view = made.views["left_shoulder"]
    noise = Noise(next(view.frames.frames([0])), len(view.frames))
    noisy = replace(made, views={"left_shoulder": ViewInput(noise, view.times, view.camera)})
    assert not estimate_offset(noisy, max_offset_s=0.3).sure
    with pytest.raises(AmbiguousSourceError, match="cannot be estimated"):
        assemble(noisy, "auto")


def test_recordings_without_fixed_cameras_or_too_short_are_refused(log: TeleopLog, made: Recording) -> None:
    without = replace(made, views={})
    with pytest.raises(AmbiguousSourceError, match="fixed, calibrated camera"):
        estimate_offset(without)
    with pytest.raises(AmbiguousSourceError, match="too short"):
        estimate_offset(made, max_offset_s=1.9)

"""A data set's report: what is in it, that it is safe and small, and that a browser shows it."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arms_data import make_dataset as make_arms
from click.testing import CliRunner
from processes import run_program
from synthetic_converter import SyntheticConverter, write_source

from actionimg_data import engine
from actionimg_data.cli import main
from actionimg_data.converters.base import Converter
from actionimg_data.errors import (
    InvalidSpecError,
    MissingExtraError,
    SourceNotFoundError,
    TooManyBadEpisodesError,
    WrongFormatError,
)
from actionimg_data.model import CameraTrack, Episode, GripperTrajectory
from actionimg_data.report import collect, html, plots, tiles
from actionimg_data.report import page as page_module
from actionimg_data.report.html import write_report
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import open_dataset
from actionimg_data.video import open_video

CHROMIUM = Path("/usr/bin/chromium")
EVIL = '<img src=x onerror=alert(1)> & "open" the </script><script>document.title="owned"</script> drawer'


class EvilConverter(SyntheticConverter):
    """The synthetic episodes, with an instruction that is HTML."""

    def read(self, ref: Any) -> Episode:
        episode = super().read(ref)
        return Episode(
            id=episode.id, views=episode.views, trajectory=episode.trajectory, fps=episode.fps, instructions=(EVIL,)
        )


def make(
    folder: Path, converter: Converter | None = None, source: dict[str, Any] | None = None, **options: Any
) -> Path:
    src = write_source(folder / "src", **{"episodes": 2, "frames": 6, **(source or {})})
    values = {"height": 96, "width": 96, **options}
    engine.convert(
        converter or SyntheticConverter(), src, folder / "out", ConvertOptions.parse(**values), max_bad_fraction=1
    )
    return folder / "out"


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set and its report: HTML as instruction, an episode in quarantine, recorded decode errors."""
    folder = tmp_path_factory.mktemp("evil")
    out = make(folder, EvilConverter(), {"episodes": 3, "bad": {"ep_001": "bad-image"}})
    engine.record(out, engine.verify(out))
    return out, write_report(out, folder / "report.html").path


class _Page(HTMLParser):
    """Tags with their attributes, and the text outside of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("style", "script"):
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(evil: tuple[Path, Path]) -> _Page:
    return _Page(evil[1].read_text(encoding="utf-8"))


def test_text_from_data_is_escaped(page: _Page) -> None:
    assert EVIL in page.text
    assert len(page.named("script")) == 1
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    assert all((a.get("src") or "").startswith("data:image/webp;base64,") for a in page.named("img"))


def test_nothing_is_asked_of_the_network(evil: tuple[Path, Path], page: _Page) -> None:
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            assert re.match(r"(data:|#|$)", attributes.get(name) or ""), attributes
    style = re.search(r"<style>(.*?)</style>", evil[1].read_text(encoding="utf-8"), re.S)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_ids_are_unique_and_links_lead_somewhere(page: _Page) -> None:
    ids = Counter(a["id"] for _, a in page.tags if "id" in a)
    assert [name for name, n in ids.items() if n > 1] == []
    targets = {
        (a.get(n) or "")[1:] for _, a in page.tags for n in ("href", "xlink:href") if (a.get(n) or "#")[0] == "#"
    }
    assert targets - {""} <= set(ids)
    labelled = {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a}
    labelled |= {a["for"] for a in page.named("label")}
    assert labelled <= set(ids)


def test_pictures_have_words_and_sizes(page: _Page) -> None:
    # Two samples of two views, and the worst frames.
    assert len(page.named("img")) >= 6
    for picture in page.named("img"):
        assert picture["alt"]
        assert int(picture["width"] or 0) > 0
    for drawing in page.named("svg"):
        assert drawing.get("aria-label") or drawing.get("aria-hidden") == "true"


def test_the_figures_are_those_of_the_data_set(evil: tuple[Path, Path], page: _Page) -> None:
    text = re.sub(r"\s+", " ", page.text)
    report = engine.verify(evil[0]).summary()
    assert f"{report['position_error_mm']['max']:.3f} mm" in text
    assert f"{report['rotation_error_deg']['max']:.3f}°" in text
    assert "2 demonstrations from synthetic" in text
    assert "1 episode is in quarantine" in text
    assert "bad-image" in text
    assert "is no PNG" in text
    assert "actionimg convert synthetic" in text
    assert open_dataset(evil[0]).manifest.plan in text  # type: ignore[union-attr]
    worst = re.search(r"Recorded for all 2 samples: the worst one's 95th percentile is ([\d.]+) mm", text)
    assert worst
    assert float(worst[1]) == pytest.approx(
        np.nanmax(collect.recorded(open_dataset(evil[0]), "decode_position_p95_mm")), abs=6e-4
    )


def test_the_same_data_set_gives_the_same_bytes(evil: tuple[Path, Path], tmp_path: Path) -> None:
    assert write_report(evil[0], tmp_path / "again.html").path.read_bytes() == evil[1].read_bytes()


def test_pictures_stop_when_their_room_is_used_up(
    evil: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "PICTURE_BYTES", 5000)
    made = write_report(evil[0], tmp_path / "small.html", grid=0)
    text = made.path.read_text(encoding="utf-8")
    assert sum(len(url) for url in re.findall(r"base64,([^\"]+)", text)) * 3 / 4 <= 5000
    assert any("pictures were left out" in note for note in made.notes)
    assert "Left out, to keep this file small." in text
    assert made.bytes == made.path.stat().st_size


def test_all_that_a_report_may_hold_stays_under_25_mb() -> None:
    """The room of pictures and videos in base64, plots of as many long samples as may be shown, and a crowded scene."""
    rng = np.random.default_rng(0)
    frames = 20_000
    quaternion = rng.normal(size=(frames, 4))
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    path = GripperTrajectory(
        rng.normal(size=(frames, 3)), quaternion, rng.uniform(size=frames), 0.01 * np.arange(frames)
    )
    a_sample = sum(len(plot["svg"]) for plot in plots.trajectory_plots("s", path))
    # All samples of one gripper that may be shown have their curves.
    assert html.MOST_SAMPLES * a_sample < html.CURVE_BYTES
    moving = CameraTrack(
        np.tile([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]], (frames, 1, 1)),
        path.world_from_gripper,
        100,
        100,
    )
    cameras = {f"view_{i}": moving for i in range(8)}
    many = [collect.Path3(f"key-{i}", path.times, path.position, path.openness, cameras) for i in range(200)]
    scene = len(plots.scene(many)["svg"])
    coverage = 3 * len(plots.coverage("c", "c", rng.uniform(size=(10**6, 3)), 0, 1))
    media = (page_module.PICTURE_BYTES + tiles.VIDEO_BYTES + tiles.POSTER_BYTES) * 4 / 3
    # A tile has its instruction twice, cut to 300 characters, and its key of 160 at most three times.
    words = tiles.MOST_TILES * (2 * 300 + 3 * 160 + 600)
    assert media + html.CURVE_BYTES + scene + coverage + words < 24.9e6


def test_videos_are_small_and_stop_when_their_room_is_used_up(evil: tuple[Path, Path], tmp_path: Path) -> None:
    """Each is an H.264 file of some frames; what does not fit has its picture alone, and the page says so."""
    dataset = open_dataset(evil[0])
    assert dataset.spec is not None
    reel, unreadable = tiles.Reel(), list[tuple[str, str]]()
    made = tiles.tiles(dataset, dataset.spec, [0, 1], reel, unreadable)
    assert (len(made), reel.count, unreadable) == (2, 2, [])
    data = base64.b64decode(made[0]["video"].removeprefix("data:video/mp4;base64,"))
    with open_video(data) as video:
        assert (video.info.codec, video.info.height) == ("h264", 144)
        assert video.info.frames == min(tiles.FRAMES, len(dataset[0]))
        assert video.info.frames / video.info.fps == pytest.approx(tiles.SECONDS, rel=0.01)
    short = tiles.Reel(room=len(data))
    made = tiles.tiles(dataset, dataset.spec, [0, 1], short, unreadable)
    assert ([one["video"] is None for one in made], short.left_out) == ([False, True], 1)
    assert all(one["poster"] for one in made)


def test_curves_stop_when_their_room_is_used_up(
    evil: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "CURVE_BYTES", 100)
    text = write_report(evil[0], tmp_path / "few.html").path.read_text(encoding="utf-8")
    assert "Position over time" not in text
    assert text.count("Curves are left out, to keep this file small.") == 2


def test_a_large_data_set_is_sampled_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make(tmp_path, None, {"episodes": 9, "frames": 4})
    monkeypatch.setattr(collect, "MOST_TRAJECTORIES", 5)
    monkeypatch.setattr(collect, "MOST_DECODED_FRAMES", 12)
    made = write_report(out, samples=3)
    assert made.path == tmp_path / "out.report.html"
    assert (made.samples, made.samples_shown) == (9, 3)
    assert 0 < made.samples_decoded < 4
    text = re.sub(r"\s+", " ", _Page(made.path.read_text(encoding="utf-8")).text)
    assert "3 of 9, spread over the data set" in text
    assert re.search(r"Figures over \d+ frames of 5 of 9 samples", text)
    assert f"of {made.samples_decoded} of 9 samples" in text
    assert f"actionimg verify {out} --record measures all samples" in text


def test_a_damaged_sample_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    out = make(tmp_path)
    sample = open_dataset(out)[0]
    offset, size = sample._members["trajectory.npz"]
    tar = out / "train" / "000000.tar"
    data = bytearray(tar.read_bytes())
    data[offset : offset + size] = bytes(size)
    tar.write_bytes(data)
    made = write_report(out, tmp_path / "r.html")
    assert made.notes == ["1 samples could not be read"]
    assert made.samples_shown == 1
    text = made.path.read_text(encoding="utf-8")
    assert "Could not be read" in text
    assert sample.key in text


def test_a_data_set_without_samples_has_a_report(tmp_path: Path) -> None:
    with pytest.raises(TooManyBadEpisodesError):
        make(tmp_path, None, {"episodes": 2, "bad": {"ep_000": "bad-image", "ep_001": "missing-frame"}})
    out = tmp_path / "out"
    text = write_report(out).path.read_text(encoding="utf-8")
    assert "No demonstration could be converted" in text
    assert "missing-frame" in text


class GapConverter(SyntheticConverter):
    """The synthetic episodes with poses missing in the frames from ``first`` to ``last``; the others stand still."""

    first, last = 2, 4

    def read(self, ref: Any) -> Episode:
        episode = super().read(ref)
        path = episode.trajectory
        position = np.tile(path.position[:1], (len(path), 1))
        quaternion = np.tile(path.quaternion_xyzw[:1], (len(path), 1))
        position[self.first : self.last] = quaternion[self.first : self.last] = np.nan
        gaps = GripperTrajectory(position, quaternion, path.openness, path.times, allow_missing=True)
        return replace(episode, trajectory=gaps)


class LostConverter(GapConverter):
    """The synthetic episodes without any pose."""

    first, last = 0, 10**6


class BlindConverter(SyntheticConverter):
    """The synthetic episodes without cameras."""

    @property
    def poses_only(self) -> bool:
        return True

    def read(self, ref: Any) -> Episode:
        episode = super().read(ref)
        return replace(episode, views={name: replace(view, camera=None) for name, view in episode.views.items()})


def test_missing_poses_and_a_gripper_that_stands_still_are_shown(tmp_path: Path) -> None:
    made = write_report(make(tmp_path, GapConverter(), {"episodes": 1}))
    text = made.path.read_text(encoding="utf-8")
    assert made.samples_shown == 1
    assert "2 frames have no pose" in text
    assert "nan" not in _Page(text).text


def test_a_data_set_without_any_pose_has_a_report(tmp_path: Path) -> None:
    made = write_report(make(tmp_path, LostConverter(), {"episodes": 1}))
    text = _Page(made.path.read_text(encoding="utf-8")).text
    assert "There is no trajectory to show." in text
    assert "No frame has two views that show the gripper" in text
    assert made.samples_shown == 1


def test_samples_of_a_single_frame_are_shown(tmp_path: Path) -> None:
    assert write_report(make(tmp_path, None, {"episodes": 1, "frames": 1}, clip_frames=1)).samples_shown == 1


def test_a_data_set_without_action_videos_is_drawn_on_load(tmp_path: Path) -> None:
    made = write_report(make(tmp_path, action_codec="none"))
    assert made.samples_decoded == 0
    assert "nothing to decode" in made.path.read_text(encoding="utf-8")
    assert made.pictures == 4


@pytest.mark.parametrize("merged", [False, True])
def test_several_grippers_are_shown_each(tmp_path: Path, merged: bool) -> None:
    out, _ = make_arms(tmp_path, [6, 5], merge_arms=merged, depth=True)
    made = write_report(out)
    assert (made.samples_shown, made.samples_decoded) == (2, 2)
    text = made.path.read_text(encoding="utf-8")
    page = _Page(text)
    words = re.sub(r"\s+", " ", page.text)
    assert Counter(re.findall(r"<h4>(\w+)</h4>", text)) == {"left": 2, "right": 2}
    assert text.count('class="path g0"') == text.count('class="path g1"') == 2
    for name in ("left", "right"):
        assert re.search(rf"{name} ?95 % within [\d.]+ mm", words)
        assert f"front {name}" in words
    assert "2 of 2 converted" in words
    assert ("--merge-arms" in words, "drawn into one action video" in words) == (merged, merged)
    assert "--depth" in words


def test_a_data_set_without_cameras_shows_pictures_and_paths(tmp_path: Path) -> None:
    made = write_report(make(tmp_path, BlindConverter(), {"episodes": 1}))
    text = made.path.read_text(encoding="utf-8")
    assert (made.samples_shown, made.pictures) == (1, 2)
    assert "No camera is known." in text
    assert 'class="path g0"' in text
    assert "could not be read" not in text


def test_the_command_on_the_card_makes_the_same_plan(tmp_path: Path) -> None:
    out = make(tmp_path, None, {"frames": 9}, clip_frames=4, stride=2, crf=20)
    manifest = open_dataset(out).manifest
    assert manifest is not None
    words = collect.command_of(manifest, "out").split()
    assert words[:3] == ["actionimg", "convert", "synthetic"]
    options = dict(zip(words[5::2], words[6::2], strict=True))
    assert options["--views"] == ",".join(manifest.views)
    assert {k: options[k] for k in ("--size", "--clip-frames", "--stride", "--crf")} == {
        "--size": "96",
        "--clip-frames": "4",
        "--stride": "2",
        "--crf": "20",
    }


def test_the_scene_is_drawn_as_its_script_draws_it() -> None:
    """A point's place in the SVG is its projection, with x to the right and z up."""
    points = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    front = plots.project(points, 0.0, 0.0)
    np.testing.assert_allclose(front, [[100, 0], [0, 0], [0, -100]], atol=1e-12)
    above = plots.project(points, 0.0, np.pi / 2)
    np.testing.assert_allclose(above, [[100, 0], [0, -100], [0, 0]], atol=1e-12)


def test_what_is_missing_or_wrong_is_said(evil: tuple[Path, Path], tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(SourceNotFoundError):
        write_report(tmp_path / "nothing")
    with pytest.raises(WrongFormatError, match="is a shard"):
        write_report(evil[0] / "train" / "000000.tar")
    with pytest.raises(InvalidSpecError):
        write_report(evil[0], samples=-1)
    with pytest.raises(InvalidSpecError, match="grid"):
        write_report(evil[0], grid=501)
    for module in ("jinja2", "matplotlib"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(MissingExtraError, match=r"pip install .jinja2>="):
                write_report(evil[0], tmp_path / "r.html")


def test_the_command_prints_what_it_wrote(evil: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "r.html"
    result = CliRunner().invoke(main, ["report", str(evil[0]), "--html", str(target), "--samples", "1", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["html"], found["bytes"], found["samples_shown"]) == (str(target), target.stat().st_size, 1)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips, by name, where there is no browser, or none that can show an empty page."""
    if not CHROMIUM.exists():
        pytest.skip("needs /usr/bin/chromium")
    folder = tmp_path_factory.mktemp("browser")
    page = folder / "page.html"
    page.write_text("<p>shown</p>")
    try:
        shown = browse(page, folder, "--dump-dom")
    except AssertionError as error:
        pytest.skip(f"chromium shows nothing here: {str(error)[:300]}")
    assert "shown" in shown.stdout


def browse(page: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
    ]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--v=0", *arguments, page.as_uri()]
    return run_program(command)


PROBE = """
<script>addEventListener("load", () => setTimeout(() => {
  const svg = document.querySelector(".space svg");
  const before = svg.innerHTML;
  svg.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true}));
  const turned = svg.innerHTML !== before;
  svg.dispatchEvent(new KeyboardEvent("keydown", {key: "0", bubbles: true}));
  document.querySelector(".views input:nth-of-type(2)").click();
  const plot = document.querySelector("svg.plot[data-axes]");
  const place = plot.getBoundingClientRect();
  plot.dispatchEvent(new PointerEvent("pointermove", {clientX: place.left + place.width / 2, clientY: place.top + 5}));
  const words = document.querySelector(".walltools input");
  words.value = "nothing like it";
  words.dispatchEvent(new Event("input"));
  const none = [...document.querySelectorAll(".wall .tile")].filter((t) => !t.hidden).length;
  words.value = "OPEN the";
  words.dispatchEvent(new Event("input"));
  const shown = [...document.querySelectorAll(".panel")].filter((p) => p.offsetParent);
  const far = [...document.querySelectorAll(".space polyline")].flatMap((l) => [...l.points]).map(
    (p) => Math.max(Math.abs(p.x) / 104, Math.abs(p.y) / 65));
  document.body.dataset.probe = JSON.stringify({
    pictures: [...document.images].map((i) => i.complete && i.naturalWidth > 0),
    requests: performance.getEntriesByType("resource").map((e) => e.name).filter((n) => !n.startsWith("data:")),
    turned,
    within: Math.max(...far),
    title: document.title,
    says: [...document.querySelector(".says").children].map((part) => part.textContent),
    tiles: [none, [...document.querySelectorAll(".wall .tile")].filter((t) => !t.hidden).length],
    panels: shown.map((p) => p.textContent && p.querySelector("img").alt.split(":")[0]),
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  });
  console.log("probed");
}, 50));</script>"""


@pytest.mark.usefixtures("browser")
def test_a_browser_shows_it_without_a_complaint(evil: tuple[Path, Path], tmp_path: Path) -> None:
    """Pictures load, keys turn the scene, another view can be chosen, nothing is requested or complained of."""
    views = open_dataset(evil[0])[0].views
    text = evil[1].read_text(encoding="utf-8")
    probed = tmp_path / "probed.html"
    # The page's own policy refuses the probe; the page as it is comes last.
    probed.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text) + PROBE, encoding="utf-8")
    for width in ("1300", "500"):
        shown = browse(probed, tmp_path, f"--window-size={width},900", "--virtual-time-budget=4000", "--dump-dom")
        match = re.search(r'data-probe="([^"]+)"', shown.stdout)
        assert match, shown.stderr
        found = json.loads(match[1].replace("&quot;", '"'))
        assert len(found["pictures"]) >= 6
        assert all(found["pictures"])
        assert found["requests"] == []
        assert found["turned"]
        assert found["within"] <= 1
        assert found["title"] == "out · data set report"
        # Seconds, and the three curves there.
        assert len(found["says"]) == 4
        assert all(re.fullmatch(r"\u2212?[\d.]+", text) for text in found["says"])
        assert found["tiles"] == [0, 2]
        assert found["panels"] == [f"View {views[1]}", f"View {views[0]}"]
        assert found["wide"] <= 0
        complaints = [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
        assert len(complaints) == 1
        assert "probed" in complaints[0]
    shown = browse(evil[1], tmp_path, "--virtual-time-budget=2000", "--dump-dom")
    assert "CONSOLE" not in shown.stderr
    # Only the page's own script, which its policy names by hash, brings the buttons.
    assert '<div class="turn" hidden' in text
    assert '<div class="turn">' in shown.stdout


@pytest.mark.usefixtures("browser")
def test_a_script_from_elsewhere_is_refused_by_the_page(evil: tuple[Path, Path], tmp_path: Path) -> None:
    injected = tmp_path / "injected.html"
    injected.write_text(evil[1].read_text(encoding="utf-8") + "<script>document.body.dataset.owned = 1</script>")
    shown = browse(injected, tmp_path, "--virtual-time-budget=1000", "--dump-dom")
    assert "data-owned" not in shown.stdout
    assert "Content Security Policy" in shown.stderr

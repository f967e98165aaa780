"""The page of ``actionimg view`` in a real browser: it shows, plays, filters, scrolls, and runs nobody's script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import Page, open_browser
from evaluation_data import disturbed, write_predictions
from large_index import write_large_index
from synthetic_converter import SyntheticConverter, write_source

from actionimg_data import engine
from actionimg_data.cli import main
from actionimg_data.model import Episode
from actionimg_data.schemas import ConvertOptions
from actionimg_data.shards import open_dataset
from actionimg_data.viewer.serve import Server

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

EVIL = (
    "<img src=x onerror=\"document.title='owned'\"> </script>"
    "<script>document.title='owned'</script> javascript:alert(1)"
)
ROWS = 10_000


class EvilConverter(SyntheticConverter):
    """The synthetic episodes, whose every text is HTML; one of them is in quarantine for a reason that is HTML too."""

    def discover(self, source: str) -> Iterator[Any]:
        for ref in super().discover(source):
            yield replace(ref, id=f"{ref.id} {EVIL}")

    def read(self, ref: Any) -> Episode:
        episode = super().read(replace(ref, id=ref.id.partition(" ")[0]))
        return replace(episode, id=ref.id, instructions=(EVIL, f"the red one {EVIL}"), task=f"task {EVIL}")


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evil")
    source = write_source(folder / "src", episodes=3, frames=12, bad={"ep_001": "bad-image"})
    options = ConvertOptions.parse(height=64, width=64)
    engine.convert(EvilConverter(), source, folder / "out", options, max_bad_fraction=1)
    return folder / "out"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


def quiet(page: Page, server: Server) -> None:
    """Nothing on the console, nothing asked of anyone else, no script of the data's."""
    # What an earlier test's page asked of a server that has ended since is heard of late.
    assert [line for line in page.console if server.url in line or "http://" not in line] == [], page.console
    others = [url for url in page.requests if not url.startswith((server.url, "about:", "data:"))]
    assert [url for url in others if "127.0.0.1" not in url] == []
    assert page.ask("document.title") != "owned"
    assert page.ask("document.querySelectorAll('main script, main [onerror]').length") == 0
    # What is still under way ends with the page, before the server does.
    page.goto("about:blank")
    page.requests.clear()
    page.console.clear()


def shown(page: Page) -> list[str]:
    """Titles of the samples in sight."""
    return list(page.ask("[...document.querySelectorAll('.tile:not(.empty)')].map(t => t.title)"))


def test_a_sample_plays_and_steps_with_all_its_videos(evil: Path, page: Page) -> None:
    with Server(evil, port=0).running() as server:
        page.look(1300, 900)
        page.goto(server.url)
        page.wait("document.querySelectorAll('.pic.here').length === 2")
        assert EVIL in shown(page)[0]
        page.ask("document.querySelector('.tile').focus()")
        page.press("Enter")
        page.wait("document.querySelectorAll('.panel video').length === 4")
        page.wait("[...document.querySelectorAll('.panel video')].every(v => v.readyState >= 2)")
        assert page.ask("document.querySelector('h1').textContent") == EVIL
        # Frame by frame, every video shows the frame that the slider says.
        frames = "[...document.querySelectorAll('.panel video')].map(v => Math.floor(v.currentTime * FPS + 1e-6))"
        sample = open_dataset(evil)[0]
        frames = frames.replace("FPS", str(sample.fps))
        page.ask("document.activeElement.blur()")
        for number in (1, 2, 3):
            page.press("ArrowRight")
            page.wait(f"JSON.stringify({frames}) === '[{','.join([str(number)] * 4)}]'")
            assert page.ask("Number(document.querySelector('.slider').value)") == number
        page.press("ArrowLeft")
        page.wait(f"{frames}.every(f => f === 2)")
        # The blend is drawn, and is neither of the two.
        drawn = "(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].some(v => v && v < 255))"
        page.wait(f"{drawn}(document.querySelector('.panel canvas'))")
        # Playing goes on by itself, and the videos stay together.
        page.press(" ")
        page.wait("Number(document.querySelector('.slider').value) > 4")
        apart = page.ask(f"(f => Math.max(...f) - Math.min(...f))({frames})")
        assert apart <= 1
        page.press(" ")
        page.wait(f"(f => f.every(n => n === f[0]))({frames})")
        # Curves, and the scene in space.
        page.wait("document.querySelectorAll('.chart').length >= 6")
        page.wait("document.querySelector('.space canvas')")
        page.press("n")
        page.wait("location.hash.startsWith('#/sample/1')")
        page.press("Escape")
        page.wait("document.querySelectorAll('.tile').length === 2")
        page.goto(f"{server.url}#/quarantine")
        page.wait("document.querySelector('.quarantine h3')")
        assert EVIL in page.ask("document.querySelector('.quarantine h3').textContent")
        quiet(page, server)


def test_ten_thousand_samples_scroll_and_filters_filter(evil: Path, page: Page, tmp_path: Path) -> None:
    large = write_large_index(evil, tmp_path / "out", ROWS)
    table = open_dataset(large).table
    with Server(large, port=0).running() as server:
        page.look(1300, 900)
        page.goto(server.url)
        page.wait("document.querySelectorAll('.pic.here').length > 10")
        assert page.ask("document.querySelector('.status').textContent").replace("\u202f", "") == "10000 samples"
        # To the end: the last sample is there, and what is not in sight is no element.
        page.ask("(g => { g.scrollTop = g.scrollHeight; })(document.querySelector('.gridscroll'))")
        last = f"episode-{ROWS - 1:07d}"
        page.wait(f"[...document.querySelectorAll('.tile')].some(t => t.title.includes('{last}'))")
        assert page.ask("document.querySelectorAll('.tile').length") < 120
        # A small step from there is a small step, though the scrollbar's whole way is shorter than the grid.
        sight = "[...document.querySelectorAll('.tile')].map(t => t.index)"
        page.ask("(g => { g.scrollTop -= 2000; })(document.querySelector('.gridscroll'))")
        page.wait(f"Math.max(...{sight}) < {ROWS - 1}")
        assert page.ask(f"Math.max(...{sight})") > ROWS - 60
        # Words, as they are typed.
        page.ask(
            "(s => { s.value = 'red CUP'; s.dispatchEvent(new Event('input')); })(document.querySelector('#search'))"
        )
        expected = sum("red cup" in text for text in table["instruction"].to_pylist())
        page.wait(
            f"document.querySelector('.status').textContent.replaceAll('\\u202f', '').startsWith('{expected} of')"
        )
        assert all("red cup" in title for title in shown(page))
        assert page.ask("location.search") == "?q=red+CUP"
        # A box of the form, and the expression that training takes.
        page.wait("document.querySelector('.choices input')")
        page.ask("document.querySelector('.choices input').click()")
        page.wait("location.search.includes('task=')")
        task = page.ask("new URLSearchParams(location.search).get('task')")
        texts = zip(table["instruction"].to_pylist(), table["task"].to_pylist(), strict=True)
        expected = sum("red cup" in text and name == task for text, name in texts)
        page.wait(f"document.querySelector('.status').textContent.startsWith('{expected} of')")
        assert task in page.ask("document.querySelector('.expression code').textContent")
        # The address alone brings the same back.
        page.goto("about:blank")
        page.goto(f"{server.url}?q=red+CUP&task={task}&sort=frames&desc=1")
        page.wait(f"document.querySelector('.status')?.textContent.startsWith('{expected} of')")
        frames = page.ask("[...document.querySelectorAll('.tile small')].map(t => parseInt(t.textContent))")
        assert frames == sorted(frames, reverse=True)
        quiet(page, server)


def test_predictions_are_shown_on_a_phone_in_the_dark(evil: Path, page: Page, tmp_path: Path) -> None:
    from click.testing import CliRunner

    dataset = open_dataset(evil)
    windows = [{"key": sample.key} for sample in dataset]
    run = write_predictions(tmp_path / "run", dataset, windows, lambda t, rng: disturbed(t, rng, mm=40))
    command = ["evaluate", str(run), "--against", str(evil), "--no-baselines", "--no-html", "-j", "1"]
    assert CliRunner().invoke(main, command).exit_code == 0
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    with Server(evil, tmp_path / "run.evaluation", 0).running() as server:
        page.look(390, 780, dark=True, phone=True)
        page.goto(server.url)
        page.wait("document.querySelectorAll('.pic.here').length === 2")
        assert page.ask(wide) <= 0
        page.ask("[...document.querySelectorAll('#tabs a')].find(a => a.textContent === 'Predictions').click()")
        page.wait("document.querySelectorAll('.card img').length === 2")
        assert page.ask(wide) <= 0
        page.ask("document.querySelector('.card').click()")
        page.wait("document.querySelector('video.prediction')?.readyState >= 2")
        page.wait("document.querySelectorAll('.chart').length === 4")
        assert page.ask(wide) <= 0
        page.goto(f"{server.url}#/sample/0")
        page.wait("document.querySelectorAll('.panel video').length === 4 && document.querySelector('.space canvas')")
        assert page.ask(wide) <= 0
        # Everything that can be pressed has a name.
        names = page.ask(
            "JSON.stringify([...document.querySelectorAll('button, a, input, select')].filter(e => !("
            "e.textContent.trim() || e.getAttribute('aria-label') || e.title || e.labels?.length))"
            ".map(e => e.outerHTML))"
        )
        assert json.loads(names) == []
        quiet(page, server)

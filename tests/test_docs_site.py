"""The site builds without a warning, every document is in it, and its pages fetch nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import sys
from pathlib import Path

import pytest
from processes import run_program

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def test_every_document_is_in_the_sites_navigation() -> None:
    named = set(re.findall(r"(?<=[ -])([\w/-]+\.md)\b", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert named == {path.relative_to(DOCS).as_posix() for path in DOCS.glob("**/*.md")}


def test_every_picture_of_a_document_is_there_small_and_used() -> None:
    texts = {
        p: p.read_text(encoding="utf-8")
        for p in (*DOCS.glob("**/*.md"), ROOT / "README.md", *ROOT.glob("examples/*.md"))
    }
    shown = set()
    for page, text in texts.items():
        for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            path = (page.parent / name).resolve()
            assert path.is_file(), f"{page.name}: {name}"
            assert path.stat().st_size < 200_000, f"{name} is large"
            shown.add(path)
    kept = {path for path in (DOCS / "images").rglob("*") if path.is_file()}
    assert kept == shown, f"not shown anywhere: {sorted(p.name for p in kept - shown)}"


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_a_drawing_is_the_same_each_time_it_is_made() -> None:
    made = runpy.run_path(str(DOCS / "make_figures.py"))
    assert {path.stem for path in DOCS.glob("images/*.webp")} == {*made["FIGURES"], "site"}
    first, second = (made["webp"](made["FIGURES"]["blob_channels"]()) for _ in range(2))
    assert first == second
    assert len(first) > 10_000


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")),
    reason="needs the extra docs",
)
def test_the_site_builds_and_fetches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    env = {
        **os.environ,
        "NO_MKDOCS_2_WARNING": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    run_program(command, cwd=ROOT, env=env)
    site = tmp_path / "site"
    pages = {
        path.relative_to(site).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
        for path in site.rglob("*.html")
    }
    assert {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} <= set(pages)
    for name, page in pages.items():
        fetched = re.findall(r'<(?:script|img|iframe|source)[^>]*\bsrc="?([^"\s>]+)', page)
        fetched += re.findall(r'<link[^>]*\brel="?(?:stylesheet|preconnect|icon|preload)[^>]*\bhref="?([^"\s>]+)', page)
        fetched += re.findall(
            r'<link[^>]*\bhref="?([^"\s>]+)"?[^>]*\brel="?(?:stylesheet|preconnect|icon|preload)', page
        )
        assert fetched
        assert [url for url in fetched if re.match(r"(https?:)?//", url)] == [], name
    # The reference of the Python interface comes from the docstrings.
    assert "GripperTrajectory" in pages["api"]
    assert "Raises" in pages["api"]

"""The site of the documentation: one table of contents, links that lead somewhere, an API that is whole, a strict build."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import transformers_anymodality
from modeling_tests.docs import ROOT, pages


WRITTEN = {"commands.md", "CONTRIBUTING.md", "CHANGELOG.md"}  # by the hook
FILES = {**pages(), **{name: ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "hub_cards/README.md")}}
LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")


def settings() -> dict:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))


def listed(entries: list) -> Iterator[str]:
    for entry in entries:
        for place in entry.values():
            if isinstance(place, str):
                yield place
            else:
                yield from listed(place)


def prose(file: Path) -> str:
    return re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.S | re.M)


def anchors(file: Path) -> set[str]:
    """As MkDocs makes them of headings, and GitHub for headings that are as plain as ours."""
    headings = re.findall(r"^#+ (.*)$", prose(file), re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", one).strip().lower()) for one in headings}


def test_the_table_of_contents_has_each_page_once():
    found = sorted(listed(settings()["nav"]))
    assert found == sorted({*pages()} - {"README.md"} | WRITTEN)


@pytest.mark.parametrize("page", FILES)
def test_links_lead_somewhere(page):
    broken = []
    for link in LINK.findall(prose(FILES[page])):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = (FILES[page].parent / path).resolve() if path else FILES[page]
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken, f"{page}: {broken}"


def test_a_broken_link_is_found(tmp_path, monkeypatch):
    for text in ("[gone](gone.md)", "[gone](#gone)"):
        (tmp_path / "page.md").write_text(f"# Here\n\n[here](#here) {text}\n")
        monkeypatch.setitem(FILES, "page.md", tmp_path / "page.md")
        with pytest.raises(AssertionError, match="gone"):
            test_links_lead_somewhere("page.md")


def test_the_api_is_whole():
    shown = set(re.findall(r"^::: [\w.]+\.(\w+)$", pages()["api.md"].read_text("utf-8"), re.M))
    assert {*transformers_anymodality.__all__} <= shown


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    written = (tmp_path / "commands.html").read_text("utf-8")
    assert "anymodality features build" in written and "--num-processes" in written
    assert "ImageBind" in (tmp_path / "systems" / "pandagpt.html").read_text("utf-8")
    for page in tmp_path.rglob("*.html"):
        fetched = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?|png|svg))"', page.read_text("utf-8"))
        assert not fetched, f"{page.name} fetches {fetched}"

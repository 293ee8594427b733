"""A browser for tests that look at pages as people do, and words that a page must show and never run."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome"))), None
)
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style></pre></script><svg/onload=alert(1)>",
    "<!-- ]]> -->",
    "](javascript:alert(1)) ![x](http://evil.example/a.png)",
    "a | b\n\n---\nlicense: mit\n---\n# Title\n```\n~~~",
    'x"\n- evil: [1, 2\n\t&anchor *alias !!python/object:os.system',
    "{{ 7 * 7 }}{% raw %}{# x #}${7*7}",
    "\x1b[2J\x1b]0;title\x07\x1b]8;;http://evil.example\x07a\x9b31m\rb\x08",
    "\u202egnp.exe\u2066",
)
# What a visitor's mouse and keys would set off, on every element; links to scripts are followed.
_TOUCH = """document.querySelectorAll('*').forEach(one => {
    for (const kind of ['mouseover', 'focus']) one.dispatchEvent(new Event(kind));
    if (one.href && String(one.href).startsWith('javascript:')) one.click();
})"""


@contextmanager
def tab(width: int = 1280, height: int = 860) -> Iterator[Any]:
    """A page of Playwright's in an empty browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(120_000)
        yield page
        browser.close()


class Alerts(list):
    """The messages of a page's dialogs, which hostile words open where they are run."""

    def __init__(self, page: Any):
        super().__init__()
        self.page = page
        page.on("dialog", self._closed)
        page.set_content(HOSTILE[1])
        self.touch()
        assert self, "the browser runs what is hostile where a page lets it"
        self.clear()

    def touch(self) -> None:
        self.page.evaluate(_TOUCH)
        self.page.wait_for_timeout(300)

    def _closed(self, dialog: Any) -> None:
        self.append(dialog.message)
        dialog.dismiss()

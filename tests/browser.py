"""A real browser without a window, to look at pages as their readers do."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@contextmanager
def browsing(**options: Any) -> Iterator[Any]:
    """A browser's context; ``options`` are Playwright's (viewport, color_scheme)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # No sandbox: containers run as root, which Chromium refuses otherwise; the pages are our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser.new_context(**options)
        finally:
            browser.close()

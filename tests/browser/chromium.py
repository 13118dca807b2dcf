"""The system's Chromium, without a window, driven by Playwright."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

from tests.programs import need

# It is to talk to the stack alone, and to work for root in a container.
_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
SIZE = (1280, 800)  # of its window, and so of a screenshot


@contextmanager
def run_chromium() -> Iterator[Page]:
    """A page of a browser of its own. Nothing async may run meanwhile: Playwright's loop is this thread's."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need("chromium"), args=list(_FLAGS))
        context = browser.new_context(
            viewport={"width": SIZE[0], "height": SIZE[1]}, timezone_id="UTC", locale="en-GB", reduced_motion="reduce"
        )
        context.set_default_timeout(60_000)
        try:
            yield context.new_page()
        finally:
            browser.close()

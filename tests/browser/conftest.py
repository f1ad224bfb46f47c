"""Chromium, and a check that pages log no errors."""

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.services.live_app import live_app, running_app

__all__ = ["live_app", "running_app"]

CHROMIUM = "/usr/bin/chromium"
DESKTOP = {"width": 1100, "height": 850}
PHONE = {"width": 390, "height": 844}
_TIMEOUT = 20_000  # milliseconds
expect.set_options(timeout=_TIMEOUT)


@pytest.fixture(scope="session")
def chromium():
    """The system's Chromium, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",  # tests run as root in containers, where the sandbox does not start
                "--disable-dev-shm-usage",
            ],
        )
        yield browser
        browser.close()


class Complaints:
    """The errors and warnings of pages; a test declares the ones that it provokes."""

    def __init__(self):
        self.texts: list[str] = []
        self.expected: tuple[str, ...] = ()

    def expect(self, text):
        """Declare that messages which begin with *text* are part of the test."""
        self.expected = (*self.expected, text)

    def unexpected(self):
        """Return the messages that the test did not declare."""
        return [text for text in self.texts if not text.startswith(self.expected)]


@pytest.fixture
def complaints():
    """All warnings and errors on the console, script errors, and dialogs."""
    return Complaints()


@pytest.fixture
def open_browser(chromium, complaints):
    """A function that opens one page in a new browser profile: no cookies, no cache."""
    contexts = []

    def on_console(message):
        if message.type in ("error", "warning"):
            complaints.texts.append(message.text)

    def on_dialog(dialog):
        complaints.texts.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open_page(**options):
        context = chromium.new_context(**{"viewport": DESKTOP, **options})
        context.set_default_timeout(_TIMEOUT)
        contexts.append(context)
        page = context.new_page()
        page.on("console", on_console)
        page.on("pageerror", lambda error: complaints.texts.append(str(error)))
        page.on("dialog", on_dialog)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints.unexpected() == []


@pytest.fixture
def page(open_browser, live_app):
    """The app's page in a browser."""
    page = open_browser()
    page.goto(live_app.url)
    return page

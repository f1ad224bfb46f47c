"""A real Chromium, and pages that must not complain."""

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.services.live_app import live_app, running_app

__all__ = ["live_app", "running_app"]

CHROMIUM = "/usr/bin/chromium"
DESK = {"width": 1100, "height": 850}
PHONE = {"width": 390, "height": 844}
_PATIENCE = 20_000  # milliseconds
expect.set_options(timeout=_PATIENCE)


@pytest.fixture(scope="session")
def chromium():
    """The browser of the system, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",  # tests run as root in containers, where the sandbox refuses to start
                "--disable-dev-shm-usage",
            ],
        )
        yield browser
        browser.close()


class Complaints:
    """What the browser complained about; a test that provokes some says how they begin."""

    def __init__(self):
        self.texts: list[str] = []
        self.expected: tuple[str, ...] = ()

    def expect(self, text):
        """Take note that complaints which begin so are part of the test."""
        self.expected = (*self.expected, text)

    def unexpected(self):
        """Return the complaints that no test asked for."""
        return [text for text in self.texts if not text.startswith(self.expected)]


@pytest.fixture
def complaints():
    """Everything that pages write to the console as a warning or an error, errors of scripts, and alerts."""
    return Complaints()


@pytest.fixture
def open_browser(chromium, complaints):
    """Opens a fresh profile of the browser with one page: no cookies, no cache."""
    contexts = []

    def heard(said):
        if said.type in ("error", "warning"):
            complaints.texts.append(said.text)

    def asked(dialog):
        complaints.texts.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open_page(**options):
        context = chromium.new_context(**{"viewport": DESK, **options})
        context.set_default_timeout(_PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.texts.append(str(error)))
        page.on("dialog", asked)
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

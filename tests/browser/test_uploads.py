"""Uploads in a browser: by button, by drag and drop, large files, and errors."""

import hashlib
import os

import pytest
from playwright.sync_api import expect

from tests.services.live_app import LiveApp

MiB = 1024 * 1024


@pytest.fixture
def large_file(tmp_path):
    """A file of 200 MiB with varying content."""
    file = tmp_path / "holiday film.mov"
    with file.open("wb") as writer:
        for _ in range(200):
            writer.write(os.urandom(4096).ljust(MiB, b"\0"))
    return file


def watch_bars(page):
    """Have the page record every value of a progress bar."""
    page.evaluate(
        """() => {
            window.values = [];
            new MutationObserver((changes) => changes.forEach(({ target }) => window.values.push(target.value)))
                .observe(document.querySelector("#uploads"), { subtree: true, attributeFilter: ["value"] });
        }"""
    )


def slow_down(page, bytes_per_second):
    """Limit the upload speed of the page."""
    page.context.new_cdp_session(page).send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_per_second},
    )


def digest(path):
    """Return the SHA-256 of a file's content."""
    with open(path, "rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()


def test_a_large_upload_shows_its_progress(page, live_app, large_file):
    """200 MiB are sent to a signed link; afterwards the file is in the list."""
    watch_bars(page)

    page.set_input_files("#chooser", large_file)

    row = page.locator("#files .row")
    expect(row).to_have_count(1, timeout=120_000)
    expect(row).to_contain_text("holiday film.mov")
    expect(row).to_contain_text("210 MB")
    values = page.evaluate("window.values")
    assert len(set(values)) >= 5
    assert values == sorted(values)
    assert values[-1] == 1
    [stored] = live_app.leftovers()
    assert digest(stored) == digest(large_file)
    expect(page.locator("#uploads-section")).to_be_hidden()


def test_several_files_are_uploaded_at_once(page):
    """The list counts them, and a message reports them."""
    page.set_input_files(
        "#chooser", [{"name": f"{n}.txt", "mimeType": "text/plain", "buffer": b"x" * n} for n in range(5)]
    )

    expect(page.locator("#files .row")).to_have_count(5)
    expect(page.locator("#summary")).to_have_text("5 files · 10 bytes")
    expect(page.get_by_role("status").filter(has_text="5 files are uploaded")).to_be_visible()


def test_a_file_can_be_dropped_anywhere_on_the_page(page):
    """Dragging a file over the page highlights the dropzone; dropping uploads it."""
    transfer = page.evaluate_handle(
        """() => {
            const transfer = new DataTransfer();
            transfer.items.add(new File(["dropped"], "dropped.txt", { type: "text/plain" }));
            return transfer;
        }"""
    )
    dropzone = page.locator("#dropzone")

    page.dispatch_event("h1", "dragenter", {"dataTransfer": transfer})
    expect(dropzone).to_have_class("dropzone is-target")
    page.dispatch_event("h1", "drop", {"dataTransfer": transfer})

    expect(page.locator("#files .row")).to_contain_text("dropped.txt")
    expect(dropzone).to_have_class("dropzone")


def test_a_cancelled_upload_leaves_no_file(open_browser, tmp_path, large_file):
    """Nor a temporary file, and the list stays empty."""
    with LiveApp(tmp_path) as app:
        page = open_browser()
        page.goto(app.url)
        slow_down(page, 20 * MiB)
        page.set_input_files("#chooser", large_file)
        bar = page.get_by_role("progressbar", name="Progress of holiday film.mov")
        expect(bar).not_to_have_js_property("value", 0)
        assert bar.evaluate("bar => bar.value") < 1

        page.get_by_role("button", name="Cancel holiday film.mov").click()

        expect(page.get_by_text("holiday film.mov was not stored")).to_be_visible()
        expect(page.locator("#uploads .row")).to_have_count(0)
        page.reload()
        expect(page.get_by_text("No files yet")).to_be_visible()
    # The server process has ended, and with it all its requests.
    assert app.leftovers() == []


def test_an_upload_can_be_retried_after_a_lost_connection(page, complaints, live_app):
    """The row shows the error and a retry button; the second attempt succeeds."""
    complaints.expect("Failed to load resource: net::ERR_CONNECTION_RESET")
    page.route("**/storage/**", lambda route: route.abort("connectionreset"))
    page.set_input_files("#chooser", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"again"})
    expect(page.locator("#uploads .row-meta")).to_have_text("The connection was lost. The file was not stored.")
    page.unroute("**/storage/**")

    page.get_by_role("button", name="Try a.txt again").click()

    expect(page.locator("#files .row")).to_contain_text("a.txt")
    assert [file.read_bytes() for file in live_app.leftovers()] == [b"again"]


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(open_browser, tmp_path):
    """The row shows the size and the limit; no request is sent, and other files are uploaded."""
    with LiveApp(tmp_path, DROP_MAX_UPLOAD_SIZE=1000) as app:
        page = open_browser()
        page.goto(app.url)

        page.set_input_files(
            "#chooser",
            [
                {"name": "large.bin", "mimeType": "", "buffer": b"x" * 5000},
                {"name": "small.bin", "mimeType": "", "buffer": b"x" * 1000},
            ],
        )

        expect(page.locator("#uploads .has-failed .row-meta")).to_have_text(
            "Too large: 5 kB. A file may have up to 1 kB."
        )
        expect(page.locator("#files .row")).to_have_count(1)
        expect(page.locator("#files .row")).to_contain_text("small.bin")
        page.get_by_role("button", name="Dismiss large.bin").click()
        expect(page.locator("#uploads-section")).to_be_hidden()


def test_the_page_works_without_scripts(open_browser, live_app):
    """Upload, download and delete, with a page that asks before deleting."""
    page = open_browser(java_script_enabled=False)
    page.goto(live_app.url)

    page.set_input_files("#chooser", {"name": "plain.txt", "mimeType": "text/plain", "buffer": b"by form"})
    page.get_by_role("button", name="Upload").click()

    row = page.locator("#files .row")
    expect(row).to_contain_text("plain.txt")
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Download plain.txt").click()
    assert downloading.value.path().read_bytes() == b"by form"
    page.get_by_role("button", name="Delete plain.txt").click()
    expect(page.get_by_role("heading")).to_have_text("Delete plain.txt?")
    assert len(live_app.leftovers()) == 1
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("No files yet")).to_be_visible()
    assert live_app.leftovers() == []

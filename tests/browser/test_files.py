"""Viewing, downloading, sharing and deleting files in a browser."""

import html
import io
import math
import re
import struct
import wave
import zipfile
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Error as BrowserError, expect

from example_app import create_app
from flask_storage.tokens import LinkSigner
from flask_storage.types import LinkRequest, ShareLinkOperation
from tests.browser.webm import make_video


def make_sound(seconds):
    """Return a WAV file with a tone, about 90 kB per second."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(44_100)
        cycle = b"".join(struct.pack("<h", int(9000 * math.sin(2 * math.pi * n / 100))) for n in range(100))
        sound.writeframes(cycle * (441 * seconds))
    return buffer.getvalue()


def row_of(page, name):
    """Return the row of a file in the list."""
    return page.locator("#files .row").filter(has_text=name)


def share(page, name, lifetime):
    """Create a link in the share dialog, and return the one that its recipient finds on the page."""
    page.get_by_role("button", name=f"Share {name}").click()
    page.get_by_role("radio", name=lifetime).check()
    page.get_by_role("button", name="Create link").click()
    expect(page.get_by_role("button", name="Copy")).to_be_focused()
    shown = page.request.get(page.get_by_label("Link", exact=True).input_value()).text()
    [link] = re.findall(r'href="([^"]+)" rel="noreferrer"', shown)
    return html.unescape(link)


@pytest.mark.parametrize(
    ("name", "make"), [("film.webm", make_video), ("song.wav", make_sound)], ids=["video", "sound"]
)
def test_a_player_can_seek(page, live_app, name, make):
    """Seeking requests the bytes from there, gets 206, and plays from the new position."""
    content = make(90)
    live_app.storage.write(f"a/{name}", content)
    partial = []

    def record_range(response):
        if response.status == 206:
            partial.append(response.headers["content-range"])

    page.on("response", record_range)
    page.reload()
    page.get_by_role("link", name=name, exact=True).click()
    player = page.locator("#stage video, #stage audio")
    expect(player).to_have_js_property("duration", 90)

    page.evaluate(
        """() => new Promise((resolve) => {
            const player = document.querySelector("#stage video, #stage audio");
            player.addEventListener("seeked", resolve, { once: true });
            player.currentTime = 80;
        })"""
    )

    expect(player).to_have_js_property("currentTime", 80)
    starts = [int(covered.removeprefix("bytes ").split("-")[0]) for covered in partial]
    assert max(starts) > len(content) / 2
    assert all(covered.endswith(f"/{len(content)}") for covered in partial)


@pytest.mark.parametrize(
    "name", ["Übersicht Grüße 東京 🚀 (2).bin", "100% of #1 & a+b, it's.bin", "quarterly report.pdf"]
)
def test_a_download_has_its_name_and_every_byte(page, live_app, name):
    """The suggested name is the one of the upload, in every script."""
    content = bytes(range(256)) * 1000
    page.set_input_files("#chooser", {"name": name, "mimeType": "", "buffer": content})

    with page.expect_download() as downloading:
        page.get_by_role("link", name=f"Download {name}").click()

    assert downloading.value.suggested_filename == name
    assert downloading.value.path().read_bytes() == content


def test_an_image_has_a_thumbnail_and_a_preview(page, live_app):
    """Opening shows it in a dialog, and Escape closes that."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (640, 480), "teal").save(buffer, "PNG")
    live_app.storage.write("a/teal.png", buffer.getvalue())
    page.reload()
    expect(row_of(page, "teal.png").locator("img")).to_have_js_property("naturalWidth", 640)

    page.get_by_role("link", name="teal.png", exact=True).click()

    expect(page.get_by_role("dialog", name="teal.png").get_by_role("img", name="teal.png")).to_have_js_property(
        "naturalWidth", 640
    )
    page.keyboard.press("Escape")
    expect(page.locator("#preview-dialog")).to_be_hidden()


def test_a_text_is_shown_as_text(page, live_app):
    """Markup in a text file is not interpreted."""
    live_app.storage.write("a/notes.md", "# Zoë\n<script>alert(1)</script>".encode())
    page.reload()

    page.get_by_role("link", name="notes.md", exact=True).click()

    expect(page.locator("#stage pre")).to_have_text("# Zoë\n<script>alert(1)</script>")


def test_a_pdf_is_shown_in_the_page(page, live_app):
    """In a dialog, in the browser's own viewer."""
    live_app.storage.write(
        "a/contract.pdf",
        b"%PDF-1.1\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj "
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 300]>>endobj\ntrailer<</Root 1 0 R>>\n",
    )
    page.reload()

    with page.expect_response("**/storage/drop?*") as response_info:
        page.get_by_role("link", name="contract.pdf", exact=True).click()

    assert response_info.value.status == 200
    assert response_info.value.headers["content-type"] == "application/pdf"
    assert response_info.value.headers["content-disposition"].startswith("inline")
    expect(page.get_by_role("dialog", name="contract.pdf").locator("iframe")).to_be_visible()


@pytest.mark.parametrize(
    "name",
    ["<img src=x onerror=alert(1)>.html", '"><svg onload=alert(1)>.svg', "'; alert(1); '.xhtml", "{{ 7*7 }}.js"],
)
def test_a_malicious_upload_runs_no_script(page, live_app, name):
    """Neither its name nor its content, in the list, in a dialog or when opened."""
    script = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(2)</script></svg>'
    page.set_input_files("#chooser", {"name": name, "mimeType": "text/html", "buffer": script})
    row = page.locator("#files .row")
    expect(row).to_have_count(1)
    row.get_by_role("button", name="Share").click()
    page.keyboard.press("Escape")

    with page.expect_download() as downloading:
        row.locator(".row-name").click()

    assert downloading.value.path().read_bytes() == script
    assert page.url == f"{live_app.url}/"
    assert page.locator("main script, main img, main svg[onload]").count() == 0


def test_a_malicious_name_from_another_program_is_shown_as_text(page, live_app):
    """In the list and in the dialogs."""
    name = "<img src=x onerror=alert(1)>.txt"
    live_app.storage.write(f"a/{name}", b"content")
    page.reload()
    expect(page.locator(".row-name")).to_have_text(name)

    page.locator(".row-name").click()

    expect(page.locator("#preview-dialog h2")).to_have_text(name)
    expect(page.locator("#stage pre")).to_have_text("content")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text(name)


def test_a_shared_link_downloads_the_file_in_another_browser(page, open_browser, live_app):
    """Under its name; no cookie is needed."""
    live_app.storage.write("a/Grüße.txt", b"for you")
    page.reload()
    link = share(page, "Grüße.txt", "10 minutes")
    other_browser = open_browser()

    with other_browser.expect_download() as downloading, pytest.raises(BrowserError, match="Download is starting"):
        other_browser.goto(link)

    assert downloading.value.suggested_filename == "Grüße.txt"
    assert downloading.value.path().read_bytes() == b"for you"
    expect(page.locator(".share-expiry")).to_contain_text("Works until")


def test_the_recipient_of_a_link_sees_a_page_first(page, open_browser, live_app):
    """With the name and the size; the button downloads the file."""
    live_app.storage.write("a/Grüße.txt", b"for you")
    page.reload()
    share(page, "Grüße.txt", "1 download")
    other_browser = open_browser()

    other_browser.goto(page.get_by_label("Link", exact=True).input_value())

    expect(other_browser.get_by_role("heading")).to_have_text("Grüße.txt")
    expect(other_browser.get_by_text("7 bytes")).to_be_visible()
    with other_browser.expect_download() as downloading:
        other_browser.get_by_role("link", name="Download").click()
    assert downloading.value.path().read_bytes() == b"for you"


def test_selected_files_are_downloaded_as_one_zip_file(page, live_app):
    """The buttons appear with the first selected file, and a search is kept when the list is updated."""
    for name in ("one.txt", "two.txt", "three.png"):
        live_app.storage.write(f"a/{name}", name.encode())
    page.goto(f"{live_app.url}/?q=.txt&sort=name")
    expect(page.locator("#files .row")).to_have_count(2)
    button = page.get_by_role("button", name="Download as ZIP")
    expect(button).to_be_hidden()

    page.get_by_role("checkbox", name="Select one.txt").check()
    page.get_by_role("checkbox", name="Select two.txt").check()
    with page.expect_download() as downloading:
        button.click()
    page.set_input_files("#chooser", {"name": "four.txt", "mimeType": "text/plain", "buffer": b"4"})

    with zipfile.ZipFile(downloading.value.path()) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "one.txt": b"one.txt",
            "two.txt": b"two.txt",
        }
    expect(page.locator("#files .row-name")).to_have_text(["four.txt", "one.txt", "two.txt"])


def test_selected_files_are_deleted_without_a_script(open_browser, live_app):
    """After a page that asks."""
    for name in ("one.txt", "two.txt"):
        live_app.storage.write(f"a/{name}", b"")
    page = open_browser(java_script_enabled=False)
    page.goto(live_app.url)

    page.get_by_role("checkbox", name="Select one.txt").check()
    page.get_by_role("button", name="Delete selected").click()
    expect(page.get_by_role("heading")).to_have_text("Delete 1 file?")
    page.get_by_role("button", name="Delete", exact=True).click()

    expect(page.locator("#files .row-name")).to_have_text(["two.txt"])


def test_the_link_can_be_copied(page, live_app):
    """The button copies the link to the clipboard and confirms it."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    live_app.storage.write("a/b.txt", b"")
    page.reload()
    share(page, "b.txt", "1 day")
    link = page.get_by_label("Link", exact=True).input_value()

    page.get_by_role("button", name="Copy").click()

    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == link


def test_a_link_for_one_download_works_once(page, open_browser, complaints, live_app):
    """The second visitor sees an error page."""
    complaints.expect("Failed to load resource: the server responded with a status of 403")
    live_app.storage.write("a/once.txt", b"once")
    page.reload()
    link = share(page, "once.txt", "1 download")
    first, second = open_browser(), open_browser()
    with first.expect_download() as downloading, pytest.raises(BrowserError, match="Download is starting"):
        first.goto(link)

    response = second.goto(link)

    assert downloading.value.path().read_bytes() == b"once"
    assert response.status == 403
    expect(second.get_by_role("heading")).to_have_text("This link does not work")


def test_an_expired_link_shows_an_error_page(open_browser, complaints, live_app):
    """With status 403, and without a link to the other files."""
    complaints.expect("Failed to load resource: the server responded with a status of 403")
    live_app.storage.write("a/late.txt", b"late")
    now = datetime.now(UTC)
    constraints = LinkRequest(operations=ShareLinkOperation.download, expires_at=now - timedelta(minutes=1))
    key = create_app(str(live_app.instance)).config["SECRET_KEY"]
    token = LinkSigner([key], "drop").sign("a/late.txt", constraints, now - timedelta(hours=1))
    guest = open_browser()

    response = guest.goto(f"{live_app.url}/storage/drop?token={token}")

    assert response.status == 403
    expect(guest.get_by_role("heading")).to_have_text("This link does not work")
    expect(guest.get_by_text("Ask the sender for a new link")).to_be_visible()
    assert guest.get_by_role("link").count() == 0


def test_deleting_asks_for_confirmation(page, live_app):
    """Cancelling changes nothing; deleting removes the file and its row, and updates the totals."""
    live_app.storage.write("a/keep.txt", b"1")
    live_app.storage.write("a/go.txt", b"22")
    page.reload()
    page.get_by_role("button", name="Delete go.txt").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#files .row")).to_have_count(2)

    page.get_by_role("button", name="Delete go.txt").click()
    page.get_by_role("button", name="Delete", exact=True).click()

    expect(page.locator("#files .row")).to_have_count(1)
    expect(page.locator("#summary")).to_have_text("1 file · 1 byte")
    assert [entry.name for entry in live_app.storage.list()] == ["a/keep.txt"]


def test_sharing_a_file_that_was_deleted_concurrently_shows_an_error(page, complaints, live_app):
    """In the dialog."""
    complaints.expect("Failed to load resource: the server responded with a status of 404")
    live_app.storage.write("a/gone.txt", b"1")
    page.reload()
    live_app.empty()

    page.get_by_role("button", name="Share gone.txt").click()
    page.get_by_role("button", name="Create link").click()

    expect(page.get_by_role("alert")).to_have_text("The file was deleted, or the address is wrong.")

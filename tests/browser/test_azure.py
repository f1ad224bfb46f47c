"""A browser and a container: the page uploads and downloads files directly to and from the Azure server."""

import os
from datetime import timedelta

import pytest
from playwright.sync_api import Error as BrowserError, expect

from flask_storage import IntegrityError, WriteOptions
from tests.azure_storages import make_storage
from tests.browser.test_files import share
from tests.browser.test_uploads import slow_down, watch_bars
from tests.browser.webm import make_video
from tests.services.live_app import LiveApp

pytest_plugins = ["tests.services.azurite"]

HOUR = timedelta(hours=1)
MiB = 1024 * 1024
REFUSED = "Failed to load resource: the server responded with a status of 403"
UNREADABLE = ("Access to XMLHttpRequest at", "Access to fetch at", "Failed to load resource: net::ERR_FAILED", REFUSED)
"""The messages of the browser about a response without CORS headers."""


def profile(server, container):
    """Return the app's profile, which alone configures the Azure server."""
    return {
        "backend": "azure",
        "connection_string": f"AccountName={server.account};AccountKey={server.key};BlobEndpoint={server.url}",
        "bucket": container,
        "prefix": "drop",
    }


@pytest.fixture(scope="module")
def running_azure_app(azurite, tmp_path_factory):
    """The example app with its files in a container."""
    storage = make_storage(azurite, prefix="drop")
    settings = {"STORAGE_PROFILES": {"drop": profile(azurite, storage.bucket)}}
    with LiveApp(tmp_path_factory.mktemp("azure-app"), storage=storage, **settings) as app:
        yield app
        assert app.leftovers() == []  # no file was stored on the local disk


@pytest.fixture
def azure_app(azurite, running_azure_app):
    """The app without files, whose origin the account's CORS rules allow, as the Azure guide says."""
    running_azure_app.empty()
    azurite.allow_origin(running_azure_app.url)
    yield running_azure_app
    azurite.allow_origin()


@pytest.fixture
def page(open_browser, azure_app):
    """The app's page in a browser."""
    page = open_browser()
    page.goto(azure_app.url)
    return page


def content_of(storage):
    """Return the content of the only file."""
    [entry] = storage.list()
    return storage.read(entry.name)


# -- the app ----------------------------------------------------------------------------------------------------------


def test_a_file_is_uploaded_through_the_app_with_progress(page, azure_app, azurite, tmp_path):
    """The app enforces the size, which Azure cannot."""
    content = os.urandom(MiB) * 40
    film = tmp_path / "holiday film.mov"
    film.write_bytes(content)
    sent = []
    page.on("request", lambda request: sent.append((request.method, request.url.partition("?")[0])))
    watch_bars(page)
    slow_down(page, 20 * MiB)  # a browser reports the progress every 50 ms

    page.set_input_files("#chooser", film)

    expect(page.locator("#files .row")).to_contain_text("holiday film.mov", timeout=60_000)
    expect(page.locator("#files .row")).to_contain_text("41.9 MB")
    expect(page.locator("#uploads-section")).to_be_hidden()
    values = page.evaluate("window.values")
    assert len(set(values)) >= 3
    assert values == sorted(values)
    assert values[-1] == 1
    assert content_of(azure_app.storage) == content
    assert [url for method, url in sent if method == "PUT"] == [f"{azure_app.url}/storage/drop"]
    assert [url for _, url in sent if url.startswith(azurite.url)] == []
    assert [url for method, url in sent if method == "POST"] == [
        f"{azure_app.url}/uploads",
        f"{azure_app.url}/uploads/done",
    ]


@pytest.mark.parametrize("name", ["nothing.txt", "100% of #1 & a+b, it's Grüße 東京.bin"])
def test_any_name_and_an_empty_file_can_be_uploaded(page, azure_app, name):
    """The content type is the app's, whatever the browser sends."""
    content = b"" if name == "nothing.txt" else b"content"

    page.set_input_files("#chooser", {"name": name, "mimeType": "text/html", "buffer": content})

    expect(page.locator("#files .row")).to_contain_text(name)
    [entry] = azure_app.storage.list()
    assert (entry.name.partition("/")[2], azure_app.storage.read(entry.name)) == (name, content)
    assert azure_app.storage.stat(entry.name).content_type in ("text/plain", "application/octet-stream")


def test_a_cancelled_upload_stores_nothing(page, azure_app, tmp_path):
    """The app has received a part of it, and discards it."""
    film = tmp_path / "film.mov"
    film.write_bytes(bytes(20 * MiB))
    slow_down(page, 2 * MiB)
    page.set_input_files("#chooser", film)
    expect(page.get_by_role("progressbar", name="Progress of film.mov")).not_to_have_js_property("value", 0)

    page.get_by_role("button", name="Cancel film.mov").click()

    expect(page.get_by_text("film.mov was not stored")).to_be_visible()
    expect(page.locator("#uploads .row")).to_have_count(0)
    assert list(azure_app.storage.client.list_blobs(include=["uncommittedblobs"])) == []


def test_a_refused_upload_is_shown_and_can_be_retried(page, azure_app, complaints):
    """The page tells the reason."""

    def spoil(route):
        response = route.fetch()
        presigned = response.json()
        route.fulfill(response=response, json={**presigned, "url": f"{presigned['url']}0"})

    complaints.expect(REFUSED)
    page.route("**/uploads", spoil)
    page.set_input_files("#chooser", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"again"})
    expect(page.locator("#uploads .row-meta")).to_have_text("The permission to upload has expired. Try again.")
    assert azure_app.storage.list() == []
    page.unroute("**/uploads")

    page.get_by_role("button", name="Try a.txt again").click()

    expect(page.locator("#files .row")).to_contain_text("a.txt")
    assert content_of(azure_app.storage) == b"again"


def test_pages_of_another_origin_are_refused(open_browser, azure_app, complaints):
    """The link is valid, but no CORS rule allows this origin."""
    for text in UNREADABLE:
        complaints.expect(text)
    page = open_browser()
    page.goto(azure_app.url.replace("127.0.0.1", "localhost"))

    request = as_request(azure_app.storage.upload_request("in/a.txt", HOUR))

    with pytest.raises(BrowserError, match="Failed to fetch"):
        page.evaluate(PUT, [request, "content"])

    assert azure_app.storage.list() == []


def test_a_video_in_a_container_can_be_seeked(page, azure_app):
    """The page's content security policy allows it, and seeking requests a range from Azure."""
    content = make_video(90)
    azure_app.storage.write("a/film.webm", content)
    partial = []
    page.on(
        "response",
        lambda response: partial.append(response.headers["content-range"]) if response.status == 206 else None,
    )
    page.reload()
    page.get_by_role("link", name="film.webm", exact=True).click()
    player = page.locator("#stage video")
    expect(player).to_have_js_property("duration", 90)

    player.evaluate(
        """(player) => new Promise((resolve) => {
            player.addEventListener("seeked", resolve, { once: true });
            player.currentTime = 80;
        })"""
    )

    assert max(int(covered.removeprefix("bytes ").split("-")[0]) for covered in partial) > len(content) / 2


def test_files_in_a_container_can_be_viewed_downloaded_and_deleted(page, complaints, azure_app):
    """Thumbnail and text are loaded from Azure; a downloaded file has its name and content."""
    from PIL import Image

    complaints.expect("Failed to load resource: the server responded with a status of 416")  # empty: no range
    with azure_app.storage.open("a/teal.png", "w") as file:
        Image.new("RGB", (640, 480), "teal").save(file, "PNG")
    azure_app.storage.write("b/Grüße 東京.txt", "# Zoë".encode())
    azure_app.storage.write("c/empty.txt", b"")
    page.reload()
    expect(page.locator("#files .row").filter(has_text="teal").locator("img")).to_have_js_property("naturalWidth", 640)

    page.get_by_role("link", name="Grüße 東京.txt", exact=True).click()
    expect(page.locator("#stage pre")).to_have_text("# Zoë")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="empty.txt", exact=True).click()
    expect(page.locator("#stage")).to_have_text("The file is empty.")
    page.keyboard.press("Escape")
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Download Grüße 東京.txt").click()
    page.get_by_role("button", name="Delete empty.txt").click()
    page.get_by_role("button", name="Delete", exact=True).click()

    assert downloading.value.suggested_filename == "Grüße 東京.txt"
    assert downloading.value.path().read_bytes() == "# Zoë".encode()
    expect(page.locator("#files .row")).to_have_count(2)
    assert [entry.name for entry in azure_app.storage.list()] == ["a/teal.png", "b/Grüße 東京.txt"]


def test_a_shared_link_downloads_from_the_container(page, open_browser, azure_app, azurite):
    """Until it expires; one for a single download, which Azure cannot enforce, leads to the app."""
    azure_app.storage.write("a/page.html", b"<script>alert(1)</script>")
    page.reload()
    link = share(page, "page.html", "10 minutes")
    visitor = open_browser()

    with visitor.expect_download() as downloading, pytest.raises(BrowserError, match="Download is starting"):
        visitor.goto(link)

    assert link.startswith(azurite.url)
    assert downloading.value.suggested_filename == "page.html"
    page.reload()
    assert share(page, "page.html", "1 download").startswith(azure_app.url)


def test_a_form_upload_without_scripts_is_stored_in_the_container(open_browser, azure_app):
    """Through the app, with its file name."""
    page = open_browser(java_script_enabled=False)
    page.goto(azure_app.url)

    page.set_input_files("#chooser", {"name": "plain.txt", "mimeType": "text/plain", "buffer": b"by form"})
    page.get_by_role("button", name="Upload").click()

    expect(page.locator("#files .row")).to_contain_text("plain.txt")
    assert content_of(azure_app.storage) == b"by form"


# -- scripts of the page ----------------------------------------------------------------------------------------------

PUT = """async ([{ method, url, headers }, text]) => {
    const response = await fetch(url, { method, headers, body: new File([text], "a") });
    return [response.status, response.headers.get("ETag")];
}"""


def as_request(presigned, **changed):
    """Return a presigned upload as a script gets it."""
    return {"method": presigned.method, "url": presigned.url, "headers": {**presigned.headers, **changed}}


def test_a_script_can_read_the_response_headers(page, azure_app):
    """The CORS rule exposes all headers, so the script gets the ETag."""
    presigned = azure_app.storage.upload_request("in/a.txt", HOUR, content_type="text/plain")

    status, etag = page.evaluate(PUT, [as_request(presigned), "content"])

    assert status == 201
    info = azure_app.storage.stat("in/a.txt")
    assert (etag.strip('"'), info.content_type) == (info.etag, "text/plain")
    assert azure_app.storage.read("in/a.txt") == b"content"


def test_an_exclusive_upload_link_replaces_nothing(page, complaints, azure_app):
    """Also if the script omits the condition."""
    complaints.expect(REFUSED)
    complaints.expect("Failed to load resource: the server responded with a status of 409")
    presigned = azure_app.storage.upload_request("in/a.txt", HOUR, exclusive=True)
    without = as_request(presigned)
    del without["headers"]["If-None-Match"]

    statuses = [
        page.evaluate(PUT, [request, text])[0] for request, text in [(as_request(presigned), "1"), (without, "2")]
    ]

    assert statuses[0] == 201
    assert statuses[1] in (403, 409)
    assert azure_app.storage.read("in/a.txt") == b"1"


def test_an_upload_of_another_type_is_deleted_by_confirm_upload(page, azure_app):
    """A SAS cannot enforce the type."""
    presigned = azure_app.storage.upload_request("in/a.png", HOUR, content_type="image/png")
    request = as_request(presigned, **{"x-ms-blob-content-type": "text/html"})
    assert page.evaluate(PUT, [request, "<script>alert(1)</script>"])[0] == 201

    with pytest.raises(IntegrityError):
        azure_app.storage.confirm_upload("in/a.png", content_type="image/png")

    assert azure_app.storage.list() == []


BLOCKS = """async ([requests, sizes]) => {
    window.values = [];
    const total = sizes.reduce((sum, size) => sum + size);
    let before = 0;
    for (const [index, { method, url, headers }] of requests.entries()) {
        await new Promise((resolve, reject) => {
            const xhr = new XMLHttpRequest();
            xhr.upload.onprogress = ({ loaded }) => window.values.push((before + loaded) / total);
            xhr.onload = () => (xhr.status === 201 ? resolve() : reject(new Error(`${xhr.status}`)));
            xhr.onerror = () => reject(new Error("no response"));
            xhr.open(method, url);
            for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value);
            xhr.send(new Blob(["abc"[index].repeat(sizes[index])]));
        });
        before += sizes[index];
    }
    return window.values;
}"""


def test_a_page_can_upload_in_blocks(page, azure_app):
    """The app creates and completes the upload; each block has its own link, and nothing is visible before."""
    storage = azure_app.storage
    sizes = [5 * MiB, 5 * MiB, 10]
    upload_id = storage.multipart.create("in/film.mp4", WriteOptions(content_type="video/mp4"))
    requests = [as_request(storage.block_request("in/film.mp4", upload_id, number, HOUR)) for number in (1, 2, 3)]

    values = page.evaluate(BLOCKS, [requests, sizes])

    assert storage.list() == []
    arrived = storage.multipart.list_parts("in/film.mp4", upload_id)
    assert [part.size for part in arrived] == sizes
    storage.multipart.complete("in/film.mp4", upload_id, arrived, WriteOptions(size=sum(sizes)))
    info = storage.confirm_upload("in/film.mp4", size=sum(sizes), content_type="video/mp4")
    assert info.content_type == "video/mp4"
    assert storage.read("in/film.mp4") == b"a" * 5 * MiB + b"b" * 5 * MiB + b"c" * 10
    assert list(storage.multipart.list_uploads()) == []
    assert len(set(values)) >= 3
    assert values == sorted(values)
    assert values[-1] == 1


def test_blocks_of_another_origin_are_refused(open_browser, azure_app, complaints):
    """CORS rules apply to links for blocks too."""
    for text in UNREADABLE:
        complaints.expect(text)
    storage = azure_app.storage
    upload_id = storage.multipart.create("in/film.mp4", WriteOptions())
    page = open_browser()
    page.goto(azure_app.url.replace("127.0.0.1", "localhost"))
    request = as_request(storage.block_request("in/film.mp4", upload_id, 1, HOUR))

    with pytest.raises(BrowserError, match="no response"):
        page.evaluate(BLOCKS, [[request], [10]])

    assert storage.multipart.list_parts("in/film.mp4", upload_id) == []
    storage.multipart.abort("in/film.mp4", upload_id)

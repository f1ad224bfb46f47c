"""A browser and a bucket: files are transferred between the page and the S3 server, which is another origin."""

import os
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Error as BrowserError, expect

from flask_storage.backends.s3.presign import S3Presigner
from flask_storage.types import LinkRequest, ShareLinkOperation
from tests.browser.test_files import share
from tests.browser.test_uploads import slow_down, watch_bars
from tests.browser.webm import make_video
from tests.s3_storages import make_storage
from tests.services.live_app import LiveApp

pytest_plugins = ["tests.services.s3"]

HOUR = timedelta(hours=1)
MiB = 1024 * 1024
UNREADABLE = (
    "Access to fetch at",
    "Access to XMLHttpRequest at",
    "Failed to load resource: net::ERR_FAILED",
    "Failed to load resource: the server responded with a status of 403",
)
"""Messages of the browser about a response without CORS headers: Ceph sends none when it refuses."""


def profile(server, bucket):
    """Return the profile of the application; no other setting names the S3 server."""
    return {
        "backend": "s3",
        "bucket": bucket,
        "prefix": "drop",
        "aws_region": server.region,
        "aws_access_key_id": server.access_key,
        "aws_secret_access_key": server.secret_key,
        "endpoint_url": server.http,
        "preset": server.preset,
    }


def allow_origin(server, bucket, origin):
    """Allow the pages of one origin to use the bucket, as the S3 guide describes."""
    rule = {
        "AllowedOrigins": [origin],
        "AllowedMethods": ["GET", "HEAD", "PUT", "POST"],
        "AllowedHeaders": ["*"],
        "ExposeHeaders": ["ETag", "Content-Range"],
        "MaxAgeSeconds": 300,
    }
    with closing(server.client()) as client:
        client.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})


@pytest.fixture(scope="module")
def running_s3_app(s3, tmp_path_factory):
    """The example application, with its files in a bucket."""
    storage = make_storage(s3, prefix="drop")
    directory = tmp_path_factory.mktemp("s3-app")
    settings = {"STORAGE_PROFILES": {"drop": profile(s3, storage.bucket)}}
    with LiveApp(directory, storage=storage, **settings) as app:
        allow_origin(s3, storage.bucket, app.url)
        yield app
        assert app.leftovers() == []  # nothing was stored on the local disk


@pytest.fixture
def s3_app(running_s3_app):
    """The running application without files."""
    running_s3_app.empty()
    return running_s3_app


@pytest.fixture
def page(open_browser, s3_app):
    """The page of the application in a browser."""
    page = open_browser()
    page.goto(s3_app.url)
    return page


def content_of(storage):
    """Return the content of the only file."""
    [entry] = storage.list()
    return storage.read(entry.name)


# -- the application --------------------------------------------------------------------------------------------------


def test_a_file_is_uploaded_to_the_bucket_with_progress(page, s3_app, s3, tmp_path):
    """The application signs the request and is notified afterwards; it never receives the content."""
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
    [entry] = s3_app.storage.list()
    assert s3_app.storage.read(entry.name) == content
    assert [method for method, url in sent if url.startswith(f"{s3.http}/{s3_app.storage.bucket}/drop/")] == ["PUT"]
    assert [url for method, url in sent if method == "POST"] == [f"{s3_app.url}/uploads", f"{s3_app.url}/uploads/done"]


@pytest.mark.parametrize("name", ["nothing.txt", "100% of #1 & a+b, it's Grüße 東京.bin"])
def test_files_of_any_name_and_size_are_uploaded(page, s3_app, name):
    """An empty file too: the browser sends exactly what was signed."""
    content = b"" if name == "nothing.txt" else b"content"

    page.set_input_files("#chooser", {"name": name, "mimeType": "text/html", "buffer": content})

    expect(page.locator("#files .row")).to_contain_text(name)
    [entry] = s3_app.storage.list()
    assert (entry.name.partition("/")[2], s3_app.storage.read(entry.name)) == (name, content)


def test_a_cancelled_upload_to_a_bucket_stores_nothing(page, s3_app, s3, tmp_path):
    """S3 discards the part of the content that it received."""
    film = tmp_path / "film.mov"
    film.write_bytes(bytes(20 * MiB))
    slow_down(page, 2 * MiB)
    page.set_input_files("#chooser", film)
    expect(page.get_by_role("progressbar", name="Progress of film.mov")).not_to_have_js_property("value", 0)

    page.get_by_role("button", name="Cancel film.mov").click()

    expect(page.get_by_text("film.mov was not stored")).to_be_visible()
    expect(page.locator("#uploads .row")).to_have_count(0)
    if s3.name != "localstack":  # which publishes what has arrived
        assert s3_app.storage.list() == []


def with_wrong_signature(payload, storage):
    """Return the payload with another signature."""
    return {**payload, "url": f"{payload['url']}0"}


def expired(payload, storage):
    """Return the payload with a link that was signed an hour ago for a minute."""
    now = datetime.now(UTC)
    presigner = S3Presigner(storage._gateway, storage._clients, clock=lambda: now.timestamp() - 3600)
    request = LinkRequest(
        operations=ShareLinkOperation.upload,
        expires_at=now - timedelta(minutes=59),
        content_type=payload["headers"]["Content-Type"],
    )
    return {**payload, "url": presigner.url(payload["path"], request)}


@pytest.mark.parametrize("change", [with_wrong_signature, expired])
def test_a_rejected_upload_is_reported_and_can_be_retried(page, s3_app, s3, complaints, change):
    """The message names the cause where scripts can read the response, and otherwise both possible causes."""

    def modify(route):
        response = route.fetch()
        route.fulfill(response=response, json=change(response.json(), s3_app.storage))

    for text in UNREADABLE:
        complaints.expect(text)
    page.route("**/uploads", modify)
    page.set_input_files("#chooser", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"again"})
    expect(page.locator("#uploads .row-meta")).to_have_text(
        "The permission to upload has expired. Try again."
        if s3.name == "localstack"  # which sends CORS headers when it refuses, unlike Ceph
        else "The connection was lost, or the storage refused the file. It was not stored. Try again."
    )
    assert s3_app.storage.list() == []
    page.unroute("**/uploads")

    page.get_by_role("button", name="Try a.txt again").click()

    expect(page.locator("#files .row")).to_contain_text("a.txt")
    assert content_of(s3_app.storage) == b"again"


def test_a_video_in_a_bucket_plays_from_the_middle(page, s3_app):
    """The content security policy allows it, and seeking requests a range from S3."""
    content = make_video(90)
    s3_app.storage.write("a/film.webm", content)
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


def test_files_in_a_bucket_are_shown_downloaded_and_deleted(page, complaints, s3_app):
    """Thumbnail and text are loaded from S3; a download has its name and every byte."""
    from PIL import Image

    complaints.expect(
        "Failed to load resource: the server responded with a status of 416"
    )  # an empty file has no range
    with s3_app.storage.open("a/teal.png", "w") as file:
        Image.new("RGB", (640, 480), "teal").save(file, "PNG")
    s3_app.storage.write("b/Grüße 東京.txt", "# Zoë".encode())
    s3_app.storage.write("c/empty.txt", b"")
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
    assert [entry.name for entry in s3_app.storage.list()] == ["a/teal.png", "b/Grüße 東京.txt"]


def test_a_shared_link_downloads_from_the_bucket(page, open_browser, s3_app, s3):
    """For the time in the dialog; for one download, which S3 cannot count, it leads to the app."""
    s3_app.storage.write("a/page.html", b"<script>alert(1)</script>")
    page.reload()
    link = share(page, "page.html", "10 minutes")
    other_browser = open_browser()

    with other_browser.expect_download() as downloading, pytest.raises(BrowserError, match="Download is starting"):
        other_browser.goto(link)

    assert link.startswith(s3.http)
    assert downloading.value.suggested_filename == "page.html"
    page.reload()
    assert share(page, "page.html", "1 download").startswith(s3_app.url)


def test_an_upload_without_scripts_is_stored_in_the_bucket(open_browser, s3_app):
    """Through the application, with the name of the file."""
    page = open_browser(java_script_enabled=False)
    page.goto(s3_app.url)

    page.set_input_files("#chooser", {"name": "plain.txt", "mimeType": "text/plain", "buffer": b"by form"})
    page.get_by_role("button", name="Upload").click()

    expect(page.locator("#files .row")).to_contain_text("plain.txt")
    assert content_of(s3_app.storage) == b"by form"


# -- custom scripts ---------------------------------------------------------------------------------------------------

PUT = """async ([url, type]) => {
    const file = new File(["content"], "a");
    const response = await fetch(url, { method: "PUT", headers: { "content-type": type }, body: file });
    return [response.status, response.headers.get("ETag")];
}"""


def test_a_plain_upload_link_accepts_a_fetch_request(page, s3_app):
    """The script needs nothing but the link."""
    link = s3_app.storage.link_to("in/a.txt", "upload", HOUR)

    status, etag = page.evaluate(PUT, [link, "application/octet-stream"])

    assert status == 200
    assert etag.strip('"') == s3_app.storage.stat("in/a.txt").etag
    assert s3_app.storage.read("in/a.txt") == b"content"


@pytest.mark.parametrize("content_type", ["text/html", "application/octet-stream; charset=utf-8"])
def test_a_link_rejects_another_content_type(page, complaints, s3_app, s3, content_type):
    """The type is signed; the script sees status 403, or a network error if the response has no CORS headers."""
    for text in UNREADABLE:
        complaints.expect(text)
    link = s3_app.storage.link_to("in/a.txt", "upload", HOUR)

    if s3.name == "localstack":
        assert page.evaluate(PUT, [link, content_type])[0] == 403
    else:
        with pytest.raises(BrowserError, match="Failed to fetch"):
            page.evaluate(PUT, [link, content_type])

    assert s3_app.storage.list() == []


POST = """async ([{ url, fields }, size]) => {
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    form.append("file", new File(["x".repeat(size)], "a"));
    return (await fetch(url, { method: "POST", body: form })).ok;
}"""


def test_a_form_enforces_its_size_limit(page, complaints, s3_app):
    """One byte more than the limit is rejected."""
    for text in (*UNREADABLE, "Failed to load resource: the server responded with a status of 400"):
        complaints.expect(text)
    form = s3_app.storage.create_upload_form("in/a.txt", HOUR, max_size=1000, content_type="text/plain")
    payload = {"url": form.url, "fields": dict(form.fields)}

    rejected = page.evaluate(f"(payload) => ({POST})(payload).catch(() => false)", [payload, 1001])
    stored_before = s3_app.storage.list()
    accepted = page.evaluate(POST, [payload, 1000])

    assert (rejected, stored_before, accepted) == (False, [], True)
    info = s3_app.storage.confirm_upload("in/a.txt", max_size=1000, content_type="text/plain")
    assert info.size == 1000


def test_a_page_sends_a_multipart_upload(page, s3_app):
    """Every step is a signed request; the script reads the ETag of each part, and sends them at completion."""
    storage = s3_app.storage

    def sign(step, upload_id=None, number=None, size=None):
        request = storage.multipart_request("in/large.bin", step, HOUR, upload_id=upload_id, number=number, size=size)
        return {"method": request.method, "url": request.url, "headers": dict(request.headers)}

    page.expose_function("sign", sign)

    page.evaluate(
        """async (sizes) => {
            const send = async ({ method, url, headers }, body) => {
                const response = await fetch(url, { method, headers, body });
                if (!response.ok) throw new Error(`${method}: ${response.status} ${await response.text()}`);
                return response;
            };
            const created = await (await send(await sign("create"))).text();
            const id = created.match(/<UploadId>(.*)<\\/UploadId>/)[1];
            let parts = "";
            for (const [index, size] of sizes.entries()) {
                const part = new Blob(["abc"[index].repeat(size)]);
                const response = await send(await sign("part", id, index + 1, size), part);
                const etag = response.headers.get("ETag");
                parts += `<Part><PartNumber>${index + 1}</PartNumber><ETag>${etag}</ETag></Part>`;
            }
            await send(await sign("complete", id), `<CompleteMultipartUpload>${parts}</CompleteMultipartUpload>`);
        }""",
        [5 * MiB, 5 * MiB, 10],
    )

    info = storage.confirm_upload("in/large.bin", size=10 * MiB + 10)
    assert info.size == 10 * MiB + 10
    assert storage.read("in/large.bin") == b"a" * 5 * MiB + b"b" * 5 * MiB + b"c" * 10
    assert list(storage.multipart.list_uploads()) == []

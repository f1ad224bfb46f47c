"""A browser and a bucket: files go straight from the page to the S3 server, which is another host to it, and back."""

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
"""What the browser says of an answer without CORS headers: Ceph sends none when it refuses."""


def profile(server, bucket):
    """The app's profile in the environment: nothing else says that there is an S3 server."""
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


def let_in(server, bucket, origin):
    """Allow the pages of one origin to use the bucket, as the S3 guide says."""
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
    """The example app, with files in a bucket."""
    storage = make_storage(s3, prefix="drop")
    folder = tmp_path_factory.mktemp("s3-app")
    settings = {"STORAGE_PROFILES": {"drop": profile(s3, storage.bucket)}}
    with LiveApp(folder, storage=storage, **settings) as app:
        let_in(s3, storage.bucket, app.url)
        yield app
        assert app.leftovers() == []  # nothing ever was on the disk


@pytest.fixture
def s3_app(running_s3_app):
    """The same with no files yet."""
    running_s3_app.empty()
    return running_s3_app


@pytest.fixture
def page(open_browser, s3_app):
    """The app's page in a browser."""
    page = open_browser()
    page.goto(s3_app.url)
    return page


def content_of(storage):
    """The content of the only file there is."""
    [entry] = storage.list()
    return storage.read(entry.name)


# -- the app ----------------------------------------------------------------------------------------------------------


def test_a_file_goes_straight_to_the_bucket_while_its_bar_moves(page, s3_app, s3, tmp_path):
    """The app is asked where to and told that it is done; the content itself it never sees."""
    content = os.urandom(MiB) * 40
    film = tmp_path / "holiday film.mov"
    film.write_bytes(content)
    sent = []
    page.on("request", lambda request: sent.append((request.method, request.url.partition("?")[0])))
    watch_bars(page)
    slow_down(page, 20 * MiB)  # a browser tells how far it is every 50 ms

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
def test_any_name_and_any_size_arrive(page, s3_app, name):
    """Nothing at all too: what is signed is what the browser sends."""
    content = b"" if name == "nothing.txt" else b"content"

    page.set_input_files("#chooser", {"name": name, "mimeType": "text/html", "buffer": content})

    expect(page.locator("#files .row")).to_contain_text(name)
    [entry] = s3_app.storage.list()
    assert (entry.name.partition("/")[2], s3_app.storage.read(entry.name)) == (name, content)


def test_an_upload_to_a_bucket_that_is_cancelled_leaves_nothing(page, s3_app, tmp_path):
    """S3 has received a part of it by then, and drops that."""
    film = tmp_path / "film.mov"
    film.write_bytes(bytes(20 * MiB))
    slow_down(page, 2 * MiB)
    page.set_input_files("#chooser", film)
    expect(page.get_by_role("progressbar", name="Progress of film.mov")).not_to_have_js_property("value", 0)

    page.get_by_role("button", name="Cancel film.mov").click()

    expect(page.get_by_text("Nothing of film.mov was stored")).to_be_visible()
    expect(page.locator("#uploads .row")).to_have_count(0)
    assert s3_app.storage.list() == []


def spoiled(instruction, storage):
    """The same with another signature."""
    return {**instruction, "url": f"{instruction['url']}0"}


def expired(instruction, storage):
    """The same, signed an hour ago for a minute."""
    now = datetime.now(UTC)
    late = S3Presigner(storage._gateway, storage._clients, clock=lambda: now.timestamp() - 3600)
    request = LinkRequest(
        operations=ShareLinkOperation.upload,
        expires_at=now - timedelta(minutes=59),
        content_type=instruction["headers"]["Content-Type"],
    )
    return {**instruction, "url": late.url(instruction["path"], request)}


@pytest.mark.parametrize("change", [spoiled, expired])
def test_a_refused_upload_is_told_and_can_be_tried_again(page, s3_app, complaints, change):
    """What the server says is hidden from scripts, so the row names both that it can be."""

    def spoil(route):
        answer = route.fetch()
        route.fulfill(response=answer, json=change(answer.json(), s3_app.storage))

    for text in UNREADABLE:
        complaints.expect(text)
    page.route("**/uploads", spoil)
    page.set_input_files("#chooser", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"again"})
    expect(page.locator("#uploads .row-meta")).to_have_text(
        "The connection broke, or the storage refused. Nothing was stored. Try again."
    )
    assert s3_app.storage.list() == []
    page.unroute("**/uploads")

    page.get_by_role("button", name="Try a.txt again").click()

    expect(page.locator("#files .row")).to_contain_text("a.txt")
    assert content_of(s3_app.storage) == b"again"


def test_a_film_in_a_bucket_plays_from_the_middle(page, s3_app):
    """The page's policy lets it in, and seeking fetches a range from S3."""
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


def test_what_lies_in_a_bucket_is_shown_saved_and_deleted(page, complaints, s3_app):
    """Thumbnail and text come from S3 into the page; a saved file has its name and every byte."""
    from PIL import Image

    complaints.expect("Failed to load resource: the server responded with a status of 416")  # no range of nothing
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


def test_a_shared_link_leads_a_stranger_to_the_bucket(page, open_browser, s3_app, s3):
    """For as long as the dialog says; a number of uses, which S3 cannot count, is not offered."""
    s3_app.storage.write("a/page.html", b"<script>alert(1)</script>")
    page.reload()
    link = share(page, "page.html", "10 minutes")
    stranger = open_browser()

    with stranger.expect_download() as downloading, pytest.raises(BrowserError, match="Download is starting"):
        stranger.goto(link)

    assert link.startswith(s3.http)
    assert downloading.value.suggested_filename == "page.html"
    expect(page.get_by_role("radio", name="1 download")).to_have_count(0)


def test_a_form_without_scripts_reaches_the_bucket(open_browser, s3_app):
    """Through the app, and the file keeps its name."""
    page = open_browser(java_script_enabled=False)
    page.goto(s3_app.url)

    page.set_input_files("#chooser", {"name": "plain.txt", "mimeType": "text/plain", "buffer": b"by form"})
    page.get_by_role("button", name="Upload").click()

    expect(page.locator("#files .row")).to_contain_text("plain.txt")
    assert content_of(s3_app.storage) == b"by form"


# -- scripts of one's own ---------------------------------------------------------------------------------------------

PUT = """async ([url, type]) => {
    const file = new File(["content"], "a");
    const answer = await fetch(url, { method: "PUT", headers: { "content-type": type }, body: file });
    return [answer.status, answer.headers.get("ETag")];
}"""


def test_a_plain_upload_link_takes_what_fetch_puts(page, s3_app):
    """The octets that every such script sends: nothing was agreed upon but the link."""
    link = s3_app.storage.link_to("in/a.txt", "upload", HOUR)

    status, etag = page.evaluate(PUT, [link, "application/octet-stream"])

    assert status == 200
    assert etag.strip('"') == s3_app.storage.stat("in/a.txt").etag
    assert s3_app.storage.read("in/a.txt") == b"content"


@pytest.mark.parametrize("content_type", ["text/html", "application/octet-stream; charset=utf-8"])
def test_a_link_refuses_another_content_type(page, complaints, s3_app, content_type):
    """The type is signed; the script sees a network error, as the refusal has no CORS headers."""
    for text in UNREADABLE:
        complaints.expect(text)
    link = s3_app.storage.link_to("in/a.txt", "upload", HOUR)

    with pytest.raises(BrowserError, match="Failed to fetch"):
        page.evaluate(PUT, [link, content_type])

    assert s3_app.storage.list() == []


POST = """async ([{ url, fields }, size]) => {
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    form.append("file", new File(["x".repeat(size)], "a"));
    return (await fetch(url, { method: "POST", body: form })).ok;
}"""


def test_a_form_is_held_to_its_limit(page, complaints, s3_app):
    """As many bytes as it allows arrive; one more is refused."""
    for text in (*UNREADABLE, "Failed to load resource: the server responded with a status of 400"):
        complaints.expect(text)
    form = s3_app.storage.create_upload_form("in/a.txt", HOUR, max_size=1000, content_type="text/plain")
    asked = {"url": form.url, "fields": dict(form.fields)}

    refused = page.evaluate(f"(asked) => ({POST})(asked).catch(() => false)", [asked, 1001])
    stored_then = s3_app.storage.list()
    taken = page.evaluate(POST, [asked, 1000])

    assert (refused, stored_then, taken) == (False, [], True)
    info = s3_app.storage.confirm_upload("in/a.txt", max_size=1000, content_type="text/plain")
    assert info.size == 1000


def test_a_page_uploads_in_parts(page, s3_app):
    """Every step is a signed request of its own; the script reads the ETag of each part, and names them at the end."""
    storage = s3_app.storage

    def sign(step, upload_id=None, number=None, size=None):
        made = storage.multipart_request("in/large.bin", step, HOUR, upload_id=upload_id, number=number, size=size)
        return {"method": made.method, "url": made.url, "headers": dict(made.headers)}

    page.expose_function("sign", sign)

    page.evaluate(
        """async (sizes) => {
            const send = async ({ method, url, headers }, body) => {
                const answer = await fetch(url, { method, headers, body });
                if (!answer.ok) throw new Error(`${method}: ${answer.status} ${await answer.text()}`);
                return answer;
            };
            const begun = await (await send(await sign("create"))).text();
            const id = begun.match(/<UploadId>(.*)<\\/UploadId>/)[1];
            let parts = "";
            for (const [index, size] of sizes.entries()) {
                const part = new Blob(["abc"[index].repeat(size)]);
                const answer = await send(await sign("part", id, index + 1, size), part);
                const etag = answer.headers.get("ETag");
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

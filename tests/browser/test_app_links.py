"""Links of the app to files on S3, in a page of another origin, and upload forms."""

import os
import threading
from datetime import timedelta
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import expect

from tests.browser.webm import make_video
from tests.services.web_servers import running
from tests.test_app_link_servers import s3_profile

pytest_plugins = ["tests.services.s3"]

HOUR = timedelta(hours=1)
PDF = (
    b"%PDF-1.1\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj "
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 300]>>endobj\ntrailer<</Root 1 0 R>>\n"
)


@pytest.fixture(scope="module")
def app(localstack, tmp_path_factory):
    """An app with files in a bucket, whose links are on another site than its pages."""
    directory = tmp_path_factory.mktemp("app")
    with running("gunicorn gthread", directory, s3_profile(localstack), FLASK_SERVER_NAME="www.example.com") as server:
        yield server


@pytest.fixture(scope="module")
def local_app(tmp_path_factory):
    """An app with files on local disk."""
    with running("gunicorn gthread", tmp_path_factory.mktemp("local_app")) as server:
        yield server


def link_to(app, path):
    """Return a link for several operations, which S3 cannot sign."""
    return app.storage.link_to(path, "dur", HOUR, disposition="inline", ip="127.0.0.0/8")


@pytest.fixture(scope="module")
def pages():
    """A server of another origin, and a list with the body of its only page."""
    bodies: list[str] = []

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            body = f"<!doctype html><link rel=icon href=data:,>{bodies[-1]}".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server, bodies
        server.shutdown()


@pytest.fixture
def show(open_browser, pages):
    """A function that opens a page with this body, and returns it with the URLs and statuses of its responses."""

    def show(body):
        page, responses = open_browser(), []
        server, bodies = pages
        bodies.append(body)
        page.on("response", lambda response: responses.append((response.url, response.status)))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        return page, responses

    return show


def test_an_image_is_shown(app, show):
    """The app sends it: a redirect to S3 would be blocked by policies of many pages."""
    from PIL import Image

    with app.storage.open("teal.png", "w") as file:
        Image.new("RGB", (64, 48), "teal").save(file, "PNG")
    link = link_to(app, "teal.png")

    page, responses = show(f'<img src="{link}">')

    expect(page.locator("img")).to_have_js_property("naturalWidth", 64)
    assert responses[1:] == [(link, 200)]


def test_a_pdf_is_shown(app, show):
    """In a frame, with its own type."""
    app.storage.write("contract.pdf", PDF)
    link = link_to(app, "contract.pdf")

    page, responses = show(f'<iframe src="{link}"></iframe>')

    assert page.locator("iframe").is_visible()
    assert responses[1] == (link, 200)  # a page has loaded when its frames have; the rest is the viewer


def test_a_video_plays_from_the_middle(app, show):
    """Seeking requests ranges of the app; the player never depends on a link that expires within a minute."""
    content = make_video(90)
    app.storage.write("film.webm", content)
    link = link_to(app, "film.webm")

    page, responses = show(f'<video src="{link}" preload="metadata" muted></video>')
    player = page.locator("video")
    expect(player).to_have_js_property("duration", 90)
    player.evaluate(
        """(player) => new Promise((resolve) => {
            player.addEventListener("seeked", resolve, { once: true });
            player.currentTime = 80;
        })"""
    )

    expect(player).to_have_js_property("currentTime", 80)
    assert len(responses) > 2
    assert set(responses[1:]) == {(link, 206)}


def test_a_clicked_link_is_downloaded_from_s3(app, show, localstack):
    """Under its name: the app redirects a navigation to S3."""
    app.storage.write("report.bin", b"content")
    link = app.storage.link_to("report.bin", "dr", HOUR, "Report.bin")
    page, _ = show(f'<a href="{link}">Report</a>')

    with page.expect_download() as downloading:
        page.get_by_text("Report").click()

    assert downloading.value.suggested_filename == "Report.bin"
    assert downloading.value.path().read_bytes() == b"content"
    assert downloading.value.url.startswith(f"{localstack.http}/")


FORM = """<form method="post" action="{url}" enctype="multipart/form-data">{fields}
<input type="file" name="file"><button>Upload</button></form>"""


@pytest.mark.parametrize("kind", ["s3", "local"])
def test_a_form_without_scripts_is_stored_and_redirects(kind, request, open_browser, pages, complaints):
    """The same template on S3, which has forms, and on local disk, where the form is one of the app."""
    storage = request.getfixturevalue("app" if kind == "s3" else "local_app").storage
    server, bodies = pages
    origin = f"http://127.0.0.1:{server.server_port}"
    form = storage.create_upload_form(
        "in/a.bin", HOUR, max_size=100_000, content_type="image/png", redirect_to=f"{origin}/done"
    )
    fields = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(text)}">' for name, text in form.fields.items()
    )
    bodies.append(FORM.format(url=escape(form.url), fields=fields))
    page = open_browser(java_script_enabled=False)
    content = os.urandom(100_000)
    complaints.expect("Failed to load resource: the server responded with a status of 4")

    page.goto(origin)
    page.set_input_files("[name=file]", {"name": "large.png", "mimeType": "image/png", "buffer": content + b"x"})
    with page.expect_response(lambda response: response.request.method == "POST") as refused:
        page.get_by_text("Upload").click()
    stored_before = storage.exists("in/a.bin")
    page.goto(origin)
    page.set_input_files("[name=file]", {"name": "photo.html", "mimeType": "text/html", "buffer": content})
    page.get_by_text("Upload").click()
    page.wait_for_url(f"{origin}/done**")

    assert (refused.value.status in (400, 413), stored_before) == (True, False)
    assert storage.read("in/a.bin") == content
    assert storage.confirm_upload("in/a.bin", max_size=100_000, content_type="image/png").path == "in/a.bin"

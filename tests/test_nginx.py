"""Files that nginx sends for the link view (X-Accel-Redirect)."""

import http.client
import random
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from tests.services import nginx
from tests.services.web_servers import running

HOUR = timedelta(hours=1)
BODY = random.Random(5).randbytes(300_000)
NAMES = ["plain.txt", "a directory/with space.pdf", "ünï/日本語 😀.txt", "100% + #1?&.txt", "quo\"te's.txt", "x" * 255]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of nginx, which is in front of the app under gunicorn."""
    directory = tmp_path_factory.mktemp("nginx")
    accel = '{"docs": "/_docs/"}'
    with (
        running("gunicorn gthread", directory, FLASK_STORAGE_X_ACCEL_REDIRECT=accel) as server,
        nginx.in_front_of(server.port, server.root, directory / "nginx") as address,
    ):
        yield NginxClient(server, address)


class NginxClient:
    """Sends requests to nginx, or directly to the app."""

    def __init__(self, server, address):
        self.storage = server.storage
        self._app_port = server.port
        self._port = urlsplit(address).port

    def request(self, url, method="GET", headers=None, body=None, *, directly=False):
        """Return status, headers and body of the response."""
        target = urlsplit(url)
        connection = http.client.HTTPConnection("127.0.0.1", self._app_port if directly else self._port, timeout=20)
        connection.request(method, f"{target.path}?{target.query}", body, headers or {})
        response = connection.getresponse()
        result = response.status, response.headers, response.read()
        connection.close()
        return result


@pytest.mark.parametrize("name", NAMES)
def test_nginx_sends_files_with_unusual_names(client, name):
    """The app's response has the header and no body; the path is encoded as nginx decodes it."""
    client.storage.write(name, BODY)
    link = client.storage.link_to(name, "download", HOUR, output_path="r.txt", content_type="text/plain")

    status, headers, body = client.request(link)
    _, app_headers, app_body = client.request(link, directly=True)

    assert (status, body) == (200, BODY)
    assert headers["X-Accel-Redirect"] is None
    assert headers["Content-Type"].startswith("text/plain")
    for name_of_header in ("X-Content-Type-Options", "Content-Security-Policy", "Referrer-Policy", "Cache-Control"):
        assert headers[name_of_header] == app_headers[name_of_header] != ""
    assert "r.txt" in headers["Content-Disposition"]
    assert app_headers["X-Accel-Redirect"].startswith("/_docs/")
    assert app_body == b""


def test_nginx_handles_ranges_and_conditions(client):
    """With its own ETag."""
    client.storage.write("range.txt", BODY)
    link = client.storage.link_to("range.txt", "download", HOUR)

    status, headers, body = client.request(link, headers={"Range": "bytes=1000-1999"})
    not_modified = client.request(link, headers={"If-None-Match": headers["ETag"]})

    assert (status, body) == (206, BODY[1000:2000])
    assert (not_modified[0], not_modified[2]) == (304, b"")


def test_head_through_nginx_has_the_length(client):
    """And no body."""
    client.storage.write("head.txt", BODY)

    status, headers, body = client.request(client.storage.link_to("head.txt", "download", HOUR), "HEAD")

    assert (status, headers["Content-Length"], body) == (200, str(len(BODY)), b"")


def test_the_internal_location_is_not_accessible_from_outside(client):
    """Only a response of the app can redirect to it."""
    client.storage.write("secret.txt", BODY)

    assert client.request("http://x/_docs/secret.txt")[0] == 404


def test_the_app_reports_missing_files_and_invalid_links(client):
    """404 and 403, as without nginx."""
    missing = client.storage.link_to("missing.txt", "download", HOUR)

    assert client.request(missing)[0] == 404
    assert client.request(missing[:-5] + "AAAAA")[0] == 403


def test_an_upload_streams_through_nginx(client):
    """Without a buffer (`proxy_request_buffering off`)."""
    link = client.storage.link_to("up.bin", "upload", HOUR)

    status, _, _ = client.request(link, "PUT", body=BODY)

    assert status == 200
    assert client.storage.read("up.bin") == BODY


def test_a_single_use_link_works_once_through_nginx(client):
    """The second request is refused by the app."""
    client.storage.write("once.txt", BODY)
    link = client.storage.link_to("once.txt", "download", HOUR, uses=1)

    assert client.request(link)[2] == BODY
    assert client.request(link)[0] == 403

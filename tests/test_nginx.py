"""Files that a real nginx sends when the link view says so."""

import http.client
import random
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from tests.services import nginx
from tests.services.web_servers import running

HOUR = timedelta(hours=1)
BODY = random.Random(5).randbytes(300_000)
NAMES = ["plain.txt", "a folder/with space.pdf", "ünï/日本語 😀.txt", "100% + #1?&.txt", "quo\"te's.txt", "x" * 255]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The app under gunicorn with nginx before it, and an `ask` that goes through nginx."""
    folder = tmp_path_factory.mktemp("nginx")
    accel = '{"docs": "/_docs/"}'
    with (
        running("gunicorn gthread", folder, FLASK_STORAGE_X_ACCEL_REDIRECT=accel) as server,
        nginx.in_front_of(server.port, server.root, folder / "nginx") as address,
    ):
        yield Place(server, address)


class Place:
    """What the tests talk to."""

    def __init__(self, server, address):
        self.storage = server.storage
        self._app_port = server.port
        self._port = urlsplit(address).port

    def ask(self, url, method="GET", headers=None, body=None, *, directly=False):
        """The answer to a request: status, headers, body."""
        target = urlsplit(url)
        client = http.client.HTTPConnection("127.0.0.1", self._app_port if directly else self._port, timeout=20)
        client.request(method, f"{target.path}?{target.query}", body, headers or {})
        response = client.getresponse()
        answer = response.status, response.headers, response.read()
        client.close()
        return answer


@pytest.mark.parametrize("name", NAMES)
def test_nginx_sends_the_file_under_whatever_name(place, name):
    """The app's answer has the header and no body; the path is encoded as nginx decodes it."""
    place.storage.write(name, BODY)
    link = place.storage.link_to(name, "download", HOUR, output_path="r.txt", content_type="text/plain")

    status, headers, body = place.ask(link)
    _, of_the_app, nothing = place.ask(link, directly=True)

    assert (status, body) == (200, BODY)
    assert headers["X-Accel-Redirect"] is None
    assert headers["Content-Type"].startswith("text/plain")
    for kept in ("X-Content-Type-Options", "Content-Security-Policy", "Referrer-Policy", "Cache-Control"):
        assert headers[kept] == of_the_app[kept] != ""
    assert "r.txt" in headers["Content-Disposition"]
    assert of_the_app["X-Accel-Redirect"].startswith("/_docs/")
    assert nothing == b""


def test_nginx_answers_ranges_and_conditions(place):
    """With validators of its own."""
    place.storage.write("range.txt", BODY)
    link = place.storage.link_to("range.txt", "download", HOUR)

    status, headers, body = place.ask(link, headers={"Range": "bytes=1000-1999"})
    again = place.ask(link, headers={"If-None-Match": headers["ETag"]})

    assert (status, body) == (206, BODY[1000:2000])
    assert (again[0], again[2]) == (304, b"")


def test_head_through_nginx_says_the_length(place):
    """And sends nothing."""
    place.storage.write("head.txt", BODY)

    status, headers, body = place.ask(place.storage.link_to("head.txt", "download", HOUR), "HEAD")

    assert (status, headers["Content-Length"], body) == (200, str(len(BODY)), b"")


def test_the_internal_location_is_closed_to_everybody_else(place):
    """Only an answer of the app opens it."""
    place.storage.write("secret.txt", BODY)

    assert place.ask("http://x/_docs/secret.txt")[0] == 404


def test_a_missing_file_and_a_bad_link_are_the_apps_to_answer(place):
    """404 and 403, as without nginx."""
    missing = place.storage.link_to("missing.txt", "download", HOUR)

    assert place.ask(missing)[0] == 404
    assert place.ask(missing[:-5] + "AAAAA")[0] == 403


def test_an_upload_streams_through_nginx(place):
    """Nginx keeps no copy of its own (`proxy_request_buffering off`)."""
    link = place.storage.link_to("up.bin", "upload", HOUR)

    status, _, _ = place.ask(link, "PUT", body=BODY)

    assert status == 200
    assert place.storage.read("up.bin") == BODY


def test_a_single_use_link_is_used_once_through_nginx_too(place):
    """The second time there is nothing to hand over."""
    place.storage.write("once.txt", BODY)
    link = place.storage.link_to("once.txt", "download", HOUR, uses=1)

    assert place.ask(link)[2] == BODY
    assert place.ask(link)[0] == 403

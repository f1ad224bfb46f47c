"""Links of the app on services that sign their own: two gunicorn workers, behind a proxy, and real services."""

import hashlib
import threading
from datetime import timedelta

import pytest

from tests.plain_client import follow, send
from tests.services.web_servers import running

pytest_plugins = ["tests.services.s3", "tests.services.azurite"]

HOUR = timedelta(hours=1)
BODY = bytes(range(256)) * 40
NETWORK = "203.0.113.0/24"
INSIDE, OUTSIDE = {"X-Forwarded-For": "203.0.113.7"}, {"X-Forwarded-For": "198.51.100.1"}


def s3_profile(server):
    """Return a profile with a new bucket."""
    return {
        "backend": "s3",
        "bucket": server.make_bucket(),
        "aws_region": server.region,
        "aws_access_key_id": server.access_key,
        "aws_secret_access_key": server.secret_key,
        "endpoint_url": server.http,
        "preset": server.preset,
        "addressing_style": "path",
    }


def azure_profile(server):
    """Return a profile with a new container."""
    return {
        "backend": "azure",
        "bucket": server.make_container(),
        "account": server.account,
        "key": server.key,
        "endpoint_url": server.url,
    }


@pytest.fixture(scope="module")
def s3_app(localstack, tmp_path_factory):
    """Two workers with files in a bucket."""
    with running("gunicorn sync", tmp_path_factory.mktemp("s3"), s3_profile(localstack)) as server:
        yield server


@pytest.fixture(scope="module")
def azure_app(azurite, tmp_path_factory):
    """Two workers with files in a container."""
    with running("gunicorn sync", tmp_path_factory.mktemp("azure"), azure_profile(azurite)) as server:
        yield server


@pytest.fixture(params=["s3_app", "azure_app"])
def server(request):
    """Each of them."""
    return request.getfixturevalue(request.param)


def test_a_single_use_link_serves_one_of_fifty_simultaneous_requests(server):
    """Over both workers; HEAD before it uses nothing up."""
    server.storage.write("a.bin", BODY)
    link = server.storage.link_to("a.bin", "download", HOUR, uses=1)
    head = send(link, "HEAD")
    barrier, responses = threading.Barrier(50), []

    def download():
        barrier.wait()
        responses.append(send(link, "GET"))

    threads = [threading.Thread(target=download) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert link.startswith(server.address)
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(BODY)))
    assert sorted(response.status for response in responses) == [200] + [403] * 49
    assert [response.body for response in responses if response.status == 200] == [BODY]


def test_an_upload_over_its_limit_is_refused_and_stores_nothing(server):
    """413; the link is used up by the upload that fits, and replaces nothing."""
    upload = server.storage.upload_request("b.bin", HOUR, max_size=len(BODY), exclusive=True, uses=1)

    too_large = follow(upload, BODY + b"x")
    stored_before = server.storage.exists("b.bin")
    fitting, again = follow(upload, BODY), follow(upload, BODY)

    assert (too_large.status, stored_before, fitting.status, again.status) == (413, False, 200, 403)
    assert server.storage.confirm_upload("b.bin", max_size=len(BODY)).size == len(BODY)
    assert server.storage.read("b.bin") == BODY


def test_one_form_of_a_page_is_stored_on_every_service(server):
    """S3 has forms, Azure has none: both enforce size and type, and redirect to the page of the application."""
    done = f"{server.address}/done"
    form = server.storage.create_upload_form(
        "form.png", HOUR, min_size=1, max_size=len(BODY), content_type="image/png", redirect_to=done
    )

    statuses = [follow(form, body).status for body in (b"", BODY + b"x")]
    statuses += [follow(form, BODY, Content_Type="text/html").status, follow(form, BODY, key="other").status]
    stored_before = server.storage.exists("form.png")
    response = follow(form, BODY)

    is_native = "max_size" in server.storage.capabilities.upload_constraints
    assert form.url.startswith(server.address) is not is_native
    assert all(status in (400, 403, 413) for status in statuses)
    assert (stored_before, response.status, response.headers["Location"].startswith(done)) == (False, 303, True)
    assert server.storage.confirm_upload("form.png", max_size=len(BODY), content_type="image/png").size == len(BODY)
    assert server.storage.read("form.png") == BODY


def test_the_same_constraints_of_an_upload_hold_on_every_service(server):
    """Size, type, checksum and `exclusive` of one upload, by the service or by the app."""
    terms = {"size": len(BODY), "content_type": "image/png", "checksum": f"sha256:{hashlib.sha256(BODY).hexdigest()}"}
    upload = server.storage.upload_request("c.png", HOUR, exclusive=True, **terms)

    statuses = [follow(upload, body).status for body in (BODY[:-1], BODY[::-1], BODY, BODY)]

    assert statuses[:2] in ([400, 400], [403, 400])
    assert (statuses[2], statuses[3] in (409, 412)) == (200, True)
    assert server.storage.confirm_upload("c.png", **terms).content_type == "image/png"


def test_a_link_for_one_network_is_refused_elsewhere(server):
    """The address is that of the client of the proxy, not that of the proxy."""
    server.storage.write("d.txt", b"content")
    link = server.storage.link_to("d.txt", "download", HOUR, ip=NETWORK, uses=5)
    upload = server.storage.upload_request("e.txt", HOUR, ip=NETWORK, uses=5)

    statuses = [send(link, "GET", headers).status for headers in (OUTSIDE, {}, INSIDE)]
    uploads = [send(upload.url, "PUT", headers, b"content").status for headers in (OUTSIDE, {}, INSIDE)]

    assert statuses == uploads == [403, 403, 200]
    assert server.storage.read("e.txt") == b"content"


def test_a_link_with_several_operations_works_on_s3(s3_app):
    """A plain download is redirected to S3; what a page embeds, HEAD, uploads and removals are the app's."""
    s3_app.storage.delete("f.txt")
    link = s3_app.storage.link_to("f.txt", "dur", HOUR, "Name.txt", ip=NETWORK)

    put = send(link, "PUT", INSIDE, b"content")
    outside, redirect = send(link, "GET", OUTSIDE), send(link, "GET", INSIDE)
    followed = send(redirect.headers["Location"], "GET")
    part = send(link, "GET", {**INSIDE, "Range": "bytes=1-3"})
    image = send(link, "GET", {**INSIDE, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"})
    head = send(link, "HEAD", INSIDE)
    removed, gone = send(link, "DELETE", INSIDE), send(link, "HEAD", INSIDE)

    assert (put.status, outside.status, redirect.status) == (200, 403, 302)
    assert (followed.status, followed.body) == (200, b"content")
    assert followed.headers["Content-Disposition"] == 'attachment; filename="Name.txt"'
    assert (part.status, part.body, image.status, image.body) == (206, b"ont", 200, b"content")
    assert (head.status, head.headers["Content-Length"]) == (200, "7")
    assert (removed.status, gone.status) == (200, 404)

"""Links with a usage limit: concurrent requests never exceed it."""

import hashlib
import threading
from datetime import UTC, datetime

import pytest

from flask_storage import errors
from flask_storage.signals import file_stored
from tests.test_link_view import CONTENT, Breaking, app, client, docs, forge, link, make_app, put

__all__ = ["app", "client", "docs", "link"]  # fixtures


@pytest.fixture
def uses(app):
    """The app's usage store."""
    return app.extensions["storage"].link_usage


def statuses(client, url, *methods, **options):
    """Return the status of each method, one after another."""
    return [client.open(url, method=method, **options).status_code for method in methods]


@pytest.mark.parametrize(
    ("operation", "method", "options"),
    [("download", "GET", {}), ("upload", "PUT", {"data": b"new"}), ("remove", "DELETE", {})],
)
def test_fifty_concurrent_requests_use_a_single_use_link_once(app, link, operation, method, options):
    """In each of twenty rounds exactly one succeeds."""
    profile, threads = "disk", 50
    disk = app.extensions["storage"][profile]

    for round_number in range(20):
        disk.write(f"{round_number}", CONTENT)
        url = link(operation, f"{round_number}", profile=profile, uses=1)
        start = threading.Barrier(threads)
        statuses_seen: list[int] = []

        def send_request(url=url, start=start, statuses_seen=statuses_seen):
            client = app.test_client()
            start.wait()
            statuses_seen.append(client.open(url, method=method, **options).status_code)

        workers = [threading.Thread(target=send_request) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

        assert sorted(statuses_seen) == [200] + [403] * (threads - 1)


def test_a_limited_link_works_as_often_as_its_limit_allows(client, link):
    """Downloads, uploads and a deletion are counted together."""
    url = link("dur", uses=3)

    assert statuses(client, url, "GET", "PUT", "DELETE", "GET", "PUT", data=b"x") == [200, 200, 200, 403, 403]


def test_two_single_use_links_to_one_file_are_counted_separately(client, link):
    """Each has its own id."""
    first, second = link("download", uses=1), link("download", uses=1)

    assert statuses(client, first, "GET", "GET") == [200, 403]
    assert statuses(client, second, "GET", "GET") == [200, 403]


def test_workers_with_the_same_instance_folder_share_the_counters(tmp_path, link, client):
    """Another app object stands for another process."""
    url = link("download", uses=1)
    assert client.get(url).status_code == 200

    other = make_app(tmp_path)

    assert other.test_client().get(url).status_code == 403


def test_a_limited_download_supports_no_ranges_and_is_not_cached(client, link):
    """Each download of the whole file is counted."""
    url = link("download", uses=1, cache_control="public, max-age=60")

    response = client.get(url, headers={"Range": "bytes=0-1"})

    assert (response.status_code, response.data) == (200, CONTENT)
    assert response.headers["Accept-Ranges"] == "none"
    assert response.headers["Cache-Control"] == "no-store"


def test_requests_without_content_take_no_use(client, link):
    """HEAD, a refusal and a 304; HEAD of an exhausted link is refused too."""
    url = link("download", uses=1)

    assert statuses(client, url, "HEAD", "HEAD", "PUT", "DELETE") == [200, 200, 403, 403]
    assert client.get(url, headers={"If-None-Match": "*"}).status_code == 304
    assert client.get(url, headers={"If-Match": '"x"'}).status_code == 412
    assert statuses(client, url, "GET", "HEAD", "GET") == [200, 403, 403]


def test_a_download_of_a_missing_file_takes_no_use(client, docs, link):
    """A link may be created before its file exists."""
    url = link("download", "later", uses=1)

    assert client.get(url).status_code == 404
    docs.write("later", CONTENT)
    assert statuses(client, url, "GET", "GET") == [200, 403]


def test_a_rejected_upload_takes_no_use(app, client, docs, link):
    """After a truncated body, a form or a wrong size the client can try again."""
    url = link("upload", uses=1, max_size=10)

    assert put(app, url, Breaking(b"half"), CONTENT_LENGTH="10")[0] == 400
    assert client.put(url, data=b"x" * 11).status_code == 413
    assert client.put(url, data=b"x", content_type="multipart/form-data").status_code == 415
    assert statuses(client, url, "PUT", "PUT", data=b"new") == [200, 403]
    assert docs.read("a/file.txt") == b"new"


def test_an_exhausted_link_is_refused_before_the_body_is_read(app, link):
    """The client need not send a large body first."""
    url = link("upload", uses=1)
    body = Breaking(b"new")
    put(app, url, Breaking(b"old"), CONTENT_LENGTH="3")

    status, _ = put(app, url, body, CONTENT_LENGTH="3")

    assert status == 403
    assert body.read() == b"new"


@pytest.mark.parametrize(
    ("operation_name", "error", "status"),
    [
        ("store", errors.StorageFullError("full"), 507),
        ("store", errors.FileExistsInStorageError("taken"), 409),
        ("store", errors.IntegrityError("other bytes"), 400),
    ],
)
def test_an_upload_that_could_not_be_stored_releases_its_use(client, docs, link, operation_name, error, status):
    """The storage failed after the last byte."""
    url = link("upload", uses=1)
    docs.fails = {operation_name: error}
    assert client.put(url, data=b"new").status_code == status

    docs.fails = {}

    assert statuses(client, url, "PUT", "PUT", data=b"new") == [200, 403]


def test_a_failing_signal_receiver_releases_no_use(client, docs, link):
    """The file is stored already."""
    url = link("upload", uses=1)

    def fail(storage, path):
        raise FileNotFoundError("the listener's own trouble")

    with file_stored.connected_to(fail), pytest.raises(FileNotFoundError):
        client.put(url, data=b"new")

    assert docs.read("a/file.txt") == b"new"
    assert client.put(url, data=b"newer").status_code == 403


def test_a_wrong_checksum_releases_the_use(client, link):
    """The client can send the right content next."""
    url = link("upload", uses=1, checksum="sha256:" + hashlib.sha256(b"right").hexdigest())

    assert client.put(url, data=b"wrong").status_code == 400
    assert client.put(url, data=b"right").status_code == 200
    assert client.put(url, data=b"right").status_code == 403


def test_a_failed_deletion_releases_its_use(client, docs, link):
    """The same link can delete the file later."""
    url = link("remove", uses=1)
    docs.fails = {"delete": errors.StorageUnavailableError("away")}
    assert client.delete(url).status_code == 503

    docs.fails = {}

    assert statuses(client, url, "DELETE", "DELETE") == [200, 403]


def test_a_failure_of_an_unlimited_link_releases_nothing(client, docs, link, uses, monkeypatch):
    """The usage store is not called for links without a limit."""
    monkeypatch.setattr(type(uses), "release", _forbidden)
    monkeypatch.setattr(type(uses), "consume", _forbidden)
    monkeypatch.setattr(type(uses), "is_exhausted", _forbidden)
    docs.fails = {"delete": errors.StorageUnavailableError("away")}

    assert client.delete(link("remove")).status_code == 503
    assert statuses(client, link("du"), "GET", "HEAD", "PUT", data=b"x") == [200, 200, 200]


def _forbidden(*args):
    raise AssertionError("the store of used links was asked")


@pytest.mark.parametrize("call", ["is_exhausted", "consume"])
@pytest.mark.parametrize(("method", "operation"), [("GET", "d"), ("PUT", "u"), ("DELETE", "r")])
def test_a_limited_link_is_refused_when_the_usage_store_is_unavailable(
    app, client, docs, link, uses, monkeypatch, method, operation, call
):
    """503, and nothing is changed."""
    url = link(operation, uses=1)
    with monkeypatch.context() as patch:
        patch.setattr(type(uses), call, _unavailable)  # no shipped store can be made to fail at will

        response = client.open(url, method=method, data=b"new")

    assert response.status_code == 503
    assert docs.read("a/file.txt") == CONTENT
    assert client.open(url, method=method, data=b"new").status_code == 200


def _unavailable(*args):
    raise errors.StorageUnavailableError("the store of used links cannot be reached")


def test_a_refused_download_closes_the_file(app, client, docs, link, uses, monkeypatch):
    """Another request took the last use after this one opened the file."""
    url, readers, open_reader = link("download", uses=1), [], docs._open_reader
    monkeypatch.setattr(type(uses), "is_exhausted", lambda *args: False)

    def recording_open_reader(path):
        readers.append(open_reader(path))
        return readers[-1]

    monkeypatch.setattr(docs, "_open_reader", recording_open_reader)

    assert statuses(client, url, "GET", "GET") == [200, 403]
    assert readers[1].closed


def test_a_limited_token_without_an_id_grants_nothing(client):
    """Its uses cannot be counted."""
    assert client.get(f"/storage/docs?token={forge(use=1)}").status_code == 403
    assert client.get(f"/storage/docs?token={forge(use=1, jti='an id')}").status_code == 200
    assert client.get(f"/storage/docs?token={forge(use=1, jti='an id')}").status_code == 403


def test_an_expired_limited_link_is_refused(client):
    """Although uses are left."""
    past = int(datetime.now(UTC).timestamp()) - 10

    assert client.get(f"/storage/docs?token={forge(use=5, jti='x', exp=past)}").status_code == 403

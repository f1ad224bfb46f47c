"""Links that work once, or a few times: no request more is honoured, however many come at once."""

import hashlib
import threading
from datetime import UTC, datetime

import pytest

from flask_storage import errors
from flask_storage.signals import file_stored
from tests.test_views import CONTENT, Breaking, app, client, docs, forge, link, make_app, put

__all__ = ["app", "client", "docs", "link"]  # fixtures


@pytest.fixture
def uses(app):
    """The app's store of used links."""
    return app.extensions["storage"].link_usage


def statuses(client, url, *methods, **options):
    """Return the status of each method, one after another."""
    return [client.open(url, method=method, **options).status_code for method in methods]


@pytest.mark.parametrize(
    ("operation", "method", "options"),
    [("download", "GET", {}), ("upload", "PUT", {"data": b"new"}), ("remove", "DELETE", {})],
)
def test_a_single_use_link_hit_by_fifty_threads_works_once(app, link, operation, method, options):
    """Twenty rounds of fifty threads that start together: each round has exactly one success."""
    profile, threads = "disk", 50
    disk = app.extensions["storage"][profile]

    for round_number in range(20):
        disk.write(f"{round_number}", CONTENT)
        url = link(operation, f"{round_number}", profile=profile, uses=1)
        start = threading.Barrier(threads)
        found: list[int] = []

        def hit(url=url, start=start, found=found):
            client = app.test_client()
            start.wait()
            found.append(client.open(url, method=method, **options).status_code)

        workers = [threading.Thread(target=hit) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

        assert sorted(found) == [200] + [403] * (threads - 1)


def test_a_counted_link_works_so_many_times(client, link):
    """Downloads, uploads and a removal draw on the same number."""
    url = link("dur", uses=3)

    assert statuses(client, url, "GET", "PUT", "DELETE", "GET", "PUT", data=b"x") == [200, 200, 200, 403, 403]


def test_two_single_use_links_for_one_file_are_two(client, link):
    """Each link has an identity of its own."""
    first, second = link("download", uses=1), link("download", uses=1)

    assert statuses(client, first, "GET", "GET") == [200, 403]
    assert statuses(client, second, "GET", "GET") == [200, 403]


def test_workers_with_the_same_instance_folder_share_the_count(tmp_path, link, client):
    """Another process of the app (here: another app on the same folder) knows which links are used up."""
    url = link("download", uses=1)
    assert client.get(url).status_code == 200

    other = make_app(tmp_path)

    assert other.test_client().get(url).status_code == 403


def test_a_counted_download_takes_no_ranges_and_is_kept_nowhere(client, link):
    """It is all or nothing, and no cache keeps a copy for later."""
    url = link("download", uses=1, cache_control="public, max-age=60")

    response = client.get(url, headers={"Range": "bytes=0-1"})

    assert (response.status_code, response.data) == (200, CONTENT)
    assert response.headers["Accept-Ranges"] == "none"
    assert response.headers["Cache-Control"] == "no-store"


def test_looking_uses_nothing_up(client, link):
    """HEAD, a refusal and a 304 leave the link as it was; HEAD of a used-up link says so."""
    url = link("download", uses=1)

    assert statuses(client, url, "HEAD", "HEAD", "PUT", "DELETE") == [200, 200, 403, 403]
    assert client.get(url, headers={"If-None-Match": "*"}).status_code == 304
    assert client.get(url, headers={"If-Match": '"x"'}).status_code == 412
    assert statuses(client, url, "GET", "HEAD", "GET") == [200, 403, 403]


def test_a_download_of_nothing_uses_nothing_up(client, docs, link):
    """A link may be given away before its file exists."""
    url = link("download", "later", uses=1)

    assert client.get(url).status_code == 404
    docs.write("later", CONTENT)
    assert statuses(client, url, "GET", "GET") == [200, 403]


def test_an_upload_is_used_up_when_it_is_published(app, client, docs, link):
    """A cut body, a wrong type, a wrong size: the client may try again."""
    url = link("upload", uses=1, max_size=10)

    assert put(app, url, Breaking(b"half"), CONTENT_LENGTH="10")[0] == 400
    assert client.put(url, data=b"x" * 11).status_code == 413
    assert client.put(url, data=b"x", content_type="multipart/form-data").status_code == 415
    assert statuses(client, url, "PUT", "PUT", data=b"new") == [200, 403]
    assert docs.read("a/file.txt") == b"new"


def test_a_used_up_link_is_refused_before_the_body_is_read(app, link):
    """Nobody sends a gigabyte to hear that it was for nothing."""
    url = link("upload", uses=1)
    body = Breaking(b"new")
    put(app, url, Breaking(b"old"), CONTENT_LENGTH="3")

    status, _ = put(app, url, body, CONTENT_LENGTH="3")

    assert status == 403
    assert body.read() == b"new"


@pytest.mark.parametrize(
    ("verb", "error", "status"),
    [
        ("publish", errors.StorageFullError("full"), 507),
        ("publish", errors.FileExistsInStorageError("taken"), 409),
        ("publish", errors.IntegrityError("other bytes"), 400),
    ],
)
def test_an_upload_that_could_not_be_published_gives_its_use_back(client, docs, link, verb, error, status):
    """The storage failed after the last byte: the link works again."""
    url = link("upload", uses=1)
    docs.fails = {verb: error}
    assert client.put(url, data=b"new").status_code == status

    docs.fails = {}

    assert statuses(client, url, "PUT", "PUT", data=b"new") == [200, 403]


def test_a_listener_that_fails_gives_no_use_back(client, docs, link):
    """When it hears of the upload the file is published, so the link is used up."""
    url = link("upload", uses=1)

    def fail(storage, path):
        raise FileNotFoundError("the listener's own trouble")

    with file_stored.connected_to(fail), pytest.raises(FileNotFoundError):
        client.put(url, data=b"new")

    assert docs.read("a/file.txt") == b"new"
    assert client.put(url, data=b"newer").status_code == 403


def test_a_wrong_checksum_gives_the_use_back(client, link):
    """The client may send the right bytes next."""
    url = link("upload", uses=1, checksum="sha256:" + hashlib.sha256(b"right").hexdigest())

    assert client.put(url, data=b"wrong").status_code == 400
    assert client.put(url, data=b"right").status_code == 200
    assert client.put(url, data=b"right").status_code == 403


def test_a_failed_removal_gives_its_use_back(client, docs, link):
    """What was not deleted can be deleted later with the same link."""
    url = link("remove", uses=1)
    docs.fails = {"delete": errors.StorageUnavailableError("away")}
    assert client.delete(url).status_code == 503

    docs.fails = {}

    assert statuses(client, url, "DELETE", "DELETE") == [200, 403]


def test_a_failure_of_an_uncounted_link_gives_nothing_back(client, docs, link, uses, monkeypatch):
    """The store of used links is not asked about links that are not counted."""
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
def test_without_the_store_no_counted_link_is_honoured(
    app, client, docs, link, uses, monkeypatch, method, operation, call
):
    """When nobody can say whether a link was used, it is not: 503, and nothing happened."""
    url = link(operation, uses=1)
    with monkeypatch.context() as patch:
        patch.setattr(type(uses), call, _away)  # no shipped store can be made to fail at will

        response = client.open(url, method=method, data=b"new")

    assert response.status_code == 503
    assert docs.read("a/file.txt") == CONTENT
    assert client.open(url, method=method, data=b"new").status_code == 200


def _away(*args):
    raise errors.StorageUnavailableError("the store of used links cannot be reached")


def test_a_refused_download_closes_the_file(app, client, docs, link, uses, monkeypatch):
    """Another request took the last use between opening and sending: the reader is closed at once."""
    url, readers, open_reader = link("download", uses=1), [], docs._open_reader
    monkeypatch.setattr(type(uses), "is_exhausted", lambda *args: False)

    def noted(path):
        readers.append(open_reader(path))
        return readers[-1]

    monkeypatch.setattr(docs, "_open_reader", noted)

    assert statuses(client, url, "GET", "GET") == [200, 403]
    assert readers[1].closed


def test_a_counted_token_without_an_identity_grants_nothing(client):
    """Its uses could not be counted."""
    assert client.get(f"/storage/docs?token={forge(use=1)}").status_code == 403
    assert client.get(f"/storage/docs?token={forge(use=1, jti='an id')}").status_code == 200
    assert client.get(f"/storage/docs?token={forge(use=1, jti='an id')}").status_code == 403


def test_an_expired_counted_link_is_refused_like_any_other(client):
    """Time ends a link before its uses do."""
    past = int(datetime.now(UTC).timestamp()) - 10

    assert client.get(f"/storage/docs?token={forge(use=5, jti='x', exp=past)}").status_code == 403

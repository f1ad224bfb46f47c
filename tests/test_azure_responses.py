"""Errors, lost responses and malformed responses of Azure: the result is right, and no manifest remains."""

import contextlib
import dataclasses
import http.client
import http.server
import io
import threading
from datetime import timedelta
from typing import ClassVar

import pytest
from azure.storage.blob import ExponentialRetry

from flask_storage import (
    ConfigurationError,
    FileExistsInStorageError,
    IntegrityError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    ThrottledError,
    WriteOptions,
)
from tests.azure_storages import leftovers, make_storage
from tests.plain_client import send
from tests.scripted_backend import ScriptedBackend
from tests.services.scripted_proxy import LostResponse, Request, ScriptedResponse, azure_error

pytest_plugins = ["tests.services.azurite"]

NOW = timedelta(0)
MIB = 1 << 20
OLD, NEW = b"old" * 1000, b"new" * 1000
LARGE = bytes(range(256)) * 6144  # 1.5 MiB: two blocks
ONE_IMMEDIATE_RETRY = ExponentialRetry(initial_backoff=0, increment_base=0, random_jitter_range=0, retry_total=1)
DATE = "Sat, 21 Nov 2026 10:00:00 GMT"


class ScriptedAzure(ScriptedBackend):
    """A container, and storages that access it through a scripted proxy.

    Args:
        server: The server of the container.
    """

    def __init__(self, server):
        super().__init__(server.http, operation)
        self.server = server
        self.container = server.make_container()
        self.direct = self.storage(server)
        self.through = self.behind(max_attempts=2, retry_policy=ONE_IMMEDIATE_RETRY)

    def behind(self, **arguments):
        """Return a storage behind the proxy."""
        address = self.server.http.replace(f"http://{':'.join(map(str, self.proxy.target))}", self.proxy.url)
        return self.storage(dataclasses.replace(self.server, http=address), **arguments)

    def storage(self, server, **arguments):
        """Return a storage on the container."""
        self.storages.append(make_storage(server, bucket=self.container, chunk_size=MIB, **arguments))
        return self.storages[-1]

    def close(self):
        """Remove the container."""
        super().close()
        self.server.remove_container(self.container)


def operation(request):
    """Return the name of a request's operation in Azure's REST API."""
    comp = request.query.get("comp", "")
    if request.method == "PUT" and not comp:
        return "Copy Blob" if "x-ms-copy-source" in request.headers else "Put Blob"
    return {
        "PUT block": "Put Block",
        "PUT blocklist": "Put Block List",
        "GET blocklist": "Get Block List",
        "GET list": "List Blobs",
        "GET ": "Get Blob",
        "HEAD ": "Get Blob Properties",
        "DELETE ": "Delete Blob",
        "POST batch": "Blob Batch",
    }[f"{request.method} {comp}"]


@pytest.fixture(scope="module")
def shared_proxy(azurite):
    """The scripted proxy before Azurite."""
    scripted = ScriptedAzure(azurite)
    yield scripted
    scripted.close()


@pytest.fixture
def scripted(shared_proxy):
    """The scripted proxy with old content in the container; after the test no manifest may remain."""
    shared_proxy.pass_on()
    shared_proxy.server.empty_container(shared_proxy.container)
    shared_proxy.direct.write("a.bin", OLD)
    yield shared_proxy
    shared_proxy.pass_on()
    assert not leftovers(shared_proxy.direct)


BUSY = [azure_error(500, "InternalError"), azure_error(500, "OperationTimedOut"), azure_error(503, "ServerBusy")]
BUSY_IDS = ["500", "timed out", "503"]
WRITES = {"Put Blob": NEW, "Put Block": LARGE, "Put Block List": LARGE}
LAST_STEPS = pytest.mark.parametrize("wanted", ["Put Blob", "Put Block List"])

# -- errors of the service --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", BUSY, ids=BUSY_IDS)
@pytest.mark.parametrize("wanted", WRITES)
def test_a_write_is_retried_after_a_server_error(scripted, wanted, busy):
    """One error, and the request is sent again."""
    scripted.script(wanted, busy)

    scripted.through.write("a.bin", WRITES[wanted])

    assert scripted.direct.read("a.bin") == WRITES[wanted]
    assert scripted.operations().count(wanted) == (3 if wanted == "Put Block" else 2)


@pytest.mark.parametrize("busy", BUSY, ids=BUSY_IDS)
@pytest.mark.parametrize("wanted", WRITES)
def test_a_write_fails_after_repeated_server_errors(scripted, wanted, busy):
    """The error says what failed, and the old content remains."""
    scripted.script(wanted, busy, ...)
    error_class = ThrottledError if busy.status == 503 else StorageUnavailableError

    with pytest.raises(error_class, match=r"a\.bin in the container .*: .*(send fewer requests|try again)") as caught:
        scripted.through.write("a.bin", WRITES[wanted])

    assert type(caught.value) is error_class
    assert scripted.direct.read("a.bin") == OLD


@pytest.mark.parametrize("busy", BUSY, ids=BUSY_IDS)
def test_a_read_is_retried_once_and_fails_after_repeated_errors(scripted, busy):
    """As a write is."""
    scripted.script("Get Blob", busy)
    assert scripted.through.read("a.bin") == OLD
    scripted.script("Get Blob", busy, ...)

    with pytest.raises(StorageUnavailableError, match=r"send fewer requests|try again"):
        scripted.through.read("a.bin")


@pytest.mark.parametrize("attempts", [1, 2])
def test_max_attempts_counts_all_attempts(scripted, attempts):
    """With the retry policy of the default configuration."""
    scripted.script("Get Blob Properties", azure_error(503, "ServerBusy"), ...)

    with pytest.raises(ThrottledError):
        scripted.behind(max_attempts=attempts).stat("a.bin")

    assert scripted.operations() == ["Get Blob Properties"] * attempts


def test_a_block_is_retried_after_the_sdk_gives_up(scripted):
    """The writer sends the block once more after the SDK's last attempt."""
    scripted.script("Put Block", *[azure_error(500, "InternalError")] * 2)

    scripted.through.write("a.bin", LARGE)

    assert scripted.direct.read("a.bin") == LARGE


OPERATIONS = {
    "write": lambda storage: storage.write("a.bin", NEW),
    "upload": lambda storage: storage.write("a.bin", LARGE),
    "read": lambda storage: storage.read("a.bin"),
    "stat": lambda storage: storage.stat("a.bin"),
    "exists": lambda storage: storage.exists("a.bin"),
    "delete": lambda storage: storage.delete("a.bin"),
    "list": lambda storage: list(storage.list()),
    "copy": lambda storage: storage.copy("a.bin", "b.bin"),
    "create": lambda storage: storage.multipart.create("a.bin", WriteOptions()),
    "sweep": lambda storage: storage.sweep(NOW),
}
PAGE = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_html_error_page_of_a_proxy_is_translated_by_its_status(scripted, name):
    """The page has no error code of Azure."""
    scripted.proxy.script = lambda request: ScriptedResponse(502, PAGE, {"Content-Type": "text/html"})

    with pytest.raises(StorageUnavailableError, match="try again"):
        OPERATIONS[name](scripted.through)

    assert scripted.direct.read("a.bin") == OLD


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_empty_403_is_a_permission_error(scripted, name):
    """Some firewalls respond like this."""
    scripted.proxy.script = lambda request: ScriptedResponse(403)

    with pytest.raises(PermissionDeniedError, match="not allowed from this network"):
        OPERATIONS[name](scripted.through)

    assert scripted.direct.read("a.bin") == OLD


MALFORMED = {
    "html": ScriptedResponse(200, PAGE, {"Content-Type": "text/html"}),
    "nothing": ScriptedResponse(200),
    "half of XML": ScriptedResponse(200, b"<?xml version='1.0'?><EnumerationRe", {"Content-Type": "application/xml"}),
    "other XML": ScriptedResponse(200, b"<?xml version='1.0'?><a><b/></a>", {"Content-Type": "application/xml"}),
    "no XML": ScriptedResponse(200, b"\0\xff\xfe", {"Content-Type": "application/xml"}),
    "a status of its own": ScriptedResponse(299, b"?"),
    "an error that is cut off": ScriptedResponse(
        500, b"<?xml version='1.0'?><Err", {"Content-Type": "application/xml"}
    ),
    "a number that is none": ScriptedResponse(
        206, b"abc", {"Content-Range": "bytes 0-x/y", "ETag": '"0x1"', "Last-Modified": "?"}
    ),
    "a range that is none": ScriptedResponse(206, b"abc", {"Content-Range": "abc", "ETag": '"0x1"'}),
}


@pytest.mark.parametrize("malformed", MALFORMED)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_malformed_response_raises_a_storage_error(scripted, name, malformed):
    """No operation succeeds, and none raises an error of the SDK."""
    scripted.proxy.script = lambda request: MALFORMED[malformed]

    with pytest.raises(StorageError):
        OPERATIONS[name](scripted.through)

    assert scripted.direct.read("a.bin") == OLD


@pytest.mark.parametrize(
    "response",
    [
        ScriptedResponse(202),
        ScriptedResponse(202, PAGE),
        ScriptedResponse(200, PAGE),
        ScriptedResponse(502, PAGE),
        ScriptedResponse(403),
    ],
)
def test_a_malformed_batch_response_reports_no_file_as_deleted(scripted, response):
    """Each file without a response of its own counts as failed."""
    scripted.script("Blob Batch", response, ...)

    try:
        failed = set(scripted.through.delete_many(["a.bin", "b.bin"]))
    except StorageError:
        failed = {"a.bin", "b.bin"}

    assert failed == {"a.bin", "b.bin"}
    assert scripted.direct.read("a.bin") == OLD


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("name", ["write", "read", "stat", "list"])
def test_a_redirect_is_not_followed(scripted, name, status):
    """A signature must not be sent to another host, and content only to a configured one."""
    elsewhere = f"{scripted.proxy.url}/elsewhere/file"
    scripted.proxy.exchanges.clear()
    scripted.proxy.script = lambda request: (
        ScriptedResponse(200, b"forged", {"ETag": '"0x1"', "Last-Modified": DATE, "Content-Range": "bytes 0-5/6"})
        if request.path.startswith("/elsewhere")
        else ScriptedResponse(status, b"", {"Location": elsewhere})
    )

    with pytest.raises(StorageError):
        OPERATIONS[name](scripted.through)

    assert not [exchange for exchange in scripted.proxy.exchanges if exchange.request.path.startswith("/elsewhere")]
    assert scripted.direct.read("a.bin") == OLD


REFUSALS = {
    "AuthenticationFailed": (403, PermissionDeniedError, "with NTP|clock"),
    "Md5Mismatch": (400, IntegrityError, "content changed in transit"),
    "ContainerNotFound": (404, ConfigurationError, "no such container"),
    "LeaseIdMissing": (412, PermissionDeniedError, "a lease"),
    "AccountIsDisabled": (403, PermissionDeniedError, "disabled"),
}


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize("wanted", WRITES)
def test_a_refused_write_publishes_nothing(scripted, wanted, code):
    """At each step: the error gives the reason, and the old content remains."""
    status, error_class, text = REFUSALS[code]
    scripted.script(wanted, azure_error(status, code), ...)

    with pytest.raises(error_class, match=text):
        scripted.through.write("a.bin", WRITES[wanted])

    assert scripted.direct.read("a.bin") == OLD
    assert scripted.operations().count(wanted) <= 2  # a refusal is not retried; both blocks may get one


# -- lost responses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", WRITES)
def test_a_lost_response_is_retried(scripted, wanted):
    """The server has done the operation, and the retry does it again."""
    scripted.script(wanted, LostResponse(after_server=True))

    scripted.through.write("a.bin", WRITES[wanted])

    assert scripted.direct.read("a.bin") == WRITES[wanted]


@LAST_STEPS
def test_a_write_fails_when_all_responses_are_lost(scripted, wanted):
    """Its outcome is unknown; what is stored is complete."""
    scripted.script(wanted, LostResponse(after_server=True), ...)

    with pytest.raises(StorageUnavailableError, match="try again"):
        scripted.through.write("a.bin", WRITES[wanted])

    assert scripted.direct.read("a.bin") == WRITES[wanted]


AFTER_SUCCESS: dict[str, list[ScriptedResponse | LostResponse]] = {
    "lost": [LostResponse(after_server=True)],
    "lost twice": [LostResponse(after_server=True)] * 2,
    "gateway timeout": [ScriptedResponse(504, PAGE, after_server=True)],
    "gateway timeouts": [ScriptedResponse(504, PAGE, after_server=True)] * 2,
    "busy": [azure_error(503, "ServerBusy", after_server=True)] * 2,
    "a status of its own": [ScriptedResponse(299, b"?", after_server=True)],
    "malformed headers": [ScriptedResponse(201, b"", {"Last-Modified": "?"}, after_server=True)],
}


@pytest.mark.parametrize("responses", AFTER_SUCCESS)
@LAST_STEPS
def test_an_exclusive_write_succeeds_after_a_lost_response(scripted, wanted, responses):
    """The retry is told that the file exists: it is the one that the first attempt stored."""
    scripted.script(wanted, *AFTER_SUCCESS[responses])

    scripted.through.write("new.bin", WRITES[wanted], exclusive=True)

    assert scripted.direct.read("new.bin") == WRITES[wanted]
    assert scripted.direct.stat("new.bin").metadata == {}


@pytest.mark.parametrize("responses", AFTER_SUCCESS)
@LAST_STEPS
def test_a_write_with_if_match_succeeds_after_a_lost_response(scripted, wanted, responses):
    """The retry is told that the version is another one: it is the one that the first attempt stored."""
    scripted.script(wanted, *AFTER_SUCCESS[responses])

    scripted.through.write("a.bin", WRITES[wanted], if_match=scripted.direct.stat("a.bin").etag)

    assert scripted.direct.read("a.bin") == WRITES[wanted]


@LAST_STEPS
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_an_exclusive_write_of_an_existing_file_fails_also_after_a_lost_response(scripted, wanted, lost):
    """The file of the other writer is unchanged."""
    scripted.script(wanted, *[LostResponse(after_server=True)] * lost)
    error_class = StorageUnavailableError if lost == 2 else FileExistsInStorageError

    with pytest.raises(error_class):
        scripted.through.write("a.bin", WRITES[wanted], exclusive=True)

    assert scripted.direct.read("a.bin") == OLD


@LAST_STEPS
@pytest.mark.parametrize("other_content", ["other", "equal"])
def test_an_exclusive_write_fails_if_another_client_creates_the_file_before_the_retry(scripted, wanted, other_content):
    """Also when the other client writes the same bytes."""
    content = OLD if other_content == "other" else WRITES[wanted]
    lost: list[Request] = []

    def decide(request):
        if operation(request) != wanted or lost:
            return None
        lost.append(request)
        scripted.direct.write("new.bin", content)
        return LostResponse(after_server=False)

    scripted.proxy.script = decide

    with pytest.raises(FileExistsInStorageError, match="exists: choose another name"):
        scripted.through.write("new.bin", WRITES[wanted], exclusive=True)

    assert scripted.direct.read("new.bin") == content


@LAST_STEPS
def test_a_write_with_if_match_fails_if_another_client_replaces_the_file_before_the_retry(scripted, wanted):
    """The first request was lost on its way to the server."""
    etag = scripted.direct.stat("a.bin").etag
    lost: list[Request] = []

    def decide(request):
        if operation(request) != wanted or lost:
            return None
        lost.append(request)
        scripted.direct.write("a.bin", WRITES[wanted], if_match=etag)
        return LostResponse(after_server=False)

    scripted.proxy.script = decide

    with pytest.raises(PreconditionFailedError):
        scripted.through.write("a.bin", WRITES[wanted], if_match=etag)


@LAST_STEPS
def test_a_write_fails_when_its_outcome_cannot_be_checked(scripted, wanted):
    """Neither the response nor the check of what is stored arrives."""
    scripted.proxy.script = lambda request: (
        LostResponse(after_server=False) if operation(request) != "Put Block" else None
    )

    with pytest.raises(StorageUnavailableError):
        scripted.through.write("new.bin", WRITES[wanted], exclusive=True)

    assert not scripted.direct.exists("new.bin")


def test_an_exclusive_multipart_completion_succeeds_after_a_lost_response(scripted):
    """As an exclusive write does."""
    upload = scripted.through.multipart.create("new.bin", WriteOptions())
    part = scripted.through.multipart.upload_part("new.bin", upload, 1, NEW)
    scripted.script("Put Block List", LostResponse(after_server=True))

    scripted.through.multipart.complete("new.bin", upload, [part], WriteOptions(exclusive=True))

    assert scripted.direct.read("new.bin") == NEW


def test_a_deletion_succeeds_after_a_lost_response(scripted):
    """The retry finds no blob to delete."""
    scripted.script("Delete Blob", LostResponse(after_server=True))

    scripted.through.delete("a.bin")

    assert not scripted.direct.exists("a.bin")


def test_a_copy_succeeds_after_a_lost_response(scripted):
    """The retry copies again."""
    scripted.script("Copy Blob", LostResponse(after_server=True))

    scripted.through.copy("a.bin", "b.bin")

    assert scripted.direct.read("b.bin") == OLD


@pytest.mark.parametrize("lost", [1, 2])
def test_an_exclusive_copy_with_lost_responses_never_reports_an_existing_file(scripted, lost):
    """It succeeds, or fails as unavailable."""
    scripted.script("Copy Blob", *[LostResponse(after_server=True)] * lost)

    error = None
    try:
        scripted.through.copy("a.bin", "b.bin", exclusive=True)
    except StorageUnavailableError as raised:
        error = raised

    assert error is None or lost == 2
    assert scripted.direct.read("b.bin") == OLD


@LAST_STEPS
def test_a_success_without_headers_is_accepted(scripted, wanted):
    """The last request of a write gets a bare 201."""
    scripted.script(wanted, ScriptedResponse(201, after_server=True))

    scripted.through.write("a.bin", WRITES[wanted])

    assert scripted.direct.read("a.bin") == WRITES[wanted]


@pytest.mark.parametrize("arguments", [{}, {"exclusive": True}], ids=["unconditional", "exclusive"])
def test_an_upload_fails_if_another_upload_is_committed_first(scripted, arguments):
    """Azure discards the blocks when another block list is committed."""
    other = LARGE[::-1]
    seen: list[Request] = []

    def decide(request):
        if operation(request) == "Put Block List" and not seen:
            seen.append(request)
            scripted.direct.write("new.bin", other)

    scripted.proxy.script = decide

    with pytest.raises(FileExistsInStorageError if arguments else PreconditionFailedError):
        scripted.through.write("new.bin", LARGE, **arguments)

    assert scripted.direct.read("new.bin") == other


# -- downloads --------------------------------------------------------------------------------------------------------

MD5 = "Content-MD5"


def download_response(scripted, body, *, without=(), before_body=False, **headers):
    """Return a response to a download of all of a.bin, with this body and changed headers."""
    usual = {
        "ETag": f'"{scripted.direct.stat("a.bin").etag}"',
        "Last-Modified": DATE,
        "Content-Type": "application/octet-stream",
        "Content-Range": f"bytes 0-{len(OLD) - 1}/{len(OLD)}",
        "x-ms-blob-type": "BlockBlob",
    }
    merged = {**usual, **{name.replace("_", "-"): value for name, value in headers.items()}}
    selected = {name: value for name, value in merged.items() if name not in without}
    return ScriptedResponse(206, body, selected, before_body=before_body)


@pytest.mark.parametrize("short", [0, 1, len(OLD) - 1])
def test_a_truncated_body_is_resumed(scripted, short):
    """The announced length is right and the content is shorter: the rest is requested."""
    headers = {"Content_Length": str(len(OLD)), "Connection": "close"}
    scripted.script("Get Blob", download_response(scripted, OLD[:short], before_body=True, **headers))
    target = io.BytesIO()

    scripted.through.download("a.bin", target)

    assert target.getvalue() == OLD
    assert scripted.operations() == ["Get Blob", "Get Blob"]


@pytest.mark.parametrize("short", [0, 1, len(OLD) - 1])
def test_a_body_that_is_always_truncated_is_an_error(scripted, short):
    """A truncated body is never returned as the whole file."""
    headers = {"Content_Length": str(len(OLD)), "Connection": "close"}
    scripted.script("Get Blob", download_response(scripted, OLD[:short], before_body=True, **headers), ...)

    with pytest.raises(StorageUnavailableError):
        scripted.through.read("a.bin")


@pytest.mark.parametrize("short", [1, len(OLD) - 1])
def test_a_body_with_a_length_shorter_than_its_range_is_resumed(scripted, short):
    """Content-Range has the size of the file; the rest is requested."""
    scripted.script("Get Blob", download_response(scripted, OLD[:short]))

    assert scripted.through.read("a.bin") == OLD


def test_bytes_after_the_end_of_the_blob_are_ignored(scripted):
    """They never reach the reader."""
    scripted.script("Get Blob", download_response(scripted, OLD + b"more"), ...)

    try:
        data = scripted.through.read("a.bin")
    except StorageError:
        data = OLD

    assert data == OLD


@pytest.mark.parametrize("size", ["0", "1", str(len(OLD) - 1), "-5", "x", "", "*"])
def test_a_content_range_with_an_impossible_total_is_an_error(scripted, size):
    """The file is not truncated to it."""
    scripted.script("Get Blob", download_response(scripted, OLD, Content_Range=f"bytes 0-{len(OLD) - 1}/{size}"), ...)

    with pytest.raises(StorageError):
        scripted.through.read("a.bin")


def test_a_wrong_md5_is_an_integrity_error(scripted):
    """The next read succeeds."""
    scripted.script("Get Blob", download_response(scripted, OLD, Content_MD5="1B2M2Y8AsgTpgAmY7PhCfg=="))

    with pytest.raises(IntegrityError, match="does not match the stored checksum: read the file again"):
        scripted.through.read("a.bin")

    assert scripted.through.read("a.bin") == OLD


def test_a_wrong_md5_of_a_later_range_is_an_integrity_error(scripted):
    """Every range is checked."""
    scripted.direct.write("a.bin", LARGE)

    def decide(request):
        first, _, last = str(request.headers.get("x-ms-range")).removeprefix("bytes=").partition("-")
        if operation(request) != "Get Blob" or first == "0":
            return None
        end = min(int(last), len(LARGE) - 1)
        headers = {"Content_MD5": "1B2M2Y8AsgTpgAmY7PhCfg==", "Content_Range": f"bytes {first}-{end}/{len(LARGE)}"}
        return download_response(scripted, LARGE[int(first) : end + 1], **headers)

    scripted.proxy.script = decide

    with pytest.raises(IntegrityError, match="does not match the stored checksum"):
        scripted.through.read("a.bin")


@pytest.mark.parametrize("size", [1, len(LARGE) - 1, len(LARGE) + 1, 10 * len(LARGE)])
def test_two_sizes_of_one_version_are_an_error(scripted, size):
    """A total that was corrupted in the first response changes the length of the file in no case."""
    scripted.direct.write("a.bin", LARGE)
    size = max(size, 65_537)  # more than the first response contains
    headers = {"Content_Range": f"bytes 0-65535/{size}"}
    scripted.script("Get Blob", download_response(scripted, LARGE[:65_536], **headers))

    with pytest.raises(StorageError):
        scripted.through.read("a.bin")


def test_a_total_equal_to_the_requested_size_is_checked(scripted):
    """Over plain HTTP: a corrupted digit would otherwise truncate the file."""
    scripted.direct.write("a.bin", LARGE[:65_537])
    headers = {"Content_Range": "bytes 0-65535/65536"}
    scripted.script("Get Blob", download_response(scripted, LARGE[:65_536], **headers))

    with pytest.raises(IntegrityError, match="the size of the download is not the stored size"):
        scripted.through.read("a.bin")

    scripted.direct.write("a.bin", LARGE[:65_536])
    assert scripted.through.read("a.bin") == LARGE[:65_536]


def test_an_unread_response_releases_its_connection(scripted, in_bounded_time):
    """After errors and overlong bodies, the only connection can be used again."""
    storage = scripted.behind(max_connections=1, max_attempts=2, retry_policy=ONE_IMMEDIATE_RETRY, concurrency=1)
    for response in (
        BUSY[0],
        ScriptedResponse(502, PAGE),
        ScriptedResponse(404),
        download_response(scripted, OLD + bytes(100_000)),
    ):
        for _ in range(3):
            scripted.script("Get Blob", response)
            with contextlib.suppress(StorageError):
                storage.read("a.bin")

    scripted.pass_on()
    assert storage.read("a.bin") == OLD


@pytest.mark.parametrize("missing", ["ETag", "Last-Modified", "Content-Range"])
@pytest.mark.parametrize("name", ["read", "stat"])
def test_a_response_without_a_required_header_is_an_error(scripted, name, missing):
    """Without ETag, date or size, reads of one version are impossible."""
    response = download_response(scripted, OLD, without=[missing])
    if name == "stat":
        if missing == "Content-Range":
            missing = "Content-Length"
        response = dataclasses.replace(response, status=200)
    scripted.proxy.script = lambda request: response

    if missing == "Content-Length":  # the proxy adds Content-Length to a HEAD response
        assert scripted.through.stat("a.bin").size == len(OLD)
        return
    with pytest.raises(StorageError):
        getattr(scripted.through, name)("a.bin")


@pytest.mark.parametrize("short", [1, len(OLD) - 1])
def test_a_truncated_body_with_an_md5_is_requested_again_as_a_whole(scripted, short):
    """The MD5 of a range cannot check a part of it."""
    wrong = bytes(byte ^ 1 for byte in OLD[:short])
    headers = {"Content_Length": str(len(OLD)), "Connection": "close"}
    scripted.script("Get Blob", download_response(scripted, wrong, before_body=True, **headers))

    assert scripted.through.read("a.bin") == OLD


def test_an_error_code_in_the_body_alone_is_recognized(scripted):
    """The body is read before the connection is released."""
    body = b'<?xml version="1.0"?><Error><Code>AuthorizationPermissionMismatch</Code><Message>no</Message></Error>'
    scripted.script("Get Blob", ScriptedResponse(403, body, {"Content-Type": "application/xml"}))

    with pytest.raises(PermissionDeniedError, match="AuthorizationPermissionMismatch"):
        scripted.through.read("a.bin")


@pytest.mark.parametrize("before_body", [True, False])
def test_an_error_response_with_a_truncated_body_is_retried(scripted, before_body):
    """Whether the request body was read or not."""
    headers = {"Content-Type": "application/xml", "Content-Length": "1000", "Connection": "close"}
    scripted.script("Get Blob", ScriptedResponse(503, b"<?xml", headers, before_body=before_body))

    assert scripted.through.read("a.bin") == OLD


# -- listings ---------------------------------------------------------------------------------------------------------

_PROPERTIES = (
    f"<Last-Modified>{DATE}</Last-Modified><Etag>0x1</Etag><Content-Length>3</Content-Length>"
    "<BlobType>BlockBlob</BlobType>"
)


def _entry(name, properties=_PROPERTIES, *, attributes="", metadata=""):
    return f"<Blob><Name{attributes}>{name}</Name><Properties>{properties}</Properties>{metadata}</Blob>"


def _listing(*entries):
    body = f"<?xml version='1.0'?><EnumerationResults><Blobs>{''.join(entries)}</Blobs></EnumerationResults>"
    return ScriptedResponse(200, body.encode(), {"Content-Type": "application/xml"})


def test_a_name_that_xml_cannot_hold_is_listed(scripted):
    """The service escapes it, and says so in an attribute."""
    names = [_entry("a/x%EF%BF%BE.txt", attributes=' Encoded="true"'), _entry("a/y%25.txt")]
    scripted.script("List Blobs", _listing(*names), ...)

    found = {entry.name for page in scripted.through._list("", True) for entry in page}

    assert found == {"a/x\ufffe.txt", "a/y%25.txt"}


@pytest.mark.parametrize(
    "unreadable",
    [
        _entry(""),
        _entry("a/b", _PROPERTIES.replace(f"<Last-Modified>{DATE}</Last-Modified>", "")),
        _entry("a/b", _PROPERTIES.replace("<Content-Length>3</Content-Length>", "")),
        _entry("a/b", _PROPERTIES.replace(">3<", ">-3<")),
    ],
    ids=["no name", "no date", "no size", "negative size"],
)
def test_an_entry_that_cannot_be_read_does_not_end_a_listing(scripted, caplog, unreadable):
    """It is skipped, and a warning has the number of such entries."""
    scripted.script("List Blobs", _listing(_entry("a/good"), unreadable), ...)

    names = [entry.name for entry in scripted.through.list()]
    paths = [info.path for info in scripted.through.iter(details=True)]

    assert names == paths == ["a/good"]
    assert caplog.text.count("1 entries of the container") == 2


def test_an_entry_without_an_etag_or_with_empty_metadata_is_told(scripted):
    """What the listing does not say is None or empty."""
    properties = _PROPERTIES.replace("<Etag>0x1</Etag>", "")
    entry = _entry("a/b", properties, metadata="<Metadata><Color/></Metadata>")
    scripted.script("List Blobs", _listing(entry))

    [info] = scripted.through.iter(details=True)

    assert (info.size, info.etag, info.etag_is_strong, dict(info.metadata)) == (3, None, False, {"color": ""})


def test_a_manifest_that_cannot_be_read_does_not_end_a_sweep(scripted):
    """It is not a manifest of this package."""
    name, metadata = ".fs-tmp-upload-" + "a" * 22, "<Metadata><path/></Metadata>"
    scripted.script("List Blobs", _listing(_entry(name, "<BlobType>BlockBlob</BlobType>"), _entry(name)), ...)
    assert scripted.through.sweep(NOW) == 0
    scripted.script("List Blobs", _listing(_entry(name, metadata=metadata)), ...)
    assert scripted.through.sweep(NOW) == 0


def test_a_block_list_with_a_block_without_size_is_an_error(scripted):
    """And not an error of Python."""
    upload = scripted.direct.multipart.create("a.bin", WriteOptions())
    body = b"<?xml version='1.0'?><BlockList><UncommittedBlocks><Block/></UncommittedBlocks></BlockList>"
    scripted.script("Get Block List", ScriptedResponse(200, body, {"Content-Type": "application/xml"}))

    with pytest.raises(StorageUnavailableError, match="malformed"):
        scripted.through.multipart.list_parts("a.bin", upload)

    scripted.direct.multipart.abort("a.bin", upload)


# -- proxies ----------------------------------------------------------------------------------------------------------


def _capitalized(scripted):
    """Return a script that changes header names as HTTP programs in Go do: ``X-Ms-Meta-Sha256``."""

    def script(request):
        if request.method != "HEAD":
            return None
        address = "http://{}:{}".format(*scripted.proxy.target)
        response = send(f"{address}{request.target}", "HEAD", dict(request.headers.items()))
        headers = {"-".join(map(str.capitalize, name.split("-"))): value for name, value in response.headers.items()}
        return ScriptedResponse(response.status, headers=headers)

    return script


def test_metadata_keys_in_another_case_are_read_in_lower_case(scripted):
    """Also those of the manifest of an upload, and the id that tells a lost response from another write."""
    scripted.direct.write("a.bin", OLD, metadata={"sha256": "ab"})
    scripted.proxy.script = _capitalized(scripted)

    assert scripted.through.stat("a.bin").metadata == {"sha256": "ab"}
    scripted.through.copy("a.bin", "b.bin", exclusive=True)
    upload = scripted.through.multipart.create("c.bin", WriteOptions(metadata={"color": "red"}))
    part = scripted.through.multipart.upload_part("c.bin", upload, 1, NEW)
    scripted.through.multipart.complete("c.bin", upload, [part], WriteOptions())

    assert scripted.direct.stat("b.bin").metadata == {"sha256": "ab"}
    assert scripted.direct.stat("c.bin").metadata == {"color": "red"}


def test_a_weak_etag_of_a_proxy_is_read_as_the_services(scripted):
    """A proxy that compresses marks it as weak; the conditions of later requests still match."""
    scripted.direct.write("a.bin", LARGE)
    etag = scripted.direct.stat("a.bin").etag
    headers = {"ETag": f'W/"{etag}"', "Last-Modified": DATE, "Content-Length": str(len(LARGE))}
    scripted.script("Get Blob Properties", ScriptedResponse(200, headers=headers), ...)

    assert scripted.through.stat("a.bin").etag == etag
    scripted.through.move("a.bin", "b.bin")

    assert [entry.name for entry in scripted.direct.list()] == ["b.bin"]


class _OldProxy(http.server.BaseHTTPRequestHandler):
    """A proxy that speaks HTTP/1.0: the end of the connection is the end of a response."""

    target: ClassVar[tuple[str, int]]

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection(*self.target)
        connection.request(self.command, self.path, body, dict(self.headers.items()))
        response = connection.getresponse()
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if self.command == "HEAD" or name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(response.read())
        connection.close()

    do_HEAD = do_PUT = do_DELETE = do_POST = do_GET  # noqa: N815 - the names are those of http.server


def test_a_proxy_with_http_1_0_is_accepted(scripted):
    """Its responses have no length."""
    handler = type("Handler", (_OldProxy,), {"target": scripted.proxy.target})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        address = scripted.server.http.replace(f":{scripted.proxy.target[1]}/", f":{server.server_port}/")
        storage = scripted.storage(dataclasses.replace(scripted.server, http=address))
        storage.write("small.bin", NEW)
        storage.write("large.bin", LARGE)
        storage.copy("small.bin", "copy.bin")
        storage.delete_many(["a.bin"])

        assert (storage.read("small.bin"), storage.read("large.bin")) == (NEW, LARGE)
        assert [entry.name for entry in storage.list()] == ["copy.bin", "large.bin", "small.bin"]
        server.shutdown()

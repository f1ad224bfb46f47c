"""What Azure says, or fails to say, and what comes of it: the right error or success, and nothing left behind."""

import contextlib
import dataclasses
import io
from datetime import timedelta

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
from tests.azure_places import left_in, place
from tests.scripted_ground import ScriptedGround
from tests.services.scripted_proxy import Answer, Lose, Request, azure_error

pytest_plugins = ["tests.services.azurite"]

NOW = timedelta(0)
MIB = 1 << 20
OLD, NEW = b"old" * 1000, b"new" * 1000
LARGE = bytes(range(256)) * 6144  # 1.5 MiB: two blocks
TWICE_AT_ONCE = ExponentialRetry(initial_backoff=0, increment_base=0, random_jitter_range=0, retry_total=1)
DATE = "Sat, 21 Nov 2026 10:00:00 GMT"


class Ground(ScriptedGround):
    """A container, and storages that come to it through a proxy with a script.

    Args:
        server: Where the container is.
    """

    def __init__(self, server):
        super().__init__(server.http, operation)
        self.server = server
        self.container = server.make_container()
        self.direct = self.storage(server)
        self.through = self.behind(max_attempts=2, retry_policy=TWICE_AT_ONCE)

    def behind(self, **arguments):
        """Make a storage behind the proxy."""
        address = self.server.http.replace(f"http://{':'.join(map(str, self.proxy.target))}", self.proxy.url)
        return self.storage(dataclasses.replace(self.server, http=address), **arguments)

    def storage(self, server, **arguments):
        """Make a storage on the container."""
        self.storages.append(place(server, bucket=self.container, chunk_size=MIB, **arguments))
        return self.storages[-1]

    def close(self):
        """Remove everything."""
        super().close()
        self.server.remove_container(self.container)


def operation(request):
    """Name what a request asks for, in Azure's own words."""
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
def whole_ground(azurite):
    """The ground on Azurite."""
    made = Ground(azurite)
    yield made
    made.close()


@pytest.fixture
def ground(whole_ground):
    """The ground with old content in it, and afterwards no note of an upload."""
    whole_ground.pass_on()
    whole_ground.server.empty_container(whole_ground.container)
    whole_ground.direct.write("a.bin", OLD)
    yield whole_ground
    whole_ground.pass_on()
    assert not left_in(whole_ground.direct)


BUSY = [azure_error(500, "InternalError"), azure_error(500, "OperationTimedOut"), azure_error(503, "ServerBusy")]
BUSY_IDS = ["500", "timed out", "503"]
WRITES = {"Put Blob": NEW, "Put Block": LARGE, "Put Block List": LARGE}
LAST_STEPS = pytest.mark.parametrize("wanted", ["Put Blob", "Put Block List"])

# -- trouble of the service -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", BUSY, ids=BUSY_IDS)
@pytest.mark.parametrize("wanted", WRITES)
def test_a_write_gets_over_a_short_trouble(ground, wanted, busy):
    """One answer like this, and the request is made again."""
    ground.script(wanted, busy)

    ground.through.write("a.bin", WRITES[wanted])

    assert ground.direct.read("a.bin") == WRITES[wanted]
    assert ground.asked().count(wanted) == (3 if wanted == "Put Block" else 2)


@pytest.mark.parametrize("busy", BUSY, ids=BUSY_IDS)
@pytest.mark.parametrize("wanted", WRITES)
def test_a_write_gives_up_a_long_trouble(ground, wanted, busy):
    """The error says what is wrong, and the old content stays."""
    ground.script(wanted, busy, ...)
    kind = ThrottledError if busy.status == 503 else StorageUnavailableError

    with pytest.raises(kind, match=r"a\.bin in the container .*: .*(send fewer requests|try again)") as caught:
        ground.through.write("a.bin", WRITES[wanted])

    assert type(caught.value) is kind
    assert ground.direct.read("a.bin") == OLD


@pytest.mark.parametrize("busy", BUSY, ids=BUSY_IDS)
def test_a_read_gets_over_a_short_trouble_and_gives_up_a_long_one(ground, busy):
    """As writing does."""
    ground.script("Get Blob", busy)
    assert ground.through.read("a.bin") == OLD
    ground.script("Get Blob", busy, ...)

    with pytest.raises(StorageUnavailableError, match=r"send fewer requests|try again"):
        ground.through.read("a.bin")


@pytest.mark.parametrize("attempts", [1, 2])
def test_max_attempts_is_how_often_a_request_is_made(ground, attempts):
    """In all, with the waits that everybody has."""
    ground.script("Get Blob Properties", azure_error(503, "ServerBusy"), ...)

    with pytest.raises(ThrottledError):
        ground.behind(max_attempts=attempts).stat("a.bin")

    assert ground.asked() == ["Get Blob Properties"] * attempts


def test_an_upload_gets_over_more_failures_of_a_block_than_the_sdk_does(ground):
    """The SDK's own attempts are used up; the block is sent once more all the same."""
    ground.script("Put Block", *[azure_error(500, "InternalError")] * 2)

    ground.through.write("a.bin", LARGE)

    assert ground.direct.read("a.bin") == LARGE


VERBS = {
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


@pytest.mark.parametrize("verb", VERBS)
def test_a_proxy_that_says_bad_gateway_in_html_is_no_mystery(ground, verb):
    """Its page is not Azure's language; its status says enough."""
    ground.proxy.script = lambda request: Answer(502, PAGE, {"Content-Type": "text/html"})

    with pytest.raises(StorageUnavailableError, match="try again"):
        VERBS[verb](ground.through)

    assert ground.direct.read("a.bin") == OLD


@pytest.mark.parametrize("verb", VERBS)
def test_a_refusal_without_a_word_is_a_refusal(ground, verb):
    """An empty 403, as some firewalls give."""
    ground.proxy.script = lambda request: Answer(403)

    with pytest.raises(PermissionDeniedError, match="not allowed from here"):
        VERBS[verb](ground.through)

    assert ground.direct.read("a.bin") == OLD


NONSENSE = {
    "html": Answer(200, PAGE, {"Content-Type": "text/html"}),
    "nothing": Answer(200),
    "half of XML": Answer(200, b"<?xml version='1.0'?><EnumerationRe", {"Content-Type": "application/xml"}),
    "other XML": Answer(200, b"<?xml version='1.0'?><a><b/></a>", {"Content-Type": "application/xml"}),
    "no XML": Answer(200, b"\0\xff\xfe", {"Content-Type": "application/xml"}),
    "a status of its own": Answer(299, b"?"),
    "an error that is cut off": Answer(500, b"<?xml version='1.0'?><Err", {"Content-Type": "application/xml"}),
    "a number that is none": Answer(
        206, b"abc", {"Content-Range": "bytes 0-x/y", "ETag": '"0x1"', "Last-Modified": "?"}
    ),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
@pytest.mark.parametrize("verb", VERBS)
def test_an_answer_that_makes_no_sense_is_an_error_of_ours(ground, verb, nonsense):
    """Whatever stands in it: no verb believes it, and none raises what only the SDK knows."""
    ground.proxy.script = lambda request: NONSENSE[nonsense]

    with pytest.raises(StorageError):
        VERBS[verb](ground.through)

    assert ground.direct.read("a.bin") == OLD


@pytest.mark.parametrize("answer", [Answer(202), Answer(202, PAGE), Answer(200, PAGE), Answer(502, PAGE), Answer(403)])
def test_an_answer_to_a_deletion_of_many_that_makes_no_sense_is_an_error_of_ours(ground, answer):
    """No file counts as deleted of which that was not said."""
    ground.script("Blob Batch", answer, ...)

    try:
        failed = set(ground.through.delete_many(["a.bin", "b.bin"]))
    except StorageError:
        failed = {"a.bin", "b.bin"}

    assert failed == {"a.bin", "b.bin"}
    assert ground.direct.read("a.bin") == OLD


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("verb", ["write", "read", "stat", "list"])
def test_a_redirect_is_not_followed(ground, verb, status):
    """What is signed for one place is not for another, and no content goes where nobody configured it."""
    elsewhere = f"{ground.proxy.url}/elsewhere/file"
    ground.proxy.exchanges.clear()
    ground.proxy.script = lambda request: (
        Answer(200, b"forged", {"ETag": '"0x1"', "Last-Modified": DATE, "Content-Range": "bytes 0-5/6"})
        if request.path.startswith("/elsewhere")
        else Answer(status, b"", {"Location": elsewhere})
    )

    with pytest.raises(StorageError):
        VERBS[verb](ground.through)

    assert not [exchange for exchange in ground.proxy.exchanges if exchange.request.path.startswith("/elsewhere")]
    assert ground.direct.read("a.bin") == OLD


REFUSALS = {
    "AuthenticationFailed": (403, PermissionDeniedError, "with NTP|clock"),
    "Md5Mismatch": (400, IntegrityError, "not the ones that were sent"),
    "ContainerNotFound": (404, ConfigurationError, "no such container"),
    "LeaseIdMissing": (412, PermissionDeniedError, "a lease"),
    "AccountIsDisabled": (403, PermissionDeniedError, "disabled"),
}


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize("wanted", WRITES)
def test_a_write_that_is_refused_leaves_nothing(ground, wanted, code):
    """At whatever step: the error says why, and the old content stays."""
    status, kind, text = REFUSALS[code]
    ground.script(wanted, azure_error(status, code), ...)

    with pytest.raises(kind, match=text):
        ground.through.write("a.bin", WRITES[wanted])

    assert ground.direct.read("a.bin") == OLD
    assert ground.asked().count(wanted) <= 2  # a refusal is final; of two blocks both may hear it


# -- lost answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", WRITES)
def test_an_answer_that_was_lost_after_the_deed_is_success(ground, wanted):
    """It is asked again, and done again."""
    ground.script(wanted, Lose(after_server=True))

    ground.through.write("a.bin", WRITES[wanted])

    assert ground.direct.read("a.bin") == WRITES[wanted]


@LAST_STEPS
def test_a_write_of_which_every_answer_was_lost_is_an_error_or_done(ground, wanted):
    """Nobody can tell more; what is stored is whole."""
    ground.script(wanted, Lose(after_server=True), ...)

    with pytest.raises(StorageUnavailableError, match="try again"):
        ground.through.write("a.bin", WRITES[wanted])

    assert ground.direct.read("a.bin") == WRITES[wanted]


AFTER_THE_DEED: dict[str, list[Answer | Lose]] = {
    "lost": [Lose(after_server=True)],
    "lost twice": [Lose(after_server=True)] * 2,
    "gateway timeout": [Answer(504, PAGE, after_server=True)],
    "gateway timeouts": [Answer(504, PAGE, after_server=True)] * 2,
    "busy": [azure_error(503, "ServerBusy", after_server=True)] * 2,
    "a status of its own": [Answer(299, b"?", after_server=True)],
    "headers that make no sense": [Answer(201, b"", {"Last-Modified": "?"}, after_server=True)],
}


@pytest.mark.parametrize("trouble", AFTER_THE_DEED)
@LAST_STEPS
def test_an_exclusive_write_whose_answer_was_lost_does_not_find_itself_in_the_way(ground, wanted, trouble):
    """Asked again, the service says that the name is taken: by us."""
    ground.script(wanted, *AFTER_THE_DEED[trouble])

    ground.through.write("new.bin", WRITES[wanted], exclusive=True)

    assert ground.direct.read("new.bin") == WRITES[wanted]
    assert ground.direct.stat("new.bin").metadata == {}


@pytest.mark.parametrize("trouble", AFTER_THE_DEED)
@LAST_STEPS
def test_a_write_over_one_version_whose_answer_was_lost_is_success(ground, wanted, trouble):
    """Asked again, the service says that the version is another: ours."""
    ground.script(wanted, *AFTER_THE_DEED[trouble])

    ground.through.write("a.bin", WRITES[wanted], if_match=ground.direct.stat("a.bin").etag)

    assert ground.direct.read("a.bin") == WRITES[wanted]


@LAST_STEPS
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_an_exclusive_write_whose_name_is_taken_says_so(ground, wanted, lost):
    """By somebody else before us; what is stored is untouched. That it is taken is known also of an answer lost."""
    ground.script(wanted, *[Lose(after_server=True)] * lost)
    kind = StorageUnavailableError if lost == 2 else FileExistsInStorageError

    with pytest.raises(kind):
        ground.through.write("a.bin", WRITES[wanted], exclusive=True)

    assert ground.direct.read("a.bin") == OLD


@LAST_STEPS
@pytest.mark.parametrize("theirs", ["other", "equal"])
def test_an_exclusive_write_that_somebody_else_overtakes_says_so(ground, wanted, theirs):
    """Between the request that was lost and the one that repeats it; also where the other writes the same bytes."""
    content = OLD if theirs == "other" else WRITES[wanted]
    lost: list[Request] = []

    def decide(request):
        if operation(request) != wanted or lost:
            return None
        lost.append(request)
        ground.direct.write("new.bin", content)
        return Lose(after_server=False)

    ground.proxy.script = decide

    with pytest.raises(FileExistsInStorageError, match="exists: choose another name"):
        ground.through.write("new.bin", WRITES[wanted], exclusive=True)

    assert ground.direct.read("new.bin") == content


@LAST_STEPS
def test_a_write_over_one_version_that_somebody_else_overtakes_says_so(ground, wanted):
    """Between the request that was lost and the one that repeats it."""
    etag = ground.direct.stat("a.bin").etag
    lost: list[Request] = []

    def decide(request):
        if operation(request) != wanted or lost:
            return None
        lost.append(request)
        ground.direct.write("a.bin", WRITES[wanted], if_match=etag)
        return Lose(after_server=False)

    ground.proxy.script = decide

    with pytest.raises(PreconditionFailedError):
        ground.through.write("a.bin", WRITES[wanted], if_match=etag)


@LAST_STEPS
def test_a_write_that_was_not_done_and_cannot_be_looked_for_is_an_error(ground, wanted):
    """Neither the answer nor the look at what is stored comes: it does not count as done."""
    ground.proxy.script = lambda request: Lose(after_server=False) if operation(request) != "Put Block" else None

    with pytest.raises(StorageUnavailableError):
        ground.through.write("new.bin", WRITES[wanted], exclusive=True)

    assert not ground.direct.exists("new.bin")


def test_finishing_parts_exclusively_whose_answer_was_lost_is_success(ground):
    """The same for whoever drives the part calls."""
    upload = ground.through.multipart.create("new.bin", WriteOptions())
    part = ground.through.multipart.upload_part("new.bin", upload, 1, NEW)
    ground.script("Put Block List", Lose(after_server=True))

    ground.through.multipart.complete("new.bin", upload, [part], WriteOptions(exclusive=True))

    assert ground.direct.read("new.bin") == NEW


def test_a_deletion_whose_answer_was_lost_is_success(ground):
    """Asked again, there is nothing to delete."""
    ground.script("Delete Blob", Lose(after_server=True))

    ground.through.delete("a.bin")

    assert not ground.direct.exists("a.bin")


def test_a_copy_whose_answer_was_lost_is_success(ground):
    """It is made again."""
    ground.script("Copy Blob", Lose(after_server=True))

    ground.through.copy("a.bin", "b.bin")

    assert ground.direct.read("b.bin") == OLD


@pytest.mark.parametrize("lost", [1, 2])
def test_an_exclusive_copy_whose_answer_was_lost_is_never_told_that_it_was_overtaken(ground, lost):
    """Either it counts as success, or as trouble on the way; the name is not somebody else's."""
    ground.script("Copy Blob", *[Lose(after_server=True)] * lost)

    error = None
    try:
        ground.through.copy("a.bin", "b.bin", exclusive=True)
    except StorageUnavailableError as raised:
        error = raised

    assert error is None or lost == 2
    assert ground.direct.read("b.bin") == OLD


@LAST_STEPS
def test_an_answer_to_the_last_step_without_headers_is_enough(ground, wanted):
    """It says 201, and it is so."""
    ground.script(wanted, Answer(201, after_server=True))

    ground.through.write("a.bin", WRITES[wanted])

    assert ground.direct.read("a.bin") == WRITES[wanted]


@pytest.mark.parametrize("arguments", [{}, {"exclusive": True}], ids=["in any case", "exclusive"])
def test_an_upload_that_another_one_overtakes_is_an_error(ground, arguments):
    """Azure forgets the blocks when other blocks become the blob: it is said, and what is stored stays."""
    other = LARGE[::-1]
    seen: list[Request] = []

    def decide(request):
        if operation(request) == "Put Block List" and not seen:
            seen.append(request)
            ground.direct.write("new.bin", other)

    ground.proxy.script = decide

    with pytest.raises(FileExistsInStorageError if arguments else PreconditionFailedError):
        ground.through.write("new.bin", LARGE, **arguments)

    assert ground.direct.read("new.bin") == other


# -- downloads --------------------------------------------------------------------------------------------------------

MD5 = "Content-MD5"


def answer_of(ground, body, *, without=(), before_body=False, **headers):
    """The answer to a request for the whole of a.bin, with this body and other headers than the right ones."""
    usual = {
        "ETag": f'"{ground.direct.stat("a.bin").etag}"',
        "Last-Modified": DATE,
        "Content-Type": "application/octet-stream",
        "Content-Range": f"bytes 0-{len(OLD) - 1}/{len(OLD)}",
        "x-ms-blob-type": "BlockBlob",
    }
    given = {**usual, **{name.replace("_", "-"): value for name, value in headers.items()}}
    kept = {name: value for name, value in given.items() if name not in without}
    return Answer(206, body, kept, before_body=before_body)


@pytest.mark.parametrize("short", [0, 1, len(OLD) - 1])
def test_a_body_that_ends_early_is_asked_for_again(ground, short):
    """The length that was announced is right, the content is not all there: what is missing is fetched."""
    headers = {"Content_Length": str(len(OLD)), "Connection": "close"}
    ground.script("Get Blob", answer_of(ground, OLD[:short], before_body=True, **headers))
    target = io.BytesIO()

    ground.through.download("a.bin", target)

    assert target.getvalue() == OLD
    assert ground.asked() == ["Get Blob", "Get Blob"]


@pytest.mark.parametrize("short", [0, 1, len(OLD) - 1])
def test_a_body_that_always_ends_early_is_an_error(ground, short):
    """Short data is never all of the file."""
    headers = {"Content_Length": str(len(OLD)), "Connection": "close"}
    ground.script("Get Blob", answer_of(ground, OLD[:short], before_body=True, **headers), ...)

    with pytest.raises(StorageUnavailableError):
        ground.through.read("a.bin")


@pytest.mark.parametrize("short", [1, len(OLD) - 1])
def test_a_body_that_says_that_it_is_shorter_than_its_range_is_not_all_of_the_file(ground, short):
    """The range says how much there is; what is missing is fetched."""
    ground.script("Get Blob", answer_of(ground, OLD[:short]))

    assert ground.through.read("a.bin") == OLD


def test_a_body_that_is_longer_than_the_blob_is_not_taken_whole(ground):
    """What comes behind the end of the blob belongs to nothing, and never reaches the reader."""
    ground.script("Get Blob", answer_of(ground, OLD + b"more"), ...)

    try:
        data = ground.through.read("a.bin")
    except StorageError:
        data = OLD

    assert data == OLD


@pytest.mark.parametrize("size", ["0", "1", str(len(OLD) - 1), "-5", "x", "", "*"])
def test_a_range_that_contradicts_its_bytes_is_an_error(ground, size):
    """Of a total that cannot be, the file is not made shorter."""
    ground.script("Get Blob", answer_of(ground, OLD, Content_Range=f"bytes 0-{len(OLD) - 1}/{size}"), ...)

    with pytest.raises(StorageError):
        ground.through.read("a.bin")


def test_a_wrong_md5_is_an_error_that_says_so(ground):
    """The next read is right."""
    ground.script("Get Blob", answer_of(ground, OLD, Content_MD5="1B2M2Y8AsgTpgAmY7PhCfg=="))

    with pytest.raises(IntegrityError, match="not the ones that were stored: read the file again"):
        ground.through.read("a.bin")

    assert ground.through.read("a.bin") == OLD


def test_a_wrong_md5_amid_a_large_file_is_an_error_that_says_so(ground):
    """Of any range."""
    ground.direct.write("a.bin", LARGE)

    def decide(request):
        first, _, last = str(request.headers.get("x-ms-range")).removeprefix("bytes=").partition("-")
        if operation(request) != "Get Blob" or first == "0":
            return None
        end = min(int(last), len(LARGE) - 1)
        headers = {"Content_MD5": "1B2M2Y8AsgTpgAmY7PhCfg==", "Content_Range": f"bytes {first}-{end}/{len(LARGE)}"}
        return answer_of(ground, LARGE[int(first) : end + 1], **headers)

    ground.proxy.script = decide

    with pytest.raises(IntegrityError, match="not the ones that were stored"):
        ground.through.read("a.bin")


@pytest.mark.parametrize("size", [1, len(LARGE) - 1, len(LARGE) + 1, 10 * len(LARGE)])
def test_two_sizes_of_one_version_are_an_error(ground, size):
    """A total that was damaged in the first answer makes a file neither shorter nor longer."""
    ground.direct.write("a.bin", LARGE)
    size = max(size, 65_537)  # more than the first answer brings
    headers = {"Content_Range": f"bytes 0-65535/{size}"}
    ground.script("Get Blob", answer_of(ground, LARGE[:65_536], **headers))

    with pytest.raises(StorageError):
        ground.through.read("a.bin")


def test_a_total_that_is_just_what_was_asked_for_is_looked_at_twice(ground):
    """By plain HTTP: a digit that was damaged on its way would end the file too soon."""
    ground.direct.write("a.bin", LARGE[:65_537])
    headers = {"Content_Range": "bytes 0-65535/65536"}
    ground.script("Get Blob", answer_of(ground, LARGE[:65_536], **headers))

    with pytest.raises(IntegrityError, match="the size that arrived is not the one that is stored"):
        ground.through.read("a.bin")

    ground.direct.write("a.bin", LARGE[:65_536])
    assert ground.through.read("a.bin") == LARGE[:65_536]


def test_no_connection_is_lost_with_an_answer_that_nobody_read(ground, in_bounded_time):
    """Of an error to a download, or of more than was asked for: the one that there is can be used again and again."""
    storage = ground.behind(max_connections=1, max_attempts=2, retry_policy=TWICE_AT_ONCE, concurrency=1)
    for answer in (BUSY[0], Answer(502, PAGE), Answer(404), answer_of(ground, OLD + bytes(100_000))):
        for _ in range(3):
            ground.script("Get Blob", answer)
            with contextlib.suppress(StorageError):
                storage.read("a.bin")

    ground.pass_on()
    assert storage.read("a.bin") == OLD


@pytest.mark.parametrize("missing", ["ETag", "Last-Modified", "Content-Range"])
@pytest.mark.parametrize("verb", ["read", "stat"])
def test_a_blob_without_what_every_blob_has_is_an_error(ground, verb, missing):
    """No version can be held to, no size is known: it is said, not guessed."""
    answer = answer_of(ground, OLD, without=[missing])
    if verb == "stat":
        if missing == "Content-Range":
            missing = "Content-Length"
        answer = dataclasses.replace(answer, status=200)
    ground.proxy.script = lambda request: answer

    if missing == "Content-Length":  # the size of a HEAD is there after all
        assert ground.through.stat("a.bin").size == len(OLD)
        return
    with pytest.raises(StorageError):
        getattr(ground.through, verb)("a.bin")


@pytest.mark.parametrize("short", [1, len(OLD) - 1])
def test_a_body_that_is_wrong_and_ends_early_is_not_taken_up_where_it_ended(ground, short):
    """Of less than all of an answer no MD5 tells whether it is right, so all of it is fetched again."""
    wrong = bytes(byte ^ 1 for byte in OLD[:short])
    headers = {"Content_Length": str(len(OLD)), "Connection": "close"}
    ground.script("Get Blob", answer_of(ground, wrong, before_body=True, **headers))

    assert ground.through.read("a.bin") == OLD


def test_a_refusal_that_is_told_in_a_body_alone_is_understood(ground):
    """The body is read before the connection is given up."""
    body = b'<?xml version="1.0"?><Error><Code>AuthorizationPermissionMismatch</Code><Message>no</Message></Error>'
    ground.script("Get Blob", Answer(403, body, {"Content-Type": "application/xml"}))

    with pytest.raises(PermissionDeniedError, match="AuthorizationPermissionMismatch"):
        ground.through.read("a.bin")


@pytest.mark.parametrize("before_body", [True, False])
def test_a_refusal_whose_body_breaks_off_is_an_error(ground, before_body):
    """And another attempt is made."""
    headers = {"Content-Type": "application/xml", "Content-Length": "1000", "Connection": "close"}
    ground.script("Get Blob", Answer(503, b"<?xml", headers, before_body=before_body))

    assert ground.through.read("a.bin") == OLD

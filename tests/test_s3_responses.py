"""What a service says, or fails to say, and what comes of it: the right error or success, and nothing left behind."""

import dataclasses
import io
from datetime import timedelta

import pytest

from flask_storage import (
    ConfigurationError,
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    IntegrityError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    ThrottledError,
    WriteOptions,
)
from flask_storage.backends.s3.presets import PRESETS
from flask_storage.multipart import Part
from tests.s3_storages import make_storage
from tests.scripted_ground import ScriptedGround
from tests.services.scripted_proxy import Answer, Lose, Request, s3_error
from tests.variants import variants

pytest_plugins = ["tests.services.s3"]

NOW = timedelta(0)
OLD, NEW = b"old" * 1000, b"new" * 1000
LARGE = bytes(range(256)) * (4096 * 6)  # 6 MiB: two parts


class Ground(ScriptedGround):
    """A bucket, and storages that come to it through a proxy with a script.

    Args:
        server: Where the bucket is.
    """

    def __init__(self, server):
        super().__init__(server.http, operation)
        self.server = server
        self.bucket = server.make_bucket()
        self.direct = self.storage(server)
        self.through = self.storage(dataclasses.replace(server, http=self.proxy.url), max_attempts=2)

    def storage(self, server, **arguments):
        """Make a storage on the bucket."""
        if server.name == "localstack":
            arguments["preset"] = dataclasses.replace(PRESETS["aws"], copy_conditions=False)
        self.storages.append(make_storage(server, bucket=self.bucket, **arguments))
        return self.storages[-1]

    def left(self):
        """The uploads that were begun and not ended."""
        return list(self.direct.multipart.list_uploads())

    def close(self):
        """Remove everything."""
        super().close()
        self.server.remove_bucket(self.bucket)


def operation(request):
    """Name what a request asks for, in S3's own words."""
    names = set(request.query) - {"prefix", "max-keys"}
    if "uploads" in names:
        return "CreateMultipartUpload" if request.method == "POST" else "ListMultipartUploads"
    if "uploadId" in names:
        return {
            "PUT": "UploadPart",
            "POST": "CompleteMultipartUpload",
            "DELETE": "AbortMultipartUpload",
            "GET": "ListParts",
        }[request.method]
    return {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}[request.method]


@pytest.fixture(scope="module")
def grounds(request):
    """One ground for each server that is asked for."""
    made = {}

    def ground(name):
        if name not in made:
            made[name] = Ground(request.getfixturevalue(name))
        return made[name]

    yield ground
    for each in made.values():
        each.close()


@pytest.fixture(params=variants("localstack", "rgw"))
def ground(grounds, request):
    """The ground on Ceph, or on the server that the test names, with old content in it."""
    made = grounds(request.param)
    made.pass_on()
    made.direct.write("a.bin", OLD)
    yield made
    made.pass_on()
    left = made.left()
    made.direct.sweep(NOW)
    for entry in made.direct.list():
        made.direct.delete(entry.name)
    assert not left


def on(*names):
    """Run a test on each of these servers."""
    return pytest.mark.parametrize("ground", names, indirect=True)


BUSY = [s3_error(500, "InternalError"), s3_error(503, "SlowDown"), s3_error(503, "ServiceUnavailable")]
BUSY_IDS = ["500", "slow down", "503"]
WRITES = {
    "PutObject": NEW,
    "CreateMultipartUpload": LARGE,
    "UploadPart": LARGE,
    "CompleteMultipartUpload": LARGE,
}

# -- trouble of the service -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", BUSY, ids=BUSY_IDS)
@pytest.mark.parametrize("wanted", WRITES)
def test_a_write_gets_over_a_short_trouble(ground, wanted, busy):
    """One answer like this, and the request is made again."""
    ground.script(wanted, busy)

    ground.through.write("a.bin", WRITES[wanted])

    assert ground.direct.read("a.bin") == WRITES[wanted]
    assert ground.asked().count(wanted) == (3 if wanted == "UploadPart" else 2)


@pytest.mark.parametrize("busy", BUSY, ids=BUSY_IDS)
@pytest.mark.parametrize("wanted", WRITES)
def test_a_write_gives_up_a_long_trouble(ground, wanted, busy):
    """The error says what is wrong; the old content stays, and no unfinished upload does."""
    ground.script(wanted, busy, ...)
    kind = ThrottledError if b"SlowDown" in busy.body else StorageUnavailableError

    with pytest.raises(kind, match=r"a\.bin in the bucket .*: (send fewer requests|try again)") as caught:
        ground.through.write("a.bin", WRITES[wanted])

    assert type(caught.value) is kind
    assert ground.direct.read("a.bin") == OLD


@pytest.mark.parametrize("busy", BUSY, ids=BUSY_IDS)
def test_a_read_gets_over_a_short_trouble_and_gives_up_a_long_one(ground, busy):
    """As writing does."""
    ground.script("GetObject", busy)
    assert ground.through.read("a.bin") == OLD
    ground.script("GetObject", busy, ...)

    with pytest.raises(StorageUnavailableError, match=r"send fewer requests|try again"):
        ground.through.read("a.bin")


def test_an_upload_gets_over_more_failures_of_a_part_than_boto3_does(ground):
    """boto3's own attempts are used up; the part is sent once more all the same."""
    ground.script("UploadPart", *[s3_error(500, "InternalError")] * 2)

    ground.through.write("a.bin", LARGE)

    assert ground.direct.read("a.bin") == LARGE


def test_a_proxy_that_says_bad_gateway_in_html_is_no_mystery(ground):
    """Its page is not S3's language; its status says enough."""
    page = Answer(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", {"Content-Type": "text/html"})
    ground.script("PutObject", page, ...)

    with pytest.raises(StorageUnavailableError, match="not available: try again"):
        ground.through.write("a.bin", NEW)

    assert ground.direct.read("a.bin") == OLD


@pytest.mark.parametrize("verb", ["write", "read", "stat"])
def test_a_refusal_without_a_word_is_a_refusal(ground, verb):
    """An empty 403, as some firewalls give."""
    ground.proxy.script = lambda request: Answer(403)
    act = {
        "write": lambda: ground.through.write("a.bin", NEW),
        "read": lambda: ground.through.read("a.bin"),
        "stat": lambda: ground.through.stat("a.bin"),
    }[verb]

    with pytest.raises(PermissionDeniedError, match="access is denied: a policy must allow this"):
        act()

    assert ground.direct.read("a.bin") == OLD


@pytest.mark.parametrize("status", [301, 307])
@pytest.mark.parametrize("verb", ["write", "read", "stat"])
def test_a_redirect_says_that_the_region_is_wrong(ground, verb, status):
    """To wherever it points: what is signed for one place is not for another."""
    body = s3_error(status, "PermanentRedirect").body
    headers = {"Content-Type": "application/xml", "x-amz-bucket-region": "eu-west-9"}
    ground.proxy.script = lambda request: Answer(status, b"" if request.method == "HEAD" else body, headers)
    act = {
        "write": lambda: ground.through.write("a.bin", NEW),
        "read": lambda: ground.through.read("a.bin"),
        "stat": lambda: ground.through.stat("a.bin"),
    }[verb]

    with pytest.raises(StorageError) as caught:
        act()

    assert isinstance(caught.value, ConfigurationError)
    assert "set aws_region to eu-west-9" in str(caught.value)


REFUSALS = {
    "ExpiredToken": (400, PermissionDeniedError, "have expired: get new ones"),
    "BadDigest": (400, IntegrityError, "not the ones that were sent"),
    "RequestTimeTooSkewed": (403, PermissionDeniedError, "with NTP"),
    "NoSuchBucket": (404, ConfigurationError, "no such bucket"),
    "OperationAborted": (409, StorageUnavailableError, "try again"),
}


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize("wanted", WRITES)
def test_a_write_that_is_refused_leaves_nothing(ground, wanted, code):
    """At whatever step: the error says why, the old content stays, and no unfinished upload does."""
    status, kind, text = REFUSALS[code]
    ground.script(wanted, s3_error(status, code), ...)

    with pytest.raises(kind, match=text):
        ground.through.write("a.bin", WRITES[wanted])

    assert ground.direct.read("a.bin") == OLD


# -- uploads in parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["InternalError", "SlowDown"])
def test_an_error_that_comes_as_200_is_an_error(ground, code):
    """S3 says 200 before it is ready, and may then say that it has failed."""
    ground.script("CompleteMultipartUpload", s3_error(500, code, as_status=200), ...)

    with pytest.raises(StorageUnavailableError):
        ground.through.write("a.bin", LARGE)

    assert ground.direct.read("a.bin") == OLD


def test_an_error_that_comes_as_200_once_is_got_over(ground):
    """The second time, it is completed."""
    ground.script("CompleteMultipartUpload", s3_error(500, "InternalError", as_status=200))

    ground.through.write("a.bin", LARGE)

    assert ground.direct.read("a.bin") == LARGE


def test_a_failed_end_is_told_as_it_was_when_nobody_may_look_why(ground):
    """Whether the upload is gone cannot be asked without the right to list parts; the first error stays the one."""
    failures = {
        "CompleteMultipartUpload": s3_error(500, "InternalError", as_status=200),
        "ListParts": s3_error(403, "AccessDenied"),
    }
    ground.proxy.script = lambda request: failures.get(operation(request))

    with pytest.raises(StorageUnavailableError):
        ground.through.write("a.bin", LARGE)

    assert ground.direct.read("a.bin") == OLD


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("wanted", ["PutObject", "CompleteMultipartUpload"])
def test_an_answer_that_was_lost_after_the_deed_is_success(ground, wanted, lost):
    """Also when it is asked again and refused; what is stored tells."""
    ground.script(wanted, *[Lose(after_server=True)] * lost)

    ground.through.write("a.bin", WRITES[wanted])

    assert ground.direct.read("a.bin") == WRITES[wanted]
    assert ground.asked().count("CreateMultipartUpload") == (wanted != "PutObject")


@pytest.mark.parametrize("wanted", ["PutObject", "CompleteMultipartUpload"])
def test_an_error_after_the_deed_is_success(ground, wanted):
    """A gateway that gave up waiting for a server which did what it was asked."""
    ground.script(wanted, *[s3_error(504, "GatewayTimeout", after_server=True)] * 2)

    ground.through.write("a.bin", WRITES[wanted])

    assert ground.direct.read("a.bin") == WRITES[wanted]


def test_a_lost_completion_is_not_confirmed_without_md5_etags(ground):
    """Where the ETags of the parts are not MD5 digests, the client cannot compute the ETag of the stored object."""
    upload_id = ground.through.multipart.create("a.bin", WriteOptions())
    ground.script("CompleteMultipartUpload", Lose(after_server=False), ...)

    with pytest.raises(StorageUnavailableError):
        ground.through.multipart.complete("a.bin", upload_id, [Part(number=1, size=1, etag="opaque")], WriteOptions())

    ground.direct.multipart.abort("a.bin", upload_id)
    assert ground.direct.read("a.bin") == OLD


@on("localstack")
@pytest.mark.parametrize("wanted", ["PutObject", "CompleteMultipartUpload"])
def test_an_exclusive_write_whose_answer_was_lost_does_not_find_itself_in_the_way(ground, wanted):
    """Asked again, the service says that the name is taken: by us."""
    ground.script(wanted, Lose(after_server=True))

    ground.through.write("new.bin", WRITES[wanted], exclusive=True)

    assert ground.direct.read("new.bin") == WRITES[wanted]


@on("localstack")
@pytest.mark.parametrize("wanted", ["PutObject", "CompleteMultipartUpload"])
@pytest.mark.parametrize("lost", [False, True])
def test_an_exclusive_write_whose_name_is_taken_says_so(ground, wanted, lost):
    """By somebody else, before us or after the answer that was lost; what is stored is untouched."""
    ground.script(wanted, *[Lose(after_server=False)] * lost)

    with pytest.raises(FileExistsInStorageError, match="exists: choose another name"):
        ground.through.write("a.bin", WRITES[wanted], exclusive=True)

    assert ground.direct.read("a.bin") == OLD


@on("localstack")
@pytest.mark.parametrize("wanted", ["PutObject", "CompleteMultipartUpload"])
def test_an_exclusive_write_does_not_take_equal_content_for_its_own(ground, wanted):
    """Of two who write the same under one name, as with a lock, only one succeeds, whatever is lost on the way."""
    ground.direct.write("a.bin", WRITES[wanted])
    ground.script(wanted, Lose(after_server=False))

    with pytest.raises(FileExistsInStorageError):
        ground.through.write("a.bin", WRITES[wanted], exclusive=True)


@on("localstack")
@pytest.mark.parametrize("wanted", ["PutObject", "CompleteMultipartUpload"])
def test_a_conflict_says_that_somebody_else_was_at_it(ground, wanted):
    """A 409 is no reason to overwrite what the other wrote."""
    ground.script(wanted, s3_error(409, "ConditionalRequestConflict"), ...)

    with pytest.raises(PreconditionFailedError, match="look what is stored, and try again"):
        ground.through.write("new.bin", WRITES[wanted], exclusive=True)

    assert not ground.direct.exists("new.bin")


def test_a_part_that_is_answered_without_an_etag_is_an_error(ground):
    """Without it nobody can complete the upload; a guess would be no check."""
    ground.script("UploadPart", Answer(200), ...)

    with pytest.raises(StorageError):
        ground.through.write("a.bin", LARGE)

    assert ground.direct.read("a.bin") == OLD


def test_half_an_etag_is_none(ground):
    """The answer ended in the middle of it."""
    ground.proxy.script = lambda request: Answer(
        200, b"", {"ETag": '"0123', "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}
    )

    with pytest.raises(StorageError, match="no ETag"):
        ground.through.stat("a.bin")


@pytest.mark.parametrize("verb", ["read", "stat"])
def test_an_object_without_a_date_is_an_error(ground, verb):
    """It is said, and not guessed."""
    ground.proxy.script = lambda request: Answer(200, OLD, {"ETag": '"0123"'})

    with pytest.raises(StorageError):
        getattr(ground.through, verb)("a.bin")


@pytest.mark.parametrize("wanted", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
def test_an_answer_without_what_it_always_has_is_asked_for_again(ground, wanted):
    """The connection may have ended amid its headers."""
    ground.script(wanted, Answer(200))

    ground.through.write("a.bin", LARGE)

    assert ground.direct.read("a.bin") == LARGE


@pytest.mark.parametrize("wanted", ["PutObject", "CompleteMultipartUpload"])
def test_an_answer_to_the_last_step_without_an_etag_is_enough(ground, wanted):
    """It says 200, and it is so."""
    done = b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"
    body = done if wanted == "CompleteMultipartUpload" else b""
    ground.script(wanted, Answer(200, body, after_server=True))

    ground.through.write("a.bin", WRITES[wanted])

    assert ground.direct.read("a.bin") == WRITES[wanted]


@pytest.mark.parametrize("verb", ["read", "stat"])
def test_an_object_without_an_etag_is_an_error(ground, verb):
    """No version can be held to: it is said, not guessed."""
    ground.proxy.script = lambda request: Answer(200, OLD, {"Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"})

    with pytest.raises(StorageError):
        getattr(ground.through, verb)("a.bin")


@pytest.mark.parametrize("wanted", ["UploadPart", "CompleteMultipartUpload"])
def test_an_upload_that_somebody_ends_in_between_is_an_error(ground, wanted):
    """Whoever sweeps too early takes the parts away: the writer says so, and what is stored stays."""
    seen: list[Request] = []

    def decide(request):
        if operation(request) == wanted and not seen:
            seen.append(request)
            ground.direct.sweep(NOW)

    ground.proxy.script = decide

    with pytest.raises(FileNotFoundInStorageError, match=r"a\.bin \(upload\)"):
        ground.through.write("a.bin", LARGE)

    assert ground.direct.read("a.bin") == OLD


def test_an_abort_that_fails_is_logged_and_the_first_error_is_told(ground, caplog):
    """The one that made us give up matters more; the sweep takes what stays behind."""

    def decide(request):
        if operation(request) == "UploadPart":
            return s3_error(403, "AccessDenied")
        return s3_error(500, "InternalError") if operation(request) == "AbortMultipartUpload" else None

    ground.proxy.script = decide

    with pytest.raises(PermissionDeniedError):
        ground.through.write("a.bin", LARGE)

    assert "left behind for the sweep" in caplog.text
    assert len(ground.left()) == 1
    ground.proxy.script = lambda request: None
    ground.direct.sweep(NOW)
    assert ground.direct.read("a.bin") == OLD


# -- downloads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("short", [0, 1, len(OLD) - 1])
def test_a_body_that_ends_early_is_asked_for_again(ground, short):
    """The length that was announced is right, the content is not all there: what is missing is fetched."""
    info = ground.direct.stat("a.bin")
    headers = {
        "ETag": f'"{info.etag}"',
        "Content-Length": str(len(OLD)),
        "Content-Range": f"bytes 0-{len(OLD) - 1}/{len(OLD)}",
        "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT",
        "Connection": "close",
    }
    ground.script("GetObject", Answer(206, OLD[:short], headers, before_body=True))
    target = io.BytesIO()

    ground.through.download("a.bin", target)

    assert target.getvalue() == OLD
    assert ground.asked() == ["GetObject", "GetObject"]


def test_a_body_that_is_longer_than_the_object_is_not_taken_whole(ground):
    """What comes behind the end of the object belongs to nothing, and never reaches the reader."""
    headers = {
        "ETag": f'"{ground.direct.stat("a.bin").etag}"',
        "Content-Range": f"bytes 0-{len(OLD) - 1}/{len(OLD)}",
        "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT",
    }
    ground.script("GetObject", Answer(206, OLD + b"more", headers))

    data = ground.through.read("a.bin")

    assert data == OLD


def test_an_answer_that_cannot_be_read_is_an_error_of_ours(ground):
    """boto3 has none of its own for it."""
    nonsense = {"Last-Modified": "?", "ETag": '"1"', "Content-Length": "1"}
    ground.script("HeadObject", Answer(200, b"", nonsense), ...)

    with pytest.raises(StorageUnavailableError, match="makes no sense"):
        ground.through.stat("a.bin")

"""What Azure answers when something is wrong, and what we say of it: the right error, and what to do."""

import base64
import contextlib
import dataclasses
import io
import re
import secrets
import traceback
import types
from concurrent.futures import CancelledError
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from azure.core import exceptions as sdk
from azure.storage.blob import ContainerSasPermissions, StorageErrorCode, generate_container_sas

from flask_storage import (
    AzureStorage,
    ConfigurationError,
    FileExistsInStorageError,
    FileNotFoundInStorageError,
    IntegrityError,
    InvalidPathError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    StorageFullError,
    StorageTimeoutError,
    StorageUnavailableError,
    ThrottledError,
    TooLargeError,
    UnsupportedOperationError,
    WriteOptions,
)
from flask_storage.backends.azure.errors import (
    _BY_CLASS,
    _BY_CODE,
    _BY_STATUS,
    code_of,
    status_of,
    translate_error,
    translating_conditions,
)
from tests.azure_storages import make_storage
from tests.services.s3_servers import free_port
from tests.services.scripted_proxy import Answer, Lose, ScriptedProxy, azure_error

pytest_plugins = ["tests.services.azurite"]

MIB = 1 << 20
HOUR = timedelta(hours=1)
SECRET = "not-for-the-logs"
OTHER_KEY = base64.b64encode(secrets.token_bytes(64)).decode()

# What stands in the texts must be a step that somebody can take, or a fact that leaves nothing to do.
STEP = re.compile(
    r"check|create|try again|ask |choose|wait until|configure|it takes|see the|send fewer|rehydrate|delete these first"
    r"|write it anew|at most|is for https only|is not for|does not allow|was given|not public|may create|takes hours"
    r"|can be neither|being deleted|is disabled|is not the name|no such|refuses a header|not the version|was replaced"
    r"|not a block blob|not the ones|is none|as large as|cannot hold|is full|does not know|does not do this"
    r"|read_timeout|connect_timeout|have them committed|older than the SDK"
)


def http_error(code="", status=400, kind=sdk.HttpResponseError):
    """Return the SDK's error for an answer; the message is one that quotes what was signed."""
    response = types.SimpleNamespace(status_code=status, reason=SECRET, headers={}, text=lambda *_: SECRET)
    error = kind(message=f"quoting {SECRET}", response=response)
    if code:
        error.error_code = code
    return error


def made_of(error, path: str | None = "a.txt"):
    """Return our error for one of the SDK's."""
    made = translate_error(error, path, "files", "docs")
    assert made is not None
    return made


# -- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(_BY_CODE))
def test_each_code_becomes_our_error(code):
    """Of the type in the table; the text names path and container, the code, and a step to take, but no secret."""
    made = made_of(http_error(code))

    assert type(made) is _BY_CODE[code][0]
    assert isinstance(made, StorageError)
    assert "a.txt" in str(made)
    assert SECRET not in str(made)
    if not isinstance(made, FileNotFoundInStorageError):
        assert f"({code})" in str(made)
        assert "a.txt in the container files" in str(made)
        assert STEP.search(str(made)), made
        assert str(made_of(http_error(code), None)).startswith("the container files: ")


@pytest.mark.parametrize(
    ("code", "kind", "builtin"),
    [
        ("AuthenticationFailed", PermissionDeniedError, PermissionError),
        ("AuthorizationFailure", PermissionDeniedError, PermissionError),
        ("AuthorizationPermissionMismatch", PermissionDeniedError, PermissionError),
        ("LeaseIdMissing", PermissionDeniedError, PermissionError),
        ("BlobArchived", PermissionDeniedError, PermissionError),
        ("BlobNotFound", FileNotFoundInStorageError, FileNotFoundError),
        ("ContainerNotFound", ConfigurationError, ValueError),
        ("BlobAlreadyExists", FileExistsInStorageError, FileExistsError),
        ("ConditionNotMet", PreconditionFailedError, StorageError),
        ("InvalidBlockList", PreconditionFailedError, StorageError),
        ("Md5Mismatch", IntegrityError, StorageError),
        ("RequestBodyTooLarge", TooLargeError, StorageError),
        ("InvalidUri", InvalidPathError, ValueError),
        ("AccountLimitExceeded", StorageFullError, StorageError),
        ("ServerBusy", ThrottledError, ConnectionError),
        ("InternalError", StorageUnavailableError, ConnectionError),
        ("FeatureNotSupportedForAccount", UnsupportedOperationError, NotImplementedError),
    ],
)
def test_what_the_well_known_codes_become(code, kind, builtin):
    """Said once more beside the table, so that nobody changes it unseen; each is a built-in where one fits."""
    made = made_of(http_error(code))

    assert type(made) is kind
    assert isinstance(made, builtin)


@pytest.mark.parametrize("status", sorted(_BY_STATUS))
def test_an_answer_without_a_known_code_counts_by_its_status(status):
    """As that of a proxy in between, or of an emulator with words of its own."""
    code = _BY_STATUS[status]

    found = [code_of(http_error(given, status)) for given in ("", "WordsOfItsOwn")]

    assert found == [code, code]
    assert code in _BY_CODE


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, PermissionDeniedError),
        (403, PermissionDeniedError),
        (404, FileNotFoundInStorageError),
        (409, StorageError),
        (431, TooLargeError),
        (412, PreconditionFailedError),
        (413, TooLargeError),
        (429, ThrottledError),
        (500, StorageUnavailableError),
        (501, UnsupportedOperationError),
        (502, StorageUnavailableError),
        (503, ThrottledError),
        (504, StorageUnavailableError),
    ],
)
def test_what_the_statuses_become(status, kind):
    """A refusal is never the same as "not found"."""
    assert type(made_of(http_error("", status))) is kind


def test_an_unknown_code_is_told_as_it_is():
    """It is what to search for; without one, the number of the status is."""
    named, bare = made_of(http_error("SomethingNew")), made_of(http_error("", 418))

    assert type(named) is type(bare) is StorageError
    assert "the service refuses; see the error before this one (SomethingNew)" in str(named)
    assert "(418)" in str(bare)


def test_a_code_may_be_one_of_the_sdks_own():
    """Which it counts up as constants."""
    assert code_of(http_error(StorageErrorCode.BLOB_ALREADY_EXISTS, 409)) == "BlobAlreadyExists"
    assert status_of(sdk.HttpResponseError("never sent")) == 0


@pytest.mark.parametrize(("known", "kind", "advice"), _BY_CLASS, ids=[known.__name__ for known, _, _ in _BY_CLASS])
def test_each_class_becomes_our_error(known, kind, advice):
    """The more special one wins, and no text is taken over from the SDK."""
    made = made_of(known(f"quoting {SECRET}"))

    assert type(made) is kind
    assert str(made) == f"a.txt in the container files: {advice}"
    assert STEP.search(str(made)), made


def test_no_class_is_shadowed():
    """One that stands after its own base class would never be found."""
    classes = [known for known, _, _ in _BY_CLASS]

    shadowed = [
        later.__name__
        for position, later in enumerate(classes)
        if any(issubclass(later, earlier) for earlier in classes[:position])
    ]

    assert shadowed == []


def test_any_other_error_of_the_sdk_is_ours_too():
    """It is named, and no more is told of it."""
    made = made_of(sdk.AzureError(SECRET))

    assert type(made) is StorageError
    assert str(made) == "a.txt in the container files: AzureError: see the error before this one"


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), KeyError("x"), StorageError("x"), RuntimeError("x")])
def test_what_is_not_the_sdks_stays_what_it_is(error):
    """A mistake in our own code must look like one."""
    assert translate_error(error, "a.txt", "files", "docs") is None


@pytest.mark.parametrize(
    "error", [CancelledError(), RuntimeError("cannot schedule new futures after shutdown")], ids=repr
)
def test_what_a_closed_storage_cut_off_is_told(error):
    """Work that was called back is no mystery to the caller."""
    assert "the storage was closed meanwhile: ask again" in str(made_of(error))


@pytest.mark.parametrize("code", ["BlobAlreadyExists", "ConditionNotMet", "TargetConditionNotMet", "BlobNotFound", "x"])
def test_a_condition_is_told_as_whose_it_was(code):
    """Azure answers a taken name and another version in several ways."""
    error = http_error(code)
    other = sdk.HttpResponseError
    expected = {
        "BlobAlreadyExists": (FileExistsInStorageError, other, other),
        "ConditionNotMet": (FileExistsInStorageError, PreconditionFailedError, other),
        "TargetConditionNotMet": (FileExistsInStorageError, PreconditionFailedError, other),
        "BlobNotFound": (other, PreconditionFailedError, other),
        "x": (other, other, other),
    }

    for options, kind in zip(
        (WriteOptions(exclusive=True), WriteOptions(if_match="tag"), WriteOptions()), expected[code], strict=True
    ):
        with pytest.raises(kind) as caught, translating_conditions("a.txt", options):
            raise error

        assert kind is other or caught.value.__cause__ is error


# -- a container that is missing --------------------------------------------------------------------------------------

UPLOAD = "A" * 22
VERBS = {
    "list": lambda storage: storage.list(),
    "list a folder": lambda storage: storage.list("folder", recursive=False),
    "list details": lambda storage: list(storage.iter(details=True)),
    "exists": lambda storage: storage.exists("a.txt"),
    "stat": lambda storage: storage.stat("a.txt"),
    "read": lambda storage: storage.read("a.txt"),
    "download": lambda storage: storage.download("a.txt", io.BytesIO()),
    "write": lambda storage: storage.write("a.txt", b"1"),
    "write blocks": lambda storage: storage.write("a.txt", bytes(MIB + 1)),
    "write with a condition": lambda storage: storage.write("a.txt", b"1", exclusive=True),
    "save": lambda storage: storage.save("a.txt", b"1"),
    "copy": lambda storage: storage.copy("a.txt", "b.txt"),
    "move": lambda storage: storage.move("a.txt", "b.txt"),
    "delete": lambda storage: storage.delete("a.txt"),
    "delete many": lambda storage: storage.delete_many(["a.txt"]),
    "delete a folder": lambda storage: storage.delete_prefix("folder"),
    "sweep": lambda storage: storage.sweep(),
    "check": lambda storage: storage.check(),
    "create": lambda storage: storage.multipart.create("a.txt", WriteOptions()),
    "list uploads": lambda storage: list(storage.multipart.list_uploads()),
    "put a part": lambda storage: storage.multipart.upload_part("a.txt", UPLOAD, 1, b"1"),
    "list parts": lambda storage: storage.multipart.list_parts("a.txt", UPLOAD),
    "abort": lambda storage: storage.multipart.abort("a.txt", UPLOAD),
}


def raised_by(verb, storage):
    """Return the error that a verb ends with; that of the one file, where it was one of many."""
    with pytest.raises(StorageError) as caught:
        VERBS[verb](storage)
    error = caught.value
    return error.errors["a.txt"] if hasattr(error, "errors") else error


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_container_is_never_a_missing_file(azurite, verb):
    """Whatever is asked of it: somebody must look at the configuration."""
    error = raised_by(verb, make_storage(azurite, bucket="no-such-container", max_attempts=1, chunk_size=MIB))

    assert type(error) is ConfigurationError
    assert "the container no-such-container: there is no such container: create it" in str(error).replace(
        "a.txt in ", ""
    )


def test_an_error_carries_its_facts(azurite):
    """The path, the storage, and the SDK's own error before it."""
    storage = make_storage(azurite, bucket="no-such-container", name="docs")

    with pytest.raises(ConfigurationError) as caught:
        storage.write("a.txt", b"1")

    assert (caught.value.path, caught.value.backend) == ("a.txt", "docs")
    assert isinstance(caught.value.__cause__, sdk.ResourceNotFoundError)


@pytest.mark.parametrize("verb", ["stat", "read", "download", "copy", "move"])
def test_a_missing_blob_is_a_missing_file(azurite, verb):
    """And its name is told."""
    error = raised_by(verb, make_storage(azurite))

    assert type(error) is FileNotFoundInStorageError
    assert "a.txt" in str(error)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_a_wrong_key_is_told(azurite, verb):
    """With what to look at, and never as a missing file; neither key is shown."""
    storage = make_storage(azurite, key=OTHER_KEY, max_attempts=1, chunk_size=MIB)

    error = raised_by(verb, storage)

    shown = "".join(traceback.format_exception(error))
    assert type(error) is PermissionDeniedError
    assert "check the key or the SAS, the endpoint_url, and this machine's clock" in str(error)
    assert OTHER_KEY not in shown
    assert azurite.key not in shown


def _with_sas(server, permission, lasts=HOUR, **arguments):
    """A storage on a container with a file, by the address of the container with a signature for this."""
    make_storage(server, bucket=(bucket := server.make_container())).write("a.txt", b"1")
    sas = generate_container_sas(
        server.account,
        bucket,
        server.key,
        permission=ContainerSasPermissions.from_string(permission),
        start=datetime.now(UTC) - 5 * HOUR,
        expiry=datetime.now(UTC) + lasts,
    )
    return make_storage(
        server, sas_container_url=f"{server.url}/{bucket}?{sas}", max_attempts=1, chunk_size=MIB, **arguments
    )


ALLOWS = {
    "list": "l",
    "list a folder": "l",
    "list details": "l",
    "exists": "r",
    "stat": "r",
    "read": "r",
    "download": "r",
    "write": "cw",
    "write blocks": "cw",
    "copy": "rcw",
    "delete": "d",
    "delete many": "d",
    "sweep": "l",
    "create": "cw",
}


@pytest.mark.parametrize("verb", ALLOWS)
def test_a_signature_that_does_not_allow_a_verb_is_told(azurite, verb):
    """As what it is; with what the verb takes, it is done."""
    without = "".join(letter for letter in "rcwdl" if letter not in ALLOWS[verb])

    error = raised_by(verb, _with_sas(azurite, without))
    VERBS[verb](_with_sas(azurite, ALLOWS[verb]))

    assert type(error) is PermissionDeniedError
    assert "SAS" in str(error)
    assert "sig=" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("verb", ["list", "exists", "read", "write", "delete", "delete many"])
def test_a_signature_that_has_expired_is_told(azurite, verb):
    """It is no missing file either."""
    error = raised_by(verb, _with_sas(azurite, "rcwdl", -HOUR))

    assert type(error) is PermissionDeniedError
    assert "check the key or the SAS" in str(error)


def test_a_token_that_has_expired_is_told(azurite_https, fake_credential):
    """The service says so; the identity has to get another."""
    storage = make_storage(azurite_https, credential=fake_credential(lasts=-10), max_attempts=1)

    with pytest.raises(PermissionDeniedError, match="in the container"):
        storage.write("a.txt", b"1")


class Nobody:
    """An identity that finds none, as azure.identity tells it."""

    def get_token(self, *scopes, **options):
        """Fail as azure.identity's CredentialUnavailableError does."""
        raise sdk.ClientAuthenticationError(message="environment, managed identity, command line: none")


@pytest.mark.parametrize("verb", ["list", "exists", "write"])
def test_an_identity_that_gives_no_token_is_told(azurite_https, verb):
    """What it has tried is in the error before; that the service refuses would be wrong."""
    error = raised_by(verb, make_storage(azurite_https, credential=Nobody(), max_attempts=1))

    assert type(error) is PermissionDeniedError
    assert "the credential gives no token: see the error before this one for what it tried" in str(error)
    assert isinstance(error.__cause__, sdk.ClientAuthenticationError)


@contextlib.contextmanager
def leased(server, storage):
    """Hold a lease on the file."""
    with server.service() as service:
        lease = service.get_blob_client(storage.bucket, "a.txt").acquire_lease()
        try:
            yield
        finally:
            lease.release()


@pytest.mark.parametrize("verb", ["write", "write blocks", "delete", "delete many"])
def test_a_file_that_somebody_holds_is_told(azurite, verb):
    """It is neither replaced nor deleted; afterwards it is."""
    storage = make_storage(azurite, chunk_size=MIB)
    storage.write("a.txt", b"old")

    with leased(azurite, storage):
        error = raised_by(verb, storage)
    kept = storage.read("a.txt")
    VERBS[verb](storage)

    assert type(error) is PermissionDeniedError
    assert "a.txt in the container" in str(error)
    assert "somebody holds a lease on it: wait until it ends, or break it" in str(error)
    assert kept == b"old"


# -- other answers of a real server -----------------------------------------------------------------------------------


def test_a_blob_of_another_kind_is_told(azurite):
    """An append blob is another program's; blocks are not added to it, and it is read as any other."""
    storage = make_storage(azurite, chunk_size=MIB)
    with azurite.service() as service:
        blob = service.get_blob_client(storage.bucket, "a.txt")
        blob.create_append_blob()
        blob.append_block(b"line")

    with pytest.raises(PreconditionFailedError, match="an append blob or a page blob stands there"):
        storage.write("a.txt", bytes(MIB + 1))
    assert storage.read("a.txt") == b"line"


def test_an_unknown_certificate_is_told(azurite_https):
    """As a service that cannot be reached; the cause says why."""
    storage = make_storage(azurite_https, verify=None, max_attempts=1)

    with pytest.raises(StorageUnavailableError, match="cannot be reached: check account and endpoint_url") as caught:
        storage.list()

    assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value.__cause__)


def test_a_refused_connection_is_told(azurite):
    """With what to look at."""
    storage = make_storage(azurite, endpoint_url=f"http://127.0.0.1:{free_port()}/{azurite.account}", max_attempts=1)

    with pytest.raises(StorageUnavailableError, match="the service cannot be reached: check account and endpoint_url"):
        storage.list()


# -- what no server here can be brought to say ------------------------------------------------------------------------


@pytest.fixture
def scripted(azurite):
    """Make a storage on Azurite behind a proxy whose script answers in its place."""
    address = urlsplit(azurite.http)
    with contextlib.ExitStack() as stack:

        def make(script, **arguments):
            proxy = stack.enter_context(ScriptedProxy(address.hostname or "", address.port or 0, script))
            through = dataclasses.replace(azurite, http=proxy.url + address.path)
            return make_storage(through, **{"max_attempts": 1, "bucket": "any", **arguments})

        yield make


@pytest.mark.parametrize(
    ("status", "code", "kind", "text"),
    [
        (403, "AuthenticationFailed", PermissionDeniedError, r"this machine's clock \(NTP\)"),
        (403, "AuthorizationPermissionMismatch", PermissionDeniedError, "Storage Blob Data Contributor"),
        (403, "AccountIsDisabled", PermissionDeniedError, "ask its owner"),
        (409, "BlobArchived", PermissionDeniedError, "rehydrate it first"),
        (409, "BlobImmutableDueToPolicy", PermissionDeniedError, "legal hold keeps it unchanged"),
        (409, "ContainerBeingDeleted", ConfigurationError, "the container is being deleted"),
        (400, "InvalidHeaderValue", ConfigurationError, "--skipApiVersionCheck"),
        (413, "RequestBodyTooLarge", TooLargeError, "no blob or block as large as this"),
        (400, "MetadataTooLarge", TooLargeError, "at most 8 KB"),
        (409, "AccountLimitExceeded", StorageFullError, "the account is full"),
        (503, "ServerBusy", ThrottledError, "send fewer requests, or raise max_attempts"),
        (500, "OperationTimedOut", StorageUnavailableError, "did not get it done in time"),
        (500, "InternalError", StorageUnavailableError, "try again"),
        (400, "Md5Mismatch", IntegrityError, "the bytes that arrived are not the ones"),
        (502, "", StorageUnavailableError, "try again"),
    ],
)
def test_an_answer_becomes_our_error(scripted, status, code, kind, text):
    """With what is to be done; by the code in it, or by the status alone. It names path and container."""
    answer = azure_error(status, code) if code else Answer(status, b"<html>Bad Gateway</html>")
    storage = scripted(lambda _: answer)

    with pytest.raises(kind, match=text) as caught:
        storage.write("a.txt", b"1")

    assert type(caught.value) is kind
    assert "a.txt in the container any" in str(caught.value)


def test_what_the_service_quotes_of_a_signature_is_not_repeated(scripted):
    """Azure's message over a wrong signature has all that was signed in it."""
    message = f"The MAC signature found in the HTTP request '{SECRET}' is not the same as any computed signature."
    body = f"<Error><Code>AuthenticationFailed</Code><Message>{message}</Message></Error>".encode()
    answer = Answer(403, body, {"Content-Type": "application/xml", "x-ms-error-code": "AuthenticationFailed"})

    for verb in ("write", "list", "read"):
        assert SECRET not in str(raised_by(verb, scripted(lambda _: answer)))


def test_a_connection_that_breaks_off_is_told(scripted):
    """Trying again may help."""
    with pytest.raises(StorageUnavailableError, match=r"try again|cannot be reached"):
        scripted(lambda _: Lose(after_server=False)).list()


def test_a_service_that_says_nothing_is_told(azurite):
    """After the time that was allowed."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        storage = make_storage(
            azurite, endpoint_url=f"http://127.0.0.1:{port}/{azurite.account}", max_attempts=1, read_timeout=0.2
        )

        with pytest.raises(StorageTimeoutError, match=r"no answer within the time allowed \(read_timeout\)"):
            storage.stat("a.txt")


def test_a_refusal_in_the_middle_of_a_listing_is_an_error(scripted):
    """And not a shorter listing."""
    page = (
        '<?xml version="1.0"?><EnumerationResults><Blobs><Blob><Name>a.txt</Name><Properties>'
        "<Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified><Etag>0x1</Etag>"
        "<Content-Length>1</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob></Blobs>"
        "<NextMarker>next</NextMarker></EnumerationResults>"
    )

    def script(request):
        if "marker" in request.query:
            return azure_error(403, "AuthorizationFailure")
        return Answer(200, page.encode(), {"Content-Type": "application/xml"})

    found = scripted(script).iter()

    assert next(found).name == "a.txt"
    with pytest.raises(PermissionDeniedError):
        next(found)


@pytest.mark.parametrize("verb", ["list", "list details", "stat", "read"])
def test_an_answer_that_makes_no_sense_is_told(scripted, verb):
    """Something in between answers in the service's place."""
    nonsense = Answer(200, b"<html>Welcome to the hotel!", {"Content-Type": "application/xml"})

    error = raised_by(verb, scripted(lambda _: nonsense))

    assert type(error) is StorageUnavailableError
    assert "the answer makes no sense: try again, or look at the proxy in between" in str(error)


def test_a_storage_without_an_account_there_is_told():
    """A name that nobody has."""
    storage = AzureStorage("no-such-account", base64.b64encode(b"x").decode(), "files", max_attempts=1)
    storage._clients._account = dataclasses.replace(storage._account, url="https://no-such-account.blob.invalid")

    with pytest.raises(StorageUnavailableError, match="check account and endpoint_url"):
        storage.list()


def test_a_source_that_was_replaced_is_not_the_target():
    """What it answered is passed on by another code."""
    assert code_of(http_error("CannotVerifyCopySource", 412)) == "SourceConditionNotMet"
    assert code_of(http_error("CannotVerifyCopySource", 404)) == "BlobNotFound"
    assert code_of(http_error("CannotVerifyCopySource", 403)) == "AuthorizationFailure"

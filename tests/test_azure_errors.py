"""Translation of the SDK's errors: the right class, and a message that says what to do."""

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
from tests.services.scripted_proxy import LostResponse, ScriptedProxy, ScriptedResponse, azure_error

pytest_plugins = ["tests.services.azurite"]

MIB = 1 << 20
HOUR = timedelta(hours=1)
SECRET = "not-for-the-logs"
OTHER_KEY = base64.b64encode(secrets.token_bytes(64)).decode()

# A message contains a step to take, or a fact that needs no explanation.
STEP = re.compile(
    r"check|create|try again|ask |choose|wait until|configure|assign|see the|send fewer|rehydrate|delete these first"
    r"|write the file again|at most|is for https only|is not for|does not allow|had no credentials|may create"
    r"|cannot be replaced|being deleted|is disabled|no such|read it again|was replaced|not a block blob|in transit"
    r"|not a valid|larger than|is limited to|cannot hold|is full|does not support|read_timeout|connect_timeout"
    r"|have them committed|older than the SDK"
)


def http_error(code="", status=400, error_class=sdk.HttpResponseError):
    """Return the SDK's error for a response; its message quotes what was signed."""
    response = types.SimpleNamespace(status_code=status, reason=SECRET, headers={}, text=lambda *_: SECRET)
    error = error_class(message=f"quoting {SECRET}", response=response)
    if code:
        error.error_code = code
    return error


def translated(error, path: str | None = "a.txt"):
    """Return our error for one of the SDK's."""
    result = translate_error(error, path, "files", "docs")
    assert result is not None
    return result


# -- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(_BY_CODE))
def test_each_code_is_translated(code):
    """The class is that of the table; the message has path, container, code and a step to take, but no secret."""
    error = translated(http_error(code))

    assert type(error) is _BY_CODE[code][0]
    assert isinstance(error, StorageError)
    assert "a.txt" in str(error)
    assert SECRET not in str(error)
    if not isinstance(error, FileNotFoundInStorageError):
        assert f"({code})" in str(error)
        assert "a.txt in the container files" in str(error)
        assert STEP.search(str(error)), error
        assert str(translated(http_error(code), None)).startswith("the container files: ")


@pytest.mark.parametrize(
    ("code", "error_class", "builtin"),
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
def test_the_classes_of_common_codes(code, error_class, builtin):
    """A second copy of the table, so that a change is noticed; each is a built-in error where one fits."""
    error = translated(http_error(code))

    assert type(error) is error_class
    assert isinstance(error, builtin)


@pytest.mark.parametrize("status", sorted(_BY_STATUS))
def test_a_response_without_a_known_code_is_translated_by_its_status(status):
    """A proxy sends no code, and an emulator has its own ones."""
    code = _BY_STATUS[status]

    codes = [code_of(http_error(unknown, status)) for unknown in ("", "UnknownCode")]

    assert codes == [code, code]
    assert code in _BY_CODE


@pytest.mark.parametrize(
    ("status", "error_class"),
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
def test_the_classes_of_statuses(status, error_class):
    """A 403 is never "not found"."""
    assert type(translated(http_error("", status))) is error_class


def test_an_unknown_code_is_shown_in_the_message():
    """Without a code, the status is shown."""
    with_code, without_code = translated(http_error("SomethingNew")), translated(http_error("", 418))

    assert type(with_code) is type(without_code) is StorageError
    assert "the service refused; see the cause of this error (SomethingNew)" in str(with_code)
    assert "(418)" in str(without_code)


def test_a_code_may_be_a_constant_of_the_sdk():
    """An error without a response has status 0."""
    assert code_of(http_error(StorageErrorCode.BLOB_ALREADY_EXISTS, 409)) == "BlobAlreadyExists"
    assert status_of(sdk.HttpResponseError("never sent")) == 0


@pytest.mark.parametrize(
    ("sdk_class", "error_class", "advice"), _BY_CLASS, ids=[sdk_class.__name__ for sdk_class, _, _ in _BY_CLASS]
)
def test_each_sdk_class_is_translated(sdk_class, error_class, advice):
    """The most specific class wins, and the message has no text of the SDK."""
    error = translated(sdk_class(f"quoting {SECRET}"))

    assert type(error) is error_class
    assert str(error) == f"a.txt in the container files: {advice}"
    assert STEP.search(str(error)), error


def test_no_class_of_the_table_is_shadowed():
    """A class after its base class would never be found."""
    classes = [sdk_class for sdk_class, _, _ in _BY_CLASS]

    shadowed = [
        later.__name__
        for position, later in enumerate(classes)
        if any(issubclass(later, earlier) for earlier in classes[:position])
    ]

    assert shadowed == []


def test_any_other_error_of_the_sdk_is_a_storage_error():
    """The message has only the name of its class."""
    error = translated(sdk.AzureError(SECRET))

    assert type(error) is StorageError
    assert str(error) == "a.txt in the container files: AzureError: see the cause of this error"


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), KeyError("x"), StorageError("x"), RuntimeError("x")])
def test_other_errors_are_not_translated(error):
    """A bug in our own code must look like one."""
    assert translate_error(error, "a.txt", "files", "docs") is None


@pytest.mark.parametrize(
    "error", [CancelledError(), RuntimeError("cannot schedule new futures after shutdown")], ids=repr
)
def test_work_cancelled_by_closing_the_storage_is_unavailable(error):
    """The message says that the storage was closed."""
    assert "the storage was closed by another thread: try again" in str(translated(error))


@pytest.mark.parametrize("code", ["BlobAlreadyExists", "ConditionNotMet", "TargetConditionNotMet", "BlobNotFound", "x"])
def test_a_failed_condition_raises_the_error_of_that_condition(code):
    """Azure reports each condition by several codes."""
    error = http_error(code)
    other = sdk.HttpResponseError
    expected = {
        "BlobAlreadyExists": (FileExistsInStorageError, other, other),
        "ConditionNotMet": (FileExistsInStorageError, PreconditionFailedError, other),
        "TargetConditionNotMet": (FileExistsInStorageError, PreconditionFailedError, other),
        "BlobNotFound": (other, PreconditionFailedError, other),
        "x": (other, other, other),
    }

    for options, error_class in zip(
        (WriteOptions(exclusive=True), WriteOptions(if_match="tag"), WriteOptions()), expected[code], strict=True
    ):
        with pytest.raises(error_class) as caught, translating_conditions("a.txt", options):
            raise error

        assert error_class is other or caught.value.__cause__ is error


# -- a container that is missing --------------------------------------------------------------------------------------

UPLOAD = "A" * 22
OPERATIONS = {
    "list": lambda storage: storage.list(),
    "list a directory": lambda storage: storage.list("folder", recursive=False),
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
    "delete a directory": lambda storage: storage.delete_prefix("folder"),
    "sweep": lambda storage: storage.sweep(),
    "check": lambda storage: storage.check(),
    "create": lambda storage: storage.multipart.create("a.txt", WriteOptions()),
    "list uploads": lambda storage: list(storage.multipart.list_uploads()),
    "upload a part": lambda storage: storage.multipart.upload_part("a.txt", UPLOAD, 1, b"1"),
    "list parts": lambda storage: storage.multipart.list_parts("a.txt", UPLOAD),
    "abort": lambda storage: storage.multipart.abort("a.txt", UPLOAD),
}


def raised_by(operation, storage):
    """Return the error that an operation raises; of several files, the error of the one file."""
    with pytest.raises(StorageError) as caught:
        OPERATIONS[operation](storage)
    error = caught.value
    return error.errors["a.txt"] if hasattr(error, "errors") else error


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_missing_container_is_a_configuration_error(azurite, operation):
    """It is never reported as a missing file, by any operation."""
    error = raised_by(operation, make_storage(azurite, bucket="no-such-container", max_attempts=1, chunk_size=MIB))

    assert type(error) is ConfigurationError
    assert "the container no-such-container: there is no such container: create it" in str(error).replace(
        "a.txt in ", ""
    )


def test_an_error_has_path_backend_and_cause(azurite):
    """The cause is the SDK's own error."""
    storage = make_storage(azurite, bucket="no-such-container", name="docs")

    with pytest.raises(ConfigurationError) as caught:
        storage.write("a.txt", b"1")

    assert (caught.value.path, caught.value.backend) == ("a.txt", "docs")
    assert isinstance(caught.value.__cause__, sdk.ResourceNotFoundError)


@pytest.mark.parametrize("operation", ["stat", "read", "download", "copy", "move"])
def test_a_missing_blob_is_a_missing_file(azurite, operation):
    """The message has its path."""
    error = raised_by(operation, make_storage(azurite))

    assert type(error) is FileNotFoundInStorageError
    assert "a.txt" in str(error)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_wrong_key_is_a_permission_error(azurite, operation):
    """The message says what to check; no key appears in the traceback."""
    storage = make_storage(azurite, key=OTHER_KEY, max_attempts=1, chunk_size=MIB)

    error = raised_by(operation, storage)

    shown = "".join(traceback.format_exception(error))
    assert type(error) is PermissionDeniedError
    assert "check the key or the SAS, the endpoint_url, and this machine's clock" in str(error)
    assert OTHER_KEY not in shown
    assert azurite.key not in shown


def _with_sas(server, permission, lifetime=HOUR, **arguments):
    """Return a storage with a container SAS of these permissions, on a container with one file."""
    make_storage(server, bucket=(bucket := server.make_container())).write("a.txt", b"1")
    sas = generate_container_sas(
        server.account,
        bucket,
        server.key,
        permission=ContainerSasPermissions.from_string(permission),
        start=datetime.now(UTC) - 5 * HOUR,
        expiry=datetime.now(UTC) + lifetime,
    )
    return make_storage(
        server, sas_container_url=f"{server.url}/{bucket}?{sas}", max_attempts=1, chunk_size=MIB, **arguments
    )


ALLOWS = {
    "list": "l",
    "list a directory": "l",
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


@pytest.mark.parametrize("operation", ALLOWS)
def test_an_operation_that_the_sas_does_not_allow_is_a_permission_error(azurite, operation):
    """With the needed permissions, the operation succeeds."""
    without = "".join(letter for letter in "rcwdl" if letter not in ALLOWS[operation])

    error = raised_by(operation, _with_sas(azurite, without))
    OPERATIONS[operation](_with_sas(azurite, ALLOWS[operation]))

    assert type(error) is PermissionDeniedError
    assert "SAS" in str(error)
    assert "sig=" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("operation", ["list", "exists", "read", "write", "delete", "delete many"])
def test_an_expired_sas_is_a_permission_error(azurite, operation):
    """It is never reported as a missing file."""
    error = raised_by(operation, _with_sas(azurite, "rcwdl", -HOUR))

    assert type(error) is PermissionDeniedError
    assert "check the key or the SAS" in str(error)


def test_an_expired_token_is_a_permission_error(azurite_https, fake_credential):
    """The service rejects it."""
    storage = make_storage(azurite_https, credential=fake_credential(lifetime=-10), max_attempts=1)

    with pytest.raises(PermissionDeniedError, match="in the container"):
        storage.write("a.txt", b"1")


class CredentialWithoutToken:
    """A credential that finds no identity, as azure.identity reports it."""

    def get_token(self, *scopes, **options):
        """Fail as azure.identity's CredentialUnavailableError does."""
        raise sdk.ClientAuthenticationError(message="environment, managed identity, command line: none")


@pytest.mark.parametrize("operation", ["list", "exists", "write"])
def test_a_credential_without_a_token_is_a_permission_error(azurite_https, operation):
    """The message does not say that the service refused; the cause lists what was tried."""
    error = raised_by(operation, make_storage(azurite_https, credential=CredentialWithoutToken(), max_attempts=1))

    assert type(error) is PermissionDeniedError
    assert "the credential provided no token: the cause of this error lists what it tried" in str(error)
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


@pytest.mark.parametrize("operation", ["write", "write blocks", "delete", "delete many"])
def test_a_leased_file_cannot_be_written_or_deleted(azurite, operation):
    """When the lease has ended, it can."""
    storage = make_storage(azurite, chunk_size=MIB)
    storage.write("a.txt", b"old")

    with leased(azurite, storage):
        error = raised_by(operation, storage)
    content = storage.read("a.txt")
    OPERATIONS[operation](storage)

    assert type(error) is PermissionDeniedError
    assert "a.txt in the container" in str(error)
    assert "another client holds a lease on the blob: wait until it expires, or break it" in str(error)
    assert content == b"old"


# -- other errors of a real server ------------------------------------------------------------------------------------


def test_an_append_blob_can_be_read_but_not_replaced_in_blocks(azurite):
    """The error says that it is not a block blob."""
    storage = make_storage(azurite, chunk_size=MIB)
    with azurite.service() as service:
        blob = service.get_blob_client(storage.bucket, "a.txt")
        blob.create_append_blob()
        blob.append_block(b"line")

    with pytest.raises(PreconditionFailedError, match="there is an append blob or a page blob"):
        storage.write("a.txt", bytes(MIB + 1))
    assert storage.read("a.txt") == b"line"


def test_an_untrusted_certificate_is_reported_as_unavailable(azurite_https):
    """The cause names the certificate."""
    storage = make_storage(azurite_https, verify=None, max_attempts=1)

    with pytest.raises(StorageUnavailableError, match="cannot be reached: check account and endpoint_url") as caught:
        storage.list()

    assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value.__cause__)


def test_a_refused_connection_is_reported_as_unavailable(azurite):
    """The message says what to check."""
    storage = make_storage(azurite, endpoint_url=f"http://127.0.0.1:{free_port()}/{azurite.account}", max_attempts=1)

    with pytest.raises(StorageUnavailableError, match="the service cannot be reached: check account and endpoint_url"):
        storage.list()


# -- responses that Azurite does not give ------------------------------------------------------------------------------


@pytest.fixture
def scripted(azurite):
    """Return a function that creates a storage behind a scripted proxy."""
    address = urlsplit(azurite.http)
    with contextlib.ExitStack() as stack:

        def make(script, **arguments):
            proxy = stack.enter_context(ScriptedProxy(address.hostname or "", address.port or 0, script))
            through = dataclasses.replace(azurite, http=proxy.url + address.path)
            return make_storage(through, **{"max_attempts": 1, "bucket": "any", **arguments})

        yield make


@pytest.mark.parametrize(
    ("status", "code", "error_class", "text"),
    [
        (403, "AuthenticationFailed", PermissionDeniedError, r"this machine's clock \(NTP\)"),
        (403, "AuthorizationPermissionMismatch", PermissionDeniedError, "Storage Blob Data Contributor"),
        (403, "AccountIsDisabled", PermissionDeniedError, "ask its owner"),
        (409, "BlobArchived", PermissionDeniedError, "rehydrate it first"),
        (409, "BlobImmutableDueToPolicy", PermissionDeniedError, "legal hold makes the blob immutable"),
        (409, "ContainerBeingDeleted", ConfigurationError, "the container is being deleted"),
        (400, "InvalidHeaderValue", ConfigurationError, "--skipApiVersionCheck"),
        (413, "RequestBodyTooLarge", TooLargeError, "larger than the service accepts"),
        (400, "MetadataTooLarge", TooLargeError, "limited to 8 KB"),
        (409, "AccountLimitExceeded", StorageFullError, "the account is full"),
        (503, "ServerBusy", ThrottledError, "send fewer requests, or raise max_attempts"),
        (500, "OperationTimedOut", StorageUnavailableError, "timed out in the service"),
        (500, "InternalError", StorageUnavailableError, "try again"),
        (400, "Md5Mismatch", IntegrityError, "the content changed in transit"),
        (502, "", StorageUnavailableError, "try again"),
    ],
)
def test_an_error_response_is_translated(scripted, status, code, error_class, text):
    """By its code, or by its status alone; the message has path, container and what to do."""
    response = azure_error(status, code) if code else ScriptedResponse(status, b"<html>Bad Gateway</html>")
    storage = scripted(lambda _: response)

    with pytest.raises(error_class, match=text) as caught:
        storage.write("a.txt", b"1")

    assert type(caught.value) is error_class
    assert "a.txt in the container any" in str(caught.value)


def test_the_message_of_the_service_is_not_repeated(scripted):
    """For a wrong signature it contains everything that was signed."""
    message = f"The MAC signature found in the HTTP request '{SECRET}' is not the same as any computed signature."
    body = f"<Error><Code>AuthenticationFailed</Code><Message>{message}</Message></Error>".encode()
    response = ScriptedResponse(
        403, body, {"Content-Type": "application/xml", "x-ms-error-code": "AuthenticationFailed"}
    )

    for operation in ("write", "list", "read"):
        assert SECRET not in str(raised_by(operation, scripted(lambda _: response)))


def test_an_interrupted_connection_is_reported_as_unavailable(scripted):
    """The message says to try again."""
    with pytest.raises(StorageUnavailableError, match=r"try again|cannot be reached"):
        scripted(lambda _: LostResponse(after_server=False)).list()


def test_a_service_that_does_not_respond_is_a_timeout(azurite):
    """The message names read_timeout."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        storage = make_storage(
            azurite, endpoint_url=f"http://127.0.0.1:{port}/{azurite.account}", max_attempts=1, read_timeout=0.2
        )

        with pytest.raises(StorageTimeoutError, match="no response within read_timeout"):
            storage.stat("a.txt")


def test_an_error_in_the_middle_of_a_listing_is_raised(scripted):
    """The listing is not cut short."""
    page = (
        '<?xml version="1.0"?><EnumerationResults><Blobs><Blob><Name>a.txt</Name><Properties>'
        "<Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified><Etag>0x1</Etag>"
        "<Content-Length>1</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob></Blobs>"
        "<NextMarker>next</NextMarker></EnumerationResults>"
    )

    def script(request):
        if "marker" in request.query:
            return azure_error(403, "AuthorizationFailure")
        return ScriptedResponse(200, page.encode(), {"Content-Type": "application/xml"})

    found = scripted(script).iter()

    assert next(found).name == "a.txt"
    with pytest.raises(PermissionDeniedError):
        next(found)


@pytest.mark.parametrize("operation", ["list", "list details", "stat", "read"])
def test_a_malformed_response_is_reported_as_unavailable(scripted, operation):
    """A proxy in between may send one."""
    malformed = ScriptedResponse(200, b"<html>Welcome to the hotel!", {"Content-Type": "application/xml"})

    error = raised_by(operation, scripted(lambda _: malformed))

    assert type(error) is StorageUnavailableError
    assert "the response is malformed: try again, or check the proxy in between" in str(error)


def test_a_missing_account_is_reported_as_unavailable():
    """Its host name does not exist."""
    storage = AzureStorage("no-such-account", base64.b64encode(b"x").decode(), "files", max_attempts=1)
    storage._clients._account = dataclasses.replace(storage._account, url="https://no-such-account.blob.invalid")

    with pytest.raises(StorageUnavailableError, match="check account and endpoint_url"):
        storage.list()


def test_an_error_of_the_copy_source_is_translated_by_its_status():
    """The service passes on the status of the source under one code."""
    assert code_of(http_error("CannotVerifyCopySource", 412)) == "SourceConditionNotMet"
    assert code_of(http_error("CannotVerifyCopySource", 404)) == "BlobNotFound"
    assert code_of(http_error("CannotVerifyCopySource", 403)) == "AuthorizationFailure"

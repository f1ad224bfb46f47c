"""What Azure says when something is wrong, and what we make of it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager

from azure.core import exceptions as sdk

from ...errors import (
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
)
from ...types import WriteOptions

_SIGNATURE_MISMATCH = (
    "the signature does not fit: check the key or the SAS, the endpoint_url, and this machine's clock (NTP)"
)
_LEASED = "somebody holds a lease on it: wait until it ends, or break it"
_IMMUTABLE = "a policy or a legal hold keeps it unchanged: it can be neither replaced nor deleted before that ends"
_THROTTLED = "the service asks to slow down: send fewer requests, or raise max_attempts"
_CONTENT_MISMATCH = "the bytes that arrived are not the ones that were sent"
_ETAG_MISMATCH = "the stored file is not the version that was named"

# By the code in the answer: https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes and
# https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes
_BY_CODE: dict[str, tuple[type[StorageError], str]] = {
    "AuthenticationFailed": (PermissionDeniedError, _SIGNATURE_MISMATCH),
    "AuthorizationFailure": (
        PermissionDeniedError,
        f"not allowed from here, or by this signature: check the account's network rules; {_SIGNATURE_MISMATCH}",
    ),
    "AuthorizationPermissionMismatch": (
        PermissionDeniedError,
        "the role or the SAS does not allow this: it takes a role such as Storage Blob Data Contributor",
    ),
    "AuthorizationProtocolMismatch": (PermissionDeniedError, "the SAS is for https only"),
    "AuthorizationSourceIPMismatch": (PermissionDeniedError, "the SAS is not for this address of the network"),
    "AuthorizationResourceTypeMismatch": (PermissionDeniedError, "the SAS is not for this kind of resource"),
    "AuthorizationServiceMismatch": (PermissionDeniedError, "the SAS is not for blobs"),
    "InsufficientAccountPermissions": (PermissionDeniedError, "the account does not allow this"),
    "InvalidAuthenticationInfo": (PermissionDeniedError, _SIGNATURE_MISMATCH),
    "NoAuthenticationInformation": (PermissionDeniedError, "nothing was given to prove who asks"),
    "KeyBasedAuthenticationNotPermitted": (
        PermissionDeniedError,
        "the account takes no keys: configure a credential instead",
    ),
    "PublicAccessNotPermitted": (PermissionDeniedError, "the account is not public"),
    "UnauthorizedBlobOverwrite": (PermissionDeniedError, "the SAS may create blobs, and not replace this one"),
    "AccountIsDisabled": (PermissionDeniedError, "the account is disabled: ask its owner"),
    "BlobArchived": (PermissionDeniedError, "the blob is archived: rehydrate it first (Set Blob Tier)"),
    "BlobBeingRehydrated": (PermissionDeniedError, "the blob is being rehydrated: that takes hours"),
    "BlobImmutableDueToPolicy": (PermissionDeniedError, _IMMUTABLE),
    "BlobImmutableDueToLegalHold": (PermissionDeniedError, _IMMUTABLE),
    "ContainerImmutableDueToPolicy": (PermissionDeniedError, _IMMUTABLE),
    "LeaseIdMissing": (PermissionDeniedError, _LEASED),
    "LeaseIdMismatchWithBlobOperation": (PermissionDeniedError, _LEASED),
    "LeaseAlreadyPresent": (PermissionDeniedError, _LEASED),
    "SnapshotsPresent": (PermissionDeniedError, "the blob has snapshots: delete these first"),
    "BlobNotFound": (FileNotFoundInStorageError, ""),
    "ResourceNotFound": (ConfigurationError, "there is no such account or container: check bucket and endpoint_url"),
    "ContainerNotFound": (
        ConfigurationError,
        "there is no such container: create it, or check its name and the endpoint_url",
    ),
    "ContainerBeingDeleted": (ConfigurationError, "the container is being deleted"),
    "ContainerDisabled": (ConfigurationError, "the container is disabled"),
    "InvalidResourceName": (ConfigurationError, "this is not the name of a container"),
    "EncryptionScopeNotFound": (ConfigurationError, "there is no such encryption_scope"),
    "InvalidHeaderValue": (
        ConfigurationError,
        "the service does not take what a header says; an emulator older than the SDK wants --skipApiVersionCheck",
    ),
    "BlobAlreadyExists": (FileExistsInStorageError, "the name is taken: choose another"),
    "ConditionNotMet": (PreconditionFailedError, _ETAG_MISMATCH),
    "TargetConditionNotMet": (PreconditionFailedError, _ETAG_MISMATCH),
    "SourceConditionNotMet": (PreconditionFailedError, "the file was replaced while it was being copied"),
    "PendingCopyOperation": (PreconditionFailedError, "somebody else is copying to this name: wait until that ends"),
    "InvalidBlobOrBlock": (
        PreconditionFailedError,
        "blocks of another program wait under this name: have them committed, or choose another name",
    ),
    "InvalidBlockList": (
        PreconditionFailedError,
        "another write of this file ended while this one went on, by which Azure forgets what was sent: write it anew",
    ),
    "InvalidBlobType": (PreconditionFailedError, "an append blob or a page blob stands there, not a block blob"),
    "Md5Mismatch": (IntegrityError, _CONTENT_MISMATCH),
    "Crc64Mismatch": (IntegrityError, _CONTENT_MISMATCH),
    "InvalidMd5": (IntegrityError, "the checksum that was sent is none"),
    "RequestBodyTooLarge": (TooLargeError, "the service takes no blob or block as large as this"),
    "BlockCountExceedsLimit": (TooLargeError, "the service takes 50,000 blocks at most: choose a larger chunk_size"),
    "BlockListTooLong": (TooLargeError, "the service takes 50,000 blocks at most: choose a larger chunk_size"),
    "MetadataTooLarge": (TooLargeError, "metadata takes at most 8 KB"),
    "RequestUrlFailedToParse": (InvalidPathError, "the service cannot hold a blob of this name"),
    "InvalidUri": (InvalidPathError, "the service cannot hold a blob of this name"),
    "OutOfRangeInput": (InvalidPathError, "the service cannot hold a blob of this name"),
    "AccountLimitExceeded": (StorageFullError, "the account is full"),
    "Redirected": (ConfigurationError, "the answer points elsewhere: check the account and the endpoint_url"),
    "ServerBusy": (ThrottledError, _THROTTLED),
    "OperationTimedOut": (StorageUnavailableError, "the service did not get it done in time: try again"),
    "InternalError": (StorageUnavailableError, "the service has a trouble of its own: try again"),
    "FeatureVersionMismatch": (UnsupportedOperationError, "the blob has features that this request does not know"),
    "UnsupportedHeader": (UnsupportedOperationError, "the service does not do this for such an account"),
    "FeatureNotSupportedForAccount": (UnsupportedOperationError, "the service does not do this for such an account"),
}

# Where the answer has no code that we know: an emulator has its own, and a proxy in between knows none.
_BY_STATUS = {
    301: "Redirected",
    302: "Redirected",
    303: "Redirected",
    307: "Redirected",
    308: "Redirected",
    401: "AuthenticationFailed",
    403: "AuthorizationFailure",
    404: "BlobNotFound",
    412: "ConditionNotMet",
    413: "RequestBodyTooLarge",
    429: "ServerBusy",
    431: "MetadataTooLarge",
    500: "InternalError",
    501: "FeatureNotSupportedForAccount",
    502: "InternalError",
    503: "ServerBusy",
    504: "OperationTimedOut",
}

_CHANGED = 412

_BY_CLASS: tuple[tuple[type[Exception], type[StorageError], str], ...] = (
    (sdk.ServiceResponseTimeoutError, StorageTimeoutError, "no answer within the time allowed (read_timeout)"),
    (sdk.ServiceRequestTimeoutError, StorageTimeoutError, "no connection within the time allowed (connect_timeout)"),
    (sdk.ServiceRequestError, StorageUnavailableError, "the service cannot be reached: check account and endpoint_url"),
    (sdk.ServiceResponseError, StorageUnavailableError, "the connection broke off: try again"),
    (sdk.IncompleteReadError, StorageUnavailableError, "the connection broke off: try again"),
    (sdk.DecodeError, StorageUnavailableError, "the answer makes no sense: try again, or look at the proxy in between"),
)


def translate_error(error: Exception, path: str | None, container: str, storage: str) -> StorageError | None:
    """Return our error for one of the SDK's, or None when it is not the SDK's.

    No text is taken over from the service but its code: its messages quote what was signed.
    """
    for known, made, advice in _BY_CLASS:
        if isinstance(error, known):
            return made(f"{_where(path, container)}: {advice}")
    if isinstance(error, sdk.ClientAuthenticationError) and not status_of(error):
        # Of azure.identity: nothing was asked of the service yet.
        return PermissionDeniedError(
            f"{_where(path, container)}: the credential gives no token: see the error before this one for what it tried"
        )
    if isinstance(error, sdk.HttpResponseError):
        return error_of(code_of(error), path, container, storage, given=given_code(error))
    if isinstance(error, sdk.AzureError):
        return StorageError(f"{_where(path, container)}: {type(error).__name__}: see the error before this one")
    if isinstance(error, CancelledError) or (isinstance(error, RuntimeError) and "schedule new futures" in str(error)):
        return StorageUnavailableError(f"{_where(path, container)}: the storage was closed meanwhile: ask again")
    return None


def error_of(code: str, path: str | None, container: str, storage: str, *, given: str = "") -> StorageError:
    """Return our error for a code of the service's.

    Args:
        code: One that we know, or the status.
        path: The blob.
        container: Its container.
        storage: The name of the storage.
        given: The code that the service gave.
    """
    made, advice = _BY_CODE.get(code, (StorageError, "the service refuses; see the error before this one"))
    if made is FileNotFoundInStorageError:
        return FileNotFoundInStorageError(storage, path or "")
    return made(f"{_where(path, container)}: {advice} ({given or code})")


def code_of(error: sdk.HttpResponseError) -> str:
    """Return the code that says what is wrong; for an answer without a known one, the code of its status."""
    return known_code(given_code(error), status_of(error))


def given_code(error: sdk.HttpResponseError) -> str:
    """Return the code that the service gave, or nothing."""
    given = getattr(error, "error_code", None) or ""
    return str(getattr(given, "value", given))


def known_code(code: str, status: int) -> str:
    """Return *code* where we know it, or else the code that *status* stands for."""
    if code == "CannotVerifyCopySource" and status == _CHANGED:
        return "SourceConditionNotMet"  # what the source has answered, passed on
    return code if code in _BY_CODE else _BY_STATUS.get(status, code or str(status))


def status_of(error: sdk.HttpResponseError) -> int:
    """Return the status of the answer; 0 where there is none."""
    return int(error.status_code or 0)


@contextmanager
def translating_conditions(path: str, options: WriteOptions) -> Iterator[None]:
    """Say whose condition did not hold: Azure answers a taken name and another version in several ways."""
    try:
        yield
    except sdk.HttpResponseError as error:
        code = code_of(error)
        if options.exclusive and code in ("BlobAlreadyExists", "ConditionNotMet", "TargetConditionNotMet"):
            raise FileExistsInStorageError(f"{path} exists: choose another name", path=path) from error
        if options.if_match is not None and code in ("ConditionNotMet", "TargetConditionNotMet", "BlobNotFound"):
            raise PreconditionFailedError(f"{path} is not the version that was named", path=path) from error
        raise


def _where(path: str | None, container: str) -> str:
    return f"{path} in the container {container}" if path else f"the container {container}"

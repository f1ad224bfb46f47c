"""Translation of the SDK's errors and the service's error codes into storage errors."""

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
    "the signature is not valid: check the key or the SAS, the endpoint_url, and this machine's clock (NTP)"
)
_LEASED = "another client holds a lease on the blob: wait until it expires, or break it"
_IMMUTABLE = "a policy or a legal hold makes the blob immutable: it cannot be replaced or deleted until that ends"
_THROTTLED = "the service limits the request rate: send fewer requests, or raise max_attempts"
_CONTENT_MISMATCH = "the content changed in transit: try again"
_ETAG_MISMATCH = "the stored file is not the expected version: read it again"

# By the code in the response: https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes and
# https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes
_BY_CODE: dict[str, tuple[type[StorageError], str]] = {
    "AuthenticationFailed": (PermissionDeniedError, _SIGNATURE_MISMATCH),
    "AuthorizationFailure": (
        PermissionDeniedError,
        f"not allowed from this network or by this SAS: check the account's network rules; {_SIGNATURE_MISMATCH}",
    ),
    "AuthorizationPermissionMismatch": (
        PermissionDeniedError,
        "the role or the SAS does not allow this: assign a role such as Storage Blob Data Contributor",
    ),
    "AuthorizationProtocolMismatch": (PermissionDeniedError, "the SAS is for https only"),
    "AuthorizationSourceIPMismatch": (PermissionDeniedError, "the SAS is not for this IP address"),
    "AuthorizationResourceTypeMismatch": (PermissionDeniedError, "the SAS is not for this type of resource"),
    "AuthorizationServiceMismatch": (PermissionDeniedError, "the SAS is not for blobs"),
    "InsufficientAccountPermissions": (PermissionDeniedError, "the account does not allow this"),
    "InvalidAuthenticationInfo": (PermissionDeniedError, _SIGNATURE_MISMATCH),
    "NoAuthenticationInformation": (PermissionDeniedError, "the request had no credentials"),
    "KeyBasedAuthenticationNotPermitted": (
        PermissionDeniedError,
        "the account does not accept keys: configure a credential instead",
    ),
    "PublicAccessNotPermitted": (PermissionDeniedError, "the account does not allow public access"),
    "UnauthorizedBlobOverwrite": (PermissionDeniedError, "the SAS may create blobs, but not replace this one"),
    "AccountIsDisabled": (PermissionDeniedError, "the account is disabled: ask its owner"),
    "BlobArchived": (PermissionDeniedError, "the blob is archived: rehydrate it first (Set Blob Tier)"),
    "BlobBeingRehydrated": (PermissionDeniedError, "the blob is being rehydrated, which takes hours: try again later"),
    "BlobUsesCustomerSpecifiedEncryption": (
        PermissionDeniedError,
        "the blob is encrypted with a key that only its writer has: ask them to store it again without one",
    ),
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
    "InvalidResourceName": (ConfigurationError, "this is not a valid container name: check bucket"),
    "EncryptionScopeNotFound": (ConfigurationError, "there is no such encryption_scope"),
    "InvalidHeaderValue": (
        ConfigurationError,
        "the service rejected a header value; an emulator older than the SDK needs --skipApiVersionCheck",
    ),
    "BlobAlreadyExists": (FileExistsInStorageError, "the file exists: choose another name"),
    "ConditionNotMet": (PreconditionFailedError, _ETAG_MISMATCH),
    "TargetConditionNotMet": (PreconditionFailedError, _ETAG_MISMATCH),
    "SourceConditionNotMet": (PreconditionFailedError, "the file was replaced while it was being copied"),
    "PendingCopyOperation": (PreconditionFailedError, "another copy to this name is running: wait until it ends"),
    "InvalidBlobOrBlock": (
        PreconditionFailedError,
        "the blob has uncommitted blocks of another program: have them committed, or choose another name",
    ),
    "InvalidBlockList": (
        PreconditionFailedError,
        "another write of this file ended during this one, and Azure discarded this one's blocks: write the file again",
    ),
    "InvalidBlobType": (
        PreconditionFailedError,
        "there is an append blob or a page blob of this name, not a block blob",
    ),
    "Md5Mismatch": (IntegrityError, _CONTENT_MISMATCH),
    "Crc64Mismatch": (IntegrityError, _CONTENT_MISMATCH),
    "InvalidMd5": (IntegrityError, "the checksum that was sent is not a valid MD5"),
    "RequestBodyTooLarge": (TooLargeError, "the blob or block is larger than the service accepts"),
    "BlockCountExceedsLimit": (TooLargeError, "a blob has at most 50,000 blocks: choose a larger chunk_size"),
    "BlockListTooLong": (TooLargeError, "a blob has at most 50,000 blocks: choose a larger chunk_size"),
    "MetadataTooLarge": (TooLargeError, "the metadata of a blob is limited to 8 KB"),
    "RequestUrlFailedToParse": (InvalidPathError, "the service cannot hold a blob of this name"),
    "InvalidUri": (InvalidPathError, "the service cannot hold a blob of this name"),
    "OutOfRangeInput": (InvalidPathError, "the service cannot hold a blob of this name"),
    "AccountLimitExceeded": (StorageFullError, "the account is full"),
    "Redirected": (ConfigurationError, "the response is a redirect: check the account and the endpoint_url"),
    "ServerBusy": (ThrottledError, _THROTTLED),
    "OperationTimedOut": (StorageUnavailableError, "the operation timed out in the service: try again"),
    "InternalError": (StorageUnavailableError, "the service has an internal error: try again"),
    "FeatureVersionMismatch": (UnsupportedOperationError, "the blob has features that this request does not support"),
    "UnsupportedHeader": (UnsupportedOperationError, "the service does not support this for such an account"),
    "FeatureNotSupportedForAccount": (
        UnsupportedOperationError,
        "the service does not support this for such an account",
    ),
}

# For a response without a known code: an emulator has its own codes, and a proxy sends none.
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

_PRECONDITION_FAILED = 412

_BY_CLASS: tuple[tuple[type[Exception], type[StorageError], str], ...] = (
    (sdk.ServiceResponseTimeoutError, StorageTimeoutError, "no response within read_timeout"),
    (sdk.ServiceRequestTimeoutError, StorageTimeoutError, "no connection within connect_timeout"),
    (sdk.ServiceRequestError, StorageUnavailableError, "the service cannot be reached: check account and endpoint_url"),
    (sdk.ServiceResponseError, StorageUnavailableError, "the connection broke off: try again"),
    (sdk.IncompleteReadError, StorageUnavailableError, "the connection broke off: try again"),
    (sdk.DecodeError, StorageUnavailableError, "the response is malformed: try again, or check the proxy in between"),
)


def translate_error(error: Exception, path: str | None, container: str, storage: str) -> StorageError | None:
    """Return our error for one of the SDK's, or None when it is not the SDK's.

    Of the service's response, the message contains only the code: the service's messages quote what was signed.
    """
    for sdk_class, error_class, advice in _BY_CLASS:
        if isinstance(error, sdk_class):
            return error_class(f"{_where(path, container)}: {advice}")
    if isinstance(error, sdk.ClientAuthenticationError) and not status_of(error):
        # Raised by azure.identity, before any request to the service.
        return PermissionDeniedError(
            f"{_where(path, container)}: the credential provided no token: the cause of this error lists what it tried"
        )
    if isinstance(error, sdk.HttpResponseError):
        return error_of(code_of(error), path, container, storage, service_code=service_code_of(error))
    if isinstance(error, sdk.AzureError):
        return StorageError(f"{_where(path, container)}: {type(error).__name__}: see the cause of this error")
    if isinstance(error, CancelledError) or (isinstance(error, RuntimeError) and "schedule new futures" in str(error)):
        return StorageUnavailableError(
            f"{_where(path, container)}: the storage was closed by another thread: try again"
        )
    return None


def error_of(code: str, path: str | None, container: str, storage: str, *, service_code: str = "") -> StorageError:
    """Return our error for an error code of the service.

    Args:
        code: A code of the table, or a status.
        path: The blob.
        container: Its container.
        storage: The name of the storage.
        service_code: The code in the response, for the message.
    """
    error_class, advice = _BY_CODE.get(code, (StorageError, "the service refused; see the cause of this error"))
    if error_class is FileNotFoundInStorageError:
        return FileNotFoundInStorageError(storage, path or "")
    message = f"{_where(path, container)}: {advice} ({service_code or code})"
    return error_class(message, path=path, backend=storage)


def code_of(error: sdk.HttpResponseError) -> str:
    """Return the error code of a response; if it has no known one, the code that its status stands for."""
    return known_code(service_code_of(error), status_of(error))


def service_code_of(error: sdk.HttpResponseError) -> str:
    """Return the error code in the response, or an empty string."""
    code = getattr(error, "error_code", None) or ""
    return str(getattr(code, "value", code))


def known_code(code: str, status: int) -> str:
    """Return *code* if the table has it, otherwise the code that *status* stands for."""
    if code == "CannotVerifyCopySource" and status == _PRECONDITION_FAILED:
        return "SourceConditionNotMet"  # the service passes on the response of the source
    return code if code in _BY_CODE else _BY_STATUS.get(status, code or str(status))


def status_of(error: sdk.HttpResponseError) -> int:
    """Return the status of the response; 0 if there was none."""
    return int(error.status_code or 0)


@contextmanager
def translating_conditions(path: str, options: WriteOptions) -> Iterator[None]:
    """Raise the error of the condition that failed: Azure reports each condition by several codes."""
    try:
        yield
    except sdk.HttpResponseError as error:
        code = code_of(error)
        if options.exclusive and code in ("BlobAlreadyExists", "ConditionNotMet", "TargetConditionNotMet"):
            raise FileExistsInStorageError(f"{path} exists: choose another name", path=path) from error
        if options.if_match is not None and code in ("ConditionNotMet", "TargetConditionNotMet", "BlobNotFound"):
            raise PreconditionFailedError(
                f"{path} is not the version that if_match names: read it again", path=path
            ) from error
        raise


@contextmanager
def translating_missing_account() -> Iterator[None]:
    """Raise a configuration error for a 404 to a request that names no blob and no container."""
    try:
        yield
    except sdk.ResourceNotFoundError as error:
        raise ConfigurationError("the service does not know the account: check account and endpoint_url") from error


def _where(path: str | None, container: str) -> str:
    return f"{path} in the container {container}" if path else f"the container {container}"

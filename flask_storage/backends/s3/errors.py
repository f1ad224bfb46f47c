"""Translates the errors of boto3 and of S3 into storage errors."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager

from botocore import exceptions as sdk

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

# By the error code in the response. For a file or an upload that does not exist, the text is appended to its path;
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_BY_CODE: dict[str, tuple[type[StorageError], str]] = {
    "AccessDenied": (
        PermissionDeniedError,
        "access is denied: a policy must allow this. Without s3:ListBucket, S3 denies access to missing objects too",
    ),
    "AllAccessDisabled": (PermissionDeniedError, "the account of the owner is disabled: contact the owner"),
    "AccountProblem": (PermissionDeniedError, "the account has a problem: contact the support of the service"),
    "InvalidAccessKeyId": (
        PermissionDeniedError,
        "the service has no such access key: check aws_access_key_id and endpoint_url",
    ),
    "SignatureDoesNotMatch": (
        PermissionDeniedError,
        "the signature does not match: check the secret key, aws_region and endpoint_url",
    ),
    "ExpiredToken": (PermissionDeniedError, "the temporary credentials have expired: get new ones"),
    "InvalidToken": (PermissionDeniedError, "the session token is not valid with this access key"),
    "TokenRefreshRequired": (PermissionDeniedError, "the temporary credentials must be refreshed"),
    "RequestTimeTooSkewed": (
        PermissionDeniedError,
        "the clock of this machine differs by more than the 15 minutes that the service allows: set it, with NTP",
    ),
    "RequestExpired": (PermissionDeniedError, "the request is too old: set the clock of this machine, with NTP"),
    "InvalidObjectState": (
        PermissionDeniedError,
        "the object is in an archive storage class: restore it first (restore_object)",
    ),
    "NoSuchKey": (FileNotFoundInStorageError, ""),
    "NoSuchUpload": (FileNotFoundInStorageError, " (upload)"),
    "NoSuchBucket": (ConfigurationError, "there is no such bucket: create it, or check its name and the endpoint_url"),
    "InvalidBucketName": (ConfigurationError, "this is not a valid bucket name"),
    "PermanentRedirect": (ConfigurationError, "the bucket is in another region: set aws_region"),
    "AuthorizationHeaderMalformed": (ConfigurationError, "the bucket is in another region: set aws_region"),
    "Redirected": (
        ConfigurationError,
        "the response is a redirect, which is not followed: check the endpoint_url (http or https), and set aws_region",
    ),
    "IllegalLocationConstraintException": (ConfigurationError, "the bucket is in another region: set aws_region"),
    "InvalidStorageClass": (ConfigurationError, "the service has no such storage_class"),
    "AccessControlListNotSupported": (ConfigurationError, "the bucket does not support ACLs: remove acl"),
    "KMS.NotFoundException": (ConfigurationError, "there is no such KMS key: check kms_key_id"),
    "PreconditionFailed": (PreconditionFailedError, "the stored file is not the expected version: read it again"),
    "ConditionalRequestConflict": (
        PreconditionFailedError,
        "another client wrote the same file concurrently: check what is stored, and try again",
    ),
    "OperationAborted": (StorageUnavailableError, "another operation on the same resource is in progress: try again"),
    "BadDigest": (IntegrityError, "the content changed in transit: try again"),
    "InvalidDigest": (IntegrityError, "the checksum in the request is not valid"),
    "XAmzContentSHA256Mismatch": (IntegrityError, "the content changed in transit: try again"),
    "XAmzContentChecksumMismatch": (IntegrityError, "the content changed in transit: try again"),
    "IncompleteBody": (IntegrityError, "fewer bytes arrived than were announced"),
    "InvalidPart": (IntegrityError, "a part is missing or was replaced: list the parts again, or upload it again"),
    "InvalidPartOrder": (IntegrityError, "the parts are not in order"),
    "EntityTooSmall": (IntegrityError, "a part other than the last is smaller than 5 MiB"),
    "EntityTooLarge": (TooLargeError, "the object or part is larger than the service allows"),
    "MaxMessageLengthExceeded": (TooLargeError, "the request is too long"),
    "MetadataTooLarge": (TooLargeError, "the metadata is larger than 2 KB"),
    "KeyTooLongError": (InvalidPathError, "with its prefix the path is longer than 1024 bytes"),
    "InvalidObjectName": (InvalidPathError, "the service cannot store an object with this name"),
    "QuotaExceeded": (StorageFullError, "the quota is exceeded: delete files, or request a larger quota"),
    "InsufficientCapacity": (StorageFullError, "the service has no space left: delete files, or add capacity"),
    "XMinioStorageFull": (StorageFullError, "the service has no space left: delete files, or add capacity"),
    "SlowDown": (ThrottledError, "the service limits the request rate: send fewer requests, or raise max_attempts"),
    "Throttling": (ThrottledError, "the service limits the request rate: send fewer requests, or raise max_attempts"),
    "TooManyRequests": (
        ThrottledError,
        "the service limits the request rate: send fewer requests, or raise max_attempts",
    ),
    "RequestLimitExceeded": (ThrottledError, "the service limits the request rate: send fewer requests"),
    "RequestTimeout": (StorageTimeoutError, "the service timed out waiting for the rest of the request: try again"),
    "InternalError": (StorageUnavailableError, "the service had an internal error: try again"),
    "ServiceUnavailable": (StorageUnavailableError, "the service is not available: try again"),
    "InvalidRequest": (
        StorageError,
        "the service rejected the request: check the preset; it may accept customer_key over https only",
    ),
    "InvalidArgument": (
        StorageError,
        "the service rejected a value: check storage_class, acl, server_side_encryption and the preset",
    ),
    "MissingContentLength": (
        StorageError,
        'the service does not support trailing checksums: set its preset, or set checksums="when_required"',
    ),
    "NotImplemented": (UnsupportedOperationError, "the service does not support this operation: check the preset"),
    "MethodNotAllowed": (
        UnsupportedOperationError,
        "the service does not support this operation here: check the preset",
    ),
}

# For a response without a code: a response to HEAD has no body, and a proxy sends no codes.
_BY_STATUS = {
    301: "Redirected",
    302: "Redirected",
    303: "Redirected",
    307: "Redirected",
    308: "Redirected",
    400: "InvalidRequest",
    401: "AccessDenied",
    403: "AccessDenied",
    404: "NoSuchKey",
    405: "MethodNotAllowed",
    409: "OperationAborted",
    411: "MissingContentLength",
    412: "PreconditionFailed",
    413: "EntityTooLarge",
    429: "TooManyRequests",
    500: "InternalError",
    501: "NotImplemented",
    502: "ServiceUnavailable",
    503: "ServiceUnavailable",
    504: "ServiceUnavailable",
    507: "InsufficientCapacity",
}

# By the exception class of the SDK, subclasses first.
_BY_CLASS: tuple[tuple[type[Exception], type[StorageError], str], ...] = (
    (
        sdk.ConnectTimeoutError,
        StorageTimeoutError,
        "the service did not respond within connect_timeout: check the endpoint_url",
    ),
    (
        sdk.ReadTimeoutError,
        StorageTimeoutError,
        "the service did not respond within read_timeout: try again, or raise read_timeout",
    ),
    (
        sdk.SSLError,
        StorageUnavailableError,
        "the TLS handshake failed: set verify to the certificate file of your CA, or use http if the service offers it",
    ),
    (sdk.ProxyConnectionError, StorageUnavailableError, "the proxy cannot be reached: check its address"),
    (
        sdk.EndpointConnectionError,
        StorageUnavailableError,
        "the service cannot be reached: check the endpoint_url and the network",
    ),
    (sdk.ConnectionClosedError, StorageUnavailableError, "the connection broke off: try again"),
    (sdk.ResponseStreamingError, StorageUnavailableError, "the connection broke off: try again"),
    (sdk.IncompleteReadError, StorageUnavailableError, "the connection broke off: try again"),
    (sdk.ConnectionError, StorageUnavailableError, "the connection failed: try again"),
    (sdk.HTTPClientError, StorageUnavailableError, "the connection failed: try again"),
    (sdk.FlexibleChecksumError, IntegrityError, "the content changed in transit: try again"),
    (sdk.ChecksumError, IntegrityError, "the content changed in transit: try again"),
    (
        sdk.NoCredentialsError,
        ConfigurationError,
        "there are no credentials: set keys or aws_profile, or configure boto3's credential chain",
    ),
    (sdk.PartialCredentialsError, ConfigurationError, "the credentials are incomplete: set both keys"),
    (
        sdk.CredentialRetrievalError,
        PermissionDeniedError,
        "the credentials could not be retrieved; see the error before this one",
    ),
    (sdk.NoRegionError, ConfigurationError, "no region is configured: set aws_region"),
    (
        sdk.InvalidRegionError,
        ConfigurationError,
        "the configured region is not the name of a region: set aws_region",
    ),
    (sdk.ParamValidationError, ConfigurationError, "an argument is not valid for S3; see the error before this one"),
    (sdk.BotoCoreError, StorageUnavailableError, "the request could not be sent; see the error before this one"),
)


def translate_error(error: Exception, path: str | None, bucket: str, storage: str) -> StorageError | None:
    """Return the storage error for an error of boto3, or None for any other error.

    Only the code is taken from the service: its messages, and some of boto3's, quote the signed request.
    """
    if isinstance(error, sdk.ClientError):
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
        return error_of(code_of(error), path, bucket, storage, region)
    for sdk_class, error_class, advice in _BY_CLASS:
        if isinstance(error, sdk_class):
            return error_class(f"{_where(path, bucket)}: {advice}")
    if isinstance(error, CancelledError) or (isinstance(error, RuntimeError) and "schedule new futures" in str(error)):
        return StorageUnavailableError(f"{_where(path, bucket)}: the storage was closed concurrently: try again")
    return None


def error_of(code: str, path: str | None, bucket: str, storage: str, region: str | None = None) -> StorageError:
    """Return the storage error for an error code; *region* is the region of the bucket, if the service names it."""
    error_class, advice = _BY_CODE.get(
        code, (StorageError, "the service rejected the request; see the error before this one")
    )
    if error_class is FileNotFoundInStorageError:
        return FileNotFoundInStorageError(storage, f"{path or ''}{advice}")
    hint = f" to {region}" if region and advice.endswith("aws_region") else ""
    return error_class(f"{_where(path, bucket)}: {advice}{hint} ({code})")


def _where(path: str | None, bucket: str) -> str:
    return f"{path} in the bucket {bucket}" if path else f"the bucket {bucket}"


def code_of(error: sdk.ClientError) -> str:
    """Return the error code of a response; for a response without a known one, the code for its status."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in _BY_CODE:
        return code
    status = status_of(error)
    return _BY_STATUS.get(status, code) if not code or code.isdigit() or status >= 500 else code


def status_of(error: sdk.ClientError) -> int:
    """Return the HTTP status of the response, or 0 if there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def translating_conditions(path: str, options: WriteOptions) -> Iterator[None]:
    """Raise the error of the condition that failed: S3 sends the same code for an existing name and another version."""
    try:
        yield
    except sdk.ClientError as error:
        code = code_of(error)
        if options.exclusive and code == "PreconditionFailed":
            raise FileExistsInStorageError(f"{path} exists: choose another name", path=path) from error
        if options.if_match is not None and code in ("PreconditionFailed", "NoSuchKey"):
            raise PreconditionFailedError(
                f"{path} is not the version that if_match names: read it again", path=path
            ) from error
        raise

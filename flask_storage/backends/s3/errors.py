"""What S3 says when something is wrong, and what we make of it."""

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

# By the code in the answer; https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_BY_CODE: dict[str, tuple[type[StorageError], str]] = {
    "AccessDenied": (
        PermissionDeniedError,
        "access is denied: a policy must allow this. Without s3:ListBucket, S3 says so of a missing object too",
    ),
    "AllAccessDisabled": (PermissionDeniedError, "the owner's account is closed to everybody"),
    "AccountProblem": (PermissionDeniedError, "the account has a problem: ask the service's support"),
    "InvalidAccessKeyId": (PermissionDeniedError, "the access key is unknown there: check it, and the endpoint_url"),
    "SignatureDoesNotMatch": (
        PermissionDeniedError,
        "the signature does not match: check the secret key, aws_region and endpoint_url",
    ),
    "ExpiredToken": (PermissionDeniedError, "the temporary credentials have expired: get new ones"),
    "InvalidToken": (PermissionDeniedError, "the session token is not valid with this access key"),
    "TokenRefreshRequired": (PermissionDeniedError, "the temporary credentials must be refreshed"),
    "RequestTimeTooSkewed": (
        PermissionDeniedError,
        "the clock of this machine is wrong by more than the service tolerates (15 minutes): set it, with NTP",
    ),
    "RequestExpired": (PermissionDeniedError, "the request is too old: set the clock of this machine, with NTP"),
    "InvalidObjectState": (
        PermissionDeniedError,
        "the object lies in an archive class: restore it first (restore_object)",
    ),
    "NoSuchKey": (FileNotFoundInStorageError, ""),
    "NoSuchUpload": (FileNotFoundInStorageError, " (upload)"),
    "NoSuchBucket": (ConfigurationError, "there is no such bucket: create it, or check its name and the endpoint_url"),
    "InvalidBucketName": (ConfigurationError, "this is not the name of a bucket"),
    "PermanentRedirect": (ConfigurationError, "the bucket is in another region: set aws_region"),
    "AuthorizationHeaderMalformed": (ConfigurationError, "the bucket is in another region: set aws_region"),
    "IllegalLocationConstraintException": (ConfigurationError, "the bucket is in another region: set aws_region"),
    "InvalidStorageClass": (ConfigurationError, "the service has no such storage_class"),
    "AccessControlListNotSupported": (ConfigurationError, "the bucket takes no ACL: leave acl out"),
    "KMS.NotFoundException": (ConfigurationError, "there is no such KMS key: check kms_key_id"),
    "PreconditionFailed": (PreconditionFailedError, "the stored file is not the version that was named"),
    "ConditionalRequestConflict": (
        PreconditionFailedError,
        "somebody else was writing the same file at the same moment: look what is stored, and try again",
    ),
    "OperationAborted": (StorageUnavailableError, "another operation on the same resource is under way: try again"),
    "BadDigest": (IntegrityError, "the bytes that arrived are not the ones that were sent"),
    "InvalidDigest": (IntegrityError, "the checksum that was sent is none"),
    "XAmzContentSHA256Mismatch": (IntegrityError, "the bytes that arrived are not the ones that were sent"),
    "XAmzContentChecksumMismatch": (IntegrityError, "the bytes that arrived are not the ones that were sent"),
    "IncompleteBody": (IntegrityError, "fewer bytes arrived than were announced"),
    "InvalidPart": (IntegrityError, "a part is missing, or is not the one that was stored"),
    "InvalidPartOrder": (IntegrityError, "the parts are not in order"),
    "EntityTooSmall": (IntegrityError, "a part other than the last is smaller than 5 MiB"),
    "EntityTooLarge": (TooLargeError, "the service takes no object or part as large as this"),
    "MaxMessageLengthExceeded": (TooLargeError, "the request is too long"),
    "MetadataTooLarge": (TooLargeError, "metadata takes at most 2 KB"),
    "KeyTooLongError": (InvalidPathError, "with its prefix the path is longer than 1024 bytes"),
    "InvalidObjectName": (InvalidPathError, "the service cannot hold an object of this name"),
    "QuotaExceeded": (StorageFullError, "the quota is used up: delete something, or have it raised"),
    "InsufficientCapacity": (StorageFullError, "no room is left"),
    "XMinioStorageFull": (StorageFullError, "no room is left"),
    "SlowDown": (ThrottledError, "the service asks to slow down: send fewer requests, or raise max_attempts"),
    "Throttling": (ThrottledError, "the service asks to slow down: send fewer requests, or raise max_attempts"),
    "TooManyRequests": (ThrottledError, "the service asks to slow down: send fewer requests, or raise max_attempts"),
    "RequestLimitExceeded": (ThrottledError, "the service asks to slow down: send fewer requests"),
    "RequestTimeout": (StorageTimeoutError, "the service waited in vain for the rest of the request"),
    "InternalError": (StorageUnavailableError, "the service has a trouble of its own: try again"),
    "ServiceUnavailable": (StorageUnavailableError, "the service is not available: try again"),
    "InvalidRequest": (
        StorageError,
        "the service refuses such a request: check the preset; what encrypts (customer_key) it may take by https only",
    ),
    "InvalidArgument": (
        StorageError,
        "the service refuses a value: check storage_class, acl, server_side_encryption and the preset",
    ),
    "MissingContentLength": (
        StorageError,
        'the service takes no checksums behind the content: name its preset, or set checksums="when_required"',
    ),
    "NotImplemented": (UnsupportedOperationError, "the service does not do this: check the preset"),
    "MethodNotAllowed": (UnsupportedOperationError, "the service does not do this here"),
}

# Where the answer has no code: an answer to HEAD has no body, and a proxy in between knows no codes.
_BY_STATUS = {
    301: "PermanentRedirect",
    307: "PermanentRedirect",
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

# By the SDK's own class, the more special one first.
_BY_CLASS: tuple[tuple[type[Exception], type[StorageError], str], ...] = (
    (sdk.ConnectTimeoutError, StorageTimeoutError, "it did not answer within connect_timeout: check the endpoint_url"),
    (sdk.ReadTimeoutError, StorageTimeoutError, "it did not answer within read_timeout"),
    (
        sdk.SSLError,
        StorageUnavailableError,
        "no trusted https: set verify to your CA's file, or write http if it speaks that",
    ),
    (sdk.ProxyConnectionError, StorageUnavailableError, "the proxy cannot be reached"),
    (sdk.EndpointConnectionError, StorageUnavailableError, "it cannot be reached: check the endpoint_url and the net"),
    (sdk.ConnectionClosedError, StorageUnavailableError, "the connection broke off: try again"),
    (sdk.ResponseStreamingError, StorageUnavailableError, "the connection broke off: try again"),
    (sdk.IncompleteReadError, StorageUnavailableError, "the connection broke off: try again"),
    (sdk.ConnectionError, StorageUnavailableError, "the connection failed: try again"),
    (sdk.HTTPClientError, StorageUnavailableError, "the connection failed: try again"),
    (sdk.FlexibleChecksumError, IntegrityError, "the bytes that arrived are not the ones that were sent"),
    (sdk.ChecksumError, IntegrityError, "the bytes that arrived are not the ones that were sent"),
    (
        sdk.NoCredentialsError,
        ConfigurationError,
        "there are no credentials: give keys or aws_profile, or set up one of boto3's own ways",
    ),
    (sdk.PartialCredentialsError, ConfigurationError, "the credentials are incomplete: give both keys"),
    (
        sdk.CredentialRetrievalError,
        PermissionDeniedError,
        "the credentials could not be had; see the error before this one",
    ),
    (sdk.NoRegionError, ConfigurationError, "no region is known: set aws_region"),
    (sdk.ParamValidationError, ConfigurationError, "an argument is none that S3 takes; see the error before this one"),
    (sdk.BotoCoreError, StorageUnavailableError, "the request could not be made; see the error before this one"),
)


def translate_error(error: Exception, path: str | None, bucket: str, storage: str) -> StorageError | None:
    """Return our error for one of boto3's, or None when it is not boto3's.

    No text is taken over from the service but its code: its messages quote what was signed, and so do some of boto3's.
    """
    if isinstance(error, sdk.ClientError):
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
        return error_of(code_of(error), path, bucket, storage, region)
    for known, made, advice in _BY_CLASS:
        if isinstance(error, known):
            return made(f"{_where(path, bucket)}: {advice}")
    if isinstance(error, CancelledError) or (isinstance(error, RuntimeError) and "schedule new futures" in str(error)):
        return StorageUnavailableError(f"{_where(path, bucket)}: the storage was closed meanwhile: ask again")
    return None


def error_of(code: str, path: str | None, bucket: str, storage: str, region: str | None = None) -> StorageError:
    """Return our error for a code of the service's; *region* is where it says that the bucket is."""
    made, advice = _BY_CODE.get(code, (StorageError, "the service refuses; see the error before this one"))
    if made is FileNotFoundInStorageError:
        return FileNotFoundInStorageError(storage, f"{path or ''}{advice}")
    hint = f" to {region}" if region and advice.endswith("aws_region") else ""
    return made(f"{_where(path, bucket)}: {advice}{hint} ({code})")


def _where(path: str | None, bucket: str) -> str:
    return f"{path} in the bucket {bucket}" if path else f"the bucket {bucket}"


def code_of(error: sdk.ClientError) -> str:
    """Return the code that says what is wrong; for an answer without one, the code that its status stands for."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in _BY_CODE:
        return code
    status = status_of(error)
    return _BY_STATUS.get(status, code) if not code or code.isdigit() or status >= 500 else code


def status_of(error: sdk.ClientError) -> int:
    """Return the status of the answer; 0 where there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def translating_conditions(path: str, options: WriteOptions) -> Iterator[None]:
    """Say whose condition did not hold: S3 answers the same to a taken name and to another version."""
    try:
        yield
    except sdk.ClientError as error:
        code = code_of(error)
        if options.exclusive and code == "PreconditionFailed":
            raise FileExistsInStorageError(f"{path} exists: choose another name", path=path) from error
        if options.if_match is not None and code in ("PreconditionFailed", "NoSuchKey"):
            raise PreconditionFailedError(f"{path} is not the version that was named", path=path) from error
        raise

"""Copies objects inside a bucket on the server side; no content passes through this process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from typing import Any
from urllib.parse import urlencode

from botocore import exceptions as sdk

from ...errors import FileNotFoundInStorageError
from ...multipart import Part, PartSizing
from ...types import WriteOptions
from .errors import code_of, translate_error, translating_conditions
from .gateway import BucketGateway
from .multipart import MAX_PART, S3Multipart
from .object_metadata import condition_arguments, preserved_arguments
from .responses import etag_of, size_of, translating_parse_errors, unquoted_etag, upload_id_of

logger = logging.getLogger("flask_storage")

# One CopyObject call copies up to 5 GiB, sequentially; from this size on, parts are copied concurrently.
MULTIPART_COPY_THRESHOLD = 256 * 1024 * 1024
_PART = 64 * 1024 * 1024


def copy_object(
    bucket: BucketGateway,
    path: str,
    response: Any,
    new_path: str,
    options: WriteOptions,
    workers: Callable[[], Executor],
    *,
    multipart_threshold: int | None = None,
) -> bool:
    """Copy one version of an object with its headers, metadata and tags; fail if the object was replaced.

    Args:
        bucket: The gateway to the bucket.
        path: The path of the object.
        response: The response to HEAD of this version.
        new_path: The path of the target, which is replaced atomically.
        options: Conditions of the target.
        workers: Returns the thread pool that copies parts.
        multipart_threshold: The size in bytes from which the object is copied in parts; the preset decides by default.

    Returns:
        Whether the object was copied. Some services cannot copy more than 5 GiB, or an object that is encrypted with a
        customer-provided key.
    """
    source = {
        "CopySource": {"Bucket": bucket.name, "Key": bucket.key(path)},
        "CopySourceIfMatch": etag_of(response),
        **{f"CopySource{name}": value for name, value in bucket.object_settings.customer.items()},
    }
    size = size_of(response)
    if multipart_threshold is None:
        multipart_threshold = MAX_PART + 1 if bucket.preset.copies_by_reference else MULTIPART_COPY_THRESHOLD
    try:
        if bucket.preset.part_copy and size >= multipart_threshold:
            _copy_multipart(bucket, new_path, source, options, response, size, workers)
        elif size <= MAX_PART:
            _copy_single(bucket, new_path, source, options)
        else:
            return False
    except sdk.ClientError as error:
        if code_of(error) == "NotImplemented":  # Ceph cannot copy an object with a customer-provided key
            return False
        raise
    return True


def _copy_single(bucket: BucketGateway, new_path: str, source: dict[str, Any], options: WriteOptions) -> None:
    stored = {**bucket.object_settings.stored, **bucket.object_settings.customer}
    with translating_conditions(new_path, options):
        bucket.call("copy_object", Key=bucket.key(new_path), **source, **stored, **condition_arguments(options))


def _copy_multipart(
    bucket: BucketGateway,
    new_path: str,
    source: dict[str, Any],
    options: WriteOptions,
    response: Any,
    size: int,
    workers: Callable[[], Executor],
) -> None:
    multipart = S3Multipart(bucket)
    sizing = PartSizing.for_upload(multipart.limits, _PART, size)
    stored = {**bucket.object_settings.stored, **bucket.object_settings.customer, **preserved_arguments(response)}
    stored |= _tags(bucket, source["CopySource"]["Key"], response)
    key = bucket.key(new_path)
    upload_id = upload_id_of(bucket.call("create_multipart_upload", Key=key, **stored))

    def copy_part(number: int, start: int, stop: int) -> Part:
        response = bucket.call(
            "upload_part_copy",
            Key=key,
            UploadId=upload_id,
            PartNumber=number,
            CopySourceRange=f"bytes={start}-{stop - 1}",
            **source,
            **bucket.object_settings.customer,
        )
        return Part(number=number, size=stop - start, etag=unquoted_etag(response.get("CopyPartResult", {})))

    futures: list[Future[Part]] = []
    try:
        for number, start in enumerate(range(0, size, sizing.first), 1):
            futures.append(workers().submit(copy_part, number, start, min(start + sizing.first, size)))
        multipart.complete(new_path, upload_id, [future.result() for future in futures], options)
    except BaseException:
        # A part that is copied after the abort would be left on the server.
        wait([future for future in futures if not future.cancel()])
        _abort_quietly(bucket, multipart, new_path, upload_id)
        raise


def _tags(bucket: BucketGateway, key: str, response: Any) -> dict[str, str]:
    """Return boto3's argument for the tags of an object: a copy in parts does not have them by itself."""
    # The service counts them only for a client that may read them, so this request is allowed.
    if not response.get("TagCount"):
        return {}
    tags = bucket.call("get_object_tagging", Key=key)
    with translating_parse_errors():
        return {"Tagging": urlencode([(tag["Key"], tag["Value"]) for tag in tags["TagSet"]])}


def _abort_quietly(bucket: BucketGateway, multipart: S3Multipart, path: str, upload_id: str) -> None:
    """Abort the upload; log an error of the abort, so that it does not hide the error that caused it."""
    try:
        multipart.abort(path, upload_id)
    except (sdk.ClientError, sdk.BotoCoreError) as error:
        reason = translate_error(error, path, bucket.name, bucket.storage)
        logger.warning("could not abort an unfinished copy, which sweep will remove: %s", reason)


def delete_version(bucket: BucketGateway, path: str, etag: str) -> None:
    """Delete an object if it is still this version. Another version, or a missing object, is no error.

    Where the service does not support the condition, the version is compared before the deletion. An object that is
    replaced between the two is deleted.

    Args:
        bucket: The gateway to the bucket.
        path: The path of the object.
        etag: The ETag of the version, in its quotes.
    """
    key = bucket.key(path)
    if bucket.preset.delete_conditions:
        try:
            bucket.call("delete_object", Key=key, IfMatch=etag)
        except sdk.ClientError as error:
            code = code_of(error)
            if code in ("PreconditionFailed", "NoSuchKey"):
                return
            if code != "NotImplemented":  # the response of LocalStack, which is used with the preset of AWS
                raise
        else:
            return
    try:
        is_unchanged = etag_of(bucket.head(path)) == etag
    except FileNotFoundInStorageError:
        return
    if is_unchanged:
        bucket.call("delete_object", Key=key)

"""Copying inside a bucket: no byte comes here, however large the object."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from typing import Any

from botocore import exceptions as sdk

from ...multipart import Part, PartSizing
from ...types import WriteOptions
from .errors import code_of, translate_error, translating_conditions
from .gateway import BucketGateway, etag_of, size_of, unquoted_etag
from .multipart import MAX_PART, S3Multipart
from .object_metadata import condition_arguments, preserved_arguments

logger = logging.getLogger("flask_storage")

# One call copies up to 5 GiB, but takes as long as that takes; from here on the parts are copied beside each other.
MULTIPART_COPY_THRESHOLD = 256 * 1024 * 1024
_PART = 64 * 1024 * 1024


def copy_object(
    bucket: BucketGateway,
    path: str,
    new_path: str,
    options: WriteOptions,
    workers: Callable[[], Executor],
    *,
    multipart_threshold: int | None = None,
) -> bool:
    """Copy one object with its headers and metadata, the version that is there now.

    Args:
        bucket: The gateway.
        path: The object.
        new_path: The target, which is replaced atomically.
        options: Conditions of the target.
        workers: Gives the threads that ask for parts.
        multipart_threshold: From this size on, in bytes, the object is copied in parts; as it suits the service without one.

    Returns:
        Whether it was copied: not every service can copy more than 5 GiB, or what a customer's key encrypts.
    """
    answer = bucket.head(path)
    source = {
        "CopySource": {"Bucket": bucket.name, "Key": bucket.key(path)},
        "CopySourceIfMatch": etag_of(answer),
        **{f"CopySource{name}": value for name, value in bucket.object_settings.customer.items()},
    }
    size = size_of(answer)
    if multipart_threshold is None:
        multipart_threshold = MAX_PART + 1 if bucket.preset.copies_by_reference else MULTIPART_COPY_THRESHOLD
    try:
        if bucket.preset.part_copy and size >= multipart_threshold:
            _copy_multipart(bucket, new_path, source, options, answer, size, workers)
        elif size <= MAX_PART:
            _copy_single(bucket, new_path, source, options)
        else:
            return False
    except sdk.ClientError as error:
        if code_of(error) == "NotImplemented":  # Ceph cannot copy what a customer's key encrypts
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
    answer: Any,
    size: int,
    workers: Callable[[], Executor],
) -> None:
    parts = S3Multipart(bucket)
    plan = PartSizing.for_upload(parts.limits, _PART, size)
    kept = {**bucket.object_settings.stored, **bucket.object_settings.customer, **preserved_arguments(answer)}
    key = bucket.key(new_path)
    upload_id = bucket.call("create_multipart_upload", Key=key, **kept)["UploadId"]

    def copy_part(number: int, start: int, stop: int) -> Part:
        copied = bucket.call(
            "upload_part_copy",
            Key=key,
            UploadId=upload_id,
            PartNumber=number,
            CopySourceRange=f"bytes={start}-{stop - 1}",
            **source,
            **bucket.object_settings.customer,
        )
        return Part(number=number, size=stop - start, etag=unquoted_etag(copied["CopyPartResult"]))

    futures: list[Future[Part]] = []
    try:
        for number, start in enumerate(range(0, size, plan.first), 1):
            futures.append(workers().submit(copy_part, number, start, min(start + plan.first, size)))
        parts.complete(new_path, upload_id, [future.result() for future in futures], options)
    except BaseException:
        # A part that is copied after the upload was aborted would stay behind.
        wait([future for future in futures if not future.cancel()])
        _discard(bucket, parts, new_path, upload_id)
        raise


def _discard(bucket: BucketGateway, parts: S3Multipart, path: str, upload_id: str) -> None:
    """Abort, and let no trouble with that hide what made us abort."""
    try:
        parts.abort(path, upload_id)
    except (sdk.ClientError, sdk.BotoCoreError) as error:
        trouble = translate_error(error, path, bucket.name, bucket.storage)
        logger.warning("an unfinished copy was left behind for the sweep: %s", trouble)

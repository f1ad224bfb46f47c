"""Copying inside a bucket: no byte comes here, however large the object."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from typing import Any

from botocore import exceptions as sdk

from ...parts import Part, PartPlan
from ...values import WriteOptions
from .bucket import Bucket, etag_of, size_of, tag_of
from .errors import code_of, told_of_conditions, translated
from .objects import condition_arguments, kept_arguments
from .parts import MAX_PART, S3Parts

logger = logging.getLogger("flask_storage")

# One call copies up to 5 GiB, but takes as long as that takes; from here on the parts are copied beside each other.
IN_PARTS_FROM = 256 * 1024 * 1024
_PART = 64 * 1024 * 1024


def copy_object(
    bucket: Bucket,
    path: str,
    new_path: str,
    options: WriteOptions,
    workers: Callable[[], Executor],
    *,
    in_parts_from: int | None = None,
) -> bool:
    """Copy one object with its headers and metadata, the version that is there now.

    Args:
        bucket: The door.
        path: The object.
        new_path: The target, which is replaced atomically.
        options: Conditions of the target.
        workers: Gives the threads that ask for parts.
        in_parts_from: From this size on, in bytes, the object is copied in parts; as it suits the service without one.

    Returns:
        Whether it was copied: not every service can copy more than 5 GiB, or what a customer's key encrypts.
    """
    answer = bucket.head(path)
    source = {
        "CopySource": {"Bucket": bucket.name, "Key": bucket.key(path)},
        "CopySourceIfMatch": etag_of(answer),
        **{f"CopySource{name}": value for name, value in bucket.objects.customer.items()},
    }
    size = size_of(answer)
    if in_parts_from is None:
        in_parts_from = MAX_PART + 1 if bucket.preset.copies_by_reference else IN_PARTS_FROM
    try:
        if bucket.preset.part_copy and size >= in_parts_from:
            _copy_in_parts(bucket, new_path, source, options, answer, size, workers)
        elif size <= MAX_PART:
            _copy_at_once(bucket, new_path, source, options)
        else:
            return False
    except sdk.ClientError as error:
        if code_of(error) == "NotImplemented":  # Ceph cannot copy what a customer's key encrypts
            return False
        raise
    return True


def _copy_at_once(bucket: Bucket, new_path: str, source: dict[str, Any], options: WriteOptions) -> None:
    stored = {**bucket.objects.stored, **bucket.objects.customer}
    with told_of_conditions(new_path, options):
        bucket.call("copy_object", Key=bucket.key(new_path), **source, **stored, **condition_arguments(options))


def _copy_in_parts(
    bucket: Bucket,
    new_path: str,
    source: dict[str, Any],
    options: WriteOptions,
    answer: Any,
    size: int,
    workers: Callable[[], Executor],
) -> None:
    parts = S3Parts(bucket)
    plan = PartPlan.of(parts.limits, _PART, size)
    kept = {**bucket.objects.stored, **bucket.objects.customer, **kept_arguments(answer)}
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
            **bucket.objects.customer,
        )
        return Part(number=number, size=stop - start, etag=tag_of(copied["CopyPartResult"]))

    futures: list[Future[Part]] = []
    try:
        for number, start in enumerate(range(0, size, plan.first), 1):
            futures.append(workers().submit(copy_part, number, start, min(start + plan.first, size)))
        parts.finish(new_path, upload_id, [future.result() for future in futures], options)
    except BaseException:
        # A part that is copied after the upload was aborted would stay behind.
        wait([future for future in futures if not future.cancel()])
        _discard(bucket, parts, new_path, upload_id)
        raise


def _discard(bucket: Bucket, parts: S3Parts, path: str, upload_id: str) -> None:
    """Abort, and let no trouble with that hide what made us abort."""
    try:
        parts.discard(path, upload_id)
    except (sdk.ClientError, sdk.BotoCoreError) as error:
        trouble = translated(error, path, bucket.name, bucket.storage)
        logger.warning("an unfinished copy was left behind for the sweep: %s", trouble)

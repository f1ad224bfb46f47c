"""Differences between S3-compatible services that matter to this package."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ConfigurationError
from ...types import Capabilities, ShareLinkOperation
from .endpoint import is_aws

ADDRESSING = ("auto", "path", "virtual")
CHECKSUMS = ("when_required", "when_supported")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Preset:
    """The behavior of one service. The defaults are safe with every S3-compatible service.

    Attributes:
        checksums: ``"when_supported"``: send and store the checksums that AWS has had since 2022, also as trailers;
            ``"when_required"``: only where an operation requires one, since many services reject or ignore the others.
        addressing: ``"virtual"`` (the bucket is part of the host name), ``"path"``, or ``"auto"``.
        region: The region to sign for when none is configured.
        acl: Whether single objects can have an ACL.
        post_policy: Whether the service supports POST policies (``create_upload_form``).
        form_headers: Whether it stores ``Cache-Control`` and ``Content-Encoding`` of such a form.
        put_conditions: Whether PutObject honors ``If-None-Match`` and ``If-Match``.
        complete_conditions: Whether CompleteMultipartUpload does.
        copy_conditions: Whether CopyObject does, for its target.
        delete_conditions: Whether DeleteObject honors ``If-Match``.
        bulk_delete: How many objects one DeleteObjects call deletes; 0 if the service has no such call.
        bulk_delete_md5: Whether that call requires Content-MD5, and rejects the checksum that boto3 sends.
        part_copy: Whether objects can be copied in parts, which objects larger than 5 GiB need.
        copies_by_reference: Whether a copy shares the stored content, so that one call copies any size immediately.
        uniform_parts: Whether all parts of an upload except the last must have the same size.
        hyphenates_metadata: Whether the service replaces underscores in metadata keys by hyphens.
        transcodes_gzip: Whether the service decompresses objects with ``content_encoding="gzip"`` for clients that do
            not accept gzip.
        etag_is_md5: Whether the ETag of an object that one request stored is its MD5 digest.
        metadata: Whether the service stores the application's keys and values unchanged.
        upload_listing: Whether unfinished uploads can be listed, as sweep needs, and parts be uploaded again.
    """

    checksums: str = "when_required"
    addressing: str = "path"
    region: str | None = "us-east-1"
    acl: bool = False
    post_policy: bool = False
    form_headers: bool = True
    put_conditions: bool = False
    complete_conditions: bool = False
    copy_conditions: bool = False
    delete_conditions: bool = False
    bulk_delete: int = 0
    bulk_delete_md5: bool = False
    part_copy: bool = False
    copies_by_reference: bool = False
    uniform_parts: bool = False
    hyphenates_metadata: bool = False
    transcodes_gzip: bool = False
    etag_is_md5: bool = False
    metadata: bool = True
    upload_listing: bool = True


UNKNOWN = S3Preset()
"""A service of which only the endpoint is known."""

PRESETS = {
    "aws": S3Preset(
        checksums="when_supported",
        addressing="virtual",
        region=None,
        acl=True,
        post_policy=True,
        put_conditions=True,
        complete_conditions=True,
        copy_conditions=True,
        delete_conditions=True,
        bulk_delete=1000,
        part_copy=True,
        etag_is_md5=True,
    ),
    "minio": S3Preset(
        post_policy=True,
        put_conditions=True,
        complete_conditions=True,
        bulk_delete=1000,
        part_copy=True,
        etag_is_md5=True,
    ),
    "r2": S3Preset(
        region="auto",
        put_conditions=True,
        complete_conditions=True,
        bulk_delete=500,
        part_copy=True,
        uniform_parts=True,
        etag_is_md5=True,
    ),
    "b2": S3Preset(region=None, bulk_delete=1000, bulk_delete_md5=True, part_copy=True),
    "gcs": S3Preset(region="auto", transcodes_gzip=True),
    "ceph": S3Preset(
        acl=True,
        post_policy=True,
        form_headers=False,
        put_conditions=True,
        bulk_delete=1000,
        part_copy=True,
        copies_by_reference=True,
        hyphenates_metadata=True,
        etag_is_md5=True,
    ),
    "spaces": S3Preset(
        addressing="virtual", region=None, acl=True, bulk_delete=1000, bulk_delete_md5=True, part_copy=True
    ),
    "wasabi": S3Preset(acl=True, bulk_delete=1000, bulk_delete_md5=True, part_copy=True),
}
"""The presets by name; the S3 guide names the source of each value."""


def preset_of(preset: str | S3Preset | None, endpoint_url: str | None) -> S3Preset:
    """Return the preset with this name, or the one given.

    Args:
        preset: The argument of the profile. Without one the preset is that of AWS, or :data:`UNKNOWN` if the endpoint
            is not one of AWS.
        endpoint_url: The endpoint that the client uses, if it is configured.

    Raises:
        ConfigurationError: for an unknown name; the message lists the known names.
    """
    if isinstance(preset, S3Preset):
        return preset
    if preset is None:
        return PRESETS["aws"] if endpoint_url is None or is_aws(endpoint_url) else UNKNOWN
    if preset not in PRESETS:
        raise ConfigurationError(f"unknown preset {preset!r}: use one of {', '.join(sorted(PRESETS))}")
    return PRESETS[preset]


def capabilities_of(preset: S3Preset, *, signs: bool, guesses: bool) -> Capabilities:
    """Return the capabilities of a storage.

    Args:
        preset: The behavior of the service.
        signs: Whether links can be signed; not with a customer-provided key.
        guesses: Whether content types are guessed from names.
    """
    conditions = preset.put_conditions and preset.complete_conditions
    constraints = {"disposition", "size", "checksum"} | ({"exclusive"} if preset.put_conditions else set())
    return Capabilities(
        exclusive=conditions,
        if_match=conditions,
        copy_conditions=conditions and preset.copy_conditions,
        multipart_conditions=conditions,
        content_headers=True,
        metadata=preset.metadata,
        guesses_content_type=guesses,
        links=~ShareLinkOperation(0) if signs else ShareLinkOperation(0),
        link_constraints=frozenset(constraints) if signs else frozenset(),
        upload_constraints=frozenset(constraints | ({"max_size"} if preset.post_policy else set()))
        if signs
        else frozenset(),
        multipart=preset.upload_listing,
        server_side_copy=True,
    )

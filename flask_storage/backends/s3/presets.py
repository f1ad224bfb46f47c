"""What the services that speak S3 do differently, as far as it concerns this package."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ConfigurationError
from ...types import Capabilities, ShareLinkOperation

ADDRESSING = ("auto", "path", "virtual")
CHECKSUMS = ("when_required", "when_supported")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Preset:
    """How one service behaves. The defaults are what any service that speaks S3 can be trusted with.

    Attributes:
        checksums: ``"when_supported"``: send and keep the checksums that AWS has had since 2022, also as trailers;
            ``"when_required"``: only where a call demands one, since many services refuse or ignore the rest.
        addressing: ``"virtual"`` (the bucket is part of the host's name), ``"path"``, or ``"auto"``.
        region: The region to sign for where none is configured.
        acl: Whether single objects can have an ACL.
        post_policy: Whether browsers can send a form (``create_upload_form``).
        form_headers: Whether it stores the caching and encoding that such a form brings.
        put_conditions: Whether ``If-None-Match`` and ``If-Match`` are honoured when an object is put.
        complete_conditions: Likewise when an upload in parts is completed.
        copy_conditions: Likewise for the target of a copy.
        bulk_delete: How many objects one call deletes; 0 where there is no such call.
        bulk_delete_md5: Whether that call wants the MD5 of its list, and refuses the checksum that boto3 sends.
        part_copy: Whether objects can be copied in parts, which takes those past 5 GiB.
        copies_by_reference: Whether a copy shares the content, so that one call is at once done with any size.
        uniform_parts: Whether all parts of an upload but the last must have one size.
        hyphenates_metadata: Whether it turns the underscores in the keys of metadata into hyphens.
        etag_is_md5: Whether the ETag of content stored in one go is its MD5.
        metadata: Whether it keeps the app's own keys and values as they are.
        upload_listing: Whether unfinished uploads can be listed, and so be swept, and parts of them be sent anew.
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
    bulk_delete: int = 0
    bulk_delete_md5: bool = False
    part_copy: bool = False
    copies_by_reference: bool = False
    uniform_parts: bool = False
    hyphenates_metadata: bool = False
    etag_is_md5: bool = False
    metadata: bool = True
    upload_listing: bool = True


UNKNOWN = S3Preset()
"""A service of which only the address is known."""

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
    "gcs": S3Preset(region="auto"),
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
"""The services known by name; the S3 guide says what each line rests on."""


def preset_of(preset: str | S3Preset | None, endpoint_url: str | None) -> S3Preset:
    """Return the preset that was named or given; without one AWS, or with an address of one's own an unknown service.

    Raises:
        ConfigurationError: for an unknown name; the text lists those that exist.
    """
    if isinstance(preset, S3Preset):
        return preset
    if preset is None:
        return PRESETS["aws"] if endpoint_url is None else UNKNOWN
    if preset not in PRESETS:
        raise ConfigurationError(f"no preset is called {preset!r}: there are {', '.join(sorted(PRESETS))}")
    return PRESETS[preset]


def capabilities_of(preset: S3Preset, *, signs: bool, guesses: bool) -> Capabilities:
    """Return what a storage can do.

    Args:
        preset: How the service behaves.
        signs: Whether links can be signed; not with a customer's key.
        guesses: Whether a name may tell the content type.
    """
    conditions = preset.put_conditions and preset.complete_conditions
    terms = {"disposition", "size", "checksum"} | ({"exclusive"} if preset.put_conditions else set())
    return Capabilities(
        exclusive=conditions,
        if_match=conditions,
        copy_conditions=conditions and preset.copy_conditions,
        multipart_conditions=conditions,
        content_headers=True,
        metadata=preset.metadata,
        guesses_content_type=guesses,
        links=~ShareLinkOperation(0) if signs else ShareLinkOperation(0),
        link_constraints=frozenset(terms) if signs else frozenset(),
        upload_constraints=frozenset(terms | ({"max_size"} if preset.post_policy else set())) if signs else frozenset(),
        multipart=preset.upload_listing,
        server_side_copy=True,
    )

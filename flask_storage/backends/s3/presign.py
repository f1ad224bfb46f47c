"""Presigned links and forms, signed locally without a request to the service."""

from __future__ import annotations

import base64
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from ...content_types import DEFAULT_CONTENT_TYPE, link_response_headers
from ...errors import ConfigurationError, NoSignerError, UnsupportedOperationError
from ...process_local import ProcessLocal
from ...types import LinkRequest, PresignedUpload, ShareLinkOperation
from ...validation import caller_stacklevel
from .client import Clients
from .gateway import BucketGateway
from .multipart import MAX_PARTS
from .sigv4 import MAX_EXPIRES, Credentials, Endpoint, UrlSigner, sign_policy

_METHODS = {
    ShareLinkOperation.download: "GET",
    ShareLinkOperation.upload: "PUT",
    ShareLinkOperation.remove: "DELETE",
}
_HEADERS = {
    "ACL": "x-amz-acl",
    "StorageClass": "x-amz-storage-class",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
}
_STEPS: Mapping[str, tuple[str, frozenset[str]]] = {
    "create": ("POST", frozenset()),
    "part": ("PUT", frozenset({"upload_id", "number"})),
    "complete": ("POST", frozenset({"upload_id"})),
    "abort": ("DELETE", frozenset({"upload_id"})),
    "list": ("GET", frozenset({"upload_id"})),
}
_MINUTE = 60


class S3Presigner:
    """Signs the links and forms of one storage.

    Args:
        bucket: The gateway, for keys and settings; no request is sent.
        clients: The clients, for the endpoint and the credentials.
        credentials: Access key, secret key and token to sign with instead of the storage's.
        endpoint_url: The endpoint that browsers use, if it is not the storage's.
        rounding: Links that are made within this many seconds are identical.
        clock: Returns the seconds since 1970.
    """

    def __init__(
        self,
        bucket: BucketGateway,
        clients: Clients,
        *,
        credentials: tuple[str, str, str | None] | None = None,
        endpoint_url: str | None = None,
        rounding: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bucket = bucket
        self._rounding = rounding
        self._clock = clock
        self._signing = ProcessLocal(
            lambda: _SigningContext(bucket.name, *clients.signing_client(credentials, endpoint_url))
        )
        self._last: tuple[Any, UrlSigner] | None = None

    def url(self, path: str, request: LinkRequest) -> str:
        """Return the link for one path."""
        return self._signer(path, request).sign(self._bucket.key(path))

    def urls(self, paths: Sequence[str], request: LinkRequest) -> list[str]:
        """Return a link for each path; their common parts are computed once."""
        if _depends_on_path(request):
            return [self.url(path, request) for path in paths]
        if not paths:
            return []
        sign = self._signer("", request).sign
        prefix = self._bucket.prefix
        return [sign(prefix + path) for path in paths]

    def upload(self, path: str, request: LinkRequest) -> PresignedUpload:
        """Return the PUT request that uploads one file; the client must send all signed headers."""
        return self._presigned_upload("PUT", path, request.expires_at, {}, self._upload_headers(request))

    def form(self, path: str, request: LinkRequest) -> PresignedUpload:
        """Return the form that uploads one file; its content type may be a prefix (``image/``)."""
        signing = self._signing()
        credentials = signing.credentials()
        signed_at, end = self._validity(request.expires_at, signing)
        stored = self._stored_headers(request)
        if not self._bucket.preset.form_headers and {"Cache-Control", "Content-Encoding"} & set(stored):
            raise UnsupportedOperationError("this service ignores cache_control and content_encoding of a form")
        fields = {"key": self._bucket.key(path), **stored}
        conditions: list[Any] = [
            {"bucket": self._bucket.name},
            ["content-length-range", request.min_size or 0, request.max_size],
        ]
        if request.content_type is not None and request.content_type.endswith("/"):
            conditions.append(["starts-with", "$Content-Type", request.content_type])
        else:
            fields["Content-Type"] = request.content_type or DEFAULT_CONTENT_TYPE
        if request.redirect_to is not None:
            fields["success_action_redirect"] = request.redirect_to
        if any("${filename}" in value.lower() for value in fields.values()):
            # Services replace it, in every field, by the name of the uploaded file, which the uploader chooses.
            raise UnsupportedOperationError("a form cannot contain ${filename}: the uploader would choose its value")
        conditions += [{name: value} for name, value in fields.items()]
        expiration = datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        policy = {"expiration": expiration, "conditions": conditions}
        return PresignedUpload(
            method="POST",
            url=signing.endpoint.url,
            fields={**fields, **sign_policy(credentials, signing.endpoint.region, signed_at, policy)},
            expires_at=datetime.fromtimestamp(end, UTC),
        )

    def multipart(
        self, path: str, step: str, request: LinkRequest, upload_id: str | None, number: int | None
    ) -> PresignedUpload:
        """Return one signed request of a multipart upload."""
        if step not in _STEPS:
            raise ValueError(f"step must be one of {', '.join(_STEPS)}, not {step!r}")
        method, needed = _STEPS[step]
        arguments = {"upload_id": upload_id, "number": number}
        if {name for name, value in arguments.items() if value} != needed:
            accepted = " and ".join(sorted(needed)) or "neither upload_id nor number"
            raise ValueError(f"the step {step!r} accepts {accepted}")
        if number is not None and not (type(number) is int and 1 <= number <= MAX_PARTS):
            raise ValueError(f"number must be a part number from 1 to {MAX_PARTS}, not {number!r}")
        if (request.content_type is not None and step != "create") or (request.size is not None and step != "part"):
            raise ValueError("content_type is only for the step 'create', and size only for the step 'part'")
        if step == "part" and request.size is None:
            # Some services copy another object into a part whose length is not signed (x-amz-copy-source).
            raise ValueError("the step 'part' needs a size: the length of the part is signed")
        if upload_id is None:
            query = {"uploads": ""}
        else:
            query = {"uploadId": upload_id} if number is None else {"partNumber": str(number), "uploadId": upload_id}
        headers = {} if request.size is None else {"Content-Length": str(request.size)}
        if step == "create":
            headers = {**self._stored_headers(request), "Content-Type": request.content_type or DEFAULT_CONTENT_TYPE}
        return self._presigned_upload(method, path, request.expires_at, query, headers)

    # -- inner ------------------------------------------------------------------------------------------------------

    def _presigned_upload(
        self, method: str, path: str, expires_at: datetime, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> PresignedUpload:
        signer, end = self._get_signer(method, expires_at, query, headers)
        # Browsers set Content-Length themselves; scripts cannot. It is signed all the same.
        sent = {name: value for name, value in headers.items() if name != "Content-Length"}
        return PresignedUpload(
            method=method,
            url=signer.sign(self._bucket.key(path)),
            headers=sent,
            expires_at=datetime.fromtimestamp(end, UTC),
        )

    def _signer(self, path: str, request: LinkRequest) -> UrlSigner:
        method = _METHODS[request.operations]
        response_headers = link_response_headers(path, request) if method == "GET" else {}
        query = {f"response-{name}": value for name, value in response_headers.items()}
        headers = self._upload_headers(request) if method == "PUT" else {}
        return self._get_signer(method, request.expires_at, query, headers)[0]

    def _get_signer(
        self, method: str, expires_at: datetime, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[UrlSigner, int]:
        """Return the signer of such links, and when they expire, in seconds since 1970."""
        signing = self._signing()
        credentials = signing.credentials()  # first, as this refreshes temporary credentials, which then expire later
        signed_at, end = self._validity(expires_at, signing)
        key = method, signed_at, end, query, headers, credentials
        last = self._last
        if last is not None and last[0] == key:  # links made one by one differ only in their path
            return last[1], end
        signer = UrlSigner(signing.endpoint, credentials, method, signed_at, end - signed_at, query, headers)
        self._last = key, signer
        return signer, end

    def _validity(self, expires_at: datetime, signing: _SigningContext) -> tuple[int, int]:
        """Return when a link is signed and when it expires, in seconds since 1970."""
        now = self._clock()
        signed_at = int(now)
        requested = math.ceil(expires_at.timestamp())
        end = requested
        # A short link is not rounded: one window more would multiply its lifetime. A minute of tolerance, because the
        # first link of a process waits for boto3's client.
        if self._rounding and expires_at.timestamp() - now > max(self._rounding - _MINUTE, _MINUTE - 1):
            # Time is divided into windows of this length. The signing time is the start of the current window, and the
            # lifetime is a number of whole windows, so that all one-hour links of a window are identical. One window is
            # added, because the current one began before now.
            windows = math.ceil((expires_at.timestamp() - now) / self._rounding) + 1
            signed_at -= signed_at % self._rounding
            end = signed_at + windows * self._rounding
            if end - signed_at > MAX_EXPIRES and requested - signed_at > MAX_EXPIRES:
                signed_at = int(now)  # otherwise the link would expire early
        if end - signed_at > MAX_EXPIRES:
            if requested - signed_at > MAX_EXPIRES + 1:
                warnings.warn(
                    "S3 accepts links for seven days at most: the expiry of this one is reduced to seven days",
                    stacklevel=caller_stacklevel(),
                )
            end = signed_at + MAX_EXPIRES
        credentials_end = signing.credentials_expiry()
        if credentials_end is not None and end > credentials_end:
            end = max(credentials_end, signed_at + 1)
        return signed_at, end

    def _upload_headers(self, request: LinkRequest) -> dict[str, str]:
        headers = {"Content-Type": request.content_type or DEFAULT_CONTENT_TYPE, **self._stored_headers(request)}
        if request.size is not None:
            headers["Content-Length"] = str(request.size)
        if request.exclusive:
            headers["If-None-Match"] = "*"
        if request.checksum is not None:
            headers.update(self._checksum_header(request.checksum))
        return headers

    def _stored_headers(self, request: LinkRequest) -> dict[str, str]:
        objects = self._bucket.object_settings
        headers = {_HEADERS[name]: value for name, value in objects.stored.items()}
        cache_control = request.cache_control or objects.cache_control
        if cache_control:
            headers["Cache-Control"] = cache_control
        if request.content_encoding:
            headers["Content-Encoding"] = request.content_encoding
        return headers

    def _checksum_header(self, checksum: str) -> dict[str, str]:
        algorithm, _, digest = checksum.partition(":")
        value = base64.b64encode(bytes.fromhex(digest)).decode()
        if algorithm == "md5":
            return {"Content-MD5": value}
        # A service that does not support these headers ignores them, and would not verify the checksum.
        if algorithm in ("sha1", "sha256") and self._bucket.preset.checksums == "when_supported":
            return {f"x-amz-checksum-{algorithm}": value}
        raise UnsupportedOperationError(f"this service does not verify {algorithm} of uploads by link, only md5")


class _SigningContext:
    """The endpoint of a bucket and the credentials that sign for it, in one process."""

    def __init__(self, bucket: str, client: Any, credentials: Any) -> None:
        if credentials is None:
            raise NoSignerError(
                "links need credentials to sign with: set keys or aws_profile, or configure boto3's credential chain"
            )
        self._credentials = credentials
        # The URL of a link made by boto3 shows how the bucket is addressed; its signature is not used.
        sample = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "x"})
        url, _, query = sample.partition("?")
        credential = parse_qs(query).get("X-Amz-Credential")
        if credential is None:
            raise ConfigurationError(
                'client does not sign links with Signature Version 4: create it with Config(signature_version="s3v4")'
            )
        self.endpoint = Endpoint(url.removesuffix("x"), credential[0].split("/")[-3])

    def credentials(self) -> Credentials:
        """Return the current credentials; botocore refreshes temporary ones before they expire."""
        frozen = self._credentials.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def credentials_expiry(self) -> int | None:
        """Return when temporary credentials, and all links signed with them, expire; None for permanent ones."""
        # Only refreshable credentials have an expiry, and boto3 has no public attribute for it.
        end = getattr(self._credentials, "_expiry_time", None)
        return None if end is None else int(end.timestamp())


def _depends_on_path(request: LinkRequest) -> bool:
    return request.disposition == "inline"

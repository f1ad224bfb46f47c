"""Links and forms that the service itself honours: signed here, without asking it."""

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
from ...errors import ConfigurationError, UnsupportedOperationError
from ...process_local import ProcessLocal
from ...types import LinkRequest, PresignedUpload, ShareLinkOperation
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
_STACKLEVEL = 8  # calls from the warning up to whoever called link_to


class S3Presigner:
    """What signs for one storage.

    Args:
        bucket: The gateway; nothing goes through it.
        clients: Know the address and the credentials.
        credentials: Access key, secret key and token to sign with instead.
        endpoint_url: The address that browsers know the service by, if another.
        rounding: In seconds: links made within so much time are the same.
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
        """Return a link for each path; what they have in common is worked out once."""
        if _depends_on_path(request):
            return [self.url(path, request) for path in paths]
        if not paths:
            return []
        sign = self._signer("", request).sign
        prefix = self._bucket.prefix
        return [sign(prefix + path) for path in paths]

    def upload(self, path: str, request: LinkRequest) -> PresignedUpload:
        """Return how a browser puts one file here: all headers that are signed must be sent."""
        return self._presigned_upload("PUT", path, request.expires_at, {}, self._upload_headers(request))

    def form(self, path: str, request: LinkRequest, min_size: int = 0) -> PresignedUpload:
        """Return a form by which a browser uploads one file; its content type may be a beginning (``image/``)."""
        signing = self._signing()
        credentials = signing.credentials()
        signed_at, end = self._validity(request.expires_at, signing)
        stored = self._stored_headers(request)
        if not self._bucket.preset.form_headers and {"Cache-Control", "Content-Encoding"} & set(stored):
            raise UnsupportedOperationError(
                "this service stores no cache_control and no content_encoding of a form: use a link with a size instead"
            )
        fields = {"key": self._bucket.key(path), **stored}
        conditions: list[Any] = [
            {"bucket": self._bucket.name},
            ["content-length-range", min_size, request.max_size],
        ]
        if request.content_type is not None and request.content_type.endswith("/"):
            conditions.append(["starts-with", "$Content-Type", request.content_type])
        else:
            fields["Content-Type"] = request.content_type or DEFAULT_CONTENT_TYPE
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
        """Return one signed request of an upload in parts."""
        if step not in _STEPS:
            raise ValueError(f"the steps of an upload in parts are {', '.join(_STEPS)}, not {step!r}")
        method, needed = _STEPS[step]
        given = {"upload_id": upload_id, "number": number}
        if {name for name, value in given.items() if value} != needed:
            raise ValueError(
                f"the step {step!r} takes {' and '.join(sorted(needed)) or 'neither upload_id nor number'}"
            )
        if number is not None and not (type(number) is int and 1 <= number <= MAX_PARTS):
            raise ValueError(f"parts are numbered from 1 to {MAX_PARTS}, not {number}")
        if (request.content_type is not None and step != "create") or (request.size is not None and step != "part"):
            raise ValueError("content_type is said when an upload is created, size of a part")
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
        # A browser sets the length itself and lets no script do it; it must be right all the same.
        told = {name: value for name, value in headers.items() if name != "Content-Length"}
        return PresignedUpload(
            method=method,
            url=signer.sign(self._bucket.key(path)),
            headers=told,
            expires_at=datetime.fromtimestamp(end, UTC),
        )

    def _signer(self, path: str, request: LinkRequest) -> UrlSigner:
        method = _METHODS[request.operations]
        answer = link_response_headers(path, request) if method == "GET" else {}
        query = {f"response-{name}": value for name, value in answer.items()}
        headers = self._upload_headers(request) if method == "PUT" else {}
        return self._get_signer(method, request.expires_at, query, headers)[0]

    def _get_signer(
        self, method: str, expires_at: datetime, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[UrlSigner, int]:
        """Return what signs such links, and when they end."""
        signing = self._signing()
        credentials = signing.credentials()  # first: temporary ones are renewed by this, and then end later
        signed_at, end = self._validity(expires_at, signing)
        terms = method, signed_at, end, query, headers, credentials
        last = self._last
        if last is not None and last[0] == terms:  # links that are made one by one differ only in their key
            return last[1], end
        signer = UrlSigner(signing.endpoint, credentials, method, signed_at, end - signed_at, query, headers)
        self._last = terms, signer
        return signer, end

    def _validity(self, expires_at: datetime, signing: _SigningContext) -> tuple[int, int]:
        """Return from when and until when a link is good, in seconds since 1970."""
        now = self._clock()
        signed_at = int(now)
        wanted = math.ceil(expires_at.timestamp())
        end = wanted
        if self._rounding:
            # By the time it lives, so that links for an hour are one text however the hour lies; and a whole step more,
            # as it is counted from before now.
            steps = math.ceil((expires_at.timestamp() - now) / self._rounding) + 1
            signed_at -= signed_at % self._rounding
            end = signed_at + steps * self._rounding
            if end - signed_at > MAX_EXPIRES and wanted - signed_at > MAX_EXPIRES:
                signed_at = int(now)  # or it would end before its time
        if end - signed_at > MAX_EXPIRES:
            if wanted - signed_at > MAX_EXPIRES + 1:
                warnings.warn("S3 honours a link for seven days at most: this one ends then", stacklevel=_STACKLEVEL)
            end = signed_at + MAX_EXPIRES
        last = signing.credentials_expiry()
        if last is not None and end > last:
            end = max(last, signed_at + 1)
        return signed_at, end

    def _upload_headers(self, request: LinkRequest) -> dict[str, str]:
        if request.content_type and request.content_type.endswith("/"):
            raise ValueError("a link binds one content type; the beginning of one takes a form (create_upload_form)")
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
        # Where these are not known they are ignored, and the link would promise what nobody checks.
        if algorithm in ("sha1", "sha256") and self._bucket.preset.checksums == "when_supported":
            return {f"x-amz-checksum-{algorithm}": value}
        raise UnsupportedOperationError(f"this service checks no {algorithm} of what a link uploads: give the md5")


class _SigningContext:
    """The address of a bucket and who signs for it, in one process."""

    def __init__(self, bucket: str, client: Any, credentials: Any) -> None:
        if credentials is None:
            raise ConfigurationError(
                "links need credentials to sign with: give keys or aws_profile, or set up one of boto3's own ways"
            )
        self._credentials = credentials
        # boto3 knows best how this bucket is addressed; its own signature is thrown away.
        probe = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "x"})
        url, _, query = probe.partition("?")
        named = parse_qs(query).get("X-Amz-Credential")
        if named is None:
            raise ConfigurationError(
                'a client of your own must sign links with version 4: Config(signature_version="s3v4")'
            )
        self.endpoint = Endpoint(url.removesuffix("x"), named[0].split("/")[-3])

    def credentials(self) -> Credentials:
        """Return what signs now; temporary credentials are refreshed in time."""
        frozen = self._credentials.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def credentials_expiry(self) -> int | None:
        """Return when temporary credentials end, and every link with them; None for lasting ones."""
        # Only those that refresh themselves know, and boto3 has no public word for it.
        end = getattr(self._credentials, "_expiry_time", None)
        return None if end is None else int(end.timestamp())


def _depends_on_path(request: LinkRequest) -> bool:
    return request.disposition == "inline"

"""Creates the boto3 clients of a storage: one for each process, when it is first used."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.handlers import add_expect_header
from botocore.parsers import ResponseParserError

from ...errors import ConfigurationError
from ...process_local import ProcessLocal
from ...range_download import SEND_CHUNK_SIZE
from .bounded_client import BoundedClient
from .endpoint import configured_endpoint

_OPERATIONS_WITH_BODY = {
    "CompleteMultipartUpload",
    "CopyObject",
    "CreateMultipartUpload",
    "DeleteObjects",
    "ListMultipartUploads",
    "ListObjectsV2",
    "ListParts",
    "UploadPartCopy",
}
"""Operations whose successful response always has a body."""
_REQUIRED_HEADERS = {"HeadObject": ("ETag", "Last-Modified"), "UploadPart": ("ETag",)}
"""Operations whose response has no body, and the headers that it always has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Settings of a boto3 client; :class:`~flask_storage.S3Storage` documents each."""

    region: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    profile: str | None = None
    endpoint_url: str | None = None
    addressing: str = "auto"
    checksums: str = "when_supported"
    connect_timeout: float = 10
    read_timeout: float = 15
    max_attempts: int = 3
    max_connections: int = 50
    bulk_delete_md5: bool = False
    transcodes_gzip: bool = False
    verify: bool | str | None = None

    def session(self) -> Any:
        """Return a boto3 session with explicit keys, a named profile, or boto3's default credential chain.

        Raises:
            ConfigurationError: when the named profile does not exist, or ``~/.aws/config`` cannot be parsed.
        """
        try:
            return boto3.session.Session(
                aws_access_key_id=self.access_key,
                aws_secret_access_key=self.secret_key,
                aws_session_token=self.token,
                profile_name=self.profile,
                region_name=self.region,
            )
        except BotoCoreError as error:
            raise ConfigurationError(
                f"{error}: check aws_profile and ~/.aws/config, or set aws_access_key_id and aws_secret_access_key"
            ) from error

    def with_endpoint(self, *, session: Any = None, client: Any = None) -> ClientSettings:
        """Return these settings with the endpoint that requests go to; None is that of AWS. No request is sent.

        Args:
            session: The application's own boto3 session.
            client: The application's own boto3 client.

        Raises:
            ConfigurationError: as :meth:`session` does, and for an invalid endpoint in boto3's configuration.
        """
        if client is not None:
            return replace(self, endpoint_url=client.meta.endpoint_url)
        session = session or self.session()
        endpoint_url = self.endpoint_url or configured_endpoint(session)
        if endpoint_url == self.endpoint_url:
            return self
        # A region in the same configuration belongs to that endpoint.
        return replace(self, endpoint_url=endpoint_url, region=self.region or session.region_name)

    def client(self, session: Any) -> Any:
        """Return a client that always uses Signature Version 4; version 2 leaves most of a link unsigned."""
        client = session.client(
            "s3",
            region_name=self.region or session.region_name,
            endpoint_url=self.endpoint_url,
            verify=self.verify,
            config=Config(
                signature_version="s3v4",
                # `endpoint_url` contains what boto3 would find there when the storage was created. The capabilities
                # depend on it, so the client must not find another one.
                ignore_configured_endpoint_urls=True,
                s3={"addressing_style": self.addressing},
                request_checksum_calculation=self.checksums,
                # S3Reader verifies downloads. boto3 does not verify ranges, and some services send the checksum of the
                # whole object with a range.
                response_checksum_validation="when_required",
                connect_timeout=self.connect_timeout,
                read_timeout=self.read_timeout,
                retries={"mode": "standard", "total_max_attempts": self.max_attempts},
                max_pool_connections=self.max_connections,
                # boto3 builds its own for each request, which takes a tenth of the time of a small request.
                user_agent=f"flask-storage-profiles Boto3/{boto3.__version__}",
            ),
        )
        _skip_expect_header(client)
        client.meta.events.register("before-parse.s3", _refuse_html)
        client.meta.events.register("before-parse.s3", _retry_truncated_response)
        client.meta.events.register("before-call.s3.HeadBucket", _do_not_look_up_region)
        if self.transcodes_gzip:
            client.meta.events.register("before-send.s3.GetObject", _accept_gzip)
            client.meta.events.register("before-send.s3.HeadObject", _accept_gzip)
        if self.bulk_delete_md5:
            client.meta.events.register("before-call.s3.DeleteObjects", _send_md5)
        return client


def _send_md5(params: Any, context: Any, **_: Any) -> None:
    """Send Content-MD5 with a list of deletions; boto3 sends a CRC32, which some services reject."""
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()
    params["headers"].pop("x-amz-sdk-checksum-algorithm", None)
    params["context"].pop("checksum", None)
    context.pop("checksum", None)


def _accept_gzip(request: Any, **_: Any) -> None:
    """Accept compressed content, so that the service sends it as it is stored, with its size.

    The request is signed already: the service changes this header before it verifies the signature.
    """
    request.headers["Accept-Encoding"] = "gzip"


class Clients:
    """The boto3 clients of one storage, one set for each process.

    Args:
        settings: Settings of the clients.
        session: The application's own boto3 session, for its credentials.
        client: The application's own boto3 client; *settings* and *session* then apply to links only.
    """

    def __init__(self, settings: ClientSettings, *, session: Any = None, client: Any = None) -> None:
        self.settings = settings
        self._app_client = client
        self._pid = os.getpid()
        self.session: Callable[[], Any] = ProcessLocal(
            lambda: session or (settings.session() if client is None else None)
        )
        self.bounded_client = ProcessLocal(lambda: self._connect(settings))
        # For the cleanup after a failure, with short time-outs: the service itself may be the cause.
        self.cleanup_client = ProcessLocal(
            lambda: self._connect(
                replace(
                    settings,
                    connect_timeout=min(settings.connect_timeout, 2),
                    read_timeout=min(settings.read_timeout, 2),
                    max_attempts=2,
                )
            )
        )

    def close(self) -> None:
        """Close the clients of this process; later calls create new ones. The application's own client stays open."""
        for bounded in (self.bounded_client.pop(), self.cleanup_client.pop()):
            if bounded is not None and bounded.client is not self._app_client:
                bounded.client.close()

    def is_plain_http(self) -> bool:
        """Whether the connection is plain HTTP, without the integrity protection of TLS."""
        return bool(self.bounded_client().client.meta.endpoint_url.startswith("http:"))

    def signing_client(
        self, credentials: tuple[str, str, str | None] | None, endpoint_url: str | None
    ) -> tuple[Any, Any]:
        """Return a client that has the endpoint for links, and the botocore credentials that sign them.

        Args:
            credentials: Access key, secret key and token to sign with instead of the storage's own.
            endpoint_url: The endpoint of links instead of the storage's own.
        """
        if credentials is None and endpoint_url is None:
            client = signer = self.bounded_client().client
        else:
            signer = self._app_client if credentials is None else None
            if signer is not None and signer._request_signer._credentials is not None:
                credentials = signer._request_signer._credentials.get_frozen_credentials()
            settings = self._signing_client_settings()
            settings = replace(settings, endpoint_url=endpoint_url or settings.endpoint_url)
            session = self.session() or settings.session()
            if credentials is not None:
                access_key, secret_key, token = credentials[:3]  # botocore's have an account id too
                settings = replace(settings, access_key=access_key, secret_key=secret_key, token=token, profile=None)
                session = settings.session()
            client = settings.client(session)
        # boto3 has no public attribute for the credentials of a client.
        return client, (signer or client)._request_signer._credentials

    def _signing_client_settings(self) -> ClientSettings:
        """Return settings for another client of the bucket, taken from the application's own client if there is one."""
        if self._app_client is None:
            return self.settings
        meta = self._app_client.meta
        return replace(
            self.settings,
            region=meta.region_name,
            endpoint_url=meta.endpoint_url,
            addressing=(meta.config.s3 or {}).get("addressing_style", "auto"),
        )

    def _connect(self, settings: ClientSettings) -> BoundedClient:
        if self._app_client is None:
            return BoundedClient(settings.client(self.session()), settings.max_connections)
        if self._pid != os.getpid():
            self._app_client.close()  # a forked child must not use the connections that it inherited
        return BoundedClient(self._app_client, self._app_client.meta.config.max_pool_connections)


def _skip_expect_header(client: Any) -> None:
    """Do not send ``Expect: 100-continue`` with a part or a small object.

    The header costs a round trip. The service accepted the multipart upload before its parts, and a small object is
    sent before the service could reject it.
    """

    def add_if_large(model: Any, params: Any, **kwargs: Any) -> None:
        if model.name == "UploadPart" or (model.name == "PutObject" and _is_small(params["body"])):
            return
        add_expect_header(model, params, **kwargs)

    client.meta.events.unregister("before-call.s3", add_expect_header)
    client.meta.events.register("before-call.s3", add_if_large)


def _retry_truncated_response(operation_model: Any, response_dict: Any, **_: Any) -> None:
    """Make boto3 retry a response that ended within its headers: boto3 would treat it as complete.

    The status is changed to 500, which boto3 retries.
    """
    if response_dict["status_code"] == HTTPStatus.OK:
        name = operation_model.name
        has_headers = all(header in response_dict["headers"] for header in _REQUIRED_HEADERS.get(name, ()))
        if not has_headers or (name in _OPERATIONS_WITH_BODY and not response_dict["body"]):
            response_dict["status_code"] = HTTPStatus.INTERNAL_SERVER_ERROR.value


def _refuse_html(operation_model: Any, response_dict: Any, **_: Any) -> None:
    """Refuse a page of a console or of a login: boto3 takes it as a success, or as an empty listing."""
    if response_dict["status_code"] == HTTPStatus.OK and not operation_model.has_streaming_output:
        beginning = bytes(response_dict["body"][:100]).lstrip().lower()
        if beginning.startswith((b"<!doctype html", b"<html")):
            raise ResponseParserError("the response is a page of HTML: endpoint_url leads to another server")


def _do_not_look_up_region(context: Any, **_: Any) -> None:
    """Do not look up the bucket's region after a redirect of HeadBucket.

    The lookup is another HeadBucket: where the server redirects every request, boto3 would recurse without end.
    """
    context.setdefault("s3_redirect", {})["redirected"] = True


def _is_small(body: Any) -> bool:
    size = body.seek(0, io.SEEK_END)
    body.seek(0)
    return bool(size <= SEND_CHUNK_SIZE)

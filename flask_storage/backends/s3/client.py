"""From configuration to boto3 clients: one for each process, made when it is first needed."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ProfileNotFound
from botocore.handlers import add_expect_header

from ...errors import ConfigurationError
from ...process_local import ProcessLocal
from ...range_download import SEND_CHUNK_SIZE

_WITH_CONTENT = {
    "CompleteMultipartUpload",
    "CopyObject",
    "CreateMultipartUpload",
    "DeleteObjects",
    "ListMultipartUploads",
    "ListObjectsV2",
    "ListParts",
    "UploadPartCopy",
}
"""Calls whose answer always has content."""
_WITH_HEADERS = {"HeadObject": ("Content-Length", "ETag", "Last-Modified"), "UploadPart": ("ETag",)}
"""Calls whose answer has none, and the headers that it always has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """What a client is made of; see :class:`~flask_storage.S3Storage` for what each means."""

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
    verify: bool | str | None = None

    def session(self) -> Any:
        """Return a boto3 session: explicit keys, a named profile, or boto3's own chain of places to look.

        Raises:
            ConfigurationError: when the named profile does not exist.
        """
        try:
            return boto3.session.Session(
                aws_access_key_id=self.access_key,
                aws_secret_access_key=self.secret_key,
                aws_session_token=self.token,
                profile_name=self.profile,
                region_name=self.region,
            )
        except ProfileNotFound as error:
            raise ConfigurationError(f"{error}: see ~/.aws/config, or give keys") from error

    def client(self, session: Any) -> Any:
        """Return a client that signs with version 4 everywhere; version 2 leaves much of a link unsigned."""
        client = session.client(
            "s3",
            region_name=self.region or session.region_name,
            endpoint_url=self.endpoint_url,
            verify=self.verify,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": self.addressing},
                request_checksum_calculation=self.checksums,
                # We compare what arrives ourselves: pieces of a file, which this would not, and some services send
                # the checksum of the whole with a piece.
                response_checksum_validation="when_required",
                connect_timeout=self.connect_timeout,
                read_timeout=self.read_timeout,
                retries={"mode": "standard", "total_max_attempts": self.max_attempts},
                max_pool_connections=self.max_connections,
                # boto3's own is put together anew for each request, which takes a tenth of the time of a small one.
                user_agent=f"flask-storage-profiles Boto3/{boto3.__version__}",
            ),
        )
        _skip_expect_header(client)
        client.meta.events.register("before-parse.s3", _have_it_tried_again)
        if self.bulk_delete_md5:
            client.meta.events.register("before-call.s3.DeleteObjects", _send_md5)
        return client


def _send_md5(params: Any, context: Any, **_: Any) -> None:
    """Prove a list of deletions by its MD5, as S3 first did; boto3 sends a CRC32 instead, which some refuse."""
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()
    params["headers"].pop("x-amz-sdk-checksum-algorithm", None)
    params["context"].pop("checksum", None)
    context.pop("checksum", None)


class Connection:
    """A client and the right to use it: no more requests at once than it has connections.

    Without the limit, more threads than connections would open, and throw away, a connection for every request.
    """

    def __init__(self, client: Any, max_connections: int) -> None:
        self.client = client
        self._slots = threading.BoundedSemaphore(max_connections)

    @contextmanager
    def slot(self) -> Iterator[Any]:
        """Hold one of the connections while the block runs, which reads the answer to its end."""
        with self._slots:
            yield self.client


class Clients:
    """The connections of one storage, in whichever process they are needed.

    Args:
        settings: What a client is made of.
        session: The app's own boto3 session, for its credentials.
        client: The app's own boto3 client, instead of all that.
    """

    def __init__(self, settings: ClientSettings, *, session: Any = None, client: Any = None) -> None:
        self.settings = settings
        self._app_session = session
        self._app_client = client
        self._pid = os.getpid()
        if session is None and client is None:
            settings.session()  # a profile that does not exist is told at once
        self.session: Callable[[], Any] = ProcessLocal(
            lambda: session or (settings.session() if client is None else None)
        )
        self.connection = ProcessLocal(lambda: self._connect(settings))
        # To clear away what a failure left: the service may be the one in trouble.
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
        """Close this process's connections; later ones are new. A client that the app made stays its own."""
        for made in (self.connection.pop(), self.cleanup_client.pop()):
            if made is not None and made.client is not self._app_client:
                made.client.close()

    def is_plain_http(self) -> bool:
        """Whether what is sent and read has no protection of its own on the way."""
        return bool(self.connection().client.meta.endpoint_url.startswith("http:"))

    def signing_client(self, pair: tuple[str, str, str | None] | None, endpoint_url: str | None) -> tuple[Any, Any]:
        """Return a client that knows the address for links, and the credentials that sign them.

        Args:
            pair: Access key, secret key and token to sign with instead of the storage's own.
            endpoint_url: The address instead of the storage's own.
        """
        if pair is None and endpoint_url is None:
            client = signer = self.connection().client
        else:
            signer = self._app_client if pair is None else None
            if signer is not None and signer._request_signer._credentials is not None:
                pair = signer._request_signer._credentials.get_frozen_credentials()
            settings = self._signing_client_settings()
            settings = replace(settings, endpoint_url=endpoint_url or settings.endpoint_url)
            session = self.session() or settings.session()
            if pair is not None:
                settings = replace(settings, access_key=pair[0], secret_key=pair[1], token=pair[2], profile=None)
                session = settings.session()
            client = settings.client(session)
        # boto3 has no public way from a client to the credentials that it signs with.
        return client, (signer or client)._request_signer._credentials

    def _signing_client_settings(self) -> ClientSettings:
        """Return what another client for the same bucket is made of; the app's own client knows where that is."""
        if self._app_client is None:
            return self.settings
        meta = self._app_client.meta
        return replace(
            self.settings,
            region=meta.region_name,
            endpoint_url=meta.endpoint_url,
            addressing=(meta.config.s3 or {}).get("addressing_style", "auto"),
        )

    def _connect(self, settings: ClientSettings) -> Connection:
        if self._app_client is None:
            return Connection(settings.client(self.session()), settings.max_connections)
        if self._pid != os.getpid():
            self._app_client.close()  # the child of a fork drops the connections that it shares with its parent
        return Connection(self._app_client, self._app_client.meta.config.max_pool_connections)


def _skip_expect_header(client: Any) -> None:
    """Ask no leave before sending a part or a small object.

    Asking (``Expect: 100-continue``) costs a round trip. An upload was let begin when its parts come, and a small
    object is gone before anybody could refuse it.
    """

    def ask_if_large(model: Any, params: Any, **kwargs: Any) -> None:
        if model.name == "UploadPart" or (model.name == "PutObject" and _is_small(params["body"])):
            return
        add_expect_header(model, params, **kwargs)

    client.meta.events.unregister("before-call.s3", add_expect_header)
    client.meta.events.register("before-call.s3", ask_if_large)


def _have_it_tried_again(operation_model: Any, response_dict: Any, **_: Any) -> None:
    """Make an error of the service's of an answer that ends amid its headers: boto3 takes what has come for all."""
    if response_dict["status_code"] == HTTPStatus.OK:
        name = operation_model.name
        headers = all(header in response_dict["headers"] for header in _WITH_HEADERS.get(name, ()))
        if not headers or (name in _WITH_CONTENT and not response_dict["body"]):
            response_dict["status_code"] = HTTPStatus.INTERNAL_SERVER_ERROR.value


def _is_small(body: Any) -> bool:
    size = body.seek(0, io.SEEK_END)
    body.seek(0)
    return bool(size <= SEND_CHUNK_SIZE)

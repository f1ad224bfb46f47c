"""A private Azurite: an emulator of Azure's Blob service that checks every signature and keeps all data in memory.

It runs in its own environment, `.venv-azurite`, which `tests/services/install_azurite` creates. It differs from Azure:
some errors have another code; the IP range of a link is not checked; uncommitted blocks count as a blob for a Put Blob
or a copy with `If-None-Match: *`; and the memory of deleted blobs is freed ten minutes later. It does not support the
newest service versions, for which the SDK signs links: `azurite_delegation.js` adds what they have changed in the
signature of a user delegation SAS.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import secrets
import ssl
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from azure.core.credentials import AccessToken
from azure.storage.blob import BlobServiceClient, CorsRule

from tests.services.s3_servers import (
    Daemon,
    PrivateDirectory,
    free_port,
    make_certificate,
    raise_if_port_is_used,
    start_with_retry,
    wait_until,
)

_INSTALLED = Path(__file__).parents[2] / ".venv-azurite"
_TENANT = str(uuid.uuid4())


@dataclass(frozen=True)
class AzureServer:
    """A running server as a client sees it: its URL and its credentials.

    For a client behind a proxy, or with another key, use `dataclasses.replace`.
    """

    name: str  # "azurite"
    http: str | None  # the URL of the account, `http://127.0.0.1:<port>/<account>`; this or the next one is set
    https: str | None
    account: str
    key: str = field(repr=False)  # in base64, as the portal shows it
    ca: Path  # the certificate that verifies `https`

    @property
    def url(self) -> str:
        """The URL of the account."""
        url = self.http or self.https
        assert url is not None, "neither http nor https is set"
        return url

    def service(self, credential: Any = None, **settings: Any) -> BlobServiceClient:
        """Return a client of the SDK, to access the server independently of the tested code; close it after use.

        Args:
            credential: The credential, instead of the key of the account.
            **settings: Settings of the client; they override the defaults.
        """
        defaults: dict[str, Any] = {
            "connection_verify": str(self.ca),
            "use_env_settings": False,  # proxies and certificates in environment variables
            "retry_total": 0,
        }
        return BlobServiceClient(
            self.url,
            credential=credential or {"account_name": self.account, "account_key": self.key},
            **{**defaults, **settings},
        )

    def make_container(self) -> str:
        """Create an empty container with a unique name, and return the name."""
        container = f"test-{uuid.uuid4().hex[:20]}"
        with self.service() as service:
            service.create_container(container)
        return container

    def empty_container(self, container: str) -> None:
        """Remove all blobs, with their snapshots, and all uncommitted blocks."""
        with self.service() as service, service.get_container_client(container) as client:
            names = {blob.name for blob in client.list_blobs(include=["uncommittedblobs"])}
            finished = {blob.name for blob in client.list_blobs()}
            for name in names - finished:
                # Uncommitted blocks cannot be deleted alone; writing the blob discards them.
                client.upload_blob(name, b"", overwrite=True)
            for name in names:
                client.delete_blob(name, delete_snapshots="include")

    def remove_container(self, container: str) -> None:
        """Remove the container with its content."""
        with self.service() as service:
            service.delete_container(container)

    def allow_origin(self, *origins: str) -> None:
        """Set the CORS rule of the account, so that scripts of these origins can use links.

        Args:
            *origins: For example `http://127.0.0.1:5000`. They replace those of the last call; without any, no script
                is allowed.
        """
        rule = CorsRule(
            list(origins), ["GET", "HEAD", "PUT"], allowed_headers=["*"], exposed_headers=["*"], max_age_in_seconds=60
        )
        with self.service() as service:
            service.set_service_properties(cors=[rule] if origins else [])


class FakeCredential:
    """A credential with tokens that the https server accepts.

    The server checks the audience and the expiry of a token, but not its signature.

    Args:
        lifetime: The lifetime of the tokens in seconds; negative for expired tokens.
        audience: The audience of the tokens.
    """

    def __init__(self, *, lifetime: float = 3600, audience: str = "https://storage.azure.com") -> None:
        self._lifetime = lifetime
        self._audience = audience

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """Return a new token, for any scope."""
        now = int(time.time())
        expires = now + int(self._lifetime)
        claims = {
            "aud": self._audience,
            "iss": f"https://sts.windows.net/{_TENANT}/",
            "iat": now,
            # Valid also in an expired token, so that the expiry is the only reason to refuse it.
            "nbf": min(now, expires) - 60,
            "exp": expires,
            "ver": "1.0",
            "tid": _TENANT,
            "oid": str(uuid.uuid4()),
        }
        return AccessToken(jwt.encode(claims, secrets.token_hex(32), algorithm="HS256"), expires)

    def close(self) -> None:
        """Stop the server, and remove all its files, but optionally not the log."""


class Azurite:
    """A private Azurite; ``server`` describes it.

    Args:
        https: Whether it uses https, and accepts tokens besides the key, instead of http.
    """

    def __init__(self, *, https: bool = False) -> None:
        node = _INSTALLED / "bin" / "node"
        # The installation creates `azurite` last.
        if not (_INSTALLED / "azurite").is_file() or not node.exists():
            raise RuntimeError("these tests need Azurite: run tests/services/install_azurite")
        self._private = PrivateDirectory("azurite")
        port = free_port()
        raise_if_port_is_used(port)
        certificate, tls = make_certificate(self._private.path)
        account = f"test{secrets.token_hex(8)}"
        self.server = AzureServer(
            name="azurite",
            http=None if https else f"http://127.0.0.1:{port}/{account}",
            https=f"https://127.0.0.1:{port}/{account}" if https else None,
            account=account,
            key=base64.b64encode(secrets.token_bytes(64)).decode("ascii"),
            ca=certificate,
        )
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._private.path),
            "AZURITE_ACCOUNTS": f"{account}:{self.server.key}",
            "NODE_EXTRA_CA_CERTS": str(certificate),  # for a copy, it sends a request to itself
        }
        command = [
            str(node),
            *("--require", str(Path(__file__).with_name("azurite_delegation.js"))),
            str(_INSTALLED / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"),
            *("--blobHost", "127.0.0.1", "--blobPort", str(port)),
            "--inMemoryPersistence",
            "--disableTelemetry",  # it would send usage data to Microsoft
            "--skipApiVersionCheck",  # the SDK is newer than the newest version that it supports
            "--silent",
        ]
        if https:
            command += ["--oauth", "basic", "--cert", str(tls), "--key", str(tls)]
        self._daemon = Daemon("Azurite", command, self._private.logs / "log", environment)
        try:
            wait_until(lambda: _is_ready(self.server), self._daemon)
        except BaseException:
            self.close(keep_log=False)  # the error contains the log
            raise

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._daemon.pid

    @property
    def memory(self) -> int:
        """Its memory in bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def close(self, *, keep_log: bool) -> None:
        """Stop, and remove everything but the log when that may still be wanted."""
        self._daemon.kill()
        self._private.remove(keep_log=keep_log)


def _is_ready(server: AzureServer) -> bool:
    address = urlsplit(server.url)
    assert address.hostname is not None
    connection: http.client.HTTPConnection
    if server.https:
        context = ssl.create_default_context(cafile=str(server.ca))
        connection = http.client.HTTPSConnection(address.hostname, address.port, timeout=5, context=context)
    else:
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", f"{address.path}?comp=list")
        response = connection.getresponse()
        # It knows the account, and refuses a request without a signature.
        return response.status == 403 and response.getheader("x-ms-error-code") == "AuthorizationFailure"


_MAX_MEMORY = 700 * 1024 * 1024
"""Azurite frees little memory. With one or two gigabytes of data, it did not respond for a minute."""


class _RestartedAzurite:
    """A running Azurite that is replaced by a new one when it uses too much memory."""

    def __init__(self, *, https: bool) -> None:
        self._https = https
        self._running: Azurite | None = None

    def get(self) -> AzureServer:
        """Return the server; called at the beginning of a module, which uses it until its end."""
        if self._running and self._running.memory > _MAX_MEMORY:
            self.close(keep_log=False)
        if not self._running:
            self._running = start_with_retry(lambda: Azurite(https=self._https))
        return self._running.server

    def close(self, *, keep_log: bool) -> None:
        """Stop the server, if one runs."""
        if self._running:
            self._running.close(keep_log=keep_log)
        self._running = None


@pytest.fixture(scope="session")
def _azurites(request: pytest.FixtureRequest) -> Iterator[dict[str, _RestartedAzurite]]:
    servers = {"http": _RestartedAzurite(https=False), "https": _RestartedAzurite(https=True)}
    yield servers
    for server in servers.values():
        server.close(keep_log=bool(request.session.testsfailed))


@pytest.fixture(scope="module")
def azurite(_azurites: dict[str, _RestartedAzurite]) -> AzureServer:
    """A running Azurite over http."""
    return _azurites["http"].get()


@pytest.fixture(scope="module")
def azurite_https(_azurites: dict[str, _RestartedAzurite]) -> AzureServer:
    """Another Azurite over https, which accepts tokens besides its key. It shares no data with the first."""
    return _azurites["https"].get()


@pytest.fixture(scope="session")
def fake_credential() -> type[FakeCredential]:
    """:class:`FakeCredential`: a test that imports it from here would import this plugin before pytest does."""
    return FakeCredential

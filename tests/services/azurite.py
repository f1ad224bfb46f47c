"""A private Azurite: Azure's Blob service, which checks every signature, in memory, gone when the tests are.

It runs in an environment of its own, `.venv-azurite`, that `tests/services/install_azurite` makes. It is Azure but for
this: some errors have another code; an IP range in a link is not looked at; blocks that nobody has committed count as a
blob for a Put Blob or a copy with `If-None-Match: *`; and the memory of what was deleted comes back ten minutes later.
It does not know the newest service versions, for which the SDK signs links. `azurite_delegation.js` adds what they have
changed in the signature of a user delegation key.
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
    PrivateFolder,
    free_port,
    make_certificate,
    refuse_if_answered,
    started,
    wait_until,
)

_INSTALLED = Path(__file__).parents[2] / ".venv-azurite"
_TENANT = str(uuid.uuid4())


@dataclass(frozen=True)
class AzureServer:
    """A running server as a client sees it: where it is, and with what to come in.

    For a client that goes through a proxy, or with another key, `dataclasses.replace` what differs.
    """

    name: str  # "azurite"
    http: str | None  # the address of the account, `http://127.0.0.1:<port>/<account>`; this or the next one
    https: str | None
    account: str
    key: str = field(repr=False)  # base64, as Azure gives it
    ca: Path  # the certificate that `https` is verified with

    @property
    def url(self) -> str:
        """The address of the account, by what the server speaks."""
        url = self.http or self.https
        assert url is not None, "it speaks nothing"
        return url

    def service(self, credential: Any = None, **settings: Any) -> BlobServiceClient:
        """Return Azure's own client, to look behind the back of what is tested; close it.

        Args:
            credential: With what to come in, in place of the key of the account.
            **settings: For the client, in place of ours.
        """
        ours: dict[str, Any] = {
            "connection_verify": str(self.ca),
            "use_env_settings": False,  # a proxy, or other certificates
            "retry_total": 0,
        }
        return BlobServiceClient(
            self.url,
            credential=credential or {"account_name": self.account, "account_key": self.key},
            **{**ours, **settings},
        )

    def make_container(self) -> str:
        """Make an empty container with a name of its own, and return the name."""
        container = f"test-{uuid.uuid4().hex[:20]}"
        with self.service() as service:
            service.create_container(container)
        return container

    def empty_container(self, container: str) -> None:
        """Remove all blobs, with their snapshots, and all blocks of unfinished uploads."""
        with self.service() as service, service.get_container_client(container) as client:
            names = {blob.name for blob in client.list_blobs(include=["uncommittedblobs"])}
            finished = {blob.name for blob in client.list_blobs()}
            for name in names - finished:
                # Azure deletes no blocks alone. They go when the blob is made, which these count as already.
                client.upload_blob(name, b"", overwrite=True)
            for name in names:
                client.delete_blob(name, delete_snapshots="include")

    def remove_container(self, container: str) -> None:
        """Remove the container with all it holds."""
        with self.service() as service:
            service.delete_container(container)

    def allow_origin(self, *origins: str) -> None:
        """Let scripts of these origins read and write, as far as their links go, in the whole account.

        Args:
            *origins: As a browser names them, `http://127.0.0.1:5000`. They replace those of the last call; without
                any, no script may.
        """
        rule = CorsRule(
            list(origins), ["GET", "HEAD", "PUT"], allowed_headers=["*"], exposed_headers=["*"], max_age_in_seconds=60
        )
        with self.service() as service:
            service.set_service_properties(cors=[rule] if origins else [])


class FakeCredential:
    """The identity of somebody whom Entra ID has let in, as the https server believes it.

    The server reads the token for whom and until when it is; that anybody could have signed it does not disturb it.

    Args:
        lasts: For how many seconds from now the tokens hold. Below 0 they have expired.
        audience: The service that they are for.
    """

    def __init__(self, *, lasts: float = 3600, audience: str = "https://storage.azure.com") -> None:
        self.asked = 0
        """How many tokens were taken."""
        self._lasts = lasts
        self._audience = audience

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """Return a fresh token, whatever it is asked for."""
        self.asked += 1
        now = int(time.time())
        expires = now + int(self._lasts)
        claims = {
            "aud": self._audience,
            "iss": f"https://sts.windows.net/{_TENANT}/",
            "iat": now,
            # Also of a token that has expired: it shall be refused for that alone.
            "nbf": min(now, expires) - 60,
            "exp": expires,
            "ver": "1.0",
            "tid": _TENANT,
            "oid": str(uuid.uuid4()),
        }
        return AccessToken(jwt.encode(claims, secrets.token_hex(32), algorithm="HS256"), expires)

    def close(self) -> None:
        """Do nothing: there is no connection."""


class Azurite:
    """An Azurite that nobody else uses: ``server`` says where it is.

    Args:
        https: Whether it speaks https, and takes tokens besides the key, in place of http.
    """

    def __init__(self, *, https: bool = False) -> None:
        node = _INSTALLED / "bin" / "node"
        # `azurite` is written when all is there.
        if not (_INSTALLED / "azurite").is_file() or not node.exists():
            raise RuntimeError("these tests need Azurite: run tests/services/install_azurite")
        self._private = PrivateFolder("azurite")
        port = free_port()
        refuse_if_answered(port)
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
            "NODE_EXTRA_CA_CERTS": str(certificate),  # to copy, it asks itself
        }
        command = [
            str(node),
            *("--require", str(Path(__file__).with_name("azurite_delegation.js"))),
            str(_INSTALLED / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"),
            *("--blobHost", "127.0.0.1", "--blobPort", str(port)),
            "--inMemoryPersistence",
            "--disableTelemetry",  # it would report to its makers
            "--skipApiVersionCheck",  # Azure's client is newer than the newest version that it knows
            "--silent",
        ]
        if https:
            command += ["--oauth", "basic", "--cert", str(tls), "--key", str(tls)]
        self._daemon = Daemon("Azurite", command, self._private.logs / "log", environment)
        try:
            wait_until(lambda: _answers(self.server), self._daemon)
        except BaseException:
            self.close(keep_log=False)  # the error has what the log says
            raise

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._daemon.pid

    @property
    def memory(self) -> int:
        """How much of the machine's memory it holds, in bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def close(self, *, keep_log: bool) -> None:
        """Stop, and remove everything but the log when that may still be wanted."""
        self._daemon.kill()
        self._private.remove(keep_log=keep_log)


def _answers(server: AzureServer) -> bool:
    address = urlsplit(server.url)
    assert address.hostname is not None
    connection: http.client.HTTPConnection
    if server.https:
        trusted = ssl.create_default_context(cafile=str(server.ca))
        connection = http.client.HTTPSConnection(address.hostname, address.port, timeout=5, context=trusted)
    else:
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", f"{address.path}?comp=list")
        answer = connection.getresponse()
        # It knows the account, and nobody who has not signed.
        return answer.status == 403 and answer.getheader("x-ms-error-code") == "AuthorizationFailure"


_MOST_MEMORY = 700 * 1024 * 1024
"""Azurite keeps all in memory, and frees little. With one or two gigabytes in it, it did not answer for a minute."""


class _Renewed:
    """A running Azurite, and another one in its place when it has grown too large."""

    def __init__(self, *, https: bool) -> None:
        self._https = https
        self._running: Azurite | None = None

    def get(self) -> AzureServer:
        """Return the server; called at the beginning of a module, which keeps it to its end."""
        if self._running and self._running.memory > _MOST_MEMORY:
            self.close(keep_log=False)
        if not self._running:
            self._running = started(lambda: Azurite(https=self._https))
        return self._running.server

    def close(self, *, keep_log: bool) -> None:
        """Stop the server, if one runs."""
        if self._running:
            self._running.close(keep_log=keep_log)
        self._running = None


@pytest.fixture(scope="session")
def _azurites(request: pytest.FixtureRequest) -> Iterator[dict[str, _Renewed]]:
    made = {"http": _Renewed(https=False), "https": _Renewed(https=True)}
    yield made
    for each in made.values():
        each.close(keep_log=bool(request.session.testsfailed))


@pytest.fixture(scope="module")
def azurite(_azurites: dict[str, _Renewed]) -> AzureServer:
    """A running Azurite by http."""
    return _azurites["http"].get()


@pytest.fixture(scope="module")
def azurite_https(_azurites: dict[str, _Renewed]) -> AzureServer:
    """Another one by https, which takes tokens besides its key. It has no data in common."""
    return _azurites["https"].get()


@pytest.fixture(scope="session")
def fake_credential() -> type[FakeCredential]:
    """:class:`FakeCredential`: a test that imports it from here would import this plugin before pytest does."""
    return FakeCredential

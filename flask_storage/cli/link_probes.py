"""The probes of ``flask storage doctor`` for links: it uses them as a browser would, and without a running app."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from flask import Flask

from ..backends.base import StorageBackend
from ..diagnostics import Finding
from ..errors import ConfigurationError, StorageError, UnsupportedOperationError
from ..types import PresignedUpload
from .probes import FIRST, SECOND
from .web_client import Response, encode_form, send

_LIFETIME = timedelta(minutes=10)
_NOTED_SKEW, _FAILING_SKEW = timedelta(minutes=1), timedelta(minutes=15)  # S3 refuses more than 15 minutes
_ADVICE = {
    "the service": "check the rights of the credentials that sign links, and the address in links",
    "the app": "check what the app does before each request, and its TRUSTED_HOSTS and MAX_CONTENT_LENGTH",
}


class LinkProbes:
    """Tries links of the service over the network, and links of the app by a call of the app.

    Args:
        storage: The storage.
        app: The app.
        directory: The directory of the files.
        origin: The origin of the app's pages; None if it is not known.
    """

    def __init__(self, storage: StorageBackend, app: Flask, directory: str, origin: str | None) -> None:
        self._storage = storage
        self._app = app
        self._directory = directory
        self._origin = origin
        self._upload: PresignedUpload | None = None

    def probes(self) -> Mapping[str, Callable[[], Finding]]:
        """Return the probes that need a storage that can be written."""
        return {"link": self.link, "upload": self.upload, "form": self.form, "cors": self.cors}

    def clock(self) -> Finding:
        """Compare the clock of the service with that of this machine.

        The response to a link tells the time, also one that refuses the link. Without links of the service, a new file
        tells it.
        """
        skew = None
        with suppress(StorageError):  # another probe reports that there are no links
            skew = self._send(self._storage.link_to(self._path("missing"), "download", _LIFETIME), "GET").skew
        if skew is None:
            began = datetime.now(UTC)
            try:
                self._storage.write(self._path("clock"), FIRST)
            except UnsupportedOperationError as error:  # a read-only profile
                return Finding("skipped", str(error))
            skew = self._storage.stat(self._path("clock")).last_modified.datetime - began
        if abs(skew) < _NOTED_SKEW:
            return Finding("ok", "the clocks agree")
        text = f"the clock of the service differs by {abs(skew).total_seconds():.0f} s"
        return Finding("failed" if abs(skew) >= _FAILING_SKEW else "note", text, "set both clocks, with NTP")

    def link(self) -> Finding:
        """Fetch a download link: the service's over the network, the app's from the app without a server."""
        try:
            url = self._storage.link_to(self._path("file.txt"), "download", _LIFETIME)
        except (ConfigurationError, UnsupportedOperationError) as error:
            return Finding("note", f"no links: {error}")
        response = self._send(url, "GET")
        whose = "the app" if self._is_app_link(url) else "the service"
        if response.status != 200 or response.body != FIRST:
            return Finding("failed", f"a download link of {whose} was answered by {response}", _ADVICE[whose])
        return Finding("ok", f"a download link of {whose} returns the file")

    def upload(self) -> Finding:
        """Carry out an upload request."""
        try:
            self._upload = self._storage.upload_request(self._path("upload"), _LIFETIME)
        except (ConfigurationError, UnsupportedOperationError) as error:
            return Finding("note", f"no uploads by link: {error}")
        return self._carried_out(self._upload, "upload")

    def form(self) -> Finding:
        """Carry out an upload request with a maximum size, which is a form on S3."""
        try:
            request = self._storage.upload_request(self._path("form"), _LIFETIME, max_size=1024)
        except (ConfigurationError, UnsupportedOperationError) as error:
            return Finding("note", f"no uploads with a maximum size: {error}")
        return self._carried_out(request, "form")

    def _carried_out(self, request: PresignedUpload, name: str) -> Finding:
        whose = "the app" if self._is_app_link(request.url) else "the service"
        headers, body = dict(request.headers), SECOND
        if request.method == "POST":
            form, body = encode_form(request.fields, SECOND)
            headers |= form
        response = self._send(request.url, request.method, headers, body)
        if not 200 <= response.status < 300:
            return Finding("failed", f"an upload request of {whose} was answered by {response}", _ADVICE[whose])
        if self._storage.read(self._path(name)) != SECOND:
            return Finding("failed", f"an upload request of {whose} stored other bytes", "check the proxies in between")
        return Finding("ok", f"an upload request of {whose} stored the file ({request.method})")

    def cors(self) -> Finding:
        """Ask the service whether pages of the app may send the upload request."""
        request = self._upload
        if request is None:
            return Finding("skipped", "not tried without an upload request")
        if self._is_app_link(request.url):
            return Finding("ok", "no rule is needed, because uploads go through the app")
        if self._origin is None:
            return Finding("skipped", "the origin of the app is not known", "set STORAGE_EXTERNAL_URL")
        wanted = ", ".join(name.lower() for name in request.headers)
        response = self._send(
            request.url,
            "OPTIONS",
            {
                "Origin": self._origin,
                "Access-Control-Request-Method": request.method,
                "Access-Control-Request-Headers": wanted,
            },
        )
        if response.status >= 400 or response.headers.get("access-control-allow-origin") not in ("*", self._origin):
            return Finding(
                "note",
                f"pages of {self._origin} may not upload to the service ({response})",
                "for uploads from a browser, set the CORS rule below",
            )
        return Finding("ok", f"pages of {self._origin} may upload to the service")

    def _is_app_link(self, url: str) -> bool:
        parts = urlsplit(url)  # outside of a request, links of the app begin with its origin
        return f"{parts.scheme}://{parts.netloc}" == self._origin

    def _send(
        self, url: str, method: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Response:
        if not self._is_app_link(url):
            return send(url, method, headers or {}, body)
        parts, config = urlsplit(url), self._app.config
        root = urlsplit(config.get("STORAGE_EXTERNAL_URL") or "").path or config["APPLICATION_ROOT"]
        response = self._app.test_client().open(
            f"{parts.path.removeprefix(root.rstrip('/'))}?{parts.query}",
            base_url=f"{parts.scheme}://{parts.netloc}{root}",
            method=method,
            headers=headers,
            data=body,
        )
        with response:
            return Response(response.status_code, {}, response.get_data())

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

"""An HTTP proxy whose script decides about each request: forward it, respond to it, or reset the connection.

Forwarded requests keep their headers, including `Host`. So a request that a client has signed for the address of the
proxy stays valid, as behind an nginx that passes on the host.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

_CHUNK = 64 * 1024
_TIMEOUT = 60  # seconds; for a peer that sends nothing


@dataclass(frozen=True)
class Request:
    """A request about which the script decides. Its body has not been read."""

    number: int
    """Counts from 1, over all connections."""
    method: str
    target: str
    """Path and query as received."""
    headers: Message[str, str]
    """Names are case-insensitive."""

    @property
    def path(self) -> str:
        """The path as received, percent-encoded."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The query parameters; one without a value is empty."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query, True).items()}


@dataclass(frozen=True)
class ScriptedResponse:
    """A response of the proxy."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    after_server: bool = False
    """Whether the request is forwarded first; this response then replaces the server's."""
    before_body: bool = False
    """Whether it is sent before the request body is read, and the connection is then closed."""
    without_length: bool = False
    """Whether it has no Content-Length; the end of the connection is then the end of the body."""


@dataclass(frozen=True)
class LostResponse:
    """No response: the connection of the client is reset."""

    after_server: bool
    """Whether the request is forwarded, and the server has responded, before."""


Script = Callable[[Request], ScriptedResponse | LostResponse | None]


@dataclass(frozen=True)
class Exchange:
    """A request and its outcome."""

    request: Request
    status: int | None
    """The status that the client received; None for none."""
    server_status: int | None
    """The status of the server; None when the request was not forwarded."""


def s3_error(status: int, code: str, *, as_status: int | None = None, after_server: bool = False) -> ScriptedResponse:
    """Return an error response of S3.

    Args:
        status: The status of the error.
        code: The error code, such as ``SlowDown``.
        as_status: The status of the response, if it is another: S3 reports an error of a long operation with 200.
        after_server: As in `ScriptedResponse`.
    """
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{status}, from the script</Message></Error>"
    headers = {"Content-Type": "application/xml"}
    return ScriptedResponse(as_status or status, text.encode(), headers, after_server=after_server)


def azure_error(status: int, code: str, *, after_server: bool = False) -> ScriptedResponse:
    """Return an error response of Azure, whose code is also in a header.

    Args:
        status: The status of the error.
        code: The error code, such as ``ServerBusy``.
        after_server: As in `ScriptedResponse`.
    """
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{status}, from the script</Message></Error>"
    headers = {"Content-Type": "application/xml", "x-ms-error-code": code}
    return ScriptedResponse(status, text.encode(), headers, after_server=after_server)


class ScriptedProxy:
    """A proxy before an HTTP server, with its own port and threads. It is a context manager.

    Set ``script`` at any time: it is called with each request and returns its outcome, or None to forward the request.
    Calls are serialized over all connections, so a script may count.

    Args:
        host: The host of the server.
        port: The port of the server.
        script: The first script; by default all requests are forwarded.
    """

    def __init__(self, host: str, port: int, script: Script | None = None) -> None:
        self.script: Script = script or _pass_on
        self.exchanges: list[Exchange] = []
        """All requests, in the order of their outcomes."""
        self.target = (host, port)
        self._number = 0
        self._deciding = threading.Lock()
        proxy = self

        class Handler(_Handler):
            def __init__(self, *arguments: Any) -> None:
                self.proxy = proxy
                super().__init__(*arguments)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, name="scripted proxy", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """The URL of the proxy, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def decide(
        self, method: str, target: str, headers: Message[str, str]
    ) -> tuple[Request, ScriptedResponse | LostResponse | None]:
        """Call the script with a request."""
        with self._deciding:
            self._number += 1
            request = Request(self._number, method, target, headers)
            return request, self.script(request)

    def close(self) -> None:
        """Stop, and close all open connections."""
        self._server.shutdown()
        self._thread.join()
        self._server.cut()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pass_on(request: Request) -> None:
    """Forward every request."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # server_close() waits for them
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        self.watched: set[socket.socket] = set()
        """The connections to clients and to the server."""
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.watched.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.watched.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        for connection in list(self.watched):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: broken connections are intended."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _TIMEOUT
    server: _Server
    proxy: ScriptedProxy
    _expects = False
    _server: http.client.HTTPConnection | None = None

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 -- the name is Python's
        """Print nothing."""

    def handle_expect_100(self) -> bool:
        self._expects = True  # the 100 response is sent when the body is needed
        return True

    def finish(self) -> None:
        if self._server is not None:
            self.server.watched.discard(self._server.sock)
            self._server.close()
        super().finish()

    def handle_any(self) -> None:
        """Handle a request as the script decides."""
        target = self.requestline.split()[1]  # `path` has lost additional slashes at its beginning
        request, decision = self.proxy.decide(self.command, target, self.headers)
        try:
            response = self._act(target, decision)
        except (OSError, http.client.HTTPException):
            self.proxy.exchanges.append(Exchange(request, None, None))
            raise
        server_status = response.status if response else None
        status = (
            server_status if decision is None else decision.status if isinstance(decision, ScriptedResponse) else None
        )
        # Before the client gets the response, after which a test may look at the exchanges.
        self.proxy.exchanges.append(Exchange(request, status, server_status))
        if isinstance(decision, ScriptedResponse):
            self._respond(decision)
        elif isinstance(decision, LostResponse):
            self._reset()
        elif response:
            self._forward_response(response)

    def _act(self, target: str, decision: ScriptedResponse | LostResponse | None) -> http.client.HTTPResponse | None:
        """Read the request body, and forward the request if it is to be forwarded."""
        try:
            if isinstance(decision, ScriptedResponse) and decision.before_body:
                self.close_connection = True
                return None
            if decision is None or decision.after_server:
                response = self._forward_request(target)
                if decision is not None:
                    response.read()
                return response
            for _ in self._body():
                pass
            return None
        finally:
            self._expects = False

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # any method
            return self.handle_any
        raise AttributeError(name)

    def _body(self) -> Iterator[bytes]:
        """Yield the body as received; of a chunked body, with the chunk headers."""
        if self._expects:
            self.send_response_only(HTTPStatus.CONTINUE)
            self.end_headers()
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            yield from self._chunks()
            return
        remaining = int(self.headers.get("Content-Length", 0))
        while remaining:
            piece = self.rfile.read1(min(remaining, _CHUNK))
            if not piece:
                raise ConnectionAbortedError
            remaining -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while True:
            line = self.rfile.readline(_CHUNK)
            yield line
            size = int(line.split(b";")[0], 16)
            if not size:
                break
            yield self.rfile.read(size + 2)
        while line not in (b"\r\n", b""):
            line = self.rfile.readline(_CHUNK)
            yield line

    def _forward_request(self, target: str) -> http.client.HTTPResponse:
        """Forward the request, and return the response of the server, whose body is still to be read."""
        if self._server is None:
            self._server = http.client.HTTPConnection(*self.proxy.target, timeout=_TIMEOUT)
            self._server.connect()
            self._server.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.server.watched.add(self._server.sock)
        server = self._server
        server.putrequest(self.command, target, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            server.putheader(name, value.encode("iso-8859-1"))
        server.endheaders()
        for piece in self._body():
            try:
                server.send(piece)
            except (BrokenPipeError, ConnectionResetError):
                # A server may respond with an error before it has read the whole body, and close.
                self.close_connection = True
                break
        return server.getresponse()

    def _forward_response(self, response: http.client.HTTPResponse) -> None:
        chunked = response.chunked
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            self.send_header(name, value)
        bodiless = self.command == "HEAD" or response.status < 200 or response.status in (204, 304)
        if not bodiless and not chunked and response.length is None:
            self.close_connection = True  # the end of the connection is the end of the body
        self.end_headers()
        while piece := response.read1(_CHUNK):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        response.read()  # only after this can http.client reuse the connection
        if chunked and not bodiless:
            self.wfile.write(b"0\r\n\r\n")
        if response.will_close:
            self.close_connection = True

    def _respond(self, response: ScriptedResponse) -> None:
        self.send_response_only(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if response.without_length:
            self.close_connection = True
        elif "Content-Length" not in response.headers:
            self.send_header("Content-Length", str(len(response.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

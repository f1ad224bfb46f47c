"""An HTTP proxy before a server, in which a test decides about each request: pass it on, answer it, or lose it.

Everything that is passed on keeps its headers, `Host` among them. So what a client has signed for the address of the
proxy stays signed, as before a server that is told so by nginx.
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
_TIMEOUT = 60  # seconds; for what a peer does not send


@dataclass(frozen=True)
class Request:
    """What the script decides about. The body has not come yet."""

    number: int
    """Counted from 1, over all connections."""
    method: str
    target: str
    """Path and query as they came."""
    headers: Message[str, str]
    """Their names are found in any case of letters."""

    @property
    def path(self) -> str:
        """The path as it came, percent-encoded."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The arguments behind the path; one without a value has the empty one."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query, True).items()}


@dataclass(frozen=True)
class Answer:
    """An answer in the server's place."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    after_server: bool = False
    """Whether the server gets the request all the same, and has acted, before this is said instead of its answer."""
    before_body: bool = False
    """Whether it is said before the body was read, and the connection closed."""


@dataclass(frozen=True)
class Lose:
    """No answer: the client's connection is reset."""

    after_server: bool
    """Whether the server has had the request, and answered, before."""


Script = Callable[[Request], Answer | Lose | None]


@dataclass(frozen=True)
class Exchange:
    """A request that came, and what became of it."""

    request: Request
    status: int | None
    """What the client was told; None for nothing."""
    server_status: int | None
    """What the server has answered; None when it was not asked."""


def s3_error(status: int, code: str, *, as_status: int | None = None, after_server: bool = False) -> Answer:
    """Return the answer with which S3 says an error.

    Args:
        status: The status of such an error.
        code: S3's own word for it, such as ``SlowDown``.
        as_status: The status to say it with, when it is another: S3 ends a long answer that began with 200 so.
        after_server: As in `Answer`.
    """
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{status}, as the test wants</Message></Error>"
    headers = {"Content-Type": "application/xml"}
    return Answer(as_status or status, text.encode(), headers, after_server=after_server)


def azure_error(status: int, code: str, *, after_server: bool = False) -> Answer:
    """Return the answer with which Azure says an error: its code stands in a header too.

    Args:
        status: The status of such an error.
        code: Azure's own word for it, such as ``ServerBusy``.
        after_server: As in `Answer`.
    """
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{status}, as the test wants</Message></Error>"
    headers = {"Content-Type": "application/xml", "x-ms-error-code": code}
    return Answer(status, text.encode(), headers, after_server=after_server)


class ScriptedProxy:
    """A proxy on a port of its own before an HTTP server. It is a context manager; it runs in threads of its own.

    Set ``script`` at any time: it gets each request and returns what becomes of it, None to pass it on. Requests of
    several connections are decided one after the other, so a script may count.

    Args:
        host: Of the server.
        port: Of the server.
        script: What to begin with; by default everything is passed on.
    """

    def __init__(self, host: str, port: int, script: Script | None = None) -> None:
        self.script: Script = script or _pass_on
        self.exchanges: list[Exchange] = []
        """All that came, in the order in which it was decided and, where it was passed on, answered."""
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
        """Where it is, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def decide(self, method: str, target: str, headers: Message[str, str]) -> tuple[Request, Answer | Lose | None]:
        """Ask the script what becomes of a request."""
        with self._deciding:
            self._number += 1
            request = Request(self._number, method, target, headers)
            return request, self.script(request)

    def close(self) -> None:
        """Stop, and cut what is open."""
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
    """The script that interferes with nothing."""


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
        """Say nothing: that connections break is what it is for."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _TIMEOUT
    server: _Server
    proxy: ScriptedProxy
    _expects = False
    _server: http.client.HTTPConnection | None = None

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 -- the name is Python's
        """Say nothing on the error stream."""

    def handle_expect_100(self) -> bool:
        self._expects = True  # it is told to go on when the body is wanted
        return True

    def finish(self) -> None:
        if self._server is not None:
            self.server.watched.discard(self._server.sock)
            self._server.close()
        super().finish()

    def handle_any(self) -> None:
        """Do with a request what the script says."""
        target = self.requestline.split()[1]  # where `path` has lost what it begins with too many slashes
        request, decided = self.proxy.decide(self.command, target, self.headers)
        try:
            answer = self._act(target, decided)
        except (OSError, http.client.HTTPException):
            self.proxy.exchanges.append(Exchange(request, None, None))
            raise
        server_status = answer.status if answer else None
        told = server_status if decided is None else decided.status if isinstance(decided, Answer) else None
        # Before the client hears of it: a test looks when it has.
        self.proxy.exchanges.append(Exchange(request, told, server_status))
        if isinstance(decided, Answer):
            self._say(decided)
        elif isinstance(decided, Lose):
            self._reset()
        elif answer:
            self._pass_back(answer)

    def _act(self, target: str, decided: Answer | Lose | None) -> http.client.HTTPResponse | None:
        """Take the body, and have the server answer when it is to be asked; all of it unless it is passed back."""
        try:
            if isinstance(decided, Answer) and decided.before_body:
                self.close_connection = True
                return None
            if decided is None or decided.after_server:
                answer = self._ask(target)
                if decided is not None:
                    answer.read()
                return answer
            for _ in self._body():
                pass
            return None
        finally:
            self._expects = False

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # whatever the method
            return self.handle_any
        raise AttributeError(name)

    def _body(self) -> Iterator[bytes]:
        """The body as it comes, its chunks' own lines included."""
        if self._expects:
            self.send_response_only(HTTPStatus.CONTINUE)
            self.end_headers()
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            yield from self._chunks()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            piece = self.rfile.read1(min(left, _CHUNK))
            if not piece:
                raise ConnectionAbortedError
            left -= len(piece)
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

    def _ask(self, target: str) -> http.client.HTTPResponse:
        """Pass the request on, and return the server's answer, of which the body is still to be read."""
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
                # A server may refuse before it has read all, and close: then its answer is what counts.
                self.close_connection = True
                break
        return server.getresponse()

    def _pass_back(self, answer: http.client.HTTPResponse) -> None:
        chunked = answer.chunked
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        bodiless = self.command == "HEAD" or answer.status < 200 or answer.status in (204, 304)
        if not bodiless and not chunked and answer.length is None:
            self.close_connection = True  # its end is the end of the body
        self.end_headers()
        while piece := answer.read1(_CHUNK):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        answer.read()  # only this tells http.client that it is over, and the connection free for the next
        if chunked and not bodiless:
            self.wfile.write(b"0\r\n\r\n")
        if answer.will_close:
            self.close_connection = True

    def _say(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

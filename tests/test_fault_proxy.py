"""The proxies that the tests of remote storages trust to do harm: each fault, against a small server."""

import contextlib
import http.client
import http.server
import socket
import socketserver
import threading
import time

import pytest

from tests.services.fault_proxy import FaultProxy
from tests.services.scripted_proxy import Answer, Lose, ScriptedProxy, s3_error

SAID = bytes(range(256)) * 40


class _Echo(socketserver.BaseRequestHandler):
    def handle(self):
        with contextlib.suppress(ConnectionError):
            while piece := self.request.recv(65536):
                self.request.sendall(piece)


class _Servers(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


class _Web(http.server.ThreadingHTTPServer):
    """A server that notes all it gets."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _HTTP)
        self.received = []

    def handle_error(self, *arguments):
        """Say nothing: connections break here."""


class _HTTP(http.server.BaseHTTPRequestHandler):
    """Answers a PUT with its body."""

    protocol_version = "HTTP/1.1"
    server: _Web

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_PUT()

    def do_PUT(self):
        body = self._chunked() if "Transfer-Encoding" in self.headers else self.rfile.read(self._length())
        self.server.received.append((self.command, self.path, self.headers, body))
        self.send_response_only(201, "Made")
        self.send_header("Host-Was", self.headers["Host"])
        self.send_header("X-Twice", "one")
        self.send_header("X-Twice", "two")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        self.server.received.append((self.command, self.path, self.headers, b""))
        self.send_response_only(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n")

    def _length(self):
        return int(self.headers.get("Content-Length", 0))

    def _chunked(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


@contextlib.contextmanager
def serving(server):
    """The server, for as long as the block lasts."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def proxy():
    """A proxy before a server that says what it is told."""
    with serving(_Servers(("127.0.0.1", 0), _Echo)) as echo, FaultProxy(*echo.server_address) as proxy:
        yield proxy


@pytest.fixture
def web():
    """A small web server that notes what it gets."""
    with serving(_Web()) as server:
        yield server


@pytest.fixture
def scripted(web):
    """A proxy before it."""
    with ScriptedProxy(*web.server_address) as proxy:
        yield proxy


@pytest.fixture
def client(scripted):
    """A connection to that proxy."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", scripted.port, timeout=30)) as client:
        yield client


def connect(proxy):
    """A connection through the proxy."""
    return socket.create_connection(("127.0.0.1", proxy.port), 30)


def receive(connection, size):
    """So many bytes, or fewer where the connection ends in order."""
    got = b""
    while len(got) < size and (piece := connection.recv(size - len(got))):
        got += piece
    return got


def until_reset(connection):
    """All that comes before the reset."""
    got = b""
    try:
        while piece := connection.recv(65536):
            got += piece
    except ConnectionResetError:
        return got
    raise AssertionError("it ended in order")


def said(answer):
    """Status and body."""
    return answer.status, answer.read()


class TestFaultProxy:
    def test_it_passes_everything_on_and_counts(self, proxy):
        """Without a fault, what is said comes back, and the counters tell how much it was."""
        with connect(proxy) as connection:
            connection.sendall(SAID)
            connection.shutdown(socket.SHUT_WR)

            got = receive(connection, len(SAID) + 1)

        assert got == SAID
        proxy.wait_until(lambda counters: counters.closed)
        counters = proxy.counters
        assert (counters.connections, counters.up, counters.down, counters.cuts) == (1, len(SAID), len(SAID), 0)

    def test_latency_delays_and_does_not_limit(self, proxy):
        """With latency in both directions an answer takes both, and much at once takes no longer."""
        proxy.up.latency = proxy.down.latency = 0.15
        with connect(proxy) as connection:
            start = time.monotonic()
            sender = threading.Thread(target=connection.sendall, args=(SAID * 400,))
            sender.start()

            got = receive(connection, len(SAID) * 400)

            took = time.monotonic() - start
            sender.join()
        assert got == SAID * 400
        assert 0.3 <= took < 60 * 0.15  # one piece after the other would take 60 times as long

    def test_a_rate_is_kept(self, proxy):
        """What comes at so many bytes per second takes as long as that."""
        proxy.down.rate = 40_000
        with connect(proxy) as connection:
            start = time.monotonic()
            connection.sendall(SAID)

            got = receive(connection, len(SAID))

            assert got == SAID
            assert time.monotonic() - start >= 0.9 * len(SAID) / 40_000 - 0.05

    def test_a_trickle_gives_single_bytes(self, proxy):
        """At a few bytes per second each comes alone."""
        proxy.down.rate = 2
        with connect(proxy) as connection:
            connection.sendall(b"abc")

            pieces = [connection.recv(100) for _ in range(3)]

            assert pieces == [b"a", b"b", b"c"]

    @pytest.mark.parametrize("way", ["up", "down"])
    def test_a_reset_comes_after_so_many_bytes(self, proxy, way):
        """A connection that is cut by reset has passed on exactly what was said before."""
        faults = getattr(proxy, way)
        faults.cut_after = 5000
        with connect(proxy) as connection:
            connection.sendall(SAID[:6000])

            got = until_reset(connection)

        assert len(got) == (5000 if way == "down" else len(got))
        assert SAID.startswith(got)
        proxy.wait_until(lambda counters: counters.closed)
        assert getattr(proxy.counters, way) == 5000
        assert proxy.counters.cuts == 1

    @pytest.mark.parametrize("way", ["up", "down"])
    def test_an_orderly_end_comes_after_so_many_bytes(self, proxy, way):
        """A connection that is cut by closing ends without an error, for whom still sends too."""
        getattr(proxy, way).cut_after = 5000
        getattr(proxy, way).cut_by = "close"
        with connect(proxy) as connection:
            connection.sendall(SAID)

            got = receive(connection, len(SAID))

        assert SAID.startswith(got)
        assert len(got) == (5000 if way == "down" else len(got)) <= 5000
        assert getattr(proxy.counters, way) == 5000

    def test_a_stall_is_silent_and_the_other_direction_goes_on(self, proxy):
        """A stalled connection neither ends nor gives anything; it takes what is sent to it."""
        proxy.down.cut_after = 5
        proxy.down.cut_by = "stall"
        with connect(proxy) as connection:
            connection.sendall(b"hello world")
            assert receive(connection, 5) == b"hello"
            proxy.wait_until(lambda counters: counters.cuts)
            connection.sendall(b"more")

            proxy.wait_until(lambda counters: counters.up == 15)

            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            proxy.kill()
            connection.settimeout(30)
            assert until_reset(connection) == b""

    def test_a_cut_can_be_made_a_number_of_times(self, proxy):
        """After as many cuts as were ordered, connections go through."""
        proxy.down.cut_after = 0
        proxy.down.cut_times = 2

        for _ in range(2):
            with connect(proxy) as connection:
                connection.sendall(b"hello")
                assert until_reset(connection) == b""
        with connect(proxy) as connection:
            connection.sendall(b"hello")
            assert receive(connection, 5) == b"hello"
        assert proxy.counters.cuts == 2

    @pytest.mark.parametrize("way", ["up", "down"])
    def test_one_bit_is_flipped(self, proxy, way):
        """The byte at the given place of a direction has its lowest bit flipped, once if so ordered."""
        getattr(proxy, way).corrupt_at = 3000
        getattr(proxy, way).corrupt_times = 1
        expected = bytearray(SAID)
        expected[3000] ^= 1

        got = []
        for _ in range(2):
            with connect(proxy) as connection:
                connection.sendall(SAID)
                got.append(receive(connection, len(SAID)))

        assert got == [bytes(expected), SAID]

    def test_connections_are_refused_and_accepted_again(self, proxy):
        """A proxy that refuses is as a server that does not run; open connections go on, and later it is back."""
        with connect(proxy) as old:
            old.sendall(b"a")
            assert receive(old, 1) == b"a"
            proxy.refuse()

            with pytest.raises(ConnectionRefusedError):
                connect(proxy)

            old.sendall(b"b")
            assert receive(old, 1) == b"b"
            proxy.heal()
            with connect(proxy) as new:
                new.sendall(b"c")
                assert receive(new, 1) == b"c"

    def test_open_connections_are_killed(self, proxy):
        """All that are open are reset; the next one is served."""
        with connect(proxy) as one, connect(proxy) as two:
            for connection in (one, two):
                connection.sendall(b"a")
                assert receive(connection, 1) == b"a"

            proxy.kill()

            assert until_reset(one) == until_reset(two) == b""
        assert proxy.counters.closed == 2
        with connect(proxy) as connection:
            connection.sendall(b"a")
            assert receive(connection, 1) == b"a"

    def test_a_missing_server_is_a_reset(self):
        """Where no server runs behind the proxy, its clients are reset."""
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            address = nobody.getsockname()
        with FaultProxy(*address) as proxy:

            def ask():
                with connect(proxy) as connection:
                    connection.recv(1)

            with pytest.raises(ConnectionResetError):
                ask()

    def test_closing_frees_everything(self, proxy):
        """A proxy that is closed resets its connections and leaves its port."""
        with FaultProxy("127.0.0.1", proxy.port) as outer, connect(outer) as connection:
            connection.sendall(b"a")
            assert receive(connection, 1) == b"a"

            outer.close()

            assert until_reset(connection) == b""
            with pytest.raises(ConnectionRefusedError):
                connect(outer)


class TestScriptedProxy:
    def test_it_passes_everything_on_unchanged(self, scripted, client, web):
        """Method, target, headers with their letters, and body arrive; so do status, reason, headers and body."""
        client.putrequest("PUT", "/b//%C3%BC?q=%2F&w", skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": "signed.example:1", "x-amz-Meta-A": "\xfc", "Content-Length": "3"}.items():
            client.putheader(name, value.encode("iso-8859-1"))
        client.endheaders(b"abc")

        answer = client.getresponse()

        assert (*said(answer), answer.reason) == (201, b"abc", "Made")
        assert answer.getheader("Host-Was") == "signed.example:1"
        assert [value for name, value in answer.getheaders() if name == "X-Twice"] == ["one", "two"]
        method, path, headers, body = web.received[0]
        assert (method, path, body) == ("PUT", "/b//%C3%BC?q=%2F&w", b"abc")
        assert headers.items() == [("Host", "signed.example:1"), ("x-amz-Meta-A", "\xfc"), ("Content-Length", "3")]
        assert [(done.status, done.server_status) for done in scripted.exchanges] == [(201, 201)]
        assert scripted.exchanges[0].request.query == {"q": "/", "w": ""}

    def test_chunked_bodies_pass_in_both_directions(self, client):
        """A body whose length nobody says arrives whole, and the connection stays usable."""
        client.request("PUT", "/", iter([b"abc", b"defg"]), encode_chunked=True)
        sent = said(client.getresponse())
        client.request("GET", "/")
        fetched = said(client.getresponse())
        client.request("HEAD", "/")
        head = said(client.getresponse())

        assert (sent, fetched, head) == ((201, b"abcdefg"), (200, b"firstsecond"), (201, b""))

    def test_the_first_requests_get_what_the_script_says(self, scripted, client, web):
        """The first two are answered in the server's place, the third by the server, on one connection."""
        scripted.script = lambda request: s3_error(503, "SlowDown") if request.number <= 2 else None
        answers = []

        for _ in range(3):
            client.request("PUT", "/k", SAID)
            answers.append(said(client.getresponse()))

        assert [status for status, _ in answers] == [503, 503, 201]
        assert b"<Code>SlowDown</Code>" in answers[0][1]
        assert len(web.received) == 1
        assert [done.server_status for done in scripted.exchanges] == [None, None, 201]

    def test_an_error_can_be_said_with_200_after_the_server_has_acted(self, scripted, client, web):
        """The server has done it, and the client is told otherwise."""
        scripted.script = lambda request: s3_error(500, "InternalError", as_status=200, after_server=True)

        client.request("PUT", "/k", b"abc")
        status, body = said(client.getresponse())

        assert status == 200
        assert b"InternalError" in body
        assert len(web.received) == 1

    @pytest.mark.parametrize("after_server", [True, False])
    def test_an_answer_is_lost(self, scripted, client, web, after_server):
        """The client sees a reset, whether the server has acted or not."""
        scripted.script = lambda request: Lose(after_server=after_server)

        client.request("PUT", "/k", b"abc")
        with pytest.raises(ConnectionResetError):
            client.getresponse()

        assert len(web.received) == after_server
        assert scripted.exchanges[0].status is None

    def test_a_client_that_waits_for_leave_gets_it_or_a_refusal(self, scripted):
        """Its 100-continue is answered when the body is wanted, and not where the answer comes before."""
        scripted.script = lambda request: Answer(503, before_body=True) if request.path == "/refused" else None
        starts = []

        for path in ("/wanted", "/refused"):
            with connect(scripted) as connection:
                head = f"PUT {path} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
                connection.sendall(head.encode())
                starts.append(receive(connection, 12))

        assert starts == [b"HTTP/1.1 100", b"HTTP/1.1 503"]

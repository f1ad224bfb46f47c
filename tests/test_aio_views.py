"""Async views of Flask and Quart: uploads, links, `current_storage` and the default storage."""

import asyncio
import io
import json
import threading
from datetime import timedelta
from typing import Any, cast
from urllib.parse import urlsplit

import flask
import pytest
import quart
from a2wsgi import WSGIMiddleware
from hypercorn.middleware import DispatcherMiddleware
from quart.datastructures import FileStorage

from flask_storage import ConfigurationError, Storage, current_storage
from flask_storage.aio import AsyncStorage, default_storage
from flask_storage.signals import file_stored

HOUR = timedelta(hours=1)
SETTINGS = {
    "TESTING": True,
    "SECRET_KEY": "a secret that both apps share, of 32 bytes",
    "STORAGE_PROFILES": {"docs": "memory:?base_url=/media"},
}


# -- Flask ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def flask_app(tmp_path):
    """An app with an async view that stores an upload."""
    app = flask.Flask("shop", instance_path=str(tmp_path))
    app.config.update(SETTINGS)
    Storage(app)
    files = AsyncStorage("docs")

    @app.post("/upload")
    async def upload():
        file = flask.request.files.get("file")
        if file is None:
            return {"error": "No file provided"}, 400
        path = await default_storage.save(f"uploads/{file.filename}", file)
        return {"path": path, "url": default_storage.url(path), "link": await files.link_to(path, "download", HOUR)}

    return app


def test_an_async_view_of_flask_stores_an_upload(flask_app):
    """And creates a link, which the extension's own view serves."""
    client = flask_app.test_client()

    refused = client.post("/upload")
    response = client.post("/upload", data={"file": (io.BytesIO(b"hello"), "../a b.txt")})

    assert (refused.status_code, refused.json) == (400, {"error": "No file provided"})
    assert (response.json["path"], response.json["url"]) == ("uploads/a b.txt", "/media/uploads/a%20b.txt")
    assert client.get(response.json["link"]).data == b"hello"


def test_async_views_of_flask_share_the_threads_of_a_storage(flask_app):
    """Flask runs each in an event loop of its own."""
    client, used = flask_app.test_client(), set()

    def remember(sender, path):
        used.add(threading.get_ident())

    with file_stored.connected_to(remember):
        for number in range(30):
            client.post("/upload", data={"file": (io.BytesIO(b"hello"), f"{number}.txt")})

    assert len(flask_app.extensions["storage"]["docs"].list()) == 30
    assert 1 <= len(used) <= 16


# -- Quart ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def quart_app(tmp_path):
    """An app of Quart with views that store an upload, a body, and read a file."""
    app = quart.Quart("shop", instance_path=str(tmp_path))
    app.config.update(SETTINGS, STORAGE_EXTERNAL_URL="http://localhost")
    Storage(app)
    files = AsyncStorage("docs")

    @app.post("/upload")
    async def upload():
        file = (await quart.request.files).get("file")
        if file is None:
            return {"error": "No file provided"}, 400
        path = await default_storage.save(f"uploads/{file.filename}", file)
        return {"path": path, "url": default_storage.url(path)}

    @app.put("/body/<path:name>")
    async def body(name):
        return {"path": await files.save(name, quart.request.body)}

    @app.get("/files/<path:path>")
    async def download(path):
        return files.iter_chunks(path, 1000), {"Content-Type": "text/plain"}

    @app.get("/link/<path:path>")
    async def link(path):
        return await files.link_to(path, "download", HOUR)

    @app.get("/list")
    async def names():
        return [entry.name for entry in current_storage["docs"].list()]

    return app


def test_a_view_of_quart_stores_an_upload(quart_app):
    """`default_storage` and `current_storage` find the profiles of the app of Quart."""

    async def act():
        client = quart_app.test_client()
        refused = await client.post("/upload")
        file = FileStorage(io.BytesIO(b"hello"), "../a b.txt")
        response = await client.post("/upload", files={"file": file})
        return refused.status_code, await response.get_json(), await (await client.get("/list")).get_json()

    status, answer, names = asyncio.run(act())

    assert status == 400
    assert answer == {"path": "uploads/a b.txt", "url": "/media/uploads/a%20b.txt"}
    assert names == ["uploads/a b.txt"]


def test_a_body_is_stored_and_sent_without_being_held_in_memory(quart_app):
    """The body of a request and that of a response are async iterators."""
    content = bytes(range(256)) * 12_000

    async def act():
        client = quart_app.test_client()
        path = (await (await client.put("/body/a.bin", data=content)).get_json())["path"]
        return path, await (await client.get(f"/files/{path}")).get_data()

    assert asyncio.run(act()) == ("a.bin", content)


def test_a_body_that_is_too_large_is_refused_by_quart_and_not_stored(quart_app):
    """The error of its body passes through `save`."""
    quart_app.config["MAX_CONTENT_LENGTH"] = quart_app.request_class.max_content_length = 1000

    async def act():
        client = quart_app.test_client()
        response = await client.put("/body/a.bin", data=b"x" * 5000)
        return response.status_code, await (await client.get("/list")).get_json()

    assert asyncio.run(act()) == (413, [])


def test_outside_of_a_context_there_is_no_current_storage(quart_app):
    """As with Flask."""
    with pytest.raises(RuntimeError, match="application context"):
        current_storage["docs"]


def test_an_app_of_quart_gets_no_views_of_flask(quart_app):
    """The link view is one of Flask; its URL is known, and nothing serves it here."""

    async def act():
        return (await quart_app.test_client().get("/storage/docs?token=x")).status_code

    assert asyncio.run(act()) == 404
    assert "storage" not in quart_app.cli.commands


def test_a_profile_that_is_served_needs_an_app_of_flask():
    """Its URLs would lead nowhere."""
    app = quart.Quart("shop")
    app.config["STORAGE_PROFILES"] = {"docs": {"backend": "memory", "base_url": "/media", "serve": True}}

    with pytest.raises(ConfigurationError, match="'docs' has serve=True, which needs a Flask app"):
        Storage(app)


async def respond(asgi, method, url, body=b""):
    """Send one request to an ASGI app, and return the status and the body of its response."""
    parts, sent = urlsplit(url), []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": parts.scheme,
        "path": parts.path,
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "root_path": "",
        "headers": [(b"host", parts.netloc.encode()), (b"content-length", str(len(body)).encode())],
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 50_000),
        "extensions": {},
    }
    received = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if received:
            return received.pop(0)
        return await asyncio.Event().wait()  # the client stays connected

    async def send(message):
        sent.append(message)

    await asgi(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize("settings", [{}, {"STORAGE_EXTERNAL_URL": None, "SERVER_NAME": "localhost"}], ids=str)
def test_links_of_an_app_of_quart_are_served_by_a_mounted_app_of_flask(tmp_path, settings):
    """It has the same profiles and the same secret; both run in one server of ASGI."""
    shared = {**SETTINGS, "STORAGE_PROFILES": {"docs": {"backend": "local", "root": str(tmp_path), "create": True}}}
    app, links = quart.Quart("shop"), flask.Flask("links")
    app.config.update(shared, STORAGE_EXTERNAL_URL="http://localhost")
    app.config.update(settings)
    links.config.update(shared, STORAGE_LINK_URL_PREFIX="/")
    Storage(app)
    Storage(links)
    mounts: dict[str, Any] = {"/storage": WSGIMiddleware(cast(Any, links)), "": app}
    asgi = DispatcherMiddleware(mounts)

    @app.get("/links")
    async def make_links():
        files = AsyncStorage("docs")
        return [await files.link_to("a.txt", operation, HOUR) for operation in ("upload", "download", "remove")]

    async def act():
        _, body = await respond(asgi, "GET", "http://localhost/links")
        upload, download, remove = json.loads(body)
        return [
            (await respond(asgi, "PUT", upload, b"hello"))[0],
            await respond(asgi, "GET", download),
            (await respond(asgi, "DELETE", remove))[0],
            (await respond(asgi, "GET", download))[0],
            (await respond(asgi, "GET", "http://localhost/storage/docs?token=wrong"))[0],
        ]

    assert asyncio.run(act()) == [200, (200, b"hello"), 200, 404, 403]

"""Stored files in an app that uses Flask-Compress."""

import pytest
from flask_compress import Compress

from tests.test_send_file import accel_app, app, disk, storage

__all__ = ["app", "disk", "storage"]  # fixtures


@pytest.mark.parametrize("accepted", ["gzip", "br", "gzip, deflate, br, zstd", ""])
@pytest.mark.parametrize("name", ["text.txt", "empty.txt"])
def test_head_has_the_headers_of_get_when_flask_compress_compresses(app, storage, accepted, name):
    """It compresses streamed bodies only with some encodings, and changes length and ETag with them."""
    Compress(app)
    storage.write("text.txt", b"text " * 1000)
    storage.write("empty.txt", b"")
    client = app.test_client()

    with client.get(f"/{name}", headers={"Accept-Encoding": accepted}) as expected:
        response = client.head(f"/{name}", headers={"Accept-Encoding": accepted})

    assert response.status_code == 200
    assert list(response.headers) == list(expected.headers)


def test_flask_compress_does_not_change_a_response_without_a_body(disk):
    """The web server in front sends the file, and would send the encoding of the empty body with it."""
    app = accel_app(disk, STORAGE_X_SENDFILE=True)
    Compress(app)
    disk.write("text.txt", b"text " * 1000)

    response = app.test_client().get("/text.txt", headers={"Accept-Encoding": "gzip, br"})

    assert response.headers["X-Sendfile"]
    assert (response.data, response.headers["Content-Length"]) == (b"", "0")
    assert "Content-Encoding" not in response.headers

"""The app that the servers run: our links beside what one would write with Flask alone."""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

from flask import Flask, request, send_file
from werkzeug.wrappers import Response

from flask_storage import LocalFSStorage, Storage

SECRET = "0123456789abcdef0123456789abcdef"


def create_app(root: str, x_accel: bool = False) -> Flask:
    """Return the app.

    Args:
        root: The directory of the files.
        x_accel: Whether nginx stands in front and sends the files itself, from its location ``/_files/``.
    """
    app = Flask(__name__)
    profiles = [(LocalFSStorage, {"name": name, "root": root, "fsync": name == "docs"}) for name in ("docs", "quick")]
    app.config.update(SECRET_KEY=SECRET, STORAGE_PROFILES=profiles)
    if x_accel:
        app.config["STORAGE_X_ACCEL_REDIRECT"] = {"docs": "/_files/"}
    storage = Storage(app)

    @app.get("/pid")
    def pid() -> str:
        return str(os.getpid())

    @app.get("/link/<profile>/<operation>/<path:path>")
    def link(profile: str, operation: str, path: str) -> str:
        return storage.for_app(app)[profile].link_to(path, operation, timedelta(hours=1))

    @app.get("/send_file/<path:path>")
    def by_send_file(path: str) -> Response:
        return send_file(Path(root, path), as_attachment=True)

    @app.put("/temporary/<path:path>")
    def by_temporary_file(path: str) -> str:
        """Take the body as it is: first into a temporary file, then into its place."""
        with tempfile.TemporaryFile(dir=root) as body, open(Path(root, path), "wb") as file:
            shutil.copyfileobj(request.stream, body)
            body.seek(0)
            shutil.copyfileobj(body, file)
        return "stored"

    @app.post("/form/<path:path>")
    def by_form(path: str) -> str:
        """Take a form: werkzeug puts the file into a temporary one, and `save` copies that."""
        request.files["file"].save(Path(root, path))
        return "stored"

    return app

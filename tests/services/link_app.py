"""The app that the tests run under WSGI servers: one profile, local unless the test names another, and no other views.

`app` is for WSGI servers, `asgi_app` for ASGI ones. Environment variables name the root directory and the profile. The
address of a client is the one that a proxy before the server reports.
"""

import json
import os

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_storage import Storage

SECRET_KEY = "a secret that the tests and the servers share"
PROFILE = "docs"


def make_app(root, address, profile=None):
    """Return an app with the files below *root*, or in *profile*; its links point to *address*."""
    profile = profile or {"backend": "local", "root": root, "file_mode": 0o644, "directory_mode": 0o755}
    app = Flask(__name__, instance_path=os.path.join(os.path.dirname(root), "instance"))
    app.config.from_prefixed_env()
    app.config.update(
        SECRET_KEY=SECRET_KEY,
        STORAGE_PROFILES={PROFILE: profile},
        STORAGE_EXTERNAL_URL=address,
    )
    Storage(app)
    return app


if "LINK_APP_ROOT" in os.environ:
    app = make_app(
        os.environ["LINK_APP_ROOT"], os.environ["LINK_APP_ADDRESS"], json.loads(os.environ["LINK_APP_PROFILE"])
    )
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1)

    @app.get("/alive")
    def alive():
        """Return the id of the process, to show that the server is running."""
        return str(os.getpid())

    @app.after_request
    def add_worker_header(response):
        """Add a header with the id of the process to every response."""
        response.headers["Worker"] = str(os.getpid())
        return response

    def asgi_app():
        """Return the same app for an ASGI server."""
        from a2wsgi import WSGIMiddleware

        return WSGIMiddleware(app)

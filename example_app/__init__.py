"""Drop: a small app for sharing photos and documents that shows what Flask-Storage-Profiles does.

``flask --app example_app run`` starts it without configuration: the files and the secret key are in the directory
``example_app/instance``. The app has no login: anyone who can reach the page can see, share and delete all files. Add a
login before others can reach it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask

from flask_storage import Storage

from . import config as defaults, csrf, formats, messages, routes
from .secret_key import load_or_create


def create_app(instance_path: str | None = None, config: Mapping[str, Any] | None = None) -> Flask:
    """Return the app.

    Settings come from :mod:`example_app.config`, then from environment variables that begin with ``FLASK_``, then from
    *config*; the later one wins.

    Args:
        instance_path: The directory for files, the secret key and usage counters; absolute. ``example_app/instance``
            by default.
        config: Settings for this app only.
    """
    instance = Path(instance_path or Path(__file__).resolve().parent / "instance")
    app = Flask(__name__, instance_path=str(instance))
    app.config.from_object(defaults)
    app.config["STORAGE_PROFILES"] = defaults.default_profiles(instance)
    app.config.from_prefixed_env()
    app.config.from_mapping(config or {})
    if not app.config["SECRET_KEY"]:
        app.config["SECRET_KEY"] = load_or_create(instance / "secret_key")
    if app.config["MAX_CONTENT_LENGTH"] is None:
        # For uploads through the form, without scripts. An upload through a signed link has the limit of the link.
        app.config["MAX_CONTENT_LENGTH"] = app.config["DROP_MAX_UPLOAD_SIZE"] + defaults.FORM_OVERHEAD

    Storage(app)
    csrf.init_app(app)
    messages.init_app(app)
    app.add_template_filter(formats.filesize)
    app.register_blueprint(routes.blueprint)
    return app

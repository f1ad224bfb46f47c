"""Signed links are exempt from Flask-WTF's CSRF protection, and nothing else is."""

from datetime import timedelta

import pytest
from flask import Flask
from flask.views import MethodView
from flask_wtf.csrf import CSRFProtect  # type: ignore[import-untyped]  # it has no type hints

from flask_storage import LinkViewMixin, MemoryStorage, Storage, current_storage

ORDERS = ["protection first", "storage first", "protection last"]


class Own(LinkViewMixin, MethodView):
    """A custom link view."""

    def get_storage_backend(self):
        """Serve the profile "docs"."""
        return current_storage["docs"]


def form():
    """A view of a form."""
    return "posted"


form.__name__ = "own"  # the name of the link view, because Flask-WTF identifies views by module and name


@pytest.fixture(params=ORDERS)
def app(request, tmp_path):
    """An app with both extensions and a custom link view, initialized in every order."""
    app = Flask(__name__, instance_path=str(tmp_path))
    app.testing = True
    app.config.update(SECRET_KEY="0" * 32, STORAGE_PROFILES={"docs": {"backend": "memory"}})
    if request.param == "protection first":
        CSRFProtect(app)
    Storage(app)
    if request.param == "storage first":
        CSRFProtect(app)
    app.add_url_rule("/own", view_func=Own.as_view("own"))
    app.add_url_rule("/form", view_func=form, methods=["POST"], endpoint="form")
    if request.param == "protection last":
        CSRFProtect(app)
    return app


def _token(app):
    with app.test_request_context():
        return current_storage["docs"].link_to("a", "dur", timedelta(hours=1)).partition("=")[2]


@pytest.mark.parametrize("path", ["/storage/docs", "/own"])
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_a_signed_link_needs_no_csrf_token(app, method, path):
    """For the built-in view and a custom one, in every order of the extensions."""
    response = app.test_client().open(f"{path}?token={_token(app)}", method=method, data=b"content")

    assert (response.status_code, response.data) == (200, b"OK")


def test_a_form_view_with_the_same_name_stays_protected(app):
    """Exempting a link view exempts no other view with its module and name."""
    client = app.test_client()
    assert client.put(f"/own?token={_token(app)}", data=b"content").status_code == 200

    response = client.post("/form", data={"a": "b"})

    assert response.status_code == 400
    assert b"CSRF" in response.data


def test_an_invalid_link_is_reported_as_such(app):
    """It is not reported as a missing CSRF token."""
    response = app.test_client().post("/storage/docs?token=a.b.c", data=b"x")

    assert (response.status_code, response.text) == (
        403,
        "The link is not valid. Check that it was copied completely.\n",
    )


def test_an_unknown_url_is_still_not_found(app):
    """The exemption also runs for requests without an endpoint."""
    assert app.test_client().get("/nothing/here").status_code == 404


def test_an_app_without_flask_wtf_is_not_changed(tmp_path):
    """The names of its views stay."""
    app = Flask(__name__, instance_path=str(tmp_path))
    app.config.update(SECRET_KEY="0" * 32, STORAGE_PROFILES={"docs": {"backend": "memory"}})
    Storage(app)
    app.add_url_rule("/own", view_func=Own.as_view("own"))

    response = app.test_client().put(f"/own?token={_token(app)}", data=b"content")

    assert response.status_code == 200
    assert app.view_functions["own"].__name__ == "own"
    assert isinstance(app.extensions["storage"]["docs"], MemoryStorage)

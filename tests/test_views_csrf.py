"""Flask-WTF's CSRF protection lets signed links through, and nothing else."""

from datetime import timedelta

import pytest
from flask import Flask
from flask.views import MethodView
from flask_wtf.csrf import CSRFProtect  # type: ignore[import-untyped]  # it has no type hints

from flask_storage import LinkViewMixin, MemoryStorage, Storage, current_storage

ORDERS = ["protection first", "storage first", "protection last"]


class Own(LinkViewMixin, MethodView):
    """A link view of the app's own."""

    def get_storage_backend(self):
        """Serve the profile "docs"."""
        return current_storage["docs"]


def form():
    """Stand for a view that takes forms."""
    return "posted"


form.__name__ = "own"  # the name that the link view is registered under: Flask-WTF knows views by module and name


@pytest.fixture(params=ORDERS)
def app(request, tmp_path):
    """An app with both extensions and a link view of its own, in every order."""
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
    """Whichever extension came first, for the ready-made view and for one's own."""
    response = app.test_client().open(f"{path}?token={_token(app)}", method=method, data=b"content")

    assert (response.status_code, response.data) == (200, b"OK")


def test_a_form_of_the_same_name_stays_protected(app):
    """Exempting a link view opens nothing else, not even a view that shares module and name with it."""
    client = app.test_client()
    assert client.put(f"/own?token={_token(app)}", data=b"content").status_code == 200

    response = client.post("/form", data={"a": "b"})

    assert response.status_code == 400
    assert b"CSRF" in response.data


def test_a_refused_link_is_refused_by_us(app):
    """A bad token is told so, and is not taken for a forged form."""
    response = app.test_client().post("/storage/docs?token=a.b.c", data=b"x")

    assert (response.status_code, response.text) == (403, "The link is not valid, or no longer.\n")


def test_an_unknown_address_is_no_business_of_the_exemption(app):
    """404 stays 404, with or without a link view behind it."""
    assert app.test_client().get("/nothing/here").status_code == 404


def test_an_app_without_protection_is_left_alone(tmp_path):
    """Without Flask-WTF there is nothing to exempt from, and names stay as they are."""
    app = Flask(__name__, instance_path=str(tmp_path))
    app.config.update(SECRET_KEY="0" * 32, STORAGE_PROFILES={"docs": {"backend": "memory"}})
    Storage(app)
    app.add_url_rule("/own", view_func=Own.as_view("own"))

    response = app.test_client().put(f"/own?token={_token(app)}", data=b"content")

    assert response.status_code == 200
    assert app.view_functions["own"].__name__ == "own"
    assert isinstance(app.extensions["storage"]["docs"], MemoryStorage)

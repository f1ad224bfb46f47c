"""Links, public addresses and X-Accel-Redirect of storages that wrap others, through an app."""

from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask
from flask.views import MethodView

from flask_storage import (
    ConfigurationError,
    InvalidLinkError,
    LinkViewMixin,
    MemoryStorage,
    MirrorStorage,
    PrefixStorage,
    ReadOnlyStorage,
    ReadThroughStorage,
    Storage,
    UnsupportedOperationError,
    send_stored_file,
)
from flask_storage.link_usage import MemoryUsageStore
from tests.test_app_links import SigningStorage

HOUR = timedelta(hours=1)
PROFILES = {
    "docs": {"backend": "memory"},
    "acme": {"backend": "prefix", "storage": "docs", "prefix": "tenants/acme"},
    "other": {"backend": "prefix", "storage": "docs", "prefix": "tenants/other"},
    "shown": {"backend": "read_only", "storage": "acme"},
    "new": {"backend": "memory"},
    "media": {"backend": "read_through", "storage": "new", "old": "docs"},
    "safe": {"backend": "mirror", "storage": "new", "mirrors": ["docs"]},
}


def make_app(profiles, **config):
    """Return an app with these profiles, whose links can be used with its test client."""
    app = Flask(__name__)
    app.config.update(SECRET_KEY="s" * 32, STORAGE_EXTERNAL_URL="http://localhost", STORAGE_PROFILES=profiles)
    app.config.update(STORAGE_LINK_USAGE=MemoryUsageStore(), **config)
    Storage(app)
    return app


@pytest.fixture
def app():
    """An app with a wrapper of every kind."""
    return make_app(PROFILES)


@pytest.fixture
def client(app):
    """A client without cookies."""
    return app.test_client()


@pytest.fixture
def profiles(app):
    """The storages of the app, with a file of each tenant."""
    profiles = app.extensions["storage"]
    profiles["docs"].write("tenants/acme/a.txt", b"of acme")
    profiles["docs"].write("tenants/other/a.txt", b"of other")
    profiles["docs"].write("a.txt", b"of docs")
    return profiles


def token_of(link):
    """Return the token in a link of the app."""
    return parse_qs(urlsplit(link).query)["token"][0]


def test_a_link_of_a_wrapper_is_for_its_profile(client, profiles):
    """The view opens the wrapper, and the token has the path inside of it."""
    link = profiles["acme"].link_to("a.txt", "download", HOUR)

    assert urlsplit(link).path == "/storage/acme"
    assert profiles["acme"].verify_link(token_of(link)).path == "a.txt"
    assert client.get(link).data == b"of acme"


@pytest.mark.parametrize("issuer", PROFILES)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_token_is_worth_nothing_elsewhere(client, profiles, issuer, profile):
    """Neither in another tenant's profile nor in that of the inner storage, in both directions."""
    token = profiles[issuer].create_link_token(path="a.txt", operation="download")

    response = client.get(f"/storage/{profile}?token={token}")

    has_file = issuer not in ("new", "safe")
    assert response.status_code == (403 if profile != issuer else 200 if has_file else 404)


def test_uploads_and_removals_by_link_stay_in_the_directory(client, profiles, storage_events):
    """They are stored and deleted through the wrapper, also with a limited number of uses."""
    upload = profiles["acme"].upload_request("new.txt", HOUR, uses=1, max_size=3)

    assert client.put(upload.url, data=b"1234", headers=upload.headers).status_code == 413
    assert client.put(upload.url, data=b"123", headers=upload.headers).status_code == 200
    assert client.put(upload.url, data=b"123", headers=upload.headers).status_code == 403
    assert profiles["docs"].read("tenants/acme/new.txt") == b"123"
    assert profiles["acme"].confirm_upload("new.txt", size=3, move_to="kept.txt").path == "kept.txt"
    assert client.delete(profiles["acme"].link_to("kept.txt", "remove", HOUR)).status_code == 200

    names = [entry.name for entry in profiles["docs"].list()]
    assert names == ["a.txt", "tenants/acme/a.txt", "tenants/other/a.txt"]
    assert {event.storage for event in storage_events if event.signal == "link-used"} == {"acme"}


def test_a_read_only_profile_stays_read_only_by_link(client, profiles):
    """It issues no other link, and the view refuses a token that would allow more."""
    with pytest.raises(UnsupportedOperationError, match="read-only"):
        profiles["shown"].link_to("a.txt", "du", HOUR)
    assert client.get(profiles["shown"].link_to("a.txt", "download", HOUR)).data == b"of acme"
    signer = profiles["shown"]._link_signer()
    request = profiles["acme"]._link_request("dur", HOUR, None, None, {})
    forged = signer.sign("a.txt", request, request.expires_at - HOUR)

    for method in ("PUT", "POST", "DELETE"):
        response = client.open(f"/storage/shown?token={forged}", method=method, data=b"x")
        assert response.status_code == 403

    assert profiles["docs"].read("tenants/acme/a.txt") == b"of acme"


@pytest.mark.parametrize("path", ["missing.txt", "tenants/missing.txt"])
def test_a_response_does_not_show_the_directory(client, profiles, path):
    """The text of an error has no path."""
    link = profiles["acme"].link_to(path, "download", HOUR)

    response = client.get(link)

    assert (response.status_code, b"tenants/acme" in response.data) == (404, False)


# -- wrappers for one request -----------------------------------------------------------------------------------------


def test_a_wrapper_outside_of_the_configuration_uses_the_links_of_its_inner_storage(client, profiles):
    """With the path there, also through several wrappers; it accepts those of its directory only."""
    nested = ReadOnlyStorage(PrefixStorage(PrefixStorage(profiles["docs"], "tenants"), "acme"))

    link = nested.link_to("a.txt", "download", HOUR)

    assert urlsplit(link).path == "/storage/docs"
    assert profiles["docs"].verify_link(token_of(link)).path == "tenants/acme/a.txt"
    assert nested.verify_link(token_of(link)).path == "a.txt"
    assert client.get(link).data == b"of acme"
    for path in ("tenants/other/a.txt", "tenants/acme2/a.txt", "tenants/acme", "a.txt"):
        foreign = profiles["docs"].create_link_token(path=path, operation="download")
        with pytest.raises(InvalidLinkError):
            nested.verify_link(foreign)


def test_a_read_only_wrapper_for_one_request_issues_only_downloads(profiles):
    """The view of the inner storage would carry out anything else."""
    shown = ReadOnlyStorage(profiles["acme"])

    for operation in ("upload", "remove", "dur"):
        with pytest.raises(UnsupportedOperationError, match="read-only"):
            shown.link_to("a.txt", operation, HOUR)
        with pytest.raises(UnsupportedOperationError, match="read-only"):
            shown.create_link_token(path="a.txt", operation=operation)
    assert urlsplit(shown.link_to("a.txt", "download", HOUR)).path == "/storage/acme"


@pytest.mark.parametrize("make", [lambda one, two: MirrorStorage(one, [two]), ReadThroughStorage])
def test_a_wrapper_of_two_storages_needs_a_profile_for_links(profiles, make):
    """The view of one of them would not reach the other."""
    wrapper = make(profiles["new"], profiles["docs"])

    for operation in ("download", "upload"):
        with pytest.raises(ConfigurationError, match="belongs to no app"):
            wrapper.link_to("a.txt", operation, HOUR)


def test_a_view_of_the_app_can_serve_a_directory(app, client, profiles):
    """A `LinkViewMixin` whose storage is made for the request accepts the links of that directory."""

    class TenantFiles(LinkViewMixin, MethodView):
        def get_storage_backend(self):
            return PrefixStorage(profiles["docs"], "tenants/acme")

    app.add_url_rule("/files", view_func=TenantFiles.as_view("files"))
    mine = PrefixStorage(profiles["docs"], "tenants/acme").create_link_token(path="a.txt", operation="d")
    foreign = PrefixStorage(profiles["docs"], "tenants/other").create_link_token(path="a.txt", operation="d")

    assert client.get(f"/files?token={mine}").data == b"of acme"
    assert client.get(f"/files?token={foreign}").status_code == 403


# -- links of the service ---------------------------------------------------------------------------------------------


@pytest.fixture
def signing():
    """The storages of an app whose first profile is on a service that signs links."""
    profiles = {"docs": {"backend": SigningStorage}, **{name: PROFILES[name] for name in ("acme", "shown", "new")}}
    profiles["media"] = {"backend": "read_through", "storage": "docs", "old": "new"}
    profiles["safe"] = {"backend": "mirror", "storage": "docs", "mirrors": ["new"]}
    return make_app(profiles)


def test_a_service_signs_the_path_of_the_inner_storage(signing):
    """Uploads too; what it does not enforce is a link of the wrapper's profile, which redirects to the service."""
    acme = signing.extensions["storage"]["acme"]
    limited = acme.link_to("a.txt", "download", HOUR, ip="127.0.0.0/8")

    response = signing.test_client().get(limited)

    assert acme.link_to("a.txt", "upload", HOUR) == "https://service.example.com/tenants/acme/a.txt?signed"
    assert acme.links_to(["a", "b"], "download") == [
        f"https://service.example.com/tenants/acme/{name}?signed" for name in "ab"
    ]
    assert urlsplit(limited).path == "/storage/acme"
    assert response.headers["Location"] == "https://service.example.com/tenants/acme/a.txt?signed"


@pytest.mark.parametrize("profile", ["shown", "safe"])
def test_only_downloads_are_links_of_the_service(signing, profile):
    """An upload to the service would not reach the mirrors; nothing may be uploaded to a read-only storage."""
    storage = signing.extensions["storage"][profile]

    assert storage.link_to("a.txt", "download", HOUR).startswith("https://service.example.com/")
    if profile == "safe":
        assert storage.link_to("a.txt", "upload", HOUR).startswith("http://localhost/storage/safe?")
        assert storage.upload_request("a.txt", HOUR, max_size=3).url.startswith("http://localhost/storage/safe?")
    else:
        with pytest.raises(UnsupportedOperationError, match="read-only"):
            storage.upload_request("a.txt", HOUR, max_size=3)


def test_a_read_through_storage_has_no_links_of_the_service(signing):
    """Its links work before and after the file has moved."""
    media = signing.extensions["storage"]["media"]
    media.old.write("a.txt", b"1")
    link = media.link_to("a.txt", "download", HOUR)
    client = signing.test_client()

    assert link.startswith("http://localhost/storage/media?")
    assert client.get(link).data == b"1"
    media.migrate(delete=True)
    assert client.get(link).data == b"1"


def test_an_upload_by_link_reaches_the_mirrors(client, profiles):
    """The link view writes through the wrapper."""
    upload = profiles["safe"].upload_request("b.txt", HOUR)

    assert client.put(upload.url, data=b"new", headers=upload.headers).status_code == 200
    assert profiles["new"].read("b.txt") == profiles["docs"].read("b.txt") == b"new"


# -- public addresses and web servers ---------------------------------------------------------------------------------


def test_a_wrapper_can_be_served_in_public(tmp_path):
    """With an address of its own, or below that of the inner storage."""
    app = make_app(
        {
            "docs": {"backend": "memory", "serve": True, "base_url": "/media"},
            "acme": PROFILES["acme"],
            "shown": {"backend": "read_only", "storage": "acme", "serve": True, "base_url": "/shown"},
        }
    )
    profiles = app.extensions["storage"]
    profiles["acme"].write("a b.txt", b"1")

    assert profiles["acme"].url("a b.txt") == "http://localhost/media/tenants/acme/a%20b.txt"
    assert profiles["shown"].url("a b.txt") == "http://localhost/shown/a%20b.txt"
    for profile in ("acme", "shown"):
        assert app.test_client().get(profiles[profile].url("a b.txt")).data == b"1"


@pytest.mark.parametrize(
    ("make", "header"),
    [
        (lambda profiles: profiles["acme"], "/_acme/a%20b.txt"),
        (lambda profiles: PrefixStorage(profiles["docs"], "tenants/acme"), "/_docs/tenants/acme/a%20b.txt"),
        (lambda profiles: PrefixStorage(profiles["docs"], "tenants/acme", "acme"), "/_docs/tenants/acme/a%20b.txt"),
        (lambda profiles: ReadOnlyStorage(profiles["acme"]), "/_acme/a%20b.txt"),
        (lambda profiles: PrefixStorage(profiles["shown"], "x"), None),
        (lambda profiles: profiles["media"], None),
    ],
)
def test_the_web_server_gets_the_path_below_the_location_of_the_profile(tmp_path, make, header):
    """A wrapper that is no profile has the location of its inner storage, and the path there, not another tenant's."""
    app = make_app(
        {
            "docs": {"backend": "local", "root": tmp_path, "fsync": False},
            "acme": PROFILES["acme"],
            "shown": PROFILES["shown"],
            "media": {"backend": "read_through", "storage": "acme", "old": "docs"},
        },
        STORAGE_X_ACCEL_REDIRECT={"docs": "/_docs/", "acme": "/_acme/", "media": "/_media/"},
    )
    profiles = app.extensions["storage"]
    profiles["docs"].write("tenants/acme/a b.txt", b"1")
    profiles["docs"].write("tenants/acme/x/a b.txt", b"1")

    with app.test_request_context():
        response = send_stored_file(make(profiles), "a b.txt")

    assert response.headers.get("X-Accel-Redirect") == header


def test_the_inner_storage_belongs_to_no_profile_because_of_its_wrapper():
    """Only the wrapper has the context of the app."""
    inner = MemoryStorage()
    app = make_app({"acme": PrefixStorage(inner, "a")})

    assert inner.link_context is None
    assert app.extensions["storage"]["acme"].link_context.profile == "acme"

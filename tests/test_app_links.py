"""Links of the app on backends that sign their own: chosen per call, or fixed by the profile."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask

from flask_storage import (
    ConfigurationError,
    MemoryStorage,
    NoSignerError,
    Storage,
    StorageBackend,
    UnsupportedOperationError,
)
from flask_storage.backends.azure import AzureStorage
from flask_storage.backends.s3 import S3Storage
from flask_storage.link_usage import MemoryUsageStore
from flask_storage.signals import link_issued, link_used
from flask_storage.testing import FailingStorage
from flask_storage.types import Capabilities, LinkRequest, PresignedUpload, ShareLinkOperation

HOUR = timedelta(hours=1)
S3 = {"backend": "s3", "bucket": "my-files", "aws_access_key_id": "key", "aws_secret_access_key": "secret"}
AWS = {**S3, "aws_region": "eu-central-1"}
ANY_S3 = {**S3, "endpoint_url": "https://s3.example.com", "aws_region": "us-east-1"}
AZURE = {"backend": "azure", "account": "myaccount", "key": "YWJj", "bucket": "my-files"}
APP_URL = "https://app.example.com/storage/docs?token="


class SigningStorage(MemoryStorage):
    """Files in memory, behind a service that signs links but enforces no network."""

    capabilities = replace(
        MemoryStorage.capabilities,
        links=~ShareLinkOperation(0),
        link_combinations=False,
        link_constraints=frozenset({"disposition", "checksum"}),
        upload_constraints=frozenset({"disposition", "checksum", "max_size"}),
    )

    def _link_to(self, path, request):
        if (request.checksum or "").startswith("sha512"):
            raise UnsupportedOperationError("the service computes no sha512")
        self.request = request
        return f"https://service.example.com/{path}?signed"

    def _upload_request(self, path, request):
        if request.size is not None and request.max_size is not None:
            raise UnsupportedOperationError("one limit only")
        method = "PUT" if request.max_size is None else "POST"
        return PresignedUpload(method=method, url=self._link_to(path, request), expires_at=request.expires_at)


def make_app(profile, **config):
    """Return an app with this profile, whose address is known unless *config* says otherwise."""
    app = Flask(__name__)
    app.config.update(SECRET_KEY="s" * 32, STORAGE_EXTERNAL_URL="https://app.example.com")
    app.config.update(STORAGE_PROFILES={"docs": profile}, STORAGE_LINK_USAGE=MemoryUsageStore(), **config)
    Storage(app)
    return app


def docs_of(profile, **config):
    """Return the storage of an app with this profile."""
    return make_app(profile, **config).extensions["storage"]["docs"]


# -- service or app ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "arguments", "native"),
    [
        ("download", {}, True),
        ("upload", {"checksum": f"md5:{'0' * 32}"}, True),
        ("download", {"disposition": "inline", "content_type": "image/png"}, True),
        ("du", {}, False),
        ("download", {"uses": 1}, False),
        ("download", {"ip": "203.0.113.0/24"}, False),
        ("upload", {"max_size": 0}, False),
        ("upload", {"checksum": f"sha512:{'0' * 128}"}, False),
    ],
)
def test_a_link_is_the_services_where_that_enforces_everything(operation, arguments, native):
    """Otherwise it is the app's, also where only the driver method finds out that the service does not."""
    docs = docs_of({"backend": SigningStorage})

    one = docs.link_to("a", operation, HOUR, **arguments)
    many = docs.links_to(["a", "b"], operation, HOUR, **arguments)

    expected = "https://service.example.com/" if native else APP_URL
    assert [link.startswith(expected) for link in (one, *many)] == [True] * 3


@pytest.mark.parametrize(
    ("arguments", "method", "url"),
    [
        ({}, "PUT", "https://service.example.com/"),
        ({"max_size": 5}, "POST", "https://service.example.com/"),
        ({"max_size": 5, "size": 5}, "PUT", APP_URL),
        ({"size": 5, "content_type": "image/png", "exclusive": True, "uses": 1}, "PUT", APP_URL),
    ],
)
def test_an_upload_request_is_the_services_or_a_put_to_the_app(arguments, method, url):
    """A request to the app has the content type as its only header."""
    upload = docs_of({"backend": SigningStorage}).upload_request("a", HOUR, **arguments)

    assert (upload.method, upload.url.startswith(url)) == (method, True)
    if url == APP_URL:
        assert upload.headers == {"Content-Type": arguments.get("content_type", "application/octet-stream")}


@pytest.mark.parametrize(
    ("profile", "arguments", "url"),
    [
        (AWS, {"content_type": "image/", "redirect_to": "https://app.example.com/done"}, "https://my-files.s3."),
        ({**AWS, "links": "native"}, {}, "https://my-files.s3."),
        ({**AWS, "links": "app"}, {}, APP_URL),
        (AWS, {"exclusive": True}, APP_URL),
        (AWS, {"uses": 1}, APP_URL),
        (AWS, {"checksum": f"md5:{'0' * 32}"}, APP_URL),
        ({**AWS, "prefix": "${filename}"}, {}, APP_URL),
        ({**AWS, "customer_key": b"k" * 32}, {}, APP_URL),
        (ANY_S3, {}, APP_URL),
        (AZURE, {}, APP_URL),
        ({"backend": "memory"}, {}, APP_URL),
        ({"backend": "memory", "links": "native"}, {}, APP_URL),
    ],
)
def test_an_upload_form_is_the_services_where_that_has_forms(profile, arguments, url):
    """And enforces everything; otherwise it is the app's."""
    form = docs_of(profile).create_upload_form("a.png", HOUR, max_size=5, **arguments)

    assert (form.method, form.url.startswith(url), form.headers) == ("POST", True, {})
    if url == APP_URL:
        assert form.fields == {"Content-Type": "application/octet-stream"}


def test_each_link_sends_one_signal():
    """By the service or by the app."""
    docs = docs_of({"backend": SigningStorage})
    issued = []

    def record(sender, path, request, **extra):
        issued.append((path, request.uses))

    with link_issued.connected_to(record, sender=docs):
        docs.link_to("a", "d")
        docs.links_to(["b", "c"], "d", uses=2)
        docs.upload_request("d", uses=3)

    assert issued == [("a", None), ("b", 2), ("c", 2), ("d", 3)]


@pytest.mark.parametrize(
    ("option", "config", "reason"),
    [
        ({}, {"SECRET_KEY": None}, "the app has no SECRET_KEY: set it"),
        ({}, {"STORAGE_EXTERNAL_URL": None}, "needs the app's address: set STORAGE_EXTERNAL_URL"),
        ({}, {"STORAGE_LINK_URL_PREFIX": None}, "profile 'docs' has no link view: STORAGE_LINK_URL_PREFIX is None"),
        ({"links": "native"}, {}, "the profile has links='native'"),
    ],
    ids=["secret", "address", "view", "native"],
)
@pytest.mark.parametrize("profile", [AWS, ANY_S3, AZURE], ids=["aws", "s3", "azure"])
def test_what_neither_can_issue_is_refused_with_the_reason(profile, option, config, reason):
    """It says what the service cannot do, and what is missing for a link of the app; native links still work."""
    docs = docs_of({**profile, **option}, **config)

    for make in (
        lambda: docs.link_to("a", "download", HOUR, uses=1),
        lambda: docs.links_to(["a"], "download", HOUR, uses=1),
        lambda: docs.upload_request("a", HOUR, uses=1),
        lambda: docs.create_upload_form("a", HOUR, max_size=5, uses=1),
    ):
        with pytest.raises(
            UnsupportedOperationError, match=r"enforce (max_size, )?uses in a link; a link of the app could"
        ) as caught:
            make()
        assert reason in str(caught.value)
        assert caught.value.backend == "docs"
    assert docs.link_to("a", "download", HOUR).startswith("https://")


def test_a_storage_of_no_app_has_links_of_its_service_only():
    """The error says where to configure it; a storage whose service signs nothing says the same."""
    signing, bare = AzureStorage("myaccount", "YWJj", "my-files", name="media"), StorageBackend("bare")

    with pytest.raises(
        UnsupportedOperationError, match=r"enforce uses .* but <AzureStorage 'media'> belongs to no"
    ) as e:
        signing.link_to("a", "d", HOUR, uses=1)
    with pytest.raises(ConfigurationError, match="'bare'> belongs to no app: configure it in STORAGE_PROFILES"):
        bare.link_to("a", "d", HOUR)

    assert isinstance(e.value.__cause__, ConfigurationError)
    assert signing.link_to("a", "d").startswith("https://myaccount.blob")


@pytest.mark.parametrize(
    ("make_storage", "refusal", "message"),
    [
        (lambda: S3Storage("my-files", "eu-central-1", "key", "secret", customer_key=b"k" * 32), "", "sign a link"),
        (
            lambda: AzureStorage(sas_container_url="https://myaccount.blob.core.windows.net/files?sig=x"),
            NoSignerError,
            "without account credentials",
        ),
    ],
    ids=["customer key", "sas"],
)
def test_a_profile_that_can_sign_nothing_has_links_of_the_app(make_storage, refusal, message):
    """Without an app, the error says why the service cannot sign."""
    with pytest.raises(refusal or UnsupportedOperationError, match=f"{message}.*; a link of the app could"):
        make_storage().upload_request("a", HOUR)

    docs = docs_of(make_storage())

    assert docs.link_to("a", "dur", HOUR).startswith(APP_URL)
    assert docs.upload_request("a", HOUR).url.startswith(APP_URL)
    assert docs.short_link("a", docs._link_request("d", HOUR, None, None, {})) is None


@pytest.mark.parametrize("links", ["auto", "native", "app"])
def test_what_the_storage_cannot_do_the_app_cannot_either(links):
    """A service that ignores conditions replaces the file also if the app uploads it."""
    docs = docs_of({**ANY_S3, "links": links})

    with pytest.raises(UnsupportedOperationError, match="leave it out and use a new random path"):
        docs.upload_request("a", HOUR, exclusive=True)
    with pytest.raises(UnsupportedOperationError, match="exclusive"):
        docs.create_link_token(path="a", operation="u", exclusive=True)


def test_a_service_without_headers_signs_no_upload_with_a_content_type():
    """Its driver never gets such a request, and the app cannot store the type either."""

    class Typeless(SigningStorage):
        capabilities = replace(SigningStorage.capabilities, content_headers=False, metadata=False)

    docs = docs_of({"backend": Typeless})

    with pytest.raises(UnsupportedOperationError, match="content_type"):
        docs.upload_request("a.bin", HOUR, content_type="application/x-own")
    assert docs.link_to("a.bin", "d", HOUR, content_type="application/x-own").startswith("https://service")


# -- the option of the profile ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "profile",
    [
        {**AZURE, "links": "app"},
        (AzureStorage, {"account": "myaccount", "key": "YWJj", "bucket": "my-files", "links": "app"}),
        "s3://my-files?region=eu-central-1&links=app&preset=aws",
        "s3://my-files?links=app#part",
        "memory:?links=app",
        "memory:?%6Cinks=%61pp",
    ],
    ids=["mapping", "pair", "url", "fragment", "memory", "escaped"],
)
def test_a_profile_can_have_links_of_the_app_only(profile):
    """The backend's constructor does not get the option; the address of the service stays private."""
    docs = docs_of(profile)

    assert docs.link_to("a", "download", HOUR).startswith(APP_URL)
    assert docs.upload_request("a", HOUR).url.startswith(APP_URL)
    assert docs.short_link("a", docs._link_request("d", HOUR, None, None, {})) is None


def test_the_list_form_accepts_the_option():
    """As that of keg-storage."""
    app = Flask(__name__)
    app.config["STORAGE_LINK_USAGE"] = MemoryUsageStore()
    app.config["STORAGE_PROFILES"] = [(MemoryStorage, {"name": "docs", "links": "native"})]

    docs = Storage(app).for_app(app)["docs"]

    assert docs.links == "native"


@pytest.mark.parametrize("links", ["App", "", None, True, ["app"], {}])
@pytest.mark.parametrize(
    "form", [lambda links: {**AZURE, "links": links}, lambda links: (MemoryStorage, {"links": links})]
)
def test_an_unknown_mode_of_links_is_refused(form, links):
    """At start."""
    with pytest.raises(ConfigurationError, match="links of 'docs' must be 'auto', 'native' or 'app'"):
        make_app(form(links))


def test_an_unknown_mode_in_a_url_is_refused():
    """Text is not converted."""
    with pytest.raises(ConfigurationError, match="links of 'docs' must be 'auto', 'native' or 'app'"):
        make_app("memory:?links=none")


def test_a_backend_that_signs_nothing_has_links_of_the_app_in_every_mode():
    """With `native` too: it has no service that could sign."""
    assert docs_of({"backend": "memory", "links": "native"}).link_to("a", "d", HOUR).startswith(APP_URL)


@pytest.mark.parametrize(
    "call",
    [
        lambda s3, azure: s3.multipart_request("a", "create", HOUR),
        lambda s3, azure: azure.block_request("a", "A" * 22, 1, HOUR),
    ],
    ids=["multipart", "block"],
)
def test_requests_that_only_the_service_accepts_are_refused_with_links_of_the_app_only(call):
    """They would contain its address."""
    with pytest.raises(UnsupportedOperationError, match=r"the profile has links='app'; use upload_request\(\)"):
        call(docs_of({**AWS, "links": "app"}), docs_of({**AZURE, "links": "app"}))


# -- the lifetime -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({}, HOUR),
        ({"STORAGE_LINK_LIFETIME": 60}, timedelta(minutes=1)),
        ({"STORAGE_LINK_LIFETIME": 2 * HOUR}, 2 * HOUR),
    ],
    ids=["default", "seconds", "timedelta"],
)
@pytest.mark.parametrize("profile", ["memory:", AWS, AZURE], ids=["memory", "s3", "azure"])
def test_a_link_without_an_expiry_has_the_configured_lifetime(profile, setting, expected):
    """Whether the service or the app signs it."""
    docs = docs_of(profile, **setting)
    before = datetime.now(UTC)

    upload = docs.upload_request("a")
    data = docs.verify_link(docs.create_link_token(path="a", operation="d"))

    for expires_at in (upload.expires_at, data.request.expires_at):
        assert before + expected - timedelta(seconds=1) <= expires_at
        assert expires_at <= datetime.now(UTC) + expected + timedelta(seconds=1)


@pytest.mark.parametrize("lifetime", [0, -1, timedelta(0), "soon", None, True])
def test_an_invalid_lifetime_is_refused(lifetime):
    """At start."""
    with pytest.raises(ConfigurationError, match="STORAGE_LINK_LIFETIME must be a number of seconds"):
        make_app("memory:", STORAGE_LINK_LIFETIME=lifetime)


# -- the view ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def signing():
    """An app whose only profile has a service that signs links, and its storage with one file."""
    app = make_app({"backend": SigningStorage})
    app.extensions["storage"]["docs"].write("a.mp4", b"0123456789")
    return app


def path_of(link):
    """Return a link without its host."""
    return link.removeprefix("https://app.example.com")


@pytest.mark.parametrize(
    ("headers", "redirects"),
    [
        ({}, True),
        ({"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, True),
        ({"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "empty"}, True),
        ({"Range": "bytes=0-"}, False),
        ({"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "video", "Range": "bytes=0-"}, False),
        ({"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, False),
        ({"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}, False),
        ({"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, False),
        ({"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "embed"}, False),
    ],
    ids=str,
)
def test_only_a_plain_navigation_is_redirected_to_the_service(signing, headers, redirects):
    """What a page embeds is streamed, with ranges; the signal is sent in both cases."""
    docs = signing.extensions["storage"]["docs"]
    used = []
    link = path_of(docs.link_to("a.mp4", "dur", HOUR, "Film.mp4"))

    with link_used.connected_to(lambda sender, path, **extra: used.append(path), sender=docs):
        response = signing.test_client().get(link, headers=headers)

    assert used == ["a.mp4"]
    if redirects:
        assert (response.status_code, response.data) == (302, b"")
        assert response.headers["Location"] == "https://service.example.com/a.mp4?signed"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert docs.request.filename == "Film.mp4"
        assert docs.request.operations == ShareLinkOperation.download
        assert docs.request.expires_at <= datetime.now(UTC) + timedelta(seconds=59)
    else:
        assert (response.status_code, response.data) == (206 if "Range" in headers else 200, b"0123456789")
        assert response.headers["Accept-Ranges"] == "bytes"


def test_a_redirect_expires_with_its_link():
    """A link that ends in ten seconds is no way to a link for a minute."""
    docs = docs_of({"backend": SigningStorage})
    request = docs._link_request("du", timedelta(seconds=10), None, None, {"max_size": 5, "ip": "203.0.113.0/24"})

    assert docs.short_link("a", request) == "https://service.example.com/a?signed"
    assert docs.request == LinkRequest(operations=ShareLinkOperation.download, expires_at=request.expires_at)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("constraints", [{"uses": 2}, {"ip": "127.0.0.0/8"}], ids=str)
def test_counted_links_and_head_are_answered_by_the_app(signing, method, constraints):
    """A redirect could be used again for a minute, and a link of the service is signed for one method."""
    docs = signing.extensions["storage"]["docs"]

    response = signing.test_client().open(path_of(docs.link_to("a.mp4", "d", HOUR, **constraints)), method=method)

    assert response.status_code == (302 if (method, *constraints) == ("GET", "ip") else 200)


def test_a_link_whose_disposition_the_service_cannot_sign_is_streamed():
    """It would be shown instead of saved."""

    class Undisposed(SigningStorage):
        capabilities = replace(SigningStorage.capabilities, link_constraints=frozenset())

    app = make_app({"backend": Undisposed})
    docs = app.extensions["storage"]["docs"]
    docs.write("a.txt", b"shown")

    response = app.test_client().get(path_of(docs.link_to("a.txt", "d", HOUR, disposition="inline")))

    assert (response.status_code, response.data) == (200, b"shown")


# -- other backends ---------------------------------------------------------------------------------------------------


class DeclaringStorage(MemoryStorage):
    """A backend that declares what its app links enforce, as backends once had to."""

    capabilities = replace(
        MemoryStorage.capabilities,
        links=~ShareLinkOperation(0),
        link_combinations=True,
        link_constraints=frozenset({"uses"}),
        upload_constraints=frozenset({"uses"}),
    )


class Wrapper(StorageBackend):
    """A storage that forwards to another, which is no storage of the app."""

    capabilities = Capabilities()

    def __init__(self, inner):
        super().__init__(inner.name)
        self._inner = inner

        self.capabilities = inner.capabilities

    def _link_to(self, path, request):
        return self._inner._link_to(path, request)


def test_backends_written_elsewhere_have_links_of_the_app():
    """One that declares the constraints of app links, and one that wraps another storage."""
    for storage in (DeclaringStorage("own"), Wrapper(MemoryStorage("own")), Wrapper(SigningStorage("own"))):
        docs = docs_of(storage)

        link = docs.link_to("a", "d", HOUR, uses=1)

        assert link.startswith(APP_URL)
        assert docs.verify_link(link.removeprefix(APP_URL)).path == "a"


def test_a_failing_storage_forwards_both_kinds_of_links():
    """Its calls are recorded in both cases."""
    failing = FailingStorage(SigningStorage("docs"))
    docs = docs_of(failing)

    links = [docs.link_to("a", "d", HOUR), docs.link_to("b", "d", HOUR, uses=1)]
    uploads = [docs.upload_request("c", HOUR), docs.upload_request("d", HOUR, uses=1)]

    assert [link.startswith(APP_URL) for link in links] == [upload.url.startswith(APP_URL) for upload in uploads]
    assert [call for call in docs.calls if call.name in ("link_to", "upload_request")] == [
        ("link_to", "a"),
        ("link_to", "b"),
        ("upload_request", "c"),
        ("upload_request", "d"),
    ]

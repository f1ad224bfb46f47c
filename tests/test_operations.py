"""`StorageOperations`, the mixin for models and views."""

import hashlib
import io
import uuid
from datetime import UTC, datetime, timedelta
from enum import Enum

import flask
import pytest

from flask_storage import (
    FileNotFoundInStorageError,
    IntegrityError,
    InvalidPathError,
    Storage,
    StorageOperations,
    UnknownProfileError,
    current_storage,
)
from flask_storage.signals import link_issued


class Folder(Enum):
    invoices = "accounting/invoices"
    photos = "photos/"
    root = ""


class Invoice(StorageOperations):
    storage_location = Folder.invoices
    storage_profile = "docs"


@pytest.fixture
def app(tmp_path):
    """An app with two profiles, in a request."""
    app = flask.Flask(__name__, instance_path=str(tmp_path))
    app.config.update(SECRET_KEY="s" * 32, STORAGE_PROFILES={"first": "memory:", "docs": "memory:"})
    Storage(app)
    with app.test_request_context():
        yield app


def names(profile):
    """Return the names of all files of a profile."""
    return [entry.name for entry in current_storage[profile].list()]


@pytest.mark.parametrize(
    ("location", "filename", "path"),
    [
        (Folder.invoices, "june.pdf", "accounting/invoices/june.pdf"),
        (Folder.photos, "a/b.jpg", "photos/a/b.jpg"),
        (None, "june.pdf", "june.pdf"),
        (Folder.root, "june.pdf", "june.pdf"),
        (Folder.invoices, ".env", "accounting/invoices/.env"),
        (Folder.invoices, "env", "accounting/invoices/env"),
    ],
)
def test_a_path_is_the_directory_and_the_name(location, filename, path):
    """Nothing is stripped, so `.env` and `env` stay two files."""
    assert StorageOperations.storage_prefix_path(location, filename) == path


@pytest.mark.parametrize("filename", ["../x", "../../tenant/x", "a/../../x", "", "a\\b", ".../../x"])
@pytest.mark.parametrize("location", [Folder.invoices, None])
def test_a_name_that_leaves_its_directory_is_refused(location, filename):
    """It is not sanitized."""
    with pytest.raises(InvalidPathError):
        StorageOperations.storage_prefix_path(location, filename)


@pytest.mark.parametrize(
    ("filename", "extension"),
    [
        ("foo.tar.gz", ".gz"),
        ("photo.JPG", ".JPG"),
        (".bashrc", ".bashrc"),
        ("README", ""),
        ("中文.png", ".png"),
        ("x.a/b", ""),
        ("x.", ""),
        ("x.ö", ""),
    ],
)
def test_a_generated_name_is_random_and_keeps_the_extension(filename, extension):
    """Also when the name has no extension."""
    name = StorageOperations.storage_generate_filename(filename)

    assert isinstance(name, str)
    assert name.endswith(extension)
    assert str(uuid.UUID(name.removesuffix(extension))) + extension == name


def test_the_profile_is_that_of_the_call_or_the_class_or_the_default(app):
    """In this order."""
    assert Invoice.storage_get_profile() is current_storage["docs"]
    assert Invoice.storage_get_profile("first") is current_storage["first"]
    assert StorageOperations.storage_get_profile() is current_storage["first"]
    with pytest.raises(UnknownProfileError):
        Invoice.storage_get_profile("dosc")


@pytest.mark.parametrize("filename", ["june.pdf", "README", "中文.png"])
def test_an_upload_gets_a_random_name_and_can_be_downloaded(app, filename):
    """Also when its name has no extension, or no ASCII characters."""
    name = Invoice.storage_upload_file(io.BytesIO(b"content"), filename)

    assert isinstance(name, str)
    assert names("docs") == [f"accounting/invoices/{name}"]
    content = Invoice.storage_download_file(name)
    assert content.tell() == 0
    assert content.read() == b"content"


def test_a_preserved_name_is_sanitized_and_replaces_the_file(app):
    """A user-supplied name is not trusted."""
    first = Invoice.storage_upload_file(io.BytesIO(b"1"), "../my <file>.pdf", preserve_filename=True)
    second = Invoice.storage_upload_file(io.BytesIO(b"2"), "../my <file>.pdf", preserve_filename=True)

    assert first == second == "my _file_.pdf"
    assert Invoice.storage_download_file(first).read() == b"2"


def test_every_argument_of_an_upload_is_used(app):
    """Directory, profile, content type and encoding."""
    name = Invoice.storage_upload_file(
        io.BytesIO(b"1"),
        "a.txt",
        storage_location=Folder.photos,
        storage_profile="first",
        content_type="text/x-note",
        content_encoding="gzip",
    )

    info = current_storage["first"].stat(f"photos/{name}")
    assert (info.content_type, info.content_encoding) == ("text/x-note", "gzip")
    assert names("docs") == []


def test_a_call_can_select_the_root(app):
    """Although the class has a directory."""
    name = Invoice.storage_upload_file(io.BytesIO(b"1"), "a.txt", storage_location=Folder.root)

    assert names("docs") == [name]


def test_every_argument_of_a_form_upload_is_used(app):
    """keg-storage ignored directory and profile here."""
    form = {"file": (io.BytesIO(b"form"), "a.txt")}

    with app.test_request_context(method="POST", data=form):
        name = Invoice.storage_upload_form_file(
            "file", storage_location=Folder.photos, storage_profile="first", content_type="text/x-note"
        )

    assert names("first") == [f"photos/{name}"]
    assert current_storage["first"].stat(f"photos/{name}").content_type == "text/x-note"
    assert current_storage["first"].read(f"photos/{name}") == b"form"


def test_a_form_upload_uses_the_directory_and_profile_of_the_class(app):
    """And can preserve the name."""
    with app.test_request_context(method="POST", data={"file": (io.BytesIO(b"form"), "a.txt")}):
        name = Invoice.storage_upload_form_file("file", preserve_filename=True)

    assert name == "a.txt"
    assert names("docs") == ["accounting/invoices/a.txt"]


@pytest.mark.parametrize(
    "field", [{}, {"file": "text"}, {"file": (io.BytesIO(), "")}, {"file": (io.BytesIO(b"1"), "")}]
)
def test_a_form_without_a_file_is_a_bad_request(app, field):
    """Browsers send an empty file without a name where the user has selected none; it replaces nothing."""
    Invoice.storage_upload_file(io.BytesIO(b"kept"), "file", preserve_filename=True)
    app.add_url_rule(
        "/up", view_func=lambda: Invoice.storage_upload_form_file("file", preserve_filename=True), methods=["POST"]
    )

    response = app.test_client().post("/up", data=field, content_type="multipart/form-data")

    assert response.status_code == 400
    assert names("docs") == ["accounting/invoices/file"]
    assert Invoice.storage_download_file("file").read() == b"kept"


def test_deleting_is_idempotent(app):
    """It returns True, as in keg-storage."""
    name = Invoice.storage_upload_file(io.BytesIO(b"1"), "a.txt")

    assert Invoice.storage_delete_file(name) is True
    assert Invoice.storage_delete_file(name) is True
    with pytest.raises(FileNotFoundInStorageError):
        Invoice.storage_download_file(name)


def test_a_duplicate_is_an_independent_file(app):
    """In the same directory, under a new random name with the same extension."""
    name = Invoice.storage_upload_file(io.BytesIO(b"1"), "a.txt", storage_location=Folder.photos)

    copy = Invoice.storage_duplicate_file(name, storage_location=Folder.photos)

    assert copy != name
    assert copy.endswith(".txt")
    assert names("docs") == sorted([f"photos/{name}", f"photos/{copy}"])


def test_a_download_link_downloads_the_file(app):
    """With the given name and content type."""
    name = Invoice.storage_upload_file(io.BytesIO(b"hello"), "a.txt")

    link = Invoice.storage_get_download_link(name, 5, output_path="june.txt", content_type="text/plain", uses=1)

    response = app.test_client().get(link)
    assert response.data == b"hello"
    assert "june.txt" in response.headers["Content-Disposition"]
    assert app.test_client().get(link).status_code == 403


def test_a_link_without_an_expiry_lives_for_the_lifetime_of_the_app(app):
    """For every kind of link."""
    docs = current_storage["docs"]
    links = []

    def remember(_, path, request):
        links.append(request.expires_at)

    with link_issued.connected_to(remember, sender=docs):
        Invoice.storage_get_download_link("a.txt")
        Invoice.storage_get_upload_link("a.txt")
        Invoice.storage_get_upload_request("a.txt")

    rest = [expires_at - datetime.now(UTC) for expires_at in links]
    assert len(rest) == 3
    assert all(docs.link_lifetime - timedelta(minutes=1) < left <= docs.link_lifetime for left in rest)


def test_an_upload_link_is_returned_with_the_name_of_the_file(app):
    """A new name, whose extension cannot contain a path separator."""
    link, name = Invoice.storage_get_upload_link("x.pdf", 5, content_type="application/pdf", max_size=10)

    assert app.test_client().put(link, data=b"x" * 11).status_code == 413
    assert app.test_client().put(link, data=b"x").status_code == 200
    assert current_storage["docs"].stat(f"accounting/invoices/{name}").content_type == "application/pdf"


def test_an_upload_request_is_returned_with_the_name_of_the_file(app):
    """It has everything that the client must send; afterwards the upload is confirmed under that name."""
    request, name = Invoice.storage_get_upload_request("x.pdf", 5, content_type="application/pdf", max_size=10)
    other, other_name = Invoice.storage_get_upload_request("x", 5, Folder.photos, "first", exclusive=True)

    responses = [
        app.test_client().open(each.url, method=each.method, headers=dict(each.headers), data=b"12345")
        for each in (request, other, other)
    ]

    assert [response.status_code for response in responses] == [200, 200, 409]
    assert (names("docs"), names("first")) == ([f"accounting/invoices/{name}"], [f"photos/{other_name}"])
    assert Invoice.storage_confirm_upload(name, size=5, max_size=10, content_type="application/pdf").size == 5
    checksum = f"md5:{hashlib.md5(b'54321').hexdigest()}"
    with pytest.raises(IntegrityError):
        Invoice.storage_confirm_upload(other_name, Folder.photos, "first", checksum=checksum)
    assert names("first") == []
    assert Invoice.storage_confirm_upload(name, move_to="checked.pdf").path == "accounting/invoices/checked.pdf"
    assert names("docs") == ["accounting/invoices/checked.pdf"]


def test_an_upload_form_is_returned_with_the_name_of_the_file(app):
    """In the directory and the profile of the class, or of the call."""
    form, name = Invoice.storage_create_upload_form("x.pdf", 5, content_type="application/pdf", max_size=10, uses=1)
    other, other_name = Invoice.storage_create_upload_form(
        "x", 5, Folder.photos, "first", max_size=10, min_size=2, redirect_to="https://example.com/done"
    )

    responses = [
        app.test_client().post(each.url, data={**each.fields, "file": (io.BytesIO(b"12345"), "a.pdf")})
        for each in (form, form, other)
    ]

    assert [response.status_code for response in responses] == [204, 403, 303]
    assert (names("docs"), names("first")) == ([f"accounting/invoices/{name}"], [f"photos/{other_name}"])
    assert Invoice.storage_confirm_upload(name, content_type="application/pdf").size == 5


def test_a_file_can_be_opened_and_described(app):
    """In the directory and the profile of the class, or of the call."""
    with Invoice.storage_open_file("a.txt", "w", content_type="text/x-note") as file:
        file.write(b"content")
    with Invoice.storage_open_file("b.txt", "w", Folder.photos, "first") as file:
        file.write(b"other")

    with (
        Invoice.storage_open_file("a.txt") as file,
        Invoice.storage_open_file("b.txt", "r", Folder.photos, "first") as b,
    ):
        assert (file.read(), b.read()) == (b"content", b"other")
    assert Invoice.storage_get_path("a.txt") == "accounting/invoices/a.txt"
    assert Invoice.storage_get_path("a.txt", Folder.photos) == "photos/a.txt"
    assert Invoice.storage_stat_file("a.txt").content_type == "text/x-note"
    assert Invoice.storage_stat_file("b.txt", Folder.photos, "first").size == 5
    assert Invoice.storage_file_exists("a.txt") is True
    assert Invoice.storage_file_exists("b.txt", Folder.photos, "first") is True
    assert Invoice.storage_file_exists("b.txt") is Invoice.storage_file_exists("a.txt", Folder.photos) is False


def test_the_mixin_works_on_instances_too(app):
    """As in keg-storage."""
    invoice = Invoice()

    name = invoice.storage_upload_file(io.BytesIO(b"1"), "a.txt")

    assert invoice.storage_download_file(name).read() == b"1"

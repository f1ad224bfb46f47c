"""The example app, tested without a browser."""

import html
import io
import json
import re
import stat
import subprocess
import sys
import tomllib
import zipfile
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from example_app import config, create_app, routes
from example_app.archive import stream_zip
from example_app.file_types import file_type_of
from example_app.formats import filesize
from example_app.secret_key import load_or_create
from flask_storage import StorageUnavailableError, current_storage
from flask_storage.signals import file_read

ROOT = Path(__file__).parent.parent
LATER = datetime(9999, 1, 1, tzinfo=UTC)


class Visitor:
    """A client with its own cookie that sends the page's CSRF token."""

    def __init__(self, app):
        self.client = app.test_client()
        page = self.client.get("/").text
        [token] = re.findall(r'name="csrf-token" content="([^"]+)"', page)
        self.headers = {"X-CSRF-Token": token}

    def post(self, url, body):
        """Send JSON as the page's script does."""
        return self.client.post(url, json=body, headers={**self.headers, "Accept": "application/json"})

    def upload(self, name, content):
        """Request a link and send the content to it; return the presigned upload and the response."""
        presigned = self.post("/uploads", {"name": name, "size": len(content)}).json
        response = self.client.open(
            path_of(presigned["url"]),
            method=presigned["method"],
            headers=presigned["headers"],
            data=content,
            content_length=len(content),  # also for an empty body, as browsers do
        )
        return presigned, response

    def confirm(self, presigned):
        """Confirm an upload as the page's script does."""
        return self.post("/uploads/done", {"upload_token": presigned["upload_token"]})

    def shared_link(self, page):
        """Return the path of the link to the file on the page for its recipient."""
        [url] = re.findall(r'href="([^"]+)" rel="noreferrer"', self.client.get(urlsplit(page).path).text)
        return path_of(html.unescape(url))

    def names(self):
        """Return the file names on the page, in order."""
        return [html.unescape(name) for name in re.findall(r'data-name="([^"]*)"', self.client.get("/").text)]


def test_the_script_installs_what_each_backend_of_the_examples_needs(tmp_path):
    """So that a profile in an environment variable is enough to use another backend."""
    [installed] = re.findall(r"'\.\[(.*)\]'", (ROOT / "example_app/run").read_text())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    backends = {profile["backend"] for profile in config.as_mapping(tmp_path).values()}

    assert {"azure", "s3", "sftp"} <= backends & set(extras) <= set(installed.split(","))


def path_of(url):
    """Return a URL without its host, for the test client."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


@pytest.fixture
def app(tmp_path):
    """The app with an instance folder and no other configuration."""
    return create_app(str(tmp_path / "instance"))


@pytest.fixture
def visitor(app):
    """A visitor of the app."""
    return Visitor(app)


# -- configuration ----------------------------------------------------------------------------------------------------


def test_the_app_runs_without_configuration(app, visitor):
    """Files are stored in the instance folder."""
    visitor.upload("a.txt", b"content")

    assert visitor.names() == ["a.txt"]
    assert [file.read_bytes() for file in Path(app.instance_path, "files").rglob("*.txt")] == [b"content"]


@pytest.mark.parametrize(
    "profiles",
    ['{"drop": "memory:"}', '{"drop": {"backend": "memory"}}', '[["memory", {"name": "drop"}]]'],
    ids=["url", "mapping", "pairs"],
)
def test_an_environment_variable_selects_another_backend(monkeypatch, tmp_path, profiles):
    """The app works as before, and writes no file."""
    monkeypatch.setenv("FLASK_STORAGE_PROFILES", profiles)
    app = create_app(str(tmp_path / "instance"))
    visitor = Visitor(app)

    visitor.upload("a.txt", b"content")

    assert visitor.names() == ["a.txt"]
    assert not Path(app.instance_path, "files").exists()


def test_an_environment_variable_can_change_one_value_of_a_profile(monkeypatch, tmp_path):
    """Here the root directory."""
    monkeypatch.setenv("FLASK_STORAGE_PROFILES__drop__root", str(tmp_path / "elsewhere"))
    visitor = Visitor(create_app(str(tmp_path / "instance")))

    visitor.upload("a.txt", b"content")

    assert [file.name for file in (tmp_path / "elsewhere").rglob("*.txt")] == ["a.txt"]


@pytest.mark.parametrize(
    ("trusted", "host", "status"),
    [
        (None, "localhost:5000", 200),
        (None, "127.0.0.1:5001", 200),
        (None, "files.example.com", 400),
        (None, "127.0.0.1.files.example.com", 400),
        ('["files.example.com"]', "files.example.com", 200),
        ('["files.example.com"]', "localhost", 400),
    ],
)
def test_the_app_answers_only_at_its_own_address(monkeypatch, tmp_path, trusted, host, status):
    """A page on the internet whose name points to this machine cannot read the files; the error says what to do."""
    if trusted:
        monkeypatch.setenv("FLASK_TRUSTED_HOSTS", trusted)
    client = create_app(str(tmp_path / "instance")).test_client()

    responses = [client.get(path, headers={"Host": host}) for path in ("/", "/storage/drop?token=x")]

    assert [response.status_code for response in responses] == [status, 403 if status == 200 else 400]
    assert status == 200 or all("FLASK_TRUSTED_HOSTS" in response.text for response in responses)


FORMS = [config.as_mapping, config.as_pairs, config.as_urls]


def local_profiles(profiles):
    """Return the profiles that need no service and no optional package."""
    if isinstance(profiles, dict):
        return {name: value for name, value in profiles.items() if name not in {"bucket", "container", "server"}}
    return [(backend, arguments) for backend, arguments in profiles if backend not in {"azure", "s3", "sftp"}]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_the_example_configuration_works(tmp_path, form):
    """Each profile can be written and read; all forms have the same profiles and default."""
    app = create_app(str(tmp_path), {"STORAGE_PROFILES": local_profiles(form(tmp_path))})

    with app.app_context():
        assert list(current_storage) == ["drop", "public", "scratch"]
        assert current_storage.default_name == "drop"
        for storage in current_storage.values():
            storage.write("a.txt", b"content")
            assert storage.read("a.txt") == b"content"


def test_files_of_the_public_profile_are_readable_by_other_users(tmp_path):
    """All three forms have the same modes, so that a web server can read the files."""
    for form in FORMS:
        app = create_app(str(tmp_path), {"STORAGE_PROFILES": local_profiles(form(tmp_path))})
        with app.app_context():
            storage = current_storage["public"]
            storage.write("folder/a.txt", b"")

        assert stat.S_IMODE((tmp_path / "public/folder/a.txt").stat().st_mode) == 0o644
        assert stat.S_IMODE((tmp_path / "public/folder").stat().st_mode) == 0o755
        assert storage.url("folder/a.txt") == "https://media.example.com/folder/a.txt"
        storage.delete("folder/a.txt")


# -- the secret key ---------------------------------------------------------------------------------------------------


def test_links_survive_a_restart(tmp_path):
    """The key is created once, readable by its owner only."""
    first = create_app(str(tmp_path))

    second = create_app(str(tmp_path))

    assert first.config["SECRET_KEY"] == second.config["SECRET_KEY"]
    assert len(first.config["SECRET_KEY"]) == 64
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600


def test_a_configured_secret_key_is_used(monkeypatch, tmp_path):
    """With FLASK_SECRET_KEY no key file is created."""
    monkeypatch.setenv("FLASK_SECRET_KEY", "k" * 32)

    app = create_app(str(tmp_path))

    assert app.config["SECRET_KEY"] == "k" * 32
    assert not (tmp_path / "secret_key").exists()


def test_workers_that_start_together_get_the_same_key(tmp_path):
    """Many processes create the key concurrently; no temporary files remain."""
    program = (
        "import sys; from pathlib import Path; sys.path.append(sys.argv[1]); sys.stdin.read(); "
        "from example_app.secret_key import load_or_create; "
        "sys.stdout.write(load_or_create(Path(sys.argv[2])).hex())"
    )
    command = [sys.executable, "-c", program, str(ROOT), str(tmp_path / "instance" / "secret_key")]
    with ExitStack() as stack:
        workers = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(8)
        ]

        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.close()  # starts the worker
        keys = set()
        for worker in workers:
            assert worker.stdout is not None
            keys.add(worker.stdout.read())

    assert len(keys) == 1
    assert len(keys.pop()) == 128
    assert [file.name for file in (tmp_path / "instance").iterdir()] == ["secret_key"]


def test_a_worker_that_loses_the_race_uses_the_existing_key(tmp_path, monkeypatch):
    """It path no key file when it checked."""
    file = tmp_path / "secret_key"
    file.write_bytes(b"first")
    monkeypatch.setattr(Path, "exists", lambda _: False)  # a race condition that a test cannot produce

    assert load_or_create(file) == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["secret_key"]


# -- uploads ----------------------------------------------------------------------------------------------------------


def test_two_files_of_the_same_name_are_stored_separately(visitor):
    """Neither replaces the other."""
    visitor.upload("photo.jpg", b"one")
    visitor.upload("photo.jpg", b"two")

    assert visitor.names() == ["photo.jpg", "photo.jpg"]


@pytest.mark.parametrize(
    ("name", "stored_name"),
    [
        ("Grüße (2), 東京.txt", "Grüße (2), 東京.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\photo.jpg", "photo.jpg"),
        ("<img src=x>.html", "_img src_x_.html"),
        ("con.txt", "_con.txt"),
        ("a\r\nSet-Cookie: b.txt", "a__Set-Cookie_ b.txt"),
        ("exe\u202egpj.exe", "exe_gpj.exe"),
        (".fs-tmp-x", "_fs-tmp-x"),
        ("x" * 300 + ".txt", "x" * 251 + ".txt"),
    ],
)
def test_a_name_that_is_valid_on_every_system_is_kept(visitor, name, stored_name):
    """Others are sanitized; no name leads out of its directory."""
    presigned, response = visitor.upload(name, b"1")

    assert response.status_code == 200
    assert presigned["path"].partition("/")[2] == stored_name
    assert visitor.names() == [stored_name]


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        {},
        {"name": "a"},
        {"name": "a", "size": -1},
        {"name": "a", "size": True},
        {"name": 1, "size": 1},
        {"name": "", "size": 1},
    ],
)
def test_an_upload_requires_a_name_and_a_size(visitor, payload):
    """Otherwise the response is 400 with an explanation."""
    response = visitor.post("/uploads", payload)

    assert response.status_code == 400
    assert response.json["error"] == "An upload needs a name and a size."


def test_an_upload_link_allows_only_the_announced_upload(app, visitor):
    """Another size is refused, and so is a file above the limit; a second upload does not change a confirmed file."""
    app.config["DROP_MAX_UPLOAD_SIZE"] = 10
    presigned = visitor.post("/uploads", {"name": "a.txt", "size": 3}).json
    url = path_of(presigned["url"])

    assert visitor.client.put(url, data=b"four").status_code == 413
    assert visitor.client.put(url, data=b"12").status_code == 400
    assert visitor.names() == []
    assert visitor.client.put(url, data=b"123").status_code == 200
    path = visitor.confirm(presigned).json["path"]
    assert visitor.client.put(url, data=b"456").status_code == 200
    with app.app_context():
        assert current_storage.default.read(path) == b"123"
    refused = visitor.post("/uploads", {"name": "a.txt", "size": 11})
    assert refused.status_code == 413
    assert refused.json["error"] == "A file may have up to 10 bytes."


def test_an_uploaded_file_is_verified(app, visitor):
    """One that differs from what was announced is deleted: some services do not enforce it."""
    announced, _ = visitor.upload("a.txt", b"123")
    other, _ = visitor.upload("b.txt", b"123")
    missing = visitor.post("/uploads", {"name": "c.txt", "size": 3}).json
    with app.app_context():
        current_storage.default.write(other["path"], b"four")

    responses = [visitor.confirm(presigned) for presigned in (announced, other, missing)]

    assert [response.status_code for response in responses] == [200, 400, 404]
    assert responses[1].json["error"].startswith("The file changed during the upload")
    assert visitor.names() == ["a.txt"]


@pytest.mark.parametrize(
    "payload", [None, [], {}, {"upload_token": ""}, {"upload_token": ["a.txt", 1]}, {"upload_token": "WyJhIiwxXQ.x"}]
)
def test_only_an_upload_with_a_signed_token_can_be_confirmed(visitor, payload):
    """A client must not have another file deleted."""
    response = visitor.post("/uploads/done", payload)

    assert response.status_code == 400
    assert response.json["error"].startswith("This upload is unknown")


def test_an_upload_of_another_size_is_refused(visitor):
    """The link is signed with the size; nothing is stored."""
    presigned = visitor.post("/uploads", {"name": "a.txt", "size": 2}).json

    response = visitor.client.put(path_of(presigned["url"]), data=b"123", headers=presigned["headers"])

    assert response.status_code == 413
    assert visitor.names() == []


def test_the_form_uploads_files(visitor):
    """Several files, and empty fields, as browsers without scripts send them."""
    token = visitor.headers["X-CSRF-Token"]
    files = [(io.BytesIO(b"1"), "a.txt"), (io.BytesIO(b"2"), "b.txt"), (io.BytesIO(b""), "")]

    response = visitor.client.post("/files", data={"csrf_token": token, "files": files})

    assert response.status_code == 303
    assert sorted(visitor.names()) == ["a.txt", "b.txt"]


def test_a_form_upload_above_the_limit_is_refused_with_a_page(tmp_path):
    """The page states the limit."""
    app = create_app(str(tmp_path), {"DROP_MAX_UPLOAD_SIZE": 10})
    visitor = Visitor(app)
    content = b"x" * (10 + config.FORM_OVERHEAD)
    data = {"csrf_token": visitor.headers["X-CSRF-Token"], "files": (io.BytesIO(content), "a.txt")}

    response = visitor.client.post("/files", data=data)

    assert response.status_code == 413
    assert "The file is too large" in response.text
    assert visitor.names() == []


# -- the list ---------------------------------------------------------------------------------------------------------


def test_the_newest_files_are_listed_and_all_are_counted(app, visitor):
    """The list is limited; number and total size are those of all files."""
    app.config["DROP_LISTED_FILES"] = 2
    for name in ("first", "second", "third"):
        visitor.upload(name, b"1234")

    page = visitor.client.get("/").text

    assert visitor.names() == ["third", "second"]
    assert "3 files · 12 bytes" in page
    assert "The newest 2 of 3 files." in page


def test_the_page_has_no_inline_script_or_style(visitor):
    """And the content security policy forbids them."""
    visitor.upload('"><script>alert(1)</script>.txt', b"")
    response = visitor.client.get("/")

    scripts = re.findall(r"<script[^>]*>", response.text)
    assert scripts == ['<script type="module" src="/static/drop.js">']
    assert not re.search(r"\son\w+=|\sstyle=|javascript:", response.text)
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_links_on_another_host_are_allowed_by_the_policy(tmp_path):
    """For previews and uploads; other hosts are forbidden."""
    app = create_app(str(tmp_path), {"STORAGE_EXTERNAL_URL": "https://files.example.com"})

    policy = app.test_client().get("/").headers["Content-Security-Policy"]

    assert "connect-src 'self' https://files.example.com;" in policy
    assert "script-src 'self';" in policy


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, ["b.txt", "Ähre.txt", "c.txt"]),
        ({"sort": "newest"}, ["b.txt", "Ähre.txt", "c.txt"]),
        ({"sort": "name"}, ["b.txt", "c.txt", "Ähre.txt"]),
        ({"sort": "largest"}, ["c.txt", "Ähre.txt", "b.txt"]),
        ({"sort": "unknown", "q": " "}, ["b.txt", "Ähre.txt", "c.txt"]),
        ({"q": "äHRE"}, ["Ähre.txt"]),
        ({"q": ".txt", "sort": "name"}, ["b.txt", "c.txt", "Ähre.txt"]),
    ],
)
def test_the_list_can_be_searched_and_sorted(visitor, query, names):
    """By a part of the name, in any case, without a script; the totals are those of all files."""
    for name, content in (("c.txt", b"333"), ("Ähre.txt", b"22"), ("b.txt", b"1")):
        visitor.upload(name, content)

    page = visitor.client.get("/", query_string=query).text

    assert [html.unescape(name) for name in re.findall(r'data-name="([^"]*)"', page)] == names
    assert "3 files · 6 bytes" in page


def test_a_search_without_result_and_its_text_are_shown(visitor):
    """The text is escaped, and a link leads back to all files."""
    visitor.upload("a.txt", b"1")
    visitor.upload("b.txt", b"1")

    page = visitor.client.get("/", query_string={"q": "<b>"}).text

    assert "No file has “&lt;b&gt;” in its name" in page
    assert "Show all 2 files" in page


# -- several files ----------------------------------------------------------------------------------------------------


def selected(visitor, action, *paths, **form):
    """Send the form of the selection."""
    form |= {"csrf_token": visitor.headers["X-CSRF-Token"], "action": action, "path": list(paths)}
    return visitor.client.post("/selection", data=form)


def test_several_files_are_downloaded_as_one_zip_file(visitor):
    """Files of one name get numbers; empty files, and a file that is selected twice, are there once."""
    contents = {"a.txt": b"1" * 100_000, "A.txt": b"2", "b.png": b""}
    paths = [visitor.upload(name, content)[0]["path"] for name, content in contents.items()]

    response = selected(visitor, "zip", *paths, paths[0])

    assert response.headers["Content-Disposition"] == 'attachment; filename="drop.zip"'
    with zipfile.ZipFile(io.BytesIO(response.data)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "a.txt": b"1" * 100_000,
            "A (2).txt": b"2",
            "b.png": b"",
        }


def test_a_zip_file_is_sent_while_the_files_are_read(app, visitor):
    """The second file is opened when the first one has been sent."""
    paths = [visitor.upload(name, b"x" * 1000)[0]["path"] for name in ("a", "b")]
    opened = []
    with app.app_context():
        backend = current_storage.default
        infos = [backend.stat(path) for path in paths]

        def record(sender, path):
            opened.append(path)

        with file_read.connected_to(record):
            chunks = stream_zip(backend, infos)
            next(chunks)
            opened_first = list(opened)
            rest = b"".join(chunks)

    assert opened_first == paths[:1]
    assert opened == paths
    assert rest


def test_several_files_are_deleted_after_a_confirmation(visitor):
    """The page names them."""
    paths = [visitor.upload(name, b"1")[0]["path"] for name in ("a.txt", "<b>.txt", "c.txt")]

    question = selected(visitor, "delete", *paths[:2]).text
    names = visitor.names()
    done = selected(visitor, "delete", *paths[:2], confirmed="yes")

    assert "Delete 2 files?" in question
    assert "_b_.txt" in question
    assert sorted(names) == ["_b_.txt", "a.txt", "c.txt"]
    assert (done.status_code, visitor.names()) == (303, ["c.txt"])


@pytest.mark.parametrize(
    ("action", "paths", "status"),
    [
        ("zip", [], 400),
        ("delete", [], 400),
        ("publish", ["a/b"], 400),
        ("zip", ["a/b"], 404),
        ("zip", ["../b"], 400),
    ],
)
def test_a_wrong_selection_is_an_error_page(visitor, action, paths, status):
    """No file, an unknown action, a file that does not exist, an invalid path."""
    assert selected(visitor, action, *paths).status_code == status


# -- one file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "disposition", "content_type"),
    [
        ("a.png", "inline", "image/png"),
        ("a.txt", "inline", "text/plain"),
        ("a.pdf", "inline", "application/pdf"),
        ("a.webm", "inline", "video/webm"),
        ("a.html", "attachment", "application/octet-stream"),
        ("a.svg", "attachment", "application/octet-stream"),
        ("a.xhtml", "attachment", "application/octet-stream"),
        ("a.js", "attachment", "application/octet-stream"),
        ("a", "attachment", "application/octet-stream"),
    ],
)
def test_only_types_that_cannot_run_scripts_are_shown(visitor, name, disposition, content_type):
    """Images, videos, PDF and text are inline, all other types are attachments."""
    path = visitor.upload(name, b"<svg onload=alert(1)>")[0]["path"]

    opened = visitor.client.get(f"/open/{path}")
    response = visitor.client.get(path_of(opened.location))

    assert opened.status_code == 303
    assert response.headers["Content-Disposition"] == f"{disposition}; filename={json.dumps(name)}"
    assert response.mimetype == content_type


def test_a_download_is_always_an_attachment(visitor):
    """Also an image."""
    path = visitor.upload("a.png", b"1")[0]["path"]

    response = visitor.client.get(f"/download/{path}", follow_redirects=True)

    assert response.headers["Content-Disposition"] == 'attachment; filename="a.png"'


@pytest.mark.parametrize("lifetime", ["minutes", "hour", "day", "once"])
def test_a_shared_link_works_as_often_as_chosen(visitor, lifetime):
    """The choice "1 download" works once, the others repeatedly."""
    path = visitor.upload("a.txt", b"shared")[0]["path"]

    shared = visitor.post(f"/share/{path}", {"lifetime": lifetime}).json

    url = visitor.shared_link(shared["url"])
    assert visitor.client.get(url).data == b"shared"
    assert shared["once"] == (lifetime == "once")
    assert visitor.client.get(url).status_code == (403 if lifetime == "once" else 200)


def test_the_page_of_a_shared_file_uses_nothing_up(visitor):
    """Chat programs fetch links to preview them; the page has no link to the other files."""
    path = visitor.upload("<Ä>.txt", b"shared")[0]["path"]
    url = urlsplit(visitor.post(f"/share/{path}", {"lifetime": "once"}).json["url"]).path

    pages = [visitor.client.get(url) for _ in range(3)]

    assert [page.status_code for page in pages] == [200, 200, 200]
    assert "_Ä_.txt" in pages[0].text
    assert "6 bytes" in pages[0].text
    assert "for one download" in pages[0].text
    assert 'href="/"' not in pages[0].text
    assert (pages[0].headers["Cache-Control"], pages[0].headers["Referrer-Policy"]) == ("no-store", "no-referrer")
    assert visitor.client.get(visitor.shared_link(url)).data == b"shared"


def test_the_page_of_a_shared_file_ends_with_its_link(app, visitor, monkeypatch):
    """After the expiry, for a changed address, and when the file was deleted."""
    path = visitor.upload("a.txt", b"shared")[0]["path"]
    url = urlsplit(visitor.post(f"/share/{path}", {"lifetime": "hour"}).json["url"]).path
    monkeypatch.setitem(routes.LIFETIMES, "hour", routes.LIFETIMES["hour"]._replace(time=timedelta(seconds=1)))
    short = urlsplit(visitor.post(f"/share/{path}", {"lifetime": "hour"}).json["url"]).path
    page, changed = visitor.client.get(url), visitor.client.get(f"{url}x")
    monkeypatch.setattr(routes, "datetime", type("Later", (datetime,), {"now": lambda zone=None: LATER}))
    expired = visitor.client.get(short)
    monkeypatch.undo()
    with app.app_context():
        current_storage.default.delete(path)
    deleted = visitor.client.get(url)

    assert [answer.status_code for answer in (page, changed, expired, deleted)] == [200, 403, 403, 404]
    assert "This link does not work" in changed.text
    assert "Back to the files" not in changed.text + expired.text + deleted.text


def test_a_shared_page_has_the_address_that_browsers_use(tmp_path):
    """That of the setting, also below a path, or that of the request."""
    app = create_app(str(tmp_path), {"STORAGE_EXTERNAL_URL": "https://drop.example/files"})
    visitor = Visitor(app)
    path = "a/b.txt"
    with app.app_context():
        current_storage.default.write(path, b"1")

    url = visitor.post(f"/share/{path}", {"lifetime": "day"}).json["url"]

    assert url.startswith("https://drop.example/files/shared/")


@pytest.mark.parametrize("payload", [None, [], {}, {"lifetime": "forever"}])
def test_a_link_with_another_lifetime_is_refused(visitor, payload):
    """Only the offered lifetimes are valid."""
    path = visitor.upload("a.txt", b"")[0]["path"]

    assert visitor.post(f"/share/{path}", payload).status_code == 400


def test_an_invalid_link_is_a_page_in_browsers_and_plain_text_elsewhere(visitor):
    """Both have the same status."""
    url = "/storage/drop?token=damaged"

    browser = visitor.client.get(url, headers={"Accept": "text/html,*/*;q=0.8"})
    program = visitor.client.get(url, headers={"Accept": "*/*"})

    assert (browser.status_code, program.status_code) == (403, 403)
    assert "This link does not work" in browser.text
    assert "Back to the files" not in browser.text
    assert program.mimetype == "text/plain"


def test_deleting_requires_a_confirmation(visitor):
    """Without it, the response is a page that asks."""
    path = visitor.upload("a.txt", b"")[0]["path"]
    form = {"csrf_token": visitor.headers["X-CSRF-Token"]}

    confirmation = visitor.client.post(f"/delete/{path}", data=form)
    assert "Delete a.txt?" in confirmation.text
    assert visitor.names() == ["a.txt"]

    response = visitor.client.post(f"/delete/{path}", data={**form, "confirmed": "yes"})
    assert response.status_code == 303
    assert visitor.names() == []


@pytest.mark.parametrize("method", ["get /open", "get /download", "post /share"])
def test_a_missing_file_is_not_found(visitor, method):
    """With an error page."""
    http_method, url = method.split()

    response = visitor.client.open(
        f"{url}/nothing/here.txt", method=http_method, json={"lifetime": "day"}, headers=visitor.headers
    )

    assert response.status_code == 404
    assert "File not found" in response.text
    assert "Back to the files" in response.text


@pytest.mark.parametrize("path", ["a/%2e%2e/b", "..%2f..%2fetc%2fpasswd", "a%00b", "a%5cb"])
def test_an_invalid_path_is_refused(visitor, path):
    """No path leads out of the storage."""
    assert visitor.client.get(f"/download/{path}").status_code in (400, 404)


# -- CSRF and cookies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["/uploads", "/uploads/done", "/files", "/selection", "/share/a", "/delete/a?confirmed=yes"]
)
@pytest.mark.parametrize("token", [None, "", "wrong", "wröng"])
def test_a_request_without_a_csrf_token_changes_nothing(visitor, url, token):
    """Nor one with a wrong token."""
    response = visitor.client.post(url, headers={} if token is None else {"X-CSRF-Token": token})

    assert response.status_code == 400
    assert "This page is out of date" in response.text


def test_a_csrf_token_is_valid_for_its_own_session_only(app, visitor):
    """An attacker cannot use their own token with another user's cookie."""
    attacker = Visitor(app)
    attacker.headers = visitor.headers

    assert attacker.post("/uploads", {"name": "a", "size": 1}).status_code == 400


def test_a_cross_site_request_is_refused_even_with_the_token(visitor):
    """Browsers mark it with Sec-Fetch-Site."""
    visitor.headers["Sec-Fetch-Site"] = "cross-site"

    assert visitor.post("/uploads", {"name": "a", "size": 1}).status_code == 400


def test_the_session_cookie_is_protected(app):
    """It has the app's own name, scripts cannot read it, and other sites do not send it."""
    client = app.test_client()

    cookie = client.get("/").headers["Set-Cookie"]

    assert cookie.startswith("drop_session=")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


# -- errors -----------------------------------------------------------------------------------------------------------


def test_an_unavailable_storage_is_reported(app, visitor, monkeypatch):
    """With a page and status 503."""

    def unavailable(*_args, **_options):
        raise StorageUnavailableError("out of reach")

    with app.app_context():
        monkeypatch.setattr(type(current_storage.default), "_stat", unavailable)

    response = visitor.client.get("/open/a/b.txt")

    assert response.status_code == 503
    assert "The storage is unavailable" in response.text


def test_an_unexpected_error_is_logged(app, visitor, caplog):
    """A symbolic link among the files: the response is 500."""
    Path(app.instance_path, "files", "secret.txt").symlink_to("/etc/passwd")

    response = visitor.client.get("/open/secret.txt")

    assert response.status_code == 500
    assert "Something went wrong" in response.text
    assert "the storage failed" in caplog.text


def test_an_unknown_url_is_an_error_page_of_the_app(visitor):
    """So is a method that is not allowed, with the Allow header."""
    assert "File not found" in visitor.client.get("/favicon.ico").text
    response = visitor.client.put("/")
    assert response.status_code == 405
    assert "GET" in response.headers["Allow"]


# -- sizes and file types ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1049, "1 kB"),
        (99_949, "99.9 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (1_000_000_000, "1 GB"),
        (10**16, "10000 TB"),
    ],
)
def test_sizes_are_human_readable(size, text):
    """Three digits and a unit."""
    assert filesize(size) == text


def test_the_file_type_depends_on_the_last_extension_in_any_case():
    """An SVG image can run scripts, so it has no preview."""
    assert file_type_of("a.tar.GZ").icon == "archive"
    assert file_type_of("photo.JPeG").preview == "image"
    assert file_type_of("photo.png.html").preview is None
    assert file_type_of("logo.svg") == ("image", "application/octet-stream", None)

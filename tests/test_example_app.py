"""The example app, asked by a client without a browser."""

import html
import io
import json
import re
import stat
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from example_app import config, create_app
from example_app.file_types import file_type_of
from example_app.formats import filesize
from example_app.secret_key import load_or_create
from flask_storage import MemoryStorage, StorageUnavailableError, current_storage

ROOT = Path(__file__).parent.parent


class Visitor:
    """Somebody with the page open: has its cookie and sends its token."""

    def __init__(self, app):
        self.client = app.test_client()
        page = self.client.get("/").text
        [token] = re.findall(r'name="csrf-token" content="([^"]+)"', page)
        self.headers = {"X-CSRF-Token": token}

    def post(self, url, body):
        """Send JSON as the page's script does."""
        return self.client.post(url, json=body, headers={**self.headers, "Accept": "application/json"})

    def upload(self, name, content):
        """Ask for a link and send the content there; return what was answered to both."""
        instruction = self.post("/uploads", {"name": name, "size": len(content)}).json
        answer = self.client.open(
            path_of(instruction["url"]),
            method=instruction["method"],
            headers=instruction["headers"],
            data=content,
            content_length=len(content),  # also for nothing, as browsers do
        )
        return instruction, answer

    def confirm(self, instruction):
        """Say that the content was sent, as the page's script does."""
        return self.post("/uploads/done", {"upload_token": instruction["upload_token"]})

    def names(self):
        """The file names on the page, in order."""
        return [html.unescape(name) for name in re.findall(r'data-name="([^"]*)"', self.client.get("/").text)]


def path_of(url):
    """A URL without its host, for the client."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


@pytest.fixture
def app(tmp_path):
    """The app, with nothing configured but where it may write."""
    return create_app(str(tmp_path / "instance"))


@pytest.fixture
def visitor(app):
    """A visitor of it."""
    return Visitor(app)


# -- configuration ----------------------------------------------------------------------------------------------------


def test_it_runs_with_no_configuration(app, visitor):
    """Files go into the instance folder, on local disk."""
    visitor.upload("a.txt", b"content")

    assert visitor.names() == ["a.txt"]
    assert [file.read_bytes() for file in Path(app.instance_path, "files").rglob("*.txt")] == [b"content"]


@pytest.mark.parametrize(
    "profiles",
    ['{"drop": "memory:"}', '{"drop": {"backend": "memory"}}', '[["memory", {"name": "drop"}]]'],
    ids=["url", "mapping", "pairs"],
)
def test_one_environment_variable_changes_the_place(monkeypatch, tmp_path, profiles):
    """With other profiles everything works as before, and nothing is written to the disk."""
    monkeypatch.setenv("FLASK_STORAGE_PROFILES", profiles)
    app = create_app(str(tmp_path / "instance"))
    visitor = Visitor(app)

    visitor.upload("a.txt", b"content")

    assert visitor.names() == ["a.txt"]
    assert not Path(app.instance_path, "files").exists()


def test_one_variable_for_one_value_changes_the_folder(monkeypatch, tmp_path):
    """The profile of the app can be changed in part."""
    monkeypatch.setenv("FLASK_STORAGE_PROFILES__drop__root", str(tmp_path / "elsewhere"))
    visitor = Visitor(create_app(str(tmp_path / "instance")))

    visitor.upload("a.txt", b"content")

    assert [file.name for file in (tmp_path / "elsewhere").rglob("*.txt")] == ["a.txt"]


FORMS = [config.as_mapping, config.as_pairs, config.as_urls]


def on_this_machine(profiles):
    """What needs no service, and no package but ours."""
    if isinstance(profiles, dict):
        return {name: value for name, value in profiles.items() if name not in {"bucket", "container", "server"}}
    return [(kind, arguments) for kind, arguments in profiles if kind not in {"azure", "s3", "sftp"}]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_configuration_that_is_shown_works(tmp_path, form):
    """Every profile in it can be written and read; all three name the same ones, and the same default."""
    app = create_app(str(tmp_path), {"STORAGE_PROFILES": on_this_machine(form(tmp_path))})

    with app.app_context():
        assert list(current_storage) == ["drop", "public", "scratch"]
        assert current_storage.default_name == "drop"
        for storage in current_storage.values():
            storage.write("a.txt", b"content")
            assert storage.read("a.txt") == b"content"


def test_a_public_profile_may_be_read_by_the_web_server(tmp_path):
    """The modes that the configuration shows are those of the files, in all three forms alike."""
    for form in FORMS:
        app = create_app(str(tmp_path), {"STORAGE_PROFILES": on_this_machine(form(tmp_path))})
        with app.app_context():
            storage = current_storage["public"]
            storage.write("folder/a.txt", b"")

        assert stat.S_IMODE((tmp_path / "public/folder/a.txt").stat().st_mode) == 0o644
        assert stat.S_IMODE((tmp_path / "public/folder").stat().st_mode) == 0o755
        assert storage.url("folder/a.txt") == "https://media.example.com/folder/a.txt"
        storage.delete("folder/a.txt")


# -- the secret key ---------------------------------------------------------------------------------------------------


def test_links_survive_a_restart(tmp_path):
    """The key is made once and kept where only the owner can read it."""
    first = create_app(str(tmp_path))

    second = create_app(str(tmp_path))

    assert first.config["SECRET_KEY"] == second.config["SECRET_KEY"]
    assert len(first.config["SECRET_KEY"]) == 64
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600


def test_a_key_of_ones_own_is_used_and_none_is_made(monkeypatch, tmp_path):
    """FLASK_SECRET_KEY wins."""
    monkeypatch.setenv("FLASK_SECRET_KEY", "k" * 32)

    app = create_app(str(tmp_path))

    assert app.config["SECRET_KEY"] == "k" * 32
    assert not (tmp_path / "secret_key").exists()


def test_workers_that_start_together_get_the_same_key(tmp_path):
    """Of many processes that make the key at the same moment, all read one, and no half-made ones stay."""
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
            worker.stdin.close()  # go
        keys = set()
        for worker in workers:
            assert worker.stdout is not None
            keys.add(worker.stdout.read())

    assert len(keys) == 1
    assert len(keys.pop()) == 128
    assert [file.name for file in (tmp_path / "instance").iterdir()] == ["secret_key"]


def test_a_worker_that_comes_second_takes_the_key_that_is_there(tmp_path, monkeypatch):
    """Even when it saw no key a moment ago."""
    file = tmp_path / "secret_key"
    file.write_bytes(b"first")
    monkeypatch.setattr(Path, "exists", lambda _: False)  # the moment nobody can stage

    assert load_or_create(file) == b"first"
    assert [found.name for found in tmp_path.iterdir()] == ["secret_key"]


# -- uploads ----------------------------------------------------------------------------------------------------------


def test_two_files_of_one_name_are_two_files(visitor):
    """Neither replaces the other."""
    visitor.upload("photo.jpg", b"one")
    visitor.upload("photo.jpg", b"two")

    assert visitor.names() == ["photo.jpg", "photo.jpg"]


@pytest.mark.parametrize(
    ("wished", "kept"),
    [
        ("Grüße (2), 東京.txt", "Grüße (2), 東京.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\photo.jpg", "photo.jpg"),
        ("<img src=x>.html", "_img src_x_.html"),
        ("con.txt", "_con.txt"),
        ("a\r\nSet-Cookie: b.txt", "a__Set-Cookie_ b.txt"),
        ("exe\u202egpj.exe", "exe_gpj.exe"),
        (".fs-tmp-x", "_fs-tmp-x"),
        ("", "file"),
        ("x" * 300 + ".txt", "x" * 251 + ".txt"),
    ],
)
def test_a_name_is_kept_where_every_system_could_hold_it(visitor, wished, kept):
    """Others are made safe; no name leads anywhere."""
    instruction, answer = visitor.upload(wished, b"1")

    assert answer.status_code == 200
    assert instruction["path"].partition("/")[2] == kept
    assert visitor.names() == [kept]


@pytest.mark.parametrize(
    "wish",
    [None, [], {}, {"name": "a"}, {"name": "a", "size": -1}, {"name": "a", "size": True}, {"name": 1, "size": 1}],
)
def test_an_upload_needs_a_name_and_a_size(visitor, wish):
    """Anything else is a bad request, explained."""
    answer = visitor.post("/uploads", wish)

    assert answer.status_code == 400
    assert answer.json["error"] == "An upload needs a name and a size."


def test_a_link_is_for_exactly_what_was_announced(app, visitor):
    """More or fewer bytes are refused, another upload over it too, and so is a file above the limit."""
    app.config["DROP_MAX_UPLOAD_SIZE"] = 10
    url = path_of(visitor.post("/uploads", {"name": "a.txt", "size": 3}).json["url"])

    assert visitor.client.put(url, data=b"four").status_code == 413
    assert visitor.client.put(url, data=b"12").status_code == 400
    assert visitor.names() == []
    assert visitor.client.put(url, data=b"123").status_code == 200
    assert visitor.client.put(url, data=b"456").status_code == 409
    refused = visitor.post("/uploads", {"name": "a.txt", "size": 11})
    assert refused.status_code == 413
    assert refused.json["error"] == "A file may have up to 10 bytes."


def test_what_has_arrived_is_looked_at(app, visitor):
    """What was announced is confirmed and stays; what is not, because a place let more through, is deleted."""
    announced, _ = visitor.upload("a.txt", b"123")
    other, _ = visitor.upload("b.txt", b"123")
    missing = visitor.post("/uploads", {"name": "c.txt", "size": 3}).json
    with app.app_context():
        current_storage.default.write(other["path"], b"four")

    answers = [visitor.confirm(instruction) for instruction in (announced, other, missing)]

    assert [answer.status_code for answer in answers] == [200, 400, 404]
    assert answers[1].json["error"].startswith("Something else arrived")
    assert visitor.names() == ["a.txt"]


@pytest.mark.parametrize(
    "wish", [None, [], {}, {"upload_token": ""}, {"upload_token": ["a.txt", 1]}, {"upload_token": "WyJhIiwxXQ.x"}]
)
def test_only_an_upload_of_ours_can_be_confirmed(visitor, wish):
    """Nobody has a file deleted by a receipt that we did not sign."""
    answer = visitor.post("/uploads/done", wish)

    assert answer.status_code == 400
    assert answer.json["error"].startswith("There was no such upload")


class Plain(MemoryStorage):
    """A place that binds nothing in a link."""

    capabilities = replace(
        MemoryStorage.capabilities, link_constraints=frozenset({"disposition"}), upload_constraints=frozenset()
    )


def test_what_a_place_cannot_bind_is_not_asked_of_it(tmp_path):
    """Uploads work all the same, and a link for one download is not offered."""
    app = create_app(str(tmp_path), {"STORAGE_PROFILES": {"drop": {"backend": Plain}}})
    visitor = Visitor(app)

    instruction, answer = visitor.upload("a.txt", b"123")

    assert answer.status_code == visitor.confirm(instruction).status_code == 200
    assert "1 download" not in visitor.client.get("/").text
    assert visitor.post(f"/share/{instruction['path']}", {"lifetime": "once"}).status_code == 400


def test_a_form_uploads_too(visitor):
    """Several files, and fields without one, as browsers without scripts send them."""
    token = visitor.headers["X-CSRF-Token"]
    files = [(io.BytesIO(b"1"), "a.txt"), (io.BytesIO(b"2"), "b.txt"), (io.BytesIO(b""), "")]

    answer = visitor.client.post("/files", data={"csrf_token": token, "files": files})

    assert answer.status_code == 303
    assert sorted(visitor.names()) == ["a.txt", "b.txt"]


def test_a_form_above_the_limit_is_explained(tmp_path):
    """The limit holds for forms, with a page that names it."""
    app = create_app(str(tmp_path), {"DROP_MAX_UPLOAD_SIZE": 10})
    visitor = Visitor(app)
    content = b"x" * (10 + config.FORM_OVERHEAD)
    data = {"csrf_token": visitor.headers["X-CSRF-Token"], "files": (io.BytesIO(content), "a.txt")}

    answer = visitor.client.post("/files", data=data)

    assert answer.status_code == 413
    assert "That file is too large" in answer.text
    assert visitor.names() == []


# -- the list ---------------------------------------------------------------------------------------------------------


def test_the_newest_come_first_and_the_rest_is_counted(app, visitor):
    """No more than a page's worth is shown; number and size are those of all."""
    app.config["DROP_LISTED_FILES"] = 2
    for name in ("first", "second", "third"):
        visitor.upload(name, b"1234")

    page = visitor.client.get("/").text

    assert visitor.names() == ["third", "second"]
    assert "3 files · 12 bytes" in page
    assert "The newest 2 of 3 files." in page


def test_the_page_runs_no_code_but_its_own(visitor):
    """There is no inline script or style, and the policy would refuse one."""
    visitor.upload('"><script>alert(1)</script>.txt', b"")
    answer = visitor.client.get("/")

    scripts = re.findall(r"<script[^>]*>", answer.text)
    assert scripts == ['<script type="module" src="/static/drop.js">']
    assert not re.search(r"\son\w+=|\sstyle=|javascript:", answer.text)
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_links_on_another_host_are_allowed_by_the_policy(tmp_path):
    """Previews and uploads go where the links lead, and nowhere else."""
    app = create_app(str(tmp_path), {"STORAGE_EXTERNAL_URL": "https://files.example.com"})

    policy = app.test_client().get("/").headers["Content-Security-Policy"]

    assert "connect-src 'self' https://files.example.com;" in policy
    assert "script-src 'self';" in policy


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
def test_only_what_can_run_nothing_is_shown(visitor, name, disposition, content_type):
    """Opening leads to a signed link that shows pictures, films, PDF and text, and offers everything else to save."""
    path = visitor.upload(name, b"<svg onload=alert(1)>")[0]["path"]

    opened = visitor.client.get(f"/open/{path}")
    answer = visitor.client.get(path_of(opened.location))

    assert opened.status_code == 303
    assert answer.headers["Content-Disposition"] == f"{disposition}; filename={json.dumps(name)}"
    assert answer.mimetype == content_type


def test_downloading_always_offers_to_save(visitor):
    """A picture too."""
    path = visitor.upload("a.png", b"1")[0]["path"]

    answer = visitor.client.get(f"/download/{path}", follow_redirects=True)

    assert answer.headers["Content-Disposition"] == 'attachment; filename="a.png"'


@pytest.mark.parametrize("lifetime", ["minutes", "hour", "day", "once"])
def test_a_shared_link_expires_when_it_says(visitor, lifetime):
    """The answer tells until when, and the link holds to it; one is for one download."""
    path = visitor.upload("a.txt", b"shared")[0]["path"]

    shared = visitor.post(f"/share/{path}", {"lifetime": lifetime}).json

    url = path_of(shared["url"])
    assert visitor.client.get(url).data == b"shared"
    assert shared["once"] == (lifetime == "once")
    assert visitor.client.get(url).status_code == (403 if lifetime == "once" else 200)


@pytest.mark.parametrize("wish", [None, [], {}, {"lifetime": "forever"}])
def test_a_link_lives_as_long_as_one_of_the_choices(visitor, wish):
    """Nobody talks the app into another one."""
    path = visitor.upload("a.txt", b"")[0]["path"]

    assert visitor.post(f"/share/{path}", wish).status_code == 400


def test_a_link_that_fails_is_a_page_for_people_and_a_line_for_programs(visitor):
    """Who asks for a page gets a friendly one with the same status."""
    url = "/storage/drop?token=damaged"

    person = visitor.client.get(url, headers={"Accept": "text/html,*/*;q=0.8"})
    program = visitor.client.get(url, headers={"Accept": "*/*"})

    assert (person.status_code, program.status_code) == (403, 403)
    assert "This link no longer works" in person.text
    assert "Back to the files" not in person.text
    assert program.mimetype == "text/plain"


def test_deleting_is_confirmed_first(visitor):
    """Without the confirmation there is a page that asks; with it the file is gone."""
    path = visitor.upload("a.txt", b"")[0]["path"]
    form = {"csrf_token": visitor.headers["X-CSRF-Token"]}

    question = visitor.client.post(f"/delete/{path}", data=form)
    assert "Delete a.txt?" in question.text
    assert visitor.names() == ["a.txt"]

    answer = visitor.client.post(f"/delete/{path}", data={**form, "confirmed": "yes"})
    assert answer.status_code == 303
    assert visitor.names() == []


@pytest.mark.parametrize("method", ["get /open", "get /download", "post /share"])
def test_a_missing_file_is_not_found(visitor, method):
    """With a page that says so."""
    verb, url = method.split()

    answer = visitor.client.open(
        f"{url}/nothing/here.txt", method=verb, json={"lifetime": "day"}, headers=visitor.headers
    )

    assert answer.status_code == 404
    assert "Nothing is here" in answer.text
    assert "Back to the files" in answer.text


@pytest.mark.parametrize("path", ["a/%2e%2e/b", "..%2f..%2fetc%2fpasswd", "a%00b", "a%5cb"])
def test_a_path_that_is_none_is_refused(visitor, path):
    """Nobody is led out of the storage."""
    assert visitor.client.get(f"/download/{path}").status_code in (400, 404)


# -- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["/uploads", "/uploads/done", "/files", "/share/a", "/delete/a?confirmed=yes"])
@pytest.mark.parametrize("token", [None, "", "wrong", "wröng"])
def test_nothing_changes_without_the_token_of_the_page(visitor, url, token):
    """Not by another site's form, and not by a guess."""
    answer = visitor.client.post(url, headers={} if token is None else {"X-CSRF-Token": token})

    assert answer.status_code == 400
    assert "This page is out of date" in answer.text


def test_a_token_is_good_for_its_own_visitor_only(app, visitor):
    """A stranger who has a token of theirs cannot use it with another's cookie."""
    stranger = Visitor(app)
    stranger.headers = visitor.headers

    assert stranger.post("/uploads", {"name": "a", "size": 1}).status_code == 400


def test_another_site_is_refused_although_it_has_the_token(visitor):
    """Browsers tell where a request comes from."""
    visitor.headers["Sec-Fetch-Site"] = "cross-site"

    assert visitor.post("/uploads", {"name": "a", "size": 1}).status_code == 400


def test_the_cookie_stays_with_the_app(app):
    """Scripts cannot read it, other sites do not send it, and a link to a file does not set it."""
    client = app.test_client()

    cookie = client.get("/").headers["Set-Cookie"]

    assert cookie.startswith("drop_session=")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


# -- trouble ----------------------------------------------------------------------------------------------------------


def test_a_storage_that_does_not_answer_is_explained(app, visitor, monkeypatch):
    """A person reads that nothing is lost; the status is 503."""

    def unavailable(*_args, **_options):
        raise StorageUnavailableError("out of reach")

    with app.app_context():
        monkeypatch.setattr(type(current_storage.default), "_stat", unavailable)

    answer = visitor.client.get("/open/a/b.txt")

    assert answer.status_code == 503
    assert "The storage does not answer" in answer.text


def test_what_nobody_expected_is_written_down(app, visitor, caplog):
    """A symbolic link among the files is our trouble, not the visitor's: 500, and the log has it."""
    Path(app.instance_path, "files", "secret.txt").symlink_to("/etc/passwd")

    answer = visitor.client.get("/open/secret.txt")

    assert answer.status_code == 500
    assert "Something broke" in answer.text
    assert "the storage failed" in caplog.text


def test_an_unknown_address_is_a_page_of_ours(visitor):
    """So is a method that an address does not have, with the header that says which it has."""
    assert "Nothing is here" in visitor.client.get("/favicon.ico").text
    answer = visitor.client.put("/")
    assert answer.status_code == 405
    assert "GET" in answer.headers["Allow"]


# -- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "words"),
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
def test_sizes_read_as_people_write_them(size, words):
    """Three digits and a unit."""
    assert filesize(size) == words


def test_a_kind_is_told_by_the_last_extension_in_any_case():
    """And what looks like a picture but can run scripts is none to show."""
    assert file_type_of("a.tar.GZ").icon == "archive"
    assert file_type_of("photo.JPeG").preview == "image"
    assert file_type_of("photo.png.html").preview is None
    assert file_type_of("logo.svg") == ("image", "application/octet-stream", None)

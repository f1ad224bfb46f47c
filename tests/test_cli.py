"""`flask storage …` in this process: the effect, output and exit status of each command."""

import json
import os
import stat
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import click
import pytest
from click.testing import CliRunner
from flask import Flask
from flask.cli import FlaskGroup

from flask_storage import (
    Capabilities,
    LocalFSError,
    MemoryStorage,
    PermissionDeniedError,
    ShareLinkOperation,
    Storage,
    WriteOptions,
)
from flask_storage.cli.capabilities import described
from flask_storage.cli.output import human_date, human_size, printable
from flask_storage.types import LINK_CONSTRAINTS

DAY = datetime(2026, 6, 15, 12, tzinfo=UTC)


class ProtectingStorage(MemoryStorage):
    """A custom backend that reports checksums, and refuses access to files called `protected…`."""

    def _stat(self, path):
        return replace(super()._stat(path), checksums={"sha256": "9f86"}, metadata={"note": "a\x1b[31mb"})

    def _list(self, path, recursive):
        yield from super()._list(path, recursive)
        if path == "protected":
            raise PermissionDeniedError("protected files are hidden", path=path)

    def _delete(self, path):
        if path.startswith("protected"):
            raise PermissionDeniedError("protected files stay", path=path)
        super()._delete(path)


class LimitedStorage(MemoryStorage):
    """A custom backend that declares little."""

    capabilities = Capabilities(
        exclusive=True,
        concurrent_writes=False,
        links=ShareLinkOperation.download | ShareLinkOperation.upload,
        link_constraints=frozenset({"max_size", "ip"}),
        upload_constraints=frozenset({"size"}),
    )


@pytest.fixture
def app(tmp_path):
    """An app with a local default profile and two profiles in memory."""
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config["SECRET_KEY"] = "k" * 32
    app.config["STORAGE_EXTERNAL_URL"] = "https://shop.example"
    app.config["STORAGE_PROFILES"] = {
        "docs": {"backend": "local", "root": tmp_path / "docs", "create": True, "fsync": False},
        "scratch": {"backend": "memory"},
        "protecting": {"backend": ProtectingStorage},
    }
    Storage(app)
    return app


@pytest.fixture
def docs(app):
    """The storage of the default profile."""
    return app.extensions["storage"]["docs"]


@pytest.fixture
def scratch(app):
    """A storage in memory."""
    return app.extensions["storage"]["scratch"]


@pytest.fixture
def run(app, tmp_path, monkeypatch):
    """A function that runs `flask storage` with arguments, in an empty directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*args, stdin=None):
        result = app.test_cli_runner().invoke(args=["storage", *args], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


# -- list and stat ----------------------------------------------------------------------------------------------------


def test_list_prints_date_size_and_path_sorted_by_path(run, docs):
    """Three columns, separated by tabs."""
    docs.write("foo/bar", b"x" * 3072)
    docs.write("a.txt", b"1")

    result = run("list")

    assert result.stdout == "today\t1B\ta.txt\ntoday\t3.0K\tfoo/bar\n"
    assert (result.stderr, result.exit_code) == ("", 0)


def test_list_of_a_directory_contains_only_files_below_it(run, docs):
    """`list a/b` does not include `a/bc`, and the trailing slash is optional."""
    docs.write("a/b/1", b"")
    docs.write("a/bc/2", b"")

    assert run("list", "--simple", "a/b").stdout == "a/b/1\n"
    assert run("list", "--simple", "/a/b/").stdout == "a/b/1\n"


def test_list_without_recursion_shows_directories(run, docs):
    """A sub-directory is one entry that ends in a slash, without a size."""
    docs.write("a/b", b"")
    docs.write("c", b"22")

    result = run("list", "--no-recursive")

    assert result.stdout == "-\t-\ta/\ntoday\t2B\tc\n"


def test_list_of_a_missing_directory_is_empty(run):
    """Object stores have no empty directories, so an empty and a missing one are alike."""
    result = run("list", "nowhere")

    assert (result.output, result.exit_code) == ("", 0)


def test_a_listing_that_fails_half_way_exits_with_one(run, app):
    """The entries before the error are printed."""
    app.extensions["storage"]["protecting"].write("protected/1", b"")

    result = run("--profile", "protecting", "list", "--simple", "--unsorted", "protected")

    assert (result.stdout, result.stderr) == ("protected/1\n", "Error: protected files are hidden\n")
    assert result.exit_code == 1


@pytest.mark.parametrize("order", [[], ["--unsorted"]])
def test_list_as_json_prints_one_object_per_line(run, docs, order):
    """Each has the same four keys, also for unusual names."""
    names = ['quote"d.txt', "ünï/日本.txt", "\U0001f468\u200d\U0001f469.png"]
    for name in names:
        docs.write(name, b"abc")

    result = run("list", "--json", *order)

    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(row["path"] for row in rows) == sorted(names)
    assert {tuple(row) for row in rows} == {("path", "size", "last_modified", "is_directory")}
    assert {(row["size"], row["is_directory"]) for row in rows} == {(3, False)}
    assert all(datetime.fromisoformat(row["last_modified"]).tzinfo for row in rows)


def test_list_as_json_marks_directories(run, docs):
    """Their date is null where the backend has none."""
    docs.write("a/b", b"")

    row = json.loads(run("list", "--json", "--no-recursive").stdout)

    assert row == {"path": "a/", "size": 0, "last_modified": None, "is_directory": True}


def test_list_refuses_simple_and_json_together(run):
    """As a usage error."""
    result = run("list", "--simple", "--json")

    assert result.exit_code == 2
    assert "cannot be used together" in result.stderr


def test_stat_shows_the_known_attributes(run, scratch):
    """One per line; unknown attributes are left out."""
    scratch.write("a.txt", b"x" * 2048, content_type="text/plain", metadata={"owner": "ann"})

    result = run("stat", "a.txt", "--profile", "scratch")

    output = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert list(output) == ["path", "size", "last modified", "etag", "content type", "metadata owner"]
    assert (output["path"], output["size"]) == ("a.txt", "2048 (2.0K)")
    assert (output["content type"], output["metadata owner"]) == ("text/plain", "ann")


def test_stat_escapes_control_characters(run, app):
    """Metadata may come from other programs."""
    app.extensions["storage"]["protecting"].write("a.txt", b"1")

    result = run("--profile", "protecting", "stat", "a.txt")

    assert "metadata note: a\\x1b[31mb\n" in result.stdout
    assert "checksum sha256: 9f86\n" in result.stdout


def test_stat_as_json_has_every_attribute(run, scratch):
    """The keys are always the same; unknown attributes are null."""
    scratch.write("a.txt", b"123", metadata={"owner": "ann"})

    output = json.loads(run("stat", "a.txt", "--json", "--profile", "scratch").stdout)

    assert output["size"] == 3
    assert output["metadata"] == {"owner": "ann"}
    assert output["content_type"] is None
    assert set(output) == {
        *("path", "size", "last_modified", "etag", "etag_is_strong", "content_type", "content_encoding"),
        *("cache_control", "content_disposition", "checksums", "metadata", "version"),
    }


# -- get and put ------------------------------------------------------------------------------------------------------


def test_get_names_the_local_file_as_in_the_storage(run, docs, tmp_path):
    """Without FILE, in the working directory."""
    docs.write("a/b.txt", b"hello")

    result = run("get", "a/b.txt")

    assert (tmp_path / "here/b.txt").read_bytes() == b"hello"
    assert (result.stdout, result.stderr) == ("", "Downloaded a/b.txt to b.txt.\n")


def test_get_downloads_to_a_file_or_directory(run, docs, tmp_path):
    """In a directory the file keeps its name."""
    docs.write("a/b.txt", b"hello")
    (tmp_path / "there").mkdir()

    assert run("get", "a/b.txt", "c.txt").exit_code == 0
    assert run("get", "a/b.txt", str(tmp_path / "there")).exit_code == 0

    assert (tmp_path / "here/c.txt").read_bytes() == b"hello"
    assert (tmp_path / "there/b.txt").read_bytes() == b"hello"


def test_get_to_standard_output_prints_only_the_content(run, docs):
    """Messages go to standard error."""
    docs.write("a", bytes(range(256)) * 8192)

    result = run("get", "a", "-")

    assert result.stdout_bytes == bytes(range(256)) * 8192
    assert result.stderr == "Downloaded a to standard output.\n"


def test_get_replaces_an_existing_file_except_with_exclusive(run, docs, tmp_path):
    """The mode of a replaced file stays."""
    docs.write("a", b"new")
    target = tmp_path / "here/a"
    target.write_bytes(b"old")
    target.chmod(0o640)

    refused = run("get", "a", "--exclusive")
    content_after_refusal = target.read_bytes()
    replaced = run("get", "a")

    assert (refused.exit_code, refused.stderr, content_after_refusal) == (1, "Error: a exists already.\n", b"old")
    assert (replaced.exit_code, target.read_bytes()) == (0, b"new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "args", [["get", "def"], ["get", "def", "-"], ["stat", "def"], ["copy", "def", "x"], ["move", "def", "x"]]
)
def test_a_missing_file_is_reported(run, tmp_path, args):
    """In one sentence, and no file is created."""
    result = run(*args)

    assert result.stderr == "Error: Could not open file 'def': Not found in docs.\n"
    assert (result.stdout, result.exit_code) == ("", 1)
    assert os.listdir(tmp_path / "here") == []


def test_get_into_a_missing_directory_is_a_usage_error(run, docs):
    """A name that ends in a slash is a directory, which `get` of one file does not create."""
    docs.write("a", b"1")

    result = run("get", "a", "missing/")

    assert (result.exit_code, "The folder missing/ does not exist" in result.stderr) == (2, True)


def test_get_of_a_directory_fails(run, docs):
    """As for a missing file."""
    docs.write("a/b", b"")

    assert run("get", "a").exit_code == 1


def test_get_names_the_local_file_that_cannot_be_written(run, docs):
    """Not the temporary file that the operating system reports."""
    docs.write("a", b"1")

    result = run("get", "a", "no/such/directory")

    assert (result.exit_code, result.stderr) == (1, "Error: no/such/directory: No such file or directory\n")


def test_put_uploads_a_local_file(run, docs, tmp_path):
    """The message goes to standard error."""
    (tmp_path / "here/a.txt").write_bytes(b"hello")

    result = run("put", "a.txt", "b/c.txt")

    assert docs.read("b/c.txt") == b"hello"
    assert (result.stdout, result.stderr) == ("", "Uploaded a.txt to b/c.txt.\n")


@pytest.mark.parametrize(("directory", "path"), [("b/", "b/a.txt"), ("/", "a.txt")])
def test_put_into_a_directory_keeps_the_name(run, docs, tmp_path, directory, path):
    """A path that ends in a slash is a directory."""
    (tmp_path / "here/a.txt").write_bytes(b"hello")

    run("put", "a.txt", directory)

    assert docs.read(path) == b"hello"


def test_put_uploads_standard_input(run, docs):
    """With `-` as FILE, byte for byte."""
    result = run("put", "-", "a", stdin=b"\x00\xff\r\n")

    assert docs.read("a") == b"\x00\xff\r\n"
    assert result.exit_code == 0


def test_put_of_standard_input_requires_a_file_name(run):
    """A directory as PATH is a usage error."""
    result = run("put", "-", "directory/", stdin=b"1")

    assert result.exit_code == 2
    assert "Standard input has no file name" in result.stderr


@pytest.mark.parametrize("local", ["missing.txt", "."])
def test_put_of_a_missing_file_or_a_directory_is_refused(run, docs, local):
    """As a usage error."""
    result = run("put", local, "a")

    assert result.exit_code == 2
    assert "Invalid value for 'FILE'" in result.stderr
    assert docs.list() == []


def test_put_stores_a_content_type(run, scratch):
    """Where the backend supports that."""
    assert run("put", "-", "a", "--content-type", "image/png", "--profile", "scratch", stdin=b"1").exit_code == 0

    assert scratch.stat("a").content_type == "image/png"


def test_put_refuses_a_content_type_of_two_lines(run, docs):
    """It could add a header to later responses."""
    result = run("put", "-", "a", "--content-type", "text/plain\nX-Evil: 1", stdin=b"1")

    assert result.exit_code == 2
    assert "must be one line" in result.stderr
    assert docs.list() == []


# -- copy and move ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "past_tense", "remaining"), [("copy", "Copied", ["a", "b/c"]), ("move", "Moved", ["b/c"])]
)
def test_copy_and_move_create_the_new_path(run, docs, command, past_tense, remaining):
    """After a move the old path is gone."""
    docs.write("a", b"hello")

    result = run(command, "a", "b/c")

    assert [entry.name for entry in docs.list()] == remaining
    assert docs.read("b/c") == b"hello"
    assert (result.stdout, result.stderr) == ("", f"{past_tense} a to b/c.\n")


@pytest.mark.parametrize("command", ["copy", "move"])
def test_copy_and_move_into_a_directory_keep_the_name(run, docs, command):
    """A path that ends in a slash is a directory."""
    docs.write("a/x.txt", b"1")

    run(command, "a/x.txt", "b/")

    assert docs.exists("b/x.txt")


@pytest.mark.parametrize("args", [["put", "-"], ["copy", "a"], ["move", "a"]])
def test_exclusive_replaces_no_file(run, docs, args):
    """An existing file is an error, and keeps its content."""
    docs.write("a", b"new")
    docs.write("b", b"old")

    result = run(*args, "b", "--exclusive", stdin=b"new")

    assert (result.exit_code, docs.read("b")) == (1, b"old")
    assert docs.read("a") == b"new"
    assert result.stderr.startswith("Error: ")


# -- delete -----------------------------------------------------------------------------------------------------------


def test_delete_accepts_several_files(run, docs):
    """Each is reported."""
    for name in "abc":
        docs.write(name, b"")

    result = run("delete", "a", "c")

    assert [entry.name for entry in docs.list()] == ["b"]
    assert result.stderr == "Deleted a.\nDeleted c.\n"


def test_deleting_a_missing_file_exits_with_one(run, docs):
    """The other files are deleted."""
    docs.write("a", b"")

    result = run("delete", "tpyo", "a")

    assert (result.exit_code, docs.list()) == (1, [])
    assert result.stderr == "Deleted a.\nError: tpyo not found in docs.\n"


def test_missing_ok_allows_missing_files(run):
    """For scripts that need idempotent deletion."""
    result = run("delete", "tpyo", "--missing-ok")

    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize("directory", ["a", "a/"])
def test_a_directory_is_deleted_only_with_recursive(run, docs, directory):
    """Without it, the message names the option, and nothing is deleted."""
    docs.write("a/1", b"")
    docs.write("a/b/2", b"")
    docs.write("ab", b"")

    refused = run("delete", directory)
    untouched = len(docs.list())
    done = run("delete", directory, "--recursive")

    assert (refused.exit_code, untouched) == (1, 3)
    assert refused.stderr == f"Error: {directory} is a folder: pass --recursive to delete everything below it.\n"
    assert (done.exit_code, done.stderr) == (0, f"Deleted 2 files below {directory}.\n")
    assert [entry.name for entry in docs.list()] == ["ab"]


def test_recursive_deletes_a_file_and_the_files_below_its_name(run, scratch):
    """Where the backend has no directories, both can exist."""
    scratch.write("a", b"")
    scratch.write("a/1", b"")

    result = run("--profile", "scratch", "delete", "-r", "a")

    assert (result.stderr, scratch.list()) == ("Deleted a.\nDeleted 1 file below a.\n", [])


def test_an_invalid_path_among_several_deletes_nothing(run, docs):
    """All paths are validated first."""
    docs.write("a", b"")

    result = run("delete", "a", "../b", "c//")

    assert (result.exit_code, docs.exists("a")) == (2, True)


def test_deleting_the_root_is_refused(run, docs):
    """A single slash must not delete everything."""
    docs.write("a", b"")

    result = run("delete", "-r", "/")

    assert (result.exit_code, docs.exists("a")) == (2, True)


def test_every_file_that_could_not_be_deleted_is_reported(run, app):
    """With its reason."""
    protecting = app.extensions["storage"]["protecting"]
    for name in ("a", "protected1", "protected2"):
        protecting.write(name, b"")

    result = run("--profile", "protecting", "delete", "a", "protected1", "protected2")

    assert result.exit_code == 1
    assert result.stderr.splitlines()[-2:] == ["protected1: protected files stay", "protected2: protected files stay"]
    assert [entry.name for entry in protecting.list()] == ["protected1", "protected2"]


# -- link -------------------------------------------------------------------------------------------------------------


def token_data(app, url):
    """Return what a link of the default profile grants."""
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "shop.example", "/storage/docs")
    return app.extensions["storage"]["docs"].deserialize_link_token(parse_qs(parts.query)["token"][0])


def test_link_prints_only_the_url(run, app):
    """By default the link downloads and is valid for an hour."""
    before = datetime.now(UTC).replace(microsecond=0)

    result = run("link", "a.txt")

    url = result.stdout.removesuffix("\n")
    data = token_data(app, url)
    assert result.stderr == ""
    assert (data.path, str(data.operations)) == ("a.txt", "d")
    assert timedelta(0) <= data.request.expires_at - before - timedelta(hours=1) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("1h30m", 5400), ("2D", 172800), ("1w", 604800), ("1m30", 90)],
)
def test_a_link_expires_after_the_given_duration(run, app, text, seconds):
    """In seconds, or in numbers with units."""
    before = datetime.now(UTC).replace(microsecond=0)

    url = run("link", "a", "-e", text).stdout.strip()

    lifetime = token_data(app, url).request.expires_at - before
    assert timedelta(seconds=seconds) <= lifetime < timedelta(seconds=seconds + 60)


def test_a_link_without_a_duration_expires_after_the_configured_one(tmp_path):
    """STORAGE_LINK_LIFETIME, in seconds or as a timedelta."""
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(SECRET_KEY="k" * 32, STORAGE_EXTERNAL_URL="https://shop.example", STORAGE_LINK_LIFETIME=7200)
    app.config["STORAGE_PROFILES"] = {"docs": "memory:"}
    Storage(app)

    result = app.test_cli_runner().invoke(args=["storage", "link", "a"])

    lifetime = token_data(app, result.stdout.strip()).request.expires_at - datetime.now(UTC)
    assert timedelta(seconds=7140) < lifetime <= timedelta(seconds=7200)


@pytest.mark.parametrize(
    "text", ["", "soon", "-5", "1.5h", "h", "1h1d", "9" * 30, "9" * 30 + "w", "101y", "\u0661h", "0"]
)
def test_an_invalid_duration_is_refused(run, text):
    """One that cannot be parsed, is zero or negative, or exceeds the maximum."""
    result = run("link", "a", "--expiration", text)

    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_every_option_of_a_link_is_signed(run, app):
    """The link view reads them from the token."""
    options = ["--upload", "--delete", "--filename", "Ü.txt", "--content-type", "text/csv", "--uses", "3"]

    result = run("link", "a", *options, "--max-size", "10M", "--exclusive")

    data = token_data(app, result.stdout.strip())
    request = data.request
    assert str(data.operations) == "dur"
    assert (request.filename, request.content_type, request.uses) == ("Ü.txt", "text/csv", 3)
    assert (request.max_size, request.exclusive) == (10 * 1024**2, True)


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("500", 500), ("64k", 65536), ("2GiB", 2**31), ("1TB", 2**40)])
def test_sizes_can_have_units(run, app, text, size):
    """In powers of 1024."""
    url = run("link", "a", "--no-download", "--upload", "--max-size", text).stdout.strip()

    assert token_data(app, url).request.max_size == size


@pytest.mark.parametrize(
    "options",
    [
        ["--no-download"],
        ["--max-size", "10M"],
        ["--exclusive"],
        ["--upload", "--max-size", "10 apples"],
        ["--upload", "--max-size", "9" * 19],
        ["--uses", "0"],
        ["--filename", "two\nlines"],
    ],
)
def test_invalid_link_options_are_refused(run, options):
    """No operation, upload limits without --upload, zero uses, a name of two lines."""
    result = run("link", "a", *options)

    assert (result.exit_code, result.stdout) == (2, "")


def test_link_as_json_has_url_path_operations_and_expiry(run, app):
    """One object."""
    output = json.loads(run("link", "a", "--upload", "--json").stdout)

    assert list(output) == ["url", "path", "operations", "expires_at"]
    assert output["operations"] == ["download", "upload"]
    assert token_data(app, output["url"]).path == output["path"] == "a"
    assert datetime.fromisoformat(output["expires_at"]) > datetime.now(UTC)


def test_a_link_without_the_apps_address_names_the_setting(run, app, tmp_path):
    """A shell command has no request from which the address is known."""
    other_app = Flask("bare", instance_path=str(tmp_path / "bare"))
    other_app.config.update(SECRET_KEY="k" * 32, STORAGE_PROFILES={"docs": "memory:"})
    Storage(other_app)

    result = other_app.test_cli_runner().invoke(args=["storage", "link", "a"])

    assert (result.exit_code, result.stdout) == (2, "")
    assert "STORAGE_EXTERNAL_URL" in result.stderr
    assert "SERVER_NAME" in result.stderr


# -- profiles, check and sweep ----------------------------------------------------------------------------------------


def test_profiles_are_listed_with_their_capabilities_in_words(run, app):
    """Grouped by subject; the default profile is marked."""
    app.extensions["storage"]["scratch"].__class__ = LimitedStorage

    text = run("profiles").stdout
    limited = text[text.index("  scratch") : text.index("  protecting")]

    assert text.startswith("* docs (LocalFSStorage)\n    writes     create only, replace one version only, ")
    assert max(map(len, limited.splitlines())) <= 100
    assert limited.splitlines()[:3] == [
        "  scratch (LimitedStorage)",
        "    writes     create only",
        "    links      signed for download, upload; limits: address, largest size; uploads: exact size",
    ]
    assert "\n    without    replace one version only, conditions in copies, " in limited


def test_every_capability_has_words():
    """Whether a storage supports all of them, or none."""
    everything = Capabilities(
        **dict.fromkeys((field.name for field in fields(Capabilities) if field.type == "bool"), True),
        links=ShareLinkOperation.download,
        link_constraints=LINK_CONSTRAINTS,
        upload_constraints=LINK_CONSTRAINTS,
    )
    nothing = Capabilities(concurrent_writes=False)

    supported = dict(described(everything))
    missing = dict(described(nothing))

    words = {word for subject, text in supported.items() if subject != "links" for word in text.split(", ")}
    assert len(words) == sum(field.type == "bool" for field in fields(Capabilities)) - 1  # link_combinations
    assert set(missing) == {"links", "without"}
    assert set(missing["without"].split(", ")) == words
    assert missing["links"] == "signed by the app"
    assert supported["links"].startswith("signed for download, also in one link; limits: ")
    assert supported["links"].count(",") == len(LINK_CONSTRAINTS)


def test_one_profile_can_be_listed(run):
    """With --profile."""
    text = run("profiles", "--profile", "scratch").stdout

    assert text.startswith("  scratch (MemoryStorage)\n")
    assert "docs" not in text


def test_profiles_as_json_have_the_content_of_the_table(run):
    """One document."""
    docs, scratch, _ = json.loads(run("profiles", "--json").stdout)

    assert (docs["name"], docs["backend"], docs["default"]) == ("docs", "LocalFSStorage", True)
    assert (scratch["name"], scratch["backend"], scratch["default"]) == ("scratch", "MemoryStorage", False)
    assert docs["capabilities"]["links"] == []
    assert (docs["capabilities"]["local_paths"], scratch["capabilities"]["local_paths"]) == (True, False)


def test_profiles_can_be_checked(run, docs):
    """The error of a failing profile is shown, and the exit status is 1."""
    passed = run("profiles", "--check")
    docs.root.rename(docs.root.with_name("lost"))
    failed = run("profiles", "--check")
    output = json.loads(run("profiles", "--check", "--json").stdout)

    assert (passed.exit_code, passed.stdout.count(") works\n")) == (0, 3)
    assert (failed.exit_code, failed.stdout.count(") works\n"), failed.stdout.count(") FAILS: ")) == (1, 2, 1)
    assert [row["error"] is None for row in output] == [False, True, True]


def test_profiles_show_no_secret(app, run, docs):
    """Neither the app's key nor a backend's own."""
    docs._secret_key = b"its-own-secret"

    result = run("profiles", "--check", "--json")

    assert "k" * 32 not in result.output
    assert "its-own-secret" not in result.output


def test_check_tests_one_profile(run, docs):
    """It writes, reads and deletes a file, which does not remain."""
    passed = run("check")
    remaining = os.listdir(docs.root)
    docs.root.rename(docs.root.with_name("lost"))
    failed = run("check")

    assert (passed.exit_code, passed.stderr, remaining) == (0, "docs works.\n", [])
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: ")


def test_sweep_removes_leftovers(run, scratch):
    """Only those that are old enough."""
    scratch.multipart.create("a", WriteOptions())
    scratch.multipart.create("b", WriteOptions())

    early = run("--profile", "scratch", "sweep")
    late = run("--profile", "scratch", "sweep", "--older-than", "0")
    second_sweep = run("--profile", "scratch", "sweep", "--older-than", "0", "--json")

    assert early.stderr == "Removed 0 leftovers from scratch.\n"
    assert late.stderr == "Removed 2 leftovers from scratch.\n"
    assert json.loads(second_sweep.stdout) == {"profile": "scratch", "removed": 0}


def test_a_dry_run_lists_unfinished_uploads_and_removes_nothing(run, scratch):
    """Start time, id and path of those that are old enough."""
    first = scratch.multipart.create("a/1.bin", WriteOptions())
    second = scratch.multipart.create("b.bin", WriteOptions())

    early = run("--profile", "scratch", "sweep", "--dry-run")
    late = run("--profile", "scratch", "sweep", "--dry-run", "--older-than", "0")

    assert (early.stdout, early.stderr) == ("", "0 unfinished multipart uploads in scratch.\n")
    rows = [line.split("\t") for line in late.stdout.splitlines()]
    assert [row[1:] for row in rows] == [[first, "a/1.bin"], [second, "b.bin"]]
    assert all(datetime.fromisoformat(row[0]).tzinfo for row in rows)
    assert late.stderr == "2 unfinished multipart uploads in scratch.\n"
    assert len(list(scratch.multipart.list_uploads())) == 2


def test_a_dry_run_as_json_lists_unfinished_uploads(run, scratch):
    """One object, like that of the sweep."""
    upload_id = scratch.multipart.create("a", WriteOptions())

    output = json.loads(run("--profile", "scratch", "sweep", "--dry-run", "--older-than", "0", "--json").stdout)

    [upload] = output["uploads"]
    assert output["profile"] == "scratch"
    assert (upload["path"], upload["upload_id"]) == ("a", upload_id)
    assert datetime.fromisoformat(upload["started_at"]).tzinfo
    assert run("--profile", "scratch", "sweep", "--dry-run", "--older-than", "0").stderr.startswith(
        "1 unfinished multipart upload "
    )


def test_a_dry_run_without_multipart_support_reports_that(run, scratch, monkeypatch):
    """It is not an error."""
    monkeypatch.setattr(type(scratch), "capabilities", replace(scratch.capabilities, multipart=False))

    result = run("--profile", "scratch", "sweep", "--dry-run")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "scratch has no multipart uploads.\n"


def test_sweep_reports_one_leftover_in_the_singular(run, scratch):
    """The plural would be wrong."""
    scratch.multipart.create("a", WriteOptions())

    assert run("--profile", "scratch", "sweep", "--older-than", "0").stderr == "Removed 1 leftover from scratch.\n"


# -- --profile --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["--profile", "scratch", "list", "--simple"],
        ["list", "--simple", "--profile", "scratch"],
        ["--profile", "docs", "list", "--simple", "--profile", "scratch"],
        ["--location", "scratch", "list", "--simple"],
    ],
)
def test_a_profile_can_be_given_before_or_after_the_command(run, scratch, args):
    """The one after the command takes precedence; keg-storage's --location works too."""
    scratch.write("here", b"")

    assert run(*args).stdout == "here\n"


def test_help_does_not_mention_location(run):
    """It exists only for compatibility with keg-storage."""
    text = run("list", "--help").stdout

    assert "--profile NAME" in text
    assert "--location" not in text


def test_an_unknown_profile_is_a_usage_error(run):
    """The message lists the profiles."""
    result = run("list", "--profile", "dosc")

    assert result.exit_code == 2
    assert "The app has no profile 'dosc'; its profiles are: docs, scratch, protecting." in result.stderr


@pytest.mark.parametrize("path", ["../secret", "a/../../b", "a\\b", "x\x1b[31m", "a" * 300, "", "a//b", ".fs-tmp-1"])
@pytest.mark.parametrize("args", [["get"], ["stat"], ["delete"], ["link"], ["copy", "a"], ["put", "-"]])
def test_an_invalid_path_is_a_usage_error(run, docs, args, path):
    """Nothing is changed, and control characters are escaped in the message."""
    docs.write("a", b"")

    result = run(*args, path, stdin=b"1")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr
    assert "\x1b" not in result.stderr
    assert [entry.name for entry in docs.list()] == ["a"]


# -- the command group ------------------------------------------------------------------------------------------------


def test_help_lists_every_command(run):
    """With one line each."""
    text = run("--help").stdout

    commands = text.partition("Commands:")[2].split("\n")
    names = [line.split()[0] for line in commands if line.strip()]
    assert "..." not in text.partition("Commands:")[2]
    assert names == [
        "check",
        "copy",
        "delete",
        "doctor",
        "fsck",
        "get",
        "link",
        "list",
        "move",
        "profiles",
        "put",
        "restore",
        "stat",
        "sweep",
    ]


def test_an_unknown_command_is_a_usage_error(run):
    """Reported by click."""
    assert run("destroy").exit_code == 2


def test_an_app_can_add_and_replace_commands(tmp_path):
    """The group is an ordinary click group."""
    from flask_storage.cli import StorageGroup

    group = StorageGroup("storage")
    original = group.get_command(click.Context(group), "list")
    replacement = click.Command("list")
    group.add_command(replacement)
    group.add_command(click.Command("greet"))

    context = click.Context(group)

    assert "greet" in group.list_commands(context)
    assert group.get_command(context, "greet") is group.commands["greet"]
    assert group.get_command(context, "list") is replacement is not original


def test_the_command_group_can_have_another_name(tmp_path):
    """For apps that have their own `storage` commands."""
    app = Flask("shop", instance_path=str(tmp_path))
    Storage(app, cli_group_name="files")

    assert app.test_cli_runner().invoke(args=["files", "list"]).exit_code == 0


# -- human-readable output --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0K"),
        (3072, "3.0K"),
        (10 * 1024 + 512, "10.5K"),
        (1024**2 - 1, "1.0M"),
        (5 * 1024**3, "5.0G"),
        (1024**6, "1.0E"),
    ],
)
def test_sizes_have_at_most_three_digits_before_the_dot(size, text):
    """Like those of `ls -h`."""
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("days", "text"),
    [(0, "today"), (1, "yesterday"), (-1, "tomorrow"), (30, "May 16"), (-30, "Jul 15"), (400, "May 11 2025")],
)
def test_near_dates_are_relative_and_others_have_no_needless_year(days, text):
    """In local time."""
    assert human_date(DAY - timedelta(days=days), now=DAY) == text


def test_printable_text_has_no_control_characters():
    """Letters of every script stay; control characters are escaped."""
    assert printable("Ü 日本 \x1b[2J\u202e\n") == "Ü 日本 \\x1b[2J\\u202e\\n"


# -- an app that cannot start -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["storage", "list"], ["storage", "--help"], ["routes"], ["run"]])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"STORAGE_PROFILES": {"docs": {"backend": "local", "rot": "x"}}}, "did you mean 'root'?"),
        ({"STORAGE_PROFILES": {"docs": {"backend": "local", "root": "lost\x1b[31m"}}}, "lost\\x1b[31m of 'docs'"),
        ({"STORAGE_EXTERNAL_URL": "shop"}, "STORAGE_EXTERNAL_URL must be an absolute"),
    ],
)
def test_a_wrong_configuration_is_one_message(tmp_path, monkeypatch, args, settings, message):
    """With exit status 2 and without a traceback, for every command of `flask`."""
    monkeypatch.chdir(tmp_path)

    def create_app():
        app = Flask("shop", instance_path=str(tmp_path))
        app.config.update(settings)
        Storage(app)
        return app

    result = CliRunner().invoke(FlaskGroup(create_app=create_app), args)

    assert isinstance(result.exception, SystemExit)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_app_can_catch_its_own_configuration_error_in_a_command(tmp_path):
    """The error that Click reports is still of the type that the documentation names."""

    def create_app():
        app = Flask("shop", instance_path=str(tmp_path))
        app.config["STORAGE_PROFILES"] = {"docs": {"backend": "local", "root": "lost"}}
        with pytest.raises(LocalFSError, match="does not exist") as caught:
            Storage(app)
        assert (caught.value.backend, type(caught.value.__cause__)) == ("docs", LocalFSError)
        return app

    assert CliRunner().invoke(FlaskGroup(create_app=create_app), ["routes"]).exit_code == 0

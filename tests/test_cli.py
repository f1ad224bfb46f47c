"""`flask storage …` inside this process: what each command does, prints and answers."""

import json
import os
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import click
import pytest
from flask import Flask

from flask_storage import MemoryStorage, PermissionDeniedError, Storage, WriteOptions
from flask_storage.cli.output import human_date, human_size, printable

DAY = datetime(2026, 6, 15, 12, tzinfo=UTC)


class StubbornStorage(MemoryStorage):
    """A place of somebody's own that keeps checksums, and protects what is called `kept`."""

    def _stat(self, path):
        return replace(super()._stat(path), checksums={"sha256": "9f86"}, metadata={"note": "a\x1b[31mb"})

    def _list(self, path, recursive):
        yield from super()._list(path, recursive)
        if path == "kept":
            raise PermissionDeniedError("kept files are hidden", path=path)

    def _delete(self, path):
        if path.startswith("kept"):
            raise PermissionDeniedError("kept files stay", path=path)
        super()._delete(path)


@pytest.fixture
def app(tmp_path):
    """An app with a local profile, the default, and two in memory."""
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config["SECRET_KEY"] = "k" * 32
    app.config["STORAGE_EXTERNAL_URL"] = "https://shop.example"
    app.config["STORAGE_PROFILES"] = {
        "docs": {"backend": "local", "root": tmp_path / "docs", "create": True, "fsync": False},
        "scratch": {"backend": "memory"},
        "stubborn": {"backend": StubbornStorage},
    }
    Storage(app)
    return app


@pytest.fixture
def docs(app):
    """The default storage."""
    return app.extensions["storage"]["docs"]


@pytest.fixture
def scratch(app):
    """The storage in memory."""
    return app.extensions["storage"]["scratch"]


@pytest.fixture
def run(app, tmp_path, monkeypatch):
    """Run `flask storage` with these arguments, in an empty folder of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*args, stdin=None):
        result = app.test_cli_runner().invoke(args=["storage", *args], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


# -- list and stat ----------------------------------------------------------------------------------------------------


def test_list_prints_day_size_and_path_sorted(run, docs):
    """A line is three columns between tabs, and the lines come in the order of their paths."""
    docs.write("foo/bar", b"x" * 3072)
    docs.write("a.txt", b"1")

    result = run("list")

    assert result.stdout == "today\t1B\ta.txt\ntoday\t3.0K\tfoo/bar\n"
    assert (result.stderr, result.exit_code) == ("", 0)


def test_list_of_a_folder_holds_only_what_is_below_it(run, docs):
    """`list a/b` never means `a/bc`, and the slash at its end is optional."""
    docs.write("a/b/1", b"")
    docs.write("a/bc/2", b"")

    assert run("list", "--simple", "a/b").stdout == "a/b/1\n"
    assert run("list", "--simple", "/a/b/").stdout == "a/b/1\n"


def test_list_without_recursion_shows_folders(run, docs):
    """A sub-folder is one entry with a slash at its end, and has no size of its own."""
    docs.write("a/b", b"")
    docs.write("c", b"22")

    result = run("list", "--no-recursive")

    assert result.stdout == "-\t-\ta/\ntoday\t2B\tc\n"


def test_list_of_a_folder_that_does_not_exist_is_empty(run):
    """Object stores know no empty folders, so no storage here does."""
    result = run("list", "nowhere")

    assert (result.output, result.exit_code) == ("", 0)


def test_a_listing_that_breaks_off_is_a_failure(run, app):
    """What was found until then is shown; the exit status says that it is not all."""
    app.extensions["storage"]["stubborn"].write("kept/1", b"")

    result = run("--profile", "stubborn", "list", "--simple", "--unsorted", "kept")

    assert (result.stdout, result.stderr) == ("kept/1\n", "Error: kept files are hidden\n")
    assert result.exit_code == 1


@pytest.mark.parametrize("order", [[], ["--unsorted"]])
def test_list_as_json_is_one_object_a_line(run, docs, order):
    """Every line is a whole document with the same four keys, also for awkward names."""
    names = ['quote"d.txt', "ünï/日本.txt", "\U0001f468\u200d\U0001f469.png"]
    for name in names:
        docs.write(name, b"abc")

    result = run("list", "--json", *order)

    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(row["path"] for row in rows) == sorted(names)
    assert {tuple(row) for row in rows} == {("path", "size", "last_modified", "is_directory")}
    assert {(row["size"], row["is_directory"]) for row in rows} == {(3, False)}
    assert all(datetime.fromisoformat(row["last_modified"]).tzinfo for row in rows)


def test_list_as_json_marks_folders(run, docs):
    """A folder has no moment where the place does not tell one."""
    docs.write("a/b", b"")

    row = json.loads(run("list", "--json", "--no-recursive").stdout)

    assert row == {"path": "a/", "size": 0, "last_modified": None, "is_directory": True}


def test_list_is_either_simple_or_json(run):
    """Two forms at once are a mistake, not a choice of ours."""
    result = run("list", "--simple", "--json")

    assert result.exit_code == 2
    assert "exclude each other" in result.stderr


def test_stat_shows_what_is_known(run, scratch):
    """One fact a line, and no line for what nobody knows."""
    scratch.write("a.txt", b"x" * 2048, content_type="text/plain", metadata={"owner": "ann"})

    result = run("stat", "a.txt", "--profile", "scratch")

    facts = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert list(facts) == ["path", "size", "last modified", "etag", "content type", "metadata owner"]
    assert (facts["path"], facts["size"]) == ("a.txt", "2048 (2.0K)")
    assert (facts["content type"], facts["metadata owner"]) == ("text/plain", "ann")


def test_stat_cannot_steer_the_terminal(run, app):
    """What others stored beside a file is shown with its control characters escaped."""
    app.extensions["storage"]["stubborn"].write("a.txt", b"1")

    result = run("--profile", "stubborn", "stat", "a.txt")

    assert "metadata note: a\\x1b[31mb\n" in result.stdout
    assert "checksum sha256: 9f86\n" in result.stdout


def test_stat_as_json_has_every_fact(run, scratch):
    """The keys are always the same; what is not known is null."""
    scratch.write("a.txt", b"123", metadata={"owner": "ann"})

    facts = json.loads(run("stat", "a.txt", "--json", "--profile", "scratch").stdout)

    assert facts["size"] == 3
    assert facts["metadata"] == {"owner": "ann"}
    assert facts["content_type"] is None
    assert set(facts) == {
        *("path", "size", "last_modified", "etag", "etag_is_strong", "content_type", "content_encoding"),
        *("cache_control", "content_disposition", "checksums", "metadata", "version"),
    }


# -- get and put ------------------------------------------------------------------------------------------------------


def test_get_calls_the_local_file_as_in_the_storage(run, docs, tmp_path):
    """Without a FILE, the last part of the path is the file's name in the current folder."""
    docs.write("a/b.txt", b"hello")

    result = run("get", "a/b.txt")

    assert (tmp_path / "here/b.txt").read_bytes() == b"hello"
    assert (result.stdout, result.stderr) == ("", "Downloaded a/b.txt to b.txt.\n")


def test_get_puts_the_file_where_it_is_told(run, docs, tmp_path):
    """FILE is a name, or a folder in which the file keeps its own."""
    docs.write("a/b.txt", b"hello")
    (tmp_path / "there").mkdir()

    assert run("get", "a/b.txt", "c.txt").exit_code == 0
    assert run("get", "a/b.txt", str(tmp_path / "there")).exit_code == 0

    assert (tmp_path / "here/c.txt").read_bytes() == b"hello"
    assert (tmp_path / "there/b.txt").read_bytes() == b"hello"


def test_get_to_standard_output_is_the_bytes_and_nothing_else(run, docs):
    """Messages go elsewhere, so that the content can go on through a pipe."""
    docs.write("a", bytes(range(256)) * 8192)

    result = run("get", "a", "-")

    assert result.stdout_bytes == bytes(range(256)) * 8192
    assert result.stderr == "Downloaded a to standard output.\n"


def test_get_replaces_unless_told_not_to(run, docs, tmp_path):
    """Like cp, and like cp with -n where that is wished; the mode of what is replaced stays."""
    docs.write("a", b"new")
    local = tmp_path / "here/a"
    local.write_bytes(b"old")
    local.chmod(0o640)

    refused = run("get", "a", "--exclusive")
    kept = local.read_bytes()
    replaced = run("get", "a")

    assert (refused.exit_code, refused.stderr, kept) == (1, "Error: a exists.\n", b"old")
    assert (replaced.exit_code, local.read_bytes()) == (0, b"new")
    assert stat.S_IMODE(local.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "args", [["get", "def"], ["get", "def", "-"], ["stat", "def"], ["copy", "def", "x"], ["move", "def", "x"]]
)
def test_what_is_not_there_is_named(run, tmp_path, args):
    """A missing file is a failure, in one sentence, and leaves nothing behind."""
    result = run(*args)

    assert result.stderr == "Error: Could not open file 'def': Not found in docs.\n"
    assert (result.stdout, result.exit_code) == ("", 1)
    assert os.listdir(tmp_path / "here") == []


def test_a_folder_is_no_file_to_get(run, docs):
    """Whoever asks for a folder learns that there is no such file."""
    docs.write("a/b", b"")

    assert run("get", "a").exit_code == 1


def test_get_names_the_local_file_that_cannot_be_written(run, docs):
    """Not the temporary name that the system complains about."""
    docs.write("a", b"1")

    result = run("get", "a", "no/such/folder")

    assert (result.exit_code, result.stderr) == (1, "Error: no/such/folder: No such file or directory\n")


def test_put_stores_a_local_file(run, docs, tmp_path):
    """The content arrives; the message goes to standard error."""
    (tmp_path / "here/a.txt").write_bytes(b"hello")

    result = run("put", "a.txt", "b/c.txt")

    assert docs.read("b/c.txt") == b"hello"
    assert (result.stdout, result.stderr) == ("", "Uploaded a.txt to b/c.txt.\n")


@pytest.mark.parametrize(("folder", "path"), [("b/", "b/a.txt"), ("/", "a.txt")])
def test_put_into_a_folder_keeps_the_name(run, docs, tmp_path, folder, path):
    """A slash at the end says that the name is missing, as it does for cp."""
    (tmp_path / "here/a.txt").write_bytes(b"hello")

    run("put", "a.txt", folder)

    assert docs.read(path) == b"hello"


def test_put_from_standard_input(run, docs):
    """A dash is whatever comes through the pipe, byte for byte."""
    result = run("put", "-", "a", stdin=b"\x00\xff\r\n")

    assert docs.read("a") == b"\x00\xff\r\n"
    assert result.exit_code == 0


def test_standard_input_has_no_name_to_keep(run):
    """So a folder is not enough for it."""
    result = run("put", "-", "folder/", stdin=b"1")

    assert result.exit_code == 2
    assert "Standard input has no name" in result.stderr


@pytest.mark.parametrize("local", ["missing.txt", "."])
def test_put_needs_a_file(run, docs, local):
    """A file that is not there and a folder are mistakes in the arguments."""
    result = run("put", local, "a")

    assert result.exit_code == 2
    assert "Invalid value for 'FILE'" in result.stderr
    assert docs.list() == []


def test_put_keeps_a_content_type(run, scratch):
    """Where the storage keeps one."""
    assert run("put", "-", "a", "--content-type", "image/png", "--profile", "scratch", stdin=b"1").exit_code == 0

    assert scratch.stat("a").content_type == "image/png"


def test_put_refuses_a_content_type_of_two_lines(run, docs):
    """It would be a header too many for whoever downloads the file."""
    result = run("put", "-", "a", "--content-type", "text/plain\nX-Evil: 1", stdin=b"1")

    assert result.exit_code == 2
    assert "must be one line" in result.stderr
    assert docs.list() == []


# -- copy and move ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "word", "left"), [("copy", "Copied", ["a", "b/c"]), ("move", "Moved", ["b/c"])])
def test_copy_and_move_do_what_they_say(run, docs, command, word, left):
    """The content is under the new path; after a move it is nowhere else."""
    docs.write("a", b"hello")

    result = run(command, "a", "b/c")

    assert [entry.name for entry in docs.list()] == left
    assert docs.read("b/c") == b"hello"
    assert (result.stdout, result.stderr) == ("", f"{word} a to b/c.\n")


@pytest.mark.parametrize("command", ["copy", "move"])
def test_copy_and_move_into_a_folder_keep_the_name(run, docs, command):
    """A slash at the end means the same as for put."""
    docs.write("a/x.txt", b"1")

    run(command, "a/x.txt", "b/")

    assert docs.exists("b/x.txt")


@pytest.mark.parametrize("args", [["put", "-"], ["copy", "a"], ["move", "a"]])
def test_exclusive_replaces_nothing(run, docs, args):
    """With --exclusive a taken name is a failure, and keeps its content."""
    docs.write("a", b"new")
    docs.write("b", b"old")

    result = run(*args, "b", "--exclusive", stdin=b"new")

    assert (result.exit_code, docs.read("b")) == (1, b"old")
    assert docs.read("a") == b"new"
    assert result.stderr.startswith("Error: ")


# -- delete -----------------------------------------------------------------------------------------------------------


def test_delete_takes_several_files(run, docs):
    """Each is named when it is gone."""
    for name in "abc":
        docs.write(name, b"")

    result = run("delete", "a", "c")

    assert [entry.name for entry in docs.list()] == ["b"]
    assert result.stderr == "Deleted a.\nDeleted c.\n"


def test_deleting_what_is_not_there_is_a_failure(run, docs):
    """A typing mistake should not look like success; the others are deleted all the same."""
    docs.write("a", b"")

    result = run("delete", "tpyo", "a")

    assert (result.exit_code, docs.list()) == (1, [])
    assert result.stderr == "Deleted a.\nError: tpyo not found in docs.\n"


def test_missing_files_may_be_allowed(run):
    """For scripts that only want the file to be gone."""
    result = run("delete", "tpyo", "--missing-ok")

    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize("folder", ["a", "a/"])
def test_a_folder_is_deleted_only_recursively(run, docs, folder):
    """Without --recursive the message says what is missing, and nothing happens."""
    docs.write("a/1", b"")
    docs.write("a/b/2", b"")
    docs.write("ab", b"")

    refused = run("delete", folder)
    untouched = len(docs.list())
    done = run("delete", folder, "--recursive")

    assert (refused.exit_code, untouched) == (1, 3)
    assert refused.stderr == f"Error: {folder} is a folder: pass --recursive to delete everything below it.\n"
    assert (done.exit_code, done.stderr) == (0, f"Deleted 2 files below {folder}.\n")
    assert [entry.name for entry in docs.list()] == ["ab"]


def test_recursive_takes_a_file_and_what_is_below_its_name(run, scratch):
    """Where a place has no folders, both can exist."""
    scratch.write("a", b"")
    scratch.write("a/1", b"")

    result = run("--profile", "scratch", "delete", "-r", "a")

    assert (result.stderr, scratch.list()) == ("Deleted a.\nDeleted 1 file below a.\n", [])


def test_a_bad_path_among_them_deletes_nothing(run, docs):
    """All paths are looked at before the first file goes."""
    docs.write("a", b"")

    result = run("delete", "a", "../b", "c//")

    assert (result.exit_code, docs.exists("a")) == (2, True)


def test_the_whole_storage_is_not_a_folder_to_delete(run, docs):
    """One slash must not empty everything."""
    docs.write("a", b"")

    result = run("delete", "-r", "/")

    assert (result.exit_code, docs.exists("a")) == (2, True)


def test_every_file_that_could_not_be_deleted_is_named(run, app):
    """A failure half-way tells for each file what was in the way."""
    stubborn = app.extensions["storage"]["stubborn"]
    for name in ("a", "kept1", "kept2"):
        stubborn.write(name, b"")

    result = run("--profile", "stubborn", "delete", "a", "kept1", "kept2")

    assert result.exit_code == 1
    assert result.stderr.splitlines()[-2:] == ["kept1: kept files stay", "kept2: kept files stay"]
    assert [entry.name for entry in stubborn.list()] == ["kept1", "kept2"]


# -- link -------------------------------------------------------------------------------------------------------------


def granted(app, url):
    """What a link of the default profile allows."""
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "shop.example", "/storage/docs")
    return app.extensions["storage"]["docs"].deserialize_link_token(parse_qs(parts.query)["token"][0])


def test_link_prints_the_url_and_nothing_else(run, app):
    """By default it downloads for an hour."""
    before = datetime.now(UTC).replace(microsecond=0)

    result = run("link", "a.txt")

    url = result.stdout.removesuffix("\n")
    data = granted(app, url)
    assert result.stderr == ""
    assert (data.path, str(data.operations)) == ("a.txt", "d")
    assert timedelta(0) <= data.request.expires_at - before - timedelta(hours=1) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("1h30m", 5400), ("2D", 172800), ("1w", 604800), ("1m30", 90)],
)
def test_a_link_lasts_as_long_as_it_is_told(run, app, text, seconds):
    """Seconds, or numbers with units."""
    before = datetime.now(UTC).replace(microsecond=0)

    url = run("link", "a", "-e", text).stdout.strip()

    left = granted(app, url).request.expires_at - before
    assert timedelta(seconds=seconds) <= left < timedelta(seconds=seconds + 60)


@pytest.mark.parametrize(
    "text", ["", "soon", "-5", "1.5h", "h", "1h1d", "9" * 30, "9" * 30 + "w", "101y", "\u0661h", "0"]
)
def test_no_link_without_a_sensible_end(run, text):
    """A duration that is none, is past, or ends after everybody's life, is a mistake."""
    result = run("link", "a", "--expiration", text)

    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_everything_a_link_can_be_told_is_signed(run, app):
    """Each option ends up in the token, where the link view reads it."""
    options = ["--upload", "--delete", "--filename", "Ü.txt", "--content-type", "text/csv", "--uses", "3"]

    result = run("link", "a", *options, "--max-size", "10M", "--exclusive")

    data = granted(app, result.stdout.strip())
    request = data.request
    assert str(data.operations) == "dur"
    assert (request.filename, request.content_type, request.uses) == ("Ü.txt", "text/csv", 3)
    assert (request.max_size, request.exclusive) == (10 * 1024**2, True)


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("500", 500), ("64k", 65536), ("2GiB", 2**31), ("1TB", 2**40)])
def test_sizes_are_understood_as_people_write_them(run, app, text, size):
    """Units are powers of 1024."""
    url = run("link", "a", "--no-download", "--upload", "--max-size", text).stdout.strip()

    assert granted(app, url).request.max_size == size


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
def test_a_link_that_makes_no_sense_is_a_mistake(run, options):
    """No operation, upload limits without an upload, no uses, a name of two lines."""
    result = run("link", "a", *options)

    assert (result.exit_code, result.stdout) == (2, "")


def test_link_as_json(run, app):
    """For programs that want to know more than the address."""
    facts = json.loads(run("link", "a", "--upload", "--json").stdout)

    assert list(facts) == ["url", "path", "operations", "expires_at"]
    assert facts["operations"] == ["download", "upload"]
    assert granted(app, facts["url"]).path == facts["path"] == "a"
    assert datetime.fromisoformat(facts["expires_at"]) > datetime.now(UTC)


def test_a_link_without_an_address_says_what_to_set(run, app, tmp_path):
    """A shell has no request that would tell where the app is reached."""
    bare = Flask("bare", instance_path=str(tmp_path / "bare"))
    bare.config.update(SECRET_KEY="k" * 32, STORAGE_PROFILES={"docs": "memory:"})
    Storage(bare)

    result = bare.test_cli_runner().invoke(args=["storage", "link", "a"])

    assert (result.exit_code, result.stdout) == (1, "")
    assert "STORAGE_EXTERNAL_URL" in result.stderr
    assert "SERVER_NAME" in result.stderr


# -- profiles, check and sweep ----------------------------------------------------------------------------------------


def test_profiles_are_listed_with_what_they_can_do(run):
    """The default one is marked; the columns stand below each other."""
    lines = run("profiles").stdout.splitlines()

    assert [line[:12] for line in lines] == ["* docs      ", "  scratch   ", "  stubborn  "]
    assert lines[0].split()[:3] == ["*", "docs", "LocalFSStorage"]
    assert "links:download+upload+remove" in lines[0]
    assert "local-paths" in lines[0]
    assert "local-paths" not in lines[1]


def test_one_profile_can_be_listed(run):
    """--profile means this one here too."""
    assert len(run("profiles", "--profile", "scratch").stdout.splitlines()) == 1


def test_profiles_as_json(run):
    """One document: what the table shows, for programs."""
    docs, scratch, _ = json.loads(run("profiles", "--json").stdout)

    assert (docs["name"], docs["backend"], docs["default"]) == ("docs", "LocalFSStorage", True)
    assert (scratch["name"], scratch["backend"], scratch["default"]) == ("scratch", "MemoryStorage", False)
    assert docs["capabilities"]["links"] == ["download", "upload", "remove"]
    assert (docs["capabilities"]["local_paths"], scratch["capabilities"]["local_paths"]) == (True, False)


def test_profiles_can_be_checked(run, docs):
    """Each is tried; one that does not work says why, and the exit status says that one did not."""
    well = run("profiles", "--check")
    docs.root.rename(docs.root.with_name("lost"))
    ill = run("profiles", "--check")
    facts = json.loads(run("profiles", "--check", "--json").stdout)

    assert (well.exit_code, well.stdout.count("works;")) == (0, 3)
    assert (ill.exit_code, ill.stdout.count("works;"), ill.stdout.count("FAILS: ")) == (1, 2, 1)
    assert [fact["error"] is None for fact in facts] == [False, True, True]


def test_no_secret_is_shown(app, run, docs):
    """Neither the app's key nor a storage's own is in anything that is printed about profiles."""
    docs._secret_key = b"its-own-secret"

    result = run("profiles", "--check", "--json")

    assert "k" * 32 not in result.output
    assert "its-own-secret" not in result.output


def test_check_tries_one_profile(run, docs):
    """It writes, reads and deletes; nothing of it stays."""
    well = run("check")
    left = os.listdir(docs.root)
    docs.root.rename(docs.root.with_name("lost"))
    ill = run("check")

    assert (well.exit_code, well.stderr, left) == (0, "docs works.\n", [])
    assert ill.exit_code == 1
    assert ill.stderr.startswith("Error: ")


def test_sweep_removes_leftovers(run, scratch):
    """Only of what was begun long enough ago."""
    scratch.multipart.create("a", WriteOptions())
    scratch.multipart.create("b", WriteOptions())

    early = run("--profile", "scratch", "sweep")
    late = run("--profile", "scratch", "sweep", "--older-than", "0")
    again = run("--profile", "scratch", "sweep", "--older-than", "0", "--json")

    assert early.stderr == "Removed 0 leftovers from scratch.\n"
    assert late.stderr == "Removed 2 leftovers from scratch.\n"
    assert json.loads(again.stdout) == {"profile": "scratch", "removed": 0}


def test_a_dry_run_lists_unfinished_uploads_and_removes_nothing(run, scratch):
    """When each was begun, its id and its path; only of what was begun long enough ago."""
    first = scratch.multipart.create("a/1.bin", WriteOptions())
    second = scratch.multipart.create("b.bin", WriteOptions())

    early = run("--profile", "scratch", "sweep", "--dry-run")
    late = run("--profile", "scratch", "sweep", "--dry-run", "--older-than", "0")

    assert (early.stdout, early.stderr) == ("", "0 unfinished uploads in parts in scratch.\n")
    rows = [line.split("\t") for line in late.stdout.splitlines()]
    assert [row[1:] for row in rows] == [[first, "a/1.bin"], [second, "b.bin"]]
    assert all(datetime.fromisoformat(row[0]).tzinfo for row in rows)
    assert late.stderr == "2 unfinished uploads in parts in scratch.\n"
    assert len(list(scratch.multipart.list_uploads())) == 2


def test_a_dry_run_as_json_has_every_fact(run, scratch):
    """One document, as of the sweep itself."""
    upload_id = scratch.multipart.create("a", WriteOptions())

    facts = json.loads(run("--profile", "scratch", "sweep", "--dry-run", "--older-than", "0", "--json").stdout)

    [upload] = facts["uploads"]
    assert facts["profile"] == "scratch"
    assert (upload["path"], upload["upload_id"]) == ("a", upload_id)
    assert datetime.fromisoformat(upload["started_at"]).tzinfo
    assert run("--profile", "scratch", "sweep", "--dry-run", "--older-than", "0").stderr.startswith(
        "1 unfinished upload "
    )


def test_a_dry_run_where_nothing_comes_in_parts_says_so(run, scratch, monkeypatch):
    """It is no failure: there is nothing to list."""
    monkeypatch.setattr(type(scratch), "capabilities", replace(scratch.capabilities, multipart=False))

    result = run("--profile", "scratch", "sweep", "--dry-run")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "scratch lists no uploads in parts.\n"


def test_one_leftover_is_one(run, scratch):
    """The message is English."""
    scratch.multipart.create("a", WriteOptions())

    assert run("--profile", "scratch", "sweep", "--older-than", "0").stderr == "Removed 1 leftover from scratch.\n"


# -- profiles on the command line -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["--profile", "scratch", "list", "--simple"],
        ["list", "--simple", "--profile", "scratch"],
        ["--profile", "docs", "list", "--simple", "--profile", "scratch"],
        ["--location", "scratch", "list", "--simple"],
    ],
)
def test_a_profile_is_chosen_before_or_after_the_command(run, scratch, args):
    """The command's own word is the last; keg-storage's --location still works."""
    scratch.write("here", b"")

    assert run(*args).stdout == "here\n"


def test_the_old_word_for_a_profile_is_not_advertised(run):
    """Help shows one way to say it."""
    text = run("list", "--help").stdout

    assert "--profile NAME" in text
    assert "--location" not in text


def test_an_unknown_profile_is_a_mistake(run):
    """The message names those that exist."""
    result = run("list", "--profile", "dosc")

    assert result.exit_code == 2
    assert "There is no profile 'dosc'; there is: docs, scratch, stubborn." in result.stderr


@pytest.mark.parametrize("path", ["../secret", "a/../../b", "a\\b", "x\x1b[31m", "a" * 300, "", "a//b", ".fs-tmp-1"])
@pytest.mark.parametrize("args", [["get"], ["stat"], ["delete"], ["link"], ["copy", "a"], ["put", "-"]])
def test_a_hostile_path_is_a_mistake(run, docs, args, path):
    """Nothing is touched, and the message cannot steer the terminal."""
    docs.write("a", b"")

    result = run(*args, path, stdin=b"1")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr
    assert "\x1b" not in result.stderr
    assert [entry.name for entry in docs.list()] == ["a"]


# -- the group --------------------------------------------------------------------------------------------------------


def test_help_names_every_command(run):
    """With one line for each."""
    text = run("--help").stdout

    commands = text.partition("Commands:")[2].split("\n")
    names = [line.split()[0] for line in commands if line.strip()]
    assert "..." not in text.partition("Commands:")[2]
    assert names == ["check", "copy", "delete", "get", "link", "list", "move", "profiles", "put", "stat", "sweep"]


def test_an_unknown_command_is_a_mistake(run):
    """Click says so."""
    assert run("destroy").exit_code == 2


def test_an_app_can_add_commands_and_replace_ours(tmp_path):
    """The group is an ordinary click group."""
    from flask_storage.cli import StorageGroup

    group = StorageGroup("storage")
    ours = group.get_command(click.Context(group), "list")
    theirs = click.Command("list")
    group.add_command(theirs)
    group.add_command(click.Command("greet"))

    context = click.Context(group)

    assert "greet" in group.list_commands(context)
    assert group.get_command(context, "greet") is group.commands["greet"]
    assert group.get_command(context, "list") is theirs is not ours


def test_the_group_can_be_called_otherwise(tmp_path):
    """For apps that have a `flask storage` of their own."""
    app = Flask("shop", instance_path=str(tmp_path))
    Storage(app, cli_group_name="files")

    assert app.test_cli_runner().invoke(args=["files", "list"]).exit_code == 0


# -- for people -------------------------------------------------------------------------------------------------------


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
def test_sizes_are_short(size, text):
    """At most three digits before the dot, as `ls -h` has it."""
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("days", "text"),
    [(0, "today"), (1, "yesterday"), (-1, "tomorrow"), (30, "May 16"), (-30, "Jul 15"), (400, "May 11 2025")],
)
def test_days_are_named_as_people_name_them(days, text):
    """The year is there only where it is needed."""
    assert human_date(DAY - timedelta(days=days), now=DAY) == text


def test_text_for_a_terminal_is_harmless():
    """Letters of every script stay, controls become visible."""
    assert printable("Ü 日本 \x1b[2J\u202e\n") == "Ü 日本 \\x1b[2J\\u202e\\n"

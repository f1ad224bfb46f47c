"""Directories, and files between profiles, on the command line: equal files are skipped, and no file is lost."""

import os
import warnings
from dataclasses import replace

import pytest
from flask import Flask

from flask_storage import MemoryStorage, Storage, StorageUnavailableError
from flask_storage.cli.compare import Content, is_equal
from flask_storage.streams import SupportsRead

pytest_plugins = ["tests.services.s3"]


class Plain(MemoryStorage):
    """A storage that keeps neither headers nor metadata."""

    capabilities = replace(MemoryStorage.capabilities, content_headers=False, metadata=False)


class Unreliable(MemoryStorage):
    """A storage that fails, or stores other bytes, for one file."""

    fails_for = garbles = None

    def _store(self, path, data, headers, options):
        if path == self.fails_for:
            raise StorageUnavailableError(f"{path}: the connection broke off")
        super()._store(path, data[::-1] if path == self.garbles else data, headers, options)


@pytest.fixture
def app(tmp_path, monkeypatch):
    """An app with several profiles; `same` leads to the directory of `docs`. The working directory is empty."""
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    local = {"backend": "local", "root": tmp_path / "docs", "create": True, "fsync": False}
    app.config["SECRET_KEY"] = "k" * 32
    app.config["STORAGE_EXTERNAL_URL"] = "https://shop.example"
    app.config["STORAGE_PROFILES"] = {
        "docs": local,
        "same": local,
        "media": {"backend": Unreliable},
        "plain": {"backend": Plain},
    }
    Storage(app)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return app


@pytest.fixture
def storages(app):
    """The storages by profile."""
    return app.extensions["storage"]


@pytest.fixture
def run(app):
    """A function that runs `flask storage` with arguments."""

    def run(*args):
        result = app.test_cli_runner().invoke(args=["storage", *args])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


def fill(storage, *paths):
    """Store a file for each path; its content is the path."""
    for path in paths:
        storage.write(path, path.encode())


def names(storage):
    """Return the paths in a storage."""
    return [entry.name for entry in storage.list()]


def make_local(**files):
    """Create local files; two underscores in a name are a slash, and one is a dot."""
    for name, content in files.items():
        path = name.replace("__", "/").replace("_", ".")
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "w") as file:
            file.write(content)


# -- put --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["docs", "media"])
def test_put_uploads_a_folder_and_skips_what_is_equal(run, storages, profile):
    """A second run uploads only what has changed, also to another content of the same size."""
    make_local(photos__a_txt="1", photos__june__b_txt="22", photos__june__c_txt="333")

    first = run("--profile", profile, "put", "-r", "photos", "2026")
    make_local(photos__a_txt="X", photos__june__b_txt="longer")
    second = run("--profile", profile, "put", "-r", "photos", "2026")

    assert (first.exit_code, first.stderr) == (0, "Uploaded 3 files to 2026.\n")
    assert second.stderr == "Uploaded 2 files to 2026, and skipped 1 that is equal.\n"
    assert names(storages[profile]) == ["2026/a.txt", "2026/june/b.txt", "2026/june/c.txt"]
    assert storages[profile].read("2026/a.txt") == b"X"
    assert storages[profile].read("2026/june/b.txt") == b"longer"


@pytest.mark.parametrize(
    ("folder", "path", "stored"),
    [("photos", "2026/", "2026/photos/a"), ("photos/", "/", "photos/a"), ("photos", "", "a"), ("./photos", "x", "x/a")],
)
def test_a_folder_keeps_its_name_below_a_path_that_ends_in_a_slash(run, storages, folder, path, stored):
    """Otherwise its files are directly below the path; so repeating a command stores nothing elsewhere."""
    make_local(photos__a="1")

    run("put", "-r", folder, path)
    run("put", "-r", folder, path)

    assert names(storages["docs"]) == [stored]


def test_an_upload_that_was_interrupted_is_continued(run, storages):
    """The error names the file; what was stored before is skipped by the next run."""
    make_local(photos__a="1", photos__b="2", photos__c="3")
    storages["media"].fails_for = "p/b"

    failed = run("--profile", "media", "put", "-r", "photos", "p")
    storages["media"].fails_for = None
    done = run("--profile", "media", "put", "-r", "photos", "p")

    assert (failed.exit_code, failed.stderr) == (1, "Error: p/b: the connection broke off\n")
    assert done.stderr == "Uploaded 2 files to p, and skipped 1 that is equal.\n"


def test_an_invalid_name_is_found_before_the_first_upload(run, storages):
    """Nothing is changed."""
    make_local(photos__a="1")
    with open("photos/back\\slash", "w"):
        pass

    result = run("put", "-r", "photos", "p")

    assert (result.exit_code, names(storages["docs"])) == (2, [])


def test_two_names_that_become_one_path_are_refused(run, storages):
    """Paths are normalized, so one file would replace the other."""
    os.mkdir("photos")
    for name in ("\u00e9", "e\u0301"):
        with open(f"photos/{name}", "w"):
            pass

    result = run("put", "-r", "photos", "p")

    assert (result.exit_code, names(storages["docs"])) == (2, [])
    assert "Two local names differ only in how their letters are encoded" in result.stderr


def test_links_and_pipes_are_skipped(run, storages):
    """A link may lead to a file outside of the folder."""
    make_local(photos__a="1", secret="2")
    os.symlink("../secret", "photos/link")
    os.symlink("..", "photos/parent")
    os.mkfifo("photos/pipe")

    result = run("put", "-r", "photos", "p")

    assert names(storages["docs"]) == ["p/a"]
    assert result.stderr.splitlines() == [
        *(f"Skipped photos/{name}, which is no regular file." for name in ("link", "parent", "pipe")),
        "Uploaded 1 file to p.",
    ]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["put", "photos", "p"], "it is a folder: pass --recursive"),
        (["put", "-r", "photos", "p", "--content-type", "text/plain"], "--content-type is for one file"),
        (["get", "-r", "p", "-"], "cannot be downloaded to standard output"),
        (["copy", "-r", "p", "p/q"], "One of the folders contains the other"),
        (["move", "-r", "p/q", "p"], "One of the folders contains the other"),
        (["move", "-r", "p", "p"], "One of the folders contains the other"),
        (["copy", "-r", "/", "p"], "One of the folders contains the other"),
    ],
)
def test_a_wrong_use_of_folders_is_refused(run, storages, args, text):
    """As a usage error; nothing is changed."""
    make_local(photos__a="1")
    fill(storages["docs"], "p/q/a", "p/a")

    result = run(*args)

    assert (result.exit_code, text in result.stderr) == (2, True)
    assert names(storages["docs"]) == ["p/a", "p/q/a"]


def test_a_folder_that_cannot_be_read_is_an_error(run, storages, monkeypatch):
    """Its files would be missing from the copy."""
    make_local(photos__a="1")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path) == "photos":
            raise PermissionError(13, "Permission denied", "photos")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)

    result = run("put", "-r", "photos", "p")

    assert (result.exit_code, result.stderr) == (1, "Error: photos: Permission denied\n")


# -- get --------------------------------------------------------------------------------------------------------------


def test_get_downloads_a_folder_and_skips_what_is_equal(run, storages):
    """A second run downloads only what differs."""
    fill(storages["docs"], "p/a", "p/q/b", "p/q/c", "pq")

    first = run("get", "-r", "p", "copy")
    make_local(copy__a="XXX", copy__q__b="other")
    second = run("get", "-r", "p", "copy")

    assert first.stderr == "Downloaded 3 files to copy.\n"
    assert second.stderr == "Downloaded 2 files to copy, and skipped 1 that is equal.\n"
    assert sorted(os.listdir("copy")) == ["a", "q"]
    with open("copy/a") as a, open("copy/q/b") as b:
        assert (a.read(), b.read()) == ("p/a", "p/q/b")


@pytest.mark.parametrize(
    ("args", "file"),
    [(["p"], "p/a"), (["p", "x/"], "x/p/a"), (["p/", "x"], "x/a"), (["/"], "p/a"), (["", "x"], "x/p/a")],
)
def test_get_names_the_local_folder(run, storages, args, file):
    """By default as in the storage, in the working directory."""
    fill(storages["docs"], "p/a")

    assert run("get", "-r", *args).exit_code == 0

    assert os.path.isfile(file)


def test_get_replaces_no_file_with_exclusive_unless_it_is_equal(run, storages):
    """So an interrupted download can be continued."""
    fill(storages["docs"], "p/a", "p/b")
    make_local(copy__a="p/a")
    done = run("get", "-r", "p", "copy", "--exclusive")
    make_local(copy__b="XXX")

    refused = run("get", "-r", "p", "copy", "--exclusive")

    assert done.exit_code == 0
    assert (refused.exit_code, refused.stderr) == (1, "Error: copy/b exists already.\n")


def test_a_local_file_in_place_of_a_folder_is_named(run, storages):
    """By the name of the operating system's error."""
    fill(storages["docs"], "p/a/b")
    make_local(copy__a="1")

    result = run("get", "-r", "p", "copy")

    assert (result.exit_code, result.stderr) == (1, "Error: copy/a/b: File exists\n")


@pytest.mark.parametrize("args", [["get", "-r", "p"], ["copy", "-r", "p", "q"], ["move", "-r", "docs:p", "media:"]])
def test_a_folder_without_files_is_an_error(run, args):
    """It is probably misspelled."""
    result = run(*args)

    assert (result.exit_code, "has no files below it in docs" in result.stderr) == (1, True)


# -- copy and move ----------------------------------------------------------------------------------------------------


def test_a_file_is_copied_to_another_profile_with_its_headers(run, storages):
    """As far as the target stores them."""
    storages["media"].write("a.txt", b"1", content_type="text/x-a", cache_control="no-store", metadata={"owner": "ann"})

    kept = run("copy", "media:a.txt", "docs:b.txt")
    dropped = run("copy", "media:a.txt", "plain:")

    info = storages["docs"].stat("b.txt")
    assert (kept.exit_code, kept.stderr) == (0, "Copied media:a.txt to docs:b.txt.\n")
    assert (info.content_type, info.cache_control, info.metadata) == ("text/x-a", "no-store", {"owner": "ann"})
    assert (dropped.stderr, storages["plain"].read("a.txt")) == ("Copied media:a.txt to plain:a.txt.\n", b"1")


@pytest.mark.parametrize(
    ("source", "target", "left", "stored"),
    [
        ("a", "media:x/", ["docs:a"], "x/a"),
        ("/docs:a", "media:b", ["a"], "b"),
        ("docs:docs:a", "media:b", ["a"], "b"),
        ("docs:a", "media:12:30", ["docs:a"], "12:30"),
    ],
)
def test_a_name_may_contain_a_colon(run, storages, source, target, left, stored):
    """Text before the first colon is a profile only if the app has it; a leading slash avoids that."""
    fill(storages["docs"], "a", "docs:a")

    assert run("move", source, target).exit_code == 0

    assert (names(storages["docs"]), names(storages["media"])) == (left, [stored])


@pytest.mark.parametrize(
    ("source", "target", "advice"),
    [
        ("dosc:a", "media:a", "did you mean 'docs'? Write /dosc:a for"),
        ("docs:a", "medai:", "did you mean 'media'? Write /medai: for"),
        ("docs:a", "MEDIA:a", "did you mean 'media'? Write /MEDIA:a for"),
    ],
)
def test_a_misspelled_profile_is_not_the_name_of_a_file(run, storages, source, target, advice):
    """The message suggests the profile, and says how to name such a file."""
    fill(storages["docs"], "a", "dosc:a")

    result = run("move", source, target)

    assert result.exit_code == 2
    assert advice in result.stderr
    assert (names(storages["docs"]), names(storages["media"])) == (["a", "dosc:a"], [])


def test_a_directory_may_have_a_name_like_a_profile(run, storages):
    """A colon in the name of a file below it is no end of a profile."""
    fill(storages["docs"], "a")

    assert run("copy", "a", "docs/b:1").exit_code == 0

    assert names(storages["docs"]) == ["a", "docs/b:1"]


def test_an_existing_file_of_another_profile_is_kept_with_exclusive(run, storages):
    """And the source of a move stays."""
    fill(storages["docs"], "a")
    storages["media"].write("a", b"old")

    result = run("move", "docs:a", "media:a", "--exclusive")

    assert (result.exit_code, storages["media"].read("a"), names(storages["docs"])) == (1, b"old", ["a"])


@pytest.mark.parametrize(("old", "new"), [("docs:p", "media:x"), ("media:p", "docs:x"), ("p", "x")])
@pytest.mark.parametrize("command", ["copy", "move"])
def test_a_folder_is_copied_or_moved(run, storages, command, old, new):
    """Within a profile and between two; a move leaves nothing, and other files stay."""
    source, target = (storages[text.partition(":")[0] if ":" in text else "docs"] for text in (old, new))
    fill(source, "p/a", "p/q/b", "pq")
    target.write("x/a", b"p/a")

    result = run(command, "-r", old, new)

    past = "Copied" if command == "copy" else "Moved"
    assert result.stderr == f"{past} 1 file to {new}, and skipped 1 that is equal.\n"
    assert {"x/a", "x/q/b"} <= set(names(target))
    assert (set(names(source)) & {"p/a", "p/q/b", "pq"}) == ({"p/a", "p/q/b", "pq"} if command == "copy" else {"pq"})
    assert not [name for name in (*names(source), *names(target)) if "moving" in name]


def test_a_move_that_fails_half_way_deletes_nothing_and_can_be_continued(run, storages):
    """All files are copied before the first is deleted."""
    fill(storages["docs"], "p/a", "p/b", "p/c")
    storages["media"].fails_for = "x/b"

    failed = run("move", "-r", "docs:p", "media:x")
    left = names(storages["docs"])
    storages["media"].fails_for = None
    done = run("move", "-r", "docs:p", "media:x")

    assert (failed.exit_code, left) == (1, ["p/a", "p/b", "p/c"])
    assert done.stderr == "Moved 2 files to media:x, and skipped 1 that is equal.\n"
    assert (names(storages["docs"]), names(storages["media"])) == ([], ["x/a", "x/b", "x/c"])


@pytest.mark.parametrize("args", [["docs:p/a", "media:x/a"], ["-r", "docs:p", "media:x"]])
def test_a_copy_that_differs_keeps_the_source(run, storages, args):
    """The content is compared before anything is deleted."""
    fill(storages["docs"], "p/a")
    storages["media"].garbles = "x/a"

    result = run("move", *args)

    assert (result.exit_code, names(storages["docs"])) == (1, ["p/a"])
    assert "media:x/a differs from docs:p/a after copying: nothing was deleted" in result.stderr


@pytest.mark.parametrize("args", [["docs:p/a", "media:x/a"], ["-r", "docs:p", "media:x"]])
def test_a_source_that_is_replaced_concurrently_is_kept(run, storages, monkeypatch, args):
    """Even if the new content is the same: another process wrote it after the copy."""
    fill(storages["docs"], "p/a")
    store = storages["media"]._store

    def replace_source(path, data, headers, options):
        store(path, data, headers, options)
        if path == "x/a":
            storages["docs"].write("p/a", b"p/a")

    monkeypatch.setattr(storages["media"], "_store", replace_source)

    result = run("move", *args)

    assert (result.exit_code, names(storages["docs"])) == (1, ["p/a"])
    assert "docs:p/a was replaced while it was moved" in result.stderr


def test_a_source_that_is_replaced_while_other_files_are_compared_is_kept(run, storages, monkeypatch):
    """Each file is checked again just before it is deleted."""
    fill(storages["docs"], "p/a", "p/b")
    open_reader = storages["media"]._open_reader

    def replace_source(path):
        if path == "x/b":  # the comparison of p/a has ended
            storages["docs"].write("p/a", b"new")
        return open_reader(path)

    monkeypatch.setattr(storages["media"], "_open_reader", replace_source)

    result = run("move", "-r", "docs:p", "media:x")

    assert (result.exit_code, storages["docs"].read("p/a")) == (1, b"new")
    assert "docs:p/a was replaced while it was moved" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["docs:p/a", "same:p/a"],
        ["-r", "docs:p", "same:p"],
        ["-r", "docs:p", "same:p/q"],
        ["-r", "docs:p/q", "same:p"],
        ["docs:a", "same:A"],
    ],
)
def test_a_file_is_not_moved_onto_itself_through_another_profile(run, storages, args):
    """Both profiles lead to one directory: the file would be deleted, or replaced before it is copied."""
    fill(storages["docs"], "p/a", "p/q/q/z", "p/q/z", "a")

    result = run("move", *args)

    assert (result.exit_code, names(storages["docs"])) == (2, ["a", "p/a", "p/q/q/z", "p/q/z"])
    assert "lead to the same files: nothing was moved" in result.stderr


def test_a_folder_is_copied_to_one_that_contains_it_through_another_profile(run, storages):
    """A file is copied before one from deeper inside replaces it."""
    fill(storages["docs"], "p/q/q/z", "p/q/z")

    result = run("copy", "-r", "docs:p/q", "same:p")

    docs = storages["docs"]
    assert (result.exit_code, docs.read("p/z"), docs.read("p/q/z")) == (0, b"p/q/z", b"p/q/q/z")


def test_a_folder_is_put_and_moved_on_s3(tmp_path, localstack, monkeypatch):
    """Checksums of the service tell what is equal, so nothing is downloaded to compare it."""
    bucket = localstack.make_bucket()
    app = Flask("shop", instance_path=str(tmp_path))
    s3 = {
        "backend": "s3",
        "bucket": bucket,
        "region": localstack.region,
        "aws_access_key_id": localstack.access_key,
        "aws_secret_access_key": localstack.secret_key,
        "endpoint_url": localstack.http,
        "preset": "aws",
        "addressing_style": "path",
    }
    app.config["STORAGE_PROFILES"] = {"bucket": s3, "docs": "memory:"}
    Storage(app)
    monkeypatch.chdir(tmp_path)
    make_local(photos__a="1", photos__june__b="2")
    opened = []
    storage = app.extensions["storage"]["bucket"]
    open_reader = storage._open_reader

    def recording(path):
        opened.append(path)
        return open_reader(path)

    monkeypatch.setattr(storage, "_open_reader", recording)

    def run(*args):
        return app.test_cli_runner().invoke(args=["storage", *args]).stderr

    first, second = (run("put", "-r", "photos", "p") for _ in range(2))
    opened_for_put = list(opened)
    moved = run("move", "-r", "bucket:p", "docs:q")

    assert first == "Uploaded 2 files to p.\n"
    assert (second, opened_for_put) == ("Uploaded 0 files to p, and skipped 2 that are equal.\n", [])
    assert (moved, opened) == ("Moved 2 files to docs:q.\n", ["p/a", "p/june/b"])
    assert (names(storage), names(app.extensions["storage"]["docs"])) == ([], ["q/a", "q/june/b"])
    storage.close()
    localstack.remove_bucket(bucket)


# -- comparing --------------------------------------------------------------------------------------------------------


class Unread(SupportsRead):
    """A file that must not be read."""

    def __enter__(self):
        raise AssertionError("the content was read")

    def __exit__(self, *_):
        raise AssertionError


def content(data=None, **known):
    """Return a content; without data it must not be read."""
    import io

    return Content(**{"size": 3, "open": Unread if data is None else lambda: io.BytesIO(data), **known})


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (content(size=3), content(size=4), False),
        (content(checksums={"crc64nvme": "1"}), content(checksums={"crc64nvme": "1"}), True),
        (content(checksums={"md5": "1", "sha1": "2"}), content(checksums={"md5": "1", "sha1": "3"}), False),
        (content(etag="1"), content(etag="1"), True),
        (content(checksums={"crc32": "352441c2"}), content(b"abc"), True),
        (content(b"abd"), content(checksums={"crc32": "352441c2"}), False),
        (content(checksums={"md5": "900150983cd24fb0d6963f7d28e17f72"}), content(b"abc"), True),
        (content(b"abc", etag="1"), content(b"abc", etag="2"), True),
        (content(b"abc", checksums={"crc64nvme": "1"}), content(b"abd"), False),
    ],
)
def test_contents_are_compared_with_as_little_reading_as_possible(one, other, expected):
    """By size, by checksums that are known, by etags, and otherwise by reading."""
    assert is_equal(one, other) is expected


# -- warnings ---------------------------------------------------------------------------------------------------------


def test_a_warning_about_a_link_is_a_message(app, run, monkeypatch):
    """Without the source line that Python prints; the link goes to standard output alone."""
    link_to = MemoryStorage.link_to

    def warn(self, *args, **kwargs):
        warnings.warn("links are valid for seven days at most", stacklevel=2)
        return link_to(self, *args, **kwargs)

    monkeypatch.setattr(MemoryStorage, "link_to", warn)

    result = run("--profile", "media", "link", "a", "-e", "8d")

    assert (result.exit_code, result.stderr) == (0, "Warning: links are valid for seven days at most.\n")
    assert result.stdout.startswith("https://shop.example/storage/media?token=")

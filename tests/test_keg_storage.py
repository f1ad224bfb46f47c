"""What the predecessor did wrong with files on disk and with links must stay dead: one test for each defect."""

import contextlib
import gc
import hashlib
import io
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest

from flask_storage import (
    ConfigurationError,
    FileMode,
    FileNotFoundInStorageError,
    InvalidLinkError,
    InvalidPathError,
    LocalFSStorage,
    MemoryStorage,
    ShareLinkOperation,
    StorageError,
    StorageUnavailableError,
)
from flask_storage.testing import FailingStorage
from flask_storage.tokens import LinkSigner, derive_key
from flask_storage.types import LinkContext

HOUR = timedelta(hours=1)


@pytest.fixture
def secret(tmp_path):
    """A file beside the root of `local_storage`."""
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"secret")
    return secret


# -- lost and damaged data --------------------------------------------------------------------------------------------


def test_leaving_a_block_by_an_exception_does_not_publish(storage):
    """Fifteen of thirty megabytes do not replace a good file."""
    storage.write("good.bin", b"good")

    with pytest.raises(ZeroDivisionError), storage.open("good.bin", "w") as writer:  # noqa: PT012 - it ends in mid-block
        writer.write(bytes(15 * 1024 * 1024))
        raise ZeroDivisionError

    assert storage.read("good.bin") == b"good"


def test_garbage_collection_does_not_publish(storage):
    """A file appears by being closed, never by being forgotten."""
    writer = storage.open("file.bin", "w")
    writer.write(b"x")

    with pytest.warns(ResourceWarning):  # noqa: PT031 - dropping it is two steps
        del writer
        gc.collect()

    assert not storage.exists("file.bin")


def test_an_empty_write_makes_and_empties_files(storage):
    """Writing nothing creates an empty file, and replaces a full one by an empty one."""
    storage.write("full.bin", b"full")

    for path in ("full.bin", "new.bin"):
        storage.upload(io.BytesIO(b""), path)

    assert storage.read("full.bin") == storage.read("new.bin") == b""


def test_a_reader_never_sees_a_file_being_written(storage):
    """Replacing is not truncating: before, it is the old file; afterwards, the new one."""
    storage.write("file.bin", b"old")

    with storage.open("file.bin", "w") as writer:
        seen = []
        for _ in range(5):
            writer.write(bytes(100_000))
            seen.append(storage.read("file.bin"))

    assert seen == [b"old"] * 5
    assert storage.size("file.bin") == 500_000


def test_copying_a_file_onto_itself_keeps_it(storage):
    """It was emptied."""
    storage.write("a/file.bin", b"content")

    storage.copy("a/file.bin", "a/file.bin")
    storage.copy("a/file.bin", "/a/file.bin")

    assert storage.read("a/file.bin") == b"content"


def test_a_failed_get_leaves_the_local_file_alone(storage, tmp_path):
    """A missing file neither empties nor creates the local one."""
    kept = tmp_path / "kept.txt"
    kept.write_bytes(b"kept")

    for dest in (kept, tmp_path / "new.txt"):
        with pytest.raises(FileNotFoundInStorageError):
            storage.get("missing.txt", dest)

    assert kept.read_bytes() == b"kept"
    assert not (tmp_path / "new.txt").exists()


def test_closing_after_a_failed_write_publishes_nothing():
    """The part that failed was sent again by `close`, and the rest was missing from the published file."""
    storage = FailingStorage(MemoryStorage())
    storage.write("file.bin", b"good")
    storage.fail("write", on=2)
    writer = storage.open("file.bin", "w")
    writer.write(b"first part")

    with pytest.raises(StorageUnavailableError):
        writer.write(b"second part")
    writer.close()

    assert storage.read("file.bin") == b"good"


def test_reading_and_writing_does_not_truncate(storage):
    """Opening for both keeps what is there."""
    storage.write("file.bin", b"0123456789")

    with storage.open("file.bin", FileMode.read | FileMode.write) as updater:
        updater.write(b"ab")

    assert storage.read("file.bin") == b"ab23456789"


def test_the_loser_of_two_writers_gets_no_strange_error(storage):
    """Of two writers on one path both finish; the last is what remains."""
    first, second = storage.open("file.bin", "w"), storage.open("file.bin", "w")
    first.write(b"first")
    second.write(b"second")

    first.close()
    second.close()

    assert storage.read("file.bin") == b"second"


def test_a_name_with_a_leading_dot_is_another_name(storage):
    """`.env` and `env` were one file."""
    storage.write(".env", b"hidden")
    storage.write("env", b"plain")

    assert storage.read(".env") == b"hidden"
    assert storage.save(".env", b"saved") != storage.save("env", b"saved")


# -- out of the root --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["../secret.txt", "../../secret.txt", "{secret}", "/{secret}", "a/../../secret.txt"])
def test_copy_does_not_read_outside_the_root(local_storage, secret, source):
    """The source of a copy is confined as every other path is."""
    source = source.format(secret=secret)

    with pytest.raises(StorageError):
        local_storage.copy(source, "stolen.txt")

    assert local_storage.list() == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_symbolic_links_lead_nowhere(local_storage, secret, kind):
    """A link that was planted inside the root is neither read, written, listed nor deleted through."""
    if kind == "file":
        (local_storage.root / "link.txt").symlink_to(secret)
        path = "link.txt"
    else:
        (local_storage.root / "link").symlink_to(secret.parent)
        path = "link/secret.txt"
    outside = sorted(secret.parent.iterdir())

    for verb in (
        lambda: local_storage.read(path),
        lambda: local_storage.copy(path, "stolen.txt"),
        lambda: local_storage.move(path, "stolen.txt"),
        lambda: local_storage.open(path, "rw"),
    ):
        with pytest.raises(StorageError):
            verb()
    for verb in (
        lambda: local_storage.write(path, b"overwritten"),
        lambda: local_storage.delete(path),
        lambda: local_storage.delete_prefix("link"),
        lambda: local_storage.list("link"),
    ):
        with contextlib.suppress(StorageError):
            assert not verb()

    assert secret.read_bytes() == b"secret"
    assert sorted(secret.parent.iterdir()) == outside
    assert local_storage.list() == []


@pytest.mark.parametrize("path", ["a\x00b", "a\nb", "a\x1b[31mb", "a\u202eb", "x" * 256, "x/" * 600 + "x"])
def test_a_name_no_system_should_see_is_our_error(storage, path):
    """Control characters were accepted; NUL and long names raised the system's own errors."""
    for verb in (storage.read, storage.delete, storage.exists, lambda path: storage.write(path, b"")):
        with pytest.raises(InvalidPathError):
            verb(path)


def test_names_with_shell_characters_are_names(storage):
    """`~`, `?` and `*` were refused, and so was every file below a root that has one in its own path."""
    for path in ("~a", "what?", "2*3"):
        storage.write(path, b"1")

    assert [entry.name for entry in storage.list()] == ["2*3", "what?", "~a"]


def test_files_and_folders_are_private(local_storage):
    """Neither is readable by others, whatever the umask, nor are the folders in between."""
    old = os.umask(0)
    try:
        local_storage.write("a/b/file.txt", b"1")
    finally:
        os.umask(old)

    modes = [stat.S_IMODE((local_storage.root / path).stat().st_mode) for path in ("a", "a/b", "a/b/file.txt")]
    assert modes == [0o700, 0o700, 0o600]


# -- links ------------------------------------------------------------------------------------------------------------


def _linked(name="docs", secret_key=b"s" * 32, **arguments):
    return MemoryStorage(name, linked_endpoint="link", secret_key=secret_key, **arguments)


@pytest.mark.parametrize("empty", [b"", ""])
def test_an_empty_secret_is_refused(empty):
    """Anybody could have signed with it."""
    with pytest.raises(ConfigurationError):
        _linked(secret_key=empty)
    with pytest.raises(ValueError, match="empty"):
        LinkSigner([empty.encode() if isinstance(empty, str) else empty], "docs")


def test_a_secret_may_be_text_or_any_bytes():
    """Text raised an AttributeError, bytes that are no UTF-8 a UnicodeDecodeError."""
    for secret in ("text" * 8, bytes(range(224, 256))):
        storage = _linked(secret_key=secret)

        token = storage.create_link_token(path="a", operation="d", expire=HOUR)

        assert storage.deserialize_link_token(token).path == "a"


def test_name_and_secret_do_not_run_into_each_other():
    """The key of ("a", "bc") was that of ("ab", "c")."""
    pairs = [("a", b"bsigner" + b"c" * 32), ("asignerb", b"c" * 32), ("", b"asignerbsigner" + b"c" * 32)]

    keys = {derive_key(secret, name) for name, secret in pairs}

    assert len(keys) == len(pairs)


def test_two_roots_of_one_name_do_not_share_links(tmp_path):
    """`/t1/uploads` and `/t2/uploads` accepted each other's tokens."""
    one, other = (
        LocalFSStorage(tmp_path / tenant / "uploads", create=True, linked_endpoint="link", secret_key=b"s" * 32)
        for tenant in ("t1", "t2")
    )

    token = one.create_link_token(path="a", operation="d", expire=HOUR)

    assert one.name == other.name == "fs-uploads"
    assert one.deserialize_link_token(token).path == "a"
    with pytest.raises(InvalidLinkError):
        other.deserialize_link_token(token)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "none"])
def test_only_one_algorithm_is_taken(algorithm):
    """Any HMAC was good enough."""
    claims = {"key": "a", "op": "d", "aud": "docs", "iat": 0, "exp": datetime.now(UTC) + HOUR}
    key = "" if algorithm == "none" else derive_key(b"s" * 32, "docs")

    with pytest.raises(InvalidLinkError):
        _linked().deserialize_link_token(jwt.encode(claims, key, algorithm))


@pytest.mark.parametrize("missing", ["exp", "aud", "key", "op"])
def test_a_token_that_lacks_a_claim_is_refused(missing):
    """Without an expiry it was good for ever, without an audience everywhere, without a path a crash."""
    claims = {"key": "a", "op": "d", "aud": "docs", "iat": 0, "exp": datetime.now(UTC) + HOUR}
    key = derive_key(b"s" * 32, "docs")
    whole = jwt.encode(claims, key, "HS512")
    del claims[missing]

    with pytest.raises(InvalidLinkError):
        _linked().deserialize_link_token(jwt.encode(claims, key, "HS512"))

    assert _linked().deserialize_link_token(whole).path == "a"


def test_words_are_not_read_by_their_letters():
    """`upload` also meant download, `read` meant removal."""
    assert ShareLinkOperation.as_operation("upload") is ShareLinkOperation.upload
    assert ShareLinkOperation.as_operation("remove") is ShareLinkOperation.remove
    for word in ("read", "write", "delete", "up", "r+"):
        with pytest.raises(ValueError, match="operation"):
            ShareLinkOperation.as_operation(word)


def test_the_saved_name_is_signed():
    """The name of a download was an unsigned parameter that anybody could change."""
    bound = MemoryStorage()
    bound.set_link_context(
        LinkContext(profile="docs", secrets=lambda: (b"s" * 32,), link_url=lambda token, endpoint: f"/x?token={token}")
    )

    url = bound.link_to("a.txt", "d", HOUR, output_path='in"voice.txt')

    token = url.partition("token=")[2]
    request = bound.deserialize_link_token(token).request
    assert request is not None
    assert request.filename == 'in"voice.txt'
    assert "voice" not in url


def test_a_past_expiry_is_refused():
    """A naive moment means UTC, whatever the server's clock is set to."""
    past = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=5)

    with pytest.raises(ValueError, match="past"):
        _linked().create_link_token(path="a", operation="d", expire=past)


# -- one meaning everywhere -------------------------------------------------------------------------------------------


def test_a_root_may_be_text_without_a_name(tmp_path):
    """A str was annotated and raised an AttributeError."""
    storage = LocalFSStorage(str(tmp_path))

    assert storage.name == f"fs-{tmp_path.name}"
    assert storage.root == Path(os.path.realpath(tmp_path))


def test_a_missing_file_is_one_error_everywhere(storage):
    """There were three kinds, and deleting raised on two backends of four."""
    for verb in (
        lambda: storage.open("missing", "r"),
        lambda: storage.open("missing", "rw"),
        lambda: storage.stat("missing"),
        lambda: storage.copy("missing", "new"),
        lambda: storage.move("missing", "new"),
    ):
        with pytest.raises(FileNotFoundInStorageError):
            verb()
    storage.delete("missing")


def test_listing_means_one_thing_everywhere(storage):
    """It meant a prefix, one level, bare names, or everything below."""
    for path in ("ls/a.txt", "ls/deep/b.txt", "lsother.txt", "z.txt"):
        storage.write(path, b"")

    assert [entry.name for entry in storage.list("ls")] == ["ls/a.txt", "ls/deep/b.txt"]
    assert [entry.name for entry in storage.list("/")] == ["ls/a.txt", "ls/deep/b.txt", "lsother.txt", "z.txt"]
    assert storage.list("missing") == []
    assert all(entry.last_modified is not None for entry in storage.list())


def test_a_content_type_is_kept(storage):
    """It was accepted and thrown away."""
    storage.upload(io.BytesIO(b"1"), "a.png", extra_args={"ContentType": "image/png", "ContentEncoding": "br"})

    info = storage.stat("a.png")
    assert (info.content_type, info.content_encoding) == ("image/png", "br")


def test_reading_without_a_size_reads_everything(storage):
    """`read(-1)` returned nothing."""
    storage.write("a.bin", b"0123456789")

    with storage.open("a.bin", "r") as reader:
        assert reader.read(-1) == b"0123456789"


def test_a_constructor_that_fails_dies_quietly(storage, recwarn, capfd):
    """A missing file made noise from `__del__`."""
    with pytest.raises(FileNotFoundInStorageError):
        storage.open("missing.bin", "r")
    with pytest.raises(FileNotFoundInStorageError):
        storage.open("missing.bin", "rw")
    gc.collect()

    assert list(recwarn) == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("mode", ["a", "x", "w+", "rwa", "U", "rt", ""])
def test_no_mode_is_dropped_in_silence(storage, mode):
    """Appending and creating were turned into something else, or into nothing."""
    storage.write("a.bin", b"kept")

    with pytest.raises(ValueError, match="mode"):
        storage.open("a.bin", mode)

    assert storage.read("a.bin") == b"kept"


def test_a_listing_survives_files_that_vanish(local_storage, monkeypatch):
    """A file that goes between being seen and being asked for its size is left out."""
    for name in ("a", "b", "c"):
        local_storage.write(name, b"1")
    walk = local_storage.tree.walk

    def slowly(*arguments, **options):
        for found in walk(*arguments, **options):
            (local_storage.root / "b").unlink(missing_ok=True)
            yield found

    monkeypatch.setattr(local_storage.tree, "walk", slowly)

    assert [entry.name for entry in local_storage.list()] == ["a", "c"]


def test_a_wrong_length_is_noticed(storage):
    """A body that broke off was taken for the whole."""
    storage.write("a.bin", bytes(1000))

    with pytest.raises(StorageError, match="300"):
        storage.upload(io.BytesIO(bytes(300)), "a.bin", size=1000)

    assert storage.size("a.bin") == 1000


def test_a_checksum_is_compared(storage):
    """No backend compared any."""
    right = "sha256:" + hashlib.sha256(b"right").hexdigest()

    storage.write("a.bin", b"right", checksum=right)
    with pytest.raises(StorageError, match="checksum"):
        storage.write("a.bin", b"wrong", checksum=right)

    assert storage.read("a.bin") == b"right"


def test_a_namespace_package_is_not_taken_for_an_sdk(tmp_path):
    """A folder called `azure` on the path made the import fail."""
    (tmp_path / "azure").mkdir()
    program = "import flask_storage, flask_storage.backends; print(flask_storage.LocalFSStorage.__name__)"

    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "LocalFSStorage\n"), done.stderr


def test_text_and_bytes_are_not_confused(storage):
    """A source in text mode is told, not stored as something else."""
    with pytest.raises(TypeError, match="binary"):
        storage.upload(io.StringIO("text"), "a.txt")

    assert storage.list() == []

"""Defects of keg-storage with files on disk and with links, one regression test for each."""

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


# -- data loss --------------------------------------------------------------------------------------------------------


def test_leaving_a_block_by_an_exception_does_not_publish(storage):
    """An incomplete file replaced the complete one."""
    storage.write("good.bin", b"good")

    with pytest.raises(ZeroDivisionError), storage.open("good.bin", "w") as writer:  # noqa: PT012 - the block ends by an exception
        writer.write(bytes(15 * 1024 * 1024))
        raise ZeroDivisionError

    assert storage.read("good.bin") == b"good"


def test_garbage_collection_does_not_publish(storage):
    """An unclosed writer published its content when it was collected."""
    writer = storage.open("file.bin", "w")
    writer.write(b"x")

    with pytest.warns(ResourceWarning):  # noqa: PT031 - two statements delete the writer
        del writer
        gc.collect()

    assert not storage.exists("file.bin")


def test_an_empty_upload_creates_or_empties_a_file(storage):
    """Uploading nothing creates an empty file, and replaces an existing one."""
    storage.write("full.bin", b"full")

    for path in ("full.bin", "new.bin"):
        storage.upload(io.BytesIO(b""), path)

    assert storage.read("full.bin") == storage.read("new.bin") == b""


def test_a_reader_never_sees_a_partly_written_file(storage):
    """The old content is visible until the writer is closed."""
    storage.write("file.bin", b"old")

    with storage.open("file.bin", "w") as writer:
        seen = []
        for _ in range(5):
            writer.write(bytes(100_000))
            seen.append(storage.read("file.bin"))

    assert seen == [b"old"] * 5
    assert storage.size("file.bin") == 500_000


def test_copying_a_file_onto_itself_keeps_it(storage):
    """The file was truncated."""
    storage.write("a/file.bin", b"content")

    storage.copy("a/file.bin", "a/file.bin")
    storage.copy("a/file.bin", "/a/file.bin")

    assert storage.read("a/file.bin") == b"content"


def test_a_failed_get_does_not_change_the_local_file(storage, tmp_path):
    """A missing file neither truncates nor creates it."""
    existing = tmp_path / "existing.txt"
    existing.write_bytes(b"local")

    for dest in (existing, tmp_path / "new.txt"):
        with pytest.raises(FileNotFoundInStorageError):
            storage.get("missing.txt", dest)

    assert existing.read_bytes() == b"local"
    assert not (tmp_path / "new.txt").exists()


def test_closing_after_a_failed_write_publishes_nothing():
    """`close` sent the failed part again and published a file that lacked the rest."""
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
    """Opening a file with `rw` keeps its content."""
    storage.write("file.bin", b"0123456789")

    with storage.open("file.bin", FileMode.read | FileMode.write) as updater:
        updater.write(b"ab")

    assert storage.read("file.bin") == b"ab23456789"


def test_two_writers_of_one_path_both_succeed(storage):
    """The last one that is closed wins."""
    first, second = storage.open("file.bin", "w"), storage.open("file.bin", "w")
    first.write(b"first")
    second.write(b"second")

    first.close()
    second.close()

    assert storage.read("file.bin") == b"second"


def test_names_with_and_without_a_leading_dot_differ(storage):
    """`.env` and `env` were the same file."""
    storage.write(".env", b"hidden")
    storage.write("env", b"plain")

    assert storage.read(".env") == b"hidden"
    assert storage.save(".env", b"saved") != storage.save("env", b"saved")


# -- access outside of the root ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["../secret.txt", "../../secret.txt", "{secret}", "/{secret}", "a/../../secret.txt"])
def test_copy_does_not_read_outside_of_the_root(local_storage, secret, source):
    """The source path of a copy was not checked."""
    source = source.format(secret=secret)

    with pytest.raises(StorageError):
        local_storage.copy(source, "stolen.txt")

    assert local_storage.list() == []


@pytest.mark.parametrize("target", ["file", "directory"])
def test_symbolic_links_are_not_followed(local_storage, secret, target):
    """A link inside the root can be neither read, written, listed nor deleted through."""
    if target == "file":
        (local_storage.root / "link.txt").symlink_to(secret)
        path = "link.txt"
    else:
        (local_storage.root / "link").symlink_to(secret.parent)
        path = "link/secret.txt"
    outside = sorted(secret.parent.iterdir())

    for call in (
        lambda: local_storage.read(path),
        lambda: local_storage.copy(path, "stolen.txt"),
        lambda: local_storage.move(path, "stolen.txt"),
        lambda: local_storage.open(path, "rw"),
    ):
        with pytest.raises(StorageError):
            call()
    for call in (
        lambda: local_storage.write(path, b"overwritten"),
        lambda: local_storage.delete(path),
        lambda: local_storage.delete_prefix("link"),
        lambda: local_storage.list("link"),
    ):
        with contextlib.suppress(StorageError):
            assert not call()

    assert secret.read_bytes() == b"secret"
    assert sorted(secret.parent.iterdir()) == outside
    assert local_storage.list() == []


@pytest.mark.parametrize("path", ["a\x00b", "a\nb", "a\x1b[31mb", "a\u202eb", "x" * 256, "x/" * 600 + "x"])
def test_unsafe_paths_raise_an_invalid_path_error(storage, path):
    """Control characters were accepted; NUL and long names raised errors of the operating system."""
    for call in (storage.read, storage.delete, storage.exists, lambda path: storage.write(path, b"")):
        with pytest.raises(InvalidPathError):
            call(path)


def test_names_with_shell_characters_are_valid(storage):
    """`~`, `?` and `*` were refused, also in the path of the root."""
    for path in ("~a", "what?", "2*3"):
        storage.write(path, b"1")

    assert [entry.name for entry in storage.list()] == ["2*3", "what?", "~a"]


def test_files_and_directories_are_private(local_storage):
    """Others cannot read them, whatever the umask; that includes intermediate directories."""
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
    """An attacker could sign with it."""
    with pytest.raises(ConfigurationError):
        _linked(secret_key=empty)
    with pytest.raises(ValueError, match="empty"):
        LinkSigner([empty.encode() if isinstance(empty, str) else empty], "docs")


def test_a_secret_may_be_text_or_any_bytes():
    """Text raised an AttributeError, bytes that are not UTF-8 a UnicodeDecodeError."""
    for secret in ("text" * 8, bytes(range(224, 256))):
        storage = _linked(secret_key=secret)

        token = storage.create_link_token(path="a", operation="d", expire=HOUR)

        assert storage.deserialize_link_token(token).path == "a"


def test_the_key_separates_name_and_secret():
    """The key of ("a", "bc") was equal to that of ("ab", "c")."""
    pairs = [("a", b"bsigner" + b"c" * 32), ("asignerb", b"c" * 32), ("", b"asignerbsigner" + b"c" * 32)]

    keys = {derive_key(secret, name) for name, secret in pairs}

    assert len(keys) == len(pairs)


def test_two_roots_with_the_same_name_reject_each_others_tokens(tmp_path):
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
def test_only_one_algorithm_is_accepted(algorithm):
    """Every HMAC algorithm was accepted."""
    claims = {"key": "a", "op": "d", "aud": "docs", "iat": 0, "exp": datetime.now(UTC) + HOUR}
    key = "" if algorithm == "none" else derive_key(b"s" * 32, "docs")

    with pytest.raises(InvalidLinkError):
        _linked().deserialize_link_token(jwt.encode(claims, key, algorithm))


@pytest.mark.parametrize("missing", ["exp", "aud", "key", "op"])
def test_a_token_without_a_required_claim_is_refused(missing):
    """Without an expiry it never expired, without an audience it was valid for all, without a path it crashed."""
    claims = {"key": "a", "op": "d", "aud": "docs", "iat": 0, "exp": datetime.now(UTC) + HOUR}
    key = derive_key(b"s" * 32, "docs")
    whole = jwt.encode(claims, key, "HS512")
    del claims[missing]

    with pytest.raises(InvalidLinkError):
        _linked().deserialize_link_token(jwt.encode(claims, key, "HS512"))

    assert _linked().deserialize_link_token(whole).path == "a"


def test_operation_words_are_not_parsed_as_letters():
    """`upload` also meant download, and `read` meant remove."""
    assert ShareLinkOperation.as_operation("upload") is ShareLinkOperation.upload
    assert ShareLinkOperation.as_operation("remove") is ShareLinkOperation.remove
    for word in ("read", "write", "delete", "up", "r+"):
        with pytest.raises(ValueError, match="operation"):
            ShareLinkOperation.as_operation(word)


def test_the_download_name_is_signed():
    """It was an unsigned URL parameter that every client could change."""
    storage = MemoryStorage()
    storage.set_link_context(
        LinkContext(profile="docs", secrets=lambda: (b"s" * 32,), link_url=lambda token, endpoint: f"/x?token={token}")
    )

    url = storage.link_to("a.txt", "d", HOUR, output_path='in"voice.txt')

    token = url.partition("token=")[2]
    request = storage.deserialize_link_token(token).request
    assert request is not None
    assert request.filename == 'in"voice.txt'
    assert "voice" not in url


def test_a_past_expiry_is_refused():
    """A naive time means UTC, whatever the server's time zone."""
    past = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=5)

    with pytest.raises(ValueError, match="past"):
        _linked().create_link_token(path="a", operation="d", expire=past)


# -- differences between backends -------------------------------------------------------------------------------------


def test_the_root_may_be_text_and_the_name_is_optional(tmp_path):
    """The annotation allowed a str, which raised an AttributeError."""
    storage = LocalFSStorage(str(tmp_path))

    assert storage.name == f"fs-{tmp_path.name}"
    assert storage.root == Path(os.path.realpath(tmp_path))


def test_a_missing_file_raises_the_same_error_everywhere(storage):
    """There were three errors, and `delete` raised on two backends of four."""
    for call in (
        lambda: storage.open("missing", "r"),
        lambda: storage.open("missing", "rw"),
        lambda: storage.stat("missing"),
        lambda: storage.copy("missing", "new"),
        lambda: storage.move("missing", "new"),
    ):
        with pytest.raises(FileNotFoundInStorageError):
            call()
    storage.delete("missing")


def test_list_has_one_meaning_everywhere(storage):
    """It meant a prefix, one level, bare names, or everything below, depending on the backend."""
    for path in ("ls/a.txt", "ls/deep/b.txt", "lsother.txt", "z.txt"):
        storage.write(path, b"")

    assert [entry.name for entry in storage.list("ls")] == ["ls/a.txt", "ls/deep/b.txt"]
    assert [entry.name for entry in storage.list("/")] == ["ls/a.txt", "ls/deep/b.txt", "lsother.txt", "z.txt"]
    assert storage.list("missing") == []
    assert all(entry.last_modified is not None for entry in storage.list())


def test_a_content_type_is_stored(storage):
    """It was accepted and ignored."""
    storage.upload(io.BytesIO(b"1"), "a.png", extra_args={"ContentType": "image/png", "ContentEncoding": "br"})

    info = storage.stat("a.png")
    assert (info.content_type, info.content_encoding) == ("image/png", "br")


def test_reading_without_a_size_reads_everything(storage):
    """`read(-1)` returned nothing."""
    storage.write("a.bin", b"0123456789")

    with storage.open("a.bin", "r") as reader:
        assert reader.read(-1) == b"0123456789"


def test_opening_a_missing_file_prints_and_warns_nothing(storage, recwarn, capfd):
    """`__del__` of the incomplete object printed an error."""
    with pytest.raises(FileNotFoundInStorageError):
        storage.open("missing.bin", "r")
    with pytest.raises(FileNotFoundInStorageError):
        storage.open("missing.bin", "rw")
    gc.collect()

    assert list(recwarn) == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("mode", ["a", "x", "w+", "rwa", "U", "rt", ""])
def test_unknown_modes_are_refused(storage, mode):
    """Modes for appending and creating were treated as others, or ignored."""
    storage.write("a.bin", b"content")

    with pytest.raises(ValueError, match="mode"):
        storage.open("a.bin", mode)

    assert storage.read("a.bin") == b"content"


def test_a_file_deleted_during_a_listing_is_left_out(local_storage, monkeypatch):
    """Between reading its directory entry and its size."""
    for name in ("a", "b", "c"):
        local_storage.write(name, b"1")
    walk = local_storage.tree.walk

    def walk_while_a_file_is_deleted(*arguments, **options):
        for found in walk(*arguments, **options):
            (local_storage.root / "b").unlink(missing_ok=True)
            yield found

    monkeypatch.setattr(local_storage.tree, "walk", walk_while_a_file_is_deleted)

    assert [entry.name for entry in local_storage.list()] == ["a", "c"]


def test_a_wrong_length_is_an_error(storage):
    """A truncated body was stored as if it were complete."""
    storage.write("a.bin", bytes(1000))

    with pytest.raises(StorageError, match="300"):
        storage.upload(io.BytesIO(bytes(300)), "a.bin", size=1000)

    assert storage.size("a.bin") == 1000


def test_a_checksum_is_compared(storage):
    """No backend compared checksums."""
    right = "sha256:" + hashlib.sha256(b"right").hexdigest()

    storage.write("a.bin", b"right", checksum=right)
    with pytest.raises(StorageError, match="checksum"):
        storage.write("a.bin", b"wrong", checksum=right)

    assert storage.read("a.bin") == b"right"


def test_a_directory_is_not_mistaken_for_an_sdk(tmp_path):
    """A directory `azure` on the path made the import fail."""
    (tmp_path / "azure").mkdir()
    program = "import flask_storage, flask_storage.backends; print(flask_storage.LocalFSStorage.__name__)"

    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "LocalFSStorage\n"), done.stderr


def test_a_source_in_text_mode_is_refused(storage):
    """It is not encoded implicitly."""
    with pytest.raises(TypeError, match="binary"):
        storage.upload(io.StringIO("text"), "a.txt")

    assert storage.list() == []

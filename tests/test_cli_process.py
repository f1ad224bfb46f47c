"""`flask storage …` as a process: streams, terminals, signals, shell completion."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flask_storage import LocalFSStorage

FLASK = str(Path(sys.executable).parent / "flask")
MIB = 1024 * 1024

APP = """
from flask import Flask
from flask_storage import Storage

app = Flask(__name__)
app.config["STORAGE_PROFILES"] = {
    "docs": {"backend": "local", "root": "docs", "fsync": False},
    "drawings": {"backend": "memory"},
}
Storage(app)
"""


@pytest.fixture
def docs(tmp_path, monkeypatch):
    """The storage that the process works on; the working directory contains its app."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "docs").mkdir()
    return LocalFSStorage("docs", fsync=False)


def argv(*args):
    """Return the command line of `flask storage` with these arguments."""
    return [FLASK, "--app", "app", "storage", *args]


def flask(*args, **options):
    """Run `flask storage` and wait until it ends."""
    options = {"capture_output": True, "timeout": 60, **options}
    return subprocess.run(argv(*args), check=False, **options)


def in_bash(script):
    """Run a bash script in which `storage` is `flask storage`, with `pipefail`."""
    quoted = " ".join(f"'{part}'" for part in argv())
    script = f'set -o pipefail; storage() {{ {quoted} "$@"; }}; {script}'
    return subprocess.run(["bash", "-c", script], check=False, capture_output=True, timeout=60)


def read_terminal(terminal):
    """Return the output of a process that ran on a terminal."""
    text = b""
    while True:
        try:
            text += os.read(terminal, 65536)
        except OSError:  # EIO: all other descriptors of the terminal are closed
            os.close(terminal)
            return text.decode()


def on_terminal(*args, streams, typed=b"", **options):
    """Run `flask storage` with these streams (by name) on a terminal; return the process and its output."""
    controller, terminal = pty.openpty()
    os.write(controller, typed)
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    process = subprocess.Popen(argv(*args), **{**pipes, **options, **dict.fromkeys(streams, terminal)})
    os.close(terminal)
    output = read_terminal(controller)
    process.wait(60)
    return process, output


# -- streams ----------------------------------------------------------------------------------------------------------


def test_content_passes_through_pipes_unchanged(docs):
    """Bytes of every value; standard output contains nothing else."""
    content = bytes(range(256)) * 1000

    put = flask("put", "-", "a.bin", input=content)
    got = flask("get", "a.bin", "-")

    assert (put.returncode, put.stdout, put.stderr) == (0, b"", b"Uploaded - to a.bin.\n")
    assert (got.returncode, got.stdout) == (0, content)


def test_streaming_takes_constant_memory(docs):
    """A hundred megabytes take hardly more than one byte."""

    def peak(script):
        process = subprocess.Popen(["bash", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_maxrss / 1024

    words = " ".join(f"'{part}'" for part in argv())
    put_little = peak(f"exec {words} put - little < <(head -c 1 /dev/zero)")
    put_much = peak(f"exec {words} put - much < <(head -c {100 * MIB} /dev/zero)")
    got_little = peak(f"exec {words} get little - > >(cat)")
    got_much = peak(f"exec {words} get much - > >(cat)")

    assert docs.size("much") == 100 * MIB
    assert put_much < put_little + 40
    assert got_much < got_little + 40


@pytest.mark.parametrize("command", ["list --simple", "get big -"])
def test_a_broken_pipe_ends_the_command_without_a_message(docs, command):
    """As with `| head`."""
    docs.write("big", b"x\n" * MIB)
    for number in range(3000):
        (docs.root / f"{number:060}").touch()

    done = in_bash(f"storage {command} | head -n 1")

    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == b""
    assert done.returncode == 1


@pytest.mark.parametrize("command", ["list", "stat a", "get a -", "profiles --json"])
def test_a_full_disk_behind_standard_output_is_reported(docs, command):
    """Once, in one sentence, with exit status 1."""
    docs.write("a", b"hello")

    done = in_bash(f"storage {command} >/dev/full")

    assert (done.returncode, done.stderr) == (1, b"Error: standard output: No space left on device\n")


@pytest.mark.parametrize(
    ("command", "stream"), [("put - b <&-", b"input"), ("list >&-", b"output"), ("get a - >&-", b"output")]
)
def test_a_closed_stream_is_reported(docs, command, stream):
    """In one sentence, with exit status 1."""
    docs.write("a", b"hello")

    done = in_bash(f"storage {command}")

    assert (done.returncode, done.stderr) == (1, b"Error: standard " + stream + b" is closed.\n")


@pytest.mark.parametrize("size", [5, MIB])
def test_a_full_disk_behind_the_local_file_is_reported(docs, size):
    """As an error of that file, not of the storage; a device is written to, not replaced."""
    docs.write("a", bytes(size))

    done = flask("get", "a", "/dev/full")

    assert (done.returncode, done.stderr) == (1, b"Error: /dev/full: No space left on device\n")


def test_a_source_that_cannot_be_read_stores_nothing(docs):
    """Standard input may be open for writing only."""
    done = in_bash("storage put - a 0>output")

    assert done.returncode == 1
    assert b"Bad file descriptor" in done.stderr
    assert b"Traceback" not in done.stderr
    assert docs.list() == []


def test_names_are_utf_8_in_every_locale(docs):
    """A listed name can be used in another locale."""
    docs.write("ü/日本.txt", b"hello")
    environ = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}

    listed = flask("list", "--simple", env=environ)
    parsed = flask("list", "--json", env=environ)
    got = flask("get", listed.stdout.decode().strip(), "x", env=environ)

    assert listed.stdout.decode() == "ü/日本.txt\n"
    assert json.loads(parsed.stdout)["path"] == "ü/日本.txt"
    assert (got.returncode, Path("x").read_bytes()) == (0, b"hello")


@pytest.mark.parametrize("subcommand", ["x", "list", "put"])
def test_usage_errors_exit_with_two(docs, subcommand):
    """For an unknown command, an unknown option, and missing arguments."""
    done = flask(subcommand, "--wrong")

    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


@pytest.fixture
def _interruptible():
    """Reset SIGINT in child processes: a shell ignores it in background jobs, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupted_transfer_exits_with_130_and_stores_nothing(docs):
    """After Ctrl-C the old file stays, and no temporary file remains."""
    docs.write("a", b"old")
    process = subprocess.Popen(argv("put", "-", "a"), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin

    process.stdin.write(b"x" * MIB)  # more than a pipe buffers: when this returns, the process is reading
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)

    assert (process.returncode, stderr) == (130, b"Interrupted.\n")
    assert docs.read("a") == b"old"
    assert os.listdir(docs.root) == ["a"]


# -- terminals --------------------------------------------------------------------------------------------------------


def test_a_long_upload_shows_a_progress_bar(docs, tmp_path):
    """When standard error is a terminal."""
    (tmp_path / "big.bin").write_bytes(bytes(24 * MIB))

    process, output = on_terminal("put", "big.bin", "a/big.bin", streams=["stderr"])

    assert process.returncode == 0
    assert docs.size("a/big.bin") == 24 * MIB
    assert "big.bin  [" in output
    assert "100%" in output
    assert output.endswith("Uploaded big.bin to a/big.bin.\r\n")


def test_a_folder_shows_one_progress_bar(docs, tmp_path):
    """For all files together, also those that are skipped."""
    docs.write("big/a", bytes(5 * MIB))
    docs.write("big/b", bytes(6 * MIB))

    process, output = on_terminal("get", "-r", "big", "copy", streams=["stderr"])

    assert process.returncode == 0
    assert "2 files  [" in output
    assert "100%" in output
    assert output.endswith("Downloaded 2 files to copy.\r\n")


@pytest.mark.parametrize("target", ["copy.bin", "-"])
def test_a_long_download_shows_a_progress_bar(docs, tmp_path, target):
    """Also when the content goes to a pipe."""
    docs.write("big.bin", bytes(24 * MIB))

    process, output = on_terminal("get", "big.bin", target, streams=["stderr"])

    assert process.returncode == 0
    assert "big.bin  [" in output
    assert "100%" in output


def test_a_short_transfer_shows_no_progress_bar(docs):
    """Below 8 MiB."""
    docs.write("small", b"1")

    _, output = on_terminal("get", "small", "x", streams=["stderr"])

    assert output == "Downloaded small to x.\r\n"


def test_no_progress_bar_is_shown_in_a_terminal_with_the_content(docs):
    """When the content goes to the same terminal."""
    docs.write("big", b"x" * 9 * MIB)

    _, output = on_terminal("get", "big", "-", streams=["stdout", "stderr"])

    assert output == "x" * 9 * MIB + "Downloaded big to standard output.\r\n"


def test_no_progress_bar_is_shown_without_a_terminal(docs):
    """A log file gets only the final message."""
    docs.write("big", bytes(9 * MIB))

    assert flask("get", "big", "x").stderr == b"Downloaded big to x.\n"


@pytest.mark.parametrize(("typed", "status", "remaining"), [(b"n\n", 1, ["a/1"]), (b"y\n", 0, [])])
def test_deleting_a_directory_asks_for_confirmation_in_a_terminal(docs, typed, status, remaining):
    """The default is no, which changes nothing."""
    docs.write("a/1", b"")

    process, output = on_terminal("delete", "-r", "a", streams=["stdin", "stderr"], typed=typed)

    assert "Delete a and everything below, in docs? [y/N]" in output
    assert process.returncode == status
    assert [entry.name for entry in docs.list()] == remaining


@pytest.mark.parametrize("options", [["-r", "--yes", "a"], ["a/1"]])
def test_deleting_with_yes_or_by_file_name_asks_no_confirmation(docs, options):
    """Needless questions are confirmed without being read."""
    docs.write("a/1", b"")

    process, output = on_terminal("delete", *options, streams=["stdin", "stderr"])

    assert process.returncode == 0
    assert "?" not in output
    assert docs.list() == []


# -- completion -------------------------------------------------------------------------------------------------------


def complete(*words):
    """Return the completions of bash for the last of *words*."""
    environ = {
        **os.environ,
        "FLASK_APP": "app",
        "_FLASK_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["flask", "storage", *words]),
        "COMP_CWORD": str(len(words) + 1),
    }
    done = subprocess.run([FLASK], env=environ, check=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("words", [["--profile"], ["list", "--profile"]])
def test_profiles_are_completed(docs, words):
    """Before and after the command."""
    assert complete(*words, "d") == ["docs", "drawings"]
    assert complete(*words, "dr") == ["drawings"]


def test_commands_are_completed(docs):
    """As in any click group."""
    assert complete("s") == ["stat", "sweep"]


@pytest.mark.parametrize(
    ("start", "completions"),
    [
        ("", ["2026/", "notes.txt"]),
        ("n", ["notes.txt"]),
        ("2", ["2026/june/1.txt", "2026/june/2.txt"]),
        ("2026/june/2", ["2026/june/2.txt"]),
        ("x", []),
        ("../", []),
    ],
)
def test_paths_are_completed(docs, start, completions):
    """One level at a time; a single directory is replaced by its content."""
    for path in ("2026/june/1.txt", "2026/june/2.txt", "notes.txt"):
        docs.write(path, b"")

    assert complete("get", start) == completions


def test_an_empty_directory_is_completed_without_a_slash(docs):
    """It may be the target of an upload."""
    (docs.root / "empty").mkdir()

    assert complete("list", "e") in (["empty"], [])


def test_paths_are_completed_in_the_given_profile(docs):
    """An unknown profile has no completions."""
    docs.write("notes.txt", b"")

    assert complete("--profile", "docs", "get", "n") == ["notes.txt"]
    assert complete("--profile", "drawings", "get", "n") == []
    assert complete("--profile", "unknown", "get", "n") == []


# -- start-up ---------------------------------------------------------------------------------------------------------


def test_commands_are_imported_only_when_they_run():
    """`flask run` and `flask --help` import none of them."""
    code = (
        "import sys, flask_storage.cli; print(*(name for name in sys.modules if name.startswith('flask_storage.cli')))"
    )

    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()

    assert set(loaded) == {"flask_storage.cli", "flask_storage.cli.profile"}

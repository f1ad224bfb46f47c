"""`flask storage …` as a program of its own: streams, terminals, signals, completion."""

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
    "drafts": {"backend": "memory"},
}
Storage(app)
"""


@pytest.fixture
def docs(tmp_path, monkeypatch):
    """The storage that the program works on, seen from outside; the current folder holds its app."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "docs").mkdir()
    return LocalFSStorage("docs", fsync=False)


def argv(*args):
    """The words of a command."""
    return [FLASK, "--app", "app", "storage", *args]


def flask(*args, **options):
    """Run `flask storage` to its end."""
    options = {"capture_output": True, "timeout": 60, **options}
    return subprocess.run(argv(*args), check=False, **options)


def in_bash(script):
    """Run a script whose `storage` is ours, with the status of the whole pipe."""
    quoted = " ".join(f"'{word}'" for word in argv())
    script = f'set -o pipefail; storage() {{ {quoted} "$@"; }}; {script}'
    return subprocess.run(["bash", "-c", script], check=False, capture_output=True, timeout=60)


def read_terminal(terminal):
    """All that a program writes to its end of a terminal, after it has gone."""
    text = b""
    while True:
        try:
            text += os.read(terminal, 65536)
        except OSError:  # EIO: nobody holds the other end
            os.close(terminal)
            return text.decode()


def on_terminal(*args, streams, answer=b"", **options):
    """Run `flask storage` with these streams (by name) on a terminal; return its process and what is seen there."""
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    process = subprocess.Popen(argv(*args), **{**pipes, **options, **dict.fromkeys(streams, theirs)})
    os.close(theirs)
    seen = read_terminal(ours)
    process.wait(60)
    return process, seen


# -- streams ----------------------------------------------------------------------------------------------------------


def test_a_pipe_goes_in_and_comes_out(docs):
    """Bytes of every value pass unchanged, and standard output holds nothing else."""
    content = bytes(range(256)) * 1000

    put = flask("put", "-", "a.bin", input=content)
    got = flask("get", "a.bin", "-")

    assert (put.returncode, put.stdout, put.stderr) == (0, b"", b"Uploaded - to a.bin.\n")
    assert (got.returncode, got.stdout) == (0, content)


def test_streams_take_constant_memory(docs):
    """A hundred megabytes take hardly more than none."""

    def peak(script):
        process = subprocess.Popen(["bash", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_maxrss / 1024

    words = " ".join(f"'{word}'" for word in argv())
    put_little = peak(f"exec {words} put - little < <(head -c 1 /dev/zero)")
    put_much = peak(f"exec {words} put - much < <(head -c {100 * MIB} /dev/zero)")
    got_little = peak(f"exec {words} get little - > >(cat)")
    got_much = peak(f"exec {words} get much - > >(cat)")

    assert docs.size("much") == 100 * MIB
    assert put_much < put_little + 40
    assert got_much < got_little + 40


@pytest.mark.parametrize("command", ["list --simple", "get big -"])
def test_a_reader_that_has_enough_is_no_trouble(docs, command):
    """`| head` ends the program without a word."""
    docs.write("big", b"x\n" * MIB)
    for number in range(3000):
        (docs.root / f"{number:060}").touch()

    done = in_bash(f"storage {command} | head -n 1")

    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == b""
    assert done.returncode == 1


@pytest.mark.parametrize("command", ["list", "stat a", "get a -", "profiles --json"])
def test_a_full_disk_behind_standard_output_is_reported(docs, command):
    """Once, in a sentence, and with exit status 1."""
    docs.write("a", b"hello")

    done = in_bash(f"storage {command} >/dev/full")

    assert (done.returncode, done.stderr) == (1, b"Error: standard output: No space left on device\n")


@pytest.mark.parametrize(
    ("command", "stream"), [("put - b <&-", b"input"), ("list >&-", b"output"), ("get a - >&-", b"output")]
)
def test_a_closed_stream_is_reported(docs, command, stream):
    """As a sentence too."""
    docs.write("a", b"hello")

    done = in_bash(f"storage {command}")

    assert (done.returncode, done.stderr) == (1, b"Error: standard " + stream + b" is closed.\n")


@pytest.mark.parametrize("size", [5, MIB])
def test_a_full_disk_behind_the_local_file_is_reported(docs, size):
    """As trouble with that file, not with the storage; a device is written to, not replaced."""
    docs.write("a", bytes(size))

    done = flask("get", "a", "/dev/full")

    assert (done.returncode, done.stderr) == (1, b"Error: /dev/full: No space left on device\n")


def test_a_source_that_cannot_be_read_stores_nothing(docs):
    """Standard input may be open for writing only, if somebody makes it so."""
    done = in_bash("storage put - a 0>output")

    assert done.returncode == 1
    assert b"Bad file descriptor" in done.stderr
    assert b"Traceback" not in done.stderr
    assert docs.list() == []


def test_names_are_utf_8_whatever_the_locale(docs):
    """What can be listed here can be fetched there."""
    docs.write("ü/日本.txt", b"hello")
    environ = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}

    listed = flask("list", "--simple", env=environ)
    parsed = flask("list", "--json", env=environ)
    got = flask("get", listed.stdout.decode().strip(), "x", env=environ)

    assert listed.stdout.decode() == "ü/日本.txt\n"
    assert json.loads(parsed.stdout)["path"] == "ü/日本.txt"
    assert (got.returncode, Path("x").read_bytes()) == (0, b"hello")


@pytest.mark.parametrize("word", ["x", "list", "put"])
def test_mistakes_end_with_two(docs, word):
    """Whatever is wrong with the words themselves."""
    done = flask(word, "--wrong")

    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


@pytest.fixture
def _interruptible():
    """Let programs that are started hear SIGINT: whoever runs in the background of a shell inherits deaf ears."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_ends_with_130_and_stores_nothing(docs):
    """Ctrl-C in the middle of a transfer leaves what was there, and no trace of the new."""
    docs.write("a", b"old")
    process = subprocess.Popen(argv("put", "-", "a"), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin

    process.stdin.write(b"x" * MIB)  # more than a pipe holds: when this returns, the program is reading
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)

    assert (process.returncode, stderr) == (130, b"Interrupted.\n")
    assert docs.read("a") == b"old"
    assert os.listdir(docs.root) == ["a"]


# -- terminals --------------------------------------------------------------------------------------------------------


def test_a_long_upload_shows_a_bar(docs, tmp_path):
    """Somebody who watches sees how far it is."""
    (tmp_path / "big.bin").write_bytes(bytes(24 * MIB))

    process, seen = on_terminal("put", "big.bin", "a/big.bin", streams=["stderr"])

    assert process.returncode == 0
    assert docs.size("a/big.bin") == 24 * MIB
    assert "big.bin  [" in seen
    assert "100%" in seen
    assert seen.endswith("Uploaded big.bin to a/big.bin.\r\n")


@pytest.mark.parametrize("target", ["copy.bin", "-"])
def test_a_long_download_shows_a_bar(docs, tmp_path, target):
    """Also when the content goes to a pipe."""
    docs.write("big.bin", bytes(24 * MIB))

    process, seen = on_terminal("get", "big.bin", target, streams=["stderr"])

    assert process.returncode == 0
    assert "big.bin  [" in seen
    assert "100%" in seen


def test_no_bar_for_a_short_transfer(docs):
    """What is done in a blink needs none."""
    docs.write("small", b"1")

    _, seen = on_terminal("get", "small", "x", streams=["stderr"])

    assert seen == "Downloaded small to x.\r\n"


def test_no_bar_in_the_middle_of_the_content(docs):
    """Where the content goes to the same terminal."""
    docs.write("big", b"x" * 9 * MIB)

    _, seen = on_terminal("get", "big", "-", streams=["stdout", "stderr"])

    assert seen == "x" * 9 * MIB + "Downloaded big to standard output.\r\n"


def test_no_bar_where_nobody_watches(docs):
    """A log file gets the one line that counts."""
    docs.write("big", bytes(9 * MIB))

    assert flask("get", "big", "x").stderr == b"Downloaded big to x.\n"


@pytest.mark.parametrize(("answer", "status", "left"), [(b"n\n", 1, ["a/1"]), (b"y\n", 0, [])])
def test_deleting_a_folder_asks_whoever_is_there(docs, answer, status, left):
    """No is the safe answer, and changes nothing."""
    docs.write("a/1", b"")

    process, seen = on_terminal("delete", "-r", "a", streams=["stdin", "stderr"], answer=answer)

    assert "Delete a and everything below, in docs? [y/N]" in seen
    assert process.returncode == status
    assert [entry.name for entry in docs.list()] == left


@pytest.mark.parametrize("options", [["-r", "--yes", "a"], ["a/1"]])
def test_nobody_is_asked_who_said_yes_or_names_files(docs, options):
    """A question that is always answered alike teaches not to read it."""
    docs.write("a/1", b"")

    process, seen = on_terminal("delete", *options, streams=["stdin", "stderr"])

    assert process.returncode == 0
    assert "?" not in seen
    assert docs.list() == []


# -- completion -------------------------------------------------------------------------------------------------------


def complete(*words):
    """What bash offers for the last of *words*."""
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
    """Before the command and after it."""
    assert complete(*words, "d") == ["docs", "drafts"]
    assert complete(*words, "dr") == ["drafts"]


def test_commands_are_completed(docs):
    """As click does for any group."""
    assert complete("s") == ["stat", "sweep"]


@pytest.mark.parametrize(
    ("start", "offered"),
    [
        ("", ["2026/", "notes.txt"]),
        ("n", ["notes.txt"]),
        ("2", ["2026/june/1.txt", "2026/june/2.txt"]),
        ("2026/june/2", ["2026/june/2.txt"]),
        ("x", []),
        ("../", []),
    ],
)
def test_paths_are_completed(docs, start, offered):
    """One level at a time; a lone folder gives way to what is in it."""
    for path in ("2026/june/1.txt", "2026/june/2.txt", "notes.txt"):
        docs.write(path, b"")

    assert complete("get", start) == offered


def test_a_folder_in_which_nothing_shows_is_offered_itself(docs):
    """Somebody may want to put something there."""
    (docs.root / "empty").mkdir()

    assert complete("list", "e") in (["empty"], [])


def test_paths_are_completed_in_the_profile_that_is_asked(docs):
    """Of an unknown one nothing is known."""
    docs.write("notes.txt", b"")

    assert complete("--profile", "docs", "get", "n") == ["notes.txt"]
    assert complete("--profile", "drafts", "get", "n") == []
    assert complete("--profile", "unknown", "get", "n") == []


# -- the start --------------------------------------------------------------------------------------------------------


def test_the_commands_wait_until_they_are_called():
    """`flask run` and `flask --help` load none of them."""
    code = (
        "import sys, flask_storage.cli; print(*(name for name in sys.modules if name.startswith('flask_storage.cli')))"
    )

    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()

    assert set(loaded) == {"flask_storage.cli", "flask_storage.cli.profile"}

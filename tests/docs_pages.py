"""Runs a page of the documentation as its reader would: from the first block to the last, in an empty directory.

What a fence is marked with says what happens to it:

``python``
    runs, in one namespace for the whole page. A first line like ``# app.py`` also saves it under that name.
``output``
    is what the ``python`` block before it printed.
``pycon``
    runs as a doctest, in the same namespace.
``console``
    Lines after ``$`` run in bash, lines after ``>`` continue them, and the others are what they print. A
    command may fail only where the page shows it printing a line that begins with ``Error:``. A command that
    shows an address with port 5000 is a server. It runs until the next server or the end of the page, on a free
    port, which stands for 5000 in all blocks.
``toml``, ``json``
    are parsed.
``sh``
    is for what no test can run, like installing software or starting the tests. Its syntax is checked.

Shown output may leave out what changes, by ``...``. The languages in `SHOWN` are only shown; any other is an
error. A comment that begins with ``<!-- run`` holds Python that the reader does not see.
"""

import contextlib
import contextvars
import doctest
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
import types
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

SHOWN = {"diff", "html", "html+jinja", "ini", "javascript", "nginx", "sql", "text"}
ERROR = re.compile(r"^Error: ", re.MULTILINE)
SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PATIENCE = 30  # seconds until a server that has not answered is called broken


@dataclass
class Block:
    """One fence: the language it is marked with, its text, and the line of the page where that begins."""

    language: str
    text: str
    line: int


def blocks(text, start=0):
    """The blocks of a page, in order, also those inside of notes and lists."""
    for token in MarkdownIt().parse(text):
        line = start + token.map[0] + 1 if token.map else start
        language, _, rest = token.info.strip().partition(" ")
        if token.type == "html_block" and token.content.startswith("<!-- run"):
            yield Block("python", token.content.removeprefix("<!-- run").rpartition("-->")[0], line - 1)
        elif token.type == "fence" and language in {"{code-block}", "{code}"}:
            body = [row if not row.startswith(":") else "" for row in token.content.splitlines(keepends=True)]
            yield Block(rest, "".join(body), line)
        elif token.type == "fence" and language.startswith("{"):
            yield from blocks(token.content, line)
        elif token.type == "fence":
            yield Block(language, token.content, line)


def commands(text):
    """The pairs of command and shown output in a ``console`` block."""
    pairs = []
    for row in text.splitlines():
        if row.startswith("$ "):
            pairs.append([row[2:], ""])
        elif pairs and row.startswith("> ") and not pairs[-1][1]:
            pairs[-1][0] += f"\n{row[2:]}"
        else:
            pairs[-1][1] += f"{row}\n"
    return pairs


def free_port():
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@dataclass
class Page:
    """A page on its way through a reader's hands."""

    file: Path
    directory: Path
    port: int = field(default_factory=free_port)
    printed: str = ""
    server: subprocess.Popen[str] | None = None

    def __post_init__(self):
        self.directory.mkdir()
        self.module = types.ModuleType("page")
        self.module.__file__ = str(self.directory / "page.py")
        self.log = self.directory.with_suffix(".log")
        self.state = self.directory.with_suffix(".state")
        self.state.touch()

    def run(self):
        """Run every block in order; an error names the line of the page."""
        kept = set(sys.modules)
        sys.modules["page"] = self.module
        sys.path.insert(0, str(self.directory))
        try:
            context = contextvars.copy_context()
            for block in blocks(self.file.read_text("utf-8")):
                port = r"\b5000\b" if block.language == "console" else r"(?<=:)5000\b"
                block.text = re.sub(port, str(self.port), block.text)
                context.run(self.run_block, block)
        finally:
            self.stop_server()
            sys.path.remove(str(self.directory))
            for name in set(sys.modules) - kept:
                if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(self.directory)):
                    del sys.modules[name]

    def run_block(self, block):
        """Do with *block* what its language says."""
        if block.language in SHOWN:
            return
        action = getattr(self, f"run_{block.language}", None)
        assert action, f"{self.file}:{block.line}: no test knows what to do with a block of {block.language!r}"
        with contextlib.chdir(self.directory):
            action(block)

    def run_python(self, block):
        """Execute the block, and save it first where it says under which name."""
        first = block.text.partition("\n")[0].split()
        if len(first) == 2 and first[0] == "#" and first[1].endswith(".py"):
            Path(first[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(first[1]).write_text(block.text)
        code = compile("\n" * block.line + block.text, self.file, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, self.module.__dict__)
        self.printed = printed.getvalue()

    def run_output(self, block):
        """Compare with what the last Python block printed."""
        self.compare(block, block.text, self.printed)

    def run_pycon(self, block):
        """Run as a doctest."""
        test = doctest.DocTestParser().get_doctest(block.text, {}, self.file.name, str(self.file), block.line)
        test.globs = self.module.__dict__
        report: list[str] = []
        runner = doctest.DocTestRunner(verbose=False, optionflags=SAME)
        result = runner.run(test, out=report.append, clear_globs=False)
        assert result.attempted, f"{self.file}:{block.line}: no >>> in a pycon block"
        assert not result.failed, "".join(report)

    def run_console(self, block):
        """Run each command; what it prints must be what is shown, and only one that shows an error may fail."""
        for command, shown in commands(block.text):
            if f":{self.port}" in shown:
                self.start_server(command)
                continue
            remember = f"{{ export -p; printf 'cd %q\\n' \"$PWD\"; }} >'{self.state}'"
            script = f"{command}\nstatus=$?; {remember}; exit $status"
            done = subprocess.run(self.bash(script), check=False, **self.pipes())
            if shown:
                self.compare(block, shown, done.stdout)
            may_fail = ERROR.search(shown)
            assert done.returncode == 0 or may_fail, f"{self.file}:{block.line}: $ {command}\n{done.stdout}"

    def run_toml(self, block):
        """Parse."""
        tomllib.loads(block.text)

    def run_json(self, block):
        """Parse."""
        json.loads(block.text)

    def run_sh(self, block):
        """Check the syntax."""
        subprocess.run(["sh", "-n"], input=block.text, text=True, check=True)

    def bash(self, command):
        """The arguments that run *command* where the last one left off: its directory and its variables."""
        return ["bash", "-c", f". '{self.state}'\n{command}"]

    def pipes(self):
        """What every program of the page starts with: this Python's programs first, no settings of ours."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("FLASK_", "PYTEST_"))}
        environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
        environ["FLASK_RUN_PORT"] = str(self.port)
        return {
            "cwd": self.directory,
            "env": environ,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
        }

    def start_server(self, command):
        """Start a server in place of the last one, and wait until it answers."""
        self.stop_server()
        with self.log.open("w") as log:
            self.server = subprocess.Popen(self.bash(command), **self.pipes() | {"stdout": log}, start_new_session=True)
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            assert self.server.poll() is None, f"$ {command} ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"$ {command} does not answer:\n{self.log.read_text()}"
            time.sleep(0.02)

    def stop_server(self):
        """Stop what `start_server` started, if anything."""
        if self.server:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.server.pid, signal.SIGTERM)
            self.server.wait()
            self.server = None

    def compare(self, block, shown, real):
        """Fail where the page shows something else than what came."""
        if not doctest.OutputChecker().check_output(shown, real, SAME):
            raise AssertionError(f"{self.file}:{block.line} shows\n{shown}\nbut this came:\n{real}")

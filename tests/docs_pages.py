"""Runs all blocks of a page of the documentation in order, in an empty directory.

The language of a block says how it is run:

``python``
    runs, in one namespace for the whole page. With a first line like ``# app.py`` it is also saved under that name.
``output``
    is the output of the ``python`` block before it.
``pycon``
    runs as a doctest, in the same namespace.
``console``
    Lines after ``$`` run in bash, lines after ``>`` continue them, and the others are their output. A
    command may fail only where the page shows it printing a line that begins with ``Error:``. A command that
    shows an address with port 5000 is a server. It runs until the next server or the end of the page, on a free
    port, which stands for 5000 in all blocks.
``toml``, ``json``
    are parsed.
``sh``
    is for commands that a test cannot run, such as installing software. Only the syntax is checked.

In the shown output ``...`` stands for text that varies. Blocks in the languages of `SHOWN` are not run; any other
language is an error. A comment that begins with ``<!-- run`` contains Python code that the page does not show.
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
SERVER_TIMEOUT = 30  # in seconds; the time for a server to accept connections


@dataclass
class Block:
    """One code block: its language, its text, and the line of the page where the text begins."""

    language: str
    text: str
    line: int


def blocks(text, start=0):
    """Yield the blocks of a page in order, also those in notes and lists."""
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
    """Return pairs of command and shown output of a ``console`` block."""
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
    """Return an unused port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@dataclass
class Page:
    """A page and the state of its run."""

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
        modules_before = set(sys.modules)
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
            for name in set(sys.modules) - modules_before:
                if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(self.directory)):
                    del sys.modules[name]

    def run_block(self, block):
        """Run *block* as its language says."""
        if block.language in SHOWN:
            return
        action = getattr(self, f"run_{block.language}", None)
        assert action, (
            f"{self.file}:{block.line}: unknown language {block.language!r}: use one of those in tests/docs_pages.py"
        )
        with contextlib.chdir(self.directory):
            action(block)

    def run_python(self, block):
        """Execute the block, and save it first if its first line is a file name."""
        first = block.text.partition("\n")[0].split()
        if len(first) == 2 and first[0] == "#" and first[1].endswith(".py"):
            Path(first[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(first[1]).write_text(block.text)
        code = compile("\n" * block.line + block.text, self.file, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, self.module.__dict__)
        self.printed = printed.getvalue()

    def run_output(self, block):
        """Compare with the output of the last Python block."""
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
        """Run each command. Its output must be as shown, and it may fail only if the page shows an error."""
        for command, shown in commands(block.text):
            if f":{self.port}" in shown:
                self.start_server(command)
                continue
            save_state = f"{{ export -p; printf 'cd %q\\n' \"$PWD\"; }} >'{self.state}'"
            script = f"{command}\nstatus=$?; {save_state}; exit $status"
            completed = subprocess.run(self.bash(script), check=False, **self.pipes())
            if shown:
                self.compare(block, shown, completed.stdout)
            may_fail = ERROR.search(shown)
            assert completed.returncode == 0 or may_fail, f"{self.file}:{block.line}: $ {command}\n{completed.stdout}"

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
        """Return the arguments to run *command* with the directory and the variables of the last one."""
        return ["bash", "-c", f". '{self.state}'\n{command}"]

    def pipes(self):
        """Return the options of each process of the page: programs of this Python first, no settings of the tests."""
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
        """Stop the last server, start a new one, and wait until it accepts connections."""
        self.stop_server()
        with self.log.open("w") as log:
            self.server = subprocess.Popen(self.bash(command), **self.pipes() | {"stdout": log}, start_new_session=True)
        deadline = time.monotonic() + SERVER_TIMEOUT
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            assert self.server.poll() is None, f"$ {command} ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, (
                f"$ {command} did not accept connections in time:\n{self.log.read_text()}"
            )
            time.sleep(0.02)

    def stop_server(self):
        """Stop the running server, if there is one."""
        if self.server:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.server.pid, signal.SIGTERM)
            self.server.wait()
            self.server = None

    def compare(self, block, shown, actual):
        """Raise if the actual output differs from the shown one."""
        if not doctest.OutputChecker().check_output(shown, actual, SAME):
            raise AssertionError(f"{self.file}:{block.line} shows\n{shown}\nbut the output is:\n{actual}")

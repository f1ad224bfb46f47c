"""Finds words that the project does not use: ``python -m tests.check_words [PATH …]``.

Names, docstrings, documentation, error messages and test names use the standard terms of the field. The words below
were the project's own for something that has a standard term; each line says which. `tox -e lint` fails when one of
them comes back.
"""

import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
KINDS = {".css", ".html", ".ini", ".js", ".md", ".py", ".sh", ".toml", ".yaml", ""}

WORDS = {
    # What must not come back (a regular expression): what to write in its place.
    r"the wall(?! time| clock)": "StorageBackend, the storage interface",
    r"doors?": "gateway",
    r"houses?|cages?": "layout, container, limit",
    r"deeds?|verbs?": "operation",
    r"wish(es)?": "payload, request",
    r"(the|a|every|each|another|some|any|which|remote|other|our) places?": "backend, service, server, position",
    r"(hidden|private|working) drafts?|drafts": "temporary file",
    r"patience|patient(ly)?|hasty|hastily": "time-out, cleanup client",
    r"lends?|lent|lending|borrow(s|ed|er|ing)?": "acquire, release, caller",
    r"promis(e(?![(.])|es|ed|ing)": "guarantee, expected size, expected checksum",
    r"nobody(?!\")|somebody|everybody|whoever|whomever|anybody": "the caller, the client, another process, an attacker",
    r"strangers?": "untrusted user, user-supplied",
    r"anew": "again, retry",
    r"meanwhile": "concurrently",
    r"overtak(e|es|en|ing)|overtook": "replaced concurrently",
    r"trickl(e|es|ing)": "slow response",
    r"upkeep": "maintenance",
    r"conversations?": "session",
    r"the seeds?": "keg-storage",
    r"(?<!importlib\.)machinery|grammar": "shared infrastructure, path rules",
    r"hang up|hung up|hangs up": "close the connection",
    r"in a hurry|impatient": "without fsync, short time-outs",
    r"ways in": "connection methods",
    r"a few words|words of the server": "messages",
    r"speak(s|ing)? (its|the|that|our) language|speaks? it": "is compatible with",
}
_GROUPS = (rf"(?P<w{number}>(?<![A-Za-z])(?:{word})(?![A-Za-z]))" for number, word in enumerate(WORDS))
_PATTERN = re.compile("|".join(_GROUPS), re.IGNORECASE)
_ADVICE = dict(enumerate(WORDS.values()))


def findings(file: Path) -> list[str]:
    """Return a line for each word in *file* that is not to be used."""
    found = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        for match in _PATTERN.finditer(line):
            assert match.lastgroup
            advice = _ADVICE[int(match.lastgroup[1:])]
            found.append(f"{file.relative_to(PROJECT)}:{number}: {match[0]!r}: write {advice}")
    return found


def main(arguments: list[str]) -> int:
    """Print what is found in the files of the repository below the paths in *arguments*; return 1 if there is any."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *arguments]
    names = subprocess.run(listed, cwd=PROJECT, check=True, capture_output=True, text=True).stdout.splitlines()
    files = [PROJECT / name for name in names if Path(name).suffix in KINDS]
    found = [
        line
        for file in files
        if file != Path(__file__) and file.is_file() and file.name != "LICENSE"
        for line in findings(file)
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
